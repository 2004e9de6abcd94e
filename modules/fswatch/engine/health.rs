//! What is wrong with the watching at present: one list, for the status, the agent and the alerts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use vigie_sdk::{Condition, ConditionSeverity};

use super::{Engine, Reasons, Sink, now, text_of_time};
use crate::change::shown;
use crate::events::Window;
use crate::rules::Severity;
use crate::storm::shortened;
use crate::trust::Lane;

/// Time between two measurements.
const PAUSE: Duration = Duration::from_millis(500);

/// Longest path in a condition, which stands on one line of a terminal or a message.
const SHOWN_PATH_BYTES: usize = 512;

/// What is wrong, by name, and since when.
#[derive(Debug, Default)]
pub(super) struct Health {
    conditions: BTreeMap<&'static str, Condition>,
    measured: Option<Instant>,
    /// How late the oldest look of what root alone can change was then, and that of users.
    late: [Duration; 2],
}

impl Health {
    /// How late the oldest look is of what root alone can change, and that of users: measured now and then, because all
    /// that waits is gone through for it.
    pub(super) fn late(&self) -> [Duration; 2] {
        self.late
    }

    /// All of it.
    pub(super) fn conditions(&self) -> Vec<Condition> {
        self.conditions.values().cloned().collect()
    }

    /// Sets a condition to what is true now; whether it began or ended with that.
    fn set(
        &mut self,
        name: &'static str,
        severity: ConditionSeverity,
        detail: Option<String>,
    ) -> Option<bool> {
        let known = self.conditions.remove(name);
        let had = known.is_some();
        if let Some(detail) = detail {
            let since = known.map_or_else(|| text_of_time(SystemTime::now()), |known| known.since);
            self.conditions.insert(name, Condition { name: name.to_owned(), severity, since, detail });
        }
        let has = self.conditions.contains_key(name);
        (has != had).then_some(has)
    }
}

impl<S: Sink> Engine<S> {
    /// Finds out what is wrong now and tells it.
    pub(super) fn tend_health(&mut self) {
        let now = now();
        if self.health.measured.is_some_and(|last| now.duration_since(last) < PAUSE) {
            return;
        }
        self.health.measured = Some(now);
        self.give_up_listings();
        let before = self.health.conditions();
        let behind =
            self.oldest_look(now).filter(|(late, _)| *late > self.coverage.rules().settings().behind);
        let detail = behind.map(|(late, cause)| {
            format!("the oldest pending check has waited {} s: {cause}", late.as_secs())
        });
        let turned = self.health.set("looks-behind", ConditionSeverity::Failed, detail.clone());
        match (turned, detail) {
            (Some(true), Some(detail)) => {
                let text =
                    format!("fswatch has been behind since {}: {detail}", text_of_time(SystemTime::now()));
                self.tell_notice(std::path::Path::new("/"), text, Severity::High, None);
            }
            (Some(false), _) => self.sink.log("fswatch has caught up"),
            _ => {}
        }
        let many = |all: &Reasons, what: &str| (!all.is_empty()).then(|| format!("{} {what}", all.counted()));
        // What a user mounted is worth more than the first of all.
        let unwatched = &self.status.unwatched;
        let named =
            unwatched.iter().find(|(path, _)| self.watching.avoided().has(path)).or(unwatched.iter().next());
        let unwatched = named.map(|(path, why)| {
            let path = shortened(&shown(path), SHOWN_PATH_BYTES);
            format!("{} paths are not watched, for example {path}: {why}", unwatched.counted())
        });
        self.health.set("directories-unwatched", ConditionSeverity::Warning, unwatched);
        let unreadable = many(&self.status.unreadable, "files cannot be read; their content is unknown");
        self.health.set("files-unreadable", ConditionSeverity::Warning, unreadable);
        self.health.set("state-unwritable", ConditionSeverity::Failed, self.status.trouble.clone());
        let lost = self.lost_again || self.scans.values().any(super::Scan::is_for_what_was_lost);
        let lost = lost.then(|| "notifications were lost; everything is being compared".to_owned());
        self.health.set("notifications-lost", ConditionSeverity::Warning, lost);
        let (severity, blind) = match self.blindness() {
            Some((severity, detail)) => (severity, Some(detail)),
            None => (ConditionSeverity::Failed, None),
        };
        self.health.set("blind", severity, blind);
        let conditions = self.health.conditions();
        if conditions != before {
            self.sink.health(&conditions);
        }
        self.status.conditions = conditions;
    }

    /// The engine goes on after it was noticed that it did not.
    pub(super) fn note_stuck(&mut self, since: SystemTime) {
        let to = SystemTime::now();
        let text = format!(
            "fswatch did not go on from {} to {}: what changed meanwhile is reported only now",
            text_of_time(since),
            text_of_time(to)
        );
        let window = Some(Window { from: since, to });
        self.tell_notice(std::path::Path::new("/"), text, Severity::High, window);
        // Somebody else reported instead.
        self.sink.health(&self.health.conditions());
    }

    /// Time until it is to be measured again: while something waits, and while something is wrong.
    pub(super) fn next_health(&self) -> Option<Duration> {
        let is_idle = self.due.is_empty()
            && self.rounds.is_empty()
            && self.scans.is_empty()
            && self.contents.being_read().next().is_none()
            && self.health.conditions.is_empty();
        (!is_idle).then_some(Duration::from_secs(1))
    }

    /// How late the look is that waits longest, and why: it waits in its lane, or a worker does not come back.
    fn oldest_look(&mut self, now: Instant) -> Option<(Duration, String)> {
        let name = |lane| match lane {
            Lane::Trusted => "of paths that only root can change".to_owned(),
            Lane::Of(user) => format!("of user {user}"),
        };
        let overdue = self.due.overdue(now);
        self.health.late = [true, false].map(|trusted| {
            let lanes = overdue.iter().filter(|(lane, ..)| (*lane == Lane::Trusted) == trusted);
            lanes.map(|(_, late, _)| *late).max().unwrap_or_default()
        });
        let waiting = overdue.into_iter().map(|(lane, late, path)| {
            let path = shortened(&shown(&path), SHOWN_PATH_BYTES);
            (late, format!("{path} waits in the lane {}", name(lane)))
        });
        let looking = self.rounds.values().map(|round| {
            let late = now.duration_since(round.begun);
            (late, format!("a disk does not respond to a check in the lane {}", name(round.lane)))
        });
        // A listing that does not return ends no scan, and the next scan comes after that.
        let doing = self.workers.doing().map(|doing| {
            let path = shortened(&shown(&doing.path), SHOWN_PATH_BYTES);
            let late = now.saturating_duration_since(doing.since);
            (late, format!("a disk does not respond at {path} in the lane {}", name(doing.lane)))
        });
        waiting.chain(looking).chain(doing).max_by_key(|(late, _)| *late)
    }
}
