//! What is known and what was told, in memory and on disk together.
//!
//! The disk comes first: a step is in the store before its alerts leave. When the disk does not take it, alerts leave
//! all the same, and the store is written anew as soon as that is possible; a crash before then makes the next life
//! find the same changes again.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};
use vigie_sdk::AlertId;
use vigie_sdk::outbox::MAX_TEXT_BYTES;

use crate::change::{Alert, Event, shown};
use crate::history::History;
use crate::object::Object;
use crate::store::{Opened, State, Step, Store, Unaccepted, host_identity};

/// Changes that are remembered as not accepted; beyond it the list says that it is not complete.
pub const MAX_UNACCEPTED: usize = 10_000;

/// What was found on disk at the start.
#[derive(Debug, Default)]
pub struct Beginning {
    /// When the module was last known to run.
    pub last_alive: Option<SystemTime>,
    /// There was a baseline, and somebody removed it.
    pub gone: bool,
    /// Why the store could not be trusted, and where it is now.
    pub set_aside: Option<(String, PathBuf)>,
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
    /// Changes that are not accepted and not remembered.
    forgotten_unaccepted: u64,
    /// Everything was looked at once: before that there is nothing worth keeping.
    complete: bool,
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
            forgotten_unaccepted: 0,
            complete: false,
        };
        let mut beginning = Beginning::default();
        let Some(directory) = directory else { return (ledger, beginning) };
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
            Ok(history) => ledger.history = Some(history),
            Err(error) => beginning.unusable = Some(error.to_string()),
        }
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
    pub fn store_bytes(&self) -> Option<u64> {
        self.store.as_ref().filter(|store| store.is_whole()).map(Store::bytes)
    }

    /// What is wrong with the disk.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Changes that were not accepted and are not in the list any more.
    #[must_use]
    pub fn forgotten_unaccepted(&self) -> u64 {
        self.forgotten_unaccepted
    }

    /// Changes how much history is kept.
    pub fn set_history_bytes(&mut self, bytes: u64) {
        if let Some(history) = &mut self.history {
            history.set_most(bytes);
        }
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
            let text = in_full(alert);
            lines.push(line(&text, "id", &id.to_string()));
            self.note_unaccepted(alert, &mut unaccepted);
            alerts.push((id, if text.len() <= MAX_TEXT_BYTES { text } else { shortened(alert) }.into()));
        }
        for (group, alert) in &entry.members {
            lines.push(line(&in_full(alert), "group_id", group));
            self.note_unaccepted(alert, &mut unaccepted);
        }
        for (record, alert) in &entry.explained {
            lines.push(line(&in_full(alert), "group_id", record));
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
        if let Some(history) = self.history.as_mut().filter(|_| !lines.is_empty()) {
            let result = history.add(&lines);
            self.state.history = history.position();
            self.judge("the history", result);
        }
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
        self.compact();
        alerts
    }

    fn note_unaccepted(&mut self, alert: &Alert, unaccepted: &mut Vec<(PathBuf, Unaccepted)>) {
        if matches!(alert.event, Event::Group | Event::Notice | Event::Accepted | Event::Transaction) {
            return;
        }
        let path = crate::query::path_from_text(&alert.path);
        if self.state.unaccepted.len() + unaccepted.len() >= MAX_UNACCEPTED {
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
    pub fn learn_new(&mut self, directory: &Path, objects: Vec<(OsString, Object)>) -> Vec<OsString> {
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
        self.state.unaccepted.retain(|path, _| wanted(path));
        if !surplus.is_empty() && self.complete {
            self.learn(surplus.into_iter().map(|path| (path, None)).collect());
        }
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
        self.compact();
    }

    /// The rolling verification came to this path.
    pub fn set_cursor(&mut self, path: Option<PathBuf>) {
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
        self.compact();
    }

    /// Small work now and then: lets the disk take what was written, tries again what failed. `watched` says that
    /// everything was compared in this life: until then the earlier one is the last that watched.
    pub fn tend(&mut self, watched: bool) {
        let is_kept = self.store.as_ref().is_some_and(Store::is_whole);
        if let Some(directory) = self.directory.as_ref().filter(|_| watched && is_kept) {
            let result = Store::mark_alive(directory);
            self.judge("the mark of being alive", result);
        }
        if let Some(store) = &mut self.store {
            let result = store.sync();
            self.judge("the baseline", result);
        }
        self.compact();
    }

    fn compact(&mut self) {
        if !self.complete {
            return;
        }
        if let Some(store) = self.store.as_mut().filter(|store| store.wants_snapshot()) {
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

/// An alert without those details that would make it too long for a line; it says so.
fn shortened(alert: &Alert) -> String {
    let cut = |text: &str| text[..text.floor_char_boundary(MAX_TEXT_BYTES / 8)].to_owned();
    let short = Alert {
        alert: format!("{}… (too long to be told in full)", cut(&alert.alert)),
        before: Value::Null,
        after: Value::Null,
        ..alert.clone()
    };
    serde_json::to_string(&short).unwrap_or_else(|_| cut(&alert.alert))
}
