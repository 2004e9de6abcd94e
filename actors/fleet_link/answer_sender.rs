//! Sends answers from the spool until the broker has them: a task of its own.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use slog::{Logger, debug};
use tokio::sync::Notify;
use vigie_fleet::broker::stored;
use vigie_fleet::subjects;
use vigie_protocol::names::{ActionId, AgentId};

use super::answer_spool::{AnswerSpool, SpoolError};
use super::uplink::Uplink;
use crate::work_threads::{self, Lane};
use vigie_protocol::error_chain::ErrorChain;

/// Pause before an answer that was not acknowledged is sent again.
const RETRY: Duration = Duration::from_millis(500);

/// Messages of one answer that are on their way at once.
const IN_FLIGHT: usize = 8;

/// What the sender works with.
pub(super) struct AnswerSender {
    pub(super) log: Logger,
    pub(super) agent: AgentId,
    pub(super) spool: Arc<AnswerSpool>,
    /// Told when an answer was stored.
    pub(super) stored: Arc<Notify>,
    pub(super) uplink: Uplink,
}

impl AnswerSender {
    /// Sends until the task is aborted. Answers that wait since before the start go first.
    pub(super) async fn run(mut self) {
        let mut connection = 0;
        let mut resend = false;
        loop {
            let Some(number) = self.uplink.up().await else { return };
            resend |= number != connection;
            connection = number;
            if !self.send_all(resend).await {
                tokio::time::sleep(RETRY).await;
                continue;
            }
            resend = false;
            tokio::select! {
                () = self.stored.notified() => {}
                stands = self.uplink.changed() => {
                    if !stands {
                        return;
                    }
                    resend = true;
                }
            }
        }
    }

    /// Sends what waits, and for `resend` what was acknowledged lately; whether the broker has all of it.
    async fn send_all(&self, resend: bool) -> bool {
        let spool = self.spool.clone();
        let listing = work_threads::run(Lane::Fleet, move || {
            spool.forget_old();
            let mut actions = spool.waiting();
            if resend {
                actions.extend(spool.recently_sent());
            }
            actions
        });
        let mut all = true;
        for action in listing.await.unwrap_or_default() {
            // One that the broker does not take holds up no other.
            all &= self.uplink.is_up() && self.send(&action).await;
        }
        all
    }

    /// Sends one answer; whether the broker has it.
    async fn send(&self, action: &ActionId) -> bool {
        let Ok(messages) = self.load(action).await else { return true };
        for window in messages.chunks(IN_FLIGHT) {
            let published = join_all(window.iter().map(|message| self.publish(action, message))).await;
            if published.contains(&false) {
                return false;
            }
        }
        let (spool, action) = (self.spool.clone(), action.clone());
        work_threads::run(Lane::Fleet, move || spool.mark_sent(&action)).await.ok();
        true
    }

    /// An answer that cannot be read is left alone: the spool has told, and nobody can send it.
    async fn load(&self, action: &ActionId) -> Result<Vec<String>, SpoolError> {
        let (spool, id) = (self.spool.clone(), action.clone());
        let loaded = work_threads::run(Lane::Fleet, move || spool.load(&id)).await;
        match loaded {
            Ok(Err(error)) => {
                debug!(self.log, "answer is missing"; "error" => %error, "action" => %action);
                Err(error)
            }
            Ok(loaded) => loaded,
            Err(_) => Ok(Vec::new()),
        }
    }

    async fn publish(&self, action: &ActionId, message: &str) -> bool {
        let subject = subjects::answer(action, &self.agent);
        match stored::store(&self.uplink.client, &subject, message.as_bytes()).await {
            Ok(_) => true,
            Err(error) => {
                debug!(self.log, "answer was not stored"; "error" => %ErrorChain(&error), "action" => %action);
                false
            }
        }
    }
}
