//! How much a module may write into the agent's log: a token bucket over bytes, without a clock of its own.
//!
//! The bucket is large, so that a burst passes untouched; a module that floods for long is held to the steady
//! rate, because the log's rotation would otherwise push everybody else's lines off the disk within seconds.

use tokio::time::Instant;

use vigie_config::model::LoggingSection;

/// The bucket of one module.
#[derive(Debug, Clone)]
pub(crate) struct LogBudget {
    burst_bytes: u64,
    bytes_per_sec: u64,
    available: u64,
    refilled_at: Instant,
    suppressed: u64,
}

impl LogBudget {
    /// A full bucket.
    #[must_use]
    pub(crate) fn new(section: &LoggingSection, now: Instant) -> Self {
        Self {
            burst_bytes: section.module_burst_bytes,
            bytes_per_sec: section.module_bytes_per_sec,
            available: section.module_burst_bytes,
            refilled_at: now,
            suppressed: 0,
        }
    }

    /// Takes other bounds; what was used so far stays used.
    pub(crate) fn set_bounds(&mut self, section: &LoggingSection) {
        self.burst_bytes = section.module_burst_bytes;
        self.bytes_per_sec = section.module_bytes_per_sec;
        self.available = self.available.min(self.burst_bytes);
    }

    /// Fills in what the time since the last call is worth. Called once per batch of lines.
    pub(crate) fn refill(&mut self, now: Instant) {
        let elapsed = now.duration_since(self.refilled_at);
        let earned =
            u64::try_from(elapsed.as_nanos().saturating_mul(u128::from(self.bytes_per_sec)) / 1_000_000_000)
                .unwrap_or(u64::MAX);
        if earned > 0 {
            self.available = self.available.saturating_add(earned).min(self.burst_bytes);
            // What a short time earned less than one byte for is not lost: the next call counts it.
            self.refilled_at = now;
        }
    }

    /// Whether a line of this many bytes may be written; a line that may not is counted.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        if self.bytes_per_sec == 0 {
            return true;
        }
        let bytes = bytes as u64;
        if bytes > self.available {
            self.suppressed += 1;
            return false;
        }
        self.available -= bytes;
        true
    }

    /// Lines that were suppressed since the last call, once enough is available again to say so.
    pub(crate) fn suppressed(&mut self) -> Option<u64> {
        let enough = self.available >= self.bytes_per_sec.min(self.burst_bytes / 2).max(1);
        (self.suppressed > 0 && enough).then(|| std::mem::take(&mut self.suppressed))
    }

    /// Whether lines are being suppressed.
    #[must_use]
    pub(crate) fn is_exhausted(&self) -> bool {
        self.suppressed > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use proptest::prelude::*;

    fn section(burst: u64, rate: u64) -> LoggingSection {
        LoggingSection { module_burst_bytes: burst, module_bytes_per_sec: rate, ..LoggingSection::default() }
    }

    #[test]
    fn a_burst_passes_and_a_flood_is_suppressed_and_counted() {
        let now = Instant::now();
        let mut budget = LogBudget::new(&section(1000, 100), now);

        let written = (0..50).filter(|_| budget.take(100)).count();

        assert_eq!(written, 10);
        assert!(budget.is_exhausted());
        assert_eq!(budget.suppressed(), None);
        budget.refill(now + Duration::from_secs(1));
        assert_eq!(budget.suppressed(), Some(40));
        assert!(!budget.is_exhausted());
    }

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        let mut budget = LogBudget::new(&section(10, 0), Instant::now());

        assert!((0..1000).all(|_| budget.take(1 << 20)));
    }

    proptest! {
        /// Over any time a module writes at most its burst and what the time is worth, however it spreads its
        /// lines, and every line is either written or counted.
        #[test]
        fn no_module_writes_more_than_its_budget(
            lines in proptest::collection::vec((0u64..50, 1usize..400), 1..300),
        ) {
            let start = Instant::now();
            let mut budget = LogBudget::new(&section(1000, 5000), start);
            let (mut now, mut written, mut refused, mut reported) = (start, 0u64, 0u64, 0u64);
            for (pause_ms, bytes) in lines {
                now += Duration::from_millis(pause_ms);
                budget.refill(now);
                reported += budget.suppressed().unwrap_or(0);
                if budget.take(bytes) {
                    written += bytes as u64;
                } else {
                    refused += 1;
                }
            }

            let worth = 1000 + now.duration_since(start).as_millis() as u64 * 5;
            prop_assert!(written <= worth, "{written} > {worth}");
            budget.refill(now + Duration::from_secs(10));
            reported += budget.suppressed().unwrap_or(0);
            prop_assert_eq!(reported, refused);
        }
    }
}
