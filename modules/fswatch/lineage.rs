//! Which baseline this is, and how far it has got: what the agent's journal is told with every canary, so that who
//! removes all files of the module, puts older ones back or exchanges them is found by the next life.

use crate::codec::{Malformed, Reader, put_number};

/// Bytes of an origin and of a seal.
const BYTES: usize = 16;

/// How far a baseline had got at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Which one: drawn when it was begun.
    pub origin: [u8; BYTES],
    /// Frames that were ever written to it.
    pub number: u64,
    /// The seal of the last of them.
    pub seal: [u8; BYTES],
}

/// What is wrong with a baseline, by what the journal knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// There is none, and there was one.
    Removed,
    /// It is older than what was known already.
    RolledBack {
        /// How many frames are missing.
        missing: u64,
    },
    /// It is another one.
    Exchanged,
}

/// The way of a baseline from its beginning on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lineage {
    /// None for one that an earlier version wrote.
    origin: Option<[u8; BYTES]>,
    /// The one that it took the place of, where that is known: its mark is still in the journal for a while.
    follows: Option<[u8; BYTES]>,
    number: u64,
    /// The seals of the frames since the snapshot, until somebody asked for them.
    seals: Vec<(u64, [u8; BYTES])>,
}

impl Lineage {
    /// That of a baseline which begins now; `drawn` is never drawn again.
    #[must_use]
    pub(crate) fn begun(drawn: [u8; BYTES]) -> Self {
        Self { origin: Some(drawn), ..Self::default() }
    }

    /// Whether a snapshot of it was written by a version that says which one it is.
    #[must_use]
    pub(crate) fn has_origin(&self) -> bool {
        self.origin.is_some()
    }

    /// One frame more was written.
    pub(crate) fn advance(&mut self) {
        self.number += 1;
    }

    /// One frame more was read, with this seal.
    pub(crate) fn read_frame(&mut self, seal: [u8; BYTES]) {
        self.number += 1;
        self.seals.push((self.number, seal));
    }

    /// How far it has got, when its last frame has this seal.
    #[must_use]
    pub(crate) fn mark(&self, seal: [u8; BYTES]) -> Option<Mark> {
        Some(Mark { origin: self.origin?, number: self.number, seal })
    }

    /// Adds it to the end of a snapshot.
    pub(crate) fn put(&self, buffer: &mut Vec<u8>) {
        let Some(origin) = self.origin else { return };
        buffer.extend_from_slice(&origin);
        put_number(buffer, self.number);
        match self.follows {
            None => buffer.push(0),
            Some(follows) => {
                buffer.push(1);
                buffer.extend_from_slice(&follows);
            }
        }
    }

    /// Reads what [`Lineage::put`] added; nothing is what an earlier version added.
    ///
    /// # Errors
    /// When it is neither.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        if reader.is_empty() {
            return Ok(Self::default());
        }
        let array = |bytes: &[u8]| bytes.try_into().map_err(|_| Malformed);
        let origin = Some(array(reader.take(BYTES)?)?);
        let number = reader.number()?;
        let follows = if reader.byte()? == 0 { None } else { Some(array(reader.take(BYTES)?)?) };
        Ok(Self { origin, follows, number, seals: Vec::new() })
    }

    /// Compares it with what the journal was told last. `is_new` says that nothing was found on disk that could be
    /// trusted. What the journal knows of another one is remembered as what came before: it is told once.
    pub(crate) fn compare(&mut self, told: &Mark, is_new: bool) -> Option<Doubt> {
        let seals = std::mem::take(&mut self.seals);
        if self.origin.is_none() || self.follows == Some(told.origin) {
            return None;
        }
        if self.origin != Some(told.origin) {
            self.follows = Some(told.origin);
            return Some(if is_new { Doubt::Removed } else { Doubt::Exchanged });
        }
        if self.number < told.number {
            return Some(Doubt::RolledBack { missing: told.number - self.number });
        }
        let is_other = seals.iter().any(|(number, seal)| *number == told.number && *seal != told.seal);
        is_other.then_some(Doubt::Exchanged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_back(lineage: &Lineage) -> Lineage {
        let mut bytes = Vec::new();
        lineage.put(&mut bytes);
        Lineage::read(&mut Reader::new(&bytes)).unwrap()
    }

    #[test]
    fn what_the_journal_was_told_shows_whether_the_baseline_is_the_same_and_no_older() {
        let mut lineage = Lineage::begun([1; BYTES]);
        lineage.advance();
        let at_snapshot = read_back(&lineage);
        lineage.advance();
        let told = lineage.mark([7; BYTES]).unwrap();
        let after = |seal| {
            let mut read = at_snapshot.clone();
            read.read_frame(seal);
            read
        };

        assert_eq!(after([7; BYTES]).compare(&told, false), None);
        assert_eq!(after([8; BYTES]).compare(&told, false), Some(Doubt::Exchanged));
        assert_eq!(at_snapshot.clone().compare(&told, false), Some(Doubt::RolledBack { missing: 1 }));
        // With a later snapshot the seal is not there any more.
        lineage.advance();
        assert_eq!(read_back(&lineage).compare(&told, false), None);
    }

    #[test]
    fn another_baseline_is_told_once() {
        let told = Mark { origin: [1; BYTES], number: 9, seal: [0; BYTES] };
        for (is_new, doubt) in [(true, Doubt::Removed), (false, Doubt::Exchanged)] {
            let mut lineage = Lineage::begun([2; BYTES]);
            assert_eq!(lineage.compare(&told, is_new), Some(doubt));
            assert_eq!(read_back(&lineage).compare(&told, false), None);
        }
        assert_eq!(Lineage::default().compare(&told, false), None, "an earlier version's says nothing");
        assert!(Lineage::read(&mut Reader::new(&[1, 2, 3])).is_err());
    }
}
