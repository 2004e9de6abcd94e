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

    assert!(found.iter().all(|entry| entry["inactive"] == "the link leads to nothing"), "{found:?}");
    assert_eq!(found.len(), 2);
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
