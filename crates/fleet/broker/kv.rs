//! Buckets and stored messages, read and written with no more rights than an agent has.
//!
//! The clients of NATS ask for a stream's settings and make consumers; an agent may do neither. It writes by
//! publishing, reads by direct get, and learns of changes by subscribing to the subject itself.

use async_nats::Subscriber;
use async_nats::header::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{DeliverPolicy, push};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{DirectGetError, DirectGetErrorKind};
use bytes::Bytes;
use futures_util::StreamExt;

/// Header that marks an entry as deleted.
const OPERATION: &str = "KV-Operation";

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

/// Why a bucket cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// Writing was not acknowledged.
    #[error(
        "the broker did not store {subject}: is it reachable, has the bucket room, and may this user write there?"
    )]
    NotStored {
        /// The subject.
        subject: String,
        /// Why.
        #[source]
        source: async_nats::jetstream::context::PublishError,
    },
    /// Reading one message failed.
    #[error(
        "cannot read {subject} from {stream}: is the broker reachable, is the stream there, and may this user read it?"
    )]
    NotRead {
        /// The stream.
        stream: String,
        /// The subject.
        subject: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Reading a bucket failed.
    #[error(
        "cannot read all of {stream}: is the broker reachable, is the stream there, and may this user read it?"
    )]
    NotListed {
        /// The stream.
        stream: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Subscribing failed.
    #[error("cannot watch {subject}: is the connection open?")]
    NotWatched {
        /// The subject.
        subject: String,
        /// Why.
        #[source]
        source: async_nats::SubscribeError,
    },
}

/// Stores a value under a subject (`$KV.BUCKET.KEY`), and says with which number. It is stored when this returns.
///
/// # Errors
///
/// When the broker does not acknowledge it in time; then it may still have been stored.
pub async fn put(jetstream: &Context, subject: &str, value: Bytes) -> Result<u64, KvError> {
    let failed = |source| KvError::NotStored { subject: subject.to_owned(), source };
    let acknowledgement = jetstream.publish(subject.to_owned(), value).await.map_err(failed)?;
    Ok(acknowledgement.await.map_err(failed)?.sequence)
}

/// What became of a message that bears an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its number in the stream; of a double, that of the first.
    pub sequence: u64,
    /// The broker had stored a message with this id already, and did not store this one.
    pub double: bool,
}

/// Stores a message with an id under a subject of a stream. Doubles within the stream's window are not stored, so
/// that what was not acknowledged can be sent again.
///
/// # Errors
///
/// When the broker does not acknowledge it in time; then it may still have been stored.
pub async fn store_once(
    jetstream: &Context,
    subject: &str,
    id: &str,
    value: Bytes,
) -> Result<Stored, KvError> {
    let failed = |source| KvError::NotStored { subject: subject.to_owned(), source };
    let message = PublishMessage::build().payload(value).message_id(id);
    let acknowledgement = jetstream.send_publish(subject.to_owned(), message).await.map_err(failed)?;
    let acknowledgement = acknowledgement.await.map_err(failed)?;
    Ok(Stored { sequence: acknowledgement.sequence, double: acknowledgement.duplicate })
}

/// Marks an entry of a bucket as deleted; [`get`] and [`read_all`] pass it over from now on.
///
/// # Errors
///
/// When the broker does not acknowledge it in time; then it may still be deleted.
pub async fn delete(jetstream: &Context, subject: &str) -> Result<(), KvError> {
    let failed = |source| KvError::NotStored { subject: subject.to_owned(), source };
    let mut headers = HeaderMap::new();
    headers.insert(OPERATION, "DEL");
    let acknowledgement =
        jetstream.publish_with_headers(subject.to_owned(), headers, Bytes::new()).await.map_err(failed)?;
    acknowledgement.await.map(drop).map_err(failed)
}

/// The newest message of a subject, when there is one that is not deleted.
///
/// # Errors
///
/// When the broker does not answer.
pub async fn get(jetstream: &Context, stream: &str, subject: &str) -> Result<Option<Entry>, KvError> {
    let handle = no_info(jetstream, stream, subject).await?;
    let message = found(handle.direct_get_last_for_subject(subject).await, stream, subject)?;
    Ok(message.filter(|message| !is_deleted(&message.headers)).map(entry))
}

/// The first message with at least this number whose subject matches, which may hold wildcards. For catching up:
/// ask again with the found number and one.
///
/// # Errors
///
/// When the broker does not answer.
pub async fn next(
    jetstream: &Context,
    stream: &str,
    subject: &str,
    sequence: u64,
) -> Result<Option<Entry>, KvError> {
    let handle = no_info(jetstream, stream, subject).await?;
    let message = found(handle.direct_get_next_for_subject(subject, Some(sequence)).await, stream, subject)?;
    Ok(message.map(entry))
}

async fn no_info(
    jetstream: &Context,
    stream: &str,
    subject: &str,
) -> Result<async_nats::jetstream::stream::Stream<()>, KvError> {
    jetstream.get_stream_no_info(stream).await.map_err(|source| KvError::NotRead {
        stream: stream.to_owned(),
        subject: subject.to_owned(),
        source: source.into(),
    })
}

fn found(
    result: Result<StreamMessage, DirectGetError>,
    stream: &str,
    subject: &str,
) -> Result<Option<StreamMessage>, KvError> {
    match result {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
        Err(error) => Err(KvError::NotRead {
            stream: stream.to_owned(),
            subject: subject.to_owned(),
            source: error.into(),
        }),
    }
}

fn entry(message: StreamMessage) -> Entry {
    Entry {
        subject: message.subject.to_string(),
        sequence: message.sequence,
        stored: message.time.unix_timestamp(),
        value: message.payload,
    }
}

fn is_deleted(headers: &HeaderMap) -> bool {
    headers.get(OPERATION).is_some_and(|operation| matches!(operation.as_str(), "DEL" | "PURGE"))
}

/// Reads the newest message of every subject that matches, as it was when this began, and gives each to `each`.
/// Says how many there were. The broker holds back when they are not taken fast enough, so memory is bounded by the
/// connection's subscription capacity. Makes a consumer that goes away with the connection; agents may not.
///
/// # Errors
///
/// When the broker does not answer; some may have been given to `each` then.
pub async fn read_all(
    jetstream: &Context,
    stream: &str,
    subject: &str,
    mut each: impl FnMut(Entry),
) -> Result<u64, KvError> {
    fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(stream: &str) -> impl Fn(E) -> KvError {
        move |source| KvError::NotListed { stream: stream.to_owned(), source: source.into() }
    }
    let config = push::OrderedConfig {
        deliver_subject: jetstream.client().new_inbox(),
        filter_subject: subject.to_owned(),
        deliver_policy: DeliverPolicy::LastPerSubject,
        ..push::OrderedConfig::default()
    };
    let consumer = jetstream.create_consumer_on_stream(config, stream).await.map_err(failed(stream))?;
    let mut count = 0;
    if consumer.cached_info().num_pending == 0 {
        return Ok(count);
    }
    let mut messages = consumer.messages().await.map_err(failed(stream))?;
    while let Some(message) = messages.next().await {
        let message = message.map_err(failed(stream))?;
        let info = message.info().map_err(failed(stream))?;
        let (sequence, stored, pending) =
            (info.stream_sequence, info.published.unix_timestamp(), info.pending);
        let message = message.message;
        if !message.headers.as_ref().is_some_and(is_deleted) {
            count += 1;
            each(Entry { subject: message.subject.to_string(), sequence, stored, value: message.payload });
        }
        if pending == 0 {
            break;
        }
    }
    Ok(count)
}

/// Tells of new values of a subject while the connection stands. What is written while it is broken is not told:
/// [`get`] after each [`super::connection::BrokerEvent::Connected`].
#[derive(Debug)]
pub struct Watch {
    subscription: Subscriber,
}

impl Watch {
    /// The next new value; `None` when the connection has ended for good. Deleting an entry is not told.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            let message = self.subscription.next().await?;
            if !message.headers.as_ref().is_some_and(is_deleted) {
                return Some(message.payload);
            }
        }
    }
}

/// Watches a subject. [`get`] on the same connection after this: the broker reads in order, so what `get` does not
/// find yet is told.
///
/// # Errors
///
/// When the connection has ended.
pub async fn watch(jetstream: &Context, subject: &str) -> Result<Watch, KvError> {
    let subscription = jetstream
        .client()
        .subscribe(subject.to_owned())
        .await
        .map_err(|source| KvError::NotWatched { subject: subject.to_owned(), source })?;
    Ok(Watch { subscription })
}
