//! What becomes of a membership whose identity is not its own alone: another host writes under its name, or its files are a copy.

use std::path::Path;

use actix::{ActorFutureExt, Handler, Message, ResponseActFuture, WrapFuture};
use slog::warn;

use super::membership::Membership;
use super::trouble::Trouble;
use super::{disk, now};
use crate::work_threads::{self, Lane};

/// Signs of life without another writer after which an identity counts as used once again.
const QUIET_BEATS: u32 = 3;

/// What a host is told whose files come from another machine.
pub(super) const COPIED: &str = "the agent's files were created on another machine: this host is a copy and needs its own key (stop the agent, delete STATE_DIR/fleet and the key file, enrol it under its own name)";

/// Whether another host wrote under this name since the last sign of life. Sent by `presence`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct OtherWriter(pub(super) bool);

/// The fleet has something of this agent that its files do not know, and what. Sent by `alert_sender` and `presence`: alerts
/// that these files do not know may bear the journal's name also where the fleet does not have them.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Reverted(pub(super) String);

impl Handler<OtherWriter> for Membership {
    type Result = ();

    fn handle(&mut self, OtherWriter(is_twice): OtherWriter, _: &mut Self::Context) {
        if is_twice {
            self.beats_alone = 0;
            let text = format!(
                "another host uses the identity {}: a clone, a restored snapshot or a stolen key; give each host its own key",
                self.section.agent
            );
            if self.raise(Trouble::RunsTwice, text) {
                // What both record from now on must not bear one name.
                self.forks.send_modify(|forks| *forks += 1);
            }
        } else {
            self.beats_alone = self.beats_alone.saturating_add(1);
            if self.beats_alone >= QUIET_BEATS {
                self.clear(Trouble::RunsTwice);
            }
        }
    }
}

/// What the files may lack of the actions that this agent has run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// When it was last noticed that they are an older copy, in seconds since 1970.
    pub(super) reverted: Option<i64>,
    /// The fleet's newest heartbeat of this agent was compared with them.
    pub(super) knows_heartbeats: bool,
    /// So was its newest alert.
    pub(super) knows_alerts: bool,
}

impl Memory {
    /// What was noticed in earlier lives.
    pub(super) fn stored(path: &Path) -> Self {
        let bytes = disk::read_bounded(path).ok();
        let reverted = bytes.and_then(|bytes| std::str::from_utf8(&bytes).ok()?.trim().parse().ok());
        Self { reverted, ..Self::default() }
    }
}

impl Handler<Reverted> for Membership {
    type Result = ResponseActFuture<Self, ()>;

    /// Returns when it is on disk: whoever noticed it makes the files such that it is not noticed again.
    fn handle(&mut self, Reverted(text): Reverted, _: &mut Self::Context) -> Self::Result {
        // The clock may have been set back since it was noticed before.
        let noticed = self.memory.borrow().reverted.unwrap_or(i64::MIN).max(now());
        self.memory.send_modify(|memory| memory.reverted = Some(noticed));
        if self.raise(Trouble::Reverted, text) {
            self.forks.send_modify(|forks| *forks += 1);
        }
        let (path, hold) = (self.places.reverted(), self.hold.clone());
        let storing = work_threads::run(Lane::Fleet, move || {
            let _hold = hold;
            disk::replace(&path, noticed.to_string().as_bytes())
        });
        Box::pin(storing.into_actor(self).map(|stored, this, _| {
            if let Ok(Err(error)) = stored {
                warn!(this.log, "cannot store that an older copy of the state was restored; after a restart actions from before may run again";
                    "error" => %error);
            }
        }))
    }
}
