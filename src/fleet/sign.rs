//! `vigie fleet sign`: an action from a file or a question, and signatures on it.

use std::path::Path;
use std::time::Duration;

use vigie_fleet::action::{
    Action, Envelope, Limits, MAX_ENVELOPE_BYTES, MAX_LISTED_ENVELOPE_BYTES, MAX_SIGNATURES, NAMESPACE,
    Operation, Standing, VERSION,
};
use vigie_fleet::admission;
use vigie_fleet::signature::{Unchecked, sign_with_key_file};
use vigie_protocol::names::ActionId;

use super::cli::SignArgs;
use super::files::{self, failed};
use super::inventory::parse_target;
use super::profile::Profile;
use crate::action::UNNAMED;
use crate::exit::{Exit, Failure};
use crate::print::{self, Printer};

/// How long an action may be started if nothing else is given.
const DEFAULT_WINDOW: Duration = Duration::from_secs(3600);

/// Signs an action that nobody has signed yet.
pub(crate) fn sign_action(action: &Action, key: &Path) -> Result<Envelope, Failure> {
    let text = serde_json::to_string(action).map_err(|error| {
        Failure::new(Exit::Internal, format!("the action cannot be written: {error}"), "")
    })?;
    add_signature(Envelope { action: text, sigs: Vec::new() }, key)
}

/// Adds a signature to an envelope.
pub(crate) fn add_signature(mut envelope: Envelope, key: &Path) -> Result<Envelope, Failure> {
    if envelope.sigs.len() >= MAX_SIGNATURES {
        let message = format!("the action has {MAX_SIGNATURES} signatures, the maximum");
        return Err(Failure::new(Exit::Usage, message, "send it: vigie fleet send"));
    }
    let signature = sign_with_key_file(key, NAMESPACE, envelope.action.as_bytes()).map_err(|error| {
        failed(Exit::Config, "give the key with --key; for a key in ssh-agent, its .pub file")(&error)
    })?;
    let signer = |armored: &str| Unchecked::parse(armored).ok().map(|one| one.claimed_key().clone());
    let new = signer(&signature);
    if envelope.sigs.iter().any(|old| signer(old) == new) {
        let message = format!("{} has already signed this action", key.display());
        return Err(Failure::new(Exit::Usage, message, "another person must sign, with another key"));
    }
    envelope.sigs.push(signature);
    Ok(envelope)
}

/// The key to sign with.
pub(crate) fn signing_key<'a>(named: Option<&'a Path>, profile: &'a Profile) -> Result<&'a Path, Failure> {
    named.or(profile.signing_key.as_deref()).ok_or_else(|| {
        let message = "no signing key given";
        Failure::new(Exit::Usage, message, "use --key KEY, or set signing_key in the fleet file")
    })
}

/// A fresh action for a fleet, to be begun from now on for as long as `window`.
pub(crate) fn new_action(
    profile: &Profile,
    name: String,
    target: String,
    operations: Vec<Operation>,
    window: Duration,
) -> Result<Action, Failure> {
    let now = files::now();
    let seconds = i64::try_from(window.as_secs()).unwrap_or(i64::MAX);
    Ok(Action {
        v: VERSION,
        org: profile.org.to_string(),
        id: ActionId::from_random(files::random_bytes()?),
        name,
        target,
        agents: None,
        not_before: now,
        not_after: now.saturating_add(seconds),
        ops: operations,
        standing: None,
        stop: None,
        limits: Limits::default(),
    })
}

/// The action of a file in MIG's form.
fn from_file(text: &str, args: &SignArgs, profile: &Profile) -> Result<Action, Failure> {
    let wrong = |problem: String| {
        let message = format!("{}: {problem}", args.file.display());
        Failure::new(Exit::Usage, message, "nothing was signed; see vigie fleet sign --help")
    };
    let action = crate::action::parse(text.as_bytes()).map_err(|problem| wrong(problem.to_string()))?;
    let target = match args.target.clone().or(action.target) {
        Some(target) => target,
        None => return Err(wrong("target: is missing; give one with -t, such as -t all".to_owned())),
    };
    let (_, target) = parse_target(&target, profile)?;
    let now = jiff::Timestamp::now();
    let begin = action.validity.from.filter(|from| *from > now);
    let window = match (args.expires, action.validity.left(begin.unwrap_or(now))) {
        (Some(window), _) => window,
        (None, Some(window)) => window,
        (None, None) if action.validity.until.is_some() => {
            return Err(wrong("expireafter: is in the past, or before validfrom".to_owned()));
        }
        (None, None) => DEFAULT_WINDOW,
    };
    let operations = action.operations.into_iter().map(crate::action::Operation::signed).collect();
    let name = action.name.unwrap_or_else(|| UNNAMED.to_owned());
    let mut action = new_action(profile, name, target, operations, window)?;
    action.standing =
        args.every.map(|every| Standing { every: u32::try_from(every.as_secs()).unwrap_or(u32::MAX) });
    // Signed today for a time that comes.
    if let Some(begin) = begin {
        let length = action.not_after - action.not_before;
        action.not_before = begin.as_second();
        action.not_after = begin.as_second().saturating_add(length);
    }
    Ok(action)
}

/// Carries out `fleet sign`.
pub(super) fn run(args: &SignArgs, profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    let text = files::read(&args.file, MAX_LISTED_ENVELOPE_BYTES)?;
    let key = signing_key(args.key.as_deref(), profile)?;
    let signed_before = serde_json::from_str::<Envelope>(&text).is_ok();
    let envelope = if signed_before {
        let (envelope, action) = admission::read(text.as_bytes())
            .map_err(|refused| failed(Exit::Usage, "no agent would accept it: sign a new one")(&*refused))?;
        if args.target.is_some() || args.expires.is_some() || args.every.is_some() {
            let message = format!("{} is already signed and cannot be changed", args.file.display());
            return Err(Failure::new(
                Exit::Usage,
                message,
                "omit -t, --expires and --every, or sign a new action",
            ));
        }
        if action.org != profile.org.as_str() {
            let message =
                format!("the action is for the fleet {:?}, not for {:?}", action.org, profile.org.as_str());
            return Err(Failure::new(Exit::Usage, message, "give the right fleet file with --fleet"));
        }
        add_signature(envelope, key)?
    } else {
        sign_action(&from_file(&text, args, profile)?, key)?
    };
    let json = serde_json::to_string(&envelope).map_err(|error| {
        Failure::new(Exit::Internal, format!("the action cannot be written: {error}"), "")
    })?;
    // It must be what agents take.
    let (_, action) = admission::read(json.as_bytes()).map_err(|refused| {
        let hint = format!("nothing was signed; an envelope has at most {MAX_ENVELOPE_BYTES} bytes");
        failed(Exit::Usage, &hint)(&*refused)
    })?;
    let out = args.out.as_deref().or(signed_before.then_some(args.file.as_path()));
    match out {
        None => printer.json(&envelope)?,
        Some(path) => {
            files::replace(path, &format!("{json}\n"))?;
            print::note(&format!(
                "action {} for {} is in {} with {} signature(s)",
                action.id,
                action.target,
                path.display(),
                envelope.sigs.len()
            ));
        }
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use vigie_fleet::signature::SigningKey;

    use super::*;

    #[test]
    fn two_people_sign_and_nobody_twice() {
        let place = tempfile::tempdir().unwrap();
        let key = |name: &str, seed: u8| {
            let path = place.path().join(name);
            SigningKey::from_seed(&[seed; 32]).write_new(&path, name).unwrap();
            path
        };
        let (ann, bob) = (key("ann", 1), key("bob", 2));
        let envelope = Envelope { action: "{}".to_owned(), sigs: Vec::new() };

        let signed = add_signature(envelope, &ann).unwrap();
        let twice = add_signature(signed.clone(), &ann).unwrap_err();
        let both = add_signature(signed, &bob).unwrap();

        assert!(twice.message.contains("already signed this action"), "{}", twice.message);
        assert_eq!(both.sigs.len(), 2);
    }
}
