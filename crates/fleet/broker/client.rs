//! A client of NATS: publishing, subscribing and asking over one connection that comes back by itself.
//!
//! Our own, because what a server sends must be bounded, must never end the process, and the state must be true
//! whatever happens; async-nats gives no hook for any of it (docs/decisions). What it does is small:
//!
//! - [`wire`] is the protocol, pure and bounded;
//! - `link` opens a connection and logs in;
//! - one task (`run`) reads, writes and connects again.
//!
//! Memory is bounded on all sides: what waits to be written (`MAX_OUTGOING`), what a subscription holds
//! (`MAX_QUEUED`), and one message that is being read. While nobody is connected nothing is taken: a publish fails
//! at once, and whoever has something to say keeps it.

pub mod address;
pub mod expiry;
mod link;
#[cfg(test)]
mod silence;
pub mod tls;
pub mod wire;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use vigie_files::random;

use self::address::Address;
pub(super) use self::link::{LinkError, LinkSettings, Opened, open};
use self::wire::{BadText, Message, Operation, ProtocolError, ServerInfo};
use super::connection::{BrokerEvent, backoff};

/// Most bytes that wait to be written before a publisher has to wait.
const MAX_OUTGOING: usize = 4 << 20;

/// Most bytes of messages that wait in a subscription; beyond it they are lost and an event says so.
const MAX_QUEUED: usize = 8 << 20;

/// How often a server is asked whether it is there. One that sends nothing is given up after two questions.
const PING_EVERY: Duration = Duration::from_secs(15);

/// Questions without an answer after which a server is given up that does send something: the answer may stand behind
/// much else on a slow line.
const UNANSWERED: usize = 8;

/// How long a server may take nothing of what is written to it.
const WRITE_WITHIN: Duration = Duration::from_secs(60);

/// A connection that stood for so long was a good one: the next attempt does not wait long.
const GOOD_AFTER: Duration = Duration::from_secs(10);

/// Longest wait for a connection and its login.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// How much is read at once.
const READ_BYTES: usize = 64 * 1024;

/// What the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// There is none; one is looked for.
    Disconnected,
    /// It stands: the server has taken the login and the subscriptions. With the number of the connection, from 1.
    Connected(u64),
    /// It has ended for good.
    Closed,
}

/// Why something was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Nobody is connected.
    #[error("there is no connection to the broker")]
    NotConnected,
    /// The server takes no message of that size.
    #[error("a message of {0} bytes exceeds the broker's limit")]
    TooLarge(usize),
    /// It cannot be sent at all.
    #[error(transparent)]
    Text(#[from] BadText),
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It was not sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// Nobody listens there: the stream is not there, or has no leader at the moment.
    #[error("no responder: the stream does not exist on the broker or has no leader at present")]
    NoResponders,
    /// The connection broke meanwhile.
    #[error("the connection to the broker failed")]
    Disconnected,
    /// The broker does not permit the question.
    #[error(
        "the broker does not permit this user to publish to {0}: check which role the credentials are for, and whether the broker has the newest configuration"
    )]
    NotPermitted(String),
    /// It did not come in time.
    #[error(
        "the broker did not respond within {0:?}: check that it is reachable and that this user has the permission"
    )]
    TimedOut(Duration),
}

/// A message to be published.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outgoing<'m> {
    /// Where.
    pub subject: &'m str,
    /// Where an answer is expected.
    pub reply: Option<&'m str>,
    /// Headers.
    pub headers: &'m [(String, String)],
    /// What it holds.
    pub payload: &'m [u8],
}

struct Out {
    buffer: BytesMut,
    connected: bool,
    max_payload: usize,
}

struct Sub {
    subject: String,
    sender: mpsc::Sender<Message>,
    queued: Arc<AtomicUsize>,
}

/// A question that waits for its answer; nothing comes when the broker does not permit it.
struct Asked {
    subject: String,
    answer: oneshot::Sender<Option<Message>>,
}

struct Shared {
    out: Mutex<Out>,
    subs: Mutex<HashMap<u64, Sub>>,
    asked: Mutex<HashMap<u64, Asked>>,
    /// Whoever waits for the answers to the pings that were sent, in their order.
    pongs: Mutex<VecDeque<Option<oneshot::Sender<()>>>>,
    numbers: AtomicU64,
    /// Prefix of the inboxes of this client; cannot be guessed.
    inbox: String,
    capacity: usize,
    /// There is something to write.
    wake: Notify,
    /// Something was written, or the connection is gone.
    drained: Notify,
    /// Nobody holds the client any more.
    close: Notify,
    state: watch::Sender<State>,
    server: Mutex<ServerInfo>,
    events: mpsc::Sender<BrokerEvent>,
    events_lost: AtomicU64,
    login: Arc<Mutex<String>>,
    /// Addresses that are tried before those of the settings.
    brokers: Mutex<Vec<Address>>,
}

/// The number of the subscription to one's own inbox.
const INBOX: u64 = 0;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic ends the process; in tests, what it left is still whole.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Shared {
    fn tell(&self, event: BrokerEvent) {
        // What a server or a publisher can cause without end leaves room for what becomes of the connection.
        let is_rare = matches!(
            event,
            BrokerEvent::Connected
                | BrokerEvent::Disconnected
                | BrokerEvent::BrokerStops
                | BrokerEvent::Closed
        );
        let is_full = !is_rare && self.events.capacity() <= self.events.max_capacity() / 2;
        if is_full || self.events.try_send(event).is_err() {
            self.events_lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The server says that something is wrong.
    fn complains(&self, words: &str) {
        if let Some(subject) = wire::not_permitted(words) {
            let mut waiting = locked(&self.asked);
            for (_, asked) in waiting.extract_if(|_, asked| asked.subject == subject) {
                asked.answer.send(None).ok();
            }
        }
        self.tell(super::connection::translated(words));
    }

    /// Logged in: the server gets the subscriptions, and from now on what is published.
    fn connected(&self, info: &ServerInfo) {
        {
            let mut out = locked(&self.out);
            let subs = locked(&self.subs);
            out.buffer.clear();
            wire::subscribe(&mut out.buffer, &format!("{}.*", self.inbox), INBOX);
            for (sid, sub) in &*subs {
                wire::subscribe(&mut out.buffer, &sub.subject, *sid);
            }
            out.connected = true;
            out.max_payload = if info.max_payload == 0 { usize::MAX } else { info.max_payload };
        }
        *locked(&self.server) = info.clone();
        self.wake.notify_one();
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.state.send_replace(State::Connected(number));
        self.tell(BrokerEvent::Connected);
    }

    /// Asks the server whether it is there, and tells `waiting` when it says so.
    fn ping(&self, waiting: Option<oneshot::Sender<()>>) -> Result<(), SendError> {
        {
            let mut out = locked(&self.out);
            if !out.connected {
                return Err(SendError::NotConnected);
            }
            locked(&self.pongs).push_back(waiting);
            wire::ping(&mut out.buffer);
        }
        self.wake.notify_one();
        Ok(())
    }

    fn disconnected(&self) {
        {
            let mut out = locked(&self.out);
            out.connected = false;
            out.buffer = BytesMut::new();
        }
        // Dropping the senders tells whoever waits.
        locked(&self.asked).clear();
        locked(&self.pongs).clear();
        self.drained.notify_waiters();
        let was = self.state.send_replace(State::Disconnected);
        if matches!(was, State::Connected(_)) {
            self.tell(BrokerEvent::Disconnected);
        }
    }

    fn closed(&self) {
        self.disconnected();
        self.state.send_replace(State::Closed);
        locked(&self.subs).clear();
        self.tell(BrokerEvent::Closed);
    }

    fn take(&self, message: Message) {
        if message.sid == INBOX {
            let token = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
            let waiting = token.and_then(|token: u64| locked(&self.asked).remove(&token));
            if let Some(waiting) = waiting {
                waiting.answer.send(Some(message)).ok();
            }
            return;
        }
        let mut subs = locked(&self.subs);
        let Some(sub) = subs.get(&message.sid) else { return };
        let (sid, size) = (message.sid, message.size());
        let fits = sub.queued.fetch_add(size, Ordering::Relaxed) + size <= MAX_QUEUED;
        let sent =
            if fits { sub.sender.try_send(message) } else { Err(mpsc::error::TrySendError::Full(message)) };
        match sent {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                sub.queued.fetch_sub(size, Ordering::Relaxed);
                self.tell(BrokerEvent::SlowConsumer(sid));
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                subs.remove(&sid);
            }
        }
    }
}

/// Ends the task when nobody holds a client any more.
struct Alive(Arc<Shared>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.close.notify_one();
    }
}

/// Says that the connection has ended, however the task ends.
struct Ends(Arc<Shared>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.closed();
    }
}

/// A connection to a broker. Clones share it; it ends with the last one.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    _alive: Arc<Alive>,
}

impl Client {
    /// Goes on with a connection that was opened, or with looking for one.
    pub(super) fn start(
        settings: LinkSettings,
        opened: Option<Opened>,
        inbox_prefix: &str,
        capacity: usize,
        events: mpsc::Sender<BrokerEvent>,
    ) -> Self {
        let shared = Arc::new(Shared {
            out: Mutex::new(Out { buffer: BytesMut::new(), connected: false, max_payload: 0 }),
            subs: Mutex::default(),
            asked: Mutex::default(),
            pongs: Mutex::default(),
            numbers: AtomicU64::new(1),
            inbox: format!("{inbox_prefix}.{}", random_token()),
            capacity,
            wake: Notify::new(),
            drained: Notify::new(),
            close: Notify::new(),
            state: watch::Sender::new(State::Disconnected),
            server: Mutex::default(),
            events,
            events_lost: AtomicU64::new(0),
            login: settings.jwt.clone(),
            brokers: Mutex::default(),
        });
        if let Some(opened) = &opened {
            shared.connected(&opened.info);
        }
        let client = Self { shared: shared.clone(), _alive: Arc::new(Alive(shared.clone())) };
        tokio::spawn(run(shared, settings, opened));
        client
    }

    /// Logs in with another token of the same key, from the next connection on.
    pub fn set_login(&self, jwt: &str) {
        jwt.clone_into(&mut locked(&self.shared.login));
    }

    /// Tries these addresses before those of the settings, from the next connection on. One that is neither encrypted
    /// nor on this machine is refused there.
    pub fn set_brokers(&self, addresses: Vec<Address>) {
        *locked(&self.shared.brokers) = addresses;
    }

    /// What the connection is now.
    #[must_use]
    pub fn state(&self) -> State {
        *self.shared.state.borrow()
    }

    /// Tells of changes of the state.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<State> {
        self.shared.state.subscribe()
    }

    /// What the server that was connected last says of itself.
    #[must_use]
    pub fn server(&self) -> ServerInfo {
        locked(&self.shared.server).clone()
    }

    /// How many events did not fit into the channel.
    #[must_use]
    pub fn events_lost(&self) -> u64 {
        self.shared.events_lost.load(Ordering::Relaxed)
    }

    /// A subject that only this client listens on, and that nobody can guess; below the inbox of its role.
    #[must_use]
    pub fn new_inbox(&self) -> String {
        let (prefix, _) = self.shared.inbox.rsplit_once('.').unwrap_or(("_INBOX", ""));
        format!("{prefix}.{}", random_token())
    }

    /// Publishes. It is on its way to the server when this returns; nothing says that it came there.
    ///
    /// # Errors
    ///
    /// When nobody is connected, or it cannot be sent.
    pub async fn publish(&self, message: Outgoing<'_>) -> Result<(), SendError> {
        loop {
            // Before the look, so that no change is missed.
            let drained = self.shared.drained.notified();
            {
                let mut out = locked(&self.shared.out);
                if !out.connected {
                    return Err(SendError::NotConnected);
                }
                if message.payload.len() > out.max_payload.min(wire::MAX_MESSAGE_BYTES) {
                    return Err(SendError::TooLarge(message.payload.len()));
                }
                if out.buffer.len() < MAX_OUTGOING {
                    let Outgoing { subject, reply, headers, payload } = message;
                    wire::publish(&mut out.buffer, subject, reply, headers, payload)?;
                    break;
                }
            }
            drained.await;
        }
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Publishes a payload.
    ///
    /// # Errors
    ///
    /// See [`Client::publish`].
    pub async fn send(&self, subject: &str, payload: &[u8]) -> Result<(), SendError> {
        self.publish(Outgoing { subject, payload, ..Outgoing::default() }).await
    }

    /// Publishes and waits for one answer.
    ///
    /// # Errors
    ///
    /// When it cannot be sent, nobody is there, or no answer comes in time.
    pub async fn request(&self, message: Outgoing<'_>, within: Duration) -> Result<Message, RequestError> {
        let token = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        locked(&self.shared.asked).insert(token, Asked { subject: message.subject.to_owned(), answer });
        let _forget = Forget { shared: &self.shared, token };
        let reply = format!("{}.{token}", self.shared.inbox);
        // Its way out counts as well: a server may take nothing more.
        let asking = async {
            self.publish(Outgoing { reply: Some(&reply), ..message }).await?;
            answered.await.map_err(|_| RequestError::Disconnected)
        };
        match timeout(within, asking).await {
            Ok(Ok(Some(answer))) if answer.status == Some(503) => Err(RequestError::NoResponders),
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Ok(None)) => Err(RequestError::NotPermitted(message.subject.to_owned())),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(RequestError::TimedOut(within)),
        }
    }

    /// Subscribes, now and after each reconnect, until the subscription is dropped.
    ///
    /// # Errors
    ///
    /// When the subject cannot be one.
    pub fn subscribe(&self, subject: &str) -> Result<Subscription, BadText> {
        wire::check_subject(subject)?;
        let (sender, receiver) = mpsc::channel(self.shared.capacity);
        let queued = Arc::new(AtomicUsize::new(0));
        let sid = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
        {
            let mut out = locked(&self.shared.out);
            let sub = Sub { subject: subject.to_owned(), sender, queued: queued.clone() };
            locked(&self.shared.subs).insert(sid, sub);
            if out.connected {
                wire::subscribe(&mut out.buffer, subject, sid);
            }
        }
        self.shared.wake.notify_one();
        Ok(Subscription { shared: self.shared.clone(), sid, receiver, queued })
    }

    /// Waits until the server has read all that was sent before.
    ///
    /// # Errors
    ///
    /// When the connection is gone.
    pub async fn flush(&self, within: Duration) -> Result<(), RequestError> {
        let (sender, receiver) = oneshot::channel();
        self.shared.ping(Some(sender))?;
        match timeout(within, receiver).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(RequestError::Disconnected),
            Err(_) => Err(RequestError::TimedOut(within)),
        }
    }
}

/// Forgets a question whose answer is not waited for any more.
struct Forget<'c> {
    shared: &'c Shared,
    token: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        locked(&self.shared.asked).remove(&self.token);
    }
}

/// Messages of a subject.
pub struct Subscription {
    shared: Arc<Shared>,
    sid: u64,
    receiver: mpsc::Receiver<Message>,
    queued: Arc<AtomicUsize>,
}

impl Subscription {
    /// The next message; `None` when the connection has ended for good.
    pub async fn next(&mut self) -> Option<Message> {
        let message = self.receiver.recv().await?;
        self.queued.fetch_sub(message.size(), Ordering::Relaxed);
        Some(message)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut out = locked(&self.shared.out);
        locked(&self.shared.subs).remove(&self.sid);
        if out.connected {
            wire::unsubscribe(&mut out.buffer, self.sid);
            drop(out);
            self.shared.wake.notify_one();
        }
    }
}

/// 128 random bits as a token of a subject.
#[must_use]
pub fn random_token() -> String {
    let bytes: [u8; 16] = random::bytes().expect("the kernel has random numbers once it has started");
    data_encoding::HEXLOWER.encode(&bytes)
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Protocol(#[from] ProtocolError),
    #[error("the broker closed the connection")]
    ByServer,
    #[error("the broker does not respond")]
    Silent,
    #[error("the broker takes nothing that is sent to it")]
    TakesNothing,
    #[error("the broker is shutting down")]
    Stops,
}

/// Connects again and again until nobody holds the client any more.
async fn run(shared: Arc<Shared>, settings: LinkSettings, mut opened: Option<Opened>) {
    let _ends = Ends(shared.clone());
    let working = async {
        let mut attempt = usize::from(opened.is_some());
        let mut next = usize::from(opened.is_some());
        loop {
            if let Some(link) = opened.take() {
                let since = Instant::now();
                let why = serve(&shared, link).await;
                shared.disconnected();
                shared.tell(BrokerEvent::Problem(cut(&why.to_string())));
                attempt = if since.elapsed() >= GOOD_AFTER { 1 } else { attempt.max(1) };
            }
            if attempt > 0 {
                tokio::time::sleep(backoff(attempt, random::fraction())).await;
            }
            attempt = attempt.saturating_add(1);
            let address = {
                let brokers = locked(&shared.brokers);
                let count = brokers.len() + settings.addresses.len();
                brokers.iter().chain(&settings.addresses).nth(next % count.max(1)).cloned()
            };
            let Some(address) = address else { return };
            next = next.wrapping_add(1);
            match timeout(CONNECT_WITHIN, open(&settings, &address)).await {
                Ok(Ok(link)) => {
                    shared.connected(&link.info);
                    opened = Some(link);
                }
                Ok(Err(error)) => shared.tell(error.event(&address)),
                Err(_) => shared.tell(BrokerEvent::Problem(format!("{address} does not respond"))),
            }
        }
    };
    tokio::select! {
        () = working => {}
        () = shared.close.notified() => {}
    }
}

fn cut(text: &str) -> String {
    text.chars().take(512).collect()
}

/// Reads and writes until the connection ends.
async fn serve(shared: &Shared, opened: Opened) -> Ended {
    let Opened { stream, mut buffer, .. } = opened;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (quiet, unanswered) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let reading = async {
        loop {
            while let Some(operation) = wire::decode(&mut buffer)? {
                match operation {
                    Operation::Message(message) => shared.take(message),
                    Operation::Ping => {
                        let mut out = locked(&shared.out);
                        // A server that asks without end and reads nothing gets no answer.
                        if out.buffer.len() < 2 * MAX_OUTGOING {
                            wire::pong(&mut out.buffer);
                            shared.wake.notify_one();
                        }
                    }
                    Operation::Pong => {
                        unanswered.store(0, Ordering::Relaxed);
                        let waiting = locked(&shared.pongs).pop_front().flatten();
                        if let Some(waiting) = waiting {
                            waiting.send(()).ok();
                        }
                    }
                    Operation::Ok => {}
                    Operation::Info(info) => {
                        let stops = info.ldm;
                        *locked(&shared.server) = *info;
                        if stops {
                            shared.tell(BrokerEvent::BrokerStops);
                            return Err::<(), _>(Ended::Stops);
                        }
                    }
                    Operation::Error(words) => shared.complains(&words),
                }
            }
            if buffer.capacity() - buffer.len() < READ_BYTES / 4 {
                buffer.reserve(READ_BYTES);
            }
            if reader.read_buf(&mut buffer).await? == 0 {
                return Err(Ended::ByServer);
            }
            quiet.store(0, Ordering::Relaxed);
            // A server that sends without end must not keep everybody else from working.
            tokio::task::consume_budget().await;
        }
    };
    let writing = async {
        loop {
            let bytes = std::mem::take(&mut locked(&shared.out).buffer);
            if bytes.is_empty() {
                shared.wake.notified().await;
                continue;
            }
            let mut rest = bytes.as_ref();
            while !rest.is_empty() {
                match timeout(WRITE_WITHIN, writer.write(rest)).await {
                    Ok(Ok(0)) | Err(_) => return Ended::TakesNothing,
                    Ok(Ok(count)) => rest = &rest[count..],
                    Ok(Err(error)) => return Ended::from(error),
                }
            }
            match timeout(WRITE_WITHIN, writer.flush()).await {
                Ok(Ok(())) => shared.drained.notify_waiters(),
                Ok(Err(error)) => return Ended::from(error),
                Err(_) => return Ended::TakesNothing,
            }
        }
    };
    let asking = async {
        let mut ticks = interval(PING_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let is_quiet = quiet.fetch_add(1, Ordering::Relaxed) >= 2;
            if unanswered.fetch_add(1, Ordering::Relaxed) >= UNANSWERED || is_quiet {
                return;
            }
            shared.ping(None).ok();
        }
    };
    tokio::select! {
        ended = reading => ended.err().unwrap_or(Ended::ByServer),
        ended = writing => ended,
        () = asking => Ended::Silent,
    }
}
