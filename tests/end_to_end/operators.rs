//! Who may ask an agent that belongs to root: members of the operators' group, and nobody else.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use serde_json::json;

use crate::harness::{Host, Settings, VIGIE, module, persistent, python, wait_until};
use crate::receivers::lines;
use crate::sinks_rsyslog::storm;

/// A group that every Debian and most others have, and its number is looked up.
const GROUP: &str = "adm";

const OPERATORS: Settings = Settings { agent: "operators_group = \"adm\"", heartbeat: "2s", fswatch: false };

/// A user without a name or files here.
const STRANGER: &str = "65502";

fn group_id() -> Option<String> {
    let groups = fs::read_to_string("/etc/group").unwrap();
    let line = groups.lines().find(|line| line.split(':').next() == Some(GROUP))?;
    line.split(':').nth(2).map(str::to_owned)
}

/// Runs a command as the stranger, with these groups.
fn ask(host: &Host, groups: &str, arguments: &[&str]) -> Output {
    Command::new("setpriv")
        .args(["--reuid", STRANGER, "--regid", STRANGER, groups, "--", VIGIE])
        .args(arguments)
        .arg("--run-dir")
        .arg(host.path("run"))
        .output()
        .unwrap()
}

#[test]
fn only_members_of_the_operators_group_may_ask_roots_agent() {
    if !vigie_skipped::is_root() {
        return;
    }
    let Some(group) = group_id() else {
        return vigie_skipped::skipped(format_args!("this host has no group {GROUP}"));
    };
    let member = format!("--groups={group}");
    for (settings, is_open) in [(&OPERATORS, true), (&Settings::default(), false)] {
        let host = Host::new(settings, "");
        // As /run is: everybody passes through.
        fs::set_permissions(host.path("."), Permissions::from_mode(0o711)).unwrap();
        let _agent = host.start();

        for arguments in
            [&["status"][..], &["query", "file", "--path", "/etc", "--name", "^passwd$", "--json"]]
        {
            let stranger = ask(&host, "--clear-groups", arguments);
            let said = String::from_utf8_lossy(&stranger.stderr).into_owned();
            assert_eq!(stranger.status.code(), Some(77), "{arguments:?}: {said}");
            assert!(said.contains("agent.operators_group"), "{said}");

            let operator = ask(&host, &member, arguments);
            let said = String::from_utf8_lossy(&operator.stderr).into_owned();
            let expected = if is_open { 0 } else { 77 };
            assert_eq!(operator.status.code(), Some(expected), "{arguments:?}: {said}");
        }
        // What an operator may ask is not what he may do.
        let sockets = fs::read_dir(host.path("run")).unwrap().map(|entry| entry.unwrap().path());
        for path in sockets.filter(|path| path.to_string_lossy().contains("persist-")) {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o077, 0, "{path:?}");
        }
    }
}

/// Alerts of a journal that takes a second or more to read.
const LARGE: u64 = 50_000;

/// What an operator does who wants everything for himself: connects again and again and asks on each connection.
const GREEDY: &str = "
import socket, sys
kept = []
for number in range(200):
    client = socket.socket(socket.AF_UNIX)
    client.connect(sys.argv[1])
    client.sendall(sys.argv[2].encode() + b'\\n')
    kept.append(client)
print('asked', flush=True)
sys.stdin.read()
";

#[test]
fn an_operator_takes_neither_roots_connections_nor_roots_queries() {
    if !vigie_skipped::is_root() {
        return;
    }
    let Some(group) = group_id() else {
        return vigie_skipped::skipped(format_args!("this host has no group {GROUP}"));
    };
    let limits = "[limits]\nclients = 100\nrunning_queries = 4\nwaiting_queries = 4\n";
    let storm = storm(LARGE);
    let never = module("persistent", "never", "answers.py", &["never"], "");
    let says = persistent("says.py", &[]);
    let host = Host::new(&OPERATORS, &format!("{limits}{storm}{never}{says}"));
    let out = host.path("out.jsonl");
    let sink = format!("[[sink]]\nname = \"out\"\nkind = \"file\"\npath = {out:?}\nmodules = [\"says\"]\n");
    host.configure(&OPERATORS, &format!("{limits}{storm}{never}{says}{sink}"));
    fs::set_permissions(host.path("."), Permissions::from_mode(0o711)).unwrap();
    let _agent = host.start();
    host.wait_ready("says");
    host.wait_ready("never");
    let greedy = |request: &str| {
        let mut greedy = Command::new("setpriv")
            .args(["--reuid", STRANGER, "--regid", STRANGER, &format!("--groups={group}"), "--", python()])
            .args(["-c", GREEDY])
            .arg(host.path("run/agent.sock"))
            .arg(request)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(greedy.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "asked\n");
        greedy
    };
    let mut follower = host.connect().unwrap();
    follower.send(&json!({"alerts": {"follow": true, "module": "says"}})).unwrap();

    let mut following = greedy(r#"{"alerts":{"follow":true,"module":"says"}}"#);
    let said = host.query("says", &json!({"texts": ["for the follower"]}));
    assert_eq!(said["result"]["success"], true, "{said}");
    let got = follower.receive().expect("root's connection is kept").to_string();
    assert!(got.contains("for the follower"), "{got}");
    following.kill().unwrap();
    following.wait().unwrap();

    let mut asking = greedy(r#"{"query":{"module":"never","parameters":{}}}"#);
    let said = host.query("says", &json!({"texts": ["once more"]}));
    assert_eq!(said["result"]["success"], true, "{said}");
    asking.kill().unwrap();
    asking.wait().unwrap();

    // The whole journal is read for each of them, which takes its time; alerts leave the host meanwhile.
    let recorded = || host.status()["journal"]["recorded"].as_u64().unwrap_or(0);
    wait_until("the journal is large", || (recorded() > LARGE).then_some(()));
    let mut proving = greedy(r#"{"verify_alerts":{}}"#);
    let said = host.query("says", &json!({"texts": ["for the receiver"]}));
    assert_eq!(said["result"]["success"], true, "{said}");
    wait_until("the alert is in the file", || {
        lines(&out).iter().any(|line| line.contains("for the receiver")).then_some(())
    });
    proving.kill().unwrap();
    proving.wait().unwrap();
}
