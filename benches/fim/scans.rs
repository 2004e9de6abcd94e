//! Rows 1 to 4: the baseline, the full verification and the quick scan, beside bare loops, AIDE and find.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::module::{Module, Setup, no_schedules};
use crate::peers::{self, Aide};
use crate::tree::{FileSize, Shape, Tree};
use crate::{Bench, limit, seconds};
use vigie_benchmark::{BenchResult, Goal, Measure, Report};

/// A tree, and what is measured on it.
struct Subject<'a> {
    bench: &'a Bench,
    tree: Tree,
    name: &'static str,
}

impl Subject<'_> {
    /// Baselines in turns with the limit; returns the last module, whose baseline is complete.
    fn baselines(&self) -> BenchResult<(Module, Vec<Duration>, Vec<Duration>)> {
        let (mut ours, mut limits) = (Vec::new(), Vec::new());
        let mut last = None;
        for run in 0..self.bench.size.runs {
            if let Some(module) = last.take() {
                Module::stop(module)?;
            }
            limit::read_files(self.tree.root(), self.tree.files())?;
            limits.push(limit::hash_files(self.tree.root(), self.tree.files())?);
            // Each baseline begins with nothing.
            let state = self.directory(&format!("state-{run}"));
            let mut module = Module::start(&setup(self.tree.root(), &state))?;
            ours.push(module.baseline()?);
            let known = module.count("files")?;
            if known < self.tree.files() as u64 {
                return Err(format!("the baseline has {known} objects, fewer than files").into());
            }
            last = Some(module);
        }
        Ok((last.ok_or("no run was asked for")?, ours, limits))
    }

    fn aide(&self) -> BenchResult<Aide> {
        Aide::new(self.directory("aide"), self.tree.root())
    }

    /// The tree's own name comes last: AIDE's rules are beginnings of paths.
    fn directory(&self, name: &str) -> PathBuf {
        self.bench.path(&format!("{name}-{}", self.name))
    }

    /// Runs of a peer on a tree in the page cache.
    fn peer(&self, runs: usize, mut run: impl FnMut() -> BenchResult<Duration>) -> BenchResult<f64> {
        let mut times = Vec::new();
        for _ in 0..runs {
            limit::read_files(self.tree.root(), self.tree.files())?;
            times.push(run()?);
        }
        Ok(seconds(&times))
    }
}

/// Nothing happens by the clock, everything else is as it is shipped.
fn setup<'a>(watched: &'a Path, state: &'a Path) -> Setup<'a> {
    Setup { watched, state, keys: no_schedules(), heartbeats: true }
}

/// The time until a query is answered, which must find nothing.
fn timed_query(module: &mut Module, parameters: &Value) -> BenchResult<Duration> {
    let alerts = module.count("alerts")?;
    let start = Instant::now();
    module.query(parameters)?;
    let took = start.elapsed();
    if module.count("alerts")? != alerts {
        return Err("differences were found in a tree that nobody changed".into());
    }
    Ok(took)
}

/// A measure of time in a row.
fn time(row: &'static str, what: &str, value: f64, peer: f64) -> Measure {
    Measure::new(row, what, value, "s").against(peer)
}

pub(crate) fn measure(bench: &Bench, report: &mut Report) -> BenchResult<()> {
    let (files, parents, children) = bench.size.tree;
    let shape = Shape { parents, children, files, size: FileSize::LogNormal };
    let subject = Subject { bench, tree: Tree::make(bench.path("tree"), shape)?, name: "tree" };
    let (mut module, ours, limits) = subject.baselines()?;
    let baseline = seconds(&ours);
    if bench.wants(1) {
        let what = "baseline; limit: read and SHA-256, two threads";
        report.add(time("1", what, baseline, seconds(&limits)).goal(Goal::AtMost(1.2)));
    }
    // Without AIDE the rest is measured all the same.
    let aide = measure_aide(&subject, baseline, report);
    let check = aide.as_ref().ok().copied().flatten();
    if bench.wants(2)
        && let Err(error) = verification(&subject, &mut module, check, report)
    {
        report.not_measured("2", error.as_ref());
    }
    if bench.wants(3)
        && let Err(error) = quick_scan(&subject, &mut module, check, report)
    {
        report.not_measured("3", error.as_ref());
    }
    module.stop()?;
    aide.map(|_| ())
}

/// Compares the baseline with AIDE's; returns what its check takes, in seconds, when it is asked for.
fn measure_aide(subject: &Subject<'_>, baseline: f64, report: &mut Report) -> BenchResult<Option<f64>> {
    let runs = subject.bench.size.slow_runs;
    let aide = subject.aide()?;
    let init = subject.peer(runs, || aide.init())?;
    if subject.bench.wants(1) {
        let what = "baseline; peer: aide --init, two workers (4 times faster)";
        report.add(time("1", what, baseline, init).goal(Goal::AtMost(1.0 / 4.0)));
    }
    if subject.bench.wants(2) || subject.bench.wants(3) {
        return Ok(Some(subject.peer(runs, || aide.check())?));
    }
    Ok(None)
}

fn verification(
    subject: &Subject<'_>,
    module: &mut Module,
    aide_check: Option<f64>,
    report: &mut Report,
) -> BenchResult<()> {
    let (mut ours, mut limits) = (Vec::new(), Vec::new());
    for _ in 0..subject.bench.size.runs {
        limit::read_files(subject.tree.root(), subject.tree.files())?;
        limits.push(limit::hash_files(subject.tree.root(), subject.tree.files())?);
        ours.push(timed_query(module, &json!({"rescan": true, "prove": true}))?);
    }
    let ours = seconds(&ours);
    let what = "full verification; limit: read and SHA-256, two threads";
    report.add(time("2", what, ours, seconds(&limits)).goal(Goal::AtMost(1.25)));
    if let Some(check) = aide_check {
        let what = "full verification; peer: aide --check (7 times faster)";
        report.add(time("2", what, ours, check).goal(Goal::AtMost(1.0 / 7.0)));
    }
    Ok(())
}

fn quick_scan(
    subject: &Subject<'_>,
    module: &mut Module,
    aide_check: Option<f64>,
    report: &mut Report,
) -> BenchResult<()> {
    let root = subject.tree.root();
    let (mut ours, mut finds, mut stats) = (Vec::new(), Vec::new(), Vec::new());
    // One more, uncounted: the first look after the files were read is not like the others.
    for run in 0..=subject.bench.size.runs {
        let times = (
            peers::find(root)?,
            limit::stat_files(root, subject.tree.files())?,
            timed_query(module, &json!({"rescan": true}))?,
        );
        if run > 0 {
            finds.push(times.0);
            stats.push(times.1);
            ours.push(times.2);
        }
    }
    let ours = seconds(&ours);
    report.add(
        time("3", "quick scan; peer: find -printf, 7 fields", ours, seconds(&finds)).goal(Goal::AtMost(2.0)),
    );
    report.add(time("3", "quick scan; limit: statx, two threads", ours, seconds(&stats)));
    if let Some(check) = aide_check {
        let what = "quick scan; peer: aide --check (25 times faster)";
        report.add(time("3", what, ours, check).goal(Goal::AtMost(1.0 / 25.0)));
    }
    Ok(())
}

pub(crate) fn measure_small_files(bench: &Bench, report: &mut Report) -> BenchResult<()> {
    let shape =
        Shape { parents: 40, children: 50, files: bench.size.small_files, size: FileSize::Bytes(200) };
    let subject = Subject { bench, tree: Tree::make(bench.path("small"), shape)?, name: "small" };
    let (module, ours, limits) = subject.baselines()?;
    module.stop()?;
    let baseline = seconds(&ours);
    let what = format!("{} files of 200 bytes, baseline; limit: two threads", bench.size.small_files);
    report.add(time("4", &what, baseline, seconds(&limits)).goal(Goal::AtMost(2.0)));
    let aide = subject.aide()?;
    let init = subject.peer(bench.size.slow_runs, || aide.init())?;
    report.add(time("4", "the same; peer: aide --init, two workers", baseline, init));
    Ok(())
}
