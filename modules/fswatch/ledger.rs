//! What is known and what was told, in memory and on disk together.
//!
//! The disk comes first: a step is in the store before its alerts leave. When it cannot be written to disk, alerts
//! leave all the same, and the store is written anew as soon as that is possible; a crash before then makes the next
//! life find the same changes again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use vigie_sdk::AlertId;

use crate::change::{Alert, Event, hex, shown};
use crate::history::History;
use crate::lineage::{Doubt, Mark};
use crate::object::Object;
use crate::state_files::{self, Odd};
use crate::store::{Opened, State, Step, Store, Unaccepted, host_identity};
use crate::storm::shortened;
use crate::trust::Lane;
use crate::waiting::Keys;

/// Changes that are remembered as not accepted; beyond it the list says that it is not complete.
pub(crate) const MAX_UNACCEPTED: usize = 10_000;

/// The same for one user's paths, so that nobody fills the list alone; all users together have half of it.
const MAX_UNACCEPTED_OF_USER: usize = 1_000;

/// Alerts whose completion can refer to them.
const MAX_BEGUN: usize = 20_000;

/// Bytes of the history that are kept in memory while the disk does not take them.
const MAX_UNWRITTEN_BYTES: usize = 8 * 1024 * 1024;

/// Heartbeats in a row without time to wait for the disk; then it is waited for all the same.
const MAX_POSTPONED: u32 = 12;

/// Longest path that an alert tells in full, as it is shown; longer ones are cut in the middle, and told by digest.
const MAX_PATH_BYTES: usize = 16 * 1024;

/// Longest sentence and longest other text of an alert that is too long.
const MAX_LONG_BYTES: usize = 4 * 1024;
const MAX_SHORT_BYTES: usize = 512;

/// Longest alert that is not looked at more closely, and longest one of all.
const USUAL_BYTES: usize = 8 * 1024;
const MAX_BYTES: usize = 64 * 1024;

/// What was found on disk at the start.
#[derive(Debug, Default)]
pub struct Beginning {
    /// When the module was last known to run.
    pub last_alive: Option<SystemTime>,
    /// There was a baseline, and somebody removed it.
    pub gone: bool,
    /// Why the store could not be trusted, and where it is now.
    pub set_aside: Option<(String, PathBuf)>,
    /// What is wrong with other files of the state: which file, and what.
    pub notices: Vec<(PathBuf, String)>,
    /// Why nothing can be kept on disk.
    pub unusable: Option<String>,
}

/// Changes of the baseline and what is told about them.
#[derive(Debug, Default)]
pub struct Entry {
    /// Paths and what is known of them from now on.
    pub changes: Vec<(PathBuf, Option<Object>)>,
    /// What is told alone.
    pub alone: Vec<Alert>,
    /// What is told as part of a group, with the group's id.
    pub members: Vec<(String, Alert)>,
    /// What belongs to a package manager's record and is explained by it, with the record's id.
    pub explained: Vec<(String, Alert)>,
    /// The open groups, when they changed.
    pub groups: Option<String>,
}

/// The two together.
#[derive(Debug)]
pub struct Ledger {
    state: State,
    directory: Option<PathBuf>,
    store: Option<Store>,
    history: Option<History>,
    epoch: u64,
    sequence: u64,
    /// What went wrong with the disk and has not got right again.
    trouble: Option<String>,
    /// Why this life keeps nothing on disk, or not all.
    unusable: Option<String>,
    /// Changes that are not accepted and not remembered.
    forgotten_unaccepted: u64,
    /// Everything was looked at once: before that there is nothing worth keeping.
    complete: bool,
    /// Changes that are not accepted, of paths that users can change.
    unaccepted_of_users: BTreeMap<u32, usize>,
    /// Lines of the history that the disk did not take yet.
    unwritten: Vec<String>,
    /// How many were more than could be kept.
    lost_lines: u64,
    /// Keys of paths whose content was not known when they were told, and the id of that alert or group.
    begun: HashMap<u64, String>,
    keys: Keys,
    /// How often in a row there was no time to wait for the disk.
    postponed: u32,
}

impl Ledger {
    /// Opens what an earlier life left in `directory`; without one all is kept in memory only.
    #[must_use]
    pub fn open(directory: Option<&Path>, history_bytes: u64) -> (Self, Beginning) {
        let mut ledger = Self {
            state: State::default(),
            directory: directory.map(Path::to_owned),
            store: None,
            history: None,
            epoch: vigie_sdk::outbox::fresh_epoch(),
            sequence: 0,
            trouble: None,
            unusable: None,
            forgotten_unaccepted: 0,
            complete: false,
            unaccepted_of_users: BTreeMap::new(),
            unwritten: Vec::new(),
            lost_lines: 0,
            begun: HashMap::new(),
            keys: Keys::default(),
            postponed: 0,
        };
        let mut beginning = Beginning::default();
        let Some(directory) = directory else { return (ledger, beginning) };
        // A baseline that is something else is put aside by the store, which knows since when nothing is known.
        for name in ["fswatch.key", "fswatch.history", "fswatch.history.1", "fswatch.alive"] {
            match state_files::clear_odd(&directory.join(name)) {
                Ok(odd) => beginning.notices.extend(odd.map(about_odd)),
                Err(error) => beginning.unusable = Some(error.to_string()),
            }
        }
        match Store::open(directory, &host_identity()) {
            Ok((store, opened)) => {
                ledger.store = Some(store);
                match opened {
                    Opened::New => {}
                    Opened::Gone { last_alive } => {
                        beginning.gone = true;
                        beginning.last_alive = last_alive;
                    }
                    Opened::Whole { state, last_alive } => {
                        ledger.complete = true;
                        ledger.state = *state;
                        beginning.last_alive = last_alive;
                    }
                    Opened::SetAside { why, kept_as, last_alive } => {
                        beginning.set_aside = Some((why, kept_as));
                        beginning.last_alive = last_alive;
                    }
                }
            }
            Err(error) => beginning.unusable = Some(error.to_string()),
        }
        match History::open(directory, ledger.state.history, history_bytes) {
            Ok(history) => {
                beginning.notices.extend(history.missing().and_then(|bytes| {
                    let was_stopped = beginning.last_alive.is_some_and(|last| last < booted());
                    (!was_stopped).then(|| about_history(directory, bytes))
                }));
                ledger.history = Some(history);
            }
            Err(error) => beginning.unusable = Some(error.to_string()),
        }
        ledger.unusable = beginning
            .unusable
            .as_ref()
            .map(|why| format!("cannot keep state across restarts in {}: {why}", shown(directory)));
        (ledger, beginning)
    }

    /// What is known.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// A number that no other life has.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Bytes of the baseline on disk.
    #[must_use]
    pub(crate) fn store_bytes(&self) -> Option<u64> {
        self.store.as_ref().filter(|store| store.is_whole()).map(Store::bytes)
    }

    /// What is wrong with the disk.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref().or(self.unusable.as_deref())
    }

    /// Changes that were not accepted and are not in the list any more.
    #[must_use]
    pub(crate) fn forgotten_unaccepted(&self) -> u64 {
        self.forgotten_unaccepted
    }

    /// Changes how much history is kept.
    pub(crate) fn set_history_bytes(&mut self, bytes: u64) {
        if let Some(history) = &mut self.history {
            history.set_most(bytes);
        }
    }

    /// How far the baseline on disk has got.
    #[must_use]
    pub fn mark(&self) -> Option<Mark> {
        self.store.as_ref()?.mark()
    }

    /// Compares the baseline with what the agent's journal was told of it.
    pub fn compare(&mut self, told: &Mark) -> Option<Doubt> {
        self.store.as_mut()?.compare(told)
    }

    /// The baseline on disk: what is told of it elsewhere must be there after a power failure as well.
    #[must_use]
    pub fn place(&self) -> Option<PathBuf> {
        self.store.as_ref().filter(|store| store.is_whole()).map(Store::place)
    }

    /// An alert that is kept neither in the store nor in the history: nothing is lost with it.
    pub(crate) fn unkept(&mut self, alert: &Alert) -> (AlertId, Arc<str>) {
        self.sequence += 1;
        let id = AlertId { epoch: self.epoch, sequence: self.sequence };
        (id, in_bounds(alert).into())
    }

    /// Alerts of an earlier life that the agent has not acknowledged.
    #[must_use]
    pub fn pending(&self) -> Vec<(AlertId, Arc<str>)> {
        self.state.pending.values().cloned().collect()
    }

    /// Writes an entry down; gives the alerts to deliver.
    pub fn commit(&mut self, entry: Entry) -> Vec<(AlertId, Arc<str>)> {
        let mut alerts: Vec<(AlertId, Arc<str>)> = Vec::new();
        let mut lines = Vec::new();
        let mut unaccepted = Vec::new();
        for alert in &entry.alone {
            self.sequence += 1;
            let id = AlertId { epoch: self.epoch, sequence: self.sequence };
            let text = self.text_of(alert, &id.to_string());
            lines.push(line(&text, "id", &id.to_string()));
            self.note_unaccepted(alert, &mut unaccepted);
            alerts.push((id, text.into()));
        }
        for (group, alert) in &entry.members {
            let text = self.text_of(alert, group);
            lines.push(line(&text, "group_id", group));
            self.note_unaccepted(alert, &mut unaccepted);
        }
        for (record, alert) in &entry.explained {
            let text = self.text_of(alert, record);
            lines.push(line(&text, "group_id", record));
        }
        for (path, object) in &entry.changes {
            match object {
                Some(object) => self.state.baseline.insert(path, object),
                None => _ = self.state.baseline.remove(path),
            }
        }
        for (path, change) in &unaccepted {
            self.state.unaccepted.entry(path.clone()).or_insert_with(|| change.clone());
        }
        if let Some(groups) = &entry.groups {
            self.state.groups.clone_from(groups);
        }
        self.unwritten.append(&mut lines);
        self.write_history();
        if self.store.is_none() {
            return alerts;
        }
        for (id, text) in &alerts {
            self.state.remember(*id, Arc::clone(text));
        }
        let step = Step {
            changes: &entry.changes,
            alerts: &alerts,
            unaccepted: &unaccepted,
            groups: entry.groups.as_deref(),
            history: self.state.history,
        };
        if let Some(store) = self.store.as_mut().filter(|store| store.is_whole()) {
            let result = store.append(&mut self.state, &step);
            self.judge("the baseline", result);
        }
        self.compact(false);
        alerts
    }

    /// An alert as JSON, with the id of the one that it completes; `id` is its own, or its group's.
    fn text_of(&mut self, alert: &Alert, id: &str) -> String {
        if alert.begins && self.begun.len() < MAX_BEGUN {
            self.begun.insert(self.keys.of(&alert.path), id.to_owned());
        }
        let first = if alert.completes { self.begun.remove(&self.keys.of(&alert.path)) } else { None };
        match first {
            Some(first) => in_bounds(&Alert { refers_to: Some(first), ..alert.clone() }),
            None => in_bounds(alert),
        }
    }

    /// Writes what the history lacks. What the disk does not take is kept and written when it does: members of groups
    /// are told nowhere else.
    fn write_history(&mut self) {
        let Some(history) = self.history.as_mut().filter(|_| !self.unwritten.is_empty()) else { return };
        let result = history.add(&mut self.unwritten);
        self.state.history = history.position();
        let bytes: usize = self.unwritten.iter().map(String::len).sum();
        if bytes > MAX_UNWRITTEN_BYTES {
            // The oldest: those that are told alone are in the agent's journal as well.
            let mut surplus = bytes - MAX_UNWRITTEN_BYTES;
            let count = self.unwritten.iter().take_while(|line| {
                let is_surplus = surplus > 0;
                surplus = surplus.saturating_sub(line.len());
                is_surplus
            });
            let count = count.count();
            self.unwritten.drain(..count);
            self.lost_lines += count as u64;
        }
        let result = result.map_err(|error| match self.lost_lines {
            0 => error,
            lost => {
                io::Error::new(error.kind(), format!("{error}; {lost} changes are missing from the history"))
            }
        });
        self.judge("the history", result);
    }

    fn note_unaccepted(&mut self, alert: &Alert, unaccepted: &mut Vec<(PathBuf, Unaccepted)>) {
        if matches!(
            alert.event,
            Event::Group
                | Event::Notice
                | Event::Accepted
                | Event::Digest
                | Event::Transaction
                | Event::Expected
        ) {
            return;
        }
        let path = crate::query::path_from_text(&alert.path);
        let all = self.state.unaccepted.len() + unaccepted.len();
        let has_room = match alert.lane {
            Lane::Trusted => all < MAX_UNACCEPTED,
            Lane::Of(user) => {
                let its = self.unaccepted_of_users.entry(user).or_default();
                let has_room = *its < MAX_UNACCEPTED_OF_USER && all < MAX_UNACCEPTED / 2;
                *its += usize::from(has_room && !self.state.unaccepted.contains_key(&path));
                has_room
            }
        };
        if !has_room {
            self.forgotten_unaccepted += 1;
            return;
        }
        let change = Unaccepted { event: alert.event.name().to_owned(), since: alert.time.clone() };
        unaccepted.push((path, change));
    }

    /// Accepts the changes of paths and of what is below them; gives those that were not accepted before.
    pub fn accept(&mut self, paths: &[PathBuf]) -> Vec<PathBuf> {
        let accepted: Vec<PathBuf> = self
            .state
            .unaccepted
            .keys()
            .filter(|changed| paths.is_empty() || paths.iter().any(|path| changed.starts_with(path)))
            .cloned()
            .collect();
        for path in &accepted {
            self.state.unaccepted.remove(path);
        }
        if paths.is_empty() {
            self.forgotten_unaccepted = 0;
        }
        if let Some(store) = self.store.as_mut().filter(|store| store.is_whole() && !accepted.is_empty()) {
            let result = store.accepted(&accepted);
            self.judge("the baseline", result);
        }
        accepted
    }

    /// Takes objects of a directory, in the order of their names, as known without a word where nothing is known yet;
    /// gives the names where something is.
    pub(crate) fn learn_new(&mut self, directory: &Path, objects: Vec<(OsString, Object)>) -> Vec<OsString> {
        let known = self.state.baseline.insert_new_names(directory, &objects);
        let is_kept = self.store.as_ref().is_some_and(Store::is_whole);
        if !is_kept && known.is_empty() {
            return Vec::new();
        }
        let mut places = known.into_iter().peekable();
        let (mut known, mut taken) = (Vec::new(), Vec::new());
        for (place, (name, object)) in objects.into_iter().enumerate() {
            if places.next_if_eq(&place).is_some() {
                known.push(name);
            } else if is_kept {
                taken.push((directory.join(name), Some(object)));
            }
        }
        if !taken.is_empty() {
            self.learn(taken);
        }
        known
    }

    /// Takes objects as known without a word.
    pub fn learn(&mut self, changes: Vec<(PathBuf, Option<Object>)>) {
        drop(self.commit(Entry { changes, ..Entry::default() }));
    }

    /// Forgets what is not wanted, without a word.
    pub fn retain(&mut self, wanted: impl Fn(&Path) -> bool) {
        let surplus = self.state.baseline.retain(&wanted);
        self.retain_unaccepted(wanted);
        if !surplus.is_empty() && self.complete {
            self.learn(surplus.into_iter().map(|path| (path, None)).collect());
        }
    }

    /// Forgets which changes of what is not wanted were not accepted.
    pub(crate) fn retain_unaccepted(&mut self, wanted: impl Fn(&Path) -> bool) {
        self.state.unaccepted.retain(|path, _| wanted(path));
    }

    /// Everything that these entries cover is known now.
    pub fn learned(&mut self, entries: BTreeSet<String>, rules: [u8; 32]) {
        let is_new = self.state.learned != entries || self.state.rules != rules;
        self.state.learned = entries;
        self.state.rules = rules;
        self.complete = true;
        if let Some(store) = self.store.as_mut().filter(|store| store.is_whole() && is_new) {
            let result = store.learned(&self.state.learned, &self.state.rules);
            self.judge("the baseline", result);
        }
        self.compact(false);
    }

    /// The rolling verification came to this path.
    pub(crate) fn set_cursor(&mut self, path: Option<PathBuf>) {
        self.state.cursor = path;
        if let Some(store) = self.store.as_mut().filter(|store| store.is_whole()) {
            let result = store.cursor(self.state.cursor.as_deref());
            self.judge("the baseline", result);
        }
    }

    /// The agent has these alerts.
    pub fn acknowledge(&mut self, ids: &[AlertId]) {
        for id in ids {
            self.state.acknowledge(*id);
        }
        if let Some(store) = self.store.as_mut().filter(|store| store.is_whole()) {
            let result = store.acknowledged(ids);
            self.judge("the baseline", result);
        }
        self.compact(false);
    }

    /// Small work now and then: lets the disk take what was written, tries again what failed. `watched` says that
    /// everything was compared in this life: until then the earlier one is the last that watched. `calm` says that
    /// nothing waits.
    pub fn tend(&mut self, watched: bool, calm: bool) {
        let is_kept = self.store.as_ref().is_some_and(Store::is_whole);
        if let Some(directory) = self.directory.as_ref().filter(|_| watched && is_kept) {
            let result = Store::mark_alive(directory);
            self.judge("the liveness mark", result);
        }
        self.write_history();
        // Waiting for a disk keeps what root changes waiting, and a step that a power failure takes is found again.
        self.postponed = if calm { 0 } else { self.postponed + 1 };
        if let Some(store) = self.store.as_mut().filter(|_| calm || self.postponed > MAX_POSTPONED) {
            self.postponed = 0;
            let result = store.sync();
            self.judge("the baseline", result);
        }
        self.compact(calm);
    }

    fn compact(&mut self, calm: bool) {
        if !self.complete {
            return;
        }
        if let Some(store) = self.store.as_mut().filter(|store| store.wants_snapshot(calm)) {
            let result = store.snapshot(&self.state);
            let is_whole = result.is_ok();
            self.judge("the baseline", result);
            if is_whole {
                self.trouble = None;
            }
        }
    }

    fn judge(&mut self, what: &str, result: io::Result<()>) {
        if let Err(error) = result {
            let directory = self.directory.as_deref().map(shown).unwrap_or_default();
            self.trouble = Some(format!("{what} in {directory} cannot be written: {error}"));
        }
    }
}

/// What stood where a file of the module should be, in words.
fn about_odd((path, kind, kept_as): Odd) -> (PathBuf, String) {
    let text = format!(
        "{} was a {kind}, not a file of this module; it was renamed to {}",
        shown(&path),
        shown(&kept_as)
    );
    (path, text)
}

/// The history is shorter than it was, in words.
fn about_history(directory: &Path, bytes: u64) -> (PathBuf, String) {
    let path = directory.join("fswatch.history");
    let text = format!(
        "{bytes} bytes of the history were removed from {}: changes that it recorded are no longer found there; the \
         agent's journal has the alerts",
        shown(&path)
    );
    (path, text)
}

/// When the host was started: what a power failure takes is nobody's doing.
fn booted() -> SystemTime {
    let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec;
    let up = Duration::from_secs(u64::try_from(up).unwrap_or_default());
    SystemTime::now().checked_sub(up).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// An alert as JSON.
fn in_full(alert: &Alert) -> String {
    serde_json::to_string(alert).unwrap_or_else(|_| json!({"alert": alert.alert}).to_string())
}

/// An alert for the history, with one key more.
fn line(text: &str, key: &str, value: &str) -> String {
    // It is an object with keys, so that it ends with a brace and another key can follow.
    let open = text.strip_suffix('}').unwrap_or(text);
    format!("{open},\"{key}\":{}}}", json!(value))
}

/// An alert as JSON that is never longer than [`MAX_BYTES`], however long names, command lines and attributes are.
fn in_bounds(alert: &Alert) -> String {
    let text = in_full(alert);
    if text.len() <= USUAL_BYTES {
        return text;
    }
    let mut value = serde_json::to_value(alert).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        for (key, value) in map.iter_mut() {
            match (key.as_str(), &*value) {
                ("path" | "from", Value::String(text)) if text.len() <= MAX_PATH_BYTES => {}
                ("path" | "from" | "alert", Value::String(text)) => {
                    *value = json!(shortened(text, MAX_LONG_BYTES));
                }
                _ => bound(value),
            }
        }
        if alert.path.len() > MAX_PATH_BYTES {
            let digest = Sha256::digest(crate::query::path_from_text(&alert.path).as_os_str().as_bytes());
            map.insert("path_sha256".to_owned(), json!(hex(&digest)));
        }
        // Many attributes, each of which is short.
        for key in ["other_processes", "before", "after", "group"] {
            if json!(map).to_string().len() > MAX_BYTES {
                map.remove(key);
            }
        }
    }
    value.to_string()
}

/// Cuts long texts and long lists, at any depth.
fn bound(value: &mut Value) {
    const MAX_ITEMS: usize = 64;
    match value {
        Value::String(text) if text.len() > MAX_SHORT_BYTES => {
            *value = json!(shortened(text, MAX_SHORT_BYTES))
        }
        Value::Array(items) => {
            items.truncate(MAX_ITEMS);
            items.iter_mut().for_each(bound);
        }
        Value::Object(map) => map.values_mut().for_each(bound),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::notice;

    #[test]
    fn however_long_everything_is_an_alert_is_bounded_and_names_the_path_by_its_digest() {
        let long = format!("/etc/{}", "\\x01".repeat(100_000));
        let many: Vec<Value> =
            (0..10_000).map(|number| json!(format!("user.{number}={}", "x".repeat(300)))).collect();
        let process =
            json!({"pid": 1, "executable": long, "command": long, "parent": {"pid": 1, "executable": long}});
        let alert = Alert {
            before: json!({"extended_attributes": many, "target": long}),
            after: json!({"extended_attributes": many, "target": long}),
            from: Some(long.clone()),
            process: process.clone(),
            other_processes: vec![process; 3],
            rule: long.clone(),
            ..notice(long.clone(), long.clone(), "2026-01-02T03:04:05Z")
        };

        let text = in_bounds(&alert);
        let told: Value = serde_json::from_str(&text).unwrap();

        assert!(text.len() <= MAX_BYTES, "{}", text.len());
        assert!(told["path"].as_str().unwrap().starts_with("/etc/"));
        let digest = Sha256::digest(crate::query::path_from_text(&long).as_os_str().as_bytes());
        assert_eq!(told["path_sha256"], json!(hex(&digest)));
        assert_eq!((&told["severity"], &told["time"]), (&json!("medium"), &json!("2026-01-02T03:04:05Z")));
    }

    #[test]
    fn one_users_changes_leave_room_in_the_list_of_those_that_nobody_accepted() {
        let (mut ledger, _) = Ledger::open(None, 1 << 20);
        let change =
            |path: String, lane| Alert { event: Event::Created, lane, ..notice(path, String::new(), "now") };
        let noise = (0..2 * MAX_UNACCEPTED).map(|number| change(format!("/home/u/{number}"), Lane::Of(1000)));
        ledger.commit(Entry { alone: noise.collect(), ..Entry::default() });
        let more = [change("/etc/a".to_owned(), Lane::Trusted), change("/home/v/a".to_owned(), Lane::Of(7))];
        ledger.commit(Entry { alone: more.into(), ..Entry::default() });

        let unaccepted = &ledger.state().unaccepted;
        assert_eq!(unaccepted.len(), MAX_UNACCEPTED_OF_USER + 2);
        assert!(unaccepted.contains_key(Path::new("/etc/a")));
    }

    #[test]
    fn what_is_told_when_its_content_is_known_refers_to_what_was_told_before() {
        let (mut ledger, _) = Ledger::open(None, 1 << 20);
        let told =
            |begins, completes| Alert { begins, completes, ..notice("/a".to_owned(), String::new(), "now") };

        let first = ledger.commit(Entry { alone: vec![told(true, false)], ..Entry::default() });
        let between = ledger.commit(Entry { alone: vec![told(false, false)], ..Entry::default() });
        let last = ledger.commit(Entry { alone: vec![told(false, true)], ..Entry::default() });

        let value = |alerts: &[(AlertId, Arc<str>)]| serde_json::from_str::<Value>(&alerts[0].1).unwrap();
        assert_eq!(value(&between)["refers_to"], Value::Null);
        assert_eq!(value(&last)["refers_to"], json!(first[0].0.to_string()));
    }
}
