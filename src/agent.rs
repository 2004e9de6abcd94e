//! Runs the agent.

use std::path::Path;
use std::process::ExitCode;

use vigie_actors::config::ConfigProblem;

use crate::check_config::Checked;
use crate::cli::AgentArgs;
use crate::exit::Exit;

/// Runs the agent until it is told to stop.
pub(crate) fn run(_args: &AgentArgs) -> ExitCode {
    crate::print::note("this program was built without the agent");
    Exit::Internal.into()
}

/// Reads a configuration as the agent does.
pub(crate) fn load_config(path: Option<&Path>) -> Result<Checked, Vec<ConfigProblem>> {
    Err(vec![ConfigProblem {
        file: path.unwrap_or(Path::new("vigie.toml")).to_owned(),
        line: None,
        key: None,
        message: "this program was built without the agent".to_owned(),
    }])
}
