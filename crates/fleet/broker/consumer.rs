//! Groups of forwarders: durable consumers of the alerts, which several programs of one name share.
//!
//! An administrator makes a consumer; it has no delivery subject, so it is no right to write anywhere. A forwarder asks
//! it for alerts, one a request, and acknowledges each when whoever it passes them on to has it. What is not
//! acknowledged in time goes to another instance: at least once. The broker keeps the place.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::client::wire::BadText;
use super::client::{Client, Outgoing, RequestError, SendError, Subscription};
use super::permissions::NEXT_ALERTS;
use super::stored::{self, StoredError};
use crate::subjects::{ALERTS, EVERY_ALERT};
use vigie_protocol::names::AgentId;

/// How long an instance may keep an alert before another one gets it. It says in time that it still works on it.
pub const ACK_WAIT: Duration = Duration::from_secs(30);

/// Alerts that all instances of a group may hold at once.
const MAX_HELD: u64 = 50_000;

/// Requests on their way at once.
const WINDOW: usize = 64;

/// How much longer than the broker an instance waits for an answer.
const SLACK: Duration = Duration::from_secs(5);

/// Where a new group begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// With the oldest alert that the broker has.
    Oldest,
    /// With what comes from now on.
    New,
}

/// Makes the consumer of a group, or leaves it as it is. Needs an administrator's connection.
///
/// # Errors
///
/// When the broker does not respond, or there is one with other settings.
pub async fn ensure(client: &Client, group: &AgentId, begin: Begin) -> Result<(), StoredError> {
    let exists = stored::api(client, &format!("$JS.API.CONSUMER.INFO.{ALERTS}.{group}"), &Value::Null).await;
    if exists.is_ok() {
        return Ok(());
    }
    let begin = match begin {
        Begin::Oldest => "all",
        Begin::New => "new",
    };
    let settings = json!({
        "stream_name": ALERTS,
        "config": {
            "durable_name": group,
            "description": "vigie fleet forward",
            "deliver_policy": begin,
            "ack_policy": "explicit",
            "ack_wait": u64::try_from(ACK_WAIT.as_nanos()).unwrap_or(u64::MAX),
            "max_deliver": -1,
            "max_ack_pending": MAX_HELD,
            "filter_subject": EVERY_ALERT,
            "replay_policy": "instant",
        },
    });
    stored::api(client, &format!("$JS.API.CONSUMER.DURABLE.CREATE.{ALERTS}.{group}"), &settings).await?;
    Ok(())
}

/// Deletes the consumer of a group, with its place. Needs an administrator's connection.
///
/// # Errors
///
/// When the broker does not respond, or there is none.
pub async fn remove(client: &Client, group: &AgentId) -> Result<(), StoredError> {
    stored::api(client, &format!("$JS.API.CONSUMER.DELETE.{ALERTS}.{group}"), &Value::Null).await.map(drop)
}

/// An alert that a group was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The sealed alert, as its agent sent it.
    pub value: Bytes,
    /// Where it was stored: `vigie.alert.AGENT`; a broker may show the inbox instead.
    pub subject: String,
    /// Its number in the stream.
    pub sequence: u64,
    /// When the broker stored it, in seconds since 1970 (UTC), by the broker's clock.
    pub stored: i64,
    /// It was given to an instance before.
    pub again: bool,
    /// Where it is acknowledged.
    ack: String,
}

/// What a forwarder says of an alert that it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Whoever it passes alerts on to has it.
    Done,
    /// It works on it.
    Working,
    /// Another instance may have it at once.
    Back,
}

impl Delivery {
    /// Reads `$JS.ACK.STREAM.CONSUMER.TIMES.SEQUENCE.NUMBER.TIME.PENDING`; newer servers put the domain and the account
    /// ahead of the stream.
    fn read(subject: String, value: Bytes, ack: String) -> Option<Self> {
        let tokens: Vec<&str> = ack.split('.').collect();
        let from = if tokens.len() > 9 { 4 } else { 2 };
        let number = |at: usize| tokens.get(from + at)?.parse::<u64>().ok();
        let (times, sequence, nanoseconds) = (number(2)?, number(3)?, number(5)?);
        let stored = i64::try_from(nanoseconds / 1_000_000_000).ok()?;
        Some(Self { value, subject, sequence, stored, again: times > 1, ack })
    }

    /// Tells the broker. Nothing says that it came there: what does not arrive is given out again.
    ///
    /// # Errors
    ///
    /// When nobody is connected.
    pub async fn answer(&self, client: &Client, answer: Answer) -> Result<(), SendError> {
        let word: &[u8] = match answer {
            Answer::Done => b"+ACK",
            Answer::Working => b"+WPI",
            Answer::Back => b"-NAK",
        };
        client.send(&self.ack, word).await
    }
}

/// An instance of a group.
pub struct Member {
    client: Client,
    group: AgentId,
    inbox: String,
    /// Alerts come under the subject on which they were stored, so they are no answers to requests as others are.
    answers: Subscription,
}

impl Member {
    /// An instance with this connection, whose user has the name of the group.
    ///
    /// # Errors
    ///
    /// When its inbox cannot be a subject.
    pub fn new(client: &Client, group: &AgentId) -> Result<Self, BadText> {
        let inbox = client.new_inbox();
        let answers = client.subscribe(&inbox)?;
        Ok(Self { client: client.clone(), group: group.clone(), inbox, answers })
    }

    /// The connection.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Takes the next alerts, at most `most`: waits for the first one as long as `patience`, and for the others not at
    /// all. Empty when none came.
    ///
    /// # Errors
    ///
    /// When the broker does not respond: is it reachable, and is there such a group?
    pub async fn next(&mut self, most: usize, patience: Duration) -> Result<Vec<Delivery>, StoredError> {
        let mut found = Vec::new();
        self.ask(1, Some(patience), &mut found).await?;
        while !found.is_empty() && found.len() < most {
            let count = (most - found.len()).min(WINDOW);
            let wanted = found.len() + count;
            // What came already is worth more than why no more came.
            if self.ask(count, None, &mut found).await.is_err() || found.len() < wanted {
                break;
            }
        }
        found.sort_by_key(|delivery| delivery.sequence);
        Ok(found)
    }

    /// Sends so many requests for one alert each, and takes what is answered.
    async fn ask(
        &mut self,
        count: usize,
        patience: Option<Duration>,
        found: &mut Vec<Delivery>,
    ) -> Result<(), StoredError> {
        let what = format!("group {}", self.group);
        let failed = |source: RequestError| StoredError::Request { what: what.clone(), source };
        let body = match patience {
            Some(patience) => {
                json!({"batch": 1, "expires": u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX)})
            }
            None => json!({"batch": 1, "no_wait": true}),
        };
        let (subject, body) = (format!("{NEXT_ALERTS}.{}", self.group), body.to_string());
        for _ in 0..count {
            let reply = Some(self.inbox.as_str());
            let message =
                Outgoing { subject: &subject, payload: body.as_bytes(), reply, ..Outgoing::default() };
            self.client.publish(message).await.map_err(|error| failed(error.into()))?;
        }
        let within = patience.unwrap_or_default() + SLACK;
        let deadline = Instant::now() + within;
        for _ in 0..count {
            let mut answer = match timeout_at(deadline, self.answers.next()).await {
                Ok(Some(answer)) => answer,
                Ok(None) => return Err(failed(RequestError::Disconnected)),
                Err(_) => return Err(failed(RequestError::TimedOut(within))),
            };
            // Only an alert is to be acknowledged; a status in its headers is its publisher's.
            if let Some(ack) = answer.reply.take_if(|reply| reply.starts_with("$JS.ACK.")) {
                let delivery = Delivery::read(answer.subject, answer.payload, ack);
                found.push(delivery.ok_or_else(|| StoredError::Unreadable { what: what.clone() })?);
                continue;
            }
            match answer.status {
                // 404: there is none; 408: none came in time.
                Some(404 | 408) => {}
                Some(503) => return Err(failed(RequestError::NoResponders)),
                Some(code) => {
                    let description = answer.header("Description").unwrap_or("no reason given").to_owned();
                    let code = code.into();
                    return Err(StoredError::Refused { what, code, status: code, description });
                }
                None => return Err(StoredError::Unreadable { what }),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(ack: &str) -> Option<(u64, i64, bool)> {
        let delivery = Delivery::read(String::new(), Bytes::new(), ack.to_owned())?;
        Some((delivery.sequence, delivery.stored, delivery.again))
    }

    #[test]
    fn an_ack_subject_tells_number_time_and_whether_it_came_before() {
        let time = "1700000000123456789";
        assert_eq!(read(&format!("$JS.ACK.ALERTS.siem.1.42.7.{time}.0")), Some((42, 1_700_000_000, false)));
        let newer = format!("$JS.ACK._.ACCHASH.ALERTS.siem.2.42.7.{time}.0.tok");
        assert_eq!(read(&newer), Some((42, 1_700_000_000, true)));
        for wrong in ["$JS.ACK.ALERTS.siem", "$JS.ACK.ALERTS.siem.x.y.z.1.0", "", "a.b.c.d.e.f.g.h.i"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
