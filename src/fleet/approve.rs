//! `vigie fleet pending`, `approve` and `deny`: who decides about hosts that want to join, and renews logins and
//! certificates of agents.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use vigie_fleet::broker::stored::StoredError;
use vigie_fleet::join::Decision;

use super::admission_desk::{AdmissionDesk, Waiting};
use super::files::{self, failed};
use super::profile::Profile;
use super::token::ENROLLER;
use crate::exit::{Exit, Failure};
use crate::print::{self, Printer, safe};

/// Pause between two looks for new requests.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Pause after the broker did not answer.
const RETRY: Duration = Duration::from_secs(2);

/// `fleet approve`
#[derive(Debug, Args)]
pub(crate) struct ApproveArgs {
    /// Names or keys of the hosts [default: all hosts whose token allows automatic approval]
    #[arg(value_name = "NAME|KEY")]
    hosts: Vec<String>,

    /// Keep running: approve hosts with automatic approval, and renew credentials and certificates
    #[arg(long, conflicts_with = "hosts")]
    follow: bool,

    /// Lifetime of new credentials; agents renew them in time [default: until revoked]
    #[arg(long, value_name = "TIME", value_parser = crate::durations::positive)]
    login_valid: Option<Duration>,
}

/// `fleet deny`
#[derive(Debug, Args)]
pub(crate) struct DenyArgs {
    /// Names or keys of the hosts
    #[arg(value_name = "NAME|KEY", required = true)]
    hosts: Vec<String>,

    /// Reason that is shown on the host
    #[arg(long, value_name = "TEXT", default_value = "an administrator denied it")]
    reason: String,
}

/// What happened to a host.
#[derive(Debug, Serialize)]
struct Line<'a> {
    agent: &'a str,
    key: String,
    /// `joined`, `denied`, `renewed` or `waits`.
    what: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    /// When it asked, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    asked: Option<i64>,
}

fn show(waiting: &Waiting, what: &str, reason: Option<&str>, printer: &mut Printer) -> Result<(), Failure> {
    let request = &waiting.checked.request;
    let line = Line {
        agent: request.agent.as_str(),
        key: request.key.text(),
        what,
        hostname: Some(&request.hostname),
        token: Some(&waiting.checked.grant.id),
        reason,
        asked: Some(waiting.stored),
    };
    if printer.is_json() {
        return printer.json(&line);
    }
    let since = print::duration(u64::try_from(files::now().saturating_sub(waiting.stored)).unwrap_or(0));
    let reason = reason.map_or_else(String::new, |reason| format!(": {}", safe(reason)));
    printer.line(&format!(
        "{:20} {what:7} {}  host {}, token {}, requested {since} ago{reason}",
        line.agent,
        line.key,
        safe(&request.hostname),
        waiting.checked.grant.id,
    ))
}

fn unavailable(error: &StoredError) -> Failure {
    failed(Exit::Unavailable, ENROLLER)(error)
}

/// Carries out `fleet pending`.
pub(super) fn pending(profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    files::block_on(async {
        let mut desk = AdmissionDesk::open(profile, None).await?;
        desk.read().await.map_err(|error| unavailable(&error))?;
        let waiting = desk.undecided().await.map_err(|error| unavailable(&error))?;
        for one in &waiting {
            let reason = match desk.decide(one, false) {
                Decision::Ask(reason) => reason.to_owned(),
                Decision::Refuse(reason) => reason,
                Decision::Admit | Decision::Again(_) => {
                    "its token permits approval: `vigie fleet approve`".to_owned()
                }
            };
            show(one, "waits", Some(&reason), printer)?;
        }
        if waiting.is_empty() && !printer.is_json() {
            printer.line("no host waits")?;
        }
        Ok(Exit::Ok)
    })
}

/// The requests that are meant; each must be one host's.
fn meant(waiting: Vec<Waiting>, hosts: &[String]) -> Result<Vec<Waiting>, Failure> {
    let mut found: BTreeMap<String, Vec<Waiting>> = BTreeMap::new();
    for one in waiting {
        let request = &one.checked.request;
        let (name, key) = (request.agent.to_string(), request.key.text());
        if let Some(host) = hosts.iter().find(|host| **host == name || **host == key) {
            found.entry(host.clone()).or_default().push(one);
        }
    }
    for host in hosts {
        match found.get(host).map_or(0, Vec::len) {
            0 => {
                let message = format!("no host {host} is pending");
                return Err(Failure::new(Exit::Usage, message, "`vigie fleet pending` lists pending hosts"));
            }
            1 => {}
            count => {
                let message = format!("{count} hosts request the name {host}");
                let hint = "give the key of the right host; compare it with the key that `vigie fleet join` shows there";
                return Err(Failure::new(Exit::Usage, message, hint));
            }
        }
    }
    Ok(found.into_values().flatten().collect())
}

/// Carries out `fleet approve`.
pub(super) fn approve(args: &ApproveArgs, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    files::block_on(async {
        let mut desk = AdmissionDesk::open(profile, args.login_valid).await?;
        if args.follow {
            return follow(&mut desk, printer).await;
        }
        desk.read().await.map_err(|error| unavailable(&error))?;
        let mut waiting = desk.undecided().await.map_err(|error| unavailable(&error))?;
        let by_person = !args.hosts.is_empty();
        if by_person {
            waiting = meant(waiting, &args.hosts)?;
        }
        let mut exit = Exit::Ok;
        for one in &waiting {
            match desk.settle(one, by_person).await? {
                Settled::Joined => show(one, "joined", None, printer)?,
                Settled::Denied(reason) => {
                    exit = Exit::NotWell;
                    show(one, "denied", Some(&reason), printer)?;
                }
                Settled::Waits(reason) => show(one, "waits", Some(reason), printer)?,
            }
        }
        Ok(exit)
    })
}

/// What became of a request.
pub(super) enum Settled {
    /// The host is in.
    Joined,
    /// It is turned away, and why.
    Denied(String),
    /// A person has to look, and why.
    Waits(&'static str),
}

/// Decides about whoever comes, until it is ended. A broker that is away is waited for.
async fn follow(desk: &mut AdmissionDesk<'_>, printer: &mut Printer) -> Result<Exit, Failure> {
    let mut waits: HashSet<String> = HashSet::new();
    let mut failing: HashMap<String, u32> = HashMap::new();
    loop {
        let looked = async {
            desk.read().await.map_err(|error| unavailable(&error))?;
            let undecided = desk.undecided().await.map_err(|error| unavailable(&error))?;
            for one in &undecided {
                let key = one.checked.request.key.text();
                match desk.settle(one, false).await {
                    Ok(Settled::Joined) => show(one, "joined", None, printer)?,
                    Ok(Settled::Denied(reason)) => show(one, "denied", Some(&reason), printer)?,
                    // Once for each.
                    Ok(Settled::Waits(reason)) if waits.insert(key.clone()) => {
                        show(one, "waits", Some(reason), printer)?;
                    }
                    Ok(Settled::Waits(_)) => {}
                    // One host that cannot be let in keeps nobody else out.
                    Err(failure) if failure.exit == Exit::Unavailable => return Err(failure),
                    Err(failure) => {
                        let count = failing.entry(key).or_default();
                        if *count == 0 {
                            print::problem(&format!("{}: {}", one.checked.request.agent, failure.message));
                        }
                        *count += 1;
                    }
                }
            }
            for (agent, key) in desk.renew().await? {
                if printer.is_json() {
                    let line = Line {
                        agent: agent.as_str(),
                        key,
                        what: "renewed",
                        hostname: None,
                        token: None,
                        reason: None,
                        asked: None,
                    };
                    printer.json(&line)?;
                } else {
                    printer.line(&format!("{:20} renewed {key}", agent.as_str()))?;
                }
            }
            Ok::<_, Failure>(())
        };
        match looked.await {
            Ok(()) => tokio::time::sleep(LOOK_EVERY).await,
            Err(failure) if failure.exit == Exit::Unavailable => {
                print::problem(&failure.message);
                tokio::time::sleep(RETRY).await;
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// Carries out `fleet deny`.
pub(super) fn deny(args: &DenyArgs, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    files::block_on(async {
        let mut desk = AdmissionDesk::open(profile, None).await?;
        desk.read().await.map_err(|error| unavailable(&error))?;
        let waiting = desk.undecided().await.map_err(|error| unavailable(&error))?;
        for one in meant(waiting, &args.hosts)? {
            desk.deny(&one, &args.reason, true).await?;
            show(&one, "denied", Some(&args.reason), printer)?;
        }
        Ok(Exit::Ok)
    })
}
