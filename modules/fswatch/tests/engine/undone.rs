//! What is as it was, and was something else in between; and what only seems to be new or another one.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::mount::MsFlags;
use serde_json::json;
use vigie_fswatch::change::Event;

use super::running::{Alert, Running, recursive, texts, with_backend};
use super::who::{mount_at, own_mounts, uses_fanotify};

on_every_backend! {
    a_file_that_gives_way_to_another_and_to_its_own_copy_is_reported,
    a_link_that_is_turned_and_turned_back_is_reported,
    a_way_that_leads_elsewhere_and_back_is_reported,
    what_comes_back_as_another_one_matters_like_a_change,
    what_is_no_longer_excluded_is_not_reported_as_created,
}

/// Puts a file or link in the place of another one at once.
fn replace(path: &Path, make: impl FnOnce(&Path)) {
    let new = path.with_extension("new");
    make(&new);
    fs::rename(new, path).unwrap();
}

fn touched(alerts: &[Alert], path: &Path) -> Option<Alert> {
    alerts.iter().find(|alert| alert.event == Event::Touched && alert.path == path.to_str().unwrap()).cloned()
}

fn a_file_that_gives_way_to_another_and_to_its_own_copy_is_reported() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("conf");
    fs::write(&file, "good").unwrap();
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    let copy = |new: &Path| {
        fs::write(new, "good").unwrap();
        File::options().write(true).open(new).unwrap().set_modified(modified).unwrap();
    };
    let config = json!({"paths": {"path": [file]}});
    let mut running = Running::settling(config, 500);

    replace(&file, |new| fs::write(new, "evil").unwrap());
    replace(&file, copy);
    let twice = running.next(|_| true);
    // A package that is installed again does this.
    replace(&file, copy);
    fs::write(&file, "mark").unwrap();
    let once = running.next(|_| true);

    assert_eq!((twice.event, twice.path.as_str()), (Event::Touched, file.to_str().unwrap()), "{twice:?}");
    assert!(twice.severity == "medium" && twice.alert.contains("replaced more than once"), "{twice:?}");
    assert_eq!(once.event, Event::Changed, "{once:?}");
    running.watch(&[file.to_str().unwrap()]);
}

fn a_link_that_is_turned_and_turned_back_is_reported() {
    let temp = tempfile::tempdir().unwrap();
    let link = temp.path().join("link");
    symlink("/etc/hosts", &link).unwrap();
    let mut running = Running::settling(json!({"paths": {"path": [recursive(temp.path())]}}), 500);

    replace(&link, |new| symlink("/tmp/evil", new).unwrap());
    replace(&link, |new| symlink("/etc/hosts", new).unwrap());
    let told = running.told(temp.path());

    let told = touched(&told, &link).unwrap_or_else(|| panic!("{told:?}"));
    assert_eq!(told.severity, "medium");
}

fn a_way_that_leads_elsewhere_and_back_is_reported() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    for version in ["v1", "v2"] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("conf"), version).unwrap();
    }
    symlink("v1", at("app")).unwrap();
    let running = Running::on(&[at("app/conf").to_str().unwrap()]);

    for number in 0..5 {
        replace(&at("app"), |new| symlink("v2", new).unwrap());
        replace(&at("app"), |new| symlink("v1", new).unwrap());
        let told = running.soon(|alert| alert.event == Event::Notice);
        let is_it = ["leads elsewhere now", "was replaced more than once"];
        assert!(is_it.iter().any(|text| told.alert.contains(text)), "round {number}: {told:?}");
    }
}

fn what_comes_back_as_another_one_matters_like_a_change() {
    if !vigie_skipped::is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let (directory, away) = (temp.path().join("d"), other.path().join("d"));
    fs::create_dir(&directory).unwrap();
    for name in ["a", "b"] {
        fs::write(directory.join(name), "good").unwrap();
    }
    let mut running = Running::on(&[&recursive(temp.path())]);

    fs::rename(&directory, &away).unwrap();
    let gone = running.told(temp.path());
    fs::write(away.join("a"), "evil").unwrap();
    fs::rename(&away, &directory).unwrap();
    let back = running.told(temp.path());

    assert_eq!(gone.len(), 3, "{gone:?}");
    let of = |name: &str| back.iter().find(|alert| Path::new(&alert.path) == directory.join(name)).unwrap();
    assert_eq!((of("a").event, of("a").severity.as_str()), (Event::Created, "critical"), "{back:?}");
    assert!(of("a").alert.contains("signature changed") && of("a").before.is_null(), "{back:?}");
    assert_eq!(of("b").severity, "medium", "{back:?}");
}

fn what_is_no_longer_excluded_is_not_reported_as_created() {
    let temp = tempfile::tempdir().unwrap();
    for name in ["kept", "left"] {
        fs::write(temp.path().join(name), name).unwrap();
    }
    let entry = recursive(temp.path());
    let mut running = Running::configured(json!({"paths": {"path": [entry], "exclude": ["left"]}}));

    running.watch(&[&entry]);
    let told = std::mem::take(&mut running.early);
    fs::write(temp.path().join("left"), "changed").unwrap();
    let later = running.told(temp.path());

    assert!(told.iter().all(|alert| alert.event == Event::Notice), "{told:?}");
    assert!(told.iter().any(|alert| alert.alert.contains("watches more: 1 objects")), "{told:?}");
    assert_eq!(texts(&later, temp.path()), ["changed left"]);
}

#[test]
fn a_bound_directory_whose_source_gets_another_name_is_not_mounted_anew() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    for name in ["source", "bound", "over"] {
        fs::create_dir(at(name)).unwrap();
    }
    fs::write(at("source/a"), "1").unwrap();
    if !own_mounts() || !mount_at(at("source").to_str().unwrap(), None, &at("bound"), MsFlags::MS_BIND, None)
    {
        return;
    }
    let running = Running::on(&[&recursive(&at("bound")), &recursive(&at("over"))]);
    if !uses_fanotify(&running) {
        return;
    }

    fs::rename(at("source"), at("elsewhere")).unwrap();
    // The mount table is read again at the next change of it.
    assert!(mount_at("tmpfs", Some("tmpfs"), &at("over"), MsFlags::empty(), None));
    let told = running.soon(|alert| alert.path == at("over").to_str().unwrap());
    fs::write(at("bound/a"), "2").unwrap();
    let next = running.next(|alert| alert.path.contains("/bound"));

    assert!(told.alert.contains("was mounted over"), "{told:?}");
    assert_eq!(
        (next.event, next.path.as_str()),
        (Event::Changed, at("bound/a").to_str().unwrap()),
        "{next:?}"
    );
}
