//! What the package managers of the host recorded of its files.
//!
//! dpkg and apk keep their databases as text, which is read here; rpm's is read through [`crate::installed`]. A record
//! says what a package brought, not what is right: whoever may change a program of the system may change the record as
//! well.
//!
//! ```text
//!  path ─► Aliases (/bin/ls is /usr/bin/ls) ─► Index (path ─► package, 12 bytes each) ─► Recorded
//!                                              digests stay on the disk, but for those of the package asked last
//! ```
//!
//! What cannot be read or makes no sense in a database is left out line by line.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use vigie_tree::{Place, Root, Status};

pub(crate) use crate::text::each_line;

pub(crate) mod apk;
pub(crate) mod dpkg;
mod rpm;

/// How long it is believed that the databases are as they were read. Reading what dpkg changed costs milliseconds,
/// and while it works it changes something many times a second.
const BELIEVED: Duration = Duration::from_secs(1);

/// Bytes that are read at once.
const READ_BYTES: usize = 128 * 1024;

/// Most paths of one manager that are kept, 24 MB of them; hosts have some 200,000. The others belong to nobody.
const MAX_PATHS: usize = 2_000_000;

/// Most links that are resolved in the beginning of a path.
const MAX_LINKS: usize = 8;

/// A kind of package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Manager {
    /// Debian, Ubuntu and what is made of them.
    Dpkg,
    /// Fedora, RHEL, SUSE and what is made of them.
    Rpm,
    /// Alpine, OpenWrt.
    Apk,
}

impl Manager {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Dpkg, Self::Rpm, Self::Apk];

    /// The name in alerts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dpkg => "dpkg",
            Self::Rpm => "rpm",
            Self::Apk => "apk",
        }
    }
}

/// The package manager that a process is at work for, by its executable as the kernel names it in `/proc/PID/exe`.
///
/// Only the places of the system count: anybody can name a program `dpkg` elsewhere. What is written in Python (yum,
/// dnf 4, unattended-upgrades) runs as Python; unattended-upgrades shows by the dpkg that it starts, the others not.
#[must_use]
pub fn manager_of(executable: &Path) -> Option<Manager> {
    let path = executable.as_os_str().as_bytes();
    // The manager replaced itself, see proc_pid_exe(5).
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    let path = std::str::from_utf8(path).ok()?;
    let (directory, name) = path.rsplit_once('/')?;
    if !matches!(directory, "/usr/bin" | "/usr/sbin" | "/bin" | "/sbin") {
        return None;
    }
    match name {
        "dpkg" | "dpkg-deb" | "dpkg-divert" | "dpkg-statoverride" | "apt" | "apt-get" | "aptitude" => {
            Some(Manager::Dpkg)
        }
        "rpm" | "dnf" | "dnf5" | "dnf5daemon-server" | "yum" | "microdnf" | "zypper" => Some(Manager::Rpm),
        "apk" | "apk.static" => Some(Manager::Apk),
        _ => None,
    }
}

/// What a package manager recorded of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Whose record it is.
    pub manager: Manager,
    /// The package as its manager names it: `coreutils`, `libc6:amd64`.
    pub package: String,
    /// Its version; empty when that is not recorded.
    pub version: String,
    /// The MD5 that dpkg recorded of the file's content.
    pub md5: Option<[u8; 16]>,
    /// The SHA-1 that apk recorded of the file's content, or of the target of a symbolic link.
    pub sha1: Option<[u8; 20]>,
    /// The SHA-256 that rpm recorded of the file's content.
    pub sha256: Option<[u8; 32]>,
    /// It is configuration: the administrator may well change it, and the manager keeps that.
    pub configuration: bool,
}

impl Recorded {
    /// Whether a digest is recorded, as it is of regular files only. apk's say nothing: it records those of links as
    /// well.
    #[must_use]
    pub fn is_regular(&self) -> bool {
        self.md5.is_some() || self.sha256.is_some()
    }

    /// Whether a file's content is as it was recorded; `None` when nothing was recorded of it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn matches(&self, file: impl Read) -> io::Result<Option<bool>> {
        if let Some(sha256) = self.sha256 {
            return Ok(Some(digest_of::<Sha256>(file)? == sha256));
        }
        match (self.md5, self.sha1) {
            (Some(md5), _) => Ok(Some(md5_of(file)? == md5)),
            (None, Some(sha1)) => Ok(Some(sha1_of(file)? == sha1)),
            (None, None) => Ok(None),
        }
    }
}

/// The MD5 of a file, the digest that dpkg records. It tells mistakes, not forgeries.
///
/// # Errors
/// When the file cannot be read.
pub fn md5_of(file: impl Read) -> io::Result<[u8; 16]> {
    Ok(digest_of::<Md5>(file)?.into())
}

/// The SHA-1 of a file, the digest that apk records.
///
/// # Errors
/// When the file cannot be read.
pub fn sha1_of(file: impl Read) -> io::Result<[u8; 20]> {
    Ok(digest_of::<Sha1>(file)?.into())
}

fn digest_of<D: Digest>(mut file: impl Read) -> io::Result<sha2::digest::Output<D>> {
    let mut digest = D::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(digest.finalize()),
            Ok(read) => digest.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The databases of a host.
#[derive(Debug)]
pub struct Packages {
    root: Root,
    /// What was read of them; nothing before the first question.
    read: Option<Databases>,
}

#[derive(Debug)]
struct Databases {
    aliases: Aliases,
    dpkg: dpkg::Database,
    apk: apk::Database,
    rpm: rpm::Database,
    believed_until: Instant,
}

impl Packages {
    /// The databases of this host or of an image. Nothing is read before the first question.
    #[must_use]
    pub fn at(root: &Root) -> Self {
        Self { root: root.clone(), read: None }
    }

    /// Finds the package that a file or symbolic link belongs to. Most directories belong to many packages, and
    /// to none here.
    ///
    /// The path is absolute, as seen from the root, and no directory in it is a link; links in `/` and `/usr` that lead
    /// to directories, such as `/bin`, may stand in it as they may in a record. The first question reads the index;
    /// what has changed is read again when that is more than a second ago by `now`. A manager that is at work moves
    /// files first and records them then: whoever compares should ask when it has done.
    pub fn find(&mut self, path: &Path, now: Instant) -> Option<Recorded> {
        let databases = self.read.get_or_insert_with(|| Databases {
            aliases: Aliases::default(),
            dpkg: dpkg::Database::at(&self.root),
            apk: apk::Database::at(&self.root),
            rpm: rpm::Database::at(&self.root),
            believed_until: now,
        });
        let Databases { aliases, dpkg, apk, rpm, believed_until } = databases;
        if *believed_until <= now {
            let read = Aliases::of(&self.root);
            if read != *aliases {
                *aliases = read;
                *dpkg = dpkg::Database::at(&self.root);
                *apk = apk::Database::at(&self.root);
                *rpm = rpm::Database::at(&self.root);
            }
            dpkg.refresh(aliases);
            apk.refresh(aliases);
            rpm.refresh(aliases);
            *believed_until = now + BELIEVED;
        }
        let path = aliases.resolve(path.as_os_str().as_bytes());
        dpkg.find(&path, aliases).or_else(|| apk.find(&path, aliases)).or_else(|| rpm.find(&path))
    }

    /// The versions of all packages that one manager has installed, as its database has them now.
    #[must_use]
    pub fn versions(&self, manager: Manager) -> BTreeMap<String, String> {
        match manager {
            Manager::Dpkg => dpkg::versions(&self.root),
            Manager::Apk => apk::versions(&self.root),
            Manager::Rpm => rpm::versions(&self.root),
        }
    }

    /// Reads what has changed at the next question, however soon that comes.
    pub fn distrust(&mut self, now: Instant) {
        if let Some(read) = &mut self.read {
            read.believed_until = now;
        }
    }

    /// Gives back the memory of what was read: called when nobody asked for some time.
    pub fn forget(&mut self) {
        self.read = None;
    }
}

/// Symbolic links in `/` and `/usr`, by which one file has several names in records: `/bin` to `/usr/bin`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Aliases(Vec<(Vec<u8>, Vec<u8>)>);

impl Aliases {
    /// Those of a root directory.
    #[must_use]
    pub fn of(root: &Root) -> Self {
        let mut aliases = Vec::new();
        for directory in ["/", "/usr/"] {
            for (name, target) in root.place(directory).links() {
                if let Some(target) = plain(directory, &target) {
                    aliases.push(([directory.as_bytes(), &name].concat(), target));
                }
            }
        }
        aliases.sort();
        Self(aliases)
    }

    /// A path with the links in its beginning resolved, but for its last name: that may be the link itself.
    #[must_use]
    pub fn resolve<'a>(&self, path: &'a [u8]) -> Cow<'a, [u8]> {
        let mut path = Cow::Borrowed(path);
        for _ in 0..MAX_LINKS {
            let rest_of = |from: &[u8]| path.strip_prefix(from).filter(|rest| rest.starts_with(b"/"));
            let Some(resolved) =
                self.0.iter().find_map(|(from, to)| Some([to.as_slice(), rest_of(from)?].concat()))
            else {
                break;
            };
            path = Cow::Owned(resolved);
        }
        path
    }
}

/// Where a link in `directory` leads, without `.` and `..`; `None` when that is the root directory.
fn plain(directory: &str, target: &[u8]) -> Option<Vec<u8>> {
    let from_root = if target.starts_with(b"/") { b"" } else { directory.as_bytes() };
    let mut names: Vec<&[u8]> = Vec::new();
    for name in from_root.split(|byte| *byte == b'/').chain(target.split(|byte| *byte == b'/')) {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    (!names.is_empty()).then(|| names.iter().flat_map(|name| [b"/", *name].concat()).collect())
}

/// Which package each path belongs to. A path is known by a keyed hash alone, so nobody can choose one that is taken
/// for another; with 200,000 paths two have the same hash on one host of a billion.
#[derive(Debug, Default)]
struct Index {
    keys: RandomState,
    /// Sorted.
    entries: Vec<Entry>,
}

/// The halves of a path's hash, and the number of the package: 12 bytes, where a `u64` would make it 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    hash: [u32; 2],
    package: u32,
}

impl Index {
    fn hash(&self, path: &[u8]) -> u64 {
        self.keys.hash_one(path)
    }

    fn halves(hash: u64) -> [u32; 2] {
        // The halves, so nothing is lost.
        [(hash >> 32) as u32, hash as u32]
    }

    /// The packages that have a path with this hash.
    fn owners(&self, hash: u64) -> impl Iterator<Item = u32> {
        let hash = Self::halves(hash);
        let first = self.entries.partition_point(|entry| entry.hash < hash);
        self.entries[first..].iter().take_while(move |entry| entry.hash == hash).map(|entry| entry.package)
    }

    /// Adds a path; [`Self::settle`] must follow before anybody is asked for.
    fn add(&mut self, hash: u64, package: u32) {
        if self.entries.len() < MAX_PATHS {
            self.entries.push(Entry { hash: Self::halves(hash), package });
        }
    }

    /// Takes away all paths of some packages.
    fn remove(&mut self, of: impl Fn(u32) -> bool) {
        self.entries.retain(|entry| !of(entry.package));
    }

    fn settle(&mut self) {
        self.entries.sort_unstable();
        self.entries.dedup();
        self.entries.shrink_to_fit();
    }
}

/// The digests of the package that was asked for last: whoever asks for one file often asks for its neighbour.
#[derive(Debug)]
struct Digests<const N: usize> {
    package: u32,
    /// Of the file that they were read from.
    stamp: Option<Stamp>,
    /// Hashes of paths with their digests, sorted.
    all: Vec<(u64, [u8; N])>,
}

impl<const N: usize> Digests<N> {
    fn new(package: u32, stamp: Option<Stamp>, mut all: Vec<(u64, [u8; N])>) -> Self {
        all.sort_unstable();
        all.shrink_to_fit();
        Self { package, stamp, all }
    }

    fn is_of(&self, package: u32, stamp: Option<Stamp>) -> bool {
        self.package == package && self.stamp == stamp
    }

    fn get(&self, hash: u64) -> Option<[u8; N]> {
        let at = self.all.binary_search_by_key(&hash, |(hash, _)| *hash).ok()?;
        Some(self.all[at].1)
    }
}

/// What tells that a file or directory is not the one that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    changed: (i64, i64),
    inode: u64,
    size: u64,
}

impl Stamp {
    /// `None` when nothing is there.
    fn of(place: &Place) -> Option<Self> {
        place.status().ok().map(Self::from)
    }
}

impl From<Status> for Stamp {
    fn from(status: Status) -> Self {
        // The change time, because packages bring files with old modification times.
        let changed = (status.changed, i64::from(status.changed_nanos));
        Self { changed, inode: status.inode, size: status.size }
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        Self { changed, inode: metadata.ino(), size: metadata.size() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::MAX_LINE_BYTES;
    use proptest::prelude::*;

    fn aliases(links: &[(&str, &str)]) -> Aliases {
        let owned = |text: &str| text.as_bytes().to_vec();
        Aliases(links.iter().map(|(from, to)| (owned(from), owned(to))).collect())
    }

    #[test]
    fn links_in_the_beginning_of_a_path_are_resolved_but_not_its_last_name() {
        let merged = aliases(&[("/bin", "/usr/bin"), ("/sbin", "/usr/sbin"), ("/usr/sbin", "/usr/bin")]);

        for (path, resolved) in [
            ("/bin/ls", "/usr/bin/ls"),
            ("/sbin/init", "/usr/bin/init"),
            ("/bin", "/bin"),
            ("/binary/x", "/binary/x"),
            ("/usr/bin/ls", "/usr/bin/ls"),
        ] {
            assert_eq!(*merged.resolve(path.as_bytes()), *resolved.as_bytes());
        }
        assert_eq!(plain("/", b"usr/bin"), Some(b"/usr/bin".to_vec()));
        assert_eq!(plain("/usr/", b"../var/./tmp"), Some(b"/var/tmp".to_vec()));
        assert_eq!(plain("/usr/", b"/var//tmp/"), Some(b"/var/tmp".to_vec()));
        assert_eq!(plain("/usr/", b"../.."), None);
    }

    #[test]
    fn links_that_go_round_in_circles_end() {
        let circle = aliases(&[("/a", "/b"), ("/b", "/a"), ("/c", "/c/d")]);

        assert!(circle.resolve(b"/a/x").ends_with(b"/x"));
        assert!(circle.resolve(b"/c/x").len() < 100);
    }

    #[test]
    fn a_path_costs_twelve_bytes() {
        assert_eq!(size_of::<Entry>(), 12);
    }

    #[test]
    fn only_programs_of_the_system_are_package_managers() {
        let of = |path: &str| manager_of(Path::new(path));

        for (path, manager) in [
            ("/usr/bin/dpkg", Some(Manager::Dpkg)),
            ("/usr/bin/dpkg (deleted)", Some(Manager::Dpkg)),
            ("/usr/bin/apt-get", Some(Manager::Dpkg)),
            ("/usr/bin/dnf5", Some(Manager::Rpm)),
            ("/sbin/apk", Some(Manager::Apk)),
            ("/tmp/dpkg", None),
            ("/usr/local/bin/dpkg", None),
            ("dpkg", None),
            ("/usr/bin/dpkg-query-not", None),
            ("/usr/bin/python3.11", None),
        ] {
            assert_eq!(of(path), manager, "{path}");
        }
    }

    #[test]
    fn digests_are_those_of_their_algorithms() {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };

        assert_eq!(hex(&md5_of(&b"abc"[..]).unwrap()), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(hex(&sha1_of(&b"abc"[..]).unwrap()), "a9993e364706816aba3e25717850c26c9cd0d89d");
    }

    proptest! {
        #[test]
        fn every_line_has_its_place_and_only_long_ones_are_left_out(
            lines in proptest::collection::vec((proptest::bool::weighted(0.2), "[a-z]{0,9}"), 0..9), newline: bool,
        ) {
            let lines: Vec<_> = lines
                .into_iter()
                .map(|(long, line)| if long { format!("{line}{}", "x".repeat(MAX_LINE_BYTES)) } else { line })
                .collect();
            let mut text = lines.join("\n");
            if newline {
                text.push('\n');
            }

            let mut read = Vec::new();
            each_line(text.as_bytes(), |offset, line| read.push((offset as usize, line.to_vec()))).unwrap();

            for (offset, line) in &read {
                prop_assert_eq!(&text.as_bytes()[*offset..offset + line.len()], line);
            }
            let mut expected: Vec<_> = text.split('\n').filter(|line| line.len() < MAX_LINE_BYTES).collect();
            if text.is_empty() || text.ends_with('\n') {
                // Nothing follows the last newline.
                expected.pop();
            }
            let read: Vec<_> = read.iter().map(|(_, line)| std::str::from_utf8(line).unwrap()).collect();
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn each_path_is_found_with_its_package(paths in proptest::collection::vec(("[a-c]{1,3}", 0u32..4), 0..40)) {
            let mut index = Index::default();
            for (path, package) in &paths {
                index.add(index.hash(path.as_bytes()), *package);
            }
            index.settle();
            index.remove(|package| package == 3);

            for path in paths.iter().map(|(path, _)| path) {
                let owners: Vec<_> = index.owners(index.hash(path.as_bytes())).collect();
                let listed = paths.iter().filter(|(other, package)| other == path && *package != 3);
                let expected: std::collections::BTreeSet<_> = listed.map(|(_, package)| *package).collect();
                prop_assert_eq!(owners, expected.into_iter().collect::<Vec<_>>());
            }
        }
    }
}
