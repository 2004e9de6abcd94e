//! The agent's side of the guard: a small process that outlives the agent by an instant and kills what its
//! modules would leave behind.
//!
//! The guard reads lines `+PID` and `-PID` (sessions of modules) from its stdin. The end of stdin without the
//! line `done` means that the agent died. It is watched as modules are: it answers a line `?` on its stdout, and when
//! it does not, or ends, it is killed and another one is started. What it has to know is kept here as a set and sent as
//! differences, so nothing piles up while it does not read.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use slog::{Logger, warn};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use vigie_protocol::catalogue::AgentCondition;

use crate::conditions::Reporter;
use crate::descriptors;

/// Pause before a guard that ended is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Time between two questions whether it lives.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// How long it may take to read what it is sent, or to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long the agent's end waits for it. By then the modules are gone, so it can be killed.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// Tells the guard about sessions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GuardLink {
    shared: Option<Rc<Shared>>,
}

#[derive(Default)]
struct Shared {
    sessions: RefCell<BTreeSet<u32>>,
    /// The agent ends.
    done: Cell<bool>,
    changed: Notify,
    ended: Notify,
    reporter: RefCell<Option<Reporter>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("sessions", &self.sessions).finish_non_exhaustive()
    }
}

impl Shared {
    fn report(&self, problem: Option<String>) {
        if let Some(reporter) = &*self.reporter.borrow() {
            reporter.set(AgentCondition::GuardMissing, problem);
        }
    }
}

impl GuardLink {
    /// No guard; for tests of what needs none.
    #[must_use]
    pub fn none() -> Self {
        Self { shared: None }
    }

    /// Starts the guard and keeps it running. Must be called on the arbiter's thread.
    #[must_use]
    pub fn start(vigie: PathBuf, cgroups: Vec<PathBuf>, log: Logger) -> Self {
        let shared = Rc::new(Shared::default());
        actix_rt::spawn(keep_guard(vigie, cgroups, shared.clone(), log));
        Self { shared: Some(shared) }
    }

    /// Reports there when the guard is missing.
    pub(crate) fn report_to(&self, reporter: Reporter) {
        if let Some(shared) = &self.shared {
            shared.reporter.replace(Some(reporter));
        }
    }

    /// This session is to be killed when the agent dies.
    pub fn add(&self, session: u32) {
        if let Some(shared) = &self.shared {
            shared.sessions.borrow_mut().insert(session);
            shared.changed.notify_one();
        }
    }

    /// This session has ended.
    pub fn remove(&self, session: u32) {
        if let Some(shared) = &self.shared {
            shared.sessions.borrow_mut().remove(&session);
            shared.changed.notify_one();
        }
    }

    /// The agent ends in good order; returns when the guard has ended, at the latest after two seconds.
    pub async fn done(&self) {
        if let Some(shared) = &self.shared {
            shared.done.set(true);
            shared.changed.notify_one();
            timeout(END_PATIENCE * 2, shared.ended.notified()).await.ok();
        }
    }
}

async fn keep_guard(vigie: PathBuf, cgroups: Vec<PathBuf>, shared: Rc<Shared>, log: Logger) {
    while !shared.done.get() {
        let why = match descriptors::with_reserve(|| spawn_guard(&vigie, &cgroups)) {
            Ok(guard) => serve_guard(guard, &shared).await.to_owned(),
            Err(error) => format!("it cannot be started: {error}"),
        };
        if shared.done.get() {
            break;
        }
        warn!(log, "guard restarted"; "component" => "guard", "reason" => &why);
        shared.report(Some(why));
        let until = Instant::now() + RESTART_PAUSE;
        // Sessions that come and go meanwhile are in the next guard's first lines.
        while !shared.done.get() && timeout(until - Instant::now(), shared.changed.notified()).await.is_ok() {
        }
    }
    shared.ended.notify_one();
}

fn spawn_guard(vigie: &PathBuf, cgroups: &[PathBuf]) -> std::io::Result<Child> {
    let mut command = Command::new(vigie);
    command.arg0("vigie").arg("guard");
    for cgroup in cgroups {
        command.arg("--cgroup").arg(cgroup);
    }
    command
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

/// Tells the guard about changes and asks whether it lives, until it ends or is no longer needed; says why it ended.
async fn serve_guard(mut guard: Child, shared: &Shared) -> &'static str {
    let (Some(mut stdin), Some(mut stdout)) = (guard.stdin.take(), guard.stdout.take()) else {
        return "its pipes were not made";
    };
    let why = converse(&mut guard, &mut stdin, &mut stdout, shared).await;
    drop(stdin);
    if shared.done.get() && timeout(END_PATIENCE, guard.wait()).await.is_ok() {
        return why;
    }
    // A guard that is stopped or stuck does not look at anything but this. Without it a process in uninterruptible
    // sleep would be waited for.
    guard.start_kill().ok();
    timeout(PATIENCE, guard.wait()).await.ok();
    why
}

async fn converse(
    guard: &mut Child,
    stdin: &mut ChildStdin,
    stdout: &mut ChildStdout,
    shared: &Shared,
) -> &'static str {
    let mut told = BTreeSet::new();
    let mut next_question = Instant::now();
    loop {
        let news = difference(&mut told, &shared.sessions.borrow());
        if !send(stdin, &news).await {
            return "it does not read its input";
        }
        if shared.done.get() {
            send(stdin, "done\n").await;
            return "the agent ends";
        }
        tokio::select! {
            biased;
            _ = guard.wait() => return "it ended",
            () = shared.changed.notified() => {}
            () = sleep_until(next_question) => {
                let mut answer = [0; 16];
                if !send(stdin, "?\n").await {
                    return "it does not read its input";
                }
                match timeout(PATIENCE, stdout.read(&mut answer)).await {
                    Ok(Ok(read)) if read > 0 => shared.report(None),
                    Ok(_) => {
                        // Its end is about to be seen as well.
                        sleep(Duration::ZERO).await;
                        return "it ended";
                    }
                    Err(_) => return "it does not respond",
                }
                next_question = Instant::now() + HEARTBEAT;
            }
        }
    }
}

async fn send(stdin: &mut ChildStdin, lines: &str) -> bool {
    lines.is_empty() || matches!(timeout(PATIENCE, stdin.write_all(lines.as_bytes())).await, Ok(Ok(())))
}

/// The lines that make `told` the same as `wanted`.
fn difference(told: &mut BTreeSet<u32>, wanted: &BTreeSet<u32>) -> String {
    let gone = told.difference(wanted).map(|session| format!("-{session}\n"));
    let new = wanted.difference(told).map(|session| format!("+{session}\n"));
    let lines = gone.chain(new).collect();
    told.clone_from(wanted);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_told() {
        let mut told = BTreeSet::from([1, 2]);

        let lines = difference(&mut told, &BTreeSet::from([2, 3]));

        assert_eq!(lines, "-1\n+3\n");
        assert_eq!(difference(&mut told, &BTreeSet::from([2, 3])), "");
    }
}
