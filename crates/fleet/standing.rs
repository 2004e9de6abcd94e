//! Standing questions: what an agent keeps of each, the differences that it reports, and what a reader makes of them.
//! Pure.
//!
//! A result is taken apart into rows: each item of a list and each single value, with the place where it stands. What
//! differs between two runs is which rows came and which went. Reports are numbered by difference, so a gap is seen;
//! each names the digest of all rows, and now and then one holds all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::answer::{Answer, AnswerPart, OperationAnswer, Sealed};
use crate::collect::{Added, Flag, MAX_MESSAGE_BYTES, Parts, SealProblem};
use crate::subjects;
use vigie_protocol::names::{ActionId, AgentId};

/// Most bytes of all rows of a question, as they are kept and sent.
pub const MAX_ROWS_BYTES: usize = 256 * 1024;

/// Every so many reports one holds all rows.
pub(crate) const FULL_EVERY: u64 = 16;

/// Answers that a reader holds of one agent while parts are missing.
const MAX_UNFINISHED: usize = 64;

/// One piece of a result.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The module; with its place in the question when that asks it twice.
    pub module: String,
    /// Where it stands in the result, such as `elements.listening`; `!` for what kept it from being asked.
    pub place: String,
    /// Its JSON.
    pub value: String,
}

/// Rows of a question.
pub type Rows = BTreeSet<Row>;

/// What a run of a standing question changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The question.
    pub standing: ActionId,
    /// Drawn when the agent took the question: numbers of another epoch mean nothing.
    pub epoch: String,
    /// Number of this report in its epoch, from 1.
    pub number: u64,
    /// When it was run, RFC 3339.
    pub time: String,
    /// `added` is everything; what was before does not count.
    pub full: bool,
    /// Rows that came.
    #[serde(default, skip_serializing_if = "Rows::is_empty")]
    pub added: Rows,
    /// Rows that went.
    #[serde(default, skip_serializing_if = "Rows::is_empty")]
    pub removed: Rows,
    /// [`digest`] of all rows after it.
    pub digest: String,
    /// Runs since the report before it that were left out, because the agent was off or busy.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missed: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
pub(crate) fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// How a question stands on an agent, in its signs of life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandingHead {
    /// The question.
    pub question: ActionId,
    /// See [`Report::epoch`].
    pub epoch: String,
    /// Number of the newest report.
    pub number: u64,
    /// When it was run last, in seconds since 1970 by the agent's clock.
    pub ran: i64,
}

/// The id under which a report travels: each is an answer of its own, in the slot of its question.
#[must_use]
pub fn report_id(question: &ActionId, epoch: &str, number: u64) -> ActionId {
    let mut hash = Sha256::new();
    for text in ["vigie-standing@v1", question.as_str(), epoch, &number.to_string()] {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
    let mut id = [0; 16];
    id.copy_from_slice(&hash.finalize()[..16]);
    id[15] = (id[15] & 0xf0) | subjects::slot(question);
    ActionId::from_random(id)
}

/// Digest of rows.
#[must_use]
pub fn digest(rows: &Rows) -> String {
    let mut hash = Sha256::new();
    for row in rows {
        for text in [&row.module, &row.place, &row.value] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
    }
    data_encoding::HEXLOWER.encode(&hash.finalize()[..16])
}

/// The rows of an answer. Of an operation that could not be asked the rows from before stay, and one says why. Too many
/// become one that says so.
#[must_use]
pub fn rows(answer: &Answer, before: &Rows) -> Rows {
    let mut rows = Rows::new();
    for (number, operation) in answer.operations.iter().enumerate() {
        let same = |other: &&OperationAnswer| other.module == operation.module;
        let module = match answer.operations.iter().filter(same).count() {
            1 => operation.module.clone(),
            _ => format!("{}#{number}", operation.module),
        };
        let result = operation.result.as_ref().and_then(|result| serde_json::from_str(result.get()).ok());
        match result {
            Some(Value::Object(fields)) => {
                for (name, value) in fields {
                    // How long it took differs each time.
                    if name != "statistics" {
                        take_apart(&module, &name, value, &mut rows);
                    }
                }
            }
            _ => {
                rows.extend(before.iter().filter(|row| row.module == module && row.place != "!").cloned());
                let value = operation.code.clone().unwrap_or_else(|| "bad_answer".to_owned());
                rows.insert(Row { module, place: "!".to_owned(), value });
            }
        }
    }
    let bytes: usize = rows.iter().map(|row| row.module.len() + row.place.len() + row.value.len() + 40).sum();
    if bytes > MAX_ROWS_BYTES {
        let value = format!("the result exceeds {MAX_ROWS_BYTES} bytes: narrow the query");
        return Rows::from([Row { module: String::new(), place: "!".to_owned(), value }]);
    }
    rows
}

fn take_apart(module: &str, place: &str, value: Value, rows: &mut Rows) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                take_apart(module, &format!("{place}.{name}"), value, rows);
            }
        }
        Value::Array(items) => rows.extend(items.into_iter().map(|item| Row {
            module: module.to_owned(),
            place: place.to_owned(),
            value: item.to_string(),
        })),
        Value::Null => {}
        single => {
            let (module, place) = (module.to_owned(), place.to_owned());
            rows.insert(Row { module, place, value: single.to_string() });
        }
    }
}

/// The report of a run, when anything differs from `before`, the rows after report `number - 1`.
#[must_use]
pub fn report(
    question: &ActionId,
    epoch: &str,
    number: u64,
    before: &Rows,
    after: &Rows,
    time: String,
) -> Option<Report> {
    let full = number % FULL_EVERY == 1;
    if number > 1 && before == after {
        return None;
    }
    let (added, removed) = if full {
        (after.clone(), Rows::new())
    } else {
        (after.difference(before).cloned().collect(), before.difference(after).cloned().collect())
    };
    Some(Report {
        standing: question.clone(),
        epoch: epoch.to_owned(),
        number,
        time,
        full,
        added,
        removed,
        digest: digest(after),
        missed: 0,
    })
}

/// What is known of one agent by its reports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    epoch: String,
    number: u64,
    /// All rows; nothing when a report is missing since the last one that held all.
    pub rows: Option<Rows>,
}

impl Known {
    /// Number of the newest report that was taken.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Takes the next report; how many are missing before it.
    pub fn take(&mut self, report: &Report) -> u64 {
        let before = if self.epoch == report.epoch { self.number } else { 0 };
        if report.number <= before {
            return 0;
        }
        let missing = report.number - before - 1;
        if report.full {
            self.rows = Some(report.added.clone());
        } else if missing > 0 || self.epoch != report.epoch {
            self.rows = None;
        } else if let Some(rows) = &mut self.rows {
            rows.retain(|row| !report.removed.contains(row));
            rows.extend(report.added.iter().cloned());
        }
        (self.epoch, self.number) = (report.epoch.clone(), report.number);
        if self.rows.as_ref().is_some_and(|rows| digest(rows) != report.digest) {
            self.rows = None;
        }
        missing
    }
}

/// Puts the reports to one question together from their parts.
#[derive(Debug)]
pub struct Reader {
    question: ActionId,
    parts: HashMap<AgentId, BTreeMap<ActionId, Parts>>,
}

impl Reader {
    /// A reader of the reports to a question.
    #[must_use]
    pub fn new(question: ActionId) -> Self {
        Self { question, parts: HashMap::new() }
    }

    /// Takes a message of the question's slot; `open` checks a seal against the key that is enrolled for the agent. A
    /// report when it is whole; nothing for what answers something else.
    ///
    /// # Errors
    /// When no honest agent sent it.
    pub fn take(
        &mut self,
        subject: &str,
        payload: &[u8],
        open: impl FnOnce(&AgentId, &Sealed) -> Result<(), SealProblem>,
    ) -> Result<Option<(AgentId, Report)>, Flag> {
        let wrong = || Flag::WrongSubject(subject.chars().take(200).collect());
        let agent = subjects::last_name(subject).ok_or_else(wrong)?;
        if subject != subjects::answer(&self.question, &agent) {
            return Err(wrong());
        }
        if payload.len() > MAX_MESSAGE_BYTES {
            return Err(Flag::TooLarge(payload.len()));
        }
        let malformed =
            |error: serde_json::Error| Flag::Malformed { agent: agent.clone(), reason: error.to_string() };
        let sealed: Sealed = serde_json::from_slice(payload).map_err(malformed)?;
        open(&agent, &sealed).map_err(|problem| match problem {
            SealProblem::NotEnrolled => Flag::NotEnrolled(agent.clone()),
            SealProblem::Bad => Flag::BadSeal(agent.clone()),
        })?;
        let part: AnswerPart = serde_json::from_str(&sealed.text).map_err(malformed)?;
        if part.agent != agent {
            return Err(Flag::Swapped { agent, of_agent: part.agent, of_action: part.id });
        }
        let id = part.id.clone();
        let unfinished = self.parts.entry(agent.clone()).or_default();
        let text = match unfinished.entry(id.clone()).or_default().add(part) {
            Added::Whole(text) => text,
            Added::Contradiction => return Err(Flag::Contradiction(agent)),
            Added::More => {
                if unfinished.len() > MAX_UNFINISHED {
                    unfinished.pop_first();
                }
                return Ok(None);
            }
            Added::Again => return Ok(None),
        };
        // Others' questions share the slot; what is no report of this one is none of ours.
        let report = serde_json::from_str::<Report>(&text).ok().filter(|report| {
            report.standing == self.question && id == report_id(&self.question, &report.epoch, report.number)
        });
        Ok(report.map(|report| (agent, report)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::answer::AnswerStatus;
    use crate::collect;

    fn question() -> ActionId {
        ActionId::from_random([0x1c; 16])
    }

    fn answer(results: &[(&str, Option<Value>)]) -> Answer {
        let operations = results
            .iter()
            .map(|(module, result)| OperationAnswer {
                module: (*module).to_owned(),
                result: result.as_ref().map(|value| serde_json::value::to_raw_value(value).unwrap()),
                code: result.is_none().then(|| "module_down".to_owned()),
                error: None,
            })
            .collect();
        Answer {
            status: AnswerStatus::Ok,
            code: None,
            message: None,
            hostname: String::new(),
            time: String::new(),
            operations,
        }
    }

    fn texts(rows: &Rows) -> Vec<String> {
        rows.iter().map(|row| format!("{} {} {}", row.module, row.place, row.value)).collect()
    }

    #[test]
    fn a_result_is_taken_apart_and_how_long_it_took_does_not_count() {
        let result = |port: u16, time: &str| {
            Some(
                json!({"foundanything": true, "elements": {"listening": [{"port": port}, {"port": 1}], "name": "x"},
                "statistics": {"exectime": time}, "errors": null}),
            )
        };
        let one = rows(&answer(&[("netstat", result(22, "1ms"))]), &Rows::new());
        assert_eq!(one, rows(&answer(&[("netstat", result(22, "9ms"))]), &Rows::new()));
        assert_eq!(
            texts(&one),
            [
                "netstat elements.listening {\"port\":1}",
                "netstat elements.listening {\"port\":22}",
                "netstat elements.name \"x\"",
                "netstat foundanything true",
            ]
        );
        // A module that is down says nothing about what there is.
        let down = rows(&answer(&[("netstat", None)]), &one);
        assert_eq!(down.len(), one.len() + 1);
        assert_eq!(rows(&answer(&[("netstat", None)]), &down), down);
        assert_eq!(rows(&answer(&[("netstat", result(22, ""))]), &down), one);
    }

    #[test]
    fn too_much_becomes_one_row_that_says_so() {
        let items: Vec<String> = (0..10_000).map(|number| format!("{number:0>40}")).collect();
        let rows = rows(&answer(&[("file", Some(json!({ "elements": items })))]), &Rows::new());
        assert_eq!(rows.len(), 1);
        assert!(rows.first().unwrap().value.contains("narrow the query"));
    }

    #[test]
    fn a_report_travels_and_another_question_of_the_slot_does_not_disturb() {
        let agent: AgentId = "web-1".parse().unwrap();
        let after = rows(&answer(&[("m", Some(json!({"elements": ["x".repeat(200_000)]})))]), &Rows::new());
        let report = report(&question(), "e", 1, &Rows::new(), &after, String::new()).unwrap();
        let id = report_id(&question(), "e", 1);
        assert_eq!(subjects::slot(&id), subjects::slot(&question()));
        let mut reader = Reader::new(question());
        let mut took = |id: &ActionId, text: &str| {
            let mut whole = None;
            for part in collect::cut(id, &agent, text) {
                let text = serde_json::to_string(&part).unwrap();
                let sealed = serde_json::to_vec(&Sealed { text, sig: String::new() }).unwrap();
                let subject = subjects::answer(&question(), &agent);
                whole = reader.take(&subject, &sealed, |_, _| Ok(())).unwrap().or(whole);
            }
            whole
        };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(took(&ActionId::from_random([0x2c; 16]), &text), None, "under an id that is not its own");
        let plain = serde_json::to_string(&answer(&[])).unwrap();
        assert_eq!(took(&ActionId::from_random([0x3c; 16]), &plain), None);
        assert_eq!(took(&id, &text), Some((agent.clone(), report)));
    }

    proptest! {
        /// Whatever changes: who takes every report knows all rows, and who misses some knows that he does not, until
        /// one holds all of them.
        #[test]
        fn reports_make_the_rows_again(
            runs in prop::collection::vec(prop::collection::btree_set(0u8..12, 0..8), 1..60),
            lost in prop::collection::vec(any::<bool>(), 60),
        ) {
            let rows_of = |set: &BTreeSet<u8>| -> Rows {
                set.iter().map(|value| Row { module: "m".into(), place: "p".into(), value: value.to_string() }).collect()
            };
            let (mut before, mut number) = (Rows::new(), 1);
            let (mut all, mut some, mut expected) = (Known::default(), Known::default(), 0);
            for (run, lost) in runs.iter().zip(lost) {
                let after = rows_of(run);
                if let Some(report) = report(&question(), "e", number, &before, &after, String::new()) {
                    prop_assert_eq!(all.take(&report), 0);
                    if lost {
                        expected += 1;
                    } else {
                        prop_assert_eq!(some.take(&report), expected);
                        expected = 0;
                        if let Some(rows) = &some.rows {
                            prop_assert_eq!(rows, &after);
                        }
                        prop_assert!(!report.full || some.rows.is_some());
                    }
                    number += 1;
                } else {
                    prop_assert_eq!(&before, &after);
                }
                prop_assert_eq!(all.rows.as_ref(), Some(&after));
                before = after;
            }
        }
    }
}
