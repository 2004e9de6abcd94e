//! `vigie module replay`: a recorded conversation is held again with a program, and what it answers is compared.
//!
//! Each life of the recording is a life of the program, in the same directories, so that what one leaves behind the
//! next finds. What must differ is put right on the way: directories, deadlines, and the ids of alerts, which are new
//! in each life.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Serialize;
use serde_json::{Value, json};
use vigie_protocol::control::{LineFate, ModuleLine};
use vigie_protocol::message::DEFAULT_MAX_RESULT_BYTES;

use super::life::{self, Life};
use super::{ProgramOptions, Scratch, absolute};
use crate::exit::{Exit, Failure};
use crate::module_commands::{RECORDING, RecordingHead};
use crate::print::{Paint, Printer, Tone, safe};

/// Differences that are named of one line.
const NAMED_DIFFERENCES: usize = 8;

/// Text of a value in a difference, in characters.
const VALUE_CHARS: usize = 80;

/// Time for a line of a class of which one is missing already.
const SHORT_WAIT: Duration = Duration::from_millis(200);

/// `module replay`
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// A recording of `vigie module tap MODULE --record FILE`
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// Ignore differences in this key of alerts and results at any depth, such as a time; may be repeated
    #[arg(long, value_name = "KEY")]
    pub(crate) ignore: Vec<String>,

    #[command(flatten)]
    pub(crate) program: ProgramOptions,
}

/// Why there is nothing to replay.
#[derive(Debug, thiserror::Error)]
enum RecordingError {
    #[error("cannot read the recording {path:?}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path:?} is not a recording of `vigie module tap --record`: {reason}")]
    NoRecording { path: PathBuf, reason: String },
    #[error("{path:?} has format {found}, but this program reads format {RECORDING}")]
    OtherForm { path: PathBuf, found: u32 },
    #[error("{path:?}:{line}: invalid line: {reason}")]
    BadLine { path: PathBuf, line: usize, reason: String },
    #[error("{path:?}:{line}: the recording has a gap: {lost}")]
    Gap { path: PathBuf, line: usize, lost: String },
    #[error("no message was sent to the module while {path:?} was recorded")]
    Empty { path: PathBuf },
}

impl From<RecordingError> for Failure {
    fn from(error: RecordingError) -> Self {
        let hint = match &error {
            RecordingError::Unreadable { .. } => {
                "give a file written by `vigie module tap MODULE --record FILE`"
            }
            RecordingError::Empty { .. } => {
                "record for longer; a standard module sends messages only when it is queried"
            }
            _ => "record again with `vigie module tap MODULE --record FILE`",
        };
        let exit = if matches!(error, RecordingError::Unreadable { .. }) { Exit::Io } else { Exit::Usage };
        Self::new(exit, error.to_string(), hint)
    }
}

/// One line of a recording.
#[derive(Debug)]
struct Recorded {
    /// Its line in the file, from 1.
    number: usize,
    line: ModuleLine,
    /// The text as JSON; null when it is none.
    message: Value,
}

impl Recorded {
    fn class(&self) -> &str {
        self.message["class"].as_str().unwrap_or_default()
    }

    fn parameters(&self) -> &Value {
        &self.message["parameters"]
    }

    fn is_to_module(&self) -> bool {
        self.line.source == "to_module"
    }
}

/// A recording, without what was dropped on its way.
#[derive(Debug)]
struct Conversation {
    lines: Vec<Recorded>,
    /// The module had its first life before the recording began.
    began_before: bool,
}

impl Conversation {
    fn read(path: &Path) -> Result<Self, RecordingError> {
        let unreadable = |source| RecordingError::Unreadable { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut texts = BufReader::new(file).lines();
        let none = |reason: String| RecordingError::NoRecording { path: path.to_owned(), reason };
        let first = texts.next().ok_or_else(|| none("it is empty".to_owned()))?.map_err(unreadable)?;
        let head: RecordingHead = serde_json::from_str(&first).map_err(|error| none(error.to_string()))?;
        if head.recording != RECORDING {
            return Err(RecordingError::OtherForm { path: path.to_owned(), found: head.recording });
        }
        let mut lines = Vec::new();
        for (text, number) in texts.zip(2..) {
            let text = text.map_err(unreadable)?;
            let line: ModuleLine = serde_json::from_str(&text).map_err(|error| RecordingError::BadLine {
                path: path.to_owned(),
                line: number,
                reason: error.to_string(),
            })?;
            if line.source == "missed" {
                return Err(RecordingError::Gap { path: path.to_owned(), line: number, lost: line.text });
            }
            if line.fate == Some(LineFate::Dropped) {
                continue;
            }
            let message = serde_json::from_str(&line.text).unwrap_or_default();
            lines.push(Recorded { number, line, message });
        }
        // Whoever watches from the very moment of a start is told its configuration twice.
        if lines.len() > 1 && lines[0].class() == "config" && lines[0].line.text == lines[1].line.text {
            lines.remove(0);
        }
        if !lines.iter().any(Recorded::is_to_module) {
            return Err(RecordingError::Empty { path: path.to_owned() });
        }
        let time = |text: &str| text.parse::<jiff::Timestamp>().ok();
        // The configuration in force was sent then, whatever the watcher is told first.
        let began_before = lines.iter().any(|recorded| time(&recorded.line.time) < time(&head.started));
        Ok(Self { lines, began_before })
    }

    fn is_persistent(&self) -> bool {
        self.lines.iter().any(|recorded| recorded.line.life.is_some())
    }
}

/// What a comparison found.
#[derive(Debug, Clone, Serialize)]
struct Compared {
    /// The line of the recording; absent for what is said besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    /// The class of the message, or `answer`.
    what: String,
    /// `same`, `differs`, `missing`, `more` or `skipped`.
    result: &'static str,
    /// What differs, or why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differences: Vec<String>,
}

/// A replay under way.
struct Replay<'a> {
    args: &'a ReplayArgs,
    directory: PathBuf,
    found: Vec<Compared>,
    /// Classes of which a line is missing: further ones are not waited for as long.
    missing: BTreeSet<String>,
    /// The nonces of the pings that were sent.
    pings: BTreeSet<String>,
    /// The alerts' new ids, by the recorded ones.
    ids: BTreeMap<String, String>,
    /// Answers that wait for their recorded line, by the number of their query.
    answers: BTreeMap<u64, Result<Value, String>>,
}

/// Carries out `module replay`.
pub(crate) fn run(args: &ReplayArgs, printer: &mut Printer) -> Result<Exit, Failure> {
    absolute(&args.program.command)?;
    let conversation = Conversation::read(&args.file)?;
    let scratch = Scratch::make()?;
    let mut replay = Replay {
        args,
        directory: scratch.path().to_owned(),
        found: Vec::new(),
        missing: BTreeSet::new(),
        pings: BTreeSet::new(),
        ids: BTreeMap::new(),
        answers: BTreeMap::new(),
    };
    if conversation.is_persistent() {
        replay.lives(&conversation)?;
    } else {
        replay.queries(&conversation.lines);
    }
    report(&replay.found, printer)
}

fn report(found: &[Compared], printer: &mut Printer) -> Result<Exit, Failure> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for compared in found {
        *counts.entry(compared.result).or_default() += 1;
        if printer.is_json() {
            printer.json(compared)?;
        } else if compared.result != "same" {
            let text = render(compared, printer.paint());
            printer.line(&text)?;
        }
    }
    let unequal = found.iter().filter(|one| !matches!(one.result, "same" | "skipped")).count();
    if !printer.is_json() {
        let counted: Vec<String> = counts.iter().map(|(result, count)| format!("{count} {result}")).collect();
        printer.line(&match unequal {
            0 if found.is_empty() => "the recorded module sent no message that is compared".to_owned(),
            0 => format!("the program behaves like the recorded module: {}", counted.join(", ")),
            _ => format!("the program behaves differently from the recorded module: {}", counted.join(", ")),
        })?;
    }
    Ok(if unequal == 0 { Exit::Ok } else { Exit::NotWell })
}

fn render(compared: &Compared, paint: Paint) -> String {
    let tone = if compared.result == "skipped" { Tone::Faint } else { Tone::Bad };
    let place = compared.line.map(|line| format!("line {line} ")).unwrap_or_default();
    let mut text =
        format!("{} {place}{}", paint.text(tone, &format!("{:7}", compared.result)), compared.what);
    for difference in &compared.differences {
        text.push_str(&format!("\n          {}", safe(difference)));
    }
    text
}

impl Replay<'_> {
    fn add(&mut self, line: Option<usize>, what: &str, result: &'static str, differences: Vec<String>) {
        self.found.push(Compared { line, what: what.to_owned(), result, differences });
    }

    /// What two values make of a recorded line.
    fn compare(&mut self, number: usize, what: &str, recorded: &Value, now: &Value) {
        let mut differences = Vec::new();
        differ("", recorded, now, &self.args.ignore, &mut differences);
        let result = if differences.is_empty() { "same" } else { "differs" };
        self.add(Some(number), what, result, differences);
    }

    /// Holds the conversation of a persistent module, life after life.
    fn lives(&mut self, conversation: &Conversation) -> Result<(), Failure> {
        let mut lines = conversation.lines.as_slice();
        let mut is_first = true;
        while let Some(first) = lines.iter().find_map(|recorded| recorded.line.life) {
            let of_life = |recorded: &&Recorded| recorded.line.life.is_none_or(|life| life == first);
            let count = lines.iter().take_while(of_life).count();
            let (now, later) = lines.split_at(count);
            self.life(now, is_first && conversation.began_before, later.is_empty())?;
            lines = later;
            is_first = false;
        }
        Ok(())
    }

    /// Holds one life. `began_before`: its beginning is not recorded. `is_last`: its end may not be.
    fn life(&mut self, lines: &[Recorded], began_before: bool, is_last: bool) -> Result<(), Failure> {
        let not_run = |why: String| Failure::new(Exit::Unavailable, format!("the program: {why}"), "");
        let mut life = Life::start(&self.args.program.command, &self.directory, self.args.program.wait)
            .map_err(not_run)?;
        let mut stopped = false;
        for recorded in lines {
            match (recorded.is_to_module(), recorded.line.query) {
                (true, Some(query)) => {
                    let answer = self.ask(&mut life, recorded);
                    self.answers.insert(query, answer);
                }
                (true, None) => {
                    stopped |= recorded.class() == "stop";
                    self.tell(&mut life, recorded);
                }
                (false, Some(query)) => self.answer(recorded, query),
                (false, None) => self.hear(&mut life, recorded),
            }
        }
        if stopped {
            match life.wait() {
                Some(Some(0)) => {}
                Some(code) => {
                    let how = format!("it ended with {} after stop", life::shown(code));
                    self.add(None, "end", "differs", vec![how]);
                }
                None => self.add(None, "end", "missing", vec!["it did not end after stop".to_owned()]),
            }
        }
        if let Some(line) = life.stray() {
            let line: String = line.chars().take(VALUE_CHARS).collect();
            self.add(None, "a line that is not a message", "more", vec![line]);
        }
        // What a life said before the recording began, and after it ended, nobody knows.
        if !began_before && (stopped || !is_last) {
            for message in life.rest() {
                let class = message["class"].as_str().unwrap_or_default();
                if matches!(class, "register" | "configured" | "alert" | "ack") {
                    let text: String = message.to_string().chars().take(VALUE_CHARS).collect();
                    self.found.push(Compared {
                        line: None,
                        what: class.to_owned(),
                        result: "more",
                        differences: vec![text],
                    });
                }
            }
        }
        life.kill();
        Ok(())
    }

    /// Sends a recorded line.
    fn tell(&mut self, life: &mut Life, recorded: &Recorded) {
        let mut message = recorded.message.clone();
        match recorded.class() {
            "config" => {
                message["parameters"]["rundir"] = json!(self.directory.join("run"));
                message["parameters"]["statedir"] = json!(self.directory.join("state"));
            }
            "ack" => {
                let id = message["parameters"]["id"].as_str().unwrap_or_default();
                let Some(new) = self.ids.get(id) else {
                    let why = "its alert is not in the recording, or was not sent".to_owned();
                    return self.add(Some(recorded.number), "ack", "skipped", vec![why]);
                };
                message["parameters"]["id"] = json!(new);
            }
            "ping" => {
                self.pings.insert(message["parameters"]["nonce"].to_string());
            }
            _ => {}
        }
        if let Err(why) = life.send(&format!("{message}\n")) {
            self.add(
                Some(recorded.number),
                recorded.class(),
                "missing",
                vec![format!("it cannot be sent: {why}")],
            );
        }
    }

    /// Waits for what the recorded module said.
    fn hear(&mut self, life: &mut Life, recorded: &Recorded) {
        let (class, parameters) = (recorded.class().to_owned(), recorded.parameters());
        if !matches!(class.as_str(), "ping" | "register" | "configured" | "health" | "alert" | "ack") {
            return;
        }
        // The recording can begin between a ping and its echo.
        if class == "ping" && !self.pings.contains(&parameters["nonce"].to_string()) {
            let why = "its ping is not in the recording".to_owned();
            return self.add(Some(recorded.number), &class, "skipped", vec![why]);
        }
        let is = |message: &Value| {
            let said = &message["parameters"];
            message["class"] == class.as_str()
                && match class.as_str() {
                    "ping" => said["nonce"] == parameters["nonce"],
                    "configured" => said["generation"] == parameters["generation"],
                    "ack" => said["id"] == parameters["id"],
                    _ => true,
                }
        };
        let wait = if self.missing.contains(&class) { SHORT_WAIT } else { self.args.program.wait };
        let Some(said) = life.wait_for(is, wait) else {
            self.add(Some(recorded.number), &class, "missing", vec![shorten(parameters)]);
            self.missing.insert(class);
            return;
        };
        if class == "alert"
            && let (Some(old), Some(new)) = (parameters["id"].as_str(), said["parameters"]["id"].as_str())
        {
            self.ids.insert(old.to_owned(), new.to_owned());
        }
        let (before, now) = (comparable(&class, parameters), comparable(&class, &said["parameters"]));
        self.compare(recorded.number, &class, &before, &now);
    }

    /// Asks on the program's own socket.
    fn ask(&self, life: &mut Life, recorded: &Recorded) -> Result<Value, String> {
        if life.registered().is_none() {
            life.beat(u64::from(u32::MAX))?;
        }
        let socket = life.registered().map(|registered| registered.socket.clone()).unwrap_or_default();
        let Some(path) = socket.strip_prefix("unix:") else {
            return Err("it does not listen on a unix socket".to_owned());
        };
        let fail = |error: std::io::Error| format!("its socket {path:?}: {error}");
        let mut stream = UnixStream::connect(path).map_err(fail)?;
        stream.set_read_timeout(Some(self.args.program.wait)).map_err(fail)?;
        stream.write_all(format!("{}\n", asked_anew(recorded)).as_bytes()).map_err(fail)?;
        read_answer(stream)
    }

    /// Compares the answer to a query with the recorded one.
    fn answer(&mut self, recorded: &Recorded, query: u64) {
        match self.answers.remove(&query) {
            Some(Ok(answer)) => {
                let (before, now) = (comparable("answer", &recorded.message), comparable("answer", &answer));
                self.compare(recorded.number, "answer", &before, &now);
            }
            Some(Err(why)) => self.add(Some(recorded.number), "answer", "missing", vec![why]),
            None => {
                let why = "its query is not in the recording".to_owned();
                self.add(Some(recorded.number), "answer", "skipped", vec![why]);
            }
        }
    }

    /// Runs a standard module for each recorded query.
    fn queries(&mut self, lines: &[Recorded]) {
        for recorded in lines {
            let Some(query) = recorded.line.query else { continue };
            if !recorded.is_to_module() {
                self.answer(recorded, query);
            } else if recorded.class() == "parameters" {
                let answer = self.run_once(recorded);
                self.answers.insert(query, answer);
            }
        }
    }

    /// Starts the program for one query.
    fn run_once(&self, recorded: &Recorded) -> Result<Value, String> {
        let mut child = life::spawn(&self.args.program.command, &self.directory)?;
        let (mut stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (sender, answers) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(stdout.map(read_answer)));
        if let Some(stdin) = &mut stdin {
            // One that has ended says why by what it does not answer.
            stdin.write_all(format!("{}\n", asked_anew(recorded)).as_bytes()).ok();
        }
        let answer = answers.recv_timeout(self.args.program.wait);
        let group = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
        killpg(group, Signal::SIGKILL).ok();
        child.wait().ok();
        match answer {
            Ok(Some(answer)) => answer,
            _ => Err(format!("no answer within {}", humantime::format_duration(self.args.program.wait))),
        }
    }
}

/// Reads an answer to its end.
fn read_answer(stream: impl std::io::Read) -> Result<Value, String> {
    let mut text = String::new();
    let mut bounded = stream.take(DEFAULT_MAX_RESULT_BYTES as u64);
    bounded.read_to_string(&mut text).map_err(|error| format!("its answer: {error}"))?;
    if text.is_empty() {
        return Err("it answered nothing".to_owned());
    }
    // Lines about progress come ahead of the result.
    let begins = |line: &str| line.contains("\"class\"") && line.contains("\"progress\"");
    let result: String = text.lines().skip_while(|line| begins(line)).collect();
    serde_json::from_str(&result).map_err(|error| format!("its answer is not JSON: {error}"))
}

/// A recorded question with as much time as it had then.
fn asked_anew(recorded: &Recorded) -> Value {
    let mut message = recorded.message.clone();
    let time = |text: &str| text.parse::<jiff::Timestamp>().ok();
    if let (Some(deadline), Some(asked)) =
        (message["deadline"].as_str().and_then(time), time(&recorded.line.time))
        && let Ok(anew) = jiff::Timestamp::now().checked_add(deadline.duration_since(asked))
    {
        message["deadline"] = json!(anew.to_string());
    }
    message
}

/// What of a message is compared: without what must differ.
fn comparable(class: &str, parameters: &Value) -> Value {
    match class {
        "register" => {
            let listens = parameters["sockpath"].as_str().is_some_and(|path| !path.is_empty());
            let names = parameters["capabilities"].as_array().into_iter().flatten();
            let capabilities: BTreeSet<&str> = names.filter_map(Value::as_str).collect();
            json!({"listens": listens, "protocol": parameters["protocol"], "capabilities": capabilities})
        }
        "configured" => json!({"ok": parameters["ok"], "errors": parameters["errors"]}),
        "health" => {
            let conditions = parameters["conditions"].as_array().into_iter().flatten();
            let names: BTreeSet<&str> = conditions.filter_map(|one| one["name"].as_str()).collect();
            json!(names)
        }
        "alert" => {
            let text = parameters["message"].as_str().unwrap_or_default();
            serde_json::from_str(text).unwrap_or_else(|_| json!(text))
        }
        "answer" => {
            let mut answer = parameters.clone();
            if let Some(answer) = answer.as_object_mut() {
                answer.remove("statistics");
            }
            answer
        }
        _ => Value::Null,
    }
}

/// Names what differs, place by place.
fn differ(place: &str, recorded: &Value, now: &Value, ignored: &[String], found: &mut Vec<String>) {
    if found.len() >= NAMED_DIFFERENCES {
        return;
    }
    let below = |key: &str| if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") };
    match (recorded, now) {
        (Value::Object(before), Value::Object(after)) => {
            let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for key in keys.into_iter().filter(|key| !ignored.contains(key)) {
                let value =
                    |object: &serde_json::Map<String, Value>| object.get(key).cloned().unwrap_or_default();
                differ(&below(key), &value(before), &value(after), ignored, found);
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for ((index, before), after) in before.iter().enumerate().zip(after) {
                differ(&format!("{place}[{index}]"), before, after, ignored, found);
            }
        }
        (before, after) if before == after => {}
        (before, after) => {
            let place = if place.is_empty() { String::new() } else { format!("{place}: ") };
            found.push(format!("{place}{} was recorded, now {}", shorten(before), shorten(after)));
        }
    }
}

fn shorten(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(VALUE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differences(recorded: &Value, now: &Value, ignored: &[&str]) -> Vec<String> {
        let ignored: Vec<String> = ignored.iter().map(|key| (*key).to_owned()).collect();
        let mut found = Vec::new();
        differ("", recorded, now, &ignored, &mut found);
        found
    }

    #[test]
    fn what_differs_is_named_with_its_place() {
        let before = json!({"a": 1, "b": {"time": 5, "c": [1, {"d": "x"}]}});

        assert_eq!(differences(&before, &before, &[]), [""; 0]);
        let after = json!({"a": 1, "b": {"time": 6, "c": [1, {"d": "y"}]}, "e": true});
        assert_eq!(
            differences(&before, &after, &["time"]),
            [r#"b.c[1].d: "x" was recorded, now "y""#, "e: null was recorded, now true"]
        );
        assert_eq!(differences(&before, &after, &[])[1], "b.time: 5 was recorded, now 6");
        assert_eq!(differences(&json!([1]), &json!([1, 2]), &[]), ["[1] was recorded, now [1,2]"]);
        let many: Vec<u8> = (0..99).collect();
        assert_eq!(differences(&json!(many), &json!(vec![0; 99]), &[]).len(), NAMED_DIFFERENCES);
    }

    #[test]
    fn what_must_differ_is_not_compared() {
        let first = json!({"sockpath": "unix:/a", "protocol": 1, "capabilities": ["stop", "alert-ack"]});
        let second = json!({"sockpath": "unix:/b", "protocol": 1, "capabilities": ["alert-ack", "stop"]});
        assert_eq!(comparable("register", &first), comparable("register", &second));
        let answer = |statistics: u8| json!({"success": true, "statistics": statistics});
        assert_eq!(comparable("answer", &answer(1)), comparable("answer", &answer(2)));
        let alert = |id: &str| json!({"id": id, "message": "{\"alert\":\"x\"}"});
        assert_eq!(comparable("alert", &alert("1-1")), comparable("alert", &alert("2-1")));
    }

    fn read(text: &str) -> Result<Conversation, RecordingError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.jsonl");
        std::fs::write(&path, text).unwrap();
        Conversation::read(&path)
    }

    const HEAD: &str = r#"{"recording":1,"module":"x","vigie":"0","started":"2026-11-23T06:29:22Z"}"#;

    fn line(source: &str, text: &str) -> String {
        let line = ModuleLine {
            time: "2026-11-23T06:29:21Z".to_owned(),
            source: source.to_owned(),
            life: Some(1),
            text: text.to_owned(),
            ..ModuleLine::default()
        };
        serde_json::to_string(&line).unwrap()
    }

    #[test]
    fn what_is_no_recording_is_said_with_file_and_line() {
        let fails = |text: &str| read(text).unwrap_err().to_string();

        assert!(fails("").contains("it is empty"));
        assert!(fails("{}\n").contains("x.jsonl\" is not a recording"));
        assert!(fails(&HEAD.replace(":1,", ":2,")).contains("has format 2"));
        assert!(fails(&format!("{HEAD}\n{{\n")).contains("x.jsonl\":2: invalid line"));
        let gap = fails(&format!("{HEAD}\n{}\n", line("missed", "5 lines were omitted")));
        assert!(gap.contains("x.jsonl\":2: the recording has a gap: 5 lines were omitted"), "{gap}");
        assert!(fails(HEAD).contains("no message was sent"));
    }

    #[test]
    fn a_configuration_that_is_told_twice_is_sent_once() {
        let config = line("to_module", r#"{"class":"config","parameters":{}}"#);
        let conversation = read(&format!("{HEAD}\n{config}\n{config}\n")).unwrap();

        assert_eq!(conversation.lines.len(), 1);
        assert!(conversation.began_before && conversation.is_persistent());
    }

    #[test]
    fn a_question_has_as_much_time_as_it_had_then() {
        let text = r#"{"class":"parameters","deadline":"2026-11-23T06:34:21Z"}"#;
        let conversation = read(&format!("{HEAD}\n{}\n", line("to_module", text))).unwrap();

        let anew = asked_anew(&conversation.lines[0]);

        let deadline: jiff::Timestamp = anew["deadline"].as_str().unwrap().parse().unwrap();
        let left = deadline.duration_since(jiff::Timestamp::now()).as_secs();
        assert!((295..=300).contains(&left), "{left}");
    }
}
