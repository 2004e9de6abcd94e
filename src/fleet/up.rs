//! `vigie fleet up`: a broker on this machine with all that belongs to it, to try a fleet.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use vigie_fleet::broker::local::{LocalBroker, LocalBrokerError, LocalBrokerSettings, find_server};
use vigie_fleet::broker::streams::{self, StreamSizes};
use vigie_fleet::policy::{MAX_SIGNED_POLICY_BYTES, SignedPolicy};
use vigie_protocol::names::AgentId;

use super::cli::UpArgs;
use super::files::{self, failed};
use super::profile::Profile;
use super::setup::{self, PORT, Plan, SIGNED_POLICY};
use super::{enrol, policy};
use crate::exit::{Exit, Failure};
use crate::print::Printer;

/// The fleet's name.
const ORG: &str = "dev";

/// The investigator when the user's name cannot be one.
const SOMEBODY: &str = "investigator";

/// Ports that are tried when the one of NATS is taken.
const OTHER_PORTS: std::ops::Range<u16> = 14_222..15_222;

/// What runs.
#[derive(Debug, Serialize)]
struct Running {
    url: String,
    directory: PathBuf,
    /// The administrator's file.
    administrator: PathBuf,
    /// The investigator's file.
    investigator: PathBuf,
    /// Process id of nats-server.
    pid: u32,
    policy_version: u64,
}

/// Carries out `fleet up`.
pub(super) fn run(args: &UpArgs, printer: &mut Printer) -> Result<Exit, Failure> {
    find_server().map_err(|error| broker_failed(&error))?;
    let directory = files::absolute(&args.directory)?;
    files::directory(&directory)?;
    let _lock = lock(&directory)?;
    let administrator = directory.join("administrator/fleet.toml");
    if !administrator.exists() {
        make(&directory, args.port)?;
    }
    let profile = Profile::load(Some(&administrator))?;
    let port = port_of(&profile, args.port, &directory)?;
    let investigator = investigator(&directory)?;
    files::block_on(async {
        let mut settings = LocalBrokerSettings::new(&directory, profile.org.as_str(), files::now());
        settings.port = Some(port);
        settings.revoked = enrol::for_tokens(&enrol::revoked(&directory)?);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let mut broker = LocalBroker::start(settings).await.map_err(|error| broker_failed(&error))?;
        let version = prepare(&profile, &directory).await?;
        setup::warn_of_server(&server_version(&profile).await?);
        let running = Running {
            url: broker.url(),
            directory: directory.clone(),
            administrator: administrator.clone(),
            investigator,
            pid: broker.pid().unwrap_or_default(),
            policy_version: version,
        };
        if printer.is_json() {
            printer.json(&running)?;
        } else {
            printer.line(how_to_join(&running).trim_end())?;
        }
        tokio::select! {
            ended = broker.ended() => {
                ended.map_err(|error| broker_failed(&error))?;
                let message = "nats-server has ended";
                let hint = format!("see {}", directory.join("nats-server.log").display());
                return Err(Failure::new(Exit::Unavailable, message, hint));
            }
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hang_up.recv() => {}
        }
        broker.stop().await.map_err(|error| broker_failed(&error))?;
        Ok(Exit::Ok)
    })
}

fn broker_failed(error: &LocalBrokerError) -> Failure {
    let exit = match error {
        LocalBrokerError::NoServer | LocalBrokerError::Ended { .. } | LocalBrokerError::NotReady { .. } => {
            Exit::Unavailable
        }
        _ => Exit::Config,
    };
    failed(exit, "")(error)
}

/// Keeps a second one off the same directory. The kernel lets go of it when this process ends, however it does.
fn lock(directory: &Path) -> Result<Flock<File>, Failure> {
    let path = directory.join("up.lock");
    let unusable = |error: std::io::Error| {
        Failure::new(Exit::Io, format!("cannot write {}: {error}", path.display()), "check its permissions")
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(unusable)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            lock.set_len(0)
                .and_then(|()| lock.rewind())
                .and_then(|()| writeln!(lock, "{}", std::process::id()))
                .map_err(unusable)?;
            Ok(lock)
        }
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            let process = fs::read_to_string(&path).unwrap_or_default();
            let message =
                format!("a fleet is already running on {}, process {}", directory.display(), process.trim());
            Err(Failure::new(
                Exit::AlreadyRunning,
                message,
                "stop it with Ctrl-C there, or give another directory",
            ))
        }
        Err((_, errno)) => Err(unusable(errno.into())),
    }
}

/// Makes the fleet of a new directory. The lock is in it, so the parts are made beside and moved.
fn make(directory: &Path, port: Option<u16>) -> Result<(), Failure> {
    let only_lock = fs::read_dir(directory)
        .is_ok_and(|entries| entries.flatten().all(|entry| entry.file_name() == "up.lock"));
    if !only_lock {
        let message = format!("{} is not empty and contains no fleet", directory.display());
        return Err(Failure::new(
            Exit::Usage,
            message,
            "existing files are not overwritten; give a new directory",
        ));
    }
    let port = port.unwrap_or_else(free_port);
    let new = directory.join("new");
    setup::make(&Plan {
        directory: new.clone(),
        org: ORG.parse().map_err(|error| failed(Exit::Internal, "")(&error))?,
        urls: vec![format!("nats://127.0.0.1:{port}")],
        listen: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
        store: directory.join("jetstream"),
        tls: None,
        own_authority: false,
        replicas: 1,
        investigator: user()?,
        investigator_key: None,
        roots: Vec::new(),
        threshold: 1,
    })?;
    let mut parts: Vec<_> = fs::read_dir(&new)?.collect::<Result<_, _>>()?;
    // The administrator's directory last: it says that all is there.
    parts.sort_by_key(|part| part.file_name() == "administrator");
    for part in parts {
        fs::rename(part.path(), directory.join(part.file_name()))?;
    }
    Ok(fs::remove_dir(new)?)
}

/// Who works here, as far as that is a name.
fn user() -> Result<AgentId, Failure> {
    let taken = ["administrator", "enroller", "keys", "jetstream", "run", "new"];
    std::env::var("USER")
        .ok()
        .filter(|user| !taken.contains(&user.as_str()))
        .and_then(|user| user.parse().ok())
        .map_or_else(|| SOMEBODY.parse().map_err(|error| failed(Exit::Internal, "")(&error)), Ok)
}

fn free_port() -> u16 {
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    // Two that begin at once shall not want the same.
    let skip = std::process::id() as usize % OTHER_PORTS.len();
    let others = OTHER_PORTS.cycle().skip(skip).take(OTHER_PORTS.len());
    std::iter::once(PORT).chain(others).find(free).unwrap_or(PORT)
}

/// The port that the fleet's files name.
fn port_of(profile: &Profile, wanted: Option<u16>, directory: &Path) -> Result<u16, Failure> {
    let url = profile.urls().first().map(String::as_str).unwrap_or_default();
    let local = url.strip_prefix("nats://127.0.0.1:").and_then(|port| port.parse().ok());
    let Some(port) = local else {
        let message = format!("{} is a fleet whose broker is at {url}, not here", directory.display());
        return Err(Failure::new(
            Exit::Usage,
            message,
            "start its broker there with nats-server -c nats-server.conf",
        ));
    };
    match wanted {
        Some(wanted) if wanted != port => {
            let message = format!("the files of {} and its agents name port {port}", directory.display());
            Err(Failure::new(Exit::Usage, message, "omit --port, or give a new directory"))
        }
        _ => Ok(port),
    }
}

/// The investigator's file: beside the administrator's, in a directory of his name.
fn investigator(directory: &Path) -> Result<PathBuf, Failure> {
    let mut files: Vec<_> = fs::read_dir(directory)?
        .flatten()
        .filter(|entry| entry.file_name() != "administrator" && entry.file_name() != "enroller")
        .map(|entry| entry.path().join("fleet.toml"))
        .filter(|file| file.exists())
        .collect();
    files.sort();
    files.into_iter().next().ok_or_else(|| {
        let message = format!("{} contains no investigator's fleet.toml", directory.display());
        Failure::new(Exit::Config, message, "give a new directory")
    })
}

/// Which server runs.
async fn server_version(profile: &Profile) -> Result<String, Failure> {
    let (connection, _events) = profile.connect().await?;
    Ok(connection.client.server().version)
}

/// Makes the streams, and puts the directory's policy in force when it is newer. Says which version is.
async fn prepare(profile: &Profile, directory: &Path) -> Result<u64, Failure> {
    let (connection, _events) = profile.connect().await?;
    streams::ensure(&connection.client, &StreamSizes::default())
        .await
        .map_err(|error| failed(Exit::Unavailable, "check the free space on the disk")(&error))?;
    // One that was published since is kept.
    if let Some(current) = policy::current(&connection, profile).await? {
        return Ok(current.version());
    }
    let text = files::read(&directory.join(SIGNED_POLICY), MAX_SIGNED_POLICY_BYTES)?;
    let signed =
        SignedPolicy::from_json(text.as_bytes()).map_err(|error| failed(Exit::Config, "")(&error))?;
    Ok(policy::publish(&connection, profile, &signed).await?.version)
}

/// The commands that come next.
fn how_to_join(running: &Running) -> String {
    let directory = running.directory.display();
    format!(
        "\
The broker runs at {url}; Ctrl-C stops it.

To admit an agent, in a second terminal (docs/fleet.md describes joining with a token):

  vigie fleet --fleet {administrator} enrol web-1 --out {directory}/agents/web-1
  vigie agent --config {directory}/agents/web-1/vigie-fleet.toml

To query as an investigator:

  export VIGIE_FLEET={investigator}
  vigie fleet agents
  vigie query netstat -t all --listening-port 22
  vigie alerts -f -t all
",
        url = running.url,
        administrator = running.administrator.display(),
        investigator = running.investigator.display(),
    )
}
