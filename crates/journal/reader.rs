//! Reads recorded alerts, and says what is missing between them.
//!
//! A [`Reader`] is a cursor on the journal's files: it opens them for reading, never locks anything, and so never
//! holds up the writer. Sinks, dispatching modules, the link to the fleet and `vigie alerts` all read through it. It
//! goes on where it stopped, over the borders of segments and while retention rewrites them.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use vigie_protocol::severity::Severity;

use crate::ledger::Ledger;
use crate::line::{Counts, Deleted, Line, Record, Seal, Sealed, Why};
use crate::segment::{self, Name};
use crate::walk::{Step, Walk};

/// What a reader finds, in the order of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A recorded alert.
    Alert(Record),
    /// Alerts that were recorded and are not here.
    Missing(Missing),
    /// Something is not as it was written, and no alert is missing.
    Damaged(Damage),
}

/// Alerts that were recorded and are not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Number of the first one.
    pub first: u64,
    /// Number of the last one.
    pub last: u64,
    /// Why, as far as is known.
    pub why: Cause,
}

/// Why alerts are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Retention deleted them to make room: so many of each severity, as [`Severity::ALL`] orders them. All are zero
    /// when that is not known.
    Deleted(Counts),
    /// They cannot be read: their bytes are damaged.
    Damaged,
    /// They are gone, and nothing says why.
    Lost,
}

impl Missing {
    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.last - self.first + 1
    }

    /// Whether they should be here.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        !matches!(self.why, Cause::Deleted(_))
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.count();
        let (before, next) = (self.first - 1, self.last + 1);
        if count == 1 {
            write!(f, "1 alert is missing here, between {before} and {next}: ")?;
        } else {
            write!(f, "{count} alerts between {before} and {next} are missing here: ")?;
        }
        match self.why {
            Cause::Deleted(counts) => {
                f.write_str("deleted by retention")?;
                let named = Severity::ALL.into_iter().zip(counts).rev().filter(|(_, count)| *count > 0);
                for (at, (severity, count)) in named.enumerate() {
                    write!(f, "{}{count} {}", if at == 0 { " (" } else { ", " }, severity.name())?;
                }
                if counts != [0; 4] {
                    f.write_str(")")?;
                }
                Ok(())
            }
            Cause::Damaged => f.write_str("the journal is damaged"),
            Cause::Lost => f.write_str("the journal's file was truncated, changed or deleted"),
        }
    }
}

/// Something in the journal is not as it was written, and no alert is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// Number of the alert after which it was found.
    pub after: u64,
    /// What it is.
    pub kind: DamageKind,
}

/// See [`Damage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DamageKind {
    /// Bytes that are no line of a journal.
    Line,
    /// The next alert was not written after the one before it: one of them was changed or put there.
    Link,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            DamageKind::Line => {
                write!(f, "the journal is damaged after alert {}; no alert is missing there", self.after)
            }
            DamageKind::Link => {
                let (before, next) = (self.after, self.after + 1);
                write!(f, "alert {next} does not follow alert {before}: one of them was changed")
            }
        }
    }
}

/// How much is read at once; at least one item is.
#[derive(Debug, Clone, Copy)]
pub struct Portion {
    /// Most items.
    pub items: usize,
    /// Most bytes that alerts take in their file.
    pub bytes: usize,
}

/// A cursor on the journal. Blocking.
#[derive(Debug)]
pub struct Reader {
    directory: PathBuf,
    /// Number up to which all is returned.
    after: u64,
    /// Number up to which it was looked whether an older segment holds it by now: once, whatever is damaged.
    looked_for: u64,
    current: Option<Current>,
    /// What is found and not returned yet.
    found: VecDeque<(Item, usize)>,
}

/// The segment that is read.
#[derive(Debug)]
struct Current {
    name: Name,
    walk: Walk,
    /// Number of the last record or deletion in the order of the files; 0 before the first one.
    last: u64,
    /// Checksum of that record, if it is known.
    link: Option<u32>,
    /// Bytes that are no line came after that record.
    damaged: bool,
    /// What is read now may repeat what the segment before holds.
    repeats: bool,
    /// What was read goes as far, as the last line of a segment says: segments up to there are in it.
    closed: u64,
    /// From this number on everything is in the next segment, because the disk did not take the end of this one.
    failed_from: Option<u64>,
    /// A record that was read and is not known to be recorded yet.
    ahead: Option<Ahead>,
}

#[derive(Debug)]
struct Ahead {
    record: Record,
    seal: Option<Seal>,
    bytes: usize,
}

impl Reader {
    /// Reads the alerts after number `after` from the journal in `directory`.
    #[must_use]
    pub fn new(directory: &Path, after: u64) -> Self {
        Self { directory: directory.to_owned(), after, looked_for: 0, current: None, found: VecDeque::new() }
    }

    /// Number up to which everything was returned.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.after
    }

    /// Appends what comes next, up to alert number `through`; nothing means that there is no more at present. Alerts up
    /// to `through` that are in no file are missing: give the number of the newest alert that is known to be recorded,
    /// or [`u64::MAX`] to read what there is.
    ///
    /// # Errors
    /// When a segment cannot be read; what was found before it is returned first.
    pub fn read(&mut self, through: u64, portion: Portion, items: &mut Vec<Item>) -> io::Result<()> {
        let mut bytes = 0;
        let wanted = items.len() + portion.items.max(1);
        let mut first = true;
        while items.len() < wanted && (first || bytes < portion.bytes) {
            let Some((item, size)) = self.next(through)? else { return Ok(()) };
            bytes += size;
            items.push(item);
            first = false;
        }
        Ok(())
    }

    /// The next item up to alert number `through`, and its bytes.
    fn next(&mut self, through: u64) -> io::Result<Option<(Item, usize)>> {
        let mut reopened = false;
        loop {
            if let Some((item, size)) = self.found.pop_front() {
                match self.within(&item, through) {
                    Some(position) => {
                        self.after = self.after.max(position);
                        return Ok(Some((item, size)));
                    }
                    None => {
                        self.found.push_front((item, size));
                        return Ok(None);
                    }
                }
            }
            if self.after >= through {
                return Ok(None);
            }
            if self.current.is_none() && !self.open_at()? {
                if self.rest_is_missing(through)? {
                    continue;
                }
                return Ok(None);
            }
            if let Some(ahead) = self.current.as_mut().and_then(|current| current.ahead.take()) {
                if ahead.record.seq > through {
                    // What was recorded is not here: it can be the end of a batch that is in the next segment.
                    self.look_for_failed_end();
                    if self.is_failed(ahead.record.seq) {
                        continue;
                    }
                    self.current.as_mut().map(|current| current.ahead.insert(ahead));
                    return Ok(None);
                }
                self.take_record(ahead)?;
                continue;
            }
            if self.step()? || self.open_next()? {
                continue;
            }
            // Retention puts a new file in the place of an old one.
            if self.is_stale() && !reopened {
                reopened = true;
                self.current = None;
                continue;
            }
            if !self.rest_is_missing(through)? {
                return Ok(None);
            }
        }
    }

    /// The number that the reader is at after `item`, unless that is beyond `through`.
    fn within(&self, item: &Item, through: u64) -> Option<u64> {
        let position = match item {
            Item::Alert(record) => record.seq,
            Item::Missing(missing) => missing.last,
            Item::Damaged(damage) => damage.after,
        };
        (position <= through).then_some(position)
    }

    /// Says what is missing up to `through`, which is in no file; `false` when nothing is.
    fn rest_is_missing(&mut self, through: u64) -> io::Result<bool> {
        if through == u64::MAX || self.after >= through {
            return Ok(false);
        }
        let damaged = self.current.as_mut().is_some_and(|current| std::mem::take(&mut current.damaged));
        self.gap(self.after + 1, through, damaged)?;
        if let Some(current) = &mut self.current {
            (current.last, current.link) = (through, None);
        }
        Ok(true)
    }

    /// Opens the segment that holds the next alert; `false` when there is none.
    fn open_at(&mut self) -> io::Result<bool> {
        let names = match segment::list(&self.directory) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let holds = names.iter().rev().find(|name| name.first <= self.after + 1).or_else(|| names.first());
        match holds {
            Some(&name) => self.open(name, None),
            None => Ok(false),
        }
    }

    /// Opens the segment after the current one; `false` when that is the newest.
    fn open_next(&mut self) -> io::Result<bool> {
        let Some(current) = &self.current else { return Ok(false) };
        let names = segment::list(&self.directory)?;
        let is_next = |name: &&Name| **name > current.name && name.first > current.closed;
        let Some(&next) = names.iter().find(is_next) else { return Ok(false) };
        // More may have been written since the end was seen; nothing is added once there is a newer segment.
        if self.step()? {
            return Ok(true);
        }
        if let Some(current) = &mut self.current
            && !current.walk.lines().rest().is_empty()
            // Versions before 2 left there what a crash had cut.
            && current.walk.is_old() == Some(false)
        {
            current.damaged = true;
        }
        let before = self.current.take();
        self.open(next, before)
    }

    fn open(&mut self, name: Name, before: Option<Current>) -> io::Result<bool> {
        let walk = match Walk::open(&name.path(&self.directory)) {
            Ok(walk) => walk,
            // Retention deleted it meanwhile, or put it into an older one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.current = None;
                return self.open_at();
            }
            Err(error) => return Err(error),
        };
        let (last, link, damaged, closed) = before
            .map_or((0, None, false, 0), |before| (before.last, before.link, before.damaged, before.closed));
        self.current = Some(Current {
            name,
            walk,
            last,
            link,
            damaged,
            repeats: true,
            closed,
            failed_from: None,
            ahead: None,
        });
        self.look_for_failed_end();
        Ok(true)
    }

    fn is_stale(&self) -> bool {
        let directory = &self.directory;
        self.current
            .as_ref()
            .is_some_and(|current| !current.walk.lines().is_at(&current.name.path(directory)))
    }

    /// Takes one step in the current segment; `false` at its end.
    fn step(&mut self) -> io::Result<bool> {
        let Some(current) = &mut self.current else { return Ok(false) };
        let Some(step) = current.walk.next()? else { return Ok(false) };
        match step {
            Step::Damage => current.damaged = true,
            Step::Good(Sealed { line, seal }) => match line {
                Line::Header(header) => {
                    if header.why == Why::WriteFailed && header.segment <= current.last + 1 {
                        // What the segment before holds at its end was never acknowledged.
                        current.damaged = false;
                    }
                    // The first segment that is read knows nothing of the one before.
                    if current.last == 0 {
                        current.link = seal.map(|seal| seal.previous);
                    }
                }
                Line::Commit(_) => {}
                Line::Closed(closed) => current.closed = closed.closed,
                Line::Deleted(deleted) => self.take_deleted(&deleted)?,
                Line::Record(record) => {
                    let bytes = current.walk.raw().len() + 1;
                    current.ahead = Some(Ahead { record, seal, bytes });
                }
            },
        }
        Ok(true)
    }

    fn take_record(&mut self, Ahead { record, seal, bytes }: Ahead) -> io::Result<()> {
        if !self.follows(&record, seal) {
            self.look_for_failed_end();
        }
        let is_failed = self.is_failed(record.seq);
        let Some(current) = &mut self.current else { return Ok(()) };
        if record.seq <= current.last {
            // After a write that failed, a segment begins with what was in the one before.
            current.damaged |= !current.repeats;
            return Ok(());
        }
        if is_failed {
            return Ok(());
        }
        current.repeats = false;
        let expected = if current.last == 0 { self.after + 1 } else { current.last + 1 };
        let is_next = record.seq == current.last + 1;
        let is_linked = match (seal, current.link) {
            (Some(seal), Some(link)) => seal.previous == link,
            _ => true,
        };
        let damaged = std::mem::take(&mut current.damaged);
        current.last = record.seq;
        current.link = seal.map(|seal| seal.checksum);
        if record.seq <= self.after {
            return Ok(());
        }
        if record.seq > expected.max(self.after + 1) {
            if !self.gap(expected.max(self.after + 1), record.seq - 1, damaged)? {
                return Ok(());
            }
        } else if is_next && !is_linked {
            self.damage(record.seq - 1, DamageKind::Link);
        } else if damaged {
            self.damage(record.seq - 1, DamageKind::Line);
        }
        self.found.push_back((Item::Alert(record), bytes));
        Ok(())
    }

    fn follows(&self, record: &Record, seal: Option<Seal>) -> bool {
        let Some(current) = &self.current else { return false };
        record.seq == current.last + 1
            && !current.damaged
            && seal.is_none_or(|seal| current.link.is_none_or(|link| seal.previous == link))
    }

    /// Whether a record is of a batch that the disk did not take whole. It is in the next segment.
    fn is_failed(&self, seq: u64) -> bool {
        self.current.as_ref().is_some_and(|current| current.failed_from.is_some_and(|first| seq >= first))
    }

    /// Looks whether the next segment says that the disk did not take the end of this one.
    fn look_for_failed_end(&mut self) {
        let Some(current) = &mut self.current else { return };
        let Ok(names) = segment::list(&self.directory) else { return };
        let Some(next) = names.iter().find(|&&name| name > current.name) else { return };
        let first_line = Walk::open(&next.path(&self.directory)).and_then(|mut walk| walk.next());
        if let Ok(Some(Step::Good(Sealed { line: Line::Header(header), .. }))) = first_line
            && header.why == Why::WriteFailed
            // Where both are one already, what is in this one is all there is.
            && segment::closed_at(&current.name.path(&self.directory)).is_ok_and(|last| last < header.segment)
        {
            current.failed_from = Some(header.segment);
        }
    }

    fn take_deleted(&mut self, deleted: &Deleted) -> io::Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let (first, last) = deleted.deleted;
        if last <= current.last || first > last {
            current.damaged |= !current.repeats;
            return Ok(());
        }
        let expected = if current.last == 0 { self.after + 1 } else { current.last + 1 };
        let damaged = std::mem::take(&mut current.damaged);
        (current.last, current.link) = (last, deleted.link);
        if last <= self.after {
            return Ok(());
        }
        let expected = expected.max(self.after + 1);
        if first > expected {
            if !self.gap(expected, first - 1, damaged)? {
                return Ok(());
            }
        } else if damaged {
            self.damage(expected - 1, DamageKind::Line);
        }
        let first = first.max(self.after + 1);
        self.found
            .push_back((Item::Missing(Missing { first, last, why: Cause::Deleted(deleted.counts) }), 0));
        Ok(())
    }

    fn damage(&mut self, after: u64, kind: DamageKind) {
        self.found.push_back((Item::Damaged(Damage { after, kind }), 0));
    }

    /// Says what is missing from `first` to `last`: deleted as the ledger knows, or not to be explained. `false` when
    /// an older segment says more, and is to be read again.
    fn gap(&mut self, mut first: u64, last: u64, damaged: bool) -> io::Result<bool> {
        let why = if damaged { Cause::Damaged } else { Cause::Lost };
        let ledger = Ledger::load(&self.directory).unwrap_or_default();
        while first <= last {
            let (end, why) = match ledger.find(first) {
                Some(range) => (range.last.min(last), Cause::Deleted(range.counts)),
                None if self.is_merged(first)? => {
                    self.current = None;
                    return Ok(false);
                }
                None => (ledger.next_after(first).map_or(last, |next| (next - 1).min(last)), why),
            };
            self.found.push_back((Item::Missing(Missing { first, last: end, why }), 0));
            first = end + 1;
        }
        Ok(true)
    }

    /// Whether retention put alert `seq`, or the note that it was deleted, into an older segment since that was read.
    fn is_merged(&mut self, seq: u64) -> io::Result<bool> {
        if self.looked_for >= seq || self.current.is_none() {
            return Ok(false);
        }
        self.looked_for = seq;
        let names = segment::list(&self.directory)?;
        let holds = segment::merged_with(&self.directory, &names, seq)?;
        let is_current = |name| self.current.as_ref().is_some_and(|current| current.name == name);
        Ok(holds.is_some_and(|name| !is_current(name) || self.is_stale()))
    }
}

/// Number after which the newest `count` alerts that are `wanted` begin; 0 when there are fewer. Blocking.
///
/// # Errors
/// When a segment cannot be read.
pub fn start_of_last(
    directory: &Path,
    through: u64,
    count: usize,
    wanted: impl Fn(&Record) -> bool,
) -> io::Result<u64> {
    const PORTION: Portion = Portion { items: 1024, bytes: 4 << 20 };
    let mut newest = 0;
    let mut before_first = through;
    for name in segment::list(directory)?.iter().rev() {
        let start = name.first.saturating_sub(1);
        if start >= before_first {
            continue;
        }
        let mut reader = Reader::new(directory, start);
        let mut in_segment = Vec::new();
        let mut items = Vec::new();
        loop {
            items.clear();
            reader.read(before_first, PORTION, &mut items)?;
            if items.is_empty() {
                break;
            }
            in_segment.extend(items.drain(..).filter_map(|item| match item {
                Item::Alert(record) if wanted(&record) => Some(record.seq),
                _ => None,
            }));
        }
        before_first = start;
        for seq in in_segment.into_iter().rev() {
            newest += 1;
            if newest == count {
                return Ok(seq - 1);
            }
        }
    }
    // There are no more: what is missing before the first one belongs to the answer.
    Ok(0)
}
