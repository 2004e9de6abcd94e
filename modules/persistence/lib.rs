//! `persistence`: everything that starts by itself on a host, and who explains it.
//!
//! ```text
//!  parameters.rs ─► scan.rs ──► explain.rs      who brought a file: packages, tools of the distribution, nobody
//!                     │          └─ difference.rs   which lines of it were changed
//!                     ├─ catalogue.rs ─► format.rs  patterns of files, and the lines in them that start something
//!                     ├─ follow.rs ─► includes.rs    lines that name further files
//!                     ├─ allowance.rs               what each account's files may cost
//!                     ├─ systemd.rs ─► unit.rs      units, drop-ins, links
//!                     ├─ accounts.rs, homes.rs      accounts, keys
//!                     ├─ special.rs, elf_cache.rs   programs, libraries, dpkg's own files, boot images
//!                     └─ live.rs                    what is loaded now; the walk over all files
//!                                                ─► record.rs ─► answer.rs
//! ```

mod accounts;
mod allowance;
mod answer;
mod catalogue;
mod difference;
mod elf_cache;
mod explain;
mod follow;
mod format;
mod homes;
mod includes;
mod live;
mod parameters;
mod record;
mod scan;
mod special;
mod systemd;
mod unit;

use std::sync::Arc;
use std::time::Instant;

use vigie_sdk::protocol::Progress;
use vigie_sdk::{ModuleResult, Query, StandardModule, privacy};
use vigie_tree::{Root, Tree};

pub use self::answer::masked_form;
use self::parameters::Parameters;
use self::scan::{Scan, SoFar};

/// The module.
#[derive(Debug)]
pub struct Persistence;

impl StandardModule for Persistence {
    const NAME: &'static str = "persistence";

    fn run(query: &Query) -> ModuleResult {
        run(query)
    }
}

fn run(query: &Query) -> ModuleResult {
    #[expect(clippy::disallowed_methods, reason = "a standard module runs in real time only")]
    let started_at = Instant::now();
    let parameters = match Parameters::from_query(query) {
        Ok(parameters) => parameters,
        Err(problems) => return ModuleResult::rejected(problems),
    };
    let so_far = Arc::<SoFar>::default();
    let answer = {
        let (private, asked) = (query.extraprivacy, query.parameters.clone());
        move |finished| {
            let mut result = answer::answer(finished, private, started_at.elapsed());
            if private {
                privacy::mask_errors(&mut result, &privacy::Asked::of(asked.as_deref()));
            }
            result
        }
    };
    let kept = {
        let (answer, so_far) = (answer.clone(), Arc::clone(&so_far));
        query.keep(move || answer(so_far.take()))
    };
    let opened = Tree::open(parameters.root()).and_then(|tree| Ok((tree, Root::open(parameters.root())?)));
    let (tree, root) = match opened {
        Ok(opened) => opened,
        Err(error) => return ModuleResult::failed([format!("the root cannot be read: {error}")]),
    };
    let stop = |examined, found: usize| {
        query.report(|| Progress {
            done: examined,
            found: Some(found as u64),
            unit: "files".to_owned(),
            ..Progress::default()
        });
        query.is_stopped()
    };
    let mut scan = Scan::new(&tree, &root, &parameters, &stop, &so_far);
    scan.run();
    kept.answer(|| answer(scan.finished()))
}
