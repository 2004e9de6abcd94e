//! What the lines of a module say: each batch of them is sorted into what is to be done. No I/O: what is done comes
//! after.

use slog::{Logger, debug, warn};
use tokio::time::Instant;
use vigie_log::{AgentLog, LogTime};
use vigie_protocol::control::ModuleLine;
use vigie_protocol::json::whole_characters;
use vigie_protocol::message::{
    AckParameters, AlertParameters, BadLine, Class, ConfiguredParameters, HealthParameters, LogParameters,
    MessageRef, PingParameters, RegisterParameters,
};
use vigie_protocol::module_name::ModuleName;
use vigie_protocol::stream::LineBatch;

use super::Counters;
use super::log_budget::LogBudget;
use crate::alert_journal::{AlertBatch, read_plain};
use crate::line_feed::{KEPT_LINES, LineFeeds, dropped_line, line_from_module, module_line};

/// What a line costs of a batch beside its text: its place in memory, and the work for it.
pub(super) const LINE_OVERHEAD_BYTES: usize = 32;

/// Why a line for the log was dropped: the module has logged too much.
const LOG_BUDGET: &str = "log_budget";

/// What telling of a dropped line costs of the module's log budget, in bytes.
const TOLD_DROP_BYTES: usize = 512;

/// Dropped lines of one batch that are kept for people: the rest is only counted.
const DROPPED_KEPT: usize = 8;

/// Echoes of heartbeats that are looked at in one batch; more are counted only, however many a module sends.
const PONGS_IN_BATCH: usize = 64;

/// Confirmations of configurations that are looked at in one batch.
const CONFIGURED_IN_BATCH: usize = 4;

/// Acknowledgements of delivered alerts that are looked at in one batch; no more are under way.
const ACKS_IN_BATCH: usize = 256;

/// What a module said in one batch of lines.
#[derive(Default)]
pub(super) struct Batch {
    /// Echoes of heartbeats.
    pub(super) pongs: Vec<Option<u64>>,
    /// The newest registration.
    pub(super) registration: Option<Registration>,
    /// Numbers of messages.
    pub(super) counters: Counters,
    /// The newest lines, for people.
    pub(super) lines: Vec<ModuleLine>,
    /// The newest set of conditions and values that the module reported of itself.
    pub(super) health: Option<HealthParameters>,
    /// What it said became of configurations, oldest first.
    pub(super) configured: Vec<ConfiguredParameters>,
    /// Ids of alerts that were delivered to it and that it acknowledged.
    pub(super) acknowledged: Vec<String>,
    /// Whether the module's log is cut because it floods; absent when that did not change.
    pub(super) flooding: Option<bool>,
    pub(super) alerts: AlertBatch,
    /// Lines for the agent's log.
    pub(super) log_lines: Vec<u8>,
    /// Dropped lines that are kept for people.
    dropped_kept: usize,
}

/// What a module said when it registered.
#[derive(Debug, Clone)]
pub(super) struct Registration {
    /// Where it says it listens.
    pub(super) sockpath: String,
    /// What it can do.
    pub(super) capabilities: Vec<String>,
}

/// Sorts the lines of one output pipe.
#[derive(Clone)]
pub(super) struct Intake {
    pub(super) module: ModuleName,
    pub(super) life: u64,
    pub(super) agent_log: AgentLog,
    pub(super) budget: LogBudget,
    pub(super) feeds: LineFeeds,
    pub(super) log: Logger,
}

impl Intake {
    /// Sorts lines of stdout, which are messages.
    pub(super) fn messages(&mut self, lines: &LineBatch, time: &LogTime) -> Batch {
        let mut batch = Batch::default();
        let was_flooding = self.budget.is_exhausted();
        self.budget.refill(Instant::now());
        if let Some(suppressed) = self.budget.suppressed() {
            warn!(self.log, "module exceeded its log budget, lines were dropped"; "dropped" => suppressed);
        }
        let watched = self.feeds.wire.is_watched();
        for line in lines.iter() {
            let kept = match line {
                Ok(line) => self.take(line, time, &mut batch),
                Err(bad) => Err(bad.clone()),
            };
            let dropped = match &kept {
                Ok(carried) => (!carried).then_some(LOG_BUDGET),
                Err(bad) => Some(bad.reason()),
            };
            if watched {
                let (life, text) = (Some(self.life), line.unwrap_or_default());
                self.feeds.wire.send(|| ModuleLine { life, ..line_from_module(text, dropped) });
            }
            if let Err(bad) = kept {
                self.drop_line(&bad, &mut batch);
                self.keep_dropped(&bad, line.unwrap_or_default(), &mut batch);
            }
        }
        self.keep_logs(lines, &mut batch);
        let floods = self.budget.is_exhausted();
        batch.flooding = (floods != was_flooding).then_some(floods);
        batch
    }

    /// Sorts lines of stderr, which are text for the log.
    pub(super) fn texts(&mut self, lines: &LineBatch, time: &LogTime) -> Batch {
        let mut batch = Batch::default();
        self.budget.refill(Instant::now());
        if let Some(suppressed) = self.budget.suppressed() {
            warn!(self.log, "module wrote too much to stderr, lines were dropped"; "dropped" => suppressed);
        }
        for line in lines.iter() {
            match line {
                Ok(text) => {
                    self.log_line(time, "stderr", text, &mut batch);
                }
                Err(bad) => self.drop_line(bad, &mut batch),
            }
        }
        for text in lines.iter().rev().take(KEPT_LINES).rev().flatten() {
            self.keep(module_line("stderr", text), &mut batch);
        }
        batch
    }

    /// Sorts one message into the batch; false when it is a line for the log beyond the module's budget.
    fn take(&mut self, line: &str, time: &LogTime, batch: &mut Batch) -> Result<bool, BadLine> {
        if let Some(alert) = read_plain(line) {
            batch.counters.alerts += 1;
            batch.alerts.push(alert.id, alert.message);
            return Ok(true);
        }
        let line = whole_characters(line);
        let message = MessageRef::parse(&line)?;
        match message.class {
            Class::Log => {
                let log: LogParameters<'_> = message.parameters_as("log")?;
                batch.counters.logs += 1;
                return Ok(self.log_line(time, "log", &log.message, batch));
            }
            Class::Alert => {
                let alert: AlertParameters<'_> = message.parameters_as("alert")?;
                batch.counters.alerts += 1;
                // The text is JSON of its own by custom, and is read by whoever gets it.
                let is_json = alert.message.starts_with('{');
                let text = if is_json { whole_characters(&alert.message) } else { alert.message };
                batch.alerts.push_text(alert.id.as_deref(), &text);
            }
            Class::Ping => {
                let nonce = match message.parameters {
                    Some(_) => message.parameters_as::<PingParameters>("ping")?.nonce,
                    None => None,
                };
                if batch.pongs.len() < PONGS_IN_BATCH {
                    batch.pongs.push(nonce);
                } else {
                    *batch.counters.dropped.entry("wrong_nonce").or_default() += 1;
                }
            }
            Class::Register => {
                let register: RegisterParameters<'_> = message.parameters_as("register")?;
                batch.registration = Some(Registration {
                    sockpath: register.sockpath.into_owned(),
                    capabilities: register.capabilities.into_iter().take(16).map(Into::into).collect(),
                });
            }
            Class::Health => {
                let mut health: HealthParameters = message.parameters_as("health")?;
                health.bound_values();
                batch.health = Some(health);
            }
            Class::Configured => {
                let configured: ConfiguredParameters = message.parameters_as("configured")?;
                batch.configured.push(configured);
                // Only the newest ones can be about the configuration in force.
                let surplus = batch.configured.len().saturating_sub(CONFIGURED_IN_BATCH);
                batch.configured.drain(..surplus);
            }
            Class::Ack => {
                let ack: AckParameters<'_> = message.parameters_as("ack")?;
                // What was not delivered needs no answer: at most a window of alerts is under way.
                if batch.acknowledged.len() < ACKS_IN_BATCH {
                    batch.acknowledged.push(ack.id.into_owned());
                }
            }
            class => return Err(BadLine::unexpected(&class)),
        }
        Ok(true)
    }

    /// Puts a line into the log's lines; false when the module has logged too much.
    fn log_line(&mut self, time: &LogTime, source: &str, text: &str, batch: &mut Batch) -> bool {
        let fits = self.budget.take(text.len() + LINE_OVERHEAD_BYTES);
        if fits {
            let module = self.module.as_str();
            self.agent_log.format_module_line(&mut batch.log_lines, time, module, source, text);
        } else {
            *batch.counters.dropped.entry(LOG_BUDGET).or_default() += 1;
        }
        fits
    }

    /// Counts a line that is not carried and says so in the log, within the module's log budget.
    fn drop_line(&mut self, bad: &BadLine, batch: &mut Batch) {
        let count: &mut u64 = batch.counters.dropped.entry(bad.reason()).or_default();
        *count += 1;
        if *count == 1 && self.budget.take(TOLD_DROP_BYTES) {
            warn!(self.log, "line from the module dropped"; "error" => ?bad.to_string());
        } else {
            debug!(self.log, "line from the module dropped"; "error" => ?bad.to_string());
        }
    }

    fn keep(&self, line: ModuleLine, batch: &mut Batch) {
        self.feeds.logs.send(|| line.clone());
        batch.lines.push(line);
    }

    /// Keeps a dropped line for people, as far as a batch may have such.
    fn keep_dropped(&self, bad: &BadLine, line: &str, batch: &mut Batch) {
        if batch.dropped_kept < DROPPED_KEPT {
            batch.dropped_kept += 1;
            self.keep(dropped_line(&bad.to_string(), line), batch);
        }
    }

    /// Keeps the newest log lines of a batch.
    fn keep_logs(&self, lines: &LineBatch, batch: &mut Batch) {
        for line in lines.iter().rev().take(KEPT_LINES).rev().flatten() {
            // Most lines of a flood are of one class: only those that may be logs are read a second time.
            if line.contains("\"log\"")
                && let Ok(message) = MessageRef::parse(line)
                && message.class == Class::Log
                && let Ok(log) = message.parameters_as::<LogParameters<'_>>("log")
            {
                self.keep(module_line("log", &log.message), batch);
            }
        }
    }
}
