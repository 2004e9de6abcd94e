//! Sending an action to agents.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use vigie_fleet::action::MAX_LISTED_ENVELOPE_BYTES;
use vigie_fleet::admission;
use vigie_fleet::broker::connection::Connection;
use vigie_fleet::broker::kv::{self, KvError, Stored};
use vigie_fleet::subjects::{ACTION_ALL, action_for_agent, action_for_group};
use vigie_protocol::names::{ActionId, AgentId, GroupName};

use super::files::{self, failed};
use super::profile::Profile;
use crate::exit::{Exit, Failure};
use crate::print::Printer;

/// How often a message is sent that the broker does not acknowledge; its id makes doubles vanish.
const ATTEMPTS: u32 = 5;

/// Messages on their way at a time.
const IN_FLIGHT: usize = 256;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// Where an action goes. Each agent decides for itself whether it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// To all agents.
    All,
    /// To those that are in a group.
    Group(GroupName),
    /// To each of these; others do not see it.
    Agents(Vec<AgentId>),
}

/// What was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Published {
    /// The action's id.
    pub(crate) action: ActionId,
    /// Messages that the broker has stored.
    pub(crate) messages: usize,
    /// How many of them it had before: the action was sent again.
    pub(crate) doubles: usize,
}

/// Sends a signed action; it is stored by the broker when this returns.
pub(crate) async fn publish(
    connection: &Connection,
    envelope: &str,
    destination: &Destination,
) -> Result<Published, Failure> {
    let (_, action) = admission::read(envelope.as_bytes())
        .map_err(|refused| failed(Exit::Usage, "sign it anew with `vigie fleet sign`")(&*refused))?;
    let bytes = Bytes::from(envelope.to_owned());
    let messages = match destination {
        Destination::All => vec![(ACTION_ALL.to_owned(), action.id.to_string())],
        Destination::Group(group) => {
            vec![(action_for_group(group), format!("{}.g.{group}", action.id))]
        }
        Destination::Agents(agents) => {
            agents.iter().map(|agent| (action_for_agent(agent), format!("{}.{agent}", action.id))).collect()
        }
    };
    let count = messages.len();
    let doubles = stream::iter(messages)
        .map(|(subject, id)| {
            let bytes = bytes.clone();
            async move { store(connection, &subject, &id, bytes).await }
        })
        .buffer_unordered(IN_FLIGHT)
        .try_fold(0, async |doubles, stored| Ok(doubles + usize::from(stored.double)))
        .await
        .map_err(|error| {
            failed(Exit::Unavailable, "send it again: agents run an action once, however often it comes")(
                &error,
            )
        })?;
    Ok(Published { action: action.id, messages: count, doubles })
}

async fn store(connection: &Connection, subject: &str, id: &str, value: Bytes) -> Result<Stored, KvError> {
    let mut attempt = 1;
    loop {
        match kv::store_once(&connection.jetstream, subject, id, value.clone()).await {
            Err(_) if attempt < ATTEMPTS => attempt += 1,
            result => return result,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Where an action goes by itself: to the agents that it lists, or to all.
pub(crate) fn own_destination(agents: Option<&[AgentId]>) -> Destination {
    match agents {
        Some(agents) => Destination::Agents(agents.to_vec()),
        None => Destination::All,
    }
}

/// Carries out `fleet send`.
pub(super) fn run(
    file: &Path,
    group: Option<&GroupName>,
    profile: &Profile,
    printer: &mut Printer,
) -> Result<Exit, Failure> {
    let text = files::read(file, MAX_LISTED_ENVELOPE_BYTES)?;
    let (_, action) = admission::read(text.as_bytes())
        .map_err(|refused| failed(Exit::Usage, "sign it first: vigie fleet sign")(&*refused))?;
    let destination = match (group, &action.agents) {
        (Some(group), None) => Destination::Group(group.clone()),
        (Some(_), Some(_)) => {
            let message = "the action lists agents, so it goes to them and to no group";
            return Err(Failure::new(Exit::Usage, message, "leave --group out"));
        }
        (None, agents) => own_destination(agents.as_deref()),
    };
    let published = files::block_on(async {
        let (connection, _events) = profile.connect().await?;
        publish(&connection, &text, &destination).await
    })?;
    if printer.is_json() {
        printer.json(&published)?;
    } else {
        let again = if published.doubles > 0 { " again" } else { "" };
        printer.line(&format!("sent{again}: action {}", published.action))?;
        printer.line(&format!("see the answers with: vigie fleet results {}", published.action))?;
    }
    Ok(Exit::Ok)
}
