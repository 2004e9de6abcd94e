//! Programs that take alerts on standard input and acknowledge them on standard output: the sinks `command` and `file`.
//!
//! A file is written by a process of ours (`vigie write-sink`), so that a disk that hangs holds that process and not
//! the agent. A program runs below `vigie launch --stay`, which ends everything that the program started.
//!
//! A process that waits for a disk cannot be ended. As long as one that was given up lives, no other one is started in
//! its place, whoever asks: the next attempt, a test, or the sink after a reload.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use vigie_config::sinks::{CommandTarget, FileTarget};
use vigie_sinks::ack::{MAX_ANSWER_BYTES, acknowledged};
use vigie_sinks::verdict::Reason;

use super::outcome::{Failure, Outcome};
use super::transport::Batch;
use crate::child::{KILL_ALL, watch_process};
use crate::containment::kill_session;
use crate::descriptors;
use crate::work_threads::{self, Lane};

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
    /// A launcher stays above the program.
    has_launcher: bool,
    /// The file, or the command: what only one process at a time is started for.
    place: Rc<str>,
    /// What failed to start, for people.
    shown: String,
}

/// The way to a program.
pub(super) struct Program {
    start: Start,
    limit: Duration,
    life: Option<Life>,
}

/// How a process ended, once it is reaped.
type End = watch::Receiver<Option<io::Result<ExitStatus>>>;

thread_local! {
    /// What was to end and was not seen to, with its place. Only the arbiter's thread starts processes.
    static LEFT: RefCell<Vec<(Rc<str>, End)>> = const { RefCell::new(Vec::new()) };
}

/// Waits until nothing is left of the processes that were started for this place before.
async fn nothing_is_left(place: &Rc<str>) {
    let of_place = |(of, end): &(Rc<str>, End)| (of == place).then(|| end.clone());
    while let Some(mut end) = LEFT.with_borrow(|left| left.iter().find_map(of_place)) {
        end.wait_for(Option::is_some).await.ok();
        LEFT.with_borrow_mut(|left| left.retain(|(_, other)| !other.same_channel(&end)));
    }
}

/// Waits for a process to end and reaps it. Should it be a launcher that was killed, what is left of its session is
/// killed in between: until the reaping, the process's number means this session and no other one.
async fn reap(
    mut child: Child,
    pid: u32,
    launcher_ended: Option<AsyncFd<OwnedFd>>,
    told: watch::Sender<Option<io::Result<ExitStatus>>>,
) {
    if let Some(ended) = launcher_ended {
        drop(ended.ready(Interest::READABLE).await);
        work_threads::run(Lane::Kill, move || kill_session(pid)).await.ok();
    }
    let status = child.wait().await;
    told.send_replace(Some(status));
}

/// One process.
struct Life {
    pid: Pid,
    end: End,
    /// Absent when the program is to see the end of it.
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    /// What came and is no whole line yet.
    input: Vec<u8>,
    last_words: Rc<RefCell<Vec<u8>>>,
    /// Reads its standard error, which a process that it left may hold open.
    listening: JoinHandle<()>,
    has_launcher: bool,
    place: Rc<str>,
}

impl Life {
    /// How a program ended that closed a pipe.
    async fn ended(&mut self, limit: Duration) -> Failure {
        timeout(limit.min(END_PATIENCE), self.end.wait_for(Option::is_some)).await.ok();
        let how = match &*self.end.borrow() {
            Some(Ok(status)) => format!("the program ended ({status})"),
            _ => "the program closed its pipe but keeps running".to_owned(),
        };
        // What it said is read by a task that may not have run yet.
        tokio::task::yield_now().await;
        let words = String::from_utf8_lossy(&self.last_words.borrow()).trim().to_owned();
        let detail = if words.is_empty() { how } else { format!("{how}: {words}") };
        Failure::new(Reason::Exited, detail).unsure()
    }

    /// Signals the process as long as it is not reaped: its number is nobody else's until then.
    fn signal(&self, signal: Signal) {
        if self.end.borrow().is_none() {
            kill(self.pid, signal).ok();
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.listening.abort();
        if self.end.borrow().is_some() {
            return;
        }
        if self.has_launcher {
            self.signal(Signal::SIGCONT);
            self.signal(KILL_ALL);
        }
        // A writer sees that its pipes are closed; what it has begun to write is written to the end.
        LEFT.with_borrow_mut(|left| left.push((self.place.clone(), self.end.clone())));
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
            limit.as_millis().to_string(),
        ];
        let shown = "the process that writes the file".to_owned();
        let place = arguments[1].as_str().into();
        let start = Start { vigie: vigie.to_owned(), arguments, has_launcher: false, place, shown };
        Self { start, limit, life: None }
    }

    pub(super) fn command(vigie: &Path, target: &CommandTarget, limit: Duration) -> Self {
        let mut arguments = ["launch", "--stay", "--parent"].map(str::to_owned).to_vec();
        arguments.push(std::process::id().to_string());
        if let Some(user) = &target.user {
            arguments.extend(["--user".to_owned(), user.clone()]);
        }
        arguments.push("--".to_owned());
        arguments.extend(target.command.iter().cloned());
        let shown = target.command.first().cloned().unwrap_or_default();
        let place = arguments.join(" ").into();
        let start = Start { vigie: vigie.to_owned(), arguments, has_launcher: true, place, shown };
        Self { start, limit, life: None }
    }

    async fn begin(&self) -> Result<Life, Failure> {
        let place = &self.start.place;
        if timeout(END_PATIENCE, nothing_is_left(place)).await.is_err() {
            let detail = format!(
                "{} of an earlier attempt does not end, as when its disk does not respond; no other one is started before",
                self.start.shown
            );
            return Err(Failure::new(Reason::Timeout, detail));
        }
        let cannot = |error: io::Error| {
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
            .stderr(Stdio::piped());
        let has_launcher = self.start.has_launcher;
        let started = descriptors::with_reserve(|| {
            let child = command.spawn()?;
            let ended = child.id().filter(|_| has_launcher).and_then(watch_process);
            Ok((child, ended))
        });
        let (mut child, ended) = started.map_err(cannot)?;
        let missing = || cannot(io::Error::other("it has no pipes or no number"));
        let number = child.id().ok_or_else(missing)?;
        let pid = i32::try_from(number).map(Pid::from_raw).map_err(|_| missing())?;
        let stdin = Some(child.stdin.take().ok_or_else(missing)?);
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let last_words = Rc::new(RefCell::new(Vec::new()));
        let stderr = child.stderr.take().ok_or_else(missing)?;
        let listening = actix_rt::spawn(listen(stderr, last_words.clone()));
        let place = place.clone();
        let (told, end) = watch::channel(None);
        // Also when nobody waits any more: what an ended launcher left is not left to live.
        actix_rt::spawn(reap(child, number, ended, told));
        Ok(Life { pid, end, stdin, stdout, input: Vec::new(), last_words, listening, has_launcher, place })
    }

    pub(super) async fn deliver(&mut self, batch: &Batch) -> Outcome {
        let life = match self.life.take() {
            Some(life) => Ok(life),
            None => self.begin().await,
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
            Err(failure) => {
                if !life.has_launcher {
                    // Half a line that it leaves is cut off by the next one.
                    life.signal(Signal::SIGKILL);
                }
                Outcome::failed(done, failure)
            }
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
        let Life { stdin: Some(stdin), stdout, input, .. } = life else { return Ok(Exchanged::PipeClosed) };
        let writing = async {
            stdin.write_all(&lines).await?;
            stdin.flush().await
        };
        tokio::pin!(writing);
        let mut is_written = false;
        // A writer says itself within the limit that another process has locked the file.
        let patience = if self.start.has_launcher { self.limit } else { self.limit + END_PATIENCE };
        let mut deadline = Instant::now() + patience;
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
                            deadline = Instant::now() + patience;
                        }
                    }
                    Ok(0) | Err(_) => return Ok(Exchanged::PipeClosed),
                },
                () = sleep_until(deadline) => {
                    let what = format!("{} acknowledged nothing", self.start.shown);
                    return Err(Failure::timeout(&what, self.limit));
                }
            }
        }
        Ok(Exchanged::All)
    }

    /// Lets the program end by itself.
    pub(super) async fn close(&mut self) {
        if let Some(mut life) = self.life.take() {
            // Nothing else closes the pipe: a shutdown of it does nothing.
            life.stdin = None;
            timeout(END_PATIENCE, life.end.wait_for(Option::is_some)).await.ok();
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
