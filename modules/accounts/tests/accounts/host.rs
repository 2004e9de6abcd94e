//! A host in a directory.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use vigie_accounts::{Accounts, masked_form};
use vigie_sdk::{ModuleResult, Query, StandardModule, privacy};

const SCHEMA: &str = include_str!("../../../../docs/accounts.schema.json");

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

const FILES: &[(&str, u32, &str)] = &[
    (
        "/etc/passwd",
        0o644,
        "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000:Ann,,,:/home/ann:/bin/bash\nbob:x:1001:1001::/home/bob:\nold:x:1002:1002::/nonexistent:/bin/sh\ntoor:x:00:0::/root:/bin/sh\nbroken:x\n",
    ),
    (
        "/etc/shadow",
        0o640,
        "root:$y$j9T$secretsalt$secrethash:19000:0:99999:7:::\nann:!$6$secretsalt$secrethash:19001:0:90:7:::\nbob::0:0:99999:7:::\nold:*:19000:0:99999:7::19500:\nghost:*:1::::::\n",
    ),
    ("/etc/group", 0o644, "root:x:0:\nsudo:x:27:bob\nann:x:1000:\nbob:x:1001:\n"),
    ("/etc/gshadow", 0o640, "root:*::\nsudo:!:ann:\n"),
    ("/etc/hostname", 0o644, "web1.example.org\n"),
    ("/etc/nsswitch.conf", 0o644, "passwd: files sss [NOTFOUND=return] systemd\nsudoers: files ldap\n"),
    (
        "/etc/sudoers",
        0o440,
        "Defaults env_reset\nUser_Alias OPS = ann, %sudo, !bob\n@includedir /etc/sudoers.d\n#include extra\nroot ALL=(ALL:ALL) ALL\nALL web2 = NOPASSWD: /bin/no\n",
    ),
    ("/etc/sudoers.d/10-ops", 0o440, "OPS web1 = (www) NOPASSWD: /bin/a, /bin/b \\\n  -x, PASSWD: !/bin/c\n"),
    ("/etc/sudoers.d/skipped.bak", 0o440, "evil ALL = ALL\n"),
    ("/etc/extra", 0o444, "bob ALL = ALL, !/bin/sh\nwrong line\n"),
    ("/home/ann/.ssh/authorized_keys", 0o600, ""),
    (
        "/etc/ssh/sshd_config",
        0o644,
        "Include /etc/ssh/sshd_config.d/*.conf\nMatch User bob\n AuthorizedKeysFile /etc/keys/%u\nAuthorizedKeysCommand /usr/bin/keys %u\n",
    ),
    ("/etc/keys/bob", 0o644, ""),
    ("/etc/ssh/sshd_config.d/a.conf", 0o644, "TrustedUserCAKeys /etc/ssh/ca.pub\n"),
    (
        "/usr/lib/userdb/carl.user",
        0o644,
        "{\"userName\":\"carl\",\"uid\":60100,\"gid\":60100,\"homeDirectory\":\"/home/carl\",\"shell\":\"/bin/sh\"}",
    ),
];

pub(crate) struct Host {
    directory: tempfile::TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        let host = Self { directory: tempfile::tempdir().unwrap() };
        for (path, mode, content) in FILES {
            host.write(path, content.as_bytes(), *mode);
        }
        host.write(
            "/home/ann/.ssh/authorized_keys",
            format!("# x\nfrom=\"10.0.0.1\",restrict {KEY} ann@laptop\nbogus {KEY}\n").as_bytes(),
            0o600,
        );
        host.write("/etc/keys/bob", format!("{KEY} bob\n").as_bytes(), 0o666);
        let mut wtmp = vec![0; 3 * 384];
        for (place, (line, user, time)) in
            [("pts/0", "ann", 1_700_000_000_u32), ("pts/1", "bob", 1_700_000_100)].into_iter().enumerate()
        {
            let record = &mut wtmp[place * 384..(place + 1) * 384];
            record[..2].copy_from_slice(&7_i16.to_ne_bytes());
            record[8..8 + line.len()].copy_from_slice(line.as_bytes());
            record[44..44 + user.len()].copy_from_slice(user.as_bytes());
            record[340..344].copy_from_slice(&time.to_ne_bytes());
        }
        host.write("/var/log/wtmp", &wtmp, 0o644);
        let lastlog = host.path("/var/log/lastlog");
        let file = fs::File::create(lastlog).unwrap();
        file.write_all_at(&1_700_000_000_u32.to_ne_bytes(), 1000 * 292).unwrap();
        file.write_all_at(b"192.0.2.7", 1000 * 292 + 36).unwrap();
        file.set_len(4_000_000_000 * 292).unwrap();
        host
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path.trim_start_matches('/'))
    }

    fn write(&self, path: &str, content: &[u8], mode: u32) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }

    fn run(&self, mut parameters: Value, private: bool) -> ModuleResult {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        parameters["root"] = json!(self.directory.path());
        assert_eq!(
            vigie_schema::problems(&schema, "/$defs/parameters", &parameters),
            [""; 0],
            "{parameters}"
        );
        let mut query = Query::new(Some(to_raw_value(&parameters).unwrap()));
        query.extraprivacy = private;
        let result = Accounts::run(&query);
        let value = serde_json::to_value(&result).unwrap();
        if !private {
            assert_eq!(vigie_schema::problems(&schema, "/$defs/result", &value), [""; 0], "{value}");
        }
        result
    }

    fn ask(&self, parameters: Value) -> Value {
        serde_json::to_value(self.run(parameters, false)).unwrap()
    }
}

fn named<'a>(list: &'a Value, key: &str, name: &str) -> &'a Value {
    list.as_array().unwrap().iter().find(|item| item[key] == name).unwrap()
}

#[test]
fn accounts_have_states_groups_keys_rules_and_last_logins() {
    let answer = Host::new().ask(json!({}));
    let users = &answer["elements"]["users"];

    let ann = named(users, "username", "ann");
    let password = json!([ann["state"], ann["password_status"], ann["password_scheme"]]);
    assert_eq!(password, json!(["locked", "locked", "sha512"]));
    assert_eq!(ann["groups"], json!(["ann"]), "{ann}");
    assert_eq!(
        (&ann["keys"], &ann["sudo"], &ann["privileged"]),
        (&json!(1), &json!(2), &json!(true)),
        "{ann}"
    );
    assert_eq!(
        (&ann["last_login"], &ann["last_host"]),
        (&json!("2023-11-14T22:13:20Z"), &json!("192.0.2.7"))
    );
    assert_eq!((&ann["last_change"], &ann["password_expires"]), (&json!("2022-01-09"), &json!("2022-04-09")));
    let bob = named(users, "username", "bob");
    assert_eq!(
        (&bob["state"], &bob["must_change"], &bob["shell"], &bob["keys"]),
        (&json!("empty"), &json!(true), &json!("/bin/sh"), &json!(0))
    );
    assert_eq!(named(users, "username", "old")["state"], "expired");
    let toor = named(users, "username", "toor");
    assert_eq!(
        toor["problems"],
        json!([
            "the same UID as root",
            "the UID has an unusual notation",
            "an account with UID 0 that is not named root"
        ])
    );
    assert_eq!(named(users, "username", "carl")["source"], "/usr/lib/userdb/carl.user");
    let group = named(&answer["elements"]["groups"], "groupname", "sudo");
    assert_eq!((&group["members"], &group["admins"]), (&json!(["bob"]), &json!(["ann"])));
}

#[test]
fn rules_of_sudo_come_from_all_files_with_their_lines() {
    let answer = Host::new().ask(json!({"what": ["sudo"]}));

    let rules: Vec<_> = answer["elements"]["sudo"]
        .as_array()
        .unwrap()
        .iter()
        .map(|rule| {
            json!([
                rule["file"],
                rule["line"],
                rule["users"],
                rule["command"],
                rule["password"],
                rule["this_host"]
            ])
        })
        .collect();
    let ops = json!(["ann", "%sudo", "!bob"]);
    assert_eq!(
        rules,
        [
            json!(["/etc/sudoers.d/10-ops", 1, ops, "/bin/a", false, true]),
            json!(["/etc/sudoers.d/10-ops", 1, ops, "/bin/b -x", false, true]),
            json!(["/etc/sudoers.d/10-ops", 1, ops, "!/bin/c", true, true]),
            json!(["/etc/extra", 1, ["bob"], "ALL", true, true]),
            json!(["/etc/extra", 1, ["bob"], "!/bin/sh", true, true]),
            json!(["/etc/sudoers", 5, ["root"], "ALL", true, true]),
            json!(["/etc/sudoers", 6, ["ALL"], "/bin/no", false, false]),
        ]
    );
    let wrong = named(&answer["elements"]["problems"], "file", "/etc/extra");
    assert_eq!(wrong["line"], 2, "{wrong}");
}

#[test]
fn keys_have_fingerprints_and_reasons_why_sshd_ignores_them() {
    let answer = Host::new().ask(json!({"what": "keys"}));
    let keys = answer["elements"]["keys"].as_array().unwrap();

    let said: Vec<_> = keys
        .iter()
        .map(|key| {
            (
                key["username"].as_str().unwrap(),
                key["line"].as_u64().unwrap(),
                key["ignored"].as_str().is_some(),
            )
        })
        .collect();
    assert_eq!(said, [("ann", 2, false), ("ann", 3, true), ("bob", 1, true)], "{answer}");
    assert_eq!(keys[0]["options"], json!(["from=\"10.0.0.1\"", "restrict"]));
    assert!(!answer.to_string().contains("AAAAC3"), "the key itself is not told");
}

#[test]
fn what_cannot_be_listed_is_in_the_coverage() {
    let result = Host::new().run(json!({"what": ["users", "keys", "sudo", "sessions"]}), false);
    let coverage = result.coverage.unwrap();

    assert!(!coverage.complete);
    for what in [
        "accounts of sss",
        "rules of sudo of ldap",
        "AuthorizedKeysCommand",
        "TrustedUserCAKeys",
        "current sessions",
    ] {
        assert!(
            coverage.not_examined.iter().any(|skipped| skipped.what.starts_with(what)),
            "{what}: {coverage:?}"
        );
    }
    assert!(!coverage.not_examined.iter().any(|skipped| skipped.what.contains("systemd")));
}

#[test]
fn accounts_that_are_written_oddly_are_found_as_the_c_library_finds_them() {
    let host = Host::new();
    host.write(
        "/etc/passwd",
        b"root:x:0:0:root:/root:/bin/bash\nfew::0:0\n \tblank:x:0:0::/:/bin/sh\nmany:x:0:0::/:/bin/sh:x\n\
          member:x:1005:1005::/:/bin/sh\n",
        0o644,
    );
    host.write("/etc/group", b"other:x:27:member\nroot:x:0:\nsudo:x:27:\n", 0o644);

    let roots = host.ask(json!({"uid": ["0"], "what": ["users"]}));
    let privileged = host.ask(json!({"privileged": true, "what": ["users"]}));

    let names = |answer: &Value| -> Vec<String> {
        let users = answer["elements"]["users"].as_array().unwrap();
        users.iter().map(|user| user["username"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&roots), ["root", "few", "blank", "many"]);
    assert_eq!(named(&roots["elements"]["users"], "username", "few")["state"], "empty");
    // Rights belong to the number of a group, whatever its name.
    assert_eq!(names(&privileged), ["root", "few", "blank", "many", "member"]);
}

#[test]
fn files_that_are_gone_empty_or_not_understood_prove_nothing() {
    let gap = |change: &dyn Fn(&Host), question: Value, what: &str| {
        let host = Host::new();
        host.write("/etc/nsswitch.conf", b"", 0o644);
        host.write("/etc/passwd", b"root:x:0:0:root:/root:/bin/bash\n", 0o644);
        host.write("/etc/extra", b"", 0o444);
        host.write("/etc/ssh/sshd_config", b"", 0o644);
        host.write("/etc/ssh/sshd_config.d/a.conf", b"", 0o644);
        assert_eq!(host.ask(question.clone())["coverage"]["not_examined"], json!([]));
        change(&host);
        let answer = host.ask(question);
        let skipped = answer["coverage"]["not_examined"].as_array().unwrap().clone();
        assert!(skipped.iter().any(|skipped| skipped["what"] == what), "{what}: {skipped:?}");
    };
    let users = json!({"what": ["users"], "user": ["^nobody$"]});
    let remove = |path: &'static str| move |host: &Host| fs::remove_file(host.path(path)).unwrap();
    let write =
        |path: &'static str, text: &'static str| move |host: &Host| host.write(path, text.as_bytes(), 0o440);

    gap(&remove("/etc/passwd"), users.clone(), "/etc/passwd");
    gap(&write("/etc/passwd", ""), users.clone(), "/etc/passwd");
    gap(&write("/etc/passwd", "root:x:0:0::/:/bin/sh\n\0\0\0\0\n"), users.clone(), "/etc/passwd");
    gap(&write("/etc/passwd", "root:x:0:0::/:/bin/sh\nann:x:10"), users.clone(), "/etc/passwd");
    gap(&remove("/etc/shadow"), users, "/etc/shadow");
    let sudo = json!({"what": ["sudo"]});
    gap(&write("/etc/sudoers.d/10-ops", "ann what is this\n"), sudo.clone(), "/etc/sudoers.d/10-ops");
    let bomb: String = (0..30).map(|n| format!("User_Alias A{n} = A{}, A{}\n", n + 1, n + 1)).collect();
    let bomb = format!("{bomb}User_Alias A30 = ann, bob\nA0 ALL = ALL\n");
    gap(&|host| host.write("/etc/sudoers.d/10-ops", bomb.as_bytes(), 0o440), sudo, "/etc/sudoers");
}

#[test]
fn a_key_with_a_long_comment_is_a_key_and_a_line_that_is_none_is_told() {
    let host = Host::new();
    let text = format!("{KEY} {}\nssh-future AAAA\n", "x".repeat(20_000));
    host.write("/home/ann/.ssh/authorized_keys", text.as_bytes(), 0o600);

    let answer = host.ask(json!({"what": ["keys"], "user": ["^ann$"]}));

    assert_eq!(answer["elements"]["keys"][0]["line"], 1, "{answer}");
    assert_eq!(answer["elements"]["keys"][0]["comment"].as_str().unwrap().len(), 1024);
    let problems = answer["elements"]["problems"].as_array().unwrap();
    assert!(problems.iter().any(|problem| problem["line"] == 2), "{problems:?}");
}

#[test]
fn hashes_of_passwords_are_never_told() {
    for private in [false, true] {
        let result = Host::new().run(json!({}), private);
        let text = serde_json::to_string(&result).unwrap();

        assert!(!text.contains("secret") && !text.contains("$y$") && !text.contains("$6$"), "{text}");
    }
}

#[test]
fn questions_narrow() {
    let host = Host::new();

    let one = host.ask(json!({"user": ["^bob$"]}));
    let privileged = host.ask(json!({"privileged": true, "what": ["users"]}));
    let none = host.ask(json!({"uid": ["4711"], "what": ["users"]}));

    assert_eq!(one["elements"]["users"].as_array().unwrap().len(), 1);
    assert!(one["elements"]["logins"].as_array().unwrap().iter().all(|login| login["username"] == "bob"));
    let names: Vec<_> = privileged["elements"]["users"]
        .as_array()
        .unwrap()
        .iter()
        .map(|user| user["username"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["root", "ann", "bob", "toor"]);
    assert_eq!((&none["foundanything"], &none["success"]), (&json!(false), &json!(true)));
}

#[test]
fn who_does_not_exist_has_no_groups_rules_or_logins() {
    let host = Host::new();
    host.write("/etc/sudoers.d/all", b"ALL ALL = /bin/true\nremote ALL = /bin/true\n", 0o440);

    for asked in [
        json!({"user": ["^nosuch$"]}),
        json!({"uid": ["4242"]}),
        json!({"user": ["^nosuch$"], "privileged": true}),
        json!({"user": ["^ann$"], "uid": ["1001"]}),
        json!({"group": ["^nosuch$"]}),
    ] {
        let answer = host.ask(asked.clone());
        assert_eq!(answer["foundanything"], false, "{asked}: {answer}");
    }
    let bob = host.ask(json!({"uid": ["1001"]}))["elements"].clone();
    let names: Vec<_> = bob["groups"].as_array().unwrap().iter().map(|group| &group["groupname"]).collect();
    assert_eq!(names, ["sudo", "bob"]);
    assert_eq!(bob["logins"].as_array().unwrap().len(), 1, "{bob}");
    // A group without members is a group; a rule may name an account that only another service knows.
    host.write("/etc/group", b"root:x:0:\nempty:x:99:\n", 0o644);
    assert_eq!(host.ask(json!({"group": ["^empty$"]}))["elements"]["groups"][0]["gid"], 99);
    let remote = host.ask(json!({"user": ["^remote$"]}))["elements"].clone();
    let parts: Vec<_> = remote.as_object().unwrap().keys().collect();
    assert_eq!(parts, ["problems", "sudo", "sudo_defaults"], "{remote}");
}

#[test]
fn what_belongs_to_the_privileged_is_found_whatever_part_is_asked_for() {
    let groups = Host::new().ask(json!({"privileged": true, "user": ["^ann$"], "what": ["groups"]}));

    assert_eq!(groups["elements"]["groups"][0]["groupname"], "ann", "{groups}");
}

#[test]
fn extra_privacy_shows_states_and_counts_only() {
    let host = Host::new();

    let result = host
        .run(json!({"what": ["users", "groups", "sudo", "keys", "logins", "failures", "sessions"]}), true);

    assert_eq!(privacy::check(&result, masked_form), Ok(()));
    let text = serde_json::to_string(&result).unwrap();
    for secret in ["\"ann\"", "\"bob", "/home", "/etc", "SHA256:", "192.0.2", "web1", "22:13", "www"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
    assert!(
        text.contains("\"state\":\"empty\"") && text.contains("\"keys\":1") && text.contains("2023-11-14"),
        "{text}"
    );
}

#[test]
fn fifos_links_and_floods_cost_only_themselves() {
    let host = Host::new();
    fs::remove_file(host.path("/etc/sudoers.d/10-ops")).unwrap();
    rustix::fs::mknodat(CWD, host.path("/etc/sudoers.d/10-ops"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    fs::remove_file(host.path("/etc/gshadow")).unwrap();
    rustix::fs::mknodat(CWD, host.path("/etc/gshadow"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    symlink("/etc/sudoers", host.path("/etc/sudoers.d/circle")).unwrap();
    symlink("/etc/shadow", host.path("/home/ann/.ssh/authorized_keys2")).unwrap();
    host.write("/var/log/btmp", &[0xff; 5_000], 0o600);
    fs::File::create(host.path("/var/log/wtmp.1")).unwrap().set_len(1 << 40).unwrap();

    let result = host.run(json!({"what": ["users", "sudo", "keys", "failures"]}), false);

    assert!(result.success);
    let coverage = result.coverage.unwrap();
    for path in ["/etc/sudoers.d/10-ops", "/etc/gshadow"] {
        assert!(coverage.not_examined.iter().any(|skipped| skipped.what == path), "{path}: {coverage:?}");
    }
}

#[test]
fn a_hundred_thousand_accounts_are_read() {
    let host = Host::new();
    let passwd: String = (0..100_000)
        .map(|uid| format!("u{uid}:x:{}:{}::/nonexistent:/bin/sh\n", uid + 2_000, uid % 50))
        .collect();
    host.write("/etc/passwd", passwd.as_bytes(), 0o644);

    let answer = host.ask(json!({"what": ["users"], "user": ["^u99999$"]}));

    assert_eq!(answer["elements"]["users"][0]["uid"], 101_999);
}

/// What is answered while a directory of the host does not respond. With the image as this thread's root and without
/// /proc, nobody knows from a table of mounts that it may not.
fn answered_while_hung(root: &std::path::Path, point: &std::path::Path) -> Option<Value> {
    use nix::sched::CloneFlags;
    let (root, point) = (root.to_owned(), point.to_owned());
    let answered = std::thread::spawn(move || {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).ok()?;
        let device = fs::File::options().read(true).write(true).open("/dev/fuse").ok()?;
        let run = |arguments: &[&str]| {
            let stdin = std::process::Stdio::from(device.try_clone().ok()?);
            let ran = std::process::Command::new("mount").args(arguments).stdin(stdin).status();
            ran.ok().filter(|status| status.success())
        };
        run(&["--make-rprivate", "/"])?;
        let options = "fd=0,rootmode=40000,user_id=0,group_id=0";
        run(&["-i", "-t", "fuse", "-o", options, "hung", point.to_str()?])?;
        nix::unistd::chroot(&root).ok()?;
        let mut query = Query::new(Some(to_raw_value(&json!({})).unwrap()));
        query.deadline = Some((jiff::Timestamp::now() + std::time::Duration::from_secs(4)).to_string());
        let result = vigie_sdk::watched::<Accounts>(query);
        // Whoever waits for it is let go.
        drop(device);
        Some(serde_json::to_value(&result).unwrap())
    });
    answered.join().unwrap()
}

#[test]
fn a_home_that_does_not_respond_costs_only_what_is_read_after_it() {
    let host = Host::new();
    let Some(answer) = answered_while_hung(host.directory.path(), &host.path("/home/ann/.ssh")) else {
        return vigie_skipped::skipped("no FUSE file system can be mounted");
    };

    assert!(answer["foundanything"] == true && answer["success"] == false, "{answer}");
    let users = &answer["elements"]["users"];
    assert_eq!(named(users, "username", "bob")["privileged"], true, "{answer}");
    let skipped = answer["coverage"]["not_examined"].to_string();
    assert!(
        skipped.contains("/home/ann/.ssh/authorized_keys") && skipped.contains("does not respond"),
        "{answer}"
    );
}

#[test]
fn rules_of_a_group_without_members_are_shown_to_whoever_asks_for_the_group() {
    let host = Host::new();
    host.write("/etc/group", b"root:x:0:\nwheel:x:10:\n", 0o644);
    let rules = "%wheel ALL = ALL\n%#10 ALL = /bin/a\n%other ALL = ALL\n%domain-wheel ALL = /bin/b\n";
    host.write("/etc/sudoers", rules.as_bytes(), 0o440);

    let answer = host.ask(json!({"what": ["sudo"], "group": ["wheel$"]}));

    let lines: Vec<_> =
        answer["elements"]["sudo"].as_array().unwrap().iter().map(|rule| &rule["line"]).collect();
    assert_eq!(lines, [1, 2, 4], "{answer}");
}
