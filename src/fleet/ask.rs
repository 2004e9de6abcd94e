//! `vigie query MODULE -t TARGET`: one question to every agent for which the target is true.
//!
//! The target is evaluated here as a preview; each agent decides for itself. Agents that are there are told at once,
//! one by one; others find the question when they return.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use vigie_fleet::action::{Action, MAX_AGENTS, Operation};
use vigie_fleet::broker::client::Subscription;
use vigie_fleet::broker::connection::Connection;
use vigie_fleet::collect::Flag;
use vigie_fleet::policy::Policy;
use vigie_fleet::subjects;
use vigie_protocol::names::{ActionId, AgentId};

use super::answers::{Answers, Came, fetch};
use super::files;
use super::inventory::{Inventory, parse_target};
use super::options::{AskOptions, Show, Wait};
use super::profile::Profile;
use super::publish;
use super::results;
use super::sign;
use super::standing;
use super::verify;
use super::view::{PICTURE, View};
use crate::exit::{Exit, Failure};
use crate::print::Printer;
use crate::query::Question;

/// How long after the last answer those that did not come live are fetched, at first and at most.
const FETCH_AFTER: std::ops::Range<Duration> = Duration::from_millis(400)..Duration::from_secs(5);

/// Longest time of the fetch after the deadline.
const LAST_FETCH: Duration = Duration::from_secs(5);

/// How many silent agents are looked at for whether they are back, at a time.
const LOOKED_AT: usize = 1000;

/// Longest wait for answers, whatever is waited for: no action lives longer.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// How long after an action's end answers can still come.
const AFTER_END: Duration = Duration::from_secs(60);

/// How long agents that are away may still run an action.
const EXPIRES: Duration = Duration::from_secs(3600);

/// What a fleet is asked.
pub(crate) struct Asked {
    /// What it is called, for those who audit.
    pub(crate) name: String,
    /// The queries.
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
    files::block_on(async {
        match options.every {
            Some(every) => standing::ask(asked, target, every, options, printer).await,
            None => ask(asked, target, options, printer).await,
        }
    })
}

async fn ask(
    asked: &Asked,
    text: &str,
    options: &AskOptions,
    printer: &mut Printer,
) -> Result<Exit, Failure> {
    let profile = Profile::load(options.file.fleet_file.as_deref())?;
    let (target, text) = parse_target(text, &profile)?;
    sign::signing_key(options.key.as_deref(), &profile)?;
    let (connection, _events) = profile.connect().await?;
    let inventory = Inventory::load(&connection, &profile).await?;
    let mut view = View::new(printer);
    view.flagged_records(&inventory.flagged)?;
    view.clones(&inventory)?;

    let mut agents: Vec<AgentId> =
        inventory.matching(&target).into_iter().map(|(agent, _)| agent.clone()).collect();
    let earlier = match options.found_in.as_slice() {
        [] => None,
        actions => Some(results::found_in(&connection, &profile, &inventory, actions, &mut view).await?),
    };
    if let Some(earlier) = &earlier {
        agents.retain(|agent| earlier.found.contains(agent));
    }
    agents.sort_by_key(|agent| !inventory.agents.get(agent).is_some_and(|known| known.online));
    view.prepare(agents.iter(), options.waiting.details);
    let matching = agents.len();
    let online =
        agents.iter().filter(|agent| inventory.agents.get(*agent).is_some_and(|known| known.online)).count();
    agents.truncate(options.limit.map_or(matching, |limit| limit.of(matching)));
    let limited = agents.len() < matching || earlier.is_some();
    let rest = if limited { format!(", {} are asked", agents.len()) } else { String::new() };
    view.note(&format!("{}; {matching} match, {online} of them online{rest}", inventory.counted()));
    let not_asked =
        earlier.as_ref().is_some_and(|earlier| earlier.leaves_out(&target, &inventory, &mut view));
    if agents.is_empty() {
        // Whether the target is true for them is not known.
        let unknown: Vec<AgentId> = inventory.unknown().filter(|_| earlier.is_none()).cloned().collect();
        view.unknown(&unknown)?;
        return Ok(if unknown.is_empty() && !not_asked { Exit::Ok } else { Exit::NotKnown });
    }

    let policy = &inventory.policy;
    let asking = Asking { asked, options, profile: &profile, policy, target: text };
    let mut answers = Answers::new(&inventory);
    if earlier.is_none() {
        answers.open();
    }
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
        let live = listen(&connection, &action.id)?;
        publish::store(&connection, &profile, &envelope).await?;
        publish::tell(&connection, &inventory, batch, envelope.as_bytes()).await;
        let id = action.id.clone();
        actions.push(id.clone());
        if options.waiting.wait == Wait::None {
            connection.client.flush(AFTER_END).await.ok();
            continue;
        }
        let waiting = Waiting {
            action: id,
            wait: options.waiting.wait,
            show: options.waiting.show,
            until: Some(clock(action.not_after)),
            ends: Some(action.not_after),
        };
        let mut pending = Pending {
            connection: &connection,
            profile: &profile,
            live,
            envelope: Some(envelope),
            joining: None,
        };
        if !collect(&mut answers, &mut view, &mut pending, &waiting).await? {
            break;
        }
        if let Some(pause) = options.pause.filter(|_| number < last) {
            tokio::time::sleep(pause).await;
        }
    }
    view.end(&answers, &actions)?;
    let ids = actions.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(" ");
    if !answers.silent().is_empty() {
        view.note(&format!("later answers: vigie fleet results {ids}"));
    }
    if answers.counts.found > 0 {
        let options = actions.iter().map(|id| format!("--found-in {id}")).collect::<Vec<_>>().join(" ");
        view.note(&format!("query only those that found something: {options}"));
    }
    match exit_of(&answers, options.waiting.wait) {
        Exit::Ok if not_asked => Ok(Exit::NotKnown),
        exit => Ok(exit),
    }
}

/// What the exit code says of the answers.
pub(crate) fn exit_of(answers: &Answers<'_>, wait: Wait) -> Exit {
    let counts = &answers.counts;
    if counts.failed + counts.refused + counts.flagged > 0 {
        Exit::SomeFailed
    } else if !answers.silent().is_empty() && wait != Wait::None {
        // The same number as that of an agent that does not run.
        Exit::NotRunning
    } else if counts.not_known > 0 || !answers.unknown().is_empty() {
        Exit::NotKnown
    } else {
        Exit::Ok
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
                let hint = "if the policy requires more signatures: vigie fleet sign, another signature, vigie fleet send";
                Err(Failure::new(Exit::Permission, message, hint))
            }
        }
    }
}

/// Listens to answers as they come.
pub(crate) fn listen(connection: &Connection, action: &ActionId) -> Result<Subscription, Failure> {
    connection
        .client
        .subscribe(&subjects::answers_to(action))
        .map_err(|error| Failure::new(Exit::Internal, error.to_string(), ""))
}

/// A question on its way.
pub(crate) struct Pending<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) profile: &'a Profile,
    /// Answers as they come.
    pub(crate) live: Subscription,
    /// What is sent to agents that come back meanwhile.
    pub(crate) envelope: Option<String>,
    /// For whom it is, when hosts that join meanwhile are to be taken up.
    pub(crate) joining: Option<Joining<'a>>,
}

/// What tells whether a host that joins is meant.
pub(crate) struct Joining<'a> {
    /// Without it, nobody knows whom it was for.
    pub(crate) action: Option<&'a Action>,
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

/// When what did not come live is fetched.
struct Fetches {
    at: Instant,
    pause: Duration,
    /// Something came live that only a fetch can take.
    is_awaited: bool,
}

impl Fetches {
    fn begin(now: Instant) -> Self {
        Self { at: now + FETCH_AFTER.start, pause: FETCH_AFTER.start, is_awaited: false }
    }

    /// An answer came: while they come there is nothing to fetch, unless a fetch is awaited.
    fn put_off(&mut self, now: Instant) {
        if !self.is_awaited {
            self.at = now + FETCH_AFTER.start;
        }
    }

    /// What came is left to a fetch. Whoever sends such things all the time causes no more fetches than answers do.
    fn bring_forward(&mut self, now: Instant) {
        if !self.is_awaited {
            self.is_awaited = true;
            self.at = self.at.min(now + FETCH_AFTER.start);
        }
    }

    /// A fetch ended; whether it gave something says when the next one is.
    fn fetched(&mut self, now: Instant, gave: bool) {
        self.pause = if gave { FETCH_AFTER.start } else { (self.pause * 2).min(FETCH_AFTER.end) };
        self.at = now + self.pause;
        self.is_awaited = false;
    }
}

/// Prints answers as they come; `false` when the user has had enough.
pub(crate) async fn collect(
    answers: &mut Answers<'_>,
    view: &mut View<'_>,
    asked: &mut Pending<'_>,
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
    let mut fetches = Fetches::begin(Instant::now());
    while !is_done(answers, waiting) {
        tokio::select! {
            biased;
            _ = &mut interrupt => {
                view.note("the action continues without you");
                return Ok(false);
            }
            () = sleep_until(deadline) => {
                // What came last and could not be taken live.
                let last = fetch_missing(answers, view, asked.connection, asked.profile, waiting);
                if let Ok(fetched) = tokio::time::timeout(LAST_FETCH, last).await {
                    fetched?;
                }
                break;
            }
            () = sleep_until(fetches.at) => {
                let before = answers.silent_to(&waiting.action).count();
                // A broker that is away for a while is no end.
                find_joined(answers, asked, waiting).await;
                if fetch_missing(answers, view, asked.connection, asked.profile, waiting).await? {
                    find_returned(answers, asked, &waiting.action).await;
                }
                let fewer = answers.silent_to(&waiting.action).count() < before;
                fetches.fetched(Instant::now(), fewer);
            }
            message = asked.live.next() => {
                let Some(message) = message else { break };
                let (subject, payload) = (&message.subject, &message.payload);
                let came = answers.take_live(&waiting.action, subject, payload, files::now());
                match &came {
                    Came::Answer { .. } => {
                        show(view, came, waiting)?;
                        fetches.put_off(Instant::now());
                    }
                    Came::LeftToFetch => fetches.bring_forward(Instant::now()),
                    Came::Nothing | Came::Flagged(_) => {}
                }
            }
            _ = picture.tick() => view.progress(answers, waiting.until.as_deref()),
        }
    }
    Ok(true)
}

/// Whether nobody is waited for any more.
fn is_done(answers: &Answers<'_>, waiting: &Waiting) -> bool {
    let silent = answers.silent_to(&waiting.action);
    let silent = match waiting.wait {
        Wait::All => silent.count(),
        _ => silent.filter(|agent| answers.is_online(agent)).count(),
    };
    match waiting.wait {
        Wait::Share(percent) => {
            let targeted = answers.targeted_by(&waiting.action);
            let online = targeted.filter(|agent| answers.is_online(agent)).count();
            #[expect(clippy::cast_precision_loss, reason = "a fleet is far below 2^52")]
            let answered = (online - silent) as f64 * 100.0;
            #[expect(clippy::cast_precision_loss, reason = "a fleet is far below 2^52")]
            let wanted = percent * online as f64;
            answered >= wanted
        }
        _ => silent == 0,
    }
}

/// Fetches what did not come live; whether the broker answered.
pub(crate) async fn fetch_missing(
    answers: &mut Answers<'_>,
    view: &mut View<'_>,
    connection: &Connection,
    profile: &Profile,
    waiting: &Waiting,
) -> Result<bool, Failure> {
    let missing: Vec<AgentId> = answers.missing(&waiting.action).cloned().collect();
    let mut came = Vec::new();
    let mut unopened = Vec::new();
    let fetched = fetch(&connection.client, &waiting.action, missing, |entry| {
        let one = answers.take(&waiting.action, &entry.subject, &entry.value, entry.stored);
        let agent = subjects::last_name(&entry.subject);
        match one {
            Came::Flagged(Flag::BadSeal(agent)) => unopened.push((agent, entry.clone())),
            one => came.push(one),
        }
        agent.is_none_or(|agent| answers.has(&waiting.action, &agent))
    })
    .await;
    let agents = unopened.iter().map(|(agent, _)| agent.clone()).collect();
    let renewed = answers.renew(connection, profile, agents).await;
    if renewed.is_ok() {
        let again = unopened.iter();
        came.extend(
            again.map(|(_, entry)| answers.take(&waiting.action, &entry.subject, &entry.value, entry.stored)),
        );
    }
    for one in came {
        if let Came::Flagged(flag) = &one
            && !answers.flag(flag)
        {
            continue;
        }
        show(view, one, waiting)?;
    }
    Ok(fetched.is_ok() && renewed.is_ok())
}

/// Takes up hosts that joined.
async fn find_joined(answers: &mut Answers<'_>, asked: &Pending<'_>, waiting: &Waiting) {
    let Some(Joining { action }) = &asked.joining else { return };
    let meant = |joined: &Inventory| match action {
        Some(action) => publish::meant(joined, action),
        None => Vec::new(),
    };
    // A broker that is away for a while is no end.
    answers.follow(asked.connection, asked.profile, &waiting.action, meant).await.ok();
}

/// Tells agents that came back, or listen elsewhere by now, what is asked.
async fn find_returned(answers: &Answers<'_>, asked: &Pending<'_>, action: &ActionId) {
    let Some(envelope) = &asked.envelope else { return };
    let silent: Vec<AgentId> = answers.silent_to(action).take(LOOKED_AT).cloned().collect();
    let inventory = answers.inventory();
    let Ok(returned) = inventory.returned(asked.connection, &silent).await else { return };
    for (agent, live) in returned {
        asked.connection.client.send(&subjects::live(&agent, &live), envelope.as_bytes()).await.ok();
    }
}

/// Prints what a message gave.
pub(crate) fn show(view: &mut View<'_>, came: Came, waiting: &Waiting) -> Result<(), Failure> {
    match came {
        Came::Nothing | Came::LeftToFetch => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_to_a_fetch_is_fetched_soon_however_many_others_answer() {
        let begin = Instant::now();
        let after = |milliseconds| begin + Duration::from_millis(milliseconds);
        let mut fetches = Fetches::begin(begin);
        fetches.put_off(after(300));
        assert_eq!(fetches.at, after(700), "nothing is awaited");
        for _ in 0..6 {
            fetches.fetched(after(1000), false);
        }
        assert_eq!(fetches.at, after(6000));

        fetches.bring_forward(after(1100));
        for late in (1100..1500).step_by(10) {
            fetches.put_off(after(late));
            fetches.bring_forward(after(late));
        }

        assert_eq!(fetches.at, after(1500));
        // The next is not sooner for those who send such things all the time.
        fetches.fetched(after(1500), true);
        fetches.bring_forward(after(1501));
        assert_eq!(fetches.at, after(1900));
    }
}
