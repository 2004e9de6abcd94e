//! The search itself: asks the kernel for what is needed, in every namespace that is asked for, and keeps what
//! matches.
//!
//! ```text
//!  this thread ──── searches its own namespace, which it never leaves
//!      │ finds the others
//!      ▼ queue
//!  namespace threads ── enter one after the other, search it, end with the query
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};

use self::links::{search_interfaces, search_neighbours};
use self::seen::Seen;
use crate::crossview::{self, View};
use crate::namespaces::{Elsewhere, Namespace, find_others, own_name};
use crate::netlink::NetlinkError;
use crate::other::{self, Other, Read};
use crate::parameters::{Kind, Parameters};
use crate::proc_net::ProcNet;
use crate::processes;
use crate::rtnetlink::{self, Neighbour, Own};
use crate::sock_diag::{self, SockDiag};
use crate::socket::{Protocol, Socket, SocketSource, SourceError, States, Wanted};

mod links;
mod seen;

/// What the namespace is called when only the agent's own is searched.
const DEFAULT_NAMESPACE: &str = "default";

/// What a packet socket has that is bound to no interface.
pub(crate) const ALL_INTERFACES: &str = "any";

/// Most matches that are kept; more are only counted. An answer has no room for as many.
const MAX_HITS: usize = 200_000;

/// Most threads that search namespaces at once.
const MAX_THREADS: usize = 8;

/// Most namespaces that wait, opened, for a thread.
const MAX_WAITING: usize = 16;

/// After so many sockets the search looks whether it is to stop.
const STOP_INTERVAL: u64 = 1024;

/// How often a table is read again that the kernel says was disturbed.
const MAX_ATTEMPTS: u32 = 4;

/// Most namespaces that are named in one problem.
const MAX_NAMED: usize = 5;

/// Where sockets and neighbours are read.
#[derive(Debug, Clone)]
pub enum Backend {
    /// The kernel's netlink interfaces; the text tables where these do not answer.
    Kernel,
    /// Only the text tables.
    TextTables(ProcNet),
}

/// What matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// The hardware address of an interface of this host.
    Hardware(Own<String>),
    /// An address of this host.
    Address(Own<IpAddr>),
    /// Another host.
    Neighbour(Neighbour),
    /// A socket.
    Socket(Socket),
    /// A socket that is neither TCP nor UDP.
    Other(Other),
    /// A socket that is missing in a view.
    Missing(View, Socket),
}

impl Match {
    /// The number of a socket's file.
    fn inode(&self) -> Option<u64> {
        match self {
            Self::Socket(socket) | Self::Missing(_, socket) => Some(socket.inode),
            Self::Other(other) => Some(other.inode),
            Self::Hardware(_) | Self::Address(_) | Self::Neighbour(_) => None,
        }
    }
}

/// One match of one asked value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// What was searched for.
    pub kind: Kind,
    /// The place of the value among those asked for of this kind.
    pub place: usize,
    /// What matched it.
    pub matched: Match,
}

/// What one namespace held.
#[derive(Debug, Default)]
pub struct Findings {
    /// The namespace's name.
    pub namespace: String,
    /// The matches that were kept.
    pub hits: Vec<Hit>,
    /// How many matches there were.
    pub total_hits: u64,
    /// How many interfaces, addresses, neighbours and sockets were looked at.
    pub examined: u64,
    /// Whether a text table was read because the kernel's interface did not answer.
    pub fell_back: bool,
    /// What could not be inspected.
    pub problems: Vec<String>,
    /// Whether the search was stopped before it came to its end.
    pub stopped: bool,
    /// The names of interfaces, where a match has one.
    pub interfaces: BTreeMap<u32, String>,
}

/// What all searched namespaces held.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The agent's own namespace first, then by name.
    pub namespaces: Vec<Findings>,
    /// What could not be inspected, beside what the findings say.
    pub problems: Vec<String>,
    /// The other network namespaces, when only the own one was asked for.
    pub elsewhere: Elsewhere,
}

impl Outcome {
    /// Keeps the sockets of which `wanted` says so, by the number of their file, and what is no socket.
    pub fn keep(&mut self, wanted: impl Fn(u64) -> bool) {
        for findings in &mut self.namespaces {
            // What was only counted cannot be looked at.
            let uncounted = findings.total_hits.saturating_sub(findings.hits.len() as u64);
            if uncounted > 0 {
                findings.problems.push(format!(
                    "the owners of {uncounted} matches were not determined because there are too many"
                ));
            }
            findings.hits.retain(|hit| hit.matched.inode().is_none_or(&wanted));
            findings.total_hits = findings.hits.len() as u64;
        }
    }
}

/// Adds the sockets that no process has open, in the agent's own namespace, which this thread is in. The processes are
/// read anew for each look: a socket that was opened after they were read is no evidence.
pub(crate) fn compare_with_owners(so_far: &SoFar, stop: &(dyn Fn() -> bool + Sync)) {
    let look = || -> Result<Vec<(View, Socket)>, String> {
        let sockets = crossview::sockets().map_err(|error| chain(&error))?;
        let owners = processes::owners(stop).map_err(|error| error.to_string())?;
        if owners.hidden > 0 || owners.stopped {
            return Err("not all processes could be read".to_owned());
        }
        Ok(crossview::unowned(sockets, &owners))
    };
    so_far.locked().comparing = true;
    let compared = look().and_then(|first| Ok(crossview::standing(&first, look()?)));
    let mut progress = so_far.locked();
    progress.comparing = false;
    let Some(findings) = &mut progress.here else { return };
    match compared {
        Ok(missing) => {
            for (view, socket) in missing {
                findings.add_missing(view, socket);
            }
        }
        Err(problem) => {
            findings.problems.push(format!("sockets were not compared with descriptors: {problem}"))
        }
    }
}

/// What was found so far, for whoever answers when the kernel holds the search.
#[derive(Debug, Default)]
pub struct SoFar(Mutex<Progress>);

/// What the search has done so far.
#[derive(Debug, Default)]
struct Progress {
    /// The name of the agent's own namespace.
    own: String,
    /// What that held, once it was searched.
    here: Option<Findings>,
    findings: Vec<Findings>,
    /// Those that are being searched, or that wait for it.
    searching: BTreeSet<String>,
    /// Not all of the others were found.
    is_looking: bool,
    /// The process whose namespaces are being looked for.
    looking_at: Option<String>,
    comparing: bool,
    not_entered: Vec<(String, std::io::Error)>,
    not_searched: usize,
    problems: Vec<String>,
    /// See [`Outcome::elsewhere`].
    elsewhere: Elsewhere,
    /// How many matches the findings keep.
    kept: usize,
}

impl Progress {
    /// Adds what a namespace held, with as many of its matches as there is room for.
    fn add(&mut self, mut findings: Findings) {
        findings.hits.truncate(MAX_HITS - self.kept);
        findings.hits.shrink_to_fit();
        self.kept += findings.hits.len();
        self.findings.push(findings);
    }
}

impl SoFar {
    fn locked(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what could not be inspected.
    pub(crate) fn add_problem(&self, problem: String) {
        self.locked().problems.push(problem);
    }

    /// Notes which other network namespaces there are.
    pub(crate) fn note_elsewhere(&self, elsewhere: Elsewhere) {
        self.locked().elsewhere = elsewhere;
    }

    /// Takes what was found.
    pub fn take(&self) -> Outcome {
        let progress = std::mem::take(&mut *self.locked());
        let mut problems = progress.problems;
        problems.extend(not_entered_problem(progress.not_entered));
        if progress.not_searched > 0 {
            problems
                .push(format!("stopped before {} network namespaces were searched", progress.not_searched));
        }
        if let Some(process) = progress.looking_at {
            problems.push(format!(
                "process {process} does not respond: its network namespaces, and those that would be found after it, were not searched"
            ));
        } else if progress.is_looking {
            problems.push("stopped before all network namespaces were found".to_owned());
        }
        let unfinished = |namespace| Findings { namespace, stopped: true, ..Findings::default() };
        let mut here = progress.here.unwrap_or_else(|| unfinished(progress.own));
        if progress.comparing {
            here.problems
                .push("sockets were not compared with descriptors: a process does not respond".to_owned());
        }
        let mut namespaces = progress.findings;
        namespaces.extend(progress.searching.into_iter().map(unfinished));
        namespaces.sort_unstable_by(|a, b| a.namespace.cmp(&b.namespace));
        namespaces.insert(0, here);
        Outcome { namespaces, problems, elsewhere: progress.elsewhere }
    }
}

/// Carries out the searches of a query, until `stop` says that nobody waits any more.
pub fn search(parameters: &Parameters, backend: &Backend, stop: &(dyn Fn() -> bool + Sync), so_far: &SoFar) {
    DEFAULT_NAMESPACE.clone_into(&mut so_far.locked().own);
    if parameters.namespaces {
        match own_name() {
            Ok(own) => return search_all(parameters, backend, stop, own, so_far),
            Err(error) => so_far.add_problem(format!(
                "only the agent's own network namespace was searched: {}",
                chain(&error)
            )),
        }
    }
    search_own(parameters, backend, stop, so_far);
}

fn search_own(parameters: &Parameters, backend: &Backend, stop: &(dyn Fn() -> bool + Sync), so_far: &SoFar) {
    let mut findings = search_here(parameters, backend, stop);
    let mut progress = so_far.locked();
    findings.namespace.clone_from(&progress.own);
    progress.here = Some(findings);
}

fn search_all(
    parameters: &Parameters,
    backend: &Backend,
    stop: &(dyn Fn() -> bool + Sync),
    own: String,
    so_far: &SoFar,
) {
    let mut progress = so_far.locked();
    progress.own.clone_from(&own);
    progress.is_looking = true;
    drop(progress);
    let (sender, receiver) = mpsc::sync_channel::<Namespace>(MAX_WAITING);
    let receiver = Mutex::new(receiver);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let received = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(namespace) = received else { return };
                    let is_stopped = stop();
                    let entered = if is_stopped { Ok(()) } else { namespace.enter() };
                    if is_stopped || entered.is_err() {
                        let mut progress = so_far.locked();
                        progress.searching.remove(&namespace.name);
                        match entered {
                            Ok(()) => progress.not_searched += 1,
                            Err(error) => progress.not_entered.push((namespace.name, error)),
                        }
                    } else {
                        let mut findings = search_here(parameters, backend, stop);
                        let mut progress = so_far.locked();
                        progress.searching.remove(&namespace.name);
                        findings.namespace = namespace.name;
                        progress.add(findings);
                    }
                }
            });
        }
        // Beside the search of the own namespace: a process that does not respond holds whoever looks at it.
        scope.spawn(|| {
            let sender = sender;
            let looking = |process: Option<&str>| so_far.locked().looking_at = process.map(str::to_owned);
            let problems = find_others(&own, &looking, &mut |namespace| {
                let mut progress = so_far.locked();
                progress.searching.insert(namespace.name.clone());
                // When there is no room, the namespaces are what does not respond.
                let process = progress.looking_at.take();
                drop(progress);
                // The receiver lives as long as the threads, which this scope waits for.
                let sent = sender.send(namespace);
                so_far.locked().looking_at = process;
                sent.map_or(ControlFlow::Break(()), ControlFlow::Continue)
            });
            let mut progress = so_far.locked();
            progress.is_looking = false;
            progress.problems.extend(problems.iter().map(|problem| chain(problem)));
        });
        search_own(parameters, backend, stop, so_far);
    });
}

fn not_entered_problem(mut not_entered: Vec<(String, std::io::Error)>) -> Option<String> {
    not_entered.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let (_, error) = not_entered.first()?;
    let names: Vec<&str> = not_entered.iter().map(|(name, _)| name.as_str()).take(MAX_NAMED).collect();
    let more = if not_entered.len() > MAX_NAMED { ", …" } else { "" };
    Some(format!(
        "{} network namespaces could not be entered ({}{more}): {error}; this needs CAP_SYS_ADMIN (root)",
        not_entered.len(),
        names.join(", "),
    ))
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Searches the network namespace of the calling thread. The namespace has no name yet.
fn search_here(parameters: &Parameters, backend: &Backend, stop: &(dyn Fn() -> bool + Sync)) -> Findings {
    let mut findings = Findings::default();
    search_interfaces(parameters, &mut findings);
    search_neighbours(parameters, backend, &mut findings);
    search_sockets(parameters, backend, stop, &mut findings);
    search_others(parameters, backend, &mut findings);
    if parameters.cross_view {
        match crossview::differences(&ProcNet::of_this_thread(), stop) {
            Ok((missing, examined)) => {
                findings.examined += examined;
                missing.into_iter().for_each(|(view, socket)| findings.add_missing(view, socket));
            }
            Err(error) => findings.problems.push(format!("views were not compared: {}", chain(&error))),
        }
    }
    name_interfaces(&mut findings);
    findings
}

/// Calls the second with each asked value that a socket matches.
type Matches<'a> = dyn Fn(&Other, &mut dyn FnMut(usize)) + 'a;

/// Unix, raw and packet sockets.
fn search_others(parameters: &Parameters, backend: &Backend, findings: &mut Findings) {
    let (tables, text_only) = match backend {
        Backend::Kernel => (ProcNet::of_this_thread(), false),
        Backend::TextTables(tables) => (tables.clone(), true),
    };
    let mut take = |kind: Kind, read: Result<Read, SourceError>, matches: &Matches<'_>| {
        let (sockets, problem) = read.unwrap_or_else(|error| (Vec::new(), Some(chain(&error))));
        if let Some(problem) = problem {
            findings.fell_back = true;
            findings.problems.push(format!("{}: {problem}", kind.name()));
        }
        for socket in sockets {
            findings.examined += 1;
            matches(&socket, &mut |place| {
                findings.add(Hit { kind, place, matched: Match::Other(socket.clone()) });
            });
        }
    };
    if !parameters.unix_socket.is_empty() {
        take(Kind::UnixSocket, other::unix(&tables, text_only), &|socket, found| {
            parameters.unix_socket.matcher.matches(&socket.path, found);
        });
    }
    if !parameters.raw_socket.is_empty() {
        take(Kind::RawSocket, other::raw(&tables), &|socket, found| {
            parameters.raw_socket.matcher.matches(socket.number.unwrap_or_default(), found);
        });
    }
    if !parameters.packet_socket.is_empty() {
        let names = rtnetlink::interface_names().unwrap_or_default();
        take(Kind::PacketSocket, other::packet(&tables, text_only), &|socket, found| {
            let name = names.get(&socket.interface).map_or(ALL_INTERFACES, String::as_str);
            parameters.packet_socket.matcher.matches(name, found);
        });
    }
}

/// Names the interfaces of what was found.
fn name_interfaces(findings: &mut Findings) {
    let number = |hit: &Hit| match &hit.matched {
        Match::Socket(socket) | Match::Missing(_, socket) => socket.interface,
        Match::Other(other) => other.interface,
        Match::Hardware(own) => own.interface,
        Match::Address(own) => own.interface,
        Match::Neighbour(_) => 0,
    };
    if findings.hits.iter().all(|hit| number(hit) == 0) {
        return;
    }
    match rtnetlink::interface_names() {
        Ok(names) => findings.interfaces = names,
        Err(error) => findings.problems.push(format!("names of interfaces: {}", chain(&error))),
    }
}

impl Findings {
    fn add_missing(&mut self, view: View, socket: Socket) {
        let place = View::ALL.iter().position(|other| *other == view).unwrap_or_default();
        self.add(Hit { kind: Kind::CrossView, place, matched: Match::Missing(view, socket) });
    }

    fn add(&mut self, hit: Hit) {
        self.total_hits += 1;
        if self.hits.len() < MAX_HITS {
            self.hits.push(hit);
        }
    }

    /// Adds what was found beside this.
    fn merge(&mut self, other: Self) {
        self.examined += other.examined;
        self.total_hits += other.total_hits;
        if self.hits.is_empty() {
            self.hits = other.hits;
        } else {
            let room = MAX_HITS - self.hits.len();
            self.hits.extend(other.hits.into_iter().take(room));
        }
        self.fell_back |= other.fell_back;
        self.stopped |= other.stopped;
        self.problems.extend(other.problems);
    }
}

fn search_sockets(
    parameters: &Parameters,
    backend: &Backend,
    stop: &(dyn Fn() -> bool + Sync),
    findings: &mut Findings,
) {
    for protocol in Protocol::ALL {
        // Apart from each other the kernel can leave out more: by state here, by peer there.
        let others = Parameters { local_port: Default::default(), ..parameters.clone() };
        if !parameters.connected_ip.is_empty() {
            let states = States::with_peer(protocol);
            let wanted = Wanted { protocol, states, peers: parameters.connected_ip.matcher.ranges() };
            findings.merge(search_wanted(&others, backend, &wanted, stop));
        }
        if !parameters.listening_port.is_empty() {
            let wanted = Wanted { protocol, states: States::listening(protocol), peers: &[] };
            findings.merge(search_wanted(&others, backend, &wanted, stop));
        }
        if !parameters.local_port.is_empty() {
            let states = match protocol {
                Protocol::Tcp => bound_states(backend, findings),
                Protocol::Udp | Protocol::UdpLite => States::ALL,
            };
            let wanted = Wanted { protocol, states, peers: &[] };
            // Only the ports are asked for here; the other kinds were searched above.
            let only = Parameters { local_port: parameters.local_port.clone(), ..Parameters::default() };
            findings.merge(search_wanted(&only, backend, &wanted, stop));
        }
    }
}

/// The states in which TCP sockets have a local port, as far as they can be seen.
fn bound_states(backend: &Backend, findings: &mut Findings) -> States {
    if matches!(backend, Backend::Kernel) && sock_diag::shows_bound() {
        return States::ALL_AND_BOUND;
    }
    findings.problems.push(
        "TCP sockets that are bound to a port, but neither listen nor are connected, are not visible: Linux shows them from \
         version 6.8 on, over netlink"
            .to_owned(),
    );
    States::ALL
}

/// Searches what the kernel tells, or the text tables.
fn search_wanted(
    parameters: &Parameters,
    backend: &Backend,
    wanted: &Wanted<'_>,
    stop: &(dyn Fn() -> bool + Sync),
) -> Findings {
    match backend {
        Backend::Kernel => {
            let mut instead = ProcNet::of_this_thread();
            search_with_fallback(parameters, &mut SockDiag {}, &mut instead, wanted, stop)
        }
        Backend::TextTables(tables) => {
            let mut findings = search_source(parameters, &mut tables.clone(), wanted, stop)
                .unwrap_or_else(|error| Findings { problems: vec![chain(&error)], ..Findings::default() });
            findings.fell_back = true;
            findings
        }
    }
}

/// Searches a source, and the text tables when the source fails.
fn search_with_fallback(
    parameters: &Parameters,
    source: &mut dyn SocketSource,
    instead: &mut ProcNet,
    wanted: &Wanted<'_>,
    stop: &(dyn Fn() -> bool + Sync),
) -> Findings {
    let why = match undisturbed(|| search_source(parameters, source, wanted, stop)) {
        Ok(findings) => return findings,
        Err(why) => why,
    };
    let name = wanted.protocol.name();
    // The newest kernels have no UDP-Lite any more.
    if wanted.protocol == Protocol::UdpLite && !instead.has(Protocol::UdpLite) {
        return Findings::default();
    }
    match search_source(parameters, instead, wanted, stop) {
        Ok(mut findings) => {
            findings.fell_back = true;
            findings.problems.push(format!(
                "{name} sockets were read from /proc/net, where rows can be missing while sockets come and go: {}",
                chain(&why)
            ));
            findings
        }
        Err(error) => Findings {
            problems: vec![format!("{name} sockets cannot be read: {}; {}", chain(&why), chain(&error))],
            ..Findings::default()
        },
    }
}

/// Reads again what was disturbed.
fn undisturbed(mut read: impl FnMut() -> Result<Findings, SourceError>) -> Result<Findings, SourceError> {
    for _ in 1..MAX_ATTEMPTS {
        match read() {
            Err(SourceError::Netlink(NetlinkError::Disturbed)) => {}
            result => return result,
        }
    }
    read()
}

/// Searches what one source tells. A socket that it tells twice is found once.
fn search_source(
    parameters: &Parameters,
    source: &mut dyn SocketSource,
    wanted: &Wanted<'_>,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Findings, SourceError> {
    let mut findings = Findings::default();
    let mut seen = Seen::default();
    let left_out = source.read(wanted, &mut |socket| {
        findings.examined += 1;
        if findings.examined.is_multiple_of(STOP_INTERVAL) && stop() {
            findings.stopped = true;
            return ControlFlow::Break(());
        }
        let mut is_new = None;
        each_place(parameters, socket, &mut |kind, place| {
            if *is_new.get_or_insert_with(|| seen.is_new(socket, &findings.hits)) {
                findings.add(Hit { kind, place, matched: Match::Socket(*socket) });
            }
        });
        ControlFlow::Continue(())
    })?;
    findings.problems.extend(left_out_problem(wanted.protocol.name(), left_out));
    Ok(findings)
}

/// Calls `found` for each asked value that the socket matches.
fn each_place(parameters: &Parameters, socket: &Socket, found: &mut dyn FnMut(Kind, usize)) {
    if socket.local.port != 0 {
        parameters.local_port.matcher.matches(socket.local.port, |place| found(Kind::LocalPort, place));
    }
    if socket.has_peer() {
        parameters
            .connected_ip
            .matcher
            .matches(socket.remote.address, |place| found(Kind::ConnectedIp, place));
    } else if socket.listens() {
        parameters
            .listening_port
            .matcher
            .matches(socket.local.port, |place| found(Kind::ListeningPort, place));
    }
}

fn left_out_problem(table: &str, left_out: u64) -> Option<String> {
    (left_out > 0).then(|| format!("{left_out} rows of {table} are malformed"))
}

#[cfg(test)]
mod tests;
