//! What the investigator gets.

use std::time::Duration;

use serde::Serialize;
use vigie_host::shown;
use vigie_sdk::privacy::{MASKED, Showing};
use vigie_sdk::{Coverage, ModuleResult};

use crate::parameters::Parameters;
use crate::search::{Found, Outcome};
use crate::verify::{Verified, What};

/// Most bytes of all elements together, about. An answer with the rest of it stays below the 16 MiB that an agent
/// takes.
const MAX_ELEMENTS_BYTES: usize = 14 << 20;

/// Paths that could not be examined and are told one by one.
const MAX_NOT_EXAMINED: usize = 1_000;

/// A package; what is not recorded is left out.
#[derive(Debug, Serialize)]
struct PackageElement {
    name: String,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    arch: Option<String>,
    manager: &'static str,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    wanted: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    install_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    owns: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<String>,
}

/// A difference.
#[derive(Debug, Serialize)]
struct FindingElement {
    what: What,
    path: String,
    package: String,
    version: String,
    manager: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    configuration: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    excluded: bool,
}

#[derive(Debug, Default, Serialize)]
struct Elements {
    #[serde(skip_serializing_if = "Option::is_none")]
    packages: Option<Vec<PackageElement>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    findings: Option<Vec<FindingElement>>,
}

#[derive(Debug, Serialize)]
struct Statistics {
    exectime: String,
    /// Packages that were looked at.
    examined: u64,
    totalhits: usize,
    managers: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<VerifiedStatistics>,
}

#[derive(Debug, Serialize)]
struct VerifiedStatistics {
    packages: usize,
    files: u64,
    read: u64,
    read_bytes: u64,
    remembered: u64,
}

/// Writes the answer to a query.
#[must_use]
pub fn answer(
    parameters: &Parameters,
    outcome: &Outcome,
    verified: Option<&Verified>,
    private: bool,
    elapsed: Duration,
) -> ModuleResult {
    let mut coverage = coverage(parameters, outcome, verified);
    let mut errors = Vec::new();
    let mut bytes = 0;
    let mut elements = Elements::default();
    let (total, listed) = match verified {
        Some(verified) => {
            let all = verified.findings.iter().map(|finding| {
                let Found { manager, package, .. } = &outcome.found[finding.package];
                FindingElement {
                    what: finding.what,
                    path: masked(private, || shown(&finding.path)),
                    package: masked(private, || package.name.clone()),
                    version: masked(private, || package.version.clone()),
                    manager: manager.name(),
                    expected: finding.expected.clone().filter(|_| !private),
                    found: finding.found.clone().filter(|_| !private),
                    configuration: finding.configuration,
                    excluded: finding.excluded,
                }
            });
            let findings: Vec<_> =
                all.take(parameters.limit).take_while(|element| fits(element, &mut bytes)).collect();
            let listed = findings.len();
            elements.findings = Some(findings);
            (verified.findings.len(), listed)
        }
        None => {
            let all = outcome.found.iter().map(|found| package_element(found, parameters, private));
            let packages: Vec<_> =
                all.take(parameters.limit).take_while(|element| fits(element, &mut bytes)).collect();
            let listed = packages.len();
            elements.packages = Some(packages);
            (outcome.found.len(), listed)
        }
    };
    if listed < total {
        errors.push(format!("{listed} of {total} matches are listed: narrow the query, or raise the limit"));
        coverage.skip("matches", format!("{} are not listed", total - listed));
    }
    for unread in &outcome.unread {
        errors.push(format!("{} {}", shown(unread.path.as_os_str().as_encoded_bytes()), unread.why));
    }
    errors.extend(verified.iter().flat_map(|verified| verified.errors.iter().cloned()));
    let statistics = Statistics {
        exectime: format!("{elapsed:?}"),
        examined: outcome.examined,
        totalhits: total,
        managers: outcome.managers.iter().map(|manager| manager.name()).collect(),
        verified: verified.map(|verified| VerifiedStatistics {
            packages: outcome.found.len(),
            files: verified.files,
            read: verified.read,
            read_bytes: verified.read_bytes,
            remembered: verified.remembered,
        }),
    };
    let result = ModuleResult::found(total > 0, &elements).with_statistics(&statistics);
    let mut result = result.with_coverage(coverage);
    result.errors = (!errors.is_empty()).then_some(errors);
    result
}

fn coverage(parameters: &Parameters, outcome: &Outcome, verified: Option<&Verified>) -> Coverage {
    let mut coverage = Coverage::whole();
    coverage.examined = verified.map_or(outcome.examined, |verified| verified.files);
    if outcome.managers.is_empty() {
        coverage.skip("packages", "no database of dpkg, rpm or apk found");
    }
    // A host has packages: a database that names none was emptied, or is that of a tool that manages nothing here.
    let is_asked = outcome.managers.iter().any(|manager| parameters.wants_manager(*manager));
    let was_read = outcome.reading.is_none() && outcome.unread.is_empty() && !outcome.stopped;
    if is_asked && outcome.examined == 0 && was_read {
        coverage.skip("packages", "the database names no package");
    }
    if let Some(manager) = outcome.reading {
        coverage.skip(
            format!("packages of {}", manager.name()),
            "not all were read: the database does not respond",
        );
    }
    for unread in &outcome.unread {
        coverage.skip(shown(unread.path.as_os_str().as_encoded_bytes()), unread.why.clone());
    }
    if outcome.stopped || verified.is_some_and(|verified| verified.stopped) {
        coverage.skip("the rest", "the search was stopped, or its time was over");
    }
    if let Some(verified) = verified {
        for (path, why) in verified.not_examined.iter().take(MAX_NOT_EXAMINED) {
            coverage.skip(shown(path), why.clone());
        }
        if verified.not_examined.len() > MAX_NOT_EXAMINED {
            coverage.skip(
                "more files",
                format!("{} in total could not be examined", verified.not_examined.len()),
            );
        }
    }
    coverage
}

fn masked(private: bool, text: impl FnOnce() -> String) -> String {
    if private { MASKED.to_owned() } else { text() }
}

/// Whether there is room for one more element.
fn fits<T: Serialize>(element: &T, bytes: &mut usize) -> bool {
    *bytes += serde_json::to_string(element).map_or(0, |text| text.len() + 1);
    *bytes <= MAX_ELEMENTS_BYTES
}

fn package_element(found: &Found, parameters: &Parameters, private: bool) -> PackageElement {
    let Found { manager, package, files, owns } = found;
    let list = |paths: Vec<String>| if private { Vec::new() } else { paths };
    let word = |state: &str| if private && !is_state(state) { MASKED.to_owned() } else { state.to_owned() };
    PackageElement {
        name: masked(private, || package.name.clone()),
        version: masked(private, || package.version.clone()),
        arch: Some(package.architecture.clone()).filter(|_| !private),
        manager: manager.name(),
        state: word(&package.state),
        wanted: package.wanted.as_deref().map(word),
        source: package.source.clone().filter(|_| !private),
        install_time: package
            .installed_at
            .filter(|_| !private)
            .and_then(|time| jiff::Timestamp::from_second(time).ok())
            .map(|time| time.to_string()),
        size: package.size.filter(|_| !private),
        owns: list(owns.iter().map(|place| shown(&parameters.paths[*place])).collect()),
        files: list(if parameters.files {
            files.iter().map(|file| shown(&file.path)).collect()
        } else {
            Vec::new()
        }),
    }
}

/// What a result may show in extra privacy mode: how many packages, in which states, and what kinds of differences.
#[must_use]
pub fn masked_form(place: &[&str]) -> Showing {
    match place {
        ["elements"] | ["elements", "packages" | "findings"] => Showing::Inside,
        ["elements", "packages", "name" | "version"] => Showing::Hidden,
        ["elements", "packages", "manager"] | ["elements", "findings", "manager"] => {
            Showing::Text(is_manager)
        }
        ["elements", "packages", "state" | "wanted"] => Showing::Text(is_state),
        ["elements", "findings", "path" | "package" | "version"] => Showing::Hidden,
        ["elements", "findings", "what"] => Showing::Text(is_what),
        ["elements", "findings", "configuration" | "excluded"] => Showing::Unnamed,
        ["statistics"] | ["statistics", "verified"] => Showing::Inside,
        ["statistics", "managers"] => Showing::Text(is_manager),
        ["statistics", "exectime" | "examined" | "totalhits"] => Showing::Unnamed,
        ["statistics", "verified", "packages" | "files" | "read" | "read_bytes" | "remembered"] => {
            Showing::Unnamed
        }
        ["errors"] => Showing::Unnamed,
        _ => Showing::Nothing,
    }
}

fn is_manager(text: &str) -> bool {
    matches!(text, "dpkg" | "rpm" | "apk")
}

/// States are words of dpkg; whoever forges its database could put anything there.
fn is_state(text: &str) -> bool {
    let state = text.strip_suffix(", must be reinstalled").unwrap_or(text);
    matches!(
        state,
        MASKED
            | "installed"
            | "config-files"
            | "half-installed"
            | "unpacked"
            | "half-configured"
            | "triggers-awaited"
            | "triggers-pending"
            | "hold"
            | "deinstall"
            | "purge"
            | "unknown"
    )
}

fn is_what(text: &str) -> bool {
    matches!(
        text,
        "missing"
            | "type"
            | "digest"
            | "size"
            | "link"
            | "setuid"
            | "mode"
            | "owner"
            | "capabilities"
            | "no_digest"
    )
}
