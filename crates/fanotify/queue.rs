//! What was read from a group's queue.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::event::{self, Event, Malformed};

/// Fewest bytes of a buffer. The largest event, a rename between names of 255 bytes with handles of 128 bytes, has
/// less than 1,200; the kernel refuses to read into less than the next event takes.
const MIN_BUFFER_BYTES: usize = 4096;

/// Room for what is read at once, to be used again and again.
#[derive(Debug)]
pub struct Buffer(Vec<u8>);

impl Buffer {
    /// Room for `capacity` bytes, at least 4,096. An event takes 100 to 150 bytes and the length of its name.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        // The parser reads byte by byte: alignment does not matter.
        Self(vec![0; capacity.max(MIN_BUFFER_BYTES)])
    }
}

/// Events in the order in which they were queued. Dropping it drops the rest with their descriptors.
///
/// An event that cannot be understood is an item as well; something happened that will not be known.
#[derive(Debug)]
pub struct Events<'a> {
    /// What the kernel wrote and has not been looked at yet. Only `read` puts something here: numbers in it become
    /// descriptors.
    rest: &'a [u8],
}

impl<'a> Events<'a> {
    /// Reads from a group of fanotify without waiting; `None` when nothing is queued.
    ///
    /// Only for descriptors of [`crate::Group`]: what comes from another could name descriptors that somebody owns.
    pub(crate) fn read(group: BorrowedFd<'_>, buffer: &'a mut Buffer) -> io::Result<Option<Self>> {
        match rustix::io::retry_on_intr(|| rustix::io::read(group, &mut buffer.0[..])) {
            Ok(0) | Err(Errno::AGAIN) => Ok(None),
            Ok(length) => Ok(Some(Self { rest: buffer.0.get(..length).unwrap_or_default() })),
            Err(error) => Err(error.into()),
        }
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<Event<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        event::next(&mut self.rest, adopt)
    }
}

impl Drop for Events<'_> {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

#[expect(unsafe_code, reason = "the kernel passes descriptors as numbers")]
fn adopt(number: i32) -> OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: called only by `Events::next`, for numbers that are not negative and that the kernel wrote into a
    // record of this read. It has made them for the reader, and each record is passed by once.
    unsafe { OwnedFd::from_raw_fd(number) }
}
