//! A module's answer for people: what it says about the question, one line for each match, and what was left out.
//!
//! A module has a file of its own here that makes a [`Report`] of its elements; the elements of others are shown as
//! indented JSON.

mod accounts;
mod events;
mod file;
mod netstat;
mod packages;
mod persistence;
mod processes;
mod timedrift;

use std::borrow::Cow;
use std::collections::HashSet;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use vigie_protocol::result::{ModuleResult, NotExamined, Verdict};

use crate::exit::{Exit, Failure};
use crate::fswatch_view;
use crate::print::{Paint, Tone, safe};
use crate::query::indented;
use crate::table::{Room, Table, hanging};

/// Entries that were not examined, or errors, that are named one by one.
const NAMED: usize = 10;

/// The elements of an answer for people.
#[derive(Default)]
pub(crate) struct Report {
    /// What the first line says beside the verdict.
    pub(crate) summary: String,
    /// Lines between the first one and the table.
    pub(crate) lines: Vec<(Tone, String)>,
    /// One line for each match.
    pub(crate) table: Table,
    /// Further tables, when there are several kinds of matches: each with its title.
    pub(crate) more: Vec<(String, Table)>,
}

/// What makes the report of a module that has one.
fn maker(module: &str) -> Option<fn(&ModuleResult) -> Option<Report>> {
    Some(match module {
        "accounts" => accounts::report,
        "events" => events::report,
        "persistence" => persistence::report,
        "file" => file::report,
        "netstat" => netstat::report,
        "packages" => packages::report,
        "processes" => processes::report,
        "timedrift" => timedrift::report,
        _ => return None,
    })
}

fn of(module: &str, result: &ModuleResult) -> Option<Report> {
    maker(module)?(result)
}

/// Reads elements or statistics.
fn read<T: DeserializeOwned>(raw: Option<&RawValue>) -> Option<T> {
    serde_json::from_str(raw?.get()).ok()
}

/// The answer as lines of text.
pub(crate) fn text(module: &str, result: &ModuleResult, room: Room, paint: Paint) -> String {
    let (tone, word) = match result.verdict() {
        Verdict::Found => (Tone::Good, "found"),
        Verdict::Absent => (Tone::Plain, "found nothing"),
        Verdict::NotKnown => (Tone::Doubtful, "found nothing but did not examine everything"),
        Verdict::Failed if result.rejected => (Tone::Bad, "parameters rejected"),
        Verdict::Failed => (Tone::Bad, "failed"),
    };
    let report = of(module, result);
    let summary = report.as_ref().map(|report| report.summary.as_str()).unwrap_or_default();
    let summary = if summary.is_empty() { String::new() } else { format!(" {}", safe(summary)) };
    let mut text = format!("{module}: {}{summary}\n", paint.text(tone, word));
    match report {
        Some(report) => {
            for (tone, line) in &report.lines {
                text.push_str(&format!("{}\n", paint.text(*tone, &safe(line))));
            }
            if !report.table.is_empty() {
                text.push_str(&report.table.text(room, paint));
            }
            for (title, table) in &report.more {
                text.push_str(&format!("\n{}\n{}", paint.text(Tone::Faint, title), table.text(room, paint)));
            }
        }
        None => push_json(&mut text, result, paint),
    }
    push_left_out(&mut text, result, room, paint);
    text
}

/// What an answer says, on one line; `None` for modules without a report.
pub(crate) fn summary(module: &str, result: &ModuleResult) -> Option<String> {
    let summary = match module {
        "fswatch" => fswatch_view::summary(result),
        _ => of(module, result).map(|report| report.summary),
    };
    summary.filter(|summary| !summary.is_empty())
}

/// Refuses CSV before anything is asked, when it is known that the answer is no table or may be several.
///
/// # Errors
/// Why not.
pub(crate) fn check_csv(module: &str, parameters: Option<&RawValue>) -> Result<(), Failure> {
    let asked: Map<String, Value> = read(parameters).unwrap_or_default();
    let parts = asked.iter().find(|(key, _)| key.eq_ignore_ascii_case("what")).map(|(_, parts)| parts);
    let is_one =
        parts.is_some_and(|parts| parts.as_array().map_or(parts.is_string(), |parts| parts.len() == 1));
    let problem = if maker(module).is_none() {
        format!("the results of {module} are not a table")
    } else if module == "accounts" && !is_one {
        "the results of accounts are a table for each part, and CSV is one".to_owned()
    } else {
        return Ok(());
    };
    Err(no_csv(module, problem))
}

/// The refusal, with what to do.
pub(crate) fn no_csv(module: &str, problem: String) -> Failure {
    let hint = match module {
        "accounts" => "name one part, for example --what users, or use --json instead of --csv",
        _ => "use --json instead of --csv",
    };
    Failure::new(Exit::Usage, problem, hint)
}

/// The matches as CSV.
///
/// # Errors
/// Why not, when the answer is no table, or several.
pub(crate) fn csv(module: &str, result: &ModuleResult) -> Result<String, String> {
    match of(module, result) {
        Some(report) if report.more.is_empty() => Ok(report.table.csv()),
        Some(report) => {
            let titles: Vec<&str> = report.more.iter().map(|(title, _)| title.as_str()).collect();
            Err(format!(
                "the results of {module} have several tables ({}), and CSV is one",
                titles.join(", ")
            ))
        }
        None if result.elements.is_none() => Ok(String::new()),
        None => Err(format!("the results of {module} are not a table")),
    }
}

fn push_json(text: &mut String, result: &ModuleResult, paint: Paint) {
    for (name, value) in [("elements", &result.elements), ("statistics", &result.statistics)] {
        if let Some(value) = value.as_deref().map(RawValue::get).filter(|value| *value != "null") {
            text.push_str(&format!("{}\n", paint.text(Tone::Faint, name)));
            for line in indented(value).lines() {
                text.push_str(&format!("  {}\n", safe(line)));
            }
        }
    }
}

/// What was not examined, and what went wrong. What is both is told once: an error in one of the forms in which modules
/// say the same. One that says more is shown.
pub(crate) fn push_left_out(text: &mut String, result: &ModuleResult, room: Room, paint: Paint) {
    let entries = || result.coverage.iter().flat_map(|coverage| &coverage.not_examined);
    let left_out: Vec<String> = entries().map(|entry| format!("{}: {}", entry.what, entry.why)).collect();
    let told: HashSet<String> = entries()
        .filter(|entry| !entry.what.is_empty() && !entry.why.is_empty())
        .flat_map(|NotExamined { what, why }| {
            [
                format!("\"{what}\" {why}"),
                format!("{what} {why}"),
                format!("{what}: {why}"),
                format!("{what} cannot be read: {why}"),
            ]
        })
        .collect();
    let errors: Vec<&String> =
        result.errors.iter().flatten().filter(|error| !told.contains(error.as_str())).collect();
    let width = room.width.filter(|_| !room.wide);
    let mut push = |tone: Tone, word: &str, entries: &[&String]| {
        let more = entries.len().saturating_sub(NAMED);
        let more = (more > 0).then(|| format!("{more} more; --json lists all"));
        let shown = entries.iter().take(NAMED).map(|entry| safe(entry)).chain(more.map(Cow::Owned));
        for entry in shown {
            let line = hanging(&format!("{word} {entry}"), width, 2);
            match line.strip_prefix(word) {
                Some(rest) => text.push_str(&format!("{}{rest}\n", paint.text(tone, word))),
                // There is no room for both words on a line.
                None => text.push_str(&format!("{line}\n")),
            }
        }
    };
    push(Tone::Doubtful, "not examined", &left_out.iter().collect::<Vec<_>>());
    let tone = if result.success { Tone::Doubtful } else { Tone::Bad };
    push(tone, "error", &errors);
}

/// A time in RFC 3339, or as Go writes one, in the user's own time zone.
pub(crate) fn local_time(text: &str) -> String {
    let go = text.strip_suffix(" +0000 UTC").map(|time| format!("{}Z", time.replacen(' ', "T", 1)));
    let time = go.as_deref().unwrap_or(text).parse::<jiff::Timestamp>();
    time.map_or_else(
        |_| text.to_owned(),
        |time| time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
    )
}

/// A text of an object; nothing when it has none.
fn text_of(value: &Value, key: &str) -> String {
    match &value[key] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `3 in 1,234 files`, or where nothing was found.
fn found_in(found: u64, examined: &str) -> String {
    if found == 0 {
        format!("in {examined}")
    } else {
        format!("{} in {examined}", crate::progress::grouped(found))
    }
}

/// `1,234 files`; one of them without the plural's letter.
pub(crate) fn count(number: u64, things: &str) -> String {
    let things = if number == 1 { things.trim_end_matches('s') } else { things };
    format!("{} {things}", crate::progress::grouped(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn shown(module: &str, json: &str, width: Option<u16>) -> String {
        let result: ModuleResult = serde_json::from_str(json).unwrap();
        text(module, &result, Room { width, wide: false }, Paint::new(false))
    }

    #[test]
    fn what_was_not_examined_is_told_once() {
        let text = shown(
            "mine",
            r#"{"success":true,"errors":["\"/x\" no","/x cannot be read: no","\"/y\" odd"],
                "coverage":{"complete":false,"not_examined":[{"what":"/x","why":"no"},{"what":"\u001b","why":"z"}]}}"#,
            None,
        );

        assert_eq!(
            text,
            "mine: found nothing but did not examine everything\n\
             not examined /x: no\n\
             not examined \\u{1b}: z\n\
             error \"/y\" odd\n"
        );
    }

    #[test]
    fn an_error_that_says_more_than_what_was_not_examined_is_shown() {
        let coverage = r#"{"complete":false,"not_examined":[{"what":"/srv","why":"denied"},{"what":"","why":""},
            {"what":"/srv","why":""},{"what":"","why":"denied"}]}"#;
        let lines = |error: &str, width| {
            let errors = serde_json::json!([error]);
            let json = format!(r#"{{"success":true,"errors":{errors},"coverage":{coverage}}}"#);
            shown("mine", &json, width)
        };

        for hidden in ["\"/srv\" denied", "/srv denied", "/srv: denied", "/srv cannot be read: denied"] {
            assert!(!lines(hidden, None).contains("error"), "{hidden}");
        }
        for error in [
            "\"/srv/db/secret\" denied",
            "/srv/db/secret: denied",
            "a /srv: denied",
            "/srv: denied, and more",
            "/srv",
            "denied",
            "other",
        ] {
            assert!(lines(error, None).ends_with(&format!("error {error}\n")), "{error}");
        }
        assert!(lines("other", Some(6)).contains("\nnot\n  examined\n  /srv:\n  denied\n"));
    }

    #[test]
    fn a_long_list_is_cut_and_counted() {
        let entries = (0..30).map(|number| serde_json::json!({"what": number.to_string(), "why": "no"}));
        let coverage = serde_json::json!({"complete": false, "not_examined": entries.collect::<Vec<_>>()});
        let json = serde_json::json!({"success": true, "coverage": coverage}).to_string();

        let text = shown("mine", &json, None);

        assert_eq!(text.lines().count(), 12);
        assert!(text.ends_with("not examined 20 more; --json lists all\n"), "{text}");
    }

    #[test]
    fn times_are_local_and_nonsense_stays() {
        let time = local_time("2026-11-23 03:33:12.336839479 +0000 UTC");
        assert_eq!(time, local_time("2026-11-23T03:33:12.3Z"));
        assert_eq!(time.len(), "2026-11-23 03:33:12".len());
        assert_eq!(local_time("masked"), "masked");
    }
}
