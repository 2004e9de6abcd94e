//! A connection to the broker, without blocking, and the subscriptions that agents have on it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;

use vigie_fleet::broker::jwt::Role;
use vigie_fleet::subjects;
use vigie_protocol::names::AgentId;

use super::{LIVE, RAW_REQUEST, protocol};
use vigie_benchmark::BenchResult;

/// What a subscription is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Raw,
    Live,
    Inbox,
}

/// A subscription's number is the agent's place on the connection times the length of this, and the kind's place.
const KINDS: [Kind; 3] = [Kind::Raw, Kind::Live, Kind::Inbox];

/// Whose subscription it is, by the agent's place on the connection, and what it is for.
pub(super) fn subscription(sid: u64) -> (usize, Kind) {
    let sid = usize::try_from(sid).unwrap_or(usize::MAX);
    (sid / KINDS.len(), KINDS[sid % KINDS.len()])
}

/// Subscribes to what an agent subscribes to, and to raw requests.
pub(super) fn subscribe(out: &mut Vec<u8>, place: u64, agent: &AgentId, raw_only: bool) {
    let inbox = format!("{}.>", Role::Agent.inbox_prefix(agent));
    let live = subjects::live(agent, LIVE);
    for (kind, number) in KINDS.into_iter().zip(place * KINDS.len() as u64..) {
        let subject = match kind {
            Kind::Raw if raw_only => RAW_REQUEST,
            _ if raw_only => break,
            Kind::Raw => continue,
            Kind::Live => &live,
            Kind::Inbox => &inbox,
        };
        protocol::subscribe(out, subject, number);
    }
}

pub(super) struct Link {
    stream: TcpStream,
    /// Places of the agents that are on it.
    pub(super) agents: Range<usize>,
    pub(super) logged_in: bool,
    /// An operation that did not come whole.
    received: Vec<u8>,
    /// What the system did not take yet.
    unsent: Vec<u8>,
}

impl Link {
    pub(super) fn open(broker: SocketAddr, agents: Range<usize>) -> BenchResult<Self> {
        let stream = TcpStream::connect(broker)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, agents, logged_in: false, received: Vec::new(), unsent: Vec::new() })
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn waits_to_write(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Reads what is there into the buffer, behind what was kept, and says how much of the buffer is filled.
    pub(super) fn receive(&mut self, buffer: &mut Vec<u8>) -> BenchResult<usize> {
        let kept = self.received.len();
        if buffer.len() < kept + super::READ_BYTES {
            buffer.resize(kept + super::READ_BYTES, 0);
        }
        buffer[..kept].copy_from_slice(&self.received);
        match self.stream.read(&mut buffer[kept..]) {
            Ok(0) => Err("the broker closed a connection".into()),
            Ok(count) => {
                // No memory for an agent that waits.
                self.received = Vec::new();
                Ok(kept + count)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps the beginning of an operation for the next time.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// Writes as much as the system takes and keeps the rest; `out` is empty then.
    pub(super) fn send(&mut self, out: &mut Vec<u8>) -> BenchResult<()> {
        if self.unsent.is_empty() {
            let written = write(&mut self.stream, out)?;
            self.unsent.extend_from_slice(&out[written..]);
        } else {
            self.unsent.extend_from_slice(out);
            let written = write(&mut self.stream, &self.unsent)?;
            self.unsent.drain(..written);
            if self.unsent.is_empty() {
                self.unsent = Vec::new();
            }
        }
        out.clear();
        Ok(())
    }
}

fn write(stream: &mut TcpStream, bytes: &[u8]) -> BenchResult<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match stream.write(&bytes[written..]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(written)
}
