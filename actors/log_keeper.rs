//! Applies changes of the `[logging]` section to the agent's log, and reopens it.
//!
//! Started by the agent; told by `ConfigLoader` and by the agent's signals. The log itself is written by
//! everybody through [`AgentLog`]; opening files is done here, on the blocking pool.

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use slog::{Logger, error, o};

use crate::config_loader::ConfigChanged;
use crate::work_threads::{self, Lane};
use vigie_log::{AgentLog, LogError};
use vigie_protocol::error_chain::ErrorChain;

/// Messages in the mailbox before a sender waits.
const MAILBOX_CAPACITY: usize = 4;

/// Orders the log file to be opened again, because somebody may have moved it. Sent at SIGHUP.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ReopenLog;

/// The actor.
pub struct LogKeeper {
    log: Logger,
    agent_log: AgentLog,
}

impl LogKeeper {
    /// Keeps this log.
    #[must_use]
    pub fn new(agent_log: AgentLog, log: &Logger) -> Self {
        Self { log: log.new(o!("component" => "log_keeper")), agent_log }
    }

    fn change(
        &self,
        change: impl FnOnce(&AgentLog) -> Result<(), LogError> + Send + 'static,
    ) -> ResponseFuture<()> {
        let (agent_log, log) = (self.agent_log.clone(), self.log.clone());
        Box::pin(async move {
            let changed = work_threads::run(Lane::Config, move || change(&agent_log)).await;
            if let Ok(Err(error)) = changed {
                error!(log, "log continues as before"; "error" => %ErrorChain(&error));
            }
        })
    }
}

impl Actor for LogKeeper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_CAPACITY);
    }
}

impl Handler<ReopenLog> for LogKeeper {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: ReopenLog, _: &mut Self::Context) -> Self::Result {
        self.change(AgentLog::reopen)
    }
}

impl Handler<ConfigChanged> for LogKeeper {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, change: ConfigChanged, _: &mut Self::Context) -> Self::Result {
        let section = change.config.agent.logging.clone();
        self.change(move |agent_log| agent_log.apply(&section))
    }
}
