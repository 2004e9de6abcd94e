//! The agent's helper `guard`.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::exit::Exit;

/// Carries out `guard`.
pub(crate) fn run(_arguments: &[OsString]) -> ExitCode {
    crate::print::note("this program was built without the agent");
    Exit::Internal.into()
}
