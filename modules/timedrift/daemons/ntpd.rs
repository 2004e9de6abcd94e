//! What ntpd and NTPsec follow, from their control messages (RFC 9327).

use std::net::{IpAddr, SocketAddr};

use crate::client::Patience;
use crate::daemons::{Selected, exchange};

const HEADER_BYTES: usize = 12;

/// Version 2, mode 6.
const CONTROL: u8 = (2 << 3) | 6;
const READ_VARIABLES: u8 = 2;

/// Bits of the second byte of an answer: it is one, and it reports an error.
const RESPONSE: u8 = 0x80;
const ERROR: u8 = 0x40;

/// What the addresses of ntpd's hardware clocks begin with.
const REFERENCE_CLOCK: [u8; 2] = [127, 127];

pub(super) fn ask(address: SocketAddr, patience: Patience<'_>) -> Option<Selected> {
    let system = variables(address, 0, "peer,leap", patience)?;
    let synchronised = value(&system, "leap").is_some_and(|leap| !matches!(leap, "3" | "11"));
    // The association of the server that is followed, 0 for none.
    let peer = value(&system, "peer").and_then(|peer| peer.parse::<u16>().ok()).filter(|peer| *peer != 0);
    let server = peer.and_then(|peer| {
        let variables = variables(address, peer, "srcadr", patience)?;
        value(&variables, "srcadr")?.parse().ok()
    });
    let is_network = |address: &IpAddr| !matches!(address, IpAddr::V4(four) if four.octets().starts_with(&REFERENCE_CLOCK));
    Some(Selected { daemon: "ntpd", synchronised, server: server.filter(is_network) })
}

/// Reads variables of an association, 0 for the system's.
fn variables(address: SocketAddr, association: u16, names: &str, patience: Patience<'_>) -> Option<String> {
    exchange(address, &request(association, names), patience, |answer| read(answer, association))
}

fn request(association: u16, names: &str) -> Vec<u8> {
    let mut request = vec![CONTROL, READ_VARIABLES, 0, 1, 0, 0];
    request.extend(association.to_be_bytes());
    request.extend([0, 0]);
    request.extend(u16::try_from(names.len()).unwrap_or_default().to_be_bytes());
    request.extend(names.as_bytes());
    request.resize(request.len().next_multiple_of(4), 0);
    request
}

/// The text of an answer; what was asked for fits into one packet.
fn read(answer: &[u8], association: u16) -> Option<String> {
    let header: &[u8; HEADER_BYTES] = answer.first_chunk()?;
    let belongs = header[0] & 7 == CONTROL & 7
        && header[1] & (RESPONSE | ERROR | 0x1f) == RESPONSE | READ_VARIABLES
        && header[6..8] == association.to_be_bytes();
    let count = usize::from(u16::from_be_bytes([header[10], header[11]]));
    let text = answer.get(HEADER_BYTES..)?.get(..count)?;
    belongs.then(|| String::from_utf8_lossy(text).into_owned())
}

fn value<'a>(variables: &'a str, name: &str) -> Option<&'a str> {
    variables.split(',').find_map(|one| {
        let (key, value) = one.split_once('=')?;
        (key.trim() == name).then(|| value.trim().trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn variables_are_read_from_an_answer_and_from_nothing_else() {
        let mut answer = vec![0x16, 0x82, 0, 1, 6, 0x15, 0, 7, 0, 0, 0, 31];
        answer.extend(b"peer=1234, leap=00,\r\nsrcadr=::1\0\0");
        let text = read(&answer, 7).unwrap();
        assert_eq!(
            (value(&text, "peer"), value(&text, "leap"), value(&text, "srcadr")),
            (Some("1234"), Some("00"), Some("::1"))
        );
        assert_eq!(value(&text, "refid"), None);

        assert_eq!(read(&answer, 8), None, "of another association");
        let mut error = answer.clone();
        error[1] |= ERROR;
        assert_eq!(read(&error, 7), None);
        assert_eq!(read(&request(7, "peer"), 7), None, "a request is no answer");
        answer[10] = 1;
        assert_eq!(read(&answer, 7), None, "longer than what came");
    }

    proptest! {
        #[test]
        fn no_answer_panics(answer in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(text) = read(&answer, 0) {
                value(&text, "peer");
            }
        }
    }
}
