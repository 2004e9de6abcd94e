//! Keeps the configured modules running.
//!
//! Started by the agent after the journal and the registry, stopped before them. Owns the child specs and what
//! is remembered of each module's lives; a life itself is a `ModuleProcess`. Told by `ConfigLoader` what is
//! to run ([`ConfigChanged`]) and by each `ModuleProcess` that it is over ([`ModuleExited`]).
//!
//! A restart begins from the spec, never from what a life left behind, and only when that life is wholly gone:
//! there are never two copies. When is decided in [`restart`]. One for one: no module's end touches another,
//! and none ends the agent.
//!
//! ```text
//!              ┌──────────── restart due ─────────────┐
//!   start ──► Living ──► exited ──► Backoff or Failed ┘
//!                          └──────► Ended (rule), or gone (no longer configured)
//! ```

pub mod confirmation;
pub mod confirmed;
mod kept_histories;
pub mod restart;

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, MessageResult, ResponseActFuture,
    ResponseFuture, SpawnHandle, WrapFuture,
};
use serde_json::value::RawValue;
use slog::{Logger, error, info, o, warn};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use vigie_protocol::message::{ACCEPTED_EXTENSIONS, ConfigParameters, Environment, Message as WireMessage};

use self::confirmation::Confirmation;
use self::confirmed::Confirmed;
use self::restart::{RestartHistory, Verdict};
use crate::conditions::Reporter;
use crate::config_loader::ConfigChanged;
use crate::line_feed::{LineFeeds, LineWatch};
use crate::module_process::lifecycle::EndReason;
use crate::module_process::{
    Counters, GetLines, GetProcessStatus, Incarnation, KEPT_LINES, ModuleConfirmed, ModuleExited,
    ModuleProcess, ProcessStatus, Reconfigure, Services, StopModule, TakeAgentConfig, Told,
};
use crate::socket_registry::{Life, ModuleLifeChanged};
use vigie_config::difference::ModuleChange;
use vigie_config::model::{LoadedConfig, LogMode, ModuleSpec, RestartRule};
use vigie_protocol::catalogue::AgentCondition;
use vigie_protocol::condition::Subject;
use vigie_protocol::control::{InForce, ModuleConfigStatus, ModuleKind};
use vigie_protocol::control::{ModuleLine, ModuleState, ModuleStatus};
use vigie_protocol::module_name::ModuleName;

/// Messages in the mailbox before a sender waits.
const MAILBOX_CAPACITY: usize = 16;

/// Longest that `status` waits for one module's process actor, which never waits for the module.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// Bounds on the time that a module has to say what it made of a configuration: three heartbeats within these.
const MIN_CONFIRMATION_TIME: Duration = Duration::from_secs(10);
const MAX_CONFIRMATION_TIME: Duration = Duration::from_secs(60);

/// Exit code of a module that refuses its configuration: `EX_CONFIG` of sysexits.h.
const EX_CONFIG: i32 = 78;

/// Pause before a start that failed for want of descriptors, tasks or memory is tried again; doubles up to the second
/// value. There are no dice: the host lacks something for all modules alike.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);
const SHORTAGE_PAUSE_MAX: Duration = Duration::from_secs(1);

/// What modules are told about this host.
#[derive(Debug, Clone, Default)]
pub struct HostFacts {
    /// The host's name.
    pub hostname: String,
    /// What kind of host it is.
    pub environment: Environment,
}

/// Asks how all modules are, in the order of start.
#[derive(Debug, Message)]
#[rtype(result = "Vec<ModuleStatus>")]
pub struct GetModules;

/// Orders a module to end and to be started again at once, whatever its breaker says. Sent by `ControlServer`.
/// Answered with the new process.
#[derive(Debug, Message)]
#[rtype(result = "Result<u32, RestartRefused>")]
pub struct RestartModule(pub ModuleName);

/// Why a module is not restarted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestartRefused {
    /// There is no such module.
    #[error("no persistent module {0} is configured")]
    Unknown(ModuleName),
    /// It runs once per query.
    #[error("module {0} is a standard module, it runs only for a query")]
    Standard(ModuleName),
    /// It is switched off, or its configuration is invalid.
    #[error("module {module} cannot run: {reason}")]
    NotRunnable {
        /// The module.
        module: ModuleName,
        /// Why.
        reason: String,
    },
    /// The new process could not be started.
    #[error("module {module} was ended but its new process could not be started: {reason}")]
    NotStarted {
        /// The module.
        module: ModuleName,
        /// Why.
        reason: String,
    },
    /// The agent is stopping.
    #[error("the agent is stopping")]
    AgentStopping,
}

/// Asks for a module's newest lines and for the feeds of further ones.
#[derive(Debug, Message)]
#[rtype(result = "Option<ModuleLines>")]
pub struct GetModuleLines(pub ModuleName);

/// A module's lines.
#[derive(Debug)]
pub struct ModuleLines {
    /// The newest ones, oldest first.
    pub kept: VecDeque<ModuleLine>,
    /// Further log and stderr lines.
    pub logs: LineWatch,
    /// The `config` message that the present life has.
    pub config: Option<ModuleLine>,
    /// Further messages in both directions.
    pub wire: LineWatch,
}

/// Asks where what is said between the agent and a module is shown. Sent by `QueryRouter` for each query.
#[derive(Debug, Message)]
#[rtype(result = "Option<LineFeeds>")]
pub struct GetLineFeeds(pub ModuleName);

/// What a module said on the side while it answered a query: lines of a standard module's stderr, and why its answer was
/// dropped. Sent by `QueryRouter` after a query that has any; lost when the agent ends.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct QueryLeft {
    /// The module.
    pub module: ModuleName,
    /// Lines for people, oldest first.
    pub lines: Vec<ModuleLine>,
    /// Why the answer was dropped.
    pub dropped: Option<&'static str>,
}

/// Orders all modules to end, the last started first. Sent once, when the agent stops. Answered when all are
/// gone.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StopAll;

/// The actor.
pub struct Supervisor {
    log: Logger,
    services: Services,
    facts: HostFacts,
    config: Arc<LoadedConfig>,
    modules: BTreeMap<ModuleName, Module>,
    /// Counts what modules said of their configurations, for those who wait for it.
    confirmations: watch::Sender<u64>,
    stopping: bool,
}

/// What is remembered of a module over its lives.
struct Module {
    /// What is to run; `None` once it is no longer configured, until its last life is over.
    spec: Option<ModuleSpec>,
    phase: Phase,
    incarnation: Incarnation,
    history: RestartHistory,
    restarts: u64,
    /// Starts in a row that failed for want of something.
    shortages: u32,
    last_exit: Option<EndReason>,
    counters: Counters,
    lines: VecDeque<ModuleLine>,
    feeds: LineFeeds,
    /// What the module made of the newest configuration.
    confirmation: Option<Confirmation>,
    /// The newest configuration that the module confirmed, to go back to when it refuses a newer one.
    confirmed: Option<Confirmed>,
    /// The configuration that the module refused; it is not started with it again.
    refused_config: Option<Box<RawValue>>,
    /// The present life was ordered to end.
    stopping: bool,
    /// The newest configuration was sent to a living process.
    reconfigured: bool,
    /// Who is told about the next start.
    starting: Vec<oneshot::Sender<Result<u32, String>>>,
    /// Who is told when the present life is over.
    ending: Vec<oneshot::Sender<()>>,
}

enum Phase {
    /// Nothing runs, and nothing is to.
    Resting(Rest),
    /// A life is under way.
    Living(Addr<ModuleProcess>),
    /// The next start comes at a known time.
    Waiting { until: Instant, timer: SpawnHandle, failed: bool },
}

/// Why a module does not run.
#[derive(Debug, Clone)]
enum Rest {
    /// It has not been started.
    NotStarted,
    /// It runs once per query.
    Standard,
    /// It must not run.
    Off(String),
    /// It refuses its configuration, and there is none to go back to.
    Refused(String),
    /// Its rule says that it is not started again.
    Ended,
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
            confirmations: watch::Sender::new(0),
            stopping: false,
        }
    }

    /// Starts the module unless it lives, is not to run, or the agent stops.
    fn start_module(&mut self, name: &ModuleName, ctx: &mut Context<Self>) {
        if self.stopping {
            return;
        }
        let config_line = self.config_line(name);
        let Some(module) = self.modules.get_mut(name) else { return };
        if matches!(module.phase, Phase::Living(_)) {
            return;
        }
        if let Phase::Waiting { timer, .. } = &module.phase {
            ctx.cancel_future(*timer);
        }
        let Some(spec) = module.spec.clone() else { return };
        if let Some(rest) = must_rest(&spec, self.config.agent.agent.nopersistmods) {
            let reason = match &rest {
                Rest::Off(reason) => reason.clone(),
                _ => "it runs only for a query".to_owned(),
            };
            let unusable = spec.section.enabled && spec.config.usable().is_none();
            let reporter = self.services.conditions.about(Subject::Module(name.clone()));
            reporter.set(AgentCondition::ModuleFailed, unusable.then(|| reason.clone()));
            reporter.clear(AgentCondition::ModuleRestarting);
            module.phase = Phase::Resting(rest);
            module.answer_starting(&Err(reason.clone()));
            self.tell_life(name, Life::Down(reason));
            return;
        }
        module.incarnation = Incarnation(module.incarnation.0 + 1);
        if module.incarnation.0 > 1 {
            module.restarts += 1;
        }
        let incarnation = module.incarnation;
        let feeds = module.feeds.clone();
        module.reconfigured = false;
        self.await_confirmation(name, ctx);
        self.tell_life(name, Life::Living);
        let (started, told) = oneshot::channel();
        // A failed module stays so until it is known to run: see `ModuleReady`.
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
    fn config_line(&self, name: &ModuleName) -> Vec<u8> {
        let module = self.modules.get(name).and_then(|module| module.spec.as_ref());
        let agent = &self.config.agent.agent;
        let run_dir = module.map(|spec| self.services.spawner.run_dir(spec));
        let parameters = ConfigParameters {
            config: self
                .modules
                .get(name)
                .zip(module)
                .and_then(|(known, spec)| known.runnable_config(spec))
                .map(ToOwned::to_owned),
            hostname: agent.hostname.clone().unwrap_or_else(|| self.facts.hostname.clone()),
            environment: self.facts.environment.clone(),
            tags: Some(self.config.agent.tags.clone()),
            extraprivacy: agent.extraprivacymode,
            rundir: run_dir.map(|path| path.to_string_lossy().into_owned()),
            statedir: Some(
                agent.state_dir.join("modules").join(name.as_str()).to_string_lossy().into_owned(),
            ),
            ownpaths: self.own_paths(),
            generation: Some(self.config.generation),
            accepts: ACCEPTED_EXTENSIONS.map(str::to_owned).to_vec(),
        };
        WireMessage::config(&parameters).to_line()
    }

    /// What the agent writes for every alert: the journal, and the log with its rotated files.
    fn own_paths(&self) -> Vec<String> {
        let config = &self.config.agent;
        let mut paths = vec![config.agent.state_dir.to_string_lossy().into_owned()];
        if config.logging.mode == LogMode::File {
            let file = config.logging.file.to_string_lossy();
            paths.push(file.to_string());
            paths.extend((1..=config.logging.keep_files).map(|number| format!("{file}.{number}")));
        }
        paths
    }

    /// A configuration was sent: from now on the module's word about it is awaited.
    fn await_confirmation(&mut self, name: &ModuleName, ctx: &mut Context<Self>) {
        let agent = &self.config.agent.agent;
        let patience = (agent.heartbeat_interval * 3).clamp(MIN_CONFIRMATION_TIME, MAX_CONFIRMATION_TIME);
        let generation = self.config.generation;
        let Some(module) = self.modules.get_mut(name) else { return };
        module.confirmation = Some(Confirmation::sent(generation));
        let due = ConfirmationDue { module: name.clone(), incarnation: module.incarnation, generation };
        ctx.notify_later(due, patience);
    }

    /// Shows what the module made of its configuration, and wakes who waits for it.
    fn confirmation_changed(&mut self, name: &ModuleName) {
        let reporter = self.reporter(name);
        let Some(module) = self.modules.get_mut(name) else { return };
        let Some(confirmation) = &module.confirmation else { return };
        if confirmation.is_in_force() {
            let config = module.spec.as_ref().and_then(|spec| module.runnable_config(spec));
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
            let instead =
                module.confirmed.as_ref().filter(|_| module.goes_back()).map(|confirmed| &confirmed.at);
            let instead = instead.map(|at| format!("; it runs with the one that it confirmed at {at}"));
            reporter.raise(condition, problem + &instead.unwrap_or_default());
        }
        self.confirmations.send_modify(|count| *count += 1);
    }

    /// A module refused its configuration by its exit code: it goes back to the last one that it confirmed, and
    /// without one it is not started again until the configuration changes.
    fn configuration_refused(&mut self, name: &ModuleName, ctx: &mut Context<Self>) {
        let Some(module) = self.modules.get_mut(name) else { return };
        let spoken = module.lines.iter().rev().find(|line| line.source != "dropped");
        let last_words = spoken.map(|line| line.text.clone());
        let confirmation =
            module.confirmation.get_or_insert_with(|| Confirmation::sent(self.config.generation));
        confirmation.exited_with_config(last_words);
        let tried = module.spec.as_ref().and_then(|spec| module.runnable_config(spec)).map(ToOwned::to_owned);
        let first = module.refused_config.is_none();
        let problem = module.confirmation.as_ref().and_then(Confirmation::problem).unwrap_or_default();
        module.refused_config = tried;
        let goes_back = first && module.goes_back();
        self.confirmation_changed(name);
        if goes_back {
            warn!(self.log, "module refuses its configuration and goes back to the one that it confirmed"; "module" => %name,
                "error" => ?problem);
            let kept = self.modules.get(name).and_then(|module| module.confirmation.clone());
            self.start_module(name, ctx);
            // What it made of the newest configuration stays known; what runs is the one before.
            if let Some(module) = self.modules.get_mut(name) {
                module.confirmation = kept;
            }
            return;
        }
        error!(self.log, "module refuses its configuration and is not started with it again"; "module" => %name,
            "error" => ?problem);
        if let Some(module) = self.modules.get_mut(name) {
            module.phase = Phase::Resting(Rest::Refused(problem.clone()));
        }
        self.reporter(name).raise(AgentCondition::ModuleFailed, problem.clone());
        self.tell_life(name, Life::Down(problem));
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

    /// Decides what follows the end of a life.
    fn after_exit(&mut self, name: &ModuleName, exited: &ModuleExited, ctx: &mut Context<Self>) {
        let Some(module) = self.modules.get_mut(name) else { return };
        let Some(spec) = &module.spec else {
            self.forget_removed(ctx);
            return;
        };
        if exited.reason == EndReason::Exited(EX_CONFIG) {
            self.configuration_refused(name, ctx);
            return;
        }
        if exited.reason.is_ordered() {
            self.start_module(name, ctx);
            return;
        }
        if matches!(exited.reason, EndReason::Shortage(_)) {
            self.wait_for_resources(name, exited, ctx);
            return;
        }
        module.shortages = 0;
        let rule = spec.section.restart;
        let stays_down = match rule {
            RestartRule::Permanent => false,
            RestartRule::Transient => exited.reason == EndReason::Exited(0),
            RestartRule::Temporary => true,
        };
        if stays_down {
            module.phase = Phase::Resting(Rest::Ended);
            info!(self.log, "module is not started again"; "module" => %name, "reason" => %exited.reason);
            self.tell_life(
                name,
                Life::Down(format!("ended with {} and is not started again", exited.reason)),
            );
            return;
        }
        let policy = self.config.agent.restart;
        let verdict = module.history.died(&policy, Instant::now(), exited.lifetime, jitter());
        self.keep_histories();
        let Some(module) = self.modules.get_mut(name) else { return };
        let (delay, failed) = match verdict {
            Verdict::Restart { after } => (after, false),
            Verdict::Failed { retry_after } => (retry_after, true),
        };
        if failed {
            error!(self.log, "module fails again and again, it is tried only now and then"; "module" => %name,
                "reason" => %exited.reason, "backoff_ms" => delay.as_millis());
        } else {
            warn!(self.log, "module ended unexpectedly, it is started again"; "module" => %name,
                "reason" => %exited.reason, "backoff_ms" => delay.as_millis());
        }
        let (stands, ends) = match failed {
            true => (AgentCondition::ModuleFailed, AgentCondition::ModuleRestarting),
            false => (AgentCondition::ModuleRestarting, AgentCondition::ModuleFailed),
        };
        let reporter = self.services.conditions.about(Subject::Module(name.clone()));
        reporter.raise(stands, exited.reason.to_string());
        reporter.clear(ends);
        let due = RestartDue { module: name.clone(), incarnation: exited.incarnation };
        let timer = ctx.notify_later(due, delay);
        module.phase = Phase::Waiting { until: Instant::now() + delay, timer, failed };
        let life = if failed {
            format!("failed (last: {}), the next attempt is in {delay:?}", exited.reason)
        } else {
            format!("waits to be started again after {}", exited.reason)
        };
        self.tell_life(name, Life::Down(life));
    }

    /// Has a start that failed for want of something tried again soon. It is no death of the module.
    fn wait_for_resources(&mut self, name: &ModuleName, exited: &ModuleExited, ctx: &mut Context<Self>) {
        let Some(module) = self.modules.get_mut(name) else { return };
        if module.shortages == 0 {
            error!(self.log, "no module can be started at present, it is tried again every second";
                "module" => %name, "reason" => %exited.reason);
        }
        let delay = SHORTAGE_PAUSE.saturating_mul(1 << module.shortages.min(4)).min(SHORTAGE_PAUSE_MAX);
        module.shortages = module.shortages.saturating_add(1);
        let due = RestartDue { module: name.clone(), incarnation: exited.incarnation };
        let timer = ctx.notify_later(due, delay);
        module.phase = Phase::Waiting { until: Instant::now() + delay, timer, failed: false };
        self.tell_life(name, Life::Down(format!("cannot be started at present: {}", exited.reason)));
    }

    /// Keeps the restart histories for the next agent.
    fn keep_histories(&self) {
        let histories = self.modules.iter().map(|(name, module)| (name, &module.history));
        kept_histories::store(&self.config.agent.agent.state_dir, histories);
    }

    /// Takes over what the agent before this one knew of the modules.
    fn restore_kept(&mut self) {
        let state_dir = &self.config.agent.agent.state_dir;
        let is_wanted = |name: &ModuleName| self.modules.get(name).is_some_and(Module::is_wanted);
        let kept = confirmed::load(state_dir, is_wanted, &self.log);
        for (name, confirmed) in kept {
            if let Some(module) = self.modules.get_mut(&name) {
                module.confirmed = Some(confirmed);
            }
        }
        let most = self.config.agent.restart.breaker_deaths as usize;
        let kept = kept_histories::load(&self.config.agent.agent.state_dir, most);
        for (name, history) in kept {
            if let Some(module) = self.modules.get_mut(&name) {
                module.history = history;
            }
        }
    }

    /// Takes over the specs of the configuration, without touching any process.
    fn take_specs(&mut self) {
        for module in self.modules.values_mut() {
            module.spec = None;
        }
        for spec in &self.config.modules {
            let module = self.modules.entry(spec.name().clone()).or_insert_with(Module::new);
            module.spec = Some(spec.clone());
            let problem = spec.config.problem().map(ToString::to_string);
            let reporter = self.services.conditions.about(Subject::Module(spec.name().clone()));
            reporter.set(AgentCondition::ModuleConfigurationInvalid, problem);
        }
        for (name, module) in &mut self.modules {
            // Whoever switches a module off or takes it away does not want its old configuration back.
            if !module.is_wanted() && module.confirmed.take().is_some() {
                confirmed::store(&self.config.agent.agent.state_dir, name, None, &self.log);
            }
        }
    }

    fn apply_change(&mut self, change: &ModuleChange, ctx: &mut Context<Self>) {
        let name = change.module();
        let grace = self.config.agent.agent.stop_grace;
        self.reporter(name).clear(AgentCondition::ModuleConfigurationRefused);
        let Some(module) = self.modules.get_mut(name) else { return };
        module.refused_config = None;
        let Phase::Living(process) = &module.phase else {
            // A changed module has not failed yet.
            module.history = RestartHistory::default();
            self.start_module(name, ctx);
            return;
        };
        match change {
            // Removed and added again while its last life still ends: the exit starts it.
            ModuleChange::Start { .. } => {}
            ModuleChange::Stop { .. } => self.stop_module(name, EndReason::Removed, grace),
            ModuleChange::Restart { .. } => {
                module.history = RestartHistory::default();
                self.stop_module(name, EndReason::ConfigChanged, grace);
            }
            ModuleChange::Reconfigure { .. } => {
                module.history = RestartHistory::default();
                let process = process.clone();
                let name = name.clone();
                let config_line = self.config_line(&name);
                send(&process, Reconfigure { config_line });
                self.await_confirmation(&name, ctx);
                if let Some(module) = self.modules.get_mut(&name) {
                    module.reconfigured = true;
                }
            }
        }
    }

    /// Forgets modules that are no longer configured and of which nothing lives.
    fn forget_removed(&mut self, ctx: &mut Context<Self>) {
        let removed = |module: &Module| module.spec.is_none() && !matches!(module.phase, Phase::Living(_));
        let names: Vec<_> =
            self.modules.iter().filter(|(_, module)| removed(module)).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.tell_life(&name, Life::Removed);
            self.reporter(&name).forget();
            if let Some(Module { phase: Phase::Waiting { timer, .. }, .. }) = self.modules.remove(&name) {
                ctx.cancel_future(timer);
            }
        }
    }

    /// The modules' status, with what the living ones say of themselves.
    fn status_of(&self, name: &ModuleName, living: Option<ProcessStatus>) -> Option<ModuleStatus> {
        let module = self.modules.get(name)?;
        let section = &module.spec.as_ref()?.section;
        let mut counters = module.counters.clone();
        if let Some(living) = &living {
            counters.add(&living.counters);
        }
        let (state, reason) = match (&module.phase, &living) {
            (Phase::Living(_), Some(living)) => (living.state, living.reason.clone()),
            (Phase::Living(_), None) => (ModuleState::Stopping, None),
            (Phase::Waiting { failed: true, .. }, _) => {
                (ModuleState::Failed, Some("died too often".to_owned()))
            }
            (Phase::Waiting { failed: false, .. }, _) => (ModuleState::Backoff, None),
            (Phase::Resting(Rest::Ended), _) => (ModuleState::Ended, None),
            (Phase::Resting(Rest::Off(why)), _) => {
                let invalid = module.spec.as_ref().is_some_and(|spec| spec.config.usable().is_none());
                (if invalid { ModuleState::Failed } else { ModuleState::Idle }, Some(why.clone()))
            }
            (Phase::Resting(Rest::Refused(why)), _) => (ModuleState::Failed, Some(why.clone())),
            (Phase::Resting(Rest::NotStarted | Rest::Standard), _) => (ModuleState::Idle, None),
        };
        let problem = module.spec.as_ref().and_then(|spec| spec.config.problem());
        let restart_in = match module.phase {
            Phase::Waiting { until, .. } => Some(until.saturating_duration_since(Instant::now())),
            _ => None,
        };
        Some(ModuleStatus {
            name: name.clone(),
            kind: section.kind,
            state,
            reason: reason
                .or_else(|| problem.map(|problem| format!("keeps its last good configuration: {problem}"))),
            pid: living.as_ref().and_then(|living| living.pid),
            incarnation: module.incarnation.0,
            uptime_secs: living.as_ref().map(|living| living.uptime.as_secs()),
            restarts: module.restarts,
            last_exit: module.last_exit.as_ref().map(ToString::to_string),
            restart_in_ms: restart_in.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)),
            configuration: module.confirmation.as_ref().map(|confirmation| confirmation.status(name)),
            socket: living.as_ref().and_then(|living| living.socket.as_ref()).map(ToString::to_string),
            heartbeat_at: living.as_ref().and_then(|living| living.heartbeat_at).map(|at| at.to_string()),
            resources: None,
            values: living.as_ref().map(|living| living.values.clone()).unwrap_or_default(),
            heartbeat_us: living
                .and_then(|living| living.heartbeat)
                .map(|round_trip| u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX)),
            logs: counters.logs,
            alerts: counters.alerts,
            dropped: counters.dropped.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
        })
    }

    /// Names in the order of start; what is on its way out comes last.
    fn names(&self) -> Vec<ModuleName> {
        let configured = self.config.modules.iter().map(|spec| spec.name().clone());
        configured.filter(|name| self.modules.contains_key(name)).collect()
    }
}

impl Module {
    fn new() -> Self {
        Self {
            spec: None,
            phase: Phase::Resting(Rest::NotStarted),
            incarnation: Incarnation(0),
            history: RestartHistory::default(),
            restarts: 0,
            shortages: 0,
            last_exit: None,
            counters: Counters::default(),
            lines: VecDeque::new(),
            feeds: LineFeeds::default(),
            confirmation: None,
            confirmed: None,
            refused_config: None,
            stopping: false,
            reconfigured: false,
            starting: Vec::new(),
            ending: Vec::new(),
        }
    }

    /// The configuration to start it with: the newest one, unless it refused that and has one to go back to.
    fn runnable_config<'a>(&'a self, spec: &'a ModuleSpec) -> Option<&'a RawValue> {
        let newest = spec.config.usable()?;
        let refused = self.refused_config.as_ref().is_some_and(|refused| refused.get() == newest.get());
        match (&self.confirmed, refused) {
            (Some(before), true) => Some(&before.config),
            _ => Some(newest),
        }
    }

    fn is_wanted(&self) -> bool {
        self.spec.as_ref().is_some_and(|spec| spec.section.enabled)
    }

    fn has_confirmed(&self, config: &RawValue) -> bool {
        self.confirmed.as_ref().is_some_and(|confirmed| confirmed.config.get() == config.get())
    }

    /// Whether it refused its configuration and has confirmed another one.
    fn goes_back(&self) -> bool {
        self.confirmed.is_some()
            && self.refused_config.as_ref().is_some_and(|refused| !self.has_confirmed(refused))
    }

    fn answer_starting(&mut self, answer: &Result<u32, String>) {
        for waiting in self.starting.drain(..) {
            waiting.send(answer.clone()).ok();
        }
    }
}

/// Lines of stderr that explain why a module could not be started: the launcher says why and what to do.
const LAST_WORDS: usize = 3;

/// Why a life ended before it had begun, with what the launcher or the module said last.
fn why_not_started(exited: &ModuleExited) -> String {
    if let EndReason::SpawnFailed(why) | EndReason::Shortage(why) = &exited.reason {
        return why.clone();
    }
    let said = exited.lines.iter().filter(|line| line.source == "stderr").map(|line| line.text.trim());
    let said: Vec<_> = said.collect();
    let last = &said[said.len().saturating_sub(LAST_WORDS)..];
    if last.is_empty() {
        exited.reason.to_string()
    } else {
        format!("{}: {}", exited.reason, last.join("; "))
    }
}

/// Why a module is not to be started at all.
fn must_rest(spec: &ModuleSpec, no_persistent_modules: bool) -> Option<Rest> {
    if spec.section.kind == ModuleKind::Standard {
        return Some(Rest::Standard);
    }
    if !spec.section.enabled {
        return Some(Rest::Off("switched off in the configuration".to_owned()));
    }
    if no_persistent_modules {
        return Some(Rest::Off("agent.nopersistmods is on".to_owned()));
    }
    match spec.config.usable() {
        Some(_) => None,
        None => {
            let problem = spec.config.problem().map(ToString::to_string).unwrap_or_default();
            Some(Rest::Off(format!("its configuration is invalid: {problem}")))
        }
    }
}

/// A number drawn evenly from 0 to 1. The standard library's hasher keys are random; for spreading restarts
/// that is random enough, and saves a dependency.
fn jitter() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 11;
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    let fraction = bits as f64 / (1u64 << 53) as f64;
    fraction
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

impl Handler<ConfigChanged> for Supervisor {
    type Result = ();

    fn handle(&mut self, change: ConfigChanged, ctx: &mut Self::Context) {
        self.config = change.config.clone();
        self.take_specs();
        for module in self.modules.values() {
            if let Phase::Living(process) = &module.phase {
                send(process, TakeAgentConfig(self.config.agent.clone()));
            }
        }
        for change in &change.difference.changes {
            info!(self.log, "configuration of a module changed"; "module" => %change.module(),
                "change" => %change);
            self.apply_change(change, ctx);
        }
        self.forget_removed(ctx);
    }
}

/// A module's delay is over. Sent by this actor to itself, once per death.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct RestartDue {
    module: ModuleName,
    /// The life that ended; when another one has begun meanwhile, this is stale.
    incarnation: Incarnation,
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
        module.lines.extend(exited.lines.iter().cloned());
        let surplus = module.lines.len().saturating_sub(KEPT_LINES);
        module.lines.drain(..surplus);
        for waiting in module.ending.drain(..) {
            waiting.send(()).ok();
        }
        if !exited.reason.is_ordered() {
            module.answer_starting(&Err(why_not_started(&exited)));
        }
        if self.stopping {
            return;
        }
        self.after_exit(&name, &exited, ctx);
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
}

impl Handler<ConfirmationDue> for Supervisor {
    type Result = ();

    fn handle(&mut self, due: ConfirmationDue, _: &mut Self::Context) {
        let Some(module) = self.modules.get_mut(&due.module) else { return };
        let Some(confirmation) =
            module.confirmation.as_mut().filter(|_| module.incarnation == due.incarnation)
        else {
            return;
        };
        if !confirmation.overdue(due.generation) {
            return;
        }
        self.confirmation_changed(&due.module);
        // A module that was started with the configuration is left alone; one that got it on the way is started anew,
        // because nobody knows which one it has.
        let sent_on_the_way = self.modules.get(&due.module).is_some_and(|module| module.reconfigured);
        if sent_on_the_way {
            warn!(self.log, "module said nothing about its new configuration, it is started anew";
                "module" => %due.module);
            self.stop_module(&due.module, EndReason::ConfigChanged, self.config.agent.agent.stop_grace);
        }
    }
}

/// Asks what the modules made of the newest configuration. Sent by `ConfigLoader` after each change; answered when every
/// module that runs has said so, or its time is over.
#[derive(Debug, Message)]
#[rtype(result = "Vec<ModuleConfigStatus>")]
pub struct AwaitConfirmations;

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
            let restarting = matches!(module.phase, Phase::Living(_)) && module.stopping;
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
        let agent = &self.config.agent.agent;
        let patience = (agent.heartbeat_interval * 3).clamp(MIN_CONFIRMATION_TIME, MAX_CONFIRMATION_TIME);
        // A module may have to end first.
        let deadline = Instant::now() + patience + agent.stop_grace + Duration::from_secs(1);
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
        if matches!(module.phase, Phase::Living(_)) {
            self.stop_module(&name, EndReason::Operator, grace);
        } else {
            self.start_module(&name, ctx);
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

impl Handler<GetModules> for Supervisor {
    type Result = ResponseActFuture<Self, Vec<ModuleStatus>>;

    fn handle(&mut self, _: GetModules, _: &mut Self::Context) -> Self::Result {
        let names = self.names();
        let questions: Vec<_> = names
            .iter()
            .map(|name| match self.modules.get(name).map(|module| &module.phase) {
                Some(Phase::Living(process)) => {
                    let process = process.clone();
                    let question: std::pin::Pin<Box<dyn Future<Output = _>>> =
                        Box::pin(
                            async move { process.send(GetProcessStatus).timeout(STATUS_TIMEOUT).await.ok() },
                        );
                    question
                }
                _ => Box::pin(std::future::ready(None)),
            })
            .collect();
        let asking = futures_util::future::join_all(questions);
        Box::pin(asking.into_actor(self).map(move |answers, this, _| {
            names.iter().zip(answers).filter_map(|(name, living)| this.status_of(name, living)).collect()
        }))
    }
}

impl Handler<GetModuleLines> for Supervisor {
    type Result = ResponseFuture<Option<ModuleLines>>;

    fn handle(&mut self, question: GetModuleLines, _: &mut Self::Context) -> Self::Result {
        let Some(module) = self.modules.get(&question.0) else { return Box::pin(std::future::ready(None)) };
        let (mut kept, mut config) = (module.lines.clone(), None);
        // Subscribed before the living process is asked: a line can come twice but none is missed.
        let (logs, wire) = (module.feeds.logs.subscribe(), module.feeds.wire.subscribe());
        let living = match &module.phase {
            Phase::Living(process) => Some(process.clone()),
            _ => None,
        };
        Box::pin(async move {
            if let Some(process) = living
                && let Ok((lines, sent)) = process.send(GetLines).timeout(STATUS_TIMEOUT).await
            {
                config = sent;
                kept.extend(lines);
                let surplus = kept.len().saturating_sub(KEPT_LINES);
                kept.drain(..surplus);
            }
            Some(ModuleLines { kept, logs, config, wire })
        })
    }
}

impl Handler<GetLineFeeds> for Supervisor {
    type Result = MessageResult<GetLineFeeds>;

    fn handle(&mut self, question: GetLineFeeds, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.modules.get(&question.0).map(|module| module.feeds.clone()))
    }
}

impl Handler<QueryLeft> for Supervisor {
    type Result = ();

    fn handle(&mut self, left: QueryLeft, _: &mut Self::Context) {
        let Some(module) = self.modules.get_mut(&left.module) else { return };
        if let Some(reason) = left.dropped {
            *module.counters.dropped.entry(reason).or_default() += 1;
        }
        for line in left.lines {
            module.feeds.logs.send(|| line.clone());
            module.lines.push_back(line);
        }
        let surplus = module.lines.len().saturating_sub(KEPT_LINES);
        module.lines.drain(..surplus);
    }
}

/// One module after the other is told to end; private to the stop of the agent.
#[derive(Debug, Message)]
#[rtype(result = "Option<StoppingModule>")]
struct StopOne {
    module: ModuleName,
    grace: Duration,
}

/// A module that was told to end.
#[derive(Debug)]
struct StoppingModule(oneshot::Receiver<()>);

impl Handler<StopOne> for Supervisor {
    type Result = MessageResult<StopOne>;

    fn handle(&mut self, order: StopOne, _: &mut Self::Context) -> Self::Result {
        let Some(module) = self.modules.get_mut(&order.module) else { return MessageResult(None) };
        if !matches!(module.phase, Phase::Living(_)) {
            return MessageResult(None);
        }
        let (sender, ended) = oneshot::channel();
        module.ending.push(sender);
        self.stop_module(&order.module, EndReason::AgentStopping, order.grace);
        MessageResult(Some(StoppingModule(ended)))
    }
}

impl Handler<StopAll> for Supervisor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: StopAll, ctx: &mut Self::Context) -> Self::Result {
        self.stopping = true;
        for module in self.modules.values_mut() {
            if let Phase::Waiting { timer, .. } = module.phase {
                ctx.cancel_future(timer);
                module.phase = Phase::Resting(Rest::NotStarted);
            }
            module.starting.clear();
        }
        let mut order: Vec<ModuleName> = self.names();
        let leaving: Vec<_> = self.modules.keys().filter(|name| !order.contains(name)).cloned().collect();
        order.extend(leaving);
        order.reverse();
        let agent = &self.config.agent.agent;
        let (grace, deadline) = (agent.stop_grace, Instant::now() + agent.stop_budget);
        let me = ctx.address();
        Box::pin(async move {
            let count = order.len();
            for (index, module) in order.into_iter().enumerate() {
                // Every module gets its share of what is left of the budget, so that one that does not listen
                // does not use up the time of those that do.
                let left = deadline.saturating_duration_since(Instant::now());
                let share = left / u32::try_from(count - index).unwrap_or(u32::MAX);
                let stop = StopOne { module, grace: grace.min(share) };
                if let Ok(Some(StoppingModule(ended))) = me.send(stop).await {
                    // A process in uninterruptible sleep may not end at all; the rest must.
                    tokio::time::timeout(share + Duration::from_millis(500), ended).await.ok();
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, FakeChild, FakeSpawner, PausedSystem};
    use std::rc::Rc;
    use tokio::sync::mpsc::UnboundedReceiver;

    struct House {
        supervisor: Addr<Supervisor>,
        spawner: Rc<FakeSpawner>,
        children: UnboundedReceiver<FakeChild>,
        _directory: tempfile::TempDir,
    }

    fn house(names: &[&str]) -> House {
        let directory = tempfile::tempdir().unwrap();
        let modules = names.iter().map(|name| testing::module(name)).collect();
        let config = testing::config(directory.path(), modules);
        let (services, spawner, children) = testing::services(&config);
        let supervisor = Supervisor::new(services, HostFacts::default(), config).start();
        House { supervisor, spawner, children, _directory: directory }
    }

    impl House {
        async fn child(&mut self) -> FakeChild {
            self.children.recv().await.unwrap()
        }

        async fn status(&self) -> ModuleStatus {
            self.supervisor.send(GetModules).await.unwrap().remove(0)
        }

        /// Waits until the first module is in this state.
        async fn wait_for(&self, state: ModuleState) -> ModuleStatus {
            loop {
                let status = self.status().await;
                if status.state == state {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    #[actix_rt::test(system = "PausedSystem")]
    async fn a_module_gets_its_configuration_first_and_runs_when_it_answers() {
        let mut house = house(&["watch"]);
        let mut child = house.child().await;

        let first = child.read().await.unwrap();
        assert_eq!(house.status().await.state, ModuleState::Starting);
        child.pong().await;
        let status = house.wait_for(ModuleState::Running).await;

        assert!(
            first.starts_with(r#"{"class":"config","parameters":{"config":{},"hostname":"host""#),
            "{first}"
        );
        assert_eq!(status.incarnation, 1);
    }

    #[actix_rt::test(system = "PausedSystem")]
    async fn a_module_that_falls_silent_is_degraded_ended_and_started_again() {
        let mut house = house(&["watch"]);
        let mut child = house.child().await;
        child.pong().await;
        house.wait_for(ModuleState::Running).await;
        let silent_since = Instant::now();

        let degraded = house.wait_for(ModuleState::Degraded).await;
        let degraded_after = silent_since.elapsed();
        let second = house.child().await;

        assert_eq!(degraded.reason.as_deref(), Some("missed 1 heartbeats in a row"));
        // The beat after the answered one is missed when the next one is due.
        assert_eq!(degraded_after.as_secs(), 20);
        assert_eq!(silent_since.elapsed().as_secs(), 40);
        assert_eq!(child.signals(), ["terminate"]);
        assert_eq!(second.incarnation, Incarnation(2));
        assert_eq!(house.status().await.last_exit.as_deref(), Some("heartbeat_lost"));
    }

    #[actix_rt::test(system = "PausedSystem")]
    async fn no_second_copy_starts_while_the_first_one_lives() {
        let mut house = house(&["watch"]);
        let child = house.child().await;
        child.ignore_sigterm();

        let second = house.child().await;

        assert_eq!(child.signals(), ["terminate", "kill"]);
        assert_eq!(house.spawner.most_alive.get(), 1);
        assert_eq!(house.status().await.last_exit.as_deref(), Some("start_timeout"));
        drop(second);
    }

    #[actix_rt::test(system = "PausedSystem")]
    async fn a_crash_loop_opens_the_breaker_and_is_tried_every_ten_minutes() {
        let mut house = house(&["watch"]);
        let begun = Instant::now();
        for _ in 0..5 {
            house.child().await.exit(EndReason::Exited(1));
        }
        let failed = house.wait_for(ModuleState::Failed).await;
        assert!(begun.elapsed() < Duration::from_secs(4));

        let half_open = house.child().await;

        assert_eq!(failed.restarts, 4);
        assert!(begun.elapsed() >= Duration::from_secs(600));
        drop(half_open);
    }

    #[actix_rt::test(system = "PausedSystem")]
    async fn an_operator_restarts_a_failed_module_at_once() {
        let mut house = house(&["watch"]);
        for _ in 0..5 {
            house.child().await.exit(EndReason::Exited(1));
        }
        house.wait_for(ModuleState::Failed).await;
        let asked = Instant::now();

        let pid = house.supervisor.send(RestartModule("watch".parse().unwrap())).await.unwrap();

        assert!(pid.is_ok());
        assert!(asked.elapsed() <= Duration::from_secs(1), "{:?}", asked.elapsed());
    }

    #[actix_rt::test(system = "PausedSystem")]
    async fn what_is_said_of_an_earlier_life_changes_nothing() {
        let mut house = house(&["watch"]);
        house.child().await.exit(EndReason::Exited(1));
        let mut child = house.child().await;
        child.pong().await;
        let before = house.wait_for(ModuleState::Running).await;
        let (module, incarnation): (ModuleName, _) = ("watch".parse().unwrap(), Incarnation(1));

        let exited = ModuleExited {
            module: module.clone(),
            incarnation,
            reason: EndReason::Exited(9),
            lifetime: Duration::ZERO,
            counters: crate::module_process::Counters::default(),
            lines: std::collections::VecDeque::new(),
        };
        house.supervisor.send(exited).await.unwrap();
        house.supervisor.send(RestartDue { module, incarnation }).await.unwrap();

        let after = house.status().await;
        assert_eq!((before.incarnation, after.incarnation), (2, 2));
        assert_eq!((after.state, after.last_exit), (ModuleState::Running, before.last_exit));
        assert_eq!(house.spawner.most_alive.get(), 1);
    }

    #[actix_rt::test(system = "PausedSystem")]
    async fn all_modules_end_in_the_reverse_order_within_the_budget() {
        let mut house = house(&["first", "second", "third"]);
        let children = [house.child().await, house.child().await, house.child().await];
        let names: Vec<_> = children.iter().map(|child| child.name.as_str()).collect();
        assert_eq!(names, ["first", "second", "third"]);
        for child in &children {
            child.ignore_sigterm();
        }
        let begun = Instant::now();

        let stopping = actix_rt::spawn(house.supervisor.send(StopAll));
        while children[2].signals() != ["terminate", "kill"] {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(children[0].signals().is_empty() && children[1].signals().is_empty());
        stopping.await.unwrap().unwrap();

        assert!(children.iter().all(|child| child.signals() == ["terminate", "kill"]));
        assert!(begun.elapsed() <= Duration::from_secs(11), "{:?}", begun.elapsed());
    }

    #[actix_rt::test(system = "PausedSystem")]
    async fn a_flood_of_echoes_with_wrong_numbers_does_not_keep_a_module_alive() {
        let mut house = house(&["watch"]);
        let mut child = house.child().await;
        let flood = async {
            loop {
                child.say(r#"{"class":"ping","parameters":{"nonce":77}}"#).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };

        let second = tokio::select! {
            second = house.child() => second,
            () = flood => unreachable!(),
        };

        assert_eq!(second.incarnation, Incarnation(2));
        assert!(house.status().await.dropped["wrong_nonce"] > 10);
    }

    #[actix_rt::test(system = "PausedSystem")]
    async fn bad_lines_are_counted_and_the_next_good_one_is_read() {
        let mut house = house(&["watch"]);
        let mut child = house.child().await;
        for line in
            ["garbage", "", r#"{"class":"nonsense"}"#, r#"{"class":"log","parameters":{"message":5}}"#]
        {
            child.say(line).await;
        }
        child.say(r#"{"class":"log","parameters":{"message":"good"}}"#).await;
        child.pong().await;

        let status = house.wait_for(ModuleState::Running).await;

        assert_eq!(status.logs, 1);
        let dropped: Vec<_> =
            status.dropped.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
        assert_eq!(dropped, [("bad_parameters", 1), ("not_message", 2), ("unexpected_class", 1)]);
    }

    #[actix_rt::test(system = "PausedSystem")]
    async fn an_alert_is_acknowledged_when_it_is_on_disk_and_once_only_recorded() {
        let mut house = house(&["watch"]);
        let mut child = house.child().await;
        child.say(r#"{"class":"register","parameters":{"sockpath":"","capabilities":["alert-ack"]}}"#).await;
        let alert = r#"{"class":"alert","parameters":{"message":"m","id":"e-1"}}"#;
        child.say(alert).await;
        child.say(alert).await;

        let mut acks = 0;
        while acks < 2 {
            let line = child.read().await.unwrap();
            if line.contains("\"ack\"") {
                assert_eq!(line, r#"{"class":"ack","parameters":{"id":"e-1"}}"#);
                acks += 1;
            }
        }

        assert_eq!(house.status().await.alerts, 2);
    }
}
