use super::*;
use serde_json::json;
use std::os::unix::fs::symlink;

fn private_dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Repeats the parameters.
fn echo(query: Query) -> ModuleResult {
    match query.parse::<serde_json::Value>() {
        Ok(value) => ModuleResult::found(true, &value),
        Err(error) => ModuleResult::failed([error.to_string()]),
    }
}

async fn ask(path: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    // The listener may have answered and closed before it has read all.
    drop(stream.write_all(request).await);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

const REQUEST: &[u8] = b"{\"class\":\"parameters\",\"parameters\":{\"n\":1}}\n";

/// Starts a listener in a directory of its own.
fn started(
    answer: impl Fn(Query) -> ModuleResult + Send + Sync + 'static,
) -> (tempfile::TempDir, PathBuf, tokio::task::JoinHandle<()>) {
    let dir = private_dir();
    let listener = QueryListener::bind_unix(dir.path(), "m").unwrap();
    let path = dir.path().join("persist-m.sock");
    (dir, path, tokio::spawn(listener.serve(answer)))
}

#[tokio::test]
async fn a_query_is_answered_with_one_result_and_the_end_of_the_stream() {
    let (_dir, path, _task) = started(echo);

    let answer = ask(&path, REQUEST).await;

    assert!(answer.ends_with("}\n"), "{answer}");
    let result: ModuleResult = serde_json::from_str(&answer).unwrap();
    assert_eq!(result.elements.unwrap().get(), r#"{"n":1}"#);
}

#[tokio::test]
async fn a_request_may_end_with_the_stream_and_a_second_one_is_ignored() {
    let (_dir, path, _task) = started(echo);
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(REQUEST.trim_ascii_end()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();

    let twice = ask(&path, &[REQUEST, REQUEST].concat()).await;

    assert!(answer.contains("\"success\":true"), "{answer}");
    assert_eq!(twice, answer);
}

#[tokio::test]
async fn bad_clients_get_an_error_and_the_next_one_is_served() {
    let (_dir, path, _task) = started(echo);
    drop(UnixStream::connect(&path).await.unwrap());

    for bad in [
        &b"hello\n"[..],
        b"\n",
        b"{\"class\":\"ping\"}\n",
        b"{\"class\":\"parameters\"",
        b"null\n",
        b"\xff\xfe\n",
        &[b'['; 20_000],
    ] {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(bad).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("\"success\":false"), "{bad:?} gave {answer:?}");
    }

    assert!(ask(&path, REQUEST).await.contains("\"success\":true"));
}

#[tokio::test]
async fn a_request_over_the_limit_is_refused() {
    let (_dir, path, _task) = started(echo);

    let answer = ask(&path, &vec![b' '; MAX_REQUEST_BYTES + 100_000]).await;

    assert!(answer.contains("longer than"), "{answer}");
}

#[tokio::test]
async fn large_requests_together_stay_within_the_budget() {
    let (_dir, path, _task) = started(echo);
    let chunk = vec![b' '; MAX_REQUEST_BYTES - 1];
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(&chunk).await.unwrap();
        held.push(stream);
    }

    let answer = ask(&path, &chunk).await;

    assert!(answer.contains("too many large requests"), "{answer}");
    assert!(ask(&path, REQUEST).await.contains("\"success\":true"));
}

#[tokio::test]
async fn with_too_many_silent_clients_the_oldest_is_closed() {
    let (_dir, path, _task) = started(echo);
    let mut oldest = UnixStream::connect(&path).await.unwrap();
    let mut idle = Vec::new();
    for _ in 1..MAX_CONNECTIONS {
        idle.push(UnixStream::connect(&path).await.unwrap());
    }

    let answer = ask(&path, REQUEST).await;
    let mut rest = Vec::new();

    assert!(answer.contains("\"success\":true"), "{answer}");
    assert_eq!(oldest.read_to_end(&mut rest).await.unwrap(), 0);
    assert!(ask(&path, REQUEST).await.contains("\"success\":true"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_nothing_is_told_so_and_closed() {
    let (_dir, path, _task) = started(echo);
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let mut answer = String::new();

    stream.read_to_string(&mut answer).await.unwrap();

    assert!(answer.contains("did not arrive within 10 seconds"), "{answer}");
}

#[tokio::test]
async fn a_query_whose_client_has_gone_is_stopped() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let sender = Mutex::new(sender);
    let (_dir, path, _task) = started(move |query| {
        sender.lock().unwrap().send(query.is_stopped()).unwrap();
        let since = std::time::SystemTime::now();
        // A ceiling for a broken build; the loop ends as soon as the query is stopped.
        while !query.is_stopped() && since.elapsed().unwrap() < Duration::from_secs(30) {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        sender.lock().unwrap().send(query.is_stopped()).unwrap();
        ModuleResult::found(false, &json!({}))
    });
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    stream.shutdown().await.unwrap();
    let (receiver, at_start) = tokio::task::spawn_blocking(move || (receiver.recv().unwrap(), receiver))
        .await
        .map(|(a, b)| (b, a))
        .unwrap();

    drop(stream);

    assert!(!at_start, "a client that has only ended its request still waits");
    assert!(tokio::task::spawn_blocking(move || receiver.recv().unwrap()).await.unwrap());
}

#[tokio::test]
async fn a_query_past_its_deadline_is_stopped_and_its_answer_still_sent() {
    let (_dir, path, _task) = started(|query| {
        while !query.is_stopped() {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        ModuleResult::found(false, &json!("partial"))
    });

    let answer =
        ask(&path, b"{\"class\":\"parameters\",\"parameters\":{},\"deadline\":\"2000-01-01T00:00:00Z\"}\n")
            .await;

    assert!(answer.contains("partial"), "{answer}");
}

#[tokio::test]
async fn many_clients_are_answered_at_once_without_mixing() {
    let (_dir, path, _task) = started(echo);
    let asked = (0..500).map(|number| {
        let path = path.clone();
        async move {
            let request = format!("{{\"class\":\"parameters\",\"parameters\":{{\"n\":{number}}}}}\n");
            (number, ask(&path, request.as_bytes()).await)
        }
    });

    for (number, answer) in futures_util::future::join_all(asked).await {
        assert!(answer.contains(&format!("{{\"n\":{number}}}")), "{number}: {answer}");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_replaced_by_an_error() {
    let (_dir, path, _task) = started(|_| ModuleResult::found(true, &"x".repeat(DEFAULT_MAX_RESULT_BYTES)));

    let answer = ask(&path, REQUEST).await;

    assert!(answer.contains("more than the limit"), "{}", &answer[..200]);
}

#[tokio::test]
async fn the_socket_is_private_and_a_dead_one_is_replaced() {
    let dir = private_dir();
    let path = dir.path().join("persist-m.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());

    let listener = QueryListener::bind_unix(dir.path(), "m").unwrap();

    assert_eq!(std::fs::symlink_metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    drop(listener);
    assert!(!path.exists());
}

#[tokio::test]
async fn the_end_of_an_old_life_leaves_the_socket_of_the_new_one() {
    let dir = private_dir();
    let old = QueryListener::bind_unix(dir.path(), "m").unwrap();
    std::fs::remove_file(dir.path().join("persist-m.sock")).unwrap();
    let new = QueryListener::bind_unix(dir.path(), "m").unwrap();

    drop(old);

    assert!(dir.path().join("persist-m.sock").exists());
    drop(new);
}

#[tokio::test]
async fn what_is_not_a_socket_is_not_destroyed() {
    let dir = private_dir();
    let path = dir.path().join("persist-m.sock");
    let precious = dir.path().join("precious");
    std::fs::write(&precious, "content").unwrap();
    symlink(&precious, &path).unwrap();

    let error = QueryListener::bind_unix(dir.path(), "m").unwrap_err();

    assert!(matches!(error, ListenError::Occupied { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&precious).unwrap(), "content");
}

#[tokio::test]
async fn a_directory_that_others_may_change_is_refused_and_a_missing_one_is_made_private() {
    let dir = private_dir();
    let open = dir.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    let made = dir.path().join("made");

    let error = QueryListener::bind_unix(&open, "m").unwrap_err();
    let _listener = QueryListener::bind_unix(&made, "m").unwrap();

    assert!(error.to_string().contains("chmod 0700"), "{error}");
    assert_eq!(std::fs::metadata(&made).unwrap().mode() & 0o077, 0);
}

#[tokio::test]
async fn tcp_is_for_loopback_only_and_works_there() {
    let error = QueryListener::bind_tcp("0.0.0.0:0".parse().unwrap()).await.unwrap_err();
    let listener = QueryListener::bind_tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let SocketSpec::Tcp(address) = *listener.spec() else { unreachable!("bound to TCP") };
    tokio::spawn(listener.serve(echo));

    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();

    assert!(matches!(error, ListenError::NotLoopback { .. }));
    assert!(answer.contains("\"success\":true"), "{answer}");
}
