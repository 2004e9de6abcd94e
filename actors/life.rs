//! Which life of a module, and why it ended: what every actor that deals with a module's process says of it.

use std::fmt;

/// Which life of a module; each start is a new one. What an old life still says is told apart by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Incarnation(pub(crate) u64);

/// Why a module's life ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// It exited by itself with this code.
    Exited(i32),
    /// It was ended by a signal that the agent did not send.
    Signalled(i32),
    /// It missed too many heartbeats.
    HeartbeatLost,
    /// It never answered a heartbeat.
    StartTimeout,
    /// It did not read its stdin.
    WriteTimeout,
    /// It closed its stdout and lived on.
    ClosedStdout,
    /// It closed its stdin and lived on.
    ClosedStdin,
    /// Its configuration changed and it cannot take a new one while it runs.
    ConfigChanged,
    /// It is no longer configured.
    Removed,
    /// An operator asked for a restart.
    Operator,
    /// The agent stops.
    AgentStopping,
    /// It could not be started.
    SpawnFailed(String),
    /// It could not be started because the host or the agent has no descriptors, tasks or memory left: no death
    /// of the module.
    Shortage(String),
    /// It used up what its control group allows.
    Limit(Limit),
}

/// What a control group limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Processes and threads.
    Tasks,
    /// Memory.
    Memory,
}

impl Limit {
    /// The word that reasons carry.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tasks => "tasks",
            Self::Memory => "memory",
        }
    }
}

impl EndReason {
    /// Whether the end was ordered, so that it says nothing about the module's health.
    #[must_use]
    pub(crate) fn is_ordered(&self) -> bool {
        matches!(self, Self::ConfigChanged | Self::Removed | Self::Operator | Self::AgentStopping)
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited({code})"),
            Self::Signalled(number) => write!(f, "signalled({number})"),
            Self::HeartbeatLost => f.write_str("heartbeat_lost"),
            Self::StartTimeout => f.write_str("start_timeout"),
            Self::WriteTimeout => f.write_str("write_timeout"),
            Self::ClosedStdout => f.write_str("closed_stdout"),
            Self::ClosedStdin => f.write_str("closed_stdin"),
            Self::ConfigChanged => f.write_str("config_changed"),
            Self::Removed => f.write_str("removed"),
            Self::Operator => f.write_str("operator"),
            Self::AgentStopping => f.write_str("agent_stopping"),
            Self::SpawnFailed(why) => write!(f, "spawn_failed({why})"),
            Self::Shortage(why) => write!(f, "shortage({why})"),
            Self::Limit(limit) => write!(f, "limit({})", limit.name()),
        }
    }
}
