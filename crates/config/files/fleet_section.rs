//! `[fleet]` of the agent's file.

use std::path::Path;
use std::str::FromStr;

use vigie_fleet::signature::PublicKey;

use super::agent_file::number;
use super::origin::{cut, quoted_address};
use super::reader::{Problems, Table};
use crate::model::FleetSection;
use vigie_protocol::error_chain::ErrorChain;

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// Most brokers and root keys that a file names.
const MAX_LISTED: usize = 16;

/// Most groups that a host is in.
const MAX_GROUPS: usize = 64;

/// Reads the section; nothing when a value without a default is missing or wrong, which is then a problem.
pub(crate) fn read(mut table: Table, state_dir: &Path, problems: &mut Problems) -> Option<FleetSection> {
    let org = name(&mut table, problems, "org");
    let agent = name(&mut table, problems, "agent");
    let urls = urls(&mut table, problems);
    let roots = roots(&mut table, problems);
    let certificate = table.path(problems, "certificate");
    let certificate_key = table.path(problems, "certificate_key");
    if certificate.is_some() != certificate_key.is_some() {
        let (there, missing) = if certificate.is_some() {
            ("certificate", "certificate_key")
        } else {
            ("certificate_key", "certificate")
        };
        table.complain(problems, there, format!("has no effect without {missing}"));
    }
    let threshold = table.integer(problems, "root_threshold", 1..=MAX_LISTED as u64);
    let root_threshold = number(threshold, 1);
    if let Some(roots) = &roots
        && root_threshold as usize > roots.len()
    {
        let message = format!("{root_threshold} keys must sign, but roots contains {}", roots.len());
        table.complain(problems, "root_threshold", message);
    }
    let credentials = table.path(problems, "credentials");
    let key_file = table.path(problems, "key_file");
    let ca = table.path(problems, "ca");
    let groups = groups(&mut table, problems);
    let policy_file = table.path(problems, "policy_file");
    let running_actions = number(table.integer(problems, "running_actions", 1..=64), 4);
    let waiting_actions = number(table.integer(problems, "waiting_actions", 0..=10_000), 64);
    let answer_bytes = table.bytes(problems, "answer_bytes", MIB..=TIB).unwrap_or(64 * MIB);
    table.finish(problems);
    Some(FleetSection {
        org: org?,
        agent: agent?,
        urls: urls?,
        credentials: credentials.unwrap_or_else(|| state_dir.join("fleet").join("agent.jwt")),
        key_file: key_file.unwrap_or_else(|| state_dir.join("fleet").join("agent.nk")),
        ca,
        certificate: certificate.zip(certificate_key),
        groups,
        roots: roots?,
        root_threshold,
        policy_file,
        running_actions,
        waiting_actions,
        answer_bytes,
    })
}

/// Says that a key without a default is missing; where it has a wrong value there is a problem already.
fn missing(table: &Table, problems: &mut Problems, key: &'static str, what: &str) {
    if table.line_of(key) == table.line {
        table.complain(problems, key, format!("is missing: {what}"));
    }
}

fn name<T>(table: &mut Table, problems: &mut Problems, key: &'static str) -> Option<T>
where
    T: FromStr<Err = vigie_protocol::names::BadName>,
{
    let Some(text) = table.text(problems, key) else {
        missing(table, problems, key, "[fleet] needs one");
        return None;
    };
    text.parse().map_err(|error: T::Err| table.complain(problems, key, error.to_string())).ok()
}

fn urls(table: &mut Table, problems: &mut Problems) -> Option<Vec<String>> {
    let Some(urls) = table.texts(problems, "urls") else {
        missing(table, problems, "urls", "give the brokers, such as [\"tls://broker.example.org:4222\"]");
        return None;
    };
    if !(1..=MAX_LISTED).contains(&urls.len()) {
        table.complain(problems, "urls", format!("has {} brokers; it takes 1 to {MAX_LISTED}", urls.len()));
        return None;
    }
    for url in &urls {
        if let Some(problem) = url_problem(url) {
            table.complain(problems, "urls", format!("{} {problem}", quoted_address(url)));
            return None;
        }
    }
    Some(urls)
}

fn url_problem(url: &str) -> Option<&'static str> {
    let place = url.strip_prefix("nats://").or_else(|| url.strip_prefix("tls://"));
    match place {
        None => Some("is not nats://HOST:PORT or tls://HOST:PORT"),
        // A password here would be read by whoever reads the file, and printed in logs.
        Some(place) if place.contains('@') => Some("must not contain user and password; set credentials"),
        Some(place) => {
            let good = place.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok()
            });
            (!good).then_some("is not nats://HOST:PORT or tls://HOST:PORT")
        }
    }
}

fn groups(table: &mut Table, problems: &mut Problems) -> Vec<vigie_protocol::names::GroupName> {
    let texts = table.texts(problems, "groups").unwrap_or_default();
    if texts.len() > MAX_GROUPS {
        table.complain(problems, "groups", format!("has {} groups; it takes {MAX_GROUPS}", texts.len()));
    }
    let mut groups = Vec::new();
    for text in texts.into_iter().take(MAX_GROUPS) {
        match text.parse() {
            Ok(group) => groups.push(group),
            Err(error) => table.complain(problems, "groups", format!("{error}")),
        }
    }
    groups
}

fn roots(table: &mut Table, problems: &mut Problems) -> Option<Vec<String>> {
    let Some(roots) = table.texts(problems, "roots") else {
        missing(table, problems, "roots", "give the public keys whose signatures make a policy valid");
        return None;
    };
    if !(1..=MAX_LISTED).contains(&roots.len()) {
        table.complain(problems, "roots", format!("has {} keys; it takes 1 to {MAX_LISTED}", roots.len()));
        return None;
    }
    for root in &roots {
        if let Err(error) = PublicKey::parse(root) {
            let message = format!("{:?} cannot sign a policy: {}", cut(root), ErrorChain(&error));
            table.complain(problems, "roots", message);
            return None;
        }
    }
    Some(roots)
}
