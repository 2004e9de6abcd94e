//! The part of the NATS client protocol that a simulated agent speaks
//! (<https://docs.nats.io/reference/reference-protocols/nats-protocol>). Pure: bytes in, bytes out.

use std::io::Write;

/// Longest line of the protocol. INFO is the longest; real ones have below 1 KiB.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// Largest message that is taken.
const MAX_MESSAGE_BYTES: usize = 2 << 20;

/// What the broker says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Operation<'b> {
    /// First of all; JSON.
    Info(&'b [u8]),
    /// A message of a subscription, without its headers.
    Message {
        /// Number of the subscription.
        sid: u64,
        /// What it holds.
        payload: &'b [u8],
    },
    Ping,
    Pong,
    /// In the broker's words. It closes the connection after most of them.
    Error(&'b str),
    /// An acknowledgement that means nothing here.
    Ok,
}

/// The broker says something that is not in the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the broker does not keep to the protocol: {0:?}")]
pub(super) struct ProtocolError(String);

fn wrong(line: &[u8]) -> ProtocolError {
    ProtocolError(String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned())
}

/// Reads the first operation in the bytes and says how many it takes; none when it is not there whole.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Operation<'_>, usize)>, ProtocolError> {
    let Some(end) = bytes.iter().take(MAX_LINE_BYTES).position(|&byte| byte == b'\n') else {
        return if bytes.len() < MAX_LINE_BYTES { Ok(None) } else { Err(wrong(bytes)) };
    };
    let line = bytes[..end].strip_suffix(b"\r").ok_or_else(|| wrong(&bytes[..end]))?;
    let after = end + 1;
    let (word, rest) = line.split_at(line.iter().position(|&byte| byte == b' ').unwrap_or(line.len()));
    let operation = match word {
        b"MSG" | b"HMSG" => return message(word == b"HMSG", line, &bytes[after..], after),
        b"PING" => Operation::Ping,
        b"PONG" => Operation::Pong,
        b"INFO" => Operation::Info(rest.trim_ascii()),
        b"+OK" => Operation::Ok,
        b"-ERR" => Operation::Error(std::str::from_utf8(rest.trim_ascii()).map_err(|_| wrong(line))?),
        _ => return Err(wrong(line)),
    };
    Ok(Some((operation, after)))
}

/// `MSG subject sid [reply] bytes`, or `HMSG subject sid [reply] bytes-of-headers bytes`, and then the bytes.
fn message<'b>(
    has_headers: bool,
    line: &[u8],
    body: &'b [u8],
    before: usize,
) -> Result<Option<(Operation<'b>, usize)>, ProtocolError> {
    let number = |word: Option<&str>| word.and_then(|word| word.parse::<usize>().ok());
    let text = std::str::from_utf8(line).map_err(|_| wrong(line))?;
    let mut words = text.split(' ');
    let sid = words.nth(2).and_then(|word| word.parse().ok()).ok_or_else(|| wrong(line))?;
    let total = number(words.next_back()).filter(|&total| total <= MAX_MESSAGE_BYTES);
    let total = total.ok_or_else(|| wrong(line))?;
    let headers = if has_headers { number(words.next_back()).ok_or_else(|| wrong(line))? } else { 0 };
    if headers > total {
        return Err(wrong(line));
    }
    let Some(whole) = body.get(..total + 2) else { return Ok(None) };
    if !whole.ends_with(b"\r\n") {
        return Err(wrong(line));
    }
    Ok(Some((Operation::Message { sid, payload: &whole[headers..total] }, before + total + 2)))
}

/// Appends to the bytes that go to the broker. Writing to memory cannot fail.
fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

/// Logs in with a user's token and the signature over the broker's nonce.
pub(super) fn connect(out: &mut Vec<u8>, name: &str, jwt: &str, signature: &str) {
    let options = serde_json::json!({
        "verbose": false, "pedantic": false, "tls_required": false, "lang": "rust", "version": "0",
        "protocol": 1, "headers": true, "no_responders": true, "echo": false,
        "name": name, "jwt": jwt, "sig": signature,
    });
    put(out, format_args!("CONNECT {options}\r\n"));
}

pub(super) fn ping(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PING\r\n");
}

pub(super) fn pong(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PONG\r\n");
}

pub(super) fn subscribe(out: &mut Vec<u8>, subject: &str, sid: u64) {
    put(out, format_args!("SUB {subject} {sid}\r\n"));
}

/// Publishes; a stream that stores it acknowledges to `reply`.
pub(super) fn publish(out: &mut Vec<u8>, subject: &str, reply: Option<&str>, payload: &[u8]) {
    match reply {
        Some(reply) => put(out, format_args!("PUB {subject} {reply} {}\r\n", payload.len())),
        None => put(out, format_args!("PUB {subject} {}\r\n", payload.len())),
    }
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}
