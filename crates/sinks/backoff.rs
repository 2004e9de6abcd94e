//! When a delivery that failed is tried again: exponential backoff with full jitter, so that senders whose receiver
//! went away do not all come back in the same moment.

use std::time::Duration;

/// Bound of the first wait.
const FIRST: Duration = Duration::from_secs(1);

/// Largest bound.
const LARGEST: Duration = Duration::from_secs(300);

/// Longest wait that a receiver may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// How often in a row a delivery has failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Another failure: how long to wait. `random` is any number; `asked` is what the receiver asks for, which counts.
    pub fn fail(&mut self, random: u64, asked: Option<Duration>) -> Duration {
        let bound = FIRST.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(LARGEST);
        self.failures = (self.failures + 1).min(31);
        if let Some(asked) = asked {
            return asked.min(LONGEST_ASKED);
        }
        let milliseconds = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(random % (milliseconds + 1))
    }

    /// It works again.
    pub fn succeed(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row.
    #[must_use]
    pub fn failures(self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_wait_is_within_a_bound_that_doubles_and_what_is_asked_counts(
            randoms in prop::collection::vec(any::<u64>(), 1..40), asked in 0_u64..10_000,
        ) {
            let mut backoff = Backoff::default();
            let mut bound = 1000;
            for random in randoms {
                prop_assert!(backoff.fail(random, None) <= Duration::from_millis(bound));
                bound = (bound * 2).min(300_000);
            }
            let wait = backoff.fail(7, Some(Duration::from_secs(asked)));
            prop_assert_eq!(wait, Duration::from_secs(asked.min(3600)));
            backoff.succeed();
            prop_assert!(backoff.fail(u64::MAX, None) <= Duration::from_secs(1));
        }
    }

    #[test]
    fn all_of_the_bound_is_used() {
        let waits: Vec<_> =
            (0..1001).map(|random| Backoff::default().fail(random, None).as_millis()).collect();

        assert_eq!((waits.iter().min(), waits.iter().max()), (Some(&0), Some(&1000)));
    }
}
