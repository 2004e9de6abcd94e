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
use vigie_fleet::answer::Continued;
use vigie_journal::Names;

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
    /// What the journal was called before, and up to which alert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    continues: Option<Continued>,
    /// The journal is to get another name, because what comes after this number may bear the present one twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due: Option<u64>,
    /// How many restorations of older files were taken note of, see [`super::identity::Memory::restorations`].
    #[serde(default)]
    restorations: u64,
}

impl AlertCursor {
    /// The cursor of a journal of which nothing was sent.
    #[must_use]
    pub(super) fn new(journal: String) -> Self {
        Self {
            journal,
            acknowledged: 0,
            settled: 0,
            settled_link: None,
            recent: VecDeque::new(),
            continues: None,
            due: None,
            restorations: 0,
        }
    }

    /// The stored cursor if it is of this journal.
    #[must_use]
    pub(super) fn load(path: &Path, names: &Names) -> Self {
        let stored = fs::read(path).ok().and_then(|text| serde_json::from_slice::<Self>(&text).ok());
        stored
            .and_then(|cursor| {
                let settled = names.resume(&cursor.journal, cursor.sent_for_good())?;
                Some(if cursor.journal == names.current() {
                    cursor
                } else {
                    cursor.renamed(names.current().to_owned(), settled)
                })
            })
            .unwrap_or_else(|| Self::new(names.current().to_owned()))
    }

    /// The cursor of the same journal under another name: all after `settled` goes to the fleet under that.
    #[must_use]
    pub(super) fn renamed(self, journal: String, settled: u64) -> Self {
        let continues = Some(Continued { journal: self.journal, seq: settled });
        let restorations = self.restorations;
        Self { acknowledged: settled, settled, continues, restorations, ..Self::new(journal) }
    }

    /// Takes note that the journal's name may not be its own alone, and how many restorations that counts. What was
    /// already in doubt stays so while the other name is due.
    pub(super) fn doubt(&mut self, restorations: u64) {
        self.due.get_or_insert(self.settled);
        self.restorations = restorations;
    }

    /// After which number the journal is to get another name.
    #[must_use]
    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }

    /// How many restorations of older files were taken note of.
    #[must_use]
    pub(super) fn restorations(&self) -> u64 {
        self.restorations
    }

    /// Number up to which nothing is sent again: neither after a reconnect nor under another name.
    #[must_use]
    pub(super) fn sent_for_good(&self) -> u64 {
        self.due.map_or(self.settled, |due| due.min(self.settled))
    }

    /// What the alert says that is sent after the one with the number `before`.
    #[must_use]
    pub(super) fn continued_after(&self, before: u64) -> Option<Continued> {
        self.continues.clone().filter(|continues| continues.seq == before)
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
        Ok(Self::load(path, &Names::of(directory)?))
    }

    /// Number of the newest alert that the fleet has.
    #[must_use]
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Link of the newest alert that the fleet has for good, when it is known.
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
        let (path, journal) = (directory.path().join("alerts.cursor"), directory.path().join("journal"));
        let load = || AlertCursor::of_journal(&path, &journal).unwrap();
        vigie_journal::settle(&journal, "here").unwrap();
        let mut stored = load();
        stored.acknowledge(7, "seven".to_owned(), 100);
        stored.acknowledge(9, "nine".to_owned(), 1000);
        stored.store(&path).unwrap();
        assert_eq!((load(), stored.settled), (stored.clone(), 7));

        // On another machine what may not have arrived goes under the new name.
        let renamed = vigie_journal::settle(&journal, "there").unwrap().unwrap();
        let copy = load();
        assert_eq!((copy.journal(), copy.acknowledged(), copy.settled), (&renamed.now[..], 7, 7));
        let continued = Continued { journal: renamed.before, seq: 7 };
        assert_eq!((copy.continued_after(7), copy.continued_after(8)), (Some(continued), None));
        assert_eq!(copy.head(), None);
        copy.store(&path).unwrap();
        assert_eq!(load(), copy);
        // Another name is due, and the next agent knows it; what was in doubt stays so also when it comes another way.
        let mut doubtful = copy;
        doubtful.doubt(3);
        doubtful.acknowledge(9, "nine".to_owned(), 1000);
        doubtful.acknowledge(11, "eleven".to_owned(), 2000);
        doubtful.doubt(4);
        doubtful.store(&path).unwrap();
        let known = load();
        assert_eq!(
            (known.due(), known.settled, known.sent_for_good(), known.restorations()),
            (Some(7), 9, 7, 4)
        );
        vigie_journal::settle(&journal, "elsewhere").unwrap().unwrap();
        let next = load();
        assert_eq!((next.due(), next.settled, next.restorations()), (None, 7, 4));
        fs::remove_dir_all(&journal).unwrap();
        fs::create_dir(&journal).unwrap();
        assert_eq!(load().acknowledged(), 0, "another journal");
        fs::write(&path, "{").unwrap();
        assert_eq!(load().acknowledged(), 0);
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
