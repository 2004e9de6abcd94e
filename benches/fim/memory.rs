//! Row 6: memory and store.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::module::{Module, Setup};
use crate::tree::{FileSize, Shape, Tree};
use crate::{Bench, pause};
use vigie_benchmark::{BenchResult, Goal, Measure, Report, proc};

/// Files of the small tree.
const FEW_FILES: usize = 10_000;

/// Bytes of each file: what is known of a file is as long for every size, and so the disk holds many.
const FILE_BYTES: usize = 16;

/// Files of one directory.
const FILES_OF_A_DIRECTORY: usize = 100;

/// What each file takes at least in any store: all contents differ, and a digest cannot be compressed.
const DIGEST_BYTES: f64 = 32.0;

/// Time after the baseline in which what it left to do is done.
const REST: Duration = Duration::from_secs(5);

pub(crate) fn measure(bench: &Bench, report: &mut Report) -> BenchResult<()> {
    let few = Held::after_baseline(bench, "few", FEW_FILES)?;
    let resident = few.resident / f64::from(1 << 20);
    report.add(
        Measure::new("6", "resident memory, idle, 10,000 files", resident, "MiB").goal(Goal::AtMost(10.0)),
    );
    let many = Held::after_baseline(bench, "many", bench.size.many_files)?;
    let files = bench.size.many_files;
    let each = |bytes: f64| bytes / files as f64;
    report.add(
        Measure::new("6", format!("resident memory, idle, {files} files"), each(many.resident), "B/file")
            .goal(Goal::AtMost(200.0)),
    );
    report.add(Measure::new("6", "the most while it learned them", each(many.peak), "B/file"));
    report.add(
        Measure::new("6", format!("state directory, {files} files"), each(many.stored), "B/file")
            .goal(Goal::AtMost(130.0)),
    );
    Ok(())
}

/// What a module holds, in bytes.
struct Held {
    resident: f64,
    peak: f64,
    stored: f64,
}

impl Held {
    fn after_baseline(bench: &Bench, name: &str, files: usize) -> BenchResult<Self> {
        let leaves = files.div_ceil(FILES_OF_A_DIRECTORY);
        let children = 100.min(leaves);
        let shape =
            Shape { parents: leaves.div_ceil(children), children, files, size: FileSize::Bytes(FILE_BYTES) };
        let tree = Tree::make(bench.path(name), shape)?;
        let state = bench.path(&format!("{name}-state"));
        // As it is shipped, schedules and heartbeats included.
        let setup = Setup { watched: tree.root(), state: &state, keys: Default::default(), heartbeats: true };
        let module = Module::ready(&setup)?;
        pause(REST);
        let status = procfs::process::Process::new(i32::try_from(module.pid())?)?.status()?;
        let held = Self {
            resident: proc::held(module.pid())?.resident_kib as f64 * 1024.0,
            peak: status.vmhwm.unwrap_or(0) as f64 * 1024.0,
            stored: bytes_below(&state)? as f64,
        };
        module.stop()?;
        if held.stored < DIGEST_BYTES * files as f64 {
            return Err(format!("{} bytes of state cannot hold {files} digests", held.stored).into());
        }
        Ok(held)
    }
}

/// Bytes of all files below a directory.
fn bytes_below(directory: &Path) -> BenchResult<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}
