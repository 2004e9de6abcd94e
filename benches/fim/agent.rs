//! A whole agent with fswatch in directories of its own, which can be killed and started again.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;
use vigie_protocol::control::{AlertRecord, SOCKET_NAME};
use vigie_protocol::message::RUN_DIR_VARIABLE;

use crate::module::{Alert, elements};
use crate::{LOOK_AGAIN, PATIENCE, pause};
use vigie_benchmark::BenchResult;

/// Longest time until the module of a started agent knows a small tree.
const START_TIME: Duration = Duration::from_secs(60);

/// The agent's directories, and the agent while it runs.
pub(crate) struct Agent {
    child: Option<Child>,
    /// The sockets; their paths must be short (unix(7)).
    run_dir: TempDir,
    config: PathBuf,
    log: PathBuf,
}

impl Agent {
    /// Writes the configuration for an agent that keeps its state in `directory` and watches `watched`; `keys` are
    /// lines of fswatch's section.
    ///
    /// # Errors
    /// When it cannot be written to disk.
    pub(crate) fn new(directory: &Path, watched: &Path, keys: &str) -> BenchResult<Self> {
        let run_dir = tempfile::Builder::new().prefix("vigie-bench-").tempdir()?;
        let modules = directory.join("modules.d");
        fs::create_dir_all(&modules)?;
        let text = format!("[paths]\npath = recursive:{}\n[fswatch]\n{keys}", watched.display());
        fs::write(modules.join("fswatch.cfg"), text)?;
        let config = directory.join("vigie.toml");
        let log = directory.join("agent.log");
        let text = format!(
            "[agent]\nrun_dir = {run:?}\nstate_dir = {state:?}\npersistconfigdir = {modules:?}\n\
             [logging]\nmode = \"file\"\nfile = {log:?}\n",
            run = run_dir.path().join("run"),
            state = directory.join("state"),
        );
        fs::write(&config, text)?;
        Ok(Self { child: None, run_dir, config, log })
    }

    /// Starts the agent and waits until fswatch has its baseline.
    ///
    /// # Errors
    /// When it ends or does not get there.
    pub(crate) fn start(&mut self) -> BenchResult<()> {
        let child = Command::new(env!("CARGO_BIN_EXE_vigie"))
            .arg("agent")
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(self.log.with_extension("errors"))?)
            .spawn()?;
        let child = self.child.insert(child);
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Err(format!("the agent ended with {status}; see {}", self.log.display()).into());
            }
            // It cannot be asked before it has made its socket, nor the module before it has registered.
            let status = query(&self.run_dir, &json!({}));
            if status.as_ref().is_ok_and(|status| status["baseline_complete"] == true) {
                return Ok(());
            }
            if start.elapsed() > START_TIME {
                let log = self.log.display();
                return Err(
                    format!("fswatch has no baseline after {START_TIME:?}: {status:?}; see {log}").into()
                );
            }
            pause(LOOK_AGAIN);
        }
    }

    /// The elements of fswatch's answer.
    ///
    /// # Errors
    /// When there is no answer, or it says that the query failed.
    pub(crate) fn query(&self, parameters: &Value) -> BenchResult<Value> {
        query(&self.run_dir, parameters)
    }

    /// The journal's records after the one with this number.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub(crate) fn journal(&self, after: u64) -> BenchResult<Vec<AlertRecord>> {
        let mut records = Vec::new();
        let mut answer = send(&self.run_dir, &json!({"alerts": {"after": after}}))?;
        while let Some(record) = next_record(&mut answer)? {
            records.push(record);
        }
        Ok(records)
    }

    /// Alerts as they come into the journal, each with the time at which a follower of the journal has it.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub(crate) fn follow(&self) -> BenchResult<mpsc::Receiver<Alert>> {
        let mut answer = send(&self.run_dir, &json!({"alerts": {"last": 0, "follow": true}}))?;
        answer.get_ref().set_read_timeout(None)?;
        let (sender, alerts) = mpsc::channel();
        std::thread::Builder::new().spawn(move || {
            while let Ok(Some(record)) = next_record(&mut answer) {
                let id = record.id.unwrap_or_default();
                if sender.send(Alert { at: Instant::now(), id, message: record.message }).is_err() {
                    return;
                }
            }
        })?;
        Ok(alerts)
    }

    /// Kills the agent and waits until its modules are gone as well.
    ///
    /// # Errors
    /// When they do not go.
    pub(crate) fn kill(&mut self) -> BenchResult<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        let start = Instant::now();
        while self.has_modules()? {
            if start.elapsed() > PATIENCE {
                return Err(format!("modules of a killed agent live after {PATIENCE:?}").into());
            }
            pause(LOOK_AGAIN);
        }
        Ok(())
    }

    /// The process of fswatch.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn module_pid(&self) -> BenchResult<u32> {
        let wanted = self.run_dir.path().join("run");
        let is_it = |process: &procfs::process::Process| {
            let told = process
                .environ()
                .ok()
                .and_then(|mut all| all.remove(RUN_DIR_VARIABLE.as_ref() as &std::ffi::OsStr));
            let is_fswatch = process.cmdline().is_ok_and(|words| words.iter().any(|word| word == "fswatch"));
            is_fswatch && told.is_some_and(|directory| Path::new(&directory) == wanted)
        };
        let found = procfs::process::all_processes()?.flatten().find(is_it).ok_or("fswatch does not run")?;
        Ok(u32::try_from(found.pid())?)
    }

    /// Whether any process was told this agent's run directory.
    fn has_modules(&self) -> BenchResult<bool> {
        let wanted = self.run_dir.path().join("run");
        Ok(procfs::process::all_processes()?.flatten().any(|process| {
            // A process that is gone has no environment.
            let told = process
                .environ()
                .ok()
                .and_then(|mut all| all.remove(RUN_DIR_VARIABLE.as_ref() as &std::ffi::OsStr));
            told.is_some_and(|directory| Path::new(&directory) == wanted)
        }))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Nobody is there to be told; what stays is seen by whoever looks at the processes.
        self.kill().ok();
    }
}

fn query(run_dir: &TempDir, parameters: &Value) -> BenchResult<Value> {
    let request = json!({"query": {"module": "fswatch", "parameters": parameters}});
    let mut line = String::new();
    send(run_dir, &request)?.read_line(&mut line)?;
    let mut reply: Value = serde_json::from_str(&line)?;
    if reply["result"].is_null() {
        return Err(format!("the agent answered {}", reply["error"]).into());
    }
    elements(reply["result"].take())
}

/// Sends one request over a connection of its own.
fn send(run_dir: &TempDir, request: &Value) -> BenchResult<BufReader<UnixStream>> {
    let mut stream = UnixStream::connect(run_dir.path().join("run").join(SOCKET_NAME))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    Ok(BufReader::new(stream))
}

/// The next item of a stream of records; `None` at its end.
fn next_record(answer: &mut BufReader<UnixStream>) -> BenchResult<Option<AlertRecord>> {
    let mut line = String::new();
    answer.read_line(&mut line)?;
    let mut reply: Value = serde_json::from_str(&line)?;
    if reply.get("end").is_some() {
        return Ok(None);
    }
    match reply.get_mut("alert") {
        Some(record) => Ok(Some(serde_json::from_value(record.take())?)),
        None => Err(format!("the agent answered {}", line.trim_end()).into()),
    }
}
