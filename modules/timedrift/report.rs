//! What is answered: MIG's keys and sentences, and beside them numbers for programs.

use std::error::Error;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::Serialize;
use vigie_adjtimex::{ClockState, KernelClock};
use vigie_sdk::privacy::{Asked, MASKED, Showing, identifies, mask_errors};
use vigie_sdk::{Coverage, ModuleResult};

use crate::client::Answer;
use crate::court::{Judgement, Ruling};
use crate::daemons::Selected;
use crate::duration::GoDuration;
use crate::selection::{Opinion, Verdict};
use crate::sources::Problem;
use crate::survey::Attempt;

/// Where a server comes from that no file names.
const FALLBACK: &str = "fallback";

/// A clock that moves less against the one that nobody sets is slewed by its daemon.
const CLOCK_AT_REST: Duration = Duration::from_millis(1);

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
    /// What all servers together say, when all were asked.
    #[serde(flatten)]
    ruling: Option<RulingElements>,
    /// The host's clock, RFC 3339.
    localtime: String,
    /// What the kernel holds of its clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<Kernel>,
}

/// What all servers together say.
#[derive(Debug, Serialize)]
struct RulingElements {
    /// `within`, `outside` or `cannot tell`.
    verdict: &'static str,
    /// Why it cannot be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// Where the true time is, as the time minus the host's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    agreed: Option<Agreed>,
    /// Servers that cannot be right if most are.
    liars: Vec<Liar>,
    /// What the host's own daemon follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon: Option<DaemonElements>,
}

#[derive(Debug, Serialize)]
struct Agreed {
    lowest_offset_nanoseconds: i64,
    highest_offset_nanoseconds: i64,
    /// Servers that agree, of those that count.
    servers: usize,
    of: usize,
}

#[derive(Debug, Serialize)]
struct Liar {
    host: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
}

#[derive(Debug, Serialize)]
struct DaemonElements {
    name: &'static str,
    synchronised: bool,
    /// The address that it follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    /// What the others say about that server; left out when it was not asked or not counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    judgement: Option<&'static str>,
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
    /// What became of it, when all servers were asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    judgement: Option<&'static str>,
    /// Its line says that it is to be preferred.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    preferred: bool,
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
    /// The configuration that did not respond.
    unread: Option<String>,
    /// Servers without a valid answer.
    unanswered: Vec<String>,
    /// Servers with one.
    answered: u64,
    /// Drift was asked for and nobody answered.
    failed: bool,
    /// Servers answered, and it still cannot be told.
    undecided: bool,
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
        let elements = Elements {
            hascheckeddrift: false,
            iswithindrift: None,
            drifts: Vec::new(),
            ruling: None,
            localtime,
            kernel,
        };
        Self {
            elements,
            ntpstats: Vec::new(),
            errors,
            unread: None,
            unanswered: Vec::new(),
            answered: 0,
            failed: false,
            undecided: false,
            extraprivacy,
        }
    }

    /// Adds what could not be read of the configurations.
    pub(crate) fn add_problems(&mut self, problems: Vec<Problem>) {
        if self.extraprivacy && !problems.is_empty() {
            let number = problems.len();
            self.errors.push(format!("{number} problems with the configurations of time daemons ({MASKED})"));
        } else {
            self.errors.extend(problems.iter().map(ToString::to_string));
        }
    }

    /// Adds that a path did not respond.
    pub(crate) fn add_unresponsive(&mut self, path: &Path) {
        let path = if self.extraprivacy { MASKED.to_owned() } else { path.display().to_string() };
        self.errors.push(format!("{path} does not respond: it and what comes after it was not read"));
        self.unread = Some(path);
    }

    /// Adds a sentence about what could not be looked at.
    pub(crate) fn add_error(&mut self, error: String) {
        self.errors.push(if self.extraprivacy { MASKED.to_owned() } else { error });
    }

    /// Adds what the servers said, and what follows for a clock that may be off by `tolerance`.
    pub(crate) fn add_attempts(&mut self, attempts: &[Attempt], tolerance: Duration, is_stopped: bool) {
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

    /// Adds what all servers said, and what follows from it.
    pub(crate) fn add_ruling(
        &mut self,
        attempts: &[Attempt],
        ruling: &Ruling,
        selected: Option<&Selected>,
        is_stopped: bool,
    ) {
        for attempt in attempts {
            let statistics = NtpStatistics::new(attempt, self.extraprivacy);
            match &attempt.outcome {
                Ok(_) => self.answered += 1,
                Err(_) => self.unanswered.push(format!("time server {}", statistics.host)),
            }
            self.ntpstats.push(statistics);
        }
        if self.answered == 0 {
            self.failed = true;
            self.explain_failure(is_stopped);
        }
        let within = match ruling.verdict {
            Verdict::Within => Some(true),
            Verdict::Outside => Some(false),
            Verdict::CannotTell => None,
        };
        self.elements.hascheckeddrift = within.is_some();
        self.elements.iswithindrift = within;
        self.undecided = within.is_none();
        if within == Some(false)
            && let Some(sentence) = sentence_of_all(ruling)
        {
            self.elements.drifts.push(sentence);
        }
        let mut liars = Vec::new();
        for one in self.ntpstats.iter().filter(|one| one.judgement == Some(opinion_word(Opinion::Liar))) {
            let at = one.address.as_ref().map(|address| format!(" at {address}")).unwrap_or_default();
            let (is, of) = (ruling.agreeing, ruling.counted);
            self.errors.push(format!("time server {}{at}: disagrees with {is} of {of} that agree", one.host));
            liars.push(Liar { host: one.host.clone(), address: one.address.clone() });
        }
        let daemon = selected.map(|selected| self.daemon(attempts, selected));
        let agreed = ruling.majority.map(|span| Agreed {
            lowest_offset_nanoseconds: to_i64(span.low),
            highest_offset_nanoseconds: to_i64(span.high),
            servers: ruling.agreeing,
            of: ruling.counted,
        });
        self.elements.ruling = Some(RulingElements {
            verdict: match ruling.verdict {
                Verdict::Within => "within",
                Verdict::Outside => "outside",
                Verdict::CannotTell => "cannot tell",
            },
            why: self.undecided.then(|| why_undecided(ruling, self.answered)),
            agreed,
            liars,
            daemon,
        });
    }

    /// What the daemon follows, and what the others say about it.
    fn daemon(&mut self, attempts: &[Attempt], selected: &Selected) -> DaemonElements {
        let followed = selected.server.and_then(|server| {
            attempts.iter().find(|attempt| attempt.address.is_some_and(|address| address.ip() == server))
        });
        let judgement = followed.and_then(|attempt| attempt.judgement).map(judgement_word);
        if judgement == Some(opinion_word(Opinion::Liar)) {
            self.errors.push(format!(
                "{} follows a time server that is contradicted by the others",
                selected.daemon
            ));
        }
        let masked = |server: std::net::IpAddr| {
            if self.extraprivacy { MASKED.to_owned() } else { server.to_string() }
        };
        DaemonElements {
            name: selected.daemon,
            synchronised: selected.synchronised,
            server: selected.server.map(masked),
            judgement,
        }
    }

    fn explain_failure(&mut self, is_stopped: bool) {
        if self.ntpstats.is_empty() {
            let advice =
                "configure one in ntp.conf, chrony.conf or timesyncd.conf, or allow the fallback servers";
            self.errors.push(format!("no time server is configured; {advice}"));
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
    pub(crate) fn into_result(self, took: Duration) -> ModuleResult {
        // Without a check MIG finds the local time; with one it finds a drift.
        let found = match (self.failed || self.undecided, self.elements.iswithindrift) {
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
        // A decision is one whoever did not answer; without any nothing is known.
        coverage.complete = !self.failed && !self.undecided;
        if let Some(path) = self.unread {
            coverage.skip(
                format!("time servers named in {path} and in what is read after it"),
                "the file system does not respond",
            );
        }
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
        ["elements", "verdict" | "why" | "agreed"] => Showing::Anything,
        ["elements", "liars" | "daemon"] => Showing::Inside,
        ["elements", "liars", "host" | "address"] | ["elements", "daemon", "server"] => Showing::Hidden,
        ["elements", "daemon", "name" | "synchronised" | "judgement"] => Showing::Anything,
        ["elements", "drifts"] => Showing::Text(|sentence| {
            sentence.contains(" ntp host masked by ") || sentence.contains(" time servers that agree by ")
        }),
        ["statistics", "exectime"] => Showing::Anything,
        ["statistics", "ntpstats"] => Showing::Inside,
        ["statistics", "ntpstats", key] => match *key {
            "time"
            | "latency"
            | "drift"
            | "reachable"
            | "offset_nanoseconds"
            | "error_bound_nanoseconds"
            | "stratum"
            | "judgement"
            | "preferred" => Showing::Anything,
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

/// The same of all servers together.
fn sentence_of_all(ruling: &Ruling) -> Option<String> {
    let span = ruling.majority?;
    let direction = if span.low > 0 { "behind" } else { "ahead of" };
    let (near, far) = (
        span.low.unsigned_abs().min(span.high.unsigned_abs()),
        span.low.unsigned_abs().max(span.high.unsigned_abs()),
    );
    let duration =
        |nanoseconds| GoDuration::from(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)));
    let (servers, of) = (ruling.agreeing, ruling.counted);
    let (near, far) = (duration(near), duration(far));
    Some(format!("Local time is {direction} {servers} of {of} time servers that agree by {near} to {far}"))
}

fn why_undecided(ruling: &Ruling, answered: u64) -> String {
    let why = match ruling {
        _ if answered == 0 => "no time server gave a valid answer",
        Ruling { lacks_required: true, .. } => {
            "a time server that the configuration requires is not among those that agree"
        }
        Ruling { counted: 0, .. } => "no time server that may be used is near enough to a reference clock",
        Ruling { majority: None, .. } => "no majority of the time servers agrees",
        Ruling { clock_moved, .. } if *clock_moved > CLOCK_AT_REST => {
            "the clock was adjusted while the time servers were queried"
        }
        _ => "the tolerance lies within the error of the agreeing time servers",
    };
    why.to_owned()
}

fn judgement_word(judgement: Judgement) -> &'static str {
    match judgement {
        Judgement::Counted(opinion) => opinion_word(opinion),
        Judgement::TooFar => "too far",
        Judgement::NotSelectable => "not selectable",
        Judgement::NotTrusted => "not trusted",
    }
}

fn opinion_word(opinion: Opinion) -> &'static str {
    match opinion {
        Opinion::Agrees => "agrees",
        Opinion::Doubtful => "doubtful",
        Opinion::Liar => "liar",
        Opinion::NoMajority => "no majority",
    }
}

fn to_i64(nanoseconds: i128) -> i64 {
    i64::try_from(nanoseconds).unwrap_or(if nanoseconds < 0 { i64::MIN } else { i64::MAX })
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
            judgement: attempt.judgement.map(judgement_word),
            preferred: attempt.source.server.options.prefer,
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
