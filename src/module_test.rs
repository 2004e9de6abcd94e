//! `vigie module test PROGRAM`: runs a persistent module in the agent's place and says which promises of
//! docs/modules.md it keeps.
//!
//! Each check has a life of the module, or a part of one, in a directory of its own that goes away afterwards. A check
//! that does not concern the module (it registers no socket, it has no `reconfigure`) is skipped, with the reason.

mod life;
pub(crate) mod replay;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use self::life::Life;
use crate::exit::{Exit, Failure};
use crate::print::{Paint, Printer, Tone, safe};

/// `module test`
#[derive(Debug, Args)]
pub(crate) struct ModuleTestArgs {
    /// The module's configuration as JSON, as the agent would send it
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub(crate) config: String,

    /// Parameters of a query that the module answers, as JSON
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub(crate) query: String,

    #[command(flatten)]
    pub(crate) program: ProgramOptions,
}

/// The program that takes the place of a module, and how it is treated.
#[derive(Debug, Args)]
pub(crate) struct ProgramOptions {
    /// How long to wait for each expected message of the module
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = crate::durations::positive)]
    pub(crate) wait: Duration,

    /// Print JSON, one check or compared line a line
    #[arg(long)]
    pub(crate) json: bool,

    /// The module's program: an absolute path and its arguments
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

/// What a check found.
#[derive(Debug, Clone, Serialize)]
struct Checked {
    check: &'static str,
    /// `kept`, `broken` or `skipped`.
    result: &'static str,
    detail: String,
}

/// Why a check did not end with a promise kept.
#[derive(Debug)]
enum Not {
    Kept(String),
    /// It lives and does not echo a heartbeat as it should.
    Echoed(String),
    Concerned(String),
}

type Outcome = Result<String, Not>;

fn broken<T>(why: impl Into<String>) -> Result<T, Not> {
    Err(Not::Kept(why.into()))
}

/// What is tested.
struct Subject<'a> {
    command: &'a [String],
    config: Value,
    query: Value,
    wait: Duration,
    /// Directory of this check.
    directory: PathBuf,
}

/// A check: runs the module and says what it found.
type Check = fn(&Subject<'_>) -> Outcome;

/// The checks in their order.
const CHECKS: &[(&str, Check)] = &[
    ("starts and echoes a heartbeat", starts),
    ("writes messages only", writes_messages),
    ("echoes heartbeats under load, in order", echoes_under_load),
    ("reads a message that arrives in pieces", reads_pieces),
    ("continues after unknown input", reads_on),
    ("accepts a configuration while it runs", reconfigures),
    ("confirms a configuration", confirms),
    ("protects its socket", shuts_socket),
    ("answers queries, several at a time", answers),
    ("outlives bad clients", outlives_clients),
    ("stops on request", stops),
    ("ends with its standard input", ends_with_stdin),
    ("sends unacknowledged alerts again", sends_again),
    ("forgets acknowledged alerts", forgets),
    ("leaves no process behind", leaves_nothing),
];

/// Carries out `module test`.
pub(crate) fn run(args: &ModuleTestArgs, printer: &mut Printer) -> Result<Exit, Failure> {
    let read = |name: &str, text: &str| {
        serde_json::from_str::<Value>(text).map_err(|error| {
            Failure::new(
                Exit::Usage,
                format!("--{name} is not JSON: {error}"),
                "write it as in '{\"path\": \"/srv\"}'",
            )
        })
    };
    let (config, query) = (read("config", &args.config)?, read("query", &args.query)?);
    absolute(&args.program.command)?;
    let scratch = Scratch::make()?;
    let (mut broken, mut skipped) = (0, 0);
    let mut is_silent = false;
    for (index, (check, look)) in CHECKS.iter().enumerate() {
        let directory = scratch.0.join(index.to_string());
        std::fs::create_dir(&directory)?;
        let subject = Subject {
            command: &args.program.command,
            config: config.clone(),
            query: query.clone(),
            wait: args.program.wait,
            directory,
        };
        let found = match is_silent {
            // It would be waited for in each of them.
            true => Err(Not::Concerned("it does not echo heartbeats".to_owned())),
            false => look(&subject),
        };
        is_silent |= index == 0 && matches!(found, Err(Not::Echoed(_)));
        let (result, detail) = match found {
            Ok(detail) => ("kept", detail),
            Err(Not::Concerned(why)) => ("skipped", why),
            Err(Not::Kept(why) | Not::Echoed(why)) => ("broken", why),
        };
        broken += usize::from(result == "broken");
        skipped += usize::from(is_silent && result == "skipped");
        let checked = Checked { check, result, detail };
        if printer.is_json() {
            printer.json(&checked)?;
        } else {
            let text = render(&checked, printer.paint());
            printer.line(&text)?;
        }
    }
    if !printer.is_json() {
        printer.line(&match broken {
            0 => "the module conforms to docs/modules.md".to_owned(),
            _ if is_silent => format!("the first check failed, so {skipped} others were not made"),
            count => format!("{count} of {} checks failed; docs/modules.md explains each", CHECKS.len()),
        })?;
    }
    Ok(if broken == 0 { Exit::Ok } else { Exit::NotWell })
}

/// Refuses a program whose place depends on where the command is given.
fn absolute(command: &[String]) -> Result<(), Failure> {
    if Path::new(&command[0]).is_absolute() {
        return Ok(());
    }
    let message = format!("the program {:?} is not an absolute path", command[0]);
    Err(Failure::new(Exit::Usage, message, "give an absolute path, as the agent requires"))
}

fn render(checked: &Checked, paint: Paint) -> String {
    let tone = match checked.result {
        "kept" => Tone::Good,
        "broken" => Tone::Bad,
        _ => Tone::Faint,
    };
    let word = paint.text(tone, &format!("{:7}", checked.result));
    let mut text = format!("{word} {}", checked.check);
    if !checked.detail.is_empty() {
        text.push_str(&format!(": {}", safe(&checked.detail)));
    }
    text
}

/// A directory that goes away.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("vigie-test-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

impl Subject<'_> {
    /// Starts a life, sends it the configuration, and waits for the echo of a heartbeat.
    fn live(&self) -> Result<Life, Not> {
        let mut life = Life::start(self.command, &self.directory, self.wait).map_err(Not::Kept)?;
        life.send(&life.config(&self.config, 1)).map_err(Not::Kept)?;
        match life.beat(1) {
            Ok(()) => Ok(life),
            Err(why) if life.runs() => Err(Not::Echoed(why)),
            Err(why) => Err(Not::Kept(why)),
        }
    }

    /// The same, of a module that has a capability.
    fn live_with(&self, capability: &str) -> Result<Life, Not> {
        let life = self.live()?;
        if life.registered().is_some_and(|registered| registered.can(capability)) {
            return Ok(life);
        }
        Err(Not::Concerned(format!("it does not register the capability {capability}")))
    }

    /// The same, of a module that listens, with its socket.
    fn live_listening(&self) -> Result<(Life, PathBuf), Not> {
        let life = self.live()?;
        let socket = life.registered().map(|registered| registered.socket.clone()).unwrap_or_default();
        match socket.strip_prefix("unix:") {
            Some(path) => {
                let path = PathBuf::from(path);
                Ok((life, path))
            }
            None if socket.is_empty() => Err(Not::Concerned("it registers no query socket".to_owned())),
            None => Err(Not::Concerned(format!("it listens on {socket}, not on a unix socket"))),
        }
    }
}

fn starts(subject: &Subject<'_>) -> Outcome {
    let life = subject.live()?;
    let told =
        life.registered().map(|registered| format!("capabilities: {}", registered.capabilities.join(", ")));
    Ok(told.unwrap_or_else(|| "it registers nothing".to_owned()))
}

fn writes_messages(subject: &Subject<'_>) -> Outcome {
    let mut life = subject.live()?;
    life.beat(2).map_err(Not::Kept)?;
    match life.stray() {
        Some(line) => broken(format!("not a module message: {line:?}")),
        None => Ok(String::new()),
    }
}

fn echoes_under_load(subject: &Subject<'_>) -> Outcome {
    const BEATS: u64 = 300;
    let mut life = subject.live()?;
    let burst: String = (10..10 + BEATS).map(life::ping).collect();
    life.send(&burst).map_err(Not::Kept)?;
    for nonce in 10..10 + BEATS {
        life.expect_echo(nonce)
            .map_err(|why| Not::Kept(format!("heartbeat {} of {BEATS}: {why}", nonce - 9)))?;
    }
    Ok(format!("{BEATS} in one write"))
}

fn reads_pieces(subject: &Subject<'_>) -> Outcome {
    let mut life = subject.live()?;
    let line = life::ping(7);
    for piece in line.as_bytes().chunks(5) {
        life.send(std::str::from_utf8(piece).unwrap_or_default()).map_err(Not::Kept)?;
    }
    life.expect_echo(7).map_err(Not::Kept)?;
    Ok(String::new())
}

fn reads_on(subject: &Subject<'_>) -> Outcome {
    let mut life = subject.live()?;
    for (what, line) in [
        ("an unknown class", json!({"class": "novelty", "parameters": {"x": [1]}}).to_string()),
        ("an unknown key", json!({"class": "ping", "parameters": {"nonce": 50, "novelty": {}}}).to_string()),
        ("a line of 512 KiB", json!({"class": "novelty", "parameters": "x".repeat(512 << 10)}).to_string()),
    ] {
        life.send(&format!("{line}\n")).map_err(Not::Kept)?;
        life.beat(60).map_err(|why| Not::Kept(format!("after {what}: {why}")))?;
    }
    Ok(String::new())
}

fn reconfigures(subject: &Subject<'_>) -> Outcome {
    let mut life = subject.live_with("reconfigure")?;
    let first = life.pid();
    life.send(&life.config(&subject.config, 2)).map_err(Not::Kept)?;
    life.beat(9).map_err(Not::Kept)?;
    if life.pid() == first { Ok(String::new()) } else { broken("it was replaced by another process") }
}

fn confirms(subject: &Subject<'_>) -> Outcome {
    let mut life = subject.live()?;
    let says = life.registered().is_some_and(|registered| registered.can("configured"));
    if !says && life.configured(1, Duration::from_millis(500)).is_none() {
        return Err(Not::Concerned(
            "it does not send configured; the first heartbeat counts as confirmation".to_owned(),
        ));
    }
    let Some(first) = life.configured(1, subject.wait) else {
        return broken("no configured for generation 1");
    };
    if first["ok"] != true {
        return broken(format!("it rejects the configuration: {}", first["errors"]));
    }
    if !life.registered().is_some_and(|registered| registered.can("reconfigure")) {
        return Ok("generation 1".to_owned());
    }
    life.send(&life.config(&subject.config, 2)).map_err(Not::Kept)?;
    match life.configured(2, subject.wait) {
        Some(_) => Ok("generations 1 and 2".to_owned()),
        None => broken("no configured for generation 2"),
    }
}

fn shuts_socket(subject: &Subject<'_>) -> Outcome {
    let (_life, path) = subject.live_listening()?;
    let data = match std::fs::symlink_metadata(&path) {
        Ok(data) => data,
        Err(error) => return broken(format!("its socket {path:?}: {error}")),
    };
    if !path.starts_with(&subject.directory) {
        return broken(format!("{path:?} is not in the directory that VIGIE_RUN_DIR names"));
    }
    match data.permissions().mode() & 0o077 {
        0 => Ok(String::new()),
        _ => broken(format!(
            "users other than its owner may use {path:?} (mode {:04o})",
            data.permissions().mode() & 0o777
        )),
    }
}

/// Asks, and reads the answer.
fn ask(subject: &Subject<'_>, path: &Path) -> Result<Value, String> {
    let fail = |error: std::io::Error| format!("a query: {error}");
    let mut stream = UnixStream::connect(path).map_err(fail)?;
    stream.set_read_timeout(Some(subject.wait)).map_err(fail)?;
    let line = json!({"class": "parameters", "parameters": subject.query});
    stream.write_all(format!("{line}\n").as_bytes()).map_err(fail)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(fail)?;
    let result: Value =
        serde_json::from_str(&text).map_err(|error| format!("its answer is not JSON: {error}"))?;
    for key in ["foundanything", "success"] {
        if !result[key].is_boolean() {
            return Err(format!("its answer has no {key}: {}", text.chars().take(200).collect::<String>()));
        }
    }
    Ok(result)
}

fn answers(subject: &Subject<'_>) -> Outcome {
    const AT_ONCE: usize = 8;
    let (_life, path) = subject.live_listening()?;
    // One that asks nothing must not hold up the others.
    let _silent = UnixStream::connect(&path).map_err(|error| Not::Kept(format!("a connection: {error}")))?;
    let answers: Vec<Result<Value, String>> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(|| ask(subject, &path))).collect();
        asking
            .into_iter()
            .map(|one| one.join().unwrap_or_else(|_| Err("the test failed".to_owned())))
            .collect()
    });
    match answers.into_iter().find_map(Result::err) {
        Some(why) => broken(why),
        None => Ok(format!("{AT_ONCE} concurrently, beside a silent one")),
    }
}

fn outlives_clients(subject: &Subject<'_>) -> Outcome {
    let (mut life, path) = subject.live_listening()?;
    for bytes in
        [&b"garbage\n"[..], b"{\"class\":\"parameters\",\"parameters\":{\"x\":\n", b"\xff\xfe\n", b"", b"{}"]
    {
        let mut client =
            UnixStream::connect(&path).map_err(|error| Not::Kept(format!("a connection: {error}")))?;
        // Each goes away without reading.
        client.write_all(bytes).ok();
    }
    ask(subject, &path).map_err(|why| Not::Kept(format!("after bad clients, {why}")))?;
    life.beat(70).map_err(|why| Not::Kept(format!("after bad clients: {why}")))?;
    Ok(String::new())
}

fn stops(subject: &Subject<'_>) -> Outcome {
    let mut life = subject.live_with("stop")?;
    life.send(&format!("{}\n", json!({"class": "stop"}))).map_err(Not::Kept)?;
    match life.wait() {
        Some(Some(0)) => Ok(String::new()),
        Some(code) => broken(format!("it ended with {}", life::shown(code))),
        None => broken("it did not end"),
    }
}

fn ends_with_stdin(subject: &Subject<'_>) -> Outcome {
    let mut life = subject.live()?;
    life.close();
    match life.wait() {
        Some(_) => Ok(String::new()),
        None => broken("its standard input ended, but it keeps running"),
    }
}

/// An alert of a life that acknowledges none.
fn first_alert(subject: &Subject<'_>) -> Result<(Life, String), Not> {
    let mut life = subject.live_with("alert-ack")?;
    match life.alert() {
        Some(Some(id)) => Ok((life, id)),
        Some(None) => broken("its alert has no id"),
        None => Err(Not::Concerned(format!(
            "it sent no alert within {}",
            humantime::format_duration(subject.wait)
        ))),
    }
}

fn sends_again(subject: &Subject<'_>) -> Outcome {
    let (life, id) = first_alert(subject)?;
    life.kill();
    let mut next = subject.live()?;
    match next.alert_with(&id) {
        true => Ok(format!("alert {id}, after SIGKILL")),
        false => broken(format!("alert {id} was not acknowledged, but is not sent again after SIGKILL")),
    }
}

fn forgets(subject: &Subject<'_>) -> Outcome {
    let (mut life, id) = first_alert(subject)?;
    life.send(&format!("{}\n", json!({"class": "ack", "parameters": {"id": id}}))).map_err(Not::Kept)?;
    // What it echoes after the acknowledgement it read before the end.
    life.beat(80).map_err(Not::Kept)?;
    life.beat(81).map_err(Not::Kept)?;
    life.kill();
    let mut next = subject.live()?;
    next.beat(82).map_err(Not::Kept)?;
    match next.has_seen(&id) {
        false => Ok(String::new()),
        true => broken(format!("alert {id} was acknowledged, but is sent again")),
    }
}

fn leaves_nothing(subject: &Subject<'_>) -> Outcome {
    let mut life = subject.live()?;
    life.close();
    if life.wait().is_none() {
        return Err(Not::Concerned("it does not end".to_owned()));
    }
    match life.left_behind().len() {
        0 => Ok(String::new()),
        count => broken(format!("{count} of its child processes keep running")),
    }
}
