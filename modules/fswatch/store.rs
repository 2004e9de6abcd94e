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

mod frames;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use vigie_files::durable::{self, Durability, DurableFile};
use vigie_files::random;
use vigie_sdk::AlertId;

use self::frames::{
    ACCEPTED, ACKNOWLEDGED, BLOCK, COMPLETE, CURSOR, Chain, Damage, Frames, HEAD, LEARNED, MAGIC, SEAL_BYTES,
    STEP, TABLES, UNACCEPTED, cursor, head, learned, length_of_frames, put_alerts, put_history, put_path,
    put_unaccepted, read_frames,
};
use crate::baseline::Baseline;
use crate::codec::{put_bytes, put_number};
use crate::lineage::{Doubt, Lineage, Mark};
use crate::object::Object;
use crate::state_files;

const KEY_BYTES: usize = 32;

/// Bytes of steps that are always allowed before the snapshot is written anew when there is time for it.
const MIN_COMPACTION_BYTES: u64 = 4 * 1024 * 1024;

/// The same while much happens: writing it would keep everything else waiting for the disk.
const MAX_COMPACTION_BYTES: u64 = 128 * 1024 * 1024;

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

/// Longest baseline that is read, in bytes: of some 50 million objects.
const MAX_BYTES: u64 = 4 << 30;

/// Reads a baseline: its frames, and what follows them only so far that it is seen whether its end was torn off. A file
/// that claims to be longer than all memory is not read as a whole.
fn read_whole(file: &File) -> io::Result<Vec<u8>> {
    let length = length_of_frames(file)?;
    if length > MAX_BYTES {
        return Err(io::Error::other("it is larger than any baseline"));
    }
    let mut content = Vec::new();
    file.take(length).read_to_end(&mut content)?;
    Ok(content)
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
            lineage: Lineage::begun(random::bytes()?),
            is_new: true,
        };
        let path = store.path();
        let modified = |path: &Path| fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).ok();
        let last_alive = modified(&Self::alive_path(directory)).max(modified(&path));
        if let Some((_, kind, kept_as)) = state_files::clear_odd(&path)? {
            let why = format!("a {kind} was in its place");
            return Ok((store, Opened::SetAside { why, kept_as, last_alive }));
        }
        let file = match state_files::open(&path, OpenOptions::new().read(true)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // The mark of being alive is made only when there is a baseline.
                let opened = if last_alive.is_some() { Opened::Gone { last_alive } } else { Opened::New };
                return Ok((store, opened));
            }
            Err(error) => return Err(error),
        };
        let content = match read_whole(&file) {
            Ok(content) => content,
            // It is not waited for and not overwritten, and the next one begins.
            Err(error) => {
                let kept_as = state_files::put_aside(&path)?;
                return Ok((store, Opened::SetAside { why: error.to_string(), kept_as, last_alive }));
            }
        };
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

    /// Whether a snapshot is due: there is none yet, a write failed, or the steps outgrew it. `calm` says that nothing
    /// waits for it.
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
    /// When it cannot be written to disk; the old one stays.
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
    /// When it cannot be written to disk; from then on only a snapshot helps.
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
    let secret = random::bytes::<KEY_BYTES>()?.to_vec();
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
