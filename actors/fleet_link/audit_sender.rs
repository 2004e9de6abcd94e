//! Sends audit records until the broker has them: a task of its own. What does not reach the broker before the agent
//! ends is in the agent's log. One that is dropped is counted, and the next one that is sent says how many were.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use slog::{Logger, debug, error, warn};
use tokio::sync::mpsc;
use vigie_files::random;
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::answer::{AuditRecord, MAX_AUDIT_BYTES, Purpose};
use vigie_fleet::broker::stored;
use vigie_fleet::subjects;
use vigie_protocol::error_chain::ErrorChain;
use vigie_protocol::names::AgentId;

use super::ACCEPTED;
use super::uplink::Uplink;

/// Pause before a record that was not acknowledged is sent again.
const RETRY: Duration = Duration::from_secs(1);

/// Longest that the record of an accepted action waits, so that those of a whole fleet do not come with the answers.
const SPREAD: Duration = Duration::from_secs(3);

/// Records that wait for the broker, each of at most [`MAX_AUDIT_BYTES`]: together no more than 4 MiB.
const WAITING: usize = 256;

/// Where records wait for the sender.
pub(super) struct AuditQueue {
    records: mpsc::Sender<AuditRecord>,
    /// How many were dropped since the last one that says so.
    pub(super) dropped: Arc<AtomicU64>,
}

impl AuditQueue {
    /// The queue and where the sender takes from it.
    pub(super) fn new() -> (Self, mpsc::Receiver<AuditRecord>) {
        let (records, waiting) = mpsc::channel(WAITING);
        (Self { records, dropped: Arc::default() }, waiting)
    }

    /// Puts in a record, or drops it when too many wait: a broker that is away for long must not fill the memory.
    ///
    /// # Errors
    ///
    /// How many were dropped.
    pub(super) fn push(&self, record: AuditRecord) -> Result<(), u64> {
        let pushed = self.records.try_send(record.within(MAX_AUDIT_BYTES));
        pushed.map_err(|_| self.dropped.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// What the sender works with.
pub(super) struct AuditSender {
    pub(super) log: Logger,
    pub(super) agent: AgentId,
    pub(super) key: Arc<AgentKey>,
    pub(super) records: mpsc::Receiver<AuditRecord>,
    /// See [`AuditQueue`].
    pub(super) dropped: Arc<AtomicU64>,
    pub(super) uplink: Uplink,
}

impl AuditSender {
    /// Sends until the task is aborted.
    pub(super) async fn run(mut self) {
        while let Some(record) = self.records.recv().await {
            if record.outcome == ACCEPTED && self.records.is_empty() {
                tokio::time::sleep(SPREAD.mul_f64(random::fraction())).await;
            }
            self.send(record).await;
        }
    }

    /// Sends a record until the broker has it. One that was stored and not acknowledged is stored twice, with the same
    /// seal. One that is too large for a stream that somebody made smaller is shortened, and dropped when that does not
    /// help.
    async fn send(&mut self, mut record: AuditRecord) {
        record.dropped = self.dropped.swap(0, Ordering::Relaxed);
        let mut payload = sealed(&self.key, &record);
        let subject = subjects::audit(&self.agent);
        while self.uplink.up().await.is_some() {
            let Err(problem) = stored::store(&self.uplink.client, &subject, &payload).await else { return };
            if !problem.is_too_large() {
                debug!(self.log, "an audit record was not stored"; "error" => %ErrorChain(&problem));
                tokio::time::sleep(RETRY).await;
                continue;
            }
            let short = record.clone().within(0);
            let short_payload = sealed(&self.key, &short);
            if short_payload.len() >= payload.len() {
                error!(self.log, "an audit record is dropped"; "error" => %ErrorChain(&problem),
                    "action" => record.action.as_ref().map(|id| id.as_str()), "code" => record.outcome);
                self.dropped.fetch_add(record.dropped + 1, Ordering::Relaxed);
                return;
            }
            warn!(self.log, "an audit record is shortened"; "error" => %ErrorChain(&problem),
                "action" => record.action.as_ref().map(|id| id.as_str()));
            (record, payload) = (short, short_payload);
        }
    }
}

fn sealed(key: &AgentKey, record: &AuditRecord) -> Vec<u8> {
    let text = serde_json::to_string(record).expect("a record is plain data");
    let sealed = key.seal(Purpose::Audit, text).expect("a record is smaller than what is sealed");
    serde_json::to_vec(&sealed).expect("a seal is plain data")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_has_no_room_is_counted() {
        let (queue, mut waiting) = AuditQueue::new();
        let record: AuditRecord = serde_json::from_str(
            r#"{"v":1,"agent":"web-1","time":"t","outcome":"accepted","signers":["alice"]}"#,
        )
        .unwrap();
        for _ in 0..WAITING {
            assert_eq!(queue.push(record.clone()), Ok(()));
        }

        assert_eq!([queue.push(record.clone()), queue.push(record.clone())], [Err(1), Err(2)]);

        waiting.try_recv().unwrap();
        assert_eq!(queue.push(record), Ok(()));
        assert_eq!(queue.dropped.load(Ordering::Relaxed), 2, "until a record says so");
    }
}
