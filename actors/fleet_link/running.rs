//! Runs the operations of an admitted action through the `QueryRouter` and makes the answer of their results.

use std::time::Duration;

use actix::Recipient;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::watch;
use tokio::time::Instant;
use vigie_fleet::action::{Action, Operation};
use vigie_fleet::answer::{Answer, AnswerStatus, OperationAnswer};
use vigie_protocol::message::Asker;

use crate::query_router::{Query, QueryError};

/// What an action may use on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowed {
    /// Time for all operations together.
    pub(super) time: Duration,
    /// Size of all results together in bytes.
    pub(super) bytes: usize,
}

/// How one operation went.
enum Outcome {
    Result(Box<RawValue>),
    Failed { code: &'static str, error: String },
}

/// Asks all operations, one after the other, and answers at the latest when the time is up.
pub(super) async fn run(
    action: &Action,
    signers: &[String],
    allowed: Allowed,
    hostname: &str,
    router: &Recipient<Query>,
) -> Answer {
    let deadline = Instant::now() + allowed.time;
    let mut outcomes = Vec::with_capacity(action.ops.len());
    for operation in &action.ops {
        outcomes.push(ask(operation, signers, deadline, router).await);
    }
    answer(&action.ops, outcomes, allowed.bytes, hostname, jiff::Timestamp::now().to_string())
}

async fn ask(
    operation: &Operation,
    signers: &[String],
    deadline: Instant,
    router: &Recipient<Query>,
) -> Outcome {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Outcome::Failed { code: TIMED_OUT, error: "no time was left for it".to_owned() };
    }
    // Lives as long as this future: the action is given up with it.
    let (_asking, client) = watch::channel(false);
    let query = Query {
        module: operation.module.clone(),
        parameters: operation.params.clone(),
        timeout: Some(left),
        asker: Some(Asker { investigator: Some(signers.join(", ")), ..Asker::default() }),
        progress: None,
        client,
    };
    match router.send(query).await {
        Ok(Ok(result)) => match to_raw_value(&result) {
            Ok(result) => Outcome::Result(result),
            Err(error) => Outcome::Failed { code: "bad_answer", error: error.to_string() },
        },
        Ok(Err(error)) => failed(&error),
        Err(_) => Outcome::Failed { code: "stopping", error: "the agent is stopping".to_owned() },
    }
}

/// The code of an operation for which there was no time.
const TIMED_OUT: &str = "timed_out";

fn failed(error: &QueryError) -> Outcome {
    Outcome::Failed { code: error.kind(), error: error.to_string() }
}

/// Puts the results together; what does not fit into `bytes` is left out and named.
fn answer(
    operations: &[Operation],
    outcomes: Vec<Outcome>,
    bytes: usize,
    hostname: &str,
    time: String,
) -> Answer {
    let mut status = AnswerStatus::Ok;
    let mut left = bytes;
    let mut answers = Vec::with_capacity(outcomes.len());
    for (operation, outcome) in operations.iter().zip(outcomes) {
        let mut answer =
            OperationAnswer { module: operation.module.clone(), result: None, code: None, error: None };
        match outcome {
            Outcome::Result(result) if result.get().len() <= left => {
                left -= result.get().len();
                answer.result = Some(result);
            }
            Outcome::Result(result) => {
                answer.code = Some("truncated".to_owned());
                let size = result.get().len();
                answer.error = Some(format!("its result of {size} bytes exceeds the remaining {left} bytes"));
                status = AnswerStatus::Truncated;
            }
            Outcome::Failed { code, error } => {
                if status == AnswerStatus::Ok {
                    status = if code == TIMED_OUT { AnswerStatus::Timeout } else { AnswerStatus::Error };
                }
                answer.code = Some(code.to_owned());
                answer.error = Some(error);
            }
        }
        answers.push(answer);
    }
    Answer { status, code: None, message: None, hostname: hostname.to_owned(), time, operations: answers }
}

/// An answer without results: the action did not run, or its end is not known.
#[must_use]
pub(super) fn answer_without_results(
    status: AnswerStatus,
    code: &str,
    message: String,
    hostname: &str,
) -> Answer {
    Answer {
        status,
        code: Some(code.to_owned()),
        message: Some(message),
        hostname: hostname.to_owned(),
        time: jiff::Timestamp::now().to_string(),
        operations: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operations(count: usize) -> Vec<Operation> {
        (0..count).map(|index| Operation { module: format!("m{index}"), params: None }).collect()
    }

    fn result(bytes: usize) -> Outcome {
        Outcome::Result(RawValue::from_string(format!("\"{}\"", "x".repeat(bytes - 2))).unwrap())
    }

    fn failure(code: &'static str) -> Outcome {
        Outcome::Failed { code, error: "why".to_owned() }
    }

    fn answer_to(outcomes: Vec<Outcome>, bytes: usize) -> Answer {
        answer(&operations(outcomes.len()), outcomes, bytes, "h", String::new())
    }

    #[test]
    fn results_are_given_as_they_are() {
        let answer = answer_to(vec![result(10), result(20)], 30);

        assert_eq!(answer.status, AnswerStatus::Ok);
        let sizes: Vec<_> =
            answer.operations.iter().map(|one| one.result.as_ref().unwrap().get().len()).collect();
        assert_eq!(sizes, [10, 20]);
    }

    #[test]
    fn a_result_that_does_not_fit_is_named_and_the_others_are_given() {
        let answer = answer_to(vec![result(10), result(25), result(15)], 30);

        assert_eq!(answer.status, AnswerStatus::Truncated);
        let codes: Vec<_> = answer.operations.iter().map(|one| one.code.as_deref()).collect();
        assert_eq!(codes, [None, Some("truncated"), None]);
    }

    #[test]
    fn a_failure_is_the_answers_status() {
        assert_eq!(answer_to(vec![result(10), failure("module_down")], 100).status, AnswerStatus::Error);
        assert_eq!(answer_to(vec![failure(TIMED_OUT)], 100).status, AnswerStatus::Timeout);
        assert_eq!(answer_to(vec![result(9), failure("x")], 1).status, AnswerStatus::Truncated);
    }
}
