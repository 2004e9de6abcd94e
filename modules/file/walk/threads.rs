//! The threads of a walk, and those that the kernel keeps waiting.
//!
//! A file system whose server or program does not answer holds whoever looks at it, and nothing but the end of the
//! process lets go of that thread. It is left behind: what it was at is told as not examined, and another thread takes
//! its place.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vigie_host::mounts::Storage;

use super::place::{FileName, Place};
use super::{Job, Stop, Walk, Worker};
use crate::pool::Pool;

/// Time between two checks whether the search must end.
const PATIENCE: Duration = Duration::from_millis(10);

/// A thread that is as long as this at one thing of a remote file system gets a substitute.
const RELIEF: Duration = Duration::from_secs(1);

/// Most substitutes of a walk.
const MAX_RELIEFS: usize = 8;

/// What a thread looks at; empty while it waits for work.
#[derive(Debug, Default)]
pub(super) struct Doing(Mutex<Vec<u8>>);

impl Doing {
    /// A name in a directory, or the directory itself.
    pub(super) fn at(&self, directory: &[u8], name: &[u8]) {
        let mut path = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        path.clear();
        path.extend_from_slice(directory);
        if !name.is_empty() {
            if !directory.ends_with(b"/") {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
    }

    pub(super) fn nothing(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn path(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Worker {
    /// Notes what is looked at next.
    pub(super) fn at<'p>(&self, place: &'p Place, file: &FileName<'_>) -> &'p Place {
        self.doing.at(&place.asked, file.called());
        place
    }
}

struct Thread {
    handle: JoinHandle<()>,
    doing: Arc<Doing>,
    /// What it was at when it was asked last.
    seen: Vec<u8>,
    relieved: bool,
}

impl Walk {
    /// Does jobs, and all that they make, on as many threads.
    pub(super) fn run_jobs(
        self: &Arc<Self>,
        workers: usize,
        jobs: Vec<Job>,
        parting: Duration,
        must_stop: &impl Fn() -> Option<Stop>,
    ) -> Result<(), Stop> {
        let pool = Arc::new(Pool::new(workers, jobs));
        let mut threads = Vec::new();
        for _ in 0..workers {
            match self.start(&pool) {
                Some(thread) => threads.push(thread),
                None => pool.do_without_one(),
            }
        }
        if threads.is_empty() {
            return Err(Stop::NoThread);
        }
        let mut asked_at = now();
        let mut stopped = None;
        while !pool.wait(PATIENCE) {
            stopped = must_stop().or_else(|| self.findings.is_full().then_some(Stop::Full));
            if stopped.is_some() {
                self.stop.store(true, Ordering::Relaxed);
                pool.end();
                break;
            }
            if asked_at.elapsed() >= RELIEF {
                asked_at = now();
                self.relieve(&mut threads, workers, &pool);
            }
        }
        self.part_from(threads, stopped.map(|_| now() + parting));
        // A walk may be over before anybody looked.
        match stopped.or_else(|| self.findings.is_full().then_some(Stop::Full)) {
            Some(why) => Err(why),
            None => Ok(()),
        }
    }

    fn start(self: &Arc<Self>, pool: &Arc<Pool<Job>>) -> Option<Thread> {
        let (walk, pool, doing) = (Arc::clone(self), Arc::clone(pool), Arc::<Doing>::default());
        let own = Arc::clone(&doing);
        let handle = std::thread::Builder::new().spawn(move || walk.work(&pool, own)).ok()?;
        Some(Thread { handle, doing, seen: Vec::new(), relieved: false })
    }

    /// Starts a substitute for each thread that a remote file system holds.
    fn relieve(self: &Arc<Self>, threads: &mut Vec<Thread>, workers: usize, pool: &Arc<Pool<Job>>) {
        let mut waiting = 0;
        for thread in threads.iter_mut().filter(|thread| !thread.relieved) {
            let path = thread.doing.path();
            let is_remote = || self.mounts.of(Path::new(OsStr::from_bytes(&path))).1 == Storage::Remote;
            if !path.is_empty() && path == thread.seen && is_remote() {
                thread.relieved = true;
                waiting += 1;
            }
            thread.seen = path;
        }
        for _ in 0..waiting.min((workers + MAX_RELIEFS).saturating_sub(threads.len())) {
            // First, or the pool would take its work for done.
            pool.take_one_more();
            match self.start(pool) {
                Some(thread) => threads.push(thread),
                None => pool.do_without_one(),
            }
        }
    }

    /// Waits for threads that have nothing more to do; leaves those behind that the kernel has not let go by `until`.
    fn part_from(&self, threads: Vec<Thread>, until: Option<Instant>) {
        for Thread { handle, doing, .. } in threads {
            while until.is_some_and(|until| now() < until) && !handle.is_finished() {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            if until.is_some() && !handle.is_finished() {
                let path = doing.path();
                // One that looks at nothing ends in a moment, and nobody waits for that.
                if !path.is_empty() {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    self.cannot(&path, "does not respond: its file system still has not answered");
                }
            } else if let Err(panic) = handle.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a module of its own process lives in real time")]
fn now() -> Instant {
    Instant::now()
}
