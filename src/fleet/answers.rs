//! Answers as they come, checked and counted.
//!
//! They come live while somebody asks, and lie in the stream of answers whatever happens. What comes live is taken when
//! it holds and passed over when not: anybody in the fleet can send there. What was missed is fetched by the names of
//! those who have not answered, so that nobody who floods is in the way.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use vigie_fleet::answer::{Answer, AnswerStatus, Purpose};
use vigie_fleet::broker::client::Client;
use vigie_fleet::broker::connection::Connection;
use vigie_fleet::broker::stored::{self, Entry, StoredError, WINDOW, Which};
use vigie_fleet::broker::streams::ANSWER_MESSAGES;
use vigie_fleet::collect::{self, Collector, Flag, Taken};
use vigie_fleet::subjects::{self, RESULTS};
use vigie_protocol::names::{ActionId, AgentId};
use vigie_protocol::result::{ModuleResult, Verdict};

use super::inventory::Inventory;
use super::options::Show;
use super::profile::Profile;
use crate::exit::Failure;

/// Messages on their way from the broker at once, of those that are not the only one of an answer.
const LARGE_WINDOW: usize = 8;

/// Most agents that are taken up at a time when they join meanwhile.
const JOINED_AT_ONCE: usize = 1000;

/// Fetches what the broker has of these agents' answers to an action, and gives each message to `each`.
///
/// `is_whole` says whether a message was the whole answer of its agent.
pub(crate) async fn fetch(
    client: &Client,
    action: &ActionId,
    agents: impl IntoIterator<Item = AgentId>,
    mut each: impl FnMut(&Entry) -> bool,
) -> Result<(), StoredError> {
    let subjects = agents.into_iter().map(|agent| subjects::answer(action, &agent));
    let mut more = Vec::new();
    let mut newest = futures_util::stream::iter(subjects)
        .map(|subject| async move { (stored::get(client, RESULTS, Which::Last(&subject)).await, subject) })
        .buffer_unordered(WINDOW);
    while let Some((entry, subject)) = newest.next().await {
        match entry? {
            // What it answered before holds, and is older.
            Some(entry) if collect::is_of_restored_state(&entry.value) => more.push((subject, None)),
            Some(entry) if !each(&entry) => more.push((subject, Some(entry.sequence))),
            _ => {}
        }
    }
    drop(newest);
    // The newest message of those is of another question of the slot, or one part of several.
    let mut rest = futures_util::stream::iter(more)
        .map(|(subject, last)| async move {
            let versions = stored::versions(client, RESULTS, &subject, ANSWER_MESSAGES).await;
            versions.map(|mut found| {
                found.retain(|entry| Some(entry.sequence) != last);
                found
            })
        })
        .buffer_unordered(LARGE_WINDOW);
    while let Some(found) = rest.next().await {
        for entry in found? {
            each(&entry);
        }
    }
    Ok(())
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
            Show::None => false,
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

/// What is known of the answers to one action. A host that answered one may be silent to another.
struct Asked {
    collector: Collector,
    targeted: BTreeSet<AgentId>,
    silent: BTreeSet<AgentId>,
    kinds: BTreeMap<AgentId, Kind>,
}

/// Answers to one or more actions that make up one question.
pub(crate) struct Answers<'a> {
    inventory: &'a Inventory,
    /// Hosts that joined, or got another key, while answers are waited for.
    joined: Inventory,
    actions: BTreeMap<ActionId, Asked>,
    /// An action is for whom its target is true: hosts of which nothing is known may be meant.
    is_open: bool,
    pub(crate) counts: Counts,
    /// What was flagged: the same is fetched again and again.
    flagged: BTreeSet<String>,
    /// Agents whose seals did not hold and whose enrolments were read anew.
    renewed: BTreeSet<AgentId>,
}

/// What a message gave.
#[derive(Debug)]
pub(crate) enum Came {
    /// Nothing yet, or nothing new.
    Nothing,
    /// The next fetch takes it.
    LeftToFetch,
    /// An agent's whole answer.
    Answer { action: ActionId, agent: AgentId, answer: Box<Answer>, kind: Kind },
    /// A message that no honest agent sent.
    Flagged(Flag),
}

impl<'a> Answers<'a> {
    /// Nothing asked yet.
    pub(crate) fn new(inventory: &'a Inventory) -> Self {
        Self {
            joined: inventory.rest(),
            inventory,
            actions: BTreeMap::new(),
            is_open: false,
            counts: Counts::default(),
            flagged: BTreeSet::new(),
            renewed: BTreeSet::new(),
        }
    }

    /// Expects answers of these agents to an action.
    pub(crate) fn expect(&mut self, action: &ActionId, agents: impl IntoIterator<Item = AgentId>) {
        let asked = self.actions.entry(action.clone()).or_insert_with(|| Asked {
            collector: Collector::new(action.clone()),
            targeted: BTreeSet::new(),
            silent: BTreeSet::new(),
            kinds: BTreeMap::new(),
        });
        for agent in agents {
            if !asked.collector.has(&agent) {
                asked.silent.insert(agent.clone());
            }
            asked.targeted.insert(agent);
        }
    }

    /// An action is for whom its target is true, not only for hosts that it names.
    pub(crate) fn open(&mut self) {
        self.is_open = true;
    }

    /// Of whom nobody knows whether he was meant: enrolled, and neither seen nor heard.
    pub(crate) fn unknown(&self) -> BTreeSet<&AgentId> {
        let unknown = self.joined.unknown().chain(self.joined.unchecked());
        let has_answered = |agent: &AgentId| self.actions.keys().any(|action| self.has(action, agent));
        unknown.filter(|agent| self.is_open && !has_answered(agent)).collect()
    }

    /// Who was asked, by whichever action.
    pub(crate) fn targeted(&self) -> BTreeSet<&AgentId> {
        self.actions.values().flat_map(|asked| &asked.targeted).collect()
    }

    /// Who was asked, and has not answered every action that he was asked.
    pub(crate) fn silent(&self) -> BTreeSet<&AgentId> {
        self.actions.values().flat_map(|asked| &asked.silent).collect()
    }

    /// Who was asked by this action.
    pub(crate) fn targeted_by(&self, action: &ActionId) -> impl Iterator<Item = &AgentId> {
        self.actions.get(action).into_iter().flat_map(|asked| &asked.targeted)
    }

    /// Who has not answered this action.
    pub(crate) fn silent_to(&self, action: &ActionId) -> impl Iterator<Item = &AgentId> {
        self.actions.get(action).into_iter().flat_map(|asked| &asked.silent)
    }

    /// Whose answer to this action the broker may have: of those too of whom nobody knows whether they were meant.
    pub(crate) fn missing(&self, action: &ActionId) -> impl Iterator<Item = &AgentId> {
        let unseen = self.joined.unknown().filter(|agent| self.is_open && !self.has(action, agent));
        self.silent_to(action).chain(unseen)
    }

    /// Takes a message that was stored at this time, in seconds since 1970.
    pub(crate) fn take(&mut self, action: &ActionId, subject: &str, payload: &[u8], stored: i64) -> Came {
        let Some(asked) = self.actions.get_mut(action) else { return Came::Nothing };
        let (inventory, joined) = (self.inventory, &self.joined);
        let taken = asked.collector.take(subject, payload, |agent, sealed| {
            let newest = if joined.agents.contains_key(agent) { joined } else { inventory };
            newest.open(agent, sealed, Purpose::Answer, stored)
        });
        match taken {
            Ok(Taken::Part | Taken::Again | Taken::Other) => Came::Nothing,
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
                asked.targeted.insert(agent.clone());
                asked.silent.remove(&agent);
                asked.kinds.insert(agent.clone(), kind);
                Came::Answer { action: action.clone(), agent, answer, kind }
            }
            Err(flag) => Came::Flagged(flag),
        }
    }

    /// Takes a message that came live. What an agent that may have no memory of its answer says is left to the next
    /// fetch, which reads older messages first: the answer before it holds, and what comes live can have gaps.
    pub(crate) fn take_live(&mut self, action: &ActionId, subject: &str, payload: &[u8], now: i64) -> Came {
        if collect::is_of_restored_state(payload) {
            let agent = subjects::last_name(subject);
            let is_awaited =
                |agent| self.actions.get(action).is_some_and(|asked| asked.silent.contains(&agent));
            return if agent.is_some_and(is_awaited) { Came::LeftToFetch } else { Came::Nothing };
        }
        self.take(action, subject, payload, now)
    }

    /// Whether an agent was online when the inventory was read.
    pub(crate) fn is_online(&self, agent: &AgentId) -> bool {
        let joined = self.joined.agents.get(agent).or_else(|| self.inventory.agents.get(agent));
        joined.is_some_and(|known| known.online)
    }

    /// Looks who joined since; those of them for whom the action is are expected to answer as well.
    pub(crate) async fn follow(
        &mut self,
        connection: &Connection,
        profile: &Profile,
        action: &ActionId,
        meant: impl FnOnce(&Inventory) -> Vec<AgentId>,
    ) -> Result<(), Failure> {
        self.joined.follow(connection, profile, JOINED_AT_ONCE).await?;
        self.expect_joined(action, meant);
        Ok(())
    }

    /// Reads anew the enrolments of agents whose seals do not hold, once each: they may have got another key meanwhile.
    pub(crate) async fn renew(
        &mut self,
        connection: &Connection,
        profile: &Profile,
        agents: BTreeSet<AgentId>,
    ) -> Result<(), Failure> {
        let agents: Vec<AgentId> = agents.difference(&self.renewed).cloned().collect();
        if !agents.is_empty() {
            self.joined.renew(connection, profile, &agents).await?;
            self.joined.refresh(connection, &agents).await?;
            self.renewed.extend(agents);
        }
        Ok(())
    }

    /// Expects answers of those for whom the action is among the hosts that joined: also while the answers to another
    /// action were waited for.
    pub(crate) fn expect_joined(
        &mut self,
        action: &ActionId,
        meant: impl FnOnce(&Inventory) -> Vec<AgentId>,
    ) {
        self.expect(action, meant(&self.joined));
    }

    /// Expects nobody's answer to this action any more.
    pub(crate) fn forget_silent(&mut self, action: &ActionId) {
        if let Some(asked) = self.actions.get_mut(action) {
            let silent = std::mem::take(&mut asked.silent);
            asked.targeted.retain(|agent| !silent.contains(agent));
        }
    }

    /// Who answered this action, and what.
    pub(crate) fn kinds(&self, action: &ActionId) -> impl Iterator<Item = (&AgentId, Kind)> {
        let kinds = self.actions.get(action).into_iter().flat_map(|asked| &asked.kinds);
        kinds.map(|(agent, kind)| (agent, *kind))
    }

    /// What is known of the fleet.
    pub(crate) fn inventory(&self) -> &Inventory {
        self.inventory
    }

    /// Takes note of a message that does not count; whether it is the first like it.
    pub(crate) fn flag(&mut self, flag: &Flag) -> bool {
        let new = self.flagged.insert(flag.to_string());
        self.counts.flagged += usize::from(new);
        new
    }

    /// Whether an agent's answer to an action is whole.
    pub(crate) fn has(&self, action: &ActionId, agent: &AgentId) -> bool {
        self.actions.get(action).is_some_and(|asked| asked.collector.has(agent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vigie_fleet::agent_key::AgentKey;
    use vigie_fleet::answer::OperationAnswer;
    use vigie_fleet::enrolment::Enrolment;
    use vigie_fleet::policy::Policy;
    use vigie_fleet::signature::SigningKey;

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

    /// The broker has all of its answer; live, a part of that was lost, and the agent came back with an older state.
    #[test]
    fn a_whole_answer_at_the_broker_counts_whatever_a_restored_agent_says_live() {
        let root = SigningKey::from_seed(&[1; 32]).public_key().clone();
        let policy =
            serde_json::json!({"v": 1, "org": "o", "version": 1, "roots": {"keys": [root], "threshold": 1}});
        let policy = Policy::parse_unsigned(&policy.to_string(), "o").unwrap();
        let (agent, key): (AgentId, _) = ("web-1".parse().unwrap(), AgentKey::generate());
        let enrolment: Enrolment = serde_json::from_value(serde_json::json!({
            "v": 1, "org": "o", "agent": agent, "key": key.public_key().text(), "issued": 0,
        }))
        .unwrap();
        let inventory = Inventory::of(policy, [enrolment]);
        let id = ActionId::from_random([7; 16]);
        let messages = |answer: &Answer| -> Vec<Vec<u8>> {
            let parts = collect::cut(&id, &agent, &serde_json::to_string(answer).unwrap());
            let text = |part| serde_json::to_string(part).unwrap();
            let sealed = |part| key.seal(Purpose::Answer, text(part)).unwrap();
            parts.iter().map(|part| serde_json::to_vec(&sealed(part)).unwrap()).collect()
        };
        let long = format!(r#"{{"foundanything":true,"success":true,"elements":"{}"}}"#, "x".repeat(700_000));
        let whole = messages(&answer(AnswerStatus::Ok, &[Some(&long)]));
        let interrupted = messages(&answer(AnswerStatus::Interrupted, &[])).remove(0);
        let subject = subjects::answer(&id, &agent);

        for lost in 0..=whole.len() {
            let mut answers = Answers::new(&inventory);
            answers.expect(&id, [agent.clone()]);
            for part in whole.iter().take(lost).chain(whole.iter().skip(lost + 1)).take(whole.len() - 1) {
                assert!(matches!(answers.take_live(&id, &subject, part, 1), Came::Nothing));
            }
            assert!(matches!(answers.take_live(&id, &subject, &interrupted, 1), Came::LeftToFetch));
            assert_eq!(answers.missing(&id).count(), 1, "it is fetched");

            let fetched = whole.iter().chain([&interrupted]);
            let came: Vec<Kind> = fetched
                .filter_map(|part| match answers.take(&id, &subject, part, 1) {
                    Came::Answer { kind, .. } => Some(kind),
                    _ => None,
                })
                .collect();

            assert_eq!(came, [Kind::Found], "part {lost} was lost");
        }
    }
}
