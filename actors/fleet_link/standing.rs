//! Standing questions: a task of its own, which owns their files. Each is asked again and again, also while no broker
//! is connected, and what differs goes the way of an answer.
//!
//! A question's file holds the signed envelope, which is decided anew before each run: a key that was revoked, a rule
//! or a tag that changed count at once. A report is in the file before it is in the spool, so a kill in between sends
//! the same one again and never another under its number. When the spool is full nothing is reported, and the next
//! report covers all that differs since.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actix::{Addr, Recipient};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use slog::{Logger, info, warn};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};
use vigie_files::durable::{self, Durability};
use vigie_files::random;
use vigie_fleet::action::Action;
use vigie_fleet::admission::{self, Admitted, Refusal, Refused, Situation};
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::answer::{Answer, AnswerStatus};
use vigie_fleet::broker::client::random_token;
use vigie_fleet::facts::Facts;
use vigie_fleet::policy::Policy;
use vigie_fleet::predicate::Target;
use vigie_fleet::standing::{self, MAX_ROWS_BYTES, Report, Rows, StandingHead};
use vigie_protocol::error_chain::ErrorChain;
use vigie_protocol::names::{ActionId, AgentId, GroupName};

use super::actions::sealed_parts;
use super::answer_spool::AnswerSpool;
use super::desk::LEAST_ANSWER_BYTES;
use super::identity::Memory;
use super::membership::{Decided, Membership, Way};
use super::now;
use super::running::{self, Allowed, answer_without_results};
use super::uplink::Hold;
use crate::query_router::Query;
use crate::work_threads::{self, Lane};

/// Largest file of a question that is read, in bytes: the envelope, its rows, and a report that holds them again.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Most files that are read, whatever the policy allowed when they were written.
const MAX_QUESTIONS: usize = 64;

/// Ends that came before their questions and are remembered.
const MAX_STOPPED: usize = 64;

/// Orders that wait.
pub(super) const ORDERS: usize = 16;

/// Longest wait before the first run.
const FIRST: Duration = Duration::from_secs(30);

/// A signed standing question, or the end of one, that was admitted and noted.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) envelope: Bytes,
    pub(super) admitted: Box<Admitted>,
}

/// What the task works with.
pub(super) struct Standing {
    pub(super) log: Logger,
    pub(super) membership: Addr<Membership>,
    pub(super) org: GroupName,
    pub(super) agent: AgentId,
    pub(super) key: Arc<AgentKey>,
    pub(super) router: Recipient<Query>,
    pub(super) policy: watch::Receiver<Option<Arc<Policy>>>,
    pub(super) facts: watch::Receiver<Arc<Facts>>,
    pub(super) spool: Arc<AnswerSpool>,
    /// Most bytes of answers that wait for the broker.
    pub(super) answer_bytes: u64,
    /// Told when an answer was stored.
    pub(super) answers: Arc<Notify>,
    pub(super) hold: Hold,
    /// Where the files are.
    pub(super) directory: PathBuf,
    pub(super) orders: mpsc::Receiver<Order>,
    /// Whether the files may be an older copy.
    pub(super) memory: watch::Receiver<Memory>,
    /// Tells the fleet what stands here.
    pub(super) heads: watch::Sender<Vec<StandingHead>>,
}

/// What is on disk of a question.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    /// The envelope as it came.
    envelope: String,
    epoch: String,
    /// Number of the newest report, and the rows after it.
    number: u64,
    rows: Rows,
    /// The newest report, until it is in the spool.
    pending: Option<Report>,
    /// Runs that were left out since the newest report.
    missed: u64,
    /// How many restorations of older files its reports take into account, see [`Memory::restorations`].
    #[serde(default)]
    restorations: u64,
}

impl Kept {
    /// What follows after an older copy was put back: the fleet may have other reports under these numbers. The next
    /// one holds all rows.
    fn begun_anew(self, restorations: u64) -> Self {
        Self { epoch: random_token(), number: 0, pending: None, restorations, ..self }
    }
}

/// A question that stands.
struct Question {
    kept: Kept,
    action: Action,
    /// When it is asked next.
    next: Instant,
    /// When it was asked last, in seconds since 1970.
    ran: i64,
}

type Questions = BTreeMap<ActionId, Question>;

/// An end that came before its question.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stopped {
    question: ActionId,
    signers: Vec<String>,
    not_after: i64,
}

type Run = Pin<Box<dyn Future<Output = Answer>>>;

impl Question {
    fn every(&self) -> Duration {
        Duration::from_secs(self.action.standing.map_or(3600, |standing| u64::from(standing.every)))
    }

    /// Puts the next run off by an interval and up to a tenth of it, so that the hosts of a fleet do not run it at
    /// once.
    fn put_off(&mut self) {
        self.next = Instant::now() + self.every().mul_f64(1.0 + random::fraction() / 10.0);
    }
}

/// A short while, for the first run.
fn soon(every: Duration) -> Duration {
    (every / 10).min(FIRST).mul_f64(random::fraction())
}

impl Standing {
    /// Asks until the task is aborted.
    pub(super) async fn run(mut self) {
        let (mut questions, mut stopped) = self.load().await;
        self.begin_anew(&mut questions).await;
        self.show(&questions);
        let mut running: Option<(ActionId, Run)> = None;
        loop {
            let due = questions.values().map(|question| question.next).min();
            let due = due.filter(|_| running.is_none()).unwrap_or_else(Instant::now);
            let is_idle = running.is_none() && !questions.is_empty();
            let run = async {
                match &mut running {
                    Some((_, run)) => run.await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                order = self.orders.recv() => {
                    let Some(order) = order else { return };
                    self.take(order, &mut questions, &mut stopped).await;
                    // What was stopped is given up.
                    running = running.filter(|(id, _)| questions.contains_key(id));
                }
                answer = run => {
                    if let Some((id, _)) = running.take() {
                        self.ran(&id, &answer, &mut questions).await;
                    }
                }
                Ok(()) = self.memory.changed() => self.begin_anew(&mut questions).await,
                () = sleep_until(due), if is_idle => running = self.begin(&mut questions).await,
            }
            self.show(&questions);
        }
    }

    /// Tells the fleet what stands here.
    fn show(&self, questions: &Questions) {
        let heads = questions.iter().map(|(id, question)| StandingHead {
            question: id.clone(),
            epoch: question.kept.epoch.clone(),
            number: question.kept.number,
            ran: question.ran,
        });
        let heads: Vec<_> = heads.collect();
        self.heads.send_if_modified(|known| {
            let differs = *known != heads;
            *known = heads;
            differs
        });
    }

    /// Has those report everything under numbers of their own whose files are older than the newest restoration.
    async fn begin_anew(&mut self, questions: &mut Questions) {
        let restorations = self.memory.borrow_and_update().restorations();
        for (id, question) in questions.iter_mut().filter(|(_, it)| it.kept.restorations != restorations) {
            question.kept = question.kept.clone().begun_anew(restorations);
            question.next = Instant::now() + soon(question.every());
            if let Err(error) = self.store(id, &question.kept).await {
                // The next report stores it as well.
                warn!(self.log, "cannot store that a standing query begins anew"; "action" => %id, "error" => %error);
            }
        }
    }

    /// Takes a question in, or ends one.
    async fn take(&self, order: Order, questions: &mut Questions, stopped: &mut Vec<Stopped>) {
        let Order { envelope, admitted } = order;
        let id = admitted.action.id.clone();
        let done = match &admitted.action.stop {
            Some(question) => self.stop(question, &admitted, questions, stopped).await,
            None => self.stand(&envelope, &admitted, questions, stopped).await,
        };
        let decided = match done {
            Ok((code, message)) => {
                let hostname = self.facts.borrow().hostname.clone();
                let answer = answer_without_results(AnswerStatus::Ok, code, message, &hostname);
                Decided::Done { id, answer: Box::new(answer) }
            }
            Err(refusal) => {
                let refused = Box::new(admitted.refused(refusal));
                self.membership
                    .send(Decided::Refused { refused: refused.clone(), way: Way::Live })
                    .await
                    .ok();
                Decided::Answer { id, refused }
            }
        };
        self.membership.send(decided).await.ok();
    }

    async fn stand(
        &self,
        envelope: &[u8],
        admitted: &Admitted,
        questions: &mut Questions,
        stopped: &[Stopped],
    ) -> Result<(&'static str, String), Refusal> {
        let policy = self.policy.borrow().clone().ok_or(Refusal::NoPolicy)?;
        let id = &admitted.action.id;
        let ends = stopped.iter().filter(|end| end.question == *id);
        if ends.into_iter().any(|end| admission::check_stop(&admitted.action, &end.signers, &policy).is_ok())
        {
            return Ok(("stopped", "it was stopped before it arrived".to_owned()));
        }
        let most = policy.standing(&admitted.signers).map_or(0, |rule| rule.questions as usize);
        if questions.len() >= most.min(MAX_QUESTIONS) {
            return Err(Refusal::Busy(format!(
                "{} standing queries run here (standing.questions in the policy): stop one of them",
                questions.len()
            )));
        }
        let kept = Kept {
            envelope: String::from_utf8_lossy(envelope).into_owned(),
            epoch: random_token(),
            number: 0,
            rows: Rows::new(),
            pending: None,
            missed: 0,
            restorations: self.memory.borrow().restorations(),
        };
        self.store(id, &kept).await.map_err(|error| Refusal::Busy(error.to_string()))?;
        let mut question = Question { kept, action: admitted.action.clone(), next: Instant::now(), ran: 0 };
        question.next += soon(question.every());
        info!(self.log, "standing question"; "action" => %id, "every_seconds" => question.every().as_secs());
        questions.insert(id.clone(), question);
        Ok(("standing", "started".to_owned()))
    }

    async fn stop(
        &self,
        id: &ActionId,
        admitted: &Admitted,
        questions: &mut Questions,
        stopped: &mut Vec<Stopped>,
    ) -> Result<(&'static str, String), Refusal> {
        let policy = self.policy.borrow().clone().ok_or(Refusal::NoPolicy)?;
        let Some(question) = questions.get(id) else {
            // It may come later: by the stream, to a host that was away.
            stopped.retain(|end| end.not_after >= now() && end.question != *id);
            if stopped.len() == MAX_STOPPED {
                stopped.remove(0);
            }
            let (signers, not_after) = (admitted.signers.clone(), admitted.action.not_after);
            stopped.push(Stopped { question: id.clone(), signers, not_after });
            let (path, ends) = (self.stopped_path(), stopped.clone());
            let storing =
                self.on_disk(move || durable::replace(&path, &serde_json::to_vec(&ends)?, Durability::Power));
            storing.await.map_err(|error| Refusal::Busy(error.to_string()))?;
            return Ok(("not_standing", "no such standing query runs here".to_owned()));
        };
        admission::check_stop(&question.action, &admitted.signers, &policy)?;
        self.end(id, "stopped", questions).await;
        Ok(("stopped", "stopped".to_owned()))
    }

    /// Forgets a question.
    async fn end(&self, id: &ActionId, why: &str, questions: &mut Questions) {
        info!(self.log, "standing question ends"; "action" => %id, "reason" => why);
        questions.remove(id);
        let path = self.path(id);
        if let Err(error) = self.on_disk(move || durable::remove(&path)).await {
            // Its replay is refused; a restart would ask it once more until it is looked at.
            warn!(self.log, "cannot delete a standing query"; "action" => %id, "error" => %error);
        }
    }

    /// Begins the run that is due, if it may be run.
    async fn begin(&self, questions: &mut Questions) -> Option<(ActionId, Run)> {
        let (id, question) = questions.iter_mut().min_by_key(|(_, question)| question.next)?;
        let (id, late) = (id.clone(), question.next.elapsed().as_secs());
        question.kept.missed += late / question.every().as_secs().max(1);
        question.put_off();
        if question.kept.pending.is_some() && !self.send(&id, question).await {
            return None;
        }
        match self.decide(&question.kept.envelope) {
            Ok(admitted) => {
                let allowed = Allowed {
                    time: question.every().min(Duration::from_secs(u64::from(admitted.limits.seconds))),
                    bytes: usize::try_from(admitted.limits.bytes)
                        .unwrap_or(usize::MAX)
                        .min(4 * MAX_ROWS_BYTES),
                };
                let (router, hostname) = (self.router.clone(), self.facts.borrow().hostname.clone());
                let run = async move {
                    running::run(&admitted.action, &admitted.signers, allowed, &hostname, &router).await
                };
                Some((id, Box::pin(run)))
            }
            Err(refused) => {
                match refused.refusal {
                    // It may be otherwise next time.
                    Refusal::NotTargeted
                    | Refusal::NoPolicy
                    | Refusal::NotYetValid { .. }
                    | Refusal::UnknownModule(_) => question.kept.missed += 1,
                    Refusal::Expired { .. } => self.end(&id, "expired", questions).await,
                    _ => {
                        self.end(&id, refused.refusal.code(), questions).await;
                        self.membership.send(Decided::Refused { refused, way: Way::Live }).await.ok();
                    }
                }
                None
            }
        }
    }

    fn decide(&self, envelope: &str) -> Result<Admitted, Box<Refused>> {
        let (policy, facts) = (self.policy.borrow().clone(), self.facts.borrow().clone());
        let situation =
            Situation { now: now(), org: self.org.as_str(), policy: policy.as_deref(), facts: &facts };
        admission::decide(
            envelope.as_bytes(),
            &situation,
            |_, _| false,
            |target, facts| {
                Target::parse(target).map(|target| target.matches(facts)).map_err(|error| error.to_string())
            },
        )
    }

    /// Reports what differs.
    async fn ran(&self, id: &ActionId, answer: &Answer, questions: &mut Questions) {
        let Some(question) = questions.get_mut(id) else { return };
        question.ran = now();
        if self.spool.waiting_bytes() + LEAST_ANSWER_BYTES > self.answer_bytes {
            return;
        }
        let kept = &question.kept;
        let rows = standing::rows(answer, &kept.rows);
        let number = kept.number + 1;
        let time = answer.time.clone();
        let Some(mut report) = standing::report(id, &kept.epoch, number, &kept.rows, &rows, time) else {
            let path = self.path(id);
            // The file's time is when it was run: after a restart it is known what was missed.
            #[expect(clippy::disallowed_methods, reason = "on Lane::Fleet")]
            let touch = move || File::options().append(true).open(&path)?.set_modified(SystemTime::now());
            self.on_disk(touch).await.ok();
            return;
        };
        report.missed = kept.missed;
        let next = Kept { number, rows, pending: Some(report), missed: 0, ..kept.clone() };
        match self.store(id, &next).await {
            Ok(()) => {
                question.kept = next;
                self.send(id, question).await;
            }
            Err(error) => {
                warn!(self.log, "cannot store the differences, comparing again"; "action" => %id,
                    "error" => %error);
            }
        }
    }

    /// Puts the pending report into the spool; whether it is there.
    async fn send(&self, id: &ActionId, question: &mut Question) -> bool {
        let Some(report) = question.kept.pending.clone() else { return true };
        let travels = standing::report_id(id, &report.epoch, report.number);
        let (spool, agent, key) = (self.spool.clone(), self.agent.clone(), self.key.clone());
        let storing = self.on_disk(move || {
            let text = serde_json::to_string(&report)?;
            spool.store(&travels, &sealed_parts(&travels, &agent, &key, &text)).map_err(io::Error::other)
        });
        if let Err(error) = storing.await {
            warn!(self.log, "a report waits for the disk"; "action" => %id, "error" => %error);
            return false;
        }
        self.answers.notify_one();
        question.kept.pending = None;
        // When it fails, the next start sends the same report again.
        self.store(id, &question.kept).await.ok();
        true
    }

    fn path(&self, id: &ActionId) -> PathBuf {
        self.directory.join(format!("{id}.json"))
    }

    fn stopped_path(&self) -> PathBuf {
        self.directory.join("stopped.json")
    }

    async fn store(&self, id: &ActionId, kept: &Kept) -> io::Result<()> {
        let (path, kept) = (self.path(id), kept.clone());
        self.on_disk(move || durable::replace(&path, &serde_json::to_vec(&kept)?, Durability::Power)).await
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let hold = self.hold.clone();
        let done = work_threads::run(Lane::Fleet, move || {
            let _hold = hold;
            work()
        });
        done.await.map_err(|_| io::Error::other("the agent is stopping"))?
    }

    /// What stood before the start.
    async fn load(&self) -> (Questions, Vec<Stopped>) {
        let (directory, stopped) = (self.directory.clone(), self.stopped_path());
        let log = self.log.clone();
        let loading = self.on_disk(move || {
            durable::make_directory(&directory)?;
            let ends = durable::read_bounded(&stopped, MAX_FILE_BYTES).ok();
            let ends = ends.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
            Ok((read_all(&directory, &log), ends))
        });
        loading.await.unwrap_or_else(|error| {
            warn!(self.log, "cannot read the standing queries"; "path" => ?self.directory, "error" => %error);
            Default::default()
        })
    }
}

/// The questions of a directory. Blocking.
#[expect(clippy::disallowed_methods, reason = "called on Lane::Fleet")]
fn read_all(directory: &Path, log: &Logger) -> Questions {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| {
        let path = entry.path();
        let id: ActionId = path.file_stem()?.to_str()?.parse().ok()?;
        Some((id, path))
    });
    let mut questions = Questions::new();
    for (id, path) in files.take(MAX_QUESTIONS) {
        match read(&path) {
            Ok(question) if question.action.id == id => {
                questions.insert(id, question);
            }
            Ok(_) => warn!(log, "the file of a standing query contains another query"; "path" => ?path),
            Err(error) => {
                warn!(log, "a standing query cannot be read and was stopped"; "path" => ?path,
                    "error" => %error);
            }
        }
    }
    questions
}

#[expect(clippy::disallowed_methods, reason = "called on Lane::Fleet")]
fn read(path: &Path) -> io::Result<Question> {
    let kept: Kept = serde_json::from_slice(&durable::read_bounded(path, MAX_FILE_BYTES)?)?;
    let read = admission::read(kept.envelope.as_bytes());
    let (_, action) = read.map_err(|refused| io::Error::other(ErrorChain(&refused.refusal).to_string()))?;
    let written = fs::metadata(path)?.modified()?;
    let away = written.elapsed().unwrap_or_default();
    let seconds = written.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let ran = i64::try_from(seconds).unwrap_or(i64::MAX);
    let mut question = Question { kept, action, next: Instant::now(), ran };
    let every = question.every();
    question.kept.missed += away.as_secs() / every.as_secs().max(1);
    question.next += every.saturating_sub(away) + soon(every);
    Ok(question)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_restored_state_the_next_report_is_a_whole_one_with_a_name_of_its_own() {
        let id = ActionId::from_random([7; 16]);
        let row = standing::Row { module: "m".to_owned(), place: "p".to_owned(), value: "1".to_owned() };
        let rows = Rows::from([row]);
        let report = |kept: &Kept| {
            standing::report(&id, &kept.epoch, kept.number + 1, &kept.rows, &rows, String::new())
        };
        let mut kept = Kept {
            envelope: "signed".to_owned(),
            epoch: "former".to_owned(),
            number: 4,
            rows: Rows::new(),
            pending: None,
            missed: 2,
            restorations: 0,
        };
        kept.pending = report(&kept);
        kept.rows.clone_from(&rows);

        let anew = kept.clone().begun_anew(1);

        assert_eq!((anew.envelope.as_str(), anew.missed, anew.pending.is_none()), ("signed", 2, true));
        let next = report(&anew).expect("it is told although nothing differs");
        assert!(next.full && next.number == 1 && next.added == rows);
        let name = |epoch: &str, number| standing::report_id(&id, epoch, number);
        let former: Vec<_> = (1..10).map(|number| name("former", number)).collect();
        assert!(!former.contains(&name(&next.epoch, next.number)));
    }
}
