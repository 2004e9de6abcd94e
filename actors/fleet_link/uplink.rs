//! The connection to the broker as the tasks that send by it see it.

use std::convert::Infallible;

use async_nats::connection::State;
use async_nats::jetstream::Context as JetStream;
use tokio::sync::{mpsc, watch};

/// Held by whatever works on the files of a membership. The next membership opens them when all are given back.
pub(super) type Hold = mpsc::Sender<Infallible>;

/// Sends by the connection, when it stands. What is given to the client while it does not would wait there, up to 2,048
/// messages of any size, and come all at once and many times when the broker is back.
#[derive(Clone)]
pub(super) struct Uplink {
    /// The connection.
    pub(super) jetstream: JetStream,
    /// Counts the connections that came about; 0 before the first.
    pub(super) connections: watch::Receiver<u64>,
}

impl Uplink {
    /// Whether the connection stands now.
    #[must_use]
    pub(super) fn is_up(&self) -> bool {
        *self.connections.borrow() > 0 && self.jetstream.client().connection_state() == State::Connected
    }

    /// Waits until the connection stands, and gives its number; `None` when the membership ends.
    pub(super) async fn up(&mut self) -> Option<u64> {
        loop {
            let number = *self.connections.borrow_and_update();
            if self.is_up() {
                return Some(number);
            }
            self.connections.changed().await.ok()?;
        }
    }

    /// Waits for another connection than the one that [`Uplink::up`] gave; `false` when the membership ends.
    pub(super) async fn changed(&mut self) -> bool {
        self.connections.changed().await.is_ok()
    }
}
