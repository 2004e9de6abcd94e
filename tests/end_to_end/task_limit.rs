//! A limit of tasks for an agent and all that it starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::wait_until;

/// A cgroup with a limit of tasks, removed at the end. `None` where it cannot be made.
pub(crate) struct TaskLimit(PathBuf);

impl TaskLimit {
    pub(crate) fn new(tasks: u32) -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("vigie-test-{}-{number}", std::process::id());
        let path = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"]
            .map(|root| Path::new(root).join(&name))
            .into_iter()
            .find(|path| fs::create_dir(path).is_ok())?;
        let limit = Self(path);
        fs::write(limit.0.join("pids.max"), tasks.to_string()).ok()?;
        Some(limit)
    }

    /// What runs a command within the limit.
    pub(crate) fn enter(&self) -> [String; 4] {
        let script = format!("echo $$ > {}; exec \"$@\"", self.file("cgroup.procs").display());
        ["sh".to_owned(), "-c".to_owned(), script, "sh".to_owned()]
    }

    /// Allows no task more than there are.
    pub(crate) fn exhaust(&self) {
        let now = fs::read_to_string(self.file("pids.current")).expect("the controller counts");
        fs::write(self.file("pids.max"), now.trim()).expect("the controller limits");
    }

    /// Allows any number again.
    pub(crate) fn relieve(&self) {
        fs::write(self.file("pids.max"), "max").expect("the controller limits");
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn members(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.file("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }
}

impl Drop for TaskLimit {
    fn drop(&mut self) {
        let empty = || {
            for pid in self.members() {
                kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            }
            fs::remove_dir(&self.0).ok()
        };
        if std::thread::panicking() {
            // It is left where the agent's own groups are still in it: a panic here would hide the first one.
            empty();
        } else {
            wait_until("the cgroup is empty", empty);
        }
    }
}
