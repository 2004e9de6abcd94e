//! A group of fanotify: one queue of events, and the marks that say where they come from.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::error::{GroupError, MarkError};
use crate::mask::Mask;
use crate::queue::{Buffer, Events};
use crate::sys;

/// What a group reports, and how much it queues. The default is everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Queue without a limit: 100 bytes of kernel memory and the length of the name for each event that was not read
    /// yet. Without it the limit is `fs.fanotify.max_queued_events` (16,384), and [`Mask::Q_OVERFLOW`] says that it was
    /// reached.
    pub unlimited_queue: bool,
    /// Report the process by descriptor as well. Linux 5.15.
    pub pidfd: bool,
    /// Report the object also where a name comes or goes, not just the name. Linux 5.17.
    pub target: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { unlimited_queue: true, pidfd: true, target: true }
    }
}

impl Options {
    fn flags(self) -> u32 {
        let always = libc::FAN_CLASS_NOTIF
            | libc::FAN_CLOEXEC
            | libc::FAN_NONBLOCK
            | libc::FAN_UNLIMITED_MARKS
            | libc::FAN_REPORT_FID
            | libc::FAN_REPORT_DFID_NAME;
        let optional = [
            (self.unlimited_queue, libc::FAN_UNLIMITED_QUEUE),
            (self.pidfd, libc::FAN_REPORT_PIDFD),
            (self.target, libc::FAN_REPORT_TARGET_FID),
        ];
        optional.into_iter().filter(|(wanted, _)| *wanted).fold(always, |flags, (_, flag)| flags | flag)
    }

    /// The first Linux that knows all of these (fanotify_init(2)).
    pub(crate) fn needed_kernel(self) -> &'static str {
        if self.target {
            "5.17"
        } else if self.pidfd {
            "5.15"
        } else {
            "5.9"
        }
    }
}

/// A queue of events and its marks, which end with it. The descriptor is readable (poll(2)) when events are queued.
///
/// Directories to mark may be open in any way, `O_PATH` included.
#[derive(Debug)]
pub struct Group {
    descriptor: OwnedFd,
}

impl Group {
    /// Opens a group without marks.
    ///
    /// # Errors
    /// When the privilege is missing, the kernel is too old for the options, or a limit is reached.
    pub fn new(options: Options) -> Result<Self, GroupError> {
        let descriptor =
            sys::fanotify_init(options.flags()).map_err(|source| GroupError::new(source, options))?;
        Ok(Self { descriptor })
    }

    /// Reports these events of the whole file system that the directory is on, wherever it is mounted. Marks add
    /// up.
    ///
    /// # Errors
    /// When the file system or the kernel cannot do it.
    pub fn mark_filesystem(&self, directory: BorrowedFd<'_>, mask: Mask) -> Result<(), MarkError> {
        self.mark(libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM, directory, mask)
    }

    /// Reports these events of a directory; with [`Mask::EVENT_ON_CHILD`] also of what lies directly in it. Marks
    /// add up. The directory stays in the kernel's memory as long as the mark.
    ///
    /// # Errors
    /// When the file system or the kernel cannot do it.
    pub fn mark_directory(&self, directory: BorrowedFd<'_>, mask: Mask) -> Result<(), MarkError> {
        self.mark(libc::FAN_MARK_ADD, directory, mask)
    }

    /// Reports these events of an object of any kind, whatever name it has; marks add up. The object stays in the
    /// kernel's memory as long as the mark.
    ///
    /// # Errors
    /// When the file system or the kernel cannot do it.
    pub fn mark_object(&self, object: BorrowedFd<'_>, mask: Mask) -> Result<(), MarkError> {
        let group = self.descriptor.as_fd();
        Ok(sys::fanotify_mark_object(group, libc::FAN_MARK_ADD, mask.bits(), object)?)
    }

    /// As [`Group::mark_filesystem`], for the file system that an object of any kind is on.
    ///
    /// # Errors
    /// When the file system or the kernel cannot do it.
    pub fn mark_filesystem_of(&self, object: BorrowedFd<'_>, mask: Mask) -> Result<(), MarkError> {
        let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
        Ok(sys::fanotify_mark_object(self.descriptor.as_fd(), flags, mask.bits(), object)?)
    }

    /// Reports these events of the directory no longer.
    ///
    /// # Errors
    /// [`MarkError::NotMarked`] when there is no mark.
    pub fn unmark_directory(&self, directory: BorrowedFd<'_>, mask: Mask) -> Result<(), MarkError> {
        self.mark(libc::FAN_MARK_REMOVE, directory, mask)
    }

    /// Reads what is queued, as much as fits, without waiting; `None` when nothing is queued.
    ///
    /// # Errors
    /// When the kernel lacks memory. Events may be lost then.
    pub fn read<'a>(&self, buffer: &'a mut Buffer) -> io::Result<Option<Events<'a>>> {
        Events::read(self.descriptor.as_fd(), buffer)
    }

    fn mark(&self, flags: u32, directory: BorrowedFd<'_>, mask: Mask) -> Result<(), MarkError> {
        let flags = flags | libc::FAN_MARK_ONLYDIR;
        Ok(sys::fanotify_mark(self.descriptor.as_fd(), flags, mask.bits(), directory)?)
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
