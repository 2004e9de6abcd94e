//! Rows 12 and 13: what a user can do to root's alerts, and what a busy directory pays that nobody watches.
//!
//! The user's part runs as this program once more, with [`STORM`] as its first argument and without rights.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use tokio::time::Instant;

use crate::agent::Agent;
use crate::host_cost::loops;
use crate::module::{Module, Setup, no_schedules};
use crate::{Bench, memory_directory, pause};
use vigie_benchmark::{BenchResult, Goal, Measure, Report, median, proc};

/// What a run as the user begins with; then come the kind, the directory and the number of files.
pub(crate) const STORM: &str = "--storm";

/// A user that has no account.
const USER: u32 = 54_321;

/// Files that root changes in turn.
const FILES: usize = 50;

/// Longest time of a storm.
const LONGEST: Duration = Duration::from_secs(60);

/// Longest wait for one alert.
const PATIENCE: Duration = Duration::from_secs(30);

/// Storms, and what they do in words.
const STORMS: [(&str, &str); 6] = [
    ("nothing", "nothing"),
    ("names", "creates files with names of 240 bytes"),
    ("forged", "creates 245 directories of files with control characters in their names"),
    ("sparse", "touches eight files of up to 4 EiB of holes"),
    ("rename", "renames one file without rest"),
    ("links", "makes hard links of one file"),
];

/// What the user does, until it is done or ten seconds are over.
pub(crate) fn storm(kind: &str, directory: &Path, count: usize) -> std::io::Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    let create = |name: String| File::create(directory.join(name)).map(drop);
    match kind {
        "names" => (0..count).try_for_each(|number| create(format!("{number}-{}", "x".repeat(230)))),
        "forged" => (0..245).try_for_each(|parent| {
            fs::create_dir(directory.join(format!("d{parent}")))?;
            (0..count / 1000).try_for_each(|number| {
                let name = format!("d{parent}/authorized_keys{number}");
                create(format!("{name}{}", "\u{1}".repeat(255 + parent.to_string().len() + 2 - name.len())))
            })
        }),
        "sparse" => {
            let files: Vec<File> = (0..8)
                .map(|number| File::create(directory.join(format!("sparse{number}"))))
                .collect::<Result<_, _>>()?;
            for file in &files {
                // The largest that the file system takes.
                let fits = [1 << 62, 1 << 43, 1 << 41].into_iter().any(|size| file.set_len(size).is_ok());
                if !fits {
                    return Err(std::io::Error::other("the file system takes no large files"));
                }
            }
            while Instant::now() < end {
                files.iter().try_for_each(|file| file.write_all_at(b"x", 12_345))?;
                (0..8).try_for_each(|number| {
                    File::options().write(true).open(directory.join(format!("sparse{number}"))).map(drop)
                })?;
                pause(Duration::from_millis(50));
            }
            Ok(())
        }
        "rename" => {
            let (one, other) = (directory.join("a"), directory.join("b"));
            File::create(&one)?;
            while Instant::now() < end {
                fs::rename(&one, &other)?;
                fs::rename(&other, &one)?;
            }
            Ok(())
        }
        "links" => {
            File::create(directory.join("f"))?;
            let link = |number| fs::hard_link(directory.join("f"), directory.join(format!("l{number}")));
            (0..count * 3 / 10).try_for_each(link)
        }
        _ => {
            pause(Duration::from_secs(5));
            Ok(())
        }
    }
}

fn start(kind: &str, directory: &Path, count: usize) -> BenchResult<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args([STORM, kind]).arg(directory).arg(count.to_string());
    Ok(command.uid(USER).gid(USER).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?)
}

pub(crate) fn measure(bench: &Bench, report: &mut Report) -> BenchResult<()> {
    // Every directory above must let the user pass.
    let place = tempfile::Builder::new().prefix("fim-adversary-").tempdir()?;
    fs::set_permissions(place.path(), Permissions::from_mode(0o755))?;
    for (kind, what) in STORMS {
        let watched = place.path().join(kind);
        let (etc, home) = (watched.join("etc"), watched.join("home"));
        for directory in [&etc, &home] {
            fs::create_dir_all(directory)?;
        }
        chown(&home, Some(USER), Some(USER))?;
        for number in 0..FILES {
            fs::write(etc.join(format!("shadow{number}")), "before\n")?;
        }
        let keys = "quick_scan_minutes = 0\nrehash_days = 0\n";
        let mut agent = Agent::new(&bench.path(&format!("adversary-{kind}")), &watched, keys)?;
        agent.start()?;
        let alerts = agent.follow()?;
        let module = agent.module_pid()?;
        let idle = proc::held(module)?.resident_kib;
        let mut user = start(kind, &home, bench.size.burst.0)?;
        let (begun, mut number, mut most, mut times) = (Instant::now(), 0, idle, Vec::new());
        while user.try_wait()?.is_none() && begun.elapsed() < LONGEST {
            let path = etc.join(format!("shadow{}", number % FILES));
            number += 1;
            let mut file = File::create(&path)?;
            file.write_all(format!("evil {number}\n").as_bytes())?;
            let closed = Instant::now();
            drop(file);
            let named = format!("\"path\":\"{}\"", path.display());
            loop {
                match alerts.recv_timeout(PATIENCE) {
                    Ok(alert) if alert.at > closed && alert.message.contains(&named) => {
                        times.push(alert.at.duration_since(closed).as_secs_f64() * 1e3);
                        break;
                    }
                    Ok(_) => {}
                    Err(RecvTimeoutError::Timeout) => {
                        return Err(format!("{kind}: root's change was not told in {PATIENCE:?}").into());
                    }
                    Err(RecvTimeoutError::Disconnected) => return Err("the agent's stream ended".into()),
                }
            }
            most = most.max(proc::held(module)?.resident_kib);
            pause(Duration::from_millis(30));
        }
        user.kill().ok();
        user.wait()?;
        agent.kill()?;
        let middle = median(&mut times);
        let high = times.get(times.len() * 99 / 100).or(times.last()).copied().unwrap_or(f64::NAN);
        let what = format!("root's change until its record is in the journal, while a user {what}");
        let figures = [("median", middle, 150.0), ("99th percentile", high, 250.0)];
        for (name, value, goal) in figures {
            let what = format!("{what}, {name} of {}", times.len());
            report.add(Measure::new("12", what, value, "ms").goal(Goal::AtMost(goal)));
        }
        let more = most.saturating_sub(idle) as f64 / 1024.0;
        let what = format!("most memory over idle, {kind}");
        report.add(Measure::new("12", what, more, "MiB").goal(Goal::AtMost(64.0)));
    }
    Ok(())
}

/// What a busy directory pays that nobody watches, on a file system on which something else is watched.
pub(crate) fn measure_unwatched(bench: &Bench, report: &mut Report) -> BenchResult<()> {
    let memory = memory_directory()?;
    let (watched, busy) = (memory.path().join("watched"), memory.path().join("busy"));
    fs::create_dir(&watched)?;
    let mut times: [[Vec<f64>; 4]; 2] = Default::default();
    let mut waits = 0;
    for run in 0..bench.size.runs {
        for (is_watched, times) in times.iter_mut().enumerate() {
            fs::create_dir(&busy)?;
            let state = bench.path(&format!("unwatched-{run}-state"));
            let setup = Setup { watched: &watched, state: &state, keys: no_schedules(), heartbeats: false };
            let module = if is_watched == 1 { Some(Module::ready(&setup)?) } else { None };
            let before = module.as_ref().map(|module| proc::waits(module.pid())).transpose()?;
            let measured = loops(&busy, bench.size.operations)?;
            if let (Some(module), Some(before)) = (module, before) {
                waits = proc::waits(module.pid())?.saturating_sub(before);
                module.stop()?;
            }
            fs::remove_dir(&busy)?;
            for (all, one) in times.iter_mut().zip(measured) {
                all.push(one);
            }
        }
    }
    let [without, with] = &mut times;
    for (name, (without, with)) in
        ["create", "rename", "chmod", "unlink"].into_iter().zip(without.iter_mut().zip(with))
    {
        let what = format!("{name} in a directory that nobody watches, and the same without the module");
        let measure = Measure::new("13", what, median(with), "ns").against(median(without));
        report.add(measure.goal(Goal::AtMost(1.1)));
    }
    let what = "wake-ups of the module for it, the last run";
    report.add(Measure::new("13", what, waits as f64, "").goal(Goal::AtMost(0.0)));
    Ok(())
}
