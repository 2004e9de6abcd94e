//! Patterns of paths: `*` and `?` within a name, `{a,b}`, and `**` for any number of directories.

use crate::{Entry, MAX_NAMES, Tree, Unread, joined};

/// Deepest level below a `**`.
const MAX_DEPTH: usize = 12;

/// Most entries that one pattern finds.
const MAX_FOUND: usize = 200_000;

/// Most directories that one pattern lists. A pattern can come from a file that somebody else wrote.
const MAX_LISTED: usize = 50_000;

/// What it takes from an allowance to open a directory, in names.
const COST_OF_LISTING: usize = 25;

/// How many bytes of a pattern take as much time as a name does, so that long ones take more.
const BYTES_OF_PATTERN: usize = 16;

/// Most patterns that the braces of one stand for.
const MAX_EXPANDED: usize = 1_000;

/// Something on the way of a pattern that could not be read.
pub type NotRead = (Vec<u8>, Unread);

impl Tree {
    /// Finds what matches a pattern, each thing once, in the order of names. Names that begin with a dot match too.
    /// What could not be read on the way is added to `unread`.
    pub fn glob(&self, pattern: &str, unread: &mut Vec<NotRead>) -> Vec<Entry> {
        self.glob_below(b"", pattern, unread)
    }

    /// The same below a directory, whose own path is taken as it is.
    pub fn glob_below(&self, directory: &[u8], pattern: &str, unread: &mut Vec<NotRead>) -> Vec<Entry> {
        let mut unlimited = u64::MAX;
        self.glob_within(directory, pattern, &mut unlimited, unread)
    }

    /// The same with an allowance that several searches share: each name that is looked at takes one from it, and each
    /// directory several. At 0 the search ends.
    pub fn glob_within(
        &self,
        directory: &[u8],
        pattern: &str,
        allowance: &mut u64,
        unread: &mut Vec<NotRead>,
    ) -> Vec<Entry> {
        let mut patterns = Vec::new();
        if !expand(pattern, &mut patterns) {
            unread.push((joined(directory, pattern.as_bytes()), Unread::Large));
        }
        let mut search =
            Search { tree: self, found: Vec::new(), unread, listed: 0, is_told: false, allowance };
        for pattern in patterns {
            let segments: Vec<&str> = pattern.split('/').filter(|segment| !segment.is_empty()).collect();
            search.descend(directory.to_vec(), &segments);
        }
        let mut found = search.found;
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found.dedup_by(|a, b| a.path == b.path);
        found
    }
}

/// One search for what matches a pattern.
struct Search<'a> {
    tree: &'a Tree,
    found: Vec<Entry>,
    unread: &'a mut Vec<NotRead>,
    /// Directories that were listed.
    listed: usize,
    /// It was noted that more matches than are kept.
    is_told: bool,
    /// Names that may still be looked at.
    allowance: &'a mut u64,
}

impl Search<'_> {
    fn descend(&mut self, at: Vec<u8>, segments: &[&str]) {
        let Some((first, rest)) = segments.split_first() else { return };
        if *first == "**" {
            self.below(&at, rest, MAX_DEPTH);
            return;
        }
        if !is_pattern(first) {
            let path = joined(&at, first.as_bytes());
            if !rest.is_empty() {
                self.descend(path, rest);
                return;
            }
            if !self.take(1) {
                return;
            }
            match self.tree.look(&path) {
                Ok(entry) => self.found.push(entry),
                Err(Unread::Gone) => {}
                Err(error) => self.unread.push((path, error)),
            }
            return;
        }
        for entry in self.list_for(&at, first) {
            if !matches(first.as_bytes(), entry.name()) {
                continue;
            }
            if self.is_full(&at) {
                return;
            }
            if rest.is_empty() {
                self.found.push(entry);
            } else if entry.status.is_directory() || entry.status.is_link() {
                self.descend(entry.path, rest);
            }
        }
    }

    /// All files below a directory whose names match the rest of a pattern, which is at most one name. Links to
    /// directories are not followed.
    fn below(&mut self, at: &[u8], rest: &[&str], depth: usize) {
        for entry in self.list_for(at, rest.last().copied().unwrap_or_default()) {
            if self.is_full(at) {
                return;
            }
            if entry.status.is_directory() {
                if depth == 0 {
                    self.unread.push((entry.path, Unread::Large));
                } else {
                    self.below(&entry.path, rest, depth - 1);
                }
            } else if rest.last().is_none_or(|last| matches(last.as_bytes(), entry.name())) {
                self.found.push(entry);
            }
        }
    }

    /// Whether there is no room for what a directory has more.
    fn is_full(&mut self, at: &[u8]) -> bool {
        let is_full = self.found.len() >= MAX_FOUND;
        if is_full && !self.is_told {
            self.unread.push((at.to_vec(), Unread::Large));
        }
        self.is_told |= is_full;
        is_full
    }

    /// Takes from the allowance; `false` when nothing is left.
    fn take(&mut self, names: usize) -> bool {
        let had = *self.allowance > 0;
        *self.allowance = self.allowance.saturating_sub(names as u64);
        had
    }

    /// Lists a directory whose names are compared with a pattern.
    fn list_for(&mut self, path: &[u8], pattern: &str) -> Vec<Entry> {
        let entries = self.list(path);
        self.take(entries.len() * (pattern.len() / BYTES_OF_PATTERN));
        entries
    }

    fn list(&mut self, path: &[u8]) -> Vec<Entry> {
        if !self.take(COST_OF_LISTING) {
            return Vec::new();
        }
        self.listed += 1;
        if self.listed > MAX_LISTED {
            // Said once: everything after it is left out as well.
            if self.listed == MAX_LISTED + 1 {
                self.unread.push((path.to_vec(), Unread::Large));
            }
            return Vec::new();
        }
        match self.tree.list(path) {
            Ok(entries) => {
                self.take(entries.len());
                entries
            }
            Err(Unread::Gone) => Vec::new(),
            Err(error) => {
                if error == Unread::Large {
                    self.take(MAX_NAMES);
                }
                self.unread.push((path.to_vec(), error));
                Vec::new()
            }
        }
    }
}

fn is_pattern(segment: &str) -> bool {
    segment.contains(['*', '?'])
}

/// Whether a name matches a pattern of `*` and `?`.
#[must_use]
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on when the last `*` has to take one byte more.
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p, n));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((star, taken)) = retry else { return false };
                retry = Some((star, taken + 1));
                p = star + 1;
                n = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Expands the braces of a pattern; `false` when they stand for more than [`MAX_EXPANDED`].
fn expand(pattern: &str, expanded: &mut Vec<String>) -> bool {
    let braces = pattern.find('{').and_then(|open| Some((open, open + pattern[open..].find('}')?)));
    let Some((open, close)) = braces else {
        let has_room = expanded.len() < MAX_EXPANDED;
        if has_room {
            expanded.push(pattern.to_owned());
        }
        return has_room;
    };
    let (before, after) = (&pattern[..open], &pattern[close + 1..]);
    pattern[open + 1..close].split(',').all(|choice| expand(&format!("{before}{choice}{after}"), expanded))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn braces_are_expanded_from_the_left() {
        let expanded = |pattern: &str| {
            let mut patterns = Vec::new();
            let are_all = expand(pattern, &mut patterns);
            (patterns, are_all)
        };

        let all = ["/a/x", "/a/x1", "/b/x", "/b/x1"].map(str::to_owned).to_vec();
        assert_eq!(expanded("/{a,b}/x{,1}"), (all, true));
        assert_eq!(expanded("/a{"), (vec!["/a{".to_owned()], true));
        let (patterns, are_all) = expanded(&"{a,b}".repeat(30));
        assert_eq!((patterns.len(), are_all), (MAX_EXPANDED, false));
    }

    #[test]
    fn matches_beyond_the_limit_and_an_allowance_that_is_used_up_are_known() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("x")).unwrap();
        for name in 0..=200 {
            std::fs::write(directory.path().join(format!("x/{name}")), "").unwrap();
        }
        let tree = Tree::open(directory.path()).unwrap();
        let mut unread = Vec::new();

        tree.glob(&format!("/{{{}}}/*", vec!["x"; MAX_EXPANDED].join(",")), &mut unread);
        assert_eq!(unread, [(b"/x".to_vec(), Unread::Large)]);

        let mut allowance = 300;
        let patterns = format!("/{{{}}}/*", vec!["x"; 50].join(","));
        assert_eq!(tree.glob_within(b"", &patterns, &mut allowance, &mut unread).len(), 201);
        assert_eq!((allowance, unread.len()), (0, 1));
        assert_eq!(tree.glob_within(b"", "/x/1", &mut allowance, &mut unread).len(), 0);

        for pattern in ["/x", "/**"].map(|start| format!("{start}/{}", "*".repeat(160))) {
            let mut allowance = 10_000;
            tree.glob_within(b"", &pattern, &mut allowance, &mut unread);
            assert!(allowance < 10_000 - 2_010, "{pattern}: {allowance}");
        }
    }

    proptest! {
        #[test]
        fn a_name_matches_itself_and_what_stars_make_of_it(name in "[a-c]{0,6}", at in 0_usize..7, taken in 0_usize..7) {
            prop_assert!(matches(name.as_bytes(), name.as_bytes()));
            let start = at.min(name.len());
            let end = (start + taken).min(name.len());
            let pattern = format!("{}*{}", &name[..start], &name[end..]);
            prop_assert!(matches(pattern.as_bytes(), name.as_bytes()));
            let longer = format!("{}?", name);
            prop_assert!(!matches(longer.as_bytes(), name.as_bytes()));
        }
    }
}
