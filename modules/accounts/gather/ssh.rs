//! Keys of SSH: where sshd looks for them, and whether it would take them.

use std::collections::{BTreeSet, HashMap, HashSet};

use vigie_host::shown;
use vigie_tree::{Entry, Tree, Unread};

use super::{Gatherer, MAX_KEYS, UsersKey};
use crate::keys;

/// Most keys of one answer.
const MAX_ALL_KEYS: usize = 200_000;

impl Gatherer<'_> {
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
            let read = self.reading(shown(&path), |tree| {
                Ok((tree.find(&path)?, ())).map(|(entry, ())| entry.read(MAX_KEYS))
            });
            let read: Result<_, Unread> = read;
            let Ok(content) = read else { continue };
            let Ok(content) = content else {
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
                let found = self.reading(&pattern, |tree| tree.glob(&pattern, &mut unread));
                waiting.extend(found.into_iter().map(|entry| entry.path));
            }
        }
        for (path, why) in unread {
            self.found.coverage.skip(shown(&path), why.to_string());
        }
        // The defaults are read also when another place is set for some: a forgotten key is worth a line.
        patterns.extend([".ssh/authorized_keys", ".ssh/authorized_keys2"].map(str::to_owned));
        patterns.into_iter().collect()
    }

    pub(super) fn keys(&mut self) {
        let patterns = self.key_patterns();
        let accounts: Vec<(String, u32, String)> = self
            .found
            .users
            .iter()
            .map(|user| (user.username.clone(), user.uid, user.directory.clone()))
            .collect();
        let mut homes: HashMap<String, bool> = HashMap::new();
        for (name, uid, home) in accounts {
            if (self.stop)(self.found.examined) {
                self.found.coverage.skip("keys of the remaining accounts", "the time is over");
                return;
            }
            let known = homes.get(&home).copied();
            let is_there = known.unwrap_or_else(|| {
                home.starts_with('/') && self.reading(&home, |tree| tree.find(home.as_bytes()).is_ok())
            });
            homes.insert(home.clone(), is_there);
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
        let entry = match self.reading(path, |tree| tree.look(path.as_bytes())) {
            Ok(entry) => entry,
            Err(Unread::Gone) => return,
            Err(why) => {
                self.found.coverage.skip(path, why.to_string());
                return;
            }
        };
        let file = if entry.status.is_link() {
            self.reading(path, |tree| tree.find(path.as_bytes()))
        } else {
            Ok(entry.clone())
        };
        let Ok(file) = file else { return };
        // Whoever made a link, or a second name, chose what is read here.
        let is_foreign = file.status.uid != 0 && file.status.uid != uid;
        let leads_out =
            entry.status.is_link() && entry.status.uid != 0 && file.status.uid != entry.status.uid;
        if leads_out || (file.status.links > 1 && file.status.uid != uid) {
            self.found.coverage.skip(path, "it points to a file of another owner");
            return;
        }
        let content = match self.reading(path, |_| file.read(MAX_KEYS)) {
            Ok(content) => content,
            Err(why) => {
                self.found.coverage.skip(path, why.to_string());
                return;
            }
        };
        self.found.examined += 1;
        let refused = if is_foreign {
            Some("StrictModes rejects it: another user owns the file")
        } else if file.status.mode & 0o022 != 0 {
            Some("StrictModes rejects it: other users can write the file")
        } else {
            self.reading(path, |tree| open_directory(tree, &file, uid))
        };
        let (keys, wrong) = keys::parse_all(&content);
        if let Some(line) = wrong.first() {
            let more =
                if wrong.len() > 1 { format!(", and {} more", wrong.len() - 1) } else { String::new() };
            self.problem(&shown(&file.path), Some(*line), format!("no key of a known kind{more}"));
        }
        for mut key in keys {
            if self.found.keys.len() >= MAX_ALL_KEYS {
                self.found.coverage.skip(path, "there are more keys than fit in a result");
                return;
            }
            key.ignored = key.ignored.or(refused);
            self.found.keys.push(UsersKey { username: name.to_owned(), key_file: shown(&file.path), key });
        }
    }
}

/// Whether a directory above the file can be written by others, up to the root.
fn open_directory(tree: &Tree, file: &Entry, uid: u32) -> Option<&'static str> {
    let mut path = file.path.as_slice();
    while let Some(slash) = path.iter().rposition(|byte| *byte == b'/').filter(|slash| *slash > 0) {
        path = &path[..slash];
        let Ok(directory) = tree.find(path) else { return None };
        let owner = directory.status.uid;
        if directory.status.mode & 0o022 != 0 || (owner != 0 && owner != uid) {
            return Some("StrictModes rejects it: other users can change a parent directory");
        }
    }
    None
}
