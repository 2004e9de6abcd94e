//! Opens one connection: the socket, TLS, the login.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use data_encoding::BASE64URL_NOPAD;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::address::Address;
use super::tls::{self, TlsFileError};
use super::wire::{self, Operation, ProtocolError, ServerInfo};
use crate::agent_key::AgentKey;
use crate::broker::connection::{BrokerEvent, TlsSettings};

/// What is needed to open a connection.
#[derive(Clone)]
pub(in crate::broker) struct LinkSettings {
    pub(in crate::broker) addresses: Vec<Address>,
    pub(in crate::broker) tls: Arc<TlsSettings>,
    pub(in crate::broker) name: String,
    /// May be replaced while the client runs.
    pub(in crate::broker) jwt: Arc<Mutex<String>>,
    pub(in crate::broker) key: Arc<AgentKey>,
}

/// Bytes both ways.
pub(in crate::broker) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection that is logged in.
pub(in crate::broker) struct Opened {
    pub(in crate::broker) stream: Box<dyn Stream>,
    /// What was read and not yet looked at.
    pub(in crate::broker) buffer: BytesMut,
    pub(in crate::broker) info: ServerInfo,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nothing answers, or it stops in the middle.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is no broker, or a hostile one.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// It stopped in the middle.
    #[error("it does not respond")]
    Silent,
    /// Certificates cannot be used.
    #[error(transparent)]
    TlsFiles(#[from] TlsFileError),
    /// No encrypted connection came about.
    #[error("{}", tls::explained(.0).unwrap_or_else(|| .0.to_string()))]
    Tls(io::Error),
    /// Without TLS only this machine is trusted.
    #[error(
        "{0} is not on this machine, and without TLS the connection could be read and altered: use tls://"
    )]
    Plain(Address),
    /// The server refuses the user, in its words.
    #[error("{0}")]
    Refused(String),
    /// The server has no room, in its words.
    #[error("{0}")]
    Full(String),
}

impl LinkError {
    /// The same as an event of a connection that goes on trying.
    pub(super) fn event(&self, address: &Address) -> BrokerEvent {
        match self {
            Self::Refused(_) => BrokerEvent::LoginRefused,
            Self::Full(words) => BrokerEvent::BrokerFull(super::cut(words)),
            Self::Tls(_) | Self::TlsFiles(_) => {
                let source =
                    std::error::Error::source(self).map_or_else(String::new, |source| format!(": {source}"));
                BrokerEvent::TlsFailed(super::cut(&format!("{address}: {self}{source}")))
            }
            _ => BrokerEvent::Problem(super::cut(&format!("{address}: {self}"))),
        }
    }
}

/// Opens a connection and logs in.
pub(in crate::broker) async fn open(settings: &LinkSettings, address: &Address) -> Result<Opened, LinkError> {
    let encrypted = address.tls || settings.tls.required;
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    if !encrypted && !stream.peer_addr()?.ip().is_loopback() {
        return Err(LinkError::Plain(address.clone()));
    }
    stream.set_nodelay(true)?;
    let mut stream: Box<dyn Stream> = Box::new(stream);
    let mut buffer = BytesMut::new();
    let mut info = match next(&mut stream, &mut buffer).await? {
        Operation::Info(info) => *info,
        other => return Err(unexpected(&other)),
    };
    let encrypted = encrypted || info.tls_required;
    if encrypted {
        // What came with the greeting in clear does not count any more.
        buffer.clear();
        stream = encrypt(settings, address, stream).await?;
    }
    // The same key seals answers: what is signed here must never be such a text.
    if !is_nonce(&info.nonce) {
        return Err(ProtocolError::Unknown(super::cut(&format!("the nonce {:?}", info.nonce))).into());
    }
    let signature = BASE64URL_NOPAD.encode(&settings.key.sign(info.nonce.as_bytes()));
    let mut out = BytesMut::new();
    let jwt = settings.jwt.lock().unwrap_or_else(PoisonError::into_inner).clone();
    wire::connect(&mut out, &settings.name, &jwt, &signature, encrypted);
    wire::ping(&mut out);
    let sent = async {
        stream.write_all(&out).await?;
        stream.flush().await
    };
    // A server that wants another certificate says so only now.
    sent.await.map_err(|error| tls_or_io(error, encrypted))?;
    loop {
        let operation = next(&mut stream, &mut buffer).await.map_err(|error| match error {
            LinkError::Io(error) => tls_or_io(error, encrypted),
            other => other,
        })?;
        match operation {
            Operation::Pong => return Ok(Opened { stream, buffer, info }),
            Operation::Info(newer) => info = ServerInfo { nonce: info.nonce, ..*newer },
            Operation::Ping | Operation::Ok => {}
            Operation::Error(words) => return Err(refusal(words)),
            Operation::Message(_) => return Err(unexpected(&operation)),
        }
    }
}

/// Longest nonce that is signed, in bytes; those of nats-server have 15.
const MAX_NONCE_BYTES: usize = 64;

/// Whether it is random text in base64url, as servers draw it. A sealed text has a NUL behind its purpose.
fn is_nonce(text: &str) -> bool {
    (1..=MAX_NONCE_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn tls_or_io(error: io::Error, encrypted: bool) -> LinkError {
    if encrypted && error.kind() == io::ErrorKind::InvalidData {
        LinkError::Tls(error)
    } else {
        LinkError::Io(error)
    }
}

fn refusal(words: String) -> LinkError {
    let lower = words.to_ascii_lowercase();
    if lower.contains("connections exceeded") {
        LinkError::Full(words)
    } else if lower.contains("authorization") || lower.contains("authentication") || lower.contains("expired")
    {
        LinkError::Refused(words)
    } else {
        LinkError::Protocol(ProtocolError::Unknown(super::cut(&words)))
    }
}

fn unexpected(operation: &Operation) -> LinkError {
    let text = match operation {
        Operation::Error(words) => return refusal(words.clone()),
        Operation::Info(_) => "INFO",
        Operation::Message(_) => "a message before the login",
        Operation::Ping | Operation::Pong | Operation::Ok => "no greeting",
    };
    LinkError::Protocol(ProtocolError::Unknown(text.to_owned()))
}

async fn encrypt(
    settings: &LinkSettings,
    address: &Address,
    stream: Box<dyn Stream>,
) -> Result<Box<dyn Stream>, LinkError> {
    let tls = settings.tls.clone();
    let connector: TlsConnector =
        tokio::task::spawn_blocking(move || tls::connector(&tls)).await.map_err(io::Error::other)??;
    let name = ServerName::try_from(address.host.clone()).map_err(io::Error::other)?;
    let stream = connector.connect(name, stream).await.map_err(LinkError::Tls)?;
    Ok(Box::new(stream))
}

async fn next(stream: &mut Box<dyn Stream>, buffer: &mut BytesMut) -> Result<Operation, LinkError> {
    loop {
        if let Some(operation) = wire::decode(buffer)? {
            return Ok(operation);
        }
        buffer.reserve(super::READ_BYTES);
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}
