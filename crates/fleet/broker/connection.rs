//! Connecting to the broker: settings, backoff, and what happens to the connection as events.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use super::client::address::{Address, BadAddress};
use super::client::{Client, LinkError, LinkSettings, State, open};
use crate::agent_key::AgentKey;
use vigie_files::secret_file::{self, SecretFileError};

/// Bound of the wait before the first reconnect; it doubles with each one that fails.
const BACKOFF_BASE: Duration = Duration::from_secs(1);

/// Largest bound of the wait before a reconnect.
const BACKOFF_CAP: Duration = Duration::from_secs(30);

/// How long all addresses together are tried, and one of them at least.
const TRY_ALL_WITHIN: Duration = Duration::from_secs(9);
const TRY_WITHIN: Duration = Duration::from_secs(2);

/// Messages that wait in a subscription unless the settings say otherwise.
const SUBSCRIPTION_CAPACITY: usize = 1024;

/// Largest credentials file, in bytes; a real one has below 2 KiB.
const MAX_CREDENTIALS_BYTES: u64 = 64 * 1024;

/// Most bytes of a broker's words in an event.
const MAX_EVENT_TEXT: usize = 512;

/// Most addresses of brokers.
const MAX_URLS: usize = 64;

/// How a user logs in.
#[derive(Debug, Clone)]
pub enum Login {
    /// With a `.creds` file (token and seed), mode 0600.
    CredentialsFile(PathBuf),
    /// With the token that enrolment gave and the agent's own key.
    Token {
        /// The user's token.
        jwt: String,
        /// The key that it names.
        key: Box<AgentKey>,
    },
}

/// Certificates; all files in PEM.
#[derive(Debug, Clone, Default)]
pub struct TlsSettings {
    /// Refuse a connection that is not encrypted.
    pub required: bool,
    /// Who signed the broker's certificate. Without it, whom the system trusts.
    pub ca: Option<PathBuf>,
    /// Our own certificate, for brokers that want one; with `key`.
    pub certificate: Option<PathBuf>,
    /// The secret key of our certificate, mode 0600; with `certificate`.
    pub key: Option<PathBuf>,
}

/// How to connect.
#[derive(Debug, Clone)]
pub struct ConnectionSettings {
    /// Addresses of the brokers, `nats://HOST:PORT` or `tls://HOST:PORT`; 1 to 64.
    pub urls: Vec<String>,
    /// How to log in.
    pub login: Login,
    /// Certificates.
    pub tls: TlsSettings,
    /// What the broker shows as the name of the connection.
    pub name: String,
    /// Prefix of private inboxes: [`super::jwt::Role::inbox_prefix`].
    pub inbox_prefix: String,
    /// Most messages that wait in a subscription, 1,024 without it; beyond it, or beyond 8 MiB, they are lost and
    /// [`BrokerEvent::SlowConsumer`] tells.
    pub subscription_capacity: Option<usize>,
    /// Return before there is a connection, and go on trying until the receiver of events is dropped. For agents; the
    /// command line rather fails at once.
    pub connect_in_background: bool,
}

/// Something that happened to the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerEvent {
    /// It stands, for the first time or again; subscriptions are restored.
    Connected,
    /// It broke; reconnecting has begun.
    Disconnected,
    /// A subscription got more than it holds; messages were lost. With its number.
    SlowConsumer(u64),
    /// The broker refused a publish or subscribe, in its words. The call itself had returned without an error.
    PermissionViolation(String),
    /// The broker refused the login; trying goes on.
    LoginRefused,
    /// The broker takes no more connections, in its words.
    BrokerFull(String),
    /// No encrypted connection came about, and why.
    TlsFailed(String),
    /// The broker is about to stop.
    BrokerStops,
    /// The connection has ended for good.
    Closed,
    /// Another error, in the words of the broker or the client.
    Problem(String),
}

/// A connection to the broker. Clones share it.
#[derive(Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("state", &self.client.state()).finish_non_exhaustive()
    }
}

impl Connection {
    /// How many events did not fit into the channel.
    #[must_use]
    pub fn events_lost(&self) -> u64 {
        self.client.events_lost()
    }

    /// Whether it stands now.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.client.state(), State::Connected(_))
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// No address, or too many.
    #[error("{0} broker addresses given; 1 to {MAX_URLS} are allowed")]
    UrlCount(usize),
    /// An address cannot be read.
    #[error(transparent)]
    BadUrl(#[from] BadAddress),
    /// Not on this machine, and not encrypted.
    #[error(
        "{0} is not on this machine, and without TLS the connection could be read and altered: use tls://"
    )]
    Plain(Address),
    /// A certificate without its key, or the reverse.
    #[error("a TLS certificate and its key must be given together")]
    HalfCertificate,
    /// A file with a secret cannot be used.
    #[error("cannot use {what}")]
    Secret {
        /// What the file is for.
        what: &'static str,
        /// Why.
        #[source]
        source: SecretFileError,
    },
    /// Certificates cannot be used.
    #[error("the certificates cannot be used")]
    Certificates(#[source] super::client::tls::TlsFileError),
    /// The file holds no token and seed.
    #[error(
        "{path:?} contains no NATS credentials: it needs a user's JWT and seed, as enrolment writes them"
    )]
    BadCredentials {
        /// The file.
        path: PathBuf,
    },
    /// It takes no more connections.
    #[error("the broker at {urls} accepts no more connections: {words}")]
    Full {
        /// Where.
        urls: String,
        /// What it says.
        words: String,
    },
    /// Nothing answers.
    #[error(
        "cannot reach the broker at {urls}: check that it is running and that the network permits the connection"
    )]
    Unreachable {
        /// Where.
        urls: String,
        /// Why.
        #[source]
        source: LinkError,
    },
    /// The broker does not know the user.
    #[error(
        "the broker at {urls} rejects the credentials: enrol again with the keys of the broker's configuration"
    )]
    Refused {
        /// Where.
        urls: String,
        /// Why.
        #[source]
        source: LinkError,
    },
    /// No encrypted connection came about.
    #[error(
        "TLS connection to the broker at {urls} failed: check that its certificate is signed by the given CA, names this host and has not expired, and that it accepts the client certificate"
    )]
    Tls {
        /// Where.
        urls: String,
        /// Why.
        #[source]
        source: LinkError,
    },
}

/// The wait before attempt `attempt` (from 1) to reconnect: "full jitter", drawn evenly between zero and a bound
/// that doubles up to 30 s, so that a fleet does not come back all at once. `jitter` is drawn from 0 to 1.
#[must_use]
pub fn backoff(attempt: usize, jitter: f64) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let bound = BACKOFF_BASE.saturating_mul(1 << doublings).min(BACKOFF_CAP);
    bound.mul_f64(if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 1.0 })
}

fn text(words: &str) -> String {
    words[..words.floor_char_boundary(MAX_EVENT_TEXT)].to_owned()
}

/// What an error of the server means.
pub(super) fn translated(words: &str) -> BrokerEvent {
    let lower = words.to_ascii_lowercase();
    if lower.contains("permissions violation") {
        BrokerEvent::PermissionViolation(text(words))
    } else if lower.contains("connections exceeded") {
        BrokerEvent::BrokerFull(text(words))
    } else if lower.contains("authorization") || lower.contains("authentication") {
        BrokerEvent::LoginRefused
    } else {
        BrokerEvent::Problem(text(words))
    }
}

/// Connects. Events go to `events`, which is never waited for: what does not fit is counted in
/// [`Connection::events_lost`].
///
/// # Errors
///
/// When a setting or file is wrong, and, unless it connects in the background, when there is no connection.
pub async fn connect(
    settings: ConnectionSettings,
    events: mpsc::Sender<BrokerEvent>,
) -> Result<Connection, ConnectionError> {
    if !(1..=MAX_URLS).contains(&settings.urls.len()) {
        return Err(ConnectionError::UrlCount(settings.urls.len()));
    }
    let addresses = settings.urls.iter().map(|url| url.parse()).collect::<Result<Vec<Address>, _>>()?;
    if let Some(plain) =
        addresses.iter().find(|address| !(address.tls || settings.tls.required || address.is_local()))
    {
        return Err(ConnectionError::Plain(plain.clone()));
    }
    if settings.tls.certificate.is_some() != settings.tls.key.is_some() {
        return Err(ConnectionError::HalfCertificate);
    }
    if settings.tls.required || addresses.iter().any(|address| address.tls) {
        // What is wrong with the files is said before anybody is connected to; they are read again each time.
        let tls = settings.tls.clone();
        tokio::task::spawn_blocking(move || super::client::tls::connector(&tls).map(drop))
            .await
            .map_err(|error| {
                unreachable_because(&settings.urls, LinkError::Io(std::io::Error::other(error)))
            })?
            .map_err(ConnectionError::Certificates)?;
    }
    let (jwt, key) = match settings.login {
        Login::CredentialsFile(path) => credentials(path).await?,
        Login::Token { jwt, key } => (jwt, *key),
    };
    let link = LinkSettings {
        addresses,
        tls: Arc::new(settings.tls),
        name: settings.name,
        jwt: Arc::new(Mutex::new(jwt)),
        key: Arc::new(key),
    };
    let opened =
        if settings.connect_in_background { None } else { Some(first(&link, &settings.urls).await?) };
    let capacity = settings.subscription_capacity.unwrap_or(SUBSCRIPTION_CAPACITY);
    Ok(Connection { client: Client::start(link, opened, &settings.inbox_prefix, capacity, events) })
}

/// The first address that takes us, or why the last one does not.
async fn first(link: &LinkSettings, urls: &[String]) -> Result<super::client::Opened, ConnectionError> {
    let mut last = None;
    let count = u32::try_from(link.addresses.len().max(1)).unwrap_or(u32::MAX);
    let share = (TRY_ALL_WITHIN / count).max(TRY_WITHIN);
    for address in &link.addresses {
        match timeout(share, open(link, address)).await {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(error)) => last = Some(error),
            // One that accepts and says nothing keeps nobody from the next.
            Err(_) => last = Some(LinkError::Silent),
        }
    }
    let error = last.unwrap_or_else(|| LinkError::Io(std::io::ErrorKind::AddrNotAvailable.into()));
    Err(unreachable_because(urls, error))
}

fn unreachable_because(urls: &[String], source: LinkError) -> ConnectionError {
    let urls = urls.join(", ");
    match source {
        LinkError::Refused(_) => ConnectionError::Refused { urls, source },
        LinkError::Full(words) => ConnectionError::Full { urls, words },
        LinkError::Plain(address) => ConnectionError::Plain(address),
        LinkError::Tls(_) => ConnectionError::Tls { urls, source },
        LinkError::TlsFiles(error) => ConnectionError::Certificates(error),
        _ => ConnectionError::Unreachable { urls, source },
    }
}

/// Token and key of a `.creds` file.
async fn credentials(path: PathBuf) -> Result<(String, AgentKey), ConnectionError> {
    let file = path.clone();
    let reading = tokio::task::spawn_blocking(move || secret_file::read(&file, MAX_CREDENTIALS_BYTES));
    let text = match reading.await {
        Ok(read) => {
            read.map_err(|source| ConnectionError::Secret { what: "the broker credentials", source })?
        }
        Err(_) => return Err(ConnectionError::BadCredentials { path }),
    };
    parse_credentials(&text).ok_or(ConnectionError::BadCredentials { path })
}

/// The first lines after the two that begin with dashes and name what follows.
fn parse_credentials(text: &str) -> Option<(String, AgentKey)> {
    let after = |what: &str| {
        let mut lines = text
            .lines()
            .map(str::trim)
            .skip_while(|line| !(line.starts_with("-----BEGIN") && line.contains(what)));
        lines.nth(1).filter(|line| !line.is_empty() && !line.starts_with('-'))
    };
    Some((after("JWT")?.to_owned(), AgentKey::from_seed(after("SEED")?).ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_wait_lies_between_zero_and_a_bound_that_ends_at_30_seconds(attempt in any::<usize>(), jitter in 0.0..=1.0) {
            let wait = backoff(attempt, jitter);
            prop_assert!(wait <= BACKOFF_CAP);
            prop_assert!(wait <= backoff(attempt, 1.0));
            prop_assert!(backoff(attempt, 1.0) <= backoff(attempt.saturating_add(1), 1.0));
        }

        #[test]
        fn no_number_of_attempts_or_jitter_panics(attempt in any::<usize>(), jitter in any::<f64>()) {
            prop_assert!(backoff(attempt, jitter) <= BACKOFF_CAP);
        }
    }

    #[test]
    fn the_bound_doubles_from_one_second() {
        let bounds: Vec<u64> = (1..=7).map(|attempt| backoff(attempt, 1.0).as_secs()).collect();
        assert_eq!(bounds, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn a_permission_violation_is_told_from_other_errors() {
        let words = "Permissions Violation for Publish to \"vigie.act.all\"".to_owned();
        assert_eq!(translated(&words), BrokerEvent::PermissionViolation(words.clone()));
        assert_eq!(translated(&"é".repeat(1000)), BrokerEvent::Problem("é".repeat(256)));
        assert_eq!(translated(""), BrokerEvent::Problem(String::new()));
        assert_eq!(translated("User Authentication Revoked"), BrokerEvent::LoginRefused);
        assert!(matches!(translated("maximum connections exceeded"), BrokerEvent::BrokerFull(_)));
    }

    #[test]
    fn credentials_are_a_token_and_a_seed() {
        let key = AgentKey::generate();
        let text = super::super::jwt::credentials_text("a.b.c", &key.seed());
        let (jwt, parsed) = parse_credentials(&text).unwrap();
        assert_eq!((jwt.as_str(), parsed.public_key()), ("a.b.c", key.public_key()));
        assert!(parse_credentials("-----BEGIN NATS USER JWT-----\n").is_none());
        assert!(parse_credentials("").is_none());
    }
}
