//! How far a sink is, kept over restarts and power losses.

use serde::{Deserialize, Serialize};

/// Alerts beyond the present one that one note of [`Place::tried`] covers, so that not each batch has to wait for the
/// disk.
const AHEAD: u64 = 5_000;

/// How far a sink is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The journal; numbers of another one mean nothing.
    pub journal: String,
    /// The other side has every alert up to this number.
    pub after: u64,
    /// It may have some up to this number: what is sent again is marked up to here.
    #[serde(default)]
    pub tried: u64,
}

impl Place {
    /// A sink that begins after a number.
    #[must_use]
    pub fn new(journal: &str, after: u64) -> Self {
        Self { journal: journal.to_owned(), after, tried: after }
    }

    /// Reads what is on disk. `resume` says after which number somebody goes on in `journal` who was at this number of
    /// that journal.
    ///
    /// # Errors
    /// Why it does not count, for people: it is damaged, or of another journal.
    pub fn parse(
        text: &[u8],
        journal: &str,
        resume: impl Fn(&str, u64) -> Option<u64>,
    ) -> Result<Self, &'static str> {
        let place: Self = serde_json::from_slice(text).map_err(|_| "is damaged")?;
        let after = resume(&place.journal, place.after).ok_or("belongs to another journal")?;
        Ok(Self { journal: journal.to_owned(), after, ..place })
    }

    /// What is written to disk.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a place is plain data")
    }

    /// Alerts up to `through` are about to be sent. Returns whether that has to be on disk before.
    #[must_use]
    pub fn about_to_try(&mut self, through: u64) -> bool {
        let is_new = through > self.tried;
        if is_new {
            self.tried = through.saturating_add(AHEAD);
        }
        is_new
    }

    /// The other side has everything up to `seq`.
    pub fn reach(&mut self, seq: u64) {
        self.after = self.after.max(seq);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever was sent and not acknowledged is known as such after a crash at any moment.
        #[test]
        fn what_may_have_been_sent_is_on_disk_before_it_is_sent(steps in prop::collection::vec((1_u64..9000, any::<bool>()), 1..30)) {
            let resume = |journal: &str, after| (journal == "j").then_some(after);
            let mut place = Place::new("j", 0);
            let mut disk = Place::parse(&place.to_json(), "j", resume).unwrap();
            let mut sent = 0;
            for (count, acknowledged) in steps {
                sent += count;
                if place.about_to_try(sent) {
                    disk = Place::parse(&place.to_json(), "j", resume).unwrap();
                }
                prop_assert!(disk.tried >= sent && disk.after <= place.after);
                if acknowledged {
                    place.reach(sent);
                }
            }
            prop_assert!(Place::parse(&place.to_json(), "another", |_, _| None).is_err());
            prop_assert!(Place::parse(&place.to_json()[1..], "j", resume).is_err());
            // Under another name what comes again is marked all the same.
            let renamed = Place::parse(&place.to_json(), "k", |_, after| Some(after.min(1))).unwrap();
            prop_assert!(renamed.journal == "k" && renamed.after <= 1 && renamed.tried == place.tried);
        }
    }
}
