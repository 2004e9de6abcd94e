//! What an agent puts into the headers and the reply subject of its own messages: nothing of it ends a reader's
//! connection, hides a message of anybody, or makes one look like another's. A client of our own cannot send these, so
//! they are written to the socket.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use data_encoding::BASE64URL_NOPAD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use vigie_fleet::broker::client::State;
use vigie_fleet::broker::client::wire::{self, Operation};
use vigie_fleet::broker::connection::Login;
use vigie_fleet::broker::consumer::{self, Answer, Begin, Member};
use vigie_fleet::broker::jwt::Role;
use vigie_fleet::broker::stored::{self, Cursor, Which, get, store};
use vigie_fleet::subjects::{self, ALERTS, AUDIT, EVERY_ALERT, FACTS, RESULTS};

use crate::broker_fixture::{Fixture, User, name, server_is_missing, within};

const FLUSH: Duration = Duration::from_secs(60);

/// Largest headers that JetStream stores, in bytes.
const LARGEST: usize = 65_535;

/// An agent that writes what it wants.
struct Raw {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Raw {
    async fn log_in(fixture: &Fixture, agent: &str) -> Self {
        let settings = fixture.broker.connection_settings(Role::Agent, &name(agent));
        let Login::Token { jwt, key } = settings.login else { panic!("a user of the fixture has a token") };
        let address = settings.urls[0].strip_prefix("nats://").unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let mut raw = Self { stream, buffer: BytesMut::new() };
        let info = raw.next().await;
        let Operation::Info(info) = info else { panic!("{info:?}") };
        let mut out = BytesMut::new();
        wire::connect(
            &mut out,
            agent,
            &jwt,
            &BASE64URL_NOPAD.encode(&key.sign(info.nonce.as_bytes())),
            false,
        );
        raw.stream.write_all(&out).await.unwrap();
        raw.is_taken().await;
        raw
    }

    async fn next(&mut self) -> Operation {
        loop {
            if let Some(operation) = wire::decode(&mut self.buffer).unwrap() {
                return operation;
            }
            assert!(self.stream.read_buf(&mut self.buffer).await.unwrap() > 0, "the server closed");
        }
    }

    /// The server has read all that was written.
    async fn is_taken(&mut self) {
        self.stream.write_all(b"PING\r\n").await.unwrap();
        loop {
            match within(self.next()).await {
                Operation::Pong => return,
                Operation::Error(words) => panic!("{words}"),
                _ => {}
            }
        }
    }

    async fn publish(&mut self, subject: &str, reply: &[u8], headers: &[u8], payload: &[u8]) {
        let mut out = format!("HPUB {subject} ").into_bytes();
        out.extend_from_slice(reply);
        out.extend_from_slice(format!(" {} {}\r\n", headers.len(), headers.len() + payload.len()).as_bytes());
        out.extend_from_slice(headers);
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
        within(self.stream.write_all(&out)).await.unwrap();
    }
}

/// Headers of so many bytes.
fn large(bytes: usize) -> Vec<u8> {
    let mut headers = b"NATS/1.0\r\nX: ".to_vec();
    headers.resize(bytes - 4, b'x');
    headers.extend_from_slice(b"\r\n\r\n");
    headers
}

/// Headers that say of the message what its publisher wants.
fn forged(sequence: u64) -> Vec<u8> {
    format!(
        "NATS/1.0\r\nNats-Stream: POLICY\r\nnats-subject: vigie.alert.web-2\r\nNats-Subject: vigie.alert.web-2\r\n\
         NATS-SEQUENCE: {sequence}\r\nNats-Sequence: {sequence}\r\nNats-Time-Stamp: 2001-01-01T00:00:00Z\r\n\
         Nats-Num-Pending: 0\r\nNats-Last-Sequence: 1\r\nDescription: none\r\nKV-Operation: PURGE\r\n\r\n"
    )
    .into_bytes()
}

/// What an agent may store.
fn odd_headers() -> Vec<Vec<u8>> {
    let mut many = b"NATS/1.0\r\n".to_vec();
    many.extend(b"a:\r\n".repeat(3_500));
    many.extend_from_slice(b"\r\n");
    let texts: &[&[u8]] = &[
        b"NATS/1.0\r\nnocolon\r\n\r\n",
        b"NATS/1.0\r\nX: \xff\r\n\r\n",
        b"\xff\xff\xff\xff",
        b"abcdef",
        b"\r\n\r\n",
        b"NATS/1.0\r\nX: no end",
        b"NATS/1.0\r\nNats-Sequence: 7\rNats-",
        b"NATS/1.0 404 Message Not Found\r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0 503 No Responders\r\nDescription: none\r\n\r\n",
        b"NATS/1.0 408 Request Timeout\r\n\r\n",
        b"NATS/1.0 what\r\n\r\n",
        b"NATS/1.0 100 Idle Heartbeat\r\nNats-Sequence: \xff\r\n\r\n",
    ];
    let mut all: Vec<Vec<u8>> = texts.iter().map(|text| text.to_vec()).collect();
    all.extend([large(LARGEST), many, forged(u64::MAX), forged(1), forged(0)]);
    all
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

/// The first connection still stands.
fn is_undisturbed(user: &User) {
    assert_eq!(user.client().state(), State::Connected(1));
}

#[tokio::test]
async fn what_an_agent_puts_into_headers_hides_nothing_and_ends_no_connection() {
    if server_is_missing() {
        return;
    }
    let fixture = Fixture::with_streams().await;
    let reader = fixture.user(Role::Investigator, "ann").await;
    let admin = fixture.user(Role::Administrator, "root").await;
    let victim = fixture.user(Role::Agent, "web-2").await;
    let mut attacker = Raw::log_in(&fixture, "web-1").await;
    let odd = odd_headers();
    let mut wanted = Vec::new();
    for (number, headers) in odd.iter().enumerate() {
        let value = format!("odd {number}");
        // The other streams take no message that is so large.
        let is_largest = headers.len() == LARGEST;
        let few = ["vigie.facts.web-1", "vigie.res.7.web-1"];
        let more = ["vigie.alert.web-1", "vigie.audit.web-1"];
        for subject in few.iter().chain(more.iter().filter(|_| !is_largest)) {
            attacker.publish(subject, b"", headers, value.as_bytes()).await;
        }
        attacker.is_taken().await;
        wanted.extend((!is_largest).then(|| ("vigie.alert.web-1".to_owned(), value.clone())));

        // Each is the newest once. What others store behind it is read.
        let after = format!("after {number}");
        within(store(victim.client(), "vigie.facts.web-2", after.as_bytes())).await.unwrap();
        let last = within(store(victim.client(), "vigie.alert.web-2", after.as_bytes())).await.unwrap();
        wanted.push(("vigie.alert.web-2".to_owned(), after.clone()));
        let hosts = ["web-1", "web-2", "web-3"].map(|host| subjects::facts(&name(host)));
        let mut facts: Vec<_> = within(stored::newest(reader.client(), FACTS, hosts)).await.unwrap();
        facts.sort_by(|one, other| one.subject.cmp(&other.subject));
        let facts: Vec<_> =
            facts.iter().map(|entry| (entry.subject.as_str(), entry.value.as_ref())).collect();
        let expected = [("vigie.facts.web-1", value.as_bytes()), ("vigie.facts.web-2", after.as_bytes())];
        assert_eq!(facts, expected, "{number}");
        assert_eq!(
            within(stored::extent(reader.client(), ALERTS, "vigie.alert.*")).await.unwrap(),
            Some((1, last)),
            "{number}"
        );
        let own = within(get(reader.client(), ALERTS, Which::Last("vigie.alert.web-1"))).await.unwrap();
        let own = own.unwrap();
        let its = last - if is_largest { 2 } else { 1 };
        assert_eq!((own.subject.as_str(), own.sequence), ("vigie.alert.web-1", its), "{number}");
        assert!(own.stored.abs_diff(now()) < 3600, "{number}: {own:?}");
    }

    for (stream, filter) in [(ALERTS, EVERY_ALERT), (AUDIT, "vigie.audit.*")] {
        let (mut cursor, mut read) = (Cursor { next: 1 }, Vec::new());
        let reading = cursor.read(admin.client(), stream, filter, |entry| {
            read.push((entry.subject, String::from_utf8(entry.value.to_vec()).unwrap()));
            true
        });
        assert!(within(reading).await.unwrap());
        if stream == ALERTS {
            assert_eq!(read, wanted);
        } else {
            assert_eq!(read.len(), odd.len() - 1);
        }
        assert_eq!(cursor.next, read.len() as u64 + 1);
    }
    let versions = stored::versions(reader.client(), RESULTS, "vigie.res.7.web-1", 100);
    assert_eq!(within(versions).await.unwrap().len(), odd.len());
    // The first one that is new enough is the first one that was stored.
    let at = Cursor::at_time(reader.client(), ALERTS, EVERY_ALERT, now() - 3600);
    assert_eq!(within(at).await.unwrap().next, 1);
    is_undisturbed(&reader);
    is_undisturbed(&admin);
}

/// No stream bounds what is only passed on.
#[tokio::test]
async fn what_an_agent_puts_into_live_messages_ends_no_connection() {
    if server_is_missing() {
        return;
    }
    let fixture = Fixture::with_streams().await;
    let reader = fixture.user(Role::Investigator, "ann").await;
    let mut answers = reader.client().subscribe("vigie.res.7.*").unwrap();
    within(reader.client().flush(FLUSH)).await.unwrap();
    let mut attacker = Raw::log_in(&fixture, "web-1").await;
    let mut odd = odd_headers();
    odd.extend([large(100_017), large(500_000)]);
    for headers in &odd {
        attacker.publish("vigie.res.7.web-1", b"", headers, b"odd").await;
        assert_eq!(within(answers.next()).await.unwrap().payload, "odd");
    }
    for reply in [&b"\xff\xfe"[..], b"a\x0cb", b"a\x0bb", b"\xc2\x85", b"a\xe3\x80\x80b", &[b'x'; 3000]] {
        attacker.publish("vigie.res.7.web-1", reply, b"NATS/1.0\r\n\r\n", b"odd").await;
        assert_eq!(within(answers.next()).await.unwrap().payload, "odd");
    }
    attacker.is_taken().await;
    within(reader.client().flush(FLUSH)).await.unwrap();
    is_undisturbed(&reader);
}

#[tokio::test]
async fn what_an_agent_puts_into_headers_stops_no_forwarder() {
    if server_is_missing() {
        return;
    }
    let fixture = Fixture::with_streams().await;
    let admin = fixture.user(Role::Administrator, "root").await;
    let victim = fixture.user(Role::Agent, "web-2").await;
    let group = name("siem");
    within(consumer::ensure(admin.client(), &group, Begin::Oldest)).await.unwrap();
    let mut attacker = Raw::log_in(&fixture, "web-1").await;
    let mut odd = odd_headers();
    odd.retain(|headers| headers.len() < LARGEST);
    for headers in &odd {
        attacker.publish("vigie.alert.web-1", b"", headers, b"odd").await;
        attacker.is_taken().await;
    }
    within(store(victim.client(), "vigie.alert.web-2", b"after")).await.unwrap();
    let forwarder = fixture.user(Role::Forwarder, "siem").await;
    let mut member = Member::new(forwarder.client(), &group).unwrap();
    let mut taken = Vec::new();
    within(async {
        while taken.len() <= odd.len() {
            for delivery in member.next(100, Duration::from_secs(10)).await.unwrap() {
                delivery.answer(forwarder.client(), Answer::Done).await.unwrap();
                taken.push((delivery.sequence, delivery.value));
            }
        }
    })
    .await;
    let expected: Vec<_> = (1u64..)
        .zip(odd.iter().map(|_| "odd").chain(["after"]))
        .map(|(number, value)| (number, value.as_bytes().to_vec().into()))
        .collect();
    assert_eq!(taken, expected);
    is_undisturbed(&forwarder);
}
