//! What all benchmarks share: their arguments, what the kernel says of a process, and the report with its goals.

mod arguments;
pub mod proc;
mod report;

use std::error::Error;
use std::process::ExitCode;

pub use arguments::Wanted;
pub use report::{Goal, Measure, Report, complain, median, rate, say};

/// What ends a subject early; the message says what was being done.
pub type BenchResult<T> = Result<T, Box<dyn Error>>;

/// The exit code of a benchmark, and the reason on standard error when it failed.
#[must_use]
pub fn exit(result: BenchResult<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    let mut text = format!("bench: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    complain(&text);
    ExitCode::FAILURE
}
