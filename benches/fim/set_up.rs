//! Row 9: what it takes to begin to watch many directories.
//!
//! The time to watch cannot be seen alone from outside. With fanotify a whole file system is marked at once, so what a
//! baseline takes longer with inotify is the time of its watches.

use std::fs;
use std::path::Path;

use crate::module::{Module, Setup, backend_keys};
use crate::tree::{FileSize, Shape, Tree};
use crate::{Bench, limit, seconds};
use vigie_benchmark::{BenchResult, Goal, Measure, Report, median};

/// Where the kernel limits the watches of a user.
const WATCH_LIMIT: &str = "/proc/sys/fs/inotify/max_user_watches";

/// Longest time to set up fanotify, in microseconds, whatever the number of directories.
const FANOTIFY_MICROSECONDS: f64 = 1_000.0;

pub(crate) fn measure(bench: &Bench, report: &mut Report) -> BenchResult<()> {
    let (parents, children) = bench.size.directories;
    let shape = Shape { parents, children, files: 0, size: FileSize::Bytes(0) };
    let tree = Tree::make(bench.path("directories"), shape)?;
    let directories = limit::directories(tree.root())?;
    let count = directories.len();
    let most: usize = fs::read_to_string(WATCH_LIMIT)?.trim().parse()?;
    // Ours and the bare loop's at once, and those of whoever else runs.
    if most < 2 * count {
        return Err(format!("{WATCH_LIMIT} is {most}, {} are needed", 2 * count).into());
    }

    let backends = bench.backends("9", report);
    let mut bare = Vec::new();
    let mut baselines = vec![Vec::new(); backends.len()];
    let mut held = vec![Vec::new(); backends.len()];
    for run in 0..bench.size.runs {
        bare.push(limit::add_watches(&directories)?);
        for (index, backend) in backends.iter().enumerate() {
            let (took, marks) = begin(bench, tree.root(), backend, &format!("directories-{run}"))?;
            baselines[index].push(took);
            held[index].push(marks);
        }
    }
    let named: Vec<_> = backends.iter().zip(&baselines).zip(&held).collect();
    if let [((_, fanotify), _), ((_, inotify), _)] = named.as_slice() {
        let mut more: Vec<_> = inotify
            .iter()
            .zip(fanotify.iter())
            .map(|(inotify, fanotify)| inotify.as_secs_f64() - fanotify.as_secs_f64())
            .collect();
        let what =
            format!("inotify, {count} directories: baseline longer than with fanotify; limit: bare loop");
        let bare = seconds(&bare);
        report.add(Measure::new("9", what, median(&mut more), "s").against(bare).goal(Goal::AtMost(1.2)));
    }
    for ((backend, times), held) in named {
        report.add(Measure::new(
            "9",
            format!("{backend}: baseline of {count} directories"),
            seconds(times),
            "s",
        ));
        let most = held.iter().copied().max().unwrap_or(0) as f64;
        let marks = Measure::new("9", format!("{backend}: marks or watches that the kernel holds"), most, "");
        if *backend == "inotify" {
            report.add(marks);
            continue;
        }
        let single = bench.path("one-directory");
        fs::create_dir_all(&single)?;
        let (_, single) = begin(bench, &single, backend, "one-directory")?;
        report.add(marks.against(single as f64).goal(Goal::AtMost(1.0)));
        let mut times = Vec::new();
        for _ in 0..bench.size.runs {
            times.push(limit::mark_file_system(tree.root())?.as_secs_f64() * 1e6);
        }
        let cost = most * median(&mut times);
        let what = "fanotify: these marks, at the time of a bare group with one";
        report.add(Measure::new("9", what, cost, "us").goal(Goal::AtMost(FANOTIFY_MICROSECONDS)));
    }
    Ok(())
}

/// A baseline with nothing known: how long it took, and how many marks and watches the kernel holds for it.
fn begin(
    bench: &Bench,
    watched: &Path,
    backend: &str,
    name: &str,
) -> BenchResult<(std::time::Duration, usize)> {
    let state = bench.path(&format!("{name}-{backend}-state"));
    let setup = Setup { watched, state: &state, keys: backend_keys(backend), heartbeats: true };
    let mut module = Module::start(&setup)?;
    let took = module.baseline()?;
    let marks = module.marks(backend)?;
    module.stop()?;
    Ok((took, marks))
}
