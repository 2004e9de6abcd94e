//! Whether a sink is too far behind what the journal has.

use std::time::Duration;

use tokio::time::Instant;

/// An alert that waits longer than this makes the sink a failure: nobody looks at a warning for days.
const BEHIND: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// How long a receiver that takes what it gets may need for what is older than that: a new sink, or a host that was off
/// for days, begins with it.
const CATCHING_UP: Duration = Duration::from_secs(60);

/// Whether the sink is too far behind, by the oldest alert that waits after each batch. One batch that is taken does
/// not end it, and a receiver that is only too slow begins it as well.
#[derive(Debug, Default)]
pub(super) struct Behind {
    since: Option<Instant>,
    pub(super) is_told: bool,
}

impl Behind {
    /// Looks at the time of the oldest alert that waits, RFC 3339, when there is one; what is told of it.
    pub(super) fn look(&mut self, oldest: Option<&str>, fails: bool, now: jiff::Timestamp) -> Option<String> {
        let is_behind = |oldest: &&str| {
            oldest.parse::<jiff::Timestamp>().is_ok_and(|time| now.duration_since(time) > BEHIND)
        };
        let Some(oldest) = oldest.filter(is_behind) else {
            *self = Self::default();
            return None;
        };
        let since = self.since.get_or_insert_with(Instant::now);
        self.is_told |= fails || since.elapsed() >= CATCHING_UP;
        self.is_told.then(|| format!("the oldest alert that waits is of {oldest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sink_is_behind_by_the_age_of_what_waits_whether_its_receiver_fails_or_is_slow() {
        let now: jiff::Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
        let (old, new) = (Some("2026-11-28T11:00:00Z"), Some("2026-11-28T13:00:00Z"));
        let mut behind = Behind::default();

        // It takes them, but more old ones wait each time.
        assert_eq!(behind.look(old, false, now), None);
        tokio::time::advance(CATCHING_UP / 2).await;
        assert_eq!(behind.look(old, false, now), None);
        tokio::time::advance(CATCHING_UP / 2).await;
        assert!(behind.look(old, false, now).is_some_and(|told| told.contains("2026-11-28T11")));
        assert_eq!(behind.look(new, false, now), None);

        // It failed, and one success is no end of it.
        assert!(behind.look(old, true, now).is_some());
        assert!(behind.look(old, false, now).is_some());
        assert_eq!(behind.look(None, false, now), None);
        assert_eq!(behind.look(new, true, now), None);
    }
}
