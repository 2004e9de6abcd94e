//! The system calls, and all that is unsafe about them.

#![expect(
    unsafe_code,
    reason = "these system calls have no safe wrapper that reads names, handles and processes"
)]

use std::ffi::CStr;
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `MAX_HANDLE_SZ` of linux/exportfs.h.
pub(crate) const MAX_HANDLE_BYTES: usize = 128;

/// `IOPRIO_WHO_PROCESS`, `IOPRIO_CLASS_IDLE` and `IOPRIO_CLASS_SHIFT` of linux/ioprio.h.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_IDLE: libc::c_int = 3 << 13;

/// A `struct file_handle` with room for the longest one, see open_by_handle_at(2).
#[repr(C)]
pub(crate) struct RawHandle {
    pub(crate) length: libc::c_uint,
    pub(crate) kind: libc::c_int,
    pub(crate) bytes: [u8; MAX_HANDLE_BYTES],
}

const _: () = assert!(offset_of!(RawHandle, bytes) == 8 && size_of::<RawHandle>() == 8 + MAX_HANDLE_BYTES);

fn result(returned: libc::c_int) -> io::Result<libc::c_int> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

/// Takes a descriptor that the kernel gave to us alone.
pub(crate) fn own(descriptor: libc::c_int) -> OwnedFd {
    // SAFETY: the callers pass descriptors that the kernel opened for this call or event, each exactly once, so
    // nobody else closes it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

pub(crate) fn init(flags: libc::c_uint, event_flags: libc::c_uint) -> io::Result<OwnedFd> {
    // SAFETY: two numbers; the kernel refuses those that it does not know.
    result(unsafe { libc::fanotify_init(flags, event_flags) }).map(own)
}

pub(crate) fn mark(
    group: BorrowedFd<'_>,
    flags: libc::c_uint,
    mask: u64,
    at: BorrowedFd<'_>,
) -> io::Result<()> {
    // SAFETY: both descriptors are open for as long as they are borrowed. Without a path the mark is on what the
    // second one is.
    result(unsafe { libc::fanotify_mark(group.as_raw_fd(), flags, mask, at.as_raw_fd(), std::ptr::null()) })?;
    Ok(())
}

pub(crate) fn name_to_handle(
    at: BorrowedFd<'_>,
    name: &CStr,
    flags: libc::c_int,
) -> io::Result<(RawHandle, libc::c_int)> {
    let mut handle =
        RawHandle { length: MAX_HANDLE_BYTES as libc::c_uint, kind: 0, bytes: [0; MAX_HANDLE_BYTES] };
    let mut mount = 0;
    // SAFETY: `handle` has the layout of `struct file_handle` with as much room behind it as its first field says, and
    // the name ends with a NUL; both live until the call returns.
    result(unsafe {
        libc::name_to_handle_at(
            at.as_raw_fd(),
            name.as_ptr(),
            (&raw mut handle).cast(),
            &raw mut mount,
            flags,
        )
    })?;
    Ok((handle, mount))
}

pub(crate) fn open_by_handle(
    mount: BorrowedFd<'_>,
    handle: &mut RawHandle,
    flags: libc::c_int,
) -> io::Result<OwnedFd> {
    // SAFETY: `handle` has the layout of `struct file_handle`; its length was checked against its room when it was made.
    result(unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut *handle).cast(), flags) }).map(own)
}

/// Lets this thread use a disk only when nobody else wants it (`IOPRIO_CLASS_IDLE`, see ioprio_set(2)). Schedulers that
/// know no priorities ignore it.
///
/// # Errors
/// When the kernel refuses.
pub fn set_idle_io_priority() -> io::Result<()> {
    // SAFETY: three numbers; 0 is the calling thread.
    let returned = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE) };
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_priority_is_taken_for_this_thread_alone() {
        std::thread::spawn(|| set_idle_io_priority().unwrap()).join().unwrap();
    }

    #[test]
    fn a_mark_of_no_group_is_refused() {
        use std::os::fd::AsFd;
        let file = std::fs::File::open("/").unwrap();

        let refused = mark(file.as_fd(), libc::FAN_MARK_ADD, libc::FAN_CREATE, file.as_fd()).unwrap_err();

        assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn flags_that_do_not_exist_are_refused() {
        assert!(init(u32::MAX, 0).is_err());
    }
}
