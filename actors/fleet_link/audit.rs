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
        #[expect(clippy::cast_precision_loss, reason = "milliseconds since the last call are far below 2^52")]
        let seconds = now.saturating_sub(budget.at) as f64 / 1000.0;
        budget.tokens = (budget.tokens + seconds * PER_SECOND).min(BURST);
        budget.at = now;
        if budget.tokens >= 1.0 {
            budget.tokens -= 1.0;
            Some(std::mem::take(&mut budget.unreported))
        } else {
            budget.unreported += 1;
            None
        }
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
}
