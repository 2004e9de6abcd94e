//! What the kernel told, merged: one entry for each path, however often something happened to it.
//!
//! Readers put in, the engine takes out. Nothing here waits for a disk, so that the kernel's queues are empty again
//! before they overflow. What root alone can change has a share of its own, and so has each user, in names and in
//! bytes: whose share is full has his directories noted instead of names, and the trees that they are in when those are
//! too many. The share of root, when it is full, becomes "anything may have changed".

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use inotify::WatchDescriptor;

use crate::linked::{FileId, LinkedFiles};
use crate::process::Writers;
use crate::trust::{Lane, NOBODY};
use crate::waiting::{BUSY, BusyDirectories, Extent, TOLD, bytes_of};
use crate::workers::Report;

/// Names of what root alone can change, with events that have not been taken yet; beyond it a full scan is asked for
/// instead.
pub(crate) const MAX_PENDING: usize = 200_000;

/// Names of one user with events that have not been taken yet; beyond it, or when they take more than [`TOLD`],
/// directories are noted instead of names.
const MAX_OF_USER: usize = 5_000;

/// Users with a share of their own; all others have one together.
const MAX_USERS: usize = 64;

/// Names of users that are taken at once: what root alone can change is not kept waiting by more.
const TAKEN_OF_USERS: usize = 128;

/// Names of one user that are taken at once.
const TAKEN_OF_USER: usize = 64;

/// What a reader hands over together, when it has more.
const HANDED_OVER: usize = 64;

/// Bytes of the renames that inotify saw.
const MAX_MOVE_BYTES: usize = 4 << 20;

/// Bytes of the paths of programs that were started.
const MAX_STARTED_BYTES: usize = 1 << 20;

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

impl Window {
    /// The time in which both are.
    pub(crate) fn of_both(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) => {
                Some(Self { from: one.from.min(other.from), to: one.to.max(other.to) })
            }
            (one, other) => one.or(other),
        }
    }
}

/// What happened to a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Happened {
    /// Something is finished: the file was closed, or the name came or went. There is no need to wait for quiet
    /// as long as for a file that is being written.
    pub finished: bool,
    /// Whoever wrote the file closed it, or it came from elsewhere.
    pub closed: bool,
    /// The object is a directory.
    pub directory: bool,
    /// The name came.
    pub appeared: bool,
    /// It came more than once: in between something else may have had it.
    pub reappeared: bool,
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
    /// The name that what was here was given.
    pub moved_to: Option<Arc<Path>>,
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
        self.closed |= later.closed;
        self.directory |= later.directory;
        self.reappeared |= later.reappeared || self.appeared && later.appeared;
        self.appeared |= later.appeared;
        self.written |= later.written;
        self.executed |= later.executed;
        self.prove |= later.prove;
        self.window = Window::of_both(self.window, later.window);
        self.writers.merge(later.writers);
        self.moved_from = later.moved_from.or(self.moved_from.take());
        self.moved_to = later.moved_to.or(self.moved_to.take());
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
    /// How many of both are about what root alone can change: those come first.
    pub trusted: [usize; 2],
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
    /// Files that got another name somewhere.
    pub linked: LinkedFiles,
    /// Programs that were started. Nobody is woken for them: they matter only together with what else happened.
    pub started: HashSet<PathBuf>,
    /// Why notifications were lost: anything may have changed.
    pub overflowed: Option<String>,
}

/// A directory in which more happened than can be told by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Busy {
    /// By its path.
    Path(PathBuf, Extent),
    /// By inotify's watch.
    Watch(WatchDescriptor),
}

/// A name in a directory that inotify watches.
pub type Named = (WatchDescriptor, OsString);

/// About what it takes to keep one.
fn bytes_of_name((_, name): &Named) -> usize {
    64 + name.len()
}

/// What happened in one lane.
#[derive(Debug, Default)]
struct Share {
    watches: HashMap<(WatchDescriptor, Option<OsString>), Happened>,
    paths: HashMap<PathBuf, Happened>,
    /// What both take.
    bytes: usize,
    busy: BusyDirectories<()>,
    /// The same by inotify's watches.
    busy_watches: HashSet<WatchDescriptor>,
}

/// Adds what happened to one name of a share.
fn merge<K: Eq + Hash>(
    all: &mut HashMap<K, Happened>,
    key: K,
    length: usize,
    happened: Happened,
    bytes: &mut usize,
) {
    match all.entry(key) {
        Entry::Occupied(mut known) => {
            *bytes -= bytes_of(length, known.get());
            known.get_mut().merge(happened);
            *bytes += bytes_of(length, known.get());
        }
        Entry::Vacant(free) => {
            *bytes += bytes_of(length, &happened);
            free.insert(happened);
        }
    }
}

impl Share {
    fn len(&self) -> usize {
        self.watches.len() + self.paths.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0 && self.busy.is_empty() && self.busy_watches.is_empty()
    }

    /// Adds what happened to a name; gives it back when it is a new one and there is no room.
    fn add(&mut self, name: Name, happened: Happened, is_full: bool) -> Option<Name> {
        match name {
            Name::Path(path) if is_full && !self.paths.contains_key(&path) => Some(Name::Path(path)),
            Name::Path(path) => {
                let length = path.as_os_str().len();
                merge(&mut self.paths, path, length, happened, &mut self.bytes);
                None
            }
            Name::Watch(watch, name) => {
                let length = name.as_ref().map_or(0, |name| name.len());
                let key = (watch, name);
                if is_full && !self.watches.contains_key(&key) {
                    return Some(Name::Watch(key.0, key.1));
                }
                merge(&mut self.watches, key, length, happened, &mut self.bytes);
                None
            }
        }
    }

    /// Notes that more happened in the directory of a name than can be told by it; `false` when there is no room for
    /// that.
    fn note_busy(&mut self, name: Name, happened: &Happened) -> bool {
        match name {
            Name::Path(path) => {
                if let Some(parent) = path.parent() {
                    self.busy.add(parent.to_owned(), Extent::Names, ());
                }
                // What is in a directory that came is found with it, and what went has nothing in it.
                if happened.directory && happened.appeared {
                    self.busy.add(path, Extent::Tree, ());
                }
            }
            Name::Watch(watch, _) => {
                if self.busy_watches.len() >= MAX_OF_USER {
                    return false;
                }
                self.busy_watches.insert(watch);
            }
        }
        if self.busy.bytes() > BUSY.of_user {
            self.busy.widen(BUSY.of_user / 2);
        }
        true
    }

    /// Moves at most `most` names to what is taken.
    fn give(&mut self, most: usize, taken: &mut Taken) {
        if self.len() <= most {
            taken.paths.extend(self.paths.drain());
            let watches = self.watches.drain();
            taken.watches.extend(watches.map(|((watch, name), happened)| (watch, name, happened)));
            taken.busy.extend(self.busy.take().map(|(path, extent)| Busy::Path(path, extent)));
            taken.busy.extend(self.busy_watches.drain().map(Busy::Watch));
            self.bytes = 0;
            // What a burst needed is not kept for ever.
            self.paths.shrink_to(MIN_ROOM);
            self.watches.shrink_to(MIN_ROOM);
            return;
        }
        let mut left = most;
        for (path, happened) in self.paths.extract_if(|_, _| true).take(most) {
            self.bytes -= bytes_of(path.as_os_str().len(), &happened);
            left -= 1;
            taken.paths.push((path, happened));
        }
        for ((watch, name), happened) in self.watches.extract_if(|_, _| true).take(left) {
            self.bytes -= bytes_of(name.as_ref().map_or(0, |name| name.len()), &happened);
            taken.watches.push((watch, name, happened));
        }
    }
}

#[derive(Debug, Default)]
struct Pending {
    trusted: Share,
    users: BTreeMap<u32, Share>,
    /// Which user's share was taken from last.
    last: u32,
    moves: Vec<(Named, Named)>,
    /// What they take.
    move_bytes: usize,
    reports: Vec<Report>,
    mounts_changed: bool,
    loops_changed: bool,
    ended: Vec<WatchDescriptor>,
    linked: LinkedFiles,
    started: HashSet<PathBuf>,
    /// What their paths take.
    started_bytes: usize,
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

    /// Adds what happened to a name.
    fn add(&mut self, lane: Lane, name: Name, happened: Happened) {
        let Lane::Of(user) = lane else {
            let is_full = self.trusted.len() >= MAX_PENDING;
            if self.trusted.add(name, happened, is_full).is_some() {
                self.trusted = Share::default();
                self.note_overflow(MAX_PENDING);
            }
            return;
        };
        let has_room = self.users.len() < MAX_USERS || self.users.contains_key(&user);
        let user = if has_room { user } else { NOBODY };
        let of_users = self.bytes_of_users();
        let share = self.users.entry(user).or_default();
        let is_full = share.len() >= MAX_OF_USER || share.bytes >= TOLD.of_user || of_users >= TOLD.of_users;
        let appeared =
            Happened { directory: happened.directory, appeared: happened.appeared, ..Happened::default() };
        let Some(name) = share.add(name, happened, is_full) else { return };
        if !share.note_busy(name, &appeared) {
            *share = Share::default();
            self.note_overflow(MAX_OF_USER);
            return;
        }
        let busy: usize = self.users.values().map(|share| share.busy.bytes()).sum();
        if busy > BUSY.of_users
            && let Some(share) = self.users.get_mut(&user)
        {
            share.busy.widen(BUSY.of_users / (2 * MAX_USERS));
        }
    }

    fn bytes_of_users(&self) -> usize {
        self.users.values().map(|share| share.bytes).sum()
    }

    /// Nobody knows any more what happened.
    fn note_overflow(&mut self, most: usize) {
        (self.moves, self.move_bytes) = (Vec::new(), 0);
        self.overflowed = Some(format!("more than {most} names had pending events"));
    }

    /// Takes the share of what is trusted, and some of the users' in turn, unless enough of those was taken already.
    fn take(&mut self, of_users: bool) -> Taken {
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
        (self.move_bytes, self.started_bytes) = (0, 0);
        self.trusted.give(usize::MAX, &mut taken);
        taken.trusted = [taken.watches.len(), taken.paths.len()];
        if !of_users {
            return taken;
        }
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
#[derive(Debug)]
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

/// Something that happened, on its way into the mailbox.
#[derive(Debug)]
enum Put {
    Name(Lane, Name, Happened),
    Moved(Named, Named),
    MountsChanged,
    LoopsChanged,
    Started(PathBuf),
    Linked(FileId, u32, Happened),
    Ended(WatchDescriptor),
    Overflowed(String),
}

impl Pending {
    fn put(&mut self, put: Put) {
        match put {
            Put::Name(lane, name, happened) => self.add(lane, name, happened),
            Put::Moved(from, to) => {
                // Beyond it a rename is told as what went and what came.
                let bytes = bytes_of_name(&from) + bytes_of_name(&to);
                if self.move_bytes + bytes <= MAX_MOVE_BYTES {
                    self.move_bytes += bytes;
                    self.moves.push((from, to));
                }
            }
            Put::MountsChanged => self.mounts_changed = true,
            Put::LoopsChanged => self.loops_changed = true,
            Put::Started(path) => {
                let bytes = path.as_os_str().len();
                if self.started_bytes + bytes <= MAX_STARTED_BYTES && self.started.insert(path) {
                    self.started_bytes += bytes;
                }
            }
            Put::Linked(file, owner, happened) => self.linked.add(file, owner, happened),
            Put::Ended(watch) => self.ended.push(watch),
            Put::Overflowed(why) => self.overflowed = Some(why),
        }
    }
}

/// What is put into the mailbox together, when it is dropped or handed over. Until then nobody is kept from the
/// mailbox: a reader asks for paths meanwhile, and users make those so long that it takes a millisecond.
#[derive(Debug)]
pub struct Batch<'a> {
    puts: Vec<Put>,
    shared: &'a Shared,
}

impl Batch<'_> {
    /// Something happened to a name in a directory that inotify watches.
    pub fn watch(&mut self, lane: Lane, watch: WatchDescriptor, name: Option<OsString>, happened: Happened) {
        self.puts.push(Put::Name(lane, Name::Watch(watch, name), happened));
    }

    /// Inotify saw a rename.
    pub fn moved(&mut self, from: Named, to: Named) {
        self.puts.push(Put::Moved(from, to));
    }

    /// Something happened to a path.
    pub fn path(&mut self, lane: Lane, path: PathBuf, happened: Happened) {
        self.puts.push(Put::Name(lane, Name::Path(path), happened));
    }

    /// Something was mounted or unmounted.
    pub(crate) fn mounts_changed(&mut self) {
        self.puts.push(Put::MountsChanged);
    }

    /// A loop device got or lost its file.
    pub(crate) fn loops_changed(&mut self) {
        self.puts.push(Put::LoopsChanged);
    }

    /// A program in a watched directory was started.
    pub fn started(&mut self, path: PathBuf) {
        self.puts.push(Put::Started(path));
    }

    /// A file of this owner got another name, and this happened to it under that name.
    pub(crate) fn linked(&mut self, file: FileId, owner: u32, happened: Happened) {
        self.puts.push(Put::Linked(file, owner, happened));
    }

    /// An inotify watch is gone.
    pub fn ended(&mut self, watch: WatchDescriptor) {
        self.puts.push(Put::Ended(watch));
    }

    /// Notifications were lost.
    pub fn overflowed(&mut self, why: &str) {
        self.puts.push(Put::Overflowed(why.to_owned()));
    }

    /// Between two events: hands over what there is when it is much.
    pub(crate) fn hand_over_much(&mut self) {
        if self.puts.len() >= HANDED_OVER {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        if self.puts.is_empty() {
            return;
        }
        let mut pending = self.shared.pending.lock().unwrap_or_else(PoisonError::into_inner);
        self.puts.drain(..).for_each(|put| pending.put(put));
        drop(pending);
        self.shared.arrived.notify_one();
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.hand_over();
    }
}

impl Mailbox {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the mailbox for a batch.
    #[must_use]
    pub fn open(&self) -> Batch<'_> {
        Batch { puts: Vec::new(), shared: &self.0 }
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
    /// What users can change only when that is wanted.
    #[must_use]
    pub(crate) fn wait(&self, timeout: Option<Duration>, of_users: bool) -> Taken {
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
        pending.take(of_users)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Process, Unknown};

    /// What waits in the mailbox of users' names, and where more happened than that.
    fn waits(mailbox: &Mailbox) -> (usize, usize) {
        let pending = mailbox.lock();
        let counted = |share: &Share| {
            let paths = share.paths.iter();
            let bytes: usize = paths.map(|(path, happened)| bytes_of(path.as_os_str().len(), happened)).sum();
            assert_eq!(share.bytes, bytes);
            bytes
        };
        let busy = pending.users.values().map(|share| share.busy.bytes()).sum();
        (pending.users.values().map(counted).sum(), busy)
    }

    /// However long users make paths: those that wait take no more than the shares, and of each that does not wait by
    /// its name the directory, or a tree that it is in, is told.
    #[test]
    fn what_users_cause_takes_no_more_than_their_shares_and_nothing_of_it_is_lost() {
        let mailbox = Mailbox::default();
        let path = |user: u32, chain: usize, level: usize| {
            PathBuf::from(format!("/home/{user}{}", format!("/{chain}-{}", "d".repeat(20)).repeat(level)))
        };
        let happened = || Happened {
            directory: true,
            appeared: true,
            writers: Writers::one(Arc::new(Process::unknown(1, Unknown::Ended))),
            ..Happened::finished()
        };
        let mut made = HashSet::new();
        for user in 0..4 {
            for (chain, level) in (0..60).flat_map(|chain| (1..100).map(move |level| (chain, level))) {
                made.insert(path(user, chain, level));
                mailbox.open().path(Lane::Of(user), path(user, chain, level), happened());
            }
            let (of_users, busy) = waits(&mailbox);
            let longest = bytes_of(4096, &happened());
            assert!(
                of_users <= (TOLD.of_user * (user as usize + 1)).min(TOLD.of_users) + longest,
                "{of_users}"
            );
            assert!(busy <= BUSY.of_user * (user as usize + 1), "{busy}");
        }
        mailbox.open().path(Lane::Trusted, "/etc/shadow".into(), Happened::finished());

        let mut first = true;
        let mut trees = Vec::new();
        while !made.is_empty() && (first || !mailbox.lock().is_quiet()) {
            let taken = mailbox.wait(Some(Duration::ZERO), true);
            assert_eq!(taken.overflowed, None);
            assert_eq!(taken.paths.iter().any(|(path, _)| path == Path::new("/etc/shadow")), first);
            first = false;
            taken.paths.iter().for_each(|(path, _)| _ = made.remove(path));
            trees.extend(taken.busy.into_iter().filter_map(|busy| match busy {
                Busy::Path(path, Extent::Tree) => Some(path),
                _ => None,
            }));
        }
        made.retain(|path| !trees.iter().any(|tree| path.starts_with(tree)));
        assert!(made.is_empty(), "{} are lost", made.len());
        assert_eq!(waits(&mailbox), (0, 0));
    }

    /// A reader that takes its time keeps nobody from the mailbox, and what belongs to one event comes together.
    #[test]
    fn what_is_put_together_comes_together_and_keeps_nobody_waiting_until_then() {
        let mailbox = Mailbox::default();
        let mut batch = mailbox.open();
        batch.path(Lane::Of(7), "/home/a".into(), Happened::finished());

        mailbox.open().path(Lane::Trusted, "/etc/shadow".into(), Happened::finished());
        let first = mailbox.wait(Some(Duration::ZERO), true);
        for number in 0..HANDED_OVER {
            batch.path(Lane::Of(7), format!("/home/{number}").into(), Happened::finished());
        }
        let before = mailbox.wait(Some(Duration::ZERO), true);
        batch.hand_over_much();
        let after = mailbox.wait(Some(Duration::ZERO), true);

        assert_eq!(first.paths, [("/etc/shadow".into(), Happened::finished())]);
        assert_eq!((before.paths.len(), after.paths.len()), (0, TAKEN_OF_USER));
    }
}
