//! `vigie console`: builds queries step by step, with history and completion, and asks them.
//!
//! Without a terminal the same commands come from standard input, one a line, and there are no prompts.

mod session;

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, Helper};
use serde::Serialize;
use serde_json::value::RawValue;

use self::session::{COMMANDS, Completion, Order, Session, parse, quote};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::fleet;
use crate::interrupts::Interrupts;
use crate::print::{self, Printer};
use crate::progress::ProgressLine;
use crate::table::{Room, Table};
use crate::{query, status};

/// Lines that the history keeps.
const MAX_HISTORY: usize = 1000;

/// Longest line in bytes that is read without a terminal; a longer one ends the console.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// Most paths that are offered at once.
const MAX_PATHS: usize = 500;

/// What comes after a command.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Continue,
    Quit,
}

/// The query as an operation of an action file.
#[derive(Serialize)]
struct Preview<'a> {
    module: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<&'a RawValue>,
}

/// A console that carries out commands.
struct Console<'a, P> {
    socket: &'a Path,
    make_printer: P,
    printer: Printer,
    session: Session,
    /// With a person at it: Ctrl-C ends the query and not the console.
    interrupts: Option<Interrupts>,
}

/// Carries out `console`. `make_printer` makes one for JSON, or for people; `json` says which comes first.
pub(crate) fn run(
    socket: &Path,
    json: bool,
    make_printer: impl Fn(bool) -> Printer,
) -> Result<Exit, Failure> {
    let modules = match status::fetch(socket) {
        Ok(status) => status.modules.into_iter().map(|module| module.name.as_str().to_owned()).collect(),
        Err(error) => {
            // Queries can be built and shown without an agent.
            print::failure(&error.into());
            Vec::new()
        }
    };
    let printer = make_printer(json);
    let console = Console { socket, make_printer, printer, session: Session::new(modules), interrupts: None };
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        interact(console)
    } else {
        read_lines(console)
    }
}

impl<P: Fn(bool) -> Printer> Console<'_, P> {
    /// Carries out what was entered; what is pasted may have many lines.
    fn execute_all(&mut self, entered: &str) -> Result<Next, Failure> {
        for line in entered.lines() {
            if self.execute(line)? == Next::Quit {
                return Ok(Next::Quit);
            }
        }
        Ok(Next::Continue)
    }

    /// Carries out a line.
    fn execute(&mut self, line: &str) -> Result<Next, Failure> {
        match parse(line)? {
            None => {}
            Some(Order::Module(name)) => self.session.choose(name)?,
            Some(Order::Set { flag, values }) => self.session.set(&flag, values)?,
            Some(Order::Unset(flag)) => self.session.unset(&flag)?,
            Some(Order::Show) => self.show()?,
            Some(Order::Run) => self.ask()?,
            Some(Order::Json(json)) => self.printer = (self.make_printer)(json),
            Some(Order::Help) => self.help()?,
            Some(Order::Quit) => return Ok(Next::Quit),
        }
        Ok(Next::Continue)
    }

    fn show(&mut self) -> Result<(), Failure> {
        let (question, _) = self.session.question()?;
        let preview = Preview { module: &question.module, parameters: question.parameters.as_deref() };
        if self.printer.is_json() {
            return self.printer.json(&preview);
        }
        let text = serde_json::to_string(&preview).map_err(io::Error::from)?;
        for line in query::indented(&text).lines() {
            self.printer.line(&print::safe(line))?;
        }
        Ok(())
    }

    fn ask(&mut self) -> Result<(), Failure> {
        let (question, options) = self.session.question()?;
        let module = question.module.clone();
        if let Some(target) = &options.fleet.target {
            return match fleet::ask::run(&question.into(), target, &options.fleet, &mut self.printer)? {
                Exit::Ok => Ok(()),
                exit => Err(Failure::new(exit, "not every agent succeeded", "")),
            };
        }
        let mut client = Client::connect(self.socket)?;
        let line = ProgressLine::new(options.progress, self.printer.is_json());
        let result = question.ask_watched(&mut client, line, self.interrupts.as_ref())?;
        query::show(&module, &result, &options.answer, &mut self.printer)?;
        match query::exit_of(&result, options.answer.fail_if_none) {
            Exit::Ok => Ok(()),
            Exit::NotKnown => {
                let what = format!("{module} found nothing but did not examine everything");
                Err(Failure::new(Exit::NotKnown, what, ""))
            }
            _ if result.success => Err(Failure::new(Exit::NotWell, format!("{module} found nothing"), "")),
            _ => Err(Failure::new(Exit::NotWell, format!("{module} failed"), "")),
        }
    }

    fn help(&mut self) -> Result<(), Failure> {
        let paint = self.printer.paint();
        let room = Room { width: self.printer.width(), wide: false };
        let mut commands = Table::simple(&["COMMAND", "DOES"]);
        for (name, arguments, does) in COMMANDS {
            let usage = format!("{name} {arguments}");
            commands.add([usage.trim(), does]);
        }
        self.printer.line(commands.text(room, paint).trim_end())?;
        self.printer
            .line("Quote values with '…' or \"…\". Tab completes, the arrow keys browse the history.")?;
        let Some(module) = self.session.module() else { return Ok(()) };
        let heading = format!("FLAG OF {}", module.as_str().to_uppercase());
        let mut flags = Table::simple(&[&heading, "MEANS"]);
        for flag in self.session.definitions() {
            let name = flag.get_long().unwrap_or_default();
            let value = flag.get_value_names().filter(|_| flag.get_action().takes_values());
            let value = value.and_then(|names| names.first()).map(ToString::to_string).unwrap_or_default();
            let usage = format!("{name} {value}");
            let means = flag.get_help().map(ToString::to_string).unwrap_or_default();
            flags.add([usage.trim(), &means]);
        }
        self.printer.line(flags.text(room, paint).trim_end())
    }
}

/// Reads commands from a program or a file; the exit code says whether all of them were carried out.
fn read_lines<P: Fn(bool) -> Printer>(mut console: Console<'_, P>) -> Result<Exit, Failure> {
    let mut input = io::stdin().lock();
    let mut exit = Exit::Ok;
    for number in 1_u64.. {
        let mut line = String::new();
        let read = (&mut input).take(MAX_LINE_BYTES).read_line(&mut line).map_err(|error| {
            Failure::new(Exit::Io, format!("cannot read line {number} of the commands: {error}"), "")
        })?;
        if read as u64 == MAX_LINE_BYTES && !line.ends_with('\n') {
            let what = format!("line {number} is longer than {MAX_LINE_BYTES} bytes");
            return Err(Failure::new(Exit::Usage, what, ""));
        }
        if read == 0 {
            break;
        }
        match console.execute(&line) {
            Ok(Next::Continue) => {}
            Ok(Next::Quit) => break,
            // Whoever closed the output has all it wanted.
            Err(failure) if failure.exit == Exit::Ok => break,
            Err(failure) => {
                exit = Exit::NotWell;
                let message = format!("line {number}: {}", failure.message);
                print::failure(&Failure { message, ..failure });
            }
        }
    }
    Ok(exit)
}

/// Converses with a person.
fn interact<P: Fn(bool) -> Printer>(mut console: Console<'_, P>) -> Result<Exit, Failure> {
    let failed = |error: ReadlineError| {
        Failure::new(Exit::Io, format!("cannot read from the terminal: {error}"), "pipe the commands into it")
    };
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .auto_add_history(true)
        .history_ignore_space(true)
        .max_history_size(MAX_HISTORY)
        .map_err(failed)?
        .build();
    let mut editor: Editor<Assistant, FileHistory> = Editor::with_config(config).map_err(failed)?;
    let history = history_file(|name| std::env::var_os(name).map(PathBuf::from)).filter(|path| {
        let prepared = prepare(path).map_err(ReadlineError::Io).and_then(|()| editor.load_history(path));
        if let Err(error) = &prepared {
            print::note(&format!("no history: {path:?} cannot be used: {error}"));
        }
        prepared.is_ok()
    });
    console.interrupts = Some(Interrupts::new().map_err(|error| failed(ReadlineError::Io(error)))?);
    console.printer.line("`help` shows the commands, Tab completes, Ctrl-C ends a query.")?;
    loop {
        let prompt = match console.session.module() {
            Some(module) => format!("vigie {module}> "),
            None => "vigie> ".to_owned(),
        };
        editor.set_helper(Some(Assistant { session: std::mem::take(&mut console.session) }));
        let line = editor.readline(&prompt);
        if let Some(assistant) = editor.helper_mut() {
            console.session = std::mem::take(&mut assistant.session);
        }
        let line = match line {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(Exit::Ok),
            Err(error) => return Err(failed(error)),
        };
        // After each line, because a console can be ended with its terminal.
        if let Some(path) = &history
            && let Err(error) = editor.append_history(path)
        {
            print::note(&format!("cannot write the history to {path:?}: {error}"));
        }
        match console.execute_all(&line) {
            Ok(Next::Continue) => {}
            Ok(Next::Quit) => return Ok(Exit::Ok),
            Err(failure) if failure.exit == Exit::Ok => return Ok(Exit::Ok),
            Err(failure) => print::failure(&failure),
        }
    }
}

/// The file of the history, as the XDG base directory specification has it; `None` without a home.
fn history_file(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let state = variable("XDG_STATE_HOME").filter(|path| path.is_absolute());
    let state = state.or_else(|| {
        variable("HOME").filter(|path| path.is_absolute()).map(|home| home.join(".local/state"))
    })?;
    Some(state.join("vigie/console_history"))
}

/// Makes the file of the history, for its owner alone: what an investigator looks for is not for others.
fn prepare(path: &Path) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))
}

/// Completes what a person types.
struct Assistant {
    session: Session,
}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let Completion { start, words, path } = self.session.complete(&line[..position]);
        let mut candidates: Vec<Pair> =
            words.into_iter().map(|word| Pair { display: word.clone(), replacement: word }).collect();
        if let Some(typed) = path {
            candidates.extend(paths(&typed));
        }
        Ok((start, candidates))
    }
}

impl Hinter for Assistant {
    type Hint = String;
}

impl Highlighter for Assistant {}
impl Validator for Assistant {}
impl Helper for Assistant {}

/// Paths that begin like `typed`. Names that a line cannot hold are left out.
fn paths(typed: &str) -> Vec<Pair> {
    let (directory, beginning) = match typed.rfind('/') {
        Some(slash) => typed.split_at(slash + 1),
        None => ("", typed),
    };
    let listed = fs::read_dir(if directory.is_empty() { "." } else { directory });
    let mut paths: Vec<Pair> = listed
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            if !name.starts_with(beginning) || name.contains(char::is_control) {
                return None;
            }
            let slash = if entry.path().is_dir() { "/" } else { "" };
            Some(Pair {
                replacement: quote(&format!("{directory}{name}{slash}")),
                display: format!("{name}{slash}"),
            })
        })
        .take(MAX_PATHS)
        .collect();
    paths.sort_by(|one, other| one.display.cmp(&other.display));
    paths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::print::tests::Captured;

    fn executed(lines: &[&str], json: bool) -> (String, Vec<Result<Next, String>>) {
        let captured = Captured::default();
        let make_printer = |json| Printer::into(Box::new(captured.clone()), json);
        let printer = make_printer(json);
        let session = Session::new([]);
        let mut console =
            Console { socket: Path::new("/nonexistent"), make_printer, printer, session, interrupts: None };
        let results =
            lines.iter().map(|line| console.execute(line).map_err(|failure| failure.message)).collect();
        (captured.text(), results)
    }

    #[test]
    fn the_preview_is_an_operation_of_an_action_file() {
        let lines = ["module timedrift", "show", "set drift 5s", "show", "json off", "show"];
        let (text, results) = executed(&lines, true);

        assert!(results.iter().all(|result| *result == Ok(Next::Continue)), "{results:?}");
        assert_eq!(
            text,
            "{\"module\":\"timedrift\"}\n{\"module\":\"timedrift\",\"parameters\":{\"ask\":\"all\",\"drift\":\"5s\"}}\n\
             {\n  \"module\": \"timedrift\",\n  \"parameters\": {\n    \"ask\": \"all\",\n    \"drift\": \"5s\"\n  }\n}\n"
        );
    }

    #[test]
    fn help_lists_the_commands_and_the_flags_of_the_module() {
        let (text, _) = executed(&["module netstat", "help"], false);

        for said in ["set FLAG [VALUE…]", "json on|off", "listening-port PORT", "every network namespace"] {
            assert!(text.contains(said), "{said}: {text}");
        }
        assert!(!text.contains("run-dir"), "{text}");
    }

    #[test]
    fn a_console_goes_on_after_what_it_cannot_do() {
        let (text, results) = executed(&["run", "module netstat", "run", "quit"], true);

        assert!(results[0].as_ref().is_err_and(|message| message.contains("module NAME")), "{results:?}");
        assert!(
            results[2].as_ref().is_err_and(|message| message.contains("no agent answers")),
            "{results:?}"
        );
        assert_eq!(results[3], Ok(Next::Quit));
        assert_eq!(text, "");
    }

    #[test]
    fn the_history_is_in_the_state_directory_for_its_owner_alone() {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("state");
        let path = history_file(|name| (name == "XDG_STATE_HOME").then(|| state.clone())).unwrap();
        assert_eq!(path, state.join("vigie/console_history"));
        let home = history_file(|name| Some(if name == "HOME" { "/home/ada" } else { "relative" }.into()));
        assert_eq!(home, Some("/home/ada/.local/state/vigie/console_history".into()));

        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        prepare(&path).unwrap();

        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    }

    #[test]
    fn paths_are_completed_one_level_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("ab c")).unwrap();
        fs::write(root.path().join("abd"), "").unwrap();
        fs::write(root.path().join("a\nb"), "").unwrap();
        let root = root.path().to_str().unwrap();

        let offered = paths(&format!("{root}/a"));

        let replacements: Vec<&str> = offered.iter().map(|pair| pair.replacement.as_str()).collect();
        assert_eq!(replacements, [format!("'{root}/ab c/'"), format!("{root}/abd")]);
    }
}
