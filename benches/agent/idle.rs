//! The agent at rest: memory, processor time, wake-ups; and the time from its start until all modules are ready.

use std::fs;
use std::time::Duration;

use tokio::time::sleep;

use crate::Size;
use crate::agent_process::AgentProcess;
use vigie_benchmark::proc;
use vigie_benchmark::{BenchResult, Goal, Measure, Report, median};

/// Files that fswatch watches.
const WATCHED_FILES: usize = 100;

/// Most resident memory that is aimed at, in MiB.
const RESIDENT_MIB: f64 = 10.0;

/// Most processor time that is aimed at, in per cent of one processor.
const CPU_PERCENT: f64 = 0.1;

pub(crate) async fn measure(size: Size, report: &mut Report) -> BenchResult<()> {
    let watched = tempfile::tempdir()?;
    for number in 0..WATCHED_FILES {
        fs::write(watched.path().join(format!("file-{number}")), format!("content {number}\n"))?;
    }
    let fswatch = format!("[paths]\npath = recursive:{}\n", watched.path().display());
    let start_agent = || AgentProcess::start("", &[("fswatch.cfg", fswatch.clone())]);

    let mut starts = Vec::new();
    for _ in 0..size.runs {
        let mut agent = start_agent()?;
        agent.ready().await?;
        starts.push(agent.started().elapsed().as_secs_f64() * 1000.0);
        agent.stop().await?;
    }
    report.add(Measure::new("idle", "start of the agent to all modules ready", median(&mut starts), "ms"));

    let mut agent = start_agent()?;
    agent.ready().await?;
    let mut processes = vec![(agent.pid(), "agent".to_owned())];
    processes.extend(proc::children(agent.pid())?);
    // What the start left to do is over, and threads that have nothing to do are gone.
    sleep(Duration::from_secs(size.idle_secs.min(12))).await;
    let mut before = Vec::new();
    for (pid, _) in &processes {
        before.push((proc::cpu_time(*pid)?, proc::waits(*pid)?));
    }
    let time = Duration::from_secs(size.idle_secs);
    sleep(time).await;
    for ((pid, name), (cpu_before, waits_before)) in processes.iter().zip(before) {
        let cpu = proc::cpu_time(*pid)?.saturating_sub(cpu_before).as_secs_f64() / time.as_secs_f64() * 100.0;
        let waits = proc::waits(*pid)?.saturating_sub(waits_before) as f64 / time.as_secs_f64();
        let resident = proc::held(*pid)?.resident_kib as f64 / 1024.0;
        let is_agent = *pid == agent.pid();
        let judged =
            |measure: Measure, limit| if is_agent { measure.goal(Goal::AtMost(limit)) } else { measure };
        report.add(judged(
            Measure::new("idle", format!("{name}: resident memory"), resident, "MiB"),
            RESIDENT_MIB,
        ));
        report.add(judged(Measure::new("idle", format!("{name}: processor time"), cpu, "%"), CPU_PERCENT));
        report.add(Measure::new("idle", format!("{name}: wake-ups"), waits, "1/s"));
    }
    agent.stop().await
}
