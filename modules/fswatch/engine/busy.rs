//! Directories in which more happened than can be told by name: they are compared with what is known of them, in turns
//! of who can make names there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Engine, Sink, now};
use crate::events::Happened;
use crate::trust::Lane;
use crate::waiting::{BUSY, BusyDirectories, Extent};

/// Time after which such a directory is compared.
const PAUSE: Duration = Duration::from_secs(1);

/// Time after which it is asked again which are to be compared, while some are noted.
const ASKED_AGAIN: Duration = Duration::from_millis(100);

/// Comparisons under way for that.
const MAX_SCANS: usize = 4;

/// The directories, by who can make names in them.
#[derive(Debug, Default)]
pub(super) struct Busy {
    lanes: BTreeMap<Lane, BusyDirectories<Instant>>,
    /// Whose was compared last.
    last: Option<Lane>,
    /// When to ask which are to be compared.
    next: Option<Instant>,
}

impl Busy {
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// How many they are.
    pub(super) fn len(&self) -> usize {
        self.lanes.values().map(BusyDirectories::len).sum()
    }

    /// About how many bytes they take.
    pub(super) fn bytes(&self) -> usize {
        self.lanes.values().map(BusyDirectories::bytes).sum()
    }

    /// Time until it is to be asked which are to be compared.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        self.next.map(|next| next.saturating_duration_since(now))
    }

    fn note(&mut self, lane: Lane, directory: PathBuf, extent: Extent, now: Instant) {
        self.next.get_or_insert(now + PAUSE);
        let its = self.lanes.entry(lane).or_default();
        its.add(directory, extent, now);
        if its.bytes() > BUSY.of_user {
            its.widen(BUSY.of_user / 2);
        }
        // Whoever has most makes room.
        if self.bytes() > BUSY.of_users
            && let Some(most) = self.lanes.values_mut().max_by_key(|its| its.bytes())
        {
            most.widen(most.bytes() / 2);
        }
    }

    /// Takes the next one that is wanted, in turns.
    fn take(&mut self, wanted: impl Fn(&Path, Instant) -> bool) -> Option<(PathBuf, Extent)> {
        let after = |lane: &Lane| self.last.is_some_and(|last| *lane <= last);
        let (before, rest): (Vec<Lane>, Vec<Lane>) = self.lanes.keys().partition(|lane| after(lane));
        for lane in rest.into_iter().chain(before) {
            let Some(its) = self.lanes.get_mut(&lane) else { continue };
            let found = its.iter().find(|(path, _, since)| wanted(path, *since));
            let Some(path) = found.map(|(path, ..)| path.to_owned()) else { continue };
            let taken = its.remove(&path);
            if its.is_empty() {
                self.lanes.remove(&lane);
            }
            self.last = Some(lane);
            return taken.map(|(extent, _)| (path, extent));
        }
        None
    }
}

impl<S: Sink> Engine<S> {
    /// More happened in a directory than can be told by name.
    pub(super) fn note_busy_directory(&mut self, directory: PathBuf, extent: Extent) {
        let lane = self.lane_of_names(&directory);
        self.busy.note(lane, directory, extent, now());
    }

    /// There is no room for one path more by its name: its directory is compared, and all that is in it when it came.
    pub(super) fn note_busy_path(&mut self, path: &Path, happened: &Happened) {
        if let Some(directory) = path.parent() {
            self.note_busy_directory(directory.to_owned(), Extent::Names);
        }
        if happened.directory && happened.appeared {
            self.note_busy_directory(path.to_owned(), Extent::Tree);
        }
    }

    /// Compares the busy directories whose time has come.
    pub(super) fn compare_busy(&mut self) {
        let now = now();
        if self.busy.next.is_none_or(|next| next > now) {
            return;
        }
        let under_way = self.scans.values().filter(|scan| scan.is_for_busy()).count();
        for _ in under_way..MAX_SCANS {
            let scans = &self.scans;
            // What is being compared now is compared once more afterwards.
            let is_ready = |path: &Path, since: Instant| {
                now.duration_since(since) >= PAUSE && !scans.values().any(|scan| scan.is_of(path))
            };
            let Some((directory, extent)) = self.busy.take(is_ready) else { break };
            self.scan_busy(directory, extent);
        }
        self.busy.next = (!self.busy.is_empty()).then_some(now + ASKED_AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "only its differences matter, they are made here")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn whose_directories_are_most_makes_room_and_all_have_turns() {
        let (now, mut busy) = (start(), Busy::default());
        let long = "/d".repeat(1000);
        for user in 0..8 {
            for number in 0..2000 {
                let path = format!("/home/{user}{long}/{number}");
                busy.note(Lane::Of(user), path.into(), Extent::Names, now);
                assert!(busy.bytes() <= BUSY.of_users, "{}", busy.bytes());
            }
        }
        busy.note(Lane::Trusted, "/etc".into(), Extent::Names, now);

        let mut turns = Vec::new();
        while let Some((path, _)) = busy.take(|_, _| true) {
            turns.push(path);
            if turns.len() == 9 {
                break;
            }
        }
        assert_eq!(turns.remove(0), Path::new("/etc"));
        for (user, path) in turns.iter().enumerate() {
            assert!(path.starts_with(format!("/home/{user}")), "{path:?}");
        }
    }
}
