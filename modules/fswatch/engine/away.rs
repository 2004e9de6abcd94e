//! What root alone can change and went a moment ago. Whoever moves a directory away, changes a file in it and moves it
//! back changes nothing at that place, but removes and creates: what comes is compared with what went.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::round::Seen;
use super::{Engine, Sink, now};
use crate::change::{Alert, alert, compare};
use crate::object::{Kind, Object};
use crate::rules::Options;
use crate::trust::Lane;

/// Time for which it is remembered, and bytes that all of it may take.
const REMEMBERED: Duration = Duration::from_secs(60);
const MAX_BYTES: usize = 4 << 20;

/// About what an object takes beside its path.
const OBJECT_BYTES: usize = 256;

/// What went, and when.
#[derive(Debug, Default)]
pub(super) struct Away {
    objects: HashMap<PathBuf, (Object, Instant)>,
    bytes: usize,
}

impl Away {
    fn note(&mut self, path: &Path, known: &Object, now: Instant) {
        if self.bytes >= MAX_BYTES {
            self.objects.retain(|_, (_, at)| now.duration_since(*at) < REMEMBERED);
            self.bytes = self.objects.keys().map(|path| OBJECT_BYTES + path.as_os_str().len()).sum();
        }
        if self.bytes < MAX_BYTES && self.objects.insert(path.to_owned(), (known.clone(), now)).is_none() {
            self.bytes += OBJECT_BYTES + path.as_os_str().len();
        }
    }

    fn take(&mut self, path: &Path, now: Instant) -> Option<Object> {
        let (object, at) = self.objects.remove(path)?;
        self.bytes -= OBJECT_BYTES + path.as_os_str().len();
        if self.objects.is_empty() {
            // What a large directory needed is not kept for ever.
            self.objects = HashMap::new();
        }
        (now.duration_since(at) < REMEMBERED).then_some(object)
    }
}

impl<S: Sink> Engine<S> {
    /// Remembers what went.
    pub(super) fn note_gone(&mut self, lane: Lane, seen: &Seen) {
        if let (Lane::Trusted, Some(known), None) = (lane, &seen.known, &seen.there)
            && matches!(known.kind, Kind::File | Kind::Link)
        {
            self.away.note(&seen.path, known, now());
        }
    }

    /// Says of something that came how it differs from what went there, if that is worse.
    pub(super) fn since_gone(&mut self, seen: &Seen, told: Alert, options: &Options) -> Alert {
        let (None, Some(there)) = (&seen.known, &seen.there) else { return told };
        let Some(was) = self.away.take(&seen.path, now()) else { return told };
        let is_known = there.content.last_read() == Some(&there.content) || there.kind == Kind::Link;
        if options.growing || !is_known {
            return told;
        }
        let Some(difference) = compare(Some(&was), Some(there), options) else { return told };
        let Alert { severity, alert: text, .. } =
            alert(&seen.path, Some(&was), Some(there), difference, options, &told.rule, &told.time);
        if severity <= told.severity {
            return told;
        }
        let text = format!("{}; it was removed a moment ago and is another one now: {text}", told.alert);
        // There was nothing right before it: whoever replays the alerts took what was there away with the removal.
        Alert { severity, alert: text, ..told }
    }
}
