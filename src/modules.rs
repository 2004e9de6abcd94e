//! The built-in modules.

use std::process::ExitCode;

use crate::exit::Exit;

/// Runs a persistent module on standard input and output.
pub(crate) fn persist(name: &str) -> ExitCode {
    crate::print::note(&format!("there is no persistent module {name:?}"));
    Exit::Usage.into()
}

/// Answers one query on standard input and output.
pub(crate) fn run(name: &str) -> ExitCode {
    crate::print::note(&format!("there is no module {name:?}"));
    Exit::Usage.into()
}
