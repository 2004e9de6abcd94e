//! `vigie config`: what is set and from where, and what may be set.

mod manual;
mod schema;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use vigie_config::files::{self, Key, LoadOptions, WrittenKey};
use vigie_config::model::LoadedConfig;

use crate::doctor::configuration::difference;
use crate::exit::{Exit, Failure};
use crate::modules::BUILTINS;
use crate::print::{self, Printer, safe};

pub(crate) use manual::{escape, page};

/// `config`
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show every key and the value that the agent would use
    #[command(after_help = "\
Examples:
  vigie config show
  vigie config show --origin               show the file and line that set each key, or \"default\"
  vigie config show --json | jq -r 'select(.origin != \"default\").key'
  vigie config show --run-dir /tmp/vigie   show the file that the agent which runs there has read

The output is TOML. With --run-dir or --socket, the agent is asked for its file. Values in [module.env] are hidden because they may be secrets. Exit codes: 0 valid, 78 invalid.")]
    Show(ShowArgs),

    /// Print the JSON Schema of the configuration file, for editors
    #[command(after_help = "Examples:\n  vigie config schema > vigie.schema.json")]
    Schema,
}

/// `config show`
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The configuration file [default: the file that the agent would read]
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,

    /// Show the origin of each value
    #[arg(long)]
    pub(crate) origin: bool,

    /// Print JSON, one key per line
    #[arg(long)]
    pub(crate) json: bool,
}

/// One key as it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Shown {
    /// With its section.
    pub(crate) key: String,
    /// As TOML.
    pub(crate) value: String,
    /// `FILE:LINE`, `default` or `command line`.
    pub(crate) origin: String,
}

/// What stands in place of a value that may be a secret.
pub(crate) const HIDDEN: &str = "\"(hidden)\"";

/// What the agent that answers at a named socket has read.
fn read_by_agent(socket: &Path) -> Result<Option<PathBuf>, Failure> {
    let status = crate::status::fetch(socket).map_err(|error| {
        let is_absent = error.is_absence();
        let mut failure = Failure::from(error);
        if is_absent {
            failure.hint =
                "name the file that it would read: `vigie config show FILE`; or start the agent".to_owned();
        }
        failure
    })?;
    if let Some(Ok((found, remedy))) = difference(&status.config, status.config.path.as_deref()) {
        print::note(&format!("{found}; {remedy}"));
    }
    Ok(status.config.path)
}

/// Carries out `config`; `agent` is the socket of the agent that the command line names.
pub(crate) fn run(
    command: &ConfigCommand,
    agent: Option<&Path>,
    run_dir: Option<&Path>,
    printer: impl FnOnce(bool) -> Printer,
) -> Result<Exit, Failure> {
    match command {
        ConfigCommand::Schema => {
            let text = serde_json::to_string_pretty(&schema::of(&files::keys(BUILTINS)))
                .map_err(std::io::Error::from)?;
            printer(true).raw(format!("{text}\n").as_bytes())?;
            Ok(Exit::Ok)
        }
        ConfigCommand::Show(args) => {
            let file = match (&args.file, agent) {
                (None, Some(agent)) => read_by_agent(agent)?,
                (file, _) => file.clone(),
            };
            let options = LoadOptions { run_dir: run_dir.map(Path::to_owned), ..LoadOptions::at_start(file) };
            let (config, written) = files::load_with_origins(&options, BUILTINS).map_err(|problems| {
                for problem in &problems {
                    print::problem(&problem.to_string());
                }
                Failure::new(Exit::Config, "the configuration is invalid", "correct the problems above")
            })?;
            let shown = shown(&config, &written, &files::keys(BUILTINS));
            // TOML is for people and for programs: JSON only when it is asked for.
            let mut printer = printer(args.json);
            if args.json {
                for one in &shown {
                    printer.json(one)?;
                }
            } else {
                printer.raw(toml(&shown, args.origin).as_bytes())?;
            }
            Ok(Exit::Ok)
        }
    }
}

/// Every key with its value and where that comes from: the keys of the sections in their order, then the modules.
pub(crate) fn shown(config: &LoadedConfig, written: &[WrittenKey], keys: &[Key]) -> Vec<Shown> {
    let file = config.path.as_ref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let of_file = |key: &WrittenKey| {
        let hidden = key.name.starts_with("module.") && key.name.contains(".env.");
        Shown {
            key: key.name.clone(),
            value: if hidden { HIDDEN.to_owned() } else { key.value.clone() },
            origin: key.line.map_or("command line".to_owned(), |line| format!("{file}:{line}")),
        }
    };
    let mut all = Vec::new();
    for key in keys.iter().filter(|key| !is_listed(&key.name)) {
        if let Some(prefix) = key.name.strip_suffix("NAME") {
            all.extend(written.iter().filter(|one| one.name.starts_with(prefix)).map(of_file));
        } else if let Some(one) = written.iter().find(|one| one.name == key.name) {
            all.push(of_file(one));
        } else if let Some(value) = default(config, key) {
            all.push(Shown { key: key.name.clone(), value, origin: "default".to_owned() });
        }
    }
    all.extend(written.iter().filter(|one| is_listed(&one.name)).map(of_file));
    all
}

/// Whether a key is of a table that can be there several times.
fn is_listed(name: &str) -> bool {
    name.starts_with("module.") || name.starts_with("sink.")
}

/// The default of a key; some depend on the user and on the file.
fn default(config: &LoadedConfig, key: &Key) -> Option<String> {
    let agent = &config.agent.agent;
    let path = |path: &std::path::Path| Some(format!("{:?}", path.to_string_lossy()));
    match key.name.as_str() {
        "agent.run_dir" => path(&agent.run_dir),
        "agent.state_dir" => path(&agent.state_dir),
        "agent.persistconfigdir" => path(&agent.persistconfigdir),
        "agent.extraprivacymode" => Some(agent.extraprivacymode.to_string()),
        "logging.file" => path(&config.agent.logging.file),
        name if name.starts_with("fleet.") && config.agent.fleet.is_none() => None,
        _ => key.default.clone(),
    }
}

/// The keys as a file that could be read again.
fn toml(shown: &[Shown], with_origin: bool) -> String {
    let mut text = String::new();
    let mut section = "";
    for Shown { key, value, origin } in shown {
        let (table, name) = key.split_once('.').unwrap_or(("", key));
        let heading = if is_listed(key) {
            heading_of(table, name)
        } else {
            (table != section).then(|| format!("[{table}]"))
        };
        if let Some(heading) = heading {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&format!("{heading}\n"));
        }
        section = table;
        // `module.fswatch.limits.nice` is the key `limits.nice` of the block that the name began.
        let name = match (is_listed(key), name.split_once('.')) {
            (true, Some((_, rest))) if name != "name" => rest,
            _ => name,
        };
        let line = format!("{name} = {}", safe(value));
        if with_origin {
            text.push_str(&format!("{line:48} # {}\n", safe(origin)));
        } else {
            text.push_str(&format!("{line}\n"));
        }
    }
    text
}

/// The heading of a listed table, which its name begins.
fn heading_of(table: &str, name: &str) -> Option<String> {
    (name == "name").then(|| format!("[[{table}]]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (tempfile::TempDir, Vec<Shown>) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("vigie.toml");
        // What was shown for another directory is about this one.
        let named = text.lines().filter(|line| !line.starts_with("persistconfigdir"));
        std::fs::write(&file, named.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        let (config, written) =
            files::load_with_origins(&LoadOptions::at_start(Some(file)), BUILTINS).unwrap();
        let shown = shown(&config, &written, &files::keys(BUILTINS));
        (directory, shown)
    }

    const TEXT: &str = "[agent]\nstop_grace = \"3s\"\n[tags]\nzone = \"a\"\n[[module]]\nname = \"fswatch\"\nrestart = \"transient\"\n\
                        [module.env]\nTOKEN = \"canary-secret\"\n";

    #[test]
    fn a_value_comes_from_its_line_or_is_the_default() {
        let (_directory, shown) = read(TEXT);

        let schema = serde_json::from_str(include_str!("../docs/config-show.schema.json")).unwrap();
        for one in &shown {
            assert_eq!(vigie_schema::problems(&schema, "", &serde_json::to_value(one).unwrap()), [""; 0]);
        }
        let of = |key: &str| shown.iter().find(|one| one.key == key).unwrap();
        assert_eq!(of("agent.stop_grace").value, "\"3s\"");
        assert!(of("agent.stop_grace").origin.ends_with("vigie.toml:2"));
        assert_eq!(
            (of("agent.stop_budget").value.as_str(), of("agent.stop_budget").origin.as_str()),
            ("\"8s\"", "default")
        );
        assert!(of("tags.zone").origin.ends_with(":4"));
        assert!(!shown.iter().any(|one| one.key.starts_with("fleet.")));
    }

    #[test]
    fn what_is_shown_is_a_file_that_means_the_same_without_secrets() {
        let (_directory, shown) = read(TEXT);

        let text = toml(&shown, true);

        assert!(!text.contains("canary-secret") && text.contains("env.TOKEN = \"(hidden)\""), "{text}");
        assert!(text.contains("stop_grace = \"3s\"") && text.contains("# default\n"), "{text}");
        let (_directory, again) = read(&text);
        let values = |shown: &[Shown]| -> Vec<(String, String)> {
            let others = shown.iter().filter(|one| one.key != "agent.persistconfigdir");
            others.map(|one| (one.key.clone(), one.value.clone())).collect()
        };
        assert_eq!(values(&again), values(&shown));
    }
}
