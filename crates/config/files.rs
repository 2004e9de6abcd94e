//! From files to a [`LoadedConfig`]: the agent's own file and one file for each module.
//!
//! ```text
//! vigie.toml ──► toml_format ──────────────────┐
//! mig-agent.cfg ► gcfg ──► mig_agent_file ─────┴► agent_file ──► AgentConfig ┐
//! NAME.cfg, NAME.toml ───► gcfg, toml_format ──► module_file ──► JSON ───────┴► LoadedConfig
//! ```
//!
//! Both formats are given to the `config` crate, which carries every value's file and line; `reader` takes the
//! values out and collects all problems. A problem in the agent's file refuses the whole; one in a module's
//! file concerns that module alone.

mod agent_file;
mod fleet_section;
mod gcfg;
mod keys;
mod mig_agent_file;
mod module_file;
mod origin;
mod places;
mod reader;
mod sink_section;
mod text;
mod toml_format;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::{ConfigError, File, FileStoredFormat, Map, Source, Value, ValueKind};
use serde_json::value::{RawValue, to_raw_value};
use walkdir::WalkDir;

use self::agent_file::{Context, read_agent};
pub use self::agent_file::{RESERVED_NAMES, tag_problem};
use self::gcfg::Gcfg;
pub use self::keys::{Key, KeyKind, SHIPPED, WrittenKey, keys};
use self::module_file::{ModuleShape, Notation, module_config};
use self::origin::SyntaxError;
pub use self::places::Places;
use self::reader::{Problems, unknown};
pub use self::sink_section::check_url;
use self::text::Unread;
use self::toml_format::Toml;
use crate::builtin::BuiltinModule;
use crate::model::{
    AgentConfig, LoadedConfig, ModuleConfig, ModuleSection, ModuleSpec, ProcessLimits, RestartRule,
};
use vigie_protocol::control::{ConfigProblem, ModuleKind};
use vigie_protocol::module_name::ModuleName;

/// What to load and what to fall back on.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The agent's file where one was named; it must exist then.
    pub file: Option<PathBuf>,
    /// Where things are by default.
    pub places: Places,
    /// The configuration in force: a module whose file is invalid keeps what it has there, and an agent's file
    /// that has vanished since does not turn into the defaults.
    pub previous: Option<Arc<LoadedConfig>>,
    /// The run directory of the command line, which is stronger than the file's.
    pub run_dir: Option<PathBuf>,
    /// Extra privacy mode was on before: only an explicit `extraprivacymode = false` turns it off.
    pub remembers_privacy: bool,
}

impl LoadOptions {
    /// The options of an agent that starts.
    #[must_use]
    pub fn at_start(file: Option<PathBuf>) -> Self {
        Self {
            file,
            places: Places::of_this_process(),
            previous: None,
            run_dir: None,
            remembers_privacy: false,
        }
    }

    /// The agent's file, whether or not it exists.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.as_deref().unwrap_or(&self.places.config_file)
    }
}

/// The agent's configuration where no file says anything.
#[cfg(test)]
pub(crate) fn default_config(places: &Places, builtins: &[BuiltinModule]) -> AgentConfig {
    let persistconfigdir = modules_directory(&places.config_file);
    let context = Context { places, persistconfigdir: &persistconfigdir, builtins };
    let (mut problems, mut warnings) =
        (Problems::new(&places.config_file), Problems::new(&places.config_file));
    read_agent(Map::new(), context, &mut problems, &mut warnings)
}

/// Reads and checks everything. Blocks: it reads files and looks up users.
///
/// The generation is one above that of the previous configuration.
///
/// # Errors
/// Everything that is wrong with the agent's file; the configuration in force should stay.
pub fn load(options: &LoadOptions, builtins: &[BuiltinModule]) -> Result<LoadedConfig, Vec<ConfigProblem>> {
    load_with_origins(options, builtins).map(|(config, _)| config)
}

/// The same, with every key that the agent's file sets and its line.
///
/// # Errors
/// As [`load`].
pub fn load_with_origins(
    options: &LoadOptions,
    builtins: &[BuiltinModule],
) -> Result<(LoadedConfig, Vec<WrittenKey>), Vec<ConfigProblem>> {
    let path = options.path();
    let refuse = |problem| Err(vec![problem]);
    let text = match text::read(path) {
        Ok(text) => Some(text),
        Err(Unread::Bad(problem)) => return refuse(problem),
        Err(Unread::Missing) if options.file.is_some() => {
            let message = "does not exist".to_owned();
            return refuse(ConfigProblem { file: path.to_owned(), line: None, key: None, message });
        }
        Err(Unread::Missing) if options.previous.as_ref().is_some_and(|config| config.path.is_some()) => {
            // Falling back to the defaults would turn off extra privacy mode, for one.
            let message = "was removed; to use the defaults, restart the agent".to_owned();
            return refuse(ConfigProblem { file: path.to_owned(), line: None, key: None, message });
        }
        Err(Unread::Missing) => None,
    };

    let (mut problems, mut warnings) = (Problems::new(path), Problems::new(path));
    let mut notes = Problems::new(path);
    if text.is_some() {
        let doubts = [text::owned_by_another(path), text::writable_by_others(path)];
        problems.extend(doubts.into_iter().flatten());
    }
    let mut root = match &text {
        None => Map::new(),
        Some(text) => match notation(path) {
            Notation::Toml => parse(path, text, Toml { file: path.to_owned() }).map_err(|one| vec![one])?,
            Notation::Gcfg => {
                let sections = parse(path, text, Gcfg { file: path.to_owned() }).map_err(|one| vec![one])?;
                mig_agent_file::translate(&sections, &mut problems, &mut notes)
            }
        },
    };
    let persistconfigdir = modules_directory(path);
    let context = Context { places: &options.places, persistconfigdir: &persistconfigdir, builtins };
    if let Some(run_dir) = &options.run_dir {
        set(&mut root, "agent", "run_dir", run_dir);
    }
    let written = Written::of(&root);
    let mut agent = read_agent(root, context, &mut problems, &mut warnings);
    let written_keys = keys::written(problems.take_asked());
    if let Some(place) = written.persistconfigdir
        && !agent.agent.persistconfigdir.is_dir()
    {
        let message =
            format!("{:?} is not a directory: create it, or remove the key", agent.agent.persistconfigdir);
        problems.add(place, "agent.persistconfigdir", message);
    }
    let was_private = options.previous.as_ref().is_some_and(|config| config.agent.agent.extraprivacymode);
    let privacy_kept =
        !written.privacy && !agent.agent.extraprivacymode && (options.remembers_privacy || was_private);
    agent.agent.extraprivacymode |= privacy_kept;
    if !problems.is_empty() {
        return Err(problems.into_sorted());
    }

    let mut warnings = warnings.into_sorted();
    let modules = modules(&agent, path, options.previous.as_deref(), builtins, &mut warnings);
    let config = LoadedConfig {
        generation: options.previous.as_ref().map_or(0, |config| config.generation) + 1,
        path: text.map(|_| path.to_owned()),
        agent,
        modules,
        warnings,
        notes: notes.into_sorted(),
        privacy_kept,
    };
    Ok((config, written_keys))
}

/// Which keys the file itself sets, and where, as far as their absence means something of its own.
struct Written {
    privacy: bool,
    persistconfigdir: Option<Option<usize>>,
}

impl Written {
    fn of(root: &Map<String, Value>) -> Self {
        let key = |key: &str| match root.get("agent").map(|value| &value.kind) {
            Some(ValueKind::Table(table)) => table.get(key),
            _ => None,
        };
        let persistconfigdir = key("persistconfigdir").map(origin::line);
        Self { privacy: key("extraprivacymode").is_some(), persistconfigdir }
    }
}

/// Sets a key as if the file had it.
fn set(root: &mut Map<String, Value>, section: &str, key: &str, path: &Path) {
    let table =
        root.entry(section.to_owned()).or_insert_with(|| Value::new(None, ValueKind::Table(Map::new())));
    if let ValueKind::Table(table) = &mut table.kind {
        let text = path.to_string_lossy().into_owned();
        table.insert(key.to_owned(), Value::new(None, ValueKind::String(text)));
    }
}

fn notation(path: &Path) -> Notation {
    match path.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("cfg") => Notation::Gcfg,
        _ => Notation::Toml,
    }
}

/// Default of `persistconfigdir`. MIG keeps modules' files beside its own in `/etc/mig`, so for its format that
/// is where they are looked for.
fn modules_directory(agent_file: &Path) -> PathBuf {
    let absolute = std::path::absolute(agent_file).unwrap_or_else(|_| agent_file.to_owned());
    let beside = absolute.parent().unwrap_or(Path::new("/")).to_owned();
    match notation(agent_file) {
        Notation::Gcfg => beside,
        Notation::Toml => beside.join("modules.d"),
    }
}

/// Reads a text through the `config` crate.
fn parse<F>(path: &Path, text: &str, format: F) -> Result<Map<String, Value>, ConfigProblem>
where
    F: FileStoredFormat + std::fmt::Debug + Clone + Send + Sync + 'static,
{
    File::from_str(text, format).collect().map_err(|error| {
        let syntax = match &error {
            ConfigError::FileParse { cause, .. } => cause.downcast_ref::<SyntaxError>(),
            _ => None,
        };
        let line = syntax.map(|syntax| syntax.position.line);
        let message = syntax.map_or_else(|| error.to_string(), ToString::to_string);
        ConfigProblem { file: path.to_owned(), line, key: None, message }
    })
}

/// Every module that may run: the built-in ones in their order, then the external ones in the file's.
fn modules(
    agent: &AgentConfig,
    agent_file: &Path,
    previous: Option<&LoadedConfig>,
    builtins: &[BuiltinModule],
    warnings: &mut Vec<ConfigProblem>,
) -> Vec<ModuleSpec> {
    let mut specs = Vec::new();
    for builtin in builtins {
        let written = agent.modules.iter().find(|section| section.name.as_str() == builtin.name);
        match (written, builtin.name.parse::<ModuleName>()) {
            (Some(section), _) => specs.push((section.clone(), true)),
            (None, Ok(name)) => specs.push((builtin_section(name, builtin), builtin.enabled_by_default)),
            (None, Err(_)) => {}
        }
    }
    for section in &agent.modules {
        if !specs.iter().any(|(known, _)| known.name == section.name) {
            specs.push((section.clone(), true));
        }
    }

    let directory = &agent.agent.persistconfigdir;
    warn_of_strange_files(directory, agent_file, &specs, warnings);
    specs
        .into_iter()
        .map(|(mut section, by_default)| {
            let mut file_found = false;
            let config = match section.kind {
                ModuleKind::Standard => ModuleConfig::Good(raw(&ModuleShape::empty(None))),
                ModuleKind::Persistent => {
                    let old = previous.and_then(|config| {
                        config.modules.iter().find(|spec| spec.section.name == section.name)
                    });
                    let old = old.and_then(|spec| spec.config.usable());
                    let found = module_file(directory, &section, builtins);
                    file_found = !matches!(found, Found::Nothing(_));
                    settle(found, old, warnings)
                }
            };
            // A file for a module is a wish to run it; only an explicit `enabled = false` is stronger.
            section.enabled = section.enabled && (by_default || file_found);
            if section.kind == ModuleKind::Persistent && agent.agent.nopersistmods {
                section.enabled = false;
            }
            ModuleSpec { section, config }
        })
        .collect()
}

/// How a built-in module runs when the agent's file does not mention it.
fn builtin_section(name: ModuleName, builtin: &BuiltinModule) -> ModuleSection {
    ModuleSection {
        name,
        kind: builtin.kind,
        enabled: true,
        command: None,
        user: None,
        env: std::collections::BTreeMap::new(),
        restart: RestartRule::Permanent,
        allow_remote_tcp: false,
        socket_dir: None,
        limits: ProcessLimits::default(),
        new_privileges: false,
        dispatch: false,
        config_types: Vec::new(),
    }
}

/// What is in a module's file.
enum Found {
    /// There is no file; this is the module's empty configuration.
    Nothing(Box<RawValue>),
    /// A valid file.
    Good(Box<RawValue>),
    /// A file with these problems, at least one.
    Bad(Vec<ConfigProblem>),
}

fn module_file(directory: &Path, section: &ModuleSection, builtins: &[BuiltinModule]) -> Found {
    let name = &section.name;
    let shape = ModuleShape::of(builtins, name.as_str(), &section.config_types);
    let candidates = [
        (directory.join(format!("{name}.cfg")), Notation::Gcfg),
        (directory.join(format!("{name}.toml")), Notation::Toml),
    ];
    let mut texts = Vec::new();
    for (path, notation) in candidates {
        match text::read(&path) {
            Ok(text) => texts.push((path, notation, text)),
            Err(Unread::Missing) => {}
            Err(Unread::Bad(problem)) => return Found::Bad(vec![problem]),
        }
    }
    let (path, notation, text) = match texts.as_slice() {
        [] => return Found::Nothing(raw(&ModuleShape::empty(shape.as_ref()))),
        [one] => one,
        [first, second, ..] => {
            let message = format!("{} exists too; keep only one of the two", second.0.display());
            return Found::Bad(vec![ConfigProblem { file: first.0.clone(), line: None, key: None, message }]);
        }
    };
    let tree = match notation {
        Notation::Gcfg => parse(path, text, Gcfg { file: path.clone() }),
        Notation::Toml => parse(path, text, Toml { file: path.clone() }),
    };
    let tree = match tree {
        Ok(tree) => tree,
        Err(problem) => return Found::Bad(vec![problem]),
    };
    let mut problems = Problems::new(path);
    problems.extend([text::owned_by_another(path), text::writable_by_others(path)].into_iter().flatten());
    let config = module_config(&tree, *notation, shape.as_ref(), &mut problems);
    if problems.is_empty() { Found::Good(raw(&config)) } else { Found::Bad(problems.into_sorted()) }
}

/// Decides what a module gets, given what its file says and what it had.
fn settle(found: Found, old: Option<&RawValue>, warnings: &mut Vec<ConfigProblem>) -> ModuleConfig {
    match found {
        Found::Nothing(config) | Found::Good(config) => ModuleConfig::Good(config),
        Found::Bad(problems) => {
            let problem = problems.first().cloned();
            warnings.extend(problems);
            match (problem, old) {
                (Some(problem), Some(old)) => ModuleConfig::LastGood { config: old.to_owned(), problem },
                (Some(problem), None) => ModuleConfig::Invalid(problem),
                (None, _) => unreachable!("a bad file has at least one problem"),
            }
        }
    }
}

/// Warns of files that no module reads: most often a name that was misspelt.
fn warn_of_strange_files(
    directory: &Path,
    agent_file: &Path,
    specs: &[(ModuleSection, bool)],
    warnings: &mut Vec<ConfigProblem>,
) {
    let persistent = |name: &str| {
        specs
            .iter()
            .any(|(section, _)| section.name.as_str() == name && section.kind == ModuleKind::Persistent)
    };
    for entry in WalkDir::new(directory).min_depth(1).max_depth(1).sort_by_file_name() {
        let file = match entry {
            Ok(entry) => entry.into_path(),
            Err(error) => match error.io_error() {
                // Without a directory no module has a file, which is the state of a fresh installation.
                Some(source) if source.kind() == std::io::ErrorKind::NotFound => continue,
                source => {
                    let file = error.path().unwrap_or(directory).to_owned();
                    let message = format!(
                        "cannot be listed: {}",
                        source.map_or(error.to_string(), ToString::to_string)
                    );
                    warnings.push(ConfigProblem { file, line: None, key: None, message });
                    continue;
                }
            },
        };
        let extension = file.extension().and_then(|extension| extension.to_str());
        let (Some(stem), Some("cfg" | "toml")) = (file.file_stem().and_then(|stem| stem.to_str()), extension)
        else {
            continue;
        };
        if persistent(stem) || same_file(&file, agent_file) {
            continue;
        }
        let known = specs.iter().filter(|(section, _)| section.kind == ModuleKind::Persistent);
        let known = known.map(|(section, _)| section.name.as_str());
        let message = format!("is not read: {}", unknown("persistent module", stem, known));
        warnings.push(ConfigProblem { file, line: None, key: None, message });
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn raw(config: &serde_json::Value) -> Box<RawValue> {
    to_raw_value(config).expect("a JSON value is always JSON text")
}

#[cfg(test)]
mod tests;
