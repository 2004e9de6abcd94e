//! What `fswatch` answers and tells, for people: what happened, who did it and why it matters, within 100 columns.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde_json::Value;
use vigie_protocol::result::ModuleResult;

use crate::print::{Paint, Tone};
use crate::report::{count, push_left_out};
use crate::table::{Room, Table};

/// Longest line.
const COLUMNS: usize = 100;

/// Hexadecimal digits that are shown of a digest; JSON has all.
const DIGEST_DIGITS: usize = 8;

/// Reads when a plan is over: a time of day is the next one by the clock on the wall.
pub(crate) fn end_of_plan(text: &str) -> Result<String, String> {
    end_after(text, &Zoned::now())
}

fn end_after(text: &str, now: &Zoned) -> Result<String, String> {
    if let Ok(time) = text.parse::<jiff::civil::Time>() {
        let today = now.with().time(time).build().map_err(|error| error.to_string())?;
        let next = if today > *now {
            Ok(today)
        } else {
            now.tomorrow().and_then(|day| day.with().time(time).build())
        };
        return next.map(|end| end.timestamp().to_string()).map_err(|error| error.to_string());
    }
    if text.parse::<Timestamp>().is_ok() || humantime::parse_duration(text).is_ok() {
        return Ok(text.to_owned());
    }
    Err("use a time of day such as 04:00, a time such as 2026-01-31T04:00:00Z, or a duration such as 2h"
        .to_owned())
}

/// How an answer is shown.
pub(crate) struct View {
    pub(crate) paint: Paint,
    pub(crate) zone: TimeZone,
}

/// An answer with a form of its own; `None` when it has none, or something went wrong.
pub(crate) fn of_result(result: &ModuleResult, room: Room, paint: Paint) -> Option<String> {
    if !result.success || result.errors.iter().flatten().next().is_some() {
        return None;
    }
    let elements: Value = serde_json::from_str(result.elements.as_deref()?.get()).ok()?;
    let mut text = View { paint, zone: TimeZone::system() }.answer(&elements)?;
    // The status names it itself.
    if elements["backends"].is_null() {
        push_left_out(&mut text, result, room, paint);
    }
    Some(text)
}

/// An answer on one line, beside those of other hosts.
pub(crate) fn summary(result: &ModuleResult) -> Option<String> {
    let elements: Value = serde_json::from_str(result.elements.as_deref()?.get()).ok()?;
    let length = |key: &str| elements[key].as_array().map(|list| list.len() as u64);
    if let Some(changes) = length("changes") {
        return Some(count(elements["matching"].as_u64().unwrap_or(changes), "changes"));
    }
    if let Some(listed) = length("unaccepted") {
        return Some(count(listed + elements["not_listed"].as_u64().unwrap_or(0), "unaccepted changes"));
    }
    let text = View { paint: Paint::new(false), zone: TimeZone::system() }.answer(&elements)?;
    text.lines().next().map(str::to_owned)
}

/// An alert of `fswatch`; `None` for what is no alert of the form that it promises.
pub(crate) fn of_alert(message: &str, paint: Paint) -> Option<String> {
    let alert: Value = serde_json::from_str(message).ok()?;
    let has = |key: &str| alert[key].is_string();
    (has("severity") && has("alert") && has("time"))
        .then(|| View { paint, zone: TimeZone::system() }.change(&alert))
}

/// Characters that nobody sees, or that change how others are shown.
fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{a0}' | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{2000}'..='\u{200f}' | '\u{2028}'..='\u{202f}' | '\u{205f}'..='\u{206f}'
            | '\u{3000}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// Foreign text on one line: what nobody sees is escaped, and so is a blank at either end.
fn plain(text: &str) -> String {
    let last = text.chars().count().saturating_sub(1);
    let mut plain = String::with_capacity(text.len());
    for (index, character) in text.chars().enumerate() {
        if character == ' ' && (index == 0 || index == last) {
            plain.push_str("\\x20");
        } else if is_invisible(character) {
            plain.push_str(&format!("\\u{{{:x}}}", u32::from(character)));
        } else {
            plain.push(character);
        }
    }
    plain
}

/// A text that takes at most so many columns; of a path the end says more than the middle.
fn cut(text: &str, columns: usize) -> String {
    let count = text.chars().count();
    if count <= columns {
        return text.to_owned();
    }
    let kept = columns.saturating_sub(1);
    let (begin, end) = (kept / 2, kept - kept / 2);
    let first: String = text.chars().take(begin).collect();
    let last: String = text.chars().skip(count - end).collect();
    format!("{first}…{last}")
}

/// Words in lines of at most [`COLUMNS`], all but the first indented.
fn wrapped(text: &str, indentation: usize) -> Vec<String> {
    let room = COLUMNS - indentation;
    let mut lines = vec![String::new()];
    for word in text.split(' ').map(|word| cut(word, room)) {
        let line = lines.last_mut().expect("there is one from the beginning");
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > room {
            lines.push(word);
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&word);
        }
    }
    lines.into_iter().map(|line| format!("{:indentation$}{line}", "")).collect()
}

fn tone(severity: &str) -> Tone {
    match severity {
        "critical" | "high" => Tone::Bad,
        "medium" => Tone::Doubtful,
        _ => Tone::Plain,
    }
}

/// Digests in a sentence, shortened.
fn short_digests(text: &str) -> String {
    let is_digest = |word: &str| word.len() >= 32 && word.chars().all(|c| c.is_ascii_hexdigit());
    let word = |word: &str| {
        let bare = word.trim_end_matches([',', ';', ')', ':']);
        if is_digest(bare) {
            format!("{}…{}", &bare[..DIGEST_DIGITS], &word[bare.len()..])
        } else {
            word.to_owned()
        }
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Who did it: name, program, and from where.
fn who(process: &Value) -> Option<String> {
    let pid = process["pid"].as_u64()?;
    let name = |name: &str, id: &str| {
        let id = process[id].as_u64().map(|id| format!("uid {id}"));
        process[name].as_str().map(plain).or(id)
    };
    let mut text = String::from("by ");
    match (name("user_name", "user"), name("login_name", "login_user")) {
        (Some(user), Some(login)) if user != login => text.push_str(&format!("{login} as {user}")),
        (Some(user), _) => text.push_str(&user),
        (None, Some(login)) => text.push_str(&login),
        (None, None) => text.push_str("somebody"),
    }
    if let Some(now) = name("user_now_name", "user_now") {
        text.push_str(&format!(", now {now}"));
    }
    let is_claimed = |key: &str| {
        process["claimed"].as_array().is_some_and(|keys| keys.iter().any(|claimed| claimed == key))
    };
    match (process["executable"].as_str(), process["claimed_executable"].as_str()) {
        (Some(program), _) if is_claimed("executable") => {
            text.push_str(&format!(", apparently {}", plain(program)));
        }
        (Some(program), _) => text.push_str(&format!(", {}", plain(program))),
        (None, Some(claim)) => text.push_str(&format!(", calls itself {} and is not", plain(claim))),
        (None, None) => {
            let why = process["unknown"]["executable"].as_str().unwrap_or("nobody knows why");
            text.push_str(&format!(", unknown program ({})", plain(why)));
        }
    }
    if let Some(script) = process["script"].as_str() {
        text.push_str(&format!(" {}", plain(script)));
    }
    text.push_str(&format!(" (pid {pid})"));
    if let Some(parent) = process["parent"]["executable"].as_str() {
        text.push_str(&format!(", from {}", plain(parent)));
    }
    if let Some(container) = process["container"].as_str() {
        text.push_str(&format!(", in {}", cut(&plain(container), 30)));
    }
    if process["mount_namespace"].is_u64() {
        text.push_str(", in another mount namespace");
    }
    Some(text)
}

/// Why it matters: rights, package, rule, technique.
fn why(change: &Value) -> Option<String> {
    let mut parts = Vec::new();
    let package = &change["package"];
    if let Some(name) = package["name"].as_str() {
        let name = format!("{} {}", plain(name), plain(package["version"].as_str().unwrap_or_default()));
        parts.push(match package["as_recorded"].as_bool() {
            Some(true) => format!("as {name} has it"),
            Some(false) if package["configuration"] == true => {
                format!("not as {name} has it, which is configuration")
            }
            Some(false) => format!("not as {name} has it"),
            None => format!("belongs to {name}"),
        });
    }
    if let Some(rule) = change["rule"].as_str().filter(|rule| !rule.is_empty()) {
        parts.push(format!("watched by {}", plain(rule)));
    }
    let tags: Vec<String> =
        change["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).map(plain).collect();
    let (techniques, others): (Vec<String>, Vec<String>) =
        tags.into_iter().partition(|tag| is_technique(tag));
    if !techniques.is_empty() {
        parts.push(format!("ATT&CK {}", techniques.join(", ")));
    }
    if !others.is_empty() {
        parts.push(others.join(", "));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// `T1543.002`
fn is_technique(tag: &str) -> bool {
    tag.strip_prefix('T')
        .is_some_and(|number| number.len() >= 4 && number.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

impl View {
    /// A time as the clock on the wall shows it.
    fn time(&self, text: &str) -> String {
        match text.parse::<Timestamp>() {
            Ok(time) => time.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
            Err(_) => plain(text),
        }
    }

    /// One change: what, who and why.
    pub(crate) fn change(&self, change: &Value) -> String {
        let severity = plain(change["severity"].as_str().unwrap_or("-"));
        let time = self.time(change["time"].as_str().unwrap_or_default());
        let sentence = short_digests(&plain(change["alert"].as_str().unwrap_or_default()));
        let indentation = time.chars().count() + 11;
        let mut lines = wrapped(&sentence, indentation).into_iter();
        let first = lines.next().unwrap_or_default();
        let mut text = format!(
            "{} {} {}",
            self.paint.text(Tone::Faint, &time),
            self.paint.text(tone(&severity), &format!("{severity:9}")),
            first.trim_start()
        );
        let window = change["window"]["from"].as_str().zip(change["window"]["to"].as_str());
        let window = window.map(|(from, to)| format!("between {} and {}", self.time(from), self.time(to)));
        let more = [who(&change["process"]), window, why(change)];
        let more = more.iter().flatten().flat_map(|part| wrapped(part, indentation));
        for line in lines.map(|line| (Tone::Plain, line)).chain(more.map(|line| (Tone::Faint, line))) {
            text.push('\n');
            text.push_str(&self.paint.text(line.0, &line.1));
        }
        text
    }

    /// An answer of `fswatch`; `None` for one that has no form of its own.
    pub(crate) fn answer(&self, elements: &Value) -> Option<String> {
        if let Some(changes) = elements["changes"].as_array() {
            return Some(self.timeline(changes, elements));
        }
        if let Some(unaccepted) = elements["unaccepted"].as_array() {
            return Some(self.unaccepted(unaccepted, elements["not_listed"].as_u64().unwrap_or(0)));
        }
        if let Some(backends) = elements["backends"].as_array() {
            return Some(self.status(backends, elements));
        }
        self.carried_out(elements)
    }

    /// What became of an order, or why a path is watched: the first line says it.
    fn carried_out(&self, elements: &Value) -> Option<String> {
        let paths = |key: &str| -> Option<Vec<String>> {
            Some(elements[key].as_array()?.iter().filter_map(Value::as_str).map(plain).collect())
        };
        let several = |paths: &[String]| count(paths.len() as u64, "paths");
        let mut lines = Vec::new();
        if let Some(sentence) = elements["explanation"].as_str() {
            lines.push(plain(sentence));
            let backend = &elements["backend"];
            if let Some(name) = backend["name"].as_str() {
                let why = backend["why"].as_str().map(|why| format!(": {}", plain(why))).unwrap_or_default();
                lines.push(format!("changes come from {}{why}", plain(name)));
            }
            if let Some(proved) = elements["proof"]["proved"].as_str() {
                lines.push(format!("change detection last proved at {}", self.time(proved)));
            }
            if let Some(blind) = elements["proof"]["blind_since"].as_str() {
                lines.push(format!("no change comes back since {}", self.time(blind)));
            }
        } else if let Some(accepted) = paths("accepted") {
            match accepted.len() {
                0 => lines.push("nothing to accept: no change there is unaccepted".to_owned()),
                _ => lines.push(format!("accepted the changes of {}", several(&accepted))),
            }
            lines.extend(accepted.into_iter().map(|path| format!("accepted: {path}")));
        } else if let Some(expected) = paths("expected") {
            let until = self.time(elements["until"].as_str().unwrap_or_default());
            lines.push(format!("expects changes of {} until {until}", several(&expected)));
            lines.extend(expected.into_iter().map(|path| format!("expected: {path}")));
        } else if elements["rescanned"] == true {
            let number = |key: &str| elements[key].as_u64().unwrap_or_default();
            lines.push(format!(
                "compared {}, {}; read {} in {:.1} s",
                count(number("compared"), "objects"),
                if number("differing") == 1 {
                    "1 differs".to_owned()
                } else {
                    format!("{} differ", number("differing"))
                },
                crate::print::size(number("bytes_read")),
                elements["seconds"].as_f64().unwrap_or_default()
            ));
        } else if let Some(unwatched) = paths("not_watched") {
            let why = plain(elements["why"].as_str().unwrap_or("not watched"));
            lines.push(format!("{}: {why}", unwatched.join(", ")));
        } else {
            return None;
        }
        let lines = lines.iter().flat_map(|line| wrapped(line, 2));
        Some(lines.map(|line| line.trim_start().to_owned() + "\n").collect())
    }

    /// How the module is.
    fn status(&self, backends: &[Value], elements: &Value) -> String {
        let number = |key: &str| elements[key].as_u64().unwrap_or_default();
        let word = |value: &Value| plain(value.as_str().unwrap_or("-"));
        let list = |key: &str| elements[key].as_array().map(Vec::as_slice).unwrap_or_default().iter();
        let mut lines = vec![(
            Tone::Plain,
            format!("watches {} paths with {} objects", number("paths"), number("files")),
        )];
        if elements["baseline_complete"] == false {
            lines.push((
                Tone::Doubtful,
                "the first scan is in progress; changes are reported afterwards".to_owned(),
            ));
        }
        lines.extend(list("problems").map(|problem| (Tone::Bad, format!("! {}", word(problem)))));
        lines.push((
            Tone::Plain,
            format!(
                "{} alerts since the start, {} unaccepted changes, {} paths waiting to be inspected",
                number("alerts"),
                number("unaccepted"),
                number("pending")
            ),
        ));
        for backend in backends {
            let why = backend["why"].as_str().map(|why| format!(": {}", plain(why))).unwrap_or_default();
            let line = format!("{} by {}{why}", word(&backend["file_system"]), word(&backend["backend"]));
            lines.push((Tone::Plain, line));
        }
        let proved = list("proofs").chain([&elements["canary"]]).filter_map(|one| one["proved"].as_str());
        if let Some(proved) = proved.max() {
            lines.push((Tone::Plain, format!("change detection last proved at {}", self.time(proved))));
        }
        let kinds = [
            ("unwatched", "not watched"),
            ("unreadable", "not readable"),
            ("skipped", "left out"),
            ("blind_between_scans", "detected only by scans"),
        ];
        for (key, what) in kinds {
            for one in list(key) {
                let path = one["path"].as_str().or(one["file_system"].as_str()).unwrap_or("-");
                let reason = one["reason"].as_str().or(one["why"].as_str()).unwrap_or("-");
                lines.push((Tone::Faint, format!("{what}: {}: {}", plain(path), plain(reason))));
            }
        }
        lines.extend(list("waiting").map(|path| (Tone::Faint, format!("waited for: {}", word(path)))));
        let mut text = String::new();
        for (tone, line) in lines {
            for part in wrapped(&line, 2) {
                text.push_str(&self.paint.text(tone, part.trim_start()));
                text.push('\n');
            }
        }
        text
    }

    fn timeline(&self, changes: &[Value], elements: &Value) -> String {
        let mut text = String::new();
        for change in changes {
            text.push_str(&self.change(change));
            text.push('\n');
        }
        let matching = elements["matching"].as_u64().unwrap_or(changes.len() as u64);
        if matching > changes.len() as u64 {
            text.push_str(&format!(
                "the newest {} of {matching} changes; more with --newest {matching}\n",
                changes.len()
            ));
        } else if changes.is_empty() {
            text.push_str("nothing changed\n");
        }
        if elements["now"].is_object() {
            text.push_str(&self.known(&elements["now"]));
        }
        text
    }

    /// What is known of a path now.
    fn known(&self, now: &Value) -> String {
        let path = plain(now["path"].as_str().unwrap_or_default());
        let Some(known) = now["known"].as_object() else { return format!("now: {path} is not known\n") };
        let part = |key: &str, value: &Value| match value {
            Value::String(text) if key == "sha256" => Some(format!("sha256 {}", short_digests(text))),
            Value::String(text) if key == "modified" => Some(format!("modified {}", self.time(text))),
            Value::String(text) => Some(format!("{key} {}", plain(text))),
            Value::Number(number) => Some(format!("{key} {number}")),
            _ => None,
        };
        let parts: Vec<String> = known.iter().filter_map(|(key, value)| part(key, value)).collect();
        let mut lines = wrapped(&format!("now: {}", parts.join(", ")), 0);
        if let Some(since) = now["unaccepted"]["since"].as_str() {
            lines.push(format!("its change of {} has not been accepted", self.time(since)));
        }
        format!("{}\n", lines.join("\n"))
    }

    fn unaccepted(&self, changes: &[Value], not_listed: u64) -> String {
        if changes.is_empty() {
            return "everything is accepted\n".to_owned();
        }
        let mut table = Table::simple(&["SINCE", "WHAT", "PATH"]);
        for change in changes {
            let text = |key: &str| change[key].as_str().unwrap_or_default();
            table.add([self.time(text("since")), plain(text("event")), cut(&plain(text("path")), 64)]);
        }
        let more = if not_listed > 0 { format!("and {not_listed} more\n") } else { String::new() };
        format!(
            "{}{more}{} changes; accept them with: vigie query fswatch --accept PATH\n",
            table.text(Room::default(), self.paint),
            changes.len() as u64 + not_listed
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn view() -> View {
        View { paint: Paint::new(false), zone: TimeZone::fixed(jiff::tz::offset(2)) }
    }

    fn change() -> Value {
        json!({
            "severity": "critical", "event": "changed", "path": "/usr/bin/passwd", "time": "2026-01-31T22:00:01.000Z",
            "alert": format!("/usr/bin/passwd signature changed {} -> {}", "0123456789abcdef".repeat(4), "f".repeat(64)),
            "process": {
                "pid": 7, "executable": "/usr/bin/vim", "user": 0, "user_name": "root", "login_user": 1000,
                "login_name": "ann", "parent": {"pid": 5, "executable": "/usr/bin/bash"}, "container": "ssh.service",
            },
            "package": {"name": "passwd", "version": "1:4.13", "as_recorded": false},
            "rule": "recursive:/usr/bin", "tags": ["T1554", "web"],
        })
    }

    #[test]
    fn a_change_says_what_who_and_why_in_local_time_with_short_digests() {
        assert_eq!(
            view().change(&change()),
            "2026-02-01 00:00:01 critical  /usr/bin/passwd signature changed 01234567… -> ffffffff…\n\
             \x20                             by ann as root, /usr/bin/vim (pid 7), from /usr/bin/bash, in\n\
             \x20                             ssh.service\n\
             \x20                             not as passwd 1:4.13 has it; watched by recursive:/usr/bin; ATT&CK\n\
             \x20                             T1554; web"
        );
    }

    #[test]
    fn what_somebody_claims_is_not_told_as_a_fact() {
        let told = |process: Value| who(&process).unwrap();

        assert_eq!(
            told(
                json!({"pid": 7, "user": 0, "user_name": "root", "user_now": 33, "user_now_name": "www-data",
                        "executable": "/usr/sbin/nginx"})
            ),
            "by root, now www-data, /usr/sbin/nginx (pid 7)"
        );
        assert_eq!(
            told(json!({"pid": 7, "user": 9, "executable": "/usr/bin/x", "claimed": ["executable"]})),
            "by uid 9, apparently /usr/bin/x (pid 7)"
        );
        assert_eq!(
            told(json!({"pid": 7, "claimed_executable": "/usr/bin/dpkg", "mount_namespace": 5})),
            "by somebody, calls itself /usr/bin/dpkg and is not (pid 7), in another mount namespace"
        );
        assert!(
            told(json!({"pid": 7, "unknown": {"executable": "the process had ended"}})).contains("had ended")
        );
    }

    #[test]
    fn what_nobody_sees_is_escaped() {
        assert_eq!(plain("a\u{200b}b\u{202e}c \n"), "a\\u{200b}b\\u{202e}c \\u{a}");
        assert_eq!((plain(" a b "), plain("ä€漢")), ("\\x20a b\\x20".to_owned(), "ä€漢".to_owned()));
    }

    #[test]
    fn answers_are_timelines_and_tables() {
        let timeline = view().answer(&json!({"changes": [change()], "matching": 3})).unwrap();
        assert!(timeline.ends_with("the newest 1 of 3 changes; more with --newest 3\n"), "{timeline}");
        let known = json!({"path": "/a", "known": {"kind": "file", "size": 3, "sha256": "a".repeat(64)},
            "unaccepted": {"event": "changed", "since": "2026-01-31T22:00:01Z"}});
        assert_eq!(
            view().answer(&json!({"changes": [], "matching": 0, "now": known})).unwrap(),
            "nothing changed\nnow: kind file, sha256 aaaaaaaa…, size 3\n\
             its change of 2026-02-01 00:00:01 has not been accepted\n"
        );
        let unaccepted = json!({"unaccepted": [{"path": "/etc/hosts", "event": "changed", "since": "2026-01-31T22:00:01Z"}], "not_listed": 0});
        assert_eq!(
            view().answer(&unaccepted).unwrap(),
            "SINCE                WHAT     PATH\n2026-02-01 00:00:01  changed  /etc/hosts\n\
             1 changes; accept them with: vigie query fswatch --accept PATH\n"
        );
        assert_eq!(view().answer(&json!({"ok": true})), None);
    }

    #[test]
    fn what_became_of_an_order_is_said_in_a_line() {
        for (elements, text) in [
            (
                json!({"path": "/etc/a", "watched": true, "explanation": "/etc/a is watched by /etc",
                    "backend": {"name": "inotify", "why": "no handles"}, "proof": {"proved": "2026-01-31T22:00:01Z"}}),
                "/etc/a is watched by /etc\nchanges come from inotify: no handles\n\
                 change detection last proved at 2026-02-01 00:00:01\n",
            ),
            (
                json!({"accepted": ["/etc/a", "/etc/\u{1b}"]}),
                "accepted the changes of 2 paths\naccepted: /etc/a\naccepted: /etc/\\u{1b}\n",
            ),
            (json!({"accepted": []}), "nothing to accept: no change there is unaccepted\n"),
            (
                json!({"expected": ["/etc"], "id": "1-e1", "until": "2026-01-31T22:00:01Z"}),
                "expects changes of 1 path until 2026-02-01 00:00:01\nexpected: /etc\n",
            ),
            (
                json!({"rescanned": true, "compared": 1200, "differing": 1, "bytes_read": 12, "seconds": 0.25}),
                "compared 1,200 objects, 1 differs; read 12 B in 0.2 s\n",
            ),
            (json!({"not_watched": ["/x"], "why": "not watched"}), "/x: not watched\n"),
        ] {
            assert_eq!(view().answer(&elements).unwrap(), text);
        }
        let result = |elements: Value| ModuleResult::found(true, &elements);
        let one_line = |elements| summary(&result(elements)).unwrap();
        assert_eq!(one_line(json!({"changes": [change()], "matching": 3})), "3 changes");
        assert_eq!(one_line(json!({"unaccepted": [{}], "not_listed": 0})), "1 unaccepted change");
        assert_eq!(one_line(json!({"accepted": ["/a"]})), "accepted the changes of 1 path");
    }

    #[test]
    fn nothing_changed_is_not_all_when_something_is_not_watched() {
        let result: ModuleResult = serde_json::from_str(
            r#"{"foundanything":false,"success":true,"elements":{"changes":[],"matching":0},
                "coverage":{"complete":false,"examined":1,"not_examined":[{"what":"/srv/x","why":"not watched: no"}]}}"#,
        )
        .unwrap();

        let text = of_result(&result, Room::default(), Paint::new(false)).unwrap();

        assert_eq!(text, "nothing changed\nnot examined /srv/x: not watched: no\n");
    }

    #[test]
    fn the_status_says_what_is_watched_how_and_what_is_wrong() {
        let status = json!({
            "ok": false, "problems": ["1 directories are not watched"], "baseline_complete": true, "paths": 3,
            "files": 7, "alerts": 2, "unaccepted": 1, "pending": 0,
            "backends": [{"file_system": "/srv", "backend": "inotify", "why": "no handles"}],
            "proofs": [{"proved": "2026-01-31T22:00:01Z"}], "canary": null,
            "unwatched": [{"path": "/srv/a\u{1b}", "reason": "File name too long"}], "waiting": ["/srv/later"],
        });

        assert_eq!(
            view().answer(&status).unwrap(),
            "watches 3 paths with 7 objects\n! 1 directories are not watched\n\
             2 alerts since the start, 1 unaccepted changes, 0 paths waiting to be inspected\n\
             /srv by inotify: no handles\nchange detection last proved at 2026-02-01 00:00:01\n\
             not watched: /srv/a\\u{1b}: File name too long\nwaited for: /srv/later\n"
        );
    }

    #[test]
    fn a_time_of_day_is_the_next_one_here() {
        let now: Zoned = "2026-01-31T22:30:00+02:00[+02:00]".parse().unwrap();

        assert_eq!(end_after("04:00", &now).unwrap(), "2026-02-01T02:00:00Z");
        assert_eq!(end_after("23:00", &now).unwrap(), "2026-01-31T21:00:00Z");
        assert_eq!(end_after("2h", &now).unwrap(), "2h");
        assert!(end_after("soon", &now).is_err());
    }

    proptest! {
        #[test]
        fn no_line_is_longer_than_100_columns_whatever_the_names(
            path in ".{0,300}", name in ".{0,120}", event in "[a-z]{0,9}"
        ) {
            let told = json!({
                "severity": "high", "event": event, "path": path, "time": "2026-01-31T22:00:01Z",
                "alert": format!("path {path} created"), "rule": path, "tags": [name.clone()],
                "process": {"pid": 1, "executable": path, "user_name": name.clone(), "container": name},
            });
            for line in view().change(&told).lines() {
                prop_assert!(line.chars().count() <= COLUMNS, "{}", line);
                prop_assert!(!line.chars().any(is_invisible));
            }
        }
    }
}
