//! The frames of a store's file: how they are sealed, written and read. Bytes only, no files.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use vigie_sdk::AlertId;

use super::{HistoryPosition, State, Unaccepted};
use crate::codec::{Malformed, Reader, put_bytes, put_number};
use crate::lineage::Lineage;

pub(super) const MAGIC: &[u8] = b"VIGIE-FSWATCH-1\n";

pub(super) const SEAL_BYTES: usize = 16;

/// What a disk writes whole or not at all, in bytes.
const SECTOR_BYTES: usize = 512;

/// Longest frame, in bytes; a length beyond it is damage.
const MAX_FRAME_BYTES: usize = 256 * 1024 * 1024;

/// Bytes after the frames that are read.
const TAIL_BYTES: u64 = 1 << 20;

pub(super) const HEAD: u8 = 1;
/// Tables of an earlier version, with whole values of extended attributes.
pub(super) const WHOLE_TABLES: u8 = 2;
pub(super) const BLOCK: u8 = 3;
pub(super) const STEP: u8 = 4;
pub(super) const ACKNOWLEDGED: u8 = 5;
pub(super) const LEARNED: u8 = 6;
pub(super) const ACCEPTED: u8 = 7;
pub(super) const CURSOR: u8 = 8;
pub(super) const COMPLETE: u8 = 9;
pub(super) const UNACCEPTED: u8 = 10;
pub(super) const TABLES: u8 = 11;

#[derive(Debug, thiserror::Error)]
pub(super) enum Damage {
    #[error(
        "frame {0} is not sealed with this host's key: it was damaged or forged, or the key is another one"
    )]
    Seal(u64),
    #[error("frame {0} has content that this version does not understand")]
    Form(u64),
    #[error("it does not start like a baseline")]
    Magic,
    #[error("it belongs to another host")]
    Host,
    #[error("its first part is incomplete")]
    Incomplete,
}

type Seal = Hmac<Sha256>;

/// Seals one frame after the other.
#[derive(Clone)]
pub(super) struct Chain {
    key: Seal,
    pub(super) last: [u8; 32],
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Chain")
    }
}

impl Chain {
    pub(super) fn new(secret: &[u8], host: &[u8]) -> Self {
        let mixed = Self::hmac(secret).chain_update(host).finalize().into_bytes();
        Self { key: Self::hmac(&mixed), last: [0; 32] }
    }

    fn hmac(key: &[u8]) -> Seal {
        Seal::new_from_slice(key).expect("an HMAC takes a key of any length")
    }

    pub(super) fn seal(&mut self, head: &[u8], payload: &[u8]) -> [u8; SEAL_BYTES] {
        let seal = self.key.clone().chain_update(self.last).chain_update(head).chain_update(payload);
        self.last = seal.finalize().into_bytes().into();
        let mut short = [0; SEAL_BYTES];
        short.copy_from_slice(&self.last[..SEAL_BYTES]);
        short
    }
}

pub(super) fn head(kind: u8, length: usize) -> [u8; 5] {
    let mut head = [0; 5];
    // Frames are far shorter than 4 GiB.
    head[..4].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    head[4] = kind;
    head
}

pub(super) fn put_path(buffer: &mut Vec<u8>, path: &Path) {
    put_bytes(buffer, path.as_os_str().as_bytes());
}

fn path(reader: &mut Reader<'_>) -> Result<PathBuf, Malformed> {
    Ok(PathBuf::from(OsString::from_vec(reader.bytes()?.to_vec())))
}

fn text(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    String::from_utf8(reader.bytes()?.to_vec()).map_err(|_| Malformed)
}

pub(super) fn put_alerts<'a>(
    buffer: &mut Vec<u8>,
    alerts: impl ExactSizeIterator<Item = &'a (AlertId, Arc<str>)>,
) {
    put_number(buffer, alerts.len() as u64);
    for (id, text) in alerts {
        put_number(buffer, id.epoch);
        put_number(buffer, id.sequence);
        put_bytes(buffer, text.as_bytes());
    }
}

pub(super) fn put_unaccepted<'a>(
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

pub(super) fn put_history(buffer: &mut Vec<u8>, history: HistoryPosition) {
    put_number(buffer, history.generation);
    put_number(buffer, history.bytes);
}

impl State {
    pub(super) fn add(&mut self, kind: u8, payload: &[u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(payload);
        match kind {
            TABLES => return self.baseline.tables_mut().add(payload),
            WHOLE_TABLES => return self.baseline.tables_mut().add_whole_values(payload),
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

/// Bytes of a file that have the form of frames, and of what follows as many as show whether they are torn.
pub(super) fn length_of_frames(file: &File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut at = MAGIC.len() as u64;
    let mut head = [0; 5];
    while at + head.len() as u64 <= length {
        file.read_exact_at(&mut head, at)?;
        let payload = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        if payload as usize > MAX_FRAME_BYTES || !(HEAD..=TABLES).contains(&head[4]) {
            break;
        }
        at += u64::from(payload) + (head.len() + SEAL_BYTES) as u64;
    }
    Ok(length.min(at + TAIL_BYTES))
}

/// Reads frames; gives the bytes of whole ones.
pub(super) fn read_frames(
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

pub(super) struct Frames<W> {
    pub(super) chain: Chain,
    pub(super) bytes: u64,
    pub(super) to: W,
}

impl<W: Write> Frames<W> {
    pub(super) fn put(&mut self, kind: u8, payload: &[u8]) -> io::Result<()> {
        let head = head(kind, payload.len());
        self.to.write_all(&head)?;
        self.to.write_all(payload)?;
        self.to.write_all(&self.chain.seal(&head, payload))?;
        self.bytes += (head.len() + payload.len() + SEAL_BYTES) as u64;
        Ok(())
    }
}

pub(super) fn learned(entries: &BTreeSet<String>, rules: &[u8; 32]) -> Vec<u8> {
    let mut payload = rules.to_vec();
    put_number(&mut payload, entries.len() as u64);
    for entry in entries {
        put_bytes(&mut payload, entry.as_bytes());
    }
    payload
}

pub(super) fn cursor(path: Option<&Path>) -> Vec<u8> {
    let mut payload = Vec::new();
    put_path(&mut payload, path.unwrap_or(Path::new("")));
    payload
}
