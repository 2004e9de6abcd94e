//! Syslog over connections: RELP, TLS with a connection for each batch, TCP.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use vigie_config::sinks::{Address, Tls};
use vigie_sinks::overlap::Overlap;
use vigie_sinks::relp::{Event, Session, WINDOW};
use vigie_sinks::syslog::counted;
use vigie_sinks::verdict::Reason;

use super::connect::{Connection, Glance, TlsMaker, connect, glance};
use super::outcome::{Failure, Outcome};
use super::transport::Batch;

/// Bytes that are written at once: a receiver that reads at all takes them within the timeout.
const CHUNK_BYTES: usize = 64 << 10;

/// Most bytes that a receiver of plain syslog may send, which has nothing to say.
const MAX_CHATTER_BYTES: usize = 64 << 10;

/// Longest wait for the other side when a connection is ended in good order.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// Ends of TLS in a row that the receiver did not answer before the sink goes over to sending again after a break.
const MAX_UNANSWERED: u32 = 3;

/// Writes all bytes within the time.
async fn write(connection: &mut Connection, bytes: &[u8], limit: Duration) -> Result<(), Failure> {
    let writing = async {
        connection.write_all(bytes).await?;
        connection.flush().await
    };
    match timeout(limit, writing).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure::of_io("the connection broke", &error)),
        Err(_) => Err(Failure::timeout("the receiver did not accept the data", limit)),
    }
}

/// RELP: each record is acknowledged.
pub(super) struct Relp {
    address: Address,
    tls: Option<TlsMaker>,
    limit: Duration,
    version: String,
    open: Option<(Connection, Session)>,
}

impl Relp {
    pub(super) fn new(address: &Address, tls: Option<&Tls>, limit: Duration, version: &str) -> Self {
        let tls = tls.map(TlsMaker::new);
        Self { address: address.clone(), tls, limit, version: version.to_owned(), open: None }
    }

    pub(super) fn tls(&self) -> Option<&TlsMaker> {
        self.tls.as_ref()
    }

    async fn begin(&mut self) -> Result<(Connection, Session), Failure> {
        let mut connection = connect(&self.address, self.tls.as_mut()).await?;
        let (mut session, offer) = Session::open(&self.version);
        let certain = |mut failure: Failure| {
            failure.unsure = false;
            failure
        };
        write(&mut connection, &offer, self.limit).await.map_err(certain)?;
        let deadline = Instant::now() + self.limit;
        loop {
            for event in events(&mut connection, &mut session, deadline, self.limit).await.map_err(certain)? {
                match event {
                    Event::Opened => return Ok((connection, session)),
                    Event::Refused(why) => {
                        return Err(Failure::new(
                            Reason::Refused,
                            format!("the receiver rejected the session: {why}"),
                        ));
                    }
                    Event::Stored | Event::Closing => {}
                }
            }
        }
    }

    pub(super) async fn deliver(&mut self, batch: &Batch) -> Outcome {
        // All of the batch before is acknowledged: a connection that ended meanwhile took nothing with it.
        if let Some((connection, _)) = &mut self.open
            && glance(connection).await != Glance::Quiet
        {
            self.open = None;
        }
        let (mut connection, mut session) = match self.open.take() {
            Some(open) => open,
            None => match self.begin().await {
                Ok(open) => open,
                Err(failure) => return Outcome::failed(0, failure),
            },
        };
        let mut done = 0;
        match self.pass(&mut connection, &mut session, batch, &mut done).await {
            Ok(()) => {
                self.open = Some((connection, session));
                Outcome::all(done)
            }
            Err(failure) => Outcome::failed(done, failure),
        }
    }

    async fn pass(
        &self,
        connection: &mut Connection,
        session: &mut Session,
        batch: &Batch,
        done: &mut usize,
    ) -> Result<(), Failure> {
        let mut sent = 0;
        // The time begins anew with each record that is stored: a receiver that answers byte by byte has no longer.
        let mut deadline = Instant::now() + self.limit;
        while *done < batch.len() {
            let mut bytes = Vec::new();
            while sent < batch.len() && session.outstanding() < WINDOW && bytes.len() < CHUNK_BYTES {
                bytes.extend_from_slice(&session.record(&batch.records[sent]));
                sent += 1;
            }
            if !bytes.is_empty() {
                write(connection, &bytes, self.limit).await?;
                if sent < batch.len() && session.outstanding() < WINDOW {
                    continue;
                }
            }
            for event in events(connection, session, deadline, self.limit).await? {
                match event {
                    Event::Stored => {
                        *done += 1;
                        deadline = Instant::now() + self.limit;
                    }
                    Event::Refused(why) => {
                        return Err(Failure::new(
                            Reason::Refused,
                            format!("the receiver rejected a record: {why}"),
                        )
                        .unsure());
                    }
                    Event::Closing => {
                        return Err(
                            Failure::new(Reason::Broken, "the receiver is closing the connection").unsure()
                        );
                    }
                    Event::Opened => {}
                }
            }
        }
        Ok(())
    }

    pub(super) async fn close(&mut self) {
        if let Some((mut connection, mut session)) = self.open.take() {
            let frame = session.close();
            write(&mut connection, &frame, CLOSE_PATIENCE).await.ok();
            timeout(CLOSE_PATIENCE, connection.shutdown()).await.ok();
        }
    }
}

async fn events(
    connection: &mut Connection,
    session: &mut Session,
    deadline: Instant,
    limit: Duration,
) -> Result<Vec<Event>, Failure> {
    let mut bytes = [0; 16 << 10];
    match timeout_at(deadline, connection.read(&mut bytes)).await {
        Ok(Ok(0)) => Err(Failure::new(Reason::Broken, "the receiver closed the connection").unsure()),
        Ok(Ok(count)) => session
            .feed(&bytes[..count])
            .map_err(|error| Failure::new(Reason::Protocol, error.to_string()).unsure()),
        Ok(Err(error)) => Err(Failure::of_io("the connection broke", &error)),
        Err(_) => Err(Failure::timeout("the receiver acknowledged nothing", limit)),
    }
}

/// TCP with octet counting, or TLS used like it: nothing is acknowledged, and a break leads back.
pub(super) struct Tcp {
    address: Address,
    tls: Option<TlsMaker>,
    limit: Duration,
    overlap: Overlap,
    connection: Option<Connection>,
}

impl Tcp {
    pub(super) fn new(
        address: &Address,
        tls: Option<&Tls>,
        overlap: u64,
        limit: Duration,
        after: u64,
    ) -> Self {
        let tls = tls.map(TlsMaker::new);
        let overlap = Overlap::new(overlap, after);
        Self { address: address.clone(), tls, limit, overlap, connection: None }
    }

    pub(super) fn settled(&self) -> u64 {
        self.overlap.settled()
    }

    fn lost(&mut self, mut failure: Failure) -> Failure {
        self.connection = None;
        failure.rewind = Some(self.overlap.rewind());
        failure.unsure()
    }

    pub(super) async fn deliver(&mut self, batch: &Batch) -> Outcome {
        if let Some(connection) = &mut self.connection
            && glance(connection).await != Glance::Quiet
        {
            let failure = self.lost(Failure::new(Reason::Broken, "the receiver closed the connection"));
            return Outcome::failed(0, failure);
        }
        if self.connection.is_none() {
            match connect(&self.address, self.tls.as_mut()).await {
                Ok(connection) => self.connection = Some(connection),
                Err(failure) => return Outcome::failed(0, failure),
            }
        }
        let mut at = 0;
        while at < batch.len() {
            let mut bytes = Vec::new();
            let from = at;
            while at < batch.len() && bytes.len() < CHUNK_BYTES {
                bytes.extend_from_slice(&counted(&batch.records[at]));
                at += 1;
            }
            let Some(connection) = &mut self.connection else { break };
            let written = write(connection, &bytes, self.limit).await;
            for index in from..at {
                self.overlap.note(batch.numbers[index], batch.records[index].len() as u64);
            }
            if let Err(failure) = written {
                // Half a frame may be written: this connection is of no use any more.
                let failure = self.lost(failure);
                return Outcome::failed(0, failure);
            }
        }
        Outcome::all(batch.len())
    }

    /// Returns when the connection broke.
    pub(super) async fn broken(&mut self) -> Failure {
        let Some(connection) = &mut self.connection else { return std::future::pending().await };
        let mut bytes = [0; 1024];
        let mut total = 0;
        let why = loop {
            match connection.read(&mut bytes).await {
                Ok(0) => break Failure::new(Reason::Broken, "the receiver closed the connection"),
                Err(error) => break Failure::of_io("the connection broke", &error),
                Ok(count) => total += count,
            }
            if total > MAX_CHATTER_BYTES {
                break Failure::new(Reason::Protocol, "the syslog receiver sends unexpected data");
            }
        };
        self.lost(why)
    }

    /// Ends the connection, and waits until the receiver has read to its end.
    pub(super) async fn close(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            timeout(CLOSE_PATIENCE, connection.shutdown()).await.ok();
            let mut bytes = [0; 1024];
            let reading = async { while matches!(connection.read(&mut bytes).await, Ok(1..)) {} };
            timeout(CLOSE_PATIENCE, reading).await.ok();
        }
    }
}

/// Waits for the end of the connection below TLS. A receiver that left records unread resets it: then the end that it
/// sent, perhaps at the same moment as we ours, was no answer.
async fn ended(stream: &mut TcpStream) -> Result<bool, Failure> {
    let mut bytes = [0; 1024];
    let reading = async {
        let mut total = 0;
        while total <= MAX_CHATTER_BYTES {
            match stream.read(&mut bytes).await? {
                0 => break,
                count => total += count,
            }
        }
        Ok::<_, io::Error>(())
    };
    match timeout(CLOSE_PATIENCE, reading).await {
        Ok(Err(error)) => Err(Failure::of_io("the receiver did not read all of the batch", &error)),
        // One that keeps the connection has read the batch all the same.
        Ok(Ok(())) | Err(_) => Ok(true),
    }
}

/// TLS with a connection for each batch: a receiver that answers the end of TLS has read everything, because a process
/// that was killed cannot.
pub(super) struct TlsBatches {
    address: Address,
    tls: TlsMaker,
    settings: Tls,
    overlap: u64,
    limit: Duration,
    /// Ends in a row that were not answered.
    unanswered: u32,
    /// Newest alert that was acknowledged.
    reached: u64,
    /// What is used instead when the receiver never answers.
    instead: Option<Tcp>,
}

impl TlsBatches {
    pub(super) fn new(address: &Address, tls: &Tls, overlap: u64, limit: Duration, after: u64) -> Self {
        Self {
            address: address.clone(),
            tls: TlsMaker::new(tls),
            settings: tls.clone(),
            overlap,
            limit,
            unanswered: 0,
            reached: after,
            instead: None,
        }
    }

    pub(super) fn settled(&self) -> Option<u64> {
        self.instead.as_ref().map(Tcp::settled)
    }

    pub(super) fn tls(&self) -> &TlsMaker {
        let instead = self.instead.as_ref().and_then(|instead| instead.tls.as_ref());
        instead.filter(|tls| tls.knows_receiver()).unwrap_or(&self.tls)
    }

    pub(super) async fn deliver(&mut self, batch: &Batch) -> Outcome {
        if let Some(instead) = &mut self.instead {
            return instead.deliver(batch).await;
        }
        match self.pass(batch).await {
            Ok(true) => {
                self.unanswered = 0;
                self.reached = batch.numbers.last().copied().unwrap_or(self.reached);
                Outcome::all(batch.len())
            }
            Ok(false) => {
                self.unanswered += 1;
                if self.unanswered >= MAX_UNANSWERED {
                    let tls = Some(&self.settings);
                    self.instead = Some(Tcp::new(&self.address, tls, self.overlap, self.limit, self.reached));
                }
                let detail =
                    "the receiver closed the connection without answering the TLS close notification";
                Outcome::failed(0, Failure::new(Reason::Protocol, detail).unsure())
            }
            Err(failure) => {
                self.unanswered = 0;
                Outcome::failed(0, failure)
            }
        }
    }

    /// Whether the end was answered.
    async fn pass(&mut self, batch: &Batch) -> Result<bool, Failure> {
        let mut connection = connect(&self.address, Some(&mut self.tls)).await?;
        let mut bytes = Vec::new();
        for (at, record) in batch.records.iter().enumerate() {
            bytes.extend_from_slice(&counted(record));
            if bytes.len() >= CHUNK_BYTES || at + 1 == batch.records.len() {
                write(&mut connection, &bytes, self.limit).await?;
                bytes.clear();
            }
        }
        // An end that comes before ours answers nothing: a receiver that stops says it as well.
        if glance(&mut connection).await == Glance::Closed {
            let detail = "the receiver closed the connection before the end of the batch";
            return Err(Failure::new(Reason::Broken, detail).unsure());
        }
        match timeout(self.limit, connection.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Failure::of_io("the connection broke", &error)),
            Err(_) => return Err(Failure::timeout("the TLS close notification was not sent", self.limit)),
        }
        // Reading also shows what the receiver thinks of our certificate: with TLS 1.3 it says so after the first
        // bytes.
        let deadline = Instant::now() + self.limit;
        let (mut buffer, mut total) = ([0; 1024], 0);
        loop {
            match timeout_at(deadline, connection.read(&mut buffer)).await {
                Ok(Ok(0)) => return ended(connection.below()).await,
                Ok(Ok(count)) => total += count,
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Ok(Err(error)) => {
                    return Err(Failure::of_io("the receiver does not accept the batch", &error));
                }
                Err(_) => {
                    return Err(Failure::timeout(
                        "the receiver did not answer the TLS close notification",
                        self.limit,
                    ));
                }
            }
            if total > MAX_CHATTER_BYTES {
                return Err(
                    Failure::new(Reason::Protocol, "the syslog receiver sends unexpected data").unsure()
                );
            }
        }
    }

    pub(super) async fn broken(&mut self) -> Failure {
        match &mut self.instead {
            Some(instead) => instead.broken().await,
            None => std::future::pending().await,
        }
    }

    pub(super) async fn close(&mut self) {
        if let Some(instead) = &mut self.instead {
            instead.close().await;
        }
    }
}
