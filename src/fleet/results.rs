//! `vigie fleet results ID`: the answers to an action that was asked before, by whomever.

use std::collections::BTreeSet;

use clap::Args;
use vigie_fleet::action::{Action, Envelope};
use vigie_fleet::broker::connection::Connection;
use vigie_fleet::broker::stored::Cursor;
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
use super::view::View;
use crate::exit::{Exit, Failure};
use crate::print::Printer;

/// How many agents are named that an earlier question leaves unclear.
const SHOWN: usize = 20;

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
    for id in &args.actions {
        let action = find(&connection, id).await?;
        // Without the action nobody knows whom it was for: everybody can have answered.
        let meant = |inventory: &Inventory| match &action {
            Some(action) => publish::recipients(inventory, &action.target, action.agents.as_deref(), None),
            None => inventory.agents.keys().cloned().collect(),
        };
        answers.expect(id, meant(&inventory));
        answers.expect_joined(id, meant);
        if action.as_ref().is_some_and(|action| action.agents.is_none()) {
            answers.open();
        }
        let ends = action.as_ref().map(|action| action.not_after);
        match &action {
            Some(action) => view.note(&format!("{id}: {}, for {}", action.name, action.target)),
            None => view.note(&format!("{id}: the broker no longer holds the action, only its answers")),
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
    Ok(ask::exit_of(&answers, args.waiting.wait))
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
        let is_meant = |agent: &&AgentId| {
            let facts = inventory.agents.get(*agent).and_then(|known| known.facts());
            facts.is_none_or(|facts| target.matches(facts))
        };
        let names: Vec<&str> = self.unclear.iter().filter(is_meant).map(AgentId::as_str).collect();
        if !names.is_empty() {
            let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
            let more = if names.len() > SHOWN { ", …" } else { "" };
            view.note(&format!(
                "not queried: {} that did not answer, failed or did not examine everything there: {shown}{more}",
                names.len()
            ));
        }
        if self.is_open {
            view.note(
                "the broker no longer holds an earlier query: agents that did not answer it are not known",
            );
        }
        self.is_open || !names.is_empty()
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
        let action = find(connection, id).await?;
        let meant = match &action {
            Some(action) => publish::recipients(inventory, &action.target, action.agents.as_deref(), None),
            None => inventory.agents.keys().cloned().collect(),
        };
        answers.expect(id, meant);
        let (wait, show) = (Wait::None, Show::None);
        let waiting = Waiting { action: id.clone(), wait, show, until: None, ends: None };
        if !ask::fetch_missing(&mut answers, view, connection, profile, &waiting).await? {
            return Err(silent_broker());
        }
        match &action {
            Some(action) => {
                earlier.unclear.extend(answers.silent_to(id).cloned());
                if action.agents.is_none() {
                    earlier.unclear.extend(inventory.unknown().cloned());
                }
            }
            None if answers.kinds(id).next().is_none() => {
                let message = format!("the broker holds neither the query {id} nor an answer to it");
                let hint = "the query prints its ID with --json, and fleet audit shows it; answers are kept for 7 days";
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

/// Looks for an action in the stream of questions, which keeps them a little longer than they may run.
async fn find(connection: &Connection, id: &ActionId) -> Result<Option<Action>, Failure> {
    let mut found = None;
    let mut cursor = Cursor { next: 1 };
    cursor
        .read(&connection.client, ASK, EVERY_ASK, |entry| {
            found = action_of(&entry.value, id);
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
