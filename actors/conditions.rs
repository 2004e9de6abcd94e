//! Everything that is wrong at present, in one place.
//!
//! Started first by the agent, because everybody reports to it; stopped last. Each condition is raised and cleared by
//! its one owner through a [`Reporter`]; modules report theirs as whole sets (`ModuleHealth`). Status, exit code,
//! log, metrics and the fleet's presence are views of this set: `ControlServer` asks with `GetConditions`, others
//! follow the channel of [`Conditions::watch`]. Each rise and each fall is one line in the log.
//!
//! Who can cause how much: a module has at most `MAX_CONDITIONS` conditions, each bounded in length, and its changes are logged at most `LOGGED_IN_A_MINUTE` times a minute.

use std::collections::BTreeMap;
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

/// A module reported a condition that is `failed`. Sent once for each rise to whoever turns it into an alert.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct ModuleConditionFailed {
    /// What failed.
    pub standing: StandingCondition,
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
    /// When the minute began in which rises and falls are counted, and how many there were.
    minute: Option<(Instant, u32)>,
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
        if known.set.is_empty() && transitions.is_empty() {
            self.subjects.remove(subject);
        }
        for transition in &transitions {
            self.tell(subject, transition);
        }
        if changed {
            self.standing.send_replace(self.all());
        }
    }

    fn tell(&mut self, subject: &Subject, transition: &Transition) {
        if let (Transition::Raised(condition), Subject::Module(_), Some(alerts)) =
            (transition, subject, &self.alerts)
            && condition.severity == ConditionSeverity::Failed
            && !AgentCondition::is_name(&condition.name)
        {
            let standing = StandingCondition { about: subject.clone(), condition: condition.clone() };
            post(alerts, ModuleConditionFailed { standing });
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
        let Some(known) = self.subjects.get_mut(subject) else { return true };
        let now = Instant::now();
        let (began, count) = known.minute.unwrap_or((now, 0));
        let (began, count) =
            if now.duration_since(began) >= Duration::from_secs(60) { (now, 0) } else { (began, count) };
        known.minute = Some((began, count.saturating_add(1)));
        count < LOGGED_IN_A_MINUTE
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
