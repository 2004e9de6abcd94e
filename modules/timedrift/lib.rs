//! Tells how far the host's clock is from the time that the host's own time servers have.
//!
//! [`sources`] reads which servers the host is configured with, and [`client`] asks one; [`packet`] decides what of an
//! answer is believed. MIG's question goes to one server after the other until one answers validly ([`survey`]), the
//! other one to all of them at once ([`court`]), whose answers are compared ([`selection`]) with one another and with
//! what the host's own daemon follows ([`daemons`]). [`report`] says it. What the kernel itself holds of its clock is
//! told as well, without any packet.
//!
//! Query parameters and result are described in `docs/timedrift.md`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use vigie_adjtimex::KernelClock;
use vigie_sdk::{ModuleResult, Query, StandardModule};

use crate::client::{Clock, Patience};
use crate::daemons::Daemons;
use crate::duration::GoDuration;
use crate::report::Report;
pub use crate::report::masked_form;
use crate::server_line::Server;
use crate::sources::Source;
use crate::survey::Means;

pub mod client;
pub mod court;
pub mod daemons;
pub mod duration;
pub mod packet;
pub mod report;
pub mod selection;
pub mod server_line;
pub mod sources;
pub mod survey;
pub mod timestamp;

mod chrony_conf;
mod ntp_conf;
mod ntpd_rs_conf;
mod openntpd_conf;
mod timesyncd_conf;

/// Names the servers of last resort, separated by spaces or commas; set but empty means none.
pub const FALLBACK_VARIABLE: &str = "VIGIE_TIMEDRIFT_FALLBACK";

/// MIG's servers of last resort.
pub const DEFAULT_FALLBACK: [&str; 5] =
    ["time.nist.gov", "0.pool.ntp.org", "1.pool.ntp.org", "2.pool.ntp.org", "3.pool.ntp.org"];

/// Time for all servers together when the query names none.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// Where its time daemons are asked.
    pub daemons: Daemons,
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
        Self { root: PathBuf::from("/"), fallback, means: Means::default(), daemons: Daemons::default() }
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
    /// Whose answer counts.
    ask: Whom,
}

/// Which servers are asked.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Whom {
    /// One after the other until one answers validly, as MIG does.
    #[default]
    First,
    /// All; what most of them say counts.
    All,
}

/// What was asked, checked.
struct Question {
    tolerance: Option<Duration>,
    timeout: Duration,
    fallback: bool,
    whom: Whom,
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
        Ok(Question { tolerance, timeout, fallback: self.fallback.unwrap_or(true), whom: self.ask })
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
            Err(error) => return ModuleResult::rejected([error]),
        },
        Err(error) => return ModuleResult::rejected([error]),
    };
    let mut report = Report::new(host.means.clock.wall(), KernelClock::read(), query.extraprivacy);
    if let Some(tolerance) = question.tolerance {
        let is_stopped = || query.is_stopped();
        let patience = Patience { deadline: began + question.timeout, is_stopped: &is_stopped };
        let within = query.left().map_or(patience, |left| patience.until(began + left));
        let configured = sources::configured_in_time(&host.root, within);
        let mut sources = configured.sources;
        report.add_problems(configured.problems);
        if let Some(path) = configured.unresponsive {
            report.add_unresponsive(&path);
        }
        if question.fallback {
            let servers = host.fallback.iter().filter_map(|text| {
                let server = Server::from_host(text);
                if server.is_none() {
                    report.add_error(format!("{text:?} of {FALLBACK_VARIABLE} is not a host"));
                }
                server
            });
            let servers: Vec<Server> = servers.collect();
            sources.extend(servers.into_iter().map(|server| Source::new(server, None).for_want_of_others()));
        }
        match question.whom {
            Whom::First => {
                let attempts = survey::ask_in_turn(&sources, &host.means, patience);
                report.add_attempts(&attempts, tolerance, query.is_stopped());
            }
            Whom::All => {
                let selected = host.daemons.ask(patience);
                let clock = &*host.means.clock;
                let before = distance(clock);
                let mut attempts = ask_all(&sources, &host.means, patience);
                let clock_moved = distance(clock).abs_diff(before);
                let clock_moved = Duration::from_nanos(u64::try_from(clock_moved).unwrap_or(u64::MAX));
                let ruling = court::judge(&mut attempts, tolerance, clock_moved);
                report.add_ruling(&attempts, &ruling, selected.as_ref(), query.is_stopped());
            }
        }
    }
    report.into_result(began.elapsed())
}

/// Asks the servers of the host, and those of last resort only when none of the others answers validly.
fn ask_all(sources: &[Source], means: &Means, patience: Patience<'_>) -> Vec<survey::Attempt> {
    let (last, first): (Vec<Source>, Vec<Source>) =
        sources.iter().cloned().partition(|source| source.is_last_resort);
    let until = match (first.is_empty(), last.is_empty()) {
        (false, false) => client::now() + patience.left() * 2 / 3,
        _ => patience.deadline,
    };
    let mut attempts = court::ask_all(&first, means, patience.until(until));
    if !attempts.iter().any(|attempt| attempt.outcome.is_ok()) {
        attempts.extend(court::ask_all(&last, means, patience));
    }
    attempts
}

/// The clock that is measured minus the one that nobody sets, in nanoseconds: it changes when the clock is moved.
fn distance(clock: &dyn Clock) -> i128 {
    let monotonic = clock.monotonic().as_nanos().cast_signed();
    let wall = match clock.wall().duration_since(std::time::UNIX_EPOCH) {
        Ok(after) => after.as_nanos().cast_signed(),
        Err(before) => -before.duration().as_nanos().cast_signed(),
    };
    wall - monotonic
}
