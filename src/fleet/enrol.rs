//! `vigie fleet keygen`, `enrol` and `revoke`: agents' keys.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use vigie_files::secret_file;
use vigie_fleet::agent_key::{AgentKey, AgentPublicKey};
use vigie_fleet::broker::connection::{Connection, ConnectionError, Login, connect};
use vigie_fleet::broker::jwt::{Role, RoleSigner};
use vigie_fleet::broker::local::{load_or_create_authority, load_sites};
use vigie_fleet::broker::permissions::Account;
use vigie_fleet::broker::stored::{self, StoredError};
use vigie_fleet::broker::streams::ENROLMENT_VERSIONS;
use vigie_fleet::enrolment::{self, Enrolment, SignedEnrolment};
use vigie_fleet::policy::Policy;
use vigie_fleet::signature::sign_with_key_file;
use vigie_fleet::subjects::{self, ENROL};
use vigie_protocol::names::AgentId;

use super::cli::EnrolArgs;
use super::files::{self, failed, quoted, quoted_list, quoted_path};
use super::inventory::newest_enrolment;
use super::profile::{ADMINISTRATOR, Profile};
use super::{leaf, policy};
use crate::exit::{Exit, Failure};
use crate::print::{self, Printer};

/// Largest file with a seed, in bytes.
const MAX_SEED_BYTES: u64 = 256;

/// Largest list of agents that are shut out, in bytes.
const MAX_REVOKED_BYTES: usize = 16 << 20;

/// The list of agents that are shut out, in the directory of `init`.
pub(super) const REVOKED: &str = "revoked.json";

/// The broker's configuration, in the directory of `init`.
pub(super) const SERVER_CONFIG: &str = "nats-server.conf";

/// Carries out `fleet keygen`.
pub(super) fn keygen(file: &Path, printer: &mut Printer) -> Result<Exit, Failure> {
    let key = AgentKey::generate();
    key.store(file)
        .map_err(|error| failed(Exit::Io, "give a new file in a directory that you may write to")(&error))?;
    if printer.is_json() {
        printer.json(&serde_json::json!({"file": file, "key": key.public_key()}))?;
    } else {
        printer.line(&key.public_key().text())?;
    }
    Ok(Exit::Ok)
}

/// What enrolling did.
#[derive(Serialize)]
struct Enrolled {
    agent: AgentId,
    key: AgentPublicKey,
    /// Where the agent's files are.
    directory: PathBuf,
    /// Whether the record is new; otherwise the agent had this key already.
    new: bool,
}

/// Carries out `fleet enrol`.
pub(super) fn run(args: &EnrolArgs, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    let needed =
        |what: &str| Failure::new(Exit::Config, format!("the fleet file does not set {what}"), ADMINISTRATOR);
    let enrolling = &profile.enrolling;
    let account = enrolling.account.as_deref().ok_or_else(|| needed("account"))?;
    let signer_file = enrolling.agent_signer.as_deref().ok_or_else(|| needed("agent_signer"))?;
    let enrolment_key = enrolling.enrolment_key.as_deref().ok_or_else(|| needed("enrolment_key"))?;
    let seed = secret_file::read(signer_file, MAX_SEED_BYTES)
        .map_err(|error| failed(Exit::Config, ADMINISTRATOR)(&error))?;
    let signer = RoleSigner::from_seed(Role::Agent, account, seed.trim_end())
        .map_err(|error| failed(Exit::Config, "check account and agent_signer in the fleet file")(&error))?;

    let out = args.out.clone().unwrap_or_else(|| PathBuf::from(args.agent.as_str()));
    files::directory(&out)?;
    let key = match &args.key {
        Some(key) => key.clone(),
        None => AgentKey::load_or_create(&out.join("agent.nk"))
            .map_err(|error| failed(Exit::Io, "")(&error))?
            .public_key()
            .clone(),
    };
    let now = files::now();
    let (new, before) = files::block_on(async {
        let (connection, _events) = profile.connect().await?;
        record(&connection, profile, &args.agent, &key, enrolment_key, args.replace, now).await
    })?;
    files::replace(&out.join("agent.jwt"), &format!("{}\n", signer.user(&args.agent, &key, now, None)))?;
    let out = files::absolute(&out)?;
    files::replace(&out.join("vigie-fleet.toml"), &section(args, profile, &out)?)?;
    if let Some(ca) = &profile.tls().ca {
        let text = files::read(ca, 1 << 20)?;
        files::replace(&out.join("ca.pem"), &text)?;
    }
    // What the old key sealed still counts; it opens the broker no more.
    if let (Some(before), Some(directory)) = (&before, profile.enrolling.authority.as_deref()) {
        shut_out(directory, profile, &[(args.agent.clone(), before.clone())], now)?;
    } else if before.is_some() {
        print::note(
            "the broker still accepts the old key: an administrator revokes it with `vigie fleet revoke`",
        );
    }
    let done = Enrolled { agent: args.agent.clone(), key, directory: out, new };
    if printer.is_json() {
        printer.json(&done)?;
    } else {
        let word = if done.new { "is enrolled" } else { "was enrolled already" };
        printer.line(&format!("{} {word} with the key {}", done.agent, done.key))?;
        printer.line(&format!(
            "copy the files in {} to the host, and add vigie-fleet.toml to /etc/vigie/vigie.toml",
            done.directory.display()
        ))?;
    }
    Ok(Exit::Ok)
}

fn unavailable(error: &StoredError) -> Failure {
    failed(Exit::Unavailable, ADMINISTRATOR)(error)
}

/// The policy in force, and the newest record of an agent that counts. What does not count keeps nobody from making one
/// that does.
async fn known(
    connection: &Connection,
    profile: &Profile,
    agent: &AgentId,
) -> Result<(Policy, Option<Enrolment>), Failure> {
    let policy = policy::current(connection, profile).await?.ok_or_else(|| {
        let message = "the broker has no policy, so no enrolment is valid";
        Failure::new(Exit::Unavailable, message, "publish one: vigie fleet policy publish FILE")
    })?;
    let subject = subjects::enrolment(agent);
    let versions = stored::versions(&connection.client, ENROL, &subject, ENROLMENT_VERSIONS)
        .await
        .map_err(|error| unavailable(&error))?;
    let records: Vec<_> = versions.into_iter().map(|entry| entry.value).collect();
    let (newest, _) = newest_enrolment(&records, agent, &policy, profile.org.as_str(), None);
    Ok((policy, newest))
}

/// Signs a record and stores it.
async fn store(
    connection: &Connection,
    profile: &Profile,
    policy: &Policy,
    enrolment: &Enrolment,
    enrolment_key: &Path,
) -> Result<(), Failure> {
    let record = enrolment.to_text();
    let signature = sign_with_key_file(enrolment_key, enrolment::NAMESPACE, record.as_bytes())
        .map_err(|error| failed(Exit::Config, "check enrolment_key in the fleet file")(&error))?;
    let signed = serde_json::to_vec(&SignedEnrolment { record, sigs: vec![signature] }).map_err(|error| {
        Failure::new(Exit::Internal, format!("the record cannot be written: {error}"), "")
    })?;
    let agent = &enrolment.agent;
    let (counts, wrong) =
        newest_enrolment(&[signed.clone().into()], agent, policy, profile.org.as_str(), None);
    if counts.is_none() {
        let hint = "the key must be listed under enrolment in the policy and must not be revoked";
        return Err(Failure::new(Exit::Config, wrong.join("; "), hint));
    }
    stored::store(&connection.client, &subjects::enrolment(agent), &signed)
        .await
        .map(drop)
        .map_err(|error| unavailable(&error))
}

/// Publishes the signed record, unless the same is there; whether it is new, and the key that it replaced.
async fn record(
    connection: &Connection,
    profile: &Profile,
    agent: &AgentId,
    key: &AgentPublicKey,
    enrolment_key: &Path,
    replace: bool,
    now: i64,
) -> Result<(bool, Option<AgentPublicKey>), Failure> {
    let (policy, known) = known(connection, profile, agent).await?;
    let (enrolment, before) = match known {
        None => (Enrolment::new(profile.org.as_str(), agent, key, now), None),
        Some(known) if known.key == *key && !known.revoked => return Ok((false, None)),
        Some(known) => {
            if !replace && !known.revoked {
                let message = format!("{agent} is already enrolled with another key, {}", known.key);
                let hint = "if the host was reinstalled, use --replace; this invalidates the old key";
                return Err(Failure::new(Exit::Usage, message, hint));
            }
            (known.next(key, now, false), Some(known.key))
        }
    };
    store(connection, profile, &policy, &enrolment, enrolment_key).await?;
    Ok((true, before))
}

/// What the agent's configuration needs.
fn section(args: &EnrolArgs, profile: &Profile, out: &Path) -> Result<String, Failure> {
    let on_host = args.on_host.as_deref().unwrap_or(out);
    let file = |name: &str| quoted_path(&on_host.join(name));
    let mut text = String::new();
    if !args.tags.is_empty() {
        text.push_str("[tags]\n");
        for (name, value) in &args.tags {
            text.push_str(&format!("{} = {}\n", quoted(name), quoted(value)));
        }
        text.push('\n');
    }
    text.push_str(&format!(
        "[fleet]\norg = {}\nagent = {}\nurls = {}\ncredentials = {}\n",
        quoted(profile.org.as_str()),
        quoted(args.agent.as_str()),
        quoted_list(if args.urls.is_empty() { profile.urls() } else { &args.urls }.iter().cloned()),
        file("agent.jwt")?
    ));
    // With --key the agent has its key already, where its configuration says.
    if args.key.is_none() || out.join("agent.nk").exists() {
        text.push_str(&format!("key_file = {}\n", file("agent.nk")?));
    }
    if profile.tls().ca.is_some() {
        text.push_str(&format!("ca = {}\n", file("ca.pem")?));
    }
    if profile.tls().certificate.is_some() {
        text.push_str(&format!(
            "certificate = {}\ncertificate_key = {}\n",
            file("agent-tls.pem")?,
            file("agent-tls.key")?
        ));
    }
    if !args.groups.is_empty() {
        text.push_str(&format!("groups = {}\n", quoted_list(args.groups.iter().map(ToString::to_string))));
    }
    text.push_str(&format!(
        "roots = {}\nroot_threshold = {}\n",
        quoted_list(profile.roots.keys.iter().map(ToString::to_string)),
        profile.roots.threshold
    ));
    Ok(text)
}

/// An agent's key that is shut out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RevokedAgent {
    agent: AgentId,
    key: AgentPublicKey,
    /// Tokens that were issued up to then, in seconds since 1970 (UTC), are worth nothing.
    until: i64,
}

/// The keys that a broker's directory shuts out.
pub(super) fn revoked(directory: &Path) -> Result<Vec<RevokedAgent>, Failure> {
    let path = directory.join(REVOKED);
    if !path.exists() {
        return Ok(Vec::new());
    }
    serde_json::from_str(&files::read(&path, MAX_REVOKED_BYTES)?).map_err(|error| {
        let message = format!("{}: {error}", path.display());
        Failure::new(Exit::Config, message, "correct it: without it, revoked agents could return")
    })
}

/// The same as the broker's tokens want it.
pub(super) fn for_tokens(revoked: &[RevokedAgent]) -> Vec<(AgentPublicKey, i64)> {
    revoked.iter().map(|one| (one.key.clone(), one.until)).collect()
}

/// Carries out `fleet revoke`.
pub(super) fn revoke(agents: &[AgentId], profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    let directory = profile.authority()?;
    let enrolment_key = profile.enrolling.enrolment_key.as_deref().ok_or_else(|| {
        Failure::new(Exit::Config, "the fleet file does not set enrolment_key", ADMINISTRATOR)
    })?;
    let now = files::now();
    let found = files::block_on(async {
        let (connection, _events) = profile.connect().await?;
        let mut found = Vec::new();
        for agent in agents {
            let (policy, known) = known(&connection, profile, agent).await?;
            let Some(known) = known else {
                let message = format!("{agent} is not enrolled");
                return Err(Failure::new(
                    Exit::Usage,
                    message,
                    "`vigie fleet agents` lists the enrolled agents",
                ));
            };
            if !known.revoked {
                let gone = known.next(&known.key, now, true);
                store(&connection, profile, &policy, &gone, enrolment_key).await?;
            }
            found.push((agent.clone(), known.key));
        }
        Ok(found)
    })?;
    let shut = shut_out(directory, profile, &found, now)?;
    for (agent, key) in &found {
        if printer.is_json() {
            let line = serde_json::json!({"agent": agent, "key": key, "revoked": true, "shut_out": shut});
            printer.json(&line)?;
        } else {
            printer.line(&format!("{agent} was revoked; its key was {key}"))?;
        }
    }
    for site in leaf::sites_of(directory, agents)? {
        print::note(&format!(
            "the leaf node of {site} still admits it: run vigie fleet leaf remove {site} NAME, and copy the new files to its server"
        ));
    }
    if !shut && !printer.is_json() {
        printer.line(&format!(
            "the broker still admits it: copy {} to it and reload the server (nats-server --signal reload)",
            server_configs(directory)
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        ))?;
    }
    Ok(Exit::Ok)
}

/// The name under which the check of a reload tries to log in.
const PROBE: &str = "vigie-reload-check";

/// How long a server may take to reload its configuration.
const RELOAD_WITHIN: Duration = Duration::from_secs(10);

/// Shuts keys out of the broker: in the list, in the broker's configuration, and, when its process is on this machine,
/// at once. Whether that was seen to be in force; otherwise somebody has to reload the server.
pub(super) fn shut_out(
    directory: &Path,
    profile: &Profile,
    found: &[(AgentId, AgentPublicKey)],
    now: i64,
) -> Result<bool, Failure> {
    let mut list = revoked(directory)?;
    // A user that was never let in shows whether the server has read the new list.
    let probe = AgentKey::generate();
    let name: AgentId = PROBE.parse().map_err(|error| failed(Exit::Internal, "")(&error))?;
    let probe_of = std::slice::from_ref(&name).iter().map(|name| (name, probe.public_key()));
    for (agent, key) in found.iter().map(|(agent, key)| (agent, key)).chain(probe_of) {
        list.retain(|one| one.key != *key && (one.agent != name || *agent != name));
        list.push(RevokedAgent { agent: agent.clone(), key: key.clone(), until: now });
    }
    // First the list: when something fails after it, the command can be given again.
    let text = serde_json::to_string_pretty(&list)
        .map_err(|error| Failure::new(Exit::Internal, format!("the list cannot be written: {error}"), ""))?;
    files::replace(&directory.join(REVOKED), &format!("{text}\n"))?;
    let servers = write_tokens(directory, profile, &list, now)?;
    if servers.len() < server_configs(directory).len() {
        return Ok(false);
    }
    for server in servers {
        kill(server, Signal::SIGHUP)
            .map_err(|errno| failed(Exit::Permission, "reload the server as the user it runs as")(&errno))?;
    }
    let authority = load_or_create_authority(directory)
        .map_err(|error| failed(Exit::Config, "run it where the broker's keys are stored")(&error))?;
    let jwt = authority.signer(Role::Agent).user(&name, probe.public_key(), now, None);
    let mut settings = profile.connection().clone();
    settings.login = Login::Token { jwt, key: Box::new(probe) };
    settings.inbox_prefix = Role::Agent.inbox_prefix(&name);
    files::block_on(async {
        let refused = async {
            loop {
                let (events, _kept) = tokio::sync::mpsc::channel(8);
                if let Err(ConnectionError::Refused { .. }) = connect(settings.clone(), events).await {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(RELOAD_WITHIN, refused).await.map_err(|_| {
            let message = "the broker was asked to reload its configuration but still admits revoked keys";
            let hint =
                "its log gives the reason: one change that needs a restart blocks all others; restart it";
            Failure::new(Exit::NotWell, message, hint)
        })
    })?;
    Ok(true)
}

/// Puts the accounts' new tokens into the broker's configuration, and nothing else. The process of the server, when it
/// runs on this machine.
pub(super) fn write_tokens(
    directory: &Path,
    profile: &Profile,
    list: &[RevokedAgent],
    now: i64,
) -> Result<Vec<Pid>, Failure> {
    let mut running = Vec::new();
    let authority = load_or_create_authority(directory)
        .map_err(|error| failed(Exit::Config, "run it where the broker's keys are stored")(&error))?;
    leaf::renew(directory, &authority, profile.org.as_str(), &for_tokens(list), now)?;
    for path in server_configs(directory) {
        running.extend(write_tokens_into(&path, directory, profile, list, now)?);
    }
    Ok(running)
}

/// The configurations of the broker's servers, in the directory of `init`.
pub(super) fn server_configs(directory: &Path) -> Vec<PathBuf> {
    let of_cluster = (1..=5).map(|number| directory.join(format!("nats-server-{number}.conf")));
    let found: Vec<PathBuf> = of_cluster.filter(|path| path.exists()).collect();
    if found.is_empty() { vec![directory.join(SERVER_CONFIG)] } else { found }
}

fn write_tokens_into(
    path: &Path,
    directory: &Path,
    profile: &Profile,
    list: &[RevokedAgent],
    now: i64,
) -> Result<Option<Pid>, Failure> {
    let wrong = |problem: String| {
        let message = format!("{}: {problem}", path.display());
        Failure::new(Exit::Config, message, "check that `vigie fleet init` wrote the file")
    };
    let text = files::read(path, 16 << 20)?;
    let mut config: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if !fs::exists(directory.join("keys/operator.seed")).unwrap_or(false) {
        let message = format!("there is no keys/operator.seed in {}", directory.display());
        return Err(Failure::new(Exit::Config, message, "run it where the broker's keys are stored"));
    }
    let authority = load_or_create_authority(directory)
        .map_err(|error| failed(Exit::Config, "run it where the broker's keys are stored")(&error))?;
    let sites = load_sites(directory)
        .map_err(|error| failed(Exit::Config, "run it where the broker's keys are stored")(&error))?;
    let tokens = authority.tokens(profile.org.as_str(), now, &for_tokens(list), &sites);
    for account in tokens.accounts.iter().filter(|token| token.account != Account::Fleet) {
        let preload = config.get_mut("resolver_preload").and_then(|preload| preload.as_object_mut());
        let preload = preload.ok_or_else(|| wrong("it contains no account JWTs".to_owned()))?;
        // One that was set up by an older program does not have every account yet.
        if account.account != Account::Joiners && !preload.contains_key(&account.key) {
            let name = account.account.name();
            return Err(wrong(format!("it contains no JWT for this fleet's account {name}")));
        }
        preload.insert(account.key.clone(), account.token.as_str().into());
    }
    if let Some(preload) = config["resolver_preload"].as_object_mut() {
        // The accounts of sites that have ended go.
        preload.retain(|key, _| {
            *key == tokens.system_account || tokens.accounts.iter().any(|account| account.key == *key)
        });
        preload.extend(tokens.sites.iter().map(|(key, token)| (key.clone(), token.as_str().into())));
    }
    replace_config(path, &config)?;
    Ok(config["pid_file"].as_str().and_then(|file| running(Path::new(file))))
}

/// Writes a server's configuration, with the mode that it has.
pub(super) fn replace_config(path: &Path, config: &serde_json::Value) -> Result<(), Failure> {
    let mode = fs::metadata(path).map_err(|error| failed(Exit::Io, "")(&error))?.mode() & 0o777;
    files::replace_with(path, &format!("{config:#}\n"), mode)
}

/// The process that a server's pid file names, when it is one of a nats-server.
fn running(file: &Path) -> Option<Pid> {
    let pid: i32 = fs::read_to_string(file).ok()?.trim().parse().ok().filter(|pid| *pid > 1)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    name.starts_with("nats-server").then(|| Pid::from_raw(pid))
}
