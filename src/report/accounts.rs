//! What `accounts` found: a table for each part.

use serde_json::Value;
use vigie_protocol::result::ModuleResult;

use super::{Report, count, local_time, read};
use crate::print::Tone;
use crate::table::{Cell, Column, Fit, Table};

/// A column: its title, its key, and how it gives way.
type Form = (&'static str, &'static str, Fit);

/// Parts of an answer in the order in which they are looked for, with their columns and those of `--wide`.
const PARTS: [(&str, &[Form], &[Form]); 7] = [
    (
        "users",
        &[
            ("USER", "username", Fit::Keep),
            ("UID", "uid", Fit::Keep),
            ("STATE", "state", Fit::Keep),
            ("SHELL", "shell", Fit::CutStart),
            ("LAST-LOGIN", "last_login", Fit::Keep),
            ("KEYS", "keys", Fit::Keep),
            ("SUDO", "sudo", Fit::Keep),
        ],
        &[
            ("GROUPS", "groups", Fit::Keep),
            ("HOME", "directory", Fit::Keep),
            ("EXPIRES", "expire", Fit::Keep),
            ("PROBLEMS", "problems", Fit::Keep),
            ("SOURCE", "source", Fit::Keep),
        ],
    ),
    (
        "sudo",
        &[
            ("USERS", "users", Fit::CutEnd),
            ("HOSTS", "hosts", Fit::CutEnd),
            ("AS", "runas_users", Fit::CutEnd),
            ("TAGS", "tags", Fit::Keep),
            ("COMMAND", "command", Fit::CutEnd),
        ],
        &[
            ("OPTIONS", "options", Fit::Keep),
            ("FILE", "file", Fit::Keep),
            ("LINE", "line", Fit::Keep),
            ("NOTES", "notes", Fit::Keep),
        ],
    ),
    (
        "keys",
        &[
            ("USER", "username", Fit::Keep),
            ("TYPE", "algorithm", Fit::Keep),
            ("FINGERPRINT", "fingerprint", Fit::CutEnd),
            ("COMMENT", "comment", Fit::CutEnd),
        ],
        &[
            ("OPTIONS", "options", Fit::Keep),
            ("IGNORED", "ignored", Fit::Keep),
            ("FILE", "key_file", Fit::Keep),
            ("LINE", "line", Fit::Keep),
        ],
    ),
    ("sessions", LOGIN, &[("PID", "pid", Fit::Keep), ("SOURCE", "source", Fit::Keep)]),
    (
        "groups",
        &[("GROUP", "groupname", Fit::Keep), ("GID", "gid", Fit::Keep), ("MEMBERS", "members", Fit::CutEnd)],
        &[("ADMINS", "admins", Fit::Keep)],
    ),
    ("logins", LOGIN, &[("END", "end", Fit::Keep), ("SOURCE", "source", Fit::Keep)]),
    ("failures", LOGIN, &[("SOURCE", "source", Fit::Keep)]),
];

const LOGIN: &[Form] = &[
    ("USER", "username", Fit::Keep),
    ("TTY", "tty", Fit::Keep),
    ("FROM", "host", Fit::CutStart),
    ("TIME", "time", Fit::Keep),
];

/// Problems that are named one by one.
const NAMED: usize = 10;

pub(super) fn report(result: &ModuleResult) -> Option<Report> {
    let elements: Value = read(result.elements.as_deref())?;
    let list = |part: &str| elements.get(part).and_then(Value::as_array);
    let counts: Vec<String> = PARTS
        .iter()
        .filter_map(|(part, ..)| {
            let name = if *part == "sudo" { "rules of sudo" } else { part };
            let number = list(part)?.len();
            Some(match (number, *part) {
                (1, "sudo") => "1 rule of sudo".to_owned(),
                _ => count(number as u64, name),
            })
        })
        .collect();
    let mut report = Report { summary: counts.join(", "), ..Report::default() };
    let mut tables = PARTS.iter().filter_map(|(part, columns, more)| {
        let narrow = columns.iter().map(|(title, _, fit)| Column::new(title).fit(*fit));
        let wide = more.iter().map(|(title, ..)| Column::new(title).wide());
        let mut table = Table::new(narrow.chain(wide));
        for item in list(part)? {
            table.add(columns.iter().chain(*more).map(|(_, key, _)| cell(item, key)));
        }
        Some(((*part).to_owned(), table))
    });
    match counts.len() {
        1 => report.table = tables.next().map(|(_, table)| table).unwrap_or_default(),
        _ => report.more = tables.collect(),
    }
    let problems = list("problems").map(Vec::as_slice).unwrap_or_default();
    for problem in problems.iter().take(NAMED) {
        let line = problem["line"].as_u64().map(|line| format!(":{line}")).unwrap_or_default();
        let file = problem["file"].as_str().unwrap_or_default();
        let what = problem["problem"].as_str().unwrap_or_default();
        report.lines.push((Tone::Doubtful, format!("{file}{line}: {what}")));
    }
    if problems.len() > NAMED {
        report
            .lines
            .push((Tone::Doubtful, format!("{} more problems; --json lists all", problems.len() - NAMED)));
    }
    Some(report)
}

fn cell(item: &Value, key: &str) -> Cell {
    let tone = match (key, item[key].as_str()) {
        ("state", Some("empty")) => Tone::Bad,
        ("state", Some("impossible")) | ("problems" | "ignored", _) => Tone::Doubtful,
        _ => Tone::Plain,
    };
    let text = match &item[key] {
        Value::String(text) if matches!(key, "time" | "end" | "last_login") => local_time(text),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
        _ => String::new(),
    };
    Cell::new(tone, text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::print::Paint;
    use crate::report;
    use crate::table::Room;

    #[test]
    fn each_part_has_a_table_and_a_csv_of_its_own() {
        let elements = json!({
            "users": [{"username": "ann", "uid": 7, "state": "empty", "shell": "/bin/sh", "keys": 1, "sudo": 0}],
            "sudo": [{"users": ["ann", "%ops"], "hosts": ["ALL"], "runas_users": [], "command": "/bin/a", "file": "/etc/sudoers", "line": 3}],
            "problems": [{"file": "/etc/passwd", "line": 2, "problem": "odd \u{1b}"}],
        });

        let both = report::text(
            "accounts",
            &ModuleResult::found(true, &elements),
            Room::default(),
            Paint::new(false),
        );
        let rules = json!({"sudo": elements["sudo"]});
        let one =
            report::text("accounts", &ModuleResult::found(true, &rules), Room::default(), Paint::new(false));

        for part in [
            "found 1 user, 1 rule of sudo\n",
            "/etc/passwd:2: odd \\u{1b}\n\nusers\nUSER",
            "empty",
            "\n\nsudo\nUSERS",
            "ann,%ops",
        ] {
            assert!(both.contains(part), "{part}: {both}");
        }
        assert!(one.contains("ann,%ops") && one.contains("/bin/a") && !one.contains("\nsudo\n"), "{one}");
        let csv = |elements: &Value| report::csv("accounts", &ModuleResult::found(true, elements));
        assert!(csv(&rules).unwrap().starts_with("users,hosts,"));
        assert!(csv(&elements).unwrap_err().contains("(users, sudo)"));
    }
}
