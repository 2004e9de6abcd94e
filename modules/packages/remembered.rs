//! Digests that were made before. One holds for a file as long as device, inode, size and all times are the same, and
//! for a week at most: whoever writes to the disk below the file system changes none of these.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use vigie_files::durable::{self, Durability};
use vigie_packagedb::installed::{Algorithm, Digest};

/// How long a digest holds, in seconds.
const HOLDS_SECONDS: i64 = 7 * 24 * 3600;

/// A file that changed less than this before it was read is not remembered, in seconds: a further change could have
/// the same time.
const UNSETTLED_SECONDS: i64 = 2;

/// Most digests that are kept, some 200 MB.
const MAX_ENTRIES: usize = 2_000_000;

const MAGIC: &[u8; 16] = b"vigie-digests-1\n";

/// Bytes of an entry: seven numbers of eight bytes, three of four, the kind of digest, the digest.
const ENTRY_BYTES: usize = 7 * 8 + 3 * 4 + 1 + 32;

/// What tells that a file is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// `st_dev`
    pub device: u64,
    /// `st_ino`
    pub inode: u64,
    /// In bytes.
    pub size: u64,
    /// Seconds and nanoseconds.
    pub modified: (i64, u32),
    /// Seconds and nanoseconds.
    pub changed: (i64, u32),
    /// Seconds and nanoseconds; zero where it is not known.
    pub born: (i64, u32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    digest: Digest,
    /// When it was made, in seconds since 1970.
    made: i64,
}

/// The digests of a host.
#[derive(Debug, Default)]
pub struct Remembered {
    file: Option<PathBuf>,
    entries: HashMap<Identity, Entry>,
    now: i64,
}

impl Remembered {
    /// Reads what is remembered in a directory; `None` remembers nothing. A file that others could have written, or
    /// that is damaged, is not believed.
    #[must_use]
    pub fn read(directory: Option<&Path>, forget: bool, now: i64) -> Self {
        let file = directory.map(|directory| directory.join("digests"));
        let entries = match &file {
            Some(file) if !forget => read(file, now).unwrap_or_default(),
            _ => HashMap::new(),
        };
        Self { file, entries, now }
    }

    /// The digest of a file that is as it was.
    #[must_use]
    pub fn get(&self, identity: &Identity, algorithm: Algorithm) -> Option<&Digest> {
        let entry = self.entries.get(identity)?;
        (entry.digest.algorithm == algorithm).then_some(&entry.digest)
    }

    /// Adds digests that were made now, and writes everything.
    ///
    /// # Errors
    /// When it cannot be written; what was found holds all the same.
    pub fn add(&mut self, made: Vec<(Identity, Digest)>) -> io::Result<()> {
        let settled = self.now - UNSETTLED_SECONDS;
        for (identity, digest) in made {
            // A change time in the future is no time to trust.
            if identity.changed.0 < settled && digest.bytes.len() <= 32 && self.entries.len() < MAX_ENTRIES {
                self.entries.insert(identity, Entry { digest, made: self.now });
            }
        }
        match &self.file {
            Some(file) => write(file, &self.entries),
            None => Ok(()),
        }
    }
}

fn read(path: &Path, now: i64) -> Option<HashMap<Identity, Entry>> {
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut file = OpenOptions::new().read(true).custom_flags(nofollow).open(path).ok()?;
    let metadata = file.metadata().ok()?;
    let mine = metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o022 == 0;
    let length = usize::try_from(metadata.len()).ok()?;
    if !mine || !metadata.is_file() || length > MAX_ENTRIES * ENTRY_BYTES + 64 {
        return None;
    }
    let mut content = Vec::with_capacity(length);
    file.read_to_end(&mut content).ok()?;
    let (content, seal) = content.split_last_chunk::<32>()?;
    if Sha256::digest(content).as_slice() != seal {
        return None;
    }
    let (entries, rest) = content.strip_prefix(MAGIC)?.as_chunks::<ENTRY_BYTES>();
    if !rest.is_empty() {
        return None;
    }
    let entries = entries.iter().filter_map(decode);
    Some(entries.filter(|(_, entry)| entry.made <= now && now - entry.made < HOLDS_SECONDS).collect())
}

fn write(path: &Path, entries: &HashMap<Identity, Entry>) -> io::Result<()> {
    let mut content = Vec::with_capacity(MAGIC.len() + entries.len() * ENTRY_BYTES + 32);
    content.extend_from_slice(MAGIC);
    for (identity, entry) in entries {
        encode(identity, entry, &mut content);
    }
    let seal = Sha256::digest(&content);
    content.extend_from_slice(&seal);
    durable::replace_shared(path, 0o600, &content, Durability::Process)
}

const ALGORITHMS: [Algorithm; 3] = [Algorithm::Md5, Algorithm::Sha1, Algorithm::Sha256];

fn encode(identity: &Identity, entry: &Entry, content: &mut Vec<u8>) {
    let Identity { device, inode, size, modified, changed, born } = identity;
    for number in [device, inode, size] {
        content.extend_from_slice(&number.to_le_bytes());
    }
    for number in [modified.0, changed.0, born.0, entry.made] {
        content.extend_from_slice(&number.to_le_bytes());
    }
    for number in [modified.1, changed.1, born.1] {
        content.extend_from_slice(&number.to_le_bytes());
    }
    let kind = ALGORITHMS
        .iter()
        .position(|algorithm| *algorithm == entry.digest.algorithm)
        .unwrap_or(ALGORITHMS.len());
    content.push(kind as u8);
    let mut bytes = [0; 32];
    let length = entry.digest.bytes.len().min(32);
    bytes[..length].copy_from_slice(&entry.digest.bytes[..length]);
    content.extend_from_slice(&bytes);
}

fn decode(bytes: &[u8; ENTRY_BYTES]) -> Option<(Identity, Entry)> {
    let long = |at: usize| bytes[8 * at..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    let short = |at: usize| bytes[56 + 4 * at..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    let time = |at: usize| Some((long(3 + at)?.cast_signed(), short(at)?));
    let algorithm = *ALGORITHMS.get(usize::from(bytes[68]))?;
    let digest = Digest { algorithm, bytes: bytes[69..69 + algorithm.length()].into() };
    let identity = Identity {
        device: long(0)?,
        inode: long(1)?,
        size: long(2)?,
        modified: time(0)?,
        changed: time(1)?,
        born: time(2)?,
    };
    Some((identity, Entry { digest, made: long(6)?.cast_signed() }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn identity(inode: u64, changed: i64) -> Identity {
        Identity { device: 1, inode, size: 3, modified: (5, 6), changed: (changed, 7), born: (-1, 8) }
    }

    fn digest(byte: u8, algorithm: Algorithm) -> Digest {
        Digest { algorithm, bytes: vec![byte; algorithm.length()].into() }
    }

    #[test]
    fn digests_are_remembered_for_a_week_and_only_of_what_is_settled() {
        let directory = tempfile::tempdir().unwrap();
        let read = |forget, now| Remembered::read(Some(directory.path()), forget, now);
        let made = vec![
            (identity(1, NOW - 10), digest(1, Algorithm::Md5)),
            (identity(2, NOW - 10), digest(2, Algorithm::Sha256)),
            (identity(3, NOW - 1), digest(3, Algorithm::Md5)),
            (identity(4, NOW - 10), digest(4, Algorithm::Sha512)),
        ];
        read(false, NOW).add(made).unwrap();

        let later = read(false, NOW + HOLDS_SECONDS - 1);
        assert_eq!(later.get(&identity(1, NOW - 10), Algorithm::Md5), Some(&digest(1, Algorithm::Md5)));
        assert_eq!(later.get(&identity(2, NOW - 10), Algorithm::Sha256), Some(&digest(2, Algorithm::Sha256)));
        assert_eq!(later.get(&identity(1, NOW - 10), Algorithm::Sha1), None);
        assert_eq!(later.get(&identity(1, NOW - 9), Algorithm::Md5), None);
        assert_eq!(later.entries.len(), 2);
        assert!(read(false, NOW + HOLDS_SECONDS).entries.is_empty());
        assert!(read(false, NOW - 1).entries.is_empty());
        assert!(read(true, NOW).entries.is_empty());
    }

    #[test]
    fn a_file_that_others_could_have_written_or_that_is_damaged_is_not_believed() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("digests");
        let read = || Remembered::read(Some(directory.path()), false, NOW).entries.len();
        Remembered::read(Some(directory.path()), false, NOW)
            .add(vec![(identity(1, 0), digest(1, Algorithm::Md5))])
            .unwrap();
        assert_eq!(read(), 1);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(read(), 0);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let mut content = fs::read(&path).unwrap();
        content[40] ^= 1;
        fs::write(&path, content).unwrap();
        assert_eq!(read(), 0);
        let elsewhere = directory.path().join("x");
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert_eq!(read(), 0);
    }

    proptest! {
        #[test]
        fn an_entry_is_read_as_it_was_written(
            numbers in any::<(u64, u64, u64)>(), times in any::<[(i64, u32); 3]>(), made in any::<i64>(), kind in 0_usize..3,
        ) {
            let [modified, changed, born] = times;
            let identity = Identity { device: numbers.0, inode: numbers.1, size: numbers.2, modified, changed, born };
            let entry = Entry { digest: digest(9, ALGORITHMS[kind]), made };
            let mut content = Vec::new();
            encode(&identity, &entry, &mut content);
            prop_assert_eq!(decode(content.as_slice().try_into().unwrap()), Some((identity, entry)));
        }
    }
}
