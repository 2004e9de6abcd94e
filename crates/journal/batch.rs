//! Batches as they go to the disk. Sealing (checksums, digests, links) is work for the processor and needs no file: the
//! next batch can be sealed while the one before is being written. Pure.

use std::collections::BTreeMap;

use crate::chain::{self, BatchDigest, Head};
use crate::contents::Contents;
use crate::draft::Draft;
use crate::line::{self, Commit, VERSION};

/// A place in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// Number of the newest alert.
    pub(crate) seq: u64,
    /// Its checksum.
    pub(crate) link: u32,
    pub(crate) head: Head,
}

/// Records that are sealed one after the other, until the batch is [ended](Self::end).
#[derive(Debug)]
pub struct OpenBatch {
    after: Place,
    place: Place,
    bytes: Vec<u8>,
    digest: BatchDigest,
}

impl OpenBatch {
    /// An empty one that follows `after`. `memory` is what an earlier one left, or nothing.
    #[must_use]
    pub fn new(after: Place, memory: Vec<u8>) -> Self {
        Self { after, place: after, bytes: memory, digest: BatchDigest::of_version(VERSION) }
    }

    /// Seals the records of a draft, which follow those that are in it.
    pub fn add(&mut self, draft: &Draft) {
        self.bytes.reserve(draft.bytes() + draft.count() as usize * line::SEALED_MORE_BYTES);
        // Hashed together are lines of one share and severity that follow each other, which most of a batch are.
        let (mut start, mut records) = (self.bytes.len(), 0);
        let mut bodies =
            draft.bodies().map(|body| (line::severity_of_message(body.message), body)).peekable();
        while let Some((severity, body)) = bodies.next() {
            self.place.link = line::seal_record(&mut self.bytes, body.bytes, severity, self.place.link);
            records += 1;
            if bodies.peek().is_none_or(|(next, after)| *next != severity || after.share != body.share) {
                self.digest.add_many(&self.bytes[start..], records, body.share, severity);
                (start, records) = (self.bytes.len(), 0);
            }
        }
        if draft.count() > 0 {
            self.place.seq = draft.last_seq();
        }
    }

    /// Ends the batch with its commit line.
    #[must_use]
    pub fn end(self) -> SealedBatch {
        let Self { after, mut place, mut bytes, digest } = self;
        let mut contents = digest.contents();
        if digest.records() > 0 {
            let start = bytes.len();
            place.head = commit(&mut bytes, digest, &place);
            contents.add_commit(bytes.len() - start, &BTreeMap::new());
        }
        SealedBatch { after, place, bytes, contents }
    }
}

/// A batch that is ready to be written, and can be written again as it is.
#[derive(Debug)]
pub struct SealedBatch {
    after: Place,
    place: Place,
    bytes: Vec<u8>,
    contents: Contents,
}

impl SealedBatch {
    /// A batch of the records of one draft.
    #[must_use]
    pub fn of(draft: &Draft, after: Place) -> Self {
        let mut batch = OpenBatch::new(after, Vec::new());
        batch.add(draft);
        batch.end()
    }

    /// The place in the chain after it: what the next batch follows.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// Its memory for another batch, up to `keep_bytes` of it.
    #[must_use]
    pub fn into_memory(mut self, keep_bytes: usize) -> Vec<u8> {
        self.bytes.clear();
        self.bytes.shrink_to(keep_bytes);
        self.bytes
    }

    /// What it follows.
    pub(crate) fn after(&self) -> Place {
        self.after
    }

    /// Whether there are no records in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Its lines.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn contents(&self) -> &Contents {
        &self.contents
    }
}

/// Appends the commit line of a batch that ends at `place`; returns the head after it.
pub(crate) fn commit(sealed: &mut Vec<u8>, digest: BatchDigest, place: &Place) -> Head {
    let n = digest.records();
    let digests = digest.finish();
    let head = chain::next_head(&place.head, place.seq, n, &digests);
    line::seal_value(sealed, &Commit::new(place.seq, n, digests, head), place.link);
    head
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn draft(records: impl Iterator<Item = (u64, (u8, u8))>) -> Draft {
        let mut draft = Draft::default();
        for (seq, (share, severity)) in records {
            let source = draft.source("t", ["a", "b"][usize::from(share)], None);
            let severity = ["low", "high"][usize::from(severity)];
            draft.push(&source, seq, None, &format!(r#""{{\"severity\":\"{severity}\"}}""#));
        }
        draft
    }

    proptest! {
        /// In however many parts a batch is sealed, the same goes to the disk.
        #[test]
        fn a_batch_that_is_sealed_in_parts_is_the_same(
            records in proptest::collection::vec((0u8..2, 0u8..2), 0..20),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let after = Place { seq: 7, link: 5, ..Place::default() };
            let numbered: Vec<_> = (8..).zip(records).collect();
            let mut whole = OpenBatch::new(after, Vec::new());
            whole.add(&draft(numbered.iter().copied()));
            let mut places: Vec<_> = cuts.iter().map(|cut| cut.index(numbered.len() + 1)).collect();
            places.push(numbered.len());
            places.sort_unstable();
            let mut parts = OpenBatch::new(after, Vec::new());
            let mut start = 0;
            for end in places {
                parts.add(&draft(numbered[start..end].iter().copied()));
                start = end;
            }

            let (whole, parts) = (whole.end(), parts.end());

            prop_assert_eq!(whole.bytes(), parts.bytes());
            prop_assert_eq!(whole.contents(), parts.contents());
            prop_assert_eq!(whole.place(), parts.place());
            prop_assert_eq!(whole.place().seq, 7 + numbered.len() as u64);
        }
    }
}
