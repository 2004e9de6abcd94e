//! Reports of how far a query is, a few times a second.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use vigie_protocol::message::Progress;
use vigie_protocol::progress::INTERVAL;

/// Where a query's reports go, at most one in [`INTERVAL`]. The first comes after one interval: what is quick needs
/// none.
#[derive(Clone)]
pub(crate) struct Reporter {
    sink: Arc<dyn Fn(&Progress) + Send + Sync>,
    last: Arc<Mutex<Instant>>,
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reporter")
    }
}

#[expect(clippy::disallowed_methods, reason = "a module's own threads live in real time")]
fn now() -> Instant {
    Instant::now()
}

impl Reporter {
    pub(crate) fn new(sink: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        Self { sink: Arc::new(sink), last: Arc::new(Mutex::new(now())) }
    }

    pub(crate) fn report(&self, progress: impl FnOnce() -> Progress) {
        if self.is_due(now()) {
            (self.sink)(&progress());
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = now.saturating_duration_since(*last) >= INTERVAL;
        if due {
            *last = now;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn reports_that_come_too_soon_are_left_out() {
        let reporter = Reporter::new(|_| {});
        let begun = *reporter.last.lock().unwrap();
        let after = |milliseconds| reporter.is_due(begun + Duration::from_millis(milliseconds));

        assert_eq!([10, 249, 250, 300, 499, 500].map(after), [false, false, true, false, false, true]);
    }
}
