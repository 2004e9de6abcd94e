//! Tells how far the host's clock is from the time that the host's own time servers have.
//!
//! [`sources`] reads which servers the host is configured with, [`survey`] asks them one after the other with
//! [`client`] until one answers validly, [`packet`] decides what of an answer is believed, and [`report`]
//! says it in MIG's words. What the kernel itself holds of its clock is told as well, without any packet.
//!
//! Query parameters and result are described in `docs/timedrift.md`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use vigie_adjtimex::KernelClock;
use vigie_sdk::{ModuleResult, Query, StandardModule};

use crate::client::Patience;
use crate::duration::GoDuration;
use crate::report::Report;
pub use crate::report::masked_form;
use crate::server_line::Server;
use crate::sources::Source;
use crate::survey::Means;

pub mod client;
pub mod duration;
pub mod packet;
pub mod report;
pub mod server_line;
pub mod sources;
pub mod survey;
pub mod timestamp;

mod chrony_conf;
mod ntp_conf;
mod timesyncd_conf;

/// Names the servers of last resort, separated by spaces or commas; set but empty means none.
pub const FALLBACK_VARIABLE: &str = "VIGIE_TIMEDRIFT_FALLBACK";

/// MIG's servers of last resort.
pub const DEFAULT_FALLBACK: [&str; 5] =
    ["time.nist.gov", "0.pool.ntp.org", "1.pool.ntp.org", "2.pool.ntp.org", "3.pool.ntp.org"];

/// Time for all servers together when the query names none.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time for all servers together that a query may name.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// The standard module.
#[derive(Debug)]
pub struct TimeDrift;

impl StandardModule for TimeDrift {
    const NAME: &'static str = "timedrift";

    fn run(query: &Query) -> ModuleResult {
        answer(query, &Host::from_environment())
    }
}

/// The host that is asked about.
#[derive(Clone)]
pub struct Host {
    /// Where its file system begins.
    pub root: PathBuf,
    /// Its servers of last resort, each as `HOST`, `HOST:PORT` or `[ADDRESS]:PORT`.
    pub fallback: Vec<String>,
    /// How servers are asked.
    pub means: Means,
}

impl Host {
    /// The host that this process runs on.
    #[must_use]
    pub fn from_environment() -> Self {
        let fallback = match std::env::var(FALLBACK_VARIABLE) {
            Ok(list) => list
                .split(|c: char| c == ',' || c.is_whitespace())
                .filter(|host| !host.is_empty())
                .map(str::to_owned)
                .collect(),
            Err(std::env::VarError::NotPresent) => DEFAULT_FALLBACK.map(str::to_owned).to_vec(),
            // Somebody wanted something else than the default; asking nobody is the safe reading.
            Err(std::env::VarError::NotUnicode(_)) => Vec::new(),
        };
        Self { root: PathBuf::from("/"), fallback, means: Means::default() }
    }
}

/// The parameters of a query. All are optional.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    /// How far the clock may be off; without it nobody is asked.
    drift: Option<String>,
    /// Time for all servers together.
    timeout: Option<String>,
    /// Whether the servers of last resort may be asked; the host's own list decides who they are.
    fallback: Option<bool>,
}

/// What was asked, checked.
struct Question {
    tolerance: Option<Duration>,
    timeout: Duration,
    fallback: bool,
}

impl Parameters {
    fn check(self) -> Result<Question, String> {
        let tolerance = self.drift.filter(|drift| !drift.is_empty());
        let tolerance = tolerance.map(|drift| parse("drift", &drift)).transpose()?;
        let timeout = match self.timeout {
            Some(timeout) => parse("timeout", &timeout)?,
            None => DEFAULT_TIMEOUT,
        };
        if timeout.is_zero() || timeout > MAX_TIMEOUT {
            let (given, longest) = (GoDuration::from(timeout), GoDuration::from(MAX_TIMEOUT));
            return Err(format!("timeout {given} must be more than 0s and at most {longest}"));
        }
        Ok(Question { tolerance, timeout, fallback: self.fallback.unwrap_or(true) })
    }
}

fn parse(name: &str, text: &str) -> Result<Duration, String> {
    let duration: GoDuration = text.parse().map_err(|error| format!("{name}: {error}"))?;
    u64::try_from(duration.as_nanoseconds())
        .map(Duration::from_nanos)
        .map_err(|_| format!("{name} {duration} is negative; give a duration such as 5s"))
}

/// Answers a query about `host`.
#[must_use]
pub fn answer(query: &Query, host: &Host) -> ModuleResult {
    let began = client::now();
    let question = match query.parse::<Parameters>().map_err(|error| error.to_string()) {
        Ok(parameters) => match parameters.check() {
            Ok(question) => question,
            Err(error) => return ModuleResult::failed([error]),
        },
        Err(error) => return ModuleResult::failed([error]),
    };
    let mut report = Report::new(host.means.clock.wall(), KernelClock::read(), query.extraprivacy);
    if let Some(tolerance) = question.tolerance {
        let configured = sources::configured(&host.root);
        let mut sources = configured.sources;
        report.add_problems(configured.problems);
        if question.fallback {
            let servers = host.fallback.iter().filter_map(|text| {
                let server = Server::from_host(text);
                if server.is_none() {
                    report.add_error(format!("{text:?} of {FALLBACK_VARIABLE} is not a host"));
                }
                server
            });
            let servers: Vec<Server> = servers.collect();
            sources.extend(servers.into_iter().map(|server| Source { server, named_in: None }));
        }
        let is_stopped = || query.is_stopped();
        let patience = Patience { deadline: began + question.timeout, is_stopped: &is_stopped };
        let attempts = survey::ask_in_turn(&sources, &host.means, patience);
        report.add_attempts(&attempts, tolerance, query.is_stopped());
    }
    report.into_result(began.elapsed())
}
