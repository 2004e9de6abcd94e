//! Shows the fleet that this host is there, and what it is: a task of its own.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context as JetStream;
use bytes::Bytes;
use slog::{Logger, debug};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::answer::Purpose;
use vigie_fleet::broker::kv;
use vigie_fleet::facts::Facts;
use vigie_fleet::subjects;

use crate::error::ErrorChain;

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
    pub(super) jetstream: JetStream,
    /// The facts as they are now.
    pub(super) facts: watch::Receiver<Arc<Facts>>,
    /// Counts the connections that came about; 0 before the first.
    pub(super) connections: watch::Receiver<u64>,
}

impl Presence {
    /// Shows until the task is aborted.
    pub(super) async fn run(mut self) {
        let mut next_beat = Instant::now();
        let mut next_facts = Instant::now();
        loop {
            if *self.connections.borrow() == 0 && self.connections.changed().await.is_err() {
                return;
            }
            let now = Instant::now();
            if now >= next_facts {
                next_facts = now + if self.show_facts().await { FACTS_EVERY } else { RETRY };
            }
            if now >= next_beat {
                self.beat().await;
                next_beat = now + beat_pause();
            }
            tokio::select! {
                () = sleep_until(next_beat.min(next_facts)) => {}
                changed = self.facts.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    next_facts = Instant::now();
                }
                changed = self.connections.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // Whoever watches learns at once that the host is back.
                    next_beat = Instant::now();
                    next_facts = Instant::now();
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
            Ok(payload) => match kv::put(&self.jetstream, &subject, payload.into()).await {
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
        self.jetstream.client().publish(subject, Bytes::new()).await.ok();
    }
}

fn beat_pause() -> Duration {
    let (from, to) = BEAT_SECONDS;
    let milliseconds = (to - from) * 1000;
    // The standard library's hasher keys are random, which is enough to spread beats.
    let drawn = RandomState::new().build_hasher().finish() % milliseconds;
    Duration::from_millis(from * 1000 + drawn)
}
