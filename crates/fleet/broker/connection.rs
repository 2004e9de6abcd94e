//! Connecting to the broker: settings, backoff, and what happens to the connection as events.

use std::error::Error;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::{self, ContextBuilder};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr, ServerError};
use tokio::sync::mpsc;

use crate::agent_key::AgentKey;
use vigie_files::secret_file::{self, SecretFileError};

/// Bound of the wait before the first reconnect; it doubles with each one that fails.
const BACKOFF_BASE: Duration = Duration::from_secs(1);

/// Largest bound of the wait before a reconnect.
const BACKOFF_CAP: Duration = Duration::from_secs(30);

/// How long JetStream may take to acknowledge before a message is sent again with the same id.
pub const ACK_TIMEOUT: Duration = Duration::from_secs(1);

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
    /// Most messages that wait in a subscription; beyond it they are lost and [`BrokerEvent::SlowConsumer`] tells.
    /// The default of NATS, 65,536, is too little for all answers of a large fleet.
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
    /// Core NATS.
    pub client: Client,
    /// JetStream on the same connection; publishing waits [`ACK_TIMEOUT`] for its acknowledgement.
    pub jetstream: jetstream::Context,
    events_lost: Arc<AtomicU64>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("state", &self.client.connection_state()).finish_non_exhaustive()
    }
}

impl Connection {
    /// How many events did not fit into the channel.
    #[must_use]
    pub fn events_lost(&self) -> u64 {
        self.events_lost.load(Ordering::Relaxed)
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// No address, or too many.
    #[error("{0} addresses of brokers are given: give 1 to {MAX_URLS}")]
    UrlCount(usize),
    /// An address cannot be read.
    #[error("{url:?} is not the address of a broker: write nats://HOST:4222 or tls://HOST:4222")]
    BadUrl {
        /// The address.
        url: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A certificate without its key, or the reverse.
    #[error("a TLS certificate and its key belong together: give both or none")]
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
    /// A file with a certificate cannot be read.
    #[error("cannot read the certificate {path:?}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file holds no token and seed.
    #[error("{path:?} holds no NATS credentials: it needs a user's token and seed, as enrolment writes them")]
    BadCredentials {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Nothing answers.
    #[error(
        "cannot reach the broker at {urls}: is it running, and does the network let connections through?"
    )]
    Unreachable {
        /// Where.
        urls: String,
        /// Why.
        #[source]
        source: async_nats::ConnectError,
    },
    /// The broker does not know the user.
    #[error(
        "the broker at {urls} refuses the login: enrol again, with the keys of the broker's own configuration"
    )]
    Refused {
        /// Where.
        urls: String,
        /// Why.
        #[source]
        source: async_nats::ConnectError,
    },
    /// No encrypted connection came about.
    #[error(
        "no TLS connection to the broker at {urls}: check that its certificate is signed by the given CA and names this host, that it is in date, and that ours is what it asks for"
    )]
    Tls {
        /// Where.
        urls: String,
        /// Why.
        #[source]
        source: async_nats::ConnectError,
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

/// A number drawn evenly from 0 to 1, to spread over time what a whole fleet would do at once. The standard library's hasher keys are random, which is enough to spread
/// reconnects.
#[must_use]
pub fn draw() -> f64 {
    let bits = RandomState::new().build_hasher().finish() >> 11;
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    let fraction = bits as f64 / (1u64 << 53) as f64;
    fraction
}

fn text(error: &dyn fmt::Display) -> String {
    let text = error.to_string();
    let mut end = text.len().min(MAX_EVENT_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

fn translated(event: Event) -> BrokerEvent {
    match event {
        Event::Connected => BrokerEvent::Connected,
        Event::Disconnected => BrokerEvent::Disconnected,
        Event::LameDuckMode => BrokerEvent::BrokerStops,
        Event::SlowConsumer(subscription) | Event::ServerError(ServerError::SlowConsumer(subscription)) => {
            BrokerEvent::SlowConsumer(subscription)
        }
        Event::ServerError(ServerError::AuthorizationViolation) => BrokerEvent::LoginRefused,
        Event::ServerError(ServerError::Other(words)) => {
            if words.to_ascii_lowercase().contains("permissions violation") {
                BrokerEvent::PermissionViolation(text(&words))
            } else {
                BrokerEvent::Problem(text(&words))
            }
        }
        Event::ClientError(error) => {
            let words = error.to_string();
            // The client gives the kind of a failed attempt as text only.
            if words.contains("authorization violation") {
                BrokerEvent::LoginRefused
            } else {
                BrokerEvent::Problem(text(&words))
            }
        }
        Event::Closed | Event::Draining => BrokerEvent::Closed,
    }
}

/// Connects. Events go to `events`, which is never waited for: what does not fit is counted in
/// [`Connection::events_lost`]. Files are read before this connects, in a thread for blocking work.
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
    let addresses = settings
        .urls
        .iter()
        .map(|url| {
            url.parse::<ServerAddr>().map_err(|source| ConnectionError::BadUrl { url: url.clone(), source })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let urls = settings.urls.join(", ");
    let events_lost = Arc::new(AtomicU64::new(0));
    let options = options(settings, events, events_lost.clone()).await?;
    let client = options.connect(addresses).await.map_err(|source| match source.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            ConnectionError::Refused { urls, source }
        }
        ConnectErrorKind::Tls => ConnectionError::Tls { urls, source },
        // The other side's alert comes when the handshake is over for us, as an error of reading.
        _ if is_bad_data(&source) => ConnectionError::Tls { urls, source },
        _ => ConnectionError::Unreachable { urls, source },
    })?;
    let jetstream = ContextBuilder::new().ack_timeout(ACK_TIMEOUT).build(client.clone());
    Ok(Connection { client, jetstream, events_lost })
}

/// Whether a chain of errors holds bytes that could not be understood, as rustls reports its errors.
fn is_bad_data(error: &async_nats::ConnectError) -> bool {
    let mut next = error.source();
    while let Some(error) = next {
        if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::InvalidData)
        {
            return true;
        }
        next = error.source();
    }
    false
}

async fn options(
    settings: ConnectionSettings,
    events: mpsc::Sender<BrokerEvent>,
    events_lost: Arc<AtomicU64>,
) -> Result<ConnectOptions, ConnectionError> {
    let TlsSettings { required, ca, certificate, key } = settings.tls;
    // The first attempt is made at once; the client asks for a wait before it too.
    let attempted = AtomicBool::new(false);
    // The client itself goes on connecting when nobody holds it any more.
    let in_background = settings.connect_in_background;
    let listened_to = events.clone();
    let mut options = ConnectOptions::new()
        .name(settings.name)
        .custom_inbox_prefix(settings.inbox_prefix)
        .require_tls(required)
        .max_reconnects(None)
        .reconnect_delay_callback(move |attempt| {
            if in_background && listened_to.is_closed() {
                return Duration::MAX;
            }
            if attempted.swap(true, Ordering::Relaxed) { backoff(attempt, draw()) } else { Duration::ZERO }
        })
        .event_callback(move |event| {
            if events.try_send(translated(event)).is_err() {
                events_lost.fetch_add(1, Ordering::Relaxed);
            }
            std::future::ready(())
        });
    if let Some(capacity) = settings.subscription_capacity {
        options = options.subscription_capacity(capacity);
    }
    if settings.connect_in_background {
        options = options.retry_on_initial_connect();
    }
    if let Some(ca) = ca {
        readable(&ca).await?;
        options = options.add_root_certificates(ca);
    }
    options = match (certificate, key) {
        (Some(certificate), Some(key)) => {
            readable(&certificate).await?;
            secret(key.clone(), "the key of the TLS certificate").await?;
            options.add_client_certificate(certificate, key)
        }
        (None, None) => options,
        _ => return Err(ConnectionError::HalfCertificate),
    };
    Ok(match settings.login {
        Login::CredentialsFile(path) => {
            let credentials = secret(path.clone(), "the broker credentials").await?;
            options
                .credentials(&credentials)
                .map_err(|source| ConnectionError::BadCredentials { path, source })?
        }
        Login::Token { jwt, key } => {
            let key = Arc::new(key);
            options.jwt(jwt, move |nonce| {
                let key = key.clone();
                async move { Ok(key.sign(&nonce)) }
            })
        }
    })
}

async fn readable(path: &Path) -> Result<(), ConnectionError> {
    tokio::fs::File::open(path)
        .await
        .map(drop)
        .map_err(|source| ConnectionError::Certificate { path: path.to_owned(), source })
}

async fn secret(path: PathBuf, what: &'static str) -> Result<String, ConnectionError> {
    tokio::task::spawn_blocking(move || secret_file::read(&path, MAX_CREDENTIALS_BYTES))
        .await
        .expect("reading a file does not panic, and nobody cancels it")
        .map_err(|source| ConnectionError::Secret { what, source })
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
        let event = Event::ServerError(ServerError::Other(words.clone()));
        assert_eq!(translated(event), BrokerEvent::PermissionViolation(words));
        let long = Event::ServerError(ServerError::Other("é".repeat(1000)));
        assert_eq!(translated(long), BrokerEvent::Problem("é".repeat(256)));
    }
}
