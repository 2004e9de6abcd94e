//! A running engine, as tests see it: what it tells, and its status.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use vigie_fswatch::change::Event;
use vigie_fswatch::config::Config;
use vigie_fswatch::engine::{Engine, Order, SharedStatus, Sink, Status};
use vigie_fswatch::events::Mailbox;
use vigie_fswatch::rules::Rules;
use vigie_sdk::AlertId;

thread_local! {
    /// The backend of the engines that this test starts.
    static BACKEND: Cell<&'static str> = const { Cell::new("auto") };
}

/// Runs a test with engines that may use this backend only.
pub(crate) fn with_backend(backend: &'static str, test: impl FnOnce()) {
    BACKEND.set(backend);
    test();
}

/// Longest that a test waits for something that must come.
pub(crate) const CEILING: Duration = Duration::from_secs(30);

/// Time in which a change of mounts, of links on the way, and a loop device must be found: two seconds on a host of its
/// own. Beside all other tests it may be more, and a scan would take hours.
const SOON: Duration = Duration::from_secs(10);

pub(crate) enum Said {
    Alert(Box<Alert>),
    Log(String),
}

/// What a reader of alerts sees.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Alert {
    /// What the journal tells doubles by.
    #[serde(skip)]
    pub(crate) id: String,
    pub(crate) severity: String,
    pub(crate) alert: String,
    pub(crate) path: String,
    pub(crate) event: Event,
    pub(crate) kind: String,
    pub(crate) attributes: Vec<String>,
    pub(crate) before: Value,
    pub(crate) after: Value,
    pub(crate) rule: String,
    pub(crate) tags: Vec<String>,
    pub(crate) from: Option<String>,
    pub(crate) refers_to: Option<String>,
    pub(crate) count: Option<u64>,
    pub(crate) window: Value,
    pub(crate) group: Value,
    pub(crate) process: Value,
    pub(crate) other_processes: Value,
    pub(crate) package: Value,
    pub(crate) mark: Value,
}

impl Alert {
    /// Whether the file was seen before it was closed: what became of it is told by another alert.
    pub(crate) fn is_being_written(&self) -> bool {
        self.alert.contains(" is being written: ")
    }
}

impl Default for Alert {
    fn default() -> Self {
        Self {
            id: String::new(),
            severity: String::new(),
            alert: String::new(),
            path: String::new(),
            event: Event::Notice,
            kind: String::new(),
            attributes: Vec::new(),
            before: Value::Null,
            after: Value::Null,
            rule: String::new(),
            tags: Vec::new(),
            from: None,
            refers_to: None,
            count: None,
            window: Value::Null,
            group: Value::Null,
            process: Value::Null,
            other_processes: Value::Null,
            package: Value::Null,
            mark: Value::Null,
        }
    }
}

/// Acknowledges every alert at once, as an agent does sooner or later, unless it is told not to.
pub(crate) struct TestSink {
    pub(crate) said: Sender<Said>,
    pub(crate) orders: Sender<Order>,
    pub(crate) is_silent: Arc<AtomicBool>,
    /// Whoever holds it keeps the engine from going on with its next alert.
    pub(crate) way: Arc<Mutex<()>>,
}

impl Sink for TestSink {
    fn alert(&self, id: AlertId, text: &Arc<str>) {
        drop(self.way.lock());
        let alert = Alert { id: id.to_string(), ..serde_json::from_str(text).unwrap() };
        self.said.send(Said::Alert(Box::new(alert))).ok();
        if !self.is_silent.load(Ordering::SeqCst) {
            self.orders.send(Order::Acknowledged(id)).ok();
        }
    }

    fn log(&self, message: &str) {
        self.said.send(Said::Log(message.to_owned())).ok();
    }
}

pub(crate) struct Running {
    pub(crate) said: Receiver<Said>,
    pub(crate) orders: Sender<Order>,
    pub(crate) mailbox: Mailbox,
    pub(crate) status: SharedStatus,
    pub(crate) marks: u32,
    pub(crate) thread: Option<JoinHandle<()>>,
    /// Alerts that came before everything was known.
    pub(crate) early: Vec<Alert>,
    /// What the agent writes itself.
    agents: Vec<PathBuf>,
    /// No alert is acknowledged.
    pub(crate) is_silent: Arc<AtomicBool>,
    /// Whoever holds it keeps the engine from going on with its next alert.
    pub(crate) way: Arc<Mutex<()>>,
}

impl Running {
    /// Watches these entries and waits until all is known.
    pub(crate) fn on(entries: &[&str]) -> Self {
        Self::configured(json!({"paths": {"path": entries}}))
    }

    pub(crate) fn configured(config: Value) -> Self {
        Self::keeping(None, config)
    }

    /// Looks at what was quiet for so many milliseconds.
    pub(crate) fn settling(mut config: Value, milliseconds: u64) -> Self {
        config["fswatch"]["settle_milliseconds"] = json!(milliseconds);
        Self::configured(config)
    }

    /// Keeps its state in a directory.
    pub(crate) fn keeping(state: Option<&Path>, config: Value) -> Self {
        Self::knowing(state, config, Vec::new())
    }

    /// Knows the agent's own paths as well.
    pub(crate) fn knowing(state: Option<&Path>, config: Value, agents: Vec<PathBuf>) -> Self {
        let mailbox = Mailbox::default();
        let (sink, said) = mpsc::channel();
        let (orders, received) = mpsc::channel();
        let status = SharedStatus::default();
        let is_silent = Arc::<AtomicBool>::default();
        let way = Arc::<Mutex<()>>::default();
        let (orders_of_sink, silent) = (orders.clone(), Arc::clone(&is_silent));
        let sink = TestSink { said: sink, orders: orders_of_sink, is_silent: silent, way: Arc::clone(&way) };
        let state = state.map(Path::to_owned);
        let engine = Engine::new(sink, mailbox.clone(), state, status.clone()).unwrap();
        let thread = Some(std::thread::spawn(move || engine.run(&received)));
        let early = Vec::new();
        let mut running =
            Self { said, orders, mailbox, status, marks: 0, thread, early, agents, is_silent, way };
        running.configure(config);
        running
    }

    /// Ends it, and gives what it told until then.
    pub(crate) fn stop_and_listen(mut self) -> Vec<Alert> {
        self.order(Order::Stop);
        self.thread.take().unwrap().join().unwrap();
        let said = std::mem::replace(&mut self.said, mpsc::channel().1);
        said.iter()
            .filter_map(|said| match said {
                Said::Alert(alert) => Some(*alert),
                Said::Log(_) => None,
            })
            .collect()
    }

    /// Ends it, and waits for that.
    pub(crate) fn stop(mut self) {
        self.order(Order::Stop);
        self.thread.take().unwrap().join().unwrap();
    }

    pub(crate) fn order(&self, order: Order) {
        self.orders.send(order).ok();
        self.mailbox.wake();
    }

    pub(crate) fn ask(&self, order: impl Fn(mpsc::SyncSender<Value>) -> Order) -> Value {
        let (reply, answer) = mpsc::sync_channel(1);
        self.order(order(reply));
        answer.recv_timeout(CEILING).unwrap()
    }

    pub(crate) fn watch(&mut self, entries: &[&str]) {
        self.configure(json!({"paths": {"path": entries}}));
    }

    pub(crate) fn configure(&mut self, mut config: Value) {
        if config["fswatch"]["settle_milliseconds"].is_null() {
            config["fswatch"]["settle_milliseconds"] = json!(10);
        }
        if config["fswatch"]["canary_seconds"].is_null() {
            config["fswatch"]["canary_seconds"] = json!(0);
        }
        config["fswatch"]["backend"] = json!(BACKEND.get());
        if config["fswatch"]["storm_changes"].is_null() {
            config["fswatch"]["storm_changes"] = json!(0);
        }
        let config: Config = serde_json::from_value(config).unwrap();
        self.orders
            .send(Order::Watch {
                rules: Box::new(Rules::compile(&config).unwrap()),
                left_out: self.agents.clone(),
            })
            .unwrap();
        self.mailbox.wake();
        loop {
            match self.said.recv_timeout(CEILING) {
                Ok(Said::Log(text)) if text.starts_with("watching ") => return,
                Ok(Said::Alert(alert)) => self.early.push(*alert),
                Ok(Said::Log(_)) => {}
                Err(error) => panic!("the engine does not come to rest: {error}"),
            }
        }
    }

    /// Everything told about what was done until now, without what is said of files before they are closed: what became
    /// of them is told as well.
    pub(crate) fn told(&mut self, directory: &Path) -> Vec<Alert> {
        let mut alerts = self.told_with_writing(directory);
        alerts.retain(|alert| !alert.is_being_written());
        alerts
    }

    /// Everything told about what was done until now: a new file in the watched `directory` is the last event in
    /// the kernel's queue, and when nothing waits after it was told, nothing is left to tell.
    pub(crate) fn told_with_writing(&mut self, directory: &Path) -> Vec<Alert> {
        self.marks += 1;
        let mark = directory.join(format!("~mark{}", self.marks));
        fs::write(&mark, "").unwrap();
        let mut alerts = self.until(&mark);
        self.status_when(|status| status.pending == 0 && status.scans.is_empty());
        while let Ok(said) = self.said.try_recv() {
            if let Said::Alert(alert) = said
                && !alert.path.contains("/~mark")
            {
                alerts.push(*alert);
            }
        }
        alerts
    }

    /// What was told before this path was.
    fn until(&self, mark: &Path) -> Vec<Alert> {
        let mut alerts = Vec::new();
        loop {
            match self.said.recv_timeout(CEILING) {
                Ok(Said::Alert(alert)) if alert.path == mark.to_str().unwrap() => break,
                // One that was open before is told again when it is closed.
                Ok(Said::Alert(alert)) if alert.path.contains("/~mark") => {}
                Ok(Said::Alert(alert)) => alerts.push(*alert),
                Ok(Said::Log(_)) => {}
                Err(RecvTimeoutError::Timeout) => panic!("{mark:?} was not told; told before: {alerts:?}"),
                Err(error) => panic!("{error}"),
            }
        }
        alerts
    }

    /// What was told before everything was looked at that somebody writes and has not closed.
    pub(crate) fn told_unfinished(&mut self, directory: &Path) -> Vec<Alert> {
        self.marks += 1;
        let mark = directory.join(format!("~mark{}", self.marks));
        let _open = fs::File::create(&mark).unwrap();
        self.until(&mark)
    }

    /// Waits for a line of the log; alerts before it are dropped.
    pub(crate) fn logged(&self, wanted: impl Fn(&str) -> bool) {
        while !matches!(self.said.recv_timeout(CEILING).unwrap(), Said::Log(text) if wanted(&text)) {}
    }

    /// The next alert that is wanted; those before it are dropped.
    pub(crate) fn next(&self, mut wanted: impl FnMut(&Alert) -> bool) -> Alert {
        loop {
            match self.said.recv_timeout(CEILING).unwrap() {
                Said::Alert(alert) if wanted(&alert) => return *alert,
                Said::Alert(_) | Said::Log(_) => {}
            }
        }
    }

    /// The same, within the time in which what makes blind must be found.
    #[expect(clippy::disallowed_methods, reason = "the engine lives in real time")]
    pub(crate) fn soon(&self, wanted: impl FnMut(&Alert) -> bool) -> Alert {
        let begun = Instant::now();
        let alert = self.next(wanted);
        assert!(begun.elapsed() <= SOON, "{:?}: {alert:?}", begun.elapsed());
        alert
    }

    pub(crate) fn status_when(&self, wanted: impl Fn(&Status) -> bool) -> Arc<Status> {
        let deadline = std::time::SystemTime::now() + CEILING;
        loop {
            let status = self.status.get();
            if wanted(&status) {
                return status;
            }
            assert!(std::time::SystemTime::now() < deadline, "{status:?}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.order(Order::Stop);
    }
}

pub(crate) fn texts(alerts: &[Alert], directory: &Path) -> Vec<String> {
    let texts = alerts.iter().map(|alert| {
        let path = Path::new(&alert.path).strip_prefix(directory).unwrap_or(Path::new(&alert.path));
        let name = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let event = serde_json::to_value(alert.event).unwrap();
        format!("{} {}", event.as_str().unwrap(), name.display())
    });
    texts.collect()
}

pub(crate) fn recursive(directory: &Path) -> String {
    format!("recursive:{}", directory.display())
}

pub(crate) fn sorted_texts(alerts: &[Alert], directory: &Path) -> Vec<String> {
    let mut texts = texts(alerts, directory);
    texts.sort();
    texts
}
