//! What is known of one object in the file system, and how it is read without being led astray.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use sha2::{Digest, Sha256};

/// Times that a file is read again because it changed while it was read.
const READ_ATTEMPTS: usize = 3;

/// Bytes that are read at a time.
const READ_BYTES: usize = 128 * 1024;

/// The content of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A regular file, by the SHA-256 of what is in it.
    File([u8; 32]),
    /// A regular file that could not be read, and why.
    Unreadable(String),
    /// A symbolic link and where it points.
    Link(PathBuf),
    /// Anything else that is not a directory: `fifo`, `socket`, `character device`, `block device`.
    Special(&'static str),
}

/// When a file was as it is known: as long as none of this changes, it does not have to be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// One object as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// What it holds.
    pub content: Content,
    /// When that was so.
    pub stamp: Stamp,
}

impl Object {
    /// Whether nothing says that the object at `path` is another one, without reading it.
    #[must_use]
    pub fn is_untouched(&self, path: &Path) -> bool {
        let readable = !matches!(self.content, Content::Unreadable(_));
        readable && path.symlink_metadata().is_ok_and(|metadata| Stamp::of(&metadata) == self.stamp)
    }
}

/// What was found at a path.
#[derive(Debug)]
pub enum Found {
    /// Nothing.
    Missing,
    /// A directory.
    Directory,
    /// Something with content.
    Object(Object),
    /// A file that was changing all the time while it was read; look again later.
    Busy,
}

/// Looks at `path` without following a link at its end.
///
/// # Errors
/// When it cannot even be looked at, for example because a directory above it cannot be entered.
pub fn look(path: &Path) -> io::Result<Found> {
    let metadata = match path.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if is_missing(&error) => return Ok(Found::Missing),
        Err(error) => return Err(error),
    };
    let stamp = Stamp::of(&metadata);
    if metadata.is_dir() {
        return Ok(Found::Directory);
    }
    let kind = metadata.file_type();
    let content = if kind.is_symlink() {
        match std::fs::read_link(path) {
            Ok(target) => Content::Link(target),
            Err(error) if is_missing(&error) => return Ok(Found::Missing),
            Err(error) => Content::Unreadable(error.to_string()),
        }
    } else if kind.is_file() {
        return read(path, stamp);
    } else if kind.is_fifo() {
        Content::Special("fifo")
    } else if kind.is_socket() {
        Content::Special("socket")
    } else if kind.is_char_device() {
        Content::Special("character device")
    } else {
        Content::Special("block device")
    };
    Ok(Found::Object(Object { content, stamp }))
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Hashes a regular file. The digest is of the file as it was at one moment: when it changed while it was read,
/// it is read again.
fn read(path: &Path, mut stamp: Stamp) -> io::Result<Found> {
    for _ in 0..READ_ATTEMPTS {
        // O_NONBLOCK: between the look and the opening a FIFO may have taken the file's place, and opening one
        // would wait for a writer for ever.
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY;
        let mut file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
            Ok(file) => file,
            Err(error) if is_missing(&error) => return Ok(Found::Missing),
            // Something else has taken its place.
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ELOOP as i32) => {
                return Ok(Found::Busy);
            }
            Err(error) => return Ok(unreadable(&error, stamp)),
        };
        let before = file.metadata()?;
        if !before.is_file() {
            return Ok(Found::Busy);
        }
        stamp = Stamp::of(&before);
        match digest(&mut file) {
            Ok(digest) if Stamp::of(&file.metadata()?) == stamp => {
                return Ok(Found::Object(Object { content: Content::File(digest), stamp }));
            }
            Ok(_) => {}
            Err(error) => return Ok(unreadable(&error, stamp)),
        }
    }
    Ok(Found::Busy)
}

fn unreadable(error: &io::Error, stamp: Stamp) -> Found {
    Found::Object(Object { content: Content::Unreadable(error.to_string()), stamp })
}

fn digest(file: &mut File) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(read) => hash.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A digest in lower-case hexadecimal.
#[must_use]
pub fn hex(digest: &[u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A path for people and JSON: what is not UTF-8 is shown as `\xNN`, so that two names never look the same.
#[must_use]
pub fn shown(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    bytes
        .utf8_chunks()
        .flat_map(|chunk| {
            let valid = chunk.valid().to_owned();
            let invalid: String = chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")).collect();
            [valid, invalid]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    fn object(path: &Path) -> Object {
        match look(path).unwrap() {
            Found::Object(object) => object,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_is_known_by_its_digest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "abc").unwrap();

        let Content::File(digest) = object(&path).content else { panic!() };

        // FIPS 180-2, appendix B.1.
        assert_eq!(hex(&digest), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_fifo_and_a_link_are_seen_for_what_they_are_and_never_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/nowhere", &link).unwrap();

        assert_eq!(object(&fifo).content, Content::Special("fifo"));
        assert_eq!(object(&link).content, Content::Link("/nowhere".into()));
        assert!(matches!(look(directory.path()).unwrap(), Found::Directory));
        assert!(matches!(look(&directory.path().join("no")).unwrap(), Found::Missing));
        assert!(matches!(look(&fifo.join("below")).unwrap(), Found::Missing));
    }

    #[test]
    fn names_that_are_not_utf8_stay_apart() {
        let shown = |bytes: &[u8]| shown(Path::new(OsStr::from_bytes(bytes)));

        assert_eq!(shown(b"/a/\xff"), "/a/\\xff");
        assert_eq!(shown("/é".as_bytes()), "/é");
        assert_ne!(shown(b"/a/\xff"), shown(b"/a/\xfe"));
    }
}
