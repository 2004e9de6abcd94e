//! The streams of a fleet: what they keep, and making them so.
//!
//! Agents, investigators and enrollers write to them, so each stream bounds what one subject may hold: whoever
//! floods his own subject pushes out what is his own. What one host can fill is its subjects times messages times
//! their size; the bound of the whole stream must be larger than that for as many hosts as may be taken at once.
//! Nothing that lets a writer reach other messages is switched on: no roll-up, no times to live, no schedules, no
//! counters, no batches, and no ids (the window for them cannot be zero; it is as short as it may be).

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::client::Client;
use super::stored::{self, StoredError};
use crate::subjects::{
    ALERTS, ASK, AUDIT, ENROL, EVERY_ALERT, EVERY_ANSWER, EVERY_ASK, EVERY_AUDIT, EVERY_ENROLMENT,
    EVERY_FACTS, EVERY_JOIN, EVERY_JOINED, EVERY_RENEWAL, EVERY_STANDING, FACTS, JOIN, JOINED, POLICY,
    POLICY_SUBJECT, RENEW, RESULTS, STANDING,
};

/// How long an agent counts as there after a sign of life: three of them, one a minute, each a fifth late.
pub const PRESENCE_AGE: Duration = Duration::from_secs(3 * 72);

/// How long questions are kept: the longest window that an action may have, and an hour for clocks and late readers.
pub(crate) const ASKS_AGE: Duration = Duration::from_secs(25 * 3600);

/// How long standing questions are kept: their longest life, and a day.
pub(crate) const STANDING_AGE: Duration = Duration::from_secs(91 * 24 * 3600);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The shortest window in which a server looks for messages with the same id. Nobody sends ids; an id of an attacker
/// is remembered no longer than this.
const DEDUPLICATION: Duration = Duration::from_millis(100);

/// Versions of the policy that are kept: what does not count, because nobody signed it, hides none that does.
pub const POLICY_VERSIONS: usize = 8;

/// Versions of an enrolment that are kept.
pub const ENROLMENT_VERSIONS: usize = 8;

/// Versions of an agent's facts that are kept.
pub const FACTS_VERSIONS: usize = 2;

/// How long a request to join is kept. A host that waits asks again before that.
pub(crate) const JOIN_AGE: Duration = DAY;

/// Requests to join by one token that are kept: with one token for ten thousand hosts, all of them at once.
pub(crate) const JOIN_REQUESTS: usize = 10_000;

/// Messages of an agent's answers that are kept in each slot.
pub const ANSWER_MESSAGES: usize = 64;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Most bytes that each stream keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamSizes {
    /// Questions. When full, new ones are refused: none that is still wanted is forgotten.
    pub ask: u64,
    /// Standing questions. When full, new ones are refused.
    pub standing: u64,
    /// Answers. When full, the oldest go.
    pub results: u64,
    /// Alerts. When full, the oldest go.
    pub alerts: u64,
    /// What agents ran and refused. When full, the oldest goes.
    pub audit: u64,
    /// Facts and signs of life. When full, those of hosts that are silent for longest go.
    pub facts: u64,
    /// The policy.
    pub policy: u64,
    /// Enrolled keys. When full, new ones are refused.
    pub enrol: u64,
    /// Requests to join. When full, new ones are refused, also by a token that has used up its part.
    pub join: u64,
    /// Requests to renew a login or certificate. When full, the oldest go.
    pub renew: u64,
    /// What enrollers answered to both. When full, the oldest go.
    pub joined: u64,
    /// On how many servers of a cluster each stream lies, 1 to 5.
    pub replicas: u8,
}

/// For ten thousand agents on one broker: 16 GiB of disk at most.
impl Default for StreamSizes {
    fn default() -> Self {
        Self {
            ask: 768 * MIB,
            standing: 64 * MIB,
            results: 6144 * MIB,
            alerts: 6144 * MIB,
            audit: 1024 * MIB,
            facts: 1024 * MIB,
            policy: 16 * MIB,
            enrol: 512 * MIB,
            join: 256 * MIB,
            renew: 128 * MIB,
            joined: 256 * MIB,
            replicas: 1,
        }
    }
}

/// What was done about a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// There was none.
    Created,
    /// Its settings were others.
    Updated,
    /// It was as it should be.
    Unchanged,
}

/// Why a stream is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum StreamsError {
    /// Its settings cannot be read.
    #[error(
        "cannot read the settings of the stream {stream}: check that JetStream is enabled in the broker and that this is an administrator's connection"
    )]
    Unreadable {
        /// The stream.
        stream: String,
        /// Why.
        #[source]
        source: StoredError,
    },
    /// It cannot be made or changed.
    #[error(
        "cannot create or change the stream {stream}: check that the broker has space for {bytes} bytes (max_file) and that this is an administrator's connection"
    )]
    Unwritable {
        /// The stream.
        stream: String,
        /// Most bytes that it shall keep.
        bytes: u64,
        /// Why.
        #[source]
        source: StoredError,
    },
}

/// What is peculiar to a stream.
struct Stream {
    name: &'static str,
    subject: &'static str,
    bytes: u64,
    age: Duration,
    /// Messages of each subject.
    per_subject: usize,
    /// Largest message in bytes.
    message: u64,
    /// What happens when the stream is full, and when a subject is: the new one is refused, or an old one goes.
    discard: &'static str,
    refuse_per_subject: bool,
}

fn streams(sizes: &StreamSizes) -> [Stream; 11] {
    let stream = |name, subject, bytes, per_subject, message| Stream {
        name,
        subject,
        bytes,
        age: Duration::ZERO,
        per_subject,
        message,
        discard: "old",
        refuse_per_subject: false,
    };
    [
        Stream {
            age: ASKS_AGE,
            discard: "new",
            refuse_per_subject: true,
            ..stream(ASK, EVERY_ASK, sizes.ask, 200, 800 * KIB)
        },
        Stream {
            age: STANDING_AGE,
            discard: "new",
            refuse_per_subject: true,
            ..stream(STANDING, EVERY_STANDING, sizes.standing, 128, 80 * KIB)
        },
        Stream { age: DAY * 7, ..stream(RESULTS, EVERY_ANSWER, sizes.results, ANSWER_MESSAGES, 512 * KIB) },
        Stream { age: DAY * 30, ..stream(ALERTS, EVERY_ALERT, sizes.alerts, 5_000, 64 * KIB) },
        Stream { age: DAY * 365, ..stream(AUDIT, EVERY_AUDIT, sizes.audit, 2_000, 16 * KIB) },
        stream(FACTS, EVERY_FACTS, sizes.facts, FACTS_VERSIONS, 192 * KIB),
        Stream { discard: "new", ..stream(POLICY, POLICY_SUBJECT, sizes.policy, POLICY_VERSIONS, MIB) },
        Stream {
            discard: "new",
            ..stream(ENROL, EVERY_ENROLMENT, sizes.enrol, ENROLMENT_VERSIONS, 20 * KIB)
        },
        Stream {
            age: JOIN_AGE,
            discard: "new",
            refuse_per_subject: true,
            ..stream(JOIN, EVERY_JOIN, sizes.join, JOIN_REQUESTS, 6 * KIB)
        },
        Stream { age: DAY * 7, ..stream(RENEW, EVERY_RENEWAL, sizes.renew, 2, 6 * KIB) },
        Stream { age: DAY * 30, ..stream(JOINED, EVERY_JOINED, sizes.joined, 2, 16 * KIB) },
    ]
}

impl Stream {
    fn settings(&self, replicas: u8) -> Map<String, Value> {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let settings = json!({
            "name": self.name,
            "subjects": [self.subject],
            "retention": "limits",
            "storage": "file",
            "discard": self.discard,
            "discard_new_per_subject": self.refuse_per_subject,
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": self.bytes,
            "max_age": nanoseconds(self.age),
            "max_msgs_per_subject": self.per_subject,
            "max_msg_size": self.message,
            "duplicate_window": nanoseconds(DEDUPLICATION),
            "num_replicas": replicas,
            "allow_direct": true,
            "allow_rollup_hdrs": false,
        });
        let Value::Object(settings) = settings else { return Map::new() };
        settings
    }
}

/// What one host, or one investigator, can fill of a stream at most, in bytes.
#[must_use]
pub fn quota(stream: &str) -> Option<u64> {
    let found = streams(&StreamSizes::default()).into_iter().find(|known| known.name == stream)?;
    let subjects = if stream == RESULTS { u64::from(crate::subjects::SLOTS) } else { 1 };
    Some(subjects * found.per_subject as u64 * found.message)
}

/// Brings what the broker has to what is wanted, in the settings that this file is about: a newer broker has more of
/// them. `None` when nothing differs.
fn merged(found: &Map<String, Value>, wanted: &Map<String, Value>) -> Option<Map<String, Value>> {
    // Servers leave out what is false.
    let differs = |(name, value): (&String, &Value)| found.get(name).unwrap_or(&Value::Bool(false)) != value;
    if !wanted.iter().any(differs) {
        return None;
    }
    let mut merged = found.clone();
    merged.extend(wanted.clone());
    Some(merged)
}

/// Makes every stream that is missing, and changes those with other settings. Does nothing when all is as it should
/// be. Needs an administrator's connection.
///
/// # Errors
///
/// At the first stream that cannot be brought to its settings; those before it stay changed.
pub async fn ensure(client: &Client, sizes: &StreamSizes) -> Result<Vec<(String, Change)>, StreamsError> {
    let mut changes = Vec::new();
    for stream in streams(sizes) {
        let (name, wanted) = (stream.name, stream.settings(sizes.replicas));
        let unwritable =
            |source| StreamsError::Unwritable { stream: name.to_owned(), bytes: stream.bytes, source };
        let found = stored::api(client, &format!("$JS.API.STREAM.INFO.{name}"), &Value::Null).await;
        let change = match found {
            Ok(info) => {
                let found = info["config"].as_object().cloned().unwrap_or_default();
                match merged(&found, &wanted) {
                    None => Change::Unchanged,
                    Some(changed) => {
                        let subject = format!("$JS.API.STREAM.UPDATE.{name}");
                        stored::api(client, &subject, &Value::Object(changed)).await.map_err(unwritable)?;
                        Change::Updated
                    }
                }
            }
            Err(error) if error.is_no_stream() => {
                let subject = format!("$JS.API.STREAM.CREATE.{name}");
                stored::api(client, &subject, &Value::Object(wanted)).await.map_err(unwritable)?;
                Change::Created
            }
            Err(source) => return Err(StreamsError::Unreadable { stream: name.to_owned(), source }),
        };
        changes.push((name.to_owned(), change));
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stream_bounds_what_one_writer_can_fill() {
        let sizes = StreamSizes::default();
        for stream in streams(&sizes) {
            let quota = quota(stream.name).unwrap();
            assert!(quota * 4 <= stream.bytes || stream.name == POLICY, "{}: {quota}", stream.name);
            assert!(stream.age.is_zero() || DEDUPLICATION <= stream.age);
            assert!(stream.name != AUDIT || crate::answer::MAX_AUDIT_BYTES as u64 + KIB <= stream.message);
            let settings = stream.settings(1);
            for forbidden in [
                "allow_rollup_hdrs",
                "allow_msg_ttl",
                "allow_msg_schedules",
                "allow_msg_counter",
                "allow_atomic",
            ] {
                assert!(
                    settings.get(forbidden).is_none_or(|value| *value == Value::Bool(false)),
                    "{forbidden}"
                );
            }
        }
        assert!(quota(POLICY).unwrap() <= sizes.policy);
    }

    #[test]
    fn what_an_operator_set_beside_ours_stays() {
        let wanted = streams(&StreamSizes::default())[0].settings(1);
        let mut found = wanted.clone();
        found.remove("allow_rollup_hdrs");
        found.insert("placement".to_owned(), json!({"tags": ["ssd"]}));
        assert_eq!(merged(&found, &wanted), None);
        found.insert("max_bytes".to_owned(), json!(7));
        let merged = merged(&found, &wanted).unwrap();
        assert_eq!(
            (&merged["placement"]["tags"][0], &merged["max_bytes"]),
            (&json!("ssd"), &wanted["max_bytes"])
        );
    }
}
