//! One living module: its process, its pipes and its heartbeat.
//!
//! Started by `Supervisor`, one per life of a module; ends with the process and reports why
//! ([`ModuleExited`]); whether there is a next life is the Supervisor's business. What happens when is decided
//! in [`lifecycle`]; this actor carries it out.
//!
//! ```text
//!              stdin queue (64 lines or batches)
//!   ModuleProcess ──────────► writer task ──► stdin ┐
//!        ▲  ChildSaid, one at a time                │ child
//!        └──────── output pump ◄──────────── stdout ┤
//!                   │   │                           │
//!    StoreAlerts ◄──┘   └──► agent's log ◄── stderr ┘
//! ```
//!
//! The output pump ([`pump`]) reads a batch of lines, has alerts stored and log lines written, tells this actor
//! what else was said, and only then reads on. So a module that writes faster than the disk takes it is slowed
//! by its own pipe, in bounded memory, and nobody else notices. The end of stdout is not the end of the
//! process, and the other way round: either may come first, and a grandchild can keep the pipe open for ever.
//! The life ends when the process is reaped, its leftovers are gone and the pipe is read empty.

mod dispatch;
pub mod lifecycle;
pub mod log_budget;
pub mod pump;

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, MessageResult,
    Recipient, SpawnHandle, WrapFuture,
};
use slog::{Logger, debug, info, o, warn};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use vigie_protocol::message::{ConfiguredParameters, Message as WireMessage, capability};
use vigie_protocol::socket::SocketSpec;

use self::lifecycle::{Effect, EndReason, Event, Lifecycle, Stage, State};
use self::log_budget::LogBudget;
use self::pump::{ChildSaid, PumpBounds, Registration};
use crate::alert_journal::{AlertJournal, GetJournalView};
use crate::child::{ChildControl, ChildPipes, SpawnError, Spawner};
use crate::conditions::Reporter;
use crate::containment::Group;
use crate::line_feed::{self, LineFeeds};
use crate::socket_policy::{self, SocketRules};
use crate::socket_registry::{Life, ModuleLifeChanged, RegisterSocket, RegisteredSocket, SocketRegistry};
use vigie_config::model::{AgentConfig, ModuleSpec};
use vigie_log::AgentLog;
use vigie_protocol::catalogue::AgentCondition;
use vigie_protocol::condition::Subject;
use vigie_protocol::control::{LineFate, ModuleLine, ModuleState};
use vigie_protocol::error_chain::ErrorChain;
use vigie_protocol::module_name::ModuleName;

/// Messages in the mailbox before a sender waits.
const MAILBOX_CAPACITY: usize = 16;

/// Batches of lines that wait for a module to read its stdin: a heartbeat or the acknowledgements of one batch
/// of alerts each. When it is full the module is read no further.
const STDIN_QUEUE: usize = 64;

/// A module that lives so long counts as started although it has not answered a heartbeat yet.
const START_GRACE: Duration = Duration::from_secs(1);

/// Newest lines that are kept for `vigie module logs`.
pub(crate) const KEPT_LINES: usize = 100;

/// Time that the pipes of a process that is gone are read on while a grandchild holds them open.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Which life of a module; each start is a new one. What an old life still says is told apart by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Incarnation(pub u64);

/// Sent once to the `Supervisor` when a life is over and nothing of it is left. Never lost: the Supervisor
/// outlives its modules.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ModuleExited {
    /// The module.
    pub module: ModuleName,
    /// Which life.
    pub incarnation: Incarnation,
    /// Why it ended.
    pub reason: EndReason,
    /// How long it lasted.
    pub lifetime: Duration,
    /// What it said.
    pub counters: Counters,
    /// Its newest lines.
    pub lines: VecDeque<ModuleLine>,
}

/// What a module said, by number of messages.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// Log messages.
    pub logs: u64,
    /// Alerts.
    pub alerts: u64,
    /// Lines that were not carried, by reason.
    pub dropped: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// Adds what another life, or a batch, said.
    pub fn add(&mut self, other: &Self) {
        self.logs += other.logs;
        self.alerts += other.alerts;
        for (reason, count) in &other.dropped {
            *self.dropped.entry(reason).or_default() += count;
        }
    }
}

/// Sent to the `Supervisor` when a module answered its first heartbeat, once in a life, or said what became of a
/// configuration.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ModuleConfirmed {
    /// The module.
    pub module: ModuleName,
    /// Which life.
    pub incarnation: Incarnation,
    /// The module says of every configuration whether it took it.
    pub confirms: bool,
    /// What it said; nothing when it answered its first heartbeat.
    pub said: Option<ConfiguredParameters>,
}

/// Changes what of the agent's own configuration concerns a living module: heartbeat, limits, budgets. Sent by the
/// `Supervisor` at every reload.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct TakeAgentConfig(pub AgentConfig);

/// Orders the module to end. Sent by `Supervisor`; a second one is ignored.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StopModule {
    /// Why.
    pub reason: EndReason,
    /// Time between asking and killing.
    pub grace: Duration,
}

/// Gives the module a new configuration. A module that cannot take one while it runs is ended, for the
/// `Supervisor` to start it again with the new one.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Reconfigure {
    /// The `config` message as a line.
    pub config_line: Vec<u8>,
}

/// Asks how the module is.
#[derive(Debug, Message)]
#[rtype(result = "ProcessStatus")]
pub struct GetProcessStatus;

/// How a living module is.
#[derive(Debug, Clone)]
pub struct ProcessStatus {
    /// What it does.
    pub state: ModuleState,
    /// Why it is not plainly running.
    pub reason: Option<String>,
    /// Its process.
    pub pid: Option<u32>,
    /// How long it has lived.
    pub uptime: Duration,
    /// Where it answers queries.
    pub socket: Option<SocketSpec>,
    /// Round trip of the newest heartbeat.
    pub heartbeat: Option<Duration>,
    /// When it was answered.
    pub heartbeat_at: Option<jiff::Timestamp>,
    /// What it said in this life.
    pub counters: Counters,
    /// Numbers that it shows of itself.
    pub values: BTreeMap<String, u64>,
}

/// Asks for the newest lines that the module logged or wrote to stderr, and for the `config` that it has.
#[derive(Debug, Message)]
#[rtype(result = "(VecDeque<ModuleLine>, Option<ModuleLine>)")]
pub struct GetLines;

/// What a `ModuleProcess` works with.
#[derive(Clone)]
pub struct Services {
    /// Root logger.
    pub log: Logger,
    /// The agent's log, for the module's own lines.
    pub agent_log: AgentLog,
    /// Where alerts go.
    pub journal: Addr<AlertJournal>,
    /// Where sockets are registered.
    pub registry: Addr<SocketRegistry>,
    /// How processes are started.
    pub spawner: Rc<dyn Spawner>,
    /// Where conditions are reported.
    pub conditions: Reporter,
}

/// Who is told about a life.
pub struct Told {
    /// When it is over.
    pub exited: Recipient<ModuleExited>,
    /// When it is ready, and what the module made of its configuration.
    pub confirmed: Recipient<ModuleConfirmed>,
    /// The process, when the module answers or has lived for a second.
    pub started: oneshot::Sender<u32>,
}

/// What the pump and the writer are doing, for the heartbeat to tell a deaf module from a slow disk. Shared
/// between this actor and its own tasks, on one thread.
#[derive(Debug, Default)]
pub(crate) struct PipeGauge {
    /// Since when the pump has been waiting for the journal or the log.
    pub(crate) not_reading_since: Cell<Option<Instant>>,
    /// Since when a write to stdin has been waiting.
    pub(crate) writing_since: Cell<Option<Instant>>,
}

/// The actor.
pub(crate) struct ModuleProcess {
    log: Logger,
    services: Services,
    spec: ModuleSpec,
    incarnation: Incarnation,
    config: AgentConfig,
    config_line: Vec<u8>,
    /// The newest `config` that was sent, for those who begin to watch later.
    sent_config: Option<ModuleLine>,
    supervisor: Recipient<ModuleExited>,
    confirmed: Recipient<ModuleConfirmed>,
    /// What the pumps are bound by; they take over what changes.
    bounds: watch::Sender<PumpBounds>,
    /// Told the process when the module has surely been started.
    started: Option<oneshot::Sender<u32>>,
    feeds: LineFeeds,
    lifecycle: Lifecycle,
    born: Instant,
    child: Option<Rc<dyn ChildControl>>,
    stdin: Option<mpsc::Sender<Vec<u8>>>,
    writer: Option<AbortHandle>,
    /// Takes alerts of other modules for the writer, one batch at a time.
    deliveries: Option<mpsc::Sender<dispatch::Lines>>,
    /// Which of them the module has; set when it gets any.
    acknowledged: Option<Rc<dispatch::Acknowledged>>,
    pumps: Vec<AbortHandle>,
    gauge: Rc<PipeGauge>,
    /// Told when the process is gone, so that the pumps stop at an empty pipe.
    gone: watch::Sender<bool>,
    /// What must still end before the life is over: the pumps, the clean-up, the delivery of alerts.
    unfinished: usize,
    counters: Counters,
    lines: VecDeque<ModuleLine>,
    capabilities: Vec<String>,
    socket: Option<SocketSpec>,
    heartbeat: Option<Duration>,
    heartbeat_at: Option<jiff::Timestamp>,
    /// Numbers that the module shows of itself.
    values: BTreeMap<String, u64>,
    /// The next beat.
    heartbeat_timer: Option<SpawnHandle>,
    /// The query socket is being looked at.
    looking_at_socket: bool,
    /// Where what is wrong with the module is reported.
    reporter: Reporter,
}

impl ModuleProcess {
    /// A module that will be started with `config_line` as its first message.
    #[must_use]
    pub(crate) fn new(
        services: Services,
        spec: ModuleSpec,
        incarnation: Incarnation,
        config: AgentConfig,
        config_line: Vec<u8>,
        told: Told,
        feeds: LineFeeds,
    ) -> Self {
        let log = services.log.new(o!(
            "component" => "module_process", "module" => spec.name().to_string(),
            "incarnation" => incarnation.0,
        ));
        let bounds = watch::Sender::new(PumpBounds::of(&config));
        let reporter = services.conditions.about(Subject::Module(spec.name().clone()));
        Self {
            log,
            services,
            incarnation,
            lifecycle: Lifecycle::new(config.agent.heartbeat_misses),
            spec,
            config,
            config_line,
            sent_config: None,
            confirmed: told.confirmed,
            bounds,
            supervisor: told.exited,
            started: Some(told.started),
            feeds,
            born: Instant::now(),
            child: None,
            stdin: None,
            writer: None,
            deliveries: None,
            acknowledged: None,
            pumps: Vec::new(),
            gauge: Rc::default(),
            gone: watch::Sender::new(false),
            unfinished: 0,
            counters: Counters::default(),
            lines: VecDeque::new(),
            capabilities: Vec::new(),
            socket: None,
            heartbeat: None,
            heartbeat_at: None,
            values: BTreeMap::new(),
            heartbeat_timer: None,
            looking_at_socket: false,
            reporter,
        }
    }

    /// Starts the process as soon as what it takes is there.
    fn prepare(&mut self, ctx: &mut Context<Self>) {
        let preparing = self.services.spawner.prepare(&self.spec, self.incarnation);
        ctx.spawn(preparing.into_actor(self).map(|prepared, this, ctx| match prepared {
            Ok(group) => this.spawn(group, ctx),
            Err(error) => this.not_started(&error, ctx),
        }));
    }

    fn spawn(&mut self, group: Group, ctx: &mut Context<Self>) {
        self.reporter.set(AgentCondition::ContainmentLimited, group.unlimited());
        match self.services.spawner.spawn(&self.spec, group) {
            Ok((control, pipes)) => {
                info!(self.log, "module started"; "pid" => control.pid());
                // The launcher can still fail to become the module, and says so by its end.
                ctx.run_later(START_GRACE, |this, _| this.tell_started());
                let agent = self.reporter.about(Subject::Agent);
                agent.clear(AgentCondition::TasksExhausted);
                agent.clear(AgentCondition::DescriptorsExhausted);
                self.child = Some(control.clone());
                self.run_pipes(pipes, ctx);
                self.step(Event::Spawned, ctx);
            }
            Err(error) => self.not_started(&error, ctx),
        }
    }

    fn not_started(&mut self, error: &SpawnError, ctx: &mut Context<Self>) {
        let why = ErrorChain(error).to_string();
        let reason = if error.is_shortage() {
            // The Supervisor tells it once, not at every attempt.
            debug!(self.log, "module cannot be started at present"; "error" => %why);
            if let Some(condition) = error.shows() {
                self.reporter.about(Subject::Agent).raise(condition, why.clone());
            }
            EndReason::Shortage(why)
        } else {
            warn!(self.log, "module cannot be started"; "error" => %why);
            EndReason::SpawnFailed(why)
        };
        self.step(Event::Exited(reason), ctx);
        self.finish_if_over(ctx);
    }

    fn run_pipes(&mut self, pipes: ChildPipes, ctx: &mut Context<Self>) {
        let me = ctx.address();
        let (stdin, queue) = mpsc::channel(STDIN_QUEUE);
        let (deliveries, to_deliver) = mpsc::channel(1);
        self.deliveries = Some(deliveries);
        let config_line = std::mem::take(&mut self.config_line);
        self.remember_config(&config_line);
        if stdin.try_send(config_line).is_ok() {
            let ears = pump::StdinEars {
                wire: self.feeds.wire.clone(),
                life: self.incarnation.0,
                gauge: self.gauge.clone(),
                told: me.clone().recipient(),
            };
            let writer = pump::write_stdin(pipes.stdin, queue, to_deliver, ears);
            self.writer = Some(actix_rt::spawn(writer).abort_handle());
        }
        let output = pump::Output {
            module: self.spec.name().clone(),
            life: self.incarnation.0,
            agent_log: self.services.agent_log.clone(),
            budget: LogBudget::new(&self.config.logging, Instant::now()),
            bounds: self.bounds.subscribe(),
            feeds: self.feeds.clone(),
            gone: self.gone.subscribe(),
            gauge: self.gauge.clone(),
            told: me.clone().recipient(),
            closed: me.clone().recipient(),
            log: self.log.clone(),
        };
        let stdout = pump::read_stdout(
            output.clone(),
            pipes.stdout,
            self.config.limits.line_bytes,
            self.services.journal.clone(),
            stdin.downgrade(),
        );
        let stderr = pump::read_stderr(output, pipes.stderr);
        self.stdin = Some(stdin);
        for pump in [actix_rt::spawn(stdout), actix_rt::spawn(stderr)] {
            self.pumps.push(pump.abort_handle());
            self.unfinished += 1;
            let me = me.clone();
            actix_rt::spawn(async move {
                // An aborted pump has ended as well.
                pump.await.ok();
                tell(&me, TaskEnded);
            });
        }
        let exit = pipes.exit;
        self.unfinished += 1;
        actix_rt::spawn(async move {
            let reason = exit.await;
            tell(&me, ChildGone(reason));
        });
    }

    fn step(&mut self, event: Event, ctx: &mut Context<Self>) {
        let before = self.lifecycle.state();
        for effect in self.lifecycle.step(event, Instant::now()) {
            self.carry_out(effect, ctx);
        }
        let after = self.lifecycle.state();
        if before != after {
            self.state_changed(before, after);
        }
        // A module of MIG's kind registers nothing: it is ready when it answers.
        if after == State::Running && self.spec.section.dispatch {
            self.deliver_alerts(false, ctx);
        }
    }

    /// Tells who waits for it that the module runs, once.
    fn tell_started(&mut self) {
        if let Some(child) = &self.child
            && let Some(started) = self.started.take()
        {
            started.send(child.pid()).ok();
        }
    }

    fn state_changed(&mut self, before: State, after: State) {
        match (before, after) {
            (State::Starting, State::Running) => {
                info!(self.log, "module is ready"; "elapsed_ms" => elapsed_ms(self.born.elapsed()));
                self.reporter.clear(AgentCondition::ModuleFailed);
                self.tell_started();
                self.confirm(None);
            }
            (State::Degraded, State::Running) => self.reporter.clear(AgentCondition::HeartbeatMissed),
            (_, State::Degraded) => {
                let detail = format!("{} in a row", self.lifecycle.missed());
                self.reporter.raise(AgentCondition::HeartbeatMissed, detail);
            }
            (State::Stopping(_), State::Stopping(stage)) => {
                debug!(self.log, "module is being ended"; "found" => ?stage);
            }
            (_, State::Stopping(_)) => {
                let reason = self.lifecycle.stop_reason().map(ToString::to_string).unwrap_or_default();
                info!(self.log, "module is being ended"; "reason" => reason);
                tell(
                    &self.services.registry,
                    ModuleLifeChanged {
                        module: self.spec.name().clone(),
                        incarnation: self.incarnation,
                        life: Life::Stopping,
                    },
                );
            }
            _ => {}
        }
    }

    fn carry_out(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            Effect::Ping(nonce) => self.queue_line(WireMessage::ping(nonce).to_line()),
            Effect::ArmHeartbeat => {
                let timer = ctx.notify_later(HeartbeatDue, self.config.agent.heartbeat_interval);
                self.heartbeat_timer = Some(timer);
            }
            Effect::AskToStop => self.queue_line(WireMessage::stop().to_line()),
            Effect::CloseStdin => self.stdin = None,
            Effect::Terminate => {
                // A write that is stuck would keep stdin open for ever.
                if let Some(writer) = self.writer.take() {
                    writer.abort();
                }
                if let Some(child) = &self.child {
                    child.terminate();
                }
            }
            Effect::Kill => {
                if let Some(child) = &self.child {
                    child.kill();
                }
            }
            Effect::ArmStage(stage, delay) => {
                ctx.notify_later(StageDue(stage), delay);
            }
            Effect::HeartbeatAnswered(round_trip) => {
                self.heartbeat = Some(round_trip);
                self.heartbeat_at = Some(jiff::Timestamp::now());
            }
            Effect::IgnoreEcho => {
                *self.counters.dropped.entry("wrong_nonce").or_default() += 1;
                debug!(self.log, "echo of no heartbeat ignored");
            }
        }
    }

    /// Puts a line into the stdin queue. When it is full the line is left out: the module has not read for so
    /// long that the heartbeat ends it.
    fn queue_line(&mut self, line: Vec<u8>) {
        let Some(stdin) = &self.stdin else { return };
        if let Err(unsent) = stdin.try_send(line) {
            let line = unsent.into_inner();
            self.feeds.wire.send(|| ModuleLine {
                fate: Some(LineFate::Dropped),
                reason: Some("not_read".to_owned()),
                life: Some(self.incarnation.0),
                ..line_feed::wire_line("to_module", &String::from_utf8_lossy(&line))
            });
        }
    }

    fn remember_config(&mut self, line: &[u8]) {
        let sent = line_feed::wire_line("to_module", &String::from_utf8_lossy(line));
        self.sent_config = Some(ModuleLine { life: Some(self.incarnation.0), ..sent });
    }

    fn register(&mut self, registration: Registration, ctx: &mut Context<Self>) {
        if registration.capabilities.iter().any(|name| name == capability::STOP) {
            self.step(Event::HonoursStop, ctx);
        }
        self.capabilities = registration.capabilities;
        if self.capabilities.iter().any(|name| name == capability::DISPATCH) {
            self.deliver_alerts(true, ctx);
        }
        let Some(pid) = self.child.as_ref().map(|child| child.pid()) else { return };
        if matches!(self.lifecycle.state(), State::Stopping(_) | State::Ended) {
            return;
        }
        if registration.sockpath.is_empty() {
            // A module that cannot be asked may still state what it can do.
            return;
        }
        let rules = SocketRules {
            directories: self.socket_directories(),
            allow_remote_tcp: self.spec.section.allow_remote_tcp,
            pid,
        };
        let registry = self.services.registry.clone();
        let (module, incarnation) = (self.spec.name().clone(), self.incarnation);
        let checking = async move {
            let spec = socket_policy::check(&registration.sockpath, rules).await?;
            let socket = RegisteredSocket { spec: spec.clone(), pid };
            match registry.send(RegisterSocket { module, incarnation, socket }).await {
                Ok(Ok(())) => Ok(spec),
                Ok(Err(refused)) => Err(refused.to_string()),
                Err(error) => Err(error.to_string()),
            }
        };
        ctx.spawn(checking.into_actor(self).map(|checked, this, _| match checked {
            Ok(spec) => {
                this.socket = Some(spec);
                this.reporter.clear(AgentCondition::SocketRefused);
            }
            // A module that is being ended takes its socket away.
            Err(_) if matches!(this.lifecycle.state(), State::Stopping(_) | State::Ended) => {}
            Err(refused) => {
                warn!(this.log, "socket refused"; "error" => ?refused);
                *this.counters.dropped.entry("socket_refused").or_default() += 1;
                this.reporter.raise(AgentCondition::SocketRefused, refused);
            }
        }));
    }

    /// Begins to hand the alerts of the other modules to this one, once in a life.
    fn deliver_alerts(&mut self, acknowledges: bool, ctx: &mut Context<Self>) {
        let Some(lines) = self.deliveries.take() else { return };
        self.acknowledged = acknowledges.then(Rc::default);
        let (module, log) = (self.spec.name().clone(), self.log.clone());
        let (acknowledged, journal) = (self.acknowledged.clone(), self.services.journal.clone());
        let state_dir = self.config.agent.state_dir.clone();
        let delivering = async move {
            // The journal ends only with the agent.
            let Ok(view) = journal.send(GetJournalView).await else { return };
            dispatch::Delivery { module, state_dir, view, lines, acknowledged, log }.run().await;
        };
        self.unfinished += 1;
        ctx.spawn(delivering.into_actor(self).map(|(), this, ctx| {
            this.unfinished -= 1;
            this.finish_if_over(ctx);
        }));
    }

    /// Tells the Supervisor how far the module has its configuration.
    fn confirm(&self, said: Option<ConfiguredParameters>) {
        let (module, incarnation) = (self.spec.name().clone(), self.incarnation);
        let confirms = self.capabilities.iter().any(|name| name == capability::CONFIGURED);
        tell_recipient(&self.confirmed, ModuleConfirmed { module, incarnation, confirms, said });
    }

    /// Looks whether the registered query socket is still there and still the module's. Once a heartbeat, one look at a
    /// time: the file system may hang.
    fn look_at_socket(&mut self, ctx: &mut Context<Self>) {
        let Some((spec, pid)) = self.socket.clone().zip(self.child.as_ref().map(|child| child.pid())) else {
            return;
        };
        if self.looking_at_socket || matches!(self.lifecycle.state(), State::Stopping(_) | State::Ended) {
            return;
        }
        self.looking_at_socket = true;
        let rules = SocketRules {
            directories: self.socket_directories(),
            allow_remote_tcp: self.spec.section.allow_remote_tcp,
            pid,
        };
        let looking = async move { socket_policy::check(&spec.to_string(), rules).await.err() };
        ctx.spawn(looking.into_actor(self).map(|missing, this, _| {
            this.looking_at_socket = false;
            if !matches!(this.lifecycle.state(), State::Stopping(_) | State::Ended) {
                this.reporter.set(AgentCondition::SocketMissing, missing);
            }
        }));
    }

    /// Looks whether the module ran into a limit since the last heartbeat.
    fn look_at_limits(&mut self, ctx: &mut Context<Self>) {
        let Some(child) = self.child.clone() else { return };
        ctx.spawn(child.limit_hit().into_actor(self).map(|hit, this, _| {
            if !matches!(this.lifecycle.state(), State::Stopping(_) | State::Ended) {
                let detail = hit.map(|limit| format!("{} are used up", limit.name()));
                this.reporter.set(AgentCondition::LimitReached, detail);
            }
        }));
    }

    fn socket_directories(&self) -> Vec<PathBuf> {
        let own = self.services.spawner.run_dir(&self.spec);
        std::iter::once(own).chain(self.spec.section.socket_dir.clone()).collect()
    }

    /// Ends the actor when the process is reaped, its leftovers are gone and its pipes are empty.
    fn finish_if_over(&mut self, ctx: &mut Context<Self>) {
        let Some(reason) = self.lifecycle.end().filter(|_| self.unfinished == 0) else { return };
        info!(self.log, "module ended"; "reason" => %reason,
            "elapsed_ms" => elapsed_ms(self.born.elapsed()));
        let exited = ModuleExited {
            module: self.spec.name().clone(),
            incarnation: self.incarnation,
            reason: reason.clone(),
            lifetime: self.born.elapsed(),
            counters: std::mem::take(&mut self.counters),
            lines: std::mem::take(&mut self.lines),
        };
        self.reporter.life_ended(self.spec.name().clone());
        tell_recipient(&self.supervisor, exited);
        ctx.stop();
    }

    fn status(&self) -> ProcessStatus {
        let missed = self.lifecycle.missed();
        let silent = (missed > 0).then(|| format!("missed {missed} heartbeats in a row"));
        let (state, reason) = match self.lifecycle.state() {
            State::Starting => (ModuleState::Starting, silent),
            State::Running => (ModuleState::Running, None),
            State::Degraded => (ModuleState::Degraded, silent),
            State::Stopping(_) | State::Ended => {
                (ModuleState::Stopping, self.lifecycle.stop_reason().map(ToString::to_string))
            }
        };
        ProcessStatus {
            state,
            reason,
            pid: self.child.as_ref().map(|child| child.pid()),
            uptime: self.born.elapsed(),
            socket: self.socket.clone(),
            heartbeat: self.heartbeat,
            heartbeat_at: self.heartbeat_at,
            counters: self.counters.clone(),
            values: self.values.clone(),
        }
    }
}

fn elapsed_ms(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// Sends a fact that must not be lost.
#[expect(
    clippy::disallowed_methods,
    reason = "each of these facts is sent at most a few times in one life of a module"
)]
fn tell<A, M>(actor: &Addr<A>, fact: M)
where
    A: Actor + Handler<M>,
    A::Context: actix::dev::ToEnvelope<A, M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    actor.do_send(fact);
}

/// Sends a fact that must not be lost to whoever takes it.
#[expect(clippy::disallowed_methods, reason = "sent once in one life of a module")]
fn tell_recipient<M>(recipient: &Recipient<M>, fact: M)
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    recipient.do_send(fact);
}

impl Actor for ModuleProcess {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_CAPACITY);
        self.prepare(ctx);
    }
}

/// A heartbeat is due. Sent by this actor to itself, once per interval.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct HeartbeatDue;

impl Handler<HeartbeatDue> for ModuleProcess {
    type Result = ();

    fn handle(&mut self, _: HeartbeatDue, ctx: &mut Self::Context) {
        let event = Event::HeartbeatDue {
            not_reading_since: self.gauge.not_reading_since.get(),
            writing_since: self.gauge.writing_since.get(),
        };
        self.step(event, ctx);
        self.look_at_socket(ctx);
        self.look_at_limits(ctx);
    }
}

/// The time of a stage of ending is over. Sent by this actor to itself.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct StageDue(Stage);

impl Handler<StageDue> for ModuleProcess {
    type Result = ();

    fn handle(&mut self, due: StageDue, ctx: &mut Self::Context) {
        self.step(Event::StageDue { stage: due.0 }, ctx);
    }
}

impl Handler<ChildSaid> for ModuleProcess {
    type Result = ();

    fn handle(&mut self, said: ChildSaid, ctx: &mut Self::Context) {
        self.counters.add(&said.counters);
        self.lines.extend(said.lines);
        let surplus = self.lines.len().saturating_sub(KEPT_LINES);
        self.lines.drain(..surplus);
        if let Some(registration) = said.registration {
            self.register(registration, ctx);
        }
        if let Some(flooding) = said.flooding {
            let allowed = self.config.logging.module_bytes_per_sec;
            let detail = flooding.then(|| format!("more than {allowed} bytes a second"));
            self.reporter.set(AgentCondition::LogBudgetExceeded, detail);
        }
        if let Some(acknowledged) = &self.acknowledged {
            for id in &said.acknowledged {
                acknowledged.add(id);
            }
        }
        for configured in said.configured {
            self.confirm(Some(configured));
        }
        if let Some(health) = said.health {
            self.values = health.values;
            self.reporter.module_health(self.spec.name().clone(), health.conditions);
        }
        for nonce in said.pongs {
            self.step(Event::Pong { nonce }, ctx);
        }
    }
}

impl Handler<pump::StdoutClosed> for ModuleProcess {
    type Result = ();

    fn handle(&mut self, _: pump::StdoutClosed, ctx: &mut Self::Context) {
        self.step(Event::StdoutClosed, ctx);
    }
}

impl Handler<pump::StdinClosed> for ModuleProcess {
    type Result = ();

    fn handle(&mut self, _: pump::StdinClosed, ctx: &mut Self::Context) {
        self.step(Event::StdinClosed, ctx);
    }
}

impl Handler<Reconfigure> for ModuleProcess {
    type Result = ();

    fn handle(&mut self, order: Reconfigure, ctx: &mut Self::Context) {
        let takes_it = self.capabilities.iter().any(|name| name == capability::RECONFIGURE);
        if takes_it {
            info!(self.log, "module gets a new configuration");
            self.remember_config(&order.config_line);
            self.queue_line(order.config_line);
        } else {
            let grace = self.config.agent.stop_grace;
            self.step(Event::Stop { reason: EndReason::ConfigChanged, grace }, ctx);
        }
    }
}

impl Handler<TakeAgentConfig> for ModuleProcess {
    type Result = ();

    fn handle(&mut self, order: TakeAgentConfig, ctx: &mut Self::Context) {
        let interval = order.0.agent.heartbeat_interval;
        let sooner = interval < self.config.agent.heartbeat_interval;
        self.lifecycle.set_misses_allowed(order.0.agent.heartbeat_misses);
        self.config = order.0;
        self.bounds.send_replace(PumpBounds::of(&self.config));
        if sooner {
            // The beat that was armed with the longer interval would come too late.
            if let Some(armed) = self.heartbeat_timer.take() {
                ctx.cancel_future(armed);
            }
            self.heartbeat_timer = Some(ctx.notify_later(HeartbeatDue, interval));
        }
    }
}

impl Handler<GetProcessStatus> for ModuleProcess {
    type Result = MessageResult<GetProcessStatus>;

    fn handle(&mut self, _: GetProcessStatus, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.status())
    }
}

impl Handler<GetLines> for ModuleProcess {
    type Result = MessageResult<GetLines>;

    fn handle(&mut self, _: GetLines, _: &mut Self::Context) -> Self::Result {
        MessageResult((self.lines.clone(), self.sent_config.clone()))
    }
}

impl Handler<StopModule> for ModuleProcess {
    type Result = ();

    fn handle(&mut self, order: StopModule, ctx: &mut Self::Context) {
        self.step(Event::Stop { reason: order.reason.clone(), grace: order.grace }, ctx);
        if self.child.is_none() && self.unfinished == 0 {
            // It has not begun; the disk that it waits for is not waited for any more.
            self.step(Event::Exited(order.reason), ctx);
            self.finish_if_over(ctx);
        }
    }
}

/// The process is reaped. Sent once by the task that waits for it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct ChildGone(EndReason);

impl Handler<ChildGone> for ModuleProcess {
    type Result = ();

    fn handle(&mut self, gone: ChildGone, ctx: &mut Self::Context) {
        self.step(Event::Exited(gone.0), ctx);
        self.stdin = None;
        if let Some(writer) = self.writer.take() {
            writer.abort();
        }
        self.gone.send_replace(true);
        ctx.run_later(DRAIN_LIMIT, |this, _| {
            for pump in this.pumps.drain(..) {
                pump.abort();
            }
        });
        let Some(child) = self.child.take() else { return };
        let me = ctx.address();
        actix_rt::spawn(async move {
            child.clean_up().await;
            tell(&me, TaskEnded);
        });
    }
}

/// A pump or the clean-up has ended. Sent once by each.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct TaskEnded;

impl Handler<TaskEnded> for ModuleProcess {
    type Result = ();

    fn handle(&mut self, _: TaskEnded, ctx: &mut Self::Context) {
        self.unfinished -= 1;
        self.finish_if_over(ctx);
    }
}
