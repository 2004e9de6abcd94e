//! Compares files with what their packages' manager recorded of them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use md5::Md5;
use rustix::fs::{AtFlags, Statx, StatxFlags};
use rustix::io::Errno;
use serde::Serialize;
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use vigie_host::shown;
use vigie_host::users::Names;
use vigie_packagedb::installed::{Algorithm, Digest, FileRecord};
use vigie_packagedb::owners::Manager;
use vigie_sdk::Query;
use vigie_sdk::protocol::Progress;
use vigie_tree::{Root, Spot, Unread};

use crate::capabilities::Capabilities;
use crate::norm;
use crate::remembered::{Identity, Remembered};
use crate::search::Outcome;

/// Most threads that read files at once.
const MAX_THREADS: usize = 4;

/// Files that a thread takes at once.
const BATCH: usize = 32;

/// Bytes that are read at once.
const READ_BYTES: usize = 256 * 1024;

/// Most of a file of names or of dpkg's configuration that is read, in bytes.
const MAX_TEXT_BYTES: u64 = 16 << 20;

const NOT_RESPONDING: &str = "its file system does not respond";
const BEHIND: &str = "the file that is read before it does not respond";

/// How often a file is read that changes meanwhile.
const ATTEMPTS: usize = 2;

const KIND: u32 = 0o170_000;
const PERMISSIONS: u32 = 0o7777;
const RAISING: u32 = 0o6000;

/// What differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// It is not there.
    Missing,
    /// It is something else: a link, a directory.
    Type,
    /// Its content.
    Digest,
    /// Its size.
    Size,
    /// Where the symbolic link leads.
    Link,
    /// It runs with the rights of its owner or group.
    Setuid,
    /// Its permissions.
    Mode,
    /// Its owner or group.
    Owner,
    /// Its capabilities.
    Capabilities,
    /// The database has no digest of it, although it has of the package's other files.
    NoDigest,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The package, by its place in the search's outcome.
    pub package: usize,
    /// The path.
    pub path: Vec<u8>,
    /// What differs.
    pub what: What,
    /// What was recorded, or is usual.
    pub expected: Option<String>,
    /// What there is.
    pub found: Option<String>,
    /// Configuration: the administrator may well change it.
    pub configuration: bool,
    /// dpkg was configured not to install it.
    pub excluded: bool,
}

/// What a verification came to.
#[derive(Debug, Default)]
pub struct Verified {
    /// The differences, by package and in the order of its files.
    pub findings: Vec<Finding>,
    /// Files that were looked at.
    pub files: u64,
    /// Files of which the digest was made, and how long they are together.
    pub read: u64,
    /// In bytes.
    pub read_bytes: u64,
    /// Files whose digest was remembered.
    pub remembered: u64,
    /// What could not be examined: the path and why.
    pub not_examined: Vec<(Vec<u8>, String)>,
    /// What could not be remembered.
    pub errors: Vec<String>,
    /// The work was stopped before its end.
    pub stopped: bool,
}

/// A verification, shared by its threads and by whoever answers when the kernel holds one of them.
pub struct Verification {
    root: Root,
    outcome: Arc<Outcome>,
    names: Names,
    /// The files of users and of groups that are not there: only root has a name then.
    nameless: [Option<&'static str>; 2],
    excluded: Exclusions,
    remembered: Mutex<Remembered>,
    /// Package and file, by their places.
    jobs: Vec<(usize, usize)>,
    next: AtomicUsize,
    done: AtomicU64,
    /// What each thread made.
    parts: Vec<Mutex<Part>>,
}

/// What one thread made.
#[derive(Default)]
struct Part {
    findings: Vec<(usize, Finding)>,
    made: Vec<(Identity, Digest)>,
    read_bytes: u64,
    read: u64,
    remembered: u64,
    files: u64,
    not_examined: Vec<(Vec<u8>, String)>,
    /// The job that it is at, and those that it took to do after it.
    doing: Range<usize>,
    stopped: bool,
}

impl Part {
    /// Adds what was made of one file.
    fn add(&mut self, other: Self) {
        self.findings.extend(other.findings);
        self.made.extend(other.made);
        self.read_bytes += other.read_bytes;
        self.read += other.read;
        self.remembered += other.remembered;
        self.files += other.files;
        self.not_examined.extend(other.not_examined);
        self.stopped |= other.stopped;
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Verification {
    /// Reads what is needed to verify the files of the packages that were found.
    #[must_use]
    pub fn new(outcome: Arc<Outcome>, root: &Root, state_dir: Option<&Path>, full: bool) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let remembered = Remembered::read(state_dir, full, i64::try_from(now).unwrap_or(i64::MAX));
        let jobs = outcome.found.iter().enumerate();
        let jobs = jobs
            .flat_map(|(package, found)| (0..found.files.len()).map(move |file| (package, file)))
            .collect();
        let text = |path: &str| {
            let mut bytes = Vec::new();
            root.place(path).open().ok()?.take(MAX_TEXT_BYTES).read_to_end(&mut bytes).ok()?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        let files = ["/etc/passwd", "/etc/group"];
        let [users, groups] = files.map(text);
        let nameless = [users.is_none().then_some(files[0]), groups.is_none().then_some(files[1])];
        let users = users.unwrap_or_else(|| "root:x:0:0::/:\n".to_owned());
        let groups = groups.unwrap_or_else(|| "root:x:0:\n".to_owned());
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        Self {
            root: root.clone(),
            outcome,
            names: Names::from_texts(&users, &groups),
            nameless,
            excluded: Exclusions::of(root),
            remembered: Mutex::new(remembered),
            jobs,
            next: AtomicUsize::new(0),
            done: AtomicU64::new(0),
            parts: (0..threads).map(|_| Mutex::default()).collect(),
        }
    }

    /// Verifies everything; returns what could not be remembered.
    pub fn run(&self, query: &Query) -> Vec<String> {
        let known = std::mem::take(&mut *locked(&self.remembered));
        std::thread::scope(|scope| {
            for part in &self.parts {
                let known = &known;
                scope.spawn(move || self.work(part, known, query));
            }
        });
        let mut known = known;
        let made = self.parts.iter().flat_map(|part| std::mem::take(&mut locked(part).made)).collect();
        let stored = known.add(made);
        let told = |error| format!("cannot store digests in the module's state directory: {error}");
        stored.err().map(told).into_iter().collect()
    }

    /// Takes what the threads made until now.
    #[must_use]
    pub fn take(&self) -> Verified {
        let mut verified = Verified::default();
        let mut findings = Vec::new();
        for part in &self.parts {
            let part = std::mem::take(&mut *locked(part));
            findings.extend(part.findings);
            verified.not_examined.extend(part.not_examined);
            verified.files += part.files;
            verified.read += part.read;
            verified.read_bytes += part.read_bytes;
            verified.remembered += part.remembered;
            verified.stopped |= part.stopped;
            for job in part.doing.clone() {
                let why = if job == part.doing.start { NOT_RESPONDING } else { BEHIND };
                verified.not_examined.push((self.record(job).1.path.clone(), why.to_owned()));
            }
        }
        let unnamed = self.nameless.into_iter().flatten();
        verified.not_examined.extend(unnamed.map(|file| {
            (file.into(), "it cannot be read: owners were compared only where they are root".to_owned())
        }));
        verified.stopped |= self.next.load(Ordering::Relaxed) < self.jobs.len();
        findings.sort_by_key(|(job, _)| *job);
        verified.findings = findings.into_iter().map(|(_, finding)| finding).collect();
        verified.not_examined.sort();
        verified
    }

    fn record(&self, job: usize) -> (usize, &FileRecord, Manager) {
        let (package, file) = self.jobs[job];
        let found = &self.outcome.found[package];
        (package, &found.files[file], found.manager)
    }

    fn work(&self, own: &Mutex<Part>, remembered: &Remembered, query: &Query) {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let first = self.next.fetch_add(BATCH, Ordering::Relaxed);
            let batch = first..self.jobs.len().min(first.saturating_add(BATCH));
            if batch.is_empty() {
                return;
            }
            let files = batch.len() as u64;
            locked(own).doing = batch.clone();
            for job in batch {
                if query.is_stopped() {
                    let mut own = locked(own);
                    (own.stopped, own.doing) = (true, 0..0);
                    return;
                }
                let (package, record, manager) = self.record(job);
                let mut look =
                    Look { work: self, remembered, part: Part::default(), job, package, manager, record };
                look.file(&mut buffer);
                let mut own = locked(own);
                own.doing.start = job + 1;
                own.add(look.part);
            }
            let done = self.done.fetch_add(files, Ordering::Relaxed);
            query.report(|| Progress {
                done,
                total: Some(self.jobs.len() as u64),
                unit: "files".to_owned(),
                ..Progress::default()
            });
        }
    }
}

/// A look at one file.
struct Look<'a> {
    work: &'a Verification,
    remembered: &'a Remembered,
    part: Part,
    job: usize,
    package: usize,
    manager: Manager,
    record: &'a FileRecord,
}

impl Look<'_> {
    fn differs(&mut self, what: What, expected: Option<String>, found: Option<String>) {
        let excluded = what == What::Missing
            && self.manager == Manager::Dpkg
            && self.work.excluded.has(&self.record.path);
        let finding = Finding {
            package: self.package,
            path: self.record.path.clone(),
            what,
            expected,
            found,
            configuration: self.record.configuration,
            excluded,
        };
        self.part.findings.push((self.job, finding));
    }

    fn cannot(&mut self, why: impl ToString) {
        self.part.not_examined.push((self.record.path.clone(), why.to_string()));
    }

    fn file(&mut self, buffer: &mut [u8]) {
        self.part.files += 1;
        let place = self.work.root.place(OsStr::from_bytes(&self.record.path));
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let looked = place.spot().and_then(|spot| Ok((spot.status(wanted)?, spot)));
        let (status, spot) = match looked {
            Ok(looked) => looked,
            Err(Unread::Gone) => {
                if !self.record.may_be_missing {
                    self.differs(What::Missing, None, None);
                }
                return;
            }
            Err(error) => return self.cannot(error),
        };
        let kind = u32::from(status.stx_mode) & KIND;
        let is_link = kind == 0o120_000;
        let is_regular = kind == 0o100_000;
        if !self.kind(kind) {
            return;
        }
        if is_link {
            self.link(&spot);
        }
        if is_regular {
            self.content(&spot, &status, buffer);
            self.capabilities(&spot);
        }
        self.owner(&status, kind);
        if !is_link {
            self.mode(u32::from(status.stx_mode) & PERMISSIONS, kind);
        }
    }

    /// Whether it is of the kind that was recorded.
    fn kind(&mut self, found: u32) -> bool {
        let recorded = self.record.mode.map_or(0, |mode| mode & KIND);
        let regular_by_digest = self.record.digest.is_some() && self.manager == Manager::Dpkg;
        let expected = match recorded {
            0 if regular_by_digest => 0o100_000,
            0 if self.record.directory && self.manager == Manager::Apk => 0o040_000,
            0 => return true,
            recorded => recorded,
        };
        if expected != found {
            self.differs(What::Type, Some(kind_name(expected).to_owned()), Some(kind_name(found).to_owned()));
        }
        expected == found
    }

    fn link(&mut self, spot: &Spot) {
        let target = match spot.target() {
            Ok(target) => target,
            Err(error) => return self.cannot(error),
        };
        if let Some(expected) = &self.record.link
            && *expected != target
        {
            self.differs(What::Link, Some(shown(expected)), Some(shown(&target)));
        }
        // apk's digest of a link is that of its target.
        if let (Manager::Apk, Some(expected)) = (self.manager, &self.record.digest) {
            let found = digest_of(expected.algorithm, &mut &*target, &mut [0; 4096]);
            if found.is_ok_and(|(found, _)| found != *expected) {
                self.differs(What::Link, None, Some(shown(&target)));
            }
        }
    }

    fn content(&mut self, spot: &Spot, status: &Statx, buffer: &mut [u8]) {
        if let Some(expected) = self.record.size
            && expected != status.stx_size
        {
            self.differs(What::Size, Some(expected.to_string()), Some(status.stx_size.to_string()));
        }
        let Some(expected) = &self.record.digest else {
            if self.record.lacks_digest {
                self.differs(What::NoDigest, None, None);
            }
            return;
        };
        let found = match self.remembered.get(&identity(status), expected.algorithm) {
            Some(digest) => {
                self.part.remembered += 1;
                digest.clone()
            }
            None => match read(spot, expected.algorithm, buffer) {
                Ok((identity, digest, bytes)) => {
                    self.part.read += 1;
                    self.part.read_bytes += bytes;
                    self.part.made.push((identity, digest.clone()));
                    digest
                }
                // It went meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return self.differs(What::Missing, None, None);
                }
                Err(error) => return self.cannot(error),
            },
        };
        if found != *expected {
            self.differs(What::Digest, Some(hexadecimal(&expected.bytes)), Some(hexadecimal(&found.bytes)));
        }
    }

    fn capabilities(&mut self, spot: &Spot) {
        let expected = match (&self.record.capabilities, self.manager) {
            (Some(text), _) => text.as_str(),
            (None, Manager::Rpm) => return,
            (None, _) => norm::known(&self.record.path).map_or("", |norm| norm.capabilities),
        };
        let mut attribute = [0; 64];
        let found = match spot.attribute("security.capability", &mut attribute) {
            Ok(length) => Capabilities::of_attribute(&attribute[..length]),
            Err(Errno::NODATA | Errno::NOTSUP) => Some(Capabilities::default()),
            Err(Errno::NOENT) => return,
            Err(error) => return self.cannot(format!("capabilities: {error}")),
        };
        let expected = Capabilities::of_text(expected);
        if found.is_some() && found == expected {
            return;
        }
        // On a file system without them they may be missing; the setuid bit then stands for them.
        if found == Some(Capabilities::default()) && self.manager == Manager::Dpkg {
            return;
        }
        let text = |capabilities: Option<Capabilities>| {
            let text = capabilities.map_or("unreadable".to_owned(), Capabilities::text);
            Some(if text.is_empty() { "none".to_owned() } else { text })
        };
        self.differs(What::Capabilities, text(expected), text(found));
    }

    fn owner(&mut self, status: &Statx, kind: u32) {
        let names = &self.work.names;
        let name = |name: Option<&str>, number: u32| name.map_or_else(|| number.to_string(), str::to_owned);
        let (uid, gid) = (status.stx_uid, status.stx_gid);
        let found = (name(names.user(uid), uid), name(names.group(gid), gid));
        let (user, group) = match (&self.record.user, &self.record.group) {
            (None, None) if self.manager != Manager::Dpkg => return,
            (None, None) if kind == 0o040_000 => {
                // Packages give directories to users of their own; a person's is another matter.
                if uid < 1000 {
                    return;
                }
                ("root", name(names.group(gid), gid))
            }
            (None, None) => {
                let group = norm::known(&self.record.path).map_or("root", |norm| norm.group);
                ("root", group.to_owned())
            }
            (user, group) => {
                (user.as_deref().unwrap_or(&found.0), group.clone().unwrap_or_else(|| found.1.clone()))
            }
        };
        // By number, when there is one: two names can have the same.
        let [no_users, no_groups] = self.work.nameless.map(|file| file.is_some());
        let user_is = names.uid(user).map_or(no_users || user == found.0, |expected| expected == uid);
        let group_is = names.gid(&group).map_or(no_groups || group == found.1, |expected| expected == gid);
        if !user_is || !group_is {
            let user_name = names.uid(user).and_then(|uid| names.user(uid)).unwrap_or(user);
            let group_name = names.gid(&group).and_then(|gid| names.group(gid)).unwrap_or(&group);
            let expected = format!("{user_name}:{group_name}");
            self.differs(What::Owner, Some(expected), Some(format!("{}:{}", found.0, found.1)));
        }
    }

    fn mode(&mut self, found: u32, kind: u32) {
        let expected = match self.record.mode {
            Some(mode) => mode & PERMISSIONS,
            None if self.manager != Manager::Dpkg => return,
            None if kind == 0o040_000 => {
                // Only what lets everybody put files there: packages have directories of many modes.
                if found & 0o1002 == 0o002 {
                    self.differs(What::Mode, Some(octal(found & !0o022)), Some(octal(found)));
                }
                return;
            }
            None => match norm::known(&self.record.path) {
                Some(norm) => norm.mode,
                None if norm::is_plain(found) => return,
                None if found & 0o111 == 0 => 0o644,
                None => 0o755,
            },
        };
        if (expected ^ found) & RAISING & found != 0 {
            self.differs(What::Setuid, Some(octal(expected)), Some(octal(found)));
        }
        if expected & !RAISING != found & !RAISING || (expected ^ found) & RAISING & expected != 0 {
            self.differs(What::Mode, Some(octal(expected)), Some(octal(found)));
        }
    }
}

fn octal(mode: u32) -> String {
    format!("{mode:04o}")
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn kind_name(kind: u32) -> &'static str {
    match kind {
        0o100_000 => "file",
        0o040_000 => "directory",
        0o120_000 => "symbolic link",
        0o140_000 => "socket",
        0o010_000 => "fifo",
        0o060_000 => "block device",
        0o020_000 => "character device",
        _ => "unknown",
    }
}

fn identity(status: &Statx) -> Identity {
    Identity {
        device: u64::from(status.stx_dev_major) << 32 | u64::from(status.stx_dev_minor),
        inode: status.stx_ino,
        size: status.stx_size,
        modified: (status.stx_mtime.tv_sec, status.stx_mtime.tv_nsec),
        changed: (status.stx_ctime.tv_sec, status.stx_ctime.tv_nsec),
        born: (status.stx_btime.tv_sec, status.stx_btime.tv_nsec),
    }
}

/// Reads a file, that it may not change meanwhile; gives what it was, its digest and its length.
fn read(spot: &Spot, algorithm: Algorithm, buffer: &mut [u8]) -> io::Result<(Identity, Digest, u64)> {
    let mut file = spot.open()?;
    let look = |file: &File| {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        rustix::fs::statx(file.as_fd(), "", AtFlags::EMPTY_PATH, wanted).map_err(io::Error::from)
    };
    for _ in 0..ATTEMPTS {
        let before = look(&file)?;
        if u32::from(before.stx_mode) & KIND != 0o100_000 {
            return Err(io::Error::other("it is not a regular file any more"));
        }
        // What grows without end ends where it was.
        let (digest, bytes) = digest_of(algorithm, &mut (&file).take(before.stx_size), buffer)?;
        if identity(&look(&file)?) == identity(&before) && bytes == before.stx_size {
            return Ok((identity(&before), digest, bytes));
        }
        file = spot.open()?;
    }
    Err(io::Error::other("it changed while it was read"))
}

fn digest_of(algorithm: Algorithm, file: &mut dyn Read, buffer: &mut [u8]) -> io::Result<(Digest, u64)> {
    fn run<D: sha2::Digest>(file: &mut dyn Read, buffer: &mut [u8]) -> io::Result<(Box<[u8]>, u64)> {
        let mut digest = D::new();
        let mut bytes = 0;
        loop {
            match file.read(buffer) {
                Ok(0) => return Ok((digest.finalize().as_slice().into(), bytes)),
                Ok(read) => {
                    digest.update(&buffer[..read]);
                    bytes += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    let (digest, length) = match algorithm {
        Algorithm::Md5 => run::<Md5>(file, buffer),
        Algorithm::Sha1 => run::<Sha1>(file, buffer),
        Algorithm::Sha256 => run::<Sha256>(file, buffer),
        Algorithm::Sha512 => run::<Sha512>(file, buffer),
    }?;
    Ok((Digest { algorithm, bytes: digest }, length))
}

/// What dpkg was told not to install: `path-exclude` and `path-include` in its configuration. The last that fits
/// counts.
struct Exclusions(Vec<(bool, Vec<u8>)>);

impl Exclusions {
    fn of(root: &Root) -> Self {
        let mut patterns = Vec::new();
        let mut files = root.place("etc/dpkg/dpkg.cfg.d").list().unwrap_or_default();
        files.sort_by(|a, b| a.path().cmp(b.path()));
        files.insert(0, root.place("etc/dpkg/dpkg.cfg"));
        for file in files {
            let mut text = Vec::new();
            if let Ok(file) = file.open() {
                file.take(MAX_TEXT_BYTES).read_to_end(&mut text).ok();
            }
            for line in text.split(|byte| *byte == b'\n') {
                for (key, excluded) in [(&b"path-exclude"[..], true), (b"path-include", false)] {
                    let rest = line.trim_ascii().strip_prefix(key).map(<[u8]>::trim_ascii);
                    if let Some(pattern) = rest.and_then(|rest| rest.strip_prefix(b"=")) {
                        patterns.push((excluded, pattern.trim_ascii().to_vec()));
                    }
                }
            }
        }
        Self(patterns)
    }

    fn has(&self, path: &[u8]) -> bool {
        self.0.iter().rev().find(|(_, pattern)| matches(pattern, path)).is_some_and(|(excluded, _)| *excluded)
    }
}

/// fnmatch(3) without flags, but for ranges of characters: `*` and `?` match a slash too.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut place) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while place < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, place));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[place] => {
                at += 1;
                place += 1;
            }
            _ => match star {
                Some((star_at, star_place)) => {
                    star = Some((star_at, star_place + 1));
                    at = star_at + 1;
                    place = star_place + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_dpkg_match_slashes_too() {
        for (pattern, text, expected) in [
            ("/usr/share/doc/*", "/usr/share/doc/a/b", true),
            ("/usr/share/doc/*", "/usr/share/docs", false),
            ("/usr/share/man/??/*", "/usr/share/man/de/man1", true),
            ("*copyright", "/usr/share/doc/a/copyright", true),
            ("", "", true),
            ("*", "", true),
            ("a", "", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }
}
