//! `packages`: which packages are installed, in which versions, whose a file is, and whether files are as their
//! packages brought them.
//!
//! ```text
//!  parameters.rs ─► search.rs ─► answer.rs
//!                     │  reads the databases (crates/packagedb)
//!                     └─► verify.rs ─► norm.rs, capabilities.rs, remembered.rs
//! ```

pub mod answer;
pub mod capabilities;
pub mod norm;
pub mod parameters;
pub mod remembered;
pub mod search;
pub mod verify;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use vigie_protocol::message::STATE_DIR_VARIABLE;
use vigie_sdk::{ModuleResult, Query, StandardModule, privacy};
use vigie_tree::Root;

pub use self::answer::masked_form;
use self::parameters::Parameters;
use self::search::SoFar;
use self::verify::{Verification, Verified};

/// The module.
pub struct Packages;

impl StandardModule for Packages {
    const NAME: &'static str = "packages";

    fn run(query: &Query) -> ModuleResult {
        let state_dir = std::env::var_os(STATE_DIR_VARIABLE).map(PathBuf::from);
        run_at(query, Path::new("/"), state_dir.as_deref())
    }
}

/// Answers a query about the packages below a root directory. Digests are remembered in `state_dir`.
#[must_use]
pub fn run_at(query: &Query, root: &Path, state_dir: Option<&Path>) -> ModuleResult {
    #[expect(clippy::disallowed_methods, reason = "a standard module runs in real time only")]
    let started_at = Instant::now();
    let parameters = match Parameters::from_query(query) {
        Ok(parameters) => parameters,
        Err(problems) => return ModuleResult::rejected(problems),
    };
    let (parameters, found) = (Arc::new(parameters), Arc::<SoFar>::default());
    let verification = Arc::<OnceLock<Verification>>::default();
    let answer = {
        let (parameters, found, verification) =
            (Arc::clone(&parameters), Arc::clone(&found), Arc::clone(&verification));
        let (private, asked) = (query.extraprivacy, query.parameters.clone());
        move |errors: Vec<String>| {
            let unverified = || Verified { stopped: true, ..Verified::default() };
            let verified = parameters.verify.then(|| {
                let verified = verification.get().map_or_else(unverified, Verification::take);
                Verified { errors, ..verified }
            });
            let outcome = found.outcome();
            let mut result =
                answer::answer(&parameters, &outcome, verified.as_ref(), private, started_at.elapsed());
            if private {
                privacy::mask_errors(&mut result, &privacy::Asked::of(asked.as_deref()));
            }
            result
        }
    };
    let so_far = answer.clone();
    let kept = query.keep(move || so_far(Vec::new()));
    let databases = match Root::open(parameters.root.as_deref().unwrap_or(root)) {
        Ok(databases) => databases,
        Err(error) => return ModuleResult::failed([format!("the root cannot be read: {error}")]),
    };
    search::search(&parameters, &databases, query, &found);
    let mut errors = Vec::new();
    if parameters.verify {
        // Who made an image chose all by which a file of this host is known again.
        let state_dir = state_dir.filter(|_| parameters.root.is_none());
        let verification = verification
            .get_or_init(|| Verification::new(found.outcome(), &databases, state_dir, parameters.full));
        errors = verification.run(query);
    }
    kept.answer(|| answer(errors))
}
