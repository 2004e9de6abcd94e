//! What modules and the agent say to each other: shown with what became of it, recorded, and held again with a program.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Host, Ran, Settings, fixture, module, persistent, python, standard, wait_until};

/// The lines of a command's JSON, each as its schema says.
fn lines(out: &str) -> Vec<Value> {
    let schema = serde_json::from_str(include_str!("../../docs/module-line.schema.json")).unwrap();
    // The last line may be under way.
    let whole = out.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let values = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let checked = values.inspect(|value| assert_eq!(vigie_schema::problems(&schema, "", value), [""; 0]));
    checked.collect()
}

fn host(rest: &str) -> Host {
    // No test here is about a heartbeat that is late.
    let settings = Settings { agent: "heartbeat_misses = 50\n", heartbeat: "100ms", fswatch: false };
    Host::new(&settings, rest)
}

fn find(lines: &[Value], is: impl Fn(&Value) -> bool) -> Option<&Value> {
    lines.iter().find(|line| is(line))
}

fn says(line: &Value, text: &str) -> bool {
    line["text"].as_str().unwrap().contains(text)
}

#[test]
fn a_tap_begins_with_the_config_that_the_module_has() {
    let host = host(&persistent("echo.py", &[]));
    let _agent = host.start();
    host.wait_ready("echo");

    let ran = host.vigie(&["module", "tap", "echo", "--json", "--for", "300ms"]);

    assert_eq!(ran.code, 0, "{ran:?}");
    let lines = lines(&ran.out);
    assert_eq!((&lines[0]["source"], &lines[0]["life"]), (&json!("to_module"), &json!(1)));
    assert!(says(&lines[0], "\"class\":\"config\"") && says(&lines[0], "statedir"), "{}", lines[0]);
    let echo = find(&lines, |line| line["source"] == "from_module" && says(line, "ping")).unwrap();
    assert_eq!(echo["fate"], "accepted");
}

#[test]
fn a_restart_shows_registration_and_config_of_the_new_life() {
    let host = host(&persistent("echo.py", &[]));
    let _agent = host.start();
    host.wait_ready("echo");
    let tap = host.begin(&["module", "tap", "echo", "--json"]);
    wait_until("it is watched", || tap.out().contains("ping").then_some(()));

    host.vigie(&["module", "restart", "echo"]);

    wait_until("the new life is shown", || {
        let lines = lines(&tap.out());
        let of_second =
            |text: &'static str| find(&lines, move |line| line["life"] == 2 && says(line, text)).is_some();
        (of_second("\"class\":\"config\"") && of_second("register")).then_some(())
    });
    assert!(find(&lines(&tap.out()), |line| line["life"] == 1 && says(line, "\"stop\"")).is_some());
}

#[test]
fn alerts_are_accepted_and_acknowledged() {
    let host = host(&persistent("alerter.py", &["3", "number %d"]));
    let _agent = host.start();
    host.wait_running("alerter");
    let tap = host.begin(&["module", "tap", "alerter", "--json"]);
    wait_until("it is watched", || tap.out().contains("ping").then_some(()));

    host.vigie(&["module", "restart", "alerter"]);

    let lines = wait_until("all are acknowledged", || {
        let lines = lines(&tap.out());
        (lines.iter().filter(|line| line["fate"] == "acknowledged").count() == 3).then_some(lines)
    });
    let alert = find(&lines, |line| says(line, "number 1")).unwrap();
    assert_eq!(alert["fate"], "accepted");
    let message: Value = serde_json::from_str(alert["text"].as_str().unwrap()).unwrap();
    let id = message["parameters"]["id"].as_str().unwrap();
    let ack = find(&lines, |line| line["fate"] == "acknowledged" && says(line, id)).unwrap();
    assert_eq!(ack["source"], "to_module");
}

#[test]
fn a_dropped_line_is_shown_with_why_and_is_in_the_logs() {
    let host = host(&persistent("bad_lines.py", &["wrong_types"]));
    let _agent = host.start();
    host.wait_running("bad_lines");
    let tap = host.begin(&["module", "tap", "bad_lines", "--json"]);
    wait_until("it is watched", || tap.out().contains("ping").then_some(()));

    host.vigie(&["module", "restart", "bad_lines"]);

    let lines = wait_until("all are shown", || {
        let lines = lines(&tap.out());
        find(&lines, |line| says(line, "good line after")).is_some().then_some(lines)
    });
    let reason = |text: &str| find(&lines, |line| says(line, text)).unwrap()["reason"].clone();
    assert_eq!(reason("a\",\"list"), "bad_parameters");
    assert_eq!(reason("{\"class\":5}"), "not_message");
    assert!(lines.iter().all(|line| (line["fate"] == "dropped") == line["reason"].is_string()));
    let logs = host.vigie(&["module", "logs", "bad_lines"]);
    let logs = self::lines(&logs.out);
    let dropped = find(&logs, |line| line["source"] == "dropped" && says(line, "{\"class\":5}")).unwrap();
    assert!(says(dropped, "line is not a message"), "{dropped}");
}

#[test]
fn a_line_that_is_too_long_is_shown_without_its_text() {
    let host = host(&persistent("bad_lines.py", &["endless_line"]));
    let _agent = host.start();
    host.wait_running("bad_lines");
    let tap = host.begin(&["module", "tap", "bad_lines", "--json"]);
    wait_until("it is watched", || tap.out().contains("ping").then_some(()));
    host.vigie(&["module", "restart", "bad_lines"]);

    let dropped =
        wait_until("it is shown", || find(&lines(&tap.out()), |line| line["fate"] == "dropped").cloned());

    assert_eq!((&dropped["reason"], &dropped["text"]), (&json!("too_long"), &json!("")));
}

#[test]
fn queries_to_both_kinds_of_modules_are_shown() {
    let host = host(&(persistent("echo.py", &[]) + &standard("standard_echo.sh")));
    let _agent = host.start();
    host.wait_ready("echo");
    let names = ["echo", "standard_echo"];
    let taps = names.map(|name| host.begin(&["module", "tap", name, "--json"]));
    // The tap of a standard module shows nothing before a query: asked until it is there. One that begins between a
    // question and its answer has only the answer, so that both of one query are waited for.
    for (name, tap) in names.iter().zip(&taps) {
        let (question, answer) = wait_until("a query is shown", || {
            host.query(name, &json!({"word": "abc"}));
            let lines = lines(&tap.out());
            let of = |source: &str, query: &Value| {
                let is_it = |line: &Value| line["source"] == source && line["query"] == *query;
                find(&lines, is_it).cloned()
            };
            let numbers = lines.iter().map(|line| &line["query"]).filter(|query| query.is_u64());
            numbers.filter_map(|query| of("to_module", query).zip(of("from_module", query))).next()
        });

        assert!(says(&question, "\"word\":\"abc\""), "{question}");
        assert!(says(&answer, "abc") && answer["fate"] == "accepted", "{answer}");
    }
}

#[test]
fn stderr_and_a_dropped_answer_of_a_standard_module_are_in_its_logs() {
    let host = host(&(standard("standard_garbage.sh") + &standard("standard_fails.sh")));
    let _agent = host.start();
    let follow = host.begin(&["module", "logs", "-f", "standard_garbage", "--json"]);

    let refused = host.query("standard_garbage", &json!({}));
    host.query("standard_fails", &json!({}));

    assert_eq!(refused["error"]["kind"], "bad_answer", "{refused}");
    wait_until("a follower sees it", || follow.out().contains("half of the disk").then_some(()));
    let kept = lines(&host.vigie(&["module", "logs", "standard_garbage"]).out);
    let of = |source: &str| find(&kept, |line| line["source"] == source).unwrap()["text"].as_str().unwrap();
    assert_eq!(of("stderr"), "half of the disk is gone");
    assert!(of("dropped").contains("is not a valid result"), "{kept:?}");
    assert_eq!(host.module("standard_garbage")["dropped"]["bad_answer"], 1);
    let kept = lines(&host.vigie(&["module", "logs", "standard_fails"]).out);
    assert_eq!(kept[0]["text"], "the disk is on fire", "{kept:?}");
}

fn replay(host: &Host, recording: &str, options: &[&str], command: &[&str]) -> (Ran, Vec<Value>) {
    let file = host.path(recording);
    let words = [&["module", "replay", file.to_str().unwrap(), "--json"], options, &["--"], command].concat();
    // It takes no part in this host: the run directory is not for it.
    let ran = host.vigie(&words);
    let schema = serde_json::from_str(include_str!("../../docs/module-replay.schema.json")).unwrap();
    let found = ran.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let found = found.inspect(|value| assert_eq!(vigie_schema::problems(&schema, "", value), [""; 0]));
    let found = found.collect();
    (ran, found)
}

fn results(found: &[Value]) -> Vec<(&str, &str)> {
    found.iter().map(|one| (one["what"].as_str().unwrap(), one["result"].as_str().unwrap())).collect()
}

#[test]
fn a_recorded_life_is_held_again_with_the_same_program_and_with_a_changed_one() {
    let host = host(&persistent("alerter.py", &["2", "number %d"]));
    let _agent = host.start();
    host.wait_running("alerter");
    let file = host.path("life.jsonl");
    let tap = host.begin(&["module", "tap", "alerter", "--record", file.to_str().unwrap()]);
    wait_until("it is watched", || tap.out().contains("ping").then_some(()));
    host.vigie(&["module", "restart", "alerter"]);
    wait_until("the second life's alerts are safe", || {
        let text = fs::read_to_string(&file).unwrap();
        let of_second = |line: &&str| line.contains("\"life\":2") && line.contains("\"acknowledged\"");
        (text.lines().filter(of_second).count() == 2).then_some(())
    });
    drop(tap);
    let script = fixture("alerter.py");
    let script = script.to_str().unwrap();
    // A recording can begin between a ping and its echo.
    let text = fs::read_to_string(&file).unwrap();
    let (head, rest) = text.split_once('\n').unwrap();
    let echo = rest.lines().find(|line| line.contains("from_module") && line.contains("ping")).unwrap();
    let late = echo.replace("\\\"nonce\\\":", "\\\"nonce\\\":9");
    assert_ne!(late, echo);
    fs::write(&file, format!("{head}\n{late}\n{rest}")).unwrap();

    let (same, found) = replay(&host, "life.jsonl", &[], &[python(), "-BS", script, "2", "number %d"]);

    assert_eq!(same.code, 0, "{same:?}");
    let results_of_same = results(&found);
    assert_eq!(results_of_same.iter().filter(|one| **one == ("alert", "same")).count(), 2, "{found:?}");
    assert!(results_of_same.contains(&("register", "same")) && results_of_same.contains(&("ping", "same")));

    let (changed, found) =
        replay(&host, "life.jsonl", &["--wait", "1s"], &[python(), "-BS", script, "1", "nummer %d"]);
    assert_eq!(changed.code, 1, "{changed:?}");
    let results = results(&found);
    assert!(results.contains(&("alert", "differs")) && results.contains(&("alert", "missing")), "{found:?}");
    assert!(changed.out.contains("\\\"number 0\\\" was recorded, now \\\"nummer 0\\\""), "{}", changed.out);
}

#[test]
fn recorded_queries_are_asked_again() {
    let host = host(&(persistent("echo.py", &[]) + &standard("standard_echo.sh")));
    let _agent = host.start();
    host.wait_ready("echo");
    for (name, script) in [("echo", "echo.py"), ("standard_echo", "standard_echo.sh")] {
        let file = host.path(&format!("{name}.jsonl"));
        let tap = host.begin(&["module", "tap", name, "--record", file.to_str().unwrap()]);
        wait_until("a query is recorded", || {
            host.query(name, &json!({"word": "abc"}));
            let text = fs::read_to_string(&file).unwrap_or_default();
            // The tap can begin between a question and its answer.
            let mut lines = text.lines().filter(|line| line.contains("\"query\""));
            let is_asked = lines.any(|line| line.contains("to_module"));
            (is_asked && lines.any(|line| line.contains("from_module"))).then_some(())
        });
        drop(tap);
        let script = fixture(script);
        let program = script.to_str().unwrap();
        let command: &[&str] = if name == "echo" { &[python(), "-BS", program] } else { &[program] };

        let recording = format!("{name}.jsonl");
        // The one says its process, the other repeats until when it may take.
        let ignore = ["--ignore", "pid", "--ignore", "deadline"];
        let (same, found) = replay(&host, &recording, &ignore, command);
        assert_eq!(same.code, 0, "{same:?}");
        assert!(results(&found).contains(&("answer", "same")), "{found:?}");

        let other = fixture("standard_garbage.sh");
        let (other, found) = replay(&host, &recording, &["--wait", "1s"], &[other.to_str().unwrap()]);
        assert_eq!(other.code, 1, "{other:?}");
        assert!(results(&found).contains(&("answer", "missing")), "{found:?}");
    }
}

#[test]
fn a_recording_that_is_none_is_refused_with_what_to_do() {
    let host = host("");
    fs::write(host.path("none.jsonl"), "{\"time\":1}\n").unwrap();

    let (ran, _) = replay(&host, "none.jsonl", &[], &["/bin/true"]);
    let (absent, _) = replay(&host, "absent.jsonl", &[], &["/bin/true"]);
    let (relative, _) = replay(&host, "none.jsonl", &[], &["true"]);

    assert_eq!((ran.code, absent.code, relative.code), (64, 74, 64));
    assert!(ran.err.contains("none.jsonl") && ran.err.contains("record again"), "{ran:?}");
}

#[test]
fn a_tap_is_for_the_owner_and_of_modules_that_are_there() {
    let host = host(&module("persistent", "echo", "echo.py", &[], ""));
    let _agent = host.start();

    let unknown = host.vigie(&["module", "tap", "nosuch"]);
    let file = host.path("x.jsonl");
    let words = ["module", "tap", "nosuch", "--record", file.to_str().unwrap(), "--for", "1s"];
    let recorded = host.vigie(&words);

    assert_eq!((unknown.code, recorded.code), (64, 64), "{unknown:?} {recorded:?}");
    assert!(!file.exists(), "nothing was recorded");
}
