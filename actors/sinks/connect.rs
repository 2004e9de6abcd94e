//! Addresses, connections, certificates and secrets.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use vigie_config::sinks::{Address, Tls};
use vigie_files::secret_file;
use vigie_fleet::broker::client::expiry;
use vigie_fleet::broker::client::tls::{self, complaints, connector};
use vigie_fleet::broker::connection::TlsSettings;
use vigie_protocol::error_chain::ErrorChain;
use vigie_sinks::verdict::Reason;

use super::outcome::Failure;
use crate::work_threads::{self, Lane};

/// Longest wait for an address, and for each connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;

/// How long what certificates' files said is used: a renewed one is used within this time, and sessions are resumed.
const CONNECTOR_KEPT: Duration = Duration::from_secs(300);

/// Largest file with a secret in bytes.
const MAX_SECRET_BYTES: u64 = 64 << 10;

/// A connection of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// The connection below what is encrypted.
    fn below(&mut self) -> &mut TcpStream;
}

impl Stream for TcpStream {
    fn below(&mut self) -> &mut TcpStream {
        self
    }
}

impl Stream for TlsStream<TcpStream> {
    fn below(&mut self) -> &mut TcpStream {
        self.get_mut().0
    }
}

pub(super) type Connection = Box<dyn Stream>;

/// How encrypted connections are made.
pub(super) struct TlsMaker {
    settings: Tls,
    kept: Option<(TlsConnector, Instant)>,
    /// When the first of the certificates ends that the receiver showed last, in seconds since 1970.
    receivers_end: Option<i64>,
}

/// When a certificate ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    /// Which one.
    what: String,
    /// In seconds since 1970.
    pub(super) not_after: i64,
}

impl End {
    /// What is to be said of it; nothing while there is time.
    pub(super) fn complaint(&self, now: i64) -> Option<String> {
        expiry::complaint(&self.what, self.not_after, now)
    }
}

impl TlsMaker {
    pub(super) fn new(settings: &Tls) -> Self {
        Self { settings: settings.clone(), kept: None, receivers_end: None }
    }

    async fn connector(&mut self) -> Result<TlsConnector, Failure> {
        if let Some((connector, since)) = &self.kept
            && since.elapsed() < CONNECTOR_KEPT
        {
            return Ok(connector.clone());
        }
        let (certificate, key) = self.settings.certificate.clone().unzip();
        let settings = TlsSettings { required: true, ca: self.settings.ca.clone(), certificate, key };
        let made = work_threads::run(Lane::Sinks, move || connector(&settings)).await;
        let made = made.map_err(|error| Failure::new(Reason::Secret, error.to_string()))?;
        let made = made.map_err(|error| Failure::new(Reason::Secret, ErrorChain(&error).to_string()))?;
        self.kept = Some((made.clone(), Instant::now()));
        Ok(made)
    }

    /// What is to be said of certificates that end soon.
    async fn complaints(&self) -> Vec<String> {
        let (certificate, key) = self.settings.certificate.clone().unzip();
        let settings = TlsSettings { required: true, ca: self.settings.ca.clone(), certificate, key };
        let now = jiff::Timestamp::now().as_second();
        work_threads::run(Lane::Sinks, move || complaints(&settings, now)).await.unwrap_or_default()
    }

    /// Whether a receiver has shown its certificate.
    pub(super) fn knows_receiver(&self) -> bool {
        self.receivers_end.is_some()
    }

    /// When the certificates end: those of the configuration, and what the receiver has shown.
    pub(super) fn ends(&self) -> impl Future<Output = Vec<End>> + use<> {
        let (certificate, ca) = (self.settings.certificate.clone(), self.settings.ca.clone());
        let receivers =
            self.receivers_end.map(|not_after| End { what: "of the receiver".to_owned(), not_after });
        async move {
            let reading = work_threads::run(Lane::Sinks, move || {
                let end = |path: &Path, not_after| End { what: format!("{path:?}"), not_after };
                let own = certificate
                    .and_then(|(path, _)| tls::ends(&path).into_iter().min().map(|first| end(&path, first)));
                // A file of many authorities always has one that ends; which one the receiver needs, its certificate
                // tells.
                let authority =
                    ca.and_then(|path| tls::ends(&path).into_iter().max().map(|last| end(&path, last)));
                own.into_iter().chain(authority).collect::<Vec<_>>()
            });
            reading.await.unwrap_or_default().into_iter().chain(receivers).collect()
        }
    }

    /// What was kept is of no use, perhaps because a file has changed.
    fn forget(&mut self) {
        self.kept = None;
    }
}

/// The addresses of a name.
pub(super) async fn resolve(address: &Address) -> Result<Vec<SocketAddr>, Failure> {
    let unknown = |error: &dyn std::fmt::Display| {
        Failure::new(Reason::Connect, format!("cannot resolve {:?}: {error}", address.host))
    };
    if let Ok(known) = address.host.parse() {
        return Ok(vec![SocketAddr::new(known, address.port)]);
    }
    let place = (address.host.clone(), address.port);
    #[expect(clippy::disallowed_methods, reason = "on Lane::Resolve")]
    let looking = work_threads::run(Lane::Resolve, move || {
        use std::net::ToSocketAddrs as _;
        place.to_socket_addrs().map(|found| found.take(MAX_ADDRESSES).collect::<Vec<_>>())
    });
    match timeout(CONNECT_TIMEOUT, looking).await {
        Err(_) => Err(unknown(&"the name was not resolved in time")),
        Ok(Err(error)) => Err(unknown(&error)),
        Ok(Ok(Err(error))) => Err(unknown(&error)),
        Ok(Ok(Ok(found))) if found.is_empty() => Err(unknown(&"there is none")),
        Ok(Ok(Ok(found))) => Ok(found),
    }
}

/// Connects, encrypted when there is TLS.
pub(super) async fn connect(address: &Address, tls: Option<&mut TlsMaker>) -> Result<Connection, Failure> {
    let mut failure = Failure::new(Reason::Connect, "there is no address");
    for place in resolve(address).await? {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(place)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).ok();
                return match tls {
                    Some(tls) => encrypt(stream, address, tls).await,
                    None => Ok(Box::new(stream)),
                };
            }
            Ok(Err(error)) => {
                failure = Failure::new(Reason::Connect, format!("cannot connect to {place}: {error}"))
            }
            Err(_) => failure = Failure::new(Reason::Connect, format!("cannot connect to {place} in time")),
        }
    }
    Err(failure)
}

async fn encrypt(stream: TcpStream, address: &Address, tls: &mut TlsMaker) -> Result<Connection, Failure> {
    let name = tls.settings.server_name.clone().unwrap_or_else(|| address.host.clone());
    let name = ServerName::try_from(name)
        .map_err(|error| Failure::new(Reason::Tls, format!("invalid server name for TLS: {error}")))?;
    let connector = tls.connector().await?;
    match timeout(CONNECT_TIMEOUT, connector.connect(name, stream)).await {
        Ok(Ok(stream)) => {
            // A session that is resumed has them, too.
            let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let ends = shown.iter().filter_map(|one| expiry::not_after(one)).min();
            tls.receivers_end = ends.or(tls.receivers_end);
            Ok(Box::new(stream))
        }
        Ok(Err(error)) => {
            tls.forget();
            let mut failure = Failure::of_io("TLS", &error);
            failure.unsure = false;
            // The receiver need not say that it dislikes the certificate of this host for its age.
            let own = tls.complaints().await;
            if !own.is_empty() {
                failure = Failure::new(failure.reason, format!("{}; {}", own.join("; "), failure.detail));
            }
            Err(failure)
        }
        Err(_) => Err(Failure::new(Reason::Timeout, "the TLS handshake timed out")),
    }
}

/// Reads a secret on one line.
pub(super) async fn secret(path: &Path) -> Result<String, Failure> {
    let file = path.to_owned();
    let reading = work_threads::run(Lane::Sinks, move || secret_file::read(&file, MAX_SECRET_BYTES)).await;
    let read = reading.map_err(|error| Failure::new(Reason::Secret, error.to_string()))?;
    // A secret that cannot be read now will hardly be readable in a second.
    read.map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
        .map_err(|error| Failure::new(Reason::Secret, ErrorChain(&error).to_string()).rests())
}

/// What a connection has at this moment, without waiting.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Glance {
    /// Nothing came.
    Quiet,
    /// Bytes came that nobody expects.
    Bytes,
    /// The other side has closed it, or it broke.
    Closed,
}

/// Looks at a connection on which nothing is expected.
pub(super) async fn glance(connection: &mut Connection) -> Glance {
    poll_fn(|context| {
        let mut bytes = [0; 256];
        let mut buffer = ReadBuf::new(&mut bytes);
        Poll::Ready(match Pin::new(&mut **connection).poll_read(context, &mut buffer) {
            Poll::Pending => Glance::Quiet,
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => Glance::Bytes,
            Poll::Ready(_) => Glance::Closed,
        })
    })
    .await
}
