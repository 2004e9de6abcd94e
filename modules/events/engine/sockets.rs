//! Connections and listening sockets: joins what the kernel tells of a socket piece by piece.

use std::net::Ipv4Addr;

use vigie_kernel_events::{Net, NetState};

use super::{Engine, Sink, now, steady};
use crate::record::{Key, Outcome, Program, Record, Rights, Socket, SocketKind, What};

/// Connections whose outcome is not known yet; beyond it the oldest of the account that has most is told without.
pub(super) const MOST_PENDING: usize = 4096;
/// TCP gives up after 127 s.
const LONGEST_CONNECT: i64 = 130_000_000;

/// Time between two looks at the programs that listen, in microseconds.
const LISTENERS_EVERY: i64 = 30_000_000;

/// Connections whose other end may be accepted on this host.
const MOST_CONNECTED: usize = 1024;

impl<S: Sink> Engine<S> {
    pub(super) fn take_net(&mut self, net: Net) {
        let time = self.unix(net.time);
        match (net.state, &net.who) {
            (NetState::Connecting, Some(who)) => {
                let maker = Key::new(who.maker, who.maker_start);
                self.table.connects(Key::new(who.pid, who.start), maker, time);
                let record = self.socket(SocketKind::Connect, &net, Some(who), time);
                // The socket's connect before has no end that was told.
                if let Some((account, (_, before))) = self.pending.remove(&net.socket) {
                    self.tell(before, account);
                }
                if let Some((account, (_, oldest))) =
                    self.pending.insert(net.socket, net.account, (steady(), record))
                {
                    self.tell(oldest, account);
                }
            }
            (NetState::Connected | NetState::Failed, _) => {
                let Some((account, (_, mut record))) = self.pending.remove(&net.socket) else { return };
                if let What::Socket(socket) = &mut record.what {
                    let open = net.state == NetState::Connected;
                    socket.outcome = if open { Outcome::Open } else { Outcome::Refused };
                    if open {
                        socket.local = net.local;
                        socket.local_port = net.local_port;
                        self.connected.push_back(((net.local, net.local_port), record.who));
                    }
                }
                if self.connected.len() > MOST_CONNECTED {
                    self.connected.pop_front();
                }
                self.tell(record, account);
            }
            (NetState::Listening, Some(who)) => {
                let record = self.socket(SocketKind::Listen, &net, Some(who), time);
                let place = (net.net_namespace, net.local, net.local_port);
                let has_file =
                    !matches!(&record.what, What::Socket(socket) if socket.program.file.links == 0);
                self.listeners.put(place, net.account, record.who, has_file);
                self.listeners.opened(net.socket, place, net.account);
                self.tell(record, net.account);
            }
            (NetState::Unlistening, _) => {
                self.listeners.closed(net.socket);
            }
            (NetState::Accepted, _) => {
                let mut record = self.socket(SocketKind::Accept, &net, None, time);
                record.who =
                    self.listeners.owner(net.net_namespace, net.local, net.local_port).unwrap_or_default();
                let end = (net.remote, net.remote_port);
                let peer = self.connected.iter().rev().find(|(local, _)| *local == end);
                if let What::Socket(socket) = &mut record.what {
                    socket.peer = peer.map(|(_, key)| *key).unwrap_or_default();
                    if let Some(process) = self.table.get(record.who) {
                        socket.program = Program::clone(&process.program);
                        socket.rights = Rights::clone(&process.rights);
                    }
                }
                self.tell(record, net.account);
            }
            (NetState::Connecting | NetState::Listening, None) => {}
        }
    }

    fn socket(
        &self,
        kind: SocketKind,
        net: &Net,
        who: Option<&vigie_kernel_events::Identity>,
        time: i64,
    ) -> Record {
        let key = who.map(|who| Key::new(who.pid, who.start)).unwrap_or_default();
        // A child that runs no program of its own has its maker's.
        let process = self
            .table
            .get(key)
            .or_else(|| who.and_then(|who| self.table.get(Key::new(who.maker, who.maker_start))));
        let mut program = process.map(|process| Program::clone(&process.program)).unwrap_or_default();
        // A program can remove its own file after its start: the number of names is that of this moment.
        program.file.links = who.map_or(program.file.links, |who| who.exe_links);
        Record {
            time,
            who: key,
            what: What::Socket(Box::new(Socket {
                kind,
                outcome: if kind == SocketKind::Connect { Outcome::Unanswered } else { Outcome::Open },
                local: net.local,
                local_port: net.local_port,
                remote: net.remote,
                remote_port: net.remote_port,
                program,
                rights: who.map(Rights::of).unwrap_or_default(),
                peer: Key::default(),
            })),
        }
    }

    /// Asks the rules about sockets that listen already and whose program's file was removed since. Removing a file is no
    /// event; a listening socket stays long enough to be found.
    pub(super) fn look_at_listeners(&mut self, steady: i64) {
        if steady < self.listeners_due {
            return;
        }
        self.listeners_due = steady + LISTENERS_EVERY;
        for found in self.listeners.newly_without_file(&self.table, self.host_namespaces) {
            let (_, local, local_port) = found.place;
            let socket = Socket {
                kind: SocketKind::Listen,
                outcome: Outcome::Open,
                local,
                local_port,
                remote: Ipv4Addr::UNSPECIFIED.into(),
                remote_port: 0,
                program: found.program,
                rights: found.rights,
                peer: Key::default(),
            };
            let what = What::Socket(Box::new(socket));
            self.ask_rules(&Record { time: now(), who: found.who, what }, found.account);
        }
    }

    /// Tells connects that were never answered.
    pub(super) fn expire(&mut self, steady: i64) {
        for (account, (_, record)) in self.pending.take_while(|(since, _)| steady - since >= LONGEST_CONNECT)
        {
            self.tell(record, account);
        }
    }
}
