//! Queries to persistent and standard modules, good and bad ones.

use std::thread;

use serde_json::{Value, json};

use crate::harness::{Host, Settings, module, persistent, process_kib, standard, wait_until};

fn host(modules: &str) -> Host {
    Host::new(&Settings::default(), modules)
}

fn bad(kind: &str) -> (Host, &'static str) {
    (host(&(persistent("answers.py", &[kind]) + &persistent("echo.py", &[]))), "answers")
}

/// Asks a module that answers in a bad way, with this many milliseconds' time, and expects this error; the
/// module and its neighbour live on.
fn assert_error(kind: &str, timeout: u64, expected: &str) -> Value {
    let (host, name) = bad(kind);
    let mut agent = host.start();
    let before = host.wait_ready(name);
    host.wait_ready("echo");

    let answer = host.ask(&json!({"query": {"module": name, "timeout_ms": timeout}}));

    assert_eq!(answer["error"]["kind"], expected, "{answer}");
    assert!(!answer["error"]["message"].as_str().unwrap().is_empty());
    agent.assert_runs();
    if kind != "dies" {
        assert_eq!(host.module(name)["pid"], before["pid"]);
    }
    assert_eq!(host.query("echo", &json!({}))["result"]["success"], true);
    assert!(process_kib(agent.pid(), "VmHWM") < 128 * 1024);
    answer
}

#[test]
fn a_query_reaches_a_module_on_a_unix_socket_with_its_parameters() {
    let host = host(&persistent("echo.py", &[]));
    let _agent = host.start();
    host.wait_ready("echo");

    let answer = host.query("echo", &json!({"text": "<&>\u{1F600}", "list": [1, 2.5, null]}));

    let echoed = &answer["result"]["elements"]["parameters"];
    assert_eq!(*echoed, json!({"text": "<&>\u{1F600}", "list": [1, 2.5, null]}));
    assert_eq!(answer["result"]["foundanything"], true);
}

#[test]
fn a_query_reaches_a_module_on_loopback_tcp() {
    let host = host(&persistent("echo.py", &["tcp"]));
    let _agent = host.start();
    let module = host.wait_ready("echo");

    let answer = host.query("echo", &json!({"a": 1}));

    assert!(module["socket"].as_str().unwrap().starts_with("tcp:127.0.0.1:"), "{module}");
    assert_eq!(answer["result"]["elements"]["parameters"]["a"], 1);
}

#[test]
fn a_hundred_queries_at_once_are_answered_each_with_its_own() {
    let host = host(&persistent("echo.py", &[]));
    let _agent = host.start();
    host.wait_ready("echo");

    thread::scope(|scope| {
        for number in 0..100 {
            let host = &host;
            scope.spawn(move || {
                let answer = host.query("echo", &json!({"number": number}));
                assert_eq!(answer["result"]["elements"]["parameters"]["number"], number, "{answer}");
            });
        }
    });

    let queries = host.status()["queries"].take();
    assert_eq!((&queries["answered"], &queries["failed"]), (&json!(100), &json!(0)));
}

#[test]
fn extra_privacy_mode_is_told_with_every_query() {
    let host = Host::new(
        &Settings { agent: "extraprivacymode = true", ..Settings::default() },
        &persistent("echo.py", &[]),
    );
    let _agent = host.start();
    host.wait_ready("echo");

    let answer = host.query("echo", &json!({}));

    assert_eq!(answer["result"]["elements"]["extraprivacy"], true, "{answer}");
}

#[test]
fn a_result_of_ten_megabytes_arrives_whole() {
    let (host, name) = bad("ten_megabytes");
    let _agent = host.start();
    host.wait_ready(name);

    let answer = host.query(name, &json!({}));

    assert_eq!(answer["result"]["elements"].as_str().map(str::len), Some(10 << 20));
}

#[test]
fn a_result_over_the_limit_is_refused_in_bounded_memory() {
    assert_error("too_large", 20_000, "too_large");
}

#[test]
fn a_module_that_never_answers_a_query_costs_the_query_its_time_and_nothing_else() {
    assert_error("never", 1_000, "timed_out");
}

#[test]
fn an_answer_of_one_byte_a_second_ends_with_the_query_s_time() {
    assert_error("one_byte_a_second", 2_500, "timed_out");
}

#[test]
fn an_answer_that_is_no_json_is_refused() {
    assert_error("garbage", 20_000, "bad_answer");
}

#[test]
fn an_answer_that_is_another_object_is_refused() {
    assert_error("another_object", 20_000, "bad_answer");
}

#[test]
fn half_an_answer_is_refused() {
    assert_error("half", 20_000, "bad_answer");
}

#[test]
fn a_closed_connection_without_an_answer_is_an_error_of_its_own() {
    assert_error("nothing", 20_000, "unanswered");
}

#[test]
fn a_connection_that_is_reset_is_an_error_of_its_own() {
    let (host, name) = (host(&persistent("answers.py", &["reset", "tcp"])), "answers");
    let _agent = host.start();
    host.wait_ready(name);

    let answer = host.query(name, &json!({}));

    assert_eq!(answer["error"]["kind"], "unanswered", "{answer}");
}

#[test]
fn a_module_that_dies_in_a_query_ends_the_query_at_once() {
    let (host, name) = bad("dies");
    let _agent = host.start();
    let before = host.wait_ready(name);

    let answer = host.query(name, &json!({}));

    let kind = answer["error"]["kind"].as_str().unwrap();
    assert!(["unanswered", "bad_answer"].contains(&kind), "{answer}");
    let after = host.wait_for(name, |module| module["state"] == "running" && module["pid"] != before["pid"]);
    assert_eq!(after["last_exit"], "exited(9)");
}

#[test]
fn a_query_to_a_module_that_nobody_knows_names_those_that_there_are() {
    let host = host(&persistent("echo.py", &[]));
    let _agent = host.start();

    let answer = host.query("nosuch", &json!({}));

    assert_eq!(answer["error"]["kind"], "module_unknown");
    assert!(answer["error"]["message"].as_str().unwrap().contains("echo"), "{answer}");
}

#[test]
fn a_query_to_a_failed_module_says_so_at_once() {
    let host = host(&persistent("exits_at_once.sh", &[]));
    let _agent = host.start();
    host.wait_for("exits_at_once", |module| module["state"] == "failed");

    let answer = host.query("exits_at_once", &json!({}));

    assert_eq!(answer["error"]["kind"], "module_down");
    assert!(answer["error"]["message"].as_str().unwrap().contains("exited(7)"), "{answer}");
    assert!(answer["error"]["hint"].as_str().unwrap().contains("vigie module restart"), "{answer}");
}

#[test]
fn a_query_to_a_module_without_a_socket_and_to_one_that_is_off_are_told_apart() {
    let off = module("persistent", "off", "echo.py", &[], "enabled = false");
    let host = host(&(persistent("alerter.py", &["0"]) + &off));
    let _agent = host.start();
    host.wait_running("alerter");

    assert_eq!(host.query("alerter", &json!({}))["error"]["kind"], "module_starting");
    assert_eq!(host.query("off", &json!({}))["error"]["kind"], "module_off");
}

#[test]
fn a_standard_module_is_started_for_its_query() {
    let host = host(&standard("standard_echo.sh"));
    let _agent = host.start();

    let answer = host.query("standard_echo", &json!({"path": "/etc"}));

    let request = &answer["result"]["elements"];
    assert_eq!(request["class"], "parameters", "{answer}");
    assert_eq!(request["parameters"]["path"], "/etc");
    assert!(request["deadline"].is_string());
    host.wait_empty();
}

#[test]
fn a_standard_module_without_an_answer_is_quoted() {
    let host = host(&standard("standard_fails.sh"));
    let _agent = host.start();

    let answer = host.query("standard_fails", &json!({}));

    assert_eq!(answer["error"]["kind"], "unanswered");
    assert!(answer["error"]["message"].as_str().unwrap().contains("the disk is on fire"), "{answer}");
}

#[test]
fn a_child_that_holds_the_stdout_of_a_standard_module_is_killed_after_the_answer() {
    let host = host(&standard("standard_holds_stdout.sh"));
    let _agent = host.start();

    let answer = host.query("standard_holds_stdout", &json!({}));

    assert_eq!(answer["result"]["elements"], "answered", "{answer}");
    host.wait_empty();
}

#[test]
fn a_standard_module_that_ignores_everything_is_killed_with_its_children_at_the_deadline() {
    let host = host(&standard("standard_ignores_all.py"));
    let _agent = host.start();

    let answer = host.ask(&json!({"query": {"module": "standard_ignores_all", "timeout_ms": 1_000}}));

    assert_eq!(answer["error"]["kind"], "timed_out", "{answer}");
    host.wait_empty();
}

#[test]
fn queries_beyond_the_limit_are_refused_at_once() {
    let limits = "[limits]\nrunning_queries = 1\nwaiting_queries = 0\n";
    let host = host(&(limits.to_owned() + &persistent("answers.py", &["never"])));
    let _agent = host.start();
    host.wait_ready("answers");
    let mut first = host.connect().unwrap();
    first.send(&json!({"query": {"module": "answers"}})).unwrap();
    wait_until("the first query runs", || (host.status()["queries"]["running"] == 1).then_some(()));

    let second = host.query("answers", &json!({}));

    assert_eq!(second["error"]["kind"], "too_many", "{second}");
}

#[test]
fn a_client_that_goes_away_gives_its_place_back() {
    let limits = "[limits]\nrunning_queries = 1\nwaiting_queries = 0\n";
    let host = host(&(limits.to_owned() + &persistent("answers.py", &["never"])));
    let _agent = host.start();
    host.wait_ready("answers");
    let mut first = host.connect().unwrap();
    first.send(&json!({"query": {"module": "answers"}})).unwrap();
    wait_until("the query runs", || (host.status()["queries"]["running"] == 1).then_some(()));

    drop(first);

    wait_until("the place is free", || (host.status()["queries"]["running"] == 0).then_some(()));
}
