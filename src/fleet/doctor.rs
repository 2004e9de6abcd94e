//! `vigie fleet doctor`: looks at a fleet as a whole and says what is wrong, each with what to do.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde::Serialize;
use serde_json::json;
use vigie_fleet::broker::client::tls;
use vigie_fleet::broker::connection::Connection;
use vigie_fleet::broker::jwt::Role;
use vigie_fleet::broker::stored::{self, StoredError, Which};
use vigie_fleet::broker::{SAFE_SERVER, is_safe_server};
use vigie_fleet::subjects::{EVERY_ALERT, FACTS, POLICY, POLICY_SUBJECT, STREAMS};
use vigie_protocol::error_chain::ErrorChain;

use super::inventory::{Inventory, Known, Shared};
use super::profile::Profile;
use super::{files, load};
use crate::exit::{Exit, Failure};
use crate::print::{Printer, Tone, safe};

/// Names that are shown of many.
const NAMED: usize = 10;

/// Clocks that differ by more than this are said: actions have a window.
const CLOCK_SECONDS: i64 = 60;

/// Where it is tested whether the broker stores.
const PROBE: &str = "vigie.facts.-doctor";

/// Something that was looked at.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    /// What was looked at, as a word.
    check: &'static str,
    /// All is well with it.
    good: bool,
    /// What was found.
    found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

pub(super) fn good(check: &'static str, found: impl Into<String>) -> Finding {
    Finding { check, good: true, found: found.into(), remedy: None }
}

pub(super) fn bad(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { check, good: false, found: found.into(), remedy: Some(remedy.into()) }
}

/// Carries out `fleet doctor`.
pub(super) fn run(profile: &Profile, printer: &mut Printer) -> Result<Exit, Failure> {
    let findings = files::block_on(async {
        let (connection, _events) = match load::enter(profile).await? {
            Ok(entered) => entered,
            Err(full) => return Ok(vec![full]),
        };
        let mut findings = vec![server(&connection.client.server().version)];
        findings.extend(certificates(profile));
        findings.push(streams(&connection).await);
        findings.push(if profile.role == Role::Administrator {
            storage(&connection).await
        } else {
            good("storage", "not tested, needs an administrator's fleet file")
        });
        let inventory = Inventory::load(&connection, profile).await;
        let names = inventory.as_ref().map_or_else(|_| BTreeMap::new(), keys);
        findings.extend(load::look(profile, &names).await);
        match inventory {
            Ok(inventory) => findings.extend(agents(&inventory)),
            Err(failure) => findings.push(bad("policy", failure.message, failure.hint)),
        }
        Ok(findings)
    })?;
    for finding in &findings {
        if printer.is_json() {
            printer.json(finding)?;
            continue;
        }
        let (tone, word) = if finding.good { (Tone::Good, "good") } else { (Tone::Bad, "bad ") };
        let word = printer.paint().text(tone, word);
        printer.line(&format!("{word}  {:13} {}", finding.check, safe(&finding.found)))?;
        if let Some(remedy) = &finding.remedy {
            printer.line(&format!("                    → {}", safe(remedy)))?;
        }
    }
    Ok(if findings.iter().all(|finding| finding.good) { Exit::Ok } else { Exit::NotWell })
}

fn server(version: &str) -> Finding {
    if is_safe_server(version) {
        return good("server", format!("nats-server {version}"));
    }
    let (major, minor, patch) = SAFE_SERVER;
    bad(
        "server",
        format!("nats-server {version} can be crashed with the credentials of any agent"),
        format!("install {major}.{minor}.{patch} or newer"),
    )
}

fn certificates(profile: &Profile) -> Vec<Finding> {
    let complaints = tls::complaints(profile.tls(), files::now());
    if complaints.is_empty() {
        return vec![good("certificates", "no certificate expires within 30 days")];
    }
    let remedy =
        "create a new one as described in docs/fleet.md, step 1; it is used from the next connection on";
    complaints.into_iter().map(|complaint| bad("certificates", complaint, remedy)).collect()
}

/// The names of agents by their public keys.
fn keys(inventory: &Inventory) -> BTreeMap<String, String> {
    let named = inventory.agents.iter().map(|(agent, known)| (known.enrolment.key.text(), agent.to_string()));
    named.collect()
}

/// Whether each stream answers; everybody may ask for the newest message.
async fn streams(connection: &Connection) -> Finding {
    // All at once: one that does not answer is waited for as long as a cluster may take to elect.
    let asked = STREAMS.map(|stream| async move {
        let filter = if stream == POLICY { POLICY_SUBJECT } else { EVERY_ALERT };
        // Whether something is there is not the question.
        match stored::get(&connection.client, stream, Which::Last(filter)).await {
            Err(error @ StoredError::Request { .. }) => Some(format!("{stream} ({})", ErrorChain(&error))),
            _ => None,
        }
    });
    let missing: Vec<String> = join_all(asked).await.into_iter().flatten().collect();
    if missing.is_empty() {
        return good("streams", format!("{} answer", STREAMS.len()));
    }
    let remedy = "`vigie fleet policy publish` with an administrator's fleet file creates the missing ones";
    bad("streams", format!("no response from: {}", missing.join(", ")), remedy)
}

/// Whether the broker stores what agents show: a heartbeat of a name that no agent can have, which is removed at once.
/// A server whose disk was full answers all questions and stores nothing until it is started anew.
async fn storage(connection: &Connection) -> Finding {
    let client = &connection.client;
    let stored = stored::store(client, PROBE, b"doctor").await;
    // Also one that was stored without a word of it, and what an earlier run could not remove.
    let purge = format!("$JS.API.STREAM.PURGE.{FACTS}");
    let removed = stored::api(client, &purge, &json!({"filter": PROBE})).await;
    match (stored, removed) {
        (Ok(_), Ok(_)) => good("storage", "the broker stores heartbeats"),
        (Ok(_), Err(error)) => bad(
            "storage",
            format!(
                "the broker stores heartbeats, but did not remove the probe {PROBE}: {}",
                ErrorChain(&error)
            ),
            "run this again: each run removes it",
        ),
        (Err(error), _) => bad(
            "storage",
            format!("the broker stores no heartbeats: {}", ErrorChain(&error)),
            "check the free space of its disk (store_dir) and its log; after a full disk, restart nats-server",
        ),
    }
}

/// `a, b, c and 7 more`
pub(super) fn named<'n>(names: impl Iterator<Item = &'n str>) -> Option<String> {
    let names: Vec<&str> = names.collect();
    let more = names.len().saturating_sub(NAMED);
    let shown = names[..names.len() - more].join(", ");
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!names.is_empty()).then(|| format!("{shown}{rest}"))
}

fn agents(inventory: &Inventory) -> Vec<Finding> {
    let mut findings = Vec::new();
    let policy = &inventory.policy;
    findings.push(if policy.is_expired(files::now()) {
        let found = format!("version {} has expired; it stays in force", policy.version());
        bad("policy", found, "sign and publish the next version")
    } else {
        good("policy", format!("version {}", policy.version()))
    });
    let of = |is_so: &dyn Fn(&Known) -> bool| {
        named(inventory.agents.iter().filter(|(_, known)| is_so(known)).map(|(agent, _)| agent.as_str()))
    };
    let silent = of(&|known| known.shown.is_some() && !known.online);
    let never = of(&|known| known.shown.is_none());
    findings.push(match (&silent, &never) {
        (None, None) => good("agents", inventory.counted()),
        _ => {
            let mut found = inventory.counted();
            for (what, names) in [("silent", &silent), ("never seen", &never)] {
                if let Some(names) = names {
                    found.push_str(&format!("; {what}: {names}"));
                }
            }
            bad("agents", found, "check `vigie status` on these hosts; revoke those that no longer exist")
        }
    });
    let clones: Vec<Finding> = [Shared::Twice, Shared::Copied, Shared::Reverted]
        .into_iter()
        .filter_map(|shared| {
            let is_so =
                |known: &Known| known.shown.as_ref().is_some_and(|shown| shown.shared == Some(shared));
            Some(bad("clones", format!("{}: {}", shared.found(), of(&is_so)?), shared.remedy()))
        })
        .collect();
    if clones.is_empty() {
        findings.push(good("clones", "no duplicate identities"));
    }
    findings.extend(clones);
    let ahead = |known: &Known| {
        known
            .shown
            .as_ref()
            .is_some_and(|shown| shown.sent.abs_diff(shown.stored) > CLOCK_SECONDS.unsigned_abs())
    };
    if let Some(names) = of(&|known| known.online && ahead(known)) {
        let found = format!("clocks differ from the broker's by more than {CLOCK_SECONDS} s: {names}");
        findings.push(bad(
            "clocks",
            found,
            "actions outside their time window are refused: correct NTP there",
        ));
    } else {
        findings.push(good("clocks", "all online agents agree with the broker"));
    }
    for flagged in inventory.flagged.iter().take(NAMED) {
        let found = format!("{} is invalid: {}", flagged.agent, flagged.problem);
        findings.push(bad("records", found, "enrol it again, or find out who wrote the record"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_named_in_part() {
        let names: Vec<String> = (0..12).map(|number| format!("h{number}")).collect();
        assert_eq!(named(std::iter::empty()), None);
        assert_eq!(named(["a", "b"].into_iter()).as_deref(), Some("a, b"));
        let text = named(names.iter().map(String::as_str)).unwrap();
        assert!(text.ends_with("h9 and 2 more"), "{text}");
    }

    #[test]
    fn an_old_server_is_bad_and_says_what_to_install() {
        assert!(server("2.10.25").good);
        let old = server("2.9.10");
        assert!(!old.good && old.remedy.unwrap().contains("2.10.25"));
    }
}
