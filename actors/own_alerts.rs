//! Alerts of the agent itself: what a module reports as failed, and what somebody changed that only an alert can tell.
//!
//! They go the way of every alert, under the name [`OWN_NAME`], which no module can have.

use actix::{Actor, Addr, Context, Handler, Message, Recipient};
use serde_json::json;
use slog::{Logger, error, o};
use vigie_log::{AgentLog, LogTime};
use vigie_protocol::condition::Subject;
use vigie_protocol::module_name::ModuleName;
use vigie_protocol::severity::Severity;

use crate::alert_journal::{AlertJournal, NewAlert, OWN_NAME, StoreAlerts};
use crate::conditions::ModuleConditionFailed;
use crate::work_threads::{self, Lane};

/// Messages in the mailbox before a sender that waits is held up; alerts are always accepted.
const MAILBOX_CAPACITY: usize = 16;

/// Something that an operator must learn as an alert. Sent by any actor, rarely.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct OwnAlert {
    /// How bad it is.
    pub severity: Severity,
    /// What happened.
    pub text: String,
}

/// Hands an alert over; it is never refused.
#[expect(clippy::disallowed_methods, reason = "rare, and an alert must not be lost to a full mailbox")]
pub fn raise(alerts: &Recipient<OwnAlert>, severity: Severity, text: String) {
    alerts.do_send(OwnAlert { severity, text });
}

/// The actor.
pub struct OwnAlerts {
    log: Logger,
    agent_log: AgentLog,
    journal: Addr<AlertJournal>,
}

impl OwnAlerts {
    /// An actor that stores alerts in `journal` and writes them to the log.
    #[must_use]
    pub fn new(log: &Logger, agent_log: AgentLog, journal: Addr<AlertJournal>) -> Self {
        Self { log: log.new(o!("component" => "own_alerts")), agent_log, journal }
    }

    fn store(&self, about: Option<ModuleName>, message: String) {
        let Ok(module) = OWN_NAME.parse::<ModuleName>() else { return };
        let mut line = Vec::new();
        self.agent_log.format_module_line(&mut line, &LogTime::now(), OWN_NAME, "alert", &message);
        let alerts = std::sync::Arc::new(vec![NewAlert { id: None, message }].into());
        let storing = self.journal.send(StoreAlerts { module, alerts, about, last_words: false });
        let (log, agent_log) = (self.log.clone(), self.agent_log.clone());
        // A task of its own: the journal answers when the alert is on disk, which may take its time.
        actix_rt::spawn(async move {
            match storing.await {
                Ok(Ok(_)) => {
                    work_threads::run(Lane::Log, move || agent_log.write_module_lines(&line).ok()).await.ok();
                }
                Ok(Err(refused)) => error!(log, "an alert of the agent was lost"; "error" => %refused),
                // The journal ends only with the agent.
                Err(_) => {}
            }
        });
    }
}

impl Actor for OwnAlerts {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_CAPACITY);
    }
}

impl Handler<OwnAlert> for OwnAlerts {
    type Result = ();

    fn handle(&mut self, alert: OwnAlert, _: &mut Self::Context) {
        self.store(None, json!({ "severity": alert.severity, "alert": alert.text }).to_string());
    }
}

impl Handler<ModuleConditionFailed> for OwnAlerts {
    type Result = ();

    fn handle(&mut self, failed: ModuleConditionFailed, _: &mut Self::Context) {
        let standing = failed.standing;
        let alert = json!({
            "severity": Severity::Critical,
            "alert": standing.to_string(),
            "condition": standing,
        });
        let about = match standing.about {
            Subject::Module(module) => Some(module),
            _ => None,
        };
        self.store(about, alert.to_string());
    }
}
