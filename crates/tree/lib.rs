//! Reads the files of a host below a root directory, as a process in a chroot would see them.
//!
//! Links are resolved component by component below the root, so that neither `..` nor an absolute target leads out
//! of it. Nothing but a regular file is opened for reading, so a FIFO or a device never makes anybody wait. File
//! systems of other hosts are not entered. Every list and every file has a limit.

mod digest;
mod glob;
mod mounts;
mod place;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

pub use self::digest::{Digests, md5};
pub use self::glob::{NotRead, matches};
use self::mounts::Mounts;
pub use self::place::{Place, Root, Spot};

/// Most symbolic links on the way to one file, as in the kernel.
const MAX_LINKS: usize = 40;

/// Most names of one directory that are read.
pub const MAX_NAMES: usize = 65_536;

/// Why something was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// Nothing is there.
    #[error("nothing is there")]
    Gone,
    /// It lies in a file system of another host, or of a program that answers when it likes.
    #[error("it is on a remote file system, which is not searched")]
    Remote,
    /// Its links lead in a circle.
    #[error("too many symbolic links")]
    Links,
    /// It is a directory, a FIFO, a socket or a device.
    #[error("it is not a regular file")]
    Kind,
    /// It is larger than the reader takes.
    #[error("it is larger than what is read of one file")]
    Large,
    /// The kernel says no.
    #[error("{}", io::Error::from(*.0))]
    System(Errno),
}

impl From<Unread> for io::Error {
    fn from(why: Unread) -> Self {
        match why {
            Unread::Gone => io::ErrorKind::NotFound.into(),
            Unread::System(errno) => errno.into(),
            why => Self::other(why),
        }
    }
}

impl From<Errno> for Unread {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT | Errno::NOTDIR => Self::Gone,
            Errno::LOOP => Self::Links,
            error => Self::System(error),
        }
    }
}

/// What the kernel says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// File, directory, link, …
    pub kind: FileType,
    /// Permissions with setuid, setgid and sticky.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// When the content was modified, in seconds since the epoch.
    pub modified: i64,
    /// When anything of it was changed, in seconds since the epoch.
    pub changed: i64,
    /// The nanoseconds after that.
    pub changed_nanos: u32,
    /// Its number in its file system.
    pub inode: u64,
    /// Names of the file.
    pub links: u32,
    /// Nobody can change it while this attribute is set (`chattr +i`), or it can only grow (`+a`).
    pub immutable: bool,
}

impl Status {
    fn of(directory: impl AsFd, name: &[u8], flags: AtFlags) -> Result<Self, Errno> {
        let status = rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS)?;
        let mode = u32::from(status.stx_mode);
        let attributes = status.stx_attributes;
        Ok(Self {
            kind: FileType::from_raw_mode(mode),
            mode: mode & 0o7777,
            uid: status.stx_uid,
            gid: status.stx_gid,
            size: status.stx_size,
            modified: status.stx_mtime.tv_sec,
            changed: status.stx_ctime.tv_sec,
            changed_nanos: status.stx_ctime.tv_nsec,
            inode: status.stx_ino,
            links: status.stx_nlink,
            immutable: attributes.intersects(StatxAttributes::IMMUTABLE | StatxAttributes::APPEND),
        })
    }

    /// Whether it is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.kind == FileType::RegularFile
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// Whether it is a symbolic link.
    #[must_use]
    pub fn is_link(&self) -> bool {
        self.kind == FileType::Symlink
    }
}

/// A name in a directory, and what lies there.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its path as seen from the root, with no link in it but perhaps the last name.
    pub path: Vec<u8>,
    /// What the kernel said of it.
    pub status: Status,
    directory: Arc<OwnedFd>,
}

impl Entry {
    /// The last name of its path.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        let start = self.path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        &self.path[start..]
    }

    /// Where the link leads, as it is written.
    ///
    /// # Errors
    /// When it is no link or cannot be read.
    pub fn target(&self) -> Result<Vec<u8>, Unread> {
        Ok(rustix::fs::readlinkat(&self.directory, self.name(), Vec::new())?.into_bytes())
    }

    /// Opens a regular file for reading; never through a link, never waiting, without a trace in the access time
    /// where that is allowed.
    ///
    /// # Errors
    /// When it is no regular file any more, or may not be read.
    pub fn open(&self) -> Result<File, Unread> {
        if !self.status.is_file() {
            return Err(Unread::Kind);
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        let open = |flags| rustix::fs::openat(&self.directory, self.name(), flags, Mode::empty());
        let file = match open(flags | OFlags::NOATIME) {
            // Only the owner may.
            Err(Errno::PERM) => open(flags)?,
            result => result?,
        };
        let status = Status::of(&file, b"", AtFlags::EMPTY_PATH)?;
        // Whoever put something else in its place since then is not followed.
        if status.is_file() && status.uid == self.status.uid {
            Ok(File::from(file))
        } else {
            Err(Unread::Kind)
        }
    }

    /// The whole content, when it has at most `limit` bytes.
    ///
    /// # Errors
    /// When it cannot be read or is larger.
    pub fn read(&self, limit: usize) -> Result<Vec<u8>, Unread> {
        let mut content = Vec::new();
        let mut file = self.open()?.take(limit as u64 + 1);
        file.read_to_end(&mut content)
            .map_err(|error| Unread::System(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        if content.len() > limit { Err(Unread::Large) } else { Ok(content) }
    }

    /// An extended attribute, of at most 64 KiB; `None` when there is none or the file system has none.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<Vec<u8>> {
        let file = self.open().ok()?;
        let mut value = vec![0; 65_536];
        let length = rustix::fs::fgetxattr(file, name, &mut value[..]).ok()?;
        value.truncate(length);
        Some(value)
    }
}

/// A root directory and what lies below it.
#[derive(Debug)]
pub struct Tree {
    root: Arc<OwnedFd>,
    mounts: Mounts,
}

impl Tree {
    /// The tree below a directory; `/` is this host.
    ///
    /// # Errors
    /// When it is no directory or may not be entered.
    pub fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |path: &Path| rustix::fs::openat(CWD, path, flags, Mode::empty());
        let Some((process, below)) = vigie_host::mounts::of_process(root) else {
            let table = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
            let mounts = Mounts::parse(&table, &root.canonicalize()?);
            return Ok(Self { root: Arc::new(open(root)?), mounts });
        };
        // Without its table, nobody knows which of the mounts there can make a reader wait.
        let table = std::fs::read(process.join("mountinfo"))?;
        let mounts = Mounts::parse(&table, Path::new("/"));
        let whole = Self { root: Arc::new(open(&process.join("root"))?), mounts };
        // Whoever is in the container made the links on the way.
        let (directory, path) = whole.directory(below.as_os_str().as_bytes())?;
        Ok(Self { root: directory, mounts: Mounts::parse(&table, Path::new(OsStr::from_bytes(&path))) })
    }

    /// What lies at a path, following links everywhere.
    ///
    /// # Errors
    /// When nothing is there, or the way there is closed.
    pub fn find(&self, path: &[u8]) -> Result<Entry, Unread> {
        self.resolve(path, true)
    }

    /// What lies at a path, following links everywhere but at the end.
    ///
    /// # Errors
    /// When nothing is there, or the way there is closed.
    pub fn look(&self, path: &[u8]) -> Result<Entry, Unread> {
        self.resolve(path, false)
    }

    /// Reads a file of at most `limit` bytes.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>, Unread> {
        self.find(path.as_bytes())?.read(limit)
    }

    /// What a directory holds, sorted by name; the path may lead over links.
    ///
    /// # Errors
    /// When it is no directory, may not be read, or has more than [`MAX_NAMES`] names.
    pub fn list(&self, path: &[u8]) -> Result<Vec<Entry>, Unread> {
        let (directory, path) = self.directory(path)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&*directory)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name == b"." || name == b".." {
                continue;
            }
            if names.len() == MAX_NAMES {
                return Err(Unread::Large);
            }
            names.push(name);
        }
        names.sort();
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            let path = joined(&path, &name);
            if self.mounts.is_remote(&path) {
                continue;
            }
            if let Ok(status) = Status::of(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                entries.push(Entry { path, status, directory: Arc::clone(&directory) });
            }
        }
        Ok(entries)
    }

    /// Mount points below the root that are not entered.
    pub fn remote_mounts(&self) -> impl Iterator<Item = &[u8]> {
        self.mounts.remote()
    }

    /// Opens a directory for reading, and says where it really is.
    fn directory(&self, path: &[u8]) -> Result<(Arc<OwnedFd>, Vec<u8>), Unread> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (at, name, path) = if is_root(path) {
            (Arc::clone(&self.root), b".".to_vec(), Vec::new())
        } else {
            let entry = self.find(path)?;
            if is_root(&entry.path) {
                (Arc::clone(&self.root), b".".to_vec(), Vec::new())
            } else {
                (Arc::clone(&entry.directory), entry.name().to_vec(), entry.path)
            }
        };
        Ok((Arc::new(rustix::fs::openat(&at, name, flags, Mode::empty())?), path))
    }

    fn resolve(&self, path: &[u8], follow_last: bool) -> Result<Entry, Unread> {
        // The directories on the way with their paths; `..` goes back.
        let mut way: Vec<(Arc<OwnedFd>, usize)> = Vec::new();
        let mut at = Arc::clone(&self.root);
        let mut real: Vec<u8> = Vec::new();
        let mut links = 0;
        let mut rest: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
        while let Some(name) = rest.pop() {
            if name == b".." {
                if let Some((parent, length)) = way.pop() {
                    at = parent;
                    real.truncate(length);
                }
                continue;
            }
            let length = real.len();
            real.push(b'/');
            real.extend_from_slice(&name);
            if self.mounts.is_remote(&real) {
                return Err(Unread::Remote);
            }
            let status = Status::of(&at, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            let is_last = rest.is_empty();
            if status.is_link() && (follow_last || !is_last) {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Unread::Links);
                }
                let target = rustix::fs::readlinkat(&at, &*name, Vec::new())?.into_bytes();
                real.truncate(length);
                if target.starts_with(b"/") {
                    way.clear();
                    at = Arc::clone(&self.root);
                    real.clear();
                }
                rest.extend(components(&target).rev().map(<[u8]>::to_vec));
                continue;
            }
            if is_last {
                return Ok(Entry { path: real, status, directory: at });
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let next = rustix::fs::openat(&at, &*name, flags, Mode::empty())?;
            way.push((std::mem::replace(&mut at, Arc::new(next)), length));
        }
        // The root itself, or a directory that `..` led back to.
        let status = Status::of(&at, b"", AtFlags::EMPTY_PATH)?;
        match way.pop() {
            Some((parent, _)) => Ok(Entry { path: real, status, directory: parent }),
            None => Ok(Entry { path: b"/".to_vec(), status, directory: Arc::clone(&self.root) }),
        }
    }
}

fn is_root(path: &[u8]) -> bool {
    path.iter().all(|byte| *byte == b'/')
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// A path of a name in a directory; the root directory may be empty.
#[must_use]
pub fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let directory = directory.strip_suffix(b"/").unwrap_or(directory);
    [directory, b"/", name].concat()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn text(path: &[u8]) -> &str {
        std::str::from_utf8(path).unwrap()
    }

    #[test]
    fn links_lead_nowhere_out_of_the_root() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        std::fs::create_dir_all(root.join("etc/deep")).unwrap();
        std::fs::write(directory.path().join("secret"), "outside").unwrap();
        std::fs::write(root.join("secret"), "inside").unwrap();
        symlink("/secret", root.join("etc/absolute")).unwrap();
        symlink("../../../../secret", root.join("etc/deep/up")).unwrap();
        symlink("..", root.join("etc/parent")).unwrap();
        symlink("loop", root.join("etc/loop")).unwrap();
        let tree = Tree::open(&root).unwrap();

        for path in
            ["/etc/absolute", "/etc/deep/up", "/../secret", "/etc/deep/../../../secret", "/etc/parent/secret"]
        {
            let entry = tree.find(path.as_bytes()).unwrap();
            assert_eq!(entry.read(100).unwrap(), b"inside", "{path}");
            assert_eq!(text(&entry.path), "/secret", "{path}");
        }
        assert_eq!(tree.find(b"/etc/loop").unwrap_err(), Unread::Links);
        assert!(tree.look(b"/etc/absolute").unwrap().status.is_link());
        assert_eq!(tree.find(b"/etc/parent").unwrap().path, b"/");
        assert_eq!(tree.list(b"/etc/parent").unwrap().len(), 2);
    }

    #[test]
    fn a_fifo_is_seen_and_never_opened() {
        let directory = tempfile::tempdir().unwrap();
        rustix::fs::mknodat(CWD, directory.path().join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let tree = Tree::open(directory.path()).unwrap();

        assert_eq!(tree.find(b"/fifo").unwrap().read(10), Err(Unread::Kind));
        assert_eq!(tree.list(b"/").unwrap().len(), 1);
    }

    #[test]
    fn a_file_over_the_limit_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), "12345").unwrap();
        let tree = Tree::open(directory.path()).unwrap();

        assert_eq!(tree.read("/a", 5).unwrap(), b"12345");
        assert_eq!(tree.read("/a", 4), Err(Unread::Large));
        assert_eq!(tree.read("/b", 4), Err(Unread::Gone));
    }

    #[test]
    fn a_pattern_finds_what_a_shell_would_and_hidden_names_too() {
        let directory = tempfile::tempdir().unwrap();
        for path in
            ["a/x/one.conf", "a/x/.two.conf", "a/y/three.conf", "a/y/deep/er/four.conf", "b/z/five.txt"]
        {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        symlink("a/x", directory.path().join("link")).unwrap();
        let tree = Tree::open(directory.path()).unwrap();
        let found = |pattern: &str| -> Vec<String> {
            let mut unread = Vec::new();
            let found = tree.glob(pattern, &mut unread);
            found.iter().map(|entry| text(&entry.path).to_owned()).collect()
        };

        assert_eq!(found("/a/*/*.conf"), ["/a/x/.two.conf", "/a/x/one.conf", "/a/y/three.conf"]);
        assert_eq!(found("/{a,b}/{x,z}/*e.*"), ["/a/x/one.conf", "/b/z/five.txt"]);
        assert_eq!(found("/a/**/*.conf").len(), 4);
        assert_eq!(found("/a/y/**").len(), 2);
        assert_eq!(found("/link/o*"), ["/a/x/one.conf"]);
        assert_eq!(found("/a/none/*"), Vec::<String>::new());
    }
}
