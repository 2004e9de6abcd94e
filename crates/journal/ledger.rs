//! What retention has deleted: whole segments as ranges of numbers, and how many alerts of each severity in all. With
//! it a reader knows whether alerts are missing or were deleted for want of room.
//!
//! A range between segments that become one is noted in their file and leaves the ledger: it holds at most about as
//! many ranges as there are segments, however long a flood lasts.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use vigie_files::durable::{self, Durability};

use crate::chain::Head;
use crate::contents::add_counts;
use crate::line::{self, Counts};
use crate::retention::{GivenUp, Goes};
use crate::segment::Name;

const FILE_NAME: &str = "deleted.json";

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// Segments that were deleted one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Range {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) counts: Counts,
    /// Checksum of the last alert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) link: Option<u32>,
    /// Head of the chain after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) head: Option<Head>,
}

/// The file's content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    /// Not adjacent, in order.
    ranges: Vec<Range>,
    /// Everything deleted since the journal was begun, also in segments that are still there.
    pub(crate) totals: Counts,
    /// The same by share; what versions before 3 deleted is not in it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) shares: BTreeMap<String, Counts>,
    /// What was counted last. After a crash it may still be there, and then it goes first: nothing is counted twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) doing: Option<(Name, Goes)>,
    /// What was counted before and could not be done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) undone: Vec<(Name, Goes)>,
    /// What somebody should be told of and is not told yet, and what is being told. The latter is told again after a
    /// crash; whoever tells it knows by its name that it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) untold: Option<GivenUp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) telling: Option<GivenUp>,
}

impl Ledger {
    /// Reads it; empty when it is not there, absent when it is damaged.
    pub(crate) fn load(directory: &Path) -> Option<Self> {
        match durable::read_bounded(&directory.join(FILE_NAME), MAX_BYTES) {
            Ok(content) => {
                let text = content.trim_ascii_end();
                line::check(text).and_then(|_| serde_json::from_slice(text).ok())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Self::default()),
            Err(_) => None,
        }
    }

    /// Returns when it is on disk.
    ///
    /// # Errors
    /// When it cannot be written to disk.
    pub(crate) fn store(&self, directory: &Path) -> io::Result<()> {
        let mut content = Vec::new();
        line::seal_value(&mut content, self, 0);
        durable::replace(&directory.join(FILE_NAME), &content, Durability::Power)
    }

    /// What is counted and perhaps not done.
    pub(crate) fn counted(&self) -> Vec<(Name, Goes)> {
        self.doing.iter().chain(&self.undone).cloned().collect()
    }

    /// Adds a segment that is to be deleted. Its alerts are not added to the totals.
    pub(crate) fn add(&mut self, range: Range) {
        let at = self.ranges.partition_point(|known| known.first < range.first);
        self.ranges.insert(at, range);
        self.ranges.dedup_by(|later, earlier| {
            let joins = later.first <= earlier.last + 1;
            if joins {
                // The same segment again, after a crash between the ledger and the deletion.
                if later.last > earlier.last {
                    earlier.counts.iter_mut().zip(later.counts).for_each(|(count, more)| *count += more);
                    (earlier.last, earlier.link, earlier.head) = (later.last, later.link, later.head);
                }
            }
            joins
        });
    }

    /// The ranges between these numbers.
    pub(crate) fn between(&self, first: u64, last: u64) -> VecDeque<Range> {
        self.ranges.iter().filter(|range| first < range.first && range.last < last).cloned().collect()
    }

    /// Forgets ranges, by their first numbers, that a segment notes by itself.
    pub(crate) fn forget(&mut self, firsts: &[u64]) {
        self.ranges.retain(|range| !firsts.contains(&range.first));
    }

    #[cfg(test)]
    pub(crate) fn ranges(&self) -> usize {
        self.ranges.len()
    }

    /// Adds what was deleted to the totals.
    pub(crate) fn count(&mut self, deleted: &BTreeMap<String, Counts>) {
        for (share, &counts) in deleted {
            self.totals.iter_mut().zip(counts).for_each(|(total, more)| *total += more);
            add_counts(&mut self.shares, share, counts);
        }
    }

    /// The largest number that was deleted.
    pub(crate) fn last(&self) -> u64 {
        self.ranges.last().map_or(0, |range| range.last)
    }

    /// First number after `seq` that was deleted.
    pub(crate) fn next_after(&self, seq: u64) -> Option<u64> {
        self.ranges.iter().map(|range| range.first).find(|&first| first > seq)
    }

    /// The range that holds a number.
    pub(crate) fn find(&self, seq: u64) -> Option<&Range> {
        let at = self.ranges.partition_point(|range| range.last < seq);
        self.ranges.get(at).filter(|range| range.first <= seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u64, last: u64) -> Range {
        Range { first, last, counts: [last - first + 1, 0, 0, 0], link: None, head: None }
    }

    #[test]
    fn ranges_that_touch_become_one_and_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::default();
        for (first, last) in [(1, 10), (21, 30), (11, 20), (11, 20), (50, 60)] {
            ledger.add(range(first, last));
        }
        ledger.store(directory.path()).unwrap();

        let ledger = Ledger::load(directory.path()).unwrap();

        assert_eq!(
            ledger.find(30).map(|range| (range.first, range.last, range.counts[0])),
            Some((1, 30, 30))
        );
        assert!(ledger.find(31).is_none() && ledger.find(0).is_none());
        assert!(ledger.find(55).is_some() && ledger.find(61).is_none());
        let path = directory.path().join(FILE_NAME);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("60", "61")).unwrap();
        assert!(Ledger::load(directory.path()).is_none());
    }
}
