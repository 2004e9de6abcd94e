//! Which of all lives under its name this one is: the machine, its boot, and the lives before it. Blocking.
//!
//! A copy of the agent's files on another machine is noticed by the machine's ID. An older copy that was put back is
//! noticed by the fleet's newest heartbeat: it is of a life that the files know nothing of. Nothing on a host proves
//! that it is no copy; two hosts that run at once are noticed by the broker, because both write to one subject.

#![expect(clippy::disallowed_methods, reason = "called on Lane::Fleet")]

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use vigie_fleet::broker::client::random_token;
use vigie_fleet::heartbeat::Life;
use vigie_fleet::host_facts;

use super::disk;

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 16 * 1024;

/// Lives that are remembered. What the fleet has from one before them is taken for true.
const MAX_PAST: usize = 64;

/// What is kept of the lives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    machine: String,
    count: u64,
    /// Numbers and epochs of the newest lives, this one last.
    #[serde(default)]
    past: VecDeque<(u64, String)>,
}

impl Kept {
    fn knows(&self, life: &Life) -> bool {
        self.past.iter().any(|(_, epoch)| *epoch == life.epoch)
    }

    fn add(&mut self, life: &Life) {
        self.count = self.count.max(life.count);
        self.past.push_back((life.count, life.epoch.clone()));
        if self.past.len() > MAX_PAST {
            self.past.pop_front();
        }
    }
}

/// What the files say at the beginning of a life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) life: Life,
    /// The files were made on another machine.
    pub(super) is_copy: bool,
    /// The lives before.
    kept: Kept,
}

/// Begins a life: counts it, and says whether the files come from another machine.
///
/// # Errors
/// When the disk does not take the count.
pub(super) fn begin(path: &Path) -> io::Result<Begun> {
    begin_on(path, host_facts::machine(), host_facts::boot())
}

fn begin_on(path: &Path, machine: String, boot: String) -> io::Result<Begun> {
    // One that cannot be read was half written, or is no file of ours: counting begins anew, which the fleet sees.
    let mut kept: Kept =
        read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let is_copy = !kept.machine.is_empty() && !machine.is_empty() && kept.machine != machine;
    let life = Life { boot, epoch: random_token(), count: kept.count.saturating_add(1), machine };
    // The machine is replaced only when somebody says that it may: by a new key.
    if !is_copy {
        kept.machine.clone_from(&life.machine);
    }
    kept.add(&life);
    store(path, &kept)?;
    Ok(Begun { life, is_copy, kept })
}

impl Begun {
    /// Whether the fleet's newest life under this name is none that these files know: they are an older copy, or
    /// another host has gone on with them.
    #[must_use]
    pub(super) fn is_behind(&self, newest: &Life) -> bool {
        let is_remembered = self.kept.past.front().is_some_and(|(oldest, _)| newest.count >= *oldest);
        is_remembered && !self.kept.knows(newest)
    }

    /// Counts on from a life that these files did not know, so that it is told once; also when another host lives on in
    /// it. Of two that go on in one life, because a machine was copied while it ran, this one begins another.
    ///
    /// # Errors
    /// When the disk does not take the count.
    pub(super) fn go_on_after(&mut self, newest: &Life, path: &Path) -> io::Result<()> {
        if !self.kept.knows(newest) {
            self.kept.add(newest);
        }
        if newest.epoch == self.life.epoch {
            self.life.epoch = random_token();
        }
        self.life.count = newest.count.max(self.life.count).saturating_add(1);
        self.kept.add(&self.life);
        store(path, &self.kept)
    }
}

fn store(path: &Path, kept: &Kept) -> io::Result<()> {
    disk::replace(path, &serde_json::to_vec(kept)?)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_are_counted_and_a_copy_on_another_machine_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lives.json");
        let begin = |machine: &str| begin_on(&path, machine.to_owned(), "boot".to_owned()).unwrap();

        let (first, second) = (begin("a"), begin("a"));
        assert_eq!((first.life.count, second.life.count, second.is_copy), (1, 2, false));
        assert_ne!(first.life.epoch, second.life.epoch);
        let copy = begin("b");
        assert_eq!((copy.life.machine.as_str(), copy.is_copy, begin("b").is_copy), ("b", true, true));
        assert!(!begin("a").is_copy, "the first machine is what it was");
        assert!(!begin("").is_copy, "a machine without an id cannot be told");
        fs::write(&path, "{").unwrap();
        assert_eq!(begin("b").life.count, 1);
    }
    #[test]
    fn an_older_copy_that_was_put_back_is_known_by_a_life_that_it_does_not_know() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lives.json");
        let begin = || begin_on(&path, "a".to_owned(), "boot".to_owned()).unwrap();
        let first = begin();
        let snapshot = fs::read(&path).unwrap();
        let (second, third) = (begin(), begin());
        // What an agent knows: its own lives, also when the broker lost the newest of them.
        assert!([&first, &second, &third].iter().all(|life| !third.is_behind(&life.life)));

        fs::write(&path, &snapshot).unwrap();
        let mut reverted = begin();
        assert_eq!(reverted.life.count, second.life.count);
        assert!(!reverted.is_behind(&first.life), "nothing happened since the snapshot");
        assert!(reverted.is_behind(&second.life) && reverted.is_behind(&third.life));
        // It is told once.
        reverted.go_on_after(&third.life, &path).unwrap();
        assert_eq!(reverted.life.count, 4);
        let next = begin();
        assert!(!next.is_behind(&reverted.life) && next.life.count == 5);

        // Another host goes on with the same files: each of its lives is told once, however often both are connected.
        let other = Life { count: next.life.count, epoch: "other".to_owned(), ..Life::default() };
        let mut beside = next;
        assert!(beside.is_behind(&other));
        beside.go_on_after(&other, &path).unwrap();
        assert!(!beside.is_behind(&other) && !begin().is_behind(&other));
        let next_of_other = Life { count: other.count + 1, epoch: "next".to_owned(), ..other };
        assert!(beside.is_behind(&next_of_other));
        // The machine was put back while it ran, or copied: two go on in one life, and this one begins another.
        let shared = beside.life.clone();
        beside.go_on_after(&shared, &path).unwrap();
        assert!(beside.life.epoch != shared.epoch && !beside.is_behind(&shared));

        // What is long past is nobody's.
        let mut newest = begin();
        for _ in 0..MAX_PAST {
            newest = begin();
        }
        assert!(!newest.is_behind(&third.life));
        assert!(fs::metadata(&path).unwrap().len() < MAX_BYTES);
        fs::remove_file(&path).unwrap();
        assert!(begin().is_behind(&newest.life), "the files are gone");
        let mut extreme = begin();
        extreme.go_on_after(&Life { count: u64::MAX, ..Life::default() }, &path).unwrap();
        assert!(!begin().is_behind(&extreme.life));
    }
}
