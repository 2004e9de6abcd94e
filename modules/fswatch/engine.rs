//! Keeps what is known of the watched paths equal to what is there, and tells every difference.
//!
//! One thread owns the baseline. It asks the [`Watcher`] what happened, waits for writes to settle, looks at the
//! paths again and sends an alert for each difference; only when the alert is in the outbox does the baseline
//! move. Where the notifications cannot be trusted (the queue overflowed, a directory came or went) it compares
//! the whole of it with what is there: a scan is right whatever was missed. Directories are watched before they
//! are listed, so that nothing falls between.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime};

use walkdir::WalkDir;

use crate::change::{Alert, compare};
use crate::config::Entry;
use crate::due::DuePaths;
use crate::object::{Content, Found, Object, look, shown};
use crate::watcher::{Taken, WatchMap, Watcher};

/// Where alerts and log lines go. A trait, so that tests see them without an agent.
pub trait Sink: Send {
    /// Sends an alert; returns when it cannot be lost any more.
    fn alert(&self, alert: &Alert);
    /// Writes a line to the log.
    fn log(&self, message: &str);
}

/// How the module is, for the answer to queries.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Configured paths.
    pub entries: usize,
    /// Objects that are known.
    pub objects: usize,
    /// Directories that are watched.
    pub watches: usize,
    /// Configured paths that are not there.
    pub waiting: BTreeSet<PathBuf>,
    /// Paths that something happened to and that have not been looked at yet.
    pub pending: usize,
    /// Alerts sent.
    pub alerts: u64,
    /// Times that notifications were lost and everything was compared instead.
    pub overflows: u64,
    /// Files that are known but cannot be read, and why.
    pub unreadable: BTreeMap<PathBuf, String>,
    /// Directories that are not watched, and why: changes there are seen only by a scan.
    pub unwatched: BTreeMap<PathBuf, String>,
    /// Whether everything has been looked at once.
    pub baseline_complete: bool,
}

/// The status as the engine last published it.
#[derive(Debug, Clone, Default)]
pub struct SharedStatus(Arc<Mutex<Status>>);

impl SharedStatus {
    fn lock(&self) -> MutexGuard<'_, Status> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy.
    #[must_use]
    pub fn get(&self) -> Status {
        self.lock().clone()
    }
}

/// What the engine is told by other threads; each is followed by a wake-up of its watcher.
#[derive(Debug)]
pub enum Order {
    /// Watch these entries from now on.
    Watch(Vec<Entry>),
    /// End.
    Stop,
}

/// The engine.
pub struct Engine<S> {
    sink: S,
    watcher: Watcher,
    map: WatchMap,
    entries: Vec<Entry>,
    baseline: BTreeMap<PathBuf, Object>,
    due: DuePaths,
    /// Entries that are links, and where they lead.
    links: BTreeMap<PathBuf, PathBuf>,
    /// Nothing is told while a newly configured path is looked at for the first time.
    learning: bool,
    status: Status,
    published: SharedStatus,
}

#[expect(clippy::disallowed_methods, reason = "this thread waits in real time, there is no virtual one here")]
fn now() -> Instant {
    Instant::now()
}

fn time_text() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since).to_string()
}

impl<S: Sink> Engine<S> {
    /// An engine that watches nothing yet; a change is told when its path was quiet for `settle`.
    #[must_use]
    pub fn new(sink: S, watcher: Watcher, settle: Duration, published: SharedStatus) -> Self {
        Self {
            sink,
            watcher,
            map: WatchMap::default(),
            entries: Vec::new(),
            baseline: BTreeMap::new(),
            links: BTreeMap::new(),
            due: DuePaths::new(settle),
            learning: false,
            status: Status::default(),
            published,
        }
    }

    /// Works until it is told to stop.
    pub fn run(mut self, orders: &mpsc::Receiver<Order>) {
        loop {
            while let Ok(order) = orders.try_recv() {
                match order {
                    Order::Watch(entries) => self.watch(entries),
                    Order::Stop => return,
                }
            }
            self.publish();
            let taken = self.watcher.wait(self.due.next(now()));
            self.note(taken);
            for path in self.due.take(now()) {
                self.reconcile(&path, true);
            }
        }
    }

    fn publish(&mut self) {
        self.status.entries = self.entries.len();
        self.status.objects = self.baseline.len();
        self.status.watches = self.map.len();
        self.status.pending = self.due.len();
        self.published.lock().clone_from(&self.status);
    }

    /// Takes another list of entries. What is new is learned in silence, what is no longer covered forgotten.
    fn watch(&mut self, entries: Vec<Entry>) {
        let new: Vec<_> = entries.iter().filter(|entry| !self.entries.contains(entry)).cloned().collect();
        self.entries = entries;
        self.status.baseline_complete = false;
        let roots = self.roots();
        self.baseline.retain(|path, _| covered(&roots, path));
        self.status.waiting.retain(|path| self.entries.iter().any(|entry| entry.path == *path));
        self.learning = true;
        for entry in new {
            self.enter(&entry);
            self.publish();
        }
        self.learning = false;
        self.forget_watches();
        self.status.baseline_complete = true;
        self.publish();
        let message = format!(
            "watching {} paths: {} objects known, {} directories watched, {} paths not there yet",
            self.entries.len(),
            self.baseline.len(),
            self.map.len(),
            self.status.waiting.len()
        );
        self.sink.log(&message);
    }

    /// Where an entry really is: a link at its end is followed, as the one who configured it means.
    fn root(entry: &Entry) -> PathBuf {
        match entry.path.symlink_metadata() {
            Ok(metadata) if metadata.is_symlink() => {
                entry.path.canonicalize().unwrap_or_else(|_| entry.path.clone())
            }
            _ => entry.path.clone(),
        }
    }

    fn roots(&self) -> Vec<(Entry, PathBuf)> {
        self.entries.iter().map(|entry| (entry.clone(), Self::root(entry))).collect()
    }

    /// Watches the way to an entry, then everything that it covers.
    fn enter(&mut self, entry: &Entry) {
        let root = Self::root(entry);
        for path in [&entry.path, &root] {
            for ancestor in path.ancestors().skip(1) {
                self.watch_ancestor(ancestor);
            }
        }
        if root != entry.path {
            if self.links.insert(entry.path.clone(), root.clone()).as_ref() != Some(&root) {
                self.sink.log(&format!("{} is watched as {}", shown(&entry.path), shown(&root)));
            }
            // The link itself can be made to point elsewhere.
            self.compare_one(&entry.path);
        }
        match root.symlink_metadata() {
            Ok(_) => {
                self.status.waiting.remove(&entry.path);
            }
            Err(_) => {
                if self.status.waiting.insert(entry.path.clone()) {
                    self.sink.log(&format!("{} is not there, waiting for it", shown(&entry.path)));
                }
            }
        }
        self.reconcile_tree(&root);
    }

    /// Watches a directory above an entry for the entry's coming and going. What is not there is not watched:
    /// the directory above it is.
    fn watch_ancestor(&mut self, directory: &Path) {
        if self.map.watch(directory).is_none() && directory.is_dir() {
            self.watch_directory(directory);
        }
    }

    /// Watches a directory; says so in the status when that is not possible.
    fn watch_directory(&mut self, directory: &Path) -> bool {
        match self.watcher.add(directory) {
            Ok(watch) => {
                self.map.insert(directory.to_owned(), watch);
                self.status.unwatched.remove(directory);
                true
            }
            // It went away, or something else took its place: the directory above it tells.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                false
            }
            Err(error) => {
                let why = match error.raw_os_error() {
                    Some(errno) if errno == nix::errno::Errno::ENOSPC as i32 => {
                        "the limit of watches is reached, raise fs.inotify.max_user_watches".to_owned()
                    }
                    _ => error.to_string(),
                };
                if self.status.unwatched.insert(directory.to_owned(), why.clone()).is_none()
                    && self.status.unwatched.len() == 1
                {
                    self.sink.log(&format!("{} cannot be watched: {why}", shown(directory)));
                }
                true
            }
        }
    }

    /// Gives up the watches of directories that are neither covered nor on the way to an entry.
    fn forget_watches(&mut self) {
        let roots = self.roots();
        let needed = |directory: &Path| {
            roots.iter().any(|(entry, root)| {
                entry.path.starts_with(directory)
                    || root.starts_with(directory)
                    || (entry.recursive && directory.starts_with(root))
            })
        };
        let surplus: Vec<_> =
            self.map.directories().filter(|directory| !needed(directory)).map(Path::to_owned).collect();
        for directory in surplus {
            if let Some(watch) = self.map.watch(&directory).cloned() {
                self.map.forget(&watch);
                self.watcher.remove(watch);
            }
        }
    }

    /// Turns what the watcher saw into paths that are due.
    fn note(&mut self, taken: Taken) {
        for watch in &taken.ended {
            self.map.forget(watch);
        }
        if taken.overflowed {
            self.status.overflows += 1;
            self.sink.log("the kernel's queue overflowed: comparing everything with what is there");
            self.due.clear();
            for entry in self.entries.clone() {
                self.enter(&entry);
            }
            self.forget_gone();
        }
        let roots = self.roots();
        let now = now();
        for (watch, name, happened) in taken.events {
            let Some(directory) = self.map.directory(&watch) else { continue };
            let path = name.map_or_else(|| directory.to_owned(), |name| directory.join(name));
            let concerns = covered(&roots, &path)
                || roots.iter().any(|(entry, root)| entry.path.starts_with(&path) || root.starts_with(&path));
            if !concerns {
                continue;
            }
            if happened.directory {
                // What is in a directory that came or went is not waited for: the sooner it is watched, the less
                // has to be compared.
                self.reconcile(&path, false);
            } else {
                self.due.touch(&path, now);
            }
        }
    }

    /// Looks at a path that something happened to; `settled` when it has been quiet since.
    fn reconcile(&mut self, path: &Path, settled: bool) {
        let entries: Vec<_> = self
            .entries
            .iter()
            .filter(|entry| entry.path.starts_with(path) || Self::root(entry).starts_with(path))
            .cloned()
            .collect();
        if !entries.is_empty() {
            // A directory on the way to these entries, or one of them, came or went.
            for watch in self.map.take_tree(path) {
                self.watcher.remove(watch);
            }
        }
        if settled && !path.is_dir() {
            self.compare_one(path);
        }
        self.reconcile_tree(path);
        for entry in entries {
            self.enter(&entry);
        }
        self.forget_gone();
    }

    /// Compares everything that is known and everything that is there at `path` and below it. What is there may
    /// still be written to, so it waits like everything else until it is quiet.
    fn reconcile_tree(&mut self, path: &Path) {
        let roots = self.roots();
        let mut there = BTreeSet::new();
        self.list(&roots, path, &mut there);
        for known in self.known_below(path) {
            if !there.contains(&known) {
                self.compare_one(&known);
            }
        }
        let now = now();
        for path in &there {
            if self.learning {
                self.compare_one(path);
            } else if self.differs_at_a_glance(path) {
                self.due.touch(path, now);
            }
        }
    }

    /// Whether an object is not the one that is known, by what can be told without reading it.
    fn differs_at_a_glance(&self, path: &Path) -> bool {
        !self.baseline.get(path).is_some_and(|known| known.is_untouched(path))
    }

    /// Collects what is covered at `path` and below it. Each directory is watched before it is listed: what comes
    /// into it meanwhile is in the list, or in the events, or in both.
    fn list(&mut self, roots: &[(Entry, PathBuf)], path: &Path, there: &mut BTreeSet<PathBuf>) {
        let mut directories = Vec::new();
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => directories.push(path.to_owned()),
            Ok(_) if covered(roots, path) => {
                there.insert(path.to_owned());
            }
            Ok(_) | Err(_) => {}
        }
        while let Some(directory) = directories.pop() {
            if !self.watch_directory(&directory) {
                continue;
            }
            // A walk of more than one level would list a directory before we can watch it.
            for item in WalkDir::new(&directory).min_depth(1).max_depth(1).follow_links(false) {
                match item {
                    Ok(item) if item.file_type().is_dir() => {
                        if descends(roots, item.path()) {
                            directories.push(item.into_path());
                        }
                    }
                    Ok(item) if covered(roots, item.path()) => {
                        there.insert(item.into_path());
                    }
                    Ok(_) => {}
                    Err(error) => self.not_listed(&error),
                }
            }
        }
    }

    fn not_listed(&mut self, error: &walkdir::Error) {
        let missing = error.io_error().is_some_and(|error| error.kind() == io::ErrorKind::NotFound);
        if let Some(path) = error.path().filter(|_| !missing) {
            let why = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
            if self.status.unwatched.insert(path.to_owned(), why.clone()).is_none() {
                self.sink.log(&format!("{} cannot be listed: {why}", shown(path)));
            }
        }
    }

    fn known_below(&self, path: &Path) -> Vec<PathBuf> {
        self.baseline
            .range::<Path, _>((Bound::Included(path), Bound::Unbounded))
            .map(|(known, _)| known)
            .take_while(|known| known.starts_with(path))
            .cloned()
            .collect()
    }

    /// Compares one path with what is known of it, tells the difference, and only then takes it as known.
    fn compare_one(&mut self, path: &Path) {
        let known = self.baseline.get(path);
        let found = match look(path) {
            Ok(Found::Object(object)) => Some(object),
            Ok(Found::Missing | Found::Directory) => None,
            Ok(Found::Busy) => {
                self.due.touch(path, now());
                return;
            }
            Err(error) => {
                // It cannot even be looked at: nothing is known of a change, and the status says so.
                self.status.unreadable.insert(path.to_owned(), error.to_string());
                return;
            }
        };
        if !self.learning
            && let Some(alert) = compare(path, known, found.as_ref(), &time_text())
        {
            self.sink.alert(&alert);
            self.status.alerts += 1;
        }
        match found {
            Some(object) => {
                if let Content::Unreadable(why) = &object.content {
                    self.status.unreadable.insert(path.to_owned(), why.clone());
                } else {
                    self.status.unreadable.remove(path);
                }
                self.baseline.insert(path.to_owned(), object);
            }
            None => {
                self.status.unreadable.remove(path);
                self.baseline.remove(path);
            }
        }
    }

    /// Clears complaints about directories that are no longer there.
    fn forget_gone(&mut self) {
        if !self.status.unwatched.is_empty() {
            self.status.unwatched.retain(|directory, _| directory.symlink_metadata().is_ok());
        }
    }
}

/// Whether an object at `path` is watched.
fn covered(roots: &[(Entry, PathBuf)], path: &Path) -> bool {
    roots.iter().any(|(entry, root)| entry.covers(root, path) || entry.path == path)
}

/// Whether the directory at `path` holds, or may hold, objects that are watched.
fn descends(roots: &[(Entry, PathBuf)], path: &Path) -> bool {
    roots.iter().any(|(entry, root)| path == root || (entry.recursive && path.starts_with(root)))
}
