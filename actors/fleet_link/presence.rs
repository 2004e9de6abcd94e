//! Shows the fleet that this host is there, and what it is: a task of its own.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use slog::{Logger, debug};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::answer::Purpose;
use vigie_fleet::broker::kv;
use vigie_fleet::facts::Facts;
use vigie_fleet::subjects;

use super::uplink::Uplink;
use vigie_protocol::error_chain::ErrorChain;

/// Time between two signs of life is drawn from this range, so that the hosts of a fleet do not speak all at once.
const BEAT_SECONDS: (u64, u64) = (60, 84);

/// How often facts are shown even when they are the same: a bucket that was lost fills again.
const FACTS_EVERY: Duration = Duration::from_secs(3600);

/// Pause before facts that were not stored are sent again.
const RETRY: Duration = Duration::from_secs(5);

/// What the task works with.
pub(super) struct Presence {
    pub(super) log: Logger,
    pub(super) key: Arc<AgentKey>,
    pub(super) uplink: Uplink,
    /// The facts as they are now.
    pub(super) facts: watch::Receiver<Arc<Facts>>,
}

impl Presence {
    /// Shows until the task is aborted.
    pub(super) async fn run(mut self) {
        let mut connection = 0;
        let mut next_beat = Instant::now();
        let mut next_facts = Instant::now();
        loop {
            let Some(number) = self.uplink.up().await else { return };
            let now = Instant::now();
            if number != connection {
                // Whoever watches learns at once that the host is back.
                (connection, next_beat, next_facts) = (number, now, now);
            }
            if now >= next_facts {
                next_facts = now + if self.show_facts().await { FACTS_EVERY } else { RETRY };
            }
            if now >= next_beat {
                self.beat().await;
                next_beat = now + beat_pause(draw());
            }
            tokio::select! {
                () = sleep_until(next_beat.min(next_facts)) => {}
                changed = self.facts.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    next_facts = Instant::now();
                }
                stands = self.uplink.changed() => {
                    if !stands {
                        return;
                    }
                }
            }
        }
    }

    async fn show_facts(&mut self) -> bool {
        let facts = self.facts.borrow_and_update().clone();
        let subject = subjects::facts(&facts.agent);
        let sealed = serde_json::to_string(&*facts)
            .map_err(|error| error.to_string())
            .and_then(|text| self.key.seal(Purpose::Facts, text).map_err(|error| error.to_string()))
            .and_then(|sealed| serde_json::to_vec(&sealed).map_err(|error| error.to_string()));
        match sealed {
            Ok(payload) => match kv::put(&self.uplink.jetstream, &subject, payload.into()).await {
                Ok(_) => true,
                Err(error) => {
                    debug!(self.log, "facts are not stored"; "error" => %ErrorChain(&error));
                    false
                }
            },
            Err(error) => {
                debug!(self.log, "facts cannot be sealed"; "error" => error);
                false
            }
        }
    }

    /// Not acknowledged: a sign of life that is lost is followed by another.
    async fn beat(&self) {
        let subject = subjects::presence(&self.facts.borrow().agent);
        self.uplink.jetstream.client().publish(subject, Bytes::new()).await.ok();
    }
}

/// A number drawn evenly. The standard library's hasher keys are random, which is enough to spread beats.
fn draw() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn beat_pause(drawn: u64) -> Duration {
    let (from, to) = BEAT_SECONDS;
    Duration::from_millis(from * 1000 + drawn % ((to - from) * 1000))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vigie_fleet::broker::streams::PRESENCE_AGE;

    use super::*;

    proptest! {
        /// Signs of life and facts together are at most one message a minute, and a host does not look gone because one
        /// sign of life is lost.
        #[test]
        fn an_idle_agent_sends_at_most_one_message_a_minute(drawn in prop::collection::vec(any::<u64>(), 200)) {
            let beats: Duration = drawn.iter().map(|drawn| beat_pause(*drawn)).sum();
            let facts = beats.as_secs() / FACTS_EVERY.as_secs() + 1;
            let minutes = beats.as_secs() / 60;

            prop_assert!(drawn.len() as u64 + facts <= minutes, "{} messages in {minutes} minutes", drawn.len());
            for two in drawn.windows(2) {
                prop_assert!(two.iter().map(|drawn| beat_pause(*drawn)).sum::<Duration>() < PRESENCE_AGE);
            }
        }
    }
}
