//! What package managers do, as one record for each: see [`crate::transaction`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::json;
use vigie_packagedb::owners::Manager;

use super::writing::{PAUSE, Turn};
use super::{Engine, Sink, now, text_of_time};
use crate::change::Alert;
use crate::events::Happened;
use crate::ledger::Entry;
use crate::process::Managed;
use crate::query::path_from_text;
use crate::transaction::{Change, PackageChange, Transaction, Verdict, is_temporary, judge};

/// Quiet time after the end of a manager in which its last changes arrive.
const QUIET: Duration = Duration::from_millis(1500);

/// Longest time after the end of a manager until its record is told, whatever is not judged yet.
const LONGEST_END: Duration = Duration::from_secs(60);

/// Time after which the databases are surely asked again: what was read of them is believed for a second.
const ASKED_AGAIN: Duration = Duration::from_millis(1200);

/// Times after which a change of dpkg's is judged again: its manifest is there before its files, and what it did not
/// record by the last of them it records no more.
const DPKG_TRIES: [Duration; 3] = [ASKED_AGAIN, Duration::from_millis(2500), Duration::from_secs(5)];

/// The others write their manifest after the files.
const OTHER_TRIES: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(30)];

/// Longest time that a file which is not in its place yet is not looked at.
const LONGEST_TEMPORARY: Duration = Duration::from_secs(60);

/// Time after which what scripts did is reported although the manager still runs; it doubles up to the longest.
const INTERIM: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(600)];

/// Shortest and longest time between two questions whether a manager still runs.
const ASKED_EVERY: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(5)];

fn tries(manager: Manager) -> &'static [Duration] {
    if manager == Manager::Dpkg { &DPKG_TRIES } else { &OTHER_TRIES }
}

#[derive(Debug)]
struct Open {
    kept: Kept,
    /// When its last change was judged.
    last: Instant,
    asked: Option<Instant>,
    /// Since when its manager has ended.
    ended: Option<Instant>,
    /// Since when there is something of scripts that no record has reported.
    unreported: Option<Instant>,
    /// How long that waits for the manager's end.
    patience: Duration,
    concluding: bool,
    /// Paths whose changes are not judged yet, and since when.
    held: HashMap<PathBuf, Instant>,
}

/// What the store keeps of a transaction.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    /// The manager's process.
    pid: i32,
    /// When it started, in clock ticks since the boot.
    started: u64,
    transaction: Transaction,
}

/// What the store keeps of what is not told yet.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Unfinished {
    transactions: Vec<Kept>,
    story: Option<super::accounts::Kept>,
    plans: Vec<super::expected::Plan>,
}

/// The transactions that are under way.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    open: BTreeMap<(i32, u64), Open>,
    made: u64,
}

impl Transactions {
    /// Takes up what an earlier life left.
    fn restore(&mut self, kept: Vec<Kept>) {
        for kept in kept {
            self.open.insert((kept.pid, kept.started), opened(kept));
        }
    }

    /// Time until there is something to do.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        self.open.values().map(|open| open.next_at().saturating_duration_since(now)).min()
    }
}

fn opened(kept: Kept) -> Open {
    let unreported = (kept.transaction.by_scripts > 0).then(now);
    let (patience, held) = (INTERIM[0], HashMap::new());
    Open { kept, last: now(), asked: None, ended: None, unreported, patience, concluding: false, held }
}

impl Open {
    /// When there is something to do.
    fn next_at(&self) -> Instant {
        self.interim_at().map_or(self.wanted_at(), |at| at.min(self.wanted_at()))
    }

    /// When what scripts did is reported before the end.
    fn interim_at(&self) -> Option<Instant> {
        self.unreported.filter(|_| self.ended.is_none()).map(|since| since + self.patience)
    }

    /// When to ask whether its manager runs, or what it did.
    fn wanted_at(&self) -> Instant {
        match (self.ended, self.asked) {
            // The answer is what there is to wait for.
            _ if self.concluding => self.last + LONGEST_END,
            (Some(ended), _) if self.held.is_empty() => self.last.max(ended) + QUIET,
            (Some(ended), _) => ended + LONGEST_END,
            (None, Some(asked)) => {
                let idle = asked.saturating_duration_since(self.last) / 4;
                asked + idle.clamp(ASKED_EVERY[0], ASKED_EVERY[1])
            }
            (None, None) => self.last + ASKED_EVERY[0],
        }
    }
}

impl<S: Sink> Engine<S> {
    /// What is not told yet, for the store: the open groups, and in a line of its own the rest.
    pub(super) fn groups_text(&self) -> String {
        let groups = self.storms.to_text();
        let transactions: Vec<&Kept> = self.transactions.open.values().map(|open| &open.kept).collect();
        let (story, plans) = (self.stories.kept(), self.plans.kept());
        if transactions.is_empty() && story.is_none() && plans.is_empty() {
            return groups;
        }
        let rest = json!({"transactions": transactions, "story": story, "plans": plans});
        format!("{groups}\n{rest}")
    }

    /// Takes up what an earlier life had not told yet.
    pub(super) fn restore_groups(&mut self) {
        let text = self.ledger.state().groups.clone();
        let (groups, rest) = text.split_once('\n').unwrap_or((&text, ""));
        self.storms.restore(groups, now());
        let Unfinished { transactions, story, plans } = serde_json::from_str(rest).unwrap_or_default();
        self.transactions.restore(transactions);
        self.stories.restore(story);
        self.plans.restore(plans);
    }

    /// The transaction that a process works for; it begins with its first change.
    fn transaction_of(&mut self, managed: &Managed) -> &mut Open {
        let key = (managed.top.pid, managed.started);
        if !self.transactions.open.contains_key(&key) {
            self.transactions.made += 1;
            let id = format!("{:016x}-t{}", self.ledger.epoch(), self.transactions.made);
            self.packages.begin(&id, managed.manager);
            let time = text_of_time(SystemTime::now());
            let transaction = Transaction::new(id, managed.manager, managed.top.to_json(), &time);
            let kept = Kept { pid: key.0, started: key.1, transaction };
            self.transactions.open.insert(key, opened(kept));
        }
        self.transactions.open.get_mut(&key).expect("it was put there")
    }

    /// Whether a path is not looked at yet: its package manager has not put it in its place.
    pub(super) fn holds_back(&mut self, path: &Path, happened: &Happened) -> bool {
        let Some(managed) = happened.writers.managed().cloned() else { return false };
        if !is_temporary(managed.manager, path) {
            return false;
        }
        let now = now();
        let open = self.transaction_of(&managed);
        let until = *open.held.entry(path.to_owned()).or_insert(now) + LONGEST_TEMPORARY;
        if open.ended.is_some() || until <= now {
            open.held.remove(path);
            return false;
        }
        self.postpone(path, happened.clone(), until);
        true
    }

    /// Sorts the changes of a round: what somebody planned, what a tool for accounts did, and what packages explain
    /// joins a record; what is not explained yet is looked at again. Gives the paths of the latter.
    pub(super) fn explain(
        &mut self,
        paths: &[PathBuf],
        entry: &mut Entry,
        alerts: &mut Vec<Alert>,
    ) -> HashSet<PathBuf> {
        let mut waiting = HashSet::new();
        for mut alert in std::mem::take(alerts) {
            let path = path_from_text(&alert.path);
            self.explain_by_mount(&mut alert, &path);
            let record = self.planned(&alert, &path).or_else(|| self.joins_story(&alert, &path));
            if let Some(id) = record {
                entry.explained.push((id, alert));
                continue;
            }
            let turn = self.turn_of_writing(&mut alert, &path);
            if turn != Turn::Tell {
                waiting.insert(path.clone());
            }
            let Some(managed) = alert.managed.clone() else {
                if turn != Turn::GoesOn {
                    alerts.push(alert);
                }
                continue;
            };
            let rule = self.coverage.options(&path).and_then(|options| options.severity);
            let now = now();
            let open = self.transaction_of(&managed);
            let since = open.held.get(&path).copied().unwrap_or(now);
            let is_over =
                tries(managed.manager).last().is_some_and(|last| now.duration_since(since) >= *last);
            let is_last = is_over || open.ended.is_some_and(|ended| now.duration_since(ended) >= ASKED_AGAIN);
            let is_again = now.duration_since(since) >= ASKED_AGAIN;
            let verdict = judge(Change { alert: &alert, rule, is_again, is_last });
            open.last = now;
            open.kept.transaction.add(&alert, verdict, rule);
            if verdict == Verdict::ByScript {
                open.unreported.get_or_insert(now);
            }
            match verdict {
                Verdict::Wait => {
                    open.held.entry(path.clone()).or_insert(now);
                    waiting.insert(path);
                }
                Verdict::Explained | Verdict::ByScript => {
                    let id = open.kept.transaction.id.clone();
                    entry.explained.push((id, alert));
                }
                Verdict::Alone => alerts.push(alert),
            }
        }
        for open in self.transactions.open.values_mut() {
            for path in paths.iter().filter(|path| !waiting.contains(*path)) {
                open.held.remove(path);
            }
        }
        if !entry.explained.is_empty() {
            entry.groups = Some(self.groups_text());
        }
        // What is known stays as it was until the change is told.
        entry.changes.retain(|(path, _)| !waiting.contains(path));
        waiting
    }

    /// Looks again at a path whose change is not explained yet.
    pub(super) fn wait_for_explanation(&mut self, path: &Path, happened: Happened) {
        let Some(managed) = happened.writers.managed().cloned() else {
            // It is being written.
            self.postpone(path, happened, now() + PAUSE);
            return;
        };
        let now = now();
        let open = self.transaction_of(&managed);
        let since = open.held.get(path).copied().unwrap_or(now);
        let tries = tries(managed.manager).iter().map(|after| since + *after);
        let next = tries.chain(open.ended.map(|ended| ended + ASKED_AGAIN)).filter(|at| *at > now).min();
        self.postpone(path, happened, next.unwrap_or(now));
    }

    /// Asks for what is not known of transactions yet, and ends those that are over.
    pub(super) fn tend_transactions(&mut self) {
        let now = now();
        let mut alone = Vec::new();
        for (key, open) in &mut self.transactions.open {
            if open.interim_at().is_some_and(|at| at <= now) {
                alone.push(open.kept.transaction.record(None, &text_of_time(SystemTime::now())));
                open.unreported = None;
                open.patience = (open.patience * 2).min(INTERIM[1]);
            }
            if open.wanted_at() > now {
                continue;
            }
            let transaction = &open.kept.transaction;
            if open.ended.is_none() {
                open.asked = Some(now);
                self.packages.ask_whether_it_runs(*key);
            } else {
                open.concluding = true;
                open.last = now;
                self.packages.end(*key, &transaction.id, &transaction.manager, &transaction.touched);
            }
        }
        if !alone.is_empty() {
            self.commit(Entry { alone, ..Entry::default() });
        }
    }

    /// A package manager runs, or has ended.
    pub(super) fn note_running(&mut self, key: (i32, u64), runs: bool) {
        let Some(open) = self.transactions.open.get_mut(&key).filter(|open| !runs && open.ended.is_none())
        else {
            return;
        };
        let ended = now();
        open.ended = Some(ended);
        let held: Vec<PathBuf> = open.held.keys().cloned().collect();
        for path in held {
            self.postpone(&path, Happened::default(), ended + ASKED_AGAIN);
        }
    }

    /// Tells a transaction that is over.
    pub(super) fn note_ended(&mut self, key: (i32, u64), packages: &[PackageChange]) {
        let Some(open) = self.transactions.open.remove(&key) else { return };
        let transaction = open.kept.transaction;
        let groups = Some(self.groups_text());
        let is_worth_it = transaction.explained + transaction.by_scripts > 0 || !packages.is_empty();
        let record = transaction.record(Some(packages), &text_of_time(SystemTime::now()));
        let alone = if is_worth_it { vec![record] } else { Vec::new() };
        self.commit(Entry { alone, groups, ..Entry::default() });
    }
}
