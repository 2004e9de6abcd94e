//! Alerts that a receiver refused for good, in a file of their own: `STATE_DIR/sinks/NAME.dead.jsonl`.
//!
//! One module gets as much of it as is left for the others, so that one whose alerts are all refused leaves them
//! something. A letter may be as large as an alert, up to `limits.line_bytes`: the file has room for two of its largest
//! one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::json;
use vigie_files::durable::DurableFile;
use vigie_sinks::alert::Alert;
use vigie_sinks::schema::Schema;

use crate::work_threads::{self, Lane};

/// Largest file in bytes, or twice the largest letter in it if that is more; what does not fit is counted only, and
/// told as `sink-letters-lost`.
pub(super) const MAX_BYTES: u64 = 16 << 20;

/// Largest file that is read: `limits.line_bytes` is at most 64 MiB, and a letter says a little more than the line of
/// its alert. A larger one has no room left.
const MAX_READ_BYTES: u64 = 2 * (80 << 20);

/// The file of a sink.
#[derive(Debug, Clone)]
pub(super) struct DeadLetters {
    path: PathBuf,
    used: Arc<Mutex<Used>>,
}

/// Alerts that are counted only.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lost {
    /// How many.
    pub(super) count: u64,
    /// Why, for people.
    pub(super) why: String,
}

/// What the file holds.
#[derive(Debug, Default)]
struct Used {
    /// Its bytes; when it has others, somebody changed it, or it is not read yet.
    length: u64,
    by_module: BTreeMap<String, u64>,
    /// Bytes of the largest letter.
    largest: u64,
}

impl Used {
    fn of(path: &Path, length: u64) -> std::io::Result<Self> {
        #[derive(Deserialize)]
        struct Letter {
            alert: Document,
        }
        #[derive(Deserialize)]
        struct Document {
            module: String,
        }
        let mut used = Self { length, ..Self::default() };
        if length > MAX_READ_BYTES {
            return Ok(used);
        }
        let mut lines = BufReader::new(open(path)?.take(length));
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            // What somebody else wrote there belongs to nobody.
            if let Ok(letter) = serde_json::from_slice::<Letter>(&line) {
                used.count(&letter.alert.module, line.len() as u64);
            }
            line.clear();
        }
        Ok(used)
    }

    fn count(&mut self, module: &str, bytes: u64) {
        *self.by_module.entry(module.to_owned()).or_default() += bytes;
        self.largest = self.largest.max(bytes);
    }

    /// How large the file may be with a letter of so many bytes.
    fn limit(&self, bytes: u64) -> u64 {
        MAX_BYTES.max(2 * self.largest.max(bytes))
    }

    /// Whether there is room for so many bytes of a module; if so, they are counted.
    fn take(&mut self, module: &str, bytes: u64) -> bool {
        let own = self.by_module.get(module).copied().unwrap_or_default();
        if own + bytes > self.limit(bytes).saturating_sub(self.length + bytes) {
            return false;
        }
        self.count(module, bytes);
        self.length += bytes;
        true
    }
}

impl DeadLetters {
    pub(super) fn new(directory: &Path, sink: &str) -> Self {
        Self { path: directory.join(format!("{sink}.dead.jsonl")), used: Arc::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How large the file is, 0 when there is none; nothing when the disk does not say.
    pub(super) async fn bytes(&self) -> Option<u64> {
        let path = self.path.clone();
        #[expect(clippy::disallowed_methods, reason = "on Lane::Sinks")]
        let looking = work_threads::run(Lane::Sinks, move || std::fs::metadata(path).map(|data| data.len()));
        match looking.await.ok()? {
            Ok(bytes) => Some(bytes),
            Err(error) => (error.kind() == std::io::ErrorKind::NotFound).then_some(0),
        }
    }

    /// Adds alerts, on disk when this returns.
    ///
    /// # Errors
    /// When some of them are counted only.
    pub(super) async fn add(&self, alerts: Vec<(Alert, String)>) -> Result<(), Lost> {
        let count = alerts.len() as u64;
        let letters = self.clone();
        let adding = work_threads::run(Lane::Sinks, move || letters.write(alerts));
        let lost = |why: String| Lost { count, why };
        adding.await.map_err(|error| lost(error.to_string()))?
    }

    fn write(&self, alerts: Vec<(Alert, String)>) -> Result<(), Lost> {
        let count = alerts.len() as u64;
        let failed = |error: std::io::Error| Lost { count, why: error.to_string() };
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = DurableFile::open(&self.path).map_err(failed)?;
        if file.length() != used.length {
            *used = Used::of(&self.path, file.length()).map_err(failed)?;
        }
        // What a loss of power left of a line spoils only itself.
        let mut text = if ends_a_line(&self.path) { Vec::new() } else { vec![b'\n'] };
        used.length += text.len() as u64;
        let mut refused: BTreeMap<String, u64> = BTreeMap::new();
        let now = jiff::Timestamp::now().to_string();
        for (alert, why) in alerts {
            let letter = json!({"refused_at": now, "reason": why, "alert": Schema::Vigie.document(&alert)});
            let line = format!("{letter}\n");
            if used.take(&alert.module, line.len() as u64) {
                text.extend_from_slice(line.as_bytes());
            } else {
                *refused.entry(alert.module).or_default() += 1;
            }
        }
        let length = file.length();
        if let Err(error) = file.append(&text).and_then(|()| file.sync()) {
            // A disk without room takes a part; who reads the file reads whole lines.
            file.cut(length).ok();
            *used = Used::default();
            return Err(failed(error));
        }
        if refused.is_empty() {
            return Ok(());
        }
        let path = &self.path;
        let names: Vec<&str> = refused.keys().map(String::as_str).collect();
        let why = format!(
            "{path:?} has reached its limit for alerts of {}: one module gets as much of {} bytes as is left for others",
            names.join(", "),
            used.limit(0)
        );
        Err(Lost { count: refused.values().sum(), why })
    }
}

/// Opens for reading what was a regular file a moment ago; whatever it is now holds up nobody.
#[expect(clippy::disallowed_methods, reason = "on Lane::Sinks")]
fn open(path: &Path) -> std::io::Result<File> {
    let flags = nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_NOCTTY;
    std::fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

/// Whether the next line can begin at the file's end.
fn ends_a_line(path: &Path) -> bool {
    let Ok(mut file) = open(path) else { return true };
    let mut last = [b'\n'];
    let read = file.seek(SeekFrom::End(-1)).and_then(|_| file.read_exact(&mut last));
    read.is_err() || last == *b"\n"
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test may wait for a disk")]

    use std::fs;

    use super::*;

    fn alerts(module: &str, count: usize, bytes: usize) -> Vec<(Alert, String)> {
        let alert = Alert {
            source: Arc::default(),
            journal: "j".into(),
            seq: 1,
            time: "2026-01-02T03:04:05Z".to_owned(),
            module: module.to_owned(),
            id: None,
            severity: vigie_protocol::severity::Severity::High,
            sentence: "x".repeat(bytes),
            fields: serde_json::Map::new(),
            resent: false,
        };
        vec![(alert, "refused".to_owned()); count]
    }

    fn lines_of(letters: &DeadLetters, module: &str) -> usize {
        let named = format!("\"module\":\"{module}\"");
        fs::read_to_string(letters.path()).unwrap().lines().filter(|line| line.contains(&named)).count()
    }

    #[test]
    fn a_module_whose_alerts_are_all_refused_leaves_room_for_those_of_others() {
        let directory = tempfile::tempdir().unwrap();
        let letters = DeadLetters::new(directory.path(), "hook");
        let lost = letters.write(alerts("loud", 40, 1 << 20)).unwrap_err();
        assert_eq!((lost.count, lines_of(&letters, "loud")), (33, 7));
        assert!(lost.why.contains("has reached its limit for alerts of loud:"), "{lost:?}");

        // Also after a restart, and in one batch with the flood.
        let letters = DeadLetters::new(directory.path(), "hook");
        let mixed = [alerts("loud", 2, 1 << 20), alerts("quiet", 3, 1000)].concat();
        assert_eq!(letters.write(mixed).unwrap_err().count, 2);
        assert_eq!((lines_of(&letters, "loud"), lines_of(&letters, "quiet")), (7, 3));
        assert!(fs::metadata(letters.path()).unwrap().len() <= MAX_BYTES);

        // Somebody took it away.
        fs::remove_file(letters.path()).unwrap();
        letters.write(alerts("loud", 1, 1 << 20)).unwrap();
    }

    #[test]
    fn an_alert_of_any_size_finds_room_and_leaves_some_for_others() {
        let directory = tempfile::tempdir().unwrap();
        let letters = DeadLetters::new(directory.path(), "hook");

        letters.write(alerts("large", 1, 64 << 20)).unwrap();

        for anew in [false, true] {
            let letters = if anew { DeadLetters::new(directory.path(), "hook") } else { letters.clone() };
            assert_eq!(letters.write(alerts("large", 1, 64 << 20)).unwrap_err().count, 1);
            letters.write(alerts("quiet", 10, 1 << 20)).unwrap();
        }
        assert_eq!((lines_of(&letters, "large"), lines_of(&letters, "quiet")), (1, 20));
    }

    #[test]
    fn a_file_that_somebody_else_made_huge_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let letters = DeadLetters::new(directory.path(), "hook");
        // A hole, which would take this much memory.
        fs::File::create(letters.path()).unwrap().set_len(1 << 40).unwrap();

        assert_eq!(letters.write(alerts("quiet", 1, 1000)).unwrap_err().count, 1);
    }
}
