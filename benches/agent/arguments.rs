//! The command line of a benchmark that measures several subjects.

/// What the command line asks for.
pub(crate) struct Wanted {
    /// A short run.
    pub(crate) quick: bool,
    /// JSON instead of the table.
    pub(crate) json: bool,
    subjects: Vec<String>,
}

impl Wanted {
    /// Reads the arguments of a benchmark that has these subjects.
    pub(crate) fn read(arguments: &[String], subjects: &[&str], usage: &str) -> Result<Self, String> {
        // Cargo adds --bench for `cargo bench` only; under `cargo test --all-targets` a short run is meant.
        let quick = arguments.iter().any(|a| a == "--quick") || !arguments.iter().any(|a| a == "--bench");
        let mut wanted = Self { quick, json: false, subjects: Vec::new() };
        for argument in arguments {
            match argument.as_str() {
                "--bench" | "--quick" => {}
                "--json" => wanted.json = true,
                subject if subjects.contains(&subject) => wanted.subjects.push(subject.to_owned()),
                other => return Err(format!("{other:?} is unknown\n{usage}")),
            }
        }
        Ok(wanted)
    }

    /// Whether a subject is to be measured: all are when none is named.
    pub(crate) fn has(&self, subject: &str) -> bool {
        self.subjects.is_empty() || self.subjects.iter().any(|name| name == subject)
    }
}
