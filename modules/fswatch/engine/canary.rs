//! The canary: a file of the module's own that is replaced at intervals, and whose change must come all the way from
//! the kernel through a worker that reads it and the agent's journal to the agent's acknowledgement. When it does not,
//! the module is blind, and says since when and where the way ends.
//!
//! Its record in the journal carries how far the baseline had got: who removes, rolls back or exchanges all files of
//! the module is found by the next life (`engine/mark.rs`).

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use vigie_sdk::{AlertId, ConditionSeverity};

use super::{Engine, Sink, now, text_of_time};
use crate::change::{Alert, Event, hex, notice, shown};
use crate::events::{Happened, Window};
use crate::lineage::{Doubt, Mark};
use crate::look::{Found, Plan};
use crate::marks::last_mark;
use crate::object::Content;
use crate::rules::Severity;
use crate::trust::Lane;
use crate::workers::{Item, Job};

/// Time in which the canary must come through.
const PATIENCE: Duration = Duration::from_secs(15);

/// The number of its looks among the rounds, which begin with 1.
pub(super) const ROUND: u64 = 0;

/// How it was proved, in words.
const HOW: &str = "a change of a file of its own came from the kernel through a worker and the agent's journal back to \
                   the module as acknowledged";

/// How far it has come.
#[derive(Debug)]
enum Stage {
    /// It is being written.
    Made,
    /// It is written, and the kernel has to tell.
    Written,
    /// The kernel told, and a worker reads it.
    Read,
    /// It was told, and the agent has to acknowledge it.
    Told(AlertId),
}

impl Stage {
    /// Why it does not come any further.
    fn why_not(&self) -> &'static str {
        match self {
            Self::Made => "it cannot be written to disk",
            Self::Written => "the kernel does not report its change",
            Self::Read => "no worker reads it",
            Self::Told(_) => "the agent does not acknowledge its record in the journal",
        }
    }
}

/// One on its way.
#[derive(Debug)]
struct Flight {
    begun: Instant,
    stage: Stage,
    text: String,
    mark: Option<Mark>,
}

/// The canary.
#[derive(Debug, Default)]
pub(super) struct Canary {
    /// Its directory; none where no state is kept.
    directory: Option<PathBuf>,
    flight: Option<Flight>,
    next: Option<Instant>,
    count: u64,
    /// When one came through last.
    proved: Option<SystemTime>,
    /// Since when none does, and why not.
    blind: Option<(SystemTime, String)>,
}

impl Canary {
    pub(super) fn file(&self) -> Option<PathBuf> {
        self.directory.as_ref().map(|directory| directory.join("canary"))
    }

    /// Time until there is something to do.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        let at = self.flight.as_ref().map(|flight| flight.begun + PATIENCE).or(self.next)?;
        Some(at.saturating_duration_since(now))
    }

    /// For the status.
    pub(super) fn to_json(&self) -> Value {
        let mut told = json!({});
        if let Some(time) = self.proved {
            told["proved"] = json!(text_of_time(time));
            told["how"] = json!(HOW);
        }
        if let Some((since, why)) = &self.blind {
            told["blind_since"] = json!(text_of_time(*since));
            told["why"] = json!(why);
        }
        told
    }

    /// What is wrong, in words.
    pub(super) fn trouble(&self) -> Option<String> {
        let (since, why) = self.blind.as_ref()?;
        Some(format!("blind since {}: the canary change is not detected: {why}", text_of_time(*since)))
    }
}

impl<S: Sink> Engine<S> {
    /// Begins with canaries, or ends them, as the configuration says.
    pub(super) fn set_canary(&mut self) {
        let period = self.coverage.rules().settings().canary;
        let directory = self.own.as_ref().filter(|_| period.is_some()).map(|own| own.join("canary"));
        if self.canary.directory != directory {
            self.canary = Canary { directory, count: self.canary.count, ..Canary::default() };
        }
        self.canary.next = period.filter(|_| self.canary.directory.is_some()).map(|period| now() + period);
    }

    /// Begins and ends flights whose time has come.
    pub(super) fn tend_canary(&mut self) {
        let now = now();
        if self.canary.flight.as_ref().is_some_and(|flight| now >= flight.begun + PATIENCE)
            && let Some(flight) = self.canary.flight.take()
        {
            self.lose_canary(flight.stage.why_not().to_owned());
        }
        let is_due = self.canary.next.is_some_and(|next| next <= now);
        if !is_due || self.canary.flight.is_some() || !self.status.baseline_complete {
            return;
        }
        let (Some(period), Some(file)) = (self.coverage.rules().settings().canary, self.canary.file()) else {
            return;
        };
        self.canary.next = Some(now + period);
        if let Some(directory) = self.canary.directory.clone() {
            if let Err(error) = crate::probe::make_private(&directory) {
                self.lose_canary(format!("its directory cannot be created: {error}"));
                return;
            }
            self.watch_directory(&directory);
        }
        self.canary.count += 1;
        let text = format!("{:016x} {}\n", self.ledger.epoch(), self.canary.count);
        let mark = self.ledger.mark();
        self.canary.flight = Some(Flight { begun: now, stage: Stage::Made, text: text.clone(), mark });
        self.prober.replace(file, text, self.ledger.place());
    }

    /// The canary was written, or could not be.
    pub(super) fn note_replaced(&mut self, made: Result<(), String>) {
        let Some(flight) = &mut self.canary.flight else { return };
        match made {
            // The event may have come before.
            Ok(()) if matches!(flight.stage, Stage::Made) => flight.stage = Stage::Written,
            Ok(()) => {}
            Err(why) => {
                self.canary.flight = None;
                self.lose_canary(format!("it cannot be written: {why}"));
            }
        }
    }

    /// Whether an event is that of the canary.
    pub(super) fn is_canary(&mut self, path: &Path, happened: &Happened) -> bool {
        let Some(directory) = &self.canary.directory else { return false };
        if path != directory && path.parent() != Some(directory) {
            return false;
        }
        let is_flying = self.canary.flight.as_ref().is_some_and(|flight| {
            matches!(flight.stage, Stage::Made | Stage::Written)
                && Some(path) == self.canary.file().as_deref()
        });
        if is_flying && let Some(flight) = &mut self.canary.flight {
            flight.stage = Stage::Read;
            let plan = Plan { hash: true, ..Plan::default() };
            let (path, happened) = (path.to_owned(), happened.clone());
            let item = Item { path, known: None, plan, happened, reads: false, unpacked: None };
            self.workers.put([Job::Look { lane: Lane::Trusted, round: ROUND, items: vec![item] }]);
        }
        true
    }

    /// A worker read the canary.
    pub(super) fn note_canary_read(&mut self, found: Option<&Found>) {
        let Some(flight) = &mut self.canary.flight else { return };
        if !matches!(flight.stage, Stage::Read) {
            return;
        }
        let expected = Content::Digest(Sha256::digest(flight.text.as_bytes()).into());
        let is_it = matches!(found, Some(Found::Object { object, .. }) if object.content == expected);
        if !is_it {
            // Another event follows when it was looked at too early.
            flight.stage = Stage::Written;
            return;
        }
        let mark = flight.mark.as_ref().map_or(
            Value::Null,
            |mark| json!({"origin": hex(&mark.origin), "number": mark.number, "seal": hex(&mark.seal)}),
        );
        let path = self.canary.file().unwrap_or_default();
        let time = text_of_time(SystemTime::now());
        let text = format!("canary {} passed from the kernel to the journal", self.canary.count);
        let told = Alert {
            severity: Severity::Low,
            event: Event::Canary,
            mark,
            ..notice(shown(&path), text, &time)
        };
        let (id, text) = self.ledger.unkept(&told);
        if let Some(flight) = &mut self.canary.flight {
            flight.stage = Stage::Told(id);
        }
        self.sink.alert(id, &text);
    }

    /// The agent has this alert; whether it is the canary.
    pub(super) fn is_canary_acknowledged(&mut self, id: AlertId) -> bool {
        let is_it = self
            .canary
            .flight
            .as_ref()
            .is_some_and(|flight| matches!(flight.stage, Stage::Told(told) if told == id));
        if !is_it {
            return false;
        }
        self.canary.flight = None;
        self.canary.proved = Some(SystemTime::now());
        if let Some((since, _)) = self.canary.blind.take() {
            let window = Window { from: since, to: SystemTime::now() };
            let text =
                format!("the canary change is detected again; it was not since {}", text_of_time(since));
            self.tell_notice(&self.canary.file().unwrap_or_default(), text, Severity::Medium, Some(window));
        }
        self.status.canary = self.canary.to_json();
        true
    }

    /// Compares the baseline with what the agent's journal was told of it, once in a life. `agents` are the agent's own
    /// paths: its state directory comes first.
    pub(super) fn compare_with_journal(&mut self, agents: &[PathBuf]) {
        let Some(state) = agents.first().filter(|_| !std::mem::replace(&mut self.compared_mark, true)) else {
            return;
        };
        let told = match last_mark(&state.join("journal")) {
            Ok(Some(told)) => told,
            Ok(None) => return,
            Err(error) => {
                let text = format!("cannot read what the agent's journal recorded of the baseline: {error}");
                self.sink.log(&text);
                return;
            }
        };
        let Some(doubt) = self.ledger.compare(&told.mark) else { return };
        let own = self.own.clone().unwrap_or_default();
        let what = match doubt {
            Doubt::Removed => "the baseline and its files are missing from".to_owned(),
            Doubt::RolledBack { missing } => {
                format!("the baseline was replaced by an older one ({missing} steps are missing) in")
            }
            Doubt::Exchanged => "the baseline was replaced by another one in".to_owned(),
        };
        let text = format!(
            "{what} {}: the agent's journal recorded it at {}; whoever did this may have changed anything since then",
            shown(&own),
            told.time
        );
        let from = humantime::parse_rfc3339_weak(&told.time).unwrap_or(self.seen_until);
        let window = Window { from, to: SystemTime::now() };
        self.tell_notice(&own, text, Severity::Critical, Some(window));
    }

    fn lose_canary(&mut self, why: String) {
        let since = match &self.canary.blind {
            Some((since, _)) => *since,
            None => {
                let since = self.canary.proved.unwrap_or_else(SystemTime::now);
                let text = format!(
                    "blind since {}: the canary change is not detected: {why}; only scans find changes reliably",
                    text_of_time(since)
                );
                let window = Window { from: since, to: SystemTime::now() };
                self.tell_notice(&self.canary.file().unwrap_or_default(), text, Severity::High, Some(window));
                since
            }
        };
        self.canary.blind = Some((since, why));
        self.status.canary = self.canary.to_json();
    }

    /// What is blind, for the conditions.
    pub(super) fn blindness(&self) -> Option<(ConditionSeverity, String)> {
        let blind = self.proofs.blind().map(|(at, since)| {
            format!("blind below {} since {}: no events arrive", shown(&at), text_of_time(since))
        });
        let all: Vec<String> = self.canary.trouble().into_iter().chain(blind).take(5).collect();
        (!all.is_empty()).then(|| (ConditionSeverity::Failed, all.join("; ")))
    }
}
