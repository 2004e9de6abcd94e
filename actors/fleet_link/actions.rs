//! What becomes of an action that was decided: run, answered, reported. The parts of [`Membership`] that move it on.

use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use slog::{debug, error, warn};
use vigie_fleet::admission::{Admitted, Refusal, Refused};
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::answer::{Answer, AnswerPart, AnswerStatus, Asked, AuditRecord, Purpose, VERSION};
use vigie_fleet::collect;
use vigie_protocol::names::{ActionId, AgentId};

use super::audit_sender::LookAtDropped;
use super::identity::Noticed;
use super::membership::{Membership, Way};
use super::running::{self, Allowed, answer_without_results};
use super::standing::Order;
use super::trouble::Trouble;
use super::{ACCEPTED, now, now_milliseconds};
use crate::work_threads::{self, Lane};
use vigie_protocol::error_chain::ErrorChain;

/// Longest text of a refusal that is logged and reported, in bytes: it can hold what a stranger wrote.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Pause before an answer that the disk did not take is stored again.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// How often refusals are reported that were only counted.
const OWED_EVERY: Duration = Duration::from_secs(60);

impl Membership {
    /// Takes an action that is noted, and runs it when it has a place.
    pub(super) fn admit(&mut self, admitted: Admitted, ctx: &mut Context<Self>) {
        slog::info!(self.log, "action accepted"; "action" => %admitted.action.id, "name" => ?admitted.action.name,
            "signers" => admitted.signers.join(","));
        let asked = Some(Box::new(Asked::of(&admitted.action)));
        self.report(ACCEPTED, Some(&admitted.action.id), &admitted.signers, asked, None);
        self.waiting.push_back(admitted);
        self.run_next(ctx);
    }

    /// Hands a standing question, or the end of one, to who asks them.
    pub(super) fn stand(&mut self, order: Order, ctx: &mut Context<Self>) {
        let admitted = &order.admitted;
        let id = admitted.action.id.clone();
        let asked = Some(Box::new(Asked::of(&admitted.action)));
        self.report(ACCEPTED, Some(&id), &admitted.signers, asked, None);
        let refusal = Refusal::Busy("too many standing queries arrive at once".to_owned());
        let refused = admitted.refused(refusal);
        if self.standing.try_send(order).is_err() {
            self.answer_refusal(id, &refused, ctx);
        }
    }

    /// Runs what waits as far as there is room.
    pub(super) fn run_next(&mut self, ctx: &mut Context<Self>) {
        while self.running.len() < self.section.running_actions
            && let Some(admitted) = self.waiting.pop_front()
        {
            // A key may have been revoked, time has passed, and a machine that was put back while it ran waits with
            // what it ran.
            let id = admitted.action.id.clone();
            let policy = self.policy.borrow().clone();
            let reverted = self.memory.borrow().reverted.map(Noticed::time);
            let still = admitted.still_admitted(now(), policy.as_deref());
            match still.and_then(|admitted| admitted.not_run_before(reverted)) {
                Ok(admitted) => self.run(admitted, ctx),
                Err(refused) => {
                    self.report_refusal(&refused, Way::Live);
                    self.answer_refusal(id, &refused, ctx);
                }
            }
        }
        self.room.set_taken(self.running.len() + self.waiting.len());
    }

    fn run(&mut self, admitted: Admitted, ctx: &mut Context<Self>) {
        let router = self.router.clone();
        let hostname = self.hostname();
        let allowed = Allowed {
            time: Duration::from_secs(u64::from(admitted.limits.seconds)),
            bytes: usize::try_from(admitted.limits.bytes).unwrap_or(usize::MAX),
        };
        self.running.insert(admitted.action.id.clone());
        let running = async move {
            let answer = running::run(&admitted.action, &admitted.signers, allowed, &hostname, &router).await;
            (admitted.action.id, answer)
        };
        ctx.spawn(running.into_actor(self).map(|(id, answer), this, ctx| {
            this.keep_answer(id, answer, ctx);
        }));
    }

    pub(super) fn answer_refusal(&self, id: ActionId, refused: &Refused, ctx: &mut Context<Self>) {
        let answer = answer_without_results(
            AnswerStatus::Refused,
            refused.refusal.code(),
            refused.refusal.to_string(),
            &self.hostname(),
        );
        self.keep_answer(id, answer, ctx);
    }

    /// Puts an answer on disk and then on its way. An action keeps its place until then: a full disk holds back
    /// further ones.
    pub(super) fn keep_answer(&self, id: ActionId, answer: Answer, ctx: &mut Context<Self>) {
        let (agent, key) = (self.section.agent.clone(), self.key.clone());
        let action = id.clone();
        let sealing = work_threads::run(Lane::Fleet, move || sealed(&action, &agent, &key, &answer));
        ctx.spawn(sealing.into_actor(self).map(|messages, this, ctx| {
            // Only a panic can end the task, and a panic ends the agent.
            if let Ok(messages) = messages {
                this.store_answer(id, messages, ctx);
            }
        }));
    }

    fn store_answer(&self, id: ActionId, messages: Arc<[String]>, ctx: &mut Context<Self>) {
        let spool = self.spool.clone();
        let (action, stored) = (id.clone(), messages.clone());
        let storing = work_threads::run(Lane::Fleet, move || spool.store(&action, &stored));
        ctx.spawn(storing.into_actor(self).map(|stored, this, ctx| match stored {
            Ok(Ok(())) => this.answer_stored(id, ctx),
            Ok(Err(error)) => {
                error!(this.log, "answer waits for the disk"; "action" => %id, "error" => %ErrorChain(&error));
                ctx.run_later(STORE_RETRY, |this, ctx| this.store_answer(id, messages, ctx));
            }
            Err(_) => {}
        }));
    }

    fn answer_stored(&mut self, id: ActionId, ctx: &mut Context<Self>) {
        debug!(self.log, "answer is kept"; "action" => %id);
        self.running.remove(&id);
        self.answered.send(id).ok();
        self.answers.notify_one();
        self.run_next(ctx);
    }

    pub(super) fn report_refusal(&mut self, refused: &Refused, way: Way) {
        let code = refused.refusal.code();
        // What the stream brings again was decided before, and what is for others is no refusal.
        let again = matches!(refused.refusal, Refusal::Replayed | Refusal::Expired { .. });
        if (way == Way::Stored && again) || matches!(refused.refusal, Refusal::NotTargeted) {
            self.count(if again { "again" } else { code });
            return;
        }
        let message = Some(refused.refusal.to_string());
        self.report(code, refused.action.as_ref(), &refused.signers, refused.asked.clone(), message);
    }

    fn count(&self, outcome: &'static str) {
        *self.outcomes.borrow_mut().entry(outcome).or_default() += 1;
    }

    /// Counts an outcome, and tells the auditors unless they are told of too many.
    pub(super) fn report(
        &mut self,
        outcome: &'static str,
        action: Option<&ActionId>,
        signers: &[String],
        asked: Option<Box<Asked>>,
        mut message: Option<String>,
    ) {
        if let Some(message) = &mut message {
            message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        }
        self.count(outcome);
        let accepted = outcome == ACCEPTED;
        let reported = if accepted { Some(0) } else { self.audit.may_report(outcome, now_milliseconds()) };
        let Some(repeated) = reported else { return };
        if !accepted {
            warn!(self.log, "action refused"; "code" => outcome, "error" => message.as_deref(),
                "action" => action.map(ActionId::as_str), "signers" => signers.join(","), "repeated" => repeated);
        }
        let record = AuditRecord {
            v: VERSION,
            agent: self.section.agent.clone(),
            time: jiff::Timestamp::now().to_string(),
            action: action.cloned(),
            outcome: outcome.to_owned(),
            signers: signers.to_vec(),
            asked,
            message,
            repeated,
            dropped: 0,
        };
        if !self.audit.push(record) {
            self.look_at_dropped();
        }
    }

    /// Reports refusals that were only counted, now and then.
    pub(super) fn report_owed_later(&self, ctx: &mut Context<Self>) {
        ctx.run_later(OWED_EVERY, |this, ctx| {
            this.report_owed();
            this.report_owed_later(ctx);
        });
    }

    /// Reports refusals that were only counted, also by an earlier membership, when no further one brings their number.
    fn report_owed(&self) {
        if !self.audit.has_room() {
            return;
        }
        for (outcome, count) in self.audit.owed(now_milliseconds()) {
            self.audit.push(AuditRecord {
                v: VERSION,
                agent: self.section.agent.clone(),
                time: jiff::Timestamp::now().to_string(),
                action: None,
                outcome: outcome.to_owned(),
                signers: Vec::new(),
                asked: None,
                message: Some("refusals that were only counted, this one among them".to_owned()),
                repeated: count.saturating_sub(1),
                dropped: 0,
            });
        }
    }

    /// Says whether audit records were dropped of which the auditors do not know.
    pub(super) fn look_at_dropped(&mut self) {
        match self.audit.dropped() {
            0 => self.clear(Trouble::AuditDropped),
            dropped => {
                let text =
                    format!("audit records were dropped because the broker did not take them: {dropped}");
                self.raise(Trouble::AuditDropped, text);
            }
        }
    }
}

impl Handler<LookAtDropped> for Membership {
    type Result = ();

    fn handle(&mut self, _: LookAtDropped, _: &mut Self::Context) {
        self.look_at_dropped();
    }
}

/// The messages of an answer. Takes its time when the answer is large.
fn sealed(id: &ActionId, agent: &AgentId, key: &AgentKey, answer: &Answer) -> Arc<[String]> {
    let text = serde_json::to_string(answer).expect("an answer is plain data");
    let mut parts = collect::cut(id, agent, &text);
    if parts.len() > collect::MAX_PARTS as usize {
        // The broker would push out its first parts for its last.
        let short = Answer { operations: Vec::new(), ..too_large(answer, text.len()) };
        parts = collect::cut(id, agent, &serde_json::to_string(&short).expect("an answer is plain data"));
    }
    seal_all(&parts, key).into()
}

/// The messages of a text that travels as an answer.
pub(super) fn sealed_parts(id: &ActionId, agent: &AgentId, key: &AgentKey, text: &str) -> Vec<String> {
    seal_all(&collect::cut(id, agent, text), key)
}

fn seal_all(parts: &[AnswerPart], key: &AgentKey) -> Vec<String> {
    parts
        .iter()
        .map(|part| {
            let text = serde_json::to_string(part).expect("a part is plain data");
            let sealed = key.seal(Purpose::Answer, text).expect("a part is smaller than what is sealed");
            serde_json::to_string(&sealed).expect("a seal is plain data")
        })
        .collect()
}

fn too_large(answer: &Answer, bytes: usize) -> Answer {
    let message =
        format!("the answer of {bytes} bytes exceeds what the broker keeps per agent: narrow the query");
    answer_without_results(AnswerStatus::Truncated, "truncated", message, &answer.hostname)
}
