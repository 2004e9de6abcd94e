//! What the agent's journal knows of the baseline: the newest mark that a canary carried there.

use std::io;
use std::path::Path;

use serde::Deserialize;
use vigie_journal::{Item, Portion, Reader, Record, start_of_last};

use crate::lineage::Mark;

/// How much is read at once.
const PORTION: Portion = Portion { items: 256, bytes: 1 << 20 };

/// A mark, and when it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// How far the baseline had got.
    pub mark: Mark,
    /// When, RFC 3339 in UTC.
    pub time: String,
}

#[derive(Deserialize)]
struct Canary {
    mark: Text,
}

#[derive(Deserialize)]
struct Text {
    origin: String,
    number: u64,
    seal: String,
}

fn bytes(hex: &str) -> Option<[u8; 16]> {
    let digits = hex.as_bytes();
    if digits.len() != 32 {
        return None;
    }
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

fn mark_of(record: &Record) -> Option<Mark> {
    if record.module != "fswatch" || !record.message.contains("\"canary\"") {
        return None;
    }
    let Canary { mark: Text { origin, number, seal } } = serde_json::from_str(&record.message).ok()?;
    Some(Mark { origin: bytes(&origin)?, number, seal: bytes(&seal)? })
}

/// The newest mark in the journal in `directory`; nothing without a journal, or without a mark in it.
///
/// # Errors
/// When the journal cannot be read.
pub(crate) fn last_mark(directory: &Path) -> io::Result<Option<Told>> {
    if !directory.is_dir() {
        return Ok(None);
    }
    let start = start_of_last(directory, u64::MAX, 1, |record| mark_of(record).is_some())?;
    let mut reader = Reader::new(directory, start);
    let mut told = None;
    loop {
        let mut items = Vec::new();
        reader.read(u64::MAX, PORTION, &mut items)?;
        if items.is_empty() {
            return Ok(told);
        }
        for item in items {
            if let Item::Alert(record) = item
                && let Some(mark) = mark_of(&record)
            {
                told = Some(Told { mark, time: record.time });
            }
        }
    }
}
