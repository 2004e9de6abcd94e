//! `vigie rules`: rules of others made into ours.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use vigie_events::sigma::Imported;

use crate::exit::{Exit, Failure};
use crate::print::{self, Printer};

/// `rules`
#[derive(Debug, Subcommand)]
pub(crate) enum RulesCommand {
    /// Convert rules from another format
    #[command(subcommand)]
    Import(Form),
}

/// The form that rules have.
#[derive(Debug, Subcommand)]
pub(crate) enum Form {
    /// Sigma: process_creation and network_connection for events, file events for fswatch
    #[command(after_help = "\
Examples:
  vigie rules import sigma rules/linux/process_creation/*.yml --output /etc/vigie/rules/sigma.toml
  vigie rules import sigma file_event/*.yml --fswatch sigma-paths.toml

Put the output where events.rules refers to it. A rule with an element that cannot be converted is rejected as a
whole, with its file and line, and the exit code is 1; all other rules are still written.")]
    Sigma(SigmaArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SigmaArgs {
    /// Sigma files, each with one or more rules
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,

    /// Output file for rules for events [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Output file for path groups from rules about files, for fswatch.toml; without it such rules are
    /// rejected
    #[arg(long, value_name = "FILE")]
    fswatch: Option<PathBuf>,
}

/// Carries out `rules`.
pub(crate) fn run(command: &RulesCommand, printer: &mut Printer) -> Result<Exit, Failure> {
    let RulesCommand::Import(Form::Sigma(args)) = command;
    let mut imported = Imported::default();
    for file in &args.files {
        let name = file.display().to_string();
        match std::fs::read_to_string(file) {
            Ok(text) => imported.add(&name, &text),
            Err(error) => imported.refused.push(format!("{name}: cannot be read: {error}")),
        }
    }
    if args.fswatch.is_none() && !imported.paths.is_empty() {
        let groups = imported.paths.matches("[[paths.groups]]").count();
        imported.taken -= groups;
        imported.refused.push(format!("{groups} rules about files: give an output file with --fswatch"));
    }
    let write = |path: &PathBuf, text: &str| {
        std::fs::write(path, text).map_err(|error| {
            Failure::new(Exit::Io, format!("{} cannot be written: {error}", path.display()), "")
        })
    };
    match &args.output {
        Some(path) => write(path, &imported.rules)?,
        None => printer.raw(imported.rules.as_bytes())?,
    }
    if let Some(path) = &args.fswatch {
        write(path, &imported.paths)?;
    }
    for refused in &imported.refused {
        print::note(refused);
    }
    print::note(&format!("{} rules converted, {} rejected", imported.taken, imported.refused.len()));
    Ok(if imported.refused.is_empty() { Exit::Ok } else { Exit::NotWell })
}
