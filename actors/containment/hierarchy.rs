//! Where this process is in the kernel's control groups, version 1 and 2. Pure but for reading `/proc`.

#![expect(clippy::disallowed_methods, reason = "files of the kernel, read once at the start")]

use std::fs;
use std::path::{Path, PathBuf};

use vigie_host::mounts::{self, Mount};

/// What a control group can limit, of what modules are limited by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Controller {
    /// Processes and threads.
    Tasks,
    /// Memory that is in use, with the page cache.
    Memory,
    /// Time on processors.
    Cpu,
}

impl Controller {
    pub(super) const ALL: [Self; 3] = [Self::Tasks, Self::Memory, Self::Cpu];

    /// The kernel's name.
    pub(super) fn kernel_name(self) -> &'static str {
        match self {
            Self::Tasks => "pids",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
        }
    }
}

/// The texts of `/proc/self/mountinfo`, of which it takes the options of the file systems, and of `/proc/self/cgroup`.
pub(super) struct Hierarchies {
    mounts: String,
    groups: String,
}

impl Hierarchies {
    /// Reads both.
    pub(super) fn read() -> Option<Self> {
        let text = |path: &str| fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Some(Self { mounts: text("/proc/self/mountinfo")?, groups: text("/proc/self/cgroup")? })
    }

    /// This process's directory in version 2.
    pub(super) fn unified(&self) -> Option<PathBuf> {
        let path = self.groups.lines().find_map(|line| line.strip_prefix("0::"))?;
        self.directory(path, |kind, _| kind == "cgroup2")
    }

    /// This process's directory in the hierarchy of version 1 that has a controller.
    pub(super) fn legacy(&self, controller: Controller) -> Option<PathBuf> {
        let name = controller.kernel_name();
        // cgroups(7): NUMBER:CONTROLLERS:PATH
        let path = self.groups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|one| one == name).then_some(path)
        })?;
        self.directory(path, |kind, options| kind == "cgroup" && options.split(',').any(|one| one == name))
    }

    fn directory(&self, path: &str, is_it: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
        self.mounts.lines().find_map(|line| {
            let mount = Mount::parse(line.as_bytes())?;
            if !is_it(&mount.kind, &mounts::options(line)?) {
                return None;
            }
            // A container can see a part of the hierarchy at the mount point, and name itself from its top.
            let below = Path::new(path).strip_prefix(&mount.root).unwrap_or(Path::new(path));
            let below = below.strip_prefix("/").unwrap_or(below);
            Some(if below.as_os_str().is_empty() { mount.point } else { mount.point.join(below) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchies(mounts: &str, groups: &str) -> Hierarchies {
        Hierarchies { mounts: mounts.to_owned(), groups: groups.to_owned() }
    }

    const HYBRID: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - tmpfs tmpfs rw\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
        39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n\
        31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid,nodev shared:9 - cgroup2 cgroup2 rw\n";

    #[test]
    fn both_versions_are_found_in_a_hybrid() {
        let found = hierarchies(HYBRID, "8:pids:/\n3:cpu,cpuacct:/jobs/1\n0::/system.slice/vigie.service\n");

        let unified = PathBuf::from("/sys/fs/cgroup/unified/system.slice/vigie.service");
        assert_eq!(found.unified(), Some(unified));
        assert_eq!(found.legacy(Controller::Tasks), Some(PathBuf::from("/sys/fs/cgroup/pids")));
        assert_eq!(found.legacy(Controller::Cpu), Some(PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/jobs/1")));
        assert_eq!(found.legacy(Controller::Memory), None);
    }

    #[test]
    fn a_container_sees_its_own_part() {
        let mounts = "5 4 0:36 /docker/ab /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n";
        let found = hierarchies(mounts, "8:pids:/docker/ab/inner\n");

        assert_eq!(found.legacy(Controller::Tasks), Some(PathBuf::from("/sys/fs/cgroup/pids/inner")));
        assert_eq!(found.unified(), None);
    }

    #[test]
    fn a_blank_in_the_mount_point_is_undone() {
        let mounts = "5 4 0:36 / /srv/my\\040groups rw - cgroup2 cgroup2 rw\n";
        let found = hierarchies(mounts, "0::/a\n");

        assert_eq!(found.unified(), Some(PathBuf::from("/srv/my groups/a")));
    }

    #[test]
    fn garbage_is_no_hierarchy() {
        let found = hierarchies("garbage\n1 2 3 - cgroup cgroup rw", "0:\n:::\n");

        assert_eq!(found.unified(), None);
        assert_eq!(found.legacy(Controller::Memory), None);
    }
}
