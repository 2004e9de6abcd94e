//! What is in a segment, by share and severity: retention decides with it. Pure.
//!
//! A share is whose alerts they are ([`crate::line::share_of`]): a module, or the agent for itself, or the agent about
//! a module.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vigie_protocol::severity::Severity;

use crate::line::Counts;

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

    /// Adds the last line of the batch whose alerts these are. Whoever has most of it pays for it: others would pay for
    /// what a flood brought along.
    pub(crate) fn add_commit(&mut self, bytes: usize) {
        let largest = self.shares.values_mut().flat_map(|tally| &mut tally.bytes).max_by_key(|bytes| **bytes);
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
}

impl Counting {
    pub(crate) fn record(&mut self, share: &str, severity: Severity, bytes: usize) {
        self.batch.add(share, severity, bytes);
    }

    pub(crate) fn commit(&mut self, bytes: usize) {
        self.batch.add_commit(bytes);
        self.contents.add_all(&std::mem::take(&mut self.batch));
    }

    pub(crate) fn other(&mut self, bytes: usize) {
        self.batch.add_other(bytes);
    }

    pub(crate) fn finish(mut self) -> Contents {
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
}
