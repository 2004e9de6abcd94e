//! Sends audit records until the broker has them: a task of its own. What does not reach the broker before the agent
//! ends is in the agent's log. One that is dropped is counted, and the next one that is sent says how many were.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, Message};
use slog::{Logger, debug, error, warn};
use tokio::sync::Notify;
use vigie_files::random;
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::answer::{AuditRecord, MAX_AUDIT_BYTES, Purpose};
use vigie_fleet::broker::stored;
use vigie_fleet::subjects;
use vigie_protocol::error_chain::ErrorChain;
use vigie_protocol::names::AgentId;

use super::ACCEPTED;
use super::audit::AuditBudget;
use super::membership::Membership;
use super::uplink::{Hold, Uplink};

/// Pause before a record that was not acknowledged is sent again.
const RETRY: Duration = Duration::from_secs(1);

/// Longest that the record of an accepted action waits, so that those of a whole fleet do not come with the answers.
const SPREAD: Duration = Duration::from_secs(3);

/// Records that wait for the broker, each of at most [`MAX_AUDIT_BYTES`]: together no more than 4 MiB.
const WAITING: usize = 256;

/// Records that wait for the broker, and how many were dropped. One for as long as the agent bears a name in a fleet:
/// what one membership leaves is sent by the next.
#[derive(Debug, Default)]
pub(super) struct AuditQueue {
    records: RefCell<VecDeque<AuditRecord>>,
    dropped: Cell<u64>,
    came: Notify,
    /// What is only counted, because there is too much of it.
    budget: RefCell<AuditBudget>,
}

impl AuditQueue {
    /// Puts in a record, or drops it when too many wait: a broker that is away for long must not fill the memory.
    /// Whether there was room.
    pub(super) fn push(&self, record: AuditRecord) -> bool {
        let mut records = self.records.borrow_mut();
        let has_room = records.len() < WAITING;
        if has_room {
            records.push_back(record.within(MAX_AUDIT_BYTES));
            self.came.notify_one();
        } else {
            self.count_dropped();
        }
        has_room
    }

    /// How many were dropped that no record at the broker tells of.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Whether an outcome at `now` (milliseconds) gets a record; if so, how many like it got none before.
    pub(super) fn may_report(&self, outcome: &'static str, now: u64) -> Option<u64> {
        self.budget.borrow_mut().take(outcome, now)
    }

    /// How many of which outcome got no record and can be reported now, in one.
    pub(super) fn owed(&self, now: u64) -> Vec<(&'static str, u64)> {
        self.budget.borrow_mut().owed(now)
    }

    /// Whether there is room for one of each outcome.
    pub(super) fn has_room(&self) -> bool {
        self.len() < WAITING / 2
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.records.borrow().len()
    }

    fn count_dropped(&self) {
        self.dropped.set(self.dropped.get() + 1);
    }

    /// Waits for a record. It stays in the queue until [`AuditQueue::stored`] or [`AuditQueue::too_large`].
    async fn first(&self) {
        while self.records.borrow().is_empty() {
            self.came.notified().await;
        }
    }

    /// The first record with what it tells of. That stays as it is, so that a record that is sent again has the same
    /// seal.
    fn begin_first(&self) -> Option<AuditRecord> {
        let mut records = self.records.borrow_mut();
        let first = records.front_mut()?;
        if first.dropped == 0 {
            first.dropped = self.dropped.get();
        }
        Some(first.clone())
    }

    /// The broker has the first record. Whether it told of others that were dropped.
    fn stored(&self) -> bool {
        let told = self.records.borrow_mut().pop_front().map_or(0, |record| record.dropped);
        self.dropped.set(self.dropped.get().saturating_sub(told));
        told > 0
    }

    /// The broker never takes the first record. What that was to tell is left to the next.
    fn too_large(&self) {
        if self.records.borrow_mut().pop_front().is_some() {
            self.count_dropped();
        }
    }
}

/// Audit records were dropped, or the auditors know it now. For the membership.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct LookAtDropped;

/// What the sender works with.
pub(super) struct AuditSender {
    pub(super) log: Logger,
    pub(super) membership: Addr<Membership>,
    pub(super) agent: AgentId,
    pub(super) key: Arc<AgentKey>,
    pub(super) queue: Rc<AuditQueue>,
    pub(super) uplink: Uplink,
    /// The sender of the next membership takes over the queue when this one has ended.
    pub(super) hold: Hold,
}

impl AuditSender {
    /// Sends until the task is aborted.
    pub(super) async fn run(mut self) {
        loop {
            self.queue.first().await;
            let accepted = |record: &AuditRecord| record.outcome == ACCEPTED;
            if self.queue.len() == 1 && self.queue.records.borrow().iter().all(accepted) {
                tokio::time::sleep(SPREAD.mul_f64(random::fraction())).await;
            }
            let Some(record) = self.queue.begin_first() else { continue };
            let Some(is_stored) = self.send(record).await else { break };
            if is_stored {
                if !self.queue.stored() {
                    continue;
                }
            } else {
                self.queue.too_large();
            }
            self.membership.send(LookAtDropped).await.ok();
        }
        drop(self.hold);
    }

    /// Sends a record until the broker has it; `false` when it never takes it, nothing when the membership ends. One
    /// that was stored and not acknowledged is stored twice, with the same seal. One that is too large for a stream that
    /// somebody made smaller is shortened, and dropped when that does not help.
    async fn send(&mut self, mut record: AuditRecord) -> Option<bool> {
        let mut payload = sealed(&self.key, &record);
        let subject = subjects::audit(&self.agent);
        loop {
            self.uplink.up().await?;
            let Err(problem) = stored::store(&self.uplink.client, &subject, &payload).await else {
                return Some(true);
            };
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
                return Some(false);
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

    fn record(action: u8) -> AuditRecord {
        let action = vigie_protocol::names::ActionId::from_random([action; 16]);
        serde_json::from_value(serde_json::json!({
            "v": 1, "agent": "web-1", "time": "t", "action": action, "outcome": "accepted", "signers": ["alice"],
        }))
        .unwrap()
    }

    #[test]
    fn a_record_that_has_no_room_is_counted() {
        let queue = AuditQueue::default();
        for _ in 0..WAITING {
            assert!(queue.push(record(1)));
        }

        assert_eq!([queue.push(record(2)), queue.push(record(2))], [false, false]);
        assert_eq!((queue.len(), queue.dropped()), (WAITING, 2));

        let first = queue.begin_first().unwrap();
        assert_eq!((first.dropped, queue.dropped()), (2, 2), "until the broker has it");
        assert!(!queue.push(record(2)), "it has its place until then");
        // The membership ends, and the next one sends it.
        assert_eq!(queue.begin_first().unwrap().dropped, 2, "with the same seal");
        assert!(queue.stored());
        assert_eq!(queue.dropped(), 1);
        assert_eq!(queue.begin_first().unwrap().dropped, 1);
        assert!(queue.stored());
        assert_eq!(queue.dropped(), 0);
        assert_eq!(queue.begin_first().unwrap().dropped, 0);
        assert!(!queue.stored(), "it told of none");
    }

    #[test]
    fn what_a_record_that_is_never_taken_was_to_tell_is_told_by_the_next() {
        let queue = AuditQueue::default();
        assert!(queue.push(record(1)) && queue.push(record(2)) && queue.push(record(3)));

        for dropped in 0..2 {
            assert_eq!(queue.begin_first().unwrap().dropped, dropped);
            queue.too_large();
        }

        let last = queue.begin_first().unwrap();
        assert_eq!((last.action, last.dropped), (record(3).action, 2));
        assert!(queue.stored());
        assert_eq!((queue.len(), queue.dropped()), (0, 0));
    }
}
