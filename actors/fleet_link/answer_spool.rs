//! Answers on disk until the broker has them. Blocking; used on the blocking pool.
//!
//! One file for each action, a line for each message. An answer is safe once [`AnswerSpool::store`] has returned.
//! What the broker acknowledged is marked by the file's name and deleted a while later, because JetStream
//! acknowledges before it syncs: after a reconnect it is sent once more, with the same message ids.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use vigie_fleet::names::ActionId;

/// How long an acknowledged answer can still be sent again; more than the two minutes after which JetStream syncs.
pub(super) const RESEND: Duration = Duration::from_secs(300);

const WAITING: &str = "waiting";
const SENT: &str = "sent";

/// Answers of this agent.
#[derive(Debug)]
pub(super) struct AnswerSpool {
    directory: PathBuf,
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
    /// Opens the spool in `directory`, creating it when it is not there.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub(super) fn open(directory: &Path) -> Result<Self, SpoolError> {
        let spool = Self { directory: directory.to_owned() };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| spool.error(source))?;
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
    /// When the disk does not take it; nothing of it is then kept.
    pub(super) fn store(&self, action: &ActionId, messages: &[String]) -> Result<(), SpoolError> {
        let new = self.path(action, "new");
        self.write(&new, messages)
            .and_then(|()| fs::rename(&new, self.path(action, WAITING)))
            .and_then(|()| File::open(&self.directory)?.sync_all())
            .map_err(|source| {
                fs::remove_file(&new).ok();
                self.error(source)
            })
    }

    fn write(&self, path: &Path, messages: &[String]) -> io::Result<()> {
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path)?;
        for message in messages {
            file.write_all(message.as_bytes())?;
            file.write_all(b"\n")?;
        }
        file.sync_data()
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
        if fs::rename(&waiting, &sent).is_ok() {
            File::open(&sent).and_then(|file| file.set_modified(SystemTime::now())).ok();
        }
    }

    /// Actions whose answers the broker does not have yet, the oldest first.
    #[must_use]
    pub(super) fn waiting(&self) -> Vec<ActionId> {
        self.list(WAITING, |_| true)
    }

    /// Actions whose answers the broker acknowledged a short while ago.
    #[must_use]
    pub(super) fn recently_sent(&self) -> Vec<ActionId> {
        self.list(SENT, |age| age < RESEND)
    }

    /// Deletes what was sent long ago.
    pub(super) fn forget_old(&self) {
        for action in self.list(SENT, |age| age >= RESEND) {
            fs::remove_file(self.path(&action, SENT)).ok();
        }
    }

    /// Size of all answers in bytes.
    #[must_use]
    pub(super) fn bytes(&self) -> u64 {
        self.entries().map(|(_, metadata)| metadata.len()).sum()
    }

    fn entries(&self) -> impl Iterator<Item = (PathBuf, fs::Metadata)> {
        fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok())
            .filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
    }

    fn list(&self, state: &str, wanted: impl Fn(Duration) -> bool) -> Vec<ActionId> {
        let mut found: Vec<(SystemTime, ActionId)> = self
            .entries()
            .filter(|(path, _)| path.extension().is_some_and(|extension| extension == state))
            .filter_map(|(path, metadata)| {
                let action = path.file_stem()?.to_str()?.parse().ok()?;
                let modified = metadata.modified().ok()?;
                // A file from the future has the age zero.
                wanted(modified.elapsed().unwrap_or_default()).then_some((modified, action))
            })
            .collect();
        found.sort();
        found.into_iter().map(|(_, action)| action).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> ActionId {
        ActionId::from_random([number; 16])
    }

    #[test]
    fn an_answer_waits_over_a_restart_until_it_is_sent() {
        let directory = tempfile::tempdir().unwrap();
        let messages = vec!["{\"seq\":0}".to_owned(), "{\"seq\":1}".to_owned()];
        AnswerSpool::open(directory.path()).unwrap().store(&id(1), &messages).unwrap();

        let spool = AnswerSpool::open(directory.path()).unwrap();

        assert_eq!(spool.waiting(), [id(1)]);
        assert_eq!(spool.load(&id(1)).unwrap(), messages);
        assert_eq!(spool.bytes(), 20);
        spool.mark_sent(&id(1));
        assert!(spool.waiting().is_empty());
        assert_eq!(spool.recently_sent(), [id(1)]);
        assert_eq!(spool.load(&id(1)).unwrap(), messages, "it can be sent again");
    }

    #[test]
    fn what_was_sent_long_ago_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let spool = AnswerSpool::open(directory.path()).unwrap();
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
    fn what_a_crash_left_half_written_is_no_answer() {
        let directory = tempfile::tempdir().unwrap();
        let spool = AnswerSpool::open(directory.path()).unwrap();
        fs::write(spool.path(&id(1), "new"), "{\"se").unwrap();
        fs::write(directory.path().join("notes.waiting"), "{}").unwrap();

        assert!(spool.waiting().is_empty());
    }
}
