//! Puts answers together from their parts, and flags what no honest agent sent. Pure.
//!
//! Whoever holds the broker can send anything on any subject. A part counts only when it is sealed with the key that
//! is enrolled for the agent that the subject names, and speaks of that agent and of the action that was asked.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::admission::STATE_REVERTED;
use crate::answer::{Answer, AnswerPart, AnswerStatus, MAX_PART_BYTES, Sealed, VERSION};
use vigie_protocol::names::{ActionId, AgentId};

/// Largest message of a part in bytes, as the stream of answers takes it.
pub(crate) const MAX_MESSAGE_BYTES: usize = 512 * 1024;

/// Most bytes of a part's text as it is written into a message, with room for the rest of the message.
const MAX_WRITTEN_BYTES: usize = 500 * 1024;

/// Most parts of one answer: the broker keeps no more of an agent in a slot.
pub const MAX_PARTS: u32 = crate::broker::streams::ANSWER_MESSAGES as u32;

/// What a message was.
#[derive(Debug)]
pub enum Taken {
    /// A part of an answer of which more is to come.
    Part,
    /// The last missing part of an agent's answer.
    Complete {
        /// Who answered.
        agent: AgentId,
        /// What.
        answer: Box<Answer>,
    },
    /// A part that was there already.
    Again,
    /// A part of an answer to another action of the same slot.
    Other,
}

/// A message that no honest agent sent, or that was changed on its way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flag {
    /// Larger than an agent sends.
    #[error("a message of {0} bytes is larger than any part of an answer")]
    TooLarge(usize),
    /// Not on a subject of answers to this action.
    #[error("subject {0:?} is not one of answers to this action")]
    WrongSubject(String),
    /// Not a sealed part of an answer.
    #[error("{agent}: the message is not a sealed part of an answer: {reason}")]
    Malformed {
        /// Whom the subject names.
        agent: AgentId,
        /// What is wrong.
        reason: String,
    },
    /// Nobody enrolled an agent of that name.
    #[error("{0}: no agent of this name is enrolled")]
    NotEnrolled(AgentId),
    /// The seal is not of the enrolled key.
    #[error("{0}: the seal is not from the enrolled key: forged or altered")]
    BadSeal(AgentId),
    /// A true part of another answer in its place.
    #[error(
        "{agent}: contains the answer of {of_agent} to action {of_action}: it was stored there by another party"
    )]
    Swapped {
        /// Whom the subject names.
        agent: AgentId,
        /// Who sealed it.
        of_agent: AgentId,
        /// For which action.
        of_action: ActionId,
    },
    /// The agent sealed two different things.
    #[error("{0}: sealed two different answers to the same action")]
    Contradiction(AgentId),
}

impl Flag {
    /// A stable word for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "too_large",
            Self::WrongSubject(_) => "wrong_subject",
            Self::Malformed { .. } => "malformed",
            Self::NotEnrolled(_) => "not_enrolled",
            Self::BadSeal(_) => "bad_seal",
            Self::Swapped { .. } => "swapped",
            Self::Contradiction(_) => "contradiction",
        }
    }

    /// Whom it concerns, when a subject named somebody.
    #[must_use]
    pub fn agent(&self) -> Option<&AgentId> {
        match self {
            Self::TooLarge(_) | Self::WrongSubject(_) => None,
            Self::Malformed { agent, .. }
            | Self::NotEnrolled(agent)
            | Self::BadSeal(agent)
            | Self::Swapped { agent, .. }
            | Self::Contradiction(agent) => Some(agent),
        }
    }
}

/// Why a seal cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealProblem {
    /// No key is enrolled for the agent.
    NotEnrolled,
    /// It is not of that key.
    Bad,
}

/// The answers to one action.
#[derive(Debug)]
pub struct Collector {
    action: ActionId,
    agents: HashMap<AgentId, Parts>,
}

/// The parts of one answer of one agent.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// Texts of the parts until all are there.
    texts: BTreeMap<u32, String>,
    /// Digests of all parts, to know one again.
    digests: BTreeMap<u32, u64>,
    last: Option<u32>,
    complete: bool,
    /// All of it is an answer that adds nothing, see [`is_of_restored_state`]; others to the same action are no
    /// contradiction.
    adds_nothing: bool,
}

impl Collector {
    /// Collects the answers to `action`.
    #[must_use]
    pub fn new(action: ActionId) -> Self {
        Self { action, agents: HashMap::new() }
    }

    /// Whether an agent's answer is complete.
    #[must_use]
    pub fn has(&self, agent: &AgentId) -> bool {
        self.agents.get(agent).is_some_and(|parts| parts.complete)
    }

    /// Takes a message; `open` checks a seal against the key that is enrolled for the agent.
    ///
    /// # Errors
    /// When no honest agent sent it.
    pub fn take(
        &mut self,
        subject: &str,
        payload: &[u8],
        open: impl FnOnce(&AgentId, &Sealed) -> Result<(), SealProblem>,
    ) -> Result<Taken, Flag> {
        let agent = self.agent_of(subject)?;
        if payload.len() > MAX_MESSAGE_BYTES {
            return Err(Flag::TooLarge(payload.len()));
        }
        let malformed = |reason: String| Flag::Malformed { agent: agent.clone(), reason };
        let sealed: Sealed = serde_json::from_slice(payload).map_err(|error| malformed(error.to_string()))?;
        open(&agent, &sealed).map_err(|problem| match problem {
            SealProblem::NotEnrolled => Flag::NotEnrolled(agent.clone()),
            SealProblem::Bad => Flag::BadSeal(agent.clone()),
        })?;
        let part: AnswerPart =
            serde_json::from_str(&sealed.text).map_err(|error| malformed(error.to_string()))?;
        if part.agent != agent {
            return Err(Flag::Swapped { agent, of_agent: part.agent, of_action: part.id });
        }
        if part.id != self.action {
            return Ok(Taken::Other);
        }
        if part.v != VERSION || part.seq >= MAX_PARTS || part.data.len() > MAX_PART_BYTES {
            return Err(malformed(format!(
                "version {}, part {}, {} bytes",
                part.v,
                part.seq,
                part.data.len()
            )));
        }
        let adds_nothing = has_no_memory(&part);
        let parts = self.agents.entry(agent.clone()).or_default();
        // The rest of what it answered before will not come any more.
        if adds_nothing && !parts.complete {
            *parts = Parts { adds_nothing, ..Parts::default() };
        }
        match parts.add(part) {
            Added::Again => Ok(Taken::Again),
            Added::Contradiction if adds_nothing || parts.adds_nothing => Ok(Taken::Again),
            Added::More => Ok(Taken::Part),
            Added::Contradiction => Err(Flag::Contradiction(agent)),
            Added::Whole(text) => match serde_json::from_str(&text) {
                Ok(answer) => Ok(Taken::Complete { agent, answer: Box::new(answer) }),
                Err(error) => Err(malformed(error.to_string())),
            },
        }
    }

    fn agent_of(&self, subject: &str) -> Result<AgentId, Flag> {
        crate::subjects::last_name(subject)
            .filter(|agent| subject == crate::subjects::answer(&self.action, agent))
            .ok_or_else(|| Flag::WrongSubject(subject.chars().take(200).collect()))
    }
}

/// Largest message in bytes that is looked at for an answer that adds nothing: it has no results.
const MAX_ADDS_NOTHING: usize = 8 * 1024;

/// Whether a message looks like the whole answer of an agent that may have no memory of what it answered before.
/// Whoever reads the newest message of an agent first looks for an older answer, which holds. Says nothing of its seal.
#[must_use]
pub fn is_of_restored_state(payload: &[u8]) -> bool {
    let read = || {
        let sealed: Sealed = serde_json::from_slice(payload).ok()?;
        serde_json::from_str(&sealed.text).ok()
    };
    payload.len() <= MAX_ADDS_NOTHING && read().is_some_and(|part| has_no_memory(&part))
}

/// Whether it is the whole answer of an agent that may have no memory of what it answered before: that answer holds. A
/// restored log has as begun what was answered since.
fn has_no_memory(part: &AnswerPart) -> bool {
    let is_whole = part.seq == 0 && part.last;
    is_whole
        && serde_json::from_str::<Answer>(&part.data).is_ok_and(|answer| {
            answer.status == AnswerStatus::Interrupted
                || answer.status == AnswerStatus::Refused && answer.code.as_deref() == Some(STATE_REVERTED)
        })
}

/// What a part was.
pub(crate) enum Added {
    /// It was there already.
    Again,
    /// More is to come.
    More,
    /// Another part bears its number.
    Contradiction,
    /// The last missing one: the whole text.
    Whole(String),
}

impl Parts {
    pub(crate) fn add(&mut self, part: AnswerPart) -> Added {
        let mut hasher = DefaultHasher::new();
        (&part.data, part.last).hash(&mut hasher);
        let digest = hasher.finish();
        match self.digests.get(&part.seq) {
            Some(known) if *known == digest => return Added::Again,
            Some(_) => return Added::Contradiction,
            None => {}
        }
        let beyond_last = self.last.is_some_and(|last| part.seq > last);
        let not_last = part.last && self.digests.last_key_value().is_some_and(|(&seq, _)| seq > part.seq);
        if beyond_last || not_last || (part.last && self.last.is_some()) {
            return Added::Contradiction;
        }
        if part.last {
            self.last = Some(part.seq);
        }
        self.digests.insert(part.seq, digest);
        self.texts.insert(part.seq, part.data);
        if self.last.is_some_and(|last| self.texts.len() as u64 == u64::from(last) + 1) {
            self.complete = true;
            return Added::Whole(std::mem::take(&mut self.texts).into_values().collect());
        }
        Added::More
    }
}

/// Cuts the JSON of an answer into parts that fit into messages.
#[must_use]
pub fn cut(action: &ActionId, agent: &AgentId, answer: &str) -> Vec<AnswerPart> {
    let mut pieces = Vec::new();
    let mut rest = answer;
    loop {
        let (piece, after) = rest.split_at(first_part_bytes(rest));
        pieces.push(piece);
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    let count = pieces.len();
    pieces
        .into_iter()
        .zip(0u32..)
        .map(|(data, seq)| AnswerPart {
            v: VERSION,
            id: action.clone(),
            agent: agent.clone(),
            seq,
            last: seq as usize + 1 == count,
            data: data.to_owned(),
        })
        .collect()
}

/// How much of a text goes into one part, in bytes. The text is written into a JSON string within a JSON string, and
/// that has to fit into a message.
fn first_part_bytes(text: &str) -> usize {
    let mut written = 0;
    for (at, byte) in text.bytes().enumerate() {
        written += match byte {
            b'"' | b'\\' => 4,
            0..b' ' => 7,
            _ => 1,
        };
        if written > MAX_WRITTEN_BYTES || at == MAX_PART_BYTES {
            return text.floor_char_boundary(at);
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subjects;

    use proptest::prelude::*;

    fn action() -> ActionId {
        ActionId::from_random([7; 16])
    }

    fn agent(name: &str) -> AgentId {
        name.parse().unwrap()
    }

    fn answer(hostname: &str) -> String {
        let answer = Answer {
            status: AnswerStatus::Ok,
            code: None,
            message: None,
            hostname: hostname.to_owned(),
            time: "2026-01-01T00:00:00Z".to_owned(),
            operations: Vec::new(),
        };
        serde_json::to_string(&answer).unwrap()
    }

    fn message(part: &AnswerPart) -> Vec<u8> {
        let sealed = Sealed { text: serde_json::to_string(part).unwrap(), sig: "good".to_owned() };
        serde_json::to_vec(&sealed).unwrap()
    }

    fn open(agent: &AgentId, sealed: &Sealed) -> Result<(), SealProblem> {
        match (agent.as_str(), sealed.sig.as_str()) {
            ("stranger", _) => Err(SealProblem::NotEnrolled),
            (_, "good") => Ok(()),
            _ => Err(SealProblem::Bad),
        }
    }

    fn subject(name: &str) -> String {
        subjects::answer(&action(), &agent(name))
    }

    #[test]
    fn parts_make_an_answer_in_any_order_and_once() {
        let text = answer(&"h".repeat(1_000_000));
        let parts = cut(&action(), &agent("a"), &text);
        assert_eq!(parts.len(), 4);
        let mut collector = Collector::new(action());
        for index in [3, 1, 1, 2] {
            let taken = collector.take(&subject("a"), &message(&parts[index]), open).unwrap();
            assert!(!matches!(taken, Taken::Complete { .. }));
        }

        let Taken::Complete { answer, .. } =
            collector.take(&subject("a"), &message(&parts[0]), open).unwrap()
        else {
            panic!("not complete")
        };

        assert_eq!(answer.hostname.len(), 1_000_000);
        assert!(collector.has(&agent("a")));
        assert!(matches!(collector.take(&subject("a"), &message(&parts[1]), open), Ok(Taken::Again)));
    }

    #[test]
    fn what_no_honest_agent_sent_is_flagged() {
        let [part]: [AnswerPart; 1] = cut(&action(), &agent("a"), &answer("h")).try_into().unwrap();
        let good = message(&part);
        let code = |subject: &str, payload: &[u8]| {
            Collector::new(action()).take(subject, payload, open).unwrap_err().code()
        };
        let other_action = AnswerPart { id: ActionId::from_random([8; 16]), ..part.clone() };
        let mut forged: Sealed = serde_json::from_slice(&good).unwrap();
        forged.sig = "bad".to_owned();

        assert_eq!(code(&subject("b"), &good), "swapped");
        // The slot of another action has another name; what is of the same slot belongs to somebody else's question.
        let mut collector = Collector::new(action());
        let other = collector.take(&subject("a"), &message(&other_action), open).unwrap();
        assert!(matches!(other, Taken::Other) && !collector.has(&agent("a")));
        assert_eq!(code(&subject("stranger"), &good), "not_enrolled");
        assert_eq!(code(&subject("a"), &serde_json::to_vec(&forged).unwrap()), "bad_seal");
        assert_eq!(code(&subject("a"), b"{}"), "malformed");
        assert_eq!(code(&subject("a"), &vec![b' '; MAX_MESSAGE_BYTES + 1]), "too_large");
        assert_eq!(code("vigie.res.8.a", &good), "wrong_subject");
        assert_eq!(code(&format!("{}.x", subject("a")), &good), "wrong_subject");
        let mut collector = Collector::new(action());
        collector.take(&subject("a"), &good, open).unwrap();
        let changed = AnswerPart { data: answer("other"), ..part };
        assert_eq!(
            collector.take(&subject("a"), &message(&changed), open).unwrap_err(),
            Flag::Contradiction(agent("a"))
        );
    }

    #[test]
    fn what_a_restored_agent_says_does_not_replace_what_it_answered_before() {
        let whole = |changed: &dyn Fn(&mut Answer)| {
            let mut answer: Answer = serde_json::from_str(&answer("h")).unwrap();
            changed(&mut answer);
            message(&cut(&action(), &agent("a"), &serde_json::to_string(&answer).unwrap())[0])
        };
        let mut collector = Collector::new(action());
        collector.take(&subject("a"), &whole(&|_| ()), open).unwrap();
        let mut again = |changed: &dyn Fn(&mut Answer)| collector.take(&subject("a"), &whole(changed), open);

        let reverted = |answer: &mut Answer| {
            (answer.status, answer.code) = (AnswerStatus::Refused, Some(STATE_REVERTED.to_owned()));
        };
        assert!(matches!(again(&reverted), Ok(Taken::Again)));
        // Its replay log has the action as begun.
        assert!(matches!(again(&|answer| answer.status = AnswerStatus::Interrupted), Ok(Taken::Again)));
        for status in [AnswerStatus::Refused, AnswerStatus::Error, AnswerStatus::Timeout] {
            assert!(
                matches!(again(&|answer| answer.status = status), Err(Flag::Contradiction(_))),
                "{status:?}"
            );
        }
    }

    /// The parts that were on their way when the state was restored never come: it answered, and nobody waits for it.
    #[test]
    fn a_restored_agent_whose_answer_was_sent_in_part_has_answered() {
        let parts = cut(&action(), &agent("a"), &answer(&"h".repeat(1_000_000)));
        let interrupted = answer("h").replace("\"ok\"", "\"interrupted\"");
        let interrupted = message(&cut(&action(), &agent("a"), &interrupted)[0]);
        assert!(is_of_restored_state(&interrupted));
        for sent in [vec![0], vec![1, 2], vec![3], vec![0, 1, 2]] {
            let mut collector = Collector::new(action());
            for part in &sent {
                collector.take(&subject("a"), &message(&parts[*part]), open).unwrap();
            }

            let taken = collector.take(&subject("a"), &interrupted, open);

            let Ok(Taken::Complete { answer, .. }) = taken else { panic!("{sent:?}: {taken:?}") };
            assert!(answer.status == AnswerStatus::Interrupted && collector.has(&agent("a")));
            // Whoever reads the newest first has the others after it.
            for late in parts.iter().map(message).chain([interrupted.clone()]) {
                assert!(matches!(collector.take(&subject("a"), &late, open), Ok(Taken::Again)), "{sent:?}");
            }
        }
        assert!(!parts.iter().any(|part| is_of_restored_state(&message(part))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Any text is cut into parts that fit, and they make the text again.
        #[test]
        fn parts_make_the_text_again(text in "[a-zé😀\"\\\\]{0,200}", repeat in 1usize..6000) {
            let text = text.repeat(repeat);
            let parts = cut(&action(), &agent("a"), &text);
            prop_assert!(parts.iter().all(|part| message(part).len() <= MAX_MESSAGE_BYTES));
            prop_assert!(parts.iter().all(|part| part.data.len() <= MAX_PART_BYTES));
            prop_assert!(parts.iter().rev().skip(1).all(|part| !part.last) && parts.last().is_some_and(|part| part.last));
            let whole: String = parts.into_iter().map(|part| part.data).collect();
            prop_assert_eq!(whole, text);
        }
    }
}
