//! A file system of a test's own, and what a group reports of it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use vigie_fanotify::{
    Buffer, Entry, Event, FilesystemError, Group, GroupError, Handle, Mask, Options, Pidfd, handle_of,
};

/// All that happens to names, content and attributes.
pub(crate) fn changes() -> Mask {
    Mask::CREATE
        | Mask::DELETE
        | Mask::RENAME
        | Mask::MODIFY
        | Mask::CLOSE_WRITE
        | Mask::ATTRIB
        | Mask::DELETE_SELF
        | Mask::MOVE_SELF
        | Mask::ONDIR
}

/// Opens a group, or says why the test is skipped.
pub(crate) fn group(options: Options) -> Option<Group> {
    match Group::new(options) {
        Ok(group) => Some(group),
        Err(error @ GroupError::NotPermitted(_)) => skip(&error.to_string()),
        Err(error) => panic!("{error:?}"),
    }
}

/// What was made, or the end of a test that was skipped and has said so.
macro_rules! or_skip {
    ($made:expr) => {
        match $made {
            Some(made) => made,
            None => return,
        }
    };
}
pub(crate) use or_skip;

/// Says why a test is skipped.
pub(crate) fn skip<T>(reason: &str) -> Option<T> {
    vigie_skipped::skipped(reason);
    None
}

/// Moves the test's thread into a mount namespace of its own.
pub(crate) fn own_mounts() -> Option<()> {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
        return skip(&format!("no mount namespace: {error}"));
    }
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .expect("mounts can be made private in an own namespace");
    Some(())
}

/// A process that another test starts has this one's open files until it executes its program: a file that is closed
/// meanwhile is closed later for the kernel, and is told later.
static STARTING: RwLock<()> = RwLock::new(());

/// Writes a file that is closed, for the kernel too, when this returns.
pub(crate) fn write(path: impl AsRef<Path>, content: &str) -> std::io::Result<()> {
    let _nobody_starts = STARTING.read().unwrap();
    std::fs::write(path, content)
}

/// Starts a process while nobody writes.
pub(crate) fn start<T>(start: impl FnOnce() -> T) -> T {
    let _nobody_writes = STARTING.write().unwrap();
    start()
}

/// A tmpfs that nobody else sees, as long as the test lives.
pub(crate) struct Tmpfs {
    directory: TempDir,
}

impl Tmpfs {
    pub(crate) fn new() -> Option<Self> {
        own_mounts()?;
        let directory = TempDir::new().unwrap();
        mount(Some("tmpfs"), directory.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        Some(Self { directory })
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        umount2(self.directory.path(), MntFlags::MNT_DETACH).expect("the tmpfs is mounted");
    }
}

/// A tmpfs and a group that may watch it.
pub(crate) struct Watched {
    pub(crate) tmpfs: Tmpfs,
    pub(crate) group: Group,
    buffer: Buffer,
}

impl Watched {
    /// With a mark for these events of the whole file system.
    pub(crate) fn filesystem(mask: Mask) -> Option<Self> {
        let watched = Self::unmarked(Options::default())?;
        watched.group.mark_filesystem(watched.root().as_fd(), mask).unwrap();
        Some(watched)
    }

    pub(crate) fn unmarked(options: Options) -> Option<Self> {
        let group = group(options)?;
        Some(Self { tmpfs: Tmpfs::new()?, group, buffer: Buffer::new(64 * 1024) })
    }

    /// The root of the file system, open.
    pub(crate) fn root(&self) -> File {
        File::open(self.tmpfs.root()).unwrap()
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.tmpfs.path(name)
    }

    /// The handle of a path below the root.
    pub(crate) fn handle(&self, name: impl AsRef<OsStr>) -> Handle {
        handle_of(self.root().as_fd(), name.as_ref()).unwrap().into_handle()
    }

    /// Name and directory as an event has them, for an entry of the root.
    pub(crate) fn entry(&self, name: impl Into<OsString>) -> Option<(Handle, OsString)> {
        Some((self.handle(""), name.into()))
    }

    /// All events since the last call. The kernel queues an event before the system call that caused it returns.
    pub(crate) fn seen(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        while let Some(events) = self.group.read(&mut self.buffer).unwrap() {
            seen.extend(events.map(|event| Seen::from(event.unwrap())));
        }
        seen
    }
}

/// An event to keep.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) mask: Mask,
    pub(crate) pid: i32,
    pub(crate) pidfd: Pidfd,
    pub(crate) directory: Option<(Handle, OsString)>,
    pub(crate) target: Option<Handle>,
    pub(crate) old: Option<(Handle, OsString)>,
    pub(crate) new: Option<(Handle, OsString)>,
    pub(crate) error: Option<FilesystemError>,
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        let owned = |entry: Entry<'_>| (entry.directory.into(), entry.name.to_owned());
        Self {
            mask: event.mask,
            pid: event.pid,
            pidfd: event.pidfd,
            directory: event.directory.map(owned),
            target: event.target.map(Handle::from),
            old: event.old.map(owned),
            new: event.new.map(owned),
            error: event.error,
        }
    }
}

/// What happened, in all events together.
pub(crate) fn masks(seen: &[Seen]) -> Mask {
    seen.iter().map(|event| event.mask).fold(Mask::empty(), Mask::union)
}
