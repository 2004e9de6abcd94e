//! A power cut for tests: records every change of a file on this thread, makes the one fail that a test names, and
//! builds any state that a file system may be in after the power went.
//!
//! ```
//! use vigie_files::durable::{self, Durability};
//! use vigie_files::recording::{Chooser, Recording};
//!
//! let directory = tempfile::tempdir().unwrap();
//! let path = directory.path().join("file");
//! let recording = Recording::start(directory.path());
//! durable::replace(&path, b"old", Durability::Power).unwrap();
//! let safe = recording.changes();
//! durable::replace(&path, b"new", Durability::Power).unwrap();
//! let history = recording.finish();
//!
//! for seed in 0..20 {
//!     for cut in safe..=history.len() {
//!         let after = tempfile::tempdir().unwrap();
//!         history.cut(cut, &mut Chooser::new(seed), after.path()).unwrap();
//!         let text = std::fs::read(after.path().join("file")).unwrap();
//!         assert!(text == b"old" || text == b"new");
//!     }
//! }
//! ```
//!
//! What is legal after a cut, as ext4 and xfs behave and POSIX allows: each 512 bytes of a file and its length are as
//! they were at any moment since its last sync, so that a file that grew may hold zeros; of the names since the last
//! sync of the directory any may be as before, in any order that the later ones do not rule out.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What a disk writes whole or not at all, in bytes.
const SECTOR_BYTES: usize = 512;

thread_local! {
    static CURRENT: RefCell<Option<State>> = const { RefCell::new(None) };
}

/// A change that is about to be made.
#[derive(Debug)]
pub(crate) enum Change<'a> {
    Create(&'a Path),
    Write { file: u64, offset: u64, bytes: &'a [u8] },
    SetLength { file: u64, length: u64 },
    Sync { file: u64 },
    MakeDirectory(&'a Path),
    Rename(&'a Path, &'a Path),
    Remove(&'a Path),
    SyncDirectory(&'a Path),
}

#[derive(Debug, Clone)]
enum Recorded {
    Create { path: PathBuf, file: u64 },
    Write { file: u64, offset: usize, bytes: Vec<u8> },
    SetLength { file: u64, length: usize },
    Sync { file: u64 },
    MakeDirectory(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    SyncDirectory(PathBuf),
}

#[derive(Debug)]
struct State {
    root: PathBuf,
    changes: Vec<Recorded>,
    /// Which file a name leads to.
    names: BTreeMap<PathBuf, u64>,
    files: u64,
    fail: Option<Failing>,
    /// Every change fails with this number.
    dead: Option<i32>,
}

/// Which change fails, and how.
#[derive(Debug, Clone, Copy)]
struct Failing {
    at: usize,
    only: Kind,
    errno: i32,
}

/// A kind of change, for [`Recording::fail_next`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any change.
    Any,
    /// A write to a file.
    Write,
    /// A sync of a file.
    Sync,
    /// A sync of a directory.
    SyncDirectory,
}

impl Kind {
    fn is(self, change: &Change<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Write => matches!(change, Change::Write { .. }),
            Self::Sync => matches!(change, Change::Sync { .. }),
            Self::SyncDirectory => matches!(change, Change::SyncDirectory(_)),
        }
    }
}

/// Records the changes below one directory on this thread until it is dropped. The directory must be empty.
#[derive(Debug)]
pub struct Recording {
    _not_send: std::marker::PhantomData<*const ()>,
}

impl Recording {
    /// Begins.
    #[must_use]
    pub fn start(root: &Path) -> Self {
        let state = State {
            root: root.to_owned(),
            changes: Vec::new(),
            names: BTreeMap::new(),
            files: 0,
            fail: None,
            dead: None,
        };
        CURRENT.with(|current| *current.borrow_mut() = Some(state));
        Self { _not_send: std::marker::PhantomData }
    }

    /// Changes so far.
    #[must_use]
    pub fn changes(&self) -> usize {
        CURRENT.with(|current| current.borrow().as_ref().map_or(0, |state| state.changes.len()))
    }

    /// Makes the next change of this kind fail with `errno` instead of being made.
    pub fn fail_next(&self, only: Kind, errno: i32) {
        self.fail_after(0, only, errno);
    }

    /// Lets `changes` further changes of any kind pass, then makes the next one of this kind fail.
    pub fn fail_after(&self, changes: usize, only: Kind, errno: i32) {
        CURRENT.with(|current| {
            if let Some(state) = current.borrow_mut().as_mut() {
                state.fail = Some(Failing { at: state.changes.len() + changes, only, errno });
            }
        });
    }

    /// Makes every change fail with `errno` from now on, or none any more.
    pub fn fail_all(&self, errno: Option<i32>) {
        CURRENT.with(|current| {
            if let Some(state) = current.borrow_mut().as_mut() {
                state.dead = errno;
            }
        });
    }

    /// What was recorded.
    #[must_use]
    pub fn finish(self) -> History {
        History {
            changes: CURRENT.with(|current| current.borrow_mut().take()).map_or(Vec::new(), |s| s.changes),
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        CURRENT.with(|current| *current.borrow_mut() = None);
    }
}

/// The number of the file that a name leads to; 0 when nothing is recorded.
pub(crate) fn identity(path: &Path) -> u64 {
    CURRENT.with(|current| {
        let mut current = current.borrow_mut();
        let Some(state) = current.as_mut() else { return 0 };
        let Some(path) = state.relative(path) else { return 0 };
        state.names.get(&path).copied().unwrap_or(0)
    })
}

/// Takes note of a change, or refuses it.
pub(crate) fn note(change: Change<'_>) -> io::Result<()> {
    CURRENT.with(|current| match current.borrow_mut().as_mut() {
        Some(state) => state.note(&change),
        None => Ok(()),
    })
}

impl State {
    fn relative(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(&self.root).ok().map(Path::to_owned)
    }

    fn note(&mut self, change: &Change<'_>) -> io::Result<()> {
        if let Some(errno) = self.dead {
            return Err(io::Error::from_raw_os_error(errno));
        }
        if let Some(fail) = self.fail
            && self.changes.len() >= fail.at
            && fail.only.is(change)
        {
            self.fail = None;
            return Err(io::Error::from_raw_os_error(fail.errno));
        }
        let recorded = match change {
            Change::Create(path) => {
                let Some(path) = self.relative(path) else { return Ok(()) };
                if path.as_os_str().is_empty() || self.names.contains_key(&path) {
                    // It will fail by itself.
                    return Ok(());
                }
                self.files += 1;
                self.names.insert(path.clone(), self.files);
                Recorded::Create { path, file: self.files }
            }
            Change::Write { file, offset, bytes } => Recorded::Write {
                file: *file,
                offset: usize::try_from(*offset).unwrap_or(usize::MAX),
                bytes: bytes.to_vec(),
            },
            Change::SetLength { file, length } => {
                Recorded::SetLength { file: *file, length: usize::try_from(*length).unwrap_or(usize::MAX) }
            }
            Change::Sync { file } => Recorded::Sync { file: *file },
            Change::MakeDirectory(path) => {
                let Some(path) = self.relative(path) else { return Ok(()) };
                Recorded::MakeDirectory(path)
            }
            Change::Rename(from, to) => {
                let (Some(from), Some(to)) = (self.relative(from), self.relative(to)) else { return Ok(()) };
                let Some(file) = self.names.remove(&from) else { return Ok(()) };
                self.names.insert(to.clone(), file);
                Recorded::Rename(from, to)
            }
            Change::Remove(path) => {
                let Some(path) = self.relative(path) else { return Ok(()) };
                if self.names.remove(&path).is_none() {
                    return Ok(());
                }
                Recorded::Remove(path)
            }
            Change::SyncDirectory(path) => {
                let Some(path) = self.relative(path) else { return Ok(()) };
                Recorded::SyncDirectory(path)
            }
        };
        self.changes.push(recorded);
        Ok(())
    }
}

/// All changes of a recording.
#[derive(Debug, Clone)]
pub struct History {
    changes: Vec<Recorded>,
}

/// Makes the choices of a power cut: the same ones for the same seed.
#[derive(Debug, Clone)]
pub struct Chooser(u64);

impl Chooser {
    /// Choices of one seed; with seed 0 nothing that was not synced is there, with seed 1 all of it.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn one_of(&mut self, choices: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % choices
    }
}

/// What may have reached the disk.
enum Fate<'a> {
    Nothing,
    Everything,
    Some(&'a mut Chooser),
}

impl Fate<'_> {
    fn takes(&mut self) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Some(chooser) => chooser.one_of(2) == 0,
        }
    }

    /// One of so many moments, of which the first is the last sync.
    fn moment(&mut self, count: usize) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Everything => count - 1,
            Self::Some(chooser) => usize::try_from(chooser.one_of(count as u64)).unwrap_or(0),
        }
    }
}

impl History {
    /// Number of changes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether nothing was changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Builds below `target` what is there when the power goes after the first `changes` changes.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn cut(&self, changes: usize, chooser: &mut Chooser, target: &Path) -> io::Result<()> {
        let mut fate = match chooser.0 {
            0 => Fate::Nothing,
            1 => Fate::Everything,
            _ => Fate::Some(chooser),
        };
        let made = &self.changes[..changes.min(self.changes.len())];
        for (path, file) in surviving_names(made, &mut fate) {
            let path = target.join(path);
            match file {
                None => fs::create_dir_all(&path)?,
                Some(file) => {
                    if let Some(parent) = path.parent() {
                        fs::create_dir_all(parent)?;
                    }
                    fs::write(path, surviving_content(made, file, &mut fate))?;
                }
            }
        }
        Ok(())
    }
}

/// Names and what they lead to: a file, or a directory.
fn surviving_names(made: &[Recorded], fate: &mut Fate<'_>) -> BTreeMap<PathBuf, Option<u64>> {
    let synced_later = |at: usize, path: &Path| {
        made[at..].iter().any(|change| {
            matches!(change, Recorded::SyncDirectory(directory) if Some(directory.as_path()) == path.parent())
        })
    };
    let mut names = BTreeMap::new();
    for (at, change) in made.iter().enumerate() {
        match change {
            Recorded::Create { path, file } if synced_later(at, path) || fate.takes() => {
                names.insert(path.clone(), Some(*file));
            }
            // Directories are made once at the start; that they are lost with all in them teaches nothing.
            Recorded::MakeDirectory(path) => {
                names.insert(path.clone(), None);
            }
            // A name that the first half of a change needs may not be there any more.
            Recorded::Rename(from, to) if synced_later(at, to) || fate.takes() => {
                let file = names.remove(from).or_else(|| created_as(&made[..at], from).map(Some));
                if let Some(file) = file {
                    names.insert(to.clone(), file);
                }
            }
            Recorded::Remove(path) if synced_later(at, path) || fate.takes() => {
                names.remove(path);
            }
            _ => {}
        }
    }
    names
}

/// The file that was last made under a name: a rename that survived implies that it was made.
fn created_as(made: &[Recorded], path: &Path) -> Option<u64> {
    made.iter().rev().find_map(|change| match change {
        Recorded::Create { path: created, file } if created == path => Some(*file),
        _ => None,
    })
}

/// What is left of a file: its length and each of its sectors as they were at some moment since the last sync.
fn surviving_content(made: &[Recorded], wanted: u64, fate: &mut Fate<'_>) -> Vec<u8> {
    let synced = made
        .iter()
        .rposition(|change| matches!(change, Recorded::Sync { file } if *file == wanted))
        .map_or(0, |at| at + 1);
    let mut moments = vec![Vec::new()];
    for (at, change) in made.iter().enumerate() {
        let mut content = moments.last().cloned().unwrap_or_default();
        match change {
            Recorded::Write { file, offset, bytes } if *file == wanted => {
                if content.len() < offset + bytes.len() {
                    content.resize(offset + bytes.len(), 0);
                }
                content[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            Recorded::SetLength { file, length } if *file == wanted => content.resize(*length, 0),
            _ => continue,
        }
        if at < synced {
            moments.clear();
        }
        moments.push(content);
    }
    let moment = fate.moment(moments.len());
    let (before, after) = (moments[moment.saturating_sub(1)].len(), moments[moment].len());
    // A long write grows the file step by step.
    let steps = after.saturating_sub(before).div_ceil(SECTOR_BYTES);
    let length = match fate.moment(steps + 1) {
        0 if matches!(fate, Fate::Nothing) => after,
        step if step == steps => after,
        step => ((before / SECTOR_BYTES + step) * SECTOR_BYTES).clamp(before, after),
    };
    let mut left = vec![0; length];
    for (sector, part) in left.chunks_mut(SECTOR_BYTES).enumerate() {
        let content = &moments[fate.moment(moments.len())];
        let from = content.get(sector * SECTOR_BYTES..).unwrap_or_default();
        let bytes = from.len().min(part.len());
        part[..bytes].copy_from_slice(&from[..bytes]);
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::{self, Durability, DurableFile};

    /// All contents that a file can have after cuts at one place.
    fn outcomes(history: &History, at: usize, name: &str) -> std::collections::BTreeSet<Option<Vec<u8>>> {
        (0..64)
            .map(|seed| {
                let target = tempfile::tempdir().unwrap();
                history.cut(at, &mut Chooser::new(seed), target.path()).unwrap();
                fs::read(target.path().join(name)).ok()
            })
            .collect()
    }

    #[test]
    fn a_rename_without_a_sync_of_the_directory_may_be_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let recording = Recording::start(directory.path());
        durable::replace(&path, b"old", Durability::Power).unwrap();
        let old = recording.changes();
        durable::replace(&path, b"new", Durability::Power).unwrap();
        let history = recording.finish();

        let texts = |at| outcomes(&history, at, "f");
        let of = |text: &[u8]| Some(text.to_vec());
        assert_eq!(texts(old), [of(b"old")].into());
        assert_eq!(texts(history.len() - 1), [of(b"old"), of(b"new")].into());
        assert_eq!(texts(history.len()), [of(b"new")].into());
    }

    #[test]
    fn what_was_not_synced_is_gone_torn_zeros_or_there() {
        let directory = tempfile::tempdir().unwrap();
        let recording = Recording::start(directory.path());
        let mut file = DurableFile::create(&directory.path().join("f")).unwrap();
        file.append(b"safe").unwrap();
        file.sync().unwrap();
        durable::sync_directory(directory.path()).unwrap();
        file.append(&[b'x'; 1000]).unwrap();
        let history = recording.finish();

        let lost = outcomes(&history, history.len(), "f");
        assert!(lost.iter().all(|content| content.as_ref().unwrap().starts_with(b"safe")));
        let lengths: Vec<usize> = lost.iter().map(|content| content.as_ref().unwrap().len()).collect();
        assert!(lengths.contains(&4) && lengths.contains(&512) && lengths.contains(&1004), "{lengths:?}");
        assert!(lost.iter().flatten().any(|content| content.contains(&0)));
    }

    #[test]
    fn a_named_change_fails_and_a_failed_sync_is_never_repeated() {
        let directory = tempfile::tempdir().unwrap();
        let recording = Recording::start(directory.path());
        let mut file = DurableFile::create(&directory.path().join("f")).unwrap();
        recording.fail_next(Kind::Sync, 5);

        file.append(b"x").unwrap();
        assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(5));
        assert!(file.sync().is_err() && file.sync_failed());
    }
}
