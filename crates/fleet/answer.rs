//! What agents send back: answers to actions and alerts, signed with the agent's own key over their exact bytes.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::Digest as _;

use crate::action::{Action, Operation};
use crate::standing::is_zero;
use vigie_protocol::names::{ActionId, AgentId};

/// Version of what agents send.
pub const VERSION: u8 = 1;

/// Most bytes of an answer's text in one message.
pub(crate) const MAX_PART_BYTES: usize = 256 * 1024;

/// A text and the signature of the agent that sent it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// The exact text that was signed.
    pub text: String,
    /// Ed25519 signature (RFC 8032) over [`signed_bytes`], in base64 with padding.
    pub sig: String,
}

/// What a seal is for. It is part of what is signed: an alert can never be taken for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// An [`AnswerPart`].
    Answer,
    /// A [`FleetAlert`].
    Alert,
    /// A [`crate::heartbeat::Heartbeat`].
    Facts,
    /// An [`AuditRecord`].
    Audit,
    /// A [`crate::join::Request`], by the host's own key.
    Join,
    /// The same, by the key of the token.
    Token,
}

impl Purpose {
    fn label(self) -> &'static str {
        match self {
            Self::Answer => "vigie-answer@v1",
            Self::Alert => "vigie-alert@v1",
            Self::Facts => "vigie-facts@v1",
            Self::Audit => "vigie-audit@v1",
            Self::Join => "vigie-join@v1",
            Self::Token => "vigie-token@v1",
        }
    }
}

/// The bytes that an agent signs: the purpose, a NUL, the text.
#[must_use]
pub fn signed_bytes(purpose: Purpose, text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(purpose.label().len() + 1 + text.len());
    bytes.extend_from_slice(purpose.label().as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// A part of the answer of one agent to one action. The parts' `data`, in the order of `seq`, make the JSON of
/// an [`Answer`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerPart {
    /// Always [`VERSION`].
    pub v: u8,
    /// The action.
    pub id: ActionId,
    /// Who answers.
    pub agent: AgentId,
    /// Number of the part, from 0.
    pub seq: u32,
    /// No part follows.
    pub last: bool,
    /// A piece of the answer's JSON.
    pub data: String,
}

/// How an action went on one agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerStatus {
    /// Every operation was asked and answered.
    Ok,
    /// An operation could not be asked or failed.
    Error,
    /// The agent did not run it; `code` says why.
    Refused,
    /// Time was up.
    Timeout,
    /// The answer was larger than allowed and is cut.
    Truncated,
    /// The agent ended while it ran the action, and does not run it again.
    Interrupted,
}

/// The answer of one agent to one action.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// How it went.
    pub status: AnswerStatus,
    /// Why it was refused: a code of [`crate::admission::Refusal`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The refusal or error in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The agent's host name.
    #[serde(default)]
    pub hostname: String,
    /// When it was done, RFC 3339.
    pub time: String,
    /// One for each operation, in their order; none when it was refused.
    #[serde(default)]
    pub operations: Vec<OperationAnswer>,
}

/// What one module answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OperationAnswer {
    /// The module.
    pub module: String,
    /// Its result, as it gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<RawValue>>,
    /// Why there is no result: a code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An alert on its way to whoever reads the alerts of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetAlert {
    /// Always [`VERSION`].
    pub v: u8,
    /// Whose alert it is.
    pub agent: AgentId,
    /// Which journal of that agent: a new one begins when the old one was deleted.
    pub journal: String,
    /// Its number in that journal. Numbers have no gaps: one that is missing is an alert that is missing.
    pub seq: u64,
    /// When the agent recorded it, RFC 3339.
    pub time: String,
    /// The module.
    pub module: String,
    /// What the module said.
    pub message: String,
    /// Numbers just before this one that the agent gave up, because its disk allowance for alerts was used up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<(u64, u64)>,
    /// The link of the alert that was recorded before this one; absent for the first, and when the agent does not know
    /// it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// In the first alert after the journal got another name: what it continues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<Continued>,
}

/// What a journal was called before: its files came from another machine, or are an older copy, so that another agent
/// may have used the name for other alerts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continued {
    /// The name.
    pub journal: String,
    /// Number of the newest alert under it that the agent knows to be its own.
    pub seq: u64,
}

impl FleetAlert {
    /// A digest of which alert this is: whose, its number and the nanosecond at which it was recorded. The alert after
    /// it names it: two alerts of one number with different links, or one that names another link, were made by two
    /// agents that bear one name. The message is left out, because the same alert can be sent in full and later masked.
    #[must_use]
    pub fn link(&self) -> String {
        let mut hash = sha2::Sha256::new();
        let seq = self.seq.to_string();
        let texts =
            ["vigie-alert-link@v2", self.agent.as_str(), &self.journal, &seq, &self.time, &self.module];
        for text in texts {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        data_encoding::HEXLOWER.encode(&hash.finalize()[..16])
    }
}

/// Largest sealed [`AuditRecord`], in bytes: the stream of records takes 16 KiB.
pub const MAX_AUDIT_BYTES: usize = 15 * 1024;

/// What a seal adds to its text as JSON, in bytes: the signature and the names of the fields, rounded up.
const SEAL_BYTES: usize = 128;

/// Longest parameters of all operations that a record keeps, in bytes of JSON.
const MAX_ASKED_BYTES: usize = 4096;

/// Longest target that a record keeps, in bytes.
const MAX_ASKED_TARGET_BYTES: usize = 1024;

/// The same where its escapes take too much room.
const SHORT_TARGET_BYTES: usize = 128;

/// Most operations that a record keeps.
const MAX_ASKED_OPERATIONS: usize = 32;

/// What an action asked, for auditors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Asked {
    /// What it is for, in the words of whoever asked.
    pub name: String,
    /// Which agents it was for.
    pub target: String,
    /// How many agents it named; absent when the target alone counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<usize>,
    /// The questions. Parameters for which there is no room are left out.
    #[serde(default)]
    pub operations: Vec<Operation>,
    /// For a standing question: seconds between two runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<u32>,
    /// The standing question that it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<ActionId>,
    /// Something was too long for a record, and is not here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shortened: bool,
}

impl Asked {
    /// What an action asks, as much as a record has room for.
    #[must_use]
    pub fn of(action: &Action) -> Self {
        let mut target = action.target.clone();
        target.truncate(target.floor_char_boundary(MAX_ASKED_TARGET_BYTES));
        let mut shortened = target.len() < action.target.len() || action.ops.len() > MAX_ASKED_OPERATIONS;
        let mut room = MAX_ASKED_BYTES;
        let kept = action.ops.iter().take(MAX_ASKED_OPERATIONS).map(|operation| {
            let needed = operation.params.as_ref().map_or(0, |params| params.get().len());
            let fits = needed <= room;
            room -= if fits { needed } else { 0 };
            shortened |= !fits;
            Operation { module: operation.module.clone(), params: operation.params.clone().filter(|_| fits) }
        });
        Self {
            operations: kept.collect(),
            name: action.name.clone(),
            target,
            agents: action.agents.as_ref().map(Vec::len),
            every: action.standing.map(|standing| standing.every),
            stop: action.stop.clone(),
            shortened,
        }
    }
}

/// What an agent did with one action.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Always [`VERSION`].
    pub v: u8,
    /// Who reports.
    pub agent: AgentId,
    /// When, RFC 3339.
    pub time: String,
    /// The action, as far as it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<ActionId>,
    /// `accepted`, or a code of [`crate::admission::Refusal`].
    pub outcome: String,
    /// Names of those whose signatures counted.
    #[serde(default)]
    pub signers: Vec<String>,
    /// What was asked; absent where no signature counted, since anybody may have written it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Box<Asked>>,
    /// The refusal in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Further actions that were refused for the same reason since the last record, of which none was sent.
    #[serde(default)]
    pub repeated: u64,
    /// Records before this one that the broker did not take and that were dropped.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
}

impl AuditRecord {
    /// Leaves out as much of what was asked as it takes for the sealed record to have at most `limit` bytes. What JSON
    /// escapes is escaped twice there, so that texts of a few bytes can be long. Who asked, when, and what became of it
    /// stay in any case; with them it has less than [`MAX_AUDIT_BYTES`].
    #[must_use]
    pub fn within(mut self, limit: usize) -> Self {
        let steps: [fn(&mut Asked); 3] = [
            |asked| asked.operations.iter_mut().for_each(|operation| operation.params = None),
            |asked| asked.target.truncate(asked.target.floor_char_boundary(SHORT_TARGET_BYTES)),
            |asked| asked.operations.clear(),
        ];
        for leave_out in steps {
            if self.sealed_bytes() <= limit {
                break;
            }
            if let Some(asked) = &mut self.asked {
                leave_out(asked);
                asked.shortened = true;
            }
        }
        self
    }

    /// Size of the sealed record, not less than it is.
    fn sealed_bytes(&self) -> usize {
        let text = serde_json::to_string(self).expect("a record is plain data");
        serde_json::to_string(&text).expect("a text is plain data").len() + SEAL_BYTES
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::agent_key::AgentKey;

    /// Texts of up to so many bytes, of characters that JSON writes as they are or escapes in two or six bytes.
    fn words(bytes: usize) -> impl Strategy<Value = String> {
        let any =
            proptest::string::string_regex(&format!("[a\\\\\"\u{1}\u{7f}é]{{0,{}}}", bytes / 2)).unwrap();
        prop_oneof![any, Just("\u{1}".repeat(bytes)), Just("\\".repeat(bytes)), Just("x".repeat(bytes))]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever an action that is read says, what an agent seals of it fits the stream, and says who and when.
        #[test]
        fn a_sealed_record_is_no_larger_than_its_stream_takes(
            name in words(256), target in words(50_000), message in words(1024),
            operations in proptest::collection::vec((words(64), words(6000)), 0..64), limit in 0..=MAX_AUDIT_BYTES,
        ) {
            let operations = operations.into_iter().map(|(module, params)| Operation {
                module, params: Some(serde_json::value::to_raw_value(&params).unwrap()),
            });
            let action = Action {
                v: 1, org: String::new(), id: ActionId::from_random([255; 16]), name: name.clone(), target,
                agents: Some(vec!["a".parse().unwrap()]), not_before: i64::MIN, not_after: i64::MAX,
                ops: operations.collect(), standing: Some(crate::action::Standing { every: u32::MAX }),
                stop: Some(ActionId::from_random([255; 16])), limits: crate::action::Limits::default(),
            };
            let signers: Vec<String> = (0..8).map(|number| number.to_string().repeat(64)).collect();
            let record = AuditRecord {
                v: VERSION, agent: "a".repeat(64).parse().unwrap(), time: "2026-01-01T00:00:00.123456789Z".to_owned(),
                action: Some(action.id.clone()), outcome: "key_not_valid_now".to_owned(), signers: signers.clone(),
                asked: Some(Box::new(Asked::of(&action))), message: Some(message), repeated: u64::MAX, dropped: u64::MAX,
            };
            let sealed = |record: &AuditRecord| {
                let text = serde_json::to_string(record).unwrap();
                serde_json::to_vec(&AgentKey::generate().seal(Purpose::Audit, text).unwrap()).unwrap()
            };
            let whole = sealed(&record).len();

            let fits = record.clone().within(MAX_AUDIT_BYTES);
            let short = record.within(limit);

            prop_assert!(sealed(&fits).len() <= MAX_AUDIT_BYTES);
            prop_assert!(sealed(&short).len() <= sealed(&fits).len());
            for record in [fits, short] {
                prop_assert!(record.asked.as_ref().unwrap().shortened || sealed(&record).len() == whole);
                prop_assert_eq!((&record.signers, &record.asked.unwrap().name), (&signers, &name));
            }
        }
    }

    #[test]
    fn what_was_asked_is_in_the_record_as_far_as_it_has_room() {
        let action = |operations: &str| -> Action {
            serde_json::from_str(&format!(
                r#"{{"v":1,"org":"o","id":"0123456789abcdef0123456789abcdef","name":"case 7","target":"tags.role = 'web'",
                    "agents":["a","b"],"not_before":0,"not_after":9,"ops":[{operations}],"standing":{{"every":60}}}}"#
            ))
            .unwrap()
        };
        let small = r#"{"module":"file","params":{"path":["/etc"]}}"#;
        let long = format!(r#"{{"module":"file","params":"{}"}}"#, "x".repeat(MAX_ASKED_BYTES));

        let whole = Asked::of(&action(small));
        assert_eq!((whole.name.as_str(), whole.target.as_str()), ("case 7", "tags.role = 'web'"));
        assert_eq!((whole.agents, whole.every, whole.shortened), (Some(2), Some(60), false));
        assert_eq!(whole.operations[0].params.as_ref().unwrap().get(), r#"{"path":["/etc"]}"#);

        let shortened = Asked::of(&action(&[&long, small].join(",")));
        assert!(shortened.shortened);
        assert_eq!(shortened.operations.len(), 2);
        assert!(shortened.operations[0].params.is_none() && shortened.operations[1].params.is_some());
        let many = Asked::of(&action(&vec![small; MAX_ASKED_OPERATIONS + 1].join(",")));
        assert!(many.shortened && serde_json::to_string(&many).unwrap().len() < 8192);
    }
}
