//! Socket specs: where a persistent module listens for queries, as `unix:/path` or `tcp:HOST:PORT`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

/// Longest path of a unix socket in bytes: `sun_path` holds 108 with its ending NUL (unix(7)).
pub(crate) const MAX_UNIX_PATH_BYTES: usize = 107;

/// Where a persistent module listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SocketSpec {
    /// A unix stream socket at an absolute path.
    Unix(PathBuf),
    /// A TCP socket at a literal address; names are not resolved, so that nobody can redirect a query.
    Tcp(SocketAddr),
}

/// Why a text is not a socket spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SocketSpecError {
    /// Neither `unix:` nor `tcp:`.
    #[error("socket spec {0:?} does not start with \"unix:\" or \"tcp:\"")]
    UnknownFamily(String),
    /// The path is relative, has `..`, a control character, or nothing in it.
    #[error("socket path {0:?} is not a plain absolute path")]
    BadPath(String),
    /// Longer than the kernel takes.
    #[error(
        "socket path {path:?} is {found} bytes long, but the kernel permits at most {MAX_UNIX_PATH_BYTES}"
    )]
    PathTooLong {
        /// The path.
        path: String,
        /// Its length in bytes.
        found: usize,
    },
    /// Not a literal address and a port from 1 to 65535.
    #[error("socket address {0:?} is not a literal IP address with a port from 1 to 65535")]
    BadAddress(String),
}

/// Shortens what a module sent before it is shown.
fn shown(text: &str) -> String {
    text.chars().take(160).collect()
}

impl FromStr for SocketSpec {
    type Err = SocketSpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            unix_path(path).map(Self::Unix)
        } else if let Some(address) = text.strip_prefix("tcp:") {
            tcp_address(address).map(Self::Tcp)
        } else {
            Err(SocketSpecError::UnknownFamily(shown(text)))
        }
    }
}

fn unix_path(text: &str) -> Result<PathBuf, SocketSpecError> {
    if text.len() > MAX_UNIX_PATH_BYTES {
        return Err(SocketSpecError::PathTooLong { path: shown(text), found: text.len() });
    }
    let path = Path::new(text);
    let plain = path.is_absolute()
        && path.file_name().is_some()
        && !text.ends_with('/')
        && !text.chars().any(char::is_control)
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if plain { Ok(path.to_owned()) } else { Err(SocketSpecError::BadPath(shown(text))) }
}

fn tcp_address(text: &str) -> Result<SocketAddr, SocketSpecError> {
    let bad = || SocketSpecError::BadAddress(shown(text));
    let address: SocketAddr = match text.rsplit_once(':') {
        // MIG's default and by far the most common name; it always means the loopback interface.
        Some(("localhost", port)) => {
            SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port.parse().map_err(|_| bad())?)
        }
        _ => text.parse().map_err(|_| bad())?,
    };
    if address.port() == 0 { Err(bad()) } else { Ok(address) }
}

impl fmt::Display for SocketSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_specs_are_read_and_written_back() {
        for text in
            ["unix:/run/vigie/persist-fswatch.sock", "unix:/a:b", "tcp:127.0.0.1:55000", "tcp:[::1]:55000"]
        {
            let spec: SocketSpec = text.parse().unwrap();

            assert_eq!(spec.to_string(), text);
        }
        assert_eq!("tcp:localhost:9".parse::<SocketSpec>().unwrap().to_string(), "tcp:127.0.0.1:9");
    }

    #[test]
    fn what_could_lead_elsewhere_is_refused() {
        for text in [
            "",
            "unix",
            "unix:",
            "unix:/",
            "unix:/run/",
            "unix:relative",
            "unix:@abstract",
            "unix:/run/../etc/x",
            "unix:/run/a\0b",
            "unix:/run/a\nb",
            "tcp:127.0.0.1",
            "tcp:127.0.0.1:0",
            "tcp:127.0.0.1:65536",
            "tcp:example.org:80",
            "udp:127.0.0.1:1",
            "a:b:c:d",
        ] {
            assert!(text.parse::<SocketSpec>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_path_longer_than_the_kernel_takes_is_refused_with_its_length() {
        let text = format!("unix:/{}", "x".repeat(MAX_UNIX_PATH_BYTES));

        let error = text.parse::<SocketSpec>().unwrap_err();

        assert!(error.to_string().contains("108 bytes"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_gives_a_spec_or_a_short_error(text in ".{0,400}") {
            match text.parse::<SocketSpec>() {
                Ok(spec) => prop_assert_eq!(spec.to_string().parse::<SocketSpec>().unwrap(), spec),
                Err(error) => prop_assert!(error.to_string().len() < 1200),
            }
        }
    }
}
