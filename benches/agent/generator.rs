//! A module that writes as many log lines or alerts as it is told, as fast as it can.
//!
//! Each life connects to the benchmark's socket (its path is in [`SOCKET_VARIABLE`]) and takes orders there, one
//! a line: `log COUNT` or `alert COUNT` or `numbered COUNT` (alerts with ids, which the agent acknowledges).
//! The same program is the peer's generator: what it writes does not depend on who reads.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use vigie_benchmark::BenchResult;
use vigie_protocol::message::{
    Class, Message, MessageRef, PROTOCOL_VERSION, RUN_DIR_VARIABLE, RegisterParameters, capability,
};

/// Hidden argument that makes the benchmark this module.
pub(crate) const ARGUMENT: &str = "--be-generator";

/// Environment variable with the path of the benchmark's socket.
pub(crate) const SOCKET_VARIABLE: &str = "VIGIE_BENCH_SOCKET";

/// Lines that are written at once.
const BLOCK_LINES: u64 = 512;

/// Number of the first line: all numbers have ten digits, none begins with a zero.
pub(crate) const FIRST_NUMBER: u64 = 1_000_000_000;

/// What stands where the number of a line goes.
const NUMBER_PLACE: &str = "##########";

/// What the lines are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Log lines.
    Log,
    /// Alerts without an id, as MIG's modules send them.
    Alert,
    /// Alerts with an id, as our modules send them.
    NumberedAlert,
}

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Alert => "alert",
            Self::NumberedAlert => "numbered",
        }
    }

    fn named(word: &str) -> Option<Self> {
        [Self::Log, Self::Alert, Self::NumberedAlert].into_iter().find(|kind| kind.word() == word)
    }

    /// One line with a place for its number. The text is 100 bytes long; an alert's is a JSON object, as the
    /// custom is, so that its quotation marks are escaped.
    fn template(self) -> Vec<u8> {
        let message = match self {
            Self::Log => format!(
                "accepted publickey for backup from 192.0.2.17 port 51234 ssh2 session {NUMBER_PLACE} at the usual hour"
            ),
            Self::Alert | Self::NumberedAlert => format!(
                r#"{{"severity":"high","alert":"unhandled notification for /srv/data/incoming/{NUMBER_PLACE}/report.txt"}}"#
            ),
        };
        match self {
            Self::Log => Message::log(&message).to_line(),
            Self::Alert => Message::alert(&message, None).to_line(),
            Self::NumberedAlert => Message::alert(&message, Some(&format!("bench-{NUMBER_PLACE}"))).to_line(),
        }
    }
}

/// Lines with consecutive numbers, made once and renumbered in place: a generator must be faster than whoever
/// reads from it.
struct Block {
    bytes: Vec<u8>,
    line_bytes: usize,
    /// Where the numbers of one line are.
    places: Vec<usize>,
}

impl Block {
    fn new(kind: Kind) -> Self {
        let template = kind.template();
        let width = NUMBER_PLACE.len();
        let places = (0..template.len() - width)
            .filter(|&at| &template[at..at + width] == NUMBER_PLACE.as_bytes())
            .collect();
        Self { bytes: template.repeat(BLOCK_LINES as usize), line_bytes: template.len(), places }
    }

    /// The first `count` lines, numbered from `first`.
    fn numbered(&mut self, first: u64, count: u64) -> &[u8] {
        for (line, number) in self.bytes.chunks_exact_mut(self.line_bytes).zip(first..first + count) {
            for &place in &self.places {
                let mut rest = number;
                for digit in line[place..place + NUMBER_PLACE.len()].iter_mut().rev() {
                    *digit = b'0' + (rest % 10) as u8;
                    rest /= 10;
                }
            }
        }
        &self.bytes[..self.line_bytes * count as usize]
    }
}

/// Runs until the agent is gone.
pub(crate) fn run() -> BenchResult<()> {
    let socket = std::env::var(SOCKET_VARIABLE)?;
    let _listener = std::env::var(RUN_DIR_VARIABLE).ok().map(|directory| register(&directory)).transpose()?;
    let orders = UnixStream::connect(socket)?;
    // Orders are taken on a thread of their own, so that heartbeats are answered meanwhile.
    std::thread::spawn(move || {
        if let Err(error) = take_orders(orders) {
            vigie_benchmark::complain(&format!("generator: {error}"));
        }
    });
    answer_heartbeats()
}

/// Echoes heartbeats until stdin ends, which is how an agent says that it is gone, or it says stop.
pub(crate) fn answer_heartbeats() -> BenchResult<()> {
    let mut line = String::new();
    let mut stdin = std::io::stdin().lock();
    while stdin.read_line(&mut line)? > 0 {
        if let Ok(message) = MessageRef::parse(&line) {
            match message.class {
                Class::Ping => std::io::stdout().lock().write_all(&Message::pong(&message).to_line())?,
                Class::Stop => return Ok(()),
                _ => {}
            }
        }
        line.clear();
    }
    Ok(())
}

fn take_orders(stream: UnixStream) -> BenchResult<()> {
    let mut orders = BufReader::new(stream);
    let mut order = String::new();
    let mut next = FIRST_NUMBER;
    loop {
        order.clear();
        if orders.read_line(&mut order)? == 0 {
            return Ok(());
        }
        let Some((word, count)) = order.trim_end().split_once(' ') else { continue };
        let kind = Kind::named(word).ok_or("unknown order")?;
        let end = next + count.parse::<u64>()?;
        let mut block = Block::new(kind);
        while next < end {
            let count = BLOCK_LINES.min(end - next);
            std::io::stdout().lock().write_all(block.numbered(next, count))?;
            next += count;
        }
        std::io::stdout().lock().flush()?;
    }
}

/// Registers a query socket, so that this is a module like any other. Shared with the module that is restarted.
///
/// # Errors
/// When the socket cannot be made or the agent does not read.
pub(crate) fn register(run_dir: &str) -> BenchResult<UnixListener> {
    let path = Path::new(run_dir).join("persist-bench.sock");
    // What an earlier life left there.
    std::fs::remove_file(&path).ok();
    let listener = UnixListener::bind(&path)?;
    let parameters = RegisterParameters {
        sockpath: Cow::Owned(format!("unix:{}", path.display())),
        protocol: Some(PROTOCOL_VERSION),
        capabilities: vec![capability::ALERT_ACK.into(), capability::STOP.into()],
    };
    std::io::stdout().lock().write_all(&Message::register(&parameters).to_line())?;
    Ok(listener)
}
