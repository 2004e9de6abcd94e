//! `vigie fleet keygen`, `enrol` and `revoke`: agents' keys.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vigie_files::secret_file;
use vigie_fleet::agent_key::{AgentKey, AgentPublicKey};
use vigie_fleet::broker::connection::Connection;
use vigie_fleet::broker::jwt::{Role, RoleSigner};
use vigie_fleet::broker::kv;
use vigie_fleet::broker::local::load_or_create_authority;
use vigie_fleet::enrolment::{self, Enrolment, SignedEnrolment};
use vigie_fleet::signature::{sign_with_key_file, verify};
use vigie_fleet::subjects::{self, KV_ENROL};
use vigie_protocol::names::AgentId;

use super::cli::EnrolArgs;
use super::files::{self, failed, quoted, quoted_list, quoted_path};
use super::policy;
use super::profile::Profile;
use crate::exit::{Exit, Failure};
use crate::print::Printer;

/// Largest file with a seed, in bytes.
const MAX_SEED_BYTES: u64 = 256;

/// Largest list of agents that are shut out, in bytes.
const MAX_REVOKED_BYTES: usize = 16 << 20;

/// The list of agents that are shut out, in the directory of `init`.
pub(super) const REVOKED: &str = "revoked.json";

/// The broker's configuration, in the directory of `init`.
pub(super) const SERVER_CONFIG: &str = "nats-server.conf";

const ADMINISTRATOR: &str = "name an administrator's file with --fleet, as init and up write it";

/// Carries out `fleet keygen`.
pub(super) fn keygen(file: &Path, printer: &mut Printer) -> Result<Exit, Failure> {
    let key = AgentKey::generate();
    key.store(file)
        .map_err(|error| failed(Exit::Io, "name a new file in a directory that you may write to")(&error))?;
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
        |what: &str| Failure::new(Exit::Config, format!("the fleet's file has no {what}"), ADMINISTRATOR);
    let enrolling = &profile.enrolling;
    let account = enrolling.account.as_deref().ok_or_else(|| needed("account"))?;
    let signer_file = enrolling.agent_signer.as_deref().ok_or_else(|| needed("agent_signer"))?;
    let enrolment_key = enrolling.enrolment_key.as_deref().ok_or_else(|| needed("enrolment_key"))?;
    let seed = secret_file::read(signer_file, MAX_SEED_BYTES)
        .map_err(|error| failed(Exit::Config, ADMINISTRATOR)(&error))?;
    let signer = RoleSigner::from_seed(Role::Agent, account, seed.trim_end())
        .map_err(|error| failed(Exit::Config, "see account and agent_signer in the fleet's file")(&error))?;

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
    let new = files::block_on(async {
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
    let done = Enrolled { agent: args.agent.clone(), key, directory: out, new };
    if printer.is_json() {
        printer.json(&done)?;
    } else {
        let word = if done.new { "is enrolled" } else { "was enrolled already" };
        printer.line(&format!("{} {word} with the key {}", done.agent, done.key))?;
        printer.line(&format!(
            "put the files of {} on the host, and add vigie-fleet.toml to /etc/vigie/vigie.toml",
            done.directory.display()
        ))?;
    }
    Ok(Exit::Ok)
}

/// Publishes the signed record, unless the same is there.
async fn record(
    connection: &Connection,
    profile: &Profile,
    agent: &AgentId,
    key: &AgentPublicKey,
    enrolment_key: &Path,
    replace: bool,
    now: i64,
) -> Result<bool, Failure> {
    let unavailable = |error: kv::KvError| failed(Exit::Unavailable, ADMINISTRATOR)(&error);
    let policy = policy::current(connection, profile).await?.ok_or_else(|| {
        let message = "the broker has no policy, so no enrolment counts";
        Failure::new(Exit::Unavailable, message, "publish one: vigie fleet policy publish FILE")
    })?;
    let subject = subjects::enrolment(agent);
    let check = |bytes: &[u8]| {
        enrolment::check(bytes, profile.org.as_str(), agent, None, now, |text, armored| {
            let signer = verify(enrolment::NAMESPACE, text, armored).map_err(|error| error.to_string())?;
            if policy.is_enrolment_key(&signer.key) {
                Ok(())
            } else {
                Err(format!("the policy does not let the key {} enrol agents", signer.key.fingerprint()))
            }
        })
    };
    let entry = kv::get(&connection.jetstream, KV_ENROL, &subject).await.map_err(unavailable)?;
    // A record that does not count keeps nobody from making one that does.
    let known = entry.and_then(|entry| check(&entry.value).ok()).map(|checked| checked.enrolment);
    let mut issued = now;
    if let Some(known) = known {
        if known.key == *key {
            return Ok(false);
        }
        if !replace {
            let message = format!("{agent} is enrolled with another key, {}", known.key);
            let hint = "when the host was installed anew, say --replace; its old key stops counting";
            return Err(Failure::new(Exit::Usage, message, hint));
        }
        issued = issued.max(known.issued.saturating_add(1));
    }
    let record = Enrolment {
        v: enrolment::VERSION,
        org: profile.org.to_string(),
        agent: agent.clone(),
        key: key.clone(),
        issued,
    }
    .to_text();
    let signature = sign_with_key_file(enrolment_key, enrolment::NAMESPACE, record.as_bytes())
        .map_err(|error| failed(Exit::Config, "see enrolment_key in the fleet's file")(&error))?;
    let signed = serde_json::to_vec(&SignedEnrolment { record, sigs: vec![signature] }).map_err(|error| {
        Failure::new(Exit::Internal, format!("the record cannot be written: {error}"), "")
    })?;
    check(&signed).map_err(|error| {
        failed(Exit::Config, "the key must stand under enrolment in the policy, and not be revoked")(&error)
    })?;
    kv::put(&connection.jetstream, &subject, signed.into()).await.map_err(unavailable)?;
    Ok(true)
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
        quoted_list(profile.urls().iter().cloned()),
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
        Failure::new(Exit::Config, message, "correct it: without it agents that were shut out come back")
    })
}

/// The same as the broker's tokens want it.
pub(super) fn for_tokens(revoked: &[RevokedAgent]) -> Vec<(AgentPublicKey, i64)> {
    revoked.iter().map(|one| (one.key.clone(), one.until)).collect()
}

/// Carries out `fleet revoke`.
pub(super) fn revoke(agents: &[AgentId], profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    let directory = profile.enrolling.authority.as_deref().ok_or_else(|| {
        Failure::new(Exit::Config, "the fleet's file has no authority, the directory of init", ADMINISTRATOR)
    })?;
    let now = files::now();
    let mut list = revoked(directory)?;
    let mut found = Vec::new();
    files::block_on(async {
        let (connection, _events) = profile.connect().await?;
        for agent in agents {
            let subject = subjects::enrolment(agent);
            let unavailable = |error: kv::KvError| failed(Exit::Unavailable, ADMINISTRATOR)(&error);
            let entry = kv::get(&connection.jetstream, KV_ENROL, &subject).await.map_err(unavailable)?;
            let key = entry
                .and_then(|entry| serde_json::from_slice::<SignedEnrolment>(&entry.value).ok())
                .and_then(|signed| serde_json::from_str::<Enrolment>(&signed.record).ok())
                .map(|enrolment| enrolment.key);
            let Some(key) = key else {
                let message = format!("{agent} is not enrolled");
                return Err(Failure::new(Exit::Usage, message, "`vigie fleet agents` lists who is"));
            };
            list.retain(|one| one.key != key);
            list.push(RevokedAgent { agent: agent.clone(), key: key.clone(), until: now });
            found.push((subject, key));
        }
        // First the list: when the broker fails in between, the command can be given again.
        let text = serde_json::to_string_pretty(&list).map_err(|error| {
            Failure::new(Exit::Internal, format!("the list cannot be written: {error}"), "")
        })?;
        files::replace(&directory.join(REVOKED), &format!("{text}\n"))?;
        write_tokens(directory, profile, &list, now)?;
        for (subject, _) in &found {
            kv::delete(&connection.jetstream, subject)
                .await
                .map_err(|error| failed(Exit::Unavailable, ADMINISTRATOR)(&error))?;
        }
        Ok(())
    })?;
    for (agent, (_, key)) in agents.iter().zip(&found) {
        if printer.is_json() {
            printer.json(&serde_json::json!({"agent": agent, "key": key, "revoked": true}))?;
        } else {
            printer.line(&format!("{agent} is not enrolled any more; its key was {key}"))?;
        }
    }
    if !printer.is_json() {
        printer.line(&format!(
            "the broker still lets it log in: put {} in place there and restart the broker",
            directory.join(SERVER_CONFIG).display()
        ))?;
    }
    Ok(Exit::Ok)
}

/// Puts the account's new token into the broker's configuration.
fn write_tokens(directory: &Path, profile: &Profile, list: &[RevokedAgent], now: i64) -> Result<(), Failure> {
    let path = directory.join(SERVER_CONFIG);
    let wrong = |problem: String| {
        let message = format!("{}: {problem}", path.display());
        Failure::new(Exit::Config, message, "is it the file that `vigie fleet init` wrote?")
    };
    let text = files::read(&path, 16 << 20)?;
    let mut config: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if !fs::exists(directory.join("keys/account.seed")).unwrap_or(false) {
        let message = format!("there is no keys/account.seed in {}", directory.display());
        return Err(Failure::new(Exit::Config, message, "do it where the keys of the broker lie"));
    }
    let authority = load_or_create_authority(directory)
        .map_err(|error| failed(Exit::Config, "do it where the keys of the broker lie")(&error))?;
    let tokens = authority.tokens(profile.org.as_str(), now, &for_tokens(list));
    let preload = config
        .get_mut("resolver_preload")
        .and_then(|preload| preload.get_mut(&tokens.account))
        .ok_or_else(|| wrong("it has no token of this fleet's account".to_owned()))?;
    *preload = tokens.account_token.into();
    files::replace(&path, &format!("{config:#}\n"))
}
