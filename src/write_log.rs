//! `vigie write-log`: the process that writes the agent's log file; see [`vigie_log::writer`]. Only the agent starts it.

use std::ffi::OsString;
use std::os::fd::AsFd as _;
use std::process::ExitCode;

use vigie_log::writer;

use crate::exit::{Exit, Failure};
use crate::print;

/// Writes until the agent is gone.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    let Some(section) = writer::section_of(arguments) else {
        print::failure(&Failure::new(Exit::Usage, "only the agent starts this command", ""));
        return Exit::Usage.into();
    };
    let agent = std::io::stdin().as_fd().try_clone_to_owned();
    match agent.and_then(|agent| writer::serve(&section, &agent)) {
        Ok(()) => Exit::Ok.into(),
        Err(_) => Exit::Io.into(),
    }
}
