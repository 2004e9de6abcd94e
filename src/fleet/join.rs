//! `vigie fleet join`: makes this host a member of a fleet by a token.
//!
//! The broker is not trusted: the policy must be signed by the root keys that the token names, and what lets the host
//! in by an enrolment key of that policy. The host's keys are made here and leave it never.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;
use vigie_config::files::{LoadOptions, load};
use vigie_files::{durable, random, secret_file};
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::broker::client::tls;
use vigie_fleet::broker::connection::{
    Connection, ConnectionError, ConnectionSettings, Login, TlsSettings, connect,
};
use vigie_fleet::broker::jwt::Role;
use vigie_fleet::broker::stored::{self, StoredError};
use vigie_fleet::broker::streams::POLICY_VERSIONS;
use vigie_fleet::certificates;
use vigie_fleet::host_facts;
use vigie_fleet::join::{
    Approved, Grant, JoinToken, MAX_TOKEN_BYTES, Outcome, Request, VERSION, denies_earlier, open_answer,
};
use vigie_fleet::policy::{self, Policy, SignedPolicy};
use vigie_fleet::subjects::{self, JOINED, POLICY, POLICY_SUBJECT};
use vigie_protocol::error_chain::ErrorChain;
use vigie_protocol::names::AgentId;

use super::config_file::with_fleet;
use super::files::{self, failed, quoted, quoted_list, quoted_path};
use crate::exit::{Exit, Failure};
use crate::print::{self, Printer};

/// Pauses between two looks for the answer: from the first to the second, doubled each time.
const LOOK: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// A connection is not kept for longer than this: many may wait.
const CONNECTION: Duration = Duration::from_secs(60);

/// Longest wait for a connection and its login.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);

/// The request is sent again after this: the broker keeps it for a day.
const ASK_AGAIN: Duration = Duration::from_secs(6 * 3600);

/// Longest configuration that is added to, in bytes.
const MAX_CONFIG_BYTES: usize = 1 << 20;

/// Largest certificate file that is read, in bytes.
const MAX_KEY_BYTES: u64 = 64 * 1024;

/// `fleet join`
#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// The token printed by `vigie fleet token new`, or - to read it from standard input
    #[arg(value_name = "TOKEN")]
    token: String,

    /// Name of the agent [default: host name up to the first dot]
    #[arg(long, value_name = "NAME")]
    name: Option<AgentId>,

    /// The agent's configuration file, to which `[fleet]` is added [default: the file that the agent would
    /// read]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// How long to wait for approval
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = crate::durations::positive)]
    wait: Duration,

    /// Do not start the agent
    #[arg(long)]
    no_start: bool,
}

/// What was done.
#[derive(Debug, Serialize)]
struct Joined {
    org: String,
    agent: AgentId,
    key: String,
    config: PathBuf,
    policy_version: u64,
    /// The agent was started or told of its new configuration.
    started: bool,
}

/// Where everything of this host lies.
struct Places {
    directory: PathBuf,
    config: PathBuf,
    has_config: bool,
}

impl Places {
    /// `org` is the fleet that the token is for.
    fn find(named: Option<&Path>, org: &str) -> Result<Self, Failure> {
        let mut options = LoadOptions::at_start(named.map(Path::to_owned));
        let config = files::absolute(options.path())?;
        let has_config = config.exists();
        // A file that is named and not there yet is made.
        if !has_config {
            options.file = None;
            options.places.config_file = config.clone();
        }
        let loaded = load(&options, crate::modules::BUILTINS).map_err(|problems| {
            let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Failure::new(Exit::Config, text.join("\n"), "correct the agent's configuration first")
        })?;
        if let Some(fleet) = &loaded.agent.fleet {
            let message =
                format!("{} already belongs to the fleet {} as {}", config.display(), fleet.org, fleet.agent);
            if fleet.org.as_str() != org {
                let message = format!("{message}, but the token is for {org}");
                let hint = "remove [fleet] and the state directory's fleet/ to join another one";
                return Err(Failure::new(Exit::Config, message, hint));
            }
            return Err(Failure::new(Exit::AlreadyRunning, message, ""));
        }
        Ok(Self { directory: loaded.agent.agent.state_dir.join("fleet"), config, has_config })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Carries out `fleet join`.
pub(super) fn run(args: &JoinArgs, printer: &mut Printer) -> Result<Exit, Failure> {
    let mut text = args.token.clone();
    if text == "-" {
        text.clear();
        std::io::stdin()
            .take(MAX_TOKEN_BYTES as u64 + 64)
            .read_to_string(&mut text)
            .map_err(|error| failed(Exit::Io, "")(&error))?;
    }
    let (token, grant) = JoinToken::parse(&text).map_err(|error| failed(Exit::Usage, "")(&error))?;
    let places = match Places::find(args.config.as_deref(), &grant.org) {
        Ok(places) => places,
        // The same line again, as cloud-init gives it at each boot.
        Err(failure) if failure.exit == Exit::AlreadyRunning => {
            print::note(&failure.message);
            return Ok(Exit::Ok);
        }
        Err(failure) => return Err(failure),
    };
    let agent = args.name.clone().map_or_else(own_name, Ok)?;
    if !grant.allows_name(&agent) {
        let names = grant.names.clone().unwrap_or_default();
        let message = format!("the token is for hosts named {names}, not {agent}");
        return Err(Failure::new(Exit::Usage, message, "give another --name, or another token"));
    }
    // What would keep the configuration from being written is said before anybody is asked.
    new_config(&places, &grant.tags, "[fleet]\n")?;
    files::directory(&places.directory)?;
    let key = AgentKey::load_or_create(&places.file("agent.nk"))
        .map_err(|error| failed(Exit::Io, "join as the agent's user")(&error))?;
    let tls_key = match &token.tls {
        Some(_) => Some(tls_key(&places.file("agent-tls.key"))?),
        None => None,
    };
    let request = Request {
        v: VERSION,
        org: grant.org.clone(),
        token: Some(grant.id.clone()),
        key: key.public_key().clone(),
        agent,
        hostname: hostname(),
        machine: host_facts::machine(),
        tls_key: tls_key.map(|pem| certificates::public_key(&pem)).transpose().map_err(|error| {
            failed(Exit::Config, "delete agent-tls.key in the agent's state directory")(&error)
        })?,
        made: jiff::Timestamp::now().as_millisecond(),
    };
    if !printer.is_json() {
        print::note(&format!(
            "{} requests to join {} with the key {}",
            request.agent, request.org, request.key
        ));
    }
    let door = Door::new(&token, &grant, &places)?;
    let asked = files::block_on(ask(&door, &request, &key, args.wait));
    let (approved, signed, version) = asked?;
    write(&places, &token, &grant, &request, &approved, &signed)?;
    files::block_on(try_login(&places, &token, &request, &key, &approved))?;
    let section = section(&places, &token, &grant, &request)?;
    let config = new_config(&places, &grant.tags, &section)?;
    put_config(&places, &config)?;
    let started = !args.no_start && start()?;
    let done = Joined {
        org: request.org,
        agent: request.agent,
        key: request.key.text(),
        config: places.config,
        policy_version: version,
        started,
    };
    if printer.is_json() {
        printer.json(&done)?;
    } else {
        printer.line(&format!("{} is a member of {}", done.agent, done.org))?;
        if !started {
            printer.line(&format!("start the agent: vigie agent --config {}", done.config.display()))?;
        }
    }
    Ok(Exit::Ok)
}

fn hostname() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    name.to_string_lossy().chars().filter(|c| !c.is_control()).take(200).collect()
}

fn own_name() -> Result<AgentId, Failure> {
    let name = hostname();
    let first = name.split('.').next().unwrap_or_default();
    first.parse().map_err(|_| {
        let message = format!("the host name {name:?} is not a valid agent name");
        Failure::new(Exit::Usage, message, "give one with --name: 1 to 64 letters, digits, - and _")
    })
}

fn tls_key(path: &Path) -> Result<String, Failure> {
    let hint = "join as the agent's user";
    if !path.exists() {
        let key = certificates::new_key().map_err(|error| failed(Exit::Internal, "")(&error))?;
        secret_file::create(path, &key).map_err(|error| failed(Exit::Io, hint)(&error))?;
    }
    secret_file::read(path, MAX_KEY_BYTES).map_err(|error| failed(Exit::Io, hint)(&error))
}

/// The way in: the broker's addresses, and the login and certificate of the token.
struct Door<'t> {
    token: &'t JoinToken,
    key: AgentKey,
    settings: ConnectionSettings,
    /// Files of the token that are needed for the connection only.
    temporary: Vec<PathBuf>,
}

impl Drop for Door<'_> {
    fn drop(&mut self) {
        for path in &self.temporary {
            // What is left over ends with the token.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl<'t> Door<'t> {
    fn new(token: &'t JoinToken, grant: &Grant, places: &Places) -> Result<Self, Failure> {
        let user: AgentId = grant.id.parse().map_err(|error| failed(Exit::Usage, "")(&error))?;
        let key = token.key().map_err(|error| failed(Exit::Usage, "")(&error))?;
        let mut temporary = Vec::new();
        let mut settings = TlsSettings::default();
        if let Some(tls) = &token.tls {
            let (certificate, secret) = (places.file("join-tls.pem"), places.file("join-tls.key"));
            files::replace(&places.file("ca.pem"), &tls.ca)?;
            files::replace(&certificate, &tls.certificate)?;
            let _ = std::fs::remove_file(&secret);
            secret_file::create(&secret, &tls.key).map_err(|error| failed(Exit::Io, "")(&error))?;
            temporary = vec![certificate.clone(), secret.clone()];
            settings = TlsSettings {
                required: true,
                ca: Some(places.file("ca.pem")),
                certificate: Some(certificate),
                key: Some(secret),
            };
        }
        let settings = ConnectionSettings {
            urls: token.urls.clone(),
            login: Login::Token { jwt: token.login.clone(), key: Box::new(key.clone()) },
            tls: settings,
            name: "vigie fleet join".to_owned(),
            inbox_prefix: Role::Joiner.inbox_prefix(&user),
            subscription_capacity: None,
            connect_in_background: false,
        };
        Ok(Self { token, key, settings, temporary })
    }
}

/// Connects; says why not.
async fn connected(settings: &ConnectionSettings) -> Result<Connection, ConnectionError> {
    let (events, _) = mpsc::channel(1);
    match tokio::time::timeout(CONNECT_WITHIN, connect(settings.clone(), events)).await {
        Ok(connected) => connected,
        Err(_) => Err(ConnectionError::Unreachable {
            urls: settings.urls.join(", "),
            source: std::io::Error::from(std::io::ErrorKind::TimedOut).into(),
        }),
    }
}

/// The newest policy that the root keys of the token signed.
async fn newest_policy(connection: &Connection, door: &Door<'_>, org: &str) -> Result<Found, StoredError> {
    let versions = stored::versions(&connection.client, POLICY, POLICY_SUBJECT, POLICY_VERSIONS).await?;
    let texts = || versions.iter().map(|entry| &entry.value[..]);
    let (newest, _) = policy::newest(texts(), &door.token.roots, org);
    let Some(newest) = newest else { return Ok(Found::None) };
    if newest.version() < door.token.policy_version {
        return Ok(Found::Older);
    }
    let signed = texts().find_map(|bytes| {
        SignedPolicy::from_json(bytes).ok().filter(|signed| signed.policy == newest.text())
    });
    Ok(signed.map_or(Found::None, |signed| Found::Policy(Box::new((newest, signed)))))
}

enum Found {
    None,
    /// One that was in force before the token was made.
    Older,
    Policy(Box<(Policy, SignedPolicy)>),
}

/// Asks until somebody lets the host in, or turns it away, or time is up. A broker that is away is waited for.
async fn ask(
    door: &Door<'_>,
    request: &Request,
    key: &AgentKey,
    wait: Duration,
) -> Result<(Approved, SignedPolicy, u64), Failure> {
    let deadline = Instant::now() + wait;
    let mut asked: Option<Instant> = None;
    let mut newest = 0;
    let mut problem = String::new();
    loop {
        let connection = match connected(&door.settings).await {
            Ok(connection) => Some(connection),
            Err(error @ ConnectionError::Refused { .. }) => {
                let hint = "the token has expired, or its fleet was recreated: create a new one";
                return Err(failed(Exit::Permission, hint)(&error));
            }
            Err(
                error @ (ConnectionError::Unreachable { .. }
                | ConnectionError::Full { .. }
                | ConnectionError::Tls { .. }),
            ) => {
                said(&mut problem, ErrorChain(&error).to_string());
                None
            }
            Err(error) => return Err(failed(Exit::Usage, "")(&error)),
        };
        let until = (Instant::now() + CONNECTION).min(deadline);
        let mut pause = LOOK.0;
        while let Some(connection) = &connection {
            let org = request.org.as_str();
            let looked = async {
                match newest_policy(connection, door, org).await? {
                    Found::None => {
                        Ok(Look::Not("the broker has no policy that the fleet's root keys signed"))
                    }
                    Found::Older => Ok(Look::Not("the broker's policy is older than the one in the token")),
                    Found::Policy(found) => {
                        let (policy, signed) = *found;
                        if let Some(look) =
                            answered(connection, request, &policy, signed, &mut newest).await?
                        {
                            // A person may decide otherwise now, and needs a request for it.
                            if matches!(look, Look::Denied(_)) && asked.is_none() {
                                send(connection, door, request, key).await?;
                            }
                            return Ok(look);
                        }
                        if asked.is_none_or(|asked| asked.elapsed() >= ASK_AGAIN) {
                            send(connection, door, request, key).await?;
                            asked = Some(Instant::now());
                        }
                        Ok(Look::Wait)
                    }
                }
            };
            match looked.await {
                Ok(Look::In(found)) => return Ok(*found),
                Ok(Look::Denied(reason)) => {
                    let message = format!("the fleet denied this host: {reason}");
                    return Err(Failure::new(Exit::Permission, message, "ask whoever gave you the token"));
                }
                Ok(Look::Not(what)) => said(&mut problem, what.to_owned()),
                Ok(Look::Wait) => {}
                Err(StoredError::Refused { code: FULL_SUBJECT, .. }) => {
                    said(&mut problem, "too many requests with this token are waiting".to_owned());
                }
                Err(error) => {
                    said(&mut problem, ErrorChain(&error).to_string());
                    break;
                }
            }
            if Instant::now() + pause >= until {
                break;
            }
            tokio::time::sleep(pause.mul_f64(0.5 + random::fraction() / 2.0)).await;
            pause = (pause * 2).min(LOOK.1);
        }
        drop(connection);
        if Instant::now() + LOOK.1 >= deadline {
            let message = if problem.is_empty() {
                format!("no decision yet whether {} may join", request.agent)
            } else {
                problem
            };
            let hint = "the request is kept for a day: run the command again, and see `vigie fleet pending`";
            return Err(Failure::new(Exit::NotRunning, message, hint));
        }
        tokio::time::sleep(LOOK.1.mul_f64(random::fraction())).await;
    }
}

/// JetStream's code for a subject that holds as much as it may.
const FULL_SUBJECT: u64 = 10077;

/// Says a problem once.
fn said(before: &mut String, problem: String) {
    if *before != problem {
        print::note(&problem);
        *before = problem;
    }
}

enum Look {
    In(Box<(Approved, SignedPolicy, u64)>),
    Denied(String),
    Not(&'static str),
    Wait,
}

/// The newest answer that counts, if there is one that was not seen before this request was made.
async fn answered(
    connection: &Connection,
    request: &Request,
    policy: &Policy,
    signed: SignedPolicy,
    newest: &mut i64,
) -> Result<Option<Look>, StoredError> {
    let subject = subjects::joined(&request.key.text());
    let entries = stored::versions(&connection.client, JOINED, &subject, 2).await?;
    let mut best = None;
    for entry in entries {
        match open_answer(&entry.value, request, policy, files::now()) {
            Ok(answer) if denies_earlier(&answer, request) => {}
            Ok(answer) if answer.issued >= *newest => {
                *newest = answer.issued;
                best = Some(answer.outcome);
            }
            Ok(_) => {}
            Err(problem) => print::note(&format!("an answer is invalid: {problem}")),
        }
    }
    Ok(best.map(|outcome| match outcome {
        Outcome::Approved(approved) => Look::In(Box::new((*approved, signed, policy.version()))),
        Outcome::Denied { reason, .. } => Look::Denied(reason),
    }))
}

async fn send(
    connection: &Connection,
    door: &Door<'_>,
    request: &Request,
    key: &AgentKey,
) -> Result<(), StoredError> {
    let token = request.token.clone().unwrap_or_default();
    let unreadable = || StoredError::Unreadable { what: "the request".to_owned() };
    let sealed = request.seal(key, Some((&door.key, &door.token.grant))).map_err(|_| unreadable())?;
    let bytes = serde_json::to_vec(&sealed).map_err(|_| unreadable())?;
    stored::store(&connection.client, &subjects::join(&token), &bytes).await.map(drop)
}

fn write(
    places: &Places,
    token: &JoinToken,
    grant: &Grant,
    request: &Request,
    approved: &Approved,
    signed: &SignedPolicy,
) -> Result<(), Failure> {
    files::replace(&places.file("agent.jwt"), &format!("{}\n", approved.login))?;
    // An agent begins with it, so that the broker cannot show it an older one.
    files::replace(&places.file("joined-policy.json"), &super::token::json(signed)?)?;
    match (&token.tls, &approved.certificate) {
        (Some(_), Some(certificate)) => files::replace(&places.file("agent-tls.pem"), certificate)?,
        (Some(_), None) => {
            let message = format!("{} was admitted to {} without a certificate", request.agent, grant.org);
            let hint = "the approver needs ca_key in their fleet.toml";
            return Err(Failure::new(Exit::Config, message, hint));
        }
        (None, _) => {}
    }
    Ok(())
}

fn own_tls(places: &Places, token: &JoinToken) -> TlsSettings {
    if token.tls.is_none() {
        return TlsSettings::default();
    }
    TlsSettings {
        required: true,
        ca: Some(places.file("ca.pem")),
        certificate: Some(places.file("agent-tls.pem")),
        key: Some(places.file("agent-tls.key")),
    }
}

/// Sees that the new login and certificate open the broker.
async fn try_login(
    places: &Places,
    token: &JoinToken,
    request: &Request,
    key: &AgentKey,
    approved: &Approved,
) -> Result<(), Failure> {
    let tls = own_tls(places, token);
    if tls.required {
        tls::connector(&tls)
            .map_err(|error| failed(Exit::Config, "the certificate cannot be used")(&error))?;
    }
    let settings = ConnectionSettings {
        urls: token.urls.clone(),
        login: Login::Token { jwt: approved.login.clone(), key: Box::new(key.clone()) },
        tls,
        name: format!("vigie agent {}", request.agent),
        inbox_prefix: Role::Agent.inbox_prefix(&request.agent),
        subscription_capacity: None,
        connect_in_background: false,
    };
    match connected(&settings).await {
        Ok(_) => Ok(()),
        // The agent tries for as long as it takes.
        Err(error @ (ConnectionError::Unreachable { .. } | ConnectionError::Full { .. })) => {
            print::note(&ErrorChain(&error).to_string());
            Ok(())
        }
        Err(error) => {
            Err(failed(Exit::Permission, "the host was admitted, but its credentials do not work")(&error))
        }
    }
}

/// `[fleet]` of the agent's configuration.
fn section(places: &Places, token: &JoinToken, grant: &Grant, request: &Request) -> Result<String, Failure> {
    let file = |name: &str| quoted_path(&places.file(name));
    let mut text = format!(
        "# Written by `vigie fleet join`.\n[fleet]\norg = {}\nagent = {}\nurls = {}\n",
        quoted(&grant.org),
        quoted(request.agent.as_str()),
        quoted_list(token.urls.iter().cloned()),
    );
    if token.tls.is_some() {
        text.push_str(&format!(
            "ca = {}\ncertificate = {}\ncertificate_key = {}\n",
            file("ca.pem")?,
            file("agent-tls.pem")?,
            file("agent-tls.key")?
        ));
    }
    if !grant.groups.is_empty() {
        text.push_str(&format!("groups = {}\n", quoted_list(grant.groups.iter().map(ToString::to_string))));
    }
    text.push_str(&format!(
        "roots = {}\nroot_threshold = {}\npolicy_file = {}\n",
        quoted_list(token.roots.keys.iter().map(ToString::to_string)),
        token.roots.threshold,
        file("joined-policy.json")?
    ));
    Ok(text)
}

fn new_config(places: &Places, tags: &BTreeMap<String, String>, section: &str) -> Result<String, Failure> {
    let text = if places.has_config { files::read(&places.config, MAX_CONFIG_BYTES)? } else { String::new() };
    with_fleet(&text, tags, section).map_err(|problem| {
        let message = format!("{}: {problem}", places.config.display());
        Failure::new(Exit::Config, message, "correct the agent's configuration, and run the command again")
    })
}

/// Puts the new configuration in place, after seeing that the agent would take it.
fn put_config(places: &Places, text: &str) -> Result<(), Failure> {
    if let Some(parent) = places.config.parent() {
        files::directory(parent)?;
    }
    // Beside the old one and with its ending, which says the form.
    let new = places.config.with_extension("joined.toml");
    let _ = std::fs::remove_file(&new);
    files::create(&new, text)?;
    let checked = load(&LoadOptions::at_start(Some(new.clone())), crate::modules::BUILTINS);
    if let Err(problems) = checked {
        let _ = std::fs::remove_file(&new);
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        return Err(Failure::new(Exit::Config, text.join("\n"), "the configuration was not changed"));
    }
    if places.has_config {
        let permissions =
            std::fs::metadata(&places.config).map_err(|error| failed(Exit::Io, "")(&error))?.permissions();
        std::fs::set_permissions(&new, permissions).map_err(|error| failed(Exit::Io, "")(&error))?;
    }
    durable::rename(&new, &places.config)
        .and_then(|()| durable::sync_directory(durable::parent(&places.config)))
        .map_err(|error| failed(Exit::Io, "check its permissions")(&error))
}

/// Starts the service, where a service manager has one.
fn start() -> Result<bool, Failure> {
    let systemctl = |arguments: &[&str]| {
        Command::new("systemctl").args(arguments).stdout(std::process::Stdio::null()).status()
    };
    let has_unit = Path::new("/run/systemd/system").exists()
        && systemctl(&["cat", "vigie.service"]).is_ok_and(|status| status.success());
    if !has_unit {
        return Ok(false);
    }
    for arguments in [["enable", "vigie.service"], ["restart", "vigie.service"]] {
        let status = systemctl(&arguments).map_err(|error| failed(Exit::Unavailable, "")(&error))?;
        if !status.success() {
            let message = format!("systemctl {} failed", arguments.join(" "));
            return Err(Failure::new(Exit::NotWell, message, "see `journalctl -u vigie`"));
        }
    }
    Ok(true)
}
