//! What an investigator may ask for, checked before anything runs.

use std::time::Duration;

use serde::Deserialize;
use vigie_host::CAPABILITIES;
use vigie_host::users::Names;
use vigie_matching::Expressions;
use vigie_sdk::Query;

use crate::executable::FileState;

/// Most values in one list.
const MAX_VALUES: usize = 100_000;

/// Processes that are listed when the question does not say how many.
const DEFAULT_LIMIT: usize = 100_000;

/// The parameters as they are written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    pid: Vec<u32>,
    parent: Vec<u32>,
    name: Vec<String>,
    command: Vec<String>,
    path: Vec<String>,
    user: Vec<String>,
    login: Vec<String>,
    hash: Vec<String>,
    age: Vec<String>,
    exe: Vec<String>,
    container: Vec<String>,
    open: Vec<String>,
    port: Vec<u16>,
    library: Vec<String>,
    capability: Vec<String>,
    brief: bool,
    credentials: bool,
    files: bool,
    ports: bool,
    libraries: bool,
    hashes: bool,
    tree: bool,
    limit: Option<usize>,
}

/// What is wanted of each process beyond the usual.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Users, groups, capabilities.
    pub credentials: bool,
    /// What it has open.
    pub files: bool,
    /// The ports that it listens on.
    pub ports: bool,
    /// What it executes besides its program.
    pub libraries: bool,
    /// Digests of its program.
    pub hashes: bool,
}

impl Wanted {
    /// Whether nothing is.
    #[must_use]
    pub(crate) fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// A query's parameters. What is empty is not asked.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    /// Numbers of processes, sorted.
    pub pids: Vec<u32>,
    /// Numbers of parents, sorted.
    pub parents: Vec<u32>,
    /// The name that the kernel has.
    pub name: Expressions,
    /// The arguments, with blanks between them.
    pub command: Expressions,
    /// The path of the program.
    pub path: Expressions,
    /// Numbers of effective users.
    pub users: Vec<u32>,
    /// Names that this host does not know.
    pub unknown_users: Vec<String>,
    /// Numbers of users who logged in; `None` is nobody.
    pub logins: Vec<Option<u32>>,
    /// Digests of the program, in lower case.
    pub hashes: Vec<String>,
    /// Ages: `true` for at most so long.
    pub ages: Vec<(bool, Duration)>,
    /// State of the program's file.
    pub states: Vec<FileState>,
    /// The container's id or name, or the path of the control group.
    pub container: Expressions,
    /// Paths of what is open.
    pub open: Expressions,
    /// Ports that it listens on.
    pub listening: Vec<u16>,
    /// Paths of libraries.
    pub library: Expressions,
    /// Capabilities that are in force.
    pub capabilities: Vec<String>,
    /// Neither what became of the program's file nor namespaces.
    pub brief: bool,
    /// What else is told.
    pub tell: Wanted,
    /// Tell parents and children of what matches as well.
    pub tree: bool,
    /// Most processes that are told.
    pub limit: usize,
}

impl Parameters {
    /// Reads the parameters of a query.
    ///
    /// # Errors
    /// Every problem, as a sentence that names the parameter.
    pub fn from_query(query: &Query) -> Result<Self, Vec<String>> {
        let asked: Asked = query.parse().map_err(|error| vec![error.to_string()])?;
        let mut problems = Vec::new();
        for (key, length) in [
            ("pid", asked.pid.len()),
            ("parent", asked.parent.len()),
            ("name", asked.name.len()),
            ("command", asked.command.len()),
            ("path", asked.path.len()),
            ("user", asked.user.len()),
            ("login", asked.login.len()),
            ("hash", asked.hash.len()),
            ("container", asked.container.len()),
            ("open", asked.open.len()),
            ("port", asked.port.len()),
            ("library", asked.library.len()),
        ] {
            if length > MAX_VALUES {
                problems.push(format!("parameter {key}: {length} values, at most {MAX_VALUES} are allowed"));
            }
        }
        let names = Names::of(std::path::Path::new("/"));
        let mut unknown_users = Vec::new();
        let mut uid = |key: &str, user: &str| {
            let uid = names.asked_uid(user, &mut unknown_users);
            if uid.is_none() {
                problems
                    .push(format!("parameter {key}: {user:?} is neither the name of a user nor a user ID"));
            }
            uid
        };
        let users = asked.user.iter().filter_map(|user| uid("user", user)).collect();
        let mut logins = Vec::new();
        for user in &asked.login {
            match user.as_str() {
                "none" => logins.push(None),
                user => logins.extend(uid("login", user).map(Some)),
            }
        }
        let mut hashes: Vec<String> = asked.hash.iter().map(|hash| hash.to_ascii_lowercase()).collect();
        for hash in &hashes {
            if !matches!(hash.len(), 32 | 40 | 64) || !hash.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                problems.push(format!("parameter hash: {hash:?} is not a hexadecimal MD5, SHA-1 or SHA-256"));
            }
        }
        hashes.sort();
        let ages = asked
            .age
            .iter()
            .filter_map(|text| age(text).map_err(|problem| problems.push(problem)).ok())
            .collect();
        let mut states = Vec::new();
        for name in &asked.exe {
            match FileState::NAMES.iter().find(|(known, _)| known == name) {
                Some((_, state)) => states.push(*state),
                None => {
                    let known: Vec<&str> = FileState::NAMES.iter().map(|(known, _)| *known).collect();
                    problems.push(format!("parameter exe: {name:?} is not one of {}", known.join(", ")));
                }
            }
        }
        let capabilities: Vec<String> = asked
            .capability
            .iter()
            .map(|name| {
                let name = name.to_ascii_lowercase();
                if name.starts_with("cap_") { name } else { format!("cap_{name}") }
            })
            .collect();
        for name in &capabilities {
            if !CAPABILITIES.contains(&name.as_str()) {
                problems
                    .push(format!("parameter capability: unknown capability {name:?}, see capabilities(7)"));
            }
        }
        if asked.limit == Some(0) {
            problems.push("parameter limit: must be 1 or more".to_owned());
        }
        if asked.brief && !states.is_empty() {
            problems.push(
                "parameter brief: cannot be combined with exe, because it skips the state of programs"
                    .to_owned(),
            );
        }
        let sorted = |mut numbers: Vec<u32>| {
            numbers.sort_unstable();
            numbers
        };
        let parameters = Self {
            pids: sorted(asked.pid),
            parents: sorted(asked.parent),
            name: Expressions::parse("name", &asked.name, &mut problems),
            command: Expressions::parse("command", &asked.command, &mut problems),
            path: Expressions::parse("path", &asked.path, &mut problems),
            users,
            unknown_users,
            logins,
            hashes,
            ages,
            states,
            container: Expressions::parse("container", &asked.container, &mut problems),
            open: Expressions::parse("open", &asked.open, &mut problems),
            listening: asked.port,
            library: Expressions::parse("library", &asked.library, &mut problems),
            capabilities,
            brief: asked.brief,
            tell: Wanted {
                credentials: asked.credentials,
                files: asked.files,
                ports: asked.ports,
                libraries: asked.libraries,
                hashes: asked.hashes,
            },
            tree: asked.tree,
            limit: asked.limit.unwrap_or(DEFAULT_LIMIT),
        };
        if problems.is_empty() { Ok(parameters) } else { Err(problems) }
    }

    /// What must be read of a process that is as wanted so far.
    #[must_use]
    pub fn reads(&self) -> Wanted {
        Wanted {
            credentials: self.tell.credentials || !self.capabilities.is_empty(),
            files: self.tell.files || !self.open.is_empty(),
            ports: self.tell.ports || !self.listening.is_empty(),
            libraries: self.tell.libraries || !self.library.is_empty(),
            hashes: self.tell.hashes || !self.hashes.is_empty(),
        }
    }
}

/// `<1h` is younger than an hour, `>2days` older.
fn age(text: &str) -> Result<(bool, Duration), String> {
    let (young, rest) = match text.split_at_checked(1) {
        Some(("<", rest)) => (true, rest),
        Some((">", rest)) => (false, rest),
        _ => return Err(format!("parameter age: {text:?} must start with < or >")),
    };
    let age = humantime::parse_duration(rest.trim());
    age.map(|age| (young, age)).map_err(|error| format!("parameter age: {text:?}: {error}"))
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

    #[test]
    fn every_problem_names_its_parameter() {
        let problems = read(&json!({
            "name": ["("], "user": ["no:user"], "login": ["4294967296"], "hash": ["xyz"], "age": ["1h", "<soon"],
            "exe": ["gone"], "capability": ["fly"], "limit": 0,
        }))
        .unwrap_err();

        for key in ["name", "user", "login", "hash", "age", "exe", "capability", "limit"] {
            let start = format!("parameter {key}:");
            assert!(problems.iter().any(|problem| problem.starts_with(&start)), "{key}: {problems:?}");
        }
        assert!(read(&json!({"nmae": ["x"]})).unwrap_err()[0].contains("nmae"));
        assert!(read(&json!({"brief": true, "exe": ["deleted"]})).is_err());
    }

    #[test]
    fn whoever_this_host_does_not_know_has_no_processes_and_is_named() {
        let parameters = read(&json!({"user": ["nosuchuser"], "login": ["nosuchuser"]})).unwrap();

        assert_eq!((parameters.users, parameters.logins), (vec![u32::MAX], vec![Some(u32::MAX)]));
        assert_eq!(parameters.unknown_users, ["nosuchuser", "nosuchuser"]);
    }

    #[test]
    fn values_are_understood() {
        let parameters = read(&json!({
            "user": ["root", "12345"], "login": ["none", "0"], "age": ["<1h", "> 2days"], "exe": ["deleted", "memfd"],
            "capability": ["net_raw", "CAP_SYS_ADMIN"], "hash": ["D41D8CD98F00B204E9800998ECF8427E"], "port": [22],
        }))
        .unwrap();

        assert_eq!(parameters.users, [0, 12345]);
        assert_eq!(parameters.logins, [None, Some(0)]);
        assert_eq!(
            parameters.ages,
            [(true, Duration::from_secs(3600)), (false, Duration::from_secs(2 * 86400))]
        );
        assert_eq!(parameters.states, [FileState::Deleted, FileState::Memfd]);
        assert_eq!(parameters.capabilities, ["cap_net_raw", "cap_sys_admin"]);
        let reads = parameters.reads();
        assert!(reads.credentials && reads.hashes && reads.ports && !reads.files && !reads.libraries);
        assert!(parameters.tell.is_nothing());
    }

    proptest! {
        #[test]
        fn any_parameters_are_read_or_refused(text in "\\PC{0,30}", number in any::<i64>()) {
            read(&json!({"name": [&text], "user": [&text], "age": [&text], "hash": [&text]})).ok();
            prop_assert_eq!(read(&json!({"pid": [number]})).is_ok(), u32::try_from(number).is_ok());
        }
    }
}
