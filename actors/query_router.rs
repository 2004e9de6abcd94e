//! Brings a query to a module and its answer back.
//!
//! Started by the agent, asked by `ControlServer`. A persistent module is asked through the socket that it
//! registered, a standard one is started for the query. Owns the bounds on queries that run and wait; keeps
//! nothing of a query once it is answered. Every way in which a query can fail has its own [`QueryError`], and
//! a module that cannot answer says so at once: nobody waits for the deadline of a module that is down.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, MessageResult, ResponseFuture};
use serde_json::value::RawValue;
use slog::{Logger, debug, info, o, warn};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use vigie_sdk::ModuleResult;
use vigie_sdk::privacy::{self, MaskedForm};
use vigie_sdk::progress::ProgressReader;
use vigie_sdk::protocol::{Asker, Message as WireMessage, Progress, QueryOptions};
use vigie_sdk::socket::SocketSpec;

use crate::builtin::{self, BuiltinModule};
use crate::child::{ChildControl, ProcessSpawner};
use crate::config::{LoadedConfig, ModuleKind, ModuleName, ModuleSpec};
use crate::config_loader::ConfigChanged;
use crate::control_protocol::{PrivacyStatus, QueryStatus};
use crate::error::ErrorChain;
use crate::socket_policy;
use crate::socket_registry::{FindSocket, NoSocket, RegisteredSocket, SocketRegistry};

/// Messages in the mailbox before a sender waits. A thousand clients may ask at once.
const MAILBOX_CAPACITY: usize = 1024;

/// How much of an answer is read at a time, in bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// How much of a standard module's stderr is kept for its error, in bytes.
const STDERR_TAIL_BYTES: usize = 4096;

/// Time that the pipes of a standard module that is gone are read on while somebody holds them open.
const DRAIN: Duration = Duration::from_millis(200);

/// A standard module is told to stop this long before its deadline, to return what it has.
const STOP_LEAD: Duration = Duration::from_secs(1);

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
    /// notice by itself that whoever asked it has stopped waiting.
    pub client: watch::Receiver<()>,
}

/// Asks how queries are doing, and how their answers are kept private.
#[derive(Debug, Message)]
#[rtype(result = "(QueryStatus, PrivacyStatus)")]
pub struct GetQueryStatus;

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
    #[error("module {0} is switched off")]
    ModuleOff(ModuleName),
    /// It runs but cannot be asked yet.
    #[error("module {0} runs but has not registered a socket for queries; it starts, or takes no queries")]
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
    #[error("module {module} does not take connections on {socket}: {reason}")]
    NotListening {
        /// The module.
        module: ModuleName,
        /// Its socket.
        socket: String,
        /// What the system says.
        reason: String,
    },
    /// Somebody else answers in its place.
    #[error("whoever listens on {socket} is not module {module}: {reason}")]
    WrongPeer {
        /// The module.
        module: ModuleName,
        /// Its socket.
        socket: String,
        /// Who it is.
        reason: String,
    },
    /// It ended, or closed the connection, before it had answered.
    #[error("module {module} ended the connection before it had answered: {reason}")]
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
    #[error("the answer of module {module} is larger than {limit} bytes (limits.result_bytes)")]
    TooLarge {
        /// The module.
        module: ModuleName,
        /// The limit in bytes.
        limit: usize,
    },
    /// The answer is not a result.
    #[error("the answer of module {module} is not a result: {reason}")]
    BadAnswer {
        /// The module.
        module: ModuleName,
        /// What is wrong.
        reason: String,
    },
    /// Extra privacy mode is on, and the answer shows what it must not.
    #[error("extra privacy mode is on and module {module} did not keep to it: {place} is not masked")]
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
    #[error("{running} queries run and {waiting} wait (limits.running_queries, limits.waiting_queries)")]
    TooMany {
        /// Queries that run.
        running: usize,
        /// Queries that wait.
        waiting: usize,
    },
    /// Whoever asked has gone away.
    #[error("whoever asked module {0} has gone away")]
    ClientGone(ModuleName),
}

impl QueryError {
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
            Self::ModuleUnknown { .. } => "see `vigie module list`".to_owned(),
            Self::ModuleOff(name) => {
                format!("set enabled = true for {name} in the configuration and run `vigie reload`")
            }
            Self::ModuleStarting(name) => {
                format!("try again in a moment; `vigie module logs {name}` shows what it does")
            }
            Self::ModuleStopping(_) => "try again in a moment".to_owned(),
            Self::ModuleDown { module, .. } => {
                format!("see `vigie module logs {module}`; `vigie module restart {module}` starts it now")
            }
            Self::NotListening { module, .. }
            | Self::WrongPeer { module, .. }
            | Self::BadAnswer { module, .. } => {
                format!("`vigie module restart {module}` starts it anew")
            }
            Self::Unanswered { module, .. } => format!("see `vigie module logs {module}`, then try again"),
            Self::TimedOut { .. } => {
                "ask for less, or allow more time with --timeout (at most agent.moduletimeout)".to_owned()
            }
            Self::TooLarge { .. } => "ask for less, or raise limits.result_bytes".to_owned(),
            Self::Unmasked { module, .. } => {
                format!("nothing of the answer was passed on; mend {module}, or run the one that is built in")
            }
            Self::NotStarted { module, .. } => {
                format!("mend what it says, or the command of {module} in the configuration")
            }
            Self::TooMany { .. } | Self::ClientGone(_) => "try again in a moment".to_owned(),
        }
    }
}

/// The actor.
pub struct QueryRouter {
    log: Logger,
    registry: Addr<SocketRegistry>,
    spawner: Rc<ProcessSpawner>,
    config: Arc<LoadedConfig>,
    /// The modules whose masked answers are known.
    builtins: &'static [BuiltinModule],
    /// One permit for each query that may run.
    places: Arc<Semaphore>,
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
        spawner: Rc<ProcessSpawner>,
        config: Arc<LoadedConfig>,
        builtins: &'static [BuiltinModule],
    ) -> Self {
        let place_count = config.agent.limits.running_queries;
        Self {
            log: log.new(o!("component" => "query_router")),
            registry,
            spawner,
            config,
            builtins,
            places: Arc::new(Semaphore::new(place_count)),
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
        self.status.waiting += 1;
        self.asked += 1;
        let longest = self.config.agent.agent.moduletimeout;
        let timeout = query.timeout.unwrap_or(longest).min(longest);
        let run = QueryRun {
            number: self.asked,
            module: spec.name().clone(),
            timeout,
            deadline: Instant::now() + timeout,
            result_bytes: limits.result_bytes,
            registry: self.registry.clone(),
            log: self.log.clone(),
            client: query.client,
            progress: query.progress,
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
        let request = WireMessage::parameters(query.parameters, options).to_line();
        let (places, spawner) = (self.places.clone(), self.spawner.clone());
        let me = ctx.address();
        Box::pin(async move {
            let place = run.limited(places.acquire_owned()).await;
            report(&me, QueryMoved::Begun);
            let result = match (place, spec.section.kind) {
                (Ok(Ok(_place)), ModuleKind::Persistent) => run.ask_persistent(&request).await,
                (Ok(Ok(_place)), ModuleKind::Standard) => run.run_standard(&spec, &spawner, &request).await,
                (Ok(Err(_)), _) => Err(run.timed_out()),
                (Err(error), _) => Err(error),
            };
            let result = match (result, form) {
                (Ok(result), Some(form)) => run.check_masked(result, form).await,
                (result, _) => result,
            };
            report(&me, QueryMoved::Ended { ok: result.is_ok() });
            result
        })
    }
}

/// A query got on. Sent by each query to this actor, twice; lost when the agent ends.
#[derive(Debug, Message)]
#[rtype(result = "()")]
enum QueryMoved {
    Begun,
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
            QueryMoved::Begun => {
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

/// One query under way.
struct QueryRun {
    number: u64,
    module: ModuleName,
    timeout: Duration,
    deadline: Instant,
    result_bytes: usize,
    registry: Addr<SocketRegistry>,
    log: Logger,
    client: watch::Receiver<()>,
    progress: Option<watch::Sender<Progress>>,
}

/// An answer while it comes in.
struct Incoming<'q> {
    answer: Vec<u8>,
    reader: ProgressReader,
    progress: Option<&'q watch::Sender<Progress>>,
    limit: usize,
}

impl<'q> Incoming<'q> {
    fn new(progress: Option<&'q watch::Sender<Progress>>, limit: usize) -> Self {
        Self { answer: Vec::new(), reader: ProgressReader::new(progress.is_some()), progress, limit }
    }

    /// Takes the next piece.
    fn add(&mut self, piece: &[u8]) {
        self.answer.extend_from_slice(piece);
        if let (Some(progress), Some(sender)) = (self.reader.take(&mut self.answer), self.progress) {
            // Whoever is too slow gets the newest only.
            sender.send_replace(progress);
        }
    }

    /// Whether it is larger than it may be.
    fn is_too_large(&self) -> bool {
        self.answer.len() > self.limit
    }
}

impl QueryRun {
    /// Waits for `work`, until the deadline and as long as somebody wants the answer.
    async fn limited<T>(&self, work: impl Future<Output = T>) -> Result<T, QueryError> {
        let mut client = self.client.clone();
        let gone = async move { while client.changed().await.is_ok() {} };
        tokio::select! {
            biased;
            done = tokio::time::timeout_at(self.deadline, work) => done.map_err(|_| self.timed_out()),
            () = gone => Err(QueryError::ClientGone(self.module.clone())),
        }
    }

    fn timed_out(&self) -> QueryError {
        QueryError::TimedOut { module: self.module.clone(), timeout: self.timeout }
    }

    async fn ask_persistent(&self, request: &[u8]) -> Result<ModuleResult, QueryError> {
        let socket = match self.registry.send(FindSocket(self.module.clone())).await {
            Ok(found) => found.map_err(|missing| self.no_socket(missing))?,
            Err(_) => return Err(QueryError::ModuleStopping(self.module.clone())),
        };
        let answer = self.limited(self.exchange(&socket, request)).await??;
        self.parse(&answer)
    }

    fn no_socket(&self, missing: NoSocket) -> QueryError {
        let module = self.module.clone();
        match missing {
            NoSocket::NotRegistered => QueryError::ModuleStarting(module),
            NoSocket::Stopping => QueryError::ModuleStopping(module),
            NoSocket::Unknown => QueryError::ModuleDown { module, reason: "it is not started".to_owned() },
            NoSocket::Down(reason) => QueryError::ModuleDown { module, reason },
        }
    }

    async fn exchange(&self, socket: &RegisteredSocket, request: &[u8]) -> Result<Vec<u8>, QueryError> {
        let refused = |error: std::io::Error| QueryError::NotListening {
            module: self.module.clone(),
            socket: socket.spec.to_string(),
            reason: error.to_string(),
        };
        match &socket.spec {
            SocketSpec::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(refused)?;
                socket_policy::check_peer(&stream, socket.pid).map_err(|reason| QueryError::WrongPeer {
                    module: self.module.clone(),
                    socket: socket.spec.to_string(),
                    reason,
                })?;
                self.converse(stream, request).await
            }
            SocketSpec::Tcp(address) => {
                self.converse(TcpStream::connect(address).await.map_err(refused)?, request).await
            }
        }
    }

    /// Sends the request and reads the answer to the end of the stream.
    async fn converse(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        request: &[u8],
    ) -> Result<Vec<u8>, QueryError> {
        if let Err(error) = stream.write_all(request).await {
            return Err(self.unanswered(&error.to_string()).await);
        }
        let mut incoming = Incoming::new(self.progress.as_ref(), self.result_bytes);
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match stream.read(&mut piece).await {
                Ok(0) if incoming.answer.is_empty() => return Err(self.unanswered("it sent nothing").await),
                Ok(0) => return Ok(incoming.answer),
                Ok(read) => incoming.add(&piece[..read]),
                Err(error) => return Err(self.unanswered(&error.to_string()).await),
            }
            if incoming.is_too_large() {
                return Err(QueryError::TooLarge { module: self.module.clone(), limit: self.result_bytes });
            }
        }
    }

    /// Says why there is no answer: the module's end explains it best.
    async fn unanswered(&self, reason: &str) -> QueryError {
        let module = self.module.clone();
        let reason = match self.registry.send(FindSocket(module.clone())).await {
            Ok(Err(NoSocket::Down(down))) => format!("it {down}"),
            Ok(Err(NoSocket::Stopping)) => "it is being stopped".to_owned(),
            _ => reason.to_owned(),
        };
        QueryError::Unanswered { module, reason }
    }

    fn parse(&self, answer: &[u8]) -> Result<ModuleResult, QueryError> {
        let bad = |reason: String| QueryError::BadAnswer { module: self.module.clone(), reason };
        let text = std::str::from_utf8(answer).map_err(|_| bad("it is not UTF-8".to_owned()))?;
        // Any object reads as a result, because every key of one may be missing; one of these is always there.
        if !text.contains("\"success\"") && !text.contains("\"errors\"") {
            return Err(bad(format!("{:?}", text.chars().take(80).collect::<String>())));
        }
        serde_json::from_str(text).map_err(|error| bad(error.to_string()))
    }

    /// The second lock of extra privacy mode: refuses an answer that the module forgot to mask.
    async fn check_masked(&self, result: ModuleResult, form: MaskedForm) -> Result<ModuleResult, QueryError> {
        // An answer may have many megabytes: it is not read on the thread of all actors.
        let checked = tokio::task::spawn_blocking(move || (privacy::check(&result, form), result)).await;
        match checked {
            Ok((Ok(()), result)) => Ok(result),
            Ok((Err(unmasked), _)) => {
                warn!(self.log, "answer refused: it is not masked"; "module" => %self.module,
                    "query_id" => self.number, "found" => &unmasked.place);
                Err(QueryError::Unmasked { module: self.module.clone(), place: unmasked.place })
            }
            Err(error) => {
                Err(QueryError::BadAnswer { module: self.module.clone(), reason: error.to_string() })
            }
        }
    }

    async fn run_standard(
        &self,
        spec: &ModuleSpec,
        spawner: &ProcessSpawner,
        request: &[u8],
    ) -> Result<ModuleResult, QueryError> {
        let not_started = |reason: String| QueryError::NotStarted { module: self.module.clone(), reason };
        let (control, mut child) = spawner
            .start(&spec.section, ModuleKind::Standard, &format!("query-{}", self.number))
            .map_err(|error| not_started(ErrorChain(&error).to_string()))?;
        debug!(self.log, "standard module started"; "module" => %self.module, "query_id" => self.number,
            "pid" => control.pid());
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(not_started("the pipes were not made".to_owned()));
        };
        // A module of ours honours `stop`; a program of somebody else may wait for the end of its stdin.
        let stop_at = match spec.section.command {
            None => Some(self.deadline - STOP_LEAD.min(self.timeout / 4)),
            Some(_) => None,
        };
        let incoming = Incoming::new(self.progress.as_ref(), self.result_bytes);
        let feeding = actix_rt::spawn(feed(stdin, request.to_vec(), stop_at));
        let answer = self.limited(listen(stdout, stderr, control.wait(&mut child), incoming)).await;
        feeding.abort();
        // Whatever is left of it, its own or its children's, ends with the query.
        control.kill();
        if tokio::time::timeout(Duration::from_secs(5), control.wait(&mut child)).await.is_err() {
            info!(self.log, "standard module does not die yet"; "module" => %self.module,
                "pid" => control.pid());
        }
        control.clean_up().await;
        let answer = answer?;
        if answer.stdout.len() > self.result_bytes {
            return Err(QueryError::TooLarge { module: self.module.clone(), limit: self.result_bytes });
        }
        if answer.stdout.is_empty() {
            let complaint = String::from_utf8_lossy(&answer.stderr_tail);
            let complaint = complaint.trim();
            let reason = match answer.ended {
                Some(status) if complaint.is_empty() => status,
                Some(status) => format!("{status}: {complaint:?}"),
                None => "it closed its stdout".to_owned(),
            };
            return Err(QueryError::Unanswered { module: self.module.clone(), reason });
        }
        self.parse(&answer.stdout)
    }
}

/// What a standard module said.
#[derive(Default)]
struct Answer {
    stdout: Vec<u8>,
    stderr_tail: Vec<u8>,
    /// How it ended, when it did before its pipes.
    ended: Option<String>,
}

/// Reads what a standard module says until it closes its stdout, says too much, or is gone; a child of its own
/// that holds the pipes open does not keep the query waiting.
async fn listen(
    mut stdout: impl AsyncRead + Unpin,
    mut stderr: impl AsyncRead + Unpin,
    exit: impl Future<Output = std::io::Result<std::process::ExitStatus>>,
    mut incoming: Incoming<'_>,
) -> Answer {
    let mut answer = Answer::default();
    let (mut out, mut err) = (vec![0; PIECE_BYTES], vec![0; STDERR_TAIL_BYTES]);
    let mut err_open = true;
    let drained = tokio::time::sleep(Duration::from_secs(86_400));
    tokio::pin!(exit, drained);
    loop {
        tokio::select! {
            biased;
            read = stdout.read(&mut out) => match read {
                Ok(0) | Err(_) if incoming.answer.is_empty() && answer.ended.is_none() => {
                    // Nothing said: how it ended is the answer. The deadline bounds the wait.
                    answer.ended = exit.await.ok().map(|status| status.to_string());
                    while err_open {
                        match tokio::time::timeout(DRAIN, stderr.read(&mut err)).await {
                            Ok(Ok(read)) if read > 0 => keep_tail(&mut answer.stderr_tail, &err[..read]),
                            _ => err_open = false,
                        }
                    }
                    return answer;
                }
                Ok(0) | Err(_) => break,
                Ok(read) => {
                    incoming.add(&out[..read]);
                    if incoming.is_too_large() {
                        break;
                    }
                }
            },
            read = stderr.read(&mut err), if err_open => match read {
                Ok(read) if read > 0 => keep_tail(&mut answer.stderr_tail, &err[..read]),
                _ => err_open = false,
            },
            status = &mut exit, if answer.ended.is_none() => {
                answer.ended = Some(status.map_or_else(|error| error.to_string(), |status| status.to_string()));
                drained.as_mut().reset(Instant::now() + DRAIN);
            }
            () = &mut drained => break,
        }
    }
    answer.stdout = incoming.answer;
    answer
}

fn keep_tail(kept: &mut Vec<u8>, piece: &[u8]) {
    kept.extend_from_slice(piece);
    let surplus = kept.len().saturating_sub(STDERR_TAIL_BYTES);
    kept.drain(..surplus);
}

/// Writes the request to a standard module, and `stop` when it is time.
async fn feed(mut stdin: tokio::process::ChildStdin, request: Vec<u8>, stop_at: Option<Instant>) {
    if stdin.write_all(&request).await.is_err() {
        return;
    }
    if let Some(stop_at) = stop_at {
        tokio::time::sleep_until(stop_at).await;
        stdin.write_all(&WireMessage::stop().to_line()).await.ok();
        // Kept open: the end of stdin is for the module to see when it is killed.
        std::future::pending::<()>().await;
    }
}
