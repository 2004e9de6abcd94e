//! The module's configuration: its form, the defaults, and what is wrong with it.
//!
//! `docs/fswatch.md` describes the keys for those who write them. A configuration arrives as JSON from the agent; what
//! it means for a path is in [`crate::rules`].

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use vigie_host::{parse_size, show_size};

use crate::profile::Profile;
use crate::rules::Rules;

/// The module's configuration as the agent sends it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The section `[paths]`.
    pub paths: Option<Paths>,
    /// The section `[fswatch]`.
    pub fswatch: Option<Tuning>,
}

/// `[paths]` and all `[paths "NAME"]`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Paths {
    /// What stands in `[paths]` itself.
    #[serde(flatten)]
    pub own: PathGroup,
    /// The named groups in the order of the file.
    pub groups: Option<Vec<PathGroup>>,
}

/// Some paths and how they are watched. What is absent has its default.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PathGroup {
    /// The name in `[paths "NAME"]`.
    pub name: Option<String>,
    /// `PATH` or `recursive:PATH`, also with wildcards.
    pub path: Option<Vec<String>>,
    /// What is left out: names, or absolute patterns.
    pub exclude: Option<Vec<String>>,
    /// What is compared: names of attributes and of groups of them; `-NAME` takes away.
    pub attributes: Option<Vec<String>>,
    /// How much any change matters.
    pub severity: Option<String>,
    /// Whether files are hashed. Default: true.
    pub hash: Option<bool>,
    /// Largest file that is hashed. Default: none, any file is hashed.
    pub largest_hashed: Option<Amount>,
    /// Whether symbolic links below the path are followed to the files they point to. Default: false.
    pub follow: Option<bool>,
    /// Whether files only grow, as logs do. Default: false.
    pub growing: Option<bool>,
    /// Labels that alerts carry.
    pub tags: Option<Vec<String>>,
    /// How many directories deep a recursive path goes. Default: any.
    pub depth: Option<i64>,
}

/// `[fswatch]`: how the module works. What is absent has its default, see [`Settings`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Tuning {
    /// See [`Settings::settle`].
    pub settle_milliseconds: Option<i64>,
    /// See [`Settings::behind`].
    pub behind_seconds: Option<i64>,
    /// See [`Settings::quick_scan`].
    pub quick_scan_minutes: Option<i64>,
    /// `default`, `minimal` or `none`.
    pub profile: Option<String>,
    /// See [`Settings::rehash`].
    pub rehash_days: Option<i64>,
    /// See [`Settings::cpu_percent`].
    pub cpu_percent: Option<i64>,
    /// See [`Settings::bytes_per_second`].
    pub bytes_per_second: Option<Amount>,
    /// `auto`, `fanotify` or `inotify`.
    pub backend: Option<String>,
    /// See [`Settings::history_bytes`].
    pub history: Option<Amount>,
    /// See [`Settings::storm_changes`].
    pub storm_changes: Option<i64>,
    /// See [`Settings::canary`].
    pub canary_seconds: Option<i64>,
    /// `exec` or `claimed`.
    pub commands: Option<String>,
}

/// Which facility of the kernel tells of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// The best that works for each file system.
    Auto,
    /// fanotify(7), and it is an error where it does not work.
    Fanotify,
    /// inotify(7) everywhere.
    Inotify,
}

/// A number of bytes, as a number or as a text such as "100 MiB".
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Amount {
    /// Bytes.
    Number(i64),
    /// A number with its unit, or "none".
    Text(String),
}

/// How the module works, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Quiet time after which a path is looked at: the writes of one save become one alert. 0 to 10,000 ms,
    /// default 100; 0 turns it off.
    pub settle: Duration,
    /// Time that a look may be late before the module says that it is behind. 1 to 3,600 s, default 5.
    pub behind: Duration,
    /// Time between two quick scans; `None` turns them off. 1 to 10,080 minutes, default 10.
    pub quick_scan: Option<Duration>,
    /// Which built-in list of paths is watched.
    pub profile: Profile,
    /// Time in which every file is read again; `None` turns it off. 1 to 365 days, default 7.
    pub rehash: Option<Duration>,
    /// Share of one processor that reading again may take, in percent. 1 to 100, default 5.
    pub cpu_percent: u32,
    /// Bytes a second that reading again may read. 64 KiB to 10 GiB, default 20 MiB.
    pub bytes_per_second: u64,
    /// Which facility of the kernel tells of changes.
    pub backend: Backend,
    /// Bytes of each of the two files of history. 64 KiB to 10 GiB, default 16 MiB.
    pub history_bytes: u64,
    /// Changes of one process in ten seconds after which the next ones are told together; 0 for never. Up to
    /// 1,000,000, default 100.
    pub storm_changes: usize,
    /// Time between two proofs of the whole way from a change to the agent's journal; `None` turns them off. 1 to
    /// 86,400 s, default 60.
    pub canary: Option<Duration>,
    /// Command lines are those of the exec, from the kernel by BPF, and not what processes say of themselves.
    pub exec_commands: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(100),
            behind: Duration::from_secs(5),
            quick_scan: Some(minutes(10)),
            profile: Profile::Default,
            rehash: Some(minutes(7 * MINUTES_OF_A_DAY)),
            cpu_percent: 5,
            bytes_per_second: 20 << 20,
            backend: Backend::Auto,
            history_bytes: 16 << 20,
            storm_changes: 100,
            canary: Some(Duration::from_secs(60)),
            exec_commands: true,
        }
    }
}

const MINUTES_OF_A_DAY: u64 = 24 * 60;

fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct Problem {
    /// The key that has it: `section.key`, `section.NAME.key`, with `[2]` for the third item of a list.
    pub key: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Everything that is wrong with a configuration, at least one thing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("invalid configuration: ")?;
        for (index, problem) in self.0.iter().enumerate() {
            write!(formatter, "{}{problem}", if index > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}

/// Collects problems under one key's beginning.
#[derive(Debug)]
pub(crate) struct Complaints<'a> {
    pub(crate) section: String,
    pub(crate) list: &'a mut Vec<Problem>,
}

impl Complaints<'_> {
    pub(crate) fn add(&mut self, key: &str, message: impl Into<String>) {
        let key = if key.is_empty() { self.section.clone() } else { format!("{}.{key}", self.section) };
        self.list.push(Problem { key, message: message.into() });
    }

    fn number(&mut self, key: &str, value: Option<i64>, default: u64, least: u64, most: u64) -> u64 {
        let Some(value) = value else { return default };
        match u64::try_from(value).ok().filter(|value| (least..=most).contains(value)) {
            Some(value) => value,
            None => {
                self.add(key, format!("{value} is not a whole number from {least} to {most}"));
                default
            }
        }
    }

    /// A number that 0 turns off.
    fn number_or_off(
        &mut self,
        key: &str,
        value: Option<i64>,
        default: u64,
        least: u64,
        most: u64,
    ) -> Option<u64> {
        let Some(value) = value else { return Some(default) };
        match u64::try_from(value).ok().filter(|value| *value == 0 || (least..=most).contains(value)) {
            Some(0) => None,
            Some(value) => Some(value),
            None => {
                self.add(key, format!("{value} is not a whole number from {least} to {most}, or 0 for off"));
                Some(default)
            }
        }
    }

    /// A number of bytes; `none` is allowed when `without` is, and then `Some(None)` means it.
    pub(crate) fn bytes(
        &mut self,
        key: &str,
        value: Option<&Amount>,
        (least, most): (u64, u64),
        without: bool,
    ) -> Option<Option<u64>> {
        let value = value?;
        let bytes = match value {
            Amount::Number(number) => u64::try_from(*number).ok(),
            Amount::Text(text) if without && text.trim().eq_ignore_ascii_case("none") => return Some(None),
            Amount::Text(text) => parse_bytes(text),
        };
        if let Some(bytes) = bytes.filter(|bytes| (least..=most).contains(bytes)) {
            return Some(Some(bytes));
        }
        let found = match value {
            Amount::Number(number) => number.to_string(),
            Amount::Text(text) => format!("{text:?}"),
        };
        let none = if without { ", or \"none\"" } else { "" };
        let range = format!("from {} to {}", show_size(least), show_size(most));
        self.add(
            key,
            format!("{found} is not a number of bytes or a size such as \"100 MiB\" (units B, KiB, MiB, GiB, TiB), {range}{none}"),
        );
        None
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(&mut self, key: &str, value: Option<&str>, words: &[(&str, T)]) -> Option<T> {
        let text = value?;
        let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text.trim()));
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.add(key, format!("{text:?} is not one of {}", known.join(", ")));
        }
        found.map(|(_, value)| *value)
    }
}

/// Reads a size such as "64 MiB", or a plain number of bytes.
fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    if is_plain { text.parse().ok() } else { parse_size(text) }
}

impl Config {
    /// Whether any path is configured.
    #[must_use]
    pub fn has_paths(&self) -> bool {
        let has = |group: &PathGroup| group.path.as_ref().is_some_and(|paths| !paths.is_empty());
        self.paths.as_ref().is_some_and(|paths| has(&paths.own) || paths.groups.iter().flatten().any(has))
    }

    /// How the module works.
    ///
    /// # Errors
    /// Every value that is not in its range.
    pub fn settings(&self) -> Result<Settings, Problems> {
        let mut problems = Vec::new();
        let settings = self.read_settings(&mut problems);
        if problems.is_empty() { Ok(settings) } else { Err(Problems(problems)) }
    }

    pub(crate) fn read_settings(&self, problems: &mut Vec<Problem>) -> Settings {
        let absent = Tuning::default();
        let given = self.fswatch.as_ref().unwrap_or(&absent);
        let mut read = Complaints { section: "fswatch".to_owned(), list: problems };
        let profiles =
            [("default", Profile::Default), ("minimal", Profile::Minimal), ("none", Profile::None)];
        // With paths of one's own, the built-in list is watched only when it is asked for.
        let usual_profile = if self.has_paths() { Profile::None } else { Profile::Default };
        let backends =
            [("auto", Backend::Auto), ("fanotify", Backend::Fanotify), ("inotify", Backend::Inotify)];
        let usual = Settings::default();
        let limits = (64 << 10, 10 << 30);
        Settings {
            settle: Duration::from_millis(read.number(
                "settle_milliseconds",
                given.settle_milliseconds,
                100,
                0,
                10_000,
            )),
            behind: Duration::from_secs(read.number("behind_seconds", given.behind_seconds, 5, 1, 3_600)),
            quick_scan: read
                .number_or_off("quick_scan_minutes", given.quick_scan_minutes, 10, 1, 10_080)
                .map(minutes),
            profile: read.word("profile", given.profile.as_deref(), &profiles).unwrap_or(usual_profile),
            rehash: read
                .number_or_off("rehash_days", given.rehash_days, 7, 1, 365)
                .map(|days| minutes(days * MINUTES_OF_A_DAY)),
            cpu_percent: u32::try_from(read.number("cpu_percent", given.cpu_percent, 5, 1, 100))
                .unwrap_or(usual.cpu_percent),
            bytes_per_second: read
                .bytes("bytes_per_second", given.bytes_per_second.as_ref(), limits, false)
                .flatten()
                .unwrap_or(usual.bytes_per_second),
            backend: read.word("backend", given.backend.as_deref(), &backends).unwrap_or(usual.backend),
            history_bytes: read
                .bytes("history", given.history.as_ref(), limits, false)
                .flatten()
                .unwrap_or(usual.history_bytes),
            storm_changes: usize::try_from(read.number(
                "storm_changes",
                given.storm_changes,
                100,
                0,
                1_000_000,
            ))
            .unwrap_or(usual.storm_changes),
            canary: read
                .number_or_off("canary_seconds", given.canary_seconds, 60, 1, 86_400)
                .map(Duration::from_secs),
            exec_commands: read
                .word("commands", given.commands.as_deref(), &[("exec", true), ("claimed", false)])
                .unwrap_or(usual.exec_commands),
        }
    }
}

/// Says what is wrong with a configuration, by key, before the module is started with it.
///
/// # Errors
/// Every problem as key and message.
pub fn check(config: &Value) -> Result<(), Vec<(String, String)>> {
    let whole = |message: String| vec![("paths".to_owned(), message)];
    let raw = serde_json::value::to_raw_value(config).map_err(|error| whole(error.to_string()))?;
    let config: Config =
        vigie_sdk::json::from_any_case(Some(&raw)).map_err(|error| whole(error.to_string()))?;
    match Rules::compile(&config) {
        Ok(_) => Ok(()),
        Err(problems) => Err(problems.0.into_iter().map(|problem| (problem.key, problem.message)).collect()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> Config {
        let raw = serde_json::value::to_raw_value(value).unwrap();
        vigie_sdk::json::from_any_case(Some(&raw)).unwrap()
    }

    fn keys(value: &Value) -> Vec<String> {
        check(value).unwrap_err().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn an_old_configuration_means_what_it_meant() {
        let config = read(&json!({"Paths": {"Path": ["/etc", "recursive:/bin"]}}));

        let paths = config.paths.unwrap();
        assert_eq!(paths.own.path.unwrap(), ["/etc", "recursive:/bin"]);
        assert_eq!(paths.groups, None);
        check(&json!({"Paths": {"Path": null}})).unwrap();
        check(&json!({"paths": null})).unwrap();
        check(&json!({})).unwrap();
    }

    #[test]
    fn what_is_absent_has_its_default_and_paths_turn_the_profile_off() {
        assert_eq!(read(&json!({})).settings().unwrap(), Settings::default());
        let own = read(&json!({"Paths": {"Path": ["/etc"]}})).settings().unwrap();
        let group =
            read(&json!({"Paths": {"groups": [{"name": "a", "path": ["/etc"]}]}})).settings().unwrap();
        let both = read(&json!({"Paths": {"Path": ["/etc"]}, "fswatch": {"profile": "minimal"}}))
            .settings()
            .unwrap();

        assert_eq!(
            (own.profile, group.profile, both.profile),
            (Profile::None, Profile::None, Profile::Minimal)
        );
    }

    #[test]
    fn every_setting_is_read() {
        let settings = read(&json!({"fswatch": {
            "settle_milliseconds": 0, "behind_seconds": 7, "quick_scan_minutes": 0, "profile": "none", "rehash_days": 0,
            "cpu_percent": 9, "bytes_per_second": "1 MiB", "backend": "inotify", "history": "2 MiB",
            "storm_changes": 0, "canary_seconds": 0, "commands": "claimed",
        }}))
        .settings()
        .unwrap();

        let expected = Settings {
            settle: Duration::ZERO,
            behind: Duration::from_secs(7),
            quick_scan: None,
            profile: Profile::None,
            rehash: None,
            cpu_percent: 9,
            bytes_per_second: 1 << 20,
            backend: Backend::Inotify,
            history_bytes: 2 << 20,
            storm_changes: 0,
            canary: None,
            exec_commands: false,
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn every_bad_setting_is_named() {
        let found = keys(&json!({"fswatch": {
            "settle_milliseconds": 10_001, "behind_seconds": 0, "quick_scan_minutes": -1, "profile": "all", "rehash_days": 366,
            "cpu_percent": 0, "bytes_per_second": 1, "backend": "ebpf", "history": "none", "storm_changes": -1, "canary_seconds": 86_401,
            "commands": "none",
        }}));

        let names = [
            "settle_milliseconds",
            "behind_seconds",
            "quick_scan_minutes",
            "profile",
            "rehash_days",
            "cpu_percent",
            "bytes_per_second",
            "backend",
            "history",
            "storm_changes",
            "canary_seconds",
            "commands",
        ];
        assert_eq!(found, names.map(|name| format!("fswatch.{name}")));
    }

    #[test]
    fn every_bad_path_key_is_named_with_its_group_and_place() {
        let found = keys(&json!({"Paths": {
            "path": ["/etc", "etc", "recursive:", "", "/a/[b"], "exclude": ["*.swp", "[", "{a"],
            "attributes": ["content, colour", "-kind"], "severity": "loud", "largest_hashed": "1 MB", "depth": 0,
            "tags": [""],
            "groups": [{"name": "web", "path": ["x"]}, {"name": "idle"}, {"name": "web", "path": ["/a"]}],
        }}));

        let expected = "paths.depth paths.severity paths.largest_hashed paths.exclude[1] paths.exclude[2] \
                        paths.attributes[0] paths.attributes[1] paths.tags[0] paths.path[1] paths.path[2] paths.path[3] \
                        paths.path[4] paths.web.path[0] paths.idle paths.web";
        assert_eq!(found.join(" "), expected);
    }

    #[test]
    fn a_configuration_of_another_form_is_refused() {
        assert!(check(&json!({"Paths": {"Path": "/x"}})).is_err());
        assert!(check(&json!({"Paths": {"groups": {"a": 1}}})).is_err());
        assert!(check(&json!([])).is_err());
    }

    #[test]
    fn sizes_are_read_in_binary_units_only() {
        assert_eq!(parse_bytes("64 MiB"), Some(64 << 20));
        assert_eq!(parse_bytes("1000"), Some(1000));
        for text in ["", "64 MB", "-1 KiB", "1.5 GiB", "99999999999 TiB", "KiB", "64M"] {
            assert_eq!(parse_bytes(text), None, "{text:?}");
        }
    }
}
