//! The high-water mark: the number of the newest recorded alert, kept apart from the segments.
//!
//! With it numbers never go back, even when all segments are emptied or deleted, and it is known how many alerts went
//! with them. Two slots of one disk sector each are written in turn, so that a torn write leaves the other one. The
//! mark is written after the segment's own sync: it never names an alert that was not on disk. It is synced when there
//! is time, because nobody should wait for a disk twice: a power loss costs it a second, and only matters when the
//! segments go at the same time.

use std::io;
use std::path::Path;

use vigie_files::durable::{self, DurableFile};

use crate::chain::{Digest, Head};

pub(crate) const FILE_NAME: &str = "high-water";

/// Distance of the slots in bytes: what a disk writes whole.
const SLOT_BYTES: u64 = 512;

/// Bytes of a slot that are used.
const USED_BYTES: usize = 8 + 8 + 4 + 32 + 4;

/// What is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    /// Number of the newest recorded alert.
    pub(crate) seq: u64,
    /// Its checksum.
    pub(crate) link: u32,
    /// Head of the chain after it.
    pub(crate) head: Head,
}

/// The file.
#[derive(Debug)]
pub(crate) struct HighWater {
    file: Option<DurableFile>,
    /// Counts the writes; the slot with the larger count is the newer one.
    writes: u64,
    /// The newest is not on disk yet.
    is_unsynced: bool,
    /// Somebody else took the file away, or put another one in its place.
    replaced: bool,
}

fn encode(mark: &Mark, writes: u64) -> [u8; USED_BYTES] {
    let mut slot = [0; USED_BYTES];
    slot[..8].copy_from_slice(&writes.to_be_bytes());
    slot[8..16].copy_from_slice(&mark.seq.to_be_bytes());
    slot[16..20].copy_from_slice(&mark.link.to_be_bytes());
    slot[20..52].copy_from_slice(&mark.head.0);
    let checksum = crc32fast::hash(&slot[..52]);
    slot[52..].copy_from_slice(&checksum.to_be_bytes());
    slot
}

fn decode(slot: &[u8]) -> Option<(u64, Mark)> {
    let slot: &[u8; USED_BYTES] = slot.get(..USED_BYTES)?.try_into().ok()?;
    let number = |at: usize| slot[at..at + 8].iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
    let short = |at: usize| slot[at..at + 4].iter().fold(0, |number, &byte| number << 8 | u32::from(byte));
    if crc32fast::hash(&slot[..52]) != short(52) || number(0) == 0 || number(8) > crate::line::MAX_SEQ {
        return None;
    }
    let mut head = [0; 32];
    head.copy_from_slice(&slot[20..52]);
    Some((number(0), Mark { seq: number(8), link: short(16), head: Digest(head) }))
}

/// The newer of the slots that are whole.
pub(crate) fn read(directory: &Path) -> Option<Mark> {
    newest(directory).map(|(_, mark)| mark)
}

fn newest(directory: &Path) -> Option<(u64, Mark)> {
    let content = durable::read_bounded(&directory.join(FILE_NAME), 1 << 16).ok()?;
    let slots = [content.get(..), content.get(SLOT_BYTES as usize..)];
    slots.into_iter().flatten().filter_map(decode).max_by_key(|(writes, _)| *writes)
}

impl HighWater {
    /// Reads the mark; the file is opened by the first write.
    pub(crate) fn open(directory: &Path) -> (Self, Option<Mark>) {
        let found = newest(directory);
        let writes = found.map_or(0, |(writes, _)| writes);
        (Self { file: None, writes, is_unsynced: false, replaced: false }, found.map(|(_, mark)| mark))
    }

    /// Writes the mark, for [`Self::sync`] to bring it to the disk. After an error the next write begins with a new
    /// file.
    ///
    /// # Errors
    /// When it cannot be written to disk.
    pub(crate) fn write(&mut self, directory: &Path, mark: &Mark) -> io::Result<()> {
        let written = self.try_write(directory, mark);
        self.is_unsynced = written.is_ok();
        if written.is_err() {
            self.file = None;
        }
        written
    }

    /// Whether somebody else took the file away since the last call.
    pub(crate) fn take_replaced(&mut self) -> bool {
        std::mem::take(&mut self.replaced)
    }

    /// Whether there is something to sync.
    pub(crate) fn is_unsynced(&self) -> bool {
        self.is_unsynced
    }

    /// Returns when what was written is on disk. After an error the next write begins with a new file.
    ///
    /// # Errors
    /// When it cannot be written to disk.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.is_unsynced = false;
        let synced = self.file.as_mut().map_or(Ok(()), DurableFile::sync);
        if synced.is_err() {
            self.file = None;
        }
        synced
    }

    fn try_write(&mut self, directory: &Path, mark: &Mark) -> io::Result<()> {
        let path = directory.join(FILE_NAME);
        self.writes += 1;
        let slot = encode(mark, self.writes);
        let is_ours = match &self.file {
            Some(file) => !matches!(file.standing()?, durable::Standing::Replaced),
            None => false,
        };
        if !is_ours {
            self.replaced |= self.file.is_some();
            // A whole new file: what is there may be anything, and a failed sync must not be tried again on it.
            let mut content = vec![0; SLOT_BYTES as usize + USED_BYTES];
            content[..USED_BYTES].copy_from_slice(&slot);
            content[SLOT_BYTES as usize..].copy_from_slice(&slot);
            durable::replace(&path, &content, durable::Durability::Power)?;
            self.file = Some(DurableFile::open(&path)?);
            return Ok(());
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_at(&slot, self.writes % 2 * SLOT_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn mark(seq: u64) -> Mark {
        Mark { seq, link: 7, head: Digest([3; 32]) }
    }

    #[test]
    fn the_newest_mark_is_read_and_one_torn_slot_costs_one_step() {
        let directory = tempfile::tempdir().unwrap();
        let (mut high_water, none) = HighWater::open(directory.path());
        assert_eq!(none, None);
        for seq in 1..=5 {
            high_water.write(directory.path(), &mark(seq)).unwrap();
            assert_eq!(read(directory.path()), Some(mark(seq)));
        }
        let path = directory.path().join(FILE_NAME);
        let whole = fs::read(&path).unwrap();

        let mut found = std::collections::BTreeSet::new();
        for slot in 0..2 {
            let mut torn = whole.clone();
            torn[slot * 512 + 10] ^= 1;
            fs::write(&path, torn).unwrap();
            found.insert(read(directory.path()).unwrap().seq);
        }

        assert_eq!(found, [4, 5].into());
    }

    #[test]
    fn a_file_that_somebody_took_away_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let (mut high_water, _) = HighWater::open(directory.path());
        high_water.write(directory.path(), &mark(1)).unwrap();
        fs::remove_file(directory.path().join(FILE_NAME)).unwrap();

        assert!(!high_water.take_replaced());
        high_water.write(directory.path(), &mark(2)).unwrap();

        assert_eq!(read(directory.path()), Some(mark(2)));
        assert!(high_water.take_replaced() && !high_water.take_replaced());
    }
}
