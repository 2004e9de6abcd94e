//! Which of all lives under its name this one is: the machine, its boot, and how often these files were begun on.
//! Blocking.
//!
//! A copy of the agent's files on another machine is noticed by the machine's id, and an older copy that was put back
//! by the count of lives, which the fleet has seen higher. Nothing on a host proves that it is no copy: two hosts
//! that run at once are noticed by the fleet, because both write to one subject.

#![expect(clippy::disallowed_methods, reason = "called on Lane::Fleet")]

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use vigie_fleet::broker::client::random_token;
use vigie_fleet::heartbeat::Life;
use vigie_fleet::host_facts;

use super::disk;

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 4096;

/// What is kept of the lives before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    machine: String,
    count: u64,
}

/// What the files say at the beginning of a life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Begun {
    pub(super) life: Life,
    /// The files were made on another machine.
    pub(super) is_copy: bool,
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
    let kept: Kept =
        read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let is_copy = !kept.machine.is_empty() && !machine.is_empty() && kept.machine != machine;
    let count = kept.count.saturating_add(1);
    // The machine is replaced only when somebody says that it may: by a new key.
    let stays = if is_copy { kept.machine } else { machine.clone() };
    store(path, &Kept { machine: stays, count })?;
    Ok(Begun { life: Life { machine, boot, epoch: random_token(), count }, is_copy })
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
}
