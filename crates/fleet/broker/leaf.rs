//! Sites: agents that speak to a server of their own, a leaf node of NATS, which speaks to the brokers by one
//! connection.
//!
//! Each site has an account of its own at the brokers. Nobody else is in it: brokers tell a leaf node of every
//! subscription in its account, and where an agent listens is a secret. What crosses into the fleet's account are the
//! literal subjects of the site's agents, and back what is for them: whoever takes the site's server can do what those
//! agents together could. The account says so and not the login, because nats-server 2.9.10 leaves it to the leaf node
//! to keep to what its login allows.
//!
//! The site's server knows the agents' account by a token that takes nothing from other accounts, so what agents say
//! goes on to the brokers, and is acknowledged by them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};

use super::jwt::{Authority, BadAuthorityKey, claims_of, key_of, seed_of, token};
use super::local::{LocalBrokerError, LocalTls, config_path, server_tls};
use super::permissions::{
    Account, MAX_CONNECTIONS, READ_BY_AGENTS, Shared, UNLIMITED, direct_get, newest_of,
};
use crate::agent_key::AgentPublicKey;
use crate::subjects::{EVERY_LIVE, SLOTS};
use vigie_protocol::names::AgentId;

/// The port of NATS for leaf nodes.
pub const PORT: u16 = 7422;

/// Agents of one site. Each is two dozen imports of its account, which a server compares with each other when the site
/// logs in: with 150 agents nats-server 2.15.1 did not get done with it in time.
pub const MAX_AGENTS: usize = 40;

/// Agents of all sites together: the investigators' token names each once.
pub const MAX_AGENTS_OF_ALL: usize = 3_000;

/// Servers of one site.
const MAX_SERVERS: i64 = 4;

/// How long a site's server waits before it tries to reach the brokers again, in seconds.
const RECONNECT_SECONDS: u64 = 1;

/// A site: its name, its agents, and the key of its account at the brokers.
#[derive(Clone)]
pub struct Site {
    name: AgentId,
    agents: BTreeSet<AgentId>,
    key: KeyPair,
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Site").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Site {
    /// A site with a new key.
    #[must_use]
    pub fn generate(name: AgentId, agents: BTreeSet<AgentId>) -> Self {
        Self { name, agents, key: KeyPair::new_account() }
    }

    /// The site with this seed (`SA…`).
    ///
    /// # Errors
    ///
    /// When the seed is none of an account.
    pub fn from_seed(name: AgentId, agents: BTreeSet<AgentId>, seed: &str) -> Result<Self, BadAuthorityKey> {
        Ok(Self { name, agents, key: key_of(KeyPairType::Account, seed)? })
    }

    /// Its agents.
    #[must_use]
    pub fn agents(&self) -> &BTreeSet<AgentId> {
        &self.agents
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &AgentId {
        &self.name
    }

    /// The seed of its key. Secret.
    #[must_use]
    pub fn seed(&self) -> String {
        seed_of(&self.key)
    }

    /// Public key of its account.
    #[must_use]
    pub fn account(&self) -> String {
        self.key.public_key()
    }

    /// Limits of its account: leaf nodes, and no clients.
    pub(super) fn claims(&self) -> Value {
        let mut claims = claims_of(json!([]), 0);
        claims["limits"]["leaf"] = json!(MAX_SERVERS);
        claims
    }

    /// What its account takes from others: the literal subjects of its agents.
    pub(super) fn imports(&self) -> Vec<(Account, Shared)> {
        let of_agent = |agent: &AgentId| {
            let written = ["alert", "audit", "facts", "renew"].map(|kind| format!("vigie.{kind}.{agent}"));
            let answers = (0..SLOTS).map(|slot| format!("vigie.res.{slot}.{agent}"));
            let live = Shared::stream(&format!("vigie.live.{agent}.*"));
            written
                .into_iter()
                .chain(answers)
                .chain(newest_of(agent.as_str()))
                .map(|subject| (Account::Fleet, Shared::service(&subject)))
                .chain([(Account::Fleet, live.clone()), (Account::Investigators, live)])
                .collect::<Vec<_>>()
        };
        let read = READ_BY_AGENTS.map(|stream| (Account::Fleet, Shared::service(&direct_get(stream))));
        read.into_iter().chain(self.agents.iter().flat_map(of_agent)).collect()
    }

    /// What investigators take from its account: answers of its agents, as they come.
    pub(super) fn answers(&self) -> impl Iterator<Item = Shared> {
        self.agents.iter().map(|agent| Shared::stream(&format!("vigie.res.*.{agent}")))
    }

    /// The login of the site's server, with this key. It is for a leaf node alone. `issued` is in seconds since 1970
    /// (UTC).
    #[must_use]
    pub fn login(&self, key: &AgentPublicKey, issued: i64) -> String {
        let claims = json!({
            "type": "user",
            "version": 2,
            "pub": {"allow": ["vigie.>", direct_get("*"), direct_get("*.vigie.>")]},
            "sub": {"allow": [EVERY_LIVE, "_INBOX.agent.>"]},
            "subs": UNLIMITED,
            "data": UNLIMITED,
            "payload": UNLIMITED,
            "allowed_connection_types": ["LEAFNODE"],
        });
        token(&self.key, self.name.as_str(), &key.text(), issued, None, claims)
    }
}

/// How the server of a site runs.
#[derive(Debug, Clone)]
pub struct LeafSettings {
    /// Name of the fleet.
    pub fleet: String,
    /// Name of the site.
    pub site: AgentId,
    /// Where it listens for agents.
    pub listen: SocketAddr,
    /// Where the brokers listen for leaf nodes, `tls://HOST:7422` or `nats://…`.
    pub brokers: Vec<String>,
    /// Its directory there: for its log, and the number of its process.
    pub directory: PathBuf,
    /// The file with its login.
    pub credentials: PathBuf,
    /// Certificates with which it meets agents.
    pub tls: Option<LocalTls>,
    /// Certificates with which it meets the brokers.
    pub broker_tls: Option<LocalTls>,
    /// The time of the tokens, in seconds since 1970 (UTC).
    pub now: i64,
}

/// The configuration of a site's server. Nothing in it is secret.
///
/// # Errors
///
/// When a path cannot stand in it.
pub fn leaf_config(
    settings: &LeafSettings,
    authority: &Authority,
    revoked: &[(AgentPublicKey, i64)],
) -> Result<Value, LocalBrokerError> {
    let tokens = authority.leaf_tokens(&settings.fleet, settings.now, revoked);
    let mut remote = json!({
        "urls": settings.brokers.iter().map(|url| url.replacen("nats://", "nats-leaf://", 1)).collect::<Vec<_>>(),
        "account": authority.account(Account::Agents),
        "credentials": config_path(&settings.credentials)?,
    });
    if let Some(tls) = &settings.broker_tls {
        remote["tls"] = server_tls(tls)?;
        // It is a client there.
        if let Some(tls) = remote["tls"].as_object_mut() {
            tls.remove("verify");
        }
    }
    let file = |name: &str| config_path(&settings.directory.join(name));
    let mut config = json!({
        "server_name": format!("{}-{}", settings.fleet, settings.site),
        "host": settings.listen.ip(),
        "port": settings.listen.port(),
        "pid_file": file("nats-server.pid")?,
        "log_file": file("nats-server.log")?,
        "logfile_size_limit": super::local::MAX_LOG_BYTES,
        "operator": tokens.operator,
        "system_account": tokens.system_account,
        "max_connections": MAX_CONNECTIONS,
        "default_js_domain": {authority.account(Account::Agents): ""},
        "resolver": "MEMORY",
        "resolver_preload": super::local::preload(&tokens),
        "leafnodes": {"reconnect": RECONNECT_SECONDS, "remotes": [remote]},
    });
    if let Some(tls) = &settings.tls {
        config["tls"] = server_tls(tls)?;
    }
    Ok(config)
}

/// Has a broker listen for leaf nodes, by its configuration; the certificates are those that it has for clients.
pub fn open_port(config: &mut Value, listen: SocketAddr) {
    let mut section = json!({"host": listen.ip(), "port": listen.port()});
    if config["tls"].is_object() {
        section["tls"] = config["tls"].clone();
    }
    config["leafnodes"] = section;
}

/// Lets questions about streams through from sites, by a broker's configuration: without it they would stay at the leaf
/// node. Whether that changed something.
pub fn admit(config: &mut Value, sites: &[Site]) -> bool {
    let domains: serde_json::Map<String, Value> =
        sites.iter().map(|site| (site.account(), Value::from(""))).collect();
    let domains = Value::Object(domains);
    let changed = config["default_js_domain"] != domains;
    config["default_js_domain"] = domains;
    changed
}

/// Puts what an authority says of its accounts into the configuration of a site's server.
///
/// Returns `false` when it is not the configuration of this fleet's.
#[must_use]
pub fn renew_leaf_config(
    config: &mut Value,
    authority: &Authority,
    fleet: &str,
    now: i64,
    revoked: &[(AgentPublicKey, i64)],
) -> bool {
    let tokens = authority.leaf_tokens(fleet, now, revoked);
    let known = config["resolver_preload"].get(authority.account(Account::Agents)).is_some();
    if known {
        config["resolver_preload"] = super::local::preload(&tokens);
    }
    known
}

/// The file with a site's seed, in the directory of keys.
#[must_use]
pub fn seed_file(keys: &Path, site: &AgentId) -> PathBuf {
    keys.join(format!("{SEED_PREFIX}{site}.seed"))
}

/// The file with the names of a site's agents, one a line, in the directory of keys.
#[must_use]
pub fn agents_file(keys: &Path, site: &AgentId) -> PathBuf {
    keys.join(format!("{SEED_PREFIX}{site}.agents"))
}

/// What the files of sites begin with.
pub(super) const SEED_PREFIX: &str = "site-";

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::BASE64URL_NOPAD;

    fn claims(token: &str) -> Value {
        let body = token.split('.').nth(1).unwrap();
        serde_json::from_slice(&BASE64URL_NOPAD.decode(body.as_bytes()).unwrap()).unwrap()
    }

    fn name(text: &str) -> AgentId {
        text.parse().unwrap()
    }

    #[test]
    fn a_site_says_and_hears_literally_what_its_agents_do_and_nobody_else_is_a_leaf_node() {
        let authority = Authority::generate();
        let site = Site::generate(name("paris"), BTreeSet::from([name("web-1"), name("web-2")]));

        let tokens = authority.tokens("fleet", 1_800_000_000, &[], std::slice::from_ref(&site));

        for account in &tokens.accounts {
            assert_eq!(claims(&account.token)["nats"]["limits"]["leaf"], 0, "{:?}", account.account);
        }
        let (key, token) = &tokens.sites[0];
        let token = claims(token);
        assert_eq!(*key, site.account());
        assert_eq!(token["nats"]["limits"]["conn"], 0);
        assert_eq!(token["nats"]["limits"]["leaf"], MAX_SERVERS);
        let imports = token["nats"]["imports"].as_array().unwrap();
        assert_eq!(imports.len(), 4 + 2 * (4 + 16 + 2 + 2));
        for import in imports {
            let (subject, kind) = (import["subject"].as_str().unwrap(), import["type"].as_str().unwrap());
            let own = |before: &str| {
                subject.contains(&format!("{before}web-1")) || subject.contains(&format!("{before}web-2"))
            };
            let literal = !subject.contains(['*', '>']);
            assert!(
                subject.starts_with("$JS.API.DIRECT.GET.") && literal
                    || kind == "service" && literal && own(".")
                    || kind == "stream" && own("vigie.live."),
                "{kind} {subject}"
            );
        }
        let of = |account: Account| {
            let token = tokens.accounts.iter().find(|token| token.account == account).unwrap();
            claims(&token.token)["nats"]["imports"].to_string()
        };
        assert!(of(Account::Investigators).contains("vigie.res.*.web-2"), "answers are seen as they come");
        assert!(!of(Account::Agents).contains(&site.account()));
    }

    #[test]
    fn a_leaf_knows_no_account_but_the_agents_and_takes_nothing_from_others() {
        let authority = Authority::generate();
        let tokens = authority.leaf_tokens("fleet", 1_800_000_000, &[]);
        assert_eq!(tokens.accounts.len(), 1);
        let agents = claims(&tokens.accounts[0].token);
        assert!(agents["nats"]["imports"].is_null() && agents["nats"]["exports"].is_null());
        assert!(agents["nats"]["signing_keys"][0]["template"].is_object(), "agents log in there");
    }
}
