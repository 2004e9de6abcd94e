//! Searches the history: the open blocks and the sealed ones of all lanes, the newest first.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::Path;

use crate::answer;
use crate::history::block::{Block, BlockError, Bytes};
use crate::history::lanes::Lane;
use crate::history::store::{block_path, numbers_and_gaps};
use crate::parameters::Wanted;
use crate::record::{Key, Kind, Record, What};

/// Levels of a tree upwards.
const MOST_ANCESTORS: usize = 24;

/// How exact the host's clock since its start is within one block, in microseconds: somebody may set the other one.
const CLOCKS: i64 = 5_000_000;

/// A tick of `/proc`, in microseconds.
const TICK: u64 = 10_000;

/// Bytes of the texts of one answer as JSON, at most: arguments are as long as whoever runs programs likes, and an
/// agent takes 16 MiB.
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

/// How often a tree is looked for again: a child can be in another lane than what made it, and be read before it.
const MOST_PASSES: usize = 6;

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
    /// Puts these in, and leaves the oldest out of what is more than so many or has too many texts.
    fn keep_newest(&mut self, hits: Vec<Hit>, limit: usize) {
        self.hits.extend(hits);
        self.hits.sort_by_key(|hit| hit.record.time);
        let (mut text, mut keep) = (0, 0);
        for hit in self.hits.iter().rev().take(limit) {
            text += text_bytes(&hit.record);
            if text > MOST_TEXT_BYTES {
                break;
            }
            keep += 1;
        }
        if keep < self.hits.len() {
            self.hits.drain(..self.hits.len() - keep);
            self.more = true;
        }
    }

    pub(crate) fn add_lost(&mut self, kind: &[u8], count: u64) {
        *self.lost.entry(String::from_utf8_lossy(kind).into_owned()).or_default() += count;
    }

    fn oldest(&self) -> Option<i64> {
        self.hits.first().map(|hit| hit.record.time)
    }

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
    /// Lanes, numbers and bytes of the open blocks.
    pub(crate) open: Vec<(Lane, u64, Vec<u8>)>,
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

/// One block of the history.
#[derive(Debug, Clone, Copy)]
enum Place {
    Sealed(Lane, u64),
    /// By its place among the open ones.
    Open(usize),
}

/// A block with the times of its first and its last record.
struct Ranged {
    place: Place,
    first: i64,
    last: i64,
}

/// In which order blocks are read. Those of different lanes are of the same times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    NewestFirst,
    OldestFirst,
}

impl History<'_> {
    fn block(&self, place: Place) -> Result<AnyBlock, BlockError> {
        match place {
            Place::Sealed(lane, number) => {
                let file = File::open(block_path(&lane.dir(self.dir), number))?;
                Ok(AnyBlock::Sealed(Block::open(file)?))
            }
            Place::Open(at) => {
                let bytes = self.open.get(at).map(|(_, _, bytes)| bytes.clone()).unwrap_or_default();
                Ok(AnyBlock::Open(Block::open(bytes)?))
            }
        }
    }

    /// All blocks that have something, with their times.
    fn blocks(&self, order: Order, found: &mut Found) -> Vec<Ranged> {
        let mut places: Vec<Place> = (0..self.open.len()).map(Place::Open).collect();
        for lane in Lane::ALL {
            let open = self.open.iter().find(|(of, ..)| *of == lane).map_or(u64::MAX, |(_, open, _)| *open);
            match numbers_and_gaps(&lane.dir(self.dir), (open != u64::MAX).then_some(open)) {
                Ok((numbers, gaps)) => {
                    let sealed = numbers.into_iter().filter(|number| *number < open);
                    found.unread.extend(gaps.into_iter().map(|number| {
                        (format!("block {number} of {}", lane.name()), "somebody removed it".to_owned())
                    }));
                    places.extend(sealed.map(|number| Place::Sealed(lane, number)));
                }
                Err(error) => found.unread.push(("the history".to_owned(), error.to_string())),
            }
        }
        let mut all = Vec::with_capacity(places.len());
        for place in places {
            match self.block(place) {
                Ok(block) if block.rows() == 0 => {}
                Ok(block) => {
                    let (first, last) = block.range();
                    all.push(Ranged { place, first, last });
                }
                Err(error) => Self::not_read(place, error, found),
            }
        }
        match order {
            Order::NewestFirst => all.sort_by_key(|block| std::cmp::Reverse(block.last)),
            Order::OldestFirst => all.sort_by_key(|block| block.first),
        }
        all
    }

    fn not_read(place: Place, error: BlockError, found: &mut Found) {
        // The oldest one may have been deleted meanwhile, to stay within the budget.
        if matches!(&error, BlockError::Io(error) if error.kind() == std::io::ErrorKind::NotFound) {
            return;
        }
        let name = match place {
            Place::Sealed(lane, number) => format!("block {number} of {}", lane.name()),
            Place::Open(_) => "an open block".to_owned(),
        };
        found.unread.push((name, error.to_string()));
    }

    /// Hands on all blocks that may have something at or behind a moment, which `take` can make later with what it
    /// returns.
    fn each(
        &self,
        order: Order,
        mut from: i64,
        found: &mut Found,
        mut take: impl FnMut(&AnyBlock, &mut Found) -> Result<i64, BlockError>,
    ) {
        for Ranged { place, last, .. } in self.blocks(order, found) {
            if (self.is_stopped)() {
                found.stopped = true;
                return;
            }
            if last < from {
                continue;
            }
            match self.block(place).and_then(|block| take(&block, found)) {
                Ok(later) => from = from.max(later),
                Err(error) => Self::not_read(place, error, found),
            }
        }
    }

    /// The newest events that fit.
    pub(crate) fn events(&self, wanted: &Wanted) -> Found {
        let mut found = Found::default();
        let since = wanted.since.saturating_sub(CLOCKS);
        self.each(Order::NewestFirst, since, &mut found, |block, found| {
            let (first, _) = block.range();
            // A loss is told a little after it.
            if first > wanted.until.saturating_add(CLOCKS) {
                return Ok(since);
            }
            found.examined += block.rows();
            if wanted.asks_digests() {
                found.without_digest += block.without_digest()?;
            }
            if !block.may_have(wanted)? && !block.has_losses() {
                return Ok(since);
            }
            let mut hits = Vec::new();
            block.records(|record, digest| {
                if let What::Lost { kind, count, from } = &record.what
                    && record.time >= wanted.since
                    && *from <= wanted.until
                    && wanted.concerns(kind)
                {
                    found.add_lost(kind, *count);
                }
                if wanted.fits(&record, digest.as_ref()) {
                    hits.push(Hit { record, digest, depth: None });
                }
            })?;
            if !hits.is_empty() {
                found.keep_newest(hits, wanted.limit);
            }
            // Once some were left out, what is older than all that are kept cannot be among the newest.
            Ok(if found.more { found.oldest().unwrap_or(since) } else { since })
        });
        found
    }

    /// The newest exec of a process at or before a moment.
    fn exec(&self, found: &mut Found, until: i64, not_before: i64, is: impl Fn(Key) -> bool) -> Option<Hit> {
        let mut hit: Option<Hit> = None;
        self.each(Order::NewestFirst, not_before, found, |block, found| {
            if block.range().0 > until {
                return Ok(not_before);
            }
            found.examined += block.rows();
            block.records(|record, digest| {
                if record.time <= until
                    && is(record.who)
                    && matches!(record.what, What::Exec(_))
                    && hit.as_ref().is_none_or(|hit| hit.record.time <= record.time)
                {
                    hit = Some(Hit { record, digest, depth: Some(0) });
                }
            })?;
            Ok(hit.as_ref().map_or(not_before, |hit| hit.record.time))
        });
        hit
    }

    /// A process with its ancestors, and everything that came of it.
    pub(crate) fn tree(&self, pid: u32, start: Option<u64>, time: i64, limit: usize) -> Found {
        let mut found = Found::default();
        // What /proc says of the beginning of a process is exact to 10 ms.
        let began = |key: Key| start.is_none_or(|start| start.abs_diff(key.start) <= TICK);
        let is_it = |key: Key| key.pid == pid && began(key);
        let mut ancestors: Vec<Hit> = Vec::new();
        let root = match self.exec(&mut found, time, i64::MIN, is_it) {
            Some(root) => {
                self.put_ancestors(&root, &mut ancestors, &mut found);
                (root.record.who, root.record.time)
            }
            None => {
                let Some(root) = self.known_by_children(&mut found, time, is_it) else {
                    return found;
                };
                let what = "its own exec and its ancestors".to_owned();
                found.unread.push((what, "it ran its program before it was recorded".to_owned()));
                root
            }
        };
        ancestors.reverse();
        let mut hits = ancestors;
        // What belongs to the tree, with its depth.
        let mut members: std::collections::HashMap<Key, i32> = [(root.0, 0)].into();
        let began = root.1 - CLOCKS;
        let mut below: Vec<Hit> = Vec::new();
        let (mut lost, mut ended) = (Vec::new(), HashSet::new());
        let (examined, unread) = (found.examined, found.unread.len());
        for _ in 0..MOST_PASSES {
            let known = members.len();
            (found.text, found.more, found.examined) = (0, false, examined);
            found.unread.truncate(unread);
            below.clear();
            (lost, ended) = (Vec::new(), HashSet::new());
            let mut seen: HashSet<(i64, Key)> = HashSet::new();
            self.each(Order::OldestFirst, began, &mut found, |block, found| {
                found.examined += block.rows();
                block.records(|record, digest| {
                    if let What::Lost { kind, count, from } = &record.what
                        && record.time >= began
                    {
                        lost.push((kind.clone(), *count, *from));
                    }
                    let depth = match (&record.what, members.get(&record.who)) {
                        (_, Some(depth)) => Some(*depth),
                        (What::Exec(run), None) => members.get(&run.maker).map(|depth| depth + 1),
                        _ => None,
                    };
                    let Some(depth) = depth else { return };
                    members.insert(record.who, depth);
                    if matches!(record.what, What::Exit { .. }) {
                        ended.insert(record.who);
                    }
                    if matches!(record.what, What::Exec(_)) && !seen.insert((record.time, record.who)) {
                        return;
                    }
                    if below.len() < limit && found.has_room(&record) {
                        below.push(Hit { record, digest, depth: Some(depth) });
                    } else {
                        found.more = true;
                    }
                })?;
                Ok(if found.more { i64::MAX } else { began })
            });
            // All of them were known before anything was read, or nothing more is wanted.
            if members.len() == known || found.more || found.stopped {
                break;
            }
        }
        below.sort_by_key(|hit| hit.record.time);
        hits.append(&mut below);
        // Nobody who has ended can have done what was lost later.
        let all_ended = members.keys().all(|key| ended.contains(key));
        let last = hits.last().map_or(root.1, |hit| hit.record.time).saturating_add(CLOCKS);
        for (kind, count, _) in lost.into_iter().filter(|(_, _, from)| !all_ended || *from <= last) {
            if !matches!(answer::kind_and_whose(&kind).0, b"fork" | b"net") {
                found.add_lost(&kind, count);
            }
        }
        found.hits = hits;
        found
    }

    fn put_ancestors(&self, root: &Hit, ancestors: &mut Vec<Hit>, found: &mut Found) {
        let mut below = root.clone();
        while let What::Exec(run) = &below.record.what {
            let maker = run.maker;
            if maker.pid == 0 || maker == below.record.who || ancestors.len() >= MOST_ANCESTORS {
                break;
            }
            // A process cannot have run anything before it began.
            let began = below.record.time - (below.record.who.start as i64) + (maker.start as i64);
            let until = below.record.time;
            let above = self.exec(found, until, began - CLOCKS, |key| key == maker);
            let Some(mut above) = above else { break };
            above.depth = Some(-1 - ancestors.len() as i32);
            ancestors.push(above.clone());
            below = above;
        }
    }

    /// A process whose own exec is not in the history, by what it made or did until a moment:
    /// which one it is, and the first moment of it that is known.
    fn known_by_children(
        &self,
        found: &mut Found,
        until: i64,
        is: impl Fn(Key) -> bool,
    ) -> Option<(Key, i64)> {
        let mut known: Option<(Key, i64)> = None;
        self.each(Order::NewestFirst, i64::MIN, found, |block, _| {
            block.records(|record, _| {
                let maker = match &record.what {
                    What::Exec(run) => Some(run.maker),
                    _ => None,
                };
                let key = maker.into_iter().chain([record.who]).find(|key| is(*key));
                if let Some(key) = key.filter(|_| record.time <= until) {
                    known = match known {
                        Some((newest, first)) if newest == key => Some((key, first.min(record.time))),
                        Some((newest, first)) if newest.start > key.start => Some((newest, first)),
                        _ => Some((key, record.time)),
                    };
                }
            })?;
            Ok(i64::MIN)
        });
        known
    }
}
