//! Logins that `wtmp` records. What is in it is what a login program claims.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use crate::record::Session;

/// `struct utmp` of glibc, on all our architectures.
const ENTRY_BYTES: usize = 384;
const USER_PROCESS: u16 = 7;
const DEAD_PROCESS: u16 = 8;

/// Time between two readings, in microseconds.
const PAUSE: i64 = 2_000_000;

/// Entries that are read at once.
const MOST_ENTRIES: usize = 1024;

/// The file, and how far it was read.
#[derive(Debug)]
pub(crate) struct Wtmp {
    path: PathBuf,
    inode: u64,
    offset: u64,
    looked: i64,
}

impl Wtmp {
    /// What comes from now on.
    pub(crate) fn at_end(path: PathBuf) -> Self {
        let found = std::fs::metadata(&path).ok();
        let (inode, offset) = found.map_or((0, 0), |found| (found.ino(), found.len()));
        Self { path, inode, offset, looked: 0 }
    }

    /// Time in microseconds since 1970, whether it is a login, who, and the process.
    pub(crate) fn new_entries(&mut self, now: i64) -> Vec<(i64, bool, Session, u32)> {
        if now - self.looked < PAUSE {
            return Vec::new();
        }
        self.looked = now;
        let Ok(mut file) = File::open(&self.path) else { return Vec::new() };
        let Ok(found) = file.metadata() else { return Vec::new() };
        // Rotated, or emptied: it begins anew.
        if found.ino() != self.inode || found.len() < self.offset {
            (self.inode, self.offset) = (found.ino(), 0);
        }
        let whole = (found.len() - self.offset) as usize / ENTRY_BYTES * ENTRY_BYTES;
        let mut bytes = vec![0; whole.min(MOST_ENTRIES * ENTRY_BYTES)];
        if bytes.is_empty()
            || file.seek(SeekFrom::Start(self.offset)).is_err()
            || file.read_exact(&mut bytes).is_err()
        {
            return Vec::new();
        }
        self.offset += bytes.len() as u64;
        bytes.chunks_exact(ENTRY_BYTES).filter_map(entry).collect()
    }
}

/// One entry; of logins and logouts only.
fn entry(bytes: &[u8]) -> Option<(i64, bool, Session, u32)> {
    let i32_at = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(i32::from_ne_bytes);
    let text = |at: usize, length: usize| {
        let field = bytes.get(at..at + length).unwrap_or_default();
        field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
    };
    let kind = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
    let is_login = match kind {
        USER_PROCESS => true,
        DEAD_PROCESS => false,
        _ => return None,
    };
    // The seconds are of 32 bits, and end in 2106 when they are read without a sign.
    let seconds = i64::from(i32_at(340)? as u32);
    let time = seconds * 1_000_000 + i64::from(i32_at(344)?);
    let session =
        Session { line: text(8, 32), user: text(44, 32), host: text(76, 256), source: b"wtmp".to_vec() };
    Some((time, is_login, session, u32::try_from(i32_at(4)?).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(kind: u16, user: &str, host: &str) -> Vec<u8> {
        let mut bytes = vec![0; ENTRY_BYTES];
        bytes[..2].copy_from_slice(&kind.to_ne_bytes());
        bytes[4..8].copy_from_slice(&77i32.to_ne_bytes());
        bytes[8..13].copy_from_slice(b"pts/3");
        bytes[44..44 + user.len()].copy_from_slice(user.as_bytes());
        bytes[76..76 + host.len()].copy_from_slice(host.as_bytes());
        bytes[340..344].copy_from_slice(&1_700_000_000i32.to_ne_bytes());
        bytes
    }

    #[test]
    fn what_is_appended_is_told_once_also_after_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wtmp");
        std::fs::write(&path, bytes(USER_PROCESS, "old", "")).unwrap();
        let mut wtmp = Wtmp::at_end(path.clone());
        assert_eq!(wtmp.new_entries(10_000_000), []);

        let mut all = bytes(USER_PROCESS, "old", "");
        all.extend(bytes(USER_PROCESS, "ann", "192.0.2.7"));
        all.extend([1; 100]);
        std::fs::write(&path, &all).unwrap();
        let told = wtmp.new_entries(20_000_000);

        assert_eq!(told.len(), 1);
        let (time, is_login, session, pid) = &told[0];
        assert_eq!((*time, *is_login, *pid), (1_700_000_000_000_000, true, 77));
        assert_eq!(
            (&session.user[..], &session.host[..], &session.line[..]),
            (&b"ann"[..], &b"192.0.2.7"[..], &b"pts/3"[..])
        );
        assert_eq!(wtmp.new_entries(30_000_000), []);
        std::fs::write(dir.path().join("new"), bytes(DEAD_PROCESS, "", "")).unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(wtmp.new_entries(40_000_000).len(), 1);
    }
}
