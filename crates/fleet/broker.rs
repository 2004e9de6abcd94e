//! The broker: NATS with JetStream. Accounts and permissions, streams and buckets, connecting, and a nats-server
//! of one's own for development and tests.
//!
//! | part | does |
//! |---|---|
//! | [`permissions`] | says which account and role may do what; pure |
//! | [`jwt`] | makes the operator, the accounts and the users' credentials; pure |
//! | [`leaf`] | sites behind a server of their own: accounts, logins, the server's configuration; pure |
//! | [`client`] | speaks the protocol of NATS, within bounds |
//! | [`connection`] | connects and tells of what happens to the connection |
//! | [`streams`] | creates and updates the streams |
//! | [`stored`] | stores and reads messages, within an agent's or investigator's rights |
//! | [`watch`] | asks the servers who is connected and how much is sent |
//! | [`local`] | runs a nats-server in a directory |
//!
//! Everything works with nats-server 2.9.10 and newer; what that rules out is said where it matters. Against a taken
//! host only [`SAFE_SERVER`] and newer hold: an agent can end older ones.

pub mod client;
pub mod connection;
pub mod consumer;
pub mod jwt;
pub mod leaf;
pub mod local;
pub mod permissions;
pub mod stored;
pub mod streams;
pub mod watch;

/// The oldest nats-server that an agent cannot end: before, a publish with a reply of wildcards through an import
/// overflowed its stack (nats-server PR 3862).
pub const SAFE_SERVER: (u64, u64, u64) = (2, 10, 25);

/// What is sent to an agent to say that the broker has something new for it: a policy, or a question that is too large
/// to be sent to each.
pub const LOOK: &[u8] = b"look";

/// Whether a server's version is at least [`SAFE_SERVER`]; one that cannot be read is not.
#[must_use]
pub fn is_safe_server(version: &str) -> bool {
    let mut parts = version.trim_start_matches('v').split(['.', '-']).map(|part| part.parse::<u64>().ok());
    let mut next = || parts.next().flatten();
    match (next(), next(), next()) {
        (Some(major), Some(minor), Some(patch)) => (major, minor, patch) >= SAFE_SERVER,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_an_agent_can_end_is_known() {
        for (version, safe) in [
            ("2.9.10", false),
            ("v2.10.24", false),
            ("2.10.25", true),
            ("2.15.1", true),
            ("2.11.0-RC.1", true),
            ("", false),
            ("x", false),
        ] {
            assert_eq!(is_safe_server(version), safe, "{version}");
        }
    }
}
