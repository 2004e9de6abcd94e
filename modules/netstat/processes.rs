//! Which processes have a socket open.
//!
//! The kernel tells of a socket only the number of its file, so the descriptors of all processes are read once
//! (proc_pid_fd(5)), beside the search. Numbers of socket files are the same in all network namespaces.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags, RawDir, open, openat, readlinkat_raw};
use rustix::io::Errno;
use serde::Serialize;

/// Most threads that read `/proc` at once.
const MAX_THREADS: usize = 8;

/// Bytes of directory entries that are read at once; the kernel gives at most 32 KiB.
const DIRECTORY_BYTES: usize = 32 * 1024;

/// Bytes of the longest link to a socket, `socket:[NUMBER]`; what is longer is none.
const LINK_BYTES: usize = 40;

/// Most of `/etc/passwd` that is read, in bytes.
const MAX_PASSWD_BYTES: u64 = 16 << 20;

/// A process that has a socket open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct Process {
    /// Its number, as this host counts.
    pub pid: u32,
    /// Its real user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// That user's name in `/etc/passwd`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Its name, at most 15 bytes: what `ps -o comm` shows.
    pub command: String,
    /// The path of its program as the kernel has it, with ` (deleted)` when it is not there any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
    /// The last part of its control group's path with an id of a container: a hint, see `processes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

/// The processes of sockets.
#[derive(Debug, Default)]
pub struct Owners {
    processes: Vec<Process>,
    /// Numbers of sockets with places in `processes`, sorted.
    sockets: Vec<(u64, usize)>,
    /// Processes whose descriptors could not be read.
    pub hidden: usize,
    /// Processes that were not read to the end, because the kernel held whoever looked.
    pub unresponsive: Vec<u32>,
    /// Whether the search was stopped before it came to its end.
    pub stopped: bool,
}

impl Owners {
    /// Processes with the numbers of their sockets.
    pub fn new(found: impl IntoIterator<Item = (Process, Vec<u64>)>) -> Self {
        let mut owners = Self::default();
        for (process, inodes) in found {
            let place = owners.processes.len();
            owners.sockets.extend(inodes.into_iter().map(|inode| (inode, place)));
            owners.processes.push(process);
        }
        owners.sockets.sort_unstable();
        owners
    }

    /// The processes of the socket with this number, ascending by pid. None when no process has it open, as
    /// when it is on its way in a message, or when the process could not be read.
    pub fn of(&self, inode: u64) -> impl Iterator<Item = &Process> {
        let first = self.sockets.partition_point(|(other, _)| *other < inode);
        let sockets = self.sockets[first..].iter().take_while(move |(other, _)| *other == inode);
        sockets.map(|(_, place)| &self.processes[*place])
    }
}

/// The processes of sockets that were found so far, for whoever answers when the kernel holds the search.
#[derive(Debug, Default)]
pub(crate) struct OwnersSoFar(Mutex<Reading>);

#[derive(Debug, Default)]
struct Reading {
    names: HashMap<u32, String>,
    found: Vec<(Process, Vec<u64>)>,
    hidden: usize,
    /// Processes that are being looked at.
    doing: BTreeSet<u32>,
    /// All of them were looked at.
    finished: bool,
}

impl OwnersSoFar {
    fn locked(&self) -> MutexGuard<'_, Reading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds the processes of all sockets. Stops early when `stop` says so.
    ///
    /// # Errors
    /// When the processes cannot be listed.
    pub(crate) fn read(&self, stop: &(dyn Fn() -> bool + Sync)) -> std::io::Result<()> {
        // First of all: whoever takes what was found so far must not wait for a disk.
        let names = local_user_names();
        self.locked().names = names;
        let pids: Vec<u32> = std::fs::read_dir("/proc")?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        let next = AtomicUsize::new(0);
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while !stop()
                        && let Some(pid) = pids.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        self.locked().doing.insert(*pid);
                        let process = sockets_of(*pid);
                        let mut reading = self.locked();
                        reading.doing.remove(pid);
                        match process {
                            Ok(Some(process)) => reading.found.push(process),
                            Ok(None) => {}
                            // A process that ends meanwhile has no sockets.
                            Err(Errno::NOENT | Errno::SRCH) => {}
                            Err(_) => reading.hidden += 1,
                        }
                    }
                });
            }
        });
        self.locked().finished = !stop();
        Ok(())
    }

    /// Takes what was found.
    pub(crate) fn take(&self) -> Owners {
        let Reading { names, mut found, hidden, doing, finished } = std::mem::take(&mut *self.locked());
        found.sort_unstable_by_key(|(process, _)| process.pid);
        let mut owners = Owners::new(found);
        for process in &mut owners.processes {
            process.user = process.uid.and_then(|uid| names.get(&uid).cloned());
        }
        owners.hidden = hidden;
        owners.unresponsive = doing.into_iter().collect();
        owners.stopped = !finished;
        owners
    }
}

/// Finds the processes of all sockets. Stops early, with what was found so far, when `stop` says so.
///
/// # Errors
/// When the processes cannot be listed.
pub fn owners(stop: &(dyn Fn() -> bool + Sync)) -> std::io::Result<Owners> {
    let so_far = OwnersSoFar::default();
    so_far.read(stop)?;
    Ok(so_far.take())
}

/// The process and the sockets that it has open, each once; `None` when it has none.
fn sockets_of(pid: u32) -> Result<Option<(Process, Vec<u64>)>, Errno> {
    // Everything is read below this descriptor: the number may be another process's soon.
    let process = open_directory(rustix::fs::CWD, &format!("/proc/{pid}"))?;
    let mut inodes = Vec::new();
    let descriptors = sockets_in(&process, "fd", &mut inodes)?;
    let mut program = "exe".to_owned();
    if descriptors == 0 {
        // The first thread of the process may have ended; the others have the descriptors.
        for thread in threads(&process)? {
            if sockets_in(&process, &format!("task/{thread}/fd"), &mut inodes).unwrap_or(0) > 0 {
                program = format!("task/{thread}/exe");
                break;
            }
        }
    }
    if inodes.is_empty() {
        return Ok(None);
    }
    inodes.sort_unstable();
    inodes.dedup();
    let command = read_text(&process, "comm")?.trim_end_matches('\n').to_owned();
    let uid = real_uid(&read_text(&process, "status")?);
    let executable = rustix::fs::readlinkat(&process, &program, Vec::new())
        .ok()
        .map(|path| path.to_string_lossy().into_owned());
    let container = read_text(&process, "cgroup").ok().and_then(|groups| container_of(&groups));
    Ok(Some((Process { pid, uid, user: None, command, executable, container }, inodes)))
}

/// The part of a control group's path that has the id of a container: 64 hexadecimal digits, or what systemd's scopes
/// of machines are called.
fn container_of(groups: &str) -> Option<String> {
    let parts = groups.lines().flat_map(|line| line.splitn(3, ':').nth(2).unwrap_or_default().rsplit('/'));
    let is_id = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    parts
        .map(|part| part.trim_end_matches(".scope").trim_end_matches(".service"))
        .find(|part| {
            is_id(part.rsplit(['-', ':']).next().unwrap_or_default()) || part.starts_with("machine-")
        })
        .map(str::to_owned)
}

/// Adds the sockets among the descriptors in a directory; returns how many descriptors there are.
fn sockets_in(process: &OwnedFd, name: &str, inodes: &mut Vec<u64>) -> Result<usize, Errno> {
    let directory = open_directory(process, name)?;
    let mut descriptors = 0;
    each_number(&directory, &mut |number| {
        descriptors += 1;
        let mut link = [MaybeUninit::<u8>::uninit(); LINK_BYTES];
        // A descriptor that is closed meanwhile is none.
        if let Ok((link, _)) = readlinkat_raw(&directory, number, &mut link[..])
            && let Some(inode) = socket_inode(link)
        {
            inodes.push(inode);
        }
    })?;
    Ok(descriptors)
}

/// The threads of a process.
fn threads(process: &OwnedFd) -> Result<Vec<String>, Errno> {
    let mut threads = Vec::new();
    each_number(&open_directory(process, "task")?, &mut |number| {
        threads.push(number.to_string_lossy().into_owned());
    })?;
    Ok(threads)
}

/// Calls `each` with the names in a directory that are numbers.
fn each_number(directory: &OwnedFd, each: &mut dyn FnMut(&CStr)) -> Result<(), Errno> {
    let mut buffer = Vec::with_capacity(DIRECTORY_BYTES);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if entry.file_name().to_bytes().first().is_some_and(u8::is_ascii_digit) {
            each(entry.file_name());
        }
    }
    Ok(())
}

fn open_directory(base: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    openat(base, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Reads a small file of `/proc`.
fn read_text(process: &OwnedFd, name: &str) -> Result<String, Errno> {
    let file = openat(process, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::new();
    File::from(file)
        .take(1 << 16)
        .read_to_end(&mut bytes)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The number in `socket:[NUMBER]`.
fn socket_inode(link: &[u8]) -> Option<u64> {
    let digits = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The first of the users in the row `Uid:` of proc_pid_status(5).
fn real_uid(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().next()?.parse().ok()
}

/// The names of users. Only the local file is asked: a directory service can be slow, or be what is being investigated.
/// Without names the numbers stay.
fn local_user_names() -> HashMap<u32, String> {
    let mut bytes = Vec::new();
    if let Ok(file) = open("/etc/passwd", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        File::from(file).take(MAX_PASSWD_BYTES).read_to_end(&mut bytes).ok();
    }
    user_names(&String::from_utf8_lossy(&bytes))
}

/// The first name of each user in the form of passwd(5).
fn user_names(passwd: &str) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in passwd.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(uid)) = (fields.next(), fields.nth(1))
            && let Ok(uid) = uid.parse()
        {
            names.entry(uid).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use proptest::prelude::*;

    use super::*;

    fn inode_of(socket: &impl AsRawFd) -> u64 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        socket_inode(link.to_str().unwrap().as_bytes()).unwrap()
    }

    #[test]
    fn the_process_of_a_socket_is_found_once_though_it_has_two_descriptors() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _same = listener.try_clone().unwrap();
        let inode = inode_of(&listener);

        let owners = owners(&|| false).unwrap();

        let mine: Vec<&Process> =
            owners.of(inode).filter(|process| process.pid == std::process::id()).collect();
        assert_eq!(mine.len(), 1);
        assert_eq!(mine[0].uid, Some(rustix::process::getuid().as_raw()));
        assert!(!mine[0].command.is_empty());
        assert_eq!(owners.of(0).count(), 0);
    }

    #[test]
    fn a_search_that_is_stopped_says_so() {
        let owners = owners(&|| true).unwrap();

        assert!(owners.stopped);
    }

    #[test]
    fn the_real_user_is_the_first_of_four() {
        assert_eq!(real_uid("Name:\tsshd\nUid:\t1000\t0\t0\t0\n"), Some(1000));
        assert_eq!(real_uid("Name:\tsshd\n"), None);
    }

    #[test]
    fn the_first_name_of_a_user_counts() {
        let names = user_names(
            "root:x:0:0:root:/root:/bin/bash\nbroken\ntoor:x:0:0::/:/bin/sh\nann:x:1000:1000::/:\n",
        );

        assert_eq!(names[&0], "root");
        assert_eq!(names[&1000], "ann");
        assert_eq!(names.len(), 2);
    }

    proptest! {
        #[test]
        fn only_links_to_sockets_have_a_number(inode in any::<u64>(), noise in "[a-z:\\[\\]0-9]{0,20}") {
            let link = format!("socket:[{inode}]");
            prop_assert_eq!(socket_inode(link.as_bytes()), Some(inode));
            prop_assert_eq!(socket_inode(&link.as_bytes()[..link.len() - 1]), None);
            let other = format!("pipe:{noise}");
            prop_assert_eq!(socket_inode(other.as_bytes()), None);
        }
    }
}
