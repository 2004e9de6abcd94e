//! `vigie fleet …`, and what `query -t` and `alerts -t` share with it.

mod admission_desk;
pub(crate) mod alerts;
mod answers;
mod approve;
pub(crate) mod ask;
mod audit;
mod backup;
pub(crate) mod cli;
mod config_file;
mod doctor;
mod enrol;
mod files;
mod forward;
mod forwarder;
mod inventory;
mod investigator;
mod join;
mod leaf;
mod list;
mod load;
pub(crate) mod options;
mod pins;
mod policy;
mod profile;
mod publish;
mod results;
mod setup;
mod sign;
mod standing;
mod token;
mod up;
mod verify;
mod view;

use cli::{FleetArgs, FleetCommand};
use profile::Profile;

use crate::exit::{Exit, Failure};
use crate::print::Printer;

/// Carries out `fleet`.
pub(crate) fn run(args: &FleetArgs, printer: &mut Printer) -> Result<Exit, Failure> {
    let profile = || Profile::load(args.fleet.as_deref());
    match &args.command {
        FleetCommand::Agents(options) => list::run(options, &profile()?, printer),
        FleetCommand::Results(options) => results::run(options, &profile()?, printer),
        FleetCommand::Up(up) => up::run(up, printer),
        FleetCommand::Init(init) => setup::run(init, printer),
        FleetCommand::Doctor => doctor::run(&profile()?, printer),
        FleetCommand::Audit(options) => audit::run(options, &profile()?, printer),
        FleetCommand::Backup(options) => backup::backup(options, &profile()?, printer),
        FleetCommand::Restore(options) => backup::restore(options, &profile()?, printer),
        FleetCommand::Keygen { file } => enrol::keygen(file, printer),
        FleetCommand::Investigator(command) => investigator::run(command, &profile()?, printer),
        FleetCommand::Forward(options) => forward::run(options, &profile()?, printer),
        FleetCommand::Forwarder(command) => forwarder::run(command, &profile()?, printer),
        FleetCommand::Leaf(command) => leaf::run(command, &profile()?, printer),
        FleetCommand::Token(command) => token::run(command, profile, printer),
        FleetCommand::Join(join) => join::run(join, printer),
        FleetCommand::Pending => approve::pending(&profile()?, printer),
        FleetCommand::Approve(options) => approve::approve(options, &profile()?, printer),
        FleetCommand::Deny(options) => approve::deny(options, &profile()?, printer),
        FleetCommand::Enrol(enrolment) => enrol::run(enrolment, &profile()?, printer),
        FleetCommand::Revoke { agents } => enrol::revoke(agents, &profile()?, printer),
        FleetCommand::Policy(command) => policy::run(command, profile, printer),
        FleetCommand::Standing(command) => standing::run(command, &profile()?, printer),
        FleetCommand::Sign(options) => sign::run(options, &profile()?, printer),
        FleetCommand::Verify { file, policy } => verify::run(file, policy.as_deref(), &profile()?, printer),
        FleetCommand::Send { file, group } => publish::run(file, group.as_ref(), &profile()?, printer),
    }
}
