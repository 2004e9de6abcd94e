//! Keeps the configured modules running.
//!
//! Started by the agent after the journal and the registry, stopped before them. Owns the child specs and what
//! is remembered of each module's lives; a life itself is a `ModuleProcess`. Told by `ConfigLoader` what is
//! to run (`ConfigChanged`) and by each `ModuleProcess` that it is over (`ModuleExited`).
//!
//! A restart begins from the spec, never from what a life left behind, and only when that life is wholly gone:
//! there are never two copies. When is decided in `restart`. One for one: no module's end touches another,
//! and none ends the agent.
//!
//! ```text
//!              ┌──────────── restart due ─────────────┐
//!   start ──► Living ──► exited ──► Backoff or Failed ┘
//!                          └──────► Ended (rule), or gone (no longer configured)
//! ```

mod config_message;
mod confirmation;
pub mod confirmed;
mod confirming;
mod exits;
mod kept_histories;
mod module;
mod packs;
mod questions;
mod reconfigure;
mod restart;
mod stopping;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture,
};
use slog::{Logger, info, o};
use tokio::sync::{oneshot, watch};
use vigie_config::model::LoadedConfig;
use vigie_fleet::policy::Packs;
use vigie_protocol::catalogue::AgentCondition;
use vigie_protocol::condition::Subject;
use vigie_protocol::message::Environment;
use vigie_protocol::module_name::ModuleName;

pub use self::confirming::AwaitConfirmations;
use self::module::{Module, Phase, Rest, must_rest};
pub use self::packs::TakePacks;
pub(crate) use self::questions::{GetLineFeeds, GetModuleLines, GetModules, ModuleLines, QueryLeft};
use self::restart::RestartHistory;
pub use self::stopping::StopAll;
use crate::conditions::Reporter;
use crate::life::{EndReason, Incarnation};
use crate::module_process::{ModuleProcess, Services, StopModule, Told};
use crate::socket_registry::{Life, ModuleLifeChanged};

/// Messages in the mailbox before a sender waits.
const MAILBOX_CAPACITY: usize = 16;

/// What modules are told about this host.
#[derive(Debug, Clone, Default)]
pub struct HostFacts {
    /// The host's name.
    pub hostname: String,
    /// What kind of host it is.
    pub environment: Environment,
}

/// Orders a module to end and to be started again at once, whatever its breaker says. Sent by `ControlServer`.
/// Answered with the new process.
#[derive(Debug, Message)]
#[rtype(result = "Result<u32, RestartRefused>")]
pub(crate) struct RestartModule(pub(crate) ModuleName);

/// Why a module is not restarted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RestartRefused {
    /// There is no such module.
    #[error("no persistent module {0} is configured")]
    Unknown(ModuleName),
    /// It runs once per query.
    #[error("module {0} is a standard module, which runs only for a query")]
    Standard(ModuleName),
    /// It is switched off, or its configuration is invalid.
    #[error("module {module} cannot run: {reason}")]
    NotRunnable { module: ModuleName, reason: String },
    /// The new process could not be started.
    #[error("module {module} was stopped but could not be started again: {reason}")]
    NotStarted { module: ModuleName, reason: String },
    /// The agent is stopping.
    #[error("the agent is stopping")]
    AgentStopping,
}

/// The actor.
pub struct Supervisor {
    log: Logger,
    services: Services,
    facts: HostFacts,
    config: Arc<LoadedConfig>,
    modules: BTreeMap<ModuleName, Module>,
    /// What the fleet's policy has for modules.
    packs: Packs,
    /// Counts what modules said of their configurations, for those who wait for it.
    confirmations: watch::Sender<u64>,
    stopping: bool,
}

impl Supervisor {
    /// A supervisor that starts the modules of `config` when it starts itself.
    #[must_use]
    pub fn new(services: Services, facts: HostFacts, config: Arc<LoadedConfig>) -> Self {
        let log = services.log.new(o!("component" => "supervisor"));
        services.spawner.report_to(&services.conditions);
        Self {
            log,
            services,
            facts,
            config,
            modules: BTreeMap::new(),
            packs: Packs::new(),
            confirmations: watch::Sender::new(0),
            stopping: false,
        }
    }

    /// Has modules begin with what the fleet's policy has for them.
    #[must_use]
    pub fn with_packs(self, packs: Packs) -> Self {
        Self { packs, ..self }
    }

    /// Starts the module unless it lives, is not to run, or the agent stops.
    fn start_module(&mut self, name: &ModuleName, ctx: &mut Context<Self>) {
        if self.stopping {
            return;
        }
        let Some(module) = self.modules.get_mut(name).filter(|module| module.living().is_none()) else {
            return;
        };
        if let Phase::Waiting { timer, .. } = &module.phase {
            ctx.cancel_future(*timer);
        }
        let Some(spec) = module.spec.clone() else { return };
        if let Some(rest) = must_rest(&spec, self.config.agent.agent.nopersistmods) {
            let unusable = spec.section.enabled && spec.config.usable().is_none();
            return self.rest(name, rest, unusable);
        }
        let incarnation = module.begin_life();
        let feeds = module.feeds.clone();
        let config_line = self.config_line(name).unwrap_or_default();
        self.await_confirmation(name, ctx);
        self.tell_life(name, Life::Living);
        let (started, told) = oneshot::channel();
        // A failed module stays so until it is known to run: see `ModuleProcess`.
        self.reporter(name).clear(AgentCondition::ModuleRestarting);
        let process = ModuleProcess::new(
            self.services.clone(),
            spec,
            incarnation,
            self.config.agent.clone(),
            config_line,
            Told { exited: ctx.address().recipient(), confirmed: ctx.address().recipient(), started },
            feeds,
        )
        .start();
        if let Some(module) = self.modules.get_mut(name) {
            module.phase = Phase::Living(process);
            if !module.starting.is_empty() {
                self.report_start(name.clone(), told, ctx);
            }
        }
    }

    /// Leaves a module down that is not to run; one that is wanted but has an `unusable` configuration has failed.
    fn rest(&mut self, name: &ModuleName, rest: Rest, unusable: bool) {
        let reason = match &rest {
            Rest::Off(reason) => reason.clone(),
            _ => "it runs only for a query".to_owned(),
        };
        let reporter = self.reporter(name);
        reporter.set(AgentCondition::ModuleFailed, unusable.then(|| reason.clone()));
        reporter.clear(AgentCondition::ModuleRestarting);
        if let Some(module) = self.modules.get_mut(name) {
            module.phase = Phase::Resting(rest);
            module.answer_starting(&Err(reason.clone()));
        }
        self.tell_life(name, Life::Down(reason));
    }

    /// Tells who waits for the start which process it is.
    fn report_start(&self, name: ModuleName, started: oneshot::Receiver<u32>, ctx: &mut Context<Self>) {
        ctx.spawn(started.into_actor(self).map(move |started, this, _| {
            // Without a process the exit that follows says why.
            if let (Ok(pid), Some(module)) = (started, this.modules.get_mut(&name)) {
                module.answer_starting(&Ok(pid));
            }
        }));
    }

    /// The `config` message for a module.
    fn config_line(&self, name: &ModuleName) -> Option<Vec<u8>> {
        let module = self.modules.get(name)?;
        let spec = module.spec.as_ref()?;
        let run_dir = self.services.spawner.run_dir(spec);
        let packs = self.packs.get(name.as_str()).cloned().unwrap_or_default();
        Some(config_message::line(&self.config, &self.facts, module, spec, &run_dir, packs))
    }

    /// Orders the present life of a module to end.
    fn stop_module(&mut self, name: &ModuleName, reason: EndReason, grace: Duration) {
        if let Some(Module { phase: Phase::Living(process), stopping, .. }) = self.modules.get_mut(name) {
            *stopping = true;
            send(process, StopModule { reason, grace });
        }
    }

    fn reporter(&self, name: &ModuleName) -> Reporter {
        self.services.conditions.about(Subject::Module(name.clone()))
    }

    fn tell_life(&self, name: &ModuleName, life: Life) {
        let incarnation = self.modules.get(name).map_or(Incarnation(0), |module| module.incarnation);
        send(&self.services.registry, ModuleLifeChanged { module: name.clone(), incarnation, life });
    }

    /// Names in the order of start; what is on its way out comes last.
    fn names(&self) -> Vec<ModuleName> {
        let configured = self.config.modules.iter().map(|spec| spec.name().clone());
        configured.filter(|name| self.modules.contains_key(name)).collect()
    }
}

/// Sends an order or a fact that must not be lost.
#[expect(
    clippy::disallowed_methods,
    reason = "sent at most a few times in one life of a module or one reload"
)]
fn send<A, M>(actor: &Addr<A>, message: M)
where
    A: Actor + Handler<M>,
    A::Context: actix::dev::ToEnvelope<A, M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    actor.do_send(message);
}

impl Actor for Supervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_CAPACITY);
        self.take_specs();
        self.restore_kept();
        for name in self.names() {
            self.start_module(&name, ctx);
        }
    }
}

impl Handler<RestartModule> for Supervisor {
    type Result = ResponseFuture<Result<u32, RestartRefused>>;

    fn handle(&mut self, order: RestartModule, ctx: &mut Self::Context) -> Self::Result {
        let name = order.0;
        let refuse = |refused| -> Self::Result { Box::pin(std::future::ready(Err(refused))) };
        if self.stopping {
            return refuse(RestartRefused::AgentStopping);
        }
        let no_modules = self.config.agent.agent.nopersistmods;
        let grace = self.config.agent.agent.stop_grace;
        let Some(module) = self.modules.get_mut(&name) else { return refuse(RestartRefused::Unknown(name)) };
        match module.spec.as_ref().map(|spec| must_rest(spec, no_modules)) {
            None => return refuse(RestartRefused::Unknown(name)),
            Some(Some(Rest::Standard)) => return refuse(RestartRefused::Standard(name)),
            Some(Some(Rest::Off(reason))) => {
                return refuse(RestartRefused::NotRunnable { module: name, reason });
            }
            Some(_) => {}
        }
        info!(self.log, "operator restarts a module"; "module" => %name);
        module.history = RestartHistory::default();
        let (sender, started) = oneshot::channel();
        module.starting.push(sender);
        if module.living().is_some() {
            self.stop_module(&name, EndReason::Operator, grace);
        } else {
            self.try_anew(&name, ctx);
        }
        Box::pin(async move {
            match started.await {
                Ok(Ok(pid)) => Ok(pid),
                Ok(Err(reason)) => Err(RestartRefused::NotStarted { module: name, reason }),
                Err(_) => Err(RestartRefused::AgentStopping),
            }
        })
    }
}

#[cfg(test)]
mod tests;
