//! The agent's directories, and the lock that keeps a second agent out of them.
//!
//! There is no file with a process id that could be stale or mean somebody else: the lock is held by the open file and
//! ends with the process, however that ends. Locking writes nothing, because a disk that hangs must not keep\n//! an
//! agent from its start.

#![expect(clippy::disallowed_methods, reason = "called before the actors run")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Name of the lock in a directory.
const LOCK_NAME: &str = "agent.lock";

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It cannot be made or changed.
    #[error("cannot use the directory {path:?}")]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It belongs to somebody else.
    #[error(
        "directory {path:?} belongs to user {found}, not to {expected}; choose another one or change its owner"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: u32,
        /// Whose it has to be.
        expected: u32,
    },
    /// Another agent holds the lock.
    #[error("another agent uses {path:?}: {holder}")]
    Held {
        /// The directory.
        path: PathBuf,
        /// What the other agent says of itself.
        holder: String,
    },
}

/// A directory that only this agent uses, until this is dropped or the process ends.
#[derive(Debug)]
pub struct LockedDirectory {
    _lock: Flock<File>,
}

impl LockedDirectory {
    /// Makes the directory with `mode` if it is not there, sees that it is the agent's own, and locks it.
    ///
    /// # Errors
    /// When it cannot be used, or another agent uses it.
    pub fn lock(path: &Path, mode: u32) -> Result<Self, DirectoryError> {
        let unusable = |source| DirectoryError::Unusable { path: path.to_owned(), source };
        // A frozen file system makes every order wait that could make something, also where it is there already.
        if !path.is_dir() {
            fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(unusable)?;
        }
        let metadata = fs::metadata(path).map_err(unusable)?;
        let own = nix::unistd::geteuid().as_raw();
        if metadata.uid() != own {
            return Err(DirectoryError::Foreign {
                path: path.to_owned(),
                found: metadata.uid(),
                expected: own,
            });
        }
        if metadata.mode() & 0o7777 != mode {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(unusable)?;
        }
        let lock = path.join(LOCK_NAME);
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        let file = match options.open(&lock) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => options.create(true).open(&lock),
            opened => opened,
        };
        let file = file.map_err(unusable)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { _lock: lock }),
            Err((file, Errno::EWOULDBLOCK)) => {
                Err(DirectoryError::Held { path: path.to_owned(), holder: holder(&file) })
            }
            Err((_, errno)) => Err(unusable(errno.into())),
        }
    }
}

/// Who holds the lock, by the kernel's list (proc_locks(5)); a note in the file would have to be written to a disk that
/// may hang.
fn holder(file: &File) -> String {
    let inode = file.metadata().map(|found| found.ino().to_string()).unwrap_or_default();
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    // `1: FLOCK  ADVISORY  WRITE 4321 08:01:262147 0 EOF`
    let pid = locks.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (kind, pid, file) = (fields.next()?, fields.nth(2)?, fields.next()?);
        (kind == "FLOCK" && file.rsplit(':').next() == Some(inode.as_str())).then(|| pid.to_owned())
    });
    pid.map_or_else(|| "its process is unknown".to_owned(), |pid| format!("process {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_told_who_was_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run");
        let first = LockedDirectory::lock(&path, 0o700).unwrap();

        let second = LockedDirectory::lock(&path, 0o700).unwrap_err().to_string();
        drop(first);

        assert!(second.contains(&format!("process {}", std::process::id())), "{second}");
        LockedDirectory::lock(&path, 0o700).unwrap();
    }

    #[test]
    fn a_directory_gets_its_mode_whatever_it_had() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();

        let _lock = LockedDirectory::lock(directory.path(), 0o700).unwrap();

        assert_eq!(fs::metadata(directory.path()).unwrap().mode() & 0o7777, 0o700);
    }
}
