//! Which paths are to be looked at, and when: writes in progress are waited for, but not for ever.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::events::Happened;

/// Longest that a path which never falls quiet is left alone, in settling times.
const MAX_SETTLES: u32 = 20;

/// Time that a writer which has not closed its file has for the next write.
const WRITER_PATIENCE: Duration = Duration::from_millis(200);

/// Longest that a file which is written all the time is left alone.
const LONGEST_WRITE: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Due {
    at: Instant,
    /// When it must be looked at, whatever happens meanwhile.
    latest: Instant,
    happened: Happened,
}

/// The paths that wait.
#[derive(Debug)]
pub struct DuePaths {
    settle: Duration,
    paths: HashMap<Arc<Path>, Due>,
    /// Each waiting path once, with a time at which it is worth asking again.
    order: BinaryHeap<Reverse<(Instant, Arc<Path>)>>,
}

impl DuePaths {
    /// Nothing waits; a path is looked at when it was quiet for `settle`.
    #[must_use]
    pub fn new(settle: Duration) -> Self {
        Self { settle, paths: HashMap::new(), order: BinaryHeap::new() }
    }

    /// Changes the settling time of what comes from now on.
    pub fn set_settle(&mut self, settle: Duration) {
        self.settle = settle;
    }

    /// Something happened to this path.
    pub fn touch(&mut self, path: &Path, happened: Happened, now: Instant) {
        let (quiet, longest) = if happened.finished {
            (self.settle, self.settle * MAX_SETTLES)
        } else {
            (self.settle.max(WRITER_PATIENCE), (self.settle * MAX_SETTLES).max(LONGEST_WRITE))
        };
        self.add(path, happened, now + quiet, now + longest);
    }

    /// Looks at this path without waiting for quiet.
    pub fn hurry(&mut self, path: &Path, happened: Happened, now: Instant) {
        self.add(path, happened, now, now);
    }

    /// Looks at this path again after a while, or earlier when something happens to it.
    pub fn postpone(&mut self, path: &Path, happened: Happened, until: Instant) {
        self.add(path, happened, until, until);
    }

    fn add(&mut self, path: &Path, happened: Happened, quiet: Instant, latest: Instant) {
        match self.paths.get_mut(path) {
            Some(due) => {
                due.happened.merge(happened);
                due.latest = due.latest.min(latest);
                let at = quiet.min(due.latest);
                if at < due.at {
                    self.order.push(Reverse((at, path.into())));
                }
                due.at = at;
            }
            None => {
                let path: Arc<Path> = path.into();
                self.order.push(Reverse((quiet, path.clone())));
                self.paths.insert(path, Due { at: quiet, latest, happened });
            }
        }
    }

    /// Takes at most `most` paths whose time has come, in order of their names: a directory before what is in it.
    pub fn take(&mut self, now: Instant, most: usize) -> Vec<(PathBuf, Happened)> {
        let mut ready = Vec::new();
        while ready.len() < most && self.order.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, path))) = self.order.pop() else { break };
            match self.paths.get(&path) {
                Some(due) if due.at <= now => {
                    if let Some((path, due)) = self.paths.remove_entry(&path) {
                        ready.push((path.to_path_buf(), due.happened));
                    }
                }
                Some(due) => self.order.push(Reverse((due.at, path))),
                // It was taken at an earlier time that it had in between.
                None => {}
            }
        }
        ready.sort_by(|one, other| one.0.cmp(&other.0));
        ready
    }

    /// Takes one path out before its time.
    pub fn remove(&mut self, path: &Path) -> Option<Happened> {
        self.paths.remove(path).map(|due| due.happened)
    }

    /// Whether this path waits.
    #[must_use]
    pub fn contains(&self, path: &Path) -> bool {
        self.paths.contains_key(path)
    }

    /// Time until it is worth calling [`DuePaths::take`] again; `None` when nothing waits.
    #[must_use]
    pub fn next(&self, now: Instant) -> Option<Duration> {
        self.order.peek().map(|Reverse((at, _))| at.saturating_duration_since(now))
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

    fn finished() -> Happened {
        Happened { finished: true, ..Happened::default() }
    }

    fn paths(taken: Vec<(PathBuf, Happened)>) -> Vec<PathBuf> {
        taken.into_iter().map(|(path, _)| path).collect()
    }

    #[test]
    fn one_save_in_many_writes_is_looked_at_once_when_it_is_quiet() {
        let now = start();
        let mut due = DuePaths::new(SETTLE);
        let path = Path::new("/a");
        due.touch(path, finished(), now);
        due.touch(path, finished(), now + SETTLE / 2);

        assert!(due.take(now + SETTLE, 9).is_empty());
        assert_eq!(paths(due.take(now + SETTLE * 3 / 2, 9)), [path]);
        assert!(due.is_empty());
        assert_eq!(due.take(now + SETTLE * 9, 9), []);
    }

    #[test]
    fn without_settling_time_a_closed_file_is_looked_at_at_once_and_an_open_one_is_waited_for() {
        let now = start();
        let mut due = DuePaths::new(Duration::ZERO);
        due.touch(Path::new("/open"), Happened::default(), now);
        due.touch(Path::new("/closed"), finished(), now);

        assert_eq!(paths(due.take(now, 9)), [Path::new("/closed")]);
        due.touch(Path::new("/open"), finished(), now);
        assert_eq!(paths(due.take(now, 9)), [Path::new("/open")]);
    }

    #[test]
    fn no_more_than_asked_for_are_taken_and_the_others_stay() {
        let now = start();
        let mut due = DuePaths::new(Duration::ZERO);
        for name in ["/c", "/a", "/b"] {
            due.touch(Path::new(name), finished(), now);
        }

        assert_eq!(due.take(now, 2).len(), 2);
        assert_eq!(due.next(now), Some(Duration::ZERO));
        assert_eq!(due.take(now, 2).len(), 1);
        assert_eq!(due.next(now), None);
    }

    proptest! {
        /// A file that is written all the time is looked at all the same.
        #[test]
        fn no_path_waits_longer_than_the_bound(
            events in proptest::collection::vec((1u64..100, any::<bool>()), 1..400),
        ) {
            let begun = start();
            let mut now = begun;
            let mut due = DuePaths::new(SETTLE);
            due.touch(Path::new("/a"), finished(), now);
            for (pause, finished) in events {
                now += Duration::from_millis(pause);
                if !due.take(now, 9).is_empty() {
                    break;
                }
                prop_assert!(now.duration_since(begun) <= SETTLE * MAX_SETTLES);
                due.touch(Path::new("/a"), Happened { finished, ..Happened::default() }, now);
            }
        }

        /// Whatever is touched and postponed is taken exactly once for each time it began to wait.
        #[test]
        fn every_path_comes_out_and_none_twice(
            steps in proptest::collection::vec((0u8..5, 0u64..300, 0u8..4), 1..200),
        ) {
            let mut now = start();
            let mut due = DuePaths::new(SETTLE);
            let mut waiting = std::collections::BTreeSet::new();
            for (name, pause, what) in steps {
                let path = PathBuf::from(format!("/{name}"));
                match what {
                    0 => due.postpone(&path, finished(), now + Duration::from_secs(1)),
                    1 => due.touch(&path, Happened::default(), now),
                    _ => due.touch(&path, finished(), now),
                }
                waiting.insert(path);
                now += Duration::from_millis(pause);
                for path in paths(due.take(now, 2)) {
                    prop_assert!(waiting.remove(&path));
                }
                prop_assert_eq!(due.len(), waiting.len());
            }
            now += Duration::from_secs(60);
            let rest = paths(due.take(now, 9));
            prop_assert_eq!(rest, waiting.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(due.next(now), None);
        }
    }
}
