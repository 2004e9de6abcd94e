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
    /// Make a group: its login for the broker, and its place among the alerts
    #[command(after_help = "\
Examples:
  vigie fleet forwarder add siem
  vigie fleet forwarder add chat --new

Give the directory that it writes to whoever runs `vigie fleet forward`, on as many hosts as shall share
the work. The login reads alerts and what proves them, and nothing else. Takes an administrator's file.")]
    Add {
        /// The group's name
        #[arg(value_name = "NAME")]
        name: AgentId,
        /// Begin with what comes from now on, not with the oldest alert that the broker has
        #[arg(long)]
        new: bool,
    },

    /// End a group: its login and its place
    #[command(after_help = "\
Examples:
  vigie fleet forwarder remove siem

Takes an administrator's file.")]
    Remove {
        /// The group's name
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
    "see that the broker runs and can be reached, and that this is an administrator's file";

fn add(
    name: &AgentId,
    new: bool,
    directory: &Path,
    profile: &Profile,
    printer: &mut Printer,
) -> Result<Exit, Failure> {
    let own = directory.join(name.as_str());
    if own.exists() {
        let message = format!("{} is there already", own.display());
        return Err(Failure::new(Exit::Usage, message, "nothing is overwritten; take another name"));
    }
    let begin = if new { Begin::New } else { Begin::Oldest };
    files::block_on(async {
        let (connection, _events) = profile.connect().await?;
        consumer::ensure(&connection.client, name, begin)
            .await
            .map_err(|error| failed(Exit::Unavailable, UNREACHABLE)(&error))
    })?;
    let authority = load_or_create_authority(directory)
        .map_err(|error| failed(Exit::Config, "do it where the keys of the broker lie")(&error))?;
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
            "give {} to whoever runs: vigie fleet forward --fleet {} --sink CONFIG",
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
