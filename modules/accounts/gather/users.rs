//! Accounts and groups: the files that nsswitch.conf(5) calls `files`, and the records of systemd's userdb.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use vigie_host::shown;
use vigie_tree::Unread;

use super::{Gatherer, Group, MAX_FILE, MAX_KEYS, User};
use crate::files::{self, Password, PasswordField, Shadow, Status};
use crate::logins::time;
use crate::sudoers::Problem;

const SECONDS_OF_A_DAY: i64 = 86_400;

impl User {
    /// An account of which nothing more is known yet.
    fn of(username: String, uid: u32, gid: u32, password_status: Status, source: String) -> Self {
        Self {
            username,
            uid,
            gid,
            password_status,
            source,
            groups: Vec::new(),
            description: String::new(),
            directory: String::new(),
            shell: String::new(),
            state: "",
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
            line: None,
            problems: Vec::new(),
        }
    }
}

impl Gatherer<'_> {
    pub(super) fn accounts(&mut self) {
        let mut shadow: HashMap<String, Shadow> = HashMap::new();
        let mut has_shadow = false;
        for path in ["/etc/shadow", "/usr/lib/shadow", "/var/lib/extrausers/shadow"] {
            let Some(content) = self.read(path, MAX_FILE) else { continue };
            has_shadow = true;
            let lines = files::shadow(&content);
            self.wrong_lines(path, lines.wrong);
            for entry in lines.read {
                if shadow.contains_key(&entry.name) {
                    self.problem(path, Some(entry.line), "a duplicate line for this account");
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
            let lines = self.reading(path, |_| files::passwd(&content));
            self.wrong_lines(path, lines.wrong);
            for account in lines.read {
                let mut problems = Vec::new();
                if !names.insert(account.name.clone()) {
                    problems.push("a duplicate account of this name".to_owned());
                }
                if let Some(other) = uids.get(&account.uid) {
                    problems.push(format!("the same UID as {other}"));
                } else {
                    uids.insert(account.uid, account.name.clone());
                }
                if account.odd_uid {
                    problems.push("the UID has an unusual notation".to_owned());
                }
                if account.uid == 0 && account.name != "root" {
                    problems.push("an account with UID 0 that is not named root".to_owned());
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
                problem: "a line for an account that does not exist".to_owned(),
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
            description: account.gecos.clone(),
            directory: account.directory.clone(),
            shell: if account.shell.is_empty() { "/bin/sh".to_owned() } else { account.shell.clone() },
            state,
            password_scheme: password.scheme,
            last_change: shadow.and_then(|shadow| shadow.last_change).filter(|day| *day > 0).map(day),
            must_change: shadow.is_some_and(|shadow| shadow.last_change == Some(0)),
            password_expires: expires.map(day),
            expire: expire.map(day),
            line: Some(account.line),
            problems,
            ..User::of(account.name.clone(), account.uid, account.gid, password.status, source.to_owned())
        }
    }

    /// Records of systemd's userdb, see nss-systemd(8).
    fn userdb(&mut self, names: &HashSet<String>) {
        for directory in ["/etc/userdb", "/run/userdb", "/run/host/userdb", "/usr/lib/userdb"] {
            let entries = match self.reading(directory, |tree| tree.list(directory.as_bytes())) {
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
                let record = self
                    .reading(&path, |_| entry.read(MAX_KEYS))
                    .ok()
                    .and_then(|content| serde_json::from_slice::<serde_json::Value>(&content).ok());
                let Some(record) = record else {
                    self.found.coverage.skip(path, "it is not a valid account record");
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
                let gid = number("gid").unwrap_or(uid);
                self.found.users.push(User {
                    description: text("realName"),
                    directory: text("homeDirectory"),
                    shell: text("shell"),
                    state: if locked { "locked" } else { "not-set" },
                    problems: vec!["its password is not examined".to_owned()],
                    ..User::of(name, uid, gid, status, path)
                });
            }
        }
    }

    pub(super) fn groups(&mut self) {
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
                    self.problem(path, Some(group.line), "a duplicate group of this name");
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
}
