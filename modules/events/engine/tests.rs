//! One user's load and everybody else's records, on this host's kernel.

#![expect(clippy::disallowed_methods, reason = "tests of the kernel run in real time only")]

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use vigie_kernel_events::{Account, Kind as Told, Whose};

use super::Engine;
use crate::record::{Key, Program, Record, Run, What};
use crate::tests::{engine, search};

const NOBODY: u32 = 65_534;

/// Ends with the test, also when it fails.
struct Flood(Vec<Child>);

impl Flood {
    /// Runs programs with arguments of 4 KiB, as fast as two shells can.
    fn begin() -> Self {
        let script = "while :; do /bin/true $0; done";
        let one = |_| {
            Command::new("/bin/sh")
                .args(["-c", script, &"x".repeat(4000)])
                .uid(NOBODY)
                .current_dir("/")
                .stdin(Stdio::null())
                .spawn()
                .expect("nobody runs a shell")
        };
        Self((0..2).map(one).collect())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// A program that listens and whose file is removed later.
#[test]
fn a_file_that_is_removed_behind_a_listening_program_is_reported_and_one_that_is_made_again_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let Some((mut engine, told)) = engine(dir.path(), json!({})) else { return };
    let python = std::fs::canonicalize("/usr/bin/python3").expect("python3");
    let Ok(home) = tempfile::Builder::new().prefix("vigie-made-again").tempdir_in("/root") else {
        return vigie_skipped::without_bpf("/root cannot be written");
    };
    let code = "import socket,sys;s=socket.socket();s.bind(('127.0.0.1',0));s.listen();print(1,flush=True);sys.stdin.read()";
    let Ok(opt) = tempfile::Builder::new().prefix("vigie-upgraded").tempdir_in("/opt") else {
        return vigie_skipped::without_bpf("/opt cannot be written");
    };
    let listen = |path: &std::path::Path, command: &[&str]| {
        vigie_skipped::copy_program(&python, path);
        let (program, before) = command.split_first().expect("there is one");
        let mut child = Command::new(program)
            .args(before)
            .arg(path)
            .args(["-c", code])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut byte = [0];
        std::io::Read::read_exact(child.stdout.as_mut().expect("it is piped"), &mut byte)
            .expect("it listens");
        child
    };
    let (removed, again) = (dir.path().join("removed"), home.path().join("again"));
    // As a daemon that systemd starts with PrivateTmp or ProtectSystem.
    let sandbox = ["unshare", "-m"];
    let upgraded = opt.path().join("daemon");
    // Where not everybody may write, and where the kernel alone does not know whether a removed file is there.
    let (hidden, implant) = (opt.path().join("hidden"), home.path().join("implant"));
    let mut children = Flood(vec![
        listen(&removed, &["env"]),
        listen(&again, &["env"]),
        listen(&upgraded, &sandbox),
        listen(&hidden, &sandbox),
        listen(&implant, &["unshare", "-rm"]),
    ]);
    let reported = |told: &crate::tests::Told, child: &Child| {
        let is_it =
            |alert: &serde_json::Value| alert.to_string().contains(&format!("\"pid\":{},", child.id()));
        told.alerts().iter().any(|alert| alert["rule"] == "deleted-or-memory-listen" && is_it(alert))
    };
    crate::tests::all_is_read(&mut engine, &told, dir.path());
    assert!(!children.0.iter().any(|child| reported(&told, child)));

    for removed in [&removed, &again, &hidden, &implant] {
        std::fs::remove_file(removed).unwrap();
    }
    vigie_skipped::copy_program(&python, &again);
    let new = opt.path().join("daemon.new");
    vigie_skipped::copy_program(&python, &new);
    std::fs::rename(&new, &upgraded).unwrap();
    engine.listeners_due = 0;
    engine.step(Duration::ZERO);

    assert!(reported(&told, &children.0[0]));
    assert!(!reported(&told, &children.0[1]));
    assert!(!reported(&told, &children.0[2]));
    assert!(reported(&told, &children.0[3]));
    assert!(reported(&told, &children.0[4]));
    let count = told.alerts().len();
    engine.listeners_due = 0;
    engine.step(Duration::ZERO);
    assert!(!told.alerts()[count..].iter().any(|alert| alert["rule"] == "deleted-or-memory-listen"));
    children.0.clear();
}

/// Nothing that could have happened while nobody looked is taken for what did not happen.
#[test]
fn what_was_not_recorded_makes_answers_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let history = dir.path().join("history");
    let config = json!({"events": {"kinds": ["exec"]}});
    let Some((engine, _)) = engine(dir.path(), config.clone()) else { return };
    let lost = |engine: &Engine<crate::tests::Told>, question: serde_json::Value| {
        search(&history, engine.look().open, &question).lost.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(lost(&engine, json!({"ran": ["*/x"]})), Vec::<String>::new());
    engine.stop();

    let (engine, _) = crate::tests::engine(dir.path(), config).expect("it has worked before");
    assert_eq!(lost(&engine, json!({"ran": ["*/x"]})), ["not-running"]);
    assert_eq!(
        lost(&engine, json!({"connected": ["192.0.2.1"]})),
        ["not-recorded:accept", "not-recorded:connect", "not-running"]
    );
    assert!(engine.look().unrecorded.contains(&crate::record::Kind::Connect));
}

#[test]
fn a_user_who_runs_programs_as_fast_as_he_can_hides_nothing_of_root() {
    let dir = tempfile::tempdir().unwrap();
    let Some((mut engine, told)) = engine(dir.path(), json!({})) else { return };
    let flood = Flood::begin();
    let script = "i=0; while [ $i -lt 200 ]; do i=$((i+1)); /bin/true among-the-flood $i; done";
    // The engine does not run meanwhile, as on a host that is busy, until the ring has no room for the flood.
    let lost =
        |engine: &Engine<crate::tests::Told>| engine.look().counters.lost_of(Told::Exec, Whose::Others);
    while lost(&engine) == 0 {
        std::thread::yield_now();
    }
    let of_root = Command::new("/bin/sh").args(["-c", script]).env_clear().status().expect("sh");
    assert!(of_root.success());
    drop(flood);
    // One that is told says so within five seconds.
    let deadline = Instant::now() + Duration::from_secs(5);
    while !told.alerts().iter().any(|alert| alert["whose"] == "others") {
        assert!(Instant::now() < deadline, "the loss is not told");
        engine.step(Duration::from_millis(100));
    }

    let history = dir.path().join("history");
    let all = json!({"command": ["^/bin/true among-the-flood"], "limit": 1000});
    let found = search(&history, engine.look().open, &all);
    assert_eq!(found.hits.len(), 200);
    let exits = search(&history, engine.look().open, &json!({"kind": ["exit"], "limit": 100_000}));
    let ended = |who| exits.hits.iter().any(|hit| hit.record.who == who);
    assert!(found.hits.iter().all(|hit| ended(hit.record.who)));
    let counters = engine.look().counters;
    let lost = |whose| Told::ALL.iter().map(|kind| counters.lost_of(*kind, whose)).sum::<u64>();
    assert_eq!(lost(Whose::Trusted), 0);
    // What was lost of the flood is in the history as that.
    let losses = search(&history, engine.look().open, &json!({"kind": ["lost"]}));
    let mut told_of = 0;
    for hit in &losses.hits {
        if let What::Lost { kind, count, .. } = &hit.record.what {
            assert!(kind.ends_with(b"/others"), "{:?}", String::from_utf8_lossy(kind));
            told_of += count;
        }
    }
    assert!(0 < told_of && told_of <= lost(Whose::Others), "{told_of} of {}", lost(Whose::Others));
    let alerts = told.alerts();
    assert!(alerts.iter().all(|alert| alert["whose"] != "trusted"), "{alerts:?}");
}

/// A connection that nobody answered is told two minutes after it began.
#[test]
fn alerts_about_what_is_told_late_have_the_bound_of_a_minute_too() {
    let dir = tempfile::tempdir().unwrap();
    let Some((mut engine, told)) = engine(dir.path(), json!({})) else { return };
    let late = super::now() - 130_000_000;

    for number in 0..60 {
        let path = format!("memfd:{number}").into_bytes();
        let program = Program { path, ..Program::default() };
        let what = What::Exec(Box::new(Run { program, ..Run::default() }));
        engine.tell(Record { time: late, who: Key::new(1, 1), what }, Account::user(NOBODY));
        engine.alerts.due(super::now());
    }

    let of_rule = told.alerts().into_iter().filter(|alert| !alert["rule"].is_null()).count();
    assert!((1..=20).contains(&of_rule), "{of_rule}");
}
