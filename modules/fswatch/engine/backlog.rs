//! What workers found, in two classes: what is about paths that root alone can change is taken up at once, the rest in
//! small pieces between which the engine sees what else happened. However much users cause, root's changes wait for one
//! piece only.

use std::collections::{BTreeMap, VecDeque};

use super::{Engine, SLICE, Sink, now};
use crate::trust::Lane;
use crate::waiting::Extent;
use crate::workers::{Findings, Listed, Report};

/// What can wait, in the order in which it was found.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    reports: VecDeque<Report>,
    /// What was found in directories of users for whose paths there is no room at present.
    held: BTreeMap<Lane, VecDeque<Report>>,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.reports.is_empty() && self.held.is_empty()
    }

    /// This goes on with what was taken last.
    pub(super) fn put_first(&mut self, report: Report) {
        self.reports.push_front(report);
    }
}

impl<S: Sink> Engine<S> {
    /// Takes up what somebody waits for, and keeps the rest.
    pub(super) fn sort_reports(&mut self, reports: Vec<Report>) {
        for report in reports {
            if self.is_urgent(&report) {
                self.note_report(report);
            } else {
                self.backlog.reports.push_back(report);
            }
        }
    }

    fn is_urgent(&mut self, report: &Report) -> bool {
        match report {
            Report::Listed { .. } | Report::Read { .. } | Report::Verified { .. } => false,
            Report::Looked { round, .. } => {
                self.rounds.get(round).is_none_or(|round| round.lane == Lane::Trusted)
            }
            Report::Recorded { round, .. } => self.lane_of_unrecorded(*round) == Some(Lane::Trusted),
            // Never before the look that began the reading.
            Report::Digested { path, .. } => {
                self.contents.is_being_read(path) && self.trust.lane(path) == Lane::Trusted
            }
            Report::Probed { .. }
            | Report::Replaced(_)
            | Report::Responds(_)
            | Report::Accounts(_)
            | Report::Running { .. }
            | Report::Ended { .. } => true,
        }
    }

    /// Takes up a piece of what can wait.
    pub(super) fn work_off(&mut self) {
        let end = now() + SLICE;
        while let Some(report) = self.next_of_backlog() {
            self.note_report(report);
            if now() >= end {
                return;
            }
        }
    }

    /// Whether something can be taken up now.
    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.reports.is_empty() || self.backlog.held.keys().any(|lane| self.due.has_room(*lane))
    }

    /// What a scan found among a user's files waits until there is room for his paths.
    fn next_of_backlog(&mut self) -> Option<Report> {
        let due = &self.due;
        let with_room = self.backlog.held.keys().find(|lane| due.has_room(**lane)).copied();
        if let Some(lane) = with_room
            && let Some(held) = self.backlog.held.get_mut(&lane)
        {
            let report = held.pop_front();
            if held.is_empty() {
                self.backlog.held.remove(&lane);
            }
            return report;
        }
        self.give_up_found();
        loop {
            let report = self.backlog.reports.pop_front()?;
            match &report {
                Report::Listed { charge, .. } | Report::Read { charge, .. }
                    if !self.due.has_room(charge.lane) =>
                {
                    self.backlog.held.entry(charge.lane).or_default().push_back(report);
                }
                _ => return Some(report),
            }
        }
    }

    /// What was found too long ago, and still has no room, is left to a comparison of its own: only what it says about
    /// the course of its scan counts.
    fn give_up_found(&mut self) {
        let held = std::mem::take(&mut self.backlog.held);
        for (lane, reports) in held {
            let (overdue, rest): (VecDeque<Report>, VecDeque<Report>) =
                reports.into_iter().partition(|report| match report {
                    Report::Listed { scan, .. } | Report::Read { scan, .. } => self.is_overdue(*scan),
                    _ => false,
                });
            if !rest.is_empty() {
                self.backlog.held.insert(lane, rest);
            }
            for report in overdue {
                match report {
                    Report::Listed { scan, directory, listed, charge } => {
                        self.note_busy_directory(directory.clone(), Extent::Tree);
                        let findings = Findings { compared: listed.findings.compared, ..Findings::default() };
                        let listed = Listed {
                            directories: Vec::new(),
                            findings,
                            parts: listed.parts,
                            rest_after: None,
                            error: None,
                        };
                        self.note_listed(scan, &directory, listed, charge);
                    }
                    Report::Read { scan, directory, parts, charge, .. } => {
                        self.note_busy_directory(directory.clone(), Extent::Names);
                        self.note_read(scan, &directory, Findings::default(), parts, charge);
                    }
                    _ => {}
                }
            }
        }
    }

    fn note_report(&mut self, report: Report) {
        match report {
            Report::Listed { scan, directory, listed, charge } => {
                self.note_listed(scan, &directory, listed, charge);
            }
            Report::Digested { path, before, found } => self.note_digested(path, &before, found),
            Report::Read { scan, directory, findings, parts, charge } => {
                self.note_read(scan, &directory, findings, parts, charge);
            }
            Report::Looked { round, outcomes } => self.note_looked(round, outcomes),
            Report::Recorded { round, answers } => self.note_recorded(round, answers),
            Report::Probed { at, made } => self.note_probed(&at, made),
            Report::Responds(directory) => self.note_responds(directory),
            Report::Replaced(made) => self.note_replaced(made),
            Report::Accounts(story) => self.note_accounts(&story),
            Report::Running { process, runs } => self.note_running(process, runs),
            Report::Ended { process, packages } => self.note_ended(process, &packages),
            Report::Verified { files, bytes_read, differing } => {
                self.note_verified(files, bytes_read, differing);
            }
        }
    }
}
