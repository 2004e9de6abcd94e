//! `accounts`: users and groups, who may become root, which keys log in, and who was here.
//!
//! ```text
//!  parameters.rs ─► gather.rs ─► answer.rs
//!                     ├─ files.rs                    passwd, shadow, group, gshadow
//!                     ├─ sudoers.rs ─► sudoers/syntax.rs   rules with aliases, includes and tags worked out
//!                     ├─ keys.rs                     authorized_keys, sshd_config
//!                     └─ logins.rs                   utmp, wtmp, lastlog, sessions
//! ```

mod answer;
pub mod files;
mod gather;
pub mod keys;
pub mod logins;
mod parameters;
pub mod sudoers;

use std::sync::Arc;
use std::time::Instant;

use vigie_sdk::protocol::Progress;
use vigie_sdk::{ModuleResult, Query, StandardModule};
use vigie_tree::Tree;

pub use self::answer::masked_form;
use self::gather::SoFar;
use self::parameters::Parameters;

const SECONDS_OF_A_DAY: i64 = 86_400;

/// The module.
#[derive(Debug)]
pub struct Accounts;

impl StandardModule for Accounts {
    const NAME: &'static str = "accounts";

    fn run(query: &Query) -> ModuleResult {
        #[expect(clippy::disallowed_methods, reason = "a standard module runs in real time only")]
        let started_at = Instant::now();
        let parameters = match Parameters::from_query(query) {
            Ok(parameters) => parameters,
            Err(problems) => return ModuleResult::rejected(problems),
        };
        let (parameters, so_far) = (Arc::new(parameters), Arc::<SoFar>::default());
        let kept = {
            let (parameters, so_far, private) =
                (Arc::clone(&parameters), Arc::clone(&so_far), query.extraprivacy);
            query.keep(move || answer::answer(so_far.gathered(&parameters), private, started_at.elapsed()))
        };
        let tree = match Tree::open(parameters.root()) {
            Ok(tree) => tree,
            Err(error) => return ModuleResult::failed([format!("the root cannot be read: {error}")]),
        };
        let stop = |examined| {
            query.report(|| Progress { done: examined, unit: "files".to_owned(), ..Progress::default() });
            query.is_stopped()
        };
        let today = jiff::Timestamp::now().as_second().div_euclid(SECONDS_OF_A_DAY);
        gather::gather(&tree, &parameters, today, &stop, &so_far);
        kept.answer(|| answer::answer(so_far.gathered(&parameters), query.extraprivacy, started_at.elapsed()))
    }
}
