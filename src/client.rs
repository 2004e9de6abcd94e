//! The client's side of the agent's local socket.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vigie_protocol::control::{ErrorReply, Reply, Request};
use vigie_protocol::json::CompactWriter;

use crate::exit::{Exit, Failure};

/// Longest reply in bytes: the largest result that the agent can be configured to carry, and its wrapping.
const MAX_REPLY_BYTES: u64 = (1 << 30) + (1 << 20);

/// How long the agent may take for what it knows itself.
pub(crate) const PROMPT: Duration = Duration::from_secs(15);

/// Why the agent did not answer as it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("no agent answers at {path:?}")]
    NotRunning { path: PathBuf },
    #[error("user {uid} may not use the agent at {path:?}")]
    NotPermitted { path: PathBuf, uid: u32 },
    #[error("cannot connect to the agent at {path:?}: {source}")]
    NotConnected { path: PathBuf, source: io::Error },
    #[error("the connection to the agent failed: {source}")]
    Broken { source: io::Error },
    #[error("the agent closed the connection")]
    Closed,
    #[error("the agent did not answer within {}", humantime::format_duration(*.limit))]
    TimedOut { limit: Duration },
    #[error("cannot understand the agent's reply: {reason}")]
    Garbled { reason: String },
    #[error("{}", .0.message)]
    Refused(ErrorReply),
}

impl ClientError {
    /// Whether another attempt can succeed once the agent runs again.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::NotRunning { .. } | Self::Broken { .. } | Self::Closed)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        let (exit, hint) = match error {
            ClientError::NotRunning { .. } => (
                Exit::Unavailable,
                "start it with `systemctl start vigie` or `vigie agent`, or give its socket with --run-dir DIR or --socket PATH".to_owned(),
            ),
            ClientError::NotPermitted { .. } => {
                let hint = "run the command as root or as the agent's user, or ask an administrator to add you to the group in agent.operators_group";
                (Exit::Permission, hint.to_owned())
            }
            ClientError::NotConnected { .. } => {
                (Exit::Unavailable, "check the path given with --socket or --run-dir".to_owned())
            }
            ClientError::Broken { .. } | ClientError::Closed => {
                (Exit::Unavailable, "the agent may be stopping; see `vigie status` and its log".to_owned())
            }
            ClientError::TimedOut { .. } => {
                (Exit::Unavailable, "the agent is overloaded or stopped; see its log and its process".to_owned())
            }
            ClientError::Garbled { .. } => {
                (Exit::Internal, "client and agent may have different versions; compare `vigie --version` with `vigie status`".to_owned())
            }
            ClientError::Refused(reply) => (exit_of(&reply.kind), reply.hint),
        };
        Self { exit, message, hint }
    }
}

/// The exit code for an error's fixed name.
fn exit_of(kind: &str) -> Exit {
    match kind {
        "not_permitted" => Exit::Permission,
        "internal" => Exit::Internal,
        _ if kind.ends_with("_unknown") || kind.ends_with("_invalid") => Exit::Usage,
        _ => Exit::Unavailable,
    }
}

/// A connection to the agent.
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
    limit: Option<Duration>,
}

impl Client {
    /// Connects to the agent's socket.
    pub(crate) fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| {
            let path = path.to_owned();
            match source.kind() {
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => ClientError::NotRunning { path },
                ErrorKind::PermissionDenied => {
                    ClientError::NotPermitted { path, uid: nix::unistd::geteuid().as_raw() }
                }
                _ => ClientError::NotConnected { path, source },
            }
        })?;
        Ok(Self { stream: BufReader::new(stream), limit: None })
    }

    /// Another handle of the connection, to end it while a reply is waited for: the agent then gives up the query.
    pub(crate) fn handle(&self) -> Result<UnixStream, ClientError> {
        self.stream.get_ref().try_clone().map_err(|source| self.broken(source))
    }

    /// Sends a request; every reply may take as long as `limit`, or for ever without one.
    pub(crate) fn send(&mut self, request: &Request, limit: Option<Duration>) -> Result<(), ClientError> {
        self.limit = limit;
        let mut line = Vec::with_capacity(512);
        // The parameters may be foreign JSON: a line feed in them must not begin a request of its own.
        serde_json::to_writer(CompactWriter::new(&mut line), request).map_err(|error| {
            ClientError::Garbled { reason: format!("the request cannot be written: {error}") }
        })?;
        line.push(b'\n');
        let stream = self.stream.get_mut();
        let sent = stream
            .set_read_timeout(limit)
            // An agent that is stopped (SIGSTOP) takes no request either.
            .and_then(|()| stream.set_write_timeout(Some(PROMPT)))
            .and_then(|()| stream.write_all(&line));
        let Err(source) = sent else { return Ok(()) };
        // An agent that does not want to read on, because the request is too long, says so before it closes.
        if matches!(source.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
            && let Err(refused @ ClientError::Refused(_)) = self.receive()
        {
            return Err(refused);
        }
        Err(self.broken(source))
    }

    /// From now on every reply may take as long as this.
    pub(crate) fn set_limit(&mut self, limit: Duration) -> Result<(), ClientError> {
        self.limit = Some(limit);
        self.stream.get_ref().set_read_timeout(self.limit).map_err(|source| self.broken(source))
    }

    /// Waits for the next reply; an error reply becomes [`ClientError::Refused`].
    pub(crate) fn receive(&mut self) -> Result<Reply, ClientError> {
        let mut line = Vec::new();
        let read = (&mut self.stream).take(MAX_REPLY_BYTES).read_until(b'\n', &mut line);
        read.map_err(|source| self.broken(source))?;
        if line.is_empty() {
            return Err(ClientError::Closed);
        }
        if line.last() != Some(&b'\n') {
            return Err(if line.len() as u64 == MAX_REPLY_BYTES {
                ClientError::Garbled { reason: format!("it exceeds {MAX_REPLY_BYTES} bytes") }
            } else {
                ClientError::Closed
            });
        }
        match serde_json::from_slice(&line) {
            Ok(Reply::Error(error)) => Err(ClientError::Refused(error)),
            Ok(reply) => Ok(reply),
            Err(error) => Err(ClientError::Garbled { reason: error.to_string() }),
        }
    }

    fn broken(&self, source: io::Error) -> ClientError {
        match source.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                ClientError::TimedOut { limit: self.limit.unwrap_or(PROMPT) }
            }
            _ => ClientError::Broken { source },
        }
    }
}

/// Asks one question that has one answer.
pub(crate) fn ask(path: &Path, request: &Request, limit: Duration) -> Result<Reply, ClientError> {
    let mut client = Client::connect(path)?;
    client.send(request, Some(limit))?;
    client.receive()
}

/// An answer that does not fit the question.
pub(crate) fn unexpected(reply: &Reply) -> Failure {
    misfit(reply).into()
}

/// The same, for those who look at it themselves.
pub(crate) fn misfit(reply: &Reply) -> ClientError {
    let text: String = format!("{reply:?}").chars().take(200).collect();
    ClientError::Garbled { reason: format!("it does not match the request: {text}") }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread::JoinHandle;

    use super::*;

    /// Plays an agent: for each connection, a list of replies to its one request. Returns the requests' lines.
    pub(crate) fn fake_agent(path: &Path, connections: Vec<Vec<String>>) -> JoinHandle<Vec<String>> {
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            let mut requests = Vec::new();
            for replies in connections {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = String::new();
                BufReader::new(stream.try_clone().unwrap()).read_line(&mut request).unwrap();
                requests.push(request);
                for reply in replies {
                    stream.write_all(reply.as_bytes()).unwrap();
                }
            }
            requests
        })
    }

    fn asked(reply: &str) -> Result<Reply, ClientError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let agent = fake_agent(&path, vec![vec![reply.to_owned()]]);
        let answer = ask(&path, &Request::Status {}, PROMPT);
        agent.join().unwrap();
        answer
    }

    #[test]
    fn an_absent_agent_is_unavailable_and_the_hint_says_how_to_start_it() {
        let directory = tempfile::tempdir().unwrap();

        let error = ask(&directory.path().join("agent.sock"), &Request::Status {}, PROMPT).unwrap_err();

        assert!(error.is_absence());
        let failure = Failure::from(error);
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(failure.hint.contains("vigie agent"));
    }

    #[test]
    fn an_error_reply_keeps_its_hint_and_decides_the_exit_code() {
        let error = asked(
            "{\"error\":{\"kind\":\"module_unknown\",\"message\":\"there is no module \\\"x\\\"\",\"hint\":\"see `vigie module list`\"}}\n",
        )
        .unwrap_err();

        let failure = Failure::from(error);
        assert_eq!(failure.exit, Exit::Usage);
        assert_eq!(failure.message, "there is no module \"x\"");
        assert_eq!(failure.hint, "see `vigie module list`");
    }

    #[test]
    fn a_line_feed_in_the_parameters_does_not_begin_another_request() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let agent = fake_agent(&path, vec![vec!["{\"end\":{}}\n".to_owned()]]);
        let parameters = "{\"searches\":\n{\"restart\":{\"module\":\"m\"}}\r\n}".to_owned();
        let parameters = serde_json::value::RawValue::from_string(parameters).unwrap();
        let request = Request::Query {
            module: "file".to_owned(),
            parameters: Some(parameters),
            timeout_ms: None,
            progress: false,
        };

        ask(&path, &request, PROMPT).unwrap();

        let [request] = &agent.join().unwrap()[..] else { panic!("one request was sent") };
        let request: Request = serde_json::from_str(request).unwrap();
        let Request::Query { parameters: Some(parameters), .. } = request else { panic!("{request:?}") };
        assert_eq!(parameters.get(), r#"{"searches":{"restart":{"module":"m"}}}"#);
    }

    #[test]
    fn a_request_that_the_agent_does_not_read_to_its_end_fails_with_what_it_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let agent = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 1024]).unwrap();
            stream
                .write_all(b"{\"error\":{\"kind\":\"bad_request\",\"message\":\"too long\",\"hint\":\"ask less\"}}\n")
                .unwrap();
            stream.shutdown(std::net::Shutdown::Both).unwrap();
            stream
        });
        let request = Request::Query {
            module: "m".to_owned(),
            parameters: serde_json::value::to_raw_value(&"x".repeat(16 << 20)).ok(),
            timeout_ms: None,
            progress: false,
        };

        let error = ask(&path, &request, PROMPT).unwrap_err();

        agent.join().unwrap();
        assert_eq!(Failure::from(error).message, "too long");
    }

    #[test]
    fn half_a_reply_and_garbage_are_told_apart() {
        assert!(matches!(asked("{\"end\":{"), Err(ClientError::Closed)));
        assert!(matches!(asked("not json\n"), Err(ClientError::Garbled { .. })));
        assert!(matches!(asked(""), Err(ClientError::Closed)));
        assert!(matches!(asked("{\"end\":{}}\n"), Ok(Reply::End {})));
    }
}
