//! Opening files and directories without being led astray or kept waiting.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;
use rustix::path::Arg;
use vigie_host::mounts::of_process;

/// Bytes of a path that are given to the kernel at once; it refuses 4,096 (`PATH_MAX`).
const PATH_BYTES: usize = 4_000;

/// Links on the way to a file before it is given up, as the kernel does (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Nanoseconds in a second.
const NANOSECONDS: i128 = 1_000_000_000;

/// What the searches compare and return of a file's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// What kind of object it is.
    pub kind: FileType,
    /// Bytes.
    pub size: u64,
    /// Permissions, setuid, setgid and sticky.
    pub mode: u32,
    /// When the content was modified, in nanoseconds since the epoch.
    pub modified: i128,
    /// When the content or the metadata was changed, in nanoseconds since the epoch.
    pub changed: i128,
    /// When it was made, in nanoseconds since the epoch, where the file system knows.
    pub created: Option<i128>,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its number in its file system.
    pub inode: u64,
    /// How many names it has.
    pub links: u32,
}

impl Status {
    fn of(status: &Statx) -> Self {
        let mode = u32::from(status.stx_mode);
        let time = |time: &StatxTimestamp| i128::from(time.tv_sec) * NANOSECONDS + i128::from(time.tv_nsec);
        let knows_birth = StatxFlags::from_bits_retain(status.stx_mask).contains(StatxFlags::BTIME);
        Self {
            kind: FileType::from_raw_mode(mode),
            size: status.stx_size,
            mode,
            modified: time(&status.stx_mtime),
            changed: time(&status.stx_ctime),
            created: knows_birth.then(|| time(&status.stx_btime)),
            uid: status.stx_uid,
            gid: status.stx_gid,
            inode: status.stx_ino,
            links: status.stx_nlink,
        }
    }
}

const STATUS: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// Looks at a name, not through it when it is a link.
///
/// # Errors
/// When the kernel does not let us look, or nothing is there.
pub fn status(directory: BorrowedFd<'_>, name: impl Arg) -> Result<Status, Errno> {
    Ok(Status::of(&rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, STATUS)?))
}

/// Looks at an open file.
///
/// # Errors
/// When the kernel does not let us look.
pub fn status_of(file: impl AsFd) -> Result<Status, Errno> {
    Ok(Status::of(&rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, STATUS)?))
}

/// Looks at a path in which no component is a link, nor the object itself.
///
/// # Errors
/// When the kernel does not let us look, something is a link, or nothing is there.
pub fn status_without_links(path: &Path) -> Result<Status, Errno> {
    let (base, path) = begin(path)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    status_of(open_without_links(base.as_fd(), &*path, flags)?)
}

/// What a path is opened from.
#[derive(Debug)]
pub enum Base<'d> {
    /// A directory that somebody else keeps open.
    Borrowed(BorrowedFd<'d>),
    /// The root of another process.
    Owned(OwnedFd),
}

impl AsFd for Base<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Borrowed(directory) => *directory,
            Self::Owned(directory) => directory.as_fd(),
        }
    }
}

/// Divides a path without links into what it is opened from and the rest. The way into another process's root is known
/// to the kernel alone: the text of that link is a path over there.
///
/// # Errors
/// When that root may not be entered.
pub fn begin(path: &Path) -> Result<(Base<'static>, Cow<'_, Path>), Errno> {
    let Some((process, below)) = of_process(path) else {
        return Ok((Base::Borrowed(CWD), Cow::Borrowed(path)));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, process.join("root"), flags, Mode::empty())?;
    let below: PathBuf = below.components().skip(1).collect();
    Ok((Base::Owned(root), Cow::Owned(if below.as_os_str().is_empty() { ".".into() } else { below })))
}

/// Opens what should be a regular file, never through a link, and never waiting: a FIFO may have taken its place.
/// Leaves no trace in the access time where that is allowed.
///
/// # Errors
/// When it cannot be opened.
pub fn open_file(directory: BorrowedFd<'_>, name: impl Arg + Copy) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    match open_without_links(directory, name, flags | OFlags::NOATIME) {
        // Only the owner may.
        Err(Errno::PERM) => open_without_links(directory, name, flags),
        result => result,
    }
}

/// No component of the name may be a link: what was without one when it was found may have been replaced.
fn open_without_links(
    directory: BorrowedFd<'_>,
    name: impl Arg + Copy,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    match rustix::fs::openat2(directory, name, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        // Before Linux 5.6, or forbidden by a filter of system calls.
        Err(Errno::NOSYS) => rustix::fs::openat(directory, name, flags, Mode::empty()),
        result => result,
    }
}

/// Opens a directory below an open one for listing it. No component may be a link. `path` may be of any length;
/// an empty one is the open directory itself.
///
/// # Errors
/// When it is not there, is no directory, or may not be listed.
pub fn open_directory(base: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if path.is_empty() {
        return open_below(base, Path::new("."), flags);
    }
    let mut rest = path;
    let mut directory: Option<OwnedFd> = None;
    // Longer than the kernel takes: a piece at a time. A name has at most 255 bytes.
    while rest.len() > PATH_BYTES {
        let end = memchr::memrchr(b'/', &rest[..PATH_BYTES]).ok_or(Errno::NAMETOOLONG)?;
        let at = directory.as_ref().map_or(base, AsFd::as_fd);
        directory = Some(open_below(at, Path::new(OsStr::from_bytes(&rest[..end])), flags | OFlags::PATH)?);
        rest = &rest[end + 1..];
    }
    let at = directory.as_ref().map_or(base, AsFd::as_fd);
    open_below(at, Path::new(OsStr::from_bytes(rest)), flags)
}

fn open_below(at: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    match rustix::fs::openat2(at, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        // Before Linux 5.6, or forbidden by a filter of system calls: only the last component is checked then.
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::openat(at, path, flags, Mode::empty()),
        result => result,
    }
}

/// Whether an error says that what was there is no longer there.
#[must_use]
pub fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO)
}

/// Finds where a relative path leads, as an absolute path without links. `directory` is where it begins, itself without
/// links. A mount point for which `may_enter` is false is not touched. In another process's root, links lead where they
/// lead that process.
///
/// # Errors
/// When it leads nowhere; `XDEV` when it leads into what may not be entered.
pub fn resolve(
    directory: &Path,
    relative: &Path,
    may_enter: impl Fn(&Path) -> bool,
) -> Result<PathBuf, Errno> {
    let root = of_process(directory).map_or_else(|| PathBuf::from("/"), |(process, _)| process.join("root"));
    let mut path = directory.to_owned();
    let mut pending: Vec<OsString> = Vec::new();
    let add = |pending: &mut Vec<OsString>, path: &Path| {
        for component in path.components().rev() {
            match component {
                Component::ParentDir => pending.push("..".into()),
                Component::Normal(name) => pending.push(name.to_owned()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
    };
    add(&mut pending, relative);
    let mut links = 0;
    while let Some(component) = pending.pop() {
        if component == ".." {
            if path != root {
                path.pop();
            }
            continue;
        }
        path.push(component);
        if !may_enter(&path) {
            return Err(Errno::XDEV);
        }
        let (base, rest) = begin(&path)?;
        let target = match rustix::fs::readlinkat(&base, &*rest, Vec::new()) {
            Ok(target) => PathBuf::from(OsString::from_vec(target.into_bytes())),
            // Not a link.
            Err(Errno::INVAL) => continue,
            Err(error) => return Err(error),
        };
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::LOOP);
        }
        path.pop();
        if target.is_absolute() {
            path.clone_from(&root);
        }
        add(&mut pending, &target);
    }
    Ok(path)
}

/// A search path without links, as it is found from here.
///
/// # Errors
/// When nothing is there, it may not be reached, or a link of the kernel's leads to what has no path here.
pub fn real_path(path: &Path) -> std::io::Result<PathBuf> {
    if let Some((process, below)) = of_process(path) {
        let below = below.strip_prefix("/").unwrap_or(&below);
        return Ok(resolve(&process.join("root"), below, |_| true)?);
    }
    let real = path.canonicalize()?;
    let which = |path: &Path, flags| {
        let status = rustix::fs::statx(CWD, path, flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)?;
        Ok::<_, Errno>((status.stx_dev_major, status.stx_dev_minor, status.stx_ino, status.stx_mnt_id))
    };
    // /proc/PID/cwd and the like: their text is a path in that process's mounts, and another object here.
    match which(&real, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) if found == which(path, AtFlags::empty())? => Ok(real),
        _ => Err(std::io::Error::other(
            "its link leads into the mounts of another process: search it below /proc/PID/root",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_fifo_in_a_files_place_is_opened_without_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();

        let file = open_file(CWD, &path).unwrap();

        assert_eq!(status_of(&file).unwrap().kind, FileType::Fifo);
    }

    #[test]
    fn links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("real/inner")).unwrap();
        symlink("real", directory.path().join("link")).unwrap();
        let base = open_directory(CWD, directory.path().as_os_str().as_bytes()).unwrap();

        assert!(open_directory(base.as_fd(), b"real/inner").is_ok());
        assert!(open_directory(base.as_fd(), b"").is_ok());
        assert!(is_gone(open_directory(base.as_fd(), b"link/inner").unwrap_err()));
        assert!(is_gone(open_directory(base.as_fd(), b"link").unwrap_err()));
        assert!(is_gone(open_file(base.as_fd(), "link").unwrap_err()));
    }

    #[test]
    fn a_path_longer_than_the_kernel_takes_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        let base = open_directory(CWD, directory.path().as_os_str().as_bytes()).unwrap();
        let mut path = Vec::new();
        for _ in 0..30 {
            let at = open_directory(base.as_fd(), &path).unwrap();
            let name = "x".repeat(250);
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
        }

        assert!(path.len() > 4_096);
        assert!(open_directory(base.as_fd(), &path).is_ok());
    }

    #[test]
    fn a_status_has_size_mode_and_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        std::fs::write(&path, "abc").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o4640)).unwrap();
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();

        let status = status(CWD, &path).unwrap();

        assert_eq!((status.kind, status.size, status.mode & 0o7777), (FileType::RegularFile, 3, 0o4640));
        let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(status.modified, i128::try_from(since.as_nanos()).unwrap());
    }

    #[test]
    fn links_are_resolved_as_the_kernel_does() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/file"), "").unwrap();
        for (link, target) in [
            ("absolute", root.join("a/file").into_os_string()),
            ("a/b/up", "../file".into()),
            ("chain", "a/b/../b/./up".into()),
            ("to_b", "a/b".into()),
            ("through", "to_b/up".into()),
            ("dangling", "a/none".into()),
            ("loop", "loop".into()),
        ] {
            symlink(target, root.join(link)).unwrap();
        }

        for link in ["absolute", "a/b/up", "chain", "through"] {
            let link = root.join(link);
            let found = resolve(link.parent().unwrap(), Path::new(link.file_name().unwrap()), |_| true);
            assert_eq!(found, Ok(root.join("a/file")), "{link:?}");
        }
        for link in ["dangling", "loop"] {
            assert!(resolve(&root, Path::new(link), |_| true).is_err(), "{link}");
        }
        let stays_out = |path: &Path| path != root.join("a");
        assert_eq!(resolve(&root, Path::new("absolute"), stays_out), Err(Errno::XDEV));
    }
}
