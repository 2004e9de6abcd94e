//! Tells losses: of which kind, how many, and between which moments.

use vigie_kernel_events::{Counters, Kind};

/// Time between two looks at the counters, in microseconds: a loss is told within five seconds.
const PAUSE: i64 = 1_000_000;

/// How long a loss stays a condition, in microseconds.
const SHOWN: i64 = 600_000_000;

/// Events that nobody will ever see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) kind: &'static str,
    pub(crate) count: u64,
    /// Microseconds since 1970: not before this moment.
    pub(crate) from: i64,
}

/// What was counted until the last look.
#[derive(Debug, Clone, Default)]
pub(super) struct Losses {
    seen: Counters,
    looked: i64,
    last: Option<(i64, u64)>,
}

impl Losses {
    /// Another source counts from 0.
    pub(super) fn begin(&mut self) {
        self.seen = Counters::default();
    }

    pub(super) fn is_due(&self, now: i64) -> bool {
        now - self.looked >= PAUSE || now < self.looked
    }

    /// What was lost since the last look: by the source, where there is one, and of the history, whose disk was full.
    pub(super) fn update(&mut self, counters: Option<&Counters>, refused: u64, now: i64) -> Vec<Lost> {
        let from = if self.looked == 0 { now } else { self.looked };
        let counters = counters.unwrap_or(&self.seen);
        let mut all: Vec<(&'static str, u64)> = Kind::ALL
            .into_iter()
            .map(|kind| (kind.name(), counters.lost(kind).saturating_sub(self.seen.lost(kind))))
            .collect();
        let more = |count: fn(&Counters) -> u64| count(counters).saturating_sub(count(&self.seen));
        all.push(("recursion", more(|counters| counters.recursion_misses)));
        all.push(("not-understood", more(|counters| counters.not_understood)));
        all.push(("any", more(|counters| counters.lost_of_any_kind)));
        all.push(("history", refused));
        self.seen = *counters;
        self.looked = now;
        let lost: Vec<Lost> = all
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(kind, count)| Lost { kind, count, from })
            .collect();
        if !lost.is_empty() {
            let before = self.last.filter(|(time, _)| now - time < SHOWN).map_or(0, |(_, count)| count);
            self.last = Some((now, before + lost.iter().map(|lost| lost.count).sum::<u64>()));
        }
        lost
    }

    /// Text of a condition for what was lost a short time ago.
    pub(super) fn recent(&self, now: i64) -> Option<String> {
        let (_, count) = self.last.filter(|(time, _)| now - time < SHOWN)?;
        Some(format!("{count} events were lost in the last ten minutes; the log says when"))
    }
}
