//! `vigie query MODULE -t TARGET`: one question to every agent for which the target is true.
//!
//! The target is evaluated here as a preview; each agent decides for itself. Few agents are addressed one by one, so
//! that nobody else sees the question; many by one message to all.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use vigie_fleet::action::{Action, MAX_AGENTS, Operation};
use vigie_fleet::broker::connection::Connection;
use vigie_fleet::policy::Policy;
use vigie_fleet::subjects::RESULTS;
use vigie_protocol::names::{ActionId, AgentId};

use super::answers::{Answers, Came, From, Stored, follow};
use super::files;
use super::inventory::{Inventory, parse_target};
use super::options::{AskOptions, Show, Wait};
use super::profile::Profile;
use super::publish::{self, Destination};
use super::sign;
use super::verify;
use super::view::{PICTURE, View};
use crate::exit::{Exit, Failure};
use crate::print::Printer;
use crate::query::Question;

/// Up to so many agents are addressed one by one; it costs the broker the same as one message to all.
const ADDRESSED: usize = 5_000;

/// Longest wait for answers, whatever is waited for: no action lives longer.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// How long after an action's end answers can still come.
const AFTER_END: Duration = Duration::from_secs(60);

/// Agents without facts that are named.
const NAMED: usize = 20;

/// How long agents that are away may still run an action.
const EXPIRES: Duration = Duration::from_secs(3600);

/// What a fleet is asked.
pub(crate) struct Asked {
    /// What it is called, for those who audit.
    pub(crate) name: String,
    /// The questions.
    pub(crate) operations: Vec<Operation>,
    /// Longest time for all of them on a host.
    pub(crate) timeout: Option<Duration>,
    /// How long it may be begun, unless the command line says otherwise.
    pub(crate) expires: Option<Duration>,
}

impl std::convert::From<Question> for Asked {
    fn from(Question { module, parameters, timeout }: Question) -> Self {
        let name = format!("vigie query {module}");
        Self { name, operations: vec![Operation { module, params: parameters }], timeout, expires: None }
    }
}

/// Carries out a question to the agents for which `target` is true.
pub(crate) fn run(
    asked: &Asked,
    target: &str,
    options: &AskOptions,
    printer: &mut Printer,
) -> Result<Exit, Failure> {
    files::block_on(ask(asked, target, options, printer))
}

async fn ask(
    asked: &Asked,
    text: &str,
    options: &AskOptions,
    printer: &mut Printer,
) -> Result<Exit, Failure> {
    let target = parse_target(text)?;
    let profile = Profile::load(options.file.fleet_file.as_deref())?;
    sign::signing_key(options.key.as_deref(), &profile)?;
    let (connection, _events) = profile.connect().await?;
    let inventory = Inventory::load(&connection, &profile).await?;
    let mut view = View::new(printer);
    view.flagged_records(&inventory.flagged)?;

    let mut agents: Vec<AgentId> =
        inventory.matching(&target).into_iter().map(|(agent, _)| agent.clone()).collect();
    agents.sort_by_key(|agent| !inventory.agents.get(agent).is_some_and(|known| known.online));
    view.prepare(agents.iter(), options.waiting.details);
    let matching = agents.len();
    let online =
        agents.iter().filter(|agent| inventory.agents.get(*agent).is_some_and(|known| known.online)).count();
    agents.truncate(options.limit.map_or(matching, |limit| limit.of(matching)));
    let limited = agents.len() < matching;
    let rest = if limited { format!(", {} are asked", agents.len()) } else { String::new() };
    view.note(&format!("{matching} match, {online} online{rest}"));
    // Whether the target is true for them is not known either.
    let unknown: Vec<&str> = inventory.without_facts().map(AgentId::as_str).collect();
    if !unknown.is_empty() {
        let names = unknown.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
        let rest = if unknown.len() > NAMED { ", …" } else { "" };
        view.note(&format!(
            "{} not asked, because they never told their facts: {names}{rest}",
            unknown.len()
        ));
    }
    if agents.is_empty() {
        return Ok(if unknown.is_empty() { Exit::Ok } else { Exit::NotKnown });
    }

    let policy = &inventory.policy;
    let asking = Asking { asked, options, profile: &profile, policy, target: text.to_owned() };
    let mut answers = Answers::new(&inventory);
    let mut actions = Vec::new();
    let batches: Vec<&[AgentId]> = match options.batch {
        Some(batch) => agents.chunks(batch as usize).collect(),
        None if limited => agents.chunks(MAX_AGENTS).collect(),
        None => vec![&agents],
    };
    let listed = limited || options.batch.is_some();
    let last = batches.len() - 1;
    for (number, batch) in batches.into_iter().enumerate() {
        let action = asking.action(listed.then(|| batch.to_vec()))?;
        let envelope = asking.sign(&action).await?;
        answers.expect(&action.id, batch.iter().cloned());
        let stream = follow(&connection, RESULTS, Answers::subject(&action.id), From::Start);
        send(&connection, &envelope, batch).await?;
        let id = action.id.clone();
        actions.push(id.clone());
        if options.waiting.wait == Wait::None {
            continue;
        }
        let waiting = Waiting {
            action: id,
            wait: options.waiting.wait,
            show: options.waiting.show,
            until: Some(clock(action.not_after)),
            ends: Some(action.not_after),
        };
        if !collect(&mut answers, &mut view, stream, &waiting).await? {
            break;
        }
        if let Some(pause) = options.pause.filter(|_| number < last) {
            tokio::time::sleep(pause).await;
        }
    }
    view.end(&answers, &actions)?;
    let ids = actions.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(" ");
    if !answers.silent.is_empty() {
        view.note(&format!("later answers: vigie fleet results {ids}"));
    }
    Ok(match exit_of(&answers, options.waiting.wait) {
        Exit::Ok if !unknown.is_empty() => Exit::NotKnown,
        exit => exit,
    })
}

/// What the exit code says of the answers.
pub(crate) fn exit_of(answers: &Answers<'_>, wait: Wait) -> Exit {
    let counts = &answers.counts;
    if counts.failed + counts.refused + counts.flagged > 0 {
        Exit::SomeFailed
    } else if (answers.silent.is_empty() || wait == Wait::None) && counts.not_known > 0 {
        Exit::NotKnown
    } else if answers.silent.is_empty() || wait == Wait::None {
        Exit::Ok
    } else {
        // The same number as that of an agent that does not run.
        Exit::NotRunning
    }
}

/// What all actions of a question have in common.
struct Asking<'a> {
    asked: &'a Asked,
    options: &'a AskOptions,
    profile: &'a Profile,
    policy: &'a Policy,
    target: String,
}

impl Asking<'_> {
    fn action(&self, agents: Option<Vec<AgentId>>) -> Result<Action, Failure> {
        let name = self.options.purpose.clone().unwrap_or_else(|| self.asked.name.clone());
        let operations = self.asked.operations.clone();
        let expires = self.options.expires.or(self.asked.expires).unwrap_or(EXPIRES);
        let mut action = sign::new_action(self.profile, name, self.target.clone(), operations, expires)?;
        action.agents = agents;
        action.limits.seconds =
            self.asked.timeout.map(|timeout| u32::try_from(timeout.as_secs().max(1)).unwrap_or(u32::MAX));
        Ok(action)
    }

    /// Signs an action, and sees that the policy lets it be run before anybody is bothered with it.
    async fn sign(&self, action: &Action) -> Result<String, Failure> {
        let key = sign::signing_key(self.options.key.as_deref(), self.profile)?.to_owned();
        let to_sign = action.clone();
        // It may ask for a passphrase or a touch.
        let signing = tokio::task::spawn_blocking(move || sign::sign_action(&to_sign, &key));
        let envelope =
            signing.await.map_err(|error| Failure::new(Exit::Internal, error.to_string(), ""))??;
        let envelope = serde_json::to_string(&envelope)
            .map_err(|error| Failure::new(Exit::Internal, error.to_string(), ""))?;
        match verify::refusal(
            envelope.as_bytes(),
            action,
            self.policy,
            self.profile.org.as_str(),
            files::now(),
        ) {
            None => Ok(envelope),
            Some(refusal) => {
                let message = format!("no agent would run it: {refusal}");
                let hint = "where the policy wants more people: vigie fleet sign, another signature, vigie fleet send";
                Err(Failure::new(Exit::Permission, message, hint))
            }
        }
    }
}

/// Sends an action to its agents one by one, or to all when they are many.
async fn send(connection: &Connection, envelope: &str, agents: &[AgentId]) -> Result<(), Failure> {
    let destination =
        if agents.len() <= ADDRESSED { Destination::Agents(agents.to_vec()) } else { Destination::All };
    publish::publish(connection, envelope, &destination).await.map(drop)
}

/// `14:05`, in the user's own time.
fn clock(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map(|time| time.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M").to_string())
        .unwrap_or_default()
}

/// How answers to one action are waited for.
pub(crate) struct Waiting {
    pub(crate) action: ActionId,
    pub(crate) wait: Wait,
    pub(crate) show: Show,
    /// Until when agents that are away may run it, as people write it.
    pub(crate) until: Option<String>,
    /// The same in seconds since 1970: nobody begins it later.
    pub(crate) ends: Option<i64>,
}

/// Prints answers as they come; `false` when the user has had enough.
pub(crate) async fn collect(
    answers: &mut Answers<'_>,
    view: &mut View<'_>,
    mut stream: mpsc::Receiver<Option<Stored>>,
    waiting: &Waiting,
) -> Result<bool, Failure> {
    let longest = match waiting.wait {
        Wait::Time(time) => time,
        _ => LONGEST_WAIT,
    };
    // Nobody begins it later than it ends, and what began then has had its time a while after.
    let end = waiting.ends.map(|ends| {
        let seconds = ends.saturating_sub(jiff::Timestamp::now().as_second()).max(0);
        Duration::from_secs(seconds.unsigned_abs()) + AFTER_END
    });
    let deadline = Instant::now() + end.map_or(longest, |end| end.min(longest));
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    let mut picture = tokio::time::interval(PICTURE);
    picture.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !is_done(answers, waiting) {
        tokio::select! {
            biased;
            _ = &mut interrupt => {
                view.note("the action goes on without you");
                return Ok(false);
            }
            stored = stream.recv() => {
                let Some(stored) = stored else { break };
                if let Some(stored) = stored {
                    show(answers, view, &stored, waiting)?;
                }
            }
            _ = picture.tick() => view.progress(answers, waiting.until.as_deref()),
            () = sleep_until(deadline) => break,
        }
    }
    Ok(true)
}

/// Whether nobody is waited for any more.
fn is_done(answers: &Answers<'_>, waiting: &Waiting) -> bool {
    let silent = match waiting.wait {
        Wait::All => answers.silent.len(),
        _ => answers.online_silent(),
    };
    match waiting.wait {
        Wait::Share(percent) => {
            let online = answers.targeted.iter().filter(|agent| answers.is_online(agent)).count();
            #[expect(clippy::cast_precision_loss, reason = "a fleet is far below 2^52")]
            let answered = (online - silent) as f64 * 100.0;
            #[expect(clippy::cast_precision_loss, reason = "a fleet is far below 2^52")]
            let wanted = percent * online as f64;
            answered >= wanted
        }
        _ => silent == 0,
    }
}

/// Takes a message and prints what it gave.
pub(crate) fn show(
    answers: &mut Answers<'_>,
    view: &mut View<'_>,
    stored: &Stored,
    waiting: &Waiting,
) -> Result<(), Failure> {
    match answers.take(&waiting.action, stored) {
        Came::Nothing => Ok(()),
        Came::Answer { action, agent, answer, kind } => {
            if kind.is_shown(waiting.show) {
                view.answer(&action, &agent, &answer, kind)
            } else {
                Ok(())
            }
        }
        Came::Flagged(flag) => view.flagged(&flag),
    }
}
