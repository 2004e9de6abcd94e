//! Which files are on other hosts, or made by programs: looking at one can wait for ever, and nobody can end that wait.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Statx, statx};
use rustix::io::Errno;
use vigie_host::mounts::Mount;

use crate::executable::WANTED;
use crate::procfs;

/// Most bytes of a list of mounts.
const MAX_BYTES: usize = 64 << 20;

/// The remote file systems of the mount namespaces that were met.
#[derive(Debug, Default)]
pub struct Remote(RefCell<Known>);

#[derive(Debug, Default)]
struct Known {
    namespaces: HashSet<Vec<u8>>,
    devices: HashSet<(u32, u32)>,
    /// Each with the mount namespace that has it. What a user mounts in a namespace of his own says nothing of others.
    points: Vec<(Vec<u8>, PathBuf)>,
}

impl Remote {
    /// Whether a file is on one, as the process sees it whose directory this is.
    #[must_use]
    pub(crate) fn has(&self, directory: &OwnedFd, status: &Statx) -> bool {
        // What has a disk of its own is none.
        if status.stx_dev_major != 0 {
            return false;
        }
        self.learn(directory);
        self.0.borrow().devices.contains(&(status.stx_dev_major, status.stx_dev_minor))
    }

    /// Whether the way along a path leads into one, as the process sees it whose directory this is, or as we do.
    #[must_use]
    pub(crate) fn covers(&self, directory: &OwnedFd, path: &[u8]) -> bool {
        let path = Path::new(OsStr::from_bytes(path));
        let known = self.0.borrow();
        let mut of = known.points.iter().filter(|(_, point)| path.starts_with(point)).peekable();
        if of.peek().is_none() {
            return false;
        }
        let namespaces = [
            procfs::link(directory, "ns/mnt").ok(),
            procfs::open_directory(rustix::fs::CWD, "/proc/self")
                .and_then(|own| procfs::link(&own, "ns/mnt"))
                .ok(),
        ];
        // Where that cannot be read, it is not known either where the path leads.
        of.any(|(namespace, _)| namespaces.iter().any(|one| one.as_ref().is_none_or(|one| one == namespace)))
    }

    /// Reads the mounts of a process's namespace when they are not known yet.
    pub(crate) fn learn(&self, directory: &OwnedFd) {
        let Ok(namespace) = procfs::link(directory, "ns/mnt") else { return };
        if !self.0.borrow_mut().namespaces.insert(namespace.clone()) {
            return;
        }
        let mut content = Vec::new();
        if procfs::read(directory, "mountinfo", MAX_BYTES, &mut content).is_err() {
            return;
        }
        let mut known = self.0.borrow_mut();
        for mount in content.split(|byte| *byte == b'\n').filter_map(Mount::parse).filter(Mount::can_wait) {
            known.devices.insert((rustix::fs::major(mount.device), rustix::fs::minor(mount.device)));
            known.points.push((namespace.clone(), mount.point));
        }
    }
}

/// What the kernel knows of a file below the directory of a process without asking another host or a program.
pub(crate) fn known_status(directory: &OwnedFd, name: impl rustix::path::Arg) -> Result<Statx, Errno> {
    statx(directory, name, AtFlags::STATX_DONT_SYNC, WANTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_programs_and_other_hosts_are_known_by_their_device_and_by_the_way_to_them() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("ns")).unwrap();
        std::os::unix::fs::symlink("mnt:[1]", directory.path().join("ns/mnt")).unwrap();
        std::fs::write(
            directory.path().join("mountinfo"),
            "1 0 0:7 / / rw - overlay o rw\n2 1 0:8 / /home/ann/remote rw - fuse.sshfs s rw\n",
        )
        .unwrap();
        let opened = procfs::open_directory(rustix::fs::CWD, directory.path().to_str().unwrap()).unwrap();
        let remote = Remote::default();
        let mut status = known_status(&opened, "mountinfo").unwrap();
        let mut has = |major: u32, minor: u32| {
            (status.stx_dev_major, status.stx_dev_minor) = (major, minor);
            remote.has(&opened, &status)
        };

        assert_eq!([has(0, 7), has(0, 8), has(8, 8)], [false, true, false]);
        assert!(
            remote.covers(&opened, b"/home/ann/remote/x") && !remote.covers(&opened, b"/home/ann/remote2/x")
        );
    }

    #[test]
    fn what_a_user_mounts_in_a_namespace_of_his_own_covers_nothing_of_others() {
        let directory = tempfile::tempdir().unwrap();
        let process = |name: &str, namespace: &str, mounts: &str| {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.join("ns")).unwrap();
            std::os::unix::fs::symlink(namespace, path.join("ns/mnt")).unwrap();
            std::fs::write(path.join("mountinfo"), mounts).unwrap();
            procfs::open_directory(rustix::fs::CWD, path.to_str().unwrap()).unwrap()
        };
        let users = process("1", "mnt:[1]", "2 1 0:8 / /usr rw - fuse.x s rw\n");
        let other = process("2", "mnt:[2]", "1 0 8:1 / / rw - ext4 d rw\n");
        let remote = Remote::default();
        remote.learn(&users);
        remote.learn(&other);

        assert!(remote.covers(&users, b"/usr/bin/x") && !remote.covers(&other, b"/usr/bin/x"));
    }
}
