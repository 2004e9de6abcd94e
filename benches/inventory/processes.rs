//! The module `processes` and ps(1) about the same processes.

use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::cost::{module, run};
use crate::{Size, work_root};
use vigie_benchmark::{BenchResult, Goal, Measure, Report, median};

/// The same fields as the module tells with `brief`, but for the working directory, which ps cannot tell.
const PS: [&str; 2] = [
    "-eo",
    "pid,ppid,ruid,euid,suid,rgid,egid,sgid,euser,stat,lstart,cputimes,rss,nlwp,comm,args,cgroup,luid,exe",
];

/// Processes that are ended when this is dropped.
struct Running(Vec<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().ok();
        }
        for child in &mut self.0 {
            child.wait().ok();
        }
    }
}

pub(crate) fn measure(size: Size, report: &mut Report) -> BenchResult<()> {
    std::fs::create_dir_all(work_root())?;
    let mut running = Running(Vec::new());
    for _ in 0..size.processes {
        running.0.push(Command::new("sleep").arg("3600").stdin(Stdio::null()).spawn()?);
    }
    let many = size.processes;
    compare(
        &format!("base fields, {many} processes; ps -eo the same"),
        &json!({"brief": true}),
        0.5,
        size,
        report,
    )?;
    compare(
        &format!("with namespaces and identity of programs, {many} processes; ps -eo"),
        &json!({}),
        0.8,
        size,
        report,
    )?;
    // Shells that start processes all the time: not children of ours that end, so that their time is not ours.
    for _ in 0..2 {
        let mut shell = Command::new("sh");
        shell.args(["-c", "while :; do (:) & (:) & (:) & wait; done"]);
        running.0.push(shell.stdin(Stdio::null()).spawn()?);
    }
    compare(
        &format!("base fields, {many} processes, while others come and go; ps -eo"),
        &json!({"brief": true}),
        0.8,
        size,
        report,
    )
}

fn compare(what: &str, parameters: &Value, goal: f64, size: Size, report: &mut Report) -> BenchResult<()> {
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    let mut least = u64::MAX;
    for _ in 0..=size.runs {
        let (cost, answer) = module("processes", parameters, None)?;
        let found = answer["statistics"]["totalhits"].as_u64().unwrap_or(0);
        least = least.min(found);
        ours.push(cost.processor);
        let mut ps = Command::new("ps");
        ps.args(PS);
        peers.push(run(ps, &[], &work_root().join("ps.txt"), false)?.processor);
    }
    // The first run warms up both.
    let (ours, peers) = (median(&mut ours[1..]), median(&mut peers[1..]));
    let measure = Measure::new("processes", what.to_owned(), ours, "ms of processors").against(peers);
    report.add(measure.goal(Goal::AtMost(goal)));
    let least = f64::from(u32::try_from(least)?);
    let there = f64::from(u32::try_from(size.processes)?);
    let measure =
        Measure::new("processes", "processes found, at least; those that sleep", least, "processes");
    report.add(measure.against(there).goal(Goal::AtLeast(1.0)));
    Ok(())
}
