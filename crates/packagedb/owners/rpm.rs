//! Whose file a path is on a host of rpm: its whole database is read once, because it can only be asked by a library.

use std::collections::BTreeMap;

use vigie_tree::Root;

use super::{Aliases, Index, MAX_PATHS, Manager, Recorded, Stamp};
use crate::installed::{self, Algorithm, FileRecord, Visitor, Want};

/// The database, as it was read.
#[derive(Debug)]
pub(super) struct Database {
    root: Root,
    /// The files that were read, and their write-ahead logs.
    read: Option<[Option<Stamp>; 2]>,
    index: Index,
    packages: Vec<Package>,
    /// Of all packages.
    paths: usize,
}

#[derive(Debug)]
struct Package {
    name: Box<str>,
    version: Box<str>,
    /// By the hashes of their paths, sorted.
    files: Box<[(u64, File)]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct File {
    digest: Option<Known>,
    configuration: bool,
}

/// A digest that is compared here; others are as none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Known {
    Md5([u8; 16]),
    Sha256([u8; 32]),
}

impl File {
    fn of(record: &FileRecord) -> Self {
        let digest = record.digest.as_ref().and_then(|digest| match digest.algorithm {
            Algorithm::Md5 => digest.bytes[..].try_into().ok().map(Known::Md5),
            Algorithm::Sha256 => digest.bytes[..].try_into().ok().map(Known::Sha256),
            Algorithm::Sha1 | Algorithm::Sha512 => None,
        });
        Self { digest, configuration: record.configuration }
    }
}

/// The versions of the packages that are installed. Of some, such as kernels, there are several.
pub(super) fn versions(root: &Root) -> BTreeMap<String, String> {
    struct Versions(BTreeMap<String, Vec<String>>);
    impl Visitor for Versions {
        fn want(&mut self, _: Manager, _: &installed::Package) -> Want {
            Want::Package
        }

        fn take(&mut self, _: Manager, package: installed::Package, _: Vec<FileRecord>) {
            self.0.entry(package.name).or_default().push(package.version);
        }
    }
    let mut versions = Versions(BTreeMap::new());
    installed::visit(root, Manager::Rpm, &mut versions);
    versions
        .0
        .into_iter()
        .map(|(name, mut versions)| {
            versions.sort();
            versions.dedup();
            (name, versions.join(", "))
        })
        .collect()
}

impl Database {
    pub(super) fn at(root: &Root) -> Self {
        Self { root: root.clone(), read: None, index: Index::default(), packages: Vec::new(), paths: 0 }
    }

    /// Reads everything again when anything has changed.
    pub(super) fn refresh(&mut self, aliases: &Aliases) {
        let there = installed::rpm_database(&self.root)
            .map(|path| [Stamp::of(&path), Stamp::of(&path.with_end("-wal"))]);
        if there == self.read {
            return;
        }
        *self = Self::at(&self.root);
        // What cannot be read has no packages; what changes meanwhile is read again the next time.
        installed::visit(&self.root.clone(), Manager::Rpm, &mut Reading { database: self, aliases });
        self.read = there;
        self.index.settle();
    }

    /// Finds whose file a path is.
    pub(super) fn find(&self, path: &[u8]) -> Option<Recorded> {
        let hash = self.index.hash(path);
        let Package { name, version, files } = &self.packages[self.index.owners(hash).next()? as usize];
        let at = files.binary_search_by_key(&hash, |(hash, _)| *hash).ok()?;
        let File { digest, configuration } = files[at].1;
        Some(Recorded {
            manager: Manager::Rpm,
            package: name.to_string(),
            version: version.to_string(),
            md5: match digest {
                Some(Known::Md5(md5)) => Some(md5),
                _ => None,
            },
            sha1: None,
            sha256: match digest {
                Some(Known::Sha256(sha256)) => Some(sha256),
                _ => None,
            },
            configuration,
        })
    }
}

/// Takes packages into a database.
struct Reading<'a> {
    database: &'a mut Database,
    aliases: &'a Aliases,
}

impl Visitor for Reading<'_> {
    fn want(&mut self, _: Manager, _: &installed::Package) -> Want {
        if self.database.paths < MAX_PATHS { Want::Files } else { Want::Nothing }
    }

    fn take(&mut self, _: Manager, package: installed::Package, records: Vec<FileRecord>) {
        let Database { index, packages, paths, .. } = self.database;
        let number = packages.len() as u32;
        // Most directories belong to many packages, and to none here.
        let files = records.iter().filter(|record| !record.directory).take(MAX_PATHS - *paths);
        let mut files: Vec<_> =
            files.map(|record| (index.hash(&self.aliases.resolve(&record.path)), File::of(record))).collect();
        files.sort_unstable();
        *paths += files.len();
        for (hash, _) in &files {
            index.add(*hash, number);
        }
        let (name, version) = (package.name.into(), package.version.into());
        packages.push(Package { name, version, files: files.into() });
    }
}
