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
use async_nats::jetstream::message::PublishMessage;
use futures_util::stream::{FuturesOrdered, StreamExt};
use slog::{Logger, info};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::answer::{FleetAlert, Purpose, VERSION};
use vigie_fleet::subjects;
use vigie_journal::{Item, Portion};
use vigie_protocol::names::AgentId;

use super::alert_cursor::AlertCursor;
use super::uplink::{Hold, Uplink};
use crate::alert_journal::{AlertJournal, Follower, JournalView, SentThrough, alert_record};
use crate::work_threads::{self, Lane};
use vigie_protocol::control::AlertRecord;
use vigie_protocol::error_chain::ErrorChain;

/// Alerts that are on their way at once, and their bytes.
const BATCH: Portion = Portion { items: 256, bytes: 4 << 20 };

/// Longest alert that is sent; what is longer is cut, because no message holds it.
const MAX_ALERT_BYTES: usize = 200 * 1024;

/// Largest message, in bytes: 1 MiB is the most that NATS takes by default, and the subject and headers count.
const MAX_MESSAGE_BYTES: usize = 1000 * 1024;

/// What a text ends with that was cut.
const CUT: &str = "… (cut: no message to the fleet holds more)";

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
    pub(super) uplink: Uplink,
    /// How far the alerts are sent.
    pub(super) cursor: AlertCursor,
    /// Where that is stored.
    pub(super) cursor_path: PathBuf,
    pub(super) hold: Hold,
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
    journal: Follower,
    /// Number of the newest alert that was read.
    read: u64,
    /// By which connection.
    connection: u64,
    stored_at: Option<Instant>,
    dirty: bool,
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

impl AlertSender {
    /// Sends until the task is aborted.
    pub(super) async fn run(mut self) {
        let mut state =
            State { journal: self.view.follow(0), read: 0, connection: 0, stored_at: None, dirty: false };
        self.tell(None);
        loop {
            // What is read while nobody is connected would only wait in memory.
            let Some(connection) = self.uplink.up().await else { return };
            if connection != state.connection {
                state.connection = connection;
                let settled = self.cursor.settle(now());
                self.rewind(&mut state, settled);
            }
            let records = match self.read(&mut state).await {
                Ok(records) => records,
                Err(problem) => {
                    self.tell(Some(problem));
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
                self.tell(None);
            } else {
                self.tell(Some("the broker does not acknowledge alerts".to_owned()));
                self.rewind(&mut state, done);
                tokio::time::sleep(RETRY).await;
            }
            self.store(&mut state, false).await;
        }
    }

    fn tell(&self, problem: Option<String>) {
        let acknowledged = self.cursor.acknowledged();
        self.progress.send_if_modified(|progress| {
            let new = Progress { acknowledged, problem };
            let differs = *progress != new;
            *progress = new;
            differs
        });
    }

    /// Reads the next alerts, up to a batch; none when there are no more at present.
    async fn read(&self, state: &mut State) -> Result<Vec<AlertRecord>, String> {
        loop {
            let items = state.journal.read(BATCH).await;
            let items = items.map_err(|error| format!("cannot read the alert journal: {error}"))?;
            let is_end = items.is_empty();
            // What is missing is told with the next alert: numbers have no gaps of their own.
            let records: Vec<AlertRecord> = items
                .into_iter()
                .filter_map(|item| match item {
                    Item::Alert(record) => Some(alert_record(record)),
                    Item::Missing(_) | Item::Damaged(_) => None,
                })
                .collect();
            if is_end || !records.is_empty() {
                return Ok(records);
            }
        }
    }

    /// Waits for new alerts, a new connection, or the time to store the cursor; `false` when the journal is gone.
    async fn wait(&mut self, state: &mut State) -> bool {
        let store_at = state.stored_at.unwrap_or_else(Instant::now) + STORE_EVERY;
        tokio::select! {
            goes_on = state.journal.changed() => goes_on,
            stands = self.uplink.changed() => stands,
            () = sleep_until(store_at), if state.dirty => {
                self.store(state, true).await;
                true
            }
        }
    }

    /// Reads on after alert `seq`.
    fn rewind(&self, state: &mut State, seq: u64) {
        state.journal = self.view.follow(seq);
        state.read = seq;
    }

    /// Publishes the alerts and waits for their acknowledgements; the number up to which all are acknowledged.
    async fn send(&mut self, records: &[AlertRecord], state: &mut State) -> u64 {
        let mut acknowledgements = FuturesOrdered::new();
        let mut previous = state.read;
        for record in records {
            let (subject, message) = self.message(record, previous);
            previous = record.seq;
            match self.uplink.jetstream.send_publish(subject, message).await {
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
            self.cursor.acknowledge(done, now);
            state.read = done;
            state.dirty = true;
        }
        done
    }

    fn message(&self, record: &AlertRecord, previous: u64) -> (String, PublishMessage) {
        let journal = self.cursor.journal();
        let payload = payload(&self.key, &self.agent, journal, record, previous);
        let id = format!("{}.{journal}.{}", self.agent, record.seq);
        let subject = subjects::alert(&self.agent, record.module.as_str());
        (subject, PublishMessage::build().payload(payload.into()).message_id(id))
    }

    /// Stores the cursor, if it is time, and tells the journal what it may delete.
    async fn store(&mut self, state: &mut State, at_once: bool) {
        let due = state.stored_at.is_none_or(|at| at.elapsed() >= STORE_EVERY);
        if !state.dirty || !(at_once || due) {
            return;
        }
        state.stored_at = Some(Instant::now());
        let settled = self.cursor.settle(now());
        let (cursor, path, hold) = (self.cursor.clone(), self.cursor_path.clone(), self.hold.clone());
        let storing = work_threads::run(Lane::Fleet, move || {
            let stored = cursor.store(&path);
            drop(hold);
            stored
        });
        let stored = storing.await;
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

/// The sealed form of an alert. `previous` is the number of the alert that goes before it.
fn payload(key: &AgentKey, agent: &AgentId, journal: &str, record: &AlertRecord, previous: u64) -> Vec<u8> {
    let mut room = MAX_ALERT_BYTES;
    loop {
        let alert = FleetAlert {
            v: VERSION,
            agent: agent.clone(),
            journal: journal.to_owned(),
            seq: record.seq,
            time: record.time.clone(),
            module: record.module.to_string(),
            message: cut(&record.message, room),
            // The journal's numbers have no gaps of their own: what is not there was given up.
            dropped: (previous + 1 < record.seq)
                .then_some((previous + 1, record.seq - 1))
                .into_iter()
                .collect(),
        };
        let text = serde_json::to_string(&alert).expect("an alert is plain data");
        let sealed = key.seal(Purpose::Alert, text).ok();
        let payload = sealed.map(|sealed| serde_json::to_vec(&sealed).expect("a seal is plain data"));
        match payload {
            Some(payload) if payload.len() <= MAX_MESSAGE_BYTES => return payload,
            // A text of control characters is written seven times as long. The rest of an alert is a few hundred bytes.
            _ => room /= 2,
        }
    }
}

fn cut(text: &str, room: usize) -> String {
    if text.len() <= room {
        return text.to_owned();
    }
    format!("{}{CUT}", &text[..text.floor_char_boundary(room)])
}

#[cfg(test)]
mod tests {
    use vigie_fleet::agent_key;
    use vigie_fleet::answer::Sealed;

    use super::*;

    fn sent(message: String, previous: u64) -> FleetAlert {
        let key = AgentKey::generate();
        let record = AlertRecord {
            seq: 7,
            time: "2026-01-01T00:00:00Z".to_owned(),
            module: "watch".parse().unwrap(),
            id: None,
            message,
        };
        let payload = payload(&key, &"web-1".parse().unwrap(), "j", &record, previous);
        assert!(payload.len() <= MAX_MESSAGE_BYTES);
        let sealed: Sealed = serde_json::from_slice(&payload).unwrap();
        serde_json::from_str(agent_key::open(&sealed, Purpose::Alert, key.public_key()).unwrap()).unwrap()
    }

    #[test]
    fn an_alert_of_any_text_fits_into_a_message() {
        assert_eq!(sent("x".repeat(1000), 6).message, "x".repeat(1000));
        for text in ["x", "\u{1}", "\"", "é", "\u{10ffff}"] {
            let cut = sent(text.repeat(600_000), 6).message;
            assert!(cut.ends_with(CUT) && cut.starts_with(text), "{text:?}");
        }
    }

    #[test]
    fn what_the_journal_does_not_hold_any_more_was_given_up() {
        assert_eq!(sent(String::new(), 6).dropped, []);
        assert_eq!(sent(String::new(), 2).dropped, [(3, 6)]);
    }
}
