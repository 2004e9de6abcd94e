//! Shows the status as metrics: on a unix socket, on loopback HTTP where `metrics.listen` says so, and in a file for
//! node_exporter where `metrics.textfile` does.
//!
//! Started by the agent after everything that a status asks, told of changes by `ConfigLoader`. It knows nothing
//! itself: each answer is a status of that moment, written by the crate `vigie_metrics`. A scraper that sends garbage,
//! nothing, or takes nothing costs its own connection. When all places of a listener are taken, the one that keeps the
//! agent waiting longest, with its request or for taking its answer, gives way to the next; who waits for the agent keeps
//! its place. What the server cannot do is the condition `metrics-unavailable`; the agent runs on.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseActFuture, SpawnHandle,
    WrapFuture,
};
use slog::{Logger, info, o, warn};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::process::Command;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use vigie_config::model::{LoadedConfig, MetricsSection};
use vigie_metrics::{Form, http};
use vigie_protocol::catalogue::AgentCondition;

use crate::conditions::Reporter;
use crate::config_loader::ConfigChanged;
use crate::control_server::{Asked, bind, identity, remove_socket};
use crate::descriptors;
use crate::work_threads::{self, Lane};

/// Name of the socket in the agent's run directory.
pub const SOCKET_NAME: &str = "metrics.sock";

/// The command of ours that replaces a file by what it reads; its arguments are the file and the number of bytes.
pub const WRITER_COMMAND: &str = "write-metrics";

/// Messages in the mailbox before a sender waits.
const MAILBOX_CAPACITY: usize = 4;

/// Scrapers that are connected to one listener at a time.
pub(crate) const MAX_SCRAPERS: usize = 16;

/// Time that each scraper has for its request, and again for taking the answer, before it gives way. Any user of this
/// host may connect to the TCP address as often as he likes: this is time enough for whoever asks at once, and 320 silent
/// ones in a second keep nobody waiting for long.
const LEAST_TIME: Duration = Duration::from_millis(50);

/// Time that a scraper has to ask, and again to take its answer. Prometheus itself gives up after 10 s.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pause after the system refused a connection, for example because no descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Time after which an address that could not be listened on is tried again.
const LISTEN_AGAIN: Duration = Duration::from_secs(30);

/// Time after which it is seen that the socket is gone.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The actor.
pub struct MetricsServer {
    log: Logger,
    run_dir: PathBuf,
    /// The group whose users may ask.
    operators: Option<u32>,
    section: MetricsSection,
    asked: Asked,
    /// The program of this process.
    vigie: PathBuf,
    /// The task that accepts on TCP, and the one that writes the file.
    listening: Option<SpawnHandle>,
    writing: Option<SpawnHandle>,
    troubles: Rc<Troubles>,
}

/// What cannot be done at present; one condition for all of it.
struct Troubles {
    reporter: Reporter,
    socket: RefCell<Option<String>>,
    listen: RefCell<Option<String>>,
    textfile: RefCell<Option<String>>,
}

impl Troubles {
    fn set(&self, which: &RefCell<Option<String>>, trouble: Option<String>) {
        if *which.borrow() == trouble {
            return;
        }
        which.replace(trouble);
        let all = [&self.socket, &self.listen, &self.textfile];
        let texts: Vec<String> = all.iter().filter_map(|one| one.borrow().clone()).collect();
        self.reporter.set(AgentCondition::MetricsUnavailable, (!texts.is_empty()).then(|| texts.join("; ")));
    }
}

impl MetricsServer {
    /// A server that asks `asked`.
    #[must_use]
    pub fn new(
        log: &Logger,
        vigie: PathBuf,
        config: &Arc<LoadedConfig>,
        operators: Option<u32>,
        asked: Asked,
    ) -> Self {
        let reporter = Reporter::agent(asked.conditions.clone());
        Self {
            log: log.new(o!("component" => "metrics_server")),
            run_dir: config.agent.agent.run_dir.clone(),
            operators,
            section: config.agent.metrics.clone(),
            asked,
            vigie,
            listening: None,
            writing: None,
            troubles: Rc::new(Troubles {
                reporter,
                socket: RefCell::default(),
                listen: RefCell::default(),
                textfile: RefCell::default(),
            }),
        }
    }

    fn serving(&self, on_loopback: bool) -> Serving {
        Serving { asked: self.asked.clone(), on_loopback, log: self.log.clone() }
    }

    fn serve_socket(&mut self, ctx: &mut Context<Self>) {
        let path = self.run_dir.join(SOCKET_NAME);
        let serving = keep_socket(path, self.operators, self.serving(false), self.troubles.clone());
        ctx.spawn(serving.into_actor(self));
    }

    fn serve_listen(&mut self, ctx: &mut Context<Self>) {
        if let Some(before) = self.listening.take() {
            ctx.cancel_future(before);
        }
        let Some(address) = self.section.listen else {
            self.troubles.set(&self.troubles.listen, None);
            return;
        };
        let listening = listen(address, self.serving(true), self.troubles.clone());
        self.listening = Some(ctx.spawn(listening.into_actor(self)));
    }

    fn write_textfile(&mut self, ctx: &mut Context<Self>) {
        if let Some(before) = self.writing.take() {
            ctx.cancel_future(before);
        }
        let Some(path) = self.section.textfile.clone() else {
            self.troubles.set(&self.troubles.textfile, None);
            return;
        };
        let writing = write_again_and_again(
            self.vigie.clone(),
            path,
            self.section.textfile_interval,
            self.asked.clone(),
            self.troubles.clone(),
        );
        self.writing = Some(ctx.spawn(writing.into_actor(self)));
    }
}

impl Actor for MetricsServer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_CAPACITY);
        self.serve_socket(ctx);
        self.serve_listen(ctx);
        self.write_textfile(ctx);
    }
}

impl Handler<ConfigChanged> for MetricsServer {
    type Result = ();

    fn handle(&mut self, change: ConfigChanged, ctx: &mut Self::Context) {
        let before = std::mem::replace(&mut self.section, change.config.agent.metrics.clone());
        if before.listen != self.section.listen {
            self.serve_listen(ctx);
        }
        if (&before.textfile, before.textfile_interval)
            != (&self.section.textfile, self.section.textfile_interval)
        {
            self.write_textfile(ctx);
        }
    }
}

/// Orders the server to close its sockets. Sent once, when the agent stops.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CloseMetrics;

impl Handler<CloseMetrics> for MetricsServer {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, _: CloseMetrics, _: &mut Self::Context) -> Self::Result {
        let removing = remove_socket(self.run_dir.join(SOCKET_NAME)).into_actor(self);
        Box::pin(removing.map(|(), _, ctx| actix::ActorContext::stop(ctx)))
    }
}

/// What is needed to answer the scrapers of one listener.
#[derive(Clone)]
struct Serving {
    asked: Asked,
    on_loopback: bool,
    log: Logger,
}

/// Since when the agent waits for a scraper; nothing while the scraper waits for the agent.
type AwaitedSince = Rc<Cell<Option<Instant>>>;

/// A connected scraper.
struct Scraper {
    answering: AbortHandle,
    awaited: AwaitedSince,
}

impl Serving {
    /// Answers scrapers for ever, each in a task of its own.
    async fn accept<S, F>(self, accept: impl Fn() -> F)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
        F: Future<Output = io::Result<S>>,
    {
        let mut scrapers: Vec<Scraper> = Vec::new();
        loop {
            let Ok(stream) = accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            make_room(&mut scrapers).await;
            let (me, awaited) = (self.clone(), AwaitedSince::new(Cell::new(Some(Instant::now()))));
            let noted = awaited.clone();
            let answering = actix_rt::spawn(async move { me.answer(stream, &noted).await }).abort_handle();
            scrapers.push(Scraper { answering, awaited });
        }
    }

    async fn answer(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin, awaited: &Cell<Option<Instant>>) {
        let Ok(Some(head)) = tokio::time::timeout(PATIENCE, read_head(&mut stream)).await else { return };
        awaited.set(None);
        let response = match http::read(&head, self.on_loopback) {
            Ok(wanted) => match self.asked.status().await {
                Some(status) => http::page(wanted, &vigie_metrics::render(&status, wanted.form)),
                None => http::Refused::Unavailable.response(),
            },
            Err(refused) => refused.response(),
        };
        awaited.set(Some(Instant::now()));
        let writing = async {
            stream.write_all(&response).await?;
            stream.shutdown().await
        };
        tokio::time::timeout(PATIENCE, writing).await.ok();
    }
}

/// Has one place free: that of the scraper for which the agent has waited longest. While all wait for the agent, a place
/// becomes free as soon as one is answered.
async fn make_room(scrapers: &mut Vec<Scraper>) {
    loop {
        scrapers.retain(|scraper| !scraper.answering.is_finished());
        if scrapers.len() < MAX_SCRAPERS {
            return;
        }
        let awaited =
            scrapers.iter().enumerate().filter_map(|(at, scraper)| Some((scraper.awaited.get()?, at)));
        let now = Instant::now();
        let until = match awaited.min() {
            Some((since, at)) if since + LEAST_TIME <= now => {
                scrapers.remove(at).answering.abort();
                return;
            }
            Some((since, _)) => since + LEAST_TIME,
            None => now + LEAST_TIME,
        };
        tokio::time::sleep_until(until).await;
    }
}

/// Reads the head of a request; nothing when it is too long or cut off.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let mut head = Vec::with_capacity(512);
    while !http::is_whole(&head) {
        if head.len() >= http::MAX_HEAD_BYTES || stream.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

/// Serves the socket, and makes it again when it cannot be made or is gone.
async fn keep_socket(path: PathBuf, operators: Option<u32>, serving: Serving, troubles: Rc<Troubles>) {
    loop {
        let place = path.clone();
        let binding = work_threads::run(Lane::Modules, move || {
            bind(&place, operators).map(|listener| (listener, identity(&place)))
        });
        let bound = binding.await.map_err(io::Error::other).and_then(|bound| {
            let (listener, identity) = bound?;
            Ok((UnixListener::from_std(listener)?, identity))
        });
        let trouble = match bound {
            Ok((listener, made)) => {
                troubles.set(&troubles.socket, None);
                let accepting =
                    serving.clone().accept(|| async { listener.accept().await.map(|(stream, _)| stream) });
                tokio::select! {
                    () = accepting => {}
                    () = until_gone(&path, made) => {}
                }
                format!("{path:?} was removed and is being recreated")
            }
            Err(error) => {
                tokio::time::sleep(LISTEN_AGAIN).await;
                format!("cannot listen on {path:?}: {error}")
            }
        };
        warn!(serving.log, "metrics have no socket"; "why" => &trouble);
        troubles.set(&troubles.socket, Some(trouble));
    }
}

/// Waits until something else, or nothing, is where the socket was made.
async fn until_gone(path: &Path, made: Option<(u64, u64)>) {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        let place = path.to_owned();
        if work_threads::run(Lane::Modules, move || identity(&place)).await.is_ok_and(|found| found != made) {
            return;
        }
    }
}

/// Listens on TCP; an address that is taken is tried again.
async fn listen(address: SocketAddr, serving: Serving, troubles: Rc<Troubles>) {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                let text = format!("cannot listen on metrics.listen = {address}: {error}");
                troubles.set(&troubles.listen, Some(text));
                tokio::time::sleep(LISTEN_AGAIN).await;
            }
        }
    };
    troubles.set(&troubles.listen, None);
    info!(serving.log, "metrics are served"; "socket" => %address);
    let listener = &listener;
    serving.accept(|| async move { listener.accept().await.map(|(stream, _)| stream) }).await;
}

/// Writes the file now and after every interval.
async fn write_again_and_again(
    vigie: PathBuf,
    path: PathBuf,
    interval: Duration,
    asked: Asked,
    troubles: Rc<Troubles>,
) {
    let cannot = |why: &str| Some(format!("cannot write metrics.textfile = {path:?}: {why}"));
    loop {
        if let Some(status) = asked.status().await {
            let page = vigie_metrics::render(&status, Form::Text);
            let mut writing = std::pin::pin!(write(&vigie, &path, page));
            // Not two at a time: the one that a disk holds ends when the disk answers.
            let written = match tokio::time::timeout(PATIENCE, &mut writing).await {
                Ok(written) => written,
                Err(_) => {
                    troubles.set(&troubles.textfile, cannot("its disk does not respond"));
                    writing.await
                }
            };
            troubles.set(&troubles.textfile, written.err().and_then(|error| cannot(&error.to_string())));
        }
        tokio::time::sleep(interval).await;
    }
}

/// Has another process write the file: a disk that hangs holds that one, and not the agent.
async fn write(vigie: &Path, path: &Path, page: String) -> io::Result<()> {
    let mut command = Command::new(vigie);
    command
        .arg0("vigie")
        .arg(WRITER_COMMAND)
        .arg(path)
        .arg(page.len().to_string())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = descriptors::with_reserve(|| command.spawn())?;
    if let Some(mut stdin) = child.stdin.take() {
        // How it ended says more than a broken pipe.
        stdin.write_all(page.as_bytes()).await.ok();
    }
    let ended = child.wait_with_output().await?;
    if ended.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&ended.stderr);
    Err(io::Error::other(format!("{} ({})", words.trim(), ended.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scrapers that stay, and who ends the first of them.
    fn scrapers(awaited: Option<Instant>) -> (Vec<Scraper>, tokio::sync::oneshot::Sender<()>) {
        let (end, ended) = tokio::sync::oneshot::channel();
        let first = actix_rt::spawn(async { drop(ended.await) }).abort_handle();
        let rest = (1..MAX_SCRAPERS).map(|_| actix_rt::spawn(std::future::pending::<()>()).abort_handle());
        let scraper = |answering| Scraper { answering, awaited: AwaitedSince::new(Cell::new(awaited)) };
        (std::iter::once(first).chain(rest).map(scraper).collect(), end)
    }

    #[actix_rt::test]
    async fn a_scraper_that_waits_for_the_agent_keeps_its_place_however_many_come() {
        tokio::time::pause();
        let (mut all, end) = scrapers(None);
        let waiting = tokio::time::timeout(Duration::from_secs(60), make_room(&mut all)).await;
        assert!(waiting.is_err() && all.len() == MAX_SCRAPERS, "a status that takes long cuts nobody off");

        end.send(()).unwrap();

        make_room(&mut all).await;
        assert_eq!(all.len(), MAX_SCRAPERS - 1, "the one that was answered");
        assert!(!all.iter().any(|scraper| scraper.answering.is_finished()));
    }

    #[actix_rt::test]
    async fn the_scraper_that_keeps_the_agent_waiting_longest_gives_way() {
        tokio::time::pause();
        let begin = Instant::now();
        let (mut all, _end) = scrapers(None);
        all[7].awaited.set(Some(begin + Duration::from_millis(10)));
        all[3].awaited.set(Some(begin + Duration::from_millis(20)));

        make_room(&mut all).await;

        let waited = begin.elapsed().saturating_sub(LEAST_TIME).as_millis();
        assert!((10..15).contains(&waited), "{waited}");
        let left: Vec<usize> = (0..all.len()).filter(|at| all[*at].awaited.get().is_some()).collect();
        assert_eq!((all.len(), left), (MAX_SCRAPERS - 1, vec![3]));
    }
}
