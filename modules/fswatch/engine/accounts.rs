//! What tools for accounts do, as one story: see [`crate::accounts`].

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::orders::listed;
use super::{Engine, Sink, now, text_of_time};
use crate::accounts::{Story, is_account_file};
use crate::change::{Alert, Event, notice};
use crate::ledger::Entry;
use crate::rules::Severity;

/// Quiet time after which a story is told: one tool changes its files within milliseconds, and `adduser` starts
/// several.
const QUIET: Duration = Duration::from_millis(700);

/// Longest time that a story is kept back.
const LONGEST: Duration = Duration::from_secs(10);

/// Others that wrote account files lately which are remembered.
const MAX_OTHERS: usize = 16;

/// What the store keeps of a story.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    id: String,
    process: Value,
    count: u64,
    paths: Vec<String>,
    since: String,
    until: String,
}

#[derive(Debug)]
struct Open {
    kept: Kept,
    opened: Instant,
    last: Instant,
    asked: bool,
    /// Questions without an answer yet.
    pending: usize,
    /// What earlier answers said: something changed after their questions.
    story: Story,
}

fn opened(kept: Kept) -> Open {
    Open { kept, opened: now(), last: now(), asked: false, pending: 0, story: Story::default() }
}

/// The story that is under way.
#[derive(Debug, Default)]
pub(super) struct Stories {
    open: Option<Open>,
    made: u64,
    /// Who wrote account files without being a tool for them, and when.
    others: Vec<(Instant, String)>,
}

impl Stories {
    /// Somebody else wrote such a file: what becomes of accounts may be his doing.
    fn note_others(&mut self, alert: &Alert) {
        if alert.tool.is_some() {
            return;
        }
        for process in std::iter::once(&alert.process).chain(&alert.other_processes) {
            let name = process["executable"].as_str().unwrap_or("an unknown process");
            if self.others.len() >= MAX_OTHERS {
                self.others.remove(0);
            }
            self.others.push((now(), name.to_owned()));
        }
    }

    pub(super) fn restore(&mut self, kept: Option<Kept>) {
        self.open = kept.map(opened);
    }

    pub(super) fn kept(&self) -> Option<&Kept> {
        self.open.as_ref().map(|open| &open.kept)
    }

    /// Time until there is something to do.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        let open = self.open.as_ref().filter(|open| !open.asked)?;
        Some((open.last + QUIET).min(open.opened + LONGEST).saturating_duration_since(now))
    }
}

impl<S: Sink> Engine<S> {
    /// Whether a change belongs to the story of a tool for accounts; if so, it is kept in the history under its id.
    pub(super) fn joins_story(&mut self, alert: &Alert, path: &Path) -> Option<String> {
        if !is_account_file(path) {
            return None;
        }
        let Some(tool) = alert.tool.as_ref().filter(|_| !alert.gains_rights) else {
            self.stories.note_others(alert);
            return None;
        };
        let epoch = self.ledger.epoch();
        let now = now();
        let stories = &mut self.stories;
        let open = stories.open.get_or_insert_with(|| {
            stories.made += 1;
            opened(Kept {
                id: format!("{epoch:016x}-a{}", stories.made),
                process: tool.to_json(),
                count: 0,
                paths: Vec::new(),
                since: alert.time.clone(),
                until: alert.time.clone(),
            })
        });
        open.last = now;
        // What came after the question is told by the next one.
        open.asked = false;
        open.kept.count += 1;
        open.kept.until.clone_from(&alert.time);
        let is_file = ["passwd", "shadow", "group", "gshadow", "subuid", "subgid"];
        let is_file = path.file_name().is_some_and(|name| is_file.iter().any(|file| name == *file));
        if is_file && !open.kept.paths.contains(&alert.path) {
            open.kept.paths.push(alert.path.clone());
        }
        Some(open.kept.id.clone())
    }

    /// Asks what became of accounts when a tool has come to rest.
    pub(super) fn tend_stories(&mut self) {
        if self.stories.next(now()).is_some_and(|wait| wait.is_zero())
            && let Some(open) = &mut self.stories.open
        {
            open.asked = true;
            open.pending += 1;
            self.packages.ask_about_accounts();
        }
    }

    /// Tells what became of accounts.
    pub(super) fn note_accounts(&mut self, story: &Story) {
        let Some(open) = &mut self.stories.open else { return };
        open.story.add(story);
        open.pending = open.pending.saturating_sub(1);
        if !open.asked || open.pending > 0 {
            return;
        }
        let Some(Open { kept, story, opened, .. }) = self.stories.open.take() else { return };
        let others = std::mem::take(&mut self.stories.others).into_iter();
        let others: BTreeSet<String> = others
            .filter(|(at, who)| *at + QUIET >= opened && kept.process["executable"] != *who)
            .map(|(_, who)| who)
            .collect();
        let what = if story.sentences.is_empty() {
            format!("no account changed, although {} were written", kept.paths.join(", "))
        } else {
            story.sentences.join("; ")
        };
        let severity = if story.sentences.is_empty() { Severity::Medium } else { story.severity() };
        let mut who = who(&kept.process);
        if !others.is_empty() {
            // What is told is the difference between two looks: whose it is can be said of all together only.
            let others: Vec<String> = others.into_iter().collect();
            who = format!("{who}; {} wrote these files at the same time", listed(&others));
        }
        let group = json!({
            "id": kept.id,
            "writer": kept.process["executable"].as_str().unwrap_or_default(),
            "samples": kept.paths,
            "from": kept.since,
            "to": kept.until,
        });
        let time = text_of_time(SystemTime::now());
        let told = Alert {
            severity,
            event: Event::Group,
            count: Some(kept.count),
            process: kept.process,
            group,
            ..notice("/etc/passwd".to_owned(), format!("{what} ({who})"), &time)
        };
        let groups = Some(self.groups_text());
        self.commit(Entry { alone: vec![told], groups, ..Entry::default() });
    }
}

/// Who it was, in words.
fn who(process: &Value) -> String {
    let program =
        process["executable"].as_str().and_then(|path| path.rsplit('/').next()).unwrap_or("somebody");
    let user = process["user_name"].as_str().map(|user| format!(" by {user}")).unwrap_or_default();
    let login =
        process["login_name"].as_str().map(|user| format!(", logged in as {user}")).unwrap_or_default();
    format!("{program}{user}{login}")
}
