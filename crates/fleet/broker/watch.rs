//! Who is connected to the servers and how much they send, as the servers say themselves. For whoever holds the keys of
//! the system account. A hint and no proof: a broker that was taken may lie.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::client::{Client, Outgoing, RequestError, SendError};
use super::stored::StoredError;

/// Where servers tell of their connections, and of themselves.
pub(super) const CONNECTIONS: &str = "$SYS.REQ.SERVER.PING.CONNZ";
/// See [`CONNECTIONS`].
pub(super) const SERVERS: &str = "$SYS.REQ.SERVER.PING.VARZ";

/// How long servers may take to answer, the slowest of a cluster.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// How long a further server of a cluster may take after one has answered.
const FURTHER_WITHIN: Duration = Duration::from_millis(300);

/// Connections that are told of in one message.
const PAGE: usize = 1024;

/// Most pages: all connections that a server takes.
const MAX_PAGES: usize = 64;

/// A connection to a server.
#[derive(Debug, Clone, Deserialize)]
struct Told {
    #[serde(default)]
    ip: String,
    #[serde(default)]
    account: String,
    #[serde(default)]
    authorized_user: String,
    #[serde(default)]
    in_msgs: u64,
    #[serde(default)]
    in_bytes: u64,
}

/// What one user has at all servers together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Use {
    /// Its connections.
    pub connections: usize,
    /// Messages that it has sent by them.
    pub messages: u64,
    /// Bytes that it has sent by them.
    pub bytes: u64,
    /// How many come from which address.
    pub addresses: BTreeMap<String, usize>,
}

/// Public keys of an account and of a user of it; empty for connections without a login.
pub type User = (String, String);

/// What servers told at one time.
#[derive(Debug)]
pub struct Snapshot {
    /// When.
    pub at: Instant,
    /// By user.
    pub users: BTreeMap<User, Use>,
    /// Connections at the fullest server, and how many it takes.
    pub fullest: (u64, u64),
}

impl Snapshot {
    /// Connections of an account's users.
    #[must_use]
    pub fn of_account(&self, account: &str) -> usize {
        self.users.iter().filter(|((of, _), _)| of == account).map(|(_, one)| one.connections).sum()
    }

    /// Messages and bytes a second that each user has sent since an earlier look.
    pub fn rates<'s>(&'s self, before: &'s Self) -> impl Iterator<Item = (&'s User, f64, f64)> {
        let seconds = self.at.duration_since(before.at).as_secs_f64().max(0.001);
        self.users.iter().map(move |(user, now)| {
            let was = before.users.get(user);
            let (messages, bytes) = was.map_or((0, 0), |was| (was.messages, was.bytes));
            #[expect(clippy::cast_precision_loss, reason = "a rate is for people")]
            let rate = |now: u64, was: u64| now.saturating_sub(was) as f64 / seconds;
            (user, rate(now.messages, messages), rate(now.bytes, bytes))
        })
    }
}

/// Asks all servers.
///
/// # Errors
///
/// When none answers.
pub async fn look(client: &Client) -> Result<Snapshot, StoredError> {
    let mut users: BTreeMap<User, Use> = BTreeMap::new();
    let at = Instant::now();
    for page in 0..MAX_PAGES {
        let body = json!({"auth": true, "limit": PAGE, "offset": page * PAGE, "state": 0});
        let mut more = false;
        for answer in ask(client, CONNECTIONS, &body).await? {
            let told: Vec<Told> =
                serde_json::from_value(answer["data"]["connections"].clone()).unwrap_or_default();
            let total = answer["data"]["total"].as_u64().unwrap_or(0);
            more |= u64::try_from((page + 1) * PAGE).is_ok_and(|seen| seen < total) && !told.is_empty();
            for one in told {
                let own = users.entry((one.account, one.authorized_user)).or_default();
                own.connections += 1;
                own.messages = own.messages.saturating_add(one.in_msgs);
                own.bytes = own.bytes.saturating_add(one.in_bytes);
                *own.addresses.entry(one.ip).or_default() += 1;
            }
        }
        if !more {
            break;
        }
    }
    let number = |answer: &Value, what: &str| answer["data"][what].as_u64().unwrap_or(0);
    let servers = ask(client, SERVERS, &json!({})).await?;
    let fullest = servers
        .iter()
        .map(|answer| (number(answer, "connections"), number(answer, "max_connections")))
        .max_by(|(one, _), (other, _)| one.cmp(other))
        .unwrap_or((0, 0));
    Ok(Snapshot { at, users, fullest })
}

/// The answers of all servers to one question.
async fn ask(client: &Client, subject: &str, body: &Value) -> Result<Vec<Value>, StoredError> {
    let what = || subject.to_owned();
    let failed = |source| StoredError::Request { what: what(), source };
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(&inbox).map_err(|error| failed(SendError::from(error).into()))?;
    let payload = body.to_string();
    let message =
        Outgoing { subject, reply: Some(&inbox), payload: payload.as_bytes(), ..Outgoing::default() };
    client.publish(message).await.map_err(|error| failed(error.into()))?;
    let mut found = Vec::new();
    let mut until = Instant::now() + ANSWER_WITHIN;
    while let Ok(Some(answer)) = timeout_at(until, answers.next()).await {
        if answer.status.is_some() {
            return Err(failed(RequestError::NoResponders));
        }
        found.extend(serde_json::from_slice::<Value>(&answer.payload));
        until = Instant::now() + FURTHER_WITHIN;
    }
    if found.is_empty() { Err(failed(RequestError::TimedOut(ANSWER_WITHIN))) } else { Ok(found) }
}
