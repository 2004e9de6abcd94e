//! `vigie fleet verify`: what an agent would say to a signed action, with the agent's own code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;
use vigie_fleet::action::{Action, Envelope, MAX_LISTED_ENVELOPE_BYTES, NAMESPACE};
use vigie_fleet::admission::{self, Refusal, Situation};
use vigie_fleet::facts::Facts;
use vigie_fleet::policy::Policy;
use vigie_fleet::predicate::Target;
use vigie_fleet::signature::verify;
use vigie_protocol::names::{ActionId, AgentId};

use super::files::{self, failed};
use super::policy;
use super::profile::Profile;
use crate::exit::{Exit, Failure};
use crate::print::{Paint, Printer, Tone, safe};

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether an agent that it is for would run it.
    admitted: bool,
    /// Why not: code and words.
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    action: ActionId,
    name: String,
    org: String,
    /// As agents understand it; absent when it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// How many agents it lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    agents: Option<usize>,
    not_before: String,
    not_after: String,
    /// Seconds between two runs of a standing question.
    #[serde(skip_serializing_if = "Option::is_none")]
    every: Option<u32>,
    /// The standing question that it stops.
    #[serde(skip_serializing_if = "Option::is_none")]
    stops: Option<ActionId>,
    policy_version: u64,
    signatures: Vec<SignatureReport>,
    modules: Vec<ModuleReport>,
}

#[derive(Debug, Serialize)]
struct SignatureReport {
    good: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    investigator: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct ModuleReport {
    module: String,
    weight: u64,
    /// What it takes; absent when nobody may ask it.
    #[serde(skip_serializing_if = "Option::is_none")]
    minimum: Option<u32>,
    enough: bool,
}

/// Carries out `fleet verify`.
pub(super) fn run(
    file: &Path,
    policy: Option<&Path>,
    profile: &Profile,
    printer: &mut Printer,
) -> Result<Exit, Failure> {
    let text = files::read(file, MAX_LISTED_ENVELOPE_BYTES)?;
    let (envelope, action) = admission::read(text.as_bytes())
        .map_err(|refused| failed(Exit::NotWell, "sign it with `vigie fleet sign`")(&*refused))?;
    let policy = policy::of(policy, profile)?;
    let report = report(text.as_bytes(), &envelope, action, &policy, profile.org.as_str(), files::now());
    if printer.is_json() {
        printer.json(&report)?;
    } else {
        printer.line(describe(&report, printer.paint()).trim_end())?;
    }
    Ok(if report.admitted { Exit::Ok } else { Exit::NotWell })
}

fn report(bytes: &[u8], envelope: &Envelope, action: Action, policy: &Policy, org: &str, now: i64) -> Report {
    let signatures: Vec<SignatureReport> =
        envelope.sigs.iter().map(|armored| signature(armored, &envelope.action, policy, now)).collect();
    let names: BTreeSet<&str> = signatures
        .iter()
        .filter(|signature| signature.good)
        .filter_map(|signature| signature.investigator.as_deref())
        .collect();
    let modules: BTreeSet<&str> = action.ops.iter().map(|operation| operation.module.as_str()).collect();
    let modules = modules
        .into_iter()
        .map(|module| {
            let rule = policy.rule(module);
            let weight = rule
                .map_or(0, |rule| names.iter().map(|name| u64::from(policy.weight(rule, name))).sum::<u64>());
            let minimum = rule.map(|rule| rule.minimum_weight);
            let enough = minimum.is_some_and(|minimum| weight >= u64::from(minimum));
            ModuleReport { module: module.to_owned(), weight, minimum, enough }
        })
        .collect();
    let refusal = refusal(bytes, &action, policy, org, now);
    Report {
        admitted: refusal.is_none(),
        problem: refusal.as_ref().map(ToString::to_string),
        refusal: refusal.map(|refusal| refusal.code()),
        target: Target::parse(&action.target).ok().map(|target| target.to_string()),
        agents: action.agents.as_ref().map(Vec::len),
        not_before: moment(action.not_before),
        not_after: moment(action.not_after),
        every: action.standing.map(|standing| standing.every),
        stops: action.stop,
        action: action.id,
        name: action.name,
        org: action.org,
        policy_version: policy.version(),
        signatures,
        modules,
    }
}

/// Why an agent that an action is meant for would not run it, with the agent's own code.
pub(super) fn refusal(
    envelope: &[u8],
    action: &Action,
    policy: &Policy,
    org: &str,
    now: i64,
) -> Option<Refusal> {
    let facts = facts_of_one_that_is_meant(action);
    let situation = Situation { now, org, policy: Some(policy), facts: &facts };
    let decision = admission::decide(
        envelope,
        &situation,
        |_, _| false,
        |target, _| Target::parse(target).map(|_| true).map_err(|error| error.to_string()),
    );
    decision.err().map(|refused| refused.refusal)
}

/// One signature by itself.
fn signature(armored: &str, text: &str, policy: &Policy, now: i64) -> SignatureReport {
    let signer = match verify(NAMESPACE, text.as_bytes(), armored) {
        Ok(signer) => signer,
        Err(error) => {
            let problem = Some(error.to_string());
            return SignatureReport { good: false, key: None, investigator: None, problem };
        }
    };
    let fingerprint = signer.key.fingerprint();
    let listed = policy.investigator(fingerprint);
    let problem = match listed {
        _ if policy.is_revoked(fingerprint) => Some("the key is revoked".to_owned()),
        None => Some("the key is not in the policy".to_owned()),
        Some((_, key)) if key.not_before.is_some_and(|begin| now < begin) => {
            Some("the key is not valid yet".to_owned())
        }
        Some((_, key)) if key.not_after.is_some_and(|end| now > end) => {
            Some("the key is not valid any more".to_owned())
        }
        Some((_, key)) if key.touch && !signer.token.is_some_and(|token| token.user_presence) => {
            Some("the security token was not touched".to_owned())
        }
        Some(_) => None,
    };
    SignatureReport {
        good: problem.is_none(),
        key: Some(fingerprint.to_string()),
        investigator: listed.map(|(name, _)| name.to_owned()),
        problem,
    }
}

/// An agent that has every module and is on the list: what is not known here is taken to be right.
fn facts_of_one_that_is_meant(action: &Action) -> Facts {
    let any = || "any".parse::<AgentId>().expect("three letters are a name");
    Facts {
        agent: action.agents.as_ref().and_then(|agents| agents.first().cloned()).unwrap_or_else(any),
        hostname: String::new(),
        os: String::new(),
        os_id: None,
        os_version: None,
        arch: String::new(),
        kernel: String::new(),
        agent_version: String::new(),
        modules: action.ops.iter().map(|operation| operation.module.clone()).collect(),
        addresses: Vec::new(),
        tags: BTreeMap::new(),
        groups: Vec::new(),
    }
}

fn moment(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |moment| moment.to_string())
}

/// The report for people.
fn describe(report: &Report, paint: Paint) -> String {
    let mut text =
        format!("action {} {:?} for the fleet {}\n", report.action, safe(&report.name), safe(&report.org));
    let target = report.target.as_deref().unwrap_or("cannot be read");
    let listed = report.agents.map_or_else(String::new, |count| format!(", of {count} listed agents"));
    text.push_str(&format!("target  {}{listed}\n", safe(target)));
    text.push_str(&format!(
        "start   {} to {}
",
        report.not_before, report.not_after
    ));
    if let Some(every) = report.every {
        text.push_str(&format!(
            "again   every {every} s until then; only differences are sent
"
        ));
    }
    if let Some(question) = &report.stops {
        text.push_str(&format!("stops   {question}\n"));
    }
    for signature in &report.signatures {
        let (tone, word) = if signature.good { (Tone::Good, "good") } else { (Tone::Bad, "not good") };
        let name = signature.investigator.as_deref().unwrap_or("unknown");
        let key = signature.key.as_deref().unwrap_or_default();
        let problem =
            signature.problem.as_deref().map_or_else(String::new, |problem| format!(": {}", safe(problem)));
        text.push_str(&format!("signed  {} by {} {key}{problem}\n", paint.text(tone, word), safe(name)));
    }
    for module in &report.modules {
        let tone = if module.enough { Tone::Good } else { Tone::Bad };
        let of = module.minimum.map_or_else(
            || "nobody may query it".to_owned(),
            |minimum| format!("{} of {minimum}", module.weight),
        );
        text.push_str(&format!("module  {}: weight {}\n", safe(&module.module), paint.text(tone, &of)));
    }
    let verdict = match &report.problem {
        None => paint.text(Tone::Good, "target agents run it"),
        Some(problem) => format!("{}: {}", paint.text(Tone::Bad, "no agent runs it"), safe(problem)),
    };
    text.push_str(&format!("{verdict} (policy version {})\n", report.policy_version));
    text
}
