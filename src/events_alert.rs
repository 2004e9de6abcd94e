//! From an alert to the process that it is about, and from events back to alerts: both name a process by its number and
//! its beginning.

use std::collections::HashMap;
use std::path::Path;

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};
use vigie_protocol::control::{AlertRecord, Reply, Request};
use vigie_protocol::result::ModuleResult;

use crate::client::{Client, PROMPT, unexpected};
use crate::exit::{Exit, Failure};

/// How exact the beginning of a process is where only `/proc` told it, in microseconds.
const TICK: u64 = 10_000;

/// A process as alerts and events name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    pid: u64,
    /// Microseconds since the start of the host.
    start: Option<u64>,
}

impl Identity {
    fn of(object: &Value) -> Option<Self> {
        Some(Self { pid: object["pid"].as_u64().filter(|pid| *pid > 0)?, start: object["start"].as_u64() })
    }

    /// The query for its tree as it was at a moment.
    fn tree(self, time: &str) -> Map<String, Value> {
        let mut parameters = Map::new();
        parameters.insert("tree".to_owned(), json!(format!("{}@{time}", self.pid)));
        if let Some(start) = self.start {
            parameters.insert("start".to_owned(), json!(start));
        }
        parameters
    }
}

/// Hands on alerts of the journal, oldest first, until `take` has enough.
fn alerts(
    socket: &Path,
    after: Option<u64>,
    since: Option<String>,
    mut take: impl FnMut(AlertRecord) -> bool,
) -> Result<(), Failure> {
    let mut client = Client::connect(socket)?;
    let request = Request::Alerts { since, after, module: None, severity: None, last: None, follow: false };
    client.send(&request, Some(PROMPT))?;
    loop {
        match client.receive()? {
            Reply::Alert(alert) => {
                if take(alert) {
                    return Ok(());
                }
            }
            Reply::Missing(_) => {}
            Reply::End {} => return Ok(()),
            other => return Err(unexpected(&other)),
        }
    }
}

/// The processes that an alert names, the nearest one first, and when it was told.
fn named(alert: &AlertRecord) -> Result<(Vec<Identity>, String), Failure> {
    let said: Value = serde_json::from_str(&alert.message).unwrap_or_default();
    // A child that runs no program of its own has none in the history; its parent has.
    let mut processes: Vec<Identity> =
        [&said["process"], &said, &said["process"]["parent"], &said["ancestors"][0]]
            .into_iter()
            .filter_map(Identity::of)
            .collect();
    processes.dedup();
    if processes.is_empty() {
        let message = format!("alert {} of {} does not name a process", alert.seq, alert.module);
        return Err(Failure::new(Exit::NotKnown, message, "`vigie alerts` shows its content"));
    }
    let time = said["time"].as_str().unwrap_or(&alert.time).to_owned();
    Ok((processes, time))
}

/// The queries that lead from an alert to the process tree behind it; each is tried if the one before finds nothing.
///
/// # Errors
/// When the journal has no such alert, or it names no process.
pub(crate) fn questions(seq: u64, socket: &Path) -> Result<Vec<Map<String, Value>>, Failure> {
    let mut found = None;
    alerts(socket, Some(seq.saturating_sub(1)), None, |alert| {
        found = Some(alert);
        true
    })?;
    let Some(alert) = found.filter(|alert| alert.seq == seq) else {
        let message = format!("the journal has no alert {seq}");
        return Err(Failure::new(
            Exit::Usage,
            message,
            "`vigie alerts --json` lists alerts with their numbers (seq)",
        ));
    };
    let (processes, time) = named(&alert)?;
    Ok(processes.into_iter().map(|process| process.tree(&time)).collect())
}

/// Writes beside each event of an answer which alerts name its process: their numbers in the journal.
///
/// # Errors
/// When the agent does not answer.
pub(crate) fn add_alerts(result: &mut ModuleResult, socket: &Path) -> Result<(), Failure> {
    let Some(elements) = &result.elements else { return Ok(()) };
    let mut elements: Value = serde_json::from_str(elements.get()).unwrap_or_default();
    let Some(events) = elements["events"].as_array_mut() else { return Ok(()) };
    let since = events.iter().filter_map(|event| event["time"].as_str()).min().map(str::to_owned);
    let Some(since) = since else { return Ok(()) };
    let mut known: HashMap<u64, Vec<(Option<u64>, u64)>> = HashMap::new();
    alerts(socket, None, Some(since), |alert| {
        let said: Value = serde_json::from_str(&alert.message).unwrap_or_default();
        let process = Identity::of(&said["process"]).or_else(|| Identity::of(&said));
        if let Some(process) = process {
            known.entry(process.pid).or_default().push((process.start, alert.seq));
        }
        false
    })?;
    for event in events {
        let Some(Identity { pid, start: Some(start) }) = Identity::of(event) else { continue };
        // Without a beginning the number alone would name others as well.
        let is_it = |(of, _): &&(Option<u64>, u64)| of.is_some_and(|of| of.abs_diff(start) <= TICK);
        let numbers: Vec<u64> =
            known.get(&pid).into_iter().flatten().filter(is_it).map(|(_, seq)| *seq).collect();
        if !numbers.is_empty() {
            event["alerts"] = json!(numbers);
        }
    }
    let written: Result<Box<RawValue>, _> = to_raw_value(&elements);
    result.elements = Some(written.map_err(|error| {
        Failure::new(Exit::NotWell, format!("the answer cannot be written: {error}"), "leave --alerts out")
    })?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(message: &Value) -> AlertRecord {
        AlertRecord {
            seq: 7,
            time: "2026-01-02T03:04:05Z".to_owned(),
            module: "fswatch".parse().unwrap(),
            id: None,
            message: message.to_string(),
        }
    }

    #[test]
    fn an_alert_leads_to_its_process_and_then_to_who_started_it() {
        let said = json!({
            "time": "2026-01-02T03:04:04Z",
            "process": {"pid": 12, "start": 99_000_000, "parent": {"pid": 3, "executable": "/bin/sh"}},
        });

        let (processes, time) = named(&alert(&said)).unwrap();

        assert_eq!(processes.len(), 2);
        assert_eq!(
            Value::Object(processes[0].tree(&time)),
            json!({"tree": "12@2026-01-02T03:04:04Z", "start": 99_000_000})
        );
        assert_eq!(Value::Object(processes[1].tree(&time)), json!({"tree": "3@2026-01-02T03:04:04Z"}));
    }

    #[test]
    fn an_alert_without_a_process_says_so() {
        for said in [json!({"alert": "x"}), json!("text"), json!({"process": {"pid": 0}})] {
            assert_eq!(named(&alert(&said)).unwrap_err().exit, Exit::NotKnown);
        }
    }
}
