//! `vigie fleet results ID`: the answers to an action that was asked before, by whomever.

use clap::Args;
use vigie_fleet::action::{Action, Envelope};
use vigie_fleet::broker::connection::Connection;
use vigie_fleet::broker::stored::Cursor;
use vigie_fleet::subjects::{ASK, EVERY_ASK};
use vigie_protocol::names::ActionId;

use super::answers::Answers;
use super::ask::{self, Joining, Pending, Waiting};
use super::files::{self, failed};
use super::inventory::Inventory;
use super::options::{Show, Wait, WaitOptions};
use super::profile::Profile;
use super::publish;
use super::view::View;
use crate::exit::{Exit, Failure};
use crate::print::Printer;

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
            let message = "the broker does not respond";
            return Err(Failure::new(Exit::Unavailable, message, "check that it is running and reachable"));
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
