//! Which sockets were found already.

use std::hash::BuildHasher;

use hashbrown::DefaultHashBuilder;
use hashbrown::hash_table::{Entry, HashTable};

use super::{Hit, MAX_HITS, Match};
use crate::socket::Socket;

/// The sockets that were found: the hash of each identity and its place among the hits, where the identity is.
#[derive(Default)]
pub(super) struct Seen {
    places: HashTable<(u64, u32)>,
    hasher: DefaultHashBuilder,
}

impl Seen {
    /// Whether none of the hits is this socket, whose own hit then comes next.
    pub(super) fn is_new(&mut self, socket: &Socket, hits: &[Hit]) -> bool {
        // Beyond the limit matches are only counted.
        let next = match u32::try_from(hits.len()) {
            Ok(next) if hits.len() < MAX_HITS => next,
            _ => return true,
        };
        let identity = socket.identity();
        let hash = self.hasher.hash_one(identity);
        let same = |(other, place): &(u64, u32)| {
            *other == hash
                && hits.get(*place as usize).is_some_and(
                    |hit| matches!(&hit.matched, Match::Socket(socket) if socket.identity() == identity),
                )
        };
        match self.places.entry(hash, same, |(hash, _)| *hash) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert((hash, next));
                true
            }
        }
    }
}
