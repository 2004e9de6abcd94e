//! The client's side of the NATS protocol
//! (<https://docs.nats.io/reference/reference-protocols/nats-protocol>). Pure: bytes in, operations out.
//!
//! Nothing that a server sends is trusted: every length is bounded before anything is kept, and bytes that are not
//! the protocol are an error that ends the connection, never a panic. Headers and the reply subject are their
//! publisher's, and servers pass on any bytes there: they end nothing, and in memory they take no more than they are.

use std::io::Write as _;

use bytes::{Buf as _, Bytes, BytesMut};
use serde::Deserialize;

/// Longest line of the protocol in bytes, without INFO. The server's own limit for what clients send is 4 KiB; an
/// error quotes it.
pub const MAX_LINE_BYTES: usize = 16 * 1024;

/// Longest INFO in bytes: it lists the addresses of a cluster.
pub(crate) const MAX_INFO_BYTES: usize = 256 * 1024;

/// Largest message in bytes, with its headers, which may fill it. Brokers of a fleet take at most 1 MiB.
pub const MAX_MESSAGE_BYTES: usize = 2 << 20;

/// Header with the number of a message in its stream.
pub(in crate::broker) const SEQUENCE: &str = "Nats-Sequence";

/// What a server says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ServerInfo {
    /// Its version, such as `2.10.25`.
    pub version: String,
    /// Its name.
    pub server_name: String,
    /// Largest payload that it takes, in bytes.
    pub max_payload: usize,
    /// It talks TLS only.
    pub tls_required: bool,
    /// What a user signs to log in.
    pub nonce: String,
    /// It is about to stop.
    pub ldm: bool,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub subject: String,
    /// Number of the subscription.
    pub sid: u64,
    /// Where an answer is expected.
    pub reply: Option<String>,
    /// The server's status instead of a payload: 503 when nobody listens, 404 when nothing is stored. What comes out of
    /// a stream has none: a status there is its publisher's.
    pub status: Option<u16>,
    /// Its headers, as they came.
    pub headers: Bytes,
    /// What it holds.
    pub payload: Bytes,
}

impl Message {
    /// What it takes in memory, in bytes, roughly.
    pub(super) fn size(&self) -> usize {
        let reply = self.reply.as_ref().map_or(0, String::len);
        self.payload.len() + self.headers.len() + self.subject.len() + reply + 256
    }

    /// The last header of that name, when it is a text: servers put their own behind those of the publisher.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.rsplit(|byte| *byte == b'\n').find_map(|line| {
            let (known, value) = line.split_at_checked(name.len())?;
            let value = value.strip_prefix(b":")?;
            known
                .eq_ignore_ascii_case(name.as_bytes())
                .then_some(std::str::from_utf8(value).ok().map(str::trim))
        })?
    }
}

/// What a server sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Itself; again when something about it changes.
    Info(Box<ServerInfo>),
    /// A message of a subscription.
    Message(Message),
    /// It wants to know whether we are there.
    Ping,
    /// It answers that it is there.
    Pong,
    /// All is well.
    Ok,
    /// Something is wrong, in its words.
    Error(String),
}

/// The server does not keep to the protocol, or to our limits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A line without an end.
    #[error("the server sent a line of more than {0} bytes")]
    LongLine(usize),
    /// A message that is larger than any of a fleet.
    #[error("the server sent a message of more than {MAX_MESSAGE_BYTES} bytes")]
    LargeMessage,
    /// Something else.
    #[error("the server violated the NATS protocol: {0:?}")]
    Unknown(String),
}

fn unknown(line: &[u8]) -> ProtocolError {
    ProtocolError::Unknown(String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned())
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

/// Takes the first operation out of the buffer; none while it is not there whole.
///
/// # Errors
///
/// When it is not the protocol or beyond a limit: the connection is of no use any more.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Operation>, ProtocolError> {
    let limit = if buffer.starts_with(b"INFO") { MAX_INFO_BYTES } else { MAX_LINE_BYTES };
    let within = &buffer[..buffer.len().min(limit)];
    let Some(end) = memchr::memchr(b'\n', within) else {
        return if buffer.len() < limit { Ok(None) } else { Err(ProtocolError::LongLine(limit)) };
    };
    let line = within[..end].strip_suffix(b"\r").ok_or_else(|| unknown(&within[..end]))?;
    let (word, rest) = line.split_at(memchr::memchr2(b' ', b'\t', line).unwrap_or(line.len()));
    let operation = match word {
        b"MSG" | b"HMSG" => return message(buffer, end),
        b"PING" => Operation::Ping,
        b"PONG" => Operation::Pong,
        b"+OK" => Operation::Ok,
        b"-ERR" => {
            let words = lossy(rest);
            let words = words.trim();
            let words = words.strip_prefix('\'').unwrap_or(words);
            Operation::Error(words.strip_suffix('\'').unwrap_or(words).to_owned())
        }
        b"INFO" => Operation::Info(serde_json::from_slice(rest).map_err(|_| unknown(line))?),
        _ => return Err(unknown(line)),
    };
    buffer.advance(end + 1);
    Ok(Some(operation))
}

/// `MSG subject sid [reply] bytes`, or `HMSG subject sid [reply] header-bytes bytes`, and then the bytes.
fn message(buffer: &mut BytesMut, end: usize) -> Result<Option<Operation>, ProtocolError> {
    let line = &buffer[..end];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let wrong = || unknown(line);
    // A publisher's reply may hold any other bytes.
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    let has_headers = words.next() == Some(&b"HMSG"[..]);
    let (subject, sid) = (words.next().ok_or_else(wrong)?, words.next().ok_or_else(wrong)?);
    let sid: u64 = digits(sid).and_then(|sid| sid.parse().ok()).ok_or_else(wrong)?;
    let rest: Vec<&[u8]> = words.take(4).collect();
    let (reply, sizes) = match (rest.as_slice(), has_headers) {
        ([size], false) => (None, [None, Some(*size)]),
        ([reply, size], false) => (Some(*reply), [None, Some(*size)]),
        ([headers, size], true) => (None, [Some(*headers), Some(*size)]),
        ([reply, headers, size], true) => (Some(*reply), [Some(*headers), Some(*size)]),
        _ => return Err(wrong()),
    };
    // A number that no integer holds is too large as well.
    let size = |word: &[u8]| {
        digits(word)
            .ok_or_else(wrong)?
            .parse::<usize>()
            .ok()
            .filter(|size| *size <= MAX_MESSAGE_BYTES)
            .ok_or(ProtocolError::LargeMessage)
    };
    let [of_headers, total] = sizes;
    let total = size(total.unwrap_or_default())?;
    let of_headers = of_headers.map(size).transpose()?.unwrap_or(0);
    if of_headers > total {
        return Err(wrong());
    }
    let whole = end + 1 + total + 2;
    if buffer.len() < whole {
        // Bounded: a line and a message.
        buffer.reserve(whole - buffer.len());
        return Ok(None);
    }
    let (subject, reply) = (lossy(subject), reply.map(lossy));
    if &buffer[whole - 2..whole] != b"\r\n" {
        return Err(wrong());
    }
    let mut body = buffer.split_to(whole);
    body.advance(end + 1);
    body.truncate(total);
    let headers = body.split_to(of_headers).freeze();
    let mut message = Message { subject, sid, reply, status: None, headers, payload: body.freeze() };
    message.status = status(&message.headers).filter(|_| message.header(SEQUENCE).is_none());
    Ok(Some(Operation::Message(message)))
}

fn digits(word: &[u8]) -> Option<&str> {
    let is_number = !word.is_empty() && word.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(word).ok().filter(|_| is_number)
}

/// `NATS/1.0[ status[ words]]` is the first line of headers; `Name: value` on each further one, then an empty one.
fn status(headers: &[u8]) -> Option<u16> {
    let line = headers.strip_prefix(b"NATS/1.0 ")?;
    let word = line.split(|byte| byte.is_ascii_whitespace()).next()?;
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// A text that cannot be a subject, or a header that cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be sent to a broker: it is empty, or contains spaces or control characters")]
pub struct BadText(pub String);

/// The subject to which a server did not let us publish, when that is what its words say.
pub(super) fn not_permitted(words: &str) -> Option<&str> {
    let (_, subject) = words.split_once("ermissions Violation for Publish to \"")?;
    subject.split('"').next()
}

/// Whether a text can be a subject: it cannot end the line that it stands in.
///
/// # Errors
///
/// When it cannot.
pub(crate) fn check_subject(subject: &str) -> Result<(), BadText> {
    let good = !subject.is_empty()
        && subject.len() <= 2048
        && !subject.chars().any(|c| c.is_whitespace() || c.is_control());
    if good { Ok(()) } else { Err(BadText(subject.chars().take(100).collect())) }
}

/// Appends a message to what goes to the server.
///
/// # Errors
///
/// When subject, reply or a header cannot be sent; nothing is appended then.
pub fn publish(
    out: &mut BytesMut,
    subject: &str,
    reply: Option<&str>,
    headers: &[(String, String)],
    payload: &[u8],
) -> Result<(), BadText> {
    check_subject(subject)?;
    reply.map(check_subject).transpose()?;
    let reply = reply.map_or_else(String::new, |reply| format!("{reply} "));
    if headers.is_empty() {
        put(out, format_args!("PUB {subject} {reply}{}\r\n", payload.len()));
    } else {
        let mut block = String::from("NATS/1.0\r\n");
        for (name, value) in headers {
            let bad = |text: &str| text.contains(['\r', '\n']);
            if name.is_empty() || name.contains(':') || bad(name) || bad(value) {
                return Err(BadText(name.clone()));
            }
            block.push_str(&format!("{name}: {value}\r\n"));
        }
        block.push_str("\r\n");
        let total = block.len() + payload.len();
        put(out, format_args!("HPUB {subject} {reply}{} {total}\r\n{block}", block.len()));
    }
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Appends a subscription. The subject was checked.
pub fn subscribe(out: &mut BytesMut, subject: &str, sid: u64) {
    put(out, format_args!("SUB {subject} {sid}\r\n"));
}

/// Appends the end of a subscription.
pub(crate) fn unsubscribe(out: &mut BytesMut, sid: u64) {
    put(out, format_args!("UNSUB {sid}\r\n"));
}

/// Appends the login.
pub fn connect(out: &mut BytesMut, name: &str, jwt: &str, signature: &str, tls: bool) {
    let options = serde_json::json!({
        "verbose": false, "pedantic": false, "tls_required": tls, "lang": "rust-vigie",
        "version": env!("CARGO_PKG_VERSION"), "protocol": 1, "headers": true, "no_responders": true, "echo": true,
        "name": name, "jwt": jwt, "sig": signature,
    });
    put(out, format_args!("CONNECT {options}\r\n"));
}

/// Appends a question whether the server is there.
pub fn ping(out: &mut BytesMut) {
    out.extend_from_slice(b"PING\r\n");
}

/// Appends the answer that we are there.
pub fn pong(out: &mut BytesMut) {
    out.extend_from_slice(b"PONG\r\n");
}

fn put(out: &mut BytesMut, text: std::fmt::Arguments<'_>) {
    struct Writer<'b>(&'b mut BytesMut);
    impl std::io::Write for Writer<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    Writer(out).write_fmt(text).expect("memory takes every write");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(bytes: &[u8]) -> Result<Vec<Operation>, ProtocolError> {
        let mut buffer = BytesMut::from(bytes);
        let mut all = Vec::new();
        while let Some(operation) = decode(&mut buffer)? {
            all.push(operation);
        }
        Ok(all)
    }

    #[test]
    fn the_subject_that_is_not_permitted_is_named() {
        let words = "Permissions Violation for Publish to \"$JS.API.DIRECT.GET.FACTS\"";
        assert_eq!(not_permitted(words), Some("$JS.API.DIRECT.GET.FACTS"));
        for other in ["", "Permissions Violation for Subscription to \"x\"", "Unknown Protocol Operation"] {
            assert_eq!(not_permitted(other), None);
        }
    }

    /// Each of these ended the connection task of async-nats 0.51 by a panic, and it then said "connected" for ever.
    #[test]
    fn what_ended_other_clients_is_an_error_or_nothing() {
        assert_eq!(decoded(b"-ERR\r\n"), Ok(vec![Operation::Error(String::new())]));
        assert_eq!(decoded(b"-ERR '\r\n"), Ok(vec![Operation::Error(String::new())]));
        assert_eq!(decoded(b"MSG x 1 18446744073709551615\r\n"), Err(ProtocolError::LargeMessage));
        assert_eq!(decoded(b"HMSG x 1 5 18446744073709551611\r\n"), Err(ProtocolError::LargeMessage));
        assert_eq!(decoded(b"HMSG x 1 18446744073709551615 4\r\n"), Err(ProtocolError::LargeMessage));
        assert_eq!(decoded(b"MSG x 1 99999999999999999999999\r\n"), Err(ProtocolError::LargeMessage));
        assert!(matches!(decoded(b"HMSG x 1 5 4\r\n"), Err(ProtocolError::Unknown(_))));
        assert!(matches!(decoded(b"MSG x 1 -1\r\n"), Err(ProtocolError::Unknown(_))));
        assert!(matches!(decoded(b"MSG x 1 +1\r\n"), Err(ProtocolError::Unknown(_))));
        assert!(matches!(decoded(b"MSG x\r\n"), Err(ProtocolError::Unknown(_))));
        assert!(matches!(decoded(b"MSG x 1 1\r\nabcd"), Err(ProtocolError::Unknown(_))));
        assert!(matches!(decoded(b"PING\n"), Err(ProtocolError::Unknown(_))));
        assert!(matches!(decoded(b"INFO 1\r\n"), Err(ProtocolError::Unknown(_))));
    }

    #[test]
    fn nothing_without_an_end_is_kept() {
        let mut buffer = BytesMut::from(&vec![b'x'; MAX_LINE_BYTES][..]);
        assert_eq!(decode(&mut buffer), Err(ProtocolError::LongLine(MAX_LINE_BYTES)));
        let mut buffer = BytesMut::from("INFO {");
        buffer.extend_from_slice(&vec![b' '; MAX_INFO_BYTES]);
        assert_eq!(decode(&mut buffer), Err(ProtocolError::LongLine(MAX_INFO_BYTES)));
        let mut buffer = BytesMut::from(format!("MSG x 1 {MAX_MESSAGE_BYTES}\r\n").as_bytes());
        assert_eq!(decode(&mut buffer), Ok(None));
        assert!(buffer.capacity() < MAX_MESSAGE_BYTES + 4 * MAX_LINE_BYTES);
    }

    #[test]
    fn messages_come_as_they_were_sent() {
        let sent = b"MSG a.b 7 2\r\nhi\r\nMSG a 8 re.ply 0\r\n\r\nHMSG a 9 12 15\r\nNATS/1.0\r\n\r\nyes\r\n\
            HMSG a 9 23 23\r\nNATS/1.0 404 No one\r\n\r\n\r\n";
        let messages = decoded(sent).unwrap();
        let Operation::Message(first) = &messages[0] else { panic!("{messages:?}") };
        assert_eq!((first.subject.as_str(), first.sid, &first.payload[..]), ("a.b", 7, &b"hi"[..]));
        let Operation::Message(second) = &messages[1] else { panic!("{messages:?}") };
        assert_eq!((second.reply.as_deref(), second.payload.len()), (Some("re.ply"), 0));
        let Operation::Message(third) = &messages[2] else { panic!("{messages:?}") };
        assert_eq!((&third.headers[..], &third.payload[..]), (&b"NATS/1.0\r\n\r\n"[..], &b"yes"[..]));
        let Operation::Message(fourth) = &messages[3] else { panic!("{messages:?}") };
        assert_eq!(fourth.status, Some(404));
    }

    /// The last one is the server's, and a status ahead of it is the publisher's.
    #[test]
    fn headers_of_a_publisher_end_nothing_and_say_nothing_for_the_server() {
        let of = |headers: &[u8]| {
            let mut bytes = format!("HMSG a 9 {0} {0}\r\n", headers.len()).into_bytes();
            bytes.extend_from_slice(headers);
            bytes.extend_from_slice(b"\r\n");
            let mut all = decoded(&bytes).unwrap();
            let Some(Operation::Message(message)) = all.pop() else { panic!("{all:?}") };
            message
        };
        for odd in
            [&b""[..], b"abc", b"\xff", b"NATS/1.0\r\nnocolon\r\n\r\n", b"NATS/1.0 what\r\n\r\n", b"\r\n"]
        {
            assert_eq!((of(odd).status, of(odd).header("a")), (None, None), "{odd:?}");
        }
        let message =
            of(b"NATS/1.0 404 x\r\nnats-sequence: 9\r\nX: \xff\r\nA: 1\r\nNats-Sequence: 3 \r\n\r\n");
        assert_eq!((message.status, message.header("nats-sequence")), (None, Some("3")));
        assert_eq!((message.header("X"), message.header("a"), message.header("b")), (None, Some("1"), None));
        assert_eq!(of(b"NATS/1.0 503\r\nNats-Subject: x\r\n\r\n").status, Some(503));
        let large = vec![b'x'; MAX_MESSAGE_BYTES];
        assert_eq!(of(&large).headers, large);
        let Operation::Message(message) = decoded(b"MSG a 9 \xff\x0cb 2\r\nhi\r\n").unwrap().remove(0) else {
            panic!("a message")
        };
        assert_eq!((message.reply.as_deref(), &message.payload[..]), (Some("\u{fffd}\u{c}b"), &b"hi"[..]));
    }

    #[test]
    fn nothing_that_is_published_ends_its_line() {
        let mut out = BytesMut::new();
        for bad in ["", "a b", "a\r\nPING", "a\tb", "\u{85}"] {
            assert!(publish(&mut out, bad, None, &[], b"").is_err(), "{bad:?}");
            assert!(publish(&mut out, "a", Some(bad), &[], b"").is_err(), "{bad:?}");
        }
        for (name, value) in [("a:b", "c"), ("a", "b\r\nc: d"), ("", "x")] {
            assert!(publish(&mut out, "a", None, &[(name.to_owned(), value.to_owned())], b"").is_err());
        }
        assert!(out.is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_server_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = decoded(&bytes);
        }

        #[test]
        fn no_words_of_a_server_panic(
            words in prop::collection::vec(prop::sample::select(vec![
                "MSG", "HMSG", "-ERR", "+OK", "PING", "INFO", "{}", " ", "\t", "\r\n", "\n", "x", "0", "1", "12",
                "18446744073709551615", "9999999999999999999999", "-1", "NATS/1.0", "'", ":", "404",
            ]), 0..40),
        ) {
            let _ = decoded(words.concat().as_bytes());
        }

        #[test]
        fn what_is_sent_is_what_comes(
            payload in prop::collection::vec(any::<u8>(), 0..200),
            reply in prop::option::of("[a-z.]{1,9}"),
            headers in prop::collection::vec(("[A-Za-z-]{1,9}", "[a-z0-9]{0,9}"), 0..3),
            cut in 0usize..300,
        ) {
            let mut out = BytesMut::new();
            publish(&mut out, "to.me", reply.as_deref(), &headers, &payload).unwrap();
            // A server puts the number of the subscription behind the subject, and a letter before it.
            let sent = String::from_utf8_lossy(&out[..8]).into_owned();
            let (name, at) = if sent.starts_with("HPUB") { ("HMSG", 4) } else { ("MSG", 3) };
            let mut bytes = BytesMut::from(name.as_bytes());
            bytes.extend_from_slice(&out[at..at + 7]);
            bytes.extend_from_slice(b"5 ");
            bytes.extend_from_slice(&out[at + 7..]);
            let mut buffer = BytesMut::from(&bytes[..cut.min(bytes.len())]);
            let early = decode(&mut buffer).unwrap();
            let message = match early {
                Some(message) => message,
                None => {
                    buffer.extend_from_slice(&bytes[cut.min(bytes.len())..]);
                    decode(&mut buffer).unwrap().unwrap()
                }
            };
            let Operation::Message(message) = message else { panic!("{message:?}") };
            prop_assert_eq!(&message.subject, "to.me");
            prop_assert_eq!(message.sid, 5);
            prop_assert_eq!(&message.reply, &reply);
            for (name, _) in &headers {
                let last = headers.iter().rfind(|(known, _)| known.eq_ignore_ascii_case(name));
                prop_assert_eq!(message.header(name), last.map(|(_, value)| value.as_str()));
            }
            prop_assert_eq!(&message.payload[..], &payload[..]);
            prop_assert!(buffer.is_empty());
        }
    }
}
