//! What a package manager does as a whole: which of its changes its packages explain, and how they are told as one.
//!
//! A transaction is what the processes of one package manager and their descendants change, from the first change until
//! the manager has ended. A change is explained by its content, not by who made it: the file is in the manifest of the
//! version that is being installed, and has the digest from there. Who made it only decides whether the manifest may
//! still be waited for. So nobody who works for a package manager, and nobody who forges its lock or its name, gets a
//! change of his own past the alerts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vigie_packagedb::owners::Manager;

use crate::change::{Alert, Event, notice};
use crate::object::Kind;
use crate::rules::Severity;

/// Files that the record names one by one.
const NAMED: usize = 20;

/// Packages that the record's sentence names; all are in its keys.
const NAMED_PACKAGES: usize = 5;

/// Packages of which the record keeps the versions.
const MAX_PACKAGES: usize = 2_000;

/// Programs that keep the managers' own records and links.
const RECORD_KEEPERS: [&str; 16] = [
    "dpkg",
    "dpkg-deb",
    "dpkg-divert",
    "dpkg-statoverride",
    "dpkg-trigger",
    "update-alternatives",
    "apt",
    "apt-get",
    "aptitude",
    "rpm",
    "dnf",
    "dnf5",
    "microdnf",
    "zypper",
    "apk",
    "apk.static",
];

/// Where package managers keep their records.
const RECORDS: [&str; 7] = [
    "/var/lib/dpkg",
    "/var/lib/apt",
    "/var/cache/apt",
    "/var/lib/rpm",
    "/usr/lib/sysimage/rpm",
    "/lib/apk/db",
    "/usr/lib/apk/db",
];

/// Ends of the names under which package managers leave versions of configuration that they do not put in place.
const KEPT_VERSIONS: [&str; 7] =
    [".dpkg-dist", ".dpkg-old", ".dpkg-bak", ".rpmnew", ".rpmsave", ".rpmorig", ".apk-new"];

/// Whether a package manager gives this name to a file that it has not put in its place yet.
#[must_use]
pub(crate) fn is_temporary(manager: Manager, path: &Path) -> bool {
    let Some(name) = path.file_name().map(|name| name.as_encoded_bytes()) else { return false };
    match manager {
        Manager::Dpkg => name.ends_with(b".dpkg-new") || name.ends_with(b".dpkg-tmp"),
        // NAME;TIDHEX
        Manager::Rpm => name.iter().rposition(|byte| *byte == b';').is_some_and(|at| {
            let digits = &name[at + 1..];
            digits.len() == 8 && digits.iter().all(u8::is_ascii_hexdigit)
        }),
        Manager::Apk => name.starts_with(b".apk."),
    }
}

/// What becomes of a change that a package manager's process made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its package explains it: it belongs into the transaction's record.
    Explained,
    /// A script of a package made it, and no package has it: it is named in the record.
    ByScript,
    /// It is not explained yet; the manifest may still come.
    Wait,
    /// It is told alone.
    Alone,
}

/// What is known of a change when it is judged.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// The change with what packages say of it.
    pub alert: &'a Alert,
    /// The severity of the rule that covers it.
    pub rule: Option<Severity>,
    /// It was judged before, and packages were asked again since.
    pub is_again: bool,
    /// It was waited for long enough.
    pub is_last: bool,
}

fn mode(object: &Value) -> Option<u32> {
    u32::from_str_radix(object["mode"].as_str()?, 8).ok()
}

/// Whether others than the owner can write what they could not write before.
fn opens_to_others(alert: &Alert) -> bool {
    const OTHERS: u32 = 0o022;
    if alert.kind == Kind::Link.name() {
        return false;
    }
    let before = mode(&alert.before).unwrap_or(0);
    mode(&alert.after).is_some_and(|after| after & OTHERS & !before != 0)
}

/// Says what becomes of a change.
#[must_use]
pub fn judge(change: Change<'_>) -> Verdict {
    let Change { alert, rule, is_again, is_last } = change;
    let Some(managed) = &alert.managed else { return Verdict::Alone };
    // No list of packages has modes, and no manifest excuses a right that somebody gains.
    if alert.gains_rights || opens_to_others(alert) {
        return Verdict::Alone;
    }
    let program = alert.process["executable"].as_str().and_then(|path| path.rsplit('/').next());
    let is_keeper = managed.is_hosts_program && program.is_some_and(|name| RECORD_KEEPERS.contains(&name));
    let is_listed = alert.package["name"].is_string();
    let as_recorded = alert.package["as_recorded"].as_bool();
    let is_record = |path: &str| RECORDS.iter().any(|place| Path::new(path).starts_with(place));
    if is_record(&alert.path) {
        // A record is written under another name first.
        let was_record = alert.from.as_deref().is_none_or(is_record);
        return if is_keeper && was_record { Verdict::Explained } else { Verdict::Alone };
    }
    if alert.event == Event::Renamed {
        return Verdict::Alone;
    }
    if as_recorded == Some(true) {
        return Verdict::Explained;
    }
    let is_file = alert.kind == Kind::File.name();
    if is_keeper {
        let is_kept_version = KEPT_VERSIONS.iter().any(|end| alert.path.ends_with(end));
        let is_link_of_alternatives = program == Some("update-alternatives")
            && (alert.kind == Kind::Link.name() || alert.event == Event::Removed);
        let is_content =
            ["content", "kind", "device", "size"].iter().any(|name| alert.attributes.contains(name));
        return match alert.event {
            Event::Removed => Verdict::Explained,
            _ if is_kept_version || is_link_of_alternatives => Verdict::Explained,
            // Directories belong to many packages and are in no index.
            _ if alert.kind == Kind::Directory.name() => Verdict::Explained,
            _ if !is_file && is_listed => Verdict::Explained,
            Event::Changed if is_listed && !is_content && as_recorded.is_none() => Verdict::Explained,
            _ if is_last => Verdict::Alone,
            _ => Verdict::Wait,
        };
    }
    // A script and what it starts.
    if rule == Some(Severity::Critical) || is_listed && is_file {
        let is_known = is_again || is_last || as_recorded.is_none();
        return if is_known { Verdict::Alone } else { Verdict::Wait };
    }
    // Whether a package has it is known at the end: the database may be older than what the script did to its file.
    if is_last { Verdict::ByScript } else { Verdict::Wait }
}

/// The package that a file of dpkg's own is about: its list is replaced even when all its files stay as they were.
fn package_of_record(path: &str) -> Option<&str> {
    path.strip_prefix("/var/lib/dpkg/info/")?.strip_suffix(".list")
}

/// One step less severe; never hidden.
fn lowered(severity: Severity) -> Severity {
    match severity {
        Severity::Critical => Severity::High,
        Severity::High => Severity::Medium,
        Severity::Medium | Severity::Low => Severity::Low,
    }
}

/// A package that a transaction was about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageChange {
    /// Its name.
    pub name: String,
    /// The version before; none when it was not installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The version now; none when it was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

impl PackageChange {
    fn text(&self) -> String {
        let name = &self.name;
        match (&self.from, &self.to) {
            (None, Some(to)) => format!("installed {name} {to}"),
            (Some(from), None) => format!("removed {name} {from}"),
            (Some(from), Some(to)) if from == to => format!("reinstalled {name} {to}"),
            (Some(from), Some(to)) => format!("changed {name} {from} to {to}"),
            (None, None) => format!("touched {name}"),
        }
    }
}

/// The packages that differ between two moments, and those of which files were put in place.
#[must_use]
pub(crate) fn package_changes(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
    touched: &BTreeSet<String>,
) -> Vec<PackageChange> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).chain(touched).collect();
    names
        .into_iter()
        .filter(|name| touched.contains(*name) || before.get(*name) != after.get(*name))
        .map(|name| PackageChange {
            name: name.clone(),
            from: before.get(name).cloned(),
            to: after.get(name).cloned(),
        })
        .take(MAX_PACKAGES)
        .collect()
}

/// What one package manager did so far. This is what the store keeps of it until it is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transaction {
    /// Its name, for queries.
    pub id: String,
    /// The manager.
    pub manager: String,
    /// The manager's process, as alerts tell it.
    pub process: Value,
    /// Changes that packages explain.
    pub explained: u64,
    /// Changes that scripts of packages made.
    pub by_scripts: u64,
    /// Changes that were told alone.
    pub alone: u64,
    /// A directory that all of it is in.
    pub below: String,
    /// The worst of what scripts made, one step less.
    pub worst: Severity,
    /// New or changed files that matter, such as what is started by itself.
    pub notable: Vec<String>,
    /// What scripts made, with digests.
    pub scripts: Vec<Value>,
    /// Packages of which files were put in place.
    pub touched: BTreeSet<String>,
    /// When the first change was seen, RFC 3339.
    pub since: String,
    /// When the last was.
    pub until: String,
}

impl Transaction {
    /// One that begins with nothing.
    #[must_use]
    pub fn new(id: String, manager: Manager, process: Value, time: &str) -> Self {
        Self {
            id,
            manager: manager.name().to_owned(),
            process,
            explained: 0,
            by_scripts: 0,
            alone: 0,
            below: String::new(),
            worst: Severity::Low,
            notable: Vec::new(),
            scripts: Vec::new(),
            touched: BTreeSet::new(),
            since: time.to_owned(),
            until: time.to_owned(),
        }
    }

    /// Adds a change, as it was judged. `rule` is the severity of the rule that covers it.
    pub fn add(&mut self, alert: &Alert, verdict: Verdict, rule: Option<Severity>) {
        self.until.clone_from(&alert.time);
        if self.below.is_empty() {
            self.below =
                Path::new(&alert.path).parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
        }
        while !Path::new(&alert.path).starts_with(&self.below) {
            let parent = Path::new(&self.below).parent().unwrap_or(Path::new("/"));
            self.below = parent.to_string_lossy().into_owned();
        }
        match verdict {
            Verdict::Explained => {
                self.explained += 1;
                let owner = alert.package["name"].as_str().or_else(|| package_of_record(&alert.path));
                if let Some(name) = owner
                    && self.touched.len() < MAX_PACKAGES
                {
                    self.touched.insert(name.to_owned());
                }
                let is_started = rule >= Some(Severity::High) && alert.kind == Kind::File.name();
                if is_started && alert.event == Event::Created && self.notable.len() < NAMED {
                    self.notable.push(alert.path.clone());
                }
            }
            Verdict::ByScript => {
                self.by_scripts += 1;
                self.worst = self.worst.max(lowered(alert.severity));
                if self.scripts.len() < NAMED {
                    let mut made = json!({"path": alert.path, "event": alert.event.name()});
                    if let Some(digest) = alert.after["sha256"].as_str() {
                        made["sha256"] = json!(digest);
                    }
                    self.scripts.push(made);
                }
            }
            Verdict::Alone => self.alone += 1,
            Verdict::Wait => {}
        }
    }

    /// Who did it, in words: the command, the login, and the program that started the manager.
    fn who(&self) -> String {
        let process = &self.process;
        let command = process["command"].as_str().or(process["executable"].as_str()).unwrap_or(&self.manager);
        let mut command = command.to_owned();
        if command.chars().count() > 60 {
            command = format!("{}…", command.chars().take(60).collect::<String>());
        }
        let name = |name: &str, id: &str| {
            process[name]
                .as_str()
                .map(str::to_owned)
                .or_else(|| process[id].as_u64().map(|id| id.to_string()))
        };
        let login = name("login_name", "login_user").map(|login| format!(", logged in as {login}"));
        let user = name("user_name", "user").map(|user| format!(" by {user}"));
        let from = process["parent"]["executable"].as_str().map(|from| format!(", started by {from}"));
        let rest = [user, login, from].into_iter().flatten().collect::<String>();
        format!("{command}{rest}")
    }

    /// The alert that reports it, with what became of packages when it has ended.
    #[must_use]
    pub fn record(&self, packages: Option<&[PackageChange]>, time: &str) -> Alert {
        let ended = packages.is_some();
        let packages = packages.unwrap_or_default();
        let mut parts: Vec<String> = packages.iter().take(NAMED_PACKAGES).map(PackageChange::text).collect();
        if packages.len() > NAMED_PACKAGES {
            parts.push(format!("and {} packages more", packages.len() - NAMED_PACKAGES));
        }
        if parts.is_empty() {
            parts.push(if ended { "no package changed" } else { "still running" }.to_owned());
        }
        let mut text = format!("{}: {} ({})", self.manager, parts.join(", "), self.who());
        text.push_str(&format!("; {} changes match the packages", self.explained));
        if !self.notable.is_empty() {
            text.push_str(&format!("; new: {}", self.notable.join(", ")));
        }
        if self.by_scripts > 0 {
            let paths: Vec<&str> =
                self.scripts.iter().filter_map(|made| made["path"].as_str()).take(NAMED_PACKAGES).collect();
            let more = self.by_scripts.saturating_sub(paths.len() as u64);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            text.push_str(&format!("; made by their scripts: {}{more}", paths.join(", ")));
        }
        if self.alone > 0 {
            text.push_str(&format!("; {} reported separately", self.alone));
        }
        let mut group = json!({
            "id": self.id,
            "writer": self.process["executable"].as_str().unwrap_or(&self.manager),
            "packages": packages,
            "ended": ended,
            "explained": self.explained,
            "by_scripts": self.by_scripts,
            "told_alone": self.alone,
            "samples": self.notable,
            "from": self.since,
            "to": self.until,
        });
        if !self.scripts.is_empty() {
            group["scripts"] = json!(self.scripts);
        }
        let below = if self.below.is_empty() { "/" } else { &self.below };
        Alert {
            severity: self.worst,
            event: Event::Transaction,
            count: Some(self.explained + self.by_scripts),
            process: self.process.clone(),
            package: json!({"by_manager": self.manager}),
            group,
            ..notice(below.to_owned(), text, time)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::process::{Managed, Process, Unknown};

    fn managed() -> Option<Arc<Managed>> {
        let top = Arc::new(Process::unknown(7, Unknown::Ended));
        Some(Arc::new(Managed { manager: Manager::Dpkg, top, started: 1, is_hosts_program: true }))
    }

    /// A change by dpkg itself.
    fn by_dpkg(path: &str, event: Event, package: Value) -> Alert {
        Alert {
            event,
            kind: "file",
            severity: Severity::Critical,
            package,
            process: json!({"executable": "/usr/bin/dpkg"}),
            managed: managed(),
            ..notice(path.to_owned(), String::new(), "now")
        }
    }

    fn by_script(path: &str, event: Event, package: Value) -> Alert {
        Alert { process: json!({"executable": "/usr/bin/dash"}), ..by_dpkg(path, event, package) }
    }

    fn first(alert: &Alert) -> Verdict {
        judge(Change { alert, rule: None, is_again: false, is_last: false })
    }

    fn last(alert: &Alert) -> Verdict {
        judge(Change { alert, rule: None, is_again: true, is_last: true })
    }

    #[test]
    fn only_the_manifest_explains_a_file() {
        let as_recorded = json!({"name": "passwd", "as_recorded": true});
        let other = json!({"name": "passwd", "as_recorded": false});

        assert_eq!(
            first(&by_dpkg("/usr/bin/passwd", Event::Changed, as_recorded.clone())),
            Verdict::Explained
        );
        let altered = by_dpkg("/usr/bin/passwd", Event::Changed, other);
        assert_eq!((first(&altered), last(&altered)), (Verdict::Wait, Verdict::Alone));
        let not_listed = by_dpkg("/usr/bin/sneaky", Event::Created, Value::Null);
        assert_eq!((first(&not_listed), last(&not_listed)), (Verdict::Wait, Verdict::Alone));
        let without_digest = by_dpkg("/usr/bin/sneaky", Event::Created, json!({"name": "passwd"}));
        assert_eq!((first(&without_digest), last(&without_digest)), (Verdict::Wait, Verdict::Alone));
        // Somebody else made it, whatever it holds.
        let by_other = Alert { managed: None, ..by_dpkg("/usr/bin/passwd", Event::Changed, as_recorded) };
        assert_eq!(first(&by_other), Verdict::Alone);
    }

    #[test]
    fn only_a_record_may_be_written_under_another_name_first() {
        let renamed = |from: &str, to| Alert {
            from: Some(from.to_owned()),
            ..by_dpkg(to, Event::Renamed, json!({"name": "a", "as_recorded": true}))
        };
        let list = "/var/lib/dpkg/info/a.list";

        assert_eq!(first(&renamed("/var/lib/dpkg/info/a.list-new", list)), Verdict::Explained);
        assert_eq!(first(&renamed("/tmp/a", list)), Verdict::Alone);
        assert_eq!(first(&renamed("/usr/bin/a.new", "/usr/bin/a")), Verdict::Alone);
        let by_script = Alert {
            process: json!({"executable": "/usr/bin/dash"}),
            ..renamed("/var/lib/dpkg/info/a.list-new", list)
        };
        assert_eq!(first(&by_script), Verdict::Alone);
    }

    #[test]
    fn no_manifest_excuses_rights_that_somebody_gains() {
        let as_recorded = json!({"name": "passwd", "as_recorded": true});
        let alert = by_dpkg("/usr/bin/passwd", Event::Changed, as_recorded.clone());
        let setuid = Alert { gains_rights: true, ..alert.clone() };
        let opened =
            Alert { before: json!({"mode": "0755"}), after: json!({"mode": "0757"}), ..alert.clone() };
        let closed = Alert { before: json!({"mode": "0777"}), after: json!({"mode": "0755"}), ..alert };

        assert_eq!(
            (first(&setuid), first(&opened), first(&closed)),
            (Verdict::Alone, Verdict::Alone, Verdict::Explained)
        );
    }

    #[test]
    fn what_scripts_make_is_named_unless_it_is_another_packages_or_critical() {
        let made = by_script("/boot/initrd.img", Event::Changed, Value::Null);
        assert_eq!((first(&made), last(&made)), (Verdict::Wait, Verdict::ByScript));
        let others = by_script(
            "/usr/bin/ssh",
            Event::Changed,
            json!({"name": "openssh-client", "as_recorded": false}),
        );
        assert_eq!(last(&others), Verdict::Alone);
        let preload = by_script("/etc/ld.so.preload", Event::Created, Value::Null);
        assert_eq!(
            judge(Change {
                alert: &preload,
                rule: Some(Severity::Critical),
                is_again: false,
                is_last: false
            }),
            Verdict::Alone
        );
        let records = by_script("/var/lib/dpkg/info/ssh.postinst", Event::Changed, Value::Null);
        assert_eq!(first(&records), Verdict::Alone);
        assert_eq!(
            first(&by_dpkg("/var/lib/dpkg/info/ssh.postinst", Event::Changed, Value::Null)),
            Verdict::Explained
        );
    }

    #[test]
    fn names_of_files_that_are_not_in_place_yet_are_known_by_their_manager() {
        for (manager, name, is) in [
            (Manager::Dpkg, "/usr/bin/passwd.dpkg-new", true),
            (Manager::Dpkg, "/usr/bin/passwd.dpkg-tmp", true),
            (Manager::Dpkg, "/usr/bin/passwd", false),
            (Manager::Rpm, "/usr/bin/passwd;65a1b2c3", true),
            (Manager::Rpm, "/usr/bin/passwd;evil", false),
            (Manager::Rpm, "/usr/bin/passwd.dpkg-new", false),
            (Manager::Apk, "/usr/bin/.apk.0123abcd", true),
        ] {
            assert_eq!(is_temporary(manager, Path::new(name)), is, "{name}");
        }
    }

    #[test]
    fn a_record_says_what_who_and_what_nobody_explains() {
        let process = json!({"executable": "/usr/bin/apt-get", "command": "apt-get install --reinstall passwd",
            "user": 0, "user_name": "root", "login_user": 1000, "login_name": "ann",
            "parent": {"pid": 5, "executable": "/usr/bin/bash"}});
        let mut transaction = Transaction::new("t1".to_owned(), Manager::Dpkg, process, "then");
        let explained = by_dpkg("/usr/bin/passwd", Event::Changed, json!({"name": "passwd"}));
        transaction.add(&explained, Verdict::Explained, None);
        let unit = by_dpkg("/usr/lib/systemd/system/a.timer", Event::Created, json!({"name": "passwd"}));
        transaction.add(&unit, Verdict::Explained, Some(Severity::High));
        transaction.add(&by_script("/etc/made", Event::Created, Value::Null), Verdict::ByScript, None);
        let version = |version: &str| BTreeMap::from([("passwd".to_owned(), version.to_owned())]);
        let packages = package_changes(&version("1"), &version("1"), &transaction.touched);

        let record = transaction.record(Some(&packages), "now");

        assert_eq!(
            record.alert,
            "dpkg: reinstalled passwd 1 (apt-get install --reinstall passwd by root, logged in as ann, started by \
             /usr/bin/bash); 2 changes match the packages; new: /usr/lib/systemd/system/a.timer; made by their \
             scripts: /etc/made"
        );
        assert_eq!(
            (record.severity, record.event, record.count),
            (Severity::High, Event::Transaction, Some(3))
        );
        assert_eq!(record.group["packages"], json!([{"name": "passwd", "from": "1", "to": "1"}]));
    }

    #[test]
    fn packages_are_told_by_what_became_of_them() {
        let versions = |list: &[(&str, &str)]| {
            list.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
        };
        let changes = package_changes(
            &versions(&[("old", "1"), ("up", "1"), ("same", "1"), ("again", "1")]),
            &versions(&[("new", "2"), ("up", "2"), ("same", "1"), ("again", "1")]),
            &["again".to_owned()].into(),
        );

        let texts: Vec<String> = changes.iter().map(PackageChange::text).collect();
        assert_eq!(texts, ["reinstalled again 1", "installed new 2", "removed old 1", "changed up 1 to 2"]);
    }
}
