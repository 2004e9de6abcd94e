//! The example modules in other languages do what they teach.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};
use vigie_sdk::ModuleResult;

/// Longest wait for anything here; a ceiling for a broken example.
const CEILING: Duration = Duration::from_secs(30);

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/modules").join(name)
}

/// A running persistent module. It is killed when the test fails.
struct Module {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Value>,
}

impl Module {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines() {
                let line = line.unwrap();
                let message = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        Self { child, stdin, lines }
    }

    fn send(&mut self, line: impl AsRef<str>) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(line.as_ref().as_bytes()).unwrap();
        stdin.write_all(b"\n").unwrap();
    }

    fn next(&self) -> Value {
        self.lines.recv_timeout(CEILING).expect("the module writes a line")
    }

    /// The next message of this class; others may come before it.
    fn next_of(&self, class: &str) -> Value {
        loop {
            let message = self.next();
            if message["class"] == class {
                return message;
            }
        }
    }

    /// Everything that is written until the module has ended, and how it ended.
    fn end(mut self) -> (Vec<Value>, ExitStatus) {
        self.stdin = None;
        let mut rest = Vec::new();
        loop {
            match self.lines.recv_timeout(CEILING) {
                Ok(message) => rest.push(message),
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("the module does not end"),
            }
        }
        (rest, self.child.wait().unwrap())
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // Nothing to do when it has ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const PING: &str = r#"{"class":"ping","parameters":{"nonce":7}}"#;

#[test]
fn the_standard_module_in_shell_answers_one_query() {
    for (request, success) in
        [(r#"{"class":"parameters","parameters":{}}"#, true), ("hello\n", false), ("", false)]
    {
        let mut child = Command::new("sh")
            .arg(example("uptime.sh"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();

        let output = child.wait_with_output().unwrap();

        let result: ModuleResult = serde_json::from_slice(&output.stdout).unwrap();
        assert!(output.status.success());
        assert_eq!(result.success, success, "{request:?}");
    }
}

#[test]
fn the_persistent_module_in_shell_echoes_logs_alerts_and_ends() {
    let mut module = Module::start(Command::new("sh").arg(example("load_average.sh")).env("LOAD_LIMIT", "0"));

    module.send(r#"{"class":"config","parameters":{"config":{}}}"#);
    assert_eq!(module.next()["parameters"]["message"], "watching the load average, limit 0");
    module.send(r#"{"class":"unknown"}"#);
    module.send(PING);
    assert_eq!(module.next(), serde_json::from_str::<Value>(PING).unwrap());
    let alert: Value =
        serde_json::from_str(module.next()["parameters"]["message"].as_str().unwrap()).unwrap();
    assert_eq!(alert["severity"], "medium");
    module.send(PING);
    assert_eq!(module.next()["class"], "ping");
    let (rest, status) = module.end();

    assert!(rest.is_empty(), "an alert is sent once while the load stays high: {rest:?}");
    assert!(status.success());
}

/// Starts the module in Python in a directory of its own.
fn disk_usage(dir: &Path) -> Module {
    Module::start(Command::new("python3").arg(example("disk_usage.py")).env("VIGIE_RUN_DIR", dir))
}

fn config(dir: &Path, limit: i32) -> String {
    let config = json!({"Disk_Usage": {"Path": dir, "limit": limit.to_string()}});
    json!({"class": "config", "parameters": {"config": config, "statedir": dir}}).to_string()
}

fn ask(dir: &Path, request: &str) -> ModuleResult {
    let mut stream = UnixStream::connect(dir.join("persist-disk_usage.sock")).unwrap();
    stream.set_read_timeout(Some(CEILING)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap()
}

#[test]
fn the_module_in_python_registers_echoes_answers_and_stops() {
    use std::os::unix::fs::MetadataExt;

    if !vigie_skipped::has("python3") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("persist-disk_usage.sock");
    let mut module = disk_usage(dir.path());

    let register = module.next();
    assert_eq!(register["class"], "register");
    assert_eq!(register["parameters"]["sockpath"], format!("unix:{}", socket.display()));
    assert_eq!(std::fs::symlink_metadata(&socket).unwrap().mode() & 0o777, 0o600);
    for bad in ["garbage", "", "[1]", "5"] {
        module.send(bad);
    }
    module.send(PING);
    assert_eq!(module.next_of("ping"), serde_json::from_str::<Value>(PING).unwrap());
    drop(UnixStream::connect(&socket).unwrap());
    for bad in ["hello\n", "{\"class\":\"ping\"}\n", "[]\n"] {
        assert!(!ask(dir.path(), bad).success, "{bad:?}");
    }
    let query = json!({"class": "parameters", "parameters": {"path": dir.path()}, "extraprivacy": true});
    let result = ask(dir.path(), &format!("{query}\n"));
    assert!(result.success && result.elements.unwrap().get().contains("masked"));
    module.send(r#"{"class":"stop"}"#);
    let (_, status) = module.end();

    assert!(status.success());
    assert!(!socket.exists());
}

#[test]
fn the_module_in_python_sends_an_alert_again_until_it_is_acknowledged() {
    if !vigie_skipped::has("python3") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut module = disk_usage(dir.path());
    module.send(config(dir.path(), 0));
    let first = module.next_of("alert");
    // As a crash would.
    module.child.kill().unwrap();
    drop(module);

    // A limit that nothing reaches: the only alert is the one that was left.
    let mut module = disk_usage(dir.path());
    module.send(config(dir.path(), 1000));
    assert_eq!(module.next_of("alert"), first);
    let id = &first["parameters"]["id"];
    module.send(json!({"class": "ack", "parameters": {"id": id}}).to_string());
    assert!(module.end().1.success());

    let mut module = disk_usage(dir.path());
    module.send(config(dir.path(), 1000));
    module.next_of("log");
    let (rest, _) = module.end();
    assert!(rest.iter().all(|message| message["class"] != "alert"), "{rest:?}");
}
