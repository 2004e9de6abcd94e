//! From nothing to a fleet: broker, policy, an agent that joins, signed actions, a revoked key.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use vigie_fleet::broker::local::find_server;

use crate::harness::{Host, Ran, Settings, VIGIE, wait_until};

/// Says that a test is skipped, which CI does not take.
pub(crate) fn server_is_missing() -> bool {
    let missing = find_server().is_err();
    if missing {
        vigie_skipped::missing("nats-server");
    }
    missing
}

/// Runs `vigie fleet …` in a directory.
pub(crate) fn fleet(directory: &Path, arguments: &[&str]) -> Ran {
    let output = Command::new(VIGIE)
        .arg("fleet")
        .args(arguments)
        .current_dir(directory)
        .env_remove("VIGIE_FLEET")
        .env("HOME", directory)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let ran = Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    };
    // Ahead of the command stands whose file it is.
    let skipped = if arguments.first() == Some(&"--fleet") { 2 } else { 0 };
    crate::forms::check(&[&["fleet"], &arguments[skipped..]].concat(), &ran.out);
    ran
}

pub(crate) fn json_of(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{ran:?}"))
}

/// A port of this machine that no other test takes and that the kernel gives to no client.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = u16::try_from(std::process::id() % 10_000).unwrap();
    loop {
        let port = 15_300 + (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A `fleet up` that runs.
pub(crate) struct Up {
    child: Child,
    pub(crate) place: TempDir,
    started: Value,
}

impl Up {
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    fn start_in(place: TempDir) -> Self {
        let output = File::create(place.path().join("up.out")).unwrap();
        let errors = File::create(place.path().join("up.err")).unwrap();
        let port = place.path().join("port");
        if !port.exists() {
            fs::write(&port, free_port().to_string()).unwrap();
        }
        let mut child = Command::new(VIGIE)
            .args(["fleet", "up", "fleet", "--port"])
            .arg(fs::read_to_string(port).unwrap())
            .current_dir(place.path())
            .env("USER", "ann")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .unwrap();
        let started = wait_until("the fleet is up", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("{status}: {}", fs::read_to_string(place.path().join("up.err")).unwrap());
            }
            serde_json::from_str(&fs::read_to_string(place.path().join("up.out")).unwrap()).ok()
        });
        Self { child, place, started }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn signal(&mut self) -> Option<i32> {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        wait_until("the fleet is down", || self.child.try_wait().unwrap()).code()
    }

    pub(crate) fn administrator(&self, arguments: &[&str]) -> Ran {
        self.user("administrator", arguments)
    }

    pub(crate) fn user(&self, user: &str, arguments: &[&str]) -> Ran {
        let file = self.path(&format!("fleet/{user}/fleet.toml"));
        fleet(self.place.path(), &[&["--fleet", file.to_str().unwrap()], arguments].concat())
    }

    /// Enrols an agent and makes its host.
    fn enrolled(&self, agent: &str) -> Host {
        let ran = self.administrator(&["enrol", agent, "--group", "web", "--tag", "env=prod"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let section = fs::read_to_string(self.path(agent).join("vigie-fleet.toml")).unwrap();
        Host::new(&Settings::default(), &section)
    }

    fn write(&self, name: &str, value: &Value) {
        fs::write(self.path(name), value.to_string()).unwrap();
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // The broker dies with it.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(crate) fn status(host: &Host) -> Value {
    let ran = host.vigie(&["status", "--json"]);
    serde_json::from_str(&ran.out).unwrap_or(Value::Null)
}

#[test]
fn an_agent_joins_a_fleet_and_a_revoked_key_is_refused() {
    if server_is_missing() {
        return;
    }
    let up = Up::start();
    assert_eq!(up.started["policy_version"], 1);
    let host = up.enrolled("web-1");
    let _agent = host.start();
    wait_until("the agent has the policy", || {
        let fleet = status(&host)["fleet"].clone();
        (fleet["connected"] == true && fleet["policy_version"] == 1).then_some(())
    });

    up.write(
        "action.json",
        &json!({
            "name": "clock", "target": "tag.env == \"prod\" && group has \"web\"", "expireafter": "10m",
            "operations": [{"module": "netstat", "parameters": {"listeningport": ["22"]}}],
        }),
    );
    let signed = up.user("ann", &["sign", "action.json", "--out", "signed.json"]);
    assert_eq!(signed.code, 0, "{signed:?}");
    let verified = up.user("ann", &["verify", "signed.json"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    let report = json_of(&verified);
    assert_eq!(report["signatures"][0]["investigator"], "ann");
    assert_eq!(report["modules"], json!([{"module": "netstat", "weight": 1, "minimum": 1, "enough": true}]));
    let sent = json_of(&up.user("ann", &["send", "signed.json"]));
    assert_eq!((&sent["action"], &sent["notified"]), (&report["action"], &json!(1)));
    wait_until("the agent runs the action", || {
        (status(&host)["fleet"]["outcomes"]["accepted"] == 1).then_some(())
    });

    // Signed before the key is revoked, sent after.
    let signed = up.user("ann", &["sign", "action.json", "--out", "late.json"]);
    assert_eq!(signed.code, 0, "{signed:?}");
    let key = report["signatures"][0]["key"].as_str().unwrap();
    let next = up.administrator(&["policy", "revoke", key, "--out", "next.json"]);
    assert_eq!(next.code, 0, "{next:?}");
    let unsigned = up.administrator(&["policy", "publish", "next.json"]);
    assert_ne!(unsigned.code, 0);
    let signed = up.administrator(&["policy", "sign", "next.json", "--key", "fleet/keys/root_key"]);
    assert_eq!(signed.code, 0, "{signed:?}");
    assert_eq!(up.administrator(&["policy", "check", "next.signed.json"]).code, 0);
    let published = up.administrator(&["policy", "publish", "next.signed.json"]);
    assert_eq!(json_of(&published), json!({"version": 2, "new": true}));
    wait_until("the agent has the new policy", || {
        (status(&host)["fleet"]["policy_version"] == 2).then_some(())
    });
    let verified = up.user("ann", &["verify", "late.json"]);
    assert_eq!((verified.code, &json_of(&verified)["refusal"]), (1, &json!("revoked_key")));
    assert_eq!(up.user("ann", &["send", "late.json"]).code, 0);
    wait_until("the agent refuses it", || {
        (status(&host)["fleet"]["outcomes"]["revoked_key"] == 1).then_some(())
    });
    let older = up.administrator(&["policy", "publish", "fleet/policy.signed.json"]);
    assert_eq!(older.code, 78, "{older:?}");
    assert!(older.err.contains("older"), "{older:?}");
}

#[test]
fn an_action_file_in_migs_format_is_asked_of_the_fleet_and_each_operation_is_answered() {
    if server_is_missing() {
        return;
    }
    let up = Up::start();
    let host = up.enrolled("web-1");
    let _agent = host.start();
    wait_until("the agent has the policy", || {
        let fleet = status(&host)["fleet"].clone();
        (fleet["connected"] == true && fleet["policy_version"] == 1).then_some(())
    });
    fs::write(host.path("needle"), "x").unwrap();
    let ask = |operations: &Value| {
        let action = json!({
            "name": "find the needle", "target": "environment->>'os'='linux'", "threat": {"level": "high"},
            "validfrom": "2020-01-01T00:00:00Z", "expireafter": "10m", "syntaxversion": 2, "operations": operations,
        });
        // As MIG's console prints it.
        fs::write(up.path("action.json"), serde_json::to_string_pretty(&action).unwrap()).unwrap();
        let ran = Command::new(VIGIE)
            .args(["query", "-i", "action.json", "-t", "tag.env == \"prod\"", "--wait", "all", "--json"])
            .current_dir(up.place.path())
            .env("VIGIE_FLEET", up.path("fleet/ann/fleet.toml"))
            .env("XDG_STATE_HOME", up.place.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let out = String::from_utf8(ran.stdout.clone()).unwrap();
        let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let answer = lines.into_iter().find(|line| line["type"] == "answer");
        (answer.unwrap_or_else(|| panic!("{ran:?}")), String::from_utf8(ran.stderr).unwrap())
    };
    let search = json!({"searches": {"s": {"paths": [host.path("")], "names": ["^needle$"]}}});
    let file = json!({"module": "file", "parameters": search});

    let (answer, notes) =
        ask(&json!([file, {"module": "netstat", "parameters": {"localip": ["127.0.0.0/8"]}}]));
    let (refused, _) = ask(&json!([file, {"module": "nosuch", "parameters": {}}]));

    assert_eq!(answer["agent"], "web-1", "{answer}");
    let found = &answer["operations"][0]["result"]["elements"]["s"];
    assert_eq!(found[0]["file"], host.path("needle").to_str().unwrap(), "{answer}");
    assert_eq!(answer["operations"][1]["result"]["foundanything"], true, "{answer}");
    assert!(notes.contains("syntaxversion"), "what means nothing here is named: {notes}");
    assert!(refused["message"].as_str().unwrap().contains("no module \"nosuch\""), "{refused}");
}

#[test]
fn a_fleet_comes_back_as_it_was_and_runs_once() {
    if server_is_missing() {
        return;
    }
    let mut up = Up::start();
    let second = fleet(up.place.path(), &["up", "fleet"]);
    assert_eq!(second.code, 75, "{second:?}");
    assert!(second.err.contains("already"), "{second:?}");
    let host = up.enrolled("web-1");
    assert_eq!(up.signal(), Some(0));

    let place = std::mem::replace(&mut up.place, tempfile::tempdir().unwrap());
    let up = Up::start_in(place);

    assert_eq!(up.started["policy_version"], 1);
    let again = json_of(&up.administrator(&["enrol", "web-1"]));
    assert_eq!(again["new"], false, "the enrolment was kept");
    let _agent = host.start();
    wait_until("the agent is connected", || (status(&host)["fleet"]["connected"] == true).then_some(()));
}

#[test]
fn an_agent_s_key_is_replaced_only_when_that_is_said_and_revoked_for_good() {
    if server_is_missing() {
        return;
    }
    let mut up = Up::start();
    let first = json_of(&up.administrator(&["enrol", "web-1"]));
    let key = json_of(&fleet(up.place.path(), &["keygen", "other.nk"]));
    let other = key["key"].as_str().unwrap();
    assert_ne!(first["key"], key["key"]);

    let refused = up.administrator(&["enrol", "web-1", "--key", other, "--out", "other"]);
    assert_eq!(refused.code, 64, "{refused:?}");
    assert!(refused.err.contains("--replace"), "{refused:?}");
    let replaced = up.administrator(&["enrol", "web-1", "--key", other, "--out", "other", "--replace"]);
    assert_eq!(json_of(&replaced)["new"], true);
    let section = fs::read_to_string(up.path("other/vigie-fleet.toml")).unwrap();
    assert!(!section.contains("key_file"), "the agent has its key where it made it: {section}");

    let revoked = json_of(&up.administrator(&["revoke", "web-1"]));
    assert_eq!(
        (&revoked["key"], &revoked["shut_out"]),
        (&key["key"], &json!(true)),
        "the server was reloaded"
    );
    assert_eq!(up.administrator(&["revoke", "web-1"]).code, 0, "it can be given again");
    assert_eq!(up.administrator(&["revoke", "web-9"]).code, 64);
    assert_eq!(up.signal(), Some(0));
    let place = std::mem::replace(&mut up.place, tempfile::tempdir().unwrap());
    let up = Up::start_in(place);
    let key_file = up.path("other.nk");
    let section = section.replacen("roots", &format!("key_file = {key_file:?}\nroots"), 1);
    let host = Host::new(&Settings::default(), &section);
    let _agent = host.start();
    wait_until("the broker refuses the agent", || {
        status(&host)["fleet"]["problem"]
            .as_str()
            .filter(|problem| problem.contains("rejects the credentials"))
            .map(|_| ())
    });
}

#[test]
fn two_people_sign_what_one_may_not_ask_alone() {
    let place = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let ran = fleet(place.path(), arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        ran
    };
    run(&["init", "fleet", "--org", "example", "--investigator", "ann"]);
    run(&["init", "other", "--org", "example", "--investigator", "bob"]);
    // Bob's key goes into the policy, and it takes both of them.
    let path = place.path().join("fleet/policy.json");
    let mut policy: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let bob = fs::read_to_string(place.path().join("other/bob/key.pub")).unwrap();
    policy["investigators"]["bob"] = json!({"keys": [{"key": bob.trim()}]});
    policy["acl"]["default"] = json!({"minimum_weight": 2, "investigators": {"ann": 1, "bob": 1}});
    fs::write(place.path().join("policy.json"), policy.to_string()).unwrap();
    run(&["policy", "sign", "policy.json", "--key", "fleet/keys/root_key"]);
    let action = json!({"name": "a", "operations": [{"module": "timedrift"}]});
    fs::write(place.path().join("action.json"), action.to_string()).unwrap();

    let ann = ["--fleet", "fleet/ann/fleet.toml"];
    run(&[&ann[..], &["sign", "action.json", "-t", "all", "--out", "signed.json"]].concat());
    let verify = [&ann[..], &["verify", "signed.json", "--policy", "policy.signed.json"]].concat();
    let alone = fleet(place.path(), &verify);
    assert_eq!((alone.code, &json_of(&alone)["refusal"]), (1, &json!("too_little_weight")));
    run(&[&ann[..], &["sign", "signed.json", "--key", "other/bob/key"]].concat());
    let both = run(&verify);

    assert_eq!(json_of(&both)["modules"][0]["weight"], 2);
    let twice = fleet(place.path(), &[&ann[..], &["sign", "signed.json"]].concat());
    assert_eq!(twice.code, 64, "{twice:?}");
    let bad = fleet(place.path(), &[&ann[..], &["sign", "action.json", "-t", "os = linux"]].concat());
    assert_eq!(bad.code, 64, "{bad:?}");
}
