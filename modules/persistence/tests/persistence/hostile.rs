//! What an unprivileged user, or a whole image, can put in the way.

use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, Mode};
use serde_json::json;

use crate::host::Host;

#[test]
fn fifos_and_devices_never_make_it_wait() {
    let host = Host::fresh();
    for path in
        ["/etc/profile.d/p.sh", "/home/ann/.bashrc", "/etc/ld.so.preload", "/var/spool/cron/crontabs/ann"]
    {
        let path = host.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
    }

    let found = host.entries(json!({"local": true}));

    let fifo = found.iter().find(|entry| entry["file"] == "/etc/profile.d/p.sh").unwrap();
    assert_eq!(fifo["inactive"], "it is not a regular file");
}

#[test]
fn links_lead_nowhere_out_of_the_root() {
    let host = Host::fresh();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "* * * * * root outside\n").unwrap();
    std::fs::create_dir_all(host.path("/etc/cron.d")).unwrap();
    symlink(outside.path().join("secret"), host.path("/etc/cron.d/absolute")).unwrap();
    symlink("../../../../../../../../../../../../etc/hostname", host.path("/etc/cron.d/up")).unwrap();
    symlink(outside.path(), host.path("/etc/cron.daily")).unwrap();

    let found = host.entries(json!({"kind": "cron", "local": true}));

    assert!(found.iter().all(|entry| entry["inactive"] == "dangling link"), "{found:?}");
    assert_eq!(found.len(), 2);
}

#[test]
fn records_of_packages_outside_an_image_explain_nothing_in_it() {
    let host = Host::fresh();
    host.write("/etc/cron.d/planted", "* * * * * root /bin/evil\n", 0o644);
    let outside = tempfile::tempdir().unwrap();
    let info = outside.path().join("dpkg/info");
    std::fs::create_dir_all(&info).unwrap();
    std::fs::write(
        outside.path().join("dpkg/status"),
        "Package: cron\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n",
    )
    .unwrap();
    std::fs::write(info.join("cron.list"), "/.\n/etc\n/etc/cron.d\n/etc/cron.d/planted\n").unwrap();
    let digest: String =
        vigie_tree::md5(b"* * * * * root /bin/evil\n").iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(info.join("cron.md5sums"), format!("{digest}  etc/cron.d/planted\n")).unwrap();
    let database = host.path("/var/lib/dpkg");
    std::fs::rename(&database, host.path("/var/lib/dpkg.kept")).unwrap();
    symlink(outside.path().join("dpkg"), &database).unwrap();

    let found = host.entries(json!({"technique": "cron-d"}));

    assert!(!found.is_empty());
    assert!(found.iter().all(|entry| entry["verdict"] != "packaged"), "{found:?}");
}

#[test]
fn a_long_answer_tells_how_far_it_is() {
    let host = Host::fresh();
    let (sender, reports) = std::sync::mpsc::channel();
    let parameters = json!({"root": host.path("/"), "deep": true});
    let query = vigie_sdk::Query::new(Some(serde_json::value::to_raw_value(&parameters).unwrap()))
        .reporting_to(move |progress| drop(sender.send(progress.clone())));

    // The first report comes after a while, and a small host takes less than that.
    let reported = (0..10_000).find_map(|_| {
        let result = <vigie_persistence::Persistence as vigie_sdk::StandardModule>::run(&query);
        assert!(result.success);
        reports.try_recv().ok()
    });

    let report = reported.unwrap();
    assert_eq!(report.unit, "files");
    assert!(report.found.is_some());
}

#[test]
fn a_users_link_does_not_have_others_files_read() {
    let host = Host::fresh();
    host.write("/etc/secret", "ExecStart=secret\n", 0o600);
    let unit = host.path("/home/ann/.config/systemd/user/p.service");
    std::fs::create_dir_all(unit.parent().unwrap()).unwrap();
    symlink("/etc/secret", &unit).unwrap();
    let ann = Some(rustix::fs::Uid::from_raw(1000));
    if rustix::fs::chownat(CWD, &unit, ann, None, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_err() {
        return vigie_skipped::skipped("only root can give a file to another user");
    }

    let result = host.ask(json!({"technique": "sd-user-unit"}));

    let text = result.elements.unwrap().get().to_owned();
    assert!(
        text.contains("/home/ann/.config/systemd/user/p.service") && !text.contains("ExecStart"),
        "{text}"
    );
    assert!(!text.contains("sha256"), "{text}");
    assert!(!result.coverage.unwrap().complete);
}

#[test]
fn large_and_binary_files_are_read_within_limits() {
    let host = Host::fresh();
    let file = std::fs::File::create(host.path("/etc/cron.d-large")).unwrap();
    file.set_len(1 << 42).unwrap();
    std::fs::create_dir_all(host.path("/etc/cron.d")).unwrap();
    std::fs::rename(host.path("/etc/cron.d-large"), host.path("/etc/cron.d/large")).unwrap();
    host.write("/etc/cron.d/lines", &"* * * * * root x\n".repeat(50_000), 0o644);
    std::fs::write(host.path("/etc/cron.d/bytes"), [0xff; 5000]).unwrap();

    let result = host.ask(json!({"technique": "cron-d"}));

    assert!(result.success);
    let coverage = result.coverage.unwrap();
    assert!(coverage.not_examined.iter().any(|skipped| skipped.what == "/etc/cron.d/large"), "{coverage:?}");
}

#[test]
fn directories_of_drop_ins_that_are_links_are_read_as_systemd_reads_them() {
    let host = Host::fresh();
    host.write("/opt/drop/x.conf", "[Service]\nExecStartPre=/opt/evil\n", 0o644);
    host.write("/opt/wants/evil.service", "[Service]\nExecStart=/opt/evil\n", 0o644);
    std::fs::create_dir_all(host.path("/etc/systemd/system")).unwrap();
    symlink("/opt/drop", host.path("/etc/systemd/system/ssh.service.d")).unwrap();
    symlink("../../../opt/wants", host.path("/etc/systemd/system/graphical.target.wants")).unwrap();
    symlink("circle.d", host.path("/etc/systemd/system/circle.d")).unwrap();

    let found = host.entries(json!({"kind": "systemd", "local": true}));
    let coverage = host.ask(json!({"kind": "systemd", "local": true})).coverage.unwrap();

    assert!(
        found.iter().any(|entry| entry["command"] == "/opt/evil" && entry["technique"] == "sd-dropin"),
        "{found:?}"
    );
    assert!(found.iter().any(|entry| entry["technique"] == "sd-wants"), "{found:?}");
    let circle = "/etc/systemd/system/circle.d";
    assert!(coverage.not_examined.iter().any(|skipped| skipped.what == circle), "{coverage:?}");
}

#[test]
fn lines_behind_a_long_comment_are_not_known_rather_than_absent() {
    let host = Host::fresh();
    let comment = "#".repeat(2 << 20);
    host.write("/etc/cron.d/long", &format!("{comment}\n* * * * * root /opt/evil\n"), 0o644);
    host.write("/etc/systemd/system/long.service", &format!("{comment}\n[Service]\nExecStart=/x\n"), 0o644);

    let coverage = host.ask(json!({"local": true})).coverage.unwrap();

    for path in ["/etc/cron.d/long", "/etc/systemd/system/long.service"] {
        assert!(coverage.not_examined.iter().any(|skipped| skipped.what == path), "{path}: {coverage:?}");
    }
}

#[test]
fn accounts_that_only_the_c_library_takes_for_one_are_told() {
    let host = Host::fresh();
    host.write("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\n toor::0:0\n", 0o644);
    host.write("/etc/group", "other:x:27:ann\nsudo:x:27:\n", 0o644);

    let found = host.entries(json!({"kind": "account", "local": true}));

    let techniques = |user: &str| -> Vec<String> {
        let of_user = found.iter().filter(|entry| entry["user"] == user);
        of_user.map(|entry| entry["technique"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(techniques("toor"), ["empty-pw", "uid0"], "{found:?}");
    assert_eq!(techniques("ann"), ["group-priv"], "{found:?}");
}

#[test]
fn names_that_are_no_text_are_escaped() {
    let host = Host::fresh();
    let name = std::os::unix::ffi::OsStringExt::from_vec(b"a\n\xff".to_vec());
    let name: std::ffi::OsString = name;
    std::fs::create_dir_all(host.path("/etc/cron.d")).unwrap();
    std::fs::write(host.path("/etc/cron.d").join(name), "@daily root x\n").unwrap();

    let found = host.entries(json!({"technique": "cron-d"}));

    assert_eq!(found[0]["file"], "/etc/cron.d/a\\x0a\\xff");
}

#[test]
fn circles_of_links_and_missing_roots_end() {
    let host = Host::fresh();
    symlink("loop", host.path("/etc/loop")).unwrap();
    symlink("/etc/loop", host.path("/etc/rc.local")).unwrap();
    symlink("/home/ann/.vim", host.path("/home/ann/.vim")).unwrap();

    assert!(host.ask(json!({"deep": true})).success);
}

/// Files that bob and root have, and the entries that must be found in them.
fn plant_for_others(host: &Host) -> [&'static str; 3] {
    host.write("/home/bob/.zshenv", "ZDOTDIR=/opt/z\n", 0o644);
    host.write("/home/bob/.config/systemd/user/b.service", "[Service]\nExecStart=/opt/bob\n", 0o644);
    host.write("/etc/systemd/system/z.service", "[Service]\nExecStart=/opt/root\n", 0o644);
    ["/home/bob/.zshenv", "\"/opt/bob\"", "\"/opt/root\""]
}

#[test]
fn long_files_of_a_user_cost_what_their_bytes_cost() {
    let host = Host::fresh();
    let expected = plant_for_others(&host);
    let long = "x".repeat(512 << 10);
    let home = "/home/ann/.config/systemd/user";
    for (path, content) in [
        ("/home/ann/.zshenv", "ZDOTDIR=".repeat(100 << 10)),
        (&*format!("{home}/section.service"), format!("[{long}]\n{}", "a=\n".repeat(100 << 10))),
        (
            &*format!("{home}/commands.service"),
            format!("[Service]\nUser=x\n{}", "Exec=a\n".repeat(140 << 10)),
        ),
        (&*format!("{home}/files.service"), "EnvironmentFile=/home/ann/large\n".repeat(10 << 10)),
        ("/home/ann/large", "LD_PRELOAD=/x\n".repeat(70 << 10)),
        ("/home/ann/.bashrc", format!("x[{}\"'`", " ".repeat(1000 << 10))),
        ("/home/ann/.gitconfig", format!("[filter \"{long}\"]\n{}", "clean=x\n".repeat(50 << 10))),
    ] {
        assert!(content.len() > 64 << 10 && content.len() <= 1 << 20, "{path}: {}", content.len());
        host.write(path, &content, 0o644);
    }
    if !host.give_homes() {
        return vigie_skipped::skipped("only root can give a file to another user");
    }

    let result = host.ask(json!({"local": true}));

    let entries = result.elements.expect("there are entries");
    for one in expected {
        assert!(entries.get().contains(one), "{one}");
    }
    let skipped = result.coverage.expect("persistence always says what it covered").not_examined;
    assert!(skipped.iter().any(|skipped| skipped.what.starts_with(home)), "{skipped:?}");
    assert!(!skipped.iter().any(|skipped| skipped.what.contains("bob")), "{skipped:?}");
}

#[test]
fn entries_of_a_user_do_not_push_out_those_of_others() {
    let host = Host::fresh();
    let expected = plant_for_others(&host);
    for number in 0..21 {
        let path = format!("/home/ann/.config/autostart/{number}.desktop");
        host.write(&path, &"Exec=/x\n".repeat(10_000), 0o644);
    }
    host.write("/home/ann/.config/systemd/user/a.service", &"ExecStart=/x\n".repeat(60_000), 0o644);
    if !host.give_homes() {
        return vigie_skipped::skipped("only root can give a file to another user");
    }

    let result = host.ask(json!({"kind": ["desktop", "shell", "systemd"], "local": true}));

    let entries = result.elements.expect("there are entries");
    for one in expected {
        assert!(entries.get().contains(one), "{one}");
    }
    let skipped = result.coverage.expect("persistence always says what it covered").not_examined;
    let is_named = |skipped: &vigie_sdk::NotExamined| {
        skipped.what.starts_with("/home/ann/.config/autostart/") && skipped.why.contains("this account")
    };
    assert!(skipped.iter().any(is_named), "{skipped:?}");
}

#[test]
fn names_of_what_is_not_examined_leave_room_for_the_answer() {
    let host = Host::fresh();
    let lines: String = (0..250).map(|number| format!(". $X{number}{}\n", "x".repeat(4_000))).collect();
    for number in 0..5 {
        host.write(&format!("/etc/profile.d/{number}.sh"), &lines, 0o644);
    }

    let coverage = host.ask(json!({"technique": "profile"})).coverage.expect("persistence always says it");

    let bytes = serde_json::to_vec(&coverage).expect("it is JSON").len();
    assert!((1 << 19..=(1 << 20) + 4096).contains(&bytes), "{bytes}");
    assert_eq!(coverage.not_examined.last().map(|last| &*last.what), Some("more"));
}

#[test]
fn one_account_does_not_fill_the_coverage() {
    let host = Host::fresh();
    host.append("/etc/passwd", "bob:x:1001:1001::/home/bob:/bin/bash\n");
    let many: String = (0..2_000).map(|number| format!(". \"/x$A/{number}\"\n")).collect();
    host.write("/home/ann/.bashrc", &many, 0o644);
    host.write("/home/bob/.bashrc", ". \"/x$A/bob\"\n", 0o644);
    if !host.give_homes() {
        return;
    }

    let coverage = host.ask(json!({"technique": "user-rc"})).coverage.expect("persistence always says it");

    let of = |name: &str| coverage.not_examined.iter().filter(|one| one.what.contains(name)).count();
    assert_eq!((of("/home/ann/"), of("more of ann's files"), of("/home/bob/")), (50, 1, 1), "{coverage:?}");
}
