//! Changes of files, each with its stated durability.
//!
//! | call | after `kill -9` | after a power loss |
//! |---|---|---|
//! | [`replace`] with [`Durability::Process`] | old or new content, whole | old, new, or an empty file |
//! | [`replace`] with [`Durability::Power`] | old or new content, whole | the new content, once it has returned |
//! | [`replace_shared`] | as [`replace`] | as [`replace`] |
//! | [`DurableFile::write_at`], [`DurableFile::append`] | kept | lost, torn at any 512-byte sector, or zeros |
//! | [`DurableFile::sync`] after them | kept | kept, if the file's name is |
//! | `create`, [`rename`], [`remove`] | kept | kept or undone |
//! | [`sync_directory`] after them | kept | kept |
//!
//! Where [`crate::remote`] is installed, another process makes the changes, so that a file system that hangs does not
//! hold this one.
//!
//! After [`DurableFile::sync`] has failed once, the file must not be synced again: the kernel has marked its pages as
//! clean, and the next call would succeed without having written them. [`DurableFile`] refuses it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::remote::{Order, change};

/// What a change has to survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The end of this process at any moment.
    Process,
    /// The loss of power as well.
    Power,
}

/// How a file that is held open relates to the name that it was opened under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is there, as long as we left it.
    Intact,
    /// It is there, and shorter or longer than we left it.
    Resized {
        /// Its length in bytes.
        length: u64,
    },
    /// The name leads to nothing, or to another file.
    Replaced,
}

/// A file that is open for writing, with the length that we gave it.
#[derive(Debug)]
pub struct DurableFile {
    file: File,
    path: PathBuf,
    length: u64,
    sync_failed: bool,
    #[cfg(feature = "recording")]
    id: u64,
}

/// Tells a recording test of a change before it is made; an error means that it must not be made.
macro_rules! record {
    ($change:expr) => {
        #[cfg(feature = "recording")]
        crate::recording::note($change)?;
    };
}

pub(crate) fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // A FIFO must not hold up whoever opens it, and a link leads elsewhere than we think.
    options
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_NOFOLLOW).bits());
    options
}

impl DurableFile {
    /// Makes a new file with mode 0600.
    ///
    /// # Errors
    /// When it exists, or cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        record!(crate::recording::Change::Create(path));
        change(Order::Create(path))?;
        Self::of(options().open(path)?, path)
    }

    /// Opens a file, which is made with mode 0600 when it is not there.
    ///
    /// # Errors
    /// When it is no regular file, or cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        if !path.exists() {
            match Self::create(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made,
            }
        }
        Self::of(options().open(path)?, path)
    }

    fn of(file: File, path: &Path) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            length: metadata.len(),
            sync_failed: false,
            #[cfg(feature = "recording")]
            id: crate::recording::identity(path),
        })
    }

    /// The name that it was opened under.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length as far as we know, in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Writes at a place.
    ///
    /// # Errors
    /// When it cannot be written to disk; a part may have been written.
    pub fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        record!(crate::recording::Change::Write { file: self.id, offset, bytes });
        change(Order::Write(&self.file, offset, bytes))?;
        self.length = self.length.max(offset + bytes.len() as u64);
        Ok(())
    }

    /// Writes at the end that we know of. After an error the file may be longer than [`DurableFile::length`]; see
    /// [`DurableFile::cut`].
    ///
    /// # Errors
    /// When it cannot be written to disk.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_at(bytes, self.length)
    }

    /// Cuts off what is after `length`, or fills up to it with zeros.
    ///
    /// # Errors
    /// When it cannot be written to disk.
    pub fn cut(&mut self, length: u64) -> io::Result<()> {
        record!(crate::recording::Change::SetLength { file: self.id, length });
        change(Order::SetLength(&self.file, length))?;
        self.length = length;
        Ok(())
    }

    /// Returns when everything written is on disk.
    ///
    /// # Errors
    /// When it is not. What was written since the last success may be lost, and a second call would lie: it fails
    /// always, and the content has to be written to another file.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.sync_failed {
            return Err(io::Error::other("an earlier fsync of this file failed, it cannot be trusted again"));
        }
        let synced = self.sync_once();
        self.sync_failed = synced.is_err();
        synced
    }

    fn sync_once(&self) -> io::Result<()> {
        record!(crate::recording::Change::Sync { file: self.id });
        change(Order::Sync(&self.file))
    }

    /// Gives the file another name, under which it is known from then on; what was there goes.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn rename(&mut self, to: &Path) -> io::Result<()> {
        rename(&self.path, to)?;
        self.path = to.to_owned();
        Ok(())
    }

    /// Whether a sync has failed, after which the file can only be left behind.
    #[must_use]
    pub fn sync_failed(&self) -> bool {
        self.sync_failed
    }

    /// Whether the file is still the one that its name leads to, as long as we left it.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn standing(&self) -> io::Result<Standing> {
        let held = self.file.metadata()?;
        let named = match fs::symlink_metadata(&self.path) {
            Ok(named) => named,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Standing::Replaced);
            }
            Err(error) => return Err(error),
        };
        if (held.dev(), held.ino()) != (named.dev(), named.ino()) {
            return Ok(Standing::Replaced);
        }
        Ok(if held.len() == self.length {
            Standing::Intact
        } else {
            Standing::Resized { length: held.len() }
        })
    }
}

/// Appends; there is nothing to flush.
impl Write for DurableFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.append(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes a directory with mode 0700, and those above it.
///
/// # Errors
/// When it is not there afterwards.
pub fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    record!(crate::recording::Change::MakeDirectory(path));
    change(Order::MakeDirectory(path))
}

pub(crate) fn make_directory_here(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Gives a file another name; what was there under it goes.
///
/// # Errors
/// When the system refuses.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    record!(crate::recording::Change::Rename(from, to));
    change(Order::Rename(from, to))
}

/// Deletes a file.
///
/// # Errors
/// When the system refuses.
pub fn remove(path: &Path) -> io::Result<()> {
    record!(crate::recording::Change::Remove(path));
    change(Order::Remove(path))
}

/// Returns when the names in a directory are on disk.
///
/// # Errors
/// When they are not.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    record!(crate::recording::Change::SyncDirectory(path));
    change(Order::SyncDirectory(path))
}

/// The directory that a path is in.
#[must_use]
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Puts a file with mode 0600 and this content in the place of `path`, whole or not at all. Only one process at a time
/// may do so: it writes `path` with `.new` at its end first.
///
/// # Errors
/// When it cannot be written to disk; what was there before stays.
pub fn replace(path: &Path, content: &[u8], durability: Durability) -> io::Result<()> {
    replace_by(path, ".new", 0o600, content, durability)
}

/// [`replace`] for a file that several processes may replace at the same time; the last one stays. `mode` is its mode.
/// What a crash leaves beside it is not cleared away.
///
/// # Errors
/// As [`replace`].
pub fn replace_shared(path: &Path, mode: u32, content: &[u8], durability: Durability) -> io::Result<()> {
    replace_by(path, &format!(".{}.new", std::process::id()), mode, content, durability)
}

fn replace_by(path: &Path, end: &str, mode: u32, content: &[u8], durability: Durability) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(end);
    let new = path.with_file_name(name);
    let written = write_beside(&new, mode, content, durability).and_then(|()| rename(&new, path));
    if written.is_err() {
        // What is left of it would only be in the way; it is made anew the next time in any case.
        change(Order::Remove(&new)).ok();
        return written;
    }
    match durability {
        Durability::Process => Ok(()),
        // Without it a power loss undoes the rename, on ext4 and on xfs.
        Durability::Power => sync_directory(parent(path)),
    }
}

fn write_beside(new: &Path, mode: u32, content: &[u8], durability: Durability) -> io::Result<()> {
    match remove(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = DurableFile::create(new)?;
    if mode != 0o600 {
        fs::set_permissions(new, fs::Permissions::from_mode(mode))?;
    }
    file.append(content)?;
    match durability {
        Durability::Process => Ok(()),
        Durability::Power => file.sync(),
    }
}

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
/// When it cannot be read, is no regular file, or is larger.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path)?;
    let too_large =
        || io::Error::new(io::ErrorKind::InvalidData, format!("larger than its limit of {limit} bytes"));
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    if metadata.len() > limit {
        return Err(too_large());
    }
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit { Err(too_large()) } else { Ok(content) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_has_the_new_content_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(directory.path().join("file.new"), "left by a crash").unwrap();

        for (text, durability) in [("one", Durability::Process), ("two", Durability::Power)] {
            replace(&path, text.as_bytes(), durability).unwrap();
            assert_eq!(read_bounded(&path, 3).unwrap(), text.as_bytes());
        }

        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(read_bounded(&path, 2).is_err());
        assert!(read_bounded(directory.path(), 1 << 20).is_err());
    }

    #[test]
    fn a_file_that_many_replace_at_once_is_always_whole_and_has_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");

        replace_shared(&path, 0o644, b"text", Durability::Process).unwrap();

        assert_eq!(fs::read(&path).unwrap(), b"text");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_others_did_to_an_open_file_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut file = DurableFile::create(&path).unwrap();
        file.append(b"12345").unwrap();
        assert_eq!(file.standing().unwrap(), Standing::Intact);

        OpenOptions::new().write(true).open(&path).unwrap().set_len(2).unwrap();
        assert_eq!(file.standing().unwrap(), Standing::Resized { length: 2 });

        fs::remove_file(&path).unwrap();
        assert_eq!(file.standing().unwrap(), Standing::Replaced);
        fs::write(&path, "12345").unwrap();
        assert_eq!(file.standing().unwrap(), Standing::Replaced);
    }

    #[test]
    fn a_link_is_not_written_through() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        fs::write(&target, "mine").unwrap();
        let path = directory.path().join("link");
        std::os::unix::fs::symlink(&target, &path).unwrap();

        assert!(DurableFile::open(&path).is_err());
        assert!(DurableFile::create(&path).is_err());
        replace(&path, b"new", Durability::Power).unwrap();

        assert_eq!(fs::read_to_string(&target).unwrap(), "mine");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }
}
