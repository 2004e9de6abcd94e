//! The connection to the broker as the tasks that send by it see it.

use std::convert::Infallible;

use tokio::sync::{mpsc, watch};
use vigie_fleet::broker::client::{Client, State};

/// Held by whatever works on the files of a membership. The next membership opens them when all are given back.
pub(super) type Hold = mpsc::Sender<Infallible>;

/// Sends by the connection, when it stands: what was to be sent stays where it is kept until then.
#[derive(Clone)]
pub(super) struct Uplink {
    pub(super) client: Client,
    states: watch::Receiver<State>,
}

impl Uplink {
    #[must_use]
    pub(super) fn new(client: Client) -> Self {
        Self { states: client.states(), client }
    }

    /// Whether the connection stands now.
    #[must_use]
    pub(super) fn is_up(&self) -> bool {
        matches!(*self.states.borrow(), State::Connected(_))
    }

    /// Number of the connection that stands now.
    #[must_use]
    pub(super) fn number(&self) -> Option<u64> {
        match *self.states.borrow() {
            State::Connected(number) => Some(number),
            State::Disconnected | State::Closed => None,
        }
    }

    /// Waits until the connection stands, and gives its number; `None` when the membership ends.
    pub(super) async fn up(&mut self) -> Option<u64> {
        loop {
            match *self.states.borrow_and_update() {
                State::Connected(number) => return Some(number),
                State::Closed => return None,
                State::Disconnected => {}
            }
            self.states.changed().await.ok()?;
        }
    }

    /// Waits for another state than the one that [`Uplink::up`] gave; `false` when the membership ends.
    pub(super) async fn changed(&mut self) -> bool {
        self.states.changed().await.is_ok()
    }
}
