//! What the streams keep: storing, and reading by direct get, with no more rights than an agent or investigator has.
//!
//! Nobody but an administrator makes consumers ([`super::consumer`]): a consumer with a delivery subject is a right to
//! write anywhere in the account. Nobody uses message ids or headers either: a message id that another one used keeps a
//! message from being stored for good, so doubles are dropped by whoever reads.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::client::wire::SEQUENCE;
use super::client::{Client, Outgoing, RequestError, SendError};
use super::permissions::direct_get;

/// How long the broker may take to acknowledge before a message is sent again.
pub(crate) const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the broker may take to answer a question about a stream.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a reader waits for a broker that is about to come back: servers of a cluster elect a leader anew within 5
/// to 8 seconds.
const PATIENCE: Duration = Duration::from_secs(15);

/// Pause before a question is asked again that found nobody.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Direct gets on their way at once.
pub const WINDOW: usize = 256;

/// Header with which a writer says what it takes for the newest message of its subject.
const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";

/// Header with which a writer says what it takes for the newest message of the stream.
const EXPECTED_LAST_OF_STREAM: &str = "Nats-Expected-Last-Sequence";

/// A code of JetStream's errors.
const WRONG_LAST_SEQUENCE: u64 = 10071;
const STREAM_NOT_FOUND: u64 = 10059;
const MESSAGE_TOO_LARGE: u64 = 10054;
const NOT_STORED: u64 = 10077;

/// What a status of JetStream says that is about now: it is not available, or has no leader.
const UNAVAILABLE: u64 = 503;

/// A stored message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its subject.
    pub subject: String,
    /// Its number in the stream.
    pub sequence: u64,
    /// When the broker stored it, in seconds since 1970 (UTC), by the broker's clock.
    pub stored: i64,
    /// What it holds.
    pub value: Bytes,
}

/// Why something cannot be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoredError {
    /// No answer.
    #[error("no answer of the broker to {what}")]
    Request {
        /// Stream or subject.
        what: String,
        /// Why.
        #[source]
        source: RequestError,
    },
    /// The broker refuses it, in its words.
    #[error("the broker rejects {what}: {description} (code {code})")]
    Refused {
        /// Stream or subject.
        what: String,
        /// JetStream's code.
        code: u64,
        /// What kind of error that is, as HTTP counts them.
        status: u64,
        /// Its words.
        description: String,
    },
    /// It answers something else.
    #[error("the broker's answer for {what} cannot be read")]
    Unreadable {
        /// Stream or subject.
        what: String,
    },
}

impl StoredError {
    /// Somebody else wrote to this subject since.
    #[must_use]
    pub fn is_other_writer(&self) -> bool {
        matches!(self, Self::Refused { code: WRONG_LAST_SEQUENCE, .. })
    }

    /// Somebody else wrote to this subject after the message with this number. Where the newest one is older, or there
    /// is none, nobody did: it expired, as behind a machine that stood still, or the stream was made anew.
    #[must_use]
    pub fn is_other_writer_after(&self, number: u64) -> bool {
        self.is_other_writer() && self.newest().is_none_or(|newest| newest > number)
    }

    /// Which number the newest message has, when somebody else wrote since: the broker says it at the end.
    #[must_use]
    pub fn newest(&self) -> Option<u64> {
        match self {
            Self::Refused { code: WRONG_LAST_SEQUENCE, description, .. } => {
                description.rsplit(' ').next()?.parse().ok()
            }
            _ => None,
        }
    }

    /// The stream is not there.
    #[must_use]
    pub(crate) fn is_no_stream(&self) -> bool {
        matches!(self, Self::Refused { code: STREAM_NOT_FOUND, .. })
    }

    /// Nobody is there who would store it, so it is not stored.
    #[must_use]
    pub fn is_nobody(&self) -> bool {
        matches!(self, Self::Request { source: RequestError::NoResponders, .. })
    }

    /// This user may not do it, so that asking again is of no use.
    #[must_use]
    pub fn is_not_permitted(&self) -> bool {
        matches!(self, Self::Request { source: RequestError::NotPermitted(_), .. })
    }

    /// The message is larger than the broker or the stream takes: sent again, it is not taken either.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        match self {
            Self::Request { source, .. } => matches!(source, RequestError::Send(SendError::TooLarge(_))),
            Self::Refused { code, .. } => *code == MESSAGE_TOO_LARGE,
            Self::Unreadable { .. } => false,
        }
    }

    /// The broker, or the stream's leader, is not there at the moment; later it may be.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Request { source, .. } => {
                use RequestError::{NotPermitted, Send};
                !matches!(source, Send(SendError::Text(_) | SendError::TooLarge(_)) | NotPermitted(_))
            }
            // A full stream or disk has this status too, and stays full.
            Self::Refused { code, status, .. } => *status == UNAVAILABLE && *code != NOT_STORED,
            Self::Unreadable { .. } => false,
        }
    }
}

#[derive(Deserialize)]
struct ApiError {
    code: u64,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl ApiError {
    fn refused(self, what: &str) -> StoredError {
        let status = self.code;
        let code = if self.err_code == 0 { status } else { self.err_code };
        let description = self.description.chars().take(200).collect();
        StoredError::Refused { what: what.to_owned(), code, status, description }
    }
}

#[derive(Deserialize)]
struct PubAck {
    error: Option<ApiError>,
    seq: Option<u64>,
}

fn failed(what: &str) -> impl Fn(RequestError) -> StoredError {
    move |source| StoredError::Request { what: what.to_owned(), source }
}

/// Stores a message and says with which number. It is stored when this returns.
///
/// # Errors
///
/// When the broker does not acknowledge it in time; then it may still have been stored.
pub async fn store(client: &Client, subject: &str, value: &[u8]) -> Result<u64, StoredError> {
    publish(client, subject, &[], value).await
}

/// Stores a message when `last` is the number of the newest one of its subject.
///
/// # Errors
///
/// When it is not ([`StoredError::is_other_writer`]), or the broker does not acknowledge it.
pub async fn store_after(
    client: &Client,
    subject: &str,
    last: u64,
    value: &[u8],
) -> Result<u64, StoredError> {
    publish(client, subject, &[(EXPECTED_LAST.to_owned(), last.to_string())], value).await
}

/// The same, if nobody has written to any subject of the stream either since its message with the number
/// `last_of_stream`.
///
/// # Errors
///
/// When somebody has ([`StoredError::is_other_writer`]), or the broker does not acknowledge it.
pub async fn store_alone(
    client: &Client,
    subject: &str,
    last: u64,
    last_of_stream: u64,
    value: &[u8],
) -> Result<u64, StoredError> {
    let expected = [(EXPECTED_LAST, last), (EXPECTED_LAST_OF_STREAM, last_of_stream)]
        .map(|(header, number)| (header.to_owned(), number.to_string()));
    publish(client, subject, &expected, value).await
}

async fn publish(
    client: &Client,
    subject: &str,
    headers: &[(String, String)],
    payload: &[u8],
) -> Result<u64, StoredError> {
    let message = Outgoing { subject, headers, payload, reply: None };
    let answer = client.request(message, ACK_TIMEOUT).await.map_err(failed(subject))?;
    let unreadable = || StoredError::Unreadable { what: subject.to_owned() };
    let ack: PubAck = serde_json::from_slice(&answer.payload).map_err(|_| unreadable())?;
    match ack {
        PubAck { error: Some(error), .. } => Err(error.refused(subject)),
        PubAck { seq: Some(seq), .. } => Ok(seq),
        PubAck { .. } => Err(unreadable()),
    }
}

/// Asks the API of JetStream.
///
/// # Errors
///
/// When the broker does not respond, or refuses.
pub async fn api(client: &Client, subject: &str, body: &Value) -> Result<Value, StoredError> {
    let payload = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let message = Outgoing { subject, payload: &payload, ..Outgoing::default() };
    let answer = client.request(message, ASK_TIMEOUT).await.map_err(failed(subject))?;
    let unreadable = || StoredError::Unreadable { what: subject.to_owned() };
    let value: Value = serde_json::from_slice(&answer.payload).map_err(|_| unreadable())?;
    match value.get("error") {
        Some(error) => {
            let error: ApiError = serde_json::from_value(error.clone()).map_err(|_| unreadable())?;
            Err(error.refused(subject))
        }
        None => Ok(value),
    }
}

/// Which message of a stream is wanted.
#[derive(Debug, Clone, Copy)]
pub enum Which<'s> {
    /// The one with this number.
    Number(u64),
    /// The newest one of a subject.
    Last(&'s str),
    /// The first one with at least this number whose subject matches; it may hold wildcards.
    Next(&'s str, u64),
}

/// One message of a stream; none when there is no such. A broker that is away for a short while is waited for.
///
/// # Errors
///
/// When the broker does not respond.
pub async fn get(client: &Client, stream: &str, which: Which<'_>) -> Result<Option<Entry>, StoredError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match get_once(client, stream, which).await {
            Err(error) if error.is_transient() && Instant::now() < deadline => {
                tokio::time::sleep(ASK_AGAIN).await;
            }
            result => return result,
        }
    }
}

async fn get_once(client: &Client, stream: &str, which: Which<'_>) -> Result<Option<Entry>, StoredError> {
    let body = match which {
        Which::Number(seq) => json!({"seq": seq}),
        Which::Last(subject) => json!({"last_by_subj": subject}),
        Which::Next(subject, seq) => json!({"seq": seq.max(1), "next_by_subj": subject}),
    };
    let is_asked = |entry: &Entry| match which {
        Which::Number(number) => entry.sequence == number,
        Which::Last(subject) => matches(subject, &entry.subject),
        Which::Next(subject, from) => entry.sequence >= from && matches(subject, &entry.subject),
    };
    ask(client, stream, &direct_get(stream), body.to_string().as_bytes(), is_asked).await
}

/// The newest message of a subject, for who may read that subject and nothing else of the stream.
///
/// # Errors
///
/// When the broker does not respond, as when it does not permit that.
pub async fn newest_of_own(
    client: &Client,
    stream: &str,
    subject: &str,
) -> Result<Option<Entry>, StoredError> {
    ask(client, stream, &format!("{}.{subject}", direct_get(stream)), b"", |entry| entry.subject == subject)
        .await
}

async fn ask(
    client: &Client,
    stream: &str,
    subject: &str,
    payload: &[u8],
    is_asked: impl Fn(&Entry) -> bool,
) -> Result<Option<Entry>, StoredError> {
    let message = Outgoing { subject, payload, ..Outgoing::default() };
    let answer = client.request(message, ASK_TIMEOUT).await.map_err(failed(stream))?;
    match answer.status {
        Some(404) => return Ok(None),
        Some(code) => {
            let description = answer.header("Description").unwrap_or("no reason given").to_owned();
            let (what, code) = (stream.to_owned(), code.into());
            return Err(StoredError::Refused { what, code, status: code, description });
        }
        None => {}
    }
    // Each is the last of its name, so the broker's: those of the publisher stand ahead of them.
    let stored = answer.header("Nats-Time-Stamp").and_then(|time| time.parse::<jiff::Timestamp>().ok());
    let entry = (
        answer.header("Nats-Subject").map(str::to_owned),
        answer.header(SEQUENCE).and_then(|number| number.parse().ok()),
        stored.map(|time| time.as_second()),
    );
    let entry = match entry {
        (Some(subject), Some(sequence), Some(stored)) => {
            Some(Entry { subject, sequence, stored, value: answer.payload }).filter(is_asked)
        }
        _ => None,
    };
    entry.map(Some).ok_or_else(|| StoredError::Unreadable { what: stream.to_owned() })
}

/// Numbers of the first and the newest message that match; none when there is no such.
///
/// By direct get: the call that gives a stream's state is answered in an account without streams by its own server,
/// before the fleet's account answers.
///
/// # Errors
///
/// When the broker does not respond.
pub async fn extent(client: &Client, stream: &str, filter: &str) -> Result<Option<(u64, u64)>, StoredError> {
    let Some(last) = get(client, stream, Which::Last(filter)).await? else { return Ok(None) };
    let first = get(client, stream, Which::Next(filter, 1)).await?;
    Ok(first.map(|first| (first.sequence.min(last.sequence), last.sequence)))
}

/// All messages of a subject, the oldest first, at most `most`. For subjects of which a stream keeps a few.
///
/// # Errors
///
/// When the broker does not respond.
pub async fn versions(
    client: &Client,
    stream: &str,
    subject: &str,
    most: usize,
) -> Result<Vec<Entry>, StoredError> {
    let mut found: Vec<Entry> = Vec::new();
    while found.len() < most {
        let from = found.last().map_or(1, |entry| entry.sequence.saturating_add(1));
        match get(client, stream, Which::Next(subject, from)).await? {
            Some(entry) => found.push(entry),
            None => break,
        }
    }
    Ok(found)
}

/// The newest message of each subject, many at once. Those that are not there are left out.
///
/// # Errors
///
/// When the broker does not respond.
pub async fn newest(
    client: &Client,
    stream: &str,
    subjects: impl IntoIterator<Item = String>,
) -> Result<Vec<Entry>, StoredError> {
    let mut answers = futures_util::stream::iter(subjects)
        .map(|subject| async move { get(client, stream, Which::Last(&subject)).await })
        .buffer_unordered(WINDOW);
    let mut found = Vec::new();
    while let Some(entry) = answers.next().await {
        found.extend(entry?);
    }
    Ok(found)
}

/// Reads a stream onwards from a number, in order, without a consumer.
///
/// Messages are fetched by their numbers, many at once. Where none is left, as behind somebody who floods his own
/// subject and pushes out what he wrote, the hole is jumped over, however large it is.
#[derive(Debug, Clone, Copy)]
pub struct Cursor {
    /// Number of the next message that is wanted.
    pub next: u64,
}

impl Cursor {
    /// From the first message that was stored at this time or later, in seconds since 1970.
    ///
    /// # Errors
    ///
    /// When the broker does not respond.
    pub async fn at_time(
        client: &Client,
        stream: &str,
        filter: &str,
        seconds: i64,
    ) -> Result<Self, StoredError> {
        let Some((mut low, last)) = extent(client, stream, filter).await? else {
            return Ok(Self { next: 1 });
        };
        let mut high = last.saturating_add(1);
        // `high` or a later one is the first that is new enough.
        while low < high {
            let middle = low + (high - low) / 2;
            match get(client, stream, Which::Next(filter, middle)).await? {
                Some(entry) if entry.stored < seconds => low = entry.sequence.saturating_add(1),
                _ => high = middle,
            }
        }
        Ok(Self { next: low })
    }

    /// Reads up to the end that the stream has now, and gives each message that matches to `each`, as long as that
    /// says that it wants more. Whether the end was reached.
    ///
    /// # Errors
    ///
    /// When the broker does not respond; what was given before is not given again.
    pub async fn read(
        &mut self,
        client: &Client,
        stream: &str,
        filter: &str,
        mut each: impl FnMut(Entry) -> bool,
    ) -> Result<bool, StoredError> {
        let Some((first, last)) = extent(client, stream, filter).await? else { return Ok(true) };
        self.next = self.next.max(first);
        // A stream that was begun anew has other numbers.
        if self.next > last.saturating_add(1) {
            self.next = first;
        }
        while self.next <= last {
            let through = last.min(self.next.saturating_add(WINDOW as u64 - 1));
            let mut window = futures_util::stream::iter(self.next..=through)
                .map(|number| async move { get(client, stream, Which::Number(number)).await })
                .buffered(WINDOW);
            let mut hole = true;
            while let Some(entry) = window.next().await {
                let Some(entry) = entry? else { continue };
                hole = false;
                self.next = entry.sequence.saturating_add(1);
                if matches(filter, &entry.subject) && !each(entry) {
                    return Ok(false);
                }
            }
            self.next = self.next.max(through.saturating_add(1));
            if hole {
                match get(client, stream, Which::Next(filter, self.next)).await? {
                    Some(entry) => self.next = self.next.max(entry.sequence),
                    None => {
                        self.next = self.next.max(last.saturating_add(1));
                        break;
                    }
                }
            }
        }
        Ok(true)
    }
}

/// Whether a subject is one of those that a pattern with `*` for one token names.
#[must_use]
pub fn matches(pattern: &str, subject: &str) -> bool {
    let (mut wanted, mut found) = (pattern.split('.'), subject.split('.'));
    loop {
        match (wanted.next(), found.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some(wanted), Some(found)) if wanted == "*" || wanted == found => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_wrote_where_the_newest_message_is_older_than_ours() {
        let refused = |code, description: &str| StoredError::Refused {
            what: "FACTS".to_owned(),
            code,
            status: 400,
            description: description.to_owned(),
        };
        for (newest, is_other) in [("0", false), ("6", false), ("8", true), ("?", true)] {
            let error = refused(WRONG_LAST_SEQUENCE, &format!("wrong last sequence: {newest}"));
            assert_eq!(error.is_other_writer_after(7), is_other, "{newest}");
        }
        assert!(!refused(STREAM_NOT_FOUND, "stream not found 8").is_other_writer_after(7));
    }

    #[test]
    fn what_is_not_available_now_is_asked_for_again_and_what_is_refused_is_not() {
        let said = |text: &str| {
            let ack: PubAck = serde_json::from_str(text).unwrap();
            ack.error.unwrap().refused("ALERTS").is_transient()
        };
        assert!(said(
            r#"{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}"#
        ));
        assert!(said(r#"{"error":{"code":503,"err_code":10009,"description":"raft leader not available"}}"#));
        assert!(said(r#"{"error":{"code":503}}"#));
        assert!(!said(r#"{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}}"#));
        assert!(!said(
            r#"{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum"}}"#
        ));
        let asked = |source| StoredError::Request { what: "ALERTS".to_owned(), source };
        assert!(asked(RequestError::NoResponders).is_transient());
        assert!(!asked(RequestError::NotPermitted("x".to_owned())).is_transient());
    }

    #[test]
    fn a_pattern_names_whole_tokens() {
        for (pattern, subject, expected) in [
            ("vigie.res.7.*", "vigie.res.7.web-1", true),
            ("vigie.res.7.*", "vigie.res.17.web-1", false),
            ("vigie.alert.*", "vigie.alert.web-1.x", false),
            ("vigie.>", "vigie.alert.web-1.x", true),
            ("vigie.>", "vigie", false),
            ("vigie.policy", "vigie.policy", true),
        ] {
            assert_eq!(matches(pattern, subject), expected, "{pattern} {subject}");
        }
    }
}
