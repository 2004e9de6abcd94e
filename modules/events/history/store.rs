//! One lane of the history on disk: sealed blocks, and a log of what is not sealed yet.
//!
//! ```text
//! 00000007.block   sealed; its seal covers the seal of 00000006.block
//! 00000008.log     the open block, as it grows: frames of length (u32), CRC-32 (u32) and a small block
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use vigie_files::durable::{self, Durability};

use super::block::{Block, Builder, SEAL_BYTES};
use crate::record::{Key, Record, What};

/// What an open block may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Records: more make a block hardly smaller, and all of it is in memory until then.
    pub(crate) rows: u64,
    /// Bytes of texts: long arguments would fill the memory before there are enough records.
    pub(crate) text_bytes: usize,
    /// How many times as much it may have while the disk takes none: beyond it records are lost, and counted.
    pub(crate) times: u8,
}

/// A block is sealed at this age when it has enough records to be worth it, and at the longest age in any case.
const AGE: i64 = 10 * 60 * 1_000_000;
const LONGEST_AGE: i64 = 60 * 60 * 1_000_000;
const WORTH_ROWS: u64 = 512;

/// Bytes of a record beside its texts, compressed.
const ROW_BYTES: u64 = 20;

/// How much smaller texts are in a block, at least as a rule.
const TEXT_PACKS: u64 = 4;

/// Names a file's content without reading it.
pub(crate) type FileKey = ((u32, u32), u64, i64, u64);

/// What is counted of a file to know its content again.
pub(crate) fn file_key(file: &vigie_kernel_events::File) -> FileKey {
    (file.device, file.inode, file.changed, file.size)
}

/// Blocks that were deleted to stay within the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub(crate) blocks: u64,
    pub(crate) from: i64,
    pub(crate) to: i64,
}

/// What is known of the history as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) blocks: u64,
    pub(crate) bytes: u64,
    /// The first record, microseconds since 1970.
    pub(crate) from: Option<i64>,
    /// Something was there before, and was removed to stay within the budget.
    pub(crate) removed: bool,
}

/// The writer's side; readers open the files themselves.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    open: Builder,
    /// Records that are in the open block and not in its log yet.
    chunk: Builder,
    log: File,
    /// The log was removed, and what it had is not all in the new one yet.
    rewrite: bool,
    /// Records that found no room.
    refused: u64,
    number: u64,
    seal: [u8; SEAL_BYTES],
    limits: Limits,
    extent: Extent,
    /// What was wrong with what was found at the start.
    pub(crate) complaints: Vec<String>,
    /// The last record that was found at the start.
    pub(crate) found_last: Option<i64>,
}

pub(crate) fn block_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.block"))
}

fn log_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.log"))
}

/// The numbers of all sealed blocks, the oldest first.
pub(crate) fn numbers(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers: Vec<u64> = fs::read_dir(dir)?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".block")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The numbers of all logs.
fn logs(dir: &Path) -> io::Result<impl Iterator<Item = u64> + use<>> {
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_suffix(".log")?.parse().ok();
    Ok(fs::read_dir(dir)?.flatten().filter_map(number))
}

/// Numbers of blocks that are not there between the oldest one and the open one. The oldest are removed to stay within
/// the budget, and never the newest.
pub(crate) fn gaps(numbers: &[u64], open: Option<u64>) -> Vec<u64> {
    /// Named one by one.
    const MOST: usize = 100;
    let mut gaps = Vec::new();
    let mut next = numbers.first().copied().or(open.and_then(|open| open.checked_sub(1)));
    // What was open may have been sealed meanwhile, and more.
    let open = open.filter(|open| numbers.last().is_none_or(|last| last < open));
    for number in numbers.iter().copied().chain(open) {
        while let Some(expected) = next.filter(|expected| *expected < number && gaps.len() < MOST) {
            gaps.push(expected);
            next = Some(expected + 1);
        }
        next = Some(number + 1);
    }
    gaps
}

/// The numbers of all sealed blocks, and those of blocks that somebody removed. A list that is made while the oldest
/// are removed may have an older one and not a newer one: below what is the oldest after that nothing is missed.
pub(crate) fn numbers_and_gaps(dir: &Path, open: Option<u64>) -> io::Result<(Vec<u64>, Vec<u64>)> {
    let found = numbers(dir)?;
    let mut gaps = gaps(&found, open);
    if !gaps.is_empty() {
        let oldest = numbers(dir)?.first().copied().unwrap_or(0);
        gaps.retain(|gap| *gap >= oldest);
    }
    Ok((found, gaps))
}

/// The seal of a block, when it fits its bytes.
fn checked_seal(bytes: &[u8]) -> Option<[u8; SEAL_BYTES]> {
    let (body, seal) = bytes.split_at_checked(bytes.len().checked_sub(SEAL_BYTES)?)?;
    let found: [u8; SEAL_BYTES] = Sha256::digest(body).into();
    (found == seal).then_some(found)
}

/// Checks all seals and that each block follows on the one before it, up to the one that is open.
///
/// # Errors
/// The first block that does not fit, and why.
pub(crate) fn verify(dir: &Path, open: Option<u64>) -> Result<u64, String> {
    let (found, gaps) = numbers_and_gaps(dir, open).map_err(|error| error.to_string())?;
    if let Some(number) = gaps.first() {
        return Err(format!("somebody removed block {number}"));
    }
    let mut before: Option<[u8; SEAL_BYTES]> = None;
    let mut checked = 0;
    for number in &found {
        let name = format!("block {number}");
        let bytes = match fs::read(block_path(dir, *number)) {
            Ok(bytes) => bytes,
            // Removed meanwhile to stay within the budget.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && numbers(dir).is_ok_and(|now| now.first().is_some_and(|oldest| number < oldest)) =>
            {
                // What comes next follows on a block that nobody has read.
                before = None;
                continue;
            }
            Err(error) => return Err(format!("{name}: {error}")),
        };
        let seal = checked_seal(&bytes).ok_or(format!("{name} is not as it was sealed"))?;
        let chain = bytes.len().checked_sub(2 * SEAL_BYTES).and_then(|at| bytes.get(at..at + SEAL_BYTES));
        if before.is_some_and(|before| chain != Some(&before[..])) {
            return Err(format!("{name} does not follow on the block before it"));
        }
        before = Some(seal);
        checked += 1;
    }
    Ok(checked)
}

impl Store {
    /// Opens the blocks of a directory, which is made when it is not there.
    pub(crate) fn open(dir: &Path, limits: Limits) -> io::Result<Self> {
        durable::make_directory(dir)?;
        let mut complaints = Vec::new();
        let numbers = numbers(dir)?;
        let mut seal = [0; SEAL_BYTES];
        let mut number = 0;
        let logs: Vec<u64> = logs(dir)?.collect();
        if let Some(last) = numbers.last() {
            number = last + 1;
            match fs::read(block_path(dir, *last)).map(|bytes| checked_seal(&bytes)) {
                Ok(Some(found)) => seal = found,
                Ok(None) => complaints.push(format!("block {last} of the history is not as it was sealed")),
                Err(error) => complaints.push(format!("block {last} of the history cannot be read: {error}")),
            }
        }
        // The newest log says how many blocks there were. One more is not there yet when the power fails between a new
        // log and its block.
        let newest = logs.iter().copied().max().unwrap_or(0);
        let has_records = |of: u64| fs::metadata(log_path(dir, of)).is_ok_and(|found| found.len() > 0);
        if newest > number && has_records(newest) && !has_records(number) {
            number = newest;
        }
        for gap in gaps(&numbers, Some(number)) {
            complaints.push(format!("somebody removed block {gap} of the history"));
        }
        let mut extent = Extent::default();
        for number in &numbers {
            let path = block_path(dir, *number);
            extent.bytes += fs::metadata(&path).map_or(0, |found| found.len());
            extent.blocks += 1;
        }
        extent.from = numbers.first().and_then(|number| first_of(dir, *number));
        extent.removed = numbers.first().copied().unwrap_or(number) > 0;
        let last = numbers.last().and_then(|number| range_of(dir, *number)).map(|(_, last)| last);
        let (open, damaged) = replay(&log_path(dir, number));
        if damaged {
            complaints.push("the end of the history's log was cut short; what was whole is kept".to_owned());
        }
        // What is left of blocks that were sealed.
        for of in logs.into_iter().filter(|of| *of != number) {
            durable::remove(&log_path(dir, of))?;
        }
        let mut store = Self {
            dir: dir.to_owned(),
            found_last: last.max(open.last()),
            open,
            chunk: Builder::default(),
            log: open_log(&log_path(dir, number), false)?,
            rewrite: false,
            refused: 0,
            number,
            seal,
            limits,
            extent,
            complaints,
        };
        if damaged {
            // Nothing can be read behind damage: what is known goes into a log of its own.
            store.log = open_log(&log_path(dir, number), true)?;
            let whole = store.open.encode([0; SEAL_BYTES], false);
            store.append(&whole)?;
        }
        Ok(store)
    }

    /// The number that the open block will have, and its bytes now.
    pub(crate) fn snapshot(&self) -> (u64, Vec<u8>) {
        (self.number, self.open.encode([0; SEAL_BYTES], false))
    }

    pub(crate) fn extent(&self) -> Extent {
        Extent { from: self.extent.from.or(self.open.first()), ..self.extent }
    }

    /// Whether the open block has the last exec of a process that runs.
    pub(crate) fn has_open_exec(&self, who: Key) -> bool {
        self.open.has_exec(who)
    }

    /// Adds a record; about how many bytes it will take.
    pub(crate) fn add(
        &mut self,
        record: &Record,
        digest: impl Fn(&vigie_kernel_events::File) -> Option<[u8; 32]>,
    ) -> u64 {
        let times = usize::from(self.limits.times);
        // That something was lost has room always: it is told once a second at most.
        let is_full = self.open.rows() >= self.limits.rows * times as u64
            || self.open.text_bytes() >= self.limits.text_bytes * times;
        if is_full && !matches!(record.what, What::Lost { .. }) {
            self.refused += 1;
            return 0;
        }
        let before = self.open.text_bytes();
        self.open.add(record, &digest);
        self.chunk.add(record, &digest);
        ROW_BYTES + (self.open.text_bytes() - before) as u64 / TEXT_PACKS
    }

    /// How many records found no room since this was asked the last time.
    pub(crate) fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    /// What is in a file from now on; programs of the open block get it with their next record.
    pub(crate) fn set_digest(&mut self, key: FileKey, digest: [u8; 32]) {
        self.open.set_digest(key, digest);
    }

    /// Writes what came since the last time, and seals the block when it is full or old; whether it did.
    pub(crate) fn flush(&mut self, now: i64) -> io::Result<bool> {
        if self.chunk.rows() > 0 {
            // What somebody removed is written again: it would be gone with this process.
            if !self.has_log()? {
                durable::make_directory(&self.dir)?;
                self.log = open_log(&log_path(&self.dir, self.number), true)?;
                self.rewrite = true;
                self.complaints.push(format!("somebody removed the log {} of the history", self.number));
            }
            let unwritten = if self.rewrite { &self.open } else { &self.chunk };
            let chunk = unwritten.encode([0; SEAL_BYTES], false);
            self.append(&chunk)?;
            self.rewrite = false;
            self.chunk = Builder::default();
        }
        let age = self.open.first().map_or(0, |first| now.saturating_sub(first));
        let rows = self.open.rows();
        let is_full = rows >= self.limits.rows || self.open.text_bytes() >= self.limits.text_bytes;
        if is_full || (age >= AGE && rows >= WORTH_ROWS) || (age >= LONGEST_AGE && rows > 0) {
            self.seal()?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Seals the open block when something is in it.
    #[cfg(test)]
    pub(crate) fn seal_some(&mut self) -> io::Result<()> {
        if self.open.rows() > 0 { self.seal() } else { Ok(()) }
    }

    /// Whether the log that is written has its name still.
    fn has_log(&self) -> io::Result<bool> {
        let open = self.log.metadata()?;
        let named = fs::symlink_metadata(log_path(&self.dir, self.number));
        Ok(named.is_ok_and(|named| (named.dev(), named.ino()) == (open.dev(), open.ino())))
    }

    fn append(&mut self, chunk: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(chunk.len() + 8);
        frame.extend_from_slice(&(chunk.len() as u32).to_le_bytes());
        frame.extend_from_slice(&crc32fast::hash(chunk).to_le_bytes());
        frame.extend_from_slice(chunk);
        let whole = self.log.metadata()?.len();
        self.log.write_all(&frame).inspect_err(|_| {
            // Nothing could be read behind half a frame. If this fails too, the start finds it and begins a new log.
            self.log.set_len(whole).ok();
        })
    }

    fn seal(&mut self) -> io::Result<()> {
        let block = self.open.encode(self.seal, true);
        let path = block_path(&self.dir, self.number);
        // First, so that a full disk leaves all as it is.
        let log = open_log(&log_path(&self.dir, self.number + 1), true)?;
        durable::replace(&path, &block, Durability::Power)?;
        self.seal = checked_seal(&block).unwrap_or_default();
        self.extent.from = self.extent.from.or(self.open.first());
        self.extent.blocks += 1;
        self.extent.bytes += block.len() as u64;
        self.open = Builder::default();
        self.chunk = Builder::default();
        let old = log_path(&self.dir, self.number);
        self.number += 1;
        self.log = log;
        self.rewrite = false;
        durable::remove(&old)
    }

    /// Removes the oldest block, unless it is the newest one.
    pub(crate) fn drop_oldest(&mut self) -> io::Result<Option<Dropped>> {
        let numbers = numbers(&self.dir)?;
        let [oldest, next, ..] = numbers[..] else { return Ok(None) };
        let path = block_path(&self.dir, oldest);
        let bytes = fs::metadata(&path)?.len();
        let (from, to) = range_of(&self.dir, oldest).unwrap_or((0, 0));
        durable::remove(&path)?;
        self.extent.bytes = self.extent.bytes.saturating_sub(bytes);
        self.extent.blocks = self.extent.blocks.saturating_sub(1);
        self.extent.from = first_of(&self.dir, next);
        self.extent.removed = true;
        Ok(Some(Dropped { blocks: 1, from, to }))
    }
}

fn range_of(dir: &Path, number: u64) -> Option<(i64, i64)> {
    let block = Block::open(File::open(block_path(dir, number)).ok()?).ok()?;
    Some((block.first, block.last))
}

fn first_of(dir: &Path, number: u64) -> Option<i64> {
    range_of(dir, number).map(|(from, _)| from)
}

fn open_log(path: &Path, fresh: bool) -> io::Result<File> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    if fresh {
        log.set_len(0)?;
    }
    Ok(log)
}

/// Reads a log into a block; whether something at its end was not whole.
fn replay(path: &Path) -> (Builder, bool) {
    let mut builder = Builder::default();
    let Ok(bytes) = fs::read(path) else { return (builder, false) };
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let frame = rest.split_at_checked(8).and_then(|(head, behind)| {
            let length = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
            let sum = u32::from_le_bytes(head[4..].try_into().ok()?);
            let (chunk, behind) = behind.split_at_checked(length)?;
            (crc32fast::hash(chunk) == sum).then_some((chunk, behind))
        });
        let Some((chunk, behind)) = frame else { return (builder, true) };
        let read = Block::open(chunk.to_vec())
            .and_then(|block| block.records(|record, digest| builder.add(&record, |_| digest)));
        if read.is_err() {
            return (builder, true);
        }
        rest = behind;
    }
    (builder, false)
}
