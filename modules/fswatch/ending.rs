//! How a reader that waits for the kernel learns that nobody needs it any more: the other end of a pipe is closed. And
//! how it waits when much happens.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
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

/// Time that a reader rests when much happens. Of 500,000 events a second, which one writer can make, 500 wait then.
const REST: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// Events within [`REST`] from which on a reader rests: more than a host at work makes, so that a single change is read
/// at once.
const MANY: usize = 8;

/// Lets a reader rest while events come in great numbers. Whoever makes an event for a reader that waits has to wake
/// it, which costs more than the event; for one that rests it is only queued.
#[derive(Debug)]
pub struct Rest {
    since: Instant,
    events: usize,
}

impl Rest {
    /// Nothing was read yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { since: now, events: 0 }
    }

    /// So many events were read just now: whether to rest before the next are.
    pub fn is_due(&mut self, events: usize, now: Instant) -> bool {
        if now.duration_since(self.since) > Duration::from_nanos(REST.tv_nsec.unsigned_abs()) {
            *self = Self::new(now);
        }
        self.events += events;
        let is_due = self.events >= MANY;
        if is_due {
            // What is read next came during the rest.
            *self = Self::new(now);
        }
        is_due
    }
}

impl Ending {
    /// Waits a moment, or until the end has come; `false` then.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn rest(&self) -> io::Result<bool> {
        let mut descriptors = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        match poll(&mut descriptors, Some(&REST)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(true),
            Ok(_) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "only its differences matter, they are made here")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_reader_rests_only_while_much_happens() {
        let mut now = start();
        let mut rest = Rest::new(now);
        for _ in 0..100 {
            // 2,000 a second.
            now += Duration::from_micros(500);
            assert!(!rest.is_due(1, now));
        }
        let rests = (0..100).filter(|_| {
            // 50,000 a second.
            now += Duration::from_micros(20);
            rest.is_due(1, now)
        });
        assert!(rests.count() >= 10);
        now += Duration::from_millis(1);
        assert!(rest.is_due(50, now));
        now += Duration::from_secs(1);
        assert!(!rest.is_due(1, now));
    }

    #[test]
    fn the_end_ends_a_rest() {
        let (owner, end) = ending().unwrap();
        assert!(end.rest().unwrap());
        drop(owner);
        assert!(!end.rest().unwrap());
    }

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
