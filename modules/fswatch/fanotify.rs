//! The backend that sees whole file systems and who changed something: fanotify(7), a mark for each file system.
//!
//! A thread of its own reads the kernel's queue. It finds out which directory an event is in, drops what no rule is
//! interested in, and merges the rest into the mailbox. The queue is not bounded, and an event costs the thread a
//! microsecond or two, so that it is not overtaken for long.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use vigie_fanotify::{
    Buffer, Entry, Event, FilesystemId, Group, GroupError, Handle, HandleRef, Malformed, Mask, Options,
};

use crate::ending::{Ending, Owner, Rest, ending};
use crate::events::{Batch, Happened, Mailbox};
use crate::mounts::{Mount, Mounts};
use crate::process::Writers;
use crate::processes::Processes;
use crate::rules::{Coverage, Interest};
use crate::trust::{Lane, Trust};

/// Room for events in one read, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// Directories whose paths are remembered; beyond it all are forgotten and looked up again.
const MAX_DIRECTORIES: usize = 65_536;

/// Files with several names of which each is told; of more, a scan tells.
const MAX_LINKED: usize = 100_000;

/// Longest time that the self-test waits for its event.
const SELF_TEST_PATIENCE: Duration = Duration::from_secs(2);

/// Marks that tell of changes.
fn changes() -> Mask {
    Mask::CREATE | Mask::DELETE | Mask::RENAME | Mask::MODIFY | Mask::CLOSE_WRITE | Mask::ATTRIB | Mask::ONDIR
}

/// What the reader goes by.
#[derive(Debug, Clone, Default)]
struct View {
    coverage: Option<Arc<Coverage>>,
    mounts: Arc<Mounts>,
    /// The mounts of each marked file system.
    filesystems: HashMap<FilesystemId, Vec<Mount>>,
}

/// What the reader is told.
#[derive(Debug)]
enum Control {
    View(View),
    /// A watched file has other names: what happens to it under any of them is told under this one.
    Linked(Handle, PathBuf),
}

/// Watches file systems.
#[derive(Debug)]
pub struct FilesystemWatcher {
    group: Arc<Group>,
    control: mpsc::Sender<Control>,
    view: View,
    /// The reader ends with it.
    _owner: Owner,
}

#[expect(clippy::disallowed_methods, reason = "this thread lives in real time")]
fn now() -> Instant {
    Instant::now()
}

fn open_mount(point: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, point, flags, Mode::empty())?)
}

/// Without descriptors of processes: they cost four times as much as the event itself, and `/proc` says as much.
fn group() -> Result<Group, GroupError> {
    Group::new(Options { unlimited_queue: true, pidfd: false, target: true })
}

/// Proves that the kernel tells what it promises: makes a file in a directory of our own and waits for the event with
/// its name and our process.
///
/// # Errors
/// What did not work.
pub fn self_test(directory: &Path) -> Result<(), String> {
    let group = group().map_err(|error| error.to_string())?;
    let open = open_mount(directory).map_err(|error| error.to_string())?;
    group
        .mark_filesystem(open.as_fd(), changes() | Mask::OPEN_EXEC)
        .map_err(|error| format!("the state directory's file system cannot be marked: {error}"))?;
    let name = format!("fswatch.self-test.{}", std::process::id());
    let path = directory.join(&name);
    fs::write(&path, "").map_err(|error| format!("the self-test cannot write: {error}"))?;
    fs::remove_file(&path).ok();
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let mut buffer = Buffer::new(READ_BYTES);
    let timeout = Timespec::try_from(SELF_TEST_PATIENCE).map_err(|error| error.to_string())?;
    // Other processes may keep the queue busy, but not for so many events.
    for _ in 0..10_000 {
        let ready = poll(&mut [PollFd::new(&group, PollFlags::IN)], Some(&timeout))
            .map_err(|error| error.to_string())?;
        if ready == 0 {
            break;
        }
        while let Some(mut events) = group.read(&mut buffer).map_err(|error| error.to_string())? {
            let is_ours = |event: Result<Event<'_>, Malformed>| {
                event.is_ok_and(|event| {
                    event.pid == own && event.directory.is_some_and(|entry| entry.name == OsStr::new(&name))
                })
            };
            if events.any(is_ours) {
                return Ok(());
            }
        }
    }
    Err("the kernel accepted a mark, but did not tell of a file that was made".to_owned())
}

impl FilesystemWatcher {
    /// Begins to watch nothing.
    ///
    /// # Errors
    /// Why not: without `CAP_SYS_ADMIN`, or on a kernel before 5.17.
    pub fn start(mailbox: Mailbox) -> Result<Self, String> {
        let group = Arc::new(group().map_err(|error| error.to_string())?);
        let (control, received) = mpsc::channel();
        let (owner, end) = ending().map_err(|error| error.to_string())?;
        let reader = Reader {
            end,
            group: Arc::clone(&group),
            mailbox,
            control: received,
            view: View::default(),
            directories: HashMap::new(),
            linked: HashMap::new(),
            processes: Processes::default(),
            trust: Trust::default(),
        };
        std::thread::Builder::new()
            .name("fanotify".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || reader.run())
            .map_err(|error| error.to_string())?;
        Ok(Self { group, control, view: View::default(), _owner: owner })
    }

    fn tell(&self, control: Control) {
        // The reader ends only with us.
        self.control.send(control).ok();
    }

    /// Marks the file system that a directory is on.
    ///
    /// # Errors
    /// Why it cannot be watched in this way.
    pub fn mark(&mut self, directory: &Path, device: u64, mounts: &Arc<Mounts>) -> Result<(), String> {
        let open = open_mount(directory).map_err(|error| error.to_string())?;
        let filesystem = FilesystemId::of(open.as_fd()).map_err(|error| error.to_string())?;
        let seen: Vec<Mount> = mounts.iter().filter(|mount| mount.device == device).cloned().collect();
        if seen.is_empty() {
            return Err("its mount cannot be told by its device number".to_owned());
        }
        let kind = seen[0].kind.clone();
        // The reader knows the file system before its first event.
        self.view.filesystems.insert(filesystem, seen);
        self.view.mounts = Arc::clone(mounts);
        self.tell(Control::View(self.view.clone()));
        self.group.mark_filesystem(open.as_fd(), changes() | Mask::OPEN_EXEC).map_err(|error| {
            self.view.filesystems.remove(&filesystem);
            format!("{kind} takes no mark of fanotify: {error}")
        })
    }

    /// Something was mounted or unmounted.
    pub fn remount(&mut self, mounts: &Arc<Mounts>) {
        for seen in self.view.filesystems.values_mut() {
            let device = seen.first().map(|mount| mount.device);
            *seen = mounts.iter().filter(|mount| Some(mount.device) == device).cloned().collect();
        }
        self.view.filesystems.retain(|_, seen| !seen.is_empty());
        self.view.mounts = Arc::clone(mounts);
        self.tell(Control::View(self.view.clone()));
    }

    /// Other rules apply.
    pub fn cover(&mut self, coverage: &Arc<Coverage>) {
        self.view.coverage = Some(Arc::clone(coverage));
        self.tell(Control::View(self.view.clone()));
    }

    /// Tells of what happens to this file under other names as well.
    pub fn follow_names(&self, path: &Path) {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return };
        if let Ok(handle) = open_mount(parent).and_then(|open| vigie_fanotify::handle_of(open.as_fd(), name))
        {
            self.tell(Control::Linked(handle.into_handle(), path.to_owned()));
        }
    }

    /// Does not tell of what happens in the module's own directory.
    pub fn ignore(&self, directory: &Path) {
        if let Ok(open) = open_mount(directory) {
            // Only spares us work; kernels before 6.0 cannot.
            self.group.ignore_directory(open.as_fd(), changes()).ok();
        }
    }
}

/// What is known of a directory.
#[derive(Debug, Clone)]
struct Directory {
    /// Its path through the first mount that shows it.
    path: Arc<Path>,
    /// Its paths in which a rule is interested, each with the lane of what is in it; none where that depends on the name.
    watched: Arc<[(PathBuf, Option<Lane>)]>,
}

struct Reader {
    end: Ending,
    group: Arc<Group>,
    mailbox: Mailbox,
    control: mpsc::Receiver<Control>,
    view: View,
    directories: HashMap<Handle, Option<Directory>>,
    linked: HashMap<Handle, Vec<PathBuf>>,
    processes: Processes,
    trust: Trust,
}

impl Reader {
    fn run(mut self) {
        let group = Arc::clone(&self.group);
        let mailbox = self.mailbox.clone();
        let mut buffer = Buffer::new(READ_BYTES);
        let mut rest = Rest::new(now());
        loop {
            match self.end.wait(group.as_fd(), PollFlags::IN) {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => break,
            }
            match group.read(&mut buffer) {
                Ok(Some(events)) => {
                    // After the read: whoever changed the rules before one of these events did so before this.
                    self.take_controls();
                    let now = now();
                    self.processes.recheck(now);
                    let mut batch = mailbox.open();
                    let mut count = 0;
                    for event in events {
                        count += 1;
                        match event {
                            Ok(event) => self.note(&event, &mut batch),
                            Err(error) => {
                                batch.overflowed(&format!("fanotify told what cannot be read: {error}"))
                            }
                        }
                    }
                    drop(batch);
                    // The kernel's queue has no bound, so that nothing is lost meanwhile. Processes that come and go are
                    // asked as early as possible.
                    let met = self.processes.take_met();
                    if rest.is_due(count, now) && !met && !self.end.rest().unwrap_or(true) {
                        return;
                    }
                }
                Ok(None) => {}
                Err(_) => break,
            }
        }
        // The descriptor is ours and the buffer large enough: only a broken kernel gets here.
        mailbox.open().overflowed("fanotify cannot be read any more");
    }

    fn take_controls(&mut self) {
        while let Ok(control) = self.control.try_recv() {
            match control {
                Control::View(view) => {
                    self.view = view;
                    self.forget();
                }
                Control::Linked(handle, path) => {
                    if self.linked.len() < MAX_LINKED {
                        let paths = self.linked.entry(handle).or_default();
                        if !paths.contains(&path) {
                            paths.push(path);
                        }
                    }
                }
            }
        }
    }

    fn note(&mut self, event: &Event<'_>, batch: &mut Batch<'_>) {
        if event.mask.contains(Mask::Q_OVERFLOW) {
            batch.overflowed("fanotify's queue overflowed");
            return;
        }
        let is_directory = event.mask.contains(Mask::ONDIR);
        if event.mask.contains(Mask::OPEN_EXEC)
            && let Some(entry) = event.directory
            && let Some(directory) = self.directory(entry.directory)
        {
            self.processes.starts(event.pid, &directory.path.join(entry.name));
        }
        if is_directory && event.mask.intersects(Mask::RENAME | Mask::ATTRIB) {
            // Whatever is below it has another path now, or others may write it.
            self.forget();
        }
        if is_directory
            && event.mask.contains(Mask::DELETE)
            && let Some(target) = event.target
        {
            self.directories.remove(&Handle::from(target));
        }
        if !event.mask.intersects(changes().difference(Mask::ONDIR)) {
            return;
        }
        let from = event.old.map(|old| self.paths(&old)).unwrap_or_default();
        let to = event.new.map(|new| self.paths(&new)).unwrap_or_default();
        let at = event.directory.map(|entry| self.paths(&entry)).unwrap_or_default();
        let linked = self.names_elsewhere(event, &at);
        if from.is_empty() && to.is_empty() && at.is_empty() && linked.is_empty() {
            return;
        }
        let process = self.processes.of(event.pid);
        let happened = Happened {
            // A new file is written to next; a new directory is complete as it is.
            finished: is_directory
                || !event.mask.difference(Mask::CREATE | Mask::MODIFY | Mask::OPEN_EXEC).is_empty(),
            directory: is_directory,
            appeared: event.mask.contains(Mask::CREATE),
            writers: Writers::one(process),
            ..Happened::default()
        };
        let source: Option<Arc<Path>> = from.first().map(|(path, _)| path.as_path().into());
        for (path, lane) in from.into_iter().chain(at).chain(linked) {
            batch.path(lane, path, happened.clone());
        }
        for (path, lane) in to {
            batch.path(
                lane,
                path,
                Happened { appeared: true, moved_from: source.clone(), ..happened.clone() },
            );
        }
    }

    /// What was known of directories is not true any more.
    fn forget(&mut self) {
        self.directories.clear();
        self.trust.forget_all();
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
        directory.watched.iter().map(path).collect()
    }

    fn directory(&mut self, handle: HandleRef<'_>) -> Option<Directory> {
        let key = Handle::from(handle);
        if let Some(known) = self.directories.get(&key) {
            return known.clone();
        }
        let found = self.look_up(handle);
        if self.directories.len() >= MAX_DIRECTORIES {
            self.directories.clear();
        }
        // One that is gone may be a new one's handle later.
        if found.is_some() {
            self.directories.insert(key, found.clone());
        }
        found
    }

    fn look_up(&mut self, handle: HandleRef<'_>) -> Option<Directory> {
        let mounts = self.view.filesystems.get(&handle.filesystem)?;
        let (mount, path) = mounts.iter().find_map(|mount| Some((mount, path_through(mount, handle)?)))?;
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
        Some(Directory { path: path.into(), watched: watched.collect() })
    }
}

/// The path of what a handle names, as a mount shows it. The mount is opened for this only: what is kept open cannot be
/// unmounted.
fn path_through(mount: &Mount, handle: HandleRef<'_>) -> Option<PathBuf> {
    let open = open_mount(&mount.point).ok()?;
    let found = vigie_fanotify::open_handle(open.as_fd(), &Handle::from(handle)).ok()?;
    let path = fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).ok()?;
    if !path.starts_with(&mount.point) {
        return None;
    }
    // Of a part of a file system the kernel also names what is not in that part, and of the removed their old names.
    let there = rustix::fs::lstat(&path).ok()?;
    let it = rustix::fs::fstat(&found).ok()?;
    ((there.st_dev, there.st_ino) == (it.st_dev, it.st_ino)).then_some(path)
}
