//! `vigie fleet results ID`: the answers to an action that was asked before, by whomever.

use std::collections::BTreeSet;

use clap::Args;
use vigie_fleet::action::{Action, Envelope};
use vigie_fleet::broker::connection::Connection;
use vigie_fleet::broker::stored::Cursor;
use vigie_fleet::policy::Policy;
use vigie_fleet::predicate::Target;
use vigie_fleet::subjects::{ASK, EVERY_ASK};
use vigie_protocol::names::{ActionId, AgentId};

use super::answers::{Answers, Kind};
use super::ask::{self, Joining, Pending, Waiting};
use super::files::{self, failed};
use super::inventory::Inventory;
use super::options::{Show, Wait, WaitOptions};
use super::profile::Profile;
use super::publish;
use super::verify;
use super::view::View;
use crate::exit::{Exit, Failure};
use crate::print::Printer;

/// How many agents are named that an earlier question leaves unclear.
const SHOWN: usize = 20;

/// An action without which nobody knows whom it was for.
const NOT_HELD: &str = "the broker no longer holds this query (they are kept for 25 hours), or not as somebody signed it who may: \
     agents that did not answer it are not known";

/// `fleet results`
#[derive(Debug, Args)]
pub(crate) struct ResultsArgs {
    /// IDs of the actions, as printed by the query
    #[arg(value_name = "ID", required = true)]
    pub(crate) actions: Vec<ActionId>,

    /// Print new answers as they arrive
    #[arg(long, short = 'f')]
    pub(crate) follow: bool,

    /// Print only agents that have not answered
    #[arg(long)]
    pub(crate) silent: bool,

    #[command(flatten)]
    pub(crate) waiting: WaitOptions,
}

/// Carries out `fleet results`.
pub(crate) fn run(args: &ResultsArgs, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    files::block_on(results(args, profile, printer))
}

async fn results(args: &ResultsArgs, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    let (connection, _events) = profile.connect().await?;
    let inventory = Inventory::load(&connection, profile).await?;
    let mut view = View::new(printer);
    view.flagged_records(&inventory.flagged)?;
    view.prepare(inventory.agents.keys(), args.waiting.details);
    let mut answers = Answers::new(&inventory);
    let mut is_open = false;
    for id in &args.actions {
        let action = find(&connection, id, &inventory.policy, profile).await?;
        // Without the action nobody knows whom it was for: everybody can have answered.
        let meant = |inventory: &Inventory| match &action {
            Some(action) => publish::meant(inventory, action),
            None => inventory.agents.keys().cloned().collect(),
        };
        is_open |= action.is_none();
        answers.expect(id, meant(&inventory));
        answers.expect_joined(id, meant);
        if action.as_ref().is_some_and(|action| action.agents.is_none()) {
            answers.open();
        }
        let ends = action.as_ref().map(|action| action.not_after);
        match &action {
            Some(action) => view.note(&format!("{id}: {}, for {}", action.name, action.target)),
            None => view.note(&format!("{id}: {NOT_HELD}")),
        }
        let waiting = Waiting {
            action: id.clone(),
            wait: if args.follow { args.waiting.wait } else { Wait::None },
            show: if args.silent { Show::None } else { args.waiting.show },
            until: None,
            ends,
        };
        let live = ask::listen(&connection, id)?;
        if !ask::fetch_missing(&mut answers, &mut view, &connection, profile, &waiting).await? {
            return Err(silent_broker());
        }
        if action.is_none() {
            // Whoever did not answer was not asked, as far as anybody knows.
            answers.forget_silent(id);
        }
        if args.follow {
            let joining = Some(Joining { action: action.as_ref() });
            let mut asked = Pending { connection: &connection, profile, live, envelope: None, joining };
            ask::collect(&mut answers, &mut view, &mut asked, &waiting).await?;
        }
    }
    view.end(&answers, &args.actions)?;
    Ok(match ask::exit_of(&answers, args.waiting.wait) {
        Exit::Ok if is_open => Exit::NotKnown,
        exit => exit,
    })
}

/// What an earlier question found.
pub(super) struct Earlier {
    /// Who found something.
    pub(super) found: BTreeSet<AgentId>,
    /// Of whom that is not known: they did not answer, or failed, or did not examine everything.
    unclear: BTreeSet<AgentId>,
    /// The broker no longer holds the question, so that nobody knows whom it was for.
    is_open: bool,
}

impl Earlier {
    /// Says who is not asked although he may have found something; whether there are such.
    pub(super) fn leaves_out(&self, target: &Target, inventory: &Inventory, view: &mut View<'_>) -> bool {
        let facts = |agent: &AgentId| inventory.agents.get(agent).and_then(|known| known.facts());
        let unclear =
            self.unclear.iter().filter(|agent| facts(agent).is_none_or(|facts| target.matches(facts)));
        let lost = self.found.iter().filter(|agent| facts(agent).is_none());
        let mut leaves_out = self.is_open;
        for (agents, what) in [
            (unclear.collect::<Vec<_>>(), "that did not answer, failed or did not examine everything there"),
            (lost.collect(), "that found something there and now show no valid facts"),
        ] {
            if agents.is_empty() {
                continue;
            }
            leaves_out = true;
            let shown = agents.iter().take(SHOWN).map(|agent| agent.as_str()).collect::<Vec<_>>().join(", ");
            let more = if agents.len() > SHOWN { ", …" } else { "" };
            view.note(&format!("not queried: {} {what}: {shown}{more}", agents.len()));
        }
        if self.is_open {
            view.note(&format!("--found-in: {NOT_HELD}"));
        }
        leaves_out
    }
}

/// Who found something when he was asked one of these actions.
pub(super) async fn found_in(
    connection: &Connection,
    profile: &Profile,
    inventory: &Inventory,
    actions: &[ActionId],
    view: &mut View<'_>,
) -> Result<Earlier, Failure> {
    let mut answers = Answers::new(inventory);
    let mut earlier = Earlier { found: BTreeSet::new(), unclear: BTreeSet::new(), is_open: false };
    for id in actions {
        let action = find(connection, id, &inventory.policy, profile).await?;
        let mut meant = match &action {
            Some(action) => publish::meant(inventory, action),
            None => inventory.agents.keys().cloned().collect(),
        };
        if action.as_ref().is_some_and(|action| action.agents.is_none()) {
            // Those without facts may have been meant as well.
            meant.extend(inventory.unknown().cloned());
        }
        answers.expect(id, meant);
        let (wait, show) = (Wait::None, Show::None);
        let waiting = Waiting { action: id.clone(), wait, show, until: None, ends: None };
        if !ask::fetch_missing(&mut answers, view, connection, profile, &waiting).await? {
            return Err(silent_broker());
        }
        match &action {
            Some(_) => earlier.unclear.extend(answers.silent_to(id).cloned()),
            None if answers.kinds(id).next().is_none() => {
                let message = format!("the broker holds neither the query {id} nor an answer to it");
                let hint = "the query prints its ID with --json, and fleet audit shows it; queries are kept for 25 hours, answers for 7 days";
                return Err(Failure::new(Exit::Usage, message, hint));
            }
            None => earlier.is_open = true,
        }
        for (agent, kind) in answers.kinds(id) {
            match kind {
                Kind::Found => earlier.found.insert(agent.clone()),
                Kind::NotFound => false,
                Kind::NotKnown | Kind::Failed | Kind::Refused => earlier.unclear.insert(agent.clone()),
            };
        }
    }
    earlier.unclear.retain(|agent| !earlier.found.contains(agent));
    Ok(earlier)
}

fn silent_broker() -> Failure {
    let hint = "check that it is running and reachable";
    Failure::new(Exit::Unavailable, "the broker does not respond", hint)
}

/// Looks for an action in the stream of questions, which keeps them a little longer than they may run. Whoever asks
/// may store anything there under any ID: only what agents would have run says whom it was for.
async fn find(
    connection: &Connection,
    id: &ActionId,
    policy: &Policy,
    profile: &Profile,
) -> Result<Option<Action>, Failure> {
    let mut found = None;
    let mut cursor = Cursor { next: 1 };
    cursor
        .read(&connection.client, ASK, EVERY_ASK, |entry| {
            found = action_of(&entry.value, id).filter(|action| {
                // A key that has ended signs nothing for an earlier time.
                let at = entry.stored.max(action.not_before);
                verify::refusal(&entry.value, action, policy, profile.org.as_str(), at).is_none()
            });
            found.is_none()
        })
        .await
        .map_err(|error| {
            failed(Exit::Unavailable, "check that the broker is running and reachable")(&error)
        })?;
    Ok(found)
}

fn action_of(payload: &[u8], id: &ActionId) -> Option<Action> {
    // Most are others: only one that names the id is worth reading.
    let needle = id.as_str().as_bytes();
    payload.windows(needle.len()).any(|window| window == needle).then_some(())?;
    let envelope: Envelope = serde_json::from_slice(payload).ok()?;
    let action: Action = serde_json::from_str(&envelope.action).ok()?;
    (action.id == *id).then_some(action)
}
