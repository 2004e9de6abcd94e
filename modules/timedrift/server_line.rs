//! One line that names time servers, as ntpd, NTPsec and chrony share it.
//!
//! ```text
//! server [-4|-6] HOST [OPTION]...      HOST: name, address, [address], HOST:PORT
//! pool HOST [port N] [ipv4|ipv6] …     peer HOST …
//! ```
//!
//! Options: ntp.conf(5), chrony.conf(5).

/// Longest name of a host in bytes, RFC 1035 section 2.3.4.
const MAX_HOST_BYTES: usize = 253;

/// Where time can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Server {
    /// A name or an address, without brackets.
    pub host: String,
    /// Its UDP port, when it is not the usual one.
    pub port: Option<u16>,
    /// Which of its addresses count.
    pub family: Family,
    /// Each address of the name is somebody else's server.
    pub is_pool: bool,
    /// How its daemon may use it.
    pub options: Options,
}

/// Most addresses of a pool that are asked when its line names no number: chronyd's and ntpd-rs's own.
const POOL_VOTES: usize = 4;

/// What a line says about the use of its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Options {
    /// It is watched, and never believed.
    pub noselect: bool,
    /// It must not be asked until somebody says so.
    pub offline: bool,
    /// It is taken before others that are as good.
    pub prefer: bool,
    /// Without it there is no time.
    pub require: bool,
    /// It is believed before those that are not trusted.
    pub trust: bool,
    /// Addresses of a pool that are asked.
    pub votes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            noselect: false,
            offline: false,
            prefer: false,
            require: false,
            trust: false,
            votes: POOL_VOTES,
        }
    }
}

/// Which addresses of a name count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Family {
    /// All.
    #[default]
    Any,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Server {
    /// Reads `HOST`, `HOST:PORT` or `[ADDRESS]:PORT`; `None` when it is none of them.
    #[must_use]
    pub(crate) fn from_host(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']')?;
                (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
            }
            // With more than one colon it is an IPv6 address.
            None => match text.split_once(':') {
                Some((host, port)) if !port.contains(':') => (host, Some(port)),
                _ => (text, None),
            },
        };
        let port = match port {
            Some(port) => Some(port.parse().ok().filter(|port| *port != 0)?),
            None => None,
        };
        let is_host = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        let fits = (1..=MAX_HOST_BYTES).contains(&host.len()) && host.chars().all(is_host);
        (fits && !host.starts_with('-')).then(|| Self {
            host: host.to_owned(),
            port,
            family: Family::Any,
            is_pool: false,
            options: Options::default(),
        })
    }

    /// Reads a line's words; `None` when it is not about time servers.
    ///
    /// # Errors
    /// What is wrong with a line that is.
    #[must_use]
    pub fn from_words(line: &str) -> Option<Result<Self, BadServer>> {
        let mut words = line.split_whitespace();
        let keyword = words.next()?.to_ascii_lowercase();
        if !matches!(keyword.as_str(), "server" | "pool" | "peer") {
            return None;
        }
        Some(Self::from_arguments(words, keyword == "pool").ok_or_else(|| BadServer::new(line)))
    }

    fn from_arguments<'a>(words: impl Iterator<Item = &'a str>, is_pool: bool) -> Option<Self> {
        let mut words = words.peekable();
        let before = words.next_if(|word| matches!(*word, "-4" | "-6"));
        let mut server = Self { is_pool, ..Self::from_host(words.next()?)? };
        let mut family = before;
        while let Some(option) = words.next() {
            match option.to_ascii_lowercase().as_str() {
                "port" => server.port = Some(words.next()?.parse().ok().filter(|port| *port != 0)?),
                "ipv4" => family = Some("-4"),
                "ipv6" => family = Some("-6"),
                "noselect" => server.options.noselect = true,
                "offline" => server.options.offline = true,
                "prefer" => server.options.prefer = true,
                "require" => server.options.require = true,
                "trust" => server.options.trust = true,
                "maxsources" => {
                    server.options.votes = words.next()?.parse().ok().filter(|votes| *votes != 0)?;
                }
                _ => {}
            }
        }
        server.family = match family {
            Some("-4") => Family::V4,
            Some(_) => Family::V6,
            None => Family::Any,
        };
        Some(server)
    }
}

/// A line that should name a time server and does not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} does not name a time server; expected server, pool or peer with a host and a port from 1 to 65535"
)]
pub struct BadServer(String);

impl BadServer {
    pub(crate) fn new(line: &str) -> Self {
        Self(shortened(line))
    }
}

/// The beginning of a line, enough to find it.
fn shortened(line: &str) -> String {
    line.trim().chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host_and_port(text: &str) -> Option<(String, Option<u16>)> {
        Server::from_host(text).map(|server| (server.host, server.port))
    }

    #[test]
    fn hosts_are_read_with_brackets_and_ports() {
        for (text, host, port) in [
            ("ntp.example.org", "ntp.example.org", None),
            ("ntp.example.org:1123", "ntp.example.org", Some(1123)),
            ("192.0.2.1", "192.0.2.1", None),
            ("192.0.2.1:1123", "192.0.2.1", Some(1123)),
            ("2001:db8::1", "2001:db8::1", None),
            ("::1", "::1", None),
            ("[::1]", "::1", None),
            ("[2001:db8::1]:1123", "2001:db8::1", Some(1123)),
            ("fe80::1%eth0", "fe80::1%eth0", None),
        ] {
            assert_eq!(host_and_port(text), Some((host.to_owned(), port)), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in ["", "-4", "[::1", "[::1]x", "a:0", "a:b", "a:65536", ":123", "a b", "\u{1b}[31m", "a/b"]
        {
            assert_eq!(Server::from_host(text), None, "{text}");
        }
        assert_eq!(Server::from_host(&"a".repeat(254)), None);
    }

    #[test]
    fn options_stand_before_and_after_the_host() {
        let read = |line| Server::from_words(line).unwrap().unwrap();

        let plain = read("server ntp.example.org iburst");
        assert_eq!((plain.family, plain.port, plain.is_pool), (Family::Any, None, false));
        assert_eq!(read("server -4 ntp.example.org").family, Family::V4);
        assert_eq!(read("peer -6 ntp.example.org minpoll 4").family, Family::V6);
        assert_eq!(read("Server ntp.example.org ipv6").family, Family::V6);
        let pool = read("  pool  ntp.example.org\tiburst port 1123 maxsources 4");
        assert_eq!((pool.port, pool.is_pool), (Some(1123), true));
        assert_eq!(read("server ntp.example.org nts ntsport 4460").port, None);
    }

    #[test]
    fn lines_about_other_things_are_none_and_broken_ones_are_named() {
        for line in ["", "driftfile /var/lib/ntp/drift", "servers a", "restrict -4 default"] {
            assert_eq!(Server::from_words(line), None, "{line}");
        }
        for line in ["server", "server -4", "pool ntp.example.org port", "server ntp.example.org port 70000"]
        {
            let error = Server::from_words(line).unwrap().unwrap_err().to_string();
            assert!(error.contains(&format!("{line:?}")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics(line in "(server|pool|peer) .{0,60}|.{0,60}") {
            if let Some(Ok(server)) = Server::from_words(&line) {
                prop_assert!(!server.host.is_empty() && server.port != Some(0));
            }
        }
    }
}
