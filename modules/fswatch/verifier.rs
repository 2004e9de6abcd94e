//! Reading every file again, a few at a time: the only way to see what changes without an event and without a change
//! time, such as a store to a page that is mapped already, a clock that was turned back, or a disk that forgets.
//!
//! `Pace` says how many files are due so that all are read within a period, and how long to rest so that the share
//! of a processor and the bytes a second stay within a budget. A thread of its own reads with the lowest priority for
//! the disk, and leaves the page cache as it was.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::avoided::Avoided;
use crate::events::Mailbox;
use crate::look::{Found, Plan, Scratch, look_at};
use crate::object::{Content, Object};
use crate::workers::Report;

/// Files of one part of the work.
pub const MAX_FILES: usize = 32;

/// Longest time that is made up for: a host that slept does not work it off at once.
const LONGEST_ARREARS: Duration = Duration::from_secs(120);

/// What reading may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Share of one processor, in percent.
    pub cpu_percent: u32,
    /// Bytes a second.
    pub bytes_per_second: u64,
}

impl Budget {
    /// How long to rest after so much work.
    #[must_use]
    pub fn rest(&self, worked: Duration, bytes: u64) -> Duration {
        let by_time = worked * (100 - self.cpu_percent.clamp(1, 100)) / self.cpu_percent.clamp(1, 100);
        let whole = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second.max(1) as f64);
        by_time.max(whole.saturating_sub(worked))
    }
}

/// Which part of all files is due.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    due: f64,
}

impl Pace {
    /// Time has passed; gives the number of files to read now.
    pub(crate) fn due(&mut self, files: usize, passed: Duration, period: Duration) -> usize {
        let share = passed.min(LONGEST_ARREARS).as_secs_f64() / period.as_secs_f64().max(1.0);
        // What could not be read in time is not piled up without end.
        self.due = (self.due + files as f64 * share).min(files as f64).min(1e6);
        (self.due as usize).min(MAX_FILES)
    }

    /// So many were taken.
    pub(crate) fn took(&mut self, files: usize) {
        self.due = (self.due - files as f64).max(0.0);
    }
}

/// Some files and what is known of them.
#[derive(Debug)]
struct Part {
    files: Vec<(PathBuf, Object)>,
    budget: Budget,
}

/// The way to the thread. It ends with it.
#[derive(Debug)]
pub(crate) struct Verifier {
    parts: mpsc::Sender<Part>,
}

impl Verifier {
    /// Starts the thread; what it finds goes to `mailbox`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(mailbox: Mailbox, avoided: Avoided) -> io::Result<Self> {
        let (parts, received) = mpsc::channel();
        std::thread::Builder::new()
            .name("verifier".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || work(&received, &mailbox, &avoided))?;
        Ok(Self { parts })
    }

    /// Has some files read; the answer is a [`Report::Verified`].
    pub(crate) fn read(&self, files: Vec<(PathBuf, Object)>, budget: Budget) {
        // The thread ends with us only.
        self.parts.send(Part { files, budget }).ok();
    }
}

#[expect(clippy::disallowed_methods, reason = "the budget is one of real time")]
fn now() -> Instant {
    Instant::now()
}

fn work(parts: &mpsc::Receiver<Part>, mailbox: &Mailbox, avoided: &Avoided) {
    // Where the scheduler of the disk knows no priorities the budget alone holds.
    vigie_fanotify::set_idle_io_priority().ok();
    for Part { files, budget } in parts {
        // Its memory is needed for some seconds of a minute only.
        let mut scratch = Scratch::within(budget, now(), avoided.clone());
        let mut differing = Vec::new();
        let count = files.len();
        for (path, known) in files {
            if !matches!(known.content, Content::Digest(_) | Content::Sparse(_)) {
                continue;
            }
            let plan = Plan { hash: true, prove: true, spare_cache: true, ..Plan::default() };
            match look_at(&path, plan, Some(&known), &mut scratch) {
                Ok(Found::Object { object, .. }) if object == known => {}
                _ => differing.push(path),
            }
        }
        mailbox.report(Report::Verified { files: count, bytes_read: scratch.bytes_read, differing });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn all_files_are_due_once_in_a_period() {
        let mut pace = Pace::default();
        let mut read = 0;
        for _ in 0..24 * 60 * 2 {
            let due = pace.due(50_000, Duration::from_secs(30), DAY);
            pace.took(due);
            read += due;
        }

        assert!((49_900..=50_000).contains(&read), "{read}");
    }

    #[test]
    fn a_few_files_are_not_read_more_often_than_asked() {
        let mut pace = Pace::default();
        let mut read = 0;
        for _ in 0..24 * 60 {
            let due = pace.due(3, Duration::from_secs(60), DAY);
            pace.took(due);
            read += due;
        }

        assert!((2..=3).contains(&read), "{read}");
    }

    #[test]
    fn a_file_that_is_not_what_it_was_is_named_and_the_others_are_not() {
        let temp = tempfile::tempdir().unwrap();
        let mut scratch = Scratch::default();
        let mut files: Vec<(PathBuf, Object)> = Vec::new();
        for name in ["same", "other", "gone"] {
            let path = temp.path().join(name);
            std::fs::write(&path, name).unwrap();
            let plan = Plan { hash: true, ..Plan::default() };
            let Ok(Found::Object { object, .. }) = look_at(&path, plan, None, &mut scratch) else { panic!() };
            files.push((path, object));
        }
        files[1].1.content = Content::Digest([0; 32]);
        std::fs::remove_file(&files[2].0).unwrap();
        let expected = [files[1].0.clone(), files[2].0.clone()];
        let mailbox = Mailbox::default();
        let verifier = Verifier::start(mailbox.clone(), Avoided::default()).unwrap();

        verifier.read(files, Budget { cpu_percent: 100, bytes_per_second: 1 << 40 });
        let reports = mailbox.wait(None, true).reports;

        let [Report::Verified { files: 3, bytes_read: 9, differing }] = reports.as_slice() else {
            panic!("{reports:?}")
        };
        assert_eq!(*differing, expected);
    }

    proptest! {
        #[test]
        fn the_budget_holds_whatever_was_done(
            worked in 0..10_000_u64, bytes in 0..1_u64 << 32, percent in 1..=100_u32, rate in 1..1_u64 << 32,
        ) {
            let budget = Budget { cpu_percent: percent, bytes_per_second: rate };
            let worked = Duration::from_millis(worked);
            let whole = worked + budget.rest(worked, bytes);
            prop_assert!(worked.as_secs_f64() <= whole.as_secs_f64() * f64::from(percent) / 100.0 + 1e-6);
            prop_assert!(bytes as f64 <= rate as f64 * whole.as_secs_f64() * 1.000_001 + 1.0);
        }
    }
}
