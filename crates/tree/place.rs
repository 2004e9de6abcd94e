//! Paths that readers of databases open: on this host as everybody does, below another directory without a way out.
//!
//! Whoever made an image chose where its links lead. Followed as this host's, they would make a reader take the host's
//! files for the image's, and tell about them.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use crate::{Status, Tree, Unread, is_root};

/// Whose files are read: this host's, or those below a directory.
#[derive(Debug, Clone, Default)]
pub struct Root(Option<Arc<Below>>);

#[derive(Debug)]
struct Below {
    /// As it was asked for; only for messages.
    path: PathBuf,
    tree: Tree,
}

impl Root {
    /// This host.
    #[must_use]
    pub fn host() -> Self {
        Self(None)
    }

    /// What is below a directory; `/` is this host.
    ///
    /// # Errors
    /// When it is no directory or may not be entered.
    pub fn open(path: &Path) -> io::Result<Self> {
        if path == Path::new("/") {
            return Ok(Self::host());
        }
        Ok(Self(Some(Arc::new(Below { path: path.to_owned(), tree: Tree::open(path)? }))))
    }

    /// A path as seen from the root.
    #[must_use]
    pub fn place(&self, path: impl AsRef<Path>) -> Place {
        Place { root: self.clone(), path: Path::new("/").join(path) }
    }
}

/// A path as a process in a chroot would see it.
#[derive(Debug, Clone)]
pub struct Place {
    root: Root,
    path: PathBuf,
}

impl Place {
    /// A path below this one.
    #[must_use]
    pub fn join(&self, below: impl AsRef<Path>) -> Self {
        Self { root: self.root.clone(), path: self.path.join(below) }
    }

    /// The path with more at the end of its last name.
    #[must_use]
    pub fn with_end(&self, end: &str) -> Self {
        let mut path = self.path.clone().into_os_string();
        path.push(end);
        Self { root: self.root.clone(), path: path.into() }
    }

    /// As seen from the root.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For messages: as seen from this host, as far as no links are on the way.
    #[must_use]
    pub fn shown(&self) -> PathBuf {
        match &self.root.0 {
            None => self.path.clone(),
            Some(below) => below.path.join(self.path.strip_prefix("/").unwrap_or(&self.path)),
        }
    }

    /// What lies there, with links followed.
    ///
    /// # Errors
    /// When nothing is there, or the way there is closed.
    pub fn status(&self) -> io::Result<Status> {
        match &self.root.0 {
            None => Ok(Status::of(CWD, self.path.as_os_str().as_bytes(), AtFlags::empty())?),
            Some(below) => Ok(below.tree.find(self.path.as_os_str().as_bytes())?.status),
        }
    }

    /// Whether a regular file is there.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.status().is_ok_and(|status| status.is_file())
    }

    /// Whether a directory is there.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.status().is_ok_and(|status| status.is_directory())
    }

    /// Opens a regular file for reading; never waits for what only looks like one.
    ///
    /// # Errors
    /// When it is no regular file, or may not be read.
    pub fn open(&self) -> io::Result<File> {
        match &self.root.0 {
            None => {
                let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
                let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(&self.path)?;
                let is_file = file.metadata()?.is_file();
                if is_file { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
            }
            Some(below) => Ok(below.tree.find(self.path.as_os_str().as_bytes())?.open()?),
        }
    }

    /// The last name of the path, where it lies: links on the way are followed, one at the end is not.
    ///
    /// # Errors
    /// When the way there is closed; below another root also when nothing is there.
    pub fn spot(&self) -> Result<Spot, Unread> {
        let path = self.path.as_os_str().as_bytes();
        match &self.root.0 {
            None => Ok(Spot { directory: None, name: path.to_vec() }),
            Some(below) => {
                let entry = below.tree.look(path)?;
                let name = if is_root(&entry.path) { b"." } else { entry.name() }.to_vec();
                Ok(Spot { directory: Some(entry.directory), name })
            }
        }
    }

    /// What a directory holds, in no order.
    ///
    /// # Errors
    /// When it is no directory, may not be read, or holds more than is read.
    pub fn list(&self) -> io::Result<Vec<Self>> {
        match &self.root.0 {
            None => std::fs::read_dir(&self.path)?.map(|entry| Ok(self.join(entry?.file_name()))).collect(),
            Some(below) => {
                let entries = below.tree.list(self.path.as_os_str().as_bytes())?;
                Ok(entries.iter().map(|entry| self.join(OsStr::from_bytes(entry.name()))).collect())
            }
        }
    }

    /// The symbolic links in a directory: their names, and where they lead as it is written.
    #[must_use]
    pub fn links(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        match &self.root.0 {
            None => {
                let entries = std::fs::read_dir(&self.path).into_iter().flatten().flatten();
                let links = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()));
                let read = links.filter_map(|entry| {
                    let target = std::fs::read_link(entry.path()).ok()?;
                    Some((
                        entry.file_name().into_encoded_bytes(),
                        target.into_os_string().into_encoded_bytes(),
                    ))
                });
                read.collect()
            }
            Some(below) => {
                let entries = below.tree.list(self.path.as_os_str().as_bytes()).unwrap_or_default();
                let links = entries.iter().filter(|entry| entry.status.is_link());
                links.filter_map(|entry| Some((entry.name().to_owned(), entry.target().ok()?))).collect()
            }
        }
    }
}

/// A name in a directory. What is asked of it is asked there, whoever changes the way to it meanwhile, and never of
/// what a link at this name leads to.
#[derive(Debug)]
pub struct Spot {
    /// This host's root when there is none; the name is a whole path then.
    directory: Option<Arc<OwnedFd>>,
    name: Vec<u8>,
}

impl Spot {
    fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_ref().map_or(CWD, |directory| directory.as_fd())
    }

    /// What the kernel says of it.
    ///
    /// # Errors
    /// When nothing is there any more, or the kernel says no.
    pub fn status(&self, wanted: StatxFlags) -> Result<Statx, Errno> {
        rustix::fs::statx(self.directory(), &*self.name, AtFlags::SYMLINK_NOFOLLOW, wanted)
    }

    /// Where the link leads, as it is written.
    ///
    /// # Errors
    /// When it is no link or cannot be read.
    pub fn target(&self) -> Result<Vec<u8>, Errno> {
        Ok(rustix::fs::readlinkat(self.directory(), &*self.name, Vec::new())?.into_bytes())
    }

    /// Opens it for reading, without waiting; its access time stays where that is allowed. Whether it is a file is for
    /// the caller to see.
    ///
    /// # Errors
    /// When it is a link, or may not be read.
    pub fn open(&self) -> Result<File, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let open = |flags| rustix::fs::openat(self.directory(), &*self.name, flags, Mode::empty());
        match open(flags | OFlags::NOATIME) {
            // Only the owner may.
            Err(Errno::PERM) => open(flags),
            result => result,
        }
        .map(File::from)
    }

    /// Reads an extended attribute; returns its length.
    ///
    /// # Errors
    /// When there is none, or it is longer than the buffer.
    pub fn attribute(&self, name: &str, value: &mut [u8]) -> Result<usize, Errno> {
        let Some(directory) = &self.directory else {
            return rustix::fs::lgetxattr(&*self.name, name, value);
        };
        // There is no such call with a directory's descriptor.
        let directory = format!("/proc/self/fd/{}/", directory.as_raw_fd());
        rustix::fs::lgetxattr([directory.as_bytes(), &*self.name].concat(), name, value)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_of_an_image_lead_nowhere_out_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        std::fs::create_dir_all(image.join("var")).unwrap();
        std::fs::create_dir_all(directory.path().join("host/lib")).unwrap();
        std::fs::write(directory.path().join("host/lib/status"), "outside").unwrap();
        symlink(directory.path().join("host/lib"), image.join("var/absolute")).unwrap();
        symlink("../../host/lib", image.join("var/up")).unwrap();
        let root = Root::open(&image).unwrap();

        for way in ["var/absolute", "/var/up", "../host/lib", "/var/../../host/lib"] {
            let place = root.place(way);
            assert!(!place.is_directory(), "{way}");
            assert!(place.list().is_err(), "{way}");
            let file = place.join("status");
            assert!(!file.is_file(), "{way}");
            assert_eq!(file.open().unwrap_err().kind(), io::ErrorKind::NotFound, "{way}");
        }
        assert_eq!(root.place("var").links().len(), 2);
        assert_eq!(root.place("var/x").shown(), image.join("var/x"));

        std::fs::create_dir_all(image.join(directory.path().strip_prefix("/").unwrap()).join("host/lib"))
            .unwrap();
        assert!(root.place("var/absolute").is_directory());
    }

    #[test]
    fn this_host_is_read_as_everybody_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), "text").unwrap();
        symlink("file", directory.path().join("link")).unwrap();
        let place = Root::open(Path::new("/")).unwrap().place(directory.path());

        let mut text = String::new();
        place.join("link").open().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        assert_eq!(place.links(), [(b"link".to_vec(), b"file".to_vec())]);
        assert_eq!(place.list().unwrap().len(), 2);
        assert!(place.open().is_err());
        assert!(place.with_end("x").status().is_err());
    }
}
