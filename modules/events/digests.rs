//! What is in the files of programs: read once for each file, on threads of their own: one for what root runs, and one
//! for the rest, whose files may be as large and as many as anybody likes.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sha2::{Digest as _, Sha256};
use vigie_kernel_events::Account;

use crate::history::store::FileKey;
use crate::shares::Bounded;

/// Files that wait, on each thread.
const QUEUE: usize = 256;
/// Of these, files of one account.
const OF_ONE: usize = QUEUE / 4;
/// Files that were asked for and are not asked for again.
const MOST_ASKED: usize = 4096;
/// Larger files are left out.
const LARGEST: u64 = 512 << 20;

struct Wanted {
    key: FileKey,
    account: Account,
    places: [PathBuf; 2],
}

/// What became of a file: its digest, unless it was gone or too large.
struct Done {
    key: FileKey,
    account: Account,
    digest: Option<[u8; 32]>,
}

/// The threads and what they were asked.
#[derive(Debug)]
pub(crate) struct Digests {
    of_trusted: Option<SyncSender<Wanted>>,
    of_others: Option<SyncSender<Wanted>>,
    done: Receiver<Done>,
    /// Files that are read now, and those that could not be.
    asked: Bounded<(Account, FileKey), ()>,
    /// How many files of each account are read now.
    waiting: HashMap<Account, usize>,
}

impl std::fmt::Debug for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wanted").field("places", &self.places).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Done").field("account", &self.account).finish_non_exhaustive()
    }
}

/// Starts a thread that reads files.
fn reader(name: &str, answers: SyncSender<Done>) -> Option<SyncSender<Wanted>> {
    let (wanted, orders) = sync_channel::<Wanted>(QUEUE);
    let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(256 * 1024).spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        for Wanted { key, account, places } in orders {
            let digest = places.iter().find_map(|place| digest(place, key, &mut buffer));
            if answers.send(Done { key, account, digest }).is_err() {
                return;
            }
        }
    });
    thread.is_ok().then_some(wanted)
}

impl Digests {
    pub(crate) fn start() -> Self {
        let (answers, done) = sync_channel(QUEUE);
        Self {
            of_trusted: reader("digests-trusted", answers.clone()),
            of_others: reader("digests", answers),
            done,
            asked: Bounded::new(MOST_ASKED),
            waiting: HashMap::new(),
        }
    }

    /// Asks for the digest of a process's program; once for each file.
    pub(crate) fn want(&mut self, key: FileKey, account: Account, pid: u32, path: &[u8]) {
        let waiting = self.waiting.get(&account).copied().unwrap_or(0);
        if self.asked.get(&(account, key)).is_some() || (waiting >= OF_ONE && !account.is_trusted()) {
            return;
        }
        let path = Path::new(std::ffi::OsStr::from_bytes(path)).to_owned();
        let wanted = Wanted { key, account, places: [PathBuf::from(format!("/proc/{pid}/exe")), path] };
        let queue = if account.is_trusted() { &self.of_trusted } else { &self.of_others };
        // Where there is no room its next exec asks again.
        if queue.as_ref().is_some_and(|queue| queue.try_send(wanted).is_ok()) {
            self.asked.insert((account, key), account, ());
            self.waiting.insert(account, waiting + 1);
        }
    }

    /// What was found out since the last call, and who ran it.
    pub(crate) fn done(&mut self) -> Vec<(FileKey, Account, [u8; 32])> {
        let mut found = Vec::new();
        for Done { key, account, digest } in self.done.try_iter() {
            if let Some(waiting) = self.waiting.get_mut(&account) {
                *waiting -= 1;
                if *waiting == 0 {
                    self.waiting.remove(&account);
                }
            }
            // One that was found is remembered by the history; one that was not is not asked for again for the same
            // account: a user who can have it fail must not hide the digest of what others run.
            if let Some(digest) = digest {
                self.asked.remove(&(account, key));
                found.push((key, account, digest));
            }
        }
        found
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

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "threads run in real time")]
mod tests {
    use std::os::unix::fs::MetadataExt as _;
    use std::time::{Duration, Instant};

    use super::*;

    fn key(path: &Path) -> FileKey {
        let found = std::fs::metadata(path).unwrap();
        let device = (rustix::fs::major(found.dev()), rustix::fs::minor(found.dev()));
        (device, found.ino(), found.ctime(), found.size())
    }

    #[test]
    fn large_files_of_a_user_keep_nobody_elses_waiting_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let ann = Account::user(1000);
        let mut digests = Digests::start();
        for number in 0..2 * QUEUE {
            let path = dir.path().join(number.to_string());
            File::create(&path).unwrap().set_len(16 << 20).unwrap();
            digests.want(key(&path), ann, u32::MAX, path.as_os_str().as_bytes());
        }
        assert_eq!(digests.waiting[&ann], OF_ONE);
        let path = dir.path().join("of root");
        std::fs::write(&path, "x").unwrap();
        digests.want(key(&path), Account::TRUSTED, u32::MAX, path.as_os_str().as_bytes());

        let (deadline, mut of_others) = (Instant::now() + Duration::from_secs(30), 0);
        loop {
            assert!(Instant::now() < deadline, "not read within 30 s");
            let done = digests.done();
            if done.iter().any(|(_, account, _)| account.is_trusted()) {
                break;
            }
            of_others += done.len();
            std::thread::yield_now();
        }
        assert!(of_others < OF_ONE, "root's came last");
    }
}
