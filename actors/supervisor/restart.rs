//! When a module that died is started again: pure policy, no clock and no randomness of its own.
//!
//! The delay is "full jitter": drawn evenly between zero and a bound that doubles with every death, so that
//! modules that died together do not come back together. After `breaker_deaths` deaths within
//! `breaker_window` the breaker opens and the module is tried only every `breaker_retry` until one life is
//! long enough. The agent itself never gives up and never ends because of a module.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use vigie_config::model::RestartSection;

/// What to do about a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Start again after this delay.
    Restart {
        /// Time to wait.
        after: Duration,
    },
    /// The breaker is open: the module counts as failed, and is tried once after this delay.
    Failed {
        /// Time to wait.
        retry_after: Duration,
    },
}

/// What is remembered of a module's earlier lives.
#[derive(Debug, Clone, Default)]
pub(crate) struct RestartHistory {
    /// Deaths within the breaker's window, oldest first; never more than `breaker_deaths`.
    deaths: VecDeque<Instant>,
    /// Deaths since the last healthy life.
    attempt: u32,
    breaker_open: bool,
}

/// A history as it outlives the agent: a crash loop does not begin anew because the agent did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptHistory {
    /// Milliseconds from each death to the moment in which this was written.
    deaths_ms_ago: Vec<u64>,
    attempt: u32,
    breaker_open: bool,
}

impl RestartHistory {
    /// The history as of `now`; nothing when there is nothing to remember.
    #[must_use]
    pub(crate) fn keep(&self, now: Instant) -> Option<KeptHistory> {
        let ago = |death: &Instant| u64::try_from(now.duration_since(*death).as_millis()).unwrap_or(u64::MAX);
        let kept = KeptHistory {
            deaths_ms_ago: self.deaths.iter().map(ago).collect(),
            attempt: self.attempt,
            breaker_open: self.breaker_open,
        };
        (kept.attempt > 0 || kept.breaker_open).then_some(kept)
    }

    /// The history that was kept `elapsed` before `now`, with the newest `most` deaths.
    #[must_use]
    pub(crate) fn restore(kept: &KeptHistory, elapsed: Duration, most: usize, now: Instant) -> Self {
        let surplus = kept.deaths_ms_ago.len().saturating_sub(most);
        let times = kept.deaths_ms_ago.iter().skip(surplus);
        let deaths =
            times.filter_map(|&ago| now.checked_sub(Duration::from_millis(ago).checked_add(elapsed)?));
        Self { deaths: deaths.collect(), attempt: kept.attempt, breaker_open: kept.breaker_open }
    }

    /// Decides about a life of `lifetime` that ended `now`. `jitter` is drawn evenly from 0 to 1.
    pub(crate) fn died(
        &mut self,
        policy: &RestartSection,
        now: Instant,
        lifetime: Duration,
        jitter: f64,
    ) -> Verdict {
        if lifetime >= policy.healthy_after {
            *self = Self::default();
        }
        if policy.breaker_deaths > 0 {
            self.deaths.push_back(now);
            let limit = policy.breaker_deaths as usize;
            while self.deaths.len() > limit
                || self.deaths.front().is_some_and(|&death| now.duration_since(death) > policy.breaker_window)
            {
                self.deaths.pop_front();
            }
            if self.breaker_open || self.deaths.len() >= limit {
                self.breaker_open = true;
                return Verdict::Failed { retry_after: policy.breaker_retry };
            }
        }
        let bound =
            policy.backoff_initial.saturating_mul(2u32.saturating_pow(self.attempt)).min(policy.backoff_max);
        self.attempt = self.attempt.saturating_add(1);
        Verdict::Restart { after: bound.mul_f64(jitter.clamp(0.0, 1.0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POLICY: RestartSection = RestartSection {
        backoff_initial: Duration::from_millis(100),
        backoff_max: Duration::from_secs(300),
        healthy_after: Duration::from_secs(60),
        breaker_deaths: 5,
        breaker_window: Duration::from_secs(60),
        breaker_retry: Duration::from_secs(600),
    };

    #[test]
    fn the_first_restart_after_a_healthy_run_comes_within_a_tenth_of_a_second() {
        let mut history = RestartHistory::default();
        let now = Instant::now();
        for _ in 0..3 {
            history.died(&POLICY, now, Duration::ZERO, 1.0);
        }

        let verdict = history.died(&POLICY, now, Duration::from_secs(60), 1.0);

        assert_eq!(verdict, Verdict::Restart { after: Duration::from_millis(100) });
    }

    #[test]
    fn the_bound_of_the_delay_doubles_with_every_death() {
        let policy = RestartSection { breaker_deaths: 0, ..POLICY };
        let mut history = RestartHistory::default();
        let now = Instant::now();

        let delays: Vec<_> =
            (0..4).map(|_| history.died(&policy, now, Duration::from_secs(1), 1.0)).collect();

        let expected = [100, 200, 400, 800].map(|ms| Verdict::Restart { after: Duration::from_millis(ms) });
        assert_eq!(delays, expected);
    }

    #[test]
    fn five_deaths_in_a_minute_open_the_breaker_and_one_healthy_life_closes_it() {
        let mut history = RestartHistory::default();
        let now = Instant::now();
        for _ in 0..4 {
            history.died(&POLICY, now, Duration::ZERO, 0.0);
        }

        let fifth = history.died(&POLICY, now, Duration::ZERO, 0.0);
        let half_open = history.died(&POLICY, now + POLICY.breaker_retry, Duration::ZERO, 0.0);
        let healthy = history.died(&POLICY, now + POLICY.breaker_retry * 2, Duration::from_secs(61), 0.0);

        assert_eq!(fifth, Verdict::Failed { retry_after: POLICY.breaker_retry });
        assert_eq!(half_open, Verdict::Failed { retry_after: POLICY.breaker_retry });
        assert!(matches!(healthy, Verdict::Restart { .. }));
        assert!(!history.breaker_open);
    }

    #[test]
    fn a_history_outlives_the_agent() {
        let now = Instant::now() + Duration::from_secs(1_000);
        let mut history = RestartHistory::default();
        for second in 0..4 {
            history.died(&POLICY, now + Duration::from_secs(second), Duration::ZERO, 0.0);
        }
        let written = now + Duration::from_secs(4);
        let kept = history.keep(written).unwrap();
        let kept: KeptHistory = serde_json::from_str(&serde_json::to_string(&kept).unwrap()).unwrap();

        let later = written + Duration::from_secs(10);
        let mut restored = RestartHistory::restore(&kept, Duration::from_secs(10), 5, later);

        assert_eq!(restored.deaths, history.deaths);
        let fifth = restored.died(&POLICY, later, Duration::ZERO, 0.0);
        assert_eq!(fifth, Verdict::Failed { retry_after: POLICY.breaker_retry });
        assert_eq!(RestartHistory::default().keep(now), None);
        let cut = RestartHistory::restore(&kept, Duration::MAX, 2, later);
        assert!(cut.deaths.len() <= 2);
    }

    proptest! {
        /// A crash loop never costs the host more than 20 starts in its first ten minutes, however long each
        /// short life is and however the dice fall.
        #[test]
        fn a_crash_loop_starts_at_most_twenty_times_in_ten_minutes(
            lives in proptest::collection::vec((0u64..59_000, 0.3f64..=1.0), 100),
        ) {
            let mut history = RestartHistory::default();
            let start = Instant::now();
            let mut now = start;
            let mut spawns = 0;

            for (life_ms, jitter) in lives {
                if now.duration_since(start) >= Duration::from_secs(600) {
                    break;
                }
                spawns += 1;
                let life = Duration::from_millis(life_ms);
                now += life;
                now += match history.died(&POLICY, now, life, jitter) {
                    Verdict::Restart { after } => after,
                    Verdict::Failed { retry_after } => retry_after,
                };
            }

            prop_assert!(spawns <= 20, "{spawns} starts");
        }

        #[test]
        fn no_delay_is_above_its_bound_and_no_history_grows(
            deaths in proptest::collection::vec((0u64..100_000, 0u64..100_000, 0.0f64..=1.0), 0..200),
        ) {
            let mut history = RestartHistory::default();
            let mut now = Instant::now();
            for (pause_ms, life_ms, jitter) in deaths {
                now += Duration::from_millis(pause_ms);
                match history.died(&POLICY, now, Duration::from_millis(life_ms), jitter) {
                    Verdict::Restart { after } => prop_assert!(after <= POLICY.backoff_max),
                    Verdict::Failed { retry_after } => prop_assert_eq!(retry_after, POLICY.breaker_retry),
                }
                prop_assert!(history.deaths.len() <= POLICY.breaker_deaths as usize);
            }
        }
    }
}
