//! The packages that are installed, one after the other, with what their manager recorded of each file.
//!
//! Packages are handed over one at a time, because a database of rpm has a hundred megabytes and more.

use std::path::PathBuf;

use vigie_tree::{Place, Root};

use crate::owners::Manager;

mod apk;
mod dpkg;
mod rpm;

/// A package.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Package {
    /// Its name, without the architecture.
    pub name: String,
    /// Its whole version as its manager shows it, with epoch and revision or release.
    pub version: String,
    /// Its architecture.
    pub architecture: String,
    /// The source package that it was built from, when that is recorded.
    pub source: Option<String>,
    /// How far it is installed: `installed`, or what dpkg calls it.
    pub state: String,
    /// What the administrator wants of it when that is not to have it: `hold`, `deinstall`, `purge`.
    pub wanted: Option<String>,
    /// When it was installed or changed last, in seconds since 1970.
    pub installed_at: Option<i64>,
    /// Bytes that its files take, as recorded.
    pub size: Option<u64>,
}

/// How the digest of a file was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// dpkg, old packages of rpm.
    Md5,
    /// apk.
    Sha1,
    /// rpm.
    Sha256,
    /// Rare packages of rpm.
    Sha512,
}

impl Algorithm {
    /// Bytes of a digest.
    #[must_use]
    pub fn length(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// The digest of a file's content.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Digest {
    /// How it was made.
    pub algorithm: Algorithm,
    /// Its bytes.
    pub bytes: Box<[u8]>,
}

/// What is recorded of a file. What a manager does not record, or a package says may differ, is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FileRecord {
    /// Where it lies, as seen from the root; after diversions.
    pub path: Vec<u8>,
    /// The digest of its content; of apk's symbolic links that of their target.
    pub digest: Option<Digest>,
    /// Kind and permissions, as in `st_mode`; dpkg records none, apk no kind.
    pub mode: Option<u32>,
    /// The owner's name or number.
    pub user: Option<String>,
    /// Name of the group or number.
    pub group: Option<String>,
    /// Its size in bytes.
    pub size: Option<u64>,
    /// Where the symbolic link leads.
    pub link: Option<Vec<u8>>,
    /// Capabilities in the form of cap_to_text(3).
    pub capabilities: Option<String>,
    /// Configuration: the administrator may well change it.
    pub configuration: bool,
    /// The file may be missing: rpm's `%ghost` and `%config(missingok)`, or what dpkg was told to leave out.
    pub may_be_missing: bool,
    /// It is one of the recorded directories.
    pub directory: bool,
    /// The database could say more of it but does not: a line is missing.
    pub lacks_digest: bool,
}

/// A database that could not be read, or only in part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    pub why: String,
}

/// What a reading wants of a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Nothing more: it is left out.
    Nothing,
    /// The package alone.
    Package,
    /// The package with its files.
    Files,
}

/// Whoever takes packages.
pub trait Visitor {
    /// What is wanted of a package.
    fn want(&mut self, manager: Manager, package: &Package) -> Want;

    /// Takes a package; `files` is empty unless they were wanted.
    fn take(&mut self, manager: Manager, package: Package, files: Vec<FileRecord>);
}

/// Which databases a root directory has.
#[must_use]
pub fn managers(root: &Root) -> Vec<Manager> {
    Manager::ALL
        .into_iter()
        .filter(|manager| match manager {
            Manager::Dpkg => dpkg::is_there(root),
            Manager::Rpm => rpm::is_there(root),
            Manager::Apk => apk::is_there(root),
        })
        .collect()
}

/// Hands over the packages of a manager; returns what could not be read.
pub fn visit(root: &Root, manager: Manager, visitor: &mut dyn Visitor) -> Vec<Unread> {
    match manager {
        Manager::Dpkg => dpkg::visit(root, visitor),
        Manager::Rpm => rpm::visit(root, visitor),
        Manager::Apk => apk::visit(root, visitor),
    }
}

/// The file of rpm's database.
pub(crate) fn rpm_database(root: &Root) -> Option<Place> {
    rpm::find(root).map(|(path, _)| path)
}

fn unread(place: &Place, why: impl std::fmt::Display) -> Unread {
    Unread { path: place.shown(), why: why.to_string() }
}
