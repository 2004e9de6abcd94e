//! Which journal it is, and how far somebody has read it.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use vigie_files::durable::{self, Durability};
use vigie_files::random;

use crate::names::Names;

pub(crate) const IDENTITY_FILE: &str = "identity";

/// Largest cursor that is read, in bytes.
const MAX_CURSOR_BYTES: u64 = 4096;

/// The name of the journal in `directory`, which it gets when it is begun: numbers of alerts mean something only
/// within one journal. Blocking.
///
/// # Errors
/// When it can be neither read nor written.
pub fn identity(directory: &Path) -> io::Result<String> {
    if let Some(known) = known_identity(directory) {
        return Ok(known);
    }
    let text = new_identity()?;
    store_identity(directory, &text)?;
    Ok(text)
}

/// A name that no journal has.
pub(crate) fn new_identity() -> io::Result<String> {
    Ok(format!("{:016x}", u64::from_ne_bytes(random::bytes()?)))
}

/// The name that a journal has, when it can be read.
pub(crate) fn known_identity(directory: &Path) -> Option<String> {
    let text = durable::read_bounded(&directory.join(IDENTITY_FILE), 64).ok()?;
    let is_name = text.len() == 16 && text.iter().all(u8::is_ascii_hexdigit);
    String::from_utf8(text).ok().filter(|_| is_name)
}

pub(crate) fn store_identity(directory: &Path, identity: &str) -> io::Result<()> {
    durable::replace(&directory.join(IDENTITY_FILE), identity.as_bytes(), Durability::Power)
}

/// How far a reader has everything, kept over restarts and power losses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The journal; numbers of another one mean nothing.
    pub journal: String,
    /// Number of the newest alert that the reader has with all before it.
    pub after: u64,
}

impl Cursor {
    /// The stored cursor, if there is one of this journal under one of its names.
    #[must_use]
    pub fn load(path: &Path, names: &Names) -> Option<Self> {
        let text = durable::read_bounded(path, MAX_CURSOR_BYTES).ok()?;
        serde_json::from_slice::<Self>(&text).ok()?.resumed(names)
    }

    /// Where its reader goes on under the present name; nothing when it is of another journal.
    #[must_use]
    pub fn resumed(&self, names: &Names) -> Option<Self> {
        let after = names.resume(&self.journal, self.after)?;
        Some(Self { journal: names.current().to_owned(), after })
    }

    /// Returns when it is on disk.
    ///
    /// # Errors
    /// When it cannot be written to disk.
    pub fn store(&self, path: &Path) -> io::Result<()> {
        durable::replace(path, &serde_json::to_vec(self)?, Durability::Power)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_keeps_its_name_and_a_cursor_belongs_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let name = identity(directory.path()).unwrap();
        let path = directory.path().join("cursor");
        let cursor = Cursor { journal: name.clone(), after: 7 };
        cursor.store(&path).unwrap();

        assert_eq!(identity(directory.path()).unwrap(), name);
        let load = |directory: &Path| Cursor::load(&path, &Names::of(directory).unwrap());
        assert_eq!(load(directory.path()), Some(cursor));
        assert_eq!(load(tempfile::tempdir().unwrap().path()), None);
        std::fs::write(directory.path().join(IDENTITY_FILE), "damaged").unwrap();
        assert_ne!(identity(directory.path()).unwrap(), name);
    }
}
