//! `vigie write-log` and `vigie write-files`: the processes that write the agent's files, see [`vigie_log::writer`] and
//! [`vigie_files::remote`]. Only the agent starts them.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;

use vigie_files::remote;
use vigie_log::writer;

use crate::exit::{Exit, Failure};
use crate::print;

/// Writes the log until the agent is gone.
pub(crate) fn write_log(arguments: &[OsString]) -> ExitCode {
    let Some(section) = writer::section_of(arguments) else { return not_for_people() };
    ended(agent().and_then(|agent| writer::serve(&section, &agent)))
}

/// Changes files until the agent is gone.
pub(crate) fn write_files(arguments: &[OsString]) -> ExitCode {
    let parent = arguments.first().and_then(|text| text.to_str()).and_then(|text| text.parse().ok());
    let Some(parent) = parent else { return not_for_people() };
    ended(agent().and_then(|agent| remote::serve(agent, parent)))
}

fn agent() -> io::Result<OwnedFd> {
    io::stdin().as_fd().try_clone_to_owned()
}

fn ended(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => Exit::Ok.into(),
        Err(_) => Exit::Io.into(),
    }
}

fn not_for_people() -> ExitCode {
    print::failure(&Failure::new(Exit::Usage, "only the agent starts this command", ""));
    Exit::Usage.into()
}
