//! Sockets that are neither TCP nor UDP: Unix sockets, raw sockets, and sockets for packets.
//!
//! Unix and packet sockets come from sock_diag(7), which tells names byte for byte; in the text tables a line feed in a
//! name begins a row of its own. They are the fallback, and the only source of raw sockets.

use std::net::IpAddr;
use std::ops::ControlFlow;

use rustix::net::netlink;

use crate::netlink::{NetlinkError, NetlinkSocket, attributes, u16_at, u32_at, undisturbed};
use crate::proc_net::ProcNet;
use crate::socket::SourceError;

/// `SOCK_DIAG_BY_FAMILY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;

/// `AF_UNIX` and `AF_PACKET`.
const UNIX: u8 = 1;
const PACKET: u8 = 17;

/// `UDIAG_SHOW_NAME | UDIAG_SHOW_UID`, and `PACKET_SHOW_INFO`, which has the user as well.
const SHOW_NAME_AND_USER: u32 = 0x1 | 0x40;
const SHOW_INFO: u32 = 0x1;

/// `UNIX_DIAG_NAME` and `UNIX_DIAG_UID` of `linux/unix_diag.h`.
const UNIX_NAME: u16 = 0;
const UNIX_USER: u16 = 7;

/// `PACKET_DIAG_INFO` and `PACKET_DIAG_UID` of `linux/packet_diag.h`.
const PACKET_INFO: u16 = 0;
const PACKET_USER: u16 = 5;

/// Bytes of `struct unix_diag_msg`: family, type, state, padding, number, cookie.
const UNIX_BYTES: usize = 16;

/// Bytes of `struct packet_diag_msg`: family, type, protocol, number, cookie.
const PACKET_BYTES: usize = 16;

/// A socket that is neither TCP nor UDP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// `unix`, `raw` or `packet`.
    pub protocol: &'static str,
    /// `stream`, `dgram`, `seqpacket`, `raw`.
    pub kind: &'static str,
    /// `listening`, `established`, `unconnected`.
    pub state: &'static str,
    /// The name of a Unix socket, `@` for the zero byte that begins an abstract one, other bytes that are no text as
    /// `\xNN`; empty without a name.
    pub path: String,
    /// The address that a raw socket is bound to.
    pub address: Option<IpAddr>,
    /// The protocol of IP packets that a raw socket takes, or of frames that a packet socket takes.
    pub number: Option<u16>,
    /// The number of its file.
    pub inode: u64,
    /// The user who opened it, where the kernel tells.
    pub uid: Option<u32>,
    /// The interface that it is bound to, 0 for all.
    pub interface: u32,
}

/// What was read, and why that may not be all.
pub type Read = (Vec<Other>, Option<String>);

/// The Unix sockets of this thread's network namespace.
///
/// # Errors
/// When neither source answers.
pub fn unix(tables: &ProcNet, text_only: bool) -> Result<Read, SourceError> {
    let mut request = [0; 24];
    request[0] = UNIX;
    request[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    request[12..16].copy_from_slice(&SHOW_NAME_AND_USER.to_ne_bytes());
    read(text_only, &request, parse_unix, || tables.other("unix", &mut text_unix))
}

/// The packet sockets of this thread's network namespace.
///
/// # Errors
/// When neither source answers.
pub fn packet(tables: &ProcNet, text_only: bool) -> Result<Read, SourceError> {
    let mut request = [0; 20];
    request[0] = PACKET;
    request[8..12].copy_from_slice(&SHOW_INFO.to_ne_bytes());
    read(text_only, &request, parse_packet, || tables.other("packet", &mut text_packet))
}

/// The raw sockets of this thread's network namespace.
///
/// # Errors
/// When the tables cannot be read.
pub fn raw(tables: &ProcNet) -> Result<Read, SourceError> {
    let (mut all, left_out) = tables.other("raw", &mut text_raw)?;
    let (more, left_out_6) = tables.other("raw6", &mut text_raw)?;
    all.extend(more);
    Ok((all, left_out_problem(left_out + left_out_6)))
}

fn left_out_problem(left_out: u64) -> Option<String> {
    (left_out > 0).then(|| format!("{left_out} rows are malformed"))
}

fn read(
    text_only: bool,
    request: &[u8],
    parse: fn(&[u8]) -> Option<Other>,
    text: impl FnOnce() -> Result<(Vec<Other>, u64), SourceError>,
) -> Result<Read, SourceError> {
    let why = if text_only {
        "sock_diag is not used".to_owned()
    } else {
        match dump(request, parse) {
            Ok(sockets) => return Ok((sockets, None)),
            Err(error) => format!("sock_diag does not respond: {error}"),
        }
    };
    let (sockets, left_out) = text()?;
    let cut = left_out_problem(left_out).map(|cut| format!("; {cut}")).unwrap_or_default();
    let problem =
        format!("read from /proc/net, where rows can be missing while sockets come and go: {why}{cut}");
    Ok((sockets, Some(problem)))
}

fn dump(request: &[u8], parse: fn(&[u8]) -> Option<Other>) -> Result<Vec<Other>, NetlinkError> {
    undisturbed(|| {
        let mut netlink = NetlinkSocket::open(Some(netlink::SOCK_DIAG))?;
        let (mut sockets, mut understood) = (Vec::new(), true);
        netlink.dump(BY_FAMILY, request, &mut |message| {
            match parse(message.payload) {
                Some(socket) => sockets.push(socket),
                None => understood = false,
            }
            if understood { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if understood { Ok(sockets) } else { Err(NetlinkError::NotUnderstood) }
    })
}

fn parse_unix(message: &[u8]) -> Option<Other> {
    let start: &[u8; UNIX_BYTES] = message.first_chunk()?;
    let rest = &message[UNIX_BYTES..];
    let name = attributes(rest).find(|(kind, _)| *kind == UNIX_NAME).map(|(_, name)| name);
    let uid = attributes(rest).find(|(kind, _)| *kind == UNIX_USER).and_then(|(_, uid)| u32_at(uid, 0));
    Some(Other {
        protocol: "unix",
        kind: type_name(start[1].into()),
        state: state_name(start[2]),
        path: name.map(shown_name).unwrap_or_default(),
        address: None,
        number: None,
        inode: u32_at(start, 4)?.into(),
        uid,
        interface: 0,
    })
}

fn parse_packet(message: &[u8]) -> Option<Other> {
    let start: &[u8; PACKET_BYTES] = message.first_chunk()?;
    let rest = &message[PACKET_BYTES..];
    let info = attributes(rest).find(|(kind, _)| *kind == PACKET_INFO).map(|(_, info)| info);
    let uid = attributes(rest).find(|(kind, _)| *kind == PACKET_USER).and_then(|(_, uid)| u32_at(uid, 0));
    Some(Other {
        protocol: "packet",
        kind: type_name(start[1].into()),
        state: "unconnected",
        path: String::new(),
        address: None,
        number: u16_at(start, 2),
        inode: u32_at(start, 4)?.into(),
        uid,
        interface: info.and_then(|info| u32_at(info, 0)).unwrap_or_default(),
    })
}

/// A row of `/proc/net/unix`: address, references, protocol, flags, type, state, number, name.
fn text_unix(row: &str) -> Option<Other> {
    let mut fields = row.split_ascii_whitespace();
    let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
    let kind = u32::from_str_radix(fields.next()?, 16).ok()?;
    let state = fields.next()?;
    let inode = fields.next()?.parse().ok()?;
    // The name is the rest of the row, blanks included.
    let mut rest = row;
    for _ in 0..7 {
        rest = rest.trim_start_matches(' ');
        rest = &rest[rest.find(' ').unwrap_or(rest.len())..];
    }
    let path = rest.strip_prefix(' ').unwrap_or_default();
    Some(Other {
        protocol: "unix",
        kind: type_name(kind),
        // `__SO_ACCEPTCON`, and `SS_CONNECTED` of `linux/net.h`.
        state: match (flags & 0x1_0000 != 0, state) {
            (true, _) => "listening",
            (_, "03") => "established",
            _ => "unconnected",
        },
        path: shown_name(path.as_bytes()),
        address: None,
        number: None,
        inode,
        uid: None,
        interface: 0,
    })
}

/// A row of `/proc/net/packet`: address, references, type, protocol, interface, running, memory, user, number.
fn text_packet(row: &str) -> Option<Other> {
    let fields: Vec<&str> = row.split_ascii_whitespace().collect();
    let [_, _, kind, number, interface, _, _, uid, inode] = *fields.as_slice() else { return None };
    Some(Other {
        protocol: "packet",
        kind: type_name(kind.parse().ok()?),
        state: "unconnected",
        path: String::new(),
        address: None,
        number: Some(u16::from_str_radix(number, 16).ok()?),
        inode: inode.parse().ok()?,
        uid: Some(uid.parse().ok()?),
        interface: interface.parse().ok()?,
    })
}

/// A row of `/proc/net/raw`, which has the form of the others of IP: the port is the protocol.
fn text_raw(row: &str) -> Option<Other> {
    let socket = crate::proc_net::parse_socket(row, crate::socket::Protocol::Udp)?;
    Some(Other {
        protocol: "raw",
        kind: "raw",
        state: if socket.has_peer() { "established" } else { "unconnected" },
        path: String::new(),
        address: Some(socket.local.address),
        number: Some(socket.local.port),
        inode: socket.inode,
        uid: Some(socket.uid),
        interface: socket.interface,
    })
}

/// The types of socket(2).
fn type_name(number: u32) -> &'static str {
    match number {
        1 => "stream",
        2 => "dgram",
        3 => "raw",
        5 => "seqpacket",
        _ => "other",
    }
}

/// The states of TCP, which Unix sockets borrow.
fn state_name(number: u8) -> &'static str {
    match number {
        1 => "established",
        10 => "listening",
        _ => "unconnected",
    }
}

/// A name as text: it may hold any bytes, and an abstract one begins with a zero.
fn shown_name(name: &[u8]) -> String {
    let (start, rest) = match name.split_first() {
        Some((0, rest)) => ("@", rest),
        // The kernel gives the zero at the end of a path with it.
        _ => ("", name.strip_suffix(b"\0").unwrap_or(name)),
    };
    let mut text = start.to_owned();
    for chunk in rest.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || character == '\\' {
                character.to_string().bytes().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
            } else {
                text.push(character);
            }
        }
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_names_of_unix_sockets_are_told_byte_for_byte() {
        let unique = std::process::id();
        let name = format!("vigie-{unique} a\nffff0: 00000002 00000000 00010000 0001 01 7 /fake\0\\\u{7f}");
        let _listener =
            UnixListener::bind_addr(&SocketAddr::from_abstract_name(name.as_bytes()).unwrap()).unwrap();

        let (all, problem) = unix(&ProcNet::of_this_thread(), false).unwrap();

        assert_eq!(problem, None);
        let shown =
            format!("@vigie-{unique} a\\x0affff0: 00000002 00000000 00010000 0001 01 7 /fake\\x00\\x5c\\x7f");
        let ours: Vec<&Other> = all.iter().filter(|one| one.path == shown).collect();
        assert_eq!(ours.len(), 1, "{all:?}");
        assert_eq!((ours[0].kind, ours[0].state), ("stream", "listening"));
        assert_eq!(ours[0].uid, Some(rustix::process::geteuid().as_raw()));
        assert!(all.iter().all(|one| one.inode != 7), "a name made a row");
    }

    #[test]
    fn rows_of_the_text_tables_are_read() {
        let listening =
            text_unix("ffff8881: 00000002 00000000 00010000 0001 01 12345 /run/with blank/sock").unwrap();
        assert_eq!((listening.path.as_str(), listening.state), ("/run/with blank/sock", "listening"));
        let nameless = text_unix("ffff8881: 00000003 00000000 00000000 0002 03    77").unwrap();
        assert_eq!((nameless.path.as_str(), nameless.state, nameless.kind), ("", "established", "dgram"));
        let sniffer = text_packet("ffff88 3      3    0003   2     1 0      0      4711").unwrap();
        assert_eq!((sniffer.kind, sniffer.number, sniffer.interface), ("raw", Some(3), 2));
        let raw = text_raw(
            "  1: 0100007F:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 5151 2 0 0",
        )
        .unwrap();
        assert_eq!((raw.number, raw.address), (Some(1), Some([127, 0, 0, 1].into())));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), row in "\\PC{0,80}") {
            parse_unix(&bytes);
            parse_packet(&bytes);
            text_unix(&row);
            text_packet(&row);
            text_raw(&row);
            let shown = shown_name(&bytes);
            prop_assert!(!shown.chars().any(char::is_control));
        }
    }
}
