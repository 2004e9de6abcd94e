//! `vigie query`.

pub(crate) mod arguments;
pub(crate) mod paths;

use std::path::Path;
use std::time::Duration;

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};
use vigie_protocol::control::{Reply, Request};
use vigie_protocol::json;
use vigie_protocol::message::Progress;
use vigie_protocol::result::{ModuleResult, Verdict};

use self::arguments::{AnswerOptions, QueryArgs, QueryOptions, QueryTarget};
use self::paths::refuse_relative;
use crate::action;
use crate::client::{self, Client};
use crate::events_alert;
use crate::events_flags::EventsFlags;
use crate::exit::{Exit, Failure};
use crate::fleet;
use crate::fswatch_view;
use crate::interrupts::{Connections, Interrupted, Interrupts, given_up};
use crate::print::{self, Printer};
use crate::progress::ProgressLine;
use crate::report;
use crate::table::Room;

/// The longest `moduletimeout` that an agent can be configured with.
const LONGEST_QUERY: Duration = Duration::from_secs(3600);

/// Time for the agent to say that the module's time is over.
const MARGIN: Duration = Duration::from_secs(10);

/// Deepest indentation; deeper values are shown on their parent's level.
const MAX_INDENTATION: usize = 32;

/// What to ask a module.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// The module.
    pub(crate) module: String,
    /// Its parameters.
    pub(crate) parameters: Option<Box<RawValue>>,
    /// Longest wait for the answer.
    pub(crate) timeout: Option<Duration>,
}

impl Question {
    /// The same with a line that shows how far it is, and with Ctrl-C for what was found so far.
    pub(crate) fn ask_watched(
        self,
        client: &mut Client,
        mut line: Option<ProgressLine>,
        interrupts: Option<&Interrupts>,
    ) -> Result<ModuleResult, Failure> {
        let module = self.module.clone();
        let connections = Connections::default();
        connections.add(client)?;
        let ask = move || match &mut line {
            Some(line) => self.ask_on(client, Some(&mut |progress| line.show(progress))),
            None => self.ask_on(client, None),
        };
        let Some(interrupts) = interrupts else { return ask() };
        match interrupts.during(&connections, ask) {
            (_, Interrupted::GivenUp) => Err(given_up(&format!("the query to {module}"))),
            (result, _) => result,
        }
    }

    /// The same on a connection of the caller's; `progress` is told how far it is.
    pub(crate) fn ask_on(
        self,
        client: &mut Client,
        mut progress: Option<&mut dyn FnMut(&Progress)>,
    ) -> Result<ModuleResult, Failure> {
        let limit = self.timeout.unwrap_or(LONGEST_QUERY).min(LONGEST_QUERY) + MARGIN;
        let request = Request::Query {
            module: self.module,
            parameters: self.parameters,
            timeout_ms: self.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
            progress: progress.is_some(),
        };
        client.send(&request, Some(limit))?;
        loop {
            match (client.receive()?, &mut progress) {
                (Reply::Progress(news), Some(progress)) => progress(&news),
                (Reply::Result(result), _) => return Ok(result),
                (other, _) => return Err(client::unexpected(&other)),
            }
        }
    }
}

/// Carries out `query`.
pub(crate) fn run(
    args: &QueryArgs,
    socket: &Path,
    make_printer: impl Fn(bool) -> Printer,
) -> Result<Exit, Failure> {
    let Some(target) = &args.target else {
        return action::run(args, socket, make_printer);
    };
    if let QueryTarget::Events { flags, options } = target
        && (flags.alert.is_some() || flags.alerts)
    {
        return with_alerts(flags, options, socket, make_printer);
    }
    let (question, options) = question(target)?;
    if let Some(target) = &options.fleet.target {
        let mut printer = make_printer(options.answer.json);
        return fleet::ask::run(&question.into(), target, &options.fleet, &mut printer);
    }
    let module = question.module.clone();
    let asks_nothing = question.parameters.is_none();
    let line = ProgressLine::new(options.progress, options.answer.json);
    let interrupts = Interrupts::new().ok();
    let result = question.ask_watched(&mut Client::connect(socket)?, line, interrupts.as_ref())?;
    show(&module, &result, &options.answer, &mut make_printer(options.answer.json))?;
    if asks_nothing && !result.rejected && !result.foundanything && result.verdict() != Verdict::Absent {
        print::note(&format!("`vigie query {module} --help` lists the parameters"));
    }
    if result.rejected {
        print::note(&format!("`vigie query {module} --help` describes the parameters"));
    }
    match exit_of(&result, options.answer.fail_if_none) {
        Exit::Ok if has_findings(&module, &result) => Ok(Exit::NotWell),
        exit => Ok(exit),
    }
}

/// Carries out `query events` with `--alert` or `--alerts`, which read the journal of this host as well.
fn with_alerts(
    flags: &EventsFlags,
    options: &QueryOptions,
    socket: &Path,
    make_printer: impl Fn(bool) -> Printer,
) -> Result<Exit, Failure> {
    if options.fleet.target.is_some() {
        let message = "--alert and --alerts read the journal of one host".to_owned();
        return Err(Failure::new(
            Exit::Usage,
            message,
            "query the host that has the alert, without --target",
        ));
    }
    let most = flags.clone().parameters();
    let asked = match flags.alert {
        Some(seq) => events_alert::questions(seq, socket)?,
        None => vec![Map::new()],
    };
    let mut found = None;
    for mut question in asked {
        question.extend(most.clone());
        let parameters = parameters(question, &options.parameters, options.json_params.as_deref())?;
        let question = Question { module: "events".to_owned(), parameters, timeout: options.answer.timeout };
        let result = question.ask_on(&mut Client::connect(socket)?, None)?;
        let is_found = result.foundanything || !result.success;
        found = Some(result);
        if is_found {
            break;
        }
    }
    let Some(mut result) = found else {
        return Err(Failure::new(Exit::NotKnown, "nothing was run".to_owned(), "name an alert"));
    };
    events_alert::add_alerts(&mut result, socket)?;
    show("events", &result, &options.answer, &mut make_printer(options.answer.json))?;
    Ok(exit_of(&result, options.answer.fail_if_none))
}

/// Whether a verification of packages found differences: scripts must not take these for success, as dpkg has them.
fn has_findings(module: &str, result: &ModuleResult) -> bool {
    let elements = result.elements.as_deref().map_or("", RawValue::get);
    module == "packages" && result.foundanything && elements.starts_with("{\"findings\"")
}

/// What a command line asks, and how.
pub(crate) fn question(target: &QueryTarget) -> Result<(Question, &QueryOptions), Failure> {
    let (module, flags, options) = match target {
        QueryTarget::Accounts { flags, options } => ("accounts", flags.clone().parameters(), options),
        QueryTarget::Events { flags, options } => ("events", flags.clone().parameters(), options),
        QueryTarget::Persistence { flags, options } => ("persistence", flags.clone().parameters(), options),
        QueryTarget::Fswatch { flags, options } => ("fswatch", flags.clone().parameters(), options),
        QueryTarget::Netstat { flags, options } => ("netstat", flags.clone().parameters(), options),
        QueryTarget::Packages { flags, options } => ("packages", flags.clone().parameters(), options),
        QueryTarget::Processes { flags, options } => ("processes", flags.clone().parameters(), options),
        QueryTarget::Timedrift { flags, options } => ("timedrift", flags.clone().parameters(), options),
        QueryTarget::File { flags, options } => ("file", flags.clone().parameters(), options),
        QueryTarget::Other { module, options } => (module.as_str(), Map::new(), options),
    };
    if options.fleet.target.is_some() {
        match target {
            QueryTarget::Accounts { flags, .. } => refuse_relative(flags.paths())?,
            QueryTarget::Persistence { flags, .. } => refuse_relative(flags.paths())?,
            QueryTarget::Fswatch { flags, .. } => refuse_relative(flags.paths())?,
            QueryTarget::Packages { flags, .. } => refuse_relative(flags.paths())?,
            QueryTarget::File { flags, .. } => refuse_relative(flags.paths())?,
            _ => {}
        }
    }
    let parameters = parameters(flags, &options.parameters, options.json_params.as_deref())?;
    if options.answer.csv {
        report::check_csv(module, parameters.as_deref())?;
    }
    Ok((Question { module: module.to_owned(), parameters, timeout: options.answer.timeout }, options))
}

/// Prints a result.
pub(crate) fn show(
    module: &str,
    result: &ModuleResult,
    answer: &AnswerOptions,
    printer: &mut Printer,
) -> Result<(), Failure> {
    if answer.csv {
        let csv = report::csv(module, result).map_err(|problem| report::no_csv(module, problem))?;
        for error in result.errors.iter().flatten() {
            print::note(error);
        }
        return printer.raw(csv.as_bytes());
    }
    if answer.wide {
        printer.for_people();
    }
    if printer.is_json() {
        return printer.json(result);
    }
    let room = Room { width: printer.width(), wide: answer.wide };
    if module == "fswatch"
        && let Some(text) = fswatch_view::of_result(result, room, printer.paint())
    {
        return printer.line(text.trim_end());
    }
    let text = report::text(module, result, room, printer.paint());
    printer.line(text.trim_end())
}

/// What the exit code says of a result: nothing found is only well when that is proved.
pub(crate) fn exit_of(result: &ModuleResult, fail_if_none: bool) -> Exit {
    match result.verdict() {
        _ if result.rejected => Exit::Usage,
        // What was found before a search was stopped is found.
        Verdict::Found if result.success || result.coverage.is_some() => Exit::Ok,
        Verdict::Absent if !fail_if_none => Exit::Ok,
        Verdict::NotKnown => Exit::NotKnown,
        Verdict::Found | Verdict::Absent | Verdict::Failed => Exit::NotWell,
    }
}

/// The query's parameters as JSON; `None` when there are none.
fn parameters(
    flags: Map<String, Value>,
    pairs: &[String],
    whole: Option<&str>,
) -> Result<Option<Box<RawValue>>, Failure> {
    let wrong = |what: String| {
        Failure::new(
            Exit::Usage,
            what,
            "use --param KEY=TEXT, --param KEY:=JSON, or --json-params '{\"key\": …}'",
        )
    };
    if let Some(whole) = whole {
        if let Some(flag) = flags.keys().next() {
            return Err(wrong(format!("--json-params cannot be combined with other parameters ({flag})")));
        }
        return json::compact(whole.as_bytes())
            .map(Some)
            .map_err(|error| wrong(format!("--json-params is not valid JSON: {error}")));
    }
    if pairs.is_empty() && flags.is_empty() {
        return Ok(None);
    }
    let mut object = flags;
    for pair in pairs {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| wrong(format!("--param {pair:?} has no equals sign")))?;
        let (key, value) = match key.strip_suffix(':') {
            Some(key) => {
                let value = serde_json::from_str(value)
                    .map_err(|error| wrong(format!("--param {pair:?} is not valid JSON: {error}")))?;
                (key, value)
            }
            None => (key, Value::String(value.to_owned())),
        };
        if key.is_empty() {
            return Err(wrong(format!("--param {pair:?} has no key")));
        }
        add(&mut object, key, value);
    }
    to_raw_value(&object)
        .map(Some)
        .map_err(|error| wrong(format!("the parameters cannot be written: {error}")))
}

/// Adds a parameter; one that is there already becomes a list.
fn add(object: &mut Map<String, Value>, key: &str, value: Value) {
    match object.get_mut(key) {
        Some(Value::Array(list)) => list.push(value),
        Some(first) => *first = Value::Array(vec![first.take(), value]),
        None => {
            object.insert(key.to_owned(), value);
        }
    }
}

/// JSON text on many lines, with numbers and the order of keys exactly as they are written.
pub(crate) fn indented(json: &str) -> String {
    let mut text = String::with_capacity(json.len() * 2);
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut escaped = false;
    let mut characters = json.chars().filter(|character| !matches!(character, '\n' | '\r' | '\t')).peekable();
    let line = |text: &mut String, depth: usize| {
        text.push('\n');
        text.extend(std::iter::repeat_n("  ", depth.min(MAX_INDENTATION)));
    };
    while let Some(character) = characters.next() {
        if in_string {
            text.push(character);
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
            continue;
        }
        match character {
            ' ' => {}
            '{' | '[' => {
                text.push(character);
                while characters.next_if_eq(&' ').is_some() {}
                if characters.peek().is_some_and(|next| matches!(next, '}' | ']')) {
                    text.extend(characters.next());
                } else {
                    depth += 1;
                    line(&mut text, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut text, depth);
                text.push(character);
            }
            ',' => {
                text.push(character);
                line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            _ => {
                in_string = character == '"';
                text.push(character);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use proptest::prelude::*;

    use super::*;

    fn json_of(pairs: &[&str]) -> String {
        let pairs: Vec<String> = pairs.iter().map(|pair| (*pair).to_owned()).collect();
        parameters(Map::new(), &pairs, None).unwrap().unwrap().get().to_owned()
    }

    #[test]
    fn parameters_are_text_unless_they_say_json_and_repeat_into_lists() {
        assert_eq!(json_of(&["string=a=b"]), r#"{"string":"a=b"}"#);
        assert_eq!(json_of(&["port=22", "port=80", "ns:=true"]), r#"{"ns":true,"port":["22","80"]}"#);
        assert_eq!(json_of(&["list:=[1]", "list:=2"]), r#"{"list":[1,2]}"#);
        assert!(parameters(Map::new(), &[], None).unwrap().is_none());
    }

    /// Whether a question is refused before anything is asked.
    fn ask(line: &str) -> Result<(), Exit> {
        let words = line.split(' ').map(std::ffi::OsString::from);
        let target = arguments::QueryLine::try_parse_from(words).unwrap().target().unwrap();
        question(&target).map(|_| ()).map_err(|failure| failure.exit)
    }

    #[test]
    fn csv_of_what_is_not_one_table_is_refused_before_anything_is_asked() {
        for (asked, expected) in [
            ("accounts", Err(Exit::Usage)),
            ("accounts --what users --what keys", Err(Exit::Usage)),
            ("accounts --what users", Ok(())),
            ("accounts -p What=users", Ok(())),
            ("fswatch", Err(Exit::Usage)),
            ("netstat --listening", Ok(())),
        ] {
            assert_eq!(ask(&format!("vigie query {asked} --csv")), expected, "{asked}");
        }
    }

    #[test]
    fn a_fleet_is_asked_about_absolute_paths_only() {
        for asked in [
            "file --path etc",
            "accounts --root mnt",
            "persistence --root ./mnt",
            "packages --root mnt",
            "fswatch --changes /etc etc",
            "fswatch --explain ../etc",
        ] {
            assert_eq!(ask(&format!("vigie query {asked} -t all")), Err(Exit::Usage), "{asked}");
            assert_eq!(ask(&format!("vigie query {asked}")), Ok(()), "{asked}");
        }
        assert_eq!(ask("vigie query file --path /etc -t all"), Ok(()));
    }

    #[test]
    fn wrong_parameters_are_wrong_usage() {
        for pair in ["nothing", "=x", ":=1", "a:=nope"] {
            assert_eq!(
                parameters(Map::new(), &[pair.to_owned()], None).unwrap_err().exit,
                Exit::Usage,
                "{pair}"
            );
        }
        assert_eq!(parameters(Map::new(), &[], Some("{")).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn a_result_for_people() {
        let result: ModuleResult = serde_json::from_str(
            r#"{"foundanything":true,"success":true,"elements":{"ok": true,"paths":["/a{\u001b","/b\"}"],"none":{},"big":12345678901234567890123},"statistics":null,"errors":["cannot read \u001b[2J"]}"#,
        )
        .unwrap();

        assert_eq!(
            report::text("mine", &result, Room::default(), print::Paint::new(false)),
            "\
mine: found
elements
  {
    \"ok\": true,
    \"paths\": [
      \"/a{\\u001b\",
      \"/b\\\"}\"
    ],
    \"none\": {},
    \"big\": 12345678901234567890123
  }
error cannot read \\u{1b}[2J
"
        );
    }

    proptest! {
        #[test]
        fn indented_json_means_the_same(text in any::<String>(), numbers in proptest::collection::vec(any::<i64>(), 0..5)) {
            let value = serde_json::json!({"text": text, "numbers": numbers, "deep": [[[{}]], {"a": [1, {"b": null}]}]});

            let read: Value = serde_json::from_str(&indented(&value.to_string())).unwrap();

            prop_assert_eq!(read, value);
        }
    }
}
