//! What the engine is asked and told to do by other threads.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::SystemTime;

use serde_json::{Value, json};
use vigie_sdk::AlertId;
use vigie_sdk::protocol::Asker;

use super::{Engine, Sink, text_of_time};
use crate::change::{Alert, Event, description, notice, shown};
use crate::ledger::Entry;
use crate::rules::{Rules, Severity};

/// What the engine is told by other threads; each is followed by a wake-up of its mailbox.
#[derive(Debug)]
pub enum Order {
    /// Work by these rules from now on.
    Watch {
        /// The rules.
        rules: Box<Rules>,
        /// What is never watched: each alert would change it, and so cause the next.
        left_out: Vec<PathBuf>,
    },
    /// Compare everything that is covered at or below these paths (none: everything), then answer.
    Rescan {
        /// The paths.
        paths: Vec<PathBuf>,
        /// Read every file, whatever it looks like.
        prove: bool,
        /// Where the answer goes.
        done: mpsc::SyncSender<Value>,
    },
    /// Say which rule applies to a path.
    Explain(PathBuf, mpsc::SyncSender<Value>),
    /// Say what is known of a path.
    Known(PathBuf, mpsc::SyncSender<Value>),
    /// List the changes that nobody has accepted.
    Unaccepted(mpsc::SyncSender<Value>),
    /// Accept what changed at or below these paths (none: everything).
    Accept {
        /// The paths.
        paths: Vec<PathBuf>,
        /// Who does, as he says.
        by: String,
        /// Who does, as the agent proves.
        asker: Option<Asker>,
        /// Where the answer goes.
        done: mpsc::SyncSender<Value>,
    },
    /// Record changes at or below these paths as expected for a while.
    Expect {
        /// The paths.
        paths: Vec<PathBuf>,
        /// Until when.
        until: SystemTime,
        /// Who plans, as he says.
        by: String,
        /// Who does, as the agent proves.
        asker: Option<Asker>,
        /// Where the answer goes.
        done: mpsc::SyncSender<Value>,
    },
    /// The agent has this alert.
    Acknowledged(AlertId),
    /// The agent asked whether the module lives.
    Heartbeat,
    /// End.
    Stop,
}

impl<S: Sink> Engine<S> {
    /// Carries out an order; `false` when it was the last one.
    pub(super) fn obey(&mut self, order: Order) -> bool {
        // Whoever asked may not wait any more; there is room for one answer.
        match order {
            Order::Watch { rules, left_out } => {
                self.left_out =
                    left_out.iter().map(|path| self.watching.avoided().follow(path).real).collect();
                self.compare_with_journal(&left_out);
                self.watch(&rules);
            }
            Order::Rescan { paths, prove, done } => self.rescan(paths, prove, done),
            Order::Explain(path, answer) => {
                let real = self.watching.avoided().follow(&path).real;
                let is_elsewhere = real != path && self.coverage.options(&real).is_some();
                let asked = shown(&path);
                let path = if is_elsewhere { real } else { path };
                let mut explained = self.coverage.explain(&path).to_json();
                if is_elsewhere {
                    let sentence = explained["explanation"].as_str().unwrap_or_default();
                    explained["explanation"] =
                        json!(format!("{asked} leads to {}: {sentence}", shown(&path)));
                }
                if let Some(choice) = self.watching.choice_of(&path) {
                    explained["backend"] = json!({"name": choice.name(), "why": choice.why});
                    if let Some(proof) = self.proofs.of(choice) {
                        explained["proof"] = proof.to_json();
                    }
                }
                answer.try_send(explained).ok();
            }
            Order::Known(path, answer) => {
                answer.try_send(self.known_json(&path)).ok();
            }
            Order::Unaccepted(answer) => {
                let changes = self.ledger.state().unaccepted.iter().map(|(path, change)| {
                    json!({"path": shown(path), "event": change.event, "since": change.since})
                });
                let listed: Vec<Value> = changes.collect();
                let more = self.ledger.forgotten_unaccepted();
                answer.try_send(json!({"unaccepted": listed, "not_listed": more})).ok();
            }
            Order::Accept { paths, by, asker, done } => {
                let accepted = self.accept(&paths, &by, asker.as_ref());
                done.try_send(accepted).ok();
            }
            Order::Expect { paths, until, by, asker, done } => {
                let planned = self.plan(&paths, until, &by, asker.as_ref());
                done.try_send(planned).ok();
            }
            Order::Acknowledged(id) if self.is_canary_acknowledged(id) => {}
            Order::Acknowledged(id) => self.acknowledged.push(id),
            Order::Heartbeat => self.heartbeat(),
            Order::Stop => {
                self.take_acknowledged();
                self.ledger.tend(self.status.baseline_complete, true);
                return false;
            }
        }
        true
    }

    fn known_json(&self, path: &Path) -> Value {
        let state = self.ledger.state();
        let known = state.baseline.get(path);
        json!({
            "path": shown(path),
            "known": known.map(|object| description(&object)),
            "unaccepted": state.unaccepted.get(path).map(|change| json!({"event": change.event, "since": change.since})),
        })
    }

    fn accept(&mut self, paths: &[PathBuf], by: &str, asker: Option<&Asker>) -> Value {
        let accepted = self.ledger.accept(paths);
        let shown_paths: Vec<String> = accepted.iter().map(|path| shown(path)).collect();
        if !accepted.is_empty() {
            let below = if let [path] = paths { shown(path) } else { shown_paths[0].clone() };
            let proved = asker.map(|asker| format!(" (asked by {asker})")).unwrap_or_default();
            let text = format!(
                "{by}{proved} accepted the changes of {} paths: {}",
                accepted.len(),
                listed(&shown_paths)
            );
            let mut group = json!({"by": by, "paths": shown_paths.iter().take(100).collect::<Vec<_>>()});
            if let Some(asker) = asker {
                group["asker"] = json!(asker);
            }
            let time = text_of_time(SystemTime::now());
            let told = Alert {
                severity: Severity::Low,
                event: Event::Accepted,
                count: Some(accepted.len() as u64),
                group,
                ..notice(below, text, &time)
            };
            self.commit(Entry { alone: vec![told], ..Entry::default() });
        }
        json!({"accepted": shown_paths})
    }
}

pub(super) fn listed(paths: &[String]) -> String {
    const MOST: usize = 5;
    let more = paths.len().saturating_sub(MOST);
    let named = paths.iter().take(MOST).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}
