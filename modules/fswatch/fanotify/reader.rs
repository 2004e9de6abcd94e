//! Reads what a group of fanotify tells, finds out which paths it is about, drops what no rule is interested in and
//! merges the rest into the mailbox. The queue is not bounded, and an event costs the thread a microsecond or two, so
//! that it is not overtaken for long.

use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime};

use rustix::event::PollFlags;
use rustix::fs::{AtFlags, Statx, StatxFlags};
use vigie_fanotify::{Buffer, Entry, Event, FilesystemId, Group, Handle, HandleRef, Mask};
use vigie_host::mounts::{Mount, Mounts};

use super::execs::Kernel;
use super::{Near, READ_BYTES, near, open_mount};
use crate::avoided::{Avoided, path_of};
use crate::ending::{Ending, Rest};
use crate::events::{Batch, Happened, Mailbox};
use crate::execs::{Opened, Position};
use crate::linked::FileId;
use crate::process::{Process, Writers};
use crate::processes::Processes;
use crate::rules::{Coverage, Interest};
use crate::trust::{Lane, Trust};

/// Bytes of the directories that are remembered; beyond it all are forgotten and looked up again. That is enough for
/// ten thousand of them with usual paths, and users make paths as long as they like.
const MAX_DIRECTORY_BYTES: usize = 4 << 20;

/// Files with another name that are remembered.
const MAX_LINKS: usize = 1024;

/// For how long, in nanoseconds: by then their names are followed, or nobody knows another one.
const LINK_KEPT: u64 = 2_000_000_000;

/// By how much a time that a file system writes can be before the moment.
const COARSE: Duration = Duration::from_millis(20);

/// Events of one reading from which on more may have waited than it could take.
const FULL: usize = 64;

/// What the readers go by.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    pub(super) coverage: Option<Arc<Coverage>>,
    pub(super) mounts: Arc<Mounts>,
    /// The mounts of each marked file system.
    pub(super) filesystems: HashMap<FilesystemId, Vec<Mount>>,
}

/// What a reader is told.
#[derive(Debug)]
pub(super) enum Control {
    View(View),
    /// A watched file has other names: what happens to it under any of them is told under this one.
    Linked(Handle, PathBuf),
    /// None of those is known any more.
    NoLinks,
}

/// A file that has, or had, more than one name.
#[derive(Debug, Clone, Copy)]
struct Link {
    file: FileId,
    owner: u32,
    /// Something was written under that name.
    written: bool,
    /// When it was seen, in nanoseconds since the start of the host.
    noted: u64,
}

/// Who opened something to run it, when this is what an event tells.
fn opener(event: &Event<'_>) -> Option<i32> {
    event.mask.contains(Mask::OPEN_EXEC).then_some(event.pid)
}

#[expect(clippy::disallowed_methods, reason = "this thread lives in real time")]
fn now() -> Instant {
    Instant::now()
}

/// Nanoseconds since the start of the host.
pub(super) fn since_start() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap_or(0)
}

/// What is known of a directory.
#[derive(Debug, Clone)]
struct Directory {
    /// Its path through the first mount that shows it.
    path: Arc<Path>,
    /// Its paths in which a rule is interested, each with the lane of what is in it; none where that depends on the
    /// name.
    watched: Arc<[(PathBuf, Option<Lane>)]>,
    /// Names in it that are mounted elsewhere, and where.
    bound: Arc<[(OsString, PathBuf)]>,
}

impl Directory {
    /// About what it takes in memory.
    fn bytes(&self) -> usize {
        const ITSELF: usize = 256;
        let watched: usize = self.watched.iter().map(|(path, _)| path.as_os_str().len()).sum();
        let bound: usize = self.bound.iter().map(|(name, path)| name.len() + path.as_os_str().len()).sum();
        ITSELF + self.path.as_os_str().len() + watched + bound
    }
}

/// Reads the queue of one group.
pub(super) struct Reader {
    group: Arc<Group>,
    mailbox: Mailbox,
    control: mpsc::Receiver<Control>,
    view: View,
    /// How often directories moved, for both readers; and how often when the paths were looked up that are remembered.
    moved: Arc<AtomicU64>,
    seen_moved: u64,
    /// What another group tells of.
    others: Option<Near>,
    directories: HashMap<Handle, Directory>,
    /// What they take.
    directory_bytes: usize,
    linked: HashMap<Handle, Vec<PathBuf>>,
    /// Files that got another name lately, or lost one, whose other names are not followed yet.
    links: HashMap<Handle, Link>,
    /// A mount that is open while events are looked at.
    open: Option<(FilesystemId, OwnedFd)>,
    /// Shared: what one queue told of a process need not be asked for the other.
    processes: Arc<Mutex<Processes>>,
    /// Tells what processes ran, where BPF can be loaded.
    kernel: Arc<Kernel>,
    /// What the queue tells now happened after this, in nanoseconds since the start of the host.
    horizon: u64,
    /// When it was read last.
    read_at: u64,
    opened: Opened,
    /// Who opened what to run it in events that were read and not looked at yet, in their order.
    ahead: VecDeque<i32>,
    trust: Trust,
    /// Where nobody looks.
    avoided: Avoided,
}

impl Reader {
    #[expect(clippy::too_many_arguments, reason = "what both readers share, each for a reason of its own")]
    pub(super) fn new(
        group: Arc<Group>,
        mailbox: Mailbox,
        control: mpsc::Receiver<Control>,
        moved: Arc<AtomicU64>,
        processes: Arc<Mutex<Processes>>,
        kernel: Arc<Kernel>,
        others: Option<Near>,
        avoided: Avoided,
    ) -> Self {
        Self {
            group,
            mailbox,
            control,
            view: View::default(),
            moved,
            seen_moved: 0,
            others,
            directories: HashMap::new(),
            directory_bytes: 0,
            linked: HashMap::new(),
            links: HashMap::new(),
            open: None,
            processes,
            kernel,
            // Nothing is marked yet.
            horizon: since_start(),
            read_at: 0,
            opened: Opened::default(),
            ahead: VecDeque::new(),
            trust: Trust::new(avoided.clone()),
            avoided,
        }
    }

    pub(super) fn run(mut self, end: &Ending) {
        let group = Arc::clone(&self.group);
        let mailbox = self.mailbox.clone();
        let mut buffer = Buffer::new(READ_BYTES);
        let mut rest = Rest::new(now());
        loop {
            match end.wait(group.as_fd(), PollFlags::IN) {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => break,
            }
            self.read_at = since_start();
            match group.read(&mut buffer) {
                Ok(Some(events)) => {
                    // After the read: whoever changed the rules before one of these events did so before this, and
                    // whoever made one has run his program before.
                    self.take_controls();
                    self.kernel.take();
                    let now = now();
                    self.processes().recheck(now);
                    let mut batch = mailbox.open();
                    let events: Vec<_> = events.collect();
                    let count = events.len();
                    self.ahead = events.iter().flatten().filter_map(opener).collect();
                    for event in events {
                        match event {
                            Ok(event) => self.note(&event, &mut batch),
                            Err(error) => batch.overflowed(&format!(
                                "fanotify sent an event that cannot be decoded: {error}"
                            )),
                        }
                        batch.hand_over_much();
                    }
                    drop(batch);
                    self.ahead.clear();
                    // What is kept open cannot be unmounted.
                    self.open = None;
                    if count < FULL {
                        self.horizon = self.read_at;
                    }
                    // The kernel's queue has no bound, so that nothing is lost meanwhile. Processes that come and go
                    // are asked as early as possible.
                    let met = self.processes().take_met();
                    if rest.is_due(count, now) && !met && !end.rest().unwrap_or(true) {
                        return;
                    }
                }
                Ok(None) => {}
                Err(_) => break,
            }
        }
        // The descriptor is ours and the buffer large enough: only a broken kernel gets here.
        mailbox.open().overflowed("fanotify can no longer be read");
    }

    fn take_controls(&mut self) {
        while let Ok(control) = self.control.try_recv() {
            match control {
                Control::View(view) => {
                    self.view = view;
                    self.forget();
                }
                // What is known of its other names is still being looked for.
                Control::Linked(handle, path) => self.linked.entry(handle).or_default().push(path),
                Control::NoLinks => self.linked.clear(),
            }
        }
    }

    fn note(&mut self, event: &Event<'_>, batch: &mut Batch<'_>) {
        if event.mask.contains(Mask::Q_OVERFLOW) {
            batch.overflowed("fanotify's queue overflowed");
            return;
        }
        let is_directory = event.mask.contains(Mask::ONDIR);
        if opener(event).is_some() {
            self.ahead.pop_front();
        }
        if event.mask.contains(Mask::OPEN_EXEC)
            && let Some(entry) = event.directory
            && let Some(directory) = self.directory(entry.directory)
        {
            let program = directory.path.join(entry.name);
            self.processes().starts(event.pid, &program);
            self.opened.put(event.pid, program, self.read_at);
            // Once is enough.
            if self.others.is_none() {
                for (watched, _) in directory.watched.iter() {
                    batch.started(watched.join(entry.name));
                }
            }
        }
        if is_directory && event.mask.intersects(Mask::RENAME | Mask::ATTRIB) {
            // Whatever is below it has another path now, or others may write it.
            self.moved.fetch_add(1, Ordering::SeqCst);
            self.forget();
        }
        if is_directory
            && event.mask.contains(Mask::DELETE)
            && let Some(target) = event.target
        {
            let gone = self.directories.remove(&Handle::from(target));
            self.directory_bytes -= gone.map_or(0, |directory| directory.bytes());
        }
        if !event.mask.intersects(near().difference(Mask::ONDIR)) || self.is_others(event) {
            return;
        }
        if self.seen_moved != self.moved.load(Ordering::SeqCst) {
            self.seen_moved = self.moved.load(Ordering::SeqCst);
            self.forget();
        }
        let from = event.old.map(|old| self.paths(&old)).unwrap_or_default();
        let to = event.new.map(|new| self.paths(&new)).unwrap_or_default();
        let at = event.directory.map(|entry| self.paths(&entry)).unwrap_or_default();
        let elsewhere = self.names_elsewhere(event, &at);
        let target = event.target.filter(|_| !is_directory);
        let link = target.and_then(|target| self.link_of(event, target));
        let is_followed = target.is_some_and(|target| self.linked.contains_key(&Handle::from(target)));
        if from.is_empty() && to.is_empty() && at.is_empty() && elsewhere.is_empty() && link.is_none() {
            return;
        }
        let process = self.process_of(event.pid);
        let happened = Happened {
            // A new file is written to next; a new directory is complete as it is, and so is another name of a file.
            finished: is_directory
                || (is_followed || link.is_some()) && !event.mask.contains(Mask::MODIFY)
                || !event.mask.difference(Mask::CREATE | Mask::MODIFY | Mask::OPEN_EXEC).is_empty(),
            directory: is_directory,
            appeared: event.mask.contains(Mask::CREATE),
            closed: event.mask.contains(Mask::CLOSE_WRITE),
            written: event.mask.intersects(Mask::MODIFY | Mask::CLOSE_WRITE),
            writers: Writers::one(process),
            ..Happened::default()
        };
        if let Some(Link { file, owner, written, .. }) = link {
            let mut its = Happened { appeared: false, ..happened.clone() };
            // Who removes the name afterwards did not write.
            if written && !happened.written {
                its.writers = Writers::default();
            }
            batch.linked(file, owner, its);
        }
        let first = |names: &[(PathBuf, Lane)]| names.first().map(|(path, _)| Arc::from(path.as_path()));
        let (source, target): (Option<Arc<Path>>, Option<Arc<Path>>) = (first(&from), first(&to));
        for (path, lane) in from {
            batch.path(lane, path, Happened { moved_to: target.clone(), ..happened.clone() });
        }
        for (path, lane) in at.into_iter().chain(elsewhere) {
            batch.path(lane, path, happened.clone());
        }
        for (path, lane) in to {
            batch.path(
                lane,
                path,
                Happened { appeared: true, closed: true, moved_from: source.clone(), ..happened.clone() },
            );
        }
    }

    /// What was known of directories is not true any more.
    fn forget(&mut self) {
        self.forget_directories();
        self.trust.forget_all();
    }

    fn process_of(&self, pid: i32) -> Arc<Process> {
        let queue = Position { opened: &self.opened, horizon: self.horizon, more: self.ahead.contains(&pid) };
        self.processes().of(pid, queue)
    }

    fn processes(&self) -> MutexGuard<'_, Processes> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the other group tells of it. What may have happened before that had its mark is told by this one: twice
    /// is better than not at all, and becomes one in the mailbox.
    fn is_others(&self, event: &Event<'_>) -> bool {
        let Some(others) = &self.others else { return false };
        let others = others.lock().unwrap_or_else(PoisonError::into_inner);
        let is_its = |entry: Option<Entry<'_>>| {
            entry.is_none_or(|entry| {
                others
                    .get(&Handle::from(entry.directory))
                    .is_some_and(|mark| mark.lane == Lane::Trusted && mark.since <= self.horizon)
            })
        };
        let has_name = event.directory.is_some() || event.old.is_some() || event.new.is_some();
        has_name && is_its(event.directory) && is_its(event.old) && is_its(event.new)
    }

    /// The file that an event is about, when that is one of several names and its others are not followed: a name of an
    /// older file came just now, or did a moment ago, or one went and the file is still there.
    fn link_of(&mut self, event: &Event<'_>, target: HandleRef<'_>) -> Option<Link> {
        let handle = Handle::from(target);
        let written = event.mask.intersects(Mask::MODIFY | Mask::CLOSE_WRITE);
        let now = self.read_at;
        let is_kept = |link: &Link| now.saturating_sub(link.noted) < LINK_KEPT;
        match self.links.get_mut(&handle) {
            Some(link) if is_kept(link) => {
                link.written |= written;
                return Some(*link);
            }
            Some(_) => drop(self.links.remove(&handle)),
            None => {}
        }
        if !event.mask.intersects(Mask::CREATE | Mask::DELETE) || self.linked.contains_key(&handle) {
            return None;
        }
        let found = self.open(target)?;
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let status = rustix::fs::statx(&found, "", AtFlags::EMPTY_PATH, wanted).ok()?;
        let is_link = status.stx_nlink > 1
            // The other name is the only one by now: what was removed has none, and what was created is younger.
            || status.stx_nlink == 1
                && (event.mask.contains(Mask::DELETE) || self.was_there(&status));
        if !is_link {
            return None;
        }
        let device = rustix::fs::makedev(status.stx_dev_major, status.stx_dev_minor);
        let (file, owner) = ((device, status.stx_ino), status.stx_uid);
        let link = Link { file, owner, written, noted: now };
        if self.links.len() >= MAX_LINKS {
            self.links.retain(|_, known| is_kept(known));
        }
        if self.links.len() >= MAX_LINKS {
            // Whatever users do, those of root stay.
            self.links.retain(|_, known| known.owner == 0 && owner != 0);
        }
        if self.links.len() < MAX_LINKS {
            self.links.insert(handle, link);
        }
        Some(link)
    }

    /// Opens what a handle names. The mount stays open while events are looked at that were read together.
    fn open(&mut self, target: HandleRef<'_>) -> Option<OwnedFd> {
        let handle = Handle::from(target);
        if let Some((filesystem, open)) = &self.open
            && *filesystem == target.filesystem
        {
            return vigie_fanotify::open_handle(open.as_fd(), &handle).ok();
        }
        let mounts = self.view.filesystems.get(&target.filesystem)?;
        let open = mounts.iter().find_map(|mount| open_mount(&mount.point, &self.avoided).ok())?;
        let (_, open) = self.open.insert((target.filesystem, open));
        vigie_fanotify::open_handle(open.as_fd(), &handle).ok()
    }

    /// Whether a file was there before all that the queue tells now.
    fn was_there(&self, status: &Statx) -> bool {
        let born = &status.stx_btime;
        let born = Duration::new(u64::try_from(born.tv_sec).unwrap_or_default(), born.tv_nsec);
        let ago = Duration::from_nanos(since_start().saturating_sub(self.horizon)) + COARSE;
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        status.stx_mask & StatxFlags::BTIME.bits() != 0 && born + ago < since
    }

    /// Other watched names of the object.
    fn names_elsewhere(&mut self, event: &Event<'_>, at: &[(PathBuf, Lane)]) -> Vec<(PathBuf, Lane)> {
        let touched = event.mask.intersects(Mask::MODIFY | Mask::CLOSE_WRITE | Mask::ATTRIB);
        let Some(target) = event.target.filter(|_| touched && !self.linked.is_empty()) else {
            return Vec::new();
        };
        let names = self.linked.get(&Handle::from(target)).cloned().unwrap_or_default();
        let elsewhere = names.into_iter().filter(|name| at.iter().all(|(path, _)| path != name));
        elsewhere.map(|path| (path.clone(), self.trust.lane(&path))).collect()
    }

    /// The watched paths of a name.
    fn paths(&mut self, entry: &Entry<'_>) -> Vec<(PathBuf, Lane)> {
        let Some(directory) = self.directory(entry.directory) else { return Vec::new() };
        let is_itself = entry.name == OsStr::new(".") || entry.name.is_empty();
        let path = |(directory, lane): &(PathBuf, Option<Lane>)| {
            let path = if is_itself { directory.clone() } else { directory.join(entry.name) };
            let lane = lane.filter(|_| !is_itself).unwrap_or_else(|| self.trust.lane(&path));
            (path, lane)
        };
        let mut paths: Vec<_> = directory.watched.iter().map(path).collect();
        for (_, point) in directory.bound.iter().filter(|(name, _)| name == entry.name) {
            paths.push((point.clone(), self.trust.lane(point)));
        }
        paths
    }

    fn directory(&mut self, handle: HandleRef<'_>) -> Option<Directory> {
        let key = Handle::from(handle);
        if let Some(known) = self.directories.get(&key) {
            return Some(known.clone());
        }
        // One that is gone may be a new one's handle later, and is not remembered.
        let found = self.look_up(handle)?;
        if self.directory_bytes + found.bytes() > MAX_DIRECTORY_BYTES {
            self.forget_directories();
        }
        self.directory_bytes += found.bytes();
        self.directories.insert(key, found.clone());
        Some(found)
    }

    fn forget_directories(&mut self) {
        // What a burst needed is not kept for ever.
        self.directories = HashMap::new();
        self.directory_bytes = 0;
    }

    fn look_up(&mut self, handle: HandleRef<'_>) -> Option<Directory> {
        let mounts = self.view.filesystems.get(&handle.filesystem)?;
        let (mount, path) =
            mounts.iter().find_map(|mount| Some((mount, path_through(mount, handle, &self.avoided)?)))?;
        let inside = match path.strip_prefix(&mount.point).ok()? {
            rest if rest.as_os_str().is_empty() => mount.root.clone(),
            rest => mount.root.join(rest),
        };
        let coverage = self.view.coverage.as_deref();
        let interests = |path: &PathBuf| {
            let is_visible = |id| self.view.mounts.of(path).is_some_and(|mount| mount.id == id);
            mounts.iter().any(|mount| mount.shows(&inside).as_ref() == Some(path) && is_visible(mount.id))
                && coverage.is_some_and(|coverage| coverage.interest(path) != Interest::Nothing)
        };
        let mut watched: Vec<PathBuf> =
            mounts.iter().filter_map(|mount| mount.shows(&inside)).filter(interests).collect();
        watched.sort();
        watched.dedup();
        let watched = watched.into_iter().map(|path| {
            let lane = self.trust.lane_of_names(&path);
            (path, lane)
        });
        let watched = watched.collect();
        let bound = mounts.iter().filter_map(|mount| {
            let is_there = mount.root.parent() == Some(&inside) && mount.point != path;
            let is_covered = || coverage.is_some_and(|coverage| coverage.concerns(&mount.point));
            let name = mount.root.file_name().filter(|_| is_there && is_covered())?;
            Some((name.to_owned(), mount.point.clone()))
        });
        let bound = bound.collect();
        Some(Directory { path: path.into(), watched, bound })
    }
}

/// The path of what a handle names, as a mount shows it. The mount is opened for this only: what is kept open cannot be
/// unmounted.
fn path_through(mount: &Mount, handle: HandleRef<'_>, avoided: &Avoided) -> Option<PathBuf> {
    let open = open_mount(&mount.point, avoided).ok()?;
    let found = vigie_fanotify::open_handle(open.as_fd(), &Handle::from(handle)).ok()?;
    let path = fs::read_link(path_of(&found)).ok()?;
    if !path.starts_with(&mount.point) {
        return None;
    }
    // Of a part of a file system the kernel also names what is not in that part, and of the removed their old names.
    let there = avoided.status(&path).ok()?;
    let it = rustix::fs::fstat(&found).ok()?;
    ((there.st_dev, there.st_ino) == (it.st_dev, it.st_ino)).then_some(path)
}
