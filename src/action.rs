//! `vigie query -i FILE`: asks all that an action file in MIG's format asks, and prints the answers in its order.
//!
//! An action is a JSON object with a name and a list of operations, each a module and its parameters. What else
//! MIG writes into one says where and when a fleet carries it out; it means nothing on one host and is left out.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use vigie_protocol::module_name::ModuleName;
use vigie_protocol::result::ModuleResult;

use crate::cli::QueryArgs;
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::print::{self, Printer, Tone, safe};
use crate::query::{self, Question};

/// Largest action file in bytes; a larger one is refused. A search is a few hundred bytes.
pub(crate) const MAX_FILE_BYTES: u64 = 16 << 20;

/// Most operations in one file; more are refused.
const MAX_OPERATIONS: usize = 10_000;

/// Operations that are asked at the same time, each with a thread and a connection of its own. Also bounds the
/// answers that wait for those before them.
const MAX_CONCURRENT: usize = 16;

/// What MIG writes into an action besides its name and operations.
const IGNORED_KEYS: [&str; 14] = [
    "id",
    "target",
    "description",
    "threat",
    "validfrom",
    "expireafter",
    "pgpsignatures",
    "investigators",
    "status",
    "starttime",
    "finishtime",
    "lastupdatetime",
    "counters",
    "syntaxversion",
];

/// The keys of an object as they were written.
type Fields = BTreeMap<String, Box<RawValue>>;

/// An action, as far as one host carries it out.
#[derive(Debug)]
pub(crate) struct Action {
    /// What to ask, in the order of the file; never empty.
    pub(crate) operations: Vec<Operation>,
    /// Keys that mean nothing here.
    ignored: Vec<String>,
}

/// One question of an action.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) module: ModuleName,
    pub(crate) parameters: Option<Box<RawValue>>,
}

/// Why a file cannot be used as an action.
#[derive(Debug, thiserror::Error)]
enum ActionError {
    #[error("cannot read the action file {path:?}: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{path:?} is larger than {MAX_FILE_BYTES} bytes, the most for an action file")]
    TooLarge { path: PathBuf },
    #[error("{path:?}: {problem}")]
    Invalid { path: PathBuf, problem: Problem },
}

/// What is wrong in an action, and where.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Problem {
    #[error("not a JSON object: {0}")]
    NotAnObject(String),
    #[error("{0}")]
    Action(String),
    #[error("operation {number}: {what}")]
    Operation {
        /// Position in the list, from 1.
        number: usize,
        /// The field and what is wrong with it.
        what: String,
    },
}

impl From<ActionError> for Failure {
    fn from(error: ActionError) -> Self {
        let exit = match error {
            ActionError::Unreadable { .. } => Exit::Io,
            ActionError::TooLarge { .. } | ActionError::Invalid { .. } => Exit::Usage,
        };
        let hint = match error {
            ActionError::Unreadable { .. } => "name a file that you may read",
            _ => {
                "nothing was asked; an action is {\"name\": TEXT, \"operations\": [{\"module\": NAME, \"parameters\": {…}}, …]}"
            }
        };
        Self::new(exit, error.to_string(), hint)
    }
}

/// An answer as JSON.
#[derive(Serialize)]
struct Answer<'a> {
    /// Position in the file, from 1.
    operation: usize,
    module: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a ModuleResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Refusal<'a>>,
}

/// Why there is no result.
#[derive(Serialize)]
struct Refusal<'a> {
    message: &'a str,
    hint: &'a str,
}

/// A question that was asked.
struct Asked {
    /// Position in the file, from 1.
    number: usize,
    module: ModuleName,
    answer: JoinHandle<Result<ModuleResult, Failure>>,
}

/// Carries out `query -i`.
pub(crate) fn run(args: &QueryArgs, socket: &Path, printer: &mut Printer) -> Result<Exit, Failure> {
    let path = args.action.as_deref().ok_or_else(|| {
        Failure::new(Exit::Usage, "neither a module nor an action file is named", "see `vigie query --help`")
    })?;
    let action = read(path)?;
    if !action.ignored.is_empty() {
        print::note(&format!(
            "{}: ignored, because this host is asked at once and signatures are not checked: {}",
            path.display(),
            action.ignored.join(", ")
        ));
    }
    // Without an agent there is one reason, not one for each operation.
    drop(Client::connect(socket)?);

    let mut waiting = action.operations.into_iter().enumerate();
    let mut asked = VecDeque::new();
    let mut exit = Exit::Ok;
    loop {
        while asked.len() < MAX_CONCURRENT
            && let Some((at, operation)) = waiting.next()
        {
            asked.push_back(start(at + 1, operation, socket, args.answer.timeout)?);
        }
        let Some(Asked { number, module, answer }) = asked.pop_front() else { return Ok(exit) };
        let answer = answer.join().unwrap_or_else(|_| {
            Err(Failure::new(Exit::Internal, "the question ended without an answer", ""))
        });
        let is_well =
            answer.as_ref().is_ok_and(|result| query::exit_of(result, args.answer.fail_if_none) == Exit::Ok);
        if !is_well {
            exit = Exit::NotWell;
        }
        show(number, module.as_str(), &answer, printer)?;
    }
}

/// Asks one question in a thread of its own.
fn start(
    number: usize,
    operation: Operation,
    socket: &Path,
    timeout: Option<Duration>,
) -> Result<Asked, Failure> {
    let Operation { module, parameters } = operation;
    let question = Question { module: module.as_str().to_owned(), parameters, timeout };
    let socket = socket.to_owned();
    let answer = std::thread::Builder::new()
        .name(format!("operation {number}"))
        .spawn(move || question.ask(&socket))
        .map_err(|error| {
            Failure::new(
                Exit::Internal,
                format!("cannot start a thread for operation {number}: {error}"),
                "see `ulimit -u`",
            )
        })?;
    Ok(Asked { number, module, answer })
}

/// Prints an answer, or why there is none.
fn show(
    number: usize,
    module: &str,
    answer: &Result<ModuleResult, Failure>,
    printer: &mut Printer,
) -> Result<(), Failure> {
    if printer.is_json() {
        let error = answer.as_ref().err();
        let error = error.map(|failure| Refusal { message: &failure.message, hint: &failure.hint });
        return printer.json(&Answer { operation: number, module, result: answer.as_ref().ok(), error });
    }
    let text = match answer {
        Ok(result) => query::render(module, result, printer.paint()),
        Err(failure) => {
            let word = printer.paint().text(Tone::Bad, "not answered");
            format!("{module}: {word}\n{}\n  {}", safe(&failure.message), safe(&failure.hint))
        }
    };
    printer.line(&format!("operation {number} {}", text.trim_end()))
}

/// Reads and checks an action file.
fn read(path: &Path) -> Result<Action, ActionError> {
    let unreadable = |source| ActionError::Unreadable { path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(ActionError::TooLarge { path: path.to_owned() });
    }
    parse(&text).map_err(|problem| ActionError::Invalid { path: path.to_owned(), problem })
}

/// Checks the text of an action. The parameters stay as they are written, for the module to judge.
pub(crate) fn parse(text: &str) -> Result<Action, Problem> {
    let wrong = |what: &str| Problem::Action(what.to_owned());
    let mut fields: Fields =
        serde_json::from_str(text).map_err(|error| Problem::NotAnObject(error.to_string()))?;
    if let Some(name) = fields.remove("name") {
        let _: String = serde_json::from_str(name.get()).map_err(|_| wrong("name: must be a text"))?;
    }
    let operations = fields.remove("operations").ok_or_else(|| wrong("operations: is missing"))?;
    if let Some(key) = fields.keys().find(|key| !IGNORED_KEYS.contains(&key.as_str())) {
        return Err(Problem::Action(format!("{key}: is not a key of an action")));
    }
    let operations: Vec<Box<RawValue>> =
        serde_json::from_str(operations.get()).map_err(|_| wrong("operations: must be a list"))?;
    if operations.is_empty() {
        return Err(wrong("operations: is empty"));
    }
    if operations.len() > MAX_OPERATIONS {
        return Err(Problem::Action(format!(
            "operations: has {} items, more than {MAX_OPERATIONS}",
            operations.len()
        )));
    }
    let operations = operations
        .iter()
        .enumerate()
        .map(|(at, operation)| {
            parse_operation(operation).map_err(|what| Problem::Operation { number: at + 1, what })
        })
        .collect::<Result<_, _>>()?;
    Ok(Action { operations, ignored: fields.into_keys().collect() })
}

/// Checks one operation; the error begins with the field.
fn parse_operation(operation: &RawValue) -> Result<Operation, String> {
    let mut fields: Fields =
        serde_json::from_str(operation.get()).map_err(|_| "must be an object".to_owned())?;
    let module = fields.remove("module").ok_or("module: is missing")?;
    let module: String = serde_json::from_str(module.get()).map_err(|_| "module: must be a text")?;
    let module = ModuleName::try_from(module).map_err(|error| format!("module: {error}"))?;
    let parameters = fields.remove("parameters").filter(|parameters| parameters.get() != "null");
    // How MIG's client and agent compress parameters on their way; in a file they are plain.
    fields.remove("want_compressed");
    if fields.remove("is_compressed").is_some_and(|value| value.get() != "false") {
        return Err("is_compressed: compressed parameters cannot be read; write them as JSON".to_owned());
    }
    match fields.keys().next() {
        Some(key) => Err(format!("{key}: is not a key of an operation")),
        None => Ok(Operation { module, parameters }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_action_of_mig_is_read_and_what_means_nothing_here_is_named() {
        let text = r#"{
            "name": "find keys", "target": "environment->>'os'='linux'", "threat": {"level": "high"},
            "description": {"author": "ada"}, "pgpsignatures": [], "syntaxversion": 2,
            "operations": [
                {"module": "file", "parameters": {"searches": {"s": {"big": 12345678901234567890123}}}},
                {"module": "timedrift", "parameters": null, "want_compressed": true, "is_compressed": false},
                {"module": "mine"}
            ]
        }"#;

        let action = parse(text).unwrap();

        let modules: Vec<&str> =
            action.operations.iter().map(|operation| operation.module.as_str()).collect();
        assert_eq!(modules, ["file", "timedrift", "mine"]);
        let parameters = action.operations[0].parameters.as_ref().unwrap();
        assert_eq!(parameters.get(), r#"{"searches": {"s": {"big": 12345678901234567890123}}}"#);
        assert!(action.operations[1].parameters.is_none());
        assert_eq!(action.ignored, ["description", "pgpsignatures", "syntaxversion", "target", "threat"]);
    }

    #[test]
    fn a_wrong_action_says_where_it_is_wrong() {
        for (text, said) in [
            ("", "not a JSON object: EOF"),
            ("[]", "not a JSON object: invalid type"),
            ("{\"operations\": [", "line 1 column 16"),
            ("{}", "operations: is missing"),
            (r#"{"operations": {}}"#, "operations: must be a list"),
            (r#"{"operations": []}"#, "operations: is empty"),
            (r#"{"name": 1, "operations": [{"module": "a"}]}"#, "name: must be a text"),
            (r#"{"targets": "", "operations": [{"module": "a"}]}"#, "targets: is not a key"),
            (r#"{"operations": [{"module": "a"}, 5]}"#, "operation 2: must be an object"),
            (r#"{"operations": [{"module": "a"}, {}]}"#, "operation 2: module: is missing"),
            (r#"{"operations": [{"module": 5}]}"#, "operation 1: module: must be a text"),
            (r#"{"operations": [{"module": "../a"}]}"#, "operation 1: module: "),
            (
                r#"{"operations": [{"module": "a", "paramaters": {}}]}"#,
                "operation 1: paramaters: is not a key",
            ),
            (
                r#"{"operations": [{"module": "a", "parameters": "H4sI", "is_compressed": true}]}"#,
                "operation 1: is_compressed: ",
            ),
        ] {
            let problem = parse(text).unwrap_err().to_string();
            assert!(problem.contains(said), "{text}: {problem}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_or_is_too_large_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let large = directory.path().join("large.json");
        File::create(&large).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();

        let absent = Failure::from(read(&directory.path().join("absent.json")).unwrap_err());
        let large = Failure::from(read(&large).unwrap_err());

        assert_eq!((absent.exit, large.exit), (Exit::Io, Exit::Usage));
        assert!(absent.message.contains("absent.json"), "{}", absent.message);
        assert!(large.message.contains("large.json"), "{}", large.message);
    }

    proptest! {
        #[test]
        fn operations_keep_their_order_and_their_parameters(
            operations in proptest::collection::vec(("[a-z][a-z0-9_-]{0,31}", any::<Option<i64>>()), 1..40),
        ) {
            let list: Vec<_> = operations
                .iter()
                .map(|(module, number)| json!({"module": module, "parameters": number}))
                .collect();

            let action = parse(&json!({"name": "x", "operations": list}).to_string()).unwrap();

            let read: Vec<_> = action
                .operations
                .iter()
                .map(|operation| {
                    let number = operation.parameters.as_ref().map(|raw| raw.get().parse::<i64>().unwrap());
                    (operation.module.as_str().to_owned(), number)
                })
                .collect();
            prop_assert_eq!(read, operations);
        }

        #[test]
        fn no_text_makes_reading_panic(text in any::<String>()) {
            let _ = parse(&text);
            let _ = parse(&json!({"operations": [text]}).to_string());
        }
    }
}
