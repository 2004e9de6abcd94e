//! Measurements, run by `make bench-events`: what an exec costs, how large it is in the history, how long questions
//! take.

#![expect(clippy::disallowed_methods, reason = "what is measured is real time")]

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use vigie_kernel_events::{Account, Kind as Told};

use super::history_tests::record;
use super::tests::{Told as Sunk, canary, engine, search, setup};
use crate::engine::Engine;
use crate::history::lanes::Lanes;
use crate::record::{Outcome, Record, Socket, SocketKind, What};

fn say(text: &str) {
    writeln!(std::io::stdout(), "{text}").expect("stdout takes a line");
}

/// Nanoseconds of this thread on processors.
fn on_processor() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel counts");
    text.split(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

fn status(key: &str) -> String {
    let text = std::fs::read_to_string("/proc/self/status").expect("there is one");
    let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    line[key.len()..].trim().to_owned()
}

/// Nanoseconds and runs of each BPF program of this process, by the order of their descriptors.
fn programs() -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fdinfo").expect("it is there").flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let field = |name: &str| -> Option<u64> {
            text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        };
        if let (Some(time), Some(runs)) = (field("run_time_ns:"), field("run_cnt:")) {
            found.push((time, runs));
        }
    }
    found
}

const EXECS: u32 = 20_000;

#[test]
#[ignore = "a measurement"]
fn what_an_exec_costs() {
    let dir = tempfile::tempdir().unwrap();
    let Some((mut engine, told)) = engine(dir.path(), json!({})) else { return };
    std::fs::write("/proc/sys/kernel/bpf_stats_enabled", "1").ok();
    let before = (programs(), engine.look().counters, on_processor());
    let script = format!("i=0; while [ $i -lt {EXECS} ]; do /bin/true; i=$((i+1)); done");
    let mut load = Command::new("sh").args(["-c", &script]).spawn().expect("sh");
    while load.try_wait().expect("it can be waited for").is_none() {
        engine.step(Duration::from_millis(100));
    }
    engine.step(Duration::from_millis(200));
    let used = on_processor() - before.2;
    let (after, counters) = (programs(), engine.look().counters);
    std::fs::write("/proc/sys/kernel/bpf_stats_enabled", "0").ok();
    let told_of = |kind: Told| counters.sent(kind) - before.1.sent(kind);
    let kernel: u64 = after.iter().zip(&before.0).map(|(after, before)| after.0 - before.0).sum();
    let execs = told_of(Told::Exec);
    let per = |nanoseconds: u64| nanoseconds as f64 / 1000.0 / execs as f64;
    say(&format!(
        "{execs} execs, {} exits, {} forks, {} lost\n\
         reader, rules and history: {:.2} us for an exec with its end; kernel's programs: {:.2} us\n\
         peak memory {} (of the test program), alerts {}",
        told_of(Told::Exit),
        told_of(Told::Fork),
        counters.lost_in_all(),
        per(used),
        per(kernel),
        status("VmHWM:"),
        told.alerts().len(),
    ));
    for (after, before) in after.iter().zip(&before.0) {
        if let Some(each) = (after.0 - before.0).checked_div(after.1 - before.1) {
            say(&format!("  a program: {} runs, {each} ns each", after.1 - before.1));
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn how_large_an_exec_is() {
    let dir = tempfile::tempdir().unwrap();
    let Some((mut engine, _)) = engine(dir.path(), json!({"events": {"detections": false}})) else { return };
    // Builds, shells and small tools, as a server runs them.
    let script = r#"cd "$0"; for i in $(seq 1 250); do
        printf 'int main(void){return %d;}\n' $i > a$i.c; cc -o a a$i.c; ./a
        git --version; ls -l / | sort | head -3; sh -c "echo $i | grep -c $i"; sed -n 1p a$i.c; cat a$i.c | tr a b | wc -c
        python3 -c "print($i)"; dpkg -s bash | awk '/Version/'; rm a$i.c; date +%s; done >/dev/null 2>&1"#;
    let mut load = Command::new("sh").args(["-c", script]).arg(dir.path()).spawn().expect("sh");
    while load.try_wait().expect("it can be waited for").is_none() {
        engine.step(Duration::from_millis(100));
    }
    let look = engine.look();
    let bytes: usize = look.open.iter().map(|(.., bytes)| bytes.len()).sum();
    drop(engine);
    let history = dir.path().join("history");
    let files = |dir: std::path::PathBuf| std::fs::read_dir(dir).unwrap().flatten();
    let lanes = crate::history::lanes::Lane::ALL.map(|lane| lane.dir(&history));
    let log: u64 = lanes.into_iter().flat_map(files).map(|file| file.metadata().unwrap().len()).sum();
    let execs = look.counters.sent(Told::Exec);
    let mut store = Lanes::open(&history, 1 << 40).unwrap();
    store.seal().unwrap();
    let sealed: u64 = store.extents().iter().map(|(_, extent)| extent.bytes).sum();
    say(&format!(
        "{execs} execs with their ends: {:.1} bytes each sealed, {:.1} in the log, {} open in memory",
        sealed as f64 / execs as f64,
        log as f64 / execs as f64,
        bytes
    ));
}

const RECORDS: u32 = 10_000_000;

fn fill(dir: &Path) {
    let mut store = Lanes::open(dir, 1 << 40).unwrap();
    for number in 0..RECORDS / 2 {
        let mut exec = record(number);
        // One in a million is what is looked for.
        if number % 1_000_000 == 77
            && let What::Exec(run) = &mut exec.what
        {
            run.program.path = b"/tmp/.x/wanted".to_vec();
            run.rights.uid = 4242;
            run.rights.euid = 4242;
            run.program.file.inode = 4242;
            let key = crate::history::store::file_key(&run.program.file);
            store.set_digest(key, Account::TRUSTED, [7; 32]);
        }
        let exit = What::Exit { status: 0, processor_ms: 1, resident_quarters: 9, euid: 0 };
        let end = Record { time: exec.time + 900, who: exec.who, what: exit };
        store.add(&exec, Account::TRUSTED);
        store.add(&end, Account::TRUSTED);
        if number % 1_000_000 == 99 {
            let socket = Socket {
                kind: SocketKind::Connect,
                outcome: Outcome::Open,
                local: "192.0.2.1".parse().unwrap(),
                local_port: 1,
                remote: "203.0.113.9".parse().unwrap(),
                remote_port: 443,
                program: Default::default(),
                rights: Default::default(),
                peer: Default::default(),
            };
            store.add(&Record { what: What::Socket(Box::new(socket)), ..exec }, Account::TRUSTED);
        }
        if number % 512 == 0 {
            store.flush(end.time).unwrap();
        }
    }
    store.seal().unwrap();
}

#[test]
#[ignore = "a measurement"]
fn how_long_questions_take() {
    let dir = tempfile::tempdir().unwrap();
    let began = Instant::now();
    fill(dir.path());
    say(&format!("{RECORDS} records written in {:?}", began.elapsed()));
    for question in [
        json!({"ran": ["/tmp/.x/*"]}),
        json!({"ran": ["/tmp/*"], "since": "2000-01-01"}),
        json!({"by": ["4242"]}),
        json!({"hash": ["07".repeat(32)]}),
        json!({"connected": ["203.0.113.0/24"]}),
        json!({"command": ["tool 77$"], "limit": 100_000}),
        json!({"by": ["1"]}),
    ] {
        let began = Instant::now();
        let found = search(dir.path(), Vec::new(), &question);
        say(&format!("{:>8.1?}  {} found  {question}", began.elapsed(), found.hits.len()));
    }
    // The engine of a long history starts as fast.
    let began = Instant::now();
    let engine = Engine::new(Sunk::default(), setup(json!({})), Some(dir.path().to_owned()), canary);
    say(&format!("{:>8.1?}  start beside {} blocks", began.elapsed(), engine.look().extents[0].1.blocks));
}
