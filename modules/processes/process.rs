//! One process as it was at one moment.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{AtFlags, Statx, StatxFlags, statx};
use rustix::io::Errno;

use crate::executable::{FileState, Inode, View};
use crate::procfs;
use crate::remote::{Remote, known_status};
use crate::stat::Stat;

/// How often a process is read that changes meanwhile.
const ATTEMPTS: usize = 12;

/// Most bytes of a command line that are read; the kernel knows no limit.
pub const MAX_COMMAND_BYTES: usize = 64 * 1024;

/// Most bytes of the list of control groups.
const MAX_CGROUP_BYTES: usize = 64 * 1024;

/// The kinds of namespaces, in the order of [`Process::namespaces`].
pub const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

const NAMESPACE_LINKS: [&str; 8] =
    ["ns/cgroup", "ns/ipc", "ns/mnt", "ns/net", "ns/pid", "ns/time", "ns/user", "ns/uts"];

/// The program that a process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executable {
    /// The name that the kernel gives, without its mark that the file is gone.
    pub path: Vec<u8>,
    /// What became of the file; unknown when identities were not asked for.
    pub state: FileState,
    /// The file; none when it was not asked for.
    pub file: Option<ExecutableFile>,
}

/// The file of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutableFile {
    /// Device and number.
    pub inode: Inode,
    /// Names that it has.
    pub links: u32,
    /// Kind and permissions.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its size in bytes.
    pub size: u64,
    /// The mount that it was found through.
    pub mount: u64,
    /// Seconds and nanoseconds of its last changes of content and status.
    pub times: [(i64, u32); 2],
}

impl ExecutableFile {
    fn of(status: &Statx) -> Self {
        Self {
            inode: Inode::of(status),
            links: status.stx_nlink,
            mode: status.stx_mode.into(),
            uid: status.stx_uid,
            size: status.stx_size,
            mount: status.stx_mnt_id,
            times: [status.stx_mtime, status.stx_ctime].map(|time| (time.tv_sec, time.tv_nsec)),
        }
    }
}

/// A process.
#[derive(Debug, Clone)]
pub struct Process {
    /// What the kernel says; of the whole process.
    pub stat: Stat,
    /// Its first thread has ended and this one lives: what follows is read from it.
    pub living_thread: Option<u32>,
    /// Its effective user and group.
    pub euid: u32,
    /// Its effective group.
    pub egid: u32,
    /// Who logged in.
    pub login_uid: Option<u32>,
    /// What it says that it was called with.
    pub argv: Vec<Vec<u8>>,
    /// There is more of it.
    pub argv_cut: bool,
    /// Its program.
    pub executable: Option<Executable>,
    /// Its working directory.
    pub cwd: Option<Vec<u8>>,
    /// The path of its control group.
    pub cgroup: Option<Vec<u8>>,
    /// The numbers of its namespaces, see [`NAMESPACES`].
    pub namespaces: [Option<u64>; 8],
    /// It kept changing while it was read, so that only what one reading of its state says is told.
    pub changed: bool,
    /// Some of it is not for us.
    pub denied: bool,
}

/// What is read of each process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// State of the program's file.
    pub identity: bool,
    /// The namespaces.
    pub namespaces: bool,
}

/// Reads processes.
#[derive(Debug)]
pub struct Reader {
    proc: OwnedFd,
    buffer: Vec<u8>,
    memory_device: Option<(u32, u32)>,
    remote: Rc<Remote>,
    depth: Depth,
}

/// A process with the directory that it was read from, for whoever wants more of it.
#[derive(Debug)]
pub struct Opened {
    /// `/proc/PID`
    pub directory: OwnedFd,
    /// The directory of the thread that lives, when the first one has ended.
    pub thread: Option<OwnedFd>,
}

impl Opened {
    /// Where files, memory and descriptors of the process are.
    #[must_use]
    pub fn living(&self) -> &OwnedFd {
        self.thread.as_ref().unwrap_or(&self.directory)
    }
}

impl Reader {
    /// Reads from the mounted `/proc`.
    ///
    /// # Errors
    /// When there is none.
    pub fn new(depth: Depth) -> Result<Self, Errno> {
        let proc = procfs::open_directory(rustix::fs::CWD, "/proc")?;
        let remote = Rc::new(Remote::default());
        remote.learn(&procfs::open_directory(&proc, "self")?);
        Ok(Self {
            proc,
            buffer: Vec::new(),
            memory_device: crate::executable::memory_device(),
            remote,
            depth,
        })
    }

    /// The processes that there are.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn list(&self) -> Result<Vec<u32>, Errno> {
        procfs::numbers(&self.proc, ".")
    }

    /// How paths of a process are followed.
    #[must_use]
    pub fn view<'a>(&'a self, directory: &'a OwnedFd) -> View<'a> {
        View { directory, memory_device: self.memory_device, remote: &self.remote }
    }

    /// The remote file systems that were met.
    #[must_use]
    pub fn remote(&self) -> Rc<Remote> {
        Rc::clone(&self.remote)
    }

    /// Reads a process; `None` when it is gone. `more` reads what else is wanted of it, and whether it is wanted at
    /// all: all of this is of one execution of its program.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read<T>(
        &mut self,
        pid: u32,
        mut more: impl FnMut(&Process, &Opened) -> Option<T>,
    ) -> Result<Option<(Process, Option<T>)>, Errno> {
        let directory = match procfs::open_directory(&self.proc, &pid.to_string()) {
            Ok(directory) => directory,
            Err(error) => return gone(error),
        };
        let mut opened = Opened { directory, thread: None };
        let mut last: Option<Process> = None;
        for attempt in 1..=ATTEMPTS {
            let before = match self.stat(&opened.directory) {
                Ok(stat) => stat,
                Err(error) => return gone(error),
            };
            opened.thread = self.living_thread(&opened.directory, &before);
            let before_living = match &opened.thread {
                // It may just have ended.
                Some(thread) => match self.stat(thread) {
                    Ok(stat) => stat,
                    Err(_) => continue,
                },
                None => before.clone(),
            };
            let process = match self.rest(&before, &before_living, &opened) {
                Ok(process) => process,
                Err(error) => return gone(error),
            };
            let wanted = more(&process, &opened);
            let after = match self.stat(opened.living()) {
                Ok(stat) => stat,
                Err(error) if opened.thread.is_none() => return gone(error),
                Err(_) => continue,
            };
            let in_exec = before_living.is_in_exec() || after.is_in_exec();
            if !in_exec && before_living.is_same_execution(&after) {
                return Ok(Some((process, wanted)));
            }
            if !in_exec {
                // A program that moves its own memory about again and again, but stays what it is.
                if attempt > ATTEMPTS / 2 && last.as_ref().is_some_and(|last| last.says_the_same(&process)) {
                    return Ok(Some((process, wanted)));
                }
                last = Some(process);
            }
            wait(attempt);
        }
        let stat = match self.stat(&opened.directory) {
            Ok(stat) => stat,
            Err(error) => return gone(error),
        };
        let process = Process::bare(stat, true);
        // Whether it is wanted can be said of what is known of it only.
        let wanted = more(&process, &opened);
        Ok(Some((process, wanted)))
    }

    fn stat(&mut self, directory: &OwnedFd) -> Result<Stat, Errno> {
        procfs::read(directory, "stat", 8192, &mut self.buffer)?;
        Stat::parse(&self.buffer).ok_or(Errno::SRCH)
    }

    /// The directory of a thread that lives when the first one has ended; its own are empty then.
    fn living_thread(&mut self, directory: &OwnedFd, stat: &Stat) -> Option<OwnedFd> {
        if stat.state != b'Z' || stat.threads < 2 {
            return None;
        }
        for thread in procfs::numbers(directory, "task").ok()? {
            if let Ok(thread) = procfs::open_directory(directory, &format!("task/{thread}"))
                && let Ok(stat) = self.stat(&thread)
                && !stat.has_ended()
            {
                return Some(thread);
            }
        }
        None
    }

    fn rest(&mut self, stat: &Stat, living: &Stat, opened: &Opened) -> Result<Process, Errno> {
        let mut process = Process::bare(stat.clone(), false);
        process.living_thread = opened.thread.is_some().then_some(living.pid);
        // The directory of a process belongs to its effective user, whatever its files do.
        let owner = statx(&opened.directory, "", AtFlags::EMPTY_PATH, StatxFlags::UID | StatxFlags::GID)?;
        (process.euid, process.egid) = (owner.stx_uid, owner.stx_gid);
        let directory = opened.living();
        let read = procfs::read(directory, "loginuid", 32, &mut self.buffer);
        if read.is_ok() {
            let text = std::str::from_utf8(&self.buffer).unwrap_or_default();
            process.login_uid = text.trim().parse().ok().filter(|uid| *uid != u32::MAX);
        }
        if procfs::read(directory, "cgroup", MAX_CGROUP_BYTES, &mut self.buffer).is_ok() {
            process.cgroup = cgroup_path(&self.buffer).map(<[u8]>::to_vec);
        }
        if stat.is_kernel_thread() {
            return Ok(process);
        }
        if let Ok(whole) = procfs::read(directory, "cmdline", MAX_COMMAND_BYTES, &mut self.buffer) {
            process.argv_cut = !whole;
            process.argv = arguments(&self.buffer);
        }
        process.denied = !living.is_traceable();
        if living.has_ended() {
            return Ok(process);
        }
        match self.executable(directory) {
            Ok(executable) => process.executable = Some(executable),
            Err(Errno::ACCESS | Errno::PERM) => process.denied = true,
            Err(_) => {}
        }
        process.cwd = procfs::link(directory, "cwd").ok();
        if self.depth.identity && was_renamed(&process, &self.view(directory)) {
            process.executable.iter_mut().for_each(|executable| executable.state = FileState::Renamed);
        }
        if self.depth.namespaces {
            for (place, link) in process.namespaces.iter_mut().zip(NAMESPACE_LINKS) {
                *place = procfs::link(directory, link).ok().and_then(|link| namespace(&link));
            }
        }
        Ok(process)
    }

    fn executable(&self, directory: &OwnedFd) -> Result<Executable, Errno> {
        let link = procfs::link(directory, "exe")?;
        if !self.depth.identity {
            return Ok(Executable { path: link, state: FileState::Unknown, file: None });
        }
        let status = known_status(directory, "exe")?;
        let (state, path) = self.view(directory).state(&link, &status);
        Ok(Executable { path: path.to_vec(), state, file: Some(ExecutableFile::of(&status)) })
    }
}

/// Whether a program was moved since it was started. The kernel names its file by the name that it has now; the name
/// that it was called by is what the process says, so both must fit: it is called so, and nothing is there any more.
fn was_renamed(process: &Process, view: &View<'_>) -> bool {
    const NAME_BYTES: usize = 15;
    fn base(path: &[u8]) -> &[u8] {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        &name[..name.len().min(NAME_BYTES)]
    }
    let (Some(executable), Some(called)) = (&process.executable, process.argv.first()) else { return false };
    if executable.state != FileState::Present
        || base(&executable.path) == process.stat.name
        || base(called) != process.stat.name
        || !called.contains(&b'/')
    {
        return false;
    }
    let path = match (called.starts_with(b"/"), &process.cwd) {
        (true, _) => called.clone(),
        (false, Some(cwd)) => [cwd, called.as_slice()].join(&b'/'),
        (false, None) => return false,
    };
    view.is_missing(&path)
}

/// Lets a process go on that is in the middle of something: on a busy host it may wait for a processor itself.
fn wait(attempt: usize) {
    if attempt < ATTEMPTS / 2 {
        rustix::thread::sched_yield();
    } else {
        let millisecond = rustix::thread::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        // A signal that ends it early does no harm.
        let _ = rustix::thread::nanosleep(&millisecond);
    }
}

/// A process that ended meanwhile is none, and no error.
fn gone<T>(error: Errno) -> Result<Option<T>, Errno> {
    match error {
        Errno::NOENT | Errno::SRCH => Ok(None),
        error => Err(error),
    }
}

impl Process {
    fn bare(stat: Stat, changed: bool) -> Self {
        Self {
            stat,
            living_thread: None,
            euid: u32::MAX,
            egid: u32::MAX,
            login_uid: None,
            argv: Vec::new(),
            argv_cut: false,
            executable: None,
            cwd: None,
            cgroup: None,
            namespaces: [None; 8],
            changed,
            denied: false,
        }
    }

    /// Whether two readings tell of the same program with the same arguments.
    fn says_the_same(&self, other: &Self) -> bool {
        self.stat.name == other.stat.name
            && self.stat.start_ticks == other.stat.start_ticks
            && self.executable == other.executable
            && self.executable.is_some()
            && self.argv == other.argv
    }

    /// The number of a namespace.
    #[must_use]
    pub fn namespace(&self, kind: &str) -> Option<u64> {
        let place = NAMESPACES.iter().position(|known| *known == kind)?;
        self.namespaces[place]
    }
}

/// What is separated by NUL; a program that wrote something else there has one argument, of what it wrote.
fn arguments(content: &[u8]) -> Vec<Vec<u8>> {
    let content = content.strip_suffix(b"\0").unwrap_or(content);
    if content.is_empty() {
        return Vec::new();
    }
    content.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

/// The path in version 2; where that is the root, as on hosts that have both, the longest one of version 1.
fn cgroup_path(content: &[u8]) -> Option<&[u8]> {
    let path = |line: &'_ [u8]| line.splitn(3, |byte| *byte == b':').nth(2).map(<[u8]>::len);
    let lines = content.split(|byte| *byte == b'\n').filter(|line| path(line).is_some());
    let unified = lines.clone().find(|line| line.starts_with(b"0::")).filter(|line| *line != b"0::/");
    let line = unified.or_else(|| lines.max_by_key(|line| path(line)))?;
    line.splitn(3, |byte| *byte == b':').nth(2)
}

/// The number in `net:[4026531840]`.
fn namespace(link: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(link).ok()?;
    text.split_once(":[")?.1.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_a_list() {
        let read = |content: &[u8]| {
            let all = arguments(content);
            all.iter().map(|argument| String::from_utf8_lossy(argument).into_owned()).collect::<Vec<_>>()
        };

        assert_eq!(read(b"a\0b c\0\0d\0"), ["a", "b c", "", "d"]);
        assert_eq!(read(b"sshd: ann [priv]"), ["sshd: ann [priv]"]);
        assert_eq!(read(b""), [""; 0]);
        assert_eq!(read(b"\0"), [""; 0]);
    }

    #[test]
    fn the_path_of_a_control_group_is_that_of_version_2_or_the_longest() {
        assert_eq!(cgroup_path(b"0::/system.slice/a:b\n"), Some(&b"/system.slice/a:b"[..]));
        assert_eq!(cgroup_path(b"4:pids:/docker/x\n1:name=systemd:/\n0::/\n"), Some(&b"/docker/x"[..]));
        assert_eq!(cgroup_path(b"0::/\n"), Some(&b"/"[..]));
        assert_eq!(cgroup_path(b""), None);
    }

    #[test]
    fn a_namespace_has_a_number() {
        assert_eq!(namespace(b"net:[4026531840]"), Some(4_026_531_840));
        assert_eq!(namespace(b"net:"), None);
    }
}
