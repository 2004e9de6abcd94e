//! Why a module cannot be started.

use std::path::PathBuf;

use vigie_protocol::catalogue::AgentCondition;

use crate::descriptors;

/// Why a module cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    /// The program, or its directory, can be changed by others than root and the agent's user.
    #[error("program {program:?} is not safe to run: {reason}")]
    UnsafeProgram {
        /// The program.
        program: PathBuf,
        /// What is wrong and how to mend it.
        reason: String,
    },
    /// The program is not there.
    #[error("program {program:?} cannot be used")]
    NoProgram {
        /// The program.
        program: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A directory for the module cannot be made.
    #[error("cannot create the directory {path:?} for the module")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The user is unknown.
    #[error("unknown user {user:?}")]
    UnknownUser {
        /// The user.
        user: String,
    },
    /// The system does not start a process.
    #[error("cannot start a process")]
    Start(#[source] std::io::Error),
    /// A former life of the module is still there, and a second copy must not be started beside it.
    #[error("process {pid} of an earlier life was killed but does not end; it may wait for a disk")]
    NotGone {
        /// One of its processes.
        pid: i32,
    },
    /// A disk or the user database does not answer.
    #[error("{what} does not respond")]
    NoAnswer {
        /// What was asked.
        what: &'static str,
    },
}

impl SpawnError {
    /// Whether the host or the agent lacks something, so that this says nothing about the module.
    #[must_use]
    pub(crate) fn is_shortage(&self) -> bool {
        match self {
            Self::Start(source) | Self::NoProgram { source, .. } | Self::Directory { source, .. } => {
                descriptors::is_shortage(source)
            }
            Self::NotGone { .. } | Self::NoAnswer { .. } => true,
            Self::UnsafeProgram { .. } | Self::UnknownUser { .. } => false,
        }
    }

    /// The agent's condition that this failure shows, if it shows one.
    #[must_use]
    pub(crate) fn shows(&self) -> Option<AgentCondition> {
        match self {
            Self::Start(source) => descriptors::condition(source),
            _ => None,
        }
    }
}
