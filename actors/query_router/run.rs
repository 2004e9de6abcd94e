//! One query under way: to a socket or to a child process, and back.

use std::time::Duration;

use serde_json::value::RawValue;

use actix::Addr;
use slog::{Logger, debug, info, warn};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::Instant;
use vigie_protocol::json::whole_characters;
use vigie_protocol::message::{Message as WireMessage, Progress};
use vigie_protocol::privacy::{self, MaskedForm};
use vigie_protocol::progress::ProgressReader;
use vigie_protocol::result::ModuleResult;
use vigie_protocol::socket::SocketSpec;

use super::QueryError;
use super::ears::Ears;
use crate::child::{ChildControl, ProcessSpawner};
use crate::socket_policy;
use crate::socket_registry::{FindSocket, NoSocket, RegisteredSocket, SocketRegistry};
use crate::work_threads::{self, Lane};
use vigie_config::model::ModuleSpec;
use vigie_protocol::control::ModuleKind;
use vigie_protocol::error_chain::ErrorChain;
use vigie_protocol::module_name::ModuleName;

/// How much of an answer is read at a time, in bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// How much of a standard module's stderr is kept for its error, in bytes.
const STDERR_TAIL_BYTES: usize = 4096;

/// Time that the pipes of a standard module that is gone are read on while somebody holds them open.
const DRAIN: Duration = Duration::from_millis(200);

/// Time for the rest of what a standard module wrote to stderr, after its answer.
const STDERR_REST: Duration = Duration::from_millis(20);

/// A standard module is told to stop this long before its deadline, to return what it has.
const STOP_LEAD: Duration = Duration::from_secs(1);

/// One query under way.
pub(super) struct QueryRun {
    pub(super) number: u64,
    pub(super) module: ModuleName,
    pub(super) timeout: Duration,
    pub(super) deadline: Instant,
    pub(super) result_bytes: usize,
    pub(super) registry: Addr<SocketRegistry>,
    pub(super) log: Logger,
    pub(super) client: watch::Receiver<bool>,
    pub(super) progress: Option<watch::Sender<Progress>>,
    pub(super) ears: Ears,
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
    pub(super) async fn limited<T>(&self, work: impl Future<Output = T>) -> Result<T, QueryError> {
        let mut client = self.client.clone();
        let gone = async move { while client.changed().await.is_ok() {} };
        tokio::select! {
            biased;
            done = tokio::time::timeout_at(self.deadline, work) => done.map_err(|_| self.timed_out()),
            () = gone => Err(QueryError::ClientGone(self.module.clone())),
        }
    }

    pub(super) fn timed_out(&self) -> QueryError {
        QueryError::TimedOut { module: self.module.clone(), timeout: self.timeout }
    }

    pub(super) async fn ask_persistent(&self, request: &[u8]) -> Result<ModuleResult, QueryError> {
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
                let stream = TcpStream::connect(address).await.map_err(refused)?;
                // A stranger can have taken the port since the module registered it.
                socket_policy::check_listener(*address, socket.pid).await.map_err(|reason| {
                    QueryError::WrongPeer {
                        module: self.module.clone(),
                        socket: socket.spec.to_string(),
                        reason,
                    }
                })?;
                self.converse(stream, request).await
            }
        }
    }

    /// Sends the request and reads the answer to the end of the stream.
    async fn converse(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        request: &[u8],
    ) -> Result<Vec<u8>, QueryError> {
        self.ears.asked(request);
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
        let parsed = self.parse_unheard(answer);
        let dropped = parsed.as_ref().err().map(QueryError::kind);
        self.ears.said(&String::from_utf8_lossy(answer), dropped);
        parsed
    }

    fn parse_unheard(&self, answer: &[u8]) -> Result<ModuleResult, QueryError> {
        let bad = |reason: String| QueryError::BadAnswer { module: self.module.clone(), reason };
        let text = std::str::from_utf8(answer).map_err(|_| bad("it is not UTF-8".to_owned()))?;
        // Any object reads as a result, because every key of one may be missing; one of these is always there.
        if !text.contains("\"success\"") && !text.contains("\"errors\"") {
            return Err(bad(format!("{:?}", text.chars().take(80).collect::<String>())));
        }
        serde_json::from_str(&whole_characters(text)).map_err(|error| bad(error.to_string()))
    }

    /// The second lock of extra privacy mode: refuses an answer that the module forgot to mask.
    pub(super) async fn check_masked(
        &self,
        result: ModuleResult,
        form: MaskedForm,
        asked: Option<Box<RawValue>>,
    ) -> Result<ModuleResult, QueryError> {
        // An answer may have many megabytes: it is not read on the thread of all actors.
        let checked = work_threads::run(Lane::Answers, move || {
            let asked = privacy::Asked::of(asked.as_deref());
            (privacy::check_answer(&result, form, &asked), result)
        })
        .await;
        match checked {
            Ok((Ok(()), result)) => Ok(result),
            Ok((Err(unmasked), _)) => {
                warn!(self.log, "result withheld: it is not masked"; "module" => %self.module,
                    "query_id" => self.number, "found" => &unmasked.place);
                Err(QueryError::Unmasked { module: self.module.clone(), place: unmasked.place })
            }
            Err(error) => {
                Err(QueryError::BadAnswer { module: self.module.clone(), reason: error.to_string() })
            }
        }
    }

    pub(super) async fn run_standard(
        &self,
        spec: &ModuleSpec,
        spawner: &ProcessSpawner,
        request: &[u8],
        on_stderr: &mut Vec<u8>,
    ) -> Result<ModuleResult, QueryError> {
        let not_started = |reason: String| QueryError::NotStarted { module: self.module.clone(), reason };
        let group = self
            .limited(spawner.prepare_section(&spec.section, &format!("query-{}", self.number)))
            .await?
            .map_err(|error| not_started(ErrorChain(&error).to_string()))?;
        let (control, mut child) = spawner
            .start(&spec.section, ModuleKind::Standard, group)
            .map_err(|error| not_started(ErrorChain(&error).to_string()))?;
        debug!(self.log, "standard module started"; "module" => %self.module, "query_id" => self.number,
            "pid" => control.pid());
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(not_started("the pipes were not created".to_owned()));
        };
        // A module of ours honours `stop`; a program of somebody else may wait for the end of its stdin.
        let stop_at = match spec.section.command {
            None => Some(self.deadline - STOP_LEAD.min(self.timeout / 4)),
            Some(_) => None,
        };
        let incoming = Incoming::new(self.progress.as_ref(), self.result_bytes);
        let ears = self.ears.clone();
        let feeding = actix_rt::spawn(feed(stdin, request.to_vec(), stop_at, self.client.clone(), ears));
        let listening = listen(stdout, stderr, control.wait(&mut child), incoming, on_stderr);
        let answer = self.limited(listening).await;
        feeding.abort();
        // Whatever is left of it, its own or its children's, ends with the query.
        control.kill();
        if tokio::time::timeout(Duration::from_secs(5), control.wait(&mut child)).await.is_err() {
            info!(self.log, "standard module has not exited yet"; "module" => %self.module,
                "pid" => control.pid());
        }
        control.clean_up().await;
        let answer = answer?;
        if answer.stdout.len() > self.result_bytes {
            return Err(QueryError::TooLarge { module: self.module.clone(), limit: self.result_bytes });
        }
        if answer.stdout.is_empty() {
            let complaint = String::from_utf8_lossy(on_stderr);
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
    stderr_tail: &mut Vec<u8>,
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
                            Ok(Ok(read)) if read > 0 => keep_tail(stderr_tail, &err[..read]),
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
                Ok(read) if read > 0 => keep_tail(stderr_tail, &err[..read]),
                _ => err_open = false,
            },
            status = &mut exit, if answer.ended.is_none() => {
                answer.ended = Some(status.map_or_else(|error| error.to_string(), |status| status.to_string()));
                drained.as_mut().reset(Instant::now() + DRAIN);
            }
            () = &mut drained => break,
        }
    }
    // What it complained of beside its answer; most have ended, and this does not wait.
    let rest = async {
        while let Ok(read @ 1..) = stderr.read(&mut err).await {
            keep_tail(stderr_tail, &err[..read]);
        }
    };
    if err_open {
        tokio::time::timeout(STDERR_REST, rest).await.ok();
    }
    answer.stdout = incoming.answer;
    answer
}

fn keep_tail(kept: &mut Vec<u8>, piece: &[u8]) {
    kept.extend_from_slice(piece);
    let surplus = kept.len().saturating_sub(STDERR_TAIL_BYTES);
    kept.drain(..surplus);
}

/// Writes the request to a standard module, and `stop` when it is time or the client wants what there is.
async fn feed(
    mut stdin: tokio::process::ChildStdin,
    request: Vec<u8>,
    stop_at: Option<Instant>,
    mut client: watch::Receiver<bool>,
    ears: Ears,
) {
    ears.asked(&request);
    if stdin.write_all(&request).await.is_err() {
        return;
    }
    let Some(stop_at) = stop_at else { return };
    tokio::select! {
        () = tokio::time::sleep_until(stop_at) => {}
        // Closed: nobody wants anything, and the module is killed.
        _ = client.wait_for(|stop| *stop) => {}
    }
    let stop = WireMessage::stop().to_line();
    ears.asked(&stop);
    stdin.write_all(&stop).await.ok();
    // Kept open: the end of stdin is for the module to see when it is killed.
    std::future::pending::<()>().await;
}
