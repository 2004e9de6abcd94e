//! Watched files that got another name where nobody watches: what is done under that name is told as well from then on.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Engine, SLICE, Sink, now};
use crate::events::Happened;

/// Time between two searches.
const PAUSE: Duration = Duration::from_secs(1);

/// Known objects that are gone through before the time is looked at, and files that are found before.
const TOGETHER: (usize, usize) = (512, 16);

/// A search under way.
#[derive(Debug)]
struct Search {
    /// Files by device and inode.
    wanted: HashSet<(u64, u64)>,
    /// The last path that was looked at.
    after: Option<PathBuf>,
}

/// The searches. Each goes through everything that is known, in slices, for all files that came in a while.
#[derive(Debug, Default)]
pub(super) struct Linked {
    /// Files that got another name somewhere, by device and inode.
    wanted: HashSet<(u64, u64)>,
    /// Those that are looked for now, and how far.
    search: Option<Search>,
    /// When the last search began.
    begun: Option<Instant>,
}

impl Linked {
    pub(super) fn add(&mut self, files: HashSet<(u64, u64)>) {
        self.wanted.extend(files);
    }

    /// Time until there is something to do.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        if self.search.is_some() {
            return Some(Duration::ZERO);
        }
        let pause = self.begun.map_or(Duration::ZERO, |last| PAUSE.saturating_sub(now.duration_since(last)));
        (!self.wanted.is_empty()).then_some(pause)
    }
}

impl<S: Sink> Engine<S> {
    /// Goes on with the search. A user decides how many names his files have, so nothing here is done for all of them in
    /// one step.
    pub(super) fn find_linked(&mut self) {
        let begun = now();
        if self.linked.next(begun) != Some(Duration::ZERO) {
            return;
        }
        let search = self.linked.search.take();
        if search.is_none() {
            self.linked.begun = Some(begun);
        }
        let Search { wanted, mut after } =
            search.unwrap_or_else(|| Search { wanted: std::mem::take(&mut self.linked.wanted), after: None });
        loop {
            let (found, last) = self.ledger.state().baseline.files_of(&wanted, after.as_deref(), TOGETHER);
            for path in found {
                self.follow_names(&path);
                self.touch_or_note(&path, Happened::finished());
            }
            if last.is_none() {
                return;
            }
            after = last;
            if now().duration_since(begun) >= SLICE {
                self.linked.search = Some(Search { wanted, after });
                return;
            }
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
