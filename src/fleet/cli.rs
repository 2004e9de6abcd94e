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
    /// The file that says which fleet and how to reach it [default: $VIGIE_FLEET, or ~/.config/vigie/fleet.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) fleet: Option<PathBuf>,

    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// What to do.
    #[command(subcommand)]
    pub(crate) command: FleetCommand,
}

/// What to do with a fleet.
#[derive(Debug, Subcommand)]
pub(crate) enum FleetCommand {
    /// Run a fleet's broker here, to try it; makes everything that it needs
    #[command(after_help = "\
Examples:
  vigie fleet up                           in .fleet; Ctrl-C stops the broker
  vigie fleet up /tmp/demo --port 4333

Keys, streams and policy stay in the directory; the next start goes on with them.
Exit codes: 0 stopped, 69 there is no nats-server, 75 one runs on this directory already.")]
    Up(UpArgs),

    /// Make the keys, the policy and the broker's configuration of a real fleet
    #[command(after_help = "\
Examples:
  vigie fleet init /root/fleet --org example --url tls://broker.example.org:4222 \\
      --ca /etc/nats/ca.pem --certificate /etc/nats/server.pem --certificate-key /etc/nats/server.key
  vigie fleet init fleet --org example --replicas 3 --url tls://a.example.org:4222 --url tls://b.example.org:4222 \\
      --url tls://c.example.org:4222
  vigie fleet init fleet --org example --root-key alice.pub --root-key bob.pub --root-key carol.pub \\
      --threshold 2 --investigator ann --investigator-key ann.pub

Nothing that is there is overwritten. docs/fleet.md says who holds which file.")]
    Init(Box<InitArgs>),

    /// Look at the whole fleet and say what is wrong, each with what to do
    #[command(after_help = "\
Examples:
  vigie fleet doctor
  vigie fleet doctor --json

Looks at the server, certificates, streams, the policy, silent hosts, clones and clocks; with the keys of
`fleet init` also at who holds connections and who floods.
Exit codes: 0 all is well, 1 something is not.")]
    Doctor,

    /// Show who asked what and who was refused, as the agents reported it
    #[command(after_help = "\
Examples:
  vigie fleet audit --since 1h
  vigie fleet audit --refused --json")]
    Audit(super::audit::AuditArgs),

    /// Write what the broker keeps into a file: policy, enrolments, inventory, standing questions, alerts, audit, answers
    #[command(after_help = "\
Examples:
  vigie fleet backup fleet.backup
  vigie fleet backup policy.backup --stream POLICY --stream ENROL
  vigie fleet backup whole.backup --keys        with the secret keys of `fleet init`: keep it as you keep those

Takes an administrator's file. The file has mode 0600: answers can hold what is private.")]
    Backup(super::backup::BackupArgs),

    /// Put a backup into a broker; all seals and signatures are checked, and nothing that is there is replaced
    #[command(after_help = "\
Examples:
  vigie fleet restore fleet.backup --dry-run
  vigie fleet restore fleet.backup
  vigie fleet restore whole.backup --keys keys         the secret keys into a new directory, and no more

Takes an administrator's file. Given again it goes on where it was.
Exit codes: 0 all of it counts, 4 some was left out, because nobody signed it who may.")]
    Restore(super::backup::RestoreArgs),

    /// Make an agent's key; prints the public half
    #[command(after_help = "\
Examples:
  vigie fleet keygen /var/lib/vigie/fleet/agent.nk

The agent makes one itself at its first start, and `vigie status` shows the public half.")]
    Keygen {
        /// The new file, mode 0600
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },

    /// Let people ask, and no more
    #[command(subcommand)]
    Investigator(super::investigator::InvestigatorCommand),

    /// Pass the alerts of all agents on to sinks, as one of any number of instances that share the work
    #[command(after_help = "\
Examples:
  vigie fleet forward --fleet siem/fleet.toml --sink /etc/vigie/siem.toml
  vigie fleet forward --sink siem.toml --sink chat.toml

CONFIG is a TOML file with [[sink]] sections as in conf/vigie.toml; the sinks must be ones that
acknowledge (RELP, TLS, webhook, otlp, command, file). Takes a forwarder's file, which `vigie fleet
forwarder add` makes. The broker keeps the place: an alert is done when every sink has it, and is given to
another instance when this one ends. Each alert's seal is verified; what does not count is told to the
sinks as an alert of its own. Alerts that a receiver refuses for good are printed on standard output, one
line of JSON each. Exit codes: 0 stopped by SIGTERM or Ctrl-C, 69 the broker cannot be reached, 78 no sink
that can be used.")]
    Forward(super::forward::ForwardArgs),

    /// Let a program take all alerts, and no more
    #[command(subcommand)]
    Forwarder(super::forwarder::ForwarderCommand),

    /// Let the agents of a site speak to a server of their own, a leaf node of the brokers
    #[command(subcommand)]
    Leaf(super::leaf::LeafCommand),

    /// Make, show and end tokens by which hosts join
    #[command(subcommand)]
    Token(super::token::TokenCommand),

    /// Make this host a member by a token: key, enrolment, login, certificate, configuration, start
    #[command(after_help = "\
Examples:
  vigie fleet join vigie-join-…                        on the host, as root; the same line in cloud-init
  vigie fleet join - < token                           not in the list of processes
  vigie fleet join vigie-join-… --name web-1 --wait 10m

Given again it goes on where it was. Exit codes: 0 the host is a member, 3 nobody has decided yet, 77 it is turned
away.")]
    Join(super::join::JoinArgs),

    /// List the hosts that want to join and wait for a person
    #[command(after_help = "\
Examples:
  vigie fleet pending
  vigie fleet pending --json

Compare the key with what `vigie fleet join` shows on the host. Takes an enroller's or administrator's file.")]
    Pending,

    /// Let hosts in that want to join
    #[command(after_help = "\
Examples:
  vigie fleet approve web-1                a person has looked at it
  vigie fleet approve --follow             those whose token lets them in, as they come; renews certificates

Takes an enroller's or administrator's file.")]
    Approve(super::approve::ApproveArgs),

    /// Turn hosts away that want to join
    #[command(after_help = "\
Examples:
  vigie fleet deny web-1 --reason 'not one of ours'")]
    Deny(super::approve::DenyArgs),

    /// Say which key an agent has, and make its token for the broker
    #[command(after_help = "\
Examples:
  vigie fleet enrol web-1                  makes a key too; all files in ./web-1
  vigie fleet enrol web-1 --key U… --group web --tag env=prod --on-host /etc/vigie/fleet
  vigie fleet enrol web-1 --key U… --replace        the host was installed anew

Takes an administrator's file, as init and up write it.")]
    Enrol(Box<EnrolArgs>),

    /// Shut agents out: their answers stop counting, their logins stop working
    #[command(after_help = "\
Examples:
  vigie fleet revoke web-1

Takes an administrator's file. The broker reads its new configuration when it is restarted.")]
    Revoke {
        /// The agents
        #[arg(value_name = "NAME", required = true)]
        agents: Vec<AgentId>,
    },

    /// Show, check, sign and publish the policy: who may ask what
    #[command(subcommand)]
    Policy(PolicyCommand),

    /// Show and stop standing questions, which agents ask again and again, and what differed
    #[command(subcommand)]
    Standing(super::standing::StandingCommand),

    /// Sign an action, or add a signature to one
    #[command(after_help = "\
Examples:
  vigie fleet sign action.json -t 'tag.env == \"prod\"' --expires 1h --out signed.json
  vigie fleet sign signed.json --key ~/.ssh/bob        a second person signs

An action is {\"name\": TEXT, \"target\": TEXT, \"operations\": [{\"module\": NAME, \"parameters\": {…}}, …]}.
A signed one that gets another signature is written back to its file unless --out says otherwise.")]
    Sign(SignArgs),

    /// Say whose signatures an action bears, and whether agents would run it
    #[command(after_help = "\
Examples:
  vigie fleet verify signed.json
  vigie fleet verify signed.json --policy policy.signed.json       without the broker

Exit codes: 0 an agent that it is for would run it, as far as can be known here; 1 it would not.")]
    Verify {
        /// The signed action
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The signed policy to judge by [default: the one that the broker has]
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
    },

    /// Send a signed action
    #[command(after_help = "\
Examples:
  vigie fleet send signed.json
  vigie fleet send signed.json --group web

An action that lists agents goes to them alone, any other to every agent: those that its target does not
mean do not run it. Then: vigie fleet results ID.")]
    Send {
        /// The signed action
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Tell only the agents of this group at once; others for which the target is true find it within minutes
        #[arg(long, value_name = "GROUP")]
        group: Option<GroupName>,
    },

    /// List the agents
    #[command(after_help = "\
Examples:
  vigie fleet agents
  vigie fleet agents -t 'tag.env == \"prod\" && !(module has \"fswatch\")' --online
  vigie fleet agents --facts --json | jq .facts.kernel

What does not count is named: a record that no enrolled key sealed.")]
    Agents(AgentsArgs),

    /// Show the answers to what was asked before
    #[command(after_help = "\
Examples:
  vigie fleet results 5f0c…                what is there
  vigie fleet results 5f0c… --follow --wait all
  vigie fleet results 5f0c… --silent       who has not answered

Exit codes: 0 all answered, 3 some have not, 4 some failed or refused, or a message does not count.")]
    Results(ResultsArgs),
}

/// `fleet up`
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Where everything lies
    #[arg(value_name = "DIR", default_value = ".fleet")]
    pub(crate) directory: PathBuf,

    /// Port of the broker on this machine [default: 4222, or another one when it is taken]
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

    /// Address of the broker as agents see it; may be repeated [default: nats://127.0.0.1:4222]
    #[arg(long = "url", value_name = "URL")]
    pub(crate) urls: Vec<String>,

    /// Address on which the broker listens [default: all, or 127.0.0.1 when the URL says so]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) listen: Option<SocketAddr>,

    /// Directory of the streams on the broker [default: DIR/jetstream]
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,

    /// Path, on the broker, of the CA that signs its certificate and those of its clients
    #[arg(long, value_name = "FILE", requires_all = ["certificate", "certificate_key"])]
    pub(crate) ca: Option<PathBuf>,

    /// Path, on the broker, of its certificate
    #[arg(long, value_name = "FILE", requires = "ca")]
    pub(crate) certificate: Option<PathBuf>,

    /// Path, on the broker, of its certificate's key
    #[arg(long, value_name = "FILE", requires = "ca")]
    pub(crate) certificate_key: Option<PathBuf>,

    /// The first investigator
    #[arg(long, value_name = "NAME", default_value = "investigator")]
    pub(crate) investigator: AgentId,

    /// File with the investigator's public SSH key [default: a new key is made]
    #[arg(long, value_name = "FILE")]
    pub(crate) investigator_key: Option<PathBuf>,

    /// File with a root key's public half; may be repeated [default: a new key is made]
    #[arg(long = "root-key", value_name = "FILE")]
    pub(crate) root_keys: Vec<PathBuf>,

    /// Servers of a cluster, 1, 3 or 5, each with all streams; give an --url for each
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) replicas: u8,

    /// How many root keys must sign a policy
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) threshold: u32,
}

/// `fleet enrol`
#[derive(Debug, Args)]
pub(crate) struct EnrolArgs {
    /// Name of the agent: 1 to 64 letters, digits, - and _
    #[arg(value_name = "NAME")]
    pub(crate) agent: AgentId,

    /// The agent's public key [default: a new key is made, or the one in the directory is taken]
    #[arg(long, value_name = "U…")]
    pub(crate) key: Option<AgentPublicKey>,

    /// Where the agent's files are written [default: a directory of the agent's name]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,

    /// Where they will lie on the agent's host, for the paths in vigie-fleet.toml [default: where they are written]
    #[arg(long, value_name = "DIR")]
    pub(crate) on_host: Option<PathBuf>,

    /// Address of the server that it speaks to, as that of a leaf node; may be repeated [default: the brokers']
    #[arg(long = "url", value_name = "URL")]
    pub(crate) urls: Vec<String>,

    /// A group that the agent is in; may be repeated
    #[arg(long = "group", value_name = "GROUP")]
    pub(crate) groups: Vec<GroupName>,

    /// A tag of the host; may be repeated
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = tag)]
    pub(crate) tags: Vec<(String, String)>,

    /// The agent has another key than before
    #[arg(long)]
    pub(crate) replace: bool,
}

/// `fleet policy`
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Show the policy in force
    #[command(after_help = "\
Examples:
  vigie fleet policy show
  vigie fleet policy show --json > policy.json         to change it: raise version, then sign and publish
  vigie fleet policy show policy.signed.json")]
    Show {
        /// A file instead of what the broker has
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },

    /// Add a root key's signature
    #[command(after_help = "\
Examples:
  vigie fleet policy sign policy.json --key root_key            writes policy.signed.json
  vigie fleet policy sign policy.signed.json --key second_key   adds to it

Works without a network. The key may be in ssh-agent or on a FIDO token: name its .pub file.")]
    Sign {
        /// A policy, or a signed one
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The root key
        #[arg(long, value_name = "KEY")]
        key: PathBuf,
        /// Where the signed policy is written [default: FILE, or FILE with .signed.json at the end]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },

    /// Check a signed policy against the root keys
    #[command(after_help = "\
Examples:
  vigie fleet policy check policy.signed.json

Exit codes: 0 agents would take it, 1 they would not.")]
    Check {
        /// The signed policy
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },

    /// Put a signed policy in force
    #[command(after_help = "\
Examples:
  vigie fleet policy publish policy.signed.json

Takes an administrator's file. Versions never go down.")]
    Publish {
        /// The signed policy
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },

    /// Write the next version of the policy, with keys revoked
    #[command(after_help = "\
Examples:
  vigie fleet policy revoke SHA256:… --out policy.json
  vigie fleet policy sign policy.json --key root_key
  vigie fleet policy publish policy.signed.json

`ssh-keygen -l -f KEY.pub` prints a key's fingerprint.")]
    Revoke {
        /// The keys
        #[arg(value_name = "FINGERPRINT", required = true)]
        keys: Vec<Fingerprint>,
        /// The signed policy to begin with [default: the one that the broker has]
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
        /// The new file, to be signed
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

/// `fleet sign`
#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    /// An action file, or a signed action
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// Which agents it is for [default: the target in the file]
    #[arg(long, short = 't', value_name = "TARGET")]
    pub(crate) target: Option<String>,

    /// The SSH key to sign with; name the .pub file of one in ssh-agent [default: signing_key of the fleet's file]
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<PathBuf>,

    /// For how long agents may begin it [default: expireafter of the file, or 1h]
    #[arg(long, value_name = "TIME", value_parser = crate::durations::positive)]
    pub(crate) expires: Option<Duration>,

    /// Agents run it again and again, at this interval, as long as --expires says, and send what differs
    #[arg(long, value_name = "TIME", requires = "expires", value_parser = crate::durations::positive)]
    pub(crate) every: Option<Duration>,

    /// Where the signed action is written [default: standard output]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// Reads `NAME=VALUE`; the agent's own rule for tags decides.
pub(super) fn tag(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it has no equals sign; write env=prod")?;
    match vigie_config::files::tag_problem(name, value) {
        Some(problem) => Err(problem.to_owned()),
        None => Ok((name.to_owned(), value.to_owned())),
    }
}

/// Reads a `.pub` file's text.
pub(crate) fn public_key(text: &str) -> Result<PublicKey, String> {
    PublicKey::parse(text.trim()).map_err(|error| error.to_string())
}
