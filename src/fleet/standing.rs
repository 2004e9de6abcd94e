//! Standing questions: `vigie query … --every`, and `vigie fleet standing list|stop|results`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use vigie_fleet::action::{Action, Standing};
use vigie_fleet::admission;
use vigie_fleet::answer::Purpose;
use vigie_fleet::broker::client::Subscription;
use vigie_fleet::broker::connection::Connection;
use vigie_fleet::broker::stored::{self, Cursor};
use vigie_fleet::broker::streams::ANSWER_MESSAGES;
use vigie_fleet::policy::Policy;
use vigie_fleet::predicate::Target;
use vigie_fleet::standing::{Known, Reader, Report, Row, Rows};
use vigie_fleet::subjects::{self, EVERY_STANDING, RESULTS, STANDING};
use vigie_protocol::names::{ActionId, AgentId};

use super::answers::Answers;
use super::ask::{self, Asked, Pending, Waiting};
use super::files::{self, failed};
use super::inventory::{Inventory, parse_target};
use super::options::{AskOptions, Show, Wait};
use super::profile::Profile;
use super::view::View;
use super::{publish, sign, verify};
use crate::exit::{Exit, Failure};
use crate::print::{self, Printer, Tone, safe};
use crate::table::{Cell, Room, Table};

/// `fleet standing`
#[derive(Debug, Subcommand)]
pub(crate) enum StandingCommand {
    /// List standing queries: investigator, modules, target, end and number of agents
    #[command(after_help = "\
Examples:
  vigie fleet standing list
  vigie fleet standing list --all --json   include stopped and ended ones")]
    List {
        /// Include standing queries that were stopped, have ended, or run on no agent
        #[arg(long)]
        all: bool,
    },

    /// Stop a standing query with a signed action; offline agents stop it when they return
    #[command(after_help = "\
Examples:
  vigie fleet standing stop 5f0c…

Anyone who may sign the query may stop it.")]
    Stop(StopArgs),

    /// Show the differences that a standing query found
    #[command(after_help = "\
Examples:
  vigie fleet standing results 5f0c…
  vigie fleet standing results 5f0c… --follow
  vigie fleet standing results 5f0c… --now     the present result of each agent

Exit codes: 0 all reports present, 3 some reports missing, 4 a message was rejected.")]
    Results(ReportsArgs),
}

/// `fleet standing stop`
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// ID of the standing query
    #[arg(value_name = "ID")]
    question: ActionId,

    /// Sign with this SSH private key, or give a .pub file to use that key from ssh-agent [default:
    /// signing_key in the fleet file]
    #[arg(long, value_name = "FILE")]
    key: Option<std::path::PathBuf>,
}

/// `fleet standing results`
#[derive(Debug, Args)]
pub(crate) struct ReportsArgs {
    /// ID of the standing query
    #[arg(value_name = "ID")]
    question: ActionId,

    /// Print new reports as they arrive
    #[arg(long, short = 'f', conflicts_with = "now")]
    follow: bool,

    /// Show the present result instead of the history of differences
    #[arg(long)]
    now: bool,
}

const BROKER: &str = "check that the broker is running and reachable";

/// How long agents are waited for that take a question or its end.
const WAIT: Duration = Duration::from_secs(15);

/// Carries out `fleet standing`.
pub(super) fn run(
    command: &StandingCommand,
    profile: &Profile,
    printer: &mut Printer,
) -> Result<Exit, Failure> {
    match command {
        StandingCommand::List { all } => files::block_on(list(*all, profile, printer)),
        StandingCommand::Stop(args) => files::block_on(stop(args, profile, printer)),
        StandingCommand::Results(args) => files::block_on(results(args, profile, printer)),
    }
}

/// Has the agents for which a target is true ask something again and again.
pub(super) async fn ask(
    asked: &Asked,
    target: &str,
    every: Duration,
    options: &AskOptions,
    printer: &mut Printer,
) -> Result<Exit, Failure> {
    let profile = Profile::load(options.file.fleet_file.as_deref())?;
    let (meant, target) = parse_target(target, &profile)?;
    let key = sign::signing_key(options.key.as_deref(), &profile)?;
    let (connection, _events) = profile.connect().await?;
    let inventory = Inventory::load(&connection, &profile).await?;
    let window = options.expires.ok_or_else(|| {
        Failure::new(Exit::Usage, "a standing query needs an end", "give --expires, such as --expires 30d")
    })?;
    let name = options.purpose.clone().unwrap_or_else(|| asked.name.clone());
    let operations = asked.operations.clone();
    let mut action = sign::new_action(&profile, name, target, operations, window)?;
    action.standing = Some(Standing { every: u32::try_from(every.as_secs()).unwrap_or(u32::MAX) });
    let seconds = |time: Duration| u32::try_from(time.as_secs().max(1)).unwrap_or(u32::MAX);
    action.limits.seconds = asked.timeout.map(seconds);
    let agents = inventory.matching(&meant).into_iter().map(|(agent, _)| agent.clone()).collect();
    let sending = Sending { connection: &connection, profile: &profile, inventory: &inventory, key };
    let wait = options.waiting.wait;
    let done = sending.send(&action, agents, wait, printer).await?;
    if !printer.is_json() {
        printer.line(&format!("standing question {}", action.id))?;
        print::note(&format!(
            "see the differences with: vigie fleet standing results {0}; stop it with: vigie fleet standing stop {0}",
            action.id
        ));
    }
    Ok(done)
}

/// What sending takes.
struct Sending<'a> {
    connection: &'a Connection,
    profile: &'a Profile,
    inventory: &'a Inventory,
    key: &'a std::path::Path,
}

/// What became of a question or its end.
#[derive(Serialize)]
struct SentLine<'a> {
    r#type: &'a str,
    action: &'a ActionId,
    #[serde(skip_serializing_if = "Option::is_none")]
    stops: Option<&'a ActionId>,
    /// Agents that said that they took it, and that they do not.
    taken: usize,
    refused: usize,
    /// Agents that have not said anything: those that are away take it when they return.
    silent: usize,
}

impl Sending<'_> {
    /// Signs, stores and tells, and waits for the agents that are there.
    async fn send(
        &self,
        action: &Action,
        agents: Vec<AgentId>,
        wait: Wait,
        printer: &mut Printer,
    ) -> Result<Exit, Failure> {
        let (key, to_sign) = (self.key.to_owned(), action.clone());
        // It may ask for a passphrase or a touch.
        let signing = tokio::task::spawn_blocking(move || sign::sign_action(&to_sign, &key));
        let internal = |error: String| Failure::new(Exit::Internal, error, "");
        let envelope = signing.await.map_err(|error| internal(error.to_string()))??;
        let envelope = serde_json::to_string(&envelope).map_err(|error| internal(error.to_string()))?;
        let org = self.profile.org.as_str();
        if let Some(refusal) =
            verify::refusal(envelope.as_bytes(), action, &self.inventory.policy, org, files::now())
        {
            let message = format!("no agent would accept it: {refusal}");
            let hint = "`standing` in the policy defines who may and how much; see docs/fleet.md";
            return Err(Failure::new(Exit::Permission, message, hint));
        }
        let mut answers = Answers::new(self.inventory);
        answers.expect(&action.id, agents.iter().cloned());
        let live = ask::listen(self.connection, &action.id)?;
        publish::store(self.connection, self.profile, &envelope).await?;
        publish::tell(self.connection, self.inventory, &agents, envelope.as_bytes()).await;
        let mut view = View::new(printer);
        view.prepare(agents.iter(), false);
        if wait == Wait::None {
            self.connection.client.flush(WAIT).await.ok();
        } else {
            let wait = if wait == Wait::default() { Wait::Time(WAIT) } else { wait };
            let (action, ends) = (action.id.clone(), Some(action.not_after));
            let waiting = Waiting { action, wait, show: Show::Failed, until: None, ends };
            let mut pending = Pending {
                connection: self.connection,
                profile: self.profile,
                live,
                envelope: Some(envelope),
                joining: None,
            };
            ask::collect(&mut answers, &mut view, &mut pending, &waiting).await?;
        }
        view.clear();
        let counts = answers.counts.clone();
        let taken = counts.answered - counts.refused - counts.failed;
        let silent = answers.silent().len();
        if printer.is_json() {
            let (stops, refused) = (action.stop.as_ref(), counts.refused);
            printer.json(&SentLine {
                r#type: "standing",
                action: &action.id,
                stops,
                taken,
                refused,
                silent,
            })?;
        } else {
            let rest = if silent > 0 { format!(", {silent} when they return") } else { String::new() };
            print::note(&format!(
                "{taken} of {} agents accepted it{rest}; {} refused",
                agents.len(),
                counts.refused
            ));
        }
        Ok(if counts.refused + counts.failed + counts.flagged > 0 { Exit::SomeFailed } else { Exit::Ok })
    }
}

/// A standing question as the broker has it.
struct Stored {
    action: Action,
    by: String,
    /// Why no agent would take it, if so.
    refusal: Option<&'static str>,
}

/// Reads all standing questions, and which were stopped by whom.
async fn stored_questions(
    connection: &Connection,
    profile: &Profile,
    policy: &Policy,
) -> Result<(Vec<Stored>, BTreeMap<ActionId, String>), Failure> {
    let (mut questions, mut stops) = (Vec::new(), Vec::new());
    let mut cursor = Cursor { next: 1 };
    let reading = cursor.read(&connection.client, STANDING, EVERY_STANDING, |entry| {
        let Ok((_, action)) = admission::read(&entry.value) else { return true };
        let by = subjects::last_name(&entry.subject).map_or_else(String::new, |name| name.to_string());
        let refused = verify::refusal(&entry.value, &action, policy, profile.org.as_str(), files::now());
        let refusal = refused.map(|refusal| refusal.code());
        let stored = Stored { action, by, refusal };
        if stored.action.stop.is_some() {
            stops.push(stored)
        } else {
            questions.push(stored)
        }
        true
    });
    reading.await.map_err(|error| failed(Exit::Unavailable, BROKER)(&error))?;
    let mut ended = BTreeMap::new();
    for stop in &stops {
        let question =
            stop.action.stop.as_ref().and_then(|id| questions.iter().find(|one| one.action.id == *id));
        // The agents look at its signers' weights as well.
        if let (Some(question), None | Some("expired")) = (question, stop.refusal) {
            ended.insert(question.action.id.clone(), stop.by.clone());
        }
    }
    Ok((questions, ended))
}

#[derive(Serialize)]
struct QuestionLine<'a> {
    question: &'a ActionId,
    name: &'a str,
    by: &'a str,
    target: &'a str,
    every: u32,
    not_after: i64,
    /// `asked`, `stopped`, or the code of the agents' refusal.
    state: &'a str,
    /// Agents that ask it, and those for which its target is true.
    held: usize,
    meant: usize,
    modules: Vec<&'a str>,
}

async fn list(all: bool, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    let (connection, _events) = profile.connect().await?;
    let inventory = Inventory::load(&connection, profile).await?;
    let (questions, stopped) = stored_questions(&connection, profile, &inventory.policy).await?;
    let mut table = Table::simple(&["ID", "NAME", "BY", "EVERY", "UNTIL", "STATE", "AGENTS", "TARGET"]);
    let mut shown = 0;
    for Stored { action, by, refusal } in &questions {
        let state = match (stopped.get(&action.id), refusal) {
            (Some(_), _) => "stopped",
            (None, Some(code)) => code,
            (None, None) => "asked",
        };
        if state != "asked" && !all {
            continue;
        }
        shown += 1;
        let held = inventory.agents.values().filter_map(|known| known.shown.as_ref());
        let held = held.filter(|shown| shown.standing.iter().any(|head| head.question == action.id)).count();
        let meant = Target::parse(&action.target).map_or(0, |target| inventory.matching(&target).len());
        let every = action.standing.map_or(0, |standing| standing.every);
        if printer.is_json() {
            printer.json(&QuestionLine {
                question: &action.id,
                name: &action.name,
                by,
                target: &action.target,
                every,
                not_after: action.not_after,
                state,
                held,
                meant,
                modules: action.ops.iter().map(|operation| operation.module.as_str()).collect(),
            })?;
            continue;
        }
        let until = jiff::Timestamp::from_second(action.not_after)
            .map_or_else(|_| "-".to_owned(), |at| at.to_string());
        let tone = if state == "asked" { Tone::Good } else { Tone::Doubtful };
        let texts = [action.id.as_str(), &action.name, by, &print::duration(every.into()), &until]
            .map(|text| safe(text).into_owned());
        let mut cells: Vec<Cell> = texts.iter().map(|text| Cell::from(text.as_str())).collect();
        cells.push(Cell::new(tone, state));
        cells.push(Cell::from(format!("{held} of {meant}").as_str()));
        cells.push(Cell::from(safe(&action.target).as_ref()));
        table.add(cells);
    }
    if printer.is_json() {
        return Ok(Exit::Ok);
    }
    if shown == 0 {
        print::note(
            "no standing queries; create one with `vigie query MODULE -t TARGET --every TIME --expires TIME`",
        );
        return Ok(Exit::Ok);
    }
    let (paint, width) = (printer.paint(), printer.width());
    printer.line(table.text(Room { width, wide: false }, paint).trim_end())?;
    Ok(Exit::Ok)
}

async fn stop(args: &StopArgs, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    let key = sign::signing_key(args.key.as_deref(), profile)?;
    let (connection, _events) = profile.connect().await?;
    let inventory = Inventory::load(&connection, profile).await?;
    let (questions, _) = stored_questions(&connection, profile, &inventory.policy).await?;
    let Some(question) = questions.iter().find(|question| question.action.id == args.question) else {
        let message = format!("{} is not a standing query on the broker", args.question);
        return Err(Failure::new(Exit::Usage, message, "`vigie fleet standing list --all` lists them"));
    };
    let name = format!("stop {}", question.action.name.chars().take(200).collect::<String>());
    let mut action =
        sign::new_action(profile, name, "all".to_owned(), Vec::new(), Duration::from_secs(3600))?;
    // For as long as somebody may still find the question.
    action.not_after = question.action.not_after.max(action.not_before + 60);
    action.stop = Some(args.question.clone());
    let agents = inventory.agents.keys().cloned().collect();
    let sending = Sending { connection: &connection, profile, inventory: &inventory, key };
    sending.send(&action, agents, Wait::default(), printer).await
}

#[derive(Serialize)]
struct ReportLine<'a> {
    r#type: &'a str,
    agent: &'a AgentId,
    #[serde(flatten)]
    report: &'a Report,
}

#[derive(Serialize)]
struct NowLine<'a> {
    r#type: &'a str,
    agent: &'a AgentId,
    /// Absent when it is not known, because a report is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<&'a Rows>,
}

/// What a reader of reports has so far.
struct Reading<'a> {
    inventory: &'a Inventory,
    reader: Reader,
    known: BTreeMap<AgentId, Known>,
    /// What is missing or does not count was said of these.
    incomplete: BTreeSet<AgentId>,
    flagged: usize,
    now: bool,
}

impl Reading<'_> {
    /// Takes a message and prints the report that it completes.
    fn take(
        &mut self,
        subject: &str,
        payload: &[u8],
        stored: i64,
        printer: &mut Printer,
    ) -> Result<(), Failure> {
        let inventory = self.inventory;
        let taken = self
            .reader
            .take(subject, payload, |agent, sealed| inventory.open(agent, sealed, Purpose::Answer, stored));
        let (agent, report) = match taken {
            Ok(Some(report)) => report,
            Ok(None) => return Ok(()),
            Err(flag) => {
                self.flagged += 1;
                print::note(&format!("invalid: {}", safe(&flag.to_string())));
                return Ok(());
            }
        };
        let missing = self.known.entry(agent.clone()).or_default().take(&report);
        if missing > 0 && report.number > missing + 1 {
            self.incomplete.insert(agent.clone());
            print::note(&format!("{agent}: {missing} report(s) before number {} are missing", report.number));
        }
        if self.now {
            return Ok(());
        }
        if printer.is_json() {
            return printer.json(&ReportLine { r#type: "report", agent: &agent, report: &report });
        }
        let missed = match report.missed {
            0 => String::new(),
            missed => format!(", {missed} run(s) skipped before it"),
        };
        let full = if report.full { ", everything" } else { "" };
        printer.line(&safe(&format!("{}  {agent}  #{}{full}{missed}", report.time, report.number)))?;
        let paint = printer.paint();
        for (tone, sign, rows) in [(Tone::Good, "+", &report.added), (Tone::Bad, "-", &report.removed)] {
            for row in rows {
                printer.line(&format!("  {} {}", paint.text(tone, sign), line(row)))?;
            }
        }
        Ok(())
    }
}

fn line(row: &Row) -> String {
    safe(&format!("{} {} {}", row.module, row.place, row.value)).into_owned()
}

async fn results(args: &ReportsArgs, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    let (connection, _events) = profile.connect().await?;
    let inventory = Inventory::load(&connection, profile).await?;
    let client = &connection.client;
    let mut live = ask::listen(&connection, &args.question)?;
    let mut reading = Reading {
        inventory: &inventory,
        reader: Reader::new(args.question.clone()),
        known: BTreeMap::new(),
        incomplete: BTreeSet::new(),
        flagged: 0,
        now: args.now,
    };
    let mut entries = Vec::new();
    for agent in inventory.agents.keys() {
        let subject = subjects::answer(&args.question, agent);
        let found = stored::versions(client, RESULTS, &subject, ANSWER_MESSAGES).await;
        entries.extend(found.map_err(|error| failed(Exit::Unavailable, BROKER)(&error))?);
    }
    // As they came, whoever sent them.
    entries.sort_by_key(|entry| entry.sequence);
    for entry in &entries {
        reading.take(&entry.subject, &entry.value, entry.stored, printer)?;
    }
    if args.now {
        for (agent, known) in &reading.known {
            let rows = known.rows.as_ref();
            if printer.is_json() {
                printer.json(&NowLine { r#type: "now", agent, rows })?;
            } else if let Some(rows) = rows {
                for row in rows {
                    printer.line(&format!("{agent}  {}", line(row)))?;
                }
            }
            if rows.is_none() {
                reading.incomplete.insert(agent.clone());
                print::note(&format!("{agent}: unknown until its next full report, because one is missing"));
            }
        }
    }
    for (agent, shown) in
        inventory.agents.iter().filter_map(|(agent, known)| Some((agent, known.shown.as_ref()?)))
    {
        let head = shown.standing.iter().find(|head| head.question == args.question);
        let read = reading.known.get(agent).map_or(0, Known::number);
        if let Some(head) = head.filter(|head| head.number > read) {
            reading.incomplete.insert(agent.clone());
            print::note(&format!("{agent}: has made {} report(s), {read} are here", head.number));
        }
    }
    if args.follow {
        follow(&mut reading, &mut live, printer).await?;
    }
    Ok(match (reading.flagged, reading.incomplete.is_empty()) {
        (0, true) => Exit::Ok,
        (0, false) => Exit::NotRunning,
        _ => Exit::SomeFailed,
    })
}

/// Prints reports as they come, until Ctrl-C.
async fn follow(
    reading: &mut Reading<'_>,
    live: &mut Subscription,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    loop {
        tokio::select! {
            _ = &mut interrupt => return Ok(()),
            message = live.next() => {
                let Some(message) = message else { return Ok(()) };
                reading.take(&message.subject, &message.payload, files::now(), printer)?;
            }
        }
    }
}

/// Whether an envelope goes among the standing questions.
pub(super) fn is_standing(action: &Action) -> bool {
    action.standing.is_some() || action.stop.is_some()
}
