//! One client of the agent's socket: reads requests, asks the actors, writes replies.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use actix::MailboxError;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Uid, User};
use serde::Serialize;
use slog::{Logger, debug};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use vigie_protocol::json::CompactWriter;
use vigie_protocol::message::{Asker, BadLine, Progress};
use vigie_protocol::progress::INTERVAL;
use vigie_protocol::severity::{Severity, is_canary};
use vigie_protocol::stream::ModuleReader;
use vigie_protocol::suggestion;

use super::Asked;
use super::status::ACTOR_TIMEOUT;
use crate::alert_journal::{GetJournalView, JournalView, alert_record};
use crate::config_loader::Reload;
use crate::line_feed::{self, LineWatch, Watched, module_line};
use crate::query_router::Query;
use crate::sinks::TestSink;
use crate::supervisor::{GetModuleLines, GetModules, ModuleLines, RestartModule, RestartRefused};
use crate::work_threads::{self, Lane};
use vigie_config::model::LimitsSection;
use vigie_journal::{Cause, Damage, DamageKind, Item, Missing, Portion, Record, start_of_last};
use vigie_protocol::control::{ErrorReply, MissingAlerts, ModuleLine, Reply, Request};
use vigie_protocol::module_name::{BadModuleName, ModuleName};

/// Time that a client has to take one answer, or one piece of a stream.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Alerts that are read from the disk at a time: what fits into the buffer of a client's socket that has room, so that
/// clients that do not read cost no memory of the agent's.
const ALERTS_AT_A_TIME: Portion = Portion { items: 256, bytes: 64 << 10 };

/// Queries of users who are neither root nor the agent's own whose answers are under way, up to the last byte: each can
/// be as large as `limits.result_bytes`.
static GUESTS_ANSWERS: Semaphore = Semaphore::const_new(32);

/// Time between two checks whether a client that has finished sending is still there.
const HANG_UP_CHECK: Duration = Duration::from_millis(250);

/// Time for a reload: it waits for modules to be told.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// One client.
pub(super) struct Session {
    pub(super) asked: Asked,
    pub(super) limits: LimitsSection,
    /// The client's user, by the credentials of its connection.
    pub(super) uid: u32,
    /// Root or the agent's own user; others may ask, but not change what the agent does.
    pub(super) is_owner: bool,
    /// Told to the server: a client that has asked does not make room for others.
    pub(super) has_asked: Rc<Cell<bool>>,
    pub(super) log: Logger,
}

/// Why a session ends before its client closes it.
enum Over {
    /// The client went away or does not take its answer.
    Client,
    /// The client sent something that is not a request.
    BadRequest,
}

impl From<std::io::Error> for Over {
    fn from(_: std::io::Error) -> Self {
        Self::Client
    }
}

fn refusal(kind: &str, message: impl Into<String>, hint: impl Into<String>) -> Reply {
    Reply::Error(ErrorReply { kind: kind.to_owned(), message: message.into(), hint: hint.into() })
}

impl Session {
    /// Answers the client's requests until it goes away.
    pub(super) async fn serve(self, stream: UnixStream) {
        let (read, write) = stream.into_split();
        let mut reader = ModuleReader::new(read, self.limits.line_bytes);
        let mut client = Client { write };
        loop {
            let line = tokio::time::timeout(self.limits.client_timeout, reader.next_line()).await;
            let line = match line {
                Ok(Some(Ok(line))) => line,
                Ok(Some(Err(_)) | None) => return,
                Err(_) => {
                    let waited = self.limits.client_timeout;
                    let message = format!("no request received within {waited:?} (limits.client_timeout)");
                    client
                        .reply(&refusal("too_slow", message, "send one JSON object followed by a line feed"))
                        .await
                        .ok();
                    return;
                }
            };
            self.has_asked.set(true);
            if self.answer(line, &mut reader, &mut client).await.is_err() {
                return;
            }
        }
    }

    async fn answer(
        &self,
        line: Result<String, BadLine>,
        reader: &mut ModuleReader<OwnedReadHalf>,
        client: &mut Client,
    ) -> Result<(), Over> {
        let request = line.map_err(|bad| bad.to_string()).and_then(|line| {
            serde_json::from_str::<Request>(&line).map_err(|error| format!("invalid request: {error}"))
        });
        let request = match request {
            Ok(request) => request,
            Err(message) => {
                debug!(self.log, "bad request"; "error" => ?message);
                client.reply(&refusal("bad_request", message, "see `vigie --help`")).await?;
                // What follows may be the rest of it: text that was never meant as a request of its own.
                return Err(Over::BadRequest);
            }
        };
        let changes = matches!(
            request,
            Request::Reload { dry_run: false } | Request::Restart { .. } | Request::TestSink { .. }
        );
        if (changes || matches!(request, Request::Tap { .. })) && !self.is_owner {
            let message = format!("user {} may query the agent but not control it", self.uid);
            return client.reply(&refusal("not_permitted", message, "run the command as root")).await;
        }
        match request {
            Request::Status {} => {
                let status = self.asked.status().await;
                let reply = status.map_or_else(stopping, |status| Reply::Status(Box::new(status)));
                client.reply(&reply).await
            }
            Request::Query { module, parameters, timeout_ms, progress } => {
                let timeout = timeout_ms.map(Duration::from_millis);
                // Closes when the client has gone away; true when it wants what there is.
                let (waiting, wanted) = watch::channel(false);
                let (told, news) = watch::channel(Progress::default());
                let progress = progress.then_some(told);
                let asking = async {
                    let _turn = match self.is_owner {
                        true => None,
                        false => GUESTS_ANSWERS.acquire().await.ok(),
                    };
                    let asker = Some(self.asker().await);
                    let query = Query { module, parameters, timeout, asker, progress, client: wanted };
                    let reply = with_progress(self.query(query), news, client).await?;
                    client.reply(&reply).await
                };
                // A client that goes away does not keep its place among the running queries.
                until_gone_or_stopped(reader, asking, &waiting).await?
            }
            // The query had ended when it came.
            Request::Stop {} => Ok(()),
            Request::Reload { dry_run } => client.reply(&self.reload(dry_run).await).await,
            Request::Restart { module } => client.reply(&self.restart(&module).await).await,
            Request::TestSink { sink } => {
                let tested = until_gone(reader, self.test_sink(sink)).await?;
                client.reply(&tested).await
            }
            Request::VerifyAlerts {} => {
                let verified = until_gone(reader, self.verify_alerts()).await?;
                client.reply(&verified).await
            }
            Request::Alerts { since, after, module, severity, last, follow } => {
                let wanted = Wanted { since, after, module, severity, last, follow };
                let alerts = self.alerts(wanted, client);
                until_gone(reader, alerts).await?
            }
            Request::Logs { module, follow } => match self.lines(&module).await {
                Ok(lines) => {
                    let logs = stream_lines(lines.kept.into(), follow.then_some(lines.logs), true, client);
                    until_gone(reader, logs).await?
                }
                Err(reply) => client.reply(&reply).await,
            },
            Request::Tap { module, whole } => match self.lines(&module).await {
                Ok(lines) => {
                    let config = lines.config.into_iter().collect();
                    until_gone(reader, stream_lines(config, Some(lines.wire), !whole, client)).await?
                }
                Err(reply) => client.reply(&reply).await,
            },
        }
    }

    /// Who asks. The user's name may come from a directory service, which takes its time.
    async fn asker(&self) -> Asker {
        let uid = self.uid;
        if let Some(user) = remembered_name(uid) {
            return Asker { uid: Some(uid), user, investigator: None };
        }
        #[expect(clippy::disallowed_methods, reason = "on Lane::Names")]
        let named = work_threads::run(Lane::Names, move || User::from_uid(Uid::from_raw(uid)).ok().flatten());
        let named = tokio::time::timeout(ACTOR_TIMEOUT, named).await;
        let answered = named.ok().and_then(Result::ok);
        let user = answered.clone().flatten().map(|user| user.name);
        if answered.is_some() {
            remember_name(uid, user.clone());
        }
        Asker { uid: Some(uid), user, investigator: None }
    }

    async fn query(&self, query: Query) -> Reply {
        match self.asked.router.send(query).await {
            Ok(Ok(result)) => Reply::Result(result),
            Ok(Err(error)) => refusal(error.kind(), error.to_string(), error.hint()),
            Err(_) => stopping(),
        }
    }

    async fn reload(&self, dry_run: bool) -> Reply {
        match self.asked.loader.send(Reload { dry_run }).timeout(RELOAD_TIMEOUT).await {
            Ok(report) => Reply::Reloaded(report),
            Err(MailboxError::Timeout) => {
                refusal("timed_out", "the reload is still in progress", "see `vigie status` for its result")
            }
            Err(MailboxError::Closed) => stopping(),
        }
    }

    async fn restart(&self, module: &str) -> Reply {
        let module: ModuleName = match module.parse() {
            Ok(module) => module,
            Err(bad) => return bad_name(&bad),
        };
        match self.asked.supervisor.send(RestartModule(module.clone())).await {
            Ok(Ok(pid)) => Reply::Restarted { module, pid },
            Ok(Err(refused @ RestartRefused::Unknown(_))) => self.unknown(&module, refused.to_string()).await,
            Ok(Err(refused)) => {
                refusal("not_restarted", refused.to_string(), "see `vigie status` and `vigie module list`")
            }
            Err(_) => stopping(),
        }
    }

    async fn test_sink(&self, name: String) -> Reply {
        match self.asked.sinks.send(TestSink(name.clone())).await {
            Ok(Some(test)) => Reply::SinkTested(test),
            Ok(None) => {
                let message = format!("no sink named {name:?} is configured and enabled");
                refusal("sink_unknown", message, "see `vigie sink list`")
            }
            Err(_) => stopping(),
        }
    }

    async fn lines(&self, module: &str) -> Result<ModuleLines, Reply> {
        let module: ModuleName = module.parse().map_err(|bad| bad_name(&bad))?;
        let found = self.asked.supervisor.send(GetModuleLines(module.clone())).timeout(ACTOR_TIMEOUT).await;
        match found.map_err(|_| stopping())? {
            Some(lines) => Ok(lines),
            None => Err(self.unknown(&module, format!("no module {module} is configured")).await),
        }
    }

    /// The refusal of a module that does not exist, with the name that was probably meant.
    async fn unknown(&self, module: &ModuleName, message: String) -> Reply {
        let modules = self.asked.supervisor.send(GetModules).timeout(ACTOR_TIMEOUT).await.unwrap_or_default();
        let known = modules.iter().map(|known| known.name.as_str());
        let hint = suggestion::hint(module.as_str(), known, "`vigie module list` lists the modules");
        refusal("module_unknown", message, hint)
    }

    async fn verify_alerts(&self) -> Reply {
        let Ok(view) = self.asked.journal.send(GetJournalView).timeout(ACTOR_TIMEOUT).await else {
            return stopping();
        };
        let (directory, recorded) = (view.directory.clone(), *view.recorded.borrow());
        match reading_all(move || vigie_journal::verify(&directory, Some(recorded))).await {
            Ok(mut verification) => {
                if let Some(taken_away) = view.taken_away {
                    verification.damaged += 1;
                    verification.problems.push(taken_away);
                }
                Reply::Verified(Box::new(verification))
            }
            Err(error) => unreadable(&view.directory, &error),
        }
    }

    async fn alerts(&self, wanted: Wanted, client: &mut Client) -> Result<(), Over> {
        let Ok(view) = self.asked.journal.send(GetJournalView).timeout(ACTOR_TIMEOUT).await else {
            return client.reply(&stopping()).await;
        };
        let filter = match wanted.filter() {
            Ok(filter) => filter,
            Err(reply) => return client.reply(&reply).await,
        };
        stream_alerts(view, wanted, filter, client).await
    }
}

/// How long the name of a user is taken as known: looking it up is half of what a query costs the agent.
const NAME_KEPT: Duration = Duration::from_secs(60);

/// Names that are kept: more users than ask on one host.
const NAMES_KEPT: usize = 64;

thread_local! {
    /// Names by number, with the time when they were looked up.
    static NAMES: RefCell<BTreeMap<u32, (Option<String>, Instant)>> = const { RefCell::new(BTreeMap::new()) };
}

fn remembered_name(uid: u32) -> Option<Option<String>> {
    NAMES.with_borrow(|names| {
        names.get(&uid).filter(|(_, since)| since.elapsed() < NAME_KEPT).map(|(name, _)| name.clone())
    })
}

fn remember_name(uid: u32, name: Option<String>) {
    NAMES.with_borrow_mut(|names| {
        if names.len() >= NAMES_KEPT {
            names.clear();
        }
        names.insert(uid, (name, Instant::now()));
    });
}

fn stopping() -> Reply {
    refusal("stopping", "the agent is stopping", "try again when the agent has been started")
}

fn bad_name(bad: &BadModuleName) -> Reply {
    refusal("bad_request", bad.to_string(), "see `vigie module list`")
}

/// Waits for the reply to a query and tells the client meanwhile how far it is, without hurry.
async fn with_progress(
    asking: impl Future<Output = Reply>,
    mut news: watch::Receiver<Progress>,
    client: &mut Client,
) -> Result<Reply, Over> {
    tokio::pin!(asking);
    loop {
        let told = tokio::select! {
            biased;
            reply = &mut asking => return Ok(reply),
            told = news.changed() => told,
        };
        if told.is_err() {
            // Nobody wants to know, or the query has ended.
            return Ok(asking.await);
        }
        let progress = news.borrow_and_update().clone();
        client.reply(&Reply::Progress(progress)).await?;
        if let Ok(reply) = tokio::time::timeout(INTERVAL, &mut asking).await {
            return Ok(reply);
        }
    }
}

/// Runs `work` until it is done or the client goes away; what the client sends meanwhile is kept for later.
async fn until_gone<T>(
    reader: &mut ModuleReader<OwnedReadHalf>,
    work: impl Future<Output = T>,
) -> Result<T, Over> {
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => Ok(done),
        () = hang_up(reader) => Err(Over::Client),
    }
}

/// Runs a query as [`until_gone`], and tells it through `stop` when the client wants what was found so far.
async fn until_gone_or_stopped<T>(
    reader: &mut ModuleReader<OwnedReadHalf>,
    work: impl Future<Output = T>,
    stop: &watch::Sender<bool>,
) -> Result<T, Over> {
    tokio::pin!(work);
    loop {
        let came = async {
            loop {
                if reader.kept_line().is_some_and(is_stop) {
                    return true;
                }
                if !matches!(reader.read_ahead().await, Ok(true)) {
                    hang_up(reader).await;
                    return false;
                }
            }
        };
        let stopped = tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            stopped = came => stopped,
        };
        if !stopped {
            return Err(Over::Client);
        }
        // The line is there as a whole: this does not wait.
        drop(reader.next_line().await);
        stop.send_replace(true);
    }
}

/// Whether a line is [`Request::Stop`].
fn is_stop(line: &[u8]) -> bool {
    matches!(serde_json::from_slice(line), Ok(Request::Stop {}))
}

/// Waits until the client has closed its connection. One that has only finished sending, as `nc -N` and `socat`
/// do, still wants its answer.
#[expect(clippy::disallowed_methods, reason = "asks without waiting")]
async fn hang_up(reader: &mut ModuleReader<OwnedReadHalf>) {
    while let Ok(true) = reader.read_ahead().await {}
    loop {
        let stream = reader.get_ref().as_ref();
        let mut watched = [PollFd::new(stream.as_fd(), PollFlags::empty())];
        let gone = poll(&mut watched, PollTimeout::ZERO).is_err()
            || watched[0]
                .revents()
                .is_none_or(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR));
        if gone {
            return;
        }
        tokio::time::sleep(HANG_UP_CHECK).await;
    }
}

/// Which alerts a client wants.
struct Wanted {
    since: Option<String>,
    after: Option<u64>,
    module: Option<String>,
    severity: Option<Severity>,
    last: Option<usize>,
    follow: bool,
}

/// The part of it that is decided for each alert.
#[derive(Clone)]
struct Filter {
    since: Option<jiff::Timestamp>,
    module: Option<String>,
    severity: Option<Severity>,
}

impl Filter {
    fn takes(&self, record: &Record) -> bool {
        let module = self.module.as_deref().is_none_or(|module| record.module == module);
        let severity = self.severity.is_none_or(|least| record.severity() >= least);
        // What only proves that alerts arrive is no news; asked for by its severity it is shown.
        let is_news = self.severity == Some(Severity::Low) || !is_canary(&record.module, &record.message);
        module && severity && is_news && !self.is_too_old(record)
    }

    fn is_too_old(&self, record: &Record) -> bool {
        let is_young = |since| record.time.parse().is_ok_and(|time: jiff::Timestamp| time >= since);
        self.since.is_some_and(|since| !is_young(since))
    }
}

impl Wanted {
    fn filter(&self) -> Result<Filter, Reply> {
        let since =
            self.since.as_deref().map(str::parse::<jiff::Timestamp>).transpose().map_err(|error| {
                refusal(
                    "bad_request",
                    format!("since is not an RFC 3339 time: {error}"),
                    "for example 2026-01-31T08:00:00Z",
                )
            })?;
        Ok(Filter { since, module: self.module.clone(), severity: self.severity })
    }
}

async fn stream_alerts(
    view: JournalView,
    wanted: Wanted,
    filter: Filter,
    client: &mut Client,
) -> Result<(), Over> {
    let mut after = wanted.after.unwrap_or(0);
    if wanted.last == Some(0) {
        after = *view.recorded.borrow();
    } else if let Some(last) = wanted.last {
        let (directory, filter) = (view.directory.clone(), filter.clone());
        let through = *view.recorded.borrow();
        let start =
            reading_all(move || start_of_last(&directory, through, last, |record| filter.takes(record)))
                .await;
        match start {
            Ok(start) => after = after.max(start),
            Err(error) => return client.reply(&unreadable(&view.directory, &error)).await,
        }
    }
    let mut journal = view.follow_for_client(after);
    // What is missing is told when an alert follows that is wanted: before that it may be too old.
    let mut missing = Vec::new();
    loop {
        loop {
            client.room().await?;
            let items = match journal.read(ALERTS_AT_A_TIME).await {
                Ok(items) => items,
                Err(error) => return client.reply(&unreadable(&view.directory, &error)).await,
            };
            if items.is_empty() {
                break;
            }
            let mut lines = Vec::new();
            for item in items {
                match item {
                    Item::Alert(record) if filter.takes(&record) => {
                        missing.drain(..).for_each(|one| write_line(&mut lines, &Reply::Missing(one)));
                        write_line(&mut lines, &Reply::Alert(alert_record(record)));
                    }
                    Item::Alert(record) if filter.is_too_old(&record) => missing.clear(),
                    Item::Alert(_) => {}
                    Item::Missing(one) => missing.push(missing_alerts(&one)),
                    Item::Damaged(damage) => missing.push(damaged(&damage)),
                }
            }
            client.write(&lines).await?;
        }
        for one in missing.drain(..) {
            client.reply(&Reply::Missing(one)).await?;
        }
        if !wanted.follow {
            return client.reply(&Reply::End {}).await;
        }
        if !journal.changed().await {
            return client.reply(&stopping()).await;
        }
    }
}

fn missing_alerts(missing: &Missing) -> MissingAlerts {
    let reason = match missing.why {
        Cause::Deleted(_) => "deleted",
        Cause::Damaged => "damaged",
        Cause::Lost => "lost",
    };
    MissingAlerts {
        first: missing.first,
        last: missing.last,
        count: missing.count(),
        reason: reason.to_owned(),
        message: missing.to_string(),
    }
}

fn damaged(damage: &Damage) -> MissingAlerts {
    let reason = match damage.kind {
        DamageKind::Line => "damaged",
        DamageKind::Link => "changed",
    };
    MissingAlerts {
        first: damage.after + 1,
        last: damage.after,
        count: 0,
        reason: reason.to_owned(),
        message: damage.to_string(),
    }
}

/// One client at a time has the whole journal read: the other thread of the lane is for those that want a few alerts.
static WHOLE_READS: Semaphore = Semaphore::const_new(1);

/// Runs work that can take as long as reading the whole journal. A client that goes away while it runs does not make
/// room for the next one before it has ended.
async fn reading_all<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    let turn = WHOLE_READS.acquire().await.map_err(std::io::Error::other)?;
    let reading = work_threads::run(Lane::Clients, move || {
        let done = work();
        drop(turn);
        done
    });
    reading.await.map_err(std::io::Error::other)?
}

fn unreadable(directory: &std::path::Path, error: &std::io::Error) -> Reply {
    refusal(
        "journal_unreadable",
        format!("cannot read alerts from {directory:?}: {error}"),
        "check the directory",
    )
}

async fn stream_lines(
    kept: Vec<ModuleLine>,
    feed: Option<LineWatch>,
    for_people: bool,
    client: &mut Client,
) -> Result<(), Over> {
    let shown = |mut line: ModuleLine| {
        if for_people {
            line_feed::cut(&mut line);
        }
        Reply::Line(Box::new(line))
    };
    for line in kept {
        client.reply(&shown(line)).await?;
    }
    let Some(mut feed) = feed else { return client.reply(&Reply::End {}).await };
    while let Some(watched) = feed.next().await {
        let line = match watched {
            Watched::Line(line) => line,
            Watched::Missed(count) => {
                module_line("missed", &format!("{count} lines were omitted because they arrived too fast"))
            }
        };
        client.reply(&shown(line)).await?;
    }
    client.reply(&Reply::End {}).await
}

fn write_line(buffer: &mut Vec<u8>, reply: &impl Serialize) {
    // A reply may carry foreign JSON: a line feed in it must not begin a reply of its own.
    serde_json::to_writer(CompactWriter::new(&mut *buffer), reply)
        .expect("a reply is plain data with string keys");
    buffer.push(b'\n');
}

/// The client's end for writing.
struct Client {
    write: OwnedWriteHalf,
}

impl Client {
    async fn reply(&mut self, reply: &Reply) -> Result<(), Over> {
        let mut line = Vec::with_capacity(512);
        write_line(&mut line, reply);
        self.write(&line).await
    }

    /// Waits until the client takes something: before that, nothing is read for it.
    #[expect(clippy::disallowed_methods, reason = "asks without waiting")]
    async fn room(&self) -> Result<(), Over> {
        let stream = self.write.as_ref();
        let has_room = stream.async_io(Interest::WRITABLE, || {
            let mut watched = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut watched, PollTimeout::ZERO) {
                Ok(0) => Err(std::io::ErrorKind::WouldBlock.into()),
                Ok(_) => Ok(()),
                Err(errno) => Err(errno.into()),
            }
        });
        tokio::time::timeout(WRITE_TIMEOUT, has_room).await.map_err(|_| Over::Client)??;
        Ok(())
    }

    async fn write(&mut self, lines: &[u8]) -> Result<(), Over> {
        tokio::time::timeout(WRITE_TIMEOUT, self.write.write_all(lines))
            .await
            .map_err(|_| Over::Client)??;
        Ok(())
    }
}
