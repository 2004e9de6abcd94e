//! What the kernel told, merged: one entry for each path, however often something happened to it.
//!
//! Readers put in, the engine takes out. Nothing here waits for a disk, so that the kernel's queues are empty
//! again before they overflow. The map is bounded by the number of different paths; beyond the bound it becomes
//! "anything may have changed".

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use inotify::WatchDescriptor;

/// Names with events that have not been taken yet; beyond it a full scan is asked for instead.
pub const MAX_PENDING: usize = 200_000;

/// What happened to a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Happened {
    /// Something is finished: the file was closed, or the name came or went. There is no need to wait for quiet
    /// as long as for a file that is being written.
    pub finished: bool,
    /// The object is a directory.
    pub directory: bool,
}

impl Happened {
    /// Adds what happened later to the same path.
    pub fn merge(&mut self, later: Self) {
        self.finished |= later.finished;
        self.directory |= later.directory;
    }
}

/// What was merged since the last call.
#[derive(Debug, Default)]
pub struct Taken {
    /// By inotify's watch and name (no name: the watched directory itself).
    pub watches: Vec<(WatchDescriptor, Option<OsString>, Happened)>,
    /// Inotify watches that are gone.
    pub ended: Vec<WatchDescriptor>,
    /// Why notifications were lost: anything may have changed.
    pub overflowed: Option<String>,
}

#[derive(Debug, Default)]
struct Pending {
    watches: HashMap<(WatchDescriptor, Option<OsString>), Happened>,
    ended: Vec<WatchDescriptor>,
    overflowed: Option<String>,
    woken: bool,
}

impl Pending {
    fn is_quiet(&self) -> bool {
        self.watches.is_empty() && self.ended.is_empty() && self.overflowed.is_none() && !self.woken
    }

    fn bound(&mut self) {
        if self.watches.len() > MAX_PENDING {
            self.watches = HashMap::new();
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

    /// Ends the wait under way, or the next one.
    pub fn wake(&self) {
        self.lock().woken = true;
        self.0.arrived.notify_one();
    }

    /// Waits until something happened, somebody woke the wait, or the time is over, and takes what happened.
    #[must_use]
    pub fn wait(&self, timeout: Option<Duration>) -> Taken {
        let pending = self.lock();
        let mut pending = match timeout {
            Some(timeout) => {
                let waited =
                    self.0.arrived.wait_timeout_while(pending, timeout, |pending| pending.is_quiet());
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self
                .0
                .arrived
                .wait_while(pending, |pending| pending.is_quiet())
                .unwrap_or_else(PoisonError::into_inner),
        };
        let taken = std::mem::take(&mut *pending);
        drop(pending);
        Taken {
            watches: taken
                .watches
                .into_iter()
                .map(|((watch, name), happened)| (watch, name, happened))
                .collect(),
            ended: taken.ended,
            overflowed: taken.overflowed,
        }
    }
}
