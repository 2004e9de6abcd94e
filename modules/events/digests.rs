//! What is in the files of programs: read once for each file, on a thread of its own.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sha2::{Digest as _, Sha256};

use crate::history::store::FileKey;

/// Files that wait.
const QUEUE: usize = 256;
/// Files that were asked for and are not asked for again.
const MOST_ASKED: usize = 4096;
/// Larger files are left out.
const LARGEST: u64 = 512 << 20;

struct Wanted {
    key: FileKey,
    places: [PathBuf; 2],
}

/// The thread and what it was asked.
#[derive(Debug)]
pub(crate) struct Digests {
    wanted: Option<SyncSender<Wanted>>,
    done: Receiver<(FileKey, [u8; 32])>,
    asked: HashSet<FileKey>,
}

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wanted").field("places", &self.places).finish_non_exhaustive()
    }
}

impl Digests {
    pub(crate) fn start() -> Self {
        let (wanted, orders) = sync_channel::<Wanted>(QUEUE);
        let (answers, done) = sync_channel(QUEUE);
        let thread =
            std::thread::Builder::new().name("digests".to_owned()).stack_size(256 * 1024).spawn(move || {
                let mut buffer = vec![0; 64 * 1024];
                for Wanted { key, places } in orders {
                    let digest = places.iter().find_map(|place| digest(place, key, &mut buffer));
                    if let Some(digest) = digest
                        && answers.send((key, digest)).is_err()
                    {
                        return;
                    }
                }
            });
        Self { wanted: thread.is_ok().then_some(wanted), done, asked: HashSet::new() }
    }

    /// Asks for the digest of a process's program; once for each file.
    pub(crate) fn want(&mut self, key: FileKey, pid: u32, path: &[u8]) {
        if self.asked.len() >= MOST_ASKED {
            self.asked.clear();
        }
        if !self.asked.insert(key) {
            return;
        }
        let path = Path::new(std::ffi::OsStr::from_bytes(path)).to_owned();
        let wanted = Wanted { key, places: [PathBuf::from(format!("/proc/{pid}/exe")), path] };
        let sent = self.wanted.as_ref().is_some_and(|queue| queue.try_send(wanted).is_ok());
        if !sent {
            // Its next exec asks again.
            self.asked.remove(&key);
        }
    }

    /// What was found out since the last call.
    pub(crate) fn done(&self) -> Vec<(FileKey, [u8; 32])> {
        self.done.try_iter().collect()
    }
}

/// The digest of a file, when it is the very file that was run.
fn digest(place: &Path, key: FileKey, buffer: &mut [u8]) -> Option<[u8; 32]> {
    let mut file = File::open(place).ok()?;
    let metadata = file.metadata().ok()?;
    let device = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
    let found = (device, metadata.ino(), metadata.ctime(), metadata.size());
    if found != key || metadata.size() > LARGEST {
        return None;
    }
    let mut hash = Sha256::new();
    loop {
        match file.read(buffer).ok()? {
            0 => break,
            bytes => hash.update(&buffer[..bytes]),
        }
    }
    Some(hash.finalize().into())
}
