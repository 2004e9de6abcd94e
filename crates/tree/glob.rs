//! Patterns of paths: `*` and `?` within a name, `{a,b}`, and `**` for any number of directories.

use crate::{Entry, Tree, Unread, joined};

/// Deepest level below a `**`.
const MAX_DEPTH: usize = 12;

/// Most entries that one pattern finds.
const MAX_FOUND: usize = 200_000;

/// Something on the way of a pattern that could not be read.
pub type NotRead = (Vec<u8>, Unread);

impl Tree {
    /// Finds what matches a pattern, each thing once, in the order of names. Names that begin with a dot match too. What
    /// could not be read on the way is added to `unread`.
    pub fn glob(&self, pattern: &str, unread: &mut Vec<NotRead>) -> Vec<Entry> {
        self.glob_below(b"", pattern, unread)
    }

    /// The same below a directory, whose own path is taken as it is.
    pub fn glob_below(&self, directory: &[u8], pattern: &str, unread: &mut Vec<NotRead>) -> Vec<Entry> {
        let mut found: Vec<Entry> = Vec::new();
        for pattern in expanded(pattern) {
            let segments: Vec<&str> = pattern.split('/').filter(|segment| !segment.is_empty()).collect();
            self.descend(directory.to_vec(), &segments, &mut found, unread);
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        found.dedup_by(|a, b| a.path == b.path);
        found
    }

    fn descend(&self, at: Vec<u8>, segments: &[&str], found: &mut Vec<Entry>, unread: &mut Vec<NotRead>) {
        let Some((first, rest)) = segments.split_first() else { return };
        if *first == "**" {
            self.below(&at, rest, MAX_DEPTH, found, unread);
            return;
        }
        if !is_pattern(first) {
            let path = joined(&at, first.as_bytes());
            if !rest.is_empty() {
                self.descend(path, rest, found, unread);
                return;
            }
            match self.look(&path) {
                Ok(entry) => found.push(entry),
                Err(Unread::Gone) => {}
                Err(error) => unread.push((path, error)),
            }
            return;
        }
        for entry in self.listed(&at, unread) {
            if found.len() >= MAX_FOUND || !matches(first.as_bytes(), entry.name()) {
                continue;
            }
            if rest.is_empty() {
                found.push(entry);
            } else if entry.status.is_directory() || entry.status.is_link() {
                self.descend(entry.path, rest, found, unread);
            }
        }
    }

    /// All files below a directory whose names match the rest of a pattern, which is at most one name. Links to
    /// directories are not followed.
    fn below(
        &self,
        at: &[u8],
        rest: &[&str],
        depth: usize,
        found: &mut Vec<Entry>,
        unread: &mut Vec<NotRead>,
    ) {
        for entry in self.listed(at, unread) {
            if found.len() >= MAX_FOUND {
                unread.push((at.to_vec(), Unread::Large));
                return;
            }
            if entry.status.is_directory() {
                if depth == 0 {
                    unread.push((entry.path, Unread::Large));
                } else {
                    self.below(&entry.path, rest, depth - 1, found, unread);
                }
            } else if rest.last().is_none_or(|last| matches(last.as_bytes(), entry.name())) {
                found.push(entry);
            }
        }
    }

    fn listed(&self, path: &[u8], unread: &mut Vec<NotRead>) -> Vec<Entry> {
        match self.list(path) {
            Ok(entries) => entries,
            Err(Unread::Gone) => Vec::new(),
            Err(error) => {
                unread.push((path.to_vec(), error));
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

/// Expands the braces of a pattern.
fn expanded(pattern: &str) -> Vec<String> {
    let Some(open) = pattern.find('{') else { return vec![pattern.to_owned()] };
    let Some(close) = pattern[open..].find('}').map(|at| open + at) else { return vec![pattern.to_owned()] };
    let (before, after) = (&pattern[..open], &pattern[close + 1..]);
    pattern[open + 1..close]
        .split(',')
        .flat_map(|choice| expanded(&format!("{before}{choice}{after}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn braces_are_expanded_from_the_left() {
        assert_eq!(expanded("/{a,b}/x{,1}"), ["/a/x", "/a/x1", "/b/x", "/b/x1"]);
        assert_eq!(expanded("/a{"), ["/a{"]);
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
