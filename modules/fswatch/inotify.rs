//! The backend that needs no privileges: inotify(7), a watch for each directory.
//!
//! A thread of its own reads the kernel's queue and does nothing but merge events into the mailbox.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io;
use std::ops::Bound;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};
use rustix::event::PollFlags;
use rustix::fs::OFlags;

use crate::avoided::{Avoided, path_of};
use crate::ending::{Ending, Owner, Rest, ending};
use crate::events::{Happened, Mailbox, Named};
use crate::trust::{Lane, NOBODY};
use crate::waiting::WATCHED;

/// Room for events in one read, in bytes. The kernel's queue holds 16,384 events by default.
const READ_BYTES: usize = 256 * 1024;

/// Length of the kernel's queue from which on the reader may rest: a tenth of it is filled meanwhile at most.
const RESTING_QUEUE: usize = 8_192;

/// To whom what happens in a directory is accounted, where that is not [`NOBODY`].
type Lanes = Arc<Mutex<HashMap<WatchDescriptor, Lane>>>;

/// Watches directories. Watches end with it.
#[derive(Debug)]
pub struct Watcher {
    watches: Watches,
    avoided: Avoided,
    map: WatchMap,
    /// Watches of directories that root alone can change; the others' events have the share of whoever can.
    lanes: Lanes,
    /// Its reader ends with it.
    _owner: Owner,
}

impl Watcher {
    /// Begins to watch nothing.
    ///
    /// # Errors
    /// When the kernel gives no inotify instance (`fs.inotify.max_user_instances`) or no thread.
    pub(crate) fn start(mailbox: Mailbox, avoided: Avoided) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let may_rest = queue_length() >= RESTING_QUEUE;
        let watches = inotify.watches();
        let (owner, end) = ending()?;
        let lanes = Lanes::default();
        let known = Arc::clone(&lanes);
        std::thread::Builder::new()
            .name("inotify".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || read_events(inotify, &mailbox, &end, may_rest, &known))?;
        Ok(Self { watches, avoided, map: WatchMap::default(), lanes, _owner: owner })
    }

    /// Watches a directory for what happens to it and in it; does nothing when it is watched already.
    ///
    /// # Errors
    /// When it is no directory, when the limit of watches (`fs.inotify.max_user_watches`) is reached, or when a user's
    /// directories take too much memory by their paths.
    pub fn add(&mut self, directory: &Path, lane: Lane) -> io::Result<()> {
        if !self.map.has_room(directory, lane) {
            return Err(io::Error::other(
                "the paths of the user's directories take too much memory; scans find what changes there",
            ));
        }
        let mask = WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MODIFY
            | WatchMask::CLOSE_WRITE
            | WatchMask::ATTRIB
            | WatchMask::MOVE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        // A second call for the same directory gives the same descriptor; one for another directory under the
        // same path gives a new one.
        let open = self.avoided.open(directory, OFlags::PATH | OFlags::DIRECTORY)?;
        // That the directory is gone was said above: here only /proc can be missing.
        let watch = self.watches.add(path_of(&open), mask).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::other("it cannot be watched without /proc"),
            _ => error,
        })?;
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).insert(watch.clone(), lane);
        self.map.insert(directory, watch, lane);
        Ok(())
    }

    /// Whether there is a watch for this path.
    #[must_use]
    pub fn is_watched(&self, directory: &Path) -> bool {
        self.map.by_path.contains_key(directory.as_os_str().as_bytes())
    }

    /// The paths of what an event is about; several where a directory is mounted in several places.
    #[must_use]
    pub fn paths(&self, watch: &WatchDescriptor, name: Option<&OsString>) -> Vec<PathBuf> {
        let directories = self.map.by_watch.get(watch).map(Vec::as_slice).unwrap_or_default();
        directories
            .iter()
            .map(|directory| name.map_or_else(|| directory.to_path_buf(), |name| directory.join(name)))
            .collect()
    }

    /// Forgets a watch that the kernel ended.
    pub fn forget(&mut self, watch: &WatchDescriptor) {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).remove(watch);
        self.map.forget(watch);
    }

    /// Ends the watches of a directory and everything below it.
    pub(crate) fn remove_tree(&mut self, directory: &Path) {
        for watch in self.map.take_tree(directory) {
            // Fails when the directory is gone, and then the watch is as well.
            self.watches.remove(watch).ok();
        }
    }

    /// Ends the watches that are not needed.
    pub fn retain(&mut self, needed: impl Fn(&Path) -> bool) {
        let surplus: Vec<_> = self.map.by_path.keys().filter(|path| !needed(&path.0)).cloned().collect();
        for watch in self.map.take(surplus) {
            self.watches.remove(watch).ok();
        }
    }

    /// Number of watches.
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.by_path.len()
    }

    /// Whether nothing is watched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.by_path.is_empty()
    }
}

#[expect(clippy::disallowed_methods, reason = "this thread lives in real time")]
fn now() -> Instant {
    Instant::now()
}

/// The length of a queue that was made just now (inotify(7), `/proc/sys/fs/inotify/max_queued_events`); 0 when it is
/// not known.
fn queue_length() -> usize {
    let text = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap_or_default();
    text.trim().parse().unwrap_or_default()
}

fn read_events(mut inotify: Inotify, mailbox: &Mailbox, end: &Ending, may_rest: bool, lanes: &Lanes) {
    let mut buffer = vec![0; READ_BYTES];
    // The first half of a rename, which the kernel tells right before the second.
    let mut moving: Option<(u32, Named)> = None;
    let mut rest = Rest::new(now());
    loop {
        let ready = end.wait(inotify.as_fd(), PollFlags::IN);
        if matches!(ready, Ok(false)) {
            return;
        }
        let Ok(events) = ready.and_then(|_| inotify.read_events(&mut buffer)) else {
            // The descriptor is ours and the buffer large enough: only a broken kernel gets here. Everything may
            // have changed, and whoever waits must learn of it.
            mailbox.open().overflowed("inotify can no longer be read");
            return;
        };
        let mut batch = mailbox.open();
        let mut count = 0;
        for event in events {
            count += 1;
            if event.mask.contains(EventMask::Q_OVERFLOW) {
                batch.overflowed("inotify's queue overflowed (fs.inotify.max_queued_events)");
            } else if event.mask.contains(EventMask::IGNORED) {
                batch.ended(event.wd);
            } else {
                let happened = Happened {
                    // A new file is written to next; a new directory is complete as it is.
                    finished: !event.mask.contains(EventMask::MODIFY)
                        && (!event.mask.contains(EventMask::CREATE) || event.mask.contains(EventMask::ISDIR)),
                    directory: event.mask.contains(EventMask::ISDIR)
                        || event.mask.intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF),
                    appeared: event.mask.intersects(EventMask::CREATE | EventMask::MOVED_TO),
                    closed: event.mask.intersects(EventMask::CLOSE_WRITE | EventMask::MOVED_TO),
                    written: event.mask.intersects(EventMask::MODIFY | EventMask::CLOSE_WRITE),
                    ..Happened::default()
                };
                if let Some(name) = event.name {
                    if event.mask.contains(EventMask::MOVED_FROM) {
                        moving = Some((event.cookie, (event.wd.clone(), name.to_owned())));
                    } else if event.mask.contains(EventMask::MOVED_TO)
                        && let Some((cookie, from)) = moving.take()
                        && cookie == event.cookie
                    {
                        batch.moved(from, (event.wd.clone(), name.to_owned()));
                    }
                }
                let lane = lanes.lock().unwrap_or_else(PoisonError::into_inner).get(&event.wd).copied();
                let lane = lane.unwrap_or(Lane::Of(NOBODY));
                batch.watch(lane, event.wd, event.name.map(OsString::from), happened);
            }
        }
        drop(batch);
        if may_rest && rest.is_due(count, now()) && !end.rest().unwrap_or(true) {
            return;
        }
    }
}

/// A path that is kept in the order of its bytes: compared name by name, as paths are, a hundred thousand of them would
/// cost more than their watches.
#[derive(Debug, Clone)]
struct Watched(Arc<Path>);

impl PartialEq for Watched {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Watched {}

impl Ord for Watched {
    fn cmp(&self, other: &Self) -> Ordering {
        let bytes: &[u8] = self.borrow();
        bytes.cmp(other.borrow())
    }
}

impl PartialOrd for Watched {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Borrow<[u8]> for Watched {
    fn borrow(&self) -> &[u8] {
        self.0.as_os_str().as_bytes()
    }
}

/// Which directory each watch is for, and the other way round. The kernel knows directories by inode: one that is
/// mounted twice has several paths and a single watch.
#[derive(Debug, Default)]
struct WatchMap {
    by_path: BTreeMap<Watched, (WatchDescriptor, Lane)>,
    by_watch: HashMap<WatchDescriptor, Vec<Arc<Path>>>,
    /// What the directories of each user take.
    bytes: BTreeMap<u32, usize>,
}

/// About what it takes to keep a directory.
fn bytes_of(directory: &Path) -> usize {
    const ITSELF: usize = 192;
    ITSELF + directory.as_os_str().len()
}

impl WatchMap {
    /// Whether one more directory may be kept that this lane can make. One that is known already takes nothing more.
    fn has_room(&self, directory: &Path, lane: Lane) -> bool {
        let Lane::Of(user) = lane else { return true };
        let more = bytes_of(directory);
        let its = self.bytes.get(&user).copied().unwrap_or_default();
        let all: usize = self.bytes.values().sum();
        its + more <= WATCHED.of_user && all + more <= WATCHED.of_users
            || self.by_path.contains_key(directory.as_os_str().as_bytes())
    }

    /// A directory is kept, or no longer.
    fn count(&mut self, directory: &Path, lane: Lane, is_kept: bool) {
        let Lane::Of(user) = lane else { return };
        let its = self.bytes.entry(user).or_default();
        *its = if is_kept { *its + bytes_of(directory) } else { *its - bytes_of(directory) };
        if *its == 0 {
            self.bytes.remove(&user);
        }
    }

    fn insert(&mut self, directory: &Path, watch: WatchDescriptor, lane: Lane) {
        let directory: Arc<Path> = directory.into();
        match self.by_watch.get_mut(&watch) {
            Some(paths) if paths.contains(&directory) => {}
            Some(paths) => paths.push(Arc::clone(&directory)),
            None => _ = self.by_watch.insert(watch.clone(), vec![Arc::clone(&directory)]),
        }
        let old = self.by_path.insert(Watched(Arc::clone(&directory)), (watch.clone(), lane));
        self.count(&directory, lane, true);
        if let Some((old, its_lane)) = old {
            self.count(&directory, its_lane, false);
            if old != watch {
                self.separate(&old, &directory);
            }
        }
    }

    fn forget(&mut self, watch: &WatchDescriptor) {
        for path in self.by_watch.remove(watch).unwrap_or_default() {
            let bytes = path.as_os_str().as_bytes();
            if self.by_path.get(bytes).is_some_and(|(its, _)| its == watch)
                && let Some((_, lane)) = self.by_path.remove(bytes)
            {
                self.count(&path, lane, false);
            }
        }
    }

    /// Takes one path from a watch; whether none is left.
    fn separate(&mut self, watch: &WatchDescriptor, path: &Path) -> bool {
        let Some(paths) = self.by_watch.get_mut(watch) else { return false };
        paths.retain(|known| **known != *path);
        let is_unused = paths.is_empty();
        if is_unused {
            self.by_watch.remove(watch);
        }
        is_unused
    }

    /// Takes out a directory and everything below it; returns the watches that no path is left for.
    fn take_tree(&mut self, directory: &Path) -> Vec<WatchDescriptor> {
        let bytes = directory.as_os_str().as_bytes();
        // Other names stand between a directory and what is in it.
        let below = if bytes == b"/" { bytes.to_vec() } else { [bytes, b"/"].concat() };
        let itself = self.by_path.get_key_value(bytes).into_iter();
        let inside = self
            .by_path
            .range::<[u8], _>((Bound::Excluded(below.as_slice()), Bound::Unbounded))
            .take_while(|(path, _)| Borrow::<[u8]>::borrow(*path).starts_with(&below));
        let paths: Vec<_> = itself.chain(inside).map(|(path, _)| path.clone()).collect();
        self.take(paths)
    }

    fn take(&mut self, paths: Vec<Watched>) -> Vec<WatchDescriptor> {
        let mut unused = Vec::new();
        for path in paths {
            let Some((watch, lane)) = self.by_path.remove(&path) else { continue };
            self.count(&path.0, lane, false);
            if self.separate(&watch, &path.0) {
                unused.push(watch);
            }
        }
        unused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_taken_out_with_all_that_is_in_it_and_nothing_beside_it() {
        let temp = tempfile::tempdir().unwrap();
        let mut watcher = Watcher::start(Mailbox::default(), Avoided::default()).unwrap();
        let names = ["d", "d/e", "d/e/f", "d!", "d.x", "da", "c"];
        for name in names {
            std::fs::create_dir_all(temp.path().join(name)).unwrap();
            watcher.add(&temp.path().join(name), Lane::Trusted).unwrap();
            watcher.add(&temp.path().join(name), Lane::Trusted).unwrap();
        }
        assert_eq!(watcher.len(), names.len());

        watcher.remove_tree(&temp.path().join("d"));

        let watched = |name: &&&str| watcher.is_watched(&temp.path().join(name));
        assert_eq!(names.iter().filter(watched).collect::<Vec<_>>(), [&"d!", &"d.x", &"da", &"c"]);
        assert_eq!(watcher.map.by_watch.len(), 4);
        watcher.remove_tree(Path::new("/"));
        assert!(watcher.is_empty() && watcher.map.by_watch.is_empty());
    }

    /// Of a user's directories with very long paths only so many are kept as have room; what root alone can change
    /// always is.
    #[test]
    fn a_users_long_paths_take_no_more_than_a_bound_and_make_room_when_they_go() {
        let temp = tempfile::tempdir().unwrap();
        let mut watcher = Watcher::start(Mailbox::default(), Avoided::default()).unwrap();
        watcher.add(temp.path(), Lane::Of(7)).unwrap();
        let (_, (watch, _)) = watcher.map.by_path.first_key_value().unwrap();
        let (watch, mut map) = (watch.clone(), WatchMap::default());
        let path =
            |user: u32, number: usize| PathBuf::from(format!("/home/{user}{}/{number}", "/d".repeat(1900)));
        let fill = |map: &mut WatchMap, user: u32| {
            let mut count = 0;
            while map.has_room(&path(user, count), Lane::Of(user)) {
                map.insert(&path(user, count), watch.clone(), Lane::Of(user));
                count += 1;
            }
            count
        };

        let of_one = fill(&mut map, 7);
        let of_others = fill(&mut map, 8) + fill(&mut map, 9);

        assert!((WATCHED.of_user - 4096..=WATCHED.of_user).contains(&map.bytes[&7]), "{:?}", map.bytes);
        assert!(map.bytes.values().sum::<usize>() <= WATCHED.of_users && of_others < of_one);
        assert!(map.has_room(&path(7, 0), Lane::Of(7)) && map.has_room(&path(0, 0), Lane::Trusted));
        map.take_tree(Path::new("/home/7"));
        assert!(map.has_room(&path(8, of_one), Lane::Of(8)));
        map.forget(&watch);
        assert_eq!((map.by_path.len(), map.bytes.len()), (0, 0));
    }
}
