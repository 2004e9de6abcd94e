//! Ways that lead elsewhere than before: what is there is compared with what was known under the configured name, and
//! nothing behind a link is out of sight.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, umount2};
use serde_json::json;
use vigie_fswatch::change::Event;
use vigie_fswatch::engine::{Order, Status};

use super::running::{Alert, Running, recursive, with_backend};
use super::who::{mount_at, own_mounts};

on_every_backend! {
    a_directory_on_the_way_that_becomes_a_link_leads_to_what_is_compared_and_watched,
    a_link_below_wildcards_is_followed_and_so_are_its_new_targets,
    a_link_in_a_chain_that_leads_elsewhere_is_found,
    the_file_that_wildcards_match_may_become_a_link,
    what_is_behind_a_followed_link_is_known_after_a_restart,
    a_way_that_led_elsewhere_when_nobody_watched_is_reported,
    a_link_of_a_user_leads_only_to_what_is_his,
    a_link_of_a_user_takes_nothing_out_of_the_rules,
    a_link_of_a_user_brings_no_weaker_rule,
    a_large_tree_behind_a_way_that_flips_twice_stays_known,
    what_a_link_of_root_takes_out_of_the_rules_is_named,
    what_has_no_rule_where_a_way_leads_now_is_named_when_it_is_forgotten,
    what_another_entry_covers_stays_known_when_a_large_way_leads_elsewhere,
    a_link_whose_target_is_exchanged_for_anothers_is_named_and_followed_again,
    a_fuse_mount_of_a_user_whose_program_does_not_answer_keeps_nobody_waiting,
    a_fuse_mount_that_moves_with_its_directory_keeps_nobody_waiting,
    what_happens_below_a_fuse_mount_that_hides_it_keeps_nobody_waiting,
    of_a_link_that_a_user_turns_all_the_time_the_last_target_is_compared,
}

fn make(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn leads_elsewhere(alert: &Alert) -> bool {
    alert.event == Event::Notice && alert.alert.contains(" leads elsewhere now: ")
}

fn is_at(path: &Path) -> impl Fn(&Alert) -> bool {
    move |alert| alert.path == path.to_str().unwrap() && alert.event != Event::Notice
}

/// Both in any order.
fn elsewhere_and_at(running: &Running, path: &Path) -> (Alert, Alert) {
    let (mut notice, mut told) = (None, None);
    while notice.is_none() || told.is_none() {
        let alert = running.soon(|_| true);
        if leads_elsewhere(&alert) {
            notice = Some(alert);
        } else if is_at(path)(&alert) {
            told = Some(alert);
        }
    }
    (notice.unwrap(), told.unwrap())
}

fn a_directory_on_the_way_that_becomes_a_link_leads_to_what_is_compared_and_watched() {
    let temp = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    make(&at("etc/ssh/sshd_config"), "good");
    make(&at("lib/systemd/good.service"), "good");
    make(&at("etc/ssh3/sshd_config"), "evil");
    make(&other.path().join("systemd/evil.service"), "evil");
    let config = at("etc/ssh/sshd_config");
    let running = Running::on(&[config.to_str().unwrap(), &recursive(&at("lib/systemd"))]);

    fs::rename(at("etc/ssh"), at("etc/ssh2")).unwrap();
    symlink("ssh3", at("etc/ssh")).unwrap();
    let (notice, told) = elsewhere_and_at(&running, &at("etc/ssh3/sshd_config"));
    fs::write(at("etc/ssh3/sshd_config"), "worse").unwrap();
    let written = running.soon(is_at(&at("etc/ssh3/sshd_config")));
    fs::rename(at("lib"), at("lib.old")).unwrap();
    symlink(other.path(), at("lib")).unwrap();
    elsewhere_and_at(&running, &other.path().join("systemd/evil.service"));
    let explained = running.ask(|answer| Order::Explain(config.clone(), answer));

    assert_eq!(notice.path, config.to_str().unwrap());
    assert!(notice.alert.contains("ssh3/sshd_config"), "{notice:?}");
    assert!(["high", "critical"].contains(&notice.severity.as_str()), "{notice:?}");
    assert!([Event::Changed, Event::Created].contains(&told.event), "{told:?}");
    assert_eq!(written.event, Event::Changed, "{written:?}");
    assert_eq!(explained["watched"], true, "{explained}");
}

fn a_link_below_wildcards_is_followed_and_so_are_its_new_targets() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join("home/ann").join(name);
    make(&at(".ssh/authorized_keys"), "good");
    let running = Running::on(&[temp.path().join("home/*/.ssh/authorized_keys").to_str().unwrap()]);

    make(&at("k/authorized_keys"), "evil");
    fs::rename(at(".ssh"), at(".old")).unwrap();
    symlink("k", at(".ssh")).unwrap();
    let (notice, _) = elsewhere_and_at(&running, &at("k/authorized_keys"));
    fs::write(at("k/authorized_keys"), "worse").unwrap();
    let written = running.soon(is_at(&at("k/authorized_keys")));
    make(&at("k2/authorized_keys"), "another");
    symlink("k2", at("new")).unwrap();
    fs::rename(at("new"), at(".ssh")).unwrap();
    let (again, retargeted) = elsewhere_and_at(&running, &at("k2/authorized_keys"));
    let asked = vec![at(".ssh/authorized_keys")];
    let rescanned = running.ask(|done| Order::Rescan { paths: asked.clone(), prove: true, done });

    assert_eq!(notice.path, at(".ssh").to_str().unwrap());
    assert_eq!(written.event, Event::Changed, "{written:?}");
    assert!(again.alert.contains("k2 instead of"), "{again:?}");
    assert_eq!(retargeted.event, Event::Changed, "compared with what was known: {retargeted:?}");
    assert!(rescanned["rescanned"] == true && rescanned["not_watched"].is_null(), "{rescanned}");
}

fn a_link_in_a_chain_that_leads_elsewhere_is_found() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    make(&at("one/file"), "good");
    make(&at("two/file"), "evil");
    for directory in ["a", "b"] {
        fs::create_dir(at(directory)).unwrap();
    }
    symlink(at("one"), at("b/second")).unwrap();
    symlink(at("b/second"), at("a/first")).unwrap();
    let running = Running::on(&[at("a/first/file").to_str().unwrap()]);

    symlink(at("two"), at("b/new")).unwrap();
    fs::rename(at("b/new"), at("b/second")).unwrap();
    let (_, told) = elsewhere_and_at(&running, &at("two/file"));

    assert_eq!((told.event, told.attributes[0].as_str()), (Event::Changed, "content"), "{told:?}");
}

fn the_file_that_wildcards_match_may_become_a_link() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join("home/ann").join(name);
    make(&at(".ssh/authorized_keys"), "good");
    make(&at("elsewhere"), "evil");
    let running = Running::on(&[temp.path().join("home/*/.ssh/authorized_keys").to_str().unwrap()]);

    symlink("../elsewhere", at(".ssh/new")).unwrap();
    fs::rename(at(".ssh/new"), at(".ssh/authorized_keys")).unwrap();
    running.soon(is_at(&at("elsewhere")));
    fs::write(at("elsewhere"), "worse").unwrap();
    let written = running.soon(is_at(&at("elsewhere")));

    assert_eq!(written.event, Event::Changed, "{written:?}");
}

fn what_is_behind_a_followed_link_is_known_after_a_restart() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join("home/ann").join(name);
    let state = temp.path().join("state");
    fs::create_dir(&state).unwrap();
    make(&at("k/authorized_keys"), "good");
    symlink("k", at(".ssh")).unwrap();
    let config = json!({"paths": {"path": [temp.path().join("home/*/.ssh/authorized_keys")]}});
    let running = Running::keeping(Some(&state), config.clone());
    assert_eq!(running.early, []);
    assert_eq!(running.status.get().objects, 1);
    running.stop();
    let running = Running::keeping(Some(&state), config.clone());
    assert_eq!(running.early, [], "nothing happened meanwhile");
    running.stop();

    fs::write(at("k/authorized_keys"), "evil").unwrap();
    let running = Running::keeping(Some(&state), config);
    let told = running.early.first().cloned().unwrap_or_else(|| running.next(|_| true));

    assert_eq!((told.event, told.attributes[0].as_str()), (Event::Changed, "content"), "{told:?}");
}

fn a_way_that_led_elsewhere_when_nobody_watched_is_reported() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    let state = at("state");
    fs::create_dir(&state).unwrap();
    make(&at("v1/conf"), "good");
    make(&at("v2/conf"), "evil");
    symlink("v1", at("app")).unwrap();
    let config = json!({"paths": {"path": [at("app/conf")]}});
    Running::keeping(Some(&state), config.clone()).stop();

    fs::remove_file(at("app")).unwrap();
    symlink("v2", at("app")).unwrap();
    let running = Running::keeping(Some(&state), config);
    let is_it = |alert: &Alert| alert.alert.contains("known objects are forgotten");
    let told = running.early.iter().find(|alert| is_it(alert)).cloned();
    let told = told.unwrap_or_else(|| running.soon(is_it));

    assert!(told.alert.contains(at("v1/conf").to_str().unwrap()), "{told:?}");
}

fn a_link_of_a_user_leads_only_to_what_is_his() {
    if !vigie_skipped::is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    make(&at("secret/file"), "of root");
    make(&at("keys/file"), "of the user");
    std::os::unix::fs::chown(at("keys"), Some(65534), None).unwrap();
    for (user, target) in [("ann", "secret"), ("bob", "keys")] {
        fs::create_dir_all(at("home").join(user)).unwrap();
        let link = at("home").join(user).join(".ssh");
        symlink(at(target), &link).unwrap();
        std::os::unix::fs::lchown(&link, Some(65534), None).unwrap();
    }
    let running = Running::on(&[&recursive(&at("home/*/.ssh"))]);
    let rescanned = |path: &str| {
        let paths = vec![at(path)];
        running.ask(|done| Order::Rescan { paths: paths.clone(), prove: false, done })
    };

    assert_eq!(rescanned("secret/file")["not_watched"], json!([at("secret/file")]));
    assert!(rescanned("keys/file")["not_watched"].is_null());
    let status = running.status.get();
    assert!(status.unwatched.keys().any(|path| *path == at("home/ann/.ssh")), "{:?}", status.unwatched);
}

/// A user that has no account.
const USER: u32 = 54_321;

/// `etc/cron.d/job` is root's, `home/ann` a user's; none without root.
fn root_and_ann() -> Option<tempfile::TempDir> {
    if !vigie_skipped::is_root() {
        return None;
    }
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    make(&at("etc/cron.d/job"), "good");
    make(&at("home/ann/cache/file"), "of the cache");
    for name in ["home/ann", "home/ann/cache", "home/ann/cache/file"] {
        chown(at(name), Some(USER), None).unwrap();
    }
    Some(temp)
}

/// As ann: her directory `cache` becomes a link, and she touches what it is in.
fn exchange_cache(temp: &Path, target: &str) {
    let cache = temp.join("home/ann/cache");
    fs::remove_dir_all(&cache).unwrap();
    symlink(temp.join(target), &cache).unwrap();
    lchown(&cache, Some(USER), None).unwrap();
    fs::set_permissions(temp.join("home/ann"), PermissionsExt::from_mode(0o701)).unwrap();
}

/// Two releases with so many files that they are moved in slices, and a link to the first.
fn releases() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    for (release, text) in [("r1", "good"), ("r2", "other")] {
        let at = temp.path().join(release).join("tree");
        fs::create_dir_all(at.join("sub")).unwrap();
        for number in 0..FILES {
            fs::write(at.join(number.to_string()), text).unwrap();
        }
        fs::write(at.join("sub/file"), text).unwrap();
    }
    symlink("r1", temp.path().join("current")).unwrap();
    temp
}

const FILES: usize = 1_500;

fn lead(temp: &Path, release: &str) {
    symlink(release, temp.join("new")).unwrap();
    fs::rename(temp.join("new"), temp.join("current")).unwrap();
}

fn came_or_went(told: &[Alert]) -> Vec<&Alert> {
    told.iter()
        .filter(|alert| {
            [Event::Created, Event::Removed].contains(&alert.event) && !alert.path.ends_with("/new")
        })
        .collect()
}

fn a_large_tree_behind_a_way_that_flips_twice_stays_known() {
    let temp = releases();
    let tree = temp.path().join("current/tree");
    let mut running = Running::on(&[&recursive(&tree)]);

    // While the engine reports the first time, before anything of the tree was moved, the way leads back.
    let way = std::sync::Arc::clone(&running.way);
    let held = way.lock().unwrap();
    lead(temp.path(), "r2");
    running.logged(|text| text.contains(" leads elsewhere now: "));
    lead(temp.path(), "r1");
    drop(held);
    running.soon(|alert| leads_elsewhere(alert) && alert.alert.contains("r1/tree instead of"));
    fs::write(temp.path().join("r1/tree/7"), "evil").unwrap();
    let told = running.told(&temp.path().join("r1/tree"));

    assert_eq!(came_or_went(&told), Vec::<&Alert>::new());
    let written = told.iter().find(|alert| is_at(&temp.path().join("r1/tree/7"))(alert)).unwrap();
    assert!(written.event == Event::Changed && written.before["sha256"].is_string(), "{written:?}");
    assert!(!told.iter().any(|alert| alert.alert.contains("are forgotten")), "{told:?}");
}

fn what_another_entry_covers_stays_known_when_a_large_way_leads_elsewhere() {
    let temp = releases();
    let (tree, sub) = (temp.path().join("current/tree"), temp.path().join("r1/tree/sub"));
    let mut running = Running::on(&[&recursive(&tree), &recursive(&sub)]);

    lead(temp.path(), "r2");
    running.soon(leads_elsewhere);
    let mut told = running.told(&temp.path().join("r2/tree"));
    fs::write(sub.join("file"), "evil").unwrap();
    told.extend(running.told(&sub));

    assert_eq!(came_or_went(&told), Vec::<&Alert>::new());
    let changed = told.iter().filter(|alert| alert.event == Event::Changed && alert.path.contains("/r2/"));
    assert_eq!(changed.filter(|alert| alert.kind == "file").count(), FILES + 1);
    let written = told.iter().find(|alert| is_at(&sub.join("file"))(alert)).unwrap();
    assert!(written.event == Event::Changed && written.before["sha256"].is_string(), "{written:?}");
}

fn a_link_whose_target_is_exchanged_for_anothers_is_named_and_followed_again() {
    if !vigie_skipped::is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    make(&at("keys/ann/authorized_keys"), "good");
    fs::create_dir_all(at("home/ann")).unwrap();
    let link = at("home/ann/.ssh");
    symlink(at("keys/ann"), &link).unwrap();
    chown(at("keys/ann"), Some(USER), None).unwrap();
    lchown(&link, Some(USER), None).unwrap();
    let running = Running::on(&[&recursive(&at("home/*/.ssh"))]);
    let is_named = |status: &Status| status.unwatched.keys().any(|path| *path == link);

    fs::rename(at("keys/ann"), at("keys/old")).unwrap();
    make(&at("keys/ann/authorized_keys"), "evil");
    let notice = running.soon(leads_elsewhere);
    running.status_when(is_named);
    chown(at("keys/ann"), Some(USER), None).unwrap();
    running.status_when(|status| !is_named(status));
    running.soon(is_at(&at("keys/ann/authorized_keys")));
    fs::write(at("keys/ann/authorized_keys"), "worse").unwrap();
    let written = running.soon(is_at(&at("keys/ann/authorized_keys")));

    assert!(notice.alert.contains("which is not his, is not followed"), "{notice:?}");
    assert_eq!(written.event, Event::Changed, "{written:?}");
}

fn a_link_of_a_user_takes_nothing_out_of_the_rules() {
    let Some(temp) = root_and_ann() else { return };
    let at = |name: &str| temp.path().join(name);
    let running = Running::configured(json!({"paths": {
        "path": [recursive(&at("etc")), recursive(&at("home/ann"))],
        "exclude": [at("home/ann/cache")],
    }}));

    exchange_cache(temp.path(), "etc/cron.d");
    running.soon(is_at(&at("home/ann")));
    fs::write(at("etc/cron.d/job"), "evil").unwrap();
    let told = running.soon(is_at(&at("etc/cron.d/job")));
    let explained = running.ask(|answer| Order::Explain(at("home/ann/cache"), answer));

    assert_eq!((told.event, told.attributes[0].as_str()), (Event::Changed, "content"), "{told:?}");
    assert_eq!(explained["watched"], true, "it leads to what is watched: {explained}");
}

fn what_a_link_of_root_takes_out_of_the_rules_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    make(&at("etc/cron.d/job"), "good");
    make(&at("etc/spool/file"), "good");
    symlink("spool", at("etc/left-out")).unwrap();
    if !vigie_skipped::is_root() {
        return;
    }
    let running = Running::configured(json!({"paths": {
        "path": [recursive(&at("etc"))],
        "exclude": [at("etc/left-out/**")],
    }}));

    symlink("cron.d", at("etc/new")).unwrap();
    fs::rename(at("etc/new"), at("etc/left-out")).unwrap();
    fs::set_permissions(at("etc"), PermissionsExt::from_mode(0o701)).unwrap();
    let told = running.next(|alert| alert.alert.contains("known objects are forgotten"));

    assert!(told.alert.contains(at("etc/cron.d/job").to_str().unwrap()), "{told:?}");
    assert_eq!(told.severity, "high");
}

fn what_has_no_rule_where_a_way_leads_now_is_named_when_it_is_forgotten() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    make(&at("one/kept/file"), "good");
    make(&at("one/spool/file"), "good");
    make(&at("two/kept/file"), "good");
    make(&at("two/spool/file"), "good");
    symlink("one", at("current")).unwrap();
    let running = Running::configured(json!({"paths": {
        "path": [recursive(&at("current"))],
        "exclude": [at("two/spool/**")],
    }}));

    symlink("two", at("new")).unwrap();
    fs::rename(at("new"), at("current")).unwrap();
    let told = running.next(|alert| alert.alert.contains("known objects are forgotten"));

    assert!(told.alert.contains(at("one/spool").to_str().unwrap()), "{told:?}");
}

/// The entry of root's own path counts, although the link makes another one seem nearer.
fn a_link_of_a_user_brings_no_weaker_rule() {
    let Some(temp) = root_and_ann() else { return };
    let at = |name: &str| temp.path().join(name);
    let running = Running::configured(json!({"paths": {
        "path": [recursive(&at("etc")), recursive(&at("home/ann"))],
        "groups": [{"name": "unread", "path": [recursive(&at("home/ann/cache"))], "hash": false}],
    }}));

    exchange_cache(temp.path(), "etc/cron.d");
    running.soon(is_at(&at("home/ann")));
    fs::write(at("etc/cron.d/job"), "evil").unwrap();
    let told = running.soon(is_at(&at("etc/cron.d/job")));

    assert_eq!((told.rule, told.attributes[0].as_str()), (recursive(&at("etc")), "content"));
}

/// Mounts a FUSE file system of a user of which nobody reads the requests, so that each look at it waits until the
/// server that this gives is dropped.
fn mount_silent(point: &Path) -> Option<fs::File> {
    let Ok(server) = fs::File::options().read(true).write(true).open("/dev/fuse") else {
        vigie_skipped::skipped("no /dev/fuse");
        return None;
    };
    let options = format!("fd={},rootmode=40000,user_id=54321,group_id=0,allow_other", server.as_raw_fd());
    mount_at("hang", Some("fuse.hang"), point, MsFlags::empty(), Some(&options)).then_some(server)
}

fn a_fuse_mount_of_a_user_whose_program_does_not_answer_keeps_nobody_waiting() {
    if !own_mounts() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (keys, file) = (temp.path().join("home/ann/.ssh/authorized_keys"), temp.path().join("etc/file"));
    make(&keys, "good");
    make(&file, "good");
    let entries = [temp.path().join("home/*/.ssh/authorized_keys"), temp.path().join("etc")];
    let entries = entries.each_ref().map(|path| path.to_str().unwrap());
    let running = Running::on(&entries);
    let point = keys.parent().unwrap();
    let Some(server) = mount_silent(point) else { return };

    let mounted = running.soon(|alert| alert.event == Event::Notice);
    fs::write(&file, "evil").unwrap();
    running.soon(is_at(&file));
    let status = running.status_when(|status| !status.conditions.is_empty());
    let rescanned = running.ask(|done| Order::Rescan { paths: Vec::new(), prove: true, done });
    running.stop();
    // So does one that starts while it is there.
    let running = Running::on(&entries);
    fs::write(&file, "worse").unwrap();
    running.soon(is_at(&file));
    let named = running.status.get().unwatched.keys().any(|path| path == point);
    running.stop();
    drop(server);
    umount2(point, MntFlags::MNT_DETACH).unwrap();

    assert!(mounted.alert.contains("a program of user 54321"), "{mounted:?}");
    assert!(status.conditions[0].detail.contains(point.to_str().unwrap()), "{:?}", status.conditions);
    assert!(rescanned["rescanned"] == true && status.unwatched.keys().any(|path| path == point));
    assert!(named, "the status names it from the start");
}

/// The kernel says nothing when the directory above a mount gets another name.
fn a_fuse_mount_that_moves_with_its_directory_keeps_nobody_waiting() {
    if !own_mounts() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    make(&at("ann/.ssh/authorized_keys"), "good");
    make(&at("etc/file"), "good");
    fs::create_dir_all(at("ann/a/m")).unwrap();
    fs::create_dir_all(at("ann/c/m")).unwrap();
    let entries = [at("*/.ssh"), at("etc")];
    let running = Running::on(&[&recursive(&entries[0]), entries[1].to_str().unwrap()]);
    let (Some(first), Some(second)) = (mount_silent(&at("ann/a/m")), mount_silent(&at("ann/c/m"))) else {
        return;
    };

    fs::rename(at("ann/c"), at("ann/.ssh/c")).unwrap();
    fs::rename(at("ann/a"), at("ann/b")).unwrap();
    fs::rename(at("ann/.ssh"), at("ann/d")).unwrap();
    symlink("b/m/x", at("ann/.ssh")).unwrap();
    fs::write(at("etc/file"), "evil").unwrap();
    running.soon(is_at(&at("etc/file")));
    let rescanned = running.ask(|done| Order::Rescan { paths: Vec::new(), prove: true, done });
    running.stop();
    drop((first, second));
    umount2(&at("ann/b/m"), MntFlags::MNT_DETACH).unwrap();
    umount2(&at("ann/d/c/m"), MntFlags::MNT_DETACH).unwrap();

    assert_eq!(rescanned["rescanned"], true);
}

fn what_happens_below_a_fuse_mount_that_hides_it_keeps_nobody_waiting() {
    if !own_mounts() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    make(&at("ann/.ssh/sub/authorized_keys"), "good");
    make(&at("etc/file"), "good");
    let running = Running::on(&[&recursive(&at("*/.ssh")), at("etc").to_str().unwrap()]);
    let hidden = fs::File::open(at("ann/.ssh/sub")).unwrap();
    let Some(server) = mount_silent(&at("ann/.ssh")) else { return };

    for number in 0..10 {
        fs::write(format!("/proc/self/fd/{}/{number}", hidden.as_raw_fd()), "evil").unwrap();
    }
    fs::write(at("etc/file"), "evil").unwrap();
    running.soon(is_at(&at("etc/file")));
    running.stop();
    drop((hidden, server));
    umount2(&at("ann/.ssh"), MntFlags::MNT_DETACH).unwrap();
}

fn of_a_link_that_a_user_turns_all_the_time_the_last_target_is_compared() {
    if !vigie_skipped::is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    make(&at("ann/good/authorized_keys"), "good");
    make(&at("ann/evil/authorized_keys"), "evil");
    let turn = |target: &str| {
        symlink(target, at("ann/new")).unwrap();
        std::os::unix::fs::lchown(at("ann/new"), Some(54321), None).unwrap();
        fs::rename(at("ann/new"), at("ann/.ssh")).unwrap();
    };
    turn("good");
    for name in ["ann", "ann/good", "ann/evil"] {
        std::os::unix::fs::chown(at(name), Some(54321), None).unwrap();
    }
    let running = Running::on(&[at("*/.ssh/authorized_keys").to_str().unwrap()]);

    for _ in 0..100 {
        turn("evil");
        turn("good");
    }
    turn("evil");
    let told = running.soon(is_at(&at("ann/evil/authorized_keys")));

    assert_eq!(told.event, Event::Changed, "{told:?}");
}
