//! Rewrites closed segments: one without what goes, or two neighbours as one.
//!
//! A segment of which little is left would cost as much to look after as a full one, so neighbours become one when
//! there are too many. Their lines stay as they are, and are proved as before: the first line of the later one too,
//! unless the chain says the same without it.
//!
//! The new file is written beside the old one and renamed, so that whoever reads the old one reads on in it. Then the
//! writer deletes the later one. Until then, the last line of the new file says that what it holds goes as far
//! (`closed`), so nobody reads the later one as well.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use vigie_files::durable::{self, DurableFile};

use crate::chain::Head;
use crate::contents::{Contents, Counting, add_counts, is_severe};
use crate::ledger::Range;
use crate::line::{self, Closed, Counts, Deleted, Header, Line, Seal, Sealed};
use crate::retention::{ClosedSegment, GivenUp, Goes};
use crate::segment::{LineReader, Name, Piece};

/// Bytes that are written at once.
const WRITE_BYTES: usize = 1 << 20;

/// How the segments are after they were rewritten.
#[derive(Debug, Default)]
pub(crate) struct Thinned {
    pub(crate) contents: Contents,
    /// What went, by share.
    pub(crate) deleted: BTreeMap<String, Counts>,
    pub(crate) given_up: Option<GivenUp>,
    /// Nothing is left but the note that alerts were deleted; it is kept elsewhere, and the file can go.
    pub(crate) emptied: Option<Range>,
    /// First numbers of the ledger's ranges that the new file notes by itself.
    pub(crate) noted: Vec<u64>,
    /// Whether the new file is written.
    written: bool,
}

impl Thinned {
    /// Whether no file is left.
    pub(crate) fn is_gone(&self) -> bool {
        !self.written
    }
}

/// Why segments are not rewritten; they are as before.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RewriteError {
    /// This segment cannot be read.
    #[error("a segment cannot be read")]
    Read(Name, #[source] io::Error),
    /// The disk does not take the new file.
    #[error("a segment cannot be written")]
    Write(#[source] io::Error),
}

/// Alerts one after the other that go, with those that went before.
#[derive(Debug, Default)]
struct Gone {
    range: Option<(u64, u64)>,
    counts: Counts,
    shares: BTreeMap<String, Counts>,
    /// Checksum of the last one, if it is known.
    link: Option<u32>,
    /// Checksum of the record before the first one.
    before: u32,
    /// All alerts of one or more batches, after which the chain's head is this.
    head: Option<Head>,
}

impl Gone {
    fn add(&mut self, (first, last): (u64, u64), counts: Counts, link: Option<u32>, before: u32) {
        if let Some(range) = &mut self.range {
            range.1 = last;
        } else {
            self.range = Some((first, last));
            self.before = before;
        }
        self.counts.iter_mut().zip(counts).for_each(|(count, more)| *count += more);
        self.link = link;
    }

    /// Takes what follows it at once; the head is then the later one's.
    fn join(&mut self, later: Self) {
        if let Some(range) = later.range {
            self.add(range, later.counts, later.link, later.before);
            self.add_shares(&later.shares);
        }
        if later.head.is_some() {
            self.head = later.head;
        }
    }

    fn add_shares(&mut self, shares: &BTreeMap<String, Counts>) {
        for (share, &counts) in shares {
            add_counts(&mut self.shares, share, counts);
        }
    }

    fn write(&mut self, buffer: &mut Vec<u8>, counting: &mut Counting) {
        if let Some(deleted) = self.range.take() {
            let start = buffer.len();
            let head = self.head.take();
            // Of whole batches nothing is left to be proved.
            let shares = if head.is_some() { BTreeMap::new() } else { std::mem::take(&mut self.shares) };
            let note = Deleted { deleted, counts: self.counts, shares, link: self.link, head };
            line::seal_value(buffer, &note, self.before);
            counting.note(&note, buffer.len() - start);
        }
        *self = Self::default();
    }
}

/// What becomes of the lines.
#[derive(Debug)]
struct Lines {
    goes: Option<Goes>,
    sent_through: u64,
    fleet: bool,
    thinned: Thinned,
    /// Segments that went from between those that are read, as the ledger has them.
    between: VecDeque<Range>,
    /// What is to be written.
    out: Vec<u8>,
    /// Whole batches that went, up to the batch that is gathered now.
    gone: Gone,
    /// The batch that is gathered: its lines that stay, with what goes among them, and what goes at its end.
    batch: Vec<u8>,
    batch_gone: Gone,
    batch_keeps: bool,
    counting: Counting,
    last: u64,
    /// Checksum of the last record.
    link: Option<u32>,
    /// Head of the chain after the last batch, if it is known.
    head: Option<Head>,
    /// First line of the new file, and the version of the format that the lines are of.
    first_line: Option<Vec<u8>>,
    version: u32,
}

impl Lines {
    /// Takes a line of a segment whose last alert is `last`.
    fn take(&mut self, line: &[u8], old: bool, last: u64) {
        let seal = line::check(line);
        if let Some(seq) = line::seq_of(line)
            && (old || seal.is_some())
        {
            if seq > last {
                // Of a batch that the disk did not take; the next segment holds it.
                return;
            }
            self.record(line, seq, seal);
            if old && self.batch_keeps {
                // There are no batches.
                self.end_batch(None);
            }
            return;
        }
        let Some(Sealed { line: read, seal }) = line::read(line, old) else { return self.keep(line) };
        let previous = seal.map(|seal| seal.previous);
        match read {
            Line::Header(header) => self.header(line, &header, previous),
            // As with the records above.
            Line::Commit(commit) if commit.commit > last => {}
            Line::Deleted(deleted) if deleted.deleted.0 > last => {}
            Line::Commit(commit) => self.end_batch(Some((line, commit.head))),
            Line::Deleted(deleted) => self.deleted(deleted, previous.unwrap_or(0)),
            // It is written anew.
            Line::Closed(_) => {}
            Line::Record(_) => self.keep(line),
        }
    }

    fn record(&mut self, line: &[u8], seq: u64, seal: Option<Seal>) {
        let (share, severity) = (line::share_of(line), line::severity_of_line(line));
        let link = seal.map(|seal| seal.checksum);
        self.last = seq;
        if self.goes.as_ref().is_some_and(|goes| goes.is(share, severity)) {
            let mut counts = [0; 4];
            counts[severity as usize] = 1;
            add_counts(&mut self.thinned.deleted, share, counts);
            if seq > self.sent_through || (!self.fleet && is_severe(severity)) {
                GivenUp::add(&mut self.thinned.given_up, share, severity, seq);
            }
            self.batch_gone.add((seq, seq), counts, link, seal.map_or(0, |seal| seal.previous));
            add_counts(&mut self.batch_gone.shares, share, counts);
        } else {
            self.write_batch_gone();
            self.batch.extend_from_slice(line);
            self.batch.push(b'\n');
            self.batch_keeps = true;
            self.counting.record(share, severity, line.len() + 1);
        }
        self.link = link;
    }

    fn write_batch_gone(&mut self) {
        if !self.batch_keeps && self.batch_gone.range.is_some() && self.batch.is_empty() {
            // At the beginning of a batch: told together with the batches before, without moving the head.
            self.flush_gone();
        }
        self.batch_gone.write(&mut self.batch, &mut self.counting);
    }

    /// Notes what went from between the segments before alert `next`.
    fn note_between(&mut self, next: u64) {
        while let Some(range) = self.between.pop_front_if(|range| range.last < next) {
            let Range { first, last, counts, link, head } = range;
            // Without a head the chain would seem to be broken there.
            if first <= self.last || head.is_none() {
                continue;
            }
            if self.gone.range.is_some_and(|(_, last)| last + 1 != first) {
                self.flush_gone();
            }
            let mut gone = Gone { head, ..Gone::default() };
            gone.add((first, last), counts, link, self.link.unwrap_or(0));
            self.gone.join(gone);
            (self.last, self.link, self.head) = (last, link, head);
            self.thinned.noted.push(first);
        }
    }

    fn deleted(&mut self, deleted: Deleted, previous: u32) {
        let (first, last) = deleted.deleted;
        let is_noted = |range: &&Range| first <= range.first && range.last <= last;
        self.thinned.noted.extend(self.between.iter().filter(is_noted).map(|range| range.first));
        self.last = last;
        self.link = deleted.link;
        self.head = deleted.head.or(self.head);
        let mut gone = Gone::default();
        gone.add(deleted.deleted, deleted.counts, deleted.link, previous);
        gone.add_shares(&deleted.shares);
        if deleted.head.is_some() {
            // Whole batches; they stand between batches.
            self.end_batch(None);
            gone.head = deleted.head;
            self.gone.join(gone);
        } else {
            self.batch_gone.join(gone);
        }
    }

    /// Ends the batch, with its commit line and the head after it.
    fn end_batch(&mut self, commit: Option<(&[u8], Head)>) {
        if let Some((_, head)) = commit {
            self.head = Some(head);
        }
        if let Some((_, head)) = commit
            && !self.batch_keeps
            && self.batch.is_empty()
        {
            let mut gone = std::mem::take(&mut self.batch_gone);
            gone.head = Some(head);
            if gone.range.is_some() {
                self.gone.join(gone);
            }
            return;
        }
        self.write_batch_gone();
        if !self.batch.is_empty() {
            self.flush_gone();
        }
        self.out.append(&mut self.batch);
        if let Some((line, _)) = commit {
            self.counting.commit(line.len() + 1);
            self.out.extend_from_slice(line);
            self.out.push(b'\n');
        }
        self.batch_keeps = false;
    }

    fn flush_gone(&mut self) {
        self.gone.write(&mut self.out, &mut self.counting);
    }

    /// Ends what is gathered where a segment ends.
    fn end_segment(&mut self) {
        if !self.batch_keeps && self.batch.is_empty() && self.batch_gone.range.is_some() {
            // No commit line says which head follows.
            let gone = std::mem::take(&mut self.batch_gone);
            self.gone.join(gone);
            (self.gone.head, self.head) = (None, None);
        }
        if !self.batch.is_empty() {
            self.head = None;
        }
        self.end_batch(None);
    }

    /// The first line of a segment, or of one that was merged.
    fn header(&mut self, line: &[u8], header: &Header, previous: Option<u32>) {
        self.end_segment();
        self.note_between(header.segment);
        let follows = self.head == Some(header.head)
            && self.version == header.version
            && self.last + 1 == header.segment
            && self.link.is_none_or(|link| Some(link) == previous);
        if self.first_line.is_none() {
            self.first_line = Some([line, b"\n"].concat());
            self.counting.other(line.len() + 1);
        } else if !follows {
            self.flush_gone();
            self.out.extend_from_slice(line);
            self.out.push(b'\n');
            self.counting.other(line.len() + 1);
        }
        (self.head, self.version) = (Some(header.head), header.version);
    }

    /// Anything else stays as it is.
    fn keep(&mut self, line: &[u8]) {
        self.write_batch_gone();
        self.batch.extend_from_slice(line);
        self.batch.push(b'\n');
        self.counting.other(line.len() + 1);
    }
}

/// A rewriting that is under way.
#[derive(Debug)]
pub(crate) struct Rewrite {
    directory: PathBuf,
    /// One segment, or neighbours that become one with the first one's name.
    segments: Vec<ClosedSegment>,
    /// Which of them is read.
    at: usize,
    reader: LineReader,
    /// Whether it is of before version 2; known from its first line.
    old: Option<bool>,
    file: Option<DurableFile>,
    lines: Lines,
}

impl Rewrite {
    /// Begins. Nothing is changed before [`Self::finish`]. `between` are the ledger's ranges between the first and the
    /// last alert of the segments.
    ///
    /// # Errors
    /// When the first segment cannot be read.
    pub(crate) fn start(
        directory: &Path,
        segments: Vec<ClosedSegment>,
        between: VecDeque<Range>,
        goes: Option<Goes>,
        sent_through: Option<u64>,
    ) -> Result<Self, (Name, io::Error)> {
        let name = segments[0].name;
        let reader = LineReader::open(&name.path(directory)).map_err(|error| (name, error))?;
        let lines = Lines {
            goes,
            sent_through: sent_through.unwrap_or(u64::MAX),
            fleet: sent_through.is_some(),
            thinned: Thinned::default(),
            between,
            out: Vec::new(),
            gone: Gone::default(),
            batch: Vec::new(),
            batch_gone: Gone::default(),
            batch_keeps: false,
            counting: Counting::default(),
            last: 0,
            link: None,
            head: None,
            first_line: None,
            version: 0,
        };
        Ok(Self { directory: directory.to_owned(), segments, at: 0, reader, old: None, file: None, lines })
    }

    /// The segments that it rewrites.
    pub(crate) fn segments(&self) -> &[ClosedSegment] {
        &self.segments
    }

    pub(crate) fn names(&self) -> Vec<Name> {
        self.segments.iter().map(|segment| segment.name).collect()
    }

    /// What goes; nothing when segments are merged.
    pub(crate) fn goes(&self) -> Option<&Goes> {
        self.lines.goes.as_ref()
    }

    /// Goes on for at most `budget` bytes, which become less, and a line. `true` when the new file is on disk.
    ///
    /// # Errors
    /// When a file cannot be read or the new one cannot be written; then [give it up](Self::give_up).
    pub(crate) fn advance(&mut self, budget: &mut u64) -> Result<bool, RewriteError> {
        while *budget > 0 {
            let name = self.segments[self.at].name;
            let Some(piece) = self.reader.next().map_err(|error| RewriteError::Read(name, error))? else {
                self.lines.end_segment();
                let Some(next) = self.segments.get(self.at + 1) else {
                    return self.complete().map(|()| true).map_err(RewriteError::Write);
                };
                self.reader = LineReader::open(&next.name.path(&self.directory))
                    .map_err(|error| RewriteError::Read(next.name, error))?;
                (self.at, self.old) = (self.at + 1, None);
                continue;
            };
            let Piece::Line(line) = piece else { continue };
            *budget = budget.saturating_sub(line.len() as u64 + 1);
            let old = *self.old.get_or_insert_with(|| line::is_old(line));
            self.lines.take(line, old, self.segments[self.at].last);
            if self.lines.out.len() >= WRITE_BYTES {
                self.write().map_err(RewriteError::Write)?;
            }
        }
        if !self.lines.out.is_empty() {
            // Much at once would take long at the end.
            self.write().and_then(|()| self.sync()).map_err(RewriteError::Write)?;
        }
        Ok(false)
    }

    fn complete(&mut self) -> io::Result<()> {
        let lines = &mut self.lines;
        if self.file.is_none() && lines.out.is_empty() {
            // Everything went: what is known of it moves to the ledger.
            if let Some((first, last)) = lines.gone.range {
                let Gone { counts, link, head, .. } = lines.gone;
                lines.thinned.emptied = Some(Range { first, last, counts, link, head });
            }
            return Ok(());
        }
        lines.flush_gone();
        let mut contents = std::mem::take(&mut lines.counting).finish();
        let start = lines.out.len();
        line::seal_value(&mut lines.out, &Closed::new(lines.last, &contents), lines.link.unwrap_or(0));
        contents.add_other(lines.out.len() - start);
        lines.thinned.contents = contents;
        lines.thinned.written = true;
        self.write()?;
        self.sync()
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), DurableFile::sync)
    }

    fn write(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let new = self.name().new_path(&self.directory);
                if new.exists() {
                    durable::remove(&new)?;
                }
                let made = self.file.insert(DurableFile::create(&new)?);
                if let Some(line) = &self.lines.first_line {
                    made.append(line)?;
                }
                made
            }
        };
        file.append(&self.lines.out)?;
        self.lines.out.clear();
        Ok(())
    }

    /// What the new file is called.
    pub(crate) fn name(&self) -> Name {
        self.segments[0].name
    }

    /// What becomes of it.
    pub(crate) fn thinned(&self) -> &Thinned {
        &self.lines.thinned
    }

    /// Puts the new file in the place of the first old one, or deletes that when nothing is left. When there is another
    /// old one it is to be deleted now.
    ///
    /// # Errors
    /// When it cannot be written to disk: what is in which file then is to be looked up.
    pub(crate) fn finish(self) -> io::Result<Thinned> {
        let name = self.name();
        let path = name.path(&self.directory);
        if self.lines.thinned.written {
            let new = name.new_path(&self.directory);
            if let Err(error) = durable::rename(&new, &path) {
                self.give_up();
                return Err(error);
            }
        } else {
            remove(&path)?;
        }
        durable::sync_directory(&self.directory)?;
        Ok(self.lines.thinned)
    }

    /// Leaves everything as it was.
    pub(crate) fn give_up(self) {
        if self.file.is_some() {
            // What stays all the same goes before the next time.
            remove(&self.name().new_path(&self.directory)).ok();
        }
    }
}

/// Deletes a file, unless somebody else did.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match durable::remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
