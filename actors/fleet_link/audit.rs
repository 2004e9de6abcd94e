//! How many refusals are reported: a flood of bad actions must not become a flood of records. Pure.

use std::collections::BTreeMap;

/// Records of one outcome in a row before further ones are only counted.
const BURST: f64 = 20.0;

/// Records of one outcome a second for long.
const PER_SECOND: f64 = 1.0;

/// Which refusals get a record of their own.
#[derive(Debug, Default)]
pub(super) struct AuditBudget {
    outcomes: BTreeMap<&'static str, Budget>,
}

#[derive(Debug)]
struct Budget {
    tokens: f64,
    /// Milliseconds of any clock.
    at: u64,
    unreported: u64,
}

impl AuditBudget {
    /// Whether an outcome at `now` (milliseconds) is reported; if so, with how many like it that were not.
    pub(super) fn take(&mut self, outcome: &'static str, now: u64) -> Option<u64> {
        let budget = self.outcomes.entry(outcome).or_insert(Budget { tokens: BURST, at: now, unreported: 0 });
        let reported = budget.report(now);
        if reported.is_none() {
            budget.unreported += 1;
        }
        reported
    }

    /// The outcomes of which some were not reported and can be now, with their number.
    pub(super) fn owed(&mut self, now: u64) -> Vec<(&'static str, u64)> {
        let owing = self.outcomes.iter_mut().filter(|(_, budget)| budget.unreported > 0);
        owing.filter_map(|(outcome, budget)| Some((*outcome, budget.report(now)?))).collect()
    }
}

impl Budget {
    /// Takes what a record costs; how many were not reported before it.
    fn report(&mut self, now: u64) -> Option<u64> {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds since the last call are far below 2^52")]
        let seconds = now.saturating_sub(self.at) as f64 / 1000.0;
        self.tokens = (self.tokens + seconds * PER_SECOND).min(BURST);
        self.at = now;
        (self.tokens >= 1.0).then(|| {
            self.tokens -= 1.0;
            std::mem::take(&mut self.unreported)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_told_with_the_next_record() {
        let mut budget = AuditBudget::default();

        let reported = (0..1000).filter(|_| budget.take("replayed", 0).is_some()).count();

        assert_eq!(reported, 20);
        assert_eq!(budget.take("expired", 0), Some(0), "another outcome has its own budget");
        assert_eq!(budget.take("replayed", 999), None);
        assert_eq!(budget.take("replayed", 1000), Some(981));
        assert_eq!(budget.take("replayed", 3000), Some(0));
    }

    #[test]
    fn what_was_counted_is_owed_when_the_flood_is_over() {
        let mut budget = AuditBudget::default();
        for _ in 0..25 {
            budget.take("replayed", 0);
        }
        budget.take("expired", 0);

        assert_eq!(budget.owed(500), []);
        assert_eq!(budget.owed(60_000), [("replayed", 5)]);
        assert_eq!(budget.owed(120_000), []);
        assert_eq!(budget.take("replayed", 120_000), Some(0), "it was told");
    }
}
