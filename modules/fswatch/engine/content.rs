//! Files whose content is not known yet: those that are being read, and those that could not be. They are read again
//! until it is known.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Engine, Sink, now};
use crate::change::{not_read, shown};
use crate::events::Happened;
use crate::look::{Found, looks_the_same};
use crate::object::{NotRead, Object};
use crate::waiting::Keys;
use crate::workers::{Item, plan};

/// Files that are remembered for one purpose; of more a scan tells.
const MAX_FILES: usize = 20_000;

/// Time until a file that could not be read is read again for the first time; it doubles with each attempt.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest time that a file is not read because it is being written.
const LONGEST_WRITING: Duration = Duration::from_secs(30);

/// Longest time until a file is read again that somebody keeps from us: whoever holds a lease has to give it up within
/// `/proc/sys/fs/lease-break-time`.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The same for a file that the disk does not give.
const LONGEST_PAUSE_OF_ERRORS: Duration = Duration::from_secs(300);

/// A file that is being read.
#[derive(Debug)]
struct Awaited {
    /// It as it was when that began.
    before: Object,
    /// What it is compared with.
    compared: Option<Object>,
    happened: Happened,
}

/// Files whose content is not known yet.
#[derive(Debug, Default)]
pub(super) struct Contents {
    reading: HashMap<PathBuf, Awaited>,
    /// The others are remembered by keys of their paths, which take the same however long those are.
    keys: Keys,
    /// How often they were tried.
    tried: HashMap<u64, u32>,
    /// Files that were told without their content.
    announced: HashSet<u64>,
    /// Files that were told while they were being written, and when.
    written: HashMap<u64, Instant>,
}

impl Contents {
    /// Whether a worker reads this file on.
    pub(super) fn is_being_read(&self, path: &Path) -> bool {
        self.reading.contains_key(path)
    }

    /// The files that workers read on.
    pub(super) fn being_read(&self) -> impl Iterator<Item = &PathBuf> {
        self.reading.keys()
    }

    /// A worker reads this file on.
    pub(super) fn reads(
        &mut self,
        path: &Path,
        before: &Object,
        happened: &Happened,
        compared: Option<Object>,
    ) {
        let awaited = Awaited { before: before.clone(), compared, happened: happened.clone() };
        if let Some(earlier) = self.reading.insert(path.to_owned(), awaited)
            && let Some(awaited) = self.reading.get_mut(path)
        {
            let mut happened = earlier.happened;
            happened.merge(std::mem::take(&mut awaited.happened));
            awaited.happened = happened;
        }
    }

    /// Its content is known, or it is gone.
    pub(super) fn forget(&mut self, path: &Path) {
        self.reading.remove(path);
        let key = self.keys.of(path);
        self.written.remove(&key);
        self.tried.remove(&key);
    }

    /// It is told without its content; whether what completes it will be told.
    pub(super) fn announce(&mut self, path: &Path) -> bool {
        let has_room = self.announced.len() < MAX_FILES;
        if has_room {
            self.announced.insert(self.keys.of(path));
        }
        has_room
    }

    /// It is told with its content: whether it was told without before.
    pub(super) fn complete(&mut self, path: &Path) -> bool {
        self.announced.remove(&self.keys.of(path))
    }

    /// It could not be read: when to try again.
    fn next_attempt(&mut self, path: &Path, why: NotRead) -> Option<Duration> {
        let key = self.keys.of(path);
        if self.tried.len() >= MAX_FILES && !self.tried.contains_key(&key) {
            return None;
        }
        let tried = self.tried.entry(key).or_insert(0);
        let pause = FIRST_PAUSE * (1 << (*tried).min(12));
        *tried += 1;
        let is_error =
            matches!(why, NotRead::Failed(number) if number != rustix::io::Errno::AGAIN.raw_os_error());
        Some(pause.min(if is_error { LONGEST_PAUSE_OF_ERRORS } else { LONGEST_PAUSE }))
    }

    /// When a file was told while it was being written.
    fn written(&self, path: &Path) -> Option<Instant> {
        self.written.get(&self.keys.of(path)).copied()
    }
}

impl<S: Sink> Engine<S> {
    /// Whether a path is not looked at because of this: it was told that the file is being written, and it still is.
    /// The next look is when it is closed, or after a while whatever happens.
    pub(super) fn is_being_written(&mut self, path: &Path, happened: &Happened, now: Instant) -> bool {
        let Some(told) = self.contents.written(path) else { return false };
        if happened.finished || !happened.written || now.duration_since(told) >= LONGEST_WRITING {
            return false;
        }
        self.postpone(path, happened.clone(), told + LONGEST_WRITING);
        true
    }

    /// A file was looked at while it is being written.
    pub(super) fn note_written(&mut self, path: &Path) {
        if self.contents.written.len() < MAX_FILES {
            let key = self.contents.keys.of(path);
            self.contents.written.insert(key, now());
        }
        // Whoever does not close it does not keep its content from being known.
        self.postpone(path, Happened::finished(), now() + LONGEST_WRITING);
    }

    /// A file could not be read: the status says so, and it is read again.
    pub(super) fn note_unread(&mut self, path: &Path, why: NotRead) {
        let text = not_read(why);
        if self.status.unreadable.insert(path.to_owned(), text.clone()) {
            self.sink.log(&format!("{} cannot be read: {text}", shown(path)));
        }
        if let Some(pause) = self.contents.next_attempt(path, why) {
            self.postpone(path, Happened::finished(), now() + pause);
        }
    }

    /// A file that was told before was read to its end, or is not what it was any more.
    pub(super) fn note_digested(
        &mut self,
        path: PathBuf,
        before: &Object,
        found: io::Result<Option<(Object, bool)>>,
    ) {
        // Another one took its place meanwhile, and is read as well.
        if !self.contents.reading.get(&path).is_some_and(|awaited| looks_the_same(&awaited.before, before)) {
            return;
        }
        let Some(awaited) = self.contents.reading.remove(&path) else { return };
        if self.in_flight.contains(&path) {
            // It is looked at now: whatever comes of that, its content is still to be told.
            self.again.entry(path).or_default().merge(awaited.happened);
            return;
        }
        let (object, grown) = match found {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.note_unread(&path, NotRead::OpenForWriting);
                self.settled(&path);
                return;
            }
            Err(error) => {
                self.note_unread(&path, NotRead::Failed(error.raw_os_error().unwrap_or_default()));
                self.settled(&path);
                return;
            }
        };
        let plan = self.coverage.options(&path).map(plan).unwrap_or_default();
        let (known, lane) = (awaited.compared, self.trust.lane(&path));
        self.in_flight.insert(path.clone());
        let number = self.number();
        let item = Item { path, known, plan, happened: awaited.happened, reads: false, unpacked: None };
        self.settle(number, lane, vec![(item, Ok(Found::Object { object, grown }))]);
    }
}
