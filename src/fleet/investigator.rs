//! `vigie fleet investigator`: people who ask. What they may ask is the policy, which root keys sign; what is made here
//! beside it is their login for the broker.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use vigie_files::secret_file;
use vigie_fleet::broker::jwt::{Role, user_of};
use vigie_fleet::broker::local::load_or_create_authority;
use vigie_fleet::policy::{
    DEFAULT_RULE, Investigator, InvestigatorKey, Policy, PolicyDocument, Rule, StandingRule,
};
use vigie_fleet::signature::PublicKey;
use vigie_protocol::names::AgentId;

use super::files::{self, failed};
use super::profile::Profile;
use super::setup::{self, Person};
use super::{enrol, policy, token};
use crate::exit::{Exit, Failure};
use crate::print::{self, Printer};

/// `fleet investigator`
#[derive(Debug, Subcommand)]
pub(crate) enum InvestigatorCommand {
    /// Add an investigator: create credentials for the broker and a new, unsigned policy with the public key
    #[command(after_help = "\
Examples:
  vigie fleet investigator add bob --key bob.pub --out policy.json
  vigie fleet investigator add eve --key eve.pub --module netstat --module processes --out policy.json
  vigie fleet policy sign policy.json --key root_key
  vigie fleet policy publish policy.signed.json

Requires an administrator's fleet file.")]
    Add(AddArgs),

    /// Remove an investigator: create a new, unsigned policy without the keys and invalidate the credentials
    #[command(after_help = "\
Examples:
  vigie fleet investigator remove bob --out policy.json
  vigie fleet policy sign policy.json --key root_key
  vigie fleet policy publish policy.signed.json

The new policy revokes the investigator's keys. Requires an administrator's fleet file.")]
    Remove {
        /// Who
        #[arg(value_name = "NAME")]
        name: AgentId,
        /// Output file for the new, unsigned policy
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

/// `fleet investigator add`
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Who
    #[arg(value_name = "NAME")]
    name: AgentId,

    /// File with the investigator's public SSH key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// A module that the investigator may query; may be repeated [default: all modules without a separate
    /// rule]
    #[arg(long = "module", value_name = "MODULE")]
    modules: Vec<String>,

    /// Weight of the signature; the weights of all signers must reach the minimum of the rule
    #[arg(long, value_name = "N", default_value_t = 1)]
    weight: u32,

    /// Also allow standing queries (`vigie query … --every`)
    #[arg(long)]
    standing: bool,

    /// Output file for the new, unsigned policy
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Carries out `fleet investigator`.
pub(super) fn run(
    command: &InvestigatorCommand,
    profile: &Profile,
    printer: &mut Printer,
) -> Result<Exit, Failure> {
    let directory = profile.authority()?;
    match command {
        InvestigatorCommand::Add(args) => add(args, directory, profile, printer),
        InvestigatorCommand::Remove { name, out } => remove(name, out, directory, profile, printer),
    }
}

/// Writes the next version; it must be one that agents would take once it is signed.
fn write(next: &PolicyDocument, out: &Path) -> Result<(), Failure> {
    let text = policy::document_text(next)?;
    Policy::parse_unsigned(&text, &next.org)
        .map_err(|error| failed(Exit::Usage, "give every person their own key")(&error))?;
    files::create(out, &text)
}

fn add(args: &AddArgs, directory: &Path, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    let key = setup::key_of(&args.key)?;
    let next = with(policy::of(None, profile)?.document(), args, key)?;
    let own = directory.join(args.name.as_str());
    if own.exists() {
        let message = format!("{} already exists", own.display());
        return Err(Failure::new(
            Exit::Usage,
            message,
            "existing files are not overwritten; use another name, or move it away",
        ));
    }
    write(&next, &args.out)?;
    let authority = load_or_create_authority(directory)
        .map_err(|error| failed(Exit::Config, "run it where the broker's keys are stored")(&error))?;
    files::directory(&own)?;
    let now = files::now();
    setup::credentials(&authority, Role::Investigator, &args.name, &own, now)?;
    let tls = profile.tls().ca.is_some();
    if let (Some(ca), Some(certificates)) = (&profile.tls().ca, token::authority(profile)?) {
        setup::give_certificate(&certificates, &files::read(ca, 1 << 20)?, args.name.as_str(), &own, now)?;
    }
    let person = Person { org: profile.org.as_str(), urls: profile.urls(), roots: &profile.roots, tls };
    files::create(&own.join("fleet.toml"), &person.investigator(args.name.as_str(), None))?;
    let (file, version) = (own.join("fleet.toml"), next.version);
    if printer.is_json() {
        printer.json(&serde_json::json!({"investigator": args.name, "file": file, "policy": args.out, "version": version}))?;
    } else {
        printer.line(&format!("give {} to {}", own.display(), args.name))?;
        printer.line(&format!(
            "{} contains version {version}; next: vigie fleet policy sign {0} --key ROOT_KEY",
            args.out.display()
        ))?;
    }
    Ok(Exit::Ok)
}

/// The next version, with somebody in it.
fn with(document: &PolicyDocument, args: &AddArgs, key: PublicKey) -> Result<PolicyDocument, Failure> {
    let mut next = document.clone();
    next.version = next.version.saturating_add(1);
    let name = args.name.to_string();
    if next.investigators.contains_key(&name) {
        let message = format!("{name} is already an investigator");
        return Err(Failure::new(
            Exit::Usage,
            message,
            "change their keys in the policy: vigie fleet policy show --json",
        ));
    }
    let keys = vec![InvestigatorKey { key, not_before: None, not_after: None, touch: false }];
    next.investigators.insert(name.clone(), Investigator { keys, groups: Vec::new() });
    let default = vec![DEFAULT_RULE.to_owned()];
    for module in if args.modules.is_empty() { &default } else { &args.modules } {
        let rule = next.acl.entry(module.clone()).or_insert_with(|| {
            // A module that had no rule of its own: who may ask it by the default still may.
            document
                .acl
                .get(DEFAULT_RULE)
                .cloned()
                .unwrap_or(Rule { minimum_weight: 1, investigators: Default::default() })
        });
        rule.investigators.insert(name.clone(), args.weight);
    }
    if args.standing {
        next.standing.get_or_insert_with(|| StandingRule::of(Default::default())).investigators.insert(name);
    }
    Ok(next)
}

/// The next version, without somebody. His keys are revoked, so that they count nowhere.
fn without(document: &PolicyDocument, name: &str) -> Option<PolicyDocument> {
    let mut next = document.clone();
    next.version = next.version.saturating_add(1);
    let gone = next.investigators.remove(name)?;
    for rule in next.acl.values_mut() {
        rule.investigators.remove(name);
    }
    if let Some(standing) = &mut next.standing {
        standing.investigators.remove(name);
    }
    for key in gone.keys {
        let fingerprint = key.key.fingerprint().clone();
        if !next.revoked.contains(&fingerprint) {
            next.revoked.push(fingerprint);
        }
    }
    Some(next)
}

/// Ends the login of somebody whose directory is here; whether the servers know it already.
pub(super) fn end_login(name: &AgentId, directory: &Path, profile: &Profile) -> Result<bool, Failure> {
    let credentials = directory.join(name.as_str()).join("broker.creds");
    let login = secret_file::read(&credentials, 1 << 16).ok();
    let user = login.as_deref().and_then(|text| text.lines().find_map(user_of));
    match user {
        Some(user) => enrol::shut_out(directory, profile, &[(name.clone(), user.key)], files::now()),
        None => {
            print::note(&format!(
                "the broker still accepts the credentials of {name}: {} does not exist",
                credentials.display()
            ));
            Ok(false)
        }
    }
}

fn remove(
    name: &AgentId,
    out: &Path,
    directory: &Path,
    profile: &Profile,
    printer: &mut Printer,
) -> Result<Exit, Failure> {
    let current = policy::of(None, profile)?;
    let next = without(current.document(), name.as_str()).ok_or_else(|| {
        let message = format!("{name} is not an investigator");
        Failure::new(Exit::Usage, message, "`vigie fleet policy show` lists the investigators")
    })?;
    write(&next, out)?;
    let shut_out = end_login(name, directory, profile)?;
    if printer.is_json() {
        let line = serde_json::json!({"investigator": name, "policy": out, "version": next.version, "shut_out": shut_out});
        printer.json(&line)?;
    } else {
        printer.line(&format!(
            "{} contains version {} without {name}; next: vigie fleet policy sign {0} --key ROOT_KEY",
            out.display(),
            next.version
        ))?;
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use vigie_fleet::signature::SigningKey;

    use super::*;

    fn document() -> PolicyDocument {
        let key = |seed: u8| SigningKey::from_seed(&[seed; 32]).public_key().clone();
        serde_json::from_value(serde_json::json!({
            "v": 1, "org": "example", "version": 4, "roots": {"keys": [key(1)], "threshold": 1},
            "investigators": {"ann": {"keys": [{"key": key(2)}]}},
            "acl": {"default": {"minimum_weight": 1, "investigators": {"ann": 1}}},
        }))
        .unwrap()
    }

    fn args(modules: &[&str]) -> AddArgs {
        AddArgs {
            name: "bob".parse().unwrap(),
            key: PathBuf::new(),
            modules: modules.iter().map(|module| (*module).to_owned()).collect(),
            weight: 2,
            standing: true,
            out: PathBuf::new(),
        }
    }

    #[test]
    fn somebody_comes_and_goes_and_others_keep_what_they_may() {
        let key = SigningKey::from_seed(&[3; 32]).public_key().clone();
        let next = with(&document(), &args(&[]), key.clone()).unwrap();
        assert_eq!((next.version, next.acl["default"].investigators["bob"]), (5, 2));
        assert!(next.standing.as_ref().unwrap().investigators.contains("bob"));
        let module = with(&document(), &args(&["netstat"]), key.clone()).unwrap();
        assert_eq!(module.acl["netstat"].investigators.len(), 2, "ann still may");
        assert!(!module.acl["default"].investigators.contains_key("bob"));
        assert!(with(&next, &args(&[]), key.clone()).is_err());

        let gone = without(&next, "bob").unwrap();
        assert_eq!((gone.version, gone.revoked.as_slice()), (6, &[key.fingerprint().clone()][..]));
        assert!(
            !gone.investigators.contains_key("bob") && !gone.acl["default"].investigators.contains_key("bob")
        );
        assert!(Policy::parse_unsigned(&policy::document_text(&gone).unwrap(), "example").is_ok());
        assert!(without(&gone, "bob").is_none());
    }
}
