//! The one thread that owns everything: it reads the source, remembers processes, asks the rules and writes the
//! history.

mod health;
mod losses;
mod proof;
mod sockets;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::time::Duration;

use hashbrown::HashMap;
use rustix::time::{ClockId, clock_gettime};
use vigie_host::users::Names;
use vigie_kernel_events::{Account, Counters, Event, Exec, Exit, Options, Source, SourceKind, proc};
use vigie_sdk::Condition;

use self::losses::Losses;
pub(crate) use self::losses::Lost;
use self::proof::Proof;
use crate::alert;
use crate::alert_budget::AlertBudget;
use crate::config::{Pack, Setup};
use crate::digests::Digests;
use crate::history::lanes::{Lane, Lanes};
use crate::history::store::{Extent, file_key};
use crate::host::{self, HostWatch};
use crate::listeners::{self, Listeners};
use crate::logins::Wtmp;
use crate::parameters::{NOT_RECORDED, NOT_RUNNING};
use crate::record::{Key, Kind, Record, Run, Session, What};
use crate::rules::{Facts, Rules};
use crate::shares::Bounded;
use crate::table::Table;

/// The longest wait for records, and so for orders.
const PAUSE: Duration = Duration::from_millis(100);

/// Sessions of logins that are followed.
const MOST_SESSIONS: usize = 4096;

/// Pause after the history could not be written, and after it could not be opened, in microseconds.
const HISTORY_RETRY: i64 = 1_000_000;
const HISTORY_OPEN: i64 = 10_000_000;

/// Time between two notes in the history of what is not recorded, in microseconds.
const NOTE_EVERY: i64 = 600_000_000;

/// Complaints about the history's files that the status shows.
const MOST_DAMAGE: usize = 8;

/// Time between two times when memory is given back that the start, a query or a sealed block needed, in microseconds.
const GIVE_BACK_EVERY: i64 = 5_000_000;

/// Time until a source that could not be opened is tried again.
const RETRY: i64 = 60_000_000;

/// What the engine tells the agent.
pub(crate) trait Sink {
    fn alert(&self, text: &str);
    fn log(&self, text: &str);
    fn health(&self, conditions: Vec<Condition>);
}

/// What the engine is asked.
pub(crate) enum Order {
    Configure(Box<Setup>),
    Look(SyncSender<Look>),
    Stop,
}

/// The engine at one moment, for an answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Look {
    /// Lane and number of each open block, and its bytes.
    pub(crate) open: Vec<(Lane, u64, Vec<u8>)>,
    pub(crate) source: Option<SourceKind>,
    pub(crate) not_used: Vec<String>,
    pub(crate) tells_credentials: bool,
    /// Changes of the host that there is no source for.
    pub(crate) blind: Vec<&'static str>,
    pub(crate) proved: Option<i64>,
    pub(crate) counters: Counters,
    pub(crate) since: i64,
    pub(crate) extents: Vec<(Lane, Extent)>,
    pub(crate) budget: u64,
    pub(crate) processes: usize,
    pub(crate) kinds: Vec<Kind>,
    /// Kinds that are not recorded now, and since when the history has no note of that.
    pub(crate) unrecorded: Vec<Kind>,
    pub(crate) noted: i64,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) rules: Vec<RuleLook>,
    pub(crate) packs: Vec<Pack>,
}

/// A rule with what it did.
#[derive(Debug, Clone)]
pub(crate) struct RuleLook {
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) attack: Vec<String>,
    pub(crate) severity: &'static str,
    pub(crate) asked: u64,
    pub(crate) fired: u64,
    pub(crate) repeated: u64,
    pub(crate) nanoseconds: u64,
}

/// Microseconds since 1970.
pub(crate) fn now() -> i64 {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1000
}

/// Microseconds since the start of the host, for what is due: nobody sets this clock.
pub(crate) fn steady() -> i64 {
    let boot = clock_gettime(ClockId::Boottime);
    boot.tv_sec * 1_000_000 + boot.tv_nsec / 1000
}

/// Microseconds since 1970 at which the host's clock since its start was 0.
fn boot_offset() -> i64 {
    now() - steady()
}

pub(crate) struct Engine<S> {
    sink: S,
    setup: Setup,
    source: Option<Source>,
    not_used: Vec<String>,
    tried: i64,
    table: Table,
    rules: Rules,
    store: Option<Lanes>,
    /// Where the history is, when the agent keeps one.
    dir: Option<PathBuf>,
    /// What could not be kept because the history could not be opened, of the trusted and of others.
    not_kept: [u64; 2],
    /// What was wrong with the history's files.
    damage: Vec<String>,
    /// When the history was last told what is not recorded.
    noted: i64,
    digests: Digests,
    alerts: AlertBudget,
    /// Connections whose outcome is not known yet, by their sockets.
    pending: Bounded<u64, (i64, Record)>,
    connected: VecDeque<((IpAddr, u16), Key)>,
    listeners: Listeners,
    /// When they are looked at again.
    listeners_due: i64,
    sessions: HashMap<u32, Key>,
    wtmp: Wtmp,
    names: Names,
    names_read: i64,
    losses: Losses,
    proof: Proof,
    host_namespaces: [u32; 4],
    offset: i64,
    host: HostWatch,
    since: i64,
    told: Vec<Condition>,
    history_problem: Option<String>,
    /// When the history is written again after it could not be.
    history_retry: i64,
}

impl<S: Sink> Engine<S> {
    /// `canary` is a command that ends at once: whether its exec is told proves the source.
    pub(crate) fn new(sink: S, setup: Setup, dir: Option<PathBuf>, canary: fn() -> Command) -> Self {
        let host = proc::read(1, 0).map(|first| first.who.namespaces).unwrap_or_default();
        let mut engine = Self {
            rules: setup.rules(),
            wtmp: Wtmp::at_end(setup.wtmp.clone()),
            sink,
            setup,
            source: None,
            not_used: Vec::new(),
            tried: 0,
            table: Table::default(),
            store: None,
            dir,
            not_kept: [0; 2],
            damage: Vec::new(),
            noted: steady(),
            digests: Digests::start(),
            alerts: AlertBudget::default(),
            pending: Bounded::new(sockets::MOST_PENDING),
            connected: VecDeque::new(),
            listeners: Listeners::default(),
            listeners_due: 0,
            sessions: HashMap::new(),
            names: Names::default(),
            names_read: 0,
            losses: Losses::default(),
            proof: Proof::new(canary),
            host_namespaces: [host.mnt, host.pid, host.net, host.user],
            offset: boot_offset(),
            host: HostWatch::default(),
            since: now(),
            told: Vec::new(),
            history_problem: None,
            history_retry: 0,
        };
        engine.open_history();
        // The load of the programs takes most: not what was needed before it as well.
        give_back_memory();
        engine.open_source();
        // After that: our own programs are no news.
        engine.host = HostWatch::begin(std::path::Path::new("/proc/1/mountinfo"));
        engine
    }

    /// Works until it is told to stop, or nobody can tell it any more.
    pub(crate) fn run(mut self, orders: &Receiver<Order>) {
        let mut given_back = 0;
        loop {
            self.step(PAUSE);
            let now = steady();
            if now - given_back >= GIVE_BACK_EVERY {
                give_back_memory();
                given_back = now;
            }
            loop {
                let order = match &self.source {
                    Some(_) => orders.try_recv(),
                    None => orders.recv_timeout(PAUSE).map_err(|error| match error {
                        RecvTimeoutError::Timeout => TryRecvError::Empty,
                        RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
                    }),
                };
                match order {
                    Ok(Order::Configure(setup)) => self.configure(*setup),
                    Ok(Order::Look(answer)) => drop(answer.try_send(self.look())),
                    Ok(Order::Stop) | Err(TryRecvError::Disconnected) => return self.stop(),
                    Err(TryRecvError::Empty) => break,
                }
            }
        }
    }

    fn stop(mut self) {
        self.drain();
        for (account, (_, record)) in self.pending.take_while(|_| true) {
            self.tell(record, account);
        }
        self.count_losses(now(), true);
        for held_back in self.alerts.due(i64::MAX) {
            self.sink.alert(&alert::held_back(&held_back, now()));
        }
        self.note_unrecorded();
        self.history_retry = 0;
        self.flush();
    }

    /// Opens the history, and notes since when nothing was recorded.
    fn open_history(&mut self) {
        let Some(dir) = &self.dir else { return };
        match Lanes::open(dir, self.setup.budget) {
            Ok(store) => {
                let last = store.found_last();
                self.store = Some(store);
                self.history_problem = None;
                self.look_for_damage();
                if let Some(from) = last.map(|last| last.min(now())) {
                    let what = What::Lost { kind: NOT_RUNNING.to_vec(), count: 1, from };
                    self.keep(Record { time: now(), who: Key::default(), what }, Account::TRUSTED);
                }
            }
            Err(error) => {
                self.history_problem = Some(format!("{}: {error}", dir.display()));
                self.history_retry = steady() + HISTORY_OPEN;
            }
        }
    }

    fn look_for_damage(&mut self) {
        for complaint in self.store.iter_mut().flat_map(Lanes::take_complaints).collect::<Vec<_>>() {
            self.sink.log(&complaint);
            if self.damage.len() < MOST_DAMAGE {
                self.damage.push(complaint);
            }
        }
    }

    /// Kinds that are not recorded now: by the configuration, or because the source does not see them.
    pub(crate) fn unrecorded(&self) -> Vec<Kind> {
        let kind = self.source.as_ref().map(Source::kind);
        let tells_credentials = self.source.as_ref().is_some_and(Source::tells_credentials);
        let is_seen = |of: &Kind| match of {
            Kind::Connect | Kind::Accept | Kind::Listen => kind == Some(SourceKind::Bpf),
            Kind::Exec | Kind::Exit | Kind::Namespace => kind.is_some(),
            Kind::Setuid | Kind::Ptrace => tells_credentials,
            _ => true,
        };
        Kind::ALL.into_iter().filter(|of| !self.setup.wants(*of) || !is_seen(of)).collect()
    }

    /// Notes in the history what was not recorded since the last time, so that nobody takes it for what did not happen.
    fn note_unrecorded(&mut self) {
        let (now, steady) = (now(), steady());
        let from = now - (steady - self.noted);
        self.noted = steady;
        for kind in self.unrecorded() {
            let kind = [NOT_RECORDED, kind.name().as_bytes()].concat();
            let what = What::Lost { kind, count: 1, from };
            self.keep(Record { time: now, who: Key::default(), what }, Account::TRUSTED);
        }
    }

    /// Takes what the source has ready.
    fn drain(&mut self) {
        let Some(mut source) = self.source.take() else { return };
        if let Err(error) = source.drain(|event| self.take(event)) {
            self.sink.log(&format!("the source ended: {}", text_of_error(&error)));
        }
        self.source = Some(source);
    }

    fn configure(&mut self, setup: Setup) {
        self.note_unrecorded();
        let reopen = setup.bpf != self.setup.bpf || setup.kinds != self.setup.kinds;
        self.rules = setup.rules();
        if let Some(store) = &mut self.store {
            store.set_budget(setup.budget);
        }
        self.setup = setup;
        if reopen {
            // The old source tells until the new one does.
            let (old, counted) = (self.source.take(), self.losses.clone());
            self.open_source();
            let new = std::mem::replace(&mut self.source, old);
            self.losses = counted;
            self.drain();
            self.count_losses(now(), true);
            self.source = new;
            self.losses.begin();
        }
    }

    fn open_source(&mut self) {
        self.tried = steady();
        let options = Options { kinds: self.setup.source_kinds(), bpf: self.setup.bpf, ..Options::default() };
        match Source::open(&options) {
            Ok(source) => {
                self.not_used = source.not_used().iter().map(text_of_error).collect();
                self.sink.log(&format!("events come from {}", source.kind().name()));
                for why in &self.not_used {
                    self.sink.log(&format!("not used: {why}"));
                }
                self.source = Some(source);
                self.losses.begin();
                // The source runs already: what begins now is told twice rather than not at all.
                for exec in proc::all(boot_now()) {
                    self.remember(&exec);
                }
                self.listeners = listeners::found(&self.table);
                self.proof.begin(steady());
            }
            Err(errors) => self.not_used = errors.iter().map(text_of_error).collect(),
        }
    }

    /// A process from before the source.
    fn remember(&mut self, exec: &Exec) {
        let key = Key::new(exec.who.pid, exec.who.start);
        if self.table.get(key).is_some() {
            return;
        }
        let run = Run::of(exec.clone());
        if let Some(session) = run.rights.login_session
            && !self.sessions.contains_key(&session)
        {
            self.begin_session(session, key);
        }
        self.table.exec(key, exec.account, now(), &run);
    }

    fn begin_session(&mut self, session: u32, first: Key) {
        // The end of some was not told: the oldest make room.
        if self.sessions.len() >= MOST_SESSIONS
            && let Some(oldest) =
                self.sessions.iter().min_by_key(|(_, key)| key.start).map(|(session, _)| *session)
        {
            self.sessions.remove(&oldest);
        }
        self.sessions.insert(session, first);
    }

    /// Reads what there is, for at most this long, and does what is due.
    pub(crate) fn step(&mut self, pause: Duration) {
        let before = self.offset;
        // Each event is taken as it is read, so that what waits is in the ring alone.
        if let Some(mut source) = self.source.take() {
            let mut is_first = true;
            let took = source.wait(pause, |event| {
                if std::mem::take(&mut is_first) {
                    self.offset = boot_offset();
                }
                self.take(event);
            });
            match took {
                Ok(()) => self.source = Some(source),
                Err(error) => {
                    self.note_unrecorded();
                    self.sink.log(&format!("the source ended: {}", text_of_error(&error)));
                }
            }
        }
        self.offset = boot_offset();
        let (now, steady) = (now(), steady());
        self.look_at_host(before, now);
        if self.source.is_none() && steady - self.tried >= RETRY {
            self.note_unrecorded();
            self.open_source();
        }
        if steady - self.noted >= NOTE_EVERY {
            self.note_unrecorded();
        }
        self.expire(steady);
        self.look_at_listeners(steady);
        for (key, account, digest) in self.digests.done() {
            if let Some(store) = &mut self.store {
                store.set_digest(key, account, digest);
            }
        }
        if self.setup.wants(Kind::Login) {
            for (time, is_login, session, pid) in self.wtmp.new_entries(now) {
                let who = self.table.of_pid(pid).map_or(Key { pid, start: 0 }, |process| process.key);
                let session = Box::new(session);
                let what = if is_login { What::Login(session) } else { What::Logout(session) };
                self.tell(Record { time, who, what }, Account::TRUSTED);
            }
        }
        self.count_losses(now, false);
        self.proof.tend(steady);
        for held_back in self.alerts.due(now) {
            self.sink.alert(&alert::held_back(&held_back, now));
        }
        self.flush();
        self.tell_health(now, steady);
    }

    /// Tells what changed on the host without an event of its own.
    fn look_at_host(&mut self, offset_before: i64, now: i64) {
        let mut changes = self.host.look(now);
        if let Some(step) = host::clock_step(offset_before, self.offset) {
            // Whoever is kept from running between two looks at the clocks sees a step that is none.
            self.offset = boot_offset();
            if host::clock_step(offset_before, self.offset).is_some() {
                let milliseconds = step / 1000;
                changes.push((Kind::Time, format!("the clock was set by {milliseconds:+} ms")));
            }
        }
        for (kind, text) in changes {
            let what = What::Host(kind, text.into());
            self.tell(Record { time: now, who: Key::default(), what }, Account::TRUSTED);
        }
    }

    fn unix(&self, boot_ns: u64) -> i64 {
        i64::try_from(boot_ns / 1000).unwrap_or(0) + self.offset
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Exec(exec) => self.take_exec(*exec),
            Event::Exit(exit) => self.take_exit(exit),
            Event::Net(net) => self.take_net(*net),
            Event::Credentials { pid, uid, euid, time } => {
                let who = self.key_of(pid);
                let record = Record { time: self.unix(time), who, what: What::Setuid { uid, euid } };
                self.tell(record, self.account_of(who));
            }
            Event::Ptrace { pid, tracer, time } if tracer != 0 => {
                let (who, tracer) = (self.key_of(pid), self.key_of(tracer));
                let record = Record { time: self.unix(time), who, what: What::Ptrace { tracer } };
                self.tell(record, self.account_of(tracer));
            }
            Event::Ptrace { .. } => {}
        }
    }

    /// Whose a process is of which only the number was told.
    fn account_of(&self, key: Key) -> Account {
        self.table.get(key).map_or(Account::UNKNOWN, |process| process.account)
    }

    /// A process of which only the number is told.
    fn key_of(&self, pid: u32) -> Key {
        let known = self.table.of_pid(pid).map(|process| process.key);
        known.unwrap_or_else(|| Key::new(pid, proc::start_of(pid).unwrap_or(0)))
    }

    fn take_exec(&mut self, exec: Exec) {
        let time = self.unix(exec.time);
        let who = Key::new(exec.who.pid, exec.who.start);
        self.proof.saw(exec.who.pid, time);
        let (account, file) = (exec.account, exec.file.clone());
        let run = Run::of(exec);
        let maker = self.table.get(run.maker).map(|maker| maker.rights.namespaces);
        let changed = maker.map(|maker| changed_namespaces(maker, run.rights.namespaces)).unwrap_or_default();
        self.table.exec(who, account, time, &run);
        if let Some(store) = &self.store {
            let key = file_key(&file);
            if !store.knows_digest(&key) {
                self.digests.want(key, account, who.pid, &run.program.path);
            }
        }
        let (session, login) = (run.rights.login_session, run.rights.login_uid);
        self.tell(Record { time, who, what: What::Exec(Box::new(run)) }, account);
        if !changed.is_empty() {
            self.tell(Record { time, who, what: What::Namespace(changed.into()) }, account);
        }
        if let (Some(session), Some(login)) = (session, login)
            && !self.sessions.contains_key(&session)
        {
            self.begin_session(session, who);
            self.read_names(time);
            let user = self.names.user(login).map_or_else(|| login.to_string(), str::to_owned);
            let session = Session { user: user.into(), source: b"kernel".to_vec(), ..Session::default() };
            self.tell(Record { time, who, what: What::Login(Box::new(session)) }, Account::TRUSTED);
        }
    }

    fn take_exit(&mut self, exit: Exit) {
        let (time, who) = (self.unix(exit.time), Key::new(exit.pid, exit.start));
        let rights = self.table.exit(who, time).map(|process| process.rights.clone());
        let pages = exit.resident_pages.saturating_mul(rustix::param::page_size() as u64);
        let what = What::Exit {
            status: exit.status.0,
            processor_ms: (exit.user_ns + exit.system_ns).div_ceil(1_000_000),
            resident_quarters: pages.div_ceil(256 * 1024),
            euid: exit.euid,
        };
        self.tell(Record { time, who, what }, exit.account);
        let Some(session) = rights.as_ref().and_then(|rights| rights.login_session) else { return };
        if self.sessions.get(&session) == Some(&who) {
            self.sessions.remove(&session);
            self.read_names(time);
            let login = rights.and_then(|rights| rights.login_uid).unwrap_or(u32::MAX);
            let user = self.names.user(login).map_or_else(|| login.to_string(), str::to_owned);
            let session = Session { user: user.into(), source: b"kernel".to_vec(), ..Session::default() };
            self.tell(Record { time, who, what: What::Logout(Box::new(session)) }, Account::TRUSTED);
        }
    }

    fn read_names(&mut self, now: i64) {
        const KEPT: i64 = 60_000_000;
        if self.names_read == 0 || !(0..KEPT).contains(&(now - self.names_read)) {
            self.names = Names::of(std::path::Path::new("/"));
            self.names_read = now;
        }
    }

    /// Asks the rules and keeps the record.
    fn tell(&mut self, record: Record, account: Account) {
        if !self.setup.wants(record.what.kind()) {
            return;
        }
        self.ask_rules(&record, account);
        self.keep(record, account);
    }

    fn ask_rules(&mut self, record: &Record, account: Account) {
        self.read_names(record.time);
        let facts = Facts::new(record, account, &self.table, self.host_namespaces);
        for fired in self.rules.ask(&facts, steady()) {
            let (id, severity) = (&fired.rule.id, fired.rule.severity.name());
            // The clock and not the record's time: what is told late, such as a connection that nobody answered, would
            // begin a minute that is over already.
            let now = now();
            let (tells, held_back) = self.alerts.spend(account, id, severity, now);
            if let Some(held_back) = held_back {
                self.sink.alert(&alert::held_back(&held_back, now));
            }
            if tells {
                self.sink.alert(&alert::text(&fired, &facts, record, &self.names));
            }
        }
    }

    fn keep(&mut self, mut record: Record, account: Account) {
        if let What::Exec(run) = &mut record.what {
            run.add_script();
        }
        match &mut self.store {
            Some(store) => store.add(&record, account),
            None if self.dir.is_some() && !matches!(record.what, What::Lost { .. }) => {
                self.not_kept[usize::from(!account.is_trusted())] += 1
            }
            None => {}
        }
    }

    fn flush(&mut self) {
        if steady() < self.history_retry {
            return;
        }
        if self.store.is_none() {
            self.open_history();
        }
        let Some(store) = &mut self.store else { return };
        match store.flush(now()) {
            Ok(all) => {
                self.history_problem = None;
                for (lane, dropped) in all {
                    self.sink.log(&format!(
                        "the history's budget is used up: {} blocks of {} from {} to {} are deleted",
                        dropped.blocks,
                        lane.name(),
                        alert::time_text(dropped.from),
                        alert::time_text(dropped.to)
                    ));
                }
            }
            Err(error) => {
                self.history_problem = Some(error.to_string());
                self.history_retry = steady() + HISTORY_RETRY;
            }
        }
        self.look_for_damage();
    }
}

fn give_back_memory() {
    vigie_memory::give_back_heap();
    vigie_memory::give_back_code();
}

/// Which namespaces are others, by their names.
fn changed_namespaces(before: [u32; 4], now: [u32; 4]) -> String {
    let names = ["mnt", "pid", "net", "user"];
    let changed =
        names.into_iter().zip(before.into_iter().zip(now)).filter(|(_, (before, now))| before != now);
    changed.map(|(name, _)| name).collect::<Vec<_>>().join(" ")
}

fn boot_now() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap_or(0)
}

/// An error with its causes.
fn text_of_error(error: &vigie_kernel_events::SourceError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
