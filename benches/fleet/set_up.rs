//! A fleet of one's own: a broker with accounts and streams, a policy that root keys signed, people with keys.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use vigie_fleet::action::{Envelope, NAMESPACE};
use vigie_fleet::broker::connection::{BrokerEvent, Connection, connect};
use vigie_fleet::broker::jwt::Role;
use vigie_fleet::broker::local::{LocalBroker, LocalBrokerSettings};
use vigie_fleet::broker::stored;
use vigie_fleet::broker::streams::{self, StreamSizes};
use vigie_fleet::policy::{self, PolicyDocument, Roots, SignedPolicy};
use vigie_fleet::signature::SigningKey;
use vigie_fleet::subjects::{self, RESULTS, answers_to};
use vigie_protocol::names::{ActionId, AgentId};

use crate::simulator::{LIVE, RAW_SLOT, Start};
use crate::work_root;
use vigie_benchmark::BenchResult;

/// Name of the fleet.
pub(crate) const ORG: &str = "bench";

/// Messages that wait in a subscription: more than agents answer at once.
const SUBSCRIPTION_CAPACITY: usize = 1 << 20;

/// The running broker and who may do what.
pub(crate) struct Fleet {
    pub(crate) broker: LocalBroker,
    pub(crate) administrator: Connection,
    pub(crate) investigator: Connection,
    /// Events that nobody reads are only counted.
    _events: Vec<mpsc::Receiver<BrokerEvent>>,
    roots: Roots,
    policy: SignedPolicy,
    /// Removed with the fleet, after the broker is gone.
    directory: TempDir,
}

/// The time in seconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Somebody's key; each number is another one.
pub(crate) fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32])
}

/// Numbers of people's keys.
pub(crate) const ALICE: u8 = 1;
pub(crate) const BOB: u8 = 2;
const ROOTS: [u8; 2] = [100, 101];

/// The policy; `more` are further fields of investigators by name, and `revoked` fingerprints.
fn policy_document(people: &BTreeMap<String, Value>, revoked: &[String]) -> BenchResult<PolicyDocument> {
    let mut investigators = json!({
        "alice": {"keys": [{"key": key(ALICE).public_key()}]},
        "bob": {"keys": [{"key": key(BOB).public_key()}]},
    });
    for (name, fields) in people {
        investigators[name] = fields.clone();
    }
    let weights: BTreeMap<&str, u32> =
        investigators.as_object().into_iter().flatten().map(|(name, _)| (name.as_str(), 1)).collect();
    Ok(serde_json::from_value(json!({
        "v": policy::VERSION,
        "org": ORG,
        "version": 1,
        "roots": roots(),
        "investigators": investigators,
        "acl": {
            "netstat": {"minimum_weight": 1, "investigators": weights},
            // Two people must sign.
            "file": {"minimum_weight": 2, "investigators": weights},
        },
        "revoked": revoked,
        "max_window_seconds": 7200,
    }))?)
}

fn roots() -> Roots {
    let keys = ROOTS.map(|number| key(number).public_key().clone()).to_vec();
    Roots { keys, threshold: 2 }
}

fn signed_policy(document: &PolicyDocument) -> BenchResult<SignedPolicy> {
    let policy = serde_json::to_string(document)?;
    let mut sigs = Vec::new();
    for root in ROOTS {
        sigs.push(key(root).sign(policy::NAMESPACE, policy.as_bytes())?);
    }
    Ok(SignedPolicy { policy, sigs })
}

/// Somebody beside alice and bob, with what the policy says of him.
pub(crate) type People = BTreeMap<String, Value>;

impl Fleet {
    /// Starts a broker on loopback with all streams.
    pub(crate) async fn start(people: &People, revoked: &[String]) -> BenchResult<Self> {
        std::fs::create_dir_all(work_root())?;
        let directory = tempfile::Builder::new().prefix("fleet-").tempdir_in(work_root())?;
        let broker = LocalBroker::start(LocalBrokerSettings::new(directory.path(), ORG, now())).await?;
        let mut events = Vec::new();
        let mut user = async |role: Role, name: &str| -> BenchResult<Connection> {
            let mut settings = broker.connection_settings(role, &name.parse()?);
            settings.subscription_capacity = Some(SUBSCRIPTION_CAPACITY);
            let (sender, receiver) = mpsc::channel(64);
            events.push(receiver);
            Ok(connect(settings, sender).await?)
        };
        let administrator = user(Role::Administrator, "root").await?;
        let investigator = user(Role::Investigator, "alice").await?;
        streams::ensure(&administrator.client, &StreamSizes::default()).await?;
        let policy = signed_policy(&policy_document(people, revoked)?)?;
        let fleet =
            Self { broker, administrator, investigator, _events: events, roots: roots(), policy, directory };
        // Raw answers use a subject of answers, and must not be stored.
        fleet.store_answers_to(&ActionId::from_random([1; 16])).await?;
        Ok(fleet)
    }

    /// Makes the stream of answers take those to this action.
    pub(crate) async fn store_answers_to(&self, action: &ActionId) -> BenchResult<()> {
        let client = &self.administrator.client;
        let info = stored::api(client, &format!("$JS.API.STREAM.INFO.{RESULTS}"), &Value::Null).await?;
        let mut config = info["config"].clone();
        config["subjects"] = json!([answers_to(action)]);
        stored::api(client, &format!("$JS.API.STREAM.UPDATE.{RESULTS}"), &config).await?;
        Ok(())
    }

    /// Sends something to each of these agents at once.
    pub(crate) async fn tell(&self, agents: &[AgentId], payload: &[u8]) -> BenchResult<()> {
        for agent in agents {
            self.investigator.client.send(&subjects::live(agent, LIVE), payload).await?;
        }
        Ok(self.investigator.client.flush(crate::PATIENCE).await?)
    }

    /// What simulators must know for so many agents.
    pub(crate) fn simulated(&self, agents: u32, shared_connections: Option<u32>) -> Start {
        let role = if shared_connections.is_some() { Role::Administrator } else { Role::Agent };
        let signer = self.broker.signer(role);
        Start {
            broker: SocketAddr::from((Ipv4Addr::LOCALHOST, self.broker.port())),
            first: 0,
            agents,
            shared_connections,
            account: signer.account().to_owned(),
            signer: signer.seed(),
            org: ORG.to_owned(),
            roots: self.roots.clone(),
            policy: self.policy.clone(),
            replay_logs: None,
        }
    }

    /// The root keys that agents pin.
    pub(crate) fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The policy as it is published.
    pub(crate) fn policy(&self) -> &SignedPolicy {
        &self.policy
    }

    /// A directory that goes away with the fleet.
    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.path().join("agents")
    }

    /// Resident memory of the broker in MiB.
    pub(crate) fn broker_mib(&self) -> BenchResult<f64> {
        let pid = self.broker.pid().ok_or("the broker has ended")?;
        Ok(vigie_benchmark::proc::held(pid)?.resident_kib as f64 / 1024.0)
    }
}

/// A good action of a fresh id, which one investigator may ask, for agents of a target.
pub(crate) fn action(target: &str) -> BenchResult<Value> {
    Ok(json!({
        "v": vigie_fleet::action::VERSION,
        "org": ORG,
        "id": fresh_id()?,
        "name": "who listens on port 22",
        "target": target,
        "not_before": now() - 60,
        "not_after": now() + 3600,
        "ops": [{"module": "netstat", "params": {"listening_port": ["22"]}}],
        "limits": {"seconds": 60},
    }))
}

/// An id that was not used before, of another slot than raw answers.
pub(crate) fn fresh_id() -> BenchResult<ActionId> {
    loop {
        let mut bytes = [0; 16];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
        let id = ActionId::from_random(bytes);
        if subjects::slot(&id) != RAW_SLOT {
            return Ok(id);
        }
    }
}

/// The action's text with signatures by these keys.
pub(crate) fn envelope(action: &Value, signers: &[u8]) -> BenchResult<Vec<u8>> {
    let action = action.to_string();
    let sigs = signers.iter().map(|&number| key(number).sign(NAMESPACE, action.as_bytes()));
    let sigs = sigs.collect::<Result<_, _>>()?;
    Ok(serde_json::to_vec(&Envelope { action, sigs })?)
}
