//! The blocks of a baseline: sorted entries, of which each says only how its key differs from the one before it.

use crate::codec::{Reader, put_bytes, put_number};

/// Entries of a block that is cut in two when one more comes.
pub(super) const BLOCK_ENTRIES: usize = 64;

/// The first key of a block.
pub(super) type FirstKey = Box<[u8]>;

/// Entries in the order of their keys. Each is: bytes shared with the key before it, rest of the key, length of
/// the object, object.
#[derive(Debug, Default, Clone)]
pub(super) struct Block {
    pub(super) entries: u16,
    pub(super) bytes: Vec<u8>,
}

/// One entry while a block is read.
pub(super) struct Entry<'a> {
    pub(super) object: &'a [u8],
    /// Where the entry is in the block.
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Reads a block's entries in their order; `key` holds the key of the last one.
pub(super) struct Entries<'a> {
    block: &'a [u8],
    pub(super) at: usize,
    pub(super) key: Vec<u8>,
}

impl<'a> Entries<'a> {
    pub(super) fn of(block: &'a Block) -> Self {
        Self { block: &block.bytes, at: 0, key: Vec::new() }
    }

    pub(super) fn next(&mut self) -> Option<Entry<'a>> {
        let start = self.at;
        let mut reader = Reader::new(self.block.get(start..)?);
        if reader.is_empty() {
            return None;
        }
        // Only this file writes blocks, so none is malformed.
        let shared = reader.number_as::<usize>().ok()?;
        let rest = reader.bytes().ok()?;
        let object = reader.bytes().ok()?;
        self.key.truncate(shared);
        self.key.extend_from_slice(rest);
        self.at = self.block.len() - reader.rest().len();
        Some(Entry { object, start, end: self.at })
    }
}

pub(super) fn shared_length(one: &[u8], other: &[u8]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

pub(super) fn put_entry(buffer: &mut Vec<u8>, before: &[u8], key: &[u8], object: &[u8]) {
    let shared = shared_length(before, key);
    put_number(buffer, shared as u64);
    put_bytes(buffer, &key[shared..]);
    put_bytes(buffer, object);
}

/// Blocks that are filled one after the other, in the order of keys.
#[derive(Default)]
pub(super) struct Blocks {
    done: Vec<(FirstKey, Block)>,
    /// Entries of the first one; 0 for as many as of the others.
    pub(super) first_most: usize,
    /// The first key of the one that is being filled.
    first: FirstKey,
    filling: Block,
    /// The last key that was put.
    last: Vec<u8>,
}

impl Blocks {
    pub(super) fn put(&mut self, key: &[u8], object: &[u8]) {
        let most = match self.first_most {
            most @ 1.. if self.done.is_empty() => most,
            _ => BLOCK_ENTRIES,
        };
        if usize::from(self.filling.entries) >= most {
            self.close();
        }
        if self.filling.entries == 0 {
            self.first = key.into();
            self.last.clear();
        }
        put_entry(&mut self.filling.bytes, &self.last, key, object);
        self.filling.entries += 1;
        self.last.clear();
        self.last.extend_from_slice(key);
    }

    pub(super) fn ends_with(&self, key: &[u8]) -> bool {
        self.filling.entries > 0 && self.last == key
    }

    pub(super) fn close(&mut self) {
        let mut block = std::mem::take(&mut self.filling);
        block.bytes.shrink_to_fit();
        self.done.push((std::mem::take(&mut self.first), block));
    }

    pub(super) fn finish(mut self) -> Vec<(FirstKey, Block)> {
        if self.filling.entries > 0 {
            self.close();
        }
        self.done
    }
}

/// What putting an entry into a block did.
pub(super) struct Put {
    pub(super) is_new: bool,
    /// It stands at the end of the block.
    pub(super) is_last: bool,
    pub(super) bytes_before: usize,
    pub(super) bytes_after: usize,
}

impl Block {
    /// Puts an entry in its place; one of the same key is replaced.
    pub(super) fn put(&mut self, key: &[u8], object: &[u8]) -> Put {
        let block = self;
        let bytes_before = block.bytes.len();
        let mut entries = Entries::of(block);
        let mut before: Vec<u8> = Vec::new();
        // The entry that the new one replaces, or stands before.
        let (mut start, mut end) = (block.bytes.len(), block.bytes.len());
        let mut next: Option<(Vec<u8>, Vec<u8>)> = None;
        let mut replaces = false;
        while let Some(entry) = entries.next() {
            match entries.key.as_slice().cmp(key) {
                std::cmp::Ordering::Less => before.clone_from(&entries.key),
                std::cmp::Ordering::Equal => {
                    (start, end, replaces) = (entry.start, entry.end, true);
                    break;
                }
                std::cmp::Ordering::Greater => {
                    (start, end) = (entry.start, entry.end);
                    next = Some((entries.key.clone(), entry.object.to_vec()));
                    break;
                }
            }
        }
        // The entry after a replaced one keeps what it shares with it: the key is the same.
        let mut inserted = Vec::with_capacity(key.len() + object.len() + 8);
        put_entry(&mut inserted, &before, key, object);
        if let Some((next_key, next_object)) = &next {
            put_entry(&mut inserted, key, next_key, next_object);
        }
        let more = inserted.len().saturating_sub(end - start);
        block.bytes.reserve_exact(more);
        block.bytes.splice(start..end, inserted);
        if !replaces {
            block.entries += 1;
        }
        Put {
            is_new: !replaces,
            is_last: !replaces && next.is_none(),
            bytes_before,
            bytes_after: block.bytes.len(),
        }
    }
}
