//! Follows lines that name further files, within limits; what is not followed is noted with its file and line.

use std::collections::HashSet;

use vigie_host::shown;
use vigie_tree::{Entry, Unread, joined};

use crate::allowance::{COST_OF_NAME, ROOT, cost_of};
use crate::catalogue::{Rule, rules};
use crate::explain::MAX_TEXT;
use crate::format::lines::MAX_PATH;
use crate::includes::{Base, Lead, Reads, Syntax, leads};
use crate::scan::{Opened, Scan, cut};

/// Most files between one of the catalogue and one that it leads to; as many as sudo takes.
const MAX_DEPTH: usize = 128;

/// Most files of one answer that are found by such lines.
const MAX_FOLLOWED: usize = 20_000;

const VARIABLE: &str = "the name has a variable in it, so it is not known which files are read";

/// A file to be read, and how many files led to it.
type Waiting = (Entry, usize);

impl Scan<'_> {
    /// Reads a file of the catalogue, and all that it leads to.
    pub(crate) fn read(&mut self, rule: &Rule, entry: Entry) {
        self.reads_for = self.payer(&entry);
        let mut waiting = vec![(entry, 0)];
        while let Some((entry, depth)) = waiting.pop() {
            if self.is_over() {
                break;
            }
            if let Some(opened) = self.matched(rule, entry) {
                waiting.extend(self.further(rule, &opened, depth));
            }
        }
        self.reads_for = ROOT;
    }

    /// What a file leads to that is read in the same way. Whatever is read in other ways is read here.
    pub(crate) fn further(&mut self, rule: &Rule, opened: &Opened, depth: usize) -> Vec<Waiting> {
        let Some(file) = &opened.file else { return Vec::new() };
        if rule.includes.is_empty() {
            return Vec::new();
        }
        let Some(content) = &opened.content else {
            self.note_long(opened);
            return Vec::new();
        };
        let mut further = Vec::new();
        for mut lead in leads(rule.includes, content) {
            if self.is_over() {
                break;
            }
            let mut same = Vec::new();
            let Some(include) = rule.includes.get(lead.form) else { continue };
            if matches!(include.syntax, Syntax::Source) && opened.explained.origin.is_explained() {
                // What a package brought reads what is looked at anyway, such as all of /etc/profile.d; relative names
                // in it are mostly texts.
                lead.names.retain(|name| name.starts_with(['/', '~', '$']) && !is_variable(name));
            }
            let what = place(file, &lead);
            for entry in self.named(file, include.base, &lead, &what) {
                match include.reads {
                    Reads::Same => same.extend(self.files(file, entry, "/*", &what)),
                    Reads::SameBelow => same.extend(self.files(file, entry, "/**", &what)),
                    Reads::Others(rules) => self.others(file, rules, entry, &what),
                }
            }
            same.retain(|entry| self.may_follow(file, rule, entry, &what));
            if depth >= MAX_DEPTH && !same.is_empty() {
                self.skip(what, "too many files lead to each other here");
            } else {
                further.extend(same.into_iter().map(|entry| (entry, depth + 1)));
            }
        }
        further
    }

    /// All configuration that rules of a technique find, with what it leads to, for those who look for single lines.
    pub(crate) fn configuration(&mut self, technique: &str) -> Vec<Vec<u8>> {
        let mut contents: Vec<Vec<u8>> = Vec::new();
        let mut seen = HashSet::new();
        for rule in rules().filter(|rule| rule.technique == technique) {
            let mut waiting: Vec<Entry> = rule.paths.iter().flat_map(|pattern| self.find(pattern)).collect();
            while let Some(entry) = waiting.pop() {
                let file = match self.tree.find(&entry.path) {
                    Ok(file) => file,
                    Err(Unread::Gone) => continue,
                    Err(why) => {
                        self.skip(shown(&entry.path), why.to_string());
                        continue;
                    }
                };
                if seen.len() >= MAX_FOLLOWED || !seen.insert(file.path.clone()) {
                    continue;
                }
                let content = match file.read(MAX_TEXT) {
                    Ok(content) => content,
                    Err(why) => {
                        self.skip(shown(&file.path), why.to_string());
                        continue;
                    }
                };
                for lead in leads(rule.includes, &content) {
                    if self.is_over() {
                        return contents;
                    }
                    let Some(include) = rule.includes.get(lead.form) else { continue };
                    let what = place(&file, &lead);
                    for entry in self.named(&file, include.base, &lead, &what) {
                        waiting.extend(self.files(&file, entry, "/*", &what));
                    }
                }
                contents.push(content);
            }
        }
        if seen.len() >= MAX_FOLLOWED {
            self.skip(format!("configuration of {technique}"), "there are too many files of it");
        }
        contents
    }

    /// What lies at the names of a line.
    fn named(&mut self, file: &Entry, base: Base, lead: &Lead, what: &str) -> Vec<Entry> {
        self.so_far.at(what);
        let account = self.writer(file);
        let mut found = Vec::new();
        let directory = &file.path[..file.path.len() - file.name().len()];
        let is_in_home = self.home_of(&file.path).is_some();
        let tree = self.tree;
        let is_in_repository = || tree.look(&joined(directory, b"HEAD")).is_ok();
        for name in &lead.names {
            if self.is_over() || !self.spend(account, COST_OF_NAME, what) {
                break;
            }
            if matches!(base, Base::Home) && !is_in_home && !name.starts_with(['/', '~']) {
                if is_variable(name) {
                    self.skip(what, VARIABLE);
                    continue;
                }
                if !name.starts_with('$') {
                    let why = "the name is relative to where the shell is started, so it is not known where it lies";
                    self.skip(what, why);
                    continue;
                }
            }
            if matches!(base, Base::WorkTree) && !name.starts_with(['/', '~', '$']) && !is_in_repository() {
                self.skip(what, "the name is relative to each repository, so it is not known where it lies");
                continue;
            }
            for path in self.paths(file, base, name) {
                if !self.spend(account, COST_OF_NAME, what) {
                    return found;
                }
                if path.len() >= MAX_PATH {
                    self.skip(what, "the name is longer than a path can be");
                    continue;
                }
                // A file can have a name that looks like a pattern.
                match self.tree.look(&path) {
                    Ok(entry) => found.push(entry),
                    Err(Unread::Gone) => {
                        let Ok(path) = String::from_utf8(path) else { continue };
                        if path.contains(['$', '`']) || path.contains("%(") || has_token(&path) {
                            self.skip(what, VARIABLE);
                            continue;
                        }
                        if path.contains(char::REPLACEMENT_CHARACTER) {
                            self.skip(what, "the name has bytes in it that are no text");
                            continue;
                        }
                        found.extend(self.below(file, b"", &plain_pattern(&path), what));
                    }
                    Err(why) => self.skip(what, why.to_string()),
                }
            }
        }
        found
    }

    /// What matches a pattern below a directory, as far as whoever wrote the file may have us look.
    fn below(&mut self, file: &Entry, directory: &[u8], pattern: &str, what: &str) -> Vec<Entry> {
        let (found, unread) = self.glob_for(self.writer(file), directory, pattern, what);
        for (_, why) in unread.into_iter().filter(|(_, why)| *why != Unread::Gone) {
            self.skip(what, why.to_string());
        }
        found
    }

    /// The absolute paths that a name can stand for.
    fn paths(&self, file: &Entry, base: Base, name: &str) -> Vec<Vec<u8>> {
        let directory = &file.path[..file.path.len() - file.name().len()];
        let home = self.home_of(&file.path);
        let at_home = ["~/", "$HOME/", "${HOME}/"].iter().find_map(|start| name.strip_prefix(start));
        if let Some(below) = at_home {
            let homes = self.homes.iter().filter(|one| home.is_none_or(|home| home.path == one.path));
            return homes.map(|home| joined(&home.path, below.as_bytes())).collect();
        }
        if let Some((user, below)) = name.strip_prefix('~').and_then(|name| name.split_once('/')) {
            let homes = self.homes.iter().filter(|home| home.name == user);
            return homes.map(|home| joined(&home.path, below.as_bytes())).collect();
        }
        if let Some(below) = name.strip_prefix("%(here)s/") {
            return vec![joined(directory, below.as_bytes())];
        }
        if name.starts_with('/') {
            return vec![name.as_bytes().to_vec()];
        }
        let bases: Vec<Vec<u8>> = match base {
            Base::File => vec![directory.to_vec()],
            Base::At(directories) => directories.iter().map(|path| path.as_bytes().to_vec()).collect(),
            Base::Home => home.iter().map(|home| home.path.clone()).collect(),
            Base::HomeOr(below, system) => vec![match home {
                Some(home) => [home.path.as_slice(), below.as_bytes()].concat(),
                None => system.as_bytes().to_vec(),
            }],
            Base::WorkTree => {
                let is_inside = directory.ends_with(b"/.git/");
                vec![directory.strip_suffix(b".git/").filter(|_| is_inside).unwrap_or(directory).to_vec()]
            }
        };
        bases.iter().map(|base| joined(base, name.as_bytes())).collect()
    }

    /// A file that was named, or those of a directory that was.
    fn files(&mut self, from: &Entry, entry: Entry, pattern: &str, what: &str) -> Vec<Entry> {
        match self.tree.find(&entry.path) {
            Ok(directory) if directory.status.is_directory() => {
                let mut found = self.below(from, &directory.path, pattern, what);
                found.retain(|entry| !entry.status.is_directory());
                found
            }
            _ => vec![entry],
        }
    }

    /// Files that are read in other ways than the one that names their directory.
    fn others(&mut self, from: &Entry, rules: &'static [Rule], entry: Entry, what: &str) {
        let Ok(place) = self.tree.find(&entry.path) else { return };
        if !place.status.is_directory() {
            if let Some(rule) = rules.first()
                && self.may_follow(from, rule, &entry, what)
            {
                self.matched(rule, entry);
            }
            return;
        }
        if matches!(&*place.path, b"/" | b"/proc" | b"/sys" | b"/dev" | b"/usr") {
            self.skip(what, "this directory is too large to be searched for what is started in it");
            return;
        }
        for rule in rules {
            let patterns = if self.wants(rule.technique) { rule.paths } else { &[] };
            for pattern in patterns {
                for entry in self.below(from, &place.path, pattern, what) {
                    if self.is_over() {
                        return;
                    }
                    if self.may_follow(from, rule, &entry, what) {
                        self.matched(rule, entry);
                    }
                }
            }
        }
    }

    /// Whether what a file leads to is read: not twice, not without end, and not for somebody who may not read it.
    pub(crate) fn may_follow(&mut self, from: &Entry, rule: &Rule, entry: &Entry, what: &str) -> bool {
        if self.has_seen(entry, rule.technique) {
            return false;
        }
        let file = self.tree.find(&entry.path);
        let file = file.as_ref().unwrap_or(entry);
        let status = file.status;
        // What root lets everybody read is no secret that a user could have read for him.
        let is_public = status.uid == 0 && status.mode & 0o004 != 0 && self.home_of(&entry.path).is_none();
        if from.status.uid != 0 && status.uid != from.status.uid && !is_public {
            self.skip(what, "it leads to a file of another owner");
            return false;
        }
        let writer = self.writer(from);
        if writer != ROOT {
            return self.spend(writer, cost_of(file), what);
        }
        if self.followed >= MAX_FOLLOWED {
            self.skip(what, "too many files are named by other files");
            return false;
        }
        self.followed += 1;
        true
    }
}

/// A line, as the coverage of an answer names it.
fn place(file: &Entry, lead: &Lead) -> String {
    format!("{}:{}: {}", shown(&file.path), lead.line, cut(lead.names.last().map_or("", String::as_str)))
}

/// Whether a path has a token such as `%h` in it.
fn has_token(path: &str) -> bool {
    path.split('%').skip(1).any(|rest| rest.starts_with(|letter: char| letter.is_ascii_alphanumeric()))
}

/// Whether a name is known only when the script runs.
fn is_variable(name: &str) -> bool {
    let below = ["$HOME/", "${HOME}/"].iter().find_map(|start| name.strip_prefix(start));
    below.unwrap_or(name).contains(['$', '`'])
}

/// A pattern in which `[…]` is any one letter, and so are braces, which are letters in the formats that are followed:
/// this finds more, and never less.
fn plain_pattern(pattern: &str) -> String {
    without_classes(pattern).replace(['{', '}'], "?")
}

fn without_classes(pattern: &str) -> String {
    let mut plain = String::new();
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('[') {
        // A bracket right after the first one is one of the letters.
        let inside = after.strip_prefix(['!', '^']).unwrap_or(after);
        let first = inside.chars().next().map_or(0, char::len_utf8) + after.len() - inside.len();
        let close = after[first..].find(']').map(|at| at + first);
        let Some(close) = close.filter(|close| !after[..*close].contains('/')) else { break };
        plain.push_str(before);
        plain.push('?');
        rest = &after[close + 1..];
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_of_letters_are_any_letter() {
        assert_eq!(without_classes("/a/[ab]*.[!]x]"), "/a/?*.?");
        assert_eq!(without_classes("/a/[b/c]"), "/a/[b/c]");
        assert_eq!(without_classes("/a[é]["), "/a?[");
        assert_eq!(plain_pattern("/a/{x,y}/*"), "/a/?x,y?/*");
    }

    #[test]
    fn tokens_are_no_names() {
        assert!(has_token("/etc/%h/x") && has_token("/x%1") && !has_token("/100%/x"));
    }
}
