//! Less is seen than before: the configuration leaves out what was watched, or something is mounted over it. Whoever
//! wants to hide begins with that, so it is told.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use vigie_host::mounts::{Mount, Mounts};

use super::orders::listed;
use super::{Engine, Sink, now, text_of_time};
use crate::change::{Alert, notice, shown};
use crate::events::Happened;
use crate::ledger::Entry;
use crate::rules::{Coverage, Rules, Severity};

/// Time in which changes without a writer below a point count as those of the mount.
const OF_THE_MOUNT: Duration = Duration::from_secs(30);

/// Points that are remembered.
const MAX_POINTS: usize = 256;

/// Where something was mounted or unmounted lately.
#[derive(Debug, Default)]
pub(super) struct MountedLately(Vec<(PathBuf, Instant)>);

/// What was covered before other rules came, and how many objects are covered only since then.
#[derive(Debug, Default)]
pub(super) struct Widening {
    before: Option<Arc<Coverage>>,
    count: usize,
}

impl Widening {
    /// Other rules apply from now on, until everything was looked at by them.
    pub(super) fn begin(&mut self, before: Arc<Coverage>) {
        let had_rules = !before.rules().entries().is_empty();
        *self = Self { before: Some(before).filter(|_| had_rules), count: 0 };
    }

    /// Whether a scan finds something because only the new rules cover it: nobody can say when that came.
    pub(super) fn explains(&mut self, path: &Path, happened: &Happened) -> bool {
        let is_new = |before: &Arc<Coverage>| before.options(path).is_none();
        let explains = happened.window.is_some() && self.before.as_ref().is_some_and(is_new);
        self.count += usize::from(explains);
        explains
    }
}

/// What happened at a point, in words; `None` when the same is mounted there.
fn what_happened(point: &Path, before: &Mounts, after: &Mounts, is_same: bool) -> Option<String> {
    let at = |mounts: &Mounts| mounts.iter().filter(|mount| mount.point == point).last().cloned();
    let number = |mounts: &Mounts| mounts.iter().filter(|mount| mount.point == point).count();
    let is = |mount: &Mount| {
        let part = if mount.root == Path::new("/") {
            String::new()
        } else {
            format!(", its {}", shown(&mount.root))
        };
        let (major, minor) = (rustix::fs::major(mount.device), rustix::fs::minor(mount.device));
        format!("{} (device {major}:{minor}{part})", mount.kind)
    };
    let point = shown(point);
    match (at(before), at(after)) {
        (None, Some(now)) => Some(format!("{} was mounted over {point}", is(&now))),
        (Some(was), None) => Some(format!("{point} was unmounted; it was {}", is(&was))),
        (Some(was), Some(now)) if was != now && !is_same || number(before) != number(after) => {
            Some(format!("{} was mounted over {point} instead of {}", is(&now), is(&was)))
        }
        _ => None,
    }
}

/// Entries that were learned and are not configured any more.
fn lost(learned: &BTreeSet<String>, rules: &Rules) -> Vec<String> {
    let configured: BTreeSet<String> = rules.entries().into_iter().collect();
    learned.difference(&configured).cloned().collect()
}

impl<S: Sink> Engine<S> {
    /// Tells what other rules leave out. `before` is the number of objects that were known.
    pub(super) fn tell_narrowing(&mut self, rules: &Rules, before: usize) {
        let lost = lost(&self.learned, rules);
        let forgotten = before.saturating_sub(self.ledger.state().baseline.len());
        if lost.is_empty() && forgotten == 0 {
            return;
        }
        let entries = if lost.is_empty() {
            "more is excluded".to_owned()
        } else {
            format!("no longer {}", listed(&lost))
        };
        let text = format!(
            "the configuration watches less: {entries}; {forgotten} known objects are forgotten, and changes of them \
             are not told any more"
        );
        self.tell_notice(Path::new("/"), text, Severity::High, None);
    }

    /// Everything was looked at by the new rules: tells what they cover beside what was covered.
    pub(super) fn tell_widening(&mut self) {
        let Widening { count, .. } = std::mem::take(&mut self.widening);
        if count > 0 {
            let text = format!(
                "the configuration watches more: {count} objects that it left out before are known from now on; what \
                 happened to them until now is not known"
            );
            self.tell_notice(Path::new("/"), text, Severity::Low, None);
        }
    }

    /// Reports what was known and what no entry leads to any more, although they are the same. What was behind a way of
    /// which is said that it leads elsewhere is not among it.
    pub(super) fn tell_forgotten(&mut self, count: usize, samples: &[PathBuf]) {
        let Some(first) = samples.first() else { return };
        let named: Vec<String> = samples.iter().map(|path| shown(path)).collect();
        let text = format!(
            "{count} known objects are forgotten, such as {}: the entries do not lead to them any more, as when a link \
             on the way leads elsewhere; what is there now instead is reported as new",
            listed(&named)
        );
        self.sink.log(&text);
        let told = notice(shown(first), text, &text_of_time(SystemTime::now()));
        self.tell(Entry::default(), vec![Alert { severity: Severity::High, ..told }]);
    }

    /// Tells what was mounted or unmounted at a watched place.
    pub(super) fn tell_mount(&mut self, point: &Path, before: &Mounts) {
        let is_watched = self.coverage.descends(point) || self.coverage.options(point).is_some();
        let exchanged = self
            .watching
            .is_exchanged(point)
            .then(|| format!("another file system of the same type was mounted over {}", shown(point)));
        let is_same = self.watching.is_same(point);
        let what = what_happened(point, before, self.watching.mounts(), is_same).or(exchanged);
        let Some(what) = what.filter(|_| is_watched) else { return };
        let now = now();
        self.mounted.0.retain(|(_, at)| now.duration_since(*at) < OF_THE_MOUNT);
        if self.mounted.0.len() < MAX_POINTS {
            self.mounted.0.push((point.to_owned(), now));
        }
        let text = match self.watching.avoided().why(point) {
            Some(why) => format!("{what}: {why}"),
            None => format!("{what}: other files are visible there; the differences are reported"),
        };
        self.tell_notice(point, text, Severity::High, None);
    }

    /// Says of a change that nobody made that it is a mount.
    pub(super) fn explain_by_mount(&self, alert: &mut Alert, path: &Path) {
        if self.mounted.0.is_empty() || !alert.process.is_null() {
            return;
        }
        let now = now();
        let is_of = |(point, at): &&(PathBuf, Instant)| {
            path.starts_with(point) && now.duration_since(*at) < OF_THE_MOUNT
        };
        if let Some((point, _)) = self.mounted.0.iter().find(is_of) {
            alert.alert = format!("caused by the mount at {}: {}", shown(point), alert.alert);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_told_by_what_it_hides() {
        let root = "22 1 254:0 / / rw - ext4 /dev/vda rw\n";
        let tmpfs = "40 22 0:40 / /etc rw - tmpfs tmpfs rw\n";
        let bind = "41 22 254:0 /srv/etc /etc rw - ext4 /dev/vda rw\n";
        let mounts = |lines: &[&str]| Mounts::parse(lines.concat().as_bytes());
        let what = |before: &[&str], after: &[&str]| {
            what_happened(Path::new("/etc"), &mounts(before), &mounts(after), false)
        };

        assert_eq!(what(&[root], &[root, tmpfs]).unwrap(), "tmpfs (device 0:40) was mounted over /etc");
        assert_eq!(what(&[root, tmpfs], &[root]).unwrap(), "/etc was unmounted; it was tmpfs (device 0:40)");
        assert_eq!(
            what(&[root, tmpfs], &[root, tmpfs, bind]).unwrap(),
            "ext4 (device 254:0, its /srv/etc) was mounted over /etc instead of tmpfs (device 0:40)"
        );
        assert_eq!(what(&[root, tmpfs], &[root, tmpfs]), None);
    }
}
