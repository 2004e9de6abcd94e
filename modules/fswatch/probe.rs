//! The thread that makes files without names, for proofs: a file system that hangs stops nobody else.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use rustix::fs::{Mode, OFlags};

use crate::avoided::Avoided;
use crate::events::Mailbox;
use crate::look::open_directory;
use crate::state_files::create_anew;
use crate::workers::Report;

/// Makes a file without a name in a directory, opened for writing, and closes it. Nothing of the directory changes, and
/// nothing stays. Gives the file's inode: the kernel tells of it as `#INODE`.
fn make(directory: &Path, avoided: &Avoided) -> io::Result<u64> {
    let directory = open_directory(directory, avoided)?;
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&directory, ".", flags, Mode::RUSR | Mode::WUSR)?;
    Ok(rustix::fs::fstat(&file)?.st_ino)
}

/// The inode that the name of a file without one says.
#[must_use]
pub(crate) fn inode_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix('#')?.parse().ok()
}

/// Makes a directory that nobody else can enter, unless it is there.
///
/// # Errors
/// When it cannot be made, or something else stands there.
pub(crate) fn make_private(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let is_directory = fs::symlink_metadata(directory)?.is_dir();
            if is_directory { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
        }
        made => made,
    }
}

/// Replaces the canary. What its record tells of the baseline is on disk before.
fn replace(file: &Path, text: &str, baseline: Option<&Path>) -> io::Result<()> {
    if let Some(baseline) = baseline {
        File::open(baseline)?.sync_data()?;
    }
    let new = file.with_extension("new");
    create_anew(&new)?.write_all(text.as_bytes())?;
    fs::rename(&new, file)
}

/// What the thread is asked to do.
#[derive(Debug)]
enum Errand {
    Probe(PathBuf),
    Replace { file: PathBuf, text: String, baseline: Option<PathBuf> },
}

/// The way to the thread. It ends with it.
#[derive(Debug)]
pub(crate) struct Prober(mpsc::Sender<Errand>);

impl Prober {
    /// Starts the thread; answers go to `mailbox`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(mailbox: Mailbox, avoided: Avoided) -> io::Result<Self> {
        let (orders, received) = mpsc::channel();
        std::thread::Builder::new().name("prober".to_owned()).stack_size(64 * 1024).spawn(move || {
            for errand in received {
                mailbox.report(match errand {
                    Errand::Probe(at) => {
                        let made = make(&at, &avoided).map_err(|error| error.to_string());
                        Report::Probed { at, made }
                    }
                    Errand::Replace { file, text, baseline } => {
                        let made = replace(&file, &text, baseline.as_deref());
                        Report::Replaced(made.map_err(|error| error.to_string()))
                    }
                });
            }
        })?;
        Ok(Self(orders))
    }

    /// Makes a file in a directory; the answer is a [`Report::Probed`].
    pub(crate) fn probe(&self, directory: &Path) {
        // The thread ends with us only.
        self.0.send(Errand::Probe(directory.to_owned())).ok();
    }

    /// Replaces the canary, once the baseline is synced; the answer is a [`Report::Replaced`].
    pub(crate) fn replace(&self, file: PathBuf, text: String, baseline: Option<PathBuf>) {
        self.0.send(Errand::Replace { file, text, baseline }).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_name_changes_nothing_in_its_directory() {
        let temp = tempfile::tempdir().unwrap();
        let before = std::fs::metadata(temp.path()).unwrap().modified().unwrap();

        assert!(make(temp.path(), &Avoided::default()).unwrap() > 0);

        assert_eq!(std::fs::metadata(temp.path()).unwrap().modified().unwrap(), before);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
        assert!(make(&temp.path().join("none"), &Avoided::default()).is_err());
    }

    #[test]
    fn the_name_of_such_a_file_is_its_inode() {
        assert_eq!(inode_of(Path::new("/etc/#123")), Some(123));
        for path in ["/etc/123", "/etc/#", "/etc/#12x", "/"] {
            assert_eq!(inode_of(Path::new(path)), None);
        }
    }
}
