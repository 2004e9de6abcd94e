//! What each thread does, and threads that wait for a disk which does not respond: others take their places.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Charge, Job};
use crate::trust::Lane;

/// Threads that may wait for disks while others have their places.
const MAX_LOST: usize = 16;

/// The scan that waits for a listing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Course {
    /// Which one.
    pub(crate) scan: u64,
    /// To whom it is accounted.
    pub(crate) charge: Charge,
    /// Only some files of the directory are read.
    pub(crate) is_part: bool,
}

/// What a thread does, and since when. Nothing takes long but what waits for a disk: much is done in slices.
#[derive(Debug, Clone)]
pub(crate) struct Doing {
    /// To whom it is accounted.
    pub(crate) lane: Lane,
    /// The directory or the file.
    pub(crate) path: PathBuf,
    /// When it began.
    pub(crate) since: Instant,
    /// For which scan.
    pub(crate) course: Option<Course>,
}

impl Doing {
    #[expect(clippy::disallowed_methods, reason = "a disk takes real time")]
    fn now(lane: Lane, path: &Path, course: Option<Course>) -> Self {
        Self { lane, path: path.to_owned(), since: Instant::now(), course }
    }

    /// Of a job that no round waits for.
    pub(super) fn of(job: &Job) -> Option<Self> {
        match job {
            Job::List { scan, directory, charge, .. } => {
                let course = Course { scan: *scan, charge: *charge, is_part: false };
                Some(Self::now(charge.lane, directory, Some(course)))
            }
            Job::Part { scan, directory, lane, .. } => {
                let course = Course { scan: *scan, charge: Charge { lane: *lane, bytes: 0 }, is_part: true };
                Some(Self::now(*lane, directory, Some(course)))
            }
            Job::Read { path, lane, .. } => Some(Self::now(*lane, path, None)),
            Job::Look { .. } => None,
        }
    }
}

#[derive(Debug, Default)]
struct Seat {
    doing: Option<Doing>,
    is_given_up: bool,
}

/// Where a thread says what it does.
#[derive(Debug, Default)]
pub(super) struct Desk {
    seat: Mutex<Seat>,
    lost: Arc<AtomicUsize>,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Seat> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, job: &Job) {
        self.lock().doing = Doing::of(job);
    }

    /// It is done; `false` when nobody waits for it any more, and another thread has this one's place.
    pub(super) fn finish(&self) -> bool {
        let mut seat = self.lock();
        seat.doing = None;
        if seat.is_given_up {
            self.lost.fetch_sub(1, Ordering::SeqCst);
        }
        !seat.is_given_up
    }
}

/// The desks of all threads.
#[derive(Debug, Default)]
pub(super) struct Desks {
    desks: Mutex<Vec<Arc<Desk>>>,
    lost: Arc<AtomicUsize>,
}

impl Desks {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Desk>>> {
        self.desks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more.
    pub(super) fn add(&self) -> Arc<Desk> {
        let desk = Arc::new(Desk { lost: Arc::clone(&self.lost), ..Desk::default() });
        self.lock().push(Arc::clone(&desk));
        desk
    }

    /// What the threads do now.
    pub(super) fn doing(&self) -> Vec<Doing> {
        self.lock().iter().filter_map(|desk| desk.lock().doing.clone()).collect()
    }

    /// Gives up what takes longer than this and is meant; the threads that do it have no desk any more.
    pub(super) fn give_up(
        &self,
        now: Instant,
        longest: Duration,
        is_meant: impl Fn(&Doing) -> bool,
    ) -> Vec<Doing> {
        let mut given_up = Vec::new();
        self.lock().retain(|desk| {
            let mut seat = desk.lock();
            let is_long = |doing: &&Doing| now.saturating_duration_since(doing.since) >= longest;
            if !seat.doing.as_ref().filter(is_long).is_some_and(&is_meant)
                || self.lost.load(Ordering::SeqCst) >= MAX_LOST
            {
                return true;
            }
            self.lost.fetch_add(1, Ordering::SeqCst);
            seat.is_given_up = true;
            given_up.extend(seat.doing.take());
            false
        });
        given_up
    }
}
