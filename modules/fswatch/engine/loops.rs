//! Watched files to which a loop device is attached: told at once, and looked at as long as it is, because what is
//! written to the device gives no notification.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Engine, Sink, now};
use crate::change::shown;
use crate::events::Happened;
use crate::loops::{Attached, attached};
use crate::rules::Severity;

/// Time between two looks at such a file.
const PAUSE: Duration = Duration::from_secs(1);

/// Such files that are looked at; of more the scan tells.
const MAX_FILES: usize = 64;

/// The watched files that have a loop device.
#[derive(Debug, Default)]
pub(super) struct Loops {
    watched: BTreeSet<Attached>,
    looked: Option<Instant>,
    /// They are to be listed anew.
    pub(super) doubted: bool,
}

impl Loops {
    /// Time until there is something to do.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        if self.doubted {
            return Some(Duration::ZERO);
        }
        let looked = self.looked.filter(|_| !self.watched.is_empty())?;
        Some(PAUSE.saturating_sub(now.duration_since(looked)))
    }
}

impl<S: Sink> Engine<S> {
    /// Tells of devices that came, and looks at the files of those that there are.
    pub(super) fn tend_loops(&mut self) {
        let now = now();
        if !self.status.baseline_complete {
            return;
        }
        if std::mem::take(&mut self.loops.doubted) {
            let coverage = &self.coverage;
            let found: BTreeSet<Attached> = attached()
                .into_iter()
                .filter(|one| coverage.options(&one.file).is_some())
                .take(MAX_FILES)
                .collect();
            for one in found.difference(&self.loops.watched).cloned().collect::<Vec<_>>() {
                let text = format!(
                    "{} is attached to the loop device /dev/{}: what is written there changes the file without a \
                     notification, it is looked at each second",
                    shown(&one.file),
                    one.device
                );
                self.tell_notice(&one.file, text, Severity::High, None);
            }
            for one in self.loops.watched.difference(&found).cloned().collect::<Vec<_>>() {
                let prove = Happened { prove: true, ..Happened::finished() };
                self.hurry(&one.file, prove, now);
            }
            self.loops.watched = found;
        }
        let is_early = self.loops.looked.is_some_and(|looked| now.duration_since(looked) < PAUSE);
        if self.loops.watched.is_empty() || is_early {
            return;
        }
        self.loops.looked = Some(now);
        for one in self.loops.watched.clone() {
            self.hurry(&one.file, Happened::finished(), now);
        }
    }
}
