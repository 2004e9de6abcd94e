//! Which facility of the kernel watches what, and why: fanotify where it works, inotify elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::PollFlags;
use rustix::fs::{AtFlags, OFlags, StatxFlags, statx};
use rustix::io::Errno;
use vigie_host::mounts::Mounts;

use crate::avoided::Avoided;
use crate::config::Backend;
use crate::ending::{Owner, ending};
use crate::events::{Mailbox, Named};
use crate::fanotify::{FilesystemWatcher, self_test};
use crate::inotify::Watcher;
use crate::rules::Coverage;
use crate::trust::Lane;

/// Longest path that the kernel takes, in bytes: PATH_MAX without the NUL at its end.
pub(crate) const LONGEST_PATH: usize = 4_095;

/// How a file system is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Where it was met first.
    pub at: PathBuf,
    /// By fanotify, otherwise by inotify.
    pub fanotify: bool,
    /// Why not by fanotify.
    pub why: Option<String>,
}

impl Choice {
    /// The facility's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        if self.fanotify { "fanotify" } else { "inotify" }
    }
}

/// The number of the mount at a path that no other mount ever had or will have: `STATX_MNT_ID_UNIQUE`, see statx(2).
/// None on a kernel before 6.8.
fn unique_number(point: &Path, avoided: &Avoided) -> Option<u64> {
    const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);
    let point = avoided.open(point, OFlags::PATH).ok()?;
    // A server that does not answer is not asked.
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let status = statx(point, "", flags, MNT_ID_UNIQUE).ok()?;
    (status.stx_mask & MNT_ID_UNIQUE.bits() != 0).then_some(status.stx_mnt_id)
}

/// Everything that watches.
#[derive(Debug)]
pub struct Watching {
    directories: Watcher,
    filesystems: Option<FilesystemWatcher>,
    /// Why there is no fanotify at all.
    why_not: Option<String>,
    mounts: Arc<Mounts>,
    avoided: Avoided,
    choices: BTreeMap<u64, Choice>,
    /// The mounts of watched file systems, by where they are: numbers that are never given again.
    unique: BTreeMap<PathBuf, u64>,
    /// Where another file system stood in the place of the one before, though all that the mount table says is the
    /// same.
    exchanged: BTreeSet<PathBuf>,
    /// Where the same mount is as before the last change of mounts, whatever the mount table says of it: that names
    /// where in its file system a bound directory is, which changes with a rename there.
    same: BTreeSet<PathBuf>,
    /// Whoever watches the mounts ends with it.
    _mounts: Option<Owner>,
}

/// Tells when something is mounted or unmounted, see proc_pid_mountinfo(5).
fn watch_mounts(mailbox: Mailbox) -> io::Result<Owner> {
    let file = std::fs::File::open("/proc/thread-self/mountinfo")?;
    let (owner, end) = ending()?;
    std::thread::Builder::new().name("mounts".to_owned()).stack_size(64 * 1024).spawn(move || {
        loop {
            match end.wait(file.as_fd(), PollFlags::PRI) {
                Ok(true) => mailbox.open().mounts_changed(),
                // When it cannot be waited for, the quick scan finds what is mounted.
                Ok(false) | Err(_) => return,
            }
        }
    })?;
    Ok(owner)
}

impl Watching {
    /// Begins to watch nothing. `own` is the module's directory, where fanotify is tried out.
    ///
    /// # Errors
    /// When cannot create an inotify instance or a thread.
    pub fn start(mailbox: &Mailbox) -> io::Result<Self> {
        // What is mounted from now on is told.
        let watch = watch_mounts(mailbox.clone()).ok();
        let mounts = Mounts::read().unwrap_or_default();
        let avoided = Avoided::among(&mounts);
        Ok(Self {
            directories: Watcher::start(mailbox.clone(), avoided.clone())?,
            avoided,
            _mounts: watch,
            filesystems: None,
            why_not: Some("it was not requested yet".to_owned()),
            mounts: Arc::new(mounts),
            choices: BTreeMap::new(),
            unique: BTreeMap::new(),
            exchanged: BTreeSet::new(),
            same: BTreeSet::new(),
        })
    }

    /// Takes fanotify where the configuration wants it and the kernel delivers what it promises.
    pub fn choose(&mut self, backend: Backend, own: Option<&Path>, mailbox: &Mailbox) {
        let wanted = backend != Backend::Inotify;
        if wanted == self.filesystems.is_some() {
            return;
        }
        self.choices.clear();
        self.directories.retain(|_| false);
        self.filesystems = None;
        if !wanted {
            self.why_not = Some("the configuration says backend = inotify".to_owned());
            return;
        }
        let tested = own.map_or(Ok(()), self_test);
        let started = tested.and_then(|()| FilesystemWatcher::start(mailbox, &self.avoided));
        match started {
            Ok(filesystems) => {
                self.filesystems = Some(filesystems);
                self.why_not = None;
            }
            Err(why) => self.why_not = Some(why),
        }
    }

    /// Takes command lines, users and parents as they were at the exec, from the kernel, where that is wanted.
    pub(crate) fn ask_execs(&mut self, wanted: bool) {
        if let Some(filesystems) = &mut self.filesystems {
            filesystems.ask_execs(wanted);
        }
    }

    /// Why command lines are what processes say of themselves.
    #[must_use]
    pub fn why_claimed(&self) -> Option<String> {
        self.filesystems
            .as_ref()
            .map_or(Some("fanotify is not used".to_owned()), FilesystemWatcher::why_claimed)
    }

    /// Why fanotify is not used at all.
    #[must_use]
    pub(crate) fn why_not(&self) -> Option<&str> {
        self.why_not.as_deref()
    }

    /// How each file system is watched.
    pub fn choices(&self) -> impl Iterator<Item = &Choice> {
        self.choices.values()
    }

    /// Where file systems are watched that can change without a notification: other hosts write them, or somebody the
    /// directories that an overlay shows.
    pub fn remote(&self) -> impl Iterator<Item = &Path> {
        let mount = |choice: &Choice| self.mounts.of(&choice.at);
        let is_remote = move |choice: &&Choice| {
            mount(choice).is_some_and(|mount| mount.is_remote() || mount.kind == "overlay")
        };
        self.choices.values().filter(is_remote).map(|choice| choice.at.as_path())
    }

    /// How a path is watched.
    #[must_use]
    pub(crate) fn choice_of(&self, path: &Path) -> Option<&Choice> {
        if self.avoided.has(path) {
            return None;
        }
        let there = path.ancestors().find_map(|way| self.avoided.status(way).ok())?;
        self.choices.get(&there.st_dev)
    }

    /// The mounts as they were last seen.
    #[must_use]
    pub fn mounts(&self) -> &Mounts {
        &self.mounts
    }

    /// Mounts in which nothing is looked at.
    #[must_use]
    pub(crate) fn avoided(&self) -> &Avoided {
        &self.avoided
    }

    /// The device of a path that may be looked at.
    fn device_of(&self, path: &Path) -> io::Result<u64> {
        // The kernel can name nothing in it.
        if path.as_os_str().len() > LONGEST_PATH {
            return Err(Errno::NAMETOOLONG.into());
        }
        Ok(self.avoided.status(path)?.st_dev)
    }

    /// Something was mounted or unmounted: where.
    pub fn remount(&mut self) -> Vec<PathBuf> {
        let Ok(mounts) = Mounts::read() else { return Vec::new() };
        let mut points = self.mounts.differences(&mounts);
        let mounts = Arc::new(mounts);
        self.mounts = Arc::clone(&mounts);
        self.avoided.update(&mounts);
        self.find_exchanged(&mut points);
        // A device number is given again: whatever is not mounted any more is decided anew.
        self.choices.retain(|device, _| mounts.iter().any(|mount| mount.device == *device));
        if let Some(filesystems) = &mut self.filesystems {
            filesystems.remount(&mounts);
        }
        points
    }

    /// Adds the places where something else is mounted under the same numbers: the kernel gives those again at once.
    fn find_exchanged(&mut self, points: &mut Vec<PathBuf>) {
        self.exchanged.clear();
        let before = std::mem::take(&mut self.unique);
        let mounts = Arc::clone(&self.mounts);
        for mount in mounts.iter().filter(|mount| self.choices.contains_key(&mount.device)) {
            if let Some(number) = unique_number(&mount.point, &self.avoided) {
                self.unique.insert(mount.point.clone(), number);
            }
        }
        let is_same = |(point, number): &(&PathBuf, &u64)| before.get(*point) == Some(*number);
        self.same = self.unique.iter().filter(is_same).map(|(point, _)| point.clone()).collect();
        for (point, number) in &self.unique {
            let is_other = before.get(point).is_some_and(|known| known != number);
            if is_other && !points.contains(point) {
                points.push(point.clone());
                self.exchanged.insert(point.clone());
            }
        }
        for mount in mounts.iter().filter(|mount| self.exchanged.contains(&mount.point)) {
            self.choices.remove(&mount.device);
        }
    }

    /// Whether another file system stands at this place since the last change of mounts, under the same numbers.
    #[must_use]
    pub(crate) fn is_exchanged(&self, point: &Path) -> bool {
        self.exchanged.contains(point)
    }

    /// Whether the same mount is at this place as before the last change of mounts; `false` where that is not known.
    #[must_use]
    pub(crate) fn is_same(&self, point: &Path) -> bool {
        self.same.contains(point)
    }

    /// Other rules apply.
    pub(crate) fn cover(&mut self, coverage: &Arc<Coverage>) {
        if let Some(filesystems) = &mut self.filesystems {
            filesystems.cover(coverage);
        }
    }

    /// Watches a directory for what happens to it and in it.
    ///
    /// # Errors
    /// When it is no directory, or the limit of inotify's watches is reached.
    pub fn add(&mut self, directory: &Path, lane: Lane) -> io::Result<()> {
        let device = self.device_of(directory)?;
        if !self.choose_for(directory, device) {
            return self.directories.add(directory, lane);
        }
        if let Some(filesystems) = &mut self.filesystems {
            filesystems.mark_directory(directory, lane, true);
        }
        Ok(())
    }

    /// Whether fanotify watches the file system that a path is on.
    fn choose_for(&mut self, path: &Path, device: u64) -> bool {
        if let Some(choice) = self.choices.get(&device) {
            return choice.fanotify;
        }
        let marked = match &mut self.filesystems {
            Some(filesystems) => filesystems.mark(path, device, &self.mounts),
            None => Err(self.why_not.clone().unwrap_or_default()),
        };
        let choice = Choice { at: path.to_owned(), fanotify: marked.is_ok(), why: marked.err() };
        let mounts = Arc::clone(&self.mounts);
        for mount in mounts.iter().filter(|mount| mount.device == device) {
            if let Some(number) = unique_number(&mount.point, &self.avoided) {
                self.unique.insert(mount.point.clone(), number);
            }
        }
        self.choices.entry(device).or_insert(choice).fanotify
    }

    /// Watches a directory in which only a name that leads elsewhere matters.
    ///
    /// # Errors
    /// As [`Watching::add`].
    pub(crate) fn add_way(&mut self, directory: &Path, lane: Lane) -> io::Result<()> {
        let device = self.device_of(directory)?;
        // A file system in which nothing else is watched need not be marked for it.
        let is_chosen = self.choices.get(&device).is_some_and(|choice| choice.fanotify);
        match &mut self.filesystems {
            Some(filesystems) if is_chosen => filesystems.mark_directory(directory, lane, false),
            _ if self.directories.is_watched(directory) => {}
            _ => return self.directories.add(directory, lane),
        }
        Ok(())
    }

    /// Whether a directory is watched.
    #[must_use]
    pub fn is_watched(&self, directory: &Path) -> bool {
        self.directories.is_watched(directory)
            || self
                .device_of(directory)
                .is_ok_and(|device| self.choices.get(&device).is_some_and(|choice| choice.fanotify))
    }

    /// Tells of what happens to a file under other names as well, where that is possible.
    pub(crate) fn follow_names(&mut self, path: &Path, lane: Lane) {
        // One that is mounted there may be on a file system in which nothing else is watched.
        if let Ok(device) = self.device_of(path)
            && self.choose_for(path, device)
            && let Some(filesystems) = &mut self.filesystems
        {
            filesystems.follow_names(path, lane);
        }
    }

    /// Forgets them; a scan of everything finds those that there still are.
    pub(crate) fn forget_names(&mut self) {
        if let Some(filesystems) = &mut self.filesystems {
            filesystems.forget_names();
        }
    }

    /// The paths of what inotify told.
    #[must_use]
    pub fn paths(&self, named: &Named) -> Vec<PathBuf> {
        self.directories.paths(&named.0, Some(&named.1))
    }

    /// inotify's part.
    pub fn directories(&mut self) -> &mut Watcher {
        &mut self.directories
    }
}
