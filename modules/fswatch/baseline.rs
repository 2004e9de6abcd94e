//! What is known of every watched object: a sorted map from path to object that needs little memory.
//!
//! A path is kept as the path of its directory, a NUL byte and its name, so that the names of a directory stand
//! side by side. The sorted entries are cut into blocks; in a block each path says only how it differs from the one
//! before it, and each object is as small as [`codec`](crate::codec) makes it.

mod blocks;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::ops::Bound;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use self::blocks::{BLOCK_ENTRIES, Block, Blocks, Entries, FirstKey, Put, put_entry};
use crate::codec::{Malformed, Reader, Tables};
use crate::linked::FileId;
use crate::object::{Kind, Object};

/// The key of a path.
#[must_use]
pub fn key_of(path: &Path) -> Vec<u8> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Vec::new() };
    let mut key = children_prefix(parent);
    key.extend_from_slice(name.as_bytes());
    key
}

/// The path of a key.
#[must_use]
pub fn path_of(key: &[u8]) -> PathBuf {
    let Some(end) = key.iter().rposition(|byte| *byte == 0) else { return PathBuf::from("/") };
    let mut path = Vec::with_capacity(key.len());
    path.extend_from_slice(&key[..end]);
    path.push(b'/');
    path.extend_from_slice(&key[end + 1..]);
    PathBuf::from(OsString::from_vec(path))
}

/// What the keys of a directory's names begin with.
fn children_prefix(directory: &Path) -> Vec<u8> {
    let bytes = directory.as_os_str().as_bytes();
    let bytes = if bytes == b"/" { &[][..] } else { bytes };
    let mut prefix = Vec::with_capacity(bytes.len() + 32);
    prefix.extend_from_slice(bytes);
    prefix.push(0);
    prefix
}

/// What the keys of everything below a directory's own directories begin with.
fn deeper_prefix(directory: &Path) -> Vec<u8> {
    let mut prefix = children_prefix(directory);
    if let Some(last) = prefix.last_mut() {
        *last = b'/';
    }
    prefix
}

/// The map.
#[derive(Debug, Clone, Default)]
pub struct Baseline {
    tables: Tables,
    /// By the first key.
    blocks: BTreeMap<FirstKey, Block>,
    objects: usize,
    /// Bytes of all blocks.
    bytes: usize,
    buffer: Vec<u8>,
}

impl Baseline {
    /// Number of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects == 0
    }

    /// Bytes that all objects with their paths take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What objects share.
    #[must_use]
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// What objects share, to add what a store holds.
    pub(crate) fn tables_mut(&mut self) -> &mut Tables {
        &mut self.tables
    }

    fn block_of(&self, key: &[u8]) -> Option<(&[u8], &Block)> {
        let range = (Bound::Unbounded, Bound::Included(key));
        self.blocks.range::<[u8], _>(range).next_back().map(|(first, block)| (&**first, block))
    }

    /// What is known of a path.
    #[must_use]
    pub fn get(&self, path: &Path) -> Option<Object> {
        let key = key_of(path);
        let (_, block) = self.block_of(&key)?;
        let mut entries = Entries::of(block);
        while let Some(entry) = entries.next() {
            match entries.key.as_slice().cmp(&key) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return self.tables.decode(&mut Reader::new(entry.object)).ok(),
                std::cmp::Ordering::Greater => return None,
            }
        }
        None
    }

    /// Whether anything is known of a path.
    #[must_use]
    pub fn contains(&self, path: &Path) -> bool {
        let mut cursor = Cursor { baseline: self, block: Bound::Unbounded, entries: None };
        let key = key_of(path);
        cursor.seek(&key);
        cursor.next_entry().is_some_and(|(found, _)| found == key)
    }

    /// Takes an object as known.
    pub fn insert(&mut self, path: &Path, object: &Object) {
        let key = key_of(path);
        let mut encoded = std::mem::take(&mut self.buffer);
        encoded.clear();
        self.tables.encode(object, &mut encoded);
        self.put(&key, &encoded);
        self.buffer = encoded;
    }

    /// Takes objects of one directory, in the order of their names, as known unless they are known already; gives the
    /// places in `objects` of those that are. Each block is read once for all of them.
    pub(crate) fn insert_new_names(
        &mut self,
        directory: &Path,
        objects: &[(OsString, Object)],
    ) -> Vec<usize> {
        let prefix = children_prefix(directory);
        let key_of = |name: &OsString| [prefix.as_slice(), name.as_bytes()].concat();
        let mut known = Vec::new();
        let mut place = 0;
        let mut encoded = std::mem::take(&mut self.buffer);
        while let Some((name, _)) = objects.get(place) {
            let mut key = key_of(name);
            let (first, end) = self.bounds_of(&key);
            // What comes before everything joins the first block: directories may come in the opposite order.
            let is_ahead = first.as_deref().is_none_or(|first| key.as_slice() < first);
            let before = first.and_then(|first| self.blocks.remove(&first)).unwrap_or_default();
            self.bytes -= before.bytes.len();
            let mut merged = Blocks::default();
            if is_ahead {
                let is_inside = |name: &OsString| end.as_ref().is_none_or(|end| *key_of(name) < **end);
                let more = objects[place..].partition_point(|(name, _)| is_inside(name));
                merged.first_most = (usize::from(before.entries) + more) % BLOCK_ENTRIES;
            }
            let mut entries = Entries::of(&before);
            let mut old = entries.next();
            loop {
                while let Some(entry) = old.as_ref().filter(|_| entries.key < key) {
                    merged.put(&entries.key, entry.object);
                    old = entries.next();
                }
                if old.is_some() && entries.key == key || merged.ends_with(&key) {
                    known.push(place);
                } else {
                    encoded.clear();
                    self.tables.encode(&objects[place].1, &mut encoded);
                    merged.put(&key, &encoded);
                    self.objects += 1;
                }
                place += 1;
                let Some((name, _)) = objects.get(place) else { break };
                key.truncate(prefix.len());
                key.extend_from_slice(name.as_bytes());
                if end.as_deref().is_some_and(|end| key.as_slice() >= end) {
                    break;
                }
            }
            while let Some(entry) = old {
                merged.put(&entries.key, entry.object);
                old = entries.next();
            }
            for (first, block) in merged.finish() {
                self.bytes += block.bytes.len();
                self.blocks.insert(first, block);
            }
        }
        self.buffer = encoded;
        known
    }

    /// The first key of the block that a key belongs into, and of the one after it.
    fn bounds_of(&self, key: &[u8]) -> (Option<FirstKey>, Option<FirstKey>) {
        let range = (Bound::Unbounded, Bound::Included(key));
        let first = self.blocks.range::<[u8], _>(range).next_back().or_else(|| self.blocks.first_key_value());
        let Some((first, _)) = first else { return (None, None) };
        let after = (Bound::Excluded(&**first), Bound::Unbounded);
        let end = self.blocks.range::<[u8], _>(after).next();
        (Some(first.clone()), end.map(|(end, _)| end.clone()))
    }

    /// Takes an encoded object as known; the tables have what it names.
    fn put(&mut self, key: &[u8], object: &[u8]) {
        let range = (Bound::Unbounded, Bound::Included(key));
        let Some((first, block)) = self.blocks.range_mut::<[u8], _>(range).next_back() else {
            // Before every other: it joins the first block, which gets another first key.
            let mut block = match self.blocks.pop_first() {
                Some((_, block)) => block,
                None => Block::default(),
            };
            let put = block.put(key, object);
            self.note_put(&put);
            let overfull = put.is_last;
            if usize::from(block.entries) > BLOCK_ENTRIES {
                self.cut(key.into(), &block, overfull);
            } else {
                self.blocks.insert(key.into(), block);
            }
            return;
        };
        let put = block.put(key, object);
        if usize::from(block.entries) > BLOCK_ENTRIES {
            let first = first.clone();
            if let Some(block) = self.blocks.remove(&first) {
                self.cut(first, &block, put.is_last);
            }
        }
        self.note_put(&put);
    }

    fn note_put(&mut self, put: &Put) {
        self.objects += usize::from(put.is_new);
        self.bytes = self.bytes + put.bytes_after - put.bytes_before;
    }
}

impl Baseline {
    /// Cuts a block in two: in the middle, or before its last entry when entries come in their order, so that
    /// blocks are full after a scan.
    fn cut(&mut self, first: Box<[u8]>, block: &Block, in_order: bool) {
        let at = if in_order { block.entries - 1 } else { block.entries / 2 };
        let mut entries = Entries::of(block);
        for _ in 0..at {
            entries.next();
        }
        let left = Block { entries: at, bytes: block.bytes[..entries.at].into() };
        let mut right = Block { entries: block.entries - at, bytes: Vec::new() };
        let mut second: Box<[u8]> = Box::default();
        if let Some(entry) = entries.next() {
            put_entry(&mut right.bytes, &[], &entries.key, entry.object);
            right.bytes.extend_from_slice(&block.bytes[entry.end..]);
            right.bytes.shrink_to_fit();
            second = entries.key.as_slice().into();
        }
        // The second block's first key is written in full.
        self.bytes += left.bytes.len() + right.bytes.len() - block.bytes.len();
        self.blocks.insert(first, left);
        self.blocks.insert(second, right);
    }

    /// Forgets a path; whether it was known.
    pub fn remove(&mut self, path: &Path) -> bool {
        let key = key_of(path);
        let Some(first) = self.block_of(&key).map(|(first, _)| first.to_vec()) else { return false };
        let Some(mut block) = self.blocks.remove(first.as_slice()) else { return false };
        let mut entries = Entries::of(&block);
        let mut before: Vec<u8> = Vec::new();
        let mut found = None;
        while let Some(entry) = entries.next() {
            if entries.key == key {
                found = Some((entry.start, entry.end));
                break;
            }
            before.clone_from(&entries.key);
        }
        let Some((start, mut end)) = found else {
            self.blocks.insert(first.into(), block);
            return false;
        };
        let mut replacement = Vec::new();
        if let Some(next) = entries.next() {
            put_entry(&mut replacement, &before, &entries.key, next.object);
            end = next.end;
        }
        let new_first = if start == 0 { entries.key.clone() } else { first };
        self.bytes -= block.bytes.len();
        block.bytes.splice(start..end, replacement);
        block.bytes.shrink_to_fit();
        block.entries -= 1;
        self.objects -= 1;
        if block.entries > 0 {
            self.bytes += block.bytes.len();
            self.blocks.insert(new_first.into(), block);
        }
        true
    }

    /// What is known in a directory, by name.
    #[must_use]
    pub fn children(&self, directory: &Path) -> Vec<(OsString, Object)> {
        self.children_after(directory, None, usize::MAX)
    }

    /// The first `most` names that are known in a directory after one of them.
    #[must_use]
    pub(crate) fn children_after(
        &self,
        directory: &Path,
        after: Option<&OsStr>,
        most: usize,
    ) -> Vec<(OsString, Object)> {
        let prefix = children_prefix(directory);
        let from = after.map(|name| [prefix.as_slice(), name.as_bytes()].concat());
        let mut cursor = self.cursor(from.as_deref().unwrap_or(&prefix));
        let mut children = Vec::new();
        while children.len() < most
            && let Some((key, object)) = cursor.next_entry()
        {
            let Some(name) = key.strip_prefix(prefix.as_slice()) else { break };
            if after.is_some_and(|after| after.as_bytes() == name) {
                continue;
            }
            if let Ok(object) = self.tables.decode(&mut Reader::new(object)) {
                children.push((OsString::from_vec(name.to_vec()), object));
            }
        }
        children
    }

    /// The known files with these devices and inodes, after a path in the order of the map: of so many `entries`, and
    /// so many `files` of them; with the last path that was looked at, when there are more.
    #[must_use]
    pub(crate) fn files_of(
        &self,
        is_wanted: impl Fn(FileId) -> bool,
        after: Option<&Path>,
        (entries, files): (usize, usize),
    ) -> (Vec<(PathBuf, FileId)>, Option<PathBuf>) {
        let after = after.map(key_of);
        let mut cursor = self.cursor(after.as_deref().unwrap_or_default());
        let (mut found, mut count) = (Vec::new(), 0);
        while let Some((key, object)) = cursor.next_entry() {
            if after.as_deref() == Some(key) {
                continue;
            }
            count += 1;
            if let Ok(object) = self.tables.decode(&mut Reader::new(object))
                && object.kind == Kind::File
                && is_wanted((object.device, object.inode))
            {
                found.push((path_of(key), (object.device, object.inode)));
            }
            if count >= entries || found.len() >= files {
                return (found, Some(path_of(key)));
            }
        }
        (found, None)
    }

    /// The known paths at a path and below it.
    #[must_use]
    pub fn tree(&self, path: &Path) -> Vec<PathBuf> {
        let mut paths = self.tree_after(path, None, usize::MAX);
        paths.sort();
        paths
    }

    /// The first `most` of the known paths at a path and below it, after one of them in the order in which this gives
    /// them.
    #[must_use]
    pub(crate) fn tree_after(&self, path: &Path, after: Option<&Path>, most: usize) -> Vec<PathBuf> {
        let mut found: Vec<_> =
            (after.is_none() && self.contains(path)).then(|| path.to_owned()).into_iter().collect();
        let after = after.filter(|after| *after != path).map(key_of);
        let [children, deeper] = [children_prefix(path), deeper_prefix(path)];
        let is_past_children =
            after.as_ref().is_some_and(|after| after.starts_with(&deeper) && !after.starts_with(&children));
        let ranges = if is_past_children { vec![deeper] } else { vec![children, deeper] };
        for prefix in ranges {
            let from = after.as_ref().filter(|after| after.starts_with(&prefix)).unwrap_or(&prefix);
            let mut cursor = self.cursor(from);
            while found.len() < most
                && let Some((key, _)) = cursor.next_entry()
                && key.starts_with(&prefix)
            {
                if after.as_deref() != Some(key) {
                    found.push(path_of(key));
                }
            }
        }
        found
    }

    /// The last `most` known paths below a directory in the order of the map, the last one first: what is in a
    /// directory comes before the directory itself.
    #[must_use]
    pub(crate) fn last_below(&self, directory: &Path, most: usize) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for prefix in [deeper_prefix(directory), children_prefix(directory)] {
            let mut end = prefix.clone();
            if let Some(last) = end.last_mut() {
                *last += 1;
            }
            let range = (Bound::Unbounded, Bound::Excluded(end.as_slice()));
            for (first, block) in self.blocks.range::<[u8], _>(range).rev() {
                if found.len() >= most {
                    return found;
                }
                let mut keys = Vec::new();
                let mut entries = Entries::of(block);
                while entries.next().is_some() {
                    if entries.key.starts_with(&prefix) {
                        keys.push(path_of(&entries.key));
                    }
                }
                let room = most - found.len();
                found.extend(keys.into_iter().rev().take(room));
                if **first < *prefix {
                    break;
                }
            }
        }
        found
    }

    /// How many paths are known below a directory. Only at the ends blocks are read for it.
    #[must_use]
    pub(crate) fn count_below(&self, directory: &Path) -> usize {
        let mut count = 0;
        for prefix in [children_prefix(directory), deeper_prefix(directory)] {
            let mut end = prefix.clone();
            if let Some(last) = end.last_mut() {
                *last += 1;
            }
            let range = (Bound::Unbounded, Bound::Excluded(end.as_slice()));
            let mut is_last = true;
            for (first, block) in self.blocks.range::<[u8], _>(range).rev() {
                let begins_inside = **first >= *prefix;
                if begins_inside && !is_last {
                    count += usize::from(block.entries);
                } else {
                    let mut entries = Entries::of(block);
                    while entries.next().is_some() {
                        count += usize::from(entries.key.starts_with(&prefix));
                    }
                }
                is_last = false;
                if !begins_inside {
                    break;
                }
            }
        }
        count
    }

    /// The names directly below a directory below which anything is known.
    #[must_use]
    pub fn ways(&self, directory: &Path) -> Vec<OsString> {
        let prefix = deeper_prefix(directory);
        let mut names = BTreeSet::new();
        let mut from = prefix.clone();
        loop {
            let mut cursor = self.cursor(&from);
            let rest = cursor.next_entry().and_then(|(key, _)| key.strip_prefix(prefix.as_slice()));
            let Some(rest) = rest else { return names.into_iter().collect() };
            let end = rest.iter().position(|byte| matches!(byte, 0 | b'/')).unwrap_or(rest.len());
            // Past all keys that go on like this one; other names may stand between those of one name.
            let last = rest.get(end).copied().unwrap_or_default();
            from.truncate(prefix.len());
            from.extend_from_slice(&rest[..end]);
            from.push(last + 1);
            names.insert(OsString::from_vec(rest[..end].to_vec()));
        }
    }

    /// Entries from a key on.
    fn cursor(&self, key: &[u8]) -> Cursor<'_> {
        let mut cursor = Cursor { baseline: self, block: Bound::Unbounded, entries: None };
        cursor.seek(key);
        cursor
    }

    /// At most `most` paths and objects after `path` in the order of the map; from the beginning without one.
    #[must_use]
    pub fn after(&self, path: Option<&Path>, most: usize) -> Vec<(PathBuf, Object)> {
        let key = path.map(key_of);
        let mut cursor = self.cursor(key.as_deref().unwrap_or_default());
        let mut found = Vec::new();
        while found.len() < most
            && let Some((at, object)) = cursor.next_entry()
        {
            if key.as_deref() == Some(at) {
                continue;
            }
            if let Ok(object) = self.tables.decode(&mut Reader::new(object)) {
                found.push((path_of(at), object));
            }
        }
        found
    }

    /// Forgets every path that is not wanted; returns those.
    pub fn retain(&mut self, wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
        let mut cursor = self.cursor(&[]);
        let mut surplus = Vec::new();
        while let Some((key, _)) = cursor.next_entry() {
            let path = path_of(key);
            if !wanted(&path) {
                surplus.push(path);
            }
        }
        for path in &surplus {
            self.remove(path);
        }
        surplus
    }

    /// The blocks as they are, for the store; each begins with its whole first key.
    pub fn blocks(&self) -> impl Iterator<Item = &[u8]> {
        self.blocks.values().map(|block| block.bytes.as_slice())
    }

    /// Adds a block that [`Baseline::blocks`] gave, after all that are there.
    ///
    /// # Errors
    /// When it is none, its objects are not known to the tables, or its keys are not after all others.
    pub(crate) fn add_block(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(bytes);
        let mut key: Vec<u8> = Vec::new();
        let mut first: Option<Box<[u8]>> = None;
        let mut entries = 0_u16;
        while !reader.is_empty() {
            let shared = reader.number_as::<usize>()?;
            let rest = reader.bytes()?;
            let object = reader.bytes()?;
            if shared > key.len() {
                return Err(Malformed);
            }
            let is_after = match (&first, rest.first()) {
                (None, _) => self.blocks.last_key_value().is_none_or(|(last, _)| **last < *rest),
                (Some(_), Some(next)) => key.get(shared).is_none_or(|known| known < next),
                (Some(_), None) => false,
            };
            if !is_after {
                return Err(Malformed);
            }
            key.truncate(shared);
            key.extend_from_slice(rest);
            first.get_or_insert_with(|| key.as_slice().into());
            let mut object = Reader::new(object);
            self.tables.decode(&mut object)?;
            if !object.is_empty() {
                return Err(Malformed);
            }
            entries = entries.checked_add(1).ok_or(Malformed)?;
        }
        let first = first.ok_or(Malformed)?;
        self.objects += usize::from(entries);
        self.bytes += bytes.len();
        self.blocks.insert(first, Block { entries, bytes: bytes.into() });
        Ok(())
    }
}

/// Goes through entries over the borders of blocks.
struct Cursor<'a> {
    baseline: &'a Baseline,
    /// The next block is after this one.
    block: Bound<&'a [u8]>,
    entries: Option<Entries<'a>>,
}

impl<'a> Cursor<'a> {
    /// Goes to the first entry that is not before a key.
    fn seek(&mut self, key: &[u8]) {
        let Some((first, block)) = self
            .baseline
            .block_of(key)
            .or_else(|| self.baseline.blocks.first_key_value().map(|(first, block)| (&**first, block)))
        else {
            return;
        };
        self.block = Bound::Excluded(first);
        let mut entries = Entries::of(block);
        loop {
            let (at, last) = (entries.at, entries.key.clone());
            match entries.next() {
                Some(_) if entries.key.as_slice() < key => {}
                _ => {
                    (entries.at, entries.key) = (at, last);
                    break;
                }
            }
        }
        self.entries = Some(entries);
    }

    /// The next key and its encoded object.
    fn next_entry(&mut self) -> Option<(&[u8], &'a [u8])> {
        loop {
            let entries = self.entries.as_mut()?;
            if let Some(entry) = entries.next() {
                // Borrowed again, because the borrow checker does not see that the loop ends here.
                return self.entries.as_ref().map(|entries| (entries.key.as_slice(), entry.object));
            }
            let range = (self.block, Bound::Unbounded);
            let (first, block) = self.baseline.blocks.range::<[u8], _>(range).next()?;
            self.block = Bound::Excluded(first);
            self.entries = Some(Entries::of(block));
        }
    }
}

#[cfg(test)]
mod tests;
