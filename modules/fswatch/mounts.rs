//! Which file systems are mounted where: `/proc/PID/mountinfo`, see proc_pid_mountinfo(5).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// File systems that hold no files, but what the kernel says when it is asked; they are not walked into.
const PSEUDO: [&str; 20] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tracefs",
];

/// File systems that other hosts change as well, without a notification here.
const REMOTE: [&str; 8] = ["9p", "afs", "ceph", "cifs", "fuse.sshfs", "nfs", "nfs4", "smb3"];

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its number.
    pub id: u32,
    /// The device of what is in it, as `st_dev` says it.
    pub device: u64,
    /// Which directory of the file system it shows.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// The kind of file system.
    pub kind: String,
}

impl Mount {
    /// Whether there is nothing in it that could be watched.
    #[must_use]
    pub fn is_pseudo(&self) -> bool {
        PSEUDO.contains(&self.kind.as_str())
    }

    /// Whether other hosts can change what is in it.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        REMOTE.contains(&self.kind.as_str())
    }

    /// Where a path of its file system is seen through it.
    #[must_use]
    pub fn shows(&self, inside: &Path) -> Option<PathBuf> {
        let rest = inside.strip_prefix(&self.root).ok()?;
        Some(if rest.as_os_str().is_empty() { self.point.clone() } else { self.point.join(rest) })
    }
}

/// All mounts that this process sees, in the order in which they were made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mounts(Vec<Mount>);

/// Undoes the octal escapes of blanks and backslashes.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let octal = match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(bytes).into()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|byte| *byte == b' ');
    let number = |word: &[u8]| std::str::from_utf8(word).ok()?.parse::<u32>().ok();
    let id = number(words.next()?)?;
    let _parent = words.next()?;
    let mut device = words.next()?.splitn(2, |byte| *byte == b':');
    let device = rustix::fs::makedev(number(device.next()?)?, number(device.next()?)?);
    let root = unescaped(words.next()?);
    let point = unescaped(words.next()?);
    // Options and optional fields end with a lone hyphen.
    let mut words = words.skip_while(|word| *word != b"-").skip(1);
    let kind = String::from_utf8_lossy(words.next()?).into_owned();
    Some(Mount { id, device, root, point, kind })
}

impl Mounts {
    /// Reads the text of a mountinfo file; lines of another form are left out.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        Self(text.split(|byte| *byte == b'\n').filter_map(parse_line).collect())
    }

    /// Reads those of this process.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn read() -> io::Result<Self> {
        let mut text = Vec::new();
        File::open("/proc/thread-self/mountinfo")?.read_to_end(&mut text)?;
        Ok(Self::parse(&text))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Mount> {
        self.0.iter()
    }

    /// The mount that a path is in: of those at the longest beginning of the path the last one, which hides the others.
    #[must_use]
    pub fn of(&self, path: &Path) -> Option<&Mount> {
        let mut found: Option<&Mount> = None;
        for mount in &self.0 {
            let length = |mount: &Mount| mount.point.as_os_str().len();
            if path.starts_with(&mount.point) && found.is_none_or(|known| length(mount) >= length(known)) {
                found = Some(mount);
            }
        }
        found
    }

    /// The points at which the mounts of two moments differ.
    #[must_use]
    pub fn differences(&self, later: &Self) -> Vec<PathBuf> {
        let only = |one: &Self, other: &Self| -> Vec<PathBuf> {
            let missing = one.0.iter().filter(|mount| !other.0.contains(mount));
            missing.map(|mount| mount.point.clone()).collect()
        };
        let mut points = only(self, later);
        points.extend(only(later, self));
        points.sort();
        points.dedup();
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SAMPLE: &[u8] = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        25 22 0:22 / /proc rw,nosuid - proc proc rw\n\
        40 22 0:40 / /mnt/with\\040blank rw - tmpfs tmpfs rw\n\
        41 22 254:0 /srv/www /var/www rw,relatime shared:1 master:3 - ext4 /dev/vda rw\n\
        42 40 0:41 / /mnt/with\\040blank rw - overlay overlay rw\n\
        broken line\n";

    #[test]
    fn mounts_are_read_with_their_devices_roots_and_kinds() {
        let mounts = Mounts::parse(SAMPLE);

        assert_eq!(mounts.iter().count(), 5);
        let www = mounts.of(Path::new("/var/www/html")).unwrap();
        assert_eq!((www.id, www.device, www.kind.as_str()), (41, rustix::fs::makedev(254, 0), "ext4"));
        assert_eq!(www.shows(Path::new("/srv/www/html/a")), Some("/var/www/html/a".into()));
        assert_eq!(www.shows(Path::new("/srv/www")), Some("/var/www".into()));
        assert_eq!(www.shows(Path::new("/etc")), None);
        assert!(mounts.of(Path::new("/proc/1")).unwrap().is_pseudo());
    }

    #[test]
    fn the_last_mount_at_a_point_hides_the_others() {
        let mounts = Mounts::parse(SAMPLE);

        assert_eq!(mounts.of(Path::new("/mnt/with blank/a")).unwrap().kind, "overlay");
        assert_eq!(mounts.of(Path::new("/var/wwwx")).unwrap().point, Path::new("/"));
    }

    #[test]
    fn what_was_mounted_or_unmounted_is_where_two_moments_differ() {
        let before = Mounts::parse(SAMPLE);
        let text = String::from_utf8_lossy(SAMPLE).replace("/var/www", "/var/new");
        let after = Mounts::parse(text.as_bytes());

        assert_eq!(before.differences(&after), [Path::new("/var/new"), Path::new("/var/www")]);
        assert!(before.differences(&before).is_empty());
    }

    #[test]
    fn the_mounts_of_this_process_include_the_root() {
        assert!(Mounts::read().unwrap().of(Path::new("/")).is_some());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(Mounts::parse(&text));
        }
    }
}
