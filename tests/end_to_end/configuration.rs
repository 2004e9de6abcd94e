//! Configuration files and their changes while the agent runs.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{Host, Settings, module, open_files, persistent, wait_until};

fn default_host(rest: &str) -> Host {
    Host::new(&Settings::default(), rest)
}

fn reload(host: &Host) -> Value {
    host.ask(&json!({"reload": {}}))["reloaded"].take()
}

fn told(host: &Host, name: &str) -> Value {
    host.query(name, &json!({}))["result"]["elements"].clone()
}

#[test]
fn a_thousand_hang_ups_on_an_unchanged_configuration_leave_every_process_as_it_was() {
    let host = default_host(&(persistent("echo.py", &[]) + &persistent("restarted.py", &[])));
    let mut agent = host.start();
    let pids = |host: &Host| (host.module("echo")["pid"].clone(), host.module("restarted")["pid"].clone());
    host.wait_ready("echo");
    host.wait_ready("restarted");
    let (before, files) = (pids(&host), open_files(agent.pid()));

    for _ in 0..1_000 {
        agent.signal(Signal::SIGHUP);
    }

    wait_until("a reload was made", || host.log().contains("SIGHUP").then_some(()));
    let report = reload(&host);
    agent.assert_runs();
    assert_eq!((&report["ok"], &report["changes"]), (&json!(true), &json!([])), "{report}");
    assert_eq!(report["generation"], 1);
    assert_eq!(pids(&host), before);
    wait_until("no descriptor is left", || (open_files(agent.pid()) <= files + 1).then_some(()));
}

#[test]
fn a_bad_file_changes_nothing_and_is_reported_everywhere_with_its_place() {
    let host = default_host(&persistent("echo.py", &[]));
    let mut agent = host.start();
    let before = host.wait_ready("echo");
    let bad = host.configuration(&Settings::default(), "[restart]\nbreaker_deaths = \"many\"\n");
    let line = 1 + bad.lines().position(|line| line.starts_with("breaker_deaths")).unwrap();
    fs::write(host.path("vigie.toml"), bad).unwrap();
    let place = format!("{}:{line}: restart.breaker_deaths", host.path("vigie.toml").display());

    let ran = host.vigie(&["reload"]);

    assert_eq!(ran.code, 78, "{ran:?}");
    assert!(ran.err.contains(&place), "{ran:?}");
    assert!(host.log().contains("breaker_deaths"), "{}", host.log());
    let status = host.status();
    assert_eq!(status["config"]["last_reload_ok"], false);
    assert_eq!(status["config"]["problems"][0]["line"], line);
    assert_eq!(status["config"]["problems"][0]["key"], "restart.breaker_deaths");
    assert_eq!(status["health"], "degraded");
    assert_eq!(host.module("echo")["pid"], before["pid"]);
    agent.assert_runs();

    host.configure(&Settings::default(), &persistent("echo.py", &[]));
    assert_eq!(host.vigie(&["reload"]).code, 0);
    assert_eq!(host.status()["health"], "healthy");
    assert_eq!(host.module("echo")["pid"], before["pid"]);
}

#[test]
fn a_file_that_is_written_step_by_step_never_takes_effect_by_halves() {
    let host = default_host(&persistent("echo.py", &[]));
    let mut agent = host.start();
    let before = host.wait_ready("echo");
    let whole = host.configuration(&Settings::default(), &persistent("echo.py", &[]));

    for end in (0..whole.len()).step_by(whole.len() / 40 + 1) {
        fs::write(host.path("vigie.toml"), &whole[..end]).unwrap();
        let report = host.ask(&json!({"reload": {"dry_run": true}}));
        assert!(report["reloaded"].is_object(), "{report}");
    }
    fs::write(host.path("vigie.toml"), &whole).unwrap();
    let report = reload(&host);

    agent.assert_runs();
    assert_eq!(report["changes"], json!([]), "{report}");
    assert_eq!(host.module("echo")["pid"], before["pid"]);
}

#[test]
fn a_dry_run_says_what_would_change_and_changes_nothing() {
    let host = default_host(&persistent("echo.py", &[]));
    let _agent = host.start();
    host.wait_ready("echo");
    host.configure(&Settings::default(), "");

    let ran = host.vigie(&["reload", "--dry-run", "--json"]);

    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert!(report["changes"][0].as_str().unwrap().contains("echo"), "{report}");
    assert_eq!(report["generation"], 1);
    assert_eq!(host.module("echo")["state"], "running");
}

#[test]
fn a_module_that_can_takes_its_new_configuration_live_and_another_is_restarted() {
    let host = default_host(
        &(persistent("reconfigurable.py", &[])
            + &persistent("restarted.py", &[])
            + &persistent("echo.py", &[])),
    );
    fs::write(host.path("modules.d/reconfigurable.cfg"), "[a]\nb = old\n").unwrap();
    fs::write(host.path("modules.d/restarted.cfg"), "[a]\nb = old\n").unwrap();
    let agent = host.start();
    let (live, graceful, other) =
        (host.wait_ready("reconfigurable"), host.wait_ready("restarted"), host.wait_ready("echo"));

    fs::write(host.path("modules.d/reconfigurable.cfg"), "[a]\nb = new\n").unwrap();
    fs::write(host.path("modules.d/restarted.cfg"), "[a]\nb = new\n").unwrap();
    agent.signal(Signal::SIGHUP);

    wait_until("the live one has it", || {
        told(&host, "reconfigurable")["config"].to_string().contains("new").then_some(())
    });
    let restarted = host.wait_for("restarted", |module| {
        module["pid"] != graceful["pid"] && module["socket"].is_string() && module["state"] == "running"
    });
    assert!(told(&host, "restarted")["config"].to_string().contains("new"));
    assert_eq!(restarted["last_exit"], "config_changed");
    assert_eq!(host.module("reconfigurable")["pid"], live["pid"]);
    assert_eq!(host.module("echo")["pid"], other["pid"]);
}

#[test]
fn modules_come_and_go_with_the_configuration() {
    let host = default_host(&persistent("echo.py", &[]));
    let _agent = host.start();
    let kept = host.wait_ready("echo");

    host.configure(
        &Settings::default(),
        &(persistent("echo.py", &[]) + &module("persistent", "second", "echo.py", &[], "")),
    );
    reload(&host);
    host.wait_ready("second");
    host.configure(&Settings::default(), &persistent("echo.py", &[]));
    reload(&host);

    host.wait_for("second", Value::is_null);
    assert_eq!(host.module("echo")["pid"], kept["pid"]);
    wait_until("only one process is left", || (host.processes().len() == 1).then_some(()));
    assert_eq!(host.query("second", &json!({}))["error"]["kind"], "module_unknown");
}

#[test]
fn a_module_that_hangs_can_be_removed_and_added_again_without_a_second_copy() {
    let modules = persistent("ignores_sigterm.py", &[]);
    let host = default_host(&modules);
    let _agent = host.start();
    let first = host.wait_running("ignores_sigterm");

    host.configure(&Settings::default(), "");
    reload(&host);
    host.configure(&Settings::default(), &modules);
    reload(&host);

    host.wait_for("ignores_sigterm", |module| {
        assert!(host.processes().len() <= 1);
        module["state"] == "running" && module["pid"] != first["pid"]
    });
}

#[test]
fn no_persistent_module_runs_with_nopersistmods() {
    let host = Host::new(
        &Settings { agent: "nopersistmods = true", ..Settings::default() },
        &persistent("echo.py", &[]),
    );
    let _agent = host.start();

    assert_eq!(host.module("echo")["state"], "idle");
    assert_eq!(host.status()["health"], "healthy");
    assert!(host.processes().is_empty());
}

#[test]
fn an_agent_with_a_bad_file_does_not_start_and_says_where() {
    let host = default_host("nonsense = 1\n");

    let mut agent = host.launch();

    assert_eq!(agent.wait().code(), Some(78));
    let errors = fs::read_to_string(host.path("agent.err")).unwrap();
    assert!(errors.contains("vigie.toml:") && errors.contains("nonsense"), "{errors}");
}

#[test]
fn a_module_s_bad_file_keeps_only_that_module_from_starting_until_it_is_mended() {
    let host = Host::new(&Settings { fswatch: true, ..Settings::default() }, &persistent("echo.py", &[]));
    fs::write(host.path("modules.d/fswatch.cfg"), "[paths]\npath = /etc/hosts\nnonsense\n[").unwrap();
    let _agent = host.start();
    host.wait_ready("echo");

    let status = host.status();
    let problem = status["config"]["problems"][0].clone();
    assert!(problem["file"].as_str().unwrap().ends_with("fswatch.cfg"), "{status}");
    assert!(problem["line"].is_u64(), "{status}");
    assert_ne!(host.module("fswatch")["state"], "running");

    fs::write(host.path("modules.d/fswatch.cfg"), "[paths]\npath = /etc/hosts\n").unwrap();
    reload(&host);
    host.wait_running("fswatch");
}

#[test]
fn mig_s_own_files_are_understood() {
    let host = default_host("");
    let root = host.path("");
    let root = root.display();
    fs::create_dir(host.path("mig")).unwrap();
    fs::write(host.path("watched"), "content").unwrap();
    fs::write(
        host.path("mig/mig-agent.cfg"),
        format!(
            "; MIG agent\n[agent]\nrelay = \"amqp://relay\"\nPersistConfigDir = \"{root}mig\"\n\
             moduletimeout = \"300s\"\ntags = \"zone:dc1\"\nextraprivacymode = on\n\
             [logging]\nmode = \"stdout\"\nlevel = \"info\"\n"
        ),
    )
    .unwrap();
    fs::write(host.path("mig/fswatch.cfg"), format!("[PATHS]\nPath = {root}watched\n")).unwrap();

    let ran = host.vigie(&["check-config", host.path("mig/mig-agent.cfg").to_str().unwrap()]);

    // Keys that mean nothing here are named, and nothing worse.
    let text = format!("{}{}", ran.out, ran.err);
    assert!(!text.contains("moduletimeout:") && !text.contains("tags:"), "{ran:?}");
    assert!(text.contains("fswatch") || text.contains("relay"), "{ran:?}");
}

#[test]
fn files_that_are_no_files_are_refused_at_once() {
    let host = default_host("");
    let _agent = host.start();
    let file = host.path("vigie.toml");

    for replace in [
        "mkfifo vigie.toml",
        "mkdir vigie.toml",
        "ln -s /dev/zero vigie.toml",
        "ln -s vigie.toml vigie.toml",
        "truncate -s 1G vigie.toml",
    ] {
        fs::remove_file(&file).or_else(|_| fs::remove_dir(&file)).unwrap();
        let made =
            std::process::Command::new("/bin/sh").args(["-c", replace]).current_dir(host.path("")).status();
        assert!(made.unwrap().success());
        let report = reload(&host);
        assert_eq!(report["ok"], false, "{replace}: {report}");
        assert!(!report["problems"].as_array().unwrap().is_empty());
    }
    fs::remove_file(&file).unwrap();
}

#[test]
fn check_config_names_every_problem_with_file_line_and_key() {
    let host = default_host("[restart]\nbackoff_initial = \"1 parsec\"\nbreaker_deaths = -1\n");

    let file = host.path("vigie.toml");
    let ran = host.vigie(&["check-config", file.to_str().unwrap()]);

    assert_eq!(ran.code, 78);
    for key in ["restart.backoff_initial", "restart.breaker_deaths"] {
        let line = ran.err.lines().find(|line| line.contains(key)).unwrap_or_else(|| panic!("{ran:?}"));
        assert!(line.starts_with(&format!("{}:", file.display())), "{line}");
    }
    assert!(!host.path("run").exists(), "nothing is started or made");
}

#[test]
fn the_configuration_of_a_named_agent_is_the_one_that_it_has_read() {
    let host = Host::new(&Settings::default(), "");
    let file = host.path("vigie.toml");
    let absent = host.vigie(&["config", "show"]);
    let agent = host.start();

    let shown = host.vigie(&["config", "show", "--origin"]);
    fs::write(&file, fs::read(&file).unwrap()).unwrap();
    let changed = host.vigie(&["config", "show"]);

    assert_eq!((absent.code, absent.out.as_str()), (69, ""), "{absent:?}");
    assert!(absent.err.contains("`vigie config show FILE`"), "{absent:?}");
    assert!(shown.code == 0 && shown.out.contains(&format!("{}:", file.display())), "{shown:?}");
    assert!(shown.out.contains(&format!("run_dir = {:?}", host.path("run"))), "{shown:?}");
    assert_eq!(shown.err, "");
    assert!(changed.err.contains("was changed after the agent read it"), "{changed:?}");
    drop(agent);
}
