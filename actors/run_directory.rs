//! The agent's directories, and the lock that keeps a second agent out of them.
//!
//! There is no file with a process id that could be stale or mean somebody else: the lock is held by the open
//! file and ends with the process, however that ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
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
    #[error("another agent runs on {path:?}: {holder}")]
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
        fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(unusable)?;
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
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK_NAME))
            .map_err(unusable)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                write_holder(&mut lock).map_err(unusable)?;
                Ok(Self { _lock: lock })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                Err(DirectoryError::Held { path: path.to_owned(), holder: read_holder(&mut file) })
            }
            Err((_, errno)) => Err(unusable(errno.into())),
        }
    }
}

/// Notes who holds the lock, for the message of the one who comes second.
fn write_holder(file: &mut File) -> io::Result<()> {
    let holder =
        format!("process {} since {}\n", std::process::id(), jiff::Timestamp::now().strftime("%FT%TZ"));
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(holder.as_bytes())
}

fn read_holder(file: &mut File) -> String {
    let mut holder = String::new();
    match file.take(200).read_to_string(&mut holder) {
        Ok(_) if !holder.trim().is_empty() => holder.trim().to_owned(),
        _ => "it has not said which".to_owned(),
    }
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
