//! Keeps every alert on disk.
//!
//! Owns the journal's files ([`segments`]) and the memory of recorded ids ([`seen`]); what is given up when they
//! are full is decided in [`room`]. Started first by the
//! agent, stopped last. Told by each `ModuleProcess` ([`StoreAlerts`]), asked by `ControlServer`.
//!
//! Alerts that arrive while the disk is busy are written together by the next write (group commit): one
//! `fdatasync` for all of them. A [`StoreAlerts`] is answered when its alerts are safe, and only then does the
//! module learn of it. While the disk takes nothing (full, read-only, gone) the alerts stay in memory, the
//! write is tried again, `status` says why, and modules wait because they get no answer; what a module that
//! died left behind is kept up to `journal.memory_bytes`.

pub mod room;
pub mod seen;
pub mod segments;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture};
use serde::Serialize;
use slog::{Logger, error, info, o, warn};
use tokio::sync::{oneshot, watch};

use self::seen::{MAX_ID_BYTES, SeenIds};
use self::segments::{JournalError, Segments};
use crate::config_loader::ConfigChanged;
use crate::work_threads::{self, Lane};
use vigie_config::model::JournalSection;
use vigie_protocol::control::JournalStatus;
use vigie_protocol::module_name::ModuleName;

/// Messages in the mailbox before a sender waits.
const MAILBOX_CAPACITY: usize = 16;

/// Under which name the agent itself alerts.
pub const OWN_NAME: &str = "agent";

/// Delay before a failed write is tried again; doubles up to the second value.
const RETRY_INITIAL: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// One alert as a module sent it.
#[derive(Debug, Clone)]
pub struct NewAlert {
    /// The module's id for it.
    pub id: Option<String>,
    /// Its text.
    pub message: String,
}

/// Sent by a `ModuleProcess` with what it read in one go, one message at a time. The answer says which alerts
/// are new, in their order, and means that all of them are on disk; it comes late when the disk is slow. Not
/// answered (the agent ends first): the module sends again what was not acknowledged.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<bool>, AlertsRefused>")]
pub struct StoreAlerts {
    /// The module.
    pub module: ModuleName,
    /// Its alerts, in order; shared, because the sender still logs and acknowledges them.
    pub alerts: Arc<Vec<NewAlert>>,
    /// The module is gone and cannot be made to wait: refused when memory for waiting alerts is used up.
    pub last_words: bool,
}

/// The alerts were not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AlertsRefused {
    /// More is waiting for the disk than may be kept in memory.
    #[error(
        "{waiting_bytes} bytes of alerts already wait for the disk (limit journal.memory_bytes = {limit})"
    )]
    MemoryFull {
        /// Bytes that wait.
        waiting_bytes: usize,
        /// The limit.
        limit: usize,
    },
}

/// Asks how the journal is.
#[derive(Debug, Message)]
#[rtype(result = "JournalStatus")]
pub struct GetJournalStatus;

/// Asks for a view from which recorded alerts can be read and followed without the actor.
#[derive(Debug, Message)]
#[rtype(result = "JournalView")]
pub struct GetJournalView;

/// Where the alerts are, and the number of the newest one that is safe, now and as it grows.
#[derive(Debug, Clone)]
pub struct JournalView {
    /// The directory of the segments; see [`segments::JournalReader`].
    pub directory: PathBuf,
    /// Number of the newest recorded alert.
    pub recorded: watch::Receiver<u64>,
}

/// Sent by `FleetLink`: how far the fleet has the alerts. What it does not have yet outlives `journal.keep_segments`
/// as long as there is room, and is given up from the least severe on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SentThrough(
    /// Number of the newest alert that the fleet has; absent when no fleet wants them.
    pub Option<u64>,
);

/// Sent once when the agent stops: answered when nothing is waiting for the disk any more, or the disk takes
/// nothing.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FlushJournal;

/// The actor.
pub struct AlertJournal {
    log: Logger,
    directory: PathBuf,
    section: JournalSection,
    /// Ids that are on disk.
    seen: SeenIds,
    /// Ids of the write that is under way.
    writing_ids: SeenIds,
    /// The files; away while a write is under way on the blocking pool.
    segments: Option<Segments>,
    /// What waits for the next write.
    waiting: Batch,
    /// Bytes and alerts of the write that is under way.
    writing_bytes: usize,
    writing_alerts: u64,
    next_seq: u64,
    bytes: u64,
    duplicates: u64,
    error: Option<String>,
    retry_delay: Duration,
    recorded: watch::Sender<u64>,
    sent_through: Option<u64>,
    flushing: Vec<oneshot::Sender<()>>,
}

/// Records that are written together.
#[derive(Default)]
struct Batch {
    lines: Vec<u8>,
    count: u64,
    /// Ids of this batch, which are not recorded yet but must not be recorded twice.
    ids: SeenIds,
    /// Who is told when the batch is safe.
    answers: Vec<oneshot::Sender<()>>,
}

impl AlertJournal {
    /// Opens the journal under `state_dir`; blocking, called before the actors run.
    ///
    /// # Errors
    /// When the files cannot be used; the agent does not start without a place for its alerts.
    pub fn open(state_dir: &Path, section: JournalSection, log: &Logger) -> Result<Self, JournalError> {
        let log = log.new(o!("component" => "alert_journal"));
        let directory = state_dir.join("journal");
        let (segments, seen, recovery) = Segments::open(&directory, section)?;
        if recovery.cut_bytes > 0 {
            warn!(log, "cut off a half-written alert, which was never acknowledged"; "bytes" => recovery.cut_bytes);
        }
        if recovery.damaged_lines > 0 {
            error!(log, "journal holds lines that are not alerts"; "found" => recovery.damaged_lines,
                "path" => ?directory);
        }
        Ok(Self {
            log,
            directory,
            section,
            seen,
            writing_ids: SeenIds::default(),
            next_seq: segments.next_seq(),
            bytes: segments.bytes(),
            recorded: watch::Sender::new(segments.next_seq() - 1),
            segments: Some(segments),
            waiting: Batch::default(),
            writing_bytes: 0,
            writing_alerts: 0,
            duplicates: 0,
            error: None,
            retry_delay: RETRY_INITIAL,
            sent_through: None,
            flushing: Vec::new(),
        })
    }

    /// Where its files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// As [`SentThrough`], before the first alert comes.
    pub fn set_sent_through(&mut self, sent_through: Option<u64>) {
        self.sent_through = sent_through;
    }

    /// Adds the alerts to the waiting batch and says which are new.
    fn enqueue(&mut self, module: &ModuleName, alerts: &[NewAlert]) -> Vec<bool> {
        let time = jiff::Timestamp::now().to_string();
        alerts.iter().map(|alert| self.enqueue_one(module, &time, alert)).collect()
    }

    fn enqueue_one(&mut self, module: &ModuleName, time: &str, alert: &NewAlert) -> bool {
        // An id that is too long cannot be remembered; the alert itself must not be lost for it.
        let id = alert.id.as_deref().filter(|id| id.len() <= MAX_ID_BYTES);
        if let Some(id) = id
            && (self.seen.contains(module, id)
                || self.writing_ids.contains(module, id)
                || !self.waiting.ids.insert(module, id))
        {
            self.duplicates += 1;
            return false;
        }
        let record =
            RecordRef { seq: self.next_seq, time, module: module.as_str(), id, message: &alert.message };
        serde_json::to_writer(&mut self.waiting.lines, &record)
            .expect("a record is plain data and a Vec takes it all");
        self.waiting.lines.push(b'\n');
        self.waiting.count += 1;
        self.next_seq += 1;
        true
    }

    /// Writes what waits, unless a write is under way or there is nothing.
    fn write_waiting(&mut self, ctx: &mut Context<Self>) {
        if self.waiting.count == 0 && self.waiting.answers.is_empty() {
            for flushed in self.flushing.drain(..) {
                flushed.send(()).ok();
            }
            return;
        }
        let Some(segments) = self.segments.take() else { return };
        let mut batch = std::mem::take(&mut self.waiting);
        self.writing_ids = std::mem::take(&mut batch.ids);
        self.write(segments, batch, ctx);
    }

    fn write(&mut self, mut segments: Segments, batch: Batch, ctx: &mut Context<Self>) {
        self.writing_bytes = batch.lines.len();
        self.writing_alerts = batch.count;
        segments.set_section(self.section);
        segments.set_sent_through(self.sent_through);
        let snapshot = segments.needs_snapshot().then(|| self.seen.snapshot());
        let writing = work_threads::run(Lane::Journal, move || {
            let result = segments.append(&batch.lines, batch.count, snapshot);
            (segments, batch, result)
        });
        ctx.spawn(writing.into_actor(self).map(|written, this, ctx| match written {
            Ok((segments, batch, Ok(()))) => this.written(segments, batch, ctx),
            Ok((segments, batch, Err(error))) => this.write_failed(segments, batch, &error, ctx),
            Err(error) => {
                // Only a panic can end the task, and a panic ends the agent.
                error!(this.log, "writing alerts was cut off"; "error" => %error);
            }
        }));
    }

    fn written(&mut self, mut segments: Segments, batch: Batch, ctx: &mut Context<Self>) {
        if let Some(given_up) = segments.take_given_up() {
            error!(self.log, "journal is full, alerts were given up before the fleet had them";
                "found" => given_up.total(), "first_seq" => given_up.first_seq, "last_seq" => given_up.last_seq);
            self.enqueue(&own_name(), &[NewAlert { id: None, message: given_up.message() }]);
        }
        if self.error.take().is_some() {
            info!(self.log, "disk takes alerts again"; "found" => batch.count);
        }
        self.retry_delay = RETRY_INITIAL;
        self.bytes = segments.bytes();
        self.recorded.send_replace(segments.next_seq() - 1);
        self.segments = Some(segments);
        self.seen.absorb(std::mem::take(&mut self.writing_ids));
        self.writing_bytes = 0;
        self.writing_alerts = 0;
        for answer in batch.answers {
            answer.send(()).ok();
        }
        self.write_waiting(ctx);
    }

    fn write_failed(
        &mut self,
        segments: Segments,
        batch: Batch,
        error: &std::io::Error,
        ctx: &mut Context<Self>,
    ) {
        let text = format!("cannot write alerts to {:?}: {error}", self.directory);
        if self.error.as_ref() != Some(&text) {
            error!(self.log, "disk takes no alerts, they wait in memory"; "path" => ?self.directory,
                "error" => %error);
            self.error = Some(text);
        }
        // At the agent's end nobody waits for a disk that takes nothing.
        for flushed in self.flushing.drain(..) {
            flushed.send(()).ok();
        }
        let delay = self.retry_delay;
        self.retry_delay = (delay * 2).min(RETRY_MAX);
        ctx.spawn(tokio::time::sleep(delay).into_actor(self).map(move |(), this, ctx| {
            this.write(segments, batch, ctx);
        }));
    }
}

fn own_name() -> ModuleName {
    OWN_NAME.parse().expect("it has the form of a module's name")
}

/// A line of the journal, borrowed; [`vigie_protocol::control::AlertRecord`] is its owned form.
#[derive(Serialize)]
struct RecordRef<'a> {
    seq: u64,
    time: &'a str,
    module: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    message: &'a str,
}

impl Actor for AlertJournal {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_CAPACITY);
    }
}

impl Handler<StoreAlerts> for AlertJournal {
    type Result = ResponseFuture<Result<Vec<bool>, AlertsRefused>>;

    fn handle(&mut self, message: StoreAlerts, ctx: &mut Self::Context) -> Self::Result {
        let waiting_bytes = self.waiting.lines.len() + self.writing_bytes;
        let limit = self.section.memory_bytes;
        if message.last_words && waiting_bytes >= limit {
            return Box::pin(std::future::ready(Err(AlertsRefused::MemoryFull { waiting_bytes, limit })));
        }
        let new = self.enqueue(&message.module, &message.alerts);
        let (answer, safe) = oneshot::channel();
        self.waiting.answers.push(answer);
        self.write_waiting(ctx);
        Box::pin(async move {
            // The sender goes away without a word only when the agent ends, and then nobody waits here.
            safe.await.ok();
            Ok(new)
        })
    }
}

impl Handler<GetJournalStatus> for AlertJournal {
    type Result = actix::MessageResult<GetJournalStatus>;

    fn handle(&mut self, _: GetJournalStatus, _: &mut Self::Context) -> Self::Result {
        let pending = self.waiting.count + self.writing_alerts;
        actix::MessageResult(JournalStatus {
            recorded: *self.recorded.borrow(),
            duplicates: self.duplicates,
            bytes: self.bytes,
            pending,
            error: self.error.clone(),
        })
    }
}

impl Handler<GetJournalView> for AlertJournal {
    type Result = actix::MessageResult<GetJournalView>;

    fn handle(&mut self, _: GetJournalView, _: &mut Self::Context) -> Self::Result {
        actix::MessageResult(JournalView {
            directory: self.directory.clone(),
            recorded: self.recorded.subscribe(),
        })
    }
}

impl Handler<SentThrough> for AlertJournal {
    type Result = ();

    fn handle(&mut self, message: SentThrough, _: &mut Self::Context) {
        self.sent_through = message.0;
    }
}

impl Handler<FlushJournal> for AlertJournal {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: FlushJournal, ctx: &mut Self::Context) -> Self::Result {
        let (flushed, done) = oneshot::channel();
        self.flushing.push(flushed);
        if self.segments.is_some() || self.error.is_some() {
            self.write_waiting(ctx);
        }
        Box::pin(async move {
            done.await.ok();
        })
    }
}

impl Handler<ConfigChanged> for AlertJournal {
    type Result = ();

    fn handle(&mut self, change: ConfigChanged, _: &mut Self::Context) {
        self.section = change.config.agent.journal;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert_journal::segments::JournalReader;
    use slog::Discard;

    fn journal(directory: &Path) -> AlertJournal {
        AlertJournal::open(directory, JournalSection::default(), &Logger::root(Discard, o!())).unwrap()
    }

    fn alerts(ids: &[&str]) -> StoreAlerts {
        let alerts = ids
            .iter()
            .map(|id| NewAlert { id: Some((*id).to_owned()), message: format!("alert {id}") })
            .collect();
        StoreAlerts { module: "watch".parse().unwrap(), alerts: Arc::new(alerts), last_words: false }
    }

    fn ids_on_disk(directory: &Path) -> Vec<String> {
        let mut records = Vec::new();
        JournalReader::new(&directory.join("journal"), 0).read(u64::MAX, 1000, &mut records).unwrap();
        records.into_iter().filter_map(|record| record.id).collect()
    }

    #[actix_rt::test]
    async fn an_answer_means_that_the_alerts_are_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        let journal = journal(directory.path()).start();

        let new = journal.send(alerts(&["e-1", "e-2"])).await.unwrap().unwrap();

        assert_eq!(new, [true, true]);
        assert_eq!(ids_on_disk(directory.path()), ["e-1", "e-2"]);
    }

    #[actix_rt::test]
    async fn an_alert_that_comes_again_is_answered_and_not_recorded_twice() {
        let directory = tempfile::tempdir().unwrap();
        let journal = journal(directory.path()).start();
        let (first, second) = futures_util::future::join(
            journal.send(alerts(&["e-1", "x"])),
            journal.send(alerts(&["x", "e-1", "e-2"])),
        )
        .await;

        let third = journal.send(alerts(&["e-2", "x"])).await.unwrap().unwrap();

        assert_eq!(first.unwrap().unwrap(), [true, true]);
        assert_eq!(second.unwrap().unwrap(), [false, false, true]);
        assert_eq!(third, [false, false]);
        assert_eq!(ids_on_disk(directory.path()), ["e-1", "x", "e-2"]);
        assert_eq!(journal.send(GetJournalStatus).await.unwrap().duplicates, 4);
    }

    #[actix_rt::test]
    async fn alerts_wait_while_the_disk_takes_none_and_are_stored_when_it_does_again() {
        let directory = tempfile::tempdir().unwrap();
        let journal_dir = directory.path().join("journal");
        let journal = journal(directory.path()).start();
        // A file where the directory was: nothing can be written until it is gone.
        std::fs::remove_dir_all(&journal_dir).unwrap();
        std::fs::write(&journal_dir, "").unwrap();
        let waiting = actix_rt::spawn(journal.send(alerts(&["e-1"])));
        let error = loop {
            if let Some(error) = journal.send(GetJournalStatus).await.unwrap().error {
                break error;
            }
            tokio::task::yield_now().await;
        };
        assert!(!waiting.is_finished());

        std::fs::remove_file(&journal_dir).unwrap();
        let new = waiting.await.unwrap().unwrap().unwrap();

        assert!(error.contains("cannot write alerts"), "{error}");
        assert_eq!(new, [true]);
        assert_eq!(ids_on_disk(directory.path()), ["e-1"]);
        assert_eq!(journal.send(GetJournalStatus).await.unwrap().error, None);
    }
}
