//! What an investigator may ask for, checked before anything runs.

use std::cmp::Ordering;
use std::path::PathBuf;

use serde::Deserialize;
use vigie_matching::Expressions;
use vigie_packagedb::installed::Package;
use vigie_packagedb::owners::Manager;
use vigie_packagedb::version::{self, VersionError};
use vigie_sdk::Query;

/// Most values in one list.
const MAX_VALUES: usize = 10_000;

/// Packages that are listed when the question does not say how many.
const DEFAULT_LIMIT: usize = 100_000;

/// The parameters as they are written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    name: Vec<String>,
    version: Vec<String>,
    source: Vec<String>,
    architecture: Vec<String>,
    manager: Vec<String>,
    state: Vec<String>,
    file: Vec<String>,
    files: bool,
    verify: bool,
    full: bool,
    limit: Option<usize>,
    root: Option<PathBuf>,
}

/// A condition on a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VersionTest {
    /// `Less` stands for `<` and so on; which orders are wanted.
    wanted: [bool; 3],
    version: String,
}

impl VersionTest {
    /// Reads `<3.0.15`, `>=1:2.0-3`, `!=4`, or a version alone, which is the same as with `=`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, VersionError> {
        let operators = [
            ("<=", [true, true, false]),
            (">=", [false, true, true]),
            ("!=", [true, false, true]),
            ("==", [false, true, false]),
            ("<", [true, false, false]),
            (">", [false, false, true]),
            ("=", [false, true, false]),
        ];
        let found = operators.iter().find_map(|(sign, wanted)| Some((text.strip_prefix(sign)?, *wanted)));
        let (version, wanted) = found.unwrap_or((text, [false, true, false]));
        let version = version.trim();
        // A version is of one manager, but which one is known with the package only: one that no manager takes is
        // a mistake.
        let errors = Manager::ALL.map(|manager| version::check(manager, version).err());
        if let [Some(error), Some(_), Some(_)] = errors {
            return Err(error);
        }
        Ok(Self { wanted, version: version.to_owned() })
    }

    /// Whether a package's version is as wanted, in the order of its manager.
    #[must_use]
    pub(crate) fn matches(&self, manager: Manager, version: &str) -> bool {
        let [less, equal, greater] = self.wanted;
        match version::compare(manager, version, &self.version) {
            Ordering::Less => less,
            Ordering::Equal => equal,
            Ordering::Greater => greater,
        }
    }
}

/// A query's parameters.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    name: Expressions,
    source: Expressions,
    state: Expressions,
    version: Vec<VersionTest>,
    architecture: Vec<String>,
    managers: Vec<Manager>,
    /// Paths whose packages are wanted.
    pub paths: Vec<Vec<u8>>,
    /// Tell the files of each package.
    pub files: bool,
    /// Compare files with what is recorded.
    pub verify: bool,
    /// Read also what was read before.
    pub full: bool,
    /// Most packages, or findings, that are told.
    pub limit: usize,
    /// The directory whose system is meant, when it is not this host's.
    pub root: Option<PathBuf>,
}

impl Parameters {
    /// Reads the parameters of a query.
    ///
    /// # Errors
    /// Every problem, as a sentence that names the parameter.
    pub fn from_query(query: &Query) -> Result<Self, Vec<String>> {
        let asked: Asked = query.parse().map_err(|error| vec![error.to_string()])?;
        let mut problems = Vec::new();
        let lists = [
            ("name", &asked.name),
            ("version", &asked.version),
            ("source", &asked.source),
            ("architecture", &asked.architecture),
            ("manager", &asked.manager),
            ("state", &asked.state),
            ("file", &asked.file),
        ];
        for (key, list) in lists {
            if list.len() > MAX_VALUES {
                problems.push(format!(
                    "parameter {key}: {} values, at most {MAX_VALUES} are allowed",
                    list.len()
                ));
            }
        }
        let version = asked.version.iter().filter_map(|text| {
            let test = VersionTest::parse(text);
            test.map_err(|error| problems.push(format!("parameter version: {text:?}: {error}"))).ok()
        });
        let version = version.collect();
        let mut managers = Vec::new();
        for name in &asked.manager {
            match Manager::ALL.into_iter().find(|manager| manager.name() == name) {
                Some(manager) => managers.push(manager),
                None => problems.push(format!("parameter manager: {name:?} is not one of dpkg, rpm, apk")),
            }
        }
        let mut paths = Vec::new();
        for path in &asked.file {
            match unescaped(path) {
                Some(bytes) if bytes.starts_with(b"/") => paths.push(normal(&bytes)),
                _ => problems.push(format!("parameter file: {path:?} is not an absolute path")),
            }
        }
        if asked.full && !asked.verify {
            problems.push("parameter full: requires verify = true".to_owned());
        }
        if asked.limit == Some(0) {
            problems.push("parameter limit: must be 1 or more".to_owned());
        }
        if asked.root.as_ref().is_some_and(|root| !root.is_absolute()) {
            problems.push("parameter root: expected an absolute path".to_owned());
        }
        let parameters = Self {
            name: Expressions::parse("name", &asked.name, &mut problems),
            source: Expressions::parse("source", &asked.source, &mut problems),
            state: Expressions::parse("state", &asked.state, &mut problems),
            version,
            architecture: asked.architecture,
            managers,
            paths,
            files: asked.files,
            verify: asked.verify,
            full: asked.full,
            limit: asked.limit.unwrap_or(DEFAULT_LIMIT),
            root: asked.root,
        };
        if problems.is_empty() { Ok(parameters) } else { Err(problems) }
    }

    /// Whether the packages of this manager are wanted.
    #[must_use]
    pub(crate) fn wants_manager(&self, manager: Manager) -> bool {
        self.managers.is_empty() || self.managers.contains(&manager)
    }

    /// Whether a package is as asked; whose files are asked for is seen later.
    #[must_use]
    pub fn wants(&self, manager: Manager, package: &Package) -> bool {
        self.wants_manager(manager)
            && self.name.matches(package.name.as_bytes())
            && self.source.matches(package.source.as_ref().unwrap_or(&package.name).as_bytes())
            && self.version.iter().all(|test| test.matches(manager, &package.version))
            && (self.architecture.is_empty() || self.architecture.contains(&package.architecture))
            && self.is_wanted_state(package)
    }

    /// Removed packages that left configuration behind are told only when they are asked for.
    fn is_wanted_state(&self, package: &Package) -> bool {
        if self.state.is_empty() && !self.verify {
            return package.state != "config-files";
        }
        self.state.matches(package.state.as_bytes())
            || package.wanted.as_ref().is_some_and(|wanted| self.state.matches(wanted.as_bytes()))
    }
}

/// A path with `\xNN` for bytes that are no text, as alerts and answers show it.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            plain.push(byte);
            continue;
        }
        match bytes.next()? {
            b'\\' => plain.push(b'\\'),
            b'x' => {
                let digits = [bytes.next()?, bytes.next()?];
                plain.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
            }
            _ => return None,
        }
    }
    Some(plain)
}

/// A path without repeated slashes, `.` and a slash at its end. `..` stays: it depends on links.
fn normal(path: &[u8]) -> Vec<u8> {
    let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    let normal: Vec<u8> = names.flat_map(|name| [b"/", name].concat()).collect();
    if normal.is_empty() { b"/".to_vec() } else { normal }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use serde_json::value::to_raw_value;

    use super::*;

    fn read(parameters: &serde_json::Value) -> Result<Parameters, Vec<String>> {
        Parameters::from_query(&Query::new(Some(to_raw_value(parameters).unwrap())))
    }

    fn package(name: &str, version: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: version.to_owned(),
            state: "installed".to_owned(),
            ..Package::default()
        }
    }

    #[test]
    fn versions_are_compared_with_signs() {
        let matches =
            |test: &str, version: &str| VersionTest::parse(test).unwrap().matches(Manager::Dpkg, version);

        for (test, version, expected) in [
            ("<3.0.15", "3.0.14-1~deb12u2", true),
            ("<3.0.15", "3.0.15", false),
            ("< 3.0.15", "1:3.0.14", false),
            ("<=3.0.15", "3.0.15", true),
            (">3.0.15", "3.0.15-1", true),
            (">=3.0.15", "3.0.9", false),
            ("!=1", "1", false),
            ("==1", "01", true),
            ("1.0-1", "1.0-1", true),
        ] {
            assert_eq!(matches(test, version), expected, "{test} {version}");
        }
        for wrong in ["", "<", "< 1 2", "="] {
            assert!(VersionTest::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_package_must_be_as_everything_says() {
        let parameters =
            read(&json!({"name": ["^openssl", "^lib", "!dev$"], "version": [">1", "<3"]})).unwrap();

        assert!(parameters.wants(Manager::Dpkg, &package("openssl", "2")));
        assert!(parameters.wants(Manager::Apk, &package("libssl3", "2")));
        assert!(!parameters.wants(Manager::Dpkg, &package("libssl-dev", "2")));
        assert!(!parameters.wants(Manager::Dpkg, &package("openssl", "3")));
        assert!(!parameters.wants(Manager::Dpkg, &package("bash", "2")));
    }

    #[test]
    fn every_problem_names_its_parameter() {
        let problems = read(&json!({
            "name": ["("], "version": ["<"], "manager": ["pacman"], "file": ["etc/x", "/a\\q"], "full": true, "limit": 0, "root": "x",
        }))
        .unwrap_err();

        for key in ["name", "version", "manager", "file", "full", "limit", "root"] {
            let start = format!("parameter {key}:");
            assert!(problems.iter().any(|problem| problem.starts_with(&start)), "{key}: {problems:?}");
        }
        assert!(read(&json!({"nmae": ["x"]})).unwrap_err()[0].contains("nmae"));
        assert!(read(&json!({"name": "x"})).is_err());
    }

    #[test]
    fn a_removed_package_is_found_when_it_is_asked_for() {
        let removed = Package { state: "config-files".to_owned(), ..package("a", "1") };

        assert!(!read(&json!({})).unwrap().wants(Manager::Dpkg, &removed));
        assert!(read(&json!({"state": ["config"]})).unwrap().wants(Manager::Dpkg, &removed));
    }

    proptest! {
        #[test]
        fn any_parameters_are_read_or_refused(text in "\\PC{0,30}") {
            read(&json!({"name": [&text], "version": [&text], "file": [&text], "state": [&text]})).ok();
        }

        #[test]
        fn paths_are_read_as_they_are_shown(bytes in proptest::collection::vec(any::<u8>(), 0..20)) {
            prop_assert_eq!(unescaped(&vigie_host::shown(&bytes)), Some(bytes));
        }
    }
}
