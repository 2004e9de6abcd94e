//! The module's configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use vigie_sdk::ModuleError;

use crate::record::Kind;
use crate::rules::{self, Rule, Rules};

/// The budget when the configuration names none, in MiB.
const DEFAULT_MIB: u64 = 100;
const SMALLEST_MIB: u64 = 1;
const LARGEST_MIB: u64 = 1 << 20;

/// What the configuration file says. All keys are optional.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    events: Option<Section>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Section {
    #[serde(deserialize_with = "list")]
    kinds: Vec<String>,
    history_mib: Option<u64>,
    detections: Option<bool>,
    #[serde(deserialize_with = "list")]
    rules: Vec<String>,
    #[serde(deserialize_with = "list")]
    disable: Vec<String>,
    bpf: Option<bool>,
}

/// A list; a key that the file does not have arrives as null, and one that it has once as a text.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    texts(&Value::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// The configuration in force.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) kinds: Vec<Kind>,
    /// Bytes of history.
    pub(crate) budget: u64,
    pub(crate) bpf: bool,
    pub(crate) wtmp: PathBuf,
    rules: Vec<Rule>,
    disabled: Vec<String>,
    pub(crate) packs: Vec<Pack>,
}

/// Rules of the fleet's policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pack {
    pub(crate) name: String,
    /// How many rules it has, or why it is not used.
    pub(crate) rules: Result<usize, String>,
}

/// Reads the rules of the fleet's policy. A pack with a mistake is left out whole and hides no other.
fn read_packs(packs: &BTreeMap<String, String>, rules: &mut Vec<Rule>) -> Vec<Pack> {
    let read = |(name, text): (&String, &String)| {
        let found = rules::parse(text).map_err(|problems| problems.join("; "));
        let found = found.map(|found| {
            let count = found.len();
            // Each pack has names of its own: none replaces or hides another's rule.
            rules.extend(found.into_iter().map(|mut rule| {
                rule.id = format!("{name}/{}", rule.id);
                rule
            }));
            count
        });
        Pack { name: name.clone(), rules: found }
    };
    packs.iter().map(read).collect()
}

impl Setup {
    /// Reads the files that the configuration names.
    pub(crate) fn of(config: &Config, packs: &BTreeMap<String, String>) -> Result<Self, ModuleError> {
        let none = Section::default();
        let section = config.events.as_ref().unwrap_or(&none);
        let kinds: Vec<Kind> = match section.kinds.is_empty() {
            true => Kind::ALL.to_vec(),
            false => section
                .kinds
                .iter()
                .map(|name| {
                    Kind::from_name(name)
                        .ok_or_else(|| ModuleError::new(format!("events.kinds: unknown kind {name:?}")))
                })
                .collect::<Result<_, _>>()?,
        };
        let mut rules = Vec::new();
        let mut read = Vec::new();
        if section.detections.unwrap_or(true) {
            let wrong = |place: &str, problems: Vec<String>| {
                ModuleError::new(format!("events.rules: {place}: {}", problems.join("; ")))
            };
            rules = rules::parse(rules::BUILTIN).map_err(|problems| wrong("built in", problems))?;
            for path in &section.rules {
                let text = std::fs::read_to_string(path).map_err(|error| {
                    ModuleError::io(format!("events.rules: {path} cannot be read"), error)
                })?;
                rules.extend(rules::parse(&text).map_err(|problems| wrong(path, problems))?);
            }
            read = read_packs(packs, &mut rules);
            for id in &section.disable {
                // A pack of the fleet's policy may arrive later.
                if !id.contains('/') && !rules.iter().any(|rule| rule.id == *id) {
                    return Err(ModuleError::new(format!("events.disable: unknown rule {id:?}")));
                }
            }
        }
        Ok(Self {
            kinds,
            budget: section.history_mib.unwrap_or(DEFAULT_MIB) << 20,
            bpf: section.bpf.unwrap_or(true),
            wtmp: "/var/log/wtmp".into(),
            rules,
            disabled: section.disable.clone(),
            packs: read,
        })
    }

    pub(crate) fn wants(&self, kind: Kind) -> bool {
        kind == Kind::Lost || self.kinds.contains(&kind)
    }

    /// The kinds that the kernel must tell for these.
    pub(crate) fn source_kinds(&self) -> Vec<vigie_kernel_events::Kind> {
        use vigie_kernel_events::Kind as Told;
        let net = [Kind::Connect, Kind::Accept, Kind::Listen].iter().any(|kind| self.kinds.contains(kind));
        // Without execs nobody would know whose the others are.
        let mut kinds = vec![Told::Exec, Told::Exit, Told::Fork];
        if net {
            kinds.push(Told::Net);
        }
        kinds
    }

    pub(crate) fn rules(&self) -> Rules {
        Rules::new(self.rules.clone(), &self.disabled)
    }
}

/// Checks a configuration before it is sent to the module.
///
/// # Errors
/// Every problem as the key that has it, `section.key`, and what is wrong with it.
pub fn check(config: &Value) -> Result<(), Vec<(String, String)>> {
    vigie_sdk::json::check_sections(
        config,
        &[(
            "events",
            &[
                ("kinds", &check_kinds),
                ("history_mib", &check_budget),
                ("detections", &check_boolean),
                ("rules", &check_rules),
                ("disable", &check_texts),
                ("bpf", &check_boolean),
            ],
        )],
    )
}

fn texts(value: &Value) -> Result<Vec<String>, String> {
    let one = |value: &Value| value.as_str().map(str::to_owned);
    let all = match value {
        Value::Null => Some(Vec::new()),
        Value::Array(all) => all.iter().map(one).collect(),
        value => one(value).map(|one| vec![one]),
    };
    all.ok_or("must be a list of texts".to_owned())
}

fn check_texts(value: &Value) -> Result<(), String> {
    texts(value).map(drop)
}

fn check_kinds(value: &Value) -> Result<(), String> {
    match texts(value)?.iter().find(|name| Kind::from_name(name).is_none()) {
        None => Ok(()),
        Some(name) => {
            let all: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            Err(format!("unknown kind {name:?}; known: {}", all.join(", ")))
        }
    }
}

fn check_rules(value: &Value) -> Result<(), String> {
    for path in texts(value)? {
        let text =
            std::fs::read_to_string(&path).map_err(|error| format!("{path} cannot be read: {error}"))?;
        rules::parse(&text).map_err(|problems| format!("{path}: {}", problems.join("; ")))?;
    }
    Ok(())
}

fn check_budget(value: &Value) -> Result<(), String> {
    match value.as_u64() {
        Some(SMALLEST_MIB..=LARGEST_MIB) => Ok(()),
        _ => Err(format!("must be a number of MiB from {SMALLEST_MIB} to {LARGEST_MIB}")),
    }
}

fn check_boolean(value: &Value) -> Result<(), String> {
    value.as_bool().map(drop).ok_or("must be true or false".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_are_rules_under_their_name_and_one_with_a_mistake_hides_no_other() {
        let config = serde_json::from_value(
            serde_json::json!({ "events": { "disable": ["web/b", "later/x"], "rules": null } }),
        )
        .unwrap();
        let rule = |id: &str, field: &str| {
            format!(
                "[[rule]]\nid = \"{id}\"\ntitle = \"T\"\nseverity = \"low\"\non = [\"exec\"]\nwhen = [{{ {field} = \"x\" }}]\n"
            )
        };
        let packs = BTreeMap::from([
            ("bad".to_owned(), rule("a", "no.such")),
            ("web".to_owned(), rule("a", "cwd") + &rule("b", "cwd")),
        ]);

        let setup = Setup::of(&config, &packs).unwrap();

        let problem = setup.packs[0].rules.clone().unwrap_err();
        assert!(setup.packs[0].name == "bad" && problem.contains("no.such"), "{problem}");
        assert_eq!(setup.packs[1], Pack { name: "web".to_owned(), rules: Ok(2) });
        let rules = setup.rules();
        let ids: Vec<&str> =
            rules.tallies().map(|(rule, _)| &rule.id[..]).filter(|id| id.contains('/')).collect();
        assert_eq!(ids, ["web/a"]);
    }

    #[test]
    fn keys_that_the_file_does_not_have_are_defaults_and_one_text_is_a_list() {
        let read = |section| {
            let config = serde_json::from_value(serde_json::json!({ "events": section })).unwrap();
            Setup::of(&config, &BTreeMap::new()).unwrap()
        };

        let none = read(serde_json::json!({ "kinds": null, "rules": null, "disable": null }));
        assert_eq!(none.kinds, Kind::ALL);
        let one = read(serde_json::json!({ "kinds": "exec" }));
        assert_eq!(one.kinds, [Kind::Exec]);
    }
}
