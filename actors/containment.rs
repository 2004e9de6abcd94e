//! Keeps hold of everything that a module starts, so that nothing of it outlives the module and nothing of it takes
//! more than its share.
//!
//! A process can leave its parent, its process group and its session, but not its cgroup. Each life of a module runs in
//! one of its own, beside the agent's:
//!
//! ```text
//! the cgroup in which the agent was started
//! └── vigie-RUN-DIRECTORY
//!     ├── agent               the agent, its guard and its writers
//!     └── modules
//!         └── fswatch.1       a life of a module
//! ```
//!
//! Beside, not above: a cgroup of version 2 that has processes of its own cannot share out controllers to those below
//! it (Documentation/admin-guide/cgroup-v2.rst, "no internal process constraint"). What version 2 does not have, on
//! hosts that mount both, is limited by version 1, where `vigie-RUN-DIRECTORY` holds the modules' groups and the agent
//! stays where it is. `cgroup.kill` (kernel 5.14) ends all at once; where it is missing no more tasks are allowed and
//! the members are killed until there are none.
//!
//! Where no cgroup is writable, `vigie launch` stays above each module and ends what the module leaves behind
//! (`containment: launcher` in `status`).

#![expect(
    clippy::disallowed_methods,
    reason = "files of the kernel, which wait for no disk; what takes time is called on Lane::Kill and Lane::Modules"
)]

mod hierarchy;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{Pid, getsid};
use vigie_config::model::ProcessLimits;
use walkdir::{DirEntry, WalkDir};

use self::hierarchy::{Controller, Hierarchies};
use crate::life::Limit;

/// Times that a cgroup is looked at until it is empty, and the pause between: about a second.
const EMPTY_CHECKS: u32 = 100;
const EMPTY_PAUSE: Duration = Duration::from_millis(10);

/// Microseconds in which a module's share of processors is counted, the kernel's default.
const CPU_PERIOD: u64 = 100_000;

/// Where the cgroups of this agent's modules are. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Containment {
    tree: Arc<Tree>,
}

#[derive(Debug, Default)]
struct Tree {
    /// `vigie-RUN-DIRECTORY` in version 2.
    unified: Option<PathBuf>,
    /// Controllers that modules' groups have in version 2.
    shared: Vec<Controller>,
    /// The others, with `vigie-RUN-DIRECTORY` in version 1.
    legacy: Vec<(Controller, PathBuf)>,
    /// Lives of an earlier agent's modules that no kill ended.
    left: Vec<PathBuf>,
}

impl Tree {
    fn roots(&self) -> Vec<PathBuf> {
        let unified = self.unified.iter().map(|root| root.join("modules"));
        unified.chain(self.legacy.iter().map(|(_, root)| root.clone())).collect()
    }
}

impl Containment {
    /// Finds a writable cgroup, moves the agent into its own, and kills what an earlier agent of the same run directory
    /// left there. Blocking. The caller holds the run directory's lock, so no living agent uses it.
    #[must_use]
    pub fn prepare(run_dir: &Path) -> Self {
        let Some(hierarchies) = Hierarchies::read() else { return Self::default() };
        let name: String = run_dir.to_string_lossy().replace('/', "-").chars().rev().take(200).collect();
        let name = format!("vigie{}", name.chars().rev().collect::<String>());
        let mut tree = Tree::default();
        if let Some(own) = hierarchies.unified() {
            // An agent that was started by what another one left in its group is not put below it.
            let own = above(&own, &name);
            tree.shared = share_out(&own, &name).unwrap_or_default();
            tree.unified = Some(own.join(&name)).filter(|root| root.join("modules").is_dir());
        }
        for controller in Controller::ALL {
            if !tree.shared.contains(&controller)
                && let Some(root) = hierarchies.legacy(controller).map(|own| own.join(&name))
            {
                if root.exists() {
                    kill_tree(&root).ok();
                }
                if make(&root).is_ok() {
                    tree.legacy.push((controller, root));
                }
            }
        }
        let lives = tree.roots().into_iter().filter_map(|root| fs::read_dir(root).ok()).flatten().flatten();
        tree.left = lives.map(|life| life.path()).filter(|life| life.is_dir() && !is_empty(life)).collect();
        Self { tree: Arc::new(tree) }
    }

    /// The directories that hold the modules' cgroups. To kill all of them is to kill all modules.
    #[must_use]
    pub fn roots(&self) -> Vec<PathBuf> {
        self.tree.roots()
    }

    /// Whether modules run in cgroups.
    #[must_use]
    pub(crate) fn has_groups(&self) -> bool {
        self.tree.unified.is_some() || self.tree.legacy.iter().any(|(of, _)| *of == Controller::Tasks)
    }

    /// Name of what holds modules, for people.
    #[must_use]
    pub fn describe(&self) -> &'static str {
        if self.has_groups() { "cgroup" } else { "launcher" }
    }

    /// Makes the cgroup of one life of a module, with its limits. Blocking.
    #[must_use]
    pub fn group(&self, name: &str, limits: &ProcessLimits) -> Group {
        let mut group = Group::default();
        if !self.has_groups() {
            group.complain_of_all(limits, "no cgroup is writable");
            return group;
        }
        let unified = self.tree.unified.as_ref().map(|root| root.join("modules").join(name));
        if let Some(directory) = unified.as_ref().filter(|directory| make(directory).is_ok()) {
            group.directories.push(directory.clone());
        }
        for controller in Controller::ALL {
            let legacy = self.tree.legacy.iter().find(|(of, _)| *of == controller);
            let directory = match legacy {
                Some((_, root)) => Some(root.join(name)).filter(|directory| make(directory).is_ok()),
                None if self.tree.shared.contains(&controller) => unified.clone(),
                None => None,
            };
            let applied = match &directory {
                Some(directory) => limit(directory, controller, limits),
                None => Err(io::Error::other("this limit is not available on this host")),
            };
            if let Err(error) = applied {
                group.complain(controller, limits, &error.to_string());
            }
            if let Some(directory) = directory.filter(|directory| !group.directories.contains(directory)) {
                group.directories.push(directory);
            }
        }
        group
    }

    /// The cgroups of a module that an earlier agent left and no kill emptied when this one started.
    pub(crate) fn left_of(&self, module: &str) -> Vec<PathBuf> {
        let is_of_module = |life: &&PathBuf| {
            let name = life.file_name().and_then(OsStr::to_str).and_then(|name| name.rsplit_once('.'));
            name.is_some_and(|(name, _)| name == module)
        };
        self.tree.left.iter().filter(is_of_module).cloned().collect()
    }

    /// Removes the modules' cgroups when the agent stops, and leaves the agent's own. Blocking.
    pub fn remove(&self) {
        remove(&self.roots());
    }
}

/// Kills what is in the cgroups that [`Containment::roots`] names and removes them; then takes the agent's processes
/// out of its cgroup beside them, and removes that. Where the group above shares out controllers it takes no process,
/// and empty directories stay for the next agent. Blocking.
pub fn remove(roots: &[PathBuf]) {
    for root in roots {
        kill_tree(root).ok();
    }
    let beside =
        |root: &PathBuf| root.ends_with("modules").then(|| root.parent().map(Path::to_owned)).flatten();
    let Some(root) = roots.iter().find_map(beside) else { return };
    let agent = root.join("agent");
    // The agent's writers outlive it by a moment.
    for pid in members(&agent).unwrap_or_default() {
        if let Some(above) = root.parent() {
            fs::write(above.join("cgroup.procs"), pid.to_string()).ok();
        }
    }
    fs::remove_dir(agent).ok();
    fs::remove_dir(root).ok();
}

/// `own`, or the directory above `name` where `own` is `name` or below it.
fn above(own: &Path, name: &str) -> PathBuf {
    let found = own.ancestors().find(|above| above.file_name().is_some_and(|last| last == name));
    found.and_then(Path::parent).unwrap_or(own).to_owned()
}

/// Makes `agent` and `modules` below `own/name` in version 2 and moves this process into the first. Returns the
/// controllers that modules' groups have.
fn share_out(own: &Path, name: &str) -> io::Result<Vec<Controller>> {
    let root = own.join(name);
    kill_guards(&root.join("agent"));
    if root.join("modules").exists() {
        // What no kill ends keeps its module from being started, and nothing else.
        kill_tree(&root.join("modules")).ok();
    }
    make(&root)?;
    make(&root.join("agent"))?;
    fs::write(root.join("agent/cgroup.procs"), "0").inspect_err(|_| {
        fs::remove_dir(root.join("agent")).ok();
        fs::remove_dir(&root).ok();
    })?;
    make(&root.join("modules"))?;
    // One at a time: one that is missing would fail the others.
    let shared = Controller::ALL.into_iter().filter(|controller| {
        let order = format!("+{}", controller.kernel_name());
        [own, &root, &root.join("modules")]
            .into_iter()
            .all(|directory| fs::write(directory.join("cgroup.subtree_control"), &order).is_ok())
    });
    Ok(shared.collect())
}

/// Kills the guards of earlier agents: one that was stopped, or is late, would take the next agent's modules for what
/// its own left.
fn kill_guards(agents: &Path) {
    for pid in members(agents).unwrap_or_default() {
        let Some(process) = rustix::process::Pid::from_raw(pid) else { continue };
        let Ok(pidfd) = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()) else {
            continue;
        };
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if line.split(|byte| *byte == 0).nth(1) == Some(b"guard") {
            rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).ok();
        }
    }
}

/// Makes a cgroup.
fn make(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        // What was killed there may have been kept from starting anything, see [`kill`].
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::write(directory.join("pids.max"), "max").ok();
        }
        made => made?,
    }
    // Something else may be mounted over the hierarchy, and files written there would limit nobody.
    if directory.join("cgroup.procs").exists() {
        return Ok(());
    }
    fs::remove_dir(directory).ok();
    Err(io::Error::new(io::ErrorKind::Unsupported, format!("{} is not a cgroup", directory.display())))
}

/// Sets what `limits` say of one controller.
fn limit(directory: &Path, controller: Controller, limits: &ProcessLimits) -> io::Result<()> {
    let write = |name: &str, value: String| fs::write(directory.join(name), value);
    let has = |name: &str| directory.join(name).exists();
    match controller {
        Controller::Tasks => limits.tasks().map_or(Ok(()), |tasks| write("pids.max", tasks.to_string())),
        Controller::Memory => {
            let Some(bytes) = limits.resident_bytes() else { return Ok(()) };
            if has("memory.max") {
                // What is left of a module that lost one of its processes is no module.
                write("memory.oom.group", "1".to_owned()).ok();
                write("memory.max", bytes.to_string())
            } else {
                write("memory.limit_in_bytes", bytes.to_string())
            }
        }
        Controller::Cpu => {
            let Some(percent) = limits.cpu_percent else { return Ok(()) };
            let quota = percent * CPU_PERIOD / 100;
            if has("cpu.max") {
                write("cpu.max", format!("{quota} {CPU_PERIOD}"))
            } else {
                write("cpu.cfs_quota_us", quota.to_string())
            }
        }
    }
}

/// The cgroups of one life of a module; empty where there are none.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// The one that kills comes first.
    directories: Vec<PathBuf>,
    /// Limits of the configuration that are not in force, and why.
    unlimited: Vec<String>,
}

/// How often a module ran into a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LimitsHit {
    /// Tasks that were refused.
    pub(crate) tasks: u64,
    /// Processes that were killed because the memory was used up.
    pub(crate) memory: u64,
}

impl LimitsHit {
    /// The limit that was run into since `before`, the deadlier one first.
    #[must_use]
    pub(crate) fn since(self, before: Self) -> Option<Limit> {
        if self.memory > before.memory {
            Some(Limit::Memory)
        } else if self.tasks > before.tasks {
            Some(Limit::Tasks)
        } else {
            None
        }
    }
}

impl Group {
    /// Whether there is none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.directories.is_empty()
    }

    /// What a process has to enter.
    #[must_use]
    pub fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// Says which limits of the configuration are not in force, if any.
    #[must_use]
    pub fn unlimited(&self) -> Option<String> {
        (!self.unlimited.is_empty()).then(|| self.unlimited.join("; "))
    }

    /// Kills everything in it. Blocking, microseconds.
    pub fn kill(&self) {
        if let Some(directory) = self.directories.first() {
            kill(directory).ok();
        }
    }

    /// Kills everything in it, waits for it to be gone and removes it. Blocking.
    pub fn remove(&self) {
        for directory in &self.directories {
            kill_tree(directory).ok();
        }
    }

    /// How often the limits were run into. Blocking, microseconds.
    #[must_use]
    pub(crate) fn limits_hit(&self) -> LimitsHit {
        let count = |file: &str, key: &str| {
            let mut texts = self.directories.iter().filter_map(|of| fs::read_to_string(of.join(file)).ok());
            texts.find_map(|text| {
                let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
                pairs.find(|(name, _)| *name == key).and_then(|(_, count)| count.trim().parse().ok())
            })
        };
        let memory = count("memory.events", "oom_kill").or_else(|| count("memory.oom_control", "oom_kill"));
        LimitsHit { tasks: count("pids.events", "max").unwrap_or(0), memory: memory.unwrap_or(0) }
    }

    fn complain_of_all(&mut self, limits: &ProcessLimits, why: &str) {
        for controller in Controller::ALL {
            self.complain(controller, limits, why);
        }
    }

    /// Only of what the configuration asks for: a default that this host cannot keep is no fault of anybody.
    fn complain(&mut self, controller: Controller, limits: &ProcessLimits, why: &str) {
        let asked = match controller {
            Controller::Tasks => limits.tasks.is_some_and(|tasks| tasks > 0).then_some("tasks"),
            Controller::Memory => {
                limits.resident_bytes.is_some_and(|bytes| bytes > 0).then_some("resident_bytes")
            }
            Controller::Cpu => limits.cpu_percent.map(|_| "cpu_percent"),
        };
        if let Some(key) = asked {
            self.unlimited.push(format!("limits.{key} is not enforced: {why}"));
        }
    }
}

/// Kills every process in a cgroup and below. Blocking, microseconds.
///
/// # Errors
/// When the kernel does not take the order.
pub fn kill(group: &Path) -> io::Result<()> {
    if group.join("cgroup.kill").exists() {
        return fs::write(group.join("cgroup.kill"), "1");
    }
    // Nothing new can begin while the members are killed one by one; without the controller the caller tries again.
    fs::write(group.join("pids.max"), "0").ok();
    groups_in(group).try_for_each(|group| kill_members(&group))
}

/// Kills the processes that `cgroup.procs` names.
fn kill_members(group: &Path) -> io::Result<()> {
    for pid in members(group)? {
        let Some(process) = rustix::process::Pid::from_raw(pid) else { continue };
        // The descriptor first: what is a member afterwards is what is killed.
        let Ok(pidfd) = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()) else {
            continue;
        };
        if members(group)?.contains(&pid) {
            rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).ok();
        }
    }
    Ok(())
}

fn members(group: &Path) -> io::Result<Vec<i32>> {
    let text = fs::read_to_string(group.join("cgroup.procs"))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// A cgroup and all below it, the deepest first.
fn groups_in(group: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = WalkDir::new(group).contents_first(true).into_iter().flatten();
    entries.filter(|entry| entry.file_type().is_dir()).map(DirEntry::into_path)
}

/// Kills every process of the session `session`, which is also the number of its first process. That one has ended and
/// is not reaped, so the number cannot mean another session. Blocking.
pub(crate) fn kill_session(session: u32) {
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

/// Kills what is in a cgroup and below without waiting for it to end, and gives a process that is still there.
/// Blocking, microseconds.
pub(crate) fn kill_and_look(group: &Path) -> Option<i32> {
    kill(group).ok();
    groups_in(group).find_map(|group| members(&group).ok()?.first().copied())
}

/// Whether any process is in a cgroup or below; a cgroup that is gone is empty.
#[must_use]
pub fn is_empty(group: &Path) -> bool {
    match fs::read_to_string(group.join("cgroup.events")) {
        Ok(events) => events.lines().any(|line| line == "populated 0"),
        // Version 1 has no such file.
        Err(error) if is_gone(&error) => WalkDir::new(group).into_iter().all(|entry| match entry {
            Ok(entry) if entry.file_type().is_dir() => {
                members(entry.path()).map_or_else(|error| is_gone(&error), |members| members.is_empty())
            }
            Ok(_) => true,
            Err(error) => error.io_error().is_none_or(is_gone),
        }),
        // Such as for want of descriptors: it is not known.
        Err(_) => false,
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32)
}

/// Kills what is in a cgroup and below, waits about a second for it to be gone, and removes the directories.
/// Blocking.
///
/// # Errors
/// When something is left.
pub(crate) fn kill_tree(group: &Path) -> io::Result<()> {
    for _ in 0..EMPTY_CHECKS {
        if is_empty(group) {
            break;
        }
        kill(group)?;
        pause();
    }
    groups_in(group).try_for_each(fs::remove_dir)
}

#[expect(
    clippy::disallowed_methods,
    reason = "runs on a work thread, and the kernel offers no event to block on"
)]
fn pause() {
    std::thread::sleep(EMPTY_PAUSE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadlier_limit_is_named() {
        let before = LimitsHit { tasks: 3, memory: 0 };

        assert_eq!(before.since(before), None);
        assert_eq!(LimitsHit { tasks: 4, memory: 0 }.since(before), Some(Limit::Tasks));
        assert_eq!(LimitsHit { tasks: 4, memory: 1 }.since(before), Some(Limit::Memory));
    }

    #[test]
    fn an_agent_below_its_own_group_is_put_beside_it() {
        let path = PathBuf::from("/sys/fs/cgroup/x/vigie-run/agent");

        assert_eq!(above(&path, "vigie-run"), PathBuf::from("/sys/fs/cgroup/x"));
        assert_eq!(above(&path, "vigie-other"), path);
    }

    #[test]
    fn only_limits_that_were_asked_for_are_missed() {
        let asked = ProcessLimits { tasks: Some(9), cpu_percent: Some(50), ..ProcessLimits::default() };

        let group = Containment::default().group("x.1", &asked);

        assert!(group.is_none());
        let missed = group.unlimited().unwrap();
        assert!(missed.contains("limits.tasks") && missed.contains("limits.cpu_percent"), "{missed}");
        assert!(!missed.contains("resident"), "{missed}");
        assert_eq!(Containment::default().group("x.1", &ProcessLimits::default()).unlimited(), None);
    }
}
