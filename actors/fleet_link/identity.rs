//! What becomes of a membership whose identity is not its own alone: another host writes under its name, or its files are a copy.

use actix::{Handler, Message};

use super::membership::Membership;
use super::trouble::Trouble;

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

impl Handler<Reverted> for Membership {
    type Result = ();

    fn handle(&mut self, Reverted(text): Reverted, _: &mut Self::Context) {
        if self.raise(Trouble::Reverted, text) {
            self.forks.send_modify(|forks| *forks += 1);
        }
    }
}
