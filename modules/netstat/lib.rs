//! `netstat`: answers who this host is connected to, what listens on it, and which addresses it and its
//! neighbours have.
//!
//! ```text
//!  parameters.rs ─► search.rs ─► answer.rs
//!                     │  in each network namespace (namespaces.rs)
//!                     ├─► sock_diag.rs ──► netlink.rs      sockets; proc_net.rs where that does not answer
//!                     ├─► rtnetlink.rs ──► netlink.rs      interfaces, addresses, neighbours
//!                     ├─► other.rs ──────► netlink.rs      Unix, raw and packet sockets
//!                     ├─► crossview.rs                     what one interface shows and another does not
//!                     └─► processes.rs                     who has a socket open
//! ```

pub mod address;
pub mod answer;
pub mod crossview;
pub mod namespaces;
pub mod netlink;
pub mod other;
pub mod parameters;
pub mod peer_program;
pub mod proc_net;
pub mod processes;
pub mod rtnetlink;
pub mod search;
pub mod sock_diag;
pub mod socket;

use std::time::Instant;

use vigie_sdk::{ModuleResult, Query, StandardModule, privacy};

pub use self::answer::masked_form;
use self::parameters::Parameters;
use self::search::Backend;

/// The module.
pub struct Netstat;

impl StandardModule for Netstat {
    const NAME: &'static str = "netstat";

    fn run(query: &Query) -> ModuleResult {
        let mut result = run_with(query, &Backend::Kernel);
        if query.extraprivacy {
            privacy::mask_errors(&mut result, &privacy::Asked::of(query.parameters.as_deref()));
        }
        result
    }
}

/// Answers a query with what one backend tells.
#[must_use]
pub fn run_with(query: &Query, backend: &Backend) -> ModuleResult {
    #[expect(clippy::disallowed_methods, reason = "a standard module runs in real time only")]
    let started_at = Instant::now();
    let parameters = match Parameters::from_query(query) {
        Ok(parameters) => parameters,
        Err(problems) => return ModuleResult::rejected(problems),
    };
    let stop = || query.is_stopped();
    let wants_owners = parameters.wants_owners();
    let (mut outcome, owners) = std::thread::scope(|scope| {
        let owners = wants_owners.then(|| scope.spawn(|| processes::owners(&stop)));
        let outcome = search::search(&parameters, backend, &stop);
        (outcome, owners.map(|owners| owners.join().expect("reading processes does not panic")))
    });
    let owners = owners.transpose().unwrap_or_else(|error| {
        outcome.problems.push(format!("processes cannot be listed in /proc: {error}"));
        None
    });
    if parameters.cross_view {
        search::compare_with_owners(&mut outcome, &stop);
    }
    if let Some(owners) = owners.as_ref().filter(|_| !parameters.owners.is_empty()) {
        outcome.keep(|inode| owners.of(inode).any(|process| parameters.owners.matches(process)));
        if owners.hidden > 0 {
            outcome.problems.push(format!(
                "{} processes could not be read: the owners of their sockets are unknown",
                owners.hidden
            ));
        }
    }
    answer::answer(&parameters, &outcome, owners.as_ref(), query.extraprivacy, started_at.elapsed())
}
