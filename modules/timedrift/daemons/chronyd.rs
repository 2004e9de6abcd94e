//! The tracking report of chronyd, in version 6 of its protocol for commands (chrony's candm.h), which all versions
//! since 2.0 speak.

use std::net::{IpAddr, SocketAddr};

use crate::client::Patience;
use crate::daemons::{Selected, exchange};

/// Request and answer have this length: chronyd answers no request that is shorter than its answer.
const MESSAGE_BYTES: usize = 104;

const VERSION: u8 = 6;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const TRACKING: u16 = 33;
const TRACKING_REPLY: u16 = 5;

/// Leap status of a daemon that does not know the time.
const NOT_SYNCHRONISED: u16 = 3;

pub(super) fn ask(address: SocketAddr, patience: Patience<'_>) -> Option<Selected> {
    exchange(address, &request(), patience, read)
}

fn request() -> [u8; MESSAGE_BYTES] {
    let mut request = [0; MESSAGE_BYTES];
    request[..2].copy_from_slice(&[VERSION, REQUEST]);
    request[4..6].copy_from_slice(&TRACKING.to_be_bytes());
    request
}

fn read(reply: &[u8]) -> Option<Selected> {
    let number = |at: usize| Some(u16::from_be_bytes(*reply.get(at..)?.first_chunk()?));
    let is_reply = reply.get(..2)? == [VERSION, REPLY] && number(4)? == TRACKING;
    let succeeded = number(6)? == TRACKING_REPLY && number(8)? == 0;
    if !is_reply || !succeeded {
        return None;
    }
    // The data begin at 28: reference id, address (16 bytes and its family), stratum, leap status.
    let address = reply.get(32..)?.first_chunk::<16>()?;
    let server = match number(48)? {
        1 => Some(IpAddr::from(*address.first_chunk::<4>()?)),
        2 => Some(IpAddr::from(*address)),
        // A clock of this host, or nothing.
        _ => None,
    };
    let synchronised = number(54)? != NOT_SYNCHRONISED;
    Some(Selected { daemon: "chronyd", synchronised, server })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_tracking_report_tells_the_server_and_whether_the_clock_is_synchronised() {
        let mut reply = vec![0; MESSAGE_BYTES];
        reply[..2].copy_from_slice(&[VERSION, REPLY]);
        reply[4..8].copy_from_slice(&[0, 33, 0, 5]);
        reply[32..36].copy_from_slice(&[192, 0, 2, 1]);
        reply[49] = 1;
        let told = Selected { daemon: "chronyd", synchronised: true, server: Some([192, 0, 2, 1].into()) };
        assert_eq!(read(&reply), Some(told.clone()));

        reply[55] = 3;
        reply[49] = 0;
        assert_eq!(read(&reply), Some(Selected { synchronised: false, server: None, ..told }));

        reply[9] = 6;
        assert_eq!(read(&reply), None);
    }

    proptest! {
        #[test]
        fn no_reply_panics(mut reply in prop::collection::vec(any::<u8>(), 0..128)) {
            if let Some(start) = reply.get_mut(..10) {
                start.copy_from_slice(&[VERSION, REPLY, 0, 0, 0, 33, 0, 5, 0, 0]);
            }
            prop_assert_eq!(read(&reply).is_some(), reply.len() >= 56);
        }
    }
}
