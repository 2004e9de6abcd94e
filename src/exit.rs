//! What the exit codes mean.

use std::process::ExitCode;

/// How the program ended; the numbers above 63 are those of sysexits(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done; for `status`: healthy.
    Ok = 0,
    /// `status`: degraded or failed. `query`: the module answered that it did not succeed, or one of an action
    /// file's did. `console`: a command failed.
    NotWell = 1,
    /// `query`: nothing was found, and not everything was examined: it is not known whether there is anything.
    /// `doctor`: a check failed.
    NotKnown = 2,
    /// `status`: no agent is running. A question to the fleet: some agents have not answered.
    NotRunning = 3,
    /// A question to the fleet: some agents failed or refused, or a message does not count.
    SomeFailed = 4,
    /// The command line is wrong, or asks for something that does not exist.
    Usage = 64,
    /// The agent or a module cannot be reached.
    Unavailable = 69,
    /// A bug, or a reply that makes no sense.
    Internal = 70,
    /// Input or output failed.
    Io = 74,
    /// Another agent is running on the same directory.
    AlreadyRunning = 75,
    /// Not for this user.
    Permission = 77,
    /// The configuration is invalid.
    Config = 78,
    /// A module's program is there but cannot be run; as shells say it.
    CannotExecute = 126,
    /// A module's program is not there; as shells say it.
    NotFound = 127,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command was not carried out: what is wrong, what to do next, and the exit code that says so.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) exit: Exit,
    /// What is wrong.
    pub(crate) message: String,
    /// What to do next; may be empty.
    pub(crate) hint: String,
}

impl Failure {
    /// A failure with what to do about it.
    pub(crate) fn new(exit: Exit, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: hint.into() }
    }
}

/// Output that failed. A reader who went away, as `head` does, has all it wanted.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::new(Exit::Ok, "", "");
        }
        Self::new(Exit::Io, format!("cannot write the output: {error}"), "")
    }
}
