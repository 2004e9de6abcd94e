//! `vigie fleet leaf`: sites whose agents speak to a server of their own, a leaf node of the brokers.
//!
//! | file of `DIR/leaf-NAME/` | holds |
//! |---|---|
//! | `site.json` | the site's agents, and where servers listen |
//! | `leaf.nk` | the key of the site's login, mode 0600; stays here |
//! | `leaf.creds` | the login; mode 0600 |
//! | `nats-server.conf` | the configuration of the site's server |
//! | `ca.pem`, `server.pem`, `server.key` | its certificate, when the fleet has an authority of its own |
//!
//! The key of the site's account is `keys/site-NAME.seed`; `keys/site-NAME.agents` names the agents that it may speak
//! for.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use vigie_files::secret_file;
use vigie_fleet::agent_key::{AgentKey, AgentPublicKey};
use vigie_fleet::broker::client::address::{Address, BadAddress};
use vigie_fleet::broker::jwt::{Authority, credentials_text};
use vigie_fleet::broker::leaf::{
    self, LeafSettings, MAX_AGENTS, MAX_AGENTS_OF_ALL, Site, agents_file, seed_file,
};
use vigie_fleet::broker::local::{LocalTls, load_or_create_authority, load_sites};
use vigie_fleet::certificates::{Authority as CertificateAuthority, CertificateError};
use vigie_protocol::names::AgentId;

use super::enrol::{self, server_configs, shut_out};
use super::files::{self, failed};
use super::profile::Profile;
use super::{setup, token};
use crate::exit::{Exit, Failure};
use crate::print::Printer;

/// Largest file about a site, in bytes.
const MAX_SITE_BYTES: usize = 1 << 20;

/// `fleet leaf`
#[derive(Debug, Subcommand)]
pub(crate) enum LeafCommand {
    /// Create a site or add agents to it: credentials for the brokers and the configuration of its server
    #[command(after_help = "\
Examples:
  vigie fleet leaf add paris web-1 web-2 --url tls://nats.paris.example.org:4222
  vigie fleet leaf add paris web-3                        add an agent to an existing site
  vigie fleet leaf add dmz gate-1 --url tls://10.1.2.3:4222 --hub tls://broker.example.org:7422 --on-host /etc/nats

At the brokers, the site's server has the permissions of its agents and no others. Copy the output directory
to the site's server and run: nats-server -c nats-server.conf. For a new site, restart the brokers with their new
configuration; when an agent is added, a reload is enough. Requires an administrator's fleet file.")]
    Add(AddArgs),

    /// Remove agents from a site, or remove the site
    #[command(after_help = "\
Examples:
  vigie fleet leaf remove paris web-2
  vigie fleet leaf remove paris

Takes effect at once if the brokers run on this host. Requires an administrator's fleet file.")]
    Remove {
        /// The site
        #[arg(value_name = "SITE")]
        site: AgentId,
        /// Agents to remove from the site [default: remove the site]
        #[arg(value_name = "AGENT")]
        agents: Vec<AgentId>,
    },
}

/// `fleet leaf add`
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// The site
    #[arg(value_name = "SITE")]
    site: AgentId,

    /// Names of agents at the site
    #[arg(value_name = "AGENT", required = true)]
    agents: Vec<AgentId>,

    /// Address of the site's server as seen by its agents; required for a new site
    #[arg(long, value_name = "URL")]
    url: Option<String>,

    /// Address where the brokers accept leaf nodes; one per server of a cluster [default: the brokers'
    /// addresses with port 7422]
    #[arg(long = "hub", value_name = "URL")]
    hubs: Vec<String>,

    /// Final directory on the site's server, for the paths in its configuration [default: the output
    /// directory]
    #[arg(long, value_name = "DIR")]
    on_host: Option<PathBuf>,
}

/// What is known of a site.
#[derive(Debug, Serialize, Deserialize)]
struct SiteFile {
    site: AgentId,
    agents: BTreeSet<AgentId>,
    url: String,
    hubs: Vec<String>,
    on_host: PathBuf,
}

/// Carries out `fleet leaf`.
pub(super) fn run(command: &LeafCommand, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    let directory = profile.authority()?;
    match command {
        LeafCommand::Add(args) => add(args, directory, profile, printer),
        LeafCommand::Remove { site, agents } => remove(site, agents, directory, profile, printer),
    }
}

fn place_of(directory: &Path, site: &AgentId) -> PathBuf {
    directory.join(format!("leaf-{site}"))
}

fn read_site(place: &Path) -> Result<Option<SiteFile>, Failure> {
    let path = place.join("site.json");
    if !fs::exists(&path).unwrap_or(false) {
        return Ok(None);
    }
    let site = serde_json::from_str(&files::read(&path, MAX_SITE_BYTES)?);
    site.map(Some).map_err(|error| {
        let message = format!("{}: {error}", path.display());
        Failure::new(Exit::Config, message, "check that `vigie fleet leaf add` wrote the file")
    })
}

fn address(url: &str) -> Result<Address, Failure> {
    url.parse().map_err(|error: BadAddress| failed(Exit::Usage, "")(&error))
}

fn keys_of(directory: &Path) -> Result<Authority, Failure> {
    if !fs::exists(directory.join("keys/operator.seed")).unwrap_or(false) {
        let message = format!("there is no keys/operator.seed in {}", directory.display());
        return Err(Failure::new(Exit::Config, message, "run it where the broker's keys are stored"));
    }
    load_or_create_authority(directory)
        .map_err(|error| failed(Exit::Config, "run it where the broker's keys are stored")(&error))
}

/// The addresses for leaf nodes that belong to those of clients.
fn default_hubs(urls: &[String]) -> Result<Vec<String>, Failure> {
    let hub = |url: &String| {
        let address = address(url)?;
        let host = if address.host.contains(':') { format!("[{}]", address.host) } else { address.host };
        Ok(format!("{}://{host}:{}", if address.tls { "tls" } else { "nats" }, leaf::PORT))
    };
    urls.iter().map(hub).collect()
}

fn add(args: &AddArgs, directory: &Path, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    let authority = keys_of(directory)?;
    let place = place_of(directory, &args.site);
    let (mut site, is_new) = match read_site(&place)? {
        Some(known) => (known, false),
        None => {
            let url = args.url.clone().ok_or_else(|| {
                let hint = "give the address of the site's server for its agents: --url tls://HOST:4222";
                Failure::new(Exit::Usage, format!("the site {} does not exist yet", args.site), hint)
            })?;
            let hubs = if args.hubs.is_empty() { default_hubs(profile.urls())? } else { args.hubs.clone() };
            let on_host = args.on_host.clone().unwrap_or_else(|| place.clone());
            let on_host = files::absolute(&on_host)?;
            let site = args.site.clone();
            (SiteFile { site, agents: BTreeSet::new(), url, hubs, on_host }, true)
        }
    };
    if let Some(url) = &args.url {
        site.url.clone_from(url);
    }
    if !args.hubs.is_empty() {
        site.hubs.clone_from(&args.hubs);
    }
    if let Some(on_host) = &args.on_host {
        site.on_host = files::absolute(on_host)?;
    }
    site.agents.extend(args.agents.iter().cloned());
    check(&site, profile)?;
    let others = load_sites(directory).map_err(|error| failed(Exit::Config, "")(&error))?;
    let others: usize =
        others.iter().filter(|one| *one.name() != site.site).map(|one| one.agents().len()).sum();
    if others + site.agents.len() > MAX_AGENTS_OF_ALL {
        let message = format!("{} agents behind leaf nodes", others + site.agents.len());
        let hint =
            format!("a fleet has at most {MAX_AGENTS_OF_ALL} there: connect others directly to the brokers");
        return Err(Failure::new(Exit::Usage, message, hint));
    }
    if is_new {
        files::directory(&place)?;
        let seed = seed_file(&directory.join("keys"), &args.site);
        if !fs::exists(&seed).unwrap_or(false) {
            secret_file::create(
                &seed,
                &format!("{}\n", Site::generate(args.site.clone(), BTreeSet::new()).seed()),
            )
            .map_err(|error| failed(Exit::Io, "nothing is overwritten")(&error))?;
        }
    }
    write_agents(directory, &site)?;
    let restart = open_port(directory, &site)?;
    write_site(&site, &place, directory, &authority, profile)?;
    // The site's account, and whoever sees its answers.
    let in_force = !restart && shut_out(directory, profile, &[], files::now())?;
    if restart {
        enrol::write_tokens(directory, profile, &enrol::revoked(directory)?, files::now())?;
    }
    if printer.is_json() {
        printer.json(&serde_json::json!({
            "site": site.site, "agents": site.agents, "directory": place, "restart": restart, "in_force": in_force,
        }))?;
        return Ok(Exit::Ok);
    }
    let configs: Vec<String> =
        server_configs(directory).iter().map(|path| path.display().to_string()).collect();
    if restart {
        printer
            .line(&format!("restart the brokers with {}, which contains a new site", configs.join(", ")))?;
    } else if !in_force && is_new {
        printer.line(&format!(
            "install {} and reload the brokers: nats-server --signal reload",
            configs.join(", ")
        ))?;
    }
    let tls = if site.url.starts_with("tls://") && profile.enrolling.ca_key.is_none() {
        ", and ca.pem, server.pem and server.key beside it"
    } else {
        ""
    };
    printer.line(&format!(
        "copy {} to the site's server as {}{tls}; there: nats-server -c {}",
        place.display(),
        site.on_host.display(),
        site.on_host.join(enrol::SERVER_CONFIG).display()
    ))?;
    printer.line(&format!("connect its agents to it: vigie fleet enrol NAME --url {}", site.url))?;
    Ok(Exit::Ok)
}

fn check(site: &SiteFile, profile: &Profile) -> Result<(), Failure> {
    if site.agents.len() > MAX_AGENTS {
        let message = format!("{} agents in one site", site.agents.len());
        let hint = format!("the limit is {MAX_AGENTS} per site: create more sites");
        return Err(Failure::new(Exit::Usage, message, hint));
    }
    let own = address(&site.url)?;
    for hub in &site.hubs {
        let hub_address = address(hub)?;
        if hub_address.tls != profile.tls().required {
            let message = format!("{hub:?} does not fit the brokers' addresses");
            return Err(Failure::new(Exit::Usage, message, "use tls:// if the brokers have certificates"));
        }
    }
    if !own.tls && !own.is_local() {
        let message = format!("{:?}: without TLS, agents connect only on their own machine", site.url);
        return Err(Failure::new(Exit::Usage, message, "write tls://HOST:4222"));
    }
    Ok(())
}

/// Opens a port for leaf nodes in the configurations of the brokers; whether one is new, for which a server must be
/// restarted.
fn open_port(directory: &Path, site: &SiteFile) -> Result<bool, Failure> {
    let configs = server_configs(directory);
    if site.hubs.len() != configs.len() && configs.len() > 1 {
        let message = format!("{} servers, but {} addresses for leaf nodes", configs.len(), site.hubs.len());
        return Err(Failure::new(Exit::Usage, message, "give one --hub for each server"));
    }
    let sites = load_sites(directory).map_err(|error| failed(Exit::Config, "")(&error))?;
    let mut new = false;
    for (path, hub) in configs.iter().zip(&site.hubs) {
        let wrong = |problem: String| {
            let message = format!("{}: {problem}", path.display());
            Failure::new(Exit::Config, message, "check that `vigie fleet init` wrote the file")
        };
        let text = files::read(path, 16 << 20)?;
        let mut config: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let admitted = leaf::admit(&mut config, &sites);
        if config["leafnodes"].is_object() {
            if admitted {
                enrol::replace_config(path, &config)?;
                new = true;
            }
            continue;
        }
        let listen: IpAddr = config["host"]
            .as_str()
            .and_then(|host| host.parse().ok())
            .unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let listen = SocketAddr::new(listen, address(hub)?.port);
        leaf::open_port(&mut config, listen);
        enrol::replace_config(path, &config)?;
        new = true;
    }
    Ok(new)
}

/// Writes the names of a site's agents beside its key: what the brokers let through is made of them.
fn write_agents(directory: &Path, site: &SiteFile) -> Result<(), Failure> {
    let names: String = site.agents.iter().map(|agent| format!("{agent}\n")).collect();
    files::replace(&agents_file(&directory.join("keys"), &site.site), &names)
}

/// The key of the site's login.
fn login_key(place: &Path) -> Result<AgentKey, Failure> {
    AgentKey::load_or_create(&place.join("leaf.nk")).map_err(|error| failed(Exit::Io, "")(&error))
}

/// Writes the certificate and key of a server that is reached by this name, and the authority's.
fn give_server_certificate(
    authority: &CertificateAuthority,
    ca: &str,
    host: &str,
    directory: &Path,
    now: i64,
) -> Result<(), Failure> {
    let wrong = |error: CertificateError| failed(Exit::Usage, "check the address in --url")(&error);
    let until = now.saturating_add(setup::PEOPLE_VALID_SECONDS);
    let made = authority.server(&[host.to_owned()], now, until).map_err(wrong)?;
    files::create(&directory.join("ca.pem"), ca)?;
    files::create(&directory.join("server.pem"), &made.certificate)?;
    secret_file::create(&directory.join("server.key"), &made.key)
        .map_err(|error| failed(Exit::Io, "nothing is overwritten")(&error))
}

/// Writes what the site's server needs.
fn write_site(
    site: &SiteFile,
    place: &Path,
    directory: &Path,
    authority: &Authority,
    profile: &Profile,
) -> Result<(), Failure> {
    let now = files::now();
    let key = login_key(place)?;
    let sites = load_sites(directory).map_err(|error| failed(Exit::Config, "")(&error))?;
    let known = sites.iter().find(|known| *known.name() == site.site).ok_or_else(|| {
        let message = format!("keys/site-{}.seed does not exist", site.site);
        Failure::new(Exit::Config, message, "run it where the broker's keys are stored")
    })?;
    let token = known.login(key.public_key(), now);
    files::replace_with(&place.join("leaf.creds"), &credentials_text(&token, &key.seed()), 0o600)?;
    let own = address(&site.url)?;
    let at = |name: &str| site.on_host.join(name);
    let certificates = || LocalTls { ca: at("ca.pem"), certificate: at("server.pem"), key: at("server.key") };
    if (own.tls || profile.tls().required)
        && !fs::exists(place.join("server.pem")).unwrap_or(false)
        && let (Some(ca), Some(authority)) = (&profile.tls().ca, token::authority(profile)?)
    {
        give_server_certificate(&authority, &files::read(ca, 1 << 20)?, &own.host, place, now)?;
    }
    let listen = own.host.parse().ok().filter(|_| own.is_local()).unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let settings = LeafSettings {
        fleet: profile.org.to_string(),
        site: site.site.clone(),
        listen: SocketAddr::new(listen, own.port),
        brokers: site.hubs.clone(),
        directory: site.on_host.clone(),
        credentials: at("leaf.creds"),
        tls: own.tls.then(certificates),
        broker_tls: profile.tls().required.then(certificates),
        now,
    };
    let revoked = enrol::for_tokens(&enrol::revoked(directory)?);
    let config = leaf::leaf_config(&settings, authority, &revoked)
        .map_err(|error| failed(Exit::Usage, "name another --on-host")(&error))?;
    files::replace(&place.join(enrol::SERVER_CONFIG), &format!("{config:#}\n"))?;
    let text = serde_json::to_string_pretty(site)
        .map_err(|error| Failure::new(Exit::Internal, error.to_string(), ""))?;
    files::replace(&place.join("site.json"), &format!("{text}\n"))
}

fn remove(
    site: &AgentId,
    agents: &[AgentId],
    directory: &Path,
    profile: &Profile,
    printer: &mut Printer,
) -> Result<Exit, Failure> {
    let authority = keys_of(directory)?;
    let place = place_of(directory, site);
    let Some(mut known) = read_site(&place)? else {
        let message = format!("the site {site} does not exist in {}", directory.display());
        return Err(Failure::new(Exit::Usage, message, "give a site created with `vigie fleet leaf add`"));
    };
    if let Some(stranger) = agents.iter().find(|agent| !known.agents.contains(*agent)) {
        let message = format!("{stranger} does not belong to the site {site}");
        return Err(Failure::new(Exit::Usage, message, "leaf-SITE/site.json lists its agents"));
    }
    for agent in agents {
        known.agents.remove(agent);
    }
    let ends = agents.is_empty() || known.agents.is_empty();
    if ends {
        known.agents.clear();
    }
    write_agents(directory, &known)?;
    // The login of a site that ends is shut out as well: its account has nothing left, and goes from the file.
    let gone: Vec<(AgentId, AgentPublicKey)> =
        if ends { vec![(site.clone(), login_key(&place)?.public_key().clone())] } else { Vec::new() };
    let in_force = shut_out(directory, profile, &gone, files::now())?;
    if ends {
        let keys = directory.join("keys");
        let own = ["leaf.creds", "leaf.nk", "site.json"].map(|name| place.join(name));
        for path in own.into_iter().chain([seed_file(&keys, site), agents_file(&keys, site)]) {
            fs::remove_file(&path).map_err(|error| failed(Exit::Io, "")(&error))?;
        }
        enrol::write_tokens(directory, profile, &enrol::revoked(directory)?, files::now())?;
    } else {
        write_site(&known, &place, directory, &authority, profile)?;
    }
    if printer.is_json() {
        printer.json(
            &serde_json::json!({"site": site, "agents": known.agents, "ended": ends, "shut_out": in_force}),
        )?;
        return Ok(Exit::Ok);
    }
    if ends {
        printer.line(&format!("the site {site} was removed"))?;
    } else {
        printer.line(&format!("the site {site} has {} agents left", known.agents.len()))?;
    }
    if !in_force {
        printer.line("the brokers do not know this yet: install their new configuration and reload them")?;
    }
    Ok(Exit::Ok)
}

/// Puts who is shut out into the configurations of the sites' servers; the sites that there are.
pub(super) fn renew(
    directory: &Path,
    authority: &Authority,
    fleet: &str,
    revoked: &[(AgentPublicKey, i64)],
    now: i64,
) -> Result<(), Failure> {
    let sites = load_sites(directory).map_err(|error| failed(Exit::Config, "")(&error))?;
    for site in sites {
        let path = place_of(directory, site.name()).join(enrol::SERVER_CONFIG);
        if !fs::exists(&path).unwrap_or(false) {
            continue;
        }
        let mut config: Value = serde_json::from_str(&files::read(&path, 16 << 20)?).unwrap_or_default();
        if !leaf::renew_leaf_config(&mut config, authority, fleet, now, revoked) {
            let message = format!("{}: it belongs to another fleet", path.display());
            return Err(Failure::new(
                Exit::Config,
                message,
                "check that `vigie fleet leaf add` wrote the file",
            ));
        }
        enrol::replace_config(&path, &config)?;
    }
    Ok(())
}

/// The sites that an agent is of.
pub(super) fn sites_of(directory: &Path, agents: &[AgentId]) -> Result<Vec<AgentId>, Failure> {
    let sites = load_sites(directory).map_err(|error| failed(Exit::Config, "")(&error))?;
    let mut found = Vec::new();
    for site in sites {
        let known = read_site(&place_of(directory, site.name()))?;
        if known.is_some_and(|known| agents.iter().any(|agent| known.agents.contains(agent))) {
            found.push(site.name().clone());
        }
    }
    Ok(found)
}
