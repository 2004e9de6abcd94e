//! `vigie query -i FILE`: asks all that an action file in MIG's format asks, and prints the answers in its order.
//!
//! An action is a JSON object with a name and a list of operations, each a module and its parameters. Who it is for
//! and when it is valid is for a fleet (`-t`); on one host, which is asked at once, it is only told.

mod format;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use vigie_protocol::message::Progress;
use vigie_protocol::result::ModuleResult;

use self::format::{Action, read};
pub(crate) use self::format::{Operation, UNNAMED, parse};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::fleet;
use crate::interrupts::{Connections, Interrupted, Interrupts, given_up};
use crate::print::{self, Printer, Tone, safe};
use crate::progress::ProgressLine;
use crate::query::arguments::{AnswerOptions, QueryArgs};
use crate::query::{self, Question};
use crate::report;
use crate::table::Room;

/// Operations that are asked at the same time, each with a thread and a connection of its own. Also bounds the
/// answers that wait for those before them.
const MAX_CONCURRENT: usize = 16;

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

/// What comes of the operations while they run.
enum News {
    /// An operation found so much so far.
    Found { at: usize, found: u64 },
    /// An operation has ended.
    Answer { at: usize, answer: Result<ModuleResult, Failure> },
}

/// Carries out `query -i`.
pub(crate) fn run(
    args: &QueryArgs,
    socket: &Path,
    make_printer: impl Fn(bool) -> Printer,
) -> Result<Exit, Failure> {
    let path = args.action.as_deref().ok_or_else(|| {
        Failure::new(Exit::Usage, "no module or action file given", "see `vigie query --help`")
    })?;
    let action = read(path)?;
    let file = path.display();
    let mut printer = make_printer(args.answer.json);
    if let Some(target) = &args.fleet.target {
        let asked = for_fleet(action, &file.to_string(), args.answer.timeout)?;
        return fleet::ask::run(&asked, target, &args.fleet, &mut printer);
    }
    for note in action.notes(Timestamp::now()) {
        print::note(&format!("{file}: {note}"));
    }
    // Without an agent there is one reason, not one for each operation.
    drop(Client::connect(socket)?);
    let line = ProgressLine::new(args.progress, args.answer.json);
    let connections = Connections::default();
    let running = Running { operations: &action.operations, socket, timeout: args.answer.timeout };
    let fail_if_none = args.answer.fail_if_none;
    let work = || {
        running.ask(&connections, line, |number, answer| {
            show(number, action.operations[number - 1].module.as_str(), answer, &args.answer, &mut printer)?;
            let exit = answer.as_ref().map_or(Exit::NotWell, |result| query::exit_of(result, fail_if_none));
            // Exit codes of an action file do not tell why an operation failed.
            Ok(if exit == Exit::Usage { Exit::NotWell } else { exit })
        })
    };
    match Interrupts::new() {
        Ok(interrupts) => match interrupts.during(&connections, work) {
            (_, Interrupted::GivenUp) => Err(given_up("the action")),
            (exit, _) => exit,
        },
        Err(_) => work(),
    }
}

/// An action as a fleet is asked it.
fn for_fleet(action: Action, file: &str, timeout: Option<Duration>) -> Result<fleet::ask::Asked, Failure> {
    let now = Timestamp::now();
    let Action { name, operations, validity, ignored, .. } = action;
    if let Some(problem) = validity.problem(now) {
        let hint = "nothing was run; correct the file";
        return Err(Failure::new(Exit::Usage, format!("{file}: {problem}"), hint));
    }
    if !ignored.is_empty() {
        print::note(&format!("{file}: ignored, because you sign it again: {}", ignored.join(", ")));
    }
    let operations = operations.into_iter().map(Operation::signed).collect();
    let name = name.filter(|name| !name.is_empty()).unwrap_or_else(|| UNNAMED.to_owned());
    Ok(fleet::ask::Asked { name, operations, timeout, expires: validity.left(now) })
}

/// Operations while they are asked.
struct Running<'a> {
    operations: &'a [Operation],
    socket: &'a Path,
    timeout: Option<Duration>,
}

impl Running<'_> {
    /// Asks all of them, at most [`MAX_CONCURRENT`] at a time, and has the answers shown in their order. Returns the
    /// worst exit code: one failed, one is not known, all are well.
    fn ask(
        &self,
        connections: &Connections,
        mut line: Option<ProgressLine>,
        mut show: impl FnMut(usize, &Result<ModuleResult, Failure>) -> Result<Exit, Failure>,
    ) -> Result<Exit, Failure> {
        let total = self.operations.len();
        let mut found = vec![0; total];
        let mut answers = BTreeMap::new();
        let (mut begun, mut shown, mut done) = (0, 0, 0);
        let mut exit = Exit::Ok;
        let (sender, news) = mpsc::channel();
        std::thread::scope(|scope| {
            while shown < total {
                // Also bounds the answers that wait for one before them.
                while begun < total && begun - shown < MAX_CONCURRENT {
                    let (at, sender) = (begun, sender.clone());
                    std::thread::Builder::new()
                        .name(format!("operation {}", at + 1))
                        .spawn_scoped(scope, move || {
                            let answer = self.ask_one(at, connections, &sender);
                            // Nobody listens any more when printing failed.
                            sender.send(News::Answer { at, answer }).ok();
                        })
                        .map_err(|error| {
                            let what = format!("cannot start a thread for operation {}: {error}", at + 1);
                            Failure::new(Exit::Internal, what, "see `ulimit -u`")
                        })?;
                    begun += 1;
                }
                match news.recv() {
                    Ok(News::Found { at, found: so_far }) => found[at] = so_far,
                    Ok(News::Answer { at, answer }) => {
                        done += 1;
                        answers.insert(at, answer);
                    }
                    Err(_) => break,
                }
                while let Some(answer) = answers.remove(&shown) {
                    shown += 1;
                    // What is shown must not stand behind the line.
                    if let Some(line) = &mut line {
                        line.clear();
                    }
                    // Nobody reads the others either: they end before the threads are waited for.
                    exit = worse(exit, show(shown, &answer).inspect_err(|_| connections.close())?);
                }
                if let Some(line) = line.as_mut().filter(|_| shown < total) {
                    let found = Some(found.iter().sum());
                    let (done, total) = (done, Some(total as u64));
                    line.show(&Progress { done, total, found, unit: "operations".to_owned() });
                }
            }
            Ok(exit)
        })
    }

    fn ask_one(
        &self,
        at: usize,
        connections: &Connections,
        news: &mpsc::Sender<News>,
    ) -> Result<ModuleResult, Failure> {
        let Operation { module, parameters } = &self.operations[at];
        let question = Question {
            module: module.as_str().to_owned(),
            parameters: parameters.clone(),
            timeout: self.timeout,
        };
        let mut client = Client::connect(self.socket)?;
        connections.add(&client)?;
        question.ask_on(
            &mut client,
            Some(&mut |progress| {
                if let Some(found) = progress.found {
                    news.send(News::Found { at, found }).ok();
                }
            }),
        )
    }
}

/// The exit code of two answers together.
fn worse(one: Exit, other: Exit) -> Exit {
    let rank = |exit| match exit {
        Exit::Ok => 0,
        Exit::NotKnown => 1,
        _ => 2,
    };
    if rank(other) > rank(one) { other } else { one }
}

/// Prints an answer, or why there is none.
fn show(
    number: usize,
    module: &str,
    answer: &Result<ModuleResult, Failure>,
    options: &AnswerOptions,
    printer: &mut Printer,
) -> Result<(), Failure> {
    if let Ok(result) = answer
        && options.csv
    {
        return query::show(module, result, options, printer);
    }
    if options.csv || options.wide {
        printer.for_people();
    }
    if printer.is_json() {
        let error = answer.as_ref().err();
        let error = error.map(|failure| Refusal { message: &failure.message, hint: &failure.hint });
        return printer.json(&Answer { operation: number, module, result: answer.as_ref().ok(), error });
    }
    let text = match answer {
        Ok(result) => {
            let room = Room { width: printer.width(), wide: options.wide };
            report::text(module, result, room, printer.paint())
        }
        Err(failure) => {
            let word = printer.paint().text(Tone::Bad, "not answered");
            format!("{module}: {word}\n{}\n  {}", safe(&failure.message), safe(&failure.hint))
        }
    };
    printer.line(&format!("operation {number} {}", text.trim_end()))
}
