//! Everything that is wrong at present, in one place.
//!
//! Started first by the agent, because everybody reports to it; stopped last. Each condition is raised and cleared by
//! its one owner through a [`Reporter`]; modules report theirs as whole sets (`ModuleHealth`). Status, exit code,
//! log, metrics and the fleet's presence are views of this set: `ControlServer` asks with `GetConditions`, others
//! follow the channel of [`Conditions::watch`]. Each rise and each fall is one line in the log.
//!
//! Who can cause how much: a module has at most `MAX_CONDITIONS` conditions, each bounded in length. Its changes are
//! logged at most `LOGGED_IN_A_MINUTE` times a minute and become at most `ALERTS_IN_A_MINUTE` alerts; what still stands
//! when the minute is over becomes an alert then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use actix::{Actor, Addr, Context, Handler, Message, MessageResult, Recipient};
use slog::{Logger, error, info, o, warn};
use tokio::sync::watch;
use tokio::time::Instant;
use vigie_protocol::catalogue::AgentCondition;
use vigie_protocol::condition::{
    Condition, ConditionSet, ConditionSeverity, StandingCondition, Subject, Transition,
};
use vigie_protocol::module_name::ModuleName;

/// Messages in the mailbox before a sender that waits is held up; reports are always accepted.
const MAILBOX_CAPACITY: usize = 64;

/// Rises and falls of one subject that are logged in a minute; further ones are counted.
const LOGGED_IN_A_MINUTE: u32 = 20;

/// Alerts about failed conditions of one subject in a minute: as many as a module can have conditions.
const ALERTS_IN_A_MINUTE: u32 = 64;

const MINUTE: Duration = Duration::from_secs(60);

/// A module reported a condition that is `failed`, or a sink has one by which alerts are lost. Sent once for each rise
/// to whoever turns it into an alert.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct ModuleConditionFailed {
    /// What failed.
    pub standing: StandingCondition,
}

/// Whether a failed condition is told as an alert: what a module says of itself, and what alerts are lost by before
/// anybody looks at the status.
fn is_alerted(subject: &Subject, name: &str) -> bool {
    match subject {
        Subject::Module(_) => !AgentCondition::is_name(name),
        Subject::Sink(_) => {
            [AgentCondition::SinkBehind, AgentCondition::SinkLettersLost].iter().any(|one| one.name() == name)
        }
        Subject::Agent => false,
    }
}

/// The actor.
pub struct Conditions {
    log: Logger,
    subjects: BTreeMap<Subject, Known>,
    standing: watch::Sender<Vec<StandingCondition>>,
    alerts: Option<Recipient<ModuleConditionFailed>>,
}

/// What is known of one subject.
#[derive(Default)]
struct Known {
    set: ConditionSet,
    /// Rises and falls.
    logged: Minute,
    /// Alerts about them.
    alerted: Minute,
    /// Failed conditions that are not told as alerts yet.
    held: BTreeSet<String>,
}

impl Known {
    /// Nothing of it has to be remembered.
    fn is_over(&self) -> bool {
        self.set.is_empty() && self.held.is_empty() && self.logged.is_over() && self.alerted.is_over()
    }
}

/// How often something happened in the present minute, and when that began.
#[derive(Default)]
struct Minute(Option<(Instant, u32)>);

impl Minute {
    fn is_over(&self) -> bool {
        self.0.is_none_or(|(began, _)| began.elapsed() >= MINUTE)
    }

    /// Counts once more; whether that is within the limit.
    fn take(&mut self, limit: u32) -> bool {
        let (began, count) = self.0.filter(|_| !self.is_over()).unwrap_or((Instant::now(), 0));
        self.0 = Some((began, count.saturating_add(1)));
        count < limit
    }
}

impl Conditions {
    /// A place where nothing is wrong yet.
    #[must_use]
    pub fn new(log: &Logger) -> Self {
        Self {
            log: log.new(o!("component" => "conditions")),
            subjects: BTreeMap::new(),
            standing: watch::Sender::new(Vec::new()),
            alerts: None,
        }
    }

    /// The whole set whenever it changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Vec<StandingCondition>> {
        self.standing.subscribe()
    }

    fn apply(&mut self, subject: &Subject, step: impl FnOnce(&mut ConditionSet, &str) -> Vec<Transition>) {
        let now = jiff::Timestamp::now().to_string();
        let known = self.subjects.entry(subject.clone()).or_default();
        let before = known.set.clone();
        let transitions = step(&mut known.set, &now);
        let changed = known.set != before;
        for transition in &transitions {
            self.tell(subject, transition);
        }
        self.tell_held(subject);
        // Who comes and goes is remembered as long as it is counted.
        if transitions.is_empty() && self.subjects.get(subject).is_some_and(Known::is_over) {
            self.subjects.remove(subject);
        }
        if changed {
            self.standing.send_replace(self.all());
        }
    }

    fn tell(&mut self, subject: &Subject, transition: &Transition) {
        if let Some(known) = self.subjects.get_mut(subject) {
            match transition {
                Transition::Raised(condition)
                    if condition.severity == ConditionSeverity::Failed
                        && is_alerted(subject, &condition.name) =>
                {
                    known.held.insert(condition.name.clone());
                }
                Transition::Raised(Condition { name, .. }) | Transition::Cleared(Condition { name, .. }) => {
                    known.held.remove(name);
                }
            }
        }
        if !self.may_log(subject) {
            return;
        }
        let about = subject.to_string();
        match transition {
            Transition::Raised(Condition { name, severity: ConditionSeverity::Failed, detail, .. }) => {
                error!(self.log, "condition raised"; "about" => about, "condition" => name, "detail" => ?detail);
            }
            Transition::Raised(Condition { name, detail, .. }) => {
                warn!(self.log, "condition raised"; "about" => about, "condition" => name, "detail" => ?detail);
            }
            Transition::Cleared(Condition { name, since, .. }) => {
                info!(self.log, "condition cleared"; "about" => about, "condition" => name, "since" => since);
            }
        }
    }

    /// A condition that comes and goes all the time must not fill the log.
    fn may_log(&mut self, subject: &Subject) -> bool {
        self.subjects.get_mut(subject).is_none_or(|known| known.logged.take(LOGGED_IN_A_MINUTE))
    }

    /// Makes alerts of failed conditions, as many as there may be.
    fn tell_held(&mut self, subject: &Subject) {
        let (Some(known), Some(alerts)) = (self.subjects.get_mut(subject), &self.alerts) else { return };
        for condition in known.set.iter() {
            if known.held.contains(&condition.name) && known.alerted.take(ALERTS_IN_A_MINUTE) {
                known.held.remove(&condition.name);
                let standing = StandingCondition { about: subject.clone(), condition: condition.clone() };
                post(alerts, ModuleConditionFailed { standing });
            }
        }
    }

    fn all(&self) -> Vec<StandingCondition> {
        let of = |(subject, known): (&Subject, &Known)| -> Vec<StandingCondition> {
            let conditions = known.set.iter().cloned();
            conditions.map(|condition| StandingCondition { about: subject.clone(), condition }).collect()
        };
        self.subjects.iter().flat_map(of).collect()
    }
}

impl Actor for Conditions {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_CAPACITY);
    }
}

/// Raises or clears conditions of one subject. Cloned freely; sending never waits and is never refused.
#[derive(Clone)]
pub struct Reporter {
    conditions: Addr<Conditions>,
    subject: Subject,
}

impl Reporter {
    /// A reporter of what concerns the agent itself.
    #[must_use]
    pub fn agent(conditions: Addr<Conditions>) -> Self {
        Self { conditions, subject: Subject::Agent }
    }

    /// The same for another subject.
    #[must_use]
    pub fn about(&self, subject: Subject) -> Self {
        Self { conditions: self.conditions.clone(), subject }
    }

    /// Something is wrong; `detail` is for people.
    pub fn raise(&self, condition: AgentCondition, detail: impl Into<String>) {
        let (subject, detail) = (self.subject.clone(), Some(detail.into()));
        self.post(SetCondition { subject, condition, detail });
    }

    /// It is no longer wrong.
    pub fn clear(&self, condition: AgentCondition) {
        let subject = self.subject.clone();
        self.post(SetCondition { subject, condition, detail: None });
    }

    /// Raises the condition when there is a detail and clears it otherwise.
    pub fn set(&self, condition: AgentCondition, detail: Option<String>) {
        let subject = self.subject.clone();
        self.post(SetCondition { subject, condition, detail });
    }

    /// The subject is gone, and so is what was wrong with it.
    pub fn forget(&self) {
        self.post(ForgetSubject(self.subject.clone()));
    }

    /// Replaces what a module says of itself.
    pub(crate) fn module_health(&self, module: ModuleName, conditions: Vec<Condition>) {
        self.post(ModuleHealth { module, conditions });
    }

    /// A module's life is over: what that life said of itself no longer holds, nor what was seen of it.
    pub(crate) fn life_ended(&self, module: ModuleName) {
        self.post(LifeEnded(module));
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "sent when something changes; a full mailbox must not lose it"
    )]
    fn post<M>(&self, message: M)
    where
        Conditions: Handler<M>,
        M: Message<Result = ()> + Send + 'static,
    {
        self.conditions.do_send(message);
    }
}

#[expect(clippy::disallowed_methods, reason = "sent once when a condition rises")]
fn post<M>(recipient: &Recipient<M>, message: M)
where
    M: Message<Result = ()> + Send + 'static,
{
    recipient.do_send(message);
}

/// Sent by a [`Reporter`], at any time; without a detail the condition is cleared.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct SetCondition {
    subject: Subject,
    condition: AgentCondition,
    detail: Option<String>,
}

impl Handler<SetCondition> for Conditions {
    type Result = ();

    fn handle(&mut self, message: SetCondition, _: &mut Self::Context) {
        let SetCondition { subject, condition, detail } = message;
        self.apply(&subject, |set, now| {
            let transition = match &detail {
                Some(detail) => set.raise(condition, detail, now),
                None => set.clear(condition),
            };
            transition.into_iter().collect()
        });
    }
}

/// Sent by a [`Reporter`] when a subject is no longer configured.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct ForgetSubject(Subject);

impl Handler<ForgetSubject> for Conditions {
    type Result = ();

    fn handle(&mut self, message: ForgetSubject, _: &mut Self::Context) {
        self.apply(&message.0, |set, _| set.clear_all());
    }
}

/// Sent by `ModuleProcess` for each `health` message of its module, about one a heartbeat.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct ModuleHealth {
    module: ModuleName,
    conditions: Vec<Condition>,
}

impl Handler<ModuleHealth> for Conditions {
    type Result = ();

    fn handle(&mut self, message: ModuleHealth, _: &mut Self::Context) {
        let ModuleHealth { module, conditions } = message;
        self.apply(&Subject::Module(module), |set, now| {
            let (mut transitions, left_out) = set.replace(conditions, AgentCondition::is_name, now);
            let detail = format!("{left_out} conditions were omitted: invalid names, or too many");
            transitions.extend(match left_out {
                0 => set.clear(AgentCondition::HealthTruncated),
                _ => set.raise(AgentCondition::HealthTruncated, &detail, now),
            });
            transitions
        });
    }
}

/// Sent by `ModuleProcess` once, when a life of its module is over.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct LifeEnded(ModuleName);

/// What belongs to the module as such and not to one life of it: the Supervisor raises and clears these.
const OVER_LIVES: [AgentCondition; 3] = [
    AgentCondition::ModuleFailed,
    AgentCondition::ModuleRestarting,
    AgentCondition::ModuleConfigurationInvalid,
];

impl Handler<LifeEnded> for Conditions {
    type Result = ();

    fn handle(&mut self, message: LifeEnded, _: &mut Self::Context) {
        let stays = |name: &str| OVER_LIVES.iter().any(|condition| condition.name() == name);
        self.apply(&Subject::Module(message.0), |set, now| set.replace(Vec::new(), stays, now).0);
    }
}

/// Asks for everything that is wrong, the agent's own conditions first.
#[derive(Debug, Message)]
#[rtype(result = "Vec<StandingCondition>")]
pub(crate) struct GetConditions;

impl Handler<GetConditions> for Conditions {
    type Result = MessageResult<GetConditions>;

    fn handle(&mut self, _: GetConditions, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.all())
    }
}

/// Says who turns failed conditions of modules into alerts. Sent once, when the journal is there.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct AlertOnFailure(pub Recipient<ModuleConditionFailed>);

impl Handler<AlertOnFailure> for Conditions {
    type Result = ();

    fn handle(&mut self, message: AlertOnFailure, _: &mut Self::Context) {
        self.alerts = Some(message.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module() -> ModuleName {
        "fswatch".parse().unwrap()
    }

    fn blind(severity: ConditionSeverity) -> Condition {
        Condition { name: "blind".to_owned(), severity, since: String::new(), detail: "x".to_owned() }
    }

    async fn names(conditions: &Addr<Conditions>) -> Vec<String> {
        let standing = conditions.send(GetConditions).await.unwrap();
        standing.into_iter().map(|one| one.condition.name).collect()
    }

    struct Alerts(tokio::sync::mpsc::UnboundedSender<String>);

    impl Actor for Alerts {
        type Context = Context<Self>;
    }

    impl Handler<ModuleConditionFailed> for Alerts {
        type Result = ();

        fn handle(&mut self, failed: ModuleConditionFailed, _: &mut Self::Context) {
            self.0.send(failed.standing.to_string()).unwrap();
        }
    }

    #[actix_rt::test]
    async fn a_refused_socket_is_still_reported_when_a_flood_of_log_lines_is_over() {
        let conditions = Conditions::new(&Logger::root(slog::Discard, o!())).start();
        let reporter = Reporter::agent(conditions.clone()).about(Subject::Module(module()));

        reporter.raise(AgentCondition::SocketRefused, "not allowed");
        reporter.raise(AgentCondition::LogBudgetExceeded, "");
        reporter.clear(AgentCondition::LogBudgetExceeded);

        assert_eq!(names(&conditions).await, ["socket-refused"]);
    }

    #[actix_rt::test]
    async fn what_a_life_said_of_itself_ends_with_it() {
        let conditions = Conditions::new(&Logger::root(slog::Discard, o!())).start();
        let reporter = Reporter::agent(conditions.clone()).about(Subject::Module(module()));
        reporter.raise(AgentCondition::ModuleRestarting, "exited(1)");
        reporter.raise(AgentCondition::HeartbeatMissed, "2");
        reporter.module_health(module(), vec![blind(ConditionSeverity::Failed)]);

        reporter.life_ended(module());

        assert_eq!(names(&conditions).await, ["module-restarting"]);
    }

    #[actix_rt::test]
    async fn a_module_neither_raises_nor_clears_what_is_the_agents() {
        let conditions = Conditions::new(&Logger::root(slog::Discard, o!())).start();
        let reporter = Reporter::agent(conditions.clone()).about(Subject::Module(module()));
        reporter.raise(AgentCondition::SocketRefused, "not allowed");

        let forged = Condition { name: "module-failed".to_owned(), ..blind(ConditionSeverity::Failed) };
        reporter.module_health(module(), vec![forged]);

        assert_eq!(names(&conditions).await, ["health-truncated", "socket-refused"]);
    }

    #[actix_rt::test]
    async fn conditions_that_come_and_go_are_few_alerts_and_what_stays_is_told() {
        tokio::time::pause();
        let conditions = Conditions::new(&Logger::root(slog::Discard, o!())).start();
        let (sender, mut alerts) = tokio::sync::mpsc::unbounded_channel();
        conditions.send(AlertOnFailure(Alerts(sender).start().recipient())).await.unwrap();
        let reporter = Reporter::agent(conditions.clone());
        let mut told = || std::iter::from_fn(|| alerts.try_recv().ok()).count();

        for _ in 0..1000 {
            reporter.module_health(module(), vec![blind(ConditionSeverity::Failed)]);
            reporter.module_health(module(), Vec::new());
            reporter.module_health(module(), Vec::new());
        }
        names(&conditions).await;
        tokio::task::yield_now().await;
        assert_eq!(told(), ALERTS_IN_A_MINUTE as usize);

        reporter.module_health(module(), vec![blind(ConditionSeverity::Failed)]);
        names(&conditions).await;
        tokio::time::advance(MINUTE).await;
        reporter.module_health(module(), vec![blind(ConditionSeverity::Failed)]);
        names(&conditions).await;
        tokio::task::yield_now().await;
        assert_eq!(told(), 1);
    }

    #[actix_rt::test]
    async fn a_failed_condition_of_a_module_is_an_alert_once() {
        let conditions = Conditions::new(&Logger::root(slog::Discard, o!())).start();
        let (sender, mut alerts) = tokio::sync::mpsc::unbounded_channel();
        conditions.send(AlertOnFailure(Alerts(sender).start().recipient())).await.unwrap();
        let reporter = Reporter::agent(conditions.clone());

        for severity in [ConditionSeverity::Warning, ConditionSeverity::Failed, ConditionSeverity::Failed] {
            reporter.module_health(module(), vec![blind(severity)]);
        }
        reporter.module_health(module(), Vec::new());
        assert!(names(&conditions).await.is_empty());

        assert_eq!(alerts.recv().await.unwrap(), "module fswatch: blind: x");
        tokio::task::yield_now().await;
        assert!(alerts.try_recv().is_err());
    }
}
