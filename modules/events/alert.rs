//! The texts of alerts, and a process as JSON.

use serde_json::{Map, Value, json};
use vigie_host::shown;
use vigie_host::users::Names;

use crate::alert_budget::HeldBack;
use crate::engine::Lost;
use crate::record::{Record, What};
use crate::rules::{Facts, Fired};
use crate::table::Process;

/// Ancestors that an alert names.
const ANCESTORS: usize = 8;

/// A time in RFC 3339; microseconds since 1970.
pub(crate) fn time_text(time: i64) -> String {
    jiff::Timestamp::from_microsecond(time).map_or_else(|_| time.to_string(), |time| time.to_string())
}

/// A user by name, where the host's files have one.
pub(crate) fn user(names: &Names, uid: u32) -> String {
    names.user(uid).map_or_else(|| uid.to_string(), str::to_owned)
}

fn process(process: &Process, names: &Names) -> Value {
    let mut all = Map::new();
    all.insert("pid".to_owned(), process.key.pid.into());
    all.insert("start".to_owned(), process.key.start.into());
    all.insert("path".to_owned(), shown(&process.program.path).into());
    all.insert("command".to_owned(), shown(&process.command).into());
    all.insert("user".to_owned(), user(names, process.rights.euid).into());
    if let Some(login) = process.rights.login_uid {
        all.insert("login".to_owned(), user(names, login).into());
    }
    all.into()
}

/// The alert of a rule.
pub(crate) fn text(fired: &Fired<'_>, facts: &Facts<'_>, record: &Record, names: &Names) -> String {
    let rule = fired.rule;
    let path = shown(facts.program_path());
    let by = user(names, facts.uid());
    let mut alert = json!({
        "severity": rule.severity.name(),
        "alert": format!("{}: {path}, user {by}, pid {}", rule.title, record.who.pid),
        "rule": rule.id,
        "attack": rule.attack,
        "time": time_text(record.time),
        "kind": record.what.kind().name(),
        "ancestors": facts.ancestors().take(ANCESTORS).map(|one| process(one, names)).collect::<Vec<_>>(),
    });
    if let Some(own) = facts.process() {
        alert["process"] = process(own, names);
    }
    match &record.what {
        What::Exec(run) if !run.filename.is_empty() => alert["filename"] = shown(&run.filename).into(),
        What::Socket(socket) => {
            alert["remote"] = format!("{}:{}", socket.remote, socket.remote_port).into();
            alert["local"] = format!("{}:{}", socket.local, socket.local_port).into();
        }
        _ => {}
    }
    if !rule.benign.is_empty() {
        alert["benign"] = rule.benign.clone().into();
    }
    if fired.repeated > 0 {
        alert["repeated"] = fired.repeated.into();
    }
    alert.to_string()
}

/// The alert of a loss.
pub(crate) fn lost(lost: &Lost, now: i64) -> String {
    let mut alert = json!({
        "severity": "medium",
        "alert": format!("{lost} were lost"),
        "event": "lost",
        "kind": lost.kind,
        "count": lost.count,
        "from": time_text(lost.from),
        "to": time_text(now),
    });
    if let Some(whose) = lost.whose {
        alert["whose"] = whose.name().into();
    }
    alert.to_string()
}

/// The alert that stands for those that were too many.
pub(crate) fn held_back(held_back: &HeldBack, now: i64) -> String {
    json!({
        "severity": held_back.severity,
        "alert": format!(
            "{} more alerts of rule {} about {} within a minute, not reported one by one",
            held_back.count, held_back.rule, held_back.account
        ),
        "event": "held-back",
        "rule": held_back.rule,
        "count": held_back.count,
        "from": time_text(held_back.from),
        "to": time_text(now),
    })
    .to_string()
}
