//! What `vigie query persistence` shows to people.

use serde::Deserialize;
use vigie_protocol::result::ModuleResult;

use crate::print::{Paint, Tone, table_text};

#[derive(Debug, Deserialize)]
struct Elements {
    entries: Vec<Entry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    when: String,
    kind: String,
    technique: String,
    verdict: String,
    file: String,
    line: Option<u64>,
    command: String,
    target: Option<String>,
    inactive: Option<String>,
    notes: Vec<String>,
}

impl Entry {
    /// What runs, or what else there is to say.
    fn what(&self) -> String {
        let first = if !self.command.is_empty() {
            self.command.clone()
        } else if let Some(target) = &self.target {
            format!("-> {target}")
        } else {
            self.notes.first().cloned().unwrap_or_else(|| self.technique.clone())
        };
        match &self.inactive {
            Some(why) => format!("{first} (inactive: {why})"),
            None => first,
        }
    }
}

/// A table of the entries; `None` when the answer has another form.
pub(crate) fn table(result: &ModuleResult, paint: Paint, width: Option<u16>) -> Option<String> {
    let elements: Elements = serde_json::from_str(result.elements.as_deref()?.get()).ok()?;
    if elements.entries.is_empty() {
        return Some(String::new());
    }
    let mut table = paint.table(width, &["WHEN", "KIND", "WHAT", "VERDICT", "FILE"]);
    for entry in &elements.entries {
        let tone = match entry.verdict.as_str() {
            "local" | "modified" => Tone::Bad,
            "unknown" => Tone::Doubtful,
            _ => Tone::Plain,
        };
        let file = match entry.line {
            Some(line) => format!("{}:{line}", entry.file),
            None => entry.file.clone(),
        };
        table.add_row([
            paint.cell(Tone::Plain, &entry.when),
            paint.cell(Tone::Plain, &entry.kind),
            paint.cell(Tone::Plain, &entry.what()),
            paint.cell(tone, &entry.verdict),
            paint.cell(Tone::Plain, &file),
        ]);
    }
    Some(table_text(&table))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn entries_are_a_table() {
        let elements = json!({"entries": [
            {"when": "@reboot", "kind": "cron", "technique": "cron-d", "verdict": "local", "file": "/etc/cron.d/x", "line": 2, "command": "run \u{1b}[2J"},
            {"when": "boot", "kind": "systemd", "technique": "sd-alias", "verdict": "derived", "file": "/etc/a", "target": "/b", "inactive": "the link leads to nothing"},
        ]});

        let text = table(&ModuleResult::found(true, &elements), Paint::new(false), None).unwrap();

        assert_eq!(
            text,
            "\
WHEN     KIND     WHAT                                         VERDICT  FILE
@reboot  cron     run \\u{1b}[2J                                local    /etc/cron.d/x:2
boot     systemd  -> /b (inactive: the link leads to nothing)  derived  /etc/a
"
        );
    }
}
