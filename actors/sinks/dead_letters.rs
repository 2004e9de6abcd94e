//! Alerts that a receiver refused for good, in a file of their own: `STATE_DIR/sinks/NAME.dead.jsonl`.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::json;
use vigie_files::durable::DurableFile;
use vigie_sinks::alert::Alert;
use vigie_sinks::schema::Schema;

use crate::work_threads::{self, Lane};

/// Largest file in bytes; what does not fit is counted only, and told as `sink-letters-lost`.
pub(super) const MAX_BYTES: u64 = 16 << 20;

/// The file of a sink.
#[derive(Debug, Clone)]
pub(super) struct DeadLetters(PathBuf);

impl DeadLetters {
    pub(super) fn new(directory: &Path, sink: &str) -> Self {
        Self(directory.join(format!("{sink}.dead.jsonl")))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// How large the file is, 0 when there is none; nothing when the disk does not say.
    pub(super) async fn bytes(&self) -> Option<u64> {
        let path = self.0.clone();
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
    /// Why they are counted only, for people.
    pub(super) async fn add(&self, alerts: Vec<(Alert, String)>) -> Result<(), String> {
        let path = self.0.clone();
        let adding = work_threads::run(Lane::Sinks, move || {
            let mut file = DurableFile::open(&path).map_err(|error| error.to_string())?;
            // What a loss of power left of a line spoils only itself.
            let mut text = if ends_a_line(&path) { Vec::new() } else { vec![b'\n'] };
            let now = jiff::Timestamp::now().to_string();
            for (alert, why) in alerts {
                let document = Schema::Vigie.document(&alert);
                let letter = json!({"refused_at": now, "reason": why, "alert": document});
                text.extend_from_slice(letter.to_string().as_bytes());
                text.push(b'\n');
            }
            if file.length() + text.len() as u64 > MAX_BYTES {
                return Err(format!("{path:?} has reached {MAX_BYTES} bytes"));
            }
            let length = file.length();
            if let Err(error) = file.append(&text) {
                // A disk without room takes a part; who reads the file reads whole lines.
                file.cut(length).ok();
                return Err(error.to_string());
            }
            file.sync().map_err(|error| error.to_string())
        });
        adding.await.map_err(|error| error.to_string())?
    }
}

/// Whether the next line can begin at the file's end.
#[expect(clippy::disallowed_methods, reason = "on Lane::Sinks")]
fn ends_a_line(path: &Path) -> bool {
    let Ok(mut file) = std::fs::File::open(path) else { return true };
    let mut last = [b'\n'];
    let read = file.seek(SeekFrom::End(-1)).and_then(|_| file.read_exact(&mut last));
    read.is_err() || last == *b"\n"
}
