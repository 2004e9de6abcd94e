//! One walk through the file system for all searches.
//!
//! A directory is listed once and each file in it is asked about the cheapest way: by its name, which the listing
//! gives, then by its metadata, and only then by its content. Search paths that lie below others are met on the way;
//! those that were not, because of a depth or a file system that is not entered, get a walk of their own.

mod asking;
mod place;
mod roots;
mod threads;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{FileType, RawDir};
use rustix::io::Errno;
use vigie_host::mounts::Storage;
use vigie_host::users::{Names, UNKNOWN_NAME};
use vigie_sdk::Coverage;
use vigie_sdk::privacy::MASKED;

use self::asking::name_passes;
use self::place::{FileName, Place, joined};
use self::roots::Root;
use self::threads::Own;
use crate::content::Question;
use crate::findings::{ErrorLog, Findings, shown};
use crate::mounts::{Mounts, is_entered};
use crate::open;
use crate::parameters::{Search, Test};
use crate::pool::Pool;
use crate::read::{READ_BYTES, read, unread};

/// Bytes of directory entries that are fetched at a time.
const LISTING_BYTES: usize = 64 * 1024;

/// Files that are kept until they are read, or given to a thread that has nothing to do.
const BATCH_FILES: usize = 32;

/// Files above this size, in bytes, are read when all others have been: one that takes an hour must not keep a small
/// one from being found.
const LARGE_BYTES: u64 = 16 << 20;

/// Most threads of a walk, whatever the host has: the agent shares it with others.
const MAX_WORKERS: usize = 8;

/// Why a walk ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// The agent asked for it.
    #[error("it was asked to stop")]
    Asked,
    /// The time was over.
    #[error("its time was over")]
    Deadline,
    /// The result is as long as one may be.
    #[error("its result became too long")]
    Full,
    /// The host or a limit allows no thread.
    #[error("no thread could be started for it: allow the module more tasks")]
    NoThread,
}

/// A search that is interested in a directory and what is below.
#[derive(Debug, Clone)]
struct Interest {
    search: usize,
    /// The last level of directories that it enters, counted from the walk's beginning.
    deepest: u32,
    /// The search path without links; a link is followed when it stays below.
    base: Arc<Path>,
}

/// Where a walk begins.
#[derive(Debug)]
struct Base {
    directory: OwnedFd,
    /// As it was asked for.
    asked: Vec<u8>,
    /// Without links.
    real: Vec<u8>,
}

/// Work for one thread.
#[derive(Debug)]
enum Job {
    /// A search path, by its place among them.
    Root(usize),
    Directory(Directory),
    Files(Vec<Candidate>),
    /// The large files that are left, the smaller ones first, beside other threads that do the same.
    Large,
}

#[derive(Debug)]
struct Directory {
    base: Arc<Base>,
    /// Below the base; empty for the base itself.
    path: Vec<u8>,
    /// 1 for the base itself.
    depth: u32,
    interests: Arc<[Interest]>,
}

/// A file whose content is asked about.
#[derive(Debug)]
struct Candidate {
    place: Arc<Place>,
    file: FileName<'static>,
    /// The searches, and which of their filters passed already.
    asking: Vec<(usize, Vec<usize>)>,
}

/// What a thread keeps for itself.
struct Worker {
    /// Where it is, and what it is to do, for whoever waits for it.
    own: Arc<Own>,
    buffer: Vec<u8>,
    listing: Vec<MaybeUninit<u8>>,
}

/// A walk for all searches.
pub struct Walk {
    searches: Arc<[Search]>,
    mounts: Mounts,
    roots: Vec<Root>,
    /// The search paths by the directory that they are in.
    roots_in: HashMap<PathBuf, Vec<(OsString, usize)>>,
    stop: AtomicBool,
    /// What was found.
    pub findings: Findings,
    /// What could not be inspected.
    pub errors: ErrorLog,
    coverage: Mutex<Coverage>,
    masked: bool,
    /// A search is about more than regular files.
    wants_other_kinds: bool,
    /// The large files by size, the largest first, once all have been met.
    large: Mutex<Vec<(u64, Candidate)>>,
    files: AtomicU64,
    failed: AtomicU64,
}

impl Walk {
    /// Prepares a walk. When `masked`, what identifies a file is left out of the result.
    #[must_use]
    pub fn new(searches: Arc<[Search]>, mounts: Mounts, masked: bool) -> Self {
        let mut by_path: BTreeMap<&Path, Vec<usize>> = BTreeMap::new();
        for (index, search) in searches.iter().enumerate() {
            for path in &search.paths {
                by_path.entry(path).or_default().push(index);
            }
        }
        let roots = by_path.into_iter().map(|(path, searches)| Root {
            path: path.to_owned(),
            searches,
            reached: AtomicBool::new(false),
        });
        let roots: Vec<Root> = roots.collect();
        let mut roots_in: HashMap<PathBuf, Vec<(OsString, usize)>> = HashMap::new();
        for (index, root) in roots.iter().enumerate() {
            if let (Some(parent), Some(name)) = (root.path.parent(), root.path.file_name()) {
                roots_in.entry(parent.to_owned()).or_default().push((name.to_owned(), index));
            }
        }
        let findings = Findings::new(Arc::clone(&searches), masked);
        let mut coverage = Coverage::whole();
        for check in searches.iter().flat_map(Search::checks) {
            let (what, unknown) = match &check.test {
                Test::Owner(user) => ("user", user.unknown(&findings.names, Names::uid)),
                Test::Group(group) => ("group", group.unknown(&findings.names, Names::gid)),
                _ => continue,
            };
            if let Some(name) = unknown {
                let what = if masked {
                    format!("files of a {what}")
                } else {
                    format!("files of the {what} {name:?}")
                };
                coverage.skip(what, UNKNOWN_NAME);
            }
        }
        let max_errors = searches.iter().map(|search| search.options.max_errors).max().unwrap_or_default();
        Self {
            mounts,
            roots,
            roots_in,
            stop: AtomicBool::new(false),
            findings,
            errors: ErrorLog::new(max_errors, masked),
            coverage: Mutex::new(coverage),
            masked,
            wants_other_kinds: searches.iter().any(|search| search.kinds != [FileType::RegularFile]),
            large: Mutex::default(),
            files: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            searches,
        }
    }

    /// Walks. `must_stop` is asked every 10 ms; the walk ends soon after it gives a reason, and waits at most for
    /// `parting` for threads that the kernel does not let go.
    ///
    /// # Errors
    /// Why it ended before its end. What was found until then is in the findings.
    pub fn run(
        self: &Arc<Self>,
        parting: Duration,
        must_stop: impl Fn() -> Option<Stop>,
    ) -> Result<(), Stop> {
        let ended = self.walk(parting, &must_stop);
        if ended.is_err() {
            for (_, candidate) in self.locked_large().drain(..) {
                let path = candidate.place.path(&candidate.file);
                self.leave_out(&path, "it is large, and the search ended before it was read");
            }
        }
        ended
    }

    fn walk(self: &Arc<Self>, parting: Duration, must_stop: &impl Fn() -> Option<Stop>) -> Result<(), Stop> {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
        loop {
            let unreached: Vec<usize> = self.outermost_unreached();
            if unreached.is_empty() || self.findings.are_all_closed() {
                break;
            }
            self.run_jobs(workers, unreached.into_iter().map(Job::Root).collect(), parting, must_stop)?;
        }
        if self.locked_large().is_empty() || self.findings.are_all_closed() {
            return Ok(());
        }
        self.locked_large().sort_by_key(|(size, _)| std::cmp::Reverse(*size));
        self.run_jobs(workers, (0..workers).map(|_| Job::Large).collect(), parting, must_stop)
    }

    fn locked_large(&self) -> MutexGuard<'_, Vec<(u64, Candidate)>> {
        self.large.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Regular files that were looked at.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// Files and directories that could not be opened.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn work(&self, pool: &Pool<Job>, own: Arc<Own>) {
        let mut worker =
            Worker { own, buffer: vec![0; READ_BYTES], listing: vec![MaybeUninit::uninit(); LISTING_BYTES] };
        loop {
            // Whoever waits for work of others must not hold the lock of its own.
            let own = worker.own.jobs().pop();
            let Some(job) = own.or_else(|| pool.next(&mut Vec::new())) else { break };
            if self.ends() {
                // The jobs that are left are taken and dropped.
                continue;
            }
            match job {
                Job::Root(index) => self.root(&self.roots[index], &mut worker, pool),
                Job::Directory(directory) => self.directory(&directory, &mut worker, pool),
                Job::Files(files) => *worker.own.batch() = files,
                Job::Large => {
                    while !self.ends() {
                        let Some((_, candidate)) = self.locked_large().pop() else { break };
                        self.read(candidate, &mut worker, false);
                    }
                }
            }
            self.read_batch(&mut worker, pool);
            pool.share(&mut worker.own.jobs());
            worker.own.at_nothing();
        }
    }

    /// What was examined, and what was not.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        Coverage { examined: self.files(), ..self.locked_coverage().clone() }
    }

    /// Notes a part of the search that was not examined, and that nothing is wrong with.
    pub(crate) fn leave_out(&self, path: &[u8], why: impl std::fmt::Display) {
        self.locked_coverage().skip(self.named(path), why.to_string());
    }

    /// A path as it is shown.
    fn named(&self, path: &[u8]) -> String {
        if self.masked { MASKED.to_owned() } else { shown(path) }
    }

    fn locked_coverage(&self) -> MutexGuard<'_, Coverage> {
        self.coverage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what could not be examined, as an error too.
    fn cannot(&self, path: &[u8], why: impl std::fmt::Display) {
        self.leave_out(path, &why);
        self.errors.add(path, why);
    }

    fn ends(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.findings.is_full()
    }

    /// An object that cannot be opened. It is no error that one vanished meanwhile, but it may have gone to where the
    /// search has been: whoever renames fast enough must not look clean.
    fn cannot_open(&self, path: &[u8], error: Errno) {
        if open::is_gone(error) {
            return self.leave_out(path, "was moved or removed before it was examined");
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.cannot(path, format_args!("cannot be opened: {}", std::io::Error::from(error)));
    }

    fn directory(&self, directory: &Directory, worker: &mut Worker, pool: &Pool<Job>) {
        let Directory { base, path, depth, interests } = directory;
        let is_live =
            |interest: &Interest| interest.deepest >= *depth && !self.findings.is_closed(interest.search);
        if !interests.iter().any(is_live) {
            return;
        }
        let (place, real) = (joined(&base.asked, path), joined(&base.real, path));
        worker.own.at_directory(&place, &real);
        let listed = match open::open_directory(base.directory.as_fd(), path) {
            Ok(listed) => listed,
            Err(error) => return self.cannot_open(&place, error),
        };
        worker.own.lists(&place);
        let listing = Listing {
            roots: self.roots_in.get(Path::new(OsStr::from_bytes(&place))).map_or(&[], Vec::as_slice),
            place: Arc::new(Place { directory: Some(listed), asked: place, real: real.clone() }),
            real,
            live: interests.iter().filter(|interest| is_live(interest)).cloned().collect(),
            directory,
        };
        let mut files = 0;
        let mut buffer = std::mem::take(&mut worker.listing);
        if let Some(listed) = &listing.place.directory {
            let mut entries = RawDir::new(listed, &mut buffer);
            loop {
                if entries.is_buffer_empty() {
                    worker.own.at_directory(&listing.place.asked, &listing.real);
                }
                let Some(entry) = entries.next() else { break };
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(error) => {
                        self.cannot(&listing.place.asked, format_args!("cannot be listed: {error}"));
                        break;
                    }
                };
                if self.ends() {
                    break;
                }
                let name = entry.file_name();
                if !matches!(name.to_bytes(), b"." | b"..") {
                    files += u64::from(self.entry(&listing, name, entry.file_type(), worker));
                }
                if worker.own.batch().len() >= BATCH_FILES {
                    self.read_batch(worker, pool);
                    pool.share(&mut worker.own.jobs());
                }
            }
        }
        worker.listing = buffer;
        worker.own.lists(b"");
        self.files.fetch_add(files, Ordering::Relaxed);
    }

    /// Looks at one entry of a directory; whether it is a regular file, or was followed to one.
    fn entry(&self, listing: &Listing<'_>, name: &CStr, kind: FileType, worker: &mut Worker) -> bool {
        let kind = match (kind, &listing.place.directory) {
            // Some file systems do not tell.
            (FileType::Unknown, Some(directory)) => {
                worker.at(&listing.place, &FileName::Entry(name.into()));
                match open::status(directory.as_fd(), name) {
                    Ok(status) => status.kind,
                    Err(error) => {
                        self.cannot_open(&joined(&listing.place.asked, name.to_bytes()), error);
                        return false;
                    }
                }
            }
            (kind, _) => kind,
        };
        let other = self.other_interests(listing, name, kind);
        let interests = other.as_deref().unwrap_or(&listing.live);
        let (excluded, kept) = self.without_excluded(listing, name, interests);
        let interests = kept.as_deref().unwrap_or(interests);
        if excluded {
            return false;
        }
        // Searches for other kinds than files ask by name and metadata.
        if kind != FileType::RegularFile && self.wants_other_kinds {
            let wanting =
                interests.iter().filter(|interest| self.searches[interest.search].kinds.contains(&kind));
            let wanting: Vec<Interest> = wanting.cloned().collect();
            self.file(&listing.place, &FileName::Entry(name.into()), &wanting, false, worker);
        }
        match kind {
            FileType::RegularFile if self.wants_other_kinds => {
                let wanting: Vec<Interest> =
                    interests.iter().filter(|interest| self.wants_files(interest)).cloned().collect();
                self.file(&listing.place, &FileName::Entry(name.into()), &wanting, true, worker);
                true
            }
            FileType::RegularFile => {
                self.file(&listing.place, &FileName::Entry(name.into()), interests, true, worker);
                true
            }
            FileType::Symlink => self.link(listing, name, interests, worker),
            FileType::Directory => {
                let Directory { base, path, depth, interests: all } = listing.directory;
                let goes_deeper = interests.iter().any(|interest| interest.deepest > *depth);
                let is_cut = |interest: &Interest| {
                    interest.deepest <= *depth && self.searches[interest.search].options.is_depth_own
                };
                if interests.iter().any(is_cut) {
                    let path = joined(&listing.place.asked, name.to_bytes());
                    self.leave_out(&path, "lies too deep: option maxdepth goes further");
                }
                let other = kept.or(other);
                if goes_deeper {
                    worker.own.jobs().push(Job::Directory(Directory {
                        base: Arc::clone(base),
                        path: joined(path, name.to_bytes()),
                        depth: depth + 1,
                        interests: other.map_or_else(|| Arc::clone(all), Into::into),
                    }));
                }
                false
            }
            // FIFOs, sockets and devices have no content to search.
            _ => false,
        }
    }

    fn wants_files(&self, interest: &Interest) -> bool {
        self.searches[interest.search].kinds.contains(&FileType::RegularFile)
    }

    /// The searches that do not exclude an entry, when some do; and whether all do.
    fn without_excluded(
        &self,
        listing: &Listing<'_>,
        name: &CStr,
        interests: &[Interest],
    ) -> (bool, Option<Vec<Interest>>) {
        if !interests.iter().any(|interest| !self.searches[interest.search].excludes.is_empty()) {
            return (false, None);
        }
        let path = joined(&listing.place.asked, name.to_bytes());
        let path = Path::new(OsStr::from_bytes(&path));
        let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::default() };
        let excludes = |interest: &&Interest| {
            let excludes = &self.searches[interest.search].excludes;
            !excludes.iter().any(|pattern| pattern.matches_path_with(path, options))
        };
        let kept: Vec<Interest> = interests.iter().filter(excludes).cloned().collect();
        (kept.is_empty(), Some(kept))
    }

    /// The searches that are interested in an entry, when they are not those of its directory: because the entry
    /// is a search path itself, or a mount point that not all of them enter.
    fn other_interests(&self, listing: &Listing<'_>, name: &CStr, kind: FileType) -> Option<Vec<Interest>> {
        let special = self.mounts.special_in(&listing.real);
        if special.is_empty() && listing.roots.is_empty() {
            return None;
        }
        let name = OsStr::from_bytes(name.to_bytes());
        let mount = special.iter().find(|(point, _)| point == name).map(|(_, kind)| *kind);
        let root = listing.roots.iter().find(|(path, _)| path == name).map(|(_, root)| &self.roots[*root]);
        // A link that is a search path is followed further than others, on its own.
        let root = root.filter(|_| kind != FileType::Symlink);
        if mount.is_none() && root.is_none() {
            return None;
        }
        let enters = |interest: &&Interest| {
            mount.is_none_or(|kind| is_entered(kind, &self.searches[interest.search].options))
        };
        let mut interests: Vec<Interest> = listing.live.iter().filter(enters).cloned().collect();
        if let Some(kind) = mount.filter(|_| interests.len() < listing.live.len()) {
            self.stay_out(&joined(&listing.place.asked, name.as_bytes()), kind);
        }
        if let Some(root) = root {
            root.reached.store(true, Ordering::Relaxed);
            let real = joined(&listing.real, name.as_bytes());
            let real = Arc::from(Path::new(OsStr::from_bytes(&real)));
            self.add_root(root, listing.directory.depth + 1, &real, &mut interests);
        }
        Some(interests)
    }

    /// Notes a file system that a search does not enter. Where the kernel's own usually are, nothing is stored; one
    /// elsewhere may hide something.
    fn stay_out(&self, path: &[u8], kind: Storage) {
        const USUAL: [&[u8]; 3] = [b"/proc", b"/sys", b"/dev"];
        let is_usual =
            |usual: &[u8]| path.strip_prefix(usual).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
        match kind {
            Storage::Remote => {
                self.leave_out(path, "is a remote or FUSE file system: the option remotefs searches it")
            }
            Storage::Pseudo if !USUAL.iter().any(|usual| is_usual(usual)) => {
                self.leave_out(
                    path,
                    "is a virtual file system of the kernel: the option allfilesystems searches it",
                );
            }
            Storage::Pseudo | Storage::Local => {}
        }
    }

    /// Follows a link to a file for the searches below whose path it stays; whether it was followed.
    fn link(&self, listing: &Listing<'_>, name: &CStr, interests: &[Interest], worker: &mut Worker) -> bool {
        let called = name.to_bytes();
        let wanting = |interest: &&Interest| {
            let search = &self.searches[interest.search];
            let (_, names) = search.names();
            self.wants_files(interest)
                && (!search.options.match_all || names.iter().all(|check| name_passes(check, called)))
        };
        let interests: Vec<&Interest> = interests.iter().filter(wanting).collect();
        if interests.is_empty() {
            return false;
        }
        let directory = Path::new(OsStr::from_bytes(&listing.real));
        let is_entered = |interest: &Interest, path: &Path| {
            let (point, kind) = self.mounts.of(path);
            interest.base.starts_with(point) || is_entered(kind, &self.searches[interest.search].options)
        };
        let may_enter = |path: &Path| interests.iter().any(|interest| is_entered(interest, path));
        worker.own.at_link(&listing.place.asked, called);
        let Ok(real) = open::resolve(directory, Path::new(OsStr::from_bytes(called)), may_enter) else {
            return false;
        };
        let follows = |interest: &&Interest| real.starts_with(&interest.base) && is_entered(interest, &real);
        let interests: Vec<Interest> = interests.into_iter().filter(follows).cloned().collect();
        let is_file =
            || open::status_without_links(&real).is_ok_and(|status| status.kind == FileType::RegularFile);
        if interests.is_empty() || !is_file() {
            return false;
        }
        let file = FileName::Elsewhere { called: called.into(), real: real.into() };
        self.file(&listing.place, &file, &interests, true, worker);
        true
    }

    /// Reads the files that are kept; shares them with a thread that has nothing to do.
    fn read_batch(&self, worker: &mut Worker, pool: &Pool<Job>) {
        loop {
            let Some(candidate) = worker.own.batch().pop() else { return };
            if self.ends() {
                worker.own.batch().clear();
                return;
            }
            if pool.wants_work()
                && let Some(half) = worker.own.half_of_batch()
            {
                worker.own.jobs().push(Job::Files(half));
                pool.share(&mut worker.own.jobs());
            }
            self.read(candidate, worker, true);
        }
    }

    /// Reads a file; a large one later, when it `may_wait`.
    fn read(&self, candidate: Candidate, worker: &mut Worker, may_wait: bool) {
        let Candidate { place, file, asking } = candidate;
        let path = || place.path(&file);
        let asking = asking.into_iter().filter(|(search, _)| !self.findings.is_closed(*search));
        let questions: Vec<Question<'_>> =
            asking.map(|(search, passed)| Question::new(search, &self.searches[search], passed)).collect();
        if questions.is_empty() {
            return;
        }
        let opened = worker.at(&place, &file).open(&file);
        if let Ok((status, _)) = &opened
            && may_wait
            && status.kind == FileType::RegularFile
            && status.size > LARGE_BYTES
        {
            // Not with its directory: thousands of them must not hold as many descriptors.
            let asking = questions.into_iter().map(Question::into_parts).collect();
            let real = place.real_path(&file);
            let called = Cow::Owned(file.called().to_owned());
            let place = Place::elsewhere(place.asked.clone());
            let file = FileName::Elsewhere { called, real: Cow::Owned(real) };
            self.locked_large().push((status.size, Candidate { place: Arc::new(place), file, asking }));
            return;
        }
        let (status, reading) = match opened {
            // Something else took its place.
            Ok((status, _)) if status.kind != FileType::RegularFile => return,
            Ok((status, _)) if questions.iter().all(|question| status.size > question.max_read()) => {
                self.leave_out(&path(), "it is larger than the option maxread");
                (status, unread(questions, None))
            }
            Ok((status, opened)) => {
                (status, read(opened.as_fd(), status.size, questions, &mut worker.buffer, &self.stop))
            }
            Err(error) => {
                self.cannot_open(&path(), error);
                let Ok(status) = place.status(&file) else { return };
                (status, unread(questions, None))
            }
        };
        if let Some(trouble) = reading.trouble {
            self.cannot(&path(), trouble);
        } else if reading.is_cut && self.stop.load(Ordering::Relaxed) {
            self.leave_out(&path(), "it was being read when the search ended");
        }
        for answer in reading.answers {
            let sha256 = answer.sha256.as_deref();
            let extended = || self.extended(&place, &file);
            self.findings.add(answer.index, answer.passed.as_deref(), &path(), status, sha256, extended);
        }
    }
}

/// A directory that is being listed.
struct Listing<'d> {
    directory: &'d Directory,
    place: Arc<Place>,
    /// Its path without links.
    real: Vec<u8>,
    /// The search paths in it.
    roots: &'d [(OsString, usize)],
    /// The searches that are interested in its files.
    live: Vec<Interest>,
}
