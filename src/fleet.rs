//! `vigie fleet …`, and what `query -t` and `alerts -t` share with it.

pub(crate) mod alerts;
pub(crate) mod answers;
pub(crate) mod ask;
pub(crate) mod cli;
pub(crate) mod inventory;
pub(crate) mod list;
pub(crate) mod options;
mod pins;
pub(crate) mod profile;
pub(crate) mod publish;
pub(crate) mod results;
pub(crate) mod view;

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
    }
}

/// Runs a command of a client on this thread.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Internal, format!("cannot begin to work: {error}"), ""))?;
    Ok(runtime.block_on(work))
}

/// Random bytes of the system.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Without them no id could be trusted to be new.
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .expect("the kernel gives random bytes since it has booted");
    bytes
}
