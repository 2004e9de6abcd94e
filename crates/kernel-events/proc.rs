//! Processes as `/proc` shows them: for what ran before the source was opened, and for sources that tell no more than a
//! number.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{FsWord, StatFs, statfs};

use crate::account::Account;
use crate::event::{Exec, File, Identity, Listed, Namespaces};

/// `USER_HZ`: ticks of a second in `/proc`, the same on all architectures that we build for.
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

/// `PROC_PID_INIT_INO` of `linux/proc_ns.h`.
const FIRST_PID_NAMESPACE: u64 = 0xefff_fffc;

/// As many bytes of arguments as the kernel's programs take.
const LONGEST_ARGUMENTS: usize = 4096;

/// Reads one process as if it had just run its program; `None` when it is gone or is a kernel thread.
#[must_use]
pub fn read(pid: u32, time: u64) -> Option<Exec> {
    let place = format!("/proc/{pid}");
    let stat = Stat::parse(&fs::read(format!("{place}/stat")).ok()?)?;
    let path = fs::read_link(format!("{place}/exe")).ok()?;
    let mut arguments = fs::read(format!("{place}/cmdline")).unwrap_or_default();
    let argument_bytes = u32::try_from(arguments.len()).unwrap_or(u32::MAX);
    let argument_count = arguments.iter().filter(|byte| **byte == 0).count();
    arguments.truncate(LONGEST_ARGUMENTS);
    if arguments.len() == argument_bytes as usize && arguments.ends_with(b"\0") {
        arguments.pop();
    }
    let status = fs::read(format!("{place}/status")).ok()?;
    let ids = |key: &str| numbers(&status, key);
    let (uids, gids) = (ids("Uid:"), ids("Gid:"));
    let file = file(&format!("{place}/exe"));
    let login = |name: &str| {
        let text = fs::read_to_string(format!("{place}/{name}")).ok()?;
        text.trim().parse().ok().filter(|number| *number != u32::MAX)
    };
    let namespace = |name: &str| -> Option<u32> {
        let link = fs::read_link(format!("{place}/ns/{name}")).ok()?;
        let text = link.to_str()?.split(['[', ']']).nth(1)?.parse().ok()?;
        Some(text)
    };
    let capabilities = |key: &str| {
        let text = String::from_utf8_lossy(&status).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix(key).map(str::trim).map(str::to_owned));
        line.and_then(|line| u64::from_str_radix(&line, 16).ok()).unwrap_or(0)
    };
    let pid_namespace = namespace("pid").unwrap_or(0);
    let exec = Exec {
        time,
        account: account(uids[0], pid_namespace),
        who: Identity {
            start: stat.start_ticks.saturating_mul(NANOSECONDS_PER_TICK),
            parent_start: start_of(stat.parent).unwrap_or(0),
            maker: stat.parent,
            maker_start: start_of(stat.parent).unwrap_or(0),
            pid,
            tid: pid,
            parent: stat.parent,
            group: stat.group,
            session: stat.session,
            uid: uids[0],
            gid: gids[0],
            euid: uids[1],
            egid: gids[1],
            suid: uids[2],
            fsuid: uids[3],
            login_uid: login("loginuid"),
            login_session: login("sessionid"),
            namespaces: Namespaces {
                mnt: namespace("mnt").unwrap_or(0),
                pid: pid_namespace,
                net: namespace("net").unwrap_or(0),
                user: namespace("user").unwrap_or(0),
            },
            exe_device: file.device,
            exe_inode: file.inode,
            exe_links: file.links,
            effective: capabilities("CapEff:"),
            permitted: capabilities("CapPrm:"),
            cgroup: 0,
            cgroup_v2: 0,
            name: stat.name,
        },
        file,
        argument_count: u32::try_from(argument_count).unwrap_or(u32::MAX),
        argument_bytes,
        old_tid: pid,
        filename: Vec::new(),
        path: {
            let bytes = path.as_os_str().as_bytes();
            let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
            // Something in memory has no place; the kernel's text for it begins with one.
            bytes.strip_prefix(b"/").filter(|name| name.starts_with(b"memfd:")).unwrap_or(bytes).to_vec()
        },
        cwd: fs::read_link(format!("{place}/cwd"))
            .map(|path| path.as_os_str().as_bytes().to_vec())
            .unwrap_or_default(),
        arguments: Listed::from_bytes(arguments),
        claimed: true,
        ..Exec::default()
    };
    // Another process can have the number by now.
    (start_of(pid)? == exec.who.start).then_some(exec)
}

/// Whether this process has the numbers of processes that the kernel's programs tell: those of the first namespace.
#[must_use]
pub(crate) fn is_first_pid_namespace() -> bool {
    fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() == FIRST_PID_NAMESPACE)
}

/// The number of the first process's network namespace.
#[cfg_attr(not(bpf_program), expect(dead_code, reason = "only the programs need it"))]
pub(crate) fn host_net_namespace() -> Option<u32> {
    fs::metadata("/proc/1/ns/net").ok().and_then(|namespace| u32::try_from(namespace.ino()).ok())
}

/// Whose a process is, as far as its user and pid namespace tell.
fn account(uid: u32, pid_namespace: u32) -> Account {
    match uid {
        0 if u64::from(pid_namespace) != FIRST_PID_NAMESPACE => Account::container(pid_namespace),
        uid => Account::user(uid),
    }
}

/// When this process began, in nanoseconds since the start of the host, as exact as `/proc` has it: 10 ms.
#[must_use]
pub fn start_of(pid: u32) -> Option<u64> {
    let stat = Stat::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)?;
    Some(stat.start_ticks.saturating_mul(NANOSECONDS_PER_TICK))
}

/// All processes that run a program of their own, as they are now.
#[must_use]
pub fn all(time: u64) -> Vec<Exec> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| read(pid, time))
        .collect()
}

fn file(path: &str) -> File {
    let Ok(metadata) = fs::metadata(path) else { return File::default() };
    let device = metadata.dev();
    let magic = statfs(path).map_or(0, |at: StatFs| magic_of(at.f_type));
    File {
        device: (rustix::fs::major(device), rustix::fs::minor(device)),
        inode: metadata.ino(),
        size: metadata.size(),
        changed: metadata.ctime(),
        filesystem: magic,
        mode: metadata.mode(),
        owner: metadata.uid(),
        links: u32::try_from(metadata.nlink()).unwrap_or(u32::MAX),
        generation: 0,
    }
}

fn magic_of(kind: FsWord) -> u64 {
    u64::from_ne_bytes(kind.to_ne_bytes()) & 0xffff_ffff
}

fn numbers(status: &[u8], key: &str) -> [u32; 4] {
    let text = String::from_utf8_lossy(status);
    let mut found = [0; 4];
    if let Some(line) = text.lines().find_map(|line| line.strip_prefix(key)) {
        for (place, word) in found.iter_mut().zip(line.split_whitespace()) {
            *place = word.parse().unwrap_or(0);
        }
    }
    found
}

/// The first fields of `/proc/PID/stat`.
struct Stat {
    name: Vec<u8>,
    parent: u32,
    group: u32,
    session: u32,
    start_ticks: u64,
}

impl Stat {
    /// The name may hold anything, also blanks and brackets: it ends at the last one.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let open = bytes.iter().position(|byte| *byte == b'(')?;
        let close = bytes.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(bytes.get(close + 2..)?).ok()?;
        let fields: Vec<&str> = rest.split(' ').collect();
        Some(Self {
            name: bytes.get(open + 1..close)?.to_vec(),
            parent: fields.get(1)?.parse().ok()?,
            group: fields.get(2)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            start_ticks: fields.get(19)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_read_as_it_is() {
        let exec = read(std::process::id(), 5).expect("this process is there");

        let own = std::env::current_exe().unwrap();
        assert_eq!(exec.path, own.as_os_str().as_bytes());
        let arguments: Vec<Vec<u8>> = exec.arguments.iter().map(<[u8]>::to_vec).collect();
        let expected: Vec<Vec<u8>> = std::env::args_os().map(|text| text.as_bytes().to_vec()).collect();
        assert_eq!(arguments, expected);
        assert!(exec.claimed);
        assert_eq!(exec.file.inode, fs::metadata(own).unwrap().ino());
        assert_ne!(exec.who.namespaces.mnt, 0);
    }

    #[test]
    fn a_name_with_brackets_does_not_move_the_fields() {
        let text = b"7 (a) R (b) S 1 2 3 0 0 0 0 0 0 0 0 0 0 0 0 0 1 0 99 0\n";

        let stat = Stat::parse(text).expect("it is whole");

        assert_eq!(stat.name, b"a) R (b");
        assert_eq!((stat.parent, stat.group, stat.session, stat.start_ticks), (1, 2, 3, 99));
    }
}
