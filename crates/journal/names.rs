//! What the journal is called, and was called before.
//!
//! A journal gets a new name when alerts of another host may bear the old one: its files were copied to another
//! machine, or an older copy of them was put back. Numbers go on, so that a name and a number stand for one alert for
//! ever.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use vigie_files::durable::{self, Durability};

use crate::cursor::{identity, known_identity, new_identity, store_identity};

const FILE_NAME: &str = "names.json";

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 16 * 1024;

/// Earlier names that are remembered, to know where those go on who were at a number under them.
const MAX_EARLIER: usize = 64;

/// A name that the journal had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Earlier {
    journal: String,
    /// Number of the newest alert that surely bears this name and no other.
    through: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The machine that the files are on; empty when it is not known.
    #[serde(default)]
    machine: String,
    /// Oldest first.
    #[serde(default)]
    earlier: Vec<Earlier>,
    /// When it got its present name, in seconds since 1970; 0 when it never got another one.
    #[serde(default)]
    renamed_at: i64,
}

/// The journal got another name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// What it was called before.
    pub before: String,
    /// What it is called now.
    pub now: String,
}

/// All names of a journal.
#[derive(Debug, Clone)]
pub struct Names {
    current: String,
    earlier: Vec<Earlier>,
    renamed_at: i64,
}

impl Names {
    /// The names of the journal in `directory`, which gets one when it has none. Blocking.
    ///
    /// # Errors
    /// When it has none and cannot be given one.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let current = identity(directory)?;
        let Kept { earlier, renamed_at, .. } = kept(directory);
        Ok(Self { current, earlier, renamed_at })
    }

    /// What it is called now.
    #[must_use]
    pub fn current(&self) -> &str {
        &self.current
    }

    /// When it got its present name, in seconds since 1970; 0 when it never got another one.
    #[must_use]
    pub fn renamed_at(&self) -> i64 {
        self.renamed_at
    }

    /// Number after which somebody goes on who has everything up to `after` of what bore the name `journal`: what may
    /// be another host's under that name comes again under the present one. Nothing when it was never called that.
    #[must_use]
    pub fn resume(&self, journal: &str, after: u64) -> Option<u64> {
        if journal == self.current {
            return Some(after);
        }
        let since = self.earlier.iter().position(|earlier| earlier.journal == journal)?;
        Some(self.earlier[since..].iter().fold(after, |after, earlier| after.min(earlier.through)))
    }
}

fn kept(directory: &Path) -> Kept {
    let bytes = durable::read_bounded(&directory.join(FILE_NAME), MAX_BYTES);
    bytes.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn store(directory: &Path, kept: &Kept) -> io::Result<()> {
    durable::replace(&directory.join(FILE_NAME), &serde_json::to_vec(kept)?, Durability::Power)
}

/// Gives the journal in `directory` another name, because what is recorded under its present one after `through` may
/// not be the only thing that bears it. Blocking.
///
/// # Errors
/// When it cannot be written to disk.
pub(crate) fn rename(directory: &Path, through: u64) -> io::Result<Renamed> {
    rename_in(directory, kept(directory), through)
}

fn rename_in(directory: &Path, mut kept: Kept, through: u64) -> io::Result<Renamed> {
    let (before, now) = (identity(directory)?, new_identity()?);
    // Written first: an end in between leaves the present name among the earlier ones, and `settle` or the next call
    // completes it.
    let begun = kept.earlier.iter().find(|earlier| earlier.journal == before);
    let through = begun.map_or(through, |begun| begun.through.min(through));
    kept.earlier.retain(|earlier| earlier.journal != before);
    if kept.earlier.len() >= MAX_EARLIER {
        kept.earlier.remove(0);
    }
    kept.earlier.push(Earlier { journal: before.clone(), through });
    kept.renamed_at = jiff::Timestamp::now().as_second();
    store(directory, &kept)?;
    store_identity(directory, &now)?;
    Ok(Renamed { before, now })
}

/// Why it is not settled what a journal is called.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// Only which machine it is on could not be noted: the journal can be used.
    #[error("cannot note in {FILE_NAME} which machine the journal is on: {0}")]
    Unnoted(#[source] io::Error),
    /// It may need another name, and cannot get one.
    #[error("cannot give the journal another name: {0}")]
    Failed(#[from] io::Error),
}

/// Notes that the journal in `directory` is on this machine, and gives it another name when it comes from another one,
/// or was to get one when the agent ended. A machine without an ID is never another one. Blocking; called before the
/// journal is opened.
///
/// # Errors
/// When it cannot be written to disk.
pub fn settle(directory: &Path, machine: &str) -> Result<Option<Renamed>, SettleError> {
    durable::make_directory(directory)?;
    let mut kept = kept(directory);
    if let Some(before) = known_identity(directory)
        && kept.earlier.iter().any(|earlier| earlier.journal == before)
    {
        let now = new_identity()?;
        kept.renamed_at = jiff::Timestamp::now().as_second();
        store(directory, &kept)?;
        store_identity(directory, &now)?;
        return Ok(Some(Renamed { before, now }));
    }
    if machine.is_empty() || kept.machine == machine {
        return Ok(None);
    }
    let before = std::mem::replace(&mut kept.machine, machine.to_owned());
    if before.is_empty() || known_identity(directory).is_none() {
        return store(directory, &kept).map(|()| None).map_err(SettleError::Unnoted);
    }
    // All that was recorded there is recorded there under that name too.
    Ok(Some(rename_in(directory, kept, u64::MAX)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_followed_a_journal_follows_it_under_its_new_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(settle(path, "a").unwrap(), None);
        let first = identity(path).unwrap();
        assert_eq!((settle(path, "a").unwrap(), settle(path, "").unwrap()), (None, None));
        let renamed_at = || Names::of(path).unwrap().renamed_at();
        let is_now = |at: i64| (jiff::Timestamp::now().as_second() - at).abs() < 60;
        assert_eq!(renamed_at(), 0);

        let moved = settle(path, "b").unwrap().unwrap();
        assert!(is_now(renamed_at()));
        assert_eq!((&moved.before, &moved.now), (&first, &identity(path).unwrap()));
        assert_eq!(settle(path, "b").unwrap(), None, "only once");
        let reverted = rename(path, 40).unwrap();

        let names = Names::of(path).unwrap();
        assert_eq!(names.current(), reverted.now);
        for (journal, after, next) in [
            (&first, 7, Some(7)),
            (&first, 70, Some(40)),
            (&moved.now, 70, Some(40)),
            (&reverted.now, 70, Some(70)),
            (&"0".repeat(16), 7, None),
        ] {
            assert_eq!(names.resume(journal, after), next, "{journal} {after}");
        }
        // The agent ended while it was renamed.
        store_identity(path, &moved.now).unwrap();
        store(path, &Kept { renamed_at: 5, ..kept(path) }).unwrap();
        let completed = settle(path, "b").unwrap().unwrap();
        assert!(is_now(renamed_at()));
        assert_eq!(completed.before, moved.now);
        assert_eq!(Names::of(path).unwrap().resume(&moved.now, 70), Some(40));
        assert_eq!(settle(path, "b").unwrap(), None);
        std::fs::write(path.join(FILE_NAME), "{").unwrap();
        assert_eq!(Names::of(path).unwrap().resume(&first, 7), None);
    }

    /// Nothing can be written where a directory is.
    #[test]
    fn a_disk_that_takes_nothing_keeps_a_journal_closed_only_if_it_needs_another_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let first = identity(path).unwrap();
        std::fs::create_dir(path.join(FILE_NAME)).unwrap();
        assert!(matches!(settle(path, "a"), Err(SettleError::Unnoted(_))));
        std::fs::remove_dir(path.join(FILE_NAME)).unwrap();
        assert_eq!(settle(path, "a").unwrap(), None);

        // Half of a renaming, which is tried again.
        let kept = Kept { earlier: vec![Earlier { journal: first.clone(), through: 7 }], ..kept(path) };
        store(path, &kept).unwrap();
        rename(path, 90).unwrap();
        let names = Names::of(path).unwrap();
        assert_eq!((names.earlier.len(), names.resume(&first, 90)), (1, Some(7)));
    }

    #[test]
    fn names_are_forgotten_from_the_oldest_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let first = identity(path).unwrap();
        let second = rename(path, 1).unwrap().now;
        for _ in 0..MAX_EARLIER {
            rename(path, 1).unwrap();
        }
        let names = Names::of(path).unwrap();
        assert_eq!((names.resume(&first, 1), names.resume(&second, 1)), (None, Some(1)));
        assert!(std::fs::metadata(path.join(FILE_NAME)).unwrap().len() < MAX_BYTES);
    }
}
