//! Finding out about processes before they are gone: `/proc/PID`, see proc(5).
//!
//! A process that lives for a millisecond is gone when its event is read. Its program is known all the same, because
//! the same queue told when it was started.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::process::{Known, Process, Unknown};

/// Processes that are remembered; beyond it all are forgotten and looked up again.
const MAX_PROCESSES: usize = 16_384;

/// Longest command line that is kept, in bytes.
const MAX_COMMAND_BYTES: usize = 1024;

/// Most bytes that are read of one file of `/proc`; what is looked for stands in the first ones.
const MAX_PROC_BYTES: u64 = 8 * 1024;

/// Time for which a process that was there is taken for the same one. The kernel gives an id again only after all others,
/// and no host makes so many processes in this time.
const SAME_TIME: Duration = Duration::from_millis(20);

/// What `loginuid` says when nobody logged in: `(uid_t) -1`.
const NO_LOGIN: u32 = u32::MAX;

#[derive(Debug, Clone)]
struct Remembered {
    process: Arc<Process>,
    /// When it started, in clock ticks since the boot: tells it from a later one with the same id.
    started: Option<u64>,
}

/// What a process was started as.
#[derive(Debug, Clone)]
struct Started {
    program: PathBuf,
    circumstances: Circumstances,
}

/// What a process has from the one that started it.
#[derive(Debug, Clone)]
struct Circumstances {
    user: Known<u32>,
    login_user: Known<Option<u32>>,
    parent: Known<(i32, Option<PathBuf>)>,
    container: Known<Option<String>>,
}

/// The processes that were seen.
#[derive(Debug, Default)]
pub struct Processes {
    known: HashMap<i32, Remembered>,
    started: HashMap<i32, Started>,
    /// Those that were seen to be the same process since the last [`Processes::recheck`] that was due.
    checked: HashSet<i32>,
    /// When that was.
    rechecked: Option<Instant>,
    /// One was met that was not known.
    met: bool,
}

fn why(error: &io::Error) -> Unknown {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Unknown::Denied,
        _ => Unknown::Ended,
    }
}

/// The beginning of a file of `/proc/PID`. A process decides how long its command line is: it can say a gigabyte.
fn read(pid: i32, name: &str) -> Known<Vec<u8>> {
    let mut text = Vec::new();
    let file = fs::File::open(format!("/proc/{pid}/{name}")).map_err(|error| why(&error))?;
    file.take(MAX_PROC_BYTES).read_to_end(&mut text).map_err(|error| why(&error))?;
    Ok(text)
}

fn executable(pid: i32) -> Known<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).map_err(|error| why(&error))
}

/// The arguments with blanks between them.
fn command_text(raw: &[u8]) -> String {
    let raw = raw.strip_suffix(b"\0").unwrap_or(raw);
    let cut = &raw[..raw.len().min(MAX_COMMAND_BYTES)];
    let text = String::from_utf8_lossy(cut).replace('\0', " ");
    let plain: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if cut.len() < raw.len() { format!("{plain}…") } else { plain }
}

/// Effective user id and parent of `status`.
fn user_and_parent(status: &[u8]) -> Option<(u32, i32)> {
    let status = String::from_utf8_lossy(status);
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let user = line("Uid:")?.split_whitespace().nth(1)?.parse().ok()?;
    let parent = line("PPid:")?.trim().parse().ok()?;
    Some((user, parent))
}

/// Start time of `stat`: field 22; the second field is a name that may have blanks and parentheses in it.
fn start_time(stat: &[u8]) -> Option<u64> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    std::str::from_utf8(stat.get(end + 1..)?).ok()?.split_whitespace().nth(19)?.parse().ok()
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

fn circumstances(pid: i32) -> Circumstances {
    let status = read(pid, "status").and_then(|status| user_and_parent(&status).ok_or(Unknown::Ended));
    let login = read(pid, "loginuid").and_then(|text| {
        std::str::from_utf8(&text)
            .ok()
            .and_then(|text| text.trim().parse::<u32>().ok())
            .ok_or(Unknown::Denied)
    });
    Circumstances {
        user: status.map(|(user, _)| user),
        login_user: login.map(|user| (user != NO_LOGIN).then_some(user)),
        parent: status.map(|(_, parent)| (parent, executable(parent).ok())),
        container: read(pid, "cgroup").map(|text| container_of(&text)),
    }
}

impl Processes {
    /// A process is starting a program.
    pub fn starts(&mut self, pid: i32, program: &Path) {
        // The loader comes after the program that it loads.
        let is_loader = program
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("ld-") || name == "ld.so");
        if is_loader && self.started.contains_key(&pid) {
            return;
        }
        if self.started.len() >= MAX_PROCESSES {
            self.started.clear();
        }
        self.met = true;
        self.known.remove(&pid);
        let started = Started { program: program.to_owned(), circumstances: circumstances(pid) };
        self.started.insert(pid, started);
    }

    /// Whether processes were met that were not known before, since the last call: those may not live long.
    pub fn take_met(&mut self) -> bool {
        std::mem::take(&mut self.met)
    }

    /// Time goes by: after a while ids may belong to other processes.
    pub fn recheck(&mut self, now: Instant) {
        if self.rechecked.is_none_or(|last| now.duration_since(last) >= SAME_TIME) {
            self.rechecked = Some(now);
            self.checked.clear();
        }
    }

    /// The process of an event.
    pub fn of(&mut self, pid: i32) -> Arc<Process> {
        if pid <= 0 {
            return Arc::new(Process::unknown(pid, Unknown::OtherNamespace));
        }
        if let Some(known) = self.known.get(&pid) {
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
        if self.known.len() >= MAX_PROCESSES {
            self.known.clear();
        }
        self.met = true;
        let remembered = self.look_up(pid);
        self.checked.insert(pid);
        let process = Arc::clone(&remembered.process);
        self.known.insert(pid, remembered);
        process
    }

    fn look_up(&self, pid: i32) -> Remembered {
        let started = read(pid, "stat").ok().and_then(|stat| start_time(&stat));
        let told = self.started.get(&pid);
        let now = executable(pid);
        // What was told at the start stays true of a process that is gone; of one that lives /proc is newer.
        let told_program = told.map(|told| told.program.clone());
        let program = match (now, told_program) {
            (Ok(path), _) => Ok(path),
            (Err(_), Some(told)) => Ok(told),
            (Err(why), None) => Err(why),
        };
        let asked = circumstances(pid);
        let told = told.map(|told| &told.circumstances);
        let process = Process {
            pid,
            executable: program,
            command: read(pid, "cmdline").map(|raw| command_text(&raw)),
            user: asked.user.or_else(|why| told.map_or(Err(why), |told| told.user)),
            login_user: asked.login_user.or_else(|why| told.map_or(Err(why), |told| told.login_user)),
            parent: asked.parent.or_else(|why| told.map_or(Err(why), |told| told.parent.clone())),
            container: asked.container.or_else(|why| told.map_or(Err(why), |told| told.container.clone())),
        };
        Remembered { process: Arc::new(process), started }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_own_process_is_known_in_full() {
        let pid = i32::try_from(std::process::id()).unwrap();

        let process = Processes::default().of(pid);

        assert_eq!(process.executable, Ok(std::env::current_exe().unwrap()));
        assert!(process.command.as_ref().is_ok_and(|command| !command.is_empty()));
        assert_eq!(process.user, Ok(rustix::process::geteuid().as_raw()));
        assert!(process.parent.as_ref().is_ok_and(|(parent, _)| *parent > 0));
    }

    #[test]
    fn of_a_process_that_ended_its_program_is_known_from_its_start() {
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let mut processes = Processes::default();
        processes.starts(pid, Path::new("/bin/true"));
        processes.starts(pid, Path::new("/lib64/ld-linux-x86-64.so.2"));
        child.wait().unwrap();

        let process = processes.of(pid);

        assert_eq!(process.executable, Ok("/bin/true".into()));
        assert_eq!(process.command, Err(Unknown::Ended));
    }

    #[test]
    fn files_of_proc_are_read_as_proc_5_describes_them() {
        assert_eq!(command_text(b"sh\0-c\0echo \x1b[31m\0"), "sh -c echo \u{fffd}[31m");
        assert_eq!(user_and_parent(b"Name:\tx\nPPid:\t7\nUid:\t1\t2\t3\t4\n"), Some((2, 7)));
        let stat = b"7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 2";
        assert_eq!(start_time(stat), Some(4242));
        let container = |text: &[u8]| container_of(text);
        assert_eq!(container(b"0::/system.slice/cron.service\n"), Some("cron.service".to_owned()));
        assert_eq!(container(b"12:cpu:/x\n1:name=systemd:/docker/abc\n"), Some("abc".to_owned()));
        assert_eq!(container(b"0::/\n"), None);
    }

    proptest! {
        #[test]
        fn nothing_in_proc_makes_the_readers_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop((command_text(&text), user_and_parent(&text), start_time(&text), container_of(&text)));
        }
    }
}
