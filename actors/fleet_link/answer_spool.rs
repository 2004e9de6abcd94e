//! Answers on disk until the broker has them. Blocking; used on the blocking pool.
//!
//! One file for each action, a line for each message. An answer is safe once [`AnswerSpool::store`] has returned. What
//! the broker acknowledged is marked by the file's name and deleted a while later, because JetStream acknowledges
//! before it syncs: after a reconnect it is sent once more, and whoever reads knows the same part again. What is kept
//! for that has the same bound as what waits, and the oldest of it goes first.

#![expect(clippy::disallowed_methods, reason = "called on Lane::Fleet")]

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use vigie_files::durable::{self, Durability};
use vigie_protocol::names::ActionId;

use super::uplink::Hold;

/// How long an acknowledged answer can still be sent again; more than the two minutes after which JetStream syncs.
pub(super) const RESEND: Duration = Duration::from_secs(300);

const WAITING: &str = "waiting";
const SENT: &str = "sent";

/// The end of what is being written. One that a crash left is no answer.
const NEW: &str = "new";

/// Answers of this agent.
#[derive(Debug)]
pub(super) struct AnswerSpool {
    directory: PathBuf,
    /// Most bytes of answers that are kept after they were acknowledged.
    keep_bytes: u64,
    /// Bytes of the answers that wait.
    waiting_bytes: AtomicU64,
    _hold: Hold,
}

/// An answer cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep answers in {directory:?}")]
pub(super) struct SpoolError {
    directory: PathBuf,
    #[source]
    source: io::Error,
}

impl AnswerSpool {
    /// Opens the spool in `directory`, creating it when it is not there. After they were acknowledged, `keep_bytes` of
    /// answers are kept at most.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub(super) fn open(directory: &Path, keep_bytes: u64, hold: Hold) -> Result<Self, SpoolError> {
        let directory = directory.to_owned();
        let mut spool = Self { directory, keep_bytes, waiting_bytes: AtomicU64::new(0), _hold: hold };
        durable::make_directory(&spool.directory).map_err(|source| spool.error(source))?;
        for entry in fs::read_dir(&spool.directory).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == NEW) {
                durable::remove(&entry.path()).ok();
            }
        }
        spool.waiting_bytes = AtomicU64::new(spool.files(WAITING).iter().map(|file| file.bytes).sum());
        Ok(spool)
    }

    fn error(&self, source: io::Error) -> SpoolError {
        SpoolError { directory: self.directory.clone(), source }
    }

    fn path(&self, action: &ActionId, state: &str) -> PathBuf {
        self.directory.join(format!("{action}.{state}"))
    }

    /// Keeps an answer; `messages` hold no line end, as JSON does not.
    ///
    /// # Errors
    /// When it cannot be written to disk; nothing of it is then kept.
    pub(super) fn store(&self, action: &ActionId, messages: &[String]) -> Result<(), SpoolError> {
        let waiting = self.path(action, WAITING);
        let before = fs::metadata(&waiting).map_or(0, |metadata| metadata.len());
        let mut content = Vec::with_capacity(messages.iter().map(|message| message.len() + 1).sum());
        for message in messages {
            content.extend_from_slice(message.as_bytes());
            content.push(b'\n');
        }
        durable::replace(&waiting, &content, Durability::Power).map_err(|source| self.error(source))?;
        self.waiting_bytes.fetch_add(content.len() as u64, Ordering::Relaxed);
        self.subtract(before);
        Ok(())
    }

    fn subtract(&self, bytes: u64) {
        let less = |waiting: u64| Some(waiting.saturating_sub(bytes));
        self.waiting_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok();
    }

    /// The messages of an answer that is kept.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub(super) fn load(&self, action: &ActionId) -> Result<Vec<String>, SpoolError> {
        fs::read_to_string(self.path(action, WAITING))
            .or_else(|_| fs::read_to_string(self.path(action, SENT)))
            .map(|text| text.lines().map(str::to_owned).collect())
            .map_err(|source| self.error(source))
    }

    /// Notes that the broker has an answer.
    pub(super) fn mark_sent(&self, action: &ActionId) {
        // Lost in a crash it is sent once more, which costs nothing but a message.
        let (waiting, sent) = (self.path(action, WAITING), self.path(action, SENT));
        let bytes = fs::metadata(&waiting).map_or(0, |metadata| metadata.len());
        if durable::rename(&waiting, &sent).is_ok() {
            self.subtract(bytes);
            File::open(&sent).and_then(|file| file.set_modified(SystemTime::now())).ok();
        }
    }

    /// Actions whose answers the broker does not have yet, the oldest first.
    #[must_use]
    pub(super) fn waiting(&self) -> Vec<ActionId> {
        self.files(WAITING).into_iter().map(|file| file.action).collect()
    }

    /// Actions whose answers the broker acknowledged a short while ago, the oldest first.
    #[must_use]
    pub(super) fn recently_sent(&self) -> Vec<ActionId> {
        self.files(SENT).into_iter().filter(|file| file.age() < RESEND).map(|file| file.action).collect()
    }

    /// All actions with an answer, also those that were acknowledged long ago.
    #[must_use]
    pub(super) fn answered(&self) -> Vec<ActionId> {
        self.files(WAITING).into_iter().chain(self.files(SENT)).map(|file| file.action).collect()
    }

    /// Deletes what was sent long ago, and of the rest the oldest as far as it is too much.
    pub(super) fn forget_old(&self) {
        let mut kept = 0;
        for file in self.files(SENT).into_iter().rev() {
            kept += file.bytes;
            if file.age() >= RESEND || kept > self.keep_bytes {
                durable::remove(&file.path).ok();
            }
        }
    }

    /// Size in bytes of the answers that the broker does not have yet.
    #[must_use]
    pub(super) fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes.load(Ordering::Relaxed)
    }

    /// The answers in a state, the oldest first.
    fn files(&self, state: &str) -> Vec<AnswerFile> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let mut files: Vec<AnswerFile> = entries
            .filter_map(|entry| {
                let path = entry.path();
                path.extension().filter(|extension| *extension == state)?;
                let action = path.file_stem()?.to_str()?.parse().ok()?;
                let metadata = entry.metadata().ok()?;
                Some(AnswerFile { action, modified: metadata.modified().ok()?, bytes: metadata.len(), path })
            })
            .collect();
        files.sort_by(|one, other| (one.modified, &one.action).cmp(&(other.modified, &other.action)));
        files
    }
}

/// A file with an answer.
struct AnswerFile {
    action: ActionId,
    modified: SystemTime,
    bytes: u64,
    path: PathBuf,
}

impl AnswerFile {
    /// A file from the future has the age zero.
    fn age(&self) -> Duration {
        self.modified.elapsed().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &Path) -> AnswerSpool {
        AnswerSpool::open(directory, 64, tokio::sync::mpsc::channel(1).0).unwrap()
    }

    fn id(number: u8) -> ActionId {
        ActionId::from_random([number; 16])
    }

    #[test]
    fn an_answer_waits_over_a_restart_until_it_is_sent() {
        let directory = tempfile::tempdir().unwrap();
        let messages = vec!["{\"seq\":0}".to_owned(), "{\"seq\":1}".to_owned()];
        open(directory.path()).store(&id(1), &messages).unwrap();

        let spool = open(directory.path());

        assert_eq!(spool.waiting(), [id(1)]);
        assert_eq!(spool.load(&id(1)).unwrap(), messages);
        assert_eq!(spool.waiting_bytes(), 20);
        spool.mark_sent(&id(1));
        assert_eq!(spool.waiting_bytes(), 0, "what was sent takes no room from what waits");
        assert!(spool.waiting().is_empty());
        assert_eq!(spool.recently_sent(), [id(1)]);
        assert_eq!(spool.load(&id(1)).unwrap(), messages, "it can be sent again");
    }

    #[test]
    fn what_was_sent_long_ago_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let spool = open(directory.path());
        for number in [1, 2] {
            spool.store(&id(number), &["{}".to_owned()]).unwrap();
            spool.mark_sent(&id(number));
        }
        let long_ago = SystemTime::now() - RESEND;
        File::open(spool.path(&id(1), SENT)).unwrap().set_modified(long_ago).unwrap();

        spool.forget_old();

        assert_eq!(spool.recently_sent(), [id(2)]);
        assert!(spool.load(&id(1)).is_err());
    }

    #[test]
    fn what_was_sent_is_kept_only_as_far_as_there_is_room() {
        let directory = tempfile::tempdir().unwrap();
        let spool = open(directory.path());
        for number in [1, 2, 3] {
            spool.store(&id(number), &["x".repeat(29)]).unwrap();
            spool.mark_sent(&id(number));
            let path = spool.path(&id(number), SENT);
            let age = Duration::from_secs(100 - u64::from(number));
            File::open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
        }

        spool.forget_old();

        assert_eq!(spool.recently_sent(), [id(2), id(3)]);
        assert_eq!(spool.answered(), [id(2), id(3)]);
    }

    #[test]
    fn an_answer_that_is_stored_twice_counts_once() {
        let directory = tempfile::tempdir().unwrap();
        let spool = open(directory.path());
        for _ in 0..2 {
            spool.store(&id(1), &["x".repeat(9)]).unwrap();
        }
        assert_eq!((spool.waiting_bytes(), open(directory.path()).waiting_bytes()), (10, 10));
    }

    #[test]
    fn what_a_crash_left_half_written_is_no_answer() {
        let directory = tempfile::tempdir().unwrap();
        let spool = open(directory.path());
        fs::write(spool.path(&id(1), NEW), "{\"se").unwrap();
        fs::write(directory.path().join("notes.waiting"), "{}").unwrap();

        assert!(spool.waiting().is_empty());
        drop(open(directory.path()));
        assert!(!spool.path(&id(1), NEW).exists(), "it does not stay for ever");
    }
}
