//! One simulated agent: facts, a key and what it has run. It decides and answers with the code of real agents.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::value::RawValue;
use vigie_benchmark::BenchResult;
use vigie_fleet::admission::{Admitted, Refused, Situation, decide};
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::answer::{Answer, AnswerStatus, Asked, AuditRecord, OperationAnswer, Purpose, VERSION};
use vigie_fleet::collect::cut;
use vigie_fleet::facts::Facts;
use vigie_fleet::heartbeat::{self, Heartbeat, Life};
use vigie_fleet::policy::Policy;
use vigie_fleet::predicate::Target;
use vigie_fleet::replay_log::ReplayLog;
use vigie_protocol::names::{ActionId, AgentId};

/// What a module answers: a search that found one file, 256 bytes.
const RESULT: &str = r#"{"foundanything":true,"success":true,"elements":{"s1":[{"file":"/etc/passwd","search":{"path":["/etc"],"name":["passwd"]},"fileinfo":{"size":1834,"mode":"-rw-r--r--","lastmodified":"2026-01-05 09:11:42.1 +0000 UTC"}}]},"statistics":null,"errors":null     }"#;

/// Counted like a code of a refusal: the action does not run.
const REPLAY_LOG_FAILED: &str = "replay_log_failed";

/// The name of a simulated agent.
pub(crate) fn name(number: u32) -> AgentId {
    format!("sim-{number}").parse().expect("letters, a hyphen and digits are a name")
}

/// Its facts, such as a server of a mixed fleet has.
pub(crate) fn facts(number: u32) -> Facts {
    let environment = ["prod", "test", "stage", "dev"][number as usize % 4];
    let [_, high, middle, low] = number.to_be_bytes();
    let tags = [("env", environment), ("half", ["a", "b"][number as usize % 2]), ("site", "north")];
    Facts {
        agent: name(number),
        hostname: format!("web-{number}.example.net"),
        os: "linux".to_owned(),
        os_id: Some("debian".to_owned()),
        os_version: Some(if number.is_multiple_of(3) { "11" } else { "12" }.to_owned()),
        arch: "amd64".to_owned(),
        kernel: "6.1.0-28-amd64".to_owned(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        modules: ["file", "netstat", "timedrift"].map(str::to_owned).to_vec(),
        addresses: vec![[10, high, middle, low].into()],
        tags: tags.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        groups: vec!["web".parse().expect("a plain word is a name")],
    }
}

fn time(now: i64) -> String {
    jiff::Timestamp::from_second(now).unwrap_or_default().to_string()
}

/// What an agent has run.
enum Seen {
    /// Ten thousand agents on one disk would wait for each other's syncs, which agents on ten thousand hosts do not.
    InMemory(BTreeMap<ActionId, i64>),
    /// As a real agent has it, on disk before anything runs.
    OnDisk(ReplayLog),
}

pub(super) struct Agent {
    pub(super) facts: Facts,
    pub(super) key: AgentKey,
    seen: Seen,
}

/// What all agents of a process share.
pub(super) struct Surroundings {
    pub(super) org: String,
    pub(super) policy: Policy,
    /// Whether agents tell the auditors what they run, as real ones do.
    pub(super) audited: bool,
}

/// What an agent sends about an action that it ran.
pub(super) struct Sent {
    /// For the auditors.
    pub(super) audit: Option<Vec<u8>>,
    pub(super) answer: Vec<Message>,
}

/// A message of an answer.
pub(super) struct Message {
    pub(super) action: ActionId,
    pub(super) sealed: Vec<u8>,
}

impl Agent {
    pub(super) fn new(number: u32, key: AgentKey, logs: Option<&Path>, now: i64) -> BenchResult<Self> {
        let seen = match logs {
            None => Seen::InMemory(BTreeMap::new()),
            Some(directory) => Seen::OnDisk(ReplayLog::open(&directory.join(format!("{number}.log")), now)?),
        };
        Ok(Self { facts: facts(number), key, seen })
    }

    /// Decides about an envelope as it arrived, notes the action when it is to be run, and "runs" it. Otherwise the
    /// code of the refusal.
    pub(super) fn take(
        &mut self,
        envelope: &[u8],
        around: &Surroundings,
        now: i64,
    ) -> Result<Sent, &'static str> {
        let situation = Situation { now, org: &around.org, policy: Some(&around.policy), facts: &self.facts };
        let seen = |id: &ActionId, not_after: i64| match &self.seen {
            Seen::InMemory(seen) => seen.contains_key(id),
            Seen::OnDisk(log) => log.has_seen(id, not_after),
        };
        let targeted = |text: &str, facts: &Facts| {
            Target::parse(text).map(|target| target.matches(facts)).map_err(|error| error.to_string())
        };
        let code = |refused: Box<Refused>| refused.refusal.code();
        let admitted = decide(envelope, &situation, seen, targeted).map_err(code)?;
        let admitted = admitted.still_admitted(now, Some(&around.policy)).map_err(code)?;
        let (id, not_after) = (&admitted.action.id, admitted.action.not_after);
        match &mut self.seen {
            Seen::InMemory(seen) => {
                seen.insert(id.clone(), not_after);
            }
            Seen::OnDisk(log) => log.begin(id, not_after, now).map_err(|_| REPLAY_LOG_FAILED)?,
        }
        let audit = around.audited.then(|| self.audit(&admitted, now));
        Ok(Sent { audit, answer: self.answer(&admitted, now) })
    }

    fn audit(&self, admitted: &Admitted, now: i64) -> Vec<u8> {
        let record = AuditRecord {
            v: VERSION,
            agent: self.facts.agent.clone(),
            time: time(now),
            action: Some(admitted.action.id.clone()),
            outcome: "accepted".to_owned(),
            signers: admitted.signers.clone(),
            asked: Some(Box::new(Asked::of(&admitted.action))),
            message: None,
            repeated: 0,
            dropped: 0,
        };
        let text = serde_json::to_string(&record).expect("a record is strings and numbers");
        let sealed = self.key.seal(Purpose::Audit, text).expect("a record is below the limit of seals");
        serde_json::to_vec(&sealed).expect("a seal is two strings")
    }

    fn answer(&self, admitted: &Admitted, now: i64) -> Vec<Message> {
        let operations = admitted.action.ops.iter().map(|operation| OperationAnswer {
            module: operation.module.clone(),
            result: RawValue::from_string(RESULT.to_owned()).ok(),
            code: None,
            error: None,
        });
        let answer = Answer {
            status: AnswerStatus::Ok,
            code: None,
            message: None,
            hostname: self.facts.hostname.clone(),
            time: time(now),
            operations: operations.collect(),
        };
        let text = serde_json::to_string(&answer).expect("an answer is strings and JSON");
        let parts = cut(&admitted.action.id, &self.facts.agent, &text);
        parts
            .into_iter()
            .map(|part| {
                let text = serde_json::to_string(&part).expect("a part is strings and numbers");
                let sealed =
                    self.key.seal(Purpose::Answer, text).expect("parts are below the limit of seals");
                Message {
                    sealed: serde_json::to_vec(&sealed).expect("a seal is two strings"),
                    action: part.id,
                }
            })
            .collect()
    }

    /// The sign of life, with the facts, as an agent stores it.
    pub(super) fn sealed_facts(&self) -> Vec<u8> {
        let heartbeat = Heartbeat {
            v: heartbeat::VERSION,
            sent: jiff::Timestamp::now().as_second(),
            live: super::LIVE.to_owned(),
            life: Life::default(),
            twice: false,
            copied: false,
            reverted: false,
            alerts: None,
            standing: Vec::new(),
            facts: self.facts.clone(),
        };
        let text = serde_json::to_string(&heartbeat).expect("facts are strings");
        let sealed = self.key.seal(Purpose::Facts, text).expect("facts are below the limit of seals");
        serde_json::to_vec(&sealed).expect("a seal is two strings")
    }
}
