//! The end of the agent: the modules end in the reverse order of their start, within the budget.

use std::time::Duration;

use actix::{AsyncContext, Handler, Message, MessageResult, ResponseFuture};
use tokio::sync::oneshot;
use tokio::time::Instant;
use vigie_protocol::module_name::ModuleName;

use super::Supervisor;
use super::module::{Phase, Rest};
use crate::life::EndReason;

/// Orders all modules to end, the last started first. Sent once, when the agent stops. Answered when all are
/// gone.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StopAll;

/// One module after the other is told to end; private to the stop of the agent.
#[derive(Debug, Message)]
#[rtype(result = "Option<StoppingModule>")]
struct StopOne {
    module: ModuleName,
    grace: Duration,
}

/// A module that was told to end.
#[derive(Debug)]
struct StoppingModule(oneshot::Receiver<()>);

impl Handler<StopOne> for Supervisor {
    type Result = MessageResult<StopOne>;

    fn handle(&mut self, order: StopOne, _: &mut Self::Context) -> Self::Result {
        let Some(module) = self.modules.get_mut(&order.module) else { return MessageResult(None) };
        if !matches!(module.phase, Phase::Living(_)) {
            return MessageResult(None);
        }
        let (sender, ended) = oneshot::channel();
        module.ending.push(sender);
        self.stop_module(&order.module, EndReason::AgentStopping, order.grace);
        MessageResult(Some(StoppingModule(ended)))
    }
}

impl Handler<StopAll> for Supervisor {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: StopAll, ctx: &mut Self::Context) -> Self::Result {
        self.stopping = true;
        for module in self.modules.values_mut() {
            if let Phase::Waiting { timer, .. } = module.phase {
                ctx.cancel_future(timer);
                module.phase = Phase::Resting(Rest::NotStarted);
            }
            module.starting.clear();
        }
        let mut order: Vec<ModuleName> = self.names();
        let leaving: Vec<_> = self.modules.keys().filter(|name| !order.contains(name)).cloned().collect();
        order.extend(leaving);
        order.reverse();
        let agent = &self.config.agent.agent;
        let (grace, deadline) = (agent.stop_grace, Instant::now() + agent.stop_budget);
        let me = ctx.address();
        Box::pin(async move {
            let count = order.len();
            for (index, module) in order.into_iter().enumerate() {
                // Every module gets its share of what is left of the budget, so that one that does not listen
                // does not use up the time of those that do.
                let left = deadline.saturating_duration_since(Instant::now());
                let share = left / u32::try_from(count - index).unwrap_or(u32::MAX);
                let stop = StopOne { module, grace: grace.min(share) };
                if let Ok(Some(StoppingModule(ended))) = me.send(stop).await {
                    // A process in uninterruptible sleep may not end at all; the rest must.
                    tokio::time::timeout(share + Duration::from_millis(500), ended).await.ok();
                }
            }
        })
    }
}
