//! What `persistence` found.

use std::collections::BTreeMap;

use serde::Deserialize;
use vigie_protocol::result::ModuleResult;

use super::{Report, local_time, read};
use crate::print::Tone;
use crate::table::{Cell, Column, Fit, Table};

#[derive(Deserialize)]
struct Elements {
    entries: Vec<Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    when: String,
    kind: String,
    technique: String,
    attack: String,
    verdict: String,
    file: String,
    line: Option<u64>,
    command: String,
    user: String,
    owner: String,
    package: String,
    made_by: String,
    mtime: String,
    sha256: String,
    target: String,
    inactive: String,
    notes: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Statistics {
    verdicts: BTreeMap<String, u64>,
    exectime: String,
}

pub(super) fn report(result: &ModuleResult) -> Option<Report> {
    let elements: Elements = read(result.elements.as_deref())?;
    let statistics: Statistics = read(result.statistics.as_deref()).unwrap_or_default();
    let mut table = Table::new([
        Column::new("WHEN").fit(Fit::CutEnd).rank(3),
        Column::new("KIND").rank(2),
        Column::new("USER").wide(),
        Column::new("WHAT").fit(Fit::CutEnd),
        Column::new("VERDICT"),
        Column::new("OWNER").wide(),
        Column::new("PACKAGE").wide(),
        Column::new("CHANGED").wide(),
        Column::new("ATT&CK").wide(),
        Column::new("TECHNIQUE").wide(),
        Column::new("SHA256").wide(),
        Column::new("FILE").fit(Fit::CutStart),
    ]);
    for entry in &elements.entries {
        table.add(row(entry));
    }
    let verdicts: Vec<String> =
        statistics.verdicts.iter().map(|(verdict, count)| format!("{count} {verdict}")).collect();
    let took =
        if statistics.exectime.is_empty() { String::new() } else { format!(" in {}", statistics.exectime) };
    Some(Report { summary: format!("{}{took}", verdicts.join(", ")), table, ..Report::default() })
}

fn row(entry: &Entry) -> Vec<Cell> {
    let tone = match entry.verdict.as_str() {
        "local" | "modified" => Tone::Bad,
        "unknown" => Tone::Doubtful,
        _ => Tone::Plain,
    };
    let file = match entry.line {
        Some(line) => format!("{}:{line}", entry.file),
        None => entry.file.clone(),
    };
    let package = if entry.package.is_empty() { &entry.made_by } else { &entry.package };
    let plain = |text: &str| Cell::new(Tone::Plain, text);
    vec![
        plain(&entry.when),
        plain(&entry.kind),
        plain(&entry.user),
        plain(&what(entry)),
        Cell::new(tone, entry.verdict.as_str()),
        plain(&entry.owner),
        plain(package),
        plain(&local_time(&entry.mtime)),
        plain(&entry.attack),
        plain(&entry.technique),
        plain(&entry.sha256),
        plain(&file),
    ]
}

/// What runs, or what else there is to say.
fn what(entry: &Entry) -> String {
    let first = if !entry.command.is_empty() {
        entry.command.clone()
    } else if !entry.target.is_empty() {
        format!("-> {}", entry.target)
    } else {
        entry.notes.first().unwrap_or(&entry.technique).clone()
    };
    if entry.inactive.is_empty() { first } else { format!("{first} (inactive: {})", entry.inactive) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::print::Paint;
    use crate::report;
    use crate::table::Room;

    #[test]
    fn entries_are_a_table() {
        let elements = json!({"entries": [
            {"when": "@reboot", "kind": "cron", "technique": "cron-d", "verdict": "local", "file": "/etc/cron.d/x", "line": 2, "command": "run \u{1b}[2J"},
            {"when": "boot", "kind": "systemd", "technique": "sd-alias", "verdict": "derived", "file": "/etc/a", "target": "/b", "inactive": "dangling link"},
        ]});
        let statistics = json!({"verdicts": {"derived": 1, "local": 1}, "exectime": "2ms"});
        let result = ModuleResult::found(true, &elements).with_statistics(&statistics);

        let text = report::text("persistence", &result, Room::default(), Paint::new(false));

        for part in [
            "found 1 derived, 1 local in 2ms",
            "VERDICT",
            "run \\u{1b}[2J",
            "/etc/cron.d/x:2",
            "-> /b (inactive: dangling link)",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(report::csv("persistence", &result).unwrap().contains("cron-d"));
    }
}
