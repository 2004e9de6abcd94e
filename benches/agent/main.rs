//! `make bench`: what the agent costs and carries, each figure beside a peer measured in the same run.
//!
//! A harness of its own: a run starts real agents with real modules on pipes and unix sockets, which is not what
//! a micro-benchmark library is made for. Every figure is the median of several runs, agent and peer in turns,
//! so that a machine that becomes slower meanwhile slows both. A goal that is missed is shown as MISSED and is
//! no failure of the program: a shared machine may be slow for reasons of its own.
//!
//! The benchmark program is also the modules that it measures ([`generator`], [`restarts`]): it starts itself
//! with a hidden argument.

mod agent_process;
mod carry;
mod generator;
mod idle;
mod queries;
mod restarts;

use std::path::PathBuf;
use std::process::ExitCode;
use vigie_benchmark::{BenchResult, Wanted, exit};

/// How much is done. Both sizes give the same figures, the quick one with more noise.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Runs of which the median is taken.
    pub(crate) runs: usize,
    /// Lines of a carry run.
    pub(crate) lines: u64,
    /// Sequential queries of a run.
    pub(crate) queries: usize,
    /// Queries at once.
    pub(crate) concurrent_queries: usize,
    /// Restarts before the first look at the agent, and between the two looks.
    pub(crate) warm_up_restarts: u64,
    /// See `warm_up_restarts`.
    pub(crate) restarts: u64,
    /// Time for which the idle agent is watched, in seconds.
    pub(crate) idle_secs: u64,
}

const FULL: Size = Size {
    runs: 5,
    lines: 1_000_000,
    queries: 5_000,
    concurrent_queries: 1_000,
    warm_up_restarts: 500,
    restarts: 10_000,
    idle_secs: 30,
};

const QUICK: Size = Size {
    runs: 3,
    lines: 50_000,
    queries: 300,
    concurrent_queries: 1_000,
    warm_up_restarts: 50,
    restarts: 100,
    idle_secs: 3,
};

const USAGE: &str = "\
usage: make bench, or cargo bench --bench agent -- [--quick] [--json] [SUBJECT...]
  --quick   a short run: the same figures with more noise
  --json    print the JSON instead of the table (it is always in target/bench/agent.json)
  SUBJECT   carry, queries, restarts or idle; all of them when none is named";

const SUBJECTS: [&str; 4] = ["carry", "queries", "restarts", "idle"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(generator::ARGUMENT) => return exit(generator::run()),
        Some(restarts::ARGUMENT) => return exit(restarts::module()),
        _ => {}
    }
    let wanted = match Wanted::read(&arguments, &SUBJECTS, USAGE) {
        Ok(wanted) => wanted,
        Err(code) => return code,
    };
    exit(measure(&wanted))
}

fn measure(wanted: &Wanted) -> BenchResult<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let size = if wanted.quick { QUICK } else { FULL };
    let report = wanted.measure(&SUBJECTS, |subject, report| {
        runtime.block_on(async {
            match subject {
                "carry" => carry::measure(size, report).await,
                "queries" => queries::measure(size, report).await,
                "restarts" => restarts::measure(size, report).await,
                _ => idle::measure(size, report).await,
            }
        })
    });
    report.finish(wanted.json, &work_root().with_file_name("bench").join("agent.json"))
}

/// Where files of a run are made: on the disk of the build directory, not in a memory file system, because the
/// figures of alerts are those of a disk.
pub(crate) fn work_root() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}
