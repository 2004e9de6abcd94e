//! Accounts and their homes.

use std::collections::HashSet;

use vigie_host::users::{account_line, passwd_fields};
use vigie_sdk::Coverage;
use vigie_tree::{Tree, Unread};

/// Largest `/etc/passwd` that is read, in bytes.
pub(crate) const MAX_PASSWD: usize = 64 << 20;

/// Most homes that are looked at.
const MAX_HOMES: usize = 100_000;

/// A line of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) line: u32,
    pub(crate) name: String,
    /// The password field is empty: no password is asked for.
    pub(crate) no_password: bool,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// A home directory.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    /// Who owns the directory, and so decides what lies in it.
    pub(crate) uid: u32,
    pub(crate) name: String,
    /// Without links.
    pub(crate) path: Vec<u8>,
    /// What it holds, so that nobody looks for what is not there.
    names: HashSet<Vec<u8>>,
}

impl Home {
    /// Whether a path lies below it.
    pub(crate) fn holds(&self, path: &[u8]) -> bool {
        path.strip_prefix(self.path.as_slice()).is_some_and(|rest| rest.starts_with(b"/"))
    }

    /// Whether a pattern below it can match anything.
    pub(crate) fn may_have(&self, below: &str) -> bool {
        let first = below.trim_start_matches('/').split('/').next().unwrap_or_default();
        first.contains(['*', '?', '{']) || self.names.contains(first.as_bytes())
    }
}

/// The accounts of `/etc/passwd`. A uid that only strtoul(3) takes is read as that does.
pub(crate) fn accounts(tree: &Tree, coverage: &mut Coverage) -> Vec<Account> {
    match tree.read("/etc/passwd", MAX_PASSWD) {
        Ok(content) => parse(&content),
        Err(why) => {
            coverage.skip("/etc/passwd", format!("{why}: the home directories of accounts are unknown"));
            Vec::new()
        }
    }
}

/// Reads lines of passwd(5).
pub(crate) fn parse(content: &[u8]) -> Vec<Account> {
    let account = |(line, number): (&[u8], u32)| {
        let line = String::from_utf8_lossy(account_line(line)?);
        let fields = passwd_fields(&line).ok()?;
        Some(Account {
            line: number,
            name: fields.name.to_owned(),
            no_password: fields.password.is_empty(),
            uid: fields.uid,
            gid: fields.gid,
            home: fields.directory.to_owned(),
            shell: fields.shell.trim_end_matches('\r').to_owned(),
        })
    };
    content.split(|byte| *byte == b'\n').zip(1_u32..).filter_map(account).collect()
}

/// The homes that are there, each once.
pub(crate) fn homes(tree: &Tree, accounts: &[Account], coverage: &mut Coverage) -> Vec<Home> {
    let mut homes: Vec<Home> = Vec::new();
    let mut seen = HashSet::new();
    let mut known: Vec<(u32, String, Vec<u8>)> = accounts
        .iter()
        .map(|account| (account.uid, account.name.clone(), account.home.clone().into_bytes()))
        .collect();
    // A home of an account that is gone, or that another host knows, is still one.
    for top in ["/home", "/root"] {
        if top == "/root" {
            known.push((0, "root".to_owned(), b"/root".to_vec()));
            continue;
        }
        for entry in tree.list(top.as_bytes()).unwrap_or_default() {
            if entry.status.is_directory() {
                known.push((
                    entry.status.uid,
                    String::from_utf8_lossy(entry.name()).into_owned(),
                    entry.path,
                ));
            }
        }
    }
    for (_, name, path) in known {
        if !path.starts_with(b"/") || homes.len() >= MAX_HOMES {
            continue;
        }
        let directory = match tree.find(&path) {
            Ok(directory) if directory.status.is_directory() && directory.path != b"/" => directory,
            Ok(_) | Err(Unread::Gone) => continue,
            Err(why) => {
                coverage.skip(String::from_utf8_lossy(&path), why.to_string());
                continue;
            }
        };
        if !seen.insert(directory.path.clone()) {
            continue;
        }
        match tree.list(&directory.path) {
            Ok(entries) => {
                let names = entries.iter().map(|entry| entry.name().to_vec()).collect();
                homes.push(Home { uid: directory.status.uid, name, path: directory.path, names });
            }
            Err(why) => coverage.skip(String::from_utf8_lossy(&directory.path), why.to_string()),
        }
    }
    homes
}

#[cfg(test)]
mod tests {
    use vigie_host::users::account_number;

    use super::*;

    #[test]
    fn odd_spellings_of_zero_are_zero() {
        for text in ["0", "00", " 0", "+0", "-0", "4294967296"] {
            assert_eq!(account_number(text), Some(0), "{text:?}");
        }
        assert_eq!(account_number(""), None);
        assert_eq!(account_number("x"), None);
    }

    #[test]
    fn lines_of_passwd_are_accounts() {
        let read = parse(b"root:x:0:0:root:/root:/bin/bash\n# no\nbroken\na::1:1::/a\n toor::0:0\n");

        assert_eq!(read.len(), 3);
        assert_eq!((read[2].uid, read[2].name.as_str()), (0, "toor"));
        assert_eq!((read[1].line, read[1].no_password, read[1].shell.as_str()), (4, true, ""));
    }
}
