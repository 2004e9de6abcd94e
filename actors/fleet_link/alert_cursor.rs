//! How far the fleet has this host's alerts. Pure but for loading and storing.
//!
//! Every acknowledgement is remembered with its time for as long as the alert may have to be sent again
//! ([`RESEND`]): JetStream acknowledges before it syncs, and a broker whose host lost power has lost what it
//! acknowledged in its last minutes.

#![expect(clippy::disallowed_methods, reason = "called on Lane::Fleet")]

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use vigie_files::durable::{self, Durability};

pub(super) use super::answer_spool::RESEND;

/// Seconds between two moments that are remembered.
const GRAIN_SECONDS: i64 = 10;

/// How far the alerts of one journal are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AlertCursor {
    /// The journal; numbers of another one mean nothing.
    journal: String,
    /// Number of the newest alert of which all up to it are acknowledged.
    acknowledged: u64,
    /// Number of the newest one that was acknowledged so long ago that the broker has surely synced it.
    settled: u64,
    /// Link of that one, which the next alert names; nothing when it is not known.
    #[serde(default)]
    settled_link: Option<String>,
    /// When how far was acknowledged since: seconds since 1970, number and link, oldest first.
    recent: VecDeque<(i64, u64, String)>,
}

impl AlertCursor {
    /// The cursor of a journal of which nothing was sent.
    #[must_use]
    pub(super) fn new(journal: String) -> Self {
        Self { journal, acknowledged: 0, settled: 0, settled_link: None, recent: VecDeque::new() }
    }

    /// The stored cursor if it is of this journal.
    #[must_use]
    pub(super) fn load(path: &Path, journal: String) -> Self {
        fs::read(path)
            .ok()
            .and_then(|text| serde_json::from_slice::<Self>(&text).ok())
            .filter(|cursor| cursor.journal == journal)
            .unwrap_or_else(|| Self::new(journal))
    }

    /// Returns when it is on disk.
    ///
    /// # Errors
    /// When it cannot be written to disk.
    pub(super) fn store(&self, path: &Path) -> io::Result<()> {
        durable::replace(path, &serde_json::to_vec(self)?, Durability::Power)
    }

    /// The journal that it belongs to.
    #[must_use]
    pub(super) fn journal(&self) -> &str {
        &self.journal
    }

    /// How far the journal in `directory` is sent, as it was stored in `path`. Blocking.
    ///
    /// # Errors
    /// When the journal has no name and cannot be given one.
    pub(super) fn of_journal(path: &Path, directory: &Path) -> io::Result<Self> {
        Ok(Self::load(path, vigie_journal::identity(directory)?))
    }

    /// Number of the newest alert that the fleet has.
    #[must_use]
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Number up to which it was known, when it was stored, that the fleet has the alerts for good.
    #[must_use]
    pub(super) fn settled(&self) -> u64 {
        self.settled
    }

    /// Link of the alert with the number [`AlertCursor::settled`], when it is known.
    #[must_use]
    pub(super) fn settled_link(&self) -> Option<String> {
        self.settled_link.clone()
    }

    /// Number and link of the newest alert that the fleet has.
    #[must_use]
    pub(super) fn head(&self) -> Option<(u64, String)> {
        let newest = self.recent.back().map(|(_, seq, link)| (*seq, link.clone()));
        newest.or_else(|| Some((self.settled, self.settled_link.clone()?)))
    }

    /// Takes note that all up to `seq`, whose link this is, are acknowledged, at `now` in seconds since 1970.
    pub(super) fn acknowledge(&mut self, seq: u64, link: String, now: i64) {
        if seq <= self.acknowledged {
            return;
        }
        self.acknowledged = seq;
        match self.recent.back_mut() {
            Some((time, newest, newest_link)) if now - *time < GRAIN_SECONDS && now >= *time => {
                (*newest, *newest_link) = (seq, link);
            }
            _ => self.recent.push_back((now, seq, link)),
        }
        self.settle(now);
    }

    /// Number up to which the fleet has the alerts for good at `now`: what comes after is sent again after a
    /// reconnect, and the journal keeps it.
    pub(super) fn settle(&mut self, now: i64) -> u64 {
        let resend = i64::try_from(RESEND.as_secs()).unwrap_or(i64::MAX);
        // A clock that was set back makes the future look recent; what is from then stays, and is sent again.
        while self.recent.front().is_some_and(|(time, ..)| is_older(*time, now, resend))
            && let Some((_, seq, link)) = self.recent.pop_front()
        {
            (self.settled, self.settled_link) = (seq, Some(link));
        }
        self.settled
    }
}

/// The last acknowledgement of a grain is up to [`GRAIN_SECONDS`] younger than its first, whose time is kept.
fn is_older(time: i64, now: i64, seconds: i64) -> bool {
    now.saturating_sub(time) > seconds + GRAIN_SECONDS
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn cursor() -> AlertCursor {
        AlertCursor::new("j".to_owned())
    }

    #[test]
    fn what_was_acknowledged_lately_is_sent_again_and_what_is_older_is_not() {
        let mut cursor = cursor();
        cursor.acknowledge(10, "ten".to_owned(), 1000);
        cursor.acknowledge(20, "twenty".to_owned(), 1200);
        assert_eq!(cursor.head(), Some((20, "twenty".to_owned())));

        assert_eq!(cursor.settle(1290), 0);
        assert_eq!((cursor.settle(1320), cursor.settled_link()), (10, Some("ten".to_owned())));
        assert_eq!(cursor.settle(1600), 20);
        assert_eq!(cursor.acknowledged(), 20);
    }

    #[test]
    fn a_cursor_is_stored_for_its_journal_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alerts.cursor");
        let mut stored = cursor();
        stored.acknowledge(7, "seven".to_owned(), 100);
        stored.store(&path).unwrap();

        assert_eq!(AlertCursor::load(&path, "j".to_owned()), stored);
        assert_eq!(AlertCursor::load(&path, "other".to_owned()).acknowledged(), 0);
        fs::write(&path, "{").unwrap();
        assert_eq!(AlertCursor::load(&path, "j".to_owned()), cursor());
    }

    proptest! {
        /// Whatever the clock does: nothing acknowledged within the last five minutes of it counts as settled, the
        /// cursor never goes back, and it stays small.
        #[test]
        fn nothing_recent_is_settled(steps in prop::collection::vec((0i64..100, 1u64..50), 1..200)) {
            let mut cursor = cursor();
            let mut history: Vec<(i64, u64)> = Vec::new();
            let (mut now, mut seq) = (1_000_000, 0);
            for (seconds, alerts) in steps {
                now += seconds;
                seq += alerts;
                let settled_before = cursor.settled;
                cursor.acknowledge(seq, seq.to_string(), now);
                history.push((now, seq));
                let settled = cursor.settle(now);
                let long_ago = history.iter().rev().find(|(time, _)| now - time > 300).map_or(0, |(_, seq)| *seq);
                prop_assert!(settled <= long_ago);
                prop_assert!(settled >= settled_before);
                prop_assert_eq!(cursor.acknowledged(), seq);
                prop_assert!(cursor.recent.len() <= 40);
            }
        }
    }
}
