//! What is known of one object in the file system.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::extended::ExtendedAttributes;

/// Longest target of a link that is kept as it is, in bytes.
const TARGET_BYTES: usize = 256;

/// Bytes that are kept of a longer one. Shown with its digest it is longer than any that is kept as it is.
const BEGINNING_BYTES: usize = 192;

/// What kind of object it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
}

impl Kind {
    /// The kind in words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Link => "symbolic link",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::CharacterDevice => "character device",
            Self::BlockDevice => "block device",
        }
    }
}

/// A time of the file system: since 1970 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Whole seconds.
    pub seconds: i64,
    /// Nanoseconds, below a thousand million.
    pub nanoseconds: u32,
}

/// Why the content of a regular file was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotRead {
    /// The rule of its path asks for metadata only.
    MetadataOnly,
    /// It is larger than the rule of its path allows to be hashed.
    TooLarge,
    /// Reading failed with this error number.
    Failed(i32),
    /// It changed during every attempt to read it: somebody writes to it.
    OpenForWriting,
    /// It is large: it is being read, and its digest follows.
    BeingRead,
}

impl NotRead {
    /// Whether its content will be read, as soon as that is possible.
    #[must_use]
    pub(crate) fn is_for_now(self) -> bool {
        matches!(self, Self::Failed(_) | Self::OpenForWriting | Self::BeingRead)
    }
}

/// What an object holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Content {
    /// Nothing that is compared: a directory, a FIFO, a socket, a device.
    None,
    /// A regular file, by the SHA-256 of what is in it.
    Digest([u8; 32]),
    /// A regular file that is mostly holes, by the SHA-256 of its data and where they stand (`sha256-sparse-1`).
    Sparse([u8; 32]),
    /// A regular file of which it is not known what it holds now. It was read before, when it held `last`.
    Unknown {
        /// What it held.
        last: Box<Content>,
        /// Why it was not read.
        why: NotRead,
    },
    /// A regular file that was not read.
    NotRead(NotRead),
    /// Where a symbolic link points, as it is written there.
    Target(PathBuf),
    /// The same of a link that points to a long path.
    LongTarget(Box<LongTarget>),
}

/// What is kept of a long target of a link.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LongTarget {
    /// Its beginning.
    pub beginning: PathBuf,
    /// How long it is, in bytes.
    pub length: u64,
    /// Its SHA-256.
    pub sha256: [u8; 32],
}

impl Content {
    /// What is kept of the target of a link.
    #[must_use]
    pub fn target(mut bytes: Vec<u8>) -> Self {
        if bytes.len() <= TARGET_BYTES {
            return Self::Target(PathBuf::from(OsString::from_vec(bytes)));
        }
        let (length, sha256) = (bytes.len() as u64, Sha256::digest(&bytes).into());
        bytes.truncate(BEGINNING_BYTES);
        bytes.shrink_to_fit();
        let beginning = PathBuf::from(OsString::from_vec(bytes));
        Self::LongTarget(Box::new(LongTarget { beginning, length, sha256 }))
    }

    /// What was read last, now or before.
    #[must_use]
    pub(crate) fn last_read(&self) -> Option<&Self> {
        match self {
            Self::Digest(_) | Self::Sparse(_) => Some(self),
            Self::Unknown { last, .. } => Some(last),
            Self::None | Self::NotRead(_) | Self::Target(_) | Self::LongTarget(_) => None,
        }
    }

    /// Why it was not read.
    #[must_use]
    pub fn not_read(&self) -> Option<NotRead> {
        match self {
            Self::NotRead(why) | Self::Unknown { why, .. } => Some(*why),
            Self::None | Self::Digest(_) | Self::Sparse(_) | Self::Target(_) | Self::LongTarget(_) => None,
        }
    }

    /// Whether nobody knows what is in it, and it is to be read.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.not_read().is_some_and(NotRead::is_for_now)
    }

    /// This content, remembering what was read `before` when it was not read.
    #[must_use]
    pub(crate) fn remembering(self, before: Option<&Self>) -> Self {
        match (self, before.and_then(Self::last_read)) {
            (Self::NotRead(why), Some(last)) if why.is_for_now() => {
                Self::Unknown { last: Box::new(last.clone()), why }
            }
            (content, _) => content,
        }
    }
}

/// Inode flags that are kept, as in `stx_attributes` of statx(2).
pub mod flag {
    /// `STATX_ATTR_COMPRESSED`
    pub(crate) const COMPRESSED: u32 = 0x4;
    /// `STATX_ATTR_IMMUTABLE`: nobody can change, rename or remove it (`chattr +i`).
    pub const IMMUTABLE: u32 = 0x10;
    /// `STATX_ATTR_APPEND`: it can only grow (`chattr +a`).
    pub(crate) const APPEND_ONLY: u32 = 0x20;
    /// `STATX_ATTR_NODUMP`
    pub(crate) const NO_DUMP: u32 = 0x40;
    /// `STATX_ATTR_ENCRYPTED`
    pub(crate) const ENCRYPTED: u32 = 0x800;
    /// `STATX_ATTR_VERITY`: the kernel verifies every read (fs-verity).
    pub(crate) const VERITY: u32 = 0x0010_0000;
    /// All that are kept.
    pub const ALL: u32 = COMPRESSED | IMMUTABLE | APPEND_ONLY | NO_DUMP | ENCRYPTED | VERITY;
}

/// One object as it is known. Directories have neither size, nor times, nor a number of links here: these change with
/// what is in them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Object {
    /// Its kind.
    pub kind: Kind,
    /// The permission bits with setuid, setgid and sticky: 0 to 0o7777.
    pub permissions: u16,
    /// User id of the owner.
    pub owner: u32,
    /// Group id.
    pub group: u32,
    /// Bytes in a regular file.
    pub size: u64,
    /// When its content changed last.
    pub modified: Timestamp,
    /// When its inode changed last; never compared for its own sake, but it says that the rest must be looked at.
    pub changed: Timestamp,
    /// Number of the device that holds it.
    pub device: u64,
    /// Number of the inode on that device.
    pub inode: u64,
    /// Number of names that the inode has.
    pub links: u32,
    /// Number of the device that a device node stands for.
    pub special: u64,
    /// Inode flags, see [`flag`].
    pub flags: u32,
    /// What it holds.
    pub content: Content,
    /// Its extended attributes.
    pub extended: ExtendedAttributes,
}
