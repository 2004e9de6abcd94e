//! Whatever is done at random: whoever replays the alerts on the first state gets exactly the last.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};
use vigie_fswatch::change::Event;

use super::running::{Alert, Running, recursive, with_backend};

on_every_backend! {
    what_goes_from_a_directory_that_has_just_moved_is_told,
    the_alerts_lead_from_the_first_state_to_the_last,
    the_alerts_of_several_lives_lead_from_the_first_state_to_the_last,
}

/// What can be done to a small tree.
#[derive(Debug, Clone)]
enum Action {
    Write(u8, u8),
    Append(u8),
    Remove(u8),
    Rename(u8, u8),
    MakeDirectories(u8),
    RemoveTree(u8),
    MoveTree(u8, u8),
    Link(u8),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => (any::<u8>(), any::<u8>()).prop_map(|(file, text)| Action::Write(file, text)),
        1 => any::<u8>().prop_map(Action::Append),
        2 => any::<u8>().prop_map(Action::Remove),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(from, to)| Action::Rename(from, to)),
        2 => any::<u8>().prop_map(Action::MakeDirectories),
        1 => any::<u8>().prop_map(Action::RemoveTree),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(from, to)| Action::MoveTree(from, to)),
        1 => any::<u8>().prop_map(Action::Link),
    ]
}

fn directory_of(root: &Path, number: u8) -> PathBuf {
    [root.to_owned(), root.join("d"), root.join("d/e"), root.join("f")][usize::from(number) % 4].clone()
}

fn file_of(root: &Path, number: u8) -> PathBuf {
    directory_of(root, number).join(format!("file{}", number / 4 % 3))
}

/// Does it; what is not possible at the moment is left out.
fn perform(root: &Path, action: &Action) {
    let done = match action {
        Action::Write(file, text) => fs::write(file_of(root, *file), [*text]),
        Action::Append(file) => fs::OpenOptions::new()
            .append(true)
            .open(file_of(root, *file))
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"more")),
        Action::Remove(file) => fs::remove_file(file_of(root, *file)),
        Action::Rename(from, to) => fs::rename(file_of(root, *from), file_of(root, *to)),
        Action::MakeDirectories(number) => fs::create_dir_all(directory_of(root, *number)),
        Action::RemoveTree(number) if number % 4 != 0 => fs::remove_dir_all(directory_of(root, *number)),
        Action::MoveTree(from, to) if from % 4 != 0 && to % 4 != 0 => {
            fs::rename(directory_of(root, *from), directory_of(root, *to))
        }
        // A target that cannot be made by writing through the link.
        Action::Link(number) => symlink("/nonexistent/target", file_of(root, *number)),
        Action::RemoveTree(_) | Action::MoveTree(..) => Ok(()),
    };
    done.ok();
}

/// What an alert says that an object holds.
fn content(side: &Value) -> Option<String> {
    side.get("sha256").or(side.get("target")).and_then(Value::as_str).map(str::to_owned)
}

/// Every object of the tree and what it holds, by the words of the alerts.
fn state(root: &Path) -> BTreeMap<String, String> {
    use sha2::Digest;
    walkdir::WalkDir::new(root)
        .into_iter()
        .flatten()
        .filter(|item| !item.file_type().is_dir() && !item.file_name().to_string_lossy().starts_with('~'))
        .map(|item| {
            let content = if item.file_type().is_symlink() {
                fs::read_link(item.path()).unwrap().display().to_string()
            } else {
                let digest = sha2::Sha256::digest(fs::read(item.path()).unwrap());
                digest.iter().map(|byte| format!("{byte:02x}")).collect()
            };
            (item.path().display().to_string(), content)
        })
        .collect()
}

/// Does to a state what alerts tell; says which alert does not continue from the ones before.
fn replay(
    mut replayed: BTreeMap<String, String>,
    told: &[Alert],
) -> Result<BTreeMap<String, String>, String> {
    for alert in told.iter().filter(|alert| !alert.path.contains('~') && !alert.is_being_written()) {
        if let Some(from) = &alert.from {
            let (moved, stay): (BTreeMap<_, _>, _) =
                replayed.into_iter().partition(|(path, _)| Path::new(path).starts_with(from));
            replayed = stay;
            for (path, content) in moved {
                if replayed.insert(path.replacen(from, &alert.path, 1), content).is_some() {
                    return Err(format!("renamed to what was there: {alert:?}"));
                }
            }
        }
        let (before, after) = (content(&alert.before), content(&alert.after));
        let is_about_content = match alert.event {
            Event::Created | Event::Removed => alert.kind != "directory",
            // Otherwise only its metadata changed.
            Event::Changed => alert.kind != "directory" && (before.is_some() || after.is_some()),
            Event::Renamed => after.is_some(),
            _ => false,
        };
        if !is_about_content {
            continue;
        }
        if alert.event != Event::Renamed && replayed.get(&alert.path) != before.as_ref() {
            return Err(format!("does not continue from {:?}: {alert:?}", replayed.get(&alert.path)));
        }
        match after {
            Some(after) => replayed.insert(alert.path.clone(), after),
            None => replayed.remove(&alert.path),
        };
    }
    Ok(replayed)
}

/// The notification of what went can come when nobody knows any more, or yet, which directory it is about.
fn what_goes_from_a_directory_that_has_just_moved_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    for number in 0..200 {
        let directory = root.join(format!("from{number}"));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("goes"), "1").unwrap();
        fs::write(directory.join("stays"), "2").unwrap();
    }
    let before = state(root);
    let mut running = Running::on(&[&recursive(root)]);

    for number in 0..200 {
        let to = root.join(format!("to{number}"));
        fs::rename(root.join(format!("from{number}")), &to).unwrap();
        fs::remove_file(to.join("goes")).unwrap();
    }
    let told = running.told(root);

    assert_eq!(replay(before, &told).unwrap(), state(root));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    /// Whoever replays the alerts on what was there at the beginning gets exactly what is there at the end, and
    /// every alert continues from the one before.
    fn the_alerts_lead_from_the_first_state_to_the_last(
        before in proptest::collection::vec(action(), 0..12),
        during in proptest::collection::vec(action(), 1..40),
    ) {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        before.iter().for_each(|action| perform(root, action));
        let mut replayed = state(root);
        let mut running = Running::on(&[&recursive(root)]);

        during.iter().for_each(|action| perform(root, action));
        let told = running.told(root);

        replayed = replay(replayed, &told).map_err(TestCaseError::fail)?;
        prop_assert_eq!(replayed, state(root));
    }

    /// The same over several lives of the engine on one state directory, with changes while none runs, with lost
    /// notifications, and with lives that end in the middle of everything.
    fn the_alerts_of_several_lives_lead_from_the_first_state_to_the_last(
        before in proptest::collection::vec(action(), 0..12),
        lives in proptest::collection::vec(
            (
                proptest::collection::vec(action(), 0..12),
                proptest::collection::vec(action(), 0..12),
                any::<bool>(),
                any::<bool>(),
            ),
            1..4,
        ),
    ) {
        let temp = tempfile::tempdir().unwrap();
        let (root, kept) = (temp.path().join("watched"), temp.path().join("state"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&kept).unwrap();
        before.iter().for_each(|action| perform(&root, action));
        let mut replayed = state(&root);
        let config = json!({"paths": {"path": [recursive(&root)]}});
        // What was not acknowledged is sent again by the next life; the journal drops it.
        let mut journal = HashSet::new();
        let mut replay_new = |replayed, mut told: Vec<Alert>| {
            told.retain(|alert| journal.insert(alert.id.clone()));
            replay(replayed, &told).map_err(TestCaseError::fail)
        };

        for (while_it_runs, while_none_runs, lose, wait) in lives {
            let mut running = Running::keeping(Some(&kept), config.clone());
            let mut told = std::mem::take(&mut running.early);
            while_it_runs.iter().for_each(|action| perform(&root, action));
            if lose {
                running.mailbox.open().overflowed("a queue of the test overflowed");
            }
            if wait {
                told.extend(running.told(&root));
            }
            told.extend(running.stop_and_listen());
            replayed = replay_new(replayed, told)?;
            while_none_runs.iter().for_each(|action| perform(&root, action));
        }
        let mut last = Running::keeping(Some(&kept), config);
        let mut told = std::mem::take(&mut last.early);
        told.extend(last.told(&root));
        replayed = replay_new(replayed, told)?;

        replayed.retain(|path, _| !path.contains('~'));
        prop_assert_eq!(replayed, state(&root));
    }
}
