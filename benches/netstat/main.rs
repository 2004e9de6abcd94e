//! `make bench-netstat`: what a search costs, beside ss(8) in the same run, and what it misses while sockets come
//! and go.
//!
//! Both are measured as whole processes that write to a file, in turns; each figure is the median of several
//! runs. The benchmark program is also the module and the processes that hold sockets ([`hold`]): it starts itself
//! with a hidden argument. A goal that is missed is shown as MISSED and is no failure of the program.

mod churn;
mod hold;
mod searches;

use std::path::PathBuf;
use std::process::ExitCode;

use vigie_benchmark::{Wanted, exit};
use vigie_netstat::Netstat;

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Runs of which the median is taken.
    pub(crate) runs: usize,
    /// Sockets that are searched; half of them are the other ends.
    pub(crate) sockets: usize,
    /// Network namespaces.
    pub(crate) namespaces: usize,
    /// Sockets in each of them.
    pub(crate) namespace_sockets: usize,
    /// Sockets that stay while others come and go.
    pub(crate) stable: usize,
    /// Searches meanwhile.
    pub(crate) searches: usize,
}

const FULL: Size =
    Size { runs: 9, sockets: 50_000, namespaces: 50, namespace_sockets: 100, stable: 10_000, searches: 100 };

const QUICK: Size =
    Size { runs: 3, sockets: 5_000, namespaces: 5, namespace_sockets: 20, stable: 1_000, searches: 10 };

const USAGE: &str = "\
usage: make bench-netstat, or cargo bench --bench netstat -- [--quick] [--json] [SUBJECT...]
  --quick   a short run with fewer sockets
  --json    print the JSON instead of the table (it is always in target/bench/netstat.json)
  SUBJECT   sockets, namespaces or churn; all of them when none is named";

/// The hidden argument with which the program is the module.
pub(crate) const MODULE: &str = "--module";

const SUBJECTS: [&str; 3] = ["sockets", "namespaces", "churn"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(MODULE) => return vigie_sdk::run_standard::<Netstat>(),
        Some(hold::ARGUMENT) => return exit(hold::run(&arguments[1..])),
        Some(churn::ARGUMENT) => return exit(churn::run()),
        _ => {}
    }
    let wanted = match Wanted::read(&arguments, &SUBJECTS, USAGE) {
        Ok(wanted) => wanted,
        Err(code) => return code,
    };
    let size = if wanted.quick { QUICK } else { FULL };
    let report = wanted.measure(&SUBJECTS, |subject, report| match subject {
        "sockets" => searches::sockets(size, report),
        "namespaces" => searches::namespaces(size, report),
        _ => churn::measure(size, report),
    });
    exit(report.finish(wanted.json, &work_root().with_file_name("bench").join("netstat.json")))
}

/// Where files of a run are made.
pub(crate) fn work_root() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}
