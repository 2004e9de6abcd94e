//! A nats-server of one's own in a directory: for development, tests and benchmarks, and as a pattern for a real one.
//!
//! | file | holds |
//! |---|---|
//! | `keys/operator.seed`, `keys/system.seed`, `keys/account-NAME.seed` | secret keys above the users, mode 0600 |
//! | `keys/ROLE.seed` | secret key that makes users of a role, mode 0600 |
//! | `users/ROLE-NAME.creds` | credentials that were made, mode 0600 |
//! | `nats-server.conf` | the server's configuration, written at every start |
//! | `jetstream/` | streams and buckets |
//! | `nats-server.log` | what the server says |

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::connection::{ConnectionSettings, Login, TlsSettings};
use super::jwt::{
    Authority, AuthoritySeeds, BadAuthorityKey, BrokerTokens, Role, RoleSigner, credentials_text,
};
use super::leaf::{self, Site};
use super::permissions::{Account, MAX_CONNECTIONS};
use crate::agent_key::{AgentKey, AgentPublicKey};
use vigie_files::random;
use vigie_files::secret_file::{self, SecretFileError};
use vigie_protocol::names::AgentId;

/// Environment variable with the path of the server to run instead of the one in `PATH`.
pub(crate) const SERVER_VARIABLE: &str = "VIGIE_NATS_SERVER";

/// How long the server may take until it listens; it reads its streams first.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How long the server may take to end in good order before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// Between two looks at whether the server listens.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Where free ports are looked for.
const FREE_PORTS: Range<u16> = 10_000..32_768;

/// How many ports are looked at for a free one, and how often another is tried when it was taken meanwhile.
const PORT_DRAWS: usize = 64;
const PORT_TRIES: u32 = 8;

/// Largest file with a seed, in bytes.
const MAX_SEED_BYTES: u64 = 256;

/// What the server says, in the directory.
const LOG: &str = "nats-server.log";

/// Size in bytes at which the server begins a new log and deletes the one before the last.
pub(super) const MAX_LOG_BYTES: u64 = 32 << 20;

/// What of the server's log an error shows, in bytes.
const SHOWN_LOG_BYTES: u64 = 2048;

/// Certificates of the server, in PEM. Clients must show one of the same CA.
#[derive(Debug, Clone)]
pub struct LocalTls {
    /// Who signed the certificates.
    pub ca: PathBuf,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// Its secret key.
    pub key: PathBuf,
}

/// How the server runs.
#[derive(Debug, Clone)]
pub struct LocalBrokerSettings {
    /// Directory for all files of the fleet; made with mode 0700 when it is not there.
    pub directory: PathBuf,
    /// Name of the fleet, for the tokens.
    pub fleet: String,
    /// Address to listen on.
    pub address: IpAddr,
    /// Port to listen on; without it a free one, which restarts keep.
    pub port: Option<u16>,
    /// Most bytes of streams in memory.
    pub max_memory: u64,
    /// Most bytes of streams on disk.
    pub max_file: u64,
    /// Users that are shut out, with the time up to which their tokens were issued, in seconds since 1970 (UTC).
    pub revoked: Vec<(AgentPublicKey, i64)>,
    /// Encrypt, and want certificates of clients.
    pub tls: Option<LocalTls>,
    /// Port for the leaf nodes of sites; without it there are none.
    pub leaf_port: Option<u16>,
    /// Kill the server when the thread that started it ends, however that happens. Uses setpriv(1) of util-linux.
    pub die_with_parent: bool,
    /// The program; without it `SERVER_VARIABLE`, then `nats-server` in `PATH`, `/usr/sbin` or `/usr/local/bin`.
    pub server: Option<PathBuf>,
    /// The time of the tokens, in seconds since 1970 (UTC).
    pub now: i64,
}

impl LocalBrokerSettings {
    /// A server on loopback and a free port that dies with its parent, with room for the default stream sizes.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>, fleet: impl Into<String>, now: i64) -> Self {
        Self {
            directory: directory.into(),
            fleet: fleet.into(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: None,
            max_memory: 256 << 20,
            max_file: 16 << 30,
            revoked: Vec::new(),
            tls: None,
            leaf_port: None,
            die_with_parent: true,
            server: None,
            now,
        }
    }
}

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum LocalBrokerError {
    /// There is no nats-server.
    #[error(
        "nats-server not found: install it, on Debian with `apt-get install nats-server`, or set its path in {SERVER_VARIABLE}"
    )]
    NoServer,
    /// A file or directory cannot be made.
    #[error("cannot write {path:?}")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {path:?}: it belongs to the key beside it")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file with a secret cannot be used.
    #[error("cannot use the keys in {directory:?}")]
    Keys {
        /// The broker's directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: SecretFileError,
    },
    /// A file holds another key than it should.
    #[error("{directory:?} contains an invalid key: remove the directory to start over")]
    BadKey {
        /// The broker's directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: BadAuthorityKey,
    },
    /// A path cannot stand in the server's configuration.
    #[error(
        "the path {0:?} cannot stand in the configuration of nats-server: use one of UTF-8 without control characters"
    )]
    BadPath(PathBuf),
    /// The program cannot be started.
    #[error("cannot start {program:?}: check that it exists and is executable")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended before it listened.
    #[error(
        "nats-server exited at once; is its port in use? Its output:
{log}"
    )]
    Ended {
        /// The end of its log.
        log: String,
    },
    /// It does not listen in time.
    #[error("nats-server is not listening after {} s. Its output:
{log}", READY_WITHIN.as_secs())]
    NotReady {
        /// The end of its log.
        log: String,
    },
    /// It cannot be waited for or signalled.
    #[error("cannot end nats-server with pid {pid}")]
    Unstoppable {
        /// Its process id.
        pid: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The program that would be started, when there is one.
///
/// # Errors
///
/// [`LocalBrokerError::NoServer`]
pub fn find_server() -> Result<PathBuf, LocalBrokerError> {
    if let Some(server) = std::env::var_os(SERVER_VARIABLE).filter(|server| !server.is_empty()) {
        return Some(PathBuf::from(server))
            .filter(|server| server.is_file())
            .ok_or(LocalBrokerError::NoServer);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        // Debian puts it where the PATH of plain users does not lead.
        .chain(["/usr/sbin", "/usr/local/bin"].map(PathBuf::from))
        .map(|directory| directory.join("nats-server"))
        .find(|server| server.is_file())
        .ok_or(LocalBrokerError::NoServer)
}

/// The version of the program that would be started, when there is one. Blocking.
#[must_use]
pub fn installed_version() -> Option<String> {
    let output = std::process::Command::new(find_server().ok()?).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(text.split_whitespace().last()?.trim_start_matches('v').to_owned())
}

/// The configuration of a nats-server: JSON, which its own format includes.
///
/// # Errors
///
/// [`LocalBrokerError::BadPath`]
pub fn server_config(
    settings: &LocalBrokerSettings,
    tokens: &BrokerTokens,
    port: u16,
) -> Result<String, LocalBrokerError> {
    let path = config_path;
    let mut config = json!({
        "server_name": format!("vigie-{}", tokens.system_account.get(..8).unwrap_or_default()),
        "host": settings.address,
        "port": port,
        "ports_file_dir": path(&run_directory(&settings.directory))?,
        "pid_file": path(&run_directory(&settings.directory).join("nats-server.pid"))?,
        "operator": tokens.operator,
        "system_account": tokens.system_account,
        "max_connections": MAX_CONNECTIONS,
        "log_file": path(&settings.directory.join(LOG))?,
        // Each refused publish is a line: a taken host could fill the disk with them.
        "logfile_size_limit": MAX_LOG_BYTES,
        "resolver": "MEMORY",
        "jetstream": {
            "store_dir": path(&settings.directory.join("jetstream"))?,
            "max_mem": settings.max_memory,
            "max_file": settings.max_file,
        },
    });
    config["resolver_preload"] = preload(tokens);
    if let Some(tls) = &settings.tls {
        config["tls"] = server_tls(tls)?;
    }
    if let Some(port) = settings.leaf_port {
        leaf::open_port(&mut config, SocketAddr::new(settings.address, port));
    }
    Ok(format!("{config:#}\n"))
}

/// A path as it stands in a server's configuration.
pub(super) fn config_path(path: &Path) -> Result<String, LocalBrokerError> {
    match path.to_str() {
        // Its parser knows no \u.
        Some(text) if !text.chars().any(char::is_control) => Ok(text.to_owned()),
        _ => Err(LocalBrokerError::BadPath(path.to_owned())),
    }
}

/// The tokens of all accounts as a server's configuration holds them.
pub(super) fn preload(tokens: &BrokerTokens) -> Value {
    let mut preload = serde_json::Map::new();
    preload.insert(tokens.system_account.clone(), Value::from(tokens.system_token.as_str()));
    for account in &tokens.accounts {
        preload.insert(account.key.clone(), Value::from(account.token.as_str()));
    }
    for (key, token) in &tokens.sites {
        preload.insert(key.clone(), Value::from(token.as_str()));
    }
    Value::Object(preload)
}

/// Certificates in a server's configuration.
pub(super) fn server_tls(tls: &LocalTls) -> Result<Value, LocalBrokerError> {
    Ok(json!({
        "ca_file": config_path(&tls.ca)?,
        "cert_file": config_path(&tls.certificate)?,
        "key_file": config_path(&tls.key)?,
        "verify": true,
        // The default of 2 s is short when thousands come back at once.
        "timeout": 10,
    }))
}

fn run_directory(directory: &Path) -> PathBuf {
    directory.join("run")
}

/// A running nats-server. It is killed when this is dropped.
#[derive(Debug)]
pub struct LocalBroker {
    settings: LocalBrokerSettings,
    program: PathBuf,
    signers: LocalKeys,
    port: u16,
    child: Child,
}

/// The keys of a broker's directory.
#[derive(Clone)]
struct LocalKeys(Authority);

impl std::fmt::Debug for LocalKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LocalKeys")
    }
}

impl LocalBroker {
    /// Writes what the server needs, keeping keys and streams that are there, starts it, and returns when it listens.
    ///
    /// # Errors
    ///
    /// See [`LocalBrokerError`].
    pub async fn start(settings: LocalBrokerSettings) -> Result<Self, LocalBrokerError> {
        let program = match &settings.server {
            Some(server) => server.clone(),
            None => find_server()?,
        };
        let authority = load_or_create_authority(&settings.directory)?;
        let mut tries = PORT_TRIES;
        let (child, port) = loop {
            let port = settings.port.unwrap_or_else(|| free_port(settings.address));
            match spawn(&settings, &program, &authority, port).await {
                Ok(child) => break (child, port),
                // Somebody was faster.
                Err(LocalBrokerError::Ended { log })
                    if settings.port.is_none() && tries > 0 && log.contains("address already in use") =>
                {
                    tries -= 1;
                }
                Err(error) => return Err(error),
            }
        };
        Ok(Self { settings, program, signers: LocalKeys(authority), port, child })
    }

    /// Where clients connect: `nats://…` or `tls://…`.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.settings.tls.is_some() { "tls" } else { "nats" };
        format!("{scheme}://{}", SocketAddr::new(self.settings.address, self.port))
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// The directory of everything.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.settings.directory
    }

    /// Makes users of a role.
    #[must_use]
    pub fn signer(&self, role: Role) -> RoleSigner {
        self.signers.0.signer(role)
    }

    /// Settings for a user with a fresh key that is in no file.
    #[must_use]
    pub fn connection_settings(&self, role: Role, name: &AgentId) -> ConnectionSettings {
        let key = AgentKey::generate();
        let jwt = self.signer(role).user(name, key.public_key(), self.settings.now, None);
        ConnectionSettings {
            urls: vec![self.url()],
            login: Login::Token { jwt, key: Box::new(key) },
            tls: TlsSettings {
                required: self.settings.tls.is_some(),
                ca: self.settings.tls.as_ref().map(|tls| tls.ca.clone()),
                ..TlsSettings::default()
            },
            name: name.to_string(),
            inbox_prefix: role.inbox_prefix(name),
            subscription_capacity: None,
            connect_in_background: false,
        }
    }

    /// The credentials file of a user of this name, made with a fresh key when it is not there.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn credentials_file(&self, role: Role, name: &AgentId) -> Result<PathBuf, LocalBrokerError> {
        let directory = self.settings.directory.join("users");
        make_directory(&directory)?;
        let path = directory.join(format!("{}-{name}.creds", role.name()));
        if !path.exists() {
            let key = AgentKey::generate();
            let user = self.signer(role).user(name, key.public_key(), self.settings.now, None);
            secret_file::create(&path, &credentials_text(&user, &key.seed())).map_err(|source| {
                LocalBrokerError::Keys { directory: self.settings.directory.clone(), source }
            })?;
        }
        Ok(path)
    }

    /// Kills the server (SIGKILL) and returns when it is gone.
    ///
    /// # Errors
    ///
    /// When the system cannot do that.
    pub async fn kill(&mut self) -> Result<(), LocalBrokerError> {
        let pid = self.child.id().unwrap_or_default();
        self.child.kill().await.map_err(|source| LocalBrokerError::Unstoppable { pid, source })
    }

    /// Ends the server in good order (SIGTERM), or kills it when that takes too long, and returns when it is gone.
    ///
    /// # Errors
    ///
    /// When the system cannot do that.
    pub async fn stop(&mut self) -> Result<(), LocalBrokerError> {
        let Some(pid) = self.child.id() else { return Ok(()) };
        let unstoppable = |source| LocalBrokerError::Unstoppable { pid, source };
        if let Ok(raw) = i32::try_from(pid) {
            // The child was not waited for yet, so the number is still its own.
            kill(Pid::from_raw(raw), Signal::SIGTERM).map_err(|errno| unstoppable(errno.into()))?;
        }
        match tokio::time::timeout(STOP_WITHIN, self.child.wait()).await {
            Ok(result) => result.map(drop).map_err(unstoppable),
            Err(_) => self.kill().await,
        }
    }

    /// Starts the server again on the same port, with the same streams. Ends it first when it runs.
    ///
    /// # Errors
    ///
    /// See [`LocalBrokerError`].
    pub async fn restart(&mut self) -> Result<(), LocalBrokerError> {
        self.stop().await?;
        self.child = spawn(&self.settings, &self.program, &self.signers.0, self.port).await?;
        Ok(())
    }

    /// Returns when the server has ended by itself.
    ///
    /// # Errors
    ///
    /// When the system cannot tell.
    pub async fn ended(&mut self) -> Result<(), LocalBrokerError> {
        let pid = self.child.id().unwrap_or_default();
        self.child.wait().await.map(drop).map_err(|source| LocalBrokerError::Unstoppable { pid, source })
    }
}

fn make_directory(path: &Path) -> Result<(), LocalBrokerError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| LocalBrokerError::Unwritable { path: path.to_owned(), source })
}

/// The keys in a broker's directory; those that are missing are made.
///
/// # Errors
///
/// When a file cannot be read or written, or holds another key.
pub fn load_or_create_authority(directory: &Path) -> Result<Authority, LocalBrokerError> {
    let keys = directory.join("keys");
    make_directory(&keys)?;
    let fresh = Authority::generate().seeds();
    let seed = |name: &str, fresh: &str| {
        let path = keys.join(format!("{name}.seed"));
        match secret_file::read(&path, MAX_SEED_BYTES) {
            Ok(text) => Ok(text.trim_end().to_owned()),
            Err(SecretFileError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                secret_file::create(&path, &format!("{fresh}\n")).map(|()| fresh.to_owned())
            }
            Err(error) => Err(error),
        }
        .map_err(|source| LocalBrokerError::Keys { directory: directory.to_owned(), source })
    };
    let each = |names: [String; 6], fresh: &[String; 6]| -> Result<[String; 6], LocalBrokerError> {
        let mut seeds = fresh.clone();
        for (kept, name) in seeds.iter_mut().zip(names) {
            *kept = seed(&name, kept)?;
        }
        Ok(seeds)
    };
    let seeds = AuthoritySeeds {
        operator: seed("operator", &fresh.operator)?,
        system: seed("system", &fresh.system)?,
        accounts: each(Account::ALL.map(|account| format!("account-{}", account.name())), &fresh.accounts)?,
        roles: each(Role::ALL.map(|role| role.name().to_owned()), &fresh.roles)?,
    };
    Authority::from_seeds(&seeds)
        .map_err(|source| LocalBrokerError::BadKey { directory: directory.to_owned(), source })
}

/// The sites whose keys lie in a broker's directory, by name.
///
/// # Errors
///
/// When a file cannot be read, or holds another key.
pub fn load_sites(directory: &Path) -> Result<Vec<Site>, LocalBrokerError> {
    let keys = directory.join("keys");
    let mut names: Vec<AgentId> = fs::read_dir(&keys)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let file = entry.file_name();
            file.to_str()?.strip_prefix(leaf::SEED_PREFIX)?.strip_suffix(".seed")?.parse().ok()
        })
        .collect();
    names.sort();
    let load = |name: AgentId| {
        let path = leaf::seed_file(&keys, &name);
        let seed = secret_file::read(&path, MAX_SEED_BYTES)
            .map_err(|source| LocalBrokerError::Keys { directory: directory.to_owned(), source })?;
        let path = leaf::agents_file(&keys, &name);
        let agents = fs::read_to_string(&path)
            .map_err(|source| LocalBrokerError::Unreadable { path: path.clone(), source })?;
        let agents = agents.lines().filter_map(|line| line.trim().parse().ok()).collect();
        Site::from_seed(name, agents, seed.trim_end())
            .map_err(|source| LocalBrokerError::BadKey { directory: directory.to_owned(), source })
    };
    names.into_iter().map(load).collect()
}

/// A port that nobody listens on now. It lies below those that the kernel gives to clients (from 32768, ip(7)): while
/// the server is down, one of its own clients could get the port, and the server would not come back.
fn free_port(address: IpAddr) -> u16 {
    let draw = || {
        u16::try_from(random::number() % u64::from(FREE_PORTS.end - FREE_PORTS.start))
            .map_or(FREE_PORTS.start, |n| FREE_PORTS.start + n)
    };
    let free = |port: &u16| TcpListener::bind((address, *port)).is_ok();
    std::iter::repeat_with(draw).take(PORT_DRAWS).find(free).unwrap_or_else(draw)
}

/// Writes the configuration, starts the server and waits until it listens.
async fn spawn(
    settings: &LocalBrokerSettings,
    program: &Path,
    authority: &Authority,
    port: u16,
) -> Result<Child, LocalBrokerError> {
    let directory = &settings.directory;
    let run = run_directory(directory);
    make_directory(&run)?;
    let config = directory.join("nats-server.conf");
    let sites = load_sites(directory)?;
    let tokens = authority.tokens(&settings.fleet, settings.now, &settings.revoked, &sites);
    let mut text = server_config(settings, &tokens, port)?;
    if !sites.is_empty() {
        let mut config: Value = serde_json::from_str(&text).unwrap_or_default();
        leaf::admit(&mut config, &sites);
        text = format!("{config:#}\n");
    }
    let unwritable = |path: &Path| {
        let path = path.to_owned();
        move |source| LocalBrokerError::Unwritable { path, source }
    };
    fs::write(&config, text).map_err(unwritable(&config))?;
    let log_path = directory.join(LOG);
    let log = File::options().create(true).append(true).open(&log_path).map_err(unwritable(&log_path))?;
    let begins_at = log.metadata().map_or(0, |metadata| metadata.len());
    let errors = log.try_clone().map_err(unwritable(&log_path))?;

    let mut command = if settings.die_with_parent {
        // setpriv asks for the death signal and becomes the server.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    let mut child = command
        .arg("-c")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        // Ctrl-C is for whoever started it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| LocalBrokerError::Spawn { program: program.to_owned(), source })?;

    // The server names the file after its process, so one of an earlier life is never taken for it.
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let ports_file = run.join(format!("{name}_{}.ports", child.id().unwrap_or_default()));
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let ready = async {
        loop {
            tokio::select! {
                _ = child.wait() => return None,
                _ = looks.tick() => {
                    if is_listening(&ports_file) {
                        return Some(());
                    }
                }
            }
        }
    };
    match tokio::time::timeout(READY_WITHIN, ready).await {
        Ok(Some(())) => Ok(child),
        Ok(None) => Err(LocalBrokerError::Ended { log: end_of_log(&log_path, begins_at) }),
        Err(_) => Err(LocalBrokerError::NotReady { log: end_of_log(&log_path, begins_at) }),
    }
}

/// Whether a server's ports file, `{"nats": ["nats://127.0.0.1:4222", …], …}`, is whole. It is written when the
/// server listens.
fn is_listening(path: &Path) -> bool {
    fs::read(path)
        .ok()
        .and_then(|text| serde_json::from_slice::<Value>(&text).ok())
        .is_some_and(|ports| ports["nats"][0].is_string())
}

/// What the server said since this place in its log, or the end of that.
fn end_of_log(path: &Path, from: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(SHOWN_LOG_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(SHOWN_LOG_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).trim_end().to_owned()
}
