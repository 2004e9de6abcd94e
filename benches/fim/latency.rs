//! Row 5: from a change to its alert and to its record in the journal; and one alert for one save.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::agent::Agent;
use crate::limit::digest_of;
use crate::module::{Alert, Module, Setup, no_schedules};
use crate::peers::{require, timed};
use crate::tree::Random;
use crate::{Bench, pause};
use vigie_benchmark::{BenchResult, Goal, Measure, Report, median};

/// Files that are changed in turn.
const FILES: usize = 100;

/// Longest wait for an alert; one that takes longer ends the row.
const LONGEST: Duration = Duration::from_secs(10);

/// Noise writes a second.
const NOISE_RATE: u64 = 2_000;

/// Longest default window, and what the alert itself may take, in milliseconds.
const WINDOW: f64 = 100.0 + 1.0;

pub(crate) fn measure(bench: &Bench, report: &mut Report) -> BenchResult<()> {
    let mut watched = Watched::make(bench.path("latency"))?;
    let noise = bench.path("noise");
    fs::create_dir_all(&noise)?;

    let mut keys = no_schedules();
    keys.insert("settle_milliseconds".to_owned(), json!(0));
    keys.insert("storm_changes".to_owned(), json!(0));
    let state = bench.path("latency-state");
    let mut module = Module::ready(&Setup { watched: &watched.root, state: &state, keys, heartbeats: true })?;
    let goals = [1.0, 10.0];
    let idle = watched.time_changes(bench.size.changes, &mut |time| module.next_alert(time))?;
    add(report, "close to the module's alert, idle", idle, goals);
    let noisy = {
        let _noise = Noise::start(noise.clone())?;
        watched.time_changes(bench.size.changes, &mut |time| module.next_alert(time))?
    };
    add(report, "close to the module's alert, 2,000 noise writes/s", noisy, goals);
    module.stop()?;

    let keys = "settle_milliseconds = 0\nquick_scan_minutes = 0\nrehash_days = 0\nstorm_changes = 0\n";
    let mut agent = Agent::new(&bench.path("latency-agent"), &watched.root, keys)?;
    agent.start()?;
    let alerts = agent.follow()?;
    let mut next = |time| match alerts.recv_timeout(time) {
        Ok(alert) => Ok(Some(alert)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => Err("the agent's stream of alerts ended".into()),
    };
    let goals = [5.0, 50.0];
    let idle = watched.time_changes(bench.size.changes, &mut next)?;
    add(report, "close to the journal's record, idle", idle, goals);
    let noisy = {
        let _noise = Noise::start(noise)?;
        watched.time_changes(bench.size.changes, &mut next)?
    };
    add(report, "close to the journal's record, 2,000 noise writes/s", noisy, goals);
    agent.kill()?;

    measure_saves(bench, report)
}

/// Adds median and 99th percentile; `goals` are theirs in milliseconds.
fn add(report: &mut Report, what: &str, mut times: Vec<f64>, goals: [f64; 2]) {
    let middle = median(&mut times);
    let high = times.get((times.len() * 99 / 100).min(times.len().saturating_sub(1)));
    let high = high.copied().unwrap_or(f64::NAN);
    for (name, value, goal) in [("median", middle, goals[0]), ("99th percentile", high, goals[1])] {
        report.add(Measure::new("5", format!("{what}, {name}"), value, "ms").goal(Goal::AtMost(goal)));
    }
}

/// The files that are changed.
struct Watched {
    root: PathBuf,
    /// Where contents come from: none is ever written twice.
    random: Random,
}

impl Watched {
    fn make(root: PathBuf) -> BenchResult<Self> {
        fs::create_dir_all(&root)?;
        let watched = Self { root, random: Random::new(5) };
        for number in 0..FILES {
            fs::write(watched.file(number), "before\n")?;
        }
        Ok(watched)
    }

    fn file(&self, number: usize) -> PathBuf {
        self.root.join(format!("file-{number:03}"))
    }

    /// Writes to one file after the other; returns the times in milliseconds from the moment before the file is
    /// closed until the alert with its new digest is there.
    fn time_changes(
        &mut self,
        changes: usize,
        next: &mut dyn FnMut(Duration) -> BenchResult<Option<Alert>>,
    ) -> BenchResult<Vec<f64>> {
        let mut times = Vec::new();
        for number in 0..changes {
            let path = self.file(number % FILES);
            let content = format!("{:016x} {number}\n", self.random.next());
            let digest = digest_of(content.as_bytes());
            let mut file = File::options().write(true).truncate(true).open(&path)?;
            file.write_all(content.as_bytes())?;
            let closed = Instant::now();
            drop(file);
            loop {
                let left = LONGEST.saturating_sub(closed.elapsed());
                let Some(alert) = next(left)? else {
                    return Err(format!("no alert for {} within {LONGEST:?}", path.display()).into());
                };
                let told = alert.told()?;
                if told.digest() == Some(&digest) && Path::new(&told.path) == path {
                    times.push(alert.at.saturating_duration_since(closed).as_secs_f64() * 1e3);
                    break;
                }
            }
            // Changes come at no fixed time of any other rhythm.
            pause(Duration::from_micros(2_000 + self.random.below(4_000) as u64));
        }
        Ok(times)
    }
}

/// A thread that writes files which nobody watches, on the same file system.
struct Noise {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Noise {
    fn start(directory: PathBuf) -> BenchResult<Self> {
        let ended = Arc::<AtomicBool>::default();
        let told = Arc::clone(&ended);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let thread = std::thread::Builder::new().spawn(move || {
            runtime.block_on(async {
                let start = Instant::now();
                let mut written: u64 = 0;
                while !told.load(Ordering::Relaxed) {
                    // The rate holds also after a pause that was too long.
                    let due = (start.elapsed().as_secs_f64() * NOISE_RATE as f64) as u64;
                    while written < due {
                        let path = directory.join(format!("noise-{}", written % FILES as u64));
                        // A full disk is found by the measurement itself.
                        fs::write(path, written.to_string()).ok();
                        written += 1;
                    }
                    sleep_until(Instant::now() + Duration::from_millis(1)).await;
                }
            });
        })?;
        Ok(Self { ended, thread: Some(thread) })
    }
}

impl Drop for Noise {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// A way to save a file.
struct Editor {
    name: &'static str,
    /// The program and Debian's package of it, when it needs one.
    program: Option<(&'static str, &'static str)>,
    /// Makes "old" in the file "new"; the second path is one outside the watched tree that may be used.
    save: fn(&Path, &Path) -> BenchResult<()>,
}

const EDITORS: [Editor; 4] = [
    Editor {
        name: "vim",
        program: Some(("vim", "vim")),
        save: |file, _| {
            let arguments = ["-N", "-u", "NONE", "-i", "NONE", "-es", "-c", "%s/old/new/", "-c", "wq"];
            run("vim", arguments.into_iter().map(OsStr::new).chain([file.as_os_str()]))
        },
    },
    Editor {
        name: "sed -i",
        program: Some(("sed", "sed")),
        save: |file, _| {
            run("sed", ["-i", "s/old/new/"].into_iter().map(OsStr::new).chain([file.as_os_str()]))
        },
    },
    Editor {
        name: "rsync",
        program: Some(("rsync", "rsync")),
        save: |file, outside| {
            fs::write(outside, "the new text\nwith a line more\n")?;
            run("rsync", [OsStr::new("-a"), outside.as_os_str(), file.as_os_str()])
        },
    },
    Editor {
        name: "atomic replacement",
        program: None,
        save: |file, _| {
            let temporary = file.with_extension("new");
            fs::write(&temporary, "the new text\n")?;
            Ok(fs::rename(temporary, file)?)
        },
    },
];

fn run<'a>(program: &str, arguments: impl IntoIterator<Item = &'a OsStr>) -> BenchResult<()> {
    timed(Command::new(program).args(arguments)).map(|_| ())
}

/// Saves with each editor, with all settings as they are shipped.
fn measure_saves(bench: &Bench, report: &mut Report) -> BenchResult<()> {
    let root = bench.path("saves");
    fs::create_dir_all(&root)?;
    let file =
        |editor: &Editor, number: usize| root.join(format!("{}-{number}.txt", editor.name.replace(' ', "-")));
    for (editor, number) in
        EDITORS.iter().flat_map(|one| (0..bench.size.saves).map(move |number| (one, number)))
    {
        fs::write(file(editor, number), "the old text\n")?;
    }
    let state = bench.path("saves-state");
    let setup = Setup { watched: &root, state: &state, keys: Default::default(), heartbeats: true };
    let mut module = Module::ready(&setup)?;
    let mut delays = Vec::new();
    for editor in &EDITORS {
        if let Some((program, package)) = editor.program
            && let Err(error) = require(program, package)
        {
            report.not_measured("5", error.as_ref());
            continue;
        }
        let mut wrong = 0;
        for number in 0..bench.size.saves {
            let path = file(editor, number);
            (editor.save)(&path, &bench.path("outside.txt"))?;
            let saved = Instant::now();
            let alerts = module.alerts_until_quiet()?;
            let digest = digest_of(&fs::read(&path)?);
            let told = alerts.iter().map(Alert::told).collect::<BenchResult<Vec<_>>>()?;
            let is_right = matches!(told.as_slice(), [one] if one.event == "changed"
                && Path::new(&one.path) == path && one.digest() == Some(&digest));
            wrong += usize::from(!is_right);
            delays.extend(
                alerts.first().map(|alert| alert.at.saturating_duration_since(saved).as_secs_f64() * 1e3),
            );
        }
        let what =
            format!("saves by {} that are not exactly one alert, of {}", editor.name, bench.size.saves);
        report.add(Measure::new("5", what, f64::from(u32::try_from(wrong)?), "").goal(Goal::AtMost(0.0)));
    }
    let what = "save to alert, default window, median";
    report.add(Measure::new("5", what, median(&mut delays), "ms").goal(Goal::AtMost(WINDOW)));
    module.stop()
}
