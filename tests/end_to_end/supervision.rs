//! Modules that die, hang, flood, lie and leave things behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{Host, IMPATIENT, Settings, module, persistent, process_kib, signal, wait_until};

fn default_host(modules: &str) -> Host {
    Host::new(&Settings::default(), modules)
}

/// A module with this fault and a good one: the fault is noticed as `last_exit`, the module started again, and
/// the good one not touched.
fn assert_ends_with(script: &str, arguments: &[&str], settings: &Settings, last_exit: &str) {
    let name = script.split('.').next().unwrap();
    let host = Host::new(settings, &(persistent(script, arguments) + &persistent("echo.py", &[])));
    let _agent = host.start();
    let good = host.wait_ready("echo");

    let bad = host.wait_for(name, |module| module["restarts"].as_u64() > Some(0));

    assert_eq!(bad["last_exit"], last_exit, "{bad}");
    assert_eq!(host.module("echo")["pid"], good["pid"]);
    assert!(host.query("echo", &json!({}))["result"]["success"].as_bool().unwrap());
}

#[test]
fn a_module_that_exits_at_once_ends_up_failed_and_the_agent_goes_on() {
    let host = default_host(&persistent("exits_at_once.sh", &[]));
    let _agent = host.start();

    let failed = host.wait_for("exits_at_once", |module| module["state"] == "failed");

    assert_eq!(failed["last_exit"], "exited(7)");
    assert_eq!(failed["restarts"], 4, "five deaths within a minute open the breaker");
    assert!(failed["restart_in_ms"].as_u64() > Some(60_000), "{failed}");
    assert_eq!(host.status()["health"], "failed");
}

#[test]
fn a_failed_module_is_not_given_new_tries_by_a_restart_of_the_agent() {
    let host = default_host(&persistent("exits_at_once.sh", &[]));
    let agent = host.start();
    host.wait_for("exits_at_once", |module| module["state"] == "failed");
    agent.kill();

    let _agent = host.start();
    let failed = host.wait_for("exits_at_once", |module| module["state"] == "failed");

    assert_eq!(failed["restarts"], 0, "one death was enough: {failed}");
}

#[test]
fn a_failed_module_is_started_at_once_when_an_operator_asks() {
    let host = default_host(&persistent("exits_at_once.sh", &[]));
    let _agent = host.start();
    host.wait_for("exits_at_once", |module| module["state"] == "failed");

    host.vigie(&["module", "restart", "exits_at_once"]);

    host.wait_for("exits_at_once", |module| module["restarts"].as_u64() > Some(4));
}

#[test]
fn a_program_that_is_not_there_is_named_and_the_module_does_not_take_the_agent_along() {
    let host = default_host(
        "[[module]]\nname = \"absent\"\nkind = \"persistent\"\ncommand = [\"/nonexistent/program\"]\n",
    );
    let _agent = host.start();

    let failed = host.wait_for("absent", |module| module["state"] == "failed");

    assert!(failed["last_exit"].as_str().unwrap().contains("/nonexistent/program"), "{failed}");
}

#[test]
fn a_program_that_anybody_could_replace_is_not_started() {
    use std::os::unix::fs::PermissionsExt;
    let host = default_host("");
    let program = host.path("program");
    fs::write(&program, "#!/bin/sh\ncat > /dev/null\n").unwrap();
    let allow = |mode| fs::set_permissions(&program, fs::Permissions::from_mode(mode)).unwrap();
    allow(0o755);
    let command = serde_json::to_string(&[program.to_str().unwrap()]).unwrap();
    host.configure(
        &Settings::default(),
        &format!("[[module]]\nname = \"open\"\nkind = \"persistent\"\ncommand = {command}\n"),
    );
    let agent = host.start();
    let first = host.wait_for("open", |module| module["pid"].is_u64());

    // Both where the agent is running, and where it would start.
    allow(0o777);
    signal(&first["pid"], Signal::SIGKILL);

    host.wait_for("open", |module| {
        module["last_exit"].as_str().is_some_and(|exit| exit.contains("is writable by everybody"))
    });
    agent.stop();
    assert_eq!(host.launch().wait().code(), Some(78));
}

#[test]
fn a_module_that_dies_after_a_healthy_run_is_back_within_moments() {
    let host = default_host(&persistent("echo.py", &[]));
    let _agent = host.start();
    let first = host.wait_ready("echo");

    signal(&first["pid"], Signal::SIGKILL);

    let second = host.wait_for("echo", |module| {
        module["socket"].is_string() && module["state"] == "running" && module["pid"] != first["pid"]
    });
    assert_eq!(second["last_exit"], "signalled(9)");
    assert_eq!(second["restarts"], 1);
    assert!(host.query("echo", &json!({}))["result"]["success"].as_bool().unwrap());
}

#[test]
fn a_module_that_never_answers_a_heartbeat_is_killed_and_started_again() {
    assert_ends_with("hangs.py", &[], &IMPATIENT, "start_timeout");
}

#[test]
fn a_module_that_stops_to_answer_is_killed_and_started_again() {
    assert_ends_with("hangs_later.py", &[], &IMPATIENT, "heartbeat_lost");
}

#[test]
fn a_module_that_answers_with_numbers_that_nobody_sent_is_not_alive() {
    assert_ends_with("wrong_nonces.py", &[], &IMPATIENT, "start_timeout");
}

#[test]
fn a_module_that_never_reads_its_stdin_is_killed_although_its_configuration_is_large() {
    let host = Host::new(&IMPATIENT, &persistent("never_reads_stdin.py", &[]));
    let long = format!("[a]\nb = {}\n", "x".repeat(900_000));
    fs::write(host.path("modules.d/never_reads_stdin.cfg"), long).unwrap();
    let _agent = host.start();

    let module = host.wait_for("never_reads_stdin", |module| module["restarts"].as_u64() > Some(0));

    assert_eq!(module["last_exit"], "write_timeout", "{module}");
}

#[test]
fn a_module_that_closes_its_stdout_and_lives_on_is_ended() {
    assert_ends_with("closes_pipe.py", &["stdout"], &Settings::default(), "closed_stdout");
}

#[test]
fn a_module_that_closes_its_stdin_and_lives_on_is_ended() {
    assert_ends_with("closes_pipe.py", &["stdin"], &Settings::default(), "closed_stdin");
}

#[test]
fn a_stopped_process_is_first_degraded_and_then_started_again() {
    let host = Host::new(&Settings { heartbeat: "500ms", ..IMPATIENT }, &persistent("echo.py", &[]));
    let _agent = host.start();
    let first = host.wait_running("echo");

    signal(&first["pid"], Signal::SIGSTOP);

    let degraded = host.wait_for("echo", |module| module["state"] == "degraded");
    assert_eq!(degraded["pid"], first["pid"]);
    let second =
        host.wait_for("echo", |module| module["state"] == "running" && module["pid"] != first["pid"]);
    assert_eq!(second["last_exit"], "heartbeat_lost");
}

#[test]
fn a_stopped_process_that_is_continued_in_time_is_not_restarted() {
    let host = Host::new(&Settings { heartbeat: "1s", ..IMPATIENT }, &persistent("echo.py", &[]));
    let _agent = host.start();
    let first = host.wait_running("echo");

    signal(&first["pid"], Signal::SIGSTOP);
    host.wait_for("echo", |module| module["state"] == "degraded");
    signal(&first["pid"], Signal::SIGCONT);

    let healed = host.wait_running("echo");
    assert_eq!(healed["pid"], first["pid"]);
}

#[test]
fn a_stopped_module_that_ignores_sigterm_is_killed() {
    let host = Host::new(&IMPATIENT, &persistent("ignores_sigterm.py", &[]));
    let _agent = host.start();
    let first = host.wait_running("ignores_sigterm");

    signal(&first["pid"], Signal::SIGSTOP);

    host.wait_for("ignores_sigterm", |module| module["state"] == "running" && module["pid"] != first["pid"]);
}

/// A module that writes bad lines of one kind lives on, and the good line after them arrives.
fn assert_survives(kind: &str, counted_as: &[&str]) {
    let host = default_host(&persistent("bad_lines.py", &[kind]));
    let mut agent = host.start();

    host.wait_log("good line after");

    let module = host.wait_running("bad_lines");
    agent.assert_runs();
    assert!(host.log().contains("good line before"));
    assert_eq!(module["restarts"], 0, "{module}");
    assert_eq!(module["logs"], 2, "{module}");
    for reason in counted_as {
        assert!(module["dropped"][reason].as_u64() > Some(0), "{module}");
    }
    assert!(process_kib(agent.pid(), "VmHWM") < 96 * 1024);
}

#[test]
fn an_endless_line_is_dropped_in_bounded_memory_and_the_next_one_is_read() {
    assert_survives("endless_line", &["too_long"]);
}

#[test]
fn a_line_that_is_not_utf_8_is_dropped_and_the_next_one_is_read() {
    assert_survives("invalid_utf8", &["not_utf8"]);
}

#[test]
fn a_line_that_is_not_json_is_dropped_and_the_next_one_is_read() {
    assert_survives("garbage_json", &["not_message"]);
}

#[test]
fn a_message_of_an_unknown_class_is_dropped_and_the_next_one_is_read() {
    assert_survives("unknown_class", &["unexpected_class"]);
}

#[test]
fn messages_with_wrong_types_are_dropped_and_the_next_one_is_read() {
    assert_survives("wrong_types", &["bad_parameters", "not_message"]);
}

#[test]
fn deeply_nested_json_is_dropped_and_the_next_line_is_read() {
    assert_survives("deep_json", &[]);
}

#[test]
fn nul_bytes_are_dropped_and_the_next_line_is_read() {
    assert_survives("nul_bytes", &["not_message"]);
}

#[test]
fn empty_lines_do_no_harm() {
    assert_survives("empty_lines", &[]);
}

#[test]
fn a_last_line_without_its_end_is_read_before_the_exit_is_dealt_with() {
    let host = default_host(&persistent("half_line_then_eof.py", &[]));
    let _agent = host.start();

    host.wait_log("last words");

    let module = host.wait_for("half_line_then_eof", |module| module["last_exit"].is_string());
    assert_eq!(module["last_exit"], "exited(3)");
}

#[test]
fn a_module_that_floods_everything_does_not_disturb_others_and_answers_queries() {
    let host = Host::new(
        &Settings::default(),
        &format!(
            "{}{}",
            // The log would take a gigabyte within a minute.
            "module_burst_bytes = \"256 KiB\"\nmodule_bytes_per_sec = \"64 KiB\"\n",
            persistent("floods.py", &[]) + &persistent("echo.py", &[])
        ),
    );
    let agent = host.start();
    let good = host.wait_ready("echo");
    // It floods from its first moment, and is degraded for it.
    host.wait_for("floods", |module| module["socket"].is_string());

    for _ in 0..20 {
        assert_eq!(host.query("echo", &json!({}))["result"]["success"], true);
    }
    let answer = host.query("floods", &json!({}));

    assert_eq!(answer["result"]["elements"]["alive"], true, "{answer}");
    let floods = host.wait_for("floods", |module| !module["dropped"].is_null());
    assert_eq!(floods["restarts"], 0, "{floods}");
    host.wait_condition("floods", "log-budget-exceeded");
    assert_eq!(host.module("echo")["pid"], good["pid"]);
    assert!(!host.log().contains('\u{1b}'), "what a module writes cannot steer a terminal");
    assert!(process_kib(agent.pid(), "VmHWM") < 96 * 1024);
}

#[test]
fn what_a_module_leaves_in_its_session_ends_with_it() {
    let host =
        default_host(&module("persistent", "forks", "forks_and_leaves.py", &[], "restart = \"temporary\""));
    let _agent = host.start();

    let module = host.wait_for("forks", |module| module["state"] == "ended");

    assert_eq!(module["last_exit"], "exited(0)");
    host.wait_empty();
}

#[test]
fn a_grandchild_that_holds_stdout_open_does_not_hide_the_end_of_its_module() {
    let host =
        default_host(&module("persistent", "holds", "holds_stdout_open.py", &[], "restart = \"temporary\""));
    let _agent = host.start();

    host.wait_for("holds", |module| module["state"] == "ended");

    host.wait_empty();
}

#[test]
fn grandchildren_in_sessions_of_their_own_end_with_their_module() {
    let host = default_host(&persistent("setsid_grandchild.py", &[]));
    let _agent = host.start();
    let first = host.wait_running("setsid_grandchild");
    let note = host.path("state/modules/setsid_grandchild/grandchild");
    let grandchild = wait_until("the grandchild is there", || {
        fs::read_to_string(&note).ok().filter(|pid| !pid.is_empty())
    });

    signal(&first["pid"], Signal::SIGKILL);

    wait_until("the grandchild is gone", || {
        let state = fs::read_to_string(format!("/proc/{grandchild}/stat"));
        state.map_or(true, |stat| stat.contains(") Z ")).then_some(())
    });
}

#[test]
fn sockets_that_are_not_allowed_are_refused_and_the_module_counts_as_degraded() {
    let specs = [
        "unix:/tmp/elsewhere.sock",
        "unix:{run}/../state/x.sock",
        "unix:{run}/agent.sock/x",
        "unix:{run}/not-there.sock",
        "unix:relative.sock",
        "unix:@abstract",
        "unix:{run}/nul\\0byte",
        "tcp:0.0.0.0:80",
        "tcp:192.0.2.1:80",
        "tcp:127.0.0.1:0",
        "tcp:127.0.0.1:65536",
        "http://127.0.0.1",
        "unix:",
        "tcp:",
    ];
    let modules: String = (0..)
        .zip(specs)
        .map(|(number, spec)| {
            module("persistent", &format!("bad{number}"), "forbidden_sockets.py", &[spec], "")
        })
        .collect();
    let host = default_host(&modules);
    let mut agent = host.start();

    for (number, spec) in (0..).zip(specs) {
        let name = format!("bad{number}");
        let module = host.wait_for(&name, |module| module["dropped"]["socket_refused"] == 1);
        assert!(module["socket"].is_null(), "{spec}: {module}");
        host.wait_for(&name, |module| module["state"] == "degraded");
        assert_eq!(host.query(&name, &json!({}))["error"]["kind"], "module_starting");
    }
    agent.assert_runs();
}

#[test]
fn a_module_cannot_register_the_socket_of_the_agent_or_of_another_module() {
    let specs = ["unix:{run}/agent.sock", "unix:{run}/persist-echo.sock"];
    for spec in specs {
        let host = default_host(&(persistent("echo.py", &[]) + &persistent("forbidden_sockets.py", &[spec])));
        let _agent = host.start();
        host.wait_ready("echo");
        host.wait_log("registered");

        let answer = host.query("forbidden_sockets", &json!({}));

        assert!(answer["result"].is_null(), "{spec}: {answer}");
        assert_eq!(host.query("echo", &json!({}))["result"]["success"], true);
    }
}

#[test]
fn a_module_gets_a_clean_environment_and_no_descriptor_but_its_pipes() {
    let host = default_host(&persistent("echo.py", &[]));
    let _agent = host.start();
    let module = host.wait_running("echo");
    let pid = module["pid"].as_i64().unwrap();

    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();

    let text = String::from_utf8_lossy(&environment).into_owned();
    let mut names: Vec<_> = text
        .split('\0')
        .filter_map(|variable| variable.split('=').next())
        .filter(|n| !n.is_empty())
        .collect();
    names.retain(|&name| name != "TZ");
    names.sort_unstable();
    assert_eq!(names, ["LANG", "PATH", "VIGIE_RUN_DIR", "VIGIE_STATE_DIR"]);
    let inherited: Vec<_> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .collect();
    let pipes: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        // What this test itself was started with is passed on by everybody.
        .filter(|target| !inherited.contains(target))
        // The socket is the module's own.
        .filter(|target| target.to_string_lossy().starts_with("pipe:"))
        .collect();
    assert_eq!(pipes.len(), 3, "{pipes:?}");
}

#[test]
fn a_module_is_told_what_kind_of_host_this_is() {
    let host = Host::new(
        &Settings { agent: "hostname = \"web1.example\"", ..Settings::default() },
        &format!("[tags]\nzone = \"dc1\"\n{}", persistent("reconfigurable.py", &[])),
    );
    let _agent = host.start();
    host.wait_ready("reconfigurable");

    let told = wait_until("the module has its configuration", || {
        let answer = host.query("reconfigurable", &json!({}));
        let told = answer["result"]["elements"].clone();
        told["hostname"].is_string().then_some(told)
    });

    assert_eq!(told["hostname"], "web1.example");
    assert_eq!(told["tags"]["zone"], "dc1");
    assert_eq!(told["environment"]["os"], "linux");
    for key in ["init", "ident", "arch"] {
        assert!(!told["environment"][key].as_str().unwrap_or_default().is_empty(), "{key} of {told}");
    }
    let modules = told["environment"]["modules"].as_array().unwrap();
    assert!(modules.contains(&Value::from("reconfigurable")), "{told}");
}

#[test]
fn a_restart_that_cannot_run_the_program_fails_with_the_reason() {
    let host = default_host("");
    let program = host.path("program");
    // Nobody may execute it.
    fs::write(&program, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o644)).unwrap();
    let command = format!("command = [{:?}]\nrestart = \"temporary\"\n", program.to_str().unwrap());
    host.configure(&Settings::default(), &format!("[[module]]\nname = \"broken\"\n{command}"));
    let _agent = host.start();
    host.wait_for("broken", |module| module["state"] == "ended");

    let ran = host.vigie(&["module", "restart", "broken"]);

    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("cannot run") && ran.err.contains("broken"), "{ran:?}");
}

#[test]
fn limits_of_a_module_are_set_before_it_runs() {
    let more = "[module.limits]\nopen_files = 64\nnice = 5\nmemory_bytes = \"8 GiB\"\n";
    let host = default_host(&module("persistent", "echo", "echo.py", &[], more));
    let _agent = host.start();
    let pid = host.wait_running("echo")["pid"].as_i64().unwrap();

    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();

    let soft_and_hard = |name: &str| -> Vec<&str> {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().take(2).collect()
    };
    assert_eq!(soft_and_hard("Max open files"), ["64"; 2]);
    assert_eq!(soft_and_hard("Max address space"), ["8589934592"; 2]);
    // The 19th field, counted behind the program's name, which is the second.
    let nice = stat.rsplit_once(") ").unwrap().1.split(' ').nth(16);
    assert_eq!(nice, Some("5"), "{stat}");
}

#[test]
fn twenty_kills_at_random_moments_never_leave_two_copies() {
    let more = "[restart]\nbreaker_deaths = 0\nbackoff_max = \"50ms\"\nbackoff_initial = \"50ms\"\n";
    let host = default_host(&(more.to_owned() + &persistent("echo.py", &[])));
    let _agent = host.start();

    for round in 1..=20u64 {
        let pid = host.wait_for("echo", |module| {
            module["pid"].is_u64() && module["restarts"].as_u64() >= Some(round - 1)
        })["pid"]
            .clone();
        assert!(host.processes().len() <= 1);
        signal(&pid, Signal::SIGKILL);
    }

    let last = host
        .wait_for("echo", |module| module["state"] == "running" && module["restarts"].as_u64() >= Some(20));
    assert_eq!(host.processes(), [i32::try_from(last["pid"].as_i64().unwrap()).unwrap()]);
}
