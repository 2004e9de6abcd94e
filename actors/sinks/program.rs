//! Programs that take alerts on standard input and acknowledge them on standard output: the sinks `command` and `file`.
//!
//! A file is written by a process of ours (`vigie write-sink`), so that a disk that hangs holds that process and not
//! the agent.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use vigie_config::sinks::{CommandTarget, FileTarget};
use vigie_sinks::ack::{MAX_ANSWER_BYTES, acknowledged};
use vigie_sinks::verdict::Reason;

use super::outcome::{Failure, Outcome};
use super::transport::Batch;
use crate::child::watch_process;
use crate::work_threads::{self, Lane};
use crate::{containment, descriptors};

/// The command of ours that writes a file; its arguments are those of `FileTarget`.
pub const WRITER_COMMAND: &str = "write-sink";

/// Last words that are kept of a program's standard error, in bytes.
const MAX_LAST_WORDS: usize = 256;

/// Time that a program has to end in after its standard input was closed.
const END_PATIENCE: Duration = Duration::from_millis(1500);

/// How the process is started.
struct Start {
    vigie: PathBuf,
    arguments: Vec<String>,
    /// It has a session of its own, which is ended with it.
    has_session: bool,
    /// What failed to start, for people.
    shown: String,
}

/// The way to a program.
pub(super) struct Program {
    start: Start,
    limit: Duration,
    life: Option<Life>,
}

/// One process.
struct Life {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    /// What came and is no whole line yet.
    input: Vec<u8>,
    last_words: Rc<RefCell<Vec<u8>>>,
    /// Reads its standard error, which a process that it left may hold open.
    listening: JoinHandle<()>,
    /// Tells its end before it is reaped.
    end: Option<AsyncFd<OwnedFd>>,
    has_session: bool,
}

impl Life {
    /// Waits for its end, and ends what it leaves in its session before it is reaped: until then its number is ours.
    async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        if self.has_session
            && let (Some(end), Some(pid)) = (&self.end, self.child.id())
        {
            drop(end.ready(Interest::READABLE).await);
            work_threads::run(Lane::Kill, move || containment::kill_session(pid)).await.ok();
        }
        self.child.wait().await
    }

    /// How a program ended that closed a pipe.
    async fn ended(&mut self, limit: Duration) -> Failure {
        let how = match timeout(limit.min(END_PATIENCE), self.wait()).await {
            Ok(Ok(status)) => format!("the program ended ({status})"),
            _ => "the program closed its pipe but keeps running".to_owned(),
        };
        // What it said is read by a task that may not have run yet.
        tokio::task::yield_now().await;
        let words = String::from_utf8_lossy(&self.last_words.borrow()).trim().to_owned();
        let detail = if words.is_empty() { how } else { format!("{how}: {words}") };
        Failure::new(Reason::Exited, detail).unsure()
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.listening.abort();
        let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) else { return };
        if self.has_session {
            killpg(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
    }
}

/// What came of a batch.
enum Exchanged {
    All,
    /// The program has ended, or closed one of its ends.
    PipeClosed,
}

impl Program {
    pub(super) fn writer(vigie: &Path, target: &FileTarget, limit: Duration) -> Self {
        let arguments = vec![
            WRITER_COMMAND.to_owned(),
            target.path.to_string_lossy().into_owned(),
            target.rotate_bytes.to_string(),
            target.keep_files.to_string(),
            target.mode.to_string(),
        ];
        let shown = "the process that writes the file".to_owned();
        // It goes on to the end of what it was given when the agent is killed.
        let start = Start { vigie: vigie.to_owned(), arguments, has_session: false, shown };
        Self { start, limit, life: None }
    }

    pub(super) fn command(vigie: &Path, target: &CommandTarget, limit: Duration) -> Self {
        let mut arguments = vec!["launch".to_owned(), "--parent".to_owned(), std::process::id().to_string()];
        if let Some(user) = &target.user {
            arguments.extend(["--user".to_owned(), user.clone()]);
        }
        arguments.push("--".to_owned());
        arguments.extend(target.command.iter().cloned());
        let shown = target.command.first().cloned().unwrap_or_default();
        let start = Start { vigie: vigie.to_owned(), arguments, has_session: true, shown };
        Self { start, limit, life: None }
    }

    fn begin(&self) -> Result<Life, Failure> {
        let cannot = |error: std::io::Error| {
            Failure::new(Reason::Exited, format!("{} cannot be started: {error}", self.start.shown))
        };
        let mut command = Command::new(&self.start.vigie);
        command
            .arg0("vigie")
            .args(&self.start.arguments)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(self.start.has_session);
        let started = descriptors::with_reserve(|| {
            let child = command.spawn()?;
            let end = child.id().and_then(watch_process);
            Ok((child, end))
        });
        let (mut child, end) = started.map_err(cannot)?;
        let missing = || cannot(std::io::Error::other("it has no pipes"));
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let last_words = Rc::new(RefCell::new(Vec::new()));
        let stderr = child.stderr.take().ok_or_else(missing)?;
        let listening = actix_rt::spawn(listen(stderr, last_words.clone()));
        let has_session = self.start.has_session;
        Ok(Life { child, stdin, stdout, input: Vec::new(), last_words, listening, end, has_session })
    }

    pub(super) async fn deliver(&mut self, batch: &Batch) -> Outcome {
        let life = match self.life.take() {
            Some(life) => Ok(life),
            None => self.begin(),
        };
        let mut life = match life {
            Ok(life) => life,
            Err(failure) => return Outcome::failed(0, failure),
        };
        let mut done = 0;
        match self.pass(&mut life, batch, &mut done).await {
            Ok(()) => {
                self.life = Some(life);
                Outcome::all(done)
            }
            Err(failure) => Outcome::failed(done, failure),
        }
    }

    async fn pass(&self, life: &mut Life, batch: &Batch, done: &mut usize) -> Result<(), Failure> {
        match self.exchange(life, batch, done).await? {
            Exchanged::All => Ok(()),
            Exchanged::PipeClosed => Err(life.ended(self.limit).await),
        }
    }

    async fn exchange(&self, life: &mut Life, batch: &Batch, done: &mut usize) -> Result<Exchanged, Failure> {
        let lines = batch.records.concat();
        let Life { stdin, stdout, input, .. } = life;
        let writing = async {
            stdin.write_all(&lines).await?;
            stdin.flush().await
        };
        tokio::pin!(writing);
        let mut is_written = false;
        let mut deadline = Instant::now() + self.limit;
        let mut bytes = [0; 4096];
        // Written to the end also when it is acknowledged before: the next batch begins with a line of its own.
        while *done < batch.len() || !is_written {
            tokio::select! {
                written = &mut writing, if !is_written => {
                    is_written = true;
                    if written.is_err() {
                        return Ok(Exchanged::PipeClosed);
                    }
                }
                read = stdout.read(&mut bytes) => match read {
                    Ok(count @ 1..) => {
                        input.extend_from_slice(&bytes[..count]);
                        if take_answers(input, batch, done)? {
                            deadline = Instant::now() + self.limit;
                        }
                    }
                    Ok(0) | Err(_) => return Ok(Exchanged::PipeClosed),
                },
                () = sleep_until(deadline) => {
                    return Err(Failure::timeout("the program acknowledged nothing", self.limit));
                }
            }
        }
        Ok(Exchanged::All)
    }

    /// Lets the program end by itself.
    pub(super) async fn close(&mut self) {
        if let Some(mut life) = self.life.take() {
            life.stdin.shutdown().await.ok();
            // Standard input is closed by the end of this function at the latest.
            timeout(END_PATIENCE, life.wait()).await.ok();
        }
    }
}

/// Reads whole lines; whether one acknowledged something.
fn take_answers(input: &mut Vec<u8>, batch: &Batch, done: &mut usize) -> Result<bool, Failure> {
    let mut moved = false;
    while let Some(end) = input.iter().position(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(&input[..end]).into_owned();
        input.drain(..=end);
        let Some(seq) = acknowledged(&line) else {
            let shown: String = line.chars().take(80).collect();
            return Err(Failure::new(Reason::Protocol, format!("{shown:?} acknowledges nothing")).unsure());
        };
        if batch.numbers.last().is_some_and(|last| seq > *last) {
            let detail = format!("alert {seq} was acknowledged but never sent");
            return Err(Failure::new(Reason::Protocol, detail).unsure());
        }
        let reached = batch.numbers.partition_point(|number| *number <= seq);
        moved |= reached > *done;
        *done = reached.max(*done);
    }
    if input.len() > MAX_ANSWER_BYTES {
        return Err(Failure::new(Reason::Protocol, "an acknowledgement line is too long").unsure());
    }
    Ok(moved)
}

/// Keeps the last words.
async fn listen(mut stderr: ChildStderr, last_words: Rc<RefCell<Vec<u8>>>) {
    let mut bytes = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut bytes).await {
        let mut words = last_words.borrow_mut();
        words.extend_from_slice(&bytes[..count]);
        let extra = words.len().saturating_sub(MAX_LAST_WORDS);
        words.drain(..extra);
    }
}
