//! The streams and buckets of a fleet: what they keep, and making them so.
//!
//! Buckets are made as streams with a bucket's settings: the call that makes buckets asks for the account's limits
//! first, and fails on the answer of nats-server 2.9.10.

use std::time::Duration;

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode};

use crate::subjects::{ACTIONS, ALERTS, AUDIT, KV_AGENTS, KV_ENROL, KV_POLICY, KV_PRESENCE, RESULTS};

/// How often an agent shows that it is there; agents spread it by a fifth either way.
pub const PRESENCE_BEAT: Duration = Duration::from_secs(60);

/// How long an agent counts as there after a sign of life: three beats, each as late as it may be.
pub const PRESENCE_AGE: Duration = Duration::from_secs(3 * 72);

/// How long actions are kept: the longest window that an action may have, and an hour for clocks and late readers.
pub const ACTIONS_AGE: Duration = Duration::from_secs(25 * 3600);

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long a second message with the same id is known as a double. Agents send again what was acknowledged less
/// than five minutes before the connection broke.
const RESEND_DEDUPLICATION: Duration = Duration::from_secs(600);

/// An action is sent again within seconds or not at all.
const ACTION_DEDUPLICATION: Duration = Duration::from_secs(120);

const MIB: u64 = 1024 * 1024;

/// Most bytes that each stream and bucket keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamSizes {
    /// Actions. When full, new ones are refused: none that is still wanted is forgotten.
    pub actions: u64,
    /// Answers. When full, the oldest go.
    pub results: u64,
    /// Alerts. When full, the oldest go.
    pub alerts: u64,
    /// What agents ran and refused. When full, the oldest goes.
    pub audit: u64,
    /// Facts, one entry an agent. When full, new ones are refused.
    pub agents: u64,
    /// Signs of life, one entry an agent, in memory. When full, new ones are refused.
    pub presence: u64,
    /// The policy.
    pub policy: u64,
    /// Enrolled keys, one entry an agent. When full, new ones are refused.
    pub enrol: u64,
}

/// For ten thousand agents on one broker: 9.3 GiB of disk at most, 32 MiB of memory.
impl Default for StreamSizes {
    fn default() -> Self {
        Self {
            actions: 256 * MIB,
            results: 4096 * MIB,
            alerts: 4096 * MIB,
            audit: 512 * MIB,
            agents: 256 * MIB,
            presence: 32 * MIB,
            policy: 16 * MIB,
            enrol: 128 * MIB,
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
        "cannot read the settings of the stream {stream}: is JetStream switched on in the broker, and is this an administrator's connection?"
    )]
    Unreadable {
        /// The stream.
        stream: String,
        /// Why.
        #[source]
        source: async_nats::jetstream::context::GetStreamError,
    },
    /// It cannot be made or changed.
    #[error(
        "cannot make or change the stream {stream}: does the broker have room for {bytes} bytes (max_mem, max_file), and is this an administrator's connection?"
    )]
    Unwritable {
        /// The stream.
        stream: String,
        /// Most bytes that it shall keep.
        bytes: i64,
        /// Why.
        #[source]
        source: async_nats::jetstream::context::CreateStreamError,
    },
}

fn bytes(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn stream(name: &str, subject: &str, size: u64, age: Duration, deduplication: Duration) -> Config {
    Config {
        name: name.to_owned(),
        subjects: vec![subject.to_owned()],
        max_bytes: bytes(size),
        max_messages: -1,
        max_messages_per_subject: -1,
        max_age: age,
        max_consumers: -1,
        max_message_size: -1,
        duplicate_window: deduplication,
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        storage: StorageType::File,
        num_replicas: 1,
        allow_direct: true,
        ..Config::default()
    }
}

/// A bucket as the clients of NATS know it: the newest message of each subject.
fn bucket(name: &str, size: u64) -> Config {
    let subject = format!("$KV.{}.>", name.trim_start_matches("KV_"));
    Config {
        max_messages_per_subject: 1,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        ..stream(name, &subject, size, Duration::ZERO, ACTION_DEDUPLICATION)
    }
}

/// The settings of all streams and buckets.
#[must_use]
pub fn settings(sizes: &StreamSizes) -> Vec<Config> {
    let actions = Config {
        discard: DiscardPolicy::New,
        ..stream(ACTIONS, "vigie.act.>", sizes.actions, ACTIONS_AGE, ACTION_DEDUPLICATION)
    };
    let presence =
        Config { storage: StorageType::Memory, max_age: PRESENCE_AGE, ..bucket(KV_PRESENCE, sizes.presence) };
    vec![
        actions,
        stream(RESULTS, "vigie.res.>", sizes.results, DAY * 7, RESEND_DEDUPLICATION),
        stream(ALERTS, "vigie.alert.>", sizes.alerts, DAY * 30, RESEND_DEDUPLICATION),
        stream(AUDIT, "vigie.audit.*", sizes.audit, DAY * 365, RESEND_DEDUPLICATION),
        bucket(KV_AGENTS, sizes.agents),
        presence,
        bucket(KV_POLICY, sizes.policy),
        bucket(KV_ENROL, sizes.enrol),
    ]
}

/// Brings what the broker has to what is wanted, in the settings that this file is about: a newer broker has more of
/// them, and an operator may have set replicas. `None` when nothing differs.
fn merged(found: &Config, wanted: &Config) -> Option<Config> {
    let merged = Config {
        subjects: wanted.subjects.clone(),
        max_bytes: wanted.max_bytes,
        max_messages_per_subject: wanted.max_messages_per_subject,
        max_age: wanted.max_age,
        duplicate_window: wanted.duplicate_window,
        discard: wanted.discard,
        allow_direct: wanted.allow_direct,
        allow_rollup: wanted.allow_rollup,
        ..found.clone()
    };
    (merged != *found).then_some(merged)
}

/// Makes every stream and bucket that is missing, and changes those with other settings. Does nothing when all is
/// as it should be. Needs an administrator's connection.
///
/// # Errors
///
/// At the first stream that cannot be brought to its settings; those before it stay changed.
pub async fn ensure(jetstream: &Context, sizes: &StreamSizes) -> Result<Vec<(String, Change)>, StreamsError> {
    let mut changes = Vec::new();
    for wanted in settings(sizes) {
        let name = wanted.name.clone();
        let max_bytes = wanted.max_bytes;
        let unwritable = |source| StreamsError::Unwritable { stream: name.clone(), bytes: max_bytes, source };
        let change = match jetstream.get_stream(&name).await {
            Ok(found) => match merged(&found.cached_info().config, &wanted) {
                None => Change::Unchanged,
                Some(changed) => {
                    jetstream.update_stream(changed).await.map_err(unwritable)?;
                    Change::Updated
                }
            },
            Err(error) if is_missing(&error.kind()) => {
                jetstream.create_stream(wanted).await.map_err(unwritable)?;
                Change::Created
            }
            Err(source) => return Err(StreamsError::Unreadable { stream: name, source }),
        };
        changes.push((name, change));
    }
    Ok(changes)
}

fn is_missing(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stream_has_a_bound_and_its_own_subjects() {
        let settings = settings(&StreamSizes::default());
        assert_eq!(settings.len(), 8);
        for config in &settings {
            assert!(config.max_bytes > 0, "{}", config.name);
            assert!(config.allow_direct, "{}", config.name);
            assert!(config.max_age.is_zero() || config.duplicate_window <= config.max_age, "{}", config.name);
            let others = settings.iter().filter(|other| other.subjects == config.subjects);
            assert_eq!(others.count(), 1, "{}", config.name);
        }
    }

    #[test]
    fn buckets_keep_the_newest_of_each_subject_and_are_named_after_it() {
        for config in settings(&StreamSizes::default()).iter().filter(|config| config.name.starts_with("KV_"))
        {
            assert_eq!(config.max_messages_per_subject, 1);
            assert_eq!(config.subjects, [format!("$KV.{}.>", &config.name[3..])]);
        }
    }

    #[test]
    fn what_an_operator_set_beside_ours_stays() {
        let wanted = settings(&StreamSizes::default()).remove(0);
        assert_eq!(merged(&wanted, &wanted), None);
        let found = Config { num_replicas: 3, max_bytes: 7, ..wanted.clone() };
        let merged = merged(&found, &wanted).unwrap();
        assert_eq!((merged.num_replicas, merged.max_bytes), (3, wanted.max_bytes));
    }
}
