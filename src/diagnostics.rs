//! `vigie diagnostics`: one archive for those who help, with nothing in it that they need not see.
//!
//! What may be shown is a list of keys, not of secrets: numbers, switches and words of catalogues go in clear, every
//! other text is hidden unless it is asked for. `MANIFEST.json` says what is in the archive, and how much of each file
//! is hidden.

use std::fs::OpenOptions;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use vigie_config::files::{self, Key, KeyKind, LoadOptions};
use vigie_config::model::LogMode;
use vigie_protocol::catalogue;
use vigie_protocol::control::AgentStatus;

use crate::client::ClientError;
use crate::config_view::{self, Shown};
use crate::exit::{Exit, Failure};
use crate::modules::BUILTINS;
use crate::print::Printer;
use crate::{doctor, status};

/// Most bytes of the log that are taken, from its end.
const LOG_BYTES: u64 = 8 << 20;

/// `diagnostics`
#[derive(Debug, Args)]
pub(crate) struct DiagnosticsArgs {
    /// The archive to create; it must not exist yet [default: vigie-diagnostics-TIME.tar.gz in the current
    /// directory]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,

    /// Do not hide this kind of data; may be repeated
    #[arg(long, value_name = "WHAT")]
    pub(crate) include: Vec<Shareable>,

    /// The configuration file [default: the file that the running agent has read, or the one that an
    /// agent would read]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Print the manifest as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a person can decide to share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shareable {
    /// Texts of conditions, problems and findings, which can name files and commands
    Details,
    /// Tag names and values
    Tags,
    /// Names of this host, its fleet and its groups
    Names,
    /// The last 8 MiB of the agent's log, unmodified
    Log,
}

/// One file of the archive.
#[derive(Debug, Clone, Serialize)]
struct Entry {
    file: &'static str,
    bytes: usize,
    sha256: String,
    /// Values that are hidden in it.
    hidden: usize,
}

/// What is collected.
struct Bundle {
    files: Vec<(&'static str, Vec<u8>, usize)>,
    include: Vec<Shareable>,
    /// What is not in it, and why.
    left_out: Vec<String>,
}

/// Carries out `diagnostics`.
pub(crate) fn run(args: &DiagnosticsArgs, socket: &Path, printer: &mut Printer) -> Result<Exit, Failure> {
    let now = jiff::Timestamp::now();
    let out = args.out.clone().unwrap_or_else(|| {
        PathBuf::from(format!("vigie-diagnostics-{}.tar.gz", now.strftime("%Y%m%dT%H%M%SZ")))
    });
    let mut bundle = Bundle { files: Vec::new(), include: args.include.clone(), left_out: Vec::new() };
    bundle.add("version.json", &version());
    bundle.add_status(socket);
    let config = args.config.clone().or_else(|| doctor::config_in_use(socket));
    bundle.add_doctor(config.clone(), socket);
    bundle.add_configuration(config);
    let manifest = bundle.manifest(&now.to_string());
    let archive = bundle.archive(&manifest)?;
    let unwritable = |error: std::io::Error| {
        let hint = "give a file that does not exist yet with --out";
        Failure::new(Exit::Io, format!("cannot write {out:?}: {error}"), hint)
    };
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&out).map_err(unwritable)?;
    file.write_all(&archive).map_err(unwritable)?;
    if printer.is_json() {
        printer.json(&manifest)?;
    } else {
        printer.line(&format!("{} ({} bytes)", out.display(), archive.len()))?;
        for (name, content, hidden) in &bundle.files {
            printer.line(&format!("  {name:16} {:8} bytes, {hidden} values hidden", content.len()))?;
        }
        for text in &bundle.left_out {
            printer.line(&format!("  not in it: {text}"))?;
        }
    }
    Ok(Exit::Ok)
}

fn version() -> Value {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "vigie": env!("CARGO_PKG_VERSION"),
        "kernel": kernel.trim(),
        "arch": vigie_host::architecture(),
        "os": vigie_host::environment::collect(Vec::new()).ident,
    })
}

impl Bundle {
    fn shares(&self, what: Shareable) -> bool {
        self.include.contains(&what)
    }

    /// Adds JSON of which nothing is hidden.
    fn add(&mut self, name: &'static str, value: &Value) {
        self.files.push((name, pretty(value), 0));
    }

    fn add_status(&mut self, socket: &Path) {
        match status::fetch(socket) {
            // Where its socket is looked for is nobody else's business.
            Err(ClientError::NotRunning { .. }) => {
                self.left_out.push("status.json and metrics.prom: no agent answers".to_owned());
            }
            Err(ClientError::NotPermitted { .. }) => {
                self.left_out
                    .push("status.json and metrics.prom: this user may not use the agent".to_owned());
            }
            Err(_) => {
                self.left_out.push("status.json and metrics.prom: the agent did not respond".to_owned())
            }
            Ok(mut status) => {
                let foreign =
                    if self.shares(Shareable::Details) { 0 } else { hide_foreign_words(&mut status) };
                let page = vigie_metrics::render(&status, vigie_metrics::Form::Text);
                let mut value = serde_json::to_value(&status).unwrap_or_default();
                let hidden = hide(&mut value, "", &|key| {
                    shows(key)
                        || self.shares(Shareable::Details) && DETAILS.contains(&key)
                        || self.shares(Shareable::Names) && NAMES.contains(&key)
                });
                self.files.push(("status.json", pretty(&value), hidden + foreign));
                self.files.push(("metrics.prom", page.into_bytes(), 0));
            }
        }
    }

    fn add_doctor(&mut self, config: Option<PathBuf>, socket: &Path) {
        let (mut text, mut hidden) = (String::new(), 0);
        for finding in doctor::all_findings(config, socket) {
            let mut value = serde_json::to_value(&finding).unwrap_or_default();
            // A remedy is our own text, but for names of files that some have in them.
            hidden += hide(&mut value, "", &|key| {
                matches!(key, "id" | "title" | "status" | "docs") || self.shares(Shareable::Details)
            });
            text.push_str(&format!("{value}\n"));
        }
        self.files.push(("doctor.jsonl", text.into_bytes(), hidden));
    }

    fn add_configuration(&mut self, file: Option<PathBuf>) {
        let loaded = files::load_with_origins(&LoadOptions::at_start(file), BUILTINS);
        let Ok((config, written)) = loaded else {
            self.left_out.push("configuration.jsonl: invalid configuration; see doctor.jsonl".to_owned());
            return;
        };
        let keys = files::keys(BUILTINS);
        let (mut text, mut hidden) = (String::new(), 0);
        for mut shown in config_view::shown(&config, &written, &keys) {
            if !self.may_show(&shown, &keys) {
                shown.value = config_view::HIDDEN.to_owned();
                hidden += 1;
                if shown.key.starts_with("tags.") {
                    shown.key = "tags.(hidden)".to_owned();
                }
                // Free names below a module or a sink.
                for table in [".env.", ".headers.", ".config_types."] {
                    if let Some((before, _)) = shown.key.split_once(table) {
                        shown.key = format!("{before}{table}(hidden)");
                    }
                }
            }
            // The file's name is that of the check configuration.files, where it can be shared.
            let line = shown.origin.rsplit_once(':').map(|(_, line)| format!("line {line}"));
            shown.origin = line.unwrap_or(shown.origin);
            text.push_str(&format!("{}\n", serde_json::to_value(&shown).unwrap_or_default()));
        }
        self.files.push(("configuration.jsonl", text.into_bytes(), hidden));
        if !self.shares(Shareable::Log) {
            self.left_out.push("the log: include it with --include log".to_owned());
        } else if config.agent.logging.mode != LogMode::File {
            self.left_out.push("the log: not written to a file; see `journalctl -u vigie`".to_owned());
        } else {
            match tail(&config.agent.logging.file) {
                Ok(log) => self.files.push(("agent.log", log, 0)),
                Err(error) => self.left_out.push(format!("the log: {error}")),
            }
        }
    }

    /// Whether the value of a key is a number, a switch, a word of a list, or a text that is known to be harmless.
    fn may_show(&self, shown: &Shown, keys: &[Key]) -> bool {
        let general = |name: &str| match name.split('.').collect::<Vec<_>>().as_slice() {
            [listed @ ("module" | "sink"), _, rest @ ..] if !rest.is_empty() => {
                format!("{listed}.{}", rest.join("."))
            }
            _ => name.to_owned(),
        };
        if shown.key.starts_with("tags.") {
            return self.shares(Shareable::Tags);
        }
        let name = general(&shown.key);
        if matches!(name.as_str(), "agent.hostname" | "fleet.org" | "fleet.agent" | "fleet.groups") {
            return self.shares(Shareable::Names);
        }
        shown.origin == "default"
            || name == "module.name"
            || keys.iter().any(|key| {
                key.name == name
                    && matches!(
                        key.kind,
                        KeyKind::Boolean
                            | KeyKind::Integer { .. }
                            | KeyKind::Bytes { .. }
                            | KeyKind::Duration { .. }
                            | KeyKind::Choice(_)
                    )
            })
    }

    fn manifest(&self, now: &str) -> Value {
        let entries: Vec<Entry> = self
            .files
            .iter()
            .map(|(file, content, hidden)| Entry {
                file,
                bytes: content.len(),
                sha256: data_encoding::HEXLOWER.encode(&Sha256::digest(content)),
                hidden: *hidden,
            })
            .collect();
        json!({"made": now, "files": entries, "left_out": self.left_out})
    }

    /// The archive: the manifest first, then the files in the order in which they were collected, without times and
    /// owners.
    fn archive(&self, manifest: &Value) -> Result<Vec<u8>, Failure> {
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
        let manifest = pretty(manifest);
        let files = self.files.iter().map(|(name, content, _)| (*name, content.as_slice()));
        for (name, content) in std::iter::once(("MANIFEST.json", manifest.as_slice())).chain(files) {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(0);
            archive.append_data(&mut header, name, content)?;
        }
        Ok(archive.into_inner()?.finish()?)
    }
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

/// The end of a log.
fn tail(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
    let mut log = Vec::new();
    file.take(LOG_BYTES).read_to_end(&mut log)?;
    Ok(log)
}

/// Keys of the status whose texts are versions, times, names of modules, and words of catalogues.
const SHOWN: [&str; 21] = [
    "version",
    "started_at",
    "health",
    "name",
    "severity",
    "since",
    "kind",
    "state",
    "module",
    "last_exit",
    "heartbeat_at",
    "last_reload_at",
    "containment",
    "head",
    "about",
    "unchecked",
    "sink",
    "made",
    "generation",
    "incarnation",
    "pid",
];

/// Keys whose texts are sentences.
const DETAILS: [&str; 11] = [
    "problems", "problem", "detail", "reason", "error", "damage", "trimmed", "trouble", "errors", "message",
    "socket",
];

/// Keys whose texts name a host or a fleet.
const NAMES: [&str; 4] = ["hostname", "org", "agent", "key"];

fn shows(key: &str) -> bool {
    SHOWN.contains(&key)
}

/// Hides what stands in places of words and is none of ours; returns how many. Why a module could not be started has
/// paths in it, and what a module calls its own conditions is its own affair.
fn hide_foreign_words(status: &mut AgentStatus) -> usize {
    let mut hidden = 0;
    for exit in status.modules.iter_mut().filter_map(|module| module.last_exit.as_mut()) {
        if let Some((word, why)) = exit.split_once('(')
            && why.trim_end_matches(')').parse::<i64>().is_err()
            && !matches!(word, "limit")
        {
            *exit = format!("{word}(hidden)");
            hidden += 1;
        }
    }
    for standing in &mut status.conditions {
        let name = &mut standing.condition.name;
        if !catalogue::all().any(|entry| entry.name == *name) {
            "(hidden)".clone_into(name);
            hidden += 1;
        }
    }
    hidden
}

/// Hides every text whose key may not be shown; returns how many.
fn hide(value: &mut Value, key: &str, shows: &dyn Fn(&str) -> bool) -> usize {
    match value {
        Value::String(text) => {
            if shows(key) || text.is_empty() {
                return 0;
            }
            "(hidden)".clone_into(text);
            1
        }
        Value::Array(items) => items.iter_mut().map(|item| hide(item, key, shows)).sum(),
        Value::Object(map) => map.iter_mut().map(|(key, value)| hide(value, key, shows)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use vigie_protocol::condition::{Condition, ConditionSeverity, StandingCondition, Subject};
    use vigie_protocol::control::ModuleStatus;

    use super::*;

    #[test]
    fn texts_are_hidden_unless_their_key_is_listed() {
        let mut value = json!({
            "health": "failed", "pid": 3, "problems": ["x /secret"],
            "conditions": [{"about": {"module": "m"}, "name": "n", "detail": "/secret", "new_key": "x"}],
        });

        let hidden = hide(&mut value, "", &shows);

        assert_eq!(hidden, 3);
        assert!(!value.to_string().contains("secret") && value["health"] == "failed" && value["pid"] == 3);
        assert_eq!(value["conditions"][0]["about"]["module"], "m");
    }

    #[test]
    fn what_stands_in_the_place_of_a_word_and_is_none_is_hidden() {
        let condition = |about: Subject, name: &str| StandingCondition {
            about,
            condition: Condition {
                name: name.to_owned(),
                severity: ConditionSeverity::Warning,
                since: "2026-01-01T00:00:00Z".to_owned(),
                detail: "canary".to_owned(),
            },
        };
        let exits = ["spawn_failed(/srv/canary/x: gone)", "shortage(canary)", "exited(3)", "limit(memory)"];
        let mut status = crate::status::tests::status();
        let module = status.modules[0].clone();
        status.modules =
            exits.map(|exit| ModuleStatus { last_exit: Some(exit.to_owned()), ..module.clone() }).into();
        let of = |name: &str| condition(Subject::Module("fswatch".parse().unwrap()), name);
        status.conditions = vec![of("heartbeat-missed"), of("token-canary-expired")];

        let hidden = hide_foreign_words(&mut status);

        let text = serde_json::to_string(&status.modules).unwrap();
        assert!(
            !text.contains("canary") && text.contains("exited(3)") && text.contains("limit(memory)"),
            "{text}"
        );
        let names: Vec<&str> = status.conditions.iter().map(|one| one.condition.name.as_str()).collect();
        assert_eq!((names, hidden), (vec!["heartbeat-missed", "(hidden)"], 3));
        let page = vigie_metrics::render(&status, vigie_metrics::Form::Text);
        assert!(!page.contains("canary"), "{page}");
    }

    #[test]
    fn the_archive_begins_with_its_manifest_and_says_what_is_in_it() {
        let mut bundle =
            Bundle { files: Vec::new(), include: Vec::new(), left_out: vec!["the log: x".to_owned()] };
        bundle.add("version.json", &json!({"vigie": "1"}));
        let manifest = bundle.manifest("2026-01-01T00:00:00Z");

        let archive = bundle.archive(&manifest).unwrap();
        assert_eq!(archive, bundle.archive(&manifest).unwrap());

        let mut names = Vec::new();
        let mut reader = tar::Archive::new(flate2::read::GzDecoder::new(archive.as_slice()));
        for entry in reader.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            if name != "MANIFEST.json" {
                let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(&content));
                assert_eq!(manifest["files"][0]["sha256"], digest);
            }
            names.push(name);
        }
        assert_eq!(names, ["MANIFEST.json", "version.json"]);
    }
}
