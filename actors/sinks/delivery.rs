//! The task of one sink: reads the journal from the sink's place, hands batches to the transport, and tries again until
//! each alert is dealt with.
//!
//! ```text
//!          more recorded            all dealt with
//!   idle ───────────────► sending ────────────────► idle
//!     ▲ a connection broke   │ ▲ full jitter, Retry-After, a test that works
//!     └──────────────────────┼─┘
//!                            ├─ failed: waiting ─┐
//!                            └─ refused: resting ┘ (ten minutes)
//! ```
//!
//! Before alerts are sent, a note on disk says up to which number they may have been; what is sent again after a crash
//! is marked up to there. The place moves when alerts are dealt with and is stored at most once a second.

mod behind;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use slog::{debug, info, warn};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use vigie_files::random;
use vigie_journal::{Cause, Item, Portion};
use vigie_protocol::catalogue::AgentCondition;
use vigie_protocol::control::SinkState;
use vigie_sinks::alert::{Alert, Recorded};
use vigie_sinks::backoff::Backoff;
use vigie_sinks::journald::SAFE_PER_SECOND;
use vigie_sinks::place::Place;
use vigie_sinks::verdict::Reason;

use self::behind::Behind;
use super::dead_letters::{self, DeadLetters, Lost};
use super::outcome::{Failure, Outcome};
use super::place_file::PlaceFile;
use super::sink::SinkSpec;
use super::transport::{Form, Transport};
use crate::alert_journal::Follower;
use crate::conditions::Reporter;
use crate::work_threads::{self, Lane};

/// How often the place is stored at most.
const STORE_EVERY: Duration = Duration::from_secs(1);

/// Pause before a receiver that takes nothing is asked again.
const REST: Duration = Duration::from_secs(600);

/// Pause after the journal could not be read, or the place.
const READ_PAUSE: Duration = Duration::from_secs(1);

/// How often it is looked whether the dead letters are gone.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// How long it is told that alerts are gone, after the last one.
const MISSED_TOLD: Duration = Duration::from_secs(3600);

/// How often it is looked when certificates end: a day is what people count with.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(3600);

/// How long a connection must last that took alerts without an acknowledgement, after one that broke: a receiver that
/// takes everything and closes has nothing.
const LASTING: Duration = Duration::from_secs(10);

/// Failures in a row from which on it is a condition.
const FAILURES_TOLD: u32 = 2;

/// How the sink is, for its actor.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    pub(super) state: SinkState,
    /// The place was read; before that, there are no numbers.
    pub(super) is_known: bool,
    pub(super) is_acknowledged: Option<bool>,
    pub(super) position: u64,
    pub(super) oldest_unsent: Option<String>,
    pub(super) sent: u64,
    pub(super) resent: u64,
    pub(super) unacknowledged: u64,
    pub(super) filtered: u64,
    pub(super) missed: u64,
    pub(super) dead_letters: u64,
    pub(super) rejected: u64,
    pub(super) failures: BTreeMap<Reason, u64>,
    pub(super) last_success: Option<String>,
    pub(super) last_error: Option<String>,
    pub(super) retry_at: Option<Instant>,
    pub(super) certificate_expires: Option<String>,
}

/// The task.
pub(super) struct Delivery {
    spec: Arc<SinkSpec>,
    told: watch::Sender<Progress>,
    stop: watch::Receiver<bool>,
    wake: Rc<Notify>,
    file: PlaceFile,
    letters: DeadLetters,
    reporter: Reporter,
}

/// What the task keeps between batches.
struct State {
    journal: Arc<str>,
    place: Place,
    /// What is sent again up to this number is marked.
    marked_through: u64,
    follower: Follower,
    transport: Transport,
    /// Read, wanted, and not dealt with.
    alerts: Vec<Alert>,
    /// Number up to which `alerts` holds what is wanted.
    read_through: u64,
    backoff: Backoff,
    /// A connection broke that took alerts, and none has lasted since.
    is_unproved: bool,
    /// When the present one has lasted, once it took alerts.
    proved_at: Option<Instant>,
    stored: Place,
    stored_at: Instant,
    last_sent: Option<Instant>,
    /// When an entry of systemd's journal was sent last, and how many in that second.
    second: (u64, u64),
    /// There may be a dead-letter file.
    has_letters: bool,
    /// What it had when it was looked at last: when it has less, somebody took it away.
    seen_bytes: u64,
    /// Alerts that were to be put there since the sink began.
    letters: u64,
    /// Those of them that could not be, and when the last one was.
    lost_letters: u64,
    lost_at: Option<Instant>,
    /// How often in a row the journal could not be read.
    unread: u32,
    /// When alerts were last missed.
    missed_at: Option<Instant>,
    behind: Behind,
    /// When certificates are looked at next.
    certificates_at: Instant,
    /// There was a connection since the sink began.
    was_connected: bool,
}

impl State {
    /// Whether something is to be seen that needed a person.
    fn must_look(&self) -> bool {
        self.has_letters || self.missed_at.is_some() || self.lost_at.is_some()
    }
}

impl Delivery {
    pub(super) fn new(
        spec: Arc<SinkSpec>,
        told: watch::Sender<Progress>,
        stop: watch::Receiver<bool>,
        wake: Rc<Notify>,
    ) -> Self {
        let file = PlaceFile::new(&spec.directory, &spec.section.name);
        let letters = DeadLetters::new(&spec.directory, &spec.section.name);
        let reporter = spec.reporter();
        Self { spec, told, stop, wake, file, letters, reporter }
    }

    /// Delivers until the sink is told to end.
    pub(super) async fn run(mut self) {
        let mut stop = self.stop.clone();
        let Some(mut state) = self.begin(&mut stop).await else { return };
        loop {
            let goes_on = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => false,
                goes_on = self.step(&mut state) => goes_on,
            };
            if !goes_on {
                break;
            }
        }
        state.transport.close().await;
        // Ended in good order: nothing is under way that could arrive later.
        if state.alerts.is_empty() && state.transport.settled().is_none() {
            state.place.tried = state.place.after;
        }
        self.store(&mut state, true).await;
    }

    /// Reads the place; tries until that works.
    async fn begin(&mut self, stop: &mut watch::Receiver<bool>) -> Option<State> {
        let loaded = loop {
            match self.file.load(&self.spec.view, self.spec.section.begin).await {
                Ok(loaded) => break loaded,
                Err(error) => self.reporter.raise(AgentCondition::SinkPlaceUnwritable, error.to_string()),
            }
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return None,
                () = sleep(READ_PAUSE) => {}
            }
        };
        if let Some(problem) = loaded.problem {
            warn!(self.spec.log, "the position of the sink cannot be used; it sends all alerts of the journal again";
                "file" => ?self.file.path(), "problem" => problem);
        }
        let place = loaded.place;
        let mut state = State {
            journal: place.journal.as_str().into(),
            // What is recorded from now on cannot have been sent before.
            marked_through: place.tried.min(*self.spec.view.recorded.borrow()),
            follower: self.spec.view.follow(place.after),
            transport: self.spec.transport(place.after),
            alerts: Vec::new(),
            read_through: place.after,
            backoff: Backoff::default(),
            is_unproved: false,
            proved_at: None,
            stored: place.clone(),
            stored_at: Instant::now(),
            last_sent: None,
            second: (0, 0),
            has_letters: true,
            seen_bytes: 0,
            letters: 0,
            lost_letters: 0,
            lost_at: None,
            unread: 0,
            missed_at: None,
            behind: Behind::default(),
            certificates_at: Instant::now(),
            was_connected: false,
            place,
        };
        if loaded.is_new {
            // A sink that begins with what is new must not begin anew after a crash.
            state.stored.after = u64::MAX;
            self.store(&mut state, true).await;
        }
        let after = state.place.after;
        self.tell(|progress| (progress.position, progress.is_known) = (after, true));
        self.look(&mut state).await;
        debug!(self.spec.log, "sink begins"; "after" => after);
        Some(state)
    }

    fn tell(&self, change: impl FnOnce(&mut Progress)) {
        self.told.send_modify(change);
    }

    /// One round: reads, or delivers, or waits. `false` when the journal has ended.
    async fn step(&self, state: &mut State) -> bool {
        if state.alerts.is_empty() {
            match self.read(state).await {
                Ok(true) => {}
                Ok(false) => return self.idle(state).await,
                Err(error) => {
                    state.unread += 1;
                    if state.unread == 1 {
                        warn!(self.spec.log, "cannot read the alert journal"; "error" => %error);
                    }
                    if state.unread >= FAILURES_TOLD {
                        let detail = format!("the journal cannot be read: {error}");
                        self.reporter.raise(AgentCondition::SinkFailing, detail);
                    }
                    sleep(READ_PAUSE).await;
                }
            }
            return true;
        }
        if let (Some(pace), Some(last)) = (state.transport.pace(), state.last_sent) {
            sleep_until(last + pace).await;
        }
        self.deliver(state).await;
        self.store(state, false).await;
        true
    }

    /// Reads a batch; `false` when there is nothing new.
    async fn read(&self, state: &mut State) -> std::io::Result<bool> {
        let section = &self.spec.section;
        let most = state.transport.most_alerts();
        let portion = Portion { items: section.batch_alerts.min(most), bytes: section.batch_bytes };
        let items = state.follower.read(portion).await?;
        if std::mem::take(&mut state.unread) >= FAILURES_TOLD && state.backoff.failures() < FAILURES_TOLD {
            self.reporter.clear(AgentCondition::SinkFailing);
        }
        if items.is_empty() {
            self.look_behind(state, None, false);
            return Ok(false);
        }
        state.read_through = state.follower.position();
        let (spec, journal) = (self.spec.clone(), state.journal.clone());
        let sorting = work_threads::run(Lane::Sinks, move || sort(&spec, &journal, items));
        let sorted = sorting.await.map_err(std::io::Error::other)?;
        if sorted.missed > 0 {
            state.missed_at = Some(Instant::now());
            let total = self.told.borrow().missed + sorted.missed;
            warn!(self.spec.log, "alerts were deleted before the sink sent them"; "dropped" => sorted.missed);
            let detail = format!("{total} alerts were deleted from the journal before they could be sent");
            self.reporter.raise(AgentCondition::SinkAlertsDeleted, detail);
        }
        state.alerts = sorted.alerts;
        let oldest = state.alerts.first().map(|alert| alert.time.clone());
        if let Some(oldest) = &oldest {
            self.look_behind(state, Some(oldest), false);
        }
        let nothing_wanted = state.alerts.is_empty().then_some(state.read_through);
        self.tell(|progress| {
            progress.filtered += sorted.filtered;
            progress.missed += sorted.missed;
            progress.oldest_unsent = oldest;
            progress.position = nothing_wanted.unwrap_or(progress.position);
        });
        if let Some(reached) = nothing_wanted {
            self.reach(state, reached);
        }
        Ok(true)
    }

    /// The receiver has everything up to this number, or does not want it.
    fn reach(&self, state: &mut State, reached: u64) {
        self.tell(|progress| progress.position = reached);
        state.place.reach(state.transport.settled().map_or(reached, |settled| settled.min(reached)));
    }

    /// Waits for more; `false` when the journal has ended.
    async fn idle(&self, state: &mut State) -> bool {
        self.tell(|progress| progress.state = SinkState::Idle);
        let is_dirty = state.place != state.stored;
        let store_at = state.stored_at + STORE_EVERY;
        let has_tls = state.transport.tls().is_some();
        enum Then {
            Ended,
            More,
            Store,
            Look,
            Certificates,
            Lasted,
            Broken(Failure),
        }
        let proved_at = state.proved_at;
        let then = tokio::select! {
            goes_on = state.follower.changed() => if goes_on { Then::More } else { Then::Ended },
            () = sleep_until(store_at), if is_dirty => Then::Store,
            failure = state.transport.broken() => Then::Broken(failure),
            () = sleep(LOOK_EVERY), if state.must_look() => Then::Look,
            () = sleep_until(state.certificates_at), if has_tls => Then::Certificates,
            () = sleep_until(proved_at.unwrap_or_else(Instant::now)), if proved_at.is_some() => Then::Lasted,
        };
        match then {
            Then::Ended => return false,
            Then::More => {}
            Then::Store => self.store(state, true).await,
            Then::Look => self.look(state).await,
            Then::Certificates => self.look_at_certificates(state).await,
            Then::Lasted => self.succeeded(state),
            Then::Broken(failure) => self.failed(state, failure).await,
        }
        true
    }

    /// Looks whether what needed a person is done with.
    async fn look(&self, state: &mut State) {
        let bytes = if state.has_letters { self.letters.bytes().await } else { Some(0) };
        if let Some(bytes) = bytes {
            self.note_letters(state, bytes);
            let detail = (bytes > 0)
                .then(|| format!("{bytes} bytes of rejected alerts are in {:?}", self.letters.path()));
            self.reporter.set(AgentCondition::SinkDeadLetters, detail);
        }
        if state.missed_at.is_some_and(|at| at.elapsed() >= MISSED_TOLD) {
            state.missed_at = None;
            self.reporter.clear(AgentCondition::SinkAlertsDeleted);
        }
    }

    /// The dead-letter file has so many bytes now.
    fn note_letters(&self, state: &mut State, bytes: u64) {
        let is_taken = bytes < state.seen_bytes;
        (state.has_letters, state.seen_bytes) = (bytes > 0, bytes);
        // Somebody took the file away, or the disk had no room for a while and there is room in the file: a module is
        // refused when about half of it is used.
        let is_over =
            |at: Instant| is_taken || (at.elapsed() >= MISSED_TOLD && bytes < dead_letters::MAX_BYTES / 4);
        if state.lost_at.is_some_and(is_over) {
            state.lost_at = None;
            self.reporter.clear(AgentCondition::SinkLettersLost);
        }
    }

    async fn deliver(&self, state: &mut State) {
        let Some(last) = state.alerts.last().map(|alert| alert.seq) else { return };
        if state.place.about_to_try(last) {
            self.store(state, true).await;
        }
        for alert in &mut state.alerts {
            alert.resent |= alert.seq <= state.marked_through;
        }
        self.tell(|progress| progress.state = SinkState::Sending);
        let form = Form::of(&self.spec.section);
        let alerts = state.alerts.clone();
        let rendering = work_threads::run(Lane::Sinks, move || form.render(alerts)).await;
        let outcome = match rendering {
            Ok(batch) => state.transport.deliver(&batch).await,
            Err(error) => Outcome::failed(0, Failure::new(Reason::Io, error.to_string())),
        };
        state.last_sent = Some(Instant::now());
        // What the receiver shows is known from the first connection on.
        let is_first = !state.was_connected && outcome.failure.is_none();
        state.was_connected |= is_first;
        self.take(state, outcome).await;
        if is_first || Instant::now() >= state.certificates_at {
            self.look_at_certificates(state).await;
        }
    }

    /// Looks when the certificates end, without which nothing can be delivered.
    async fn look_at_certificates(&self, state: &mut State) {
        state.certificates_at = Instant::now() + CERTIFICATES_EVERY;
        let Some(tls) = state.transport.tls() else { return };
        // Their files may be on a disk that does not respond, which costs no alert.
        let Ok(ends) = timeout(self.spec.section.timeout, tls.ends()).await else { return };
        let now = jiff::Timestamp::now().as_second();
        let complaints: Vec<String> = ends.iter().filter_map(|end| end.complaint(now)).collect();
        let detail = (!complaints.is_empty()).then(|| complaints.join("; "));
        self.reporter.set(AgentCondition::SinkCertificateExpires, detail);
        let first = ends.iter().map(|end| end.not_after).min();
        let first = first.and_then(|time| jiff::Timestamp::from_second(time).ok());
        self.tell(|progress| progress.certificate_expires = first.map(|time| time.to_string()));
    }

    /// Carries out what became of a batch.
    async fn take(&self, state: &mut State, outcome: Outcome) {
        let Outcome { done, dead, rejected, suspects, failure } = outcome;
        let done = done.min(state.alerts.len());
        if !dead.is_empty() {
            self.tell(|progress| progress.dead_letters += dead.len() as u64);
            self.bury(state, &dead).await;
        }
        // Nobody says which of them the collector rejected: all are kept, so that none is gone.
        if !suspects.is_empty() {
            self.bury(state, &suspects).await;
        }
        let dealt_with: Vec<Alert> = state.alerts.drain(..done).collect();
        let delivered = (done - dead.len().min(done)) as u64;
        let delivered = delivered.saturating_sub(rejected);
        if rejected > 0 {
            warn!(self.spec.log, "the collector rejected alerts"; "dropped" => rejected);
        }
        let is_acknowledged = state.transport.is_acknowledged();
        let unacknowledged = self.unacknowledged(state, delivered, is_acknowledged);
        let resent = dealt_with.iter().filter(|alert| alert.resent).count() as u64;
        let oldest = state.alerts.first().map(|alert| alert.time.clone());
        if let Some(last) = dealt_with.last() {
            let reached = if state.alerts.is_empty() { state.read_through } else { last.seq };
            self.reach(state, reached);
        }
        let now = jiff::Timestamp::now().to_string();
        self.tell(|progress| {
            progress.sent += delivered;
            progress.resent += resent;
            progress.unacknowledged += unacknowledged;
            progress.rejected += rejected;
            progress.oldest_unsent = oldest;
            progress.is_acknowledged = Some(is_acknowledged);
            if delivered > 0 {
                progress.last_success = Some(now);
            }
        });
        match failure {
            None => self.succeeded(state),
            Some(failure) => {
                if done > 0 && !state.is_unproved {
                    state.backoff.succeed();
                }
                self.failed(state, failure).await;
            }
        }
    }

    /// How many of the alerts nobody acknowledged.
    fn unacknowledged(&self, state: &mut State, delivered: u64, is_acknowledged: bool) -> u64 {
        match &state.transport {
            _ if is_acknowledged => 0,
            // Below its limit systemd's journal takes what it gets.
            Transport::Journal(_) => {
                let second = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
                let before = if state.second.0 == second { state.second.1 } else { 0 };
                state.second = (second, before + delivered);
                (before + delivered).saturating_sub(SAFE_PER_SECOND).min(delivered)
            }
            _ => delivered,
        }
    }

    fn succeeded(&self, state: &mut State) {
        if state.is_unproved {
            let proved_at = *state.proved_at.get_or_insert_with(|| Instant::now() + LASTING);
            if Instant::now() < proved_at {
                return;
            }
            (state.is_unproved, state.proved_at) = (false, None);
        }
        if state.backoff.failures() > 0 {
            info!(self.spec.log, "the receiver accepts alerts again");
        }
        state.backoff.succeed();
        self.reporter.clear(AgentCondition::SinkFailing);
        self.reporter.clear(AgentCondition::SinkRefused);
        let falls_back = matches!(state.transport, Transport::Tls(_)) && !state.transport.is_acknowledged();
        self.reporter.set(
            AgentCondition::SinkUnacknowledged,
            falls_back.then(|| "it does not answer the TLS close notification".to_owned()),
        );
        self.tell(|progress| (progress.last_error, progress.retry_at) = (None, None));
    }

    async fn bury(&self, state: &mut State, dead: &[(usize, String)]) {
        let letters: Vec<(Alert, String)> = dead
            .iter()
            .filter_map(|(index, why)| Some((state.alerts.get(*index)?.clone(), why.clone())))
            .collect();
        let why = letters.first().map(|(_, why)| why.clone()).unwrap_or_default();
        warn!(self.spec.log, "the receiver permanently rejected alerts"; "dropped" => letters.len(), "error" => ?why);
        let count = letters.len() as u64;
        state.letters += count;
        let written = self.letters.add(letters).await;
        let total = state.letters;
        if let Some(bytes) = self.letters.bytes().await {
            self.note_letters(state, bytes);
        }
        if let Err(Lost { count, why }) = &written {
            state.lost_letters += count;
            state.lost_at = Some(Instant::now());
            let lost =
                format!("{} rejected alerts are kept nowhere but in the journal: {why}", state.lost_letters);
            self.reporter.raise(AgentCondition::SinkLettersLost, lost);
        }
        let detail = match written {
            Ok(()) => format!("{total} alerts are in {:?}; last rejection: {why}", self.letters.path()),
            Err(Lost { count, why: problem }) => format!(
                "{total} alerts were rejected; {count} of the last ones could not be written to the dead-letter file ({problem}); last rejection: {why}"
            ),
        };
        self.reporter.raise(AgentCondition::SinkDeadLetters, detail);
    }

    /// Tells what went wrong, and waits.
    async fn failed(&self, state: &mut State, failure: Failure) {
        if let Some(after) = failure.rewind {
            let sent = self.told.borrow().position.max(state.alerts.last().map_or(0, |alert| alert.seq));
            state.marked_through = state.marked_through.max(sent);
            state.alerts.clear();
            state.follower = self.spec.view.follow(after);
            state.read_through = after;
            self.tell(|progress| progress.position = after);
        }
        if failure.unsure {
            for alert in &mut state.alerts {
                alert.resent = true;
            }
        }
        let wait = state.backoff.fail(random::number(), failure.asked);
        let wait = if failure.rest { REST } else { wait };
        state.is_unproved |= failure.rewind.is_some();
        state.proved_at = None;
        let shown = format!("{}: {}", failure.reason.name(), failure.detail);
        if state.backoff.failures() == 1 || failure.rest {
            warn!(self.spec.log, "alerts cannot be delivered and wait in the journal";
                "reason" => failure.reason.name(), "error" => ?failure.detail);
        }
        self.tell(|progress| {
            *progress.failures.entry(failure.reason).or_default() += 1;
            progress.last_error = Some(shown.clone());
            progress.retry_at = Some(Instant::now() + wait);
            progress.state = if failure.rest { SinkState::Resting } else { SinkState::Waiting };
        });
        if failure.rest {
            self.reporter.raise(AgentCondition::SinkRefused, shown);
        } else if state.backoff.failures() >= FAILURES_TOLD {
            self.reporter.raise(AgentCondition::SinkFailing, shown);
        }
        let oldest = self.told.borrow().oldest_unsent.clone();
        if let Some(oldest) = oldest {
            self.look_behind(state, Some(&oldest), true);
        }
        self.store(state, false).await;
        tokio::select! {
            () = sleep(wait) => {}
            () = self.wake.notified() => {}
        }
        self.tell(|progress| progress.retry_at = None);
    }

    /// Looks how old the oldest alert is that waits.
    fn look_behind(&self, state: &mut State, oldest: Option<&str>, fails: bool) {
        let was_told = state.behind.is_told;
        let detail = state.behind.look(oldest, fails, jiff::Timestamp::now());
        if was_told || detail.is_some() {
            self.reporter.set(AgentCondition::SinkBehind, detail);
        }
    }

    /// Stores the place, if it is time or `at_once`.
    async fn store(&self, state: &mut State, at_once: bool) {
        let is_due = state.stored_at.elapsed() >= STORE_EVERY;
        if state.place == state.stored || !(at_once || is_due) {
            return;
        }
        state.stored_at = Instant::now();
        match self.file.store(&state.place).await {
            Ok(()) => {
                state.stored = state.place.clone();
                self.reporter.clear(AgentCondition::SinkPlaceUnwritable);
            }
            Err(error) => self.reporter.raise(AgentCondition::SinkPlaceUnwritable, error.to_string()),
        }
    }
}

/// What a batch of the journal is to the sink.
struct Sorted {
    alerts: Vec<Alert>,
    filtered: u64,
    missed: u64,
}

/// Blocking: it computes.
fn sort(spec: &SinkSpec, journal: &Arc<str>, items: Vec<Item>) -> Sorted {
    let mut sorted = Sorted { alerts: Vec::new(), filtered: 0, missed: 0 };
    for item in items {
        match item {
            Item::Alert(record) => {
                let recorded = Recorded {
                    seq: record.seq,
                    time: &record.time,
                    module: &record.module,
                    id: record.id.as_deref(),
                    severity: record.severity(),
                    message: &record.message,
                };
                // The filter sees what the alert says; what leaves may be masked.
                let filter = &spec.section.filter;
                let is_wanted = !filter.leaves_out_canary(&record.module, &record.message)
                    && (filter.is_open() || filter.wants(&Alert::new(&spec.source, journal, &recorded)));
                if !is_wanted {
                    sorted.filtered += 1;
                    continue;
                }
                sorted.alerts.push(spec.alert(journal, &recorded));
            }
            Item::Missing(missing) => match missing.why {
                Cause::Deleted(_) | Cause::Damaged | Cause::Lost => sorted.missed += missing.count(),
            },
            Item::Damaged(_) => {}
        }
    }
    sorted
}
