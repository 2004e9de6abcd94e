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

/// Paths in mounts that nobody knows: since when each of them is, and when that was seen last.
#[derive(Debug, Default)]
pub(super) struct UnknownMounts(HashMap<PathBuf, [Instant; 2]>);

impl UnknownMounts {
    /// Of more each counts as lasting.
    const MAX: usize = 1_024;

    /// Whether a path has been in one for long.
    fn is_lasting(&mut self, path: &Path, now: Instant) -> bool {
        let is_over = |seen: &[Instant; 2]| now.duration_since(seen[1]) > 2 * UNKNOWN_PAUSE;
        if self.0.len() >= Self::MAX {
            self.0.retain(|_, seen| !is_over(seen));
        }
        if self.0.len() >= Self::MAX && !self.0.contains_key(path) {
            return true;
        }
        let seen = self.0.entry(path.to_owned()).or_insert([now; 2]);
        *seen = if is_over(seen) { [now; 2] } else { [seen[0], now] };
        now.duration_since(seen[0]) >= UNKNOWN_LONG
    }

    /// It could be looked at.
    pub(super) fn remove(&mut self, path: &Path) {
        self.0.remove(path);
    }
}

impl<S: Sink> Engine<S> {
    /// What is at a path is looked at again when the mount table was read, and named where that does not help.
    pub(super) fn note_unknown_mount(&mut self, path: &Path, happened: Happened) {
        let now = now();
        let is_lasting = self.unknown_mounts.is_lasting(path, now);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_in_an_unknown_mount_for_long_only_if_it_is_seen_there_again_and_again() {
        let (mut unknown, begun) = (UnknownMounts::default(), now());
        let path = Path::new("/mnt/x");
        let mut is_lasting =
            |path: &Path, seconds| unknown.is_lasting(path, begun + Duration::from_secs(seconds));

        assert_eq!([0, 1, 2, 12].map(|seconds| is_lasting(path, seconds)), [false, false, true, true]);
        assert!(!is_lasting(path, 3_600), "what was there an hour ago says nothing");
        for number in 0..UnknownMounts::MAX {
            is_lasting(&path.join(number.to_string()), 3_601);
        }
        assert!(is_lasting(Path::new("/mnt/one/more"), 3_601));
        assert!(!is_lasting(Path::new("/mnt/later"), 7_200));
    }
}
