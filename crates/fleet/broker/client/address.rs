//! Addresses of brokers. Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The port of NATS.
pub const PORT: u16 = 4222;

/// Where a broker is: `nats://HOST:PORT` or `tls://HOST:PORT`; an IPv6 address stands in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Its name or address, without brackets.
    pub host: String,
    /// Its port; 4222 when it was left out.
    pub port: u16,
    /// Encrypted.
    pub tls: bool,
}

/// A text that is no address of a broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not the address of a broker: write tls://HOST:4222, or on this machine nats://127.0.0.1:4222"
)]
pub struct BadAddress(pub String);

impl Address {
    /// Whether it can only be this machine: traffic there needs no encryption.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress(text.chars().take(200).collect());
        let (tls, place) = match text.split_once("://") {
            Some(("nats", place)) => (false, place),
            Some(("tls", place)) => (true, place),
            _ => return Err(bad()),
        };
        let place = place.strip_suffix('/').unwrap_or(place);
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(bad)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
                (host, port)
            }
            None => place.find(':').map_or((place, ""), |at| place.split_at(at)),
        };
        let port = match port.strip_prefix(':') {
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                port.parse().ok().filter(|port| *port > 0).ok_or_else(bad)?
            }
            None if port.is_empty() => PORT,
            _ => return Err(bad()),
        };
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(good) {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port, tls })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "tls" } else { "nats" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_has_a_host_and_no_password() {
        for (text, host, port, local) in [
            ("nats://127.0.0.1:4222", "127.0.0.1", 4222, true),
            ("tls://b.example.org:1", "b.example.org", 1, false),
            ("tls://b.example.org", "b.example.org", 4222, false),
            ("nats://[::1]:14222", "::1", 14222, true),
            ("nats://localhost:1/", "localhost", 1, true),
            ("tls://[2001:db8::1]", "2001:db8::1", 4222, false),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.host.as_str(), address.port, address.is_local()), (host, port, local));
            assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
        }
        for bad in [
            "http://b:1",
            "b:1",
            "nats://:1",
            "nats://a:b@c:1",
            "nats://a:70000",
            "nats://a:0",
            "nats://[::1",
            "nats://[x]:1",
            "nats://a b:1",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}", tail in "\\PC{0,40}") {
            let _ = text.parse::<Address>();
            let _ = format!("nats://{tail}").parse::<Address>();
        }
    }
}
