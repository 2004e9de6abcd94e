//! rpm: the headers of packages from any of its databases, SQLite, ndb (SUSE) and Berkeley DB (until RHEL 8).

use std::fs::File;
use std::os::unix::fs::FileExt;

use vigie_tree::{Place, Root};

use super::{Unread, Visitor, Want, unread};
use crate::owners::Manager;
use crate::rpm_header::{Damaged, Header};
use crate::sqlite::{Database, SqliteError, Value};

/// Where a database can be; one may be a link to the other.
const DIRECTORIES: [&str; 2] = ["usr/lib/sysimage/rpm", "var/lib/rpm"];

/// The files of the three kinds.
const SQLITE: &str = "rpmdb.sqlite";
const NDB: &str = "Packages.db";
const BDB: &str = "Packages";

/// Longest header that is read, in bytes.
const MAX_HEADER_BYTES: usize = 257 << 20;

/// How often a database is read again because it changed meanwhile.
const ATTEMPTS: usize = 3;

/// Why a database cannot be read.
#[derive(Debug, thiserror::Error)]
enum DatabaseError {
    #[error(transparent)]
    Sqlite(#[from] SqliteError),
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    #[error("is not a valid rpm database: {0}")]
    Unsound(&'static str),
}

pub(super) fn find(root: &Root) -> Option<(Place, &'static str)> {
    let places = DIRECTORIES.iter().flat_map(|directory| [SQLITE, NDB, BDB].map(|name| (directory, name)));
    places
        .map(|(directory, name)| (root.place(directory).join(name), name))
        .find(|(place, _)| place.is_file())
}

pub(super) fn is_there(root: &Root) -> bool {
    find(root).is_some()
}

pub(super) fn visit(root: &Root, visitor: &mut dyn Visitor) -> Vec<Unread> {
    let Some((path, kind)) = find(root) else { return Vec::new() };
    let mut damaged = 0_u64;
    let mut take = |blob: &[u8]| {
        if hand_over(blob, visitor).is_err() {
            damaged += 1;
        }
    };
    let result = match kind {
        SQLITE => read_sqlite(&path, &mut take),
        NDB => read_ndb(&path, &mut take),
        _ => read_bdb(&path, &mut take),
    };
    let mut problems: Vec<Unread> = result.err().map(|error| unread(&path, error)).into_iter().collect();
    if damaged > 0 {
        problems.push(unread(&path, format!("{damaged} headers of packages are damaged")));
    }
    problems
}

fn hand_over(blob: &[u8], visitor: &mut dyn Visitor) -> Result<(), Damaged> {
    let header = Header::parse(blob)?;
    let Some(package) = header.package()? else { return Ok(()) };
    match visitor.want(Manager::Rpm, &package) {
        Want::Nothing => {}
        Want::Package => visitor.take(Manager::Rpm, package, Vec::new()),
        Want::Files => visitor.take(Manager::Rpm, package, header.files()),
    }
    Ok(())
}

fn read_sqlite(path: &Place, take: &mut dyn FnMut(&[u8])) -> Result<(), DatabaseError> {
    // Headers are large, so they are handed over as they come; first it is seen that all can be read.
    for attempt in 1..=ATTEMPTS {
        let database = match Database::open(path) {
            Err(SqliteError::Changed) if attempt < ATTEMPTS => continue,
            other => other?,
        };
        let table = database.table("Packages")?.ok_or(DatabaseError::Unsound("it has no packages"))?;
        let checked = database.each_row(table, &mut |_, _| ());
        if database.is_unchanged() {
            checked?;
            database.each_row(table, &mut |_, row| {
                if let [_, Value::Blob(blob), ..] = row {
                    take(blob);
                }
            })?;
            return if database.is_unchanged() { Ok(()) } else { Err(SqliteError::Changed.into()) };
        }
    }
    Err(SqliteError::Changed.into())
}

fn le32(bytes: &[u8], at: usize) -> Result<u32, DatabaseError> {
    let word = bytes.get(at..at + 4).and_then(|bytes| bytes.first_chunk());
    word.map(|word| u32::from_le_bytes(*word)).ok_or(DatabaseError::Unsound("it is cut"))
}

fn read_at(file: &File, at: u64, length: usize) -> Result<Vec<u8>, DatabaseError> {
    if length > MAX_HEADER_BYTES || at.saturating_add(length as u64) > file.metadata()?.len() {
        return Err(DatabaseError::Unsound("it refers to a place that does not exist"));
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

/// ndb: pages of slots in the beginning say where the packages are.
fn read_ndb(path: &Place, take: &mut dyn FnMut(&[u8])) -> Result<(), DatabaseError> {
    const PAGE_BYTES: usize = 4096;
    const BLOCK_BYTES: u64 = 16;
    const SLOT_BYTES: usize = 16;
    let file = path.open()?;
    let header = read_at(&file, 0, 32)?;
    if &header[..4] != b"RpmP" || le32(&header, 4)? != 0 {
        return Err(DatabaseError::Unsound("it begins otherwise"));
    }
    let pages = le32(&header, 12)? as usize;
    let slots = read_at(&file, 0, pages.saturating_mul(PAGE_BYTES))?;
    for slot in slots.get(32..).unwrap_or_default().chunks_exact(SLOT_BYTES) {
        let (number, block) = (le32(slot, 4)?, le32(slot, 8)?);
        if &slot[..4] != b"Slot" || number == 0 || block == 0 {
            continue;
        }
        let at = u64::from(block) * BLOCK_BYTES;
        let head = read_at(&file, at, 16)?;
        if &head[..4] != b"BlbS" || le32(&head, 4)? != number {
            return Err(DatabaseError::Unsound("a package is not where it should be"));
        }
        take(&read_at(&file, at + 16, le32(&head, 12)? as usize)?);
    }
    Ok(())
}

/// Berkeley DB, a hash: headers are values that have pages of their own.
fn read_bdb(path: &Place, take: &mut dyn FnMut(&[u8])) -> Result<(), DatabaseError> {
    const MAGIC: u32 = 0x0006_1561;
    const HEADER_BYTES: usize = 26;
    const HASH_PAGES: [u8; 2] = [2, 13];
    const OVERFLOW_PAGE: u8 = 7;
    const ON_OWN_PAGES: u8 = 3;
    let file = path.open()?;
    let meta = read_at(&file, 0, 72)?;
    let big = match le32(&meta, 12)? {
        MAGIC => false,
        swapped if swapped.swap_bytes() == MAGIC => true,
        _ => return Err(DatabaseError::Unsound("it begins otherwise")),
    };
    let word =
        |bytes: &[u8], at: usize| le32(bytes, at).map(|word| if big { word.swap_bytes() } else { word });
    let half = |bytes: &[u8], at: usize| {
        let half = bytes.get(at..at + 2).and_then(|bytes| bytes.first_chunk());
        let half = half.map(|half| if big { u16::from_be_bytes(*half) } else { u16::from_le_bytes(*half) });
        half.map(usize::from).ok_or(DatabaseError::Unsound("it is cut"))
    };
    let page_bytes = word(&meta, 20)? as usize;
    if !page_bytes.is_power_of_two() || !(512..=65_536).contains(&page_bytes) {
        return Err(DatabaseError::Unsound("invalid page size"));
    }
    let last = u64::from(word(&meta, 32)?);
    let page = |number: u64| read_at(&file, number * page_bytes as u64, page_bytes);
    for number in 1..=last {
        let content = page(number)?;
        if !HASH_PAGES.contains(&content[25]) {
            continue;
        }
        // Keys and values take turns.
        for entry in (1..half(&content, 20)?).step_by(2) {
            let at = half(&content, HEADER_BYTES + 2 * entry)?;
            if content.get(at) != Some(&ON_OWN_PAGES) {
                continue;
            }
            let (mut next, length) = (word(&content, at + 4)?, word(&content, at + 8)? as usize);
            if length > MAX_HEADER_BYTES {
                return Err(DatabaseError::Unsound("a package is too large"));
            }
            let mut blob = Vec::new();
            let mut left = last;
            while next != 0 && blob.len() < length {
                left = left.checked_sub(1).ok_or(DatabaseError::Unsound("its pages form a loop"))?;
                let content = page(u64::from(next))?;
                let bytes = half(&content, 22)?;
                if content[25] != OVERFLOW_PAGE {
                    return Err(DatabaseError::Unsound("a package is not where it should be"));
                }
                blob.extend_from_slice(content.get(HEADER_BYTES..HEADER_BYTES + bytes).unwrap_or_default());
                next = word(&content, 16)?;
            }
            take(&blob);
        }
    }
    Ok(())
}
