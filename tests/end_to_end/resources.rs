//! An agent that has nothing left of what it works with: tasks, descriptors, directories.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Host, IMPATIENT, Settings, module, persistent, signal, wait_until};
use crate::task_limit::TaskLimit;

/// A user that no account has; its tasks are counted apart from everybody else's.
const NOBODYS_USER: u32 = 65_501;

#[test]
fn a_fork_bomb_under_a_task_limit_costs_neither_the_agent_nor_its_other_modules() {
    let Some(limit) = TaskLimit::new(60) else {
        return vigie_skipped::skipped("no pids cgroup can be made here");
    };
    let host = Host::new(&Settings { heartbeat: "1s", ..Settings::default() }, "");
    let trigger = host.path("trigger");
    let bomb = module("persistent", "bomb", "fork_bomb.sh", &[trigger.to_str().unwrap()], "");
    // A module in Python would need a thread of its own to answer.
    let alert = host.path("alert");
    let script = "alerts_on_trigger.sh";
    let modules = bomb + &module("persistent", "healthy", script, &[alert.to_str().unwrap()], "");
    host.configure(&Settings { heartbeat: "1s", ..Settings::default() }, &modules);
    let enter = limit.enter();
    let mut agent = host.start_by(&enter.each_ref().map(String::as_str));
    let good = host.wait_running("healthy");
    host.wait_running("bomb");

    fs::write(&trigger, "").unwrap();
    // pids.events counts every start that was refused; version 1 counts it where the process is.
    host.wait_log("reason=limit(tasks)");
    agent.signal(Signal::SIGHUP);
    host.wait_log("SIGHUP, reloading");
    fs::write(&alert, "").unwrap();
    wait_until("the alert is recorded", || {
        host.journal().iter().any(|record| record["id"] == "triggered-1").then_some(())
    });
    // The bomb ends, is killed with all that it started, and started again.
    host.wait_for("bomb", |module| module["restarts"].as_u64() > Some(0));
    agent.assert_runs();
    assert_eq!(host.module("healthy")["pid"], good["pid"]);
}

#[test]
fn an_agent_whose_user_has_no_process_left_lives_on_and_carries_alerts() {
    if !vigie_skipped::is_root() {
        return;
    }
    let host = Host::new(&IMPATIENT, "");
    let trigger = host.path("trigger");
    let script = "alerts_on_trigger.sh";
    let healthy = module("persistent", "healthy", script, &[trigger.to_str().unwrap()], "");
    host.configure(&IMPATIENT, &(healthy + &module("persistent", "dies", script, &["/nonexistent"], "")));
    host.give_to(NOBODYS_USER);
    let as_nobody = ["prlimit", "--nproc=80", "setpriv", "--reuid=65501", "--regid=65501", "--clear-groups"];
    let mut agent = host.start_by(&as_nobody);
    let first = host.wait_running("healthy");
    let dying = host.wait_running("dies");

    let hogs = Hogs::fill(&as_nobody);
    agent.signal(Signal::SIGHUP);
    host.wait_log("SIGHUP, reloading");
    fs::write(&trigger, "").unwrap();
    wait_until("the alert is recorded", || {
        host.journal().iter().any(|record| record["id"] == "triggered-1").then_some(())
    });
    // A module that dies now cannot be started, which is no death of it.
    signal(&dying["pid"], Signal::SIGKILL);
    host.wait_for("dies", |module| {
        module["last_exit"].as_str().is_some_and(|exit| exit.starts_with("shortage"))
    });
    let waiting = host.wait_for("dies", |module| module["restarts"].as_u64() > Some(6));
    assert_ne!(waiting["state"], "failed", "{waiting}");
    let condition = host.wait_condition("agent", "tasks-exhausted");
    assert_eq!(condition["severity"], "failed", "{condition}");
    drop(hogs);

    host.wait_running("dies");
    wait_until("the status is well again", || {
        host.condition("agent", "tasks-exhausted").is_none().then_some(())
    });
    assert_eq!(host.module("healthy")["pid"], first["pid"]);
    agent.assert_runs();
}

/// Processes that use up the process limit of a user.
struct Hogs(Vec<std::process::Child>);

impl Hogs {
    fn fill(as_user: &[&str]) -> Self {
        let mut hogs = Vec::new();
        for _ in 0..80 {
            let mut command = std::process::Command::new(as_user[0]);
            command.args(&as_user[1..]).args(["/bin/sleep", "1000"]);
            // One whose limit is reached ends by itself.
            command.stderr(std::process::Stdio::null());
            hogs.push(command.spawn().unwrap());
        }
        Self(hogs)
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            hog.kill().ok();
            hog.wait().ok();
        }
    }
}

#[test]
fn clients_that_use_up_descriptors_do_not_keep_a_module_down() {
    let host = Host::new(&IMPATIENT, &persistent("echo.py", &[]));
    let agent = host.start_by(&["prlimit", "--nofile=128:128"]);
    let first = host.wait_ready("echo");
    let idle: Vec<_> = (0..150).filter_map(|_| host.connect().ok()).collect();

    signal(&first["pid"], Signal::SIGKILL);

    let again = host.wait_for("echo", |module| module["state"] == "running" && module["pid"] != first["pid"]);
    assert_eq!(again["restarts"], 1, "no start failed");
    drop(idle);
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn a_shortage_of_the_whole_host_is_no_death_of_a_module() {
    let host = Host::new(&IMPATIENT, &persistent("echo.py", &[]));
    let agent = host.start();
    let first = host.wait_ready("echo");
    let set = |limit: u32| {
        let pid = agent.pid().to_string();
        let limit = format!("--nofile={limit}:");
        let ran = std::process::Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap();
        assert!(ran.success());
    };

    // A client that is there already can still ask.
    let mut client = host.connect().unwrap();
    let mut names = || {
        client.send(&json!({"status": {}})).unwrap();
        let status = client.receive().unwrap()["status"].take();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().map(|condition| condition["name"].clone()).collect::<Vec<_>>()
    };
    assert!(names().is_empty());

    // Below what is open: not even the reserve helps.
    set(3);
    signal(&first["pid"], Signal::SIGKILL);
    host.wait_log("module cannot be started at present");
    wait_until("the status names it", || names().contains(&"descriptors-exhausted".into()).then_some(()));
    set(1024);

    let again = host.wait_ready("echo");
    assert_ne!(again["pid"], first["pid"]);
    wait_until("the status is well again", || {
        (!names().contains(&"descriptors-exhausted".into())).then_some(())
    });
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn limits_too_small_to_work_with_are_named_and_end_the_start_with_69() {
    let host = Host::new(&Settings::default(), &persistent("echo.py", &[]));
    for limit in (6..80).step_by(3) {
        let mut agent = host.launch_by(&["prlimit", &format!("--nofile={limit}:{limit}")]);
        let status = agent.wait();
        let errors = fs::read_to_string(host.path("agent.err")).unwrap();
        fs::remove_file(host.path("agent.err")).unwrap();

        assert_eq!(status.code(), Some(69), "{limit}: {errors}");
        assert!(errors.contains("open files"), "{limit}: {errors}");
        assert!(!errors.contains("panicked"), "{limit}: {errors}");
    }
    if let Some(limit) = TaskLimit::new(8) {
        let enter = limit.enter();
        let mut agent = host.launch_by(&enter.each_ref().map(String::as_str));
        let status = agent.wait();
        let errors = fs::read_to_string(host.path("agent.err")).unwrap();

        assert_eq!(status.code(), Some(69), "{errors}");
        assert!(errors.contains("threads") && !errors.contains("panicked"), "{errors}");
    }
}
