//! How the module is, and when that is published.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use vigie_sdk::{Condition, ConditionSeverity};

use super::proof::Proof;
use super::{Engine, Reasons, Sink, now, text_of_time};
use crate::fanotify::LOADING;
use crate::pulse::{Pulse, Stuck, Watch};
use crate::watching::Choice;

/// Paths that wait, from which on memory is given back afterwards.
const MANY_PENDING: usize = 5_000;

/// Time between two publications of the status while much happens.
const PUBLISHED_EVERY: Duration = Duration::from_millis(5);

/// How the module is, for the answer to queries.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Configured paths.
    pub entries: usize,
    /// Objects that are known.
    pub objects: usize,
    /// Bytes that they take in memory.
    pub bytes: usize,
    /// Bytes that they take on disk; `None` when they are not there.
    pub store_bytes: Option<u64>,
    /// Directories that inotify watches.
    pub watches: usize,
    /// Configured paths that are not there.
    pub waiting: BTreeSet<PathBuf>,
    /// Paths that something happened to and that have not been looked at yet.
    pub pending: usize,
    /// About how many bytes all that waits of users takes: paths, busy directories, and listings of directories.
    pub waiting_bytes: usize,
    /// Alerts sent.
    pub alerts: u64,
    /// Changes that were told as part of a group.
    pub grouped: u64,
    /// Alerts that the agent has not acknowledged yet.
    pub unacknowledged: usize,
    /// Changes that nobody has accepted.
    pub unaccepted: usize,
    /// Times that notifications were lost and everything was compared instead.
    pub overflows: u64,
    /// Files that are known but cannot be read, and why.
    pub unreadable: Reasons,
    /// Directories that are not watched, and why: changes there are seen only by a scan.
    pub unwatched: Reasons,
    /// File systems that are left out, and why.
    pub skipped: BTreeMap<PathBuf, String>,
    /// How each file system is watched.
    pub backends: Vec<Choice>,
    /// Why fanotify is not used at all.
    pub why_no_fanotify: Option<String>,
    /// Why command lines are what processes say of themselves, and not what they were run with.
    pub why_claimed: Option<String>,
    /// Watched file systems that other hosts change as well: between scans nobody tells of that.
    pub remote: Vec<PathBuf>,
    /// What was proved of file systems.
    pub proofs: Vec<Proof>,
    /// When a change last came all the way to the journal, and how; since when none does.
    pub canary: Value,
    /// What is wrong with the state directory.
    pub trouble: Option<String>,
    /// All that is wrong.
    pub conditions: Vec<Condition>,
    /// Whether everything has been looked at once.
    pub baseline_complete: bool,
    /// When everything was compared last, and how long it took.
    pub last_scan: Option<(SystemTime, Duration)>,
    /// Files that were read again to prove that they are as they are known, in this life.
    pub verified_files: u64,
    /// Bytes that were read for it.
    pub verified_bytes: u64,
    /// Times that all files were.
    pub verified_rounds: u64,
    /// What is being compared now, and how many objects of it have been.
    pub scans: Vec<(&'static str, usize)>,
}

/// The status as the engine last published it.
#[derive(Debug, Clone, Default)]
pub struct SharedStatus {
    status: Arc<Mutex<Arc<Status>>>,
    /// Whether it still is what the engine would say.
    pub(crate) pulse: Pulse,
}

/// As long as it is there, an engine that does not go round is noticed.
#[derive(Debug)]
pub struct PulseWatch {
    _watch: Watch,
}

impl SharedStatus {
    fn lock(&self) -> MutexGuard<'_, Arc<Status>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The status. Of an engine that does not go round it says that.
    #[must_use]
    pub fn get(&self) -> Arc<Status> {
        self.as_of(self.pulse.stuck().as_ref())
    }

    fn as_of(&self, stuck: Option<&Stuck>) -> Arc<Status> {
        let mut status = self.lock().clone();
        if let Some((since, why)) = stuck {
            let since = text_of_time(*since);
            let detail = format!("blind since {since}: the engine does not go on: {why}");
            let status = Arc::make_mut(&mut status);
            if status.canary.is_object() {
                status.canary["blind_since"] = json!(since);
                status.canary["why"] = json!("the engine does not go on");
            }
            status.conditions.retain(|known| known.name != "blind");
            let (name, severity) = ("blind".to_owned(), ConditionSeverity::Failed);
            status.conditions.push(Condition { name, severity, since, detail });
        }
        status
    }

    /// Asks the engine for a sign of life; whoever does this wakes it as well.
    pub fn ask_for_life(&self) {
        self.pulse.ask();
    }

    /// Calls `report` whenever a sign of life does not come in time: the status says so then.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn watch_pulse(
        &self,
        patience: Duration,
        report: impl Fn(&Status) + Send + 'static,
    ) -> std::io::Result<PulseWatch> {
        let status = self.clone();
        let report = move |stuck: &Stuck| report(&status.as_of(Some(stuck)));
        Ok(PulseWatch { _watch: self.pulse.watch(patience, report)? })
    }
}

impl<S: Sink> Engine<S> {
    /// Publishes the status, but not with each of many small steps; gives the time until the next one is due.
    pub(super) fn publish_now_and_then(&mut self, patience: Option<Duration>) -> Option<Duration> {
        let now = now();
        let since = now.duration_since(self.published_at);
        if since < PUBLISHED_EVERY {
            let rest = PUBLISHED_EVERY - since;
            return Some(patience.map_or(rest, |patience| patience.min(rest)));
        }
        self.published_at = now;
        self.publish();
        patience
    }

    pub(super) fn publish(&mut self) {
        let state = self.ledger.state();
        self.status.entries = self.coverage.rules().entries().len();
        self.status.objects = state.baseline.len();
        self.status.bytes = state.baseline.bytes();
        self.status.unacknowledged = state.pending.len();
        self.status.unaccepted = state.unaccepted.len();
        self.status.store_bytes = self.ledger.store_bytes();
        self.status.watches = self.watching.directories().len();
        self.status.backends = self.watching.choices().cloned().collect();
        self.status.remote = self.watching.remote().map(Path::to_owned).collect();
        self.status.why_no_fanotify = self.watching.why_not().map(str::to_owned);
        self.status.why_claimed = self.watching.why_claimed();
        self.status.pending = self.due.len()
            + self.in_flight.len()
            + self.again.len()
            + self.moves.len()
            + self.told.len()
            + self.busy.len();
        self.status.waiting_bytes = self.due.bytes_of_users() + self.busy.bytes() + self.listed_bytes;
        if self.status.pending > MANY_PENDING {
            self.memory.is_swollen(now());
        }
        self.status.scans = self.scans.values().map(|scan| (scan.purpose.name(), scan.compared)).collect();
        self.sink.values(self.values());
        let mut shown = self.status.clone();
        // Whoever waits for the end of the beginning may rely on all that alerts are to say.
        shown.baseline_complete &= shown.why_claimed.as_deref() != Some(LOADING);
        *self.published.lock() = Arc::new(shown);
    }

    /// What an operator may want to see over time.
    fn values(&self) -> BTreeMap<String, u64> {
        let (trusted, of_users, users) = self.due.lengths();
        let late = if self.due.is_empty() { Default::default() } else { self.health.late() };
        let [late_trusted, late_users] = late.map(|late| u64::try_from(late.as_millis()).unwrap_or(u64::MAX));
        let count = |number: usize| number as u64;
        let values = [
            ("baseline_bytes", count(self.status.bytes)),
            ("files", count(self.status.objects)),
            ("looks_under_way", count(self.in_flight.len() + self.again.len())),
            ("looks_waiting_trusted", count(trusted)),
            ("looks_waiting_users", count(of_users)),
            ("oldest_look_trusted_ms", late_trusted),
            ("oldest_look_users_ms", late_users),
            ("overflows", self.status.overflows),
            ("store_bytes", self.status.store_bytes.unwrap_or_default()),
            ("unaccepted", count(self.status.unaccepted)),
            ("unacknowledged", count(self.status.unacknowledged)),
            ("users_waiting", count(users)),
            ("waiting_bytes_users", count(self.status.waiting_bytes)),
            ("watches", count(self.status.watches)),
        ];
        values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}
