//! What a module author implements.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::outbox::{AlertId, Outbox};
use crate::reporter::Reporter;
use crate::request::time_left;
use vigie_protocol::condition::Condition;
use vigie_protocol::message::{Asker, ConfigParameters, Environment, Progress};
use vigie_protocol::result::ModuleResult;

/// A module that runs as long as the agent and watches something.
///
/// The methods are called from threads that may block; several queries can run at once.
pub trait PersistentModule: Send + Sync + Sized + 'static {
    /// The module's name: lower-case letters, digits, `-` and `_`.
    const NAME: &'static str;

    /// Whether [`PersistentModule::reconfigure`] works; without it the agent restarts the module when its
    /// configuration changes.
    const RECONFIGURES: bool = false;

    /// The module's own configuration, with keys in lower case.
    type Config: DeserializeOwned + Send;

    /// Starts to watch. Must not wait for long work: heartbeats are answered meanwhile, queries only after it.
    ///
    /// # Errors
    /// When the module cannot work with this configuration; it is logged and the module exits with 78.
    fn start(settings: Settings<Self::Config>, host: Host) -> Result<Self, ModuleError>;

    /// Takes a new configuration while running.
    ///
    /// # Errors
    /// When the configuration is invalid; the module goes on with the old one and the error is logged.
    fn reconfigure(&self, settings: Settings<Self::Config>) -> Result<(), ModuleError> {
        let _ = settings;
        Err(ModuleError::new("this module cannot be reconfigured while it runs"))
    }

    /// Answers one query.
    fn query(&self, query: Query) -> ModuleResult;

    /// The agent has the alert with this id on disk; state that depends on it may now be committed.
    fn acknowledged(&self, id: &str) {
        let _ = id;
    }

    /// The agent asked whether the module is alive, and was answered already: an occasion for small periodic work
    /// that needs no timer of its own.
    fn heartbeat(&self) {}

    /// The agent asks the module to end; called once, the process exits when it returns.
    fn stop(&self) {}
}

/// A module that answers one question and exits.
pub trait StandardModule: Sized + 'static {
    /// The module's name: lower-case letters, digits, `-` and `_`.
    const NAME: &'static str;

    /// Answers the query. Long work looks at [`Query::is_stopped`] now and then and returns what it has.
    fn run(query: &Query) -> ModuleResult;
}

/// One query to a module.
#[derive(Debug, Clone)]
pub struct Query {
    /// The parameters' JSON text, syntax checked.
    pub parameters: Option<Box<RawValue>>,
    /// Mask what identifies in the answer.
    pub extraprivacy: bool,
    /// RFC 3339 time after which nobody waits for the answer.
    pub deadline: Option<String>,
    /// Who asks, as far as the agent can prove it; `None` from an agent that does not say.
    pub asker: Option<Asker>,
    pub(crate) progress: Option<Reporter>,
    pub(crate) stopped: Arc<std::sync::atomic::AtomicBool>,
    /// When the work must end, once it was asked for.
    pub(crate) answer_at: std::sync::OnceLock<Option<Deadlines>>,
    pub(crate) so_far: Arc<SoFar>,
}

/// Makes an answer of what a module has found so far; empty once it was taken.
#[derive(Default)]
pub(crate) struct SoFar(Mutex<Option<Box<dyn FnOnce() -> ModuleResult + Send>>>);

impl SoFar {
    pub(crate) fn take(&self) -> Option<Box<dyn FnOnce() -> ModuleResult + Send>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl std::fmt::Debug for SoFar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SoFar")
    }
}

/// What [`Query::keep`] keeps.
#[must_use = "the module's own answer is made through it"]
#[derive(Debug)]
pub struct Kept<'q>(&'q SoFar);

impl Kept<'_> {
    /// Makes the module's own answer, which is waited for from now on in place of one of what was found so far. Does
    /// nothing when that is being made already: it may be taking the findings, and only one of both can have them.
    pub fn answer(self, own: impl FnOnce() -> ModuleResult) -> ModuleResult {
        self.0.take().map_or_else(ModuleResult::default, |_| own())
    }
}

/// What a deadline means here. Of a timeout of two seconds or more the last half second is kept for the answer, of a
/// shorter one its last quarter; in it, each step has its share:
///
/// | left | then |
/// |---|---|
/// | 500 ms, 1/4 | the work must end |
/// | 300 ms, 3/20 | the module has not answered: what it found so far is its answer |
/// | 150 ms, 3/40 | that did not come either: there is an answer without it |
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// When the work must end.
    pub(crate) work: Instant,
    /// When what was found so far is the answer.
    pub(crate) so_far: Instant,
    /// When somebody else must answer, because the module did not.
    pub(crate) answer: Instant,
}

/// Most that is kept of a timeout for writing the answer.
const LEAD: Duration = Duration::from_millis(500);

impl Deadlines {
    fn of(now: Instant, left: Duration) -> Self {
        let (end, lead) = (now + left, LEAD.min(left / 4));
        Self { work: end - lead, so_far: end - lead * 3 / 5, answer: end - lead * 3 / 10 }
    }
}

impl Query {
    /// A query with these parameters and nothing else, as a module's own tests ask it.
    #[must_use]
    pub fn new(parameters: Option<Box<RawValue>>) -> Self {
        Self {
            parameters,
            extraprivacy: false,
            deadline: None,
            asker: None,
            progress: None,
            stopped: Arc::default(),
            answer_at: std::sync::OnceLock::new(),
            so_far: Arc::default(),
        }
    }

    /// Says how an answer is made of what was found so far, for the case that the module does not return in time: a
    /// disk or the server of a file system may hold it for ever. It is called at most once, on another thread, and the
    /// module's own answer, which it makes with [`Kept::answer`], does not count any more then; so both may take what
    /// they need out of a mutex that the module does not hold while it waits for anything. Called once in a query.
    pub fn keep(&self, so_far: impl FnOnce() -> ModuleResult + Send + 'static) -> Kept<'_> {
        *self.so_far.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(so_far));
        Kept(&self.so_far)
    }

    /// Reads the parameters; keys may have any case.
    ///
    /// # Errors
    /// When they do not have the form of `T`; the message names the field.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ModuleError> {
        vigie_protocol::json::from_any_case(self.parameters.as_deref())
            .map_err(|error| ModuleError::rejected(format!("invalid parameters: {error}")))
    }

    /// Tells whoever asked how far the work is, when he wants to know. Call it as often as is convenient: what comes
    /// less than a quarter of a second after the last one costs nothing but a look at the clock.
    pub fn report(&self, progress: impl FnOnce() -> Progress) {
        if let Some(reporter) = &self.progress {
            reporter.report(progress);
        }
    }

    /// The same query, whose reports go to `sink`, as a module's own tests read them.
    #[must_use]
    pub fn reporting_to(mut self, sink: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.progress = Some(Reporter::new(sink));
        self
    }

    /// Whether the agent no longer waits, or will not soon: return what was found so far.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(std::sync::atomic::Ordering::Relaxed) || self.is_late()
    }

    /// Whether so little time is left until the deadline that the answer is to be written now. The first call starts
    /// the clock.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.deadlines().is_some_and(|deadlines| deadlines.work <= now())
    }

    /// How much time is left until the work must end; `None` when nobody set a deadline.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        self.deadlines().map(|deadlines| deadlines.work.saturating_duration_since(now()))
    }

    /// How long threads that were told to end may be waited for when the work must end: a part of the time that is
    /// kept for the answer.
    #[must_use]
    pub fn parting(&self) -> Duration {
        let of = |deadlines: Deadlines| (deadlines.so_far - deadlines.work) / 2;
        self.deadlines().map_or(LEAD / 5, of)
    }

    pub(crate) fn deadlines(&self) -> Option<Deadlines> {
        *self.answer_at.get_or_init(|| {
            let left = time_left(self.deadline.as_deref()?, jiff::Timestamp::now())?;
            Some(Deadlines::of(now(), left))
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "a module of its own process lives in real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// What the agent tells a persistent module at its start.
#[derive(Debug, Clone, Default)]
pub struct Settings<C> {
    /// The module's own configuration.
    pub config: C,
    /// The host's name.
    pub hostname: String,
    /// What kind of host this is.
    pub environment: Environment,
    /// Labels that the operator gave this host.
    pub tags: std::collections::BTreeMap<String, String>,
    /// Mask what identifies in query results.
    pub extraprivacy: bool,
    /// Where the module may keep its state; `None` under an agent that does not say.
    pub state_dir: Option<std::path::PathBuf>,
    /// Files and directories that the agent itself writes for every alert.
    pub own_paths: Vec<std::path::PathBuf>,
    /// Which configuration this is, as the agent counts them.
    pub generation: Option<u64>,
    /// Texts that the fleet's signed policy has for the module, by name.
    pub packs: std::collections::BTreeMap<String, String>,
}

impl<C: DeserializeOwned> Settings<C> {
    /// Reads the parameters of a `config` message.
    ///
    /// # Errors
    /// When the module's own configuration does not have the form of `C`; the message names the key.
    pub fn from_parameters(parameters: ConfigParameters) -> Result<Self, ModuleError> {
        let config = vigie_protocol::json::from_any_case(parameters.config.as_deref())
            .map_err(|error| ModuleError::new(format!("invalid configuration: {error}")))?;
        Ok(Self {
            config,
            hostname: parameters.hostname,
            environment: parameters.environment,
            tags: parameters.tags.unwrap_or_default(),
            extraprivacy: parameters.extraprivacy,
            state_dir: parameters.statedir.map(Into::into),
            own_paths: parameters.ownpaths.into_iter().map(Into::into).collect(),
            generation: parameters.generation,
            packs: parameters.packs,
        })
    }
}

/// A persistent module's way to the agent. Cloned freely.
#[derive(Debug, Clone)]
pub struct Host {
    pub(crate) outbox: Outbox,
}

impl Host {
    /// Writes a line to the agent's log. Waits while the agent is slow.
    pub fn log(&self, message: &str) {
        self.outbox.log(message);
    }

    /// Sends an alert and returns its id. It is kept, over a crash of the module too, until the agent has it on
    /// disk. Waits while too many alerts are not acknowledged yet.
    pub fn alert(&self, message: &str) -> String {
        self.outbox.alert(message)
    }

    /// Sends an alert that the module keeps itself until [`PersistentModule::acknowledged`] names its id: for modules
    /// whose state and alerts must move together. The id must never have been given to another alert. What is
    /// longer than [`MAX_TEXT_BYTES`](crate::outbox::MAX_TEXT_BYTES) must be cut before it is kept. Waits while too
    /// many alerts are not acknowledged.
    pub fn deliver(&self, id: AlertId, message: &Arc<str>) {
        self.outbox.deliver(id, message);
    }

    /// Tells the agent everything that is wrong with the module at present; an empty list when all is well. The agent
    /// shows it in its status, logs each rise and fall, and raises an alert for what is `failed`. It is told again with
    /// every heartbeat, so nothing is lost when the agent restarts. The names should be documented by the module.
    pub fn report_health(&self, conditions: Vec<Condition>) {
        self.outbox.set_health(conditions);
    }

    /// Shows numbers of the module in the agent's status and metrics, as `vigie_module_value{module, name}`. Names are
    /// of lower-case letters, digits and `_` with the unit at the end, such as `queue_bytes`; at most 64. They go with
    /// the next heartbeat, so this may be called often.
    pub fn report_values(&self, values: BTreeMap<String, u64>) {
        self.outbox.set_values(values);
    }

    /// How many alerts the agent has not acknowledged yet.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.outbox.unacknowledged()
    }
}

/// Why a module cannot do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ModuleError {
    message: String,
    #[source]
    source: Option<std::io::Error>,
    rejects: bool,
}

impl ModuleError {
    /// An error that its text explains fully.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None, rejects: false }
    }

    /// An error of the operating system while doing what `message` says.
    pub fn io(message: impl Into<String>, source: std::io::Error) -> Self {
        Self { message: message.into(), source: Some(source), rejects: false }
    }

    /// Parameters that the module rejects, and why.
    pub fn rejected(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None, rejects: true }
    }

    /// The failed result that reports this error.
    #[must_use]
    pub fn to_result(&self) -> ModuleResult {
        let errors = [self.to_string()];
        if self.rejects { ModuleResult::rejected(errors) } else { ModuleResult::failed(errors) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(deadline: impl ToString) -> Query {
        Query { deadline: Some(deadline.to_string()), ..Query::new(None) }
    }

    #[test]
    fn work_ends_before_the_deadline_so_that_the_answer_can_be_written() {
        assert!(until("2000-01-01T00:00:00Z").is_stopped());
        assert!(!until("2999-01-01T00:00:00Z").is_stopped() && !until("soon").is_stopped());
        let query = until(jiff::Timestamp::now() + jiff::SignedDuration::from_secs(60));
        assert!(!query.is_late());
        let left = query.answer_at.get().unwrap().unwrap().work - now();
        assert!(left <= Duration::from_secs(60) - LEAD && left > Duration::from_secs(30), "{left:?}");
    }

    #[test]
    fn a_short_timeout_has_the_same_steps_as_a_long_one() {
        let begun = now();
        for milliseconds in [1, 10, 100, 500, 1_000, 2_000, 60_000] {
            let left = Duration::from_millis(milliseconds);
            let Deadlines { work, so_far, answer } = Deadlines::of(begun, left);

            assert!(begun < work && work < so_far && so_far < answer && answer < begun + left, "{left:?}");
            assert!(work - begun >= left * 3 / 4, "{left:?}");
            let deadlines = std::sync::OnceLock::from(Some(Deadlines { work, so_far, answer }));
            let query = Query { answer_at: deadlines, ..Query::new(None) };
            assert!(work + query.parting() < so_far, "{left:?}");
        }
    }
}
