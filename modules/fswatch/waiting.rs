//! How much may wait, in bytes: users make names and paths as long as they like, so that a number of them is no bound.
//!
//! What is beyond a bound is not lost. Its directories are noted and compared, and where those are too many, the trees
//! that they are in.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use crate::events::Happened;

/// What an entry takes beside its texts, about.
const ENTRY_BYTES: usize = 256;

/// Shares of memory: of one user, and of all users together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
    pub(crate) of_user: usize,
    pub(crate) of_users: usize,
}

/// Names that the kernel told of and the engine has not taken yet: thousands of usual ones, which is what users cause
/// between two steps of the engine.
pub(crate) const TOLD: Shares = Shares { of_user: 4 << 20, of_users: 8 << 20 };

/// Paths that are to be looked at: ten thousand usual ones of one user.
pub(crate) const DUE: Shares = Shares { of_user: 8 << 20, of_users: 16 << 20 };

/// Directories that are to be compared because much happened in them.
pub(crate) const BUSY: Shares = Shares { of_user: 1 << 20, of_users: 4 << 20 };

/// Directories of users that inotify watches, sixty thousand usual ones of one user: what is beyond is found by scans,
/// and the status names it.
pub(crate) const WATCHED: Shares = Shares { of_user: 16 << 20, of_users: 24 << 20 };

/// About what it takes to keep that something happened to a path. Who did it may be shared with all else that it did,
/// or be a process for each path, with texts as long as the kernel takes.
pub(crate) fn bytes_of(path: usize, happened: &Happened) -> usize {
    let others = [&happened.moved_from, &happened.moved_to].into_iter().flatten();
    let names: usize = others.map(|other| other.as_os_str().len()).sum();
    let writers: usize = happened.writers.iter().map(|writer| writer.bytes()).sum();
    ENTRY_BYTES + path + names + writers
}

/// What stands for names in tables of which only a number of entries is a bound: hashes that nobody else can prepare.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keys(RandomState);

impl Keys {
    /// The key of a name.
    pub(crate) fn of(&self, name: &(impl Hash + ?Sized)) -> u64 {
        self.0.hash_one(name)
    }
}

/// How much of a directory is to be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Extent {
    /// The names in it, and what is below those of its directories that were not known.
    Names,
    /// Everything below it.
    Tree,
}

/// Directories in which more happened than can be told by name. However many are noted, they take no more than a bound:
/// beyond it the trees that they are in stand for them.
#[derive(Debug, Clone)]
pub(crate) struct BusyDirectories<T> {
    /// In the order of their names, so that what is in a directory follows it. None is in a tree of another.
    directories: BTreeMap<PathBuf, (Extent, T)>,
    bytes: usize,
}

impl<T> Default for BusyDirectories<T> {
    fn default() -> Self {
        Self { directories: BTreeMap::new(), bytes: 0 }
    }
}

fn directory_bytes(path: &Path) -> usize {
    ENTRY_BYTES + path.as_os_str().len()
}

impl<T: Copy + Ord> BusyDirectories<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.directories.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.directories.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Path, Extent, T)> {
        self.directories.iter().map(|(path, (extent, value))| (path.as_path(), *extent, *value))
    }

    pub(crate) fn remove(&mut self, path: &Path) -> Option<(Extent, T)> {
        let (path, removed) = self.directories.remove_entry(path)?;
        self.bytes -= directory_bytes(&path);
        Some(removed)
    }

    /// Takes all.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (PathBuf, Extent)> + use<T> {
        std::mem::take(self).directories.into_iter().map(|(path, (extent, _))| (path, extent))
    }

    /// Notes a directory; of what is noted already the earlier value stays.
    pub(crate) fn add(&mut self, path: PathBuf, extent: Extent, value: T) {
        let up_to = (Bound::Unbounded, Bound::Included(path.as_path()));
        let before = self.directories.range_mut::<Path, _>(up_to).next_back();
        let mut value = value;
        if let Some((known, (known_extent, since))) = before {
            if *known_extent == Extent::Tree && path.starts_with(known) {
                return;
            }
            if *known == path {
                (*known_extent, value) = ((*known_extent).max(extent), value.min(*since));
                *since = value;
                if extent == Extent::Names {
                    return;
                }
            }
        }
        if extent == Extent::Tree {
            let below: Vec<PathBuf> = self
                .directories
                .range::<Path, _>((Bound::Excluded(path.as_path()), Bound::Unbounded))
                .take_while(|(below, _)| below.starts_with(&path))
                .map(|(below, _)| below.clone())
                .collect();
            for below in below {
                value = self.remove(&below).map_or(value, |(_, since)| value.min(since));
            }
        }
        let bytes = directory_bytes(&path);
        if self.directories.insert(path, (extent, value)).is_none() {
            self.bytes += bytes;
        }
    }

    /// Makes of the directories that are furthest down fewer, which are above them, until they take no more than that.
    pub(crate) fn widen(&mut self, most: usize) {
        let depth = |path: &Path| path.components().count();
        let mut deepest = self.directories.keys().map(|path| depth(path)).max().unwrap_or_default();
        while self.bytes > most && deepest > 1 {
            deepest = (deepest * 7 / 8).min(deepest - 1);
            let too_deep: Vec<PathBuf> =
                self.directories.keys().filter(|path| depth(path) > deepest).cloned().collect();
            for path in too_deep {
                // Another one's tree may have taken it in.
                if let Some((_, value)) = self.remove(&path) {
                    self.add(path.components().take(deepest).collect(), Extent::Tree, value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Process, Unknown, Writers};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn noted(busy: &BusyDirectories<u32>) -> Vec<(&str, Extent)> {
        busy.iter().map(|(path, extent, _)| (path.to_str().unwrap(), extent)).collect()
    }

    #[test]
    fn what_is_in_a_tree_that_is_compared_is_not_noted_beside_it() {
        let mut busy = BusyDirectories::default();
        for path in ["/a/b/c", "/a/b!", "/a/b", "/a/b"] {
            busy.add(path.into(), Extent::Names, 2);
        }
        assert_eq!(
            noted(&busy),
            [("/a/b", Extent::Names), ("/a/b/c", Extent::Names), ("/a/b!", Extent::Names)]
        );

        busy.add("/a/b".into(), Extent::Tree, 3);
        busy.add("/a/b/d".into(), Extent::Tree, 1);

        assert_eq!(noted(&busy), [("/a/b", Extent::Tree), ("/a/b!", Extent::Names)]);
        assert_eq!(busy.remove(Path::new("/a/b")), Some((Extent::Tree, 2)));
        assert_eq!(busy.bytes(), directory_bytes(Path::new("/a/b!")));
    }

    #[test]
    fn who_did_it_counts_with_texts_as_long_as_they_are() {
        let happened = |command: String| {
            let process = Process { command: Ok(command), ..Process::unknown(7, Unknown::Ended) };
            Happened { writers: Writers::one(Arc::new(process)), ..Happened::default() }
        };

        let [short, long] = [0, 1000].map(|length| bytes_of(10, &happened("x".repeat(length))));

        assert_eq!(long - short, 1000);
        assert!(short > bytes_of(10, &Happened::default()));
    }

    proptest! {
        /// However many and however long they are, each stays noted or is in a tree that is, and all take no more than
        /// the bound.
        #[test]
        fn whatever_is_noted_is_compared_and_takes_no_more_than_the_bound(
            paths in proptest::collection::vec(proptest::collection::vec(0..3_u8, 1..60), 1..80),
        ) {
            const MOST: usize = 4_000;
            let mut busy = BusyDirectories::default();
            let path = |names: &[u8]| {
                PathBuf::from(names.iter().map(|name| format!("/{name}{}", "x".repeat(9))).collect::<String>())
            };
            for names in &paths {
                busy.add(path(names), Extent::Names, 0);
                if busy.bytes() > MOST {
                    busy.widen(MOST / 2);
                }
                prop_assert!(busy.bytes() <= MOST, "{}", busy.bytes());
                let counted: usize = busy.iter().map(|(path, ..)| directory_bytes(path)).sum();
                prop_assert_eq!(counted, busy.bytes());
            }
            for names in &paths {
                let path = path(names);
                let mut noted = busy.iter();
                let is_noted = noted.any(|(known, extent, _)| {
                    known == path || extent == Extent::Tree && path.starts_with(known)
                });
                prop_assert!(is_noted);
            }
        }
    }
}
