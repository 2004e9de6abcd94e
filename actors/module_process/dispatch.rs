//! Hands the alerts of the other modules to a module that takes them (SPEC: capability `dispatch`).
//!
//! Each such module reads the journal with a cursor of its own, which is kept on disk:
//! `STATE_DIR/dispatch/NAME.cursor`. So an alert waits for one module only, and nobody waits for that module: not the
//! journal, not the modules that raise alerts, not the heartbeats, which go before alerts in the module's stdin. A
//! module that registers the capability acknowledges each alert; the cursor moves over what is acknowledged, and after
//! any end of module or agent the rest is delivered again, with the same ids. A module of MIG's kind, which is named in
//! the configuration, acknowledges nothing: for it an alert is delivered when it is written.
//!
//! [`Window`] is the pure part: what is under way, and how far all is delivered.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{Message, Recipient};
use slog::{Logger, info, warn};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use vigie_journal::{Cursor, Item, Names, Portion};
use vigie_protocol::message::Message as WireMessage;
use vigie_protocol::module_name::ModuleName;

use crate::alert_journal::{Follower, JournalView};
use crate::work_threads::{self, Lane};

/// Alerts under way to a module at most: it answers heartbeats between them.
const WINDOW: usize = 64;

/// How much is read from the journal at once, in bytes.
const PORTION_BYTES: usize = 256 * 1024;

/// Acknowledgements that wait to be looked at; a module that says more than it was sent is not believed.
const MAX_WAITING: usize = 4 * WINDOW;

/// An alert that is not acknowledged for so long is delivered again.
const REDELIVER: Duration = Duration::from_secs(60);

/// Time between two writes of the cursor: what was acknowledged since can come again after a crash.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// Pause after the journal could not be read.
const RETRY: Duration = Duration::from_secs(1);

/// Alerts under way and how far all are delivered.
#[derive(Debug, Default, PartialEq, Eq)]
struct Window {
    /// Number up to which everything is delivered.
    delivered: u64,
    /// Number and whether it is delivered, in the order of numbers.
    under_way: VecDeque<(u64, bool)>,
}

impl Window {
    fn new(delivered: u64) -> Self {
        Self { delivered, under_way: VecDeque::new() }
    }

    /// An alert is on its way.
    fn send(&mut self, seq: u64) {
        self.under_way.push_back((seq, false));
    }

    /// Nothing is to be delivered of what is up to `seq`: it is missing, or the module's own.
    fn pass(&mut self, seq: u64) {
        self.under_way.push_back((seq, true));
        self.settle();
    }

    /// An alert arrived; one that is not under way is nobody's.
    fn arrived(&mut self, seq: u64) {
        if let Ok(at) = self.under_way.binary_search_by_key(&seq, |(seq, _)| *seq) {
            self.under_way[at].1 = true;
            self.settle();
        }
    }

    /// Everything that is under way arrived.
    fn all_arrived(&mut self) {
        for (_, arrived) in &mut self.under_way {
            *arrived = true;
        }
        self.settle();
    }

    fn settle(&mut self) {
        while let Some((seq, true)) = self.under_way.front() {
            self.delivered = *seq;
            self.under_way.pop_front();
        }
    }

    /// Forgets what is under way: it is sent again.
    fn forget(&mut self) {
        self.under_way.clear();
    }

    /// What may be sent besides.
    fn portion(&self) -> Portion {
        Portion { items: WINDOW.saturating_sub(self.under_way.len()), bytes: PORTION_BYTES }
    }

    fn is_full(&self) -> bool {
        self.under_way.len() >= WINDOW
    }

    fn is_empty(&self) -> bool {
        self.under_way.is_empty()
    }
}

/// Alerts of other modules for the module's stdin. Sent by the delivery to the actor that owns it, one at a time; who
/// waits for `written` learns when they are, or that they never will be.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct DeliverLines {
    pub(super) text: Vec<u8>,
    pub(super) written: oneshot::Sender<()>,
}

/// What the actor and the delivery share, on one thread.
#[derive(Default)]
pub(crate) struct Acknowledged {
    seqs: RefCell<Vec<u64>>,
    changed: Notify,
    /// Begins the ids of this journal's alerts, once it is known.
    prefix: RefCell<String>,
}

impl Acknowledged {
    /// The module has the alert with this id.
    pub(crate) fn add(&self, id: &str) {
        let prefix = self.prefix.borrow();
        if !prefix.is_empty()
            && let Some(seq) = id.strip_prefix(prefix.as_str()).and_then(|seq| seq.parse().ok())
        {
            let mut seqs = self.seqs.borrow_mut();
            if seqs.len() < MAX_WAITING {
                seqs.push(seq);
                self.changed.notify_one();
            }
        }
    }
}

/// What a delivery works with.
pub(crate) struct Delivery {
    pub(crate) module: ModuleName,
    pub(crate) state_dir: PathBuf,
    pub(crate) view: JournalView,
    pub(crate) stdin: Recipient<DeliverLines>,
    /// Nothing where the module acknowledges nothing.
    pub(crate) acknowledged: Option<Rc<Acknowledged>>,
    pub(crate) log: Logger,
}

impl Delivery {
    /// Delivers until `closed` says that the module takes no more. The actor that owns the module's life owns this
    /// future; the life is over when it has ended.
    pub(crate) async fn run(mut self, mut closed: oneshot::Receiver<()>) {
        let path = self.state_dir.join("dispatch").join(format!("{}.cursor", self.module));
        let mut before = None;
        loop {
            let called = self.view.name.borrow_and_update().clone();
            let is_begun = before.is_some();
            let cursor = tokio::select! {
                cursor = self.begin(&path, before) => cursor,
                _ = &mut closed => return,
            };
            info!(self.log, "module receives the alerts of the other modules"; "seq" => cursor.after);
            if let Some(acknowledged) = &self.acknowledged {
                acknowledged.prefix.replace(format!("{}-", cursor.journal));
            }
            let mut under_way = UnderWay {
                follower: self.view.follow(cursor.after),
                window: Window::new(cursor.after),
                stored: (!is_begun).then_some(cursor.after),
                store_at: Instant::now(),
                progress: Instant::now(),
                path: path.clone(),
                journal: cursor.journal,
                name: self.view.name.clone(),
                called,
            };
            let is_renamed = tokio::select! {
                biased;
                _ = &mut closed => false,
                is_renamed = self.deliver(&mut under_way) => is_renamed,
            };
            self.take_acknowledged(&mut under_way);
            if !is_renamed {
                // What was acknowledged last need not come again; a disk that does not answer is not waited for.
                under_way.store_at = Instant::now();
                timeout(STORE_PAUSE, under_way.store_when_due(&self.log)).await.ok();
                return;
            }
            before = Some(under_way.cursor());
        }
    }

    /// Where to begin: where it was stored, or where the delivery was under the journal's name `before`.
    async fn begin(&self, path: &Path, before: Option<Cursor>) -> Cursor {
        let (directory, journal) = (self.state_dir.join("dispatch"), self.view.directory.clone());
        #[expect(clippy::disallowed_methods, reason = "on Lane::Journal")]
        let loading = {
            let path = path.to_owned();
            move || {
                if !directory.is_dir() {
                    DirBuilder::new().mode(0o700).create(&directory)?;
                }
                let names = Names::of(&journal)?;
                let known = match &before {
                    Some(before) => before.resumed(&names),
                    None => Cursor::load(&path, &names),
                };
                let begin = || Cursor { journal: names.current().to_owned(), after: 0 };
                std::io::Result::Ok(known.unwrap_or_else(begin))
            }
        };
        loop {
            match work_threads::run(Lane::Journal, loading.clone()).await {
                Ok(Ok(cursor)) => return cursor,
                Ok(Err(error)) => {
                    warn!(self.log, "cannot read the position of delivered alerts"; "error" => %error);
                }
                Err(error) => {
                    warn!(self.log, "cannot read the position of delivered alerts"; "error" => %error);
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Whether it ended because the journal got another name.
    async fn deliver(&self, under_way: &mut UnderWay) -> bool {
        loop {
            self.take_acknowledged(under_way);
            under_way.store_when_due(&self.log).await;
            if under_way.is_renamed() {
                return true;
            }
            if !under_way.window.is_full() {
                match under_way.follower.read(under_way.window.portion()).await {
                    Ok(items) if items.is_empty() => {}
                    Ok(items) => {
                        if !self.send(items, under_way).await {
                            return false;
                        }
                        continue;
                    }
                    Err(error) => {
                        warn!(self.log, "cannot read alerts for the module"; "error" => %error);
                        tokio::time::sleep(RETRY).await;
                        continue;
                    }
                }
            }
            if !self.wait(under_way).await {
                return false;
            }
        }
    }

    fn take_acknowledged(&self, under_way: &mut UnderWay) {
        let Some(acknowledged) = &self.acknowledged else { return };
        for seq in acknowledged.seqs.take() {
            under_way.window.arrived(seq);
            under_way.progress = Instant::now();
        }
    }

    /// Writes alerts to the module; `false` when it takes no more.
    async fn send(&self, items: Vec<Item>, under_way: &mut UnderWay) -> bool {
        let mut text = Vec::new();
        for item in items {
            match item {
                Item::Alert(record) if record.module == self.module.as_str() => {
                    under_way.window.pass(record.seq);
                }
                Item::Alert(record) => {
                    let id = format!("{}-{}", under_way.journal, record.seq);
                    let id = self.acknowledged.is_some().then_some(id.as_str());
                    text.extend_from_slice(&WireMessage::alert(&record.message, id).to_line());
                    under_way.window.send(record.seq);
                }
                Item::Missing(missing) => {
                    warn!(self.log, "alerts for the module were deleted before delivery"; "found" => %missing);
                    under_way.window.pass(missing.last);
                }
                Item::Damaged(_) => {}
            }
        }
        if text.is_empty() {
            return true;
        }
        let (written, done) = oneshot::channel();
        if self.stdin.send(DeliverLines { text, written }).await.is_err() || done.await.is_err() {
            return false;
        }
        under_way.progress = Instant::now();
        if self.acknowledged.is_none() {
            under_way.window.all_arrived();
        }
        true
    }

    /// Waits for something to do; `false` when the journal has ended.
    async fn wait(&self, under_way: &mut UnderWay) -> bool {
        let never = Instant::now() + Duration::from_secs(86_400);
        let redeliver = if under_way.window.is_empty() { never } else { under_way.progress + REDELIVER };
        let store = if under_way.is_stored() { never } else { under_way.store_at };
        let full = under_way.window.is_full();
        let acknowledgement = async {
            match &self.acknowledged {
                Some(acknowledged) => acknowledged.changed.notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = acknowledgement => true,
            more = under_way.follower.changed(), if !full => more,
            renamed = under_way.name.changed() => renamed.is_ok(),
            () = sleep_until(store) => true,
            () = sleep_until(redeliver) => {
                warn!(self.log, "the module does not acknowledge alerts; delivering them again");
                under_way.window.forget();
                under_way.follower = self.view.follow(under_way.window.delivered);
                under_way.progress = Instant::now();
                true
            }
        }
    }
}

/// A delivery under way.
struct UnderWay {
    follower: Follower,
    window: Window,
    /// What the cursor on disk says of this journal.
    stored: Option<u64>,
    /// When it is written next.
    store_at: Instant,
    /// When an alert was written or acknowledged last.
    progress: Instant,
    path: PathBuf,
    journal: String,
    /// What the journal is called, and was called when this was begun.
    name: watch::Receiver<Arc<str>>,
    called: Arc<str>,
}

impl UnderWay {
    fn is_stored(&self) -> bool {
        self.stored == Some(self.window.delivered)
    }

    fn is_renamed(&self) -> bool {
        *self.name.borrow() != self.called
    }

    fn cursor(&self) -> Cursor {
        Cursor { journal: self.journal.clone(), after: self.window.delivered }
    }

    /// Writes the cursor; a disk that takes nothing is tried again, and costs only that alerts come twice.
    async fn store_when_due(&mut self, log: &Logger) {
        if self.is_stored() || Instant::now() < self.store_at {
            return;
        }
        let cursor = self.cursor();
        let (path, after) = (self.path.clone(), cursor.after);
        self.store_at = Instant::now() + STORE_PAUSE;
        match work_threads::run(Lane::Journal, move || cursor.store(&path)).await {
            Ok(Ok(())) => self.stored = Some(after),
            Ok(Err(error)) => {
                warn!(log, "cannot store the position of delivered alerts"; "error" => %error);
            }
            Err(error) => {
                warn!(log, "cannot store the position of delivered alerts"; "error" => %error);
            }
        }
        self.store_at = Instant::now() + STORE_PAUSE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use actix::{Actor, Context, Handler};
    use proptest::prelude::*;
    use slog::{Discard, o};
    use tokio::sync::mpsc;
    use vigie_config::model::JournalSection;

    use crate::alert_journal::{AlertJournal, GetJournalView, NewAlert, RenameJournal, StoreAlerts};

    /// A module that takes everything at once.
    struct Taking(mpsc::UnboundedSender<String>);

    impl Actor for Taking {
        type Context = Context<Self>;
    }

    impl Handler<DeliverLines> for Taking {
        type Result = ();

        fn handle(&mut self, DeliverLines { text, written }: DeliverLines, _: &mut Self::Context) {
            for line in String::from_utf8(text).unwrap().lines() {
                self.0.send(line.to_owned()).unwrap();
            }
            written.send(()).unwrap();
        }
    }

    #[actix_rt::test]
    async fn a_delivery_follows_the_journal_to_another_name() {
        let directory = tempfile::tempdir().unwrap();
        let log = Logger::root(Discard, o!());
        let journal = AlertJournal::open(directory.path(), JournalSection::default(), &log).unwrap().start();
        let view = journal.send(GetJournalView).await.unwrap();
        let first = view.name.borrow().clone();
        let (taking, mut taken) = mpsc::unbounded_channel();
        let acknowledged = Rc::<Acknowledged>::default();
        let (close, closed) = oneshot::channel();
        let delivery = Delivery {
            module: "mail".parse().unwrap(),
            state_dir: directory.path().to_owned(),
            view,
            stdin: Taking(taking).start().recipient(),
            acknowledged: Some(acknowledged.clone()),
            log,
        };
        let delivering = actix_rt::spawn(delivery.run(closed));
        let alert = NewAlert { id: None, message: "seen".to_owned() };
        let alerts = Arc::new(vec![alert].into());
        let module = "watch".parse().unwrap();
        journal.send(StoreAlerts { module, alerts, about: None, last_words: false }).await.unwrap().unwrap();
        assert!(taken.recv().await.unwrap().contains(&format!("{first}-1")));
        acknowledged.add(&format!("{first}-1"));

        let second = journal.send(RenameJournal { through: 1 }).await.unwrap().unwrap();
        let told = taken.recv().await.unwrap();
        assert!(told.contains("journal_renamed") && told.contains(&format!("{second}-2")), "{told}");
        acknowledged.add(&format!("{second}-2"));
        close.send(()).unwrap();
        delivering.await.unwrap();

        let names = Names::of(&directory.path().join("journal")).unwrap();
        let stored = Cursor::load(&directory.path().join("dispatch/mail.cursor"), &names).unwrap();
        assert_eq!((stored.journal, stored.after), (second, 2));
    }

    #[test]
    fn the_cursor_waits_for_the_oldest_alert() {
        let mut window = Window::new(10);
        for seq in 11..=13 {
            window.send(seq);
        }
        window.pass(20);

        window.arrived(12);
        window.arrived(99);
        assert_eq!(window.delivered, 10);
        window.arrived(11);
        assert_eq!(window.delivered, 12);
        window.arrived(13);
        assert_eq!((window.delivered, window.is_empty()), (20, true));
    }

    #[test]
    fn ids_of_another_journal_acknowledge_nothing() {
        let acknowledged = Acknowledged::default();
        acknowledged.add("-3");
        acknowledged.prefix.replace("ab-".to_owned());
        for id in ["ab-7", "cd-8", "9", "ab-x", ""] {
            acknowledged.add(id);
        }

        assert_eq!(acknowledged.seqs.take(), [7]);
    }

    proptest! {
        /// In whatever order alerts arrive, some of them twice: nothing that did not arrive is passed, and when all
        /// have arrived nothing is left.
        #[test]
        fn nothing_is_passed_that_did_not_arrive(order in Just((1u64..=40).collect::<Vec<_>>()).prop_shuffle()) {
            let mut window = Window::new(0);
            for seq in 1..=40 {
                if seq % 7 == 0 { window.pass(seq) } else { window.send(seq) }
            }
            let mut arrived: std::collections::BTreeSet<u64> = (1..=40).filter(|seq| seq % 7 == 0).collect();
            for seq in order {
                window.arrived(seq);
                window.arrived(seq);
                arrived.insert(seq);
                let through = (1..=40).take_while(|seq| arrived.contains(seq)).count() as u64;
                prop_assert_eq!(window.delivered, through);
            }
            prop_assert!(window.is_empty());
        }
    }
}
