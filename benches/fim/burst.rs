//! Rows 7 and 8: bursts of changes as fast as the disk allows, and new directories that are filled at once.
//!
//! What a reader of the alerts believes is compared with what is there: the alerts are applied, in their order, to an
//! empty tree, and every path whose content differs from the disk's afterwards counts as lost.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::limit::digest_of;
use crate::module::{Alert, Module, Setup, backend_keys, no_schedules};
use crate::peers::InotifyWait;
use crate::tree::Random;
use crate::{Bench, is_root};
use vigie_benchmark::{BenchResult, Goal, Measure, Report, median, proc, rate};

/// Where the kernel keeps the length of new inotify queues.
const QUEUE_LENGTH: &str = "/proc/sys/fs/inotify/max_queued_events";

/// A queue that a burst fills at once. The kernel's default is 16,384.
const SMALL_QUEUE: &str = "256";

/// Longest time until everything has been told, in seconds.
const CONVERGENCE: f64 = 5.0;

/// Largest growth of memory from the first round to the last: what was told must not stay.
const GROWTH: f64 = 1.2;

/// Changes that are told as groups: few enough for one answer.
const GROUPED: usize = 10_000;

/// A shorter queue for inotify instances that are made while it lives.
struct ShortQueue {
    before: String,
}

impl ShortQueue {
    fn set() -> BenchResult<Self> {
        if !is_root() {
            return Err(format!("inotify with a small queue: needs root to write {QUEUE_LENGTH}").into());
        }
        let before = fs::read_to_string(QUEUE_LENGTH)?;
        fs::write(QUEUE_LENGTH, SMALL_QUEUE)?;
        Ok(Self { before })
    }
}

impl Drop for ShortQueue {
    fn drop(&mut self) {
        if let Err(error) = fs::write(QUEUE_LENGTH, &self.before) {
            let text =
                format!("bench: cannot write {:?} back to {QUEUE_LENGTH}: {error}", self.before.trim());
            vigie_benchmark::complain(&text);
        }
    }
}

/// What a reader of the alerts believes to be there.
#[derive(Default)]
struct Believed {
    files: HashMap<PathBuf, Option<String>>,
    notices: usize,
}

impl Believed {
    /// Applies an alert.
    fn apply(&mut self, alert: &Alert) -> BenchResult<()> {
        let told = alert.told()?;
        let path = PathBuf::from(&told.path);
        match told.event.as_str() {
            "removed" => {
                self.files.remove(&path);
            }
            "renamed" => {
                let moved = told.from.as_ref().and_then(|from| self.files.remove(Path::new(from)));
                let digest = told.digest().map(str::to_owned).or(moved.flatten());
                self.files.insert(path, digest);
            }
            "created" | "changed" => {
                let known = self.files.entry(path).or_default();
                if let Some(digest) = told.digest() {
                    *known = Some(digest.to_owned());
                }
            }
            "notice" => self.notices += 1,
            _ => {}
        }
        Ok(())
    }

    /// How many paths are not as they are believed to be. Directories have no digest and are not counted.
    fn wrong(&self, truth: &HashMap<PathBuf, String>) -> usize {
        let missed = truth
            .iter()
            .filter(|(path, digest)| self.files.get(*path).and_then(Option::as_ref) != Some(digest));
        let imagined =
            self.files.iter().filter(|(path, digest)| digest.is_some() && !truth.contains_key(*path));
        missed.count() + imagined.count()
    }
}

/// What was seen in all bursts of one module.
#[derive(Default)]
struct Outcome {
    changes: u64,
    writing: Duration,
    lost: usize,
    /// Seconds from the last change of a burst to the last alert about it.
    convergence: Vec<f64>,
    /// Resident memory in MiB after each round.
    resident: Vec<f64>,
    overflows: u64,
    notices: usize,
}

/// What is done to all files of a burst.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Create,
    Rewrite,
    Replace,
    Remove,
}

impl Deed {
    /// Does it to one file as a program would, and says what is in it then.
    fn apply(self, path: &Path, random: &mut Random) -> BenchResult<Option<String>> {
        let content = format!("{:016x}{:016x}\n", random.next(), random.next());
        let write = |path: &Path| File::create(path).and_then(|mut file| file.write_all(content.as_bytes()));
        match self {
            Self::Create | Self::Rewrite => write(path)?,
            Self::Replace => {
                let temporary = path.with_extension("tmp");
                write(&temporary)?;
                fs::rename(temporary, path)?;
            }
            Self::Remove => {
                fs::remove_file(path)?;
                return Ok(None);
            }
        }
        Ok(Some(content))
    }
}

/// Settings for a backend in which each change is told alone.
fn keys(backend: &str) -> Map<String, Value> {
    let mut keys = backend_keys(backend);
    keys.insert("storm_changes".to_owned(), json!(0));
    keys
}

pub(crate) fn measure(bench: &Bench, report: &mut Report) -> BenchResult<()> {
    for backend in bench.backends("7", report) {
        measure_bursts(bench, report, backend, backend, None);
    }
    match ShortQueue::set() {
        Ok(queue) => measure_bursts(bench, report, "inotify", "inotify, queue of 256", Some(queue)),
        Err(error) => report.not_measured("7", error.as_ref()),
    }
    measure_groups(bench, report)
}

/// One module through all bursts. The short queue is given back as soon as the module has made its own.
fn measure_bursts(bench: &Bench, report: &mut Report, backend: &str, name: &str, queue: Option<ShortQueue>) {
    // Each takes minutes.
    report.progress(&format!("row 7, {name}: {} files, {} times", bench.size.burst.0, bench.size.burst.1));
    let mut outcome = Outcome::default();
    let result = bursts(bench, backend, name, queue, &mut outcome);
    let add = |report: &mut Report, what: &str, value: f64, unit, goal: Option<f64>| {
        let measure = Measure::new("7", format!("{name}: {what}"), value, unit);
        report.add(match goal {
            Some(goal) => measure.goal(Goal::AtMost(goal)),
            None => measure,
        });
    };
    add(
        report,
        "bursts that ended the module or the measurement",
        f64::from(u8::from(result.is_err())),
        "",
        Some(0.0),
    );
    if let Err(error) = result {
        report.not_measured("7", &*Box::<dyn std::error::Error>::from(format!("{name}: {error}")));
        return;
    }
    add(report, &format!("lost of {} changes", outcome.changes), outcome.lost as f64, "", Some(0.0));
    let slowest = outcome.convergence.iter().copied().fold(0.0, f64::max);
    add(report, "end of the burst to the last alert, worst", slowest, "s", Some(CONVERGENCE));
    add(report, "the same, median", median(&mut outcome.convergence), "s", None);
    let overflows = outcome.overflows as f64;
    add(report, "overflows of the kernel's queue", overflows, "", None);
    let unsaid = if outcome.overflows > 0 && outcome.notices == 0 { overflows } else { 0.0 };
    add(report, "overflows without an alert that says so", unsaid, "", Some(0.0));
    add(report, "changes a second by the writer", rate(outcome.changes, outcome.writing), "1/s", None);
    if let [first, .., last] = outcome.resident.as_slice() {
        let what = format!("{name}: resident memory after the last round, after the first");
        report.add(Measure::new("7", what, *last, "MiB").against(*first).goal(Goal::AtMost(GROWTH)));
    }
}

fn bursts(
    bench: &Bench,
    backend: &str,
    name: &str,
    queue: Option<ShortQueue>,
    outcome: &mut Outcome,
) -> BenchResult<()> {
    let name = name.replace([' ', ','], "-");
    let root = bench.path(&format!("burst-{name}"));
    fs::create_dir_all(&root)?;
    let state = bench.path(&format!("burst-{name}-state"));
    let setup = Setup { watched: &root, state: &state, keys: keys(backend), heartbeats: true };
    let mut module = Module::ready(&setup)?;
    drop(queue);
    let (files, rounds) = bench.size.burst;
    let mut random = Random::new(7);
    let mut believed = Believed::default();
    for round in 0..rounds {
        let directory = root.join(format!("round-{round}"));
        fs::create_dir(&directory)?;
        for deed in [Deed::Create, Deed::Rewrite, Deed::Replace, Deed::Remove] {
            let mut contents = Vec::with_capacity(files);
            let start = Instant::now();
            for number in 0..files {
                let path = directory.join(format!("f{number:06}"));
                if let Some(content) = deed.apply(&path, &mut random)? {
                    contents.push((path, content));
                }
            }
            let end = Instant::now();
            outcome.writing += end - start;
            outcome.changes += files as u64;
            let alerts = module.alerts_until_quiet()?;
            for alert in &alerts {
                believed.apply(alert)?;
            }
            let truth = contents.into_iter().map(|(path, content)| (path, digest_of(content.as_bytes())));
            outcome.lost += believed.wrong(&truth.collect());
            let last = alerts.last().map(|alert| alert.at.saturating_duration_since(end));
            outcome.convergence.push(last.unwrap_or_default().as_secs_f64());
        }
        fs::remove_dir(&directory)?;
        for alert in module.alerts_until_quiet()? {
            believed.apply(&alert)?;
        }
        outcome.resident.push(proc::held(module.pid())?.resident_kib as f64 / 1024.0);
    }
    outcome.overflows = module.count("overflows")?;
    outcome.notices = believed.notices;
    module.stop()?;
    Ok(fs::remove_dir_all(&root)?)
}

/// With all settings as they are shipped a burst is told as groups; every member must be found by a query.
fn measure_groups(bench: &Bench, report: &mut Report) -> BenchResult<()> {
    let root = bench.path("groups");
    fs::create_dir_all(&root)?;
    let state = bench.path("groups-state");
    let setup = Setup { watched: &root, state: &state, keys: no_schedules(), heartbeats: true };
    let mut module = Module::ready(&setup)?;
    let files = GROUPED.min(bench.size.burst.0);
    let paths: Vec<_> = (0..files).map(|number| root.join(format!("f{number:06}"))).collect();
    for path in &paths {
        fs::write(path, path.as_os_str().as_encoded_bytes())?;
    }
    // A group is told only when its writer has been quiet: a first silence is not the end.
    let mut found = Vec::new();
    let mut alerts = 0;
    let start = Instant::now();
    let mut unsaid = files;
    while unsaid > 0 && start.elapsed() < GROUP_TIME {
        for alert in module.alerts_until_quiet()? {
            alerts += 1;
            let told = alert.told()?;
            match &told.group {
                Value::Null => found.push(told.path),
                group => {
                    let id = group.get("id").unwrap_or(group);
                    collect_paths(&module.query(&json!({"group": id, "limit": files}))?, &mut found);
                }
            }
        }
        let named: std::collections::HashSet<&str> = found.iter().map(String::as_str).collect();
        unsaid = paths.iter().filter(|path| path.to_str().is_none_or(|path| !named.contains(path))).count();
    }
    let what = format!("{files} new files, told in groups: neither alert nor query names them");
    report.add(Measure::new("7", what, unsaid as f64, "").goal(Goal::AtMost(0.0)));
    report.add(Measure::new("7", "the same: alerts", f64::from(alerts), ""));
    module.stop()
}

/// Longest time until a group is told.
const GROUP_TIME: Duration = Duration::from_secs(70);

/// All values of keys named "path" in an answer.
fn collect_paths(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("path").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| collect_paths(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| collect_paths(value, found)),
        _ => {}
    }
}

pub(crate) fn measure_nested(bench: &Bench, report: &mut Report) -> BenchResult<()> {
    for backend in bench.backends("8", report) {
        let root = bench.path(&format!("nested-{backend}"));
        fs::create_dir_all(&root)?;
        let state = bench.path(&format!("nested-{backend}-state"));
        let setup = Setup { watched: &root, state: &state, keys: keys(backend), heartbeats: true };
        let mut module = Module::ready(&setup)?;
        let made = make_nested(&root, bench.size.nested)?;
        let mut believed = Believed::default();
        for alert in module.alerts_until_quiet()? {
            believed.apply(&alert)?;
        }
        let missed = made.iter().filter(|path| !believed.files.contains_key(*path)).count();
        module.stop()?;
        let what = format!("{backend}: missed of {} files in new nested directories", made.len());
        report.add(Measure::new("8", what, missed as f64, "").goal(Goal::AtMost(0.0)));
    }
    let root = bench.path("nested-peer");
    fs::create_dir_all(&root)?;
    let peer = InotifyWait::start(&root, bench.path("nested-peer.txt"))?;
    let made = make_nested(&root, bench.size.nested)?;
    let named = peer.named()?;
    let named: std::collections::HashSet<&Path> = named.iter().map(Path::new).collect();
    let missed = made.iter().filter(|path| !named.contains(path.as_path())).count();
    report.add(Measure::new("8", "peer: inotifywait -m -r, missed of the same", missed as f64, ""));
    Ok(())
}

/// Does `mkdir -p n/a/b` and puts a file there at once, many times; returns the files.
fn make_nested(root: &Path, count: usize) -> BenchResult<Vec<PathBuf>> {
    let mut files = Vec::with_capacity(count);
    for number in 0..count {
        let directory = root.join(format!("n{number:04}/a/b"));
        fs::create_dir_all(&directory)?;
        let file = directory.join("file");
        fs::write(&file, number.to_string())?;
        files.push(file);
    }
    Ok(files)
}
