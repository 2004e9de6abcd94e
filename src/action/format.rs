//! The format of action files, MIG's, and what is wrong with one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use vigie_protocol::json;
use vigie_protocol::module_name::ModuleName;

use crate::exit::{Exit, Failure};

/// Largest action file in bytes; a larger one is refused. A search is a few hundred bytes.
pub(crate) const MAX_FILE_BYTES: u64 = 16 << 20;

/// Most operations in one file; more are refused.
const MAX_OPERATIONS: usize = 10_000;

/// What MIG writes into an action that means nothing here: its server's own notes, and signatures that are checked
/// with PGP.
const IGNORED_KEYS: [&str; 9] = [
    "id",
    "pgpsignatures",
    "investigators",
    "status",
    "starttime",
    "finishtime",
    "lastupdatetime",
    "counters",
    "syntaxversion",
];

/// The keys of an object in lower case, as Go reads them, and their values as they were written.
type Fields = BTreeMap<String, Box<RawValue>>;

/// An action.
#[derive(Debug)]
pub(crate) struct Action {
    /// What it is called.
    pub(crate) name: Option<String>,
    /// Which hosts it is for.
    pub(crate) target: Option<String>,
    /// What to ask, in the order of the file; never empty.
    pub(crate) operations: Vec<Operation>,
    /// When it may be run.
    pub(crate) validity: Validity,
    /// What it is about, in the words of whoever wrote it: `level high, family x`.
    about: Vec<String>,
    /// Keys that mean nothing here.
    pub(super) ignored: Vec<String>,
}

/// From when to when an action may be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Validity {
    /// Not before this time.
    pub(crate) from: Option<Timestamp>,
    /// No longer than this.
    pub(crate) until: Option<Until>,
}

/// The end of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// So long from now on.
    Length(Duration),
    /// This moment.
    Moment(Timestamp),
}

impl Validity {
    /// Why the action is not valid now.
    pub(crate) fn problem(self, now: Timestamp) -> Option<String> {
        match self {
            Self { from: Some(from), .. } if from > now => {
                Some(format!("validfrom: {from} is in the future"))
            }
            Self { until: Some(Until::Moment(end)), .. } if end <= now => {
                Some(format!("expireafter: {end} is in the past"))
            }
            _ => None,
        }
    }

    /// How long it may still be started.
    pub(crate) fn left(self, now: Timestamp) -> Option<Duration> {
        match self.until? {
            Until::Length(length) => Some(length),
            Until::Moment(end) => Duration::try_from(end.duration_since(now)).ok(),
        }
    }
}

/// One question of an action.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) module: ModuleName,
    pub(crate) parameters: Option<Box<RawValue>>,
}

/// Why a file cannot be used as an action.
#[derive(Debug, thiserror::Error)]
pub(super) enum ActionError {
    #[error("cannot read the action file {path:?}: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{path:?} exceeds {MAX_FILE_BYTES} bytes, the limit for an action file")]
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
            ActionError::Unreadable { .. } => "give a file that you may read",
            _ => {
                "nothing was run; an action is {\"name\": TEXT, \"operations\": [{\"module\": NAME, \"parameters\": {…}}, …]}"
            }
        };
        Self::new(exit, error.to_string(), hint)
    }
}

/// Name of an action whose file gives none.
pub(crate) const UNNAMED: &str = "action";

/// Reads and checks an action file.
pub(super) fn read(path: &Path) -> Result<Action, ActionError> {
    let unreadable = |source| ActionError::Unreadable { path: path.to_owned(), source };
    let mut text = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(ActionError::TooLarge { path: path.to_owned() });
    }
    parse(&text).map_err(|problem| ActionError::Invalid { path: path.to_owned(), problem })
}

/// Checks the text of an action, however it is laid out. The parameters are written anew on one line, for the module
/// to judge.
pub(crate) fn parse(text: &[u8]) -> Result<Action, Problem> {
    let wrong = |what: &str| Problem::Action(what.to_owned());
    let text = json::compact(text).map_err(|error| Problem::NotAnObject(error.to_string()))?;
    let mut fields = fields(&text).map_err(Problem::NotAnObject)?;
    let mut take = |key: &str| fields.remove(key).filter(|value| value.get() != "null");
    let name = take("name").map(|name| read_as(&name).ok_or_else(|| wrong("name: must be a text")));
    let target = take("target").map(|target| read_as(&target).ok_or_else(|| wrong("target: must be a text")));
    let (name, target): (Option<String>, Option<String>) = (name.transpose()?, target.transpose()?);
    let validity =
        validity(take("validfrom").as_deref(), take("expireafter").as_deref()).map_err(Problem::Action)?;
    let about = ["threat", "description"].iter().filter_map(|key| about(&take(key)?)).collect();
    let operations = take("operations").ok_or_else(|| wrong("operations: is missing"))?;
    if let Some(key) = fields.keys().find(|key| !IGNORED_KEYS.contains(&key.as_str())) {
        return Err(Problem::Action(format!("{key}: unknown key of an action")));
    }
    let operations: Vec<Box<RawValue>> =
        read_as(&operations).ok_or_else(|| wrong("operations: must be a list"))?;
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
    let ignored = fields.into_keys().collect();
    Ok(Action { name, target, operations, validity, about, ignored })
}

fn read_as<T: DeserializeOwned>(raw: &RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

/// The fields of an object, in lower case; of two that are the same the last one counts, as in Go.
fn fields(object: &RawValue) -> Result<Fields, String> {
    let fields: serde_json::Result<Pairs> = serde_json::from_str(object.get());
    fields.map(|pairs| pairs.0).map_err(|error| error.to_string())
}

/// An object's fields as they are read.
struct Pairs(Fields);

impl<'de> serde::Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut fields = Fields::new();
                while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    fields.insert(key.to_lowercase(), value);
                }
                Ok(Pairs(fields))
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// Reads when an action may be run. Go writes a time that nobody has set as the year 1.
fn validity(from: Option<&RawValue>, until: Option<&RawValue>) -> Result<Validity, String> {
    let text = |key: &str, raw: &RawValue| read_as::<String>(raw).ok_or(format!("{key}: must be a text"));
    let is_set = |time: &Timestamp| time.as_second() > 0;
    let from = match from.map(|raw| text("validfrom", raw)).transpose()?.filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => {
            let time = text.parse().map_err(|_| format!("validfrom: {text:?} is not an RFC 3339 time"))?;
            Some(time).filter(is_set)
        }
    };
    let until = match until.map(|raw| text("expireafter", raw)).transpose()?.filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => match (humantime::parse_duration(&text), text.parse()) {
            (Ok(length), _) => Some(Until::Length(length)),
            (_, Ok(moment)) => Some(moment).filter(is_set).map(Until::Moment),
            _ => {
                return Err(format!(
                    "expireafter: {text:?} is neither a duration such as 1h nor an RFC 3339 time"
                ));
            }
        },
    };
    Ok(Validity { from, until })
}

/// What a threat or a description says in texts and numbers, such as `level high, family x`.
fn about(object: &RawValue) -> Option<String> {
    let fields: BTreeMap<String, serde_json::Value> = read_as(object)?;
    let said = fields.iter().filter_map(|(key, value)| {
        let text = match value {
            serde_json::Value::String(text) if !text.is_empty() => text.clone(),
            serde_json::Value::Number(number) => number.to_string(),
            _ => return None,
        };
        Some(format!("{key} {text}"))
    });
    Some(said.collect::<Vec<_>>().join(", ")).filter(|said| !said.is_empty())
}

impl Action {
    /// What whoever asks one host should know of it.
    pub(super) fn notes(&self, now: Timestamp) -> Vec<String> {
        let mut notes = Vec::new();
        if let Some(name) = self.name.as_deref().filter(|name| !name.is_empty()) {
            let about: String = self.about.iter().map(|about| format!("; {about}")).collect();
            notes.push(format!("{name}{about}"));
        }
        notes.extend(self.validity.problem(now).map(|problem| format!("{problem}; the query is run anyway")));
        let mut ignored: Vec<&str> = self.ignored.iter().map(String::as_str).collect();
        if self.target.as_deref().is_some_and(|target| !target.is_empty()) {
            ignored.push("target (name one with -t)");
        }
        if !ignored.is_empty() {
            notes.push(format!(
                "ignored, because the local agent runs the query at once without checking signatures: {}",
                ignored.join(", ")
            ));
        }
        notes
    }
}

impl Operation {
    /// The same as it is signed for a fleet.
    pub(crate) fn signed(self) -> vigie_fleet::action::Operation {
        vigie_fleet::action::Operation { module: self.module.as_str().to_owned(), params: self.parameters }
    }
}

/// Checks one operation; the error begins with the field.
fn parse_operation(operation: &RawValue) -> Result<Operation, String> {
    let mut fields = fields(operation).map_err(|_| "must be an object".to_owned())?;
    let module = fields.remove("module").ok_or("module: is missing")?;
    let module: String = read_as(&module).ok_or("module: must be a text")?;
    let module = ModuleName::try_from(module).map_err(|error| format!("module: {error}"))?;
    let parameters = fields.remove("parameters").filter(|parameters| parameters.get() != "null");
    // How MIG's client and agent compress parameters on their way; in a file they are plain.
    fields.remove("want_compressed");
    if fields.remove("is_compressed").is_some_and(|value| value.get() != "false") {
        return Err("is_compressed: compressed parameters cannot be read; write them as JSON".to_owned());
    }
    match fields.keys().next() {
        Some(key) => Err(format!("{key}: unknown key of an operation")),
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

        let action = parse(text.as_bytes()).unwrap();

        let modules: Vec<&str> =
            action.operations.iter().map(|operation| operation.module.as_str()).collect();
        assert_eq!(modules, ["file", "timedrift", "mine"]);
        let parameters = action.operations[0].parameters.as_ref().unwrap();
        assert_eq!(parameters.get(), r#"{"searches":{"s":{"big":12345678901234567890123}}}"#);
        assert!(action.operations[1].parameters.is_none());
        assert_eq!(action.ignored, ["pgpsignatures", "syntaxversion"]);
        let notes = action.notes(Timestamp::now());
        assert_eq!(notes[0], "find keys; level high; author ada");
        assert!(notes[1].ends_with("pgpsignatures, syntaxversion, target (name one with -t)"), "{notes:?}");
    }

    #[test]
    fn an_action_is_read_however_it_is_laid_out() {
        let compact = r#"{"NAME":"x","Operations":[{"Module":"a","Parameters":{"b":[1,"c\nd"]}}],"validFrom":"0001-01-01T00:00:00Z"}"#;
        let value: serde_json::Value = serde_json::from_str(compact).unwrap();
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        let crlf = format!("\u{feff}{}\r\n\r\n", pretty.replace('\n', "\r\n"));

        for text in [compact, &pretty, &crlf] {
            let action = parse(text.as_bytes()).unwrap();

            assert_eq!(action.operations[0].parameters.as_ref().unwrap().get(), r#"{"b":[1,"c\nd"]}"#);
            assert_eq!((action.name.as_deref(), action.validity), (Some("x"), Validity::default()));
        }
    }

    #[test]
    fn the_time_of_an_action_is_a_moment_or_a_length() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let read = |fields: &str| {
            parse(format!(r#"{{{fields},"operations":[{{"module":"a"}}]}}"#).as_bytes())
                .map(|action| action.validity)
        };

        let both =
            read(r#""validfrom":"2026-01-01T00:00:00Z","expireafter":"2026-01-02T00:00:00.000Z""#).unwrap();
        assert_eq!(both.problem(at("2026-01-01T12:00:00Z")), None);
        assert_eq!(both.left(at("2026-01-01T12:00:00Z")), Some(Duration::from_secs(43_200)));
        assert!(both.problem(at("2025-12-31T00:00:00Z")).unwrap().starts_with("validfrom: "));
        assert!(both.problem(at("2026-01-02T00:00:00Z")).unwrap().ends_with("is in the past"));
        assert_eq!(
            read(r#""expireafter":"30m""#).unwrap().left(at("2026-01-01T00:00:00Z")),
            Some(Duration::from_secs(1800))
        );
        assert!(read(r#""expireafter":"soon""#).unwrap_err().to_string().contains("neither"));
        assert!(read(r#""validfrom":5"#).unwrap_err().to_string().contains("validfrom: must be a text"));
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
            (r#"{"targets": "", "operations": [{"module": "a"}]}"#, "targets: unknown key"),
            (r#"{"operations": [{"module": "a"}, 5]}"#, "operation 2: must be an object"),
            (r#"{"operations": [{"module": "a"}, {}]}"#, "operation 2: module: is missing"),
            (r#"{"operations": [{"module": 5}]}"#, "operation 1: module: must be a text"),
            (r#"{"operations": [{"module": "../a"}]}"#, "operation 1: module: "),
            (
                r#"{"operations": [{"module": "a", "paramaters": {}}]}"#,
                "operation 1: paramaters: unknown key",
            ),
            (
                r#"{"operations": [{"module": "a", "parameters": "H4sI", "is_compressed": true}]}"#,
                "operation 1: is_compressed: ",
            ),
        ] {
            let problem = parse(text.as_bytes()).unwrap_err().to_string();
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

            let action = parse(json!({"name": "x", "operations": list}).to_string().as_bytes()).unwrap();

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
            let _ = parse(text.as_bytes());
            let _ = parse(json!({"operations": [text]}).to_string().as_bytes());
        }
    }
}
