//! Subjects of NATS messages and names of the streams that keep them.
//!
//! | subject | stream | from → to |
//! |---|---|---|
//! | `vigie.ask.INVESTIGATOR` | [`ASK`] | investigator → agents, which fetch it |
//! | `vigie.standing.INVESTIGATOR` | [`STANDING`] | investigator → agents: standing questions, and their ends |
//! | `vigie.live.AGENT.SECRET` | none | investigator or administrator → one agent, at once |
//! | `vigie.res.SLOT.AGENT` | [`RESULTS`] | agent → investigators |
//! | `vigie.alert.AGENT` | [`ALERTS`] | agent → readers of alerts |
//! | `vigie.audit.AGENT` | [`AUDIT`] | agent → auditors: what it ran and what it refused |
//! | `vigie.facts.AGENT` | [`FACTS`] | agent → investigators: facts and a sign of life |
//! | `vigie.policy` | [`POLICY`] | administrators → everybody |
//! | `vigie.enrol.AGENT` | [`ENROL`] | enrollers → investigators: the agent's key |
//! | `vigie.join.TOKEN` | [`JOIN`] | host that wants to join by a token → enrollers |
//! | `vigie.renew.AGENT` | [`RENEW`] | agent whose login or certificate ends → enrollers |
//! | `vigie.joined.KEY` | [`JOINED`] | enrollers → the host with this key: login and certificate, or why not |
//!
//! What an agent writes are literal subjects that bear its name: limits are per subject, so a wildcard would let it
//! write without end. No subject in the agents' account has two listeners, and none that somebody listens on can
//! be guessed: a publish with a reply subject would otherwise become a message for others. So there is no subject
//! for all agents; each listens on one with a secret token, which it tells in its sealed facts, and other agents
//! cannot read those.

use vigie_protocol::names::{ActionId, AgentId};

/// Stream of questions.
pub const ASK: &str = "ASK";
/// Stream of standing questions.
pub const STANDING: &str = "STANDING";
/// Stream of answers.
pub const RESULTS: &str = "RESULTS";
/// Stream of alerts.
pub const ALERTS: &str = "ALERTS";
/// Stream of what agents ran and refused.
pub const AUDIT: &str = "AUDIT";
/// Stream of facts and signs of life.
pub const FACTS: &str = "FACTS";
/// Stream of the policy.
pub const POLICY: &str = "POLICY";
/// Stream of enrolled keys.
pub const ENROL: &str = "ENROL";

/// Stream of hosts that want to join.
pub const JOIN: &str = "JOIN";
/// Stream of agents that want their login or certificate renewed.
pub const RENEW: &str = "RENEW";
/// Stream of what enrollers answer to both.
pub const JOINED: &str = "JOINED";

/// All streams.
pub const STREAMS: [&str; 11] =
    [ASK, STANDING, RESULTS, ALERTS, AUDIT, FACTS, POLICY, ENROL, JOIN, RENEW, JOINED];

/// Where the policy is.
pub const POLICY_SUBJECT: &str = "vigie.policy";
/// All questions.
pub const EVERY_ASK: &str = "vigie.ask.*";
/// All standing questions.
pub const EVERY_STANDING: &str = "vigie.standing.*";
/// All answers.
pub const EVERY_ANSWER: &str = "vigie.res.*.*";
/// All alerts.
pub const EVERY_ALERT: &str = "vigie.alert.*";
/// All audit records.
pub const EVERY_AUDIT: &str = "vigie.audit.*";
/// All facts.
pub const EVERY_FACTS: &str = "vigie.facts.*";
/// All enrolled keys.
pub const EVERY_ENROLMENT: &str = "vigie.enrol.*";
/// All requests to join.
pub const EVERY_JOIN: &str = "vigie.join.*";
/// All requests to renew.
pub const EVERY_RENEWAL: &str = "vigie.renew.*";
/// All answers to both.
pub(crate) const EVERY_JOINED: &str = "vigie.joined.*";
/// What agents listen on.
pub(crate) const EVERY_LIVE: &str = "vigie.live.*.*";

/// Subjects over which the answers of an agent are spread, so that what is asked often does not push out what is
/// not yet read.
pub const SLOTS: u8 = 16;

/// The slot of the answers to an action: the last digit of its id.
#[must_use]
pub fn slot(action: &ActionId) -> u8 {
    let digit = action.as_str().chars().next_back().and_then(|digit| digit.to_digit(16)).unwrap_or(0);
    u8::try_from(digit).unwrap_or(0)
}

/// Where an investigator's questions go.
#[must_use]
pub fn ask(investigator: &AgentId) -> String {
    format!("vigie.ask.{investigator}")
}

/// Where an investigator's standing questions go.
#[must_use]
pub fn standing(investigator: &AgentId) -> String {
    format!("vigie.standing.{investigator}")
}

/// Where an agent's answer goes.
#[must_use]
pub fn answer(action: &ActionId, agent: &AgentId) -> String {
    format!("vigie.res.{}.{agent}", slot(action))
}

/// Where the answers of all agents to an action go, and those to others of the same slot.
#[must_use]
pub fn answers_to(action: &ActionId) -> String {
    format!("vigie.res.{}.*", slot(action))
}

/// Where an agent's alerts go.
#[must_use]
pub fn alert(agent: &AgentId) -> String {
    format!("vigie.alert.{agent}")
}

/// Where an agent says what it ran and refused.
#[must_use]
pub fn audit(agent: &AgentId) -> String {
    format!("vigie.audit.{agent}")
}

/// Where an agent's facts are.
#[must_use]
pub fn facts(agent: &AgentId) -> String {
    format!("vigie.facts.{agent}")
}

/// Where an agent's enrolled key is.
#[must_use]
pub fn enrolment(agent: &AgentId) -> String {
    format!("vigie.enrol.{agent}")
}

/// Where requests to join by a token go: what is written with it is bounded for each token.
#[must_use]
pub fn join(token: &str) -> String {
    format!("vigie.join.{token}")
}

/// Where an agent asks for a new login or certificate.
#[must_use]
pub fn renewal(agent: &AgentId) -> String {
    format!("vigie.renew.{agent}")
}

/// Where the answer for the host with this key is, or what is said of the token with this id.
#[must_use]
pub fn joined(key: &str) -> String {
    format!("vigie.joined.{key}")
}

/// Where an agent listens: `secret` is a token that only its sealed facts tell.
#[must_use]
pub fn live(agent: &AgentId, secret: &str) -> String {
    format!("vigie.live.{agent}.{secret}")
}

/// The name of the agent or person at the end of a subject.
#[must_use]
pub fn last_name(subject: &str) -> Option<AgentId> {
    subject.rsplit('.').next()?.parse().ok()
}

/// Prefix of an agent's private inboxes; NATS permissions let it subscribe to nothing else of that kind. The name is
/// a token of its own: nats-server 2.9.10 puts names into permissions only there.
#[must_use]
pub fn inbox_prefix(agent: &AgentId) -> String {
    format!("_INBOX.agent.{agent}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_has_a_slot_that_is_listed() {
        for byte in 0..=u8::MAX {
            assert!(slot(&ActionId::from_random([byte; 16])) < SLOTS);
        }
        let (action, agent) = (ActionId::from_random([0x1f; 16]), "web-1".parse().unwrap());
        assert_eq!(answer(&action, &agent), "vigie.res.15.web-1");
        assert_eq!(last_name(&answer(&action, &agent)), Some(agent));
    }
}
