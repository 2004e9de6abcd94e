//! `make bench-fim`: what fswatch costs and finds, each figure beside a peer or the machine's limit in the same run.
//!
//! A harness of its own: a run starts the built program as an agent does, and other programs beside it. Figures of
//! time are medians of several runs, ours and the peer's in turns, so that a machine that becomes slower meanwhile
//! slows both; losses are counted over everything that was done. A goal that is missed is shown as MISSED and is no
//! failure of the program: a shared machine may be slow for reasons of its own. What this host does not allow is
//! listed as not measured, with the reason.

mod adversary;
mod agent;
mod burst;
mod downtime;
mod host_cost;
mod latency;
mod limit;
mod memory;
mod module;
mod peers;
mod scans;
mod set_up;
mod tree;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use tempfile::TempDir;

use module::{Module, Setup, backend_keys};
use vigie_benchmark::{BenchResult, Report, exit, median, say};

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// Pause between two looks at what cannot be waited for.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Environment variable with the directory in which the trees are made.
const DIRECTORY_VARIABLE: &str = "FIM_BENCH_DIR";

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Runs of which a median is taken.
    pub(crate) runs: usize,
    /// The same where one run takes many seconds.
    pub(crate) slow_runs: usize,
    /// Files of the tree with sizes as on a host, and its directories as parents and children of each.
    pub(crate) tree: (usize, usize, usize),
    /// Files of 200 bytes in 2,000 directories.
    pub(crate) small_files: usize,
    /// Changes whose way to the alert is timed.
    pub(crate) changes: usize,
    /// Saves with each editor.
    pub(crate) saves: usize,
    /// Files of the large tree whose memory is looked at.
    pub(crate) many_files: usize,
    /// Files of a burst, and how often it is repeated.
    pub(crate) burst: (usize, usize),
    /// New nested directories.
    pub(crate) nested: usize,
    /// Directories that are watched, as parents and children of each.
    pub(crate) directories: (usize, usize),
    /// Files of a metadata loop.
    pub(crate) operations: usize,
    /// Time for which the idle module is looked at.
    pub(crate) idle: Duration,
    /// Times that the module is killed, and that the agent is.
    pub(crate) kills: usize,
}

const FULL: Size = Size {
    runs: 5,
    slow_runs: 3,
    tree: (50_000, 40, 50),
    small_files: 200_000,
    changes: 1_000,
    saves: 20,
    many_files: 1_000_000,
    burst: (100_000, 3),
    nested: 2_000,
    directories: (200, 249),
    operations: 50_000,
    idle: Duration::from_secs(20),
    kills: 50,
};

const QUICK: Size = Size {
    runs: 1,
    slow_runs: 1,
    tree: (2_000, 8, 10),
    small_files: 5_000,
    changes: 50,
    saves: 2,
    many_files: 20_000,
    burst: (3_000, 1),
    nested: 100,
    directories: (20, 24),
    operations: 2_000,
    idle: Duration::from_secs(3),
    kills: 5,
};

/// A function that measures some rows.
type Measurement = fn(&Bench, &mut Report) -> BenchResult<()>;

/// The rows and what measures them. What is measured on the same tree is measured together.
const ROWS: [(&[usize], Measurement); 11] = [
    (&[1, 2, 3], scans::measure),
    (&[4], scans::measure_small_files),
    (&[5], latency::measure),
    (&[6], memory::measure),
    (&[7], burst::measure),
    (&[8], burst::measure_nested),
    (&[9], set_up::measure),
    (&[10], host_cost::measure),
    (&[11], downtime::measure),
    (&[12], adversary::measure),
    (&[13], adversary::measure_unwatched),
];

const USAGE: &str = "\
usage: make bench-fim, or cargo bench --bench fim -- [--quick] [--json] [--row N]...
  --quick   small sizes and one run of each, to try it: its figures mean little
  --json    print the JSON instead of the table (it is always in target/bench/fim.json)
  --row N   only this row, 1 to 13; repeatable

The trees are made in $FIM_BENCH_DIR, or else in the build directory: 6 GB of it and 1,200,000 inodes are needed.";

/// What all rows are given.
pub(crate) struct Bench {
    pub(crate) size: Size,
    rows: Vec<usize>,
    directory: TempDir,
}

impl Bench {
    fn wants(&self, row: usize) -> bool {
        self.rows.is_empty() || self.rows.contains(&row)
    }

    /// The backends that work here, by their names in the configuration; what does not is listed as not measured.
    pub(crate) fn backends(&self, row: &str, report: &mut Report) -> Vec<&'static str> {
        let works = |backend: &str| -> BenchResult<()> {
            let watched = self.path("backend");
            std::fs::create_dir_all(&watched)?;
            let state = self.path(&format!("state-{row}-{backend}"));
            let setup =
                Setup { watched: &watched, state: &state, keys: backend_keys(backend), heartbeats: true };
            let module = Module::ready(&setup)?;
            module.marks(backend)?;
            module.stop()
        };
        let mut working = Vec::new();
        for backend in ["fanotify", "inotify"] {
            match works(backend) {
                Ok(()) => working.push(backend),
                Err(error) => report.not_measured(&format!("{row}, {backend}"), error.as_ref()),
            }
        }
        working
    }

    /// A path in the directory of this run.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// What the command line asks for.
struct Wanted {
    quick: bool,
    json: bool,
    rows: Vec<usize>,
}

fn read_arguments(arguments: &[String]) -> Result<Wanted, String> {
    // Cargo adds --bench for `cargo bench` only; under `cargo test --all-targets` a short run is meant.
    let quick = !arguments.iter().any(|argument| argument == "--bench");
    let mut wanted = Wanted { quick, json: false, rows: Vec::new() };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => {}
            "--quick" => wanted.quick = true,
            "--json" => wanted.json = true,
            "--row" => {
                let row = arguments.next().and_then(|text| text.parse().ok());
                let row = row.filter(|row| ROWS.iter().any(|(rows, _)| rows.contains(row)));
                wanted.rows.push(row.ok_or_else(|| format!("--row needs a number from 1 to 13\n{USAGE}"))?);
            }
            other => return Err(format!("{other:?} is unknown\n{USAGE}")),
        }
    }
    Ok(wanted)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, kind, directory, count] = arguments.as_slice()
        && first == adversary::STORM
    {
        let done = adversary::storm(kind, Path::new(directory), count.parse().unwrap_or_default());
        return done.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let wanted = match read_arguments(&arguments) {
        Ok(wanted) => wanted,
        Err(message) => {
            say(&message);
            return ExitCode::from(64);
        }
    };
    exit(run(wanted))
}

fn run(wanted: Wanted) -> BenchResult<()> {
    let root = std::env::var_os(DIRECTORY_VARIABLE).map_or_else(target_directory, PathBuf::from);
    std::fs::create_dir_all(&root)?;
    let directory = tempfile::Builder::new().prefix("fim-").tempdir_in(root)?;
    let size = if wanted.quick { QUICK } else { FULL };
    let bench = Bench { size, rows: wanted.rows, directory };
    let mut report = Report::new(wanted.quick, !wanted.json);
    report
        .progress(&format!("files are in {}; they are removed at the end", bench.directory.path().display()));
    for (rows, measure) in ROWS {
        if !rows.iter().any(|&row| bench.wants(row)) {
            continue;
        }
        let names: Vec<_> = rows.iter().map(usize::to_string).collect();
        let names = names.join(", ");
        report.progress(&format!("measuring row {names}"));
        // A row that cannot be measured does not keep the others from it.
        if let Err(error) = measure(&bench, &mut report) {
            report.not_measured(&names, error.as_ref());
        }
    }
    report.finish(wanted.json, &target_directory().with_file_name("bench").join("fim.json"))
}

/// On the disk of the build directory: the figures are those of a disk, not of a memory file system.
fn target_directory() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// Waits in real time: other processes are measured, which know no other.
#[expect(
    clippy::disallowed_methods,
    reason = "there is no arbiter here, and what is waited for announces nothing"
)]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Whether this process may do everything: without it fanotify and some changes are left out.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A directory in a memory file system, when there is one.
pub(crate) fn memory_directory() -> BenchResult<TempDir> {
    let root = Path::new("/dev/shm");
    if nix::sys::statfs::statfs(root)?.filesystem_type() != nix::sys::statfs::TMPFS_MAGIC {
        return Err("/dev/shm is no memory file system".into());
    }
    Ok(tempfile::Builder::new().prefix("fim-").tempdir_in(root)?)
}

/// The median of what `measure` returns in several runs, in seconds.
pub(crate) fn seconds(times: &[Duration]) -> f64 {
    median(&mut times.iter().map(Duration::as_secs_f64).collect::<Vec<_>>())
}
