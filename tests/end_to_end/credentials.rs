//! Whose process a module becomes, and whose connections are taken where permissions of files would let everybody in.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::json;

use crate::harness::{Host, Settings, VIGIE, persistent, wait_until};

/// A user without a name or files here.
const STRANGER: &str = "65502";

/// A heartbeat that does not come during a test.
const RARE: Settings = Settings { agent: "", heartbeat: "30s", fswatch: false };

/// Runs a command as the stranger.
fn as_stranger(command: &[&str]) -> Output {
    Command::new("setpriv")
        .args(["--reuid", STRANGER, "--regid", STRANGER, "--clear-groups", "--"])
        .args(command)
        .output()
        .unwrap()
}

/// Lets everybody reach a socket of this host, as far as permissions of files go.
fn open_to_all(host: &Host, socket: &Path) {
    for directory in [".", "run"] {
        fs::set_permissions(host.path(directory), Permissions::from_mode(0o711)).unwrap();
    }
    fs::set_permissions(socket, Permissions::from_mode(0o666)).unwrap();
}

#[test]
fn a_module_has_the_user_and_all_groups_of_the_user_and_nothing_of_the_agent() {
    if !vigie_skipped::is_root() {
        return;
    }
    let block = "[[module]]\nname = \"cat\"\nkind = \"persistent\"\ncommand = [\"/bin/cat\"]\nuser = \"vigie-test\"\n";
    let host = Host::new(&Settings::default(), block);
    let with = |file: &str, line: &str| {
        let path = host.path(file.trim_start_matches("/etc/"));
        fs::write(&path, format!("{}{line}\n", fs::read_to_string(file).unwrap())).unwrap();
        path.display().to_string()
    };
    let users = with("/etc/passwd", "vigie-test:x:65511:65511::/nonexistent:/bin/false");
    let groups = with("/etc/group", "vigie-test:x:65511:\nvigie-test-more:x:65512:vigie-test");
    let script =
        format!("mount --bind {users} /etc/passwd && mount --bind {groups} /etc/group && exec \"$@\"");
    let command = ["unshare", "-m", "sh", "-c", &script, "sh"];
    let tried = Command::new(command[0]).args(&command[1..]).arg("true").status();
    if !tried.is_ok_and(|tried| tried.success()) {
        return vigie_skipped::skipped("no mount namespace of our own");
    }

    let _agent = host.start_by(&command);
    // What it gets on its standard input it says again: heartbeats too.
    let pid = host.wait_running("cat")["pid"].as_u64().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();

    let field = |name: &str| -> Vec<&str> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().collect()
    };
    assert_eq!(field("Uid:"), ["65511"; 4]);
    assert_eq!(field("Gid:"), ["65511"; 4]);
    assert_eq!(field("Groups:"), ["65511", "65512"]);
    assert_eq!(field("CapEff:"), ["0000000000000000"]);
    assert_eq!(field("NoNewPrivs:"), ["1"]);
}

#[test]
fn a_user_whom_the_socket_lets_in_is_refused_by_the_credentials() {
    if !vigie_skipped::is_root() {
        return;
    }
    let host = Host::new(&Settings::default(), "");
    let _agent = host.start();
    open_to_all(&host, &host.path("run/agent.sock"));

    let run = host.path("run").display().to_string();
    let asked = as_stranger(&[VIGIE, "status", "--json", "--run-dir", &run]);

    assert!(!asked.status.success() && asked.stdout.is_empty(), "{asked:?}");
    host.wait_log("connection of another user refused");
}

#[test]
fn a_module_answers_no_other_user_whoever_its_socket_lets_in() {
    if !vigie_skipped::is_root() || !vigie_skipped::has("python3") {
        return;
    }
    let host = Host::new(&Settings { fswatch: true, ..Settings::default() }, "");
    let _agent = host.start();
    let module = host.wait_ready("fswatch");
    let socket = module["socket"].as_str().unwrap().strip_prefix("unix:").unwrap();
    open_to_all(&host, Path::new(socket));

    // The refusal can come before anything is sent.
    let program = "import socket, sys\n\
                   stream = socket.socket(socket.AF_UNIX)\n\
                   stream.connect(sys.argv[1])\n\
                   try: stream.sendall(b'{\"class\":\"parameters\",\"parameters\":{}}\\n')\n\
                   except OSError: pass\n\
                   print(stream.makefile().read())\n";
    let asked = as_stranger(&["/usr/bin/env", "python3", "-c", program, socket]);

    let said = String::from_utf8_lossy(&asked.stdout);
    assert!(said.contains("permission denied") && !said.contains("baseline"), "{asked:?}");
}

#[test]
fn whoever_takes_the_place_of_a_modules_socket_is_not_asked() {
    let host = Host::new(&RARE, &persistent("echo.py", &[]));
    let _agent = host.start();
    let echo = host.wait_ready("echo");
    let path = echo["socket"].as_str().unwrap().strip_prefix("unix:").unwrap().to_owned();
    fs::remove_file(&path).unwrap();
    let impostor = UnixListener::bind(&path).unwrap();
    impostor.set_nonblocking(true).unwrap();

    let answer = host.query("echo", &json!({"secret": "x"}));

    assert_eq!(answer["error"]["kind"], "wrong_peer", "{answer}");
    let (mut stream, _) = wait_until("the agent has connected", || impostor.accept().ok());
    stream.set_nonblocking(false).unwrap();
    let mut got = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut got).unwrap();
    assert_eq!(got, b"", "nothing is sent before it is known who listens");
}
