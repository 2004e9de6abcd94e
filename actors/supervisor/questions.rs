//! What the supervisor is asked: how the modules are, and what they say.

use std::collections::VecDeque;
use std::time::Duration;

use actix::{ActorFutureExt, Handler, Message, MessageResult, ResponseActFuture, ResponseFuture, WrapFuture};
use futures_util::future::{OptionFuture, join_all};
use tokio::time::Instant;
use vigie_protocol::control::{ModuleLine, ModuleStatus};
use vigie_protocol::module_name::ModuleName;

use super::Supervisor;
use super::module::Module;
use crate::line_feed::{LineFeeds, LineWatch, keep_newest};
use crate::module_process::{GetLines, GetProcessStatus};

/// Longest that `status` waits for one module's process actor, which never waits for the module.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// Asks how all modules are, in the order of start.
#[derive(Debug, Message)]
#[rtype(result = "Vec<ModuleStatus>")]
pub(crate) struct GetModules;

/// Asks for a module's newest lines and for the feeds of further ones.
#[derive(Debug, Message)]
#[rtype(result = "Option<ModuleLines>")]
pub(crate) struct GetModuleLines(pub(crate) ModuleName);

/// A module's lines.
#[derive(Debug)]
pub(crate) struct ModuleLines {
    /// The newest ones, oldest first.
    pub(crate) kept: VecDeque<ModuleLine>,
    /// Further log and stderr lines.
    pub(crate) logs: LineWatch,
    /// The `config` message that the present life has.
    pub(crate) config: Option<ModuleLine>,
    /// Further messages in both directions.
    pub(crate) wire: LineWatch,
}

/// Asks where what is said between the agent and a module is shown. Sent by `QueryRouter` for each query.
#[derive(Debug, Message)]
#[rtype(result = "Option<LineFeeds>")]
pub(crate) struct GetLineFeeds(pub(crate) ModuleName);

/// What a module said on the side while it answered a query: lines of a standard module's stderr, and why its answer
/// was dropped. Sent by `QueryRouter` after a query that has any; lost when the agent ends.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct QueryLeft {
    pub(crate) module: ModuleName,
    /// Lines for people, oldest first.
    pub(crate) lines: Vec<ModuleLine>,
    /// Why the answer was dropped.
    pub(crate) dropped: Option<&'static str>,
}

impl Handler<GetModules> for Supervisor {
    type Result = ResponseActFuture<Self, Vec<ModuleStatus>>;

    fn handle(&mut self, _: GetModules, _: &mut Self::Context) -> Self::Result {
        let names = self.names();
        let ask = |name| {
            let process = self.modules.get(name).and_then(Module::living).cloned();
            OptionFuture::from(process.map(|process| async move {
                process.send(GetProcessStatus).timeout(STATUS_TIMEOUT).await.ok()
            }))
        };
        let asking = join_all(names.iter().map(ask));
        Box::pin(asking.into_actor(self).map(move |answers, this, _| {
            let (now, answers) = (Instant::now(), names.iter().zip(answers));
            answers
                .filter_map(|(name, living)| this.modules.get(name)?.status(living.flatten(), now))
                .collect()
        }))
    }
}

impl Handler<GetModuleLines> for Supervisor {
    type Result = ResponseFuture<Option<ModuleLines>>;

    fn handle(&mut self, question: GetModuleLines, _: &mut Self::Context) -> Self::Result {
        let Some(module) = self.modules.get(&question.0) else { return Box::pin(std::future::ready(None)) };
        let (mut kept, mut config) = (module.lines.clone(), None);
        // Subscribed before the living process is asked: a line can come twice but none is missed.
        let (logs, wire) = (module.feeds.logs.subscribe(), module.feeds.wire.subscribe());
        let living = module.living().cloned();
        Box::pin(async move {
            if let Some(process) = living
                && let Ok((lines, sent)) = process.send(GetLines).timeout(STATUS_TIMEOUT).await
            {
                config = sent;
                keep_newest(&mut kept, lines);
            }
            Some(ModuleLines { kept, logs, config, wire })
        })
    }
}

impl Handler<GetLineFeeds> for Supervisor {
    type Result = MessageResult<GetLineFeeds>;

    fn handle(&mut self, question: GetLineFeeds, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.modules.get(&question.0).map(|module| module.feeds.clone()))
    }
}

impl Handler<QueryLeft> for Supervisor {
    type Result = ();

    fn handle(&mut self, left: QueryLeft, _: &mut Self::Context) {
        let Some(module) = self.modules.get_mut(&left.module) else { return };
        if let Some(reason) = left.dropped {
            *module.counters.dropped.entry(reason).or_default() += 1;
        }
        for line in &left.lines {
            module.feeds.logs.send(|| line.clone());
        }
        keep_newest(&mut module.lines, left.lines);
    }
}
