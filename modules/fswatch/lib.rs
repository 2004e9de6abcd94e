//! `fswatch`: tells when files appear, change or go.
//!
//! ```text
//!  inotify queue ─► reader thread ─► Mailbox ─► engine thread ─► outbox ─► agent
//!  (inotify.rs)      only merges     (events.rs)  settle, look, compare, tell (engine.rs)
//! ```
//!
//! What is watched is in [`config`] and [`rules`], what is known of an object in [`object`], how it is found out in
//! [`look`], what a difference means in [`change`]. The baseline is in memory: what changes while the module does
//! not run is not seen.

pub mod attributes;
pub mod change;
pub mod config;
pub mod due;
pub mod engine;
pub mod events;
pub mod inotify;
pub mod look;
pub mod object;
pub mod packages;
pub mod pattern;
pub mod profile;
pub mod query;
pub mod rules;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use vigie_sdk::{Host, ModuleError, ModuleResult, PersistentModule, Query, Settings};

use self::change::Alert;
use self::config::Config;
pub use self::config::check;
use self::engine::{Engine, Order, SharedStatus, Sink};
use self::events::Mailbox;
use self::rules::Rules;

/// The module.
pub struct FsWatch {
    orders: mpsc::Sender<Order>,
    mailbox: Mailbox,
    status: SharedStatus,
    extraprivacy: AtomicBool,
}

/// The agent, as the engine sees it.
struct AgentSink(Host);

impl Sink for AgentSink {
    fn alert(&self, alert: &Alert) {
        let text = serde_json::to_string(alert).unwrap_or_else(|_| alert.alert.clone());
        self.0.alert(&text);
    }

    fn log(&self, message: &str) {
        self.0.log(message);
    }
}

fn rules(config: &Config) -> Result<Box<Rules>, ModuleError> {
    let rules = Rules::compile(config)
        .map_err(|problems| ModuleError::new(format!("configuration is wrong: {problems}")))?;
    Ok(Box::new(rules))
}

impl FsWatch {
    fn order(&self, order: Order) {
        // The engine ends only when it is told to.
        self.orders.send(order).ok();
        self.mailbox.wake();
    }
}

impl PersistentModule for FsWatch {
    const NAME: &'static str = "fswatch";
    const RECONFIGURES: bool = true;
    type Config = Config;

    fn start(settings: Settings<Config>, host: Host) -> Result<Self, ModuleError> {
        let rules = rules(&settings.config)?;
        let mailbox = Mailbox::default();
        let status = SharedStatus::default();
        let engine = Engine::new(AgentSink(host), mailbox.clone(), settings.state_dir, status.clone())
            .map_err(|error| ModuleError::io("the kernel gives no inotify instance", error))?;
        let (orders, received) = mpsc::channel();
        std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || engine.run(&received))
            .map_err(|error| ModuleError::io("cannot start a thread", error))?;
        let module = Self { orders, mailbox, status, extraprivacy: AtomicBool::new(settings.extraprivacy) };
        module.order(Order::Watch(rules));
        Ok(module)
    }

    fn reconfigure(&self, settings: Settings<Config>) -> Result<(), ModuleError> {
        let rules = rules(&settings.config)?;
        self.extraprivacy.store(settings.extraprivacy, Ordering::Relaxed);
        self.order(Order::Watch(rules));
        Ok(())
    }

    fn query(&self, query: Query) -> ModuleResult {
        let masked = query.extraprivacy || self.extraprivacy.load(Ordering::Relaxed);
        let status = self.status.get();
        query::answer(&query, &status, masked, &|order| self.order(order))
            .unwrap_or_else(|error| ModuleResult::failed([error.to_string()]))
    }

    fn stop(&self) {
        self.order(Order::Stop);
    }
}
