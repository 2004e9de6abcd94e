//! The command line of a benchmark that measures several subjects.

use std::process::ExitCode;

use crate::BenchResult;
use crate::report::{Report, say};

/// What the command line asks for.
#[derive(Debug)]
pub struct Wanted {
    /// A short run.
    pub quick: bool,
    /// JSON instead of the table.
    pub json: bool,
    subjects: Vec<String>,
}

impl Wanted {
    /// Reads the arguments of a benchmark that has these subjects.
    ///
    /// # Errors
    /// The exit code when an argument is unknown; that and the usage are printed.
    pub fn read(arguments: &[String], subjects: &[&str], usage: &str) -> Result<Self, ExitCode> {
        // Cargo adds --bench for `cargo bench` only; under `cargo test --all-targets` a short run is meant.
        let quick = arguments.iter().any(|a| a == "--quick") || !arguments.iter().any(|a| a == "--bench");
        let mut wanted = Self { quick, json: false, subjects: Vec::new() };
        for argument in arguments {
            match argument.as_str() {
                "--bench" | "--quick" => {}
                "--json" => wanted.json = true,
                subject if subjects.contains(&subject) => wanted.subjects.push(subject.to_owned()),
                other => {
                    say(&format!("{other:?} is unknown\n{usage}"));
                    return Err(ExitCode::from(64));
                }
            }
        }
        Ok(wanted)
    }

    /// Measures one subject after the other; one that cannot be measured is shown as such and does not keep the others
    /// from being measured.
    pub fn measure(
        &self,
        subjects: &[&str],
        mut measure: impl FnMut(&str, &mut Report) -> BenchResult<()>,
    ) -> Report {
        let mut report = Report::new(self.quick, !self.json);
        for subject in subjects.iter().filter(|subject| self.has(subject)) {
            report.progress(&format!("measuring {subject}"));
            if let Err(error) = measure(subject, &mut report) {
                report.not_measured(subject, error.as_ref());
            }
        }
        report
    }

    /// All are measured when none is named.
    fn has(&self, subject: &str) -> bool {
        self.subjects.is_empty() || self.subjects.iter().any(|name| name == subject)
    }
}
