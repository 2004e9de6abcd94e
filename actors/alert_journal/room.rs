//! Makes room among alerts that still have to be sent to the fleet: the oldest of the least severe ones go first.
//!
//! A file is thinned by writing what stays beside it and renaming: whoever reads the old file reads on in it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;

use vigie_protocol::control::AlertRecord;
use vigie_protocol::severity::Severity;

/// Alerts that were given up before they were sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GivenUp {
    /// How many of each severity, as [`Severity::ALL`] orders them.
    pub counts: [u64; 4],
    /// Number of the first one.
    pub first_seq: u64,
    /// Number of the last one.
    pub last_seq: u64,
}

impl GivenUp {
    fn add(total: &mut Option<Self>, severity: Severity, seq: u64) {
        let total = total.get_or_insert(Self { counts: [0; 4], first_seq: seq, last_seq: seq });
        total.counts[severity as usize] += 1;
        total.first_seq = total.first_seq.min(seq);
        total.last_seq = total.last_seq.max(seq);
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Joins what was given up at two times.
    pub(super) fn join(total: &mut Option<Self>, more: Option<Self>) {
        match (&mut *total, more) {
            (Some(total), Some(more)) => {
                total.counts.iter_mut().zip(more.counts).for_each(|(count, more)| *count += more);
                total.first_seq = total.first_seq.min(more.first_seq);
                total.last_seq = total.last_seq.max(more.last_seq);
            }
            (None, more @ Some(_)) => *total = more,
            (_, None) => {}
        }
    }

    /// The alert that tells of it, in the form that modules' alerts have.
    #[must_use]
    pub fn message(&self) -> String {
        let [low, medium, high, critical] = self.counts;
        let severity = if high + critical > 0 { Severity::Critical } else { Severity::High };
        serde_json::json!({
            "severity": severity,
            "alert": format!(
                "{} alerts were given up before they could be sent to the fleet, because the journal is full; \
                 see journal.keep_segments, and why the broker does not take them",
                self.total()
            ),
            "event": "alerts_given_up",
            "low": low, "medium": medium, "high": high, "critical": critical,
            "first_seq": self.first_seq, "last_seq": self.last_seq,
        })
        .to_string()
    }
}

/// How a file is after it was thinned.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Thinned {
    /// Its new size; 0 means that it is gone.
    pub(super) bytes: u64,
    /// What was in it and had not been sent.
    pub(super) given_up: Option<GivenUp>,
}

/// Takes out of a closed segment what was sent (up to number `sent_through`) and what is at most as severe as
/// `severity`. Returns when the change is on disk.
///
/// # Errors
/// When the file cannot be read or written; it is then as before.
pub(super) fn thin(path: &Path, severity: Severity, sent_through: u64) -> io::Result<Thinned> {
    let new = path.with_extension("new");
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
    let file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    let mut thinned = Thinned { bytes: 0, given_up: None };
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        if let Ok(record) = serde_json::from_slice::<AlertRecord>(&line)
            && record.seq > sent_through
        {
            let of = Severity::of(&record.message);
            if of > severity {
                writer.write_all(&line)?;
                thinned.bytes += line.len() as u64;
            } else {
                GivenUp::add(&mut thinned.given_up, of, record.seq);
            }
        }
        line.clear();
    }
    if thinned.bytes == 0 {
        fs::remove_file(new)?;
        fs::remove_file(path)?;
    } else {
        writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_data()?;
        fs::rename(new, path)?;
    }
    Ok(thinned)
}
