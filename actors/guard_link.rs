//! The agent's side of the guard: a small process that outlives the agent by an instant and kills what its
//! modules would leave behind.
//!
//! The guard reads lines `+PID` and `-PID` (sessions of modules) from its stdin. The end of stdin without the
//! line `done` means that the agent died. When the guard itself is killed, it is started again.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use slog::{Logger, warn};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// Pause before a guard that ended is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Tells the guard about sessions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GuardLink {
    changes: Option<mpsc::UnboundedSender<Change>>,
}

#[derive(Debug)]
enum Change {
    Add(u32),
    Remove(u32),
    Done(tokio::sync::oneshot::Sender<()>),
}

impl GuardLink {
    /// No guard; for tests of what needs none.
    #[must_use]
    pub fn none() -> Self {
        Self { changes: None }
    }

    /// Starts the guard and keeps it running. Must be called on the arbiter's thread.
    #[must_use]
    pub fn start(vigie: PathBuf, cgroup: Option<PathBuf>, log: Logger) -> Self {
        // Unbounded in type only: two messages for each life of a module, and the receiver never waits long.
        let (changes, receiver) = mpsc::unbounded_channel();
        actix_rt::spawn(keep_guard(vigie, cgroup, receiver, log));
        Self { changes: Some(changes) }
    }

    /// This session is to be killed when the agent dies.
    pub fn add(&self, session: u32) {
        self.send(Change::Add(session));
    }

    /// This session has ended.
    pub fn remove(&self, session: u32) {
        self.send(Change::Remove(session));
    }

    /// The agent ends in good order; returns when the guard has ended.
    pub async fn done(&self) {
        let (sender, ended) = tokio::sync::oneshot::channel();
        self.send(Change::Done(sender));
        ended.await.ok();
    }

    fn send(&self, change: Change) {
        if let Some(changes) = &self.changes {
            changes.send(change).ok();
        }
    }
}

async fn keep_guard(
    vigie: PathBuf,
    cgroup: Option<PathBuf>,
    mut changes: mpsc::UnboundedReceiver<Change>,
    log: Logger,
) {
    let mut sessions = BTreeSet::new();
    loop {
        match spawn_guard(&vigie, cgroup.as_ref()) {
            Ok(guard) => {
                if serve_guard(guard, &mut sessions, &mut changes).await {
                    return;
                }
                warn!(log, "guard ended, starting it again"; "component" => "guard");
            }
            Err(error) => {
                warn!(log, "guard cannot be started"; "component" => "guard", "error" => %error);
            }
        }
        // Sessions that come and go meanwhile are in the next guard's first lines.
        let pause = tokio::time::sleep(RESTART_PAUSE);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                change = changes.recv() => match change {
                    Some(Change::Add(session)) => { sessions.insert(session); }
                    Some(Change::Remove(session)) => { sessions.remove(&session); }
                    Some(Change::Done(_)) | None => return,
                },
            }
        }
    }
}

fn spawn_guard(vigie: &PathBuf, cgroup: Option<&PathBuf>) -> std::io::Result<Child> {
    let mut command = Command::new(vigie);
    command.arg0("vigie").arg("guard");
    if let Some(cgroup) = cgroup {
        command.arg("--cgroup").arg(cgroup);
    }
    command
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

/// Tells the guard about changes until it ends (`false`) or is no longer needed (`true`).
async fn serve_guard(
    mut guard: Child,
    sessions: &mut BTreeSet<u32>,
    changes: &mut mpsc::UnboundedReceiver<Change>,
) -> bool {
    let Some(mut stdin) = guard.stdin.take() else { return false };
    let mut lines: String = sessions.iter().map(|session| format!("+{session}\n")).collect();
    loop {
        if stdin.write_all(lines.as_bytes()).await.is_err() {
            guard.wait().await.ok();
            return false;
        }
        let change = tokio::select! {
            _ = guard.wait() => return false,
            change = changes.recv() => change,
        };
        lines = match change {
            Some(Change::Add(session)) => {
                sessions.insert(session);
                format!("+{session}\n")
            }
            Some(Change::Remove(session)) => {
                sessions.remove(&session);
                format!("-{session}\n")
            }
            Some(Change::Done(ended)) => {
                stdin.write_all(b"done\n").await.ok();
                drop(stdin);
                guard.wait().await.ok();
                ended.send(()).ok();
                return true;
            }
            None => return true,
        };
    }
}
