//! Finds the packages that are asked for.

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
#[derive(Debug, Default)]
pub struct Outcome {
    /// The packages, by manager and in the order of its database.
    pub found: Vec<Found>,
    /// The managers whose databases there are.
    pub managers: Vec<Manager>,
    /// Packages that were looked at.
    pub examined: u64,
    /// What could not be read.
    pub unread: Vec<Unread>,
    /// The search was stopped before its end.
    pub stopped: bool,
}

struct Searcher<'a> {
    parameters: &'a Parameters,
    query: &'a Query,
    aliases: Aliases,
    /// The paths that are asked for, without links in their beginning, sorted, with their places.
    paths: Vec<(Vec<u8>, usize)>,
    outcome: Outcome,
}

/// Searches the databases below a root directory.
#[must_use]
pub fn search(parameters: &Parameters, root: &Root, query: &Query) -> Outcome {
    let aliases = Aliases::of(root);
    let mut paths: Vec<_> =
        parameters.paths.iter().map(|path| aliases.resolve(path).into_owned()).zip(0..).collect();
    paths.sort();
    let outcome = Outcome { managers: installed::managers(root), ..Outcome::default() };
    let mut searcher = Searcher { parameters, query, aliases, paths, outcome };
    for manager in searcher.outcome.managers.clone() {
        if parameters.wants_manager(manager) {
            let unread = installed::visit(root, manager, &mut searcher);
            searcher.outcome.unread.extend(unread);
        }
    }
    searcher.outcome
}

impl Searcher<'_> {
    fn needs_files(&self) -> bool {
        self.parameters.verify || self.parameters.files || !self.paths.is_empty()
    }
}

impl Visitor for Searcher<'_> {
    fn want(&mut self, manager: Manager, package: &Package) -> Want {
        if self.query.is_stopped() {
            self.outcome.stopped = true;
            return Want::Nothing;
        }
        self.outcome.examined += 1;
        self.query.report(|| Progress {
            done: self.outcome.examined,
            found: Some(self.outcome.found.len() as u64),
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
        self.outcome.found.push(Found { manager, package, files, owns });
    }
}
