//! Watched files that got another name: what was done under that name since is told of each known one, and so is what
//! is done from then on.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::round::Seen;
use super::{Engine, SLICE, Sink, now};
use crate::events::Happened;
use crate::linked::LinkedFiles;
use crate::object::{Kind, Object};

/// Time between two searches at least.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// Times as long as a search took there is none after it: whoever makes names all the time takes no more than that
/// share of the engine.
const SHARE: u32 = 10;

/// Time after which everything is compared when there were more files than are kept.
const LEFT_OUT: Duration = Duration::from_secs(60);

/// Known objects that are gone through before the time is looked at, and files that are found before.
const TOGETHER: (usize, usize) = (512, 16);

/// A search under way.
#[derive(Debug)]
struct Search {
    wanted: LinkedFiles,
    /// The last path that was looked at.
    after: Option<PathBuf>,
    /// Time that went into it.
    took: Duration,
}

/// The searches. Each goes through everything that is known, in slices, for all files that came in a while.
#[derive(Debug, Default)]
pub(super) struct Linked {
    /// Files that got another name somewhere.
    wanted: LinkedFiles,
    /// There were more of them.
    is_left_out: bool,
    /// Those that are looked for now, and how far.
    search: Option<Search>,
    /// When the last search ended, and how long there is none after it.
    ended: Option<(Instant, Duration)>,
}

impl Linked {
    pub(super) fn merge(&mut self, files: LinkedFiles) {
        self.wanted.merge(files);
    }

    /// Time until there is something to do.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        if self.search.is_some() {
            return Some(Duration::ZERO);
        }
        let left = |(ended, pause): (Instant, Duration)| pause.saturating_sub(now.duration_since(ended));
        let pause = self.ended.map_or(Duration::ZERO, left);
        (!self.wanted.is_empty()).then_some(pause)
    }
}

impl<S: Sink> Engine<S> {
    /// There were more files than are kept: what was done to those is found by comparing everything soon. Not at once,
    /// because users decide how many there are.
    fn scan_for_left_out(&mut self) {
        // What is compared now may have been there already.
        if !self.linked.is_left_out || self.scans.values().any(super::Scan::is_whole) {
            return;
        }
        self.linked.is_left_out = false;
        self.sink.log("more files got another name than are kept; everything is compared within a minute");
        let soon = now() + LEFT_OUT;
        self.next_scan = Some(self.next_scan.map_or(soon, |next| next.min(soon)));
    }

    /// Goes on with the search. A user decides how many names his files have, so nothing here is done for all of them
    /// in one step.
    pub(super) fn find_linked(&mut self) {
        self.linked.is_left_out |= self.linked.wanted.take_left_out();
        self.scan_for_left_out();
        let begun = now();
        if self.linked.next(begun) != Some(Duration::ZERO) {
            return;
        }
        let search = self.linked.search.take().unwrap_or_else(|| {
            let wanted = std::mem::take(&mut self.linked.wanted);
            Search { wanted, after: None, took: Duration::ZERO }
        });
        let Search { wanted, mut after, took } = search;
        loop {
            let is_wanted = |file| wanted.get(file).is_some();
            let (found, last) = self.ledger.state().baseline.files_of(is_wanted, after.as_deref(), TOGETHER);
            for (path, file) in found {
                self.follow_names(&path);
                self.touch_or_note(&path, wanted.get(file).cloned().unwrap_or_default());
            }
            let took = took + now().duration_since(begun);
            if last.is_none() {
                self.linked.ended = Some((now(), PAUSE.max(took * SHARE)));
                return;
            }
            after = last;
            if now().duration_since(begun) >= SLICE {
                self.linked.search = Some(Search { wanted, after, took });
                return;
            }
        }
    }

    /// A look found something else than was known: the other names of the same file are due as well. fanotify tells of
    /// those itself; inotify tells only of the name through which something is done.
    pub(super) fn note_names(&mut self, seen: &Seen) {
        let has_names = |object: &&Object| object.kind == Kind::File && object.links > 1;
        for object in [&seen.known, &seen.there].into_iter().flatten().filter(has_names) {
            if self.watching.choice_of(&seen.path).is_some_and(|choice| choice.fanotify) {
                return;
            }
            let happened = Happened { window: seen.happened.window, ..Happened::finished() };
            let happened = Happened { written: seen.happened.written, ..happened };
            self.linked.wanted.add((object.device, object.inode), object.owner, happened);
        }
    }

    /// Has a path looked at, or its directory compared when there is no room for it.
    fn touch_or_note(&mut self, path: &Path, happened: Happened) {
        let lane = self.trust.lane(path);
        if self.due.has_room(lane) || self.due.of(lane).contains(path) {
            self.due.of(lane).touch(path, happened, now());
        } else {
            self.note_busy_path(path, &happened);
        }
    }
}
