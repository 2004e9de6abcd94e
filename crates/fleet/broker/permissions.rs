//! Who may do what on the broker. Pure.
//!
//! | account | users | has |
//! |---|---|---|
//! | fleet | administrators | the streams |
//! | agents | agents | no streams; what agents write goes to the fleet's account as requests to a service |
//! | one for each site | the site's leaf node ([`super::leaf`]) | no streams; the same |
//! | investigators | investigators | no streams; the same |
//! | enrollers | enrollers | no streams; the same |
//! | joiners | hosts with a token to join by | no streams; the same |
//! | forwarders | programs that pass alerts on | no streams; the same |
//!
//! An agent's publish, whatever its reply subject, headers or ids, is at most a request on a literal subject with its
//! own name: an acknowledgement goes to the reply subject within the agents' account, where nobody listens on a
//! subject that can be guessed. Imports keep their subjects: one that renamed them would let a reply store under a
//! name of its own.

use serde_json::{Value, json};

use crate::subjects::{
    ALERTS, ASK, ENROL, EVERY_ALERT, EVERY_ANSWER, EVERY_ASK, EVERY_AUDIT, EVERY_ENROLMENT, EVERY_FACTS,
    EVERY_JOIN, EVERY_JOINED, EVERY_LIVE, EVERY_RENEWAL, EVERY_STANDING, FACTS, JOIN, JOINED, POLICY, RENEW,
    SLOTS, STANDING, STREAMS,
};
use vigie_protocol::names::AgentId;

/// Largest message that a person may publish, in bytes: NATS' default for the server.
const MAX_PAYLOAD_BYTES: i64 = 1024 * 1024;

/// Largest message that an agent may publish: a part of an answer.
const MAX_AGENT_PAYLOAD_BYTES: i64 = 512 * 1024;

/// Most subscriptions of an agent: its inboxes, and where it listens. A connection that ended uncleanly may still
/// count.
const MAX_AGENT_SUBSCRIPTIONS: i64 = 8;

/// Largest message that a host may publish that wants to join.
const MAX_JOIN_PAYLOAD_BYTES: i64 = 16 * 1024;

/// Connections that only people can have, when agents and hosts that join take all that they may.
pub(super) const KEPT_CONNECTIONS: i64 = 256;

/// Connections of hosts that join: they stay for seconds.
const JOINING_CONNECTIONS: i64 = 4096;

/// Most connections to a server: the default of NATS.
pub(super) const MAX_CONNECTIONS: i64 = 64 * 1024;

/// No limit, in the tokens of NATS.
pub(super) const UNLIMITED: i64 = -1;

/// What a user of the broker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Takes actions, sends answers and alerts, under its own name only.
    Agent,
    /// Asks under his own name; reads all streams.
    Investigator,
    /// Stores the records that let agents in.
    Enroller,
    /// Makes streams, publishes the policy: everything in the fleet's account.
    Administrator,
    /// Asks to be let in by a token, and waits for the answer.
    Joiner,
    /// Takes alerts from the consumer of its name, which an administrator made, and reads what proves them.
    Forwarder,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 6] =
        [Self::Agent, Self::Investigator, Self::Enroller, Self::Administrator, Self::Joiner, Self::Forwarder];

    /// The role's name in tokens and file names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Investigator => "investigator",
            Self::Enroller => "enroller",
            Self::Administrator => "administrator",
            Self::Joiner => "joiner",
            Self::Forwarder => "forwarder",
        }
    }

    /// The account that its users are in.
    #[must_use]
    pub fn account(self) -> Account {
        match self {
            Self::Agent => Account::Agents,
            Self::Investigator => Account::Investigators,
            Self::Enroller => Account::Enrollers,
            Self::Administrator => Account::Fleet,
            Self::Joiner => Account::Joiners,
            Self::Forwarder => Account::Forwarders,
        }
    }

    /// The prefix of the inboxes that a user of this role may subscribe to. Agents and people have different ones,
    /// so that nobody gets at an agent's by bearing its name.
    #[must_use]
    pub fn inbox_prefix(self, user: &AgentId) -> String {
        match self {
            Self::Agent => crate::subjects::inbox_prefix(user),
            _ => format!("_INBOX.{}.{user}", self.name()),
        }
    }

    /// The permissions of all users of this role; `{{name()}}` stands for the user's name, and must be a whole token
    /// for nats-server 2.9.10.
    pub(super) fn template(self) -> Value {
        let (publish, subscribe, subscriptions, payload) = match self {
            Self::Agent => (
                ["alert", "audit", "facts", "renew"]
                    .map(|kind| format!("vigie.{kind}.{{{{name()}}}}"))
                    .into_iter()
                    // Listed, because limits are per subject.
                    .chain((0..SLOTS).map(|slot| format!("vigie.res.{slot}.{{{{name()}}}}")))
                    // What is wanted stands in the body, so it shows questions to other agents too.
                    .chain(READ_BY_AGENTS.map(direct_get))
                    .chain(newest_of("{{name()}}"))
                    .collect(),
                vec!["vigie.live.{{name()}}.*".to_owned(), "_INBOX.agent.{{name()}}.>".to_owned()],
                MAX_AGENT_SUBSCRIPTIONS,
                MAX_AGENT_PAYLOAD_BYTES,
            ),
            Self::Investigator => (
                ["vigie.ask.{{name()}}", "vigie.standing.{{name()}}", EVERY_LIVE]
                    .map(str::to_owned)
                    .into_iter()
                    .chain(STREAMS.map(direct_get))
                    .collect::<Vec<_>>(),
                vec![EVERY_ANSWER.to_owned(), "_INBOX.investigator.{{name()}}.>".to_owned()],
                UNLIMITED,
                MAX_PAYLOAD_BYTES,
            ),
            Self::Enroller => (
                [EVERY_ENROLMENT, EVERY_JOINED]
                    .map(str::to_owned)
                    .into_iter()
                    .chain(READ_BY_ENROLLERS.map(direct_get))
                    .collect(),
                vec!["_INBOX.enroller.{{name()}}.>".to_owned()],
                MAX_AGENT_SUBSCRIPTIONS,
                MAX_AGENT_PAYLOAD_BYTES,
            ),
            Self::Administrator => (vec![">".to_owned()], vec![">".to_owned()], UNLIMITED, MAX_PAYLOAD_BYTES),
            Self::Joiner => (
                vec!["vigie.join.{{name()}}".to_owned(), direct_get(POLICY), direct_get(JOINED)],
                vec!["_INBOX.joiner.{{name()}}.>".to_owned()],
                // All hosts that join by one token have one name.
                MAX_AGENT_SUBSCRIPTIONS,
                MAX_JOIN_PAYLOAD_BYTES,
            ),
            Self::Forwarder => (
                vec![
                    format!("{NEXT_ALERTS}.{{{{name()}}}}"),
                    format!("{ACK_ALERTS}.{{{{name()}}}}.>"),
                    direct_get(ENROL),
                    direct_get(POLICY),
                ],
                vec!["_INBOX.forwarder.{{name()}}.>".to_owned()],
                // All instances have one name.
                UNLIMITED,
                MAX_JOIN_PAYLOAD_BYTES,
            ),
        };
        json!({
            "pub": {"allow": publish},
            "sub": {"allow": subscribe},
            "subs": subscriptions,
            "data": UNLIMITED,
            "payload": payload,
        })
    }
}

/// What agents read.
pub(super) const READ_BY_AGENTS: [&str; 4] = [POLICY, ASK, STANDING, JOINED];

/// Where an agent reads the newest of its own alerts and heartbeats: what it does not know of itself, another host
/// wrote, or it did before an older copy of its files was put back.
pub(super) fn newest_of(agent: &str) -> [String; 2] {
    [(ALERTS, "alert"), (FACTS, "facts")]
        .map(|(stream, kind)| format!("{}.vigie.{kind}.{agent}", direct_get(stream)))
}

/// What enrollers need to decide who may join.
const READ_BY_ENROLLERS: [&str; 5] = [ENROL, POLICY, JOIN, RENEW, JOINED];

/// Where a forwarder asks its consumer for alerts, and where it acknowledges them; the consumer's name follows.
pub(super) const NEXT_ALERTS: &str = "$JS.API.CONSUMER.MSG.NEXT.ALERTS";
/// See [`NEXT_ALERTS`].
const ACK_ALERTS: &str = "$JS.ACK.ALERTS";

pub(super) fn direct_get(stream: &str) -> String {
    format!("$JS.API.DIRECT.GET.{stream}")
}

/// An account of the broker: users of one see nothing of another but what is exported and imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Account {
    /// Has the streams.
    Fleet,
    /// Of agents.
    Agents,
    /// Of investigators.
    Investigators,
    /// Of enrollers.
    Enrollers,
    /// Of hosts that want to join.
    Joiners,
    /// Of programs that pass alerts on.
    Forwarders,
}

impl Account {
    /// All accounts.
    pub const ALL: [Self; 6] =
        [Self::Fleet, Self::Agents, Self::Investigators, Self::Enrollers, Self::Joiners, Self::Forwarders];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fleet => "fleet",
            Self::Agents => "agents",
            Self::Investigators => "investigators",
            Self::Enrollers => "enrollers",
            Self::Joiners => "joiners",
            Self::Forwarders => "forwarders",
        }
    }

    /// Its roles.
    pub(super) fn roles(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| role.account() == self)
    }

    /// Most connections: agents leave some to people.
    pub(super) fn connections(self) -> i64 {
        match self {
            Self::Agents => MAX_CONNECTIONS - KEPT_CONNECTIONS - JOINING_CONNECTIONS,
            Self::Joiners => JOINING_CONNECTIONS,
            _ => UNLIMITED,
        }
    }

    /// Most connections of its users to a server, when there is a limit.
    #[must_use]
    pub fn most_connections(self) -> Option<u64> {
        u64::try_from(self.connections()).ok()
    }

    /// What others may import: a service takes requests, a stream gives messages.
    pub(super) fn exports(self) -> Vec<Shared> {
        match self {
            Self::Fleet => {
                let written = [
                    EVERY_ALERT,
                    EVERY_AUDIT,
                    EVERY_FACTS,
                    EVERY_ANSWER,
                    EVERY_ASK,
                    EVERY_STANDING,
                    EVERY_ENROLMENT,
                    EVERY_JOIN,
                    EVERY_RENEWAL,
                    EVERY_JOINED,
                ];
                written
                    .map(Shared::service)
                    .into_iter()
                    .chain(STREAMS.map(|stream| Shared::service(&direct_get(stream))))
                    .chain([Shared::stream(EVERY_LIVE)])
                    .chain(
                        of_consumers()
                            .into_iter()
                            .chain(newest_of("*"))
                            .map(|subject| Shared::service(&subject)),
                    )
                    .collect()
            }
            Self::Agents => vec![Shared::stream(EVERY_ANSWER)],
            Self::Investigators => vec![Shared::stream(EVERY_LIVE)],
            Self::Enrollers | Self::Joiners | Self::Forwarders => Vec::new(),
        }
    }

    /// What it takes from others, under the same subject.
    pub(super) fn imports(self) -> Vec<(Self, Shared)> {
        let of_fleet = |shared: Shared| (Self::Fleet, shared);
        match self {
            Self::Fleet => Vec::new(),
            Self::Agents => [EVERY_ALERT, EVERY_AUDIT, EVERY_FACTS, EVERY_ANSWER, EVERY_RENEWAL]
                .map(str::to_owned)
                .into_iter()
                .chain(READ_BY_AGENTS.map(direct_get))
                .chain(newest_of("*"))
                .map(|subject| of_fleet(Shared::service(&subject)))
                .chain([
                    of_fleet(Shared::stream(EVERY_LIVE)),
                    (Self::Investigators, Shared::stream(EVERY_LIVE)),
                ])
                .collect(),
            Self::Investigators => [EVERY_ASK, EVERY_STANDING]
                .map(str::to_owned)
                .into_iter()
                .chain(STREAMS.map(direct_get))
                .map(|subject| of_fleet(Shared::service(&subject)))
                .chain([(Self::Agents, Shared::stream(EVERY_ANSWER))])
                .collect(),
            Self::Enrollers => [EVERY_ENROLMENT, EVERY_JOINED]
                .map(str::to_owned)
                .into_iter()
                .chain(READ_BY_ENROLLERS.map(direct_get))
                .map(|subject| of_fleet(Shared::service(&subject)))
                .collect(),
            Self::Joiners => [EVERY_JOIN.to_owned(), direct_get(POLICY), direct_get(JOINED)]
                .iter()
                .map(|subject| of_fleet(Shared::service(subject)))
                .collect(),
            Self::Forwarders => of_consumers()
                .into_iter()
                .chain([ENROL, POLICY].map(direct_get))
                .map(|subject| of_fleet(Shared::service(&subject)))
                .collect(),
        }
    }
}

/// The two subjects of consumers of alerts, for all names. An answer goes to whoever asked, in his account.
fn of_consumers() -> [String; 2] {
    [format!("{NEXT_ALERTS}.*"), format!("{ACK_ALERTS}.*.>")]
}

/// A subject that crosses accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shared {
    pub(super) subject: String,
    /// `service` or `stream`.
    pub(super) kind: &'static str,
}

impl Shared {
    pub(super) fn service(subject: &str) -> Self {
        Self { subject: subject.to_owned(), kind: "service" }
    }

    pub(super) fn stream(subject: &str) -> Self {
        Self { subject: subject.to_owned(), kind: "stream" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::stored::matches;

    fn allowed(role: Role, what: &str) -> Vec<String> {
        let template = role.template();
        let list = template[what]["allow"].as_array().unwrap();
        list.iter().map(|subject| subject.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn an_agent_writes_literal_subjects_under_its_own_name_only() {
        for subject in allowed(Role::Agent, "pub") {
            assert!(!subject.contains('*') && !subject.contains('>'), "{subject} has no bound");
            assert!(
                subject.ends_with(".{{name()}}") || READ_BY_AGENTS.map(direct_get).contains(&subject),
                "{subject} is everybody's"
            );
        }
        for subject in allowed(Role::Agent, "sub") {
            assert!(subject.contains(".{{name()}}."), "{subject} is everybody's");
        }
    }

    #[test]
    fn nobody_but_administrators_may_make_consumers_or_change_streams() {
        let of_forwarders = ["$JS.API.CONSUMER.MSG.NEXT.ALERTS.{{name()}}", "$JS.ACK.ALERTS.{{name()}}.>"];
        for role in Role::ALL.into_iter().filter(|role| *role != Role::Administrator) {
            for subject in allowed(role, "pub") {
                let api = subject.strip_prefix("$");
                let of_own = role == Role::Forwarder && of_forwarders.contains(&subject.as_str());
                assert!(
                    of_own || api.is_none_or(|api| api.starts_with("JS.API.DIRECT.GET.")),
                    "{role:?} {subject}"
                );
            }
        }
    }

    #[test]
    fn a_forwarder_writes_nothing_but_what_it_took_and_reads_nothing_but_proofs() {
        assert_eq!(
            allowed(Role::Forwarder, "pub"),
            [
                "$JS.API.CONSUMER.MSG.NEXT.ALERTS.{{name()}}",
                "$JS.ACK.ALERTS.{{name()}}.>",
                "$JS.API.DIRECT.GET.ENROL",
                "$JS.API.DIRECT.GET.POLICY",
            ]
        );
        assert_eq!(allowed(Role::Forwarder, "sub"), ["_INBOX.forwarder.{{name()}}.>"]);
    }

    /// nats-server 2.9.10 leaves others as they are, and they then fit nobody.
    #[test]
    fn a_name_in_a_template_is_a_whole_token() {
        for role in Role::ALL {
            let text = role.template().to_string();
            for subject in text.split('"').filter(|part| part.contains("{{")) {
                assert!(
                    subject.split('.').all(|token| !token.contains("{{") || token == "{{name()}}"),
                    "{subject}"
                );
            }
        }
    }

    #[test]
    fn what_a_role_may_publish_crosses_into_the_accounts_that_want_it() {
        for role in Role::ALL.into_iter().filter(|role| *role != Role::Administrator) {
            let imports = role.account().imports();
            for subject in allowed(role, "pub") {
                let literal = subject.replace("{{name()}}", "web-1");
                let taken = imports.iter().any(|(_, shared)| matches(&shared.subject, &literal));
                let given = role.account().exports().iter().any(|shared| shared.subject == subject);
                assert!(taken || given, "{role:?} {subject}");
            }
            for (from, shared) in imports {
                assert!(from.exports().contains(&shared), "{shared:?} of {from:?}");
            }
        }
    }

    #[test]
    fn people_and_agents_of_one_name_have_different_inboxes() {
        let name: AgentId = "web-1".parse().unwrap();
        let prefixes = Role::ALL.map(|role| role.inbox_prefix(&name));
        for (number, prefix) in prefixes.iter().enumerate() {
            for other in prefixes.iter().skip(number + 1) {
                assert!(!other.starts_with(&format!("{prefix}.")) && other != prefix);
            }
        }
    }
}
