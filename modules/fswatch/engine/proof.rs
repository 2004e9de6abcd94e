//! Proof that the kernel still tells: a file without a name is made and closed in each watched file system, which
//! changes nothing there, and the event must come back all the way. What was proved last and how is in the status.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{FileType, Stat};
use serde_json::{Value, json};

use super::{Engine, Sink, now, text_of_time};
use crate::change::{Alert, Event, notice, shown};
use crate::events::{Happened, Window};
use crate::ledger::Entry;
use crate::probe::inode_of;
use crate::rules::{Interest, Severity};
use crate::watching::Choice;

/// Time in which the event must come back.
const PATIENCE: Duration = Duration::from_secs(2);

/// Attempts before a file system counts as blind: a busy host may be slow.
const ATTEMPTS: u32 = 3;

/// Time between two proofs of what works. A proof writes to the journal of some file systems, so not more often.
const EVERY: Duration = Duration::from_secs(3600);

/// Time between two attempts where it does not work.
const EVERY_WHILE_BLIND: Duration = Duration::from_secs(10);

/// How it was proved, in words.
const HOW: &str = "an unnamed file was created there, and its event arrived";

/// What is known of one file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// A watched directory of it, where the proof is made.
    pub at: PathBuf,
    /// fanotify watches it.
    fanotify: bool,
    /// When it was proved last.
    pub proved: Option<SystemTime>,
    /// Why it cannot be proved.
    pub unable: Option<String>,
    /// Since when nothing comes back.
    pub blind: Option<SystemTime>,
    /// When the attempt under way began, and how many there were.
    sent: Option<(Instant, u32)>,
    /// The file of it.
    inode: Option<u64>,
    /// When the next one begins.
    next: Instant,
}

impl Proof {
    /// For the status and for who asks about a path.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut told = json!({"file_system": shown(&self.at)});
        if let Some(time) = self.proved {
            told["proved"] = json!(text_of_time(time));
            told["how"] = json!(HOW);
        }
        if let Some(why) = &self.unable {
            told["cannot_be_proved"] = json!(why);
        }
        if let Some(since) = self.blind {
            told["blind_since"] = json!(text_of_time(since));
        }
        told
    }

    fn wanted_at(&self) -> Instant {
        self.sent.map_or(self.next, |(sent, _)| sent + PATIENCE)
    }
}

/// The proofs, by where the file system was met first.
#[derive(Debug, Default)]
pub(super) struct Proofs(BTreeMap<PathBuf, Proof>);

impl Proofs {
    /// Time until there is something to do.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        self.0.values().map(|proof| proof.wanted_at().saturating_duration_since(now)).min()
    }

    /// Where nothing comes back, and since when.
    pub(super) fn blind(&self) -> impl Iterator<Item = (PathBuf, SystemTime)> {
        self.0.values().filter_map(|proof| Some((proof.at.clone(), proof.blind?)))
    }

    pub(super) fn list(&self) -> Vec<Proof> {
        self.0.values().cloned().collect()
    }

    /// That of the file system which was met here first.
    pub(super) fn of(&self, choice: &Choice) -> Option<&Proof> {
        self.0.get(&choice.at)
    }

    /// Everything is to be proved again.
    pub(super) fn doubt(&mut self) {
        for proof in self.0.values_mut().filter(|proof| proof.sent.is_none()) {
            proof.next = now();
        }
    }
}

impl<S: Sink> Engine<S> {
    /// A watched directory of the file system that was met first here.
    fn place_of_proof(&self, at: &Path, fanotify: bool) -> Option<PathBuf> {
        // inotify watches a directory on the way for names only.
        let is_watched = |path: &Path| match self.coverage.interest(path) {
            Interest::Covered => true,
            Interest::OnTheWay => fanotify,
            Interest::Nothing => false,
        };
        if is_watched(at) {
            return Some(at.to_owned());
        }
        let avoided = self.watching.avoided();
        let device = avoided.status(at).ok()?.st_dev;
        let roots = self.coverage.roots().iter().map(|root| &root.path);
        let is_there = |path: &&PathBuf| {
            let is_directory = |there: Stat| FileType::from_raw_mode(there.st_mode) == FileType::Directory;
            let is_on_it = |there: Stat| there.st_dev == device && is_directory(there);
            avoided.status(path).is_ok_and(is_on_it) && is_watched(path)
        };
        roots.filter(is_there).map(|path| path.to_owned()).next()
    }

    /// Begins and ends attempts whose time has come.
    pub(super) fn tend_proofs(&mut self) {
        let now = now();
        if !self.status.baseline_complete {
            return;
        }
        let choices: BTreeMap<PathBuf, bool> =
            self.watching.choices().map(|choice| (choice.at.clone(), choice.fanotify)).collect();
        self.proofs.0.retain(|at, _| choices.contains_key(at));
        for (at, fanotify) in choices {
            if !self.proofs.0.contains_key(&at)
                && let Some(at_proof) = self.place_of_proof(&at, fanotify)
            {
                let (proved, unable, blind, sent, inode) = (None, None, None, None, None);
                let proof = Proof { at: at_proof, fanotify, proved, unable, blind, sent, inode, next: now };
                self.proofs.0.insert(at, proof);
            }
        }
        let mut blind = Vec::new();
        for proof in self.proofs.0.values_mut().filter(|proof| proof.wanted_at() <= now) {
            let attempt = proof.sent.map_or(0, |(_, attempt)| attempt);
            if attempt >= ATTEMPTS {
                proof.sent = None;
                proof.next = now + EVERY_WHILE_BLIND;
                if proof.proved.is_none() && !proof.fanotify {
                    // Not every file system tells inotify of a file without a name.
                    proof.unable = Some("events of unnamed files do not arrive here".to_owned());
                    proof.next = now + EVERY;
                } else if proof.blind.is_none() {
                    let since = proof.proved.unwrap_or_else(SystemTime::now);
                    proof.blind = Some(since);
                    blind.push((proof.at.clone(), since));
                }
                continue;
            }
            proof.sent = Some((now, attempt + 1));
            proof.inode = None;
            self.prober.probe(&proof.at);
        }
        for (at, since) in blind {
            let text = format!(
                "blind below {} since {}: the kernel does not tell of a file that is made there; only scans find what \
                 changes",
                shown(&at),
                text_of_time(since)
            );
            self.tell_notice(&at, text, Severity::High, Some(Window { from: since, to: SystemTime::now() }));
        }
        self.status.proofs = self.proofs.list();
    }

    /// A file was made for a proof.
    pub(super) fn note_probed(&mut self, at: &Path, made: Result<u64, String>) {
        let Some(proof) = self.proofs.0.values_mut().find(|proof| proof.at == at && proof.sent.is_some())
        else {
            return;
        };
        match made {
            Ok(inode) => {
                proof.unable = None;
                proof.inode = Some(inode);
                if self.seen_probes.contains(&inode) {
                    self.prove(at);
                }
            }
            Err(why) => {
                // Where no file can be made, none is changed in this way either.
                proof.unable = Some(why);
                proof.sent = None;
                proof.next = now() + EVERY;
            }
        }
        self.status.proofs = self.proofs.list();
    }

    /// Whether an event is that of a proof.
    pub(super) fn note_probe(&mut self, path: &Path, happened: &Happened) {
        let Some(inode) = inode_of(path) else { return };
        // Anybody can give a file this name; only fanotify says who did, and only we make ours.
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        if happened.writers.last().is_some_and(|writer| writer.pid != own) {
            return;
        }
        let Some(at) = path.parent() else { return };
        if let Some(proof) = self.proofs.0.values().find(|proof| proof.at == at && proof.sent.is_some()) {
            if proof.inode == Some(inode) {
                self.prove(at);
            } else if proof.inode.is_none() && self.seen_probes.len() < 64 {
                // It came before the answer of whoever made it.
                self.seen_probes.insert(inode);
            }
        }
    }

    fn prove(&mut self, at: &Path) {
        self.seen_probes.clear();
        let Some(proof) = self.proofs.0.values_mut().find(|proof| proof.at == at) else { return };
        proof.proved = Some(SystemTime::now());
        proof.sent = None;
        proof.next = now() + EVERY;
        if let Some(since) = proof.blind.take() {
            let text = format!(
                "events arrive again below {}; it was blind since {}",
                shown(at),
                text_of_time(since)
            );
            let window = Window { from: since, to: SystemTime::now() };
            let time = text_of_time(SystemTime::now());
            let told = Alert {
                severity: Severity::Medium,
                event: Event::Notice,
                window: super::window_json(window),
                ..notice(shown(at), text, &time)
            };
            self.commit(Entry { alone: vec![told], ..Entry::default() });
        }
        self.status.proofs = self.proofs.list();
    }
}
