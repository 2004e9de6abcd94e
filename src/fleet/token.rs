//! `vigie fleet token`: tokens by which hosts join.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use vigie_files::secret_file;
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::broker::client::random_token;
use vigie_fleet::broker::jwt::{Role, RoleSigner};
use vigie_fleet::broker::stored;
use vigie_fleet::certificates::{self, Authority};
use vigie_fleet::join::{
    ANSWER_NAMESPACE, GRANT_NAMESPACE, Grant, JoinToken, MAX_USES, Signed, TokenEnd, TokenTls, VERSION,
};
use vigie_fleet::signature::sign_with_key_file;
use vigie_fleet::subjects;
use vigie_protocol::names::{AgentId, GroupName};

use super::files::{self, failed};
use super::policy;
use super::profile::Profile;
use crate::exit::{Exit, Failure};
use crate::print::Printer;

/// What is to be done by whoever has no such file.
pub(super) const ENROLLER: &str =
    "give an enroller's or administrator's fleet file with --fleet, as written by init and up";

/// `fleet token`
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Create a token and print it
    #[command(after_help = "\
Examples:
  vigie fleet token new                    one host within a day, approved by a person
  vigie fleet token new --approved --uses 500 --valid 7d --names 'web-*' --tag env=prod --group web

The token is a secret: anyone who has it can request to join, and with --approved joins without review.
On the host, also from cloud-init:
  vigie fleet join TOKEN")]
    New(NewArgs),

    /// Show what a token permits
    #[command(after_help = "\
Examples:
  vigie fleet token show vigie-join-…

Reads only the token itself; no connection is needed.")]
    Show {
        /// The token
        #[arg(value_name = "TOKEN")]
        token: String,
    },

    /// Revoke a token; hosts that joined with it remain members
    #[command(after_help = "\
Examples:
  vigie fleet token end 0123456789abcdef0123456789abcdef

Requires an enroller's or administrator's fleet file.")]
    End {
        /// The token or its ID
        #[arg(value_name = "TOKEN|ID")]
        token: String,
    },
}

/// `fleet token new`
#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// Number of hosts that may use it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_USES)))]
    uses: u32,

    /// Validity
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = crate::durations::positive)]
    valid: Duration,

    /// Admit hosts without individual approval; requires `vigie fleet approve --follow` to be running
    #[arg(long)]
    approved: bool,

    /// Pattern for the names of hosts, such as web-* [default: any name]
    #[arg(long, value_name = "PATTERN")]
    names: Option<String>,

    /// Group for hosts that join; may be repeated
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<GroupName>,

    /// Tag for hosts that join; may be repeated
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = super::cli::tag)]
    tags: Vec<(String, String)>,

    /// Write the token to a new file with mode 0600 instead
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Carries out `fleet token`.
pub(super) fn run(
    command: &TokenCommand,
    profile: impl Fn() -> Result<Profile, Failure>,
    printer: &mut Printer,
) -> Result<Exit, Failure> {
    match command {
        TokenCommand::New(args) => new(args, &profile()?, printer),
        TokenCommand::Show { token } => show(token, printer),
        TokenCommand::End { token } => end(token, &profile()?, printer),
    }
}

/// The key that signs what enrollers say.
pub(super) fn sign(profile: &Profile, namespace: &str, text: String) -> Result<Signed, Failure> {
    let key =
        profile.enrolling.enrolment_key.as_deref().ok_or_else(|| {
            Failure::new(Exit::Config, "the fleet file does not set enrolment_key", ENROLLER)
        })?;
    let sig = sign_with_key_file(key, namespace, text.as_bytes())
        .map_err(|error| failed(Exit::Config, "check enrolment_key in the fleet file")(&error))?;
    Ok(Signed { text, sig })
}

/// JSON of what always becomes JSON.
pub(super) fn json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value)
        .map_err(|error| Failure::new(Exit::Internal, format!("it cannot be written: {error}"), ""))
}

/// The fleet's own CA, when the file names one.
pub(super) fn authority(profile: &Profile) -> Result<Option<Authority>, Failure> {
    let Some(key_file) = profile.enrolling.ca_key.as_deref() else { return Ok(None) };
    let hint = "check ca and ca_key in the fleet file";
    let ca = profile
        .tls()
        .ca
        .as_deref()
        .ok_or_else(|| Failure::new(Exit::Config, "the fleet file sets ca_key but not ca", hint))?;
    let key = secret_file::read(key_file, 1 << 20).map_err(|error| failed(Exit::Config, hint)(&error))?;
    let authority = Authority::new(&files::read(ca, 1 << 20)?, &key)
        .map_err(|error| failed(Exit::Config, hint)(&error))?;
    Ok(Some(authority))
}

fn new(args: &NewArgs, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    let needed =
        |what: &str| Failure::new(Exit::Config, format!("the fleet file does not set {what}"), ENROLLER);
    let enrolling = &profile.enrolling;
    let account = enrolling.join_account.as_deref().ok_or_else(|| needed("join_account"))?;
    let signer_file = enrolling.join_signer.as_deref().ok_or_else(|| needed("join_signer"))?;
    let seed = secret_file::read(signer_file, 256).map_err(|error| failed(Exit::Config, ENROLLER)(&error))?;
    let signer = RoleSigner::from_seed(Role::Joiner, account, seed.trim_end()).map_err(|error| {
        failed(Exit::Config, "check join_account and join_signer in the fleet file")(&error)
    })?;
    let policy = policy::of(None, profile)?;
    let now = files::now();
    let key = AgentKey::generate();
    let not_after = now.saturating_add(i64::try_from(args.valid.as_secs()).unwrap_or(i64::MAX));
    let grant = Grant {
        v: VERSION,
        org: profile.org.to_string(),
        id: random_token(),
        key: key.public_key().clone(),
        uses: args.uses,
        not_after,
        approved: args.approved,
        names: args.names.clone(),
        tags: args.tags.iter().cloned().collect(),
        groups: args.groups.clone(),
    };
    let user: AgentId = grant.id.parse().map_err(|error| failed(Exit::Internal, "")(&error))?;
    let tls = match (&profile.tls().ca, authority(profile)?) {
        (Some(ca), Some(authority)) => {
            let wrong = |error: certificates::CertificateError| failed(Exit::Config, "")(&error);
            let key = certificates::new_key().map_err(wrong)?;
            let public = certificates::public_key(&key).map_err(wrong)?;
            let certificate =
                authority.client(&format!("join {}", grant.id), &public, now, not_after).map_err(wrong)?;
            Some(TokenTls { ca: files::read(ca, 1 << 20)?, certificate, key })
        }
        (None, _) => None,
        (Some(_), None) => return Err(needed("ca_key, which issues certificates for hosts")),
    };
    let token = JoinToken {
        grant: sign(profile, GRANT_NAMESPACE, json(&grant)?)?,
        seed: key.seed(),
        login: signer.user(&user, key.public_key(), now, Some(not_after)),
        urls: profile.urls().to_vec(),
        roots: profile.roots.clone(),
        policy_version: policy.version(),
        tls,
    };
    let text = token.to_text();
    // What nobody could use is better found here.
    JoinToken::parse(&text).map_err(|error| failed(Exit::Usage, "")(&error))?;
    if let Some(out) = &args.out {
        secret_file::create(out, &format!("{text}\n"))
            .map_err(|error| failed(Exit::Io, "give a new file")(&error))?;
    }
    if printer.is_json() {
        let shown = args.out.is_none().then_some(&text);
        printer.json(
            &serde_json::json!({"id": grant.id, "token": shown, "file": args.out, "not_after": not_after}),
        )?;
    } else if args.out.is_some() {
        printer.line(&grant.id)?;
    } else {
        printer.line(&text)?;
    }
    Ok(Exit::Ok)
}

fn show(token: &str, printer: &mut Printer) -> Result<Exit, Failure> {
    let (token, grant) = JoinToken::parse(token).map_err(|error| failed(Exit::Usage, "")(&error))?;
    if printer.is_json() {
        printer.json(&serde_json::json!({
            "grant": grant, "urls": token.urls, "policy_version": token.policy_version, "tls": token.tls.is_some(),
        }))?;
        return Ok(Exit::Ok);
    }
    let until = jiff::Timestamp::from_second(grant.not_after).unwrap_or_default();
    let hosts = match (&grant.names, grant.uses) {
        (Some(names), uses) => format!("{uses} hosts named {names}"),
        (None, uses) => format!("{uses} hosts"),
    };
    let how = if grant.approved { "without individual approval" } else { "each approved by a person" };
    printer.line(&format!("{} admits {hosts} to {} until {until}, {how}", grant.id, grant.org))?;
    for (name, value) in &grant.tags {
        printer.line(&format!("tag    {name} = {value:?}"))?;
    }
    for group in &grant.groups {
        printer.line(&format!("group  {group}"))?;
    }
    printer.line(&format!("broker {}", token.urls.join(", ")))?;
    Ok(Exit::Ok)
}

fn end(token: &str, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    let id = match JoinToken::parse(token) {
        Ok((_, grant)) => grant.id,
        Err(_) if token.len() == 32 && token.bytes().all(|byte| byte.is_ascii_hexdigit()) => token.to_owned(),
        Err(error) => return Err(failed(Exit::Usage, "or give its ID, 32 hexadecimal digits")(&error)),
    };
    let end =
        TokenEnd { v: VERSION, org: profile.org.to_string(), ended_token: id.clone(), issued: files::now() };
    let signed = json(&sign(profile, ANSWER_NAMESPACE, json(&end)?)?)?;
    files::block_on(async {
        let (connection, _events) = profile.connect().await?;
        stored::store(&connection.client, &subjects::joined(&id), signed.as_bytes())
            .await
            .map_err(|error| failed(Exit::Unavailable, ENROLLER)(&error))
    })?;
    if printer.is_json() {
        printer.json(&serde_json::json!({"id": id, "ended": true}))?;
    } else {
        printer.line(&format!("{id} is revoked"))?;
    }
    Ok(Exit::Ok)
}
