//! The thread that knows what package managers recorded: it compares a changed file with its package, so that the
//! engine never waits for their databases.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::hash::RandomState;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Instant;

use rustix::fs::OFlags;
use serde_json::{Value, json};
use vigie_packagedb::owners::{Manager, Packages};
use vigie_tree::Root;

use crate::accounts::Accounts;
use crate::avoided::Avoided;
use crate::events::Mailbox;
use crate::look::is_missing;
use crate::process::Managed;
use crate::processes::still_runs;
use crate::transaction::package_changes;
use crate::workers::Report;

/// Where package managers put files. Elsewhere nobody is asked.
const PLACES: [&str; 9] = ["/bin", "/boot", "/etc", "/lib", "/lib64", "/opt", "/sbin", "/usr", "/var/lib"];

/// All of them.
const MANAGERS: [Manager; 3] = [Manager::Dpkg, Manager::Rpm, Manager::Apk];

/// What is asked about one alert.
#[derive(Debug)]
pub struct Question {
    /// Which alert of the round.
    pub alert: usize,
    /// The path, free of links.
    pub path: PathBuf,
    /// There is a regular file to compare; otherwise only the package's name is wanted.
    pub is_file: bool,
}

#[derive(Debug)]
enum Order {
    Compare { round: u64, questions: Vec<Question> },
    Begin { id: String, manager: Manager },
    Runs { process: (i32, u64) },
    Accounts,
    End { process: (i32, u64), id: String, manager: String, touched: BTreeSet<String> },
    Forget,
}

/// The way to the thread. It ends with it.
#[derive(Debug)]
pub(crate) struct PackageRecords {
    orders: mpsc::Sender<Order>,
    /// Something is in memory that could be given back.
    loaded: bool,
}

impl PackageRecords {
    /// Starts the thread; answers go to `mailbox`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(mailbox: Mailbox, avoided: Avoided) -> io::Result<Self> {
        let (orders, received) = mpsc::channel();
        std::thread::Builder::new()
            .name("packages".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || work(&received, &mailbox, &avoided))?;
        Ok(Self { orders, loaded: false })
    }

    /// Whether a path may belong to a package.
    #[must_use]
    pub(crate) fn may_know(path: &Path) -> bool {
        PLACES.iter().any(|place| path.starts_with(place))
    }

    /// Asks about some paths; the answer is a [`Report::Recorded`].
    pub(crate) fn compare(&mut self, round: u64, questions: Vec<Question>) {
        self.loaded = true;
        // The thread ends with us only.
        self.orders.send(Order::Compare { round, questions }).ok();
    }

    /// Asks what became of accounts since the last question; the answer is a [`Report::Accounts`].
    pub(crate) fn ask_about_accounts(&self) {
        self.orders.send(Order::Accounts).ok();
    }

    /// A transaction begins: which versions are installed is remembered.
    pub(crate) fn begin(&mut self, id: &str, manager: Manager) {
        self.orders.send(Order::Begin { id: id.to_owned(), manager }).ok();
    }

    /// Asks whether the process of a package manager still runs, by its id and when it started; the answer is a
    /// [`Report::Running`].
    pub(crate) fn ask_whether_it_runs(&self, process: (i32, u64)) {
        self.orders.send(Order::Runs { process }).ok();
    }

    /// A transaction has ended: the answer is a [`Report::Ended`] with what became of packages.
    pub(crate) fn end(&self, process: (i32, u64), id: &str, manager: &str, touched: &BTreeSet<String>) {
        let (id, manager, touched) = (id.to_owned(), manager.to_owned(), touched.clone());
        self.orders.send(Order::End { process, id, manager, touched }).ok();
    }

    /// Nobody asked for a while.
    pub(crate) fn forget(&mut self) {
        if std::mem::take(&mut self.loaded) {
            self.orders.send(Order::Forget).ok();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this thread lives in real time")]
fn now() -> Instant {
    Instant::now()
}

fn work(orders: &mpsc::Receiver<Order>, mailbox: &Mailbox, avoided: &Avoided) {
    let mut packages = Packages::at(&Root::host());
    // A transaction is noticed when it has begun, and the database may have its end by then: what was installed before
    // is what was installed last.
    let mut installed: BTreeMap<&'static str, BTreeMap<String, String>> =
        MANAGERS.iter().map(|manager| (manager.name(), packages.versions(*manager))).collect();
    let (etc, hasher) = (Path::new("/etc"), RandomState::new());
    let mut accounts = Accounts::read(etc, &hasher);
    let mut before: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for order in orders {
        match order {
            Order::Forget => packages.forget(),
            Order::Begin { id, manager } => {
                before.insert(id, installed.get(manager.name()).cloned().unwrap_or_default());
            }
            Order::Accounts => {
                let now = Accounts::read(etc, &hasher);
                mailbox.report(Report::Accounts(accounts.story(&now)));
                accounts = now;
            }
            Order::Runs { process } => {
                let runs = still_runs(process.0, process.1);
                if !runs {
                    // What it left is looked at for the last time, by what it recorded last.
                    packages.distrust(now());
                }
                mailbox.report(Report::Running { process, runs });
            }
            Order::End { process, id, manager, touched } => {
                let manager = MANAGERS.into_iter().find(|known| known.name() == manager);
                let after = manager.map(|manager| packages.versions(manager)).unwrap_or_default();
                // Of one that an earlier life of ours began, only the files say which packages it was about.
                let before = before.remove(&id).unwrap_or_else(|| after.clone());
                let packages = package_changes(&before, &after, &touched);
                if let Some(manager) = manager {
                    installed.insert(manager.name(), after);
                }
                mailbox.report(Report::Ended { process, packages });
            }
            Order::Compare { round, questions } => {
                let answers = questions
                    .into_iter()
                    .map(|question| (question.alert, answer(&mut packages, &question, avoided)))
                    .collect();
                mailbox.report(Report::Recorded { round, answers });
            }
        }
    }
}

/// The package of a path as alerts tell it; null when there is none.
fn answer(packages: &mut Packages, question: &Question, avoided: &Avoided) -> Value {
    let Some(recorded) = packages.find(&question.path, now()) else { return Value::Null };
    let open = || avoided.open(&question.path, OFlags::RDONLY | OFlags::NONBLOCK).map(File::from);
    let compared = question.is_file.then(|| open().and_then(|file| recorded.matches(file)));
    let as_recorded = match compared {
        Some(Ok(as_recorded)) => as_recorded,
        Some(Err(error)) if is_missing(&error) => None,
        Some(Err(_)) | None => None,
    };
    let mut told = json!({
        "manager": recorded.manager.name(),
        "name": recorded.package,
        "version": recorded.version,
    });
    if let Some(as_recorded) = as_recorded {
        told["as_recorded"] = json!(as_recorded);
    }
    if recorded.configuration {
        told["configuration"] = json!(true);
    }
    told
}

/// Marks what was done for a package manager.
pub(crate) fn mark_manager(package: &mut Value, managed: Option<&Managed>) {
    if let Some(Managed { manager, .. }) = managed {
        if package.is_null() {
            *package = json!({});
        }
        package["by_manager"] = json!(manager.name());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::process::{Process, Unknown};

    #[test]
    fn what_is_done_for_a_package_manager_is_marked() {
        let top = Arc::new(Process::unknown(7, Unknown::Ended));
        let dpkg = Managed { manager: Manager::Dpkg, top, started: 1, is_hosts_program: true };
        let mut unknown = Value::Null;
        mark_manager(&mut unknown, Some(&dpkg));
        let mut other = json!({"name": "x", "as_recorded": false});
        mark_manager(&mut other, Some(&dpkg));
        let mut by_hand = json!({"name": "x", "as_recorded": false});
        mark_manager(&mut by_hand, None);

        assert_eq!(unknown, json!({"by_manager": "dpkg"}));
        assert_eq!(other, json!({"name": "x", "as_recorded": false, "by_manager": "dpkg"}));
        assert_eq!(by_hand["as_recorded"], json!(false));
    }

    #[test]
    fn paths_outside_the_system_are_not_asked_about() {
        assert!(PackageRecords::may_know(Path::new("/usr/bin/ls")));
        assert!(!PackageRecords::may_know(Path::new("/home/a")));
        assert!(!PackageRecords::may_know(Path::new("/usrlocal")));
    }
}
