//! Many agents in one process: the actors that are an agent's link to its fleet, with a journal and files of their own.
//! Queries are answered at once and counted.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use actix::{Actor, Addr, Context, Handler, MessageResult};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use slog::{Discard, Logger, o};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use vigie_actors::alert_journal::{AlertBatch, AlertJournal, NewAlert, StoreAlerts};
use vigie_actors::conditions::{Conditions, Reporter};
use vigie_actors::fleet_link::{self, FleetLink, GetFleetStatus, Voice};
use vigie_actors::own_alerts::OwnAlert;
use vigie_actors::query_router::Query;
use vigie_config::files::{self, LoadOptions};
use vigie_protocol::control::FleetStatus;
use vigie_protocol::result::ModuleResult;

use crate::harness::{Fleet, fast_directory, patiently};

/// How often each agent was asked what.
type Ran = Arc<Mutex<BTreeMap<(String, String), usize>>>;

enum Command {
    /// Start these agents.
    Start(Vec<String>, oneshot::Sender<()>),
    /// Store these alerts at each agent that runs, and answer when they are accepted.
    Alerts(Arc<AlertBatch>, oneshot::Sender<()>),
    Status(oneshot::Sender<Vec<FleetStatus>>),
}

/// The agents; they end with it.
pub(crate) struct Crowd {
    _directory: TempDir,
    commands: Option<mpsc::UnboundedSender<Command>>,
    thread: Option<JoinHandle<()>>,
    ran: Ran,
}

impl Crowd {
    /// Enrols agents of these names; `more` is further configuration.
    pub(crate) fn new(fleet: &mut Fleet, names: &[String], more: &str) -> Self {
        raise_open_files();
        let directory = fast_directory();
        for name in names {
            let home = directory.path().join(name);
            std::fs::create_dir(&home).unwrap();
            let section = fleet.enrol(name, &home);
            let root = home.display();
            let text = format!(
                "[agent]\nrun_dir = \"/tmp/unused\"\nstate_dir = \"{root}/state\"\n{section}\n{more}\n\
                 [[module]]\nname = \"trace\"\nkind = \"standard\"\ncommand = [\"/bin/true\"]\n"
            );
            std::fs::write(home.join("vigie.toml"), text).unwrap();
        }
        let ran = Ran::default();
        let (commands, received) = mpsc::unbounded_channel();
        let (path, counted) = (directory.path().to_owned(), ran.clone());
        let thread = std::thread::spawn(move || {
            actix::System::new().block_on(serve(&path, &counted, received));
        });
        Self { _directory: directory, commands: Some(commands), thread: Some(thread), ran }
    }

    fn command<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> T {
        let (answer, answered) = oneshot::channel();
        assert!(self.commands.as_ref().unwrap().send(command(answer)).is_ok());
        answered.blocking_recv().unwrap()
    }

    /// Starts agents.
    pub(crate) fn start(&self, names: &[String]) {
        self.command(|answer| Command::Start(names.to_vec(), answer));
    }

    /// Has each agent accept alerts.
    pub(crate) fn alerts(&self, alerts: Vec<NewAlert>) {
        self.command(|answer| Command::Alerts(Arc::new(alerts.into()), answer));
    }

    pub(crate) fn status(&self) -> Vec<FleetStatus> {
        self.command(Command::Status)
    }

    /// Waits until all that were started are as `is_so` wants them.
    pub(crate) fn wait(&self, what: &str, is_so: impl Fn(&FleetStatus) -> bool) {
        patiently(what, || self.status().iter().all(&is_so).then_some(()));
    }

    pub(crate) fn wait_connected(&self) {
        self.wait("all are connected", |status| status.connected && status.policy_version.is_some());
    }

    /// How often each agent was asked what, by the mark in the parameters.
    pub(crate) fn ran(&self) -> BTreeMap<(String, String), usize> {
        self.ran.lock().unwrap().clone()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.commands = None;
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

fn raise_open_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

type Agents = BTreeMap<String, (Addr<FleetLink>, Addr<AlertJournal>)>;

async fn serve(directory: &Path, ran: &Ran, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut agents = Agents::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Start(names, answer) => {
                for name in names {
                    let agent = start(&directory.join(&name), &name, ran);
                    agents.insert(name, agent);
                }
                answer.send(()).unwrap();
            }
            Command::Alerts(alerts, answer) => {
                let stored = agents.values().map(|(_, journal)| {
                    let module = "watch".parse().unwrap();
                    journal.send(StoreAlerts {
                        module,
                        alerts: alerts.clone(),
                        about: None,
                        last_words: false,
                    })
                });
                for stored in futures_util::future::join_all(stored).await {
                    assert!(stored.unwrap().unwrap().iter().all(|new| *new));
                }
                answer.send(()).unwrap();
            }
            Command::Status(answer) => {
                let asked = agents.values().map(|(link, _)| link.send(GetFleetStatus));
                let statuses = futures_util::future::join_all(asked).await;
                answer.send(statuses.into_iter().map(|status| status.unwrap().unwrap()).collect()).unwrap();
            }
        }
    }
}

fn start(home: &Path, name: &str, ran: &Ran) -> (Addr<FleetLink>, Addr<AlertJournal>) {
    let log = Logger::root(Discard, o!());
    let config = files::load(&LoadOptions::at_start(Some(home.join("vigie.toml"))), &[]).unwrap();
    let config = Arc::new(config);
    let mut journal = AlertJournal::open(&config.agent.agent.state_dir, config.agent.journal, &log).unwrap();
    journal.set_sent_through(fleet_link::sent_through(&config, journal.directory()));
    let journal = journal.start();
    let router = Responder { agent: name.to_owned(), ran: ran.clone() }.start();
    let conditions = Reporter::agent(Conditions::new(&log).start());
    let alerts = Deaf.start().recipient();
    let voice = Voice { conditions, alerts };
    (FleetLink::new(&log, router.recipient(), journal.clone(), config, voice).start(), journal)
}

/// Stands in for what stores the agent's own alerts.
struct Deaf;

impl Actor for Deaf {
    type Context = Context<Self>;
}

impl Handler<OwnAlert> for Deaf {
    type Result = ();

    fn handle(&mut self, _: OwnAlert, _: &mut Self::Context) {}
}

/// Stands in for the `QueryRouter`.
struct Responder {
    agent: String,
    ran: Ran,
}

impl Actor for Responder {
    type Context = Context<Self>;
}

impl Handler<Query> for Responder {
    type Result = MessageResult<Query>;

    fn handle(&mut self, query: Query, _: &mut Self::Context) -> Self::Result {
        let parameters: serde_json::Value = serde_json::from_str(query.parameters.unwrap().get()).unwrap();
        let mark = parameters["mark"].as_str().unwrap().to_owned();
        *self.ran.lock().unwrap().entry((self.agent.clone(), mark)).or_default() += 1;
        MessageResult(Ok(ModuleResult::found(true, &"ran")))
    }
}
