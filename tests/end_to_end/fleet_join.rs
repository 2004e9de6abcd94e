//! Hosts join by a token: let in by its rule or by a person, as often as it may and no more, over TLS as well.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use vigie_fleet::broker::client::Outgoing;
use vigie_fleet::broker::connection::{ConnectionSettings, Login, TlsSettings, connect};
use vigie_fleet::broker::jwt::Role;
use vigie_fleet::broker::local::find_server;
use vigie_fleet::broker::streams::{self, StreamSizes};

use crate::fleet_setup::{Up, fleet, free_port, json_of, server_is_missing, status};
use crate::harness::{Host, Ran, Settings, VIGIE, wait_until};

/// Somebody who lets hosts in as they come.
struct Approver {
    child: Child,
}

impl Approver {
    fn start(directory: &Path, profile: &Path, more: &[&str]) -> Self {
        let output = File::create(directory.join("approve.out")).unwrap();
        let child = Command::new(VIGIE)
            .args(["fleet", "--fleet", profile.to_str().unwrap(), "approve", "--follow"])
            .args(more)
            .env("HOME", directory)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Self { child }
    }
}

impl Drop for Approver {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A host with the shipped form of tags and without a fleet.
fn host() -> Host {
    Host::new(&Settings::default(), "[tags]\nzone = \"dc1\"\n")
}

fn join(host: &Host, token: &str, more: &[&str]) -> Ran {
    let config = host.path("vigie.toml");
    let arguments = ["join", token, "--config", config.to_str().unwrap(), "--no-start"];
    let more = if more.contains(&"--wait") { more.to_vec() } else { [more, &["--wait", "25s"]].concat() };
    fleet(&host.path("."), &[&arguments[..], &more].concat())
}

fn token(up: &Up, more: &[&str]) -> String {
    let made = up.user("enroller", &[&["token", "new"], more].concat());
    json_of(&made)["token"].as_str().unwrap_or_else(|| panic!("{made:?}")).to_owned()
}

fn wait_connected(host: &Host) {
    wait_until("the agent is connected and has the policy", || {
        let fleet = status(host)["fleet"].clone();
        (fleet["connected"] == true && fleet["policy_version"].is_u64()).then_some(())
    });
}

#[test]
fn a_host_joins_by_one_line_and_the_token_holds_no_longer_than_it_says() {
    if server_is_missing() {
        return;
    }
    let up = Up::start();
    let text = token(
        &up,
        &[
            "--approved",
            "--uses",
            "2",
            "--names",
            "web-*",
            "--tag",
            "env=prod",
            "--tag",
            "zone=dc1",
            "--group",
            "web",
        ],
    );
    let shown = json_of(&fleet(up.place.path(), &["token", "show", &text]));
    assert_eq!((&shown["grant"]["uses"], &shown["grant"]["tags"]["env"]), (&json!(2), &json!("prod")));
    let one = host();

    // Nobody is there to let it in, and the name is not the token's.
    let early = join(&one, &text, &["--name", "web-1", "--wait", "1s"]);
    assert_eq!(early.code, 3, "{early:?}");
    assert_eq!(join(&one, &text, &["--name", "db-1"]).code, 64);
    let pending = json_of(&up.user("enroller", &["pending"]));
    assert_eq!((&pending["agent"], &pending["what"]), (&json!("web-1"), &json!("waits")));

    let profile = up.path("fleet/enroller/fleet.toml");
    let approver = Approver::start(up.place.path(), &profile, &[]);
    let joined = json_of(&join(&one, &text, &["--name", "web-1"]));
    assert_eq!((&joined["agent"], &joined["policy_version"]), (&json!("web-1"), &json!(1)));
    let _agent = one.start();
    wait_connected(&one);
    let listed =
        json_of(&up.user("ann", &["agents", "--facts", "-t", "tag.env == \"prod\" && tag.zone == \"dc1\""]));
    assert_eq!(
        (&listed["agent"], &listed["facts"]["groups"]),
        (&json!("web-1"), &json!(["web"])),
        "{listed}"
    );
    // The same line again, as cloud-init gives it at each boot.
    let again = join(&one, &text, &["--name", "web-1"]);
    assert_eq!(again.code, 0, "{again:?}");
    // A host of another fleet did not join this one.
    let config = fs::read_to_string(one.path("vigie.toml")).unwrap();
    fs::write(one.path("vigie.toml"), config.replace("org = \"dev\"", "org = \"elsewhere\"")).unwrap();
    let other = join(&one, &text, &["--name", "web-1"]);
    assert!(other.code == 78 && other.err.contains("the token is for dev"), "{other:?}");
    fs::write(one.path("vigie.toml"), config).unwrap();

    // Another host with a taken name, then the last place, then one too many.
    let two = host();
    let taken = join(&two, &text, &["--name", "web-1"]);
    assert_eq!(taken.code, 77, "{taken:?}");
    assert!(taken.err.contains("another host has this name"), "{taken:?}");
    let second = join(&two, &text, &["--name", "web-2"]);
    assert_eq!(second.code, 0, "{second:?}");
    let third = join(&host(), &text, &["--name", "web-3"]);
    assert!(third.code == 77 && third.err.contains("all 2 permitted hosts"), "{third:?}");
    // An enroller that is started anew counts what was let in before.
    drop(approver);
    let _approver = Approver::start(up.place.path(), &profile, &[]);
    let fourth = join(&host(), &text, &["--name", "web-4"]);
    assert!(fourth.code == 77 && fourth.err.contains("all 2 permitted hosts"), "{fourth:?}");

    // A host that was shut out does not come back by what it sent before.
    assert_eq!(up.administrator(&["revoke", "web-2"]).code, 0);
    let back = join(&two, &text, &["--name", "web-2", "--wait", "20s"]);
    assert_ne!(back.code, 3, "{back:?}");
    let enrolled = up.user("ann", &["agents"]);
    assert!(!enrolled.out.contains("web-2"), "{enrolled:?}");

    // A token that was ended lets nobody in.
    let ended = token(&up, &["--approved"]);
    assert_eq!(up.user("enroller", &["token", "end", &ended]).code, 0);
    let late = join(&host(), &ended, &["--name", "web-5"]);
    assert!(late.code == 77 && late.err.contains("was revoked by an administrator"), "{late:?}");
    let short = token(&up, &["--approved", "--valid", "1s"]);
    wait_until("the token's time is up", || {
        let ran = join(&host(), &short, &["--name", "web-6", "--wait", "1s"]);
        (ran.code == 77 && ran.err.contains("expired")).then_some(())
    });
}

/// Enrollers decide on what each of them has read; the broker takes only what was decided on the newest.
#[test]
fn enrollers_that_decide_at_the_same_time_let_in_no_more_hosts_than_the_token_permits() {
    if server_is_missing() {
        return;
    }
    let up = Up::start();
    let text = token(&up, &["--uses", "2"]);
    let hosts: Vec<(String, Host)> = (1..=6).map(|number| (format!("web-{number}"), host())).collect();
    for (name, host) in &hosts {
        assert_eq!(join(host, &text, &["--name", name, "--wait", "1s"]).code, 3);
    }

    let joined: usize = std::thread::scope(|scope| {
        let enrollers: Vec<_> =
            hosts.iter().map(|(name, _)| scope.spawn(|| up.user("enroller", &["approve", name]))).collect();
        let ran = enrollers.into_iter().map(|one| one.join().expect("the enroller's thread ends"));
        ran.filter(|ran| ran.out.contains("\"joined\"")).count()
    });

    assert_eq!(joined, 2);
    let enrolled = up.user("ann", &["agents"]);
    let members = hosts.iter().filter(|(name, _)| enrolled.out.contains(name.as_str())).count();
    assert_eq!(members, 2, "{enrolled:?}");
}

/// The stream of enrolments is lost, and made anew.
fn lose_enrolments(up: &Up) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(async {
        let port = fs::read_to_string(up.path("port")).expect("the fleet is up");
        let settings = ConnectionSettings {
            urls: vec![format!("nats://127.0.0.1:{port}")],
            login: Login::CredentialsFile(up.path("fleet/administrator/broker.creds")),
            tls: TlsSettings::default(),
            name: "loses".to_owned(),
            inbox_prefix: Role::Administrator.inbox_prefix(&"loses".parse().expect("a name")),
            subscription_capacity: None,
            connect_in_background: false,
        };
        let (events, _kept) = mpsc::channel(8);
        let connection = connect(settings, events).await.expect("the broker is there");
        let delete = Outgoing { subject: "$JS.API.STREAM.DELETE.ENROL", ..Outgoing::default() };
        connection.client.request(delete, Duration::from_secs(20)).await.expect("the broker deletes it");
        streams::ensure(&connection.client, &StreamSizes::default()).await.expect("it is made anew");
    });
}

/// Another enroller put as much into the new stream as this one had counted in the former.
#[test]
fn an_enroller_counts_what_is_in_a_stream_that_was_made_anew() {
    if server_is_missing() {
        return;
    }
    let up = Up::start();
    let text = token(&up, &["--approved", "--uses", "2"]);
    let approver = Approver::start(up.place.path(), &up.path("fleet/enroller/fleet.toml"), &[]);
    assert_eq!(join(&host(), &text, &["--name", "web-1"]).code, 0);
    // It has looked again since, so that its next look begins behind its own record.
    let unruled = token(&up, &["--uses", "1"]);
    assert_eq!(join(&host(), &unruled, &["--name", "web-9", "--wait", "1s"]).code, 3);
    let output = up.place.path().join("approve.out");
    wait_until("it has looked", || {
        fs::read_to_string(&output).expect("it writes there").contains("web-9").then_some(())
    });
    let id = Pid::from_raw(approver.child.id().try_into().expect("an ID fits"));
    kill(id, Signal::SIGSTOP).expect("it runs");
    lose_enrolments(&up);
    let two = host();
    assert_eq!(join(&two, &text, &["--name", "web-2", "--wait", "1s"]).code, 3);
    assert_eq!(up.user("enroller", &["approve", "web-2"]).code, 0);
    kill(id, Signal::SIGCONT).expect("it runs");

    let third = join(&host(), &text, &["--name", "web-3"]);

    assert!(third.code == 77 && third.err.contains("all 2 permitted hosts"), "{third:?}");
    assert_eq!(join(&two, &text, &["--name", "web-2"]).code, 0);
}

/// What it counted in the former stream is more than the new one has.
#[test]
fn an_enroller_goes_on_in_a_stream_that_was_made_anew_and_is_empty() {
    if server_is_missing() {
        return;
    }
    let up = Up::start();
    let text = token(&up, &["--approved", "--uses", "2"]);
    let _approver = Approver::start(up.place.path(), &up.path("fleet/enroller/fleet.toml"), &[]);
    assert_eq!(join(&host(), &text, &["--name", "web-1"]).code, 0);
    lose_enrolments(&up);

    let second = join(&host(), &text, &["--name", "web-2"]);

    assert_eq!(second.code, 0, "{second:?}");
    // Who was let in before still counts.
    let third = join(&host(), &text, &["--name", "web-3"]);
    assert!(third.code == 77 && third.err.contains("all 2 permitted hosts"), "{third:?}");
}

#[test]
fn a_person_lets_hosts_in_and_turns_them_away() {
    if server_is_missing() {
        return;
    }
    let up = Up::start();
    let text = token(&up, &["--uses", "3"]);
    let (one, two) = (host(), host());
    for host in [&one, &two] {
        assert_eq!(join(host, &text, &["--name", "web-1", "--wait", "1s"]).code, 3);
    }
    // Both want one name: the person has to say which.
    let both = up.user("enroller", &["approve", "web-1"]);
    assert!(both.code == 64 && both.err.contains("2 hosts request the name"), "{both:?}");
    let rule = up.user("enroller", &["approve"]);
    assert_eq!(rule.code, 0, "the token has no rule: {rule:?}");
    let pending = up.user("enroller", &["pending"]);
    let keys: Vec<Value> = pending.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let key = |host: &Host| {
        let seed = fs::read_to_string(host.path("state/fleet/agent.nk")).unwrap();
        vigie_fleet::agent_key::AgentKey::from_seed(seed.trim()).unwrap().public_key().text()
    };
    assert_eq!(keys.len(), 2);
    assert_eq!(up.user("enroller", &["approve", &key(&one)]).code, 0);
    assert_eq!(up.user("enroller", &["deny", &key(&two), "--reason", "unknown here"]).code, 0);
    assert_eq!(join(&one, &text, &["--name", "web-1"]).code, 0);
    let denied = join(&two, &text, &["--name", "web-1"]);
    assert!(denied.code == 77 && denied.err.contains("unknown here"), "{denied:?}");
    let _agent = one.start();
    wait_connected(&one);

    // No rule overrules a person; another word of a person does.
    let (ruled, three) = (token(&up, &["--approved"]), host());
    assert_eq!(join(&three, &ruled, &["--name", "web-3", "--wait", "1s"]).code, 3);
    assert_eq!(up.user("enroller", &["deny", &key(&three)]).code, 0);
    let turned_away = join(&three, &ruled, &["--name", "web-3"]);
    assert_eq!(turned_away.code, 77, "{turned_away:?}");
    let asked = up.user("enroller", &["approve"]);
    let said: Vec<Value> = asked.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_three = said.iter().find(|one| one["key"] == key(&three).as_str()).unwrap();
    assert_eq!(
        (&of_three["what"], &of_three["reason"]),
        (&json!("waits"), &json!("this host was denied before")),
    );
    assert_eq!(up.user("enroller", &["approve", &key(&three)]).code, 0);
    assert_eq!(join(&three, &ruled, &["--name", "web-3"]).code, 0);
}

#[test]
fn over_tls_a_host_gets_its_certificate_and_renews_it() {
    if server_is_missing() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let port = free_port();
    let url = format!("tls://127.0.0.1:{port}");
    let run = |arguments: &[&str]| {
        let ran = fleet(place.path(), arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {ran:?}");
        ran
    };
    run(&["init", "fleet", "--org", "example", "--url", &url, "--investigator", "ann"]);
    fs::create_dir_all(place.path().join("fleet/jetstream")).unwrap();
    let mut server = Command::new(find_server().unwrap())
        .arg("-c")
        .arg(place.path().join("fleet/nats-server.conf"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let administrator = ["--fleet", "fleet/administrator/fleet.toml"];
    wait_until("the policy is published", || {
        let publish = [&administrator[..], &["policy", "publish", "fleet/policy.signed.json"]].concat();
        (fleet(place.path(), &publish).code == 0).then_some(())
    });
    let made = run(&[&administrator[..], &["token", "new", "--approved"]].concat());
    let text = json_of(&made)["token"].as_str().unwrap().to_owned();
    let profile = place.path().join("fleet/administrator/fleet.toml");
    // Logins that end soon: the agent renews its own, and goes on.
    let approver = Approver::start(place.path(), &profile, &["--login-valid", "30s"]);
    let host = host();
    let joined = join(&host, &text, &["--name", "web-1"]);
    assert_eq!(joined.code, 0, "{joined:?}");
    let login = fs::read_to_string(host.path("state/fleet/agent.jwt")).unwrap();
    let certificate = fs::read_to_string(host.path("state/fleet/agent-tls.pem")).unwrap();
    assert!(!host.path("state/fleet/join-tls.key").exists(), "the token's certificate stays nowhere");
    let _agent = host.start();
    wait_connected(&host);
    wait_until("the login and the certificate are renewed", || {
        let renewed = fs::read_to_string(host.path("state/fleet/agent.jwt")).unwrap() != login
            && fs::read_to_string(host.path("state/fleet/agent-tls.pem")).unwrap() != certificate;
        renewed.then_some(())
    });
    wait_connected(&host);
    drop(approver);

    // Bob comes, may ask, and goes; his login ends with it.
    run(&["init", "other", "--org", "example", "--investigator", "bob"]);
    let add = ["investigator", "add", "bob", "--key", "other/bob/key.pub", "--out", "two.json"];
    run(&[&administrator[..], &add].concat());
    run(&["policy", "sign", "two.json", "--key", "fleet/keys/root_key"]);
    run(&[&administrator[..], &["policy", "publish", "two.signed.json"]].concat());
    let bob = ["--fleet", "fleet/bob/fleet.toml"];
    run(&[&bob[..], &["agents"]].concat());
    run(&[&administrator[..], &["investigator", "remove", "bob", "--out", "three.json"]].concat());
    run(&["policy", "sign", "three.json", "--key", "fleet/keys/root_key"]);
    run(&[&administrator[..], &["policy", "publish", "three.signed.json"]].concat());
    assert_eq!(fleet(place.path(), &[&bob[..], &["agents"]].concat()).code, 77);
    server.kill().unwrap();
    server.wait().unwrap();
}
