//! What clients and the agent say to each other on the agent's local socket.
//!
//! One JSON object a line in both directions. A client sends requests one after the other on one connection;
//! each is answered by one [`Reply`], or for streams by any number of items and then [`Reply::End`]. A followed
//! stream ends when the client closes the connection.

mod status;

use std::path::PathBuf;

use crate::message::Progress;
use crate::result::ModuleResult;
use crate::severity::Severity;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::module_name::ModuleName;

pub use status::{
    AgentStatus, ConfigStatus, FleetStatus, Health, JournalStatus, JournalVerification, MissingAlerts,
    ModuleState, ModuleStatus, PrivacyStatus, ProcessUse, QueryStatus, SinkState, SinkStatus, SinkTest,
};

/// Name of the agent's socket in its run directory.
pub const SOCKET_NAME: &str = "agent.sock";

/// What a client asks.
#[derive(Debug, Serialize, Deserialize)]
// Not tagged from within: serde buffers such values, and a raw JSON value cannot be read from its buffer.
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How the agent and its modules are; answered by [`Reply::Status`].
    Status {},
    /// Asks a module; answered by [`Reply::Result`].
    Query {
        /// The module.
        module: String,
        /// Its parameters.
        #[serde(default)]
        parameters: Option<Box<RawValue>>,
        /// How long to wait in milliseconds; never longer than the agent's `moduletimeout`.
        #[serde(default)]
        timeout_ms: Option<u64>,
        /// Tell how far the module is while it works: any number of [`Reply::Progress`] ahead of the result.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        progress: bool,
    },
    /// Ends the [`Request::Query`] that runs on this connection: its module returns what it has found so far, and that
    /// is the answer. Means nothing when none runs.
    Stop {},
    /// The alerts on disk, oldest first; a stream of [`Reply::Alert`].
    Alerts {
        /// Only alerts recorded at this RFC 3339 time or later.
        #[serde(default)]
        since: Option<String>,
        /// Only alerts with a sequence number above this one.
        #[serde(default)]
        after: Option<u64>,
        /// Only alerts of this module.
        #[serde(default)]
        module: Option<String>,
        /// Only alerts at least so severe.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        severity: Option<Severity>,
        /// Only the newest COUNT alerts.
        #[serde(default)]
        last: Option<usize>,
        /// Go on with new alerts as they are recorded.
        #[serde(default)]
        follow: bool,
    },
    /// Proves the journal, reading all of it; answered by [`Reply::Verified`].
    VerifyAlerts {},
    /// Reads the configuration again; answered by [`Reply::Reloaded`].
    Reload {
        /// Only show what would change.
        #[serde(default)]
        dry_run: bool,
    },
    /// Ends a persistent module gracefully and starts it again at once, its breaker closed; answered by
    /// [`Reply::Restarted`] when the new process runs.
    Restart {
        /// The module.
        module: String,
    },
    /// Sends a test alert to a sink, apart from its queue; answered by [`Reply::SinkTested`].
    TestSink {
        /// The sink.
        sink: String,
    },
    /// The newest lines that a module logged or wrote to stderr; a stream of [`Reply::Line`].
    Logs {
        /// The module.
        module: String,
        /// Go on with new lines.
        #[serde(default)]
        follow: bool,
    },
    /// The `config` that a module's present life has, and the messages that pass between it and the agent from now on,
    /// over its restarts; a stream of [`Reply::Line`].
    Tap {
        /// The module.
        module: String,
        /// Whole lines, however long they are.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        whole: bool,
    },
}

/// What the agent answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Answer to [`Request::Status`].
    Status(Box<AgentStatus>),
    /// How far a [`Request::Query`] is that asked for it; the newest, at most a few a second.
    Progress(Progress),
    /// Answer to [`Request::Query`].
    Result(ModuleResult),
    /// One alert of [`Request::Alerts`].
    Alert(AlertRecord),
    /// Alerts that [`Request::Alerts`] asks for and that are not there, in their place among the others.
    Missing(MissingAlerts),
    /// Answer to [`Request::VerifyAlerts`].
    Verified(Box<JournalVerification>),
    /// One line of [`Request::Logs`] or [`Request::Tap`].
    Line(Box<ModuleLine>),
    /// Answer to [`Request::Reload`].
    Reloaded(ReloadReport),
    /// Answer to [`Request::Restart`].
    Restarted {
        /// The module.
        module: ModuleName,
        /// Its new process.
        pid: u32,
    },
    /// Answer to [`Request::TestSink`].
    SinkTested(SinkTest),
    /// The stream is complete.
    End {},
    /// The request was not carried out.
    Error(ErrorReply),
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// Fixed name for programs, such as `module_unknown`.
    pub kind: String,
    /// What is wrong.
    pub message: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

/// One recorded alert; a line of the journal has the same form.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AlertRecord {
    /// Number in the order of recording, from 1, without gaps.
    pub seq: u64,
    /// When the agent received it, RFC 3339 in UTC.
    pub time: String,
    /// The module that sent it.
    pub module: ModuleName,
    /// The module's id for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The alert's text as the module sent it.
    pub message: String,
}

/// A line that a module wrote, or that was written to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleLine {
    /// When, RFC 3339 in UTC.
    pub time: String,
    /// `log`, `stderr` or `dropped`, or for a tap `to_module` and `from_module`; `missed` where lines were left out.
    pub source: String,
    /// Which life of the module a tapped line of its pipes belongs to, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life: Option<u64>,
    /// The query that a tapped line belongs to, by its number since the agent started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<u64>,
    /// What became of a tapped line; absent where nothing is to be said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fate: Option<LineFate>,
    /// Why it was dropped, by a name for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The text, cut where it is very long; empty for a line that could not be read.
    pub text: String,
}

/// What became of a line between agent and module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LineFate {
    /// The agent took it for what it is.
    Accepted,
    /// It was not carried.
    Dropped,
    /// The line tells the module that its alert is safe.
    Acknowledged,
}

impl LineFate {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Dropped => "dropped",
            Self::Acknowledged => "acknowledged",
        }
    }
}

/// Whether a module has a configuration, as far as it said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InForce {
    /// The module confirmed it, or was started with it and runs.
    InForce,
    /// It was sent, and the module has not said anything yet.
    Unconfirmed,
    /// The module refused it.
    Refused,
    /// The module did not say anything in time.
    Unanswered,
    /// The module does not run at present.
    NotRunning,
}

/// The newest configuration of one module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleConfigStatus {
    /// The module.
    pub module: ModuleName,
    /// Which configuration was sent to it last.
    pub generation: u64,
    /// What became of it.
    pub state: InForce,
    /// Why the module refused it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

/// What a reload did, or would do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReloadReport {
    /// Whether the configuration is valid and took effect (or would).
    pub ok: bool,
    /// The configuration in force afterwards.
    pub generation: u64,
    /// One sentence for each change, empty when nothing changed.
    pub changes: Vec<String>,
    /// What is wrong.
    pub problems: Vec<ConfigProblem>,
    /// What each persistent module made of its configuration; empty for a dry run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<ModuleConfigStatus>,
}

/// Persistent or standard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModuleKind {
    /// Runs as long as the agent.
    Persistent,
    /// Runs for one query.
    Standard,
}

/// One thing that is wrong in a configuration file, shown as `FILE:LINE: KEY: MESSAGE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct ConfigProblem {
    /// The file.
    pub file: PathBuf,
    /// Line in the file from 1; absent when the problem is the file as a whole.
    pub line: Option<usize>,
    /// The key, with its section: `agent.heartbeat_interval`.
    pub key: Option<String>,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl std::fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(key) = &self.key {
            write!(f, ": {key}")?;
        }
        write!(f, ": {}", self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_with_parameters_is_read_back() {
        let text = r#"{"query":{"module":"x","parameters":{"a": [1]},"timeout_ms":5}}"#;

        let Request::Query { parameters, .. } = serde_json::from_str(text).unwrap() else {
            panic!("no query")
        };

        assert_eq!(parameters.unwrap().get(), r#"{"a": [1]}"#);
    }
}
