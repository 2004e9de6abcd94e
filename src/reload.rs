//! `vigie reload`.

use std::path::Path;
use std::time::Duration;

use clap::Args;

use vigie_protocol::control::{InForce, ModuleConfigStatus, ReloadReport, Reply, Request};

use crate::client;
use crate::exit::{Exit, Failure};
use crate::print::{self, Printer, safe};

/// Time for reading files and for the actors to take what changed.
const LONGEST_RELOAD: Duration = Duration::from_secs(60);

/// `reload`
#[derive(Debug, Args)]
pub(crate) struct ReloadArgs {
    /// Only show what would change
    #[arg(long, short = 'n')]
    pub(crate) dry_run: bool,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Carries out `reload`.
pub(crate) fn run(args: &ReloadArgs, socket: &Path, printer: &mut Printer) -> Result<Exit, Failure> {
    let report = match client::ask(socket, &Request::Reload { dry_run: args.dry_run }, LONGEST_RELOAD)? {
        Reply::Reloaded(report) => report,
        other => return Err(client::unexpected(&other)),
    };
    for problem in &report.problems {
        print::problem(&problem.to_string());
    }
    if printer.is_json() {
        printer.json(&report)?;
    } else if report.problems.is_empty() {
        printer.line(&render(&report, args.dry_run))?;
    }
    if report.ok {
        return Ok(Exit::Ok);
    }
    if report.problems.is_empty() {
        let names: Vec<&str> = not_in_force(&report).map(|module| module.module.as_str()).collect();
        return Err(Failure::new(
            Exit::NotWell,
            format!("configuration {} is not in force in: {}", report.generation, names.join(", ")),
            "see `vigie status`; `vigie module logs NAME` shows the module's messages",
        ));
    }
    Err(Failure::new(
        Exit::Config,
        format!("the configuration is invalid; configuration {} stays in force", report.generation),
        "correct the problems above and try `vigie reload --dry-run`",
    ))
}

fn not_in_force(report: &ReloadReport) -> impl Iterator<Item = &ModuleConfigStatus> {
    report.modules.iter().filter(|module| module.state != InForce::InForce)
}

/// A valid configuration's report for people.
fn render(report: &ReloadReport, dry_run: bool) -> String {
    let mut lines = vec![match (report.changes.is_empty(), dry_run) {
        (true, _) => format!("nothing changed; configuration {} is in force", report.generation),
        (false, true) => "the configuration is valid; it would change:".to_owned(),
        (false, false) => format!("configuration {} is in force; it changed:", report.generation),
    }];
    lines.extend(report.changes.iter().map(|change| format!("  {}", safe(change))));
    lines.extend(report.modules.iter().map(module_line));
    lines.join("\n")
}

/// What one module made of its configuration.
fn module_line(module: &ModuleConfigStatus) -> String {
    let ModuleConfigStatus { module, generation, state, errors } = module;
    let state = match state {
        InForce::InForce => "in force".to_owned(),
        InForce::Refused if errors.is_empty() => "rejected".to_owned(),
        InForce::Refused => format!("rejected: {}", safe(&errors.join("; "))),
        InForce::Unconfirmed | InForce::Unanswered => "not answered".to_owned(),
        InForce::NotRunning => "the module does not run".to_owned(),
    };
    format!("  module {module}: configuration {generation} {state}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use vigie_protocol::control::ConfigProblem;

    use crate::client::tests::fake_agent;
    use crate::print::tests::Captured;

    fn problem() -> ConfigProblem {
        ConfigProblem { file: "vigie.toml".into(), line: Some(3), key: None, message: "is wrong".to_owned() }
    }

    fn report(ok: bool, changes: &[&str]) -> ReloadReport {
        ReloadReport {
            ok,
            generation: 4,
            changes: changes.iter().map(|change| (*change).to_owned()).collect(),
            problems: if ok { Vec::new() } else { vec![problem()] },
            modules: Vec::new(),
        }
    }

    #[test]
    fn a_report_for_people() {
        assert_eq!(render(&report(true, &[]), false), "nothing changed; configuration 4 is in force");
        assert_eq!(
            render(&report(true, &["restart audit (its command changed)"]), true),
            "the configuration is valid; it would change:\n  restart audit (its command changed)"
        );
        assert_eq!(
            render(&report(true, &["stop audit"]), false),
            "configuration 4 is in force; it changed:\n  stop audit"
        );
    }

    #[test]
    fn an_invalid_configuration_ends_with_its_own_exit_code() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let reply = format!("{}\n", serde_json::to_string(&Reply::Reloaded(report(false, &[]))).unwrap());
        let agent = fake_agent(&socket, vec![vec![reply]]);
        let captured = Captured::default();
        let args = ReloadArgs { dry_run: false, json: true };

        let failure = run(&args, &socket, &mut Printer::into(Box::new(captured.clone()), true)).unwrap_err();

        agent.join().unwrap();
        assert_eq!(failure.exit, Exit::Config);
        assert!(failure.message.contains("configuration 4 stays in force"));
        assert!(captured.text().starts_with("{\"ok\":false"));
    }
}
