//! HTTP: one request after the other on a connection that is kept.
//!
//! Redirections are not followed: the other place may not be the receiver's, and would get the secret. An answer is
//! read as far as its limit, and nothing waits for its end beyond the sink's timeout.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
    USER_AGENT,
};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use vigie_config::files::check_url;
use vigie_config::sinks::{Address, HttpTarget, Url};
use vigie_sinks::alert::batch_id;
use vigie_sinks::request::{Extras, Template};
use vigie_sinks::signature::Keys;
use vigie_sinks::verdict::{Answer, Fate, Halves, Reason, Verdict, judge};

use super::connect::{TlsMaker, connect, secret};
use super::outcome::{Failure, Outcome};
use super::transport::Batch;
use crate::work_threads::{self, Lane};

/// Largest answer that is read in bytes; that to a bulk request names each alert.
const MAX_ANSWER_BYTES: usize = 64 << 10;
const MAX_BULK_ANSWER_BYTES: usize = 4 << 20;

/// Buffer of a connection: the head of an answer cannot be larger.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Alerts that a receiver may refuse, each on its own, before it is taken for one that takes none as it is configured.
const MOST_REFUSED_FIRST: usize = 3;

/// How often such a receiver is asked again before its word counts: with a pause of ten minutes, for an hour.
const MOST_HELD: u32 = 6;

/// How often in a row a batch is sent again whose answer cannot be read. The specification of OTLP forbids to send
/// again what was answered with 200, whether all was stored or a part; only a proxy that spoils answers for a while is
/// waited for. Then the alerts count as taken, and are kept as letters too, because some of them may have been
/// rejected.
const MOST_UNREADABLE: u32 = 3;

/// Least time between two messages in a chat: Slack takes about one a second.
const CHAT_PACE: Duration = Duration::from_secs(1);

/// What files say; read anew after each failure.
struct Secrets {
    address: Address,
    is_encrypted: bool,
    /// What stands in the request's first line.
    path: String,
    host: String,
    authorization: Option<HeaderValue>,
    keys: Option<Keys>,
    extras: Extras,
}

struct Open {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
    is_fresh: bool,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The way to an HTTP receiver.
pub(super) struct Http {
    target: HttpTarget,
    limit: Duration,
    tls: TlsMaker,
    secrets: Option<Secrets>,
    open: Option<Open>,
    last: Option<Instant>,
    /// It stored an alert once.
    has_accepted: bool,
    /// How often it refused everything although it had never stored anything.
    held: u32,
    /// How often in a row its answer could not be read.
    unreadable: u32,
}

/// A request did not get an answer.
enum Unanswered {
    /// The kept connection had ended before anything was sent on it.
    Stale,
    Failed(Failure),
}

impl Http {
    /// What makes its encrypted connections, once it is known that they are.
    pub(super) fn tls(&self) -> Option<&TlsMaker> {
        self.secrets.as_ref().filter(|secrets| secrets.is_encrypted).map(|_| &self.tls)
    }

    pub(super) fn new(target: &HttpTarget, limit: Duration) -> Self {
        Self {
            target: target.clone(),
            limit,
            tls: TlsMaker::new(&target.tls),
            secrets: None,
            open: None,
            last: None,
            has_accepted: false,
            held: 0,
            unreadable: 0,
        }
    }

    /// Most alerts in a request.
    pub(super) fn most_alerts(&self) -> usize {
        self.target.template.most_alerts()
    }

    /// Least time between two requests.
    pub(super) fn pace(&self) -> Option<Duration> {
        matches!(self.target.template, Template::Slack | Template::Mattermost).then_some(CHAT_PACE)
    }

    pub(super) async fn deliver(&mut self, batch: &Batch) -> Outcome {
        let outcome = self.pass(batch).await;
        if outcome.failure.is_some() {
            self.secrets = None;
            self.open = None;
        }
        outcome
    }

    async fn pass(&mut self, batch: &Batch) -> Outcome {
        let mut outcome = Outcome::default();
        let mut halves = Halves::new(batch.len());
        while let Some((from, to)) = halves.part() {
            let verdict = match self.post(batch, from, to).await {
                Ok(verdict) => verdict,
                Err(failure) => return Outcome { failure: Some(failure), ..outcome },
            };
            if let Verdict::Stored | Verdict::Partial { .. } = verdict {
                self.unreadable = 0;
            }
            let failure = match verdict {
                Verdict::Unreadable(why) if self.unreadable < MOST_UNREADABLE => {
                    self.unreadable += 1;
                    Some(Failure::new(Reason::Protocol, why))
                }
                Verdict::Unreadable(why) => {
                    outcome.suspects.extend((from..to).map(|at| (at, why.clone())));
                    None
                }
                Verdict::Stored => {
                    self.has_accepted = true;
                    None
                }
                Verdict::Partial { rejected, message } => {
                    let count = to - from;
                    self.has_accepted |= rejected < count as u64;
                    outcome.rejected += rejected;
                    let why = format!("the collector rejected {rejected} of these {count} alerts: {message}");
                    outcome.suspects.extend((from..to).map(|at| (at, why.clone())));
                    None
                }
                Verdict::Each(fates) => {
                    let failure = self.take_each(fates, from, &mut outcome);
                    if let Some(failure) = self.refuses_all(&outcome, batch.len()) {
                        return Outcome::failed(0, failure);
                    }
                    failure
                }
                Verdict::Bad(why) => {
                    if let Some(index) = halves.bad() {
                        outcome.dead.push((index, why));
                        outcome.done = index + 1;
                        if let Some(failure) = self.refuses_all(&outcome, batch.len()) {
                            return Outcome::failed(0, failure);
                        }
                    }
                    continue;
                }
                Verdict::Later { reason, asked, detail } => {
                    Some(Failure { asked, ..Failure::new(reason, detail) })
                }
                Verdict::Rest { reason, detail } => Some(Failure::new(reason, detail).rests()),
            };
            if failure.is_some() {
                return Outcome { failure, ..outcome };
            }
            halves.done();
            outcome.done = to;
        }
        outcome
    }

    /// Takes what became of each alert from `from` on, up to the first that is to be sent again.
    fn take_each(&mut self, fates: Vec<Fate>, from: usize, outcome: &mut Outcome) -> Option<Failure> {
        // What comes behind the first that waits is sent again as well: the receiver knows it by its name.
        for fate in fates {
            match fate {
                Fate::Stored => self.has_accepted = true,
                Fate::Dead(why) => outcome.dead.push((outcome.done.max(from), why)),
                Fate::Later => {
                    return Some(Failure::new(
                        Reason::Throttled,
                        "the receiver did not accept all documents",
                    ));
                }
                Fate::Rest { reason, detail } => return Some(Failure::new(reason, detail).rests()),
            }
            outcome.done = outcome.done.max(from) + 1;
        }
        None
    }

    /// A receiver that never stored anything and refuses whatever it gets is not one that dislikes some alerts: its
    /// key, its index or its address is wrong, and nothing is put aside for that.
    fn refuses_all(&mut self, outcome: &Outcome, count: usize) -> Option<Failure> {
        let refused = outcome.dead.len();
        let is_all = refused == outcome.done && refused >= MOST_REFUSED_FIRST.min(count);
        if self.has_accepted || !is_all || self.held >= MOST_HELD {
            return None;
        }
        self.held += 1;
        let why = outcome.dead.last().map(|(_, why)| why.as_str()).unwrap_or_default();
        let detail = format!("the receiver rejects every alert so far: {why}");
        Some(Failure::new(Reason::Refused, detail).rests())
    }

    async fn post(&mut self, batch: &Batch, from: usize, to: usize) -> Result<Verdict, Failure> {
        if let (Some(pace), Some(last)) = (self.pace(), self.last) {
            sleep_until(last + pace).await;
        }
        self.last = Some(Instant::now());
        if self.secrets.is_none() {
            self.secrets = Some(read_secrets(&self.target).await?);
        }
        let Some(secrets) = &self.secrets else {
            return Err(Failure::new(Reason::Secret, "there is no address"));
        };
        let (alerts, extras, template, gzip) =
            (batch.alerts.clone(), secrets.extras.clone(), self.target.template, self.target.gzip);
        let making = work_threads::run(Lane::Sinks, move || {
            let body = template.body(&alerts[from..to], &extras);
            if gzip { compress(&body) } else { body }
        });
        let body = Bytes::from(making.await.map_err(|error| Failure::new(Reason::Io, error.to_string()))?);
        // The same at each attempt: a receiver that knows it stores the batch once.
        let id = batch_id(&batch.alerts[from..to]);
        loop {
            let deadline = Instant::now() + self.limit;
            match self.exchange(&id, body.clone(), to - from, deadline).await {
                Ok(verdict) => return Ok(verdict),
                Err(Unanswered::Stale) => self.open = None,
                Err(Unanswered::Failed(failure)) => return Err(failure),
            }
        }
    }

    async fn exchange(
        &mut self,
        id: &str,
        body: Bytes,
        count: usize,
        deadline: Instant,
    ) -> Result<Verdict, Unanswered> {
        let Some(secrets) = &self.secrets else { return Err(Unanswered::Stale) };
        let request = request(&self.target, secrets, id, body).map_err(Unanswered::Failed)?;
        let mut open = match self.open.take() {
            Some(open) if !open.sender.is_closed() => open,
            _ => begin(secrets, &mut self.tls).await.map_err(Unanswered::Failed)?,
        };
        let answered = timeout_at(deadline, open.sender.send_request(request)).await;
        let response = match answered {
            Err(_) => return Err(Unanswered::Failed(Failure::timeout("no answer came", self.limit))),
            Ok(Err(error)) if error.is_canceled() && !open.is_fresh => return Err(Unanswered::Stale),
            Ok(Err(error)) => {
                let failure = Failure::new(Reason::Broken, format!("no response: {}", chain(&error)));
                return Err(Unanswered::Failed(failure.unsure()));
            }
            Ok(Ok(response)) => response,
        };
        let limit = match self.target.template {
            Template::Elasticsearch => MAX_BULK_ANSWER_BYTES,
            _ => MAX_ANSWER_BYTES,
        };
        let status = response.status().as_u16();
        let header = |name: HeaderName| {
            response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
        };
        let (retry_after, location) = (header(RETRY_AFTER), header(LOCATION));
        let (bytes, end) = read(response, limit, deadline).await;
        if end == End::Whole {
            open.is_fresh = false;
            self.open = Some(open);
        }
        let answer = Answer {
            status,
            retry_after: retry_after.as_deref(),
            location: location.as_deref(),
            body: &bytes,
            // One that is too long is no shorter the next time.
            is_whole: end != End::Cut,
        };
        Ok(judge(self.target.template, count, answer, Timestamp::now()))
    }
}

async fn begin(secrets: &Secrets, tls: &mut TlsMaker) -> Result<Open, Failure> {
    let tls = secrets.is_encrypted.then_some(tls);
    let connection = connect(&secrets.address, tls).await?;
    let (sender, driver) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake(TokioIo::new(connection))
        .await
        .map_err(|error| Failure::new(Reason::Broken, chain(&error)))?;
    let driver = actix_rt::spawn(async move {
        driver.await.ok();
    });
    Ok(Open { sender, driver, is_fresh: true })
}

/// How the reading of an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    /// There is more than is read.
    TooLong,
    /// The connection broke, or the time was over.
    Cut,
}

/// Reads an answer up to a limit and a time.
async fn read(response: Response<Incoming>, limit: usize, deadline: Instant) -> (Vec<u8>, End) {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    loop {
        match timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    bytes.extend_from_slice(&data[..data.len().min(limit - bytes.len())]);
                }
                if bytes.len() >= limit {
                    return (bytes, End::TooLong);
                }
            }
            Ok(None) => return (bytes, End::Whole),
            Ok(Some(Err(_))) | Err(_) => return (bytes, End::Cut),
        }
    }
}

fn request(
    target: &HttpTarget,
    secrets: &Secrets,
    id: &str,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, Failure> {
    let mut request = Request::post(&secrets.path)
        .header(HOST, &secrets.host)
        .header(USER_AGENT, concat!("vigie/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, target.template.media_type())
        .header("idempotency-key", id);
    if target.gzip {
        request = request.header(CONTENT_ENCODING, "gzip");
    }
    if let Some(authorization) = &secrets.authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    for (name, value) in &target.headers {
        request = request.header(name, value);
    }
    if let Some(keys) = &secrets.keys {
        for (name, value) in keys.headers(id, Timestamp::now().as_second(), &body) {
            request = request.header(name, value);
        }
    }
    request.body(Full::new(body)).map_err(|error| Failure::new(Reason::Protocol, error.to_string()).rests())
}

async fn read_secrets(target: &HttpTarget) -> Result<Secrets, Failure> {
    let unusable = |what: &str| Failure::new(Reason::Secret, what.to_owned()).rests();
    let url = match &target.url {
        Url::Plain(url) => url.clone(),
        Url::File(path) => {
            let url = secret(path).await?;
            // The address itself is a secret, and stays out of the text.
            check_url(&url, true)
                .map_err(|problem| unusable(&format!("the address in {} {problem}", path.display())))?;
            url
        }
    };
    let uri: Uri = url.parse().map_err(|_| unusable("the address of the receiver cannot be read"))?;
    let is_encrypted = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(unusable("the address of the receiver is not http:// or https://")),
    };
    let Some(host) = uri.host().map(|host| host.trim_matches(['[', ']']).to_owned()) else {
        return Err(unusable("the address of the receiver has no host"));
    };
    let port = uri.port_u16().unwrap_or(if is_encrypted { 443 } else { 80 });
    let authorization = match &target.authorization_file {
        Some(path) => {
            let value = HeaderValue::from_str(&secret(path).await?);
            let mut value =
                value.map_err(|_| unusable("authorization_file does not contain a valid header value"))?;
            value.set_sensitive(true);
            Some(value)
        }
        None => None,
    };
    let keys = match &target.signing {
        Some((path, style)) => {
            let keys = Keys::parse(&secret(path).await?, *style);
            Some(keys.map_err(|error| unusable(&format!("signing_key_file cannot be used: {error}")))?)
        }
        None => None,
    };
    let routing_key = match &target.routing_key_file {
        Some(path) => secret(path).await?,
        None => String::new(),
    };
    Ok(Secrets {
        address: Address { host, port },
        is_encrypted,
        path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        host: uri.authority().map(ToString::to_string).unwrap_or_default(),
        authorization,
        keys,
        extras: Extras { schema: target.schema, routing_key },
    })
}

fn compress(body: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).expect("memory takes every byte");
    encoder.finish().expect("memory takes every byte")
}

/// An error with its causes; they hold no part of a request.
fn chain(error: &dyn std::error::Error) -> String {
    vigie_protocol::error_chain::ErrorChain(error).to_string()
}
