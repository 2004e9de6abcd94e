//! Reads the files of a host and puts accounts, rules, keys and logins together.

mod logging_in;
mod ssh;
mod users;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use vigie_host::shown;
use vigie_sdk::Coverage;
use vigie_tree::{Tree, Unread};

use crate::files::Status;
use crate::keys::Key;
use crate::logins::Login;
use crate::parameters::Parameters;
use crate::sudoers::{self, Policy, Problem};

/// Largest file of accounts that is read, in bytes.
const MAX_FILE: usize = 64 << 20;

/// Largest file of keys that is read, in bytes.
const MAX_KEYS: usize = 4 << 20;

/// Groups whose members are root, or nearly so.
const POWERFUL: [&str; 14] = [
    "root",
    "sudo",
    "wheel",
    "admin",
    "docker",
    "podman",
    "lxd",
    "incus-admin",
    "libvirt",
    "disk",
    "shadow",
    "kmem",
    "sys",
    "staff",
];

/// An account.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct User {
    pub(crate) username: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) description: String,
    pub(crate) directory: String,
    pub(crate) shell: String,
    /// What becomes of a login: `active`, `locked`, `not-set`, `empty`, `impossible`, `expired`.
    pub(crate) state: &'static str,
    pub(crate) password_status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password_scheme: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_change: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) must_change: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password_expires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expire: Option<String>,
    /// A key that logs in.
    pub(crate) keys: usize,
    /// Rules of sudo that hold for it on this host.
    pub(crate) sudo: usize,
    /// It is root, may become it by sudo, or is in a group that is as good.
    pub(crate) privileged: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_login: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_host: Option<String>,
    pub(crate) source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) problems: Vec<String>,
}

/// A group.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Group {
    pub(crate) groupname: String,
    pub(crate) gid: u32,
    /// Also those that have it as their primary group.
    pub(crate) members: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) admins: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password_status: Option<Status>,
    pub(crate) source: String,
    pub(crate) line: u32,
}

/// A key of an account.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct UsersKey {
    pub(crate) username: String,
    pub(crate) key_file: String,
    #[serde(flatten)]
    pub(crate) key: Key,
}

/// Everything that was found.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    pub(crate) users: Vec<User>,
    pub(crate) groups: Vec<Group>,
    pub(crate) sudo: Policy,
    pub(crate) keys: Vec<UsersKey>,
    pub(crate) logins: Vec<Login>,
    pub(crate) failures: Vec<Login>,
    pub(crate) sessions: Vec<Login>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) coverage: Coverage,
    pub(crate) examined: u64,
}

/// Longest wait for a gatherer that is not reading a file: it computes, or has just ended.
const COMPUTING: Duration = Duration::from_millis(100);

/// Where the gatherer leaves what it has found, with the file that it reads meanwhile: whoever answers takes it from
/// there, also when the kernel does not let the gatherer go.
#[derive(Debug, Default)]
pub(crate) struct SoFar(Mutex<Option<(Gathered, Option<String>)>>, Condvar);

impl SoFar {
    fn leave(&self, found: Gathered, reading: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((found, reading));
        self.1.notify_all();
    }

    fn take(&self) -> Option<(Gathered, Option<String>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What was found, and nothing of what was not asked for.
    pub(crate) fn gathered(&self, parameters: &Parameters) -> Gathered {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.1.wait_timeout_while(left, COMPUTING, |left| left.is_none());
        let left = waited.unwrap_or_else(PoisonError::into_inner).0.take();
        let mut found = Gathered { coverage: Coverage::whole(), ..Gathered::default() };
        if let Some((gathered, reading)) = left {
            found = gathered;
            if let Some(reading) = reading {
                found
                    .coverage
                    .skip(reading, "it does not respond: what is read after it is not known either");
            }
        }
        found.judge();
        found.narrow(parameters);
        found
    }
}

/// Reads what an answer is made of, and leaves it in `so_far`. `today` is in days since 1970.
pub(crate) fn gather(
    tree: &Tree,
    parameters: &Parameters,
    today: i64,
    stop: &dyn Fn(u64) -> bool,
    so_far: &SoFar,
) {
    let found = Gathered { coverage: Coverage::whole(), ..Gathered::default() };
    let mut gatherer = Gatherer { tree, parameters, today, stop, so_far, found };
    gatherer.run();
    so_far.leave(gatherer.found, None);
}

struct Gatherer<'a> {
    tree: &'a Tree,
    parameters: &'a Parameters,
    today: i64,
    stop: &'a dyn Fn(u64) -> bool,
    so_far: &'a SoFar,
    found: Gathered,
}

impl Gatherer<'_> {
    /// Reads something that may never respond, or takes long: what was found until then is there meanwhile.
    fn reading<T>(&mut self, path: impl Into<String>, read: impl FnOnce(&Tree) -> T) -> T {
        self.so_far.leave(std::mem::take(&mut self.found), Some(path.into()));
        let result = read(self.tree);
        // When somebody took it, nobody waits for this answer any more.
        self.found = self.so_far.take().map(|(found, _)| found).unwrap_or_default();
        result
    }

    fn run(&mut self) {
        for mount in self.tree.remote_mounts() {
            self.found.coverage.skip(shown(mount), "a remote file system, which is not searched");
        }
        let host = self.host_name();
        self.services();
        self.accounts();
        self.groups();
        // Without the rules nobody knows who is privileged by them.
        let needs_sudo =
            self.parameters.wants("sudo") || self.parameters.wants("users") || self.parameters.privileged;
        if needs_sudo {
            for path in ["/etc/sudoers", "/usr/local/etc/sudoers"] {
                let (mut policy, mut coverage) =
                    self.reading(format!("{path} and what it includes"), |tree| {
                        let mut coverage = Coverage::whole();
                        (sudoers::read(tree, path, &host, &mut coverage), coverage)
                    });
                self.found.coverage.complete &= coverage.complete;
                self.found.coverage.not_examined.append(&mut coverage.not_examined);
                self.found.examined += policy.files;
                self.found.problems.append(&mut policy.problems);
                self.found.sudo.rules.append(&mut policy.rules);
                self.found.sudo.defaults.append(&mut policy.defaults);
            }
        }
        if self.parameters.wants("keys") || self.parameters.wants("users") {
            self.keys();
        }
        self.last_logins();
        if self.parameters.wants("logins") {
            let (logins, problems) = self.log(&["/var/log/wtmp", "/var/log/wtmp.1"], "wtmp");
            self.found.logins = logins;
            self.found.problems.extend(problems);
            self.wtmpdb();
        }
        if self.parameters.wants("failures") {
            let (failures, _) = self.log(&["/var/log/btmp", "/var/log/btmp.1"], "btmp");
            self.found.failures = failures;
        }
        if self.parameters.wants("sessions") {
            self.sessions();
        }
    }

    fn problem(&mut self, file: &str, line: Option<u32>, problem: impl Into<String>) {
        if self.found.problems.len() < 10_000 {
            self.found.problems.push(Problem { file: file.to_owned(), line, problem: problem.into() });
        }
    }

    /// Tells lines that are not understood: another program may understand them.
    fn wrong_lines(&mut self, path: &str, lines: Vec<(u32, &'static str)>) {
        if !lines.is_empty() {
            let why = format!("{} of its lines are not understood: see the problems", lines.len());
            self.found.coverage.skip(path, why);
        }
        for (line, why) in lines {
            self.problem(path, Some(line), why);
        }
    }

    fn read(&mut self, path: &str, limit: usize) -> Option<Vec<u8>> {
        match self.reading(path, |tree| tree.read(path, limit)) {
            Ok(content) => {
                self.found.examined += 1;
                Some(content)
            }
            Err(Unread::Gone) => None,
            Err(why) => {
                self.found.coverage.skip(path, why.to_string());
                None
            }
        }
    }

    fn host_name(&mut self) -> String {
        let own = if self.parameters.is_this_host() {
            std::fs::read("/proc/sys/kernel/hostname").ok()
        } else {
            None
        };
        let of_file = || self.reading("/etc/hostname", |tree| tree.read("/etc/hostname", 4096).ok());
        let name = own.or_else(of_file).unwrap_or_default();
        String::from_utf8_lossy(&name).trim().to_owned()
    }

    /// Services beside the files: their accounts cannot be listed without asking them.
    fn services(&mut self) {
        let Some(content) = self.read("/etc/nsswitch.conf", MAX_KEYS) else { return };
        for line in String::from_utf8_lossy(&content).lines() {
            let line = line.split('#').next().unwrap_or_default();
            let Some((database, services)) = line.split_once(':') else { continue };
            let kind = match database.trim() {
                "passwd" | "shadow" => "accounts",
                "group" | "gshadow" => "groups",
                "sudoers" => "rules of sudo",
                _ => continue,
            };
            for service in
                services.split_whitespace().filter(|word| !word.starts_with('[') && !word.ends_with(']'))
            {
                if !matches!(
                    service,
                    "files" | "compat" | "systemd" | "altfiles" | "usrfiles" | "extrausers" | "cache" | "db"
                ) {
                    self.found
                        .coverage
                        .skip(format!("{kind} of {service}"), "this service cannot be enumerated locally");
                }
            }
        }
    }
}

impl Gathered {
    /// Counts keys and rules for each account, and says who is as good as root.
    fn judge(&mut self) {
        let mut keys: BTreeMap<String, usize> = BTreeMap::new();
        for key in self.keys.iter().filter(|key| key.key.ignored.is_none()) {
            *keys.entry(key.username.clone()).or_default() += 1;
        }
        // With many accounts and many rules, each rule is looked at once.
        let mut by_name: HashMap<String, usize> = HashMap::new();
        for rule in &self.sudo.rules {
            if rule.this_host && !rule.command.starts_with('!') {
                for user in &rule.users {
                    *by_name.entry(user.clone()).or_default() += 1;
                }
            }
        }
        for user in &mut self.users {
            user.keys = keys.get(&user.username).copied().unwrap_or(0);
            let mut names = vec![
                user.username.clone(),
                format!("#{}", user.uid),
                format!("%#{}", user.gid),
                "ALL".to_owned(),
            ];
            names.extend(user.groups.iter().map(|group| format!("%{group}")));
            user.sudo = names.iter().filter_map(|name| by_name.get(name)).sum();
            user.privileged = user.uid == 0
                || user.sudo > 0
                || user.groups.iter().any(|group| POWERFUL.contains(&group.as_str()));
        }
    }

    /// Leaves out what was not asked for.
    fn narrow(&mut self, parameters: &Parameters) {
        let found = self;
        if parameters.narrows() {
            found.users.retain(|user| {
                parameters.takes(&user.username, user.uid, &user.groups)
                    && (!parameters.privileged || user.privileged)
            });
            let names: HashSet<&str> = found.users.iter().map(|user| user.username.as_str()).collect();
            let is_asked = |name: &str| names.contains(name) || parameters.takes_stranger(name);
            found.keys.retain(|key| names.contains(key.username.as_str()));
            for logins in [&mut found.sessions, &mut found.logins, &mut found.failures] {
                logins.retain(|login| is_asked(&login.username));
            }
            found.groups.retain(|group| {
                parameters.takes_group(&group.groupname)
                    && (parameters.asks_groups_only() || group.members.iter().any(|member| is_asked(member)))
            });
            let mut wanted: HashSet<String> = HashSet::new();
            for user in &found.users {
                wanted.insert("ALL".to_owned());
                wanted.insert(user.username.clone());
                wanted.insert(format!("#{}", user.uid));
                wanted.insert(format!("%#{}", user.gid));
                wanted.extend(user.groups.iter().map(|group| format!("%{group}")));
            }
            // Rules of a group hold for whoever a directory service puts into it.
            let asks_groups = parameters.asks_groups_only();
            if asks_groups {
                wanted.extend(found.groups.iter().map(|group| format!("%#{}", group.gid)));
            }
            let is_wanted = |user: &String| {
                let group = user.strip_prefix('%').filter(|_| asks_groups);
                wanted.contains(user)
                    || group.is_some_and(|group| parameters.takes_group(group))
                    || is_name(user) && parameters.takes_stranger(user)
            };
            found.sudo.rules.retain(|rule| rule.users.iter().any(is_wanted));
        }
        let clear = |part: &str| !parameters.wants(part);
        if clear("users") {
            found.users.clear();
        }
        if clear("groups") {
            found.groups.clear();
        }
        if clear("keys") {
            found.keys.clear();
        }
        if clear("sudo") {
            found.sudo = Policy::default();
        }
        for logins in [&mut found.logins, &mut found.failures] {
            logins.truncate(parameters.newest);
        }
    }
}

/// Whether a rule of sudo names an account itself.
fn is_name(user: &str) -> bool {
    user != "ALL" && !user.starts_with(['%', '#', '+', '!'])
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serde_json::value::to_raw_value;
    use vigie_sdk::Query;

    use super::*;

    #[test]
    fn what_was_read_is_there_for_whoever_answers_first() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
        let asked = to_raw_value(&json!({"root": root.path()})).unwrap();
        let parameters = Parameters::from_query(&Query::new(Some(asked))).unwrap();
        let so_far = SoFar::default();

        gather(&Tree::open(root.path()).unwrap(), &parameters, 20_000, &|_| false, &so_far);
        // The deadline may be over just now.
        let late = so_far.gathered(&parameters);

        assert_eq!(late.users.iter().map(|user| user.username.as_str()).collect::<Vec<_>>(), ["root"]);
        assert!(late.coverage.not_examined.iter().all(|skipped| !skipped.why.contains("respond")));
    }
}
