//! What the fleet is, as far as it is proved: the policy that the root keys signed, the keys that were enrolled by
//! it, the facts that these keys sealed, and who shows signs of life.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use vigie_fleet::agent_key;
use vigie_fleet::answer::{FleetAlert, Purpose, Sealed};
use vigie_fleet::broker::connection::Connection;
use vigie_fleet::broker::stored::{self, Cursor, Entry, StoredError};
use vigie_fleet::broker::streams::{ENROLMENT_VERSIONS, FACTS_VERSIONS, POLICY_VERSIONS, PRESENCE_AGE};
use vigie_fleet::collect::SealProblem;
use vigie_fleet::enrolment::{self, Enrolment};
use vigie_fleet::facts::Facts;
use vigie_fleet::heartbeat::{AlertHead, Heartbeat};
use vigie_fleet::parallel;
use vigie_fleet::policy::{self, Policy};
use vigie_fleet::predicate::Target;
use vigie_fleet::signature;
use vigie_fleet::standing::StandingHead;
use vigie_fleet::subjects::{self, ENROL, EVERY_ENROLMENT, FACTS, POLICY, POLICY_SUBJECT};
use vigie_protocol::error_chain::ErrorChain;
use vigie_protocol::names::AgentId;

use super::pins::Pins;
use super::profile::Profile;
use crate::exit::{Exit, Failure};

/// How much later than it was sent a sign of life may have been stored. An agent whose clock is as far behind takes no
/// action in its time anyway.
const RESTORED_SECONDS: i64 = 3600;

/// The fleet.
#[derive(Debug)]
pub(crate) struct Inventory {
    /// Who may ask what.
    pub(crate) policy: Policy,
    /// Every agent that is enrolled.
    pub(crate) agents: BTreeMap<AgentId, Known>,
    /// What does not count, and why: somebody forged it, or it is damaged.
    pub(crate) flagged: Vec<Flagged>,
    /// Up to where the enrolments were read.
    enrolments: Cursor,
    /// Whose enrolments were read, and not yet checked: the broker was away in between.
    unchecked: BTreeSet<AgentId>,
}

/// One agent.
#[derive(Debug)]
pub(crate) struct Known {
    /// Its enrolment, with its key and those that it had.
    pub(crate) enrolment: Enrolment,
    /// What it says of itself; absent when it never did, or nothing of it counts.
    pub(crate) shown: Option<Shown>,
    /// It showed that it is there a short while ago.
    pub(crate) online: bool,
}

/// What an agent says of itself.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) facts: Facts,
    /// When the broker stored it, in seconds since 1970 by the broker's clock.
    pub(crate) stored: i64,
    /// When the agent sent it, by its own clock.
    pub(crate) sent: i64,
    /// Secret token of the subject that it listens on.
    pub(crate) live: String,
    /// Whose the identity is besides this host's.
    pub(crate) shared: Option<Shared>,
    /// How far its alerts reach.
    pub(crate) alerts: Option<AlertHead>,
    /// The standing questions that it asks.
    pub(crate) standing: Vec<StandingHead>,
}

/// Why an identity is not one host's alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shared {
    /// Another host writes under this name.
    Twice,
    /// The agent's files were made on another machine.
    Copied,
    /// The agent's files are older than what the fleet has of it.
    Reverted,
}

impl Shared {
    fn of(heartbeat: &Heartbeat) -> Option<Self> {
        let Heartbeat { twice, copied, reverted, .. } = heartbeat;
        let all = [(*twice, Self::Twice), (*copied, Self::Copied), (*reverted, Self::Reverted)];
        all.into_iter().find_map(|(is_so, shared)| is_so.then_some(shared))
    }

    /// In a table.
    pub(crate) fn state(self) -> &'static str {
        match self {
            Self::Twice => "runs twice",
            Self::Copied => "copied",
            Self::Reverted => "reverted",
        }
    }

    /// In JSON.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Twice => "runs_twice",
            Self::Copied => "copied",
            Self::Reverted => "reverted",
        }
    }

    /// What it is, of the agents that are named after it.
    pub(crate) fn found(self) -> &'static str {
        match self {
            Self::Twice => "two hosts use the key of",
            Self::Copied => "files from another machine",
            Self::Reverted => "files older than what the fleet has",
        }
    }

    /// What to do.
    pub(crate) fn remedy(self) -> &'static str {
        match self {
            Self::Twice => "give each host its own key: enrol it under another name",
            Self::Copied => {
                "stop the agent there, delete STATE_DIR/fleet and the key file, and enrol the host under its own name"
            }
            Self::Reverted => {
                "if somebody restored a snapshot or backup there, restart the agent; otherwise find the other host that uses its key"
            }
        }
    }
}

impl Known {
    /// Its facts, when they are known.
    pub(crate) fn facts(&self) -> Option<&Facts> {
        self.shown.as_ref().map(|shown| &shown.facts)
    }
}

/// A record of the broker that does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flagged {
    /// Whose it is said to be.
    pub(crate) agent: String,
    /// What is wrong with it.
    pub(crate) problem: String,
}

fn unreadable(error: &StoredError) -> Failure {
    Failure::new(Exit::Unavailable, ErrorChain(error).to_string(), "see `vigie fleet up` and docs/fleet.md")
}

/// The newest policy on the broker that the fleet's root keys signed; what nobody signed hides none that counts.
pub(crate) async fn policy_in_force(
    connection: &Connection,
    profile: &Profile,
    pins: &mut Pins,
) -> Result<Policy, Failure> {
    let versions = stored::versions(&connection.client, POLICY, POLICY_SUBJECT, POLICY_VERSIONS)
        .await
        .map_err(|error| unreadable(&error))?;
    let (policy, wrong) =
        policy::newest(versions.iter().map(|entry| &entry.value[..]), &profile.roots, profile.org.as_str());
    let Some(policy) = policy else {
        return Err(match wrong.last() {
            Some(error) => {
                let message = format!("the broker's policy is invalid: {}", ErrorChain(error));
                let hint = "check `roots` in the fleet file; ask an administrator";
                Failure::new(Exit::Permission, message, hint)
            }
            None => {
                let hint = "an administrator publishes one with `vigie fleet policy publish`";
                Failure::new(Exit::Config, "the fleet has no policy", hint)
            }
        });
    };
    if policy.version() < pins.policy_version() {
        let message = format!(
            "the broker has policy {}, but version {} was seen before: an old policy was restored",
            policy.version(),
            pins.policy_version()
        );
        return Err(Failure::new(
            Exit::Permission,
            message,
            "an administrator publishes the newest one again",
        ));
    }
    pins.pin_policy(policy.version());
    Ok(policy)
}

/// The enrolment records on the broker that were not read before, by agent, the oldest first.
async fn read_enrolments(
    connection: &Connection,
    cursor: &mut Cursor,
) -> Result<BTreeMap<AgentId, Vec<Bytes>>, StoredError> {
    let mut records: BTreeMap<AgentId, Vec<Bytes>> = BTreeMap::new();
    cursor
        .read(&connection.client, ENROL, EVERY_ENROLMENT, |entry| {
            // A name that is none was not written by an enroller.
            if let Some(agent) = subjects::last_name(&entry.subject) {
                records.entry(agent).or_default().push(entry.value);
            }
            true
        })
        .await?;
    Ok(records)
}

/// The newest record that counts, of those on the broker and the one that was seen before.
pub(crate) fn newest_enrolment(
    records: &[Bytes],
    agent: &AgentId,
    policy: &Policy,
    org: &str,
    known: Option<&Enrolment>,
) -> (Option<Enrolment>, Vec<String>) {
    let now = jiff::Timestamp::now().as_second();
    let verify = |message: &[u8], signature: &str| {
        let signer =
            signature::verify(enrolment::NAMESPACE, message, signature).map_err(|error| error.to_string())?;
        if policy.is_enrolment_key(&signer.key) {
            Ok(())
        } else {
            Err(format!("{} is not an enrolment key of the policy", signer.key.fingerprint()))
        }
    };
    let (best, wrong) = enrolment::newest(records.iter().map(|one| &one[..]), org, agent, known, now, verify);
    let wrong = wrong.iter().map(ToString::to_string).collect();
    (best.map(|checked| checked.enrolment), wrong)
}

impl Inventory {
    /// Reads and checks everything.
    pub(crate) async fn load(connection: &Connection, profile: &Profile) -> Result<Self, Failure> {
        let mut inventory = Self::load_members(connection, profile).await?;
        let all: Vec<AgentId> = inventory.agents.keys().cloned().collect();
        inventory.refresh(connection, &all).await?;
        Ok(inventory)
    }

    /// Reads and checks who belongs to the fleet, without what they show of themselves.
    pub(crate) async fn load_members(connection: &Connection, profile: &Profile) -> Result<Self, Failure> {
        let mut pins = Pins::load(profile.org.as_str(), &profile.roots);
        let policy = policy_in_force(connection, profile, &mut pins).await?;
        let mut enrolments = Cursor { next: 1 };
        let read = read_enrolments(connection, &mut enrolments).await;
        let mut records = read.map_err(|error| unreadable(&error))?;
        for agent in pins.agents() {
            records.entry(agent.clone()).or_default();
        }
        let records: Vec<(AgentId, Vec<Bytes>)> = records.into_iter().collect();
        let checked = parallel::map(&records, |(agent, records)| {
            let known = pins.known(agent);
            (newest_enrolment(records, agent, &policy, profile.org.as_str(), known), agent.clone())
        });
        let mut flagged = Vec::new();
        let mut agents = BTreeMap::new();
        for ((enrolment, wrong), agent) in checked {
            // What was seen before counts although the broker does not have it any more.
            let enrolment = enrolment.or_else(|| pins.known(&agent).cloned());
            flagged.extend(wrong.into_iter().map(|problem| Flagged { agent: agent.to_string(), problem }));
            let Some(enrolment) = enrolment else { continue };
            pins.pin(&enrolment);
            if !enrolment.revoked {
                agents.insert(agent, Known { enrolment, shown: None, online: false });
            }
        }
        pins.store();
        Ok(Self { policy, agents, flagged, enrolments, unchecked: BTreeSet::new() })
    }

    /// Reads again who these agents are: since the last time they may have joined, or have got another key.
    pub(crate) async fn renew(
        &mut self,
        connection: &Connection,
        profile: &Profile,
        agents: &[AgentId],
    ) -> Result<(), Failure> {
        let mut pins = Pins::load(profile.org.as_str(), &profile.roots);
        self.policy = policy_in_force(connection, profile, &mut pins).await?;
        for agent in agents {
            let subject = subjects::enrolment(agent);
            let records = stored::versions(&connection.client, ENROL, &subject, ENROLMENT_VERSIONS)
                .await
                .map_err(|error| unreadable(&error))?;
            let records: Vec<Bytes> = records.into_iter().map(|entry| entry.value).collect();
            let known = pins.known(agent);
            let (newest, _) = newest_enrolment(&records, agent, &self.policy, profile.org.as_str(), known);
            let Some(enrolment) = newest.or_else(|| known.cloned()) else { continue };
            pins.pin(&enrolment);
            if enrolment.revoked {
                self.agents.remove(agent);
            } else if let Some(known) = self.agents.get_mut(agent) {
                known.enrolment = enrolment;
            } else {
                self.agents.insert(agent.clone(), Known { enrolment, shown: None, online: false });
            }
        }
        pins.store();
        Ok(())
    }

    /// A fleet of these.
    #[cfg(test)]
    pub(crate) fn of(policy: Policy, enrolments: impl IntoIterator<Item = Enrolment>) -> Self {
        let known =
            |enrolment: Enrolment| (enrolment.agent.clone(), Known { enrolment, shown: None, online: false });
        Self {
            policy,
            agents: enrolments.into_iter().map(known).collect(),
            flagged: Vec::new(),
            enrolments: Cursor { next: 1 },
            unchecked: BTreeSet::new(),
        }
    }

    /// What is not in it yet: hosts that will have joined, got another key, or shown themselves for the first time.
    pub(crate) fn rest(&self) -> Self {
        let unseen = self.agents.iter().filter(|(_, known)| known.shown.is_none());
        let unseen = unseen.map(|(agent, known)| {
            (agent.clone(), Known { enrolment: known.enrolment.clone(), shown: None, online: false })
        });
        Self {
            policy: self.policy.clone(),
            agents: unseen.collect(),
            flagged: Vec::new(),
            enrolments: self.enrolments,
            unchecked: BTreeSet::new(),
        }
    }

    /// Reads what was enrolled since the last time, at most so many agents. What was read and could not be checked,
    /// because the broker was away in between, is checked the next time.
    pub(crate) async fn follow(
        &mut self,
        connection: &Connection,
        profile: &Profile,
        at_most: usize,
    ) -> Result<(), Failure> {
        let names = &mut self.unchecked;
        if names.len() < at_most {
            let reading = self.enrolments.read(&connection.client, ENROL, EVERY_ENROLMENT, |entry| {
                names.extend(subjects::last_name(&entry.subject));
                names.len() < at_most
            });
            reading.await.map_err(|error| unreadable(&error))?;
        }
        let names: Vec<AgentId> = self.unchecked.iter().cloned().collect();
        // What somebody shows first comes a moment after the enrolment.
        let unseen = self.unknown().filter(|agent| !self.unchecked.contains(*agent)).take(at_most).cloned();
        let all: Vec<AgentId> = names.iter().cloned().chain(unseen).collect();
        if !names.is_empty() {
            self.renew(connection, profile, &names).await?;
        }
        if !all.is_empty() {
            self.refresh(connection, &all).await?;
        }
        self.unchecked.clear();
        Ok(())
    }

    /// Opens an alert that was sealed in the name of an agent; `stored` is when, in seconds since 1970.
    pub(crate) fn open_alert(
        &self,
        agent: &AgentId,
        payload: &[u8],
        stored: i64,
    ) -> Result<FleetAlert, String> {
        let known = self.agents.get(agent).ok_or("no agent of this name is enrolled")?;
        let sealed: Sealed = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        let mut problem = "no key of the agent was valid at that time".to_owned();
        for key in known.enrolment.keys_at(stored) {
            match agent_key::open(&sealed, Purpose::Alert, key) {
                Ok(text) => {
                    let alert: FleetAlert = serde_json::from_str(text).map_err(|error| error.to_string())?;
                    if alert.agent != *agent {
                        return Err(format!("contains an alert of {}", alert.agent));
                    }
                    return Ok(alert);
                }
                Err(error) => problem = error.to_string(),
            }
        }
        Err(problem)
    }

    /// Reads anew what these agents show.
    pub(crate) async fn refresh(
        &mut self,
        connection: &Connection,
        agents: &[AgentId],
    ) -> Result<(), Failure> {
        let client = &connection.client;
        let entries = stored::newest(client, FACTS, agents.iter().map(subjects::facts))
            .await
            .map_err(|error| unreadable(&error))?;
        let now = jiff::Timestamp::now().as_second();
        let opened = parallel::map(&entries, |entry| self.open_heartbeat(entry));
        let mut again = Vec::new();
        for (entry, opened) in entries.iter().zip(opened) {
            match opened {
                Some(Ok((agent, heartbeat))) => self.show(&agent, heartbeat, entry.stored, now),
                Some(Err((agent, problem))) => {
                    again.push(agent.clone());
                    self.flagged.push(Flagged { agent: agent.to_string(), problem });
                }
                None => {}
            }
        }
        // What does not count hides no older one that does.
        for agent in again {
            let versions = stored::versions(client, FACTS, &subjects::facts(&agent), FACTS_VERSIONS)
                .await
                .map_err(|error| unreadable(&error))?;
            for entry in versions {
                if let Some(Ok((agent, heartbeat))) = self.open_heartbeat(&entry) {
                    self.show(&agent, heartbeat, entry.stored, now);
                }
            }
        }
        Ok(())
    }

    /// Which of these agents listen elsewhere by now, and where.
    pub(crate) async fn returned(
        &self,
        connection: &Connection,
        agents: &[AgentId],
    ) -> Result<Vec<(AgentId, String)>, StoredError> {
        let entries = stored::newest(&connection.client, FACTS, agents.iter().map(subjects::facts)).await?;
        let opened = entries.iter().filter_map(|entry| self.open_heartbeat(entry)?.ok());
        let known = |agent: &AgentId| self.agents.get(agent).and_then(|known| known.shown.as_ref());
        Ok(opened
            .filter(|(agent, heartbeat)| known(agent).is_none_or(|shown| shown.live != heartbeat.live))
            .map(|(agent, heartbeat)| (agent, heartbeat.live))
            .collect())
    }

    fn open_heartbeat(&self, entry: &Entry) -> Option<Result<(AgentId, Heartbeat), (AgentId, String)>> {
        let agent = subjects::last_name(&entry.subject)?;
        let known = self.agents.get(&agent)?;
        let mut problem = "facts: no valid key".to_owned();
        for key in known.enrolment.keys_at(entry.stored) {
            match Heartbeat::open(&entry.value, &agent, key) {
                Ok(heartbeat) => return Some(Ok((agent, heartbeat))),
                Err(error) => problem = format!("facts: {error}"),
            }
        }
        Some(Err((agent, problem)))
    }

    fn show(&mut self, agent: &AgentId, heartbeat: Heartbeat, stored: i64, now: i64) {
        let Some(known) = self.agents.get_mut(agent) else { return };
        let age = i64::try_from(PRESENCE_AGE.as_secs()).unwrap_or(i64::MAX);
        // One that a backup brought back says what the host was, not that it is there.
        let is_restored = stored.saturating_sub(heartbeat.sent) > RESTORED_SECONDS;
        known.online = now.saturating_sub(stored) <= age && !is_restored;
        let shared = Shared::of(&heartbeat);
        let Heartbeat { sent, live, alerts, standing, facts, .. } = heartbeat;
        known.shown = Some(Shown { facts, stored, sent, live, shared, alerts, standing });
    }

    /// The agents for whose facts a target is true, in their order.
    pub(crate) fn matching<'a>(&'a self, target: &Target) -> Vec<(&'a AgentId, &'a Known)> {
        self.agents
            .iter()
            .filter(|(_, known)| known.facts().is_some_and(|facts| target.matches(facts)))
            .collect()
    }

    /// The agents of which nobody knows whether a target is true for them: they have shown nothing that counts.
    pub(crate) fn unknown(&self) -> impl Iterator<Item = &AgentId> {
        self.agents.iter().filter(|(_, known)| known.shown.is_none()).map(|(agent, _)| agent)
    }

    /// The agents whose enrolments could not be checked yet.
    pub(crate) fn unchecked(&self) -> impl Iterator<Item = &AgentId> {
        self.unchecked.iter()
    }

    /// `50 enrolled, 47 online, 2 silent, 1 never seen`
    pub(crate) fn counted(&self) -> String {
        let online = self.agents.values().filter(|known| known.online).count();
        let never = self.unknown().count();
        let silent = self.agents.len() - online - never;
        let mut text = format!("{} enrolled, {online} online", self.agents.len());
        for (count, what) in [(silent, "silent"), (never, "never seen")] {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        text
    }

    /// Agents whose identity is not one host's alone, and why.
    pub(crate) fn clones(&self) -> impl Iterator<Item = (&AgentId, Shared)> {
        self.agents.iter().filter_map(|(agent, known)| Some((agent, known.shown.as_ref()?.shared?)))
    }

    /// Checks a seal against the keys that the agent had when the broker stored it.
    pub(crate) fn open(
        &self,
        agent: &AgentId,
        sealed: &Sealed,
        purpose: Purpose,
        stored: i64,
    ) -> Result<(), SealProblem> {
        let known = self.agents.get(agent).ok_or(SealProblem::NotEnrolled)?;
        let mut keys = known.enrolment.keys_at(stored);
        if keys.any(|key| agent_key::open(sealed, purpose, key).is_ok()) {
            Ok(())
        } else {
            Err(SealProblem::Bad)
        }
    }
}

/// Reads a target from the command line, or the saved one that `@NAME` names, and gives its text as well; what is wrong
/// is shown where it is.
pub(crate) fn parse_target(text: &str, profile: &Profile) -> Result<(Target, String), Failure> {
    let text = match text.trim().strip_prefix('@') {
        Some(name) => profile.targets.get(name).ok_or_else(|| {
            let known = profile.targets.keys().map(|name| format!("@{name}")).collect::<Vec<_>>().join(", ");
            let known =
                if known.is_empty() { "none is saved".to_owned() } else { format!("saved are {known}") };
            let hint = "save it in the section [targets] of the fleet file; see docs/targets.md";
            Failure::new(Exit::Usage, format!("no target @{name}: {known}"), hint)
        })?,
        None => text,
    };
    let target = Target::parse(text).map_err(|error| {
        let message = format!("invalid target: {error}");
        Failure::new(Exit::Usage, message, format!("{}\nsee docs/targets.md", error.caret()))
    })?;
    Ok((target, text.to_owned()))
}
