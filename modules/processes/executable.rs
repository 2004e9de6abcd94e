//! Which file a name of the kernel stands for. The text alone proves nothing: a deleted file, a replaced one and one
//! whose name ends in ` (deleted)` have the same.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat, openat2, statx};
use rustix::io::Errno;
use serde::Serialize;

use crate::procfs;
use crate::remote::Remote;

/// What the kernel writes behind a name that is gone.
const DELETED: &[u8] = b" (deleted)";

/// What became of a file since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FileState {
    /// It lies where its name says.
    Present,
    /// It has no name any more, and nothing lies where it was.
    Deleted,
    /// It has no name any more, and another file lies where it was.
    Replaced,
    /// Its name is gone, but it has another one: of its links one was removed, or it was moved.
    Renamed,
    /// It never had a name: memory that was made with memfd_create(2).
    Memfd,
    /// Nobody can say: the process's root directory cannot be entered.
    Unknown,
}

impl FileState {
    /// All of them, by their names in answers.
    pub const NAMES: [(&'static str, Self); 6] = [
        ("present", Self::Present),
        ("deleted", Self::Deleted),
        ("replaced", Self::Replaced),
        ("renamed", Self::Renamed),
        ("memfd", Self::Memfd),
        ("unknown", Self::Unknown),
    ];
}

/// An open file by device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Inode {
    /// Major and minor number.
    pub device: (u32, u32),
    /// Its number.
    pub inode: u64,
}

impl Inode {
    /// That of a status.
    #[must_use]
    pub fn of(status: &Statx) -> Self {
        Self { device: (status.stx_dev_major, status.stx_dev_minor), inode: status.stx_ino }
    }
}

/// What is asked of a file.
pub const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::MNT_ID);

/// The directory of a process, and what is needed to follow its paths.
#[derive(Debug)]
pub struct View<'a> {
    /// `/proc/PID`, or that of a thread.
    pub directory: &'a OwnedFd,
    /// The device of memory files, to know them by.
    pub memory_device: Option<(u32, u32)>,
    /// Where nothing can be looked at without waiting for others.
    pub remote: &'a Remote,
}

impl View<'_> {
    /// What became of the file that the kernel names `link`, and the name without the kernel's mark.
    #[must_use]
    pub fn state<'l>(&self, link: &'l [u8], status: &Statx) -> (FileState, &'l [u8]) {
        let inode = Inode::of(status);
        let plain = link.strip_suffix(DELETED);
        if status.stx_nlink == 0 && Some(inode.device) == self.memory_device && link.starts_with(b"/memfd:") {
            return (FileState::Memfd, plain.unwrap_or(link));
        }
        if !link.starts_with(b"/")
            || self.remote.has(self.directory, status)
            || self.remote.covers(self.directory, link)
        {
            return (FileState::Unknown, link);
        }
        // Nearly always the process sees what we see, and the file lies there.
        if status.stx_nlink > 0 && Self::inode_here(link) == Some(inode) {
            return (FileState::Present, link);
        }
        let root = match procfs::open_directory(self.directory, "root") {
            Ok(root) => root,
            // Without that there is no saying which of the names is meant.
            Err(_) if status.stx_nlink > 0 => return (FileState::Unknown, link),
            Err(_) => return (FileState::Deleted, plain.unwrap_or(link)),
        };
        if status.stx_nlink > 0 && matches!(inode_below(&root, link), Ok(Some(found)) if found == inode) {
            return (FileState::Present, link);
        }
        let name = plain.unwrap_or(link);
        let state = match inode_below(&root, name) {
            Ok(Some(found)) if found == inode => FileState::Present,
            Ok(_) if status.stx_nlink > 0 && plain.is_some() => FileState::Renamed,
            // The kernel gives the name that it has, but nothing or another file is there: a mount lies over it.
            Ok(_) if status.stx_nlink > 0 => FileState::Unknown,
            Ok(Some(_)) => FileState::Replaced,
            Ok(None) => FileState::Deleted,
            Err(_) => FileState::Unknown,
        };
        (state, name)
    }

    fn inode_here(path: &[u8]) -> Option<Inode> {
        let status = statx(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::INO).ok()?;
        Some(Inode::of(&status))
    }

    /// Whether nothing lies at a path, as the process sees it.
    #[must_use]
    pub fn is_missing(&self, path: &[u8]) -> bool {
        !self.remote.covers(self.directory, path)
            && procfs::open_directory(self.directory, "root")
                .is_ok_and(|root| inode_below(&root, path) == Ok(None))
    }

    /// Who may write to the file at a path, or put another one in its place: `file`, `directory`, or nobody else.
    #[must_use]
    pub fn writable_by_others(&self, path: &[u8], status: &Statx) -> Option<&'static str> {
        const OTHERS: u16 = 0o002;
        const STICKY: u16 = 0o1000;
        if status.stx_mode & OTHERS != 0 {
            return Some("file");
        }
        let root = procfs::open_directory(self.directory, "root").ok()?;
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(place, _)| place);
        for end in slashes {
            let directory = open_below(&root, if end == 0 { b"/" } else { &path[..end] }).ok()?;
            let status = statx(&directory, "", AtFlags::EMPTY_PATH, StatxFlags::MODE).ok()?;
            if status.stx_mode & OTHERS != 0 && status.stx_mode & STICKY == 0 {
                return Some("directory");
            }
        }
        None
    }
}

fn open_below(root: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match openat2(root.as_fd(), path, flags, Mode::empty(), resolve) {
        // Kernels before 5.6 cannot; a name without links leads nowhere else.
        Err(Errno::NOSYS) => {
            let below: &[u8] = match path.strip_prefix(b"/") {
                Some(b"") | None => b".",
                Some(below) => below,
            };
            openat(root.as_fd(), below, flags, Mode::empty())
        }
        other => other,
    }
}

/// The file at a path; `None` when nothing is there.
fn inode_below(root: &OwnedFd, path: &[u8]) -> Result<Option<Inode>, Errno> {
    match open_below(root, path) {
        Ok(file) => {
            statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::INO).map(|status| Some(Inode::of(&status)))
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The device that the kernel keeps memory files on.
#[must_use]
pub(crate) fn memory_device() -> Option<(u32, u32)> {
    let file = rustix::fs::memfd_create("vigie", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
    let status = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::INO).ok()?;
    Some((status.stx_dev_major, status.stx_dev_minor))
}
