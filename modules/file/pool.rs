//! Shares work among threads that each find more of it.
//!
//! A worker keeps what it finds to itself and takes the newest first, which keeps the work in the caches and the
//! stack of open directories short. Only when another one has nothing to do it gives away the older half.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The work that no worker has taken yet.
#[derive(Debug)]
pub struct Pool<J> {
    shared: Mutex<Shared<J>>,
    changed: Condvar,
    /// Workers that wait, to be looked at without the lock.
    idle: AtomicUsize,
}

#[derive(Debug)]
struct Shared<J> {
    jobs: Vec<J>,
    workers: usize,
    idle: usize,
    finished: bool,
}

impl<J> Pool<J> {
    /// Work for this many workers, each of which must call [`Pool::next`] until it gets nothing.
    #[must_use]
    pub fn new(workers: usize, jobs: Vec<J>) -> Self {
        let shared = Mutex::new(Shared { jobs, workers, idle: 0, finished: false });
        Self { shared, changed: Condvar::new(), idle: AtomicUsize::new(0) }
    }

    /// The next job: the worker's own newest, or somebody else's. Waits until there is one; `None` when all work
    /// is done.
    pub fn next(&self, own: &mut Vec<J>) -> Option<J> {
        if let Some(job) = own.pop() {
            return Some(job);
        }
        let mut shared = self.lock();
        loop {
            if shared.finished {
                return None;
            }
            if let Some(job) = shared.jobs.pop() {
                return Some(job);
            }
            shared.idle += 1;
            self.idle.store(shared.idle, Ordering::Relaxed);
            self.finish_if_idle(&mut shared);
            while shared.jobs.is_empty() && !shared.finished {
                shared = self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner);
            }
            if shared.finished {
                return None;
            }
            shared.idle -= 1;
            self.idle.store(shared.idle, Ordering::Relaxed);
        }
    }

    /// One worker less than was said will ever ask for work.
    pub(crate) fn do_without_one(&self) {
        let mut shared = self.lock();
        shared.workers -= 1;
        self.finish_if_idle(&mut shared);
    }

    /// Gives no more work to anybody, and lets those go who wait for some.
    pub(crate) fn end(&self) {
        self.lock().finished = true;
        self.changed.notify_all();
    }

    /// One worker more than was said asks for work.
    pub(crate) fn take_one_more(&self) {
        self.lock().workers += 1;
    }

    /// Gives jobs to whoever has nothing to do.
    pub(crate) fn add(&self, jobs: Vec<J>) {
        if !jobs.is_empty() {
            self.lock().jobs.extend(jobs);
            self.changed.notify_all();
        }
    }

    fn finish_if_idle(&self, shared: &mut Shared<J>) {
        if shared.idle == shared.workers {
            shared.finished = true;
            self.changed.notify_all();
        }
    }

    /// Whether a worker has nothing to do.
    #[must_use]
    pub(crate) fn wants_work(&self) -> bool {
        self.idle.load(Ordering::Relaxed) > 0
    }

    /// Gives the older half of a worker's own jobs to the others when one of them has nothing to do.
    pub fn share(&self, own: &mut Vec<J>) {
        if self.wants_work() && !own.is_empty() {
            let half = own.len().div_ceil(2);
            self.lock().jobs.extend(own.drain(..half));
            self.changed.notify_all();
        }
    }

    /// Waits until all work is done, at most this long; whether it is.
    #[must_use]
    pub fn wait(&self, limit: Duration) -> bool {
        let shared = self.lock();
        let waited = self.changed.wait_timeout_while(shared, limit, |shared| !shared.finished);
        waited.unwrap_or_else(PoisonError::into_inner).0.finished
    }

    fn lock(&self) -> MutexGuard<'_, Shared<J>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn every_job_is_done_once_whoever_finds_it() {
        for workers in 1..=4 {
            // Each job of depth n makes two of depth n - 1.
            let pool = Pool::new(workers, vec![12_u32]);
            let done = AtomicU64::new(0);

            std::thread::scope(|scope| {
                for _ in 0..workers {
                    scope.spawn(|| {
                        let mut own = Vec::new();
                        while let Some(depth) = pool.next(&mut own) {
                            done.fetch_add(1, Ordering::Relaxed);
                            if depth > 0 {
                                own.extend([depth - 1, depth - 1]);
                            }
                            pool.share(&mut own);
                        }
                    });
                }
                assert!(pool.wait(Duration::from_secs(30)));
            });

            assert_eq!(done.load(Ordering::Relaxed), (1 << 13) - 1);
        }
    }

    #[test]
    fn a_worker_that_does_not_come_is_not_waited_for() {
        let pool = Pool::new(2, vec![()]);
        pool.do_without_one();

        assert_eq!(pool.next(&mut Vec::new()), Some(()));
        assert_eq!(pool.next(&mut Vec::new()), None);

        let pool = Pool::new(1, vec![()]);
        pool.do_without_one();
        assert!(pool.wait(Duration::ZERO));
    }

    #[test]
    fn waiting_has_a_limit() {
        let pool = Pool::new(1, vec![()]);

        assert!(!pool.wait(Duration::ZERO));
        assert_eq!(pool.next(&mut Vec::new()), Some(()));
        assert_eq!(pool.next(&mut Vec::new()), None);
        assert!(pool.wait(Duration::ZERO));
    }
}
