//! The module as an agent runs it: the built program on pipes, with its query socket and state directory.
//!
//! Every alert is acknowledged when it is read, and heartbeats are sent as an agent sends them. An alert's time is
//! when its line was read, before it was understood.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::to_raw_value;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::time::Instant;
use vigie_protocol::message::{
    AlertParameters, Class, ConfigParameters, LogParameters, Message, MessageRef, RUN_DIR_VARIABLE,
    RegisterParameters, STATE_DIR_VARIABLE,
};

use crate::{LOOK_AGAIN, PATIENCE, pause};
use vigie_benchmark::BenchResult;

/// Time between two heartbeats, the agent's default.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Log lines that are kept to explain why a module ended.
const KEPT_LOG_LINES: usize = 5;

/// Time that a module has from the end of its output to its exit.
const EXIT_TIME: Duration = Duration::from_secs(1);

/// Time without an alert after which there are no more, when nothing waits to be looked at: longer than files settle.
const QUIET: Duration = Duration::from_millis(700);

/// How the module is started.
pub(crate) struct Setup<'a> {
    /// Watched with everything below it.
    pub(crate) watched: &'a Path,
    /// Where the module keeps its state.
    pub(crate) state: &'a Path,
    /// Keys of its section `[fswatch]`.
    pub(crate) keys: Map<String, Value>,
    /// Whether heartbeats are sent.
    pub(crate) heartbeats: bool,
}

/// Keys of `[fswatch]` that turn off what works by the clock: a measurement must not meet it by chance.
pub(crate) fn no_schedules() -> Map<String, Value> {
    let mut keys = Map::new();
    keys.insert("quick_scan_minutes".to_owned(), json!(0));
    keys.insert("rehash_days".to_owned(), json!(0));
    keys.insert("canary_seconds".to_owned(), json!(0));
    keys
}

/// The same, with the backend named.
pub(crate) fn backend_keys(backend: &str) -> Map<String, Value> {
    let mut keys = no_schedules();
    keys.insert("backend".to_owned(), json!(backend));
    keys
}

/// An alert as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Alert {
    /// When it was read.
    pub(crate) at: Instant,
    /// Its id; the same one again is the same alert.
    pub(crate) id: String,
    /// Its text.
    pub(crate) message: String,
}

impl Alert {
    /// What it says.
    ///
    /// # Errors
    /// When it is not of the published form.
    pub(crate) fn told(&self) -> BenchResult<Told> {
        Ok(serde_json::from_str(&self.message)?)
    }
}

/// What an alert says, as far as the measurements ask.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Told {
    #[serde(default)]
    pub(crate) path: String,
    pub(crate) event: String,
    /// The name before a renaming.
    pub(crate) from: Option<String>,
    #[serde(default)]
    pub(crate) attributes: Vec<String>,
    #[serde(default)]
    pub(crate) after: Value,
    #[serde(default)]
    pub(crate) window: Value,
    #[serde(default)]
    pub(crate) group: Value,
}

impl Told {
    /// The digest of what is there now, when it is told.
    pub(crate) fn digest(&self) -> Option<&str> {
        self.after["sha256"].as_str()
    }
}

/// What the reading thread finds out.
#[derive(Debug, Default)]
struct Known {
    socket: Option<PathBuf>,
    log: Vec<String>,
}

/// A running module; dropped, it is killed.
pub(crate) struct Module {
    child: Child,
    input: Arc<Mutex<ChildStdin>>,
    alerts: mpsc::Receiver<Alert>,
    known: Arc<Mutex<Known>>,
    started: Instant,
    /// Held, so that heartbeats end with the module.
    _heartbeats: mpsc::Sender<()>,
    /// Held for the query socket.
    _run_dir: TempDir,
}

impl Module {
    /// Starts the module and sends its configuration.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(setup: &Setup<'_>) -> BenchResult<Self> {
        fs::create_dir_all(setup.state)?;
        // The path of a socket is short (unix(7)); a build directory can be anywhere.
        let run_dir = tempfile::Builder::new().prefix("vigie-bench-").tempdir()?;
        let config = json!({
            "paths": {"path": [format!("recursive:{}", setup.watched.display())]},
            "fswatch": setup.keys,
        });
        let parameters = ConfigParameters {
            config: Some(to_raw_value(&config)?),
            hostname: "bench".to_owned(),
            rundir: Some(run_dir.path().display().to_string()),
            statedir: Some(setup.state.display().to_string()),
            ..ConfigParameters::default()
        };
        let started = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_vigie"))
            .args(["module", "persist", "fswatch"])
            .env(RUN_DIR_VARIABLE, run_dir.path())
            .env(STATE_DIR_VARIABLE, setup.state)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut input = child.stdin.take().ok_or("the module has no standard input")?;
        let output = child.stdout.take().ok_or("the module has no standard output")?;
        input.write_all(&Message::config(&parameters).to_line())?;
        let input = Arc::new(Mutex::new(input));
        let known = Arc::<Mutex<Known>>::default();
        let (sender, alerts) = mpsc::channel();
        let reader = Reader { input: Arc::clone(&input), known: Arc::clone(&known), alerts: sender };
        std::thread::Builder::new().spawn(move || reader.run(output))?;
        let (heartbeats, ended) = mpsc::channel();
        if setup.heartbeats {
            let input = Arc::clone(&input);
            std::thread::Builder::new().spawn(move || beat(&input, &ended))?;
        }
        Ok(Self { child, input, alerts, known, started, _heartbeats: heartbeats, _run_dir: run_dir })
    }

    /// Starts the module and waits for its baseline.
    ///
    /// # Errors
    /// As [`Module::start`] and [`Module::baseline`].
    pub(crate) fn ready(setup: &Setup<'_>) -> BenchResult<Self> {
        let mut module = Self::start(setup)?;
        module.baseline()?;
        Ok(module)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How many watches of inotify, or marks of fanotify, the module holds.
    ///
    /// # Errors
    /// When there is none: the module does not use the backend that it was told to.
    pub(crate) fn marks(&self, backend: &str) -> BenchResult<usize> {
        match marks_held(self.pid(), backend)? {
            0 => Err(format!("the module was told to use {backend} and does not").into()),
            marks => Ok(marks),
        }
    }

    /// Waits until everything has been looked at once and is stored; returns how long that took from the start of the
    /// process.
    ///
    /// # Errors
    /// When the module ends or does not come to an end.
    pub(crate) fn baseline(&mut self) -> BenchResult<Duration> {
        loop {
            let complete = match self.socket() {
                Some(socket) => ask(&socket, &json!({}))?["baseline_complete"] == true,
                None => false,
            };
            if complete {
                return Ok(self.started.elapsed());
            }
            if let Some(status) = self.child.try_wait()? {
                return Err(self.ended(&status.to_string()).into());
            }
            if self.started.elapsed() > PATIENCE {
                return Err(format!("no baseline after {PATIENCE:?}").into());
            }
            pause(LOOK_AGAIN);
        }
    }

    /// The elements of the answer to a query.
    ///
    /// # Errors
    /// When the module does not answer, or answers that it failed.
    pub(crate) fn query(&self, parameters: &Value) -> BenchResult<Value> {
        ask(&self.socket().ok_or("the module has not registered")?, parameters)
    }

    /// A number of the status.
    ///
    /// # Errors
    /// When the module does not answer or the status has no such number.
    pub(crate) fn count(&self, key: &str) -> BenchResult<u64> {
        let status = self.query(&json!({}))?;
        Ok(status[key].as_u64().ok_or_else(|| format!("the status has no number {key:?}"))?)
    }

    /// The next alert; `None` when there is none within `time`.
    ///
    /// # Errors
    /// When the module has ended.
    pub(crate) fn next_alert(&mut self, time: Duration) -> BenchResult<Option<Alert>> {
        match self.alerts.recv_timeout(time) {
            Ok(alert) => Ok(Some(alert)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                // Its output ends a moment before it does.
                let start = Instant::now();
                while self.child.try_wait()?.is_none() && start.elapsed() < EXIT_TIME {
                    pause(LOOK_AGAIN);
                }
                let status = self.child.try_wait()?.map_or("no exit".to_owned(), |status| status.to_string());
                Err(self.ended(&status).into())
            }
        }
    }

    /// All alerts until nothing is left to be looked at and none comes any more, each id once.
    ///
    /// # Errors
    /// When the module ends, or there is no end of alerts.
    pub(crate) fn alerts_until_quiet(&mut self) -> BenchResult<Vec<Alert>> {
        let mut found = Vec::new();
        let mut ids = HashSet::new();
        let start = Instant::now();
        loop {
            match self.next_alert(QUIET)? {
                Some(alert) if ids.insert(alert.id.clone()) => found.push(alert),
                Some(_) => {}
                None if self.count("pending")? == 0 => return Ok(found),
                None => {}
            }
            if start.elapsed() > PATIENCE {
                return Err(format!("the module has not come to rest after {PATIENCE:?}").into());
            }
        }
    }

    /// Kills the module and waits for its end.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn kill(mut self) -> BenchResult<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends the module as an agent does.
    ///
    /// # Errors
    /// When it does not end.
    pub(crate) fn stop(mut self) -> BenchResult<()> {
        lock(&self.input).write_all(&Message::stop().to_line())?;
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            if start.elapsed() > PATIENCE {
                return Err(format!("the module does not end within {PATIENCE:?}").into());
            }
            pause(LOOK_AGAIN);
        }
        Ok(())
    }

    fn socket(&self) -> Option<PathBuf> {
        lock(&self.known).socket.clone()
    }

    fn ended(&self, status: &str) -> String {
        format!("the module ended with {status}: {}", lock(&self.known).log.join(" | "))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // Both fail only for a process that has been waited for.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends heartbeats until the module's owner is gone.
fn beat(input: &Mutex<ChildStdin>, ended: &mpsc::Receiver<()>) {
    let mut nonce = 0;
    while ended.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
        nonce += 1;
        if lock(input).write_all(&Message::ping(nonce).to_line()).is_err() {
            return;
        }
    }
}

/// The thread that reads what the module writes.
struct Reader {
    input: Arc<Mutex<ChildStdin>>,
    known: Arc<Mutex<Known>>,
    alerts: mpsc::Sender<Alert>,
}

impl Reader {
    fn run(self, output: ChildStdout) {
        let mut output = BufReader::with_capacity(256 * 1024, output);
        let mut line = String::new();
        while output.read_line(&mut line).is_ok_and(|count| count > 0) {
            let at = Instant::now();
            if let Err(error) = self.take(at, line.trim_end()) {
                // Nobody waits for alerts any more, the module reads no more, or what it wrote is no message.
                self.note(error.to_string());
                return;
            }
            line.clear();
        }
    }

    fn take(&self, at: Instant, line: &str) -> BenchResult<()> {
        let message = MessageRef::parse(line)?;
        match message.class {
            Class::Alert => {
                let alert: AlertParameters<'_> = message.parameters_as("alert")?;
                let id = alert.id.unwrap_or_default().into_owned();
                let mut acknowledgement = Vec::new();
                Message::write_ack_line(&mut acknowledgement, &serde_json::to_string(&id)?);
                self.alerts.send(Alert { at, id, message: alert.message.into_owned() })?;
                lock(&self.input).write_all(&acknowledgement)?;
            }
            Class::Register => {
                let registered: RegisterParameters<'_> = message.parameters_as("register")?;
                let path = registered.sockpath.strip_prefix("unix:").map(PathBuf::from);
                lock(&self.known).socket = path;
            }
            Class::Log => {
                self.note(message.parameters_as::<LogParameters<'_>>("log")?.message.into_owned());
            }
            _ => {}
        }
        Ok(())
    }

    fn note(&self, text: String) {
        let mut known = lock(&self.known);
        if known.log.len() == KEPT_LOG_LINES {
            known.log.remove(0);
        }
        known.log.push(text);
    }
}

/// Asks on the module's own socket.
fn ask(socket: &Path, parameters: &Value) -> BenchResult<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&Message::parameters(Some(to_raw_value(parameters)?), Default::default()).to_line())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    elements(serde_json::from_slice(&answer)?)
}

/// The elements of a module's result.
///
/// # Errors
/// When the result says that the query failed.
pub(crate) fn elements(mut result: Value) -> BenchResult<Value> {
    if result["success"] == true {
        return Ok(result["elements"].take());
    }
    Err(format!("the query failed: {}", result["errors"]).into())
}

/// What a line of fdinfo begins with that stands for a watch of inotify, or for fanotify's mark on an inode, a mount, a
/// file system or a namespace of mounts.
fn mark_prefixes(backend: &str) -> &'static [&'static str] {
    match backend {
        "inotify" => &["inotify wd:"],
        _ => &["fanotify ino:", "fanotify mnt_id:", "fanotify sdev:", "fanotify mnt_ns:"],
    }
}

/// What a process holds of a backend's watches or marks, over all its descriptors (proc(5), `/proc/PID/fdinfo`).
fn marks_held(pid: u32, backend: &str) -> BenchResult<usize> {
    let mut marks = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may be closed between the two looks.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let prefixes = mark_prefixes(backend).iter();
        marks += prefixes
            .map(|prefix| text.lines().filter(|line| line.starts_with(prefix)).count())
            .sum::<usize>();
    }
    Ok(marks)
}
