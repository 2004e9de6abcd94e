//! `events`: what ran, who logged in and what connected, from the kernel; kept on the host, with rules that raise
//! alerts.
//!
//! ```text
//!  kernel-events ─► engine.rs ─┬─► table.rs        processes, for names and ancestors
//!                              ├─► rules.rs        asked about each record ─► alert.rs
//!                              └─► history/        columns in blocks, sealed, in lanes
//!  query ─► parameters.rs ─► search.rs ─► answer.rs        reads sealed blocks itself, and the open one from the engine
//! ```

mod alert;
mod alert_budget;
mod answer;
mod config;
mod digests;
mod engine;
mod history;
mod host;
mod listeners;
mod logins;
mod parameters;
mod place;
mod record;
mod rules;
mod search;
mod shares;
pub mod sigma;
mod table;

#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod measure;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, sync_channel};
use std::time::{Duration, Instant};

use serde_json::json;
use vigie_host::users::{Names, UNKNOWN_NAME};
use vigie_sdk::{
    Condition, Coverage, Host, ModuleError, ModuleResult, PersistentModule, Query, Settings, privacy,
};

use self::answer::Begins;
pub use self::answer::masked_form;
use self::config::Setup;
pub use self::config::{Config, check};
use self::engine::{Engine, Look, Order, Sink, now};
use self::parameters::{NOT_RECORDED, Parameters};
use self::search::History;

/// How long the engine may take to say how it is.
const PATIENCE: Duration = Duration::from_secs(10);

/// The module.
#[derive(Debug)]
pub struct Events {
    orders: mpsc::Sender<Order>,
    extraprivacy: AtomicBool,
    history: Option<PathBuf>,
}

/// The agent, as the engine sees it.
struct AgentSink(Host);

impl Sink for AgentSink {
    fn alert(&self, text: &str) {
        self.0.alert(text);
    }

    fn log(&self, text: &str) {
        self.0.log(text);
    }

    fn health(&self, conditions: Vec<Condition>) {
        self.0.report_health(conditions);
    }
}

/// The module's name, as configurations and policies have it.
pub const NAME: &str = Events::NAME;

/// Checks rules before they are given to the module.
///
/// # Errors
/// Everything that is wrong, with the rule that has it.
pub fn check_rules(text: &str) -> Result<(), Vec<String>> {
    rules::parse(text).map(drop)
}

/// A command that ends at once, whatever is installed.
fn canary() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("--version");
    command
}

impl Events {
    fn look(&self) -> Option<Look> {
        let (answer, asked) = sync_channel(1);
        self.orders.send(Order::Look(answer)).ok()?;
        asked.recv_timeout(PATIENCE).ok()
    }

    fn answer(&self, query: &Query, masked: bool) -> ModuleResult {
        #[expect(clippy::disallowed_methods, reason = "a module runs in real time only")]
        let began = Instant::now();
        let names = Names::of(Path::new("/"));
        let parameters = match Parameters::of(query, &names, now()) {
            Ok(parameters) => parameters,
            Err(problems) => return ModuleResult::rejected(problems),
        };
        let Some(mut look) = self.look() else {
            return ModuleResult::failed(["the module does not answer: it is busy or ends".to_owned()]);
        };
        let Some(dir) = &self.history else {
            return match parameters {
                Parameters::Status => answer::status(&look, masked),
                Parameters::Rules => answer::rules(&look),
                _ => ModuleResult::failed([
                    "there is no history: the agent gives no state directory".to_owned()
                ]),
            };
        };
        let is_stopped = || query.is_stopped();
        let history = History { dir, open: std::mem::take(&mut look.open), is_stopped: &is_stopped };
        let begins = Begins::of(&look.extents);
        match parameters {
            Parameters::Status => answer::status(&look, masked),
            Parameters::Rules => answer::rules(&look),
            Parameters::Verify => match history::lanes::verify(dir, &history.open) {
                Ok(blocks) => ModuleResult::found(true, &json!({ "verified": { "blocks": blocks } }))
                    .with_coverage(Coverage::whole()),
                Err(problem) => ModuleResult::failed([format!("the history was changed: {problem}")]),
            },
            Parameters::Events(wanted) => {
                let mut found = history.events(&wanted);
                for kind in look.unrecorded {
                    let kind = [NOT_RECORDED, kind.name().as_bytes()].concat();
                    if wanted.concerns(&kind) && wanted.until > look.noted {
                        found.add_lost(&kind, 1);
                    }
                }
                found.unread.extend(wanted.unknown_users.iter().map(|user| {
                    let what = if masked {
                        "events of a user".to_owned()
                    } else {
                        format!("events of the user {user:?}")
                    };
                    (what, UNKNOWN_NAME.to_owned())
                }));
                answer::events(&found, &begins, wanted.since, masked, &names, began.elapsed())
            }
            Parameters::Tree { pid, start, time, limit } => {
                let mut found = history.tree(pid, start, time, limit);
                if found.hits.is_empty() {
                    let what = if masked { "a process".to_owned() } else { format!("process {pid}") };
                    let why =
                        "no event of it is in the history: it ran before that begins, or never".to_owned();
                    found.unread.push((what, why));
                }
                answer::events(&found, &begins, i64::MIN, masked, &names, began.elapsed())
            }
        }
    }
}

impl PersistentModule for Events {
    const NAME: &'static str = "events";
    const RECONFIGURES: bool = true;
    type Config = Config;

    fn start(settings: Settings<Config>, host: Host) -> Result<Self, ModuleError> {
        let setup = Setup::of(&settings.config, &settings.packs)?;
        let history = settings.state_dir.map(|dir| dir.join("history"));
        let (orders, received) = mpsc::channel();
        let dir = history.clone();
        std::thread::Builder::new()
            .name("engine".to_owned())
            // The source belongs to the thread that opens it.
            .spawn(move || Engine::new(AgentSink(host), setup, dir, canary).run(&received))
            .map_err(|error| ModuleError::io("cannot start a thread", error))?;
        Ok(Self { orders, extraprivacy: AtomicBool::new(settings.extraprivacy), history })
    }

    fn reconfigure(&self, settings: Settings<Config>) -> Result<(), ModuleError> {
        let setup = Setup::of(&settings.config, &settings.packs)?;
        self.extraprivacy.store(settings.extraprivacy, Ordering::Relaxed);
        self.orders
            .send(Order::Configure(Box::new(setup)))
            .map_err(|_| ModuleError::new("the engine has ended"))
    }

    fn query(&self, query: Query) -> ModuleResult {
        let masked = query.extraprivacy || self.extraprivacy.load(Ordering::Relaxed);
        let asked = privacy::Asked::of(query.parameters.as_deref());
        let result = self.answer(&query, masked);
        if masked { answer::masked(result, &asked) } else { result }
    }

    fn stop(&self) {
        // What is in the ring and the open block is written before the thread ends.
        let (answer, ended) = sync_channel(1);
        if self.orders.send(Order::Stop).is_ok() && self.orders.send(Order::Look(answer)).is_ok() {
            drop(ended.recv_timeout(PATIENCE));
        }
    }
}
