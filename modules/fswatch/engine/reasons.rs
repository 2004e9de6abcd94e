//! Paths that the status names, and why: so many as its readers can use, whatever users make.

use std::collections::BTreeMap;
use std::ops::{Bound, Deref};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Paths of one list.
const MAX_PATHS: usize = 10_000;

/// Bytes of one list: ten thousand usual paths, and some hundred of the longest.
const MAX_BYTES: usize = 1 << 20;

/// A list of paths with a reason for each. The published status shares it until it changes.
#[derive(Debug, Clone, Default)]
pub struct Reasons {
    paths: Arc<BTreeMap<PathBuf, String>>,
    bytes: usize,
    /// There were more since it was empty.
    has_more: bool,
}

fn bytes_of(path: &Path, why: &str) -> usize {
    path.as_os_str().len() + why.len()
}

impl Reasons {
    /// Names a path, where there is room or it is named already; whether it was not named before.
    pub fn insert(&mut self, path: PathBuf, why: String) -> bool {
        let known = self.paths.get(&path);
        if known == Some(&why) {
            return false;
        }
        let is_new = known.is_none();
        let bytes = self.bytes - known.map_or(0, |known| bytes_of(&path, known)) + bytes_of(&path, &why);
        if is_new && (self.paths.len() >= MAX_PATHS || bytes > MAX_BYTES) {
            self.has_more = true;
            return false;
        }
        self.bytes = bytes;
        Arc::make_mut(&mut self.paths).insert(path, why);
        is_new
    }

    /// Does not name a path any more.
    pub(crate) fn remove(&mut self, path: &Path) {
        let Some(why) = self.paths.get(path) else { return };
        self.bytes -= bytes_of(path, why);
        let paths = Arc::make_mut(&mut self.paths);
        paths.remove(path);
        self.has_more &= !paths.is_empty();
    }

    /// Does not name what is below a path, or the path itself, any more.
    pub(crate) fn remove_below(&mut self, path: &Path) {
        let below: Vec<PathBuf> = self
            .paths
            .range::<Path, _>((Bound::Included(path), Bound::Unbounded))
            .map(|(below, _)| below)
            .take_while(|below| below.starts_with(path))
            .cloned()
            .collect();
        for path in below {
            self.remove(&path);
        }
    }

    /// Names only those that are wanted.
    pub(crate) fn retain(&mut self, wanted: impl Fn(&Path) -> bool) {
        if self.paths.keys().all(|path| wanted(path)) {
            return;
        }
        let paths = Arc::make_mut(&mut self.paths);
        paths.retain(|path, _| wanted(path));
        self.bytes = paths.iter().map(|(path, why)| bytes_of(path, why)).sum();
        self.has_more &= !paths.is_empty();
    }

    /// How many there are, as far as it is known.
    #[must_use]
    pub(crate) fn counted(&self) -> String {
        if self.has_more { format!("at least {}", self.paths.len()) } else { self.paths.len().to_string() }
    }
}

impl Deref for Reasons {
    type Target = BTreeMap<PathBuf, String>;

    fn deref(&self) -> &Self::Target {
        &self.paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_long_the_paths_are_a_list_is_bounded_and_says_that_there_are_more() {
        let mut reasons = Reasons::default();
        let path = |number: usize| PathBuf::from(format!("/home/ann/{number}{}", "/d".repeat(2_000)));
        for number in 0..1_000 {
            assert_eq!(
                reasons.insert(path(number), "leased".to_owned()),
                reasons.contains_key(&path(number))
            );
        }
        let named = reasons.len();

        assert!((200..300).contains(&named), "{named}");
        assert_eq!(reasons.counted(), format!("at least {named}"));
        assert!(!reasons.insert(path(0), "damaged".to_owned()) && reasons[&path(0)] == "damaged");
        reasons.remove(&path(0));
        reasons.retain(|named| *named == path(1));
        assert_eq!(reasons.bytes, bytes_of(&path(1), "leased"));
        reasons.remove(&path(1));
        assert_eq!((reasons.counted(), reasons.bytes), ("0".to_owned(), 0));
    }

    #[test]
    fn what_is_below_a_path_that_is_gone_is_named_no_more_and_what_only_looks_alike_stays() {
        let mut reasons = Reasons::default();
        for path in ["/a/b", "/a/b/c", "/a/b/c/d", "/a/b.d", "/a/bc", "/a"] {
            reasons.insert(path.into(), "why".to_owned());
        }

        reasons.remove_below(Path::new("/a/b"));

        let left: Vec<&Path> = reasons.keys().map(PathBuf::as_path).collect();
        assert_eq!(left, ["/a", "/a/b.d", "/a/bc"].map(Path::new));
        assert_eq!(reasons.bytes, reasons.iter().map(|(path, why)| bytes_of(path, why)).sum::<usize>());
    }
}
