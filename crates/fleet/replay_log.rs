//! Which actions an agent has begun, on disk before anything runs: no action is run twice, whoever sends it again.
//!
//! [`begin`](ReplayLog::begin) returns when the id is on disk; only then may the action run.
//! [`answered`](ReplayLog::answered) notes that its answer is safe. After a restart those that were begun and not
//! answered are [known](ReplayLog::unanswered): they are answered as interrupted and not run again.
//!
//! An id is forgotten when its action has expired for an hour and was answered. So that a clock that was ahead
//! and is set back does not bring such an action to life, the log keeps the latest `not_after` of all that it has
//! forgotten: what does not end later counts as seen. That needs no memory of the clock itself, so a clock that
//! was a year ahead for a moment blocks nothing that was not signed for that time.
//!
//! Never is an id forgotten for want of space: a full log refuses new actions.
//!
//! **File.** Records of 32 bytes: kind, three zeros, the id's 16 bytes, a time as `i64`, the CRC-32 of these 28;
//! numbers are little endian. The first record is the header, whose time is that latest `not_after`. Each append
//! is one record, synced before it counts: after a crash the last record can be torn and is cut off, since its
//! action was not begun. Anything else that is damaged is not repaired but reported, for an id may have been lost.
//! The file is written anew beside itself and renamed at each opening, and when most of it is of no use any more.
//!
//! All calls block on the disk.

mod record;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use vigie_files::durable::{self, Durability, DurableFile};

use crate::admission::SKEW_SECONDS;
use record::{ID_BYTES, Kind, RECORD_BYTES, Record};
use vigie_protocol::names::ActionId;

/// Most ids: more than one action a second for a day. 6 MiB of memory when full.
pub(crate) const MAX_IDS: usize = 100_000;

/// How long an id is kept after its action has expired, in seconds: the clocks' difference and an hour.
const KEEP_SECONDS: i64 = SKEW_SECONDS + 3600;

/// Records that can be forgotten before the file is written anew, at least; and at least half of them all.
const SPARE_RECORDS: usize = 1024;

/// Largest file that can come about, in bytes: the header, two records for each id, and a torn one.
const MAX_FILE_BYTES: u64 = ((1 + 2 * MAX_IDS + 1) * RECORD_BYTES) as u64;

/// Why an action cannot be begun, or the log not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The action was begun before, or may have been.
    #[error("action {0} was begun before")]
    Seen(ActionId),
    /// No place for another id.
    #[error(
        "the replay log {path:?} holds {MAX_IDS} actions that have not expired: wait, or sign shorter ones"
    )]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// The disk does not work.
    #[error("cannot {what} the replay log {path:?}")]
    Io {
        /// What was done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An earlier write failed, and what is on disk is not known.
    #[error("the replay log {path:?} failed earlier and is closed: open it again")]
    Broken {
        /// The file.
        path: PathBuf,
    },
    /// The file is not as it was written: ids may have been lost.
    #[error(
        "the replay log {path:?} is damaged at byte {offset}: delete the file only after {hours} hours; \
         until then an action could be replayed", hours = crate::policy::MAX_WINDOW_SECONDS / 3600
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The first byte of the bad record.
        offset: u64,
    },
}

type IdBytes = [u8; ID_BYTES];

#[derive(Debug, Clone, Copy)]
struct Entry {
    not_after: i64,
    answered: bool,
}

/// The log, open for one agent.
#[derive(Debug)]
pub struct ReplayLog {
    path: PathBuf,
    file: DurableFile,
    /// Whole records in the file, with the header.
    records: usize,
    /// Where a failed write left the file in an unknown state.
    broken: bool,
    ids: BTreeMap<IdBytes, Entry>,
    /// The latest `not_after` of what was forgotten.
    forgotten_until: i64,
    /// Most ids; a test has fewer.
    max_ids: usize,
}

impl ReplayLog {
    /// Opens the log or makes an empty one, with its directory. `now` is in seconds since 1970; what may be
    /// forgotten is.
    ///
    /// # Errors
    ///
    /// The disk does not work, or the file is damaged.
    pub fn open(path: &Path, now: i64) -> Result<Self, ReplayError> {
        Self::open_with(path, now, MAX_IDS)
    }

    fn open_with(path: &Path, now: i64, max_ids: usize) -> Result<Self, ReplayError> {
        let io = |what, source| ReplayError::Io { what, path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            durable::make_directory(directory).map_err(|error| io("make the directory of", error))?;
        }
        let bytes = match durable::read_bounded(path, MAX_FILE_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write_anew(path, &[Record::header(i64::MIN)]).map_err(|error| io("make", error))?;
                Record::header(i64::MIN).to_bytes().to_vec()
            }
            Err(error) => return Err(io("read", error)),
        };
        let contents = Contents::parse(&bytes)
            .map_err(|offset| ReplayError::Damaged { path: path.to_owned(), offset: offset as u64 })?;
        let whole = contents.records * RECORD_BYTES;
        // A torn record was never acknowledged. And of an earlier life's records the disk may have lost one whose sync
        // failed, although it is still read (fsync(2)): what comes after it would then make the file damaged.
        durable::replace(path, &bytes[..whole], Durability::Power)
            .map_err(|error| io("write anew", error))?;
        let file = DurableFile::open(path).map_err(|error| io("open", error))?;
        let mut log = Self {
            path: path.to_owned(),
            file,
            records: contents.records,
            broken: false,
            ids: contents.ids,
            forgotten_until: contents.forgotten_until,
            max_ids,
        };
        log.compact_if_worth_it(now)?;
        Ok(log)
    }

    /// The action was begun here, or may have been. For [`crate::admission::decide`].
    #[must_use]
    pub fn has_seen(&self, id: &ActionId, not_after: i64) -> bool {
        not_after <= self.forgotten_until || self.ids.contains_key(&id_bytes(id))
    }

    /// Notes that an action is about to be run; returns when that is on disk. `not_after` is the action's, `now`
    /// the clock, both in seconds since 1970.
    ///
    /// # Errors
    ///
    /// It was begun before, the log is full, or the disk does not work: it must not be run.
    pub fn begin(&mut self, id: &ActionId, not_after: i64, now: i64) -> Result<(), ReplayError> {
        if self.has_seen(id, not_after) {
            return Err(ReplayError::Seen(id.clone()));
        }
        if self.ids.len() >= self.max_ids {
            // Not each time: as long as nothing has expired, that would only cost.
            if self.forgettable(now).next().is_some() {
                self.compact(now)?;
            }
            if self.ids.len() >= self.max_ids {
                return Err(ReplayError::Full { path: self.path.clone() });
            }
        } else {
            self.compact_if_worth_it(now)?;
        }
        let id = id_bytes(id);
        self.append(&Record { kind: Kind::Begun, id, time: not_after })?;
        self.ids.insert(id, Entry { not_after, answered: false });
        Ok(())
    }

    /// Notes that the answer to an action is safe; returns when that is on disk. Nothing happens for one that is
    /// not known or noted already.
    ///
    /// # Errors
    ///
    /// The disk does not work: after a restart the action counts as interrupted.
    pub fn answered(&mut self, id: &ActionId) -> Result<(), ReplayError> {
        let id = id_bytes(id);
        let Some(entry) = self.ids.get(&id).copied().filter(|entry| !entry.answered) else { return Ok(()) };
        self.append(&Record { kind: Kind::Answered, id, time: entry.not_after })?;
        self.ids.insert(id, Entry { answered: true, ..entry });
        Ok(())
    }

    /// The actions that were begun and not answered. After opening: those that a crash interrupted.
    pub fn unanswered(&self) -> impl Iterator<Item = ActionId> + '_ {
        self.ids.iter().filter(|(_, entry)| !entry.answered).map(|(id, _)| ActionId::from_random(*id))
    }

    /// How many ids it holds; beyond `MAX_IDS` none is taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// It holds no id.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    fn io(&self, what: &'static str, source: io::Error) -> ReplayError {
        ReplayError::Io { what, path: self.path.clone(), source }
    }

    fn append(&mut self, record: &Record) -> Result<(), ReplayError> {
        if self.broken {
            return Err(ReplayError::Broken { path: self.path.clone() });
        }
        if let Err(source) = self.file.append(&record.to_bytes()) {
            // A disk that is full has taken a part at most, which can be cut off.
            self.broken = self.file.cut((self.records * RECORD_BYTES) as u64).is_err();
            return Err(self.io("write to", source));
        }
        if let Err(source) = self.file.sync() {
            // What is on disk now nobody knows, and a second call would not tell (fsync(2)).
            self.broken = true;
            return Err(self.io("sync", source));
        }
        self.records += 1;
        Ok(())
    }

    fn forgettable(&self, now: i64) -> impl Iterator<Item = (&IdBytes, &Entry)> {
        self.ids.iter().filter(move |(_, entry)| can_be_forgotten(entry, now))
    }

    fn compact_if_worth_it(&mut self, now: i64) -> Result<(), ReplayError> {
        let superfluous = 2 * self.forgettable(now).count();
        if superfluous > SPARE_RECORDS.max(self.records / 2) { self.compact(now) } else { Ok(()) }
    }

    /// Forgets what can be forgotten and writes the file anew.
    fn compact(&mut self, now: i64) -> Result<(), ReplayError> {
        let forgotten_until =
            self.forgettable(now).map(|(_, entry)| entry.not_after).fold(self.forgotten_until, i64::max);
        let mut records = vec![Record::header(forgotten_until)];
        for (id, entry) in self.ids.iter().filter(|(_, entry)| !can_be_forgotten(entry, now)) {
            records.push(Record { kind: Kind::Begun, id: *id, time: entry.not_after });
            if entry.answered {
                records.push(Record { kind: Kind::Answered, id: *id, time: entry.not_after });
            }
        }
        write_anew(&self.path, &records).map_err(|source| self.io("write anew", source))?;
        // From here on the old file is not there any more: what is appended to it would be lost.
        self.broken = true;
        self.file = DurableFile::open(&self.path).map_err(|source| self.io("open", source))?;
        self.broken = false;
        self.records = records.len();
        self.forgotten_until = forgotten_until;
        self.ids.retain(|_, entry| !can_be_forgotten(entry, now));
        Ok(())
    }
}

fn can_be_forgotten(entry: &Entry, now: i64) -> bool {
    entry.answered && now > entry.not_after.saturating_add(KEEP_SECONDS)
}

/// The bytes that an id is the hexadecimal form of.
fn id_bytes(id: &ActionId) -> IdBytes {
    let mut bytes = [0; ID_BYTES];
    data_encoding::HEXLOWER
        .decode_mut(id.as_str().as_bytes(), &mut bytes)
        .expect("an id of an action is 32 lower-case hexadecimal digits");
    bytes
}

/// What a file holds.
struct Contents {
    records: usize,
    forgotten_until: i64,
    ids: BTreeMap<IdBytes, Entry>,
}

impl Contents {
    /// Reads a file; gives the place of what is damaged and not just torn.
    fn parse(bytes: &[u8]) -> Result<Self, usize> {
        let (records, torn) = bytes.as_chunks::<RECORD_BYTES>();
        let header =
            records.first().and_then(Record::from_bytes).filter(|record| record.kind == Kind::Header);
        // A file is begun under another name and whole when it gets this one, so no crash explains a bad header.
        let header = header.ok_or(0_usize)?;
        let mut contents = Self { records: 1, forgotten_until: header.time, ids: BTreeMap::new() };
        for (number, bytes) in records.iter().enumerate().skip(1) {
            let record = Record::from_bytes(bytes).filter(|record| contents.apply(record));
            if record.is_none() {
                let is_last = number + 1 == records.len() && torn.is_empty();
                return if is_last { Ok(contents) } else { Err(number * RECORD_BYTES) };
            }
            contents.records += 1;
        }
        Ok(contents)
    }

    /// Takes a record in; false when it cannot stand here.
    fn apply(&mut self, record: &Record) -> bool {
        let known = self.ids.get(&record.id).copied();
        let answered = match (record.kind, known) {
            (Kind::Begun, None) => false,
            (Kind::Answered, Some(_)) => true,
            _ => return false,
        };
        self.ids.insert(record.id, Entry { not_after: record.time, answered });
        true
    }
}

/// Puts the file in its place: at any moment there is the old one or the new one.
fn write_anew(path: &Path, records: &[Record]) -> io::Result<()> {
    let bytes: Vec<u8> = records.iter().flat_map(|record| record.to_bytes()).collect();
    durable::replace(path, &bytes, Durability::Power)
}
