//! `vigie fleet …`, and what `query -t` and `alerts -t` share with it.

pub(crate) mod cli;
mod enrol;
mod files;
mod policy;
pub(crate) mod profile;
pub(crate) mod publish;
mod setup;
pub(crate) mod sign;
mod up;
mod verify;

use cli::{FleetArgs, FleetCommand};
use profile::Profile;

use crate::exit::{Exit, Failure};
use crate::print::Printer;

/// Carries out `fleet`.
pub(crate) fn run(args: &FleetArgs, printer: &mut Printer) -> Result<Exit, Failure> {
    let profile = || Profile::load(args.fleet.as_deref());
    match &args.command {
        FleetCommand::Up(up) => up::run(up, printer),
        FleetCommand::Init(init) => setup::run(init, printer),
        FleetCommand::Keygen { file } => enrol::keygen(file, printer),
        FleetCommand::Enrol(enrolment) => enrol::run(enrolment, &profile()?, printer),
        FleetCommand::Revoke { agents } => enrol::revoke(agents, &profile()?, printer),
        FleetCommand::Policy(command) => policy::run(command, profile, printer),
        FleetCommand::Sign(options) => sign::run(options, &profile()?, printer),
        FleetCommand::Verify { file, policy } => verify::run(file, policy.as_deref(), &profile()?, printer),
        FleetCommand::Send { file, group } => publish::run(file, group.as_ref(), &profile()?, printer),
    }
}
