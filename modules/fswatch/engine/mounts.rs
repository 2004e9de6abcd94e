//! What is mounted where: read again when that changed, or when a mount was met that nobody knows.

use std::time::{Duration, Instant};

use super::{Engine, Sink, now};
use crate::events::Happened;

/// Time between two readings of the mount table.
pub(super) const MOUNTS_PAUSE: Duration = Duration::from_millis(250);

impl<S: Sink> Engine<S> {
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
