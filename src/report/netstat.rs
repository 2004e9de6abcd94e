//! What `netstat` found.

use std::collections::BTreeMap;

use serde_json::Value;
use vigie_protocol::result::ModuleResult;

use super::{Report, count, found_in, read, text_of};
use crate::table::{Cell, Column, Fit, Table};

/// The matches of each kind by asked value.
type Elements = BTreeMap<String, BTreeMap<String, Option<Vec<Value>>>>;

pub(super) fn report(result: &ModuleResult) -> Option<Report> {
    let elements: Elements = read(result.elements.as_deref())?;
    let statistics: Value = read(result.statistics.as_deref()).unwrap_or_default();
    let mut table = Table::new([
        Column::new("PROTO"),
        Column::new("STATE").rank(3),
        Column::new("LOCAL"),
        Column::new("REMOTE"),
        Column::new("PID").rank(1),
        Column::new("PROCESS").fit(Fit::CutEnd).rank(1),
        Column::new("USER").rank(2),
        Column::new("ASKED").rank(4),
        Column::new("HARDWARE").wide(),
        Column::new("INTERFACE").wide(),
        Column::new("NAMESPACE").wide(),
        Column::new("EXECUTABLE").wide(),
        Column::new("CONTAINER").wide(),
        Column::new("EVIDENCE").wide(),
    ]);
    let mut found = 0;
    for (kind, asked) in &elements {
        for (value, matches) in asked {
            for one in matches.iter().flatten() {
                found += 1;
                table.add(row(kind, value, one));
            }
        }
    }
    let examined = count(statistics["examined"].as_u64().unwrap_or(0), "sockets");
    let took = text_of(&statistics, "exectime");
    let others = match (statistics["othernamespaces"].as_u64(), statistics["othernamespacesunknown"].as_str())
    {
        (None, None) => String::new(),
        (Some(1), None) => "; 1 other network namespace is not searched without --namespaces".to_owned(),
        (Some(others), None) => {
            format!("; {others} other network namespaces are not searched without --namespaces")
        }
        (known, Some(why)) => {
            let known = known.map_or_else(String::new, |known| format!("at least {known}, "));
            format!("; other network namespaces are not searched without --namespaces ({known}{why})")
        }
    };
    let summary = match elements.is_empty() {
        true => "nothing was run".to_owned(),
        false => format!("{}, {took}{others}", found_in(found, &examined)),
    };
    Some(Report { summary, table, ..Report::default() })
}

fn row(kind: &str, asked: &str, one: &Value) -> Vec<Cell> {
    let text = |key: &str| text_of(one, key);
    let end = |address: &str, port: &str| {
        let (address, port) = (text(address), text(port));
        match (address.is_empty(), port.is_empty()) {
            (true, true) => String::new(),
            (_, true) => address,
            (_, false) if address.contains(':') => format!("[{address}]:{port}"),
            (_, false) => format!("{address}:{port}"),
        }
    };
    let processes: Vec<&Value> = one["processes"].as_array().into_iter().flatten().collect();
    let of_each = |key: &str| {
        let mut all: Vec<String> = processes.iter().map(|process| text_of(process, key)).collect();
        all.dedup();
        all.retain(|text| !text.is_empty());
        all.join(",")
    };
    let local = match text("path") {
        // As programs take it.
        path if path.is_empty() && !text("zone").is_empty() => text("localaddr") + "%" + &text("zone"),
        path if path.is_empty() => end("localaddr", "localport"),
        path => path,
    };
    let hardware = [text("localmacaddr"), text("remotemacaddr")].concat();
    let user = if of_each("user").is_empty() { text("uid") } else { of_each("user") };
    [
        text("protocol"),
        text("state"),
        local,
        end("remoteaddr", "remoteport"),
        of_each("pid"),
        of_each("command"),
        user,
        format!("{kind} {asked}").trim_end().to_owned(),
        hardware,
        text("interface"),
        text("namespace"),
        of_each("executable"),
        of_each("container"),
        text("evidence"),
    ]
    .map(Cell::from)
    .into()
}

#[cfg(test)]
mod tests {
    use super::super::tests::shown;

    #[test]
    fn each_socket_is_a_line() {
        let text = shown(
            "netstat",
            r#"{"foundanything":true,"success":true,"elements":{"listeningport":{"22":[
                {"localaddr":"::","localport":22,"protocol":"tcp","state":"listen","processes":[{"pid":7,"command":"sshd"}]}],
                "23":null}},"statistics":{"examined":1200,"exectime":"2ms","totalhits":1},"errors":null}"#,
            None,
        );

        assert_eq!(
            text,
            "\
netstat: found 1 in 1,200 sockets, 2ms
PROTO  STATE   LOCAL    REMOTE  PID  PROCESS  USER  ASKED
tcp    listen  [::]:22          7    sshd           listeningport 22
"
        );
    }
}
