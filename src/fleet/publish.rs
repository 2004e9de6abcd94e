//! Puts a signed action on its way: into the stream ACTIONS, and with the same message to all who listen.

use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use vigie_actors::error::ErrorChain;
use vigie_fleet::broker::connection::Connection;
use vigie_fleet::names::{ActionId, AgentId, GroupName};
use vigie_fleet::subjects::{self, ACTION_ALL};

use crate::exit::{Exit, Failure};

/// Messages that wait for their acknowledgement at once.
const IN_FLIGHT: usize = 256;

/// How often a message is sent before it counts as not taken, and the pause between two times.
const ATTEMPTS: u32 = 10;
const RETRY: Duration = Duration::from_millis(500);

/// To whom an action goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// All agents.
    All,
    /// The agents of a group.
    Group(GroupName),
    /// One agent.
    Agent(AgentId),
}

impl Destination {
    fn subject(&self) -> String {
        match self {
            Self::All => ACTION_ALL.to_owned(),
            Self::Group(group) => subjects::action_for_group(group),
            Self::Agent(agent) => subjects::action_for_agent(agent),
        }
    }
}

/// Sends an envelope to each destination and returns when the broker has stored all of them.
///
/// A message that is not acknowledged is sent again under the same id: the stream takes it once, and the agents run
/// it once.
pub(crate) async fn publish(
    connection: &Connection,
    action: &ActionId,
    envelope: &str,
    destinations: &[Destination],
) -> Result<(), Failure> {
    stream::iter(destinations.iter().map(|destination| one(connection, action, envelope, destination)))
        .buffer_unordered(IN_FLIGHT)
        .try_collect::<Vec<()>>()
        .await
        .map(drop)
}

async fn one(
    connection: &Connection,
    action: &ActionId,
    envelope: &str,
    destination: &Destination,
) -> Result<(), Failure> {
    let subject = destination.subject();
    let mut attempt = 0;
    loop {
        attempt += 1;
        let message = PublishMessage::build()
            .payload(envelope.to_owned().into())
            .message_id(format!("{action}.{subject}"));
        let published = match connection.jetstream.send_publish(subject.clone(), message).await {
            Ok(acknowledgement) => acknowledgement.await.map(drop),
            Err(error) => Err(error),
        };
        match published {
            Ok(()) => return Ok(()),
            Err(error) if attempt == ATTEMPTS => {
                let message = format!("the broker does not take the action: {}", ErrorChain(&error));
                let hint = "see that it runs, that the stream ACTIONS has room, and that you may give orders";
                return Err(Failure::new(Exit::Unavailable, message, hint));
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}
