//! `vigie launch`: makes a fresh process safe, then becomes the module, or stays above it ([`stay`]) where no cgroup
//! holds what the module starts. Programs of sinks, which have no cgroup, are started in the same way.
//!
//! It runs in the child instead of code between fork and exec in the agent: ordinary code in a process of its
//! own, which can use the whole standard library.

mod stay;

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use nix::sys::prctl::{set_no_new_privs, set_pdeathsig};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{User, getppid, initgroups, setgid, setsid, setuid};
use vigie_actors::child::LAUNCHER_SHORTAGE;
use vigie_actors::descriptors;
use vigie_protocol::error_chain::ErrorChain;

use crate::agent::OWN_PROGRAM;
use crate::exit::{Exit, Failure};
use crate::print;

/// Options of `vigie launch`.
#[derive(Debug, clap::Args)]
pub(crate) struct LaunchOptions {
    /// Process id of the agent: when it is no longer the parent, the module is not started.
    #[arg(long)]
    parent: i32,
    /// Directory of a control group that the module is put into; once for each hierarchy.
    #[arg(long)]
    cgroup: Vec<PathBuf>,
    /// Stay above the module and end what it leaves behind.
    #[arg(long)]
    stay: bool,
    /// This is the process that a launcher above starts.
    #[arg(long)]
    below_launcher: bool,
    /// Programs may gain privileges.
    #[arg(long)]
    new_privileges: bool,
    /// User to run as.
    #[arg(long)]
    user: Option<String>,
    /// Most address space in bytes.
    #[arg(long)]
    memory_bytes: Option<u64>,
    /// Most open files.
    #[arg(long)]
    open_files: Option<u64>,
    /// Niceness, 0 to 19.
    #[arg(long)]
    nice: Option<i32>,
    /// Program and arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// What could not be done.
#[derive(Debug, thiserror::Error)]
enum LaunchError {
    #[error("cannot {action}")]
    System {
        action: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("user {0:?} is unknown")]
    UnknownUser(String),
    #[error("the agent has ended")]
    AgentGone,
}

fn system(action: &'static str) -> impl Fn(nix::errno::Errno) -> LaunchError {
    move |errno| LaunchError::System { action, source: errno.into() }
}

/// Runs the command; returns only when that fails.
pub(crate) fn run(options: &LaunchOptions) -> ExitCode {
    if options.stay {
        return match stay::run(options) {
            Ok(status) => stay::end_like(status).into(),
            Err(LaunchError::System { source, .. }) if descriptors::is_shortage(&source) => {
                u8::try_from(LAUNCHER_SHORTAGE).unwrap_or(u8::MAX).into()
            }
            Err(error) => {
                let failure = Failure::new(Exit::CannotExecute, ErrorChain(&error).to_string(), "");
                print::failure(&failure);
                failure.exit.into()
            }
        };
    }
    let failure = match prepare(options) {
        Ok(()) => execute(options),
        Err(error) => Failure::new(Exit::CannotExecute, ErrorChain(&error).to_string(), ""),
    };
    print::failure(&failure);
    failure.exit.into()
}

fn execute(options: &LaunchOptions) -> Failure {
    let Some((program, arguments)) = options.command.split_first() else {
        return Failure::new(Exit::CannotExecute, "there is no program to run", "");
    };
    // Nothing that the agent inherited reaches the module.
    close_fds::set_fds_cloexec(3, &[]);
    // The launcher above blocks signals, and neither `spawn` nor `exec` of the standard library undoes that.
    if let Err(errno) = SigSet::all().thread_unblock() {
        return Failure::new(Exit::CannotExecute, format!("cannot unblock signals: {errno}"), "");
    }
    // Also resets SIGPIPE, which Rust's runtime ignores.
    let error = Command::new(program).arg0(shown_as(program)).args(arguments).exec();
    let exit =
        if error.kind() == std::io::ErrorKind::NotFound { Exit::NotFound } else { Exit::CannotExecute };
    Failure::new(
        exit,
        format!("cannot run {program:?}: {error}"),
        "check the module's command in the configuration",
    )
}

/// The name under which the module is seen in a list of processes.
fn shown_as(program: &OsString) -> &OsStr {
    if program == OWN_PROGRAM { OsStr::new("vigie") } else { program }
}

fn prepare(options: &LaunchOptions) -> Result<(), LaunchError> {
    if !options.below_launcher {
        new_session()?;
    }
    for cgroup in &options.cgroup {
        // A module outside of it would escape its limits, and the agent could not end what it leaves behind.
        std::fs::write(cgroup.join("cgroup.procs"), "0")
            .map_err(|source| LaunchError::System { action: "enter its control group", source })?;
    }
    for (resource, limit) in
        [(Resource::RLIMIT_AS, options.memory_bytes), (Resource::RLIMIT_NOFILE, options.open_files)]
    {
        if let Some(limit) = limit {
            setrlimit(resource, limit, limit).map_err(system("set a limit"))?;
        }
    }
    if let Some(nice) = options.nice {
        rustix::process::setpriority_process(None, nice)
            .map_err(|errno| LaunchError::System { action: "set the niceness", source: errno.into() })?;
    }
    if let Some(name) = &options.user {
        become_user(name)?;
    }
    if !options.new_privileges {
        set_no_new_privs().map_err(system("give up new privileges"))?;
    }
    // After the change of user, which clears it (PR_SET_PDEATHSIG(2const)).
    set_pdeathsig(Signal::SIGKILL).map_err(system("ask for the death signal"))?;
    check_parent(options)
}

/// A session of its own: signals to the agent's terminal or group do not reach the module, and one signal reaches the
/// module with its children.
fn new_session() -> Result<(), LaunchError> {
    setsid().map(drop).map_err(system("begin a session"))
}

/// The parent may have ended before the death signal was asked for.
fn check_parent(options: &LaunchOptions) -> Result<(), LaunchError> {
    if getppid().as_raw() == options.parent { Ok(()) } else { Err(LaunchError::AgentGone) }
}

fn become_user(name: &str) -> Result<(), LaunchError> {
    let user = User::from_name(name)
        .map_err(system("look up the user"))?
        .ok_or_else(|| LaunchError::UnknownUser(name.to_owned()))?;
    let c_name = std::ffi::CString::new(name).map_err(|_| LaunchError::UnknownUser(name.to_owned()))?;
    initgroups(&c_name, user.gid).map_err(system("take the user's groups"))?;
    setgid(user.gid).map_err(system("take the user's group"))?;
    setuid(user.uid).map_err(system("become the user"))
}
