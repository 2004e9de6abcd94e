//! Sockets and neighbours from the kernel's text tables in `/proc/net` (proc_pid_net(5)).
//!
//! The fallback for kernels and sandboxes without netlink. A table is read in pieces, and the kernel finds its
//! place again by counting: while sockets come and go a row can be shown twice or not at all. Who reads these
//! tables removes doubles and says that something may be missing.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::ControlFlow;
use std::path::PathBuf;

use procfs::net::{ARPFlags, ArpEntries, TcpNetEntries, UdpNetEntries};
use procfs::{FromBufRead, FromBufReadSI};

use crate::other::Other;
use crate::rtnetlink::{Neighbour, hardware_text};
use crate::socket::{Endpoint, Protocol, Socket, SocketSource, SourceError, State, Wanted};

/// Longest row, in bytes; the kernel's have at most 180.
const MAX_ROW_BYTES: usize = 1024;

/// The text tables below a directory.
#[derive(Debug, Clone)]
pub struct ProcNet {
    directory: PathBuf,
}

impl ProcNet {
    /// The tables of the network namespace of the thread that reads them.
    #[must_use]
    pub fn of_this_thread() -> Self {
        Self::below("/proc/thread-self/net")
    }

    /// The tables in another directory.
    pub fn below(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// Opens a table's file; `None` when the kernel has no such table, for example without IPv6.
    fn open(&self, name: &str) -> Result<Option<BufReader<std::fs::File>>, SourceError> {
        match std::fs::File::open(self.directory.join(name)) {
            // The larger the pieces, the fewer rows are shown twice.
            Ok(file) => Ok(Some(BufReader::with_capacity(1 << 20, file))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && self.directory.is_dir() => Ok(None),
            Err(source) => Err(SourceError::File { file: self.path(name), source }),
        }
    }

    /// The IPv4 neighbours that have a hardware address, and how many rows were left out because their form is
    /// not understood. There is no such table for IPv6.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn neighbours(&self) -> Result<(Vec<Neighbour>, u64), SourceError> {
        let mut neighbours = Vec::new();
        let left_out = self.each_row("arp", &mut |row| {
            neighbours.extend(parse_neighbour(row)?);
            Some(ControlFlow::Continue(()))
        })?;
        Ok((neighbours, left_out))
    }

    /// Gives `each` the rows of a file until it breaks, and counts those that it does not understand.
    fn each_row(
        &self,
        name: &str,
        each: &mut dyn FnMut(&str) -> Option<ControlFlow<()>>,
    ) -> Result<u64, SourceError> {
        let Some(mut reader) = self.open(name)? else { return Ok(0) };
        let mut left_out = 0;
        each_row(&mut reader, &mut |row| {
            each(row).unwrap_or_else(|| {
                left_out += 1;
                ControlFlow::Continue(())
            })
        })
        .map_err(|source| SourceError::File { file: self.path(name), source })?;
        Ok(left_out)
    }

    /// The rows of a table of other sockets, and how many were not understood.
    pub(crate) fn other(
        &self,
        name: &str,
        parse: &mut dyn FnMut(&str) -> Option<Other>,
    ) -> Result<(Vec<Other>, u64), SourceError> {
        let mut sockets = Vec::new();
        let left_out = self.each_row(name, &mut |row| {
            sockets.push(parse(row.trim_end_matches('\n'))?);
            Some(ControlFlow::Continue(()))
        })?;
        Ok((sockets, left_out))
    }

    /// Whether the kernel has tables of this protocol.
    pub(crate) fn has(&self, protocol: Protocol) -> bool {
        !self.directory.is_dir() || file_names(protocol).iter().any(|name| self.directory.join(name).exists())
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }
}

impl SocketSource for ProcNet {
    fn read(
        &mut self,
        wanted: &Wanted<'_>,
        each: &mut dyn FnMut(&Socket) -> ControlFlow<()>,
    ) -> Result<u64, SourceError> {
        let mut left_out = 0;
        let mut broken_off = false;
        for name in file_names(wanted.protocol) {
            left_out += self.each_row(name, &mut |row| {
                let socket = parse_socket(row, wanted.protocol)?;
                broken_off = wanted.states.contains(socket.state) && each(&socket).is_break();
                Some(if broken_off { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })?;
            if broken_off {
                break;
            }
        }
        Ok(left_out)
    }
}

/// The tables of IPv4 and IPv6 sockets.
fn file_names(protocol: Protocol) -> [&'static str; 2] {
    match protocol {
        Protocol::Tcp => ["tcp", "tcp6"],
        Protocol::Udp => ["udp", "udp6"],
        Protocol::UdpLite => ["udplite", "udplite6"],
    }
}

/// Calls `each` with every row after the heading.
fn each_row(reader: &mut impl BufRead, each: &mut dyn FnMut(&str) -> ControlFlow<()>) -> std::io::Result<()> {
    let mut row = Vec::new();
    let mut heading = true;
    loop {
        row.clear();
        let length = std::io::Read::take(&mut *reader, MAX_ROW_BYTES as u64).read_until(b'\n', &mut row)?;
        if length == 0 {
            return Ok(());
        }
        // Bytes that are not UTF-8 are in no row of the kernel; such a row is refused by whoever parses it.
        let row = String::from_utf8_lossy(&row);
        if !std::mem::take(&mut heading) && !row.trim().is_empty() && each(&row).is_break() {
            return Ok(());
        }
    }
}

/// Reads a row of a table of sockets.
pub(crate) fn parse_socket(row: &str, protocol: Protocol) -> Option<Socket> {
    // One row at a time: a row that is not understood must not cost the others.
    let table = || std::io::Cursor::new(format!("\n{row}"));
    let host = procfs::current_system_info();
    let (state, local, remote, inode, uid) = match protocol {
        Protocol::Tcp => {
            let row = TcpNetEntries::from_buf_read(table(), host).ok()?.0.pop()?;
            (row.state.to_u8(), row.local_address, row.remote_address, row.inode, row.uid)
        }
        Protocol::Udp | Protocol::UdpLite => {
            let row = UdpNetEntries::from_buf_read(table(), host).ok()?.0.pop()?;
            (row.state.to_u8(), row.local_address, row.remote_address, row.inode, row.uid)
        }
    };
    let endpoint = |address: SocketAddr| Endpoint::new(address.ip(), address.port());
    Some(Socket {
        protocol,
        state: State::from_number(state)?,
        local: endpoint(local),
        remote: endpoint(remote),
        inode,
        uid,
        interface: 0,
    })
}

/// Reads a row of the table of neighbours; `Some(None)` for one without a hardware address.
fn parse_neighbour(row: &str) -> Option<Option<Neighbour>> {
    // The parser takes the prefix of its second and third field for granted.
    let mut fields = row.split_whitespace();
    let _: Ipv4Addr = fields.next()?.parse().ok()?;
    if !fields.take(2).all(|field| field.starts_with("0x")) {
        return None;
    }
    let entry = ArpEntries::from_buf_read(std::io::Cursor::new(format!("\n{row}"))).ok()?.0.pop()?;
    let complete = entry.flags.contains(ARPFlags::COM);
    let hardware = entry.hw_address.filter(|_| complete);
    Some(hardware.map(|hardware| Neighbour {
        address: IpAddr::V4(entry.ip_address),
        hardware: hardware_text(&hardware),
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAPPED: &str = "   4: 0000000000000000FFFF00000100007F:1F91 0000000000000000FFFF00000500007F:9C91 01 \
                          00000000:00000000 00:00000000 00000000  1000        0 6783907 1 00000000d1a8b6ee 20 0 0 10 -1\n";

    #[test]
    fn the_words_of_an_ipv6_address_are_in_host_byte_order() {
        let row = "0: 000077FD000000000000000002000000:270E 00000000000000000000000000000000:0000 0A \
                   00000000:00000000 00:00000000 00000000 0 0 6783943 1 0 100 0 0 10 0";

        let socket = parse_socket(row, Protocol::Tcp).unwrap();

        // The sample was taken on a little-endian machine.
        if cfg!(target_endian = "little") {
            assert_eq!(socket.local, Endpoint::new("fd77::2".parse().unwrap(), 9998));
        }
        assert_eq!(socket.state, State::Listening);
    }

    #[test]
    fn an_ipv4_peer_in_an_ipv6_table_is_an_ipv4_address() {
        let socket = parse_socket(MAPPED, Protocol::Tcp).unwrap();

        if cfg!(target_endian = "little") {
            assert_eq!(socket.remote, Endpoint::new("127.0.0.5".parse().unwrap(), 40081));
        }
        assert_eq!((socket.uid, socket.inode), (1000, 6_783_907));
    }

    #[test]
    fn a_neighbour_that_never_answered_is_none() {
        let row = "10.77.0.3 0x1 0x0 00:00:00:00:00:00 * veth0\n";

        assert_eq!(parse_neighbour(row), Some(None));
    }

    proptest! {
        #[test]
        fn any_row_is_read_or_refused(row in "\\PC{0,120}") {
            let _ = parse_socket(&row, Protocol::Tcp);
            let _ = parse_socket(&row, Protocol::Udp);
            let _ = parse_neighbour(&row);
        }

        #[test]
        fn a_row_with_a_few_wrong_characters_is_read_or_refused(
            at in proptest::collection::vec((any::<prop::sample::Index>(), any::<char>()), 1..4),
        ) {
            for (template, protocol) in [(MAPPED, Protocol::Tcp), (MAPPED, Protocol::Udp)] {
                let mut row: Vec<char> = template.chars().collect();
                for (at, character) in &at {
                    *at.get_mut(&mut row) = *character;
                }
                let row: String = row.into_iter().collect();
                let _ = parse_socket(&row, protocol);
            }
            let mut row: Vec<char> = "10.77.0.9 0x1 0x6 02:77:aa:bb:cc:09 * veth0".chars().collect();
            for (at, character) in &at {
                *at.get_mut(&mut row) = *character;
            }
            let _ = parse_neighbour(&row.into_iter().collect::<String>());
        }
    }
}
