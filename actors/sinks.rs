//! Sends the journal's alerts to other systems: one actor for each `[[sink]]` of the configuration.
//!
//! Started by the agent after the journal, told of configurations by `ConfigLoader`, asked by `ControlServer`; stopped
//! before the journal. Owns nothing but the list of sinks: it starts one for each section, ends those that are gone,
//! and replaces those that changed. A sink that is replaced ends first, because both would write the same place on
//! disk.
//!
//! | part | does |
//! |---|---|
//! | `sink` | the actor of one sink: its status, its end, its tests |
//! | `delivery` | the task that follows the journal and tries until the receiver has everything |
//! | `outcome` | what became of a batch |
//! | `transport` | one batch to one receiver: `stream` (RELP, TLS, TCP), `datagram` (UDP, local sockets), `program` (command, file), `http` |
//! | `connect` | addresses, connections, certificates, secrets |
//! | `place_file`, `dead_letters` | what is on disk |
//! | `outlet` | the way to a receiver without journal and actor, for `vigie fleet forward` |
//!
//! Who can cause how much: a sink holds one batch in memory (`batch_bytes`), has one job on the work threads at a time,
//! and one connection or process. A receiver that answers slowly, for ever or nonsense costs its own sink the
//! `timeout`.

mod connect;
mod datagram;
mod dead_letters;
mod delivery;
mod http;
mod outcome;
mod outlet;
mod place_file;
mod program;
mod sink;
mod stream;
mod transport;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture,
};
use futures_util::future::join_all;
use slog::{Logger, o};

pub use self::outlet::{Delivered, NotDelivered, Outlet};
pub use self::program::WRITER_COMMAND;
use self::sink::{EndSink, GetSinkStatus, Sink, SinkSpec, TrySink};
use crate::alert_journal::{AlertJournal, GetJournalView, JournalView};
use crate::conditions::Reporter;
use crate::config_loader::ConfigChanged;
use vigie_config::model::LoadedConfig;
use vigie_config::sinks::SinkSection;
use vigie_protocol::control::{SinkState, SinkStatus, SinkTest};
use vigie_sinks::alert::Source;

/// Messages in the mailbox before a sender waits.
const MAILBOX_CAPACITY: usize = 16;

/// Time that all sinks have to end in when the agent stops.
const STOP_BUDGET: Duration = Duration::from_secs(2);

/// Longest wait for a sink that is replaced; it ends by itself within less.
const REPLACE_PATIENCE: Duration = Duration::from_secs(5);

/// Asks how the sinks are; in the order of the configuration.
#[derive(Debug, Message)]
#[rtype(result = "Vec<SinkStatus>")]
pub(crate) struct GetSinks;

/// Orders a test alert to be sent. Nothing when there is no such sink; answered within twice the sink's timeout.
#[derive(Debug, Message)]
#[rtype(result = "Option<SinkTest>")]
pub struct TestSink(pub String);

/// Orders all sinks to end. Sent once, when the agent stops; answered within `STOP_BUDGET`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct StopSinks;

/// What all sinks work with.
#[derive(Clone)]
pub struct SinksSpec {
    /// The agent's log.
    pub log: Logger,
    /// The journal.
    pub journal: Addr<AlertJournal>,
    /// Where conditions are reported.
    pub conditions: Reporter,
    /// The `vigie` program, which writes files.
    pub vigie: PathBuf,
    /// Who sends.
    pub source: Arc<Source>,
}

/// The actor.
pub struct Sinks {
    spec: SinksSpec,
    config: Arc<LoadedConfig>,
    view: Option<JournalView>,
    sinks: BTreeMap<String, Addr<Sink>>,
    /// A newer configuration came while an older one was carried out.
    is_applying: bool,
    is_stopping: bool,
}

impl Sinks {
    /// Sinks for an agent with this configuration.
    #[must_use]
    pub fn new(spec: SinksSpec, config: Arc<LoadedConfig>) -> Self {
        let log = spec.log.new(o!("component" => "sinks"));
        Self {
            spec: SinksSpec { log, ..spec },
            config,
            view: None,
            sinks: BTreeMap::new(),
            is_applying: false,
            is_stopping: false,
        }
    }

    fn wanted(&self) -> BTreeMap<String, Arc<SinkSpec>> {
        let agent = &self.config.agent;
        let Some(view) = &self.view else { return BTreeMap::new() };
        let enabled = agent.sinks.iter().filter(|section| section.enabled);
        enabled
            .map(|section| {
                let spec = SinkSpec {
                    log: self.spec.log.new(o!("sink" => section.name.clone())),
                    section: section.clone(),
                    masked: agent.agent.extraprivacymode && section.leaves_the_host(),
                    journal: view.name.borrow().clone(),
                    view: view.clone(),
                    source: self.spec.source.clone(),
                    directory: agent.agent.state_dir.join("sinks"),
                    vigie: self.spec.vigie.clone(),
                    conditions: self.spec.conditions.clone(),
                };
                (section.name.clone(), Arc::new(spec))
            })
            .collect()
    }

    /// Ends what is not wanted any more, and then starts what is missing.
    fn apply(&mut self, ctx: &mut Context<Self>) {
        if self.is_applying || self.is_stopping || self.view.is_none() {
            return;
        }
        self.is_applying = true;
        let applied = self.applied();
        let sinks = self.sinks.clone();
        let wanted = self.wanted();
        let ending = async move {
            let mut gone = Vec::new();
            for (name, sink) in sinks {
                let keeps = match wanted.get(&name) {
                    Some(spec) => sink.send(sink::IsLike(spec.clone())).await.unwrap_or(false),
                    None => false,
                };
                if !keeps {
                    let forget = !wanted.contains_key(&name);
                    sink.send(EndSink { forget }).timeout(REPLACE_PATIENCE).await.ok();
                    gone.push(name);
                }
            }
            (gone, wanted)
        };
        ctx.spawn(ending.into_actor(self).map(move |(gone, wanted), this, ctx| {
            this.is_applying = false;
            for name in gone {
                this.sinks.remove(&name);
            }
            if this.is_stopping {
                return;
            }
            for (name, spec) in wanted {
                this.sinks.entry(name).or_insert_with(|| Sink::new(spec).start());
            }
            if this.applied() != applied {
                this.apply(ctx);
            }
        }));
    }

    /// What decides which sinks there are: the configuration, and the name of the journal.
    fn applied(&self) -> (u64, Option<Arc<str>>) {
        (self.config.generation, self.view.as_ref().map(|view| view.name.borrow().clone()))
    }

    /// Begins all sinks anew when the journal gets another name, so that what they send bears it.
    fn follow_name(&self, mut view: JournalView, ctx: &mut Context<Self>) {
        let renamed = async move { view.name.changed().await.is_ok().then_some(view) };
        ctx.spawn(renamed.into_actor(self).map(|view, this, ctx| {
            if let Some(view) = view {
                this.apply(ctx);
                this.follow_name(view, ctx);
            }
        }));
    }
}

impl Actor for Sinks {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_CAPACITY);
        let view = self.spec.journal.send(GetJournalView);
        ctx.spawn(view.into_actor(self).map(|view, this, ctx| {
            this.view = view.ok();
            this.apply(ctx);
            if let Some(view) = this.view.clone() {
                this.follow_name(view, ctx);
            }
        }));
    }
}

impl Handler<ConfigChanged> for Sinks {
    type Result = ();

    fn handle(&mut self, change: ConfigChanged, ctx: &mut Self::Context) {
        self.config = change.config;
        self.apply(ctx);
    }
}

/// The status of a sink that does not run.
fn disabled(section: &SinkSection) -> SinkStatus {
    SinkStatus {
        name: section.name.clone(),
        kind: section.kind().to_owned(),
        target: section.shown_target(),
        state: SinkState::Disabled,
        acknowledged: section.is_acknowledged(),
        ..SinkStatus::default()
    }
}

impl Handler<GetSinks> for Sinks {
    type Result = ResponseFuture<Vec<SinkStatus>>;

    fn handle(&mut self, _: GetSinks, _: &mut Self::Context) -> Self::Result {
        let asked: Vec<_> = self
            .config
            .agent
            .sinks
            .iter()
            .map(|section| (disabled(section), self.sinks.get(&section.name).cloned()))
            .collect();
        Box::pin(join_all(asked.into_iter().map(|(disabled, sink)| async move {
            match sink {
                Some(sink) => sink.send(GetSinkStatus).await.unwrap_or(disabled),
                None => disabled,
            }
        })))
    }
}

impl Handler<TestSink> for Sinks {
    type Result = ResponseFuture<Option<SinkTest>>;

    fn handle(&mut self, TestSink(name): TestSink, _: &mut Self::Context) -> Self::Result {
        let sink = self.sinks.get(&name).cloned();
        Box::pin(async move { sink?.send(TrySink).await.ok() })
    }
}

impl Handler<StopSinks> for Sinks {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: StopSinks, _: &mut Self::Context) -> Self::Result {
        self.is_stopping = true;
        let sinks: Vec<_> = self.sinks.values().cloned().collect();
        let ending = sinks.into_iter().map(|sink| async move { sink.send(EndSink { forget: false }).await });
        Box::pin(async move {
            tokio::time::timeout(STOP_BUDGET, join_all(ending)).await.ok();
        })
    }
}
