//! The one thread that owns everything: it reads the source, remembers processes, asks the rules and writes the history.

mod losses;
mod proof;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::time::Duration;

use hashbrown::HashMap;
use rustix::time::{ClockId, clock_gettime};
use vigie_host::users::Names;
use vigie_kernel_events::{Counters, Event, Exec, Exit, Net, NetState, Options, Source, SourceKind, proc};
use vigie_sdk::{Condition, ConditionSeverity};

use self::losses::Losses;
pub(crate) use self::losses::Lost;
use self::proof::Proof;
use crate::alert;
use crate::config::Setup;
use crate::digests::Digests;
use crate::history::store::{Extent, Store, file_key};
use crate::host::{self, HostWatch};
use crate::listeners::{self, Listeners};
use crate::logins::Wtmp;
use crate::record::{Key, Kind, Outcome, Program, Record, Rights, Run, Session, Socket, SocketKind, What};
use crate::rules::{Facts, Rules};
use crate::table::Table;

/// The longest wait for records, and so for orders.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections whose outcome is not known yet.
const MOST_PENDING: usize = 4096;
/// TCP gives up after 127 s.
const LONGEST_CONNECT: i64 = 130_000_000;

/// Connections whose other end may be accepted on this host.
const MOST_CONNECTED: usize = 1024;

/// Sessions of logins that are followed.
const MOST_SESSIONS: usize = 4096;

/// Pause after the history could not be written, in microseconds.
const HISTORY_RETRY: i64 = 1_000_000;

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
    /// Number of the open block, and its bytes.
    pub(crate) open: Option<(u64, Vec<u8>)>,
    pub(crate) source: Option<SourceKind>,
    pub(crate) not_used: Vec<String>,
    pub(crate) tells_credentials: bool,
    /// Changes of the host that there is no source for.
    pub(crate) blind: Vec<&'static str>,
    pub(crate) proved: Option<i64>,
    pub(crate) counters: Counters,
    pub(crate) since: i64,
    pub(crate) extent: Extent,
    pub(crate) budget: u64,
    pub(crate) processes: usize,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) rules: Vec<RuleLook>,
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

/// Microseconds since 1970 at which the host's clock since its start was 0.
fn boot_offset() -> i64 {
    let boot = clock_gettime(ClockId::Boottime);
    now() - (boot.tv_sec * 1_000_000 + boot.tv_nsec / 1000)
}

pub(crate) struct Engine<S> {
    sink: S,
    setup: Setup,
    source: Option<Source>,
    not_used: Vec<String>,
    tried: i64,
    table: Table,
    rules: Rules,
    store: Option<Store>,
    digests: Digests,
    pending: HashMap<u64, (i64, Record)>,
    /// Its entries in the order of their times, and some that are gone.
    pending_order: VecDeque<(u64, i64)>,
    connected: VecDeque<((IpAddr, u16), Key)>,
    listeners: Listeners,
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
        let mut history_problem = None;
        let store = dir.and_then(|dir| match Store::open(&dir, setup.budget) {
            Ok(store) => Some(store),
            Err(error) => {
                history_problem = Some(format!("{}: {error}", dir.display()));
                None
            }
        });
        for complaint in store.iter().flat_map(|store| &store.complaints) {
            sink.log(complaint);
        }
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
            store,
            digests: Digests::start(),
            pending: HashMap::new(),
            pending_order: VecDeque::new(),
            connected: VecDeque::new(),
            listeners: Listeners::default(),
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
            history_problem,
            history_retry: 0,
        };
        engine.open_source();
        // After that: our own programs are no news.
        engine.host = HostWatch::begin(std::path::Path::new("/proc/1/mountinfo"));
        engine
    }

    /// Works until it is told to stop, or nobody can tell it any more.
    pub(crate) fn run(mut self, orders: &Receiver<Order>) {
        loop {
            self.step(PAUSE);
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
        for (_, (_, record)) in std::mem::take(&mut self.pending) {
            self.tell(record);
        }
        self.count_losses(now(), true);
        self.history_retry = 0;
        self.flush();
    }

    /// Takes what the source has ready.
    fn drain(&mut self) {
        let mut events = Vec::new();
        if let Some(source) = &mut self.source
            && let Err(error) = source.drain(|event| events.push(event))
        {
            self.sink.log(&format!("the source ended: {}", text_of_error(&error)));
        }
        for event in events {
            self.take(event);
        }
    }

    fn configure(&mut self, setup: Setup) {
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
        self.tried = now();
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
                self.proof.begin(now());
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
        self.table.exec(key, now(), &run, exec.standard);
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
        let mut events = Vec::new();
        if let Some(source) = &mut self.source
            && let Err(error) = source.wait(pause, |event| events.push(event))
        {
            self.sink.log(&format!("the source ended: {error}"));
            self.source = None;
        }
        let before = std::mem::replace(&mut self.offset, boot_offset());
        for event in events {
            self.take(event);
        }
        let now = now();
        self.look_at_host(before, now);
        if self.source.is_none() && now - self.tried >= RETRY {
            self.open_source();
        }
        self.expire(now);
        for (key, digest) in self.digests.done() {
            if let Some(store) = &mut self.store {
                store.set_digest(key, digest);
            }
        }
        if self.setup.wants(Kind::Login) {
            for (time, is_login, session, pid) in self.wtmp.new_entries(now) {
                let who = self.table.of_pid(pid).map_or(Key { pid, start: 0 }, |process| process.key);
                let session = Box::new(session);
                let what = if is_login { What::Login(session) } else { What::Logout(session) };
                self.tell(Record { time, who, what });
            }
        }
        self.count_losses(now, false);
        self.proof.tend(now);
        self.flush();
        self.tell_health(now);
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
            self.tell(Record { time: now, who: Key::default(), what: What::Host(kind, text.into()) });
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
                self.tell(Record { time: self.unix(time), who, what: What::Setuid { uid, euid } });
            }
            Event::Ptrace { pid, tracer, time } if tracer != 0 => {
                let (who, tracer) = (self.key_of(pid), self.key_of(tracer));
                self.tell(Record { time: self.unix(time), who, what: What::Ptrace { tracer } });
            }
            Event::Ptrace { .. } => {}
        }
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
        let (standard, file) = (exec.standard, exec.file.clone());
        let run = Run::of(exec);
        let maker = self.table.get(run.maker).map(|maker| maker.rights.namespaces);
        let changed = maker.map(|maker| changed_namespaces(maker, run.rights.namespaces)).unwrap_or_default();
        self.table.exec(who, time, &run, standard);
        if let Some(store) = &self.store {
            let key = file_key(&file);
            if !store.knows_digest(&key) {
                self.digests.want(key, who.pid, &run.program.path);
            }
        }
        let (session, login) = (run.rights.login_session, run.rights.login_uid);
        self.tell(Record { time, who, what: What::Exec(Box::new(run)) });
        if !changed.is_empty() {
            self.tell(Record { time, who, what: What::Namespace(changed.into()) });
        }
        if let (Some(session), Some(login)) = (session, login)
            && !self.sessions.contains_key(&session)
        {
            self.begin_session(session, who);
            self.read_names(time);
            let user = self.names.user(login).map_or_else(|| login.to_string(), str::to_owned);
            let session = Session { user: user.into(), source: b"kernel".to_vec(), ..Session::default() };
            self.tell(Record { time, who, what: What::Login(Box::new(session)) });
        }
    }

    fn take_exit(&mut self, exit: Exit) {
        let (time, who) = (self.unix(exit.time), Key::new(exit.pid, exit.start));
        let rights = self.table.exit(who, time).map(|process| process.rights.clone());
        let pages = exit.resident_pages.saturating_mul(rustix::param::page_size() as u64);
        self.tell(Record {
            time,
            who,
            what: What::Exit {
                status: exit.status.0,
                processor_ms: (exit.user_ns + exit.system_ns).div_ceil(1_000_000),
                resident_quarters: pages.div_ceil(256 * 1024),
                euid: exit.euid,
            },
        });
        let Some(session) = rights.as_ref().and_then(|rights| rights.login_session) else { return };
        if self.sessions.get(&session) == Some(&who) {
            self.sessions.remove(&session);
            self.read_names(time);
            let login = rights.and_then(|rights| rights.login_uid).unwrap_or(u32::MAX);
            let user = self.names.user(login).map_or_else(|| login.to_string(), str::to_owned);
            let session = Session { user: user.into(), source: b"kernel".to_vec(), ..Session::default() };
            self.tell(Record { time, who, what: What::Logout(Box::new(session)) });
        }
    }

    fn read_names(&mut self, now: i64) {
        const KEPT: i64 = 60_000_000;
        if self.names_read == 0 || now - self.names_read > KEPT {
            self.names = Names::of(std::path::Path::new("/"));
            self.names_read = now;
        }
    }

    fn take_net(&mut self, net: Net) {
        let time = self.unix(net.time);
        match (net.state, &net.who) {
            (NetState::Connecting, Some(who)) => {
                let record = self.socket(SocketKind::Connect, &net, Some(who), time);
                while self.pending.len() >= MOST_PENDING && self.tell_oldest_pending() {}
                self.pending_order.push_back((net.socket, time));
                // The socket's connect before has no end that was told.
                if let Some((_, before)) = self.pending.insert(net.socket, (time, record)) {
                    self.tell(before);
                }
                if self.pending_order.len() > 2 * MOST_PENDING {
                    let pending = &self.pending;
                    self.pending_order.retain(|entry| is_pending(pending, entry));
                }
            }
            (NetState::Connected | NetState::Failed, _) => {
                let Some((_, mut record)) = self.pending.remove(&net.socket) else { return };
                if let What::Socket(socket) = &mut record.what {
                    let open = net.state == NetState::Connected;
                    socket.outcome = if open { Outcome::Open } else { Outcome::Refused };
                    if open {
                        socket.local = net.local;
                        socket.local_port = net.local_port;
                        self.connected.push_back(((net.local, net.local_port), record.who));
                    }
                }
                if self.connected.len() > MOST_CONNECTED {
                    self.connected.pop_front();
                }
                self.tell(record);
            }
            (NetState::Listening, Some(who)) => {
                let record = self.socket(SocketKind::Listen, &net, Some(who), time);
                self.listeners.put(net.net_namespace, net.local, net.local_port, record.who);
                self.listeners.opened(net.socket, net.net_namespace, net.local, net.local_port);
                self.tell(record);
            }
            (NetState::Unlistening, _) => {
                self.listeners.closed(net.socket);
            }
            (NetState::Accepted, _) => {
                let mut record = self.socket(SocketKind::Accept, &net, None, time);
                record.who =
                    self.listeners.owner(net.net_namespace, net.local, net.local_port).unwrap_or_default();
                let end = (net.remote, net.remote_port);
                let peer = self.connected.iter().rev().find(|(local, _)| *local == end);
                if let What::Socket(socket) = &mut record.what {
                    socket.peer = peer.map(|(_, key)| *key).unwrap_or_default();
                    if let Some(process) = self.table.get(record.who) {
                        socket.program = Program::clone(&process.program);
                        socket.rights = Rights::clone(&process.rights);
                    }
                }
                self.tell(record);
            }
            (NetState::Connecting | NetState::Listening, None) => {}
        }
    }

    fn socket(
        &self,
        kind: SocketKind,
        net: &Net,
        who: Option<&vigie_kernel_events::Identity>,
        time: i64,
    ) -> Record {
        let key = who.map(|who| Key::new(who.pid, who.start)).unwrap_or_default();
        // A child that runs no program of its own has its maker's.
        let process = self
            .table
            .get(key)
            .or_else(|| who.and_then(|who| self.table.get(Key::new(who.maker, who.maker_start))));
        let program = process.map(|process| Program::clone(&process.program)).unwrap_or_default();
        Record {
            time,
            who: key,
            what: What::Socket(Box::new(Socket {
                kind,
                outcome: if kind == SocketKind::Connect { Outcome::Unanswered } else { Outcome::Open },
                local: net.local,
                local_port: net.local_port,
                remote: net.remote,
                remote_port: net.remote_port,
                program,
                rights: who.map(Rights::of).unwrap_or_default(),
                peer: Key::default(),
            })),
        }
    }

    fn expire(&mut self, now: i64) {
        while self.pending_order.front().is_some_and(|(_, time)| now - *time >= LONGEST_CONNECT) {
            self.tell_oldest_pending();
        }
    }

    /// Tells the connect that has waited longest for its answer; false when none waits.
    fn tell_oldest_pending(&mut self) -> bool {
        while let Some(entry) = self.pending_order.pop_front() {
            if is_pending(&self.pending, &entry)
                && let Some((_, record)) = self.pending.remove(&entry.0)
            {
                self.tell(record);
                return true;
            }
        }
        false
    }

    /// Asks the rules and keeps the record.
    fn tell(&mut self, record: Record) {
        if !self.setup.wants(record.what.kind()) {
            return;
        }
        self.read_names(record.time);
        let facts = Facts::new(&record, &self.table, self.host_namespaces);
        for fired in self.rules.ask(&facts) {
            self.sink.alert(&alert::text(&fired, &facts, &record, &self.names));
        }
        self.keep(record);
    }

    fn keep(&mut self, record: Record) {
        if let Some(store) = &mut self.store {
            store.add(&record);
        }
    }

    fn flush(&mut self) {
        let Some(store) = &mut self.store else { return };
        let now = now();
        if now < self.history_retry {
            return;
        }
        match store.flush(now) {
            Ok(None) => self.history_problem = None,
            Ok(Some(dropped)) => {
                self.history_problem = None;
                let text = |time: i64| alert::time_text(time);
                self.sink.log(&format!(
                    "the history's budget is used up: {} blocks from {} to {} are deleted",
                    dropped.blocks,
                    text(dropped.from),
                    text(dropped.to)
                ));
            }
            Err(error) => {
                self.history_problem = Some(error.to_string());
                self.history_retry = now + HISTORY_RETRY;
            }
        }
    }

    /// Tells what was lost, once a second, or `at_once`.
    fn count_losses(&mut self, now: i64, at_once: bool) {
        if !at_once && !self.losses.is_due(now) {
            return;
        }
        let counters = self.source.as_ref().and_then(|source| source.counters().ok());
        let refused = self.store.as_mut().map_or(0, Store::take_refused);
        for lost in self.losses.update(counters.as_ref(), refused, now) {
            self.sink.log(&format!(
                "{} events of kind {} were lost between {} and {}",
                lost.count,
                lost.kind,
                alert::time_text(lost.from),
                alert::time_text(now)
            ));
            self.sink.alert(&alert::lost(&lost, now));
            let what = What::Lost { kind: lost.kind.into(), count: lost.count, from: lost.from };
            self.keep(Record { time: now, who: Key::default(), what });
        }
    }

    fn tell_health(&mut self, now: i64) {
        let mut conditions = Vec::new();
        let mut set = |name: &str, severity: ConditionSeverity, detail: Option<String>| {
            let Some(detail) = detail else { return };
            let known = self.told.iter().find(|condition| condition.name == name);
            let since = known.map_or_else(|| alert::time_text(now), |known| known.since.clone());
            conditions.push(Condition { name: name.to_owned(), severity, since, detail });
        };
        let nothing = self.source.is_none().then(|| self.not_used.join("; "));
        set("no-source", ConditionSeverity::Failed, nothing);
        let lesser = self.source.as_ref().filter(|source| source.kind() != SourceKind::Bpf);
        let lesser = lesser.filter(|_| self.setup.bpf).map(|source| {
            let blind = source.kind().blind_spots().join(", ");
            format!("{} is used and does not see: {blind}", source.kind().name())
        });
        set("lesser-source", ConditionSeverity::Warning, lesser);
        let silent = self.source.as_ref().filter(|_| self.proof.is_overdue(now));
        let silent = silent.map(|_| "a program that was run to prove the source was not told".to_owned());
        set("source-silent", ConditionSeverity::Failed, silent);
        set("events-lost", ConditionSeverity::Warning, self.losses.recent(now));
        set("history-not-written", ConditionSeverity::Failed, self.history_problem.clone());
        let same = |a: &Condition, b: &Condition| a.name == b.name && a.detail == b.detail;
        if conditions.len() != self.told.len() || conditions.iter().zip(&self.told).any(|(a, b)| !same(a, b))
        {
            self.told = conditions.clone();
            self.sink.health(conditions);
        }
    }

    pub(crate) fn look(&self) -> Look {
        Look {
            open: self.store.as_ref().map(Store::snapshot),
            source: self.source.as_ref().map(Source::kind),
            not_used: self.not_used.clone(),
            blind: self.host.blind_spots(),
            tells_credentials: self.source.as_ref().is_some_and(Source::tells_credentials),
            proved: self.proof.proved(),
            counters: self.source.as_ref().and_then(|source| source.counters().ok()).unwrap_or_default(),
            since: self.since,
            extent: self.store.as_ref().map(Store::extent).unwrap_or_default(),
            budget: self.setup.budget,
            processes: self.table.len(),
            kinds: self.setup.kinds.clone(),
            conditions: self.told.clone(),
            rules: self
                .rules
                .tallies()
                .map(|(rule, tally)| RuleLook {
                    id: rule.id.clone(),
                    title: rule.title.clone(),
                    attack: rule.attack.clone(),
                    severity: rule.severity.name(),
                    asked: tally.asked,
                    fired: tally.fired,
                    repeated: tally.repeated,
                    nanoseconds: tally.nanoseconds,
                })
                .collect(),
        }
    }
}

/// Which namespaces are others, by their names.
fn changed_namespaces(before: [u32; 4], now: [u32; 4]) -> String {
    let names = ["mnt", "pid", "net", "user"];
    let changed =
        names.into_iter().zip(before.into_iter().zip(now)).filter(|(_, (before, now))| before != now);
    changed.map(|(name, _)| name).collect::<Vec<_>>().join(" ")
}

fn is_pending(pending: &HashMap<u64, (i64, Record)>, (socket, time): &(u64, i64)) -> bool {
    pending.get(socket).is_some_and(|(began, _)| began == time)
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
