//! The module against what MIG's own `examplepersist` and its adapter were given and answered.
//!
//! The captured cases are in `tests/vectors`. Where they show what MIG does and we hold to be wrong, the test
//! says what we do instead.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use vigie_examplepersist::ExamplePersist;
use vigie_sdk::ModuleResult;
use vigie_sdk::listener::QueryListener;
use vigie_sdk::serve::{Ended, ServeOptions, serve};

/// Longest wait for anything here; a ceiling for a broken build.
const CEILING: Duration = Duration::from_secs(60);

const MIG_SOCKET: &str = "unix:/var/lib/mig/persist-examplepersist.sock";

fn cases(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors").join(file);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The bytes behind a captured text: bytes that are not UTF-8 are shown as `\xNN` there.
fn bytes_of(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("\\x") {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        bytes.push(u8::from_str_radix(&rest[at + 2..at + 4], 16).unwrap());
        rest = &rest[at + 4..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// What the module writes when all of `input` and the end of the stream reach it, and how it ends.
async fn life(input: Vec<u8>) -> (Vec<Value>, Ended) {
    let dir = tempfile::tempdir().unwrap();
    let options = ServeOptions { run_dir: dir.path().to_owned(), state_dir: None };
    let (mut stdin, module_stdin) = tokio::io::duplex(1 << 16);
    let (module_stdout, mut stdout) = tokio::io::duplex(1 << 16);
    let running = tokio::spawn(async move {
        serve::<ExamplePersist>(module_stdin, module_stdout, &options, std::future::pending()).await
    });
    let feeding = tokio::spawn(async move {
        // A module that has exited has closed its end.
        let _ = stdin.write_all(&input).await;
    });
    let mut output = String::new();
    timeout(CEILING, stdout.read_to_string(&mut output)).await.unwrap().unwrap();
    feeding.await.unwrap();
    (output.lines().map(normal).collect(), running.await.unwrap())
}

/// A message without what differs on purpose: our extra keys, the socket's directory, times.
fn normal(line: &str) -> Value {
    let mut message: Value = serde_json::from_str(line).unwrap();
    if message["class"] == "register" {
        message["parameters"] = json!("a socket");
    }
    if message["parameters"]["message"].as_str().is_some_and(|text| text.starts_with("running, current time"))
    {
        message["parameters"]["message"] = json!("the time");
    }
    message
}

fn sorted(mut messages: Vec<Value>) -> Vec<String> {
    // Echoes overtake log lines in ours, so that a slow log cannot delay a heartbeat.
    messages.retain(|message| message["parameters"]["message"] != "the time");
    let mut lines: Vec<String> = messages.iter().map(Value::to_string).collect();
    lines.sort();
    lines
}

fn count(messages: &[Value], class: &str) -> usize {
    messages.iter().filter(|message| message["class"] == class).count()
}

#[tokio::test]
async fn it_answers_what_comes_on_stdin_as_migs_module_does() {
    for case in cases("module-stdin.json") {
        let name = case["name"].as_str().unwrap();
        if case["module"] != "examplepersist" {
            continue;
        }
        let mut input: Vec<u8> = case["stdin"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|text| bytes_of(text.as_str().unwrap()))
            .collect();
        if name == "10MB-ping" {
            // The file shows only its beginning.
            let at = input.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            input.truncate(at);
            let text = "x".repeat(10_000_000);
            input.extend_from_slice(format!("{{\"class\":\"ping\",\"parameters\":\"{text}\"}}\n").as_bytes());
        }

        let (messages, ended) = life(input).await;

        assert_eq!(messages[0]["class"], "register", "{name}");
        match name {
            // MIG exits without a word; ours says so and goes on.
            "garbage-line" | "empty-line" => {
                assert_eq!(count(&messages, "ping"), 1, "{name}");
                assert_eq!(count(&messages, "log"), 2, "{name}");
                assert_eq!(ended.code(), 0, "{name}");
            }
            // MIG ends as quietly as on a whole line; ours says that the line was cut.
            "half-line-then-eof" => {
                assert_eq!(count(&messages, "log"), 2, "{name}");
                assert_eq!(ended.code(), 0, "{name}");
            }
            // MIG exits with 0 and without a word; ours says what is wrong, and its exit code too.
            "config-parameters-array" | "config-tags-wrong-type" => {
                assert_eq!(count(&messages, "log"), 1, "{name}");
                assert_eq!(ended.code(), 78, "{name}");
            }
            // Both log what is wrong and exit with an error, in other words and with another code.
            "config-wrong-type" | "config-interval-float" => {
                assert_eq!(count(&messages, "log"), 1, "{name}: {messages:?}");
                assert_eq!(ended.code(), 78, "{name}");
            }
            // MIG's never reads again after its third configuration.
            "second-config-ignored,-third-wedges-the-module" => {
                assert_eq!(count(&messages, "ping"), 2, "{name}");
                assert_eq!(count(&messages, "log"), 1, "{name}");
                assert_eq!(ended.code(), 0, "{name}");
            }
            // Ours says that it can `stop`, and does.
            "stop-class-ignored" => {
                assert_eq!(count(&messages, "ping"), 0, "{name}");
                assert_eq!(ended.code(), 0, "{name}");
            }
            "10MB-ping" => {
                let ping = messages.iter().find(|message| message["class"] == "ping").unwrap();
                assert_eq!(ping["parameters"].as_str().unwrap().len(), 10_000_000);
            }
            _ => {
                let expected = case["stdout"].as_str().unwrap().lines().map(normal).collect();
                assert_eq!(sorted(messages), sorted(expected), "{name}");
                assert_eq!(u64::from(ended.code()), case["exit_after_stdin_close"], "{name}");
            }
        }
    }
}

/// A running module's query socket.
async fn with_module<R>(test: impl AsyncFnOnce(&Path) -> R) -> R {
    let dir = tempfile::tempdir().unwrap();
    let options = ServeOptions { run_dir: dir.path().to_owned(), state_dir: None };
    let (mut stdin, module_stdin) = tokio::io::duplex(1 << 16);
    let (module_stdout, mut stdout) = tokio::io::duplex(1 << 16);
    let running = tokio::spawn(async move {
        serve::<ExamplePersist>(module_stdin, module_stdout, &options, std::future::pending()).await
    });
    // It registers when it listens.
    let mut byte = [0];
    stdout.read_exact(&mut byte).await.unwrap();
    let config = json!({"class": "config", "parameters": {"config": {"examplepersist": {"interval": 3600}}}});
    stdin.write_all(format!("{config}\n").as_bytes()).await.unwrap();
    let result = test(&dir.path().join("persist-examplepersist.sock")).await;
    drop(stdin);
    assert_eq!(
        timeout(CEILING, running).await.unwrap().unwrap().code(),
        0,
        "the module was alive to the end"
    );
    result
}

fn assert_same(ours: &[u8], theirs: &str, name: &str) {
    let ours: ModuleResult = serde_json::from_slice(ours).unwrap_or_else(|error| panic!("{name}: {error}"));
    let theirs: ModuleResult = serde_json::from_str(theirs).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(ours.success, theirs.success, "{name}: {ours:?}");
    assert_eq!(ours.foundanything, theirs.foundanything, "{name}");
    assert_eq!(ours.errors.is_some(), theirs.errors.is_some(), "{name}");
    let elements = |result: &ModuleResult| result.elements.as_ref().map(|raw| raw.get().to_owned());
    assert_eq!(elements(&ours), elements(&theirs), "{name}");
}

#[tokio::test]
async fn its_adapter_answers_as_migs_does() {
    with_module(async |socket| {
        let ours = format!("unix:{}", socket.display());
        for case in cases("adapter.json") {
            let name = case["name"].as_str().unwrap();
            if case["argv"] != json!(["-m", "examplepersist"])
                || name.starts_with("peer-")
                || name.starts_with("large-param")
                || name == "tcp-ok"
                || name == "deep-nesting-10001"
            {
                // Other command lines and peers have tests of their own; long inputs are cut in the file.
                continue;
            }
            let stdin = bytes_of(&case["stdin"].as_str().unwrap().replace(MIG_SOCKET, &ours));

            let answer = vigie_sdk::adapter::answer("examplepersist", &mut stdin.as_slice()).await;

            assert!(answer.ends_with(b"\n"), "{name}");
            assert_same(&answer, case["stdout"].as_str().unwrap(), name);
        }
        for size in [1_000_000, 10_000_000] {
            let text = "x".repeat(size);
            let line = format!(
                r#"{{"class":"parameters","parameters":{{"string":"{text}"}},"persistsock":"{ours}"}}"#
            );
            let answer = vigie_sdk::adapter::answer("examplepersist", &mut line.as_bytes()).await;
            let expected = format!(
                r#"{{"foundanything":true,"success":true,"elements":{{"string":"{text}"}},"statistics":null,"errors":null}}"#
            );
            assert_same(&answer, &expected, "large parameter");
        }
        let deep = "[".repeat(10_001) + &"]".repeat(10_001);
        let line = format!(r#"{{"class":"parameters","parameters":{deep},"persistsock":"{ours}"}}"#);
        let answer = vigie_sdk::adapter::answer("examplepersist", &mut line.as_bytes()).await;
        assert!(String::from_utf8(answer).unwrap().contains("\"success\":false"));
    })
    .await;
}

#[tokio::test]
async fn its_socket_answers_as_migs_does_and_survives_what_ended_migs() {
    with_module(async |socket| {
        for case in cases("adapter.json") {
            let name = case["name"].as_str().unwrap();
            let (Some(_), Some(sent)) = (name.strip_prefix("socket:"), case["sent"].as_str()) else {
                continue;
            };
            let mut stream = UnixStream::connect(socket).await.unwrap();
            stream.write_all(&bytes_of(sent)).await.unwrap();
            match name {
                "socket:connect-and-close" | "socket:client-resets-before-reading" => continue,
                // Both wait for the rest; ours for ten seconds, which the SDK's own tests show.
                "socket:no-newline-kept-open" => continue,
                "socket:ok-half-close" => stream.shutdown().await.unwrap(),
                _ => {}
            }
            let mut answer = Vec::new();
            timeout(CEILING, stream.read_to_end(&mut answer)).await.unwrap().unwrap();

            match name {
                // MIG's module exits on these; ours answers why it does not answer.
                "socket:garbage" | "socket:wrong-class" => {
                    assert!(String::from_utf8_lossy(&answer).contains("\"success\":false"), "{name}");
                }
                // MIG refuses it in the adapter only; an empty string is a parameter error on every way.
                "socket:empty-string-accepted-by-module" => {
                    assert!(String::from_utf8_lossy(&answer).contains("must set a string"), "{name}");
                }
                _ => assert_same(&answer, case["response"].as_str().unwrap(), name),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_second_life_takes_over_what_a_dead_one_left_and_nothing_of_a_living_one() {
    let dir = tempfile::tempdir().unwrap();
    // A listener that ends without removing its file, as by kill -9.
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("persist-examplepersist.sock")).unwrap());

    let second = QueryListener::bind_unix(dir.path(), "examplepersist").unwrap();
    let third = QueryListener::bind_unix(dir.path(), "examplepersist");

    assert!(second.spec().to_string().ends_with("persist-examplepersist.sock"));
    assert!(matches!(third, Err(vigie_sdk::listener::ListenError::InUse { .. })));
}
