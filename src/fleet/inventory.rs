//! What the fleet is, as far as it is proved: the policy that the root keys signed, the keys that were enrolled by
//! it, the facts that these keys sealed, and who shows signs of life.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use bytes::Bytes;
use vigie_fleet::agent_key::{self, AgentPublicKey};
use vigie_fleet::answer::{Purpose, Sealed};
use vigie_fleet::broker::connection::Connection;
use vigie_fleet::broker::kv::{self, KvError};
use vigie_fleet::collect::SealProblem;
use vigie_fleet::enrolment::{self, Enrolment};
use vigie_fleet::facts::Facts;
use vigie_fleet::policy::{self, Policy, SignedPolicy};
use vigie_fleet::predicate::Target;
use vigie_fleet::signature;
use vigie_fleet::subjects::{KV_AGENTS, KV_ENROL, KV_POLICY, KV_PRESENCE, POLICY};
use vigie_protocol::error_chain::ErrorChain;
use vigie_protocol::names::AgentId;

use super::pins::Pins;
use super::profile::Profile;
use crate::exit::{Exit, Failure};

/// The fleet.
#[derive(Debug)]
pub(crate) struct Inventory {
    /// Who may ask what.
    pub(crate) policy: Policy,
    /// Every agent that is enrolled.
    pub(crate) agents: BTreeMap<AgentId, Known>,
    /// What does not count, and why: somebody forged it, or it is damaged.
    pub(crate) flagged: Vec<Flagged>,
}

/// One agent.
#[derive(Debug)]
pub(crate) struct Known {
    /// Its enrolled key.
    pub(crate) key: AgentPublicKey,
    /// What it says of itself; absent when it never did.
    pub(crate) facts: Option<Facts>,
    /// When it said so, in seconds since 1970 by the broker's clock.
    pub(crate) facts_stored: i64,
    /// It showed that it is there a short while ago.
    pub(crate) online: bool,
}

/// A record of the broker that does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flagged {
    /// Whose it is said to be.
    pub(crate) agent: String,
    /// What is wrong with it.
    pub(crate) problem: String,
}

fn unreadable(error: &KvError) -> Failure {
    Failure::new(Exit::Unavailable, ErrorChain(error).to_string(), "see `vigie fleet up` and docs/fleet.md")
}

/// A bucket's entries by agent.
async fn bucket(connection: &Connection, stream: &str) -> Result<Vec<(AgentId, Bytes, i64)>, Failure> {
    let prefix = format!("$KV.{}.", stream.trim_start_matches("KV_"));
    let mut entries = Vec::new();
    kv::read_all(&connection.jetstream, stream, &format!("{prefix}*"), |entry| {
        // A key that is no agent's name was not written by an agent.
        if let Some(Ok(agent)) = entry.subject.strip_prefix(&prefix).map(str::parse) {
            entries.push((agent, entry.value, entry.stored));
        }
    })
    .await
    .map_err(|error| unreadable(&error))?;
    Ok(entries)
}

/// The policy that the fleet's root keys signed.
pub(crate) async fn policy_in_force(connection: &Connection, profile: &Profile) -> Result<Policy, Failure> {
    let entry =
        kv::get(&connection.jetstream, KV_POLICY, POLICY).await.map_err(|error| unreadable(&error))?;
    let Some(entry) = entry else {
        let hint = "an administrator publishes one with `vigie fleet policy publish`";
        return Err(Failure::new(Exit::Config, "the fleet has no policy", hint));
    };
    SignedPolicy::from_json(&entry.value)
        .and_then(|signed| policy::verify(&signed, &profile.roots, profile.org.as_str()))
        .map_err(|error| {
            let message = format!("the broker's policy does not count: {}", ErrorChain(&error));
            Failure::new(Exit::Permission, message, "see `roots` in the fleet's file; ask an administrator")
        })
}

impl Inventory {
    /// Reads and checks everything.
    pub(crate) async fn load(connection: &Connection, profile: &Profile) -> Result<Self, Failure> {
        let policy = policy_in_force(connection, profile).await?;
        let enrolments = bucket(connection, KV_ENROL).await?;
        let facts = bucket(connection, KV_AGENTS).await?;
        let presence = bucket(connection, KV_PRESENCE).await?;
        let online: BTreeSet<AgentId> = presence.into_iter().map(|(agent, ..)| agent).collect();
        let mut pins = Pins::load(profile.org.as_str());
        let mut flagged = Vec::new();
        let mut agents = BTreeMap::new();
        for (enrolment, agent) in checked_enrolments(&enrolments, &policy, profile.org.as_str(), &pins) {
            match enrolment {
                Ok(enrolment) => {
                    pins.pin(&enrolment);
                    let online = online.contains(&agent);
                    let key = enrolment.key;
                    agents.insert(agent, Known { key, facts: None, facts_stored: 0, online });
                }
                Err(problem) => flagged.push(Flagged { agent: agent.to_string(), problem }),
            }
        }
        pins.store();
        let checked = in_parallel(&facts, |(agent, value, stored)| {
            let known = agents.get(agent)?;
            Some((agent.clone(), *stored, checked_facts(agent, value, &known.key)))
        });
        for (agent, stored, facts) in checked.into_iter().flatten() {
            match facts {
                Ok(facts) => {
                    if let Some(known) = agents.get_mut(&agent) {
                        known.facts = Some(facts);
                        known.facts_stored = stored;
                    }
                }
                Err(problem) => flagged.push(Flagged { agent: agent.to_string(), problem }),
            }
        }
        Ok(Self { policy, agents, flagged })
    }

    /// The agents for whose facts a target is true, in their order.
    pub(crate) fn matching<'a>(&'a self, target: &Target) -> Vec<(&'a AgentId, &'a Known)> {
        self.agents
            .iter()
            .filter(|(_, known)| known.facts.as_ref().is_some_and(|facts| target.matches(facts)))
            .collect()
    }

    /// The agents that no target can be evaluated for.
    pub(crate) fn without_facts(&self) -> impl Iterator<Item = &AgentId> {
        self.agents.iter().filter(|(_, known)| known.facts.is_none()).map(|(agent, _)| agent)
    }

    /// Checks a seal against the key that is enrolled for the agent.
    pub(crate) fn open(&self, agent: &AgentId, sealed: &Sealed, purpose: Purpose) -> Result<(), SealProblem> {
        let known = self.agents.get(agent).ok_or(SealProblem::NotEnrolled)?;
        agent_key::open(sealed, purpose, &known.key).map(|_| ()).map_err(|_| SealProblem::Bad)
    }
}

/// Reads a target from the command line; what is wrong is shown where it is.
pub(crate) fn parse_target(text: &str) -> Result<Target, Failure> {
    Target::parse(text).map_err(|error| {
        let message = format!("the target is wrong: {error}");
        Failure::new(Exit::Usage, message, format!("{}\nsee docs/targets.md", error.caret()))
    })
}

fn checked_enrolments(
    entries: &[(AgentId, Bytes, i64)],
    policy: &Policy,
    org: &str,
    pins: &Pins,
) -> Vec<(Result<Enrolment, String>, AgentId)> {
    let now = jiff::Timestamp::now().as_second();
    in_parallel(entries, |(agent, value, _)| {
        let verify = |message: &[u8], signature: &str| {
            let signer = signature::verify(enrolment::NAMESPACE, message, signature)
                .map_err(|error| error.to_string())?;
            if policy.is_enrolment_key(&signer.key) {
                Ok(())
            } else {
                Err(format!("{} is no enrolment key of the policy", signer.key.fingerprint()))
            }
        };
        let checked = enrolment::check(value, org, agent, pins.known(agent), now, verify);
        (checked.map(|checked| checked.enrolment).map_err(|error| error.to_string()), agent.clone())
    })
}

fn checked_facts(agent: &AgentId, value: &[u8], key: &AgentPublicKey) -> Result<Facts, String> {
    let sealed: Sealed = serde_json::from_slice(value).map_err(|error| format!("facts: {error}"))?;
    let text = agent_key::open(&sealed, Purpose::Facts, key).map_err(|error| format!("facts: {error}"))?;
    let facts = Facts::from_json(text.as_bytes()).map_err(|error| format!("facts: {error}"))?;
    if facts.agent == *agent { Ok(facts) } else { Err(format!("holds the facts of {}", facts.agent)) }
}

/// Maps all items, on as many threads as there are processors.
fn in_parallel<T: Sync, R: Send>(items: &[T], map: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = items.len().div_ceil(threads).max(64);
    thread::scope(|scope| {
        let map = &map;
        let workers: Vec<_> = items
            .chunks(share)
            .map(|chunk| scope.spawn(move || chunk.iter().map(map).collect::<Vec<R>>()))
            .collect();
        let mut results = Vec::with_capacity(items.len());
        for worker in workers {
            results.extend(worker.join().expect("a worker that panics ends the program"));
        }
        results
    })
}
