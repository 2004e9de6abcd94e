//! What a membership says of itself.

use actix::{Handler, Message, MessageResult};
use vigie_protocol::control::FleetStatus;

use super::membership::Membership;
use super::now;

/// Asks for the part of the status that a membership knows.
#[derive(Debug, Message)]
#[rtype(result = "FleetStatus")]
pub(super) struct GetMemberStatus(pub(super) FleetStatus);

impl Handler<GetMemberStatus> for Membership {
    type Result = MessageResult<GetMemberStatus>;

    fn handle(
        &mut self,
        GetMemberStatus(mut status): GetMemberStatus,
        _: &mut Self::Context,
    ) -> Self::Result {
        let alerts = self.alerts.borrow();
        let policy = self.policy.borrow();
        status.connected = self.uplink.is_up();
        status.key = Some(self.key.public_key().text());
        status.alerts_sent = alerts.acknowledged;
        status.alerts_waiting = self.recorded.borrow().saturating_sub(alerts.acknowledged);
        status.running = self.running.len() as u64;
        status.waiting = self.waiting.len() as u64;
        status.policy_version = policy.as_ref().map(|policy| policy.version());
        let (connected, has_policy) = (status.connected, policy.is_some());
        status.named =
            self.troubles.all_named() && (self.troubles.text().is_some() || !connected || !has_policy);
        status.problem = self.troubles.text().or_else(|| match policy.as_deref() {
            _ if !status.connected => {
                Some(format!("not connected to a broker ({})", self.section.urls.join(", ")))
            }
            None => Some("no fleet policy: every action is refused".to_owned()),
            Some(policy) if policy.is_expired(now()) => {
                Some(format!("policy {} has expired; it stays in force", policy.version()))
            }
            Some(_) => alerts.problem.clone(),
        });
        MessageResult(status)
    }
}
