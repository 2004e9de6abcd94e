//! What `events` found: one line for each event, a tree, the rules, or how the module is.

use serde_json::Value;
use vigie_protocol::result::ModuleResult;

use super::{Report, count, found_in, local_time, read, text_of};
use crate::print::{Tone, size};
use crate::table::{Cell, Column, Fit, Table};

pub(super) fn report(result: &ModuleResult) -> Option<Report> {
    let elements: Value = read(result.elements.as_deref())?;
    let statistics: Value = read(result.statistics.as_deref()).unwrap_or_default();
    if let Some(events) = elements["events"].as_array() {
        return Some(of_events(events, &statistics));
    }
    if let Some(rules) = elements["rules"].as_array() {
        return Some(of_rules(rules));
    }
    if elements["status"].is_object() {
        return Some(of_status(&elements["status"]));
    }
    let blocks = elements["verified"]["blocks"].as_u64()?;
    Some(Report { summary: format!("{} as they were sealed", count(blocks, "blocks")), ..Report::default() })
}

fn of_events(events: &[Value], statistics: &Value) -> Report {
    let mut table = Table::new([
        Column::new("TIME").rank(2),
        Column::new("KIND"),
        Column::new("PID").right(),
        Column::new("USER").rank(3),
        Column::new("LOGIN").wide(),
        Column::new("PARENT").right().wide(),
        Column::new("FLAGS").wide(),
        Column::new("PATH").wide(),
        Column::new("SHA256").wide(),
        Column::new("CWD").wide(),
        Column::new("WHAT").fit(Fit::CutEnd),
        Column::new("ALERTS"),
    ]);
    for event in events {
        let text = |key: &str| text_of(event, key);
        let flags: Vec<&str> =
            event["flags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let alerts: Vec<String> =
            event["alerts"].as_array().into_iter().flatten().map(Value::to_string).collect();
        let depth = event["depth"].as_i64();
        let tone = if depth.is_some_and(|depth| depth < 0) { Tone::Faint } else { Tone::Plain };
        let time = if event["time"].is_string() { local_time(&text("time")) } else { String::new() };
        let indent = "  ".repeat(usize::try_from(depth.unwrap_or(0)).unwrap_or(0).min(40));
        table.add(vec![
            Cell::new(tone, time),
            Cell::new(tone, text("kind")),
            Cell::new(tone, text("pid")),
            Cell::new(tone, text("user")),
            text("login").into(),
            text("maker").into(),
            flags.join(",").into(),
            text("path").into(),
            text("sha256").into(),
            text("cwd").into(),
            Cell::new(tone, format!("{indent}{}", what(event))),
            Cell::new(Tone::Doubtful, alerts.join(",")),
        ]);
    }
    let number = |key: &str| statistics[key].as_u64().unwrap_or(0);
    let summary = format!(
        "{}, {}",
        found_in(number("totalhits"), &count(number("examined"), "events")),
        text_of(statistics, "exectime")
    );
    Report { summary, table, ..Report::default() }
}

/// What happened, in a few words.
fn what(event: &Value) -> String {
    let text = |key: &str| text_of(event, key);
    let end = |address: &str, port: &str| match event[address].as_str() {
        Some(ip) if ip.contains(':') => format!("[{ip}]:{}", text(port)),
        Some(ip) => format!("{ip}:{}", text(port)),
        None => String::new(),
    };
    match event["kind"].as_str() {
        Some("exec") if event["argv"].is_array() => {
            let argv = event["argv"].as_array().into_iter().flatten().filter_map(Value::as_str);
            argv.collect::<Vec<_>>().join(" ")
        }
        Some("exit") if event["signal"].is_u64() => format!("killed by signal {}", text("signal")),
        Some("exit") if event["code"].is_u64() => format!("exited with {}", text("code")),
        Some("connect") if event["remote"].is_string() => {
            format!("{} to {}, {}", text("path"), end("remote", "remote_port"), text("outcome"))
        }
        Some("accept") if event["remote"].is_string() => {
            format!(
                "{} at {} from {}",
                text("path"),
                end("local", "local_port"),
                end("remote", "remote_port")
            )
        }
        Some("listen") if event["local"].is_string() => {
            format!("{} at {}", text("path"), end("local", "local_port"))
        }
        Some("setuid") if event["uid"].is_u64() => {
            format!("is user {} with the rights of {}", text("uid"), text("euid"))
        }
        Some("ptrace") if event["tracer"].is_u64() => format!("traced by {}", text("tracer")),
        Some("login" | "logout") if event["user"].is_string() => {
            let parts = [text("line"), text("host"), text("source")];
            parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
        }
        Some("mount" | "module" | "bpf" | "time" | "namespace") => text("what"),
        Some("lost") if text("lost") == "not-running" => {
            format!("nothing was recorded since {}", local_time(&text("from")))
        }
        Some("lost") if text("lost").starts_with("not-recorded:") => {
            let kind = text("lost").replacen("not-recorded:", "", 1);
            format!("no event of kind {kind} was recorded since {}", local_time(&text("from")))
        }
        Some("lost") if event["count"].is_u64() => {
            format!("{} of kind {} since {}", text("count"), text("lost"), local_time(&text("from")))
        }
        _ => String::new(),
    }
}

fn of_rules(rules: &[Value]) -> Report {
    let mut table = Table::new([
        Column::new("RULE"),
        Column::new("SEVERITY").rank(2),
        Column::new("ATT&CK").rank(3),
        Column::new("FIRED").right(),
        Column::new("REPEATED").right().wide(),
        Column::new("ASKED").right().wide(),
        Column::new("NS").right().rank(4),
        Column::new("TITLE").fit(Fit::CutEnd),
    ]);
    for rule in rules {
        let text = |key: &str| text_of(rule, key);
        let attack: Vec<&str> =
            rule["attack"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let has_fired = rule["fired"].as_u64().unwrap_or(0) > 0;
        let tone = if has_fired { Tone::Doubtful } else { Tone::Plain };
        table.add(vec![
            Cell::new(tone, text("id")),
            text("severity").into(),
            attack.join(",").into(),
            Cell::new(tone, text("fired")),
            text("repeated").into(),
            text("asked").into(),
            text("nanoseconds").into(),
            text("title").into(),
        ]);
    }
    Report { summary: count(rules.len() as u64, "rules"), table, ..Report::default() }
}

fn of_status(status: &Value) -> Report {
    let mut lines = Vec::new();
    let mut plain = |text: String| lines.push((Tone::Plain, text));
    let source = status["source"].as_str().unwrap_or("none");
    let proved = status["proved"].as_str().map(|time| format!(", proved {}", local_time(time)));
    plain(format!("source: {source}{}", proved.unwrap_or_default()));
    for (kind, counts) in status["counts"].as_object().into_iter().flatten() {
        // Older agents say told.
        let name = if counts["reported"].is_null() { "told" } else { "reported" };
        plain(format!("{kind}: {} reported, {} lost", text_of(counts, name), text_of(counts, "lost")));
    }
    let history = &status["history"];
    let number = |key: &str| history[key].as_u64().unwrap_or(0);
    let from = history["from"].as_str().map(|time| format!(", since {}", local_time(time)));
    plain(format!(
        "history: {} of {}{}",
        size(number("bytes")),
        size(number("budget_bytes")),
        from.unwrap_or_default()
    ));
    plain(format!("rules: {}", text_of(status, "rules")));
    for (kind, who) in status["who_is_known"].as_object().into_iter().flatten() {
        plain(format!("who, {kind}: {}", who.as_str().unwrap_or_default()));
    }
    for (tone, word, key) in [
        (Tone::Doubtful, "does not see", "does_not_see"),
        (Tone::Doubtful, "not used", "not_used"),
        (Tone::Bad, "condition", "conditions"),
    ] {
        for text in status[key].as_array().into_iter().flatten().filter_map(Value::as_str) {
            lines.push((tone, format!("{word}: {text}")));
        }
    }
    Report { summary: "; state only".to_owned(), lines, ..Report::default() }
}

#[cfg(test)]
mod tests {
    use super::super::tests::shown;

    #[test]
    fn events_have_a_line_each_and_a_tree_is_indented() {
        let json = r#"{"foundanything":true,"success":true,"elements":{"events":[
            {"time":"x","kind":"exec","pid":7,"user":"ann","argv":["sh","-c","x y"],"depth":0},
            {"time":"x","kind":"exec","pid":8,"user":"ann","argv":["y"],"depth":1},
            {"kind":"connect","pid":8,"path":"/y","remote":"2001:db8::1","remote_port":443,"outcome":"open"}]},
            "statistics":{"examined":90,"totalhits":3,"exectime":"1ms"},"coverage":{"complete":true}}"#;

        let text = shown("events", json, None);
        let lines: Vec<&str> = text.lines().collect();

        assert_eq!(lines[0], "events: found 3 in 90 events, 1ms");
        assert!(lines[2].ends_with("ann   sh -c x y"), "{text}");
        assert!(lines[3].ends_with("ann     y"), "{text}");
        assert!(lines[4].ends_with("/y to [2001:db8::1]:443, open"), "{text}");
    }

    #[test]
    fn masked_events_are_kinds_and_numbers() {
        let json = r#"{"foundanything":true,"success":true,"elements":{"events":[{"kind":"exec"}]},
            "statistics":{"examined":9,"totalhits":1,"exectime":"1ms"},"coverage":{"complete":true}}"#;

        assert!(shown("events", json, None).contains("exec"));
    }
}
