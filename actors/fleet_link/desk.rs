//! Decides about actions and writes down what was decided, one after the other: a task of its own, which owns the
//! replay log. Nobody else touches the log, so there is nothing to lock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix::Addr;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use slog::{Logger, error, warn};
use tokio::sync::{mpsc, oneshot, watch};
use vigie_fleet::admission::{self, Refusal, Refused, Situation};
use vigie_fleet::facts::Facts;
use vigie_fleet::policy::Policy;
use vigie_fleet::predicate::Target;
use vigie_fleet::replay_log::{ReplayError, ReplayLog};
use vigie_protocol::names::{ActionId, GroupName};

use super::answer_spool::AnswerSpool;
use super::identity::{Memory, Noticed};
use super::membership::{Decided, Membership, ReplayBroken, Way};
use super::now;
use super::standing::Order;
use super::uplink::{Hold, Uplink};
use crate::work_threads::{self, Lane};
use vigie_config::model::FleetSection;
use vigie_protocol::error_chain::ErrorChain;

/// Room in the spool below which no action is begun, in bytes.
pub(super) const LEAST_ANSWER_BYTES: u64 = 64 * 1024;

/// Envelopes whose second copy, by the other way, is expected, at most.
const MAX_COPIES: usize = 4096;

/// How long the first action of a connection waits at most for the comparison of the agent's files with what the fleet
/// has of them. A broker that does not answer keeps nobody from asking for longer.
const LONGEST_COMPARISON: Duration = Duration::from_secs(30);

/// Pause before something that the disk did not take is noted again.
const NOTE_RETRY: Duration = Duration::from_secs(1);

/// An envelope that waits to be decided.
pub(super) struct Arrived {
    pub(super) envelope: Bytes,
    pub(super) way: Way,
    /// Told when it is decided and written down.
    pub(super) decided: oneshot::Sender<()>,
}

/// How many actions may still be taken.
pub(super) struct Room {
    running: usize,
    waiting: usize,
    answer_bytes: u64,
    /// Actions that run or wait.
    taken: AtomicUsize,
    spool: Arc<AnswerSpool>,
}

impl Room {
    #[must_use]
    pub(super) fn new(section: &FleetSection, spool: Arc<AnswerSpool>) -> Self {
        Self {
            running: section.running_actions,
            waiting: section.waiting_actions,
            answer_bytes: section.answer_bytes,
            taken: AtomicUsize::new(0),
            spool,
        }
    }

    pub(super) fn set_taken(&self, taken: usize) {
        self.taken.store(taken, Ordering::Relaxed);
    }

    /// Why no further action can be taken now.
    fn full(&self) -> Option<String> {
        let taken = self.taken.load(Ordering::Relaxed);
        if taken >= self.running + self.waiting {
            return Some(format!(
                "{taken} actions are running or waiting (fleet.running_actions, fleet.waiting_actions)"
            ));
        }
        let waiting = self.spool.waiting_bytes();
        (waiting + LEAST_ANSWER_BYTES > self.answer_bytes).then(|| {
            format!(
                "{waiting} bytes of answers wait for the broker (limit fleet.answer_bytes = {})",
                self.answer_bytes
            )
        })
    }
}

/// What the task works with.
pub(super) struct Desk {
    pub(super) log: Logger,
    pub(super) membership: Addr<Membership>,
    pub(super) org: GroupName,
    pub(super) policy: watch::Receiver<Option<Arc<Policy>>>,
    pub(super) facts: watch::Receiver<Arc<Facts>>,
    pub(super) room: Arc<Room>,
    pub(super) hold: Hold,
    /// Whether the replay log may be an older copy.
    pub(super) memory: watch::Receiver<Memory>,
    pub(super) uplink: Uplink,
    /// Envelopes to be decided.
    pub(super) arrived: mpsc::Receiver<Arrived>,
    /// Actions whose answers are safe.
    pub(super) answered: mpsc::UnboundedReceiver<ActionId>,
}

/// A decision that is written down before anything comes of it.
enum Verdict {
    Run(Box<admission::Admitted>),
    /// Whoever asked is told.
    Refuse {
        id: ActionId,
        not_after: i64,
        refused: Box<Refused>,
    },
}

impl Verdict {
    fn id(&self) -> (&ActionId, i64) {
        match self {
            Self::Run(admitted) => (&admitted.action.id, admitted.action.not_after),
            Self::Refuse { id, not_after, .. } => (id, *not_after),
        }
    }
}

impl Desk {
    /// Decides until the task is aborted, or the log is out of use.
    pub(super) async fn run(mut self, mut replay: ReplayLog) {
        let mut copies = Copies::default();
        let mut to_close: VecDeque<ActionId> = VecDeque::new();
        let mut compared = None;
        loop {
            let failed = tokio::select! {
                biased;
                id = self.answered.recv() => {
                    let Some(id) = id else { return };
                    to_close.push_back(id);
                    None
                }
                arrived = self.arrived.recv() => {
                    let Some(Arrived { envelope, way, decided }) = arrived else { return };
                    if copies.is_second(&envelope, way) {
                        decided.send(()).ok();
                        None
                    } else {
                        // A machine that was put back while it ran goes on in this process, by another connection.
                        let connection = self.uplink.number().filter(|number| compared < Some(*number));
                        if let Some(connection) = connection {
                            self.wait_compared(connection).await;
                            compared = Some(connection);
                        }
                        let Some((back, failed)) = self.take(replay, &envelope, way).await else { return };
                        replay = back;
                        decided.send(()).ok();
                        failed
                    }
                }
                () = tokio::time::sleep(NOTE_RETRY), if !to_close.is_empty() => None,
            };
            let failed = match (failed, to_close.pop_front()) {
                (None, Some(id)) => {
                    let closed = id.clone();
                    let Some((back, result)) = self.note(replay, move |log| log.answered(&closed)).await
                    else {
                        return;
                    };
                    replay = back;
                    result.err().inspect(|error| {
                        warn!(self.log, "cannot record that an action is answered, retrying";
                            "action" => %id, "error" => %ErrorChain(error));
                        to_close.push_back(id);
                    })
                }
                (failed, waiting) => {
                    to_close.extend(waiting);
                    failed
                }
            };
            // A log whose disk failed is out of use until it is opened again.
            if let Some(error @ ReplayError::Broken { .. }) = failed {
                self.membership.send(ReplayBroken(ErrorChain(&error).to_string())).await.ok();
                return;
            }
        }
    }

    /// Waits until it is known whether an older copy of the agent's files was put back: what that has forgotten runs
    /// twice.
    async fn wait_compared(&mut self, connection: u64) {
        if !is_compared(&mut self.memory, connection).await {
            warn!(
                self.log,
                "the broker did not say what it has of this agent; an action could run twice if an older copy of STATE_DIR was restored"
            );
        }
    }

    /// Notes something on the blocking pool. Nothing comes back when the process is about to end.
    async fn note(
        &self,
        mut replay: ReplayLog,
        note: impl FnOnce(&mut ReplayLog) -> Result<(), ReplayError> + Send + 'static,
    ) -> Option<(ReplayLog, Result<(), ReplayError>)> {
        let hold = self.hold.clone();
        let noting = work_threads::run(Lane::Fleet, move || {
            let _hold = hold;
            let result = note(&mut replay);
            (replay, result)
        });
        noting.await.ok()
    }

    /// Decides about one envelope, writes it down, and tells the membership; the log, and what the disk said.
    async fn take(
        &self,
        replay: ReplayLog,
        envelope: &[u8],
        way: Way,
    ) -> Option<(ReplayLog, Option<ReplayError>)> {
        let verdict = match self.decide(&replay, envelope) {
            Ok(admitted) => Verdict::Run(Box::new(admitted)),
            Err(refused) => {
                let answered = refused.action.clone().filter(|_| is_answered(&refused.refusal));
                // It was read before: whoever signed it knows when it ends.
                let not_after = admission::read(envelope).ok().map(|(_, action)| action.not_after);
                self.tell(Decided::Refused { refused: refused.clone(), way }).await;
                match (answered, not_after) {
                    (Some(id), Some(not_after)) => Verdict::Refuse { id, not_after, refused },
                    _ => return Some((replay, None)),
                }
            }
        };
        let (id, not_after) = verdict.id();
        let begun = id.clone();
        let (replay, result) = self.note(replay, move |log| log.begin(&begun, not_after, now())).await?;
        match (verdict, result) {
            (Verdict::Run(admitted), Ok(()))
                if admitted.action.standing.is_some() || admitted.action.stop.is_some() =>
            {
                let envelope = Bytes::copy_from_slice(envelope);
                self.tell(Decided::Stand(Order { envelope, admitted })).await;
            }
            (Verdict::Run(admitted), Ok(())) => self.tell(Decided::Run(admitted)).await,
            (Verdict::Refuse { id, refused, .. }, Ok(())) => self.tell(Decided::Answer { id, refused }).await,
            (verdict, Err(error)) => {
                // Without the note it could run twice, so it does not run; and nothing is known to be answered.
                let (id, _) = verdict.id();
                error!(self.log, "action is not run because its ID cannot be stored"; "action" => %id,
                    "error" => %ErrorChain(&error));
                let refusal = Refusal::Busy(ErrorChain(&error).to_string());
                let refused = Box::new(match verdict {
                    Verdict::Run(admitted) => admitted.refused(refusal),
                    Verdict::Refuse { refused, .. } => Refused { refusal, ..*refused },
                });
                self.tell(Decided::Refused { refused, way: Way::Live }).await;
                return Some((replay, Some(error)));
            }
        }
        Some((replay, None))
    }

    fn decide(&self, replay: &ReplayLog, envelope: &[u8]) -> Result<admission::Admitted, Box<Refused>> {
        let (policy, facts) = (self.policy.borrow().clone(), self.facts.borrow().clone());
        let situation =
            Situation { now: now(), org: self.org.as_str(), policy: policy.as_deref(), facts: &facts };
        admission::decide(
            envelope,
            &situation,
            |id, not_after| replay.has_seen(id, not_after),
            |target, facts| {
                Target::parse(target).map(|target| target.matches(facts)).map_err(|error| error.to_string())
            },
        )
        .and_then(|admitted| admitted.not_run_before(self.memory.borrow().reverted.map(Noticed::time)))
        .and_then(|admitted| match self.room.full() {
            Some(why) => Err(Box::new(admitted.refused(Refusal::Busy(why)))),
            None => Ok(admitted),
        })
    }

    /// Returns when the membership has taken it: the next decision sees how many actions run.
    async fn tell(&self, decided: Decided) {
        self.membership.send(decided).await.ok();
    }
}

/// Each question lies in the stream and comes live as well: the second of the two is passed over. The same once more by
/// the same way is somebody's replay, and is decided as such.
#[derive(Default)]
struct Copies {
    first: VecDeque<([u8; 32], Way)>,
}

impl Copies {
    /// Whether this is the other copy of an envelope that was decided.
    fn is_second(&mut self, envelope: &[u8], way: Way) -> bool {
        let digest: [u8; 32] = Sha256::digest(envelope).into();
        if let Some(at) = self.first.iter().position(|(known, by)| *known == digest && *by != way) {
            self.first.remove(at);
            return true;
        }
        if self.first.len() == MAX_COPIES {
            self.first.pop_front();
        }
        self.first.push_back((digest, way));
        false
    }
}

/// Whether whoever asked is told: only of what he was entitled to ask this agent, so that nobody can make a fleet
/// send answers with an action that is forged, old or for others.
fn is_answered(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::UnknownModule(_)
            | Refusal::NoRule(_)
            | Refusal::TooLittleWeight { .. }
            | Refusal::OverLimits { .. }
            | Refusal::NoStanding
            | Refusal::TooOften { .. }
            | Refusal::StateReverted { .. }
            | Refusal::Busy(_)
    )
}

/// Whether the files were compared with what the fleet has; waits as long as that may still come.
async fn is_compared(memory: &mut watch::Receiver<Memory>, connection: u64) -> bool {
    let settled = memory.wait_for(|memory| memory.is_settled(connection));
    tokio::time::timeout(LONGEST_COMPARISON, settled).await.ok();
    memory.borrow().is_compared(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_comparison_that_is_not_permitted_is_neither_waited_for_nor_taken_as_made() {
        let begin = tokio::time::Instant::now();
        let (memory, mut seen) = watch::channel(Memory::default());
        memory.send_modify(|memory| (memory.heartbeats, memory.not_permitted) = (Some(1), Some(1)));
        memory.send_modify(|memory| memory.alerts = Some(1));
        assert!(!is_compared(&mut seen, 1).await);
        assert_eq!(begin.elapsed(), Duration::ZERO);

        memory.send_modify(|memory| (memory.heartbeats, memory.alerts) = (Some(2), Some(2)));
        assert!(is_compared(&mut seen, 2).await, "the next broker permits it");
        assert!(!is_compared(&mut seen, 3).await);
        assert_eq!(begin.elapsed(), LONGEST_COMPARISON);
    }

    #[test]
    fn the_other_copy_is_passed_over_and_a_replay_is_not() {
        let mut copies = Copies::default();
        for (way, other) in [(Way::Live, Way::Stored), (Way::Stored, Way::Live)] {
            let envelope = format!("{way:?}");
            assert!(!copies.is_second(envelope.as_bytes(), way));
            assert!(!copies.is_second(envelope.as_bytes(), way), "a replay");
            assert!(copies.is_second(envelope.as_bytes(), other));
            assert!(copies.is_second(envelope.as_bytes(), other));
            assert!(!copies.is_second(envelope.as_bytes(), other), "there were two by the other way");
        }
        for number in 0..2 * MAX_COPIES {
            copies.is_second(&number.to_le_bytes(), Way::Live);
        }
        assert_eq!(copies.first.len(), MAX_COPIES);
    }
}
