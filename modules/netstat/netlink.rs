//! Netlink: messages in buffers, and dumps over a socket of the kernel.
//!
//! The format is that of netlink(7): messages with a header of 16 bytes and attributes with one of 4, all in host
//! byte order and aligned to 4 bytes.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, recv, send,
    socket_with,
};

/// Bytes of a message's header: length, type, flags, sequence number, port.
const HEADER_BYTES: usize = 16;

/// Bytes of an attribute's header: length, type.
const ATTRIBUTE_HEADER_BYTES: usize = 4;

/// `NLMSG_ERROR`: a negative error number, 0 for success.
const TYPE_ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of a dump, with an error number if it failed.
const TYPE_DONE: u16 = 3;

/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP_FLAGS: u16 = 0x1 | 0x300;
/// `NLM_F_DUMP_INTR`: what is dumped changed in a way that the dump may be wrong.
const FLAG_INTERRUPTED: u16 = 0x10;

/// `NLA_TYPE_MASK`: the type of an attribute without its flags.
const ATTRIBUTE_TYPE_MASK: u16 = 0x3fff;

/// Bytes read at once. The kernel fills at most 32 KiB for a reader that takes as much; interfaces with many
/// virtual functions need more.
const BUFFER_BYTES: usize = 128 * 1024;

/// Longest wait for the next part of an answer; the kernel writes it while it is read.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How often a dump is begun again that the kernel says was disturbed.
const MAX_ATTEMPTS: u32 = 4;

/// Why a dump failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket cannot be opened.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The request cannot be sent.
    #[error("cannot send a netlink request")]
    Send(#[source] io::Error),
    /// The answer cannot be received.
    #[error("cannot receive the answer to a netlink request")]
    Receive(#[source] io::Error),
    /// The kernel refuses the request; `ENOENT` when it does not know the kind of dump.
    #[error("the kernel rejected a netlink request")]
    Refused(#[source] io::Error),
    /// The answer has not the form of netlink(7).
    #[error("the reply to a netlink request is malformed")]
    NotUnderstood,
    /// Each attempt was disturbed by changes.
    #[error("the tables changed while they were read")]
    Disturbed,
}

/// A message in a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// What it is; numbers below 16 are netlink's own.
    pub kind: u16,
    /// Flags of the header.
    pub flags: u16,
    /// The number of the request that it answers.
    pub sequence: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

/// The messages in a buffer. A message that does not fit ends them with an error.
#[derive(Debug, Clone)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// The messages in these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, NetlinkError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let message = (|| {
            let length = usize::try_from(u32_at(self.rest, 0)?).ok()?;
            let payload = self.rest.get(HEADER_BYTES..length)?;
            let message = Message {
                kind: u16_at(self.rest, 4)?,
                flags: u16_at(self.rest, 6)?,
                sequence: u32_at(self.rest, 8)?,
                payload,
            };
            self.rest = self.rest.get(aligned(length)..).unwrap_or_default();
            Some(message)
        })();
        if message.is_none() {
            self.rest = &[];
        }
        Some(message.ok_or(NetlinkError::NotUnderstood))
    }
}

/// The attributes in these bytes as type and value; one that does not fit ends them.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & ATTRIBUTE_TYPE_MASK;
        let value = rest.get(ATTRIBUTE_HEADER_BYTES..length)?;
        rest = rest.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Adds an attribute to a message.
pub(crate) fn push_attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(ATTRIBUTE_HEADER_BYTES + value.len()).unwrap_or(u16::MAX);
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(value);
    message.resize(aligned(message.len()), 0);
}

/// A request for a dump.
fn dump_request(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = HEADER_BYTES + payload.len();
    let mut request = Vec::with_capacity(length);
    request.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    request.extend_from_slice(&kind.to_ne_bytes());
    request.extend_from_slice(&DUMP_FLAGS.to_ne_bytes());
    request.extend_from_slice(&sequence.to_ne_bytes());
    // The kernel numbers the port.
    request.extend_from_slice(&0u32.to_ne_bytes());
    request.extend_from_slice(payload);
    request
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// A number in host byte order.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A number in host byte order.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct NetlinkSocket {
    fd: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

impl NetlinkSocket {
    /// Opens a socket to one of the kernel's netlink families; `None` is `NETLINK_ROUTE`.
    ///
    /// # Errors
    /// When the kernel does not let it.
    pub(crate) fn open(family: Option<Protocol>) -> Result<Self, NetlinkError> {
        let fd = open(family).map_err(|error| NetlinkError::Open(error.into()))?;
        Ok(Self { fd, buffer: vec![0; BUFFER_BYTES], sequence: 0 })
    }

    /// Asks for a dump and calls `each` with every message of it, until it breaks. A socket of which a dump was
    /// broken off or failed is used no more.
    ///
    /// # Errors
    /// When the dump does not come to its end; what `each` was given until then is not to be used.
    pub(crate) fn dump(
        &mut self,
        kind: u16,
        payload: &[u8],
        each: &mut dyn FnMut(&Message<'_>) -> ControlFlow<()>,
    ) -> Result<(), NetlinkError> {
        self.sequence += 1;
        let request = dump_request(kind, self.sequence, payload);
        send(&self.fd, &request, SendFlags::empty()).map_err(|error| NetlinkError::Send(error.into()))?;
        let mut part = Part { sequence: self.sequence, disturbed: false, done: false };
        while !part.done {
            let (_, length) = retry_on_intr(|| recv(&self.fd, &mut self.buffer[..], RecvFlags::TRUNC))
                .map_err(|error| NetlinkError::Receive(error.into()))?;
            // The length is that of the message, also when it was cut.
            let bytes = self.buffer.get(..length).ok_or(NetlinkError::NotUnderstood)?;
            if part.read(bytes, each)?.is_break() {
                return Ok(());
            }
        }
        if part.disturbed { Err(NetlinkError::Disturbed) } else { Ok(()) }
    }
}

fn open(family: Option<Protocol>) -> rustix::io::Result<OwnedFd> {
    let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, family)?;
    bind(&fd, &SocketAddrNetlink::new(0, 0))?;
    // Connected to the kernel: a message of anybody else is refused.
    connect(&fd, &SocketAddrNetlink::new(0, 0))?;
    set_socket_timeout(&fd, Timeout::Recv, Some(LONGEST_WAIT))?;
    Ok(fd)
}

/// How far a dump is.
#[derive(Debug)]
struct Part {
    sequence: u32,
    disturbed: bool,
    done: bool,
}

impl Part {
    /// Reads what one call received.
    fn read(
        &mut self,
        bytes: &[u8],
        each: &mut dyn FnMut(&Message<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, NetlinkError> {
        if bytes.is_empty() {
            return Err(NetlinkError::NotUnderstood);
        }
        for message in Messages::new(bytes) {
            let message = message?;
            if message.sequence != self.sequence {
                continue;
            }
            self.disturbed |= message.flags & FLAG_INTERRUPTED != 0;
            if matches!(message.kind, TYPE_DONE | TYPE_ERROR) {
                // A kernel before 2.6 ended a dump without a number.
                let code = u32_at(message.payload, 0).map_or(0, u32::cast_signed);
                if code != 0 {
                    return Err(NetlinkError::Refused(io::Error::from_raw_os_error(code.saturating_neg())));
                }
                self.done = true;
                return Ok(ControlFlow::Continue(()));
            }
            if each(&message).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Makes a dump again as long as the kernel says that it was disturbed.
///
/// # Errors
/// What the dump fails with; [`NetlinkError::Disturbed`] when each attempt was disturbed.
pub(crate) fn undisturbed<T>(mut dump: impl FnMut() -> Result<T, NetlinkError>) -> Result<T, NetlinkError> {
    for _ in 1..MAX_ATTEMPTS {
        match dump() {
            Err(NetlinkError::Disturbed) => {}
            result => return result,
        }
    }
    dump()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A message as the kernel writes it.
    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = dump_request(kind, sequence, payload);
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn read(part: &mut Part, bytes: &[u8]) -> Result<Vec<Vec<u8>>, NetlinkError> {
        let mut seen = Vec::new();
        part.read(bytes, &mut |message| {
            seen.push(message.payload.to_vec());
            ControlFlow::Continue(())
        })
        .map(|_| seen)
    }

    fn part() -> Part {
        Part { sequence: 7, disturbed: false, done: false }
    }

    #[test]
    fn a_dump_ends_with_its_last_message() {
        let bytes =
            [message(20, 2, 7, b"one!"), message(20, 2, 7, b"second"), message(3, 2, 7, &[0; 4])].concat();

        let mut part = part();
        let seen = read(&mut part, &bytes).unwrap();

        assert_eq!(seen, [b"one!".to_vec(), b"second".to_vec()]);
        assert!(part.done && !part.disturbed);
    }

    #[test]
    fn answers_to_other_requests_are_passed_over() {
        let mut part = part();

        let seen = read(&mut part, &message(20, 2, 6, b"late")).unwrap();

        assert!(seen.is_empty() && !part.done);
    }

    #[test]
    fn a_refusal_carries_the_kernels_reason() {
        let refusal = message(2, 0, 7, &(-2i32).to_ne_bytes());

        let error = read(&mut part(), &refusal).unwrap_err();

        assert!(matches!(error, NetlinkError::Refused(error) if error.kind() == io::ErrorKind::NotFound));
    }

    #[test]
    fn a_disturbed_dump_is_made_again() {
        let mut part = part();
        read(&mut part, &message(20, 2 | FLAG_INTERRUPTED, 7, b"")).unwrap();
        let mut attempts = 0;

        let result = undisturbed(|| {
            attempts += 1;
            if attempts < 3 { Err(NetlinkError::Disturbed) } else { Ok(attempts) }
        });

        assert!(part.disturbed);
        assert_eq!(result.unwrap(), 3);
        assert!(matches!(
            undisturbed(|| Err::<(), _>(NetlinkError::Disturbed)),
            Err(NetlinkError::Disturbed)
        ));
    }

    #[test]
    fn attributes_are_read_without_their_flags_and_padding() {
        let bytes = [
            &5u16.to_ne_bytes()[..],
            &0x8001u16.to_ne_bytes(),
            b"a\0\0\0",
            &4u16.to_ne_bytes(),
            &2u16.to_ne_bytes(),
        ]
        .concat();

        let read: Vec<_> = attributes(&bytes).collect();

        assert_eq!(read, [(1, &b"a"[..]), (2, &b""[..])]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_their_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Messages::new(&bytes).count() <= bytes.len());
            prop_assert!(attributes(&bytes).count() <= bytes.len());
            let _ = read(&mut part(), &bytes);
        }

        #[test]
        fn what_is_written_is_read(
            parts in proptest::collection::vec((16u16.., proptest::collection::vec(any::<u8>(), 0..50)), 1..10),
        ) {
            let bytes: Vec<u8> =
                parts.iter().flat_map(|(kind, payload)| message(*kind, 2, 7, payload)).collect();

            let messages: Vec<_> = Messages::new(&bytes).map(Result::unwrap).collect();

            prop_assert_eq!(messages.len(), parts.len());
            for (message, (kind, payload)) in messages.iter().zip(&parts) {
                prop_assert_eq!((message.kind, message.payload), (*kind, &payload[..]));
            }
        }
    }
}
