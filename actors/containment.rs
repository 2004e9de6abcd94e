//! Keeps hold of everything that a module starts, so that nothing of it outlives the module.
//!
//! A process can leave its parent, its process group and its session, but not its cgroup. Where a cgroup v2
//! directory is writable, each module runs in one of its own, and `cgroup.kill` ends all of it at once
//! (kernel 5.14, Documentation/admin-guide/cgroup-v2.rst). Elsewhere the process group is all that is killed:
//! what a module put into a session of its own survives, and `status` says that the containment is `session`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Pid, getsid};
use vigie_host::mounts::Mounts;

/// Times that a cgroup is looked at until it is empty, and the pause between: about a second.
const EMPTY_CHECKS: u32 = 100;
const EMPTY_PAUSE: Duration = Duration::from_millis(10);

/// Where the cgroups of this agent's modules are.
#[derive(Debug, Clone, Default)]
pub struct Containment {
    root: Option<PathBuf>,
}

impl Containment {
    /// Finds a writable cgroup and kills what an earlier agent of the same run directory left there. Blocking.
    /// The caller holds the run directory's lock, so no living agent uses it.
    #[must_use]
    pub fn prepare(run_dir: &Path) -> Self {
        let Some(own) = own_cgroup() else { return Self::default() };
        let name: String = run_dir.to_string_lossy().replace('/', "-").chars().rev().take(200).collect();
        let root = own.join(format!("vigie{}", name.chars().rev().collect::<String>()));
        if root.exists() {
            kill_tree(&root).ok();
        }
        if fs::create_dir_all(&root).is_err() || !root.join("cgroup.kill").exists() {
            fs::remove_dir(&root).ok();
            return Self::default();
        }
        Self { root: Some(root) }
    }

    /// The directory that holds the modules' cgroups.
    #[must_use]
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// Name of what holds modules, for people.
    #[must_use]
    pub fn describe(&self) -> &'static str {
        if self.root.is_some() { "cgroup" } else { "session" }
    }

    /// Makes a cgroup. Creating a directory there is a matter of microseconds, in memory only.
    #[must_use]
    pub fn group(&self, name: &str) -> Option<PathBuf> {
        let path = self.root.as_ref()?.join(name);
        match fs::create_dir(&path) {
            Ok(()) => Some(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Some(path),
            Err(_) => None,
        }
    }

    /// Removes the modules' cgroups when the agent stops. Blocking.
    pub fn remove(&self) {
        if let Some(root) = &self.root {
            kill_tree(root).ok();
        }
    }
}

/// Directory of the cgroup v2 that this process is in (cgroups(7): `/proc/self/cgroup`, line `0::PATH`).
fn own_cgroup() -> Option<PathBuf> {
    let mount = mount_point(&Mounts::read().ok()?)?;
    let path = cgroup_path(&fs::read_to_string("/proc/self/cgroup").ok()?)?;
    Some(mount.join(path.trim_start_matches('/')))
}

fn cgroup_path(text: &str) -> Option<String> {
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// Where cgroup v2 is mounted.
fn mount_point(mounts: &Mounts) -> Option<PathBuf> {
    mounts.iter().find(|mount| mount.kind == "cgroup2").map(|mount| mount.point.clone())
}

/// Kills every process in a cgroup and below. Blocking, microseconds.
///
/// # Errors
/// When the kernel does not take the order.
pub fn kill(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.kill"), "1")
}

/// Kills every process of the session `session`, which is also the number of its first process. That one has ended and is
/// not reaped, so the number cannot mean another session. Blocking.
pub fn kill_session(session: u32) {
    let Ok(session) = i32::try_from(session) else { return };
    kill_sessions(|of| of == session, session);
}

/// Kills every process whose session `is_ours`, but not process `spared`.
pub fn kill_sessions(is_ours: impl Fn(i32) -> bool, spared: i32) {
    let Ok(processes) = fs::read_dir("/proc") else { return };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for pid in pids.filter(|pid| *pid != spared) {
        // The descriptor first: the process that is asked for its session is then the one that is killed.
        let Some(process) = rustix::process::Pid::from_raw(pid) else { continue };
        let Ok(pidfd) = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()) else {
            continue;
        };
        if getsid(Some(Pid::from_raw(pid))).is_ok_and(|session| is_ours(session.as_raw())) {
            rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).ok();
        }
    }
}

/// Whether any process is in a cgroup or below; a cgroup that is gone is empty.
#[must_use]
pub fn is_empty(group: &Path) -> bool {
    match fs::read_to_string(group.join("cgroup.events")) {
        Ok(events) => events.lines().any(|line| line == "populated 0"),
        Err(_) => true,
    }
}

/// Kills what is in a cgroup and below, waits about a second for it to be gone, and removes the directories.
/// Blocking.
///
/// # Errors
/// When something is left.
pub fn kill_tree(group: &Path) -> io::Result<()> {
    if !is_empty(group) {
        kill(group)?;
        for _ in 0..EMPTY_CHECKS {
            if is_empty(group) {
                break;
            }
            pause();
        }
    }
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            kill_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

#[expect(
    clippy::disallowed_methods,
    reason = "runs on the blocking pool, and the kernel offers no event to block on"
)]
fn pause() {
    std::thread::sleep(EMPTY_PAUSE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_point_of_cgroup_v2_is_found() {
        let mountinfo = b"30 23 0:26 / /sys/fs/cgroup rw,nosuid - tmpfs tmpfs rw\n\
            31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid,nodev shared:9 - cgroup2 cgroup2 rw\n";

        assert_eq!(mount_point(&Mounts::parse(mountinfo)), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mount_point(&Mounts::parse(b"garbage\n1 2 3 - cgroup cgroup rw")), None);
    }

    #[test]
    fn the_own_cgroup_is_the_line_with_number_zero() {
        assert_eq!(
            cgroup_path("4:memory:/x\n0::/system.slice/vigie.service\n").as_deref(),
            Some("/system.slice/vigie.service")
        );
        assert_eq!(cgroup_path("4:memory:/x\n"), None);
    }
}
