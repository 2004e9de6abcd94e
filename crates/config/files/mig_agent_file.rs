//! MIG's `mig-agent.cfg`: the keys that mean something to Vigie become those of its own file.

use config::{Map, Value, ValueKind};

use super::agent_file::tag_problem;
use super::origin::{cut, line};
use super::reader::{Problems, describe, in_file_order, unknown};

/// What a key of MIG's file becomes.
#[derive(Debug, Clone, Copy)]
enum Meaning {
    /// A text of ours.
    Text(&'static str),
    /// A boolean of ours.
    Boolean(&'static str),
    /// An integer of ours.
    Integer(&'static str),
    /// A word of MIG's for one of ours.
    Word(&'static str, &'static [(&'static str, &'static str)]),
    /// `key:value`, any number of times.
    Tags,
    /// Nothing: what it configures does not exist here.
    Unused,
}

/// Every key that MIG's agent knows.
const KEYS: &[(&str, &str, Meaning)] = &[
    ("agent", "persistconfigdir", Meaning::Text("persistconfigdir")),
    ("agent", "extraprivacymode", Meaning::Boolean("extraprivacymode")),
    ("agent", "nopersistmods", Meaning::Boolean("nopersistmods")),
    ("agent", "moduletimeout", Meaning::Text("moduletimeout")),
    ("agent", "tags", Meaning::Tags),
    ("agent", "api", Meaning::Unused),
    ("agent", "checkin", Meaning::Unused),
    ("agent", "discoverawsmeta", Meaning::Unused),
    ("agent", "discoverpublicip", Meaning::Unused),
    ("agent", "heartbeatfreq", Meaning::Unused),
    ("agent", "installservice", Meaning::Unused),
    ("agent", "isimmortal", Meaning::Unused),
    ("agent", "onlyverifypubkey", Meaning::Unused),
    ("agent", "proxies", Meaning::Unused),
    ("agent", "refreshenv", Meaning::Unused),
    ("agent", "relay", Meaning::Unused),
    ("agent", "socket", Meaning::Unused),
    ("certs", "ca", Meaning::Unused),
    ("certs", "cert", Meaning::Unused),
    ("certs", "key", Meaning::Unused),
    (
        "logging",
        "mode",
        Meaning::Word("mode", &[("stdout", "stderr"), ("file", "file"), ("syslog", "syslog")]),
    ),
    (
        "logging",
        "level",
        Meaning::Word(
            "level",
            &[
                ("emerg", "error"),
                ("alert", "error"),
                ("crit", "error"),
                ("err", "error"),
                ("error", "error"),
                ("warning", "warning"),
                ("notice", "info"),
                ("info", "info"),
                ("debug", "debug"),
            ],
        ),
    ),
    ("logging", "file", Meaning::Text("file")),
    ("logging", "maxfilesize", Meaning::Integer("max_file_bytes")),
    ("logging", "facility", Meaning::Unused),
    ("logging", "host", Meaning::Unused),
    ("logging", "port", Meaning::Unused),
    ("logging", "protocol", Meaning::Unused),
    ("stats", "maxactions", Meaning::Unused),
];

/// Turns the tree of [`super::gcfg::Gcfg`] into that of our own file.
pub(crate) fn translate(
    sections: &Map<String, Value>,
    problems: &mut Problems,
    notes: &mut Problems,
) -> Map<String, Value> {
    let mut translation = Translation { root: Map::new(), tags: Map::new() };
    for (section, value) in in_file_order(sections) {
        if problems.is_full() {
            break;
        }
        let ValueKind::Table(parts) = &value.kind else { continue };
        if !KEYS.iter().any(|(known, ..)| known == section) {
            let known = ["agent", "certs", "logging", "stats"];
            problems.add(line(value), cut(section), unknown("section", section, known.into_iter()));
            continue;
        }
        for (part, keys) in parts {
            let ValueKind::Table(keys) = &keys.kind else { continue };
            if !part.is_empty() {
                let message = format!("the section has no part {:?}", cut(part));
                problems.add(line(value), cut(section), message);
                continue;
            }
            for (key, values) in in_file_order(keys) {
                if problems.is_full() {
                    break;
                }
                translation.key(section, key, values, problems, notes);
            }
        }
    }
    let mut root = translation.root;
    root.insert("tags".to_owned(), Value::new(None, ValueKind::Table(translation.tags)));
    root
}

struct Translation {
    root: Map<String, Value>,
    tags: Map<String, Value>,
}

impl Translation {
    fn key(
        &mut self,
        section: &str,
        key: &str,
        values: &Value,
        problems: &mut Problems,
        notes: &mut Problems,
    ) {
        let name = format!("{section}.{}", cut(key));
        let Some((.., meaning)) = KEYS.iter().find(|(s, k, _)| *s == section && *k == key) else {
            let known = KEYS.iter().filter(|(s, ..)| *s == section).map(|(_, known, _)| *known);
            problems.add(line(values), name, unknown("key", key, known));
            return;
        };
        let ValueKind::Array(items) = &values.kind else { return };
        let Some(last) = items.last() else { return };
        let (target, kind) = match meaning {
            Meaning::Unused => {
                notes.add(line(values), name, "is not used by Vigie");
                return;
            }
            Meaning::Tags => {
                self.tags(items, &name, problems);
                return;
            }
            Meaning::Text(target) => (target, as_text(&last.kind)),
            Meaning::Boolean(target) => (target, as_boolean(&last.kind).map(ValueKind::Boolean)),
            Meaning::Integer(target) => (target, as_integer(&last.kind).map(ValueKind::I64)),
            Meaning::Word(target, words) => {
                let word = match &last.kind {
                    ValueKind::String(text) => words.iter().find(|(theirs, _)| theirs == text),
                    _ => None,
                };
                if word.is_none() {
                    let known: Vec<_> = words.iter().map(|(theirs, _)| *theirs).collect();
                    let message = format!("{} is not one of {}", describe(&last.kind), known.join(", "));
                    problems.add(line(last), name, message);
                    return;
                }
                (target, word.map(|(_, ours)| ValueKind::String((*ours).to_owned())))
            }
        };
        let Some(kind) = kind else {
            let expected = match meaning {
                Meaning::Boolean(_) => "one of true, yes, on, 1, false, no, off, 0",
                Meaning::Integer(_) => "an integer",
                _ => "a text: write key = value",
            };
            problems.add(line(last), name, format!("{} is not {expected}", describe(&last.kind)));
            return;
        };
        let place = last.origin().map(str::to_owned);
        let table = self
            .root
            .entry(section.to_owned())
            .or_insert_with(|| Value::new(place.as_ref(), ValueKind::Table(Map::new())));
        if let ValueKind::Table(table) = &mut table.kind {
            table.insert((*target).to_owned(), Value::new(place.as_ref(), kind));
        }
    }

    fn tags(&mut self, items: &[Value], name: &str, problems: &mut Problems) {
        for item in items {
            let text = match &item.kind {
                ValueKind::String(text) => text,
                // A key without a value forgets what the list held so far.
                _ => {
                    self.tags.clear();
                    continue;
                }
            };
            let Some((tag, value)) = text.split_once(':') else {
                problems.add(line(item), name, format!("{:?} is not of the form key:value", cut(text)));
                continue;
            };
            let (tag, value) = (tag.trim(), value.trim());
            if let Some(message) = tag_problem(tag, value) {
                problems.add(line(item), name, format!("{:?}: {message}", cut(text)));
                continue;
            }
            let place = item.origin().map(str::to_owned);
            self.tags.insert(tag.to_owned(), Value::new(place.as_ref(), ValueKind::String(value.to_owned())));
        }
    }
}

fn as_text(kind: &ValueKind) -> Option<ValueKind> {
    matches!(kind, ValueKind::String(_)).then(|| kind.clone())
}

/// Reads a boolean as git-config does: a key alone is true.
pub(crate) fn as_boolean(kind: &ValueKind) -> Option<bool> {
    match kind {
        ValueKind::Nil => Some(true),
        ValueKind::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => Some(true),
            "false" | "no" | "off" | "0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// Reads an integer as gcfg does: decimal, where leading zeros do not make it octal, or hexadecimal after `0x`, each
/// with a sign; in hexadecimal numbers underscores may stand between digits.
pub(crate) fn as_integer(kind: &ValueKind) -> Option<i64> {
    let ValueKind::String(text) = kind else { return None };
    let text = text.trim();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let magnitude = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(hexadecimal) => {
            let plain = hexadecimal.replace('_', "");
            let well_placed = !hexadecimal.ends_with('_') && !hexadecimal.contains("__");
            let only_digits = !plain.is_empty() && plain.bytes().all(|byte| byte.is_ascii_hexdigit());
            (well_placed && only_digits).then(|| i128::from_str_radix(&plain, 16).ok())??
        }
        None => digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<i128>().ok())??,
    };
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_gcfg_reads_them() {
        let read = |text: &str| as_integer(&ValueKind::String(text.to_owned()));

        assert_eq!(read("0x10"), Some(16));
        assert_eq!(read("-0X1_0"), Some(-16));
        assert_eq!(read("010"), Some(10));
        assert_eq!(read("+5"), Some(5));
        assert_eq!(read("-9223372036854775808"), Some(i64::MIN));
        for text in ["", "0x", "0x_", "0x1_", "5s", "1_0", "9223372036854775808", "--1", "0b1"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
