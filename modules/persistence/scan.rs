//! Goes through the catalogue and notes what it finds.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vigie_host::shown;
use vigie_sdk::Coverage;
use vigie_tree::{Digests, Entry, NotRead, Root, Tree, Unread};

use crate::allowance::{COST_OF_NAME, ROOT, cost_of, cost_of_record};
use crate::answer::Finished;
use crate::catalogue::{Rule, rules, technique};
use crate::explain::{Explained, Explainer, MAX_TEXT};
use crate::format::lines::MAX_PATH;
use crate::format::{Format, Item, MAX_ITEMS, first_line, items};
use crate::homes::{self, Home};
use crate::includes::Reads;
use crate::parameters::Parameters;
use crate::record::{Origin, Program, Record, Verdict};
use crate::unit::program;

/// Largest file that is read for its digest, in bytes.
pub(crate) const MAX_DIGESTED: u64 = 256 << 20;

/// Most bytes that are read for digests in one scan.
const MAX_DIGESTED_IN_ALL: u64 = 4 << 30;

/// Longest command that a record shows, in bytes; the whole one was looked at.
const MAX_COMMAND: usize = 4096;

/// Most records of one answer.
const MAX_RECORDS: usize = 200_000;

/// A file of the catalogue, opened and explained.
pub(crate) struct Opened {
    /// The name that was found; perhaps a link.
    pub(crate) entry: Entry,
    /// What lies behind it.
    pub(crate) file: Option<Entry>,
    pub(crate) content: Option<Vec<u8>>,
    pub(crate) digests: Option<Digests>,
    pub(crate) explained: Explained,
    pub(crate) target: Option<Vec<u8>>,
    pub(crate) inactive: Option<&'static str>,
}

/// What was found so far and what is being looked at, for whoever answers when the kernel holds the scan.
#[derive(Debug, Default)]
pub(crate) struct SoFar(Mutex<(Finished, String)>);

impl SoFar {
    pub(crate) fn locked(&self) -> MutexGuard<'_, (Finished, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn at(&self, what: impl Into<String>) {
        self.locked().1 = what.into();
    }

    /// What was found until now.
    pub(crate) fn take(&self) -> Finished {
        let (mut found, at) = std::mem::take(&mut *self.locked());
        found.coverage.skip(at, "it, or what is looked at after it, does not respond");
        found
    }
}

/// One look at a host.
pub(crate) struct Scan<'a> {
    pub(crate) tree: &'a Tree,
    pub(crate) explainer: Explainer<'a>,
    pub(crate) parameters: &'a Parameters,
    pub(crate) homes: Rc<[Home]>,
    /// The places of homes, by their paths.
    homes_by_path: HashMap<Vec<u8>, usize>,
    /// Who owns the root directory.
    pub(crate) administrator: u32,
    /// Names, numbers and homes of all accounts; the homes need not be there.
    pub(crate) logins: Vec<(String, u32, Vec<u8>)>,
    /// Names of users, by their numbers.
    pub(crate) users: HashMap<u32, String>,
    pub(crate) so_far: &'a SoFar,
    /// How many records it has.
    found: usize,
    /// Directives and files that were looked at, reported or not.
    pub(crate) examined: u64,
    digested: u64,
    /// How many entries of the coverage are about each account's files.
    pub(crate) noted: RefCell<HashMap<u32, usize>>,
    pub(crate) seen: HashSet<(Vec<u8>, &'static str)>,
    /// Files that were found because others name them.
    pub(crate) followed: usize,
    /// In whose home the file of the catalogue lies that is read, with all that it leads to.
    pub(crate) reads_for: u32,
    /// What is left of the allowance of each account.
    pub(crate) allowances: HashMap<u32, u64>,
    /// Start files that cannot be removed as they are.
    pub(crate) protected: Vec<Record>,
    stop: &'a dyn Fn(u64, usize) -> bool,
    stopped: bool,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(
        tree: &'a Tree,
        root: &Root,
        parameters: &'a Parameters,
        stop: &'a dyn Fn(u64, usize) -> bool,
        so_far: &'a SoFar,
    ) -> Self {
        so_far.at("the accounts and the database of packages");
        let mut coverage = Coverage::whole();
        let explainer = Explainer::new(tree, root);
        let accounts = homes::accounts(tree, &mut coverage);
        let users = accounts.iter().rev().map(|account| (account.uid, account.name.clone())).collect();
        let logins = accounts
            .iter()
            .map(|account| (account.name.clone(), account.uid, account.home.clone().into_bytes()))
            .collect();
        let homes: Rc<[Home]> = homes::homes(tree, &accounts, &mut coverage).into();
        let homes_by_path = homes.iter().map(|home| home.path.clone()).zip(0..).collect();
        if !explainer.knows_packages() {
            coverage.skip(
                "owners of files",
                "no dpkg or apk database can be read here: verdicts are \"unknown\"",
            );
        }
        for mount in tree.remote_mounts() {
            coverage.skip(shown(mount), "a remote file system, which is not searched");
        }
        so_far.locked().0.coverage = coverage;
        Self {
            tree,
            explainer,
            parameters,
            homes,
            homes_by_path,
            administrator: tree.find(b"/").map_or(ROOT, |root| root.status.uid),
            logins,
            users,
            so_far,
            found: 0,
            examined: 0,
            digested: 0,
            noted: RefCell::default(),
            seen: HashSet::new(),
            followed: 0,
            reads_for: ROOT,
            allowances: HashMap::new(),
            protected: Vec::new(),
            stop,
            stopped: false,
        }
    }

    /// The home that a path lies in; the inner one, when homes lie in each other.
    pub(crate) fn home_of(&self, path: &[u8]) -> Option<&Home> {
        let slashes = path.iter().take(MAX_PATH).enumerate().filter(|(_, byte)| **byte == b'/');
        let found = slashes.filter_map(|(at, _)| self.homes_by_path.get(&path[..at])).last();
        found.and_then(|place| self.homes.get(*place))
    }

    /// Looks at everything that was asked for.
    pub(crate) fn run(&mut self) {
        for rule in rules() {
            let leads_to_wanted = || {
                let others = rule.includes.iter().filter_map(|include| match include.reads {
                    Reads::Others(rules) => Some(rules),
                    _ => None,
                });
                others.flatten().any(|other| self.wants(other.technique))
            };
            if (self.wants(rule.technique) || leads_to_wanted()) && !self.is_over() {
                self.rule(rule);
            }
        }
        self.systemd();
        self.accounts();
        self.ssh_keys();
        self.databases();
        self.boot();
        self.programs();
        self.libraries();
        self.live();
        self.walk();
        self.attributes();
    }

    /// Whether a technique was asked for.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.parameters.wants(technique(name))
    }

    /// Whether nobody waits any more; tells him how far the work is otherwise.
    pub(crate) fn is_over(&mut self) -> bool {
        if !self.stopped && (self.stop)(self.examined, self.found) {
            self.stopped = true;
            self.skip("the rest", "the time is over: query fewer kinds, or allow more time");
        }
        self.stopped
    }

    fn rule(&mut self, rule: &Rule) {
        for pattern in rule.paths {
            for entry in self.find(pattern) {
                if self.is_over() {
                    return;
                }
                self.read(rule, entry);
            }
        }
    }

    /// Everything that matches a pattern, in the homes of all accounts when it begins with `~`.
    pub(crate) fn find(&mut self, pattern: &str) -> Vec<Entry> {
        self.so_far.at(pattern);
        let Some(below) = pattern.strip_prefix('~') else {
            let mut unread = Vec::new();
            let found = self.tree.glob(pattern, &mut unread);
            self.note_unread(unread);
            return found;
        };
        let mut found = Vec::new();
        let homes = Rc::clone(&self.homes);
        for home in homes.iter().filter(|home| home.may_have(below)) {
            if self.is_over() {
                break;
            }
            let what = format!("{}{below}", shown(&home.path));
            let (entries, unread) = self.glob_for(home.uid, &home.path, below, &what);
            self.note_unread(unread);
            for entry in entries {
                // A link to a directory may have led out of the home.
                if home.uid == ROOT || home.holds(&entry.path) || entry.status.uid == home.uid {
                    found.push(entry);
                } else {
                    let why = "a link in a home directory points to a file of another owner";
                    self.skip(shown(&entry.path), why);
                }
            }
        }
        found
    }

    pub(crate) fn note_unread(&mut self, unread: Vec<NotRead>) {
        for (path, why) in unread.into_iter().filter(|(_, why)| *why != Unread::Gone) {
            self.skip(shown(&path), why.to_string());
        }
    }

    /// Whether a file was looked at for a technique.
    pub(crate) fn has_seen(&self, entry: &Entry, technique: &'static str) -> bool {
        self.seen.contains(&(entry.path.clone(), technique))
    }

    /// Looks at something that a rule names; what was opened is given back when it was not looked at before.
    pub(crate) fn matched(&mut self, rule: &Rule, entry: Entry) -> Option<Opened> {
        if entry.status.is_directory() {
            // Images of systems can be directories.
            if matches!(rule.technique, "sd-extension" | "sd-nspawn") && !entry.name().starts_with(b".") {
                let explained = Explained { origin: Origin::Local, package: None, note: None };
                let opened = Opened {
                    entry,
                    file: None,
                    content: None,
                    digests: None,
                    explained,
                    target: None,
                    inactive: None,
                };
                self.examined += 1;
                self.whole(rule.technique, &opened, None);
            }
            return None;
        }
        if !self.seen.insert((entry.path.clone(), rule.technique)) {
            return None;
        }
        let user_of_file = matches!(rule.format, Format::Crontab { user: false })
            .then(|| String::from_utf8_lossy(entry.name()).into_owned());
        let opened = self.open(entry, rule.technique);
        self.add(rule.technique, rule.format, &opened, rule.strangers_only, user_of_file.as_deref());
        Some(opened)
    }

    /// Opens and explains a file of the catalogue.
    pub(crate) fn open(&mut self, entry: Entry, technique: &'static str) -> Opened {
        self.examined += 1;
        self.so_far.at(shown(&entry.path));
        let home = self.home_of(&entry.path);
        let home_uid = home.map(|home| home.uid);
        let below_home = home.map(|home| entry.path[home.path.len()..].to_vec());
        let target = if entry.status.is_link() { entry.target().ok() } else { None };
        let mut inactive = None;
        let file = if entry.status.is_link() {
            match self.tree.find(&entry.path) {
                Ok(file) => Some(file),
                Err(Unread::Gone) => {
                    inactive = Some("dangling link");
                    None
                }
                Err(why) => {
                    self.skip(shown(&entry.path), why.to_string());
                    None
                }
            }
        } else {
            Some(entry.clone())
        };
        let cost = file.as_ref().map_or(COST_OF_NAME, cost_of);
        let is_allowed = self.spend(self.writer(&entry), cost, &shown(&entry.path));
        if !is_allowed {
            // Another account that names this file may still have it read.
            self.seen.remove(&(entry.path.clone(), technique));
        }
        let file = file.filter(|file| {
            // Whoever made a link chose where it leads, and must not have others' files read by us.
            let by_link =
                entry.status.is_link() && entry.status.uid != 0 && file.status.uid != entry.status.uid;
            let by_name =
                file.status.links > 1 && home_uid.is_some_and(|uid| uid != 0 && file.status.uid != uid);
            let leads_out = (by_link || by_name) && file.status.is_file();
            if leads_out {
                self.skip(shown(&entry.path), "it points to a file of another owner");
            }
            !leads_out && is_allowed
        });
        let (content, digests) = match &file {
            Some(file) if file.status.is_file() => self.contents(file),
            Some(_) => {
                inactive = Some("it is not a regular file");
                (None, None)
            }
            None => (None, None),
        };
        let explained = match &file {
            _ if !is_allowed => Explained { origin: Origin::Unknown, package: None, note: None },
            _ if entry.status.is_link() => self.explainer.link(&entry),
            Some(file) if file.status.is_file() => {
                let skeleton = match (&below_home, &content) {
                    (Some(below), Some(content)) if self.explainer.recorded(&entry.path).is_none() => {
                        self.explainer.skeleton(below, content)
                    }
                    _ => None,
                };
                let explained = self.explainer.file(file, digests.as_ref(), content.as_deref());
                match skeleton {
                    Some(origin) if explained.origin == Origin::Local => Explained { origin, ..explained },
                    _ => explained,
                }
            }
            _ => Explained { origin: Origin::Local, package: None, note: None },
        };
        let inactive = inactive.or_else(|| activity::inactive(technique, &entry, file.as_ref()));
        Opened { entry, file, content, digests, explained, target, inactive }
    }

    fn contents(&mut self, file: &Entry) -> (Option<Vec<u8>>, Option<Digests>) {
        if file.status.size <= MAX_TEXT as u64 {
            match file.read(MAX_TEXT) {
                Ok(content) => {
                    self.digested += content.len() as u64;
                    let digests = Digests::of(&content);
                    return (Some(content), Some(digests));
                }
                Err(Unread::Large) => {}
                Err(why) => {
                    self.skip(shown(&file.path), why.to_string());
                    return (None, None);
                }
            }
        }
        (None, self.digests(file))
    }

    /// Notes a file whose lines were not read because there are too many, unless it is as a package brought it.
    pub(crate) fn note_long(&mut self, opened: &Opened) {
        let is_long = |file: &&Entry| file.status.is_file() && file.status.size > MAX_TEXT as u64;
        if opened.content.is_none()
            && let Some(file) = opened.file.as_ref().filter(is_long)
            && !matches!(opened.explained.origin, Origin::Packaged)
        {
            self.skip(shown(&file.path), "it is too long: its lines were not read");
        }
    }

    /// The digests of a file, as far as there is room for it.
    pub(crate) fn digests(&mut self, file: &Entry) -> Option<Digests> {
        let fits = file.status.size <= MAX_DIGESTED;
        if fits && self.digested.saturating_add(file.status.size) > MAX_DIGESTED_IN_ALL {
            self.skip("digests", "the read limit was reached, so the rest was skipped");
            return None;
        }
        match file.digests(MAX_DIGESTED) {
            Ok(digests) => {
                self.digested += file.status.size;
                Some(digests)
            }
            Err(why) => {
                self.skip(shown(&file.path), why.to_string());
                None
            }
        }
    }

    /// Notes what an opened file starts.
    pub(crate) fn add(
        &mut self,
        technique: &'static str,
        format: Format,
        opened: &Opened,
        strangers_only: bool,
        user_of_file: Option<&str>,
    ) {
        let origin = &opened.explained.origin;
        if strangers_only && origin.is_explained() {
            return;
        }
        if !format.is_whole() {
            self.note_long(opened);
        }
        let found = match &opened.content {
            Some(content) if !format.is_whole() => items(format, content),
            _ => Vec::new(),
        };
        if found.len() >= MAX_ITEMS {
            self.skip(
                shown(&opened.entry.path),
                format!("of its entries, the first {MAX_ITEMS} were examined"),
            );
        }
        let origin = &opened.explained.origin;
        let listed = |item: &Item| {
            let verdict = origin.verdict(Some(item.line), item.strange);
            format.lists_explained() || !matches!(verdict, Verdict::Packaged | Verdict::Derived)
        };
        let mut listed: Vec<&Item> = found.iter().filter(|item| listed(item)).collect();
        if format == Format::Shells {
            // A shell that a package brought is there because of it.
            listed.retain(|item| self.explainer.owner(item.command.as_bytes()).is_none());
        }
        let mut shows_change = false;
        let account = self.writer(&opened.entry);
        for item in listed {
            if self.is_over() || !self.can_pay(account) {
                return;
            }
            let verdict = match format {
                Format::Shells => Verdict::Local,
                _ => origin.verdict(Some(item.line), item.strange),
            };
            shows_change |= !matches!(verdict, Verdict::Packaged | Verdict::Derived);
            let record = self.item(technique, opened, item, verdict, user_of_file);
            self.push(record);
        }
        // A file of which no line is worth one is still a file; and what was changed in it is told.
        let is_silent = found.is_empty() || !format.lists_explained();
        if !shows_change && (is_silent || !matches!(origin, Origin::Packaged | Origin::Derived(_))) {
            let is_told = !is_silent && matches!(origin, Origin::Generated(_));
            if !is_told {
                self.whole(technique, opened, user_of_file);
            }
        }
    }

    fn item(
        &mut self,
        name: &'static str,
        opened: &Opened,
        item: &Item,
        verdict: Verdict,
        user_of_file: Option<&str>,
    ) -> Record {
        let technique = technique(item.technique.unwrap_or(name));
        let mut record = self.described(technique.id, opened);
        record.verdict = Some(verdict);
        record.line = Some(item.line);
        record.command.clone_from(&item.command);
        if let Some(when) = &item.when {
            record.when.clone_from(when);
        }
        record.user = item.user.clone().or_else(|| user_of_file.map(str::to_owned));
        record.notes.extend(item.note.clone());
        record.program = self.program(&item.command);
        record
    }

    /// Notes a file as one thing.
    pub(crate) fn whole(&mut self, technique: &'static str, opened: &Opened, user: Option<&str>) {
        let mut record = self.described(technique, opened);
        let line = match &opened.explained.origin {
            Origin::Modified(changed) => changed.first(),
            _ => None,
        };
        let is_text = |content: &&Vec<u8>| !content.contains(&0);
        record.line =
            line.or_else(|| opened.content.as_ref().filter(is_text).map(|content| first_line(content)));
        record.verdict = Some(opened.explained.origin.verdict(None, false));
        record.user = user.map(str::to_owned);
        self.push(record);
    }

    /// A record with everything that is known of its file.
    pub(crate) fn described(&self, name: &'static str, opened: &Opened) -> Record {
        let technique = technique(name);
        let mut record = self.of_entry(name, &opened.entry);
        if let Some(file) = &opened.file {
            // What counts is what is read through the link.
            record.size = Some(file.status.size);
            record.mtime = Some(time(file.status.modified));
            record.mode = Some(format!("{:04o}", file.status.mode));
            record.immutable |= file.status.immutable;
        }
        record.package.clone_from(&opened.explained.package);
        record.made_by = opened.explained.origin.made_by();
        record.inactive = opened.inactive;
        record.target = opened.target.as_deref().map(shown);
        record.sha256 = opened.digests.map(|digests| data_encoding::HEXLOWER.encode(&digests.sha256));
        record.notes.extend(opened.explained.note.map(str::to_owned));
        technique.when.clone_into(&mut record.when);
        record
    }

    /// A record with what the kernel says of a name.
    pub(crate) fn of_entry(&self, name: &'static str, entry: &Entry) -> Record {
        let technique = technique(name);
        Record {
            kind: technique.kind,
            technique: technique.id,
            attack: technique.attack,
            when: technique.when.to_owned(),
            file: shown(&entry.path),
            uid: Some(entry.status.uid),
            owner: self.users.get(&entry.status.uid).cloned(),
            mode: Some(format!("{:04o}", entry.status.mode)),
            size: Some(entry.status.size),
            mtime: Some(time(entry.status.modified)),
            immutable: entry.status.immutable,
            payer: self.writer(entry),
            ..Record::default()
        }
    }

    /// The program that a command begins with, and whose it is.
    pub(crate) fn program(&mut self, command: &str) -> Option<Program> {
        let path = program(command)?;
        let missing = match self.tree.find(path.as_bytes()) {
            Ok(_) => false,
            Err(Unread::Gone) => true,
            Err(_) => return None,
        };
        let package = self.explainer.owner(path.as_bytes());
        Some(Program { path, package, missing })
    }

    /// Keeps a record, when it is one that was asked for.
    pub(crate) fn push(&mut self, mut record: Record) {
        let Record { when, user, notes, program, .. } = &mut record;
        let texts = [when].into_iter().chain(user).chain(notes);
        for text in texts.chain(program.as_mut().map(|program| &mut program.path)) {
            text.truncate(cut(text).len());
        }
        if record.command.len() > MAX_COMMAND {
            record.command.truncate(record.command.floor_char_boundary(MAX_COMMAND));
            record.notes.push("the command is longer: it is shown up to here".to_owned());
        }
        if !self.spend(record.payer, cost_of_record(&record), &record.file) {
            return;
        }
        if record.immutable && record.technique != "immutable" {
            self.protected.push(record.clone());
        }
        if !self.parameters.wants(technique(record.technique)) || !self.parameters.takes(&record) {
            return;
        }
        if self.found >= MAX_RECORDS {
            self.skip("the rest", "there are more entries than fit in a result");
            return;
        }
        self.found += 1;
        let found = &mut self.so_far.locked().0;
        found.examined = self.examined;
        found.records.push(record);
    }

    /// What was found.
    pub(crate) fn finished(self) -> Finished {
        let found = std::mem::take(&mut self.so_far.locked().0);
        Finished { examined: self.examined, ..found }
    }

    /// The name of a user, as this root knows it.
    pub(crate) fn name_of(&self, uid: u32) -> Option<&String> {
        self.users.get(&uid)
    }
}

/// The beginning of a text that a file may have made long.
pub(crate) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_COMMAND)]
}

/// Seconds since the epoch as RFC 3339.
pub(crate) fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

mod activity {
    //! Whether a file is used at all as it lies there.

    use vigie_tree::Entry;

    /// Why it is not, when it is known.
    pub(super) fn inactive(technique: &str, entry: &Entry, file: Option<&Entry>) -> Option<&'static str> {
        let file = file?;
        let name = entry.name();
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let is_run_parts = matches!(technique, "cron-periodic" | "kernel-hooks" | "motd");
        if is_run_parts && !name.iter().all(plain) {
            return Some("run-parts skips names like this");
        }
        let needs_x = matches!(
            technique,
            "cron-periodic"
                | "kernel-hooks"
                | "rc-local"
                | "initd"
                | "sd-generator"
                | "sd-generator-user"
                | "sd-sleep"
                | "nm-dispatcher"
                | "grub"
                | "apk-hook"
                | "adduser-hook"
                | "openrc"
                | "git"
                | "libvirt"
        );
        let is_program_place = technique != "grub" || entry.path.starts_with(b"/etc/grub.d/");
        let is_program = match technique {
            "git" => entry.path.windows(7).any(|part| part == b"/hooks/"),
            "nm-dispatcher" => {
                !entry.path.starts_with(b"/etc/openvpn/") && !entry.path.starts_with(b"/etc/dhcp/")
            }
            "adduser-hook" => entry.path.ends_with(b".local"),
            "openrc" => !entry.path.starts_with(b"/etc/conf.d/") && !entry.path.starts_with(b"/etc/rc.conf"),
            _ => is_program_place,
        };
        if needs_x && is_program && file.status.mode & 0o111 == 0 {
            return Some("it is not executable");
        }
        match technique {
            "git" if name.ends_with(b".sample") => Some("git does not run samples"),
            "cron-d" if !name.iter().all(plain) => Some("Debian's cron skips names like this"),
            "cron-d" | "cron-system" if file.status.uid != 0 || file.status.mode & 0o022 != 0 => {
                Some("cron rejects its owner or mode")
            }
            "apt-hook" if entry.path.starts_with(b"/etc/apt/apt.conf.d/") => {
                let dotted = name.contains(&b'.') && !name.ends_with(b".conf");
                let odd = !name.iter().all(|byte| plain(byte) || *byte == b'.');
                (dotted || odd).then_some("apt skips names like this")
            }
            "sudoers" if entry.path.starts_with(b"/etc/sudoers.d/") => {
                let skipped = name.contains(&b'.') || name.ends_with(b"~");
                if skipped {
                    Some("sudo skips names like this")
                } else if file.status.uid != 0 || file.status.mode & 0o022 != 0 {
                    Some("sudo rejects its owner or mode")
                } else {
                    None
                }
            }
            "ldso-conf" if entry.path.starts_with(b"/etc/ld.so.conf.d/") && !name.ends_with(b".conf") => {
                Some("ldconfig reads *.conf only")
            }
            _ => None,
        }
    }
}
