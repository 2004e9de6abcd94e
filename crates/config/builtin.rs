//! What the agent must know of a module to read its configuration file, as data.
//!
//! The binary hands the agent the list of modules that are built in; the actors themselves name none. The two
//! entries of `FOREIGN_MODULES` are here because programs of that name exist elsewhere and expect exactly
//! this form.

use serde_json::Value;
use vigie_protocol::privacy::MaskedForm;

use vigie_protocol::control::ModuleKind;

/// A module that is part of this program.
#[derive(Debug, Clone, Copy)]
pub struct BuiltinModule {
    /// The module's name; it must be a [`vigie_protocol::module_name::ModuleName`].
    pub name: &'static str,
    /// Persistent or standard.
    pub kind: ModuleKind,
    /// Whether the module runs when no file mentions it.
    pub enabled_by_default: bool,
    /// The keys of its configuration file.
    pub keys: &'static [KeyShape],
    /// JSON text of the configuration that is sent when there is no file.
    pub empty_config: &'static str,
    /// Says what is wrong with a configuration of the right shape, so that a reload can refuse it before the
    /// module sees it.
    pub check: ConfigCheck,
    /// What its results may show in extra privacy mode.
    pub masked_form: MaskedForm,
}

/// Returns every problem of a module's configuration as key and message. A key is `section.key`, or
/// `section.key[2]` for the third item of a list, without regard to case.
pub type ConfigCheck = fn(&Value) -> Result<(), Vec<(String, String)>>;

/// One key of a module's configuration: how it is spelled in the JSON that the module receives, and its type.
/// In a file, names are matched without regard to case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyShape {
    /// The section, for example `Paths`.
    pub section: &'static str,
    /// The key, for example `Path`.
    pub key: &'static str,
    /// The type of its value.
    pub kind: KeyType,
}

/// The type of a key's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// A list of texts; in git-config style the key is repeated.
    Strings,
    /// A text.
    String,
    /// A whole number from -2^63 to 2^63 - 1.
    Integer,
    /// True or false.
    Boolean,
    /// The section may stand more than once, as `[paths "NAME"]` or in TOML `[paths.NAME]`. This key of the JSON is the
    /// list of these in the order of the file, with the section's other keys and `name`; no file has it itself.
    Named,
}

/// The type of a key in the file of a module that is not built in, as the agent's configuration states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypedKey {
    /// The section as the module spells it.
    pub section: String,
    /// The key as the module spells it.
    pub key: String,
    /// The type of its value.
    pub kind: KeyType,
}

/// The form of one module's configuration file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConfigShape {
    /// The module's name.
    pub(crate) name: &'static str,
    /// The keys of its configuration file.
    pub(crate) keys: &'static [KeyShape],
    /// JSON text of the configuration without a file.
    pub(crate) empty_config: &'static str,
}

/// MIG modules that are not built in but may be configured as external ones: MIG decodes their files into
/// typed structures, so a number must arrive as a number.
pub(crate) const FOREIGN_MODULES: &[ConfigShape] = &[
    ConfigShape {
        name: "dispatch",
        keys: &[
            KeyShape { section: "dispatch", key: "outputmozdef", kind: KeyType::Boolean },
            KeyShape { section: "dispatch", key: "httpurl", kind: KeyType::String },
            KeyShape { section: "dispatch", key: "snstopic", kind: KeyType::String },
            KeyShape { section: "dispatch", key: "channelsize", kind: KeyType::Integer },
        ],
        empty_config: r#"{"dispatch":{"outputmozdef":false,"httpurl":"","snstopic":"","channelsize":0}}"#,
    },
    ConfigShape {
        name: "audit",
        keys: &[
            KeyShape { section: "audit", key: "rulespath", kind: KeyType::String },
            KeyShape { section: "audit", key: "ratelimit", kind: KeyType::Integer },
            KeyShape { section: "audit", key: "backloglimit", kind: KeyType::Integer },
            KeyShape { section: "audit", key: "includeraw", kind: KeyType::Boolean },
        ],
        empty_config: r#"{"audit":{"rulespath":"","ratelimit":0,"backloglimit":0,"includeraw":false}}"#,
    },
];

/// Finds a built-in module by name.
#[must_use]
pub fn find<'a>(builtins: &'a [BuiltinModule], name: &str) -> Option<&'a BuiltinModule> {
    builtins.iter().find(|builtin| builtin.name == name)
}

/// Accepts every configuration: for modules whose shape says it all.
///
/// # Errors
/// Never; the signature is that of [`ConfigCheck`].
pub fn accept_any(_config: &Value) -> Result<(), Vec<(String, String)>> {
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use vigie_protocol::module_name::ModuleName;
    use vigie_protocol::privacy::Showing;

    use super::*;

    fn only_absolute_paths(config: &Value) -> Result<(), Vec<(String, String)>> {
        let groups = config["Paths"]["groups"].as_array().into_iter().flatten();
        let named =
            groups.map(|group| (format!("paths.{}.", group["name"].as_str().unwrap()), &group["Path"]));
        let all = named.chain([("paths.".to_owned(), &config["Paths"]["Path"])]);
        let problems: Vec<_> = all
            .flat_map(|(section, paths)| {
                let paths = paths.as_array().cloned().unwrap_or_default();
                let is_relative =
                    |path: &Value| path.as_str().is_some_and(|path| path.starts_with("relative/"));
                let bad = paths.into_iter().enumerate().filter(move |(_, path)| is_relative(path));
                bad.map(move |(index, path)| {
                    (format!("{section}path[{index}]"), format!("{path} is not an absolute path"))
                })
            })
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn only_numbers(place: &[&str]) -> Showing {
        match place {
            ["elements"] => Showing::Inside,
            _ => Showing::Hidden,
        }
    }

    /// The shapes of the modules that the captured texts are for.
    pub(crate) const BUILTINS: &[BuiltinModule] = &[
        BuiltinModule {
            name: "fswatch",
            kind: ModuleKind::Persistent,
            enabled_by_default: true,
            keys: &[
                KeyShape { section: "Paths", key: "Path", kind: KeyType::Strings },
                KeyShape { section: "Paths", key: "groups", kind: KeyType::Named },
            ],
            empty_config: r#"{"Paths":{"Path":null}}"#,
            check: only_absolute_paths,
            masked_form: only_numbers,
        },
        BuiltinModule {
            name: "examplepersist",
            kind: ModuleKind::Persistent,
            enabled_by_default: false,
            keys: &[KeyShape { section: "ExamplePersist", key: "interval", kind: KeyType::Integer }],
            empty_config: r#"{"ExamplePersist":{"interval":0}}"#,
            check: accept_any,
            masked_form: only_numbers,
        },
        BuiltinModule {
            name: "netstat",
            kind: ModuleKind::Standard,
            enabled_by_default: true,
            keys: &[],
            empty_config: "{}",
            check: accept_any,
            masked_form: only_numbers,
        },
    ];

    #[test]
    fn every_shape_agrees_with_its_empty_configuration() {
        let builtins = BUILTINS.iter().map(|one| (one.name, one.keys, one.empty_config));
        let foreign = FOREIGN_MODULES.iter().map(|one| (one.name, one.keys, one.empty_config));

        for (name, keys, empty) in builtins.chain(foreign) {
            let empty: Value = serde_json::from_str(empty).unwrap();
            assert!(name.parse::<ModuleName>().is_ok(), "{name}");
            for key in keys.iter().filter(|key| key.kind != KeyType::Named) {
                assert!(empty[key.section].get(key.key).is_some(), "{name}: {}.{}", key.section, key.key);
            }
        }
    }
}
