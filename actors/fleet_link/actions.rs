//! What becomes of an action: decided, written down, run, answered. The parts of [`FleetLink`] that move it on.

use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use bytes::Bytes;
use slog::{debug, error, info, warn};
use tokio::sync::oneshot;
use vigie_fleet::admission::{self, Admitted, Refusal, Refused, Situation};
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::answer::{Answer, AnswerStatus, AuditRecord, Purpose, VERSION};
use vigie_fleet::collect;
use vigie_fleet::predicate::Target;
use vigie_fleet::replay_log::{ReplayError, ReplayLog};
use vigie_protocol::names::{ActionId, AgentId};

use super::running::{self, Allowed, answer_without_results};
use super::{ACCEPTED, FleetLink, Way, now, now_milliseconds};
use crate::work_threads::{self, Lane};
use vigie_protocol::error_chain::ErrorChain;

/// Room in the spool below which no action is begun, in bytes.
const LEAST_ANSWER_BYTES: u64 = 64 * 1024;

/// Longest text of a refusal that is logged and reported, in bytes: it can hold what a stranger wrote.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Actions from the stream of which a second copy is expected, at most.
const MAX_STORED_IDS: usize = 1024;

/// Pause before an answer that the disk did not take is stored again.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// An envelope that waits to be decided.
pub(super) struct Waiting {
    pub(super) envelope: Bytes,
    pub(super) way: Way,
    /// Told when it is decided and written down.
    pub(super) decided: oneshot::Sender<()>,
}

/// What the replay log is to note next.
pub(super) enum Note {
    /// It is about to run, or to be refused with an answer.
    Begin { verdict: Verdict, decided: oneshot::Sender<()> },
    /// Its answer is safe.
    Answered(ActionId),
}

/// A decision that the action's sender hears of.
pub(super) enum Verdict {
    Run(Box<Admitted>),
    Refuse { id: ActionId, not_after: i64, refused: Box<Refused> },
}

impl Verdict {
    fn id(&self) -> (&ActionId, i64) {
        match self {
            Self::Run(admitted) => (&admitted.action.id, admitted.action.not_after),
            Self::Refuse { id, not_after, .. } => (id, *not_after),
        }
    }
}

impl FleetLink {
    /// Decides about what arrived and writes down what was decided, one after the other.
    pub(super) fn work(&mut self, ctx: &mut Context<Self>) {
        while let Some(member) = &mut self.member
            && member.replay.is_some()
        {
            let note = if let Some(id) = member.to_close.pop_front() {
                Note::Answered(id)
            } else if let Some(Waiting { envelope, way, decided }) = member.arrived.pop_front() {
                let Some(verdict) = self.decide(&envelope, way) else { continue };
                Note::Begin { verdict, decided }
            } else {
                return;
            };
            self.write_down(note, ctx);
        }
    }

    /// What is to be done about an envelope; nothing when it is refused without an answer.
    fn decide(&mut self, envelope: &[u8], way: Way) -> Option<Verdict> {
        let member = self.member.as_ref()?;
        let replay = member.replay.as_ref()?;
        let facts = member.facts.borrow().clone();
        let situation = Situation {
            now: now(),
            org: member.opened.section.org.as_str(),
            policy: member.opened.policy.as_ref(),
            facts: &facts,
        };
        let decided = admission::decide(
            envelope,
            &situation,
            |id, not_after| replay.has_seen(id, not_after),
            |target, facts| {
                Target::parse(target).map(|target| target.matches(facts)).map_err(|error| error.to_string())
            },
        )
        .and_then(|admitted| match member.no_room() {
            Some(why) => Err(Box::new(Refused {
                refusal: Refusal::Busy(why),
                action: Some(admitted.action.id.clone()),
                signers: admitted.signers,
            })),
            None => Ok(admitted),
        });
        match decided {
            Ok(admitted) => {
                self.expect_again(&admitted.action.id, way);
                Some(Verdict::Run(Box::new(admitted)))
            }
            Err(refused) => {
                let way = if self.was_expected(&refused) { Way::Stored } else { way };
                self.report_refusal(&refused, way);
                let id = refused.action.clone().filter(|_| is_answered(&refused.refusal))?;
                // It was read before: whoever signed it knows when it ends.
                let not_after = admission::read(envelope).ok()?.1.not_after;
                Some(Verdict::Refuse { id, not_after, refused })
            }
        }
    }

    /// What was found in the stream right after a connection can be in the subscription as well: the second copy is
    /// no replay of somebody's.
    fn expect_again(&mut self, id: &ActionId, way: Way) {
        let Some(member) = self.member.as_mut().filter(|_| way == Way::Stored) else { return };
        if member.stored_ids.len() >= MAX_STORED_IDS {
            member.stored_ids.pop_first();
        }
        member.stored_ids.insert(id.clone());
    }

    fn was_expected(&mut self, refused: &Refused) -> bool {
        let (Some(member), Some(id)) = (&mut self.member, &refused.action) else { return false };
        matches!(refused.refusal, Refusal::Replayed) && member.stored_ids.remove(id)
    }

    /// Hands the replay log to the blocking pool to note something, and goes on when it is back.
    fn write_down(&mut self, note: Note, ctx: &mut Context<Self>) {
        let Some(member) = &mut self.member else { return };
        let Some(mut replay) = member.replay.take() else { return };
        let membership = self.membership;
        let hold = member.opened.hold.clone();
        let writing = work_threads::run(Lane::Fleet, move || {
            let _hold = hold;
            let result = match &note {
                Note::Begin { verdict, .. } => {
                    let (id, not_after) = verdict.id();
                    replay.begin(id, not_after, now())
                }
                Note::Answered(id) => replay.answered(id),
            };
            (replay, note, result)
        });
        ctx.spawn(writing.into_actor(self).map(move |written, this, ctx| {
            // Only a panic can end the task, and a panic ends the agent.
            let Ok((replay, note, result)) = written else { return };
            if membership == this.membership {
                this.written_down(replay, note, result, ctx);
            }
        }));
    }

    fn written_down(
        &mut self,
        replay: ReplayLog,
        note: Note,
        result: Result<(), ReplayError>,
        ctx: &mut Context<Self>,
    ) {
        let Some(member) = &mut self.member else { return };
        member.replay = Some(replay);
        match note {
            Note::Answered(id) => {
                if let Err(error) = result {
                    warn!(self.log, "cannot note that an action is answered, trying again";
                        "action" => %id, "error" => %ErrorChain(&error));
                    self.mend_replay_log(&error, ctx);
                    self.close_later(id, ctx);
                }
            }
            Note::Begin { verdict, decided } => {
                self.begun(verdict, result, ctx);
                decided.send(()).ok();
            }
        }
        self.work(ctx);
    }

    fn close_later(&self, id: ActionId, ctx: &mut Context<Self>) {
        let membership = self.membership;
        ctx.run_later(STORE_RETRY, move |this, ctx| {
            if let Some(member) = this.member.as_mut().filter(|_| membership == this.membership) {
                member.to_close.push_back(id);
                this.work(ctx);
            }
        });
    }

    /// A log whose disk failed is out of use until it is opened again.
    fn mend_replay_log(&mut self, error: &ReplayError, ctx: &mut Context<Self>) {
        if matches!(error, ReplayError::Broken { .. }) && self.problem.is_none() {
            self.problem = Some(ErrorChain(error).to_string());
            self.begin_later(ctx);
        }
    }

    fn begun(&mut self, verdict: Verdict, result: Result<(), ReplayError>, ctx: &mut Context<Self>) {
        if let Err(error) = result {
            // Without the note it could run twice, so it does not run; and nothing is known to be answered.
            let (id, _) = verdict.id();
            error!(self.log, "action is not run, because it cannot be noted"; "action" => %id,
                "error" => %ErrorChain(&error));
            let signers = match &verdict {
                Verdict::Run(admitted) => admitted.signers.clone(),
                Verdict::Refuse { refused, .. } => refused.signers.clone(),
            };
            let refused = Refused {
                refusal: Refusal::Busy(ErrorChain(&error).to_string()),
                action: Some(id.clone()),
                signers,
            };
            self.report_refusal(&refused, Way::Live);
            self.mend_replay_log(&error, ctx);
            return;
        }
        match verdict {
            Verdict::Run(admitted) => {
                info!(self.log, "action accepted"; "action" => %admitted.action.id, "name" => ?admitted.action.name,
                    "signers" => admitted.signers.join(","));
                self.report(ACCEPTED, Some(&admitted.action.id), &admitted.signers, None);
                if let Some(member) = &mut self.member {
                    member.waiting.push_back(*admitted);
                }
                self.run_next(ctx);
            }
            Verdict::Refuse { id, refused, .. } => self.answer_refusal(id, &refused, ctx),
        }
    }

    /// Runs what waits as far as there is room.
    pub(super) fn run_next(&mut self, ctx: &mut Context<Self>) {
        while let Some(member) = &mut self.member
            && member.running.len() < member.opened.section.running_actions
            && let Some(admitted) = member.waiting.pop_front()
        {
            // A key may have been revoked, and time has passed.
            let id = admitted.action.id.clone();
            match admitted.still_admitted(now(), member.opened.policy.as_ref()) {
                Ok(admitted) => self.run(admitted, ctx),
                Err(refused) => {
                    self.report_refusal(&refused, Way::Live);
                    self.answer_refusal(id, &refused, ctx);
                }
            }
        }
    }

    fn run(&mut self, admitted: Admitted, ctx: &mut Context<Self>) {
        let router = self.router.clone();
        let hostname = self.hostname();
        let allowed = Allowed {
            time: Duration::from_secs(u64::from(admitted.limits.seconds)),
            bytes: usize::try_from(admitted.limits.bytes).unwrap_or(usize::MAX),
        };
        let membership = self.membership;
        let id = admitted.action.id.clone();
        let running = async move {
            let answer = running::run(&admitted.action, &admitted.signers, allowed, &hostname, &router).await;
            (admitted.action.id, answer)
        };
        let handle = ctx.spawn(running.into_actor(self).map(move |(id, answer), this, ctx| {
            if membership == this.membership {
                this.keep_answer(id, answer, true, ctx);
            }
        }));
        if let Some(member) = &mut self.member {
            member.running.insert(id, handle);
        }
    }

    fn answer_refusal(&mut self, id: ActionId, refused: &Refused, ctx: &mut Context<Self>) {
        let answer = answer_without_results(
            AnswerStatus::Refused,
            refused.refusal.code(),
            refused.refusal.to_string(),
            &self.hostname(),
        );
        self.keep_answer(id, answer, false, ctx);
    }

    /// Puts an answer on disk and then on its way. `ran` says that the action had a place, which is given back when
    /// the answer is safe: a full disk holds back further actions.
    pub(super) fn keep_answer(&self, id: ActionId, answer: Answer, ran: bool, ctx: &mut Context<Self>) {
        let Some(member) = &self.member else { return };
        let (agent, key) = (member.opened.section.agent.clone(), member.opened.key.clone());
        let (membership, action) = (self.membership, id.clone());
        let sealing = work_threads::run(Lane::Fleet, move || sealed(&action, &agent, &key, &answer));
        ctx.spawn(sealing.into_actor(self).map(move |messages, this, ctx| {
            if let Ok(messages) = messages
                && membership == this.membership
            {
                this.store_answer(id, messages, ran, ctx);
            }
        }));
    }

    fn store_answer(&self, id: ActionId, messages: Arc<[String]>, ran: bool, ctx: &mut Context<Self>) {
        let Some(member) = &self.member else { return };
        let (spool, membership) = (member.opened.spool.clone(), self.membership);
        let (action, stored) = (id.clone(), messages.clone());
        let storing = work_threads::run(Lane::Fleet, move || spool.store(&action, &stored));
        ctx.spawn(storing.into_actor(self).map(move |stored, this, ctx| {
            let Ok(result) = stored else { return };
            if membership != this.membership {
                return;
            }
            match result {
                Ok(()) => this.answer_stored(id, ran, ctx),
                Err(error) => {
                    error!(this.log, "answer waits for the disk"; "action" => %id, "error" => %ErrorChain(&error));
                    ctx.run_later(STORE_RETRY, move |this, ctx| {
                        if membership == this.membership {
                            this.store_answer(id, messages, ran, ctx);
                        }
                    });
                }
            }
        }));
    }

    fn answer_stored(&mut self, id: ActionId, ran: bool, ctx: &mut Context<Self>) {
        let Some(member) = &mut self.member else { return };
        debug!(self.log, "answer is kept"; "action" => %id);
        if ran {
            member.running.remove(&id);
        }
        member.to_close.push_back(id);
        member.answers.notify_one();
        self.work(ctx);
        self.run_next(ctx);
    }

    fn report_refusal(&mut self, refused: &Refused, way: Way) {
        let code = refused.refusal.code();
        // What the stream brings again was decided before, and what is for others is no refusal.
        let again = matches!(refused.refusal, Refusal::Replayed | Refusal::Expired { .. });
        if (way == Way::Stored && again) || matches!(refused.refusal, Refusal::NotTargeted) {
            *self.outcomes.entry(if again { "again" } else { code }).or_default() += 1;
            return;
        }
        self.report(code, refused.action.as_ref(), &refused.signers, Some(refused.refusal.to_string()));
    }

    /// Counts an outcome, and tells the auditors unless they are told of too many.
    pub(super) fn report(
        &mut self,
        outcome: &'static str,
        action: Option<&ActionId>,
        signers: &[String],
        mut message: Option<String>,
    ) {
        if let Some(message) = &mut message {
            message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        }
        *self.outcomes.entry(outcome).or_default() += 1;
        let Some(member) = &mut self.member else { return };
        let accepted = outcome == ACCEPTED;
        let reported = if accepted { Some(0) } else { member.audit_budget.take(outcome, now_milliseconds()) };
        let Some(repeated) = reported else { return };
        if !accepted {
            warn!(self.log, "action refused"; "code" => outcome, "error" => message.as_deref(),
                "action" => action.map(ActionId::as_str), "signers" => signers.join(","), "repeated" => repeated);
        }
        let record = AuditRecord {
            v: VERSION,
            agent: member.opened.section.agent.clone(),
            time: jiff::Timestamp::now().to_string(),
            action: action.cloned(),
            outcome: outcome.to_owned(),
            signers: signers.to_vec(),
            message,
            repeated,
        };
        // A broker that is away for long must not fill the memory; the log has every record.
        member.audit.try_send(record).ok();
    }
}

/// The messages of an answer. Takes its time when the answer is large.
fn sealed(id: &ActionId, agent: &AgentId, key: &AgentKey, answer: &Answer) -> Arc<[String]> {
    let text = serde_json::to_string(answer).expect("an answer is plain data");
    collect::cut(id, agent, &text)
        .iter()
        .map(|part| {
            let text = serde_json::to_string(part).expect("a part is plain data");
            let sealed = key.seal(Purpose::Answer, text).expect("a part is smaller than what is sealed");
            serde_json::to_string(&sealed).expect("a seal is plain data")
        })
        .collect()
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
            | Refusal::Busy(_)
    )
}

impl super::Member {
    /// Why no further action can be taken now.
    fn no_room(&self) -> Option<String> {
        let section = &self.opened.section;
        let taken = self.running.len() + self.waiting.len();
        let places = section.running_actions + section.waiting_actions;
        if taken >= places {
            return Some(format!(
                "{taken} actions run or wait (fleet.running_actions, fleet.waiting_actions)"
            ));
        }
        let waiting = self.opened.spool.waiting_bytes();
        if waiting + LEAST_ANSWER_BYTES > section.answer_bytes {
            return Some(format!(
                "{waiting} bytes of answers wait for the broker (limit fleet.answer_bytes = {})",
                section.answer_bytes
            ));
        }
        None
    }
}
