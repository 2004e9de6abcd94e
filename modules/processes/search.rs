//! Finds the processes that are asked for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use vigie_host::mounts::{Mount, options};
use vigie_host::users::Names;
use vigie_sdk::Query;
use vigie_sdk::protocol::Progress;

use crate::container;
use crate::credentials::Credentials;
use crate::digest::{Cache, Hashes};
use crate::executable::View;
use crate::libraries::{self, Known, Library};
use crate::mounts::{self, Mounts};
use crate::open_files::{self, OpenFile};
use crate::parameters::{Parameters, Wanted};
use crate::process::{Depth, MAX_COMMAND_BYTES, Opened, Process, Reader};
use crate::procfs;
use crate::sockets::{Listening, Sockets};

/// Most bytes of `/proc/PID/status`.
const MAX_STATUS_BYTES: usize = 64 * 1024;

/// What may not be readable of a process.
const CREDENTIALS: &str = "credentials";
const OPEN_FILES: &str = "open files";
const LISTENING: &str = "listening ports";
const LIBRARIES: &str = "libraries";
const DIGESTS: &str = "digests of programs";

/// What was read of a process because it was asked for.
#[derive(Debug, Clone, Default)]
pub struct Details {
    /// Users, groups, capabilities.
    pub credentials: Option<Credentials>,
    /// What it has open.
    pub files: Option<Vec<OpenFile>>,
    /// Where it listens.
    pub listening: Option<Vec<Listening>>,
    /// What it executes.
    pub libraries: Option<Vec<Library>>,
    /// Digests of its program.
    pub hashes: Option<Hashes>,
    /// What could not be read, and why.
    pub problems: Vec<(&'static str, String)>,
}

/// A process in the answer.
#[derive(Debug, Clone)]
pub struct Row {
    /// The process.
    pub process: Process,
    /// What was asked for of it.
    pub details: Details,
    /// It is as asked; otherwise it is a parent or child of one that is.
    pub matched: bool,
}

/// What a search came to, or has come to so far.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The processes, by number.
    pub rows: Vec<Row>,
    /// How many are as asked.
    pub matched: usize,
    /// Processes that were looked at.
    pub examined: u64,
    /// Names of users.
    pub names: Names,
    /// Where programs' files were found.
    pub mounts: Mounts,
    /// The namespaces of process 1.
    pub host_namespaces: [Option<u64>; 8],
    /// When the host booted, in nanoseconds since 1970, by the clocks as they are now.
    pub boot_nanoseconds: i128,
    /// Kinds of what could not be examined, with the number of processes, and why for the last of them.
    pub problems: BTreeMap<&'static str, (u64, String)>,
    /// Processes that changed each time that they were read.
    pub changed: Vec<u32>,
    /// Why processes of others may not be listed at all.
    pub hidden: Option<String>,
    /// The search was stopped before its end.
    pub stopped: bool,
    /// The process that is being looked at.
    pub at: Option<u32>,
}

/// What is kept from one process to the next.
#[derive(Default)]
struct Shared {
    sockets: Sockets,
    libraries: Known,
    hashes: Cache,
    buffer: Vec<u8>,
}

/// Searches all processes. What was found so far is in `found`, which is not locked while a process is looked at: the
/// kernel may hold whoever does.
///
/// # Errors
/// When they cannot be listed.
pub fn search(parameters: &Parameters, query: &Query, found: &Mutex<Outcome>) -> Result<(), Errno> {
    let depth = Depth { identity: !parameters.brief, namespaces: !parameters.brief };
    let mut reader = Reader::new(depth)?;
    let since_boot = duration(clock_gettime(ClockId::Boottime));
    let now = duration(clock_gettime(ClockId::Realtime));
    let pids =
        if parameters.pids.is_empty() || parameters.tree { reader.list()? } else { parameters.pids.clone() };
    let outcome = Outcome {
        names: Names::of(std::path::Path::new("/")),
        boot_nanoseconds: i128::try_from(now.as_nanos()).unwrap_or(0)
            - i128::try_from(since_boot.as_nanos()).unwrap_or(0),
        hidden: hidden(),
        at: Some(1).filter(|_| depth.namespaces),
        ..Outcome::default()
    };
    *locked(found) = outcome;
    if depth.namespaces
        && let Ok(Some((first, _))) = reader.read(1, |_, _| None::<()>)
    {
        locked(found).host_namespaces = first.namespaces;
    }
    let mut shared = Shared::default();
    let memory_device = crate::executable::memory_device();
    let remote = reader.remote();
    let reads = parameters.reads();
    for (place, pid) in pids.iter().enumerate() {
        locked(found).at = None;
        if query.is_stopped() {
            locked(found).stopped = true;
            break;
        }
        query.report(|| Progress {
            done: place as u64,
            total: Some(pids.len() as u64),
            found: Some(locked(found).matched as u64),
            unit: "processes".to_owned(),
        });
        locked(found).at = Some(*pid);
        let read = reader.read(*pid, |process, opened| {
            let is_wanted = is_wanted(parameters, process, since_boot);
            let mut details = Details::default();
            if is_wanted && !process.changed && !process.stat.is_kernel_thread() {
                let view = View { directory: opened.living(), memory_device, remote: &remote };
                learn_mounts(found, process, opened);
                details = shared.details(reads, process, opened, &view);
            }
            Some((is_wanted && details.are_wanted(parameters), details))
        });
        let outcome = &mut *locked(found);
        match read {
            Ok(Some((process, read))) => {
                let (matched, mut details) = read.unwrap_or_default();
                if !matched {
                    details.problems.retain(|(what, _)| is_asked_by(parameters, what));
                }
                outcome.examined += 1;
                outcome.note(&process, &details);
                let is_certain = has_command(parameters, &process) && !parameters.command.has_exceptions();
                if process.argv_cut
                    && !parameters.command.is_empty()
                    && !is_certain
                    && is_otherwise_wanted(parameters, &process, since_boot)
                {
                    let why = format!("only their first {MAX_COMMAND_BYTES} bytes were searched");
                    outcome.problem("ends of command lines", why);
                }
                outcome.matched += usize::from(matched);
                if matched || parameters.tree {
                    let details = if matched { details } else { Details::default() };
                    outcome.rows.push(Row { process, details, matched });
                }
            }
            Ok(None) => {}
            Err(error) => outcome.problem("processes", error.to_string()),
        }
    }
    locked(found).at = None;
    Ok(())
}

/// Reads where the files of a process's programs may be, unless that is known.
fn learn_mounts(found: &Mutex<Outcome>, process: &Process, opened: &Opened) {
    let has_file = process.executable.as_ref().is_some_and(|executable| executable.file.is_some());
    let Some(namespace) = process.namespace("mnt").filter(|_| has_file) else { return };
    if !locked(found).mounts.has(namespace) {
        // Not while the lock is held.
        let mounts = mounts::read(opened.living());
        locked(found).mounts.add(namespace, mounts);
    }
}

/// What was found so far.
pub(crate) fn locked(found: &Mutex<Outcome>) -> MutexGuard<'_, Outcome> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether `/proc` hides processes: its option `hidepid` does, from whoever may not trace them.
fn hidden() -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let is_proc =
        |line: &&str| Mount::parse(line.as_bytes()).is_some_and(|mount| mount.point == Path::new("/proc"));
    let hides = options(mounts.lines().rfind(is_proc)?)?
        .split(',')
        .filter_map(|option| option.strip_prefix("hidepid="))
        .any(|value| !matches!(value, "0" | "off"));
    let mut status = Vec::new();
    let own = procfs::open_directory(rustix::fs::CWD, "/proc/self").ok()?;
    procfs::read(&own, "status", MAX_STATUS_BYTES, &mut status).ok()?;
    let sees_all = Credentials::parse(&status).has("cap_sys_ptrace");
    (hides && !sees_all).then(|| format!("/proc is mounted with hidepid, and {}", vigie_host::tracing_hint()))
}

fn duration(time: rustix::time::Timespec) -> Duration {
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// How long a process has run.
fn age(process: &Process, since_boot: Duration) -> Duration {
    since_boot.saturating_sub(ticks(process.stat.start_ticks))
}

/// Clock ticks as time.
#[must_use]
pub fn ticks(ticks: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    let rest = ticks % per_second * 1_000_000_000 / per_second;
    Duration::new(ticks / per_second, u32::try_from(rest).unwrap_or(0))
}

/// Whether a process is as asked, as far as is known of every one.
fn is_wanted(parameters: &Parameters, process: &Process, since_boot: Duration) -> bool {
    has_command(parameters, process) && is_otherwise_wanted(parameters, process, since_boot)
}

fn has_command(parameters: &Parameters, process: &Process) -> bool {
    parameters.command.is_empty() || parameters.command.matches(&process.argv.join(&b' '))
}

fn is_otherwise_wanted(parameters: &Parameters, process: &Process, since_boot: Duration) -> bool {
    let number = |numbers: &[u32], number: u32| numbers.is_empty() || numbers.binary_search(&number).is_ok();
    let path = process.executable.as_ref().map(|executable| executable.path.as_slice());
    number(&parameters.pids, process.stat.pid)
        && number(&parameters.parents, process.stat.parent)
        && parameters.name.matches(&process.stat.name)
        && (parameters.users.is_empty() || parameters.users.contains(&process.euid))
        && (parameters.logins.is_empty() || parameters.logins.contains(&process.login_uid))
        && (parameters.path.is_empty() || parameters.path.matches_one(path.into_iter()))
        && parameters.ages.iter().all(|(young, limit)| {
            let age = age(process, since_boot);
            if *young { age <= *limit } else { age >= *limit }
        })
        && (parameters.states.is_empty()
            || process
                .executable
                .as_ref()
                .is_some_and(|executable| parameters.states.contains(&executable.state)))
        && (parameters.container.is_empty() || is_in_container(parameters, process))
}

fn is_in_container(parameters: &Parameters, process: &Process) -> bool {
    let Some(path) = &process.cgroup else { return false };
    let container = container::of_path(&String::from_utf8_lossy(path));
    let Some(container) = container else { return false };
    let texts = [container.id.as_bytes(), container.pod.as_deref().unwrap_or_default().as_bytes(), path];
    parameters.container.matches_one(texts.into_iter())
}

/// Whether a process is asked for by this: it is not known to be another one when this cannot be read.
fn is_asked_by(parameters: &Parameters, what: &str) -> bool {
    match what {
        CREDENTIALS => !parameters.capabilities.is_empty(),
        OPEN_FILES => !parameters.open.is_empty(),
        LISTENING => !parameters.listening.is_empty(),
        LIBRARIES => !parameters.library.is_empty(),
        DIGESTS => !parameters.hashes.is_empty(),
        _ => false,
    }
}

impl Shared {
    fn details(&mut self, reads: Wanted, process: &Process, opened: &Opened, view: &View<'_>) -> Details {
        let mut details = Details::default();
        let directory = opened.living();
        let namespace = process.namespace("mnt").unwrap_or(0);
        if reads.is_nothing() {
            return details;
        }
        if reads.credentials {
            match procfs::read(directory, "status", MAX_STATUS_BYTES, &mut self.buffer) {
                Ok(_) => details.credentials = Some(Credentials::parse(&self.buffer)),
                Err(error) => details.problem(CREDENTIALS, error.to_string()),
            }
        }
        if process.executable.is_none() && process.stat.has_ended() && process.living_thread.is_none() {
            // A zombie has nothing else.
            return details;
        }
        if reads.files {
            match open_files::read(view) {
                Ok((files, whole)) => {
                    details.files = Some(files);
                    if !whole {
                        details.problem(OPEN_FILES, "there are too many".to_owned());
                    }
                }
                Err(error) => details.problem(OPEN_FILES, error.to_string()),
            }
        }
        if reads.ports {
            match self.sockets.of(directory) {
                Ok(listening) => details.listening = Some(listening),
                Err(error) => details.problem(LISTENING, error.to_string()),
            }
        }
        if reads.libraries {
            match libraries::read(view, namespace, &mut self.libraries) {
                Ok((libraries, whole)) => {
                    details.libraries = Some(libraries);
                    if !whole {
                        details.problem(LIBRARIES, "there are too many".to_owned());
                    }
                }
                Err(error) => details.problem(LIBRARIES, error.to_string()),
            }
        }
        if reads.hashes {
            match self.hashes.of(view) {
                Ok(hashes) => details.hashes = Some(hashes),
                Err(error) => details.problem(DIGESTS, error.to_string()),
            }
        }
        details
    }
}

impl Details {
    fn problem(&mut self, what: &'static str, why: String) {
        self.problems.push((what, why));
    }

    fn are_wanted(&self, parameters: &Parameters) -> bool {
        let files = || self.files.iter().flatten().map(|file| file.path.as_bytes());
        let libraries = || self.libraries.iter().flatten().map(|library| library.path.as_bytes());
        let listening = || self.listening.iter().flatten().map(|listening| listening.port);
        (parameters.open.is_empty() || parameters.open.matches_one(files()))
            && (parameters.library.is_empty() || parameters.library.matches_one(libraries()))
            && (parameters.listening.is_empty()
                || listening().any(|port| parameters.listening.contains(&port)))
            && parameters
                .capabilities
                .iter()
                .all(|name| self.credentials.as_ref().is_some_and(|credentials| credentials.has(name)))
            && (parameters.hashes.is_empty()
                || self.hashes.as_ref().is_some_and(|hashes| {
                    [&hashes.md5, &hashes.sha1, &hashes.sha256]
                        .iter()
                        .any(|hash| parameters.hashes.binary_search(hash).is_ok())
                }))
    }
}

impl Outcome {
    /// Keeps what is asked for, once all that will be found is there.
    pub(crate) fn finish(&mut self, parameters: &Parameters) {
        if parameters.tree {
            keep_relatives(&mut self.rows);
        }
    }

    fn problem(&mut self, what: &'static str, why: String) {
        let entry = self.problems.entry(what).or_default();
        entry.0 += 1;
        entry.1 = why;
    }

    fn note(&mut self, process: &Process, details: &Details) {
        if process.changed {
            self.changed.push(process.stat.pid);
        }
        if process.denied {
            self.problem("programs and directories", vigie_host::tracing_hint().to_owned());
        }
        for (what, why) in &details.problems {
            self.problem(what, why.clone());
        }
    }
}

/// Keeps what matched, what it came from, and what came from it.
fn keep_relatives(rows: &mut Vec<Row>) {
    let parents: HashMap<u32, u32> =
        rows.iter().map(|row| (row.process.stat.pid, row.process.stat.parent)).collect();
    let matched: HashSet<u32> =
        rows.iter().filter(|row| row.matched).map(|row| row.process.stat.pid).collect();
    let mut kept: HashSet<u32> = matched.clone();
    for pid in &matched {
        let mut at = *pid;
        // A circle cannot be, but rows are of different moments.
        for _ in 0..parents.len() {
            let Some(parent) = parents.get(&at) else { break };
            kept.insert(*parent);
            at = *parent;
        }
    }
    for pid in parents.keys() {
        let mut at = *pid;
        for _ in 0..parents.len() {
            if matched.contains(&at) {
                kept.insert(*pid);
                break;
            }
            let Some(parent) = parents.get(&at) else { break };
            at = *parent;
        }
    }
    rows.retain(|row| kept.contains(&row.process.stat.pid));
}
