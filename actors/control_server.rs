//! The agent's local socket: operators and investigators on this host.
//!
//! Started by the agent after everything it asks, stopped first. Owns the listener and one session task per
//! client; what a session may ask is in [`vigie_protocol::control`]. A client that sends garbage, nothing, one
//! byte a second, or vanishes costs its own connection: each session has a limit on its line, a time to ask in,
//! and a time to take its answer. When all places are taken, the user with most clients gives one up for the next: the
//! one that has been connected longest without having asked.
//!
//! Only root and the agent's own user are served: the directory and the socket let nobody else in, and the
//! kernel's word on who is connected (SO_PEERCRED, unix(7)) is checked as well.

mod session;
mod status;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, ResponseActFuture,
    SpawnHandle, WrapFuture,
};
use slog::{Logger, debug, info, o, warn};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::AbortHandle;

use self::session::Session;
use crate::alert_journal::AlertJournal;
use crate::conditions::{Conditions, Reporter};
use crate::config_loader::{ConfigChanged, ConfigLoader};
use crate::descriptors;
use crate::fleet_link::FleetLink;
use crate::query_router::QueryRouter;
use crate::sinks::Sinks;
use crate::supervisor::Supervisor;
use crate::work_threads::{self, Lane};
use vigie_config::difference::runs;
use vigie_config::model::{LimitsSection, LoadedConfig};
use vigie_log::AgentLog;
use vigie_protocol::catalogue::AgentCondition;
use vigie_protocol::control::SOCKET_NAME;
use vigie_protocol::error_chain::ErrorChain;

/// Messages in the mailbox before a sender waits: a thousand clients may come at once.
const MAILBOX_CAPACITY: usize = 1024;

/// Longest wait for a socket to be removed at the stop.
const REMOVE_TIMEOUT: Duration = Duration::from_millis(500);

/// Pause after the system refused a connection, for example because no descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Clients that are served whatever the limit of open files.
const FEWEST_CLIENTS: usize = 4;

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {path:?}")]
pub struct ListenError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The actors that sessions ask, and what they say about the agent itself.
#[derive(Clone)]
pub struct Asked {
    /// Modules.
    pub supervisor: Addr<Supervisor>,
    /// Queries.
    pub router: Addr<QueryRouter>,
    /// What is wrong.
    pub conditions: Addr<Conditions>,
    /// Alerts.
    pub journal: Addr<AlertJournal>,
    /// The link to the fleet.
    pub fleet: Addr<FleetLink>,
    /// Where alerts are sent.
    pub sinks: Addr<Sinks>,
    /// Configuration.
    pub loader: Addr<ConfigLoader>,
    /// The agent's log, for its health.
    pub agent_log: AgentLog,
    /// Facts that do not change while the agent runs.
    pub agent: Rc<AgentFacts>,
}

/// What the agent knows of itself.
#[derive(Debug)]
pub struct AgentFacts {
    /// The host's name.
    pub hostname: String,
    /// When the agent started, RFC 3339.
    pub started_at: String,
    /// The same on the monotonic clock.
    pub started: tokio::time::Instant,
    /// What holds modules: `cgroup` or `session`.
    pub containment: String,
}

/// The actor.
pub struct ControlServer {
    log: Logger,
    path: PathBuf,
    /// The group whose users may ask.
    operators: Option<u32>,
    listener: Option<UnixListener>,
    /// Device and inode of the socket.
    identity: Option<(u64, u64)>,
    accepting: Option<SpawnHandle>,
    heartbeat: Duration,
    /// The socket was gone at the last look.
    was_gone: bool,
    limits: LimitsSection,
    asked: Asked,
    clients: BTreeMap<u64, Client>,
    next_client: u64,
}

/// One connected client; they are kept in the order in which they came.
struct Client {
    session: AbortHandle,
    /// Its user.
    uid: u32,
    /// Whether it has sent its first request.
    has_asked: Rc<Cell<bool>>,
}

impl ControlServer {
    /// Opens the socket in `run_dir`, whose lock the caller holds: what is there is a leftover.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn open(
        run_dir: &Path,
        operators: Option<u32>,
        config: &Arc<LoadedConfig>,
        asked: Asked,
        log: &Logger,
    ) -> Result<Self, ListenError> {
        let path = run_dir.join(SOCKET_NAME);
        let listener = bind(&path, operators)
            .and_then(UnixListener::from_std)
            .map_err(|source| ListenError { path: path.clone(), source })?;
        Ok(Self {
            log: log.new(o!("component" => "control_server")),
            path: path.clone(),
            operators,
            identity: identity(&path),
            listener: Some(listener),
            accepting: None,
            heartbeat: config.agent.agent.heartbeat_interval,
            was_gone: false,
            limits: possible(config, log),
            asked,
            clients: BTreeMap::new(),
            next_client: 0,
        })
    }

    fn accept_on(&mut self, listener: UnixListener, ctx: &mut Context<Self>) {
        if let Some(before) = self.accepting.take() {
            ctx.cancel_future(before);
        }
        let (me, log) = (ctx.address(), self.log.clone());
        self.accepting = Some(ctx.spawn(accept(listener, me, log).into_actor(self)));
    }

    fn make_room(&mut self) {
        while self.clients.len() >= self.limits.clients {
            let Some(id) = self.least_entitled() else { return };
            if let Some(client) = self.clients.remove(&id) {
                debug!(self.log, "client disconnected in favour of another one"; "limit" => self.limits.clients);
                client.session.abort();
            }
        }
    }
}

impl ControlServer {
    /// The client that makes room: of the user with most clients, the one connected longest without having asked, or
    /// else the one connected longest. One user's clients never cost another's his.
    fn least_entitled(&self) -> Option<u64> {
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        for client in self.clients.values() {
            *counts.entry(client.uid).or_default() += 1;
        }
        // Of two with as many, the one with the higher number: root is 0.
        let (&user, _) = counts.iter().max_by_key(|(uid, count)| (**count, **uid))?;
        let own = || self.clients.iter().filter(|(_, client)| client.uid == user);
        own().find(|(_, client)| !client.has_asked.get()).or_else(|| own().next()).map(|(&id, _)| id)
    }
}

/// The limits, with as many clients as there are descriptors for.
fn possible(config: &LoadedConfig, log: &Logger) -> LimitsSection {
    let configured = config.agent.limits;
    let modules = config.modules.iter().filter(|spec| runs(spec)).count();
    // Too few for any were refused at the start; a reload that asks for more modules still serves a few clients.
    let clients = descriptors::clients_within(descriptors::limit(), modules).unwrap_or(FEWEST_CLIENTS);
    if clients < configured.clients {
        warn!(log, "fewer clients than limits.clients are served because of the limit of open files";
            "limit" => clients);
    }
    LimitsSection { clients: configured.clients.min(clients), ..configured }
}

/// Binds under a name of its own and moves the socket to its place when its mode is right, so that there is no
/// moment in which others could connect.
#[expect(clippy::disallowed_methods, reason = "called before the actors run, and on Lane::Modules")]
pub(crate) fn bind(path: &Path, operators: Option<u32>) -> io::Result<std::os::unix::net::UnixListener> {
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(&new)?;
    listener.set_nonblocking(true)?;
    let mode = if operators.is_some() { 0o660 } else { 0o600 };
    if operators.is_some() {
        std::os::unix::fs::chown(&new, None, operators)?;
    }
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&new, path)?;
    Ok(listener)
}

impl Actor for ControlServer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_CAPACITY);
        let Some(listener) = self.listener.take() else { return };
        self.accept_on(listener, ctx);
        info!(self.log, "control socket listening"; "socket" => ?self.path);
        ctx.notify_later(LookAtSocket, self.heartbeat);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        for client in self.clients.values() {
            client.session.abort();
        }
    }
}

/// Removes a socket of the agent's. A directory that does not answer keeps no stop waiting: the next agent puts its own
/// socket in the place of what is left.
pub(crate) async fn remove_socket(path: PathBuf) {
    #[expect(clippy::disallowed_methods, reason = "on Lane::Modules")]
    let removing = work_threads::run(Lane::Modules, move || std::fs::remove_file(path).ok());
    tokio::time::timeout(REMOVE_TIMEOUT, removing).await.ok();
}

/// Device and inode of what is there.
#[expect(clippy::disallowed_methods, reason = "called before the actors run, and on Lane::Modules")]
pub(crate) fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Time to see whether the socket is still there. Sent by this actor to itself, once per heartbeat.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct LookAtSocket;

impl Handler<LookAtSocket> for ControlServer {
    type Result = ();

    fn handle(&mut self, _: LookAtSocket, ctx: &mut Self::Context) {
        let (path, expected, operators) = (self.path.clone(), self.identity, self.operators);
        #[expect(clippy::disallowed_methods, reason = "on Lane::Modules")]
        let looking = work_threads::run(Lane::Modules, move || {
            if identity(&path) == expected {
                return None;
            }
            if let Some(directory) = path.parent().filter(|directory| !directory.is_dir()) {
                std::fs::DirBuilder::new().mode(0o700).create(directory).ok();
            }
            let made = bind(&path, operators).map_err(|source| ListenError { path: path.clone(), source });
            Some(made.map(|listener| (listener, identity(&path))))
        });
        ctx.spawn(looking.into_actor(self).map(|looked, this, ctx| {
            let problem = match looked {
                Ok(Some(Ok((listener, identity)))) => {
                    warn!(this.log, "control socket was removed and has been recreated"; "socket" => ?this.path);
                    this.identity = identity;
                    if let Ok(listener) = UnixListener::from_std(listener) {
                        this.accept_on(listener, ctx);
                    }
                    Some("it was removed and has been recreated".to_owned())
                }
                Ok(Some(Err(error))) => Some(ErrorChain(&error).to_string()),
                Ok(None) | Err(_) => None,
            };
            if problem.is_some() || this.was_gone {
                this.was_gone = problem.is_some();
                Reporter::agent(this.asked.conditions.clone()).set(AgentCondition::ControlSocketMissing, problem);
            }
            ctx.notify_later(LookAtSocket, this.heartbeat);
        }));
    }
}

/// Hands connections to the actor, one at a time.
async fn accept(listener: UnixListener, server: Addr<ControlServer>, log: Logger) {
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                failing = false;
                server.send(ClientConnected(stream)).await.ok();
            }
            Err(error) => {
                if !failing {
                    warn!(log, "cannot accept a connection"; "error" => %error);
                    failing = true;
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A client connected. Sent by the accepting task, which waits until it is handled.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct ClientConnected(UnixStream);

impl Handler<ClientConnected> for ControlServer {
    type Result = ();

    fn handle(&mut self, connected: ClientConnected, ctx: &mut Self::Context) {
        let stream = connected.0;
        let own = nix::unistd::geteuid().as_raw();
        let uid = match stream.peer_cred() {
            Ok(peer) if peer.uid() == 0 || peer.uid() == own => peer.uid(),
            // The kernel let nobody but users of that group connect.
            Ok(peer) if self.operators.is_some() => peer.uid(),
            Ok(peer) => {
                warn!(self.log, "connection of another user refused"; "found" => peer.uid());
                return;
            }
            Err(_) => return,
        };
        self.make_room();
        let has_asked = Rc::new(Cell::new(false));
        let session = Session {
            asked: self.asked.clone(),
            limits: self.limits,
            uid,
            is_owner: uid == 0 || uid == own,
            has_asked: has_asked.clone(),
            log: self.log.clone(),
        };
        let id = self.next_client;
        self.next_client += 1;
        let serving = actix_rt::spawn(session.serve(stream));
        self.clients.insert(id, Client { session: serving.abort_handle(), uid, has_asked });
        ctx.spawn(serving.into_actor(self).map(move |_, this, _| {
            this.clients.remove(&id);
        }));
    }
}

impl Handler<ConfigChanged> for ControlServer {
    type Result = ();

    fn handle(&mut self, change: ConfigChanged, _: &mut Self::Context) {
        self.limits = possible(&change.config, &self.log);
        self.heartbeat = change.config.agent.agent.heartbeat_interval;
    }
}

/// Orders the server to close its socket and its sessions. Sent once, when the agent stops.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CloseSocket;

impl Handler<CloseSocket> for ControlServer {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: CloseSocket, _: &mut Self::Context) -> Self::Result {
        Box::pin(remove_socket(self.path.clone()).into_actor(self).map(|(), _, ctx| ctx.stop()))
    }
}
