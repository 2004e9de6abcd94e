//! What changes on the host without a tracepoint of its own: mounts, modules of the kernel, BPF programs, the clock. It
//! is found by comparing what the kernel lists with what it listed before, so who did it is not known, but for the user
//! who loaded a BPF program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::record::Kind;

/// Time between two readings of the kernel's modules, in microseconds.
const MODULES_EVERY: i64 = 5_000_000;

/// The same for BPF programs: each is asked for on its own.
const PROGRAMS_EVERY: i64 = 60_000_000;

/// A jump of the clock from here on is a step, in microseconds. Who slews it moves it by less in a tenth of a second.
const STEP: i64 = 50_000;

/// Changes of one look that are told one by one; of more, the number is.
const MOST_AT_ONCE: usize = 200;

/// The mounts of the host, each by its number.
type Mounts = BTreeMap<u64, String>;

/// Changes, as kind and text.
pub(crate) type Changes = Vec<(Kind, String)>;

/// What was listed last.
#[derive(Debug, Default)]
pub(crate) struct HostWatch {
    mounts: Option<(File, Mounts)>,
    /// The mounts are those of our own namespace, because the first process's cannot be read.
    only_own: bool,
    modules: Option<BTreeSet<String>>,
    programs: Option<BTreeMap<u32, String>>,
    modules_due: i64,
    programs_due: i64,
}

/// Lines of a mount table (proc_pid_mountinfo(5)): number, and what is mounted where.
fn mounts_of(text: &str) -> Mounts {
    let line = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ');
        let number = before.next()?.parse().ok()?;
        let point = before.nth(3)?;
        let mut after = after.split(' ');
        let (kind, source) = (after.next()?, after.next()?);
        Some((number, format!("{kind} {source} at {point}")))
    };
    text.lines().filter_map(line).collect()
}

/// What came and what went.
fn differences<K: Ord>(
    before: &BTreeMap<K, String>,
    now: &BTreeMap<K, String>,
    kind: Kind,
    words: [&str; 2],
) -> Changes {
    let came =
        now.iter().filter(|(key, text)| before.get(key) != Some(text)).map(|(_, text)| (words[0], text));
    let went =
        before.iter().filter(|(key, text)| now.get(key) != Some(text)).map(|(_, text)| (words[1], text));
    let all: Vec<(&str, &String)> = went.chain(came).collect();
    let more = all.len().saturating_sub(MOST_AT_ONCE);
    let mut changes: Changes =
        all.into_iter().take(MOST_AT_ONCE).map(|(word, text)| (kind, format!("{word} {text}"))).collect();
    if more > 0 {
        changes.push((kind, format!("{more} more")));
    }
    changes
}

fn modules() -> Option<BTreeSet<String>> {
    let text = fs::read_to_string("/proc/modules").ok()?;
    Some(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

fn programs() -> Option<BTreeMap<u32, String>> {
    vigie_kernel_events::bpf_programs()
}

fn keyed(names: &BTreeSet<String>) -> BTreeMap<&str, String> {
    names.iter().map(|name| (name.as_str(), name.clone())).collect()
}

/// How far the host's clock was set, in microseconds, when what it differs by from the one since the start changed so.
pub(crate) fn clock_step(before: i64, after: i64) -> Option<i64> {
    Some(after - before).filter(|step| step.abs() >= STEP)
}

impl HostWatch {
    /// Learns what is there. `mounts` is the mount table of the process whose mounts are watched.
    pub(crate) fn begin(mounts: &Path) -> Self {
        let of_host = File::open(mounts);
        let only_own = of_host.is_err();
        let mounts = of_host.or_else(|_| File::open("/proc/self/mountinfo")).ok().and_then(|mut file| {
            let mut text = String::new();
            file.read_to_string(&mut text).ok()?;
            Some((file, mounts_of(&text)))
        });
        Self { mounts, only_own, modules: modules(), programs: programs(), modules_due: 0, programs_due: 0 }
    }

    /// What has changed since the last look.
    pub(crate) fn look(&mut self, now: i64) -> Changes {
        let mut changes = Changes::new();
        if let Some((file, known)) = &mut self.mounts
            && let Some(mounts) = changed_mounts(file)
        {
            changes.extend(differences(known, &mounts, Kind::Mount, ["mounted", "unmounted"]));
            *known = mounts;
        }
        let is_due = |due: &mut i64, every: i64| {
            let is = now >= *due || now < *due - every;
            if is {
                *due = now + every;
            }
            is
        };
        if is_due(&mut self.modules_due, MODULES_EVERY)
            && let (Some(known), Some(modules)) = (&mut self.modules, modules())
        {
            changes.extend(differences(
                &keyed(known),
                &keyed(&modules),
                Kind::Module,
                ["loaded", "unloaded"],
            ));
            *known = modules;
        }
        if is_due(&mut self.programs_due, PROGRAMS_EVERY)
            && let (Some(known), Some(programs)) = (&mut self.programs, programs())
        {
            changes.extend(differences(known, &programs, Kind::Bpf, ["loaded", "unloaded"]));
            *known = programs;
        }
        changes
    }

    /// What no source is here for.
    pub(crate) fn blind_spots(&self) -> Vec<&'static str> {
        let all = [
            (self.mounts.is_none(), "mounts: no mount table can be read"),
            (
                self.only_own,
                "mounts but in our own namespace: the first process's mount table cannot be read",
            ),
            (self.modules.is_none(), "modules of the kernel: there is no /proc/modules"),
            (self.programs.is_none(), "BPF programs: the kernel does not list them to us"),
        ];
        all.into_iter().filter(|(is_blind, _)| *is_blind).map(|(_, text)| text).collect()
    }
}

/// The mount table when the kernel says that it has changed.
fn changed_mounts(file: &mut File) -> Option<Mounts> {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::new(&*file, PollFlags::PRI)];
    if !poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0) {
        return None;
    }
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.read_to_string(&mut text).ok()?;
    Some(mounts_of(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_table_is_read_and_compared() {
        let before = mounts_of(
            "22 1 0:20 / /proc rw,nosuid shared:5 - proc proc rw\n30 1 0:30 / /a rw - tmpfs one rw\n",
        );
        let after = mounts_of(
            "22 1 0:20 / /proc rw,nosuid - proc proc rw\n31 1 0:31 / /b\\040c rw - tmpfs two rw\nodd\n",
        );

        let changes = differences(&before, &after, Kind::Mount, ["mounted", "unmounted"]);

        let expected = ["unmounted tmpfs one at /a", "mounted tmpfs two at /b\\040c"];
        assert_eq!(changes, expected.map(|text| (Kind::Mount, text.to_owned())));
    }

    #[test]
    fn many_changes_at_once_are_counted() {
        let many: Mounts = (0..1000).map(|number| (number, format!("tmpfs x at /{number}"))).collect();

        let changes = differences(&Mounts::new(), &many, Kind::Mount, ["mounted", "unmounted"]);

        assert_eq!(changes.len(), MOST_AT_ONCE + 1);
        assert_eq!(changes.last().unwrap().1, "800 more");
    }

    #[test]
    fn a_loaded_program_is_found_with_the_user_who_loaded_it() {
        let options = vigie_kernel_events::Options { ring_bytes: 64 * 1024, ..Default::default() };
        let first = match vigie_kernel_events::Source::open_bpf(&options) {
            Ok(source) => source,
            Err(error) => return vigie_skipped::without_bpf(error),
        };
        let mut watch = HostWatch::begin(Path::new("/proc/self/mountinfo"));
        let _second = vigie_kernel_events::Source::open_bpf(&options).expect("the first could be opened");
        drop(first);

        let changes = watch.look(0);

        let user = rustix::process::geteuid().as_raw();
        let told = |(kind, text): &(Kind, String)| {
            *kind == Kind::Bpf
                && text.starts_with("loaded on_exec")
                && text.ends_with(&format!("by user {user}"))
        };
        assert!(changes.iter().any(told), "{changes:?}");
    }

    #[test]
    fn a_set_clock_is_a_step_and_a_slewed_one_is_not() {
        assert_eq!(clock_step(1_000_000, 1_000_400), None);
        assert_eq!(clock_step(1_000_000, 4_600_000_000), Some(4_599_000_000));
        assert_eq!(clock_step(1_000_000, 900_000), Some(-100_000));
    }
}
