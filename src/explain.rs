//! `vigie explain`: what a name in a status, a log line or an answer means, and what to do.

use clap::Args;
use serde::Serialize;
use vigie_protocol::catalogue::{self, Entry};
use vigie_protocol::suggestion;

use crate::exit::{Exit, Failure};
use crate::print::Printer;
use crate::table::hanging;

/// `explain`
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The name, such as journal-unwritable; without a name, list all
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// Print JSON Lines
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Serialize)]
struct Explained {
    name: &'static str,
    kind: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    severity: &'static str,
    meaning: &'static str,
    remedy: &'static str,
}

impl From<Entry> for Explained {
    fn from(entry: Entry) -> Self {
        let Entry { name, kind, severity, meaning, remedy } = entry;
        Self { name, kind, severity, meaning: meaning.trim(), remedy }
    }
}

/// Carries out `explain`.
pub(crate) fn run(args: &ExplainArgs, printer: &mut Printer) -> Result<Exit, Failure> {
    // `signalled(9)` is how a status writes it.
    let wanted = args.name.as_deref().map(|name| name.split('(').next().unwrap_or(name));
    let entries: Vec<Entry> =
        catalogue::all().filter(|entry| wanted.is_none_or(|name| entry.name == name)).collect();
    if entries.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            format!("unknown condition or reason {:?}", args.name.as_deref().unwrap_or_default()),
            suggestion::hint(
                wanted.unwrap_or_default(),
                catalogue::all().map(|entry| entry.name),
                "`vigie explain` lists all names; the documentation of an external module explains its names",
            ),
        ));
    }
    for entry in entries {
        if printer.is_json() {
            printer.json(&Explained::from(entry))?;
        } else if wanted.is_some() {
            for line in text(&entry).lines() {
                printer.line(&hanging(line, printer.width(), 2))?;
            }
        } else {
            let line = format!("{:28} {}", entry.name, entry.meaning.trim());
            printer.line(&hanging(&line, printer.width(), 29))?;
        }
    }
    Ok(Exit::Ok)
}

fn text(entry: &Entry) -> String {
    let severity = if entry.severity.is_empty() { String::new() } else { format!(", {}", entry.severity) };
    format!("{} ({}{severity})\n{}\nRemedy: {}", entry.name, entry.kind, entry.meaning.trim(), entry.remedy)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// The page as it is in the repository.
    fn page() -> String {
        let mut page = String::from(
            "# Conditions and reasons\n\nEvery name that `vigie status`, the log and results can contain. `vigie explain NAME` \
             prints the same text.\n",
        );
        let mut kind = "";
        for entry in catalogue::all() {
            if entry.kind != kind {
                kind = entry.kind;
                let mut title = kind.to_owned();
                title[..1].make_ascii_uppercase();
                write!(page, "\n## {title}\n").unwrap();
            }
            let severity =
                if entry.severity.is_empty() { String::new() } else { format!(" ({})", entry.severity) };
            write!(
                page,
                "\n**`{}`**{severity}: {} Remedy: {}\n",
                entry.name,
                entry.meaning.trim(),
                entry.remedy
            )
            .unwrap();
        }
        page
    }

    #[test]
    fn every_condition_that_a_built_in_module_sets_has_an_explanation() {
        let sources = ["modules/fswatch/engine/health.rs", "modules/events/engine/health.rs"];
        let names: Vec<String> = sources
            .iter()
            .flat_map(|source| {
                let path = format!("{}/{source}", env!("CARGO_MANIFEST_DIR"));
                let text = std::fs::read_to_string(path).unwrap();
                let names = text.split("set(\"").skip(1).filter_map(|rest| rest.split('"').next());
                names.map(str::to_owned).collect::<Vec<_>>()
            })
            .collect();

        assert!(names.len() > 10, "{names:?}");
        for name in names {
            assert!(catalogue::all().any(|entry| entry.name == name), "{name}");
        }
    }

    #[test]
    fn the_page_of_conditions_is_the_catalogue() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/conditions.md");
        if std::env::var_os("VIGIE_WRITE_DOCS").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();

        assert_eq!(
            written,
            page(),
            "run the tests once with VIGIE_WRITE_DOCS=1 and commit docs/conditions.md"
        );
    }
}
