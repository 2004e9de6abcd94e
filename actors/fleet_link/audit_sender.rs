//! Sends audit records until the broker has them: a task of its own. What does not reach the broker before the agent
//! ends is in the agent's log.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context as JetStream;
use tokio::sync::{mpsc, watch};
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::answer::{AuditRecord, Purpose};
use vigie_fleet::broker::kv;
use vigie_fleet::names::AgentId;
use vigie_fleet::subjects;

/// Pause before a record that was not acknowledged is sent again.
const RETRY: Duration = Duration::from_secs(1);

/// What the sender works with.
pub(super) struct AuditSender {
    pub(super) agent: AgentId,
    pub(super) key: Arc<AgentKey>,
    pub(super) jetstream: JetStream,
    pub(super) records: mpsc::Receiver<AuditRecord>,
    /// Counts the connections that came about; 0 before the first.
    pub(super) connections: watch::Receiver<u64>,
}

impl AuditSender {
    /// Sends until the task is aborted.
    pub(super) async fn run(mut self) {
        let subject = subjects::audit(&self.agent);
        while let Some(record) = self.records.recv().await {
            while *self.connections.borrow() == 0 {
                if self.connections.changed().await.is_err() {
                    return;
                }
            }
            let text = serde_json::to_string(&record).expect("a record is plain data");
            let sealed =
                self.key.seal(Purpose::Audit, text).expect("a record is smaller than what is sealed");
            let payload = serde_json::to_vec(&sealed).expect("a seal is plain data");
            while kv::put(&self.jetstream, &subject, payload.clone().into()).await.is_err() {
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
