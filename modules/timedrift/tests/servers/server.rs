//! A time server on loopback that answers as its script says, and a clock that only moves when it is told to.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use vigie_timedrift::client::{Clock, Patience};
use vigie_timedrift::timestamp::NtpTimestamp;

/// Longest wait for anything that must come; a ceiling for a broken build.
pub(crate) const CEILING: Duration = Duration::from_secs(30);

/// How long a test waits for what must not come.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

/// Time for a question of which half is waited for a packet that is lost, and half is left for a slow
/// machine.
pub(crate) const HALF_LOST: Duration = Duration::from_secs(4);

/// 2026-11-23T04:10:26Z.
const BEGINNING_UNIX_SECS: u64 = 1_795_407_026;

/// A clock that stands still until a script moves it, so that delays are exact and take no time.
#[derive(Default)]
pub(crate) struct TestClock {
    passed: Mutex<Duration>,
}

impl TestClock {
    pub(crate) fn advance(&self, by: Duration) {
        *self.passed.lock().unwrap() += by;
    }
}

impl Clock for TestClock {
    fn wall(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(BEGINNING_UNIX_SECS) + self.monotonic()
    }

    fn monotonic(&self) -> Duration {
        *self.passed.lock().unwrap()
    }
}

/// The fields of an answer; those of a good one to begin with.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) leap_indicator: u8,
    pub(crate) version: u8,
    pub(crate) mode: u8,
    pub(crate) stratum: u8,
    pub(crate) precision: i8,
    /// In units of 2^-16 s.
    pub(crate) root_delay: u32,
    pub(crate) root_dispersion: u32,
    pub(crate) reference_id: [u8; 4],
    pub(crate) reference: u64,
    pub(crate) origin: u64,
    pub(crate) receive: u64,
    pub(crate) transmit: u64,
    /// Bytes to send; longer than a packet is filled up with zeros.
    pub(crate) length: usize,
}

impl Reply {
    /// A good answer of a server whose clock shows `receive` and then `transmit`.
    pub(crate) fn good(request: &[u8], receive: NtpTimestamp, transmit: NtpTimestamp) -> Self {
        let minute = 60 << 32;
        Self {
            leap_indicator: 0,
            version: 4,
            mode: 4,
            stratum: 2,
            precision: -23,
            root_delay: 0x0000_0100,
            root_dispersion: 0x0000_0100,
            reference_id: [192, 0, 2, 1],
            reference: receive.to_bits().wrapping_sub(minute),
            origin: u64::from_be_bytes(request[40..48].try_into().unwrap()),
            receive: receive.to_bits(),
            transmit: transmit.to_bits(),
            length: 48,
        }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![
            (self.leap_indicator << 6) | (self.version << 3) | self.mode,
            self.stratum,
            6,
            self.precision.cast_unsigned(),
        ];
        bytes.extend(self.root_delay.to_be_bytes());
        bytes.extend(self.root_dispersion.to_be_bytes());
        bytes.extend(self.reference_id);
        for timestamp in [self.reference, self.origin, self.receive, self.transmit] {
            bytes.extend(timestamp.to_be_bytes());
        }
        bytes.resize(self.length, 0);
        bytes
    }
}

/// What a server does with a request: the packets that it sends.
pub(crate) type Script = Box<dyn FnMut(&[u8]) -> Vec<Vec<u8>> + Send>;

/// A server that runs until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server at `address`; port 0 takes a free one.
    pub(crate) fn at(address: &str, mut script: Script) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        let address = socket.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stopped = Arc::new(AtomicBool::new(false));
        let (seen, stop) = (Arc::clone(&requests), Arc::clone(&stopped));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                seen.lock().unwrap().push(buffer[..length].to_vec());
                for packet in script(&buffer[..length]) {
                    // The client may be content and gone.
                    socket.send_to(&packet, from).ok();
                }
            }
        });
        Self { address, requests, stopped, thread: Some(thread) }
    }

    /// A server that never answers.
    pub(crate) fn silent() -> Self {
        Self::at("127.0.0.1:0", Box::new(|_| Vec::new()))
    }

    /// A server whose clock is `ahead_nanoseconds` ahead of `clock` and that answers at once.
    pub(crate) fn ahead(address: &str, clock: Arc<dyn Clock>, ahead_nanoseconds: i64) -> Self {
        Self::at(address, Box::new(move |request| vec![good(request, &*clock, ahead_nanoseconds).to_bytes()]))
    }

    /// The packets that came.
    pub(crate) fn requests(&self) -> Vec<Vec<u8>> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        let any = if self.address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        UdpSocket::bind(any).unwrap().send_to(&[], self.address).unwrap();
        if let Some(thread) = self.thread.take() {
            // A script that failed has failed its test already.
            thread.join().ok();
        }
    }
}

/// A good answer at once, by a clock that is so far ahead of `clock`.
pub(crate) fn good(request: &[u8], clock: &dyn Clock, ahead_nanoseconds: i64) -> Reply {
    let now = shifted(clock.wall(), ahead_nanoseconds);
    Reply::good(request, now, now)
}

/// A time moved by nanoseconds, as NTP carries it.
pub(crate) fn shifted(time: SystemTime, by_nanoseconds: i64) -> NtpTimestamp {
    let by = Duration::from_nanos(by_nanoseconds.unsigned_abs());
    NtpTimestamp::from_system_time(if by_nanoseconds < 0 { time - by } else { time + by })
}

/// Waits so long and is stopped by nobody.
pub(crate) fn patience(time: Duration) -> Patience<'static> {
    Patience { deadline: now() + time, is_stopped: &|| false }
}

#[expect(clippy::disallowed_methods, reason = "sockets do not follow virtual time")]
pub(crate) fn now() -> std::time::Instant {
    std::time::Instant::now()
}
