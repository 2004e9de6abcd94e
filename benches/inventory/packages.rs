//! The module `packages` and `dpkg -V` about the packages of this host.

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::cost::{module, run};
use crate::{Size, work_root};
use vigie_benchmark::{BenchResult, Goal, Measure, Report, median, rate};

/// Packages of a short run.
const SOME: [&str; 4] = ["bash", "coreutils", "util-linux", "perl-base"];

pub(crate) fn measure(size: Size, report: &mut Report) -> BenchResult<()> {
    let state = work_root().join("packages-state");
    std::fs::create_dir_all(&state)?;
    let names: Vec<&str> = if size.all_packages { Vec::new() } else { SOME.to_vec() };
    let expressions: Vec<String> = names.iter().map(|name| format!("^{name}$")).collect();

    let mut lists = Vec::new();
    let mut packages = 0;
    for _ in 0..=size.runs {
        let (cost, answer) = module("packages", &json!({}), None)?;
        packages = answer["statistics"]["totalhits"].as_u64().unwrap_or(0);
        lists.push(cost.wall);
    }
    let list = Measure::new(
        "packages",
        format!("list of {packages} packages; goal 30 ms"),
        median(&mut lists[1..]),
        "ms",
    );
    report.add(list.against(30.0).goal(Goal::AtMost(1.0)));

    let verify = json!({"verify": true, "full": true, "name": expressions});
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    // One run of each warms up the page cache.
    for _ in 0..=size.runs.min(3) {
        ours.push(module("packages", &verify, Some(&state))?);
        let mut dpkg = Command::new("dpkg");
        dpkg.arg("-V").args(&names);
        peers.push(run(dpkg, &[], &work_root().join("dpkg.txt"), true)?);
    }
    let files = ours[0].1["statistics"]["verified"]["files"].clone();
    let mut of = |what: &str, unit: &'static str, ours: Vec<f64>, peers: Vec<f64>, goal: f64| {
        let (mut ours, mut peers) = (ours, peers);
        let (ours, peers) = (median(&mut ours), median(&mut peers));
        let measure = Measure::new("packages", what.to_owned(), ours, unit).against(peers);
        report.add(measure.goal(Goal::AtMost(goal)));
    };
    let walls = |goal: usize| peers[goal..].iter().map(|cost| cost.wall).collect::<Vec<_>>();
    let processors: Vec<f64> = peers[1..].iter().map(|cost| cost.processor).collect();
    let own = |pick: fn(&crate::cost::Cost) -> f64| {
        ours[1..].iter().map(|(cost, _)| pick(cost)).collect::<Vec<_>>()
    };
    of(&format!("verify {files} files, wall; dpkg -V"), "ms", own(|cost| cost.wall), walls(1), 0.6);
    of("the same, processors; dpkg -V", "ms of processors", own(|cost| cost.processor), processors, 1.1);

    let again = json!({"verify": true, "name": verify["name"]});
    let mut repeated = Vec::new();
    for _ in 0..size.runs.min(3) {
        repeated.push(module("packages", &again, Some(&state))?.0.wall);
    }
    of("again, wall; dpkg -V", "ms", repeated, walls(1), 0.1);
    let wall = Duration::from_secs_f64(ours[1].0.wall / 1000.0);
    let speed = rate(files.as_u64().unwrap_or(0), wall);
    report.add(Measure::new("packages", "files verified in a second, first run", speed, "files/s"));
    std::fs::remove_dir_all(state)?;
    Ok(())
}
