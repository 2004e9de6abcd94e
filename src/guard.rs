//! `vigie guard`: outlives the agent by an instant and kills what its modules would leave behind.
//!
//! Reads lines `+PID` and `-PID` from stdin, sessions of modules that began and ended, and `done` when the
//! agent stops in good order. A line `?` is answered with `!`, so that the agent sees a guard that is stuck. When stdin ends without `done`, the agent died: the guard kills everything in
//! the agent's cgroup, and every process of the sessions that it knows.

use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use vigie_actors::containment;

/// Options of `vigie guard`.
#[derive(Debug, clap::Args)]
pub(crate) struct GuardOptions {
    /// Directory that holds the modules' cgroups.
    #[arg(long)]
    cgroup: Option<PathBuf>,
}

/// Waits for the agent's end.
pub(crate) fn run(options: &GuardOptions) -> ExitCode {
    // Whatever ends the agent's group or terminal must not end the guard before it has done its work.
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT]).thread_block().ok();
    let mut sessions = BTreeSet::new();
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
    if let Some(cgroup) = &options.cgroup {
        containment::kill_tree(cgroup).ok();
    }
    containment::kill_sessions(|session| sessions.contains(&session), 0);
    ExitCode::SUCCESS
}

fn apply(line: &str, sessions: &mut BTreeSet<i32>) {
    let (sign, number) = line.split_at_checked(1).unwrap_or_default();
    let Ok(session) = number.parse::<i32>() else { return };
    match sign {
        "+" => sessions.insert(session),
        "-" => sessions.remove(&session),
        _ => false,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_come_and_go_and_nonsense_is_ignored() {
        let mut sessions = BTreeSet::new();
        for line in ["+12", "+13", "-12", "", "+", "+x", "x13", "é1"] {
            apply(line, &mut sessions);
        }

        assert_eq!(sessions, BTreeSet::from([13]));
    }
}
