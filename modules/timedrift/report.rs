//! What is answered: MIG's keys and sentences, and beside them numbers for programs.

use std::error::Error;
use std::io;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::Serialize;
use vigie_adjtimex::{ClockState, KernelClock};
use vigie_sdk::privacy::{Asked, MASKED, Showing, identifies, mask_errors};
use vigie_sdk::{Coverage, ModuleResult};

use crate::client::Answer;
use crate::duration::GoDuration;
use crate::sources::Problem;
use crate::survey::Attempt;

/// Where a server comes from that no file names.
const FALLBACK: &str = "fallback";

/// Go's zero time, which MIG gives where there is none.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// The `elements` of a result.
#[derive(Debug, Serialize)]
struct Elements {
    /// A server answered validly, so that there is something to say about the clock.
    hascheckeddrift: bool,
    /// The clock is as near to the server's as was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    iswithindrift: Option<bool>,
    /// A sentence when it is not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    drifts: Vec<String>,
    /// The host's clock, RFC 3339.
    localtime: String,
    /// What the kernel holds of its clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<Kernel>,
}

/// The kernel's view, see adjtimex(2).
#[derive(Debug, Serialize)]
struct Kernel {
    synchronised: bool,
    state: &'static str,
    status: Vec<&'static str>,
    offset_nanoseconds: i64,
    maximum_error: String,
    estimated_error: String,
    tai_offset_seconds: i32,
}

/// The `statistics` of a result.
#[derive(Debug, Serialize)]
struct Statistics {
    exectime: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ntpstats: Vec<NtpStatistics>,
}

/// One attempt. The first five keys are MIG's.
#[derive(Debug, Serialize)]
struct NtpStatistics {
    host: String,
    /// The server's clock when it answered, RFC 3339.
    time: String,
    /// How long request and answer were on their way.
    latency: String,
    /// The host's clock minus the server's.
    drift: String,
    /// Whether it answered validly.
    reachable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// The file that names the server, or `fallback`.
    source: String,
    /// The server's clock minus the host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset_nanoseconds: Option<i64>,
    /// By how much the offset may be wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_bound_nanoseconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stratum: Option<u8>,
    /// Why there is no time.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A result while it is put together.
#[derive(Debug)]
pub struct Report {
    elements: Elements,
    ntpstats: Vec<NtpStatistics>,
    errors: Vec<String>,
    /// Servers without a valid answer.
    unanswered: Vec<String>,
    /// Servers with one.
    answered: u64,
    /// Drift was asked for and nobody answered.
    failed: bool,
    extraprivacy: bool,
}

impl Report {
    /// A report that nothing but the clock is known for yet. With `extraprivacy` names, addresses and paths
    /// are masked.
    #[must_use]
    pub fn new(local_time: SystemTime, kernel: io::Result<KernelClock>, extraprivacy: bool) -> Self {
        let mut errors = Vec::new();
        let kernel = match kernel {
            Ok(clock) => Some(Kernel::from(clock)),
            Err(error) => {
                errors.push(format!("cannot read the kernel's state of the clock: {error}"));
                None
            }
        };
        let localtime = rfc3339(local_time);
        let elements =
            Elements { hascheckeddrift: false, iswithindrift: None, drifts: Vec::new(), localtime, kernel };
        Self {
            elements,
            ntpstats: Vec::new(),
            errors,
            unanswered: Vec::new(),
            answered: 0,
            failed: false,
            extraprivacy,
        }
    }

    /// Adds what could not be read of the configurations.
    pub fn add_problems(&mut self, problems: Vec<Problem>) {
        if self.extraprivacy && !problems.is_empty() {
            let number = problems.len();
            self.errors.push(format!("{number} problems with the configurations of time daemons ({MASKED})"));
        } else {
            self.errors.extend(problems.iter().map(ToString::to_string));
        }
    }

    /// Adds a sentence about what could not be looked at.
    pub fn add_error(&mut self, error: String) {
        self.errors.push(if self.extraprivacy { MASKED.to_owned() } else { error });
    }

    /// Adds what the servers said, and what follows for a clock that may be off by `tolerance`.
    pub fn add_attempts(&mut self, attempts: &[Attempt], tolerance: Duration, is_stopped: bool) {
        for attempt in attempts {
            let statistics = NtpStatistics::new(attempt, self.extraprivacy);
            if let Ok(answer) = &attempt.outcome {
                let within = is_within(answer, tolerance);
                self.elements.hascheckeddrift = true;
                self.elements.iswithindrift = Some(within);
                if !within {
                    self.elements.drifts.push(sentence(&statistics.host, answer));
                }
            }
            match &attempt.outcome {
                Ok(_) => self.answered += 1,
                Err(_) => self.unanswered.push(format!("time server {}", statistics.host)),
            }
            self.ntpstats.push(statistics);
        }
        if !self.elements.hascheckeddrift {
            self.failed = true;
            self.explain_failure(is_stopped);
        }
    }

    fn explain_failure(&mut self, is_stopped: bool) {
        if self.ntpstats.is_empty() {
            let advice = "name one in ntp.conf, chrony.conf or timesyncd.conf, or allow the fallback list";
            self.errors.push(format!("there is no time server to ask; {advice}"));
        }
        if is_stopped {
            self.errors.push("the query was stopped before a time server answered".to_owned());
        }
        for one in &self.ntpstats {
            let at = one.address.as_ref().map(|address| format!(" at {address}")).unwrap_or_default();
            let why = one.error.as_deref().unwrap_or_default();
            self.errors.push(format!("time server {}{at}: {why}", one.host));
        }
    }

    /// The result after `took`.
    #[must_use]
    pub fn into_result(self, took: Duration) -> ModuleResult {
        // Without a check MIG finds the local time; with one it finds a drift.
        let found = match (self.failed, self.elements.iswithindrift) {
            (true, _) | (_, Some(true)) => false,
            (_, Some(false) | None) => true,
        };
        let statistics = Statistics { exectime: GoDuration::from(took).to_string(), ntpstats: self.ntpstats };
        let mut result = ModuleResult::found(found, &self.elements).with_statistics(&statistics);
        result.success &= !self.failed;
        let mut coverage = Coverage::whole();
        for server in &self.unanswered {
            coverage.skip(server.clone(), "it gave no valid answer");
        }
        coverage.examined = self.answered;
        // One valid answer decides; without any nothing is known.
        coverage.complete = !self.failed;
        result.coverage = Some(coverage);
        if !self.errors.is_empty() {
            result.errors.get_or_insert_default().extend(self.errors);
        }
        if self.extraprivacy {
            mask_errors(&mut result, &Asked::default());
        }
        result
    }
}

/// What a result may show in extra privacy mode: the clocks, not who was asked.
#[must_use]
pub fn masked_form(place: &[&str]) -> Showing {
    match place {
        ["elements" | "statistics"] => Showing::Inside,
        ["elements", "hascheckeddrift" | "iswithindrift" | "localtime" | "kernel"] => Showing::Anything,
        ["elements", "drifts"] => Showing::Text(|sentence| sentence.contains(" ntp host masked by ")),
        ["statistics", "exectime"] => Showing::Anything,
        ["statistics", "ntpstats"] => Showing::Inside,
        ["statistics", "ntpstats", key] => match *key {
            "time"
            | "latency"
            | "drift"
            | "reachable"
            | "offset_nanoseconds"
            | "error_bound_nanoseconds"
            | "stratum" => Showing::Anything,
            "host" | "address" => Showing::Hidden,
            "source" => Showing::Text(|source| source == MASKED || source == FALLBACK),
            "error" => Showing::Unnamed,
            _ => Showing::Nothing,
        },
        ["errors"] => Showing::Text(|error| {
            let server = error.strip_prefix("time server ");
            !identifies(error) && server.is_none_or(|rest| rest.starts_with(MASKED))
        }),
        _ => Showing::Nothing,
    }
}

/// Whether the clock may be within `tolerance`: only what the error bound leaves of the offset counts against
/// it.
fn is_within(answer: &Answer, tolerance: Duration) -> bool {
    let offset = answer.measurement.offset.to_nanoseconds().unsigned_abs();
    let error_bound = answer.measurement.error_bound.to_nanoseconds_up().unsigned_abs();
    u128::from(offset.saturating_sub(error_bound)) <= tolerance.as_nanos()
}

/// MIG's sentence.
fn sentence(host: &str, answer: &Answer) -> String {
    let drift = drift_nanoseconds(answer);
    let direction = if drift < 0 { "behind" } else { "ahead of" };
    let by = GoDuration::from(Duration::from_nanos(drift.unsigned_abs()));
    format!("Local time is {direction} ntp host {host} by {by}")
}

/// The host's clock minus the server's.
fn drift_nanoseconds(answer: &Answer) -> i64 {
    answer.measurement.offset.to_nanoseconds().saturating_neg()
}

fn rfc3339(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(|_| NO_TIME.to_owned(), |time| time.to_string())
}

/// The server's clock when it answered, which the packet tells only relative to the host's clock: it has no
/// era.
fn server_time(answer: &Answer) -> String {
    let later = answer.measurement.transmitted_after_request.to_nanoseconds();
    let by = Duration::from_nanos(later.unsigned_abs());
    let time = if later < 0 { answer.sent_at.checked_sub(by) } else { answer.sent_at.checked_add(by) };
    time.map_or_else(|| NO_TIME.to_owned(), rfc3339)
}

impl NtpStatistics {
    fn new(attempt: &Attempt, extraprivacy: bool) -> Self {
        let masked = |text: String| if extraprivacy { MASKED.to_owned() } else { text };
        let answer = attempt.outcome.as_ref().ok();
        let measurement = answer.map(|answer| answer.measurement);
        Self {
            host: masked(attempt.source.server.host.clone()),
            time: answer.map_or_else(|| NO_TIME.to_owned(), server_time),
            latency: measurement
                .map(|one| GoDuration::from_nanoseconds(one.delay.to_nanoseconds()).to_string())
                .unwrap_or_default(),
            drift: answer
                .map(|answer| GoDuration::from_nanoseconds(drift_nanoseconds(answer)).to_string())
                .unwrap_or_default(),
            reachable: answer.is_some(),
            address: attempt.address.map(|address| masked(address.to_string())),
            source: match &attempt.source.named_in {
                Some(path) => masked(path.display().to_string()),
                None => FALLBACK.to_owned(),
            },
            offset_nanoseconds: measurement.map(|one| one.offset.to_nanoseconds()),
            error_bound_nanoseconds: measurement.map(|one| one.error_bound.to_nanoseconds_up()),
            stratum: measurement.map(|one| one.stratum),
            error: attempt.outcome.as_ref().err().map(|error| chain(error)),
        }
    }
}

/// An error with all its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl From<KernelClock> for Kernel {
    fn from(clock: KernelClock) -> Self {
        Self {
            synchronised: clock.is_synchronised(),
            state: match clock.state {
                ClockState::Synchronised => "ok",
                ClockState::InsertsLeapSecond => "inserts a leap second",
                ClockState::DeletesLeapSecond => "deletes a leap second",
                ClockState::LeapSecondInProgress => "leap second in progress",
                ClockState::LeapSecondPassed => "leap second passed",
                ClockState::Unsynchronised => "error",
                ClockState::Unknown(_) => "unknown",
            },
            status: clock.status_names().collect(),
            offset_nanoseconds: clock.offset_nanoseconds,
            maximum_error: GoDuration::from(clock.maximum_error).to_string(),
            estimated_error: GoDuration::from(clock.estimated_error).to_string(),
            tai_offset_seconds: clock.tai_offset_seconds,
        }
    }
}
