//! Owns the configuration in force and replaces it when a better one can be read.
//!
//! Started last by the agent with a configuration that was loaded before; stopped first. Takes [`Reload`] from
//! the signal handler and `ControlServer`, [`GetConfig`] from `ControlServer`; tells its subscribers with
//! [`ConfigChanged`] and waits for them.
//!
//! ```text
//!              Reload                     read (a work thread)
//! idle ──────────────────► reading ───────────────────────────► applying ──► idle, or reading again when
//!                             ▲ more of them are collected           │        somebody asked meanwhile
//!                             └──────────────────────────────────────┘
//! ```
//!
//! However many ask while one pass runs, one more pass answers all of them: it reads the files after the last
//! of them asked. A configuration with a problem changes nothing. Only a configuration that differs in what it
//! does gets a new generation.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, MessageResult, Recipient, ResponseFuture,
    WrapFuture,
};
use futures_util::future::join_all;
use slog::{Logger, error, info, o, warn};
use tokio::sync::oneshot;

use crate::work_threads::{self, Lane};
use vigie_config::builtin::BuiltinModule;
use vigie_config::difference::{ConfigDifference, take_effect};
use vigie_config::files::{LoadOptions, load};
use vigie_config::model::LoadedConfig;
use vigie_protocol::catalogue::AgentCondition;
use vigie_protocol::condition::Subject;
use vigie_protocol::control::ConfigProblem;
use vigie_protocol::control::{ConfigStatus, InForce, ReloadReport};
use vigie_protocol::severity::Severity;

use crate::conditions::Reporter;
use crate::own_alerts::{self, OwnAlert};
use crate::privacy_memory;
use crate::supervisor::AwaitConfirmations;

/// Longest wait for one subscriber to apply a change. Restarting all modules is not part of it: they only take
/// note.
const SUBSCRIBER_TIMEOUT: Duration = Duration::from_secs(10);

/// Messages that wait in the mailbox; each sender waits for its answer or sends at most one.
const MAILBOX_CAPACITY: usize = 16;

/// Most problems of one pass that are logged and reported: a wrong file can have one a line.
const MAX_PROBLEMS: usize = 100;

/// What [`ConfigLoader`] needs to start.
pub struct ConfigLoaderSpec {
    /// The agent's log.
    pub log: Logger,
    /// Where the files are; `previous` is set by the loader itself.
    pub options: LoadOptions,
    /// The modules that are built in.
    pub builtins: &'static [BuiltinModule],
    /// The configuration that the agent started with.
    pub initial: Arc<LoadedConfig>,
    /// Who is told of changes from the start.
    pub subscribers: Vec<Recipient<ConfigChanged>>,
    /// Who knows what the modules made of a configuration.
    pub confirmations: Recipient<AwaitConfirmations>,
    /// Where it is reported that files are refused.
    pub conditions: Reporter,
    /// Who records alerts of the agent itself.
    pub alerts: Recipient<OwnAlert>,
}

/// Sent to every subscriber when another configuration takes effect, and awaited. A subscriber that fails is
/// named in the log and in the answer to the reload; the others are told all the same.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct ConfigChanged {
    /// The configuration in force from now on.
    pub config: Arc<LoadedConfig>,
    /// What is different from the one before.
    pub difference: Arc<ConfigDifference>,
}

/// Adds a subscriber, which hears of changes from now on. Sent at most once by each subscriber.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Subscribe(pub Recipient<ConfigChanged>);

/// Asks for the configuration in force and how the last attempt to change it went.
#[derive(Debug, Message)]
#[rtype(result = "ConfigView")]
pub struct GetConfig;

/// Answer to [`GetConfig`].
#[derive(Debug, Clone)]
pub struct ConfigView {
    /// The configuration in force.
    pub config: Arc<LoadedConfig>,
    /// The last attempt.
    pub status: ConfigStatus,
}

/// Orders to read the files again; answered when the change has been applied.
#[derive(Debug, Message)]
#[rtype(result = "ReloadReport")]
pub struct Reload {
    /// Only show what would change.
    pub dry_run: bool,
}

/// What a pass found in the files.
type Found = Result<LoadedConfig, Vec<ConfigProblem>>;

/// The actor; see the module's documentation.
pub struct ConfigLoader {
    log: Logger,
    options: LoadOptions,
    builtins: &'static [BuiltinModule],
    subscribers: Vec<Recipient<ConfigChanged>>,
    confirmations: Recipient<AwaitConfirmations>,
    conditions: Reporter,
    alerts: Recipient<OwnAlert>,
    /// The configuration in force.
    current: Arc<LoadedConfig>,
    /// When the last attempt was made, RFC 3339.
    last_reload_at: String,
    /// What kept the last attempt from taking effect; empty when it did.
    last_problems: Vec<ConfigProblem>,
    /// Whether a pass is under way.
    busy: bool,
    /// Whether the next pass is to apply what it finds.
    apply_next: bool,
    /// Who waits for the next pass, and whether for a dry run.
    waiting: Vec<(bool, oneshot::Sender<ReloadReport>)>,
}

impl ConfigLoader {
    /// Makes a loader that holds the configuration the agent started with.
    #[must_use]
    pub fn new(spec: ConfigLoaderSpec) -> Self {
        Self {
            log: spec.log.new(o!("component" => "config_loader")),
            options: spec.options,
            builtins: spec.builtins,
            subscribers: spec.subscribers,
            confirmations: spec.confirmations,
            conditions: spec.conditions,
            alerts: spec.alerts,
            current: spec.initial,
            last_reload_at: now(),
            last_problems: Vec::new(),
            busy: false,
            apply_next: false,
            waiting: Vec::new(),
        }
    }
}

/// What is wrong with the files of single modules.
fn module_problems(config: &LoadedConfig) -> Vec<ConfigProblem> {
    config.modules.iter().filter_map(|spec| spec.config.problem().cloned()).take(MAX_PROBLEMS).collect()
}

impl Actor for ConfigLoader {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_CAPACITY);
        self.report_conditions();
    }
}

impl Handler<Subscribe> for ConfigLoader {
    type Result = ();

    fn handle(&mut self, message: Subscribe, _ctx: &mut Self::Context) {
        self.subscribers.push(message.0);
    }
}

impl Handler<GetConfig> for ConfigLoader {
    type Result = MessageResult<GetConfig>;

    fn handle(&mut self, _message: GetConfig, _ctx: &mut Self::Context) -> Self::Result {
        let problems = self.last_problems.iter().chain(&self.current.warnings);
        let status = ConfigStatus {
            path: self.current.path.clone(),
            generation: self.current.generation,
            last_reload_at: self.last_reload_at.clone(),
            last_reload_ok: self.last_problems.is_empty(),
            problems: problems.take(MAX_PROBLEMS).cloned().collect(),
        };
        MessageResult(ConfigView { config: Arc::clone(&self.current), status })
    }
}

impl Handler<Reload> for ConfigLoader {
    type Result = ResponseFuture<ReloadReport>;

    fn handle(&mut self, message: Reload, ctx: &mut Self::Context) -> Self::Result {
        let (reply, answer) = oneshot::channel();
        self.apply_next |= !message.dry_run;
        self.waiting.push((message.dry_run, reply));
        self.start_pass(ctx);
        let (generation, path) = (self.current.generation, self.options.path().to_owned());
        Box::pin(async move {
            answer.await.unwrap_or_else(|_| {
                let problem = whole_file(path, "the agent is stopping; nothing was reloaded");
                ReloadReport {
                    ok: false,
                    generation,
                    changes: Vec::new(),
                    problems: vec![problem],
                    modules: Vec::new(),
                }
            })
        })
    }
}

impl ConfigLoader {
    /// Starts to read the files for everyone who has asked so far, unless a pass is under way.
    fn start_pass(&mut self, ctx: &mut Context<Self>) {
        if self.busy {
            return;
        }
        self.busy = true;
        let apply = std::mem::take(&mut self.apply_next);
        let waiting = std::mem::take(&mut self.waiting);
        let options = LoadOptions { previous: Some(Arc::clone(&self.current)), ..self.options.clone() };
        let (builtins, path) = (self.builtins, self.options.path().to_owned());
        let reading = async move {
            let found = work_threads::run(Lane::Config, move || load(&options, builtins)).await;
            found.unwrap_or_else(|error| {
                Err(vec![whole_file(path, &format!("reading the configuration failed: {error}"))])
            })
        };
        ctx.spawn(reading.into_actor(self).map(move |found, loader, ctx| {
            loader.pass_read(found, apply, waiting, ctx);
        }));
    }

    /// Takes over what was read, then tells subscribers and those who wait.
    fn pass_read(
        &mut self,
        found: Found,
        apply: bool,
        waiting: Vec<(bool, oneshot::Sender<ReloadReport>)>,
        ctx: &mut Context<Self>,
    ) {
        let before = self.current.generation;
        // The file of one module does not keep the rest from taking effect, but whoever reloads must learn of it.
        let module_problems: Vec<ConfigProblem> = found.iter().flat_map(module_problems).collect();
        let (changes, problems, published) = match found {
            Err(mut problems) => {
                problems.truncate(MAX_PROBLEMS);
                (Vec::new(), problems, None)
            }
            Ok(new) => {
                let (new, difference) = take_effect(&self.current, new);
                let changes = difference.sentences();
                (changes, Vec::new(), if apply { self.replace(new, difference) } else { None })
            }
        };
        let ok = problems.is_empty() && module_problems.is_empty();
        if apply {
            self.last_reload_at = now();
            self.last_problems.clone_from(&problems);
            self.log_result(&changes);
            self.report_conditions();
        }
        let generation = if apply { self.current.generation } else { before };
        let problems = problems.into_iter().chain(module_problems).collect();
        let report = ReloadReport { ok, generation, changes, problems, modules: Vec::new() };
        let telling = self.publish(published);
        // Whoever waits hears what the modules made of it; the next pass need not wait for that.
        let confirming = (apply && report.ok).then(|| self.confirmations.clone());
        ctx.spawn(telling.into_actor(self).map(move |failures, loader, ctx| {
            loader.pass_ended(report, failures, before, waiting, confirming, ctx);
        }));
    }

    /// Makes a valid configuration the one in force. Returns what subscribers must be told.
    fn replace(&mut self, mut new: LoadedConfig, difference: ConfigDifference) -> Option<ConfigChanged> {
        let effective = difference.takes_effect();
        if !effective {
            new.generation = self.current.generation;
        }
        // Also without effect: the warnings may be others.
        self.remember_privacy(&new);
        self.current = Arc::new(new);
        let config = Arc::clone(&self.current);
        effective.then(|| ConfigChanged { config, difference: Arc::new(difference) })
    }

    /// Tells all subscribers at once and waits for them; returns what went wrong.
    fn publish(&self, change: Option<ConfigChanged>) -> impl Future<Output = Vec<String>> + use<> {
        let requests: Vec<_> = change
            .into_iter()
            .flat_map(|change| {
                let tell =
                    move |to: &Recipient<ConfigChanged>| to.send(change.clone()).timeout(SUBSCRIBER_TIMEOUT);
                self.subscribers.iter().map(tell).collect::<Vec<_>>()
            })
            .collect();
        async move {
            let answers = join_all(requests).await;
            answers.into_iter().filter_map(|answer| answer.err().map(|error| error.to_string())).collect()
        }
    }

    /// Answers those who wait, and begins again when somebody asked meanwhile.
    fn pass_ended(
        &mut self,
        report: ReloadReport,
        failures: Vec<String>,
        before: u64,
        waiting: Vec<(bool, oneshot::Sender<ReloadReport>)>,
        confirming: Option<Recipient<AwaitConfirmations>>,
        ctx: &mut Context<Self>,
    ) {
        let mut report = report;
        for failure in failures {
            error!(self.log, "a part of the agent did not apply the configuration"; "error" => ?failure);
            let message = format!("a part of the agent did not apply the change: {failure}");
            report.problems.push(whole_file(self.options.path().to_owned(), &message));
            report.ok = false;
        }
        let (dry_runs, orders): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(dry_run, _)| *dry_run);
        for (_, reply) in dry_runs {
            // Whoever does not wait any more does not need the answer.
            _ = reply.send(ReloadReport { generation: before, ..report.clone() });
        }
        actix_rt::spawn(async move {
            if let Some(confirming) = confirming.filter(|_| !orders.is_empty()) {
                report.modules = confirming.send(AwaitConfirmations).await.unwrap_or_default();
                report.ok &= report.modules.iter().all(|module| module.state == InForce::InForce);
            }
            for (_, reply) in orders {
                _ = reply.send(report.clone());
            }
        });
        self.busy = false;
        if self.apply_next || !self.waiting.is_empty() {
            self.start_pass(ctx);
        }
    }

    /// Raises or clears what is wrong with the files.
    fn report_conditions(&self) {
        let texts = |problems: &[ConfigProblem]| {
            let shown: Vec<String> = problems.iter().take(3).map(ToString::to_string).collect();
            let more = problems.len().saturating_sub(shown.len());
            let more = if more == 0 { String::new() } else { format!("; and {more} more") };
            (!problems.is_empty()).then(|| format!("{}{more}", shown.join("; ")))
        };
        self.conditions.set(AgentCondition::ConfigurationRefused, texts(&self.last_problems));
        // What is wrong with a module's file stands with the module. The Supervisor says so too, but hears of changes
        // only: a file that was broken, or mended, while the module keeps what it has is none.
        for spec in &self.current.modules {
            let problem = spec.config.problem().map(ToString::to_string);
            let module = self.conditions.about(Subject::Module(spec.name().clone()));
            module.set(AgentCondition::ModuleConfigurationInvalid, problem);
        }
        let of_modules: Vec<_> =
            self.current.modules.iter().filter_map(|spec| spec.config.problem()).collect();
        let own: Vec<_> =
            self.current.warnings.iter().filter(|warning| !of_modules.contains(warning)).cloned().collect();
        self.conditions.set(AgentCondition::ConfigurationQuestionable, texts(&own));
        let kept = self.current.privacy_kept;
        self.conditions.set(
            AgentCondition::PrivacyKept,
            kept.then(|| "agent.extraprivacymode is not set; only false turns the mode off".to_owned()),
        );
    }

    /// Notes on disk that extra privacy mode is on, and says it as an alert when it was turned off.
    fn remember_privacy(&mut self, new: &LoadedConfig) {
        let (old, new) = (&self.current.agent.agent, &new.agent.agent);
        let is_on = new.extraprivacymode;
        if old.extraprivacymode == is_on {
            return;
        }
        self.options.remembers_privacy = is_on;
        let (state_dir, log) = (new.state_dir.clone(), self.log.clone());
        actix_rt::spawn(async move {
            let noted = work_threads::run(Lane::Config, move || privacy_memory::set(&state_dir, is_on)).await;
            if let Ok(Err(error)) = noted {
                error!(log, "cannot store the state of extra privacy mode on disk"; "error" => %error);
            }
        });
        if !is_on {
            warn!(self.log, "extra privacy mode was turned off by the configuration");
            let text = "extra privacy mode was turned off by the configuration".to_owned();
            own_alerts::raise(&self.alerts, Severity::High, text);
        }
    }

    fn log_result(&self, changes: &[String]) {
        for problem in &self.last_problems {
            error!(self.log, "configuration rejected; the previous one stays in force"; "problem" => cut(problem));
        }
        if self.last_problems.is_empty() {
            for warning in self.current.warnings.iter().take(MAX_PROBLEMS) {
                warn!(self.log, "configuration has a problem"; "problem" => cut(warning));
            }
            for change in changes {
                info!(self.log, "configuration change"; "change" => ?change);
            }
            info!(self.log, "configuration reloaded";
                "generation" => self.current.generation, "changes" => changes.len());
        }
    }
}

/// A problem as one line of the log: escaped, and cut to 512 bytes.
fn cut(problem: &ConfigProblem) -> String {
    let mut text = format!("{:?}", problem.to_string());
    text.truncate(text.floor_char_boundary(512));
    text
}

fn whole_file(file: PathBuf, message: &str) -> ConfigProblem {
    ConfigProblem { file, line: None, key: None, message: message.to_owned() }
}

fn now() -> String {
    jiff::Timestamp::now().to_string()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test may wait for a disk")]
mod tests;
