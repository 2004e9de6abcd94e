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

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use vigie_host::mounts::Mounts;
use vigie_sdk::{ModuleResult, Query, StandardModule, privacy};

pub use self::answer::masked_form;
use self::namespaces::Elsewhere;
use self::parameters::Parameters;
use self::processes::OwnersSoFar;
use self::search::{Backend, SoFar};

/// The module.
pub struct Netstat;

impl StandardModule for Netstat {
    const NAME: &'static str = "netstat";

    fn run(query: &Query) -> ModuleResult {
        run_with(query, &Backend::Kernel)
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
    let (parameters, found) = (Arc::new(parameters), Arc::<Found>::default());
    let answer = {
        let (parameters, found) = (Arc::clone(&parameters), Arc::clone(&found));
        let (private, asked) = (query.extraprivacy, query.parameters.clone());
        move || {
            let mut result = found.answer(&parameters, private, started_at.elapsed());
            if private {
                privacy::mask_errors(&mut result, &privacy::Asked::of(asked.as_deref()));
            }
            result
        }
    };
    let kept = query.keep(answer.clone());
    let stop = || query.is_stopped();
    let elsewhere = look_elsewhere(&parameters, backend);
    std::thread::scope(|scope| {
        if parameters.wants_owners() {
            scope.spawn(|| {
                if let Err(error) = found.owners.read(&stop) {
                    found.search.add_problem(format!("processes cannot be listed in /proc: {error}"));
                }
            });
        }
        search::search(&parameters, backend, &stop, &found.search);
    });
    if let Some(elsewhere) = elsewhere {
        found.search.note_elsewhere(elsewhere.recv_timeout(TIME_ELSEWHERE).unwrap_or_else(|_| Elsewhere {
            known: 0,
            unknown: Some("a process does not respond".to_owned()),
        }));
    }
    if parameters.cross_view {
        search::compare_with_owners(&found.search, &stop);
    }
    kept.answer(answer)
}

/// Longest wait for how many other network namespaces there are, once the own one is searched: to look takes
/// milliseconds, unless a process does not respond.
const TIME_ELSEWHERE: Duration = Duration::from_secs(2);

/// Counts the other network namespaces beside the search, when the question is about the own one.
fn look_elsewhere(parameters: &Parameters, backend: &Backend) -> Option<mpsc::Receiver<Elsewhere>> {
    if parameters.namespaces || !parameters.asks() || !matches!(backend, Backend::Kernel) {
        return None;
    }
    let (sender, receiver) = mpsc::channel();
    // A thread that is held ends with the query's process.
    std::thread::spawn(move || {
        let own = namespaces::own_name();
        let look = |own: String| namespaces::elsewhere(&own, Path::new("/proc"), Mounts::read());
        sender.send(own.map_or_else(Elsewhere::from, look))
    });
    Some(receiver)
}

/// What was found so far.
#[derive(Default)]
struct Found {
    search: SoFar,
    owners: OwnersSoFar,
}

impl Found {
    fn answer(&self, parameters: &Parameters, private: bool, elapsed: Duration) -> ModuleResult {
        let mut outcome = self.search.take();
        let owners = parameters.wants_owners().then(|| self.owners.take());
        if let Some(owners) = owners.as_ref().filter(|_| !parameters.owners.is_empty()) {
            outcome.keep(|inode| owners.of(inode).any(|process| parameters.owners.matches(process)));
            if owners.hidden > 0 {
                outcome.problems.push(format!(
                    "{} processes could not be read: the owners of their sockets are unknown",
                    owners.hidden
                ));
            }
            if owners.stopped {
                outcome
                    .problems
                    .push("the owners of some sockets are unknown: not all processes were read".to_owned());
            }
        }
        answer::answer(parameters, &outcome, owners.as_ref(), private, elapsed)
    }
}
