//! The life of a persistent module: register, take the configuration, echo heartbeats, answer queries, send
//! log lines and alerts, stop.
//!
//! ```text
//! stdin ──► reader ──► ping: echoed at once ────────────────────────► outbox ──► writer ──► stdout
//!              ├─► config, ack, stop ──► worker thread ──► module ──► outbox
//!              └─► end of stream: stop                       ▲
//! query socket ──► listener ──► threads that may block ──────┘
//! ```
//!
//! The module's own code runs on threads of its own, so that nothing it does delays a heartbeat; all waiting
//! for pipes and sockets is one asynchronous thread. A line that is not understood is logged and the next one
//! is read; MIG's modules exit silently on it.

mod limit;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};

use crate::listener::{ListenError, MAX_RUNNING_QUERIES, Place, QueryListener};
use crate::module::{Host, ModuleError, PersistentModule, Query, Settings};
use crate::outbox::Outbox;
use limit::LogLimit;
use vigie_protocol::error_chain::ErrorChain;
use vigie_protocol::message::{
    AckParameters, BadLine, Class, ConfigParameters, ConfiguredParameters, DEFAULT_MAX_RESULT_BYTES, Message,
    MessageRef, PROTOCOL_VERSION, RUN_DIR_VARIABLE, RegisterParameters, STATE_DIR_VARIABLE, capability,
};
use vigie_protocol::result::ModuleResult;
use vigie_protocol::stream::{ModuleReader, ModuleWriter};

/// Where modules make their sockets when the agent does not say.
const DEFAULT_RUN_DIR: &str = "/run/vigie";

/// Longest line that is taken from the agent, in bytes; configurations can be long, and the agent is trusted.
const MAX_LINE_BYTES: usize = DEFAULT_MAX_RESULT_BYTES;

/// Time that the module's own `stop` has; the process ends within a second whatever it does.
const STOP_TIMEOUT: Duration = Duration::from_millis(700);

/// Time that is left for what is queued to reach the agent.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(200);

/// Time that a query waits for the module to start.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Configurations and acknowledgements that wait for the module; acknowledgements beyond it are dropped, which
/// costs a repetition that the agent recognises.
const WORKER_QUEUE: usize = 4 * crate::outbox::MAX_UNACKNOWLEDGED;

/// Exit code for a configuration that the module cannot work with: `EX_CONFIG` of sysexits.h.
const EXIT_CONFIG: u8 = 78;

/// Exit code when the query socket cannot be made: `EX_UNAVAILABLE`.
const EXIT_UNAVAILABLE: u8 = 69;

/// Exit code when the agent cannot be written to any more: `EX_IOERR`.
const EXIT_IO: u8 = 74;

/// Exit code when the process cannot be set up at all: `EX_OSERR`.
const EXIT_SYSTEM: u8 = 71;

/// What a module is told by its surroundings before it reads its first line.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Where the query socket is made.
    pub run_dir: PathBuf,
    /// Where state is kept unless the configuration names a directory.
    pub state_dir: Option<PathBuf>,
}

impl ServeOptions {
    /// Reads the environment variables through which the agent tells these.
    #[must_use]
    pub fn from_environment() -> Self {
        let directory = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            run_dir: directory(RUN_DIR_VARIABLE).unwrap_or_else(|| DEFAULT_RUN_DIR.into()),
            state_dir: directory(STATE_DIR_VARIABLE),
        }
    }
}

/// Why a module's life ended.
#[derive(Debug)]
pub enum Ended {
    /// It was asked to, by a `stop` message, the end of stdin, or a signal.
    Stopped,
    /// It cannot work with its configuration; the log says why.
    BadConfig,
    /// The agent does not read any more.
    AgentGone,
    /// The query socket cannot be made; the log says why.
    NotListening(ListenError),
}

impl Ended {
    /// The process's exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Stopped => 0,
            Self::BadConfig => EXIT_CONFIG,
            Self::AgentGone => EXIT_IO,
            Self::NotListening(_) => EXIT_UNAVAILABLE,
        }
    }
}

/// Runs a persistent module on the process's stdin and stdout until the agent ends it.
///
/// SIGTERM and SIGINT stop it like a `stop` message; a panic on any thread aborts the process, so that the agent
/// sees it and starts the module again.
pub fn run_persistent<M: PersistentModule>() -> ExitCode {
    let show = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        show(info);
        std::process::abort();
    }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // The thread that writes to stdout stays: where the host has no task left, another one could not be had.
        .thread_keep_alive(Duration::from_secs(1 << 30))
        // The queries, stdin and stdout when they are not pipes, and room for names and files.
        .max_blocking_threads(MAX_RUNNING_QUERIES + 8)
        .build();
    let Ok(runtime) = runtime else { return ExitCode::from(EXIT_SYSTEM) };
    let ended = runtime.block_on(async {
        let options = ServeOptions::from_environment();
        match pipe_of_stdin() {
            Some(pipe) => serve::<M>(pipe, tokio::io::stdout(), &options, terminated()).await,
            None => serve::<M>(tokio::io::stdin(), tokio::io::stdout(), &options, terminated()).await,
        }
    });
    // A thread of the module that hangs must not keep the process.
    runtime.shutdown_background();
    ExitCode::from(ended.code())
}

/// Stdin as a pipe that is read without a thread, when it is one.
fn pipe_of_stdin() -> Option<tokio::net::unix::pipe::Receiver> {
    use std::os::fd::AsFd;

    let stdin = std::io::stdin().as_fd().try_clone_to_owned().ok()?;
    tokio::net::unix::pipe::Receiver::from_owned_fd(stdin).ok()
}

/// Waits for a signal that asks the process to end.
async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};

    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Runs a persistent module on any pair of streams; `terminate` asks it to stop.
pub async fn serve<M: PersistentModule>(
    stdin: impl AsyncRead + Unpin,
    stdout: impl AsyncWrite + Unpin + Send + 'static,
    options: &ServeOptions,
    terminate: impl Future<Output = ()>,
) -> Ended {
    let outbox = Outbox::new();
    let mut writing = tokio::spawn(write_lines(stdout, outbox.clone()));
    let listener = match QueryListener::bind_unix(&options.run_dir, M::NAME) {
        Ok(listener) => listener,
        Err(error) => {
            outbox.note(&ErrorChain(&error).to_string());
            outbox.finish();
            drop(timeout(FLUSH_TIMEOUT, &mut writing).await);
            return Ended::NotListening(error);
        }
    };
    // Ahead of anything the listener or the module may have to say.
    outbox.urgent(registration::<M>(&listener));

    let (module, started) = watch::channel(None);
    let (mut worker, mut failed) = Worker::start::<M>(outbox.clone(), options.state_dir.clone(), module);
    let patience = tokio::runtime::Handle::current();
    let mut answering = Answering::start(listener, move |query| answer(&patience, started.clone(), query));

    let mut reader = ModuleReader::new(stdin, MAX_LINE_BYTES);
    let mut complaints = LogLimit::default();
    let mut terminate = std::pin::pin!(terminate);
    let mut ended = loop {
        tokio::select! {
            line = next_line(&mut reader, &outbox) => match line {
                Some(Ok(Ok(line))) => match receive::<M>(&line, &outbox, &mut worker) {
                    Ok(Next::Line) => {}
                    Ok(Next::Heartbeat) => {
                        if let Some(again) = listen_again::<M>(&answering.place, options, &outbox) {
                            answering.replace(again);
                        }
                    }
                    Ok(Next::Stop) => break Ended::Stopped,
                    Err(Refused::Line(bad)) => complain(&mut complaints, &outbox, &bad),
                    Err(Refused::Config(error)) => {
                        outbox.note(&ErrorChain(&error).to_string());
                        break Ended::BadConfig;
                    }
                },
                Some(Ok(Err(bad))) => complain(&mut complaints, &outbox, &bad),
                // An unreadable stdin means what its end means: the agent is gone.
                Some(Err(_)) | None => break Ended::Stopped,
            },
            () = &mut terminate => break Ended::Stopped,
            Ok(()) = &mut failed => break Ended::BadConfig,
            _ = &mut writing => break Ended::AgentGone,
        }
    };

    answering.task.abort();
    if matches!(ended, Ended::AgentGone) {
        outbox.close();
    }
    worker.stop().await;
    // The configuration and the end of stdin may have come together.
    if matches!(ended, Ended::Stopped) && failed.try_recv().is_ok() {
        ended = Ended::BadConfig;
    }
    outbox.finish();
    if !matches!(ended, Ended::AgentGone) {
        drop(timeout(FLUSH_TIMEOUT, &mut writing).await);
        writing.abort();
    }
    // The socket's file goes with the listener, which the aborted task drops.
    drop(answering.task.await);
    ended
}

/// The next line, when its echo would find room.
async fn next_line<R: AsyncRead + Unpin>(
    reader: &mut ModuleReader<R>,
    outbox: &Outbox,
) -> Option<std::io::Result<Result<String, BadLine>>> {
    outbox.urgent_room().await;
    reader.next_line().await
}

/// The task that answers queries.
struct Answering {
    place: Place,
    task: tokio::task::JoinHandle<()>,
    answer: Arc<dyn Fn(Query) -> ModuleResult + Send + Sync>,
}

impl Answering {
    fn start(
        listener: QueryListener,
        answer: impl Fn(Query) -> ModuleResult + Send + Sync + 'static,
    ) -> Self {
        let answer: Arc<dyn Fn(Query) -> ModuleResult + Send + Sync> = Arc::new(answer);
        let (place, task) = Self::listen(listener, &answer);
        Self { place, task, answer }
    }

    /// Answers on another socket from now on.
    fn replace(&mut self, listener: QueryListener) {
        self.task.abort();
        (self.place, self.task) = Self::listen(listener, &self.answer);
    }

    fn listen(
        listener: QueryListener,
        answer: &Arc<dyn Fn(Query) -> ModuleResult + Send + Sync>,
    ) -> (Place, tokio::task::JoinHandle<()>) {
        let (place, answer) = (listener.place(), Arc::clone(answer));
        (place, tokio::spawn(listener.serve(move |query| answer(query))))
    }
}

/// Makes the query socket again when it is gone, and registers it. Looked at with each heartbeat: whoever cleans up
/// directories does not say so.
fn listen_again<M: PersistentModule>(
    place: &Place,
    options: &ServeOptions,
    outbox: &Outbox,
) -> Option<QueryListener> {
    if place.is_there() {
        return None;
    }
    match QueryListener::bind_unix(&options.run_dir, M::NAME) {
        Ok(listener) => {
            outbox.note("the query socket was gone, it is there again");
            outbox.urgent(registration::<M>(&listener));
            Some(listener)
        }
        Err(error) => {
            outbox.note(&format!("the query socket is gone: {}", ErrorChain(&error)));
            None
        }
    }
}

/// The first line of a module.
fn registration<M: PersistentModule>(listener: &QueryListener) -> Vec<u8> {
    let mut capabilities =
        vec![capability::STOP.into(), capability::ALERT_ACK.into(), capability::CONFIGURED.into()];
    if M::RECONFIGURES {
        capabilities.push(capability::RECONFIGURE.into());
    }
    Message::register(&RegisterParameters {
        sockpath: listener.spec().to_string().into(),
        protocol: Some(PROTOCOL_VERSION),
        capabilities,
    })
    .to_line()
}

/// Writes lines until there are no more, or the agent is gone.
async fn write_lines(stdout: impl AsyncWrite + Unpin, outbox: Outbox) {
    let mut writer = ModuleWriter::new(stdout);
    let mut batch = Vec::new();
    while outbox.take(&mut batch).await {
        if writer.send_bytes(&batch).await.is_err() {
            return;
        }
        batch.clear();
        // A rare large echo does not pin its memory.
        batch.shrink_to(64 * 1024);
    }
}

/// What to do after a line.
enum Next {
    Line,
    Heartbeat,
    Stop,
}

/// Why a line was not obeyed.
enum Refused {
    Line(BadLine),
    /// The configuration itself is wrong and there is no earlier one.
    Config(ModuleError),
}

fn receive<M: PersistentModule>(line: &str, outbox: &Outbox, worker: &mut Worker) -> Result<Next, Refused> {
    // Go reads a lone `null` as an empty message, which MIG's modules ignore.
    if line.trim() == "null" {
        return Ok(Next::Line);
    }
    let message = MessageRef::parse(line).map_err(Refused::Line)?;
    match message.class {
        Class::Ping => {
            outbox.urgent(Message::pong(&message).to_line());
            outbox.repeat_health();
            worker.heartbeat();
            return Ok(Next::Heartbeat);
        }
        Class::Config => {
            let parameters = match message.parameters {
                Some(_) => message.parameters_as::<ConfigParameters>("config"),
                None => Ok(ConfigParameters::default()),
            };
            match parameters {
                Ok(parameters) => worker.configure::<M>(parameters),
                Err(bad) if worker.configured => return Err(Refused::Line(bad)),
                Err(bad) => return Err(Refused::Config(ModuleError::new(bad.to_string()))),
            }
        }
        Class::Ack => {
            let ack: AckParameters<'_> = message.parameters_as("ack").map_err(Refused::Line)?;
            worker.acknowledge(ack.id.into_owned());
        }
        Class::Stop => return Ok(Next::Stop),
        // MIG's modules ignore classes that they do not know or expect, and so do we.
        Class::Register
        | Class::Log
        | Class::Alert
        | Class::Parameters
        | Class::Progress
        | Class::Health
        | Class::Configured
        | Class::Unknown(_) => {}
    }
    Ok(Next::Line)
}

fn complain(limit: &mut LogLimit, outbox: &Outbox, bad: &BadLine) {
    if let Some(dropped) = limit.permit(Instant::now()) {
        let more = if dropped == 0 { String::new() } else { format!(" ({dropped} more were not logged)") };
        outbox.note(&format!("a line from the agent was dropped: {bad}{more}"));
    }
}

/// Answers one query, on a thread that may block.
fn answer<M: PersistentModule>(
    runtime: &tokio::runtime::Handle,
    mut started: watch::Receiver<Option<Arc<M>>>,
    query: Query,
) -> ModuleResult {
    let running = started.borrow_and_update().clone();
    let running = running.or_else(|| {
        let start =
            async { timeout(START_PATIENCE, started.wait_for(Option::is_some)).await.ok()?.ok()?.clone() };
        runtime.block_on(start)
    });
    match running {
        Some(module) => module.query(query),
        None => ModuleResult::failed(["the module has not started yet; try again later".to_owned()]),
    }
}

/// Something for the module to do, in the order in which it came.
enum Order {
    Configure(Box<ConfigParameters>),
    Acknowledged(String),
    Heartbeat,
    Stop(oneshot::Sender<()>),
}

/// The thread that runs the module's own code, apart from queries.
struct Worker {
    /// Not a channel that is made for so many: that takes a megabyte in each module, and nearly always nothing waits.
    orders: mpsc::Sender<Order>,
    /// How many wait.
    waiting: Arc<AtomicUsize>,
    /// A configuration has been handed over.
    configured: bool,
}

impl Worker {
    /// Starts the thread; the receiver hears when the module cannot start.
    fn start<M: PersistentModule>(
        outbox: Outbox,
        state_dir: Option<PathBuf>,
        module: watch::Sender<Option<Arc<M>>>,
    ) -> (Self, oneshot::Receiver<()>) {
        let (orders, inbox) = mpsc::channel();
        let waiting = Arc::<AtomicUsize>::default();
        let (failed, failure) = oneshot::channel();
        let taken = Arc::clone(&waiting);
        std::thread::spawn(move || {
            let orders = inbox.iter().inspect(|_| _ = taken.fetch_sub(1, Ordering::Relaxed));
            work(orders, &outbox, state_dir.as_deref(), &module, failed);
        });
        (Self { orders, waiting, configured: false }, failure)
    }

    /// Hands an order over; `false` when too many wait or the thread has ended.
    fn put(&self, order: Order) -> bool {
        // Nobody else puts, so that there is room still.
        let has_room = self.waiting.load(Ordering::Relaxed) < WORKER_QUEUE;
        if has_room {
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
        has_room && self.orders.send(order).is_ok()
    }

    fn configure<M: PersistentModule>(&mut self, parameters: ConfigParameters) {
        // Like MIG's, a module that cannot be reconfigured ignores a second configuration.
        if !self.configured || M::RECONFIGURES {
            self.configured = true;
            // Full only when the module is stuck, and then the agent restarts it.
            self.put(Order::Configure(Box::new(parameters)));
        }
    }

    fn acknowledge(&self, id: String) {
        self.put(Order::Acknowledged(id));
    }

    fn heartbeat(&self) {
        self.put(Order::Heartbeat);
    }

    /// Lets the module stop, for a limited time.
    async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.put(Order::Stop(done)) {
            drop(timeout(STOP_TIMEOUT, stopped).await);
        }
    }
}

/// Which configuration is to be confirmed, when the agent wants to know.
struct Confirmation(Option<u64>);

impl Confirmation {
    fn of(parameters: &ConfigParameters) -> Self {
        let accepted = parameters.accepts.iter().any(|class| class == "configured");
        Self(parameters.generation.filter(|_| accepted))
    }

    fn send(&self, outbox: &Outbox, outcome: Result<(), &ModuleError>) {
        let Some(generation) = self.0 else { return };
        let errors = outcome.err().map(|error| ErrorChain(error).to_string()).into_iter().collect();
        outbox.configured(&ConfiguredParameters { generation, ok: outcome.is_ok(), errors });
    }
}

/// Carries out orders until the module stops or its streams end.
fn work<M: PersistentModule>(
    orders: impl Iterator<Item = Order>,
    outbox: &Outbox,
    state_dir: Option<&Path>,
    module: &watch::Sender<Option<Arc<M>>>,
    failed: oneshot::Sender<()>,
) {
    let mut failed = Some(failed);
    for order in orders {
        let running = module.borrow().clone();
        match (order, running) {
            (Order::Configure(parameters), None) => {
                let confirm = Confirmation::of(&parameters);
                let accepts_health = parameters.accepts.iter().any(|class| class == "health");
                match start::<M>(*parameters, outbox, state_dir) {
                    Ok(started) => {
                        module.send_replace(Some(Arc::new(started)));
                        confirm.send(outbox, Ok(()));
                        // Before it has started nothing is known of its health, and silence is not health.
                        outbox.accept_health(accepts_health);
                    }
                    Err(error) => {
                        outbox.note(&ErrorChain(&error).to_string());
                        confirm.send(outbox, Err(&error));
                        if let Some(failed) = failed.take() {
                            let _ = failed.send(());
                        }
                    }
                }
            }
            (Order::Configure(parameters), Some(module)) => {
                let confirm = Confirmation::of(&parameters);
                let settings = settings::<M>(*parameters, state_dir);
                match settings.and_then(|settings| module.reconfigure(settings)) {
                    Ok(()) => {
                        outbox.note("module received configuration");
                        confirm.send(outbox, Ok(()));
                    }
                    Err(error) => {
                        outbox.note(&format!("keeping the old configuration: {}", ErrorChain(&error)));
                        confirm.send(outbox, Err(&error));
                    }
                }
            }
            (Order::Acknowledged(id), running) => {
                if let (true, Some(module)) = (outbox.acknowledge(&id), running) {
                    module.acknowledged(&id);
                }
            }
            (Order::Heartbeat, running) => {
                if let Some(module) = running {
                    module.heartbeat();
                }
            }
            (Order::Stop(done), running) => {
                if let Some(module) = running {
                    module.stop();
                }
                let _ = done.send(());
                return;
            }
        }
    }
}

fn start<M: PersistentModule>(
    parameters: ConfigParameters,
    outbox: &Outbox,
    state_dir: Option<&Path>,
) -> Result<M, ModuleError> {
    let settings = settings::<M>(parameters, state_dir)?;
    outbox.note("module received configuration");
    if let Some(state_dir) = &settings.state_dir {
        outbox.keep_in(state_dir, M::NAME);
    }
    M::start(settings, Host { outbox: outbox.clone() })
}

fn settings<M: PersistentModule>(
    parameters: ConfigParameters,
    state_dir: Option<&Path>,
) -> Result<Settings<M::Config>, ModuleError> {
    let mut settings = Settings::from_parameters(parameters)?;
    settings.state_dir = settings.state_dir.or_else(|| state_dir.map(Path::to_owned));
    Ok(settings)
}

#[cfg(test)]
mod tests;
