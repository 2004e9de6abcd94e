//! What the console understands and remembers: commands, the query that is being built, what can come next.
//!
//! Flags, values and their checks are those of `vigie query`: a query is kept as the words that follow it on the
//! command line, and read by the same definitions. Nothing here asks or prints.

use std::collections::BTreeSet;
use std::ffi::OsString;

use clap::builder::ValueHint;
use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, CommandFactory as _, Parser as _};
use vigie_protocol::module_name::ModuleName;

use crate::exit::{Exit, Failure};
use crate::query::arguments::{QueryLine, QueryOptions};
use crate::query::{self, Question};

/// The console's commands: name, arguments, what it does.
pub(crate) const COMMANDS: [(&str, &str, &str); 8] = [
    ("module", "NAME", "start a query to this module"),
    ("set", "FLAG [VALUE…]", "set a flag of the query, replacing its previous value"),
    ("unset", "FLAG", "remove a flag"),
    ("show", "", "show the query as JSON, as an operation of an action file"),
    ("run", "", "ask"),
    ("json", "on|off", "print JSON, or human-readable text"),
    ("help", "", "show the commands, and the flags of the module"),
    ("quit", "", "leave, as Ctrl-D does"),
];

/// Flags of `query` that the console has other means for.
const NOT_OFFERED: [&str; 3] = ["help", "json", "progress"];

/// A line that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    Module(String),
    Set { flag: String, values: Vec<String> },
    Unset(String),
    Show,
    Run,
    Json(bool),
    Help,
    Quit,
}

/// What is wrong with a line, or with the query that it would make.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SessionError {
    #[error("a quote {0} is not closed")]
    OpenQuote(char),
    #[error("unknown command {0:?}; commands: {names}", names = COMMANDS.map(|(name, ..)| name).join(", "))]
    UnknownCommand(String),
    #[error("write {name} {arguments}", name = .0, arguments = .1)]
    WrongArguments(&'static str, &'static str),
    #[error("{0}")]
    BadModule(String),
    #[error("no module selected; enter: module NAME; modules: {0}")]
    NoModule(String),
    #[error("{module} has no flag {flag:?}; flags: {flags}")]
    UnknownFlag { module: ModuleName, flag: String, flags: String },
    #[error("{0:?} is not set")]
    NotSet(String),
    #[error("{0}")]
    BadQuery(String),
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        Self::new(Exit::Usage, error.to_string(), "")
    }
}

/// What can stand at the end of a line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Completion {
    /// Byte at which the word begins that is to be replaced.
    pub(crate) start: usize,
    /// Words, as they are typed.
    pub(crate) words: Vec<String>,
    /// The beginning of a path, when paths can stand here.
    pub(crate) path: Option<String>,
}

/// A query that is being built.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// Modules that are offered.
    modules: BTreeSet<String>,
    module: Option<ModuleName>,
    /// Flags without their dashes, and their values, in the order in which they were set.
    flags: Vec<(String, Vec<String>)>,
}

/// A word of a line.
#[derive(Debug, Default, PartialEq, Eq)]
struct Word {
    /// Its first byte in the line, a quote included.
    start: usize,
    text: String,
}

/// Splits a line at white space. `'…'` and `"…"` hold words together; only within `"…"` a backslash means that
/// the quote or backslash after it is meant literally, so expressions need no doubled backslashes. The second
/// value is a quote that is still open.
fn split(line: &str) -> (Vec<Word>, Option<char>) {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let mut open = None;
    let mut characters = line.char_indices().peekable();
    while let Some((start, character)) = characters.next() {
        match (open, character) {
            (None, _) if character.is_whitespace() => words.extend(word.take()),
            (None, '\'' | '"') => {
                word.get_or_insert(Word { start, text: String::new() });
                open = Some(character);
            }
            (Some(quote), _) if quote == character => open = None,
            (Some('"'), '\\') => {
                let literal = characters.next_if(|(_, next)| matches!(next, '"' | '\\'));
                let character = literal.map_or('\\', |(_, next)| next);
                word.get_or_insert_default().text.push(character);
            }
            _ => word.get_or_insert(Word { start, text: String::new() }).text.push(character),
        }
    }
    words.extend(word);
    (words, open)
}

/// Writes a word so that [`split`] reads it as one.
pub(crate) fn quote(word: &str) -> String {
    let is_plain = |character: char| !character.is_whitespace() && !matches!(character, '\'' | '"');
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else if word.contains('\'') {
        format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        format!("'{word}'")
    }
}

/// Understands a line; `None` for an empty one or a comment.
pub(crate) fn parse(line: &str) -> Result<Option<Order>, SessionError> {
    if line.trim_start().starts_with('#') {
        return Ok(None);
    }
    let (words, open) = split(line);
    if let Some(quote) = open {
        return Err(SessionError::OpenQuote(quote));
    }
    let mut words = words.into_iter().map(|word| word.text);
    let Some(name) = words.next() else { return Ok(None) };
    let rest: Vec<String> = words.collect();
    let order = match (name.as_str(), rest.as_slice()) {
        ("module", [module]) => Order::Module(module.clone()),
        ("set", [flag, values @ ..]) => Order::Set { flag: bare(flag), values: values.to_vec() },
        ("unset", [flag]) => Order::Unset(bare(flag)),
        ("show", []) => Order::Show,
        ("run", []) => Order::Run,
        ("json", [on]) if on == "on" => Order::Json(true),
        ("json", [off]) if off == "off" => Order::Json(false),
        ("help", []) => Order::Help,
        ("quit" | "exit", []) => Order::Quit,
        _ => {
            return Err(match COMMANDS.into_iter().find(|(known, ..)| *known == name) {
                Some((known, "", _)) => SessionError::WrongArguments(known, "alone"),
                Some((known, arguments, _)) => SessionError::WrongArguments(known, arguments),
                None => SessionError::UnknownCommand(name),
            });
        }
    };
    Ok(Some(order))
}

/// A flag without its dashes.
fn bare(flag: &str) -> String {
    flag.strip_prefix("--").unwrap_or(flag).to_owned()
}

/// The definition of `vigie query`.
fn query_definition() -> Option<clap::Command> {
    let mut command = QueryLine::command();
    command.build();
    command.find_subcommand("query").cloned()
}

/// Built-in modules.
fn known_modules(query: &clap::Command) -> impl Iterator<Item = &str> {
    query
        .get_subcommands()
        .filter(|command| !command.is_hide_set() && command.get_name() != "help")
        .map(clap::Command::get_name)
}

impl Session {
    /// Offers the modules that the agent has, and those that have flags of their own.
    pub(crate) fn new(agents: impl IntoIterator<Item = String>) -> Self {
        let mut modules: BTreeSet<String> = agents.into_iter().collect();
        if let Some(query) = query_definition() {
            modules.extend(known_modules(&query).map(str::to_owned));
        }
        Self { modules, ..Self::default() }
    }

    /// The module that the query is for.
    pub(crate) fn module(&self) -> Option<&ModuleName> {
        self.module.as_ref()
    }

    /// Begins a query. The agent may know more modules than are offered.
    pub(crate) fn choose(&mut self, module: String) -> Result<(), SessionError> {
        let module =
            ModuleName::try_from(module).map_err(|error| SessionError::BadModule(error.to_string()))?;
        self.module = Some(module);
        self.flags.clear();
        Ok(())
    }

    /// Sets a flag; one that cannot be right, whatever else will be set, changes nothing.
    pub(crate) fn set(&mut self, flag: &str, values: Vec<String>) -> Result<(), SessionError> {
        let module = self.chosen()?;
        let definitions = self.definitions();
        if !definitions.iter().any(|known| known.get_long() == Some(flag)) {
            let flags: Vec<&str> = definitions.iter().filter_map(Arg::get_long).collect();
            let (module, flag) = (module.clone(), flag.to_owned());
            return Err(SessionError::UnknownFlag { module, flag, flags: flags.join(", ") });
        }
        let before = self.flags.clone();
        match self.flags.iter_mut().find(|(set, _)| set == flag) {
            Some((_, old)) => *old = values,
            None => self.flags.push((flag.to_owned(), values)),
        }
        match self.read() {
            Err(Unreadable { may_become_right: false, reason }) => {
                self.flags = before;
                Err(SessionError::BadQuery(reason))
            }
            _ => Ok(()),
        }
    }

    /// Takes a flag away.
    pub(crate) fn unset(&mut self, flag: &str) -> Result<(), SessionError> {
        let at = self.flags.iter().position(|(set, _)| set == flag);
        let at = at.ok_or_else(|| SessionError::NotSet(flag.to_owned()))?;
        self.flags.remove(at);
        Ok(())
    }

    /// The query as it stands.
    pub(crate) fn question(&self) -> Result<(Question, QueryOptions), SessionError> {
        self.chosen()?;
        self.read().map_err(|unreadable| SessionError::BadQuery(unreadable.reason))
    }

    /// The flags that the module takes.
    pub(crate) fn definitions(&self) -> Vec<Arg> {
        let (Some(module), Some(query)) = (&self.module, query_definition()) else { return Vec::new() };
        let name = known_modules(&query).find(|known| *known == module.as_str()).unwrap_or("other");
        let Some(command) = query.find_subcommand(name) else { return Vec::new() };
        command
            .get_arguments()
            .filter(|flag| flag.get_long().is_some_and(|name| !NOT_OFFERED.contains(&name)))
            .cloned()
            .collect()
    }

    /// What can stand at the end of `line`.
    pub(crate) fn complete(&self, line: &str) -> Completion {
        let (mut words, open) = split(line);
        let begins_anew = open.is_none() && line.ends_with(char::is_whitespace);
        let last = match words.pop() {
            Some(last) if !begins_anew => last,
            other => {
                words.extend(other);
                Word { start: line.len(), text: String::new() }
            }
        };
        let before: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
        let mut path = None;
        let mut typed = last.text.as_str();
        let candidates: Vec<String> = match before.as_slice() {
            [] => COMMANDS.iter().map(|(name, ..)| (*name).to_owned()).collect(),
            ["module"] => self.modules.iter().cloned().collect(),
            ["json"] => vec!["on".to_owned(), "off".to_owned()],
            ["set"] => {
                typed = typed.trim_start_matches('-');
                self.definitions().iter().filter_map(Arg::get_long).map(str::to_owned).collect()
            }
            ["unset"] => {
                typed = typed.trim_start_matches('-');
                self.flags.iter().map(|(flag, _)| flag.clone()).collect()
            }
            ["set", flag, ..] => {
                let flag = bare(flag);
                let definition = self.definitions().into_iter().find(|known| known.get_long() == Some(&flag));
                let takes_values = definition.filter(|known| known.get_action().takes_values());
                if takes_values.as_ref().is_some_and(|known| known.get_value_hint() == ValueHint::AnyPath) {
                    path = Some(last.text.clone());
                }
                let values = takes_values.map(|known| known.get_possible_values()).unwrap_or_default();
                values.iter().map(|value| value.get_name().to_owned()).collect()
            }
            _ => Vec::new(),
        };
        let words =
            candidates.iter().filter(|word| word.starts_with(typed)).map(|word| quote(word)).collect();
        Completion { start: last.start, words, path }
    }

    fn chosen(&self) -> Result<&ModuleName, SessionError> {
        let modules = || self.modules.iter().cloned().collect::<Vec<_>>().join(", ");
        self.module.as_ref().ok_or_else(|| SessionError::NoModule(modules()))
    }

    /// The query as the words of a command line.
    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["vigie".into(), "query".into()];
        let module = self.module.as_ref().map_or("", ModuleName::as_str);
        if !query_definition().is_some_and(|query| known_modules(&query).any(|known| known == module)) {
            arguments.push("other".into());
        }
        arguments.push(module.into());
        for (flag, values) in &self.flags {
            if values.is_empty() {
                arguments.push(format!("--{flag}").into());
            }
            // Joined to the flag a value may begin with a dash.
            arguments.extend(values.iter().map(|value| OsString::from(format!("--{flag}={value}"))));
        }
        arguments
    }

    /// Reads the query as `vigie query` does.
    fn read(&self) -> Result<(Question, QueryOptions), Unreadable> {
        let never = |reason: String| Unreadable { may_become_right: false, reason };
        let line = QueryLine::try_parse_from(self.arguments()).map_err(|error| Unreadable {
            may_become_right: error.kind() == ErrorKind::MissingRequiredArgument,
            reason: reason_of(&error),
        })?;
        let target = line.target().ok_or_else(|| never("this is no query".to_owned()))?;
        let (question, options) = query::question(&target)
            .map_err(|failure| never(format!("{}; {}", failure.message, failure.hint)))?;
        Ok((question, options.clone()))
    }
}

/// Why the words of a session are no query.
struct Unreadable {
    /// Another flag is missing.
    may_become_right: bool,
    reason: String,
}

/// What clap says, without the usage of a command line that nobody typed.
fn reason_of(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::MissingRequiredArgument
        && let Some(missing) = error.get(ContextKind::InvalidArg)
    {
        return format!("also needed: {missing}");
    }
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let text = lines.collect::<Vec<_>>().join(" ");
    text.strip_prefix("error: ").unwrap_or(&text).to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    fn session(module: &str) -> Session {
        let mut session = Session::new(["mine".to_owned(), "fswatch".to_owned()]);
        session.choose(module.to_owned()).unwrap();
        session
    }

    fn json(session: &Session) -> String {
        let (question, _) = session.question().unwrap();
        question.parameters.map_or_else(String::new, |parameters| parameters.get().to_owned())
    }

    #[test]
    fn lines_are_understood() {
        let set = |flag: &str, values: &[&str]| Order::Set { flag: flag.to_owned(), values: words(values) };
        for (line, order) in [
            ("", None),
            ("   ", None),
            (" # set a b", None),
            ("module netstat", Some(Order::Module("netstat".to_owned()))),
            ("set --listening-port 22  80", Some(set("listening-port", &["22", "80"]))),
            (r"set name ^a\.b$", Some(set("name", &[r"^a\.b$"]))),
            (r#"set name 'a "b\' "c'\"\\\d" ''"#, Some(set("name", &[r#"a "b\"#, r#"c'"\\d"#, ""]))),
            ("unset name", Some(Order::Unset("name".to_owned()))),
            ("json off", Some(Order::Json(false))),
            ("exit", Some(Order::Quit)),
        ] {
            assert_eq!(parse(line), Ok(order), "{line}");
        }
        assert_eq!(parse("set a 'b"), Err(SessionError::OpenQuote('\'')));
        assert_eq!(parse("nosuch"), Err(SessionError::UnknownCommand("nosuch".to_owned())));
        for line in ["module", "module a b", "set", "unset", "json", "json maybe", "run now"] {
            assert!(matches!(parse(line), Err(SessionError::WrongArguments(..))), "{line}");
        }
    }

    #[test]
    fn a_query_is_built_step_by_step() {
        let mut session = session("netstat");
        session.set("listening-port", words(&["22", "80"])).unwrap();
        session.set("namespaces", Vec::new()).unwrap();
        session.set("local-mac", words(&["-a b"])).unwrap();
        assert_eq!(json(&session), r#"{"listeningport":["22","80"],"localmac":["-a b"],"namespaces":true}"#);

        session.set("listening-port", words(&["443"])).unwrap();
        session.unset("namespaces").unwrap();
        session.set("timeout", words(&["5s"])).unwrap();
        let (question, _) = session.question().unwrap();
        assert_eq!(json(&session), r#"{"listeningport":["443"],"localmac":["-a b"]}"#);
        assert_eq!(question.timeout, Some(std::time::Duration::from_secs(5)));

        session.choose("timedrift".to_owned()).unwrap();
        assert_eq!(json(&session), "", "another module has other flags");
    }

    #[test]
    fn a_module_without_flags_of_its_own_takes_parameters() {
        for module in ["mine", "other", "help"] {
            let mut session = session(module);
            session.set("param", words(&["a=x y", "n:=5"])).unwrap();

            assert_eq!(json(&session), r#"{"a":"x y","n":5}"#);
            assert_eq!(session.question().unwrap().0.module, module);
        }
    }

    #[test]
    fn what_cannot_be_right_changes_nothing() {
        let mut session = session("fswatch");
        session.set("event", words(&["created"])).unwrap();
        for (flag, values) in [
            ("event", &["nosuch"][..]),
            ("event", &[]),
            ("event", &["created", "changed"]),
            ("limit", &["many"]),
            ("unaccepted", &["yes"]),
            ("nosuch", &["x"]),
            ("json", &[]),
            ("socket", &["/x"]),
            ("param", &["no equals sign"]),
            ("json-params", &["{}"]),
        ] {
            assert!(session.set(flag, words(values)).is_err(), "{flag} {values:?}");
            assert_eq!(json(&session), r#"{"event":"created"}"#, "{flag} {values:?}");
        }
        assert_eq!(session.unset("limit"), Err(SessionError::NotSet("limit".to_owned())));
        assert!(session.choose("../x".to_owned()).is_err());
        assert!(matches!(Session::new([]).set("a", Vec::new()), Err(SessionError::NoModule(_))));
    }

    #[test]
    fn a_flag_that_needs_another_waits_for_it() {
        let mut session = session("fswatch");
        session.set("prove", Vec::new()).unwrap();

        let error = session.question().unwrap_err().to_string();
        assert!(error.contains("--rescan"), "{error}");

        session.set("rescan", Vec::new()).unwrap();
        assert_eq!(json(&session), r#"{"prove":true,"rescan":true}"#);
    }

    #[test]
    fn what_can_come_next_is_offered() {
        let mut session = session("fswatch");
        session.set("unaccepted", Vec::new()).unwrap();
        let offered = |line: &str| session.complete(line);

        assert_eq!(offered("s").words, ["set", "show"]);
        assert_eq!(offered("").words.len(), COMMANDS.len());
        assert_eq!(offered("module f").words, ["file", "fswatch"]);
        assert_eq!(offered("module m").words, ["mine"]);
        assert_eq!(offered("set pro").words, ["prove", "process"]);
        assert_eq!(offered("set --pro"), Completion { start: 4, ..offered("set pro") });
        assert!(offered("set ").words.iter().all(|flag| flag != "run-dir" && flag != "help"));
        assert_eq!(offered("unset ").words, ["unaccepted"]);
        assert_eq!(offered("json o").words, ["on", "off"]);
        let event = offered("set event cr");
        assert_eq!(
            (event.start, event.words.as_slice(), event.path),
            (10, &["created".to_owned()][..], None)
        );
        let path = offered("set explain '/etc/a b");
        assert_eq!((path.start, path.path.as_deref()), (12, Some("/etc/a b")));
        assert_eq!(offered("set rescan /a /b").path.as_deref(), Some("/b"));
        assert_eq!(offered("run "), Completion { start: 4, ..Completion::default() });
    }

    proptest! {
        #[test]
        fn a_quoted_word_is_read_as_it_was(list in proptest::collection::vec(any::<String>(), 0..5)) {
            let line = list.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");

            let (read, open) = split(&line);

            prop_assert_eq!(open, None);
            prop_assert_eq!(read.into_iter().map(|word| word.text).collect::<Vec<_>>(), list);
        }

        #[test]
        fn no_line_panics_and_words_begin_where_characters_do(
            line in r#"(set |unset |module |json |)[ '"\\a-zé-]{0,20}"#,
        ) {
            let session = session("file");

            let completion = session.complete(&line);

            prop_assert!(line.is_char_boundary(completion.start));
            let _ = parse(&line);
        }

        #[test]
        fn a_set_that_fails_leaves_the_query_as_it_was(
            steps in proptest::collection::vec(
                (prop_oneof!["event", "limit", "group", "prove", "param"], proptest::collection::vec("[a-z0-9=:]{0,6}", 0..3)),
                1..6,
            ),
        ) {
            let mut session = session("fswatch");
            for (flag, values) in steps {
                let before = session.flags.clone();
                match session.set(&flag, values.clone()) {
                    Ok(()) => prop_assert!(session.flags.contains(&(flag, values))),
                    Err(_) => prop_assert_eq!(&session.flags, &before),
                }
            }
        }
    }
}
