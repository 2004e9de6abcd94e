//! A real agent in directories of its own, started and ended by the benchmark.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use vigie_protocol::control::{AgentStatus, ModuleState, SOCKET_NAME};

use crate::work_root;
use vigie_benchmark::BenchResult;

/// Longest wait for anything the agent does.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two looks at what cannot be waited for.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The agent; dropped, it is killed, and its modules end with it.
pub(crate) struct AgentProcess {
    child: Child,
    run_dir: TempDir,
    /// Held for its files.
    work_dir: TempDir,
    started: Instant,
}

impl AgentProcess {
    /// Starts an agent whose configuration is the defaults and `extra`, TOML text; `module_files` are files of
    /// modules by name. Its log goes to [`AgentProcess::log_file`].
    pub(crate) fn start(extra: &str, module_files: &[(&str, String)]) -> BenchResult<Self> {
        fs::create_dir_all(work_root())?;
        // The path of a socket is short (unix(7)); a build directory can be anywhere.
        let run_dir = tempfile::Builder::new().prefix("vigie-bench-").tempdir()?;
        let work_dir = tempfile::Builder::new().prefix("bench-").tempdir_in(work_root())?;
        let modules = work_dir.path().join("modules.d");
        fs::create_dir(&modules)?;
        for (name, text) in module_files {
            fs::write(modules.join(name), text)?;
        }
        let config = work_dir.path().join("vigie.toml");
        let text = format!(
            "[agent]\nrun_dir = {run:?}\nstate_dir = {state:?}\npersistconfigdir = {modules:?}\n\
             [logging]\nmode = \"file\"\nfile = {log:?}\nmax_file_bytes = \"8 GiB\"\nmodule_bytes_per_sec = 0\n{extra}",
            run = run_dir.path().join("run"),
            state = work_dir.path().join("state"),
            log = log_path(work_dir.path()),
        );
        fs::write(&config, text)?;
        let started = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_vigie"))
            .arg("agent")
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { child, run_dir, work_dir, started })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// When the agent was started.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        log_path(self.work_dir.path())
    }

    /// The agent's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.run_dir.path().join("run").join(SOCKET_NAME)
    }

    /// A directory for the peer's files, on the same disk as the agent's.
    pub(crate) fn work_dir(&self) -> &Path {
        self.work_dir.path()
    }

    /// Waits until the agent answers and all its modules run.
    pub(crate) async fn ready(&mut self) -> BenchResult<AgentStatus> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("the agent ended: {status}; see {:?}", self.log_text()).into());
            }
            let answered = self.status().await;
            if let Ok(status) = &answered
                && status.modules.iter().all(|m| matches!(m.state, ModuleState::Running | ModuleState::Idle))
                && status.modules.iter().any(|m| m.state == ModuleState::Running)
            {
                return answered;
            }
            if Instant::now() > deadline {
                let found = answered.map(|status| format!("{:?}", status.modules));
                return Err(format!("the modules are not ready after {PATIENCE:?}: {found:?}").into());
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    pub(crate) async fn status(&self) -> BenchResult<AgentStatus> {
        let mut reply = ask(&self.socket(), br#"{"status":{}}"#).await?;
        Ok(serde_json::from_value(reply["status"].take())?)
    }

    /// Ends the agent as a service manager does.
    pub(crate) async fn stop(mut self) -> BenchResult<()> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                return Err(format!("the agent does not end within {PATIENCE:?}").into());
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    fn log_text(&self) -> String {
        let text = fs::read_to_string(self.log_file()).unwrap_or_default();
        text.lines().rev().take(5).collect::<Vec<_>>().join(" | ")
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        // Both fail only for a process that has been waited for.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn log_path(work_dir: &Path) -> PathBuf {
    work_dir.join("agent.log")
}

/// Sends one line over a connection of its own and reads one JSON value back.
pub(crate) async fn ask(socket: &Path, request: &[u8]) -> BenchResult<Value> {
    let asking = async {
        let mut stream = BufReader::new(UnixStream::connect(socket).await?);
        ask_on(&mut stream, request).await
    };
    timeout(PATIENCE, asking).await?
}

/// The same over a connection that is there.
pub(crate) async fn ask_on(stream: &mut BufReader<UnixStream>, request: &[u8]) -> BenchResult<Value> {
    let mut line = Vec::with_capacity(request.len() + 1);
    line.extend_from_slice(request);
    line.push(b'\n');
    stream.write_all(&line).await?;
    line.clear();
    stream.read_until(b'\n', &mut line).await?;
    Ok(serde_json::from_slice(&line)?)
}
