//! The tasks on a module's pipes: they belong to one `ModuleProcess` and live on its thread.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, MailboxError, Message, Recipient};
use slog::{Logger, debug, error, warn};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use vigie_protocol::message::{
    AckParameters, AlertParameters, BadLine, Class, ConfiguredParameters, HealthParameters, LogParameters,
    Message as WireMessage, MessageRef, PingParameters, RegisterParameters, capability,
};
use vigie_protocol::stream::{LineBatch, ModuleReader};

use super::dispatch;
use super::log_budget::LogBudget;
use super::{Counters, KEPT_LINES, PipeGauge};
use crate::alert_journal::{AlertBatch, AlertJournal, AlertsRefused, StoreAlerts, read_plain};
use crate::line_feed::{LineFeed, LineFeeds, line_from_module, module_line, wire_line};
use crate::work_threads::{self, Job, Lane};
use vigie_config::model::{AgentConfig, LoggingSection};
use vigie_log::{AgentLog, LogTime};
use vigie_protocol::control::{LineFate, ModuleLine};
use vigie_protocol::module_name::ModuleName;

/// Text of lines that is handled in one go, in bytes. Enough that the costs per batch do not count, little
/// enough that one batch holds up the other modules for at most a few milliseconds.
const BATCH_BYTES: usize = 512 * 1024;

/// Text of alerts that waits for the disk while further lines are read, in bytes. Beyond it the module waits, and its echoes
/// of heartbeats with it: the bound is memory and not a number of batches, so that few alerts and a disk that hangs do not
/// hide that a module stands still.
const IN_FLIGHT_BYTES: usize = 4 * BATCH_BYTES;

/// What a batch in flight costs beside its text: its task, its places in the queues.
const BATCH_OVERHEAD_BYTES: usize = 4096;

/// Why a line for the log was dropped: the module has logged too much.
const LOG_BUDGET: &str = "log_budget";

/// What a line costs of a batch beside its text: its place in memory, and the work for it.
const LINE_OVERHEAD_BYTES: usize = 32;

/// Longest line on stderr, in bytes; stderr is for people.
const MAX_STDERR_LINE_BYTES: usize = 64 * 1024;

/// What telling of a dropped line costs of the module's log budget, in bytes.
const TOLD_DROP_BYTES: usize = 512;

/// Dropped lines of one batch that are kept for people: the rest is only counted.
const DROPPED_KEPT: usize = 8;

/// Text of a dropped line that is kept for people, in characters.
const DROPPED_CHARS: usize = 200;

/// Echoes of heartbeats that are looked at in one batch; more are counted only, however many a module sends.
const PONGS_IN_BATCH: usize = 64;

/// Confirmations of configurations that are looked at in one batch.
const CONFIGURED_IN_BATCH: usize = 4;

/// Acknowledgements of delivered alerts that are looked at in one batch; no more are under way.
const ACKS_IN_BATCH: usize = 256;

/// Quiet time after which the pipe of a process that is gone counts as empty.
const DRAIN_QUIET: Duration = Duration::from_millis(100);

/// What a pump tells its `ModuleProcess` about one batch of lines. Sent one at a time: the pump waits for it to
/// be handled, so a flood of messages from the child never becomes a flood in the mailbox.
#[derive(Debug, Default, Message)]
#[rtype(result = "()")]
pub struct ChildSaid {
    /// Echoes of heartbeats.
    pub pongs: Vec<Option<u64>>,
    /// The newest registration.
    pub registration: Option<Registration>,
    /// Numbers of messages.
    pub counters: Counters,
    /// The newest lines.
    pub lines: Vec<ModuleLine>,
    /// The newest set of conditions and values that the module reported of itself.
    pub health: Option<HealthParameters>,
    /// What it said became of configurations, oldest first.
    pub configured: Vec<ConfiguredParameters>,
    /// Ids of alerts that were delivered to it and that it acknowledged.
    pub acknowledged: Vec<String>,
    /// Whether the module's log is cut because it floods; absent when that did not change.
    pub flooding: Option<bool>,
}

/// What a module said when it registered.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Where it says it listens.
    pub sockpath: String,
    /// What it can do.
    pub capabilities: Vec<String>,
}

/// stdout came to its end. Sent once.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StdoutClosed;

/// stdin takes no more. Sent once.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StdinClosed;

/// What of the configuration bounds a pump; it can change while the module lives.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PumpBounds {
    pub(crate) line_bytes: usize,
    pub(crate) logging: LoggingSection,
}

impl PumpBounds {
    pub(crate) fn of(config: &AgentConfig) -> Self {
        Self { line_bytes: config.limits.line_bytes, logging: config.logging.clone() }
    }
}

/// What both output pumps of a module work with.
#[derive(Clone)]
pub(crate) struct Output {
    pub(crate) module: ModuleName,
    pub(crate) life: u64,
    pub(crate) agent_log: AgentLog,
    pub(crate) budget: LogBudget,
    pub(crate) bounds: watch::Receiver<PumpBounds>,
    pub(crate) feeds: LineFeeds,
    pub(crate) gone: watch::Receiver<bool>,
    pub(crate) gauge: Rc<PipeGauge>,
    pub(crate) told: Recipient<ChildSaid>,
    pub(crate) closed: Recipient<StdoutClosed>,
    pub(crate) log: Logger,
}

/// For people: why a line was dropped, and its beginning.
pub(crate) fn dropped_line(why: &str, line: &str) -> ModuleLine {
    let start: String = line.chars().take(DROPPED_CHARS).collect();
    module_line("dropped", &if start.is_empty() { why.to_owned() } else { format!("{why}: {start}") })
}

/// Who hears what is written to a module's stdin.
pub(crate) struct StdinEars {
    pub(crate) wire: LineFeed,
    pub(crate) life: u64,
    pub(crate) gauge: Rc<PipeGauge>,
    pub(crate) told: Recipient<StdinClosed>,
}

impl StdinEars {
    /// Shows lines to who watches, before they are written: an answer never comes before its question.
    fn hear(&self, lines: &[u8]) {
        if !self.wire.is_watched() {
            return;
        }
        let text = String::from_utf8_lossy(lines);
        for line in text.lines() {
            let acknowledges = line.starts_with("{\"class\":\"ack\"");
            let fate = acknowledges.then_some(LineFate::Acknowledged);
            self.wire.send(|| ModuleLine { fate, life: Some(self.life), ..wire_line("to_module", line) });
        }
    }
}

/// Writes what is queued to the child's stdin; closes it when the queue is closed. Alerts of other modules come only when
/// nothing else waits.
pub(crate) async fn write_stdin(
    mut stdin: Box<dyn AsyncWrite + Unpin>,
    mut queue: mpsc::Receiver<Vec<u8>>,
    mut deliveries: mpsc::Receiver<dispatch::Lines>,
    ears: StdinEars,
) {
    let gauge = &ears.gauge;
    loop {
        let (lines, written_to) = tokio::select! {
            biased;
            lines = queue.recv() => match lines {
                Some(lines) => (lines, None),
                None => return,
            },
            Some(delivery) = deliveries.recv() => (delivery.text, Some(delivery.written)),
        };
        ears.hear(&lines);
        gauge.writing_since.set(Some(Instant::now()));
        let written = async {
            stdin.write_all(&lines).await?;
            stdin.flush().await
        };
        if written.await.is_err() {
            super::tell_recipient(&ears.told, StdinClosed);
            return;
        }
        gauge.writing_since.set(None);
        if let Some(written_to) = written_to {
            // Whoever delivers may have ended meanwhile.
            written_to.send(()).ok();
        }
    }
}

/// One batch of lines on its way through the pump.
#[derive(Default)]
struct Batch {
    said: ChildSaid,
    alerts: AlertBatch,
    /// Lines for the agent's log.
    log_lines: Vec<u8>,
    /// Dropped lines that are kept for people.
    dropped_kept: usize,
}

/// Alerts on their way to the disk.
struct Storing {
    alerts: Arc<AlertBatch>,
    /// When they were read.
    time: LogTime,
    /// A task of its own: the journal gets the alerts even when the pump ends.
    stored: JoinHandle<Stored>,
}

impl Storing {
    /// What it takes of [`IN_FLIGHT_BYTES`].
    fn cost(&self) -> usize {
        self.alerts.bytes() + self.alerts.len() * LINE_OVERHEAD_BYTES + BATCH_OVERHEAD_BYTES
    }
}

/// What the journal says of a batch of alerts.
type Stored = Result<Result<Vec<bool>, AlertsRefused>, MailboxError>;

/// Reads the child's stdout to its end, or until it is empty after the process is gone.
pub(crate) async fn read_stdout(
    output: Output,
    stdout: Box<dyn AsyncRead + Unpin>,
    max_line_bytes: usize,
    journal: Addr<AlertJournal>,
    stdin: mpsc::WeakSender<Vec<u8>>,
) {
    let mut reader = ModuleReader::new(stdout, max_line_bytes);
    let mut gone = output.gone.clone();
    let mut pump = StdoutPump {
        writer: LogWriter::new(&output),
        output,
        journal,
        stdin,
        acknowledges: false,
        in_flight: VecDeque::new(),
    };
    let mut lines = LineBatch::default();
    loop {
        if pump.in_flight.iter().map(Storing::cost).sum::<usize>() >= IN_FLIGHT_BYTES {
            pump.settle_oldest().await;
            continue;
        }
        lines.clear();
        if let Some(bounds) = pump.output.changed_bounds() {
            reader.set_max_line_bytes(bounds.line_bytes);
        }
        tokio::select! {
            biased;
            stored = oldest_stored(&mut pump.in_flight) => pump.settle(stored).await,
            read = next_lines(&mut reader, &mut lines, &mut gone) => match read {
                Read::Lines => pump.carry(&lines).await,
                Read::Empty => break,
                Read::End => {
                    super::tell_recipient(&pump.output.closed, StdoutClosed);
                    break;
                }
            },
        }
    }
    while !pump.in_flight.is_empty() {
        pump.settle_oldest().await;
    }
    pump.writer.finish().await;
}

/// The oldest batch in flight when the journal has answered; never when none is. Cancel safe.
async fn oldest_stored(in_flight: &mut VecDeque<Storing>) -> (Storing, Stored) {
    let Some(oldest) = in_flight.front_mut() else { return std::future::pending().await };
    // Only a panic ends the task early, and a panic ends the agent.
    let stored = (&mut oldest.stored).await.unwrap_or(Err(MailboxError::Closed));
    match in_flight.pop_front() {
        Some(oldest) => (oldest, stored),
        None => std::future::pending().await,
    }
}

enum Read {
    Lines,
    /// The process is gone and its pipe is empty, but somebody else holds it open.
    Empty,
    End,
}

async fn next_lines(
    reader: &mut ModuleReader<Box<dyn AsyncRead + Unpin>>,
    lines: &mut LineBatch,
    gone: &mut watch::Receiver<bool>,
) -> Read {
    let enough = |lines: &LineBatch| lines.bytes() + lines.len() * LINE_OVERHEAD_BYTES >= BATCH_BYTES;
    let reading = reader.next_batch(lines, enough);
    tokio::pin!(reading);
    let read = if *gone.borrow_and_update() {
        tokio::time::timeout(DRAIN_QUIET, reading).await
    } else {
        tokio::select! {
            biased;
            read = &mut reading => Ok(read),
            // Read on with the quiet time as the limit.
            _ = gone.changed() => tokio::time::timeout(DRAIN_QUIET, reading).await,
        }
    };
    match read {
        Ok(Ok(true)) => Read::Lines,
        Ok(Ok(false) | Err(_)) => Read::End,
        Err(_) => Read::Empty,
    }
}

/// Writes log lines on the blocking pool, one write at a time, while the next batch is read.
struct LogWriter {
    agent_log: AgentLog,
    writing: Option<Job<()>>,
}

impl LogWriter {
    fn new(output: &Output) -> Self {
        Self { agent_log: output.agent_log.clone(), writing: None }
    }

    /// Hands over `lines`; waits while the write before is under way.
    async fn write(&mut self, lines: Vec<u8>) {
        if !lines.is_empty() {
            self.write_made(move || lines).await;
        }
    }

    /// The same with lines that are made where they are written, which spares the arbiter the work.
    async fn write_made(&mut self, make_lines: impl FnOnce() -> Vec<u8> + Send + 'static) {
        self.finish().await;
        let agent_log = self.agent_log.clone();
        self.writing = Some(work_threads::run(Lane::Log, move || {
            // The log counts what it cannot write and says so in the agent's status.
            agent_log.write_module_lines(&make_lines()).ok();
        }));
    }

    async fn finish(&mut self) {
        if let Some(writing) = self.writing.take() {
            // Only a panic ends the task early, and a panic ends the agent.
            writing.await.ok();
        }
    }
}

struct StdoutPump {
    output: Output,
    writer: LogWriter,
    journal: Addr<AlertJournal>,
    stdin: mpsc::WeakSender<Vec<u8>>,
    /// The module asked for acknowledgements.
    acknowledges: bool,
    /// Oldest first.
    in_flight: VecDeque<Storing>,
}

impl StdoutPump {
    /// Does what one batch of lines asks for; its alerts are on their way to the disk afterwards.
    async fn carry(&mut self, lines: &LineBatch) {
        let time = LogTime::now();
        let mut batch = Batch::default();
        let was_flooding = self.output.budget.is_exhausted();
        self.output.budget.refill(Instant::now());
        if let Some(suppressed) = self.output.budget.suppressed() {
            warn!(self.output.log, "module logged too much, lines were left out"; "dropped" => suppressed);
        }
        let watched = self.output.feeds.wire.is_watched();
        for line in lines.iter() {
            let kept = match line {
                Ok(line) => self.take(line, &time, &mut batch),
                Err(bad) => Err(bad.clone()),
            };
            let dropped = match &kept {
                Ok(carried) => (!carried).then_some(LOG_BUDGET),
                Err(bad) => Some(bad.reason()),
            };
            if watched {
                let (life, text) = (Some(self.output.life), line.unwrap_or_default());
                self.output.feeds.wire.send(|| ModuleLine { life, ..line_from_module(text, dropped) });
            }
            if let Err(bad) = kept {
                self.output.drop_line(&bad, &mut batch.said.counters);
                self.output.keep_dropped(&bad, line.unwrap_or_default(), &mut batch);
            }
        }
        self.output.keep_lines(lines, &mut batch.said);
        let floods = self.output.budget.is_exhausted();
        batch.said.flooding = (floods != was_flooding).then_some(floods);
        if let Some(registration) = &batch.said.registration {
            self.acknowledges = registration.capabilities.iter().any(|name| name == capability::ALERT_ACK);
        }
        let alerts = std::mem::take(&mut batch.alerts);
        self.output.told.send(batch.said).await.ok();
        if !alerts.is_empty() {
            self.store(alerts, time);
        }
        self.write_log(batch.log_lines).await;
    }

    /// Sorts one message into the batch; false when it is a line for the log beyond the module's budget.
    fn take(&mut self, line: &str, time: &LogTime, batch: &mut Batch) -> Result<bool, BadLine> {
        if let Some(alert) = read_plain(line) {
            batch.said.counters.alerts += 1;
            batch.alerts.push(alert.id, alert.message);
            return Ok(true);
        }
        let message = MessageRef::parse(line)?;
        match message.class {
            Class::Log => {
                let log: LogParameters<'_> = message.parameters_as("log")?;
                batch.said.counters.logs += 1;
                let counters = &mut batch.said.counters;
                return Ok(self.output.log_line(time, "log", &log.message, &mut batch.log_lines, counters));
            }
            Class::Alert => {
                let alert: AlertParameters<'_> = message.parameters_as("alert")?;
                batch.said.counters.alerts += 1;
                batch.alerts.push_text(alert.id.as_deref(), &alert.message);
            }
            Class::Ping => {
                let nonce = match message.parameters {
                    Some(_) => message.parameters_as::<PingParameters>("ping")?.nonce,
                    None => None,
                };
                if batch.said.pongs.len() < PONGS_IN_BATCH {
                    batch.said.pongs.push(nonce);
                } else {
                    *batch.said.counters.dropped.entry("wrong_nonce").or_default() += 1;
                }
            }
            Class::Register => {
                let register: RegisterParameters<'_> = message.parameters_as("register")?;
                batch.said.registration = Some(Registration {
                    sockpath: register.sockpath.into_owned(),
                    capabilities: register.capabilities.into_iter().take(16).map(Into::into).collect(),
                });
            }
            Class::Health => {
                let mut health: HealthParameters = message.parameters_as("health")?;
                health.bound_values();
                batch.said.health = Some(health);
            }
            Class::Configured => {
                let configured: ConfiguredParameters = message.parameters_as("configured")?;
                batch.said.configured.push(configured);
                // Only the newest ones can be about the configuration in force.
                let surplus = batch.said.configured.len().saturating_sub(CONFIGURED_IN_BATCH);
                batch.said.configured.drain(..surplus);
            }
            Class::Ack => {
                let ack: AckParameters<'_> = message.parameters_as("ack")?;
                // What was not delivered needs no answer: at most a window of alerts is under way.
                if batch.said.acknowledged.len() < ACKS_IN_BATCH {
                    batch.said.acknowledged.push(ack.id.into_owned());
                }
            }
            class => return Err(BadLine::unexpected(&class)),
        }
        Ok(true)
    }

    /// Sends the alerts to the journal.
    fn store(&mut self, alerts: AlertBatch, time: LogTime) {
        let alerts = Arc::new(alerts);
        let store = StoreAlerts {
            module: self.output.module.clone(),
            alerts: alerts.clone(),
            last_words: *self.output.gone.borrow(),
        };
        let stored = actix_rt::spawn(self.journal.send(store));
        self.in_flight.push_back(Storing { alerts, time, stored });
    }

    /// Waits for the oldest batch. Once the module is dead it is not waited for long: its successor must not
    /// wait for a disk that takes nothing, and the journal has the alerts in memory and goes on alone.
    async fn settle_oldest(&mut self) {
        self.output.gauge.not_reading_since.set(Some(Instant::now()));
        let gone = &mut self.output.gone;
        let stored = tokio::select! {
            biased;
            stored = oldest_stored(&mut self.in_flight) => Some(stored),
            () = async {
                gone.wait_for(|gone| *gone).await.ok();
                tokio::time::sleep(DRAIN_QUIET).await;
            } => None,
        };
        self.output.gauge.not_reading_since.set(None);
        match stored {
            Some(stored) => self.settle(stored).await,
            None => self.in_flight.clear(),
        }
    }

    /// Acknowledges a batch that is safe, and puts its new alerts into the log.
    async fn settle(&mut self, (storing, stored): (Storing, Stored)) {
        let Storing { alerts, time, .. } = storing;
        let new = match stored {
            Ok(Ok(new)) => new,
            Ok(Err(refused)) => {
                error!(self.output.log, "alerts of a module that ended are lost";
                    "dropped" => alerts.len(), "error" => %refused);
                return;
            }
            // The journal ends only with the agent.
            Err(_) => return,
        };
        if self.acknowledges {
            let mut acks = Vec::new();
            for id in alerts.iter().filter_map(|alert| alert.id) {
                WireMessage::write_ack_line(&mut acks, id);
            }
            self.acknowledge(acks).await;
        }
        let (agent_log, module) = (self.output.agent_log.clone(), self.output.module.clone());
        self.output.gauge.not_reading_since.set(Some(Instant::now()));
        let make_lines = move || {
            let mut lines = Vec::with_capacity(alerts.bytes() + 64 * alerts.len());
            for (alert, _) in alerts.iter().zip(new).filter(|(_, new)| *new) {
                // Alerts are bounded by what the journal takes, not by the log's budget: each one is in the log.
                agent_log.format_alert_line(&mut lines, &time, module.as_str(), alert.message);
            }
            lines
        };
        self.writer.write_made(make_lines).await;
        self.output.gauge.not_reading_since.set(None);
    }

    /// Hands lines to the log; waits while it is slow.
    async fn write_log(&mut self, lines: Vec<u8>) {
        self.output.gauge.not_reading_since.set(Some(Instant::now()));
        self.writer.write(lines).await;
        self.output.gauge.not_reading_since.set(None);
    }

    async fn acknowledge(&mut self, acks: Vec<u8>) {
        let Some(stdin) = self.stdin.upgrade() else { return };
        if acks.is_empty() {
            return;
        }
        // Waits when the module does not read its acknowledgements: its alerts then wait in its own pipe, and
        // the heartbeat ends it when it goes on like this.
        tokio::select! {
            _ = stdin.send(acks) => {}
            _ = self.output.gone.wait_for(|gone| *gone) => {}
        }
    }
}

/// Reads the child's stderr; every line goes to the agent's log as text.
pub(crate) async fn read_stderr(mut output: Output, stderr: Box<dyn AsyncRead + Unpin>) {
    let mut reader = ModuleReader::new(stderr, MAX_STDERR_LINE_BYTES);
    let mut writer = LogWriter::new(&output);
    let mut lines = LineBatch::default();
    loop {
        lines.clear();
        output.changed_bounds();
        if !matches!(next_lines(&mut reader, &mut lines, &mut output.gone).await, Read::Lines) {
            break;
        }
        let time = LogTime::now();
        let mut said = ChildSaid::default();
        let mut log_lines = Vec::new();
        output.budget.refill(Instant::now());
        if let Some(suppressed) = output.budget.suppressed() {
            warn!(output.log, "module wrote too much to stderr, lines were left out"; "dropped" => suppressed);
        }
        for line in lines.iter() {
            match line {
                Ok(text) => {
                    output.log_line(&time, "stderr", text, &mut log_lines, &mut said.counters);
                }
                Err(bad) => output.drop_line(bad, &mut said.counters),
            }
        }
        for text in lines.iter().rev().take(KEPT_LINES).rev().flatten() {
            output.keep(module_line("stderr", text), &mut said);
        }
        output.told.send(said).await.ok();
        writer.write(log_lines).await;
    }
    writer.finish().await;
}

impl Output {
    /// Takes over bounds that changed, and returns them for what is not in here.
    fn changed_bounds(&mut self) -> Option<PumpBounds> {
        if !self.bounds.has_changed().unwrap_or(false) {
            return None;
        }
        let bounds = self.bounds.borrow_and_update().clone();
        self.budget.set_bounds(&bounds.logging);
        Some(bounds)
    }

    /// Puts a line into the log's lines; false when the module has logged too much.
    fn log_line(
        &mut self,
        time: &LogTime,
        source: &str,
        text: &str,
        log_lines: &mut Vec<u8>,
        counters: &mut Counters,
    ) -> bool {
        let fits = self.budget.take(text.len() + LINE_OVERHEAD_BYTES);
        if fits {
            self.agent_log.format_module_line(log_lines, time, self.module.as_str(), source, text);
        } else {
            *counters.dropped.entry(LOG_BUDGET).or_default() += 1;
        }
        fits
    }

    /// Counts a line that is not carried and says so in the log, within the module's log budget.
    fn drop_line(&mut self, bad: &BadLine, counters: &mut Counters) {
        let count: &mut u64 = counters.dropped.entry(bad.reason()).or_default();
        *count += 1;
        if *count == 1 && self.budget.take(TOLD_DROP_BYTES) {
            warn!(self.log, "line from the module dropped"; "error" => ?bad.to_string());
        } else {
            debug!(self.log, "line from the module dropped"; "error" => ?bad.to_string());
        }
    }

    fn keep(&self, line: ModuleLine, said: &mut ChildSaid) {
        self.feeds.logs.send(|| line.clone());
        said.lines.push(line);
    }

    /// Keeps a dropped line for people, as far as a batch may have such.
    fn keep_dropped(&self, bad: &BadLine, line: &str, batch: &mut Batch) {
        if batch.dropped_kept < DROPPED_KEPT {
            batch.dropped_kept += 1;
            self.keep(dropped_line(&bad.to_string(), line), &mut batch.said);
        }
    }

    /// Keeps the newest log lines of a batch.
    fn keep_lines(&self, lines: &LineBatch, said: &mut ChildSaid) {
        for line in lines.iter().rev().take(KEPT_LINES).rev().flatten() {
            // Most lines of a flood are of one class: only those that may be logs are read a second time.
            if line.contains("\"log\"")
                && let Ok(message) = MessageRef::parse(line)
                && message.class == Class::Log
                && let Ok(log) = message.parameters_as::<LogParameters<'_>>("log")
            {
                self.keep(module_line("log", &log.message), said);
            }
        }
    }
}
