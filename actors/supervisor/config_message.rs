//! The `config` message: what a module is told of its configuration and of this host. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use vigie_config::model::{AgentConfig, LoadedConfig, LogMode, ModuleSpec};
use vigie_protocol::message::{ACCEPTED_EXTENSIONS, ConfigParameters, Message};

use super::HostFacts;
use super::module::Module;

/// The message for a module that creates its query socket in `run_dir`, as a line; `packs` is what the fleet has for
/// it.
pub(super) fn line(
    config: &LoadedConfig,
    facts: &HostFacts,
    module: &Module,
    spec: &ModuleSpec,
    run_dir: &Path,
    packs: BTreeMap<String, String>,
) -> Vec<u8> {
    let agent = &config.agent.agent;
    let state_dir = agent.state_dir.join("modules").join(spec.name().as_str());
    let parameters = ConfigParameters {
        config: module.runnable_config().map(ToOwned::to_owned),
        hostname: agent.hostname.clone().unwrap_or_else(|| facts.hostname.clone()),
        environment: facts.environment.clone(),
        tags: Some(config.agent.tags.clone()),
        extraprivacy: agent.extraprivacymode,
        rundir: Some(run_dir.to_string_lossy().into_owned()),
        statedir: Some(state_dir.to_string_lossy().into_owned()),
        ownpaths: own_paths(&config.agent),
        generation: Some(config.generation),
        accepts: ACCEPTED_EXTENSIONS.map(str::to_owned).to_vec(),
        packs,
    };
    Message::config(&parameters).to_line()
}

/// What the agent writes for every alert: the journal, and the log with its rotated files.
fn own_paths(config: &AgentConfig) -> Vec<String> {
    let mut paths = vec![config.agent.state_dir.to_string_lossy().into_owned()];
    if config.logging.mode == LogMode::File {
        let file = config.logging.file.to_string_lossy();
        paths.push(file.to_string());
        paths.extend((1..=config.logging.keep_files).map(|number| format!("{file}.{number}")));
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use std::sync::Arc;

    #[test]
    fn a_module_is_told_the_paths_that_the_agent_writes() {
        let mut config = testing::config(Path::new("/agent"), vec![testing::module("watch")]);
        let loaded = Arc::get_mut(&mut config).unwrap();
        loaded.agent.logging.keep_files = 2;
        let mut module = Module::new();
        module.spec = Some(config.modules[0].clone());

        let (spec, run_dir) = (&config.modules[0], Path::new("/agent/run"));
        let line = line(&config, &HostFacts::default(), &module, spec, run_dir, BTreeMap::new());

        let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
        let parameters = &line["parameters"];
        assert_eq!(
            parameters["ownpaths"],
            serde_json::json!([
                "/agent/state",
                "/agent/agent.log",
                "/agent/agent.log.1",
                "/agent/agent.log.2"
            ])
        );
        assert_eq!(parameters["statedir"], "/agent/state/modules/watch");
        assert_eq!(parameters["generation"], 1);
    }
}
