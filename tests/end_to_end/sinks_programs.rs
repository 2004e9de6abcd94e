//! Sinks that are processes: what they write, what they leave behind, and files that others hold.

use std::fs;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getsid};
use serde_json::Value;

use crate::harness::{Host, Settings, persistent, python, signal, wait_until};
use crate::receivers::lines;
use crate::sinks::{HARD, hard_alert, host_with, low_alert, say, wait_sink};

/// The processes that write files of sinks of this host.
pub(crate) fn writers(host: &Host) -> Vec<i32> {
    let below = host.path("").display().to_string();
    let pids = fs::read_dir("/proc").expect("there is /proc").flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
            words.get(1).is_some_and(|word| word == "write-sink") && words[2].starts_with(&below)
        })
        .collect()
}

/// Whether this process sleeps on.
fn is_asleep(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains("(sleep) S"))
}

#[test]
fn what_a_program_put_into_another_session_ends_with_the_agent_however_that_ends() {
    let host = host_with("");
    let left = host.path("left");
    let script = format!("setsid sleep 1000 >&2 & echo $! >> {}; exec cat > /dev/null", left.display());
    let command = format!("command = [\"/bin/sh\", \"-c\", {script:?}]");
    let section = format!("[[sink]]\nname = \"keeps\"\nkind = \"command\"\n{command}\n");
    host.configure(&Settings::default(), &format!("{}{section}", persistent("says.py", &[])));
    for is_killed in [false, true] {
        let agent = host.start();
        say(&host, &[low_alert("one")]);
        let sleeper = wait_until("the program has put one there", || {
            let text = fs::read_to_string(&left).ok()?;
            text.lines().last().filter(|pid| is_asleep(pid)).map(str::to_owned)
        });

        if is_killed {
            agent.kill();
        } else {
            assert_eq!(agent.stop(), Some(0));
        }

        wait_until("it is gone with the agent", || (!is_asleep(&sleeper)).then_some(()));
    }
}

/// A host with a sink whose program is a shell's script.
fn host_with_script(script: &str) -> Host {
    let host = host_with("");
    let command = format!("command = [\"/bin/sh\", \"-c\", {script:?}]");
    let section = format!("[[sink]]\nname = \"script\"\nkind = \"command\"\n{command}\n");
    host.configure(&Settings::default(), &format!("{}{section}", persistent("says.py", &[])));
    host
}

/// What a program has written into a file of the host: whole lines.
fn wait_text(path: &Path) -> String {
    wait_until("the program has written", || {
        fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'))
    })
}

#[test]
fn a_program_starts_with_no_signal_blocked() {
    let directory = tempfile::tempdir().expect("a directory");
    let mask = directory.path().join("mask");
    let host = host_with_script(&format!("grep SigBlk /proc/self/status > {}; exec cat >&2", mask.display()));
    let agent = host.start();
    say(&host, &[low_alert("one")]);

    let text = wait_text(&mask);

    assert_eq!(text.split_whitespace().last(), Some("0000000000000000"), "{text}");
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn what_a_program_started_ends_also_when_its_launcher_is_killed() {
    let directory = tempfile::tempdir().expect("a directory");
    let left = directory.path().join("left");
    // It has acknowledged the alert: nobody waits for it.
    let script =
        format!("sleep 1000 >&2 & read -r line; echo 1; echo $! >> {}; exec cat >&2", left.display());
    let host = host_with_script(&script);
    let agent = host.start();
    say(&host, &[low_alert("one")]);
    let sleeper = wait_text(&left).trim().to_owned();
    wait_sink(&host, "script", |sink| sink["sent"] == 1);
    wait_until("it sleeps", || is_asleep(&sleeper).then_some(()));
    let pid = Pid::from_raw(sleeper.parse().expect("a process id"));
    let launcher = getsid(Some(pid)).expect("it has a session");

    signal(&launcher.as_raw().into(), Signal::SIGKILL);

    wait_until("it is gone with the launcher", || (!is_asleep(&sleeper)).then_some(()));
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn a_program_sees_the_end_of_its_input_and_ends_by_itself() {
    let directory = tempfile::tempdir().expect("a directory");
    let ended = directory.path().join("ended");
    let host = host_with_script(&format!(
        "read -r line; echo 1; while read -r line; do :; done; echo by itself > {}",
        ended.display()
    ));
    let agent = host.start();
    say(&host, &[low_alert("one")]);
    wait_sink(&host, "script", |sink| sink["sent"] == 1);

    assert_eq!(agent.stop(), Some(0));

    assert_eq!(fs::read_to_string(&ended).unwrap_or_default(), "by itself\n");
}

#[test]
fn a_program_takes_alerts_and_what_it_did_not_acknowledge_comes_again_marked() {
    let host = host_with("");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/takes_alerts.py");
    let section = |name: &str, mode: &str| {
        let out = host.path(&format!("{name}.out")).display().to_string();
        let mut command = vec![python().to_owned(), "-BS".to_owned(), script.to_owned(), out];
        command.extend((!mode.is_empty()).then(|| mode.to_owned()));
        format!(
            "[[sink]]\nname = \"{name}\"\nkind = \"command\"\ntimeout = \"2s\"\ncommand = {}\n",
            serde_json::to_string(&command).unwrap()
        )
    };
    let sinks = section("takes", "")
        + &section("mute", "never")
        + "[[sink]]\nname = \"ends\"\nkind = \"command\"\ncommand = [\"/bin/false\"]\n"
        + &format!(
            "[[sink]]\nname = \"leaves\"\nkind = \"command\"\ncommand = [\"/bin/sh\", \"-c\", {:?}]\n",
            format!("setsid sleep 1000 >&2 & echo $! >> {}; exit 1", host.path("left").display())
        );
    host.configure(&Settings::default(), &format!("{}{sinks}", persistent("says.py", &[])));
    let agent = host.start();
    let mut texts: Vec<String> = (0..300).map(|number| low_alert(&number.to_string())).collect();
    texts.push(hard_alert());
    texts.push(low_alert(&"y".repeat(64 << 10)));
    say(&host, &texts);

    wait_sink(&host, "takes", |sink| sink["sent"] == 302);
    let taken: Vec<Value> =
        lines(&host.path("takes.out")).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seqs: Vec<u64> = taken.iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=302).collect::<Vec<u64>>());
    assert_eq!(taken[300]["alert"]["alert"]["path"], HARD);
    wait_sink(&host, "mute", |sink| sink["failures"]["timeout"].as_u64() >= Some(1) && sink["sent"] == 0);
    wait_sink(&host, "ends", |sink| sink["failures"]["exited"].as_u64() >= Some(1) && sink["sent"] == 0);
    // What a program leaves behind ends with it, in whatever session, also when the program ended by itself.
    wait_sink(&host, "leaves", |sink| sink["failures"]["exited"].as_u64() >= Some(1));
    wait_until("what it left is gone", || (!is_asleep(&lines(&host.path("left"))[0])).then_some(()));
    agent.stop();
}

#[test]
fn a_file_that_another_process_has_locked_costs_one_writer_and_holds_each_alert_once() {
    let host = host_with("");
    let path = host.path("alerts.jsonl");
    let section = format!("[[sink]]\nname = \"file\"\nkind = \"file\"\npath = {path:?}\ntimeout = \"1s\"\n");
    host.configure(&Settings::default(), &format!("{}{section}", persistent("says.py", &[])));
    let agent = host.start();
    say(&host, &[low_alert("before")]);
    wait_sink(&host, "file", |sink| sink["sent"] == 1);

    // Whoever may read the file may do this.
    let reader = fs::File::open(&path).expect("the sink made it");
    let lock = Flock::lock(reader, FlockArg::LockExclusive).expect("nobody has locked it");
    say(&host, &[low_alert("meanwhile")]);
    // A writer that starts slowly is given up before it says so itself.
    wait_sink(&host, "file", |sink| {
        assert!(writers(&host).len() <= 1, "{:?}", writers(&host));
        let failures = &sink["failures"];
        let rounds = failures["exited"].as_u64().unwrap_or(0) + failures["timeout"].as_u64().unwrap_or(0);
        let why = sink["last_error"].as_str().unwrap_or_default();
        rounds >= 2 && why.contains("another process has locked it")
    });

    // One waits for the lock, and goes with the agent however that ends.
    wait_until("a writer waits", || (writers(&host).len() == 1).then_some(()));
    assert_eq!(agent.stop(), Some(0));
    wait_until("no writer is left after the stop", || writers(&host).is_empty().then_some(()));
    let agent = host.start();
    wait_until("a writer waits again", || (writers(&host).len() == 1).then_some(()));
    agent.kill();
    wait_until("no writer is left after the kill", || writers(&host).is_empty().then_some(()));
    let _agent = host.start();
    drop(lock);
    wait_sink(&host, "file", |sink| sink["lag"] == 0 && sink["position"] == 2);

    let written = lines(&path);
    let texts: Vec<Value> = written
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).expect("a whole line")["message"].take())
        .collect();
    assert_eq!(texts, ["before", "meanwhile"]);
}
