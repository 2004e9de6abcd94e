//! Who listens where: an accepted connection does not say whose it is.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hashbrown::HashMap;
use vigie_kernel_events::{Account, proc};

use crate::place::{self, Left};
use crate::record::{Key, Program, Rights, Run};
use crate::shares::Bounded;
use crate::table::Table;

/// Sockets that are remembered; beyond it the oldest of the account that has most are forgotten.
const MOST: usize = 4096;

/// Network namespace, address and port.
type Place = (u32, IpAddr, u16);

#[derive(Debug)]
pub(crate) struct Listeners {
    owners: Bounded<Place, Owner>,
    sockets: Bounded<u64, Place>,
}

#[derive(Debug, Clone, Copy)]
struct Owner {
    key: Key,
    /// Its program's file was removed, as was reported.
    without_file: bool,
}

impl Default for Listeners {
    fn default() -> Self {
        Self { owners: Bounded::new(MOST), sockets: Bounded::new(MOST) }
    }
}

/// A socket that listens, and whose program's file was removed since.
pub(crate) struct WithoutFile {
    pub(crate) place: Place,
    pub(crate) account: Account,
    pub(crate) who: Key,
    pub(crate) program: Program,
    pub(crate) rights: Rights,
}

impl Listeners {
    pub(crate) fn put(&mut self, place: Place, account: Account, who: Key, has_file: bool) {
        self.owners.insert(place, account, Owner { key: who, without_file: !has_file });
    }

    /// Remembers which socket it is: when it is closed, its port is given back already.
    pub(crate) fn opened(&mut self, socket: u64, place: Place, account: Account) {
        self.sockets.insert(socket, account, place);
    }

    /// Those whose programs' files were removed since the last look. The file is not asked for anything, whose file
    /// system might not answer: the kernel knows whether it has a name.
    pub(crate) fn newly_without_file(&mut self, table: &Table, host: [u32; 4]) -> Vec<WithoutFile> {
        struct Looked {
            found: Option<WithoutFile>,
            /// Not known when it is none.
            is_gone: Option<bool>,
        }
        let mut looked: HashMap<Key, Looked> = HashMap::new();
        for (place, account, owner) in self.owners.iter() {
            let who = owner.key;
            let one = looked.entry(who).or_insert_with(|| match without_file(who, table, host) {
                Removed::No => Looked { found: None, is_gone: Some(false) },
                Removed::Unknown => Looked { found: None, is_gone: None },
                Removed::Yes(program, rights) => {
                    let found = WithoutFile { place: *place, account, who, program, rights };
                    Looked { found: Some(found), is_gone: Some(true) }
                }
            });
            if owner.without_file {
                one.found = None;
            }
        }
        for owner in self.owners.values_mut() {
            let is_gone = looked.get(&owner.key).and_then(|one| one.is_gone);
            owner.without_file = is_gone.unwrap_or(owner.without_file);
        }
        looked.into_values().filter_map(|one| one.found).collect()
    }

    pub(crate) fn closed(&mut self, socket: u64) {
        if let Some((_, place)) = self.sockets.remove(&socket) {
            self.owners.remove(&place);
        }
    }

    /// Whose socket accepts here: one of this address, or of all addresses.
    pub(crate) fn owner(&self, namespace: u32, address: IpAddr, port: u16) -> Option<Key> {
        let all = [address, Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        all.iter().find_map(|address| self.owners.get(&(namespace, *address, port))).map(|owner| owner.key)
    }
}

/// Whether a program's file was removed and nothing is in its place.
enum Removed {
    No,
    Unknown,
    /// What the process runs.
    Yes(Program, Rights),
}

fn without_file(who: Key, table: &Table, host: [u32; 4]) -> Removed {
    let Some((path, mut program, rights)) = removed(who, table) else { return Removed::No };
    match place::of_removed(who.pid, &path, &rights, host) {
        Left::Again => Removed::No,
        Left::Unknown => Removed::Unknown,
        Left::Gone => {
            program.file.links = 0;
            Removed::Yes(program, rights)
        }
    }
}

/// The path of a process's program and what it is, when its file was removed.
fn removed(who: Key, table: &Table) -> Option<(Vec<u8>, Program, Rights)> {
    const TICK: u64 = 10_000;
    let link = rustix::fs::readlink(format!("/proc/{}/exe", who.pid), Vec::new()).ok()?.into_bytes();
    let path = link.strip_suffix(b" (deleted)")?;
    let began = Key::new(who.pid, proc::start_of(who.pid)?).start;
    if who.start != 0 && who.start.abs_diff(began) > TICK {
        return None;
    }
    let (program, rights) = match table.get(who) {
        // A file can be called so.
        Some(process) if process.program.path == link => return None,
        Some(process) => (Program::clone(&process.program), Rights::clone(&process.rights)),
        None => {
            let run = Run::of(proc::read(who.pid, 0)?);
            (Program { path: path.to_vec(), file: run.program.file }, run.rights)
        }
    };
    Some((path.to_vec(), program, rights))
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
            let known = table.of_pid(pid).map(|process| (process.account, process.key));
            let known = known.or_else(|| Some((Account::UNKNOWN, Key::new(pid, proc::start_of(pid)?))));
            if let Some((account, key)) = known {
                listeners.put((namespace, *address, *port), account, key, true);
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
    fn whoever_listens_very_often_hides_no_other_listener() {
        let mut listeners = Listeners::default();
        let all: IpAddr = Ipv4Addr::UNSPECIFIED.into();
        let key = |pid| Key { pid, start: 1 };
        for port in 1..6000 {
            listeners.put((1, all, port), Account::user(1000), key(7), true);
        }

        listeners.put((1, all, 22), Account::TRUSTED, key(8), true);
        for port in 6000..12_000 {
            listeners.put((1, all, port), Account::user(1000), key(7), true);
        }

        assert_eq!(listeners.owner(1, "192.0.2.1".parse().unwrap(), 22), Some(key(8)));
    }

    #[test]
    fn a_listening_line_is_read_and_others_are_not() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 31337 1 0 100 0 0 10 0";

        assert_eq!(listening(line), Some((31337, ("127.0.0.1".parse().unwrap(), 8080))));
        assert_eq!(listening(&line.replace(" 0A ", " 01 ")), None);
    }
}
