//! Which mount a file was found through, from `/proc/PID/mountinfo`, proc_pid_mountinfo(5). Each mount namespace is
//! read once.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use vigie_host::{mounts, shown};

use crate::procfs;

/// Most bytes of a list of mounts.
const MAX_BYTES: usize = 64 << 20;

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is.
    pub point: String,
    /// What kind of file system it has.
    pub kind: String,
}

/// The mounts of namespaces, by the namespace's number and their own.
#[derive(Debug, Default)]
pub struct Mounts(HashMap<u64, HashMap<u64, Mount>>);

impl Mounts {
    /// Whether a namespace's mounts were read.
    #[must_use]
    pub fn has(&self, namespace: u64) -> bool {
        self.0.contains_key(&namespace)
    }

    /// Adds a namespace's mounts.
    pub fn add(&mut self, namespace: u64, mounts: HashMap<u64, Mount>) {
        self.0.insert(namespace, mounts);
    }

    /// A mount of a namespace.
    #[must_use]
    pub fn get(&self, namespace: u64, number: u64) -> Option<&Mount> {
        self.0.get(&namespace)?.get(&number)
    }
}

/// The mounts that a process sees, by number; none when they cannot be read.
#[must_use]
pub fn read(directory: &OwnedFd) -> HashMap<u64, Mount> {
    let mut content = Vec::new();
    match procfs::read(directory, "mountinfo", MAX_BYTES, &mut content) {
        Ok(_) => content.split(|byte| *byte == b'\n').filter_map(mounts::Mount::parse).map(known).collect(),
        Err(_) => HashMap::new(),
    }
}

fn known(mount: mounts::Mount) -> (u64, Mount) {
    (mount.id, Mount { point: shown(mount.point.as_os_str().as_bytes()), kind: shown(mount.kind.as_bytes()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_has_a_place_and_a_kind() {
        let line = b"36 35 98:0 /mnt1 /mnt\\040two rw,noatime master:1 - ext3 /dev/root rw,errors=continue";

        let mount = Mount { point: "/mnt two".to_owned(), kind: "ext3".to_owned() };
        assert_eq!(mounts::Mount::parse(line).map(known), Some((36, mount)));
    }
}
