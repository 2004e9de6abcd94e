//! Who takes how much of the broker: connections and messages by user, for `vigie fleet doctor`. Asks the system
//! account, for which the keys of `init` are needed.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::broker::connection::{BrokerEvent, Connection, ConnectionError, Login, connect};
use vigie_fleet::broker::jwt::{Authority, SYSTEM_INBOX};
use vigie_fleet::broker::leaf::Site;
use vigie_fleet::broker::local::{load_or_create_authority, load_sites};
use vigie_fleet::broker::permissions::Account;
use vigie_fleet::broker::watch::{self, Snapshot, Use};
use vigie_protocol::error_chain::ErrorChain;
use vigie_protocol::names::AgentId;

use super::doctor::{Finding, bad, good, named};
use super::files;
use super::profile::Profile;
use crate::exit::Failure;

/// Between two looks at how much everybody has sent.
const BETWEEN: Duration = Duration::from_secs(2);

/// Connections that one agent may have before it is named: one, one that has not ended yet, and one of a second life.
const CONNECTIONS: usize = 4;

/// Connections without a login from one address before it is named.
const WITHOUT_LOGIN: usize = 64;

/// Messages a second before an agent is named. One whose alerts waited sends some hundred.
const MESSAGES: f64 = 2_000.0;

/// Of a hundred connections, how many may be taken.
const FULL_PERCENT: u64 = 90;

/// A connection and its events; or that the broker takes no more.
pub(super) type Entered = Result<(Connection, mpsc::Receiver<BrokerEvent>), Finding>;

/// Connects, and says when the broker takes no more connections.
pub(super) async fn enter(profile: &Profile) -> Result<Entered, Failure> {
    let (send_events, events) = mpsc::channel(8);
    match connect(profile.connection().clone(), send_events).await {
        Ok(connection) => Ok(Ok((connection, events))),
        Err(ConnectionError::Full { words, .. }) => Ok(Err(bad(
            "connections",
            format!("the broker accepts no more connections: {words}"),
            "check the connections on the broker's host (`ss -tn`), and limit connections per address in its firewall",
        ))),
        Err(_) => profile.connect().await.map(Ok),
    }
}

/// Who takes much of the broker. `names` are those of agents by their public keys.
pub(super) async fn look(profile: &Profile, names: &BTreeMap<String, String>) -> Vec<Finding> {
    let authority =
        profile.enrolling.authority.as_deref().filter(|place| place.join("keys/system.seed").exists());
    let Some(place) = authority else {
        let found = "clients with many connections and flooding clients were not checked: this needs the keys of `fleet init`";
        return vec![good("connections", found)];
    };
    let keys = load_or_create_authority(place).and_then(|authority| Ok((authority, load_sites(place)?)));
    let (authority, sites) = match keys {
        Ok(keys) => keys,
        Err(error) => {
            return vec![bad(
                "connections",
                ErrorChain(&error).to_string(),
                "check the keys of `fleet init`",
            )];
        }
    };
    match snapshots(profile, &authority).await {
        Ok((before, now)) => judge(&before, &now, &authority, &sites, names),
        Err(problem) => vec![bad(
            "connections",
            format!("the servers do not list connections: {problem}"),
            "check that the broker's configuration belongs to these keys",
        )],
    }
}

async fn snapshots(profile: &Profile, authority: &Authority) -> Result<(Snapshot, Snapshot), String> {
    let key = AgentKey::generate();
    let mut settings = profile.connection().clone();
    let jwt = authority.watcher(key.public_key(), files::now());
    settings.login = Login::Token { jwt, key: Box::new(key) };
    settings.inbox_prefix = SYSTEM_INBOX.to_owned();
    let (events, _kept) = mpsc::channel(8);
    let connection = connect(settings, events).await.map_err(|error| ErrorChain(&error).to_string())?;
    let look =
        || async { watch::look(&connection.client).await.map_err(|error| ErrorChain(&error).to_string()) };
    let before = look().await?;
    tokio::time::sleep(BETWEEN).await;
    Ok((before, look().await?))
}

/// What of the snapshots is too much.
fn judge(
    before: &Snapshot,
    now: &Snapshot,
    authority: &Authority,
    sites: &[Site],
    names: &BTreeMap<String, String>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let agents = authority.account(Account::Agents);
    let of_sites: Vec<(String, &AgentId)> = sites.iter().map(|site| (site.account(), site.name())).collect();
    // Who is a host or speaks for hosts, as people know it.
    let host = |account: &str, name: &str| {
        let site = of_sites.iter().find(|(known, _)| known == account);
        match site {
            Some((_, site)) => Some(format!("the site {site}")),
            // One that is not enrolled has a login all the same: its key says which.
            None if account == agents => Some(names.get(name).cloned().unwrap_or_else(|| name.to_owned())),
            None => None,
        }
    };
    let percent =
        |taken: u64, of: u64| of > 0 && taken.saturating_mul(100) >= of.saturating_mul(FULL_PERCENT);
    let (taken, most) = now.fullest;
    let of_agents = u64::try_from(now.of_account(&agents)).unwrap_or(u64::MAX);
    let most_of_agents = Account::Agents.most_connections().unwrap_or(u64::MAX);
    if percent(taken, most) || percent(of_agents, most_of_agents) {
        let found =
            format!("{taken} of {most} connections are in use, {of_agents} of {most_of_agents} by agents");
        findings.push(bad("connections", found, "see the clients below; raise the broker's limit"));
    } else {
        findings.push(good("connections", format!("{taken} of {most} are in use, {of_agents} by agents")));
    }
    let remedy = "if this is not a test of yours, revoke the host: vigie fleet revoke NAME; limit connections in the firewall";
    for ((account, name), one) in &now.users {
        if let Some(host) = host(account, name).filter(|_| one.connections > CONNECTIONS) {
            let found = format!("{host} holds {} connections, from {}", one.connections, from(one));
            findings.push(bad("connections", found, remedy));
        }
    }
    for one in now.users.iter().filter(|((account, _), _)| account.is_empty()).map(|(_, one)| one) {
        for (address, count) in one.addresses.iter().filter(|(_, count)| **count > WITHOUT_LOGIN) {
            let found = format!("{count} connections without a login from {address}");
            findings.push(bad("connections", found, "limit connections by address in the broker's firewall"));
        }
    }
    let mut loud: Vec<Finding> = now
        .rates(before)
        .filter(|(_, messages, _)| *messages > MESSAGES)
        .filter_map(|((account, name), messages, bytes)| {
            let host = host(account, name)?;
            let user = (account.clone(), name.clone());
            let found = format!(
                "{host} sends {messages:.0} messages ({:.1} MB) a second, from {}",
                bytes / 1e6,
                now.users.get(&user).map(from).unwrap_or_default()
            );
            Some(bad("flood", found, remedy))
        })
        .collect();
    if loud.is_empty() {
        loud.push(good("flood", format!("no host sends more than {MESSAGES:.0} messages a second")));
    }
    findings.extend(loud);
    findings
}

fn from(one: &Use) -> String {
    named(one.addresses.keys().map(String::as_str)).unwrap_or_default()
}
