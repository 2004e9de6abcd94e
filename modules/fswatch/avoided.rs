//! FUSE mounts of users: a program of the user answers each request there, or does not. Nothing in them is looked at,
//! by the engine or by any other thread, because whoever looks waits for as long as the user likes; the status names
//! them.
//!
//! A user moves such a mount with the directory that it is in, and makes one between any two calls of ours. So paths
//! alone decide nothing: each step stays in a mount that the mount table names and that may be entered, see openat2(2).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, Statx, StatxFlags, statx};
use rustix::io::Errno;
use vigie_host::mounts::{Mount, Mounts};

/// Bytes of a path that are given to the kernel at once; it refuses 4,096.
const PATH_BYTES: usize = 2_000;

/// Links on one way, as many as the kernel follows: see path_resolution(7).
const MAX_LINKS: usize = 40;

/// Refers to an object without opening it.
const REFERENCE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Where they are, and the way to everything else. Clones share what the last mount table said.
#[derive(Debug, Clone, Default)]
pub struct Avoided(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    table: RwLock<Arc<Table>>,
    /// A mount was met that is not in the table.
    doubted: AtomicBool,
}

/// What is known of mounts.
#[derive(Debug, Default)]
struct Table {
    /// Where those are that are avoided, and whose program answers.
    users: BTreeMap<PathBuf, u32>,
    /// The numbers of those that are entered, and whether asking there can take a while. Without `/proc` there are
    /// none, and everything is.
    entered: HashMap<u64, bool>,
    /// The numbers of those of automounters: what belongs there is mounted when somebody goes in.
    automounts: HashSet<u64>,
    /// Where they are.
    points: HashSet<PathBuf>,
    /// The directory of all.
    top: Option<OwnedFd>,
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Way {
    /// The path without links, as far as it is there.
    pub(crate) real: PathBuf,
    /// The links on it, each by where it really is.
    pub(crate) links: Vec<PathBuf>,
}

impl Way {
    /// A path that leads to itself.
    pub(crate) fn of(path: &Path) -> Self {
        Self { real: path.to_owned(), links: Vec::new() }
    }
}

/// Whether an error says that a mount was met which the table does not name. Whoever gets it tries again: the table is
/// read soon.
#[must_use]
pub(crate) fn is_unknown_mount(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::XDEV.raw_os_error())
}

fn why(user: u32) -> String {
    format!("a program of user {user} serves this FUSE mount and may not respond, so it is not looked at")
}

/// Opens what is below a directory; no name may be a link, and the last one is not followed.
fn open_below(at: BorrowedFd<'_>, path: &Path, flags: OFlags, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    if path.as_os_str().len() > PATH_BYTES
        && let (Some(parent), Some(name)) = (path.parent(), path.file_name())
    {
        // Longer than the kernel takes: a piece at a time.
        let mut directory: Option<OwnedFd> = None;
        let mut piece = PathBuf::new();
        for component in parent {
            if piece.as_os_str().len() + component.len() >= PATH_BYTES {
                let below = directory.as_ref().map_or(at, |directory| directory.as_fd());
                directory = Some(open_below(below, &piece, REFERENCE | OFlags::DIRECTORY, resolve)?);
                piece = PathBuf::new();
            }
            piece.push(component);
        }
        let below = directory.as_ref().map_or(at, |directory| directory.as_fd());
        let directory = open_below(below, &piece, REFERENCE | OFlags::DIRECTORY, resolve)?;
        return open_below(directory.as_fd(), Path::new(name), flags, resolve);
    }
    match rustix::fs::openat2(at, path, flags, Mode::empty(), resolve | ResolveFlags::NO_SYMLINKS) {
        // Before Linux 5.6, or forbidden by a filter of system calls: only the last name is checked then.
        Err(Errno::NOSYS | Errno::PERM) => Ok(rustix::fs::openat(at, path, flags, Mode::empty())?),
        Err(Errno::LOOP) => Err(io::ErrorKind::NotADirectory.into()),
        result => Ok(result?),
    }
}

/// The path that opens or asks what a descriptor refers to, and nothing else.
pub(crate) fn path_of(object: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", object.as_fd().as_raw_fd()))
}

/// The number of the mount; none before Linux 5.8, where the kernel does not say it.
fn mount_of(status: &Statx) -> Option<u64> {
    (status.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(status.stx_mnt_id)
}

/// The number of the mount that something is in. The question makes no program of a FUSE mount answer.
fn number_of(object: BorrowedFd<'_>) -> rustix::io::Result<Option<u64>> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    statx(object, "", flags, StatxFlags::MNT_ID).map(|status| mount_of(&status))
}

impl Table {
    fn of(mounts: &Mounts) -> Self {
        let has_some = mounts.iter().any(|mount| mount.fuse_user.is_some());
        let seen = if has_some { mounts.visible() } else { HashSet::new() };
        let is_entered = |mount: &&Mount| mount.fuse_user.is_none();
        // What a file system of this kind says of a file can be older than the file.
        let is_asked = |mount: &Mount| mount.can_wait() || mount.kind == "fuseblk" || mount.kind == "vboxsf";
        let users = mounts.iter().filter(|mount| seen.contains(&mount.id));
        let mut entered: HashMap<u64, bool> =
            mounts.iter().filter(is_entered).map(|mount| (mount.id, is_asked(mount))).collect();
        let top = rustix::fs::openat(CWD, "/", REFERENCE, Mode::empty()).ok();
        // In a directory that is the root of this process alone, the table does not name the mount that it is in.
        if mounts.iter().next().is_some()
            && !mounts.iter().any(|mount| mount.point == Path::new("/"))
            && let Some(id) = top.as_ref().and_then(|top| number_of(top.as_fd()).ok().flatten())
        {
            entered.insert(id, true);
        }
        let points = mounts.iter().filter(is_entered).map(|mount| mount.point.clone());
        let automounts = mounts.iter().filter(|mount| mount.kind == "autofs").map(|mount| mount.id);
        Self {
            users: users.filter_map(|mount| Some((mount.point.clone(), mount.fuse_user?))).collect(),
            entered,
            automounts: automounts.collect(),
            points: points.filter(|point| point.parent().is_some()).collect(),
            top,
        }
    }

    fn user(&self, path: &Path) -> Option<u32> {
        if self.users.is_empty() {
            return None;
        }
        path.ancestors().find_map(|way| self.users.get(way)).copied()
    }

    /// Whether a mount is entered, and asking there can take a while; none when nobody knows it.
    fn entry(&self, mount: Option<u64>) -> Option<bool> {
        match mount {
            Some(id) if !self.entered.is_empty() => self.entered.get(&id).copied(),
            _ => Some(true),
        }
    }
}

impl Avoided {
    /// Those among the mounts that can be seen: what is mounted over hides them.
    #[must_use]
    pub(crate) fn among(mounts: &Mounts) -> Self {
        let avoided = Self::default();
        avoided.update(mounts);
        avoided
    }

    /// Goes by another mount table from now on.
    pub(crate) fn update(&self, mounts: &Mounts) {
        let table = Table::of(mounts);
        *self.0.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        self.0.doubted.store(false, Ordering::SeqCst);
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.0.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a mount was met that is not in the table.
    #[must_use]
    pub(crate) fn is_doubted(&self) -> bool {
        self.0.doubted.load(Ordering::SeqCst)
    }

    fn unknown(&self) -> io::Error {
        self.0.doubted.store(true, Ordering::SeqCst);
        Errno::XDEV.into()
    }

    /// Whose program would have to answer for a look at this path.
    #[must_use]
    pub(crate) fn user(&self, path: &Path) -> Option<u32> {
        self.table().user(path)
    }

    /// Whether a look at this path would wait for a user's program.
    #[must_use]
    pub(crate) fn has(&self, path: &Path) -> bool {
        self.user(path).is_some()
    }

    /// Why nothing at this path is looked at, when that is so.
    #[must_use]
    pub(crate) fn why(&self, path: &Path) -> Option<String> {
        self.user(path).map(why)
    }

    /// Where they are.
    #[must_use]
    pub(crate) fn points(&self) -> Vec<PathBuf> {
        self.table().users.keys().cloned().collect()
    }

    /// Opens what is at a path of any length. No name on it may be a link; one that is the last is not followed.
    ///
    /// # Errors
    /// When it is not there, or in a mount that is avoided or that the table does not name.
    pub(crate) fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let table = self.table();
        let Some(top) = table.top.as_ref().filter(|_| path.is_absolute() && !table.entered.is_empty()) else {
            return open_below(CWD, path, flags, ResolveFlags::empty());
        };
        if let Some(user) = table.user(path) {
            return Err(io::Error::other(why(user)));
        }
        let mut points: Vec<&Path> = path.ancestors().filter(|way| table.points.contains(*way)).collect();
        let (mut entered, mut done) = (None, Path::new("/"));
        while let Some(point) = points.pop() {
            let at = entered.as_ref().unwrap_or(top).as_fd();
            let goes_on = point != path || flags.contains(OFlags::DIRECTORY);
            entered = Some(self.enter(&table, at, point.strip_prefix(done).unwrap_or(point), goes_on)?);
            done = point;
        }
        let at = entered.as_ref().unwrap_or(top).as_fd();
        match path.strip_prefix(done) {
            Ok(rest) if !rest.as_os_str().is_empty() => self.open_inside(at, rest, flags),
            _ if flags.contains(OFlags::DIRECTORY) => self.open_inside(at, Path::new("."), flags),
            _ => reopen(at, flags),
        }
    }

    /// Opens what is below a directory in the same mount.
    fn open_inside(&self, at: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        open_below(at, path, flags, ResolveFlags::NO_XDEV)
            .map_err(|error| if is_unknown_mount(&error) { self.unknown() } else { error })
    }

    /// Refers to what is below a directory, where something may be mounted that is entered. Whoever goes on from there
    /// has an automounter mount what belongs there: it is looked at once the table names it.
    fn enter(&self, table: &Table, at: BorrowedFd<'_>, path: &Path, goes_on: bool) -> io::Result<OwnedFd> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                Some(self.open_inside(at, parent, REFERENCE | OFlags::DIRECTORY)?)
            }
            _ => None,
        };
        let at = directory.as_ref().map_or(at, |directory| directory.as_fd());
        let name = path.file_name().unwrap_or(OsStr::new("."));
        // This makes no program of a FUSE mount answer, and no automounter.
        let mut found = rustix::fs::openat(at, name, REFERENCE, Mode::empty())?;
        let number = |found: &OwnedFd| number_of(found.as_fd()).map_err(|_| self.unknown());
        let mut mount = number(&found)?;
        if goes_on && mount.is_some_and(|mount| table.automounts.contains(&mount)) {
            found = rustix::fs::openat(at, name, REFERENCE | OFlags::DIRECTORY, Mode::empty())?;
            mount = number(&found)?;
        }
        table.entry(mount).map(|_| found).ok_or_else(|| self.unknown())
    }

    /// Refers to a name in an open directory, which may be a mount that is entered.
    ///
    /// # Errors
    /// As for [`Avoided::open`].
    pub(crate) fn refer(&self, directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::NO_XDEV;
        match rustix::fs::openat2(directory, name, REFERENCE, Mode::empty(), resolve) {
            Ok(found) => Ok(found),
            Err(Errno::XDEV | Errno::NOSYS | Errno::PERM) => {
                self.enter(&self.table(), directory, Path::new(name), false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a name in an open directory for reading. A FIFO does not make us wait.
    ///
    /// # Errors
    /// As for [`Avoided::open`].
    pub(crate) fn open_file(
        &self,
        directory: BorrowedFd<'_>,
        name: &OsStr,
        flags: OFlags,
    ) -> io::Result<OwnedFd> {
        let all = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat2(directory, name, all, Mode::empty(), ResolveFlags::NO_XDEV) {
            Ok(found) => Ok(found),
            Err(Errno::XDEV | Errno::NOSYS | Errno::PERM) => {
                let found = self.refer(directory, name)?;
                reopen(found.as_fd(), all)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What is at a name in an open directory.
    ///
    /// # Errors
    /// As for [`Avoided::open`].
    pub(crate) fn status_of_name(&self, directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<Statx> {
        let table = self.table();
        let wanted = StatxFlags::BASIC_STATS;
        // Whoever does not want the newest does not wait for a program or a server.
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        let status = statx(directory, name, flags, wanted | StatxFlags::MNT_ID)?;
        match table.entry(mount_of(&status)) {
            Some(false) => Ok(status),
            Some(true) => Ok(statx(self.refer(directory, name)?, "", AtFlags::EMPTY_PATH, wanted)?),
            None => Err(self.unknown()),
        }
    }

    /// What is at a path.
    ///
    /// # Errors
    /// As for [`Avoided::open`].
    pub(crate) fn status(&self, path: &Path) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(self.open(path, OFlags::PATH)?)?)
    }

    /// Where the link at a path leads; none when there is something else.
    ///
    /// # Errors
    /// As for [`Avoided::open`].
    pub(crate) fn target(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let link = self.open(path, OFlags::PATH)?;
        let target = rustix::fs::readlinkat(&link, "", Vec::new()).ok();
        Ok(target.map(|target| OsString::from_vec(target.into_bytes()).into()))
    }

    /// Follows a path name by name, also where only a part of it is there.
    pub(crate) fn follow(&self, path: &Path) -> Way {
        self.follow_where(path, |_| true)
    }

    /// The same to the first link that is not to be followed.
    pub(crate) fn follow_where(&self, path: &Path, mut follows: impl FnMut(&Path) -> bool) -> Way {
        let names = |path: &Path| -> Vec<OsString> {
            let names = path.components().rev().filter_map(|component| match component {
                Component::Normal(_) | Component::ParentDir => Some(component.as_os_str().to_owned()),
                _ => None,
            });
            names.collect()
        };
        let mut way = Way { real: PathBuf::from("/"), links: Vec::new() };
        let (mut rest, mut is_there) = (names(path), true);
        while let Some(name) = rest.pop() {
            if name == ".." {
                way.real.pop();
                continue;
            }
            way.real.push(name);
            if !is_there {
                continue;
            }
            match self.target(&way.real) {
                Ok(Some(target)) if way.links.len() < MAX_LINKS && follows(&way.real) => {
                    way.links.push(way.real.clone());
                    if target.is_absolute() {
                        way.real = PathBuf::from("/");
                    } else {
                        way.real.pop();
                    }
                    rest.extend(names(&target));
                }
                Ok(None) => {}
                Ok(Some(_)) | Err(_) => is_there = false,
            }
        }
        way
    }
}

/// Opens what is referred to in another way.
fn reopen(object: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
    if flags.contains(OFlags::PATH) {
        return object.try_clone_to_owned();
    }
    // Opened through /proc a link would be followed.
    if FileType::from_raw_mode(rustix::fs::fstat(object)?.st_mode) == FileType::Symlink {
        return Err(Errno::LOOP.into());
    }
    Ok(rustix::fs::openat(CWD, path_of(&object), flags.difference(OFlags::NOFOLLOW), Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;
    use std::sync::mpsc;
    use std::time::Duration;

    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::events::Mailbox;
    use crate::inotify::Watcher;
    use crate::look::{Found, Plan, Scratch, look_at};
    use crate::trust::{Lane, Trust};

    /// What one of our threads finds; nothing when it waits.
    fn found<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (answer, answered) = mpsc::channel();
        std::thread::spawn(move || answer.send(ask()));
        answered.recv_timeout(Duration::from_secs(10)).ok()
    }

    fn looked(path: PathBuf, avoided: &Avoided) -> io::Result<Found> {
        let mut scratch = Scratch::beside(avoided.clone());
        let plan = Plan { hash: true, ..Plan::default() };
        found(move || look_at(&path, plan, None, &mut scratch)).expect("nobody waits")
    }

    /// Each mount of the test's own.
    fn mounted(source: &str, kind: Option<&str>, at: &Path, flags: MsFlags, options: Option<&str>) -> bool {
        let made = mount(Some(source), at, kind, flags, options);
        if let Err(error) = made {
            vigie_skipped::skipped(format_args!("{kind:?} cannot be mounted: {error}"));
        }
        made.is_ok()
    }

    /// Gives this thread mounts of its own; without the right to that, the test does not run.
    fn has_own_mounts() -> bool {
        let all = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        let own = unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(None::<&Path>, "/", None::<&Path>, all, None::<&Path>));
        if let Err(error) = &own {
            vigie_skipped::skipped(format_args!("no mount namespace of our own: {error}"));
        }
        own.is_ok()
    }

    #[test]
    fn what_is_mounted_after_the_table_was_read_is_entered_when_it_names_it_and_is_no_users() {
        if !has_own_mounts() {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let home = temp.path().canonicalize().unwrap();
        let at = |name: &str| home.join(name);
        for name in ["a/m", "c/m", "t"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        for name in ["file", "bound", "a/f"] {
            fs::write(at(name), name).unwrap();
        }
        symlink("a/m/x", at("link")).unwrap();
        let avoided = Avoided::among(&Mounts::read().unwrap());
        let server = |point: &Path, mode: &str| {
            let server = File::options().read(true).write(true).open("/dev/fuse").ok()?;
            let options =
                format!("fd={},rootmode={mode},user_id=54321,group_id=0,allow_other", server.as_raw_fd());
            mounted("hang", Some("fuse.hang"), point, MsFlags::empty(), Some(&options)).then_some(server)
        };
        let (Some(first), Some(second)) = (server(&at("a/m"), "40000"), server(&at("a/f"), "100644")) else {
            return vigie_skipped::skipped("no FUSE");
        };
        let is_bound = mounted(at("file").to_str().unwrap(), None, &at("bound"), MsFlags::MS_BIND, None);
        assert!(is_bound && mounted("t", Some("tmpfs"), &at("t"), MsFlags::empty(), None));
        fs::write(at("t/x"), "x").unwrap();

        for name in ["a/m", "a/m/x", "a/f", "t", "t/x", "bound"] {
            assert!(looked(at(name), &avoided).is_err_and(|error| is_unknown_mount(&error)), "{name}");
        }
        assert!(avoided.is_doubted());
        avoided.update(&Mounts::read().unwrap());
        assert!(!avoided.is_doubted() && avoided.user(&at("a/m/x")) == Some(54321));
        // The kernel tells nobody of this.
        fs::rename(at("a"), at("b")).unwrap();
        for name in ["b/m", "b/m/x", "b/f"] {
            assert!(looked(at(name), &avoided).is_err_and(|error| is_unknown_mount(&error)), "{name}");
        }
        symlink("b/m/x", at("other")).unwrap();
        let asked = avoided.clone();
        let (link, point) = (at("other"), at("b/m"));
        let rest = found(move || {
            let is_listed = asked.open(&point, OFlags::RDONLY | OFlags::DIRECTORY).is_ok();
            let watched =
                Watcher::start(Mailbox::default(), asked.clone()).unwrap().add(&point, Lane::Trusted);
            let lane = Trust::new(asked.clone()).lane(&point.join("x"));
            (asked.follow(&link).real, is_listed, watched.is_ok(), lane)
        });
        let digest = |path: &Path| match looked(path.to_owned(), &avoided) {
            Ok(Found::Object { object, .. }) => Some(object.content),
            _ => None,
        };
        let (bound, file, inside) = (digest(&at("bound")), digest(&at("file")), digest(&at("t/x")));
        drop((first, second));
        for name in ["b/m", "b/f", "t", "bound"] {
            umount2(&at(name), MntFlags::MNT_DETACH).unwrap();
        }

        let (real, is_listed, is_watched, _) = rest.expect("nobody waits");
        assert_eq!((real, is_listed, is_watched), (at("b/m/x"), false, false));
        assert!(inside.is_some() && bound.is_some() && bound == file);
    }

    #[test]
    fn in_a_root_that_the_mount_table_does_not_name_everything_is_looked_at() {
        let mounts = Mounts::parse(b"4294967290 1 0:5 / /proc rw - proc proc rw");
        let avoided = Avoided::among(&mounts);
        let top = avoided.open(Path::new("/"), OFlags::RDONLY | OFlags::DIRECTORY).unwrap();

        assert!(avoided.status_of_name(top.as_fd(), OsStr::new(".")).is_ok());
        assert!(!avoided.is_doubted());
        let without_proc = Avoided::among(&Mounts::default());
        for path in ["/proc", "/dev", "/sys"] {
            let found = without_proc.open(Path::new(path), OFlags::RDONLY | OFlags::DIRECTORY);
            assert!(found.is_ok(), "{path}: {found:?}");
        }
    }

    #[test]
    fn whoever_goes_into_the_directory_of_an_automounter_asks_it_and_whoever_looks_at_it_does_not() {
        if !has_own_mounts() {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let point = temp.path().canonicalize().unwrap();
        let (requests, answers) = io::pipe().unwrap();
        // The automounter's group of processes is another one than ours: from its own it expects no requests.
        let options = format!("fd={},pgrp=1,minproto=5,maxproto=5,direct", answers.as_raw_fd());
        if !mounted("automount", Some("autofs"), &point, MsFlags::empty(), Some(&options)) {
            return;
        }
        let avoided = Avoided::among(&Mounts::read().unwrap());
        // Without anybody who reads requests, the first one makes the kernel give the automounter up.
        drop(requests);
        let is_given_up =
            || fs::read_to_string("/proc/thread-self/mountinfo").unwrap().contains("pipe_ino=-1");
        let is_seen = avoided.status(&point).is_ok();
        let was_asked_by_look = is_given_up();
        let is_there = avoided.open(&point.join("x"), OFlags::PATH).is_ok();
        let was_asked = is_given_up();
        umount2(&point, MntFlags::MNT_DETACH).unwrap();

        assert_eq!((is_seen, was_asked_by_look), (true, false));
        assert_eq!((is_there, was_asked), (false, true));
    }

    #[test]
    fn fuse_mounts_of_users_are_avoided_unless_something_is_mounted_over_them() {
        let of = |lines: &[&str]| Avoided::among(&Mounts::parse(lines.join("\n").as_bytes()));
        let root = "22 1 254:0 / / rw - ext4 /dev/vda rw";
        let users = "40 22 0:40 / /home/a/m rw - fuse.sshfs x rw,user_id=1000,group_id=0,allow_other";
        let roots = "41 22 0:41 / /srv rw - fuse.mergerfs x rw,user_id=0,group_id=0,allow_other";
        let over = "42 40 0:42 / /home/a/m rw - tmpfs tmpfs rw";

        let avoided = of(&[root, users, roots]);

        assert_eq!(avoided.user(Path::new("/home/a/m/x")), Some(1000));
        assert!(avoided.has(Path::new("/home/a/m")) && !avoided.has(Path::new("/home/a/mx")));
        assert!(!avoided.has(Path::new("/srv/x")));
        assert!(!of(&[root, users, over]).has(Path::new("/home/a/m")));
    }

    #[test]
    fn a_way_is_followed_through_all_its_links_as_far_as_it_is_there() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().canonicalize().unwrap().join(name);
        fs::create_dir_all(at("real/sub")).unwrap();
        symlink("real", at("one")).unwrap();
        symlink(at("one/sub/../sub"), at("two")).unwrap();
        symlink("nowhere/x", at("dangling")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let of = |name: &str| {
            let way = Avoided::default().follow(&at(name));
            (way.real, way.links)
        };

        assert_eq!(of("two/file"), (at("real/sub/file"), vec![at("two"), at("one")]));
        assert_eq!(of("real/new/file"), (at("real/new/file"), vec![]));
        assert_eq!(of("dangling/file"), (at("nowhere/x/file"), vec![at("dangling")]));
        assert_eq!(of("loop").1.len(), MAX_LINKS);
        assert_eq!(Avoided::default().follow(Path::new("/")).real, Path::new("/"));
    }
}
