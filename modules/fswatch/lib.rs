//! `fswatch`: tells when files appear, change or go.
//!
//! ```text
//!  inotify queue ─► reader thread ─► map of names ─► engine thread ─► outbox ─► agent
//!  (watcher.rs)      only merges      (bounded)       settle, look, compare, tell (engine.rs)
//! ```
//!
//! What is watched is in [`config`], what is known of an object in [`object`], what a difference means in
//! [`change`]. The baseline is in memory: what changes while the module does not run is not seen.

pub mod change;
pub mod config;
pub mod due;
pub mod engine;
pub mod object;
pub mod watcher;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;
use vigie_sdk::{Host, ModuleError, ModuleResult, PersistentModule, Query, Settings};

use self::change::Alert;
pub use self::config::check;
use self::config::{Config, Entry};
use self::engine::{Engine, Order, SharedStatus, Sink};
use self::object::shown;
use self::watcher::{Waker, Watcher};

/// Quiet time after which a path is looked at: the writes of one save become one alert.
const SETTLE: Duration = Duration::from_millis(100);

/// Paths that an answer lists of one kind; their number is always told.
const LISTED_PATHS: usize = 100;

/// The module.
pub struct FsWatch {
    orders: mpsc::Sender<Order>,
    waker: Waker,
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

fn entries(config: &Config) -> Result<Vec<Entry>, ModuleError> {
    config.entries().map_err(|problems| {
        let texts: Vec<_> =
            problems.iter().map(|(index, problem)| format!("paths.path[{index}] {problem}")).collect();
        ModuleError::new(format!("configuration is wrong: {}", texts.join("; ")))
    })
}

impl FsWatch {
    fn order(&self, order: Order) {
        // The engine ends only when it is told to.
        self.orders.send(order).ok();
        self.waker.wake();
    }
}

impl PersistentModule for FsWatch {
    const NAME: &'static str = "fswatch";
    const RECONFIGURES: bool = true;
    type Config = Config;

    fn start(settings: Settings<Config>, host: Host) -> Result<Self, ModuleError> {
        let entries = entries(&settings.config)?;
        let watcher =
            Watcher::new().map_err(|error| ModuleError::io("the kernel gives no inotify instance", error))?;
        let waker = watcher.waker();
        let status = SharedStatus::default();
        let engine = Engine::new(AgentSink(host), watcher, SETTLE, status.clone());
        let (orders, received) = mpsc::channel();
        std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || engine.run(&received))
            .map_err(|error| ModuleError::io("cannot start a thread", error))?;
        let module = Self { orders, waker, status, extraprivacy: AtomicBool::new(settings.extraprivacy) };
        module.order(Order::Watch(entries));
        Ok(module)
    }

    fn reconfigure(&self, settings: Settings<Config>) -> Result<(), ModuleError> {
        let entries = entries(&settings.config)?;
        self.extraprivacy.store(settings.extraprivacy, Ordering::Relaxed);
        self.order(Order::Watch(entries));
        Ok(())
    }

    fn query(&self, query: Query) -> ModuleResult {
        let status = self.status.get();
        let masked = query.extraprivacy || self.extraprivacy.load(Ordering::Relaxed);
        let name = |path: &std::path::Path| if masked { "masked".to_owned() } else { shown(path) };
        let reasons = |paths: &std::collections::BTreeMap<std::path::PathBuf, String>| -> Vec<_> {
            let listed = paths.iter().take(LISTED_PATHS);
            listed.map(|(path, why)| json!({"path": name(path), "reason": why})).collect()
        };
        let waiting: Vec<_> = status.waiting.iter().take(LISTED_PATHS).map(|path| name(path)).collect();
        let ok = status.unwatched.is_empty() && status.unreadable.is_empty();
        let elements = json!({
            "ok": ok,
            "baseline_complete": status.baseline_complete,
            "paths": status.entries,
            "files": status.objects,
            "watches": status.watches,
            "pending": status.pending,
            "alerts": status.alerts,
            "overflows": status.overflows,
            "waiting_count": status.waiting.len(),
            "waiting": waiting,
            "unreadable_count": status.unreadable.len(),
            "unreadable": reasons(&status.unreadable),
            "unwatched_count": status.unwatched.len(),
            "unwatched": reasons(&status.unwatched),
        });
        ModuleResult::found(true, &elements)
    }

    fn stop(&self) {
        self.order(Order::Stop);
    }
}
