//! Giving memory back that was needed for a while: after the first scan, which uses code and heap that nothing else
//! does, and after whatever took much.

use std::time::{Duration, Instant};

use super::{Engine, Sink, now};

/// Time after which memory is given back, when nothing is under way then; otherwise as long after that.
const PAUSE: Duration = Duration::from_secs(2);

/// When memory is to be given back.
#[derive(Debug, Default)]
pub(super) struct Memory {
    at: Option<Instant>,
}

impl Memory {
    /// Much was needed, or what is not needed again.
    pub(super) fn is_swollen(&mut self, now: Instant) {
        self.at.get_or_insert(now + PAUSE);
    }

    /// Time until it is to be given back.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        self.at.map(|at| at.saturating_duration_since(now))
    }
}

impl<S: Sink> Engine<S> {
    /// Gives back what is not needed any more, when it is time and nothing is under way.
    pub(super) fn tend_memory(&mut self) {
        let now = now();
        if self.memory.at.is_none_or(|at| at > now) {
            return;
        }
        self.memory.at = (!self.is_calm()).then_some(now + PAUSE);
        if self.memory.at.is_none() {
            vigie_memory::give_back_heap();
            vigie_memory::give_back_code();
        }
    }
}
