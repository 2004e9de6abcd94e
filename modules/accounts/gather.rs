//! Reads the files of a host and puts accounts, rules, keys and logins together.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::unix::fs::FileExt;

use serde::Serialize;
use vigie_host::shown;
use vigie_packagedb::sqlite::{Database, Value};
use vigie_sdk::Coverage;
use vigie_tree::{Entry, Tree, Unread};

use crate::files::{self, Password, PasswordField, Shadow, Status};
use crate::keys::{self, Key};
use crate::logins::{self, LASTLOG_BYTES, Login, UTMP_BYTES, time};
use crate::parameters::Parameters;
use crate::sudoers::{self, Policy, Problem};

/// Largest file of accounts that is read, in bytes.
const MAX_FILE: usize = 64 << 20;

/// Largest file of keys that is read, in bytes.
const MAX_KEYS: usize = 4 << 20;

/// Most keys of one answer.
const MAX_ALL_KEYS: usize = 200_000;

/// Most bytes of a log of logins that are read, from its end.
const MAX_LOG: u64 = 64 << 20;

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

const SECONDS_OF_A_DAY: i64 = 86_400;

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

/// Puts an answer together. `today` is in days since 1970.
pub(crate) fn gather(tree: &Tree, parameters: &Parameters, today: i64, stop: &dyn Fn() -> bool) -> Gathered {
    let mut gatherer = Gatherer {
        tree,
        parameters,
        today,
        stop,
        found: Gathered { coverage: Coverage::whole(), ..Gathered::default() },
    };
    gatherer.run();
    gatherer.found
}

struct Gatherer<'a> {
    tree: &'a Tree,
    parameters: &'a Parameters,
    today: i64,
    stop: &'a dyn Fn() -> bool,
    found: Gathered,
}

impl Gatherer<'_> {
    fn run(&mut self) {
        for mount in self.tree.remote_mounts() {
            self.found.coverage.skip(shown(mount), "a remote file system, which is not entered");
        }
        let host = self.host_name();
        self.services();
        self.accounts();
        self.groups();
        let needs_sudo = self.parameters.wants("sudo") || self.parameters.wants("users");
        if needs_sudo {
            for path in ["/etc/sudoers", "/usr/local/etc/sudoers"] {
                let mut policy = sudoers::read(self.tree, path, &host, &mut self.found.coverage);
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
        self.judge();
        self.narrow();
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
        match self.tree.read(path, limit) {
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
        let name = own.or_else(|| self.tree.read("/etc/hostname", 4096).ok()).unwrap_or_default();
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
                    self.found.coverage.skip(
                        format!("{kind} of {service}"),
                        "this service cannot be listed without asking it",
                    );
                }
            }
        }
    }

    fn accounts(&mut self) {
        let mut shadow: HashMap<String, Shadow> = HashMap::new();
        let mut has_shadow = false;
        for path in ["/etc/shadow", "/usr/lib/shadow", "/var/lib/extrausers/shadow"] {
            let Some(content) = self.read(path, MAX_FILE) else { continue };
            has_shadow = true;
            let lines = files::shadow(&content);
            self.wrong_lines(path, lines.wrong);
            for entry in lines.read {
                if shadow.contains_key(&entry.name) {
                    self.problem(path, Some(entry.line), "a second line for this account");
                } else {
                    shadow.insert(entry.name.clone(), entry);
                }
            }
        }
        let mut is_shadowed = false;
        let mut names: HashSet<String> = HashSet::new();
        let mut uids: HashMap<u32, String> = HashMap::new();
        for path in ["/etc/passwd", "/usr/lib/passwd", "/var/lib/extrausers/passwd"] {
            let Some(content) = self.read(path, MAX_FILE) else { continue };
            let lines = files::passwd(&content);
            self.wrong_lines(path, lines.wrong);
            for account in lines.read {
                let mut problems = Vec::new();
                if !names.insert(account.name.clone()) {
                    problems.push("a second account of this name".to_owned());
                }
                if let Some(other) = uids.get(&account.uid) {
                    problems.push(format!("the same uid as {other}"));
                } else {
                    uids.insert(account.uid, account.name.clone());
                }
                if account.odd_uid {
                    problems.push("the uid is written in an odd way".to_owned());
                }
                if account.uid == 0 && account.name != "root" {
                    problems.push("it is root by another name".to_owned());
                }
                if !account.is_regular {
                    problems
                        .push("its line has not 7 fields, and some programs take it nevertheless".to_owned());
                }
                is_shadowed |= account.password == PasswordField::Shadow;
                if account.name.len() > 32 {
                    problems.push("the name is longer than 32".to_owned());
                }
                let user = self.user(&account, path, shadow.get(&account.name), problems);
                self.found.users.push(user);
            }
        }
        for name in shadow.keys().filter(|name| !names.contains(*name)) {
            let line = shadow.get(name).map(|entry| entry.line);
            self.found.problems.push(Problem {
                file: "/etc/shadow".to_owned(),
                line,
                problem: "a line for an account that is not there".to_owned(),
            });
        }
        if names.is_empty() {
            self.found.coverage.skip("/etc/passwd", "it names no account");
        }
        if is_shadowed && !has_shadow {
            self.found.coverage.skip("/etc/shadow", "it is not there: states of passwords are not known");
        }
        self.userdb(&names);
    }

    fn user(
        &self,
        account: &files::Passwd,
        source: &str,
        shadow: Option<&Shadow>,
        mut problems: Vec<String>,
    ) -> User {
        let password = match (account.password, shadow) {
            (PasswordField::Shadow, Some(shadow)) => shadow.password,
            (PasswordField::Shadow, None) => Password { status: Status::NotSet, scheme: None },
            (PasswordField::Here(password), _) => {
                if !matches!(password.status, Status::NotSet) {
                    problems.push("the password is not in /etc/shadow".to_owned());
                }
                password
            }
        };
        let day = |day: i64| time(day.saturating_mul(SECONDS_OF_A_DAY)).chars().take(10).collect::<String>();
        let expires = shadow.and_then(|shadow| {
            Some(
                shadow
                    .last_change
                    .filter(|day| *day > 0)?
                    .saturating_add(shadow.maximum.filter(|days| *days < 99_999)?),
            )
        });
        let closes = expires
            .zip(shadow.and_then(|shadow| shadow.inactive))
            .map(|(day, days)| day.saturating_add(days));
        let expire = shadow.and_then(|shadow| shadow.expire);
        let is_expired =
            expire.is_some_and(|day| self.today >= day) || closes.is_some_and(|day| self.today > day);
        let state = match password.status {
            _ if is_expired => "expired",
            Status::Empty => "empty",
            Status::NotSet => "not-set",
            Status::Locked => "locked",
            Status::Active => "active",
            Status::Impossible => "impossible",
        };
        User {
            username: account.name.clone(),
            uid: account.uid,
            gid: account.gid,
            groups: Vec::new(),
            description: account.gecos.clone(),
            directory: account.directory.clone(),
            shell: if account.shell.is_empty() { "/bin/sh".to_owned() } else { account.shell.clone() },
            state,
            password_status: password.status,
            password_scheme: password.scheme,
            last_change: shadow.and_then(|shadow| shadow.last_change).filter(|day| *day > 0).map(day),
            must_change: shadow.is_some_and(|shadow| shadow.last_change == Some(0)),
            password_expires: expires.map(day),
            expire: expire.map(day),
            keys: 0,
            sudo: 0,
            privileged: false,
            last_login: None,
            last_host: None,
            source: source.to_owned(),
            line: Some(account.line),
            problems,
        }
    }

    /// Records of systemd's userdb, see nss-systemd(8).
    fn userdb(&mut self, names: &HashSet<String>) {
        for directory in ["/etc/userdb", "/run/userdb", "/run/host/userdb", "/usr/lib/userdb"] {
            let entries = match self.tree.list(directory.as_bytes()) {
                Ok(entries) => entries,
                Err(Unread::Gone) => continue,
                Err(why) => {
                    self.found.coverage.skip(directory, why.to_string());
                    continue;
                }
            };
            for entry in entries {
                if !entry.name().ends_with(b".user") || entry.status.is_link() {
                    continue;
                }
                let path = shown(&entry.path);
                let record = entry
                    .read(MAX_KEYS)
                    .ok()
                    .and_then(|content| serde_json::from_slice::<serde_json::Value>(&content).ok());
                let Some(record) = record else {
                    self.found.coverage.skip(path, "it cannot be read as a record of an account");
                    continue;
                };
                self.found.examined += 1;
                let text = |key: &str| {
                    record.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
                };
                let number = |key: &str| {
                    record
                        .get(key)
                        .and_then(serde_json::Value::as_u64)
                        .and_then(|value| u32::try_from(value).ok())
                };
                let (name, Some(uid)) = (text("userName"), number("uid")) else { continue };
                if name.is_empty() || names.contains(&name) {
                    continue;
                }
                let locked = record.get("locked").and_then(serde_json::Value::as_bool) == Some(true);
                let status = if locked { Status::Locked } else { Status::NotSet };
                self.found.users.push(User {
                    username: name,
                    uid,
                    gid: number("gid").unwrap_or(uid),
                    groups: Vec::new(),
                    description: text("realName"),
                    directory: text("homeDirectory"),
                    shell: text("shell"),
                    state: if locked { "locked" } else { "not-set" },
                    password_status: status,
                    password_scheme: None,
                    last_change: None,
                    must_change: false,
                    password_expires: None,
                    expire: None,
                    keys: 0,
                    sudo: 0,
                    privileged: false,
                    last_login: None,
                    last_host: None,
                    source: path,
                    line: None,
                    problems: vec!["its password is not looked at".to_owned()],
                });
            }
        }
    }

    fn groups(&mut self) {
        let mut shadow: HashMap<String, files::Group> = HashMap::new();
        if let Some(content) = self.read("/etc/gshadow", MAX_FILE) {
            let lines = files::gshadow(&content);
            self.wrong_lines("/etc/gshadow", lines.wrong);
            shadow.extend(lines.read.into_iter().map(|group| (group.name.clone(), group)));
        }
        let mut primary: HashMap<u32, Vec<String>> = HashMap::new();
        for user in &self.found.users {
            primary.entry(user.gid).or_default().push(user.username.clone());
        }
        let mut memberships: HashMap<String, Vec<String>> = HashMap::new();
        let mut names = HashSet::new();
        // Rights belong to the number: whoever is in one group of it is in all.
        let mut of_number: BTreeMap<u32, (Vec<String>, BTreeSet<String>)> = BTreeMap::new();
        for path in ["/etc/group", "/usr/lib/group", "/var/lib/extrausers/group"] {
            let Some(content) = self.read(path, MAX_FILE) else { continue };
            let lines = files::group(&content);
            self.wrong_lines(path, lines.wrong);
            for group in lines.read {
                if !names.insert(group.name.clone()) {
                    self.problem(path, Some(group.line), "a second group of this name");
                }
                let more = shadow.get(&group.name);
                let mut members: BTreeSet<String> = group.members.iter().cloned().collect();
                members.extend(primary.get(&group.gid).into_iter().flatten().cloned());
                members.extend(more.iter().flat_map(|more| more.members.iter().cloned()));
                for member in &members {
                    memberships.entry(member.clone()).or_default().push(group.name.clone());
                }
                let (same, all) = of_number.entry(group.gid).or_default();
                if let Some(first) = same.first().filter(|first| **first != group.name) {
                    self.problem(path, Some(group.line), format!("the same gid as {first}"));
                }
                same.push(group.name.clone());
                all.extend(members.iter().cloned());
                let password = more.map_or(group.password, |more| more.password).status;
                self.found.groups.push(Group {
                    groupname: group.name,
                    gid: group.gid,
                    members: members.into_iter().collect(),
                    admins: more.map(|more| more.admins.clone()).unwrap_or_default(),
                    password_status: Some(password).filter(|status| *status != Status::NotSet),
                    source: path.to_owned(),
                    line: group.line,
                });
            }
        }
        for (names, members) in of_number.into_values().filter(|(names, _)| names.len() > 1) {
            for member in members {
                memberships.entry(member).or_default().extend(names.iter().cloned());
            }
        }
        for user in &mut self.found.users {
            user.groups = memberships.remove(&user.username).unwrap_or_default();
            user.groups.sort();
            user.groups.dedup();
        }
    }

    /// Where sshd looks for keys, from its whole configuration.
    fn key_patterns(&mut self) -> Vec<String> {
        let mut patterns: BTreeSet<String> = BTreeSet::new();
        let mut waiting: Vec<Vec<u8>> = vec![b"/etc/ssh/sshd_config".to_vec()];
        let mut done: HashSet<Vec<u8>> = HashSet::new();
        let mut unread = Vec::new();
        while let Some(path) = waiting.pop() {
            if done.len() > 1_000 || !done.insert(path.clone()) {
                continue;
            }
            let Ok(entry) = self.tree.find(&path) else { continue };
            let Ok(content) = entry.read(MAX_KEYS) else {
                self.found.coverage.skip(shown(&path), "it cannot be read");
                continue;
            };
            self.found.examined += 1;
            let places = keys::places(&content);
            patterns.extend(places.files);
            for (keyword, value) in places.sources {
                let why = match keyword.to_ascii_lowercase().as_str() {
                    "authorizedkeyscommand" => "the command is not run",
                    _ => "whose keys it signed or named is not listed",
                };
                self.found.coverage.skip(format!("{keyword} {value}"), why);
            }
            for pattern in places.includes {
                let pattern = if pattern.starts_with('/') { pattern } else { format!("/etc/ssh/{pattern}") };
                waiting.extend(self.tree.glob(&pattern, &mut unread).into_iter().map(|entry| entry.path));
            }
        }
        for (path, why) in unread {
            self.found.coverage.skip(shown(&path), why.to_string());
        }
        // The defaults are read also when another place is set for some: a forgotten key is worth a line.
        patterns.extend([".ssh/authorized_keys", ".ssh/authorized_keys2"].map(str::to_owned));
        patterns.into_iter().collect()
    }

    fn keys(&mut self) {
        let patterns = self.key_patterns();
        let accounts: Vec<(String, u32, String)> = self
            .found
            .users
            .iter()
            .map(|user| (user.username.clone(), user.uid, user.directory.clone()))
            .collect();
        let mut homes: HashMap<String, bool> = HashMap::new();
        for (name, uid, home) in accounts {
            if (self.stop)() {
                self.found.coverage.skip("keys of the rest of the accounts", "the time is over");
                return;
            }
            let is_there = *homes
                .entry(home.clone())
                .or_insert_with(|| home.starts_with('/') && self.tree.find(home.as_bytes()).is_ok());
            for pattern in &patterns {
                let path = keys::key_file(pattern, &name, uid, &home);
                if !is_there && path.starts_with(&home) {
                    continue;
                }
                self.key_file(&name, uid, &path);
            }
        }
    }

    fn key_file(&mut self, name: &str, uid: u32, path: &str) {
        let entry = match self.tree.look(path.as_bytes()) {
            Ok(entry) => entry,
            Err(Unread::Gone) => return,
            Err(why) => {
                self.found.coverage.skip(path, why.to_string());
                return;
            }
        };
        let file = if entry.status.is_link() { self.tree.find(path.as_bytes()) } else { Ok(entry.clone()) };
        let Ok(file) = file else { return };
        // Whoever made a link, or a second name, chose what is read here.
        let is_foreign = file.status.uid != 0 && file.status.uid != uid;
        let leads_out =
            entry.status.is_link() && entry.status.uid != 0 && file.status.uid != entry.status.uid;
        if leads_out || (file.status.links > 1 && file.status.uid != uid) {
            self.found.coverage.skip(path, "it leads to a file of another owner");
            return;
        }
        let content = match file.read(MAX_KEYS) {
            Ok(content) => content,
            Err(why) => {
                self.found.coverage.skip(path, why.to_string());
                return;
            }
        };
        self.found.examined += 1;
        let refused = if is_foreign {
            Some("StrictModes refuses it: another user owns the file")
        } else if file.status.mode & 0o022 != 0 {
            Some("StrictModes refuses it: others may write the file")
        } else {
            self.open_directory(&file, uid)
        };
        let (keys, wrong) = keys::parse_all(&content);
        if let Some(line) = wrong.first() {
            let more =
                if wrong.len() > 1 { format!(", and {} more", wrong.len() - 1) } else { String::new() };
            self.problem(&shown(&file.path), Some(*line), format!("no key of a known kind{more}"));
        }
        for mut key in keys {
            if self.found.keys.len() >= MAX_ALL_KEYS {
                self.found.coverage.skip(path, "there are more keys than an answer holds");
                return;
            }
            key.ignored = key.ignored.or(refused);
            self.found.keys.push(UsersKey { username: name.to_owned(), key_file: shown(&file.path), key });
        }
    }

    /// Whether a directory above the file can be written by others, up to the root.
    fn open_directory(&self, file: &Entry, uid: u32) -> Option<&'static str> {
        let mut path = file.path.as_slice();
        while let Some(slash) = path.iter().rposition(|byte| *byte == b'/').filter(|slash| *slash > 0) {
            path = &path[..slash];
            let Ok(directory) = self.tree.find(path) else { return None };
            let owner = directory.status.uid;
            if directory.status.mode & 0o022 != 0 || (owner != 0 && owner != uid) {
                return Some("StrictModes refuses it: others may change a directory above it");
            }
        }
        None
    }

    /// The last login of each account: from lastlog, and from the database that took its place.
    fn last_logins(&mut self) {
        if !self.parameters.wants("users") {
            return;
        }
        let mut last: HashMap<String, (i64, String)> = HashMap::new();
        match self.tree.find(b"/var/log/lastlog").and_then(|entry| entry.open()) {
            Ok(file) => {
                self.found.examined += 1;
                for user in &self.found.users {
                    // The file has holes where nobody has such a number.
                    let mut record = [0; LASTLOG_BYTES];
                    let at = u64::from(user.uid) * LASTLOG_BYTES as u64;
                    if file.read_exact_at(&mut record, at).is_ok()
                        && let Some((seconds, _, host)) = logins::last_login(&record)
                    {
                        last.insert(user.username.clone(), (seconds, host));
                    }
                }
            }
            Err(Unread::Gone) => {}
            Err(why) => self.found.coverage.skip("/var/log/lastlog", why.to_string()),
        }
        self.each_row("/var/lib/lastlog/lastlog2.db", "Lastlog2", &mut |row| {
            if let (Some(name), Some(seconds)) = (text_of(row.first()), number_of(row.get(1))) {
                let host = text_of(row.get(3)).unwrap_or_default();
                let entry = last.entry(name).or_insert((seconds, host.clone()));
                if entry.0 < seconds {
                    *entry = (seconds, host);
                }
            }
        });
        for user in &mut self.found.users {
            if let Some((seconds, host)) = last.remove(&user.username) {
                user.last_login = Some(time(seconds));
                user.last_host = Some(host).filter(|host| !host.is_empty());
            }
        }
    }

    /// Reads a table of a database of SQLite, when it is there and no link leads to it.
    fn each_row(&mut self, path: &str, table: &str, each: &mut dyn FnMut(&[Value])) {
        let real = match self.tree.find(path.as_bytes()) {
            Ok(entry) if entry.path == path.as_bytes() && entry.status.is_file() => {
                self.parameters.root().join(&path[1..])
            }
            Ok(_) => {
                self.found.coverage.skip(path, "a link leads there");
                return;
            }
            Err(Unread::Gone) => return,
            Err(why) => {
                self.found.coverage.skip(path, why.to_string());
                return;
            }
        };
        let read = Database::open(&real).and_then(|database| {
            // Names of tables are as they were written when they were made.
            let names = [table.to_owned(), table.to_lowercase()];
            for name in names {
                if let Some(root) = database.table(&name)? {
                    return database.each_row(root, &mut |_, row| each(row));
                }
            }
            Ok(())
        });
        self.found.examined += 1;
        if let Err(why) = read {
            self.found.coverage.skip(path, why.to_string());
        }
    }

    /// Logins in the database that took the place of wtmp: ID, Type, User, Login, Logout, TTY, RemoteHost, Service.
    fn wtmpdb(&mut self) {
        const USER: i64 = 3;
        let mut found: Vec<(i64, Login)> = Vec::new();
        self.each_row("/var/lib/wtmpdb/wtmp.db", "wtmp", &mut |row| {
            if number_of(row.get(1)) != Some(USER) {
                return;
            }
            let (Some(username), Some(login)) = (text_of(row.get(2)), number_of(row.get(3))) else { return };
            let micro = |value: i64| time(value / 1_000_000);
            found.push((
                login,
                Login {
                    username,
                    tty: text_of(row.get(5)).unwrap_or_default(),
                    host: text_of(row.get(6)).unwrap_or_default(),
                    time: micro(login),
                    end: number_of(row.get(4)).filter(|end| *end > 0).map(micro),
                    pid: None,
                    source: "wtmpdb",
                },
            ));
        });
        found.sort_by_key(|(login, _)| std::cmp::Reverse(*login));
        self.found.logins.extend(found.into_iter().map(|(_, login)| login));
    }

    /// Logins of a log and of the one before it, newest first.
    fn log(&mut self, paths: &[&str], source: &'static str) -> (Vec<Login>, Vec<Problem>) {
        let mut content = Vec::new();
        for path in paths.iter().rev() {
            match self.tree.find(path.as_bytes()).and_then(|entry| Ok((entry.open()?, entry.status.size))) {
                Ok((file, size)) => {
                    self.found.examined += 1;
                    let whole = size - size % UTMP_BYTES as u64;
                    let start = whole.saturating_sub(MAX_LOG - MAX_LOG % UTMP_BYTES as u64);
                    if start > 0 {
                        self.found.coverage.skip(*path, "only the newest part of it was read");
                    }
                    let mut part = vec![0; usize::try_from(whole - start).unwrap_or(0)];
                    match file.read_exact_at(&mut part, start) {
                        Ok(()) => content.extend(part),
                        Err(error) => self.found.coverage.skip(*path, error.to_string()),
                    }
                }
                Err(Unread::Gone) => {}
                Err(why) => self.found.coverage.skip(*path, why.to_string()),
            }
        }
        let (mut logins, problems) = logins::logins(&logins::records(&content), source);
        logins.retain(|login| self.parameters.takes_name(&login.username));
        let problem = |problem| Problem { file: paths[0].to_owned(), line: None, problem };
        (logins, problems.into_iter().map(problem).collect())
    }

    /// Who is logged in, as utmp and logind say.
    fn sessions(&mut self) {
        if !self.parameters.is_this_host() {
            self.found.coverage.skip("who is logged in", "another root was asked for than that of this host");
            return;
        }
        let mut known: HashSet<String> = HashSet::new();
        for entry in self.tree.list(b"/run/systemd/sessions").unwrap_or_default() {
            if entry.name().ends_with(b".ref") || !entry.status.is_file() {
                continue;
            }
            let Ok(content) = entry.read(65_536) else {
                self.found.coverage.skip(shown(&entry.path), "it cannot be read");
                continue;
            };
            self.found.examined += 1;
            let session = logins::session(&content);
            let get = |key: &str| session.get(key).cloned().unwrap_or_default();
            let class = get("CLASS");
            if get("STATE") == "closing" || class.starts_with("manager") {
                continue;
            }
            let pid = get("LEADER").parse::<i32>().ok();
            if pid.is_some_and(|pid| !is_alive(pid)) {
                continue;
            }
            let started = get("REALTIME").parse::<i64>().unwrap_or(0) / 1_000_000;
            known.insert(get("TTY"));
            self.found.sessions.push(Login {
                username: get("USER"),
                tty: get("TTY"),
                host: get("REMOTE_HOST"),
                time: time(started),
                end: None,
                pid,
                source: "logind",
            });
        }
        for path in ["/run/utmp", "/var/run/utmp"] {
            let Some(content) = self.read(path, MAX_FILE) else { continue };
            let (logins, _) = logins::logins(&logins::records(&content), "utmp");
            for login in logins {
                let lives = login.end.is_none() && login.pid.is_some_and(is_alive);
                if lives && !known.contains(&login.tty) {
                    self.found.sessions.push(login);
                }
            }
            break;
        }
    }

    /// Counts keys and rules for each account, and says who is as good as root.
    fn judge(&mut self) {
        let mut keys: BTreeMap<String, usize> = BTreeMap::new();
        for key in self.found.keys.iter().filter(|key| key.key.ignored.is_none()) {
            *keys.entry(key.username.clone()).or_default() += 1;
        }
        // With many accounts and many rules, each rule is looked at once.
        let mut by_name: HashMap<String, usize> = HashMap::new();
        for rule in &self.found.sudo.rules {
            if rule.this_host && !rule.command.starts_with('!') {
                for user in &rule.users {
                    *by_name.entry(user.clone()).or_default() += 1;
                }
            }
        }
        for user in &mut self.found.users {
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
    fn narrow(&mut self) {
        let parameters = self.parameters;
        let found = &mut self.found;
        if parameters.narrows() {
            found.users.retain(|user| {
                parameters.takes(&user.username, user.uid, &user.groups)
                    && (!parameters.privileged || user.privileged)
            });
            let names: HashSet<&str> = found.users.iter().map(|user| user.username.as_str()).collect();
            found.keys.retain(|key| names.contains(key.username.as_str()));
            found.sessions.retain(|session| {
                names.contains(session.username.as_str())
                    || parameters.takes_name(&session.username) && !parameters.privileged
            });
            found.groups.retain(|group| {
                parameters.takes_group(&group.groupname)
                    && (group.members.iter().any(|member| names.contains(member.as_str()))
                        || names.is_empty())
            });
            let mut wanted: HashSet<String> = HashSet::from(["ALL".to_owned()]);
            for user in &found.users {
                wanted.insert(user.username.clone());
                wanted.insert(format!("#{}", user.uid));
                wanted.extend(user.groups.iter().map(|group| format!("%{group}")));
            }
            found.sudo.rules.retain(|rule| rule.users.iter().any(|user| wanted.contains(user)));
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

fn is_alive(pid: i32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

fn text_of(value: Option<&Value>) -> Option<String> {
    match value {
        Some(Value::Text(text)) => Some(shown(text.as_ref())),
        _ => None,
    }
}

fn number_of(value: Option<&Value>) -> Option<i64> {
    match value {
        Some(Value::Integer(number)) => Some(*number),
        _ => None,
    }
}
