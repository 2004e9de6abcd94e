//! What has to happen so that a running agent follows a new configuration: nothing to modules that did not
//! change.

use std::path::PathBuf;

use crate::model::{AgentConfig, LoadedConfig, ModuleSection, ModuleSpec};
use crate::sinks::SinkSection;
use vigie_protocol::control::ModuleKind;
use vigie_protocol::module_name::ModuleName;

/// The steps from one configuration to another.
///
/// `changes` says what running processes need. What concerns only the agent itself, such as a module's restart
/// rule, is read from the new configuration and named in `agent_changes`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfigDifference {
    /// One for each persistent module whose process is concerned: first what stops, in the reverse of the old
    /// order of start, then the others in the new order of start.
    pub changes: Vec<ModuleChange>,
    /// One sentence for each change that takes effect and concerns no process.
    pub agent_changes: Vec<String>,
    /// Keys whose new value takes effect only when the agent starts again.
    pub needs_agent_restart: Vec<String>,
}

/// What one module's process needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModuleChange {
    /// The module runs from now on.
    Start {
        /// The module.
        module: ModuleName,
    },
    /// The module runs no longer.
    Stop {
        /// The module.
        module: ModuleName,
    },
    /// Its process must be another one.
    Restart {
        /// The module.
        module: ModuleName,
        /// What changed.
        why: String,
    },
    /// The process gets a new `config` message if it can take one, and is restarted otherwise.
    Reconfigure {
        /// The module.
        module: ModuleName,
        /// What changed.
        why: String,
    },
}

impl ModuleChange {
    /// The module that changes.
    #[must_use]
    pub fn module(&self) -> &ModuleName {
        match self {
            Self::Start { module }
            | Self::Stop { module }
            | Self::Restart { module, .. }
            | Self::Reconfigure { module, .. } => module,
        }
    }
}

impl std::fmt::Display for ModuleChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Start { module } => write!(f, "start {module}"),
            Self::Stop { module } => write!(f, "stop {module}"),
            Self::Restart { module, why } => write!(f, "restart {module} ({why})"),
            Self::Reconfigure { module, why } => write!(f, "reconfigure {module} ({why})"),
        }
    }
}

impl ConfigDifference {
    /// Whether nothing changes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.takes_effect() && self.needs_agent_restart.is_empty()
    }

    /// Whether anything changes before the agent starts again.
    #[must_use]
    pub fn takes_effect(&self) -> bool {
        !self.changes.is_empty() || !self.agent_changes.is_empty()
    }

    /// One sentence for each change, for people.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let modules = self.changes.iter().map(ToString::to_string);
        let restart =
            self.needs_agent_restart.iter().map(|key| format!("{key} takes effect at the next start"));
        modules.chain(self.agent_changes.iter().cloned()).chain(restart).collect()
    }
}

/// Compares two configurations.
#[must_use]
pub fn difference(old: &LoadedConfig, new: &LoadedConfig) -> ConfigDifference {
    let mut result = ConfigDifference::default();
    let told = told_to_modules(&old.agent, &new.agent);

    for spec in old.modules.iter().rev().filter(|spec| runs(spec)) {
        if !find(new, spec.name()).is_some_and(runs) {
            result.changes.push(ModuleChange::Stop { module: spec.name().clone() });
        }
    }
    for spec in new.modules.iter().filter(|spec| runs(spec)) {
        let module = spec.name().clone();
        let Some(before) = find(old, &module).filter(|spec| runs(spec)) else {
            result.changes.push(ModuleChange::Start { module });
            continue;
        };
        let process = process_keys(&before.section, &spec.section);
        let mut live = told.clone();
        if before.config.usable().map(serde_json::value::RawValue::get)
            != spec.config.usable().map(serde_json::value::RawValue::get)
        {
            live.insert(0, "its configuration");
        }
        if !process.is_empty() {
            result.changes.push(ModuleChange::Restart { module, why: changed(&process) });
        } else if !live.is_empty() {
            result.changes.push(ModuleChange::Reconfigure { module, why: changed(&live) });
        }
    }

    section_sentences(old, new, &mut result.agent_changes);
    agent_sentences(&old.agent, &new.agent, &mut result);
    result
}

/// Makes of a configuration that was read the one that a running agent can follow at once, and says what it
/// changes. Keys that need a restart of the agent keep their old values, because nothing may look for sockets
/// or state where the running agent has none; they are named in `needs_agent_restart`.
#[must_use]
pub fn take_effect(old: &LoadedConfig, mut new: LoadedConfig) -> (LoadedConfig, ConfigDifference) {
    let needs_agent_restart = difference(old, &new).needs_agent_restart;
    let default_log = |state_dir: &std::path::Path| state_dir.join("agent.log");
    if new.agent.logging.file == default_log(&new.agent.agent.state_dir) {
        new.agent.logging.file = default_log(&old.agent.agent.state_dir);
    }
    new.agent.agent.run_dir.clone_from(&old.agent.agent.run_dir);
    new.agent.agent.state_dir.clone_from(&old.agent.agent.state_dir);
    let difference = ConfigDifference { needs_agent_restart, ..difference(old, &new) };
    (new, difference)
}

/// Whether a module has a process under this configuration.
#[must_use]
pub fn runs(spec: &ModuleSpec) -> bool {
    spec.section.kind == ModuleKind::Persistent && spec.section.enabled && spec.config.usable().is_some()
}

fn find<'a>(config: &'a LoadedConfig, name: &ModuleName) -> Option<&'a ModuleSpec> {
    config.modules.iter().find(|spec| spec.name() == name)
}

fn changed(what: &[&str]) -> String {
    format!("{} changed", what.join(", "))
}

/// What every module is told in its `config` message besides its own configuration.
fn told_to_modules(old: &AgentConfig, new: &AgentConfig) -> Vec<&'static str> {
    let mut keys = Vec::new();
    if old.tags != new.tags {
        keys.push("tags");
    }
    if old.agent.hostname != new.agent.hostname {
        keys.push("hostname");
    }
    if old.agent.extraprivacymode != new.agent.extraprivacymode {
        keys.push("extraprivacymode");
    }
    keys
}

/// The keys that are fixed when a process starts.
fn process_keys(old: &ModuleSection, new: &ModuleSection) -> Vec<&'static str> {
    [
        ("command", old.command != new.command),
        ("user", old.user != new.user),
        ("env", old.env != new.env),
        ("limits", old.limits != new.limits),
        // A module that listens on a remote address must lose that socket when it may no longer.
        ("allow_remote_tcp", old.allow_remote_tcp != new.allow_remote_tcp),
        ("socket_dir", old.socket_dir != new.socket_dir),
        ("new_privileges", old.new_privileges != new.new_privileges),
        ("dispatch", old.dispatch != new.dispatch),
    ]
    .into_iter()
    .filter_map(|(key, differs)| differs.then_some(key))
    .collect()
}

/// Changes of modules that concern no running process.
fn section_sentences(old: &LoadedConfig, new: &LoadedConfig, sentences: &mut Vec<String>) {
    for before in &old.modules {
        if find(new, before.name()).is_none() && !runs(before) {
            sentences.push(format!("module {} was removed", before.name()));
        }
    }
    for after in &new.modules {
        let name = after.name();
        let Some(before) = find(old, name) else {
            if !runs(after) {
                sentences.push(format!("module {name} was added"));
            }
            continue;
        };
        if before.section.restart != after.section.restart {
            sentences.push(format!("the restart rule of {name} changed"));
        }
        if runs(before) || runs(after) {
            continue;
        }
        let mut keys = process_keys(&before.section, &after.section);
        if before.section.kind != after.section.kind {
            keys.push("kind");
        }
        if before.section.enabled != after.section.enabled {
            keys.push("enabled");
        }
        if !keys.is_empty() {
            sentences.push(format!("{} of module {name}", changed(&keys)));
        }
    }
    let order = |config: &LoadedConfig| -> Vec<ModuleName> {
        let both = |spec: &&ModuleSpec| find(old, spec.name()).is_some() && find(new, spec.name()).is_some();
        config.modules.iter().filter(both).map(|spec| spec.name().clone()).collect()
    };
    if order(old) != order(new) {
        sentences.push("the order of start changed".to_owned());
    }
}

/// Shows a value as people write it; the values themselves only have their Rust form.
fn show(value: &dyn std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    match text.strip_prefix("Some(").and_then(|rest| rest.strip_suffix(')')) {
        Some(inner) => inner.to_owned(),
        None if text == "None" => "not set".to_owned(),
        // The names of log modes and levels.
        None if text.chars().all(char::is_alphabetic) => text.to_lowercase(),
        None => text,
    }
}

/// Changes of the agent's own keys.
fn agent_sentences(old: &AgentConfig, new: &AgentConfig, result: &mut ConfigDifference) {
    let AgentConfig {
        agent: a,
        tags,
        logging: l,
        restart: r,
        limits: m,
        journal: j,
        metrics: x,
        fleet,
        sinks,
        modules: _,
    } = old;
    let AgentConfig { agent: b, logging: k, restart: s, limits: n, journal: i, metrics: y, .. } = new;
    let changes = &mut result.agent_changes;
    let mut compare = |key: &str, old: &dyn std::fmt::Debug, new: &dyn std::fmt::Debug| {
        let (old, new) = (show(old), show(new));
        if old != new {
            changes.push(format!("{key} is {new}, was {old}"));
        }
    };
    compare("agent.persistconfigdir", &a.persistconfigdir, &b.persistconfigdir);
    compare("agent.hostname", &a.hostname, &b.hostname);
    compare("agent.operators_group", &a.operators_group, &b.operators_group);
    compare("agent.extraprivacymode", &a.extraprivacymode, &b.extraprivacymode);
    compare("agent.nopersistmods", &a.nopersistmods, &b.nopersistmods);
    compare("agent.moduletimeout", &a.moduletimeout, &b.moduletimeout);
    compare("agent.heartbeat_interval", &a.heartbeat_interval, &b.heartbeat_interval);
    compare("agent.heartbeat_misses", &a.heartbeat_misses, &b.heartbeat_misses);
    compare("agent.stop_grace", &a.stop_grace, &b.stop_grace);
    compare("agent.stop_budget", &a.stop_budget, &b.stop_budget);
    for tag in tags.keys().chain(new.tags.keys().filter(|tag| !tags.contains_key(*tag))) {
        compare(&format!("tags.{tag}"), &tags.get(tag), &new.tags.get(tag));
    }
    compare("logging.mode", &l.mode, &k.mode);
    compare("logging.level", &l.level, &k.level);
    compare("logging.format", &l.format, &k.format);
    compare("logging.file", &l.file, &k.file);
    compare("logging.max_file_bytes", &l.max_file_bytes, &k.max_file_bytes);
    compare("logging.keep_files", &l.keep_files, &k.keep_files);
    compare("logging.module_burst_bytes", &l.module_burst_bytes, &k.module_burst_bytes);
    compare("logging.module_bytes_per_sec", &l.module_bytes_per_sec, &k.module_bytes_per_sec);
    compare("restart.backoff_initial", &r.backoff_initial, &s.backoff_initial);
    compare("restart.backoff_max", &r.backoff_max, &s.backoff_max);
    compare("restart.healthy_after", &r.healthy_after, &s.healthy_after);
    compare("restart.breaker_deaths", &r.breaker_deaths, &s.breaker_deaths);
    compare("restart.breaker_window", &r.breaker_window, &s.breaker_window);
    compare("restart.breaker_retry", &r.breaker_retry, &s.breaker_retry);
    compare("limits.line_bytes", &m.line_bytes, &n.line_bytes);
    compare("limits.result_bytes", &m.result_bytes, &n.result_bytes);
    compare("limits.running_queries", &m.running_queries, &n.running_queries);
    compare("limits.waiting_queries", &m.waiting_queries, &n.waiting_queries);
    compare("limits.clients", &m.clients, &n.clients);
    compare("limits.client_timeout", &m.client_timeout, &n.client_timeout);
    compare("journal.segment_bytes", &j.segment_bytes, &i.segment_bytes);
    compare("journal.keep_segments", &j.keep_segments, &i.keep_segments);
    compare("journal.memory_bytes", &j.memory_bytes, &i.memory_bytes);
    compare("metrics.listen", &x.listen, &y.listen);
    compare("metrics.textfile", &x.textfile, &y.textfile);
    compare("metrics.textfile_interval", &x.textfile_interval, &y.textfile_interval);
    let (f, g) = (fleet.as_ref(), new.fleet.as_ref());
    compare("fleet.org", &f.map(|f| &f.org), &g.map(|g| &g.org));
    compare("fleet.agent", &f.map(|f| &f.agent), &g.map(|g| &g.agent));
    compare("fleet.urls", &f.map(|f| &f.urls), &g.map(|g| &g.urls));
    compare("fleet.credentials", &f.map(|f| &f.credentials), &g.map(|g| &g.credentials));
    compare("fleet.key_file", &f.map(|f| &f.key_file), &g.map(|g| &g.key_file));
    compare("fleet.ca", &f.map(|f| &f.ca), &g.map(|g| &g.ca));
    compare("fleet.certificate", &f.map(|f| &f.certificate), &g.map(|g| &g.certificate));
    compare("fleet.groups", &f.map(|f| &f.groups), &g.map(|g| &g.groups));
    compare("fleet.roots", &f.map(|f| &f.roots), &g.map(|g| &g.roots));
    compare("fleet.root_threshold", &f.map(|f| f.root_threshold), &g.map(|g| g.root_threshold));
    compare("fleet.policy_file", &f.map(|f| &f.policy_file), &g.map(|g| &g.policy_file));
    compare("fleet.running_actions", &f.map(|f| f.running_actions), &g.map(|g| g.running_actions));
    compare("fleet.waiting_actions", &f.map(|f| f.waiting_actions), &g.map(|g| g.waiting_actions));
    compare("fleet.answer_bytes", &f.map(|f| f.answer_bytes), &g.map(|g| g.answer_bytes));

    sink_sentences(sinks, &new.sinks, changes);

    let mut fixed = |key: &str, old: &PathBuf, new: &PathBuf| {
        if old != new {
            result.needs_agent_restart.push(key.to_owned());
        }
    };
    fixed("agent.run_dir", &a.run_dir, &b.run_dir);
    fixed("agent.state_dir", &a.state_dir, &b.state_dir);
}

/// Sinks that are new, gone or different; not what is different, because that may be an address that is a secret.
fn sink_sentences(old: &[SinkSection], new: &[SinkSection], sentences: &mut Vec<String>) {
    let find = |sinks: &'_ [SinkSection], name: &str| sinks.iter().position(|sink| sink.name == name);
    for sink in old.iter().filter(|sink| find(new, &sink.name).is_none()) {
        sentences.push(format!("sink {} was removed", sink.name));
    }
    for sink in new {
        match find(old, &sink.name).map(|at| &old[at]) {
            None => sentences.push(format!("sink {} was added", sink.name)),
            Some(before) if before != sink => sentences.push(format!("sink {} changed", sink.name)),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;
    use crate::files::{Places, default_config};
    use crate::model::{ModuleConfig, ProcessLimits, RestartRule};
    use vigie_protocol::control::ConfigProblem;

    fn spec(name: &str, config: &str) -> ModuleSpec {
        let section = ModuleSection {
            name: name.parse().unwrap(),
            kind: ModuleKind::Persistent,
            enabled: true,
            command: None,
            user: None,
            env: BTreeMap::new(),
            restart: RestartRule::Permanent,
            allow_remote_tcp: false,
            socket_dir: None,
            limits: ProcessLimits::default(),
            new_privileges: false,
            dispatch: false,
            config_types: Vec::new(),
        };
        ModuleSpec { section, config: ModuleConfig::Good(RawValue::from_string(config.to_owned()).unwrap()) }
    }

    fn loaded(modules: Vec<ModuleSpec>) -> LoadedConfig {
        let agent = default_config(&Places::system(), &[]);
        LoadedConfig {
            generation: 1,
            path: None,
            agent,
            modules,
            warnings: Vec::new(),
            notes: Vec::new(),
            privacy_kept: false,
        }
    }

    fn sentences(old: &LoadedConfig, new: &LoadedConfig) -> Vec<String> {
        difference(old, new).sentences()
    }

    #[test]
    fn only_the_module_that_changed_is_touched() {
        let old = loaded((0..10).map(|n| spec(&format!("m{n}"), "{}")).collect());
        let mut new = old.clone();
        new.modules[3].config = spec("m3", "{\"a\":1}").config;
        new.modules[7].section.user = Some("nobody".to_owned());

        assert_eq!(
            sentences(&old, &new),
            ["reconfigure m3 (its configuration changed)", "restart m7 (user changed)"]
        );
    }

    #[test]
    fn what_stops_does_so_in_reverse_order_before_anything_starts() {
        let old = loaded(vec![spec("a", "{}"), spec("b", "{}"), spec("c", "{}")]);
        let mut new = loaded(vec![spec("d", "{}"), spec("b", "{}"), spec("c", "{}")]);
        new.modules[2].section.enabled = false;

        assert_eq!(sentences(&old, &new), ["stop c", "stop a", "start d"]);
    }

    #[test]
    fn what_all_modules_are_told_reconfigures_all_of_them() {
        let old = loaded(vec![spec("a", "{}"), spec("b", "{}")]);
        let mut new = old.clone();
        new.agent.tags.insert("zone".to_owned(), "dc1".to_owned());
        new.agent.agent.extraprivacymode = true;

        assert_eq!(
            sentences(&old, &new),
            [
                "reconfigure a (tags, extraprivacymode changed)",
                "reconfigure b (tags, extraprivacymode changed)",
                "agent.extraprivacymode is true, was false",
                "tags.zone is \"dc1\", was not set",
            ]
        );
    }

    #[test]
    fn directories_change_only_with_the_agent() {
        let old = loaded(vec![spec("a", "{}")]);
        let mut new = old.clone();
        new.agent.agent.run_dir = "/elsewhere".into();

        new.agent.agent.state_dir = "/state".into();
        new.agent.logging.file = "/state/agent.log".into();
        let mut old = old;
        old.agent.logging.file = old.agent.agent.state_dir.join("agent.log");

        let (effective, change) = take_effect(&old, new);

        assert_eq!(change.needs_agent_restart, ["agent.run_dir", "agent.state_dir"]);
        assert!(!change.takes_effect(), "{change:?}");
        assert!(difference(&old, &effective).is_empty());
    }

    #[test]
    fn a_module_that_keeps_its_last_good_configuration_is_left_alone() {
        let old = loaded(vec![spec("a", "{\"x\":1}")]);
        let mut new = old.clone();
        let config = RawValue::from_string("{\"x\":1}".to_owned()).unwrap();
        let problem =
            ConfigProblem { file: "/a.cfg".into(), line: Some(1), key: None, message: "x".to_owned() };
        new.modules[0].config = ModuleConfig::LastGood { config, problem };

        assert!(difference(&old, &new).is_empty());
    }

    fn any_spec() -> impl Strategy<Value = ModuleSpec> {
        let user = proptest::option::of("[ab]");
        let (switches, config) = (any::<[bool; 4]>(), "[0-2]");
        ("[a-e]", user, switches, config).prop_map(|(name, user, switches, config)| {
            let mut spec = spec(&name, &config);
            let [enabled, persistent, valid, remote] = switches;
            spec.section.user = user;
            spec.section.enabled = enabled;
            spec.section.allow_remote_tcp = remote;
            spec.section.kind = if persistent { ModuleKind::Persistent } else { ModuleKind::Standard };
            if !valid {
                let problem =
                    ConfigProblem { file: "/f".into(), line: None, key: None, message: "bad".to_owned() };
                spec.config = ModuleConfig::Invalid(problem);
            }
            spec
        })
    }

    fn any_config() -> impl Strategy<Value = LoadedConfig> {
        let modules = prop::collection::vec(any_spec(), 0..6);
        let (tags, privacy) = (prop::collection::btree_map("[xy]", "[12]", 0..2), any::<bool>());
        (modules, tags, privacy, 1_u64..3).prop_map(|(modules, tags, privacy, misses)| {
            let mut names = std::collections::BTreeSet::new();
            let modules = modules.into_iter().filter(|one| names.insert(one.name().clone())).collect();
            let mut config = loaded(modules);
            config.agent.tags = tags;
            config.agent.agent.extraprivacymode = privacy;
            config.agent.agent.stop_grace = Duration::from_secs(misses);
            config
        })
    }

    /// What the processes of a configuration were started with, and what they were told since.
    type Processes = BTreeMap<ModuleName, (Option<String>, bool, String)>;

    fn processes(config: &LoadedConfig) -> Processes {
        config.modules.iter().filter(|spec| runs(spec)).map(|spec| process(config, spec)).collect()
    }

    fn process(config: &LoadedConfig, spec: &ModuleSpec) -> (ModuleName, (Option<String>, bool, String)) {
        let told = format!(
            "{} {:?} {}",
            spec.config.usable().map_or("", RawValue::get),
            config.agent.tags,
            config.agent.agent.extraprivacymode
        );
        (spec.name().clone(), (spec.section.user.clone(), spec.section.allow_remote_tcp, told))
    }

    proptest! {
        #[test]
        fn carrying_the_difference_out_leads_from_the_old_to_the_new(old in any_config(), new in any_config()) {
            let mut running = processes(&old);
            let difference = difference(&old, &new);

            for change in &difference.changes {
                let module = change.module();
                let target = find(&new, module).map(|spec| process(&new, spec).1);
                match change {
                    ModuleChange::Stop { .. } => prop_assert!(running.remove(module).is_some()),
                    ModuleChange::Start { .. } => {
                        prop_assert!(running.insert(module.clone(), target.unwrap()).is_none());
                    }
                    ModuleChange::Restart { .. } => {
                        prop_assert!(running.insert(module.clone(), target.unwrap()).is_some());
                    }
                    // A living process can be told new things, but not become another one.
                    ModuleChange::Reconfigure { .. } => running.get_mut(module).unwrap().2 = target.unwrap().2,
                }
            }

            prop_assert_eq!(running, processes(&new));
        }

        #[test]
        fn nothing_changes_between_equal_configurations(config in any_config()) {
            prop_assert!(difference(&config, &config.clone()).is_empty());
        }
    }
}
