//! Searches the history: the open block and the sealed ones, the newest first.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::Path;

use crate::history::block::{Block, BlockError, Bytes};
use crate::history::store::{block_path, numbers};
use crate::parameters::Wanted;
use crate::record::{Key, Kind, Record, What};

/// Levels of a tree upwards.
const MOST_ANCESTORS: usize = 24;

/// How exact the host's clock since its start is within one block, in microseconds: somebody may set the other one.
const CLOCKS: i64 = 5_000_000;

/// A tick of `/proc`, in microseconds.
const TICK: u64 = 10_000;

/// Bytes of the texts of one answer as JSON, at most: arguments are as long as whoever runs programs likes, and an agent
/// takes 16 MiB.
const MOST_TEXT_BYTES: usize = 12 << 20;

/// How long a record's texts can be as JSON.
fn text_bytes(record: &Record) -> usize {
    let escaped = |text: &[u8]| -> usize {
        let plain = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
        text.iter().map(|byte| if plain(byte) { 1 } else { 6 }).sum()
    };
    match &record.what {
        What::Exec(run) => {
            let texts = [&run.program.path, &run.filename, &run.cwd].map(|text| escaped(text));
            let environment = run.environment.iter().map(|(name, value)| escaped(name) + escaped(value));
            texts.iter().sum::<usize>() + environment.sum::<usize>() + escaped(run.arguments.bytes())
        }
        What::Socket(socket) => escaped(&socket.program.path),
        What::Host(_, text) => escaped(text),
        _ => 0,
    }
}

/// A record with the digest of its program, and how deep it is in a tree.
#[derive(Debug, Clone)]
pub(crate) struct Hit {
    pub(crate) record: Record,
    pub(crate) digest: Option<[u8; 32]>,
    /// 0 is the process that was asked for; its ancestors are above it.
    pub(crate) depth: Option<i32>,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// In the order of time; a tree in its own.
    pub(crate) hits: Vec<Hit>,
    pub(crate) examined: u64,
    /// More would fit than were wanted.
    pub(crate) more: bool,
    /// Bytes of texts in what was found.
    text: usize,
    pub(crate) stopped: bool,
    /// Blocks that could not be read, and why.
    pub(crate) unread: Vec<(String, String)>,
    /// Programs whose content is not known, where it was asked for.
    pub(crate) without_digest: u64,
    /// Events of the time that was asked for that were lost, by kind.
    pub(crate) lost: BTreeMap<String, u64>,
}

impl Found {
    /// Whether one more fits into an answer; it is counted then.
    fn has_room(&mut self, record: &Record) -> bool {
        let text = self.text + text_bytes(record);
        let has_room = text <= MOST_TEXT_BYTES;
        if has_room {
            self.text = text;
        }
        has_room
    }
}

/// The history as readers see it.
pub(crate) struct History<'a> {
    pub(crate) dir: &'a Path,
    /// Number and bytes of the open block.
    pub(crate) open: Option<(u64, Vec<u8>)>,
    pub(crate) is_stopped: &'a dyn Fn() -> bool,
}

enum AnyBlock {
    Sealed(Block<File>),
    Open(Block<Vec<u8>>),
}

impl AnyBlock {
    fn range(&self) -> (i64, i64) {
        match self {
            Self::Sealed(block) => (block.first, block.last),
            Self::Open(block) => (block.first, block.last),
        }
    }

    fn rows(&self) -> u64 {
        match self {
            Self::Sealed(block) => block.rows,
            Self::Open(block) => block.rows,
        }
    }

    fn records(&self, take: impl FnMut(Record, Option<[u8; 32]>)) -> Result<(), BlockError> {
        match self {
            Self::Sealed(block) => block.records(take),
            Self::Open(block) => block.records(take),
        }
    }

    fn may_have(&self, wanted: &Wanted) -> Result<bool, BlockError> {
        match self {
            Self::Sealed(block) => wanted.may_be_in(block),
            Self::Open(block) => wanted.may_be_in(block),
        }
    }

    fn has_losses(&self) -> bool {
        let count = match self {
            Self::Sealed(block) => block.count(Kind::Lost),
            Self::Open(block) => block.count(Kind::Lost),
        };
        count > 0
    }

    fn without_digest(&self) -> Result<u64, BlockError> {
        fn count<B: Bytes>(block: &Block<B>) -> Result<u64, BlockError> {
            let data = block.dictionary(crate::history::block::Texts::Digests)?;
            let all = crate::history::columns::texts(&data).ok_or(BlockError::Damaged)?;
            Ok(all.iter().filter(|digest| digest.is_empty()).count() as u64)
        }
        match self {
            Self::Sealed(block) => count(block),
            Self::Open(block) => count(block),
        }
    }
}

impl History<'_> {
    /// Hands on all blocks, the newest first or last, until `take` says that it is enough.
    fn each(
        &self,
        newest_first: bool,
        found: &mut Found,
        mut take: impl FnMut(&AnyBlock, &mut Found) -> Result<bool, BlockError>,
    ) {
        let open_number = self.open.as_ref().map_or(u64::MAX, |(number, _)| *number);
        let mut all: Vec<Option<u64>> = match numbers(self.dir) {
            Ok(numbers) => numbers.into_iter().filter(|number| *number < open_number).map(Some).collect(),
            Err(error) => {
                found.unread.push(("the history".to_owned(), error.to_string()));
                Vec::new()
            }
        };
        if self.open.is_some() {
            all.push(None);
        }
        if newest_first {
            all.reverse();
        }
        for number in all {
            if (self.is_stopped)() {
                found.stopped = true;
                return;
            }
            let block = match (number, &self.open) {
                (Some(number), _) => File::open(block_path(self.dir, number))
                    .map_err(BlockError::from)
                    .and_then(Block::open)
                    .map(AnyBlock::Sealed),
                (None, Some((_, bytes))) => Block::open(bytes.clone()).map(AnyBlock::Open),
                (None, None) => continue,
            };
            let enough = block.and_then(|block| take(&block, found));
            match enough {
                Ok(false) => {}
                Ok(true) => return,
                // The oldest one may have been deleted meanwhile, to stay within the budget.
                Err(BlockError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    let name = number.map_or("the open block".to_owned(), |number| format!("block {number}"));
                    found.unread.push((name, error.to_string()));
                }
            }
        }
    }

    /// The newest events that fit.
    pub(crate) fn events(&self, wanted: &Wanted) -> Found {
        let mut found = Found::default();
        self.each(true, &mut found, |block, found| {
            let (first, last) = block.range();
            // A loss is told a little after it.
            if block.rows() == 0 || first > wanted.until.saturating_add(CLOCKS) {
                return Ok(false);
            }
            // Blocks follow each other; clocks that were set back make them overlap a little.
            if last < wanted.since.saturating_sub(CLOCKS) {
                return Ok(true);
            }
            found.examined += block.rows();
            if wanted.asks_digests() {
                found.without_digest += block.without_digest()?;
            }
            if !block.may_have(wanted)? && !block.has_losses() {
                return Ok(false);
            }
            let mut hits = Vec::new();
            block.records(|record, digest| {
                if let What::Lost { kind, count, from } = &record.what
                    && record.time >= wanted.since
                    && *from <= wanted.until
                    && wanted.concerns(kind)
                {
                    *found.lost.entry(String::from_utf8_lossy(kind).into_owned()).or_default() += count;
                }
                if wanted.fits(&record, digest.as_ref()) {
                    hits.push(Hit { record, digest, depth: None });
                }
            })?;
            let room = wanted.limit - found.hits.len();
            if hits.len() > room {
                hits.drain(..hits.len() - room);
                found.more = true;
            }
            let before = hits.len();
            let fitting = hits.iter().rev().take_while(|hit| found.has_room(&hit.record)).count();
            if fitting < before {
                hits.drain(..before - fitting);
                found.more = true;
            }
            hits.append(&mut found.hits);
            found.hits = hits;
            Ok(found.more)
        });
        found.hits.sort_by_key(|hit| hit.record.time);
        found
    }

    /// The newest exec of a process at or before a moment.
    fn exec(&self, found: &mut Found, until: i64, not_before: i64, is: impl Fn(Key) -> bool) -> Option<Hit> {
        let mut hit = None;
        self.each(true, found, |block, found| {
            let (first, last) = block.range();
            if first > until {
                return Ok(false);
            }
            if last < not_before {
                return Ok(true);
            }
            found.examined += block.rows();
            block.records(|record, digest| {
                if record.time <= until && is(record.who) && matches!(record.what, What::Exec(_)) {
                    hit = Some(Hit { record, digest, depth: Some(0) });
                }
            })?;
            Ok(hit.is_some())
        });
        hit
    }

    /// A process with its ancestors, and everything that came of it.
    pub(crate) fn tree(&self, pid: u32, start: Option<u64>, time: i64, limit: usize) -> Found {
        let mut found = Found::default();
        // What /proc says of the beginning of a process is exact to 10 ms.
        let began = |key: Key| start.is_none_or(|start| start.abs_diff(key.start) <= TICK);
        let is_it = |key: Key| key.pid == pid && began(key);
        let Some(root) = self.exec(&mut found, time, i64::MIN, is_it) else { return found };
        let mut ancestors: Vec<Hit> = Vec::new();
        let mut below = root.clone();
        while let What::Exec(run) = &below.record.what {
            let maker = run.maker;
            if maker.pid == 0 || maker == below.record.who || ancestors.len() >= MOST_ANCESTORS {
                break;
            }
            // A process cannot have run anything before it began.
            let began = below.record.time - (below.record.who.start as i64) + (maker.start as i64);
            let until = below.record.time;
            let above = self.exec(&mut found, until, began - CLOCKS, |key| key == maker);
            let Some(mut above) = above else { break };
            above.depth = Some(-1 - ancestors.len() as i32);
            ancestors.push(above.clone());
            below = above;
        }
        ancestors.reverse();
        let mut hits = ancestors;
        // What belongs to the tree, with its depth.
        let mut members: std::collections::HashMap<Key, i32> = [(root.record.who, 0)].into();
        let mut below: Vec<Hit> = Vec::new();
        let began = root.record.time - CLOCKS;
        let mut seen: HashSet<(i64, Key)> = HashSet::new();
        self.each(false, &mut found, |block, found| {
            if block.range().1 < began {
                return Ok(false);
            }
            found.examined += block.rows();
            block.records(|record, digest| {
                let depth = match (&record.what, members.get(&record.who)) {
                    (_, Some(depth)) => Some(*depth),
                    (What::Exec(run), None) => members.get(&run.maker).map(|depth| depth + 1),
                    _ => None,
                };
                let Some(depth) = depth else { return };
                members.insert(record.who, depth);
                if matches!(record.what, What::Exec(_)) && !seen.insert((record.time, record.who)) {
                    return;
                }
                if below.len() < limit && found.has_room(&record) {
                    below.push(Hit { record, digest, depth: Some(depth) });
                } else {
                    found.more = true;
                }
            })?;
            Ok(found.more)
        });
        hits.append(&mut below);
        found.hits = hits;
        found
    }
}
