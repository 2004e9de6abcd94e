//! Sending an action to agents.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use vigie_fleet::action::{Action, MAX_LISTED_ENVELOPE_BYTES};
use vigie_fleet::admission;
use vigie_fleet::broker::LOOK;
use vigie_fleet::broker::connection::Connection;
use vigie_fleet::broker::stored;
use vigie_fleet::predicate::Target;
use vigie_fleet::subjects;
use vigie_protocol::names::{ActionId, AgentId, GroupName};

use super::files::{self, failed};
use super::inventory::Inventory;
use super::profile::Profile;
use super::standing;
use crate::exit::{Exit, Failure};
use crate::print::Printer;

/// How long a question is stored anew that the broker does not acknowledge: servers of a cluster elect a leader within
/// 5 to 8 seconds. One that is stored twice is run once.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// Up to this size an action is sent to each agent; a larger one is fetched by each.
const SENT_BYTES: usize = 32 * 1024;

/// What was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Published {
    /// The action's id.
    pub(crate) action: ActionId,
    /// Agents that were notified at once; others find it.
    pub(crate) notified: usize,
}

/// Stores a signed action under the user's name; it is stored by the broker when this returns.
pub(crate) async fn store(
    connection: &Connection,
    profile: &Profile,
    envelope: &str,
) -> Result<ActionId, Failure> {
    let (_, action) = admission::read(envelope.as_bytes())
        .map_err(|refused| failed(Exit::Usage, "sign it again with `vigie fleet sign`")(&*refused))?;
    let subject = if standing::is_standing(&action) {
        subjects::standing(&profile.user)
    } else {
        subjects::ask(&profile.user)
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match stored::store(&connection.client, &subject, envelope.as_bytes()).await {
            Ok(_) => return Ok(action.id),
            Err(error) if error.is_transient() && tokio::time::Instant::now() < deadline => {}
            Err(error) => {
                let hint = "send it again: agents run an action once, however often it comes";
                return Err(failed(Exit::Unavailable, hint)(&error));
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Tells agents that are there at once; how many were told. Each listens on a subject that only its facts name.
pub(crate) async fn tell(
    connection: &Connection,
    inventory: &Inventory,
    agents: impl IntoIterator<Item = &AgentId>,
    envelope: &[u8],
) -> usize {
    let payload = if envelope.len() > SENT_BYTES { LOOK } else { envelope };
    let mut told = 0;
    for agent in agents {
        let Some(shown) = inventory.agents.get(agent).and_then(|known| known.shown.as_ref()) else {
            continue;
        };
        // Whoever is not told looks for it at his next sign of life.
        if connection.client.send(&subjects::live(agent, &shown.live), payload).await.is_ok() {
            told += 1;
        }
    }
    told
}

/// The agents that an action is for, as far as the inventory knows them.
pub(crate) fn recipients(
    inventory: &Inventory,
    target: &str,
    agents: Option<&[AgentId]>,
    group: Option<&GroupName>,
) -> Vec<AgentId> {
    let Ok(target) = Target::parse(target) else { return Vec::new() };
    inventory
        .matching(&target)
        .into_iter()
        .filter(|(agent, _)| agents.is_none_or(|agents| agents.contains(agent)))
        .filter(|(_, known)| {
            group.is_none_or(|group| known.facts().is_some_and(|facts| facts.groups.contains(group)))
        })
        .map(|(agent, _)| agent.clone())
        .collect()
}

/// The agents that an action was for. A list holds whatever its agents show today: who is on it was asked.
pub(crate) fn meant(inventory: &Inventory, action: &Action) -> Vec<AgentId> {
    match &action.agents {
        Some(listed) => {
            listed.iter().filter(|agent| inventory.agents.contains_key(*agent)).cloned().collect()
        }
        None => recipients(inventory, &action.target, None, None),
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
    let published = files::block_on(async {
        let (connection, _events) = profile.connect().await?;
        let inventory = Inventory::load(&connection, profile).await?;
        let id = store(&connection, profile, &text).await?;
        let agents = recipients(&inventory, &action.target, action.agents.as_deref(), group);
        let notified = tell(&connection, &inventory, &agents, text.as_bytes()).await;
        connection.client.flush(Duration::from_secs(10)).await.ok();
        Ok(Published { action: id, notified })
    })?;
    if printer.is_json() {
        printer.json(&published)?;
    } else {
        printer.line(&format!(
            "sent: action {} ({} agents notified at once)",
            published.action, published.notified
        ))?;
        printer.line(&format!("see the answers with: vigie fleet results {}", published.action))?;
    }
    Ok(Exit::Ok)
}
