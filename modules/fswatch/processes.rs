//! Finding out about processes before they are gone: `/proc/PID`, see proc(5).
//!
//! A process that lives for a millisecond is gone when its event is read. What it ran is known all the same, because
//! the kernel told of the exec (`execs.rs`). Where BPF cannot be loaded its program is known, because the same queue
//! told when it was started.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, OFlags, StatxFlags};

use crate::avoided::Avoided;
use crate::execs::{Certainty, Execs, Position, Ran};
use crate::names::Names;
use crate::process::{Identity, Known, Managed, Process, Proof, Unknown};
use crate::recent::Recent;
use crate::secrets::without_secrets;
use vigie_packagedb::owners::{Manager, manager_of};

/// Processes among the ancestors of others that are remembered; beyond it all are forgotten and looked up again.
const MAX_ANCESTORS_KNOWN: usize = 16_384;

/// Bytes of the processes that are remembered: some ten thousand usual ones.
const MAX_KNOWN_BYTES: usize = 8 << 20;

/// Bytes of what processes were started as.
const MAX_STARTED_BYTES: usize = 4 << 20;

/// Most of a file of `/proc` that is read, in bytes. A command line can be as long as the memory allows, and the
/// process decides what stands in it.
const MAX_READ_BYTES: usize = 4 * 1024;

/// Longest command line that is kept, in bytes.
const MAX_COMMAND_BYTES: usize = 1024;

/// Processes above one that are asked for a package manager. A tree of scripts is not deeper, and each costs a reading.
const MAX_ANCESTORS: usize = 24;

/// Time for which a process that was there is taken for the same one. The kernel gives an id again only after all
/// others, and no host makes so many processes in this time.
const SAME_TIME: Duration = Duration::from_millis(20);

/// Time in which the start of the same program by the same process is told by the other queue as well.
const ECHO_TIME: Duration = Duration::from_secs(1);

/// `USER_HZ`: clock ticks of a second in `/proc`.
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

/// What `loginuid` says when nobody logged in: `(uid_t) -1`.
const NO_LOGIN: u32 = u32::MAX;

/// Where programs of the host are. Only root mounts there, so that asking for a file never waits for somebody's own
/// file system.
const HOSTS_PLACES: [&str; 5] = ["/usr", "/bin", "/sbin", "/lib", "/lib64"];

/// `S_IWGRP | S_IWOTH`
const WRITABLE_BY_OTHERS: u32 = 0o022;

#[derive(Debug, Clone)]
struct Remembered {
    process: Arc<Process>,
    /// When it started, in clock ticks since the boot: tells it from a later one with the same id.
    started: Option<u64>,
    /// When it ran the program, as the kernel told.
    ran: Option<u64>,
    /// How well that is known.
    certainty: Certainty,
}

/// What a process was started as.
#[derive(Debug, Clone)]
struct Started {
    program: PathBuf,
    /// When that was learned.
    at: Option<Instant>,
    /// What it opened to run before that: the script, when the program is its interpreter.
    before: Option<PathBuf>,
    circumstances: Circumstances,
}

/// What a process has from the one that started it.
#[derive(Debug, Clone)]
struct Circumstances {
    user: Known<u32>,
    login_user: Known<Option<u32>>,
    parent: Known<(i32, Option<PathBuf>)>,
    parent_is_shown: bool,
    container: Known<Option<String>>,
    mount_namespace: Known<Option<u64>>,
    managed: Known<Option<Arc<Managed>>>,
}

/// A process among the ancestors of others.
#[derive(Debug, Clone)]
struct Ancestor {
    started: u64,
    /// The package manager furthest up that it works for.
    top: Option<Top>,
}

/// The process of a package manager that no other one started.
#[derive(Debug, Clone)]
struct Top {
    manager: Manager,
    process: Arc<Process>,
    /// When it started, in clock ticks since the boot.
    started: u64,
}

/// The processes that were seen.
#[derive(Debug)]
pub struct Processes {
    /// Where nobody looks.
    avoided: Avoided,
    known: Recent<i32, Remembered>,
    started: Recent<i32, Started>,
    ancestors: HashMap<i32, Ancestor>,
    names: Names,
    /// Those that were seen to be the same process since the last [`Processes::recheck`] that was due.
    checked: HashSet<i32>,
    /// When that was.
    rechecked: Option<Instant>,
    /// One was met that was not known.
    met: bool,
    /// What the kernel told of programs.
    execs: Execs,
}

impl Default for Processes {
    fn default() -> Self {
        Self {
            avoided: Avoided::default(),
            known: Recent::new(MAX_KNOWN_BYTES),
            started: Recent::new(MAX_STARTED_BYTES),
            ancestors: HashMap::new(),
            names: Names::default(),
            checked: HashSet::new(),
            rechecked: None,
            met: false,
            execs: Execs::default(),
        }
    }
}

impl Started {
    /// About what its texts take.
    fn bytes(&self) -> usize {
        let parent = self.circumstances.parent.as_ref().ok().and_then(|(_, path)| path.as_ref());
        let paths = [Some(&self.program), self.before.as_ref(), parent].into_iter().flatten();
        let container = self.circumstances.container.as_ref().ok().and_then(Option::as_ref);
        size_of::<Self>()
            + paths.map(|path| path.as_os_str().len()).sum::<usize>()
            + container.map_or(0, String::len)
    }
}

fn why(error: &io::Error) -> Unknown {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Unknown::Denied,
        _ => Unknown::Ended,
    }
}

/// The beginning of a file of a process. One reading is enough for what is shorter than a page.
fn read(pid: i32, name: &str) -> Known<Vec<u8>> {
    let mut text = vec![0; MAX_READ_BYTES];
    let read = fs::File::open(format!("/proc/{pid}/{name}"))
        .and_then(|mut file| file.read(&mut text))
        .map_err(|error| why(&error))?;
    text.truncate(read);
    Ok(text)
}

fn executable(pid: i32) -> Known<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).map_err(|error| why(&error))
}

/// Which file something is and who can change it; never waits for a file system's answer.
fn file_of(path: &Path) -> io::Result<rustix::fs::Statx> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let wanted = StatxFlags::INO | StatxFlags::UID | StatxFlags::MODE;
    Ok(rustix::fs::statx(CWD, path, flags, wanted)?)
}

fn identity_of(file: &rustix::fs::Statx) -> Identity {
    Identity { device: rustix::fs::makedev(file.stx_dev_major, file.stx_dev_minor), inode: file.stx_ino }
}

/// Which file the program of a process is.
fn program_of(pid: i32) -> Known<Identity> {
    let file = file_of(Path::new(&format!("/proc/{pid}/exe"))).map_err(|error| why(&error))?;
    Ok(identity_of(&file))
}

fn is_in_hosts_places(path: &Path) -> bool {
    HOSTS_PLACES.iter().any(|place| path.starts_with(place))
}

/// Whether a path here is this file.
fn is_this_file(path: &Path, identity: Identity) -> bool {
    is_in_hosts_places(path) && file_of(path).is_ok_and(|file| identity_of(&file) == identity)
}

/// Whether a process that was asked runs what the kernel told. On btrfs the kernel told of another device.
fn is_same_program(process: &Process, ran: &Ran) -> bool {
    let path = process.executable.as_ref().ok().or(process.claimed_executable.as_ref());
    let is_path = || path.is_some_and(|path| *path == ran.path);
    process.identity.is_ok_and(|now| now == ran.identity || now.inode == ran.identity.inode && is_path())
}

/// Whether a path here is this file, and only root can change it.
fn is_hosts_program(path: &Path, identity: Identity) -> bool {
    is_in_hosts_places(path)
        && file_of(path).is_ok_and(|file| {
            identity_of(&file) == identity
                && file.stx_uid == 0
                && u32::from(file.stx_mode) & WRITABLE_BY_OTHERS == 0
        })
}

/// Whether the program of a process is one of this host.
fn is_running_hosts_program(process: &Process) -> bool {
    matches!((&process.executable, process.identity), (Ok(path), Ok(identity)) if is_hosts_program(path, identity))
}

/// The number of a process's mount namespace.
fn namespace_of(pid: &str) -> Known<u64> {
    fs::metadata(format!("/proc/{pid}/ns/mnt")).map(|file| file.ino()).map_err(|error| why(&error))
}

thread_local! {
    /// The numbers of this thread's mount namespace and of the host's: a service manager may give us one of our own.
    static HOME: [Option<u64>; 2] = ["thread-self", "1"].map(|pid| namespace_of(pid).ok());
}

/// Whether a mount namespace is ours or the host's.
fn is_home(number: u64) -> bool {
    HOME.with(|home| home.contains(&Some(number)))
}

/// The number of a process's mount namespace when that is neither ours nor the host's.
fn other_namespace(pid: i32) -> Known<Option<u64>> {
    namespace_of(&pid.to_string()).map(|number| (!is_home(number)).then_some(number))
}

/// The arguments with blanks between them, without secrets.
fn command_text(raw: &[u8], is_cut: bool) -> String {
    let raw = raw.strip_suffix(b"\0").unwrap_or(raw);
    let arguments: Vec<String> =
        raw.split(|byte| *byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect();
    let text = without_secrets(&arguments).join(" ");
    let plain: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    let cut = &plain[..plain.floor_char_boundary(MAX_COMMAND_BYTES)];
    if cut.len() < plain.len() || is_cut { format!("{cut}…") } else { plain }
}

/// The command line of a process; a reason when there is none.
fn command(pid: i32, executable: &Known<PathBuf>) -> Known<String> {
    let raw = read(pid, "cmdline")?;
    match executable {
        _ if !raw.is_empty() => Ok(command_text(&raw, raw.len() >= MAX_READ_BYTES)),
        // What has ended and was not asked for by its parent yet has no memory, and so neither program nor arguments.
        Err(why) => Err(*why),
        Ok(_) => Err(Unknown::NoCommand),
    }
}

/// Effective user id and parent of `status`.
fn user_and_parent(status: &[u8]) -> Option<(u32, i32)> {
    let status = String::from_utf8_lossy(status);
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let user = line("Uid:")?.split_whitespace().nth(1)?.parse().ok()?;
    let parent = line("PPid:")?.trim().parse().ok()?;
    Some((user, parent))
}

/// What stands in `stat` behind the name, which may have blanks and parentheses in it.
fn stat_field<T: std::str::FromStr>(stat: &[u8], number: usize) -> Option<T> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    std::str::from_utf8(stat.get(end + 1..)?).ok()?.split_whitespace().nth(number - 3)?.parse().ok()
}

/// Start time of `stat`.
fn start_time(stat: &[u8]) -> Option<u64> {
    stat_field(stat, 22)
}

/// The container or unit that a control group's path names.
#[must_use]
pub fn container_of(cgroup: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(cgroup);
    // The unified hierarchy, or the one that systemd names.
    let path = text
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .or_else(|| text.lines().find_map(|line| line.split_once(":name=systemd:").map(|(_, path)| path)))?;
    let name = path.rsplit('/').find(|name| !name.is_empty() && *name != "init.scope")?;
    let plain: String = name.chars().filter(|c| !c.is_control()).take(200).collect();
    Some(plain)
}

/// Whether a file is a script: what a kernel told that it was opened to be run, and that names its interpreter.
fn is_script(path: &Path, avoided: &Avoided) -> bool {
    let mut begin = [0; 2];
    let file = avoided.open(&avoided.follow(path).real, OFlags::NONBLOCK | OFlags::NOCTTY);
    file.and_then(|file| fs::File::from(file).read_exact(&mut begin)).is_ok_and(|()| begin == *b"#!")
}

/// Whether the process that started at this time, in clock ticks since the boot, still runs.
#[must_use]
pub(crate) fn still_runs(pid: i32, started: u64) -> bool {
    read(pid, "stat").is_ok_and(|stat| {
        start_time(&stat) == Some(started) && stat_field::<String>(&stat, 3).as_deref() != Some("Z")
    })
}

impl Processes {
    /// Knows nothing yet.
    #[must_use]
    pub(crate) fn new(avoided: Avoided) -> Self {
        Self { avoided, ..Self::default() }
    }

    /// A process is starting a program.
    pub fn starts(&mut self, pid: i32, program: &Path) {
        // The loader comes after the program that it loads.
        let is_loader = program
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("ld-") || name == "ld.so");
        if is_loader && self.started.get(&pid).is_some() {
            return;
        }
        // Two queues tell of it, each before what the program does; the one that comes first counts.
        let is_known = self.started.get(&pid).is_some_and(|known| {
            let is_same = known.program == program || known.before.as_deref() == Some(program);
            let is_recent = |(at, now): (Instant, Instant)| now.duration_since(at) < ECHO_TIME;
            is_same && known.at.zip(self.rechecked).is_some_and(is_recent)
        });
        if is_known {
            return;
        }
        self.met = true;
        self.known.remove(&pid);
        self.ancestors.remove(&pid);
        let before = self.started.remove(&pid).map(|started| started.program);
        let started = Started {
            program: program.to_owned(),
            at: self.rechecked,
            before,
            circumstances: self.circumstances(pid),
        };
        // It still was what it was before.
        self.ancestors.remove(&pid);
        let bytes = started.bytes();
        self.started.insert(pid, started, bytes);
    }

    /// Whether processes were met that were not known before, since the last call: those may not live long.
    pub(crate) fn take_met(&mut self) -> bool {
        std::mem::take(&mut self.met)
    }

    /// Time goes by: after a while ids may belong to other processes.
    pub(crate) fn recheck(&mut self, now: Instant) {
        if self.rechecked.is_none_or(|last| now.duration_since(last) >= SAME_TIME) {
            self.rechecked = Some(now);
            self.checked.clear();
        }
    }

    /// What the kernel told of programs, to be added to.
    pub fn execs(&mut self) -> &mut Execs {
        &mut self.execs
    }

    /// The process of the event at which its queue stands.
    pub fn of(&mut self, pid: i32, queue: Position<'_>) -> Arc<Process> {
        if pid <= 0 {
            return Arc::new(Process::unknown(pid, Unknown::OtherNamespace));
        }
        let (ran, certainty) = match self.execs.of(pid, queue) {
            Some((ran, certainty)) => (Some(Arc::clone(ran)), certainty),
            None => (None, Certainty::Likely),
        };
        let is_of = |known: &&Remembered| {
            let is_as_good = known.certainty == certainty || known.certainty == Certainty::Certain;
            known.ran == ran.as_ref().map(|ran| ran.time) && is_as_good
        };
        if let Some(known) = self.known.get(&pid).filter(is_of) {
            let is_same = self.checked.contains(&pid) || {
                let now = read(pid, "stat").ok().and_then(|stat| start_time(&stat));
                now.is_none() || now == known.started
            };
            if is_same {
                self.checked.insert(pid);
                return Arc::clone(&known.process);
            }
            self.started.remove(&pid);
        }
        self.met = true;
        let remembered = self.look_up(pid, ran, certainty);
        self.checked.insert(pid);
        let process = Arc::clone(&remembered.process);
        self.known.insert(pid, remembered, process.bytes() + size_of::<Remembered>());
        process
    }

    fn look_up(&mut self, pid: i32, ran: Option<Arc<Ran>>, certainty: Certainty) -> Remembered {
        let started = read(pid, "stat").ok().and_then(|stat| start_time(&stat));
        // Another process has the number, and has run nothing of its own.
        let is_its = |ran: &Arc<Ran>| {
            started.is_none_or(|ticks| ticks.abs_diff(ran.start / NANOSECONDS_PER_TICK) <= 1)
        };
        let ran = ran.filter(is_its);
        let asked = self.circumstances(pid);
        let told = self.started.get(&pid).cloned();
        let time = ran.as_ref().map(|ran| ran.time);
        let mut process = self.describe(pid, told, asked);
        process.start = started.map(|ticks| ticks.saturating_mul(NANOSECONDS_PER_TICK / 1000));
        if let Some(ran) = ran {
            let is_same = self.correct(&mut process, &ran);
            if certainty == Certainty::Doubtful && manager_of(&ran.path).is_some() {
                process.doubt();
            } else if !is_same {
                // It has ended, or runs something else by now.
                let is_certain = certainty == Certainty::Certain;
                process.is_hosts_program = is_certain && is_hosts_program(&ran.path, ran.identity);
                if let Some(managed) = self.managed_as_told(&process, &ran) {
                    process.managed = Ok(Some(Arc::new(managed)));
                }
            }
        }
        Remembered { process: Arc::new(process), started, ran: time, certainty }
    }

    /// For which package manager a process works, by the execs of its ancestors and its own: whoever began after a
    /// manager's exec began below that manager.
    fn managed_as_told(&mut self, process: &Process, ran: &Arc<Ran>) -> Option<Managed> {
        if ran.user != 0 {
            return None;
        }
        let mut top = None;
        let mut next = Some((process.pid, Arc::clone(ran), process.is_hosts_program));
        for _ in 0..MAX_ANCESTORS {
            let Some((pid, ran, is_certain)) = next else { break };
            let is_homes = is_certain && ran.user == 0 && is_home(ran.mount_namespace);
            if let Some(manager) = manager_of(&ran.path).filter(|_| is_homes)
                && is_hosts_program(&ran.path, ran.identity)
            {
                top = Some((manager, pid, Arc::clone(&ran)));
            }
            let above = self.execs.at(ran.maker, ran.maker_start, ran.start);
            next = above.map(|above| (ran.maker, Arc::clone(above), true));
            // Of what began long ago no exec is remembered, but it still lives.
            let is_maker = |stat: Vec<u8>| start_time(&stat) == Some(ran.maker_start / NANOSECONDS_PER_TICK);
            if next.is_none()
                && read(ran.maker, "stat").is_ok_and(is_maker)
                && let Ok(Some(Top { manager, process: top, started })) =
                    self.top_of(ran.maker, MAX_ANCESTORS)
            {
                let is_hosts_program = process.is_hosts_program;
                return Some(Managed { manager, top, started, is_hosts_program });
            }
        }
        let (manager, pid, ran) = top?;
        let mut top = self.describe(pid, None, plain_circumstances(pid));
        self.correct(&mut top, &ran);
        let started = ran.start / NANOSECONDS_PER_TICK;
        Some(Managed { manager, top: Arc::new(top), started, is_hosts_program: process.is_hosts_program })
    }

    /// What the kernel told of the exec is true, whatever the process says of itself since. Returns whether it says the
    /// same of its program.
    fn correct(&self, process: &mut Process, ran: &Ran) -> bool {
        process.is_told = true;
        process.start = Some(ran.start / 1000);
        process.command = if ran.arguments.is_empty() {
            Err(Unknown::NoCommand)
        } else {
            Ok(command_text(&ran.arguments, ran.is_cut))
        };
        process.mount_namespace = Ok((!is_home(ran.mount_namespace)).then_some(ran.mount_namespace));
        // What still runs the same program is what the kernel says now; that also tells when its file was removed.
        let is_live = matches!(process.proof, Proof::Live | Proof::Shown) && process.identity.is_ok();
        let is_same = is_live && is_same_program(process, ran);
        if is_same {
            process.proof = Proof::Live;
            process.is_hosts_program = is_running_hosts_program(process);
        } else {
            // It works for the manager that it became only afterwards no more than anybody else.
            let is_itself = matches!(&process.managed, Ok(Some(managed)) if managed.top.pid == process.pid);
            if is_live && is_itself {
                process.managed = Ok(None);
            }
            let is_ours = is_home(ran.mount_namespace) || is_this_file(&ran.path, ran.identity);
            let (executable, claimed) = if is_ours {
                (Ok(ran.path.clone()), None)
            } else {
                (Err(Unknown::OtherFile), Some(ran.path.clone()))
            };
            process.executable = executable;
            process.claimed_executable = claimed;
            process.identity = Ok(ran.identity);
            process.proof = Proof::Ran;
            // What happened may have been before this program: nobody is excused by it unless it is certain.
            process.is_hosts_program = false;
        }
        process.script = ran.asked.clone().filter(|script| is_script(script, &self.avoided));
        process.user_now = process.user.ok().filter(|now| *now != ran.user);
        process.user_now_name = process.user_now.and_then(|id| self.names.get(id));
        process.user = Ok(ran.user);
        process.user_name = self.names.get(ran.user);
        process.login_user = Ok(ran.login_user);
        process.login_name = ran.login_user.and_then(|id| self.names.get(id));
        let (parent, is_shown) = self.parent_of(ran);
        process.parent = Ok((ran.parent, parent));
        process.parent_is_shown = is_shown;
        is_same
    }

    /// The program of the process that started one, and whether it is only what that one shows.
    fn parent_of(&self, ran: &Ran) -> (Option<PathBuf>, bool) {
        let told = self.execs.at(ran.parent, ran.parent_start, ran.time);
        // A child that a shell only forked runs what its maker does.
        let told = told.or_else(|| self.execs.at(ran.maker, ran.maker_start, ran.time));
        if let Some(told) = told {
            return (Some(told.path.clone()), false);
        }
        let ticks = read(ran.parent, "stat").ok().and_then(|stat| start_time(&stat));
        let is_it = ticks.is_some_and(|ticks| ticks.abs_diff(ran.parent_start / NANOSECONDS_PER_TICK) <= 1);
        (executable(ran.parent).ok().filter(|_| is_it), !is_roots(ran.parent))
    }

    /// Puts together what the kernel told at the start of a process, and what it says now.
    fn describe(&mut self, pid: i32, told: Option<Started>, asked: Circumstances) -> Process {
        let live = executable(pid);
        let identity = program_of(pid);
        let command = command(pid, &live);
        let (told_program, before, told) = match told {
            Some(Started { program, before, circumstances, .. }) => {
                (Some(program), before, Some(circumstances))
            }
            None => (None, None, None),
        };
        // Of a process that lives the kernel knows better than what was told at its start.
        let (executable, proof, claimed_executable) = match (live, told_program) {
            (Ok(path), _) => {
                let is_ours = matches!(asked.mount_namespace, Ok(None))
                    || identity.is_ok_and(|identity| is_this_file(&path, identity));
                let proof = if asked.user == Ok(0) { Proof::Live } else { Proof::Shown };
                if is_ours { (Ok(path), proof, None) } else { (Err(Unknown::OtherFile), proof, Some(path)) }
            }
            // Nobody is excused by a name that anybody can have opened.
            (Err(why), Some(path)) if manager_of(&path).is_some() => (Err(why), Proof::Opened, Some(path)),
            (Err(_), Some(path)) => (Ok(path), Proof::Opened, None),
            (Err(why), None) => (Err(why), Proof::Live, None),
        };
        let told = told.as_ref();
        let user = asked.user.or_else(|why| told.map_or(Err(why), |told| told.user));
        let login_user = asked.login_user.or_else(|why| told.map_or(Err(why), |told| told.login_user));
        self.names.refresh();
        let parent_is_shown = match (&asked.parent, told) {
            (Err(_), Some(told)) => told.parent_is_shown,
            _ => asked.parent_is_shown,
        };
        let mut process = Process {
            pid,
            start: None,
            is_told: false,
            executable,
            proof,
            claimed_executable,
            identity,
            is_hosts_program: false,
            script: before.filter(|script| is_script(script, &self.avoided)),
            command,
            user,
            user_now: None,
            user_now_name: None,
            user_name: user.ok().and_then(|id| self.names.get(id)),
            login_user,
            login_name: login_user.ok().flatten().and_then(|id| self.names.get(id)),
            parent: asked.parent.or_else(|why| told.map_or(Err(why), |told| told.parent.clone())),
            parent_is_shown,
            container: asked.container.or_else(|why| told.map_or(Err(why), |told| told.container.clone())),
            mount_namespace: asked
                .mount_namespace
                .or_else(|why| told.map_or(Err(why), |told| told.mount_namespace)),
            managed: asked.managed.or_else(|why| told.map_or(Err(why), |told| told.managed.clone())),
        };
        process.is_hosts_program = process.proof == Proof::Live && is_running_hosts_program(&process);
        process
    }

    fn circumstances(&mut self, pid: i32) -> Circumstances {
        let plain = plain_circumstances(pid);
        // Whoever is not root cannot change what a package brought.
        let managed = plain.user.and_then(|user| if user == 0 { self.managed(pid) } else { Ok(None) });
        Circumstances { managed, ..plain }
    }

    /// For which package manager a process works.
    fn managed(&mut self, pid: i32) -> Known<Option<Arc<Managed>>> {
        let Some(top) = self.top_of(pid, MAX_ANCESTORS)? else { return Ok(None) };
        let is_hosts_program = match (executable(pid), program_of(pid)) {
            (Ok(path), Ok(identity)) => is_hosts_program(&path, identity),
            _ => false,
        };
        let Top { manager, process, started } = top;
        Ok(Some(Arc::new(Managed { manager, top: process, started, is_hosts_program })))
    }

    /// The package manager furthest up among a process and its ancestors.
    fn top_of(&mut self, pid: i32, depth: usize) -> Known<Option<Top>> {
        if pid <= 1 || depth == 0 {
            return Ok(None);
        }
        let stat = read(pid, "stat")?;
        let (Some(started), Some(parent)) = (start_time(&stat), stat_field::<i32>(&stat, 4)) else {
            return Err(Unknown::Ended);
        };
        if let Some(known) = self.ancestors.get(&pid).filter(|known| known.started == started) {
            return Ok(known.top.clone());
        }
        // A process that is gone has no ancestors any more, but what was found below it stays true.
        let above = self.top_of(parent, depth - 1).unwrap_or_default();
        let top = match above {
            Some(top) => Some(top),
            None => match trusted_manager(pid) {
                Some(manager) => {
                    let asked = plain_circumstances(pid);
                    let process = Arc::new(self.describe(pid, None, asked));
                    Some(Top { manager, process, started })
                }
                None => None,
            },
        };
        if self.ancestors.len() >= MAX_ANCESTORS_KNOWN {
            self.ancestors.clear();
        }
        self.ancestors.insert(pid, Ancestor { started, top: top.clone() });
        Ok(top)
    }
}

/// What can be asked about one process, without its ancestors.
fn plain_circumstances(pid: i32) -> Circumstances {
    let status = read(pid, "status").and_then(|status| user_and_parent(&status).ok_or(Unknown::Ended));
    let login = read(pid, "loginuid").and_then(|text| {
        std::str::from_utf8(&text)
            .ok()
            .and_then(|text| text.trim().parse::<u32>().ok())
            .ok_or(Unknown::Denied)
    });
    let user = status.map(|(user, _)| user);
    let parent_is_shown = status.is_ok_and(|(_, parent)| !is_roots(parent));
    Circumstances {
        user,
        login_user: login.map(|user| (user != NO_LOGIN).then_some(user)),
        parent: status.map(|(_, parent)| (parent, executable(parent).ok())),
        parent_is_shown,
        container: read(pid, "cgroup").map(|text| container_of(&text)),
        mount_namespace: other_namespace(pid),
        managed: Ok(None),
    }
}

/// Whether a process is root's, as nobody else can make it: what the kernel says of its program is true then.
fn is_roots(pid: i32) -> bool {
    read(pid, "status").is_ok_and(|status| user_and_parent(&status).is_some_and(|(user, _)| user == 0))
}

/// The package manager that a process runs, if its program is the one of this host. Whoever is not root can show
/// another program than his, also above one of root that he was let run.
fn trusted_manager(pid: i32) -> Option<Manager> {
    if !is_roots(pid) {
        return None;
    }
    let path = executable(pid).ok()?;
    let manager = manager_of(&path)?;
    let is_replaced = path.to_string_lossy().ends_with(" (deleted)");
    let is_trusted = match program_of(pid) {
        // It replaced itself; nobody but root makes a file in these places of ours.
        Ok(_) if is_replaced => matches!(other_namespace(pid), Ok(None)),
        Ok(identity) => is_hosts_program(&path, identity),
        Err(_) => false,
    };
    is_trusted.then_some(manager)
}

#[cfg(test)]
mod tests;
