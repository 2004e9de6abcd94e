//! Every key of the agent's file: what it may be, its default and what it means.
//!
//! Kinds and ranges come from the readers themselves, which say what they ask for; defaults and meanings from the file
//! that ships, of which a test shows that its values are the defaults.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use config::{Map, ValueKind};

use super::agent_file::{Context, read_agent};
use super::places::Places;
use super::reader::{AskedKey, Problems};
use super::toml_format::Toml;
use super::{modules_directory, parse};
use crate::builtin::BuiltinModule;

/// The file that ships: every key with its default and its meaning, commented.
pub const SHIPPED: &str = include_str!("../../../conf/vigie.toml");

/// What a key may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyKind {
    /// True or false.
    Boolean,
    /// A text without control characters.
    Text,
    /// A whole number.
    Integer {
        /// The smallest one.
        least: u64,
        /// The largest one.
        most: u64,
    },
    /// A number of bytes, or a text such as `64 MiB`.
    Bytes {
        /// The smallest number of bytes.
        least: u64,
        /// The largest one.
        most: u64,
    },
    /// A text such as `10s`.
    Duration {
        /// The shortest time.
        least: Duration,
        /// The longest one.
        most: Duration,
    },
    /// One of these words.
    Choice(Vec<String>),
    /// An absolute path.
    Path,
    /// A list of texts.
    Texts,
    /// A table of keys.
    Table,
}

/// One key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// With its section: `agent.stop_grace`; `tags.NAME` stands for any name.
    pub name: String,
    /// What it may be.
    pub kind: KeyKind,
    /// Its default as the file has it; absent where there is none.
    pub default: Option<String>,
    /// What it means, one or a few sentences.
    pub meaning: String,
}

/// A key that a file sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenKey {
    /// With its section; after the name of a `[[module]]` with that name, as in `module.fswatch.enabled`.
    pub name: String,
    /// Its line; absent when the command line sets it.
    pub line: Option<usize>,
    /// Its value as TOML.
    pub value: String,
}

/// The keys that a file sets.
pub(super) fn written(asked: Vec<AskedKey>) -> Vec<WrittenKey> {
    let mut keys = Vec::new();
    for AskedKey { key, kind, written } in asked {
        let Some((line, value)) = written.filter(|_| kind != KeyKind::Table) else { continue };
        keys.push(WrittenKey { name: key, line, value: toml(&value) });
    }
    keys
}

/// A value as TOML writes it.
fn toml(value: &ValueKind) -> String {
    match value {
        ValueKind::String(text) => serde_json::to_string(text).expect("a text is plain data"),
        ValueKind::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| toml(&item.kind)).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

/// Every key in the order of the file that ships.
#[must_use]
pub fn keys(builtins: &[BuiltinModule]) -> Vec<Key> {
    let kinds = kinds(builtins);
    let mut keys = Vec::new();
    let (mut section, mut meaning) = (String::new(), Vec::new());
    for line in SHIPPED.lines() {
        let bare = line.trim_start_matches('#');
        let marks = line.len() - bare.len();
        if let Some(name) = bare.strip_prefix("[[").and_then(|rest| rest.strip_suffix("]]")) {
            section = name.to_owned();
            meaning.clear();
        } else if let Some(name) = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
            // What stands above a table of free names is about its names.
            if !matches!(name, "tags" | "module.env" | "module.config_types") {
                meaning.clear();
            }
        } else if let Some((key, value)) = bare.split_once(" = ").filter(|_| !bare.starts_with(' ')) {
            let free = matches!(section.as_str(), "tags" | "module.env" | "module.config_types");
            let name = if free { format!("{section}.NAME") } else { format!("{section}.{key}") };
            let kind = kinds.get(&name).cloned().unwrap_or(KeyKind::Text);
            // One mark is a default, two are an example.
            let default =
                (marks < 2 && !free && !EXAMPLES.contains(&name.as_str())).then(|| value.to_owned());
            // A later example of a sink repeats what the first one shows.
            if !keys.iter().any(|key: &Key| key.name == name) {
                keys.push(Key { name, kind, default, meaning: meaning.join(" ") });
            }
            meaning.clear();
        } else if line.trim().is_empty() {
            meaning.clear();
        } else if let Some(text) = line.strip_prefix("# ") {
            meaning.push(text.trim());
        }
    }
    keys
}

/// Keys whose value in the file is an example although it has one mark: they have no default that could be written.
const EXAMPLES: [&str; 4] = ["agent.hostname", "agent.operators_group", "module.name", "module.kind"];

/// The kind of each key, by asking the readers for everything.
fn kinds(builtins: &[BuiltinModule]) -> BTreeMap<String, KeyKind> {
    let mut everything = String::new();
    for line in SHIPPED.lines() {
        let bare = line.trim_start_matches('#');
        let is_key = bare.starts_with('[') || bare.contains(" = ") && !bare.starts_with(' ');
        everything.push_str(if is_key { bare } else { "" });
        everything.push('\n');
    }
    let places = Places::system();
    let path = Path::new("vigie.toml");
    let root = parse(path, &everything, Toml { file: path.to_owned() }).unwrap_or_else(|_| Map::new());
    let (mut problems, mut warnings) = (Problems::new(path), Problems::new(path));
    let directory = modules_directory(&places.config_file);
    let context = Context { places: &places, persistconfigdir: &directory, builtins };
    read_agent(root, context, &mut problems, &mut warnings);
    let asked = problems.take_asked().into_iter();
    asked.filter(|asked| asked.kind != KeyKind::Table).map(|asked| (general(asked.key), asked.kind)).collect()
}

/// The key without the name of the module or sink that the example is about.
fn general(key: String) -> String {
    let parts: Vec<&str> = key.splitn(3, '.').collect();
    match parts[..] {
        ["module", "fswatch", rest] => format!("module.{rest}"),
        ["sink", name, rest] if name != "headers" => format!("sink.{rest}"),
        _ => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::tests::BUILTINS;

    fn key(name: &str) -> Key {
        keys(BUILTINS).into_iter().find(|key| key.name == name).expect(name)
    }

    #[test]
    fn every_key_that_a_reader_asks_for_is_in_the_file_with_a_meaning() {
        let keys = keys(BUILTINS);

        for name in kinds(BUILTINS).keys().filter(|name| !is_free(name)) {
            let found = keys.iter().filter(|key| key.name == *name).count();
            assert_eq!(found, 1, "{name} is not once in conf/vigie.toml");
        }
        for key in &keys {
            assert!(
                !key.meaning.is_empty()
                    || key.name.contains("certificate_key")
                    || key.name.contains("threshold")
                    || key.name.contains("waiting_actions"),
                "{} has no meaning",
                key.name
            );
        }
    }

    /// A name of the example, below a table of free names.
    fn is_free(name: &str) -> bool {
        name.starts_with("tags.") && name != "tags.NAME"
            || name.starts_with("module.env.") && name != "module.env.NAME"
            || name.starts_with("module.config_types.") && name != "module.config_types.NAME"
            || name.starts_with("sink.headers.")
    }

    #[test]
    fn kinds_ranges_and_defaults_are_those_of_the_readers() {
        assert_eq!(key("agent.heartbeat_misses").kind, KeyKind::Integer { least: 1, most: 100 });
        assert_eq!(key("agent.heartbeat_misses").default.as_deref(), Some("3"));
        assert_eq!(
            key("logging.mode").kind,
            KeyKind::Choice(vec!["stderr".into(), "file".into(), "syslog".into()])
        );
        assert_eq!(key("journal.segment_bytes").default.as_deref(), Some("\"64 MiB\""));
        assert_eq!((key("fleet.org").default, key("agent.hostname").default), (None, None));
        assert!(key("tags.NAME").meaning.starts_with("Labels of this host"));
        assert_eq!(key("module.limits.nice").kind, KeyKind::Integer { least: 0, most: 19 });
    }

    #[test]
    fn what_a_file_sets_is_told_with_its_line() {
        let text = "[agent]\nstop_grace = \"3s\"\n[tags]\nzone = \"a\"\n[[module]]\nname = \"fswatch\"\n\
                    [[module]]\nname = \"x\"\ncommand = [\"/bin/true\", \"y\"]\n";
        let path = Path::new("v.toml");
        let root = parse(path, text, Toml { file: path.to_owned() }).unwrap();
        let (mut problems, mut warnings) = (Problems::new(path), Problems::new(path));
        let places = Places::system();
        let context = Context { places: &places, persistconfigdir: path, builtins: BUILTINS };
        read_agent(root, context, &mut problems, &mut warnings);

        let shown: Vec<String> = written(problems.take_asked())
            .into_iter()
            .map(|key| format!("{} {} {}", key.line.unwrap(), key.name, key.value))
            .collect();

        assert_eq!(
            shown,
            [
                "2 agent.stop_grace \"3s\"",
                "4 tags.zone \"a\"",
                "6 module.name \"fswatch\"",
                "8 module.name \"x\"",
                "9 module.x.command [\"/bin/true\", \"y\"]",
            ]
        );
    }
}
