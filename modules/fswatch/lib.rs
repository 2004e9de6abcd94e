//! `fswatch`: tells when files appear, change or go, and who did it.
//!
//! ```text
//!  kernel ─► reader threads ─► Mailbox ─► engine thread ─► ledger (memory and disk) ─► agent
//!             only merge       (events)    decides, tells     ▲ │
//!                                 ▲ │                     baseline, history
//!                         reports │ ▼ jobs
//!                               workers: list, compare, hash
//! ```
//!
//! What is watched is in [`config`] and [`rules`], what is known of an object in [`object`], how it is found out in
//! [`look`], what a difference means in [`change`], what is kept on disk in [`store`] and [`history`].

pub mod accounts;
pub mod attributes;
mod avoided;
pub mod baseline;
pub mod change;
pub mod codec;
pub mod config;
pub mod due;
pub mod ending;
pub mod engine;
pub mod events;
pub mod execs;
pub mod extended;
pub mod fanotify;
pub mod history;
pub mod inotify;
pub mod ledger;
pub mod lineage;
pub mod linked;
pub mod look;
pub mod loops;
pub mod marks;
pub mod names;
pub mod object;
pub mod packed;
pub mod pattern;
pub mod probe;
pub mod process;
pub mod processes;
pub mod profile;
mod pulse;
pub mod query;
pub mod reading;
mod recent;
pub mod recorded;
pub mod rules;
pub mod secrets;
pub mod state_files;
pub mod store;
pub mod storm;
pub mod transaction;
pub mod trust;
pub mod verifier;
pub mod waiting;
pub mod watching;
pub mod workers;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use vigie_sdk::{
    AlertId, Condition, Host, ModuleError, ModuleResult, PersistentModule, Query, Settings, privacy,
};

use self::config::Config;
pub use self::config::check;
use self::engine::{Engine, Order, PulseWatch, SharedStatus, Sink, Status};
use self::events::Mailbox;
pub use self::query::masked_form;
use self::rules::Rules;

/// The module.
pub struct FsWatch {
    orders: mpsc::Sender<Order>,
    mailbox: Mailbox,
    status: SharedStatus,
    _pulse: PulseWatch,
    extraprivacy: AtomicBool,
    state_dir: Option<PathBuf>,
}

/// The agent, as the engine sees it.
struct AgentSink {
    host: Host,
    /// The engine keeps alerts until they are acknowledged.
    keeps: bool,
}

impl Sink for AgentSink {
    fn alert(&self, id: AlertId, text: &Arc<str>) {
        if self.keeps {
            self.host.deliver(id, text);
        } else {
            self.host.alert(text);
        }
    }

    fn log(&self, message: &str) {
        self.host.log(message);
    }

    fn health(&self, conditions: &[Condition]) {
        self.host.report_health(conditions.to_vec());
    }

    fn values(&self, values: BTreeMap<String, u64>) {
        self.host.report_values(values);
    }
}

fn rules(config: &Config) -> Result<Box<Rules>, ModuleError> {
    let rules = Rules::compile(config)
        .map_err(|problems| ModuleError::new(format!("invalid configuration: {problems}")))?;
    Ok(Box::new(rules))
}

impl FsWatch {
    fn order(&self, order: Order) {
        // The engine ends only when it is told to.
        self.orders.send(order).ok();
        self.status.ask_for_life();
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
        let state_dir = settings.state_dir;
        let reporter = host.clone();
        let report = move |status: &Status| reporter.report_health(status.conditions.clone());
        let no_thread = |error| ModuleError::io("cannot start a thread", error);
        let pulse = status.watch_pulse(pulse::PATIENCE, report).map_err(no_thread)?;
        let sink = AgentSink { host, keeps: state_dir.is_some() };
        let engine = Engine::new(sink, mailbox.clone(), state_dir.clone(), status.clone())
            .map_err(|error| ModuleError::io("cannot create an inotify instance or a thread", error))?;
        let (orders, received) = mpsc::channel();
        std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || engine.run(&received))
            .map_err(no_thread)?;
        let extraprivacy = AtomicBool::new(settings.extraprivacy);
        let module = Self { orders, mailbox, status, _pulse: pulse, extraprivacy, state_dir };
        module.order(Order::Watch { rules, left_out: settings.own_paths });
        Ok(module)
    }

    fn reconfigure(&self, settings: Settings<Config>) -> Result<(), ModuleError> {
        let rules = rules(&settings.config)?;
        self.extraprivacy.store(settings.extraprivacy, Ordering::Relaxed);
        self.order(Order::Watch { rules, left_out: settings.own_paths });
        Ok(())
    }

    fn query(&self, query: Query) -> ModuleResult {
        let masked = query.extraprivacy || self.extraprivacy.load(Ordering::Relaxed);
        let asked_words = privacy::Asked::of(query.parameters.as_deref());
        let asked = query::Asked {
            status: &self.status.get(),
            state_dir: self.state_dir.as_deref(),
            masked,
            current: &|| self.status.get(),
            ask: &|order| self.order(order),
        };
        let mut result = query::answer(&query, &asked).unwrap_or_else(|error| error.to_result());
        if masked {
            privacy::mask_errors(&mut result, &asked_words);
        }
        result
    }

    fn acknowledged(&self, id: &str) {
        if let Some(id) = AlertId::parse(id) {
            // There may be thousands of them, and nobody waits: they are written down together.
            self.orders.send(Order::Acknowledged(id)).ok();
            self.mailbox.wake_soon();
        }
    }

    fn heartbeat(&self) {
        self.order(Order::Heartbeat);
    }

    fn stop(&self) {
        self.order(Order::Stop);
    }
}
