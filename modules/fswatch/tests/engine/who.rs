//! What only fanotify can tell: who it was, other names of a file, other places of a directory. Needs the capability
//! CAP_SYS_ADMIN; without it each test says so and ends.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

use vigie_fswatch::change::Event;

use super::running::{Alert, Running, recursive, texts};

/// Whether the running engine uses fanotify for a directory; says so when it does not.
pub(super) fn uses_fanotify(running: &Running) -> bool {
    let status = running.status_when(|status| status.baseline_complete && !status.backends.is_empty());
    let used = status.backends.iter().any(|choice| choice.fanotify);
    if !used {
        vigie_skipped::skipped(format_args!("{:?}", status.backends));
    }
    used
}

/// Whether command lines are those of the exec; says so when they are not.
fn knows_execs(running: &Running) -> bool {
    let why = running.status_when(|status| status.baseline_complete).why_claimed.clone();
    if let Some(why) = &why {
        vigie_skipped::skipped(format_args!("the kernel is not asked about execs: {why}"));
    }
    why.is_none()
}

/// Gives this thread, and the engine that it starts, mounts of its own.
pub(super) fn own_mounts() -> bool {
    let made = unshare(CloneFlags::CLONE_NEWNS).and_then(|()| {
        mount(None::<&Path>, "/", None::<&Path>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&Path>)
    });
    if let Err(error) = made {
        vigie_skipped::skipped(format_args!("no mount namespace of our own: {error}"));
    }
    made.is_ok()
}

pub(super) fn mount_at(
    source: &str,
    kind: Option<&str>,
    at: &Path,
    flags: MsFlags,
    options: Option<&str>,
) -> bool {
    let made = mount(Some(source), at, kind, flags, options);
    if let Err(error) = made {
        vigie_skipped::skipped(format_args!("{kind:?} cannot be mounted: {error}"));
    }
    made.is_ok()
}

/// What was created. On a busy host one that is open for long enough is told twice: while it is written and when it is
/// closed.
fn created(told: &[Alert]) -> impl Iterator<Item = &Alert> {
    told.iter().filter(|alert| alert.event == Event::Created)
}

#[test]
fn every_change_by_a_process_that_lives_for_a_moment_names_its_program() {
    let temp = tempfile::tempdir().unwrap();
    let mut running = Running::on(&[&recursive(temp.path())]);
    if !uses_fanotify(&running) {
        return;
    }

    for number in 0..200 {
        let touch = Command::new("touch").arg(temp.path().join(number.to_string())).status().unwrap();
        assert!(touch.success());
    }
    let told = running.told(temp.path());

    assert_eq!(created(&told).map(|alert| &alert.path).collect::<BTreeSet<_>>().len(), 200);
    for alert in &told {
        let program = alert.process["executable"].as_str().unwrap_or_default();
        let name = fs::canonicalize(program).unwrap().file_name().unwrap().to_owned();
        // Some systems have one program under many names.
        assert!(name == "touch" || name == "coreutils" || name == "busybox", "{alert:?}");
        let process = &alert.process;
        for field in ["command", "user", "parent"] {
            assert!(!process[field].is_null() || !process["unknown"][field].is_null(), "{process}");
        }
        assert!(process["user"].is_null() || process["user"] == json!(nix::unistd::geteuid().as_raw()));
    }
}

#[test]
fn every_process_of_two_thousand_that_live_for_a_moment_is_told_with_its_command_line() {
    let temp = tempfile::tempdir().unwrap();
    let (watched, source) = (temp.path().join("w"), temp.path().join("source"));
    fs::create_dir(&watched).unwrap();
    fs::write(&source, "1").unwrap();
    let mut running = Running::configured(
        json!({"paths": {"path": [recursive(&watched)]}, "fswatch": {"storm_changes": 0}}),
    );
    if !uses_fanotify(&running) || !knows_execs(&running) {
        return;
    }

    let script = "i=0; while [ $i -lt 2000 ]; do cp \"$0\" \"$1/$i\"; i=$((i+1)); done";
    let done = Command::new("sh").args(["-c", script]).args([&source, &watched]).status().unwrap();
    assert!(done.success());
    let told = running.told(&watched);

    assert_eq!(created(&told).map(|alert| &alert.path).collect::<BTreeSet<_>>().len(), 2000);
    let shell = fs::canonicalize("/bin/sh").unwrap();
    for alert in created(&told) {
        let process = &alert.process;
        let command = format!("cp {} {}", source.display(), alert.path);
        assert_eq!((&process["command"], &process["claimed"]), (&json!(command), &Value::Null), "{process}");
        assert_eq!(process["parent"]["executable"], json!(shell), "{process}");
        assert_eq!(process["user"], json!(nix::unistd::geteuid().as_raw()));
        assert!(process["start"].is_u64() && process["unknown"]["command"].is_null(), "{process}");
    }
}

#[test]
fn no_forged_command_line_is_told_and_no_program_that_was_run_only_afterwards() {
    let temp = tempfile::tempdir().unwrap();
    if !vigie_skipped::happens_to_have("/usr/bin/perl") {
        return;
    }
    let mut running = Running::configured(
        json!({"paths": {"path": [recursive(temp.path())]}, "fswatch": {"storm_changes": 0}}),
    );
    if !uses_fanotify(&running) || !knows_execs(&running) {
        return;
    }

    let write = "open my $o, '>', $ARGV[0]; print $o 1; close $o;";
    let forge = "$0 = '/usr/sbin/useradd forged'; open my $c, '>', '/proc/self/comm'; \
                 print $c 'useradd'; close $c;";
    for number in 0..100 {
        let path = temp.path().join(number.to_string());
        let script = match number % 4 {
            // Renames itself and ends; renames itself and lives on; runs another program at once.
            0 => format!("{forge} {write}"),
            1 => format!("{forge} {write} select undef, undef, undef, 0.02;"),
            2 => format!("{write} exec {{'/bin/true'}} '/usr/sbin/useradd', 'forged';"),
            _ => format!("{write} exec {{'/bin/sleep'}} '/bin/sleep', '0.02';"),
        };
        assert!(Command::new("/usr/bin/perl").args(["-e", &script]).arg(&path).status().unwrap().success());
    }
    let told = running.told(temp.path());

    assert_eq!(created(&told).map(|alert| &alert.path).collect::<BTreeSet<_>>().len(), 100);
    let perl = fs::canonicalize("/usr/bin/perl").unwrap();
    for alert in created(&told) {
        let process = &alert.process;
        assert_eq!(process["executable"], json!(perl), "{process}");
        let command = process["command"].as_str().unwrap();
        assert!(command.starts_with("/usr/bin/perl -e "), "{command}");
        assert!(process["claimed"].is_null(), "{process}");
    }
}

#[test]
fn users_are_those_of_the_exec_and_the_one_that_a_process_became_stands_beside() {
    let temp = tempfile::tempdir().unwrap();
    if !vigie_skipped::happens_to_have("/usr/bin/perl") || !vigie_skipped::is_root() {
        return;
    }
    let running = Running::on(&[&recursive(temp.path())]);
    if !uses_fanotify(&running) || !knows_execs(&running) {
        return;
    }

    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let script = "$> = 65534; open my $o, '>', $ARGV[0]; print $o 1; close $o; <STDIN>;";
    let path = temp.path().join("a");
    let mut perl =
        Command::new("/usr/bin/perl").args(["-e", script]).arg(&path).stdin(Stdio::piped()).spawn().unwrap();
    // Who it became is asked of the process itself, so that it lives until it was.
    let told = running.next(|alert| alert.event == Event::Created);
    drop(perl.stdin.take());
    assert!(perl.wait().unwrap().success());

    let process = &told.process;
    assert_eq!((&process["user"], &process["user_now"]), (&json!(0), &json!(65534)), "{process}");
    assert_eq!(process["user_now_name"], json!("nobody"), "{process}");
}

#[test]
fn when_it_is_not_wanted_command_lines_are_claimed() {
    let temp = tempfile::tempdir().unwrap();
    let mut running = Running::configured(
        json!({"paths": {"path": [recursive(temp.path())]}, "fswatch": {"commands": "claimed"}}),
    );
    if !uses_fanotify(&running) {
        return;
    }

    let script = format!("echo 1 > {}; sleep 1", temp.path().join("a").display());
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    let told = running.told(temp.path());

    assert_eq!(told[0].process["claimed"], json!(["command"]), "{:?}", told[0].process);
}

#[test]
fn a_process_that_goes_on_is_known_in_full() {
    let temp = tempfile::tempdir().unwrap();
    let mut running = Running::on(&[&recursive(temp.path())]);
    if !uses_fanotify(&running) {
        return;
    }

    fs::write(temp.path().join("a"), "1").unwrap();
    let told = running.told(temp.path());

    let process = &told[0].process;
    assert_eq!(process["pid"], json!(std::process::id()), "{process}");
    assert_eq!(process["executable"], json!(std::env::current_exe().unwrap()));
    assert!(process["command"].as_str().is_some_and(|command| !command.is_empty()));
    assert!(process["parent"]["pid"].as_u64() > Some(0));
    assert!(process["unknown"].is_null(), "{process}");
}

#[test]
fn a_file_that_is_written_under_a_name_outside_is_told_under_the_watched_one() {
    let temp = tempfile::tempdir().unwrap();
    let (watched, outside) = (temp.path().join("w"), temp.path().join("o"));
    fs::create_dir(&watched).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(watched.join("a"), "1").unwrap();
    fs::hard_link(watched.join("a"), outside.join("b")).unwrap();
    let mut running = Running::on(&[&recursive(&watched)]);
    if !uses_fanotify(&running) {
        return;
    }

    fs::write(outside.join("b"), "2").unwrap();
    let told = running.told(&watched);

    assert_eq!(texts(&told, &watched), ["changed a"]);
}

#[test]
fn what_is_written_through_a_bind_mount_is_told_where_it_is_watched() {
    let temp = tempfile::tempdir().unwrap();
    let (watched, elsewhere) = (temp.path().join("w"), temp.path().join("elsewhere"));
    fs::create_dir_all(watched.join("sub")).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    if !own_mounts() || !mount_at(watched.to_str().unwrap(), None, &elsewhere, MsFlags::MS_BIND, None) {
        return;
    }
    let mut running = Running::on(&[&recursive(&watched)]);
    if !uses_fanotify(&running) {
        return;
    }

    fs::write(elsewhere.join("sub/a"), "1").unwrap();
    let told = running.told(&watched);
    assert_eq!(texts(&told, &watched), ["created sub/a"]);

    let mut running = Running::on(&[&recursive(&elsewhere)]);
    fs::write(watched.join("sub/b"), "1").unwrap();
    let told = running.told(&elsewhere);
    assert_eq!(texts(&told, &elsewhere), ["created sub/b"]);
}

#[test]
fn what_is_mounted_later_is_watched_and_what_it_hides_is_told_as_gone() {
    let temp = tempfile::tempdir().unwrap();
    let watched = temp.path().join("w");
    fs::create_dir_all(watched.join("sub")).unwrap();
    fs::write(watched.join("sub/hidden"), "1").unwrap();
    if !own_mounts() {
        return;
    }
    let running = Running::on(&[&recursive(&watched)]);
    let device = fs::metadata(&watched).unwrap().dev();

    if !mount_at("tmpfs", Some("tmpfs"), &watched.join("sub"), MsFlags::empty(), None) {
        return;
    }
    assert_ne!(fs::metadata(watched.join("sub")).unwrap().dev(), device);
    let is = |alert: &Alert, event: Event, name: &str| {
        alert.event == event && alert.path == watched.join(name).to_str().unwrap()
    };
    running.next(|alert| is(alert, Event::Removed, "sub/hidden"));
    fs::write(watched.join("sub/new"), "1").unwrap();
    running.next(|alert| is(alert, Event::Created, "sub/new"));

    nix::mount::umount2(&watched.join("sub"), nix::mount::MntFlags::MNT_DETACH).unwrap();
    let (mut is_gone, mut is_back) = (false, false);
    while !(is_gone && is_back) {
        let alert = running.next(|_| true);
        is_gone |= is(&alert, Event::Removed, "sub/new");
        is_back |= is(&alert, Event::Created, "sub/hidden");
    }
}

#[test]
fn an_overlay_is_watched_by_inotify_and_that_is_said() {
    let temp = tempfile::tempdir().unwrap();
    if !own_mounts() || !mount_at("tmpfs", Some("tmpfs"), temp.path(), MsFlags::empty(), None) {
        return;
    }
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(temp.path().join(name)).unwrap();
    }
    fs::write(temp.path().join("lower/a"), "1").unwrap();
    let at = |name: &str| temp.path().join(name).display().to_string();
    let options = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
    let merged = temp.path().join("merged");
    if !mount_at("overlay", Some("overlay"), &merged, MsFlags::empty(), Some(&options)) {
        return;
    }
    let mut running = Running::on(&[&recursive(&merged)]);
    let status = running.status_when(|status| !status.backends.is_empty());
    let choice = status.backends.iter().find(|choice| choice.at.starts_with(&merged)).unwrap();
    assert!(!choice.fanotify && choice.why.is_some(), "{choice:?}");
    // Whoever writes the upper directory itself is not heard.
    assert_eq!(status.remote, std::slice::from_ref(&merged));

    fs::write(merged.join("a"), "2").unwrap();
    fs::create_dir_all(merged.join("x/y")).unwrap();
    fs::write(merged.join("x/y/z"), "").unwrap();
    let mut told = texts(&running.told(&merged), &merged);

    told.sort();
    assert_eq!(told, ["changed a", "created x", "created x/y", "created x/y/z"]);
}

/// What was told of who wrote, as far as it is told as a fact. A command line is what whoever ran the program made up.
fn facts(alert: &super::running::Alert) -> Vec<String> {
    let claimed = alert.process["claimed"].as_array().cloned().unwrap_or_default();
    ["executable", "script"]
        .into_iter()
        .filter(|key| !claimed.contains(&json!(key)))
        .filter_map(|key| alert.process[key].as_str().map(str::to_owned))
        .collect()
}

fn assert_nobody_is_dpkg(alerts: &[super::running::Alert], wanted: usize) {
    assert!(alerts.len() >= wanted, "{alerts:?}");
    for alert in alerts {
        assert!(!facts(alert).iter().any(|fact| fact.contains("dpkg")), "{:?}", alert.process);
        assert!(alert.process["executable"] != json!("/usr/bin/dpkg"), "{:?}", alert.process);
        assert!(alert.package["by_manager"].is_null(), "{alert:?}");
    }
}

#[test]
fn a_program_under_the_name_of_the_package_manager_in_a_namespace_is_not_the_package_manager() {
    let temp = tempfile::tempdir().unwrap();
    let mut running = Running::on(&[&recursive(temp.path())]);
    if !vigie_skipped::happens_to_have("/usr/bin/dpkg") || !uses_fanotify(&running) {
        return;
    }

    // One that ends at once, and one that lives on.
    for (name, after) in [("a", ":"), ("b", "sleep 0.3"), ("c", ":"), ("d", "sleep 0.3")] {
        let script = format!(
            "mount --bind /bin/dash /usr/bin/dpkg && exec /usr/bin/dpkg -c 'echo 1 > {}; {after}'",
            temp.path().join(name).display()
        );
        let done = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .status();
        if !done.is_ok_and(|done| done.success()) {
            return vigie_skipped::skipped("no user namespace");
        }
    }

    let told = running.told(temp.path());
    assert_nobody_is_dpkg(&told, 4);
    let elsewhere = |alert: &&super::running::Alert| alert.process["mount_namespace"].is_u64();
    assert!(told.iter().filter(elsewhere).count() >= 2, "{told:?}");
}

#[test]
fn a_failed_start_of_the_package_manager_and_a_check_of_it_are_not_the_package_manager() {
    let temp = tempfile::tempdir().unwrap();
    let mut running = Running::on(&[&recursive(temp.path())]);
    let has_all = ["/usr/bin/dpkg", "/usr/bin/perl"].into_iter().all(vigie_skipped::happens_to_have);
    if !has_all || !uses_fanotify(&running) {
        return;
    }

    // execve fails with E2BIG; execveat with AT_EMPTY_PATH | AT_EXECVE_CHECK starts nothing.
    let fails = "exec {'/usr/bin/dpkg'} 'dpkg', 'x' x 3000000;";
    let checks = "my $e = ''; open my $f, '<', '/usr/bin/dpkg'; syscall(322, fileno $f, $e, 0, 0, 0x11000); \
        open my $l, '<', '/lib64/ld-linux-x86-64.so.2'; syscall(322, fileno $l, $e, 0, 0, 0x11000);";
    for number in 0..40 {
        let trick = if number % 2 == 0 { fails } else { checks };
        let live = if number % 4 < 2 { "" } else { "select undef, undef, undef, 0.05;" };
        let path = temp.path().join(number.to_string());
        let script = format!(
            "no warnings; {trick} open my $o, '>', '{}'; print $o 1; close $o; {live}",
            path.display()
        );
        assert!(Command::new("/usr/bin/perl").args(["-e", &script]).status().unwrap().success());
    }

    assert_nobody_is_dpkg(&running.told(temp.path()), 40);
}

#[test]
fn the_script_is_named_beside_its_interpreter_and_a_rewritten_command_line_as_claimed() {
    let temp = tempfile::tempdir().unwrap();
    let (watched, script) = (temp.path().join("w"), temp.path().join("job.pl"));
    fs::create_dir(&watched).unwrap();
    if !vigie_skipped::happens_to_have("/usr/bin/perl") {
        return;
    }
    let text = format!(
        "#!/usr/bin/perl\n$0 = '/usr/bin/dpkg --configure -a'; open my $o, '>', '{}'; print $o 1; close $o; sleep 1;\n",
        watched.join("a").display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut running = Running::on(&[&recursive(&watched)]);
    if !uses_fanotify(&running) {
        return;
    }

    assert!(Command::new(&script).status().unwrap().success());
    let told = running.told(&watched);

    let process = &told[0].process;
    assert_eq!(process["script"], json!(script), "{process}");
    assert!(process["executable"].as_str().unwrap().contains("perl"), "{process}");
    if knows_execs(&running) {
        let command = format!("/usr/bin/perl {}", script.display());
        assert_eq!((&process["command"], &process["claimed"]), (&json!(command), &Value::Null), "{process}");
    } else {
        assert!(process["claimed"].as_array().unwrap().contains(&json!("command")), "{process}");
    }
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
    assert_eq!(process["user_name"], json!(user));
}

#[test]
fn what_comes_through_the_modules_own_directory_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let (watched, state) = (temp.path().join("w"), temp.path().join("s"));
    fs::create_dir(&watched).unwrap();
    fs::create_dir(&state).unwrap();
    fs::write(watched.join("goes"), "1").unwrap();
    let mut running = Running::keeping(Some(&state), json!({"paths": {"path": [recursive(&watched)]}}));

    fs::write(state.join("evil"), "2").unwrap();
    fs::rename(state.join("evil"), watched.join("comes")).unwrap();
    fs::rename(watched.join("goes"), state.join("gone")).unwrap();
    let mut told = texts(&running.told(&watched), &watched);

    told.sort();
    assert_eq!(told, ["created comes", "removed goes"]);
}

#[test]
fn a_name_that_a_watched_file_gets_elsewhere_while_it_is_watched_is_told_and_so_is_what_is_written_there() {
    let temp = tempfile::tempdir().unwrap();
    let (watched, outside) = (temp.path().join("w"), temp.path().join("o"));
    fs::create_dir(&watched).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(watched.join("a"), "1").unwrap();
    let mut running = Running::on(&[&recursive(&watched)]);
    if !uses_fanotify(&running) {
        return;
    }

    fs::hard_link(watched.join("a"), outside.join("b")).unwrap();
    let linked = running.next(|alert| alert.path.ends_with("/a"));
    fs::write(outside.join("b"), "2").unwrap();
    let written = texts(&running.told(&watched), &watched);
    fs::set_permissions(outside.join("b"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let changed = running.told(&watched);

    assert_eq!(linked.attributes, ["links"]);
    assert_eq!(written, ["changed a"]);
    assert_eq!(changed[0].attributes, ["mode"]);
}

#[test]
fn a_file_that_is_mounted_over_another_is_watched_where_it_is_also_when_it_is_of_another_file_system() {
    if !own_mounts() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let etc = temp.path().join("etc");
    fs::create_dir(&etc).unwrap();
    for (name, source) in [("hosts", temp.path().join("hosts")), ("resolv", elsewhere.path().join("resolv"))]
    {
        fs::write(&source, "1").unwrap();
        fs::write(etc.join(name), "").unwrap();
        if !mount_at(source.to_str().unwrap(), None, &etc.join(name), MsFlags::MS_BIND, None) {
            return;
        }
    }
    let mut running = Running::on(&[&recursive(&etc)]);
    if !uses_fanotify(&running) {
        return;
    }

    fs::write(etc.join("hosts"), "at the mount").unwrap();
    let at_the_mount = texts(&running.told(&etc), &etc);
    fs::write(temp.path().join("hosts"), "at the source").unwrap();
    let at_the_source = texts(&running.told(&etc), &etc);
    fs::write(elsewhere.path().join("resolv"), "elsewhere").unwrap();
    let elsewhere = running.next(|alert| alert.path.ends_with("/resolv"));

    assert_eq!(
        (at_the_mount, at_the_source),
        (vec!["changed hosts".to_owned()], vec!["changed hosts".to_owned()])
    );
    assert_eq!(elsewhere.attributes[0], "content");
}

#[test]
fn a_single_file_as_the_only_entry_names_its_writer() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("file");
    fs::write(&file, "1").unwrap();
    let running = Running::on(&[file.to_str().unwrap()]);
    if !uses_fanotify(&running) {
        return;
    }

    let touch = Command::new("sh").arg("-c").arg(format!("echo 2 > {}", file.display())).status().unwrap();
    assert!(touch.success());
    let told = running.next(|alert| alert.path == file.to_str().unwrap());

    assert!(told.process["pid"].is_number(), "{told:?}");
}
