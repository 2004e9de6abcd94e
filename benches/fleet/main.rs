//! `make bench-fleet`: what a fleet of many agents takes, each figure beside the broker alone in the same run.
//!
//! A harness of its own: a run starts a real nats-server with the accounts, permissions and streams of a fleet, and
//! processes of simulated agents that decide and answer with the code of real ones ([`simulator`]). Broker, agents
//! and client share the processors of one machine, so figures of time are medians of several rounds, and those with
//! a goal are ratios within a run wherever there is something to compare with. A goal that is missed is shown as
//! MISSED and is no failure of the program: a shared machine may be slow for reasons of its own.

#[expect(dead_code, reason = "the agent's benchmark asks for more")]
#[path = "../agent/agent_process.rs"]
mod agent_process;
mod fan_out;
mod inventory;
mod predicates;
mod real_agent;
mod refusals;
mod set_up;
mod simulator;
mod simulators;
mod token;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use vigie_benchmark::{Report, complain, exit, say};

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Pause between two looks at what cannot be waited for.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Rounds of which a median is taken.
    pub(crate) rounds: usize,
    /// Agents with a connection of their own.
    pub(crate) agents: u32,
    /// Agents that share connections.
    pub(crate) multiplexed_agents: u32,
    /// Random predicates.
    pub(crate) predicates: u32,
    /// Time after which a real agent that was started is at rest.
    pub(crate) settle: Duration,
    /// Minutes for which the messages of an agent at rest are counted.
    pub(crate) idle_minutes: u32,
}

const FULL: Size = Size {
    rounds: 5,
    agents: 10_000,
    multiplexed_agents: 100_000,
    predicates: 1_000_000,
    settle: Duration::from_secs(15),
    idle_minutes: 5,
};

const QUICK: Size = Size {
    rounds: 2,
    agents: 500,
    multiplexed_agents: 5_000,
    predicates: 50_000,
    settle: Duration::from_secs(2),
    idle_minutes: 1,
};

/// Rows by the numbers of the goals.
const ROWS: [usize; 5] = [1, 2, 6, 8, 10];

const USAGE: &str = "\
usage: make bench-fleet, or cargo bench --bench fleet -- [--quick] [--json] [--row N]...
  --quick   a short run with few agents
  --json    print the JSON instead of the table (it is always in target/bench/fleet.json)
  --row N   only this row; several can be named
            1   one signed question to 10,000 agents, beside the broker's raw fan-out
            2   100,000 agents on shared connections, and their whole inventory
            6   actions that no agent may run
            8   random targets
            10  what the fleet adds to a real agent";

struct Wanted {
    size: Size,
    quick: bool,
    json: bool,
    rows: Vec<usize>,
}

fn read_arguments(arguments: &[String]) -> Result<Wanted, String> {
    // Cargo adds --bench for `cargo bench` only; under `cargo test --all-targets` a short run is meant.
    let quick = arguments.iter().any(|a| a == "--quick") || !arguments.iter().any(|a| a == "--bench");
    let mut wanted = Wanted { size: if quick { QUICK } else { FULL }, quick, json: false, rows: Vec::new() };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" | "--quick" => {}
            "--json" => wanted.json = true,
            "--row" => {
                let number = arguments.next().map(String::as_str).unwrap_or_default();
                let row = number.parse().ok().filter(|row| ROWS.contains(row));
                wanted.rows.push(row.ok_or_else(|| format!("no row {number:?}\n{USAGE}"))?);
            }
            other => return Err(format!("{other:?} is unknown\n{USAGE}")),
        }
    }
    Ok(wanted)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == simulator::ARGUMENT) {
        return exit(simulator::run());
    }
    if arguments.iter().any(|argument| argument == "--help") {
        say(USAGE);
        return ExitCode::SUCCESS;
    }
    let wanted = match read_arguments(&arguments) {
        Ok(wanted) => wanted,
        Err(message) => {
            complain(&message);
            return ExitCode::from(64);
        }
    };
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let report = runtime.block_on(measure(&wanted));
        report.finish(wanted.json, &work_root().with_file_name("bench").join("fleet.json"))
    };
    exit(run())
}

/// Measures one row after the other; one that cannot be measured is shown as such and does not keep the others from
/// being measured.
async fn measure(wanted: &Wanted) -> Report {
    let mut report = Report::new(wanted.quick, !wanted.json);
    for row in ROWS {
        if !wanted.rows.is_empty() && !wanted.rows.contains(&row) {
            continue;
        }
        report.progress(&format!("measuring row {row}"));
        let result = match row {
            1 => fan_out::measure(wanted.size, &mut report).await,
            2 => inventory::measure(wanted.size, &mut report).await,
            6 => refusals::measure(wanted.size, &mut report).await,
            8 => predicates::measure(wanted.size, &mut report),
            _ => real_agent::measure(wanted.size, &mut report).await,
        };
        if let Err(error) = result {
            report.not_measured(&format!("row {row}"), error.as_ref());
        }
    }
    report
}

/// Where files of a run are made: on the disk of the build directory, because streams are on a disk.
pub(crate) fn work_root() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}
