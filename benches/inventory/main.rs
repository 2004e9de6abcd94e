//! `make bench-processes` and `make bench-packages`: what the modules cost beside ps(1) and `dpkg -V` in the same run.
//!
//! All are measured as whole processes that write to a file, in turns, by their processor time; each figure is the
//! median of several runs. The benchmark program is also the modules: it starts itself with a hidden argument. A goal
//! that is missed is shown as MISSED and is no failure of the program.

mod cost;
mod packages;
mod processes;

use std::path::PathBuf;
use std::process::ExitCode;
use vigie_benchmark::{Wanted, exit};

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Runs of which the median is taken.
    pub(crate) runs: usize,
    /// Processes that sleep meanwhile.
    pub(crate) processes: usize,
    /// All packages are verified, not only some.
    pub(crate) all_packages: bool,
}

const FULL: Size = Size { runs: 9, processes: 5_000, all_packages: true };

const QUICK: Size = Size { runs: 3, processes: 500, all_packages: false };

const USAGE: &str = "\
usage: make bench-processes, make bench-packages, or cargo bench --bench inventory -- [--quick] [--json] [SUBJECT...]
  --quick   a short run with fewer processes and packages
  --json    print the JSON instead of the table (it is always in target/bench/inventory.json)
  SUBJECT   processes or packages; both when none is named";

/// The hidden argument with which the program is a module; its name follows.
pub(crate) const MODULE: &str = "--module";

const SUBJECTS: [&str; 2] = ["processes", "packages"];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [MODULE, name] = *arguments.iter().map(String::as_str).collect::<Vec<_>>() {
        return match name {
            "packages" => vigie_sdk::run_standard::<vigie_packages::Packages>(),
            _ => vigie_sdk::run_standard::<vigie_processes::Processes>(),
        };
    }
    let wanted = match Wanted::read(&arguments, &SUBJECTS, USAGE) {
        Ok(wanted) => wanted,
        Err(code) => return code,
    };
    let size = if wanted.quick { QUICK } else { FULL };
    let report = wanted.measure(&SUBJECTS, |subject, report| match subject {
        "processes" => processes::measure(size, report),
        _ => packages::measure(size, report),
    });
    exit(report.finish(wanted.json, &work_root().with_file_name("bench").join("inventory.json")))
}

/// Where files of a run are made.
pub(crate) fn work_root() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}
