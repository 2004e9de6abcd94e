//! Which directories lead into file systems that a search stays out of.
//!
//! The mount table is read once, so that a search never touches a mount point that it does not enter: looking at
//! one whose server is gone can wait for ever.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use vigie_host::mounts::{self, Storage};

use crate::parameters::Options;

/// Whether a search with these options enters such a file system when it comes across it.
#[must_use]
pub(crate) fn is_entered(storage: Storage, options: &Options) -> bool {
    match storage {
        Storage::Local => true,
        Storage::Remote => options.remote,
        Storage::Pseudo => options.pseudo,
    }
}

/// The mount points of this process's mount namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mounts {
    all: HashMap<PathBuf, Storage>,
    /// Those that are not local, by the directory that they are in.
    special: HashMap<PathBuf, Vec<(OsString, Storage)>>,
}

impl Mounts {
    /// Reads a mount table. A line that is not understood is left out.
    #[must_use]
    pub fn parse(mountinfo: &[u8]) -> Self {
        let mut mounts = Self::default();
        mounts.add(mountinfo, Path::new("/"));
        mounts
    }

    /// Adds the mounts of another process, whose root is seen here at `root`.
    pub(crate) fn add(&mut self, mountinfo: &[u8], root: &Path) {
        // Of two mounts on one point the later one is seen.
        let table = mounts::Mounts::parse(mountinfo);
        let seen_here = |point: &Path| root.join(point.strip_prefix("/").unwrap_or(point));
        let added: HashMap<PathBuf, Storage> =
            table.iter().map(|mount| (seen_here(&mount.point), mount.storage())).collect();
        for (path, kind) in added.iter().filter(|(_, kind)| **kind != Storage::Local) {
            if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
                self.special.entry(parent.to_owned()).or_default().push((name.to_owned(), *kind));
            }
        }
        self.all.extend(added);
    }

    /// The mount points in a directory whose file systems are not local.
    #[must_use]
    pub(crate) fn special_in(&self, directory: &[u8]) -> &[(OsString, Storage)] {
        if self.special.is_empty() {
            return &[];
        }
        self.special.get(Path::new(OsStr::from_bytes(directory))).map_or(&[], Vec::as_slice)
    }

    /// The mount point that a path lies on, and what it is.
    #[must_use]
    pub fn of<'p>(&self, path: &'p Path) -> (&'p Path, Storage) {
        path.ancestors()
            .find_map(|ancestor| self.all.get(ancestor).map(|kind| (ancestor, *kind)))
            .unwrap_or((Path::new("/"), Storage::Local))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &[u8] = b"\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
23 22 0:21 / /proc rw,nosuid shared:13 - proc proc rw
24 22 0:22 / /srv/with\\040space rw - nfs4 server:/x rw
25 22 0:23 / /run rw shared:5 master:2 - tmpfs tmpfs rw
26 22 0:24 / /home/me/mnt rw - fuse.sshfs me@host: rw
27 22 0:25 / /mnt rw - nfs server:/y rw
28 22 0:26 / /mnt rw - ext4 /dev/vdb rw
garbage
29 22 0:27 / /short
";

    #[test]
    fn a_mount_table_is_read() {
        let mounts = Mounts::parse(TABLE);

        assert_eq!(mounts.of(Path::new("/proc/self/status")), (Path::new("/proc"), Storage::Pseudo));
        assert_eq!(mounts.of(Path::new("/srv/with space")), (Path::new("/srv/with space"), Storage::Remote));
        assert_eq!(mounts.of(Path::new("/run/x")), (Path::new("/run"), Storage::Local));
        assert_eq!(mounts.of(Path::new("/mnt/x")), (Path::new("/mnt"), Storage::Local));
        assert_eq!(mounts.of(Path::new("/procs")), (Path::new("/"), Storage::Local));
        assert_eq!(mounts.special_in(b"/home/me"), [(OsString::from("mnt"), Storage::Remote)]);
        assert_eq!(mounts.special_in(b"/"), [(OsString::from("proc"), Storage::Pseudo)]);
        assert_eq!(mounts.special_in(b"/mnt"), []);
    }

    #[test]
    fn this_hosts_table_knows_proc() {
        let mounts = Mounts::parse(&std::fs::read("/proc/self/mountinfo").unwrap());

        assert_eq!(mounts.of(Path::new("/proc/self")).1, Storage::Pseudo);
    }

    proptest! {
        #[test]
        fn any_table_is_read(table in any::<Vec<u8>>(), path in "[ a\\\\0-8]{0,8}") {
            let _ = Mounts::parse(&table);
            let line = [b"1 2 3:4 / /", path.as_bytes(), b" rw - ext4 x rw"].concat();
            let parsed = Mounts::parse(&line);
            prop_assert!(parsed.all.len() <= 1);
        }
    }
}
