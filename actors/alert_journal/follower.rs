//! Follows the journal from an async task: a [`Reader`] whose reading happens on the blocking pool.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use vigie_journal::{Item, Portion, Reader, Record};
use vigie_protocol::control::AlertRecord;

use crate::work_threads::{self, Lane};

/// Where the alerts are, and the number of the newest one that is safe, now and as it grows.
#[derive(Debug, Clone)]
pub struct JournalView {
    /// The directory of the journal's files.
    pub directory: PathBuf,
    /// Number of the newest recorded alert.
    pub recorded: watch::Receiver<u64>,
    /// What the journal is called, now and when it gets another name.
    pub name: watch::Receiver<Arc<str>>,
    /// Which files beside the segments somebody took away.
    pub taken_away: Option<String>,
}

impl JournalView {
    /// Reads the alerts after number `after`, and goes on as more are recorded.
    #[must_use]
    pub fn follow(&self, after: u64) -> Follower {
        self.follow_on(Lane::Readers, after)
    }

    /// The same for a client of the socket.
    pub(crate) fn follow_for_client(&self, after: u64) -> Follower {
        self.follow_on(Lane::Clients, after)
    }

    fn follow_on(&self, lane: Lane, after: u64) -> Follower {
        Follower { view: self.clone(), lane, reader: Some(Reader::new(&self.directory, after)), after }
    }
}

/// A cursor on the journal. It never holds up the journal: it reads files, and waits for the number of the newest alert
/// to grow. Sinks, dispatching modules, the link to the fleet and clients of the socket each have one of their own.
#[derive(Debug)]
pub struct Follower {
    view: JournalView,
    lane: Lane,
    /// Away while it reads on the blocking pool.
    reader: Option<Reader>,
    after: u64,
}

impl Follower {
    /// What comes next, in the order of numbers: alerts, and what is missing between them. Nothing when all that is
    /// recorded was returned. When the call is cancelled, the next one begins where the last finished one ended.
    ///
    /// # Errors
    /// When the files cannot be read; a later call tries again.
    pub async fn read(&mut self, portion: Portion) -> io::Result<Vec<Item>> {
        let through = *self.view.recorded.borrow_and_update();
        let mut reader = self.reader.take().unwrap_or_else(|| Reader::new(&self.view.directory, self.after));
        let reading = work_threads::run(self.lane, move || {
            let mut items = Vec::new();
            let result = reader.read(through, portion, &mut items);
            (reader, items, result)
        });
        let (reader, items, result) = reading.await.map_err(io::Error::other)?;
        if items.is_empty() {
            result?;
        }
        self.after = reader.position();
        self.reader = Some(reader);
        Ok(items)
    }

    /// Waits until more is recorded; `false` when the journal has ended. Cancel safe.
    pub async fn changed(&mut self) -> bool {
        self.view.recorded.changed().await.is_ok()
    }

    /// Number up to which everything was returned.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.after
    }
}

/// A record as clients and the fleet get it. A module's name that none can have is somebody's work on the file.
#[must_use]
pub fn alert_record(record: Record) -> AlertRecord {
    let module = record.module.parse().unwrap_or_else(|_| super::own_name());
    AlertRecord { seq: record.seq, time: record.time, module, id: record.id, message: record.message }
}
