//! Where this host gets its time from: the servers that its time daemons are configured with.
//!
//! In this order, each server once:
//!
//! 1. `/etc/ntp.conf`, what it includes, and `/etc/ntp.d/*.conf`
//! 2. `/etc/ntpsec/ntp.conf`, what it includes, and `/etc/ntpsec/ntp.d/*.conf`
//! 3. `/etc/chrony/chrony.conf`, `/etc/chrony.conf`, and what they include or name as `confdir` and `sourcedir`
//! 4. `ntp.toml` of ntpd-rs, `ntpd.conf` of OpenNTPD
//! 5. `timesyncd.conf` of systemd with its drop-ins, `NTP=`, the leases of networkd, `FallbackNTP=`
//!
//! What DHCP clients write for a daemon is read with its files.
//!
//! Nothing here sends a packet. Files are read within bounds, so that no file and no circle of includes can
//! keep the module busy.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::OFlags;

use crate::client::{LONGEST_NAP, Patience, now};
use crate::server_line::{BadServer, Family, Server};
use crate::timesyncd_conf::Servers;
use crate::{chrony_conf, ntp_conf, ntpd_rs_conf, openntpd_conf, timesyncd_conf};

/// Most servers that are taken; time for more there is not.
pub const MAX_SERVERS: usize = 64;

/// Most files, patterns and directories that are followed; those after it are left out, and that is said.
const MAX_FILES: usize = 256;

/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Files that include one another, chronyd's own limit.
const MAX_DEPTH: usize = 10;

/// Most problems that are told.
const MAX_PROBLEMS: usize = 32;

/// Longest time that the files are waited for, out of what there is for the servers.
const LONGEST_READING: Duration = Duration::from_secs(2);

/// The greatest root distance with which daemons still use a server, unless they are told otherwise: RFC 5905's,
/// ntpd's and NTPsec's. ntpd-rs and OpenNTPD have other measures; they are held to the same.
pub const MAX_DISTANCE: Duration = Duration::from_millis(1_500);

/// chronyd's `maxdistance`, see chrony.conf(5).
const CHRONY_MAX_DISTANCE: Duration = Duration::from_secs(3);

/// `RootDistanceMaxSec=` of timesyncd.conf(5).
const TIMESYNCD_MAX_DISTANCE: Duration = Duration::from_secs(5);

/// What Debian's DHCP clients write for ntpd and NTPsec, which then read it instead of their own file.
const LEASED_FOR_NTPD: [&str; 3] =
    ["/run/ntp.conf.dhcp", "/var/lib/ntp/ntp.conf.dhcp", "/run/ntpsec/ntp.conf.dhcp"];

/// Where systemd looks for a configuration file, the first one that has it counts.
const SYSTEMD_DIRECTORIES: [&str; 4] =
    ["/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd"];

/// One line of a configuration that leads to time servers.
#[derive(Debug)]
pub(crate) enum Directive {
    /// A server.
    Server(Server),
    /// A line that should name one.
    Bad(BadServer),
    /// Another file, or a pattern of such.
    Include(String),
    /// Directories with `*.conf`; of files with the same name the first counts.
    ConfigDirectories(Vec<String>),
    /// Directories with `*.sources`, likewise.
    SourceDirectories(Vec<String>),
    /// A file, or a directory with all `*.conf` below it; relative to the directory of the file that says so.
    IncludeTree(String),
    /// The greatest root distance of a server that is used.
    MaxDistance(Duration),
}

impl Directive {
    /// The greatest root distance from a number of seconds, when it is one.
    pub(crate) fn max_distance(seconds: &str) -> Option<Self> {
        Some(Self::MaxDistance(Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?))
    }
}

/// A server and who named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Whom to ask.
    pub server: Server,
    /// The file that names it; `None` for the fallback list.
    pub named_in: Option<PathBuf>,
    /// The greatest root distance with which its daemon uses it.
    pub max_distance: Duration,
    /// It is for want of others only.
    pub is_last_resort: bool,
}

impl Source {
    pub(crate) fn new(server: Server, named_in: Option<PathBuf>) -> Self {
        Self { server, named_in, max_distance: MAX_DISTANCE, is_last_resort: false }
    }

    /// The same, to be asked for want of others only.
    #[must_use]
    pub(crate) fn for_want_of_others(self) -> Self {
        Self { is_last_resort: true, ..self }
    }
}

/// What the files of a host say.
#[derive(Debug, Default)]
pub struct Configured {
    /// The servers in the order in which they are to be asked.
    pub sources: Vec<Source>,
    /// What could not be read or understood.
    pub problems: Vec<Problem>,
    /// What did not respond in time; it and what comes after it was not read.
    pub unresponsive: Option<PathBuf>,
}

/// What could not be read or understood in the configuration of a time daemon.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// A file or directory cannot be read.
    #[error("cannot read {path:?}: {reason}")]
    Unreadable {
        /// Its path on the host.
        path: PathBuf,
        /// What the operating system says.
        reason: io::Error,
    },
    /// A line is not understood.
    #[error("in {path:?}: {reason}")]
    BadLine {
        /// The file's path on the host.
        path: PathBuf,
        /// What is wrong with it.
        reason: BadServer,
    },
    /// A pattern of paths is not understood.
    #[error("in {path:?}: {pattern:?} is not a pattern of paths")]
    BadPattern {
        /// The path of the file that has it.
        path: PathBuf,
        /// The pattern.
        pattern: String,
    },
    /// There is more than can be read.
    #[error(
        "{path:?} was not followed: more than {MAX_FILES} files, or {MAX_DEPTH} that include one another"
    )]
    TooMuch {
        /// The file or directory that was left out.
        path: PathBuf,
    },
}

/// Finds out which servers the time daemons of the host whose file system begins at `root` ask.
#[must_use]
pub fn configured(root: &Path) -> Configured {
    let so_far = SoFar::default();
    search(root, &so_far);
    so_far.take()
}

/// What was found so far, and the path that is being read.
#[derive(Default)]
struct SoFar(Mutex<(Configured, Option<PathBuf>)>);

impl SoFar {
    fn locked(&self) -> MutexGuard<'_, (Configured, Option<PathBuf>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Configured {
        let (mut found, reading) = std::mem::take(&mut *self.locked());
        found.unresponsive = reading;
        found
    }
}

/// The same, but without what is behind a file system that does not respond within a part of the time.
pub(crate) fn configured_in_time(root: &Path, patience: Patience<'_>) -> Configured {
    let patience = patience.until(now() + (patience.left() / 3).min(LONGEST_READING));
    let (root, so_far) = (root.to_owned(), Arc::<SoFar>::default());
    let its = Arc::clone(&so_far);
    let (sender, ended) = mpsc::channel::<()>();
    let work = move || {
        search(&root, &its);
        drop(sender);
    };
    // A thread that the kernel keeps waiting ends with the process.
    let thread = std::thread::Builder::new().name("read".to_owned()).spawn(work);
    match thread {
        Ok(_) => {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(patience.left().min(LONGEST_NAP)) {
                if patience.left().is_zero() {
                    break;
                }
            }
        }
        Err(reason) => so_far.locked().0.problems.push(Problem::Unreadable { path: "/etc".into(), reason }),
    }
    so_far.take()
}

fn search(root: &Path, so_far: &SoFar) {
    let mut search = Search { root, so_far, known: HashSet::new(), followed: 0, max_distance: MAX_DISTANCE };
    search.daemon(MAX_DISTANCE, |search| {
        for directory in ["/etc", "/etc/ntpsec"] {
            search.file(&Path::new(directory).join("ntp.conf"), ntp_conf::directives, 0);
            let drop_ins = format!("{directory}/ntp.d");
            search.directories(&[drop_ins], "conf", ntp_conf::directives, 0);
        }
        for path in LEASED_FOR_NTPD {
            search.file(Path::new(path), ntp_conf::directives, 0);
        }
    });
    search.daemon(CHRONY_MAX_DISTANCE, |search| {
        for path in ["/etc/chrony/chrony.conf", "/etc/chrony.conf"] {
            search.file(Path::new(path), chrony_conf::directives, 0);
        }
        search.leased_for_chrony();
    });
    search.daemon(MAX_DISTANCE, |search| {
        search.file(Path::new("/etc/ntpd-rs/ntp.toml"), ntpd_rs_conf::directives, 0);
        for path in ["/etc/openntpd/ntpd.conf", "/etc/ntpd.conf"] {
            search.file(Path::new(path), openntpd_conf::directives, 0);
        }
    });
    search.daemon(TIMESYNCD_MAX_DISTANCE, Search::timesyncd);
    so_far.locked().1 = None;
}

/// How the text of a file becomes directives.
type Reader = fn(&str) -> Vec<Directive>;

/// A search through the files of one host. All paths are those on the host.
struct Search<'a> {
    root: &'a Path,
    so_far: &'a SoFar,
    known: HashSet<(String, Option<u16>, Family, bool)>,
    /// Files, patterns and directories so far.
    followed: usize,
    /// The greatest root distance that the daemon at hand allows, as far as its files are read.
    max_distance: Duration,
}

impl Search<'_> {
    /// Reads the files of one daemon, which allows `max_distance` unless they say otherwise; where they say so does
    /// not matter.
    fn daemon(&mut self, max_distance: Duration, read: impl FnOnce(&mut Self)) {
        let first = self.so_far.locked().0.sources.len();
        self.max_distance = max_distance;
        read(self);
        let max_distance = self.max_distance;
        let mut so_far = self.so_far.locked();
        so_far.0.sources.iter_mut().skip(first).for_each(|source| source.max_distance = max_distance);
    }

    /// Follows a file; one that is not there says nothing.
    fn file(&mut self, path: &Path, reader: Reader, depth: usize) {
        let Some(text) = self.text(path, depth) else { return };
        for directive in reader(&text) {
            if self.followed > MAX_FILES {
                return;
            }
            match directive {
                Directive::Server(server) => {
                    self.add(Source::new(server, Some(path.to_owned())));
                }
                Directive::Bad(reason) => self.problem(Problem::BadLine { path: path.to_owned(), reason }),
                Directive::Include(pattern) => self.include(path, &pattern, reader, depth),
                Directive::IncludeTree(name) => self.include_tree(path, &name, reader, depth),
                Directive::MaxDistance(distance) => self.max_distance = distance,
                Directive::ConfigDirectories(list) => self.directories(&list, "conf", reader, depth + 1),
                Directive::SourceDirectories(list) => {
                    self.directories(&list, "sources", chrony_conf::servers, depth + 1);
                }
            }
        }
    }

    /// Follows a file, or the `*.conf` of a directory and of those below it, in the order of their names. NTPsec
    /// takes a relative path from the directory of the file that includes it, ntpd from where it works.
    fn include_tree(&mut self, from: &Path, name: &str, reader: Reader, depth: usize) {
        let beside = from.parent().unwrap_or(from).join(name);
        let path = if self.inside(&beside).exists() { beside } else { PathBuf::from(name) };
        self.tree(&path, reader, depth + 1);
    }

    fn tree(&mut self, path: &Path, reader: Reader, depth: usize) {
        if !self.inside(path).is_dir() {
            return self.file(path, reader, depth);
        }
        if !self.may_follow(path, depth) {
            return;
        }
        let entries = match self.inside(path).read_dir() {
            Ok(entries) => entries,
            Err(reason) => return self.problem(Problem::Unreadable { path: path.to_owned(), reason }),
        };
        let mut names: Vec<OsString> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .filter(|name| !name.as_encoded_bytes().starts_with(b"."))
            .take(MAX_FILES + 1)
            .collect();
        names.sort();
        for below in names.into_iter().map(|name| path.join(name)) {
            if below.extension().is_some_and(|one| one == "conf") || self.inside(&below).is_dir() {
                self.tree(&below, reader, depth + 1);
            }
        }
    }

    /// The files in which dhclient of Red Hat's kind keeps servers for chronyd.
    fn leased_for_chrony(&mut self) {
        let directory = Path::new("/var/lib/dhclient");
        let Ok(entries) = self.inside(directory).read_dir() else { return };
        let mut names: Vec<OsString> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name()))
            .filter(|name| name.as_encoded_bytes().starts_with(b"chrony.servers."))
            .take(MAX_FILES + 1)
            .collect();
        names.sort();
        for name in names {
            self.file(&directory.join(name), chrony_conf::leased, 0);
        }
    }

    fn include(&mut self, from: &Path, pattern: &str, reader: Reader, depth: usize) {
        if self.inside(Path::new(pattern)).symlink_metadata().is_ok() {
            return self.file(Path::new(pattern), reader, depth + 1);
        }
        if !self.may_follow(Path::new(pattern), depth) {
            return;
        }
        // The root is taken as it is, also with a bracket in its name. To glob(3), which the daemons use, **
        // is no more than *.
        let mut below_root = pattern.trim_start_matches('/').to_owned();
        while below_root.contains("**") {
            below_root = below_root.replace("**", "*");
        }
        let escaped = format!("{}/{below_root}", glob::Pattern::escape(&self.root.to_string_lossy()));
        let Ok(paths) = glob::glob(&escaped) else {
            let pattern = pattern.to_owned();
            return self.problem(Problem::BadPattern { path: from.to_owned(), pattern });
        };
        // In alphabetical order. What cannot be listed is reported by the file system's own error.
        for path in paths.take(MAX_FILES + 1) {
            match path {
                Ok(path) => {
                    let path = self.outside(&path);
                    self.file(&path, reader, depth + 1);
                }
                Err(error) => {
                    let path = self.outside(error.path());
                    self.problem(Problem::Unreadable { path, reason: error.into() });
                }
            }
        }
    }

    /// Follows the files of directories that have an extension, by name; of two with one name the first
    /// directory's.
    fn directories(&mut self, directories: &[String], extension: &str, reader: Reader, depth: usize) {
        for path in self.files_by_name(directories, extension) {
            self.file(&path, reader, depth);
        }
    }

    fn files_by_name(&mut self, directories: &[String], extension: &str) -> Vec<PathBuf> {
        let mut by_name: BTreeMap<OsString, PathBuf> = BTreeMap::new();
        for directory in directories.iter().take(MAX_DEPTH) {
            let path = PathBuf::from(directory);
            if !self.may_follow(&path, 0) {
                break;
            }
            let entries = match self.inside(&path).read_dir() {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(reason) => {
                    self.problem(Problem::Unreadable { path, reason });
                    continue;
                }
            };
            // One more than can be read, so that leaving out is noticed.
            let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
            let matching =
                names.filter(|name| Path::new(name).extension().is_some_and(|one| one == extension));
            for name in matching.take(MAX_FILES + 1) {
                let file = path.join(&name);
                by_name.entry(name).or_insert(file);
            }
        }
        by_name.into_values().collect()
    }

    /// The main file of the first directory that has one, then the drop-ins of all.
    fn timesyncd(&mut self) {
        let mains = SYSTEMD_DIRECTORIES.map(|directory| Path::new(directory).join("timesyncd.conf"));
        let main = mains.into_iter().find(|path| self.inside(path).symlink_metadata().is_ok());
        let directories = SYSTEMD_DIRECTORIES.map(|directory| format!("{directory}/timesyncd.conf.d"));
        let drop_ins = self.files_by_name(&directories, "conf");

        let mut servers = Servers::default();
        for path in main.into_iter().chain(drop_ins) {
            if let Some(text) = self.text(&path, 0) {
                servers.read(&text, &path);
            }
        }
        if let Some(distance) = servers.max_distance {
            self.max_distance = distance;
        }
        servers.ntp.into_iter().for_each(|source| self.add(source));
        let state = Path::new("/run/systemd/netif/state");
        if let Some(text) = self.text(state, 0) {
            for server in timesyncd_conf::leased(&text) {
                self.add(Source::new(server, Some(state.to_owned())));
            }
        }
        servers.fallback.into_iter().for_each(|source| self.add(source.for_want_of_others()));
    }

    fn add(&mut self, source: Source) {
        let server = &source.server;
        let key = (server.host.clone(), server.port, server.family, server.is_pool);
        let mut so_far = self.so_far.locked();
        let found = &mut so_far.0;
        if found.sources.len() < MAX_SERVERS && self.known.insert(key) {
            found.sources.push(Source { max_distance: self.max_distance, ..source });
        }
    }

    fn problem(&mut self, problem: Problem) {
        let mut so_far = self.so_far.locked();
        if so_far.0.problems.len() < MAX_PROBLEMS {
            so_far.0.problems.push(problem);
        }
    }

    /// The text of a file; `None` when there is none, or when it cannot be read, which becomes a problem.
    fn text(&mut self, path: &Path, depth: usize) -> Option<String> {
        if !self.may_follow(path, depth) {
            return None;
        }
        match read_bounded(&self.inside(path)) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(reason) => {
                self.problem(Problem::Unreadable { path: path.to_owned(), reason });
                None
            }
        }
    }

    /// Counts a path; whether there is room for it.
    fn may_follow(&mut self, path: &Path, depth: usize) -> bool {
        self.followed += 1;
        let may = self.followed <= MAX_FILES && depth <= MAX_DEPTH;
        if !may {
            self.problem(Problem::TooMuch { path: path.to_owned() });
        }
        may
    }

    /// Where a path of the host is found, which is looked at next. Daemons work in `/`, so that is what relative paths
    /// begin at.
    fn inside(&self, path: &Path) -> PathBuf {
        self.so_far.locked().1 = Some(path.to_owned());
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The host's own path of what was found.
    fn outside(&self, path: &Path) -> PathBuf {
        Path::new("/").join(path.strip_prefix(self.root).unwrap_or(path))
    }
}

/// Reads a regular file of bounded size. systemd's way to switch off a file, a link to `/dev/null`, reads as
/// empty.
fn read_bounded(path: &Path) -> io::Result<String> {
    if path.read_link().is_ok_and(|target| target == Path::new("/dev/null")) {
        return Ok(String::new());
    }
    // A FIFO would keep an ordinary open waiting for ever.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let limit = format!("it is larger than {MAX_FILE_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, limit));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
