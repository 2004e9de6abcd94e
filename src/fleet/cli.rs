//! The command line of `vigie fleet`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::list::AgentsArgs;
use super::results::ResultsArgs;

/// `fleet`
#[derive(Debug, Args)]
pub(crate) struct FleetArgs {
    /// The file that says which fleet and how to reach it [default: $VIGIE_FLEET, or ~/.config/vigie/fleet.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) fleet: Option<PathBuf>,

    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// What to do.
    #[command(subcommand)]
    pub(crate) command: FleetCommand,
}

/// What to do with a fleet.
#[derive(Debug, Subcommand)]
pub(crate) enum FleetCommand {
    /// List the agents
    #[command(after_help = "\
Examples:
  vigie fleet agents
  vigie fleet agents -t 'tag.env == \"prod\" && !(module has \"fswatch\")' --online
  vigie fleet agents --facts --json | jq .facts.kernel

What does not count is named: a record that no enrolled key sealed.")]
    Agents(AgentsArgs),

    /// Show the answers to what was asked before
    #[command(after_help = "\
Examples:
  vigie fleet results 5f0c…                what is there
  vigie fleet results 5f0c… --follow --wait all
  vigie fleet results 5f0c… --silent       who has not answered

Exit codes: 0 all answered, 3 some have not, 4 some failed or refused, or a message does not count.")]
    Results(ResultsArgs),
}
