//! Many changes at once become one alert: which ones, and when it is told.
//!
//! Changes are counted for each user who can cause them, whatever programs he uses. Once they are more than a limit in
//! a while, those that follow join groups, and only what belongs together joins one: changes of one kind by one
//! program, user and login, of paths that the same user can change. A group is told when nothing has joined it for a
//! moment, or at the latest after a minute. Nothing is left out: every member is in the history.
//!
//! A critical change of a path that root alone can change is never a member, and one that gives rights there neither.
//! Critical changes of other paths are told alone up to the limit, and then grouped among themselves.
//!
//! One change that is made again and again, such as a file that goes back and forth between two contents, is told alone
//! a few times, and then by its name with a count.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::change::{Alert, Event, PASSING_KEYS, notice};
use crate::rules::Severity;
use crate::trust::{Lane, NOBODY};

/// Time in which changes of one writer count together.
const COUNTED_TIME: Duration = Duration::from_secs(10);

/// Quiet time after which a group is told.
const QUIET: Duration = Duration::from_secs(2);

/// Longest time that a group is kept back.
const LONGEST: Duration = Duration::from_secs(60);

/// Paths that a group's alert names.
const SAMPLES: usize = 10;

/// Users that are counted; more share one count.
const MAX_USERS: usize = 1000;

/// Groups of one user that are open at once; what would open more joins one for all its programs.
const MAX_GROUPS: usize = 16;

/// Longest path or program that a group keeps, in bytes.
const MAX_SHOWN_BYTES: usize = 512;

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
    /// Name of the group, for queries.
    pub id: String,
    /// What its members have in common.
    #[serde(default)]
    key: String,
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
            self.samples.push(shortened(&alert.path, MAX_SHOWN_BYTES));
        }
        self.until.clone_from(&alert.time);
        let path = shortened(&alert.path, MAX_SHOWN_BYTES);
        while !Path::new(&path).starts_with(&self.below) {
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
            count => format!(", {count} match what their packages recorded"),
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
        let what = shortened(&what, 4 * MAX_SHOWN_BYTES);
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

/// Who made a change, as far as changes of one are told together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Writer {
    /// The program, or why it is not known.
    pub program: String,
    /// The user as whom it ran.
    pub user: Option<u64>,
    /// The user that logged in.
    pub login: Option<u64>,
}

/// Whose changes count together.
type Counted = (Lane, Option<u64>, bool);

/// The counts and the open groups.
#[derive(Debug)]
pub(crate) struct Storms {
    /// Changes of one user before the next ones join groups; 0 for never.
    limit: usize,
    counts: BTreeMap<Counted, (Instant, usize)>,
    /// By what the members have in common, or by [`repeat_key`].
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

/// Where the group of one change stands among the others, which begin with a lane.
fn repeat_key(identity: u64) -> String {
    format!("={identity:016x}")
}

/// What the keys of a user's groups begin with.
fn user_key((lane, user, is_critical): Counted) -> String {
    format!("{lane:?} {user:?} {is_critical} ")
}

/// A text of at most so many bytes: its beginning and its end.
#[must_use]
pub fn shortened(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let half = most / 2;
    let (begin, end) = (text.floor_char_boundary(half), text.ceil_char_boundary(text.len() - half));
    format!("{}…({} bytes)…{}", &text[..begin], end - begin, &text[end..])
}

/// Whether an alert is told alone whatever else happens.
fn is_never_grouped(alert: &Alert) -> bool {
    // What its package recorded, and its package manager did, is explained.
    let is_explained = alert.package["as_recorded"] == json!(true) && !alert.package["by_manager"].is_null();
    alert.lane == Lane::Trusted
        && (alert.severity == Severity::Critical || alert.gains_rights)
        && !is_explained
}

impl Storms {
    /// Nothing happened yet. `epoch` makes the names of groups unlike those of every other life.
    #[must_use]
    pub(crate) fn new(limit: usize, epoch: u64) -> Self {
        let (counts, open) = (BTreeMap::new(), BTreeMap::new());
        Self { limit, counts, open, epoch, made: 0, told: HashMap::new(), hasher: RandomState::new() }
    }

    /// Changes the limit.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Takes up the groups that an earlier life left open; text that is none of ours has none.
    pub(crate) fn restore(&mut self, text: &str, now: Instant) {
        let groups: Vec<Group> = serde_json::from_str(text).unwrap_or_default();
        for group in groups {
            let key = if group.key.is_empty() { group.id.clone() } else { group.key.clone() };
            self.open.insert(key, Open { group, opened: now, last: now });
        }
    }

    /// The open groups, for the store.
    #[must_use]
    pub(crate) fn to_text(&self) -> String {
        let groups: Vec<&Group> = self.open.values().map(|open| &open.group).collect();
        serde_json::to_string(&groups).unwrap_or_default()
    }

    /// Decides which alerts are told alone; `writer` says who made each.
    pub(crate) fn sort(
        &mut self,
        alerts: Vec<Alert>,
        writer: impl Fn(&Alert) -> Writer,
        now: Instant,
    ) -> Sorted {
        self.counts.retain(|_, (since, _)| now.duration_since(*since) < COUNTED_TIME);
        let mut sorted = Sorted::default();
        for alert in alerts {
            let writer = writer(&alert);
            match self.group_of(&alert, &writer, now) {
                Some(id) => sorted.members.push((id, alert)),
                None => sorted.alone.push(alert),
            }
        }
        sorted
    }

    /// Counts an alert; gives the group that it joined.
    fn group_of(&mut self, alert: &Alert, writer: &Writer, now: Instant) -> Option<String> {
        if self.limit == 0 {
            return None;
        }
        if is_never_grouped(alert) {
            return if alert.gains_rights { None } else { self.repeated(alert, writer, now) };
        }
        let is_critical = alert.severity == Severity::Critical;
        let mut counted: Counted = (alert.lane, writer.user, is_critical);
        if !self.counts.contains_key(&counted) && self.counts.len() >= MAX_USERS {
            // Who has no count of his own shares one with his like only.
            counted = match alert.lane {
                Lane::Trusted => (Lane::Trusted, None, is_critical),
                Lane::Of(_) => (Lane::Of(NOBODY), None, is_critical),
            };
        }
        let (_, count) = self.counts.entry(counted).or_insert((now, 0));
        *count += 1;
        let is_many = *count > self.limit;
        let user = user_key(counted);
        let mut key = format!(
            "{user}{:?} {} {}",
            writer.login,
            alert.event.name(),
            shortened(&writer.program, MAX_SHOWN_BYTES)
        );
        if !is_many && !self.open.contains_key(&key) {
            return self.repeated(alert, writer, now);
        }
        let mut program = writer.program.as_str();
        if !self.open.contains_key(&key) {
            let others = self.open.range(user.clone()..).take_while(|(key, _)| key.starts_with(&user));
            if others.count() >= MAX_GROUPS {
                (key, program) = (format!("{user}* {}", alert.event.name()), "many programs");
            }
        }
        let open = self.open.entry(key.clone()).or_insert_with(|| {
            self.made += 1;
            let group = first(program, alert, key, self.epoch, self.made);
            Open { group, opened: now, last: now }
        });
        open.last = now;
        open.group.add(alert);
        Some(open.group.id.clone())
    }

    /// Counts a change that was told a few times already; gives the group that it joined.
    fn repeated(&mut self, alert: &Alert, writer: &Writer, now: Instant) -> Option<String> {
        // What nobody saw happen is told with the time in which it did.
        if alert.window != Value::Null {
            return None;
        }
        let identity = identity(alert, writer, &self.hasher);
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
        let key = repeat_key(identity);
        if !self.open.contains_key(&key) {
            let counted = self.open.values().filter(|open| open.group.same.is_some()).count();
            if counted >= MAX_REPEATED {
                return None;
            }
            self.made += 1;
            let mut group = first(&writer.program, alert, key.clone(), self.epoch, self.made);
            group.same = Some(shortened(&alert.alert, 2 * MAX_SHOWN_BYTES));
            self.open.insert(key.clone(), Open { group, opened: now, last: now });
        }
        let open = self.open.get_mut(&key)?;
        open.last = now;
        open.group.add(alert);
        Some(open.group.id.clone())
    }

    /// Takes the groups that are to be told now.
    pub(crate) fn take(&mut self, now: Instant) -> Vec<Group> {
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
    pub(crate) fn next(&self, now: Instant) -> Option<Duration> {
        self.open.values().map(|open| deadline(open).saturating_duration_since(now)).min()
    }
}

/// What makes two changes the same: all that is told of them but when they were made, and by which of a program's
/// processes.
fn identity(alert: &Alert, writer: &Writer, hasher: &RandomState) -> u64 {
    let mut hash = hasher.build_hasher();
    (alert.event.name(), &alert.path, &alert.from, alert.kind).hash(&mut hash);
    (&writer.program, writer.user, writer.login).hash(&mut hash);
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

fn first(writer: &str, alert: &Alert, key: String, epoch: u64, number: u64) -> Group {
    let path = shortened(&alert.path, MAX_SHOWN_BYTES);
    let below: PathBuf = Path::new(&path).parent().unwrap_or(Path::new("/")).to_owned();
    Group {
        id: format!("{epoch:016x}-g{number}"),
        key,
        writer: shortened(writer, MAX_SHOWN_BYTES),
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

    fn by(program: &str, user: u64) -> impl Fn(&Alert) -> Writer {
        let writer = Writer { program: program.to_owned(), user: Some(user), login: None };
        move |_| writer.clone()
    }

    fn dpkg(alert: &Alert) -> Writer {
        by("/usr/bin/dpkg", 0)(alert)
    }

    fn of(lane: Lane, severity: Severity, alerts: Vec<Alert>) -> Vec<Alert> {
        alerts.into_iter().map(|alert| Alert { lane, severity, ..alert }).collect()
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
    fn the_limit_is_a_users_and_what_does_not_belong_together_is_in_groups_of_its_own() {
        let now = start();
        let mut storms = Storms::new(50, 1);
        let user = Lane::Of(1000);
        let noise = || of(user, Severity::Medium, numbered(30));

        let mut alone = 0;
        for number in 0..200 {
            alone += storms.sort(noise(), by(&format!("/home/u/t{number}"), 1000), now).alone.len();
        }
        let root = storms.sort(of(user, Severity::Medium, numbered(1)), by("/usr/bin/cp", 0), now);
        let other = storms.sort(of(Lane::Of(7), Severity::Medium, numbered(1)), by("/home/u/t1", 1000), now);
        let removed =
            numbered(1).into_iter().map(|alert| Alert { event: Event::Removed, lane: user, ..alert });
        let removed = storms.sort(removed.collect(), by("/home/u/t1", 1000), now);
        let groups = storms.take(now + QUIET);

        assert_eq!((alone, root.alone.len(), other.alone.len()), (50, 1, 1));
        assert_eq!(groups.iter().map(|group| group.count).sum::<u64>(), 200 * 30 - 50 + 1);
        assert!(groups.len() <= MAX_GROUPS + 2, "{}", groups.len());
        let its = groups.iter().find(|group| group.id == removed.members[0].0).unwrap();
        assert_eq!((its.count, its.events.len()), (1, 1));
    }

    #[test]
    fn a_critical_change_of_what_root_alone_can_change_is_never_a_member() {
        let now = start();
        let mut storms = Storms::new(10, 1);
        for round in 0..50 {
            let path = |number| format!("/etc/{round}/{number}");
            let critical = of(Lane::Trusted, Severity::Critical, changes((0..100).map(path)));
            let noise = of(Lane::Of(1000), Severity::Critical, numbered(100));
            storms.sort(noise, by("/bin/bash", 1000), now);
            assert_eq!(storms.sort(critical, by("/bin/bash", 0), now).members, []);
        }
        let explained = of(Lane::Trusted, Severity::Critical, numbered(100))
            .into_iter()
            .map(|alert| Alert { package: json!({"as_recorded": true, "by_manager": "dpkg"}), ..alert });
        assert_eq!(storms.sort(explained.collect(), dpkg, now).members.len(), 90);
    }

    #[test]
    fn critical_changes_of_a_users_paths_are_told_alone_up_to_the_limit_and_then_among_themselves() {
        let now = start();
        let mut storms = Storms::new(10, 1);
        let user = Lane::Of(1000);
        let path = |number| format!("/home/u/{number}");
        let mut alerts = of(user, Severity::Critical, changes((0..40).map(path)));
        alerts.iter_mut().for_each(|alert| alert.gains_rights = true);
        let critical = storms.sort(alerts, by("/bin/bash", 1000), now);
        storms.sort(of(user, Severity::Low, numbered(40)), by("/bin/bash", 1000), now);

        let groups = storms.take(now + QUIET);

        assert_eq!((critical.alone.len(), critical.members.len()), (10, 30));
        let severities: Vec<_> = groups.iter().map(|group| (group.worst, group.severities.len())).collect();
        assert_eq!(severities, [(Severity::Low, 1), (Severity::Critical, 1)]);
    }

    #[test]
    fn what_gives_rights_is_told_alone() {
        let now = start();
        let mut storms = Storms::new(1, 1);
        let mut alerts = numbered(10);
        alerts[3].gains_rights = true;

        let sorted = storms.sort(alerts, dpkg, now);

        assert_eq!((sorted.alone.len(), sorted.members.len()), (2, 8));
    }

    #[test]
    fn however_long_names_are_a_group_is_short() {
        let now = start();
        let mut storms = Storms::new(1, 1);
        let path = |number: usize| format!("/{}/{number}", "\\x01".repeat(100_000));
        let sorted = storms.sort(changes((0..30).map(path)), by(&"p".repeat(4096), 0), now);
        assert_eq!(sorted.members.len(), 29);

        let alert = storms.take(now + QUIET).remove(0).alert("now");

        let length = serde_json::to_string(&alert.group).unwrap().len() + alert.alert.len();
        assert!(length < 16 * 1024, "{length}");
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
        assert_eq!((sorted.alone.len(), sorted.members.len()), (20, 0));
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
                let sorted = storms.sort(numbered(count), by(&writer.to_string(), u64::from(writer)), now);
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
