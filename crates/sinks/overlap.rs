//! What is sent again after a connection of plain TCP broke.
//!
//! A sender of plain TCP is not told what its receiver has read: what was in the buffers of both hosts is gone when the
//! receiver dies. So the newest bytes that were sent are remembered by number, and a break leads back to before them.

use std::collections::VecDeque;

/// The newest of what was sent.
#[derive(Debug, Clone)]
pub struct Overlap {
    /// Most bytes that are sent again.
    limit: u64,
    /// Number and bytes of each record, in order.
    sent: VecDeque<(u64, u64)>,
    bytes: u64,
    /// Everything up to this number has left the window.
    settled: u64,
}

impl Overlap {
    /// Nothing was sent after number `after`; `limit` is in bytes.
    #[must_use]
    pub fn new(limit: u64, after: u64) -> Self {
        Self { limit, sent: VecDeque::new(), bytes: 0, settled: after }
    }

    /// A record was written.
    pub fn note(&mut self, seq: u64, bytes: u64) {
        self.sent.push_back((seq, bytes));
        self.bytes += bytes;
        // The newest record is always remembered, however long it is.
        while self.bytes > self.limit && self.sent.len() > 1 {
            if let Some((seq, bytes)) = self.sent.pop_front() {
                self.bytes -= bytes;
                self.settled = seq;
            }
        }
    }

    /// Where a restart, or the next connection, begins after a break.
    #[must_use]
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// The connection broke: what was remembered will be written again. Returns after which number.
    pub fn rewind(&mut self) -> u64 {
        self.sent.clear();
        self.bytes = 0;
        self.settled
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_newest_bytes_are_sent_again_and_no_more_than_a_record_above_the_limit(
            sizes in prop::collection::vec(1_u64..5000, 1..60), limit in 0_u64..20_000,
        ) {
            let mut overlap = Overlap::new(limit, 0);
            for (at, size) in sizes.iter().enumerate() {
                overlap.note(at as u64 + 1, *size);
            }
            let after = overlap.rewind();
            let again: u64 = sizes[usize::try_from(after).unwrap()..].iter().sum();
            let total: u64 = sizes.iter().sum();
            let largest = sizes.iter().max().copied().unwrap();
            prop_assert!(again <= limit.max(largest));
            prop_assert!(again + largest >= limit.min(total));
            prop_assert_eq!(overlap.rewind(), after);
        }
    }
}
