//! Which paths are watched: the configuration, its defaults, and what an entry covers.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// What marks a path that is watched with everything below it.
const RECURSIVE: &str = "recursive:";

/// What is watched when nothing is configured: programs, the boot loader, the system's configuration, and where
/// intruders make themselves start again. What is not there is waited for.
const DEFAULT_ENTRIES: &[&str] = &[
    "recursive:/boot",
    "recursive:/etc",
    "/bin",
    "/sbin",
    "/usr/bin",
    "/usr/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
    "recursive:/lib/systemd/system",
    "recursive:/usr/lib/systemd/system",
    "recursive:/var/spool/cron",
    "/root",
    "recursive:/root/.ssh",
];

/// The module's configuration, as MIG's programs send it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The section `[paths]`.
    pub paths: Option<Paths>,
}

/// `[paths]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Paths {
    /// Every `path = …`.
    pub path: Option<Vec<String>>,
}

/// One configured path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// Absolute, without `.`, `..` and double slashes.
    pub path: PathBuf,
    /// Whether everything below it is watched too.
    pub recursive: bool,
}

/// Why a configured path cannot be watched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// There is no path.
    #[error("is empty; give an absolute path, or recursive: and an absolute path")]
    Empty,
    /// It does not begin at the root.
    #[error("{0:?} is not an absolute path")]
    Relative(String),
    /// No path holds a NUL.
    #[error("{0:?} holds a NUL character")]
    Nul(String),
}

impl Entry {
    /// Reads `PATH` or `recursive:PATH`.
    ///
    /// # Errors
    /// When the path is not absolute.
    pub fn parse(text: &str) -> Result<Self, BadEntry> {
        let (path, recursive) = match text.strip_prefix(RECURSIVE) {
            Some(rest) => (rest.trim_start(), true),
            None => (text, false),
        };
        if path.is_empty() {
            return Err(BadEntry::Empty);
        }
        if path.contains('\0') {
            return Err(BadEntry::Nul(path.to_owned()));
        }
        if !path.starts_with('/') {
            return Err(BadEntry::Relative(path.to_owned()));
        }
        Ok(Self { path: normal(Path::new(path)), recursive })
    }

    /// Whether an object at `path` is watched because of this entry, when the entry itself is at `root`.
    #[must_use]
    pub fn covers(&self, root: &Path, path: &Path) -> bool {
        path == root || if self.recursive { path.starts_with(root) } else { path.parent() == Some(root) }
    }
}

/// Resolves `.`, `..` and repeated slashes by the text alone; nothing above the root is left.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => {
                normal.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    normal
}

impl Config {
    /// The configured entries without repetition, or the default ones when none is configured.
    ///
    /// # Errors
    /// Every entry that cannot be watched, with its place in the list.
    pub fn entries(&self) -> Result<Vec<Entry>, Vec<(usize, BadEntry)>> {
        let configured = self.paths.as_ref().and_then(|paths| paths.path.as_deref()).unwrap_or_default();
        let mut entries = Vec::new();
        let mut problems = Vec::new();
        let mut add = |index: usize, text: &str| match Entry::parse(text) {
            Ok(entry) if entries.contains(&entry) => {}
            Ok(entry) => entries.push(entry),
            Err(problem) => problems.push((index, problem)),
        };
        if configured.is_empty() {
            DEFAULT_ENTRIES.iter().enumerate().for_each(|(index, text)| add(index, text));
        } else {
            configured.iter().enumerate().for_each(|(index, text)| add(index, text));
        }
        if problems.is_empty() { Ok(entries) } else { Err(problems) }
    }
}

/// Says what is wrong with a configuration, by key, before the module is started with it.
///
/// # Errors
/// Every problem as key and message.
pub fn check(config: &Value) -> Result<(), Vec<(String, String)>> {
    let whole = |message: String| vec![("paths".to_owned(), message)];
    let raw = serde_json::value::to_raw_value(config).map_err(|error| whole(error.to_string()))?;
    let config: Config =
        vigie_sdk::json::from_any_case(Some(&raw)).map_err(|error| whole(error.to_string()))?;
    config.entries().map(|_| ()).map_err(|problems| {
        problems
            .into_iter()
            .map(|(index, problem)| (format!("paths.path[{index}]"), problem.to_string()))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn entry(path: &str, recursive: bool) -> Entry {
        Entry { path: path.into(), recursive }
    }

    #[test]
    fn paths_are_made_plain() {
        assert_eq!(Entry::parse("/etc/").unwrap(), entry("/etc", false));
        assert_eq!(Entry::parse("recursive:/a/../b//c/.").unwrap(), entry("/b/c", true));
        assert_eq!(Entry::parse("recursive: /a").unwrap(), entry("/a", true));
        assert_eq!(Entry::parse("/../..").unwrap(), entry("/", false));
    }

    #[test]
    fn what_is_not_an_absolute_path_is_named_with_its_place() {
        let config = json!({"Paths": {"Path": ["/etc", "etc", "recursive:", ""]}});

        let problems = check(&config).unwrap_err();

        let keys: Vec<_> = problems.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["paths.path[1]", "paths.path[2]", "paths.path[3]"]);
        assert!(problems[0].1.contains("\"etc\" is not an absolute path"), "{problems:?}");
    }

    #[test]
    fn a_configuration_of_another_form_is_refused() {
        assert!(check(&json!({"Paths": {"Path": "/x"}})).is_err());
        check(&json!({"Paths": {"Path": null}})).unwrap();
        check(&json!({})).unwrap();
    }

    #[test]
    fn repeated_paths_count_once_and_none_means_the_defaults() {
        let twice = Config { paths: Some(Paths { path: Some(vec!["/a".to_owned(), "/a/".to_owned()]) }) };

        assert_eq!(twice.entries().unwrap(), [entry("/a", false)]);
        assert!(Config::default().entries().unwrap().contains(&entry("/etc", true)));
    }

    #[test]
    fn an_entry_covers_itself_and_what_is_in_it() {
        let flat = entry("/etc", false);
        let deep = entry("/etc", true);
        let root = Path::new("/etc");

        for (path, by_flat, by_deep) in [
            ("/etc", true, true),
            ("/etc/passwd", true, true),
            ("/etc/ssh/config", false, true),
            ("/etcetera", false, false),
            ("/", false, false),
        ] {
            assert_eq!(flat.covers(root, Path::new(path)), by_flat, "{path}");
            assert_eq!(deep.covers(root, Path::new(path)), by_deep, "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_plain_path_is_absolute_and_stays_as_it_is(text in "(/|\\.|\\.\\.|[a-c]{1,3}){0,12}") {
            if let Ok(entry) = Entry::parse(&format!("/{text}")) {
                prop_assert!(entry.path.is_absolute());
                prop_assert!(entry.path.components().all(|part| !matches!(part, Component::ParentDir | Component::CurDir)));
                prop_assert_eq!(Entry::parse(entry.path.to_str().unwrap()).unwrap().path, entry.path);
            }
        }
    }
}
