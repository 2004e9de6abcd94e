//! Keeps repeated complaints from filling the agent's log.

use std::time::Duration;

use tokio::time::Instant;

/// Lines that are permitted in one period.
const LINES: u32 = 10;

/// The period's length.
const PERIOD: Duration = Duration::from_secs(60);

/// Permits a few lines in each period and counts the others.
#[derive(Debug, Default)]
pub(super) struct LogLimit {
    period_started_at: Option<Instant>,
    permitted: u32,
    dropped: u64,
}

impl LogLimit {
    /// Whether a line may be logged now: how many were dropped since the last permitted one, or `None`.
    pub(super) fn permit(&mut self, now: Instant) -> Option<u64> {
        if self.period_started_at.is_none_or(|start| now.duration_since(start) >= PERIOD) {
            self.period_started_at = Some(now);
            self.permitted = 0;
        }
        if self.permitted < LINES {
            self.permitted += 1;
            Some(std::mem::take(&mut self.dropped))
        } else {
            self.dropped += 1;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_cut_and_counted() {
        let mut limit = LogLimit::default();
        let start = Instant::now();

        let permitted = (0..1000).filter(|_| limit.permit(start).is_some()).count();

        assert_eq!(permitted, LINES as usize);
        assert_eq!(limit.permit(start + PERIOD), Some(1000 - u64::from(LINES)));
        assert_eq!(limit.permit(start + PERIOD), Some(0));
    }
}
