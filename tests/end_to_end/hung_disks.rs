//! Disks that do not answer: a file system in a file, frozen (fsfreeze(8)) in a mount namespace of its own.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::disk::Disk;
use crate::harness::{Host, IMPATIENT, module, persistent, signal, wait_until};
use crate::limits::{READ_ONLY, below};
use crate::sinks::{low_alert, say, wait_sink};
use crate::sinks_programs::writers;

fn words(inside: &[String]) -> Vec<&str> {
    inside.iter().map(String::as_str).collect()
}

fn has_condition(status: &Value, name: &str) -> bool {
    status["conditions"].as_array().unwrap().iter().any(|condition| condition["name"] == name)
}

/// With the disk frozen: the status comes and names it, queries are answered, a dead module comes back, a stuck one is
/// ended, and the agent stops and starts.
fn assert_agent_lives_with_a_hung_disk(host: &Host, disk: &Disk, condition: &str) {
    let inside = disk.inside();
    let mut agent = host.start_by(&words(&inside));
    let first = host.wait_ready("echo");
    let second = host.wait_running("wrong_nonces_not");

    disk.freeze();
    wait_until("the status names the disk", || has_condition(&host.status(), condition).then_some(()));
    let answer = host.query("echo", &json!({}));
    assert!(answer["result"]["success"].as_bool().unwrap_or(false), "{answer}");
    signal(&first["pid"], Signal::SIGKILL);
    let again = host.wait_for("echo", |module| module["state"] == "running" && module["pid"] != first["pid"]);
    signal(&again["pid"], Signal::SIGSTOP);
    host.wait_for("echo", |module| module["state"] == "running" && module["pid"] != again["pid"]);
    assert_eq!(host.module("wrong_nonces_not")["pid"], second["pid"]);

    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.wait().code(), Some(0));
    let next = host.start_by(&words(&inside));
    host.wait_ready("echo");
    wait_until("the status names the disk", || has_condition(&host.status(), condition).then_some(()));
    disk.thaw();
    wait_until("all is well again", || (host.status()["health"] == "healthy").then_some(()));
    assert_eq!(next.stop(), Some(0));
}

fn host_with_disk(name: &str) -> Option<(Host, Disk)> {
    let host = Host::new(&IMPATIENT, "");
    let Some(disk) = Disk::mount(&host, name) else {
        vigie_skipped::skipped("no file system can be mounted here");
        return None;
    };
    let echo = persistent("echo.py", &[]);
    let other = echo.replace("\"echo\"", "\"wrong_nonces_not\"");
    host.configure(&IMPATIENT, &(echo + &other));
    Some((host, disk))
}

#[test]
fn an_agent_whose_log_hangs_supervises_answers_stops_and_starts() {
    let Some((host, disk)) = host_with_disk("log") else { return };
    let text = fs::read_to_string(host.path("vigie.toml")).unwrap();
    let file = host.path("agent.log").display().to_string();
    let hung = host.path("log/agent.log").display().to_string();
    fs::write(host.path("vigie.toml"), text.replace(&file, &hung)).unwrap();

    assert_agent_lives_with_a_hung_disk(&host, &disk, "log-stalled");

    // Both agents' lines are there, those of the time in between as well.
    let log = disk.read("agent.log");
    assert_eq!(log.matches("agent started").count(), 2, "{log}");
    assert_eq!(log.matches("agent stopped").count(), 2, "{log}");
}

#[test]
fn an_agent_whose_state_hangs_supervises_answers_stops_and_starts() {
    let Some((host, disk)) = host_with_disk("state") else { return };

    assert_agent_lives_with_a_hung_disk(&host, &disk, "state-stalled");
}

#[test]
fn an_agent_whose_file_with_metrics_hangs_supervises_answers_stops_and_starts() {
    let Some((host, disk)) = host_with_disk("metrics") else { return };
    let section = format!(
        "\n[metrics]\ntextfile = {:?}\ntextfile_interval = \"1s\"\n",
        host.path("metrics/vigie.prom")
    );
    let text = fs::read_to_string(host.path("vigie.toml")).unwrap();
    fs::write(host.path("vigie.toml"), text + &section).unwrap();

    assert_agent_lives_with_a_hung_disk(&host, &disk, "metrics-unavailable");

    assert!(disk.read("vigie.prom").contains("\nvigie_health "));
}

#[test]
fn alerts_of_a_hung_disk_are_acknowledged_when_they_are_on_it() {
    let Some((host, disk)) = host_with_disk("state") else { return };
    host.configure(&IMPATIENT, &persistent("alerts_when_asked.py", &[]));
    let inside = disk.inside();
    let mut agent = host.start_by(&words(&inside));
    host.wait_ready("alerts_when_asked");
    host.query("alerts_when_asked", &json!({"id": "before-1"}));
    wait_until("the first alert is safe", || (host.status()["journal"]["recorded"] == 1).then_some(()));

    disk.freeze();
    host.query("alerts_when_asked", &json!({"id": "frozen-1"}));
    wait_until("the second one waits", || (host.status()["journal"]["pending"] == 1).then_some(()));
    assert_eq!(host.status()["journal"]["recorded"], 1);
    // What was not acknowledged is the module's to send again; the agent ends in time.
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.wait().code(), Some(0));
    let next = host.start_by(&words(&inside));
    host.wait_ready("alerts_when_asked");
    disk.thaw();
    host.query("alerts_when_asked", &json!({"id": "after-1"}));
    wait_until("the journal goes on", || (host.status()["journal"]["recorded"] == 2).then_some(()));

    let verified = host.vigie(&["alerts", "--verify"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    assert_eq!(next.stop(), Some(0));
}

#[test]
fn a_module_whose_alerts_wait_for_a_hung_disk_is_still_seen_to_stand_still() {
    let Some((host, disk)) = host_with_disk("state") else { return };
    let (halt, notes) = (host.path("halt"), host.path("notes"));
    fs::create_dir(&notes).expect("the test owns the directory");
    // So slowly that the agent still reads when the module stands still, however busy the host is.
    let arguments = [halt.to_str().unwrap(), notes.to_str().unwrap(), "0.3"];
    host.configure(&IMPATIENT, &module("persistent", "steady", "steady.py", &arguments, ""));
    let inside = disk.inside();
    let agent = host.start_by(&words(&inside));
    host.wait_running("steady");

    disk.freeze();
    wait_until("many batches wait", || {
        host.status()["journal"]["pending"].as_u64().is_some_and(|pending| pending > 200).then_some(())
    });
    let first = host.wait_running("steady");
    signal(&first["pid"], Signal::SIGSTOP);
    let again =
        host.wait_for("steady", |module| module["state"] == "running" && module["pid"] != first["pid"]);

    assert_eq!(again["last_exit"], "heartbeat_lost");
    disk.thaw();
    assert_eq!(agent.stop(), Some(0));
}

/// Whether a thread of a process sleeps where no signal wakes it.
fn is_uninterruptible(pid: &Value) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok()).any(|stat| {
        // proc_pid_stat(5): the state follows the name, which is in parentheses.
        stat.rsplit_once(')').is_some_and(|(_, after)| after.trim_start().starts_with('D'))
    })
}

/// The agent is started by `by` where the disk is.
fn assert_a_module_that_no_kill_ends_has_no_second_copy(by: &[&str]) {
    let host = Host::new(&IMPATIENT, "");
    let Some(disk) = Disk::mount(&host, "data") else {
        return vigie_skipped::skipped("no file system can be mounted here");
    };
    let file = host.path("data/file");
    host.configure(&IMPATIENT, &persistent("writes.py", &[file.to_str().unwrap()]));
    let inside = disk.inside();
    let agent = host.start_by(&[words(&inside), by.to_vec()].concat());
    let first = host.wait_running("writes");
    wait_until("the module writes", || (!disk.read("file").is_empty()).then_some(()));
    let has_launcher = host.status()["containment"] == "launcher";
    let process = if has_launcher { below(&first["pid"]).into() } else { first["pid"].clone() };

    disk.freeze();
    wait_until("the module waits for the disk", || is_uninterruptible(&process).then_some(()));
    signal(&process, Signal::SIGKILL);
    let condition = host.wait_condition("writes", "module-unkillable");
    assert_eq!(condition["detail"], format!("process {}", first["pid"]));
    let stopping = host.module("writes");
    assert_eq!((&stopping["state"], &stopping["pid"]), (&json!("stopping"), &first["pid"]));
    assert_eq!(host.status()["health"], "failed");
    assert!(is_uninterruptible(&process));

    disk.thaw();
    host.wait_for("writes", |module| module["state"] == "running" && module["pid"] != first["pid"]);
    assert_eq!(host.condition("writes", "module-unkillable"), None);
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn a_module_that_no_kill_ends_because_its_disk_hangs_is_a_condition_and_comes_back_with_the_disk() {
    assert_a_module_that_no_kill_ends_has_no_second_copy(&[]);
}

#[test]
fn a_module_that_outlives_its_killed_agent_has_no_second_copy_beside_the_next_agent() {
    let host = Host::new(&IMPATIENT, "");
    let Some(disk) = Disk::mount(&host, "data") else {
        return vigie_skipped::skipped("no file system can be mounted here");
    };
    let file = host.path("data/file");
    let both = persistent("writes.py", &[file.to_str().unwrap()]) + &persistent("echo.py", &[]);
    host.configure(&IMPATIENT, &both);
    let inside = disk.inside();
    let agent = host.start_by(&words(&inside));
    let first = host.wait_running("writes")["pid"].clone();
    wait_until("the module writes", || (!disk.read("file").is_empty()).then_some(()));
    if host.status()["containment"] == "launcher" {
        return vigie_skipped::skipped("no cgroup is writable here");
    }

    disk.freeze();
    wait_until("the module waits for the disk", || is_uninterruptible(&first).then_some(()));
    agent.kill();
    let agent = host.start_by(&words(&inside));
    host.wait_ready("echo");
    let module = host.wait_for("writes", |module| module["last_exit"].is_string());
    let why = format!("process {first} of an earlier life");
    assert!(module["last_exit"].as_str().unwrap().contains(&why), "{module}");
    assert_eq!(module["pid"], Value::Null);
    assert!(is_uninterruptible(&first));

    disk.thaw();
    host.wait_running("writes");
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn a_module_that_no_kill_ends_has_no_second_copy_without_a_cgroup_either() {
    assert_a_module_that_no_kill_ends_has_no_second_copy(&READ_ONLY);
}

#[test]
fn a_file_sink_on_a_hung_disk_has_one_writer_and_its_file_each_alert_once() {
    let Some((host, disk)) = host_with_disk("sink") else { return };
    let section = |timeout: &str| {
        format!(
            "[[sink]]\nname = \"file\"\nkind = \"file\"\npath = {:?}\ntimeout = \"{timeout}\"\n",
            host.path("sink/alerts.jsonl")
        )
    };
    host.configure(&IMPATIENT, &(persistent("says.py", &[]) + &section("1s")));
    let inside = disk.inside();
    let agent = host.start_by(&words(&inside));
    say(&host, &[low_alert("before")]);
    wait_sink(&host, "file", |sink| sink["sent"] == 1);

    disk.freeze();
    say(&host, &[low_alert("meanwhile")]);
    let failed = wait_sink(&host, "file", |sink| sink["failures"]["timeout"].as_u64() >= Some(3));
    let why = failed["last_error"].as_str().expect("it fails");
    assert!(why.contains("of an earlier attempt does not end"), "{why}");
    assert_eq!(writers(&host).len(), 1);
    // Neither a test nor another configuration starts one more.
    assert_eq!(host.vigie(&["sink", "test", "file"]).code, 1);
    host.configure(&IMPATIENT, &(persistent("says.py", &[]) + &section("2s")));
    assert_eq!(host.vigie(&["reload"]).code, 0);
    wait_sink(&host, "file", |sink| sink["failures"]["timeout"].as_u64() >= Some(1));
    assert_eq!(writers(&host).len(), 1);
    disk.thaw();
    wait_sink(&host, "file", |sink| sink["lag"] == 0 && sink["position"] == 2);

    let text = disk.read("alerts.jsonl");
    assert_eq!(text.lines().count(), 2, "{text}");
    assert_eq!(agent.stop(), Some(0));
    wait_until("no writer is left", || writers(&host).is_empty().then_some(()));
}
