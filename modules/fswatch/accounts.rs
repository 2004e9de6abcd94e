//! What changed about accounts, told by their names: passwd(5), group(5), shadow(5).
//!
//! One `useradd` rewrites twelve files. Its changes are one story: what it did, and to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::path::Path;

use crate::rules::Severity;

/// Most of one file that is read, in bytes.
const MOST_BYTES: u64 = 8 * 1024 * 1024;

/// Most sentences of one story.
const MAX_SENTENCES: usize = 8;

/// Files of accounts; each with `-` at its end is the copy that tools make before they change it.
const FILES: [&str; 6] = ["passwd", "shadow", "group", "gshadow", "subuid", "subgid"];

/// Programs that only change accounts.
const TOOLS: [&str; 20] = [
    "useradd",
    "userdel",
    "usermod",
    "groupadd",
    "groupdel",
    "groupmod",
    "groupmems",
    "chpasswd",
    "chgpasswd",
    "passwd",
    "gpasswd",
    "chage",
    "chfn",
    "chsh",
    "newusers",
    "pwconv",
    "grpconv",
    "pwunconv",
    "grpunconv",
    "systemd-sysusers",
];

/// Groups whose members can become root.
const POWERFUL: [&str; 14] = [
    "root",
    "sudo",
    "wheel",
    "admin",
    "adm",
    "docker",
    "lxd",
    "incus-admin",
    "libvirt",
    "disk",
    "shadow",
    "kmem",
    "kvm",
    "systemd-journal",
];

/// Whether a path is a file of accounts, the copy of one, or what tools have beside one while they work: `passwd.lock`,
/// `passwd+`, `passwd.4711`, `npasswd`.
#[must_use]
pub(crate) fn is_account_file(path: &Path) -> bool {
    let Some(name) = path.strip_prefix("/etc").ok().and_then(Path::to_str) else { return false };
    let is_beside = |file: &&str| {
        let rest = name.strip_prefix(*file);
        rest.is_some_and(|rest| {
            matches!(rest, "" | "-" | "+" | ".lock")
                || rest
                    .strip_prefix('.')
                    .is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()))
        })
    };
    FILES.iter().any(is_beside) || matches!(name, "npasswd" | "nshadow" | ".pwd.lock")
}

/// Whether a program is one that only changes accounts; which file it is must be proved otherwise.
#[must_use]
pub(crate) fn is_tool(executable: &Path) -> bool {
    let name = executable.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| TOOLS.contains(&name))
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct User {
    uid: u32,
    home: String,
    shell: String,
}

/// What `shadow` has as a user's password, or `passwd` where it refers to no `shadow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Password {
    /// None is asked for.
    Empty,
    /// Nobody can log in with one.
    Locked,
    /// A keyed hash of the field: it shows that a password is another one, and nothing else.
    Set(u64),
}

impl Password {
    fn of(field: &str, hasher: &RandomState) -> Self {
        match field.as_bytes().first() {
            None => Self::Empty,
            Some(b'!' | b'*') => Self::Locked,
            Some(_) => Self::Set(hasher.hash_one(field)),
        }
    }
}

/// The accounts of a host.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    users: BTreeMap<String, User>,
    groups: BTreeMap<String, BTreeSet<String>>,
    passwords: BTreeMap<String, Password>,
}

/// What happened to accounts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Story {
    /// A sentence for each account.
    pub sentences: Vec<String>,
    /// Somebody can be root who could not before.
    pub is_critical: bool,
}

impl Story {
    /// How much it matters.
    #[must_use]
    pub fn severity(&self) -> Severity {
        if self.is_critical { Severity::Critical } else { Severity::High }
    }

    /// Adds what happened next.
    pub(crate) fn add(&mut self, next: &Self) {
        next.sentences.iter().for_each(|sentence| self.say(sentence.clone()));
        self.is_critical |= next.is_critical;
    }

    fn say(&mut self, sentence: String) {
        if self.sentences.len() < MAX_SENTENCES {
            self.sentences.push(sentence);
        } else if self.sentences.len() == MAX_SENTENCES {
            self.sentences.push("and more".to_owned());
        }
    }
}

fn lines(path: &Path) -> Vec<String> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MOST_BYTES).read_to_end(&mut text));
    if read.is_err() {
        return Vec::new();
    }
    String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
}

/// A name as it may stand in a sentence.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(64).collect()
}

impl Accounts {
    /// Reads them below a directory such as `/etc`; what cannot be read has none. The hasher must be the same for what
    /// is compared.
    #[must_use]
    pub fn read(directory: &Path, hasher: &RandomState) -> Self {
        let mut accounts = Self::default();
        for line in lines(&directory.join("passwd")) {
            let fields: Vec<&str> = line.split(':').collect();
            if let [name, password, uid, _, _, home, shell] = *fields
                && let Ok(uid) = uid.parse()
            {
                let user = User { uid, home: plain(home), shell: plain(shell) };
                if password != "x" {
                    accounts.passwords.entry(plain(name)).or_insert(Password::of(password, hasher));
                }
                accounts.users.entry(plain(name)).or_insert(user);
            }
        }
        for line in lines(&directory.join("group")) {
            let fields: Vec<&str> = line.split(':').collect();
            if let [name, _, _, members] = *fields {
                let members = members.split(',').filter(|name| !name.is_empty()).map(plain).collect();
                accounts.groups.entry(plain(name)).or_insert(members);
            }
        }
        for line in lines(&directory.join("shadow")) {
            let mut fields = line.split(':');
            if let (Some(name), Some(password)) = (fields.next(), fields.next()) {
                accounts.passwords.entry(plain(name)).or_insert(Password::of(password, hasher));
            }
        }
        accounts
    }

    /// What became of them later.
    #[must_use]
    pub fn story(&self, later: &Self) -> Story {
        let mut story = Story::default();
        for (name, user) in &later.users {
            let User { uid, home, shell } = user;
            match self.users.get(name) {
                None => story.say(format!("account {name} made: uid {uid}, home {home}, shell {shell}")),
                Some(before) if before != user => {
                    let mut parts = Vec::new();
                    if before.uid != *uid {
                        parts.push(format!("uid {} to {uid}", before.uid));
                    }
                    if before.home != *home {
                        parts.push(format!("home {} to {home}", before.home));
                    }
                    if before.shell != *shell {
                        parts.push(format!("shell {} to {shell}", before.shell));
                    }
                    story.say(format!("account {name} changed: {}", parts.join(", ")));
                }
                Some(_) => {}
            }
            story.is_critical |= *uid == 0 && self.users.get(name).is_none_or(|before| before.uid != 0);
        }
        for name in self.users.keys().filter(|name| !later.users.contains_key(*name)) {
            story.say(format!("account {name} removed"));
        }
        for (group, members) in &later.groups {
            let before = self.groups.get(group);
            let is_powerful = POWERFUL.contains(&group.as_str());
            for member in members.iter().filter(|name| before.is_none_or(|before| !before.contains(*name))) {
                story.say(format!("{member} is now in {group}"));
                story.is_critical |= is_powerful;
            }
            for member in before.into_iter().flatten().filter(|name| !members.contains(*name)) {
                story.say(format!("{member} is no longer in {group}"));
            }
            let has_namesake = later.users.contains_key(group);
            if before.is_none() && !has_namesake {
                story.say(format!("group {group} made"));
            }
        }
        for group in self.groups.keys().filter(|name| !later.groups.contains_key(*name)) {
            if !self.users.contains_key(group) {
                story.say(format!("group {group} removed"));
            }
        }
        for (name, password) in &later.passwords {
            let before = self.passwords.get(name);
            let opens = match (before, password) {
                (before, _) if before == Some(password) => continue,
                (_, Password::Empty) => {
                    story.say(format!("{name} has no password now"));
                    true
                }
                // A new account has one from the beginning, or will get one.
                (None, Password::Set(_)) if self.users.contains_key(name) && !self.passwords.is_empty() => {
                    story.say(format!("password of {name} set"));
                    true
                }
                (None, _) => continue,
                (Some(_), Password::Locked) => {
                    story.say(format!("password of {name} locked"));
                    false
                }
                (Some(before), Password::Set(_)) => {
                    story.say(format!("password of {name} changed"));
                    *before == Password::Locked
                }
            };
            story.is_critical |= opens && later.can_be_root(name);
        }
        story
    }

    fn can_be_root(&self, name: &str) -> bool {
        let is_member = |group: &&str| self.groups.get(*group).is_some_and(|members| members.contains(name));
        self.users.get(name).is_some_and(|user| user.uid == 0) || POWERFUL.iter().any(is_member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Host {
        temp: tempfile::TempDir,
        hasher: RandomState,
    }

    impl Host {
        fn new() -> Self {
            let host = Self { temp: tempfile::tempdir().unwrap(), hasher: RandomState::new() };
            host.write("passwd", "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/sh\n");
            host.write("group", "root:x:0:\nsudo:x:27:\nann:x:1000:\n");
            host.write("shadow", "root:*:1::::::\nann:$y$one:1::::::\n");
            host
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.temp.path().join(name), text).unwrap();
        }

        fn read(&self) -> Accounts {
            Accounts::read(self.temp.path(), &self.hasher)
        }
    }

    #[test]
    fn what_became_of_accounts_is_told_by_their_names() {
        let host = Host::new();
        let before = host.read();
        host.write(
            "passwd",
            "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/zsh\nbob:x:1001:1001::/home/bob:/bin/sh\n",
        );
        host.write("group", "root:x:0:\nsudo:x:27:\nann:x:1000:\nbob:x:1001:\naudio:x:5:bob\n");
        host.write("shadow", "root:*:1::::::\nann:$y$two:1::::::\nbob:!:1::::::\n");

        let story = before.story(&host.read());

        assert_eq!(
            story.sentences,
            [
                "account ann changed: shell /bin/sh to /bin/zsh",
                "account bob made: uid 1001, home /home/bob, shell /bin/sh",
                "bob is now in audio",
                "group audio made",
                "password of ann changed",
            ]
        );
        assert_eq!(story.severity(), Severity::High);
    }

    #[test]
    fn whoever_can_be_root_now_is_critical() {
        let host = Host::new();
        let before = host.read();
        host.write("group", "root:x:0:\nsudo:x:27:ann\nann:x:1000:\n");
        let in_sudo = before.story(&host.read());
        assert_eq!(
            (in_sudo.sentences.as_slice(), in_sudo.severity()),
            (&["ann is now in sudo".to_owned()][..], Severity::Critical)
        );

        host.write("passwd", "root:x:0:0:root:/root:/bin/bash\nann:x:0:1000::/home/ann:/bin/sh\n");
        assert!(before.story(&host.read()).is_critical);
        host.write("passwd", "root:x:0:0:root:/root:/bin/bash\n");
        host.write("group", "root:x:0:\nsudo:x:27:\n");
        assert_eq!(before.story(&host.read()).sentences, ["account ann removed"]);
    }

    #[test]
    fn a_password_that_is_empty_or_unlocked_now_is_critical_where_it_makes_somebody_root() {
        let host = Host::new();
        let after = |shadow: &str, group: &str| {
            host.write("shadow", "root:*:1::::::\nann:$y$one:1::::::\n");
            host.write("group", group);
            let before = host.read();
            host.write("shadow", shadow);
            let story = before.story(&host.read());
            (story.sentences.join("; "), story.is_critical)
        };
        let none = "root:x:0:\nsudo:x:27:\n";
        let empty = "root:*:1::::::\nann::1::::::\n";

        let root = after("root::1::::::\nann:$y$one:1::::::\n", none);
        assert_eq!(root, ("root has no password now".to_owned(), true));
        let unlocked = after("root:$y$two:1::::::\nann:$y$one:1::::::\n", none);
        assert_eq!(unlocked, ("password of root changed".to_owned(), true));
        assert_eq!(after(empty, none), ("ann has no password now".to_owned(), false));
        assert_eq!(after(empty, "sudo:x:27:ann\n"), ("ann has no password now".to_owned(), true));
        let locked = after("root:*:1::::::\nann:!$y$one:1::::::\n", none);
        assert_eq!(locked, ("password of ann locked".to_owned(), false));

        // One that nobody had a line for.
        host.write("shadow", "ann:$y$one:1::::::\n");
        let before = host.read();
        host.write("shadow", "ann:$y$one:1::::::\nroot:$y$two:1::::::\n");
        let story = before.story(&host.read());
        assert_eq!(
            (story.sentences.join("; "), story.is_critical),
            ("password of root set".to_owned(), true)
        );

        // Without `x` the file of users is what counts.
        let before = host.read();
        host.write("passwd", "root::0:0:root:/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/sh\n");
        let story = before.story(&host.read());
        assert_eq!(
            (story.sentences.join("; "), story.is_critical),
            ("root has no password now".to_owned(), true)
        );
    }

    #[test]
    fn files_and_tools_are_known_by_their_names() {
        for (path, is) in [
            ("/etc/passwd", true),
            ("/etc/gshadow-", true),
            ("/etc/passwd.lock", true),
            ("/etc/shadow.4711", true),
            ("/etc/passwd.4711x", false),
            ("/etc/passwd.bak", false),
            ("/srv/passwd", false),
        ] {
            assert_eq!(is_account_file(Path::new(path)), is, "{path}");
        }
        assert!(is_tool(Path::new("/usr/sbin/useradd")) && !is_tool(Path::new("/usr/bin/vim")));
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "[a-z0-9:,\n]{0,200}") {
            let host = Host::new();
            for name in ["passwd", "group", "shadow"] {
                host.write(name, &text);
            }
            prop_assert!(host.read().story(&host.read()).sentences.is_empty());
        }
    }
}
