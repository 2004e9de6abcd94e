//! What is in a segment, by share and severity: retention decides with it. Pure.
//!
//! A share is whose alerts they are ([`crate::line::share_of`]): a module, or the agent for itself, or the agent about
//! a module.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vigie_protocol::severity::Severity;

use crate::line::{Counts, Deleted};

/// The alerts of one share, by severity as [`Severity::ALL`] orders them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) counts: Counts,
    /// Bytes that they take in the file.
    pub(crate) bytes: [u64; 4],
}

/// What is in a segment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Contents {
    pub(crate) shares: BTreeMap<String, Tally>,
    /// What belongs to no share: the first and the last line, notes of deletions, and what is no line. All of it while
    /// `is_rough`.
    pub(crate) other_bytes: u64,
    /// It was written by a version that did not count by share, and is not read again yet.
    pub(crate) is_rough: bool,
}

pub(crate) fn is_severe(severity: Severity) -> bool {
    severity >= Severity::High
}

impl Contents {
    pub(crate) fn add(&mut self, share: &str, severity: Severity, bytes: usize) {
        self.add_many(share, severity, 1, bytes as u64);
    }

    pub(crate) fn add_many(&mut self, share: &str, severity: Severity, count: u64, bytes: u64) {
        let tally = match self.shares.get_mut(share) {
            Some(tally) => tally,
            None => self.shares.entry(share.to_owned()).or_default(),
        };
        tally.counts[severity as usize] += count;
        tally.bytes[severity as usize] += bytes;
    }

    pub(crate) fn add_other(&mut self, bytes: usize) {
        self.other_bytes += bytes as u64;
    }

    /// Adds the last line of the batch whose alerts these are, with the notes of those that were `deleted` from it.
    /// Whoever has or had most alerts in it pays, and nobody when none of those is left: what a flood brought along
    /// must not take the room of others.
    pub(crate) fn add_commit(&mut self, bytes: usize, deleted: &BTreeMap<String, Counts>) {
        let weight = |share: &String| {
            let Tally { counts, bytes } = self.shares.get(share).copied().unwrap_or_default();
            let gone = deleted.get(share).copied().unwrap_or_default();
            (counts.iter().chain(&gone).sum::<u64>(), bytes.iter().sum::<u64>())
        };
        let most = self.shares.keys().chain(deleted.keys()).max_by_key(|share| weight(share)).cloned();
        let left = most.and_then(|share| self.shares.get_mut(&share));
        let largest = left.and_then(|tally| tally.bytes.iter_mut().max_by_key(|bytes| **bytes));
        *largest.unwrap_or(&mut self.other_bytes) += bytes as u64;
    }

    pub(crate) fn add_all(&mut self, more: &Self) {
        for (share, Tally { counts, bytes }) in &more.shares {
            for severity in Severity::ALL {
                let at = severity as usize;
                if counts[at] > 0 || bytes[at] > 0 {
                    self.add_many(share, severity, counts[at], bytes[at]);
                }
            }
        }
        self.other_bytes += more.other_bytes;
    }

    /// Alerts of each severity.
    pub(crate) fn counts(&self) -> Counts {
        let mut sum = [0; 4];
        for tally in self.shares.values() {
            sum.iter_mut().zip(tally.counts).for_each(|(sum, count)| *sum += count);
        }
        sum
    }

    /// How many of a share's alerts are of a severity.
    pub(crate) fn count(&self, share: &str, severity: Severity) -> u64 {
        self.shares.get(share).map_or(0, |tally| tally.counts[severity as usize])
    }

    pub(crate) fn total_bytes(&self) -> u64 {
        self.other_bytes + self.shares.values().flat_map(|tally| tally.bytes).sum::<u64>()
    }
}

/// Counts the lines of a segment in their order.
#[derive(Debug, Default)]
pub(crate) struct Counting {
    contents: Contents,
    /// What came after the last commit line.
    batch: Contents,
    /// What is noted as deleted from that batch, and the bytes of the notes.
    deleted: BTreeMap<String, Counts>,
    note_bytes: usize,
}

impl Counting {
    pub(crate) fn record(&mut self, share: &str, severity: Severity, bytes: usize) {
        self.batch.add(share, severity, bytes);
    }

    pub(crate) fn note(&mut self, note: &Deleted, bytes: usize) {
        if note.head.is_some() {
            // It stands between batches.
            return self.other(bytes);
        }
        self.note_bytes += bytes;
        for (share, &counts) in &note.shares {
            add_counts(&mut self.deleted, share, counts);
        }
        if note.shares.is_empty() {
            // Of version 2, which does not say whose they were.
            add_counts(&mut self.deleted, "", note.counts);
        }
    }

    pub(crate) fn commit(&mut self, bytes: usize) {
        let deleted = std::mem::take(&mut self.deleted);
        self.batch.add_commit(bytes + std::mem::take(&mut self.note_bytes), &deleted);
        self.contents.add_all(&std::mem::take(&mut self.batch));
    }

    pub(crate) fn other(&mut self, bytes: usize) {
        self.batch.add_other(bytes);
    }

    pub(crate) fn finish(mut self) -> Contents {
        self.batch.add_other(self.note_bytes);
        self.contents.add_all(&self.batch);
        self.contents
    }
}

/// Adds what was counted of each share.
pub(crate) fn add_counts(total: &mut BTreeMap<String, Counts>, share: &str, more: Counts) {
    let counts = match total.get_mut(share) {
        Some(counts) => counts,
        None => total.entry(share.to_owned()).or_default(),
    };
    counts.iter_mut().zip(more).for_each(|(count, more)| *count += more);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(share: &str, count: u64) -> Deleted {
        let counts = [0, 0, count, 0];
        let shares = BTreeMap::from([(share.to_owned(), counts)]);
        Deleted { deleted: (1, count), counts, shares, link: None, head: None }
    }

    #[test]
    fn a_flood_pays_for_the_batches_that_it_fills() {
        let mut counting = Counting::default();
        counting.record("quiet", Severity::Critical, 100);
        for _ in 0..10 {
            counting.record("loud", Severity::High, 100);
        }
        counting.commit(250);
        counting.other(7);
        counting.record("quiet", Severity::Low, 50);

        let contents = counting.finish();

        assert_eq!(contents.shares["quiet"].bytes, [50, 0, 0, 100]);
        assert_eq!(contents.shares["loud"].bytes, [0, 0, 1250, 0]);
        assert_eq!((contents.counts(), contents.other_bytes), ([1, 0, 10, 1], 7));
        assert_eq!(contents.total_bytes(), 1407);
    }

    #[test]
    fn nobody_pays_for_what_a_flood_left_behind_unless_it_left_alerts() {
        for (left, quiet, loud, other) in [(0, 100, 0, 390), (1, 100, 490, 0)] {
            let mut counting = Counting::default();
            counting.note(&gone("loud", 5), 70);
            counting.record("quiet", Severity::Critical, 100);
            counting.note(&gone("loud", 5), 70);
            (0..left).for_each(|_| counting.record("loud", Severity::Low, 100));
            counting.commit(250);

            let contents = counting.finish();

            let bytes = |share| contents.shares.get(share).map_or(0, |tally| tally.bytes.iter().sum::<u64>());
            assert_eq!((bytes("quiet"), bytes("loud"), contents.other_bytes), (quiet, loud, other));
        }
    }
}
