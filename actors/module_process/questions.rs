//! What the actor is asked: how the module is, and what it said.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use actix::{Handler, Message, MessageResult};
use vigie_protocol::control::{ModuleLine, ModuleState};
use vigie_protocol::socket::SocketSpec;

use super::lifecycle::State;
use super::{Counters, ModuleProcess};

/// Asks how the module is.
#[derive(Debug, Message)]
#[rtype(result = "ProcessStatus")]
pub(crate) struct GetProcessStatus;

/// How a living module is.
#[derive(Debug, Clone)]
pub(crate) struct ProcessStatus {
    /// What it does.
    pub(crate) state: ModuleState,
    /// Why it is not plainly running.
    pub(crate) reason: Option<String>,
    /// Its process.
    pub(crate) pid: Option<u32>,
    /// How long it has lived.
    pub(crate) uptime: Duration,
    /// Where it answers queries.
    pub(crate) socket: Option<SocketSpec>,
    /// Round trip of the newest heartbeat.
    pub(crate) heartbeat: Option<Duration>,
    /// When it was answered.
    pub(crate) heartbeat_at: Option<jiff::Timestamp>,
    /// What it said in this life.
    pub(crate) counters: Counters,
    /// Numbers that it shows of itself.
    pub(crate) values: BTreeMap<String, u64>,
}

/// Asks for the newest lines that the module logged or wrote to stderr, and for the `config` that it has.
#[derive(Debug, Message)]
#[rtype(result = "(VecDeque<ModuleLine>, Option<ModuleLine>)")]
pub(crate) struct GetLines;

impl ModuleProcess {
    fn status(&self) -> ProcessStatus {
        let missed = self.lifecycle.missed();
        let silent = (missed > 0).then(|| format!("missed {missed} heartbeats in a row"));
        let (state, reason) = match self.lifecycle.state() {
            State::Starting => (ModuleState::Starting, silent),
            State::Running => (ModuleState::Running, None),
            State::Degraded => (ModuleState::Degraded, silent),
            State::Stopping(_) | State::Ended => {
                (ModuleState::Stopping, self.lifecycle.stop_reason().map(ToString::to_string))
            }
        };
        ProcessStatus {
            state,
            reason,
            pid: self.child.as_ref().map(|child| child.pid()),
            uptime: self.born.elapsed(),
            socket: self.socket.clone(),
            heartbeat: self.heartbeat,
            heartbeat_at: self.heartbeat_at,
            counters: self.counters.clone(),
            values: self.values.clone(),
        }
    }
}

impl Handler<GetProcessStatus> for ModuleProcess {
    type Result = MessageResult<GetProcessStatus>;

    fn handle(&mut self, _: GetProcessStatus, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.status())
    }
}

impl Handler<GetLines> for ModuleProcess {
    type Result = MessageResult<GetLines>;

    fn handle(&mut self, _: GetLines, _: &mut Self::Context) -> Self::Result {
        MessageResult((self.lines.clone(), self.sent_config.clone()))
    }
}
