//! What `vigie query accounts` shows to people: a table for each part of the answer.

use serde_json::Value;
use vigie_protocol::result::ModuleResult;

use crate::print::{Paint, Tone, table_text};

/// Parts of the answer, with the headings and keys of their columns.
const PARTS: [(&str, &[(&str, &str)]); 8] = [
    (
        "users",
        &[
            ("USER", "username"),
            ("UID", "uid"),
            ("STATE", "state"),
            ("SHELL", "shell"),
            ("LAST-LOGIN", "last_login"),
            ("KEYS", "keys"),
            ("SUDO", "sudo"),
            ("PROBLEMS", "problems"),
        ],
    ),
    ("groups", &[("GROUP", "groupname"), ("GID", "gid"), ("MEMBERS", "members")]),
    (
        "sudo",
        &[
            ("USERS", "users"),
            ("HOSTS", "hosts"),
            ("AS", "runas_users"),
            ("TAGS", "tags"),
            ("COMMAND", "command"),
            ("FILE", "file"),
            ("LINE", "line"),
        ],
    ),
    (
        "keys",
        &[
            ("USER", "username"),
            ("TYPE", "algorithm"),
            ("FINGERPRINT", "fingerprint"),
            ("COMMENT", "comment"),
            ("OPTIONS", "options"),
            ("IGNORED", "ignored"),
        ],
    ),
    ("sessions", &[("LOGGED-IN", "username"), ("TTY", "tty"), ("FROM", "host"), ("SINCE", "time")]),
    ("logins", &[("LOGIN", "username"), ("TTY", "tty"), ("FROM", "host"), ("TIME", "time"), ("END", "end")]),
    ("failures", &[("FAILED", "username"), ("TTY", "tty"), ("FROM", "host"), ("TIME", "time")]),
    ("problems", &[("PROBLEM", "problem"), ("FILE", "file"), ("LINE", "line")]),
];

/// The tables of an answer; `None` when it has another form.
pub(crate) fn tables(result: &ModuleResult, paint: Paint, width: Option<u16>) -> Option<String> {
    let elements: Value = serde_json::from_str(result.elements.as_deref()?.get()).ok()?;
    let mut texts = Vec::new();
    for (part, columns) in PARTS {
        let Some(items) = elements.get(part).and_then(Value::as_array) else { continue };
        // A column in which nothing stands is left out.
        let columns: Vec<_> =
            columns.iter().filter(|(_, key)| items.iter().any(|item| !cell(item, key).is_empty())).collect();
        let headings: Vec<&str> = columns.iter().map(|(heading, _)| *heading).collect();
        let mut table = paint.table(width, &headings);
        for item in items {
            table.add_row(columns.iter().map(|(_, key)| paint.cell(tone(item, key), &cell(item, key))));
        }
        texts.push(table_text(&table));
    }
    Some(texts.join("\n"))
}

fn tone(item: &Value, key: &str) -> Tone {
    match (key, item[key].as_str()) {
        ("state", Some("empty")) | ("problems" | "problem", _) => Tone::Bad,
        ("state", Some("impossible")) => Tone::Doubtful,
        _ => Tone::Plain,
    }
}

fn cell(item: &Value, key: &str) -> String {
    match &item[key] {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_part_has_a_table_without_empty_columns() {
        let elements = json!({
            "users": [{"username": "ann", "uid": 7, "state": "empty", "shell": "/bin/sh", "keys": 1, "sudo": 0}],
            "sudo": [{"users": ["ann", "%ops"], "hosts": ["ALL"], "runas_users": [], "command": "/bin/a \u{1b}", "file": "/etc/sudoers", "line": 3}],
        });

        let text = tables(&ModuleResult::found(true, &elements), Paint::new(false), None).unwrap();

        assert_eq!(
            text,
            "\
USER  UID  STATE  SHELL    KEYS  SUDO
ann   7    empty  /bin/sh  1     0

USERS     HOSTS  COMMAND        FILE          LINE
ann,%ops  ALL    /bin/a \\u{1b}  /etc/sudoers  3
"
        );
    }
}
