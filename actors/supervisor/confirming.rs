//! What the modules make of their configurations: asked for, shown, waited for. What counts as confirmed is decided in
//! [`super::confirmation`].

use std::time::Duration;

use actix::{AsyncContext, Context, Handler, Message, MessageResult, ResponseFuture};
use slog::{error, warn};
use tokio::time::Instant;
use vigie_protocol::catalogue::AgentCondition;
use vigie_protocol::control::{InForce, ModuleConfigStatus};
use vigie_protocol::module_name::ModuleName;

use super::Supervisor;
use super::confirmation::Confirmation;
use super::confirmed::{self, Confirmed};
use super::module::{Phase, Rest};
use crate::life::{EndReason, Incarnation};
use crate::module_process::ModuleConfirmed;
use crate::socket_registry::Life;

/// Bounds on the time that a module has to say what it made of a configuration: three heartbeats within these.
const MIN_CONFIRMATION_TIME: Duration = Duration::from_secs(10);
const MAX_CONFIRMATION_TIME: Duration = Duration::from_secs(60);

/// Asks what the modules made of the newest configuration. Sent by `ConfigLoader` after each change; answered when
/// every module that runs has said so, or its time is over.
#[derive(Debug, Message)]
#[rtype(result = "Vec<ModuleConfigStatus>")]
pub struct AwaitConfirmations;

impl Supervisor {
    fn confirmation_time(&self) -> Duration {
        let interval = self.config.agent.agent.heartbeat_interval;
        (interval * 3).clamp(MIN_CONFIRMATION_TIME, MAX_CONFIRMATION_TIME)
    }

    /// A configuration was sent: from now on the module's word about it is awaited. Of the one that it went back to
    /// nothing is awaited: what stays known is that it refused the newest one.
    pub(super) fn await_confirmation(&mut self, name: &ModuleName, ctx: &mut Context<Self>) {
        let (generation, patience) = (self.config.generation, self.confirmation_time());
        let Some(module) = self.modules.get_mut(name).filter(|module| !module.goes_back()) else { return };
        module.confirmation = Some(Confirmation::sent(generation));
        module.sent += 1;
        let due = ConfirmationDue {
            module: name.clone(),
            incarnation: module.incarnation,
            generation,
            sent: module.sent,
        };
        ctx.notify_later(due, patience);
    }

    /// Shows what the module made of its configuration, and wakes who waits for it.
    fn confirmation_changed(&mut self, name: &ModuleName) {
        let reporter = self.reporter(name);
        let Some(module) = self.modules.get_mut(name) else { return };
        let Some(confirmation) = &module.confirmation else { return };
        if confirmation.is_in_force() {
            let config = module.runnable_config();
            let newly = config.filter(|config| !module.has_confirmed(config)).map(Confirmed::now);
            if newly.is_some() {
                module.confirmed = newly;
                let state_dir = &self.config.agent.agent.state_dir;
                confirmed::store(state_dir, name, module.confirmed.as_ref(), &self.log);
            }
            if module.refused_config.is_none() {
                reporter.clear(AgentCondition::ModuleConfigurationRefused);
            }
            reporter.clear(AgentCondition::ConfigurationUnconfirmed);
        } else if let Some(problem) = confirmation.problem() {
            let condition = match confirmation.status(name).state {
                InForce::Refused => AgentCondition::ModuleConfigurationRefused,
                _ => AgentCondition::ConfigurationUnconfirmed,
            };
            let before = module.confirmed.as_ref().filter(|_| module.goes_back());
            let instead =
                before.map(|before| format!("; it runs with the one that it confirmed at {}", before.at));
            reporter.raise(condition, problem + &instead.unwrap_or_default());
        }
        self.confirmations.send_modify(|count| *count += 1);
    }

    /// A module refused its configuration by its exit code: it goes back to the last one that it confirmed, and
    /// without one it is not started again until the configuration changes.
    pub(super) fn configuration_refused(&mut self, name: &ModuleName, ctx: &mut Context<Self>) {
        let generation = self.config.generation;
        let Some(module) = self.modules.get_mut(name) else { return };
        let spoken = module.lines.iter().rev().find(|line| line.source != "dropped");
        let last_words = spoken.map(|line| line.text.clone());
        let confirmation = module.confirmation.get_or_insert_with(|| Confirmation::sent(generation));
        confirmation.exited_with_config(last_words);
        let problem = confirmation.problem().unwrap_or_default();
        let first = module.refused_config.is_none();
        module.refused_config = module.runnable_config().map(ToOwned::to_owned);
        let goes_back = first && module.goes_back();
        self.confirmation_changed(name);
        if goes_back {
            warn!(self.log, "module rejected its configuration; reverting to the last confirmed one";
                "module" => %name, "error" => ?problem);
            return self.start_module(name, ctx);
        }
        error!(self.log, "module rejected its configuration and is not restarted with it";
            "module" => %name, "error" => ?problem);
        if let Some(module) = self.modules.get_mut(name) {
            module.phase = Phase::Resting(Rest::Refused(problem.clone()));
        }
        self.reporter(name).raise(AgentCondition::ModuleFailed, problem.clone());
        self.tell_life(name, Life::Down(problem));
    }
}

impl Handler<ModuleConfirmed> for Supervisor {
    type Result = ();

    fn handle(&mut self, message: ModuleConfirmed, _: &mut Self::Context) {
        let ModuleConfirmed { module: name, incarnation, confirms, said } = message;
        let Some(module) = self.modules.get_mut(&name) else { return };
        let Some(confirmation) = module.confirmation.as_mut().filter(|_| module.incarnation == incarnation)
        else {
            return;
        };
        match said {
            // What a module says of the configuration that it went back to says nothing of the one it refused.
            Some(_) if module.refused_config.is_some() => return,
            Some(said) => confirmation.configured(&said),
            None => confirmation.ready(confirms),
        }
        self.confirmation_changed(&name);
    }
}

/// The time for a module's word about its configuration is over. Sent by this actor to itself, once per configuration.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct ConfirmationDue {
    module: ModuleName,
    incarnation: Incarnation,
    generation: u64,
    /// Which of the messages that were sent.
    sent: u64,
}

impl Handler<ConfirmationDue> for Supervisor {
    type Result = ();

    fn handle(&mut self, due: ConfirmationDue, _: &mut Self::Context) {
        let Some(module) = self.modules.get_mut(&due.module) else { return };
        // A module that was started with the configuration is left alone; one that got it on the way is started anew,
        // because nobody knows which one it has.
        let sent_on_the_way = module.reconfigured;
        let Some(confirmation) = module
            .confirmation
            .as_mut()
            .filter(|_| (module.incarnation, module.sent) == (due.incarnation, due.sent))
        else {
            return;
        };
        if !confirmation.overdue(due.generation) {
            return;
        }
        self.confirmation_changed(&due.module);
        if sent_on_the_way {
            warn!(self.log, "module did not confirm its new configuration; restarting it";
                "module" => %due.module);
            self.stop_module(&due.module, EndReason::ConfigChanged, self.config.agent.agent.stop_grace);
        }
    }
}

/// Asks how far the confirmations are; private to [`AwaitConfirmations`].
#[derive(Debug, Message)]
#[rtype(result = "(bool, Vec<ModuleConfigStatus>)")]
struct GetConfirmations;

impl Handler<GetConfirmations> for Supervisor {
    type Result = MessageResult<GetConfirmations>;

    fn handle(&mut self, _: GetConfirmations, _: &mut Self::Context) -> Self::Result {
        let names = self.names();
        let known = names.iter().filter_map(|name| self.modules.get(name).map(|module| (name, module)));
        let mut all_settled = true;
        let mut statuses = Vec::new();
        for (name, module) in known {
            let Some(confirmation) = &module.confirmation else { continue };
            if matches!(module.phase, Phase::Resting(Rest::Standard | Rest::Off(_) | Rest::Ended)) {
                continue;
            }
            // A module that is being restarted will be sent the configuration when it starts.
            let restarting = module.living().is_some() && module.stopping;
            all_settled &= confirmation.is_settled() && !restarting;
            statuses.push(confirmation.status(name));
        }
        MessageResult((all_settled, statuses))
    }
}

impl Handler<AwaitConfirmations> for Supervisor {
    type Result = ResponseFuture<Vec<ModuleConfigStatus>>;

    fn handle(&mut self, _: AwaitConfirmations, ctx: &mut Self::Context) -> Self::Result {
        let mut changed = self.confirmations.subscribe();
        let me = ctx.address();
        // A module may have to end first.
        let patience = self.confirmation_time() + self.config.agent.agent.stop_grace + Duration::from_secs(1);
        let deadline = Instant::now() + patience;
        Box::pin(async move {
            loop {
                changed.mark_unchanged();
                let Ok((settled, statuses)) = me.send(GetConfirmations).await else { return Vec::new() };
                if settled || tokio::time::timeout_at(deadline, changed.changed()).await.is_err() {
                    return statuses;
                }
            }
        })
    }
}
