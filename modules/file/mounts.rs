//! Which directories lead into file systems that a search stays out of.
//!
//! The mount table is read once, so that a search never touches a mount point that it does not enter: looking at
//! one whose server is gone can wait for ever. The format is that of proc_pid_mountinfo(5).

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::parameters::Options;

/// What a search has to know of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its files are on this host.
    Local,
    /// Its files are on another host, or made by a program that answers when it likes.
    Remote,
    /// Its files are the kernel's answers, not something stored.
    Pseudo,
}

impl Kind {
    /// Classifies a file system by its type. What is in memory (tmpfs, devtmpfs) is stored there by somebody, and
    /// so is local.
    fn of(file_system: &str) -> Self {
        match file_system {
            "nfs" | "nfs4" | "cifs" | "smb3" | "smbfs" | "ncpfs" | "afs" | "coda" | "ceph" | "9p"
            | "virtiofs" | "lustre" | "beegfs" | "gpfs" | "glusterfs" | "fuse" => Self::Remote,
            other if other.starts_with("fuse.") => Self::Remote,
            "proc" | "sysfs" | "cgroup" | "cgroup2" | "debugfs" | "tracefs" | "securityfs" | "configfs"
            | "devpts" | "mqueue" | "bpf" | "pstore" | "fusectl" | "binfmt_misc" | "efivarfs"
            | "selinuxfs" | "smackfs" | "autofs" | "rpc_pipefs" | "nfsd" | "nsfs" | "hugetlbfs"
            | "resctrl" => Self::Pseudo,
            _ => Self::Local,
        }
    }

    /// Whether a search with these options enters such a file system when it comes across it.
    #[must_use]
    pub fn is_entered(self, options: &Options) -> bool {
        match self {
            Self::Local => true,
            Self::Remote => options.remote,
            Self::Pseudo => options.pseudo,
        }
    }
}

/// The mount points of this process's mount namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mounts {
    all: HashMap<PathBuf, Kind>,
    /// Those that are not local, by the directory that they are in.
    special: HashMap<PathBuf, Vec<(OsString, Kind)>>,
}

impl Mounts {
    /// Reads a mount table. A line that is not understood is left out.
    #[must_use]
    pub fn parse(mountinfo: &[u8]) -> Self {
        let mut mounts = Self::default();
        for line in mountinfo.split(|byte| *byte == b'\n') {
            // Of two mounts on one point the later one is seen.
            mounts.all.extend(parse_line(line));
        }
        for (path, kind) in mounts.all.iter().filter(|(_, kind)| **kind != Kind::Local) {
            if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
                mounts.special.entry(parent.to_owned()).or_default().push((name.to_owned(), *kind));
            }
        }
        mounts
    }

    /// The mount points in a directory whose file systems are not local.
    #[must_use]
    pub fn special_in(&self, directory: &[u8]) -> &[(OsString, Kind)] {
        if self.special.is_empty() {
            return &[];
        }
        self.special.get(Path::new(OsStr::from_bytes(directory))).map_or(&[], Vec::as_slice)
    }

    /// The mount point that a path lies on, and what it is.
    #[must_use]
    pub fn of<'p>(&self, path: &'p Path) -> (&'p Path, Kind) {
        path.ancestors()
            .find_map(|ancestor| self.all.get(ancestor).map(|kind| (ancestor, *kind)))
            .unwrap_or((Path::new("/"), Kind::Local))
    }
}

fn parse_line(line: &[u8]) -> Option<(PathBuf, Kind)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let path = unescaped(fields.nth(4)?);
    // Any number of optional fields, ended by a dash.
    fields.find(|field| *field == b"-")?;
    let file_system = std::str::from_utf8(fields.next()?).ok()?;
    Some((PathBuf::from(OsString::from_vec(path)), Kind::of(file_system)))
}

/// Reads `\040` and its like, by which the kernel writes space, tab, line feed and backslash.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|digits| *first == b'\\' && digits.iter().all(|d| (b'0'..b'8').contains(d)));
        match octal {
            Some(digits) => {
                let value = digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                bytes.push(u8::try_from(value).unwrap_or(b'?'));
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
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

        assert_eq!(mounts.of(Path::new("/proc/self/status")), (Path::new("/proc"), Kind::Pseudo));
        assert_eq!(mounts.of(Path::new("/srv/with space")), (Path::new("/srv/with space"), Kind::Remote));
        assert_eq!(mounts.of(Path::new("/run/x")), (Path::new("/run"), Kind::Local));
        assert_eq!(mounts.of(Path::new("/mnt/x")), (Path::new("/mnt"), Kind::Local));
        assert_eq!(mounts.of(Path::new("/procs")), (Path::new("/"), Kind::Local));
        assert_eq!(mounts.special_in(b"/home/me"), [(OsString::from("mnt"), Kind::Remote)]);
        assert_eq!(mounts.special_in(b"/"), [(OsString::from("proc"), Kind::Pseudo)]);
        assert_eq!(mounts.special_in(b"/mnt"), []);
    }

    #[test]
    fn this_hosts_table_knows_proc() {
        let mounts = Mounts::parse(&std::fs::read("/proc/self/mountinfo").unwrap());

        assert_eq!(mounts.of(Path::new("/proc/self")).1, Kind::Pseudo);
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
