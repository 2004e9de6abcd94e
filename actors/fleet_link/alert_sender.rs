//! Sends the journal's alerts to the fleet: a task that follows the journal's files as any other follower does.
//!
//! Alerts are published in batches and acknowledged one by one; the cursor moves to the last of which all before it are
//! acknowledged. A batch that is not acknowledged whole is read and sent again from the cursor: whoever reads knows an
//! alert again by its number and link. After every reconnect what was acknowledged in the last minutes is sent again,
//! see [`super::alert_cursor`].
//!
//! Before that the newest alert that the broker has under this agent's name is compared with the journal. One that the
//! journal did not record was sent by another host, or by this one before an older copy of its files was put back: from
//! then on the journal has another name, and what may bear the name of such an alert is sent again under that.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use futures_util::stream::{FuturesOrdered, StreamExt};
use serde_json::Value;
use slog::{Logger, info};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use vigie_fleet::agent_key::{self, AgentKey};
use vigie_fleet::answer::{Continued, FleetAlert, Purpose, Sealed, VERSION};
use vigie_fleet::broker::stored;
use vigie_fleet::heartbeat::AlertHead;
use vigie_fleet::subjects;
use vigie_journal::{Item, Portion};
use vigie_protocol::names::AgentId;

use super::alert_cursor::AlertCursor;
use super::identity::{LONGEST_LOOK, Memory, Reverted};
use super::membership::Membership;
use super::uplink::{Hold, Uplink};
use crate::alert_journal::{AlertJournal, Follower, JournalView, RenameJournal, SentThrough, alert_record};
use crate::work_threads::{self, Lane};
use vigie_protocol::control::AlertRecord;
use vigie_protocol::error_chain::ErrorChain;
use vigie_protocol::masked_alert::masked_alert;

/// Alerts that are on their way at once, and their bytes.
const BATCH: Portion = Portion { items: 256, bytes: 4 << 20 };

/// Longest alert that is sent; what is longer is cut, because no message holds it.
const MAX_ALERT_BYTES: usize = 48 * 1024;

/// Largest message, in bytes: the stream of alerts takes 64 KiB, and the subject counts.
const MAX_MESSAGE_BYTES: usize = 63 * 1024;

/// What a text ends with that was cut.
const CUT: &str = "… (truncated to the size limit of fleet messages)";

/// How long texts of an alert may be that is too long, in bytes; the next one is tried when that is not enough.
const TEXT_LIMITS: [usize; 4] = [4096, 1024, 256, 64];

/// For so many bytes of text a list may have one item.
const TEXT_TO_ITEMS: usize = 32;

/// How deep a value in an alert that is too long may stand.
const MAX_DEPTH: usize = 4;

/// Pause after a batch that was not acknowledged whole.
const RETRY: Duration = Duration::from_millis(500);

/// The journal gets another name at most this often: whoever holds this host's key can make it look as if it had to.
const RENAME_EVERY: Duration = Duration::from_secs(600);

/// Pause after the disk did not take the journal's new name.
const RENAME_RETRY: Duration = Duration::from_secs(5);

/// How often the cursor is stored at most.
const STORE_EVERY: Duration = Duration::from_secs(1);

/// What the sender works with.
pub(super) struct AlertSender {
    pub(super) log: Logger,
    pub(super) agent: AgentId,
    pub(super) key: Arc<AgentKey>,
    pub(super) journal: Addr<AlertJournal>,
    pub(super) membership: Addr<Membership>,
    /// Counts how often another host was found to use this identity.
    pub(super) forks: watch::Receiver<u64>,
    pub(super) view: JournalView,
    pub(super) uplink: Uplink,
    /// How far the alerts are sent.
    pub(super) cursor: AlertCursor,
    /// Where that is stored.
    pub(super) cursor_path: PathBuf,
    /// When the journal got its present name, in seconds since 1970.
    pub(super) renamed_at: i64,
    pub(super) hold: Hold,
    /// Extra privacy mode is on: what identifies stays here.
    pub(super) masked: bool,
    /// Tells how far the fleet has the alerts.
    pub(super) progress: watch::Sender<Progress>,
    /// Told when the newest alert was compared. Says when it was noticed that the files are an older copy: alerts that
    /// they do not know may bear the journal's name.
    pub(super) memory: Arc<watch::Sender<Memory>>,
}

/// How far the fleet has this host's alerts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Number of the newest alert of which the fleet has all up to it.
    pub(super) acknowledged: u64,
    /// The same with its link, for whoever reads the alerts.
    pub(super) head: Option<AlertHead>,
    /// The broker has alerts under this name that the journal did not record.
    pub(super) is_forked: bool,
    /// Why no alerts can be sent.
    pub(super) problem: Option<String>,
}

/// What the task keeps between batches.
struct State {
    journal: Follower,
    /// Number of the newest alert that was sent and acknowledged, and its link when it is known.
    read: u64,
    link: Option<String>,
    /// Where the newest of this agent's alerts lies in the stream; nothing when that is not known for sure.
    place: Option<u64>,
    /// By which connection.
    connection: u64,
    /// The broker was away behind a connection that stands, as that to a leaf node does: it may have lost its last
    /// seconds.
    doubt: bool,
    /// By which connection the newest alert is asked for in vain, and since when.
    looks: Option<(u64, Instant)>,
    /// What of [`AlertSender::forks`] was taken note of.
    forks: u64,
    memory: watch::Receiver<Memory>,
    renaming: Renaming,
    /// Alerts that are sent at once.
    batch: usize,
    stored_at: Option<Instant>,
    dirty: bool,
}

/// When the journal gets another name, if one is due.
struct Renaming {
    /// Not before then.
    at: Instant,
}

impl Renaming {
    /// It got the present one at `renamed_at`, also in an earlier life.
    fn after(renamed_at: i64, now: i64) -> Self {
        let since = u64::try_from(now.saturating_sub(renamed_at)).unwrap_or(0);
        Self { at: Instant::now() + RENAME_EVERY.saturating_sub(Duration::from_secs(since)) }
    }

    /// After which number it gets one now.
    fn take_place(&self, due: Option<u64>) -> Option<u64> {
        due.filter(|_| Instant::now() >= self.at)
    }

    /// Takes note of whether it got one.
    fn tried(&mut self, is_renamed: bool) {
        let pause = if is_renamed { RENAME_EVERY } else { RENAME_RETRY };
        self.at = Instant::now() + pause;
    }
}

/// How many alerts are sent at once after a batch that was acknowledged whole, or was not. What a slow broker does not
/// acknowledge in time it has stored all the same: sent again, it would push out older alerts and make it slower.
fn next_batch(batch: usize, is_whole: bool) -> usize {
    if is_whole { (batch * 2).min(BATCH.items) } else { (batch / 4).max(1) }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

impl AlertSender {
    /// Sends until the task is aborted.
    pub(super) async fn run(mut self) {
        let mut state = State {
            journal: self.view.follow(0),
            read: 0,
            link: None,
            place: None,
            connection: 0,
            doubt: false,
            looks: None,
            forks: 0,
            memory: self.memory.subscribe(),
            renaming: Renaming::after(self.renamed_at, now()),
            batch: BATCH.items,
            stored_at: None,
            dirty: false,
        };
        self.tell(None);
        loop {
            // What is read while nobody is connected would only wait in memory.
            let Some(connection) = self.uplink.up().await else { return };
            if self.is_forked_anew(&mut state) {
                self.doubt(&mut state).await;
            }
            self.rename(&mut state).await;
            if connection != state.connection || state.doubt {
                if !self.compare(&mut state, connection).await {
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                match self.has_all(&mut state).await {
                    Some(true) => {
                        let (seq, link) = (state.read, state.link.clone());
                        self.rewind(&mut state, seq, link);
                    }
                    // It is still away.
                    None if connection == state.connection => {
                        tokio::time::sleep(RETRY).await;
                        continue;
                    }
                    Some(false) | None => {
                        let settled = self.cursor.settle(now());
                        let link = self.cursor.settled_link();
                        self.rewind(&mut state, settled, link);
                    }
                }
                (state.connection, state.doubt, state.looks) = (connection, false, None);
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
            state.batch = next_batch(state.batch, done == last);
            if done == last {
                self.tell(None);
            } else {
                self.tell(Some("the broker does not acknowledge alerts".to_owned()));
                let link = state.link.clone();
                self.rewind(&mut state, done, link);
                tokio::time::sleep(RETRY).await;
            }
            self.store(&mut state, false).await;
        }
    }

    fn tell(&self, problem: Option<String>) {
        let acknowledged = self.cursor.acknowledged();
        let journal = self.cursor.journal();
        let head = self.cursor.head().map(|(seq, link)| AlertHead { journal: journal.to_owned(), seq, link });
        self.progress.send_if_modified(|progress| {
            let new = Progress { acknowledged, head, is_forked: progress.is_forked, problem };
            let differs = *progress != new;
            *progress = new;
            differs
        });
    }

    /// Reads the next alerts, up to a batch; none when there are no more at present.
    async fn read(&self, state: &mut State) -> Result<Vec<AlertRecord>, String> {
        loop {
            let items = state.journal.read(Portion { items: state.batch, ..BATCH }).await;
            let items = items.map_err(|error| format!("cannot read the alert journal: {error}"))?;
            let is_end = items.is_empty();
            // What is missing is told with the next alert: numbers have no gaps of their own.
            let records: Vec<AlertRecord> = alerts(items).map(|record| shown(record, self.masked)).collect();
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
            goes_on = self.forks.changed() => goes_on.is_ok(),
            goes_on = state.memory.changed() => goes_on.is_ok(),
            () = sleep_until(state.renaming.at), if self.cursor.due().is_some() => true,
            () = sleep_until(store_at), if state.dirty => {
                self.store(state, true).await;
                true
            }
        }
    }

    /// Whether the broker still has the newest alert that it acknowledged, and so all before it: its newest message of
    /// this agent is where it was. Costs one alert that comes twice, and saves those of five minutes. Nothing when the
    /// broker is away.
    async fn has_all(&mut self, state: &mut State) -> Option<bool> {
        let (Some(place), Some(before)) = (state.place.take(), state.read.checked_sub(1)) else {
            return Some(false);
        };
        let Some(record) = self.record(state.read).await else { return Some(false) };
        let continues = self.cursor.continued_after(before);
        let (payload, _) =
            payload(&self.key, &self.agent, self.cursor.journal(), &record, before, None, continues);
        let subject = subjects::alert(&self.agent);
        match stored::store_after(&self.uplink.client, &subject, place, &payload).await {
            Ok(place) => state.place = Some(place),
            Err(error) if error.is_nobody() => {
                state.place = Some(place);
                return None;
            }
            Err(_) => {}
        }
        Some(state.place.is_some())
    }

    /// The recorded alert of this number, as it is sent.
    async fn record(&self, seq: u64) -> Option<AlertRecord> {
        let items =
            self.view.follow(seq.checked_sub(1)?).read(Portion { items: 1, bytes: BATCH.bytes }).await;
        let record = items.ok().and_then(|items| alerts(items).next());
        record.filter(|record| record.seq == seq).map(|record| shown(record, self.masked))
    }

    /// Compares the newest alert that the broker has under this name with the journal; `false` when it is to be asked
    /// for again.
    async fn compare(&mut self, state: &mut State, connection: u64) -> bool {
        let subject = subjects::alert(&self.agent);
        let newest = match stored::newest_of_own(&self.uplink.client, subjects::ALERTS, &subject).await {
            Ok(newest) => newest,
            Err(error) => {
                slog::debug!(self.log, "cannot read the newest alert of this agent"; "error" => %ErrorChain(&error));
                if error.is_not_permitted() {
                    self.memory.send_modify(|memory| {
                        (memory.alerts, memory.not_permitted) = (Some(connection), Some(connection));
                    });
                    return true;
                }
                // What is sent takes the place of what is to be compared; but what cannot be known keeps no alert back
                // for long.
                let begun = state.looks.filter(|(by, _)| *by == connection);
                let (_, since) = *state.looks.insert(begun.unwrap_or((connection, Instant::now())));
                return since.elapsed() >= LONGEST_LOOK;
            }
        };
        state.looks = None;
        let newest = newest.and_then(|entry| Some((self.own(&entry.value)?, entry.stored)));
        if let Some((alert, stored)) = newest
            && self.is_unknown(&alert).await
        {
            let text = format!(
                "the fleet has alert {} of this agent, which its own journal did not record: an older copy of STATE_DIR was restored, or another host uses a copy of it",
                alert.seq
            );
            self.progress.send_modify(|progress| progress.is_forked = true);
            let sealed = alert.time.parse::<jiff::Timestamp>().map_or(stored, jiff::Timestamp::as_second);
            self.membership.send(Reverted { text, stored, sealed, connection }).await.ok();
            self.doubt(state).await;
            self.rename(state).await;
        }
        self.memory.send_modify(|memory| memory.alerts = Some(connection));
        true
    }

    /// An alert that this agent's key sealed.
    fn own(&self, payload: &[u8]) -> Option<FleetAlert> {
        let sealed: Sealed = serde_json::from_slice(payload).ok()?;
        let text = agent_key::open(&sealed, Purpose::Alert, self.key.public_key()).ok()?;
        serde_json::from_str(text).ok()
    }

    /// Whether an alert that bears the journal's name is none that the journal recorded. One that retention deleted may
    /// be any.
    async fn is_unknown(&self, alert: &FleetAlert) -> bool {
        if alert.journal != self.cursor.journal() {
            return false;
        }
        if alert.seq > *self.view.recorded.borrow() {
            return true;
        }
        let Some(record) = self.record(alert.seq).await else { return false };
        let (agent, journal) = (&self.agent, self.cursor.journal());
        payload(&self.key, agent, journal, &record, alert.seq - 1, None, None).1 != alert.link()
    }

    /// Whether it was found that the journal's name may not be its own alone, and not taken note of.
    fn is_forked_anew(&mut self, state: &mut State) -> bool {
        let forks = *self.forks.borrow_and_update();
        let restorations = state.memory.borrow_and_update().restorations();
        std::mem::replace(&mut state.forks, forks) != forks || restorations != self.cursor.restorations()
    }

    /// Takes note of it on disk: who noticed it makes the files such that the next life does not.
    async fn doubt(&mut self, state: &mut State) {
        let restorations = state.memory.borrow_and_update().restorations();
        self.cursor.doubt(restorations);
        state.dirty = true;
        self.store(state, true).await;
    }

    /// Has the journal go on under another name, if it is to and may. What was in doubt is sent again under that.
    async fn rename(&mut self, state: &mut State) {
        let Some(through) = state.renaming.take_place(self.cursor.due()) else { return };
        let name = self.journal.send(RenameJournal { through }).await.ok().flatten();
        state.renaming.tried(name.is_some());
        let Some(name) = name else { return };
        self.cursor = self.cursor.clone().renamed(name, through);
        (state.place, state.dirty) = (None, true);
        self.rewind(state, through, None);
        self.tell(None);
        self.store(state, true).await;
    }

    /// Reads on after alert `seq`, whose link this is.
    fn rewind(&self, state: &mut State, seq: u64, link: Option<String>) {
        state.journal = self.view.follow(seq);
        (state.read, state.link) = (seq, link);
    }

    /// Publishes the alerts and waits for their acknowledgements; the number up to which all are acknowledged.
    async fn send(&mut self, records: &[AlertRecord], state: &mut State) -> u64 {
        let (subject, now) = (subjects::alert(&self.agent), now());
        let (mut previous, mut link) = (state.read, state.link.clone());
        let mut messages = Vec::with_capacity(records.len());
        for record in records {
            let (journal, continues) = (self.cursor.journal(), self.cursor.continued_after(previous));
            let (payload, own_link) =
                payload(&self.key, &self.agent, journal, record, previous, link.take(), continues);
            (previous, link) = (record.seq, Some(own_link.clone()));
            messages.push((record.seq, own_link, payload));
        }
        let (client, subject) = (&self.uplink.client, subject.as_str());
        let mut acknowledgements: FuturesOrdered<_> = messages
            .into_iter()
            .map(|(seq, link, payload)| async move {
                stored::store(client, subject, &payload).await.map(|place| (seq, link, place))
            })
            .collect();
        let mut done = None;
        while let Some(acknowledged) = acknowledgements.next().await {
            match acknowledged {
                Ok(one) => done = Some(one),
                Err(error) => {
                    slog::debug!(self.log, "alert was not acknowledged"; "error" => %ErrorChain(&error));
                    state.doubt = error.is_nobody();
                    break;
                }
            }
        }
        drop(acknowledgements);
        if let Some((seq, link, place)) = done {
            self.cursor.acknowledge(seq, link.clone(), now);
            (state.read, state.link, state.dirty) = (seq, Some(link), true);
            // When one was not acknowledged, it and those after it may be there all the same.
            state.place = (records.last().map(|record| record.seq) == Some(seq)).then_some(place);
        } else if !state.doubt {
            state.place = None;
        }
        state.read
    }

    /// Stores the cursor, if it is time, and tells the journal what it may delete.
    async fn store(&mut self, state: &mut State, at_once: bool) {
        let due = state.stored_at.is_none_or(|at| at.elapsed() >= STORE_EVERY);
        if !state.dirty || !(at_once || due) {
            return;
        }
        state.stored_at = Some(Instant::now());
        self.cursor.settle(now());
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
                info!(self.log, "cannot store the position of sent alerts; after a restart some are sent again";
                    "path" => ?self.cursor_path, "error" => %error);
            }
            Err(_) => {}
        }
        let through = self.cursor.sent_for_good();
        self.journal.send(SentThrough(Some(through))).await.ok();
    }
}

/// The alerts among what a journal holds.
fn alerts(items: Vec<Item>) -> impl Iterator<Item = AlertRecord> {
    items.into_iter().filter_map(|item| match item {
        Item::Alert(record) => Some(alert_record(record)),
        Item::Missing(_) | Item::Damaged(_) => None,
    })
}

/// The alert as it may leave this host.
fn shown(record: AlertRecord, masked: bool) -> AlertRecord {
    if !masked {
        return record;
    }
    let message = masked_alert(record.module.as_str(), &record.message);
    AlertRecord { message, ..record }
}

/// The sealed form of an alert, and its link. `before` is the number of the alert that was sent before it, `previous`
/// its link, and `continues` what was there before all that bears the journal's name.
fn payload(
    key: &AgentKey,
    agent: &AgentId,
    journal: &str,
    record: &AlertRecord,
    before: u64,
    previous: Option<String>,
    continues: Option<Continued>,
) -> (Vec<u8>, String) {
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
            dropped: (before + 1 < record.seq).then_some((before + 1, record.seq - 1)).into_iter().collect(),
            previous: previous.clone(),
            continues: continues.clone(),
        };
        let text = serde_json::to_string(&alert).expect("an alert is plain data");
        let sealed = key.seal(Purpose::Alert, text).ok();
        let payload = sealed.map(|sealed| serde_json::to_vec(&sealed).expect("a seal is plain data"));
        match payload {
            Some(payload) if payload.len() <= MAX_MESSAGE_BYTES => return (payload, alert.link()),
            // A text of control characters is written seven times as long. The rest of an alert is a few hundred bytes.
            _ => room /= 2,
        }
    }
}

fn cut(text: &str, room: usize) -> String {
    if text.len() <= room {
        return text.to_owned();
    }
    if let Ok(fields @ Value::Object(_)) = serde_json::from_str(text)
        && let Some(shortened) = shortened(&fields, room)
    {
        return shortened;
    }
    format!("{}{CUT}", &text[..text.floor_char_boundary(room)])
}

/// An alert of so many bytes that is still one: whoever reads it looks at its severity, its rule and its path, which
/// long texts beside them must not hide.
fn shortened(fields: &Value, room: usize) -> Option<String> {
    TEXT_LIMITS.into_iter().find_map(|limit| {
        let mut shown = fields.clone();
        shorten(&mut shown, limit, 0);
        shown.as_object_mut()?.insert("truncated".to_owned(), true.into());
        let text = shown.to_string();
        (text.len() <= room).then_some(text)
    })
}

/// Leaves of texts and lists what fits the limit, and of what stands deep inside nothing.
fn shorten(value: &mut Value, limit: usize, depth: usize) {
    match value {
        Value::String(text) if text.len() > limit => {
            text.truncate(text.floor_char_boundary(limit));
            text.push('…');
        }
        Value::Array(_) | Value::Object(_) if depth > MAX_DEPTH => *value = Value::Null,
        Value::Array(items) => {
            items.truncate(limit / TEXT_TO_ITEMS);
            items.iter_mut().for_each(|item| shorten(item, limit, depth + 1));
        }
        Value::Object(fields) => {
            // The first level says what happened; what is told of it in many keys goes when there is no room.
            if depth > 0 && fields.len() > limit / TEXT_TO_ITEMS {
                fields.clear();
            }
            fields.values_mut().for_each(|field| shorten(field, limit, depth + 1));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn another_name_that_is_due_waits_for_its_time_and_for_the_disk() {
        tokio::time::pause();
        let mut renaming = Renaming::after(0, 1_000_000);
        assert_eq!(renaming.take_place(None), None);
        assert_eq!(renaming.take_place(Some(7)), Some(7));
        renaming.tried(false);
        assert_eq!(renaming.take_place(Some(7)), None);
        tokio::time::advance(RENAME_RETRY).await;
        assert_eq!(renaming.take_place(Some(7)), Some(7));
        renaming.tried(true);
        tokio::time::advance(RENAME_EVERY / 2).await;
        assert_eq!(renaming.take_place(Some(8)), None);
        tokio::time::advance(RENAME_EVERY / 2).await;
        assert_eq!(renaming.take_place(Some(8)), Some(8));
    }

    #[actix_rt::test]
    async fn a_restart_does_not_begin_the_pause_between_two_names_anew_nor_end_it() {
        tokio::time::pause();
        // By a clock that was ahead when it got its name, it waits as long as it ever has to.
        for (since, waits) in [(0, 600), (200, 400), (600, 0), (9000, 0), (-50, 600), (i64::MIN, 600)] {
            let renaming = Renaming::after(1_000_000_i64.saturating_sub(since), 1_000_000);
            assert_eq!(renaming.at, Instant::now() + Duration::from_secs(waits), "{since}");
        }
    }

    #[test]
    fn a_slow_broker_gets_ever_fewer_alerts_at_once_and_one_that_takes_them_more() {
        let slow: Vec<usize> =
            std::iter::successors(Some(256), |batch| Some(next_batch(*batch, false))).take(6).collect();
        assert_eq!(slow, [256, 64, 16, 4, 1, 1]);
        let quick = std::iter::successors(Some(1), |batch| Some(next_batch(*batch, true))).take(10).last();
        assert_eq!(quick, Some(256));
    }

    fn sent(message: String, previous: u64) -> FleetAlert {
        let key = AgentKey::generate();
        let record = AlertRecord {
            seq: 7,
            time: "2026-01-01T00:00:00Z".to_owned(),
            module: "watch".parse().unwrap(),
            id: None,
            message,
        };
        let (payload, _) = payload(&key, &"web-1".parse().unwrap(), "j", &record, previous, None, None);
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
    fn an_alert_that_is_cut_keeps_its_severity_and_what_it_is_about() {
        let long = "\u{1}\\".repeat(10_000);
        let parents: Vec<Value> = (0..50).map(|_| serde_json::json!({"command": long, "pid": 7})).collect();
        let message = serde_json::json!({
            "severity": "critical", "alert": long, "event": "changed", "rule": "/etc", "path": "/etc/passwd",
            "process": {"pid": 812, "command": long, "parents": parents, "deep": [[[[[[long]]]]]]},
        });

        let cut = sent(message.to_string(), 6).message;

        let shown: Value = serde_json::from_str(&cut).unwrap();
        assert_eq!(
            vigie_protocol::severity::Severity::of(&cut),
            vigie_protocol::severity::Severity::Critical
        );
        assert_eq!((&shown["path"], &shown["rule"]), (&message["path"], &message["rule"]));
        assert_eq!(
            (&shown["process"]["pid"], &shown["truncated"]),
            (&message["process"]["pid"], &true.into())
        );
        assert!(shown["alert"].as_str().unwrap().ends_with('…'));
    }

    #[test]
    fn what_the_journal_does_not_hold_any_more_was_given_up() {
        assert_eq!(sent(String::new(), 6).dropped, []);
        assert_eq!(sent(String::new(), 2).dropped, [(3, 6)]);
    }
}
