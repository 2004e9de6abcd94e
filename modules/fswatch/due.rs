//! Which paths are to be looked at, and when: writes in progress are waited for, but not for ever.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest that a path which never falls quiet is left alone, in settle times.
const MAX_SETTLES: u32 = 20;

#[derive(Debug, Clone, Copy)]
struct Due {
    at: Instant,
    /// When it must be looked at, whatever happens meanwhile.
    latest: Instant,
}

/// The paths that wait.
#[derive(Debug)]
pub struct DuePaths {
    settle: Duration,
    paths: HashMap<PathBuf, Due>,
}

impl DuePaths {
    /// Nothing waits; a path is looked at when it was quiet for `settle`.
    #[must_use]
    pub fn new(settle: Duration) -> Self {
        Self { settle, paths: HashMap::new() }
    }

    /// Something happened to this path.
    pub fn touch(&mut self, path: &Path, now: Instant) {
        let quiet = now + self.settle;
        match self.paths.get_mut(path) {
            Some(due) => due.at = quiet.min(due.latest),
            None => {
                let latest = now + self.settle * MAX_SETTLES;
                self.paths.insert(path.to_owned(), Due { at: quiet, latest });
            }
        }
    }

    /// Takes the paths whose time has come, in order of their names: a directory before what is in it.
    pub fn take(&mut self, now: Instant) -> Vec<PathBuf> {
        let mut ready: Vec<_> =
            self.paths.iter().filter(|(_, due)| due.at <= now).map(|(path, _)| path.clone()).collect();
        for path in &ready {
            self.paths.remove(path);
        }
        ready.sort();
        ready
    }

    /// Time until the next path is due; `None` when none waits.
    #[must_use]
    pub fn next(&self, now: Instant) -> Option<Duration> {
        self.paths.values().map(|due| due.at.saturating_duration_since(now)).min()
    }

    /// Number of paths that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Forgets all: everything is looked at anyway.
    pub fn clear(&mut self) {
        self.paths.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SETTLE: Duration = Duration::from_millis(100);

    #[expect(clippy::disallowed_methods, reason = "only its differences matter, they are made here")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn one_save_in_many_writes_is_looked_at_once_when_it_is_quiet() {
        let now = start();
        let mut due = DuePaths::new(SETTLE);
        let path = Path::new("/a");
        due.touch(path, now);
        due.touch(path, now + SETTLE / 2);

        assert!(due.take(now + SETTLE).is_empty());
        assert_eq!(due.take(now + SETTLE * 3 / 2), [path]);
        assert!(due.is_empty());
    }

    proptest! {
        /// A file that is written all the time is looked at all the same.
        #[test]
        fn no_path_waits_longer_than_the_bound(pauses in proptest::collection::vec(1u64..100, 1..400)) {
            let begun = start();
            let mut now = begun;
            let mut due = DuePaths::new(SETTLE);
            due.touch(Path::new("/a"), now);
            for pause in pauses {
                now += Duration::from_millis(pause);
                if !due.take(now).is_empty() {
                    break;
                }
                prop_assert!(now.duration_since(begun) <= SETTLE * MAX_SETTLES);
                due.touch(Path::new("/a"), now);
            }
        }
    }
}
