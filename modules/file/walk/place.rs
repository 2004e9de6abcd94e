//! Where an object is found, and how it is called.

use std::borrow::Cow;
use std::ffi::{CStr, CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::attributes::Extended;
use crate::open::{self, Base, Status};

/// A directory that is open, or none, for files that are known by their whole path.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) directory: Option<OwnedFd>,
    pub(super) asked: Vec<u8>,
    /// The directory without links.
    pub(super) real: Vec<u8>,
}

/// How a file is found and called.
#[derive(Debug)]
pub(super) enum FileName<'n> {
    /// In its place, by this name.
    Entry(Cow<'n, CStr>),
    /// At this path without links, and called by this name in its place.
    Elsewhere { called: Cow<'n, [u8]>, real: Cow<'n, Path> },
}

impl FileName<'_> {
    pub(super) fn called(&self) -> &[u8] {
        match self {
            Self::Entry(name) => name.to_bytes(),
            Self::Elsewhere { called, .. } => called,
        }
    }

    pub(super) fn to_kept(&self) -> FileName<'static> {
        match self {
            Self::Entry(name) => FileName::Entry(Cow::Owned(name.clone().into_owned())),
            Self::Elsewhere { called, real } => FileName::Elsewhere {
                called: Cow::Owned(called.clone().into_owned()),
                real: Cow::Owned(real.clone().into_owned()),
            },
        }
    }
}

impl Place {
    /// A place without a directory, of files that are known by their whole path.
    pub(super) fn elsewhere(asked: Vec<u8>) -> Self {
        Self { directory: None, asked, real: Vec::new() }
    }

    /// The path of a file as it was asked for.
    pub(super) fn path(&self, file: &FileName<'_>) -> Vec<u8> {
        joined(&self.asked, file.called())
    }

    /// Its path without links.
    pub(super) fn real_path(&self, file: &FileName<'_>) -> PathBuf {
        match file {
            FileName::Entry(name) => PathBuf::from(OsString::from_vec(joined(&self.real, name.to_bytes()))),
            FileName::Elsewhere { real, .. } => real.clone().into_owned(),
        }
    }

    /// From where it is opened, and by which name.
    fn at<'p>(&'p self, file: &'p FileName<'_>) -> Result<(Base<'p>, Cow<'p, CStr>), Errno> {
        match (file, &self.directory) {
            (FileName::Entry(name), Some(directory)) => {
                Ok((Base::Borrowed(directory.as_fd()), Cow::Borrowed(name)))
            }
            (FileName::Entry(_), None) => Err(Errno::NOENT),
            (FileName::Elsewhere { real, .. }, _) => {
                let (base, real) = open::begin(real)?;
                let real = CString::new(real.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
                Ok((base, Cow::Owned(real)))
            }
        }
    }

    pub(super) fn status(&self, file: &FileName<'_>) -> Result<Status, Errno> {
        if let FileName::Elsewhere { real, .. } = file {
            return open::status_without_links(real);
        }
        let (directory, name) = self.at(file)?;
        open::status(directory.as_fd(), &*name)
    }

    /// Opens a file, with its status.
    pub(super) fn open(&self, file: &FileName<'_>) -> Result<(Status, OwnedFd), Errno> {
        let (directory, name) = self.at(file)?;
        let opened = open::open_file(directory.as_fd(), &*name)?;
        Ok((open::status_of(&opened)?, opened))
    }

    pub(super) fn extended(&self, file: &FileName<'_>) -> Result<Extended, Errno> {
        let (directory, name) = self.at(file)?;
        Extended::read(directory.as_fd(), &name)
    }
}

/// A path below another one, either of which may be empty.
pub(super) fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend_from_slice(directory);
    if !directory.is_empty() && !name.is_empty() && !directory.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}
