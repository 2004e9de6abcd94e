//! Units of systemd, read from the disk: what is not loaded yet starts at the next boot.

use std::collections::HashMap;

use vigie_host::shown;
use vigie_tree::{Entry, Unread};

use crate::allowance::{COST_OF_NAME, ROOT, cost_of};
use crate::catalogue::{Rule, rule};
use crate::difference::beside;
use crate::explain::MAX_TEXT;
use crate::format::Format;
use crate::format::lines::MAX_PATH;
use crate::record::{Origin, Record, Verdict};
use crate::scan::{Opened, Scan};
use crate::unit::{Directive, Starts, parse};

/// Directories of the system's units, from the highest rank to the lowest, and the technique of what lies there.
const SYSTEM: [(&str, &str); 13] = [
    ("/etc/systemd/system.control", "sd-control"),
    ("/run/systemd/system.control", "sd-unit-run"),
    ("/run/systemd/transient", "sd-unit-run"),
    ("/run/systemd/generator.early", "sd-unit-run"),
    ("/etc/systemd/system", "sd-unit-etc"),
    ("/etc/systemd/system.attached", "sd-nspawn"),
    ("/run/systemd/system", "sd-unit-run"),
    ("/run/systemd/system.attached", "sd-nspawn"),
    ("/run/systemd/generator", "sd-unit-run"),
    ("/usr/local/lib/systemd/system", "sd-unit-local"),
    ("/lib/systemd/system", "sd-unit-vendor"),
    ("/usr/lib/systemd/system", "sd-unit-vendor"),
    ("/run/systemd/generator.late", "sd-unit-run"),
];

/// Directories of the units of every user's manager.
const GLOBAL: [&str; 9] = [
    "/etc/xdg/systemd/user",
    "/etc/systemd/user",
    "/run/systemd/user",
    "/usr/local/share/systemd/user",
    "/usr/share/systemd/user",
    "/usr/local/lib/systemd/user",
    "/lib/systemd/user",
    "/usr/lib/systemd/user",
    "/run/systemd/generator.user",
];

/// Directories of one user's units, from the highest rank to the lowest: below his home, or below `/run/user/UID`.
const USER: [(bool, &str); 9] = [
    (true, "/.config/systemd/user.control"),
    (false, "/systemd/user.control"),
    (false, "/systemd/transient"),
    (false, "/systemd/generator.early"),
    (true, "/.config/systemd/user"),
    (false, "/systemd/user"),
    (false, "/systemd/generator"),
    (true, "/.local/share/systemd/user"),
    (false, "/systemd/generator.late"),
];

const TYPES: [&str; 11] = [
    "service",
    "socket",
    "timer",
    "path",
    "mount",
    "automount",
    "swap",
    "target",
    "slice",
    "scope",
    "device",
];

/// Longest name of a file, and so of a unit.
const MAX_NAME: usize = 255;

/// Files of variables that units read.
const ENVIRONMENT: Rule = rule("sd-envfile", &[], Format::Environment);

/// The home of a user and his directory below `/run/user`, as far as they are there.
type UsersPlaces = (Option<Vec<u8>>, Option<Vec<u8>>);

/// A set of directories that one manager reads.
struct Area {
    directories: Vec<(Vec<u8>, &'static str)>,
    /// Where Debian's helper notes what it enabled.
    helper: &'static str,
}

/// What a directory among units is for: the unit, and how it is changed.
fn directory_kind(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "d" | "wants" | "requires" | "upholds"))
}

impl Scan<'_> {
    /// Reads the units of the system and of all users.
    pub(crate) fn systemd(&mut self) {
        let ours = ["sd-unit-etc", "sd-user-unit", "sd-timer", "sd-mask"];
        if !ours.iter().any(|name| self.wants(name)) && !self.wants("sd-dropin") {
            return;
        }
        let system = SYSTEM.iter().map(|(path, technique)| (path.as_bytes().to_vec(), *technique)).collect();
        self.area(&Area { directories: system, helper: "/var/lib/systemd/deb-systemd-helper-enabled" });
        let global = GLOBAL.iter().map(|path| (path.as_bytes().to_vec(), "sd-user-global")).collect();
        self.area(&Area { directories: global, helper: "/var/lib/systemd/deb-systemd-user-helper-enabled" });
        let mut running = match self.tree.list(b"/run/user") {
            Ok(entries) => entries.into_iter().map(|entry| (entry.status.uid, entry.path)).collect(),
            Err(Unread::Gone) => Vec::new(),
            Err(why) => {
                self.skip("/run/user", why.to_string());
                Vec::new()
            }
        };
        let mut users: Vec<(u32, UsersPlaces)> = Vec::new();
        for home in self.homes.iter() {
            let own = running.iter().position(|(uid, _)| *uid == home.uid);
            let own = own.map(|at| running.remove(at).1);
            if own.is_some() || home.may_have("/.config") || home.may_have("/.local") {
                users.push((home.uid, (Some(home.path.clone()), own)));
            }
        }
        users.extend(running.into_iter().map(|(uid, path)| (uid, (None, Some(path)))));
        for (uid, (home, run)) in users {
            self.reads_for = uid;
            let directories = USER.iter().filter_map(|(is_at_home, below)| {
                let top = if *is_at_home { home.as_ref() } else { run.as_ref() };
                Some(([top?.as_slice(), below.as_bytes()].concat(), "sd-user-unit"))
            });
            self.area(&Area { directories: directories.collect(), helper: "" });
        }
        self.reads_for = ROOT;
    }

    fn area(&mut self, area: &Area) {
        // Which file of a name is in force: that of the highest rank.
        let mut in_force: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
        let mut done: Vec<Vec<u8>> = Vec::new();
        for (directory, technique) in &area.directories {
            // /lib and /usr/lib are one where /usr is merged.
            let Ok(real) = self.tree.find(directory) else { continue };
            if done.contains(&real.path) || self.is_over() {
                continue;
            }
            done.push(real.path.clone());
            for entry in self.listed(directory) {
                if self.is_over() || !self.can_pay(self.reads_for) {
                    return;
                }
                let name = String::from_utf8_lossy(entry.name()).into_owned();
                if entry.status.is_directory() || self.leads_to_directory(&name, &entry) {
                    self.directory(area, technique, &name, &entry);
                } else if is_unit(&name) {
                    let higher = in_force.get(entry.name()).cloned();
                    self.unit(area, technique, &entry, higher.as_deref());
                    in_force.entry(entry.name().to_vec()).or_insert_with(|| entry.path.clone());
                }
            }
        }
    }

    /// Whether systemd reads what a link leads to as a directory of drop-ins or of links.
    fn leads_to_directory(&mut self, name: &str, entry: &Entry) -> bool {
        if !entry.status.is_link() || directory_kind(name).is_none() {
            return false;
        }
        match self.tree.find(&entry.path) {
            // Whoever made a link chose where it leads, and must not have others' files read by us.
            Ok(found) if entry.status.uid != 0 && found.status.uid != entry.status.uid => {
                self.skip(shown(&entry.path), "it leads to a directory of another owner");
                false
            }
            Ok(found) => found.status.is_directory(),
            Err(Unread::Gone) => false,
            Err(why) => {
                self.skip(shown(&entry.path), why.to_string());
                false
            }
        }
    }

    /// Drop-ins, or links that pull units in.
    fn directory(&mut self, area: &Area, technique: &'static str, name: &str, directory: &Entry) {
        let Some((base, kind)) = directory_kind(name) else { return };
        for entry in self.listed(&directory.path).into_iter().filter(|entry| !entry.status.is_directory()) {
            if self.is_over() || !self.can_pay(self.reads_for) {
                return;
            }
            if kind == "d" {
                if entry.name().ends_with(b".conf") {
                    self.drop_in(technique, base, entry);
                }
            } else {
                self.pulled_in(area, base, entry);
            }
        }
    }

    fn drop_in(&mut self, directory: &'static str, base: &str, entry: Entry) {
        let is_wide = TYPES.contains(&base)
            || base.contains("@.")
            || TYPES.iter().any(|kind| base.ends_with(&format!("-.{kind}")));
        let technique = match directory {
            "sd-control" | "sd-user-unit" | "sd-user-global" => directory,
            _ if is_wide => "sd-dropin-type",
            _ => "sd-dropin",
        };
        let opened = self.open(entry, technique);
        self.directives(technique, &opened, Some(base));
    }

    /// A link in `X.wants` and its like: its name counts, and it may lead anywhere.
    fn pulled_in(&mut self, area: &Area, base: &str, entry: Entry) {
        let mut opened = self.open(entry, "sd-wants");
        if opened.explained.origin == Origin::Local
            && let Some(origin) = self.enabled(area, &opened, Some(base))
        {
            opened.explained.origin = origin;
        }
        if let Some(origin) = self.by_a_generator(&opened) {
            opened.explained.origin = origin;
        }
        let mut record = self.link(&opened, "sd-wants");
        record.notes.push(format!("wanted by {base}"));
        self.push(record);
    }

    fn unit(&mut self, area: &Area, directory: &'static str, entry: &Entry, higher: Option<&[u8]>) {
        let mut opened = self.open(entry.clone(), directory);
        let leads_to_null = opened.target.as_deref() == Some(b"/dev/null");
        let is_empty =
            opened.file.as_ref().is_some_and(|file| file.status.is_file() && file.status.size == 0);
        if leads_to_null || is_empty {
            opened.inactive = None;
            let masked = [b"/var/lib/systemd/deb-systemd-helper-masked/", entry.name()].concat();
            if opened.explained.origin == Origin::Local && self.tree.look(&masked).is_ok() {
                opened.explained.origin = Origin::Derived("deb-systemd-helper");
            }
            let mut record = self.described("sd-mask", &opened);
            record.verdict = Some(opened.explained.origin.verdict(None, false));
            record.notes.push("masked: it cannot be started".to_owned());
            if is_empty {
                record.line = Some(1);
            }
            self.push(record);
            return;
        }
        if let Some(origin) = self.by_a_generator(&opened) {
            opened.explained.origin = origin;
        }
        if entry.status.is_link() {
            if opened.explained.origin == Origin::Local
                && let Some(origin) = self.enabled(area, &opened, None)
            {
                opened.explained.origin = origin;
            }
            let leaves_name = opened.file.as_ref().is_none_or(|file| file.name() != entry.name());
            let is_of_users = matches!(directory, "sd-user-unit" | "sd-user-global");
            let technique = if leaves_name && !is_of_users { "sd-alias" } else { directory };
            let record = self.link(&opened, technique);
            self.push(record);
            return;
        }
        if higher.is_none() {
            self.shadows(area, &opened);
        }
        if higher.is_some() {
            opened.inactive =
                opened.inactive.or(Some("a file of the same name in a higher directory is in force"));
        }
        self.directives(directory, &opened, None);
    }

    /// Notes that a unit stands before another of the same name.
    fn shadows(&mut self, area: &Area, opened: &Opened) {
        let own = opened.entry.path[..opened.entry.path.len() - opened.entry.name().len()].to_vec();
        let lower = area.directories.iter().find_map(|(directory, _)| {
            let path = vigie_tree::joined(directory, opened.entry.name());
            let entry = self.tree.find(&path).ok().filter(|entry| entry.status.is_file())?;
            let is_other = entry.path != opened.entry.path && !path.starts_with(own.as_slice());
            is_other.then_some(entry)
        });
        let Some(lower) = lower else { return };
        let mut record = self.described("sd-override", opened);
        let template = lower.read(MAX_TEXT).unwrap_or_default();
        let changed = opened.content.as_deref().and_then(|content| beside(content, &template));
        record.line = changed.and_then(|changed| changed.first()).or(Some(1));
        record.verdict = Some(opened.explained.origin.verdict(record.line, false));
        record.notes.push(format!("stands before {}", shown(&lower.path)));
        self.push(record);
    }

    /// Notes what a unit or a drop-in starts.
    fn directives(&mut self, technique: &'static str, opened: &Opened, drop_in_of: Option<&str>) {
        self.note_long(opened);
        let directives = opened.content.as_deref().map(parse).unwrap_or_default();
        let name = String::from_utf8_lossy(opened.entry.name()).into_owned();
        let suffix = drop_in_of.unwrap_or(&name).rsplit('.').next().unwrap_or_default().to_owned();
        let origin = opened.explained.origin.clone();
        let mut told = false;
        let mut shows_change = false;
        let mut triggers: Vec<&Directive> = Vec::new();
        let user = user_of(&directives);
        let account = self.writer(&opened.entry);
        for directive in &directives {
            if self.is_over() || !self.can_pay(account) {
                return;
            }
            self.environment_file(&opened.entry, directive);
            let Some(starts) = directive.starts() else { continue };
            let by = match starts {
                Starts::Trigger => {
                    triggers.push(directive);
                    continue;
                }
                Starts::Command => technique,
                Starts::Unit => "sd-onfailure",
                Starts::Environment => "sd-envfile",
            };
            let mut record = self.described(by, opened);
            record.line = Some(directive.line);
            let verdict = origin.verdict(record.line, true);
            record.verdict = Some(verdict);
            record.command.clone_from(&directive.value);
            record.notes.push(directive.key.clone());
            record.user.clone_from(&user);
            record.program = directive.program().and_then(|path| self.program(&path));
            told = true;
            shows_change |= !matches!(verdict, Verdict::Packaged | Verdict::Derived);
            self.push(record);
        }
        if let Some(first) = triggers.first() {
            let by = match (technique, suffix.as_str()) {
                ("sd-user-unit" | "sd-user-global", _) => technique,
                (_, "timer") => "sd-timer",
                (_, "path") => "sd-path",
                _ => "sd-socket",
            };
            let mut record = self.described(by, opened);
            record.line = Some(first.line);
            let verdict = origin.verdict(record.line, true);
            record.verdict = Some(verdict);
            record.when =
                triggers.iter().map(|d| format!("{}={}", d.key, d.value)).collect::<Vec<_>>().join(" ");
            let service = directives
                .iter()
                .find(|directive| matches!(directive.key.as_str(), "Unit" | "Service"))
                .map_or_else(|| started_by(&name, &directives), |directive| directive.value.clone());
            record.command = self.command_of(&service, opened);
            told = true;
            shows_change |= !matches!(verdict, Verdict::Packaged | Verdict::Derived);
            self.push(record);
        }
        if !told || (!shows_change && !origin.is_explained()) {
            self.whole(technique, opened, None);
        }
    }

    /// Variables of a file that a unit reads, when they make programs load something. What lies in `/etc/default` is
    /// read by the catalogue.
    pub(crate) fn environment_file(&mut self, unit: &Entry, directive: &Directive) {
        if directive.key != "EnvironmentFile" {
            return;
        }
        let path = directive.value.trim_start_matches('-');
        let is_known = path.starts_with("/etc/default/") || path.starts_with("/etc/sysconfig/");
        if is_known
            || !path.starts_with('/')
            || path.contains(['%', '*', '?', '['])
            || path.len() >= MAX_PATH
            || !self.spend(self.writer(unit), COST_OF_NAME, path)
        {
            return;
        }
        let Ok(entry) = self.tree.look(path.as_bytes()) else { return };
        let what = format!("{}:{}: {path}", shown(&unit.path), directive.line);
        if !self.may_follow(unit, &ENVIRONMENT, &entry, &what) {
            return;
        }
        self.seen.insert((entry.path.clone(), ENVIRONMENT.technique));
        let opened = self.open(entry, "sd-envfile");
        let items =
            opened.content.as_deref().map(|content| crate::format::items(Format::Environment, content));
        if items.is_some_and(|items| !items.is_empty()) {
            self.add("sd-envfile", Format::Environment, &opened, false, None);
        }
    }

    /// What a unit runs, for the line of what starts it: `NAME: COMMAND`.
    fn command_of(&mut self, unit: &str, near: &Opened) -> String {
        if unit.contains('/') || unit.len() > MAX_NAME {
            return unit.to_owned();
        }
        let account = self.writer(&near.entry);
        let own = &near.entry.path[..near.entry.path.len() - near.entry.name().len()];
        let directories =
            std::iter::once(own.to_vec()).chain(SYSTEM.iter().map(|(path, _)| path.as_bytes().to_vec()));
        let template = unit
            .split_once('@')
            .and_then(|(base, rest)| Some(format!("{base}@.{}", rest.rsplit('.').next()?)));
        for directory in directories {
            for name in std::iter::once(unit).chain(template.as_deref()) {
                let Ok(entry) = self.tree.find(&vigie_tree::joined(&directory, name.as_bytes())) else {
                    continue;
                };
                if !self.spend(account, cost_of(&entry), unit) {
                    return unit.to_owned();
                }
                let command = entry.read(MAX_TEXT).ok().and_then(|content| {
                    parse(&content).into_iter().find(|d| d.starts() == Some(Starts::Command)).map(|d| d.value)
                });
                if let Some(command) = command {
                    return format!("{unit}: {command}");
                }
            }
        }
        unit.to_owned()
    }

    fn link(&mut self, opened: &Opened, technique: &'static str) -> Record {
        let mut record = self.described(technique, opened);
        record.verdict = Some(opened.explained.origin.verdict(None, false));
        let unit = opened.content.as_deref().map(parse).unwrap_or_default();
        if let Some(command) = unit.into_iter().find(|d| d.starts() == Some(Starts::Command)) {
            record.program = command.program().and_then(|path| self.program(&path));
            record.command = command.value;
        }
        record
    }

    /// A link that `systemctl enable`, or Debian's helper for it, makes of a packaged unit.
    fn enabled(&mut self, area: &Area, opened: &Opened, wanted_by: Option<&str>) -> Option<Origin> {
        let file = opened.file.as_ref()?;
        self.explainer.recorded(&file.path)?;
        let name = String::from_utf8_lossy(opened.entry.name()).into_owned();
        let target = String::from_utf8_lossy(file.name()).into_owned();
        let is_instance = target.split_once("@.").is_some_and(|(base, kind)| {
            name.starts_with(&format!("{base}@")) && name.ends_with(&format!(".{kind}"))
        });
        let install: Vec<Directive> = opened
            .content
            .as_deref()
            .map(parse)
            .unwrap_or_default()
            .into_iter()
            .filter(|directive| &*directive.section == "Install")
            .collect();
        let says = |keys: &[&str], value: &str| {
            install.iter().any(|directive| {
                keys.contains(&directive.key.as_str())
                    && directive.value.split_whitespace().any(|word| word == value)
            })
        };
        let is_noted = |below: String| {
            !area.helper.is_empty() && self.tree.look(format!("{}/{below}", area.helper).as_bytes()).is_ok()
        };
        match wanted_by {
            Some(base) => {
                if name != target && !is_instance && !says(&["Alias"], &name) {
                    return None;
                }
                if says(&["WantedBy", "RequiredBy", "UpheldBy"], base) {
                    return Some(Origin::Derived("systemctl enable"));
                }
                let kinds = ["wants", "requires", "upholds"];
                kinds
                    .iter()
                    .any(|kind| is_noted(format!("{base}.{kind}/{name}")))
                    .then_some(Origin::Derived("deb-systemd-helper"))
            }
            None if says(&["Alias"], &name) => Some(Origin::Derived("systemctl enable")),
            None if is_noted(name.clone()) => Some(Origin::Derived("deb-systemd-helper")),
            None if name == "default.target" && target.ends_with(".target") => {
                Some(Origin::Derived("systemctl set-default"))
            }
            None => None,
        }
    }

    /// Units that a packaged generator makes at each boot say which one.
    fn by_a_generator(&mut self, opened: &Opened) -> Option<Origin> {
        let path = &opened.entry.path;
        if opened.explained.origin != Origin::Local {
            return None;
        }
        if path.starts_with(b"/run/user/") {
            return self.by_a_users_manager(opened);
        }
        if !path.starts_with(b"/run/systemd/") {
            return None;
        }
        let content = String::from_utf8_lossy(opened.content.as_deref().unwrap_or_default()).into_owned();
        if path.starts_with(b"/run/systemd/generator") {
            if opened.entry.status.is_link() {
                let file = opened.file.as_ref()?;
                self.explainer.recorded(&file.path)?;
                return Some(Origin::Derived("a generator"));
            }
            let name = content.split_once("generated by ")?.1.split_whitespace().next()?.to_owned();
            let generator = format!("/usr/lib/systemd/system-generators/{}", name.trim_end_matches('.'));
            let package = self.explainer.owner(generator.as_bytes())?;
            // Anybody can write that sentence: what the unit runs must be the generator's own, or a packaged script.
            let is_its_own = parse(content.as_bytes()).iter().all(|directive| {
                let Some(starts) = directive.starts() else { return true };
                let program = directive.program().unwrap_or_default();
                let owner = self.explainer.owner(program.as_bytes());
                match starts {
                    Starts::Command => {
                        owner.is_some()
                            && (owner.as_ref() == Some(&package) || program.starts_with("/etc/init.d/"))
                    }
                    Starts::Environment => false,
                    Starts::Unit | Starts::Trigger => true,
                }
            });
            return is_its_own.then_some(Origin::Derived("a generator"));
        }
        let starts = parse(content.as_bytes()).iter().any(|directive| directive.starts().is_some());
        (path.starts_with(b"/run/systemd/transient/") && !starts).then_some(Origin::Derived("systemd"))
    }
}

impl Scan<'_> {
    /// What a user's manager makes itself: units that start nothing, and those of packaged desktop files. The user may
    /// write there as well, so what such a unit says of its maker does not count.
    fn by_a_users_manager(&mut self, opened: &Opened) -> Option<Origin> {
        let directives = parse(opened.content.as_deref()?);
        let starts: Vec<&Directive> =
            directives.iter().filter(|directive| directive.starts().is_some()).collect();
        if starts.is_empty() {
            return Some(Origin::Derived("systemd"));
        }
        let account = self.writer(&opened.entry);
        if !self.spend(account, COST_OF_NAME * starts.len() as u64, &shown(&opened.entry.path)) {
            return None;
        }
        let source = directives.iter().find(|directive| directive.key == "SourcePath")?;
        let desktop = self.tree.find(source.value.as_bytes()).ok()?;
        self.explainer.recorded(&desktop.path)?;
        let desktop = desktop.read(MAX_TEXT).ok()?;
        let exec = parse(&desktop).into_iter().find(|directive| directive.key == "Exec")?.value;
        let is_as_packaged = starts.iter().all(|directive| {
            let Some(program) = directive.program() else { return false };
            let is_as_made = match directive.key.as_str() {
                "ExecStart" => is_same_command(&directive.value, &exec),
                "ExecCondition" => program.ends_with("/systemd-xdg-autostart-condition"),
                _ => false,
            };
            is_as_made && self.explainer.owner(program.as_bytes()).is_some()
        });
        is_as_packaged.then_some(Origin::Derived("systemd-xdg-autostart-generator"))
    }
}

/// Whether systemd's command is that of a desktop file: with the program's whole path, and without fields such as `%U`.
fn is_same_command(unit: &str, desktop: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        let plain = |word: &str| word.trim_matches(['"', '\'']).to_owned();
        text.split_whitespace().map(plain).filter(|word| !word.starts_with('%')).collect()
    };
    let (unit, desktop) = (words(unit.trim_start_matches(':')), words(desktop));
    let name = |words: &[String]| words.first().and_then(|word| word.rsplit('/').next().map(str::to_owned));
    !unit.is_empty() && name(&unit) == name(&desktop) && unit.get(1..) == desktop.get(1..)
}

fn is_unit(name: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, kind)| TYPES.contains(&kind))
}

fn user_of(directives: &[Directive]) -> Option<String> {
    directives
        .iter()
        .rev()
        .find(|directive| &*directive.section == "Service" && directive.key == "User")
        .map(|directive| directive.value.clone())
        .filter(|user| !user.is_empty())
}

/// The unit that a timer, path or socket starts when it does not say.
fn started_by(name: &str, directives: &[Directive]) -> String {
    let base = name.rsplit_once('.').map_or(name, |(base, _)| base);
    let accepts = directives.iter().any(|directive| {
        directive.key == "Accept"
            && matches!(directive.value.to_ascii_lowercase().as_str(), "yes" | "true" | "1" | "on")
    });
    if accepts { format!("{base}@.service") } else { format!("{base}.service") }
}
