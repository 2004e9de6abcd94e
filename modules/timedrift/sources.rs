//! Where this host gets its time from: the servers that its time daemons are configured with.
//!
//! In this order, each server once:
//!
//! 1. `/etc/ntp.conf`, what it includes, and `/etc/ntp.d/*.conf`
//! 2. `/etc/ntpsec/ntp.conf`, what it includes, and `/etc/ntpsec/ntp.d/*.conf`
//! 3. `/etc/chrony/chrony.conf`, `/etc/chrony.conf`, and what they include or name as `confdir` and `sourcedir`
//! 4. `timesyncd.conf` of systemd with its drop-ins, `NTP=` before `FallbackNTP=`
//!
//! Nothing here sends a packet. Files are read within bounds, so that no file and no circle of includes can
//! keep the module busy.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::server_line::{BadServer, Server};
use crate::timesyncd_conf::Servers;
use crate::{chrony_conf, ntp_conf};

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
}

/// A server and who named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Whom to ask.
    pub server: Server,
    /// The file that names it; `None` for the fallback list.
    pub named_in: Option<PathBuf>,
}

/// What the files of a host say.
#[derive(Debug, Default)]
pub struct Configured {
    /// The servers in the order in which they are to be asked.
    pub sources: Vec<Source>,
    /// What could not be read or understood.
    pub problems: Vec<Problem>,
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
    let mut search = Search { root, found: Configured::default(), known: HashSet::new(), followed: 0 };
    for directory in ["/etc", "/etc/ntpsec"] {
        search.file(&Path::new(directory).join("ntp.conf"), ntp_conf::directives, 0);
        let drop_ins = format!("{directory}/ntp.d");
        search.directories(&[drop_ins], "conf", ntp_conf::directives, 0);
    }
    for path in ["/etc/chrony/chrony.conf", "/etc/chrony.conf"] {
        search.file(Path::new(path), chrony_conf::directives, 0);
    }
    search.timesyncd();
    search.found
}

/// How the text of a file becomes directives.
type Reader = fn(&str) -> Vec<Directive>;

/// A search through the files of one host. All paths are those on the host.
struct Search<'a> {
    root: &'a Path,
    found: Configured,
    known: HashSet<Server>,
    /// Files, patterns and directories so far.
    followed: usize,
}

impl Search<'_> {
    /// Follows a file; one that is not there says nothing.
    fn file(&mut self, path: &Path, reader: Reader, depth: usize) {
        let Some(text) = self.text(path, depth) else { return };
        for directive in reader(&text) {
            if self.followed > MAX_FILES {
                return;
            }
            match directive {
                Directive::Server(server) => {
                    self.add(Source { server, named_in: Some(path.to_owned()) });
                }
                Directive::Bad(reason) => self.problem(Problem::BadLine { path: path.to_owned(), reason }),
                Directive::Include(pattern) => self.include(path, &pattern, reader, depth),
                Directive::ConfigDirectories(list) => self.directories(&list, "conf", reader, depth + 1),
                Directive::SourceDirectories(list) => {
                    self.directories(&list, "sources", chrony_conf::servers, depth + 1);
                }
            }
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
        servers.ntp.into_iter().chain(servers.fallback).for_each(|source| self.add(source));
    }

    fn add(&mut self, source: Source) {
        if self.found.sources.len() < MAX_SERVERS && self.known.insert(source.server.clone()) {
            self.found.sources.push(source);
        }
    }

    fn problem(&mut self, problem: Problem) {
        if self.found.problems.len() < MAX_PROBLEMS {
            self.found.problems.push(problem);
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

    /// Where a path of the host is found. Daemons work in `/`, so that is what relative paths begin at.
    fn inside(&self, path: &Path) -> PathBuf {
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
