//! One life of a module under test: its process, what it said, and waiting for what it should say.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use vigie_protocol::message::{DEFAULT_MAX_LINE_BYTES, RUN_DIR_VARIABLE, STATE_DIR_VARIABLE};

/// Classes that a module may write.
const CLASSES: [&str; 8] = ["ping", "register", "log", "alert", "health", "configured", "progress", "ack"];

/// What a module registered.
#[derive(Debug, Clone, Default)]
pub(super) struct Registered {
    /// As in `unix:/path`; empty when it does not listen.
    pub(super) socket: String,
    /// What it can do.
    pub(super) capabilities: Vec<String>,
}

impl Registered {
    /// Whether it has a capability.
    pub(super) fn can(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|own| own == capability)
    }
}

/// The process and everything that it said.
pub(super) struct Life {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<Result<Value, String>>,
    /// Messages in their order; those that a check has waited for are taken out.
    said: Vec<Value>,
    registered: Option<Registered>,
    stray: Option<String>,
    alerts: Vec<Option<String>>,
    wait: Duration,
    directory: PathBuf,
}

/// Starts a module's program as the agent would, with its directories below this one.
pub(super) fn spawn(command: &[String], directory: &Path) -> Result<Child, String> {
    let (run, state) = (directory.join("run"), directory.join("state"));
    for path in [&run, &state] {
        std::fs::create_dir_all(path).map_err(|error| error.to_string())?;
    }
    Command::new(&command[0])
        .args(&command[1..])
        .env(RUN_DIR_VARIABLE, &run)
        .env(STATE_DIR_VARIABLE, &state)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| format!("it cannot be started: {error}"))
}

impl Life {
    /// Starts the module with a directory for its socket and one for its state.
    pub(super) fn start(command: &[String], directory: &Path, wait: Duration) -> Result<Self, String> {
        let mut child = spawn(command, directory)?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or("it has no standard output")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || read(BufReader::new(stdout), &sender));
        Ok(Self {
            child,
            stdin,
            lines,
            said: Vec::new(),
            registered: None,
            stray: None,
            alerts: Vec::new(),
            wait,
            directory: directory.to_owned(),
        })
    }

    /// The `config` line.
    pub(super) fn config(&self, config: &Value, generation: u64) -> String {
        let message = json!({"class": "config", "parameters": {
            "config": config, "hostname": "test.example", "tags": {},
            "environment": {"init": "systemd", "ident": "test", "os": "linux", "arch": "amd64", "isproxied": false, "modules": []},
            "rundir": self.directory.join("run"), "statedir": self.directory.join("state"),
            "generation": generation, "accepts": ["health", "configured"],
        }});
        format!("{message}\n")
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes to its standard input.
    pub(super) fn send(&mut self, text: &str) -> Result<(), String> {
        let Some(stdin) = &mut self.stdin else { return Err("its standard input is closed".to_owned()) };
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).map_err(|_| self.ended())
    }

    fn ended(&mut self) -> String {
        match self.wait() {
            Some(code) => format!("it ended with {}", shown(code)),
            None => "it does not read its standard input".to_owned(),
        }
    }

    /// Sends a heartbeat and waits for its echo.
    pub(super) fn beat(&mut self, nonce: u64) -> Result<(), String> {
        self.send(&ping(nonce))?;
        self.expect_echo(nonce)
    }

    /// Whether its process lives.
    pub(super) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the echo of a heartbeat; one of another heartbeat before it breaks the order.
    pub(super) fn expect_echo(&mut self, nonce: u64) -> Result<(), String> {
        let echo = self.wait_for(|message| message["class"] == "ping", self.wait);
        match echo {
            Some(message) if message["parameters"]["nonce"] == nonce => Ok(()),
            // A message with a key that it did not know was echoed as well.
            Some(message) if message["parameters"]["nonce"] == 50 => self.expect_echo(nonce),
            Some(message) => Err(format!("it echoed {} and not the nonce {nonce}", message["parameters"])),
            None => Err(match self.child.try_wait() {
                Ok(Some(status)) => format!("it ended with {}", shown(status.code())),
                _ => format!("no echo within {}", humantime::format_duration(self.wait)),
            }),
        }
    }

    /// What it said of a configuration.
    pub(super) fn configured(&mut self, generation: u64, within: Duration) -> Option<Value> {
        let is = |message: &Value| {
            message["class"] == "configured" && message["parameters"]["generation"] == generation
        };
        self.wait_for(is, within).map(|message| message["parameters"].clone())
    }

    /// The id of its next alert; within, nothing when that alert has no id.
    pub(super) fn alert(&mut self) -> Option<Option<String>> {
        let message = self.wait_for(|message| message["class"] == "alert", self.wait)?;
        Some(message["parameters"]["id"].as_str().map(str::to_owned))
    }

    /// Waits for the alert with this id.
    pub(super) fn alert_with(&mut self, id: &str) -> bool {
        self.has_seen(id)
            || self
                .wait_for(
                    |message| message["class"] == "alert" && message["parameters"]["id"] == id,
                    self.wait,
                )
                .is_some()
    }

    /// Whether it has sent this alert.
    pub(super) fn has_seen(&self, id: &str) -> bool {
        self.alerts.iter().flatten().any(|seen| seen == id)
    }

    /// What it said and nobody has waited for.
    pub(super) fn rest(&self) -> &[Value] {
        &self.said
    }

    /// What it registered; the newest counts.
    pub(super) fn registered(&self) -> Option<&Registered> {
        self.registered.as_ref()
    }

    /// The first line that is no message of a module.
    pub(super) fn stray(&self) -> Option<&str> {
        self.stray.as_deref()
    }

    /// Closes its standard input.
    pub(super) fn close(&mut self) {
        self.stdin = None;
    }

    /// Ends it at once, with its group.
    pub(super) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stdin = None;
        let group = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX));
        killpg(group, Signal::SIGKILL).ok();
        self.child.wait().ok();
        for pid in self.left_behind() {
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
    }

    /// Waits for its end; the exit code, or nothing within when a signal ended it.
    pub(super) fn wait(&mut self) -> Option<Option<i32>> {
        let step = Duration::from_millis(20);
        let mut left = self.wait;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status.code());
            }
            left = left.checked_sub(step)?;
            // Its lines are taken meanwhile, or it could wait for us.
            self.take_line(step);
        }
    }

    /// Processes that it started and that live on, wherever they went.
    pub(super) fn left_behind(&self) -> Vec<i32> {
        carriers(&self.directory)
    }

    /// Waits for a message; others are kept.
    pub(super) fn wait_for(&mut self, is: impl Fn(&Value) -> bool, within: Duration) -> Option<Value> {
        let step = Duration::from_millis(20);
        let mut left = within;
        loop {
            if let Some(at) = self.said.iter().position(&is) {
                return Some(self.said.remove(at));
            }
            match self.take_line(step) {
                Taken::Line => {}
                Taken::Nothing => left = left.checked_sub(step)?,
                Taken::Ended => return None,
            }
        }
    }

    fn take_line(&mut self, within: Duration) -> Taken {
        match self.lines.recv_timeout(within) {
            Err(mpsc::RecvTimeoutError::Timeout) => return Taken::Nothing,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                std::thread::park_timeout(within);
                return if self.said.is_empty() { Taken::Ended } else { Taken::Nothing };
            }
            Ok(Err(line)) => {
                self.stray.get_or_insert(line);
            }
            Ok(Ok(message)) => {
                let parameters = &message["parameters"];
                match message["class"].as_str() {
                    Some("register") => {
                        let capabilities = parameters["capabilities"].as_array().into_iter().flatten();
                        self.registered = Some(Registered {
                            socket: parameters["sockpath"].as_str().unwrap_or_default().to_owned(),
                            capabilities: capabilities
                                .filter_map(|one| one.as_str().map(str::to_owned))
                                .collect(),
                        });
                    }
                    Some("alert") => self.alerts.push(parameters["id"].as_str().map(str::to_owned)),
                    _ => {}
                }
                self.said.push(message);
            }
        }
        Taken::Line
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.end();
    }
}

/// Processes whose environment names this directory: a module's children have it, in whatever session they are.
fn carriers(directory: &Path) -> Vec<i32> {
    let mark = directory.as_os_str().as_encoded_bytes();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.windows(mark.len()).any(|part| part == mark)
    })
    .collect()
}

/// What waiting for a line brought.
enum Taken {
    Line,
    Nothing,
    Ended,
}

/// Reads its lines, each bounded as the agent bounds them.
fn read(mut output: BufReader<impl std::io::Read>, lines: &mpsc::Sender<Result<Value, String>>) {
    loop {
        let mut line = Vec::new();
        let limit = DEFAULT_MAX_LINE_BYTES as u64 + 1;
        match (&mut output).take(limit).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        let message = serde_json::from_str::<Value>(&text).ok();
        let known =
            message.filter(|message| message["class"].as_str().is_some_and(|class| CLASSES.contains(&class)));
        let shown: String = text.chars().take(120).collect();
        if lines.send(known.ok_or(shown)).is_err() {
            return;
        }
    }
}

/// A heartbeat.
pub(super) fn ping(nonce: u64) -> String {
    format!("{}\n", json!({"class": "ping", "parameters": {"nonce": nonce}}))
}

/// How a process ended.
pub(super) fn shown(code: Option<i32>) -> String {
    code.map_or("a signal".to_owned(), |code| format!("code {code}"))
}
