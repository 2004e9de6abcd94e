//! Reading tables of a database of SQLite without SQLite: the format is documented at
//! <https://www.sqlite.org/fileformat2.html>.
//!
//! A library would create files beside the database, and would read what may be forged by whoever took over the host
//! with code that is not safe. Only what listing a table needs is here: pages, its B-tree, records, and the write-ahead
//! log, in which the newest changes may be.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use vigie_tree::{Place, Status};

/// Longest value that is read, in bytes.
const MAX_VALUE_BYTES: usize = 256 << 20;

/// Most levels of a tree; a page has at least four children.
const MAX_LEVELS: usize = 24;

/// Largest write-ahead log that is read, in bytes.
const MAX_WAL_BYTES: u64 = 4 << 30;

/// Why a database cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SqliteError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is something else, or damaged.
    #[error("is not a valid SQLite database: {0}")]
    Unsound(&'static str),
    /// A program was writing each time.
    #[error("changed while it was read; run the query again")]
    Changed,
}

/// A value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// NULL
    Null,
    /// A whole number.
    Integer(i64),
    /// A number with a point.
    Real(f64),
    /// Text in the encoding of the database, mostly UTF-8.
    Text(Vec<u8>),
    /// Bytes.
    Blob(Vec<u8>),
}

/// What tells that a file is not as it was.
type Stamp = (u64, u64, i64, u32);

/// An open database.
#[derive(Debug)]
pub struct Database {
    place: Place,
    file: File,
    page_bytes: usize,
    /// Of a page, without what extensions reserve.
    usable: usize,
    pages: u32,
    wal: Option<Wal>,
    stamps: [Option<Stamp>; 2],
}

/// The write-ahead log: pages that are newer than in the database.
#[derive(Debug)]
struct Wal {
    file: File,
    /// Where each page's newest content begins.
    pages: HashMap<u32, u64>,
}

fn stamp(place: &Place) -> Option<Stamp> {
    // The change time: nobody sets that one back.
    let Status { inode, size, changed, changed_nanos, .. } = place.status().ok()?;
    Some((inode, size, changed, changed_nanos))
}

fn be16(bytes: &[u8], at: usize) -> Result<usize, SqliteError> {
    let bytes = bytes.get(at..at + 2).ok_or(SqliteError::Unsound("a page is too short"))?;
    Ok(usize::from(bytes[0]) << 8 | usize::from(bytes[1]))
}

fn be32(bytes: &[u8], at: usize) -> Result<u32, SqliteError> {
    let word = bytes.get(at..at + 4).and_then(|bytes| bytes.first_chunk());
    word.map(|word| u32::from_be_bytes(*word)).ok_or(SqliteError::Unsound("a page is too short"))
}

impl Database {
    /// Opens a database, and its write-ahead log when there is one.
    ///
    /// # Errors
    /// When the file cannot be read or is none of SQLite.
    pub fn open(place: &Place) -> Result<Self, SqliteError> {
        let stamps = [stamp(place), stamp(&place.with_end("-wal"))];
        let file = place.open()?;
        let mut header = [0; 100];
        file.read_exact_at(&mut header, 0).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => SqliteError::Unsound("it is too short"),
            _ => error.into(),
        })?;
        if &header[..16] != b"SQLite format 3\0" {
            return Err(SqliteError::Unsound("it begins otherwise"));
        }
        let page_bytes = match be16(&header, 16)? {
            1 => 65_536,
            bytes if bytes.is_power_of_two() && bytes >= 512 => bytes,
            _ => return Err(SqliteError::Unsound("invalid page size")),
        };
        let usable = page_bytes - usize::from(header[20]);
        if usable < 480 {
            return Err(SqliteError::Unsound("pages have no usable space"));
        }
        // What a program that crashed has not put back yet.
        if place.with_end("-journal").status().is_ok_and(|journal| journal.size > 0) {
            return Err(SqliteError::Changed);
        }
        let pages = u32::try_from(file.metadata()?.len() / page_bytes as u64).unwrap_or(u32::MAX);
        let mut database = Self { place: place.clone(), file, page_bytes, usable, pages, wal: None, stamps };
        database.wal = database.read_wal()?;
        Ok(database)
    }

    /// Whether nobody has written since it was opened.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.stamps == [stamp(&self.place), stamp(&self.place.with_end("-wal"))]
    }

    /// Finds the committed pages of the log.
    fn read_wal(&mut self) -> Result<Option<Wal>, SqliteError> {
        let file = match self.place.with_end("-wal").open() {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let length = file.metadata()?.len();
        if length < 32 {
            return Ok(None);
        }
        if length > MAX_WAL_BYTES {
            return Err(SqliteError::Unsound("its log is too long"));
        }
        let mut header = [0; 32];
        file.read_exact_at(&mut header, 0)?;
        let little = match be32(&header, 0)? {
            0x377f_0682 => true,
            0x377f_0683 => false,
            _ => return Ok(None),
        };
        let mut sum = checksum((0, 0), &header[..24], little);
        let page_bytes = be32(&header, 8)? as usize;
        if page_bytes != self.page_bytes || sum != (be32(&header, 24)?, be32(&header, 28)?) {
            return Ok(None);
        }
        let (mut pages, mut pending) = (HashMap::new(), Vec::new());
        let mut frame = vec![0; 24 + page_bytes];
        let mut at = 32;
        while at + frame.len() as u64 <= length {
            file.read_exact_at(&mut frame, at)?;
            sum = checksum(checksum(sum, &frame[..8], little), &frame[24..], little);
            // What an earlier use of the log left behind ends it.
            if frame[8..16] != header[16..24] || sum != (be32(&frame, 16)?, be32(&frame, 20)?) {
                break;
            }
            pending.push((be32(&frame, 0)?, at + 24));
            let committed = be32(&frame, 4)?;
            if committed > 0 {
                pages.extend(pending.drain(..));
                self.pages = committed;
            }
            at += frame.len() as u64;
        }
        Ok(Some(Wal { file, pages }))
    }

    fn page(&self, number: u32) -> Result<Vec<u8>, SqliteError> {
        if number == 0 || number > self.pages {
            return Err(SqliteError::Unsound("it refers to a page that does not exist"));
        }
        let mut page = vec![0; self.page_bytes];
        let logged = self.wal.as_ref().and_then(|wal| Some((&wal.file, *wal.pages.get(&number)?)));
        let (file, at) = logged.unwrap_or((&self.file, u64::from(number - 1) * self.page_bytes as u64));
        file.read_exact_at(&mut page, at)?;
        Ok(page)
    }

    /// The first page of a table's tree; `None` when there is no such table.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn table(&self, name: &str) -> Result<Option<u32>, SqliteError> {
        let mut found = None;
        self.each_row(1, &mut |_, row| {
            if let [Value::Text(kind), Value::Text(named), _, Value::Integer(root), ..] = row
                && kind == b"table"
                && named == name.as_bytes()
            {
                found = u32::try_from(*root).ok();
            }
        })?;
        Ok(found)
    }

    /// Gives each row of the table whose tree begins at a page, with its number, in ascending order.
    ///
    /// # Errors
    /// When the database cannot be read; rows may have been given before.
    pub fn each_row(&self, root: u32, each: &mut dyn FnMut(i64, &[Value])) -> Result<(), SqliteError> {
        // Pages of trees are in them once: whoever met more than there are goes in a circle.
        let mut left = self.pages;
        self.walk(root, 0, &mut left, each)
    }

    fn walk(
        &self,
        number: u32,
        level: usize,
        left: &mut u32,
        each: &mut dyn FnMut(i64, &[Value]),
    ) -> Result<(), SqliteError> {
        *left = left.checked_sub(1).ok_or(SqliteError::Unsound("its tree contains a loop"))?;
        if level > MAX_LEVELS {
            return Err(SqliteError::Unsound("its tree is too deep"));
        }
        let page = self.page(number)?;
        // The first page begins with the header of the database.
        let start = if number == 1 { 100 } else { 0 };
        let cells = be16(&page, start + 3)?;
        let kind = page[start];
        let first = start + if kind == 0x05 { 12 } else { 8 };
        for cell in 0..cells {
            let at = be16(&page, first + 2 * cell)?;
            match kind {
                0x05 => self.walk(be32(&page, at)?, level + 1, left, each)?,
                0x0d => self.leaf_cell(&page, at, left, each)?,
                _ => return Err(SqliteError::Unsound("a page does not belong to a table")),
            }
        }
        match kind {
            0x05 => self.walk(be32(&page, start + 8)?, level + 1, left, each),
            0x0d => Ok(()),
            _ => Err(SqliteError::Unsound("a page does not belong to a table")),
        }
    }

    fn leaf_cell(
        &self,
        page: &[u8],
        at: usize,
        left: &mut u32,
        each: &mut dyn FnMut(i64, &[Value]),
    ) -> Result<(), SqliteError> {
        let mut cell =
            page.get(at..self.usable).ok_or(SqliteError::Unsound("a cell lies outside its page"))?;
        let length = usize::try_from(varint(&mut cell)?).unwrap_or(usize::MAX);
        let rowid = varint(&mut cell)?.cast_signed();
        if length > MAX_VALUE_BYTES {
            return Err(SqliteError::Unsound("a row is too long"));
        }
        let most = self.usable - 35;
        let local = if length <= most {
            length
        } else {
            let least = (self.usable - 12) * 32 / 255 - 23;
            let local = least + (length - least) % (self.usable - 4);
            if local <= most { local } else { least }
        };
        let begin = cell.get(..local).ok_or(SqliteError::Unsound("a cell lies outside its page"))?;
        let mut payload = begin.to_vec();
        let mut next = if local < length { be32(cell, local)? } else { 0 };
        while payload.len() < length {
            *left = left.checked_sub(1).ok_or(SqliteError::Unsound("its pages form a loop"))?;
            let page = self.page(next)?;
            next = be32(&page, 0)?;
            let take = (length - payload.len()).min(self.usable - 4);
            payload.extend_from_slice(&page[4..4 + take]);
        }
        each(rowid, &record(&payload)?);
        Ok(())
    }
}

/// The sums of the log's frames.
fn checksum(mut sum: (u32, u32), bytes: &[u8], little: bool) -> (u32, u32) {
    let word = |bytes: &[u8; 4]| if little { u32::from_le_bytes(*bytes) } else { u32::from_be_bytes(*bytes) };
    let (words, _) = bytes.as_chunks::<4>();
    for pair in words.chunks_exact(2) {
        sum.0 = sum.0.wrapping_add(word(&pair[0])).wrapping_add(sum.1);
        sum.1 = sum.1.wrapping_add(word(&pair[1])).wrapping_add(sum.0);
    }
    sum
}

/// A number of 1 to 9 bytes.
fn varint(bytes: &mut &[u8]) -> Result<u64, SqliteError> {
    let mut number = 0_u64;
    for nth in 0..9 {
        let (byte, rest) = bytes.split_first().ok_or(SqliteError::Unsound("a number is truncated"))?;
        *bytes = rest;
        if nth == 8 {
            return Ok(number << 8 | u64::from(*byte));
        }
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            break;
        }
    }
    Ok(number)
}

/// The values of a row.
fn record(payload: &[u8]) -> Result<Vec<Value>, SqliteError> {
    let cut = SqliteError::Unsound("a row is truncated");
    let mut rest = payload;
    let header = usize::try_from(varint(&mut rest)?).unwrap_or(usize::MAX);
    let begin = payload.len() - rest.len();
    let Some((mut kinds, mut data)) = payload.split_at_checked(header).filter(|_| header >= begin) else {
        return Err(cut);
    };
    kinds = &kinds[begin..];
    let mut values = Vec::new();
    while !kinds.is_empty() {
        let kind = varint(&mut kinds)?;
        let length = match kind {
            0 | 8 | 9 => 0,
            1..=4 => kind,
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return Err(SqliteError::Unsound("a value has an unknown type")),
            _ => (kind - 12) / 2,
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some((bytes, after)) = data.split_at_checked(length) else { return Err(cut) };
        data = after;
        values.push(match kind {
            0 => Value::Null,
            8 => Value::Integer(0),
            9 => Value::Integer(1),
            7 => Value::Real(f64::from_bits(
                bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)),
            )),
            1..=6 => {
                let negative = bytes[0] & 0x80 != 0;
                let start = if negative { -1 } else { 0 };
                Value::Integer(bytes.iter().fold(start, |number: i64, byte| number << 8 | i64::from(*byte)))
            }
            _ if kind % 2 == 0 => Value::Blob(bytes.to_vec()),
            _ => Value::Text(bytes.to_vec()),
        });
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vigie_tree::Root;

    use super::*;

    #[test]
    fn what_is_no_database_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for content in [&b""[..], b"SQLite format 3\0", &[0; 200]] {
            let path = directory.path().join("x");
            std::fs::write(&path, content).unwrap();
            assert!(matches!(Database::open(&Root::host().place(path)), Err(SqliteError::Unsound(_))));
        }
        assert!(matches!(Database::open(&Root::host().place(directory.path())), Err(SqliteError::Read(_))));
    }

    #[test]
    fn numbers_have_one_to_nine_bytes() {
        for (bytes, number) in [
            (&[0x05][..], 5),
            (&[0x81, 0x00], 128),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], u64::MAX),
        ] {
            assert_eq!(varint(&mut { bytes }).unwrap(), number);
        }
        assert!(varint(&mut &[0x81][..]).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_row_or_refused(payload in proptest::collection::vec(any::<u8>(), 0..80)) {
            record(&payload).ok();
        }

        #[test]
        fn any_page_is_read_or_refused(
            page in proptest::collection::vec(any::<u8>(), 412), kind in prop_oneof![Just(5_u8), Just(13), any::<u8>()],
        ) {
            let mut content = b"SQLite format 3\0\x02\x00\x01\x01\x00".to_vec();
            content.resize(100, 0);
            content.extend_from_slice(&page);
            content[100] = kind;
            content.extend_from_slice(&page);
            content.extend_from_slice(&page[..100]);
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("x");
            std::fs::write(&path, content).unwrap();

            let database = Database::open(&Root::host().place(path)).unwrap();
            let mut rows = 0;
            database.each_row(1, &mut |_, _| rows += 1).ok();
            database.each_row(2, &mut |_, _| rows += 1).ok();
            prop_assert!(rows < 1_000);
        }
    }
}
