//! Who listens where: an accepted connection does not say whose it is.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashMap;
use vigie_kernel_events::proc;

use crate::record::Key;
use crate::table::Table;

/// Sockets that are remembered.
const MOST: usize = 4096;

/// By network namespace, address and port.
#[derive(Debug, Default)]
pub(crate) struct Listeners(HashMap<(u32, IpAddr, u16), Key>, HashMap<u64, (u32, IpAddr, u16)>);

impl Listeners {
    pub(crate) fn put(&mut self, namespace: u32, address: IpAddr, port: u16, who: Key) {
        if self.0.len() < MOST || self.0.contains_key(&(namespace, address, port)) {
            self.0.insert((namespace, address, port), who);
        }
    }

    /// Remembers which socket it is: when it is closed, its port is given back already.
    pub(crate) fn opened(&mut self, socket: u64, namespace: u32, address: IpAddr, port: u16) {
        if self.1.len() < MOST {
            self.1.insert(socket, (namespace, address, port));
        }
    }

    pub(crate) fn closed(&mut self, socket: u64) {
        if let Some(place) = self.1.remove(&socket) {
            self.0.remove(&place);
        }
    }

    /// Whose socket accepts here: one of this address, or of all addresses.
    pub(crate) fn owner(&self, namespace: u32, address: IpAddr, port: u16) -> Option<Key> {
        let all = [address, Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        all.iter().find_map(|address| self.0.get(&(namespace, *address, port)).copied())
    }
}

/// Those of this network namespace that listen already.
pub(crate) fn found(table: &Table) -> Listeners {
    let mut listeners = Listeners::default();
    let namespace = proc::read(std::process::id(), 0).map_or(0, |own| own.who.namespaces.net);
    let mut sockets = HashMap::new();
    for file in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/self/net/{file}")).unwrap_or_default();
        sockets.extend(text.lines().skip(1).filter_map(listening));
    }
    if sockets.is_empty() {
        return listeners;
    }
    let Ok(processes) = fs::read_dir("/proc") else { return listeners };
    for pid in processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            let inode = target
                .to_str()
                .and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok());
            let Some((address, port)) = inode.and_then(|inode| sockets.get(&inode)) else { continue };
            let key = table.of_pid(pid).map(|process| process.key);
            let key = key.or_else(|| Some(Key::new(pid, proc::start_of(pid)?)));
            if let Some(key) = key {
                listeners.put(namespace, *address, *port, key);
            }
        }
    }
    listeners
}

/// A line of `/proc/net/tcp` whose socket listens: its inode, address and port.
fn listening(line: &str) -> Option<(u64, (IpAddr, u16))> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    if *fields.get(3)? != LISTEN {
        return None;
    }
    let (address, port) = fields.get(1)?.split_once(':')?;
    let mut bytes = Vec::with_capacity(16);
    // Words of four bytes in the host's order.
    for at in (0..address.len()).step_by(8) {
        bytes.extend_from_slice(&u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    let address = match <[u8; 4]>::try_from(&bytes[..]) {
        Ok(bytes) => IpAddr::from(bytes),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[..]).ok()?).to_canonical(),
    };
    Some((fields.get(9)?.parse().ok()?, (address, u16::from_str_radix(port, 16).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_line_is_read_and_others_are_not() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 31337 1 0 100 0 0 10 0";

        assert_eq!(listening(line), Some((31337, ("127.0.0.1".parse().unwrap(), 8080))));
        assert_eq!(listening(&line.replace(" 0A ", " 01 ")), None);
    }
}
