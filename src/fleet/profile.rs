//! An investigator's own file: which fleet, how to reach it, with which key to sign.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::mpsc;
use vigie_fleet::broker::connection::{
    self, BrokerEvent, Connection, ConnectionError, ConnectionSettings, Login, TlsSettings,
};
use vigie_fleet::broker::jwt::Role;
use vigie_fleet::policy::Roots;
use vigie_fleet::signature::PublicKey;
use vigie_protocol::error_chain::ErrorChain;
use vigie_protocol::names::{AgentId, GroupName};

use crate::exit::{Exit, Failure};

/// Names the file when `--fleet` does not.
const VARIABLE: &str = "VIGIE_FLEET";

/// Messages that wait in a subscription: the answers of a large fleet at once. What does not fit is fetched.
const SUBSCRIPTION_CAPACITY: usize = 1 << 16;

/// Events of the connection that wait.
const EVENTS: usize = 64;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Mode bits that let others write.
const HINT: &str =
    "`vigie fleet up` creates a test fleet, `vigie fleet init` a production fleet; see docs/fleet.md";

/// The file as it is written; paths are relative to it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProfileFile {
    org: GroupName,
    user: AgentId,
    #[serde(default = "investigator")]
    role: ProfileRole,
    urls: Vec<String>,
    credentials: PathBuf,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    certificate_key: Option<PathBuf>,
    roots: Vec<PublicKey>,
    #[serde(default = "one")]
    root_threshold: u32,
    signing_key: Option<PathBuf>,
    account: Option<String>,
    agent_signer: Option<PathBuf>,
    join_account: Option<String>,
    join_signer: Option<PathBuf>,
    ca_key: Option<PathBuf>,
    enrolment_key: Option<PathBuf>,
    authority: Option<PathBuf>,
    #[serde(default = "one_replica")]
    replicas: u8,
    #[serde(default)]
    targets: BTreeMap<String, String>,
}

/// As whom the broker knows the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ProfileRole {
    Investigator,
    Enroller,
    Administrator,
    Forwarder,
}

fn investigator() -> ProfileRole {
    ProfileRole::Investigator
}

fn one() -> u32 {
    1
}

fn one_replica() -> u8 {
    1
}

/// Which fleet, how to reach it, with which key to sign.
#[derive(Debug, Clone)]
pub(crate) struct Profile {
    /// Name of the fleet.
    pub(crate) org: GroupName,
    /// Who this is, as the broker knows it.
    pub(crate) user: AgentId,
    /// What the broker lets him do.
    pub(crate) role: Role,
    /// Root keys that must have signed the policy.
    pub(crate) roots: Roots,
    /// The key that signs actions when `--key` names none.
    pub(crate) signing_key: Option<PathBuf>,
    /// What it takes to let agents in; an administrator's file has it.
    pub(crate) enrolling: Enrolling,
    /// Saved targets: `-t @NAME` stands for the expression of this name.
    pub(crate) targets: BTreeMap<String, String>,
    connection: ConnectionSettings,
}

/// Where the keys lie that let agents in and shut them out.
#[derive(Debug, Clone)]
pub(crate) struct Enrolling {
    /// Public key of the fleet's account on the broker.
    pub(crate) account: Option<String>,
    /// File with the seed that signs agents' tokens.
    pub(crate) agent_signer: Option<PathBuf>,
    /// Public key of the account of hosts that join, on the broker.
    pub(crate) join_account: Option<String>,
    /// File with the seed that signs the logins of tokens.
    pub(crate) join_signer: Option<PathBuf>,
    /// Key of the fleet's CA, which signs hosts' certificates.
    pub(crate) ca_key: Option<PathBuf>,
    /// SSH key that signs enrolments.
    pub(crate) enrolment_key: Option<PathBuf>,
    /// On how many servers of a cluster each stream lies.
    pub(crate) replicas: u8,
    /// The directory of `vigie fleet init`, with all keys of the broker.
    pub(crate) authority: Option<PathBuf>,
}

/// What to do about a file of the fleet that is not an administrator's.
pub(super) const ADMINISTRATOR: &str =
    "give an administrator's fleet file with --fleet, as written by init and up";

impl Profile {
    /// The directory of `init`, which only an administrator's file names.
    pub(super) fn authority(&self) -> Result<&Path, Failure> {
        self.enrolling.authority.as_deref().ok_or_else(|| {
            Failure::new(
                Exit::Config,
                "the fleet file does not set authority, the directory of init",
                ADMINISTRATOR,
            )
        })
    }

    /// Reads the file that is named, or `$VIGIE_FLEET`, or the user's own.
    pub(crate) fn load(named: Option<&Path>) -> Result<Self, Failure> {
        let path = match named.map(Path::to_owned).or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from)) {
            Some(path) => path,
            None => default_path().ok_or_else(|| {
                Failure::new(Exit::Config, "no home directory to search for fleet.toml", HINT)
            })?,
        };
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Failure::new(
                Exit::Config,
                format!("cannot read the fleet file {}: {error}", path.display()),
                HINT,
            )
        })?;
        Self::parse(&text, path.parent().unwrap_or(Path::new("."))).map_err(|problem| {
            let message = format!("{}: {problem}", path.display());
            Failure::new(Exit::Config, message, "docs/fleet.md describes the file")
        })
    }

    fn parse(text: &str, directory: &Path) -> Result<Self, String> {
        let file: ProfileFile = toml::from_str(text).map_err(|error| error.to_string())?;
        let beside = |path: PathBuf| directory.join(path);
        let roots = Roots { keys: file.roots, threshold: file.root_threshold };
        roots.check().map_err(|error| ErrorChain(&error).to_string())?;
        let role = match file.role {
            ProfileRole::Investigator => Role::Investigator,
            ProfileRole::Enroller => Role::Enroller,
            ProfileRole::Administrator => Role::Administrator,
            ProfileRole::Forwarder => Role::Forwarder,
        };
        let enrolling = Enrolling {
            account: file.account,
            agent_signer: file.agent_signer.map(beside),
            join_account: file.join_account,
            join_signer: file.join_signer.map(beside),
            ca_key: file.ca_key.map(beside),
            enrolment_key: file.enrolment_key.map(beside),
            replicas: file.replicas,
            // Without `..`, because it is shown.
            authority: file.authority.map(beside).map(|path| path.canonicalize().unwrap_or(path)),
        };
        let connection = ConnectionSettings {
            tls: TlsSettings {
                required: file.urls.iter().any(|url| url.starts_with("tls://")),
                ca: file.ca.map(beside),
                certificate: file.certificate.map(beside),
                key: file.certificate_key.map(beside),
            },
            urls: file.urls,
            login: Login::CredentialsFile(beside(file.credentials)),
            name: format!("vigie {}", file.user),
            inbox_prefix: role.inbox_prefix(&file.user),
            subscription_capacity: Some(SUBSCRIPTION_CAPACITY),
            connect_in_background: false,
        };
        let (org, user, targets) = (file.org, file.user, file.targets);
        let signing_key = file.signing_key.map(beside);
        Ok(Self { org, user, role, roots, signing_key, enrolling, targets, connection })
    }

    /// How to connect.
    pub(crate) fn connection(&self) -> &ConnectionSettings {
        &self.connection
    }

    /// Addresses of the brokers.
    pub(crate) fn urls(&self) -> &[String] {
        &self.connection.urls
    }

    /// Certificates for the connection.
    pub(crate) fn tls(&self) -> &TlsSettings {
        &self.connection.tls
    }

    /// Connects to the fleet's broker.
    pub(crate) async fn connect(&self) -> Result<(Connection, mpsc::Receiver<BrokerEvent>), Failure> {
        let (send_events, events) = mpsc::channel(EVENTS);
        let connecting = connection::connect(self.connection.clone(), send_events);
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => Ok((connection, events)),
            Ok(Err(error)) => Err(not_connected(&error)),
            Err(_) => {
                let urls = self.connection.urls.join(", ");
                let message = format!("no broker responds at {urls}");
                Err(Failure::new(Exit::Unavailable, message, "check that it is running and reachable"))
            }
        }
    }
}

fn not_connected(error: &ConnectionError) -> Failure {
    let exit = match error {
        ConnectionError::Unreachable { .. } | ConnectionError::Tls { .. } | ConnectionError::Full { .. } => {
            Exit::Unavailable
        }
        ConnectionError::Refused { .. } => Exit::Permission,
        _ => Exit::Config,
    };
    Failure::new(exit, ErrorChain(error).to_string(), "")
}

/// `$XDG_CONFIG_HOME/vigie/fleet.toml`, as the XDG Base Directory Specification says.
fn default_path() -> Option<PathBuf> {
    let home = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".config")))?;
    Some(home.join("vigie").join("fleet.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFqz1ak4G0bHFKTnHZxXtXbWbPmAVvMJG4yBYTPEmvVZ root-1";

    #[test]
    fn paths_are_relative_to_the_file() {
        let text = format!(
            "org = \"o\"\nuser = \"ann\"\nurls = [\"nats://127.0.0.1:4222\"]\ncredentials = \"ann.creds\"\n\
             roots = [\"{ROOT}\"]\nsigning_key = \"/keys/ann\"\n"
        );

        let profile = Profile::parse(&text, Path::new("/etc/fleet")).unwrap();

        assert_eq!(profile.signing_key.as_deref(), Some(Path::new("/keys/ann")));
        let Login::CredentialsFile(path) = &profile.connection.login else { panic!("not a file") };
        assert_eq!(path, Path::new("/etc/fleet/ann.creds"));
        assert!(!profile.connection.tls.required);
        let with_targets = format!("{text}[targets]\nprod = 'tag.env == \"prod\"'\n");
        let profile = Profile::parse(&with_targets, Path::new("/")).unwrap();
        assert_eq!(profile.targets["prod"], "tag.env == \"prod\"");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let problem = |text: &str| Profile::parse(text, Path::new("/")).unwrap_err();

        assert!(problem("org = \"a.b\"\n").contains("is not a name"), "{}", problem("org = \"a.b\"\n"));
        assert!(problem("colour = 1\n").contains("colour"));
        assert!(problem("").contains("org"));
    }
}
