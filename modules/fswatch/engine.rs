//! Keeps what is known of the watched paths equal to what is there, and tells every difference.
//!
//! One thread owns the baseline. It asks the [`Mailbox`] what happened, waits for writes to settle, looks at the
//! paths again and sends an alert for each difference; only when the alert is in the outbox does the baseline
//! move. Where the notifications cannot be trusted (the queue overflowed, a directory came or went) it compares
//! the whole of it with what is there: a scan is right whatever was missed. The same happens every few minutes,
//! because some changes give no notification. Directories are watched before they are listed, so that nothing
//! falls between.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use walkdir::WalkDir;

use crate::change::{Alert, alert, compare, shown};
use crate::due::DuePaths;
use crate::events::{Happened, Mailbox, Taken};
use crate::inotify::Watcher;
use crate::look::{Found, Plan, Scratch, is_missing, look_at};
use crate::object::{Content, NotRead, Object};
use crate::rules::{Coverage, Interest, Rules};

/// Paths that are looked at before the engine listens again.
const MAX_LOOKS: usize = 256;

/// Missing paths that the log names one by one; the status names them all.
const MAX_WAITING_LINES: usize = 5;

/// Time until a file that was written to during every attempt to read it is read again.
const WRITER_PAUSE: Duration = Duration::from_secs(5);

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
    /// When everything was compared last, and how long it took.
    pub last_scan: Option<(SystemTime, Duration)>,
}

/// The status as the engine last published it.
#[derive(Debug, Clone, Default)]
pub struct SharedStatus(Arc<Mutex<Arc<Status>>>);

impl SharedStatus {
    fn lock(&self) -> MutexGuard<'_, Arc<Status>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The status.
    #[must_use]
    pub fn get(&self) -> Arc<Status> {
        self.lock().clone()
    }
}

/// What the engine is told by other threads; each is followed by a wake-up of its mailbox.
#[derive(Debug)]
pub enum Order {
    /// Work by these rules from now on.
    Watch(Box<Rules>),
    /// Compare everything that is covered at or below these paths (none: everything), then answer.
    Rescan(Vec<PathBuf>, mpsc::SyncSender<()>),
    /// Say which rule applies to a path.
    Explain(PathBuf, mpsc::SyncSender<Value>),
    /// End.
    Stop,
}

/// The engine.
pub struct Engine<S> {
    sink: S,
    mailbox: Mailbox,
    watcher: Watcher,
    coverage: Coverage,
    /// Paths that belong to the module itself and are never watched.
    own: Option<PathBuf>,
    baseline: BTreeMap<PathBuf, Object>,
    due: DuePaths,
    scratch: Scratch,
    /// Links that lead to a root, and where they led when they were last seen.
    links: BTreeMap<PathBuf, PathBuf>,
    /// Entries that were looked at once: what is new below them is told.
    learned: BTreeSet<String>,
    next_scan: Option<Instant>,
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

fn resolve(path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok()
}

impl<S: Sink> Engine<S> {
    /// An engine that watches nothing yet. `own` is a directory that it never watches: its own.
    ///
    /// # Errors
    /// When the kernel gives no inotify instance (`fs.inotify.max_user_instances`).
    pub fn new(sink: S, mailbox: Mailbox, own: Option<PathBuf>, published: SharedStatus) -> io::Result<Self> {
        Ok(Self {
            sink,
            watcher: Watcher::start(mailbox.clone())?,
            mailbox,
            coverage: Coverage::new(&Rules::none(), &resolve),
            own,
            baseline: BTreeMap::new(),
            due: DuePaths::new(Duration::ZERO),
            scratch: Scratch::default(),
            links: BTreeMap::new(),
            learned: BTreeSet::new(),
            next_scan: None,
            status: Status::default(),
            published,
        })
    }

    /// Works until it is told to stop.
    pub fn run(mut self, orders: &mpsc::Receiver<Order>) {
        loop {
            while let Ok(order) = orders.try_recv() {
                match order {
                    Order::Watch(rules) => self.watch(&rules),
                    Order::Rescan(paths, done) => {
                        self.rescan(&paths);
                        // Nobody waits any more, or there is room for one answer.
                        done.try_send(()).ok();
                    }
                    Order::Explain(path, answer) => {
                        answer.try_send(self.coverage.explain(&path).to_json()).ok();
                    }
                    Order::Stop => return,
                }
            }
            self.publish();
            let taken = self.mailbox.wait(self.patience(now()));
            self.note(taken);
            for (path, happened) in self.due.take(now(), MAX_LOOKS) {
                self.reconcile(&path, &happened, true);
            }
            if self.next_scan.is_some_and(|next| next <= now()) {
                self.scan_all();
            }
        }
    }

    /// Time until something is to be done although nothing happens.
    fn patience(&self, now: Instant) -> Option<Duration> {
        let scan = self.next_scan.map(|next| next.saturating_duration_since(now));
        [self.due.next(now), scan].into_iter().flatten().min()
    }

    fn publish(&mut self) {
        self.status.entries = self.coverage.rules().entries().len();
        self.status.objects = self.baseline.len();
        self.status.watches = self.watcher.len();
        self.status.pending = self.due.len();
        *self.published.lock() = Arc::new(self.status.clone());
    }

    /// Takes other rules. What is new is learned in silence, what is no longer covered forgotten.
    fn watch(&mut self, rules: &Rules) {
        self.status.baseline_complete = false;
        self.publish();
        self.cover(rules);
        self.due.set_settle(rules.settings().settle);
        self.scan_all();
        self.learned = self.coverage.rules().entries().into_iter().collect();
        self.status.baseline_complete = true;
        self.publish();
        let message = format!(
            "watching {} paths: {} objects known, {} directories watched, {} paths not there yet",
            self.status.entries,
            self.baseline.len(),
            self.watcher.len(),
            self.status.waiting.len()
        );
        self.sink.log(&message);
    }

    /// Finds out what the rules mean on this host as it is now, and forgets what they no longer cover.
    fn cover(&mut self, rules: &Rules) {
        let coverage = Coverage::new(rules, &resolve);
        self.coverage = match &self.own {
            Some(own) => coverage.without(own),
            None => coverage,
        };
        for root in self.coverage.roots() {
            if let Some(target) = &root.link_to
                && self.links.get(&root.path) != Some(target)
            {
                self.sink.log(&format!("{} is watched as {}", shown(&root.path), shown(target)));
                self.links.insert(root.path.clone(), target.clone());
            }
        }
        let coverage = &self.coverage;
        self.baseline.retain(|path, _| coverage.options(path).is_some());
        self.status.unreadable.retain(|path, _| coverage.options(path).is_some());
    }

    /// Compares everything that is covered with what is there.
    fn scan_all(&mut self) {
        let begun = now();
        for path in self.coverage.roots().iter().map(|root| root.path.clone()).collect::<BTreeSet<_>>() {
            self.enter(&path);
        }
        // What nothing led to any more.
        let known: Vec<_> = self.baseline.keys().cloned().collect();
        for path in known {
            if !self.differs_at_a_glance(&path) {
                continue;
            }
            if self.status.baseline_complete {
                self.due.touch(&path, Happened { finished: true, ..Happened::default() }, now());
            } else {
                self.compare_one(&path);
            }
        }
        self.forget_watches();
        self.forget_gone();
        self.note_waiting();
        let quick_scan = self.coverage.rules().settings().quick_scan;
        self.next_scan = quick_scan.map(|pause| now() + pause);
        self.status.last_scan = Some((SystemTime::now(), now().duration_since(begun)));
    }

    /// Compares what is covered at or below some paths, and tells the differences before it returns.
    fn rescan(&mut self, paths: &[PathBuf]) {
        if paths.is_empty() {
            self.scan_all();
        }
        for path in paths {
            self.reconcile_tree(path);
        }
        while let Some(wait) = self.due.next(now()) {
            for (path, happened) in self.due.take(now() + wait, MAX_LOOKS) {
                self.reconcile(&path, &happened, true);
            }
        }
    }

    /// Watches the way to a root, then everything that is covered there.
    fn enter(&mut self, root: &Path) {
        for ancestor in root.ancestors().skip(1) {
            // A directory that is not there is not watched: the one above it is.
            if !self.watcher.is_watched(ancestor) && ancestor.is_dir() {
                self.watch_directory(ancestor);
            }
        }
        self.reconcile_tree(root);
    }

    fn note_waiting(&mut self) {
        let waiting: BTreeSet<_> =
            self.coverage.waiting(&|path| path.symlink_metadata().is_ok()).into_iter().collect();
        let new: Vec<_> = waiting.difference(&self.status.waiting).collect();
        if new.len() > MAX_WAITING_LINES {
            self.sink.log(&format!("{} paths are not there, waiting for them", new.len()));
        } else {
            for path in new {
                self.sink.log(&format!("{} is not there, waiting for it", shown(path)));
            }
        }
        self.status.waiting = waiting;
    }

    /// Watches a directory; says so in the status when that is not possible. `false` when it is gone.
    fn watch_directory(&mut self, directory: &Path) -> bool {
        match self.watcher.add(directory) {
            Ok(()) => {
                self.status.unwatched.remove(directory);
                true
            }
            // It went away, or something else took its place: the directory above it tells.
            Err(error) if is_missing(&error) => false,
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
        let coverage = &self.coverage;
        self.watcher.retain(|directory| coverage.interest(directory) != Interest::Nothing);
    }

    /// Turns what the kernel told into paths that are due.
    fn note(&mut self, taken: Taken) {
        for watch in &taken.ended {
            self.watcher.forget(watch);
        }
        if let Some(why) = taken.overflowed {
            self.status.overflows += 1;
            self.sink.log(&format!("{why}: comparing everything with what is there"));
            self.scan_all();
        }
        let now = now();
        for (watch, name, happened) in taken.watches {
            for path in self.watcher.paths(&watch, name.as_ref()) {
                if !self.coverage.concerns(&path) {
                    continue;
                }
                if happened.directory {
                    // What is in a directory that came or went is not waited for: the sooner it is watched, the
                    // less has to be compared.
                    self.reconcile(&path, &happened, false);
                } else {
                    self.due.touch(&path, happened, now);
                }
            }
        }
    }

    /// Looks at a path that something happened to; `settled` when it has been quiet since.
    fn reconcile(&mut self, path: &Path, happened: &Happened, settled: bool) {
        // A directory on the way to an entry, the entry itself, or a link that leads there came or went.
        let leads = self.links.contains_key(path)
            || self.coverage.interest(path) == Interest::OnTheWay
            || self
                .coverage
                .roots()
                .iter()
                .any(|root| root.path.starts_with(path) || root.configured.starts_with(path));
        if leads {
            self.watcher.remove_tree(path);
            let rules = self.coverage.rules().clone();
            self.cover(&rules);
        }
        if settled || happened.directory {
            self.compare_one(path);
        }
        self.reconcile_tree(path);
        if leads {
            for root in self.coverage.roots().iter().map(|root| root.path.clone()).collect::<BTreeSet<_>>() {
                self.enter(&root);
            }
            self.forget_watches();
            self.note_waiting();
        }
        self.forget_gone();
    }

    /// Compares everything that is known and everything that is there at `path` and below it. What is there may
    /// still be written to, so it waits like everything else until it is quiet.
    fn reconcile_tree(&mut self, path: &Path) {
        let mut there = BTreeSet::new();
        self.list(path, &mut there);
        for known in self.known_below(path) {
            if !there.contains(&known) {
                self.compare_one(&known);
            }
        }
        let now = now();
        for path in &there {
            if !self.status.baseline_complete {
                self.compare_one(path);
            } else if self.differs_at_a_glance(path) {
                self.due.touch(path, Happened { finished: true, ..Happened::default() }, now);
            }
        }
    }

    /// Whether an object is not the one that is known, by what can be told without reading it.
    fn differs_at_a_glance(&mut self, path: &Path) -> bool {
        let Some(known) = self.baseline.get(path) else { return true };
        // A file whose content is another one cannot look the same, so nothing is read here.
        match look_at(path, Plan::default(), Some(known), &mut self.scratch) {
            Ok(Found::Object { object, .. }) => object != *known,
            Ok(Found::Missing) | Err(_) => true,
        }
    }

    /// Collects what is covered at `path` and below it. Each directory is watched before it is listed: what comes
    /// into it meanwhile is in the list, or in the events, or in both.
    fn list(&mut self, path: &Path, there: &mut BTreeSet<PathBuf>) {
        let mut directories = Vec::new();
        if let Ok(metadata) = path.symlink_metadata() {
            if self.coverage.options(path).is_some() {
                there.insert(path.to_owned());
            }
            if metadata.is_dir() {
                directories.push(path.to_owned());
            }
        }
        while let Some(directory) = directories.pop() {
            if !self.coverage.descends(&directory) || !self.watch_directory(&directory) {
                continue;
            }
            // A walk of more than one level would list a directory before we can watch it.
            for item in WalkDir::new(&directory).min_depth(1).max_depth(1).follow_links(false) {
                match item {
                    Ok(item) => {
                        if self.coverage.options(item.path()).is_some() {
                            there.insert(item.path().to_owned());
                        }
                        if item.file_type().is_dir() {
                            directories.push(item.into_path());
                        }
                    }
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
        let Some(options) = self.coverage.options(path) else { return };
        let known = self.baseline.get(path);
        let plan = Plan {
            hash: options.hash,
            largest_hashed: options.largest_hashed,
            growing: options.growing,
            ..Plan::default()
        };
        let (now_there, grown) = match look_at(path, plan, known, &mut self.scratch) {
            Ok(Found::Object { object, grown }) => (Some(object), grown),
            Ok(Found::Missing) => (None, false),
            Err(error) => {
                // It cannot even be looked at: nothing is known of a change, and the status says so.
                self.status.unreadable.insert(path.to_owned(), error.to_string());
                return;
            }
        };
        let Some(object) = now_there else {
            self.status.unreadable.remove(path);
            self.tell(path, None);
            self.baseline.remove(path);
            return;
        };
        match &object.content {
            Content::NotRead(NotRead::OpenForWriting) => {
                let why = "it is written to without an end".to_owned();
                self.status.unreadable.insert(path.to_owned(), why);
                self.due.postpone(path, Happened::default(), now() + WRITER_PAUSE);
                return;
            }
            Content::NotRead(NotRead::Failed(number)) => {
                let why = io::Error::from_raw_os_error(*number).to_string();
                self.status.unreadable.insert(path.to_owned(), why);
            }
            _ => {
                self.status.unreadable.remove(path);
            }
        }
        if !(grown && options.growing) {
            self.tell(path, Some(&object));
        }
        self.baseline.insert(path.to_owned(), object);
    }

    /// Tells how a path is not as it is known, unless nobody could have known.
    fn tell(&mut self, path: &Path, object: Option<&Object>) {
        let Some(options) = self.coverage.options(path) else { return };
        let rule = self.coverage.rule_text(path).unwrap_or_default();
        let known = self.baseline.get(path);
        if known.is_none() && !self.learned.contains(rule) {
            return;
        }
        if let Some(difference) = compare(known, object, options) {
            let told = alert(path, known, object, difference, options, rule, &time_text());
            self.sink.alert(&told);
            self.status.alerts += 1;
        }
    }

    /// Clears complaints about directories that are no longer there.
    fn forget_gone(&mut self) {
        if !self.status.unwatched.is_empty() {
            self.status.unwatched.retain(|directory, _| directory.symlink_metadata().is_ok());
        }
    }
}
