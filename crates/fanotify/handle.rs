//! File handles: names of objects that survive renames, and are the same in events and on the disk.

use std::ffi::OsStr;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::sys;

/// Bytes of a handle that are kept without an allocation: ext4 takes 8, tmpfs and XFS 12, btrfs 20.
const INLINE_BYTES: usize = 24;

/// Identity of a mounted file system (`f_fsid` of statfs(2)). Some file systems get another one with each mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilesystemId(u64);

impl FilesystemId {
    /// The file system that an open object is on.
    ///
    /// # Errors
    /// Those of fstatfs(2).
    pub fn of(object: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self(rustix::fs::fstatvfs(object)?.f_fsid))
    }

    /// From `__kernel_fsid_t`, two integers; put together as statvfs(3) does.
    pub(crate) fn from_words([low, high]: [u32; 2]) -> Self {
        Self(u64::from(low) | (u64::from(high) << 32))
    }

    #[cfg(test)]
    pub(crate) fn words(self) -> [u32; 2] {
        [self.0 as u32, (self.0 >> 32) as u32]
    }
}

/// A handle inside of an event. Only the file system that made it understands its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HandleRef<'a> {
    /// The file system.
    pub filesystem: FilesystemId,
    /// How the file system made the bytes (`handle_type`).
    pub kind: i32,
    /// At most 128. None in a [`crate::FilesystemError`] that is about no object.
    pub bytes: &'a [u8],
}

/// A handle to keep. 40 bytes, and no allocation for the file systems that are common.
#[derive(Clone)]
pub struct Handle {
    filesystem: FilesystemId,
    object: Object,
}

#[derive(Clone)]
enum Object {
    Inline { length: u8, kind: i32, bytes: [u8; INLINE_BYTES] },
    Boxed { kind: i32, bytes: Box<[u8]> },
}

impl Handle {
    /// The same, borrowed.
    #[must_use]
    pub(crate) fn as_handle_ref(&self) -> HandleRef<'_> {
        let (kind, bytes) = match &self.object {
            Object::Inline { length, kind, bytes } => {
                (kind, bytes.get(..usize::from(*length)).unwrap_or(bytes))
            }
            Object::Boxed { kind, bytes } => (kind, &bytes[..]),
        };
        HandleRef { filesystem: self.filesystem, kind: *kind, bytes }
    }

    /// The file system that the object is on.
    #[must_use]
    pub fn filesystem(&self) -> FilesystemId {
        self.filesystem
    }
}

impl From<HandleRef<'_>> for Handle {
    fn from(HandleRef { filesystem, kind, bytes }: HandleRef<'_>) -> Self {
        let mut inline = [0; INLINE_BYTES];
        let object = match (inline.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(room), Ok(length)) => {
                room.copy_from_slice(bytes);
                Object::Inline { length, kind, bytes: inline }
            }
            _ => Object::Boxed { kind, bytes: bytes.into() },
        };
        Self { filesystem, object }
    }
}

impl PartialEq for Handle {
    fn eq(&self, other: &Self) -> bool {
        self.as_handle_ref() == other.as_handle_ref()
    }
}

impl Eq for Handle {}

impl PartialEq<HandleRef<'_>> for Handle {
    fn eq(&self, other: &HandleRef<'_>) -> bool {
        self.as_handle_ref() == *other
    }
}

impl Hash for Handle {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_handle_ref().hash(state);
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_handle_ref().fmt(formatter)
    }
}

/// A handle, and what it is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Can be opened by [`open_handle`].
    Openable(Handle),
    /// Tells the object from others as long as it is in use, and is the one in events; it cannot be opened. Where
    /// the file system has no better (overlayfs), from Linux 6.5.
    Comparable(Handle),
}

impl Identity {
    /// The handle, whatever it is good for.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        match self {
            Self::Openable(handle) | Self::Comparable(handle) => handle,
        }
    }

    /// The handle, whatever it is good for.
    #[must_use]
    pub fn into_handle(self) -> Handle {
        match self {
            Self::Openable(handle) | Self::Comparable(handle) => handle,
        }
    }
}

/// The handle of what a name in a directory stands for; of the open object itself when the name is empty.
///
/// A link is not followed. A mount point stands for what is mounted there.
///
/// # Errors
/// Those of openat(2) and name_to_handle_at(2); `EOPNOTSUPP` where the file system has no handles at all.
pub fn handle_of(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<Identity> {
    if name.is_empty() {
        return identity_of(directory);
    }
    // Opened, and not asked by name: both questions must be about the same object, and it may be on another file
    // system than the directory.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let object = rustix::fs::openat(directory, name, flags, Mode::empty())?;
    identity_of(object.as_fd())
}

fn identity_of(object: BorrowedFd<'_>) -> io::Result<Identity> {
    let filesystem = FilesystemId::of(object)?;
    let owned = |handle: &sys::FileHandle| {
        Handle::from(HandleRef { filesystem, kind: handle.kind(), bytes: handle.bytes() })
    };
    match sys::name_to_handle_at(object, 0) {
        Ok(handle) => Ok(Identity::Openable(owned(&handle))),
        Err(no_handles) if no_handles.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            match sys::name_to_handle_at(object, libc::AT_HANDLE_FID) {
                Ok(handle) => Ok(Identity::Comparable(owned(&handle))),
                // A kernel that does not know the flag says EINVAL, which would mislead.
                Err(_) => Err(no_handles),
            }
        }
        Err(error) => Err(error),
    }
}

/// Opens an object by its handle, for reference only (`O_PATH`): for fstat(2), readlink(2) of `/proc/self/fd/N`,
/// or as the directory of openat(2). Takes CAP_DAC_READ_SEARCH.
///
/// `mount` is any open object of the same file system (not `O_PATH`); the path of what is opened begins at that
/// mount.
///
/// # Errors
/// `ESTALE` when the object is gone or the handle is of another file system, and those of open_by_handle_at(2).
pub fn open_handle(mount: BorrowedFd<'_>, handle: &Handle) -> io::Result<OwnedFd> {
    let HandleRef { kind, bytes, .. } = handle.as_handle_ref();
    sys::open_by_handle_at(mount, kind, bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_handle_is_small() {
        assert!(size_of::<Handle>() <= 40, "{} bytes", size_of::<Handle>());
    }

    fn parts() -> impl Strategy<Value = (u32, u32, i32, Vec<u8>)> {
        // Few values, so that equal ones are met as well.
        (0..2_u32, 0..2_u32, 0..2_i32, proptest::collection::vec(0..2_u8, 0..30))
    }

    proptest! {
        #[test]
        fn a_handle_to_keep_is_what_it_was_made_from((low, high, kind, bytes) in parts()) {
            let filesystem = FilesystemId::from_words([low, high]);
            let borrowed = HandleRef { filesystem, kind, bytes: &bytes };

            let handle = Handle::from(borrowed);

            prop_assert_eq!(handle.as_handle_ref(), borrowed);
            prop_assert_eq!(filesystem.words(), [low, high]);
            prop_assert_eq!(handle.filesystem(), filesystem);
        }

        #[test]
        fn handles_are_found_in_maps_and_differ_where_their_parts_do(one in parts(), other in parts()) {
            let handle = |(low, high, kind, bytes): &(u32, u32, i32, Vec<u8>)| {
                Handle::from(HandleRef { filesystem: FilesystemId::from_words([*low, *high]), kind: *kind, bytes })
            };
            let map = HashMap::from([(handle(&one), ())]);

            prop_assert!(map.contains_key(&handle(&one)));
            prop_assert_eq!(map.contains_key(&handle(&other)), one == other);
        }
    }
}
