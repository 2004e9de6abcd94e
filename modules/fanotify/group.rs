//! A queue of events and its marks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::event::{Events, Mask};
use crate::sys;

/// What a group reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The queue may grow without bound (needs `CAP_SYS_ADMIN`); otherwise it holds
    /// `fs.fanotify.max_queued_events`.
    pub unlimited_queue: bool,
    /// A descriptor of the process comes with each event (Linux 5.15).
    pub pidfd: bool,
    /// The object's handle comes with each event (Linux 5.17).
    pub target: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { unlimited_queue: true, pidfd: true, target: true }
    }
}

/// A queue of events.
#[derive(Debug)]
pub struct Group(OwnedFd);

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Room for events.
#[derive(Debug)]
pub struct Buffer(Vec<u8>);

impl Buffer {
    /// Room for so many bytes; one event can have a few hundred.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(vec![0; bytes.max(4096)])
    }
}

impl Group {
    /// A group without marks.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` where the kernel does not know the options.
    pub fn new(options: Options) -> io::Result<Self> {
        let mut flags = libc::FAN_CLASS_NOTIF
            | libc::FAN_CLOEXEC
            | libc::FAN_NONBLOCK
            | libc::FAN_UNLIMITED_MARKS
            | libc::FAN_REPORT_DFID_NAME;
        if options.unlimited_queue {
            flags |= libc::FAN_UNLIMITED_QUEUE;
        }
        if options.pidfd {
            flags |= libc::FAN_REPORT_PIDFD;
        }
        if options.target {
            flags |= libc::FAN_REPORT_FID | libc::FAN_REPORT_TARGET_FID;
        }
        let event_flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_LARGEFILE;
        sys::init(flags, event_flags.cast_unsigned()).map(Self)
    }

    /// Tells of everything that happens in the file system of an open file.
    ///
    /// # Errors
    /// `EOPNOTSUPP` or `ENODEV` where it has no handles (proc, overlay), `EXDEV` in a subvolume of btrfs.
    pub fn mark_filesystem(&self, at: BorrowedFd<'_>, mask: Mask) -> io::Result<()> {
        sys::mark(self.as_fd(), libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM, mask.0, at)
    }

    /// Takes marks of a file system away.
    ///
    /// # Errors
    /// `ENOENT` when there is none.
    pub fn unmark_filesystem(&self, at: BorrowedFd<'_>, mask: Mask) -> io::Result<()> {
        sys::mark(self.as_fd(), libc::FAN_MARK_REMOVE | libc::FAN_MARK_FILESYSTEM, mask.0, at)
    }

    /// Does not tell of what happens to the children of a directory, also after they were written to. The mark goes when
    /// memory is short.
    ///
    /// # Errors
    /// `EINVAL` before Linux 6.0.
    pub fn ignore_children(&self, directory: BorrowedFd<'_>, mask: Mask) -> io::Result<()> {
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_IGNORE_SURV | FAN_MARK_EVICTABLE;
        sys::mark(self.as_fd(), flags, (mask | Mask::ON_CHILD).0, directory)
    }

    /// Takes what is queued, without waiting; `None` when nothing is.
    ///
    /// # Errors
    /// When the group cannot be read.
    pub fn read<'a>(&self, buffer: &'a mut Buffer) -> io::Result<Option<Events<'a>>> {
        match rustix::io::retry_on_intr(|| rustix::io::read(self, &mut buffer.0)) {
            Ok(0) | Err(rustix::io::Errno::AGAIN) => Ok(None),
            Ok(length) => Ok(Some(Events::new(&buffer.0[..length]))),
            Err(error) => Err(error.into()),
        }
    }
}

/// `FAN_MARK_EVICTABLE` of linux/fanotify.h.
const FAN_MARK_EVICTABLE: libc::c_uint = 0x0000_0200;
