//! What `processes` found: one line for each process, or a tree.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use vigie_protocol::result::ModuleResult;

use super::{Report, count, found_in, local_time, read, text_of};
use crate::print::{Tone, size};
use crate::table::{Cell, Column, Fit, Table};

/// Deepest level of a tree that is drawn.
const MAX_DEPTH: usize = 40;

/// Flags that are worth a colour.
const BAD: [&str; 4] = ["deleted", "memfd", "named_like_kernel", "suspicious_library"];

pub(super) fn report(result: &ModuleResult) -> Option<Report> {
    let elements: Value = read(result.elements.as_deref())?;
    let statistics: Value = read(result.statistics.as_deref()).unwrap_or_default();
    let processes = elements["processes"].as_array()?;
    let mut table = Table::new([
        Column::new("PID").right(),
        Column::new("USER").rank(3),
        Column::new("START").rank(4),
        Column::new("NAME").fit(Fit::CutEnd),
        Column::new("FLAGS").rank(1),
        Column::new("LISTEN").rank(2),
        Column::new("PPID").right().wide(),
        Column::new("LOGIN").wide(),
        Column::new("STATE").wide(),
        Column::new("EXE").wide(),
        Column::new("CONTAINER").wide(),
        Column::new("MEMORY").right().wide(),
        Column::new("SHA256").wide(),
        Column::new("LIBRARIES").wide(),
        Column::new("FILES").wide(),
        Column::new("COMMAND").fit(Fit::CutEnd),
    ]);
    let is_tree = processes.iter().any(|process| process["related"] == true);
    let order =
        if is_tree { tree(processes) } else { (0..processes.len()).map(|at| (at, String::new())).collect() };
    for (at, branch) in order {
        table.add(row(&processes[at], &branch));
    }
    let number = |key: &str| statistics[key].as_u64().unwrap_or(0);
    let examined = count(number("examined"), "processes");
    let summary = found_in(number("totalhits"), &examined) + ", " + &text_of(&statistics, "exectime");
    Some(Report { summary, table, ..Report::default() })
}

fn row(process: &Value, branch: &str) -> Vec<Cell> {
    let text = |key: &str| text_of(process, key);
    let list = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
            .collect()
    };
    let paths = |key: &str| {
        let all = process[key].as_array().into_iter().flatten();
        all.map(|item| text_of(item, "path")).collect::<Vec<_>>().join(" ")
    };
    let flags = list(&process["flags"]);
    let is_bad = flags.iter().any(|flag| BAD.contains(&flag.as_str()));
    let user = if process["user"].is_string() { text("user") } else { text("euid") };
    let login = if process["login_user"].is_string() { text("login_user") } else { text("login_uid") };
    let ports = process["listening"].as_array().into_iter().flatten();
    let mut ports: Vec<String> =
        ports.map(|at| format!("{}/{}", text_of(at, "port"), text_of(at, "protocol"))).collect();
    ports.dedup();
    let container = [text_of(&process["container"], "runtime"), text_of(&process["container"], "id")];
    let container = container.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    let start =
        if process["start_time"].is_string() { local_time(&text("start_time")) } else { String::new() };
    let argv = list(&process["argv"]);
    let command = if argv.is_empty() { format!("[{}]", text("name")) } else { argv.join(" ") };
    let related = process["related"] == true;
    let tone = if related { Tone::Faint } else { Tone::Plain };
    vec![
        Cell::new(tone, text("pid")),
        Cell::new(tone, user),
        Cell::new(tone, start),
        Cell::new(tone, format!("{branch}{}", text("name"))),
        Cell::new(if is_bad { Tone::Bad } else { Tone::Plain }, flags.join(",")),
        Cell::from(ports.join(",")),
        text("parent").into(),
        login.into(),
        text("state").into(),
        text("path").into(),
        container.into(),
        process["resident_bytes"].as_u64().map(size).unwrap_or_default().into(),
        text_of(&process["hashes"], "sha256").into(),
        paths("libraries").into(),
        paths("files").into(),
        Cell::new(tone, command),
    ]
}

/// The processes in the order of a tree, each with the branch in front of its name.
fn tree(processes: &[Value]) -> Vec<(usize, String)> {
    let number = |process: &Value, key: &str| process[key].as_u64().unwrap_or(0);
    let known: HashSet<u64> = processes.iter().map(|process| number(process, "pid")).collect();
    let mut children: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut roots = Vec::new();
    for (at, process) in processes.iter().enumerate() {
        let (pid, parent) = (number(process, "pid"), number(process, "parent"));
        if parent != pid && known.contains(&parent) {
            children.entry(parent).or_default().push(at);
        } else {
            roots.push(at);
        }
    }
    let mut order = Vec::with_capacity(processes.len());
    let mut drawn = vec![false; processes.len()];
    // Process, its own branch, what stands in front of its children, and how deep it is. No recursion: nobody knows how
    // deep processes go.
    let mut waiting: Vec<(usize, String, String, usize)> =
        roots.into_iter().rev().map(|root| (root, String::new(), String::new(), 0)).collect();
    while let Some((at, branch, below, depth)) = waiting.pop() {
        if std::mem::replace(&mut drawn[at], true) {
            continue;
        }
        order.push((at, branch));
        let own = children.get(&number(&processes[at], "pid")).map_or(&[][..], Vec::as_slice);
        for (nth, child) in own.iter().enumerate().rev() {
            let (mark, under) = if nth + 1 == own.len() { ("└─", "  ") } else { ("├─", "│ ") };
            let (branch, below) = match depth < MAX_DEPTH {
                true => (format!("{below}{mark}"), format!("{below}{under}")),
                false => (below.clone(), below.clone()),
            };
            waiting.push((*child, branch, below, depth + 1));
        }
    }
    // Rows are of different moments, so that parents may go in a circle.
    order.extend((0..processes.len()).filter(|at| !drawn[*at]).map(|at| (at, String::new())));
    order
}

#[cfg(test)]
mod tests {
    use super::super::tests::shown;

    #[test]
    fn processes_have_a_line_each() {
        let json = r#"{"foundanything":true,"success":true,"elements":{"processes":[
            {"pid":7,"parent":1,"name":"sh","user":"root","flags":["deleted"],"argv":["/bin/sh","-c","x y"],"listening":[{"protocol":"tcp","address":"::","port":80}]},
            {"pid":12,"parent":2,"name":"kthreadd","euid":0,"flags":["kernel"],"argv":[]}]},
            "statistics":{"examined":90,"totalhits":2,"exectime":"12ms"},"coverage":{"complete":true}}"#;

        let text = shown("processes", json, None);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();

        assert_eq!(lines[0].join(" "), "processes: found 2 in 90 processes, 12ms");
        assert_eq!(lines[2], ["7", "root", "sh", "deleted", "80/tcp", "/bin/sh", "-c", "x", "y"]);
        assert_eq!(lines[3], ["12", "0", "kthreadd", "kernel", "[kthreadd]"]);
    }

    #[test]
    fn a_tree_is_drawn_also_when_it_goes_in_a_circle() {
        let json = r#"{"foundanything":true,"success":true,"elements":{"processes":[
            {"pid":1,"parent":0,"name":"init","related":true},{"pid":2,"parent":1,"name":"a"},{"pid":3,"parent":2,"name":"b"},
            {"pid":4,"parent":1,"name":"c"},{"pid":8,"parent":9,"name":"x"},{"pid":9,"parent":8,"name":"y"}]},
            "statistics":{"examined":6,"totalhits":1,"exectime":"1ms"},"coverage":{"complete":true}}"#;

        let text = shown("processes", json, None);

        for line in ["1  init", "2  ├─a", "3  │ └─b", "4  └─c", "8  x", "9  y"] {
            let words: Vec<&str> = line.split("  ").collect();
            let found = text.lines().any(|shown| shown.contains(words[0]) && shown.contains(words[1]));
            assert!(found, "{line} in {text}");
        }
    }
}
