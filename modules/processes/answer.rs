//! What the investigator gets.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use vigie_host::shown;
use vigie_host::users::UNKNOWN_NAME;
use vigie_sdk::privacy::{MASKED, Showing};
use vigie_sdk::{Coverage, ModuleResult};

use crate::container::{self, Container};
use crate::credentials::Credentials;
use crate::digest::Hashes;
use crate::executable::FileState;
use crate::libraries::Library;
use crate::open_files::OpenFile;
use crate::parameters::Parameters;
use crate::process::{Executable, NAMESPACES, Process};
use crate::search::{Outcome, Row, ticks};
use crate::sockets::Listening;
use crate::stat::state_name;

/// Most bytes of all elements together. An answer with the rest of it stays below the 16 MiB that an agent takes.
const MAX_ELEMENTS_BYTES: usize = 14 << 20;

/// From here on only the beginning of each command line is told: whoever starts many with long ones keeps no process of
/// others out of the answer.
const ROOMY_BYTES: usize = 4 << 20;

/// That beginning, as it is shown.
const SHORT_COMMAND_BYTES: usize = 1024;

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;

/// A process. What is not known, or not there, is left out.
#[derive(Debug, Serialize)]
struct Element<'a> {
    pid: u32,
    parent: u32,
    name: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    euid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    egid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    login_uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    login_user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    start_ticks: u64,
    threads: u64,
    processor_ms: u64,
    resident_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_disk: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exe: Option<ExeElement<'a>>,
    argv: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    argv_cut: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<Container>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    namespaces: BTreeMap<&'static str, u64>,
    flags: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    living_thread: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credentials: Option<&'a Credentials>,
    #[serde(skip_serializing_if = "Option::is_none")]
    listening: Option<&'a [Listening]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<&'a [OpenFile]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    libraries: Option<Vec<&'a Library>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hashes: Option<&'a Hashes>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    related: bool,
}

/// The file of a program.
#[derive(Debug, Serialize)]
struct ExeElement<'a> {
    state: FileState,
    device: String,
    inode: u64,
    links: u32,
    mode: String,
    uid: u32,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    mount: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filesystem: Option<&'a str>,
}

/// A process in extra privacy mode: that there is one, and what is odd about it.
#[derive(Debug, Serialize)]
struct MaskedElement {
    pid: u32,
    parent: u32,
    name: &'static str,
    state: &'static str,
    argv: [&'static str; 0],
    flags: Vec<&'static str>,
    start_ticks: u64,
    threads: u64,
    processor_ms: u64,
    resident_bytes: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    related: bool,
}

#[derive(Debug, Serialize)]
struct Statistics {
    exectime: String,
    examined: u64,
    totalhits: usize,
    /// The namespaces of process 1: those of processes are told when they are others.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    namespaces: BTreeMap<&'static str, u64>,
}

/// Writes the answer to a query.
#[must_use]
pub fn answer(parameters: &Parameters, outcome: &Outcome, private: bool, elapsed: Duration) -> ModuleResult {
    let mut coverage = coverage(outcome, private);
    for user in &parameters.unknown_users {
        let what = if private {
            "processes of a user".to_owned()
        } else {
            format!("processes of the user {user:?}")
        };
        coverage.skip(what, UNKNOWN_NAME);
    }
    let mut errors = Vec::new();
    let mut text = b"{\"processes\":[".to_vec();
    let mut listed = 0;
    for row in outcome.rows.iter().take(parameters.limit) {
        let before = text.len();
        if listed > 0 {
            text.push(b',');
        }
        // What is written into memory as plain data cannot fail.
        let written = if private {
            serde_json::to_writer(&mut text, &masked(row))
        } else {
            let mut element = element(row, outcome, parameters);
            if text.len() > ROOMY_BYTES {
                cut_argv(&mut element);
            }
            serde_json::to_writer(&mut text, &element)
        };
        if written.is_err() || text.len() > MAX_ELEMENTS_BYTES {
            text.truncate(before);
            break;
        }
        listed += 1;
    }
    text.extend_from_slice(b"]}");
    if listed < outcome.rows.len() {
        let total = outcome.rows.len();
        errors
            .push(format!("{listed} of {total} processes are listed: narrow the query, or raise the limit"));
        coverage.skip("matches", format!("{} are not listed", total - listed));
    }
    for (what, (count, why)) in &outcome.problems {
        errors.push(format!("{what} of {count} processes cannot be read: {why}"));
    }
    let namespaces =
        if private { BTreeMap::new() } else { namespaces(&outcome.host_namespaces, |_, _| true) };
    let statistics = Statistics {
        exectime: format!("{elapsed:?}"),
        examined: outcome.examined,
        totalhits: outcome.matched,
        namespaces,
    };
    let elements = String::from_utf8(text).ok().and_then(|text| RawValue::from_string(text).ok());
    let mut result = ModuleResult {
        foundanything: outcome.matched > 0,
        success: true,
        elements,
        ..ModuleResult::default()
    };
    result = result.with_statistics(&statistics).with_coverage(coverage);
    result.errors = (!errors.is_empty()).then_some(errors);
    result
}

fn coverage(outcome: &Outcome, private: bool) -> Coverage {
    let mut coverage = Coverage::whole();
    coverage.examined = outcome.examined;
    for (what, (count, why)) in &outcome.problems {
        coverage.skip(format!("{what} of {count} processes"), why.clone());
    }
    for pid in &outcome.changed {
        let what = if private { "a process".to_owned() } else { format!("process {pid}") };
        coverage.skip(what, "it changed at every read");
    }
    if let Some(why) = &outcome.hidden {
        coverage.skip("processes of other users", why.clone());
    }
    if let Some(pid) = outcome.at {
        let what = if private { "a process".to_owned() } else { format!("process {pid}") };
        coverage.skip(what, "its directory in /proc, or its program, does not respond");
    }
    if outcome.stopped {
        coverage.skip("the rest", "the search was stopped, or its time was over");
    }
    coverage
}

/// Namespaces by kind, those that are wanted.
fn namespaces(
    numbers: &[Option<u64>; 8],
    wanted: impl Fn(usize, u64) -> bool,
) -> BTreeMap<&'static str, u64> {
    let numbers = numbers.iter().enumerate().filter_map(|(place, number)| Some((place, (*number)?)));
    numbers
        .filter(|(place, number)| wanted(*place, *number))
        .map(|(place, number)| (NAMESPACES[place], number))
        .collect()
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn element<'a>(row: &'a Row, outcome: &'a Outcome, parameters: &Parameters) -> Element<'a> {
    let Row { process, details, matched } = row;
    let stat = &process.stat;
    let started = i128::try_from(ticks(stat.start_ticks).as_nanos()).unwrap_or(0) + outcome.boot_nanoseconds;
    let started =
        i64::try_from(started / 1_000_000).ok().and_then(|time| jiff::Timestamp::from_millisecond(time).ok());
    let known = |number: u32| Some(number).filter(|_| !process.changed);
    let executable = process.executable.as_ref();
    let tell = parameters.tell;
    Element {
        pid: stat.pid,
        parent: stat.parent,
        name: shown(&stat.name),
        state: state_name(stat.state),
        euid: known(process.euid),
        egid: known(process.egid),
        user: known(process.euid).and_then(|uid| outcome.names.user(uid)),
        login_uid: process.login_uid,
        login_user: process.login_uid.and_then(|uid| outcome.names.user(uid)),
        start_time: started.map(|time| time.to_string()),
        start_ticks: stat.start_ticks,
        threads: stat.threads,
        processor_ms: milliseconds(ticks(stat.processor_ticks)),
        resident_bytes: stat.resident_pages.saturating_mul(rustix::param::page_size() as u64),
        path: executable.map(|executable| shown(&executable.path)),
        on_disk: executable
            .filter(|executable| executable.state != FileState::Unknown)
            .map(|executable| matches!(executable.state, FileState::Present | FileState::Renamed)),
        exe: executable.and_then(|executable| exe(executable, process, outcome)),
        argv: process.argv.iter().map(|argument| shown(argument)).collect(),
        argv_cut: process.argv_cut,
        cwd: process.cwd.as_ref().map(|path| shown(path)),
        cgroup_path: process.cgroup.as_ref().map(|path| shown(path)),
        container: process.cgroup.as_ref().and_then(|path| container::of_path(&shown(path))),
        namespaces: namespaces(&process.namespaces, |place, number| {
            outcome.host_namespaces[place] != Some(number)
        }),
        flags: flags(process, details.libraries.as_deref()),
        living_thread: process.living_thread,
        credentials: details
            .credentials
            .as_ref()
            .filter(|_| tell.credentials || !parameters.capabilities.is_empty()),
        listening: details.listening.as_deref(),
        files: details.files.as_deref().filter(|_| tell.files || !parameters.open.is_empty()),
        libraries: details.libraries.as_ref().map(|all| {
            let asked = |library: &&Library| {
                !parameters.library.is_empty() && parameters.library.matches(library.path.as_bytes())
            };
            all.iter().filter(|library| library.is_suspicious() || asked(library)).collect()
        }),
        hashes: details.hashes.as_ref(),
        related: !matched,
    }
}

fn cut_argv(element: &mut Element<'_>) {
    let mut room = SHORT_COMMAND_BYTES;
    for place in 0..element.argv.len() {
        let argument = &mut element.argv[place];
        if argument.len() > room {
            argument.truncate(argument.floor_char_boundary(room));
            element.argv.truncate(place + 1);
            element.argv_cut = true;
            return;
        }
        room -= argument.len();
    }
}

fn exe<'a>(executable: &Executable, process: &Process, outcome: &'a Outcome) -> Option<ExeElement<'a>> {
    let file = executable.file.as_ref()?;
    let namespace = process.namespace("mnt").unwrap_or(0);
    let mount = outcome.mounts.get(namespace, file.mount);
    Some(ExeElement {
        state: executable.state,
        device: format!("{}:{}", file.inode.device.0, file.inode.device.1),
        inode: file.inode.inode,
        links: file.links,
        mode: format!("{:04o}", file.mode & 0o7777),
        uid: file.uid,
        size: file.size,
        mount: mount.map(|mount| mount.point.as_str()),
        filesystem: mount.map(|mount| mount.kind.as_str()),
    })
}

/// What is odd about a process.
fn flags(process: &Process, libraries: Option<&[Library]>) -> Vec<&'static str> {
    let mut flags = Vec::new();
    let mut flag = |name: &'static str, is: bool| {
        if is {
            flags.push(name);
        }
    };
    let executable = process.executable.as_ref();
    let state = executable.map(|executable| executable.state);
    let mode = executable.and_then(|executable| executable.file.as_ref()).map_or(0, |file| file.mode);
    let looks_like_kernel = process.stat.name.starts_with(b"[")
        || process
            .argv
            .first()
            .is_some_and(|argument| argument.starts_with(b"[") && argument.ends_with(b"]"));
    flag("kernel", process.stat.is_kernel_thread());
    flag("leader_exited", process.living_thread.is_some());
    flag("deleted", state == Some(FileState::Deleted));
    flag("replaced", state == Some(FileState::Replaced));
    flag("renamed", state == Some(FileState::Renamed));
    flag("memfd", state == Some(FileState::Memfd));
    flag("setuid", mode & SETUID != 0);
    flag("setgid", mode & SETGID != 0);
    flag("named_like_kernel", looks_like_kernel && !process.stat.is_kernel_thread());
    flag("suspicious_library", libraries.iter().copied().flatten().any(Library::is_suspicious));
    flag("changed_while_read", process.changed);
    flag("not_readable", process.denied);
    flags
}

fn masked(row: &Row) -> MaskedElement {
    MaskedElement {
        pid: 0,
        parent: 0,
        name: MASKED,
        state: state_name(row.process.stat.state),
        argv: [],
        flags: flags(&row.process, row.details.libraries.as_deref()),
        start_ticks: 0,
        threads: row.process.stat.threads,
        processor_ms: 0,
        resident_bytes: 0,
        related: !row.matched,
    }
}

/// What a result may show in extra privacy mode: how many processes, in which states, and what is odd about them.
#[must_use]
pub fn masked_form(place: &[&str]) -> Showing {
    match place {
        ["elements"] | ["elements", "processes"] => Showing::Inside,
        ["elements", "processes", "pid" | "parent" | "name" | "argv"] => Showing::Hidden,
        ["elements", "processes", "start_ticks" | "processor_ms" | "resident_bytes"] => Showing::Hidden,
        ["elements", "processes", "state"] => Showing::Text(is_state),
        ["elements", "processes", "flags"] => Showing::Text(is_flag),
        ["elements", "processes", "threads" | "related"] => Showing::Unnamed,
        ["statistics"] => Showing::Inside,
        ["statistics", "exectime" | "examined" | "totalhits"] => Showing::Unnamed,
        ["errors"] => Showing::Unnamed,
        _ => Showing::Nothing,
    }
}

fn is_state(text: &str) -> bool {
    b"RSDZTtXIP?".iter().any(|letter| state_name(*letter) == text)
}

fn is_flag(text: &str) -> bool {
    matches!(
        text,
        "kernel"
            | "leader_exited"
            | "deleted"
            | "replaced"
            | "renamed"
            | "memfd"
            | "setuid"
            | "setgid"
            | "named_like_kernel"
            | "suspicious_library"
            | "changed_while_read"
            | "not_readable"
    )
}
