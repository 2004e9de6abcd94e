//! Many changes at once become one alert: which ones, and when it is told.
//!
//! Changes are counted by who made them. Once one writer's changes in a while are more than a limit, those that follow
//! join a group; the group is told when its writer has been quiet, or at the latest after a minute. Nothing is left
//! out: every member is in the history, and what gives somebody rights is told alone as well.
//!
//! The same happens to one change that is made again and again, such as a file that goes back and forth between two
//! contents: it is told alone a few times, and then with a count.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::change::{Alert, Event, PASSING_KEYS, notice};
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

/// Times that the same change is told alone before it is counted.
const ALONE_REPEATS: u32 = 3;

/// Time after which a change that was told before is a new one.
const REMEMBERED_TIME: Duration = Duration::from_secs(600);

/// Changes that are remembered to know them again; of more, those that come later are told alone.
const MAX_REMEMBERED: usize = 4096;

/// Changes that are counted at once; the store keeps all of them with each step.
const MAX_REPEATED: usize = 64;

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
    /// What all members say, when they are one change that was made again and again.
    #[serde(default)]
    pub same: Option<String>,
}

impl Group {
    fn add(&mut self, alert: &Alert) {
        self.count += 1;
        *self.events.entry(alert.event.name().to_owned()).or_default() += 1;
        *self.severities.entry(alert.severity.name().to_owned()).or_default() += 1;
        self.worst = self.worst.max(alert.severity);
        self.as_recorded += u64::from(alert.package["as_recorded"] == json!(true));
        if self.samples.len() < SAMPLES && (self.same.is_none() || self.samples.is_empty()) {
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
        let what = match &self.same {
            None => format!(
                "{} changes below {} by {}: {}{recorded}",
                self.count,
                self.below,
                self.writer,
                events.join(", ")
            ),
            Some(same) => format!("{same} ({} times more, by {})", self.count, self.writer),
        };
        let text = format!("{what}; list them with: vigie query fswatch --group {}", self.id);
        let path = match (&self.same, self.samples.first()) {
            (Some(_), Some(path)) => path.clone(),
            _ => self.below.clone(),
        };
        let mut group = json!({
            "id": self.id,
            "writer": self.writer,
            "events": self.events,
            "severities": self.severities,
            "as_recorded": self.as_recorded,
            "samples": self.samples,
            "from": self.since,
            "to": self.until,
        });
        if self.same.is_some() {
            group["repeated"] = json!(true);
        }
        Alert {
            severity: self.worst,
            event: Event::Group,
            count: Some(self.count),
            process: self.process.clone(),
            group,
            ..notice(path, text, time)
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
    /// By writer, or by [`repeat_key`].
    open: BTreeMap<String, Open>,
    epoch: u64,
    made: u64,
    /// What was told: when last, and how often.
    told: HashMap<u64, Told>,
    /// Makes it impossible to prepare another change that would be taken for the same.
    hasher: RandomState,
}

#[derive(Debug)]
struct Told {
    last: Instant,
    times: u32,
}

/// Where the group of one change stands among those of writers, which begin otherwise: with a path, or a word.
fn repeat_key(id: &str) -> String {
    format!("={id}")
}

impl Storms {
    /// Nothing happened yet. `epoch` makes the names of groups unlike those of every other life.
    #[must_use]
    pub fn new(limit: usize, epoch: u64) -> Self {
        let (counts, open) = (BTreeMap::new(), BTreeMap::new());
        Self { limit, counts, open, epoch, made: 0, told: HashMap::new(), hasher: RandomState::new() }
    }

    /// Changes the limit.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Takes up the groups that an earlier life left open; text that is none of ours has none.
    pub fn restore(&mut self, text: &str, now: Instant) {
        let groups: Vec<Group> = serde_json::from_str(text).unwrap_or_default();
        for group in groups {
            let key = if group.same.is_some() { repeat_key(&group.id) } else { group.writer.clone() };
            self.open.insert(key, Open { group, opened: now, last: now });
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
                for alert in alerts {
                    match self.repeated(&alert, &writer, now) {
                        Some(id) => {
                            if alert.gains_rights {
                                sorted.alone.push(alert.clone());
                            }
                            sorted.members.push((id, alert));
                        }
                        None => sorted.alone.push(alert),
                    }
                }
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

    /// Counts a change that was told a few times already; gives the group that it joined.
    fn repeated(&mut self, alert: &Alert, writer: &str, now: Instant) -> Option<String> {
        // What nobody saw happen is told with the time in which it did.
        if self.limit == 0 || alert.window != Value::Null {
            return None;
        }
        let identity = identity(alert, &self.hasher);
        let is_old = |told: &Told| now.duration_since(told.last) >= REMEMBERED_TIME;
        if self.told.len() >= MAX_REMEMBERED && !self.told.contains_key(&identity) {
            self.told.retain(|_, told| !is_old(told));
            if self.told.len() >= MAX_REMEMBERED {
                return None;
            }
        }
        let told = self.told.entry(identity).or_insert(Told { last: now, times: 0 });
        if is_old(told) {
            told.times = 0;
        }
        told.last = now;
        told.times = told.times.saturating_add(1);
        if told.times <= ALONE_REPEATS {
            return None;
        }
        let key = repeat_key(&format!("{identity:016x}"));
        if !self.open.contains_key(&key) {
            let counted = self.open.values().filter(|open| open.group.same.is_some()).count();
            if counted >= MAX_REPEATED {
                return None;
            }
            self.made += 1;
            let mut group = first(writer, alert, self.epoch, self.made);
            group.same = Some(alert.alert.clone());
            self.open.insert(key.clone(), Open { group, opened: now, last: now });
        }
        let open = self.open.get_mut(&key)?;
        open.last = now;
        open.group.add(alert);
        Some(open.group.id.clone())
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

/// What makes two changes the same: all that is told of them but who made them and when.
fn identity(alert: &Alert, hasher: &RandomState) -> u64 {
    let mut hash = hasher.build_hasher();
    (alert.event.name(), &alert.path, &alert.from, alert.kind).hash(&mut hash);
    for side in [&alert.before, &alert.after] {
        for (key, value) in side.as_object().into_iter().flatten() {
            if !PASSING_KEYS.contains(&key.as_str()) {
                (key, value.to_string()).hash(&mut hash);
            }
        }
        u8::MAX.hash(&mut hash);
    }
    hash.finish()
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
        same: None,
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

    /// A file that goes back and forth between two contents; its times are others each time.
    fn flapping(times: usize) -> Vec<Alert> {
        let change = |number: usize| Alert {
            alert: format!("/etc/a signature changed {} -> {}", number % 2, (number + 1) % 2),
            before: json!({"sha256": number % 2, "modified": number}),
            after: json!({"sha256": (number + 1) % 2, "modified": number + 1}),
            ..changes(["/etc/a".to_owned()]).remove(0)
        };
        (0..times).map(change).collect()
    }

    #[test]
    fn one_change_that_is_made_again_and_again_is_told_a_few_times_and_then_counted() {
        let now = start();
        let mut storms = Storms::new(1_000, 1);

        let sorted = storms.sort(flapping(26), dpkg, now);
        let mut restarted = Storms::new(1_000, 2);
        restarted.restore(&storms.to_text(), now);
        let take = |storms: &mut Storms| {
            let mut groups = storms.take(now + QUIET);
            groups.sort_by(|one, other| one.id.cmp(&other.id));
            groups
        };
        let groups = take(&mut storms);

        assert_eq!((sorted.alone.len(), sorted.members.len()), (6, 20));
        assert_eq!(groups.iter().map(|group| group.count).collect::<Vec<_>>(), [10, 10]);
        assert_eq!(take(&mut restarted), groups);
        let alert = groups.iter().map(|group| group.alert("now")).find(|one| one.alert.contains("1 -> 0"));
        let alert = alert.unwrap();
        assert!(
            alert
                .alert
                .starts_with("/etc/a signature changed 1 -> 0 (10 times more, by /usr/bin/dpkg); list"),
            "{}",
            alert.alert
        );
        assert_eq!((alert.path.as_str(), alert.count), ("/etc/a", Some(10)));
        assert_eq!(alert.group["repeated"], json!(true));
        // Another change of the same path is another one, and the same one is new after a while.
        let other = Alert { after: json!({"sha256": 7}), ..flapping(1).remove(0) };
        assert_eq!(storms.sort(vec![other], dpkg, now).alone.len(), 1);
        assert_eq!(storms.sort(flapping(1), dpkg, now).members.len(), 1);
        assert_eq!(storms.sort(flapping(1), dpkg, now + REMEMBERED_TIME).alone.len(), 1);
    }

    #[test]
    fn a_repeated_change_that_gives_rights_or_that_nobody_saw_is_told_alone_each_time() {
        let now = start();
        let mut storms = Storms::new(1_000, 1);
        let mut alerts = flapping(20);
        alerts.iter_mut().for_each(|alert| alert.gains_rights = true);
        let sorted = storms.sort(alerts, dpkg, now);
        assert_eq!((sorted.alone.len(), sorted.members.len()), (20, 14));
        let mut alerts = flapping(20);
        alerts.iter_mut().for_each(|alert| alert.window = json!({"from": "a", "to": "b"}));

        assert_eq!(storms.sort(alerts, dpkg, now).alone.len(), 20);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_more_is_told_alone() {
        let now = start();
        let mut storms = Storms::new(usize::MAX, 1);
        let many = || changes((0..2 * MAX_REMEMBERED).map(|number| format!("/etc/{number}")));

        for _ in 0..=ALONE_REPEATS {
            storms.sort(many(), dpkg, now);
        }
        let sorted = storms.sort(many(), dpkg, now);

        assert_eq!((storms.told.len(), sorted.members.len()), (MAX_REMEMBERED, MAX_REPEATED));
        assert_eq!(sorted.alone.len() + sorted.members.len(), 2 * MAX_REMEMBERED);
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
                    let mut next = Storms::new(20, number as u64 + 2);
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
