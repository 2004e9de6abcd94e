//! The backend that sees whole file systems and who changed something: fanotify(7).
//!
//! Two groups, each with a thread of its own that reads its queue (`fanotify/reader.rs`). The *wide* one has marks for
//! watched directories that users can change, the *near* one for those that root alone can change: however much users
//! write, its queue is short. Directories that lead to watched ones have marks for their names only. Both are told of
//! programs that start, so that who does something is known in each. What is told twice is one entry in the mailbox.
//!
//! The wide one also has a mark for each file system, which tells of names that come and of files that are closed after
//! writing, wherever that happens: a watched file may get another name where nobody watches, and who fills a new
//! directory is seen before that has a mark. Names that go are told of watched directories only. No mark ignores
//! anything: one that ignores a directory hides renames across its border, and what happens to watched objects under
//! names in it.

mod execs;
mod reader;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use vigie_fanotify::{Buffer, Event, FilesystemId, Group, GroupError, Handle, Malformed, Mask, Options};
use vigie_host::mounts::{Mount, Mounts};

use self::execs::Kernel;
pub(crate) use self::execs::LOADING;
use self::reader::{Control, Reader, View, since_start};
use crate::avoided::{Avoided, is_unknown_mount};
use crate::ending::{Owner, ending};
use crate::events::Mailbox;
use crate::processes::Processes;
use crate::rules::Coverage;
use crate::trust::Lane;

/// Room for events in one read, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// Directories that have marks of their own. Beyond it, or when the kernel takes no more, the file systems' marks tell
/// of everything, which costs those more who write elsewhere.
const MAX_MARKED: usize = 20_000;

/// Names of one file of which each is told when something happens to it under another: so many that root alone can
/// change, and so many others. The scan tells of more.
const MAX_NAMES: usize = 16;

/// Names that are followed, of all files, in what root alone can change.
const MAX_FOLLOWED: usize = 100_000;

/// The same of what users can change.
const MAX_FOLLOWED_OF_USERS: usize = 10_000;

/// Longest time that the self-test waits for its event.
const SELF_TEST_PATIENCE: Duration = Duration::from_secs(2);

/// What the mark of a file system tells of: everybody who changes anything anywhere pays for it.
fn wide() -> Mask {
    Mask::CREATE | Mask::RENAME | Mask::CLOSE_WRITE | Mask::ONDIR
}

/// What the mark of a directory tells of that leads to watched ones.
fn names() -> Mask {
    Mask::CREATE | Mask::DELETE | Mask::RENAME | Mask::ATTRIB | Mask::ONDIR
}

/// What the mark of a watched object tells of.
fn near() -> Mask {
    wide() | names() | Mask::MODIFY
}

/// The mark of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Marked {
    lane: Lane,
    /// It tells of what is in the directory, not only of names.
    whole: bool,
    /// It is there since then, in nanoseconds since the start of the host.
    since: u64,
}

/// The marked directories, by their handles: the wide group leaves to the near one what that tells of.
type Near = Arc<Mutex<HashMap<Handle, Marked>>>;

/// A group and the way to its reader.
#[derive(Debug)]
struct Part {
    group: Arc<Group>,
    control: mpsc::Sender<Control>,
    /// The reader ends with it.
    _owner: Owner,
}

/// Files of whose other names is told.
#[derive(Debug, Default)]
struct Followed {
    /// The names of each, and whether root alone can change what they stand in.
    names: HashMap<Handle, Vec<(PathBuf, bool)>>,
    /// How many names users can change, and how many root alone.
    counts: [usize; 2],
}

/// Watches file systems.
#[derive(Debug)]
pub(crate) struct FilesystemWatcher {
    wide: Part,
    near: Part,
    /// What the kernel tells of execs.
    kernel: Arc<Kernel>,
    /// The thread that reads it when nobody else does, where the kernel is asked.
    execs: Option<Owner>,
    mailbox: Mailbox,
    avoided: Avoided,
    view: View,
    marked: Near,
    /// There were more directories than get marks of their own.
    is_full: bool,
    /// Files of whose other names is told, and which.
    followed: Followed,
}

fn open_mount(point: &Path, avoided: &Avoided) -> io::Result<OwnedFd> {
    avoided.open(point, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK)
}

/// Without descriptors of processes: they cost four times as much as the event itself, and `/proc` says as much.
fn group() -> Result<Group, GroupError> {
    Group::new(Options { unlimited_queue: true, pidfd: false, target: true })
}

/// Proves that the kernel tells what it promises: makes a file in a directory of our own and waits for the event with
/// its name and our process.
///
/// # Errors
/// What did not work.
pub(crate) fn self_test(directory: &Path) -> Result<(), String> {
    let group = group().map_err(|error| error.to_string())?;
    let open = open_mount(directory, &Avoided::default()).map_err(|error| error.to_string())?;
    group
        .mark_filesystem(open.as_fd(), wide())
        .map_err(|error| format!("the state directory's file system cannot be marked: {error}"))?;
    let name = format!("fswatch.self-test.{}", std::process::id());
    let path = directory.join(&name);
    fs::write(&path, "").map_err(|error| format!("the self-test cannot write: {error}"))?;
    fs::remove_file(&path).ok();
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let mut buffer = Buffer::new(READ_BYTES);
    let timeout = Timespec::try_from(SELF_TEST_PATIENCE).map_err(|error| error.to_string())?;
    // Other processes may keep the queue busy, but not for so many events.
    for _ in 0..10_000 {
        let ready = poll(&mut [PollFd::new(&group, PollFlags::IN)], Some(&timeout))
            .map_err(|error| error.to_string())?;
        if ready == 0 {
            break;
        }
        while let Some(mut events) = group.read(&mut buffer).map_err(|error| error.to_string())? {
            let is_ours = |event: Result<Event<'_>, Malformed>| {
                event.is_ok_and(|event| {
                    event.pid == own && event.directory.is_some_and(|entry| entry.name == OsStr::new(&name))
                })
            };
            if events.any(is_ours) {
                return Ok(());
            }
        }
    }
    Err("the kernel accepted a mark but did not report a file that was created".to_owned())
}

impl Part {
    fn start(
        name: &str,
        make: impl FnOnce(Arc<Group>, mpsc::Receiver<Control>) -> Reader,
    ) -> Result<Self, String> {
        let group = Arc::new(group().map_err(|error| error.to_string())?);
        let (control, received) = mpsc::channel();
        let (owner, end) = ending().map_err(|error| error.to_string())?;
        let reader = make(Arc::clone(&group), received);
        std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(256 * 1024)
            .spawn(move || reader.run(&end))
            .map_err(|error| error.to_string())?;
        Ok(Self { group, control, _owner: owner })
    }

    fn tell(&self, control: Control) {
        // The reader ends only with us.
        self.control.send(control).ok();
    }
}

impl FilesystemWatcher {
    /// Begins to watch nothing.
    ///
    /// # Errors
    /// Why not: without `CAP_SYS_ADMIN`, or on a kernel before 5.17.
    pub(crate) fn start(mailbox: &Mailbox, avoided: &Avoided) -> Result<Self, String> {
        let marked = Near::default();
        let moved = Arc::new(AtomicU64::new(0));
        let processes = Arc::new(Mutex::new(Processes::new(avoided.clone())));
        let kernel = Kernel::new(Arc::clone(&processes));
        let reader = |others: Option<Near>| {
            let (mailbox, moved, processes) = (mailbox.clone(), Arc::clone(&moved), Arc::clone(&processes));
            let (kernel, avoided) = (Arc::clone(&kernel), avoided.clone());
            move |group, control| {
                Reader::new(group, mailbox, control, moved, processes, kernel, others, avoided)
            }
        };
        Ok(Self {
            execs: None,
            mailbox: mailbox.clone(),
            avoided: avoided.clone(),
            wide: Part::start("fanotify", reader(Some(Arc::clone(&marked))))?,
            near: Part::start("fanotify near", reader(None))?,
            kernel,
            view: View::default(),
            marked,
            is_full: false,
            followed: Followed::default(),
        })
    }

    /// Asks the kernel what processes run, or no longer.
    pub(crate) fn ask_execs(&mut self, wanted: bool) {
        if !wanted {
            self.execs = None;
            self.kernel.close("the configuration says commands = claimed");
        } else if self.execs.is_none() || self.why_claimed().is_some_and(|why| why != LOADING) {
            self.execs = self.kernel.open(&self.mailbox);
        }
    }

    /// Why command lines are what processes say of themselves, and not what they were run with.
    #[must_use]
    pub(crate) fn why_claimed(&self) -> Option<String> {
        self.kernel.why_not()
    }

    fn tell(&self, control: impl Fn() -> Control) {
        self.wide.tell(control());
        self.near.tell(control());
    }

    fn marked(&self) -> MutexGuard<'_, HashMap<Handle, Marked>> {
        self.marked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the file system that an object is on.
    ///
    /// # Errors
    /// Why it cannot be watched in this way.
    pub(crate) fn mark(&mut self, at: &Path, device: u64, mounts: &Arc<Mounts>) -> Result<(), String> {
        let open = self.avoided.open(at, OFlags::PATH).map_err(|error| error.to_string())?;
        let filesystem = FilesystemId::of(open.as_fd()).map_err(|error| error.to_string())?;
        let seen: Vec<Mount> = mounts.iter().filter(|mount| mount.device == device).cloned().collect();
        if seen.is_empty() {
            return Err("its mount cannot be identified by its device number".to_owned());
        }
        let kind = seen[0].kind.clone();
        // The readers know the file system before its first event.
        self.view.filesystems.insert(filesystem, seen);
        self.view.mounts = Arc::clone(mounts);
        self.tell(|| Control::View(self.view.clone()));
        let mask = Mask::OPEN_EXEC | if self.is_full { near() } else { wide() };
        let marks = self.wide.group.mark_filesystem_of(open.as_fd(), mask);
        // In both queues: what a program does comes after its start in each.
        let marks = marks.and_then(|()| self.near.group.mark_filesystem_of(open.as_fd(), Mask::OPEN_EXEC));
        marks.map_err(|error| {
            self.view.filesystems.remove(&filesystem);
            format!("{kind} does not support fanotify marks: {error}")
        })
    }

    /// Marks a directory whose file system is marked: tells of its names and, where the `whole` of it matters, of what
    /// happens to what is in it.
    pub(crate) fn mark_directory(&mut self, directory: &Path, lane: Lane, whole: bool) {
        match self.try_mark(directory, lane, whole) {
            // Where it went away, the directory above it tells; what is mounted there is no reason to hear of
            // everything.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) if is_unknown_mount(&error) || self.avoided.has(directory) => {}
            Err(_) => self.widen(),
            Ok(()) => {}
        }
    }

    fn try_mark(&self, directory: &Path, lane: Lane, whole: bool) -> io::Result<()> {
        let open = open_mount(directory, &self.avoided)?;
        let handle = vigie_fanotify::handle_of(open.as_fd(), OsStr::new(""))?.into_handle();
        let known = self.marked().get(&handle).copied();
        // Those that are gone are still counted.
        if known.is_none() && self.marked().len() >= MAX_MARKED {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let whole = whole || known.is_some_and(|known| known.whole);
        let mask = if whole { near() | Mask::EVENT_ON_CHILD } else { names() };
        let part = |lane| if lane == Lane::Trusted { &self.near } else { &self.wide };
        part(lane).group.mark_directory(open.as_fd(), mask).map_err(io::Error::other)?;
        // After the mark: until now the other one told.
        if known.is_none_or(|known| (known.lane, known.whole) != (lane, whole)) {
            self.marked().insert(handle, Marked { lane, whole, since: since_start() });
        }
        if let Some(known) = known
            && (known.lane == Lane::Trusted) != (lane == Lane::Trusted)
        {
            part(known.lane).group.unmark_directory(open.as_fd(), near() | Mask::EVENT_ON_CHILD).ok();
        }
        Ok(())
    }

    /// Has the file systems' marks tell of everything.
    fn widen(&mut self) {
        if std::mem::replace(&mut self.is_full, true) {
            return;
        }
        for mount in self.view.filesystems.values().filter_map(|mounts| mounts.first()) {
            if let Ok(open) = self.avoided.open(&mount.point, OFlags::PATH) {
                self.wide.group.mark_filesystem_of(open.as_fd(), near()).ok();
            }
        }
    }

    /// Something was mounted or unmounted.
    pub(crate) fn remount(&mut self, mounts: &Arc<Mounts>) {
        for seen in self.view.filesystems.values_mut() {
            let device = seen.first().map(|mount| mount.device);
            *seen = mounts.iter().filter(|mount| Some(mount.device) == device).cloned().collect();
        }
        self.view.filesystems.retain(|_, seen| !seen.is_empty());
        self.view.mounts = Arc::clone(mounts);
        let filesystems = &self.view.filesystems;
        self.marked().retain(|handle, _| filesystems.contains_key(&handle.filesystem()));
        self.tell(|| Control::View(self.view.clone()));
    }

    /// Other rules apply.
    pub(crate) fn cover(&mut self, coverage: &Arc<Coverage>) {
        self.view.coverage = Some(Arc::clone(coverage));
        self.tell(|| Control::View(self.view.clone()));
    }

    /// Tells of what happens to this file under other names as well. Of a file with very many names only some are told
    /// of: whoever makes them would decide what each write costs us.
    pub(crate) fn follow_names(&mut self, path: &Path, lane: Lane) {
        let Ok(open) = self.avoided.open(path, OFlags::PATH) else { return };
        let Ok(identity) = vigie_fanotify::handle_of(open.as_fd(), OsStr::new("")) else { return };
        let handle = identity.into_handle();
        let is_trusted = lane == Lane::Trusted;
        // A user cannot keep out the names that root alone can change.
        let [of_users, of_root] = &mut self.followed.counts;
        let (count, most) =
            if is_trusted { (of_root, MAX_FOLLOWED) } else { (of_users, MAX_FOLLOWED_OF_USERS) };
        if *count >= most {
            return;
        }
        let names = self.followed.names.entry(handle.clone()).or_default();
        let of_kind = names.iter().filter(|(_, trusted)| *trusted == is_trusted).count();
        if of_kind >= MAX_NAMES || names.iter().any(|(known, _)| known == path) {
            return;
        }
        names.push((path.to_owned(), is_trusted));
        *count += 1;
        self.tell(|| Control::Linked(handle.clone(), path.to_owned()));
        // Writes and attributes are told of a name in a watched directory; under others this tells. What users can
        // change does not fill the queue of what they cannot.
        let mask = Mask::MODIFY | Mask::ATTRIB | Mask::CLOSE_WRITE;
        let part = if is_trusted { &self.near } else { &self.wide };
        if of_kind == 0 {
            part.group.mark_object(open.as_fd(), mask).ok();
        }
    }

    /// Forgets which files have several names: they are found anew by the scan that follows.
    pub(crate) fn forget_names(&mut self) {
        self.followed = Followed::default();
        self.tell(|| Control::NoLinks);
    }
}

#[cfg(test)]
mod tests {
    use vigie_fanotify::handle_of;

    use super::*;

    /// What the group tells of a directory now.
    fn told_of(group: &Group, directory: &Handle) -> Vec<Mask> {
        let mut buffer = Buffer::new(READ_BYTES);
        let mut told = Vec::new();
        while let Some(events) = group.read(&mut buffer).unwrap() {
            for event in events.map(Result::unwrap) {
                let mut entries = [event.directory, event.old, event.new].into_iter().flatten();
                if entries.any(|entry| *directory == entry.directory) {
                    told.push(event.mask);
                }
            }
        }
        told
    }

    #[test]
    fn of_a_directory_that_nobody_watches_neither_attributes_nor_names_that_go_are_told() {
        let temp = tempfile::tempdir().unwrap();
        let open = open_mount(temp.path(), &Avoided::default()).unwrap();
        let marked = group().map_err(|error| error.to_string()).and_then(|group| {
            group.mark_filesystem(open.as_fd(), wide()).map_err(|error| error.to_string())?;
            Ok(group)
        });
        let group = match marked {
            Ok(group) => group,
            Err(why) => return vigie_skipped::skipped(&why),
        };
        let directory = handle_of(open.as_fd(), OsStr::new("")).unwrap().into_handle();
        let (one, other) = (temp.path().join("one"), temp.path().join("other"));
        fs::write(&one, "1").unwrap();
        fs::rename(&one, &other).unwrap();
        let told = told_of(&group, &directory);

        fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        fs::remove_file(&other).unwrap();

        assert_eq!(told, [Mask::CREATE | Mask::CLOSE_WRITE, Mask::RENAME]);
        assert_eq!(told_of(&group, &directory), []);
    }
}
