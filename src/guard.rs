//! `vigie guard`: outlives the agent by an instant and kills what its modules would leave behind.
//!
//! Reads lines `+PID` and `-PID` from stdin, sessions of modules that began and ended, and `done` when the agent stops
//! in good order. A line `?` is answered with `!`, so that the agent sees a guard that is stuck. When stdin ends
//! without `done`, the agent died: the guard kills everything in the agent's cgroup, and every process of the sessions
//! that it knows.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal as RawSignal, pidfd_open, pidfd_send_signal};
use tokio::time::Instant;
use vigie_actors::containment;

/// Longest that launchers have to end what is below them when the agent died.
const LAUNCHERS_END: Duration = Duration::from_secs(2);

/// Options of `vigie guard`.
#[derive(Debug, clap::Args)]
pub(crate) struct GuardOptions {
    /// Directory that holds the modules' cgroups.
    #[arg(long)]
    cgroup: Vec<PathBuf>,
}

/// Waits for the agent's end.
pub(crate) fn run(options: &GuardOptions) -> ExitCode {
    // Whatever ends the agent's group or terminal must not end the guard before it has done its work.
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT]).thread_block().ok();
    let mut sessions = BTreeMap::new();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        if line == "done" {
            return ExitCode::SUCCESS;
        }
        if line == "?" {
            // An agent that does not listen has other worries; its end is what counts here.
            std::io::stdout().write_all(b"!\n").and_then(|()| std::io::stdout().flush()).ok();
            continue;
        }
        apply(&line, &mut sessions);
    }
    if options.cgroup.is_empty() {
        let_launchers_end(&sessions);
    } else {
        containment::remove(&options.cgroup);
    }
    for (number, leader) in &sessions {
        if leader.as_ref().is_none_or(|leader| leader.still_means(*number)) {
            containment::kill_sessions(|session| session == *number, 0);
        }
    }
    ExitCode::SUCCESS
}

/// The first process of a session, held by a descriptor so that its number cannot mean another one unnoticed.
struct Leader(OwnedFd);

impl Leader {
    fn open(number: i32) -> Option<Self> {
        pidfd_open(Pid::from_raw(number)?, PidfdFlags::empty()).ok().map(Self)
    }

    /// Whether its number still means its session. A number is free for others only when nothing of the session is
    /// left: then the leader is reaped, and a process of that number is somebody else.
    fn still_means(&self, number: i32) -> bool {
        !(self.is_reaped() && Self::open(number).is_some())
    }

    /// A process that has ended still takes signals until it is reaped.
    fn is_reaped(&self) -> bool {
        pidfd_send_signal(&self.0, RawSignal::CONT).is_err()
    }

    /// Waits for its end, as long as `until`.
    fn wait(&self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or_default();
        rustix::event::poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&left)).ok();
    }
}

/// Launchers that stay above their modules end them when the agent dies; a moment is theirs, because killing them first
/// would set free what they hold.
fn let_launchers_end(sessions: &BTreeMap<i32, Option<Leader>>) {
    let until = Instant::now() + LAUNCHERS_END;
    for leader in sessions.values().flatten() {
        leader.wait(until);
    }
}

fn apply(line: &str, sessions: &mut BTreeMap<i32, Option<Leader>>) {
    let (sign, number) = line.split_at_checked(1).unwrap_or_default();
    let Ok(session) = number.parse::<i32>() else { return };
    match sign {
        "+" => sessions.insert(session, Leader::open(session)),
        "-" => sessions.remove(&session),
        _ => None,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_come_and_go_and_nonsense_is_ignored() {
        let mut sessions = BTreeMap::new();
        for line in ["+12", "+13", "-12", "", "+", "+x", "x13", "é1"] {
            apply(line, &mut sessions);
        }

        assert_eq!(sessions.keys().copied().collect::<Vec<_>>(), [13]);
    }
}
