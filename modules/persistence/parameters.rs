//! What is asked for.

use std::path::{Path, PathBuf};

use regex::{Regex, RegexBuilder};
use vigie_sdk::Query;
use vigie_sdk::given::Given;

use crate::catalogue::{KINDS, TECHNIQUES, Technique};
use crate::record::{Record, Verdict};

/// Most bytes of a compiled expression.
const MAX_EXPRESSION_BYTES: usize = 1 << 20;

/// Most values of one parameter.
const MAX_VALUES: usize = 1_000;

const NAMES: [&str; 9] = ["attack", "deep", "file", "kind", "local", "root", "technique", "user", "verdict"];

/// The query.
#[derive(Debug, Default)]
pub(crate) struct Parameters {
    pub(crate) root: Option<PathBuf>,
    /// Families; none means all.
    kinds: Vec<String>,
    techniques: Vec<String>,
    /// Numbers of ATT&CK; `T1543` has `T1543.002` in it.
    attacks: Vec<String>,
    verdicts: Vec<Verdict>,
    files: Vec<Regex>,
    users: Vec<String>,
    /// Walk over all files, and read every packaged program.
    pub(crate) deep: bool,
}

impl Parameters {
    /// Reads the parameters of a query.
    ///
    /// # Errors
    /// Every problem, as a sentence that names the parameter.
    pub(crate) fn from_query(query: &Query) -> Result<Self, Vec<String>> {
        let mut given = Given::of(query)?;
        let mut parameters = Self { root: given.path("root"), ..Self::default() };
        parameters.kinds = given.texts("kind", MAX_VALUES, |kind| {
            if KINDS.contains(&kind) {
                Ok(kind.to_owned())
            } else {
                Err(format!("unknown kind {kind:?}; known: {}", KINDS.join(", ")))
            }
        });
        parameters.techniques = given.texts("technique", MAX_VALUES, |name| {
            if TECHNIQUES.iter().any(|technique| technique.id == name) {
                Ok(name.to_owned())
            } else {
                Err(format!("unknown technique {name:?}; docs/persistence.md lists them"))
            }
        });
        parameters.attacks = given.texts("attack", MAX_VALUES, |number| {
            let upper = number.to_ascii_uppercase();
            if TECHNIQUES.iter().any(|technique| is_part_of(technique.attack, &upper)) {
                Ok(upper)
            } else {
                Err(format!("unknown ATT&CK ID {number:?}; docs/persistence.md lists them"))
            }
        });
        parameters.verdicts = given.texts("verdict", MAX_VALUES, |name| {
            let verdict =
                Verdict::NAMES.iter().find(|(known, _)| *known == name).map(|(_, verdict)| *verdict);
            verdict.ok_or_else(|| {
                let known: Vec<&str> = Verdict::NAMES.iter().map(|(known, _)| *known).collect();
                format!("unknown verdict {name:?}; known: {}", known.join(", "))
            })
        });
        parameters.files = given.texts("file", MAX_VALUES, |text| {
            let built = RegexBuilder::new(text).size_limit(MAX_EXPRESSION_BYTES).build();
            built.map_err(|error| format!("{text:?} is not a regular expression: {error}"))
        });
        parameters.users = given.texts("user", MAX_VALUES, |name| Ok(name.to_owned()));
        parameters.deep = given.switch("deep");
        if given.switch("local") {
            parameters.verdicts.extend([Verdict::Local, Verdict::Modified, Verdict::Unknown]);
        }
        given.end(&NAMES)?;
        Ok(parameters)
    }

    /// The root that is looked at.
    pub(crate) fn root(&self) -> &Path {
        self.root.as_deref().unwrap_or_else(|| Path::new("/"))
    }

    /// Whether what runs now belongs to the root that was asked for.
    pub(crate) fn is_this_host(&self) -> bool {
        self.root.as_deref().is_none_or(|root| root == Path::new("/"))
    }

    /// Whether a technique was asked for.
    pub(crate) fn wants(&self, technique: &Technique) -> bool {
        let is_one = |list: &[String], name: &str| list.is_empty() || list.iter().any(|known| known == name);
        is_one(&self.kinds, technique.kind)
            && is_one(&self.techniques, technique.id)
            && (self.attacks.is_empty()
                || self.attacks.iter().any(|number| is_part_of(technique.attack, number)))
    }

    /// Whether a record of such a technique was asked for.
    pub(crate) fn takes(&self, record: &Record) -> bool {
        (self.verdicts.is_empty() || record.verdict.is_some_and(|verdict| self.verdicts.contains(&verdict)))
            && (self.files.is_empty() || self.files.iter().any(|file| file.is_match(&record.file)))
            && (self.users.is_empty()
                || [&record.user, &record.owner].into_iter().flatten().any(|user| self.users.contains(user)))
    }
}

/// `T1543.002` is part of `T1543`, and of itself.
fn is_part_of(attack: &str, asked: &str) -> bool {
    attack.strip_prefix(asked).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use serde_json::value::to_raw_value;
    use serde_json::{Value, json};

    use super::*;
    use crate::catalogue::technique;

    fn read(parameters: &Value) -> Result<Parameters, Vec<String>> {
        Parameters::from_query(&Query::new(Some(to_raw_value(parameters).unwrap())))
    }

    #[test]
    fn every_problem_names_its_parameter() {
        let problems = read(&json!({"root": "x", "kind": ["no"], "verdict": ["x"], "file": ["("], "attack": ["T9"], "deep": 1, "technique": [3], "depe": true})).unwrap_err();

        for name in
            ["root", "kind[0]", "verdict[0]", "file[0]", "attack[0]", "deep", "technique[0]", "\"depe\""]
        {
            let unknown = if name.starts_with('"') { "unknown " } else { "" };
            let expected = format!("{unknown}parameter {name}");
            assert!(problems.iter().any(|problem| problem.starts_with(&expected)), "{name}: {problems:?}");
        }
        assert_eq!(problems.len(), 8, "{problems:?}");
    }

    #[test]
    fn a_number_of_attack_has_its_parts() {
        let parameters = read(&json!({"attack": ["t1053"]})).unwrap();

        assert!(parameters.wants(technique("cron-d")) && parameters.wants(technique("sd-timer")));
        assert!(!parameters.wants(technique("udev")));
        assert!(read(&json!({"attack": "T105"})).is_err());
    }

    #[test]
    fn kinds_and_verdicts_narrow() {
        let parameters = read(&json!({"kind": "cron", "local": true})).unwrap();

        assert!(parameters.wants(technique("cron-d")) && !parameters.wants(technique("udev")));
        let record = |verdict| Record { verdict: Some(verdict), ..Record::default() };
        assert!(
            parameters.takes(&record(Verdict::Modified)) && !parameters.takes(&record(Verdict::Packaged))
        );
    }
}
