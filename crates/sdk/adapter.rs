//! A persistent module's adapter: carries one query from stdin to the module's socket and the answer back to
//! stdout, for an agent that asks persistent modules the way it asks standard ones.

use std::future::Future;
use std::io::{self, BufRead};
use std::process::ExitCode;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};

use crate::request::{Request, time_left};
use crate::standard::{print, read_request};
use vigie_protocol::json::compact;
use vigie_protocol::message::{DEFAULT_MAX_RESULT_BYTES, Message, QueryOptions};
use vigie_protocol::result::ModuleResult;
use vigie_protocol::socket::SocketSpec;

/// Time for a connection: the module is on this host and accepts at once, or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for an answer when the query names no deadline; MIG's default for a module to run.
const DEFAULT_ANSWER_TIMEOUT: Duration = Duration::from_secs(300);

/// Asks the persistent module `module` the query on stdin, prints its answer and exits with 0. What goes wrong
/// is printed as a failed result that names the socket.
pub fn run_adapter(module: &str) -> ExitCode {
    let line = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(answer(module, &mut std::io::stdin().lock())),
        Err(error) => failed(format!("cannot query module {module:?}: {error}")),
    };
    print(&line)
}

/// Reads a query from `stdin`, asks the persistent module `module`, and returns what to print. Reading blocks.
pub async fn answer(module: &str, stdin: &mut impl BufRead) -> Vec<u8> {
    match read_request(stdin) {
        Ok(request) => forward(module, request).await,
        Err(error) => failed(error),
    }
}

fn failed(error: String) -> Vec<u8> {
    ModuleResult::failed([error]).to_line()
}

/// The answer to a request, or a failed result, as one line.
async fn forward(module: &str, request: Request) -> Vec<u8> {
    match ask(module, request).await {
        Ok(line) => line,
        Err(error) => failed(error),
    }
}

async fn ask(module: &str, mut request: Request) -> Result<Vec<u8>, String> {
    let Some(spec) = request.persistsock.take() else {
        return Err(format!("no persistsock set in message: the socket of module {module:?} is unknown"));
    };
    let spec: SocketSpec = spec
        .parse()
        .map_err(|error| format!("invalid socket specification for module {module:?}: {error}"))?;
    let left = match &request.query.deadline {
        Some(deadline) => time_left(deadline, jiff::Timestamp::now())
            .ok_or_else(|| format!("deadline {:?} is not an RFC 3339 time", cut(deadline)))?,
        None => DEFAULT_ANSWER_TIMEOUT,
    };
    let deadline = Instant::now() + left;
    let options = QueryOptions {
        persistsock: None,
        extraprivacy: request.query.extraprivacy,
        deadline: request.query.deadline.take(),
        asker: request.query.asker.take(),
        // What it says is passed on when it has ended.
        progress: false,
    };
    let query = Message::parameters(request.take_parameters(), options).to_line();

    let answer = match &spec {
        SocketSpec::Unix(path) => {
            let stream = connected(module, &spec, UnixStream::connect(path)).await?;
            timeout_at(deadline, converse(stream, &query)).await
        }
        SocketSpec::Tcp(address) => {
            let stream = connected(module, &spec, TcpStream::connect(address)).await?;
            timeout_at(deadline, converse(stream, &query)).await
        }
    };
    let answer = match answer {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            return Err(format!("cannot read the answer of module {module:?} at {spec}: {error}"));
        }
        Err(_) => {
            return Err(format!("module {module:?} at {spec} did not answer within {} s", left.as_secs()));
        }
    };
    check(&answer).map_err(|why| format!("module {module:?} at {spec} {why}"))
}

async fn connected<S>(
    module: &str,
    spec: &SocketSpec,
    connect: impl Future<Output = io::Result<S>>,
) -> Result<S, String> {
    match timeout(CONNECT_TIMEOUT, connect).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(format!("cannot connect to module {module:?} at {spec}: {error}")),
        Err(_) => Err(format!("module {module:?} at {spec} did not accept the connection")),
    }
}

/// Sends the query and reads to the end of the answer.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, query: &[u8]) -> io::Result<Vec<u8>> {
    // A module may answer and close before it has read all, for example because the query is too long: what
    // it says is worth more than our broken pipe.
    let sent = stream.write_all(query).await;
    let mut answer = Vec::new();
    let read = (&mut stream).take(DEFAULT_MAX_RESULT_BYTES as u64 + 2).read_to_end(&mut answer).await;
    if answer.is_empty() {
        sent?;
        read?;
    }
    Ok(answer)
}

/// The answer with its line feed when it is a result, or what is wrong with it.
fn check(answer: &[u8]) -> Result<Vec<u8>, String> {
    let text = answer.trim_ascii();
    if text.is_empty() {
        return Err("closed the connection without an answer".to_owned());
    }
    if text.len() > DEFAULT_MAX_RESULT_BYTES {
        return Err(format!("answered more than {DEFAULT_MAX_RESULT_BYTES} bytes"));
    }
    // An array would be read as a result field by field.
    let result = if text.starts_with(b"{") {
        serde_json::from_slice::<ModuleResult>(text).and_then(|_| compact(text))
    } else {
        Err(serde::de::Error::custom("not an object"))
    };
    match result {
        Ok(text) => Ok([text.get().as_bytes(), b"\n"].concat()),
        Err(error) => {
            Err(format!("answered with something that is not a result: {}", cut(&error.to_string())))
        }
    }
}

/// Bounds what others wrote before it is shown.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(200)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, UnixListener};

    fn request(socket: &str, more: &str) -> Request {
        let line =
            format!(r#"{{"class":"parameters","parameters":{{"a":1}},"persistsock":"{socket}"{more}}}"#);
        Request::parse(line.as_bytes()).unwrap()
    }

    fn error_of(line: &[u8]) -> String {
        let result: ModuleResult = serde_json::from_slice(line).unwrap();
        assert!(!result.success);
        result.errors.unwrap().concat()
    }

    /// A module that reads a line and writes `answer`.
    async fn peer(answer: &'static [u8]) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s:with:colons");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let bytes = stream.read(&mut request).await.unwrap();
            assert!(request[..bytes].ends_with(b"\n"));
            stream.write_all(answer).await.unwrap();
        });
        (dir, format!("unix:{}", path.display()))
    }

    const ANSWER: &[u8] =
        br#"{"foundanything":true,"success":true,"elements":{"n":1.50},"statistics":null,"errors":null}"#;

    #[tokio::test]
    async fn the_answer_is_passed_on_as_it_is_whether_or_not_it_ends_with_a_line_feed() {
        let (_dir, spec) = peer(ANSWER).await;

        let line = forward("m", request(&spec, "")).await;

        assert_eq!(line, [ANSWER, b"\n"].concat());
    }

    #[tokio::test]
    async fn an_answer_over_many_lines_becomes_one() {
        let answer = b"\n{\r\n\t\"success\": true, \"elements\":\n{\"a\": 1}}\n\n";
        let (_dir, spec) = peer(answer).await;

        let line = forward("m", request(&spec, "")).await;

        assert_eq!(line, b"{\"success\":true,\"elements\":{\"a\":1}}\n");
    }

    #[tokio::test]
    async fn tcp_works_with_ipv6_too() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address).await else { continue };
            let spec = format!("tcp:{}", listener.local_addr().unwrap());
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                assert_ne!(stream.read(&mut request).await.unwrap(), 0);
                stream.write_all(ANSWER).await.unwrap();
            });

            assert_eq!(forward("m", request(&spec, "")).await, [ANSWER, b"\n"].concat());
        }
    }

    #[tokio::test]
    async fn privacy_deadline_and_asker_go_along_and_the_socket_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let more = r#","extraprivacy":true,"deadline":"2999-01-01T00:00:00Z","asker":{"uid":7}"#;
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = [0; 4096];
            let bytes = stream.read(&mut seen).await.unwrap();
            stream.write_all(ANSWER).await.unwrap();
            String::from_utf8_lossy(&seen[..bytes]).into_owned()
        });

        forward("m", request(&format!("unix:{}", path.display()), more)).await;

        let sent = asked.await.unwrap();
        assert!(sent.contains(r#""extraprivacy":true"#) && sent.contains("2999"), "{sent}");
        assert!(sent.contains(r#""asker":{"uid":7}"#), "{sent}");
        assert!(!sent.contains("persistsock"), "{sent}");
    }

    #[tokio::test]
    async fn what_is_not_a_result_is_refused_and_names_the_socket() {
        for bad in [&b""[..], b"garbage\n", b"[true,true]\n", b"{\"success\":5}\n", b"{}{}\n"] {
            let (_dir, spec) = peer(bad).await;

            let error = error_of(&forward("m", request(&spec, "")).await);

            assert!(error.contains(&spec), "{error}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_is_missing_or_wrong_is_said() {
        for (spec, expected) in [
            ("", "no persistsock set"),
            ("bogus", "invalid socket specification"),
            ("udp:127.0.0.1:1", "invalid socket specification"),
            ("unix:", "invalid socket specification"),
            ("tcp:127.0.0.1", "invalid socket specification"),
            ("unix:/nonexistent.sock", "unix:/nonexistent.sock"),
            ("tcp:127.0.0.1:1", "tcp:127.0.0.1:1"),
        ] {
            let error = error_of(&forward("m", request(spec, "")).await);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn a_module_that_never_answers_costs_no_more_than_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        let spec = format!("unix:{}", path.display());

        let line = forward("m", request(&spec, r#","deadline":"2000-01-01T00:00:00Z""#)).await;

        assert!(error_of(&line).contains("did not answer"), "{}", error_of(&line));
    }
}
