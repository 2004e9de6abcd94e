//! What becomes of an action: decided, written down, run, answered. The parts of [`FleetLink`] that move it on.

use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use bytes::Bytes;
use slog::{debug, error, info, warn};
use tokio::sync::oneshot;
use vigie_fleet::admission::{self, Admitted, Refusal, Refused, Situation};
use vigie_fleet::answer::{Answer, AnswerStatus, AuditRecord, Purpose, VERSION};
use vigie_fleet::collect;
use vigie_fleet::names::ActionId;
use vigie_fleet::replay_log::{ReplayError, ReplayLog};
use vigie_fleet::target::Target;

use super::running::{self, Allowed, answer_without_results};
use super::{FleetLink, Way, now, now_milliseconds};
use crate::error::ErrorChain;

/// Room in the spool below which no action is begun, in bytes.
const LEAST_ANSWER_BYTES: u64 = 64 * 1024;

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
            Ok(admitted) => Some(Verdict::Run(Box::new(admitted))),
            Err(refused) => {
                self.report_refusal(&refused, way);
                let id = refused.action.clone().filter(|_| is_answered(&refused.refusal))?;
                // It was read before: whoever signed it knows when it ends.
                let not_after = admission::read(envelope).ok()?.1.not_after;
                Some(Verdict::Refuse { id, not_after, refused })
            }
        }
    }

    /// Hands the replay log to the blocking pool to note something, and goes on when it is back.
    fn write_down(&mut self, note: Note, ctx: &mut Context<Self>) {
        let Some(member) = &mut self.member else { return };
        let Some(mut replay) = member.replay.take() else { return };
        let membership = self.membership;
        let writing = tokio::task::spawn_blocking(move || {
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
                    warn!(self.log, "cannot note that an action is answered; after a restart it is answered again as \
                        interrupted"; "action" => %id, "error" => %ErrorChain(&error));
                }
            }
            Note::Begin { verdict, decided } => {
                self.begun(verdict, result, ctx);
                decided.send(()).ok();
            }
        }
        self.work(ctx);
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
            return;
        }
        match verdict {
            Verdict::Run(admitted) => {
                info!(self.log, "action accepted"; "action" => %admitted.action.id, "name" => ?admitted.action.name,
                    "signers" => admitted.signers.join(","));
                self.report("accepted", Some(&admitted.action.id), &admitted.signers, None);
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
            && member.running < member.opened.section.running_actions
            && let Some(admitted) = member.waiting.pop_front()
        {
            // A key may have been revoked, and time has passed.
            let id = admitted.action.id.clone();
            match admitted.still_admitted(now(), member.opened.policy.as_ref()) {
                Ok(admitted) => {
                    member.running += 1;
                    self.run(admitted, ctx);
                }
                Err(refused) => {
                    self.report_refusal(&refused, Way::Live);
                    self.answer_refusal(id, &refused, ctx);
                }
            }
        }
    }

    fn run(&self, admitted: Admitted, ctx: &mut Context<Self>) {
        let router = self.router.clone();
        let hostname = self.hostname();
        let allowed = Allowed {
            time: Duration::from_secs(u64::from(admitted.limits.seconds)),
            bytes: usize::try_from(admitted.limits.bytes).unwrap_or(usize::MAX),
        };
        let membership = self.membership;
        let running = async move {
            let answer = running::run(&admitted.action, &admitted.signers, allowed, &hostname, &router).await;
            (admitted.action.id, answer)
        };
        ctx.spawn(running.into_actor(self).map(move |(id, answer), this, ctx| {
            if membership == this.membership {
                this.keep_answer(id, &answer, true, ctx);
            }
        }));
    }

    fn answer_refusal(&mut self, id: ActionId, refused: &Refused, ctx: &mut Context<Self>) {
        let answer = answer_without_results(
            AnswerStatus::Refused,
            refused.refusal.code(),
            refused.refusal.to_string(),
            &self.hostname(),
        );
        self.keep_answer(id, &answer, false, ctx);
    }

    /// Puts an answer on disk and then on its way. `ran` says that the action had a place, which is given back when
    /// the answer is safe: a full disk holds back further actions.
    pub(super) fn keep_answer(&mut self, id: ActionId, answer: &Answer, ran: bool, ctx: &mut Context<Self>) {
        let Some(member) = &self.member else { return };
        let text = serde_json::to_string(answer).expect("an answer is plain data");
        let agent = &member.opened.section.agent;
        let messages: Vec<String> = collect::cut(&id, agent, &text)
            .iter()
            .map(|part| {
                let text = serde_json::to_string(part).expect("a part is plain data");
                let sealed = member
                    .opened
                    .key
                    .seal(Purpose::Answer, text)
                    .expect("a part is smaller than what is sealed");
                serde_json::to_string(&sealed).expect("a seal is plain data")
            })
            .collect();
        self.store_answer(id, messages.into(), ran, ctx);
    }

    fn store_answer(&self, id: ActionId, messages: Arc<[String]>, ran: bool, ctx: &mut Context<Self>) {
        let Some(member) = &self.member else { return };
        let (spool, membership) = (member.opened.spool.clone(), self.membership);
        let (action, stored) = (id.clone(), messages.clone());
        let storing = tokio::task::spawn_blocking(move || {
            let result = spool.store(&action, &stored);
            (result, spool.bytes())
        });
        ctx.spawn(storing.into_actor(self).map(move |stored, this, ctx| {
            let Ok((result, bytes)) = stored else { return };
            if membership != this.membership {
                return;
            }
            match result {
                Ok(()) => this.answer_stored(id, bytes, ran, ctx),
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

    fn answer_stored(&mut self, id: ActionId, spool_bytes: u64, ran: bool, ctx: &mut Context<Self>) {
        let Some(member) = &mut self.member else { return };
        debug!(self.log, "answer is kept"; "action" => %id);
        member.spool_bytes = spool_bytes;
        member.running -= usize::from(ran);
        member.to_close.push_back(id.clone());
        // The sender ends only with the membership.
        member.answers.send(id).ok();
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
        message: Option<String>,
    ) {
        *self.outcomes.entry(outcome).or_default() += 1;
        let Some(member) = &mut self.member else { return };
        let accepted = outcome == "accepted";
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
        let taken = self.running + self.waiting.len();
        let places = section.running_actions + section.waiting_actions;
        if taken >= places {
            return Some(format!(
                "{taken} actions run or wait (fleet.running_actions, fleet.waiting_actions)"
            ));
        }
        if self.spool_bytes + LEAST_ANSWER_BYTES > section.answer_bytes {
            return Some(format!(
                "{} bytes of answers wait for the broker (limit fleet.answer_bytes = {})",
                self.spool_bytes, section.answer_bytes
            ));
        }
        None
    }
}
