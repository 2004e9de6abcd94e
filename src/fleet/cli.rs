//! The command line of `vigie fleet`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use vigie_fleet::agent_key::AgentPublicKey;
use vigie_fleet::signature::{Fingerprint, PublicKey};
use vigie_protocol::names::{AgentId, GroupName};

use super::list::AgentsArgs;
use super::results::ResultsArgs;

/// `fleet`
#[derive(Debug, Args)]
pub(crate) struct FleetArgs {
    /// The file that names the fleet and defines how to reach it [default: $VIGIE_FLEET, or
    /// ~/.config/vigie/fleet.toml]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Fleet options")]
    pub(crate) fleet: Option<PathBuf>,

    /// Print JSON
    #[arg(long, global = true, help_heading = "Fleet options")]
    pub(crate) json: bool,

    /// What to do.
    #[command(subcommand)]
    pub(crate) command: FleetCommand,
}

/// What to do with a fleet.
#[derive(Debug, Subcommand)]
pub(crate) enum FleetCommand {
    /// Create a test fleet and run its broker in the foreground
    #[command(after_help = "\
Examples:
  vigie fleet up                           use .fleet; Ctrl-C stops the broker
  vigie fleet up /tmp/demo --port 4333

Keys, streams and policy stay in the directory and are used again by the next start.
Exit codes: 0 stopped, 69 nats-server not found, 75 the directory is already in use.")]
    Up(UpArgs),

    /// Create keys, policy and broker configuration for a production fleet
    #[command(after_help = "\
Examples:
  vigie fleet init /root/fleet --org example --url tls://broker.example.org:4222 \\
      --ca /etc/nats/ca.pem --certificate /etc/nats/server.pem --certificate-key /etc/nats/server.key
  vigie fleet init fleet --org example --replicas 3 --url tls://a.example.org:4222 --url tls://b.example.org:4222 \\
      --url tls://c.example.org:4222
  vigie fleet init fleet --org example --root-key alice.pub --root-key bob.pub --root-key carol.pub \\
      --threshold 2 --investigator ann --investigator-key ann.pub

Existing files are never overwritten. docs/fleet.md lists who keeps which file.")]
    Init(Box<InitArgs>),

    /// Check the whole fleet for problems and suggest remedies
    #[command(after_help = "\
Examples:
  vigie fleet doctor
  vigie fleet doctor --json

Checks the server, certificates, streams, the policy, silent hosts, duplicate identities and clocks. With the
keys of `fleet init` it also checks for clients that hold many connections or flood the broker.
Exit codes: 0 no problem found, 1 at least one problem found.")]
    Doctor,

    /// Show who queried what and who was refused, as reported by the agents
    #[command(after_help = "\
Examples:
  vigie fleet audit --since 1h
  vigie fleet audit --refused --json")]
    Audit(super::audit::AuditArgs),

    /// Save the broker's data to a file: policy, enrolments, inventory, standing queries, alerts, audit,
    /// results
    #[command(after_help = "\
Examples:
  vigie fleet backup fleet.backup
  vigie fleet backup policy.backup --stream POLICY --stream ENROL
  vigie fleet backup whole.backup --keys   includes the secret keys of `fleet init`; protect the file

Requires an administrator's fleet file. The backup has mode 0600, because results can contain private data.")]
    Backup(super::backup::BackupArgs),

    /// Restore a backup to a broker; checks all seals and signatures and replaces no existing data
    #[command(after_help = "\
Examples:
  vigie fleet restore fleet.backup --dry-run
  vigie fleet restore fleet.backup
  vigie fleet restore whole.backup --keys keys     only write the secret keys to a new directory

Requires an administrator's fleet file. Running it again resumes where it stopped.
Exit codes: 0 all entries restored, 4 entries without a valid signature were left out.")]
    Restore(super::backup::RestoreArgs),

    /// Create an agent's key pair and print the public key
    #[command(after_help = "\
Examples:
  vigie fleet keygen /var/lib/vigie/fleet/agent.nk

The agent creates a key at its first start; `vigie status` shows the public key.")]
    Keygen {
        /// The file to create, with mode 0600
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },

    /// Add and remove investigators, who may only send queries
    #[command(subcommand)]
    Investigator(super::investigator::InvestigatorCommand),

    /// Forward the alerts of all agents to sinks; several instances can share the work
    #[command(after_help = "\
Examples:
  vigie fleet forward --fleet siem/fleet.toml --sink /etc/vigie/siem.toml
  vigie fleet forward --sink siem.toml --sink chat.toml

CONFIG is a TOML file with [[sink]] sections as in conf/vigie.toml. The sinks must be of a kind that
acknowledges: RELP, TLS, webhook, otlp, command or file. Requires a forwarder's fleet file, which `vigie fleet
forwarder add` creates. The broker tracks the progress: an alert is done when every sink has acknowledged it,
and is redelivered to another instance if this one ends. The seal of each alert is verified; an invalid seal is
itself reported to the sinks as an alert. Alerts that a receiver rejects permanently are printed to standard
output as JSON, one per line. Exit codes: 0 stopped by SIGTERM or Ctrl-C, 69 the broker cannot be reached,
78 no usable sink.")]
    Forward(super::forward::ForwardArgs),

    /// Add and remove forwarders, which may only read alerts
    #[command(subcommand)]
    Forwarder(super::forwarder::ForwarderCommand),

    /// Add and remove sites, whose agents connect through their own leaf node server
    #[command(subcommand)]
    Leaf(super::leaf::LeafCommand),

    /// Create, show and revoke join tokens
    #[command(subcommand)]
    Token(super::token::TokenCommand),

    /// Join this host to a fleet with a token: key, enrolment, credentials, certificate, configuration, start
    #[command(after_help = "\
Examples:
  vigie fleet join vigie-join-…            on the host as root, also from cloud-init
  vigie fleet join - < token               keeps the token out of the process list
  vigie fleet join vigie-join-… --name web-1 --wait 10m

Running it again resumes the join. Exit codes: 0 the host is a member, 3 no decision yet, 77 denied.")]
    Join(super::join::JoinArgs),

    /// List hosts whose join requests await a decision
    #[command(after_help = "\
Examples:
  vigie fleet pending
  vigie fleet pending --json

Compare the key with the one that `vigie fleet join` shows on the host. Requires an enroller's or
administrator's fleet file.")]
    Pending,

    /// Approve join requests
    #[command(after_help = "\
Examples:
  vigie fleet approve web-1                approve one host by hand
  vigie fleet approve --follow             approve hosts as their tokens allow; renew certificates

Requires an enroller's or administrator's fleet file.")]
    Approve(super::approve::ApproveArgs),

    /// Deny join requests
    #[command(after_help = "\
Examples:
  vigie fleet deny web-1 --reason 'not one of ours'")]
    Deny(super::approve::DenyArgs),

    /// Enrol an agent's key by hand and create its credentials for the broker
    #[command(after_help = "\
Examples:
  vigie fleet enrol web-1                  create a key too; all files in ./web-1
  vigie fleet enrol web-1 --key U… --group web --tag env=prod --on-host /etc/vigie/fleet
  vigie fleet enrol web-1 --key U… --replace        after the host was reinstalled

Requires an administrator's fleet file, as written by init and up.")]
    Enrol(Box<EnrolArgs>),

    /// Revoke agents: reject their answers and invalidate their credentials
    #[command(after_help = "\
Examples:
  vigie fleet revoke web-1

Requires an administrator's fleet file. The broker uses its new configuration after a restart.")]
    Revoke {
        /// The agents
        #[arg(value_name = "NAME", required = true)]
        agents: Vec<AgentId>,
    },

    /// Show, check, sign and publish the policy, which defines who may query what
    #[command(subcommand)]
    Policy(PolicyCommand),

    /// Show and stop standing queries, which agents repeat, and their differences
    #[command(subcommand)]
    Standing(super::standing::StandingCommand),

    /// Sign an action, or add a signature to one
    #[command(after_help = "\
Examples:
  vigie fleet sign action.json -t 'tag.env == \"prod\"' --expires 1h --out signed.json
  vigie fleet sign signed.json --key ~/.ssh/bob        a second person signs

An action is {\"name\": TEXT, \"target\": TEXT, \"operations\": [{\"module\": NAME, \"parameters\": {…}}, …]}.
When a signature is added to a signed action, the file is rewritten unless --out is given.")]
    Sign(SignArgs),

    /// Show who signed an action and whether agents would run it
    #[command(after_help = "\
Examples:
  vigie fleet verify signed.json
  vigie fleet verify signed.json --policy policy.signed.json       without the broker

Exit codes: 0 a target agent would run it, as far as can be determined here; 1 it would refuse.")]
    Verify {
        /// The signed action
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The signed policy to apply [default: the broker's policy]
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
    },

    /// Send a signed action
    #[command(after_help = "\
Examples:
  vigie fleet send signed.json
  vigie fleet send signed.json --group web

An action that lists agents is sent only to them. Any other action is sent to every agent, and agents that do
not match its target ignore it. Then: vigie fleet results ID.")]
    Send {
        /// The signed action
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Notify only agents of this group at once; other matching agents find the action within minutes
        #[arg(long, value_name = "GROUP")]
        group: Option<GroupName>,
    },

    /// List the agents
    #[command(after_help = "\
Examples:
  vigie fleet agents
  vigie fleet agents -t 'tag.env == \"prod\" && !(module has \"fswatch\")' --online
  vigie fleet agents --facts --json | jq .facts.kernel

Records that are not sealed by an enrolled key are reported as invalid.")]
    Agents(AgentsArgs),

    /// Show the results of earlier queries
    #[command(after_help = "\
Examples:
  vigie fleet results 5f0c…                answers so far
  vigie fleet results 5f0c… --follow --wait all
  vigie fleet results 5f0c… --silent       agents that have not answered

Exit codes: 0 all answered, 3 some have not, 4 some failed or refused, or a message was rejected.")]
    Results(ResultsArgs),
}

/// `fleet up`
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Directory for all files of the fleet
    #[arg(value_name = "DIR", default_value = ".fleet")]
    pub(crate) directory: PathBuf,

    /// Port of the broker on this host [default: 4222, or a free port if 4222 is in use]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
}

/// `fleet init`
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// A new directory
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,

    /// Name of the fleet
    #[arg(long, value_name = "NAME")]
    pub(crate) org: GroupName,

    /// Address of the broker as seen by the agents; may be repeated [default: nats://127.0.0.1:4222]
    #[arg(long = "url", value_name = "URL")]
    pub(crate) urls: Vec<String>,

    /// Address on which the broker listens [default: all interfaces, or 127.0.0.1 if the URL names it]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,

    /// Directory for the streams on the broker [default: DIR/jetstream]
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,

    /// Path, on the broker, of the CA certificate that verifies the certificates of the broker and its
    /// clients
    #[arg(long, value_name = "FILE", requires_all = ["certificate", "certificate_key"])]
    pub(crate) ca: Option<PathBuf>,

    /// Path, on the broker, of its certificate
    #[arg(long, value_name = "FILE", requires = "ca")]
    pub(crate) certificate: Option<PathBuf>,

    /// Path, on the broker, of the private key of its certificate
    #[arg(long, value_name = "FILE", requires = "ca")]
    pub(crate) certificate_key: Option<PathBuf>,

    /// The first investigator
    #[arg(long, value_name = "NAME", default_value = "investigator")]
    pub(crate) investigator: AgentId,

    /// File with the investigator's public SSH key [default: create a key pair]
    #[arg(long, value_name = "FILE")]
    pub(crate) investigator_key: Option<PathBuf>,

    /// File with a public root key; may be repeated [default: create a key pair]
    #[arg(long = "root-key", value_name = "FILE")]
    pub(crate) root_keys: Vec<PathBuf>,

    /// Number of servers in the cluster: 1, 3 or 5, each with all streams; give one --url per server
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) replicas: u8,

    /// Number of root keys that must sign a policy
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) threshold: u32,
}

/// `fleet enrol`
#[derive(Debug, Args)]
pub(crate) struct EnrolArgs {
    /// Name of the agent: 1 to 64 letters, digits, - and _
    #[arg(value_name = "NAME")]
    pub(crate) agent: AgentId,

    /// The agent's public key [default: use the key in the directory, or create one]
    #[arg(long, value_name = "U…")]
    pub(crate) key: Option<AgentPublicKey>,

    /// Output directory for the agent's files [default: a directory named after the agent]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,

    /// Final directory on the agent's host, for the paths in vigie-fleet.toml [default: the output directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) on_host: Option<PathBuf>,

    /// Address of the server to connect to, such as a leaf node; may be repeated [default: the brokers'
    /// addresses]
    #[arg(long = "url", value_name = "URL")]
    pub(crate) urls: Vec<String>,

    /// Group of the agent; may be repeated
    #[arg(long = "group", value_name = "GROUP")]
    pub(crate) groups: Vec<GroupName>,

    /// Tag of the host; may be repeated
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = tag)]
    pub(crate) tags: Vec<(String, String)>,

    /// Replace the key that is already enrolled
    #[arg(long)]
    pub(crate) replace: bool,
}

/// `fleet policy`
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Show the current policy
    #[command(after_help = "\
Examples:
  vigie fleet policy show
  vigie fleet policy show --json > policy.json         to change it: edit, increment version, sign, publish
  vigie fleet policy show policy.signed.json")]
    Show {
        /// Read this file instead of the broker's policy
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },

    /// Sign a policy with a root key
    #[command(after_help = "\
Examples:
  vigie fleet policy sign policy.json --key root_key            writes policy.signed.json
  vigie fleet policy sign policy.signed.json --key second_key   add a second signature

Needs no network. For a key in ssh-agent or on a FIDO token, give its .pub file.")]
    Sign {
        /// A policy, signed or unsigned
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The root key
        #[arg(long, value_name = "KEY")]
        key: PathBuf,
        /// Output file [default: FILE if it is signed, otherwise FILE with the extension .signed.json]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },

    /// Check a signed policy against the root keys
    #[command(after_help = "\
Examples:
  vigie fleet policy check policy.signed.json

Exit codes: 0 agents would accept it, 1 they would reject it.")]
    Check {
        /// The signed policy
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },

    /// Publish a signed policy
    #[command(after_help = "\
Examples:
  vigie fleet policy publish policy.signed.json

Requires an administrator's fleet file. The version must be higher than the current one.")]
    Publish {
        /// The signed policy
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },

    /// Create the next version of the policy with keys revoked
    #[command(after_help = "\
Examples:
  vigie fleet policy revoke SHA256:… --out policy.json
  vigie fleet policy sign policy.json --key root_key
  vigie fleet policy publish policy.signed.json

`ssh-keygen -l -f KEY.pub` prints a key's fingerprint.")]
    Revoke {
        /// Fingerprints of the keys
        #[arg(value_name = "FINGERPRINT", required = true)]
        keys: Vec<Fingerprint>,
        /// The signed policy to start from [default: the broker's policy]
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
        /// Output file for the new, unsigned policy
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },

    /// Write the next version of the policy, with other packs for modules, such as rules of events
    #[command(after_help = "\
Examples:
  vigie fleet policy packs --add events/web=web.toml --out policy.json
  vigie fleet policy packs --remove events/web --out policy.json
  vigie fleet policy sign policy.json --key root_key
  vigie fleet policy publish policy.signed.json

Agents give a module its packs when the policy comes into force, and take them away with it.")]
    Packs(PacksArgs),
}

/// `fleet policy packs`
#[derive(Debug, Args)]
#[group(required = true, multiple = true, args = ["add", "remove"])]
pub(crate) struct PacksArgs {
    /// A pack of this name for a module, in place of one that it has
    #[arg(long, value_name = "MODULE/NAME=FILE", value_parser = pack_file)]
    pub(crate) add: Vec<(PackPlace, PathBuf)>,

    /// A pack that the next version does not have
    #[arg(long, value_name = "MODULE/NAME", value_parser = pack_place)]
    pub(crate) remove: Vec<PackPlace>,

    /// The signed policy to begin with [default: the one that the broker has]
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,

    /// The new file, to be signed
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
}

/// A pack by its module and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PackPlace {
    pub(crate) module: String,
    pub(crate) name: String,
}

fn pack_place(text: &str) -> Result<PackPlace, String> {
    match text.split_once('/') {
        Some((module, name)) if !module.is_empty() && !name.is_empty() => {
            Ok(PackPlace { module: module.to_owned(), name: name.to_owned() })
        }
        _ => Err("write MODULE/NAME, such as events/web".to_owned()),
    }
}

fn pack_file(text: &str) -> Result<(PackPlace, PathBuf), String> {
    let (place, file) =
        text.split_once('=').ok_or("write MODULE/NAME=FILE, such as events/web=web.toml".to_owned())?;
    Ok((pack_place(place)?, file.into()))
}

/// `fleet sign`
#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    /// An action file, or a signed action
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// Target expression [default: the target in the file]
    #[arg(long, short = 't', value_name = "TARGET")]
    pub(crate) target: Option<String>,

    /// The SSH private key to sign with, or the .pub file of a key in ssh-agent [default: signing_key of the
    /// fleet's file]
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<PathBuf>,

    /// How long agents may still start it [default: expireafter of the file, or 1h]
    #[arg(long, value_name = "TIME", value_parser = crate::durations::positive)]
    pub(crate) expires: Option<Duration>,

    /// Make it a standing query: agents repeat it at this interval until --expires and send only the
    /// differences
    #[arg(long, value_name = "TIME", requires = "expires", value_parser = crate::durations::positive)]
    pub(crate) every: Option<Duration>,

    /// Output file for the signed action [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// Reads `NAME=VALUE`; the agent's own rule for tags decides.
pub(super) fn tag(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it has no equals sign; use a form such as env=prod")?;
    match vigie_config::files::tag_problem(name, value) {
        Some(problem) => Err(problem.to_owned()),
        None => Ok((name.to_owned(), value.to_owned())),
    }
}

/// Reads a `.pub` file's text.
pub(crate) fn public_key(text: &str) -> Result<PublicKey, String> {
    PublicKey::parse(text.trim()).map_err(|error| error.to_string())
}
