//! Finds the packages that are asked for.

use std::sync::{Arc, Mutex, PoisonError};

use vigie_packagedb::installed::{self, FileRecord, Package, Unread, Visitor, Want};
use vigie_packagedb::owners::{Aliases, Manager};
use vigie_sdk::Query;
use vigie_sdk::protocol::Progress;
use vigie_tree::Root;

use crate::parameters::Parameters;

/// A package that was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Whose it is.
    pub manager: Manager,
    /// The package.
    pub package: Package,
    /// Its files; empty unless they are needed.
    pub files: Vec<FileRecord>,
    /// Which of the paths that were asked for are its own, by place.
    pub owns: Vec<usize>,
}

/// What a search came to.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The packages, by manager and in the order of its database.
    pub found: Vec<Found>,
    /// The managers whose databases there are.
    pub managers: Vec<Manager>,
    /// Packages that were looked at.
    pub examined: u64,
    /// What could not be read.
    pub unread: Vec<Unread>,
    /// The manager whose database is being read.
    pub reading: Option<Manager>,
    /// The search was stopped before its end.
    pub stopped: bool,
}

/// What was found so far, for whoever answers when the kernel holds the search.
#[derive(Debug, Default)]
pub struct SoFar(Mutex<Arc<Outcome>>);

impl SoFar {
    /// What was found until now.
    #[must_use]
    pub fn outcome(&self) -> Arc<Outcome> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Outcome) -> T) -> T {
        // Nobody else has it, but in the last moment of a search that is not waited for any more.
        change(Arc::make_mut(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

struct Searcher<'a> {
    parameters: &'a Parameters,
    query: &'a Query,
    aliases: Aliases,
    /// The paths that are asked for, without links in their beginning, sorted, with their places.
    paths: Vec<(Vec<u8>, usize)>,
    so_far: &'a SoFar,
}

/// Searches the databases below a root directory.
pub fn search(parameters: &Parameters, root: &Root, query: &Query, so_far: &SoFar) {
    let aliases = Aliases::of(root);
    let mut paths: Vec<_> =
        parameters.paths.iter().map(|path| aliases.resolve(path).into_owned()).zip(0..).collect();
    paths.sort();
    let managers = installed::managers(root);
    so_far.change(|outcome| outcome.managers.clone_from(&managers));
    let mut searcher = Searcher { parameters, query, aliases, paths, so_far };
    for manager in managers {
        if parameters.wants_manager(manager) {
            so_far.change(|outcome| outcome.reading = Some(manager));
            let unread = installed::visit(root, manager, &mut searcher);
            so_far.change(|outcome| {
                outcome.reading = None;
                outcome.unread.extend(unread);
            });
        }
    }
}

impl Searcher<'_> {
    fn needs_files(&self) -> bool {
        self.parameters.verify || self.parameters.files || !self.paths.is_empty()
    }
}

impl Visitor for Searcher<'_> {
    fn want(&mut self, manager: Manager, package: &Package) -> Want {
        if self.query.is_stopped() {
            self.so_far.change(|outcome| outcome.stopped = true);
            return Want::Nothing;
        }
        let (done, found) = self.so_far.change(|outcome| {
            outcome.examined += 1;
            (outcome.examined, outcome.found.len() as u64)
        });
        self.query.report(|| Progress {
            done,
            found: Some(found),
            unit: "packages".to_owned(),
            ..Progress::default()
        });
        match self.parameters.wants(manager, package) {
            false => Want::Nothing,
            true if self.needs_files() => Want::Files,
            true => Want::Package,
        }
    }

    fn take(&mut self, manager: Manager, package: Package, mut files: Vec<FileRecord>) {
        let mut owns = Vec::new();
        if !self.paths.is_empty() {
            for file in &files {
                let path = self.aliases.resolve(&file.path);
                let first = self.paths.partition_point(|(asked, _)| asked.as_slice() < &*path);
                let same = self.paths[first..].iter().take_while(|(asked, _)| asked.as_slice() == &*path);
                owns.extend(same.map(|(_, place)| *place));
            }
            if owns.is_empty() {
                return;
            }
            owns.sort_unstable();
            owns.dedup();
        }
        if !self.parameters.verify && !self.parameters.files {
            files = Vec::new();
        }
        self.so_far.change(|outcome| outcome.found.push(Found { manager, package, files, owns }));
    }
}
