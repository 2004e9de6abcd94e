//! Subjects of NATS messages and names of the streams that keep them.
//!
//! | subject | stream | from → to |
//! |---|---|---|
//! | `vigie.act.all`, `vigie.act.g.GROUP`, `vigie.act.a.AGENT` | [`ACTIONS`] | investigator → agents |
//! | `vigie.res.ACTION.AGENT` | [`RESULTS`] | agent → investigators |
//! | `vigie.alert.AGENT.MODULE` | [`ALERTS`] | agent → readers of alerts |
//! | `vigie.audit.AGENT` | [`AUDIT`] | agent → auditors: what it ran and what it refused |
//! | `$KV.agents.AGENT` | [`KV_AGENTS`] | agent → everybody: facts, the newest only |
//! | `$KV.presence.AGENT` | [`KV_PRESENCE`] | agent → everybody: it is there |
//! | `$KV.policy.current` | [`KV_POLICY`] | administrators → everybody |
//! | `$KV.enrol.AGENT` | [`KV_ENROL`] | administrators → investigators: the agent's key |

use vigie_protocol::names::{ActionId, AgentId, GroupName};

/// Stream of actions.
pub const ACTIONS: &str = "ACTIONS";
/// Stream of answers.
pub const RESULTS: &str = "RESULTS";
/// Stream of alerts.
pub const ALERTS: &str = "ALERTS";
/// Stream of what agents ran and refused.
pub const AUDIT: &str = "AUDIT";
/// Bucket of facts.
pub const KV_AGENTS: &str = "KV_agents";
/// Bucket of signs of life.
pub const KV_PRESENCE: &str = "KV_presence";
/// Bucket of the policy.
pub const KV_POLICY: &str = "KV_policy";
/// Bucket of enrolled keys.
pub const KV_ENROL: &str = "KV_enrol";

/// Where an action for every agent goes.
pub const ACTION_ALL: &str = "vigie.act.all";
/// Where the policy is.
pub const POLICY: &str = "$KV.policy.current";
/// All actions.
pub const EVERY_ACTION: &str = "vigie.act.>";
/// All alerts.
pub const EVERY_ALERT: &str = "vigie.alert.>";

/// Where an action for a group goes.
#[must_use]
pub fn action_for_group(group: &GroupName) -> String {
    format!("vigie.act.g.{group}")
}

/// Where an action for one agent goes.
#[must_use]
pub fn action_for_agent(agent: &AgentId) -> String {
    format!("vigie.act.a.{agent}")
}

/// Where an agent's answer goes.
#[must_use]
pub fn answer(action: &ActionId, agent: &AgentId) -> String {
    format!("vigie.res.{action}.{agent}")
}

/// All answers to an action.
#[must_use]
pub fn answers_to(action: &ActionId) -> String {
    format!("vigie.res.{action}.*")
}

/// Where an alert of a module goes. A module's name is let through by the agent's configuration only in a form
/// that is one token.
#[must_use]
pub fn alert(agent: &AgentId, module: &str) -> String {
    format!("vigie.alert.{agent}.{module}")
}

/// Where an agent says what it ran and refused.
#[must_use]
pub fn audit(agent: &AgentId) -> String {
    format!("vigie.audit.{agent}")
}

/// Where an agent's facts are.
#[must_use]
pub fn facts(agent: &AgentId) -> String {
    format!("$KV.agents.{agent}")
}

/// Where an agent shows that it is there.
#[must_use]
pub fn presence(agent: &AgentId) -> String {
    format!("$KV.presence.{agent}")
}

/// Where an agent's enrolled key is.
#[must_use]
pub fn enrolment(agent: &AgentId) -> String {
    format!("$KV.enrol.{agent}")
}

/// Prefix of an agent's private inboxes; NATS permissions let it subscribe to nothing else of that kind. The name is
/// a token of its own: nats-server 2.9.10 puts names into permissions only there.
#[must_use]
pub fn inbox_prefix(agent: &AgentId) -> String {
    format!("_INBOX.agent.{agent}")
}
