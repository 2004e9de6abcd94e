//! Asks one time server at one address.
//!
//! The socket is connected and has a fresh port, so the kernel drops packets from elsewhere; what comes from
//! the server's address without the request's random number is counted and waiting goes on. When half of the
//! time is over the server is asked once more, because packets get lost; the answer to either request counts.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use crate::packet::{Measurement, Refusal, Request, Verdict};
use crate::timestamp::NtpTimestamp;

/// Longest wait before [`Patience`] is asked again whether to go on.
pub(crate) const LONGEST_NAP: Duration = Duration::from_millis(50);

/// Shortest wait: a socket takes a zero for no limit at all.
const SHORTEST_NAP: Duration = Duration::from_millis(1);

/// A packet with any extension is longer than the part that is read; the rest is cut off.
const RECEIVE_BYTES: usize = 512;

/// The clocks that a measurement needs.
pub trait Clock: Send + Sync {
    /// The clock that is measured.
    fn wall(&self) -> SystemTime;

    /// A clock that nobody sets, from any beginning.
    fn monotonic(&self) -> Duration;
}

/// The clocks of the host.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostClock;

impl Clock for HostClock {
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    /// `CLOCK_MONOTONIC_RAW` of clock_gettime(2): a time daemon that slews the clock does not bend it.
    fn monotonic(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicRaw);
        Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
    }
}

/// The present for deadlines.
#[expect(clippy::disallowed_methods, reason = "a module's process has no virtual time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// How long to wait, and who may end it sooner.
#[derive(Clone, Copy)]
pub struct Patience<'a> {
    /// When to give up.
    pub deadline: Instant,
    /// Whether nobody wants the answer any more.
    pub is_stopped: &'a (dyn Fn() -> bool + Sync),
}

impl Patience<'_> {
    /// The same, but no longer than `deadline`.
    #[must_use]
    pub fn until(self, deadline: Instant) -> Self {
        Self { deadline: deadline.min(self.deadline), ..self }
    }

    /// The time that is left, zero when it is over or nobody waits.
    #[must_use]
    pub fn left(&self) -> Duration {
        if (self.is_stopped)() { Duration::ZERO } else { self.deadline.saturating_duration_since(now()) }
    }
}

/// Why an address gave no time.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The network says that nothing can be reached there.
    #[error("cannot be reached")]
    Unreachable(#[source] io::Error),
    /// No random number could be had; without one no answer can be trusted.
    #[error("the kernel gives no random numbers")]
    NoRandomness(#[source] io::Error),
    /// No answer came in time.
    #[error("did not answer within {}{}", seconds(waited), strangers(*ignored))]
    Silent {
        /// How long it was waited for.
        waited: Duration,
        /// Packets that came from the address but answer no request.
        ignored: u32,
    },
    /// It answered with something that must not be believed.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

fn seconds(waited: &Duration) -> String {
    format!("{:.1} s", waited.as_secs_f64())
}

fn strangers(ignored: u32) -> String {
    match ignored {
        0 => String::new(),
        1 => ", 1 packet that does not belong to the request was ignored".to_owned(),
        _ => format!(", {ignored} packets that do not belong to the request were ignored"),
    }
}

/// A request that was sent, and when by the clock that nobody sets.
struct Sent {
    request: Request,
    at: Duration,
    wall: SystemTime,
}

/// A valid answer.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// What it tells.
    pub measurement: Measurement,
    /// The host's clock when the request was sent.
    pub sent_at: SystemTime,
}

/// Asks the server at `address` and waits for a valid answer.
///
/// # Errors
/// Why there is none.
pub fn ask(address: SocketAddr, clock: &dyn Clock, patience: Patience<'_>) -> Result<Answer, AskError> {
    let socket = connect(address).map_err(AskError::Unreachable)?;
    let began = now();
    let ask_again_at = began + patience.left() / 2;
    let mut sent = vec![send(&socket, clock)?];
    let mut ignored: u32 = 0;
    let mut buffer = [0; RECEIVE_BYTES];
    loop {
        let left = patience.left();
        if left.is_zero() {
            return Err(AskError::Silent { waited: began.elapsed(), ignored });
        }
        let until_next_request = ask_again_at.saturating_duration_since(now());
        if sent.len() == 1 && until_next_request.is_zero() {
            sent.push(send(&socket, clock)?);
        }
        let mut nap = left.min(LONGEST_NAP);
        if sent.len() == 1 {
            nap = nap.min(until_next_request);
        }
        socket.set_read_timeout(Some(nap.max(SHORTEST_NAP))).map_err(AskError::Unreachable)?;
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if is_passing(&error) => continue,
            Err(error) => return Err(AskError::Unreachable(error)),
        };
        let received_at = clock.monotonic();
        match judge(&sent, &buffer[..length], received_at) {
            Some(answer) => return answer.map_err(AskError::Refused),
            None => ignored = ignored.saturating_add(1),
        }
    }
}

/// A socket on a port of the kernel's choice that takes packets of `address` only.
fn connect(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(address)?;
    Ok(socket)
}

fn send(socket: &UdpSocket, clock: &dyn Clock) -> Result<Sent, AskError> {
    let nonce = random_number().map_err(AskError::NoRandomness)?;
    // In this order a pause between the two readings makes the delay and with it the error bound larger,
    // never smaller.
    let at = clock.monotonic();
    let wall = clock.wall();
    let request = Request { nonce, sent_at: NtpTimestamp::from_system_time(wall) };
    socket.send(&request.to_bytes()).map_err(AskError::Unreachable)?;
    Ok(Sent { request, at, wall })
}

/// 64 bits from the kernel's random number generator; zero is what forged answers guess first.
fn random_number() -> io::Result<u64> {
    loop {
        let mut bytes = [0; 8];
        let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        match filled {
            Ok(8) if bytes != [0; 8] => return Ok(u64::from_ne_bytes(bytes)),
            // Eight bytes come whole or not at all, see getrandom(2).
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What the packet is to the requests that are under way; `None` when it belongs to none.
fn judge(sent: &[Sent], packet: &[u8], received_at: Duration) -> Option<Result<Answer, Refusal>> {
    sent.iter().find_map(|sent| {
        let received_at = sent.request.sent_at.plus(received_at.saturating_sub(sent.at));
        match sent.request.judge(packet, received_at) {
            Verdict::Ignored => None,
            Verdict::Refused(refusal) => Some(Err(refusal)),
            Verdict::Measured(measurement) => Some(Ok(Answer { measurement, sent_at: sent.wall })),
        }
    })
}

/// Whether waiting goes on after this error.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
