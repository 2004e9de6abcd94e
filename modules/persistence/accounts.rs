//! Accounts that open a way in, and the keys of those who may log in.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use vigie_host::shown;
use vigie_host::users::{account_line, account_number};
use vigie_tree::{Entry, Unread};

use crate::catalogue::AUTHORIZED_KEYS;
use crate::homes::{Account, MAX_PASSWD, parse};
use crate::record::{Record, Verdict};
use crate::scan::Scan;

/// Groups whose members are root, or nearly so.
const POWERFUL: [&str; 17] = [
    "root",
    "sudo",
    "wheel",
    "admin",
    "docker",
    "podman",
    "lxd",
    "incus-admin",
    "libvirt",
    "kvm",
    "disk",
    "shadow",
    "adm",
    "systemd-journal",
    "sys",
    "kmem",
    "staff",
];

/// Uids below this are the system's.
const UID_MIN: u32 = 1000;

/// Uids from this on are taken by systemd and containers.
const NOBODY: u32 = 65_534;

impl Scan<'_> {
    /// Looks for accounts and groups that nobody expects.
    pub(crate) fn accounts(&mut self) {
        if !["uid0", "sysaccount", "empty-pw", "group-priv", "subid"].iter().any(|name| self.wants(name)) {
            return;
        }
        let accounts = self.passwd();
        self.shadow();
        self.groups(&accounts);
        self.subids(&accounts);
    }

    fn database(&mut self, path: &str) -> Option<(Entry, Vec<u8>)> {
        let found = self.tree.find(path.as_bytes()).and_then(|entry| {
            let content = entry.read(MAX_PASSWD)?;
            Ok((entry, content))
        });
        match found {
            Ok(found) => {
                self.examined += 1;
                Some(found)
            }
            Err(Unread::Gone) => None,
            Err(why) => {
                self.skip(path, why.to_string());
                None
            }
        }
    }

    fn note(
        &mut self,
        technique: &'static str,
        entry: &Entry,
        line: u32,
        verdict: Verdict,
        user: &str,
        note: String,
    ) {
        let record = Record {
            line: Some(line),
            verdict: Some(verdict),
            user: Some(user.to_owned()),
            notes: vec![note],
            ..self.of_entry(technique, entry)
        };
        self.push(record);
    }

    fn passwd(&mut self) -> Vec<Account> {
        let Some((entry, content)) = self.database("/etc/passwd") else { return Vec::new() };
        let accounts = parse(&content);
        for account in &accounts {
            let (line, name) = (account.line, account.name.as_str());
            if account.uid == 0 {
                let verdict = if name == "root" { Verdict::Derived } else { Verdict::Local };
                self.note("uid0", &entry, line, verdict, name, "its UID is 0".to_owned());
            } else if account.uid < UID_MIN && may_log_in(account) {
                self.note(
                    "sysaccount",
                    &entry,
                    line,
                    Verdict::Local,
                    name,
                    format!("a system account with the shell {:?}", account.shell),
                );
            }
            if account.no_password {
                self.note(
                    "empty-pw",
                    &entry,
                    line,
                    Verdict::Local,
                    name,
                    "no password is required".to_owned(),
                );
            }
        }
        // Lines of another service, see nsswitch.conf(5).
        for (line, number) in content.split(|byte| *byte == b'\n').zip(1_u32..) {
            if line.starts_with(b"+") || line.starts_with(b"-") {
                let name = shown(line.split(|byte| *byte == b':').next().unwrap_or_default());
                self.note(
                    "uid0",
                    &entry,
                    number,
                    Verdict::Local,
                    &name,
                    "accounts of another service are included here".to_owned(),
                );
            }
        }
        accounts
    }

    fn shadow(&mut self) {
        let Some((entry, content)) = self.database("/etc/shadow") else { return };
        for (line, number) in content.split(|byte| *byte == b'\n').zip(1_u32..) {
            let Some(line) = account_line(line) else { continue };
            let mut fields = line.split(|byte| *byte == b':');
            let (Some(name), Some(password)) = (fields.next(), fields.next()) else { continue };
            if !name.is_empty() && password.is_empty() {
                let name = shown(name);
                self.note(
                    "empty-pw",
                    &entry,
                    number,
                    Verdict::Local,
                    &name,
                    "its password is empty".to_owned(),
                );
            }
        }
    }

    fn groups(&mut self, accounts: &[Account]) {
        let mut members: BTreeMap<(u32, String), BTreeSet<String>> = BTreeMap::new();
        for path in ["/etc/group", "/etc/gshadow"] {
            let Some((entry, content)) = self.database(path) else { continue };
            let lines = content.split(|byte| *byte == b'\n').zip(1_u32..);
            let lines = lines.filter_map(|(line, number)| Some((account_line(line)?, number)));
            let lines: Vec<_> = lines.map(|(line, number)| (String::from_utf8_lossy(line), number)).collect();
            let fields = |line: &'_ str| -> Option<(String, String, String)> {
                let mut fields = line.splitn(4, ':').map(str::to_owned);
                let (name, _, third) = (fields.next()?, fields.next()?, fields.next()?);
                Some((name, third, fields.next().unwrap_or_default()))
            };
            let gid = |third: &str| account_number(third).filter(|_| path == "/etc/group");
            // Rights belong to the number, and another group can have the same.
            let powerful: BTreeSet<u32> = lines
                .iter()
                .filter_map(|(line, _)| fields(line))
                .filter(|(name, _, _)| POWERFUL.contains(&name.as_str()))
                .filter_map(|(_, third, _)| gid(&third))
                .collect();
            for (line, number) in &lines {
                let Some((name, third, fourth)) = fields(line) else { continue };
                let (name, third, fourth, number) = (name.as_str(), third.as_str(), fourth.as_str(), *number);
                if !POWERFUL.contains(&name) && gid(third).is_none_or(|gid| !powerful.contains(&gid)) {
                    continue;
                }
                let names = |list: &str| {
                    list.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect::<Vec<_>>()
                };
                let mut users: BTreeSet<String> = names(fourth).into_iter().collect();
                if path == "/etc/gshadow" {
                    users.extend(names(third));
                } else if let Some(gid) = account_number(third) {
                    users.extend(
                        accounts
                            .iter()
                            .filter(|account| account.gid == gid)
                            .map(|account| account.name.clone()),
                    );
                }
                users.remove("root");
                // Accounts that installation puts into these groups.
                users.retain(|user| {
                    !matches!(
                        (name, user.as_str()),
                        ("shadow", "Debian-exim") | ("sys", "sys") | ("adm", "syslog" | "logcheck")
                    )
                });
                if !users.is_empty() {
                    members.insert((number, name.to_owned()), users.clone());
                    let list = users.iter().cloned().collect::<Vec<_>>().join(",");
                    self.note(
                        "group-priv",
                        &entry,
                        number,
                        Verdict::Local,
                        &list,
                        format!("in the group {name}"),
                    );
                }
            }
        }
    }

    /// Ranges of ids for containers must not hold those of people or of each other.
    fn subids(&mut self, accounts: &[Account]) {
        for path in ["/etc/subuid", "/etc/subgid"] {
            let Some((entry, content)) = self.database(path) else { continue };
            let mut ranges: Vec<(u64, u64, String)> = Vec::new();
            for (line, number) in content.split(|byte| *byte == b'\n').zip(1_u32..) {
                let line = String::from_utf8_lossy(line);
                let fields: Vec<&str> = line.trim().split(':').collect();
                let [name, start, count] = *fields.as_slice() else { continue };
                let (Ok(start), Ok(count)) = (start.parse::<u64>(), count.parse::<u64>()) else { continue };
                let end = start.saturating_add(count);
                let real = accounts
                    .iter()
                    .find(|account| account.uid != NOBODY && (start..end).contains(&u64::from(account.uid)));
                let other =
                    ranges.iter().find(|(from, to, owner)| start < *to && *from < end && owner != name);
                let problem = if start == 0 {
                    Some("holds the id 0".to_owned())
                } else if let Some(account) = real {
                    Some(format!("holds the id of {}", account.name))
                } else {
                    other.map(|(_, _, owner)| format!("overlaps with the range of {owner}"))
                };
                let verdict = if problem.is_some() { Verdict::Local } else { Verdict::Derived };
                self.note(
                    "subid",
                    &entry,
                    number,
                    verdict,
                    name,
                    problem.unwrap_or_else(|| "a range of ids for containers".to_owned()),
                );
                ranges.push((start, end, name.to_owned()));
            }
        }
    }

    /// Keys that may log in, in every place that sshd may look for them.
    pub(crate) fn ssh_keys(&mut self) {
        if !self.wants("ssh-authkeys") && !self.wants("ssh-authkeys-cmd") {
            return;
        }
        let mut patterns: BTreeSet<String> =
            [".ssh/authorized_keys", ".ssh/authorized_keys2"].map(str::to_owned).into_iter().collect();
        for content in self.configuration("sshd-conf") {
            for line in String::from_utf8_lossy(&content).lines() {
                let mut words = line.trim().split([' ', '\t', '=']).filter(|word| !word.is_empty());
                match words.next().map(str::to_ascii_lowercase).as_deref() {
                    Some("authorizedkeysfile") => {
                        patterns.extend(
                            words
                                .filter(|word| *word != "none")
                                .map(|word| word.trim_matches('"').to_owned()),
                        );
                    }
                    Some("authorizedkeyscommand") if words.next().is_some_and(|word| word != "none") => {
                        self.skip("keys of AuthorizedKeysCommand", "the command is not run");
                    }
                    _ => {}
                }
            }
        }
        let homes = self.homes.iter().map(|home| (home.name.clone(), home.uid, home.path.clone()));
        // An account without a home can have its keys elsewhere.
        let logins: Vec<(String, u32, Vec<u8>)> = self.logins.iter().cloned().chain(homes).collect();
        let mut done = HashSet::new();
        for (name, uid, home) in logins {
            if self.is_over() {
                return;
            }
            for pattern in &patterns {
                let path = key_file(pattern, &name, uid, &home);
                match self.tree.look(&path) {
                    Ok(entry) if !entry.status.is_directory() => {
                        // Accounts can have a file in common, which lets each of them in.
                        if !done.insert((entry.path.clone(), name.clone())) {
                            continue;
                        }
                        let opened = self.open(entry, "ssh-authkeys");
                        self.add("ssh-authkeys", AUTHORIZED_KEYS, &opened, false, Some(&name));
                    }
                    Ok(_) | Err(Unread::Gone) => {}
                    Err(why) => self.skip(shown(&path), why.to_string()),
                }
            }
        }
    }
}

/// A shell, and not one of the programs that turn everybody away.
fn may_log_in(account: &Account) -> bool {
    const CLOSED: [&str; 8] = ["nologin", "false", "sync", "shutdown", "halt", "true", "git-shell", "rssh"];
    let name = account.shell.rsplit('/').next().unwrap_or_default();
    // An empty field means /bin/sh.
    !CLOSED.contains(&name)
}

/// Replaces the tokens of sshd_config(5).
fn key_file(pattern: &str, name: &str, uid: u32, home: &[u8]) -> Vec<u8> {
    let mut path = Vec::new();
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '%' => match letters.next() {
                Some('h') => path.extend_from_slice(home),
                Some('u') => path.extend_from_slice(name.as_bytes()),
                Some('U') => path.extend_from_slice(uid.to_string().as_bytes()),
                Some(other) => path.extend_from_slice(other.to_string().as_bytes()),
                None => {}
            },
            letter => path.extend_from_slice(letter.to_string().as_bytes()),
        }
    }
    if path.starts_with(b"/") { path } else { vigie_tree::joined(home, &path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_sshd_are_replaced() {
        assert_eq!(key_file(".ssh/k", "ann", 7, b"/home/ann"), b"/home/ann/.ssh/k");
        assert_eq!(key_file("/etc/k/%u-%U-%%", "ann", 7, b"/h"), b"/etc/k/ann-7-%");
        assert_eq!(key_file("%h/k", "ann", 7, b"/h"), b"/h/k");
    }
}
