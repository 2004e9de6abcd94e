//! What operators type, and what they get.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Host, Ran, Settings, VIGIE, persistent, standard, wait_until};

fn host(rest: &str) -> Host {
    Host::new(&Settings::default(), rest)
}

fn run(arguments: &[impl AsRef<OsStr>]) -> Ran {
    let output = Command::new(VIGIE).args(arguments).output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn help_goes_to_standard_output_and_wrong_usage_to_standard_error_with_64() {
    for arguments in [&["--help"][..], &["query", "--help"], &["module", "--help"], &["--version"]] {
        let ran = run(arguments);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{arguments:?}");
        assert!(!ran.out.is_empty());
    }
    for arguments in [&[][..], &["nosuch"], &["query"], &["status", "--nosuch"], &["query", "../x"]] {
        let ran = run(arguments);
        assert_eq!((ran.code, ran.out.as_str()), (64, ""), "{arguments:?}");
        assert!(!ran.err.is_empty());
    }
    // Names need not be text: that none can be queried here is all that is wrong with the first.
    for (before, code) in
        [(&["query", "file", "--path"][..], 69), (&["module", "persist"], 64), (&["nosuch"], 64)]
    {
        let mut arguments: Vec<&OsStr> = before.iter().map(OsStr::new).collect();
        arguments.push(OsStr::from_bytes(b"/\xff"));
        let ran = run(&arguments);
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{arguments:?}: {ran:?}");
    }
}

#[test]
fn without_an_agent_every_command_says_what_to_do() {
    let host = host("");

    for (arguments, code) in [
        (&["status"][..], 3),
        (&["query", "echo"], 69),
        (&["alerts"], 69),
        (&["alerts", "-f"], 69),
        (&["reload"], 69),
        (&["module", "list"], 69),
        (&["module", "restart", "echo"], 69),
        (&["module", "logs", "echo"], 69),
        (&["module", "tap", "echo"], 69),
    ] {
        let ran = host.vigie(arguments);
        assert_eq!(ran.code, code, "{arguments:?}: {ran:?}");
        assert!(ran.err.contains("vigie agent"), "{arguments:?}: {ran:?}");
        assert_eq!(ran.out, "");
    }
}

#[test]
fn the_status_is_json_for_programs_and_a_table_for_people() {
    let host = host(&persistent("echo.py", &[]));
    let agent = host.start();
    host.wait_ready("echo");

    let for_programs = host.vigie(&["status"]);
    let for_people = host.vigie(&["status", "--human"]);

    let status: Value = serde_json::from_str(&for_programs.out).unwrap();
    assert_eq!(status["pid"], agent.pid().as_raw());
    assert_eq!((for_programs.code, for_people.code), (0, 0));
    assert!(for_people.out.contains("healthy") && for_people.out.contains("echo"), "{for_people:?}");
    assert!(!for_people.out.contains('\u{1b}'), "no colours without a terminal");
}

#[test]
fn the_exit_code_of_status_tells_a_failed_module() {
    let host = host(&persistent("exits_at_once.sh", &[]));
    let _agent = host.start();
    host.wait_for("exits_at_once", |module| module["state"] == "failed");

    let ran = host.vigie(&["status", "--human"]);

    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("exits_at_once"), "{ran:?}");
}

#[test]
fn a_query_from_the_command_line_is_answered() {
    let host = host(&(persistent("echo.py", &[]) + &standard("standard_echo.sh")));
    let _agent = host.start();
    host.wait_ready("echo");

    let parameters = ["--param", "a=text", "--param", "n:=5", "--param", "l=1", "--param", "l=2"];
    let ran = host.vigie(&[&["query", "echo"][..], &parameters].concat());
    let one_off = host.vigie(&["query", "standard_echo", "--json-params", "{\"x\": [1]}"]);

    let result: Value = serde_json::from_str(&ran.out).unwrap();
    let echoed = &result["elements"]["parameters"];
    assert_eq!(*echoed, serde_json::json!({"a": "text", "n": 5, "l": ["1", "2"]}));
    assert_eq!((ran.code, one_off.code), (0, 0), "{one_off:?}");
    let result: Value = serde_json::from_str(&one_off.out).unwrap();
    assert_eq!(result["elements"]["parameters"], serde_json::json!({"x": [1]}));
}

#[test]
fn a_query_that_cannot_be_answered_says_why_and_what_next() {
    let host = host(&persistent("exits_at_once.sh", &[]));
    let _agent = host.start();
    host.wait_for("exits_at_once", |module| module["state"] == "failed");

    let down = host.vigie(&["query", "exits_at_once"]);
    let unknown = host.vigie(&["query", "nosuch"]);
    let wrong = host.vigie(&["query", "nosuch", "--json-params", "{"]);

    assert_eq!((down.code, unknown.code, wrong.code), (69, 64, 64), "{down:?} {unknown:?} {wrong:?}");
    assert!(down.err.contains("vigie module restart exits_at_once"), "{down:?}");
    assert!(unknown.err.contains("vigie module list"), "{unknown:?}");
}

#[test]
fn a_misspelled_name_gets_a_suggestion_wherever_it_is_given() {
    let host = host(&persistent("reconfigurable.py", &[]));
    let _agent = host.start();

    for arguments in [
        &["query", "reconfigurabel"][..],
        &["module", "logs", "reconfigurabel"],
        &["module", "restart", "reconfigurabel"],
        &["module", "tap", "reconfigurabel"],
        &["alerts", "--module", "reconfigurabel"],
    ] {
        let answer = host.vigie(arguments);
        assert_eq!(answer.code, 64, "{answer:?}");
        assert!(answer.err.contains("did you mean \"reconfigurable\"?"), "{answer:?}");
    }
    let explained = host.vigie(&["explain", "journal-unwriteable"]);
    assert!(explained.err.contains("did you mean \"journal-unwritable\"?"), "{explained:?}");
}

#[test]
fn a_value_that_a_module_rejects_is_a_usage_error_that_names_the_help() {
    let host = host("");
    let _agent = host.start();

    for (module, flag, value) in [
        ("netstat", "--listening-port", "abc"),
        ("netstat", "--connected-ip", "300.1.1.1"),
        ("file", "--size", "huge"),
        ("processes", "--age", "1h"),
        ("timedrift", "--drift", "soon"),
        ("packages", "--name", "["),
        ("accounts", "--user", "["),
        ("persistence", "--kind", "nosuch"),
    ] {
        let answer = host.vigie(&["query", module, flag, value]);
        assert_eq!(answer.code, 64, "{module}: {answer:?}");
        assert!(answer.err.contains(&format!("`vigie query {module} --help`")), "{module}: {answer:?}");
        let json = host.vigie(&["query", module, flag, value, "--json"]);
        assert!(json.out.contains("\"rejected\":true"), "{module}: {json:?}");
    }
}

#[test]
fn modules_are_listed_restarted_and_their_lines_shown() {
    let host = host(&persistent("reconfigurable.py", &[]));
    let _agent = host.start();
    let first = host.wait_ready("reconfigurable");

    let list = host.vigie(&["module", "list", "--json"]);
    let restart = host.vigie(&["module", "restart", "reconfigurable", "--json"]);
    let second = host.wait_ready("reconfigurable");
    let logs = wait_until("the module has logged", || {
        let logs = host.vigie(&["module", "logs", "reconfigurable"]);
        logs.out.contains("configured with").then_some(logs)
    });

    let names: Vec<Value> = list.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(names.iter().any(|module| module["name"] == "reconfigurable"), "{list:?}");
    assert_eq!(restart.code, 0, "{restart:?}");
    assert_ne!(first["pid"], second["pid"]);
    assert_eq!(logs.code, 0);
    assert_eq!(host.vigie(&["module", "restart", "nosuch"]).code, 64);
}

#[test]
fn a_tap_shows_both_directions_over_a_restart_of_the_module() {
    let host = Host::new(&Settings { heartbeat: "100ms", ..Settings::default() }, "");
    let modules = "heartbeat_misses = 50\n";
    host.configure(
        &Settings { agent: modules, heartbeat: "100ms", fswatch: false },
        &persistent("echo.py", &[]),
    );
    let _agent = host.start();
    host.wait_ready("echo");
    let tap = host.begin(&["module", "tap", "echo", "--json"]);
    wait_until("heartbeats are seen", || {
        let out = tap.out();
        (out.contains("to_module") && out.contains("from_module")).then_some(())
    });

    host.vigie(&["module", "restart", "echo"]);

    wait_until("the new life registers", || tap.out().contains("register").then_some(()));
}

#[test]
fn completions_and_manual_pages_are_printed_for_every_command() {
    let directory = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(&["completions", shell]);
        assert_eq!(ran.code, 0);
        assert!(ran.out.contains("check-config"), "{shell}");
    }

    let page = run(&["man"]);
    let pages = run(&["man", "--out", directory.path().to_str().unwrap()]);

    assert_eq!((page.code, pages.code), (0, 0), "{pages:?}");
    assert!(page.out.contains(".TH"));
    let names: Vec<_> = directory
        .path()
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().any(|name| name.contains("check-config")), "{names:?}");
}

#[test]
fn output_that_nobody_reads_is_no_error() {
    let ran = Command::new("/bin/sh")
        .args(["-c", "\"$0\" completions bash | head -n 1 >/dev/null; \"$0\" --help | true", VIGIE])
        .output()
        .unwrap();

    assert!(ran.stderr.is_empty(), "{}", String::from_utf8_lossy(&ran.stderr));
}
