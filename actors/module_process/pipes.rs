//! What moves through a module's pipes, and who waits for whom.
//!
//! ```text
//!   stdout ──batch──► sorted ──alerts──► in flight to the journal ──acknowledgements──► stdin
//!                       └────lines──────────► log ◄──────recorded alerts──────┘
//! ```
//!
//! The readers and the writer are fields of the actor; a future on its own context has one of them for one batch and
//! hands it back. So nothing outlives the actor, and all that is decided here is decided between two batches: [`go_on`]
//! is called after everything that happens and begins whatever can go on.
//!
//! stdout is read while less than [`IN_FLIGHT_BYTES`] wait for the journal and the log, and the module reads its
//! acknowledgements. Otherwise its lines wait in its own pipe.
//!
//! [`go_on`]: ModuleProcess::go_on

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, MailboxError, SpawnHandle, WrapFuture};
use slog::error;
use tokio::io::AsyncRead;
use tokio::sync::watch;
use tokio::time::Instant;
use vigie_log::LogTime;
use vigie_protocol::control::{LineFate, ModuleLine};
use vigie_protocol::message::{Message, capability};
use vigie_protocol::severity::is_canary;
use vigie_protocol::stream::{LineBatch, ModuleReader};

use super::ModuleProcess;
use super::intake::{Batch, LINE_OVERHEAD_BYTES};
use super::lifecycle::Event;
use super::stdin::{Lines, Next, Stdin};
use crate::alert_journal::{AlertBatch, AlertsRefused, StoreAlerts, text_of};
use crate::line_feed::wire_line;
use crate::work_threads::{self, Lane};

/// Text of lines that is handled in one go, in bytes. Enough that the costs per batch do not count, little
/// enough that one batch holds up the other modules for at most a few milliseconds.
const BATCH_BYTES: usize = 512 * 1024;

/// Text that waits for the journal or the log while further lines are read, in bytes. Beyond it the module waits, and
/// its echoes of heartbeats with it: the bound is memory and not a number of batches, so that few alerts and a disk
/// that hangs do not hide that a module stands still.
const IN_FLIGHT_BYTES: usize = 4 * BATCH_BYTES;

/// What a batch in flight costs beside its text: its places in the queues.
const BATCH_OVERHEAD_BYTES: usize = 4096;

/// What the line of an acknowledgement takes beside the id, in bytes.
const ACK_LINE_BYTES: usize = 38;

/// Longest line on stderr, in bytes; stderr is for people.
pub(super) const MAX_STDERR_LINE_BYTES: usize = 64 * 1024;

/// Quiet time after which the pipe of a process that is gone counts as empty.
const DRAIN_QUIET: Duration = Duration::from_millis(100);

/// Which output pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Stdout,
    Stderr,
}

/// An output pipe of the child.
pub(super) enum Pipe {
    /// It came to its end, or is not there yet.
    Closed,
    /// Nobody reads.
    Idle(Reader),
    /// A batch is being read; the reader comes back with it.
    Reading(SpawnHandle),
}

impl Pipe {
    pub(super) fn is_closed(&self) -> bool {
        matches!(self, Self::Closed)
    }
}

/// Reads batches of lines.
pub(super) struct Reader {
    frames: ModuleReader<Box<dyn AsyncRead + Unpin>>,
    lines: LineBatch,
    /// The process is gone, so that an empty pipe is at its end whoever else holds it open.
    gone: watch::Receiver<bool>,
}

enum Read {
    Lines,
    /// The process is gone and its pipe is empty, but somebody else holds it open.
    Empty,
    End,
}

impl Reader {
    pub(super) fn new(
        stream: Box<dyn AsyncRead + Unpin>,
        max_line_bytes: usize,
        gone: watch::Receiver<bool>,
    ) -> Self {
        Self { frames: ModuleReader::new(stream, max_line_bytes), lines: LineBatch::default(), gone }
    }

    /// Reads the next batch into `lines`, and hands the reader back with it.
    async fn next(mut self) -> (Self, Read) {
        // One batch, then everybody else: a module that always has more would hold the thread.
        tokio::task::yield_now().await;
        let read = self.read().await;
        (self, read)
    }

    async fn read(&mut self) -> Read {
        self.lines.clear();
        let enough = |lines: &LineBatch| lines.bytes() + lines.len() * LINE_OVERHEAD_BYTES >= BATCH_BYTES;
        let reading = self.frames.next_batch(&mut self.lines, enough);
        tokio::pin!(reading);
        let read = if *self.gone.borrow_and_update() {
            tokio::time::timeout(DRAIN_QUIET, reading).await
        } else {
            tokio::select! {
                biased;
                read = &mut reading => Ok(read),
                // Read on with the quiet time as the limit.
                _ = self.gone.changed() => tokio::time::timeout(DRAIN_QUIET, reading).await,
            }
        };
        match read {
            Ok(Ok(true)) => Read::Lines,
            Ok(Ok(false) | Err(_)) => Read::End,
            Err(_) => Read::Empty,
        }
    }
}

/// What the journal says of a batch of alerts.
type Stored = Result<Result<Vec<bool>, AlertsRefused>, MailboxError>;

/// Alerts on their way to the disk.
pub(super) struct Storing {
    alerts: Arc<AlertBatch>,
    /// When they were read.
    time: LogTime,
    /// The journal's answer; away while it is waited for.
    stored: Option<Pin<Box<dyn Future<Output = Stored>>>>,
}

impl Storing {
    /// What it takes of [`IN_FLIGHT_BYTES`].
    fn cost(&self) -> usize {
        self.alerts.bytes() + self.alerts.len() * LINE_OVERHEAD_BYTES + BATCH_OVERHEAD_BYTES
    }
}

/// Lines for the log, made where they are written, which spares the arbiter the work.
struct ForLog {
    make: Box<dyn FnOnce() -> Vec<u8> + Send>,
    /// What they take of [`IN_FLIGHT_BYTES`].
    cost: usize,
}

/// What is on its way from the child's output to the disk.
#[derive(Default)]
pub(super) struct Flow {
    /// Alerts that the journal has, oldest first.
    in_flight: VecDeque<Storing>,
    /// Waits for the journal's answer to the oldest batch.
    settling: Option<SpawnHandle>,
    /// Ends the wait for it, once the module is gone.
    giving_up: Option<SpawnHandle>,
    /// Lines that wait for the log; what waits is one write.
    for_log: Vec<ForLog>,
    /// The write to the log that is under way, and what its lines take.
    logging: Option<(SpawnHandle, usize)>,
    /// Since when stdout is not read because the journal or the log is slow.
    not_reading_since: Option<Instant>,
}

impl Flow {
    fn is_full(&self) -> bool {
        let for_log = self.for_log.iter().map(|lines| lines.cost);
        let logging = self.logging.map(|(_, cost)| cost);
        self.in_flight.iter().map(Storing::cost).chain(for_log).chain(logging).sum::<usize>()
            >= IN_FLIGHT_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.in_flight.is_empty() && self.for_log.is_empty() && self.logging.is_none()
    }

    pub(super) fn not_reading_since(&self) -> Option<Instant> {
        self.not_reading_since
    }
}

impl ModuleProcess {
    /// Begins whatever can go on, and ends the life when nothing is left of it.
    pub(super) fn go_on(&mut self, ctx: &mut Context<Self>) {
        self.write_stdin(ctx);
        self.settle_oldest(ctx);
        self.write_log(ctx);
        self.read_stdout(ctx);
        self.read(Source::Stderr, ctx);
        self.give_up_waiting(ctx);
        self.finish_if_over(ctx);
    }

    fn read_stdout(&mut self, ctx: &mut Context<Self>) {
        if self.flow.is_full() {
            self.flow.not_reading_since.get_or_insert_with(Instant::now);
            return;
        }
        self.flow.not_reading_since = None;
        // The alerts of a module that does not read its acknowledgements wait in its own pipe, and the heartbeat ends
        // it when it goes on like this.
        if !self.stdin.as_ref().is_some_and(Stdin::is_full) {
            self.read(Source::Stdout, ctx);
        }
    }

    fn pipe(&mut self, source: Source) -> &mut Pipe {
        match source {
            Source::Stdout => &mut self.stdout,
            Source::Stderr => &mut self.stderr,
        }
    }

    /// Reads the next batch, unless one is being read or lines of this pipe wait.
    fn read(&mut self, source: Source, ctx: &mut Context<Self>) {
        let is_held = source == Source::Stderr && !self.flow.for_log.is_empty();
        if is_held || !matches!(self.pipe(source), Pipe::Idle(_)) {
            return;
        }
        let line_bytes = self.config.limits.line_bytes;
        let Pipe::Idle(mut reader) = std::mem::replace(self.pipe(source), Pipe::Closed) else { return };
        if source == Source::Stdout {
            reader.frames.set_max_line_bytes(line_bytes);
        }
        let reading = reader.next().into_actor(self);
        let handle = ctx.spawn(reading.map(move |(reader, read), this, ctx| {
            this.was_read(source, reader, &read, ctx);
        }));
        *self.pipe(source) = Pipe::Reading(handle);
    }

    fn was_read(&mut self, source: Source, reader: Reader, read: &Read, ctx: &mut Context<Self>) {
        match read {
            Read::Lines => {
                let time = LogTime::now();
                let batch = match source {
                    Source::Stdout => self.messages.messages(&reader.lines, &time),
                    Source::Stderr => self.texts.texts(&reader.lines, &time),
                };
                self.carry(batch, time, ctx);
                *self.pipe(source) = Pipe::Idle(reader);
            }
            Read::Empty => *self.pipe(source) = Pipe::Closed,
            Read::End => {
                *self.pipe(source) = Pipe::Closed;
                if source == Source::Stdout {
                    self.step(Event::StdoutClosed, ctx);
                }
            }
        }
        self.go_on(ctx);
    }

    /// Does what one batch of lines asks for; its alerts are on their way to the disk afterwards.
    fn carry(&mut self, mut batch: Batch, time: LogTime, ctx: &mut Context<Self>) {
        let alerts = std::mem::take(&mut batch.alerts);
        let log_lines = std::mem::take(&mut batch.log_lines);
        self.heard(batch, ctx);
        if !alerts.is_empty() {
            self.store(alerts, time);
        }
        if !log_lines.is_empty() {
            let cost = log_lines.len() + BATCH_OVERHEAD_BYTES;
            self.flow.for_log.push(ForLog { make: Box::new(|| log_lines), cost });
        }
        self.write_log(ctx);
    }

    /// Sends the alerts to the journal.
    fn store(&mut self, alerts: AlertBatch, time: LogTime) {
        let alerts = Arc::new(alerts);
        let store = StoreAlerts {
            module: self.spec.name().clone(),
            alerts: alerts.clone(),
            about: None,
            last_words: *self.gone.borrow(),
        };
        // An address of its own always has a place in the mailbox: the journal has the alerts from now on, in their
        // order, also when this life ends before it answers.
        let stored = Box::pin(self.services.journal.clone().send(store));
        self.flow.in_flight.push_back(Storing { alerts, time, stored: Some(stored) });
    }

    /// Waits for the journal's answer to the oldest batch.
    fn settle_oldest(&mut self, ctx: &mut Context<Self>) {
        let Some(stored) = self.flow.in_flight.front_mut().and_then(|oldest| oldest.stored.take()) else {
            return;
        };
        self.flow.settling = Some(ctx.spawn(stored.into_actor(self).map(|stored, this, ctx| {
            if let Some(giving_up) = this.flow.giving_up.take() {
                ctx.cancel_future(giving_up);
            }
            if let Some(oldest) = this.flow.in_flight.pop_front() {
                this.settle(oldest, stored);
            }
            this.go_on(ctx);
        })));
    }

    /// Acknowledges a batch that is safe, and puts its new alerts into the log.
    fn settle(&mut self, storing: Storing, stored: Stored) {
        let cost = storing.cost();
        let Storing { alerts, time, .. } = storing;
        let new = match stored {
            Ok(Ok(new)) => new,
            Ok(Err(refused)) => {
                error!(self.log, "alerts of a module that ended are lost";
                    "dropped" => alerts.len(), "error" => %refused);
                return;
            }
            // The journal ends only with the agent.
            Err(_) => return,
        };
        if self.can(capability::ALERT_ACK)
            && let Some(stdin) = &mut self.stdin
        {
            let mut acks = Vec::with_capacity(alerts.id_bytes() + alerts.len() * ACK_LINE_BYTES);
            for id in alerts.iter().filter_map(|alert| alert.id) {
                Message::write_ack_line(&mut acks, id);
            }
            stdin.push(acks);
        }
        let (agent_log, module) = (self.services.agent_log.clone(), self.spec.name().clone());
        let make = Box::new(move || {
            let mut lines = Vec::with_capacity(alerts.bytes() + 64 * alerts.len());
            // Alerts are bounded by what the journal takes, not by the log's budget: each one is in the log.
            let texts = for_log(module.as_str(), &alerts, new);
            agent_log.format_alert_lines(&mut lines, &time, module.as_str(), texts);
            lines
        });
        self.flow.for_log.push(ForLog { make, cost });
    }

    /// Hands the next lines to the log, one write at a time, while the next batch is read.
    fn write_log(&mut self, ctx: &mut Context<Self>) {
        if self.flow.logging.is_some() {
            return;
        }
        let lines = std::mem::take(&mut self.flow.for_log);
        if lines.is_empty() {
            return;
        }
        let cost = lines.iter().map(|lines| lines.cost).sum();
        let agent_log = self.services.agent_log.clone();
        let writing = work_threads::run(Lane::Log, move || {
            for ForLog { make, .. } in lines {
                // The log counts what it cannot write and says so in the agent's status.
                agent_log.write_module_lines(&make()).ok();
            }
        });
        let handle = ctx.spawn(writing.into_actor(self).map(|_, this, ctx| {
            this.flow.logging = None;
            this.go_on(ctx);
        }));
        self.flow.logging = Some((handle, cost));
    }

    /// Once the module is dead the journal's answers are not waited for long: its successor must not wait for a disk
    /// that takes nothing, and the journal has the alerts in memory and goes on alone.
    fn give_up_waiting(&mut self, ctx: &mut Context<Self>) {
        let waits = !self.flow.in_flight.is_empty() && (self.stdout.is_closed() || self.flow.is_full());
        if waits && self.flow.giving_up.is_none() && *self.gone.borrow() {
            self.flow.giving_up = Some(ctx.run_later(DRAIN_QUIET, |this, ctx| {
                this.flow.giving_up = None;
                this.forget_in_flight(ctx);
                this.go_on(ctx);
            }));
        }
    }

    fn forget_in_flight(&mut self, ctx: &mut Context<Self>) {
        if let Some(settling) = self.flow.settling.take() {
            ctx.cancel_future(settling);
        }
        self.flow.in_flight.clear();
    }

    /// The pipes of a process that is gone are read no further.
    pub(super) fn end_drain(&mut self, ctx: &mut Context<Self>) {
        for source in [Source::Stdout, Source::Stderr] {
            if let Pipe::Reading(reading) = std::mem::replace(self.pipe(source), Pipe::Closed) {
                ctx.cancel_future(reading);
            }
        }
        self.forget_in_flight(ctx);
        self.flow.for_log.clear();
        if let Some((logging, _)) = self.flow.logging.take() {
            ctx.cancel_future(logging);
        }
        self.go_on(ctx);
    }

    /// Writes what waits for stdin; closes it when that was all and it is to be closed.
    pub(super) fn write_stdin(&mut self, ctx: &mut Context<Self>) {
        let Some(stdin) = &mut self.stdin else { return };
        let (mut writer, Lines { text, written }) = match stdin.next() {
            Next::Write(writer, lines) => (writer, lines),
            Next::Nothing => return,
            Next::Close => {
                self.stdin = None;
                return;
            }
        };
        self.show_written(&text);
        let writing = async move { (writer.send_bytes(&text).await, writer) };
        let handle = ctx.spawn(writing.into_actor(self).map(|(result, writer), this, ctx| {
            if result.is_err() {
                this.stdin = None;
                this.step(Event::StdinClosed, ctx);
            } else if let Some(stdin) = &mut this.stdin {
                stdin.wrote(writer);
            }
            if result.is_ok()
                && let Some(written) = written
            {
                // Whoever delivers may have ended meanwhile.
                written.send(()).ok();
            }
            this.go_on(ctx);
        }));
        if let Some(stdin) = &mut self.stdin {
            stdin.writes(handle, Instant::now());
        }
    }

    /// Closes stdin at once, also under a write that is stuck.
    pub(super) fn cut_stdin(&mut self, ctx: &mut Context<Self>) {
        if let Some(writing) = self.stdin.take().and_then(|stdin| stdin.writing()) {
            ctx.cancel_future(writing);
        }
    }

    /// Shows lines to who watches, before they are written: an answer never comes before its question.
    fn show_written(&self, lines: &[u8]) {
        if !self.feeds.wire.is_watched() {
            return;
        }
        let text = String::from_utf8_lossy(lines);
        for line in text.lines() {
            let acknowledges = line.starts_with("{\"class\":\"ack\"");
            let fate = acknowledges.then_some(LineFate::Acknowledged);
            let life = Some(self.incarnation.0);
            self.feeds.wire.send(|| ModuleLine { fate, life, ..wire_line("to_module", line) });
        }
    }
}

/// The texts of the alerts that the log shows: those that the journal did not have, but for proofs that nothing
/// happened, of which fswatch sends one a minute.
fn for_log<'a>(
    module: &'a str,
    alerts: &'a AlertBatch,
    new: impl IntoIterator<Item = bool> + 'a,
) -> impl Iterator<Item = &'a str> {
    let new = alerts.iter().zip(new).filter_map(|(alert, new)| new.then_some(alert.message));
    // Reading each text would cost more than writing it.
    new.filter(move |text| !text.contains(r#"\"canary\""#) || !is_canary(module, &text_of(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_shows_each_new_alert_and_no_canary() {
        let mut alerts = AlertBatch::default();
        let named_so = r#"{"severity":"low","alert":"\"canary\" created","event":"created"}"#;
        for text in [r#"{"severity":"low","alert":"canary 1","event":"canary"}"#, named_so, "known"] {
            alerts.push_text(None, text);
        }
        let shown = |module| -> Vec<String> {
            for_log(module, &alerts, [true, true, false]).map(|text| text_of(text).into_owned()).collect()
        };

        assert_eq!(shown("fswatch"), [named_so]);
        assert_eq!(shown("honeypot").len(), 2);
    }
}
