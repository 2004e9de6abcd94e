//! How a reader that waits for the kernel learns that nobody needs it any more: the other end of a pipe is closed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};

/// Kept by whoever owns the reader; the reader ends when it is dropped.
#[derive(Debug)]
pub struct Owner(#[expect(dead_code, reason = "it is only there to be closed")] OwnedFd);

/// Kept by the reader.
#[derive(Debug)]
pub struct Ending(OwnedFd);

/// The two ends.
///
/// # Errors
/// When there are no descriptors left.
pub fn ending() -> io::Result<(Owner, Ending)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((Owner(write), Ending(read)))
}

impl Ending {
    /// Waits until there is something to read from `source` (as `flags` say), or the end has come; `false` then.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn wait(&self, source: BorrowedFd<'_>, flags: PollFlags) -> io::Result<bool> {
        let mut descriptors = [
            PollFd::from_borrowed_fd(source, flags),
            PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN),
        ];
        rustix::io::retry_on_intr(|| poll(&mut descriptors, None))?;
        Ok(descriptors[1].revents().is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_wakes_the_wait_and_so_does_the_source() {
        let (owner, end) = ending().unwrap();
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        rustix::io::write(&write, b"x").unwrap();
        assert!(end.wait(read.as_fd(), PollFlags::IN).unwrap());
        let mut byte = [0];
        rustix::io::read(&read, &mut byte).unwrap();

        let waiting = std::thread::spawn(move || end.wait(read.as_fd(), PollFlags::IN).unwrap());
        drop(owner);

        assert!(!waiting.join().unwrap());
    }
}
