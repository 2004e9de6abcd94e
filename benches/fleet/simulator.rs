//! Many agents in one process: each with its own connection to the broker, or many on one.
//!
//! A process of its own, so that its memory and descriptors can be told from those of the client that is measured.
//! One thread and one loop over epoll(7): what a simulated agent costs beside the code of real agents should be
//! next to nothing. The process takes [`Command`]s as lines of JSON on standard input, answers each with a line of
//! [`Counts`], and ends with the end of its input.

mod agent;
mod link;
mod protocol;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::broker::jwt::{Role, RoleSigner};
use vigie_fleet::policy::{Offered, Roots, SignedPolicy, accept_newer};

use agent::{Agent, Surroundings};
pub(crate) use agent::{facts, name};
use link::Link;
use vigie_benchmark::BenchResult;

/// The hidden argument with which the benchmark starts itself as a simulator.
pub(crate) const ARGUMENT: &str = "simulate-agents";

/// Subject on which agents that share connections answer at once, without looking at what they are asked.
pub(crate) const RAW_REQUEST: &str = "vigie.live.raw.raw";

/// A raw request to an agent with a connection of its own begins with this byte; an action is JSON.
pub(crate) const RAW: u8 = b'x';

/// Slot of the answers to raw requests, which nobody stores.
pub(crate) const RAW_SLOT: u8 = 0;

/// The secret of the subject on which each simulated agent listens.
pub(crate) const LIVE: &str = "0123456789abcdef0123456789abcdef";

/// Bytes of an answer to a raw request.
const RAW_ANSWER_BYTES: usize = 256;

/// Connections that are being made at once; the broker gives each 2 s to log in.
const CONNECTING: usize = 128;

/// Bytes that are read at once.
const READ_BYTES: usize = 256 * 1024;

/// The mark of standard input among the connections.
const STDIN: u64 = u64::MAX;

/// What the simulator is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Make agents and connect them. First of all.
    Start(Box<Start>),
    /// Only answer.
    Count,
    /// Drop all connections and memory, as if every agent were started again; keys and replay logs on disk stay.
    Restart,
    /// Every agent stores its facts in its bucket.
    StoreFacts,
    /// From now on every agent tells the auditors what it runs, or does not.
    Audit(bool),
}

/// Which agents, and what they know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) broker: SocketAddr,
    /// Number of the first agent.
    pub(crate) first: u32,
    pub(crate) agents: u32,
    /// None: each agent has its own connection and an agent's rights. Otherwise they share so many connections with
    /// an administrator's rights, and answer raw requests only.
    pub(crate) shared_connections: Option<u32>,
    /// Public key of the broker's account, and seed of the key that makes users of the role.
    pub(crate) account: String,
    pub(crate) signer: String,
    pub(crate) org: String,
    /// The pinned root keys.
    pub(crate) roots: Roots,
    pub(crate) policy: SignedPolicy,
    /// Where replay logs are; without it they are in memory.
    pub(crate) replay_logs: Option<PathBuf>,
}

/// What happened since the start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Connections that are logged in and have subscribed.
    pub(crate) ready: u64,
    /// Raw requests that were answered.
    pub(crate) raw: u64,
    /// Actions that were run.
    pub(crate) ran: u64,
    /// Actions that were refused, by code.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Answers and audit records that a stream has acknowledged.
    pub(crate) acknowledged: u64,
    /// What went wrong, the first few.
    pub(crate) problems: Vec<String>,
    /// Resident memory of the process in KiB.
    pub(crate) resident_kib: u64,
    /// Public keys of the agents, in the order of their numbers; in the answer to [`Command::Start`] only.
    pub(crate) keys: Vec<String>,
}

/// Runs until standard input ends.
pub(crate) fn run() -> BenchResult<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, rustix::stdio::stdin(), EventData::new_u64(STDIN), EventFlags::IN)?;
    let mut input = Vec::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut events = Vec::with_capacity(1024);
    let mut simulator: Option<Simulator> = None;
    loop {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            if event.data.u64() != STDIN {
                if let Some(simulator) = &mut simulator {
                    simulator.handle(usize::try_from(event.data.u64())?, &epoll, &mut buffer)?;
                }
                continue;
            }
            let count = rustix::io::read(rustix::stdio::stdin(), &mut *buffer)?;
            if count == 0 {
                return Ok(());
            }
            input.extend_from_slice(&buffer[..count]);
            while let Some(end) = input.iter().position(|&byte| byte == b'\n') {
                let command = serde_json::from_slice(&input[..end])?;
                input.drain(..=end);
                obey(command, &mut simulator, &epoll)?;
            }
        }
    }
}

fn obey(command: Command, simulator: &mut Option<Simulator>, epoll: &rustix::fd::OwnedFd) -> BenchResult<()> {
    let mut keys = Vec::new();
    match (command, &mut *simulator) {
        (Command::Start(start), _) => {
            let mut started = Simulator::new(*start)?;
            keys = started.agents.iter().map(|agent| agent.key.public_key().text()).collect();
            started.connect_more(epoll)?;
            *simulator = Some(started);
        }
        (Command::Restart, Some(simulator)) => simulator.restart(epoll)?,
        (Command::StoreFacts, Some(simulator)) => simulator.store_facts(epoll)?,
        (Command::Audit(audited), Some(simulator)) => simulator.around.audited = audited,
        (_, _) => {}
    }
    let mut counts = simulator.as_ref().map(|simulator| simulator.counts.clone()).unwrap_or_default();
    counts.keys = keys;
    counts.resident_kib = vigie_benchmark::proc::held(std::process::id())?.resident_kib;
    vigie_benchmark::say(&serde_json::to_string(&counts)?);
    Ok(())
}

struct Simulator {
    start: Start,
    signer: RoleSigner,
    around: Surroundings,
    agents: Vec<Agent>,
    links: Vec<Link>,
    counts: Counts,
    raw_answer: Vec<u8>,
    /// What goes to the broker next.
    out: Vec<u8>,
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

impl Simulator {
    fn new(start: Start) -> BenchResult<Self> {
        let role = if start.shared_connections.is_some() { Role::Administrator } else { Role::Agent };
        let signer = RoleSigner::from_seed(role, &start.account, &start.signer)?;
        // As an agent does that has none yet.
        let Offered::Newer(policy) = accept_newer(None, &start.roots, &start.org, &start.policy)? else {
            return Err("the policy is not new".into());
        };
        let around = Surroundings { org: start.org.clone(), policy: *policy, audited: false };
        let agents = (start.first..start.first + start.agents)
            .map(|number| Agent::new(number, AgentKey::generate(), start.replay_logs.as_deref(), now()))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            start,
            signer,
            around,
            agents,
            links: Vec::new(),
            counts: Counts::default(),
            raw_answer: vec![b'x'; RAW_ANSWER_BYTES],
            out: Vec::new(),
        })
    }

    fn agents_of_a_link(&self) -> usize {
        self.start.shared_connections.map_or(1, |links| self.agents.len().div_ceil(links.max(1) as usize))
    }

    /// Opens the connections that are missing, as many at once as the broker has time for.
    fn connect_more(&mut self, epoll: &rustix::fd::OwnedFd) -> BenchResult<()> {
        let each = self.agents_of_a_link();
        let wanted = self.agents.len().div_ceil(each);
        let ready = usize::try_from(self.counts.ready)?;
        while self.links.len() < wanted && self.links.len() < ready + CONNECTING {
            let place = self.links.len();
            let first = place * each;
            let agents = first..(first + each).min(self.agents.len());
            let link = Link::open(self.start.broker, agents)?;
            epoll::add(epoll, link.stream(), EventData::new_u64(place as u64), EventFlags::IN)?;
            self.links.push(link);
        }
        Ok(())
    }

    fn restart(&mut self, epoll: &rustix::fd::OwnedFd) -> BenchResult<()> {
        // Closing takes them out of the epoll.
        self.links.clear();
        self.counts.ready = 0;
        for (number, agent) in (self.start.first..).zip(&mut self.agents) {
            let key = agent.key.clone();
            *agent = Agent::new(number, key, self.start.replay_logs.as_deref(), now())?;
        }
        self.connect_more(epoll)
    }

    fn store_facts(&mut self, epoll: &rustix::fd::OwnedFd) -> BenchResult<()> {
        for place in 0..self.links.len() {
            for agent in &self.agents[self.links[place].agents.clone()] {
                let subject = vigie_fleet::subjects::facts(&agent.facts.agent);
                protocol::publish(&mut self.out, &subject, None, &agent.sealed_facts());
            }
            self.send(place, epoll)?;
        }
        Ok(())
    }

    fn send(&mut self, place: usize, epoll: &rustix::fd::OwnedFd) -> BenchResult<()> {
        let link = &mut self.links[place];
        let waited = link.waits_to_write();
        link.send(&mut self.out)?;
        if link.waits_to_write() != waited {
            let writing = if waited { EventFlags::empty() } else { EventFlags::OUT };
            epoll::modify(epoll, link.stream(), EventData::new_u64(place as u64), EventFlags::IN | writing)?;
        }
        Ok(())
    }

    /// Reads what came on a connection and answers it.
    fn handle(&mut self, place: usize, epoll: &rustix::fd::OwnedFd, buffer: &mut Vec<u8>) -> BenchResult<()> {
        // An event of a connection that a command has closed meanwhile.
        let Some(link) = self.links.get_mut(place) else { return Ok(()) };
        let received = link.receive(buffer)?;
        let mut bytes = &buffer[..received];
        let ready = self.counts.ready;
        while let Some((operation, length)) = protocol::parse(bytes)? {
            bytes = &bytes[length..];
            self.react(place, operation)?;
        }
        self.links[place].keep(bytes);
        self.send(place, epoll)?;
        if self.counts.ready != ready { self.connect_more(epoll) } else { Ok(()) }
    }

    fn react(&mut self, place: usize, operation: protocol::Operation<'_>) -> BenchResult<()> {
        match operation {
            protocol::Operation::Info(info) => self.log_in(place, info)?,
            protocol::Operation::Message { sid, payload } => self.message(place, sid, payload),
            protocol::Operation::Ping => protocol::pong(&mut self.out),
            // Sent once, behind the subscriptions: they are made.
            protocol::Operation::Pong => self.counts.ready += 1,
            protocol::Operation::Error(words) => {
                if self.counts.problems.len() < 5 {
                    self.counts.problems.push(words.to_owned());
                }
            }
            protocol::Operation::Ok => {}
        }
        Ok(())
    }

    fn log_in(&mut self, place: usize, info: &[u8]) -> BenchResult<()> {
        #[derive(Deserialize)]
        struct Info {
            nonce: Option<String>,
        }

        let link = &mut self.links[place];
        // The broker tells of changes by the same operation.
        if std::mem::replace(&mut link.logged_in, true) {
            return Ok(());
        }
        let nonce = serde_json::from_slice::<Info>(info)?.nonce.ok_or("the broker has no accounts")?;
        let agents = &self.agents[link.agents.clone()];
        let [first, ..] = agents else { return Ok(()) };
        let (name, key) = (&first.facts.agent, &first.key);
        let jwt = self.signer.user(name, key.public_key(), now(), None);
        let signature = data_encoding::BASE64URL_NOPAD.encode(&key.sign(nonce.as_bytes()));
        protocol::connect(&mut self.out, name.as_str(), &jwt, &signature);
        for (place, agent) in (0_u64..).zip(agents) {
            link::subscribe(
                &mut self.out,
                place,
                &agent.facts.agent,
                self.start.shared_connections.is_some(),
            );
        }
        protocol::ping(&mut self.out);
        Ok(())
    }

    fn message(&mut self, place: usize, sid: u64, payload: &[u8]) {
        let (offset, kind) = link::subscription(sid);
        let Some(agent) = self.links[place].agents.clone().nth(offset) else { return };
        let agent = &mut self.agents[agent];
        match kind {
            link::Kind::Live | link::Kind::Raw
                if kind == link::Kind::Raw || payload.first() == Some(&RAW) =>
            {
                let subject = format!("vigie.res.{RAW_SLOT}.{}", agent.facts.agent);
                protocol::publish(&mut self.out, &subject, None, &self.raw_answer);
                self.counts.raw += 1;
            }
            link::Kind::Inbox => self.counts.acknowledged += 1,
            link::Kind::Raw | link::Kind::Live => match agent.take(payload, &self.around, now()) {
                Ok(sent) => {
                    self.counts.ran += 1;
                    let id = &agent.facts.agent;
                    let reply = format!("{}.r", Role::Agent.inbox_prefix(id));
                    if let Some(audit) = sent.audit {
                        let subject = vigie_fleet::subjects::audit(id);
                        protocol::publish(&mut self.out, &subject, Some(&reply), &audit);
                    }
                    for message in sent.answer {
                        let subject = vigie_fleet::subjects::answer(&message.action, id);
                        protocol::publish(&mut self.out, &subject, Some(&reply), &message.sealed);
                    }
                }
                Err(code) => match self.counts.refused.get_mut(code) {
                    Some(count) => *count += 1,
                    None => drop(self.counts.refused.insert(code.to_owned(), 1)),
                },
            },
        }
    }
}
