//! What the kernel told, merged: one entry for each path, however often something happened to it.
//!
//! Readers put in, the engine takes out. Nothing here waits for a disk, so that the kernel's queues are empty
//! again before they overflow. The map is bounded by the number of different paths; beyond the bound it becomes
//! "anything may have changed".

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use inotify::WatchDescriptor;

use crate::process::Writers;
use crate::workers::Report;

/// Names with events that have not been taken yet; beyond it a full scan is asked for instead.
pub const MAX_PENDING: usize = 200_000;

/// Longest time that something which nobody waits for is left alone, so that more of it is taken at once.
const SOON: Duration = Duration::from_millis(20);

/// Between which moments something happened that nobody saw happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// When it was last known to be as it was.
    pub from: SystemTime,
    /// When it was seen to be otherwise.
    pub to: SystemTime,
}

/// What happened to a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Happened {
    /// Something is finished: the file was closed, or the name came or went. There is no need to wait for quiet
    /// as long as for a file that is being written.
    pub finished: bool,
    /// The object is a directory.
    pub directory: bool,
    /// The name came.
    pub appeared: bool,
    /// It is to be read even when it looks as it is known.
    pub prove: bool,
    /// It was found by a scan; it happened in this time.
    pub window: Option<Window>,
    /// Who did it.
    pub writers: Writers,
    /// The name that it had before it was renamed to this path.
    pub moved_from: Option<Arc<Path>>,
}

impl Happened {
    /// Something that is over.
    #[must_use]
    pub fn finished() -> Self {
        Self { finished: true, ..Self::default() }
    }

    /// Adds what happened later to the same path.
    pub fn merge(&mut self, later: Self) {
        self.finished |= later.finished;
        self.directory |= later.directory;
        self.appeared |= later.appeared;
        self.prove |= later.prove;
        self.window = match (self.window, later.window) {
            (Some(one), Some(other)) => {
                Some(Window { from: one.from.min(other.from), to: one.to.max(other.to) })
            }
            (one, other) => one.or(other),
        };
        self.writers.merge(later.writers);
        if later.moved_from.is_some() {
            self.moved_from = later.moved_from;
        }
    }
}

/// What was merged since the last call.
#[derive(Debug, Default)]
pub struct Taken {
    /// By inotify's watch and name (no name: the watched directory itself).
    pub watches: Vec<(WatchDescriptor, Option<OsString>, Happened)>,
    /// Renames that inotify saw: from where to where.
    pub moves: Vec<(Named, Named)>,
    /// By path.
    pub paths: Vec<(PathBuf, Happened)>,
    /// What the workers found, in the order in which they found it.
    pub reports: Vec<Report>,
    /// Something was mounted or unmounted.
    pub mounts_changed: bool,
    /// Inotify watches that are gone.
    pub ended: Vec<WatchDescriptor>,
    /// Why notifications were lost: anything may have changed.
    pub overflowed: Option<String>,
}

/// A name in a directory that inotify watches.
pub type Named = (WatchDescriptor, OsString);

#[derive(Debug, Default)]
struct Pending {
    watches: HashMap<(WatchDescriptor, Option<OsString>), Happened>,
    moves: Vec<(Named, Named)>,
    paths: HashMap<PathBuf, Happened>,
    reports: Vec<Report>,
    mounts_changed: bool,
    ended: Vec<WatchDescriptor>,
    overflowed: Option<String>,
    woken: bool,
    /// There is something to be taken that need not be taken at once.
    soon: bool,
}

impl Pending {
    fn is_quiet(&self) -> bool {
        self.watches.is_empty()
            && self.paths.is_empty()
            && self.reports.is_empty()
            && !self.mounts_changed
            && self.ended.is_empty()
            && self.overflowed.is_none()
            && !self.woken
    }

    fn bound(&mut self) {
        if self.watches.len() + self.paths.len() > MAX_PENDING {
            self.watches = HashMap::new();
            self.paths = HashMap::new();
            self.moves = Vec::new();
            self.overflowed = Some(format!("events of more than {MAX_PENDING} names waited"));
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    arrived: Condvar,
}

/// Where the readers of all backends leave what happened. Cloned freely; all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Mailbox(Arc<Shared>);

/// An open mailbox: one lock for a whole batch of events. What was put in is announced when it is dropped.
#[derive(Debug)]
pub struct Batch<'a> {
    pending: Option<MutexGuard<'a, Pending>>,
    arrived: &'a Condvar,
}

impl Batch<'_> {
    fn pending(&mut self) -> &mut Pending {
        self.pending.as_mut().expect("it is there until the batch is dropped")
    }

    /// Something happened to a name in a directory that inotify watches.
    pub fn watch(&mut self, watch: WatchDescriptor, name: Option<OsString>, happened: Happened) {
        self.pending().watches.entry((watch, name)).or_default().merge(happened);
    }

    /// Inotify saw a rename.
    pub fn moved(&mut self, from: Named, to: Named) {
        self.pending().moves.push((from, to));
    }

    /// Something happened to a path.
    pub fn path(&mut self, path: PathBuf, happened: Happened) {
        self.pending().paths.entry(path).or_default().merge(happened);
    }

    /// Something was mounted or unmounted.
    pub fn mounts_changed(&mut self) {
        self.pending().mounts_changed = true;
    }

    /// An inotify watch is gone.
    pub fn ended(&mut self, watch: WatchDescriptor) {
        self.pending().ended.push(watch);
    }

    /// Notifications were lost.
    pub fn overflowed(&mut self, why: &str) {
        self.pending().overflowed = Some(why.to_owned());
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.pending().bound();
        self.pending = None;
        self.arrived.notify_one();
    }
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the mailbox for a batch.
    #[must_use]
    pub fn open(&self) -> Batch<'_> {
        Batch { pending: Some(self.lock()), arrived: &self.0.arrived }
    }

    /// Leaves what a worker found.
    pub fn report(&self, report: Report) {
        self.lock().reports.push(report);
        self.0.arrived.notify_one();
    }

    /// Ends the wait under way, or the next one.
    pub fn wake(&self) {
        self.lock().woken = true;
        self.0.arrived.notify_one();
    }

    /// Ends the wait under way, or the next one, but not at once: what comes meanwhile does not wake it again.
    pub fn wake_soon(&self) {
        let mut pending = self.lock();
        if !std::mem::replace(&mut pending.soon, true) {
            self.0.arrived.notify_one();
        }
    }

    /// Waits until something happened, somebody woke the wait, or the time is over, and takes what happened.
    #[must_use]
    pub fn wait(&self, timeout: Option<Duration>) -> Taken {
        let mut pending = self.lock();
        let is_idle = |pending: &mut Pending| pending.is_quiet() && !pending.soon;
        pending = match timeout {
            Some(timeout) => {
                let waited = self.0.arrived.wait_timeout_while(pending, timeout, is_idle);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.0.arrived.wait_while(pending, is_idle).unwrap_or_else(PoisonError::into_inner),
        };
        if pending.soon {
            let timeout = timeout.unwrap_or(SOON).min(SOON);
            let waited = self.0.arrived.wait_timeout_while(pending, timeout, |pending| pending.is_quiet());
            pending = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let taken = std::mem::take(&mut *pending);
        drop(pending);
        Taken {
            watches: taken
                .watches
                .into_iter()
                .map(|((watch, name), happened)| (watch, name, happened))
                .collect(),
            moves: taken.moves,
            paths: taken.paths.into_iter().collect(),
            reports: taken.reports,
            mounts_changed: taken.mounts_changed,
            ended: taken.ended,
            overflowed: taken.overflowed,
        }
    }
}
