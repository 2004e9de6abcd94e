//! Many changes at once become one alert: which ones, and when it is told.
//!
//! Changes are counted by who made them. Once one writer's changes in a while are more than a limit, those that follow
//! join a group; the group is told when its writer has been quiet, or at the latest after a minute. Nothing is left
//! out: every member is in the history, and what gives somebody rights is told alone as well.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::change::{Alert, Event, notice};
use crate::rules::Severity;

/// Time in which changes of one writer count together.
const COUNTED_TIME: Duration = Duration::from_secs(10);

/// Quiet time after which a group is told.
const QUIET: Duration = Duration::from_secs(2);

/// Longest time that a group is kept back.
const LONGEST: Duration = Duration::from_secs(60);

/// Paths that a group's alert names.
const SAMPLES: usize = 10;

/// Writers that are counted; more share one count.
const MAX_WRITERS: usize = 1000;

/// What one writer did, as it will be told. This is what the store keeps of a group that is still open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The group's name, for queries.
    pub id: String,
    /// The writer.
    pub writer: String,
    /// The first member's process.
    pub process: Value,
    /// Number of members.
    pub count: u64,
    /// Number of members by event.
    pub events: BTreeMap<String, u64>,
    /// Number of members by severity.
    pub severities: BTreeMap<String, u64>,
    /// The worst severity.
    pub worst: Severity,
    /// A directory that all members are in.
    pub below: String,
    /// Some members' paths.
    pub samples: Vec<String>,
    /// Members whose content is what their package recorded.
    pub as_recorded: u64,
    /// When the first was seen, RFC 3339.
    pub since: String,
    /// When the last was seen.
    pub until: String,
}

impl Group {
    fn add(&mut self, alert: &Alert) {
        self.count += 1;
        *self.events.entry(alert.event.name().to_owned()).or_default() += 1;
        *self.severities.entry(alert.severity.name().to_owned()).or_default() += 1;
        self.worst = self.worst.max(alert.severity);
        self.as_recorded += u64::from(alert.package["as_recorded"] == json!(true));
        if self.samples.len() < SAMPLES {
            self.samples.push(alert.path.clone());
        }
        self.until.clone_from(&alert.time);
        while !Path::new(&alert.path).starts_with(&self.below) {
            let parent = Path::new(&self.below).parent().unwrap_or(Path::new("/"));
            self.below = parent.to_string_lossy().into_owned();
        }
    }

    /// The alert that tells it.
    #[must_use]
    pub fn alert(&self, time: &str) -> Alert {
        let events: Vec<_> = self.events.iter().map(|(event, count)| format!("{count} {event}")).collect();
        let recorded = match self.as_recorded {
            0 => String::new(),
            count => format!(", {count} as their packages recorded them"),
        };
        let text = format!(
            "{} changes below {} by {}: {}{recorded}; list them with: vigie query fswatch --group {}",
            self.count,
            self.below,
            self.writer,
            events.join(", "),
            self.id
        );
        Alert {
            severity: self.worst,
            event: Event::Group,
            count: Some(self.count),
            process: self.process.clone(),
            group: json!({
                "id": self.id,
                "writer": self.writer,
                "events": self.events,
                "severities": self.severities,
                "as_recorded": self.as_recorded,
                "samples": self.samples,
                "from": self.since,
                "to": self.until,
            }),
            ..notice(self.below.clone(), text, time)
        }
    }
}

#[derive(Debug)]
struct Open {
    group: Group,
    opened: Instant,
    last: Instant,
}

/// What becomes of some alerts.
#[derive(Debug, Default)]
pub struct Sorted {
    /// Those that are told alone.
    pub alone: Vec<Alert>,
    /// Those that joined a group, with its id.
    pub members: Vec<(String, Alert)>,
}

/// The counts and the open groups.
#[derive(Debug)]
pub struct Storms {
    /// Changes of one writer before the next ones join a group; 0 for never.
    limit: usize,
    counts: BTreeMap<String, (Instant, usize)>,
    open: BTreeMap<String, Open>,
    epoch: u64,
    made: u64,
}

impl Storms {
    /// Nothing happened yet. `epoch` makes the names of groups unlike those of every other life.
    #[must_use]
    pub fn new(limit: usize, epoch: u64) -> Self {
        Self { limit, counts: BTreeMap::new(), open: BTreeMap::new(), epoch, made: 0 }
    }

    /// Changes the limit.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Takes up the groups that an earlier life left open; text that is none of ours has none.
    pub fn restore(&mut self, text: &str, now: Instant) {
        let groups: Vec<Group> = serde_json::from_str(text).unwrap_or_default();
        for group in groups {
            self.open.insert(group.writer.clone(), Open { group, opened: now, last: now });
        }
    }

    /// The open groups, for the store.
    #[must_use]
    pub fn to_text(&self) -> String {
        let groups: Vec<&Group> = self.open.values().map(|open| &open.group).collect();
        serde_json::to_string(&groups).unwrap_or_default()
    }

    /// Decides which alerts are told alone; `writer` names who made each.
    pub fn sort(&mut self, alerts: Vec<Alert>, writer: impl Fn(&Alert) -> String, now: Instant) -> Sorted {
        let mut by_writer: BTreeMap<String, Vec<Alert>> = BTreeMap::new();
        for alert in alerts {
            by_writer.entry(writer(&alert)).or_default().push(alert);
        }
        self.counts.retain(|_, (since, _)| now.duration_since(*since) < COUNTED_TIME);
        let mut sorted = Sorted::default();
        for (mut writer, alerts) in by_writer {
            if !self.counts.contains_key(&writer) && self.counts.len() >= MAX_WRITERS {
                writer = "many processes".to_owned();
            }
            let (_, count) = self.counts.entry(writer.clone()).or_insert((now, 0));
            *count += alerts.len();
            let many = self.limit > 0 && *count > self.limit;
            if !many && !self.open.contains_key(&writer) {
                sorted.alone.extend(alerts);
                continue;
            }
            for alert in alerts {
                let open = self.open.entry(writer.clone()).or_insert_with(|| {
                    self.made += 1;
                    Open { group: first(&writer, &alert, self.epoch, self.made), opened: now, last: now }
                });
                open.last = now;
                open.group.add(&alert);
                if alert.gains_rights {
                    sorted.alone.push(alert.clone());
                }
                sorted.members.push((open.group.id.clone(), alert));
            }
        }
        sorted
    }

    /// Takes the groups that are to be told now.
    pub fn take(&mut self, now: Instant) -> Vec<Group> {
        let due: Vec<String> = self
            .open
            .iter()
            .filter(|(_, open)| deadline(open) <= now)
            .map(|(writer, _)| writer.clone())
            .collect();
        due.iter().filter_map(|writer| self.open.remove(writer)).map(|open| open.group).collect()
    }

    /// Time until there is something to take.
    #[must_use]
    pub fn next(&self, now: Instant) -> Option<Duration> {
        self.open.values().map(|open| deadline(open).saturating_duration_since(now)).min()
    }
}

fn deadline(open: &Open) -> Instant {
    (open.last + QUIET).min(open.opened + LONGEST)
}

fn first(writer: &str, alert: &Alert, epoch: u64, number: u64) -> Group {
    let below: PathBuf = Path::new(&alert.path).parent().unwrap_or(Path::new("/")).to_owned();
    Group {
        id: format!("{epoch:016x}-g{number}"),
        writer: writer.to_owned(),
        process: alert.process.clone(),
        count: 0,
        events: BTreeMap::new(),
        severities: BTreeMap::new(),
        worst: Severity::Low,
        below: below.to_string_lossy().into_owned(),
        samples: Vec::new(),
        as_recorded: 0,
        since: alert.time.clone(),
        until: alert.time.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[expect(clippy::disallowed_methods, reason = "only its differences matter, they are made here")]
    fn start() -> Instant {
        Instant::now()
    }

    fn changes(paths: impl IntoIterator<Item = String>) -> Vec<Alert> {
        let change = |path: String| Alert { event: Event::Changed, ..notice(path, String::new(), "now") };
        paths.into_iter().map(change).collect()
    }

    fn numbered(count: usize) -> Vec<Alert> {
        changes((0..count).map(|number| format!("/usr/{}/{number}", number % 3)))
    }

    fn dpkg(_: &Alert) -> String {
        "/usr/bin/dpkg".to_owned()
    }

    #[test]
    fn few_changes_are_told_alone_and_many_as_one() {
        let now = start();
        let mut storms = Storms::new(50, 1);

        assert_eq!(storms.sort(numbered(50), dpkg, now).alone.len(), 50);
        let sorted = storms.sort(numbered(200), dpkg, now);
        assert_eq!((sorted.alone.len(), sorted.members.len()), (0, 200));
        assert!(storms.take(now).is_empty());
        let groups = storms.take(now + QUIET);

        assert_eq!((groups.len(), groups[0].count, groups[0].below.as_str()), (1, 200, "/usr"));
        let alert = groups[0].alert("now");
        assert!(
            alert.alert.starts_with("200 changes below /usr by /usr/bin/dpkg: 200 changed"),
            "{}",
            alert.alert
        );
        assert_eq!(alert.group["id"], sorted.members[0].0);
    }

    #[test]
    fn another_writer_is_told_alone_in_the_middle_of_a_storm() {
        let now = start();
        let mut storms = Storms::new(50, 1);
        storms.sort(numbered(100), dpkg, now);

        let sorted = storms.sort(numbered(1), |_| "/tmp/dropper".to_owned(), now);

        assert_eq!((sorted.alone.len(), sorted.members.len()), (1, 0));
    }

    #[test]
    fn what_gives_rights_is_told_alone_as_well() {
        let now = start();
        let mut storms = Storms::new(1, 1);
        let mut alerts = numbered(10);
        alerts[3].gains_rights = true;

        let sorted = storms.sort(alerts, dpkg, now);

        assert_eq!((sorted.alone.len(), sorted.members.len()), (1, 10));
    }

    #[test]
    fn a_storm_without_end_is_told_every_minute() {
        let mut now = start();
        let mut storms = Storms::new(1, 1);
        let mut told = 0;
        for _ in 0..1200 {
            storms.sort(numbered(10), dpkg, now);
            now += Duration::from_millis(100);
            told += storms.take(now).len();
        }

        assert!((1..=2).contains(&told), "{told}");
    }

    #[test]
    fn with_a_limit_of_nothing_all_are_told_alone() {
        let now = start();
        assert_eq!(Storms::new(0, 1).sort(numbered(1000), dpkg, now).alone.len(), 1000);
    }

    proptest! {
        /// Whatever comes when, every alert is told alone or counted in a group that is told, also over a restart.
        #[test]
        fn no_alert_is_left_out(
            steps in proptest::collection::vec((0..80_usize, 0..4_u8, 0..15_000_u64, any::<bool>()), 1..40),
        ) {
            let mut now = start();
            let mut storms = Storms::new(20, 1);
            let (mut given, mut alone, mut grouped) = (0, 0, 0);
            for (number, (count, writer, pause, restart)) in steps.into_iter().enumerate() {
                given += count as u64;
                let sorted = storms.sort(numbered(count), |_| writer.to_string(), now);
                alone += sorted.alone.len() as u64;
                now += Duration::from_millis(pause);
                grouped += storms.take(now).iter().map(|group| group.count).sum::<u64>();
                if restart {
                    let mut next = Storms::new(20, number as u64);
                    next.restore(&storms.to_text(), now);
                    storms = next;
                }
            }
            grouped += storms.take(now + LONGEST).iter().map(|group| group.count).sum::<u64>();
            prop_assert_eq!(alone + grouped, given);
            prop_assert_eq!(storms.next(now), None);
        }
    }
}
