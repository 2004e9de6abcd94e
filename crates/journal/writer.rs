//! Writes the journal: one batch after the other, each on disk when [`Writer::append`] returns.
//!
//! A segment is left behind, and a new one begun, when it is full, when somebody else changed, cut or deleted it, and
//! when a sync failed: what a failed sync was to write is lost to the kernel, so the batch is written again from memory
//! to another file. A batch counts when its commit line is on disk; the high-water mark follows ([`Writer::settle`]).
//!
//! Room is made in small steps with each batch, so that none waits for long.

mod room;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use vigie_files::durable::{self, DurableFile, Standing};

use crate::batch::{self, Place, SealedBatch};
use crate::contents::{Contents, Tally, add_counts};
use crate::cursor;
use crate::ledger::Ledger;
use crate::line::{self, Closed, Counts, Header, VERSION, Why};
use crate::mark::{self, HighWater, Mark};
use crate::names::{self, Renamed};
use crate::recovery::{self, Newest, Recovery};
use crate::retention::{ClosedSegment, GivenUp};
use crate::rewrite::Rewrite;
use crate::seen::{SeenIds, SeenSnapshot};
use crate::segment::Name;

/// How much of old segments is read with each batch to make room, in bytes, and how many times the bytes of the batch:
/// of what a flood fills room must be made as quickly.
const STEP_BYTES: u64 = 2 << 20;
const STEP_FACTOR: u64 = 8;

/// Most segments that begin with the same number.
const MAX_PARTS: u32 = 10_000;

/// How large the journal may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Size in bytes at which a new segment is begun.
    pub segment_bytes: u64,
    /// So many times `segment_bytes` are kept.
    pub keep_segments: u32,
}

/// Why the journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made or read.
    #[error("cannot use the alert journal in {path:?}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A segment cannot be opened or read.
    #[error("cannot open the alert journal's segment {path:?}")]
    Segment {
        /// The segment.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Why a batch was not recorded. Nothing of it counts, and the same can be tried again.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// A new segment has to be begun, for which the ids that are recorded so far are needed. Try again at once.
    #[error("a new segment of the alert journal needs the recorded IDs")]
    NeedsSnapshot,
    /// It was sealed to follow another alert than the newest one.
    #[error("a batch that follows alert {after} cannot be written after alert {newest}")]
    OutOfOrder {
        /// What it follows.
        after: u64,
        /// The newest recorded alert.
        newest: u64,
    },
    /// The disk does not take it.
    #[error(transparent)]
    Disk(#[from] io::Error),
}

/// What somebody else did to the segment that is written, or the disk did not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incident {
    /// What it was.
    pub why: Why,
    /// Number of the newest alert that was recorded then.
    pub after: u64,
}

/// A segment that is still there although the one before holds what is in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeftOver {
    pub(crate) name: Name,
    /// What it takes; nobody's share pays for it.
    pub(crate) bytes: u64,
}

impl LeftOver {
    pub(crate) fn find(directory: &Path, name: Name) -> Self {
        let bytes = name.path(directory).symlink_metadata().map_or(0, |found| found.len());
        Self { name, bytes }
    }
}

/// The segment that is written.
#[derive(Debug)]
struct Open {
    name: Name,
    file: DurableFile,
    /// Bytes of it that count: lines of batches that were acknowledged, or are about to be.
    counted: u64,
    contents: Contents,
    /// Its last line is written.
    is_closed: bool,
}

/// The journal's files, open for appending. Blocking.
#[derive(Debug)]
pub struct Writer {
    directory: PathBuf,
    sizes: Sizes,
    closed: Vec<ClosedSegment>,
    left_over: Vec<LeftOver>,
    open: Option<Open>,
    /// Why the next batch begins a new segment.
    begin: Option<Why>,
    place: Place,
    high_water: HighWater,
    /// The journal's name.
    identity: String,
    /// Files beside the segments that somebody else took away: since that was asked, and those that are not there
    /// again.
    taken_away: Vec<&'static str>,
    said: Vec<&'static str>,
    ledger: Ledger,
    /// The disk does not take the high-water mark or the ledger; the alerts themselves are safe.
    trouble: Option<String>,
    /// Retention cannot be applied.
    retention_trouble: Option<String>,
    /// Room may have to be made: after the start and with a new segment, until it is made.
    must_make_room: bool,
    /// What makes room at present.
    rewrite: Option<Rewrite>,
    /// See [`STEP_BYTES`].
    pub(crate) step_bytes: u64,
    /// How often segments became one.
    #[cfg(test)]
    pub(crate) merged: u64,
    /// Alerts that were given up are told of, or that they were is not on disk.
    is_telling: bool,
    is_told: bool,
    incidents: Vec<Incident>,
    sent_through: Option<u64>,
    given_up: Option<GivenUp>,
    /// Alerts that this writer recorded, by module.
    by_module: BTreeMap<String, Counts>,
}

impl Writer {
    /// Opens the journal in `directory`, creating it when it is not there, and repairs what a crash left.
    ///
    /// # Errors
    /// When the files cannot be used.
    pub fn open(directory: &Path, sizes: Sizes) -> Result<(Self, SeenIds, Recovery), OpenError> {
        let directory_error = |source| OpenError::Directory { path: directory.to_owned(), source };
        durable::make_directory(directory).map_err(directory_error)?;
        let (high_water, mark) = HighWater::open(directory);
        let (has_mark, mark) = (mark.is_some(), mark.unwrap_or_default());
        let mut found = recovery::read(directory, mark.seq)?;
        let mut place = found.place;
        let lost = mark.seq.saturating_sub(place.seq);
        if lost > 0 {
            place = Place { seq: mark.seq, link: mark.link, head: mark.head };
        }
        // Numbers that the ids or the ledger know were given as well.
        place.seq = place.seq.max(found.seq_at_least);
        found.recovery.missing_at_end = lost;
        let known = cursor::known_identity(directory);
        // Versions before 2 wrote no header, and not all of these files.
        if found.newest.as_ref().is_some_and(|newest| newest.may_grow) {
            let files = [(has_mark, mark::FILE_NAME), (known.is_some(), cursor::IDENTITY_FILE)];
            found.recovery.missing_files =
                files.into_iter().filter(|(is_there, _)| !is_there).map(|(_, name)| name).collect();
        }
        let identity = cursor::identity(directory).map_err(directory_error)?;
        if let Some(newest) = &found.newest
            && (lost > 0 || (mark.seq == place.seq && newest.uncommitted.records() > 0))
        {
            // It was acknowledged.
            found.recovery.damaged += newest.tail_damaged;
        }
        let (open, begin) = match found.newest.take() {
            Some(newest) if newest.may_grow && lost == 0 => {
                let is_current = newest.version == VERSION;
                let open = reopen(directory, &newest, &mut place, &mut found.recovery)?;
                (Some(open), (!is_current).then_some(Why::First))
            }
            Some(newest) => {
                found.closed.push(newest.into_closed());
                (None, Some(if lost > 0 { Why::Lost } else { Why::First }))
            }
            None => (None, Some(if lost > 0 { Why::Lost } else { Why::First })),
        };
        durable::sync_directory(directory).map_err(directory_error)?;
        let mut writer = Self {
            directory: directory.to_owned(),
            sizes,
            closed: found.closed,
            left_over: found.left_over,
            open,
            begin,
            place,
            high_water,
            identity,
            taken_away: Vec::new(),
            said: Vec::new(),
            must_make_room: true,
            rewrite: None,
            step_bytes: STEP_BYTES,
            #[cfg(test)]
            merged: 0,
            is_telling: false,
            is_told: false,
            ledger: found.ledger,
            trouble: None,
            retention_trouble: None,
            incidents: Vec::new(),
            sent_through: None,
            given_up: None,
            by_module: BTreeMap::new(),
        };
        if !has_mark {
            // From now on one that is missing was taken away.
            writer.write_mark();
        }
        writer.remove_left_over();
        Ok((writer, found.seen, found.recovery))
    }

    /// Number of the newest recorded alert.
    #[must_use]
    pub fn recorded(&self) -> u64 {
        self.place.seq
    }

    /// Where the chain ends: what the next batch follows.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// The head of the chain: it stands for all batches that are recorded.
    #[must_use]
    pub fn head(&self) -> String {
        self.place.head.to_string()
    }

    /// Size of all segments in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let closed: u64 = self.closed.iter().map(|segment| segment.contents.total_bytes()).sum();
        closed + self.left_over_bytes() + self.open.as_ref().map_or(0, |open| open.file.length())
    }

    /// Alerts that retention has deleted since the journal was begun, of each severity.
    #[must_use]
    pub fn deleted(&self) -> Counts {
        self.ledger.totals
    }

    /// The same by module, and what the agent told about a module as `agent:MODULE`. Without those that versions before
    /// this form of the journal deleted.
    #[must_use]
    pub fn deleted_by_module(&self) -> &BTreeMap<String, Counts> {
        &self.ledger.shares
    }

    /// Alerts that were recorded since the journal was opened, by module.
    #[must_use]
    pub fn by_module(&self) -> &BTreeMap<String, Counts> {
        &self.by_module
    }

    /// What the disk does not take at present although the alerts themselves are safe.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref().or(self.retention_trouble.as_deref())
    }

    /// What happened to the segment since the last call.
    pub fn take_incidents(&mut self) -> Vec<Incident> {
        std::mem::take(&mut self.incidents)
    }

    /// Which files beside the segments somebody else took away since the last call; they are there again, or will be.
    pub fn take_taken_away(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.taken_away)
    }

    /// Looks whether the files beside the segments are as we left them, and writes again what is not.
    pub fn inspect_files(&mut self) {
        if mark::read(&self.directory).is_some() {
            self.said.retain(|said| *said != mark::FILE_NAME);
        } else {
            self.is_taken_away(mark::FILE_NAME);
            self.write_mark();
        }
        if cursor::known_identity(&self.directory).as_deref() == Some(&self.identity) {
            self.said.retain(|said| *said != cursor::IDENTITY_FILE);
        } else {
            self.is_taken_away(cursor::IDENTITY_FILE);
            // The next look tries again.
            cursor::store_identity(&self.directory, &self.identity).ok();
        }
    }

    /// Gives the journal another name: what is recorded under the present one after `through` may bear the name of
    /// another host's alerts.
    ///
    /// # Errors
    /// When it cannot be written to disk.
    pub fn rename(&mut self, through: u64) -> io::Result<Renamed> {
        let renamed = names::rename(&self.directory, through)?;
        self.identity.clone_from(&renamed.now);
        Ok(renamed)
    }

    fn is_taken_away(&mut self, name: &'static str) {
        if !self.said.contains(&name) {
            self.said.push(name);
            self.taken_away.push(name);
        }
    }

    /// Takes new sizes; they hold from the next append on.
    pub fn set_sizes(&mut self, sizes: Sizes) {
        self.sizes = sizes;
    }

    /// Takes how far the fleet has the alerts; absent when no fleet wants them.
    pub fn set_sent_through(&mut self, sent_through: Option<u64>) {
        self.sent_through = sent_through;
    }

    /// What was deleted since the last call and somebody should be told of, by [`Self::tell`].
    pub fn take_given_up(&mut self) -> Option<GivenUp> {
        self.given_up.take()
    }

    /// What was deleted and nobody was told of yet, also before the start. Nothing until what was returned before is
    /// [told](Self::told). After a crash the same can be returned again, with the same [id](GivenUp::id).
    pub fn tell(&mut self) -> Option<GivenUp> {
        let Ledger { untold, telling, .. } = &mut self.ledger;
        if self.is_telling {
            return None;
        }
        if telling.is_none() {
            *telling = untold.take();
        }
        self.is_telling = telling.is_some();
        telling.clone()
    }

    /// Whether [`Self::tell`] returns something.
    #[must_use]
    pub fn has_untold(&self) -> bool {
        !self.is_telling && (self.ledger.telling.is_some() || self.ledger.untold.is_some())
    }

    /// The alert that tells it is recorded.
    pub fn told(&mut self) {
        if std::mem::take(&mut self.is_telling) {
            self.ledger.telling = None;
            self.is_told = true;
        }
    }

    /// Whether the next append begins a new segment, and so needs the ids recorded until now. It may turn out to be
    /// necessary only then: [`AppendError::NeedsSnapshot`].
    #[must_use]
    pub fn needs_snapshot(&self) -> bool {
        self.begin.is_some()
            || self
                .open
                .as_ref()
                .is_none_or(|open| open.is_closed || open.counted >= self.sizes.segment_bytes)
    }

    /// Sees whether the segment is as we left it; if it is not, the next batch begins a new one.
    pub fn inspect(&mut self) {
        let Some(open) = &self.open else { return };
        // What cannot be seen now is seen by the next append.
        let why = match open.file.standing() {
            Ok(Standing::Intact) | Err(_) => return,
            Ok(Standing::Resized { .. }) => Why::Resized,
            Ok(Standing::Replaced) => Why::Replaced,
        };
        if self.begin.is_none() {
            self.begin = Some(why);
            self.incidents.push(Incident { why, after: self.place.seq });
        }
    }

    /// Records a batch and returns when it is safe on disk.
    ///
    /// # Errors
    /// When it cannot be written to disk, a snapshot is needed and not there, or it does not follow what is recorded.
    pub fn append(&mut self, batch: &SealedBatch, snapshot: Option<SeenSnapshot>) -> Result<(), AppendError> {
        if batch.is_empty() {
            return Ok(());
        }
        if batch.after() != self.place {
            return Err(AppendError::OutOfOrder { after: batch.after().seq, newest: self.place.seq });
        }
        self.inspect();
        if self.needs_snapshot() {
            let Some(snapshot) = snapshot else { return Err(AppendError::NeedsSnapshot) };
            // What is still in the way of the segment before goes at once.
            self.make_room(u64::MAX, false);
            self.begin_segment(snapshot)?;
        }
        self.make_room(self.step_bytes.max(batch.bytes().len() as u64 * STEP_FACTOR), true);
        let Some(open) = &mut self.open else { return Err(AppendError::NeedsSnapshot) };
        if let Err(error) = open.file.append(batch.bytes()).and_then(|()| open.file.sync()) {
            // What cannot be cut off does not count: the next segment says so.
            if open.file.sync_failed() || open.file.cut(open.counted).is_err() {
                self.begin = Some(Why::WriteFailed);
                self.incidents.push(Incident { why: Why::WriteFailed, after: self.place.seq });
            }
            return Err(error.into());
        }
        open.counted = open.file.length();
        open.contents.add_all(batch.contents());
        for (share, Tally { counts, .. }) in &batch.contents().shares {
            add_counts(&mut self.by_module, line::module_of(share), *counts);
        }
        self.place = batch.place();
        self.write_mark();
        Ok(())
    }

    fn write_mark(&mut self) {
        let Place { seq, link, head } = self.place;
        let written = self.high_water.write(&self.directory, &Mark { seq, link, head });
        if self.high_water.take_replaced() {
            self.is_taken_away(mark::FILE_NAME);
        }
        self.note_mark(written);
    }

    fn note_mark(&mut self, written: io::Result<()>) {
        match written {
            Ok(()) => self.trouble = None,
            Err(error) => self.trouble = Some(format!("cannot write the journal's high-water mark: {error}")),
        }
    }

    /// Whether something beside the alerts is not on disk yet.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.high_water.is_unsynced() || self.is_told
    }

    /// Returns when the high-water mark is on disk. Called when there is time, and at the end.
    pub fn settle(&mut self) {
        if self.high_water.is_unsynced() {
            let synced = self.high_water.sync();
            self.note_mark(synced);
        }
        if std::mem::take(&mut self.is_told) {
            // Without it the same is told again after a restart, unless its id is known still.
            self.ledger.store(&self.directory).ok();
        }
    }

    fn begin_segment(&mut self, mut snapshot: SeenSnapshot) -> io::Result<()> {
        durable::make_directory(&self.directory)?;
        self.close_full();
        snapshot.through_seq = self.place.seq;
        snapshot.store(&self.directory)?;
        let first = self.place.seq + 1;
        let why = self.begin.unwrap_or(Why::Full);
        let name = self.free_name(first)?;
        let mut file = DurableFile::create(&name.path(&self.directory))?;
        let header = Header { segment: first, version: VERSION, begun: now(), why, head: self.place.head };
        let mut bytes = Vec::new();
        line::seal_value(&mut bytes, &header, self.place.link);
        let written = file
            .append(&bytes)
            .and_then(|()| file.sync())
            .and_then(|()| durable::sync_directory(&self.directory));
        if let Err(error) = written {
            // Best effort: an empty segment is only in the way.
            durable::remove(file.path()).ok();
            return Err(error);
        }
        let mut contents = Contents::default();
        contents.add_other(bytes.len());
        let counted = file.length();
        let open = Open { name, file, counted, contents, is_closed: false };
        if let Some(before) = self.open.replace(open) {
            self.leave(before);
        }
        self.begin = None;
        self.must_make_room = true;
        self.closed.iter_mut().for_each(|segment| segment.is_put_off = false);
        self.remove_left_over();
        Ok(())
    }

    /// A name for a segment that begins with this number; it may have been taken by one that the disk failed.
    fn free_name(&self, first: u64) -> io::Result<Name> {
        (0..MAX_PARTS)
            .map(|part| Name { first, part })
            .find(|name| name.path(&self.directory).symlink_metadata().is_err())
            .ok_or_else(|| io::Error::other(format!("{MAX_PARTS} segments begin with alert {first}")))
    }

    /// Writes the last line of a segment that is full. Without it the segment is read to know what is in it.
    fn close_full(&mut self) {
        let Some(open) = &mut self.open else { return };
        if self.begin.is_some() || open.is_closed {
            return;
        }
        let mut line = Vec::new();
        line::seal_value(&mut line, &Closed::new(self.place.seq, &open.contents), self.place.link);
        if open.file.append(&line).and_then(|()| open.file.sync()).is_ok() {
            open.counted = open.file.length();
            open.contents.add_other(line.len());
            open.is_closed = true;
        } else {
            self.begin = Some(Why::WriteFailed);
        }
    }

    /// Takes a segment to which nothing is added any more among the closed ones.
    fn leave(&mut self, before: Open) {
        if before.name.first > self.place.seq {
            // Nothing was acknowledged in it; it would only be read in vain.
            durable::remove(before.file.path()).ok();
        } else if before.file.path().exists() {
            let Open { name, contents, .. } = before;
            self.closed.push(ClosedSegment::new(name, self.place.seq, contents));
        }
    }
}

/// Opens the newest segment to go on in it; cuts off what a crash left at its end, and ends the batch before that.
fn reopen(
    directory: &Path,
    newest: &Newest,
    place: &mut Place,
    recovery: &mut Recovery,
) -> Result<Open, OpenError> {
    let path = newest.name.path(directory);
    let segment_error = |source| OpenError::Segment { path: path.clone(), source };
    let mut file = DurableFile::open(&path).map_err(segment_error)?;
    let mut contents = newest.contents.clone();
    let whole = newest.committed + newest.tail.len() as u64;
    if file.length() > newest.committed {
        recovery.cut_bytes = file.length().saturating_sub(whole);
        let mut tail = newest.tail.clone();
        if newest.uncommitted.records() > 0 {
            place.head = batch::commit(&mut tail, newest.uncommitted.clone(), place);
            contents.add_commit(tail.len() - newest.tail.len(), &BTreeMap::new());
        }
        // Records that are whole are written again: what a failed sync left here may be in the memory of the kernel
        // only, and would never be written.
        let mended = file.cut(newest.committed).and_then(|()| file.append(&tail)).and_then(|()| file.sync());
        mended.map_err(segment_error)?;
    }
    let counted = file.length();
    Ok(Open { name: newest.name, file, counted, contents, is_closed: newest.is_closed })
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}
