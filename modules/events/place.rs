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
        None => cached(pid, path, rights, host).ok(),
    }
}

/// The same in a mount namespace of its own, as a sandboxed daemon has: only what the kernel knows without asking a file
/// system, and only where root alone can have made that namespace.
fn cached(pid: u32, path: &[u8], rights: &Rights, host: [u32; 4]) -> Result<Seen, Errno> {
    let [_, pids, _, users] = rights.namespaces;
    // The first process may show its namespaces to nobody.
    let is_hosts = |kind: &str, its: u32, first: u32| its != 0 && its == first || is_own(kind, its);
    if !is_hosts("pid", pids, host[1]) || !is_hosts("user", users, host[3]) {
        return Err(Errno::AGAIN);
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = openat(CWD, format!("/proc/{pid}/root"), flags, Mode::empty()).map_err(|_| Errno::AGAIN)?;
    let how = ResolveFlags::CACHED | ResolveFlags::IN_ROOT;
    let file = openat2(&root, path, flags | OFlags::NOFOLLOW, Mode::empty(), how)?;
    let asked = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let now = statx(&file, "", asked, StatxFlags::BASIC_STATS)?;
    Ok(Seen { owner: now.stx_uid, mode: now.stx_mode.into(), inode: now.stx_ino })
}

/// Whether there is another file, or nobody knows: whoever builds a server again while it runs does nothing unusual, and
/// neither does an upgrade in a container. Where everybody may write anybody can see to that, and the system's
/// directories are looked at more closely by the rule.
pub(crate) fn is_made_again(pid: u32, path: &[u8], rights: &Rights, host: [u32; 4]) -> bool {
    if WRITABLE.iter().any(|directory| path.starts_with(directory)) {
        return false;
    }
    if is_of_system(path) && root(rights, host).is_some() {
        return false;
    }
    if is_own("mnt", rights.namespaces[0]) {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        return openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED).is_ok();
    }
    match cached(pid, path, rights, host) {
        Ok(_) => !is_of_system(path),
        Err(error) => error != Errno::NOENT,
    }
}
