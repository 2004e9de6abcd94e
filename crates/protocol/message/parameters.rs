//! What the messages carry: the parameters of each class, and what goes along with a query.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::condition::Condition;

/// What goes along with the parameters of a query.
#[derive(Debug, Clone, Default)]
pub struct QueryOptions {
    /// For an adapter: the socket of the persistent module to ask.
    pub persistsock: Option<String>,
    /// Mask what identifies.
    pub extraprivacy: bool,
    /// RFC 3339 time after which nobody waits for the answer.
    pub deadline: Option<String>,
    /// Who asks, as far as it is proved.
    pub asker: Option<Asker>,
    /// Messages about progress may come ahead of the result.
    pub progress: bool,
}

/// Parameters of `progress`: how far a query is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Progress {
    /// How many things are done.
    pub done: u64,
    /// How many there are, when that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// How many matches were found so far, when something is searched for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<u64>,
    /// What is counted, in the plural: `files`.
    pub unit: String,
}

/// Who asks, as far as the agent can prove it: what a query's own parameters claim is not in here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Asker {
    /// The user on this host that asked through the agent's local socket, by its credentials (SO_PEERCRED).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// That user's name, when this host has one for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The investigator whose signature a query from elsewhere carried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub investigator: Option<String>,
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.investigator, &self.user, self.uid) {
            (Some(investigator), ..) => write!(f, "investigator {investigator}"),
            (None, Some(user), _) => write!(f, "user {user}"),
            (None, None, Some(uid)) => write!(f, "user {uid}"),
            (None, None, None) => f.write_str("somebody unknown"),
        }
    }
}

/// Parameters of `config`.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ConfigParameters {
    /// The module's own configuration.
    pub config: Option<Box<RawValue>>,
    /// The host's name.
    pub hostname: String,
    /// What kind of host this is.
    pub environment: Environment,
    /// Labels that the operator gave this host.
    pub tags: Option<BTreeMap<String, String>>,
    /// Extension: mask what identifies in query results.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub extraprivacy: bool,
    /// Extension: where the module creates its query socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rundir: Option<String>,
    /// Extension: where the module may keep its state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statedir: Option<String>,
    /// Extension: files and directories that the agent itself writes for every alert; a module that tells of changes
    /// there makes the next one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ownpaths: Vec<String>,
    /// Extension: which configuration this is; the module repeats it in `configured`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Extension: classes of messages that this agent understands beyond MIG's; a module sends them to no other agent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accepts: Vec<String>,
    /// Extension: texts that the fleet's signed policy has for the module, by name. What it cannot use it reports as a
    /// condition; the configuration is not refused for it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub packs: BTreeMap<String, String>,
}

/// What our agent names in [`ConfigParameters::accepts`].
pub const ACCEPTED_EXTENSIONS: [&str; 2] = ["health", "configured"];

/// Parameters of `health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct HealthParameters {
    /// The whole set; empty when all is well.
    pub conditions: Vec<Condition>,
    /// Numbers that the module shows of itself, by names of lower-case letters, digits and `_`, each with its unit at
    /// the end where it has one.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, u64>,
}

/// Most values that a module may show.
const MAX_VALUES: usize = 64;

/// Longest name of a value in bytes.
const MAX_VALUE_NAME_BYTES: usize = 48;

impl HealthParameters {
    /// Leaves out values beyond the bounds, and those whose name cannot be one.
    pub fn bound_values(&mut self) {
        let is_name = |name: &str| {
            (1..=MAX_VALUE_NAME_BYTES).contains(&name.len())
                && name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        self.values.retain(|name, _| is_name(name));
        while self.values.len() > MAX_VALUES {
            self.values.pop_last();
        }
    }
}

/// Parameters of `configured`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ConfiguredParameters {
    /// Which configuration this is about.
    pub generation: u64,
    /// Whether it is in force in the module.
    pub ok: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

/// The host as the agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Environment {
    /// The init system, for example `systemd`.
    pub init: String,
    /// Distribution and version, for example `Debian 12 bookworm`.
    pub ident: String,
    /// Operating system, `linux`.
    pub os: String,
    /// Processor architecture in Go's spelling, for example `amd64`.
    pub arch: String,
    /// Whether the agent reaches the outside through a proxy; MIG's key, always false here.
    pub isproxied: bool,
    /// Addresses of all interfaces in CIDR notation, loopback left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Address as seen from outside; empty because the agent asks nobody.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub publicip: String,
    /// MIG's key for cloud metadata, always empty here.
    pub aws: BTreeMap<String, String>,
    /// Names of the modules that this agent can run.
    pub modules: Vec<String>,
}

/// Parameters of `ping`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct PingParameters {
    /// Extension: tells this heartbeat's echo from a late one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<u64>,
}

/// Parameters of `register`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterParameters<'a> {
    /// Socket spec; see [`crate::socket::SocketSpec`].
    #[serde(borrow)]
    pub sockpath: Cow<'a, str>,
    /// Extension: version of the protocol that the module speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u32>,
    /// Extension: names from [`super::capability`]; unknown ones are ignored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<Cow<'a, str>>,
}

/// Parameters of `log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogParameters<'a> {
    /// The text.
    #[serde(borrow)]
    pub message: Cow<'a, str>,
}

/// Parameters of `alert`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertParameters<'a> {
    /// The alert; by custom itself a JSON object in a string.
    #[serde(borrow)]
    pub message: Cow<'a, str>,
    /// Extension: unique for the module for ever.
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, str>>,
}

/// Parameters of `ack`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckParameters<'a> {
    /// Id of the alert that is safe.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_a_module_are_bounded_and_have_names_that_can_be_one() {
        let name = |number: u64| format!("n{number:03}");
        let mut health = HealthParameters {
            values: (0..99).map(|number| (name(number), number)).collect(),
            ..HealthParameters::default()
        };
        for bad in ["", "9x", "a b", "a\"} 1", "\u{e9}", &"x".repeat(MAX_VALUE_NAME_BYTES + 1)] {
            health.values.insert(bad.to_owned(), 1);
        }

        health.bound_values();

        assert_eq!(health.values.len(), MAX_VALUES);
        assert!(health.values.keys().all(|name| name.starts_with('n')), "{:?}", health.values);
    }
}
