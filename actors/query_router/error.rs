//! Every way in which a query can fail.

use std::time::Duration;

use vigie_protocol::module_name::ModuleName;
use vigie_protocol::suggestion;

/// Why a query has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// There is no module of that name.
    #[error("no module {name:?} is configured; there are: {known}")]
    ModuleUnknown {
        /// The name as asked.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// It must not run.
    #[error("module {0} is disabled")]
    ModuleOff(ModuleName),
    /// It runs but cannot be asked yet.
    #[error(
        "module {0} is running but has not registered a query socket; it is still starting, or does not support queries"
    )]
    ModuleStarting(ModuleName),
    /// It is being ended.
    #[error("module {0} is being stopped")]
    ModuleStopping(ModuleName),
    /// It does not run.
    #[error("module {module} is down: {reason}")]
    ModuleDown {
        /// The module.
        module: ModuleName,
        /// Why, and when it comes back.
        reason: String,
    },
    /// Its socket takes no connection.
    #[error("module {module} does not accept connections on {socket}: {reason}")]
    NotListening {
        /// The module.
        module: ModuleName,
        /// Its socket.
        socket: String,
        /// What the system says.
        reason: String,
    },
    /// Somebody else answers in its place.
    #[error("{socket} is not owned by module {module}: {reason}")]
    WrongPeer {
        /// The module.
        module: ModuleName,
        /// Its socket.
        socket: String,
        /// Who it is.
        reason: String,
    },
    /// It ended, or closed the connection, before it had answered.
    #[error("module {module} closed the connection without an answer: {reason}")]
    Unanswered {
        /// The module.
        module: ModuleName,
        /// What is known about why.
        reason: String,
    },
    /// Time is up.
    #[error("module {module} did not answer within {timeout:?}")]
    TimedOut {
        /// The module.
        module: ModuleName,
        /// The time.
        timeout: Duration,
    },
    /// The answer is too large.
    #[error("the result of module {module} exceeds {limit} bytes (limits.result_bytes)")]
    TooLarge {
        /// The module.
        module: ModuleName,
        /// The limit in bytes.
        limit: usize,
    },
    /// The answer is not a result.
    #[error("the answer of module {module} is not a valid result: {reason}")]
    BadAnswer {
        /// The module.
        module: ModuleName,
        /// What is wrong.
        reason: String,
    },
    /// Extra privacy mode is on, and the answer shows what it must not.
    #[error(
        "extra privacy mode is on, and the result of module {module} was withheld: {place} is not masked"
    )]
    Unmasked {
        /// The module.
        module: ModuleName,
        /// The place in its answer, never what is there.
        place: String,
    },
    /// The standard module could not be started.
    #[error("module {module} could not be started: {reason}")]
    NotStarted {
        /// The module.
        module: ModuleName,
        /// Why.
        reason: String,
    },
    /// Too many queries wait already.
    #[error(
        "too many queries: {running} running and {waiting} waiting (limits.running_queries, limits.waiting_queries)"
    )]
    TooMany {
        /// Queries that run.
        running: usize,
        /// Queries that wait.
        waiting: usize,
    },
    /// Whoever asked has gone away.
    #[error("the client that queried module {0} has disconnected")]
    ClientGone(ModuleName),
}

impl QueryError {
    /// Whether there was an answer that was not passed on.
    pub(super) fn is_dropped_answer(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::BadAnswer { .. } | Self::Unmasked { .. })
    }

    /// Fixed name for programs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ModuleUnknown { .. } => "module_unknown",
            Self::ModuleOff(_) => "module_off",
            Self::ModuleStarting(_) => "module_starting",
            Self::ModuleStopping(_) => "module_stopping",
            Self::ModuleDown { .. } => "module_down",
            Self::NotListening { .. } => "not_listening",
            Self::WrongPeer { .. } => "wrong_peer",
            Self::Unanswered { .. } => "unanswered",
            Self::TimedOut { .. } => "timed_out",
            Self::TooLarge { .. } => "too_large",
            Self::BadAnswer { .. } => "bad_answer",
            Self::Unmasked { .. } => "unmasked",
            Self::NotStarted { .. } => "not_started",
            Self::TooMany { .. } => "too_many",
            Self::ClientGone(_) => "client_gone",
        }
    }

    /// What the one who asks can do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::ModuleUnknown { name, known } => {
                suggestion::hint(name, known.split(", "), "`vigie module list` lists the modules")
            }
            Self::ModuleOff(name) => {
                format!("set enabled = true for {name} in the configuration and run `vigie reload`")
            }
            Self::ModuleStarting(name) => {
                format!("try again in a moment; `vigie module logs {name}` shows its log")
            }
            Self::ModuleStopping(_) => "try again in a moment".to_owned(),
            Self::ModuleDown { module, .. } => {
                format!("see `vigie module logs {module}`; `vigie module restart {module}` starts it at once")
            }
            Self::NotListening { module, .. }
            | Self::WrongPeer { module, .. }
            | Self::BadAnswer { module, .. } => {
                format!("restart it with `vigie module restart {module}`")
            }
            Self::Unanswered { module, .. } => format!("see `vigie module logs {module}`, then try again"),
            Self::TimedOut { .. } => {
                "narrow the query, or allow more time with --timeout (at most agent.moduletimeout)".to_owned()
            }
            Self::TooLarge { .. } => "narrow the query, or raise limits.result_bytes".to_owned(),
            Self::Unmasked { module, .. } => {
                format!("no part of the result was forwarded; correct {module}, or use the built-in module")
            }
            Self::NotStarted { module, .. } => {
                format!("correct the reported problem, or the command of {module} in the configuration")
            }
            Self::TooMany { .. } | Self::ClientGone(_) => "try again in a moment".to_owned(),
        }
    }
}
