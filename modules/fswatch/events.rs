//! What the kernel told, merged: one entry for each path, however often something happened to it.
//!
//! Readers put in, the engine takes out. Nothing here waits for a disk, so that the kernel's queues are empty
//! again before they overflow. What root alone can change has a share of its own, and so has each user: whose share is
//! full has his directories noted instead of names. The share of root, when it is full, becomes "anything may have
//! changed".

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use inotify::WatchDescriptor;

use crate::process::Writers;
use crate::trust::{Lane, NOBODY};
use crate::workers::Report;

/// Names of what root alone can change, with events that have not been taken yet; beyond it a full scan is asked for
/// instead.
pub(crate) const MAX_PENDING: usize = 200_000;

/// Names of one user with events that have not been taken yet; beyond it directories are noted instead of names.
const MAX_OF_USER: usize = 5_000;

/// Users with a share of their own; all others have one together.
const MAX_USERS: usize = 64;

/// Names of users that are taken at once: what root alone can change is not kept waiting by more.
const TAKEN_OF_USERS: usize = 128;

/// Names of one user that are taken at once.
const TAKEN_OF_USER: usize = 64;

/// Files with another name that wait.
const MAX_LINKED: usize = 4_096;

/// Room for names that is kept.
const MIN_ROOM: usize = 1_024;

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
    /// It was opened for writing.
    pub written: bool,
    /// It was run as a program.
    pub executed: bool,
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

    /// Whether somebody writes the file and has not closed it.
    #[must_use]
    pub(crate) fn is_unfinished(&self) -> bool {
        !self.finished && self.window.is_none() && self.writers.last().is_some()
    }

    /// Adds what happened later to the same path.
    pub fn merge(&mut self, later: Self) {
        self.finished |= later.finished;
        self.directory |= later.directory;
        self.appeared |= later.appeared;
        self.written |= later.written;
        self.executed |= later.executed;
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

/// What was merged since the last call: all that is about what root alone can change, and a part of the rest.
#[derive(Debug, Default)]
pub struct Taken {
    /// By inotify's watch and name (no name: the watched directory itself).
    pub watches: Vec<(WatchDescriptor, Option<OsString>, Happened)>,
    /// Renames that inotify saw: from where to where.
    pub moves: Vec<(Named, Named)>,
    /// By path.
    pub paths: Vec<(PathBuf, Happened)>,
    /// Directories in which more happened than can be told by name.
    pub busy: Vec<Busy>,
    /// What the workers found, in the order in which they found it.
    pub reports: Vec<Report>,
    /// Something was mounted or unmounted.
    pub mounts_changed: bool,
    /// A loop device got or lost its file.
    pub loops_changed: bool,
    /// Inotify watches that are gone.
    pub ended: Vec<WatchDescriptor>,
    /// Files that got another name somewhere, by device and inode.
    pub linked: HashSet<(u64, u64)>,
    /// Programs that were started. Nobody is woken for them: they matter only together with what else happened.
    pub started: HashSet<PathBuf>,
    /// Why notifications were lost: anything may have changed.
    pub overflowed: Option<String>,
}

/// A directory in which more happened than can be told by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Busy {
    /// By its path.
    Path(PathBuf),
    /// By inotify's watch.
    Watch(WatchDescriptor),
}

/// A name in a directory that inotify watches.
pub type Named = (WatchDescriptor, OsString);

/// What happened in one lane.
#[derive(Debug, Default)]
struct Share {
    watches: HashMap<(WatchDescriptor, Option<OsString>), Happened>,
    paths: HashMap<PathBuf, Happened>,
    busy: HashSet<Busy>,
}

impl Share {
    fn len(&self) -> usize {
        self.watches.len() + self.paths.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0 && self.busy.is_empty()
    }

    /// Moves at most `most` names to what is taken.
    fn give(&mut self, most: usize, taken: &mut Taken) {
        if self.len() <= most {
            taken.paths.extend(self.paths.drain());
            let watches = self.watches.drain();
            taken.watches.extend(watches.map(|((watch, name), happened)| (watch, name, happened)));
            taken.busy.extend(self.busy.drain());
            // What a burst needed is not kept for ever.
            self.paths.shrink_to(MIN_ROOM);
            self.watches.shrink_to(MIN_ROOM);
            return;
        }
        taken.paths.extend(self.paths.extract_if(|_, _| true).take(most));
        let left = most.saturating_sub(taken.paths.len());
        let watches = self.watches.extract_if(|_, _| true).take(left);
        taken.watches.extend(watches.map(|((watch, name), happened)| (watch, name, happened)));
    }
}

#[derive(Debug, Default)]
struct Pending {
    trusted: Share,
    users: BTreeMap<u32, Share>,
    /// Which user's share was taken from last.
    last: u32,
    moves: Vec<(Named, Named)>,
    reports: Vec<Report>,
    mounts_changed: bool,
    loops_changed: bool,
    ended: Vec<WatchDescriptor>,
    linked: HashSet<(u64, u64)>,
    started: HashSet<PathBuf>,
    overflowed: Option<String>,
    woken: bool,
    /// There is something to be taken that need not be taken at once.
    soon: bool,
}

impl Pending {
    fn is_quiet(&self) -> bool {
        self.trusted.is_empty()
            && self.users.is_empty()
            && self.reports.is_empty()
            && !self.mounts_changed
            && !self.loops_changed
            && self.ended.is_empty()
            && self.linked.is_empty()
            && self.overflowed.is_none()
            && !self.woken
    }

    /// Adds what happened to a name; `busy` is the directory that it is in.
    fn add(&mut self, lane: Lane, name: Name, happened: Happened, busy: impl FnOnce() -> Option<Busy>) {
        let (share, most) = match lane {
            Lane::Trusted => (&mut self.trusted, MAX_PENDING),
            Lane::Of(user) => {
                let has_room = self.users.len() < MAX_USERS || self.users.contains_key(&user);
                let user = if has_room { user } else { NOBODY };
                (self.users.entry(user).or_default(), MAX_OF_USER)
            }
        };
        let is_full = share.len() >= most;
        match name {
            Name::Path(path) if !is_full || share.paths.contains_key(&path) => {
                share.paths.entry(path).or_default().merge(happened);
                return;
            }
            Name::Watch(watch, name) => {
                let key = (watch, name);
                if !is_full || share.watches.contains_key(&key) {
                    share.watches.entry(key).or_default().merge(happened);
                    return;
                }
            }
            Name::Path(_) => {}
        }
        if lane == Lane::Trusted || share.busy.len() >= MAX_OF_USER {
            *share = Share::default();
            self.moves = Vec::new();
            self.overflowed = Some(format!("events of more than {most} names waited"));
        } else {
            share.busy.extend(busy());
        }
    }

    /// Takes the share of what is trusted, and some of the users' in turn.
    fn take(&mut self) -> Taken {
        let mut taken = Taken {
            moves: std::mem::take(&mut self.moves),
            reports: std::mem::take(&mut self.reports),
            mounts_changed: std::mem::take(&mut self.mounts_changed),
            loops_changed: std::mem::take(&mut self.loops_changed),
            ended: std::mem::take(&mut self.ended),
            linked: std::mem::take(&mut self.linked),
            started: std::mem::take(&mut self.started),
            overflowed: self.overflowed.take(),
            ..Taken::default()
        };
        (self.woken, self.soon) = (false, false);
        self.trusted.give(usize::MAX, &mut taken);
        let before = taken.paths.len() + taken.watches.len();
        for _ in 0..self.users.len() {
            let left = (before + TAKEN_OF_USERS).saturating_sub(taken.paths.len() + taken.watches.len());
            let after = self.users.range(self.last.saturating_add(1)..).next();
            let Some((user, _)) = after.or_else(|| self.users.first_key_value()) else { break };
            self.last = *user;
            if left == 0 {
                break;
            }
            if let Some(share) = self.users.get_mut(&self.last) {
                share.give(left.min(TAKEN_OF_USER), &mut taken);
                if share.is_empty() {
                    self.users.remove(&self.last);
                }
            }
        }
        taken
    }
}

/// What something happened to.
enum Name {
    Path(PathBuf),
    Watch(WatchDescriptor, Option<OsString>),
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
    pub fn watch(&mut self, lane: Lane, watch: WatchDescriptor, name: Option<OsString>, happened: Happened) {
        let busy = Busy::Watch(watch.clone());
        self.pending().add(lane, Name::Watch(watch, name), happened, || Some(busy));
    }

    /// Inotify saw a rename.
    pub fn moved(&mut self, from: Named, to: Named) {
        let pending = self.pending();
        // Beyond it a rename is told as what went and what came.
        if pending.moves.len() < MAX_PENDING {
            pending.moves.push((from, to));
        }
    }

    /// Something happened to a path.
    pub fn path(&mut self, lane: Lane, path: PathBuf, happened: Happened) {
        let parent = path.parent().map(Path::to_owned);
        self.pending().add(lane, Name::Path(path), happened, || parent.map(Busy::Path));
    }

    /// Something was mounted or unmounted.
    pub(crate) fn mounts_changed(&mut self) {
        self.pending().mounts_changed = true;
    }

    /// A loop device got or lost its file.
    pub(crate) fn loops_changed(&mut self) {
        self.pending().loops_changed = true;
    }

    /// A program in a watched directory was started.
    pub fn started(&mut self, path: PathBuf) {
        let started = &mut self.pending().started;
        if started.len() < MAX_LINKED {
            started.insert(path);
        }
    }

    /// A file got another name in a directory that nobody watches.
    pub fn linked(&mut self, device: u64, inode: u64) {
        let linked = &mut self.pending().linked;
        // Of more, a scan tells.
        if linked.len() < MAX_LINKED {
            linked.insert((device, inode));
        }
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
    pub(crate) fn wake_soon(&self) {
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
        pending.take()
    }
}
