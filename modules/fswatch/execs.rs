//! Programs as they were when they were run: what the kernel told of each exec, before the process could touch it.
//!
//! fanotify says which process did something, and nothing of when. So all programs that a process ran lately are kept,
//! and which one it was is told by what the same queue said before: that it opened that program to run it.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vigie_kernel_events::{Event, Exec};

use crate::process::Identity;

/// Bytes that all of them may take; beyond it the oldest are forgotten.
const MOST_BYTES: usize = 2 << 20;

/// What one takes beside its texts.
const ENTRY_BYTES: usize = 320;

/// Programs of one process that are kept: it can run others as fast as it likes.
const MOST_OF_ONE: usize = 4;

/// Longest command line that is kept.
const MOST_ARGUMENT_BYTES: usize = 1024;

/// Programs that were opened to be run and are kept, of each queue.
const MOST_OPENED: usize = 1024;

/// How long: an exec takes a moment after its opening, in nanoseconds.
const OPENED_KEPT: u64 = 1_000_000_000;

/// How long a process is known after its end. Its events are read by then, and its number is not another's yet.
const KEPT: Duration = Duration::from_secs(1);

/// One program that a process ran.
#[derive(Debug, Default)]
pub struct Ran {
    /// When, in nanoseconds since the start of the host.
    pub time: u64,
    /// When the process began, in the same manner.
    pub start: u64,
    /// The program's path in the mount namespace of the process.
    pub path: PathBuf,
    /// What was asked for, when that is another path: a script, a link.
    pub asked: Option<PathBuf>,
    /// The program's file, as stat(2) tells it. On btrfs the kernel has another device.
    pub identity: Identity,
    /// The arguments with a NUL between them, as the new program got them.
    pub arguments: Vec<u8>,
    /// There were more arguments.
    pub is_cut: bool,
    /// Effective user.
    pub user: u32,
    /// Who logged in.
    pub login_user: Option<u32>,
    /// Who started it.
    pub parent: i32,
    /// When that one began.
    pub parent_start: u64,
    /// The nearest ancestor that ran a program of its own.
    pub maker: i32,
    /// When that one began.
    pub maker_start: u64,
    /// Number of its mount namespace.
    pub mount_namespace: u64,
}

impl Ran {
    fn of(exec: Exec) -> Self {
        let path = PathBuf::from(OsString::from_vec(exec.path));
        let asked = PathBuf::from(OsString::from_vec(exec.filename));
        // Without the dots in its middle.
        let asked: PathBuf = Path::new(&OsString::from_vec(exec.cwd)).join(asked).components().collect();
        let whole = exec.argument_bytes as usize;
        let mut arguments = exec.arguments.bytes().to_vec();
        arguments.truncate(MOST_ARGUMENT_BYTES);
        arguments.shrink_to_fit();
        let (major, minor) = exec.file.device;
        let pid = |number: u32| i32::try_from(number).unwrap_or_default();
        Self {
            time: exec.time,
            start: exec.who.start,
            asked: (asked != path).then_some(asked),
            path,
            identity: Identity { device: rustix::fs::makedev(major, minor), inode: exec.file.inode },
            // The last NUL is not kept.
            is_cut: arguments.len() + 1 < whole,
            arguments,
            user: exec.who.euid,
            login_user: exec.who.login_uid,
            parent: pid(exec.who.parent),
            parent_start: exec.who.parent_start,
            maker: pid(exec.who.maker),
            maker_start: exec.who.maker_start,
            mount_namespace: u64::from(exec.who.namespaces.mnt),
        }
    }

    fn bytes(&self) -> usize {
        let asked = self.asked.as_ref().map_or(0, |path| path.as_os_str().len());
        ENTRY_BYTES + self.path.as_os_str().len() + asked + self.arguments.len()
    }

    fn is(&self, path: &Path) -> bool {
        self.path == path || self.asked.as_deref() == Some(path)
    }
}

/// What one queue told that processes opened to be run, in its order.
#[derive(Debug, Default)]
pub struct Opened {
    by_pid: HashMap<i32, Vec<(u64, PathBuf)>>,
    count: usize,
}

impl Opened {
    /// A process opened a program to run it. The queue was read at `time`, in nanoseconds since the start of the host.
    pub fn put(&mut self, pid: i32, path: PathBuf, time: u64) {
        if self.count >= MOST_OPENED {
            self.by_pid.retain(|_, all| {
                all.retain(|(opened, _)| time.saturating_sub(*opened) < OPENED_KEPT);
                !all.is_empty()
            });
            self.count = self.by_pid.values().map(Vec::len).sum();
            if self.count >= MOST_OPENED {
                self.by_pid.clear();
                self.count = 0;
            }
        }
        self.count += 1;
        self.by_pid.entry(pid).or_default().push((time, path));
    }

    fn count(&self, pid: i32, ran: &Ran) -> usize {
        self.by_pid.get(&pid).map_or(0, |all| all.iter().filter(|(_, path)| ran.is(path)).count())
    }
}

/// Where one queue stands at the event that it tells now. Times are nanoseconds since the start of the host.
#[derive(Debug, Clone, Copy)]
pub struct Position<'a> {
    /// What it told before.
    pub opened: &'a Opened,
    /// What was before this was before the event.
    pub horizon: u64,
    /// What was read of it already has more that the process opened to run.
    pub more: bool,
}

/// How well it is known that a process ran a program when it did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// It did.
    Certain,
    /// As far as was told.
    Likely,
    /// It opened the program to run it more than once, and at least once in vain: a failed exec opens it as well.
    Doubtful,
}

/// What processes ran lately.
#[derive(Debug, Default)]
pub struct Execs {
    /// Of each process, the newest last.
    by_pid: HashMap<i32, Vec<Arc<Ran>>>,
    /// Which came, the oldest first; some are gone.
    order: VecDeque<(i32, u64)>,
    bytes: usize,
    /// Processes that ended, when that was learned, and when they began.
    ended: VecDeque<(Instant, i32, u64)>,
}

impl Execs {
    /// Takes what the kernel told.
    pub fn take(&mut self, event: Event, now: Instant) {
        match event {
            Event::Exec(exec) => {
                let Ok(pid) = i32::try_from(exec.who.pid) else { return };
                self.ran(pid, Ran::of(*exec));
            }
            Event::Exit(exit) => {
                let Ok(pid) = i32::try_from(exit.pid) else { return };
                if self.by_pid.contains_key(&pid) {
                    self.ended.push_back((now, pid, exit.start));
                }
            }
            Event::Net(_) | Event::Credentials { .. } | Event::Ptrace { .. } => {}
        }
        while self.ended.front().is_some_and(|(when, ..)| now.duration_since(*when) >= KEPT) {
            let Some((_, pid, start)) = self.ended.pop_front() else { break };
            let is_it = |all: &Vec<Arc<Ran>>| all.first().is_some_and(|ran| ran.start == start);
            if self.by_pid.get(&pid).is_some_and(is_it) {
                self.forget(pid);
            }
        }
    }

    fn ran(&mut self, pid: i32, ran: Ran) {
        // Another process has the number now.
        if self.by_pid.get(&pid).is_some_and(|all| all.iter().any(|known| known.start != ran.start)) {
            self.forget(pid);
        }
        self.bytes += ran.bytes();
        self.order.push_back((pid, ran.time));
        let all = self.by_pid.entry(pid).or_default();
        // Two threads read the ring in turns, and each hands on what it read in order.
        all.push(Arc::new(ran));
        if all.len() > MOST_OF_ONE {
            self.bytes -= all.remove(0).bytes();
        }
        while self.bytes > MOST_BYTES {
            let Some((pid, time)) = self.order.pop_front() else { break };
            if let Some(all) = self.by_pid.get_mut(&pid)
                && let Some(at) = all.iter().position(|ran| ran.time == time)
            {
                self.bytes -= all.remove(at).bytes();
                if all.is_empty() {
                    self.by_pid.remove(&pid);
                }
            }
        }
        if self.order.len() > 4 * MOST_BYTES / ENTRY_BYTES {
            let by_pid = &self.by_pid;
            self.order.retain(|(pid, time)| {
                by_pid.get(pid).is_some_and(|all| all.iter().any(|ran| ran.time == *time))
            });
        }
    }

    fn forget(&mut self, pid: i32) {
        let gone = self.by_pid.remove(&pid).unwrap_or_default();
        self.bytes -= gone.iter().map(|ran| ran.bytes()).sum::<usize>();
    }

    /// The program that a process ran when it did what a queue tells now. That is certain when it ran this before all
    /// that the queue tells now, and nothing later. That it opened the program before is no proof: a failed exec does
    /// as well, and two openings can be told as one.
    #[must_use]
    pub fn of(&self, pid: i32, queue: Position<'_>) -> Option<(&Arc<Ran>, Certainty)> {
        let all = self.by_pid.get(&pid)?;
        let opened = |ran: &Ran| queue.opened.count(pid, ran);
        let Some(at) = all.iter().rposition(|ran| ran.time < queue.horizon || opened(ran) > 0) else {
            // Of one that has just begun to run programs nothing is known before the first.
            return Some((all.first()?, Certainty::Likely));
        };
        let ran = all.get(at)?;
        let is_newest = at + 1 == all.len();
        let runs = all.iter().take(at + 1).filter(|other| other.path == ran.path).count();
        let certainty = if ran.time < queue.horizon {
            if is_newest { Certainty::Certain } else { Certainty::Likely }
        } else if queue.more || opened(ran) > runs {
            Certainty::Doubtful
        } else {
            Certainty::Likely
        };
        Some((ran, certainty))
    }

    /// The program that the process with this number and beginning ran at a moment.
    #[must_use]
    pub fn at(&self, pid: i32, start: u64, time: u64) -> Option<&Arc<Ran>> {
        let all = self.by_pid.get(&pid)?;
        all.iter().rev().find(|ran| ran.start == start && ran.time <= time)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "only its differences matter, they are made here")]
mod tests {
    use vigie_kernel_events::{Exit, Listed};

    use super::*;

    fn exec(pid: u32, start: u64, time: u64, path: &str) -> Event {
        let mut exec = Exec { time, path: path.into(), filename: path.into(), ..Exec::default() };
        (exec.who.pid, exec.who.start) = (pid, start);
        exec.arguments = Listed::from_bytes(b"x\0y".to_vec());
        exec.argument_bytes = 4;
        Event::Exec(Box::new(exec))
    }

    use Certainty::{Certain, Doubtful, Likely};

    /// When it ran what it did something with, and how certain that is, where these were opened before.
    fn time(execs: &Execs, pid: i32, paths: &[&str], horizon: u64) -> Option<(u64, Certainty)> {
        let mut opened = Opened::default();
        paths.iter().for_each(|path| opened.put(pid, path.into(), horizon));
        let queue = Position { opened: &opened, horizon, more: false };
        execs.of(pid, queue).map(|(ran, certainty)| (ran.time, certainty))
    }

    #[test]
    fn what_was_run_after_something_happened_did_not_do_it() {
        let now = Instant::now();
        let mut execs = Execs::default();
        execs.take(exec(7, 1, 100, "/bin/sh"), now);
        execs.take(exec(7, 1, 200, "/usr/sbin/useradd"), now);
        let at = |paths: &[&str], horizon| time(&execs, 7, paths, horizon);

        assert_eq!(at(&[], 50), Some((100, Likely)));
        assert_eq!(at(&["/bin/sh"], 50), Some((100, Likely)));
        assert_eq!(at(&["/bin/sh"], 150), Some((100, Likely)));
        assert_eq!(at(&["/usr/sbin/useradd"], 150), Some((200, Likely)));
        assert_eq!(at(&["/bin/sh"], 250), Some((200, Certain)));
        assert_eq!(time(&execs, 8, &[], 250), None);
    }

    #[test]
    fn a_program_that_was_opened_more_often_than_it_was_run_is_doubtful() {
        let mut execs = Execs::default();
        execs.take(exec(7, 1, 100, "/usr/bin/rpm"), Instant::now());
        let at = |paths: &[&str]| time(&execs, 7, paths, 50);

        assert_eq!(at(&["/usr/bin/rpm", "/lib64/ld-linux-x86-64.so.2"]), Some((100, Likely)));
        assert_eq!(at(&["/usr/bin/rpm", "/usr/bin/rpm"]), Some((100, Doubtful)));
        assert_eq!(at(&[]), Some((100, Likely)));
        let mut opened = Opened::default();
        opened.put(7, "/usr/bin/rpm".into(), 50);
        let queue = Position { opened: &opened, horizon: 50, more: true };
        assert_eq!(execs.of(7, queue).map(|(_, certainty)| certainty), Some(Doubtful));

        // It ran it twice.
        execs.take(exec(7, 1, 140, "/usr/bin/rpm"), Instant::now());
        assert_eq!(time(&execs, 7, &["/usr/bin/rpm", "/usr/bin/rpm"], 50), Some((140, Likely)));
    }

    #[test]
    fn a_process_is_known_for_a_while_after_its_end_and_not_taken_for_the_next_with_its_number() {
        let now = Instant::now();
        let mut execs = Execs::default();
        execs.take(exec(7, 1, 100, "/bin/a"), now);
        execs.take(Event::Exit(Exit { pid: 7, start: 1, ..Exit::default() }), now);
        assert!(time(&execs, 7, &[], 500).is_some());

        execs.take(exec(8, 2, 300, "/bin/b"), now + KEPT);
        assert!(time(&execs, 7, &[], 500).is_none());

        execs.take(exec(8, 9, 400, "/bin/c"), now + KEPT);
        assert_eq!(time(&execs, 8, &[], 0), Some((400, Likely)));
    }

    #[test]
    fn their_memory_is_bounded_whoever_runs_how_many() {
        let now = Instant::now();
        let mut execs = Execs::default();
        for number in 0..40_000 {
            execs.take(exec(number / 2, 1, u64::from(number), &"/x".repeat(200)), now);
        }

        assert!(execs.bytes <= MOST_BYTES, "{}", execs.bytes);
        let counted: usize = execs.by_pid.values().flatten().map(|ran| ran.bytes()).sum();
        assert_eq!(counted, execs.bytes);
        assert!(time(&execs, 39_999 / 2, &[], u64::MAX).is_some());
        assert!(execs.order.len() <= 4 * MOST_BYTES / ENTRY_BYTES + 1);
    }

    #[test]
    fn what_was_opened_is_bounded_and_the_newest_stays() {
        let mut opened = Opened::default();
        for number in 0..100_000 {
            opened.put(number % 9000, PathBuf::from("/x"), 5);
        }
        opened.put(7, PathBuf::from("/bin/sh"), 6);

        assert!(opened.count <= MOST_OPENED);
        assert_eq!(opened.count(7, &Ran { path: "/bin/sh".into(), ..Ran::default() }), 1);
    }

    #[test]
    fn a_script_is_what_was_asked_for_where_it_was_asked() {
        let Event::Exec(mut exec) = exec(7, 1, 1, "/bin/sh") else { panic!("it is one") };
        (exec.filename, exec.cwd) = (b"./job".to_vec(), b"/srv".to_vec());

        let ran = Ran::of(*exec);

        assert_eq!(ran.asked, Some(PathBuf::from("/srv/job")));
        assert!(!ran.is_cut && ran.is(Path::new("/srv/job")));
    }
}
