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
use std::time::Instant;

use vigie_protocol::message::STATE_DIR_VARIABLE;
use vigie_sdk::{ModuleResult, Query, StandardModule, privacy};
use vigie_tree::Root;

pub use self::answer::masked_form;
use self::parameters::Parameters;

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
    let root = parameters.root.as_deref().unwrap_or(root);
    let databases = match Root::open(root) {
        Ok(databases) => databases,
        Err(error) => return ModuleResult::failed([format!("the root cannot be read: {error}")]),
    };
    let found = search::search(&parameters, &databases, query);
    let verified = parameters.verify.then(|| verify::verify(&found, root, state_dir, parameters.full, query));
    let mut result = answer::answer(&parameters, &found, verified.as_ref(), query, started_at.elapsed());
    if query.extraprivacy {
        privacy::mask_errors(&mut result, &privacy::Asked::of(query.parameters.as_deref()));
    }
    result
}
