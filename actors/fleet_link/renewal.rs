//! Has the agent's login and certificate renewed in time: a task of its own.
//!
//! When two thirds of a login's time or of a certificate's are over, the agent asks over the connection that it has,
//! with a request that its own key seals. Whoever enrols answers with new ones; the keys stay, and never leave the
//! host.

use std::sync::Arc;
use std::time::Duration;

use slog::{Logger, debug, info, warn};
use tokio::sync::watch;
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::broker::client::{expiry, tls};
use vigie_fleet::broker::jwt::user_of;
use vigie_fleet::broker::stored::{self, StoredError};
use vigie_fleet::certificates::{self, VALID_SECONDS};
use vigie_fleet::facts::Facts;
use vigie_fleet::host_facts;
use vigie_fleet::join::{Approved, Outcome, Request, VERSION, open_answer};
use vigie_fleet::policy::Policy;
use vigie_fleet::subjects::{self, JOINED};

use super::disk;
use super::now;
use super::uplink::{Hold, Uplink};
use crate::work_threads::{self, Lane};
use vigie_config::model::FleetSection;
use vigie_protocol::error_chain::ErrorChain;

/// Longest time between two looks at how long things hold.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// Pauses between two looks for an answer: from the first to the second, doubled each time.
const ANSWER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Most time between two requests while there is no answer.
const ASK_AGAIN: Duration = Duration::from_secs(600);

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// What the task works with.
pub(super) struct Renewal {
    pub(super) log: Logger,
    pub(super) section: FleetSection,
    pub(super) key: Arc<AgentKey>,
    pub(super) policy: watch::Receiver<Option<Arc<Policy>>>,
    pub(super) facts: watch::Receiver<Arc<Facts>>,
    pub(super) uplink: Uplink,
    pub(super) hold: Hold,
}

/// What is on disk.
struct Held {
    login: String,
    /// Public key of the certificate's key.
    tls_key: Option<String>,
    /// When something has to be renewed, in seconds since 1970.
    due: Option<i64>,
    /// How long logins are valid, in seconds.
    lifetime: Option<i64>,
}

/// When two thirds of a time are over.
fn due(from: i64, until: i64) -> i64 {
    from.saturating_add(until.saturating_sub(from).max(0) / 3 * 2)
}

/// Reads what is there. Blocking.
#[expect(clippy::disallowed_methods, reason = "called on Lane::Fleet")]
fn held(section: &FleetSection) -> Option<Held> {
    use std::io::Read as _;
    let read = |path: &std::path::Path| {
        let mut text = String::new();
        std::fs::File::open(path).ok()?.take(MAX_BYTES).read_to_string(&mut text).ok()?;
        Some(text)
    };
    let login = read(&section.credentials)?.trim().to_owned();
    let user = user_of(&login)?;
    let mut moments: Vec<i64> = user.expires.map(|until| due(user.issued, until)).into_iter().collect();
    let mut tls_key = None;
    if let Some((certificate, key)) = &section.certificate {
        let ends = tls::certificates(certificate).ok().and_then(|all| expiry::not_after(all.first()?));
        moments.extend(ends.map(|ends| due(ends.saturating_sub(VALID_SECONDS), ends)));
        tls_key = read(key).and_then(|pem| certificates::public_key(&pem).ok());
    }
    let lifetime = user.expires.map(|until| until.saturating_sub(user.issued));
    Some(Held { login, tls_key, due: moments.into_iter().min(), lifetime })
}

impl Renewal {
    /// Renews until the task is aborted.
    pub(super) async fn run(mut self) {
        loop {
            let section = self.section.clone();
            let Ok(held) = work_threads::run(Lane::Fleet, move || held(&section)).await else { return };
            let Some(Held { due: Some(due), .. }) = &held else {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            };
            let wait = u64::try_from(due.saturating_sub(now())).unwrap_or(0);
            if wait > 0 {
                tokio::time::sleep(Duration::from_secs(wait).min(LOOK_EVERY)).await;
                continue;
            }
            if self.uplink.up().await.is_none() {
                return;
            }
            let Some(held) = held else { continue };
            if let Err(error) = self.renew(&held).await {
                debug!(self.log, "cannot renew the credentials yet"; "error" => %ErrorChain(&error));
                tokio::time::sleep(ANSWER.1).await;
            }
        }
    }

    /// Asks, and takes the answer; returns without one when it is time to ask again.
    async fn renew(&mut self, held: &Held) -> Result<(), StoredError> {
        let (agent, hostname) = {
            let facts = self.facts.borrow();
            (facts.agent.clone(), facts.hostname.clone())
        };
        let machine = work_threads::run(Lane::Fleet, host_facts::machine).await.unwrap_or_default();
        let request = Request {
            v: VERSION,
            org: self.section.org.to_string(),
            token: None,
            key: self.key.public_key().clone(),
            agent: agent.clone(),
            hostname,
            machine,
            tls_key: held.tls_key.clone(),
            made: jiff::Timestamp::now().as_millisecond(),
        };
        let unreadable = || StoredError::Unreadable { what: "the request".to_owned() };
        let sealed = request.seal(&self.key, None).map_err(|_| unreadable())?;
        let bytes = serde_json::to_vec(&sealed).map_err(|_| unreadable())?;
        let client = self.uplink.client.clone();
        stored::store(&client, &subjects::renewal(&agent), &bytes).await?;
        let patience = held.lifetime.map_or(ASK_AGAIN, |seconds| {
            ASK_AGAIN.min(Duration::from_secs(u64::try_from(seconds / 6).unwrap_or(0).max(1)))
        });
        let until = tokio::time::Instant::now() + patience;
        let mut pause = ANSWER.0;
        while tokio::time::Instant::now() < until {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(ANSWER.1);
            let Some(policy) = self.policy.borrow().clone() else { continue };
            let subject = subjects::joined(&request.key.text());
            for entry in stored::versions(&client, JOINED, &subject, 2).await?.iter().rev() {
                let answer = match open_answer(&entry.value, &request, &policy, now()) {
                    Ok(answer) => answer,
                    Err(problem) => {
                        debug!(self.log, "an answer is invalid"; "error" => %problem);
                        continue;
                    }
                };
                if let Outcome::Approved(approved) = answer.outcome
                    && is_newer(&approved, &held.login)
                {
                    self.take(*approved).await;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Puts a new login and certificate in place; both count from the next connection on.
    async fn take(&self, approved: Approved) {
        let (section, hold) = (self.section.clone(), self.hold.clone());
        let login = approved.login.clone();
        let writing = work_threads::run(Lane::Fleet, move || {
            let _hold = hold;
            if let (Some((path, _)), Some(certificate)) = (&section.certificate, &approved.certificate) {
                disk::replace(path, certificate.as_bytes())?;
            }
            disk::replace(&section.credentials, format!("{}\n", approved.login).as_bytes())
        });
        match writing.await {
            Ok(Ok(())) => {
                self.uplink.client.set_login(&login);
                info!(self.log, "credentials and certificate renewed");
            }
            Ok(Err(error)) => {
                warn!(self.log, "cannot store the renewed credentials: check that the agent may write its files";
                    "path" => ?self.section.credentials, "error" => %error);
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Err(_) => {}
        }
    }
}

/// Whether a login was issued after the one that is there.
fn is_newer(approved: &Approved, login: &str) -> bool {
    let issued = |login: &str| user_of(login).map(|user| user.issued);
    approved.login != login && issued(&approved.login) >= issued(login)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_due_when_two_thirds_of_its_time_are_over() {
        assert_eq!(due(0, 90), 60);
        assert_eq!(due(100, 100), 100);
        assert_eq!(due(100, 0), 100, "a time that ends before it begins is over");
        assert_eq!(due(i64::MIN, i64::MAX), i64::MAX / 3 * 2 + i64::MIN);
    }
}
