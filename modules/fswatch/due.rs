//! Which paths are to be looked at, and when: writes in progress are waited for, but not for ever.

mod lanes;

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::lanes::DueLanes;
use crate::events::Happened;
use crate::waiting::bytes_of;

/// Longest that a path which never falls quiet is left alone, in settling times from its first event on: whoever makes
/// the events does not decide when it is looked at.
const MAX_SETTLES: u32 = 2;

/// Time that a writer which has not closed its file has for the next write.
const WRITER_PATIENCE: Duration = Duration::from_millis(200);

/// Longest that a file which is written all the time is left alone.
const LONGEST_WRITE: Duration = Duration::from_millis(800);

/// Bytes of paths that are taken together.
const TAKEN_BYTES: usize = 32 * 1024;

/// Times at which paths are asked for that do not wait any more, beyond as many as there are paths.
const MAX_STALE: usize = 1_024;

/// Nanoseconds of a millisecond.
const MILLISECOND: u128 = 1_000_000;

/// A path that is found by its bytes: taken name by name, as paths are, it costs more than all else that is done with
/// one.
#[derive(Debug, Clone)]
struct Key(Arc<Path>);

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        in_order(&self.0) == in_order(&other.0)
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        in_order(&self.0).hash(state);
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        in_order(&self.0)
    }
}

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
    paths: HashMap<Key, Due>,
    /// What they take.
    bytes: usize,
    /// A moment that `order` counts from.
    begun: Option<Instant>,
    /// Each waiting path once, at a time when it is worth asking again: in a millisecond that has begun, or the first
    /// one that begins after its time. A burst puts thousands into one, which costs less than keeping them all in
    /// order.
    order: BTreeMap<i64, Vec<Arc<Path>>>,
    /// Those whose millisecond has come and that were not asked yet.
    ripe: VecDeque<Arc<Path>>,
    /// How many are in both, with those that were taken at an earlier time.
    asked: usize,
}

impl DuePaths {
    /// Nothing waits; a path is looked at when it was quiet for `settle`.
    #[must_use]
    pub fn new(settle: Duration) -> Self {
        let (order, ripe) = (BTreeMap::new(), VecDeque::new());
        Self { settle, paths: HashMap::new(), bytes: 0, begun: None, order, ripe, asked: 0 }
    }

    /// Changes the settling time of what comes from now on.
    pub(crate) fn set_settle(&mut self, settle: Duration) {
        self.settle = settle;
    }

    /// Something happened to this path.
    pub fn touch(&mut self, path: &Path, happened: Happened, now: Instant) {
        let (quiet, longest) = if happened.finished {
            (self.settle, self.settle * MAX_SETTLES)
        } else {
            (self.settle.max(WRITER_PATIENCE), (self.settle * MAX_SETTLES).max(LONGEST_WRITE))
        };
        self.add(path, happened, now + quiet, now + longest, now);
    }

    /// Looks at this path without waiting for quiet.
    pub fn hurry(&mut self, path: &Path, happened: Happened, now: Instant) {
        self.add(path, happened, now, now, now);
    }

    /// Looks at this path again after a while, or earlier when something happens to it.
    pub(crate) fn postpone(&mut self, path: &Path, happened: Happened, until: Instant) {
        self.add(path, happened, until, until, until);
    }

    /// `now` may be later than it is, but not later than the path is wanted.
    fn add(&mut self, path: &Path, happened: Happened, quiet: Instant, latest: Instant, now: Instant) {
        if self.asked > 2 * self.paths.len() + MAX_STALE {
            self.put_anew(now);
        }
        match self.paths.get_mut(in_order(path)) {
            Some(due) => {
                let length = path.as_os_str().len();
                self.bytes -= bytes_of(length, &due.happened);
                due.happened.merge(happened);
                self.bytes += bytes_of(length, &due.happened);
                due.latest = due.latest.min(latest);
                let at = quiet.min(due.latest);
                let is_earlier = at < due.at;
                due.at = at;
                if is_earlier {
                    self.put(at, now, path.into());
                }
            }
            None => {
                self.bytes += bytes_of(path.as_os_str().len(), &happened);
                let path: Arc<Path> = path.into();
                self.put(quiet, now, path.clone());
                self.paths.insert(Key(path), Due { at: quiet, latest, happened });
            }
        }
    }

    /// Asks for a path again at a time.
    fn put(&mut self, at: Instant, now: Instant, path: Arc<Path>) {
        let begun = *self.begun.get_or_insert(at);
        // What is wanted at once does not wait for the next millisecond.
        let is_wanted_now = at <= now;
        let number = match at.checked_duration_since(begun) {
            Some(after) if is_wanted_now => after.as_nanos() / MILLISECOND,
            Some(after) => after.as_nanos().div_ceil(MILLISECOND),
            None => 0,
        };
        let before = match begun.checked_duration_since(at) {
            Some(before) if is_wanted_now => before.as_nanos().div_ceil(MILLISECOND),
            Some(before) => before.as_nanos() / MILLISECOND,
            None => 0,
        };
        let number = i64::try_from(number).unwrap_or(i64::MAX) - i64::try_from(before).unwrap_or(i64::MAX);
        self.order.entry(number).or_default().push(path);
        self.asked += 1;
    }

    /// Asks for each path once. Whoever has something looked at again and again before its time leaves nothing behind.
    fn put_anew(&mut self, now: Instant) {
        (self.order, self.ripe, self.asked) = (BTreeMap::new(), VecDeque::new(), 0);
        let all: Vec<_> = self.paths.iter().map(|(path, due)| (due.at, Arc::clone(&path.0))).collect();
        for (at, path) in all {
            self.put(at, now, path);
        }
    }

    /// When a millisecond of `order` begins.
    fn beginning(&self, number: i64) -> Option<Instant> {
        let distance = Duration::from_millis(number.unsigned_abs());
        let begun = self.begun?;
        if number < 0 { begun.checked_sub(distance) } else { begun.checked_add(distance) }
    }

    /// Takes at most `most` paths whose time has come, in order of their names: a directory before what is in it.
    ///
    /// They are fewer when they are long: what is done with one takes longer then.
    pub fn take(&mut self, now: Instant, most: usize) -> Vec<(PathBuf, Happened)> {
        let mut bytes = 0;
        let mut ready = Vec::new();
        while ready.len() < most && bytes < TAKEN_BYTES {
            let Some(path) = self.ripe.pop_front().or_else(|| self.ripen(now)) else { break };
            self.asked -= 1;
            match self.paths.get(in_order(&path)) {
                Some(due) if due.at <= now => {
                    if let Some(due) = self.paths.remove(in_order(&path)) {
                        self.bytes -= bytes_of(path.as_os_str().len(), &due.happened);
                        bytes += path.as_os_str().len();
                        ready.push((path.to_path_buf(), due.happened));
                    }
                }
                Some(due) => {
                    let at = due.at;
                    self.put(at, now, path);
                }
                // It was taken at an earlier time that it had in between.
                None => {}
            }
        }
        ready.sort_by(|(one, _), (other, _)| in_order(one).cmp(in_order(other)));
        if self.paths.is_empty() {
            // What a burst needed is not kept for ever.
            self.paths.shrink_to(0);
            self.ripe.shrink_to(0);
        }
        ready
    }

    /// Takes the paths of the next millisecond that has begun; gives the first.
    fn ripen(&mut self, now: Instant) -> Option<Arc<Path>> {
        let (number, _) = self.order.first_key_value()?;
        // One that no clock can show is over.
        if self.beginning(*number).is_some_and(|beginning| beginning > now) {
            return None;
        }
        let (_, mut paths) = self.order.pop_first()?;
        // They may be more than are taken together.
        paths.sort_by(|one, other| in_order(one).cmp(in_order(other)));
        self.ripe.extend(paths);
        self.ripe.pop_front()
    }

    /// Adds to what happened to a path, if it waits.
    pub(crate) fn add_to(&mut self, path: &Path, happened: &Happened) {
        if let Some(due) = self.paths.get_mut(in_order(path)) {
            let length = path.as_os_str().len();
            self.bytes -= bytes_of(length, &due.happened);
            due.happened.merge(happened.clone());
            self.bytes += bytes_of(length, &due.happened);
        }
    }

    /// What happened to a path that waits.
    pub(crate) fn happened(&self, path: &Path) -> Option<&Happened> {
        self.paths.get(in_order(path)).map(|due| &due.happened)
    }

    /// Takes one path out before its time.
    pub fn remove(&mut self, path: &Path) -> Option<Happened> {
        let happened = self.paths.remove(in_order(path))?.happened;
        self.bytes -= bytes_of(path.as_os_str().len(), &happened);
        Some(happened)
    }

    /// Since when the path that is overdue longest should have been taken.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> Option<(Duration, Arc<Path>)> {
        let late = self.paths.iter().filter(|(_, due)| due.at < now);
        let (path, due) = late.min_by_key(|(_, due)| due.at)?;
        Some((now.duration_since(due.at), Arc::clone(&path.0)))
    }

    /// Whether this path waits.
    #[must_use]
    pub fn contains(&self, path: &Path) -> bool {
        self.paths.contains_key(in_order(path))
    }

    /// Time until it is worth calling [`DuePaths::take`] again; `None` when nothing waits.
    #[must_use]
    pub fn next(&self, now: Instant) -> Option<Duration> {
        if !self.ripe.is_empty() {
            return Some(Duration::ZERO);
        }
        let (number, _) = self.order.first_key_value()?;
        Some(
            self.beginning(*number)
                .map_or(Duration::ZERO, |beginning| beginning.saturating_duration_since(now)),
        )
    }

    /// About how many bytes they take.
    #[must_use]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
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

/// What stands for a path when many are put in order: a directory's bytes are the beginning of those of what is in it.
fn in_order(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
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
    fn what_is_looked_at_before_its_time_leaves_nothing_behind() {
        let now = start();
        let mut due = DuePaths::new(SETTLE);
        let path = Path::new("/a");
        due.postpone(Path::new("/later"), finished(), now + SETTLE);
        for _ in 0..100 * MAX_STALE {
            due.postpone(path, finished(), now + SETTLE * 3_000);
            due.hurry(path, finished(), now);
            assert_eq!(paths(due.take(now, 9)), [path]);
        }

        let asked: usize = due.order.values().map(Vec::len).sum();
        assert!(asked <= MAX_STALE + 9, "{asked}");
        assert_eq!(paths(due.take(now + SETTLE, 9)), [Path::new("/later")]);
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
    fn what_comes_later_can_be_due_earlier() {
        let now = start();
        let mut due = DuePaths::new(SETTLE);
        due.postpone(Path::new("/busy"), finished(), now + Duration::from_secs(5));
        due.touch(Path::new("/a"), finished(), now);

        assert_eq!(due.next(now), Some(SETTLE));
        assert_eq!(paths(due.take(now + SETTLE, 9)), [Path::new("/a")]);
        due.hurry(Path::new("/busy"), finished(), now + SETTLE);
        assert_eq!(paths(due.take(now + SETTLE, 9)), [Path::new("/busy")]);
        assert!(due.is_empty());
    }

    #[test]
    fn a_directory_is_taken_before_what_is_in_it_however_many_come_at_once() {
        let now = start();
        let mut due = DuePaths::new(Duration::ZERO);
        for path in ["/d/a/x", "/d!", "/d/a", "/d", "/d/b"] {
            due.touch(Path::new(path), finished(), now);
        }

        assert_eq!(paths(due.take(now, 2)), [Path::new("/d"), Path::new("/d!")]);
        assert_eq!(paths(due.take(now, 9)), [Path::new("/d/a"), Path::new("/d/a/x"), Path::new("/d/b")]);
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
                prop_assert_eq!(due.bytes(), waiting.len() * bytes_of(2, &finished()));
            }
            now += Duration::from_secs(60);
            let rest = paths(due.take(now, 9));
            prop_assert_eq!(rest, waiting.into_iter().collect::<Vec<_>>());
            prop_assert_eq!(due.next(now), None);
        }
    }
}
