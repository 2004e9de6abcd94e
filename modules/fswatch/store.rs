//! The baseline on disk: a snapshot and the steps since, each sealed.
//!
//! ```text
//! magic, then frames: length (u32) | kind (u8) | payload | seal (16 bytes)
//! ```
//!
//! A seal is the beginning of an HMAC-SHA-256 (RFC 2104) over the seal before it and the frame. So no frame can be
//! changed, left out or put in without the key, which is a file of its own that is mixed with the host's machine id.
//! Only whole frames can be cut off at the end, and then what they told is found and told again.
//!
//! A step holds what changed in the baseline and the alerts about it in one frame: after a crash at any moment both
//! are there or neither is. Steps are not synced one by one: kill -9 does not lose what the kernel has taken, and after
//! a power failure an older baseline only finds the same changes again.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use vigie_files::durable::{self, Durability, DurableFile};
use vigie_sdk::AlertId;

use crate::baseline::Baseline;
use crate::codec::{Malformed, Reader, put_bytes, put_number};
use crate::lineage::{Doubt, Lineage, Mark};
use crate::object::Object;
use crate::state_files;

const MAGIC: &[u8] = b"VIGIE-FSWATCH-1\n";

const SEAL_BYTES: usize = 16;

const KEY_BYTES: usize = 32;

/// What a disk writes whole or not at all, in bytes.
const SECTOR_BYTES: usize = 512;

/// Longest frame, in bytes; a length beyond it is damage.
const MAX_FRAME_BYTES: usize = 256 * 1024 * 1024;

/// Bytes of steps that are always allowed before the snapshot is written anew when there is time for it.
const MIN_COMPACTION_BYTES: u64 = 4 * 1024 * 1024;

/// The same while much happens: writing it would keep everything else waiting for the disk.
const MAX_COMPACTION_BYTES: u64 = 128 * 1024 * 1024;

const HEAD: u8 = 1;
const TABLES: u8 = 2;
const BLOCK: u8 = 3;
const STEP: u8 = 4;
const ACKNOWLEDGED: u8 = 5;
const LEARNED: u8 = 6;
const ACCEPTED: u8 = 7;
const CURSOR: u8 = 8;
const COMPLETE: u8 = 9;
const UNACCEPTED: u8 = 10;

/// How far the history has been written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct HistoryPosition {
    /// Which file: it grows with every rotation.
    pub generation: u64,
    /// Bytes in it.
    pub bytes: u64,
}

/// A change that nobody has accepted yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unaccepted {
    /// The event's name: `created`, `changed`, …
    pub event: String,
    /// When it was first seen, RFC 3339.
    pub since: String,
}

/// What moves together: changes of the baseline and what is told about them.
#[derive(Debug, Default)]
pub struct Step<'a> {
    /// Paths and what is known of them from now on.
    pub changes: &'a [(PathBuf, Option<Object>)],
    /// Alerts, with ids that were never given before.
    pub alerts: &'a [(AlertId, Arc<str>)],
    /// Changes that are not accepted.
    pub unaccepted: &'a [(PathBuf, Unaccepted)],
    /// The open groups of alerts, when they changed; the module's own text.
    pub groups: Option<&'a str>,
    /// How far the history goes with it.
    pub history: HistoryPosition,
}

/// All that a store holds.
#[derive(Debug, Default)]
pub struct State {
    /// What is known.
    pub baseline: Baseline,
    /// Entries of the configuration that were looked at once.
    pub learned: BTreeSet<String>,
    /// The configuration's digest.
    pub rules: [u8; 32],
    /// Alerts that the agent has not acknowledged, in their order.
    pub pending: BTreeMap<u64, (AlertId, Arc<str>)>,
    next_pending: u64,
    /// Changes that are not accepted.
    pub unaccepted: BTreeMap<PathBuf, Unaccepted>,
    /// The open groups of alerts.
    pub groups: String,
    /// Where the rolling verification is.
    pub cursor: Option<PathBuf>,
    /// How far the history goes.
    pub history: HistoryPosition,
}

impl State {
    /// Remembers an alert until the agent has it.
    pub fn remember(&mut self, id: AlertId, text: Arc<str>) {
        self.pending.insert(self.next_pending, (id, text));
        self.next_pending += 1;
    }

    /// Forgets an alert that the agent has.
    pub fn acknowledge(&mut self, id: AlertId) -> bool {
        let found = self.pending.iter().find(|(_, (pending, _))| *pending == id).map(|(at, _)| *at);
        found.is_some_and(|at| self.pending.remove(&at).is_some())
    }
}

/// What opening found.
#[derive(Debug)]
pub enum Opened {
    /// There was none, and there never was one.
    New,
    /// There was one, and somebody removed it.
    Gone {
        /// When the module was last known to run.
        last_alive: Option<SystemTime>,
    },
    /// It is whole.
    Whole {
        /// What it holds.
        state: Box<State>,
        /// When the module was last known to run.
        last_alive: Option<SystemTime>,
    },
    /// It cannot be trusted, and was put aside.
    SetAside {
        /// Why.
        why: String,
        /// Where it is now.
        kept_as: PathBuf,
        /// When the module was last known to run.
        last_alive: Option<SystemTime>,
    },
}

#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error(
        "frame {0} is not sealed with this host's key: it was damaged or forged, or the key is another one"
    )]
    Seal(u64),
    #[error("frame {0} says what this version does not understand")]
    Form(u64),
    #[error("it does not begin as a baseline does")]
    Magic,
    #[error("it belongs to another host")]
    Host,
    #[error("its first part is not complete")]
    Incomplete,
}

type Seal = Hmac<Sha256>;

/// Seals one frame after the other.
#[derive(Clone)]
struct Chain {
    key: Seal,
    last: [u8; 32],
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Chain")
    }
}

impl Chain {
    fn new(secret: &[u8], host: &[u8]) -> Self {
        let mixed = Self::hmac(secret).chain_update(host).finalize().into_bytes();
        Self { key: Self::hmac(&mixed), last: [0; 32] }
    }

    fn hmac(key: &[u8]) -> Seal {
        Seal::new_from_slice(key).expect("an HMAC takes a key of any length")
    }

    fn seal(&mut self, head: &[u8], payload: &[u8]) -> [u8; SEAL_BYTES] {
        let seal = self.key.clone().chain_update(self.last).chain_update(head).chain_update(payload);
        self.last = seal.finalize().into_bytes().into();
        let mut short = [0; SEAL_BYTES];
        short.copy_from_slice(&self.last[..SEAL_BYTES]);
        short
    }
}

/// The store.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    host: [u8; SEAL_BYTES],
    fresh: Chain,
    chain: Chain,
    file: Option<DurableFile>,
    /// Bytes of whole frames in the file.
    bytes: u64,
    snapshot_bytes: u64,
    tables: (usize, usize),
    /// Written to since it was last synced.
    unsynced: bool,
    /// Something could not be written: only a snapshot makes it whole again.
    behind: bool,
    lineage: Lineage,
    /// Nothing was found that could be trusted.
    is_new: bool,
}

fn head(kind: u8, length: usize) -> [u8; 5] {
    let mut head = [0; 5];
    // Frames are far shorter than 4 GiB.
    head[..4].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    head[4] = kind;
    head
}

fn put_path(buffer: &mut Vec<u8>, path: &Path) {
    put_bytes(buffer, path.as_os_str().as_bytes());
}

fn path(reader: &mut Reader<'_>) -> Result<PathBuf, Malformed> {
    Ok(PathBuf::from(OsString::from_vec(reader.bytes()?.to_vec())))
}

fn text(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    String::from_utf8(reader.bytes()?.to_vec()).map_err(|_| Malformed)
}

fn put_alerts<'a>(buffer: &mut Vec<u8>, alerts: impl ExactSizeIterator<Item = &'a (AlertId, Arc<str>)>) {
    put_number(buffer, alerts.len() as u64);
    for (id, text) in alerts {
        put_number(buffer, id.epoch);
        put_number(buffer, id.sequence);
        put_bytes(buffer, text.as_bytes());
    }
}

fn put_unaccepted<'a>(
    buffer: &mut Vec<u8>,
    changes: impl ExactSizeIterator<Item = (&'a PathBuf, &'a Unaccepted)>,
) {
    put_number(buffer, changes.len() as u64);
    for (path, change) in changes {
        put_path(buffer, path);
        put_bytes(buffer, change.event.as_bytes());
        put_bytes(buffer, change.since.as_bytes());
    }
}

fn put_history(buffer: &mut Vec<u8>, history: HistoryPosition) {
    put_number(buffer, history.generation);
    put_number(buffer, history.bytes);
}

impl State {
    fn add(&mut self, kind: u8, payload: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(payload);
        match kind {
            TABLES => return self.baseline.tables_mut().add(payload),
            BLOCK => return self.baseline.add_block(payload),
            STEP => self.add_step(&mut reader)?,
            ACKNOWLEDGED => {
                for _ in 0..reader.number()? {
                    let id = AlertId { epoch: reader.number()?, sequence: reader.number()? };
                    self.acknowledge(id);
                }
            }
            LEARNED => {
                self.rules = reader.take(32)?.try_into().map_err(|_| Malformed)?;
                self.learned.clear();
                for _ in 0..reader.number()? {
                    self.learned.insert(text(&mut reader)?);
                }
            }
            ACCEPTED => {
                for _ in 0..reader.number()? {
                    self.unaccepted.remove(&path(&mut reader)?);
                }
            }
            CURSOR => self.cursor = Some(path(&mut reader)?).filter(|path| !path.as_os_str().is_empty()),
            UNACCEPTED => self.add_unaccepted(&mut reader)?,
            _ => return Err(Malformed),
        }
        if reader.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    fn add_unaccepted(&mut self, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        for _ in 0..reader.number()? {
            let path = path(reader)?;
            let change = Unaccepted { event: text(reader)?, since: text(reader)? };
            self.unaccepted.entry(path).or_insert(change);
        }
        Ok(())
    }

    fn add_step(&mut self, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        for _ in 0..reader.number()? {
            let path = path(reader)?;
            if reader.byte()? == 0 {
                self.baseline.remove(&path);
            } else {
                let object = self.baseline.tables().decode(reader)?;
                self.baseline.insert(&path, &object);
            }
        }
        for _ in 0..reader.number()? {
            let id = AlertId { epoch: reader.number()?, sequence: reader.number()? };
            let text = text(reader)?;
            self.remember(id, text.into());
        }
        self.add_unaccepted(reader)?;
        if reader.byte()? != 0 {
            self.groups = text(reader)?;
        }
        self.history = HistoryPosition { generation: reader.number()?, bytes: reader.number()? };
        Ok(())
    }
}

/// Whether a part that a disk writes at once is empty from `at` on: what a power failure leaves of a write that was not
/// synced. Whoever empties one could as well cut the file there.
fn lacks_a_sector(content: &[u8], at: usize) -> bool {
    let first = (at + 1).next_multiple_of(SECTOR_BYTES).min(content.len());
    let is_empty = |part: &[u8]| part.iter().all(|byte| *byte == 0);
    is_empty(&content[at..first]) || content[first..].chunks(SECTOR_BYTES).any(is_empty)
}

/// Reads frames; gives the bytes of whole ones.
fn read_frames(
    content: &[u8],
    chain: &mut Chain,
    host: [u8; SEAL_BYTES],
) -> Result<(State, u64, Lineage), Damage> {
    let mut state = State::default();
    let mut lineage = Lineage::default();
    let mut at = MAGIC.len();
    if !content.starts_with(MAGIC) {
        return Err(Damage::Magic);
    }
    let mut complete = false;
    let mut number = 0;
    while at < content.len() {
        number += 1;
        let rest = &content[at..];
        let Some((head, after)) = rest.split_at_checked(5) else { break };
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if length > MAX_FRAME_BYTES && !(complete && lacks_a_sector(content, at)) {
            return Err(Damage::Seal(number));
        }
        let Some((payload, after)) = after.split_at_checked(length) else { break };
        let Some((seal, _)) = after.split_at_checked(SEAL_BYTES) else { break };
        let mut next = chain.clone();
        if next.seal(head, payload) != seal {
            if complete && lacks_a_sector(content, at) {
                break;
            }
            // The head is not sealed by the chain alone: it says whose it is.
            let is_other = number == 1 && head[4] == HEAD && payload != host;
            return Err(if is_other { Damage::Host } else { Damage::Seal(number) });
        }
        *chain = next;
        match head[4] {
            HEAD if number == 1 => {}
            COMPLETE if !complete && Reader::new(payload).number() == Ok(state.baseline.len() as u64) => {
                complete = true;
                lineage = lineage_of(payload).map_err(|Malformed| Damage::Form(number))?;
            }
            HEAD | COMPLETE => return Err(Damage::Form(number)),
            kind => state.add(kind, payload).map_err(|Malformed| Damage::Form(number))?,
        }
        if complete && head[4] != COMPLETE {
            lineage.read_frame(seal.try_into().map_err(|_| Damage::Form(number))?);
        }
        at += 5 + length + SEAL_BYTES;
    }
    // A snapshot takes its place as a whole, so it is never torn.
    if complete { Ok((state, at as u64, lineage)) } else { Err(Damage::Incomplete) }
}

/// What stands behind the number of objects at the end of a snapshot.
fn lineage_of(payload: &[u8]) -> Result<Lineage, Malformed> {
    let mut reader = Reader::new(payload);
    reader.number()?;
    Lineage::read(&mut reader)
}

/// Bytes that are never drawn again.
fn draw() -> io::Result<[u8; SEAL_BYTES]> {
    let mut drawn = [0; SEAL_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut drawn)?;
    Ok(drawn)
}

impl Store {
    fn path(&self) -> PathBuf {
        self.directory.join("fswatch.baseline")
    }

    fn alive_path(directory: &Path) -> PathBuf {
        directory.join("fswatch.alive")
    }

    /// Marks that the module runs now; the next life takes it for the time since when nobody watched.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn mark_alive(directory: &Path) -> io::Result<()> {
        let path = Self::alive_path(directory);
        state_files::clear_odd(&path)?;
        let file = state_files::open(&path, OpenOptions::new().write(true).create(true).truncate(false))?;
        file.set_modified(SystemTime::now())
    }

    /// Opens the store in a directory, with what is in it. `host` tells this host from others.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(directory: &Path, host: &[u8]) -> io::Result<(Self, Opened)> {
        let key_path = directory.join("fswatch.key");
        let (secret, key_is_new) = read_or_make_key(&key_path)?;
        let mut identity = [0; SEAL_BYTES];
        identity.copy_from_slice(
            &Sha256::new().chain_update(b"vigie host").chain_update(host).finalize()[..SEAL_BYTES],
        );
        let fresh = Chain::new(&secret, host);
        let mut store = Self {
            directory: directory.to_owned(),
            host: identity,
            chain: fresh.clone(),
            fresh,
            file: None,
            bytes: 0,
            snapshot_bytes: 0,
            tables: (0, 0),
            unsynced: false,
            behind: true,
            lineage: Lineage::begun(draw()?),
            is_new: true,
        };
        let path = store.path();
        let modified = |path: &Path| fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).ok();
        let last_alive = modified(&Self::alive_path(directory)).max(modified(&path));
        if let Some((_, kind, kept_as)) = state_files::clear_odd(&path)? {
            let why = format!("a {kind} stood in its place");
            return Ok((store, Opened::SetAside { why, kept_as, last_alive }));
        }
        let mut file = match state_files::open(&path, OpenOptions::new().read(true)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // The mark of being alive is made only when there is a baseline.
                let opened = if last_alive.is_some() { Opened::Gone { last_alive } } else { Opened::New };
                return Ok((store, opened));
            }
            Err(error) => return Err(error),
        };
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        let mut chain = store.fresh.clone();
        let read =
            if key_is_new { Err(Damage::Seal(1)) } else { read_frames(&content, &mut chain, identity) };
        match read {
            Ok((state, bytes, lineage)) => {
                let mut file = DurableFile::open(&path)?;
                if bytes < file.length() {
                    // What is written next must not come to stand among what is left of the end.
                    file.cut(bytes)?;
                    file.sync()?;
                }
                store.chain = chain;
                store.tables = state.baseline.tables().size();
                store.bytes = bytes;
                store.snapshot_bytes = bytes;
                store.file = Some(file);
                store.behind = false;
                store.is_new = false;
                // One of an earlier version is known from its next snapshot on.
                if lineage.has_origin() {
                    store.lineage = lineage;
                } else {
                    store.behind = true;
                }
                Ok((store, Opened::Whole { state: Box::new(state), last_alive }))
            }
            Err(damage) => {
                let kept_as = state_files::put_aside(&path)?;
                Ok((store, Opened::SetAside { why: damage.to_string(), kept_as, last_alive }))
            }
        }
    }

    /// How far it has got.
    #[must_use]
    pub fn mark(&self) -> Option<Mark> {
        let mut seal = [0; SEAL_BYTES];
        seal.copy_from_slice(&self.chain.last[..SEAL_BYTES]);
        self.lineage.mark(seal).filter(|_| self.is_whole())
    }

    /// Compares it with what was known of it elsewhere.
    pub fn compare(&mut self, told: &Mark) -> Option<Doubt> {
        let doubt = self.lineage.compare(told, self.is_new);
        // What is remembered of that is written with a snapshot.
        self.behind |= doubt.is_some();
        doubt
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> PathBuf {
        self.path()
    }

    /// Bytes on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a snapshot is due: there is none yet, a write failed, or the steps outgrew it. `calm` says that nothing waits
    /// for it.
    #[must_use]
    pub(crate) fn wants_snapshot(&self, calm: bool) -> bool {
        let allowed = if calm { MIN_COMPACTION_BYTES } else { MAX_COMPACTION_BYTES };
        self.behind || self.bytes > self.snapshot_bytes * 2 + allowed
    }

    /// Whether a step can be appended: there is a whole snapshot.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.behind
    }

    /// Writes everything anew, and syncs it before it takes the old one's place.
    ///
    /// # Errors
    /// When the disk does not take it; the old one stays.
    pub fn snapshot(&mut self, state: &State) -> io::Result<()> {
        let path = self.path();
        let new = self.directory.join("fswatch.baseline.new");
        let written = self.write_snapshot(&new, state);
        let (mut file, chain, bytes) = match written {
            Ok(written) => written,
            Err(error) => {
                // It may be what fills the disk.
                durable::remove(&new).ok();
                return Err(error);
            }
        };
        // Until the new one is known to be there, nothing may be appended to the old one.
        self.behind = true;
        file.rename(&path)?;
        durable::sync_directory(&self.directory)?;
        self.file = Some(file);
        self.chain = chain;
        self.bytes = bytes;
        self.snapshot_bytes = bytes;
        self.tables = state.baseline.tables().size();
        self.behind = false;
        self.unsynced = false;
        self.lineage.advance();
        Ok(())
    }

    fn write_snapshot(&self, path: &Path, state: &State) -> io::Result<(DurableFile, Chain, u64)> {
        let file = state_files::create_anew(path)?;
        let mut frames =
            Frames { chain: self.fresh.clone(), bytes: MAGIC.len() as u64, to: BufWriter::new(file) };
        frames.to.write_all(MAGIC)?;
        frames.put(HEAD, &self.host)?;
        frames.put(TABLES, &state.baseline.tables().encode_from((0, 0)))?;
        for block in state.baseline.blocks() {
            frames.put(BLOCK, block)?;
        }
        frames.put(LEARNED, &learned(&state.learned, &state.rules))?;
        let mut unaccepted = Vec::new();
        put_unaccepted(&mut unaccepted, state.unaccepted.iter());
        frames.put(UNACCEPTED, &unaccepted)?;
        frames.put(CURSOR, &cursor(state.cursor.as_deref()))?;
        let mut rest = Vec::new();
        put_number(&mut rest, 0);
        put_alerts(&mut rest, state.pending.values());
        put_number(&mut rest, 0);
        rest.push(1);
        put_bytes(&mut rest, state.groups.as_bytes());
        put_history(&mut rest, state.history);
        frames.put(STEP, &rest)?;
        let mut count = Vec::new();
        put_number(&mut count, state.baseline.len() as u64);
        let mut lineage = self.lineage.clone();
        lineage.advance();
        lineage.put(&mut count);
        frames.put(COMPLETE, &count)?;
        let Frames { chain, bytes, to } = frames;
        let mut file = to.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync()?;
        Ok((file, chain, bytes))
    }

    /// Appends a step that was made to `state` already.
    ///
    /// # Errors
    /// When the disk does not take it; from then on only a snapshot helps.
    pub fn append(&mut self, state: &mut State, step: &Step<'_>) -> io::Result<()> {
        let mut payload = Vec::new();
        put_number(&mut payload, step.changes.len() as u64);
        for (path, object) in step.changes {
            put_path(&mut payload, path);
            match object {
                None => payload.push(0),
                Some(object) => {
                    payload.push(1);
                    state.baseline.tables_mut().encode(object, &mut payload);
                }
            }
        }
        put_alerts(&mut payload, step.alerts.iter());
        put_unaccepted(&mut payload, step.unaccepted.iter().map(|(path, change)| (path, change)));
        match step.groups {
            None => payload.push(0),
            Some(groups) => {
                payload.push(1);
                put_bytes(&mut payload, groups.as_bytes());
            }
        }
        put_history(&mut payload, step.history);
        let tables = state.baseline.tables();
        let mut frames = Vec::new();
        if tables.size() != self.tables {
            frames.push((TABLES, tables.encode_from(self.tables)));
        }
        frames.push((STEP, payload));
        self.append_frames(&frames)?;
        self.tables = tables.size();
        Ok(())
    }

    /// Appends that the agent has these alerts.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub fn acknowledged(&mut self, ids: &[AlertId]) -> io::Result<()> {
        let mut payload = Vec::new();
        put_number(&mut payload, ids.len() as u64);
        for id in ids {
            put_number(&mut payload, id.epoch);
            put_number(&mut payload, id.sequence);
        }
        self.append_frames(&[(ACKNOWLEDGED, payload)])
    }

    /// Appends which entries were looked at once, under which configuration.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub fn learned(&mut self, entries: &BTreeSet<String>, rules: &[u8; 32]) -> io::Result<()> {
        self.append_frames(&[(LEARNED, learned(entries, rules))])
    }

    /// Appends that the changes of these paths are accepted.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub fn accepted(&mut self, paths: &[PathBuf]) -> io::Result<()> {
        let mut payload = Vec::new();
        put_number(&mut payload, paths.len() as u64);
        for path in paths {
            put_path(&mut payload, path);
        }
        self.append_frames(&[(ACCEPTED, payload)])
    }

    /// Appends where the rolling verification is.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub fn cursor(&mut self, path: Option<&Path>) -> io::Result<()> {
        self.append_frames(&[(CURSOR, cursor(path))])
    }

    fn append_frames(&mut self, frames: &[(u8, Vec<u8>)]) -> io::Result<()> {
        if self.behind {
            return Err(io::Error::other("an earlier write failed; a snapshot will follow"));
        }
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        let mut chain = self.chain.clone();
        let mut bytes = Vec::new();
        for (kind, payload) in frames {
            let head = head(*kind, payload.len());
            bytes.extend_from_slice(&head);
            bytes.extend_from_slice(payload);
            bytes.extend_from_slice(&chain.seal(&head, payload));
        }
        let count = frames.len();
        if let Err(error) = file.append(&bytes) {
            self.behind = true;
            // What is left of it would look like damage.
            file.cut(self.bytes).ok();
            return Err(error);
        }
        self.chain = chain;
        (0..count).for_each(|_| self.lineage.advance());
        self.bytes += bytes.len() as u64;
        self.unsynced = true;
        Ok(())
    }

    /// Lets the disk take what was written since the last time.
    ///
    /// # Errors
    /// When it does not. The file cannot be trusted again (fsync(2)): from then on only a snapshot helps.
    pub fn sync(&mut self) -> io::Result<()> {
        let Some(file) = self.file.as_mut().filter(|_| self.unsynced) else { return Ok(()) };
        if let Err(error) = file.sync() {
            self.behind = true;
            return Err(error);
        }
        self.unsynced = false;
        Ok(())
    }
}

struct Frames<W> {
    chain: Chain,
    bytes: u64,
    to: W,
}

impl<W: Write> Frames<W> {
    fn put(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let head = head(kind, payload.len());
        self.to.write_all(&head)?;
        self.to.write_all(payload)?;
        self.to.write_all(&self.chain.seal(&head, payload))?;
        self.bytes += (head.len() + payload.len() + SEAL_BYTES) as u64;
        Ok(())
    }
}

fn learned(entries: &BTreeSet<String>, rules: &[u8; 32]) -> Vec<u8> {
    let mut payload = rules.to_vec();
    put_number(&mut payload, entries.len() as u64);
    for entry in entries {
        put_bytes(&mut payload, entry.as_bytes());
    }
    payload
}

fn cursor(path: Option<&Path>) -> Vec<u8> {
    let mut payload = Vec::new();
    put_path(&mut payload, path.unwrap_or(Path::new("")));
    payload
}

/// The secret, and whether it was made just now.
fn read_or_make_key(path: &Path) -> io::Result<(Vec<u8>, bool)> {
    let mut secret = Vec::new();
    match state_files::open(path, OpenOptions::new().read(true)) {
        Ok(file) => {
            file.take(KEY_BYTES as u64 + 1).read_to_end(&mut secret)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if secret.len() == KEY_BYTES {
        return Ok((secret, false));
    }
    let mut secret = vec![0; KEY_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut secret)?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    state_files::clear_odd(&new)?;
    // Without it all that was sealed with it would look like damage.
    durable::replace(path, &secret, Durability::Power)?;
    Ok((secret, true))
}

/// What tells this host from others: its machine id, see machine-id(5).
#[must_use]
pub(crate) fn host_identity() -> Vec<u8> {
    ["/etc/machine-id", "/var/lib/dbus/machine-id"]
        .iter()
        .find_map(|path| fs::read(path).ok().filter(|id| !id.trim_ascii().is_empty()))
        .unwrap_or_default()
}

#[cfg(test)]
mod power_loss;

#[cfg(test)]
mod tests;
