//! The module and ss(8) about the same sockets.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::hold::{ADDRESS, Holder};
use crate::{MODULE, Size, work_root};
use vigie_benchmark::{BenchResult, Goal, Measure, Report, median};

/// Processes that hold the sockets.
const HOLDERS: usize = 4;

/// One of the things to be compared.
struct Comparison<'a> {
    subject: &'static str,
    what: String,
    parameters: Value,
    peer: &'a [&'a str],
    goal: f64,
}

/// Searches among many sockets of this namespace.
pub(crate) fn sockets(size: Size, report: &mut Report) -> BenchResult<()> {
    let holders: BenchResult<Vec<Holder>> =
        (0..HOLDERS).map(|_| Holder::start(size.sockets / HOLDERS, None)).collect();
    let holders = holders?;
    let all = json!(["0.0.0.0/0"]);
    let many = size.sockets;
    let comparisons = [
        Comparison {
            subject: "sockets",
            what: format!("connectedip 0.0.0.0/0, {many} sockets; ss -tan"),
            parameters: json!({"connectedip": all}),
            peer: &["ss", "-tan"],
            goal: 0.7,
        },
        Comparison {
            subject: "sockets",
            what: format!("the same with processes, {many} sockets; ss -tanp"),
            parameters: json!({"connectedip": all, "processes": true}),
            peer: &["ss", "-tanp"],
            goal: 0.2,
        },
        Comparison {
            subject: "sockets",
            what: format!("listeningport among {many} sockets; ss -ltn"),
            parameters: json!({"listeningport": [holders[0].port.to_string()]}),
            peer: &["ss", "-ltn"],
            goal: 0.5,
        },
        Comparison {
            subject: "sockets",
            what: format!("connectedip of one address, {many} sockets; ss -tan dst"),
            parameters: json!({"connectedip": ["192.0.2.1"]}),
            peer: &["ss", "-tan", "dst", "192.0.2.1"],
            goal: 1.0,
        },
    ];
    for comparison in comparisons {
        compare(&comparison, size.runs, report)?;
    }
    // What was measured must have been found.
    let found = answer(&json!({"connectedip": [ADDRESS.to_string()]}))?;
    let found = found["statistics"]["totalhits"].as_u64().unwrap_or(0);
    let expected = size.sockets / 2 / HOLDERS * 2 * HOLDERS;
    if found < u64::try_from(expected)? / 2 {
        return Err(format!("only {found} of {expected} sockets were found").into());
    }
    Ok(())
}

/// Namespaces that are removed when this is dropped.
struct Namespaces(Vec<String>);

impl Namespaces {
    fn add(&mut self, name: String) -> BenchResult<()> {
        ip(&["netns", "add", &name])?;
        self.0.push(name);
        let name = self.0.last().map_or("", String::as_str);
        ip(&["-n", name, "link", "set", "lo", "up"])
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.0 {
            ip(&["netns", "del", name]).ok();
        }
    }
}

fn ip(arguments: &[&str]) -> BenchResult<()> {
    let output = Command::new("ip").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}

/// Searches in many namespaces.
pub(crate) fn namespaces(size: Size, report: &mut Report) -> BenchResult<()> {
    let mut namespaces = Namespaces(Vec::new());
    let mut holders = Vec::new();
    for number in 0..size.namespaces {
        namespaces.add(format!("vigie-bench-{}-{number}", std::process::id()))?;
        holders.push(Holder::start(size.namespace_sockets, namespaces.0.last().map(String::as_str))?);
    }
    let loop_of_ss = format!("for name in {}; do ss -N $name -tan; done", namespaces.0.join(" "));
    let comparison = Comparison {
        subject: "namespaces",
        what: format!(
            "connectedip 0.0.0.0/0, {} namespaces with {} sockets each; loop of ss -N",
            size.namespaces, size.namespace_sockets
        ),
        parameters: json!({"connectedip": ["0.0.0.0/0"], "namespaces": true}),
        peer: &["sh", "-c", &loop_of_ss],
        goal: 0.4,
    };
    compare(&comparison, size.runs, report)
}

fn compare(comparison: &Comparison<'_>, runs: usize, report: &mut Report) -> BenchResult<()> {
    let directory = work_root();
    std::fs::create_dir_all(&directory)?;
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    let request = request(&comparison.parameters);
    for _ in 0..=runs {
        let mut module = Command::new(std::env::current_exe()?);
        module.arg(MODULE);
        ours.push(run(module, &request, &directory.join("netstat.json"))?);
        let mut peer = Command::new(comparison.peer[0]);
        peer.args(&comparison.peer[1..]);
        peers.push(run(peer, &[], &directory.join("ss.txt"))?);
    }
    // The first run warms up both.
    let (ours, peers) = (median(&mut ours[1..]), median(&mut peers[1..]));
    let measure = Measure::new(comparison.subject, comparison.what.clone(), ours, "ms").against(peers);
    report.add(measure.goal(Goal::AtMost(comparison.goal)));
    Ok(())
}

/// The message that asks the module.
fn request(parameters: &Value) -> Vec<u8> {
    format!("{}\n", json!({"class": "parameters", "parameters": parameters})).into_bytes()
}

/// Milliseconds from the start of a process to its end, its output going to a file.
fn run(mut command: Command, input: &[u8], output: &Path) -> BenchResult<f64> {
    let output = File::create(output)?;
    #[expect(clippy::disallowed_methods, reason = "real processes take real time")]
    let start = Instant::now();
    let mut child = command.stdin(Stdio::piped()).stdout(output).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input)?;
    }
    let status = child.wait()?;
    let elapsed = start.elapsed().as_secs_f64() * 1000.0;
    if status.success() { Ok(elapsed) } else { Err(format!("{command:?} ended with {status}").into()) }
}

/// The module's answer.
fn answer(parameters: &Value) -> BenchResult<Value> {
    let path = work_root().join("netstat.json");
    let mut module = Command::new(std::env::current_exe()?);
    module.arg(MODULE);
    run(module, &request(parameters), &path)?;
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}
