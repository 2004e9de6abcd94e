//! Tells losses: of which kind, of whom, how many, and between which moments.

use std::collections::HashMap;
use std::fmt;

use vigie_kernel_events::{Counters, Kind, Whose};

/// Time between two readings of the counters, in microseconds: a loss is told within five seconds.
const PAUSE: i64 = 1_000_000;

/// How long a loss stays a condition, in microseconds.
const SHOWN: i64 = 600_000_000;

/// Time between two alerts about the same kind of loss, in microseconds: whoever makes the ring overflow for hours must
/// not fill the journal with alerts that say so. Log, history and condition say it each time.
const ALERT_EVERY: i64 = 60_000_000;

/// Events that nobody will ever see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) kind: &'static str,
    /// Of whom, where the counters tell.
    pub(crate) whose: Option<Whose>,
    pub(crate) count: u64,
    /// Microseconds since 1970: not before this moment.
    pub(crate) from: i64,
}

impl Lost {
    /// As the history has it: the kind, and whose it was behind a slash.
    pub(crate) fn name(&self) -> String {
        match self.whose {
            Some(whose) => format!("{}/{}", self.kind, whose.name()),
            None => self.kind.to_owned(),
        }
    }
}

/// "events of kind exec of others".
impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} events of kind {}", self.count, self.kind)?;
        match self.whose {
            Some(whose) => write!(f, " of {}", words(whose)),
            None => Ok(()),
        }
    }
}

fn words(whose: Whose) -> &'static str {
    match whose {
        Whose::Trusted => "the trusted",
        Whose::Others => "others",
    }
}

/// A kind of loss, and of whom.
type KindOf = (&'static str, Option<Whose>);

/// What was counted until the last look.
#[derive(Debug, Clone, Default)]
pub(super) struct Losses {
    seen: Counters,
    looked: i64,
    /// When something was lost last, and how much of the trusted and of all since the condition began.
    last: Option<(i64, [u64; 2])>,
    /// When an alert told of a kind of loss, and what came since.
    alerted: HashMap<KindOf, (i64, Option<Lost>)>,
}

impl Losses {
    /// Another source counts from 0.
    pub(super) fn begin(&mut self) {
        self.seen = Counters::default();
    }

    pub(super) fn is_due(&self, now: i64) -> bool {
        now - self.looked >= PAUSE || now < self.looked
    }

    /// What was lost since the last look: by the source, where there is one, and of the history, whose disk was full.
    pub(super) fn update(
        &mut self,
        counters: Option<&Counters>,
        refused: [(Whose, u64); 2],
        now: i64,
    ) -> Vec<Lost> {
        let from = if self.looked == 0 { now } else { self.looked };
        let counters = counters.unwrap_or(&self.seen);
        let mut all: Vec<(&'static str, Option<Whose>, u64)> = Vec::new();
        for kind in Kind::ALL {
            for whose in Whose::ALL {
                let more = counters.lost_of(kind, whose).saturating_sub(self.seen.lost_of(kind, whose));
                all.push((kind.name(), Some(whose), more));
            }
        }
        let more = |count: fn(&Counters) -> u64| count(counters).saturating_sub(count(&self.seen));
        all.push(("recursion", None, more(|counters| counters.recursion_misses)));
        all.push(("not-understood", None, more(|counters| counters.not_understood)));
        all.push(("any", None, more(|counters| counters.lost_of_any_kind)));
        all.extend(refused.map(|(whose, count)| ("history", Some(whose), count)));
        self.seen = *counters;
        self.looked = now;
        let lost: Vec<Lost> = all
            .into_iter()
            .filter(|(.., count)| *count > 0)
            .map(|(kind, whose, count)| Lost { kind, whose, count, from })
            .collect();
        if !lost.is_empty() {
            let before =
                self.last.filter(|(time, _)| now - time < SHOWN).map_or([0; 2], |(_, counts)| counts);
            let sum = |of: fn(&&Lost) -> bool| lost.iter().filter(of).map(|lost| lost.count).sum::<u64>();
            let trusted = sum(|lost| lost.whose != Some(Whose::Others));
            self.last = Some((now, [before[0] + trusted, before[1] + sum(|_| true)]));
        }
        lost
    }

    /// What alerts tell of it: each kind at once, and while it goes on once a minute.
    pub(super) fn alerts(&mut self, lost: &[Lost], now: i64) -> Vec<Lost> {
        for one in lost {
            let (_, waiting) = self.alerted.entry((one.kind, one.whose)).or_insert((i64::MIN, None));
            match waiting {
                Some(waiting) => waiting.count += one.count,
                None => *waiting = Some(*one),
            }
        }
        let mut alerts = Vec::new();
        for (told, waiting) in self.alerted.values_mut() {
            if (*told == i64::MIN || now - *told >= ALERT_EVERY || now < *told)
                && let Some(one) = waiting.take()
            {
                *told = now;
                alerts.push(one);
            }
        }
        alerts.sort_by_key(|one| (one.kind, one.whose));
        alerts
    }

    /// Text of a condition for what was lost a short time ago.
    pub(super) fn recent(&self, now: i64) -> Option<String> {
        let (_, [trusted, all]) = self.last.filter(|(time, _)| now - time < SHOWN)?;
        let of_others = all - trusted;
        let whose = match (trusted, of_others) {
            (0, _) => "all of others than the trusted".to_owned(),
            (_, 0) => "of the trusted, or not known of whom".to_owned(),
            _ => format!("{trusted} of the trusted or not known of whom, {of_others} of others"),
        };
        Some(format!("{all} events were lost in the last ten minutes ({whose}); the log says when"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn a_loss_that_goes_on_is_an_alert_a_minute_with_the_sum() {
        let mut losses = Losses::default();
        let one =
            |second: i64| Lost { kind: "exec", whose: Some(Whose::Others), count: 3, from: second * SECOND };

        let mut alerts = Vec::new();
        for second in 0..121 {
            alerts.extend(losses.alerts(&[one(second)], (second + 1) * SECOND));
        }

        let counts: Vec<(u64, i64)> = alerts.iter().map(|lost| (lost.count, lost.from / SECOND)).collect();
        assert_eq!(counts, [(3, 0), (180, 1), (180, 61)]);
        let other = Lost { whose: Some(Whose::Trusted), ..one(121) };
        assert_eq!(losses.alerts(&[other], 122 * SECOND), [other]);
    }

    #[test]
    fn a_condition_says_whose_it_was() {
        let mut losses = Losses::default();
        let refused = |trusted, others| [(Whose::Trusted, trusted), (Whose::Others, others)];

        let lost = losses.update(None, refused(0, 5), SECOND);
        assert_eq!(lost[0].to_string(), "5 events of kind history of others");
        assert_eq!(lost[0].name(), "history/others");
        assert!(losses.recent(SECOND).unwrap().contains("all of others"));
        losses.update(None, refused(2, 0), 2 * SECOND);
        assert!(
            losses.recent(2 * SECOND).unwrap().contains("2 of the trusted or not known of whom, 5 of others")
        );
        assert_eq!(losses.recent(2 * SECOND + SHOWN), None);
    }
}
