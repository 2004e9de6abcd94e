//! `vigie fleet forwarder`: programs that pass alerts on. Each name is a group at the broker with a place of its own.

use std::path::Path;

use clap::Subcommand;
use vigie_fleet::broker::consumer::{self, Begin};
use vigie_fleet::broker::jwt::Role;
use vigie_fleet::broker::local::load_or_create_authority;
use vigie_protocol::names::AgentId;

use super::files::{self, failed};
use super::investigator::end_login;
use super::profile::Profile;
use super::setup::{self, Person};
use super::token;
use crate::exit::{Exit, Failure};
use crate::print::Printer;

/// `fleet forwarder`
#[derive(Debug, Subcommand)]
pub(crate) enum ForwarderCommand {
    /// Add a group: create its credentials and its consumer on the broker
    #[command(after_help = "\
Examples:
  vigie fleet forwarder add siem
  vigie fleet forwarder add chat --new

Copy the output directory to each host that runs `vigie fleet forward` for this group. The credentials allow
only reading alerts and the records that prove them. Requires an administrator's fleet file.")]
    Add {
        /// Name of the group
        #[arg(value_name = "NAME")]
        name: AgentId,
        /// Start with new alerts instead of the oldest stored alert
        #[arg(long)]
        new: bool,
    },

    /// Remove a group: its credentials and its consumer
    #[command(after_help = "\
Examples:
  vigie fleet forwarder remove siem

Requires an administrator's fleet file.")]
    Remove {
        /// Name of the group
        #[arg(value_name = "NAME")]
        name: AgentId,
    },
}

/// Carries out `fleet forwarder`.
pub(super) fn run(
    command: &ForwarderCommand,
    profile: &Profile,
    printer: &mut Printer,
) -> Result<Exit, Failure> {
    let directory = profile.authority()?;
    match command {
        ForwarderCommand::Add { name, new } => add(name, *new, directory, profile, printer),
        ForwarderCommand::Remove { name } => remove(name, directory, profile, printer),
    }
}

const UNREACHABLE: &str =
    "check that the broker is running and reachable, and that this is an administrator's fleet file";

fn add(
    name: &AgentId,
    new: bool,
    directory: &Path,
    profile: &Profile,
    printer: &mut Printer,
) -> Result<Exit, Failure> {
    let own = directory.join(name.as_str());
    if own.exists() {
        let message = format!("{} already exists", own.display());
        return Err(Failure::new(
            Exit::Usage,
            message,
            "existing files are not overwritten; use another name",
        ));
    }
    let begin = if new { Begin::New } else { Begin::Oldest };
    files::block_on(async {
        let (connection, _events) = profile.connect().await?;
        consumer::ensure(&connection.client, name, begin)
            .await
            .map_err(|error| failed(Exit::Unavailable, UNREACHABLE)(&error))
    })?;
    let authority = load_or_create_authority(directory)
        .map_err(|error| failed(Exit::Config, "run it where the broker's keys are stored")(&error))?;
    files::directory(&own)?;
    let now = files::now();
    setup::credentials(&authority, Role::Forwarder, name, &own, now)?;
    let tls = profile.tls().ca.is_some();
    if let (Some(ca), Some(certificates)) = (&profile.tls().ca, token::authority(profile)?) {
        setup::give_certificate(&certificates, &files::read(ca, 1 << 20)?, name.as_str(), &own, now)?;
    }
    let person = Person { org: profile.org.as_str(), urls: profile.urls(), roots: &profile.roots, tls };
    let file = own.join("fleet.toml");
    files::create(&file, &person.forwarder(name.as_str()))?;
    if printer.is_json() {
        printer.json(&serde_json::json!({"forwarder": name, "file": file}))?;
    } else {
        printer.line(&format!(
            "copy {} to the hosts that run: vigie fleet forward --fleet {} --sink CONFIG",
            own.display(),
            file.display()
        ))?;
    }
    Ok(Exit::Ok)
}

fn remove(
    name: &AgentId,
    directory: &Path,
    profile: &Profile,
    printer: &mut Printer,
) -> Result<Exit, Failure> {
    // First the login: whoever still has it gets nothing while the rest goes on.
    let shut_out = end_login(name, directory, profile)?;
    files::block_on(async {
        let (connection, _events) = profile.connect().await?;
        consumer::remove(&connection.client, name)
            .await
            .map_err(|error| failed(Exit::Unavailable, UNREACHABLE)(&error))
    })?;
    if printer.is_json() {
        printer.json(&serde_json::json!({"forwarder": name, "shut_out": shut_out}))?;
    } else {
        printer.line(&format!("{name} receives no more alerts"))?;
    }
    Ok(Exit::Ok)
}
