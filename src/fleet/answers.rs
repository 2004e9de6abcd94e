//! Answers as they come: from the stream RESULTS, over restarts of the broker, checked and counted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, push};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use vigie_fleet::answer::{Answer, AnswerStatus, Purpose};
use vigie_fleet::broker::connection::Connection;
use vigie_fleet::collect::{Collector, Flag, Taken};
use vigie_fleet::subjects;
use vigie_protocol::names::{ActionId, AgentId};
use vigie_protocol::result::{ModuleResult, Verdict};

use super::inventory::Inventory;
use super::options::Show;

/// Messages that wait to be checked; beyond it the stream waits.
const WAITING: usize = 256;

/// Pause before the stream is asked again after the broker went away.
const RETRY: Duration = Duration::from_millis(300);

/// A message of a stream.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) subject: String,
    pub(crate) payload: bytes::Bytes,
    /// No more was stored when it came.
    pub(crate) is_newest: bool,
}

/// Where in a stream reading begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum From {
    /// At its first message.
    Start,
    /// At the first one that was stored at this time or later, in seconds since 1970.
    Time(i64),
}

/// Reads a subject of a stream from its first message on and goes on with what is stored later, over restarts of the
/// broker, until the receiver is dropped. `None` says that there was nothing at the beginning.
pub(crate) fn follow(
    connection: &Connection,
    stream: &'static str,
    subject: String,
    from: From,
) -> mpsc::Receiver<Option<Stored>> {
    let (send, receive) = mpsc::channel(WAITING);
    let connection = connection.clone();
    tokio::spawn(async move {
        let mut after = None;
        loop {
            // An error is a broker that went away; the loop ends with its receiver.
            let ended = follow_once(&connection, stream, &subject, from, &mut after, &send).await;
            if ended.is_ok() || send.is_closed() {
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    });
    receive
}

/// The receiver is gone.
struct Done;

async fn follow_once(
    connection: &Connection,
    stream: &str,
    subject: &str,
    from: From,
    after: &mut Option<u64>,
    send: &mpsc::Sender<Option<Stored>>,
) -> Result<Done, Box<dyn std::error::Error + Send + Sync>> {
    let deliver_policy = match (*after, from) {
        (Some(after), _) => DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
        (None, From::Start) => DeliverPolicy::All,
        (None, From::Time(seconds)) => {
            let start_time = async_nats::datetime::DateTime::from_unix_timestamp(seconds)?;
            DeliverPolicy::ByStartTime { start_time }
        }
    };
    let config = push::OrderedConfig {
        deliver_subject: connection.client.new_inbox(),
        filter_subject: subject.to_owned(),
        deliver_policy,
        ..push::OrderedConfig::default()
    };
    let consumer = connection.jetstream.create_consumer_on_stream(config, stream).await?;
    if after.is_none() && consumer.cached_info().num_pending == 0 && send.send(None).await.is_err() {
        return Ok(Done);
    }
    let mut messages = consumer.messages().await?;
    loop {
        let message = tokio::select! {
            () = send.closed() => return Ok(Done),
            message = messages.next() => message.ok_or("the consumer has ended")??,
        };
        let info = message.info()?;
        let (sequence, is_newest) = (info.stream_sequence, info.pending == 0);
        let message = message.message;
        *after = Some(sequence);
        let stored = Stored { subject: message.subject.to_string(), payload: message.payload, is_newest };
        if send.send(Some(stored)).await.is_err() {
            return Ok(Done);
        }
    }
}

/// What an answer is, for the one who reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A module found something.
    Found,
    /// None did, and all of them examined everything.
    NotFound,
    /// None did, and not everything was examined: there may be something.
    NotKnown,
    /// A module could not be asked, or did not succeed.
    Failed,
    /// The agent refused the action.
    Refused,
}

impl Kind {
    /// What an answer is.
    pub(crate) fn of(answer: &Answer) -> Self {
        if answer.status == AnswerStatus::Refused {
            return Self::Refused;
        }
        if answer.status != AnswerStatus::Ok {
            return Self::Failed;
        }
        let mut kind = Self::NotFound;
        for operation in &answer.operations {
            let result =
                operation.result.as_ref().map(|result| serde_json::from_str::<ModuleResult>(result.get()));
            let Some(Ok(result)) = result else { return Self::Failed };
            match (result.verdict(), kind) {
                // What was found before a search was stopped is found.
                (Verdict::Found, _) if result.success || result.coverage.is_some() => kind = Self::Found,
                (Verdict::NotKnown, Self::NotFound) => kind = Self::NotKnown,
                (Verdict::NotKnown | Verdict::Absent, _) => {}
                (Verdict::Found | Verdict::Failed, _) => return Self::Failed,
            }
        }
        kind
    }

    /// Whether an answer of this kind is to be printed.
    pub(crate) fn is_shown(self, show: Show) -> bool {
        match show {
            Show::All => true,
            Show::Found => self == Self::Found,
            Show::Notfound => self == Self::NotFound,
            Show::Notknown => self == Self::NotKnown,
            Show::Failed => matches!(self, Self::Failed | Self::Refused),
        }
    }
}

/// How many of what came.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) answered: usize,
    pub(crate) found: usize,
    pub(crate) not_known: usize,
    pub(crate) failed: usize,
    pub(crate) refused: usize,
    pub(crate) flagged: usize,
}

/// Answers to one or more actions that make up one question.
pub(crate) struct Answers<'a> {
    inventory: &'a Inventory,
    collectors: BTreeMap<ActionId, Collector>,
    /// Who was asked.
    pub(crate) targeted: BTreeSet<AgentId>,
    /// Who was asked and has not answered.
    pub(crate) silent: BTreeSet<AgentId>,
    pub(crate) counts: Counts,
}

/// What a message gave.
#[derive(Debug)]
pub(crate) enum Came {
    /// Nothing yet, or nothing new.
    Nothing,
    /// An agent's whole answer.
    Answer { action: ActionId, agent: AgentId, answer: Box<Answer>, kind: Kind },
    /// A message that no honest agent sent.
    Flagged(Flag),
}

impl<'a> Answers<'a> {
    /// Nothing asked yet.
    pub(crate) fn new(inventory: &'a Inventory) -> Self {
        Self {
            inventory,
            collectors: BTreeMap::new(),
            targeted: BTreeSet::new(),
            silent: BTreeSet::new(),
            counts: Counts::default(),
        }
    }

    /// Expects answers of these agents to an action.
    pub(crate) fn expect(&mut self, action: &ActionId, agents: impl IntoIterator<Item = AgentId>) {
        self.collectors.entry(action.clone()).or_insert_with(|| Collector::new(action.clone()));
        for agent in agents {
            self.silent.insert(agent.clone());
            self.targeted.insert(agent);
        }
    }

    /// Takes a message of the stream.
    pub(crate) fn take(&mut self, action: &ActionId, stored: &Stored) -> Came {
        let Some(collector) = self.collectors.get_mut(action) else { return Came::Nothing };
        let inventory = self.inventory;
        let taken = collector.take(&stored.subject, &stored.payload, |agent, sealed| {
            inventory.open(agent, sealed, Purpose::Answer)
        });
        match taken {
            Ok(Taken::Part | Taken::Again) => Came::Nothing,
            Ok(Taken::Complete { agent, answer }) => {
                let kind = Kind::of(&answer);
                self.counts.answered += 1;
                match kind {
                    Kind::Found => self.counts.found += 1,
                    Kind::NotFound => {}
                    Kind::NotKnown => self.counts.not_known += 1,
                    Kind::Failed => self.counts.failed += 1,
                    Kind::Refused => self.counts.refused += 1,
                }
                self.targeted.insert(agent.clone());
                self.silent.remove(&agent);
                Came::Answer { action: action.clone(), agent, answer, kind }
            }
            Err(flag) => {
                self.counts.flagged += 1;
                Came::Flagged(flag)
            }
        }
    }

    /// Whether an agent was online when the inventory was read.
    pub(crate) fn is_online(&self, agent: &AgentId) -> bool {
        self.inventory.agents.get(agent).is_some_and(|known| known.online)
    }

    /// Agents that were online, were asked, and have not answered.
    pub(crate) fn online_silent(&self) -> usize {
        self.silent.iter().filter(|agent| self.is_online(agent)).count()
    }

    /// The subject of the answers to an action.
    pub(crate) fn subject(action: &ActionId) -> String {
        subjects::answers_to(action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vigie_fleet::answer::OperationAnswer;

    fn answer(status: AnswerStatus, results: &[Option<&str>]) -> Answer {
        let operations = results
            .iter()
            .map(|result| OperationAnswer {
                module: "m".to_owned(),
                result: result.map(|text| serde_json::value::RawValue::from_string(text.to_owned()).unwrap()),
                code: None,
                error: None,
            })
            .collect();
        Answer { status, code: None, message: None, hostname: String::new(), time: String::new(), operations }
    }

    #[test]
    fn an_answer_is_the_worst_or_the_best_of_its_results() {
        let found = r#"{"foundanything":true,"success":true}"#;
        let nothing = r#"{"foundanything":false,"success":true}"#;
        let failed = r#"{"foundanything":true,"success":false}"#;
        let kind = |results: &[Option<&str>]| Kind::of(&answer(AnswerStatus::Ok, results));

        assert_eq!(kind(&[Some(nothing), Some(found)]), Kind::Found);
        assert_eq!(kind(&[Some(nothing)]), Kind::NotFound);
        assert_eq!(kind(&[Some(found), Some(failed)]), Kind::Failed);
        assert_eq!(kind(&[Some(found), None]), Kind::Failed);
        assert_eq!(kind(&[Some("[]")]), Kind::Failed);
        let partly = r#"{"success":true,"coverage":{"complete":false}}"#;
        let stopped = r#"{"foundanything":true,"success":false,"coverage":{"complete":false}}"#;
        assert_eq!(kind(&[Some(nothing), Some(partly)]), Kind::NotKnown);
        assert_eq!(kind(&[Some(partly), Some(found)]), Kind::Found);
        assert_eq!(kind(&[Some(partly), Some(failed)]), Kind::Failed);
        assert_eq!(kind(&[Some(stopped)]), Kind::Found);
        assert_eq!(Kind::of(&answer(AnswerStatus::Refused, &[])), Kind::Refused);
        assert_eq!(Kind::of(&answer(AnswerStatus::Interrupted, &[])), Kind::Failed);
    }
}
