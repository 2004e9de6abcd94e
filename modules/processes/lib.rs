//! `processes`: which processes run, whose they are, which program each of them really is, and what it has open.
//!
//! ```text
//!  parameters.rs ─► search.rs ─► answer.rs
//!                     │  process.rs reads one process as it was at one moment
//!                     │    └─► stat.rs, executable.rs, container.rs; procfs.rs reads the files
//!                     └─► credentials.rs, open_files.rs, sockets.rs, libraries.rs, digest.rs   of what matches
//! ```

pub mod answer;
pub mod container;
pub mod credentials;
pub mod digest;
pub mod executable;
pub mod libraries;
pub mod mounts;
pub mod open_files;
pub mod parameters;
pub mod process;
pub mod procfs;
pub mod remote;
pub mod search;
pub mod sockets;
pub mod stat;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use vigie_sdk::{ModuleResult, Query, StandardModule, privacy};

pub use self::answer::masked_form;
use self::parameters::Parameters;
use self::search::Outcome;

/// The module.
pub struct Processes;

impl StandardModule for Processes {
    const NAME: &'static str = "processes";

    fn run(query: &Query) -> ModuleResult {
        #[expect(clippy::disallowed_methods, reason = "a standard module runs in real time only")]
        let started_at = Instant::now();
        let parameters = match Parameters::from_query(query) {
            Ok(parameters) => parameters,
            Err(problems) => return ModuleResult::rejected(problems),
        };
        let (parameters, found) = (Arc::new(parameters), Arc::<Mutex<Outcome>>::default());
        let answer = {
            let (parameters, found) = (Arc::clone(&parameters), Arc::clone(&found));
            let (private, asked) = (query.extraprivacy, query.parameters.clone());
            move || {
                let mut outcome = std::mem::take(&mut *search::locked(&found));
                outcome.finish(&parameters);
                let mut result = answer::answer(&parameters, &outcome, private, started_at.elapsed());
                if private {
                    privacy::mask_errors(&mut result, &privacy::Asked::of(asked.as_deref()));
                }
                result
            }
        };
        let kept = query.keep(answer.clone());
        match search::search(&parameters, query, &found) {
            Ok(()) => kept.answer(answer),
            Err(error) => ModuleResult::failed([format!("processes cannot be listed in /proc: {error}")]),
        }
    }
}
