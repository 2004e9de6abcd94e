//! The threads of a walk, and those that the kernel keeps waiting.
//!
//! A file system whose server or program does not answer holds whoever looks at it, and nothing but the end of the
//! process lets go of that thread. It is left behind: what it was at is told as not examined, another thread takes its
//! place, and what it had taken for itself is done by the others.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vigie_host::mounts::Storage;

use super::place::{FileName, Place, joined};
use super::{Candidate, Job, Stop, Walk, Worker};
use crate::pool::Pool;

/// Time between two checks whether the search must end.
const PATIENCE: Duration = Duration::from_millis(10);

/// A thread that is as long as this at one thing of a remote file system gets a substitute. It may only be slow, as a
/// large file over a slow network is: then there are a few threads more, at most `MAX_RELIEFS`, each of which waits.
const RELIEF: Duration = Duration::from_secs(1);

/// Most substitutes of a walk.
const MAX_RELIEFS: usize = 8;

/// What a thread has taken for itself. No lock is held while anything is looked at, so that others can take over when
/// the kernel holds the thread.
#[derive(Debug, Default)]
pub(super) struct Own {
    doing: Mutex<Doing>,
    jobs: Mutex<Vec<Job>>,
    batch: Mutex<Vec<Candidate>>,
}

/// What a thread looks at.
#[derive(Debug, Default)]
struct Doing {
    /// As it was asked for; empty while it waits for work.
    path: Vec<u8>,
    /// The same without links; empty when it is not known yet where the links lead.
    real: Vec<u8>,
    /// The directory that is being listed.
    listing: Vec<u8>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn put(path: &mut Vec<u8>, directory: &[u8], name: &[u8]) {
    path.clear();
    path.extend_from_slice(directory);
    if !name.is_empty() {
        if !directory.ends_with(b"/") {
            path.push(b'/');
        }
        path.extend_from_slice(name);
    }
}

impl Own {
    pub(super) fn jobs(&self) -> MutexGuard<'_, Vec<Job>> {
        locked(&self.jobs)
    }

    pub(super) fn batch(&self) -> MutexGuard<'_, Vec<Candidate>> {
        locked(&self.batch)
    }

    /// The newer half of what is to be read, when there is more than one file. Somebody may take it all over at any
    /// moment.
    pub(super) fn half_of_batch(&self) -> Option<Vec<Candidate>> {
        let mut batch = self.batch();
        let left = batch.len();
        (left > 1).then(|| batch.split_off(left / 2))
    }

    /// Gives everything that is still to be done to the pool. The thread cannot look for work before it is there, or it
    /// would take all work for done when the kernel lets it go at this moment.
    fn give_to(&self, pool: &Pool<Job>) {
        let (mut jobs, mut batch) = (self.jobs(), self.batch());
        let mut left = std::mem::take(&mut *jobs);
        left.extend((!batch.is_empty()).then(|| Job::Files(std::mem::take(&mut *batch))));
        pool.add(left);
    }

    /// A directory, which is at `real`.
    pub(super) fn at_directory(&self, asked: &[u8], real: &[u8]) {
        let mut doing = locked(&self.doing);
        put(&mut doing.path, asked, b"");
        put(&mut doing.real, real, b"");
    }

    /// A name in a directory that may be a link, and lead anywhere.
    pub(super) fn at_link(&self, directory: &[u8], name: &[u8]) {
        let mut doing = locked(&self.doing);
        put(&mut doing.path, directory, name);
        doing.real.clear();
    }

    fn at_file(&self, place: &Place, file: &FileName<'_>) {
        let mut doing = locked(&self.doing);
        put(&mut doing.path, &place.asked, file.called());
        match file {
            FileName::Entry(name) => put(&mut doing.real, &place.real, name.to_bytes()),
            FileName::Elsewhere { real, .. } => put(&mut doing.real, real.as_os_str().as_bytes(), b""),
        }
    }

    /// The directory that is listed from now on, or none.
    pub(super) fn lists(&self, directory: &[u8]) {
        put(&mut locked(&self.doing).listing, directory, b"");
    }

    pub(super) fn at_nothing(&self) {
        locked(&self.doing).path.clear();
    }
}

impl Worker {
    /// Notes what is looked at next.
    pub(super) fn at<'p>(&self, place: &'p Place, file: &FileName<'_>) -> &'p Place {
        self.own.at_file(place, file);
        place
    }
}

struct Thread {
    handle: JoinHandle<()>,
    own: Arc<Own>,
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
        let (walk, pool, own) = (Arc::clone(self), Arc::clone(pool), Arc::<Own>::default());
        let its = Arc::clone(&own);
        let handle = std::thread::Builder::new().spawn(move || walk.work(&pool, its)).ok()?;
        Some(Thread { handle, own, seen: Vec::new(), relieved: false })
    }

    /// Starts a substitute for each thread that a remote file system holds, and gives the others what it was to do.
    fn relieve(self: &Arc<Self>, threads: &mut Vec<Thread>, workers: usize, pool: &Arc<Pool<Job>>) {
        let mut waiting = 0;
        for thread in threads.iter_mut() {
            let path = {
                let doing = locked(&thread.own.doing);
                let is_remote =
                    || self.mounts.of(Path::new(OsStr::from_bytes(&doing.real))).1 == Storage::Remote;
                // Where links lead is known in a moment, unless somebody does not respond on the way.
                if doing.path.is_empty() || !(doing.real.is_empty() || is_remote()) {
                    Vec::new()
                } else {
                    doing.path.clone()
                }
            };
            if !path.is_empty() && path == thread.seen {
                waiting += usize::from(!thread.relieved);
                thread.relieved = true;
                thread.own.give_to(pool);
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
        for Thread { handle, own, .. } in threads {
            while until.is_some_and(|until| now() < until) && !handle.is_finished() {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            if until.is_some() && !handle.is_finished() {
                self.leave_behind(&own);
            } else if let Err(panic) = handle.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }

    /// Tells what a thread that is held was at, and what it was to do and nobody else did.
    fn leave_behind(&self, own: &Own) {
        let doing = locked(&own.doing);
        // One that looks at nothing ends in a moment, and nobody waits for that.
        if doing.path.is_empty() {
            return;
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.cannot(&doing.path, "does not respond: its file system still has not answered");
        if !doing.listing.is_empty() && doing.listing != doing.path {
            // Which may be what a link led to, and lie elsewhere.
            let held = self.named(&doing.path);
            let why = format_args!(
                "was not listed to its end: the search waits for {held}, which does not respond"
            );
            self.leave_out(&doing.listing, why);
        }
        let why = "was not examined: what was to be examined before it does not respond";
        for job in own.jobs().drain(..) {
            match job {
                Job::Root(index) => self.leave_out(self.roots[index].path.as_os_str().as_bytes(), why),
                Job::Directory(directory) => {
                    self.leave_out(&joined(&directory.base.asked, &directory.path), why);
                }
                Job::Files(files) => own.batch().extend(files),
                Job::Large => {}
            }
        }
        for candidate in own.batch().drain(..) {
            self.leave_out(&candidate.place.path(&candidate.file), why);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a module of its own process lives in real time")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_from_a_thread_is_done_although_it_is_let_go_at_the_same_moment() {
        for round in 0..2_000 {
            let (pool, own) = (Pool::new(1, Vec::new()), Own::default());
            own.jobs().extend((0..3).map(Job::Root));
            let begin = std::sync::Barrier::new(2);

            let done = std::thread::scope(|scope| {
                let let_go = scope.spawn(|| {
                    begin.wait();
                    let next = || {
                        let own = own.jobs().pop();
                        own.or_else(|| pool.next(&mut Vec::new()))
                    };
                    std::iter::from_fn(next).count()
                });
                begin.wait();
                own.give_to(&pool);
                let_go.join().unwrap()
            });

            assert_eq!(done, 3, "{round}");
        }
    }
}
