//! `vigie fleet results ID`: the answers to an action that was asked before, by whomever.

use std::collections::BTreeSet;

use clap::Args;
use vigie_fleet::action::{Action, Envelope};
use vigie_fleet::broker::connection::Connection;
use vigie_fleet::predicate::Target;
use vigie_fleet::subjects::{ACTION_ALL, ACTIONS, EVERY_ACTION, RESULTS};
use vigie_protocol::names::{ActionId, AgentId};

use super::answers::{Answers, From, follow};
use super::ask::{self, Waiting};
use super::files;
use super::inventory::Inventory;
use super::options::{Wait, WaitOptions};
use super::profile::Profile;
use super::view::View;
use crate::exit::{Exit, Failure};
use crate::print::Printer;

/// `fleet results`
#[derive(Debug, Args)]
pub(crate) struct ResultsArgs {
    /// The actions, as the question named them
    #[arg(value_name = "ID", required = true)]
    pub(crate) actions: Vec<ActionId>,

    /// Go on with answers as they come
    #[arg(long, short = 'f')]
    pub(crate) follow: bool,

    /// Print only who has not answered
    #[arg(long)]
    pub(crate) silent: bool,

    #[command(flatten)]
    pub(crate) waiting: WaitOptions,
}

/// What the stream of actions still holds of one.
#[derive(Default)]
struct Asked {
    action: Option<Action>,
    addressed: BTreeSet<AgentId>,
    /// It went to all agents, or to a group.
    broadcast: bool,
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
        let asked = find(&connection, id).await?;
        answers.expect(id, targeted(&asked, &inventory));
        let ends = asked.action.as_ref().map(|action| action.not_after);
        match &asked.action {
            Some(action) => view.note(&format!("{id}: {}, for {}", action.name, action.target)),
            None => view.note(&format!("{id}: the broker no longer holds the action, only its answers")),
        }
        let waiting = Waiting {
            action: id.clone(),
            wait: if args.follow { args.waiting.wait } else { Wait::None },
            show: args.waiting.show,
            until: None,
            ends,
        };
        read_stored(&connection, &mut answers, &mut view, &waiting, args).await?;
    }
    view.end(&answers, &args.actions)?;
    Ok(ask::exit_of(&answers, args.waiting.wait))
}

/// Prints what is stored, and with `--follow` what comes.
async fn read_stored(
    connection: &Connection,
    answers: &mut Answers<'_>,
    view: &mut View<'_>,
    waiting: &Waiting,
    args: &ResultsArgs,
) -> Result<(), Failure> {
    let mut stream = follow(connection, RESULTS, Answers::subject(&waiting.action), From::Start);
    loop {
        let Some(stored) = stream.recv().await else { return Ok(()) };
        let Some(stored) = stored else { break };
        if args.silent {
            answers.take(&waiting.action, &stored);
        } else {
            ask::show(answers, view, &stored, waiting)?;
        }
        if stored.is_newest {
            break;
        }
    }
    if args.follow {
        ask::collect(answers, view, stream, waiting).await?;
    }
    Ok(())
}

/// Looks for an action in the stream of actions, which keeps them a little longer than they may run.
async fn find(connection: &Connection, id: &ActionId) -> Result<Asked, Failure> {
    let mut asked = Asked::default();
    let mut stream = follow(connection, ACTIONS, EVERY_ACTION.to_owned(), From::Start);
    while let Some(Some(stored)) = stream.recv().await {
        let is_newest = stored.is_newest;
        if let Some(action) = action_of(&stored.payload, id) {
            asked.broadcast |= stored.subject == ACTION_ALL || stored.subject.starts_with("vigie.act.g.");
            let addressed = stored.subject.strip_prefix("vigie.act.a.").and_then(|agent| agent.parse().ok());
            asked.addressed.extend(addressed);
            asked.action = Some(action);
        }
        if is_newest {
            break;
        }
    }
    Ok(asked)
}

fn action_of(payload: &[u8], id: &ActionId) -> Option<Action> {
    // Most are others: only one that names the id is worth reading.
    let needle = id.as_str().as_bytes();
    payload.windows(needle.len()).any(|window| window == needle).then_some(())?;
    let envelope: Envelope = serde_json::from_slice(payload).ok()?;
    let action: Action = serde_json::from_str(&envelope.action).ok()?;
    (action.id == *id).then_some(action)
}

/// Whom an action was for, as far as the inventory knows today.
fn targeted(asked: &Asked, inventory: &Inventory) -> Vec<AgentId> {
    if !asked.broadcast {
        return asked.addressed.iter().cloned().collect();
    }
    let Some(action) = &asked.action else { return Vec::new() };
    let Ok(target) = Target::parse(&action.target) else { return Vec::new() };
    inventory
        .matching(&target)
        .into_iter()
        .map(|(agent, _)| agent.clone())
        .filter(|agent| action.agents.as_ref().is_none_or(|agents| agents.contains(agent)))
        .collect()
}
