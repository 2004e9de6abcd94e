//! Reads what is on disk when the journal is opened.

use std::io;
use std::path::Path;

use vigie_files::durable;

use crate::batch::Place;
use crate::chain::BatchDigest;
use crate::contents::{Contents, Counting};
use crate::ledger::{Ledger, Range};
use crate::line::{self, Line, Sealed};
use crate::retention::ClosedSegment;
use crate::seen::{SeenIds, SeenSnapshot};
use crate::segment::{self, Name};
use crate::walk::{Step, Walk};
use crate::writer::{LeftOver, OpenError};

/// What was found when the journal was opened.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Bytes of a half-written batch that were cut off; it was never acknowledged.
    pub cut_bytes: u64,
    /// Pieces that are no lines of a journal, in the segments that were read. Older ones are read by a
    /// [`verify`](crate::verify).
    pub damaged: u64,
    /// Alerts that were recorded last and are not there.
    pub missing_at_end: u64,
    /// Files beside the segments that every journal has, and that this one had no more.
    pub missing_files: Vec<&'static str>,
}

/// The newest segment.
#[derive(Debug)]
pub(crate) struct Newest {
    pub(crate) name: Name,
    /// Whether more can be added to it.
    pub(crate) may_grow: bool,
    /// Of which version of the format it is; 0 when it does not say.
    pub(crate) version: u32,
    /// Where its last commit line ends, or another line after which nothing is open.
    pub(crate) committed: u64,
    /// Whole records after it.
    pub(crate) tail: Vec<u8>,
    pub(crate) contents: Contents,
    /// The same records.
    pub(crate) uncommitted: BatchDigest,
    pub(crate) is_closed: bool,
    /// Pieces after the last commit line that are no lines.
    pub(crate) tail_damaged: u64,
    last: u64,
}

impl Newest {
    pub(crate) fn into_closed(self) -> ClosedSegment {
        ClosedSegment::new(self.name, self.last, self.contents)
    }
}

/// Everything that was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) place: Place,
    /// Numbers up to this one were given.
    pub(crate) seq_at_least: u64,
    pub(crate) closed: Vec<ClosedSegment>,
    /// Segments that one before holds as well: a crash came when they had become one.
    pub(crate) left_over: Vec<LeftOver>,
    pub(crate) newest: Option<Newest>,
    pub(crate) seen: SeenIds,
    pub(crate) ledger: Ledger,
    pub(crate) recovery: Recovery,
}

/// Reads the segments whose ids are not kept elsewhere, and the newest one in any case. `marked` is the number of the
/// newest alert as the high-water mark has it.
pub(crate) fn read(directory: &Path, marked: u64) -> Result<Found, OpenError> {
    let directory_error = |source| OpenError::Directory { path: directory.to_owned(), source };
    // What stays only takes room.
    segment::delete_unfinished(directory).ok();
    let mut names = segment::list(directory).map_err(directory_error)?;
    // A crash can leave a segment whose first line was never written; nothing was acknowledged in it.
    while let Some(&name) = names.last()
        && name.first > marked
        && !has_good_line(&name.path(directory))
    {
        // If it stayed, readers would take it for the newest one, and wait in it.
        match durable::remove(&name.path(directory)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(directory_error(error)),
            _ => names.pop(),
        };
    }
    let left_over = take_merged(directory, &mut names);
    let snapshot = SeenSnapshot::load(directory);
    let through_seq = snapshot.as_ref().map_or(0, |snapshot| snapshot.through_seq);
    let mut seen = snapshot.map(SeenIds::from_snapshot).unwrap_or_default();
    let mut recovery = Recovery::default();
    let ledger = Ledger::load(directory).unwrap_or_else(|| {
        recovery.damaged += 1;
        Ledger::default()
    });
    let mut place = Place::default();
    let mut closed = Vec::new();
    let mut newest = None;
    for (index, &name) in names.iter().enumerate() {
        let path = name.path(directory);
        let segment_error = |source| OpenError::Segment { path: path.clone(), source };
        let next = names.get(index + 1);
        if next.is_some_and(|next| next.first <= through_seq + 1 && next.first > name.first) {
            let last = next.map_or(0, |next| next.first - 1);
            closed.push(ClosedSegment::new(name, last, contents(&path)));
            continue;
        }
        // What it holds of the next one's alerts the disk did not take, and they are there again or were never
        // acknowledged.
        let until = next.map_or(u64::MAX, |next| next.first);
        let scan = Scan::of(name, until, &path, &mut seen).map_err(segment_error)?;
        let damaged = scan.damaged;
        let (scanned, end) = scan.finish(name, marked, &mut seen);
        recovery.damaged += if next.is_some() { damaged } else { damaged - scanned.tail_damaged };
        if end.seq > place.seq || index == 0 {
            place = end;
        }
        match next {
            Some(next) => closed.push(ClosedSegment { last: next.first - 1, ..scanned.into_closed() }),
            None => newest = Some(scanned),
        }
    }
    let mut found = Found {
        seq_at_least: through_seq.max(place.seq).max(ledger.last()),
        place,
        closed,
        left_over: left_over.into_iter().map(|name| LeftOver::find(directory, name)).collect(),
        newest,
        seen,
        ledger,
        recovery,
    };
    found.note_old_deletions(directory, names.first().copied());
    Ok(found)
}

impl Found {
    /// Versions before 2 deleted the oldest segments without a note.
    fn note_old_deletions(&mut self, directory: &Path, first: Option<Name>) {
        let Some(first) = first.filter(|name| name.first > 1 && self.ledger == Ledger::default()) else {
            return;
        };
        let mut walk = match Walk::open(&first.path(directory)) {
            Ok(walk) => walk,
            Err(_) => return,
        };
        if walk.next().is_ok() && walk.is_old() == Some(true) {
            self.ledger.add(Range {
                first: 1,
                last: first.first - 1,
                counts: [0; 4],
                link: None,
                head: None,
            });
            // Without it readers say that these alerts are missing; the next segment stores it again.
            self.ledger.store(directory).ok();
        }
    }
}

/// Takes those away that one before holds as well.
fn take_merged(directory: &Path, names: &mut Vec<Name>) -> Vec<Name> {
    let mut through = 0;
    let is_merged = |name: &mut Name| {
        let merged = name.first <= through;
        if !merged {
            // What cannot be read is looked at below, and told.
            through = segment::closed_at(&name.path(directory)).unwrap_or(0).max(through);
        }
        merged
    };
    names.extract_if(.., is_merged).collect()
}

/// What is in a closed segment. One that cannot be read keeps nobody from recording alerts: retention reports it, and
/// so does who reads it.
fn contents(path: &Path) -> Contents {
    segment::contents(path).unwrap_or_else(|_| {
        let other_bytes = path.symlink_metadata().map_or(0, |found| found.len());
        Contents { other_bytes, is_rough: true, ..Contents::default() }
    })
}

fn has_good_line(path: &Path) -> bool {
    // What cannot be read is looked at below, and told.
    let Ok(mut walk) = Walk::open(path) else { return true };
    loop {
        match walk.next() {
            Ok(Some(Step::Damage)) => {}
            Ok(None) => return false,
            Ok(Some(Step::Good(_))) | Err(_) => return true,
        }
    }
}

/// One segment, read from its beginning to its end.
struct Scan {
    place: Place,
    damaged: u64,
    counting: Counting,
    /// Of its first line; 0 before it, and without one.
    version: u32,
    is_closed: bool,
    /// Where the last commit line ends.
    committed: u64,
    /// Records after it, up to the first damage.
    tail: Vec<u8>,
    /// Pieces after the last commit line that are no lines: what a crash left, unless it was acknowledged.
    tail_damaged: u64,
    /// The same records.
    uncommitted: BatchDigest,
    /// Ids of the records after the last commit line; of those after damage they count only if a commit line follows.
    ids: Vec<(String, String)>,
    good_ids: usize,
    good_place: Place,
    /// End and number of a commit line whose batch is not whole. If it is the last one and the mark does not know it,
    /// the power went while it was written, for a disk may write its sectors in any order.
    suspect: Option<(u64, u64)>,
}

impl Scan {
    fn of(name: Name, until: u64, path: &Path, seen: &mut SeenIds) -> io::Result<Self> {
        let place = Place { seq: name.first.saturating_sub(1), ..Place::default() };
        let mut walk = Walk::open(path)?;
        let mut scan = Self {
            place,
            damaged: 0,
            counting: Counting::default(),
            version: 0,
            is_closed: false,
            committed: 0,
            tail: Vec::new(),
            tail_damaged: 0,
            uncommitted: BatchDigest::default(),
            ids: Vec::new(),
            good_ids: 0,
            good_place: place,
            suspect: None,
        };
        let mut is_empty = true;
        while let Some(step) = walk.next()? {
            match step {
                Step::Damage => {
                    scan.damaged += 1;
                    scan.tail_damaged += 1;
                }
                Step::Good(Sealed { line: Line::Record(record), .. }) if record.seq >= until => {}
                Step::Good(Sealed { line: Line::Commit(commit), .. }) if commit.commit >= until => {}
                Step::Good(sealed) => {
                    is_empty = false;
                    let end = walk.lines().offset();
                    scan.take(sealed, walk.raw(), end, seen);
                }
            }
        }
        if is_empty {
            // A name alone is no number that was given.
            (scan.place, scan.good_place) = (Place::default(), Place::default());
        }
        Ok(scan)
    }

    fn take(&mut self, Sealed { line, seal }: Sealed, raw: &[u8], end: u64, seen: &mut SeenIds) {
        let previous = seal.map(|seal| seal.previous);
        if let Some((end, _)) = self.suspect.take() {
            // A batch is begun when the one before is on disk: that one was, and was damaged later.
            self.committed(end, seen);
        }
        match line {
            Line::Header(header) => {
                self.version = header.version;
                let link = previous.unwrap_or_default();
                self.place = Place { seq: header.segment.saturating_sub(1), link, head: header.head };
                self.counting.other(raw.len() + 1);
                self.committed(end, seen);
            }
            Line::Record(record) => {
                let (share, severity) = (line::share_of(raw), line::severity_of_line(raw));
                self.counting.record(share, severity, raw.len() + 1);
                self.place.seq = self.place.seq.max(record.seq);
                self.ids.extend(record.id.map(|id| (record.module, id)));
                let Some(seal) = seal else { return self.committed(end, seen) };
                self.place.link = seal.checksum;
                if self.tail_damaged == 0 {
                    let start = self.tail.len();
                    self.tail.extend_from_slice(raw);
                    self.tail.push(b'\n');
                    self.uncommitted.add(&self.tail[start..], share, severity);
                    self.good_ids = self.ids.len();
                    self.good_place = self.place;
                }
            }
            Line::Commit(commit) => {
                self.place = Place {
                    seq: self.place.seq.max(commit.commit),
                    link: previous.unwrap_or(self.place.link),
                    head: commit.head,
                };
                self.counting.commit(raw.len() + 1);
                if self.tail_damaged > 0 {
                    self.suspect = Some((end, commit.commit));
                } else {
                    self.committed(end, seen);
                }
            }
            Line::Deleted(deleted) => {
                self.place.seq = self.place.seq.max(deleted.deleted.1);
                self.place.link = deleted.link.unwrap_or(self.place.link);
                self.place.head = deleted.head.unwrap_or(self.place.head);
                self.counting.note(&deleted, raw.len() + 1);
                if deleted.head.is_some() {
                    self.committed(end, seen);
                }
            }
            Line::Closed(_) => {
                self.is_closed = true;
                self.counting.other(raw.len() + 1);
                self.committed(end, seen);
            }
        }
    }

    /// Everything up to here was acknowledged.
    fn committed(&mut self, end: u64, seen: &mut SeenIds) {
        for (module, id) in self.ids.drain(..) {
            seen.insert(&module, &id);
        }
        self.committed = end;
        self.tail.clear();
        self.tail_damaged = 0;
        self.uncommitted = BatchDigest::of_version(self.version);
        self.good_ids = 0;
        self.good_place = self.place;
    }

    fn finish(mut self, name: Name, marked: u64, seen: &mut SeenIds) -> (Newest, Place) {
        if let Some((end, seq)) = self.suspect.take()
            && seq <= marked
        {
            self.committed(end, seen);
        }
        for (module, id) in self.ids.drain(..self.good_ids) {
            seen.insert(&module, &id);
        }
        let newest = Newest {
            name,
            may_grow: self.version > 0,
            version: self.version,
            committed: self.committed,
            tail: self.tail,
            contents: self.counting.finish(),
            uncommitted: self.uncommitted,
            is_closed: self.is_closed,
            tail_damaged: self.tail_damaged,
            last: self.good_place.seq,
        };
        (newest, self.good_place)
    }
}
