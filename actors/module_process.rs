//! One living module: its process, its pipes and its heartbeat.
//!
//! Started by `Supervisor`, one per life of a module; ends with the process and reports why
//! (`ModuleExited`); whether there is a next life is the Supervisor's business. What happens when is decided
//! in `lifecycle`; this actor carries it out.
//!
//! The pipes are read and written by `pipes`: a batch of lines is sorted (`intake`), its alerts are stored, its log
//! lines written, and only then is the next one read. So a module that writes faster than the disk takes it is slowed
//! by its own pipe, in bounded memory, and nobody else notices. The end of stdout is not the end of the
//! process, and the other way round: either may come first, and a grandchild can keep the pipe open for ever.
//! The life ends when the process is reaped, its leftovers are gone and the pipe is read empty.

mod dispatch;
mod intake;
mod lifecycle;
mod log_budget;
mod pipes;
mod questions;
mod registration;
mod stdin;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, ActorState, Addr, AsyncContext, Context, Handler, Message,
    Recipient, SpawnHandle, WrapFuture,
};
use slog::{Logger, debug, info, o, warn};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use vigie_config::model::{AgentConfig, ModuleSpec};
use vigie_log::AgentLog;
use vigie_protocol::catalogue::AgentCondition;
use vigie_protocol::condition::Subject;
use vigie_protocol::control::{LineFate, ModuleLine};
use vigie_protocol::error_chain::ErrorChain;
use vigie_protocol::message::{ConfiguredParameters, Message as WireMessage, capability};
use vigie_protocol::module_name::ModuleName;
use vigie_protocol::socket::SocketSpec;

use self::intake::{Batch, Intake};
use self::lifecycle::{Effect, Event, Lifecycle, Stage, State};
use self::log_budget::LogBudget;
use self::pipes::{Flow, MAX_STDERR_LINE_BYTES, Pipe, Reader};
pub(crate) use self::questions::{GetLines, GetProcessStatus, ProcessStatus};
use self::stdin::Stdin;
use crate::alert_journal::AlertJournal;
use crate::child::{ChildControl, ChildPipes, ProcessSpawner, SpawnError, Spawner};
use crate::conditions::Reporter;
use crate::containment::Group;
use crate::life::{EndReason, Incarnation};
use crate::line_feed::{self, LineFeeds, keep_newest};
use crate::socket_registry::{Life, ModuleLifeChanged, SocketRegistry};

/// Messages in the mailbox before a sender waits.
const MAILBOX_CAPACITY: usize = 16;

/// A module that lives so long counts as started although it has not answered a heartbeat yet.
const START_GRACE: Duration = Duration::from_secs(1);

/// Time that the pipes of a process that is gone are read on while a grandchild holds them open.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Sent once to the `Supervisor` when a life is over and nothing of it is left. Never lost: the Supervisor
/// outlives its modules.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ModuleExited {
    pub(crate) module: ModuleName,
    pub(crate) incarnation: Incarnation,
    /// Why it ended.
    pub(crate) reason: EndReason,
    /// How long it lasted.
    pub(crate) lifetime: Duration,
    /// What it said.
    pub(crate) counters: Counters,
    /// Its newest lines.
    pub(crate) lines: VecDeque<ModuleLine>,
}

/// What a module said, by number of messages.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counters {
    /// Log messages.
    pub(crate) logs: u64,
    /// Alerts.
    pub(crate) alerts: u64,
    /// Lines that were not carried, by reason.
    pub(crate) dropped: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// Adds what another life, or a batch, said.
    pub(crate) fn add(&mut self, other: &Self) {
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
pub(crate) struct ModuleConfirmed {
    pub(crate) module: ModuleName,
    pub(crate) incarnation: Incarnation,
    /// The module says of every configuration whether it took it.
    pub(crate) confirms: bool,
    /// What it said; nothing when it answered its first heartbeat.
    pub(crate) said: Option<ConfiguredParameters>,
}

/// Changes what of the agent's own configuration concerns a living module: heartbeat, limits, budgets. Sent by the
/// `Supervisor` at every reload.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct TakeAgentConfig(pub(crate) AgentConfig);

/// Orders the module to end. Sent by `Supervisor`; a second one is ignored.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct StopModule {
    pub(crate) reason: EndReason,
    /// Time between asking and killing.
    pub(crate) grace: Duration,
}

/// Gives the module a new configuration. A module that cannot take one while it runs is ended, for the `Supervisor` to
/// start it again with the new one. Which of both is known when it has registered; until then the newest one waits.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Reconfigure {
    /// The `config` message as a line.
    pub(crate) config_line: Vec<u8>,
}

/// What a `ModuleProcess` works with.
#[derive(Clone)]
pub struct Services {
    /// Root logger.
    pub(crate) log: Logger,
    /// The agent's log, for the module's own lines.
    pub(crate) agent_log: AgentLog,
    /// Where alerts go.
    pub(crate) journal: Addr<AlertJournal>,
    /// Where sockets are registered.
    pub(crate) registry: Addr<SocketRegistry>,
    /// How processes are started.
    pub(crate) spawner: Rc<dyn Spawner>,
    /// Where conditions are reported.
    pub(crate) conditions: Reporter,
}

impl Services {
    /// What modules need to be started as processes.
    #[must_use]
    pub fn new(
        log: Logger,
        agent_log: AgentLog,
        journal: Addr<AlertJournal>,
        registry: Addr<SocketRegistry>,
        spawner: Rc<ProcessSpawner>,
        conditions: Reporter,
    ) -> Self {
        Self { log, agent_log, journal, registry, spawner, conditions }
    }
}

/// Who is told about a life.
pub(crate) struct Told {
    /// When it is over.
    pub(crate) exited: Recipient<ModuleExited>,
    /// When it is ready, and what the module made of its configuration.
    pub(crate) confirmed: Recipient<ModuleConfirmed>,
    /// The process, when the module answers or has lived for a second.
    pub(crate) started: oneshot::Sender<u32>,
}

/// The actor.
pub(crate) struct ModuleProcess {
    log: Logger,
    services: Services,
    spec: ModuleSpec,
    incarnation: Incarnation,
    config: AgentConfig,
    config_line: Vec<u8>,
    /// A configuration that came before it was known whether the module takes one while it runs.
    next_config: Option<Vec<u8>>,
    /// The newest `config` that was sent, for those who begin to watch later.
    sent_config: Option<ModuleLine>,
    supervisor: Recipient<ModuleExited>,
    confirmed: Recipient<ModuleConfirmed>,
    /// Told the process when the module has surely been started.
    started: Option<oneshot::Sender<u32>>,
    feeds: LineFeeds,
    lifecycle: Lifecycle,
    born: Instant,
    child: Option<Rc<dyn ChildControl>>,
    stdin: Option<Stdin>,
    stdout: Pipe,
    stderr: Pipe,
    flow: Flow,
    /// Sorts the lines of stdout.
    messages: Intake,
    /// Sorts the lines of stderr.
    texts: Intake,
    /// Whether the process is gone, so that the readers stop at an empty pipe.
    gone: watch::Sender<bool>,
    /// What the process left behind is being ended.
    is_cleaning_up: bool,
    /// Alerts of other modules are being delivered.
    is_delivering: bool,
    /// Which of them the module has; set when it gets any.
    acknowledged: Option<Rc<dispatch::Acknowledged>>,
    counters: Counters,
    lines: VecDeque<ModuleLine>,
    /// What it can do, once it registered.
    capabilities: Option<Vec<String>>,
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
        let intake = Intake {
            module: spec.name().clone(),
            life: incarnation.0,
            agent_log: services.agent_log.clone(),
            budget: LogBudget::new(&config.logging, Instant::now()),
            feeds: feeds.clone(),
            log: log.clone(),
        };
        let reporter = services.conditions.about(Subject::Module(spec.name().clone()));
        Self {
            log,
            services,
            incarnation,
            lifecycle: Lifecycle::new(config.agent.heartbeat_misses),
            spec,
            config,
            config_line,
            next_config: None,
            sent_config: None,
            confirmed: told.confirmed,
            supervisor: told.exited,
            started: Some(told.started),
            feeds,
            born: Instant::now(),
            child: None,
            stdin: None,
            stdout: Pipe::Closed,
            stderr: Pipe::Closed,
            flow: Flow::default(),
            messages: intake.clone(),
            texts: intake,
            gone: watch::Sender::new(false),
            is_cleaning_up: false,
            is_delivering: false,
            acknowledged: None,
            counters: Counters::default(),
            lines: VecDeque::new(),
            capabilities: None,
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
                self.open_pipes(pipes, ctx);
                self.step(Event::Spawned, ctx);
                self.go_on(ctx);
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

    fn open_pipes(&mut self, pipes: ChildPipes, ctx: &mut Context<Self>) {
        self.stdin = Some(Stdin::new(pipes.stdin));
        let reader = |stream, line_bytes| Reader::new(stream, line_bytes, self.gone.subscribe());
        let stdout = reader(pipes.stdout, self.config.limits.line_bytes);
        let stderr = reader(pipes.stderr, MAX_STDERR_LINE_BYTES);
        (self.stdout, self.stderr) = (Pipe::Idle(stdout), Pipe::Idle(stderr));
        let config_line = std::mem::take(&mut self.config_line);
        self.send_config(config_line, ctx);
        ctx.spawn(pipes.exit.into_actor(self).map(|reason, this, ctx| this.process_gone(reason, ctx)));
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
        if after == State::Running {
            self.give_next_config(ctx);
            if self.spec.section.dispatch {
                self.deliver_alerts(false, ctx);
            }
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
                debug!(self.log, "stopping module"; "found" => ?stage);
            }
            (_, State::Stopping(_)) => {
                let reason = self.lifecycle.stop_reason().map(ToString::to_string).unwrap_or_default();
                info!(self.log, "stopping module"; "reason" => reason);
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
            Effect::Ping(nonce) => self.queue_line(WireMessage::ping(nonce).to_line(), ctx),
            Effect::ArmHeartbeat => {
                let timer = ctx.notify_later(HeartbeatDue, self.config.agent.heartbeat_interval);
                self.heartbeat_timer = Some(timer);
            }
            Effect::AskToStop => self.queue_line(WireMessage::stop().to_line(), ctx),
            Effect::CloseStdin => {
                if let Some(stdin) = &mut self.stdin {
                    stdin.close();
                }
                self.write_stdin(ctx);
            }
            Effect::Terminate => {
                // A write that is stuck would keep stdin open for ever.
                self.cut_stdin(ctx);
                if let Some(child) = &self.child {
                    child.terminate();
                }
            }
            Effect::Kill => {
                if let Some(child) = &self.child {
                    child.kill();
                }
            }
            Effect::ReportUnkillable => {
                let pid =
                    self.child.as_ref().map_or_else(String::new, |child| format!("process {}", child.pid()));
                self.reporter.raise(AgentCondition::ModuleUnkillable, pid);
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
                debug!(self.log, "ignored an echo that matches no heartbeat");
            }
        }
    }

    /// Puts a line into the stdin queue. When it is full the line is left out: the module has not read for so
    /// long that the heartbeat ends it.
    fn queue_line(&mut self, line: Vec<u8>, ctx: &mut Context<Self>) {
        let Some(stdin) = &mut self.stdin else { return };
        if let Err(line) = stdin.try_push(line) {
            self.feeds.wire.send(|| ModuleLine {
                fate: Some(LineFate::Dropped),
                reason: Some("not_read".to_owned()),
                life: Some(self.incarnation.0),
                ..line_feed::wire_line("to_module", &String::from_utf8_lossy(&line))
            });
        }
        self.write_stdin(ctx);
    }

    fn send_config(&mut self, line: Vec<u8>, ctx: &mut Context<Self>) {
        let sent = line_feed::wire_line("to_module", &String::from_utf8_lossy(&line));
        self.sent_config = Some(ModuleLine { life: Some(self.incarnation.0), ..sent });
        self.queue_line(line, ctx);
    }

    /// Whether the module registered this capability.
    fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().flatten().any(|name| name == capability)
    }

    /// Does what the module asked for with one batch of lines.
    fn heard(&mut self, said: Batch, ctx: &mut Context<Self>) {
        self.counters.add(&said.counters);
        keep_newest(&mut self.lines, said.lines);
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

    /// Tells the Supervisor how far the module has its configuration.
    fn confirm(&self, said: Option<ConfiguredParameters>) {
        let (module, incarnation) = (self.spec.name().clone(), self.incarnation);
        let confirms = self.can(capability::CONFIGURED);
        tell_recipient(&self.confirmed, ModuleConfirmed { module, incarnation, confirms, said });
    }

    /// The process is reaped.
    fn process_gone(&mut self, reason: EndReason, ctx: &mut Context<Self>) {
        self.step(Event::Exited(reason), ctx);
        self.cut_stdin(ctx);
        self.gone.send_replace(true);
        ctx.run_later(DRAIN_LIMIT, |this, ctx| this.end_drain(ctx));
        if let Some(child) = self.child.take() {
            self.is_cleaning_up = true;
            ctx.spawn(child.clean_up().into_actor(self).map(|(), this, ctx| {
                this.is_cleaning_up = false;
                this.finish_if_over(ctx);
            }));
        }
        self.go_on(ctx);
    }

    /// Ends the actor when the process is reaped, its leftovers are gone and its pipes are empty.
    fn finish_if_over(&mut self, ctx: &mut Context<Self>) {
        if !self.is_idle() || ctx.state() != ActorState::Running {
            return;
        }
        let Some(reason) = self.lifecycle.end() else { return };
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

    /// Whether nothing of a process is there, before its start or after its end.
    fn is_idle(&self) -> bool {
        let pipes_are_empty = self.stdout.is_closed() && self.stderr.is_closed() && self.flow.is_empty();
        pipes_are_empty && self.child.is_none() && !self.is_cleaning_up && !self.is_delivering
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
            not_reading_since: self.flow.not_reading_since(),
            writing_since: self.stdin.as_ref().and_then(Stdin::writing_since),
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

impl Handler<TakeAgentConfig> for ModuleProcess {
    type Result = ();

    fn handle(&mut self, order: TakeAgentConfig, ctx: &mut Self::Context) {
        let interval = order.0.agent.heartbeat_interval;
        let sooner = interval < self.config.agent.heartbeat_interval;
        self.lifecycle.set_misses_allowed(order.0.agent.heartbeat_misses);
        self.config = order.0;
        for intake in [&mut self.messages, &mut self.texts] {
            intake.budget.set_bounds(&self.config.logging);
        }
        if sooner {
            // The beat that was armed with the longer interval would come too late.
            if let Some(armed) = self.heartbeat_timer.take() {
                ctx.cancel_future(armed);
            }
            self.heartbeat_timer = Some(ctx.notify_later(HeartbeatDue, interval));
        }
    }
}

impl Handler<StopModule> for ModuleProcess {
    type Result = ();

    fn handle(&mut self, order: StopModule, ctx: &mut Self::Context) {
        self.step(Event::Stop { reason: order.reason.clone(), grace: order.grace }, ctx);
        if self.is_idle() {
            // It has not begun; the disk that it waits for is not waited for any more.
            self.step(Event::Exited(order.reason), ctx);
            self.finish_if_over(ctx);
        }
    }
}
