//! Keeps every alert on disk.
//!
//! Owns the journal's writer and the memory of recorded ids; the files themselves are the crate `vigie_journal`.
//! Readers do not come here: they follow the files ([`JournalView::follow`]). Started first by the agent, stopped last.
//! Told by each `ModuleProcess` ([`StoreAlerts`]), asked by `ControlServer`.
//!
//! Alerts that arrive while the disk is busy are written together by the next write (group commit): one
//! `fdatasync` for all of them. A [`StoreAlerts`] is answered when its alerts are safe, and only then does the
//! module learn of it. While the disk takes nothing (full, read-only, gone) the alerts stay in memory, the
//! write is tried again, `status` says why, and modules wait because they get no answer; what a module that
//! died left behind is kept up to `journal.memory_bytes`.
//!
//! At the start, and whenever somebody else changed a file, the whole journal is proved in the background; what is
//! wrong is in `status` from then on, and an alert.

mod batch;
mod follower;
mod inspection;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture};
use slog::{Logger, error, info, o, warn};
use tokio::sync::{oneshot, watch};
use vigie_fleet::host_facts;
use vigie_journal::{
    AlertId, AppendError, Counts, Draft, MAX_ID_BYTES, OpenBatch, OpenError, Renamed, SeenIds, SettleError,
    Sizes, Source, Writer,
};

use self::batch::RawAlert;
pub use self::batch::{AlertBatch, NewAlert};
pub(crate) use self::batch::{read_plain, text_of};
pub use self::follower::{Follower, JournalView, alert_record};
use self::inspection::{Proof, Telling};
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

/// Memory of a batch that is kept for the next one while alerts come one after the other, in bytes: before and after it
/// is sealed.
const KEPT_BYTES: usize = 4 << 20;
const KEPT_SEALED_BYTES: usize = 8 << 20;

/// Time after which is synced what nobody waits for.
const SETTLE_PAUSE: Duration = Duration::from_secs(1);

/// Sent by a `ModuleProcess` with what it read in one go, one message at a time. The answer says which alerts
/// are new, in their order, and means that all of them are on disk; it comes late when the disk is slow. Not
/// answered (the agent ends first): the module sends again what was not acknowledged.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<bool>, AlertsRefused>")]
pub struct StoreAlerts {
    /// The module.
    pub module: ModuleName,
    /// Its alerts, in order; shared, because the sender still logs and acknowledges them.
    pub alerts: Arc<AlertBatch>,
    /// Whom the agent tells about, in alerts of its own that this module can cause: they take room of their own in the
    /// journal, so that nobody pushes out what the agent told about others.
    pub about: Option<ModuleName>,
    /// The module is gone and cannot be made to wait: refused when its share of the memory for waiting alerts is used
    /// up.
    pub last_words: bool,
}

/// The alerts were not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AlertsRefused {
    /// More is waiting for the disk than may be kept in memory.
    #[error(
        "{waiting_bytes} bytes of alerts already wait for the disk, {own_bytes} of them from this module (limit \
         journal.memory_bytes = {limit}, of which one module gets as much as is left for others)"
    )]
    MemoryFull {
        /// Bytes that wait.
        waiting_bytes: usize,
        /// Those of this module.
        own_bytes: usize,
        /// The limit.
        limit: usize,
    },
}

/// Asks how the journal is.
#[derive(Debug, Message)]
#[rtype(result = "JournalStatus")]
pub(crate) struct GetJournalStatus;

/// Asks for a view from which recorded alerts can be read and followed without the actor.
#[derive(Debug, Message)]
#[rtype(result = "JournalView")]
pub(crate) struct GetJournalView;

/// Asks for the head of the chain, which stands for everything recorded up to a number. Whoever keeps it where this
/// host cannot change it can show later that something was erased: `vigie alerts --verify` prints the same head for the
/// same number only if nothing was.
#[derive(Debug, Message)]
#[rtype(result = "JournalHead")]
pub(crate) struct GetJournalHead;

/// The head of the journal's chain.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct JournalHead {
    /// Name of the journal.
    pub journal: String,
    /// Number of the newest alert that the head stands for.
    pub seq: u64,
    /// The head, in hexadecimal.
    pub head: String,
}

/// Sent by `FleetLink`: how far the fleet has the alerts. What it does not have yet outlives `journal.keep_segments`
/// as long as there is room, and is given up from the least severe on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct SentThrough(
    /// Number of the newest alert that the fleet has; absent when no fleet wants them.
    pub Option<u64>,
);

/// Sent by `FleetLink` when the fleet has alerts under the journal's name that this journal did not record, or another
/// host runs with the same files: what is recorded after `through` goes on under another name. Answered with that when
/// it is on disk; with nothing when the disk does not take it.
#[derive(Debug, Message)]
#[rtype(result = "Option<String>")]
pub(crate) struct RenameJournal {
    /// Number of the newest alert that surely is the only one of its name and number.
    pub through: u64,
}

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
    writer: Option<Writer>,
    /// What it is called.
    identity: watch::Sender<Arc<str>>,
    /// It got another name when it was opened, and no alert tells of it yet.
    moved: Option<Renamed>,
    /// Who waits for another name, while a write is under way.
    renaming: Vec<(u64, oneshot::Sender<Option<String>>)>,
    /// The chain's head.
    head: String,
    /// Alerts that retention deleted, by severity.
    deleted: BTreeMap<String, u64>,
    /// The same by module.
    deleted_by_module: BTreeMap<String, Counts>,
    /// Alerts recorded since the start, by module and severity.
    by_module: BTreeMap<String, Counts>,
    /// What the whole journal was found to be; absent while it is whole, or not proved yet.
    damage: Option<String>,
    /// Files beside the segments that somebody took away, before the start or since: what they proved is not known.
    taken_away: Vec<&'static str>,
    proof: Proof,
    /// What the disk does not take although the alerts themselves are safe.
    trouble: Option<String>,
    /// What went lately although it is severe, or the fleet did not have it.
    trimmed: Option<String>,
    /// When an alert tells of it.
    telling: Telling,
    /// What waits for the next write.
    waiting: Batch,
    /// Memory of a batch that was written, for the next one, before and after it is sealed.
    spare: Draft,
    spare_sealed: Vec<u8>,
    /// Bytes and alerts of the write that is under way.
    writing_bytes: usize,
    writing_alerts: u64,
    writing_of: BTreeMap<ModuleName, usize>,
    next_seq: u64,
    bytes: u64,
    duplicates: u64,
    error: Option<String>,
    retry_delay: Duration,
    recorded: watch::Sender<u64>,
    sent_through: Option<u64>,
    flushing: Vec<oneshot::Sender<()>>,
    /// What nobody waits for is synced soon.
    is_settling: bool,
}

/// Records that are written together.
#[derive(Default)]
struct Batch {
    draft: Draft,
    /// Ids of this batch, which are not recorded yet but must not be recorded twice.
    ids: SeenIds,
    /// Bytes by module.
    bytes_of: BTreeMap<ModuleName, usize>,
    /// Who is told when the batch is safe.
    answers: Vec<oneshot::Sender<()>>,
    /// It tells what retention deleted.
    tells: bool,
}

impl AlertJournal {
    /// Opens the journal under `state_dir`; blocking, called before the actors run.
    ///
    /// # Errors
    /// When the files cannot be used; the agent does not start without a place for its alerts.
    pub fn open(state_dir: &Path, section: JournalSection, log: &Logger) -> Result<Self, OpenError> {
        let log = log.new(o!("component" => "alert_journal"));
        let directory = state_dir.join("journal");
        let unusable = |source| OpenError::Directory { path: directory.clone(), source };
        let moved =
            vigie_journal::settle(&directory, &host_facts::machine()).or_else(|error| match error {
                // A full disk keeps no agent from starting that could start without this.
                SettleError::Unnoted(_) => {
                    warn!(log, "if the state directory is copied to another machine now, that is not noticed";
                        "path" => ?directory, "error" => %error);
                    Ok(None)
                }
                SettleError::Failed(source) => Err(unusable(source)),
            })?;
        let (writer, seen, recovery) = Writer::open(&directory, sizes(&section))?;
        let identity = vigie_journal::identity(&directory).map_err(unusable)?;
        if recovery.cut_bytes > 0 {
            warn!(log, "truncated a half-written, unacknowledged batch of alerts";
                "bytes" => recovery.cut_bytes);
        }
        if recovery.damaged > 0 {
            error!(log, "journal is damaged"; "found" => recovery.damaged, "path" => ?directory);
        }
        if recovery.missing_at_end > 0 {
            error!(log, "the newest recorded alerts are missing from the journal";
                "found" => recovery.missing_at_end, "path" => ?directory);
        }
        if let Some(trouble) = writer.trouble() {
            warn!(log, "alerts are stored, but other files of the journal cannot be written"; "error" => trouble);
        }
        Ok(Self {
            log,
            directory,
            taken_away: recovery.missing_files,
            section,
            seen,
            writing_ids: SeenIds::default(),
            next_seq: writer.recorded() + 1,
            bytes: writer.bytes(),
            recorded: watch::Sender::new(writer.recorded()),
            identity: watch::Sender::new(identity.into()),
            moved,
            renaming: Vec::new(),
            head: writer.head(),
            deleted: vigie_journal::by_severity(writer.deleted()),
            deleted_by_module: writer.deleted_by_module().clone(),
            by_module: BTreeMap::new(),
            damage: None,
            proof: Proof::Done,
            trouble: writer.trouble().map(ToOwned::to_owned),
            trimmed: None,
            telling: Telling::new(writer.has_untold()),
            writer: Some(writer),
            waiting: Batch::default(),
            spare: Draft::default(),
            spare_sealed: Vec::new(),
            writing_bytes: 0,
            writing_alerts: 0,
            writing_of: BTreeMap::new(),
            duplicates: 0,
            error: None,
            retry_delay: RETRY_INITIAL,
            sent_through: None,
            flushing: Vec::new(),
            is_settling: false,
        })
    }

    /// Where its files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// As `SentThrough`, before the first alert comes.
    pub fn set_sent_through(&mut self, sent_through: Option<u64>) {
        self.sent_through = sent_through;
    }

    /// Adds the alerts to the waiting batch and says which are new.
    fn enqueue(&mut self, module: &ModuleName, about: Option<&ModuleName>, alerts: &AlertBatch) -> Vec<bool> {
        let time = jiff::Timestamp::now().to_string();
        let share = about.map(|about| format!("{module}:{about}"));
        let before = self.waiting.draft.bytes();
        let source = self.waiting.draft.source(&time, module.as_str(), share.as_deref());
        let new = alerts.iter().map(|alert| self.enqueue_one(module.as_str(), &source, alert)).collect();
        let bytes = self.waiting.draft.bytes() - before;
        match self.waiting.bytes_of.get_mut(module) {
            Some(of_module) => *of_module += bytes,
            None => drop(self.waiting.bytes_of.insert(module.clone(), bytes)),
        }
        new
    }

    fn enqueue_one(&mut self, module: &str, source: &Source, RawAlert { id, message }: RawAlert<'_>) -> bool {
        // An id that is too long cannot be remembered; the alert itself must not be lost for it.
        let text = id.map(text_of).filter(|id| id.len() <= MAX_ID_BYTES);
        if let Some(id) = text.as_deref().map(AlertId::from)
            && (self.seen.contains(module, id)
                || self.writing_ids.contains(module, id)
                || !self.waiting.ids.insert(module, id))
        {
            self.duplicates += 1;
            return false;
        }
        let id = id.filter(|_| text.is_some());
        self.waiting.draft.push(source, self.next_seq, id, message);
        self.next_seq += 1;
        true
    }

    /// A module may keep as much waiting as is left for the others, so that one that dies again and again leaves them
    /// something.
    fn has_memory_for(&self, module: &ModuleName) -> Result<(), AlertsRefused> {
        let limit = self.section.memory_bytes;
        let waiting_bytes = self.waiting.draft.bytes() + self.writing_bytes;
        let of = |bytes_of: &BTreeMap<ModuleName, usize>| bytes_of.get(module).copied().unwrap_or_default();
        let own_bytes = of(&self.waiting.bytes_of) + of(&self.writing_of);
        if own_bytes >= limit.saturating_sub(waiting_bytes) {
            return Err(AlertsRefused::MemoryFull { waiting_bytes, own_bytes, limit });
        }
        Ok(())
    }

    /// Adds an alert of the agent itself; `false` when it was recorded before.
    fn enqueue_own(&mut self, id: Option<&str>, message: &serde_json::Value) -> bool {
        let mut alert = AlertBatch::default();
        alert.push_text(id, &message.to_string());
        self.enqueue(&own_name(), None, &alert) == [true]
    }

    /// Writes what waits, unless a write is under way or there is nothing.
    fn write_waiting(&mut self, ctx: &mut Context<Self>) {
        if !self.renaming.is_empty() {
            return self.rename(ctx);
        }
        self.tell_what_is_due();
        if self.waiting.draft.count() == 0 && self.waiting.answers.is_empty() {
            if self.writer.is_none() && self.error.is_none() {
                // The end of what the writer is away for comes back here.
                return;
            }
            if self.writer.as_ref().is_some_and(Writer::is_unsettled) {
                if !self.flushing.is_empty() {
                    return self.settle(ctx);
                }
                self.settle_later(ctx);
            }
            for flushed in self.flushing.drain(..) {
                flushed.send(()).ok();
            }
            return;
        }
        let Some(writer) = self.writer.take() else { return };
        let next = Batch { draft: std::mem::take(&mut self.spare), ..Batch::default() };
        let mut batch = std::mem::replace(&mut self.waiting, next);
        self.writing_ids = std::mem::take(&mut batch.ids);
        self.writing_of = std::mem::take(&mut batch.bytes_of);
        self.write(writer, batch, ctx);
    }

    /// Brings to the disk what nobody waits for, when the disk has had time for what somebody does.
    fn settle_later(&mut self, ctx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.is_settling, true) {
            ctx.spawn(
                tokio::time::sleep(SETTLE_PAUSE).into_actor(self).map(|(), this, ctx| this.settle(ctx)),
            );
        }
    }

    fn settle(&mut self, ctx: &mut Context<Self>) {
        self.is_settling = false;
        // With a write under way its end comes back here.
        let Some(mut writer) = self.writer.take() else { return };
        (self.spare, self.spare_sealed) = (Draft::default(), Vec::new());
        if self.waiting.draft.count() == 0 {
            self.waiting.draft = Draft::default();
        }
        let settling = work_threads::run(Lane::Journal, move || {
            writer.settle();
            writer
        });
        ctx.spawn(settling.into_actor(self).map(|settled, this, ctx| match settled {
            Ok(mut writer) => {
                this.tell_of_files(&mut writer, ctx);
                this.writer = Some(writer);
                this.write_waiting(ctx);
            }
            Err(error) => error!(this.log, "syncing the journal was aborted"; "error" => %error),
        }));
    }

    fn write(&mut self, mut writer: Writer, batch: Batch, ctx: &mut Context<Self>) {
        self.writing_bytes = batch.draft.bytes();
        self.writing_alerts = batch.draft.count();
        writer.set_sizes(sizes(&self.section));
        writer.set_sent_through(self.sent_through);
        let snapshot = writer.needs_snapshot().then(|| self.seen.snapshot());
        let memory = std::mem::take(&mut self.spare_sealed);
        let writing = work_threads::run(Lane::Journal, move || {
            let mut sealed = OpenBatch::new(writer.place(), memory);
            sealed.add(&batch.draft);
            let sealed = sealed.end();
            let result = writer.append(&sealed, snapshot);
            (writer, batch, sealed.into_memory(KEPT_SEALED_BYTES), result)
        });
        ctx.spawn(writing.into_actor(self).map(|written, this, ctx| {
            let (writer, batch, result) = match written {
                Ok((writer, batch, memory, result)) => {
                    this.spare_sealed = memory;
                    (writer, batch, result)
                }
                Err(error) => {
                    // Only a panic can end the task, and a panic ends the agent.
                    return error!(this.log, "writing alerts was aborted"; "error" => %error);
                }
            };
            match result {
                Ok(()) => this.written(writer, batch, ctx),
                Err(AppendError::NeedsSnapshot) => this.write(writer, batch, ctx),
                Err(error) => this.write_failed(writer, batch, &error, ctx),
            }
        }));
    }

    fn written(&mut self, mut writer: Writer, batch: Batch, ctx: &mut Context<Self>) {
        self.recorded.send_replace(writer.recorded());
        if batch.tells {
            writer.told();
        }
        self.tell_of_files(&mut writer, ctx);
        if self.error.take().is_some() {
            info!(self.log, "alerts are written to disk again"; "found" => batch.draft.count());
        }
        self.retry_delay = RETRY_INITIAL;
        self.writer = Some(writer);
        self.seen.absorb(std::mem::take(&mut self.writing_ids));
        self.writing_bytes = 0;
        self.writing_alerts = 0;
        self.writing_of.clear();
        for answer in batch.answers {
            answer.send(()).ok();
        }
        self.spare = batch.draft;
        self.spare.clear(KEPT_BYTES);
        self.write_waiting(ctx);
    }

    fn write_failed(&mut self, writer: Writer, batch: Batch, error: &AppendError, ctx: &mut Context<Self>) {
        let text = format!("cannot write alerts to {:?}: {error}", self.directory);
        if self.error.as_ref() != Some(&text) {
            error!(self.log, "cannot write alerts to disk; buffering in memory"; "path" => ?self.directory,
                "error" => %error);
            self.error = Some(text);
        }
        // At the agent's end nobody waits for a disk that takes nothing.
        for flushed in self.flushing.drain(..) {
            flushed.send(()).ok();
        }
        // Nor does whoever wants another name for the journal: it keeps the old one, and is asked again.
        for (_, answer) in self.renaming.drain(..) {
            answer.send(None).ok();
        }
        let delay = self.retry_delay;
        self.retry_delay = (delay * 2).min(RETRY_MAX);
        ctx.spawn(tokio::time::sleep(delay).into_actor(self).map(move |(), this, ctx| {
            this.write(writer, batch, ctx);
        }));
    }
}

fn sizes(section: &JournalSection) -> Sizes {
    Sizes { segment_bytes: section.segment_bytes, keep_segments: section.keep_segments }
}

fn own_name() -> ModuleName {
    OWN_NAME.parse().expect("it has the form of a module's name")
}

impl Actor for AlertJournal {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_CAPACITY);
        if let Some(renamed) = self.moved.take() {
            self.tell_renamed(&renamed, "the state directory may be a copy of another host's");
        }
        for name in self.taken_away.clone() {
            self.tell_taken_away(name, "before the agent started");
        }
        self.write_waiting(ctx);
        self.prove(ctx);
        self.inspect_later(ctx);
    }
}

impl Handler<StoreAlerts> for AlertJournal {
    type Result = ResponseFuture<Result<Vec<bool>, AlertsRefused>>;

    fn handle(&mut self, message: StoreAlerts, ctx: &mut Self::Context) -> Self::Result {
        if message.last_words
            && let Err(refused) = self.has_memory_for(&message.module)
        {
            return Box::pin(std::future::ready(Err(refused)));
        }
        let new = self.enqueue(&message.module, message.about.as_ref(), &message.alerts);
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
        let pending = self.waiting.draft.count() + self.writing_alerts;
        let by_module = self.by_module.iter();
        actix::MessageResult(JournalStatus {
            recorded: *self.recorded.borrow(),
            duplicates: self.duplicates,
            bytes: self.bytes,
            pending,
            error: self.error.clone(),
            head: self.head.clone(),
            deleted: self.deleted.clone(),
            deleted_by_module: vigie_journal::by_module(&self.deleted_by_module),
            by_module: by_module
                .map(|(module, counts)| (module.clone(), vigie_journal::by_severity(*counts)))
                .collect(),
            limit_bytes: self.section.segment_bytes.saturating_mul(u64::from(self.section.keep_segments)),
            damage: self.all_damage(),
            trimmed: self.trimmed.clone(),
            trouble: self.trouble.clone(),
        })
    }
}

impl Handler<GetJournalView> for AlertJournal {
    type Result = actix::MessageResult<GetJournalView>;

    fn handle(&mut self, _: GetJournalView, _: &mut Self::Context) -> Self::Result {
        actix::MessageResult(JournalView {
            directory: self.directory.clone(),
            recorded: self.recorded.subscribe(),
            name: self.identity.subscribe(),
            taken_away: self.taken_away_text(),
        })
    }
}

impl Handler<GetJournalHead> for AlertJournal {
    type Result = actix::MessageResult<GetJournalHead>;

    fn handle(&mut self, _: GetJournalHead, _: &mut Self::Context) -> Self::Result {
        actix::MessageResult(JournalHead {
            journal: self.identity.borrow().to_string(),
            seq: *self.recorded.borrow(),
            head: self.head.clone(),
        })
    }
}

impl Handler<SentThrough> for AlertJournal {
    type Result = ();

    fn handle(&mut self, message: SentThrough, _: &mut Self::Context) {
        self.sent_through = message.0;
    }
}

impl Handler<RenameJournal> for AlertJournal {
    type Result = ResponseFuture<Option<String>>;

    fn handle(&mut self, RenameJournal { through }: RenameJournal, ctx: &mut Self::Context) -> Self::Result {
        let (answer, renamed) = oneshot::channel();
        self.renaming.push((through, answer));
        if self.writer.is_some() {
            self.rename(ctx);
        }
        Box::pin(async move { renamed.await.ok().flatten() })
    }
}

impl Handler<FlushJournal> for AlertJournal {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: FlushJournal, ctx: &mut Self::Context) -> Self::Result {
        let (flushed, done) = oneshot::channel();
        self.flushing.push(flushed);
        self.tell_given_up(true, ctx);
        if self.writer.is_some() || self.error.is_some() {
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
mod tests;
