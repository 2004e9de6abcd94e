//! Mount points whose files are on another host, or made by a program: looking at one whose server is gone can
//! wait for ever, so the mount table is read first.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Mount points below a root that are not entered.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    remote: HashSet<Vec<u8>>,
}

impl Mounts {
    /// Reads a mount table in the format of proc_pid_mountinfo(5), as seen from `root`.
    pub(crate) fn parse(mountinfo: &[u8], root: &Path) -> Self {
        let root = root.as_os_str().as_bytes();
        let root = root.strip_suffix(b"/").unwrap_or(root);
        let mut remote = HashSet::new();
        for mount in vigie_host::mounts::Mounts::parse(mountinfo).iter().filter(|mount| mount.can_wait()) {
            if let Some(below) = mount.point.as_os_str().as_bytes().strip_prefix(root)
                && below.starts_with(b"/")
                && below.len() > 1
            {
                remote.insert(below.to_vec());
            }
        }
        Self { remote }
    }

    pub(crate) fn is_remote(&self, path: &[u8]) -> bool {
        !self.remote.is_empty() && self.remote.contains(path)
    }

    pub(crate) fn remote(&self) -> impl Iterator<Item = &[u8]> {
        self.remote.iter().map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_mounts_are_known_by_their_path_below_the_root() {
        let table = b"36 35 98:0 / /mnt/a\\040b/net rw - nfs4 host:/x rw\n37 35 0:1 / /mnt/a\\040b rw - ext4 /dev/x rw\n";

        let mounts = Mounts::parse(table, Path::new("/mnt/a b"));

        assert!(mounts.is_remote(b"/net"));
        assert!(!mounts.is_remote(b"/mnt"));
        assert_eq!(Mounts::parse(table, Path::new("/")).remote().next(), Some(&b"/mnt/a b/net"[..]));
    }
}
