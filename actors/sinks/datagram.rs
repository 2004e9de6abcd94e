//! Datagrams, which nobody acknowledges: syslog over UDP and to the local socket, entries to systemd's journal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use rustix::fs::{MemfdFlags, SealFlags};
use tokio::io::Interest;
use tokio::net::{UdpSocket, UnixDatagram};
use tokio::time::{Instant, sleep, timeout};
use vigie_config::sinks::Address;
use vigie_sinks::verdict::Reason;

use super::connect::resolve;
use super::outcome::{Failure, Outcome};
use super::transport::Batch;

/// Pause while the system has no buffer for a datagram.
const BUFFER_PAUSE: Duration = Duration::from_millis(10);

/// Where datagrams go.
enum Place {
    Udp(Address),
    Local(PathBuf),
}

enum Socket {
    Udp(UdpSocket),
    Local(UnixDatagram),
}

impl Socket {
    async fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Udp(socket) => socket.send(bytes).await,
            Self::Local(socket) => socket.send(bytes).await,
        }
    }
}

/// Syslog in datagrams.
pub(super) struct Datagrams {
    place: Place,
    limit: Duration,
    socket: Option<Socket>,
}

impl Datagrams {
    pub(super) fn udp(address: &Address, limit: Duration) -> Self {
        Self { place: Place::Udp(address.clone()), limit, socket: None }
    }

    pub(super) fn local(path: &Path, limit: Duration) -> Self {
        Self { place: Place::Local(path.to_owned()), limit, socket: None }
    }

    async fn open(&self) -> Result<Socket, Failure> {
        let cannot = |error: io::Error| {
            Failure::new(Reason::Connect, format!("the receiver cannot be reached: {error}"))
        };
        match &self.place {
            Place::Local(path) => connect_local(path).map(Socket::Local),
            Place::Udp(address) => {
                let places = resolve(address).await?;
                let Some(place) = places.first() else {
                    return Err(Failure::new(Reason::Connect, "there is no address"));
                };
                let own = if place.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(own).await.map_err(cannot)?;
                socket.connect(place).await.map_err(cannot)?;
                Ok(Socket::Udp(socket))
            }
        }
    }

    pub(super) async fn deliver(&mut self, batch: &Batch) -> Outcome {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => match self.open().await {
                Ok(socket) => socket,
                Err(failure) => return Outcome::failed(0, failure),
            },
        };
        for (done, record) in batch.records.iter().enumerate() {
            if let Err(failure) = patiently(self.limit, async || socket.send(record).await).await {
                return Outcome::failed(done, failure);
            }
        }
        self.socket = Some(socket);
        Outcome::all(batch.len())
    }
}

fn connect_local(path: &Path) -> Result<UnixDatagram, Failure> {
    let cannot =
        |error: io::Error| Failure::new(Reason::Connect, format!("no process listens on {path:?}: {error}"));
    let socket = UnixDatagram::unbound().map_err(cannot)?;
    socket.connect(path).map_err(cannot)?;
    Ok(socket)
}

/// Sends, and waits while the system has no room for it.
async fn patiently(limit: Duration, send: impl AsyncFn() -> io::Result<usize>) -> Result<(), Failure> {
    let deadline = Instant::now() + limit;
    loop {
        match timeout(limit, send()).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error))
                if error.raw_os_error() == Some(Errno::ENOBUFS as i32) && Instant::now() < deadline =>
            {
                sleep(BUFFER_PAUSE).await;
            }
            Ok(Err(error)) => return Err(Failure::of_io("it was not sent", &error)),
            Err(_) => return Err(Failure::timeout("the receiver accepted nothing", limit)),
        }
    }
}

/// Entries to systemd's journal.
pub(super) struct Journal {
    path: PathBuf,
    limit: Duration,
    socket: Option<UnixDatagram>,
}

impl Journal {
    pub(super) fn new(path: &Path, limit: Duration) -> Self {
        Self { path: path.to_owned(), limit, socket: None }
    }

    pub(super) async fn deliver(&mut self, batch: &Batch) -> Outcome {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => match connect_local(&self.path) {
                Ok(socket) => socket,
                Err(failure) => return Outcome::failed(0, failure),
            },
        };
        for (done, entry) in batch.records.iter().enumerate() {
            let sent = patiently(self.limit, async || match socket.send(entry).await {
                Err(error) if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) => {
                    send_file(&socket, entry).await
                }
                sent => sent,
            });
            if let Err(failure) = sent.await {
                return Outcome::failed(done, failure);
            }
        }
        self.socket = Some(socket);
        Outcome::all(batch.len())
    }
}

/// Sends an entry that is too long for a datagram: the descriptor of a sealed file in memory.
async fn send_file(socket: &UnixDatagram, entry: &[u8]) -> io::Result<usize> {
    let file = sealed(entry)?;
    socket
        .async_io(Interest::WRITABLE, || {
            use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
            use std::os::fd::AsRawFd as _;
            let descriptors = [file.as_fd().as_raw_fd()];
            let messages = [ControlMessage::ScmRights(&descriptors)];
            sendmsg::<()>(socket.as_fd().as_raw_fd(), &[], &messages, MsgFlags::MSG_NOSIGNAL, None)
                .map_err(io::Error::from)
        })
        .await
}

#[expect(clippy::disallowed_methods, reason = "a file in memory")]
fn sealed(entry: &[u8]) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("vigie-alert", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut rest = entry;
    while !rest.is_empty() {
        let written = rustix::io::write(&file, rest)?;
        rest = &rest[written..];
    }
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
    )?;
    Ok(file)
}
