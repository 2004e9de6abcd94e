//! The end of the agent: asked for, forced, and in a hurry.

use std::fs;

use nix::sys::signal::Signal;

use crate::harness::{Host, Settings, module, persistent, wait_until};

fn default_host(rest: &str) -> Host {
    Host::new(&Settings::default(), rest)
}

#[test]
fn sigterm_stops_modules_and_agent_with_exit_code_0() {
    let host = default_host(&(persistent("echo.py", &[]) + &persistent("restarted.py", &[])));
    let agent = host.start();
    host.wait_ready("echo");
    host.wait_ready("restarted");

    let code = agent.stop();

    assert_eq!(code, Some(0));
    assert!(host.processes().is_empty(), "the agent ends after its modules");
    assert!(!host.path("run/agent.sock").exists());
}

#[test]
fn sigint_stops_the_agent_as_well() {
    let host = default_host(&persistent("echo.py", &[]));
    let mut agent = host.start();

    agent.signal(Signal::SIGINT);

    assert_eq!(agent.wait().code(), Some(0));
}

#[test]
fn modules_are_stopped_in_the_reverse_order_of_their_start() {
    let names = ["first", "second", "third"];
    let modules: String = names.iter().map(|name| module("persistent", name, "echo.py", &[], "")).collect();
    let host = default_host(&modules);
    let agent = host.start();
    for name in names {
        host.wait_ready(name);
    }

    agent.stop();

    let log = host.log();
    let starts: Vec<_> = names
        .iter()
        .map(|name| {
            log.lines().position(|line| line.contains("module started") && line.contains(name)).unwrap()
        })
        .collect();
    assert!(starts.is_sorted(), "{log}");
    let ends: Vec<_> = names
        .iter()
        .map(|name| {
            log.lines().position(|line| line.contains("stopping module") && line.contains(name)).unwrap()
        })
        .collect();
    assert!(ends.iter().rev().is_sorted(), "{log}");
}

#[test]
fn modules_that_ignore_everything_do_not_hold_the_agent_beyond_its_budget() {
    let modules: String = ["one", "two", "three"]
        .iter()
        .map(|name| module("persistent", name, "ignores_sigterm.py", &[], ""))
        .collect();
    let host = default_host(&modules);
    let agent = host.start();
    for name in ["one", "two", "three"] {
        host.wait_running(name);
    }

    #[expect(clippy::disallowed_methods, reason = "the agent's budget is in real time")]
    let begin = std::time::Instant::now();
    let code = agent.stop();

    assert_eq!(code, Some(0));
    // The budget is 4 s; far more would mean that each module got a budget of its own.
    assert!(begin.elapsed().as_secs() < 10, "{:?}", begin.elapsed());
    assert!(host.processes().is_empty());
}

#[test]
fn further_signals_while_it_stops_do_not_disturb_the_agent() {
    let host = default_host(&persistent("ignores_sigterm.py", &[]));
    let mut agent = host.start();
    host.wait_running("ignores_sigterm");

    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        agent.signal(signal);
    }

    assert_eq!(agent.wait().code(), Some(0));
    host.wait_empty();
}

#[test]
fn a_hang_up_in_the_first_moments_does_not_end_the_agent() {
    let host = default_host("");
    for _ in 0..5 {
        let mut agent = host.launch();
        // Before main the signal would end any program: wait until the agent blocks it.
        wait_until("the agent blocks the signal", || {
            let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).ok()?;
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name))?;
                u64::from_str_radix(line.trim(), 16).ok()
            };
            ((field("SigBlk:")? | field("SigCgt:")?) & 1 == 1).then_some(())
        });
        for _ in 0..20 {
            agent.signal(Signal::SIGHUP);
        }

        wait_until("the agent answers", || {
            agent.assert_runs();
            host.connect().ok()
        });
        assert_eq!(agent.stop(), Some(0));
    }
}

#[test]
fn sigterm_while_modules_start_leaves_nothing_behind() {
    let modules: String =
        (0..5).map(|number| module("persistent", &format!("m{number}"), "echo.py", &[], "")).collect();
    let host = default_host(&modules);
    let agent = host.start();

    let code = agent.stop();

    assert_eq!(code, Some(0));
    assert!(host.processes().is_empty());
}

#[test]
fn a_second_agent_on_the_same_directory_ends_with_75_and_names_the_first() {
    let host = default_host(&persistent("echo.py", &[]));
    let first = host.start();
    let module = host.wait_ready("echo");

    let mut second = host.launch();

    assert_eq!(second.wait().code(), Some(75));
    let errors = fs::read_to_string(host.path("agent.err")).unwrap();
    assert!(errors.contains(&first.pid().to_string()), "{errors}");
    assert_eq!(host.module("echo")["pid"], module["pid"]);
    std::mem::forget(second);
}

#[test]
fn of_ten_agents_started_together_exactly_one_runs() {
    let host = default_host("");

    let mut agents: Vec<_> = (0..10).map(|_| host.launch()).collect();

    let mut codes: Vec<Option<i32>> = Vec::new();
    wait_until("nine have given up", || {
        codes = agents.iter_mut().map(|agent| agent.ended().and_then(|status| status.code())).collect();
        (codes.iter().flatten().count() == 9).then_some(())
    });
    assert_eq!(codes.iter().filter(|&&code| code == Some(75)).count(), 9, "{codes:?}");
}

#[test]
fn after_kill_9_of_the_agent_all_modules_are_gone_within_two_seconds() {
    let host = default_host(
        &(persistent("echo.py", &[])
            + &persistent("ignores_sigterm.py", &[])
            + &persistent("never_reads_stdin.py", &[])),
    );
    let agent = host.start();
    host.wait_ready("echo");
    host.wait_running("ignores_sigterm");

    #[expect(clippy::disallowed_methods, reason = "what is promised is a time")]
    let begin = std::time::Instant::now();
    agent.kill();
    host.wait_empty();

    assert!(begin.elapsed().as_secs_f64() < 2.0, "{:?}", begin.elapsed());
}

#[test]
fn after_kill_9_of_the_agent_what_modules_put_into_other_sessions_is_gone_as_well() {
    let host = default_host(&persistent("setsid_grandchild.py", &[]));
    let agent = host.start();
    host.wait_running("setsid_grandchild");
    wait_until("the grandchild is there", || {
        host.path("state/modules/setsid_grandchild/grandchild").exists().then_some(())
    });

    agent.kill();

    host.wait_empty();
}

#[test]
fn an_agent_that_was_killed_starts_again_on_what_it_left() {
    let host = default_host(&persistent("echo.py", &[]));
    for _ in 0..3 {
        let agent = host.start();
        host.wait_ready("echo");
        agent.kill();
    }

    let _agent = host.start();

    host.wait_ready("echo");
    assert_eq!(host.status()["health"], "healthy");
}

#[test]
fn state_that_is_broken_does_not_keep_the_agent_from_starting() {
    let host = default_host(&persistent("alerter.py", &["10"]));
    let agent = host.start();
    host.wait_for("alerter", |module| module["alerts"] == 10);
    agent.stop();
    for entry in fs::read_dir(host.path("state/journal")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend_from_slice(b"\xff\0{\"seq\": half a rec");
        fs::write(&path, bytes).unwrap();
    }

    let _agent = host.start();

    host.wait_for("alerter", |module| module["alerts"] == 10);
    wait_until("all alerts are there", || {
        let journal = host.journal();
        let of_module = journal.iter().filter(|alert| alert["module"] == "alerter").count();
        (of_module == 20 && journal.len() > 20).then_some(())
    });
}
