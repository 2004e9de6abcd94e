//! What an agent says of itself, and what targets are evaluated against.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::names::{AgentId, GroupName};

/// The facts of one agent. In a [`crate::target`] they have the names in backquotes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `agent`: its name in the fleet.
    pub agent: AgentId,
    /// `hostname`
    pub hostname: String,
    /// `os`: `linux`
    pub os: String,
    /// `os.id`: `ID` of os-release(5), such as `debian`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_id: Option<String>,
    /// `os.version`: `VERSION_ID` of os-release(5), such as `12`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// `arch`: as Go names it, such as `amd64`; MIG's investigators know it so.
    pub arch: String,
    /// `kernel`: release of the kernel, uname(2).
    pub kernel: String,
    /// `agent.version`
    pub agent_version: String,
    /// `module`: names of the modules that can be asked.
    #[serde(default)]
    pub modules: Vec<String>,
    /// `addr`: addresses of the host, without loopback.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// `tag.NAME`: labels that the host's configuration gives it.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// `group`: groups that the host's configuration puts it in.
    #[serde(default)]
    pub groups: Vec<GroupName>,
}
