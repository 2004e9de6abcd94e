//! The modules that list what is on a host, asked through the agent.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::{Host, Settings};

/// A system in a directory, with a package and a job that nobody explains.
fn image(host: &Host) -> PathBuf {
    let image = host.path("image");
    for (path, content) in [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"),
        (
            "var/lib/dpkg/status",
            "Package: cron\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\nConffiles:\n /etc/crontab d41d8cd98f00b204e9800998ecf8427e\n",
        ),
        ("var/lib/dpkg/info/cron.list", "/etc\n/etc/crontab\n"),
        ("etc/crontab", "@reboot root /opt/new\n"),
        ("etc/cron.d/job", "# x\n*/5 * * * * root /opt/job\n"),
    ] {
        let path = image.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    image
}

#[test]
fn what_starts_by_itself_is_listed_for_programs_and_for_people() {
    let host = Host::new(&Settings::default(), "");
    let image = image(&host);
    let image = image.to_str().unwrap();
    let _agent = host.start();

    let answer =
        host.vigie(&["query", "persistence", "--local", "--kind", "cron", "--root", image, "--json"]);
    let shown =
        host.vigie(&["--human", "query", "persistence", "--local", "--kind", "cron", "--root", image]);
    let none = host.vigie(&["query", "persistence", "--kind", "udev", "--root", image, "--fail-if-none"]);
    let wrong = host.vigie(&["query", "persistence", "--kind", "crom", "--json"]);

    let result: Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(answer.code, 0, "{}", answer.err);
    let found: Vec<_> = result["elements"]["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            json!([entry["file"], entry["line"], entry["verdict"], entry["attack"], entry["command"]])
        })
        .collect();
    assert_eq!(
        found,
        [
            json!(["/etc/cron.d/job", 2, "local", "T1053.003", "/opt/job"]),
            json!(["/etc/crontab", 1, "modified", "T1053.003", "/opt/new"]),
        ]
    );
    assert_eq!(result["coverage"]["complete"], true, "{result}");
    assert!(shown.out.contains("VERDICT") && shown.out.contains("/etc/cron.d/job:2"), "{}", shown.out);
    assert_ne!(none.code, 0, "{}", none.out);
    assert!(wrong.out.contains("crom") && wrong.code != 0, "{}", wrong.out);
}

#[test]
fn accounts_are_listed_for_programs_and_for_people() {
    let host = Host::new(&Settings::default(), "");
    let image = image(&host);
    fs::create_dir_all(image.join("etc/sudoers.d")).unwrap();
    fs::write(image.join("etc/sudoers"), "root ALL = NOPASSWD: /bin/tool\n").unwrap();
    let image = image.to_str().unwrap();
    let _agent = host.start();

    let answer = host.vigie(&["query", "accounts", "--root", image, "--json"]);
    let shown = host.vigie(&[
        "--human",
        "query",
        "accounts",
        "--privileged",
        "--what",
        "users",
        "--what",
        "sudo",
        "--root",
        image,
    ]);
    let wrong = host.vigie(&["query", "accounts", "-p", "what=nothing", "--json"]);

    let result: Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(answer.code, 0, "{}", answer.err);
    let root = &result["elements"]["users"][0];
    assert_eq!(
        json!([root["username"], root["state"], root["sudo"]]),
        json!(["root", "not-set", 1]),
        "{result}"
    );
    assert!(shown.out.contains("USER") && shown.out.contains("1 rule of sudo"), "{}", shown.out);
    assert!(wrong.out.contains("nothing") && wrong.code != 0, "{wrong:?}");
}

#[test]
fn packages_of_another_root_are_listed_and_verified() {
    let host = Host::new(&Settings::default(), "");
    let image = image(&host);
    let image = image.to_str().unwrap();
    let _agent = host.start();

    let answer = host.vigie(&["query", "packages", "--root", image, "--json"]);
    let owner = host.vigie(&["query", "packages", "--root", image, "--file", "/etc/crontab", "--json"]);
    let verified = host.vigie(&["query", "packages", "--root", image, "--verify"]);
    let listed = host.vigie(&["query", "packages", "--root", image, "--verify", "--json"]);

    for answer in [answer, owner] {
        let result: Value = serde_json::from_str(&answer.out).unwrap();
        let packages = result["elements"]["packages"].as_array().unwrap();
        assert_eq!(packages.len(), 1, "{result}");
        assert_eq!(json!([packages[0]["name"], packages[0]["version"]]), json!(["cron", "1"]));
    }
    assert_eq!(verified.code, 1, "{verified:?}");
    let listed: Value = serde_json::from_str(&listed.out).expect("the answer is JSON");
    let findings = listed["elements"]["findings"].as_array().expect("findings are a list");
    assert!(
        findings.iter().any(|finding| finding["what"] == "digest" && finding["path"] == "/etc/crontab"),
        "{listed}"
    );
}
