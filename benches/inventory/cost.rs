//! What a process costs.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use serde_json::{Value, json};

use crate::{MODULE, work_root};
use vigie_benchmark::BenchResult;

/// What one run took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// Milliseconds of the processors.
    pub(crate) processor: f64,
    /// Milliseconds of the clock.
    pub(crate) wall: f64,
}

/// Runs a process to its end, its output going to a file. Other children of this process must not end meanwhile.
pub(crate) fn run(mut command: Command, input: &[u8], output: &Path, may_fail: bool) -> BenchResult<Cost> {
    let output = File::create(output)?;
    let before = processor()?;
    #[expect(clippy::disallowed_methods, reason = "real processes take real time")]
    let start = Instant::now();
    let mut child = command.stdin(Stdio::piped()).stdout(output).stderr(Stdio::null()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input)?;
    }
    let status = child.wait()?;
    let wall = milliseconds(start.elapsed());
    let processor = milliseconds(processor()?.saturating_sub(before));
    if status.success() || may_fail {
        Ok(Cost { processor, wall })
    } else {
        Err(format!("{command:?} ended with {status}").into())
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// What all children that ended have taken.
fn processor() -> BenchResult<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let time = |time: TimeVal| -> BenchResult<Duration> {
        Ok(Duration::new(time.tv_sec().try_into()?, u32::try_from(time.tv_usec())? * 1000))
    };
    Ok(time(usage.user_time())? + time(usage.system_time())?)
}

/// Runs a module once; its answer is in the file that is returned.
pub(crate) fn module(name: &str, parameters: &Value, state: Option<&Path>) -> BenchResult<(Cost, Value)> {
    let output = work_root().join(format!("{name}.json"));
    let mut command = Command::new(std::env::current_exe()?);
    command.args([MODULE, name]);
    match state {
        Some(state) => command.env("VIGIE_STATE_DIR", state),
        None => command.env_remove("VIGIE_STATE_DIR"),
    };
    let request = format!("{}\n", json!({"class": "parameters", "parameters": parameters}));
    let cost = run(command, request.as_bytes(), &output, false)?;
    Ok((cost, serde_json::from_slice(&std::fs::read(output)?)?))
}
