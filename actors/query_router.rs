//! Brings a query to a module and its answer back.
//!
//! Started by the agent, asked by `ControlServer`. A persistent module is asked through the socket that it
//! registered, a standard one is started for the query. Owns the bounds on queries that run and wait; keeps
//! nothing of a query once it is answered. Every way in which a query can fail has its own [`QueryError`], and
//! a module that cannot answer says so at once: nobody waits for the deadline of a module that is down.

mod ears;
mod error;
mod run;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, MessageResult, ResponseFuture};
use serde_json::value::RawValue;
use slog::{Logger, o};
use tokio::sync::{AcquireError, Semaphore, watch};
use tokio::time::Instant;
use vigie_protocol::message::{Asker, Message as WireMessage, Progress, QueryOptions};
use vigie_protocol::result::ModuleResult;

use crate::child::ProcessSpawner;
use crate::config_loader::ConfigChanged;
use crate::socket_registry::SocketRegistry;
use crate::supervisor::{GetLineFeeds, QueryLeft, Supervisor};
use vigie_config::builtin::{self, BuiltinModule};
use vigie_config::model::{LoadedConfig, ModuleSpec};
use vigie_protocol::control::ModuleKind;
use vigie_protocol::control::{PrivacyStatus, QueryStatus};

use self::ears::Ears;
pub use self::error::QueryError;
use self::run::QueryRun;

/// How many of the queries that run may be of users who are neither root nor the agent's own.
fn guests_of(places: usize) -> usize {
    (places / 2).max(1)
}

/// Whether somebody asks who only may because of `agent.operators_group`.
fn is_guest(asker: &Asker) -> bool {
    asker.uid.is_some_and(|uid| uid != 0 && uid != nix::unistd::geteuid().as_raw())
}

/// Messages in the mailbox before a sender waits. A thousand clients may ask at once.
const MAILBOX_CAPACITY: usize = 1024;

/// Asks a module. Sent by `ControlServer`; answered within `timeout` and a moment.
#[derive(Debug, Message)]
#[rtype(result = "Result<ModuleResult, QueryError>")]
pub struct Query {
    /// The module.
    pub module: String,
    /// Its parameters.
    pub parameters: Option<Box<RawValue>>,
    /// How long to wait at most; the agent's `moduletimeout` when absent or longer.
    pub timeout: Option<Duration>,
    /// Who asks, as far as it is proved.
    pub asker: Option<Asker>,
    /// Where the module's words about its progress go; without it the module is not asked for any.
    pub progress: Option<watch::Sender<Progress>>,
    /// Closes when nobody wants the answer any more: the query then gives its place back. An actor does not
    /// notice by itself that whoever asked it has stopped waiting. Becomes true when what was found so far is wanted
    /// at once.
    pub client: watch::Receiver<bool>,
}

/// Asks how queries are doing, and how their answers are kept private.
#[derive(Debug, Message)]
#[rtype(result = "(QueryStatus, PrivacyStatus)")]
pub(crate) struct GetQueryStatus;

/// The actor.
pub struct QueryRouter {
    log: Logger,
    registry: Addr<SocketRegistry>,
    /// Who shows what is said to and by modules.
    supervisor: Addr<Supervisor>,
    spawner: Rc<ProcessSpawner>,
    config: Arc<LoadedConfig>,
    /// The modules whose masked answers are known.
    builtins: &'static [BuiltinModule],
    /// One permit for each query that may run.
    places: Arc<Semaphore>,
    /// One for each that users who are neither root nor the agent's own may run: the others keep places.
    guests: Arc<Semaphore>,
    /// Queries of such users that wait.
    guests_waiting: usize,
    place_count: usize,
    status: QueryStatus,
    /// Queries asked since the agent started.
    asked: u64,
}

impl QueryRouter {
    /// A router that knows the modules of `config`.
    #[must_use]
    pub fn new(
        log: &Logger,
        registry: Addr<SocketRegistry>,
        supervisor: Addr<Supervisor>,
        spawner: Rc<ProcessSpawner>,
        config: Arc<LoadedConfig>,
        builtins: &'static [BuiltinModule],
    ) -> Self {
        let place_count = config.agent.limits.running_queries;
        Self {
            log: log.new(o!("component" => "query_router")),
            registry,
            supervisor,
            spawner,
            config,
            builtins,
            places: Arc::new(Semaphore::new(place_count)),
            guests: Arc::new(Semaphore::new(guests_of(place_count))),
            guests_waiting: 0,
            place_count,
            status: QueryStatus::default(),
            asked: 0,
        }
    }

    fn find(&self, name: &str) -> Result<ModuleSpec, QueryError> {
        let spec = self.config.modules.iter().find(|spec| spec.name().as_str() == name).ok_or_else(|| {
            let known: Vec<_> = self.config.modules.iter().map(|spec| spec.name().as_str()).collect();
            QueryError::ModuleUnknown { name: name.chars().take(64).collect(), known: known.join(", ") }
        })?;
        if spec.section.enabled { Ok(spec.clone()) } else { Err(QueryError::ModuleOff(spec.name().clone())) }
    }
}

impl Actor for QueryRouter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_CAPACITY);
    }
}

impl Handler<ConfigChanged> for QueryRouter {
    type Result = ();

    fn handle(&mut self, change: ConfigChanged, _: &mut Self::Context) {
        self.config = change.config;
        let wanted = self.config.agent.limits.running_queries;
        if wanted != self.place_count {
            // Queries that run keep their places in the old count and end with it.
            self.places = Arc::new(Semaphore::new(wanted));
            self.guests = Arc::new(Semaphore::new(guests_of(wanted)));
            self.place_count = wanted;
        }
    }
}

impl Handler<GetQueryStatus> for QueryRouter {
    type Result = MessageResult<GetQueryStatus>;

    fn handle(&mut self, _: GetQueryStatus, _: &mut Self::Context) -> Self::Result {
        let extra = self.config.agent.agent.extraprivacymode;
        let unchecked = self.config.modules.iter().filter(|spec| {
            extra && spec.section.enabled && builtin::find(self.builtins, spec.name().as_str()).is_none()
        });
        let unchecked = unchecked.map(|spec| spec.name().clone()).collect();
        MessageResult((self.status, PrivacyStatus { extra, unchecked }))
    }
}

impl Handler<Query> for QueryRouter {
    type Result = ResponseFuture<Result<ModuleResult, QueryError>>;

    fn handle(&mut self, query: Query, ctx: &mut Self::Context) -> Self::Result {
        let spec = match self.find(&query.module) {
            Ok(spec) => spec,
            Err(error) => {
                self.status.failed += 1;
                return Box::pin(std::future::ready(Err(error)));
            }
        };
        let limits = self.config.agent.limits;
        let waiting = usize::try_from(self.status.waiting).unwrap_or(usize::MAX);
        if self.places.available_permits() == 0 && waiting >= limits.waiting_queries {
            self.status.failed += 1;
            let error = QueryError::TooMany { running: self.place_count, waiting };
            return Box::pin(std::future::ready(Err(error)));
        }
        let is_guest = query.asker.as_ref().is_some_and(is_guest);
        if is_guest {
            let most = limits.waiting_queries / 2;
            if self.guests.available_permits() == 0 && self.guests_waiting >= most {
                self.status.failed += 1;
                let error = QueryError::TooMany {
                    running: guests_of(self.place_count),
                    waiting: self.guests_waiting,
                };
                return Box::pin(std::future::ready(Err(error)));
            }
            self.guests_waiting += 1;
        }
        self.status.waiting += 1;
        self.asked += 1;
        let longest = self.config.agent.agent.moduletimeout;
        let timeout = query.timeout.unwrap_or(longest).min(longest);
        let mut run = QueryRun {
            number: self.asked,
            module: spec.name().clone(),
            timeout,
            deadline: Instant::now() + timeout,
            result_bytes: limits.result_bytes,
            registry: self.registry.clone(),
            log: self.log.clone(),
            client: query.client,
            progress: query.progress,
            ears: Ears::default(),
        };
        let extraprivacy = self.config.agent.agent.extraprivacymode;
        // By name: also another program that is configured in the place of a known module must mask.
        let form = builtin::find(self.builtins, &query.module).filter(|_| extraprivacy);
        let form = form.map(|builtin| builtin.masked_form);
        let options = QueryOptions {
            persistsock: None,
            extraprivacy,
            deadline: jiff::Timestamp::now().checked_add(timeout).ok().map(|time| time.to_string()),
            asker: query.asker,
            progress: run.progress.is_some(),
        };
        let asked = form.and_then(|_| query.parameters.clone());
        let request = WireMessage::parameters(query.parameters, options).to_line();
        let (places, spawner, supervisor) =
            (self.places.clone(), self.spawner.clone(), self.supervisor.clone());
        let guests = is_guest.then(|| self.guests.clone());
        let me = ctx.address();
        Box::pin(async move {
            let entering = async {
                let guest = match guests {
                    Some(guests) => Some(guests.acquire_owned().await?),
                    None => None,
                };
                Ok((guest, places.acquire_owned().await?))
            };
            let place: Result<Result<_, AcquireError>, _> = run.limited(entering).await;
            report(&me, QueryMoved::Begun { is_guest });
            if place.is_ok() {
                // The Supervisor ends only with the agent; without it nobody watches.
                let feeds = supervisor.send(GetLineFeeds(run.module.clone())).await.ok().flatten();
                run.ears = Ears::new(run.number, feeds.unwrap_or_default());
            }
            let mut on_stderr = Vec::new();
            let result = match (place, spec.section.kind) {
                (Ok(Ok(_place)), ModuleKind::Persistent) => run.ask_persistent(&request).await,
                (Ok(Ok(_place)), ModuleKind::Standard) => {
                    run.run_standard(&spec, &spawner, &request, &mut on_stderr).await
                }
                (Ok(Err(_)), _) => Err(run.timed_out()),
                (Err(error), _) => Err(error),
            };
            let result = match (result, form) {
                (Ok(result), Some(form)) => run.check_masked(result, form, asked).await,
                (result, _) => result,
            };
            report(&me, QueryMoved::Ended { ok: result.is_ok() });
            let dropped = result.as_ref().err().filter(|error| error.is_dropped_answer());
            if let Some(QueryError::TooLarge { .. } | QueryError::Unmasked { .. }) = dropped {
                // Nobody has read it as an answer so far, or it was taken too early.
                run.ears.said("", dropped.map(QueryError::kind));
            }
            let lines = ears::left(&on_stderr, dropped);
            if !lines.is_empty() {
                let left =
                    QueryLeft { module: run.module.clone(), lines, dropped: dropped.map(QueryError::kind) };
                supervisor.send(left).await.ok();
            }
            result
        })
    }
}

/// A query got on. Sent by each query to this actor, twice; lost when the agent ends.
#[derive(Debug, Message)]
#[rtype(result = "()")]
enum QueryMoved {
    Begun { is_guest: bool },
    Ended { ok: bool },
}

#[expect(clippy::disallowed_methods, reason = "two for each query, and queries are bounded")]
fn report(router: &Addr<QueryRouter>, moved: QueryMoved) {
    router.do_send(moved);
}

impl Handler<QueryMoved> for QueryRouter {
    type Result = ();

    fn handle(&mut self, moved: QueryMoved, _: &mut Self::Context) {
        match moved {
            QueryMoved::Begun { is_guest } => {
                self.guests_waiting -= usize::from(is_guest);
                self.status.waiting -= 1;
                self.status.running += 1;
            }
            QueryMoved::Ended { ok } => {
                self.status.running -= 1;
                if ok {
                    self.status.answered += 1;
                } else {
                    self.status.failed += 1;
                }
            }
        }
    }
}
