//! Row 11: what changes while nobody watches.
//!
//! The module, and in other rounds the whole agent, is killed; then one of each kind of change is made, and it is
//! started again. Each change must be told exactly once, with a window of time that holds it.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, FileTimes, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::agent::Agent;
use crate::module::{Alert, Module, Setup, Told, no_schedules};
use crate::{Bench, is_root, pause};
use vigie_benchmark::{BenchResult, Goal, Measure, Report};

/// Looks at the journal without a further alert after which there are no more.
const QUIET_LOOKS: usize = 30;

/// Time between two looks at the journal.
const LOOK_TIME: std::time::Duration = std::time::Duration::from_millis(20);

/// The owner that a file is given.
const NOBODY: u32 = 65_534;

/// One kind of change.
struct Change {
    name: &'static str,
    /// Makes what is there before; the second path is one outside the watched tree.
    prepare: fn(&Path, &Path) -> BenchResult<()>,
    make: fn(&Path, &Path) -> BenchResult<()>,
    /// What must be told of it.
    event: &'static str,
    /// An attribute that must be named.
    attribute: Option<&'static str>,
    needs_root: bool,
}

/// A file for a change that needs one.
fn old_file(path: &Path, _: &Path) -> BenchResult<()> {
    Ok(fs::write(path, format!("old text of {}\n", path.display()))?)
}

fn nothing(_: &Path, _: &Path) -> BenchResult<()> {
    Ok(())
}

const CHANGES: [Change; 10] = [
    Change {
        name: "edit",
        prepare: old_file,
        make: |path, _| Ok(File::options().append(true).open(path)?.write_all(b"more\n")?),
        event: "changed",
        attribute: Some("content"),
        needs_root: false,
    },
    Change {
        name: "same-size-edit",
        prepare: old_file,
        make: |path, _| {
            let modified = fs::metadata(path)?.modified()?;
            let mut file = File::options().write(true).open(path)?;
            file.write_all(b"new")?;
            Ok(file.set_times(FileTimes::new().set_modified(modified))?)
        },
        event: "changed",
        attribute: Some("content"),
        needs_root: false,
    },
    Change {
        name: "setuid",
        prepare: old_file,
        make: |path, _| Ok(fs::set_permissions(path, Permissions::from_mode(0o4755))?),
        event: "changed",
        attribute: Some("mode"),
        needs_root: false,
    },
    Change {
        name: "owner",
        prepare: old_file,
        make: |path, _| Ok(chown(path, Some(NOBODY), None)?),
        event: "changed",
        attribute: Some("owner"),
        needs_root: true,
    },
    Change {
        name: "replace",
        prepare: old_file,
        make: |path, _| {
            let temporary = path.with_extension("new");
            fs::write(&temporary, "another text\n")?;
            Ok(fs::rename(temporary, path)?)
        },
        event: "changed",
        attribute: Some("content"),
        needs_root: false,
    },
    Change {
        name: "move-in",
        prepare: |path, outside| old_file(outside, path),
        make: |path, outside| Ok(fs::rename(outside, path)?),
        event: "created",
        attribute: None,
        needs_root: false,
    },
    Change {
        name: "move-out",
        prepare: old_file,
        make: |path, outside| Ok(fs::rename(path, outside)?),
        event: "removed",
        attribute: None,
        needs_root: false,
    },
    Change {
        name: "add",
        prepare: nothing,
        make: |path, _| Ok(fs::write(path, "new\n")?),
        event: "created",
        attribute: None,
        needs_root: false,
    },
    Change {
        name: "delete",
        prepare: old_file,
        make: |path, _| Ok(fs::remove_file(path)?),
        event: "removed",
        attribute: None,
        needs_root: false,
    },
    Change {
        name: "retarget",
        prepare: |path, _| Ok(symlink("old-target", path)?),
        make: |path, _| {
            fs::remove_file(path)?;
            Ok(symlink("new-target", path)?)
        },
        event: "changed",
        attribute: Some("target"),
        needs_root: false,
    },
];

/// The changes that this process may make.
fn changes() -> impl Iterator<Item = &'static Change> {
    CHANGES.iter().filter(|change| is_root() || !change.needs_root)
}

/// A change that was made, and when.
struct Made {
    change: &'static Change,
    path: PathBuf,
    begun: Timestamp,
    done: Timestamp,
}

/// The tree, and all that was done to it.
struct Ground {
    watched: PathBuf,
    outside: PathBuf,
    made: Vec<Made>,
}

impl Ground {
    /// Makes the files for all rounds.
    fn prepare(bench: &Bench, name: &str) -> BenchResult<Self> {
        let watched = bench.path(&format!("downtime-{name}"));
        let outside = bench.path(&format!("downtime-{name}-outside"));
        fs::create_dir_all(&watched)?;
        fs::create_dir_all(&outside)?;
        let ground = Self { watched, outside, made: Vec::new() };
        for (round, change) in (0..bench.size.kills).flat_map(|round| changes().map(move |one| (round, one)))
        {
            let (path, outside) = ground.paths(round, change);
            (change.prepare)(&path, &outside)?;
        }
        Ok(ground)
    }

    fn paths(&self, round: usize, change: &Change) -> (PathBuf, PathBuf) {
        let name = format!("{round:03}-{}", change.name);
        (self.watched.join(&name), self.outside.join(name))
    }

    /// Makes the changes of one round.
    fn change(&mut self, round: usize) -> BenchResult<()> {
        for change in changes() {
            let (path, outside) = self.paths(round, change);
            let begun = Timestamp::now();
            (change.make)(&path, &outside)?;
            self.made.push(Made { change, path, begun, done: Timestamp::now() });
        }
        Ok(())
    }

    /// Compares all that was told with all that was done, and adds what is wrong to the report.
    fn judge(&self, who: &str, alerts: &[Alert], report: &mut Report) -> BenchResult<()> {
        let mut told_of: BTreeMap<PathBuf, Vec<Told>> = BTreeMap::new();
        let mut ids = HashSet::new();
        for alert in alerts {
            // The same id again is the same alert: that is how a repetition after a crash is known.
            if ids.insert(&alert.id) {
                let told = alert.told()?;
                told_of.entry(PathBuf::from(&told.path)).or_default().push(told);
            }
        }
        let (mut wrong, mut without_window) = (0, 0);
        for made in &self.made {
            let told = told_of.remove(&made.path).unwrap_or_default();
            match told.as_slice() {
                [one] if made.is_told_by(one) => without_window += u32::from(!made.is_in_window_of(one)),
                _ => wrong += 1,
            }
        }
        let others: usize = told_of.values().map(Vec::len).sum();
        let count = self.made.len();
        for (what, value) in [
            (format!("{who} killed: not told exactly once, of {count} changes"), f64::from(wrong)),
            (format!("{who} killed: told without the window of time"), f64::from(without_window)),
            (format!("{who} killed: alerts about anything else"), others as f64),
        ] {
            report.add(Measure::new("11", what, value, "").goal(Goal::AtMost(0.0)));
        }
        Ok(())
    }
}

impl Made {
    fn is_told_by(&self, told: &Told) -> bool {
        let named = |wanted: &str| told.attributes.iter().any(|attribute| attribute == wanted);
        told.event == self.change.event && self.change.attribute.is_none_or(named)
    }

    fn is_in_window_of(&self, told: &Told) -> bool {
        let time = |key: &str| told.window[key].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        let (Some(from), Some(to)) = (time("from"), time("to")) else { return false };
        from <= self.begun && self.done <= to
    }
}

pub(crate) fn measure(bench: &Bench, report: &mut Report) -> BenchResult<()> {
    for change in CHANGES.iter().filter(|change| change.needs_root && !is_root()) {
        let text = format!("{}: needs root", change.name);
        report.not_measured("11", &*Box::<dyn std::error::Error>::from(text));
    }
    kill_module(bench, report)?;
    kill_agent(bench, report)
}

fn kill_module(bench: &Bench, report: &mut Report) -> BenchResult<()> {
    let mut ground = Ground::prepare(bench, "module")?;
    let state = bench.path("downtime-module-state");
    let watched = ground.watched.clone();
    let mut keys = no_schedules();
    keys.insert("storm_changes".to_owned(), serde_json::json!(0));
    let start =
        || Module::ready(&Setup { watched: &watched, state: &state, keys: keys.clone(), heartbeats: true });
    let mut module = start()?;
    let mut alerts = module.alerts_until_quiet()?;
    for round in 0..bench.size.kills {
        module.kill()?;
        ground.change(round)?;
        module = start()?;
        alerts.extend(module.alerts_until_quiet()?);
    }
    ground.judge("module", &alerts, report)?;
    module.stop()
}

fn kill_agent(bench: &Bench, report: &mut Report) -> BenchResult<()> {
    let mut ground = Ground::prepare(bench, "agent")?;
    let keys = "quick_scan_minutes = 0\nrehash_days = 0\nstorm_changes = 0\n";
    let mut agent = Agent::new(&bench.path("downtime-agent-files"), &ground.watched, keys)?;
    let mut journal = Journal::default();
    agent.start()?;
    journal.read_until_quiet(&agent)?;
    for round in 0..bench.size.kills {
        agent.kill()?;
        ground.change(round)?;
        agent.start()?;
        journal.read_until_quiet(&agent)?;
    }
    ground.judge("agent", &journal.alerts, report)
}

/// What the journal has, and how far it was read.
#[derive(Default)]
struct Journal {
    alerts: Vec<Alert>,
    last: u64,
}

impl Journal {
    /// Reads the journal until nothing is left to be looked at and no record comes any more.
    fn read_until_quiet(&mut self, agent: &Agent) -> BenchResult<()> {
        let mut quiet = 0;
        while quiet < QUIET_LOOKS {
            let records = agent.journal(self.last)?;
            let is_done = records.is_empty() && agent.query(&serde_json::json!({}))?["pending"] == 0;
            quiet = if is_done { quiet + 1 } else { 0 };
            for record in records {
                self.last = self.last.max(record.seq);
                self.alerts.push(Alert {
                    at: tokio::time::Instant::now(),
                    // In the journal each record counts, whatever its id.
                    id: record.seq.to_string(),
                    message: record.message,
                });
            }
            pause(LOOK_TIME);
        }
        Ok(())
    }
}
