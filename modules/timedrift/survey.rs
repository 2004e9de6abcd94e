//! Asks one time server after the other until one answers validly, within one deadline for all.
//!
//! The time that is left is shared evenly among the servers that are left, and a server's share among its
//! addresses, so that silent ones at the beginning do not use up the time of those after them. Names are
//! looked up on a thread of their own, because the C library cannot be told to stop.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use crate::client::{Answer, AskError, Clock, HostClock, LONGEST_NAP, Patience, ask, now};
use crate::court::Judgement;
use crate::packet::Refusal;
use crate::server_line::Family;
use crate::sources::Source;

/// The port of NTP, RFC 5905 section 7.2.
pub(crate) const NTP_PORT: u16 = 123;

/// Addresses of one name that are asked; `pool.ntp.org` gives four of each family.
pub(crate) const MAX_ADDRESSES: usize = 16;

/// Shortest time for one server: less would make every far one look dead.
const SHORTEST_SHARE: Duration = Duration::from_millis(500);

/// Finds the addresses of a host.
pub type Resolve = Arc<dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// What the questions need of the host, replaceable for tests.
#[derive(Clone)]
pub struct Means {
    /// Finds addresses.
    pub resolve: Resolve,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Port of servers that are named without one.
    pub port: u16,
}

impl Default for Means {
    fn default() -> Self {
        Self {
            resolve: Arc::new(|host, port| (host, port).to_socket_addrs().map(Iterator::collect)),
            clock: Arc::new(HostClock),
            port: NTP_PORT,
        }
    }
}

/// One server at one address that was asked, or could not be.
#[derive(Debug)]
pub struct Attempt {
    /// Whom, and who named it.
    pub source: Source,
    /// Its address, when there was one.
    pub address: Option<SocketAddr>,
    /// The answer, or why there is none.
    pub outcome: Result<Answer, AttemptError>,
    /// What the others say about it, when they were asked.
    pub judgement: Option<Judgement>,
}

impl Attempt {
    pub(crate) fn new(
        source: &Source,
        address: Option<SocketAddr>,
        outcome: Result<Answer, AttemptError>,
    ) -> Self {
        Self { source: source.clone(), address, outcome, judgement: None }
    }
}

/// Why an attempt gave no time.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// The name has no address.
    #[error("its name cannot be resolved")]
    Unresolved(#[source] io::Error),
    /// The name's addresses are all of the other family.
    #[error("its name has no address of the configured family")]
    NoAddress,
    /// The name service did not answer.
    #[error("its name was not resolved within {:.1} s", .0.as_secs_f64())]
    ResolvingTimedOut(Duration),
    /// The addresses were asked before, under another name.
    #[error("its addresses were already queried")]
    AskedAlready,
    /// Its configuration says that it must not be asked now.
    #[error("was not queried because it is configured as offline")]
    Offline,
    /// The time was over before its turn.
    #[error("was not queried because the time had run out")]
    NoTimeLeft,
    /// It was asked.
    #[error(transparent)]
    Asked(#[from] AskError),
}

impl AttemptError {
    /// Whether the server said that it does not want to be asked.
    pub(crate) fn is_kiss_of_death(&self) -> bool {
        matches!(self, Self::Asked(AskError::Refused(Refusal::KissOfDeath(_))))
    }
}

/// Asks `sources` in their order until one answers validly; that one is the last of the result.
#[must_use]
pub(crate) fn ask_in_turn(sources: &[Source], means: &Means, patience: Patience<'_>) -> Vec<Attempt> {
    let mut survey = Survey { means, attempts: Vec::new(), asked: HashSet::new() };
    for (index, source) in sources.iter().enumerate() {
        let answered = survey.ask_source(source, share(patience, sources.len() - index));
        if answered {
            break;
        }
    }
    survey.attempts
}

/// The part of the remaining time that one of `parts` may use.
pub(crate) fn share(patience: Patience<'_>, parts: usize) -> Patience<'_> {
    let part = patience.left() / u32::try_from(parts).unwrap_or(u32::MAX).max(1);
    patience.until(now() + part.max(SHORTEST_SHARE))
}

struct Survey<'a> {
    means: &'a Means,
    attempts: Vec<Attempt>,
    asked: HashSet<SocketAddr>,
}

impl Survey<'_> {
    /// Whether the server answered validly.
    fn ask_source(&mut self, source: &Source, patience: Patience<'_>) -> bool {
        if patience.left().is_zero() {
            return self.note(source, None, Err(AttemptError::NoTimeLeft));
        }
        let addresses = match resolve(self.means, source, patience) {
            Ok(addresses) => addresses,
            Err(error) => return self.note(source, None, Err(error)),
        };
        let fresh: Vec<SocketAddr> =
            addresses.into_iter().filter(|address| self.asked.insert(*address)).take(MAX_ADDRESSES).collect();
        if fresh.is_empty() {
            return self.note(source, None, Err(AttemptError::AskedAlready));
        }
        for (index, address) in fresh.iter().enumerate() {
            let patience = share(patience, fresh.len() - index);
            if patience.left().is_zero() {
                return self.note(source, Some(*address), Err(AttemptError::NoTimeLeft));
            }
            let outcome = ask(*address, &*self.means.clock, patience).map_err(AttemptError::Asked);
            // Whoever runs one server does not want its other addresses to be asked either.
            let is_over =
                !source.server.is_pool && outcome.as_ref().is_err_and(AttemptError::is_kiss_of_death);
            if self.note(source, Some(*address), outcome) {
                return true;
            }
            if is_over {
                return false;
            }
        }
        false
    }

    /// Remembers an attempt; whether it succeeded.
    fn note(
        &mut self,
        source: &Source,
        address: Option<SocketAddr>,
        outcome: Result<Answer, AttemptError>,
    ) -> bool {
        let succeeded = outcome.is_ok();
        self.attempts.push(Attempt::new(source, address, outcome));
        succeeded
    }
}

/// The addresses of a server that count. A look-up that takes too long is left behind on its thread.
pub(crate) fn resolve(
    means: &Means,
    source: &Source,
    patience: Patience<'_>,
) -> Result<Vec<SocketAddr>, AttemptError> {
    let server = &source.server;
    let (found, result) = mpsc::channel();
    let (resolve, host, port) =
        (Arc::clone(&means.resolve), server.host.clone(), server.port.unwrap_or(means.port));
    let began = now();
    std::thread::Builder::new()
        .name("resolve".to_owned())
        .spawn(move || found.send(resolve(&host, port)))
        .map_err(AttemptError::Unresolved)?;
    let addresses = loop {
        match result.recv_timeout(patience.left().min(LONGEST_NAP)) {
            Ok(Ok(addresses)) => break addresses,
            Ok(Err(error)) => return Err(AttemptError::Unresolved(error)),
            Err(RecvTimeoutError::Timeout) if !patience.left().is_zero() => {}
            Err(RecvTimeoutError::Timeout) => return Err(AttemptError::ResolvingTimedOut(began.elapsed())),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(AttemptError::Unresolved(io::Error::other(
                    "the resolver ended without a result",
                )));
            }
        }
    };
    let counts = |address: &SocketAddr| match server.family {
        Family::Any => true,
        Family::V4 => address.is_ipv4(),
        Family::V6 => address.is_ipv6(),
    };
    let addresses: Vec<SocketAddr> = addresses.into_iter().filter(counts).collect();
    if addresses.is_empty() { Err(AttemptError::NoAddress) } else { Ok(addresses) }
}
