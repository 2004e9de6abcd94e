//! The end of a life and what follows it. What follows is decided in [`Module::sequel`](super::module::Module::sequel).

use std::time::Duration;

use actix::{AsyncContext, Context, Handler, Message};
use slog::{error, info, warn};
use tokio::time::Instant;
use vigie_files::random;
use vigie_protocol::catalogue::AgentCondition;
use vigie_protocol::module_name::ModuleName;

use super::module::{Phase, Rest, Sequel, why_not_started};
use super::restart::Verdict;
use super::{Supervisor, kept_histories};
use crate::life::{EndReason, Incarnation};
use crate::line_feed::keep_newest;
use crate::module_process::ModuleExited;
use crate::socket_registry::Life;

impl Supervisor {
    fn after_exit(&mut self, name: &ModuleName, exited: &ModuleExited, ctx: &mut Context<Self>) {
        let policy = self.config.agent.restart;
        let Some(module) = self.modules.get_mut(name) else { return };
        let reason = &exited.reason;
        match module.sequel(reason, exited.lifetime, &policy, Instant::now(), random::fraction()) {
            Sequel::Forgotten => self.forget_removed(ctx),
            Sequel::Refused => self.configuration_refused(name, ctx),
            Sequel::StartsAnew => {
                // An operator may have mended what the module refused its configuration for.
                if *reason == EndReason::Operator {
                    self.forget_refusal(name);
                }
                self.start_module(name, ctx);
            }
            Sequel::StaysDown => {
                module.phase = Phase::Resting(Rest::Ended);
                info!(self.log, "module is not restarted"; "module" => %name, "reason" => %reason);
                self.tell_life(name, Life::Down(format!("ended with {reason} and is not started again")));
            }
            Sequel::WaitsForResources { delay, first } => {
                if first {
                    error!(self.log, "module cannot be started at present; retrying every second";
                        "module" => %name, "reason" => %reason);
                }
                self.start_later(name, delay, false, ctx);
                self.tell_life(name, Life::Down(format!("cannot be started at present: {reason}")));
            }
            Sequel::Died(verdict) => self.died(name, reason, verdict, ctx),
        }
    }

    /// A module died: it is started again as its history says, which the next agent is to know too.
    fn died(&mut self, name: &ModuleName, reason: &EndReason, verdict: Verdict, ctx: &mut Context<Self>) {
        let histories = self.modules.iter().map(|(name, module)| (name, &module.history));
        kept_histories::store(&self.config.agent.agent.state_dir, histories);
        let reporter = self.reporter(name);
        match verdict {
            Verdict::Failed { retry_after } => {
                error!(self.log, "module keeps failing; restarting it only at long intervals";
                    "module" => %name, "reason" => %reason, "backoff_ms" => retry_after.as_millis());
                reporter.raise(AgentCondition::ModuleFailed, reason.to_string());
                reporter.clear(AgentCondition::ModuleRestarting);
                self.start_later(name, retry_after, true, ctx);
                let life = format!("failed (last: {reason}), the next attempt is in {retry_after:?}");
                self.tell_life(name, Life::Down(life));
            }
            Verdict::Restart { after } => {
                warn!(self.log, "module ended unexpectedly, restarting it"; "module" => %name,
                    "reason" => %reason, "backoff_ms" => after.as_millis());
                reporter.raise(AgentCondition::ModuleRestarting, reason.to_string());
                reporter.clear(AgentCondition::ModuleFailed);
                self.start_later(name, after, false, ctx);
                self.tell_life(name, Life::Down(format!("waits to be started again after {reason}")));
            }
        }
    }

    /// Has the module started after `delay`.
    fn start_later(&mut self, name: &ModuleName, delay: Duration, failed: bool, ctx: &mut Context<Self>) {
        let Some(module) = self.modules.get_mut(name) else { return };
        let due = RestartDue { module: name.clone(), incarnation: module.incarnation };
        let timer = ctx.notify_later(due, delay);
        module.phase = Phase::Waiting { until: Instant::now() + delay, timer, failed };
    }
}

/// A module's delay is over. Sent by this actor to itself, once per death.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct RestartDue {
    pub(super) module: ModuleName,
    /// The life that ended; when another one has begun meanwhile, this is stale.
    pub(super) incarnation: Incarnation,
}

impl Handler<RestartDue> for Supervisor {
    type Result = ();

    fn handle(&mut self, due: RestartDue, ctx: &mut Self::Context) {
        let current = self.modules.get(&due.module).map(|module| module.incarnation);
        if current == Some(due.incarnation) {
            self.start_module(&due.module, ctx);
        }
    }
}

impl Handler<ModuleExited> for Supervisor {
    type Result = ();

    fn handle(&mut self, exited: ModuleExited, ctx: &mut Self::Context) {
        let name = exited.module.clone();
        let Some(module) = self.modules.get_mut(&name) else { return };
        if module.incarnation != exited.incarnation {
            return;
        }
        module.phase = Phase::Resting(Rest::NotStarted);
        module.stopping = false;
        if let Some(confirmation) = &mut module.confirmation {
            confirmation.ended();
        }
        module.last_exit = Some(exited.reason.clone());
        module.counters.add(&exited.counters);
        keep_newest(&mut module.lines, exited.lines.iter().cloned());
        for waiting in module.ending.drain(..) {
            waiting.send(()).ok();
        }
        if !exited.reason.is_ordered() {
            module.answer_starting(&Err(why_not_started(&exited)));
        }
        if !self.stopping {
            self.after_exit(&name, &exited, ctx);
        }
    }
}
