//! Which file systems are mounted where: `/proc/PID/mountinfo`, see proc_pid_mountinfo(5).
//!
//! Whoever walks reads the table first: looking at a mount point whose server is gone can wait for ever.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// File systems whose files are on other hosts, or made by a program that answers when it likes. `fuse.NAME` is
/// another.
const REMOTE: [&str; 18] = [
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "fuse",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "orangefs",
    "pvfs2",
    "smb3",
    "smbfs",
    "virtiofs",
];

/// File systems that hold no files, but what the kernel says when it is asked.
const PSEUDO: [&str; 23] = [
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
    "nfsd",
    "nsfs",
    "proc",
    "pstore",
    "resctrl",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sysfs",
    "tracefs",
];

/// Where the files of a file system are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// On this host. What is in memory (tmpfs, devtmpfs) is stored there by somebody as well.
    Local,
    /// On another host, or made by a program that answers when it likes.
    Remote,
    /// Nowhere: they are the kernel's answers.
    Pseudo,
}

impl Storage {
    /// Classifies a type of file system.
    #[must_use]
    pub fn of(kind: &str) -> Self {
        if REMOTE.contains(&kind) || kind.starts_with("fuse.") {
            Self::Remote
        } else if PSEUDO.contains(&kind) {
            Self::Pseudo
        } else {
            Self::Local
        }
    }
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its number, as `statx` gives it too.
    pub id: u64,
    /// That of the mount that its point is in.
    pub parent: u64,
    /// The device of what is in it, as `st_dev` says it.
    pub device: u64,
    /// Which directory of the file system it shows; for nsfs the name of the namespace.
    pub root: PathBuf,
    /// Where.
    pub point: PathBuf,
    /// The kind of file system.
    pub kind: String,
    /// Who runs the program that answers for a FUSE file system, unless that is root.
    pub fuse_user: Option<u32>,
}

impl Mount {
    /// Reads a line of a mountinfo file; `None` for one of another form.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.split(|byte| *byte == b' ');
        let id = number(words.next()?)?;
        let parent = number(words.next()?)?;
        let mut device = words.next()?.splitn(2, |byte| *byte == b':');
        let device = nix::sys::stat::makedev(number(device.next()?)?, number(device.next()?)?);
        let root = unescaped(words.next()?);
        let point = unescaped(words.next()?);
        // Options and optional fields end with a lone hyphen.
        let mut of_all = words.skip_while(|word| *word != b"-").skip(1);
        let kind = String::from_utf8_lossy(of_all.next()?).into_owned();
        let options = of_all.nth(1).filter(|_| kind.starts_with("fuse")).unwrap_or_default();
        let mut users = options.split(|byte| *byte == b',').filter_map(|one| one.strip_prefix(b"user_id="));
        let fuse_user = users.next().and_then(number).and_then(|user| u32::try_from(user).ok());
        Some(Self { id, parent, device, root, point, kind, fuse_user: fuse_user.filter(|user| *user != 0) })
    }

    /// Where its files are.
    #[must_use]
    pub fn storage(&self) -> Storage {
        Storage::of(&self.kind)
    }

    /// Whether there is nothing in it that could be watched.
    #[must_use]
    pub fn is_pseudo(&self) -> bool {
        self.storage() == Storage::Pseudo
    }

    /// Whether other hosts can change what is in it, which is not told here.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        self.storage() == Storage::Remote
    }

    /// Whether looking at its mount point can wait for another host. The mount of an automounter does.
    #[must_use]
    pub fn can_wait(&self) -> bool {
        self.is_remote() || self.kind == "autofs"
    }

    /// Where a path of its file system is seen through it.
    #[must_use]
    pub fn shows(&self, inside: &Path) -> Option<PathBuf> {
        let rest = inside.strip_prefix(&self.root).ok()?;
        Some(if rest.as_os_str().is_empty() { self.point.clone() } else { self.point.join(rest) })
    }
}

/// All mounts that a process sees, in the order in which they were made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// Reads the text of a mountinfo file; lines of another form are left out.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        Self(text.split(|byte| *byte == b'\n').filter_map(Mount::parse).collect())
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

    /// The numbers of those of which something can be seen: no other one covers them.
    #[must_use]
    pub fn visible(&self) -> HashSet<u64> {
        let covers: HashSet<(u64, &Path)> =
            self.0.iter().map(|mount| (mount.parent, mount.point.as_path())).collect();
        let mut children: HashMap<u64, Vec<&Mount>> = HashMap::new();
        for mount in self.0.iter().filter(|mount| mount.parent != mount.id) {
            children.entry(mount.parent).or_default().push(mount);
        }
        let ids: HashSet<u64> = self.0.iter().map(|mount| mount.id).collect();
        let is_top = |mount: &&Mount| mount.parent == mount.id || !ids.contains(&mount.parent);
        let mut waiting: Vec<&Mount> = self.0.iter().filter(is_top).collect();
        let mut visible = HashSet::new();
        while let Some(mount) = waiting.pop() {
            if !covers.contains(&(mount.id, mount.point.as_path())) {
                visible.insert(mount.id);
            }
            // Another one in the same mount hides what is mounted further down.
            let is_hidden =
                |child: &Mount| child.point.ancestors().skip(1).any(|way| covers.contains(&(mount.id, way)));
            let below = children.remove(&mount.id).unwrap_or_default();
            waiting.extend(below.into_iter().filter(|child| !is_hidden(child)));
        }
        visible
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

/// A way into another process's mounts, `/proc/PID/root`: the process's directory, and the path as that process names
/// it. What the link says is a path over there, and would be another directory here.
#[must_use]
pub fn of_process(root: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut components = root.components();
    let mut next = || components.next();
    let is_there = next()? == Component::RootDir && next()?.as_os_str() == "proc";
    let process =
        next()?.as_os_str().to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))?;
    if !is_there || next()?.as_os_str() != "root" {
        return None;
    }
    let base = Path::new("/").join(components.as_path());
    Some((Path::new("/proc").join(process), base))
}

/// The options of a line of a mountinfo file: those of the mount and, after a comma, those of the file system.
#[must_use]
pub fn options(line: &str) -> Option<String> {
    let mut words = line.split(' ');
    let own = words.nth(5)?;
    let of_all = words.skip_while(|word| *word != "-").nth(3)?;
    Some(format!("{own},{of_all}"))
}

fn number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok()?.parse::<u32>().ok().map(u64::from)
}

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAMPLE: &[u8] = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        25 22 0:22 / /proc rw,nosuid - proc proc rw,hidepid=2\n\
        40 22 0:40 / /mnt/with\\040blank rw - tmpfs tmpfs rw\n\
        41 22 254:0 /srv/www /var/www rw,relatime shared:1 master:3 - ext4 /dev/vda rw\n\
        42 40 0:41 / /mnt/with\\040blank rw - overlay overlay rw\n\
        60 25 0:4 net:[4026532180] /run/netns/a\\134b\\+12 rw shared:30 - nsfs nsfs rw\n\
        broken line\n\
        36 35 98:0 /mnt1\n";

    #[test]
    fn mounts_are_read_with_their_devices_roots_and_kinds() {
        let mounts = Mounts::parse(SAMPLE);

        assert_eq!(mounts.iter().count(), 6);
        let www = mounts.of(Path::new("/var/www/html")).unwrap();
        assert_eq!((www.id, www.device, www.kind.as_str()), (41, nix::sys::stat::makedev(254, 0), "ext4"));
        assert_eq!(www.shows(Path::new("/srv/www/html/a")), Some("/var/www/html/a".into()));
        assert_eq!(www.shows(Path::new("/srv/www")), Some("/var/www".into()));
        assert_eq!(www.shows(Path::new("/etc")), None);
        assert!(mounts.of(Path::new("/proc/1")).unwrap().is_pseudo());
    }

    #[test]
    fn only_three_octal_digits_after_a_backslash_are_an_escape() {
        let mounts = Mounts::parse(SAMPLE);

        let namespace = mounts.iter().find(|mount| mount.kind == "nsfs").unwrap();
        assert_eq!(namespace.point, Path::new("/run/netns/a\\b\\+12"));
        assert_eq!(namespace.root, Path::new("net:[4026532180]"));
    }

    #[test]
    fn file_systems_of_other_hosts_and_of_programs_are_known_by_their_type() {
        for kind in ["nfs4", "cifs", "9p", "virtiofs", "lustre", "gpfs", "fuse", "fuse.sshfs"] {
            assert_eq!(Storage::of(kind), Storage::Remote, "{kind}");
        }
        for kind in ["ext4", "xfs", "tmpfs", "devtmpfs", "overlay", "fuseblk"] {
            assert_eq!(Storage::of(kind), Storage::Local, "{kind}");
        }
        for kind in ["proc", "cgroup2", "nsfs", "fusectl", "autofs"] {
            assert_eq!(Storage::of(kind), Storage::Pseudo, "{kind}");
        }
    }

    #[test]
    fn the_last_mount_at_a_point_hides_the_others() {
        let mounts = Mounts::parse(SAMPLE);

        assert_eq!(mounts.of(Path::new("/mnt/with blank/a")).unwrap().kind, "overlay");
        assert_eq!(mounts.of(Path::new("/var/wwwx")).unwrap().point, Path::new("/"));
    }

    #[test]
    fn a_mount_is_hidden_by_one_at_its_point_and_by_one_above_it() {
        let visible = |lines: &[&str]| {
            let mut visible: Vec<u64> =
                Mounts::parse(lines.join("\n").as_bytes()).visible().into_iter().collect();
            visible.sort_unstable();
            visible
        };
        let root = "22 1 254:0 / / rw - ext4 /dev/vda rw";
        let user = "40 22 0:40 / /home/a/m rw - fuse.sshfs x rw,user_id=1000";
        let inside = "41 40 0:41 / /home/a/m/x rw - tmpfs tmpfs rw";
        let over = "42 40 0:42 / /home/a/m rw - tmpfs tmpfs rw";
        let above = "43 22 0:43 / /home rw - tmpfs tmpfs rw";
        let again = "44 43 0:44 / /home/a/m rw - tmpfs tmpfs rw";

        assert_eq!(visible(&[root, user, inside]), [22, 40, 41]);
        assert_eq!(visible(&[root, user, inside, over]), [22, 42]);
        assert_eq!(visible(&[above, root, user, inside, again]), [22, 43, 44]);
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
    fn the_root_of_another_process_has_the_mounts_of_that_process() {
        let of = |path: &str| {
            of_process(Path::new(path))
                .map(|(process, base)| format!("{} {}", process.display(), base.display()))
        };

        assert_eq!(of("/proc/7/root").as_deref(), Some("/proc/7 /"));
        assert_eq!(of("/proc/7/root/srv/a").as_deref(), Some("/proc/7 /srv/a"));
        for path in ["/proc/7/cwd", "/proc/self/root", "/x/7/root", "/proc/7", "/", "proc/7/root"] {
            assert_eq!(of(path), None, "{path}");
        }
    }

    #[test]
    fn options_are_those_of_the_mount_and_of_the_file_system() {
        let line = std::str::from_utf8(SAMPLE).unwrap().lines().nth(1).unwrap();

        assert_eq!(options(line).as_deref(), Some("rw,nosuid,rw,hidepid=2"));
        assert_eq!(options("1 2 3:4 / / rw -"), None);
    }

    #[test]
    fn the_mounts_of_this_process_include_the_root() {
        assert!(Mounts::read().unwrap().of(Path::new("/")).is_some());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(Mounts::parse(&text));
            prop_assert!(unescaped(&text).as_os_str().len() <= text.len());
        }
    }
}
