//! File handles: names of inodes that no rename changes.

use std::ffi::{CString, OsStr};
use std::hash::{Hash, Hasher};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use crate::sys::{self, MAX_HANDLE_BYTES, RawHandle};

/// Which file system: `f_fsid` of statfs(2), as events carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilesystemId(pub u64);

impl FilesystemId {
    /// The file system of an open file.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn of(file: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self(rustix::fs::fstatvfs(file)?.f_fsid))
    }
}

/// A handle in an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HandleRef<'a> {
    /// The file system.
    pub filesystem: FilesystemId,
    /// The form of the bytes, which only the file system understands.
    pub kind: i32,
    /// The handle.
    pub bytes: &'a [u8],
}

/// Bytes of a handle that need no memory of their own; most file systems use 8 to 16.
const INLINE_BYTES: usize = 24;

#[derive(Debug, Clone)]
enum Bytes {
    Inline(u8, [u8; INLINE_BYTES]),
    Long(Box<[u8]>),
}

/// A handle.
#[derive(Debug, Clone)]
pub struct Handle {
    filesystem: FilesystemId,
    kind: i32,
    bytes: Bytes,
}

impl Handle {
    /// The handle as events carry it.
    #[must_use]
    pub fn as_ref(&self) -> HandleRef<'_> {
        let bytes = match &self.bytes {
            Bytes::Inline(length, bytes) => &bytes[..usize::from(*length)],
            Bytes::Long(bytes) => bytes,
        };
        HandleRef { filesystem: self.filesystem, kind: self.kind, bytes }
    }
}

impl From<HandleRef<'_>> for Handle {
    fn from(handle: HandleRef<'_>) -> Self {
        let length = handle.bytes.len();
        let bytes = match u8::try_from(length) {
            Ok(short) if length <= INLINE_BYTES => {
                let mut bytes = [0; INLINE_BYTES];
                bytes[..length].copy_from_slice(handle.bytes);
                Bytes::Inline(short, bytes)
            }
            _ => Bytes::Long(handle.bytes.into()),
        };
        Self { filesystem: handle.filesystem, kind: handle.kind, bytes }
    }
}

impl PartialEq for Handle {
    fn eq(&self, other: &Self) -> bool {
        self.as_ref() == other.as_ref()
    }
}

impl Eq for Handle {}

impl Hash for Handle {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_ref().hash(state);
    }
}

/// The handle of a name in a directory, without following a link; of the directory itself when the name is empty.
///
/// # Errors
/// When there is none, or the file system has no handles (`EOPNOTSUPP`).
pub fn handle_of(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<Handle> {
    let flags = if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
    let (raw, _) = sys::name_to_handle(directory, &CString::new(name.as_bytes())?, flags)?;
    let length = usize::try_from(raw.length).unwrap_or(MAX_HANDLE_BYTES).min(MAX_HANDLE_BYTES);
    let filesystem = FilesystemId::of(directory)?;
    Ok(HandleRef { filesystem, kind: raw.kind, bytes: &raw.bytes[..length] }.into())
}

/// Opens what a handle names, only to ask about it (`O_PATH`). `mount` is any open file on its file system; the path of
/// what is opened is the one that is seen through that mount.
///
/// # Errors
/// `ESTALE` when it does not exist any more, `EPERM` without `CAP_DAC_READ_SEARCH`.
pub fn open_handle(mount: BorrowedFd<'_>, handle: HandleRef<'_>) -> io::Result<OwnedFd> {
    let mut raw = RawHandle { length: 0, kind: handle.kind, bytes: [0; MAX_HANDLE_BYTES] };
    let Some(room) = raw.bytes.get_mut(..handle.bytes.len()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    room.copy_from_slice(handle.bytes);
    raw.length = u32::try_from(handle.bytes.len()).unwrap_or_default();
    sys::open_by_handle(mount, &mut raw, libc::O_PATH | libc::O_CLOEXEC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_equal_by_what_they_name_whatever_their_length() {
        let short = HandleRef { filesystem: FilesystemId(1), kind: 1, bytes: &[1; 8] };
        let long = HandleRef { bytes: &[1; 100], ..short };

        assert_eq!(Handle::from(short).as_ref(), short);
        assert_eq!(Handle::from(long).as_ref(), long);
        assert_ne!(Handle::from(short), Handle::from(HandleRef { kind: 2, ..short }));
        assert_ne!(Handle::from(short), Handle::from(long));
    }

    #[test]
    fn a_handle_longer_than_any_is_refused() {
        use std::os::fd::AsFd;
        let root = std::fs::File::open("/").unwrap();
        let handle = HandleRef { filesystem: FilesystemId(1), kind: 1, bytes: &[1; 200] };

        assert_eq!(open_handle(root.as_fd(), handle).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
