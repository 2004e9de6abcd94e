//! Row 10: what it costs the host.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;
use tokio::time::Instant;

use crate::limit::{BareFanotify, BareWatcher};
use crate::module::{Module, Setup};
use crate::{Bench, memory_directory, pause};
use vigie_benchmark::{BenchResult, Goal, Measure, Report, median, proc};

/// The loops of the metadata benchmark.
const LOOPS: [&str; 4] = ["create", "rename", "chmod", "unlink"];

/// Who watches while a loop runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watching {
    Nobody,
    /// A thread that takes this backend's events and drops them.
    BareReader(&'static str),
    /// The module with this backend.
    Module(&'static str),
}

pub(crate) fn measure(bench: &Bench, report: &mut Report) -> BenchResult<()> {
    metadata(bench, report)?;
    idle(bench, report)
}

fn metadata(bench: &Bench, report: &mut Report) -> BenchResult<()> {
    let memory = memory_directory()?;
    let mut subjects = vec![Watching::Nobody];
    for backend in bench.backends("10", report) {
        subjects.extend([Watching::BareReader(backend), Watching::Module(backend)]);
    }
    // Nanoseconds of an operation, by subject, loop and run.
    let mut times: Vec<[Vec<f64>; LOOPS.len()]> = vec![Default::default(); subjects.len()];
    for run in 0..bench.size.runs {
        for (subject, times) in subjects.iter().zip(&mut times) {
            let directory = memory.path().join("loops");
            fs::create_dir(&directory)?;
            let measured = match subject {
                Watching::Nobody => loops(&directory, bench.size.operations)?,
                Watching::BareReader("fanotify") => {
                    let _watcher = BareFanotify::start(&directory)?;
                    loops(&directory, bench.size.operations)?
                }
                Watching::BareReader(_) => {
                    let _watcher = BareWatcher::start(&directory)?;
                    loops(&directory, bench.size.operations)?
                }
                Watching::Module(backend) => {
                    let state = bench.path(&format!("loops-{backend}-{run}-state"));
                    let mut keys = serde_json::Map::new();
                    keys.insert("backend".to_owned(), json!(backend));
                    let setup = Setup { watched: &directory, state: &state, keys, heartbeats: true };
                    let mut module = Module::ready(&setup)?;
                    module.marks(backend)?;
                    let measured = loops(&directory, bench.size.operations)?;
                    // It must not work on while the next one is measured.
                    module.alerts_until_quiet()?;
                    module.stop()?;
                    measured
                }
            };
            fs::remove_dir(&directory)?;
            for (all, one) in times.iter_mut().zip(measured) {
                all.push(one);
            }
        }
    }
    let medians: Vec<[f64; LOOPS.len()]> =
        times.iter_mut().map(|loops| loops.each_mut().map(|times| median(times))).collect();
    let of = |wanted: Watching| {
        let found =
            subjects.iter().position(|subject| *subject == wanted).and_then(|place| medians.get(place));
        found.copied().ok_or("nothing was measured")
    };
    let unwatched = of(Watching::Nobody)?;
    for subject in &subjects {
        let Watching::Module(backend) = subject else { continue };
        let (with, bare) = (of(*subject)?, of(Watching::BareReader(backend))?);
        for (place, name) in LOOPS.into_iter().enumerate() {
            let what = format!("{name} with {backend}; a reader that only drops its events");
            let measure = Measure::new("10", what, with[place], "ns").against(bare[place]);
            report.add(measure.goal(Goal::AtMost(1.2)));
        }
        for (who, times) in [("module", with), ("kernel's own part (the reader that only drops)", bare)] {
            let ratios = times.iter().zip(unwatched).map(|(with, without)| with / without);
            let worst = ratios.enumerate().max_by(|(_, one), (_, other)| one.total_cmp(other));
            let (worst, _) = worst.ok_or("nothing was measured")?;
            let what = format!("{backend}, {who}: worst loop, {}, and the same unwatched", LOOPS[worst]);
            report.add(Measure::new("10", what, times[worst], "ns").against(unwatched[worst]));
        }
    }
    Ok(())
}

/// Makes, renames, changes and removes files; returns nanoseconds of one operation for each loop.
pub(crate) fn loops(directory: &Path, files: usize) -> BenchResult<[f64; LOOPS.len()]> {
    let first: Vec<_> = (0..files).map(|number| directory.join(format!("f{number:06}"))).collect();
    let second: Vec<_> = (0..files).map(|number| directory.join(format!("g{number:06}"))).collect();
    let timed = |work: &dyn Fn(usize) -> std::io::Result<()>| -> BenchResult<f64> {
        let start = Instant::now();
        for number in 0..files {
            work(number)?;
        }
        Ok(start.elapsed().as_nanos() as f64 / files as f64)
    };
    Ok([
        timed(&|number| File::create(&first[number]).map(drop))?,
        timed(&|number| fs::rename(&first[number], &second[number]))?,
        timed(&|number| fs::set_permissions(&second[number], Permissions::from_mode(0o600)))?,
        timed(&|number| fs::remove_file(&second[number]))?,
    ])
}

/// The module at rest. The tree is in a memory file system of which nobody else writes: with fanotify, whoever writes
/// to the same file system wakes the module.
fn idle(bench: &Bench, report: &mut Report) -> BenchResult<()> {
    let memory = memory_directory()?;
    for number in 0..1_000 {
        fs::write(memory.path().join(format!("file-{number}")), number.to_string())?;
    }
    let state = bench.path("idle-state");
    let setup = Setup { watched: memory.path(), state: &state, keys: Default::default(), heartbeats: false };
    let module = Module::ready(&setup)?;
    // What the start left to do is over, and threads that have nothing to do are gone.
    pause(bench.size.idle.min(std::time::Duration::from_secs(12)));
    let (waits, processor) = (proc::waits(module.pid())?, proc::cpu_time(module.pid())?);
    pause(bench.size.idle);
    let waits = proc::waits(module.pid())?.saturating_sub(waits);
    let processor = proc::cpu_time(module.pid())?.saturating_sub(processor);
    let seconds = bench.size.idle.as_secs();
    report.add(
        Measure::new("10", format!("idle, wake-ups in {seconds} s without heartbeats"), waits as f64, "")
            .goal(Goal::AtMost(0.0)),
    );
    let what = format!("idle, processor time in {seconds} s");
    report.add(Measure::new("10", what, processor.as_secs_f64() * 1e3, "ms"));
    module.stop()
}
