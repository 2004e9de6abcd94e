//! `vigie fleet policy`, and the policy as the other commands read it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use vigie_fleet::broker::LOOK;
use vigie_fleet::broker::connection::Connection;
use vigie_fleet::broker::stored;
use vigie_fleet::broker::streams::{self, POLICY_VERSIONS, StreamSizes};
use vigie_fleet::policy::{
    self, MAX_SIGNED_POLICY_BYTES, NAMESPACE, Offered, Policy, PolicyDocument, SignedPolicy,
};
use vigie_fleet::signature::{Fingerprint, Unchecked, sign_with_key_file, verify};
use vigie_fleet::subjects::{POLICY, POLICY_SUBJECT};

use super::cli::{PackPlace, PacksArgs, PolicyCommand};
use super::files::{self, failed};
use super::inventory::Inventory;
use super::profile::Profile;
use crate::exit::{Exit, Failure};
use crate::print::{self, Printer, Tone, safe};

/// Ending of the names of signed policies.
const SIGNED: &str = ".signed.json";

/// What publishing did.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Publication {
    /// Version that is in force now.
    pub(super) version: u64,
    /// Whether it was not in force before.
    pub(super) new: bool,
}

/// The newest policy that the broker has and that the root keys of the fleet's file signed. What nobody signed counts
/// as none, and is said.
pub(crate) async fn current(connection: &Connection, profile: &Profile) -> Result<Option<Policy>, Failure> {
    let versions = stored::versions(&connection.client, POLICY, POLICY_SUBJECT, POLICY_VERSIONS)
        .await
        .map_err(|error| failed(Exit::Unavailable, "")(&error))?;
    let (newest, wrong) =
        policy::newest(versions.iter().map(|entry| &entry.value[..]), &profile.roots, profile.org.as_str());
    if newest.is_none()
        && let Some(error) = wrong.last()
    {
        print::note(&format!(
            "the broker's policy is invalid: {error}; if the root keys were changed, set roots in the fleet file to the new ones"
        ));
    }
    Ok(newest)
}

/// The policy of a file, or else the one that the broker has.
pub(super) fn of(file: Option<&Path>, profile: &Profile) -> Result<Policy, Failure> {
    match file {
        Some(file) => {
            let signed = read_signed(file)?;
            policy::verify(&signed, &profile.roots, profile.org.as_str())
                .map_err(|error| in_file(file, &error))
        }
        None => files::block_on(async {
            let (connection, _events) = profile.connect().await?;
            current(&connection, profile).await?.ok_or_else(|| {
                let message = "the broker has no policy, so nobody may query anything";
                Failure::new(Exit::Unavailable, message, "publish one: vigie fleet policy publish FILE")
            })
        }),
    }
}

fn in_file(file: &Path, error: &(dyn std::error::Error + 'static)) -> Failure {
    let failure =
        failed(Exit::Config, "sign it with the root keys: vigie fleet policy sign FILE --key KEY")(error);
    Failure { message: format!("{}: {}", file.display(), failure.message), ..failure }
}

fn read_signed(file: &Path) -> Result<SignedPolicy, Failure> {
    let text = files::read(file, MAX_SIGNED_POLICY_BYTES)?;
    SignedPolicy::from_json(text.as_bytes()).map_err(|error| in_file(file, &error))
}

/// Puts a signed policy in force when it is newer than what the broker has.
pub(super) async fn publish(
    connection: &Connection,
    profile: &Profile,
    signed: &SignedPolicy,
) -> Result<Publication, Failure> {
    let current = current(connection, profile).await?;
    let offered = policy::accept_newer(current.as_ref(), &profile.roots, profile.org.as_str(), signed)
        .map_err(|error| failed(Exit::Config, "nothing was published")(&error))?;
    let policy = match (offered, current) {
        (Offered::Newer(policy), _) => policy,
        (Offered::Same, Some(current)) => return Ok(Publication { version: current.version(), new: false }),
        (Offered::Same, None) => {
            return Err(Failure::new(Exit::Internal, "a policy is the same as none", ""));
        }
    };
    let bytes = serde_json::to_vec(signed).map_err(|error| {
        Failure::new(Exit::Internal, format!("the policy cannot be written: {error}"), "")
    })?;
    stored::store(&connection.client, POLICY_SUBJECT, &bytes).await.map_err(|error| {
        failed(Exit::Unavailable, "check that this is an administrator's fleet file (--fleet)")(&error)
    })?;
    Ok(Publication { version: policy.version(), new: true })
}

/// The streams of a fleet, on as many servers as its file says.
pub(super) fn sizes(profile: &Profile) -> StreamSizes {
    StreamSizes { replicas: profile.enrolling.replicas, ..StreamSizes::default() }
}

/// Tells all agents that are there to fetch the new policy; others look within minutes.
async fn tell_agents(connection: &Connection, profile: &Profile) -> Result<(), Failure> {
    let inventory = Inventory::load(connection, profile).await?;
    let told = super::publish::tell(connection, &inventory, inventory.agents.keys(), LOOK).await;
    connection
        .client
        .flush(Duration::from_secs(30))
        .await
        .map_err(|error| failed(Exit::Unavailable, "agents find the policy within two minutes")(&error))?;
    print::note(&format!("notified {told} agents"));
    Ok(())
}

/// Adds a root key's signature to a policy.
pub(super) fn add_signature(mut signed: SignedPolicy, key: &Path) -> Result<SignedPolicy, Failure> {
    let signature = sign_with_key_file(key, NAMESPACE, signed.policy.as_bytes())
        .map_err(|error| failed(Exit::Config, "give a root key with --key")(&error))?;
    let signer = |armored: &str| Unchecked::parse(armored).ok().map(|one| one.claimed_key().clone());
    let new = signer(&signature);
    if signed.sigs.iter().any(|old| signer(old) == new) {
        let message = format!("{} has already signed this policy", key.display());
        return Err(Failure::new(Exit::Usage, message, "another root key must sign"));
    }
    signed.sigs.push(signature);
    Ok(signed)
}

/// Carries out `fleet policy`.
pub(super) fn run(
    command: &PolicyCommand,
    profile: impl Fn() -> Result<Profile, Failure>,
    printer: &mut Printer,
) -> Result<Exit, Failure> {
    match command {
        PolicyCommand::Show { file } => {
            let policy = of(file.as_deref(), &profile()?)?;
            show(&policy, printer)
        }
        PolicyCommand::Sign { file, key, out } => sign(file, key, out.as_deref()),
        PolicyCommand::Check { file } => check(file, &profile()?, printer),
        PolicyCommand::Publish { file } => {
            let profile = profile()?;
            let signed = read_signed(file)?;
            let done = files::block_on(async {
                let (connection, _events) = profile.connect().await?;
                // A new broker has no streams, and one of an older version other ones.
                streams::ensure(&connection.client, &sizes(&profile))
                    .await
                    .map_err(|error| failed(Exit::Unavailable, "")(&error))?;
                let done = publish(&connection, &profile, &signed).await?;
                if done.new {
                    tell_agents(&connection, &profile).await?;
                }
                Ok(done)
            })?;
            if printer.is_json() {
                printer.json(&done)?;
            } else if done.new {
                printer.line(&format!(
                    "version {} is in force; connected agents have it within seconds",
                    done.version
                ))?;
            } else {
                printer.line(&format!("version {} was in force already", done.version))?;
            }
            Ok(Exit::Ok)
        }
        PolicyCommand::Packs(args) => packs(args, &profile()?),
        PolicyCommand::Revoke { keys, policy, out } => {
            let policy = of(policy.as_deref(), &profile()?)?;
            let next = revoked(policy.document(), keys);
            let text = document_text(&next)?;
            Policy::parse_unsigned(&text, &next.org)
                .map_err(|error| failed(Exit::Usage, "give the policy other root keys first")(&error))?;
            files::create(out, &text)?;
            print::note(&format!(
                "{} contains version {}; next: vigie fleet policy sign {0} --key ROOT_KEY",
                out.display(),
                next.version
            ));
            Ok(Exit::Ok)
        }
    }
}

/// Carries out `fleet policy packs`.
fn packs(args: &PacksArgs, profile: &Profile) -> Result<Exit, Failure> {
    let policy = of(args.policy.as_deref(), profile)?;
    let mut next = policy.document().clone();
    next.version = next.version.saturating_add(1);
    for PackPlace { module, name } in &args.remove {
        let found = next.packs.get_mut(module).and_then(|packs| packs.remove(name));
        if found.is_none() {
            let message = format!("the policy has no pack {module}/{name}");
            return Err(Failure::new(Exit::Usage, message, "vigie fleet policy show lists them"));
        }
        next.packs.retain(|_, packs| !packs.is_empty());
    }
    for (PackPlace { module, name }, file) in &args.add {
        let text = files::read(file, MAX_SIGNED_POLICY_BYTES)?;
        // Agents would report it as a condition, each for itself.
        if module == vigie_events::NAME {
            vigie_events::check_rules(&text).map_err(|problems| {
                let message = format!("{}: {}", file.display(), problems.join("; "));
                Failure::new(Exit::Config, message, "docs/events.md has the form of rules")
            })?;
        }
        next.packs.entry(module.clone()).or_default().insert(name.clone(), text);
    }
    let text = document_text(&next)?;
    Policy::parse_unsigned(&text, &next.org)
        .map_err(|error| failed(Exit::Usage, "nothing was written")(&error))?;
    files::create(&args.out, &text)?;
    print::note(&format!(
        "{} contains version {}; next: vigie fleet policy sign {0} --key ROOT_KEY",
        args.out.display(),
        next.version
    ));
    Ok(Exit::Ok)
}

/// The next version, in which these keys are not trusted any more.
fn revoked(document: &PolicyDocument, keys: &[Fingerprint]) -> PolicyDocument {
    let mut next = document.clone();
    next.version = next.version.saturating_add(1);
    for key in keys {
        if !next.revoked.contains(key) {
            next.revoked.push(key.clone());
        }
    }
    next
}

/// A policy as people read and change it.
pub(super) fn document_text(document: &PolicyDocument) -> Result<String, Failure> {
    serde_json::to_string_pretty(document)
        .map(|text| format!("{text}\n"))
        .map_err(|error| Failure::new(Exit::Internal, format!("the policy cannot be written: {error}"), ""))
}

/// `policy.json` becomes `policy.signed.json`.
fn signed_path(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(".json").unwrap_or(&name);
    file.with_file_name(format!("{stem}{SIGNED}"))
}

fn sign(file: &Path, key: &Path, out: Option<&Path>) -> Result<Exit, Failure> {
    let text = files::read(file, MAX_SIGNED_POLICY_BYTES)?;
    let (signed, own_place) = match serde_json::from_str::<SignedPolicy>(&text) {
        Ok(signed) => (signed, file.to_owned()),
        Err(_) => (SignedPolicy { policy: text, sigs: Vec::new() }, signed_path(file)),
    };
    // Whoever signs what no agent takes finds out now.
    let hint = "nothing was signed; correct it first";
    let document =
        PolicyDocument::parse(&signed.policy).map_err(|error| failed(Exit::Config, hint)(&error))?;
    Policy::parse_unsigned(&signed.policy, &document.org)
        .map_err(|error| failed(Exit::Config, hint)(&error))?;
    let signed = add_signature(signed, key)?;
    let place = out.unwrap_or(&own_place);
    files::replace(place, &signed_text(&signed)?)?;
    print::note(&format!(
        "{} contains version {} of {} with {} signature(s); its root keys require {}",
        place.display(),
        document.version,
        document.org,
        signed.sigs.len(),
        document.roots.threshold
    ));
    Ok(Exit::Ok)
}

/// The file of a signed policy.
pub(super) fn signed_text(signed: &SignedPolicy) -> Result<String, Failure> {
    serde_json::to_string(signed)
        .map(|text| format!("{text}\n"))
        .map_err(|error| Failure::new(Exit::Internal, format!("the policy cannot be written: {error}"), ""))
}

/// What a check found.
#[derive(Serialize)]
struct Check {
    good: bool,
    version: Option<u64>,
    /// Root keys whose signature is good.
    signers: Vec<Fingerprint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    expired: bool,
}

fn check(file: &Path, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    let signed = read_signed(file)?;
    let signers = signed
        .sigs
        .iter()
        .filter_map(|armored| verify(NAMESPACE, signed.policy.as_bytes(), armored).ok())
        .filter(|signer| profile.roots.keys.contains(&signer.key))
        .map(|signer| signer.key.fingerprint().clone())
        .collect();
    let result = policy::verify(&signed, &profile.roots, profile.org.as_str());
    let found = Check {
        good: result.is_ok(),
        version: result.as_ref().ok().map(Policy::version),
        signers,
        expired: result.as_ref().is_ok_and(|policy| policy.is_expired(files::now())),
        problem: result.err().map(|error| error.to_string()),
    };
    if printer.is_json() {
        printer.json(&found)?;
    } else {
        for signer in &found.signers {
            printer.line(&format!("signed by root key {signer}"))?;
        }
        match (&found.problem, found.version) {
            (Some(problem), _) => {
                let word = printer.paint().text(Tone::Bad, "not good");
                printer.line(&format!("{word}: {}", safe(problem)))?;
            }
            (None, version) => {
                let word = printer.paint().text(Tone::Good, "good");
                let expired = if found.expired { ", but it should have been replaced by now" } else { "" };
                printer.line(&format!("{word}: version {}{expired}", version.unwrap_or_default()))?;
            }
        }
    }
    Ok(if found.good { Exit::Ok } else { Exit::NotWell })
}

fn show(policy: &Policy, printer: &mut Printer) -> Result<Exit, Failure> {
    if printer.is_json() {
        printer.json(policy.document())?;
    } else {
        printer.line(description(policy, files::now()).trim_end())?;
    }
    Ok(Exit::Ok)
}

/// The policy for people.
fn description(policy: &Policy, now: i64) -> String {
    let document = policy.document();
    let expired = if policy.is_expired(now) { " (it should have been replaced by now)" } else { "" };
    let mut text = format!("fleet {}, version {}{expired}\n", safe(&document.org), document.version);
    let keys = |text: &mut String, what: &str, keys: &[vigie_fleet::signature::PublicKey]| {
        for key in keys {
            let revoked = if policy.is_revoked(key.fingerprint()) { " REVOKED" } else { "" };
            text.push_str(&format!("  {what} {} {}{revoked}\n", key.fingerprint(), safe(key.comment())));
        }
    };
    text.push_str(&format!("{} of these root keys sign the next version\n", document.roots.threshold));
    keys(&mut text, "root", &document.roots.keys);
    text.push_str("these keys enrol agents\n");
    keys(&mut text, "enrolment", &document.enrolment);
    text.push_str("these keys sign actions\n");
    for (name, investigator) in &document.investigators {
        let listed: Vec<_> = investigator.keys.iter().map(|listed| listed.key.clone()).collect();
        keys(&mut text, &safe(name), &listed);
    }
    for (module, rule) in &document.acl {
        let weights: Vec<String> =
            rule.investigators.iter().map(|(name, weight)| format!("{} {weight}", safe(name))).collect();
        text.push_str(&format!(
            "module {}: weight {} of {}\n",
            safe(module),
            rule.minimum_weight,
            weights.join(", ")
        ));
    }
    for key in &document.revoked {
        text.push_str(&format!("revoked {key}\n"));
    }
    for (module, packs) in &document.packs {
        for (name, pack) in packs {
            let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(pack));
            let (module, name) = (safe(module), safe(name));
            text.push_str(&format!("pack {module}/{name}: {} bytes, SHA-256 {digest}\n", pack.len()));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use vigie_fleet::policy::{PolicyLimits, Roots};
    use vigie_fleet::signature::SigningKey;

    use super::*;

    fn document(root: &SigningKey) -> PolicyDocument {
        PolicyDocument {
            v: 1,
            org: "example".to_owned(),
            version: 7,
            expires: Some(1),
            roots: Roots { keys: vec![root.public_key().clone()], threshold: 1 },
            enrolment: Vec::new(),
            investigators: BTreeMap::new(),
            acl: BTreeMap::new(),
            revoked: Vec::new(),
            max_window_seconds: 3600,
            limits: PolicyLimits::default(),
            brokers: Vec::new(),
            standing: None,
            packs: vigie_fleet::policy::Packs::new(),
        }
    }

    #[test]
    fn a_revoked_key_is_in_the_next_version_once() {
        let root = SigningKey::from_seed(&[1; 32]);
        let stolen = SigningKey::from_seed(&[2; 32]).public_key().fingerprint().clone();

        let next = revoked(&document(&root), &[stolen.clone(), stolen.clone()]);

        assert_eq!((next.version, next.revoked), (8, vec![stolen]));
    }

    #[test]
    fn a_signed_policy_lies_beside_the_plain_one() {
        assert_eq!(signed_path(Path::new("/a/policy.json")), Path::new("/a/policy.signed.json"));
        assert_eq!(signed_path(Path::new("p")), Path::new("p.signed.json"));
    }

    #[test]
    fn signing_a_file_makes_it_good_for_its_root_keys() {
        let place = tempfile::tempdir().unwrap();
        let root = SigningKey::from_seed(&[1; 32]);
        let key = place.path().join("root");
        root.write_new(&key, "root").unwrap();
        let file = place.path().join("policy.json");
        files::create(&file, &document_text(&document(&root)).unwrap()).unwrap();

        sign(&file, &key, None).unwrap();

        let signed = read_signed(&signed_path(&file)).unwrap();
        let policy = policy::verify(&signed, &document(&root).roots, "example").unwrap();
        assert!(
            description(&policy, 2).starts_with("fleet example, version 7 (it should have been replaced")
        );
        let again = sign(&signed_path(&file), &key, None).unwrap_err();
        assert!(again.message.contains("already signed this policy"));
    }
}
