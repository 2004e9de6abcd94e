//! A server that is none, or a hostile one: no bytes of it end the client, fill its memory or make it say that it is
//! connected, and it goes on to the next address.

use std::future::Future;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::answer::{Purpose, signed_bytes};
use vigie_fleet::broker::client::{RequestError, State};
use vigie_fleet::broker::connection::{
    BrokerEvent, ConnectionError, ConnectionSettings, Login, TlsSettings, connect,
};

use crate::broker_fixture::within;

const INFO: &[u8] =
    b"INFO {\"server_id\":\"x\",\"version\":\"2.10.25\",\"max_payload\":1048576,\"nonce\":\"abc\"}\r\n";

/// What the hostile server does after it was connected to.
#[derive(Clone, Copy, Debug)]
enum Mode {
    /// These bytes instead of a greeting, again and again.
    Greets(&'static [u8]),
    /// A good greeting and login, then these bytes, again and again.
    Then(&'static [u8]),
    /// A good greeting and login, and then nothing.
    Closes,
}

async fn serve(mut stream: TcpStream, mode: Mode) -> std::io::Result<()> {
    let again = match mode {
        Mode::Greets(bytes) => {
            stream.write_all(bytes).await?;
            bytes
        }
        Mode::Then(bytes) => {
            log_in(&mut stream).await?;
            stream.write_all(bytes).await?;
            bytes
        }
        Mode::Closes => return log_in(&mut stream).await,
    };
    // More than anybody shall keep.
    let block: Vec<u8> = again.iter().copied().cycle().take(1 << 16).collect();
    for _ in 0..1024 {
        stream.write_all(&block).await?;
    }
    Ok(())
}

async fn log_in(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(INFO).await?;
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while !seen.windows(6).any(|window| window == b"PING\r\n") {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        seen.extend_from_slice(&buffer[..count]);
    }
    stream.write_all(b"PONG\r\n").await
}

async fn hostile(mode: Mode) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, mode));
        }
    });
    format!("nats://{address}")
}

fn settings(urls: Vec<String>) -> ConnectionSettings {
    ConnectionSettings {
        urls,
        login: Login::Token { jwt: "a.b.c".to_owned(), key: Box::new(AgentKey::generate()) },
        tls: TlsSettings::default(),
        name: "test".to_owned(),
        inbox_prefix: "_INBOX.agent.web-1".to_owned(),
        subscription_capacity: None,
        connect_in_background: true,
    }
}

/// Peak of this process' memory in bytes, as proc(5) says; reset before.
fn peak(reset: bool) -> u64 {
    if reset {
        std::fs::write("/proc/self/clear_refs", "5").ok();
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

const MODES: &[Mode] = &[
    Mode::Then(b"-ERR\r\n"),
    Mode::Then(b"-ERR '\r\n"),
    Mode::Then(b"MSG x 1 18446744073709551615\r\n"),
    Mode::Then(b"HMSG x 1 5 18446744073709551611\r\n"),
    Mode::Then(b"MSG x 1 300000000\r\nxxxx"),
    Mode::Then(b"MSG x 1 4294967296\r\n"),
    Mode::Then(b"HMSG x 0 4 4\r\nNATS\r\n"),
    Mode::Then(b"PING\r\n"),
    Mode::Then(b"\xff\xfe\x00"),
    Mode::Then(b"INFO {\"connect_urls\":[\"\xc3\x28\",\"::::\"]}\r\n"),
    Mode::Greets(b"INFO {\"a\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
    Mode::Greets(b"-ERR\r\n"),
    Mode::Greets(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    Mode::Greets(b"aaaaaaaaaaaaaaaaaaaaaaaaaa"),
    Mode::Closes,
];

#[test]
fn a_hostile_server_neither_ends_nor_fills_the_client() {
    // In a process of its own, because the memory is the process'.
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "hostile_server::a_hostile_server_neither_ends_nor_fills_the_client_and_the_next_address_is_tried"])
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test]
#[ignore = "the test before runs it alone"]
async fn a_hostile_server_neither_ends_nor_fills_the_client_and_the_next_address_is_tried() {
    let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good_url = format!("nats://{}", good.local_addr().unwrap());
    let (reached, mut at_good) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = good.accept().await {
            let reached = reached.clone();
            tokio::spawn(async move {
                log_in(&mut stream).await.ok();
                reached.send(()).await.ok();
                // Stays until the client goes.
                let mut buffer = [0; 1024];
                while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
            });
        }
    });
    for mode in MODES {
        let before = peak(true);
        let (events, mut received) = mpsc::channel(64);
        let urls = vec![hostile(*mode).await, good_url.clone()];
        let connection = within(connect(settings(urls), events)).await.unwrap();
        let client = connection.client.clone();
        // It comes to the good one, whatever the first one did.
        within(at_good.recv()).await.unwrap();
        within(async {
            let mut states = client.states();
            states.wait_for(|state| matches!(state, State::Connected(_))).await.unwrap();
        })
        .await;
        let grown = peak(false).saturating_sub(before);
        assert!(grown < 16 << 20, "{mode:?}: {grown} bytes");
        drop((connection, client));
        within(async {
            while let Some(event) = received.recv().await {
                if event == BrokerEvent::Closed {
                    return;
                }
            }
        })
        .await;
    }
}

#[tokio::test]
async fn the_state_is_true_when_a_server_breaks_the_protocol() {
    for mode in [Mode::Then(b"MSG x 1 18446744073709551615\r\n"), Mode::Closes] {
        let (events, mut received) = mpsc::channel(1024);
        let connection = within(connect(settings(vec![hostile(mode).await]), events)).await.unwrap();
        let mut connected = false;
        within(async {
            while let Some(event) = received.recv().await {
                connected |= event == BrokerEvent::Connected;
                if event == BrokerEvent::Disconnected {
                    return;
                }
            }
        })
        .await;
        assert!(connected, "{mode:?}");
        // It may be on its way again, but a question has no answer and says so at once.
        let asked = within(connection.client.request(Default::default(), Duration::from_secs(30))).await;
        assert!(matches!(asked, Err(RequestError::Send(_) | RequestError::Disconnected)), "{asked:?}");
    }
}

/// Logs in whoever comes, and does the rest with the connection.
async fn server<F>(after: impl Fn(TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if log_in(&mut stream).await.is_ok() {
                tokio::spawn(after(stream));
            }
        }
    });
    format!("nats://{address}")
}

/// Reads until the client subscribes to `x`, and says under which number; nothing when it goes before.
async fn subscribed(stream: &mut TcpStream) -> Option<String> {
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            return None;
        }
        said.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&said);
        let whole = text.rsplit_once("\r\n").map_or("", |(whole, _)| whole);
        if let Some(sid) = whole.lines().find_map(|line| line.strip_prefix("SUB x ")) {
            return Some(sid.to_owned());
        }
    }
}

#[tokio::test]
async fn what_a_server_complains_of_keeps_nobody_from_learning_that_it_is_gone() {
    // Without a reader, messages are lost as well.
    for flood in ["-ERR 'problem'\r\n", "-ERR 'authorization violation'\r\n", "MSG x SID 1\r\nx\r\n"] {
        let url = server(move |mut stream| async move {
            let Some(sid) = subscribed(&mut stream).await else { return };
            let flood = flood.replace("SID", &sid).repeat(1000);
            stream.write_all(flood.as_bytes()).await.ok();
            stream.shutdown().await.ok();
            stream.read_to_end(&mut Vec::new()).await.ok();
        })
        .await;
        let (events, mut received) = mpsc::channel(64);
        let settings = ConnectionSettings { subscription_capacity: Some(1), ..settings(vec![url]) };
        let client = within(connect(settings, events)).await.unwrap().client;
        let mut states = client.states();
        within(states.wait_for(|state| *state == State::Connected(1))).await.unwrap();
        let _unread = client.subscribe("x").unwrap();
        within(states.wait_for(|state| *state == State::Disconnected)).await.unwrap();
        let mut told = Vec::new();
        while let Ok(event) = received.try_recv() {
            told.push(event);
        }
        assert!(told.contains(&BrokerEvent::Disconnected), "{flood}: {told:?}");
        assert!(client.events_lost() > 900, "{flood}: {told:?}");
    }
}

#[tokio::test]
async fn headers_count_in_what_waits_for_a_reader() {
    let url = server(|mut stream| async move {
        let Some(sid) = subscribed(&mut stream).await else { return };
        let headers = format!("NATS/1.0\r\n{}\r\n", "a:b\r\n".repeat(200_000));
        let message = format!("HMSG x {sid} {0} {0}\r\n{headers}\r\n", headers.len());
        for _ in 0..30 {
            stream.write_all(message.as_bytes()).await.ok();
        }
        stream.shutdown().await.ok();
        stream.read_to_end(&mut Vec::new()).await.ok();
    })
    .await;
    let (events, _received) = mpsc::channel(1024);
    let client = within(connect(settings(vec![url]), events)).await.unwrap().client;
    let mut states = client.states();
    within(states.wait_for(|state| *state == State::Connected(1))).await.unwrap();
    let mut messages = client.subscribe("x").unwrap();
    within(states.wait_for(|state| *state == State::Disconnected)).await.unwrap();
    let mut count = 0;
    while tokio::time::timeout(Duration::ZERO, messages.next()).await.is_ok() {
        count += 1;
    }
    assert!((1..=8).contains(&count), "{count} messages of a million bytes each wait");
}

#[tokio::test]
async fn an_address_that_says_nothing_keeps_nobody_from_the_next() {
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let good = server(|mut stream| async move {
        stream.read_to_end(&mut Vec::new()).await.ok();
    })
    .await;
    let urls = vec![format!("nats://{}", mute.local_addr().unwrap()), good];
    let settings = ConnectionSettings { connect_in_background: false, ..settings(urls) };
    let (events, _received) = mpsc::channel(8);
    let connected = within(connect(settings, events)).await;
    assert!(connected.unwrap().is_up());
}

#[tokio::test]
async fn without_tls_only_this_machine_is_spoken_to() {
    for url in ["nats://192.0.2.1:4222", "nats://[2001:db8::1]:4222", "nats://broker.example.org:4222"] {
        let (events, _kept) = mpsc::channel(8);
        let error = within(connect(settings(vec![url.to_owned()]), events)).await.unwrap_err();
        assert!(matches!(error, ConnectionError::Plain(_)), "{url}: {error:?}");
    }
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        vigie_skipped::skipped("no IPv6 on loopback");
        return;
    };
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            log_in(&mut stream).await.ok();
        }
    });
    let (events, mut received) = mpsc::channel(8);
    let _connection = within(connect(settings(vec![format!("nats://{address}")]), events)).await.unwrap();
    assert_eq!(within(received.recv()).await, Some(BrokerEvent::Connected));
}

/// A broker that could choose what an agent's key signs at the login could seal answers with it.
#[tokio::test]
async fn what_a_server_wants_signed_is_never_a_sealed_text() {
    let answer = signed_bytes(Purpose::Answer, r#"{"v":1}"#);
    let texts = [String::from_utf8(answer).unwrap(), "a b".to_owned(), String::new(), "a".repeat(65)];
    for nonce in texts {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let info = serde_json::json!({"version": "2.10.25", "max_payload": 1_048_576, "nonce": nonce});
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(format!("INFO {info}\r\n").as_bytes()).await.unwrap();
            let mut said = Vec::new();
            stream.read_to_end(&mut said).await.ok();
            said
        });
        let (events, _received) = mpsc::channel(8);
        let settings = ConnectionSettings {
            connect_in_background: false,
            ..settings(vec![format!("nats://{address}")])
        };
        assert!(within(connect(settings, events)).await.is_err(), "{nonce:?}");
        assert_eq!(within(serving).await.unwrap(), b"", "{nonce:?}");
    }
}
