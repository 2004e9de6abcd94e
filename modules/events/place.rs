//! What is in the place of a program whose file was removed.

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, openat, openat2, stat, statx};
use rustix::io::Errno;

use crate::record::Rights;

/// Where packages put programs, and only root writes.
const SYSTEM: [&[u8]; 6] = [b"/usr/", b"/bin/", b"/sbin/", b"/lib/", b"/lib64/", b"/opt/"];

/// Directories in which anybody can see to it that there is another file.
const WRITABLE: [&[u8]; 4] = [b"/tmp/", b"/var/tmp/", b"/dev/", b"/run/"];

pub(crate) fn is_of_system(path: &[u8]) -> bool {
    SYSTEM.iter().any(|directory| path.starts_with(directory))
}

/// What is known of a file without opening it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) owner: u32,
    pub(crate) mode: u32,
    pub(crate) inode: u64,
}

/// Whether a namespace is that of this program.
fn is_own(kind: &str, namespace: u32) -> bool {
    namespace != 0
        && stat(format!("/proc/self/ns/{kind}")).is_ok_and(|own| own.st_ino == u64::from(namespace))
}

/// The root of the host's files, for a process that sees them; others have a mount namespace of their own.
fn root(rights: &Rights, host: [u32; 4]) -> Option<&'static [u8]> {
    let mounts = rights.namespaces[0];
    if mounts != 0 && mounts == host[0] {
        return Some(b"/proc/1/root");
    }
    is_own("mnt", mounts).then_some(b"")
}

/// What is at a path of the system's programs now, as a process sees it. On the host itself no user decides how long a
/// look there takes.
pub(crate) fn of_system(pid: u32, path: &[u8], rights: &Rights, host: [u32; 4]) -> Option<Seen> {
    if !is_of_system(path) {
        return None;
    }
    match root(rights, host) {
        Some(root) => {
            let now = rustix::fs::lstat([root, path].concat()).ok()?;
            Some(Seen { owner: now.st_uid, mode: now.st_mode, inode: now.st_ino })
        }
        None => in_sandbox(pid, path, rights, host).ok(),
    }
}

/// Whether nobody but root can have made the namespaces of a process, other than that of its mounts.
fn is_of_host(rights: &Rights, host: [u32; 4]) -> bool {
    let [_, pids, _, users] = rights.namespaces;
    // The first process may show its namespaces to nobody.
    let is_hosts = |kind: &str, its: u32, first: u32| its != 0 && its == first || is_own(kind, its);
    is_hosts("pid", pids, host[1]) && is_hosts("user", users, host[3])
}

/// The same in a mount namespace of its own, as a sandboxed daemon has: only what the kernel knows without asking a file
/// system, and only where root alone can have made that namespace. That is nothing of a name that was removed a moment
/// ago: such sandboxes share the system's directories, so these are then looked at as the first process sees them, as
/// far as they are on the root file system, which answers.
fn in_sandbox(pid: u32, path: &[u8], rights: &Rights, host: [u32; 4]) -> Result<Seen, Errno> {
    if !is_of_host(rights, host) {
        return Err(Errno::AGAIN);
    }
    match seen(&format!("/proc/{pid}/root"), path, ResolveFlags::CACHED) {
        Err(Errno::AGAIN) if is_of_system(path) => match seen("/proc/1/root", path, ResolveFlags::NO_XDEV) {
            // The first process may show its files to nobody.
            Err(Errno::AGAIN) => seen("/", path, ResolveFlags::NO_XDEV),
            found => found,
        },
        found => found,
    }
}

/// What is at a path below a root, when it can be reached in this way.
fn seen(root: &str, path: &[u8], how: ResolveFlags) -> Result<Seen, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = openat(CWD, root, flags, Mode::empty()).map_err(|_| Errno::AGAIN)?;
    let file = openat2(&root, path, flags | OFlags::NOFOLLOW, Mode::empty(), how | ResolveFlags::IN_ROOT)?;
    let asked = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let now = statx(&file, "", asked, StatxFlags::BASIC_STATS)?;
    Ok(Seen { owner: now.stx_uid, mode: now.stx_mode.into(), inode: now.stx_ino })
}

/// What has become of a removed program's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// Another file is there.
    Again,
    /// Nothing is there, or a file that the rule looks at more closely.
    Gone,
    Unknown,
}

/// Whether there is another file: whoever builds a server again while it runs does nothing unusual. Where everybody may
/// write anybody can see to that, and the system's directories are looked at more closely by the rule. Not known is what
/// a container has in the system's directories, where an upgrade is no attack either.
pub(crate) fn of_removed(pid: u32, path: &[u8], rights: &Rights, host: [u32; 4]) -> Left {
    if WRITABLE.iter().any(|directory| path.starts_with(directory)) {
        return Left::Gone;
    }
    if is_of_system(path) {
        if root(rights, host).is_some() {
            return Left::Gone;
        }
        return match in_sandbox(pid, path, rights, host) {
            Ok(_) | Err(Errno::NOENT) => Left::Gone,
            Err(_) => Left::Unknown,
        };
    }
    let is_again = if is_own("mnt", rights.namespaces[0]) {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED).is_ok()
    } else {
        // Of a name that was removed a moment ago the kernel knows nothing.
        in_sandbox(pid, path, rights, host).is_ok()
    };
    if is_again { Left::Again } else { Left::Gone }
}
