//! The process connector (`CN_PROC`): events of processes over netlink. It tells numbers only; the rest is read from
//! `/proc` afterwards, so it is what the process then says of itself.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with, sockopt,
};

use crate::account::Account;
use crate::counters::{Counters, Kind};
use crate::event::{Event, Exit, ExitStatus};
use crate::proc;
use crate::source::SourceError;

/// `CN_IDX_PROC` and `CN_VAL_PROC` of `linux/connector.h`, also the number of the multicast group.
const PROC: u32 = 1;
/// `PROC_CN_MCAST_LISTEN`.
const LISTEN: u32 = 1;

/// Kinds of `linux/cn_proc.h`.
const EVENT_NONE: u32 = 0;
const EVENT_FORK: u32 = 0x1;
const EVENT_EXEC: u32 = 0x2;
const EVENT_UID: u32 = 0x4;
const EVENT_GID: u32 = 0x40;
const EVENT_PTRACE: u32 = 0x100;
const EVENT_EXIT: u32 = 0x8000_0000;

/// Netlink's header, and `struct cn_msg`.
const NETLINK_HEADER: usize = 16;
const CONNECTOR_HEADER: usize = 20;

/// What the socket holds while we are busy.
const BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Processes that are remembered to tell when they began: their exit does not say.
const MOST_REMEMBERED: usize = 65_536;

/// The socket.
#[derive(Debug)]
pub(crate) struct Connector {
    socket: OwnedFd,
    counters: Counters,
    /// The next number of each processor's messages; a gap is a loss.
    next: HashMap<u32, u32>,
    started: HashMap<u32, (u64, Account)>,
    /// Only users and traced processes are handed on.
    beside: bool,
    /// The kernel filters. It then counts also what it does not send, so that a gap in the numbers is no loss.
    filtered: bool,
}

/// A message, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Message {
    sequence: u32,
    what: u32,
    cpu: u32,
    time: u64,
    /// The numbers after the header, at most six.
    data: [u32; 6],
}

impl Connector {
    /// Everything that it tells.
    pub(crate) fn open() -> Result<Self, SourceError> {
        let mut connector = Self::connect(false)?;
        let wanted = EVENT_FORK | EVENT_EXEC | EVENT_UID | EVENT_PTRACE | EVENT_EXIT;
        if !connector.filter(wanted)? && !connector.subscribe(None)? {
            return Err(SourceError::Connector {
                what: "be subscribed to (it answers in the first pid and user namespace only)",
                source: io::ErrorKind::TimedOut.into(),
            });
        }
        Ok(connector)
    }

    /// Only users and traced processes, filtered in the kernel.
    pub(crate) fn open_beside() -> Result<Self, SourceError> {
        let mut connector = Self::connect(true)?;
        match connector.filter(EVENT_UID | EVENT_GID | EVENT_PTRACE)? {
            true => Ok(connector),
            false => Err(SourceError::Connector {
                what: "filter (kernel 6.6 and later can, in the first pid and user namespace)",
                source: io::ErrorKind::Unsupported.into(),
            }),
        }
    }

    fn connect(beside: bool) -> Result<Self, SourceError> {
        let failed =
            |what: &'static str| move |error: Errno| SourceError::Connector { what, source: error.into() };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::CONNECTOR))
            .map_err(failed("be opened"))?;
        bind(&socket, &SocketAddrNetlink::new(0, PROC)).map_err(failed("be listened to"))?;
        // Forced where we may; the smaller buffer loses sooner, and says so.
        if sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&socket, BUFFER_BYTES);
        }
        Ok(Self {
            socket,
            counters: Counters::default(),
            next: HashMap::new(),
            started: HashMap::new(),
            beside,
            filtered: false,
        })
    }

    /// Asks for these events alone; whether the kernel can. One before 6.6 does not answer to the longer message. A
    /// filter keeps back the answer as well, so the kernel is asked for everything first.
    fn filter(&mut self, events: u32) -> Result<bool, SourceError> {
        if !self.subscribe(Some(EVENT_NONE))? {
            return Ok(false);
        }
        let failed = |error: Errno| SourceError::Connector { what: "be asked", source: error.into() };
        send(&self.socket, &subscription(Some(events)), SendFlags::empty()).map_err(failed)?;
        self.filtered = true;
        Ok(true)
    }

    /// Asks for events; whether the kernel acknowledged it.
    fn subscribe(&mut self, filter: Option<u32>) -> Result<bool, SourceError> {
        let failed =
            |what: &'static str| move |error: Errno| SourceError::Connector { what, source: error.into() };
        send(&self.socket, &subscription(filter), SendFlags::empty()).map_err(failed("be asked"))?;
        let mut buffer = [0; 4096];
        for _ in 0..64 {
            if !ready(&self.socket, Duration::from_millis(100)) {
                return Ok(false);
            }
            let (bytes, _) = match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok(got) => got,
                Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => continue,
                Err(error) => return Err(failed("be read")(error)),
            };
            // The acknowledgement's first number is an error.
            if let Some(message) = parse(&buffer[..bytes])
                && message.what == EVENT_NONE
            {
                return Ok(message.data[0] == 0);
            }
        }
        Ok(false)
    }

    pub(crate) fn wait(&mut self, timeout: Duration, sink: &mut dyn FnMut(Event)) -> Result<(), SourceError> {
        ready(&self.socket, timeout);
        self.drain(sink)
    }

    pub(crate) fn drain(&mut self, sink: &mut dyn FnMut(Event)) -> Result<(), SourceError> {
        let mut buffer = [0; 4096];
        loop {
            match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((bytes, _)) => match parse(&buffer[..bytes]) {
                    Some(message) => self.take(message, sink),
                    None => self.counters.not_understood += 1,
                },
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                // The kernel dropped messages. How many, the gap in their numbers tells; with a filter it was one or
                // more.
                Err(Errno::NOBUFS) => self.counters.lost_of_any_kind += u64::from(self.filtered),
                Err(error) => {
                    return Err(SourceError::Connector { what: "be read", source: error.into() });
                }
            }
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    fn take(&mut self, message: Message, sink: &mut dyn FnMut(Event)) {
        let Message { sequence, what, cpu, time, data } = message;
        if what == EVENT_NONE {
            return;
        }
        if !self.filtered {
            let expected = self.next.insert(cpu, sequence.wrapping_add(1));
            if let Some(gap) = expected.map(|expected| sequence.wrapping_sub(expected)) {
                self.counters.lost_of_any_kind += u64::from(gap);
            }
        }
        let [pid, tgid, third, fourth, ..] = data;
        match what {
            EVENT_FORK if !self.beside => self.counters.sent[Kind::Fork as usize] += 1,
            EVENT_EXEC if !self.beside => {
                self.counters.sent[Kind::Exec as usize] += 1;
                if let Some(exec) = proc::read(tgid, time) {
                    if self.started.len() >= MOST_REMEMBERED {
                        self.started.clear();
                    }
                    self.started.insert(tgid, (exec.who.start, exec.account));
                    sink(Event::Exec(Box::new(exec)));
                } else {
                    // It ran and is gone: the number is all that is known.
                    let account = Account::UNKNOWN;
                    let mut exec = crate::event::Exec { time, account, claimed: true, ..Default::default() };
                    (exec.who.pid, exec.who.tid, exec.who.start) = (tgid, pid, time);
                    self.started.insert(tgid, (time, account));
                    sink(Event::Exec(Box::new(exec)));
                }
            }
            EVENT_EXIT if !self.beside && pid == tgid => {
                if let Some((start, account)) = self.started.remove(&tgid) {
                    self.counters.sent[Kind::Exit as usize] += 1;
                    let status = ExitStatus(third);
                    sink(Event::Exit(Exit { time, account, start, pid: tgid, status, ..Exit::default() }));
                }
            }
            EVENT_UID => sink(Event::Credentials { pid: tgid, uid: third, euid: fourth, time }),
            EVENT_PTRACE => sink(Event::Ptrace { pid: tgid, tracer: fourth, time }),
            _ => {}
        }
    }
}

fn ready(socket: &OwnedFd, timeout: Duration) -> bool {
    let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
    let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&timeout)).is_ok_and(|ready| ready > 0)
}

/// The message that subscribes: netlink's header, the connector's, the operation and the filter.
fn subscription(filter: Option<u32>) -> Vec<u8> {
    let payload: Vec<u32> = std::iter::once(LISTEN).chain(filter).collect();
    let bytes = payload.len() * 4;
    let mut message = Vec::with_capacity(NETLINK_HEADER + CONNECTOR_HEADER + bytes);
    let total = (NETLINK_HEADER + CONNECTOR_HEADER + bytes) as u32;
    message.extend_from_slice(&total.to_ne_bytes());
    // NLMSG_DONE, no flags, number, port.
    message.extend_from_slice(&3u16.to_ne_bytes());
    message.extend_from_slice(&[0; 10]);
    // struct cb_id, number, acknowledgement, length, flags.
    message.extend_from_slice(&PROC.to_ne_bytes());
    message.extend_from_slice(&PROC.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(&(bytes as u16).to_ne_bytes());
    message.extend_from_slice(&[0; 2]);
    for number in payload {
        message.extend_from_slice(&number.to_ne_bytes());
    }
    message
}

/// Reads `struct proc_event` behind both headers.
fn parse(bytes: &[u8]) -> Option<Message> {
    let u32_at = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let u64_at = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
    let connector = NETLINK_HEADER;
    if (u32_at(connector)?, u32_at(connector + 4)?) != (PROC, PROC) {
        return None;
    }
    let event = connector + CONNECTOR_HEADER;
    let mut data = [0; 6];
    for (place, number) in data.iter_mut().enumerate() {
        *number = u32_at(event + 16 + 4 * place).unwrap_or(0);
    }
    Some(Message {
        sequence: u32_at(connector + 8)?,
        what: u32_at(event)?,
        cpu: u32_at(event + 4)?,
        time: u64_at(event + 8)?,
        data,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_is_read_from_its_places() {
        let mut bytes = vec![0; NETLINK_HEADER + CONNECTOR_HEADER + 40];
        let mut put = |at: usize, number: u32| bytes[at..at + 4].copy_from_slice(&number.to_ne_bytes());
        put(16, PROC);
        put(20, PROC);
        put(24, 7);
        put(36, EVENT_UID);
        put(40, 1);
        put(52, 99);
        put(56, 98);
        put(60, 0);
        put(64, 1000);

        let message = parse(&bytes).expect("it is whole");

        assert_eq!((message.sequence, message.what, message.cpu), (7, EVENT_UID, 1));
        assert_eq!(message.data[..4], [99, 98, 0, 1000]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_fail(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&bytes);
        }
    }
}
