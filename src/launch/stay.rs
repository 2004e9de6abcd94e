//! The launcher that stays above its module where no cgroup holds the module's processes.
//!
//! As a subreaper (PR_SET_CHILD_SUBREAPER(2const)) it becomes the parent of whatever the module leaves behind, in
//! whichever session that is: a process that daemonised twice too. It kills all of that when the module has ended, when
//! the agent says so ([`KILL_ALL`]) and when the agent dies, and only then ends itself, in the way in which the module
//! ended. So the agent starts no second copy beside a first one that lives on. It stays above the program of a sink
//! `command` in the same way.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::prctl::{set_child_subreaper, set_pdeathsig};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, getpid};
use vigie_actors::child::KILL_ALL;

use super::{LaunchError, LaunchOptions, check_parent, new_session, system};
use crate::agent::OWN_PROGRAM;

/// Signals to which the launcher does nothing: those that end the module reach it directly, as a member of the group.
const FOR_THE_MODULE: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR2, Signal::SIGALRM];

/// Starts the module below this process and returns how it ended, when nothing of it is left.
pub(super) fn run(options: &LaunchOptions) -> Result<WaitStatus, LaunchError> {
    new_session()?;
    let mut awaited = SigSet::from_iter(FOR_THE_MODULE);
    awaited.add(KILL_ALL);
    awaited.add(Signal::SIGCHLD);
    awaited.thread_block().map_err(system("block signals"))?;
    set_pdeathsig(KILL_ALL).map_err(system("ask for the death signal"))?;
    set_child_subreaper(true).map_err(system("become a subreaper"))?;
    check_parent(options)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(system("set a limit"))?;
    let module = start_below(options)?;
    let_go_of_pipes()?;
    wait(module, &awaited)
}

/// Runs the launcher once more, as this one's child: it sets limits and user, and becomes the module.
fn start_below(options: &LaunchOptions) -> Result<Pid, LaunchError> {
    let mut command = Command::new(OWN_PROGRAM);
    command.arg0("vigie").args(["launch", "--below-launcher", "--parent", &getpid().to_string()]);
    if let Some(user) = &options.user {
        command.arg("--user").arg(user);
    }
    if options.new_privileges {
        command.arg("--new-privileges");
    }
    for (flag, value) in [
        ("--memory-bytes", options.memory_bytes),
        ("--open-files", options.open_files),
        ("--nice", options.nice.map(|nice| u64::from(nice.unsigned_abs()))),
    ] {
        if let Some(value) = value {
            command.arg(flag).arg(value.to_string());
        }
    }
    command.arg("--").args(&options.command);
    // Nothing that the agent inherited stays open here either.
    close_fds::set_fds_cloexec(3, &[]);
    let child =
        command.spawn().map_err(|source| LaunchError::System { action: "start a process", source })?;
    // It is reaped with all the others, by number.
    Ok(Pid::from_raw(child.id().cast_signed()))
}

/// Only the module holds the pipes to the agent: when it closes one, the agent sees that.
fn let_go_of_pipes() -> Result<(), LaunchError> {
    let nothing = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(|source| LaunchError::System { action: "open /dev/null", source })?;
    dup2_stdin(&nothing)
        .and_then(|()| dup2_stdout(&nothing))
        .and_then(|()| dup2_stderr(&nothing))
        .map_err(system("let go of the pipes"))
}

fn wait(module: Pid, awaited: &SigSet) -> Result<WaitStatus, LaunchError> {
    loop {
        let ended = reap(module, WaitPidFlag::WNOHANG);
        if let Some(status) = ended {
            end_all(module);
            return Ok(status);
        }
        if awaited.wait().map_err(system("wait for a signal"))? == KILL_ALL {
            return Ok(end_all(module).unwrap_or(WaitStatus::Signaled(module, Signal::SIGKILL, false)));
        }
    }
}

/// Reaps what has ended; returns how the module ended if it is among that.
fn reap(module: Pid, how: WaitPidFlag) -> Option<WaitStatus> {
    let mut found = None;
    loop {
        match waitpid(None, Some(how)) {
            Ok(status @ (WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..))) if pid == module => {
                found = Some(status);
            }
            Ok(WaitStatus::StillAlive) => return found,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return found,
        }
        if !how.contains(WaitPidFlag::WNOHANG) {
            return found;
        }
    }
}

/// Kills everything below this process until there is nothing; returns how the module ended if it was among that. What
/// a process leaves when it is killed becomes a child of this one and is killed in the next round.
fn end_all(module: Pid) -> Option<WaitStatus> {
    let mut found = None;
    loop {
        let children = children();
        if children.is_empty() {
            return found;
        }
        for child in children {
            // A child that is not reaped: its number is nobody else's.
            nix::sys::signal::kill(child, Signal::SIGKILL).ok();
        }
        found = reap(module, WaitPidFlag::empty()).or(found);
    }
}

/// Children of this process. It has one thread.
fn children() -> Vec<Pid> {
    let own = getpid();
    let path = format!("/proc/self/task/{own}/children");
    match fs::read_to_string(path) {
        Ok(text) => text.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect(),
        // A kernel without CONFIG_PROC_CHILDREN.
        Err(_) => all_processes().filter(|pid| parent_of(*pid) == Some(own)).collect(),
    }
}

fn all_processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw)
}

/// proc_pid_stat(5): the parent is the second field after the name, which is in parentheses and can hold anything.
fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    let (_, after) = stat.rsplit_once(')')?;
    after.split_whitespace().nth(1)?.parse().ok().map(Pid::from_raw)
}

/// Ends as the module did; returns the exit code where that was no signal.
pub(super) fn end_like(status: WaitStatus) -> u8 {
    match status {
        WaitStatus::Exited(_, code) => u8::try_from(code).unwrap_or(u8::MAX),
        WaitStatus::Signaled(_, by, _) => {
            SigSet::from(by).thread_unblock().ok();
            for _ in 0..2 {
                // The runtime's own handler for bad memory accesses passes the first one by.
                raise(by).ok();
            }
            // What the runtime ignores (SIGPIPE), told as shells do.
            u8::try_from(128 + by as i32).unwrap_or(u8::MAX)
        }
        _ => u8::MAX,
    }
}
