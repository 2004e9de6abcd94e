//! Takes typed values out of the `config` crate's value tree and collects everything that is wrong.
//!
//! The crate's own conversion turns 2.9 into 3, "7" into 7 and `true` into 1, stops at the first problem and
//! names no line; this one does none of that.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Map, Value, ValueKind};

use super::keys::KeyKind;
use super::origin::{cut, line};
use vigie_host::{parse_size, show_size};
use vigie_protocol::control::ConfigProblem;

/// Most problems of one file that are named; a text of another kind can have one a line.
const MAX_PROBLEMS: usize = 100;

/// What is wrong in one file.
#[derive(Debug)]
pub(crate) struct Problems {
    file: PathBuf,
    list: Vec<ConfigProblem>,
    /// Every key that was asked for, in order.
    asked: Vec<AskedKey>,
}

/// A key that a reader asked for: what it may be, and what the file says.
#[derive(Debug, Clone)]
pub(crate) struct AskedKey {
    /// With its section: `agent.stop_grace`.
    pub(crate) key: String,
    pub(crate) kind: KeyKind,
    /// What the file says, and in which line; nothing when it says nothing.
    pub(crate) written: Option<(Option<usize>, ValueKind)>,
}

impl Problems {
    pub(crate) fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), list: Vec::new(), asked: Vec::new() }
    }

    pub(crate) fn add(&mut self, line: Option<usize>, key: impl Into<String>, message: impl Into<String>) {
        if !self.is_full() {
            let file = self.file.clone();
            self.list.push(ConfigProblem { file, line, key: Some(key.into()), message: message.into() });
        }
    }

    /// Adds problems that were found elsewhere.
    pub(crate) fn extend(&mut self, problems: impl IntoIterator<Item = ConfigProblem>) {
        let room = MAX_PROBLEMS.saturating_sub(self.list.len());
        self.list.extend(problems.into_iter().take(room));
    }

    /// Takes note of a key that was asked for.
    fn note(&mut self, key: String, kind: KeyKind, value: Option<&Value>) {
        let written = value.map(|value| (line(value), value.kind.clone()));
        self.asked.push(AskedKey { key, kind, written });
    }

    /// Every key that was asked for.
    pub(crate) fn take_asked(&mut self) -> Vec<AskedKey> {
        std::mem::take(&mut self.asked)
    }

    /// Whether further problems would not be named.
    pub(crate) fn is_full(&self) -> bool {
        self.list.len() >= MAX_PROBLEMS
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All problems in the order of the file.
    pub(crate) fn into_sorted(mut self) -> Vec<ConfigProblem> {
        self.list.sort_by(|a, b| (a.line, &a.key).cmp(&(b.line, &b.key)));
        self.list
    }
}

/// A table whose keys are taken one after the other; what is left at the end is unknown.
#[derive(Debug)]
pub(crate) struct Table {
    /// The table's own key, empty for the whole file.
    pub(crate) path: String,
    pub(crate) line: Option<usize>,
    entries: Map<String, Value>,
    known: Vec<&'static str>,
    /// Lines of the keys that were taken, for later checks.
    lines: BTreeMap<&'static str, usize>,
}

impl Table {
    pub(crate) fn new(path: impl Into<String>, line: Option<usize>, entries: Map<String, Value>) -> Self {
        Self { path: path.into(), line, entries, known: Vec::new(), lines: BTreeMap::new() }
    }

    /// The full name of a key.
    pub(crate) fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The line of a key that was taken, or of the table when the key is absent.
    pub(crate) fn line_of(&self, key: &str) -> Option<usize> {
        self.lines.get(key).copied().or(self.line)
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        let value = self.entries.remove(key)?;
        if let Some(line) = line(&value) {
            self.lines.insert(key, line);
        }
        Some(value)
    }

    /// Adds a problem with a key of this table.
    pub(crate) fn complain(&self, problems: &mut Problems, key: &str, message: impl Into<String>) {
        problems.add(self.line_of(key), self.key(key), message);
    }

    /// Takes a value and converts it; where that fails, says that it is not `expected`.
    fn convert<T>(
        &mut self,
        problems: &mut Problems,
        key: &'static str,
        kind: KeyKind,
        expected: &str,
        convert: impl FnOnce(&ValueKind) -> Option<T>,
    ) -> Option<T> {
        problems.note(self.key(key), kind, self.entries.get(key));
        let value = self.take(key)?;
        let converted = convert(&value.kind);
        if converted.is_none() {
            self.complain(problems, key, format!("{} is not {expected}", describe(&value.kind)));
        }
        converted
    }

    pub(crate) fn boolean(&mut self, problems: &mut Problems, key: &'static str, default: bool) -> bool {
        self.convert(problems, key, KeyKind::Boolean, "true or false", |kind| match kind {
            ValueKind::Boolean(value) => Some(*value),
            _ => None,
        })
        .unwrap_or(default)
    }

    pub(crate) fn text(&mut self, problems: &mut Problems, key: &'static str) -> Option<String> {
        self.convert(problems, key, KeyKind::Text, "a text in quotes without control characters", plain_text)
    }

    /// A whole number within a range.
    pub(crate) fn integer(
        &mut self,
        problems: &mut Problems,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let expected = format!("an integer from {} to {}", range.start(), range.end());
        let kind = KeyKind::Integer { least: *range.start(), most: *range.end() };
        self.convert(problems, key, kind, &expected, |kind| match kind {
            ValueKind::I64(number) => u64::try_from(*number).ok().filter(|number| range.contains(number)),
            _ => None,
        })
    }

    /// A number of bytes: an integer, or a text such as "64 MiB".
    pub(crate) fn bytes(
        &mut self,
        problems: &mut Problems,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let expected = format!(
            "a number of bytes or a size such as \"64 MiB\" (units B, KiB, MiB, GiB, TiB), from {} to {}",
            show_size(*range.start()),
            show_size(*range.end())
        );
        let kind = KeyKind::Bytes { least: *range.start(), most: *range.end() };
        self.convert(problems, key, kind, &expected, |kind| {
            match kind {
                ValueKind::I64(number) => u64::try_from(*number).ok(),
                ValueKind::String(text) => parse_size(text),
                _ => None,
            }
            .filter(|bytes| range.contains(bytes))
        })
    }

    /// A time span with its unit, such as "300ms".
    pub(crate) fn duration(
        &mut self,
        problems: &mut Problems,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let show = |span: &Duration| humantime::format_duration(*span).to_string();
        let expected = format!(
            "a duration with its unit such as \"10s\" or \"300ms\", from {} to {}",
            show(range.start()),
            show(range.end())
        );
        let kind = KeyKind::Duration { least: *range.start(), most: *range.end() };
        self.convert(problems, key, kind, &expected, |kind| match kind {
            ValueKind::String(text) => {
                humantime::parse_duration(text).ok().filter(|span| range.contains(span))
            }
            _ => None,
        })
        .unwrap_or(default)
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        problems: &mut Problems,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let words: Vec<_> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
        let expected = format!("one of {}", words.join(", "));
        let kind = KeyKind::Choice(choices.iter().map(|(word, _)| (*word).to_owned()).collect());
        self.convert(problems, key, kind, &expected, |kind| match kind {
            ValueKind::String(text) => choices.iter().find(|(word, _)| word == text).map(|(_, value)| *value),
            _ => None,
        })
    }

    /// An absolute path.
    pub(crate) fn path(&mut self, problems: &mut Problems, key: &'static str) -> Option<PathBuf> {
        self.convert(problems, key, KeyKind::Path, "an absolute path in quotes", |kind| {
            plain_text(kind).map(PathBuf::from).filter(|path| path.is_absolute())
        })
    }

    pub(crate) fn texts(&mut self, problems: &mut Problems, key: &'static str) -> Option<Vec<String>> {
        self.convert(
            problems,
            key,
            KeyKind::Texts,
            "a list of texts in quotes without control characters",
            |kind| match kind {
                ValueKind::Array(items) => items.iter().map(|item| plain_text(&item.kind)).collect(),
                _ => None,
            },
        )
    }

    /// A table below this one; an empty one when it is absent.
    pub(crate) fn table(&mut self, problems: &mut Problems, key: &'static str) -> Table {
        let entries = self
            .convert(problems, key, KeyKind::Table, "a table", |kind| match kind {
                ValueKind::Table(map) => Some(map.clone()),
                _ => None,
            })
            .unwrap_or_default();
        Table::new(self.key(key), self.lines.get(key).copied(), entries)
    }

    /// A table that means something by being there.
    pub(crate) fn optional_table(&mut self, problems: &mut Problems, key: &'static str) -> Option<Table> {
        self.entries.contains_key(key).then(|| self.table(problems, key)).or_else(|| {
            self.known.push(key);
            None
        })
    }

    pub(crate) fn tables(&mut self, problems: &mut Problems, key: &'static str) -> Vec<Table> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let ValueKind::Array(items) = value.kind else {
            let message = format!("is written [[{key}]], one for each");
            self.complain(problems, key, message);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items {
            let line = line(&item);
            match item.kind {
                ValueKind::Table(map) => tables.push(Table::new(self.key(key), line, map)),
                other => problems.add(line, self.key(key), format!("{} is not a table", describe(&other))),
            }
        }
        tables
    }

    /// A table of free names, each with a text and its line.
    pub(crate) fn into_texts(self, problems: &mut Problems) -> Vec<(String, String, Option<usize>)> {
        let mut texts = Vec::new();
        problems.note(self.key("NAME"), KeyKind::Text, None);
        for (name, value) in in_file_order(&self.entries) {
            problems.note(self.key(cut(name)), KeyKind::Text, Some(value));
            match plain_text(&value.kind) {
                Some(text) => texts.push((name.clone(), text, line(value))),
                None => {
                    let expected = "a text in quotes without control characters";
                    let message = format!("{} is not {expected}", describe(&value.kind));
                    problems.add(line(value), self.key(cut(name)), message);
                }
            }
        }
        texts.sort();
        texts
    }

    /// Reports every key that was not taken.
    pub(crate) fn finish(self, problems: &mut Problems) {
        for (name, value) in in_file_order(&self.entries) {
            if problems.is_full() {
                return;
            }
            let message = unknown("key", name, self.known.iter().copied());
            problems.add(line(value), self.key(cut(name)), message);
        }
    }
}

/// The entries of a table by line, so that the first problems are those that are named.
pub(crate) fn in_file_order(table: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, value)| (line(value), *name));
    entries
}

fn plain_text(kind: &ValueKind) -> Option<String> {
    match kind {
        ValueKind::String(text) if !text.chars().any(char::is_control) => Some(text.clone()),
        _ => None,
    }
}

/// Shows a value in a message: texts escaped and cut.
pub(crate) fn describe(kind: &ValueKind) -> String {
    match kind {
        ValueKind::Nil => "nothing".to_owned(),
        ValueKind::Boolean(value) => value.to_string(),
        ValueKind::I64(value) => value.to_string(),
        ValueKind::I128(value) => value.to_string(),
        ValueKind::U64(value) => value.to_string(),
        ValueKind::U128(value) => value.to_string(),
        ValueKind::Float(value) => format!("{value:?}"),
        ValueKind::String(value) => format!("{:?}", cut(value)),
        ValueKind::Table(_) => "a table".to_owned(),
        ValueKind::Array(_) => "a list".to_owned(),
    }
}

/// Says that a name is unknown and which known one is meant.
pub(crate) fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let mut message = format!("unknown {what} {:?}", cut(name));
    let known: Vec<_> = known.collect();
    let lower = cut(name).to_lowercase();
    let nearest = known
        .iter()
        .map(|candidate| (distance(&lower, &candidate.to_lowercase()), *candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 2.max(candidate.len() / 3));
    match nearest {
        Some((_, candidate)) => _ = write!(message, ", did you mean {candidate:?}?"),
        None if (1..=16).contains(&known.len()) => _ = write!(message, "; known are {}", known.join(", ")),
        None => {}
    }
    message
}

/// Insertions, deletions and changes of a character that turn one text into the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_binary_units_only() {
        assert_eq!(parse_size("64 MiB"), Some(64 << 20));
        assert_eq!(parse_size("5B"), Some(5));
        for text in ["", "64", "64 MB", "-1 KiB", "1.5 GiB", "99999999999 TiB", "KiB", "64M"] {
            assert_eq!(parse_size(text), None, "{text:?}");
        }
        assert_eq!(show_size(1 << 20), "1 MiB");
        assert_eq!(show_size(1000), "1000 B");
    }

    #[test]
    fn an_unknown_name_suggests_the_nearest_known_one() {
        let known = ["heartbeat_interval", "run_dir", "tags"];

        let near = unknown("key", "hartbeat_intervall", known.into_iter());
        let far = unknown("key", "zzz", known.into_iter());

        assert_eq!(near, r#"unknown key "hartbeat_intervall", did you mean "heartbeat_interval"?"#);
        assert_eq!(far, r#"unknown key "zzz"; known are heartbeat_interval, run_dir, tags"#);
    }
}
