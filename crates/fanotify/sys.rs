//! The system calls that no safe crate wraps. Each function is one call.
#![expect(unsafe_code, reason = "nothing safe wraps fanotify, file handles or the priority of I/O")]

use std::ffi::{CString, c_int, c_long, c_uint};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Most bytes of a handle (`MAX_HANDLE_SZ` of the kernel).
pub(crate) const MAX_HANDLE_BYTES: usize = libc::MAX_HANDLE_SZ as usize;

/// `IOPRIO_WHO_PROCESS` of include/uapi/linux/ioprio.h; with id 0 it is the calling thread.
const IOPRIO_WHO_PROCESS: c_int = 1;
/// `IOPRIO_CLASS_IDLE` in the position of the class (`IOPRIO_CLASS_SHIFT`), of the same header.
const IOPRIO_IDLE: c_int = 3 << 13;

/// `struct file_handle` of open_by_handle_at(2) with room for the largest handle.
#[repr(C)]
pub(crate) struct FileHandle {
    handle_bytes: c_uint,
    handle_type: c_int,
    f_handle: [u8; MAX_HANDLE_BYTES],
}

impl FileHandle {
    fn empty() -> Self {
        Self { handle_bytes: MAX_HANDLE_BYTES as c_uint, handle_type: 0, f_handle: [0; MAX_HANDLE_BYTES] }
    }

    fn new(kind: i32, bytes: &[u8]) -> Option<Self> {
        let mut handle =
            Self { handle_bytes: bytes.len().try_into().ok()?, handle_type: kind, ..Self::empty() };
        handle.f_handle.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(handle)
    }

    pub(crate) fn kind(&self) -> i32 {
        self.handle_type
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        let length = usize::try_from(self.handle_bytes).unwrap_or(MAX_HANDLE_BYTES);
        self.f_handle.get(..length).unwrap_or(&self.f_handle)
    }
}

/// fanotify_init(2): opens a group.
pub(crate) fn fanotify_init(flags: c_uint) -> io::Result<OwnedFd> {
    // How the kernel would open what it passes on; nothing, as long as the group reports handles.
    let event_flags = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_LARGEFILE) as c_uint;
    // SAFETY: takes two numbers, touches no memory of ours.
    let descriptor = unsafe { libc::fanotify_init(flags, event_flags) };
    check(descriptor)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// fanotify_mark(2): changes the mark of the directory or of its file system.
pub(crate) fn fanotify_mark(
    group: BorrowedFd<'_>,
    flags: c_uint,
    mask: u64,
    directory: BorrowedFd<'_>,
) -> io::Result<()> {
    // With the path "." and not a null pointer, so that descriptors made with O_PATH will do.
    let path = c".".as_ptr();
    // SAFETY: both descriptors are borrowed for the call, and the path is a constant that ends with a zero.
    let result = unsafe { libc::fanotify_mark(group.as_raw_fd(), flags, mask, directory.as_raw_fd(), path) };
    check(result)
}

/// fanotify_mark(2): changes the mark of an object of any kind, open in any way, or of its file system.
pub(crate) fn fanotify_mark_object(
    group: BorrowedFd<'_>,
    flags: c_uint,
    mask: u64,
    object: BorrowedFd<'_>,
) -> io::Result<()> {
    // Through /proc, which leads to the object also of a descriptor made with O_PATH.
    let path = CString::new(format!("/proc/self/fd/{}", object.as_raw_fd()))?;
    // SAFETY: the group is borrowed for the call, and the path lives as long and ends with a zero.
    let result =
        unsafe { libc::fanotify_mark(group.as_raw_fd(), flags, mask, libc::AT_FDCWD, path.as_ptr()) };
    check(result)
}

/// name_to_handle_at(2): the handle of an open object. `flags` are added to `AT_EMPTY_PATH`.
pub(crate) fn name_to_handle_at(object: BorrowedFd<'_>, flags: c_int) -> io::Result<FileHandle> {
    let mut handle = FileHandle::empty();
    let mut mount_id: c_int = 0;
    // SAFETY: `FileHandle` begins like `struct file_handle` and is followed by as many bytes as `handle_bytes` says;
    // it and `mount_id` live for the call; the path is a constant that ends with a zero.
    let result = unsafe {
        libc::name_to_handle_at(
            object.as_raw_fd(),
            c"".as_ptr(),
            (&raw mut handle).cast(),
            &raw mut mount_id,
            libc::AT_EMPTY_PATH | flags,
        )
    };
    check(result)?;
    Ok(handle)
}

/// open_by_handle_at(2): opens by handle, for reference only (`O_PATH`).
pub(crate) fn open_by_handle_at(mount: BorrowedFd<'_>, kind: i32, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut handle =
        FileHandle::new(kind, bytes).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: `FileHandle` begins like `struct file_handle` and is followed by at least as many bytes as
    // `handle_bytes` says; it lives for the call.
    let descriptor = unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut handle).cast(), flags) };
    check(descriptor)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Lets the calling thread's reading and writing of disks wait until nobody else needs them (ioprio_set(2)).
///
/// Has an effect where the disk's scheduler knows priorities (BFQ, mq-deadline).
///
/// # Errors
/// When the kernel was built without block devices, or a seccomp filter denies it.
pub fn set_idle_io_priority() -> io::Result<()> {
    let this_thread: c_int = 0;
    // SAFETY: ioprio_set takes three numbers of type int and touches no memory of ours.
    let result: c_long =
        unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, this_thread, IOPRIO_IDLE) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
