//! The ports that processes listen on: the tables of a network namespace, and the sockets among the descriptors.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use serde::Serialize;

use crate::procfs;

/// Most bytes of a table that are read: about 3 million sockets.
const MAX_TABLE_BYTES: usize = 512 << 20;

/// The tables, with the state in which a socket waits for anybody.
const TABLES: [(&str, &str, &[u8]); 4] = [
    ("net/tcp", "tcp", b"0A"),
    ("net/tcp6", "tcp", b"0A"),
    ("net/udp", "udp", b"07"),
    ("net/udp6", "udp", b"07"),
];

/// A socket that anybody can reach.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Listening {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The address that it is bound to.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// The listening sockets of namespaces, by the number of the socket's file. Each namespace is read once.
#[derive(Debug, Default)]
pub struct Sockets {
    namespaces: HashMap<u64, HashMap<u64, Listening>>,
}

impl Sockets {
    /// The ports that the process listens on whose directory this is.
    ///
    /// # Errors
    /// When its descriptors or its namespace cannot be read.
    pub fn of(&mut self, directory: &OwnedFd) -> Result<Vec<Listening>, Errno> {
        let mut inodes = Vec::new();
        for descriptor in procfs::numbers(directory, "fd")? {
            // A descriptor that is closed meanwhile is none.
            if let Ok(link) = procfs::link(directory, format!("fd/{descriptor}")) {
                inodes.extend(socket_inode(&link));
            }
        }
        if inodes.is_empty() {
            return Ok(Vec::new());
        }
        let namespace = procfs::link(directory, "ns/net")?;
        let number = std::str::from_utf8(&namespace)
            .ok()
            .and_then(|text| text.split_once('[')?.1.strip_suffix(']')?.parse().ok());
        let number = number.ok_or(Errno::INVAL)?;
        let table = match self.namespaces.entry(number) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(read_tables(directory)?),
        };
        let mut listening: Vec<_> = inodes.iter().filter_map(|inode| table.get(inode).cloned()).collect();
        listening.sort();
        listening.dedup();
        Ok(listening)
    }
}

fn read_tables(directory: &OwnedFd) -> Result<HashMap<u64, Listening>, Errno> {
    let mut found = HashMap::new();
    let mut content = Vec::new();
    for (file, protocol, state) in TABLES {
        match procfs::read(directory, file, MAX_TABLE_BYTES, &mut content) {
            Ok(_) => {}
            // A kernel without IPv6.
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error),
        }
        for line in content.split(|byte| *byte == b'\n').skip(1) {
            if let Some((inode, address, port)) = row(line, state) {
                found.insert(inode, Listening { protocol, address, port });
            }
        }
    }
    Ok(found)
}

/// The number, address and port of a row whose socket is in this state.
fn row(line: &[u8], wanted: &[u8]) -> Option<(u64, IpAddr, u16)> {
    let text = std::str::from_utf8(line).ok()?;
    let mut fields = text.split_ascii_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    if state.as_bytes() != wanted {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok()?;
    let (address, port) = local.split_once(':')?;
    Some((inode, address_of(address)?, u16::from_str_radix(port, 16).ok()?))
}

/// An address is words of 32 bits, each in the byte order of this machine.
fn address_of(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (place, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(8 * place)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

/// The number in `socket:[NUMBER]`.
pub fn socket_inode(link: &[u8]) -> Option<u64> {
    let digits = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn rows_of_listening_sockets_are_read() {
        let tcp = b"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0 100 0 0 10 0";
        let udp6 = b"  10: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 77 2 0 0";

        assert_eq!(row(tcp, b"0A"), Some((12345, "127.0.0.1".parse().unwrap(), 8080)));
        assert_eq!(row(tcp, b"07"), None);
        assert_eq!(row(udp6, b"07"), Some((77, "::1".parse().unwrap(), 53)));
        assert_eq!(row(b"", b"0A"), None);
    }
}
