//! What an investigator asks: the action, and the envelope that carries its exact bytes with their signatures.
//!
//! The envelope holds the action as text, because a signature is over bytes: nothing is ever written again from
//! what was parsed.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use vigie_protocol::names::{ActionId, AgentId};

/// Version of [`Action`] and [`Envelope`].
pub const VERSION: u8 = 1;

/// Largest envelope without a list of agents, in bytes.
pub const MAX_ENVELOPE_BYTES: usize = 64 * 1024;

/// Largest envelope with a list of agents, in bytes; NATS takes messages of 1 MiB.
pub const MAX_LISTED_ENVELOPE_BYTES: usize = 768 * 1024;

/// Most agents that an action can list.
pub const MAX_AGENTS: usize = 20_000;

/// Most signatures of an envelope.
pub const MAX_SIGNATURES: usize = 8;

/// Most operations of an action.
pub const MAX_OPERATIONS: usize = 64;

/// Namespace of the signatures of actions (`ssh-keygen -Y sign -n …`), so that nothing that was signed for
/// another purpose is an action.
pub const NAMESPACE: &str = "vigie-action@v1";

/// An action and who signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// The exact text that was signed: JSON of an [`Action`].
    pub action: String,
    /// Armoured SSH signatures (OpenSSH's PROTOCOL.sshsig) over the bytes of `action`.
    pub sigs: Vec<String>,
}

/// What agents are asked to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// Always [`VERSION`].
    pub v: u8,
    /// Name of the fleet that it is for.
    pub org: String,
    /// Its id.
    pub id: ActionId,
    /// What it is for, in the words of whoever asks; up to 256 bytes.
    pub name: String,
    /// Which agents it is for; see [`crate::predicate`].
    pub target: String,
    /// When given, it is for these of them only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<Vec<AgentId>>,
    /// First moment at which it may be run, in seconds since 1970 (UTC).
    pub not_before: i64,
    /// Last moment at which it may be begun, in seconds since 1970 (UTC).
    pub not_after: i64,
    /// What to ask, in order. None when it stops something.
    #[serde(default)]
    pub ops: Vec<Operation>,
    /// When given, agents ask it again and again until `not_after`, and send what differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
    /// The standing question that this one ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<ActionId>,
    /// Bounds on what it may use on each agent.
    #[serde(default)]
    pub limits: Limits,
}

/// How a question stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// Seconds between two runs.
    pub every: u32,
}

/// One question to one module.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// The module.
    pub module: String,
    /// Its parameters, as it takes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Box<RawValue>>,
}

/// Bounds on what an action may use on each agent. What is absent is bounded by the policy and the agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Time for all operations together, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u32>,
    /// Size of the whole answer in bytes; what is larger is cut and says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}
