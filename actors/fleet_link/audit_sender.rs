//! Sends audit records until the broker has them: a task of its own. What does not reach the broker before the agent
//! ends is in the agent's log.

use std::sync::Arc;
use std::time::Duration;

use slog::{Logger, warn};
use tokio::sync::mpsc;
use vigie_files::random;
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::answer::{AuditRecord, Purpose};
use vigie_fleet::broker::stored;
use vigie_fleet::subjects;
use vigie_protocol::names::AgentId;

use super::ACCEPTED;
use super::uplink::Uplink;

/// Pause before a record that was not acknowledged is sent again.
const RETRY: Duration = Duration::from_secs(1);

/// Longest that the record of an accepted action waits, so that those of a whole fleet do not come with the answers.
const SPREAD: Duration = Duration::from_secs(3);

/// What the sender works with.
pub(super) struct AuditSender {
    pub(super) log: Logger,
    pub(super) agent: AgentId,
    pub(super) key: Arc<AgentKey>,
    pub(super) records: mpsc::Receiver<AuditRecord>,
    pub(super) uplink: Uplink,
}

impl AuditSender {
    /// Sends until the task is aborted.
    pub(super) async fn run(mut self) {
        while let Some(record) = self.records.recv().await {
            if record.outcome == ACCEPTED && self.records.is_empty() {
                tokio::time::sleep(SPREAD.mul_f64(random::fraction())).await;
            }
            let sealed = serde_json::to_string(&record)
                .map_err(|error| error.to_string())
                .and_then(|text| self.key.seal(Purpose::Audit, text).map_err(|error| error.to_string()))
                .and_then(|sealed| serde_json::to_vec(&sealed).map_err(|error| error.to_string()));
            match sealed {
                Ok(payload) => {
                    while !self.send(&payload).await {
                        tokio::time::sleep(RETRY).await;
                    }
                }
                Err(error) => warn!(self.log, "cannot send an audit record"; "error" => error),
            }
        }
    }

    /// Sends a record once there is a connection; whether the broker has it. One that was stored and not acknowledged
    /// is stored twice, with the same seal.
    async fn send(&mut self, payload: &[u8]) -> bool {
        if self.uplink.up().await.is_none() {
            return true;
        }
        stored::store(&self.uplink.client, &subjects::audit(&self.agent), payload).await.is_ok()
    }
}
