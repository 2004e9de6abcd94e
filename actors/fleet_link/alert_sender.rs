//! Sends the journal's alerts to the fleet: a task that follows the journal's files as any other follower does.
//!
//! Alerts are published in batches and acknowledged one by one; the cursor moves to the last of which all before it
//! are acknowledged. A batch that is not acknowledged whole is read and sent again from the cursor: message ids make
//! doubles vanish. After every reconnect what was acknowledged in the last minutes is sent again, see
//! [`super::alert_cursor`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use async_nats::jetstream::Context as JetStream;
use async_nats::jetstream::message::PublishMessage;
use futures_util::stream::{FuturesOrdered, StreamExt};
use slog::{Logger, info, warn};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::answer::{FleetAlert, Purpose, VERSION};
use vigie_fleet::names::AgentId;
use vigie_fleet::subjects;

use super::alert_cursor::AlertCursor;
use crate::alert_journal::segments::{self, JournalReader};
use crate::alert_journal::{AlertJournal, JournalView, SentThrough};
use crate::control_protocol::AlertRecord;
use crate::error::ErrorChain;

/// Alerts that are on their way at once.
const BATCH: usize = 256;

/// Bytes of alerts that are on their way at once.
const BATCH_BYTES: usize = 4 << 20;

/// Longest alert that is sent; what is longer is cut, because no message holds it.
const MAX_MESSAGE_BYTES: usize = 200 * 1024;

/// Pause after a batch that was not acknowledged whole.
const RETRY: Duration = Duration::from_millis(500);

/// How often the cursor is stored at most.
const STORE_EVERY: Duration = Duration::from_secs(1);

/// What the sender works with.
pub(super) struct AlertSender {
    pub(super) log: Logger,
    pub(super) agent: AgentId,
    pub(super) key: Arc<AgentKey>,
    pub(super) journal: Addr<AlertJournal>,
    pub(super) view: JournalView,
    pub(super) jetstream: JetStream,
    /// Where the cursor is stored.
    pub(super) cursor_path: PathBuf,
    /// Counts the connections that came about; 0 before the first.
    pub(super) connections: watch::Receiver<u64>,
    /// Tells how far the fleet has the alerts.
    pub(super) progress: watch::Sender<Progress>,
}

/// How far the fleet has this host's alerts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Number of the newest alert of which the fleet has all up to it.
    pub(super) acknowledged: u64,
    /// Why no alerts can be sent.
    pub(super) problem: Option<String>,
}

/// What the task keeps between batches.
struct State {
    cursor: AlertCursor,
    reader: JournalReader,
    /// Number of the newest alert that was read.
    read: u64,
    stored_at: Option<Instant>,
    dirty: bool,
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

impl AlertSender {
    /// Sends until the task is aborted.
    pub(super) async fn run(mut self) {
        let Some(mut state) = self.begin().await else { return };
        loop {
            // What is read while nobody is connected would only wait in memory.
            if *self.connections.borrow_and_update() == 0 && self.connections.changed().await.is_err() {
                return;
            }
            let records = match self.read(&mut state).await {
                Ok(records) => records,
                Err(problem) => {
                    self.tell(&state, Some(problem));
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            if records.is_empty() {
                if !self.wait(&mut state).await {
                    return;
                }
                continue;
            }
            let last = records.last().map_or(0, |record| record.seq);
            let done = self.send(&records, &mut state).await;
            if done == last {
                self.tell(&state, None);
            } else {
                self.tell(&state, Some("the broker does not acknowledge alerts".to_owned()));
                self.rewind(&mut state, done);
                tokio::time::sleep(RETRY).await;
            }
            self.store(&mut state, false).await;
        }
    }

    /// Loads the cursor and tells the journal from where on it must keep alerts.
    async fn begin(&mut self) -> Option<State> {
        let (path, directory) = (self.cursor_path.clone(), self.view.directory.clone());
        let loading = tokio::task::spawn_blocking(move || {
            segments::identity(&directory).map(|journal| AlertCursor::load(&path, journal))
        });
        let mut cursor = match loading.await.ok()? {
            Ok(cursor) => cursor,
            Err(error) => {
                let problem = format!("cannot name the alert journal: {error}");
                warn!(self.log, "alerts are not sent to the fleet"; "error" => &problem);
                self.progress.send_modify(|progress| progress.problem = Some(problem));
                return None;
            }
        };
        // Alerts that were acknowledged before a restart are sent again only if that is a short while ago.
        let settled = cursor.settle(now());
        self.journal.send(SentThrough(Some(settled))).await.ok()?;
        let reader = JournalReader::new(&self.view.directory, settled);
        let state = State { read: settled, cursor, reader, stored_at: None, dirty: false };
        self.tell(&state, None);
        Some(state)
    }

    fn tell(&self, state: &State, problem: Option<String>) {
        let acknowledged = state.cursor.acknowledged();
        self.progress.send_if_modified(|progress| {
            let new = Progress { acknowledged, problem };
            let differs = *progress != new;
            *progress = new;
            differs
        });
    }

    /// Reads the next alerts, up to a batch; none when there are no more at present.
    async fn read(&mut self, state: &mut State) -> Result<Vec<AlertRecord>, String> {
        let through = *self.view.recorded.borrow_and_update();
        let mut reader =
            std::mem::replace(&mut state.reader, JournalReader::new(&self.view.directory, state.read));
        let reading = tokio::task::spawn_blocking(move || {
            let mut records = Vec::new();
            let result = reader.read_some(through, BATCH, BATCH_BYTES, &mut records);
            (reader, records, result)
        });
        let Ok((reader, records, result)) = reading.await else { return Ok(Vec::new()) };
        result.map_err(|error| format!("cannot read the alert journal: {error}"))?;
        state.reader = reader;
        Ok(records)
    }

    /// Waits for new alerts, a new connection, or the time to store the cursor; `false` when the journal is gone.
    async fn wait(&mut self, state: &mut State) -> bool {
        let store_at = state.stored_at.unwrap_or_else(Instant::now) + STORE_EVERY;
        tokio::select! {
            changed = self.view.recorded.changed() => changed.is_ok(),
            changed = self.connections.changed() => {
                let settled = state.cursor.settle(now());
                self.rewind(state, settled);
                changed.is_ok()
            }
            () = sleep_until(store_at), if state.dirty => {
                self.store(state, true).await;
                true
            }
        }
    }

    /// Reads on after alert `seq`.
    fn rewind(&self, state: &mut State, seq: u64) {
        state.reader = JournalReader::new(&self.view.directory, seq);
        state.read = seq;
    }

    /// Publishes the alerts and waits for their acknowledgements; the number up to which all are acknowledged.
    async fn send(&self, records: &[AlertRecord], state: &mut State) -> u64 {
        let mut acknowledgements = FuturesOrdered::new();
        let mut previous = state.read;
        for record in records {
            let (subject, message) = self.message(record, previous, state.cursor.journal());
            previous = record.seq;
            match self.jetstream.send_publish(subject, message).await {
                Ok(acknowledgement) => {
                    let seq = record.seq;
                    acknowledgements.push_back(async move { acknowledgement.await.map(|_| seq) });
                }
                Err(_) => break,
            }
        }
        let mut done = state.read;
        let now = now();
        while let Some(acknowledged) = acknowledgements.next().await {
            match acknowledged {
                Ok(seq) => done = seq,
                Err(error) => {
                    slog::debug!(self.log, "alert is not acknowledged"; "error" => %ErrorChain(&error));
                    break;
                }
            }
        }
        if done > state.read {
            state.cursor.acknowledge(done, now);
            state.read = done;
            state.dirty = true;
        }
        done
    }

    fn message(&self, record: &AlertRecord, previous: u64, journal: &str) -> (String, PublishMessage) {
        let mut text = record.message.clone();
        if text.len() > MAX_MESSAGE_BYTES {
            text.truncate(text.floor_char_boundary(MAX_MESSAGE_BYTES));
            text.push_str("… (cut: no message to the fleet holds more)");
        }
        let alert = FleetAlert {
            v: VERSION,
            agent: self.agent.clone(),
            journal: journal.to_owned(),
            seq: record.seq,
            time: record.time.clone(),
            module: record.module.to_string(),
            message: text,
            // The journal's numbers have no gaps of their own: what is not there was given up.
            dropped: (previous + 1 < record.seq)
                .then_some((previous + 1, record.seq - 1))
                .into_iter()
                .collect(),
        };
        let sealed = serde_json::to_string(&alert)
            .map_err(|error| error.to_string())
            .and_then(|text| self.key.seal(Purpose::Alert, text).map_err(|error| error.to_string()))
            .and_then(|sealed| serde_json::to_vec(&sealed).map_err(|error| error.to_string()))
            .expect("an alert is plain data of bounded size");
        let id = format!("{}.{journal}.{}", self.agent, record.seq);
        let subject = subjects::alert(&self.agent, record.module.as_str());
        (subject, PublishMessage::build().payload(sealed.into()).message_id(id))
    }

    /// Stores the cursor, if it is time, and tells the journal what it may delete.
    async fn store(&self, state: &mut State, at_once: bool) {
        let due = state.stored_at.is_none_or(|at| at.elapsed() >= STORE_EVERY);
        if !state.dirty || !(at_once || due) {
            return;
        }
        state.stored_at = Some(Instant::now());
        let settled = state.cursor.settle(now());
        let (cursor, path) = (state.cursor.clone(), self.cursor_path.clone());
        let stored = tokio::task::spawn_blocking(move || cursor.store(&path)).await;
        match stored {
            Ok(Ok(())) => state.dirty = false,
            Ok(Err(error)) => {
                info!(self.log, "cannot store how far alerts are sent, a restart sends some again";
                    "path" => ?self.cursor_path, "error" => %error);
            }
            Err(_) => {}
        }
        self.journal.send(SentThrough(Some(settled))).await.ok();
    }
}
