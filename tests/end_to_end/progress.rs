//! How far a long query is: from the module to the terminal, and only for those who asked. Ctrl-C in the console.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::{Host, Settings, VIGIE, persistent, python, wait_until};

/// Size of a file with holes that takes longer to read than anybody waits.
const ENDLESS_BYTES: u64 = 1 << 42;

/// The MD5 of nothing that is in it; its zeros must all be read to tell.
const NEVER: &str = "00000000000000000000000000000000";

/// Runs the command that follows on a terminal of its own, between its standard input and output.
const ON_A_TERMINAL: &str =
    "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";

fn host(modules: &str) -> Host {
    Host::new(&Settings::default(), modules)
}

fn with_endless_file() -> (Host, String) {
    let host = host("");
    let directory = host.path("endless");
    std::fs::create_dir(&directory).unwrap();
    File::create(directory.join("file")).unwrap().set_len(ENDLESS_BYTES).unwrap();
    let directory = directory.to_str().unwrap().to_owned();
    (host, directory)
}

#[test]
fn progress_reaches_the_client_ahead_of_the_result() {
    let host = host(&persistent("reports.py", &[]));
    let _agent = host.start();
    host.wait_ready("reports");
    let until = host.path("until");
    let mut client = host.connect().unwrap();
    let query = json!({"module": "reports", "parameters": {"until": until}, "progress": true});

    client.send(&json!({"query": query})).unwrap();
    let progress = client.receive().unwrap();
    File::create(&until).unwrap();
    let result = client.receive().unwrap();

    assert_eq!(progress, json!({"progress": {"done": 7, "total": 9, "found": 2, "unit": "files"}}));
    assert_eq!(result["result"]["elements"]["progress"], true, "{result}");
}

#[test]
fn who_does_not_ask_for_progress_gets_none_and_the_module_is_not_told_of_it() {
    let host = host(&persistent("reports.py", &[]));
    let _agent = host.start();
    host.wait_ready("reports");
    File::create(host.path("until")).unwrap();

    let result = host.query("reports", &json!({"until": host.path("until")}));

    assert_eq!(result["result"]["elements"]["progress"], false, "{result}");
}

#[test]
fn a_long_search_shows_its_progress_on_standard_error() {
    let (host, directory) = with_endless_file();
    let _agent = host.start();
    let search = ["query", "file", "--path", &directory, "--md5", NEVER, "--timeout", "3s", "--json"];

    let shown = host.vigie(&[&search[..], &["--progress", "always"]].concat());
    let quiet = host.vigie(&search);

    assert!(shown.err.lines().any(|line| line.contains(" files, 0 found, ")), "{shown:?}");
    assert!(shown.out.contains("\"incomplete\":true"), "{shown:?}");
    assert_eq!(quiet.err, "");
}

#[test]
fn on_a_terminal_progress_comes_by_itself() {
    let (host, directory) = with_endless_file();
    let _agent = host.start();

    let output = Command::new(python())
        .args(["-BSc", ON_A_TERMINAL, VIGIE, "query", "file", "--run-dir"])
        .arg(host.path("run"))
        .args(["--path", &directory, "--md5", NEVER, "--timeout", "2s"])
        .stdin(Stdio::null())
        .output()
        .unwrap();

    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(" files, 0 found, ") && text.contains("\u{1b}[K"), "{text:?}");
}

#[test]
fn ctrl_c_in_the_console_ends_the_query_and_not_the_console() {
    let host = host(&persistent("reports.py", &[]));
    let _agent = host.start();
    host.wait_ready("reports");
    let mut console = Command::new(python())
        .args(["-BSc", ON_A_TERMINAL, VIGIE, "console", "--run-dir"])
        .arg(host.path("run"))
        .env("TERM", "xterm")
        .env("XDG_STATE_HOME", host.path("state-home"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keys = console.stdin.take().unwrap();
    let running = || host.status()["queries"]["running"].as_u64();

    keys.write_all(b"module reports\rset param until=/nonexistent/file\rrun\r").unwrap();
    wait_until("the query runs", || (running() == Some(1)).then_some(()));
    keys.write_all(b"\x03").unwrap();
    wait_until("the query is given up", || (running() == Some(0)).then_some(()));
    keys.write_all(b"set param until=/\rrun\rquit\r").unwrap();
    let mut text = String::new();
    console.stdout.take().unwrap().read_to_string(&mut text).unwrap();

    assert!(console.wait().unwrap().success(), "{text}");
    assert!(text.contains("the query to reports was cancelled"), "{text}");
    assert!(text.contains("reports: ") && text.contains("found"), "{text}");
}
