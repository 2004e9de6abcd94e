//! One sink.
//!
//! Started by [`super::Sinks`] for each `[[sink]]` that is enabled, ended when the section is gone or changed. Owns the
//! task that delivers (`delivery`) and answers for it: status, tests, end.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, Context, Handler, Message, MessageResult, ResponseActFuture,
    ResponseFuture, WrapFuture,
};
use slog::Logger;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use vigie_config::sinks::SinkSection;
use vigie_protocol::condition::Subject;
use vigie_protocol::control::{SinkState, SinkStatus, SinkTest};
use vigie_protocol::masked_alert::masked_alert;
use vigie_protocol::severity::Severity;
use vigie_sinks::alert::{Alert, Recorded, Source};

use super::delivery::{Delivery, Progress};
use super::transport::{Form, Transport};
use crate::alert_journal::{JournalView, OWN_NAME};
use crate::conditions::Reporter;
use crate::work_threads::{self, Lane};

/// Messages in the mailbox before a sender waits.
const MAILBOX_CAPACITY: usize = 16;

/// Longest that a sink's task may take to end: it closes its connection within a second or two.
const END_PATIENCE: Duration = Duration::from_secs(4);

/// What a sink works with.
pub(super) struct SinkSpec {
    pub(super) log: Logger,
    pub(super) section: SinkSection,
    /// Alerts are masked on their way.
    pub(super) masked: bool,
    /// What the journal was called when the sink was made.
    pub(super) journal: Arc<str>,
    pub(super) view: JournalView,
    pub(super) source: Arc<Source>,
    /// Where the sink keeps its files.
    pub(super) directory: PathBuf,
    pub(super) vigie: PathBuf,
    pub(super) conditions: Reporter,
}

impl SinkSpec {
    /// Reports what concerns this sink.
    pub(super) fn reporter(&self) -> Reporter {
        self.conditions.about(Subject::Sink(self.section.name.clone()))
    }

    /// A way to the receiver that is not used yet; `after` is the number after which it begins.
    pub(super) fn transport(&self, after: u64) -> Transport {
        Transport::new(&self.section, &self.vigie, &self.source.version, after)
    }

    /// An alert as it leaves.
    pub(super) fn alert(&self, journal: &Arc<str>, recorded: &Recorded<'_>) -> Alert {
        if !self.masked {
            return Alert::new(&self.source, journal, recorded);
        }
        let message = masked_alert(recorded.module, recorded.message);
        Alert::new(&self.source, journal, &Recorded { id: None, message: &message, ..recorded.clone() })
    }
}

/// The actor.
pub(super) struct Sink {
    spec: Arc<SinkSpec>,
    progress: watch::Receiver<Progress>,
    stop: watch::Sender<bool>,
    /// Wakes the task when it waits for another attempt.
    wake: Rc<Notify>,
    delivery: Option<Delivery>,
    task: Option<JoinHandle<()>>,
}

impl Sink {
    pub(super) fn new(spec: Arc<SinkSpec>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let wake = Rc::new(Notify::new());
        let (told, progress) = watch::channel(Progress::default());
        let delivery = Delivery::new(spec.clone(), told, stopped, wake.clone());
        Self { spec, progress, stop, wake, delivery: Some(delivery), task: None }
    }
}

impl Actor for Sink {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_CAPACITY);
        if let Some(delivery) = self.delivery.take() {
            self.task = Some(actix_rt::spawn(delivery.run()));
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Asks whether a sink of this specification would do the same. Sent by [`super::Sinks`] at each change.
#[derive(Message)]
#[rtype(result = "bool")]
pub(super) struct IsLike(pub(super) Arc<SinkSpec>);

impl Handler<IsLike> for Sink {
    type Result = bool;

    fn handle(&mut self, IsLike(spec): IsLike, _: &mut Self::Context) -> bool {
        self.spec.section == spec.section
            && self.spec.masked == spec.masked
            && self.spec.journal == spec.journal
    }
}

/// Orders the sink to end; answered when nothing of it writes any more. `forget`: the section is gone, and so is what
/// was noted of it.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct EndSink {
    pub(super) forget: bool,
}

impl Handler<EndSink> for Sink {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, EndSink { forget }: EndSink, _: &mut Self::Context) -> Self::Result {
        self.stop.send_replace(true);
        let task = self.task.take();
        let spec = self.spec.clone();
        let ending = async move {
            if let Some(mut task) = task
                && timeout(END_PATIENCE, &mut task).await.is_err()
            {
                task.abort();
                task.await.ok();
            }
            if forget {
                super::place_file::PlaceFile::new(&spec.directory, &spec.section.name).remove().await;
            }
            spec.reporter().forget();
        };
        Box::pin(ending.into_actor(self).map(|(), _, ctx| ctx.stop()))
    }
}

/// Asks how the sink is.
#[derive(Message)]
#[rtype(result = "SinkStatus")]
pub(super) struct GetSinkStatus;

impl Handler<GetSinkStatus> for Sink {
    type Result = MessageResult<GetSinkStatus>;

    fn handle(&mut self, _: GetSinkStatus, _: &mut Self::Context) -> Self::Result {
        let progress = self.progress.borrow().clone();
        let recorded = *self.spec.view.recorded.borrow();
        let section = &self.spec.section;
        let now = Instant::now();
        let retry_in = progress.retry_at.map(|at| at.saturating_duration_since(now));
        MessageResult(SinkStatus {
            name: section.name.clone(),
            kind: section.kind().to_owned(),
            target: section.shown_target(),
            state: match progress.state {
                SinkState::Idle if progress.is_known && recorded > progress.position => SinkState::Sending,
                state => state,
            },
            acknowledged: progress.is_acknowledged.unwrap_or(section.is_acknowledged()),
            position: progress.position,
            lag: if progress.is_known { recorded.saturating_sub(progress.position) } else { 0 },
            oldest_unsent: progress.oldest_unsent,
            sent: progress.sent,
            resent: progress.resent,
            unacknowledged: progress.unacknowledged,
            filtered: progress.filtered,
            missed: progress.missed,
            dead_letters: progress.dead_letters,
            rejected: progress.rejected,
            failures: progress
                .failures
                .into_iter()
                .map(|(reason, count)| (reason.name().to_owned(), count))
                .collect(),
            last_success: progress.last_success,
            last_error: progress.last_error,
            retry_in_ms: retry_in.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
            certificate_expires: progress.certificate_expires,
            masked: self.spec.masked,
        })
    }
}

/// Orders a test alert to be sent, on a way of its own: what waits is not touched.
#[derive(Message)]
#[rtype(result = "SinkTest")]
pub(super) struct TrySink;

impl Handler<TrySink> for Sink {
    type Result = ResponseFuture<SinkTest>;

    fn handle(&mut self, _: TrySink, _: &mut Self::Context) -> Self::Result {
        let (spec, wake) = (self.spec.clone(), self.wake.clone());
        Box::pin(async move {
            let test = try_once(&spec).await;
            if test.ok {
                // What failed before may work now.
                wake.notify_one();
            }
            test
        })
    }
}

async fn try_once(spec: &Arc<SinkSpec>) -> SinkTest {
    let began = Instant::now();
    let name = spec.section.name.clone();
    let message = serde_json::json!({
        "severity": Severity::Low, "event": "test", "alert": format!("test of the sink {name}: this is not a real alert"),
    });
    let time = jiff::Timestamp::now().to_string();
    let recorded = Recorded {
        seq: 0,
        time: &time,
        module: OWN_NAME,
        id: None,
        severity: Severity::Low,
        message: &message.to_string(),
    };
    // A name of its own: a receiver that drops what it has must not drop the next test.
    let journal: Arc<str> = format!("test-{}", jiff::Timestamp::now().as_millisecond()).into();
    let alert = spec.alert(&journal, &recorded);
    let form = Form::of(&spec.section);
    let rendering = work_threads::run(Lane::Sinks, move || form.render(vec![alert]));
    let mut transport = spec.transport(0);
    let outcome = match rendering.await {
        Ok(batch) => {
            let limit = spec.section.timeout * 2;
            timeout(limit, transport.deliver(&batch)).await.unwrap_or_else(|_| {
                let failure = super::outcome::Failure::timeout("the test was not performed", limit);
                super::outcome::Outcome::failed(0, failure)
            })
        }
        Err(error) => {
            let failure = super::outcome::Failure::new(vigie_sinks::verdict::Reason::Io, error.to_string());
            super::outcome::Outcome::failed(0, failure)
        }
    };
    transport.close().await;
    let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (ok, reason, detail) = match (&outcome.failure, outcome.dead.first(), outcome.rejected) {
        (Some(failure), ..) => (false, Some(failure.reason.name().to_owned()), failure.detail.clone()),
        (None, Some((_, why)), _) => {
            (false, Some("refused".to_owned()), format!("the receiver rejected the test alert: {why}"))
        }
        (None, None, 1..) => {
            (false, Some("refused".to_owned()), "the collector rejected the test alert".to_owned())
        }
        (None, None, 0) if transport.is_acknowledged() => {
            (true, None, "the receiver acknowledged the test alert".to_owned())
        }
        (None, None, 0) => {
            (true, None, "the test alert was sent; this transport has no acknowledgements".to_owned())
        }
    };
    SinkTest { name, ok, reason, detail, elapsed_ms }
}
