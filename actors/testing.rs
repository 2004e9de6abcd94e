//! Children without processes and a system with virtual time, for the tests of the actors.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use actix::Actor;
use slog::{Discard, Logger, o};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::sync::{mpsc, oneshot};

use crate::alert_journal::AlertJournal;
use crate::child::{ChildControl, ChildPipes, SpawnError, Spawner};
use crate::conditions::{Conditions, Reporter};
use crate::containment::Group;
use crate::life::Incarnation;
use crate::life::{EndReason, Limit};
use crate::module_process::Services;
use crate::socket_registry::SocketRegistry;
use vigie_config::model::{
    AgentConfig, AgentSection, JournalSection, LimitsSection, LoadedConfig, LogMode, LoggingSection,
    ModuleConfig, ModuleSection, ModuleSpec, ProcessLimits, RestartRule, RestartSection,
};
use vigie_log::AgentLog;
use vigie_protocol::control::ModuleKind;

/// A system in which time passes only when everybody waits, and then at once and exactly.
pub(crate) struct PausedSystem;

impl PausedSystem {
    #[expect(clippy::new_ret_no_self, reason = "the form that the test attribute of actix_rt asks for")]
    pub(crate) fn new() -> actix_rt::SystemRunner {
        actix_rt::System::with_tokio_rt(|| {
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
        })
    }
}

/// The test's side of a child.
pub(crate) struct FakeChild {
    pub(crate) incarnation: Incarnation,
    pub(crate) name: String,
    stdin: BufReader<DuplexStream>,
    stdout: DuplexStream,
    control: Rc<FakeControl>,
}

/// What was done to a child.
pub(crate) struct FakeControl {
    pid: u32,
    exit: RefCell<Option<oneshot::Sender<EndReason>>>,
    /// Whether SIGTERM ends it.
    obeys: Cell<bool>,
    pub(crate) signals: RefCell<Vec<&'static str>>,
    alive: Rc<Cell<usize>>,
}

impl FakeChild {
    /// The next line on its stdin; `None` when that is closed.
    pub(crate) async fn read(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.stdin.read_line(&mut line).await {
            Ok(read) if read > 0 => Some(line.trim_end().to_owned()),
            _ => None,
        }
    }

    pub(crate) async fn say(&mut self, line: &str) {
        self.stdout.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// Answers the next heartbeat; lines before it are skipped.
    pub(crate) async fn pong(&mut self) {
        loop {
            let line = self.read().await.unwrap();
            if line.contains("\"ping\"") {
                return self.say(&line).await;
            }
        }
    }

    pub(crate) fn exit(&self, reason: EndReason) {
        self.control.end(reason);
    }

    pub(crate) fn ignore_sigterm(&self) {
        self.control.obeys.set(false);
    }

    pub(crate) fn signals(&self) -> Vec<&'static str> {
        self.control.signals.borrow().clone()
    }
}

impl FakeControl {
    fn end(&self, reason: EndReason) {
        if let Some(exit) = self.exit.take() {
            self.alive.set(self.alive.get() - 1);
            exit.send(reason).ok();
        }
    }
}

impl ChildControl for FakeControl {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn terminate(&self) {
        self.signals.borrow_mut().push("terminate");
        if self.obeys.get() {
            self.end(EndReason::Signalled(15));
        }
    }

    fn kill(&self) {
        self.signals.borrow_mut().push("kill");
        self.end(EndReason::Signalled(9));
    }

    fn limit_hit(self: Rc<Self>) -> Pin<Box<dyn Future<Output = Option<Limit>>>> {
        Box::pin(std::future::ready(None))
    }

    fn clean_up(self: Rc<Self>) -> Pin<Box<dyn Future<Output = ()>>> {
        Box::pin(std::future::ready(()))
    }
}

/// Hands the test's side of every child to the test.
pub(crate) struct FakeSpawner {
    children: mpsc::UnboundedSender<FakeChild>,
    next_pid: Cell<u32>,
    alive: Rc<Cell<usize>>,
    /// The life that was prepared last.
    incarnation: Cell<Incarnation>,
    /// Most children that lived at the same time.
    pub(crate) most_alive: Cell<usize>,
}

impl FakeSpawner {
    pub(crate) fn new() -> (Rc<Self>, mpsc::UnboundedReceiver<FakeChild>) {
        let (children, receiver) = mpsc::unbounded_channel();
        let spawner = Self {
            children,
            next_pid: Cell::new(100),
            alive: Rc::default(),
            incarnation: Cell::new(Incarnation(0)),
            most_alive: Cell::new(0),
        };
        (Rc::new(spawner), receiver)
    }
}

impl Spawner for FakeSpawner {
    fn prepare(
        &self,
        _: &ModuleSpec,
        incarnation: Incarnation,
    ) -> Pin<Box<dyn Future<Output = Result<Group, SpawnError>>>> {
        self.incarnation.set(incarnation);
        Box::pin(std::future::ready(Ok(Group::default())))
    }

    fn spawn(&self, spec: &ModuleSpec, _: Group) -> Result<(Rc<dyn ChildControl>, ChildPipes), SpawnError> {
        let (stdin, their_stdin) = tokio::io::duplex(64 * 1024);
        let (stdout, their_stdout) = tokio::io::duplex(64 * 1024);
        let (sender, exited) = oneshot::channel();
        self.next_pid.set(self.next_pid.get() + 1);
        self.alive.set(self.alive.get() + 1);
        self.most_alive.set(self.most_alive.get().max(self.alive.get()));
        let control = Rc::new(FakeControl {
            pid: self.next_pid.get(),
            exit: RefCell::new(Some(sender)),
            obeys: Cell::new(true),
            signals: RefCell::default(),
            alive: self.alive.clone(),
        });
        let child = FakeChild {
            incarnation: self.incarnation.get(),
            name: spec.name().to_string(),
            stdin: BufReader::new(their_stdin),
            stdout: their_stdout,
            control: control.clone(),
        };
        self.children.send(child).ok();
        let pipes = ChildPipes {
            stdin: Box::new(stdin),
            stdout: Box::new(stdout),
            stderr: Box::new(tokio::io::empty()),
            exit: Box::pin(async move { exited.await.unwrap_or(EndReason::Signalled(9)) }),
        };
        Ok((control, pipes))
    }

    fn run_dir(&self, _: &ModuleSpec) -> PathBuf {
        PathBuf::from("/nonexistent")
    }
}

/// A persistent module with nothing special about it.
pub(crate) fn module(name: &str) -> ModuleSpec {
    ModuleSpec {
        section: ModuleSection {
            name: name.parse().unwrap(),
            kind: ModuleKind::Persistent,
            enabled: true,
            command: None,
            user: None,
            env: BTreeMap::new(),
            restart: RestartRule::Permanent,
            allow_remote_tcp: false,
            socket_dir: None,
            limits: ProcessLimits::default(),
            new_privileges: false,
            dispatch: false,
            config_types: Vec::new(),
        },
        config: ModuleConfig::Good(serde_json::value::RawValue::from_string("{}".to_owned()).unwrap()),
    }
}

/// The defaults, with these modules.
pub(crate) fn config(directory: &std::path::Path, modules: Vec<ModuleSpec>) -> Arc<LoadedConfig> {
    let agent = AgentSection {
        run_dir: directory.join("run"),
        state_dir: directory.join("state"),
        persistconfigdir: directory.join("modules.d"),
        hostname: Some("host".to_owned()),
        extraprivacymode: false,
        nopersistmods: false,
        moduletimeout: std::time::Duration::from_secs(300),
        heartbeat_interval: std::time::Duration::from_secs(10),
        heartbeat_misses: 3,
        operators_group: None,
        stop_grace: std::time::Duration::from_secs(5),
        stop_budget: std::time::Duration::from_secs(10),
    };
    let logging = LoggingSection {
        mode: LogMode::File,
        file: directory.join("agent.log"),
        ..LoggingSection::default()
    };
    let agent = AgentConfig {
        agent,
        tags: BTreeMap::new(),
        logging,
        restart: RestartSection::default(),
        limits: LimitsSection::default(),
        journal: JournalSection::default(),
        metrics: vigie_config::model::MetricsSection::default(),
        fleet: None,
        sinks: Vec::new(),
        modules: Vec::new(),
    };
    Arc::new(LoadedConfig {
        generation: 1,
        path: None,
        agent,
        modules,
        warnings: Vec::new(),
        notes: Vec::new(),
        privacy_kept: false,
    })
}

/// Everything that a module works with, and the children as they are started.
pub(crate) fn services(
    config: &LoadedConfig,
) -> (Services, Rc<FakeSpawner>, mpsc::UnboundedReceiver<FakeChild>) {
    let log = Logger::root(Discard, o!());
    let (spawner, children) = FakeSpawner::new();
    let journal = AlertJournal::open(&config.agent.agent.state_dir, config.agent.journal, &log).unwrap();
    let services = Services {
        agent_log: AgentLog::open(&config.agent.logging).unwrap(),
        journal: journal.start(),
        registry: SocketRegistry::new(&log).start(),
        spawner: spawner.clone(),
        conditions: Reporter::agent(Conditions::new(&log).start()),
        log,
    };
    (services, spawner, children)
}
