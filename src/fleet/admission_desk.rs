//! What an enroller knows while he decides who joins: the policy, every enrolment, and the requests that wait.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use vigie_files::secret_file;
use vigie_fleet::broker::connection::{BrokerEvent, Connection};
use vigie_fleet::broker::jwt::{Role, RoleSigner};
use vigie_fleet::broker::stored::{self, Cursor, StoredError, Which};
use vigie_fleet::certificates::{Authority, VALID_SECONDS};
use vigie_fleet::enrolment::{self, Enrolment, SignedEnrolment};
use vigie_fleet::join::{
    self, ANSWER_NAMESPACE, Answer, Approved, Checked, Decision, Members, Outcome, Request, Signed, VERSION,
};
use vigie_fleet::policy::Policy;
use vigie_fleet::subjects::{self, ENROL, EVERY_ENROLMENT, EVERY_JOIN, EVERY_RENEWAL, JOIN, JOINED, RENEW};
use vigie_protocol::error_chain::ErrorChain;
use vigie_protocol::names::AgentId;

use super::approve::Settled;
use super::files::{self, failed};
use super::inventory::{newest_enrolment, policy_in_force};
use super::pins::Pins;
use super::profile::Profile;
use super::token::{self, ENROLLER};
use crate::exit::{Exit, Failure};
use crate::print;

/// An agent gets no second renewal within this time, in seconds.
const RENEWAL_PAUSE: i64 = 3600;

/// How often a request is decided anew because somebody else enrolled a host at the same time.
const MOST_DECISIONS: u32 = 20;

/// How often a record is looked for that the broker says there is, and the pause in between: a server of a cluster may
/// be a moment behind.
const LOOKS: u32 = 10;
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A request that waits.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) checked: Checked,
    /// When the broker stored it, in seconds since 1970.
    pub(super) stored: i64,
    /// Its number in the stream.
    sequence: u64,
    /// A person turned away an earlier request of this key.
    turned_away: bool,
}

impl Waiting {
    fn place(&self) -> (String, String) {
        (self.checked.request.key.text(), self.checked.grant.id.clone())
    }
}

/// What an enroller knows.
pub(super) struct AdmissionDesk<'p> {
    profile: &'p Profile,
    connection: Connection,
    _events: tokio::sync::mpsc::Receiver<BrokerEvent>,
    signer: RoleSigner,
    authority: Option<Authority>,
    login_valid: Option<Duration>,
    policy: Policy,
    pins: Pins,
    members: Members,
    /// Number of the newest record of each agent, whether it counts or not.
    records: HashMap<AgentId, u64>,
    /// Number of the newest record of all: what is counted here holds as long as there is none after it.
    newest: u64,
    /// That record, when it was read: another one of its number lies in a stream that was made anew.
    newest_record: Option<Bytes>,
    enrolments: Cursor,
    joins: Cursor,
    renewals: Cursor,
    /// By the host's key and the token: the newest request of each.
    requests: BTreeMap<(String, String), Waiting>,
    /// Numbers of those that were answered.
    settled: HashMap<(String, String), u64>,
    ended: HashMap<String, bool>,
}

impl<'p> AdmissionDesk<'p> {
    /// Connects, and reads the keys.
    pub(super) async fn open(profile: &'p Profile, login_valid: Option<Duration>) -> Result<Self, Failure> {
        let needed =
            |what: &str| Failure::new(Exit::Config, format!("the fleet file does not set {what}"), ENROLLER);
        let enrolling = &profile.enrolling;
        let account = enrolling.account.as_deref().ok_or_else(|| needed("account"))?;
        let signer_file = enrolling.agent_signer.as_deref().ok_or_else(|| needed("agent_signer"))?;
        let seed =
            secret_file::read(signer_file, 256).map_err(|error| failed(Exit::Config, ENROLLER)(&error))?;
        let signer = RoleSigner::from_seed(Role::Agent, account, seed.trim_end())
            .map_err(|error| failed(Exit::Config, ENROLLER)(&error))?;
        let authority = token::authority(profile)?;
        let (connection, events) = profile.connect().await?;
        let mut pins = Pins::load(profile.org.as_str(), &profile.roots);
        let policy = policy_in_force(&connection, profile, &mut pins).await?;
        let mut members = Members::default();
        // What was seen before counts, although a broker may not show it any more.
        for agent in pins.agents() {
            members.add(pins.known(agent).cloned().expect("it was listed"));
        }
        let begin = Cursor { next: 1 };
        Ok(Self {
            profile,
            connection,
            _events: events,
            signer,
            authority,
            login_valid,
            policy,
            pins,
            members,
            records: HashMap::new(),
            newest: 0,
            newest_record: None,
            enrolments: begin,
            joins: begin,
            renewals: begin,
            requests: BTreeMap::new(),
            settled: HashMap::new(),
            ended: HashMap::new(),
        })
    }

    /// Reads what is new: the policy, enrolments of others, requests.
    pub(super) async fn read(&mut self) -> Result<(), StoredError> {
        match policy_in_force(&self.connection, self.profile, &mut self.pins).await {
            Ok(policy) => self.policy = policy,
            Err(failure) if failure.exit == Exit::Unavailable => {}
            Err(failure) => print::problem(&failure.message),
        }
        self.read_enrolments().await?;
        let client = self.connection.client.clone();
        let org = self.profile.org.as_str();
        let (requests, policy) = (&mut self.requests, &self.policy);
        self.joins
            .read(&client, JOIN, EVERY_JOIN, |entry| {
                let id = entry.subject.rsplit('.').next().unwrap_or_default().to_owned();
                // What does not count is somebody's noise: whoever has a token can write what he likes there.
                if let Ok(checked) = join::open_request(&entry.value, org, &id, policy) {
                    let key = (checked.request.key.text(), id);
                    let (stored, sequence) = (entry.stored, entry.sequence);
                    let turned_away = false;
                    requests.insert(key, Waiting { checked, stored, sequence, turned_away });
                }
                true
            })
            .await?;
        self.ended.clear();
        Ok(())
    }

    /// Reads all enrolments anew: in a stream that was made anew, what was counted in the former one means nothing.
    fn begin_anew(&mut self) {
        (self.newest, self.newest_record) = (0, None);
        self.enrolments = Cursor { next: 1 };
        self.records.clear();
    }

    /// Reads what others enrolled.
    async fn read_enrolments(&mut self) -> Result<(), StoredError> {
        let client = self.connection.client.clone();
        if let Some(known) = &self.newest_record {
            let there = stored::get(&client, ENROL, Which::Number(self.newest)).await?;
            if there.is_some_and(|entry| entry.value != *known) {
                self.begin_anew();
            }
        }
        let mut found: BTreeMap<AgentId, Vec<Bytes>> = BTreeMap::new();
        let (records, newest) = (&mut self.records, &mut self.newest);
        let newest_record = &mut self.newest_record;
        self.enrolments
            .read(&client, ENROL, EVERY_ENROLMENT, |entry| {
                (*newest, *newest_record) = (entry.sequence, Some(entry.value.clone()));
                if let Some(agent) = subjects::last_name(&entry.subject) {
                    records.insert(agent.clone(), entry.sequence);
                    found.entry(agent).or_default().push(entry.value);
                }
                true
            })
            .await?;
        let org = self.profile.org.as_str();
        for (agent, records) in found {
            let known = self.members.get(&agent).cloned();
            let (newest, _) = newest_enrolment(&records, &agent, &self.policy, org, known.as_ref());
            if let Some(enrolment) = newest {
                self.pins.pin(&enrolment);
                self.members.add(enrolment);
            }
        }
        self.pins.store();
        Ok(())
    }

    /// Reads what others enrolled up to the record with this number, which the broker says there is. One that was
    /// removed is never read.
    async fn read_enrolments_through(&mut self, number: u64) -> Result<(), StoredError> {
        if number < self.newest {
            self.begin_anew();
        }
        for _ in 0..LOOKS {
            self.read_enrolments().await?;
            if self.newest >= number {
                return Ok(());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        (self.newest, self.newest_record) = (number, None);
        Ok(())
    }

    /// The newest answer to each of these keys that counts.
    async fn answers(&self, keys: Vec<String>) -> Result<HashMap<String, Answer>, StoredError> {
        let entries =
            stored::newest(&self.connection.client, JOINED, keys.iter().map(|key| subjects::joined(key)))
                .await?;
        let mut answers = HashMap::new();
        for entry in entries {
            let Some(key) = entry.subject.rsplit('.').next() else { continue };
            let signed = serde_json::from_slice::<Signed>(&entry.value).ok();
            let answer = signed.and_then(|signed| serde_json::from_str::<Answer>(&signed.text).ok());
            // Only an enroller writes there; the host is who has to know whether it counts.
            if let Some(answer) = answer.filter(|answer| answer.key.text() == key) {
                answers.insert(key.to_owned(), answer);
            }
        }
        Ok(answers)
    }

    /// The requests that have no answer yet.
    pub(super) async fn undecided(&mut self) -> Result<Vec<Waiting>, StoredError> {
        let mut keys: Vec<String> = self.requests.keys().map(|(key, _)| key.clone()).collect();
        keys.dedup();
        let answers = self.answers(keys).await?;
        // What has its answer is not looked at again; a host that asks once more after it is.
        let settled = &self.settled;
        self.requests.retain(|place, waiting| {
            let answered = |answer: &Answer| {
                answer.token.as_ref() == Some(&place.1) && answer.made == waiting.checked.request.made
            };
            settled.get(place).is_none_or(|number| *number < waiting.sequence)
                && !answers.get(&place.0).is_some_and(answered)
        });
        for ((key, _), waiting) in &mut self.requests {
            waiting.turned_away = answers
                .get(key)
                .is_some_and(|answer| matches!(answer.outcome, Outcome::Denied { by_person: true, .. }));
        }
        let tokens: Vec<String> = self.requests.keys().map(|(_, token)| token.clone()).collect();
        for token in tokens {
            if !self.ended.contains_key(&token) {
                let said =
                    stored::versions(&self.connection.client, JOINED, &subjects::joined(&token), 2).await?;
                let org = self.profile.org.as_str();
                let ended = said.iter().any(|one| join::is_ended(&one.value, org, &token, &self.policy));
                self.ended.insert(token, ended);
            }
        }
        let mut waiting: Vec<Waiting> = self.requests.values().cloned().collect();
        // Who came first is let in first.
        waiting.sort_by_key(|one| one.stored);
        Ok(waiting)
    }

    /// What is to be done about a request.
    pub(super) fn decide(&self, waiting: &Waiting, by_person: bool) -> Decision {
        let decision = self.members.decide(&waiting.checked, files::now(), by_person);
        let ended = self.ended.get(&waiting.checked.grant.id).copied().unwrap_or(false);
        match decision {
            Decision::Admit | Decision::Ask(_) if ended => {
                Decision::Refuse("the token was revoked by an administrator".to_owned())
            }
            Decision::Admit if waiting.turned_away && !by_person => {
                Decision::Ask("this host was denied before")
            }
            decision => decision,
        }
    }

    /// Does what is to be done about a request.
    pub(super) async fn settle(&mut self, waiting: &Waiting, by_person: bool) -> Result<Settled, Failure> {
        // Whoever enrolled somebody meanwhile may have used the token's last place, or the name: it is decided anew.
        for _ in 0..MOST_DECISIONS {
            if let Some(settled) = self.settle_once(waiting, by_person).await? {
                return Ok(settled);
            }
        }
        Ok(Settled::Waits("others enrol hosts at the same time: try again"))
    }

    /// The same; nothing when somebody else enrolled a host since the decision.
    async fn settle_once(&mut self, waiting: &Waiting, by_person: bool) -> Result<Option<Settled>, Failure> {
        let decision = match self.decide(waiting, by_person) {
            Decision::Ask(reason) => return Ok(Some(Settled::Waits(reason))),
            Decision::Refuse(reason) => return self.refuse(waiting, reason).await.map(Some),
            decision => decision,
        };
        // Before anything is stored: who sends no usable key uses up nothing of the token.
        let certificate = match self.certificate(&waiting.checked.request) {
            Ok(certificate) => certificate,
            Err(reason) => return self.refuse(waiting, reason).await.map(Some),
        };
        let enrolment = if let Decision::Again(enrolment) = decision {
            *enrolment
        } else {
            let Checked { request, grant } = &waiting.checked;
            let now = files::now();
            let mut enrolment = match self.members.get(&request.agent) {
                Some(known) => known.next(&request.key, now, false),
                None => Enrolment::new(self.profile.org.as_str(), &request.agent, &request.key, now),
            };
            enrolment.token = Some(grant.id.clone());
            if !self.store(&enrolment).await? {
                return Ok(None);
            }
            enrolment
        };
        let token = Some(waiting.checked.grant.id.clone());
        self.answer(&waiting.checked.request, token, &enrolment, certificate).await?;
        self.settled.insert(waiting.place(), waiting.sequence);
        Ok(Some(Settled::Joined))
    }

    fn signed(&self, enrolment: &Enrolment) -> Result<SignedEnrolment, Failure> {
        let Signed { text, sig } = token::sign(self.profile, enrolment::NAMESPACE, enrolment.to_text())?;
        Ok(SignedEnrolment { record: text, sigs: vec![sig] })
    }

    /// Stores a record if nobody has stored another since, of whichever host: otherwise two enrollers let in more hosts
    /// than a token may. Whether it is stored.
    async fn store(&mut self, enrolment: &Enrolment) -> Result<bool, Failure> {
        let signed = token::json(&self.signed(enrolment)?)?;
        let (counts, wrong) = newest_enrolment(
            &[Bytes::from(signed.clone())],
            &enrolment.agent,
            &self.policy,
            self.profile.org.as_str(),
            None,
        );
        if counts.is_none() {
            let hint = "the key must be listed under enrolment in the policy and must not be revoked";
            return Err(Failure::new(Exit::Config, wrong.join("; "), hint));
        }
        let last = self.records.get(&enrolment.agent).copied().unwrap_or(0);
        let subject = subjects::enrolment(&enrolment.agent);
        let unavailable = |error: StoredError| failed(Exit::Unavailable, ENROLLER)(&error);
        let storing =
            stored::store_alone(&self.connection.client, &subject, last, self.newest, signed.as_bytes());
        let sequence = match storing.await {
            Ok(sequence) => sequence,
            Err(error) if error.is_other_writer() => {
                let number = error.newest().unwrap_or(self.newest);
                self.read_enrolments_through(number).await.map_err(unavailable)?;
                return Ok(false);
            }
            Err(error) => return Err(unavailable(error)),
        };
        (self.newest, self.newest_record) = (sequence, Some(Bytes::from(signed)));
        self.records.insert(enrolment.agent.clone(), sequence);
        self.pins.pin(enrolment);
        self.members.add(enrolment.clone());
        Ok(true)
    }

    /// The certificate that a host asks for, where this fleet gives any; why it gets none.
    fn certificate(&self, request: &Request) -> Result<Option<String>, String> {
        let (Some(authority), Some(key)) = (&self.authority, &request.tls_key) else { return Ok(None) };
        let now = files::now();
        authority
            .client(request.agent.as_str(), key, now, now.saturating_add(VALID_SECONDS))
            .map(Some)
            .map_err(|error| format!("it gets no certificate: {}", ErrorChain(&error)))
    }

    /// Gives a host its login and certificate.
    async fn answer(
        &mut self,
        request: &Request,
        token: Option<String>,
        enrolment: &Enrolment,
        certificate: Option<String>,
    ) -> Result<(), Failure> {
        let now = files::now();
        let expires = self
            .login_valid
            .map(|valid| now.saturating_add(i64::try_from(valid.as_secs()).unwrap_or(i64::MAX)));
        let approved = Approved {
            enrolment: self.signed(enrolment)?,
            login: self.signer.user(&request.agent, &request.key, now, expires),
            certificate,
        };
        self.tell(request, token, Outcome::Approved(Box::new(approved))).await
    }

    async fn refuse(&mut self, waiting: &Waiting, reason: String) -> Result<Settled, Failure> {
        // What a person decided before stays in force.
        self.deny(waiting, &reason, waiting.turned_away).await?;
        Ok(Settled::Denied(reason))
    }

    /// Turns a host away.
    pub(super) async fn deny(
        &mut self,
        waiting: &Waiting,
        reason: &str,
        by_person: bool,
    ) -> Result<(), Failure> {
        let token = Some(waiting.checked.grant.id.clone());
        let outcome = Outcome::Denied { reason: reason.to_owned(), by_person };
        self.tell(&waiting.checked.request, token, outcome).await?;
        self.settled.insert(waiting.place(), waiting.sequence);
        Ok(())
    }

    async fn tell(&self, request: &Request, token: Option<String>, outcome: Outcome) -> Result<(), Failure> {
        let answer = Answer {
            v: VERSION,
            org: self.profile.org.to_string(),
            key: request.key.clone(),
            token,
            made: request.made,
            issued: files::now(),
            outcome,
        };
        let signed = token::json(&token::sign(self.profile, ANSWER_NAMESPACE, token::json(&answer)?)?)?;
        stored::store(&self.connection.client, &subjects::joined(&request.key.text()), signed.as_bytes())
            .await
            .map(drop)
            .map_err(|error| failed(Exit::Unavailable, ENROLLER)(&error))
    }

    /// Renews what agents asked for; who they are.
    pub(super) async fn renew(&mut self) -> Result<Vec<(AgentId, String)>, Failure> {
        let client = self.connection.client.clone();
        let mut asked: BTreeMap<AgentId, Bytes> = BTreeMap::new();
        self.renewals
            .read(&client, RENEW, EVERY_RENEWAL, |entry| {
                if let Some(agent) = subjects::last_name(&entry.subject) {
                    asked.insert(agent, entry.value);
                }
                true
            })
            .await
            .map_err(|error| failed(Exit::Unavailable, ENROLLER)(&error))?;
        let org = self.profile.org.as_str();
        let mut requests = Vec::new();
        for (agent, bytes) in asked {
            let Some(known) = self.members.get(&agent).filter(|known| !known.revoked) else { continue };
            match join::open_renewal(&bytes, org, &agent, &known.key) {
                Ok(request) => requests.push((request, known.clone())),
                Err(problem) => print::problem(&format!("{agent}: {}", ErrorChain(&problem))),
            }
        }
        let keys = requests.iter().map(|(request, _)| request.key.text()).collect();
        let answers =
            self.answers(keys).await.map_err(|error| failed(Exit::Unavailable, ENROLLER)(&error))?;
        // Logins that hold for a short time are renewed more often.
        let pause = self.login_valid.map_or(RENEWAL_PAUSE, |valid| {
            RENEWAL_PAUSE.min(i64::try_from(valid.as_secs() / 4).unwrap_or(RENEWAL_PAUSE))
        });
        let mut renewed = Vec::new();
        for (request, known) in requests {
            let key = request.key.text();
            // An agent that asks without end gets no more than this.
            let recent = |answer: &Answer| {
                answer.token.is_none() && files::now().saturating_sub(answer.issued) < pause
            };
            if answers.get(&key).is_some_and(recent) {
                continue;
            }
            match self.certificate(&request) {
                Ok(certificate) => {
                    self.answer(&request, None, &known, certificate).await?;
                    renewed.push((request.agent, key));
                }
                Err(reason) => print::problem(&format!("{}: {reason}", request.agent)),
            }
        }
        Ok(renewed)
    }
}
