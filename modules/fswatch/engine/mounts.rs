//! What is mounted where: read again when that changed, or when a mount was met that nobody knows.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Engine, Sink, now};
use crate::change::shown;
use crate::events::Happened;

/// Time between two readings of the mount table.
const MOUNTS_PAUSE: Duration = Duration::from_millis(250);

/// A path that is in a mount which no table has named for so long is a problem and no race.
const UNKNOWN_LONG: Duration = Duration::from_secs(2);

/// Pause before such a path is looked at again.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(10);

/// Paths in mounts that nobody knows, and since when each of them is.
#[derive(Debug, Default)]
pub(super) struct UnknownMounts(HashMap<PathBuf, Instant>);

impl UnknownMounts {
    /// More of them are only counted anew.
    const MAX: usize = 1_024;

    /// How long a path has been in one.
    fn lasts(&mut self, path: &Path, now: Instant) -> Duration {
        if self.0.len() >= Self::MAX && !self.0.contains_key(path) {
            self.0.clear();
        }
        now.duration_since(*self.0.entry(path.to_owned()).or_insert(now))
    }

    /// It could be looked at.
    pub(super) fn remove(&mut self, path: &Path) {
        if !self.0.is_empty() {
            self.0.remove(path);
        }
    }
}

impl<S: Sink> Engine<S> {
    /// What is at a path is looked at again when the mount table was read, and named where that does not help.
    pub(super) fn note_unknown_mount(&mut self, path: &Path, happened: Happened) {
        let now = now();
        let is_lasting = self.unknown_mounts.lasts(path, now) >= UNKNOWN_LONG;
        if is_lasting {
            let why = "it is in a mount that the mount table does not name, and is not looked at".to_owned();
            if self.status.unreadable.insert(path.to_owned(), why.clone()) {
                self.sink.log(&format!("{} cannot be read: {why}", shown(path)));
            }
        }
        self.postpone(path, happened, now + if is_lasting { UNKNOWN_PAUSE } else { MOUNTS_PAUSE });
    }

    /// Reads the mount table when it is not that any more, but not again for each mount that a user makes.
    pub(super) fn doubt_mounts(&mut self) {
        let now = now();
        if self.next_mounts(now) == Some(Duration::ZERO) {
            (self.mounts_changed, self.mounts_read) = (false, Some(now));
            self.note_mounts();
        }
    }

    /// Time until the mount table is to be read.
    pub(super) fn next_mounts(&self, now: Instant) -> Option<Duration> {
        let is_wanted = self.mounts_changed || self.watching.avoided().is_doubted();
        let last = self
            .mounts_read
            .map_or(Duration::ZERO, |last| MOUNTS_PAUSE.saturating_sub(now.duration_since(last)));
        is_wanted.then_some(last)
    }

    /// What is mounted somewhere shows other objects there than before.
    fn note_mounts(&mut self) {
        self.proofs.doubt();
        let before = self.watching.mounts().clone();
        let points = self.watching.remount();
        self.note_avoided();
        for point in points {
            self.tell_mount(&point, &before);
            if self.coverage.options(&point).is_some() && !self.coverage.descends(&point) {
                self.hurry(&point, Happened::finished(), now());
            }
            if self.leads(&point) {
                self.way_changed(&point, Happened::default());
            }
            if self.coverage.descends(&point) {
                self.watching.directories().remove_tree(&point);
                self.status.skipped.remove(&point);
                self.hurry(&point, Happened::finished(), now());
                self.compare_tree(&point);
            }
        }
    }
}
