//! The socket on which a persistent module answers queries.
//!
//! A client is not trusted: a bad, slow, silent or vanished one costs its own connection and nothing else.
//! Every connection carries one request, ended by a line feed or by the end of its stream, and takes one
//! answer. All waits and all memory are bounded by the constants below.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::Either;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::module::Query;
use crate::request::{Request, time_left};
use vigie_protocol::message::{DEFAULT_MAX_RESULT_BYTES, Message};
use vigie_protocol::result::ModuleResult;
use vigie_protocol::socket::{SocketSpec, SocketSpecError};

/// Connections held at once. When there are more, the one that has waited longest without having sent its
/// request is closed.
const MAX_CONNECTIONS: usize = 1024;

/// Queries that run at once; more wait for a place.
pub(crate) const MAX_RUNNING_QUERIES: usize = 64;

/// Time that a client has to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Time that a query waits for a place among the running ones.
const PLACE_TIMEOUT: Duration = Duration::from_secs(30);

/// Time that a client has to take its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Time that a client whose request was refused has to stop sending, so that closing does not cut its answer.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest request in bytes; MIG's programs send up to 10 MB.
const MAX_REQUEST_BYTES: usize = DEFAULT_MAX_RESULT_BYTES;

/// Bytes of a request that need no share of the budget: nearly every request is shorter.
const FREE_REQUEST_BYTES: usize = 8 * 1024;

/// Bytes that all requests together may hold beyond their free ones.
const REQUEST_BUDGET_BYTES: usize = 64 * 1024 * 1024;

/// How often a running query's client is looked at, whether it still waits.
const WATCH_PERIOD: Duration = Duration::from_millis(250);

/// Pause after an error of accept(2): most, such as too many open files, last until another connection ends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a module cannot listen for queries.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The run directory cannot be made or looked at.
    #[error("cannot use run directory {path:?}")]
    RunDir {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others could put their own socket in the place of ours.
    #[error("run directory {path:?} is not safe: {why}")]
    RunDirUnsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// The path is not one that can be registered.
    #[error("cannot listen in {path:?}")]
    Spec {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        source: SocketSpecError,
    },
    /// There is something that is not a socket.
    #[error("{path:?} exists and is not a socket; remove it")]
    Occupied {
        /// The path.
        path: PathBuf,
    },
    /// A living process listens there: a second copy of the module must not take its place.
    #[error("another process listens at {path:?}; end it first")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen at {spec}")]
    Bind {
        /// Where.
        spec: String,
        /// What the system says.
        source: io::Error,
    },
    /// Only this host may ask.
    #[error("{address} is not a loopback address; queries are not authenticated on TCP")]
    NotLoopback {
        /// The address.
        address: SocketAddr,
    },
}

/// Name and inode of a socket; a socket of TCP has none.
pub(crate) struct Place(Option<(PathBuf, u64)>);

impl Place {
    /// Whether the name still leads to the socket.
    pub(crate) fn is_there(&self) -> bool {
        self.0.as_ref().is_none_or(|(path, inode)| {
            std::fs::symlink_metadata(path).is_ok_and(|found| found.ino() == *inode)
        })
    }
}

/// A socket that is ready to be registered.
#[derive(Debug)]
pub struct QueryListener {
    socket: Socket,
    spec: SocketSpec,
}

#[derive(Debug)]
enum Socket {
    Unix { listener: UnixListener, path: PathBuf, inode: u64 },
    Tcp(TcpListener),
}

impl QueryListener {
    /// Listens at `persist-NAME.sock` in `run_dir`, which is made when it is missing. The socket never has
    /// other permissions than 0600, whatever the umask: it is made under another name in a directory that
    /// nobody else can enter or change, and then put in its place, where a dead socket may be.
    ///
    /// # Errors
    /// When the directory belongs to or may be changed by others, when something that is not a socket is in the
    /// way, or when the system refuses.
    pub fn bind_unix(run_dir: &Path, module: &str) -> Result<Self, ListenError> {
        check_run_dir(run_dir)?;
        let path = run_dir.join(format!("persist-{module}.sock"));
        let spec: SocketSpec = format!("unix:{}", path.display())
            .parse()
            .map_err(|source| ListenError::Spec { path: run_dir.to_owned(), source })?;
        let bind_error = |source| ListenError::Bind { spec: spec.to_string(), source };

        match std::fs::symlink_metadata(&path) {
            Ok(there) if !there.file_type().is_socket() => return Err(ListenError::Occupied { path }),
            // A socket whose process is gone refuses connections.
            Ok(_) if std::os::unix::net::UnixStream::connect(&path).is_ok() => {
                return Err(ListenError::InUse { path });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(bind_error(error)),
        }
        // Shorter than any final name, so that both fit `sun_path`; the pid keeps it from other modules'.
        let temporary = run_dir.join(format!(".{:x}", std::process::id()));
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(bind_error(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&temporary).map_err(bind_error)?;
        std::fs::set_permissions(&temporary, Permissions::from_mode(0o600)).map_err(bind_error)?;
        let inode = std::fs::symlink_metadata(&temporary).map_err(bind_error)?.ino();
        std::fs::rename(&temporary, &path).map_err(bind_error)?;
        Ok(Self { socket: Socket::Unix { listener, path, inode }, spec })
    }

    /// Listens on TCP, for a module that cannot share a file system with its agent. Whoever can connect can
    /// ask, so only loopback addresses are taken. Port 0 lets the kernel choose.
    ///
    /// # Errors
    /// When the address is not a loopback one, or the system refuses.
    pub async fn bind_tcp(address: SocketAddr) -> Result<Self, ListenError> {
        if !address.ip().is_loopback() {
            return Err(ListenError::NotLoopback { address });
        }
        let bind_error = |source| ListenError::Bind { spec: format!("tcp:{address}"), source };
        let listener = TcpListener::bind(address).await.map_err(bind_error)?;
        let spec = SocketSpec::Tcp(listener.local_addr().map_err(bind_error)?);
        Ok(Self { socket: Socket::Tcp(listener), spec })
    }

    /// Where it listens, to see later whether it is still there.
    pub(crate) fn place(&self) -> Place {
        match &self.socket {
            Socket::Unix { path, inode, .. } => Place(Some((path.clone(), *inode))),
            Socket::Tcp(_) => Place(None),
        }
    }

    /// What to register.
    #[must_use]
    pub fn spec(&self) -> &SocketSpec {
        &self.spec
    }

    /// Answers queries for ever; `answer` runs on threads that may block. Dropping the future closes the
    /// listener and all connections, but cannot end an `answer` that runs.
    pub async fn serve<F>(self, answer: F)
    where
        F: Fn(Query) -> ModuleResult + Send + Sync + 'static,
    {
        let desk = Arc::new(Desk {
            answer: Box::new(answer),
            places: Arc::new(Semaphore::new(MAX_RUNNING_QUERIES)),
            budget: Arc::new(Semaphore::new(REQUEST_BUDGET_BYTES)),
            connections: Connections::default(),
        });
        let _guard = CloseAll(Arc::clone(&desk));
        for number in 0u64.. {
            match self.accept().await {
                Ok(Either::Left(stream)) => desk.admit(number, stream),
                Ok(Either::Right(stream)) => desk.admit(number, stream),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    async fn accept(&self) -> io::Result<Either<UnixStream, TcpStream>> {
        match &self.socket {
            Socket::Unix { listener, .. } => listener.accept().await.map(|(stream, _)| Either::Left(stream)),
            Socket::Tcp(listener) => listener.accept().await.map(|(stream, _)| Either::Right(stream)),
        }
    }
}

impl Drop for QueryListener {
    fn drop(&mut self) {
        if let Socket::Unix { path, inode, .. } = &self.socket {
            // A newer life of the module may have put its own socket there already.
            if std::fs::symlink_metadata(path).is_ok_and(|there| there.ino() == *inode) {
                drop(std::fs::remove_file(path));
            }
        }
    }
}

/// Makes the directory when it is missing and makes sure that nobody else can change it.
fn check_run_dir(path: &Path) -> Result<(), ListenError> {
    let failed = |source| ListenError::RunDir { path: path.to_owned(), source };
    let not_safe = |why: String| ListenError::RunDirUnsafe { path: path.to_owned(), why };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
    let uid = nix::unistd::geteuid().as_raw();
    if !metadata.is_dir() {
        return Err(not_safe("it is a symbolic link; name the directory itself".to_owned()));
    }
    if metadata.uid() != uid {
        let owner = metadata.uid();
        return Err(not_safe(format!("it belongs to user {owner} and this process runs as user {uid}")));
    }
    if metadata.mode() & 0o022 != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(not_safe(format!("other users can write to it (mode {mode:o}); run chmod 0700 on it")));
    }
    Ok(())
}

/// What all connections share.
struct Desk {
    answer: Box<dyn Fn(Query) -> ModuleResult + Send + Sync>,
    places: Arc<Semaphore>,
    budget: Arc<Semaphore>,
    connections: Connections,
}

#[derive(Debug, Default)]
struct Connections {
    open: Mutex<BTreeMap<u64, Connection>>,
}

#[derive(Debug)]
struct Connection {
    task: AbortHandle,
    /// It has not sent its request yet.
    waiting: bool,
}

/// Ends all connections with the listener.
struct CloseAll(Arc<Desk>);

impl Drop for CloseAll {
    fn drop(&mut self) {
        for connection in self.0.connections.lock().values() {
            connection.task.abort();
        }
    }
}

/// Takes a connection out of the table when its task ends, however it ends.
struct Registered {
    desk: Arc<Desk>,
    number: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.desk.connections.lock().remove(&self.number);
    }
}

impl Connections {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Connection>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for one more; `false` when every connection is being answered.
    fn make_room(&self) -> bool {
        let mut open = self.lock();
        if open.len() < MAX_CONNECTIONS {
            return true;
        }
        let Some(oldest) = open.iter().find(|(_, connection)| connection.waiting).map(|(number, _)| *number)
        else {
            return false;
        };
        if let Some(connection) = open.remove(&oldest) {
            connection.task.abort();
        }
        true
    }
}

impl Desk {
    fn admit<S: Client>(self: &Arc<Self>, number: u64, stream: S) {
        if !self.connections.make_room() {
            return;
        }
        let desk = Arc::clone(self);
        // Locked over the spawn, so that a connection that ends at once is not entered after it has left.
        let mut open = self.connections.lock();
        let registered = Registered { desk: Arc::clone(self), number };
        let task = tokio::spawn(async move {
            let _registered = registered;
            desk.converse(number, stream).await;
        });
        open.insert(number, Connection { task: task.abort_handle(), waiting: true });
    }

    async fn converse<S: Client>(self: Arc<Self>, number: u64, mut stream: S) {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let read = if stream.may_ask() {
            timeout_at(deadline, read_request(&mut stream, &self.budget)).await
        } else {
            Ok(Err(Refusal::NotAllowed))
        };
        if let Some(connection) = self.connections.lock().get_mut(&number) {
            connection.waiting = false;
        }
        let request = match read {
            Ok(Ok(request)) => request,
            Ok(Err(Refusal::Vanished)) => return,
            Ok(Err(refusal)) => return refuse(stream, refusal.to_string()).await,
            Err(_) => return refuse(stream, Refusal::TooSlow.to_string()).await,
        };
        let parsed = Request::parse(&request.line);
        drop(request);
        let result = match parsed {
            Ok(request) => self.answer(&mut stream, request).await,
            Err(error) => return refuse(stream, error).await,
        };
        let Some(result) = result else { return };
        let line = bounded(&result);
        // Bytes after the request, left unread, would reset the connection and could cut the answer short.
        stream.discard();
        drop(timeout(ANSWER_TIMEOUT, send(&mut stream, &line)).await);
    }

    /// Runs the query; `None` when its client has gone before it ran.
    async fn answer<S: Client>(self: &Arc<Self>, stream: &mut S, request: Request) -> Option<ModuleResult> {
        let place = match timeout(PLACE_TIMEOUT, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(place)) => place,
            _ => {
                return Some(ModuleResult::failed([format!(
                    "module is busy with {MAX_RUNNING_QUERIES} other queries; try again later"
                )]));
            }
        };
        if stream.has_vanished() {
            return None;
        }
        let (reports, mut progress) = watch::channel(None);
        let mut query = request.query;
        if request.progress {
            query = query.reporting_to(move |progress| {
                reports.send_replace(Some(Message::progress(progress).to_line()));
            });
        }
        let stopped = Arc::clone(&query.stopped);
        let left = query.deadline.as_deref().and_then(|text| time_left(text, jiff::Timestamp::now()));
        let _stop_with_us = StopOnDrop(Arc::clone(&stopped));
        let deadline = left.map(|left| Instant::now() + left);
        let desk = Arc::clone(self);
        let (done, mut running) = oneshot::channel();
        // Not on the runtime's pool, which panics when the host has no task left for it.
        let runtime = tokio::runtime::Handle::current();
        let thread = std::thread::Builder::new().name("query".to_owned()).spawn(move || {
            // A module's own code may wait for the runtime's timers and sockets.
            let _context = runtime.enter();
            // The place is free when the module's code has returned, not when the client has lost patience.
            let _place: OwnedSemaphorePermit = place;
            done.send((desk.answer)(query)).ok();
        });
        if let Err(error) = thread {
            return Some(ModuleResult::failed([format!(
                "module cannot start a thread for the query: {error}; try again later"
            )]));
        }
        loop {
            match timeout(WATCH_PERIOD, &mut running).await {
                Ok(Ok(result)) => return Some(result),
                Ok(Err(_)) => return Some(ModuleResult::failed(["the query was cancelled".to_owned()])),
                Err(_) => {
                    let line = progress.has_changed().is_ok_and(|changed| changed);
                    let line = line.then(|| progress.borrow_and_update().clone()).flatten();
                    if let Some(line) = line {
                        // Half a line would spoil the answer: whoever does not take it is gone.
                        match timeout(ANSWER_TIMEOUT, stream.write_all(&line)).await {
                            Ok(Ok(())) => {}
                            _ => return None,
                        }
                    }
                    if stream.has_vanished() || deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                        stopped.store(true, Ordering::Relaxed);
                    }
                }
            }
        }
    }
}

/// Tells a running query that nobody waits when its connection's task is dropped.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The answer's line; one that the agent would not accept is replaced by an error.
fn bounded(result: &ModuleResult) -> Vec<u8> {
    let line = result.to_line();
    if line.len() <= DEFAULT_MAX_RESULT_BYTES {
        return line;
    }
    let found = line.len();
    ModuleResult::failed([format!(
        "the result has {found} bytes, more than the limit of {DEFAULT_MAX_RESULT_BYTES}; narrow the query"
    )])
    .to_line()
}

/// Why a request is not answered with a result of the module.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the client has closed the connection without a request")]
    Vanished,
    #[error("permission denied: only root and the module's own user may use this socket")]
    NotAllowed,
    #[error("the request did not arrive within {} seconds", REQUEST_TIMEOUT.as_secs())]
    TooSlow,
    #[error("the request is longer than {MAX_REQUEST_BYTES} bytes")]
    TooLong,
    #[error("too many large requests at once; try again later")]
    NoBudget,
}

/// A request's bytes and their share of the budget.
struct RequestBytes {
    line: Vec<u8>,
    _shares: Vec<OwnedSemaphorePermit>,
}

/// Reads to the first line feed or the end of the stream.
async fn read_request<S: AsyncRead + Unpin>(
    stream: &mut S,
    budget: &Arc<Semaphore>,
) -> Result<RequestBytes, Refusal> {
    let mut line = Vec::with_capacity(1024);
    let mut paid = FREE_REQUEST_BYTES;
    let mut shares = Vec::new();
    loop {
        if line.len() == line.capacity() {
            let wanted = (line.capacity() * 2).min(MAX_REQUEST_BYTES + 1);
            if wanted > paid {
                let share = u32::try_from(wanted - paid).map_err(|_| Refusal::TooLong)?;
                let share =
                    Arc::clone(budget).try_acquire_many_owned(share).map_err(|_| Refusal::NoBudget)?;
                shares.push(share);
                paid = wanted;
            }
            line.reserve_exact(wanted - line.len());
        }
        let seen = line.len();
        match stream.read_buf(&mut line).await {
            Ok(0) if line.is_empty() => return Err(Refusal::Vanished),
            Ok(0) => break,
            Ok(_) => {}
            Err(_) => return Err(Refusal::Vanished),
        }
        if let Some(end) = line[seen..].iter().position(|byte| *byte == b'\n') {
            line.truncate(seen + end);
            break;
        }
        if line.len() > MAX_REQUEST_BYTES {
            return Err(Refusal::TooLong);
        }
    }
    Ok(RequestBytes { line, _shares: shares })
}

/// Sends an error result, and waits a moment for the client to take it.
async fn refuse<S: Client>(mut stream: S, error: String) {
    let line = ModuleResult::failed([error]).to_line();
    if timeout(ANSWER_TIMEOUT, send(&mut stream, &line)).await.is_ok_and(|sent| sent.is_ok()) {
        let mut rest = [0; 4096];
        let drained = async { while stream.read(&mut rest).await.is_ok_and(|bytes| bytes > 0) {} };
        // A client that goes on sending has had its time.
        drop(timeout(LINGER_TIMEOUT, drained).await);
    }
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, line: &[u8]) -> io::Result<()> {
    stream.write_all(line).await?;
    stream.shutdown().await
}

/// A connection to whoever asks.
trait Client: AsyncRead + AsyncWrite + AsFd + Unpin + Send + Sync + 'static {
    /// Whether this client may ask.
    fn may_ask(&self) -> bool;

    /// Throws away what has arrived and will not be read.
    fn discard(&self);

    /// Whether the client has closed both directions: one that has only ended its request still waits.
    fn has_vanished(&self) -> bool {
        hung_up(self.as_fd())
    }
}

/// Most reads that throw away what came after a request; who sends more is cut off.
const MAX_DISCARDS: usize = 64;

impl Client for UnixStream {
    fn may_ask(&self) -> bool {
        self.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == nix::unistd::geteuid().as_raw())
    }

    fn discard(&self) {
        let mut rest = [0; 4096];
        for _ in 0..MAX_DISCARDS {
            if !self.try_read(&mut rest).is_ok_and(|bytes| bytes > 0) {
                break;
            }
        }
    }
}

impl Client for TcpStream {
    fn may_ask(&self) -> bool {
        self.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_loopback())
    }

    fn discard(&self) {
        let mut rest = [0; 4096];
        for _ in 0..MAX_DISCARDS {
            if !self.try_read(&mut rest).is_ok_and(|bytes| bytes > 0) {
                break;
            }
        }
    }
}

fn hung_up(stream: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(stream, PollFlags::empty())];
    nix::poll::poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        && polled[0].revents().is_some_and(|events| {
            events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL)
        })
}

#[cfg(test)]
mod tests;
