//! Keeps what is known of the watched paths equal to what is there, and tells every difference.
//!
//! One thread owns the baseline. It asks the [`Mailbox`] what happened, waits for writes to settle, has the
//! `Workers` look at the paths and compares what they found; a difference and its alert are written down together
//! before the alert leaves. Every alert comes from a look at one path (`round.rs`); a scan (`scan.rs`) only finds which
//! paths are worth a look, so that what it found a moment ago is never told after what a look found just now.
//! Directories are watched before they are listed, so that nothing falls between.

mod accounts;
mod away;
mod backlog;
mod busy;
mod canary;
mod content;
mod covering;
mod expected;
pub(crate) mod health;
mod hung;
mod linked;
mod log_names;
mod logs;
mod loops;
mod memory;
mod mounts;
mod moving;
mod narrowing;
mod orders;
pub mod proof;
mod reasons;
mod renames;
mod round;
mod scan;
mod slices;
mod status;
mod transactions;
mod ways;
mod writing;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use vigie_sdk::{AlertId, Condition};

use self::accounts::Stories;
use self::away::Away;
use self::backlog::Backlog;
use self::busy::Busy as BusyLanes;
use self::canary::Canary;
use self::content::Contents;
use self::expected::Plans;
use self::health::Health;
use self::linked::Linked;
use self::logs::Rotations;
use self::loops::Loops;
use self::memory::Memory;
use self::mounts::UnknownMounts;
use self::moving::Move;
use self::narrowing::{MountedLately, Widening};
pub use self::orders::Order;
use self::proof::Proofs;
pub use self::reasons::Reasons;
use self::round::{Round, Told};
use self::scan::{Purpose, Scan};
use self::slices::Surplus;
pub use self::status::{PulseWatch, SharedStatus, Status};
use self::transactions::Transactions;
use self::ways::Ways;
use self::writing::Writings;
use crate::change::{Alert, notice, shown};
use crate::due::DueLanes;
use crate::ending::Owner;
use crate::events::{Busy, Happened, Mailbox, Taken, Window};
use crate::ledger::{Beginning, Entry, Ledger};
use crate::object::Object;
use crate::probe::Prober;
use crate::recorded::PackageRecords;
use crate::rules::{Coverage, Interest, Rules, Severity};
use crate::storm::Storms;
use crate::trust::Trust;
use crate::verifier::{Budget, Pace, Verifier};
use crate::waiting::{Extent, Keys};
use crate::watching::Watching;
use crate::workers::{Depth, Workers};

/// Longest time that goes into what can wait before the mailbox is asked again.
const SLICE: Duration = Duration::from_millis(4);

/// Where alerts and log lines go. A trait, so that tests see them without an agent.
pub trait Sink: Send {
    /// Sends an alert; returns when it cannot be lost any more.
    fn alert(&self, id: AlertId, text: &Arc<str>);
    /// Writes a line to the log.
    fn log(&self, message: &str);
    /// Tells everything that is wrong at present.
    fn health(&self, conditions: &[Condition]) {
        let _ = conditions;
    }
    /// Shows numbers of the module.
    fn values(&self, values: BTreeMap<String, u64>) {
        let _ = values;
    }
}

/// The engine.
pub struct Engine<S> {
    sink: S,
    mailbox: Mailbox,
    workers: Workers,
    watching: Watching,
    coverage: Arc<Coverage>,
    /// Paths that belong to the module itself and are never watched.
    own: Option<PathBuf>,
    /// What the agent writes for every alert.
    left_out: Vec<PathBuf>,
    ledger: Ledger,
    storms: Storms,
    transactions: Transactions,
    stories: Stories,
    plans: Plans,
    mounted: MountedLately,
    away: Away,
    widening: Widening,
    writings: Writings,
    proofs: Proofs,
    /// Files of proofs that were told of before it was known that they are.
    seen_probes: HashSet<u64>,
    prober: Prober,
    due: DueLanes,
    rounds: BTreeMap<u64, Round>,
    /// Rounds whose alerts wait for what packages say of them.
    unrecorded: BTreeMap<u64, Told>,
    packages: PackageRecords,
    verifier: Verifier,
    pace: Pace,
    /// When files were last given to the verifier; none while it reads.
    verified: Option<Instant>,
    /// Paths that a worker looks at now.
    in_flight: HashSet<PathBuf>,
    /// What happened to them meanwhile.
    again: HashMap<PathBuf, Happened>,
    /// Directories that are gone and of which only a part was told yet.
    going: Vec<(PathBuf, Happened)>,
    /// To whom work at a path is accounted.
    trust: Trust,
    /// Files whose content is not known yet.
    contents: Contents,
    /// What workers found that nobody waits for.
    backlog: Backlog,
    canary: Canary,
    loops: Loops,
    /// Whoever waits for loop devices ends with it.
    _loop_watch: Option<Owner>,
    health: Health,
    surplus: Surplus,
    /// Memory that is to be given back.
    memory: Memory,
    /// Directories in which more happened than can be told by name.
    busy: BusyLanes,
    /// Files that got another name somewhere.
    linked: Linked,
    /// Directories on the move.
    moves: Vec<Move>,
    /// What the kernel told of users' paths and is not taken up yet.
    told: VecDeque<(PathBuf, Happened)>,
    /// Bytes that listings of users' directories may take now.
    listed_bytes: usize,
    rotations: Rotations,
    scans: BTreeMap<u64, Scan>,
    /// Directories whose disk or server does not respond.
    hung: BTreeSet<PathBuf>,
    /// For hashes of paths that only this engine can make.
    path_keys: Keys,
    /// Notifications were lost while everything was being compared.
    lost_again: bool,
    /// Numbers of rounds and scans.
    numbers: u64,
    /// Links that lead to a root, and where they led when they were last seen.
    links: BTreeMap<PathBuf, PathBuf>,
    ways: Ways,
    /// Something was mounted or unmounted since the mount table was read, and when that was.
    mounts_changed: bool,
    mounts_read: Option<Instant>,
    unknown_mounts: UnknownMounts,
    /// Files with another content of which no write was heard yet, as they were seen.
    unheard: HashMap<PathBuf, Object>,
    /// Bytes of the longest path of a root.
    longest_root: usize,
    /// Entries that were looked at once: what is new below them is told.
    learned: Arc<BTreeSet<String>>,
    /// Since when nobody can have missed anything: what a scan finds happened after it.
    seen_until: SystemTime,
    next_scan: Option<Instant>,
    acknowledged: Vec<AlertId>,
    trouble_told: bool,
    /// What the journal knows of the baseline was compared with it.
    compared_mark: bool,
    status: Status,
    published: SharedStatus,
    published_at: Instant,
}

#[expect(clippy::disallowed_methods, reason = "this thread waits in real time, there is no virtual one here")]
fn now() -> Instant {
    Instant::now()
}

/// A time as alerts have it, RFC 3339 in UTC.
fn text_of_time(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since).to_string()
}

fn window_json(window: Window) -> Value {
    json!({"from": text_of_time(window.from), "to": text_of_time(window.to)})
}

impl<S: Sink> Engine<S> {
    /// An engine that watches nothing yet. `own` is its directory: it keeps its state there and never watches it.
    ///
    /// # Errors
    /// When the kernel gives no inotify instance (`fs.inotify.max_user_instances`) or no thread.
    pub fn new(sink: S, mailbox: Mailbox, own: Option<PathBuf>, published: SharedStatus) -> io::Result<Self> {
        // Its real path, because coverage speaks of those.
        let own = own.map(|own| own.canonicalize().unwrap_or(own));
        // Where devices may not be listened to, the scan finds what is written to them.
        let loop_watch = crate::loops::watch(mailbox.clone()).ok();
        let watching = Watching::start(&mailbox)?;
        let avoided = watching.avoided().clone();
        Ok(Self {
            sink,
            workers: Workers::start(&mailbox, &avoided)?,
            watching,
            coverage: Arc::new(Coverage::new(&Rules::none(), &|_| None)),
            own,
            left_out: Vec::new(),
            ledger: Ledger::open(None, 0).0,
            storms: Storms::new(0, 0),
            transactions: Transactions::default(),
            stories: Stories::default(),
            plans: Plans::default(),
            mounted: MountedLately::default(),
            away: Away::default(),
            widening: Widening::default(),
            writings: Writings::default(),
            proofs: Proofs::default(),
            seen_probes: HashSet::new(),
            prober: Prober::start(mailbox.clone(), avoided.clone())?,
            due: DueLanes::new(Duration::ZERO),
            rounds: BTreeMap::new(),
            unrecorded: BTreeMap::new(),
            packages: PackageRecords::start(mailbox.clone(), avoided.clone())?,
            verifier: Verifier::start(mailbox.clone(), avoided.clone())?,
            pace: Pace::default(),
            verified: Some(now()),
            mailbox,
            in_flight: HashSet::new(),
            again: HashMap::new(),
            going: Vec::new(),
            trust: Trust::new(avoided),
            contents: Contents::default(),
            backlog: Backlog::default(),
            canary: Canary::default(),
            loops: Loops::default(),
            _loop_watch: loop_watch,
            health: Health::default(),
            surplus: Surplus::default(),
            memory: Memory::default(),
            busy: BusyLanes::default(),
            linked: Linked::default(),
            moves: Vec::new(),
            told: VecDeque::new(),
            listed_bytes: 0,
            rotations: Rotations::default(),
            scans: BTreeMap::new(),
            hung: BTreeSet::new(),
            path_keys: Keys::default(),
            lost_again: false,
            numbers: 0,
            links: BTreeMap::new(),
            ways: Ways::default(),
            mounts_changed: false,
            mounts_read: None,
            unknown_mounts: UnknownMounts::default(),
            unheard: HashMap::new(),
            longest_root: 0,
            learned: Arc::default(),
            seen_until: SystemTime::now(),
            next_scan: None,
            acknowledged: Vec::new(),
            trouble_told: false,
            compared_mark: false,
            status: Status::default(),
            published,
            published_at: now(),
        })
    }

    /// Works until it is told to stop.
    pub fn run(mut self, orders: &mpsc::Receiver<Order>) {
        self.published.pulse.begin();
        self.begin();
        loop {
            if let Some(since) = self.published.pulse.beat() {
                self.note_stuck(since);
            }
            while let Ok(order) = orders.try_recv() {
                if !self.obey(order) {
                    self.take_acknowledged();
                    return;
                }
            }
            self.take_acknowledged();
            self.tend_health();
            let patience = self.patience(now());
            let patience = self.publish_now_and_then(patience);
            let taken = self.mailbox.wait(patience, self.told.is_empty());
            self.note(taken);
            self.note_told();
            self.resolve_ways();
            self.work_off();
            self.compare_busy();
            self.find_linked();
            self.move_some();
            self.start_rounds();
            self.go_through_some();
            self.feed_scans();
            self.tell_groups();
            self.tell_logs_gone();
            self.tend_transactions();
            self.tend_stories();
            self.tend_plans();
            self.tend_proofs();
            self.tend_canary();
            self.tend_loops();
            self.tend_memory();
            if self.next_scan.is_some_and(|next| next <= now()) {
                self.scan_all(Purpose::Quick, Depth::Glance, None);
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Takes up what an earlier life left.
    fn begin(&mut self) {
        let history_bytes = self.coverage.rules().settings().history_bytes;
        let (ledger, beginning) = Ledger::open(self.own.as_deref(), history_bytes);
        self.ledger = ledger;
        self.storms = Storms::new(0, self.ledger.epoch());
        self.restore_groups();
        self.learned = Arc::new(self.ledger.state().learned.clone());
        self.status.baseline_complete = false;
        for (id, text) in self.ledger.pending() {
            self.sink.alert(id, &text);
        }
        let Beginning { last_alive, gone, set_aside, notices, unusable } = beginning;
        self.seen_until = last_alive.unwrap_or(self.seen_until).min(SystemTime::now());
        if unusable.is_some() {
            self.note_trouble();
        }
        for (path, text) in notices {
            self.tell_notice(&path, text, Severity::Critical, None);
        }
        if gone && let Some(own) = self.own.clone() {
            let text = format!(
                "the baseline on disk was removed from {}; what changed before {} is not known, everything is looked \
                 at as if for the first time",
                shown(&own),
                text_of_time(SystemTime::now())
            );
            let window = Window { from: self.seen_until, to: SystemTime::now() };
            self.tell_notice(&own, text, Severity::Critical, Some(window));
        }
        if let Some((why, kept_as)) = set_aside {
            let text = format!(
                "the baseline on disk is not trusted and was put aside as {}: {why}; what changed before {} is not \
                 known, everything is looked at as if for the first time",
                shown(&kept_as),
                text_of_time(SystemTime::now())
            );
            let window = Window { from: self.seen_until, to: SystemTime::now() };
            self.tell_notice(&kept_as, text, Severity::Critical, Some(window));
        }
    }

    /// Tells what is about no single change.
    fn tell_notice(&mut self, path: &Path, text: String, severity: Severity, window: Option<Window>) {
        self.sink.log(&text);
        let told = notice(shown(path), text, &text_of_time(SystemTime::now()));
        let window = window.map_or(Value::Null, window_json);
        self.commit(Entry { alone: vec![Alert { severity, window, ..told }], ..Entry::default() });
    }

    /// Writes an entry down and sends its alerts.
    fn commit(&mut self, entry: Entry) {
        self.status.grouped += entry.members.len() as u64;
        for (id, text) in self.ledger.commit(entry) {
            self.sink.alert(id, &text);
            self.status.alerts += 1;
        }
        self.note_trouble();
    }

    fn note_trouble(&mut self) {
        let trouble = self.ledger.trouble().map(str::to_owned);
        let was_told = std::mem::replace(&mut self.trouble_told, trouble.is_some());
        self.status.trouble.clone_from(&trouble);
        match trouble {
            Some(text) if !was_told => {
                let text = format!(
                    "{text}; the baseline is kept in memory only, and changes are reported again after a restart"
                );
                let own = self.own.clone().unwrap_or_default();
                self.tell_notice(&own, text, Severity::Critical, None);
            }
            None if was_told => self.sink.log("the state directory is writable again"),
            _ => {}
        }
    }

    fn take_acknowledged(&mut self) {
        if !self.acknowledged.is_empty() {
            let ids = std::mem::take(&mut self.acknowledged);
            self.ledger.acknowledge(&ids);
        }
    }

    /// Whether nothing is under way.
    fn is_calm(&self) -> bool {
        self.scans.is_empty()
            && self.due.is_empty()
            && self.in_flight.is_empty()
            && self.backlog.is_empty()
            && self.busy.is_empty()
            && self.moves.is_empty()
            && self.told.is_empty()
            && self.ways.are_known()
    }

    fn heartbeat(&mut self) {
        let is_calm = self.is_calm();
        self.ledger.tend(self.status.baseline_complete, is_calm);
        self.note_trouble();
        if self.status.baseline_complete {
            if is_calm {
                self.seen_until = SystemTime::now();
                self.packages.forget();
            }
            self.verify_some();
        }
    }

    /// Has those files read again whose turn it is.
    fn verify_some(&mut self) {
        let settings = self.coverage.rules().settings();
        let (Some(period), Some(last)) = (settings.rehash, self.verified) else { return };
        let budget =
            Budget { cpu_percent: settings.cpu_percent, bytes_per_second: settings.bytes_per_second };
        let state = self.ledger.state();
        let due = self.pace.due(state.baseline.len(), now().duration_since(last), period);
        self.verified = Some(now());
        if due == 0 {
            return;
        }
        let mut files = state.baseline.after(state.cursor.as_deref(), due);
        if files.is_empty() {
            // All were read: from the beginning again.
            self.status.verified_rounds += 1;
            files = state.baseline.after(None, due);
        }
        self.pace.took(due);
        let Some((last, _)) = files.last() else { return };
        self.ledger.set_cursor(Some(last.clone()));
        files.retain(|(path, _)| !self.watching.avoided().has(path));
        self.verified = None;
        self.verifier.read(files, budget);
    }

    fn note_verified(&mut self, files: usize, bytes_read: u64, differing: Vec<PathBuf>) {
        self.verified = Some(now());
        self.status.verified_files += files as u64;
        self.status.verified_bytes += bytes_read;
        let to = SystemTime::now();
        let period = self.coverage.rules().settings().rehash.unwrap_or_default();
        let from = to.checked_sub(period).unwrap_or(to);
        for path in differing {
            let happened =
                Happened { prove: true, window: Some(Window { from, to }), ..Happened::finished() };
            self.touch(&path, happened, now());
        }
    }

    /// Something happened to a path: it is looked at when it is quiet.
    fn touch(&mut self, path: &Path, happened: Happened, now: Instant) {
        let lane = self.trust.lane(path);
        self.due.of(lane).touch(path, happened, now);
    }

    /// Has a path looked at without waiting for quiet.
    fn hurry(&mut self, path: &Path, happened: Happened, now: Instant) {
        let lane = self.trust.lane(path);
        self.due.of(lane).hurry(path, happened, now);
    }

    /// Has a path looked at after a while.
    fn postpone(&mut self, path: &Path, happened: Happened, until: Instant) {
        let lane = self.trust.lane(path);
        self.due.of(lane).postpone(path, happened, until);
    }

    /// What happens to a file under other names is told of this one.
    fn follow_names(&mut self, path: &Path) {
        let lane = self.trust.lane(path);
        self.watching.follow_names(path, lane);
    }

    /// Time until something is to be done although nothing happens.
    fn patience(&self, now: Instant) -> Option<Duration> {
        let scan = self.next_scan.map(|next| next.saturating_duration_since(now));
        // With all rounds under way, the next report is what there is to wait for.
        let due = self.due.next(now, |lane| self.has_room_for_a_round(lane));
        let is_slice_left =
            self.has_backlog() || self.has_slices() || !self.moves.is_empty() || !self.told.is_empty();
        let slices = is_slice_left.then_some(Duration::ZERO);
        [
            slices,
            due,
            scan,
            self.next_mounts(now),
            self.ways.next(now),
            self.busy.next(now),
            self.linked.next(now),
            self.storms.next(now),
            self.rotations.next(now),
            self.transactions.next(now),
            self.stories.next(now),
            self.plans.next(),
            self.proofs.next(now),
            self.canary.next(now),
            self.loops.next(now).filter(|_| self.status.baseline_complete),
            self.next_health(),
            self.memory.next(now),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Turns what the kernel told into paths that are due, and what the workers found into what is known.
    fn note(&mut self, taken: Taken) {
        if let Some(why) = taken.overflowed {
            self.status.overflows += 1;
            self.note_lost(&why);
        }
        let (mut sources, mut targets) = (HashMap::new(), HashMap::new());
        for (from, to) in &taken.moves {
            let (from, to) = (self.watching.paths(from), self.watching.paths(to));
            if let (Some(source), Some(target)) = (from.first(), to.first()) {
                let (source, target): (Arc<Path>, Arc<Path>) =
                    (source.as_path().into(), target.as_path().into());
                sources.extend(to.into_iter().map(|to| (to, Arc::clone(&source))));
                targets.extend(from.into_iter().map(|from| (from, Arc::clone(&target))));
            }
        }
        let [watches, paths] = taken.trusted;
        let mut of_users = taken.paths;
        let mut trusted: Vec<_> = of_users.drain(..paths).collect();
        for (index, (watch, name, happened)) in taken.watches.into_iter().enumerate() {
            for path in self.watching.directories().paths(&watch, name.as_ref()) {
                let mut happened = happened.clone();
                happened.moved_from = sources.get(&path).cloned();
                happened.moved_to = targets.get(&path).cloned();
                let its = if index < watches { &mut trusted } else { &mut of_users };
                its.push((path, happened));
            }
        }
        self.told.extend(of_users);
        for watch in &taken.ended {
            self.watching.directories().forget(watch);
        }
        self.mounts_changed |= taken.mounts_changed;
        self.doubt_mounts();
        self.loops.doubted |= taken.loops_changed;
        self.linked.merge(taken.linked);
        let started = taken.started;
        for busy in taken.busy {
            let (directories, extent) = match busy {
                Busy::Path(path, extent) => (vec![path], extent),
                Busy::Watch(watch) => (self.watching.directories().paths(&watch, None), Extent::Names),
            };
            for directory in directories {
                // A tree may be one in which there are others that are watched.
                if extent == Extent::Tree || self.coverage.descends(&directory) {
                    self.note_busy_directory(directory, extent);
                }
            }
        }
        for (path, happened) in trusted {
            self.note_name(&path, happened);
        }
        for path in started {
            let happened = Happened { executed: true, ..Happened::default() };
            match self.told.iter_mut().find(|(told, _)| *told == path) {
                Some((_, told)) => told.merge(happened),
                None => {
                    let lane = self.trust.lane(&path);
                    self.due.of(lane).add_to(&path, &happened);
                }
            }
        }
        self.sort_reports(taken.reports);
    }

    /// Takes up a piece of what the kernel told of users' paths: those can be long, and each can be a new directory.
    fn note_told(&mut self) {
        let begun = now();
        while let Some((path, happened)) = self.told.pop_front() {
            self.note_name(&path, happened);
            if now().duration_since(begun) >= SLICE {
                return;
            }
        }
    }

    /// Takes up what the kernel told of one path.
    fn note_name(&mut self, path: &Path, happened: Happened) {
        self.note_probe(path, &happened);
        if !self.is_canary(path, &happened)
            && let Some(interest) = self.coverage.concern(path)
        {
            self.note_path(path, interest, happened, now());
        }
    }

    /// Notifications were lost: everything is compared. When that is being done already it is done once more
    /// afterwards, however often the queue overflows meanwhile.
    fn note_lost(&mut self, why: &str) {
        let is_under_way = self.scans.values().any(Scan::is_whole);
        if is_under_way && self.lost_again {
            return;
        }
        let when = if is_under_way { " once the comparison under way is over" } else { "" };
        let window = Window { from: self.seen_until, to: SystemTime::now() };
        let text = format!(
            "{why}: everything is compared with the baseline{when}, to find what changed in the meantime"
        );
        self.tell_notice(Path::new("/"), text, Severity::Medium, Some(window));
        self.lost_again = is_under_way;
        if !is_under_way {
            self.scan_all(Purpose::Lost, Depth::Glance, None);
        }
    }

    fn note_path(&mut self, path: &Path, interest: Interest, happened: Happened, now: Instant) {
        if self.is_new_way(path, &happened) || self.leads_as(path, interest) {
            self.way_changed(path, happened.clone());
        }
        if happened.directory {
            self.trust.forget(path);
            let lane = self.trust.lane(path);
            let has_room = self.due.has_room(lane) || self.due.of(lane).contains(path);
            if !has_room {
                self.watching.directories().remove_tree(path);
                self.note_busy_path(path, &happened);
                return;
            }
            // It is watched at once: the sooner it is, the less has to be compared.
            if happened.appeared {
                self.watching.directories().remove_tree(path);
                // What only has another name now is not compared before that is known: it would seem to be new.
                if happened.moved_from.is_none() {
                    self.scan_tree(path, None);
                }
            }
            self.hurry(path, happened, now);
            return;
        }
        if self.is_being_written(path, &happened, now) {
            return;
        }
        let lane = self.trust.lane(path);
        if self.due.has_room(lane) || self.due.of(lane).contains(path) {
            self.due.of(lane).touch(path, happened, now);
        } else {
            self.note_busy_path(path, &happened);
        }
    }
}
