//! The configurations that the modules confirmed, on disk, so that also a later agent has one to go back to when a
//! module refuses what its file says now.
//!
//! One file for each module in `STATE_DIR/confirmed`, which no module can read. Extra privacy mode is no part of it: it
//! goes beside the configuration in each `config` message and is always the one in force.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use slog::{Logger, warn};
use vigie_config::model::{LoadedConfig, ModuleConfig};
use vigie_files::durable::{self, Durability};
use vigie_protocol::module_name::ModuleName;

use crate::work_threads::{self, Lane};

/// The directory in the state directory.
const DIRECTORY: &str = "confirmed";

/// Largest file that is read, in bytes: a module's file of 1 MiB with every byte escaped.
const MAX_BYTES: u64 = 8 << 20;

/// A configuration that a module said is in force.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Confirmed {
    /// When it said so first, RFC 3339.
    pub(super) at: String,
    pub(super) config: Box<RawValue>,
}

impl Confirmed {
    pub(super) fn now(config: &RawValue) -> Self {
        Self { at: jiff::Timestamp::now().strftime("%FT%TZ").to_string(), config: config.to_owned() }
    }
}

fn file(state_dir: &Path, module: &ModuleName) -> PathBuf {
    state_dir.join(DIRECTORY).join(format!("{module}.json"))
}

fn read(state_dir: &Path, module: &ModuleName) -> Option<Confirmed> {
    let bytes = durable::read_bounded(&file(state_dir, module), MAX_BYTES).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Reads what earlier agents kept. What is kept of modules that are not `wanted` any more goes: whoever switched a
/// module off or took it away does not want it back. Reads, which a frozen disk allows; called before any module runs.
#[expect(clippy::disallowed_methods, reason = "called before any module runs")]
pub(super) fn load(
    state_dir: &Path,
    wanted: impl Fn(&ModuleName) -> bool,
    log: &Logger,
) -> BTreeMap<ModuleName, Confirmed> {
    let entries = std::fs::read_dir(state_dir.join(DIRECTORY)).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_suffix(".json")?.parse::<ModuleName>().ok()
    });
    let mut kept = BTreeMap::new();
    for name in names {
        if !wanted(&name) {
            store(state_dir, &name, None, log);
        } else if let Some(confirmed) = read(state_dir, &name) {
            kept.insert(name, confirmed);
        }
    }
    kept
}

/// Has a module's newest one written, or what is kept removed. Never waits.
pub(super) fn store(state_dir: &Path, module: &ModuleName, confirmed: Option<&Confirmed>, log: &Logger) {
    let path = file(state_dir, module);
    let content = confirmed.map(|confirmed| serde_json::to_vec(confirmed).unwrap_or_default());
    let (log, name) = (log.clone(), module.clone());
    drop(work_threads::run(Lane::Journal, move || {
        let written = match &content {
            None => durable::remove(&path),
            Some(content) => durable::make_directory(durable::parent(&path))
                .and_then(|()| durable::replace(&path, content, Durability::Power)),
        };
        if let Err(error) = written.or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        }) {
            warn!(log, "cannot store the configuration that a module confirmed"; "module" => %name,
                "error" => %error);
        }
    }));
}

/// Gives modules whose files are invalid the last configuration that they confirmed to an earlier agent, as a reload
/// gives them the one that they have. Blocking, called before any actor runs.
pub fn restore(config: &mut LoadedConfig) {
    let state_dir = config.agent.agent.state_dir.clone();
    for spec in &mut config.modules {
        let ModuleConfig::Invalid(problem) = &spec.config else { continue };
        if let Some(kept) = read(&state_dir, spec.name()).filter(|_| spec.section.enabled) {
            spec.config = ModuleConfig::LastGood { config: kept.config, problem: problem.clone() };
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test may wait for a disk")]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn what_is_stored_is_loaded_garbage_is_nothing_and_what_is_not_wanted_goes() {
        let directory = tempfile::tempdir().unwrap();
        let log = Logger::root(slog::Discard, slog::o!());
        let names: Vec<ModuleName> = ["one", "two", "three"].map(|name| name.parse().unwrap()).into();
        let config = RawValue::from_string(r#"{"Paths":{"Path":["/etc"]}}"#.to_owned()).unwrap();
        for name in &names {
            store(directory.path(), name, Some(&Confirmed::now(&config)), &log);
        }
        while !names.iter().all(|name| file(directory.path(), name).exists()) {
            tokio::task::yield_now().await;
        }
        std::fs::write(file(directory.path(), &names[1]), "{").unwrap();

        let kept = load(directory.path(), |name| *name != names[2], &log);

        assert_eq!(kept.keys().collect::<Vec<_>>(), [&names[0]]);
        assert_eq!(kept[&names[0]].config.get(), config.get());
        while file(directory.path(), &names[2]).exists() {
            tokio::task::yield_now().await;
        }
        assert!(load(Path::new("/nonexistent"), |_| true, &log).is_empty());
    }
}
