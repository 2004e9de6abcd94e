//! What an investigator can ask, and the answers.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use vigie_sdk::privacy::{MASKED, Showing, identifies};
use vigie_sdk::protocol::Progress;
use vigie_sdk::{Coverage, ModuleError, ModuleResult, Query};

use crate::change::{Event, shown};
use crate::engine::proof::Proof;
use crate::engine::{Order, Status};
use crate::history::History;
use crate::storm::shortened;

/// Paths that the status lists of one kind; their number is always told.
const LISTED_PATHS: usize = 100;

/// Longest path in a list, in bytes: whoever makes directories of any depth makes no answer too long for the agent.
const LISTED_PATH_BYTES: usize = 1_024;

fn listed_path(path: &Path) -> String {
    shortened(&shown(path), LISTED_PATH_BYTES)
}

/// Time between two checks whether somebody still waits for the answer.
const PATIENCE: Duration = Duration::from_millis(100);

/// Keys whose values are names, at any depth.
const NAMES: &[&str] = &[
    "path",
    "from",
    "alert",
    "executable",
    "claimed_executable",
    "script",
    "command",
    "user_name",
    "login_name",
    "target",
    "rule",
    "samples",
    "writer",
    "accepted",
    "expected",
    "waiting",
    "file_system",
    "detail",
];

/// The parameters of a query. Without any, the status is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// List all directories and files that are not watched or not readable.
    pub unwatched: bool,
    /// Say which rule applies to this path.
    pub explain: Option<String>,
    /// Compare now: everything, or these paths.
    #[serde(deserialize_with = "selection")]
    pub rescan: Option<Selection>,
    /// Compare by reading every file.
    pub prove: bool,
    /// List changes: all, or those of these paths and what is below them.
    #[serde(deserialize_with = "selection")]
    pub changes: Option<Selection>,
    /// Show all changes of this path and its present state.
    pub history: Option<String>,
    /// The members of this group.
    pub group: Option<String>,
    /// List the changes that nobody has accepted.
    pub unaccepted: bool,
    /// Accept changes: all, or those of these paths and what is below them.
    #[serde(deserialize_with = "selection")]
    pub accept: Option<Selection>,
    /// Record changes of these paths and of what is below them as expected, until then.
    #[serde(deserialize_with = "selection")]
    pub expect: Option<Selection>,
    /// When the expected changes are over: RFC 3339, or a time from now such as `2h`.
    pub until: Option<String>,
    /// Who accepts or expects, as he says; whom the agent proves is recorded beside it.
    pub by: Option<String>,
    /// Only changes that were seen after this moment (RFC 3339), or within this time (such as `2h`).
    pub since: Option<String>,
    /// Only changes of this kind: `created`, `changed`, `removed`, `renamed`, `group`, `notice`, `accepted`,
    /// `expected`, `transaction`.
    pub event: Option<String>,
    /// Only changes by programs whose path contains this text.
    pub process: Option<String>,
    /// Only the newest COUNT changes. Default: 1,000.
    pub limit: Option<usize>,
}

/// Everything, or some paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Everything.
    All,
    /// These and what is below them.
    Paths(Vec<String>),
}

fn selection<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Selection>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Null | Value::Bool(false) => None,
        Value::Bool(true) => Some(Selection::All),
        Value::String(path) => Some(Selection::Paths(vec![path])),
        Value::Array(paths) => {
            let paths: Option<Vec<_>> = paths.iter().map(|path| path.as_str().map(str::to_owned)).collect();
            Some(Selection::Paths(
                paths.ok_or_else(|| serde::de::Error::custom("every path must be a string"))?,
            ))
        }
        _ => return Err(serde::de::Error::custom("must be true, a path or a list of paths")),
    })
}

/// Reads a path as answers and alerts show it: `\xNN` is a byte, `\\` a backslash.
#[must_use]
pub(crate) fn path_from_text(text: &str) -> PathBuf {
    OsString::from_vec(vigie_host::meant(text.as_bytes())).into()
}

/// A path that somebody asks for, without `.` and `..`: what is known and what is watched has its own name only.
fn asked_path(text: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for component in path_from_text(text).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(path.pop()),
            other => path.push(other),
        }
    }
    path
}

/// Longest name of somebody, as alerts show it.
const NAME_BYTES: usize = 256;

/// Whoever accepts or expects, as he says, on one line.
fn named(by: Option<&str>) -> String {
    let by = by.filter(|by| !by.is_empty()).unwrap_or("somebody");
    shortened(&shown(Path::new(by)), NAME_BYTES)
}

/// What an answer is made from.
pub struct Asked<'a> {
    /// The engine's status.
    pub status: &'a Status,
    /// Where the history is.
    pub state_dir: Option<&'a Path>,
    /// Paths are not to be told.
    pub masked: bool,
    /// What the engine publishes meanwhile.
    pub current: &'a dyn Fn() -> Arc<Status>,
    /// Gives the engine an order.
    pub ask: &'a dyn Fn(Order),
}

/// Answers a query.
///
/// # Errors
/// When the parameters are wrong, or nobody waits any longer for the engine's answer.
pub fn answer(query: &Query, asked: &Asked<'_>) -> Result<ModuleResult, ModuleError> {
    let parameters: Parameters = match &query.parameters {
        Some(_) => query.parse()?,
        None => Parameters::default(),
    };
    let ask = |order: &dyn Fn(mpsc::SyncSender<Value>) -> Order| {
        let (reply, answer) = mpsc::sync_channel(1);
        (asked.ask)(order(reply));
        wait(query, &answer, asked.current)
    };
    let (found, elements) = if parameters.unwatched {
        (true, describe(asked.status, usize::MAX))
    } else if let Some(selection) = &parameters.rescan {
        let (paths, prove) = (selection.paths(), parameters.prove);
        let elements = ask(&|done| Order::Rescan { paths: paths.clone(), prove, done })?;
        // What was not compared may differ.
        let differs = elements["differing"].as_u64().is_some_and(|differing| differing > 0);
        (differs || elements["not_watched"].is_null(), elements)
    } else if let Some(filter) = Filter::of(&parameters)? {
        let mut elements = listed(&filter, asked)?;
        if let Some(path) = parameters.history.as_deref().filter(|_| !asked.masked) {
            elements["now"] = ask(&|answer| Order::Known(asked_path(path), answer))?;
        }
        (elements["changes"].as_array().is_some_and(|changes| !changes.is_empty()), elements)
    } else if let Some(path) = &parameters.explain {
        if asked.masked {
            return Err(ModuleError::new("extra privacy mode is on: paths are not explained"));
        }
        (true, ask(&|answer| Order::Explain(asked_path(path), answer))?)
    } else if parameters.unaccepted {
        let elements = ask(&|answer| Order::Unaccepted(answer))?;
        (true, elements)
    } else if let Some(selection) = &parameters.accept {
        let by = named(parameters.by.as_deref());
        let paths = selection.paths();
        let elements = ask(&|done| Order::Accept {
            paths: paths.clone(),
            by: by.clone(),
            asker: query.asker.clone(),
            done,
        })?;
        let found = elements["accepted"].as_array().is_some_and(|paths| !paths.is_empty());
        (found, elements)
    } else if let Some(selection) = &parameters.expect {
        let by = named(parameters.by.as_deref());
        let (paths, until) = (selection.paths(), end(parameters.until.as_deref())?);
        let elements = ask(&|done| Order::Expect {
            paths: paths.clone(),
            until,
            by: by.clone(),
            asker: query.asker.clone(),
            done,
        })?;
        if let Some(why) = elements["refused"].as_str() {
            return Err(ModuleError::rejected(format!("expect: {why}")));
        }
        (true, elements)
    } else {
        (true, describe(asked.status, LISTED_PATHS))
    };
    let coverage = coverage(&parameters, &elements, &(asked.current)());
    let elements = if asked.masked { mask(elements) } else { elements };
    let mut result = ModuleResult::found(found, &elements);
    result.coverage = coverage;
    Ok(result)
}

/// What an answer about changes cannot know: what is not watched, not readable or not compared yet. Nothing for
/// questions about one thing and for orders.
fn coverage(parameters: &Parameters, elements: &Value, status: &Status) -> Option<Coverage> {
    let is_about_one =
        parameters.explain.is_some() || parameters.accept.is_some() || parameters.expect.is_some();
    if is_about_one {
        return None;
    }
    let exact = parameters.history.as_deref().map(|path| vec![asked_path(path)]);
    let selections = [&parameters.rescan, &parameters.changes];
    let asked = exact.or_else(|| selections.into_iter().flatten().map(Selection::paths).next());
    let asked = asked.unwrap_or_default();
    let concerns = |path: &Path| {
        asked.is_empty() || asked.iter().any(|asked| path.starts_with(asked) || asked.starts_with(path))
    };
    let examined = elements["compared"].as_u64().unwrap_or(status.objects as u64);
    let mut coverage = Coverage { examined, ..Coverage::whole() };
    for path in elements["not_watched"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        coverage.skip(path, "it is not watched");
    }
    if !status.baseline_complete {
        coverage.skip("everything watched", "the first scan is not complete");
    }
    for (paths, why) in [(&status.unwatched, "not watched"), (&status.unreadable, "not readable")] {
        for (path, reason) in paths.iter().filter(|(path, _)| concerns(path)) {
            coverage.skip(listed_path(path), format!("{why}: {reason}"));
        }
    }
    for (path, reason) in status.skipped.iter().filter(|(path, _)| concerns(path)) {
        coverage.skip(shown(path), reason.as_str());
    }
    // A comparison of its own needs no notifications.
    let blind = ["looks-behind", "blind", "notifications-lost"];
    let blind = if parameters.rescan.is_some() { &blind[..1] } else { &blind };
    for condition in status.conditions.iter().filter(|one| blind.contains(&one.name.as_str())) {
        coverage.skip(condition.name.as_str(), condition.detail.as_str());
    }
    Some(coverage)
}

impl Selection {
    fn paths(&self) -> Vec<PathBuf> {
        match self {
            Self::All => Vec::new(),
            Self::Paths(paths) => paths.iter().map(|path| asked_path(path)).collect(),
        }
    }
}

/// Changes that a query gives when it does not say how many.
const USUAL_LIMIT: usize = 1_000;

/// Which changes are asked for.
#[derive(Debug, Default)]
struct Filter {
    paths: Vec<PathBuf>,
    exact: Option<PathBuf>,
    group: Option<String>,
    since: Option<SystemTime>,
    event: Option<String>,
    process: Option<String>,
    limit: usize,
}

impl Filter {
    fn of(parameters: &Parameters) -> Result<Option<Self>, ModuleError> {
        let asks = parameters.changes.is_some() || parameters.history.is_some() || parameters.group.is_some();
        let narrows =
            parameters.since.is_some() || parameters.event.is_some() || parameters.process.is_some();
        if !asks && !narrows {
            return Ok(None);
        }
        if let Some(event) = &parameters.event
            && serde_json::from_value::<Event>(json!(event)).is_err()
        {
            return Err(ModuleError::rejected(format!(
                "event: {event:?} is not one of created, changed, removed, renamed, group, notice, accepted, expected, transaction"
            )));
        }
        Ok(Some(Self {
            paths: parameters.changes.as_ref().map(Selection::paths).unwrap_or_default(),
            exact: parameters.history.as_deref().map(asked_path),
            group: parameters.group.clone(),
            since: parameters.since.as_deref().map(moment).transpose()?,
            event: parameters.event.clone(),
            process: parameters.process.clone(),
            limit: parameters.limit.unwrap_or(USUAL_LIMIT),
        }))
    }

    fn wants(&self, change: &Value) -> bool {
        let path = |key: &str| change[key].as_str().map(path_from_text);
        let about: Vec<PathBuf> = ["path", "from"].into_iter().filter_map(path).collect();
        let below = |wanted: &PathBuf| about.iter().any(|path| path.starts_with(wanted));
        let time = || change["time"].as_str().and_then(|time| humantime::parse_rfc3339(time).ok());
        (self.paths.is_empty() || self.paths.iter().any(below))
            && self.exact.as_ref().is_none_or(|exact| about.contains(exact))
            && self.group.as_deref().is_none_or(|group| change["group_id"] == json!(group))
            && self.event.as_deref().is_none_or(|event| change["event"] == json!(event))
            && self.since.is_none_or(|since| time().is_some_and(|time| time >= since))
            && self.process.as_deref().is_none_or(|process| {
                change["process"]["executable"]
                    .as_str()
                    .is_some_and(|executable| executable.contains(process))
            })
    }
}

/// Reads a moment, or a time before now.
fn moment(text: &str) -> Result<SystemTime, ModuleError> {
    humantime::parse_rfc3339_weak(text)
        .ok()
        .or_else(|| SystemTime::now().checked_sub(humantime::parse_duration(text).ok()?))
        .ok_or_else(|| {
            ModuleError::rejected(format!(
                "since: {text:?} is neither a time such as 2026-01-31T12:00:00Z nor a duration such as 2h"
            ))
        })
}

/// Reads when something that is planned is over.
fn end(text: Option<&str>) -> Result<SystemTime, ModuleError> {
    let text = text.ok_or_else(|| ModuleError::rejected("expect: give the end with until"))?;
    humantime::parse_rfc3339_weak(text)
        .ok()
        .or_else(|| SystemTime::now().checked_add(humantime::parse_duration(text).ok()?))
        .ok_or_else(|| {
            ModuleError::rejected(format!(
                "until: {text:?} is neither a time such as 2026-01-31T12:00:00Z nor a duration from now such as 2h"
            ))
        })
}

fn listed(filter: &Filter, asked: &Asked<'_>) -> Result<Value, ModuleError> {
    let Some(directory) = asked.state_dir else {
        return Err(ModuleError::new("no history is kept: the agent gave the module no state directory"));
    };
    let mut matching = 0_u64;
    let mut newest = VecDeque::new();
    History::read(directory, |change| {
        if filter.wants(&change) {
            matching += 1;
            newest.push_back(change);
            if newest.len() > filter.limit {
                newest.pop_front();
            }
        }
        true
    })
    .map_err(|error| ModuleError::io("cannot read the history", error))?;
    Ok(json!({"changes": newest, "matching": matching}))
}

/// Takes out what would tell names: paths, programs, command lines, and sentences that hold one.
fn mask(mut value: Value) -> Value {
    match &mut value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    _ if !NAMES.contains(&key.as_str()) => *value = mask(value.take()),
                    Value::Null => {}
                    Value::Array(names) => names.fill(json!(MASKED)),
                    name => *name = json!(MASKED),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = mask(item.take())),
        Value::String(text) if identifies(text) => MASKED.clone_into(text),
        _ => {}
    }
    value
}

/// What a result may show in extra privacy mode: what happened, not to which file and not by which program.
#[must_use]
pub fn masked_form(place: &[&str]) -> Showing {
    match place {
        ["elements", .., key] if NAMES.contains(key) => Showing::Hidden,
        ["elements", ..] | ["errors"] => Showing::Unnamed,
        _ => Showing::Nothing,
    }
}

fn wait<T>(
    query: &Query,
    answer: &mpsc::Receiver<T>,
    current: &dyn Fn() -> Arc<Status>,
) -> Result<T, ModuleError> {
    loop {
        match answer.recv_timeout(PATIENCE) {
            Ok(answer) => return Ok(answer),
            Err(mpsc::RecvTimeoutError::Timeout) if !query.is_stopped() => query.report(|| {
                let compared = current().scans.iter().map(|(_, compared)| *compared as u64).sum();
                Progress { done: compared, unit: "files".to_owned(), ..Progress::default() }
            }),
            Err(_) => {
                return Err(ModuleError::new("stopped before the engine answered; the request continues"));
            }
        }
    }
}

fn describe(status: &Status, most: usize) -> Value {
    let reasons = |paths: &BTreeMap<PathBuf, String>| -> Vec<_> {
        let listed = paths.iter().take(most);
        listed.map(|(path, why)| json!({"path": listed_path(path), "reason": why})).collect()
    };
    let waiting: Vec<_> = status.waiting.iter().take(most).map(|path| shown(path)).collect();
    json!({
        "ok": problems(status).is_empty(),
        "conditions": status.conditions.iter().map(|one| json!({
            "name": one.name, "severity": one.severity, "since": one.since, "detail": one.detail,
        })).collect::<Vec<_>>(),
        "problems": problems(status),
        "baseline_complete": status.baseline_complete,
        "paths": status.entries,
        "files": status.objects,
        "watches": status.watches,
        "pending": status.pending,
        "alerts": status.alerts,
        "changes_in_groups": status.grouped,
        "unacknowledged": status.unacknowledged,
        "unaccepted": status.unaccepted,
        "baseline_bytes": status.bytes,
        "store_bytes": status.store_bytes,
        "verification": json!({
            "files": status.verified_files,
            "bytes": status.verified_bytes,
            "rounds": status.verified_rounds,
        }),
        "scans": status.scans.iter().take(LISTED_PATHS).map(|(what, compared)| json!({"what": what, "compared": compared})).collect::<Vec<_>>(),
        "overflows": status.overflows,
        "last_scan": status.last_scan.map(|(at, took)| json!({
            "time": humantime::format_rfc3339_millis(at).to_string(),
            "seconds": took.as_secs_f64(),
        })),
        "waiting_count": status.waiting.len(),
        "waiting": waiting,
        "unreadable_count": status.unreadable.len(),
        "unreadable": reasons(&status.unreadable),
        "unwatched_count": status.unwatched.len(),
        "unwatched": reasons(&status.unwatched),
        "skipped": reasons(&status.skipped),
        "backends": status.backends.iter().map(|choice| json!({
            "file_system": shown(&choice.at), "backend": choice.name(), "why": choice.why,
        })).collect::<Vec<_>>(),
        "blind_between_scans": status.remote.iter().map(|path| json!({
            "file_system": shown(path), "why": "changes made by other hosts are not reported to this host",
        })).collect::<Vec<_>>(),
        "proofs": status.proofs.iter().map(Proof::to_json).collect::<Vec<_>>(),
        "canary": status.canary,
        "commands": status.why_claimed.as_ref().map_or_else(
            || "of the exec, from the kernel".to_owned(),
            |why| format!("claimed by the processes themselves: {why}"),
        ),
        "fanotify": status.why_no_fanotify.clone().unwrap_or_else(|| "used where file systems support its marks".to_owned()),
    })
}

/// Where the module is blind, or will be after a restart.
fn problems(status: &Status) -> Vec<String> {
    let mut problems = Vec::new();
    if !status.unwatched.is_empty() {
        problems.push(format!("{} directories are not watched", status.unwatched.counted()));
    }
    if !status.unreadable.is_empty() {
        problems.push(format!("{} files cannot be read", status.unreadable.counted()));
    }
    let blind = status.conditions.iter().filter(|one| one.name == "blind");
    problems.extend(blind.map(|one| one.detail.clone()));
    problems.extend(status.trouble.clone());
    let told = ["directories-unwatched", "files-unreadable", "state-unwritable", "blind"];
    let more = status.conditions.iter().filter(|one| !told.contains(&one.name.as_str()));
    problems.extend(more.map(|one| format!("since {}: {}", one.since, one.detail)));
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_selection_is_everything_a_path_or_some_paths() {
        let rescan = |value: Value| {
            serde_json::from_value::<Parameters>(json!({"rescan": value})).map(|one| one.rescan)
        };

        assert_eq!(rescan(json!(true)).unwrap(), Some(Selection::All));
        assert_eq!(rescan(json!("/a")).unwrap(), Some(Selection::Paths(vec!["/a".to_owned()])));
        assert_eq!(rescan(json!(["/a"])).unwrap(), Some(Selection::Paths(vec!["/a".to_owned()])));
        assert_eq!(rescan(json!(false)).unwrap(), None);
        assert!(rescan(json!(1)).is_err());
        assert!(serde_json::from_value::<Parameters>(json!({"rescn": true})).is_err());
    }

    #[test]
    fn a_path_is_asked_for_by_its_own_name_and_a_name_is_on_one_line() {
        assert_eq!(asked_path("/etc/ssh/../hosts/./"), Path::new("/etc/hosts"));
        assert_eq!(asked_path("/../etc"), Path::new("/etc"));
        assert_eq!(named(Some("ann\n\u{1b}[31mroot")), "ann\\x0a\\x1b[31mroot");
        assert!(named(Some(&"x".repeat(5_000))).len() < 2 * NAME_BYTES);
        assert_eq!(named(None), "somebody");
    }

    #[test]
    fn an_answer_says_what_it_cannot_know() {
        let mut status = Status { baseline_complete: true, objects: 7, ..Status::default() };
        status.unreadable.insert(PathBuf::from("/etc/shadow"), "no permission".to_owned());
        let skipped = |status: &Status, parameters: Value, elements: Value| -> Vec<String> {
            let parameters = serde_json::from_value(parameters).unwrap();
            let coverage = coverage(&parameters, &elements, status).unwrap();
            assert_eq!(coverage.complete, coverage.not_examined.is_empty());
            coverage.not_examined.into_iter().map(|one| one.what).collect()
        };

        assert_eq!(skipped(&status, json!({"changes": true}), json!({})), ["/etc/shadow"]);
        assert_eq!(skipped(&status, json!({"changes": "/etc"}), json!({})), ["/etc/shadow"]);
        assert_eq!(skipped(&status, json!({"history": "/usr/bin/x"}), json!({})), [""; 0]);
        assert_eq!(skipped(&status, json!({"rescan": "/srv"}), json!({"not_watched": ["/srv"]})), ["/srv"]);
        for name in ["blind", "looks-behind"] {
            let severity = vigie_sdk::ConditionSeverity::Failed;
            let (name, since, detail) = (name.to_owned(), String::new(), "late".to_owned());
            status.conditions.push(vigie_sdk::Condition { name, severity, since, detail });
        }
        assert_eq!(skipped(&status, json!({"rescan": true}), json!({})), ["/etc/shadow", "looks-behind"]);
        assert_eq!(
            skipped(&status, json!({"changes": true}), json!({})),
            ["/etc/shadow", "blind", "looks-behind"]
        );
        assert!(
            coverage(&serde_json::from_value(json!({"explain": "/etc"})).unwrap(), &json!({}), &status)
                .is_none()
        );
    }

    #[test]
    fn whatever_users_make_there_is_room_for_the_answer_about_how_it_is() {
        let mut status = Status::default();
        for number in 0..2_000 {
            let path = PathBuf::from(format!("/home/ann/{number}{}", "/d".repeat(20_000)));
            status.unreadable.insert(path.clone(), "leased".to_owned());
            status.unwatched.insert(path, "its path is too long".to_owned());
            status.scans.push(("new directory", number));
        }

        let elements = describe(&status, LISTED_PATHS);
        let coverage = coverage(&Parameters::default(), &elements, &status).unwrap();

        let bytes = elements.to_string().len() + serde_json::to_string(&coverage).unwrap().len();
        assert!(bytes < 2 * 1024 * 1024, "{bytes}");
        assert_eq!(elements["unwatched_count"], status.unwatched.len());
    }

    #[test]
    fn extra_privacy_hides_names_programs_and_sentences_and_keeps_the_rest() {
        let masked = mask(json!({"changes": [{
            "path": "/home/ann/x", "from": "/home/ann/y", "alert": "path /home/ann/x created", "event": "created",
            "process": {"pid": 7, "executable": "/bin/vi", "command": "vi x", "parent": {"executable": "/bin/sh"}},
            "group": {"samples": ["/home/ann/x"], "writer": "/bin/vi"}, "after": {"target": "/home", "size": 3},
        }], "accepted": ["/home/ann/x"], "matching": 1}));

        let text = masked.to_string();
        assert!(!text.contains("ann") && !text.contains("/bin") && !text.contains("vi x"), "{text}");
        let change = &masked["changes"][0];
        assert_eq!(
            (&change["event"], &change["after"]["size"], &masked["matching"]),
            (&json!("created"), &json!(3), &json!(1))
        );
    }

    #[test]
    fn the_agents_check_passes_masked_answers_and_refuses_others() {
        let status = Status {
            waiting: [PathBuf::from("/home/ann/later")].into(),
            trouble: Some("the store in /var/lib/x cannot be written".to_owned()),
            ..Status::default()
        };
        let change = json!({"path": "/home/ann/x", "event": "changed", "time": "2026-01-02T00:00:00.000Z",
            "severity": "high", "alert": "/home/ann/x changed", "after": {"mode": "-rw-r--r--", "size": 3}});

        for elements in [describe(&status, 9), json!({"changes": [change], "matching": 1})] {
            let check = |elements: &Value| {
                vigie_sdk::privacy::check(&ModuleResult::found(true, elements), masked_form)
            };
            assert!(check(&elements).is_err());
            assert_eq!(check(&mask(elements)), Ok(()));
        }
    }

    #[test]
    fn a_filter_wants_what_all_its_parts_want() {
        let change = json!({
            "path": "/etc/a/b", "from": "/tmp/b", "event": "renamed", "time": "2026-01-02T00:00:00.000Z",
            "process": {"executable": "/usr/bin/dpkg"}, "group_id": "g1",
        });
        let wants = |parameters: Value| {
            let parameters: Parameters = serde_json::from_value(parameters).unwrap();
            Filter::of(&parameters).unwrap().unwrap().wants(&change)
        };

        for parameters in [
            json!({"changes": true}),
            json!({"changes": "/etc"}),
            json!({"changes": ["/x", "/tmp"]}),
            json!({"history": "/etc/a/b"}),
            json!({"group": "g1", "event": "renamed", "process": "dpkg", "since": "2026-01-01T00:00:00Z"}),
        ] {
            assert!(wants(parameters.clone()), "{parameters}");
        }
        for parameters in [
            json!({"changes": "/et"}),
            json!({"history": "/etc/a"}),
            json!({"group": "g2"}),
            json!({"event": "created"}),
            json!({"process": "rpm"}),
            json!({"since": "2026-01-03T00:00:00Z"}),
        ] {
            assert!(!wants(parameters.clone()), "{parameters}");
        }
        let wrong: Parameters = serde_json::from_value(json!({"event": "vanished"})).unwrap();
        assert!(Filter::of(&wrong).is_err());
    }

    proptest! {
        #[test]
        fn a_path_is_found_again_as_it_was_shown(bytes in proptest::collection::vec(1u8..=255, 0..40)) {
            let path = PathBuf::from(OsString::from_vec(bytes));

            prop_assert_eq!(path_from_text(&shown(&path)), path);
        }
    }
}
