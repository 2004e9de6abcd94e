//! What is in force is what the modules said is in force, and how they are is what they said of themselves.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Host, Settings, persistent, wait_until};

fn host_with(wish: &str) -> Host {
    let host = Host::new(&Settings::default(), &persistent("confirms.py", &[]));
    write(&host, wish);
    host
}

fn write(host: &Host, wish: &str) {
    // As editors do: there is never half a file.
    fs::write(host.path("modules.d/confirms.new"), format!("[x]\nv = {wish}\n"))
        .expect("the test owns the directory");
    fs::rename(host.path("modules.d/confirms.new"), host.path("modules.d/confirms.cfg"))
        .expect("the test owns the directory");
}

fn state(host: &Host) -> Value {
    host.module("confirms")["configuration"]["state"].clone()
}

#[test]
fn a_reload_is_done_when_the_module_says_that_it_has_the_configuration() {
    let host = host_with("take");
    let agent = host.start();
    let before = host.wait_running("confirms");
    wait_until("the first configuration is confirmed", || (state(&host) == "in_force").then_some(()));
    host.configure(&Settings::default(), &(persistent("confirms.py", &[]) + "\n[tags]\na = \"b\"\n"));

    let ran = host.vigie(&["reload"]);

    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains(r#""generation":2,"state":"in_force""#), "{ran:?}");
    assert_eq!(host.module("confirms")["pid"], before["pid"]);
    agent.stop();
}

#[test]
fn a_refusal_is_told_by_the_reload_and_stays_in_the_status_until_the_file_is_corrected() {
    let host = host_with("take");
    let _agent = host.start();
    host.wait_running("confirms");
    write(&host, "refuse");

    let ran = host.vigie(&["reload", "--json"]);

    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &report["ok"]), (1, &json!(false)), "{ran:?}");
    assert_eq!(report["modules"][0]["state"], "refused", "{report}");
    let condition = host.wait_condition("confirms", "module-configuration-refused");
    assert!(condition["detail"].as_str().unwrap().contains("x.v: refuse is refused"), "{condition}");
    assert_eq!(host.vigie(&["status"]).code, 1);

    write(&host, "take");
    assert_eq!(host.vigie(&["reload"]).code, 0);
    assert_eq!(host.status()["health"], "healthy");
}

#[test]
fn a_module_that_says_nothing_about_a_configuration_is_started_anew_and_told_about() {
    let host = host_with("take");
    let _agent = host.start();
    let before = host.wait_running("confirms");
    write(&host, "silent");

    let ran = host.vigie(&["reload"]);

    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("not in force in: confirms"), "{ran:?}");
    host.wait_for("confirms", |module| module["pid"].is_u64() && module["pid"] != before["pid"]);
    host.wait_condition("confirms", "configuration-unconfirmed");
}

#[test]
fn a_module_that_exits_with_78_goes_back_to_the_configuration_that_it_confirmed() {
    let host = host_with("take");
    let _agent = host.start();
    let before = host.wait_running("confirms");
    wait_until("the first configuration is confirmed", || (state(&host) == "in_force").then_some(()));
    write(&host, "exit");

    let ran = host.vigie(&["reload"]);

    assert_eq!(ran.code, 1, "{ran:?}");
    let module = host.wait_for("confirms", |module| module["pid"].is_u64() && module["pid"] != before["pid"]);
    assert_eq!((&module["incarnation"], &module["last_exit"]), (&json!(2), &json!("exited(78)")), "{module}");
    let condition = host.wait_condition("confirms", "module-configuration-refused");
    assert!(condition["detail"].as_str().unwrap().contains("cannot work with v = exit"), "{condition}");
}

/// Waits for what the module said in the life of this agent.
fn wait_log(host: &Host, text: &str) -> String {
    wait_until(text, || {
        let logs = host.vigie(&["module", "logs", "confirms"]).out;
        logs.contains(text).then_some(logs)
    })
}

/// Restarts the agent over a module's new file, with what `between` does to the host while nothing runs.
fn restarted(host: &Host, between: impl FnOnce()) -> crate::harness::Agent<'_> {
    let agent = host.start();
    host.wait_running("confirms");
    wait_until("the first configuration is confirmed", || (state(host) == "in_force").then_some(()));
    wait_until("it is kept", || host.path("state/confirmed/confirms.json").exists().then_some(()));
    agent.stop();
    between();
    host.start()
}

#[test]
fn after_a_restart_of_the_agent_a_module_goes_back_to_the_configuration_that_it_confirmed_before() {
    let host = host_with("take");

    let agent = restarted(&host, || write(&host, "exit"));

    let condition = host.wait_condition("confirms", "module-configuration-refused");
    let detail = condition["detail"].as_str().unwrap();
    assert!(detail.contains("cannot work with v = exit"), "{condition}");
    assert!(detail.contains("it runs with the one that it confirmed at 20"), "{condition}");
    let module = host.wait_for("confirms", |module| module["pid"].is_u64() && module["incarnation"] == 2);
    assert_eq!(module["configuration"]["state"], "refused", "{module}");
    wait_log(&host, "got take");
    assert_eq!(host.vigie(&["status"]).code, 1);

    // A narrower file that the module takes is the one to go back to from then on.
    write(&host, "narrow");
    assert_eq!(host.vigie(&["reload"]).code, 0);
    assert_eq!(host.status()["health"], "healthy");
    agent.stop();
    write(&host, "exit");
    let _agent = host.start();
    host.wait_condition("confirms", "module-configuration-refused");
    let logs = wait_log(&host, "got narrow");
    assert!(!logs.contains("got take"), "{logs}");
}

#[test]
fn a_file_that_is_broken_when_the_agent_starts_leaves_the_module_with_what_it_confirmed() {
    let host = host_with("take");

    let _agent = restarted(&host, || {
        fs::write(host.path("modules.d/confirms.cfg"), "[x\n").expect("the test owns the directory");
    });

    host.wait_condition("confirms", "module-configuration-invalid");
    wait_log(&host, "got take");
    assert_eq!(host.vigie(&["status"]).code, 1);
}

#[test]
fn a_module_that_was_switched_off_does_not_get_its_old_configuration_back() {
    let host = host_with("take");
    let off = crate::harness::module("persistent", "confirms", "confirms.py", &[], "enabled = false");

    let agent = restarted(&host, || host.configure(&Settings::default(), &off));
    host.wait_for("confirms", |module| module["state"] == "idle");
    agent.stop();
    host.configure(&Settings::default(), &persistent("confirms.py", &[]));
    write(&host, "exit");
    let _agent = host.start();

    host.wait_for("confirms", |module| module["state"] == "failed");
    assert!(!host.vigie(&["module", "logs", "confirms"]).out.contains("got take"));
}

#[test]
fn a_module_that_refuses_its_first_configuration_is_not_a_crash_loop() {
    let host = host_with("exit");
    let _agent = host.start();

    let failed = host.wait_for("confirms", |module| module["state"] == "failed");

    assert_eq!(failed["incarnation"], 1, "{failed}");
    write(&host, "take");
    assert_eq!(host.vigie(&["reload"]).code, 0);
    host.wait_running("confirms");
    assert_eq!(host.status()["health"], "healthy");
}

#[test]
fn a_module_that_says_it_fails_makes_the_status_fail_and_an_alert() {
    let host = host_with("sick");
    let _agent = host.start();

    let condition = host.wait_condition("confirms", "blind");

    assert_eq!((&condition["severity"], &condition["detail"]), (&json!("failed"), &json!("sees nothing")));
    assert_eq!(host.vigie(&["status"]).code, 1);
    wait_until("it is an alert", || {
        host.vigie(&["alerts", "--module", "agent"]).out.contains("module confirms: blind").then_some(())
    });

    write(&host, "take");
    assert_eq!(host.vigie(&["reload"]).code, 0);
    wait_until("it is well again", || (host.status()["health"] == "healthy").then_some(()));
    assert!(host.log().contains("condition cleared"), "{}", host.log());
}

#[test]
fn heartbeats_of_a_living_module_follow_a_reload() {
    let slow = Settings { heartbeat: "60s", ..Settings::default() };
    let host = Host::new(&slow, &persistent("confirms.py", &[]));
    let _agent = host.start();
    let before = host.wait_running("confirms");
    host.configure(&Settings { heartbeat: "300ms", ..Settings::default() }, &persistent("confirms.py", &[]));
    assert_eq!(host.vigie(&["reload"]).code, 0);

    crate::harness::signal(&before["pid"], nix::sys::signal::Signal::SIGSTOP);

    host.wait_for("confirms", |module| module["last_exit"] == "heartbeat_lost");
}

#[test]
fn a_configuration_that_is_empty_cut_or_being_written_does_not_end_privacy_nor_modules() {
    let private = Settings { agent: "extraprivacymode = true", ..Settings::default() };
    let host = Host::new(&private, &persistent("confirms.py", &[]));
    let agent = host.start();
    let before = host.wait_running("confirms");
    let whole = host.configuration(&private, &persistent("confirms.py", &[]));
    let half = &whole[..whole.find("extraprivacy").unwrap()];

    for text in ["", &whole[..whole.len() - 1], "a = 1\n\0\0\0\n"] {
        fs::write(host.path("vigie.toml"), text).unwrap();
        let ran = host.vigie(&["reload"]);
        assert_eq!(ran.code, 78, "{text:?}: {ran:?}");
    }
    host.wait_condition("agent", "configuration-refused");
    fs::write(host.path("vigie.toml"), half).unwrap();
    host.vigie(&["reload"]);
    host.wait_condition("agent", "privacy-kept");
    assert_eq!(host.status()["privacy"]["extra"], true);
    let open = fs::File::options().append(true).open(host.path("vigie.toml")).unwrap();
    assert!(host.vigie(&["reload"]).err.contains("is open for writing"));
    drop(open);

    host.configure(&private, &persistent("confirms.py", &[]));
    assert_eq!(host.vigie(&["reload"]).code, 0);
    let _ = before;
    agent.stop();

    // Over a restart as well.
    host.configure(&Settings::default(), &persistent("confirms.py", &[]));
    let agent = host.start();
    assert_eq!(host.status()["privacy"]["extra"], true);
    host.configure(
        &Settings { agent: "extraprivacymode = false", ..Settings::default() },
        &persistent("confirms.py", &[]),
    );
    assert_eq!(host.vigie(&["reload"]).code, 0);
    assert_eq!(host.status()["privacy"]["extra"], false);
    wait_until("turning it off is an alert", || {
        host.vigie(&["alerts", "--module", "agent"])
            .out
            .contains("extra privacy mode was turned off")
            .then_some(())
    });
    agent.stop();
}
