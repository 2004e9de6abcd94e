//! What becomes of the journal's files besides our own writes: what retention deleted, what somebody else did, and
//! whether the whole of it still proves itself.

use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use slog::{error, info, warn};
use tokio::time::Instant;
use vigie_journal::{Incident, Renamed, Why, Writer};
use vigie_protocol::control::JournalVerification;

use super::AlertJournal;
use crate::work_threads::{self, Lane};

/// How often the files are looked at while nothing is written.
const INSPECT_EVERY: Duration = Duration::from_secs(10);

/// How far the proof of the whole journal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// None is under way.
    Done,
    UnderWay,
    /// One is under way, and another one is wanted after it.
    Again,
}

/// Shortest and longest time between two alerts about what retention deleted. The time doubles with each one, unless
/// the one before is long past: such alerts must not take the room of what the agent has to tell of others.
const TELL_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// When alerts tell what retention deleted; what that is, the writer knows.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// When the newest alert told of it, and how long the next one waits.
    told: Option<(Instant, Duration)>,
    /// Somebody waits for that time.
    is_waiting: bool,
    /// It has come.
    pub(super) is_due: bool,
}

impl Telling {
    /// `is_due`: there is something to be told from before the start.
    pub(super) fn new(is_due: bool) -> Self {
        Self { is_due, ..Self::default() }
    }

    /// How long the next alert waits still.
    pub(super) fn wait(&self) -> Duration {
        self.told.map_or(Duration::ZERO, |(at, pause)| pause.saturating_sub(at.elapsed()))
    }

    /// It is told now.
    pub(super) fn tell(&mut self) {
        let (shortest, longest) = TELL_EVERY;
        let pause = match self.told {
            Some((at, pause)) if at.elapsed() < longest * 2 => (pause * 2).min(longest),
            _ => shortest,
        };
        self.told = Some((Instant::now(), pause));
    }
}

impl AlertJournal {
    /// Tells what happened to the files: what retention deleted, and what somebody else did.
    pub(super) fn tell_of_files(&mut self, writer: &mut Writer, ctx: &mut Context<Self>) {
        self.bytes = writer.bytes();
        self.head = writer.head();
        self.by_module.clone_from(writer.by_module());
        if self.trouble.as_deref() != writer.trouble() {
            self.trouble = writer.trouble().map(ToOwned::to_owned);
            match &self.trouble {
                Some(trouble) => {
                    warn!(self.log, "alerts are stored, but other files of the journal cannot be written"; "error" => trouble)
                }
                None => info!(self.log, "all files of the journal are written again"),
            }
        }
        let deleted = vigie_journal::by_severity(writer.deleted());
        if deleted != self.deleted {
            info!(self.log, "retention deleted old alerts"; "found" => ?deleted);
            self.deleted = deleted;
            self.deleted_by_module.clone_from(writer.deleted_by_module());
        }
        if let Some(given_up) = writer.take_given_up() {
            error!(self.log, "journal is full; retention deleted severe alerts or alerts that the fleet does not have";
                "found" => given_up.total(), "first_seq" => given_up.first_seq, "last_seq" => given_up.last_seq);
            self.trimmed = Some(format!(
                "{} alerts between {} and {} were deleted",
                given_up.total(),
                given_up.first_seq,
                given_up.last_seq
            ));
        }
        if writer.has_untold() {
            self.tell_given_up(false, ctx);
        }
        for name in writer.take_taken_away() {
            if !self.taken_away.contains(&name) {
                self.taken_away.push(name);
            }
            self.tell_taken_away(name, "while the agent was running");
        }
        for incident in writer.take_incidents() {
            self.tell_of_incident(incident);
            self.prove(ctx);
        }
    }

    /// Tells what retention deleted, with the next write or when its time has come.
    pub(super) fn tell_given_up(&mut self, at_once: bool, ctx: &mut Context<Self>) {
        let wait = self.telling.wait();
        if at_once || wait.is_zero() {
            self.telling.is_due = true;
        } else if !std::mem::replace(&mut self.telling.is_waiting, true) {
            ctx.spawn(tokio::time::sleep(wait).into_actor(self).map(|(), this, ctx| {
                this.telling.is_waiting = false;
                this.tell_given_up(false, ctx);
                this.write_waiting(ctx);
            }));
        }
    }

    /// Adds the alert about what retention deleted if it is due. It is told once: after a crash its id is known.
    pub(super) fn tell_what_is_due(&mut self) {
        let Some(writer) = self.writer.as_mut().filter(|_| self.telling.is_due) else { return };
        self.telling.is_due = false;
        let Some(given_up) = writer.tell() else { return };
        if self.enqueue_own(Some(&given_up.id()), &given_up.message(self.sent_through.is_some())) {
            self.telling.tell();
            self.waiting.tells = true;
        } else if let Some(writer) = &mut self.writer {
            writer.told();
            self.telling.is_due = writer.has_untold();
        }
    }

    fn tell_of_incident(&mut self, Incident { why, after }: Incident) {
        let what = match why {
            Why::Resized => "was truncated or extended",
            Why::Replaced => "was deleted or replaced",
            // The disk, and nobody's hand: what was not acknowledged is written again.
            _ => {
                warn!(self.log, "batch was not written completely; continuing in a new file"; "found" => after);
                return;
            }
        };
        error!(self.log, "the journal's file was changed by another process; continuing in a new file"; "path" => ?self.directory,
            "found" => after);
        let message = serde_json::json!({
            "severity": "critical",
            "alert": format!("the alert journal's file {what} while the agent was writing it, after alert {after}"),
            "event": "journal_changed",
            "last_seq": after,
        });
        self.enqueue_own(None, &message);
    }

    /// Tells that a file beside the segments is gone. It is written anew, so nothing but this says that it was.
    pub(super) fn tell_taken_away(&mut self, name: &str, when: &str) {
        let after = *self.recorded.borrow();
        error!(self.log, "a file of the journal was deleted or replaced by another process"; "path" => ?self.directory.join(name),
            "found" => when);
        let message = serde_json::json!({
            "severity": "critical",
            "alert": format!("the alert journal's file {name} was deleted or replaced {when}, after alert {after}"),
            "event": "journal_changed",
            "last_seq": after,
        });
        self.enqueue_own(None, &message);
    }

    /// Gives the journal another name, and then goes on writing.
    pub(super) fn rename(&mut self, ctx: &mut Context<Self>) {
        // With a write under way its end comes back here.
        let Some(mut writer) = self.writer.take() else { return };
        let waiting = std::mem::take(&mut self.renaming);
        let through = waiting.iter().map(|(through, _)| *through).min().unwrap_or_default();
        let renaming = work_threads::run(Lane::Journal, move || {
            let renamed = writer.rename(through);
            (writer, renamed)
        });
        ctx.spawn(renaming.into_actor(self).map(|done, this, ctx| {
            let Ok((writer, renamed)) = done else { return };
            this.writer = Some(writer);
            if let Err(error) = &renamed {
                error!(this.log, "cannot give the journal another name"; "path" => ?this.directory, "error" => %error);
            }
            if let Ok(renamed) = &renamed {
                this.identity.send_replace(renamed.now.as_str().into());
                this.tell_renamed(renamed, "another agent may have recorded alerts under its name");
            }
            for (_, answer) in waiting {
                answer.send(renamed.as_ref().ok().map(|renamed| renamed.now.clone())).ok();
            }
            this.write_waiting(ctx);
        }));
    }

    /// Tells that the journal goes on under another name. The first alert of it.
    pub(super) fn tell_renamed(&mut self, Renamed { before, now }: &Renamed, why: &str) {
        warn!(self.log, "the alert journal goes on under another name"; "found" => now, "problem" => why);
        let message = serde_json::json!({
            "severity": "high",
            "alert": format!("{why}: the alert journal {before} continues as {now}, with the same numbers"),
            "event": "journal_renamed",
            "before": before,
            "journal": now,
        });
        self.enqueue_own(None, &message);
    }

    /// Which files beside the segments somebody took away.
    pub(super) fn taken_away_text(&self) -> Option<String> {
        let names = self.taken_away.join(", ");
        (!names.is_empty()).then(|| {
            format!("deleted or replaced by another process: {names}; alerts that were removed before are not known")
        })
    }

    /// All that is wrong with the journal.
    pub(super) fn all_damage(&self) -> Option<String> {
        let all: Vec<String> = self.damage.iter().cloned().chain(self.taken_away_text()).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Proves the whole journal in the background.
    pub(super) fn prove(&mut self, ctx: &mut Context<Self>) {
        if self.proof != Proof::Done {
            self.proof = Proof::Again;
            return;
        }
        self.proof = Proof::UnderWay;
        let (directory, recorded) = (self.directory.clone(), *self.recorded.borrow());
        let proving =
            work_threads::run(Lane::Readers, move || vigie_journal::verify(&directory, Some(recorded)));
        ctx.spawn(proving.into_actor(self).map(|proved, this, ctx| {
            let proof = std::mem::replace(&mut this.proof, Proof::Done);
            match proved {
                Ok(Ok(verification)) => this.proved(&verification, ctx),
                Ok(Err(error)) => {
                    this.damage = Some(format!("the alert journal cannot be read: {error}"));
                }
                // Only a panic can end the task, and a panic ends the agent.
                Err(error) => error!(this.log, "verifying the journal was aborted"; "error" => %error),
            }
            if proof == Proof::Again {
                this.prove(ctx);
            }
        }));
    }

    fn proved(&mut self, verification: &JournalVerification, ctx: &mut Context<Self>) {
        if verification.is_whole() {
            self.damage = None;
            return;
        }
        let JournalVerification { missing, damaged, broken, problems, .. } = verification;
        let text = format!(
            "{missing} alerts missing, {damaged} damaged sections, {broken} broken links; the first: {}",
            problems.first().map_or("", String::as_str)
        );
        if self.damage.as_ref() == Some(&text) {
            return;
        }
        error!(self.log, "journal verification failed"; "path" => ?self.directory, "error" => &text);
        let message = serde_json::json!({
            "severity": "critical",
            "alert": format!("the alert journal is damaged or was altered: {text}"),
            "event": "journal_damaged",
            "missing": missing, "damaged": damaged, "broken": broken,
        });
        // The same damage is told once, not at every start.
        let id = format!("journal damage {missing} {damaged} {broken}");
        self.damage = Some(text);
        self.enqueue_own(Some(&id), &message);
        self.write_waiting(ctx);
    }

    /// Looks at the files now and then while nothing is written: what somebody does to them is told at once, and not
    /// only with the next alert.
    pub(super) fn inspect_later(&self, ctx: &mut Context<Self>) {
        ctx.spawn(tokio::time::sleep(INSPECT_EVERY).into_actor(self).map(|(), this, ctx| {
            let Some(mut writer) = this.writer.take() else { return this.inspect_later(ctx) };
            let inspecting = work_threads::run(Lane::Readers, move || {
                writer.inspect();
                writer.inspect_files();
                writer
            });
            ctx.spawn(inspecting.into_actor(this).map(|inspected, this, ctx| {
                let Ok(mut writer) = inspected else { return };
                this.tell_of_files(&mut writer, ctx);
                this.writer = Some(writer);
                this.write_waiting(ctx);
                this.inspect_later(ctx);
            }));
        }));
    }
}
