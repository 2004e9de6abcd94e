//! What keeps a membership from working, each by its name: raised and cleared by the one part that knows.

use std::collections::BTreeMap;

use actix::Recipient;
use vigie_protocol::catalogue::AgentCondition;
use vigie_protocol::severity::Severity;

use crate::conditions::Reporter;
use crate::own_alerts::{self, OwnAlert};

/// What is wrong. The first one is the one that people hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    /// The broker does not know this agent, or does not any more.
    LoginRefused,
    /// No encrypted connection comes about.
    Tls,
    /// The broker takes no more connections: somebody may use them all.
    BrokerFull,
    /// The agent's token has other rights than it needs.
    NotPermitted,
    /// Another host writes under this name.
    RunsTwice,
    /// The agent's files were made on another machine.
    Copied,
    /// The fleet has something of this agent that its files do not know.
    Reverted,
    /// The facts are not such as a fleet takes.
    Facts,
    /// A certificate ends within 30 days, or has ended.
    Certificate,
    /// Audit records were dropped, and no record that the broker has says so yet.
    AuditDropped,
    /// No broker is connected.
    Disconnected,
    /// The broker that is connected stores nothing.
    NotStored,
    /// There is no policy.
    NoPolicy,
}

impl Trouble {
    /// The condition that names it, when it has one of its own.
    fn condition(self) -> Option<AgentCondition> {
        match self {
            Self::RunsTwice | Self::Copied => Some(AgentCondition::IdentityDuplicated),
            Self::Reverted => Some(AgentCondition::StateReverted),
            Self::Certificate => Some(AgentCondition::CertificateExpires),
            Self::AuditDropped => Some(AgentCondition::FleetAuditDropped),
            Self::Disconnected | Self::NotStored => Some(AgentCondition::FleetDisconnected),
            Self::NoPolicy => Some(AgentCondition::FleetPolicyMissing),
            Self::LoginRefused | Self::Tls | Self::BrokerFull | Self::NotPermitted | Self::Facts => None,
        }
    }

    /// How bad it is for those who follow alerts, when they are to hear of it.
    fn severity(self) -> Option<Severity> {
        match self {
            Self::RunsTwice | Self::Copied | Self::Reverted => Some(Severity::Critical),
            Self::Certificate => Some(Severity::High),
            _ => None,
        }
    }
}

/// Who hears of what is wrong with the link to the fleet.
#[derive(Clone)]
pub struct Voice {
    /// Conditions of the agent.
    pub conditions: Reporter,
    /// Alerts of the agent.
    pub alerts: Recipient<OwnAlert>,
}

impl Voice {
    /// The conditions that a membership raises; they end with it.
    const OF_MEMBERSHIP: [AgentCondition; 6] = [
        AgentCondition::IdentityDuplicated,
        AgentCondition::StateReverted,
        AgentCondition::CertificateExpires,
        AgentCondition::FleetDisconnected,
        AgentCondition::FleetPolicyMissing,
        AgentCondition::FleetAuditDropped,
    ];

    /// A membership is over.
    pub(super) fn forget(&self) {
        for condition in Self::OF_MEMBERSHIP {
            self.conditions.clear(condition);
        }
    }

    /// Tells how it stands with the condition that names a trouble.
    pub(super) fn tell(&self, troubles: &Troubles, trouble: Trouble, is_new: bool) {
        let Some(condition) = trouble.condition() else { return };
        let text = troubles.text_of(condition);
        if let (true, Some(severity), Some(text)) = (is_new, trouble.severity(), &text) {
            own_alerts::raise(&self.alerts, severity, text.clone());
        }
        self.conditions.set(condition, text);
    }
}

/// What is wrong now.
#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeMap<Trouble, String>);

impl Troubles {
    /// Takes note; whether it is new.
    pub(super) fn raise(&mut self, trouble: Trouble, detail: String) -> bool {
        self.0.insert(trouble, detail).is_none()
    }

    /// It is over; whether it was there.
    pub(super) fn clear(&mut self, trouble: Trouble) -> bool {
        self.0.remove(&trouble).is_some()
    }

    /// What one condition names, in one text.
    fn text_of(&self, condition: AgentCondition) -> Option<String> {
        let of = |(trouble, text): (&Trouble, &String)| {
            (trouble.condition() == Some(condition)).then(|| text.clone())
        };
        let texts: Vec<String> = self.0.iter().filter_map(of).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    /// Whether all of it is named by conditions of its own.
    pub(super) fn all_named(&self) -> bool {
        self.0.keys().all(|trouble| trouble.condition().is_some())
    }

    /// All of it in one text; nothing when all is well.
    pub(super) fn text(&self) -> Option<String> {
        let texts: Vec<&str> = self.0.values().map(String::as_str).collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_over_leaves_the_others() {
        let mut troubles = Troubles::default();
        assert!(troubles.raise(Trouble::Tls, "tls".to_owned()));
        assert!(!troubles.raise(Trouble::Tls, "tls again".to_owned()));
        assert!(troubles.raise(Trouble::LoginRefused, "login".to_owned()));
        assert_eq!(troubles.text().as_deref(), Some("login; tls again"));
        assert!(troubles.clear(Trouble::LoginRefused) && !troubles.clear(Trouble::LoginRefused));
        assert!(troubles.clear(Trouble::Tls));
        assert_eq!(troubles.text(), None);
    }
}
