//! What workers found, in two classes: what is about paths that root alone can change is taken up at once, the rest in
//! small pieces between which the engine sees what else happened. However much users cause, root's changes wait for one
//! piece only.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Engine, Sink, now};
use crate::trust::Lane;
use crate::workers::Report;

/// Longest time that goes into the backlog before the mailbox is asked again.
const SLICE: Duration = Duration::from_millis(4);

/// What can wait, in the order in which it was found.
#[derive(Debug, Default)]
pub(super) struct Backlog(VecDeque<Report>);

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// This goes on with what was taken last.
    pub(super) fn put_first(&mut self, report: Report) {
        self.0.push_front(report);
    }
}

impl<S: Sink> Engine<S> {
    /// Takes up what somebody waits for, and keeps the rest.
    pub(super) fn sort_reports(&mut self, reports: Vec<Report>) {
        for report in reports {
            if self.is_urgent(&report) {
                self.note_report(report);
            } else {
                self.backlog.0.push_back(report);
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
            | Report::Accounts(_)
            | Report::Running { .. }
            | Report::Ended { .. } => true,
        }
    }

    /// Takes up a piece of what can wait.
    pub(super) fn work_off(&mut self) {
        let end = now() + SLICE;
        while let Some(report) = self.backlog.0.pop_front() {
            self.note_report(report);
            if now() >= end {
                return;
            }
        }
    }

    fn note_report(&mut self, report: Report) {
        match report {
            Report::Listed { scan, directory, listed } => self.note_listed(scan, &directory, listed),
            Report::Digested { path, before, found } => self.note_digested(path, &before, found),
            Report::Read { scan, directory, findings, parts } => {
                self.note_read(scan, &directory, findings, parts);
            }
            Report::Looked { round, outcomes } => self.note_looked(round, outcomes),
            Report::Recorded { round, answers } => self.note_recorded(round, answers),
            Report::Probed { at, made } => self.note_probed(&at, made),
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
