//! The kernel's notifications: inotify(7) behind a small map.
//!
//! A thread of its own reads the kernel's queue and does nothing but merge events into the map, so that the
//! queue is empty again before it overflows; work behind the reader would lose most of a burst. The map is
//! bounded by the number of different names, and beyond a limit it becomes "everything may have changed".

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};

/// Names with events that have not been taken yet; beyond it a full scan is asked for instead.
const MAX_PENDING: usize = 200_000;

/// Room for events in one read, in bytes. The kernel's queue holds 16,384 events by default.
const READ_BYTES: usize = 256 * 1024;

/// What happened to a name in a watched directory, or (without a name) to the directory itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Happened {
    /// Something is finished: the file was closed, or the name came or went. There is no need to wait for quiet
    /// as long as for a file that is being written.
    pub finished: bool,
    /// The object is a directory.
    pub directory: bool,
}

/// What was merged since the last call.
#[derive(Debug, Default)]
pub struct Taken {
    /// Per watched directory and name.
    pub events: Vec<(WatchDescriptor, Option<OsString>, Happened)>,
    /// Directories whose watch is gone.
    pub ended: Vec<WatchDescriptor>,
    /// The kernel's queue or the map overflowed: everything may have changed.
    pub overflowed: bool,
}

#[derive(Debug, Default)]
struct Pending {
    events: HashMap<(WatchDescriptor, Option<OsString>), Happened>,
    ended: Vec<WatchDescriptor>,
    overflowed: bool,
    woken: bool,
}

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    arrived: Condvar,
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches directories. Watches end with it.
#[derive(Debug)]
pub struct Watcher {
    watches: Watches,
    shared: Arc<Shared>,
}

/// Ends a [`Watcher::wait`] from another thread.
#[derive(Debug, Clone)]
pub struct Waker(Arc<Shared>);

impl Waker {
    /// Ends the wait under way, or the next one.
    pub fn wake(&self) {
        self.0.pending().woken = true;
        self.0.arrived.notify_one();
    }
}

impl Watcher {
    /// Begins to watch nothing.
    ///
    /// # Errors
    /// When the kernel gives no inotify instance (`fs.inotify.max_user_instances`).
    pub fn new() -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let watches = inotify.watches();
        let shared = Arc::new(Shared::default());
        let reading = shared.clone();
        std::thread::Builder::new()
            .name("inotify".to_owned())
            .spawn(move || read_events(inotify, &reading))?;
        Ok(Self { watches, shared })
    }

    /// Something that ends [`Watcher::wait`].
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker(self.shared.clone())
    }

    /// Watches a directory for what happens to it and in it; a second call for the same directory gives the same
    /// descriptor.
    ///
    /// # Errors
    /// When it is no directory, or the limit of watches (`fs.inotify.max_user_watches`) is reached.
    pub fn add(&mut self, directory: &Path) -> io::Result<WatchDescriptor> {
        let mask = WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MODIFY
            | WatchMask::CLOSE_WRITE
            | WatchMask::MOVE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR
            | WatchMask::DONT_FOLLOW;
        self.watches.add(directory, mask)
    }

    /// Stops watching a directory.
    pub fn remove(&mut self, watch: WatchDescriptor) {
        // Fails when the directory is gone, and then the watch is as well.
        self.watches.remove(watch).ok();
    }

    /// Waits until something happened, somebody woke the wait, or the time is over, and takes what happened.
    #[must_use]
    pub fn wait(&self, timeout: Option<Duration>) -> Taken {
        let quiet = |pending: &mut Pending| {
            pending.events.is_empty() && pending.ended.is_empty() && !pending.overflowed && !pending.woken
        };
        let pending = self.shared.pending();
        let mut pending = match timeout {
            Some(timeout) => {
                let waited = self.shared.arrived.wait_timeout_while(pending, timeout, quiet);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.shared.arrived.wait_while(pending, quiet).unwrap_or_else(PoisonError::into_inner),
        };
        pending.woken = false;
        let events = std::mem::take(&mut pending.events);
        Taken {
            events: events.into_iter().map(|((watch, name), happened)| (watch, name, happened)).collect(),
            ended: std::mem::take(&mut pending.ended),
            overflowed: std::mem::take(&mut pending.overflowed),
        }
    }
}

fn read_events(mut inotify: Inotify, shared: &Shared) {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let Ok(events) = inotify.read_events_blocking(&mut buffer) else {
            // The descriptor is ours and the buffer large enough: only a broken kernel gets here. Everything may
            // have changed, and whoever waits must learn of it.
            shared.pending().overflowed = true;
            shared.arrived.notify_one();
            return;
        };
        let mut pending = shared.pending();
        for event in events {
            if event.mask.contains(EventMask::Q_OVERFLOW) {
                pending.overflowed = true;
            } else if event.mask.contains(EventMask::IGNORED) {
                pending.ended.push(event.wd);
            } else {
                let happened = Happened {
                    finished: !event.mask.contains(EventMask::MODIFY),
                    directory: event.mask.contains(EventMask::ISDIR),
                };
                pending
                    .events
                    .entry((event.wd, event.name.map(OsString::from)))
                    .and_modify(|known| {
                        known.finished |= happened.finished;
                        known.directory |= happened.directory;
                    })
                    .or_insert(happened);
            }
        }
        if pending.events.len() > MAX_PENDING {
            pending.events.clear();
            pending.overflowed = true;
        }
        drop(pending);
        shared.arrived.notify_one();
    }
}

/// Which directory each watch is for, and the other way round.
#[derive(Debug, Default)]
pub struct WatchMap {
    by_path: std::collections::BTreeMap<PathBuf, WatchDescriptor>,
    by_watch: HashMap<WatchDescriptor, PathBuf>,
}

impl WatchMap {
    /// The watch of a directory.
    #[must_use]
    pub fn watch(&self, directory: &Path) -> Option<&WatchDescriptor> {
        self.by_path.get(directory)
    }

    /// The directory of a watch.
    #[must_use]
    pub fn directory(&self, watch: &WatchDescriptor) -> Option<&Path> {
        self.by_watch.get(watch).map(PathBuf::as_path)
    }

    /// Notes that this watch is for this directory. The kernel knows directories by inode: when it was known
    /// under another name, that one is forgotten.
    pub fn insert(&mut self, directory: PathBuf, watch: WatchDescriptor) {
        if let Some(old_path) = self.by_watch.insert(watch.clone(), directory.clone())
            && old_path != directory
        {
            self.by_path.remove(&old_path);
        }
        if let Some(old_watch) = self.by_path.insert(directory, watch.clone())
            && old_watch != watch
        {
            self.by_watch.remove(&old_watch);
        }
    }

    /// Forgets a watch that ended.
    pub fn forget(&mut self, watch: &WatchDescriptor) {
        if let Some(path) = self.by_watch.remove(watch)
            && self.by_path.get(&path) == Some(watch)
        {
            self.by_path.remove(&path);
        }
    }

    /// Takes out the watches of a directory and everything below it.
    pub fn take_tree(&mut self, directory: &Path) -> Vec<WatchDescriptor> {
        let paths: Vec<_> = self
            .by_path
            .range::<Path, _>((std::ops::Bound::Included(directory), std::ops::Bound::Unbounded))
            .map(|(path, _)| path)
            .take_while(|path| path.starts_with(directory))
            .cloned()
            .collect();
        let watches: Vec<_> = paths.iter().filter_map(|path| self.by_path.remove(path)).collect();
        for watch in &watches {
            self.by_watch.remove(watch);
        }
        watches
    }

    /// All watched directories.
    pub fn directories(&self) -> impl Iterator<Item = &Path> {
        self.by_path.keys().map(PathBuf::as_path)
    }

    /// Number of watches.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_path.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_path.is_empty()
    }
}
