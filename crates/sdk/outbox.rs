//! What a module has to say to its agent: log lines, alerts and heartbeat echoes on their way to stdout.
//!
//! An alert is appended to a file before it is written to stdout, and stays there until the agent says that it
//! has it on disk. After a crash of the module at any moment the next life sends the alerts that were not
//! acknowledged again, in order and with the same ids, and the agent's journal drops those that it knows.
//!
//! Nothing here calls `fsync`: kill -9 does not lose what the kernel has taken, and the agent's journal syncs
//! before it acknowledges. After a power failure an alert may be missing here, but then the state that the
//! module would commit with it has not moved either, and the module finds the same change again.
//!
//! Two locks, never held together by the writer: the ledger's may wait for a disk, the queue's never does, so
//! that no disk delays a heartbeat.

mod state;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use vigie_files::durable::{self, DurableFile};
use vigie_files::random;

pub use state::{Acknowledged, AlertId, OutboxState, Recovered};
use vigie_protocol::condition::Condition;
use vigie_protocol::message::{ConfiguredParameters, Message};

/// Most alerts that wait for their acknowledgement; the next one waits in [`Outbox::alert`].
pub const MAX_UNACKNOWLEDGED: usize = 10_000;

/// Most bytes of alert text that wait for their acknowledgement.
pub const MAX_UNACKNOWLEDGED_BYTES: usize = 16 * 1024 * 1024;

/// Longest text of one log line or alert in bytes; more is cut. With every byte escaped as `\u00XX` it still
/// fits the agent's default line limit of 1 MiB, beyond which the agent would drop it unread.
pub const MAX_TEXT_BYTES: usize = 160 * 1024;

/// Bytes of log lines that wait for the agent; the next one waits in [`Outbox::log`].
const MAX_QUEUED_LOG_BYTES: usize = 256 * 1024;

/// Bytes of echoes that wait for the agent; beyond it nothing more is read from it.
///
/// Agent and module cannot wait for each other for ever: for this to be reached the agent must have written tens of
/// thousands of heartbeats without an echo, and it kills a module after a few. Acknowledgements and configurations
/// never wait here, so a module whose lines the agent does not read goes on reading.
const MAX_URGENT_BYTES: usize = 1024 * 1024;

/// Bytes that are handed to the pipe in one write: an echo waits for at most so much. Half a pipe's capacity.
const BATCH_BYTES: usize = 32 * 1024;

/// Largest outbox file that is read back, in bytes: the bound on its texts with every byte escaped, and slack.
const MAX_FILE_BYTES: u64 = 128 * 1024 * 1024;

/// The module's queue of lines to the agent. Cloned freely; all clones are the same queue.
#[derive(Debug, Clone)]
pub struct Outbox {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Signalled when the queue got room for log lines, or closed.
    queue_room: Condvar,
    ledger: Mutex<Ledger>,
    /// Signalled when an alert was acknowledged, or the outbox closed.
    ledger_room: Condvar,
    /// Wakes the writer.
    filled: Notify,
    /// Wakes the reader.
    urgent_room: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    urgent: VecDeque<Vec<u8>>,
    urgent_bytes: usize,
    lines: VecDeque<Line>,
    /// Bytes of the log lines in `lines`; alerts are bounded by the ledger.
    log_bytes: usize,
    /// Nothing is written any more; nobody waits.
    closed: bool,
    /// No more lines are coming; what is queued is still written.
    finishing: bool,
    health: HealthSlot,
}

/// What the module says of itself. Only the newest set matters, so there is one place for it and not a queue.
#[derive(Debug, Default)]
struct HealthSlot {
    conditions: Vec<Condition>,
    /// Sent with the next set; they alone are no news.
    values: BTreeMap<String, u64>,
    /// The agent understands `health`.
    accepted: bool,
    /// The set is to be sent.
    due: bool,
}

#[derive(Debug)]
enum Line {
    Log(Vec<u8>),
    Alert { id: Option<AlertId>, message: Arc<str> },
}

/// The alerts that are not acknowledged, and the file that remembers them.
#[derive(Debug)]
struct Ledger {
    durability: Durability,
    state: OutboxState,
    closed: bool,
}

#[derive(Debug)]
enum Durability {
    /// Before the configuration says whether there is a state directory, or under an agent that has none for
    /// us: alerts carry no id and count as delivered when they are written.
    None,
    /// Alerts carry ids, but their file cannot be used at all.
    Memory,
    /// The usual case.
    File(OutboxFile),
}

/// The outbox's file; its length is that of the whole records in it.
#[derive(Debug)]
struct OutboxFile {
    path: PathBuf,
    file: DurableFile,
    /// The last write failed; said once until one succeeds.
    failing: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic ends the process; in tests a poisoned lock still holds usable data.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Cuts `text` to what fits a line.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT_BYTES)]
}

impl Default for Outbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Outbox {
    /// An outbox without a file; see [`Outbox::keep_in`].
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                queue: Mutex::default(),
                queue_room: Condvar::new(),
                ledger: Mutex::new(Ledger {
                    durability: Durability::None,
                    state: OutboxState::new(fresh_epoch()),
                    closed: false,
                }),
                ledger_room: Condvar::new(),
                filled: Notify::new(),
                urgent_room: Notify::new(),
            }),
        }
    }

    /// Keeps alerts in `alerts-NAME.outbox` in `state_dir` from now on, and queues those that an earlier life
    /// of the module left there. When the file cannot be used, alerts have ids and are kept in memory; the log
    /// says why. May wait for the disk.
    pub fn keep_in(&self, state_dir: &Path, module: &str) {
        let path = state_dir.join(format!("alerts-{module}.outbox"));
        let mut ledger = lock(&self.shared.ledger);
        match OutboxFile::open(path.clone()) {
            Ok((file, recovered)) => {
                if recovered.damaged {
                    self.note(&format!(
                        "outbox {path:?} was damaged; the alerts that could be read are kept"
                    ));
                }
                ledger.state = recovered.state;
                ledger.durability = Durability::File(file);
            }
            Err(error) => {
                self.note(&format!("cannot use outbox {path:?}, alerts are kept in memory only: {error}"));
                ledger.durability = Durability::Memory;
            }
        }
        let mut queue = lock(&self.shared.queue);
        for (id, message) in ledger.state.pending() {
            queue.lines.push_back(Line::Alert { id: Some(id), message });
        }
        drop(queue);
        drop(ledger);
        self.shared.filled.notify_one();
    }

    /// Queues a log line; waits while the agent is slow. Dropped when the agent is gone.
    pub fn log(&self, message: &str) {
        let line = Message::log(cut(message)).to_line();
        let mut queue = lock(&self.shared.queue);
        while queue.log_bytes >= MAX_QUEUED_LOG_BYTES && !queue.closed {
            queue = self.shared.queue_room.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.push_log(line);
        drop(queue);
        self.shared.filled.notify_one();
    }

    /// Queues a log line of the SDK itself without waiting; dropped when the queue is over twice its bound.
    pub(crate) fn note(&self, message: &str) {
        let line = Message::log(cut(message)).to_line();
        let mut queue = lock(&self.shared.queue);
        if queue.log_bytes < 2 * MAX_QUEUED_LOG_BYTES {
            queue.push_log(line);
        }
        drop(queue);
        self.shared.filled.notify_one();
    }

    /// Records an alert, queues it, and returns its id; waits while too many are not acknowledged. The id is
    /// empty under an agent that does not acknowledge alerts.
    pub fn alert(&self, message: &str) -> String {
        let message: Arc<str> = cut(message).into();
        let mut ledger = lock(&self.shared.ledger);
        while ledger.is_full(message.len()) && !ledger.closed {
            ledger = self.shared.ledger_room.wait(ledger).unwrap_or_else(PoisonError::into_inner);
        }
        let (id, trouble) = ledger.record(&message);
        if let Some(trouble) = trouble {
            self.note(&trouble);
        }
        // Queued under the ledger's lock, so that alerts leave in the order of their ids.
        let mut queue = lock(&self.shared.queue);
        if id.is_none() {
            // Nothing bounds an alert without id but the queue itself.
            drop(ledger);
            while queue.log_bytes >= MAX_QUEUED_LOG_BYTES && !queue.closed {
                queue = self.shared.queue_room.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            queue.push_log(Message::alert(&message, None).to_line());
        } else if !queue.closed {
            queue.lines.push_back(Line::Alert { id, message });
        }
        drop(queue);
        self.shared.filled.notify_one();
        id.map(|id| id.to_string()).unwrap_or_default()
    }

    /// Queues an alert that the module keeps itself, with an id that it gave, until
    /// [`PersistentModule::acknowledged`](crate::PersistentModule::acknowledged) names it. Waits while too many are
    /// not acknowledged; does nothing when it is queued already.
    pub fn deliver(&self, id: AlertId, message: &Arc<str>) {
        let mut ledger = lock(&self.shared.ledger);
        while ledger.is_full(message.len()) && !ledger.closed {
            ledger = self.shared.ledger_room.wait(ledger).unwrap_or_else(PoisonError::into_inner);
        }
        if ledger.state.push_kept(id, message) {
            let mut queue = lock(&self.shared.queue);
            if !queue.closed {
                queue.lines.push_back(Line::Alert { id: Some(id), message: Arc::clone(message) });
            }
        }
        drop(ledger);
        self.shared.filled.notify_one();
    }

    /// Forgets an alert that the agent has on disk; `false` when it is not known. May wait for the disk.
    pub fn acknowledge(&self, id: &str) -> bool {
        let mut ledger = lock(&self.shared.ledger);
        let known = ledger.forget(id);
        drop(ledger);
        self.shared.ledger_room.notify_all();
        known
    }

    /// How many alerts are not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        lock(&self.shared.ledger).state.len()
    }

    /// Replaces what the module says of itself, and sends it when the agent understands it and it is new.
    pub(crate) fn set_health(&self, conditions: Vec<Condition>) {
        let mut queue = lock(&self.shared.queue);
        if queue.health.conditions != conditions {
            queue.health.conditions = conditions;
            queue.health.due = true;
        }
        drop(queue);
        self.shared.filled.notify_one();
    }

    /// Replaces the numbers that the module shows of itself; they go with the next heartbeat.
    pub(crate) fn set_values(&self, values: BTreeMap<String, u64>) {
        lock(&self.shared.queue).health.values = values;
    }

    /// Sends what the module says of itself once more: with every heartbeat, so that a set that was lost is there
    /// again.
    pub(crate) fn repeat_health(&self) {
        lock(&self.shared.queue).health.due = true;
        self.shared.filled.notify_one();
    }

    /// The agent understands `health`, or does not.
    pub(crate) fn accept_health(&self, accepted: bool) {
        lock(&self.shared.queue).health.accepted = accepted;
        self.repeat_health();
    }

    /// Says what became of a configuration. Never waits.
    pub(crate) fn configured(&self, parameters: &ConfiguredParameters) {
        lock(&self.shared.queue).push_log(Message::configured(parameters).to_line());
        self.shared.filled.notify_one();
    }

    /// Queues a heartbeat's echo, or the registration, ahead of all other lines and behind earlier ones of its kind.
    pub(crate) fn urgent(&self, line: Vec<u8>) {
        let mut queue = lock(&self.shared.queue);
        if !queue.closed {
            queue.urgent_bytes += line.len();
            queue.urgent.push_back(line);
        }
        drop(queue);
        self.shared.filled.notify_one();
    }

    /// Waits until an echo can be queued within the bound. Cancel safe.
    pub(crate) async fn urgent_room(&self) {
        loop {
            let room = self.shared.urgent_room.notified();
            let full = {
                let queue = lock(&self.shared.queue);
                queue.urgent_bytes >= MAX_URGENT_BYTES && !queue.closed
            };
            if !full {
                return;
            }
            room.await;
        }
    }

    /// Waits for lines and moves a batch of them into `batch`; `false` when no more will come. Cancel safe.
    pub(crate) async fn take(&self, batch: &mut Vec<u8>) -> bool {
        loop {
            {
                let mut queue = lock(&self.shared.queue);
                queue.fill(batch);
                if !batch.is_empty() {
                    drop(queue);
                    self.shared.queue_room.notify_all();
                    self.shared.urgent_room.notify_one();
                    return true;
                }
                if queue.closed || queue.finishing {
                    return false;
                }
            }
            self.shared.filled.notified().await;
        }
    }

    /// No more lines are coming: the writer ends when it has written what is queued. Nobody waits any more.
    pub(crate) fn finish(&self) {
        lock(&self.shared.queue).finishing = true;
        lock(&self.shared.queue).closed = true;
        self.release();
    }

    /// The agent is gone: nothing is written any more and nobody waits. Alerts are still recorded for the next
    /// life.
    pub(crate) fn close(&self) {
        let mut queue = lock(&self.shared.queue);
        queue.closed = true;
        queue.lines.clear();
        queue.urgent.clear();
        queue.log_bytes = 0;
        queue.urgent_bytes = 0;
        drop(queue);
        self.release();
    }

    fn release(&self) {
        self.shared.urgent_room.notify_one();
        self.shared.queue_room.notify_all();
        self.shared.filled.notify_one();
        let shared = Arc::clone(&self.shared);
        // The ledger may be waiting for a disk, and the caller must not.
        if let Ok(mut ledger) = shared.ledger.try_lock() {
            ledger.closed = true;
            drop(ledger);
            self.shared.ledger_room.notify_all();
        }
    }
}

impl Queue {
    fn push_log(&mut self, line: Vec<u8>) {
        if !self.closed {
            self.log_bytes += line.len();
            self.lines.push_back(Line::Log(line));
        }
    }

    /// Moves what fits a batch into `batch`, echoes first. A single line may be longer than a batch.
    fn fill(&mut self, batch: &mut Vec<u8>) {
        while batch.len() < BATCH_BYTES
            && let Some(line) = self.urgent.pop_front()
        {
            self.urgent_bytes -= line.len();
            batch.extend_from_slice(&line);
        }
        if std::mem::take(&mut self.health.due) && self.health.accepted {
            Message::health(&self.health.conditions, &self.health.values).write_line(batch);
        }
        while batch.len() < BATCH_BYTES {
            match self.lines.pop_front() {
                Some(Line::Log(line)) => {
                    self.log_bytes -= line.len();
                    batch.extend_from_slice(&line);
                }
                Some(Line::Alert { id, message }) => {
                    let id = id.map(|id| id.to_string());
                    Message::alert(&message, id.as_deref()).write_line(batch);
                }
                None => break,
            }
        }
    }
}

impl Ledger {
    fn is_full(&self, more_bytes: usize) -> bool {
        self.state.len() >= MAX_UNACKNOWLEDGED
            || (self.state.bytes() + more_bytes > MAX_UNACKNOWLEDGED_BYTES && !self.state.is_empty())
    }

    /// Gives the alert an id and writes it down; also returns what the operator should know.
    fn record(&mut self, message: &Arc<str>) -> (Option<AlertId>, Option<String>) {
        match &mut self.durability {
            Durability::None => (None, None),
            Durability::Memory => (Some(self.state.push_volatile(message)), None),
            Durability::File(file) => {
                let (id, record) = self.state.push(message);
                match file.append(&record) {
                    Ok(()) if file.failing => {
                        file.failing = false;
                        (Some(id), Some(format!("outbox {:?} can be written again", file.path)))
                    }
                    Ok(()) => (Some(id), None),
                    Err(error) => {
                        // Its number stays unused: the next life reads the file and must not give it again.
                        self.state.take_back(id);
                        let id = self.state.push_volatile(message);
                        let trouble = (!file.failing).then(|| {
                            format!("cannot write outbox {:?}, alerts are kept in memory: {error}", file.path)
                        });
                        file.failing = true;
                        (Some(id), trouble)
                    }
                }
            }
        }
    }

    fn forget(&mut self, id: &str) -> bool {
        let record = match AlertId::parse(id).map(|id| self.state.acknowledge(id)) {
            None | Some(Acknowledged::Unknown) => return false,
            Some(Acknowledged::InMemory) => return true,
            Some(Acknowledged::InFile(record)) => record,
        };
        if let Durability::File(file) = &mut self.durability {
            // An acknowledgement that is not written down costs a repetition after a crash, which the journal
            // recognises: its failure needs no word.
            let written = if self.state.wants_compaction() {
                let snapshot = self.state.snapshot();
                // Also when it fails: the next attempt comes after as many acknowledgements, not after one.
                self.state.compacted();
                file.replace(&snapshot)
            } else {
                file.append(&record)
            };
            drop(written);
        }
        true
    }
}

impl OutboxFile {
    /// Opens or creates the file and reads what an earlier life left.
    fn open(path: PathBuf) -> io::Result<(Self, Recovered)> {
        let file = DurableFile::open(&path)?;
        let content = durable::read_bounded(&path, MAX_FILE_BYTES)?;
        let mut recovered = OutboxState::recover(&content, fresh_epoch());
        let mut outbox = Self { path, file, failing: false };
        // A rewrite drops a torn last line and acknowledged alerts; a new file gets its head.
        let snapshot = recovered.state.snapshot();
        outbox.replace(&snapshot)?;
        recovered.state.compacted();
        Ok((outbox, recovered))
    }

    /// Appends whole records, or nothing.
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let before = self.file.length();
        self.file.append(record).or_else(|error| {
            // Half a record in the middle of the file would hide the records after it.
            self.file.cut(before)?;
            Err(error)
        })
    }

    /// Puts `content` in the file's place at once.
    fn replace(&mut self, content: &[u8]) -> io::Result<()> {
        durable::replace(&self.path, content, durable::Durability::Process)?;
        self.file = DurableFile::open(&self.path)?;
        Ok(())
    }
}

/// A random 64-bit number that no earlier life of any module has used.
#[must_use]
pub fn fresh_epoch() -> u64 {
    random::bytes().map(u64::from_ne_bytes).expect("the kernel has random numbers once it has started")
}
