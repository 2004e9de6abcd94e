//! Compares what different interfaces of the kernel say about the same sockets. One that hides a socket in one of them
//! (a hook in `/proc`, a filter of netlink) rarely hides it in all.
//!
//! Sockets come and go while they are read, so a difference counts only when it stands in every look.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use crate::proc_net::ProcNet;
use crate::processes::Owners;
use crate::sock_diag::SockDiag;
use crate::socket::{Protocol, Socket, SocketSource, SourceError, States, Wanted};

/// Looks in which a difference must stand.
const LOOKS: usize = 3;

/// What a socket is missing in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum View {
    /// sock_diag(7).
    SockDiag,
    /// `/proc/net`.
    ProcNet,
    /// The descriptors of all processes.
    Descriptors,
}

impl View {
    /// All of them, in the order of an answer.
    pub const ALL: [Self; 3] = [Self::SockDiag, Self::ProcNet, Self::Descriptors];

    /// The name in answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SockDiag => "sock_diag",
            Self::ProcNet => "proc_net",
            Self::Descriptors => "descriptors",
        }
    }

    /// What it means that a socket is missing there.
    #[must_use]
    pub fn evidence(self) -> &'static str {
        match self {
            Self::SockDiag => "in /proc/net, but not in sock_diag",
            Self::ProcNet => "in sock_diag, but not in /proc/net",
            Self::Descriptors => {
                "no process has it open: it belongs to the kernel, is in transit in a message, is held by io_uring, or belongs to a hidden process"
            }
        }
    }
}

/// Sockets by the number of their file.
type Sockets = BTreeMap<u64, Socket>;

/// The differences between sock_diag and the text tables, in this thread's network namespace.
///
/// # Errors
/// When one of them cannot be read.
pub fn differences(
    tables: &ProcNet,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<(Vec<(View, Socket)>, u64), SourceError> {
    let mut examined = 0;
    let mut standing: Option<BTreeSet<(View, u64)>> = None;
    let mut known = Sockets::new();
    for _ in 0..LOOKS {
        if stop() {
            return Ok((Vec::new(), examined));
        }
        // Twice around: what began or ended meanwhile is in one of the two readings.
        let before = all(&mut tables.clone())?;
        let diag = all(&mut SockDiag {})?;
        let after = all(&mut tables.clone())?;
        examined = (diag.len() + after.len()) as u64;
        let text_only = before.keys().filter(|inode| after.contains_key(inode) && !diag.contains_key(inode));
        let diag_only = diag.keys().filter(|inode| !before.contains_key(inode) && !after.contains_key(inode));
        let now: BTreeSet<(View, u64)> = text_only
            .map(|inode| (View::SockDiag, *inode))
            .chain(diag_only.map(|inode| (View::ProcNet, *inode)))
            .collect();
        standing = Some(match standing {
            Some(standing) => &standing & &now,
            None => now,
        });
        known.extend(before);
        known.extend(diag);
    }
    let standing = standing.unwrap_or_default();
    Ok((
        standing.into_iter().filter_map(|(view, inode)| Some((view, *known.get(&inode)?))).collect(),
        examined,
    ))
}

/// All sockets with a file that listen or are connected.
///
/// # Errors
/// When sock_diag does not answer.
pub fn sockets() -> Result<Vec<Socket>, SourceError> {
    let sockets = all(&mut SockDiag {})?.into_values();
    Ok(sockets.filter(|socket| socket.listens() || socket.has_peer()).collect())
}

/// Those that no process has open; the processes must have been read after the sockets.
#[must_use]
pub(crate) fn unowned(sockets: Vec<Socket>, owners: &Owners) -> Vec<(View, Socket)> {
    let is_owned = |socket: &Socket| owners.of(socket.inode).next().is_some();
    sockets.into_iter().filter(|socket| !is_owned(socket)).map(|socket| (View::Descriptors, socket)).collect()
}

/// Keeps what is in both lists, for differences that must stand in two looks.
#[must_use]
pub fn standing(first: &[(View, Socket)], second: Vec<(View, Socket)>) -> Vec<(View, Socket)> {
    let inodes: BTreeSet<u64> = first.iter().map(|(_, socket)| socket.inode).collect();
    second.into_iter().filter(|(_, socket)| inodes.contains(&socket.inode)).collect()
}

fn all(source: &mut dyn SocketSource) -> Result<Sockets, SourceError> {
    let mut sockets = Sockets::new();
    for protocol in Protocol::ALL {
        let wanted = Wanted { protocol, states: States::ALL, peers: &[] };
        source.read(&wanted, &mut |socket| {
            // Without a file there is no number to compare, as while late segments are awaited.
            if socket.inode != 0 {
                sockets.insert(socket.inode, *socket);
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(sockets)
}
