//! `vigie agent`: puts the actors together and runs them until a signal says stop.
//!
//! Order of start: locks, log, journal, registry, supervisor (which starts the modules), router, sinks, configuration
//! loader, socket. The stop is the reverse: nobody new is let in, the modules end, their last alerts are on
//! disk, the sinks end, the guard goes.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use actix::{Actor, Addr};
use clap::Args;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Group;
use slog::{Logger, crit, error, info, warn};
use tokio::signal::unix::{SignalKind, signal};
use vigie_actors::alert_journal::{AlertJournal, FlushJournal};
use vigie_actors::child::ProcessSpawner;
use vigie_actors::conditions::{AlertOnFailure, Conditions, Reporter};
use vigie_actors::config_loader::{ConfigLoader, ConfigLoaderSpec, GetConfig, Reload, Subscribe};
use vigie_actors::containment::Containment;
use vigie_actors::control_server::{AgentFacts, Asked, CloseSocket, ControlServer};
use vigie_actors::descriptors;
use vigie_actors::fleet_link::{self, FleetLink, Voice};
use vigie_actors::guard_link::GuardLink;
use vigie_actors::log_keeper::{LogKeeper, ReopenLog};
use vigie_actors::metrics_server::{CloseMetrics, MetricsServer};
use vigie_actors::module_process::Services;
use vigie_actors::own_alerts::{self, OwnAlerts};
use vigie_actors::privacy_memory;
use vigie_actors::query_router::QueryRouter;
use vigie_actors::run_directory::{DirectoryError, LockedDirectory};
use vigie_actors::sinks::{Sinks, SinksSpec, StopSinks};
use vigie_actors::socket_registry::SocketRegistry;
use vigie_actors::supervisor::{HostFacts, StopAll, Supervisor, confirmed};
use vigie_actors::work_threads::{self, Lane};
use vigie_config::difference::runs;
use vigie_config::files::{self, LoadOptions};
use vigie_config::model::LoadedConfig;
use vigie_files::remote;
use vigie_host::{environment, os_release};
use vigie_log::{AgentLog, LogError};
use vigie_protocol::control::{ConfigProblem, ModuleKind};
use vigie_protocol::error_chain::ErrorChain;
use vigie_protocol::severity::Severity;
use vigie_sinks::alert::Source;

use crate::check_config::Checked;
use crate::exit::{Exit, Failure};
use crate::modules::BUILTINS;
use crate::notify::Notifier;
use crate::print;

/// The agent's own program, by the open file rather than by its name: an upgrade that replaces the file while
/// the agent runs does not make it start modules of another version.
pub(crate) const OWN_PROGRAM: &str = "/proc/self/exe";

/// Open files that the agent would like to be allowed: clients, pipes and queries at their default limits.
const WANTED_OPEN_FILES: u64 = 65_536;

/// Longest that the start waits for a file system without a word.
const SILENCE: Duration = Duration::from_secs(2);

/// Longest wait for the configuration that the service manager is told of.
const STATUS_PATIENCE: Duration = Duration::from_secs(1);

/// Longest that the end of the agent waits for the disk to take the last alerts.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest that the end of the agent waits for the process that writes its log.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// Time after which memory is given back that only the start needed.
const START_IS_OVER: Duration = Duration::from_secs(10);

/// Has the signals that the agent handles wait until it does.
pub(crate) fn hold_signals() -> SigSet {
    let waiting = SigSet::from_iter([Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT]);
    waiting.thread_block().ok();
    waiting
}

/// `agent`
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// The configuration file, in TOML, or in MIG's format if its name ends in .cfg [default:
    /// /etc/vigie/vigie.toml if it exists]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// Runs the agent until it is told to stop.
pub(crate) fn run(args: &AgentArgs, run_dir: Option<PathBuf>) -> ExitCode {
    let waiting = hold_signals();
    match prepare(args, run_dir).and_then(|prepared| start(prepared, waiting)) {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => {
            print::failure(&failure);
            failure.exit.into()
        }
    }
}

/// Reads a configuration as the agent does.
pub(crate) fn load_config(path: Option<&Path>) -> Result<Checked, Vec<ConfigProblem>> {
    let loaded = files::load(&LoadOptions::at_start(path.map(Path::to_owned)), BUILTINS)?;
    let modules = loaded
        .modules
        .iter()
        .filter(|spec| spec.section.enabled && spec.section.kind == ModuleKind::Persistent)
        .map(|spec| spec.name().to_string())
        .collect();
    let invalid = loaded.modules.iter().any(|spec| spec.config.problem().is_some());
    let LoadedConfig { path, warnings, notes, .. } = loaded;
    Ok(Checked { path, warnings, notes, modules, invalid })
}

/// What is ready before any actor runs.
struct Prepared {
    options: LoadOptions,
    config: Arc<LoadedConfig>,
    agent_log: AgentLog,
    log: Logger,
    /// Extra privacy mode was on when this state was last used, and the configuration says that it is off.
    privacy_turned_off: bool,
    /// Held until the process ends.
    _locks: [LockedDirectory; 2],
}

fn prepare(args: &AgentArgs, run_dir: Option<PathBuf>) -> Result<Prepared, Failure> {
    // Whoever asks the agent for its file is in another directory.
    let file = args.config.as_ref().map(|file| std::path::absolute(file).unwrap_or_else(|_| file.clone()));
    let (options, mut config) = load_with_memory(LoadOptions { run_dir, ..LoadOptions::at_start(file) })
        .map_err(|problems| {
            for problem in &problems {
                print::problem(&problem.to_string());
            }
            let hint = "correct it and check it with `vigie check-config`";
            Failure::new(Exit::Config, "the configuration is invalid; the agent does not start", hint)
        })?;
    let agent = config.agent.agent.clone();
    if !Path::new("/proc/self").exists() {
        let hint = "mount it: `mount -t proc proc /proc`";
        return Err(Failure::new(Exit::Unavailable, "/proc is not mounted; the agent cannot work", hint));
    }
    let run_lock = LockedDirectory::lock(&agent.run_dir, 0o700).map_err(|error| directory_failure(&error))?;
    if let Some(name) = &agent.operators_group {
        let group = operators(name)?;
        // They pass through to the agent's socket; the modules' sockets stay shut, and the names in it unseen.
        let opened = std::os::unix::fs::chown(&agent.run_dir, None, Some(group.gid.as_raw()))
            .and_then(|()| std::fs::set_permissions(&agent.run_dir, Permissions::from_mode(0o710)));
        opened.map_err(|error| {
            let message = format!("cannot give the group {name} access to {:?}: {error}", agent.run_dir);
            Failure::new(Exit::Permission, message, "run the agent as root, or remove agent.operators_group")
        })?;
    }
    // Modules of other users pass through to their own directory.
    let state_lock = not_silently(&agent.state_dir, || LockedDirectory::lock(&agent.state_dir, 0o711))
        .map_err(|error| directory_failure(&error))?;
    confirmed::restore(&mut config);
    let limit_stays_low = allow_open_files();
    reserve_descriptors(&config)?;
    let agent_log = AgentLog::open_through(&config.agent.logging, Path::new(OWN_PROGRAM));
    let agent_log = agent_log.map_err(|error| match error {
        LogError::NoWriter { .. } => {
            let hint = "raise the limits of tasks and of open files";
            Failure::new(Exit::Unavailable, ErrorChain(&error).to_string(), hint)
        }
        _ => {
            let hint = disk_hint(&error).unwrap_or("see [logging] in the configuration");
            Failure::new(Exit::Config, ErrorChain(&error).to_string(), hint)
        }
    })?;
    let log = agent_log.logger();
    if let Some(limit) = limit_stays_low {
        warn!(log, "limit of open files stays low"; "limit" => limit);
    }
    for warning in &config.warnings {
        warn!(log, "configuration"; "error" => %warning);
    }
    for note in &config.notes {
        info!(log, "configuration note"; "note" => %note);
    }
    let privacy_turned_off = note_privacy(&options, &config, &log);
    Ok(Prepared {
        privacy_turned_off,
        options,
        config: Arc::new(config),
        agent_log,
        log,
        _locks: [run_lock, state_lock],
    })
}

/// Reads the configuration, with extra privacy mode as it was when this state was last used.
fn load_with_memory(mut options: LoadOptions) -> Result<(LoadOptions, LoadedConfig), Vec<ConfigProblem>> {
    let config = files::load(&options, BUILTINS)?;
    if !privacy_memory::is_set(&config.agent.agent.state_dir) {
        return Ok((options, config));
    }
    options.remembers_privacy = true;
    let config = files::load(&options, BUILTINS)?;
    Ok((options, config))
}

/// Notes on disk whether extra privacy mode is on. Returns whether the configuration turned it off.
fn note_privacy(options: &LoadOptions, config: &LoadedConfig, log: &Logger) -> bool {
    let agent = &config.agent.agent;
    if agent.extraprivacymode == options.remembers_privacy {
        return false;
    }
    if let Err(error) = privacy_memory::set(&agent.state_dir, agent.extraprivacymode) {
        error!(log, "cannot store the state of extra privacy mode on disk"; "error" => %error);
    }
    options.remembers_privacy
}

/// The group whose users may ask.
fn operators(name: &str) -> Result<Group, Failure> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group),
        found => {
            let why = found.err().map_or_else(String::new, |error| format!(": {error}"));
            let message =
                format!("agent.operators_group: the group {name:?} does not exist on this host{why}");
            Err(Failure::new(Exit::Config, message, format!("create it with `groupadd --system {name}`")))
        }
    }
}

fn directory_failure(error: &DirectoryError) -> Failure {
    let message = ErrorChain(error).to_string();
    match error {
        DirectoryError::Held { .. } => Failure::new(
            Exit::AlreadyRunning,
            message,
            "stop it first, or set agent.run_dir and agent.state_dir",
        ),
        DirectoryError::Unusable { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            Failure::new(Exit::Permission, message, "run the agent as root, or configure other directories")
        }
        DirectoryError::Unusable { .. } | DirectoryError::Foreign { .. } => match disk_hint(error) {
            Some(hint) => Failure::new(Exit::Unavailable, message, hint),
            None => Failure::new(Exit::Config, message, "set agent.run_dir and agent.state_dir"),
        },
    }
}

/// What to do about a file system that takes nothing, if that is behind the error.
fn disk_hint(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let code = causes.find_map(|cause| cause.downcast_ref::<std::io::Error>()?.raw_os_error())?;
    match Errno::from_raw(code) {
        Errno::EROFS => Some("the file system is read-only; repair or remount it"),
        Errno::ENOSPC => Some("the file system is full; free space or inodes on it"),
        Errno::EDQUOT => Some("the quota of the file system is used up; free space, or raise it"),
        _ => None,
    }
}

/// Does what a file system that does not respond, or a large journal, holds up, and reports on standard error when it takes
/// long: there is no socket yet that could show it, and perhaps no log.
fn not_silently<T>(directory: &Path, work: impl FnOnce() -> T) -> T {
    let (done, waiting) = mpsc::channel::<()>();
    let text = format!(
        "still opening {directory:?}: its file system is slow or does not respond, or the journal in it is large"
    );
    let reporting = std::thread::Builder::new().spawn(move || {
        if waiting.recv_timeout(SILENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            print::problem(&text);
        }
    });
    let result = work();
    drop(done);
    if let Ok(reporting) = reporting {
        reporting.join().ok();
    }
    result
}

fn start(prepared: Prepared, waiting: SigSet) -> Result<(), Failure> {
    log_panics(prepared.log.clone());
    // Before the runtime, which panics where we can say what is missing.
    work_threads::start().map_err(|error| {
        let hint = "raise the limit of tasks: TasksMax= of the unit, or `ulimit -u` of the agent's user";
        Failure::new(Exit::Unavailable, ErrorChain(&error).to_string(), hint)
    })?;
    let served = actix_rt::System::with_tokio_rt(runtime).block_on(async {
        work_threads::fill_runtime_pool().await;
        serve(&prepared, waiting).await
    });
    prepared.agent_log.finish(LOG_PATIENCE);
    served
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(work_threads::RUNTIME_POOL)
        .thread_keep_alive(work_threads::RUNTIME_POOL_KEEP_ALIVE)
        .build()
        .expect("the few descriptors that it takes are held in reserve")
}

/// Takes the reserve of descriptors, and refuses limits that leave nothing to work with.
fn reserve_descriptors(config: &LoadedConfig) -> Result<(), Failure> {
    let hint = "raise the limit of open files: LimitNOFILE= of the unit, or `ulimit -n`";
    let unusable =
        |error: &dyn std::error::Error| Failure::new(Exit::Unavailable, ErrorChain(error).to_string(), hint);
    let modules = config.modules.iter().filter(|spec| runs(spec)).count();
    descriptors::clients_within(descriptors::limit(), modules).map_err(|error| unusable(&error))?;
    descriptors::hold_reserve().map_err(|error| {
        let (what, hint) = if descriptors::is_shortage(&error) {
            ("cannot reserve descriptors for modules", hint)
        } else {
            ("cannot open /dev/null", null_hint(&error))
        };
        Failure::new(Exit::Unavailable, format!("{what}: {error}"), hint)
    })
}

/// What to do about a `/dev/null` that cannot be opened.
fn null_hint(error: &std::io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENXIO) => "create it: `mknod -m 666 /dev/null c 1 3`, or mount /dev",
        _ => {
            "make it readable for the agent's user: `chmod 666 /dev/null`; /dev must not be mounted with nodev"
        }
    }
}

/// A panic aborts the agent; the modules end with it and the service manager starts it again. Before that it
/// says why.
fn log_panics(log: Logger) {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        crit!(log, "agent aborts because of an internal error"; "error" => ?panic.to_string());
        default(panic);
    }));
}

/// Raises the soft limit of open files as far as the hard one allows; having fewer is no reason not to start.
/// Gives the limit when it could not be raised.
fn allow_open_files() -> Option<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let wanted = hard.min(WANTED_OPEN_FILES);
    (soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_err()).then_some(soft)
}

/// The running actors, as far as their end is concerned.
struct Running {
    supervisor: Addr<Supervisor>,
    journal: Addr<AlertJournal>,
    loader: Addr<ConfigLoader>,
    keeper: Addr<LogKeeper>,
    server: Addr<ControlServer>,
    sinks: Addr<Sinks>,
    metrics: Addr<MetricsServer>,
    guard: GuardLink,
    containment: Containment,
}

async fn serve(prepared: &Prepared, waiting: SigSet) -> Result<(), Failure> {
    let internal =
        |error: std::io::Error| Failure::new(Exit::Internal, format!("cannot receive signals: {error}"), "");
    let mut terminate = signal(SignalKind::terminate()).map_err(internal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(internal)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(internal)?;
    waiting.thread_unblock().ok();

    let containment = Containment::prepare(&prepared.config.agent.agent.run_dir);
    let running = start_actors(prepared, containment.clone()).inspect_err(|_| containment.remove())?;
    let log = &prepared.log;
    let notifier = Rc::new(Notifier::from_environment());
    notifier.ready(&status_of(&prepared.config));
    let period = notifier.watchdog;
    actix_rt::spawn(async {
        tokio::time::sleep(START_IS_OVER).await;
        let given_back = work_threads::run(Lane::Modules, || {
            vigie_memory::give_back_heap();
            vigie_memory::give_back_code();
        });
        given_back.await.ok();
    });
    let mut reloading = None;
    loop {
        let reloaded = async {
            match &mut reloading {
                Some(reload) => reload.await,
                None => std::future::pending().await,
            }
        };
        // Counted from the last sign of life: a stall is not made up for.
        let next_sign = async {
            match period {
                Some(period) => tokio::time::sleep(period).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = next_sign => {
                notifier.alive();
                // A reload through the socket changes it too.
                let (loader, notifier) = (running.loader.clone(), notifier.clone());
                actix_rt::spawn(async move {
                    if let Ok(view) = loader.send(GetConfig).timeout(STATUS_PATIENCE).await {
                        notifier.status(&status_of(&view.config));
                    }
                });
            }
            _ = hang_up.recv() => {
                info!(log, "SIGHUP, reloading");
                running.keeper.try_send(ReopenLog).ok();
                notifier.reloading();
                // Replaces the one before: what this one finds is newer than what that one waits for.
                reloading = Some(Box::pin(running.loader.send(Reload { dry_run: false })));
            }
            _ = reloaded => {
                reloading = None;
                tell_ready(&running.loader, &notifier, prepared).await;
            }
        }
    }
    notifier.stopping();
    stop(running, log).await;
    Ok(())
}

/// Tells the service manager that a reload is over and how many modules are supervised now.
async fn tell_ready(loader: &Addr<ConfigLoader>, notifier: &Notifier, prepared: &Prepared) {
    let view = loader.send(GetConfig).timeout(STATUS_PATIENCE).await;
    let config = view.map_or_else(|_| prepared.config.clone(), |view| view.config);
    notifier.ready(&status_of(&config));
}

fn start_actors(prepared: &Prepared, containment: Containment) -> Result<Running, Failure> {
    let Prepared { options, config, agent_log, log, .. } = prepared;
    let agent = &config.agent.agent;
    let started_at = jiff::Timestamp::now().to_string();
    let started = tokio::time::Instant::now();
    let facts = host_facts(config);

    let conditions = Conditions::new(log).start();
    let reporter = Reporter::agent(conditions.clone());
    let vigie = PathBuf::from(OWN_PROGRAM);
    let guard = GuardLink::start(vigie.clone(), containment.roots(), log.clone());
    let spawner = Rc::new(ProcessSpawner {
        vigie,
        run_dir: agent.run_dir.clone(),
        state_dir: agent.state_dir.clone(),
        containment: containment.clone(),
        guard: guard.clone(),
    });

    let unusable = |error: &(dyn std::error::Error + 'static), hint: &str| {
        let hint = disk_hint(error).unwrap_or(hint);
        Failure::new(Exit::Unavailable, ErrorChain(error).to_string(), hint)
    };
    remote::install(Path::new(OWN_PROGRAM), &agent.state_dir.join("agent.lock")).map_err(|error| {
        let message = format!("cannot start the process that writes the agent's files: {error}");
        Failure::new(Exit::Unavailable, message, "raise the limits of tasks and of open files")
    })?;
    let open = || AlertJournal::open(&agent.state_dir, config.agent.journal, log);
    let opened = not_silently(&agent.state_dir, || remote::despite_kills(open));
    let mut journal = opened.map_err(|error| unusable(&error, "see agent.state_dir in the configuration"))?;
    let sent_through = fleet_link::sent_through(config, journal.directory());
    journal.set_sent_through(sent_through);
    let journal = journal.start();
    let registry = SocketRegistry::new(log).start();
    let services = Services::new(
        log.clone(),
        agent_log.clone(),
        journal.clone(),
        registry.clone(),
        spawner.clone(),
        reporter.clone(),
    );
    let hostname = facts.hostname.clone();
    let own_alerts = OwnAlerts::new(log, agent_log.clone(), journal.clone()).start();
    conditions.try_send(AlertOnFailure(own_alerts.clone().recipient())).ok();
    if prepared.privacy_turned_off {
        let text = "extra privacy mode was turned off by the configuration".to_owned();
        own_alerts::raise(&own_alerts.clone().recipient(), Severity::High, text);
    }
    let packs = fleet_link::stored_packs(config, log);
    let supervisor = Supervisor::new(services, facts, config.clone()).with_packs(packs).start();
    let router =
        QueryRouter::new(log, registry, supervisor.clone(), spawner, config.clone(), BUILTINS).start();
    let voice = Voice { conditions: reporter.clone(), alerts: own_alerts.clone().recipient() };
    let fleet = FleetLink::new(log, router.clone().recipient(), journal.clone(), config.clone(), voice)
        .giving_packs_to(supervisor.clone().recipient())
        .start();
    let sinks = Sinks::new(
        SinksSpec {
            log: log.clone(),
            journal: journal.clone(),
            conditions: reporter.clone(),
            vigie: PathBuf::from(OWN_PROGRAM),
            source: Arc::new(source(&hostname)),
        },
        config.clone(),
    )
    .start();
    let keeper = LogKeeper::new(agent_log.clone(), log).start();
    let loader = ConfigLoader::new(ConfigLoaderSpec {
        log: log.clone(),
        options: options.clone(),
        builtins: BUILTINS,
        initial: config.clone(),
        subscribers: vec![
            keeper.clone().recipient(),
            journal.clone().recipient(),
            router.clone().recipient(),
            supervisor.clone().recipient(),
            fleet.clone().recipient(),
            sinks.clone().recipient(),
        ],
        confirmations: supervisor.clone().recipient(),
        conditions: reporter,
        alerts: own_alerts.recipient(),
    })
    .start();
    let asked = Asked {
        supervisor: supervisor.clone(),
        router: router.clone(),
        conditions,
        journal: journal.clone(),
        fleet,
        sinks: sinks.clone(),
        loader: loader.clone(),
        agent_log: agent_log.clone(),
        agent: Rc::new(AgentFacts {
            hostname,
            started_at,
            started,
            containment: containment.describe().to_owned(),
        }),
    };
    let operators = agent.operators_group.as_deref().map(operators).transpose()?;
    let operators = operators.map(|group| group.gid.as_raw());
    let metrics =
        MetricsServer::new(log, PathBuf::from(OWN_PROGRAM), config, operators, asked.clone()).start();
    loader.try_send(Subscribe(metrics.clone().recipient())).ok();
    let server = ControlServer::open(&agent.run_dir, operators, config, asked, log)
        .map_err(|error| unusable(&error, "see agent.run_dir in the configuration"))?
        .start();
    loader.try_send(Subscribe(server.clone().recipient())).ok();
    let path = config.path.as_ref().map_or_else(|| "defaults".into(), |path| path.to_string_lossy());
    info!(log, "agent started"; "pid" => std::process::id(), "config" => ?path,
        "containment" => containment.describe());
    Ok(Running { supervisor, journal, loader, keeper, server, sinks, metrics, guard, containment })
}

/// What sinks say of this host. Reads small files.
fn source(hostname: &str) -> Source {
    let mut release = os_release::read();
    let mut described = |key: &str| release.remove(key).unwrap_or_default();
    // machine-id(5): 32 hexadecimal digits.
    let machine_id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned();
    let is_id = machine_id.len() == 32 && machine_id.bytes().all(|byte| byte.is_ascii_hexdigit());
    Source {
        host: hostname.to_owned(),
        machine_id: if is_id { machine_id } else { String::new() },
        os_name: described("NAME"),
        os_version: described("VERSION_ID"),
        arch: vigie_host::architecture().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn host_facts(config: &LoadedConfig) -> HostFacts {
    let modules = config.modules.iter().map(|spec| spec.name().to_string()).collect();
    HostFacts { hostname: environment::hostname(), environment: environment::collect(modules) }
}

/// What the service manager shows beside the agent.
fn status_of(config: &LoadedConfig) -> String {
    match config.modules.iter().filter(|spec| runs(spec)).count() {
        1 => "supervises 1 module".to_owned(),
        count => format!("supervises {count} modules"),
    }
}

/// Ends everything, in the reverse order of its start.
async fn stop(running: Running, log: &Logger) {
    info!(log, "agent is stopping");
    running.metrics.send(CloseMetrics).await.ok();
    running.server.send(CloseSocket).await.ok();
    running.supervisor.send(StopAll).await.ok();
    if running.journal.send(FlushJournal).timeout(FLUSH_TIMEOUT).await.is_err() {
        warn!(log, "the last alerts may not be on disk");
    }
    running.sinks.send(StopSinks).await.ok();
    running.guard.done().await;
    let containment = running.containment;
    work_threads::run(Lane::Kill, move || containment.remove()).await.ok();
    info!(log, "agent stopped");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_device_that_is_not_there_is_to_be_made() {
        for errno in [Errno::ENOENT, Errno::ENXIO] {
            assert!(null_hint(&errno.into()).starts_with("create it"), "{errno}");
        }
        for errno in [Errno::EACCES, Errno::EPERM, Errno::EIO] {
            assert!(null_hint(&errno.into()).starts_with("make it readable"), "{errno}");
        }
    }
}
