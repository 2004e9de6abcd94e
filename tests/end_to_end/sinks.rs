//! Sinks: what receivers get, and what a bad receiver costs.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Host, Settings, persistent, wait_until};
use crate::receivers::{Receiver, free_port, lines, status};

/// A text that is hard to write in every format.
pub(crate) const HARD: &str = "/srv/a \"b]' \\\\x0a\\\\xff=\\\\\\\\ é<&>\n\u{1b}";

pub(crate) fn hard_alert() -> String {
    json!({
        "severity": "critical", "alert": format!("{HARD} changed"), "event": "changed", "path": HARD, "kind": "file",
        "rule": "srv", "tags": ["web"], "time": "2026-11-28T16:59:59.5Z", "attributes": ["content"],
        "process": {"pid": 812, "executable": "/usr/bin/vi", "command": "vi", "user": 0},
    })
    .to_string()
}

pub(crate) fn low_alert(text: &str) -> String {
    json!({"severity": "low", "alert": text, "event": "changed", "path": "/etc/motd", "kind": "file"})
        .to_string()
}

pub(crate) fn host_with(sinks: &str) -> Host {
    host_of(&Settings::default(), sinks)
}

fn host_of(settings: &Settings, sinks: &str) -> Host {
    Host::new(settings, &format!("{}{sinks}", persistent("says.py", &[])))
}

/// Has the module alert with these texts.
pub(crate) fn say(host: &Host, texts: &[String]) {
    host.wait_ready("says");
    let answer = host.query("says", &json!({ "texts": texts }));
    assert_eq!(answer["result"]["success"], true, "{answer}");
}

fn sink(host: &Host, name: &str) -> Value {
    let status = host.status();
    let sinks = status["sinks"].as_array().cloned().unwrap_or_default();
    sinks.into_iter().find(|sink| sink["name"] == name).unwrap_or_default()
}

pub(crate) fn wait_sink(host: &Host, name: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut newest = Value::Null;
    wait_until(&format!("sink {name} changes"), || {
        let sink = sink(host, name);
        if sink != newest {
            println!("{sink}");
            newest = sink.clone();
        }
        is_so(&sink).then_some(sink)
    })
}

pub(crate) fn condition(host: &Host, name: &str, condition: &str) -> Option<Value> {
    let status = host.status();
    let about = json!({ "sink": name });
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|one| one["about"] == about && one["name"] == condition)
}

fn bodies(receiver: &Receiver) -> Vec<Value> {
    let got = receiver.got().into_iter();
    got.flat_map(|got| serde_json::from_slice::<Vec<Value>>(&got.body).unwrap_or_default()).collect()
}

#[test]
fn a_webhook_gets_every_alert_once_in_order_signed_and_its_secrets_are_in_no_status_or_log() {
    let receiver = Receiver::start(|_, _| Some(status("204 No Content", "", "")));
    let host = host_with("");
    let secret = |name: &str, text: &str, mode: u32| {
        fs::write(host.path(name), text).unwrap();
        fs::set_permissions(host.path(name), fs::Permissions::from_mode(mode)).unwrap();
        host.path(name).display().to_string()
    };
    let (url, token) = (secret("url", &receiver.url(), 0o600), secret("token", "Bearer canary-token", 0o600));
    let key = secret("key", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", 0o600);
    host.configure(
        &Settings::default(),
        &format!(
            "{}[[sink]]\nname = \"hook\"\nkind = \"webhook\"\nurl_file = {url:?}\nauthorization_file = {token:?}\n\
             signing_key_file = {key:?}\nheaders = {{ X-Team = \"blue\" }}\n",
            persistent("says.py", &[])
        ),
    );
    let _agent = host.start();
    let texts: Vec<String> =
        (0..50).map(|number| low_alert(&format!("number {number}"))).chain([hard_alert()]).collect();
    say(&host, &texts);

    wait_sink(&host, "hook", |sink| sink["sent"] == 51 && sink["lag"] == 0);

    let alerts = bodies(&receiver);
    let seqs: Vec<u64> = alerts.iter().map(|alert| alert["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, (1..=51).collect::<Vec<u64>>());
    assert_eq!((&alerts[50]["alert"]["path"], &alerts[50]["severity"]), (&json!(HARD), &json!("critical")));
    let first = &receiver.got()[0];
    assert_eq!(first.line, "POST /in/secret-path HTTP/1.1\r\n");
    assert_eq!(
        (first.headers["authorization"].as_str(), first.headers["x-team"].as_str()),
        ("Bearer canary-token", "blue")
    );
    assert!(
        first.headers["idempotency-key"].ends_with("-1-1")
            || first.headers["idempotency-key"].contains("-1-")
    );
    check_signature(first);
    let told = format!("{}{}", host.status(), host.log());
    assert!(!told.contains("canary") && !told.contains("secret-path") && !told.contains("MfKQ9r8"), "{told}");

    secret("token", "Bearer canary-token", 0o644);
    let tested = host.vigie(&["sink", "test", "hook", "--json"]);
    assert_eq!(tested.code, 1, "{tested:?}");
    assert!(tested.out.contains("chmod 600") && tested.out.contains("secret"), "{}", tested.out);
}

/// Asks the library of Standard Webhooks, where it is.
fn check_signature(got: &crate::receivers::Got) {
    let script = "import sys, json\nfrom standardwebhooks import Webhook\n\
                  given = json.loads(sys.argv[1])\nWebhook('whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw').verify(given['body'], given['headers'])\n";
    let given = json!({"headers": got.headers, "body": String::from_utf8_lossy(&got.body)}).to_string();
    let Some(python) = oracle_python() else { return };
    let ran = Command::new(python).args(["-c", script, &given]).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// A Python with the packages that judge what we send; `make test` makes it and names it here.
fn oracle_python() -> Option<String> {
    let python = std::env::var("VIGIE_ORACLES").ok().map(|directory| format!("{directory}/bin/python"));
    if python.is_none() {
        vigie_skipped::skipped("no VIGIE_ORACLES, see the target schemas of the Makefile");
    }
    python
}

#[test]
fn a_receiver_that_fails_is_asked_again_and_a_bad_alert_is_put_aside() {
    let receiver = Receiver::start(|got, number| {
        let body = String::from_utf8_lossy(&got.body);
        match number {
            0 => Some(status("503 Busy", "retry-after: 1\r\n", "")),
            1 => Some(status("429 Slow", "retry-after: 0\r\n", "")),
            2 => None,
            _ if body.contains("poison") => Some(status("400 Bad Request", "", "bad \u{1b} alert")),
            _ => Some(status("200 OK", "", "ok")),
        }
    });
    let host =
        host_with(&format!("[[sink]]\nname = \"hook\"\nkind = \"webhook\"\nurl = {:?}\n", receiver.url()));
    let agent = host.start();
    let texts: Vec<String> = (0..20)
        .map(|number| if number == 13 { low_alert("poison") } else { low_alert(&format!("number {number}")) })
        .collect();
    say(&host, &texts);

    let done = wait_sink(&host, "hook", |sink| sink["lag"] == 0 && sink["dead_letters"] == 1);

    assert_eq!((&done["sent"], &done["position"]), (&json!(19), &json!(20)));
    assert!(done["failures"]["server"].as_u64() >= Some(1) && done["failures"]["throttled"] == 1, "{done}");
    assert_eq!(done["failures"]["broken"], 1);
    let letters = lines(&host.path("state/sinks/hook.dead.jsonl"));
    let letter: Value = serde_json::from_str(&letters[0]).unwrap();
    assert_eq!((letters.len(), &letter["alert"]["message"]), (1, &json!("poison")));
    assert_eq!(letter["reason"], "status 400: bad   alert");
    wait_until("the condition stands", || condition(&host, "hook", "sink-dead-letters"));
    // What one request had, the request that was sent again had as well, under the same key.
    let got = receiver.got();
    assert!(got[..3].iter().all(|one| one.headers["idempotency-key"] == got[0].headers["idempotency-key"]));
    agent.stop();
}

#[test]
fn a_receiver_that_wants_other_credentials_or_is_elsewhere_rests_until_a_test_works() {
    let elsewhere = Receiver::start(|_, _| Some(status("200 OK", "", "")));
    let place = format!("location: {}\r\n", elsewhere.url());
    let mode = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let served = mode.clone();
    let receiver = Receiver::start(move |_, _| match served.load(std::sync::atomic::Ordering::SeqCst) {
        0 => Some(status("307 Temporary Redirect", &place, "")),
        1 => Some(status("401 Unauthorized", "", "who are you")),
        _ => Some(status("200 OK", "", "")),
    });
    let host = host_with("");
    let address = host.path("address");
    std::fs::write(&address, "http://ann:hunter2@127.0.0.1/").unwrap();
    std::fs::set_permissions(&address, std::fs::Permissions::from_mode(0o600)).unwrap();
    let sinks = format!(
        "[[sink]]\nname = \"hook\"\nkind = \"webhook\"\nurl = {:?}\n\
         [[sink]]\nname = \"named\"\nkind = \"webhook\"\nurl_file = {address:?}\n",
        receiver.url()
    );
    host.configure(&Settings::default(), &format!("{}{sinks}", persistent("says.py", &[])));
    let _agent = host.start();
    say(&host, &[low_alert("x")]);

    let named = wait_sink(&host, "named", |sink| sink["state"] == "resting").to_string();
    assert!(named.contains("must not contain user and password") && !named.contains("hunter2"), "{named}");
    let resting = wait_sink(&host, "hook", |sink| sink["state"] == "resting");
    assert!(resting["last_error"].as_str().unwrap().contains("not followed"), "{resting}");
    wait_until("the condition stands", || condition(&host, "hook", "sink-refused"));
    assert_eq!(host.status()["health"], "failed");
    mode.store(1, std::sync::atomic::Ordering::SeqCst);
    let refused = host.vigie(&["sink", "test", "hook", "--human"]);
    assert!(
        refused.code == 1 && refused.out.contains("(unauthorized): status 401: who are you"),
        "{refused:?}"
    );
    mode.store(2, std::sync::atomic::Ordering::SeqCst);
    let works = host.vigie(&["sink", "test", "hook", "--human"]);
    assert!(works.code == 0 && works.out.contains("works"), "{works:?}");

    wait_sink(&host, "hook", |sink| sink["sent"] == 1 && sink["lag"] == 0);
    assert!(condition(&host, "hook", "sink-refused").is_none());
    assert!(elsewhere.got().is_empty());
    assert_eq!(host.vigie(&["sink", "test", "other"]).code, 64);
}

#[test]
fn receivers_that_never_answer_trickle_or_never_end_cost_their_own_sink_only() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let trickle = Receiver::start(|_, _| {
        let mut answer = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n".to_vec();
        answer.extend_from_slice(b"x");
        Some(answer)
    });
    let endless = Receiver::start(|_, _| {
        let mut answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for _ in 0..100 {
            answer.extend_from_slice(format!("10000\r\n{}\r\n", "y".repeat(0x10000)).as_bytes());
        }
        Some(answer)
    });
    let good = Receiver::start(|_, _| Some(status("200 OK", "", "")));
    let hook = |name: &str, port: u16| {
        format!(
            "[[sink]]\nname = \"{name}\"\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{port}/\"\ntimeout = \"1s\"\n"
        )
    };
    let silent_port = silent.local_addr().unwrap().port();
    let relp = format!(
        "[[sink]]\nname = \"relp\"\nkind = \"syslog\"\ntransport = \"relp\"\naddress = \"127.0.0.1:{silent_port}\"\ntimeout = \"1s\"\n"
    );
    let host = host_with(&format!(
        "{}{}{}{}{relp}",
        hook("silent", silent_port),
        hook("trickle", trickle.port),
        hook("endless", endless.port),
        hook("good", good.port)
    ));
    let mut agent = host.start();
    let texts: Vec<String> = (0..100).map(|number| low_alert(&number.to_string())).collect();
    say(&host, &texts);

    wait_sink(&host, "good", |sink| sink["sent"] == 100);
    // The status says it all, whatever the body does.
    wait_sink(&host, "trickle", |sink| sink["sent"] == 100);
    wait_sink(&host, "endless", |sink| sink["sent"] == 100);
    for name in ["silent", "relp"] {
        let silent = wait_sink(&host, name, |sink| sink["failures"]["timeout"].as_u64() >= Some(2));
        assert_eq!((&silent["sent"], &silent["lag"]), (&json!(0), &json!(100)));
        assert!(silent["oldest_unsent"].is_string());
        wait_until("the condition stands", || condition(&host, name, "sink-failing"));
    }
    agent.assert_runs();
}

#[test]
fn filters_choose_by_module_severity_rule_and_path() {
    let file = |host: &Host, name: &str, filter: &str| {
        let path = host.path(&format!("{name}.jsonl"));
        format!("[[sink]]\nname = \"{name}\"\nkind = \"file\"\npath = {path:?}\n{filter}\n")
    };
    let host = host_with("");
    let sinks = [
        ("all", ""),
        ("severe", "severity = \"high\""),
        ("other", "modules = [\"netstat\"]"),
        ("etc", "paths = [\"/etc/**\"]"),
        ("srv", "rules = [\"s*\"]"),
        ("low", "severity = \"low\""),
    ];
    let sections: String = sinks.iter().map(|(name, filter)| file(&host, name, filter)).collect();
    host.configure(&Settings::default(), &format!("{}{sections}", persistent("says.py", &[])));
    let _agent = host.start();
    say(&host, &[hard_alert(), low_alert("motd changed"), "plain".to_owned()]);
    // Of another module than fswatch this is an alert as any other.
    say(&host, &[r#"{"severity":"low","alert":"somebody came","event":"canary"}"#.to_owned()]);

    for (name, wanted) in [
        ("all", vec![1, 2, 3, 4]),
        ("severe", vec![1]),
        ("other", vec![]),
        ("etc", vec![2]),
        ("srv", vec![1]),
        ("low", vec![1, 2, 3, 4]),
    ] {
        let done = wait_sink(&host, name, |sink| sink["lag"] == 0 && sink["position"] == 4);
        assert_eq!(done["filtered"], 4 - wanted.len(), "{done}");
        let found: Vec<u64> = lines(&host.path(&format!("{name}.jsonl")))
            .iter()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap())
            .collect();
        assert_eq!(found, wanted, "{name}");
    }
}

#[test]
fn in_extra_privacy_mode_what_leaves_the_host_is_masked_and_the_local_file_is_not() {
    let receiver = Receiver::start(|_, _| Some(status("200 OK", "", "")));
    let settings = Settings { agent: "extraprivacymode = true", ..Settings::default() };
    let host = host_of(&settings, "");
    let file = host.path("alerts.jsonl");
    let sinks = format!(
        "[[sink]]\nname = \"hook\"\nkind = \"webhook\"\nurl = {:?}\n[[sink]]\nname = \"file\"\nkind = \"file\"\npath = {file:?}\n",
        receiver.url()
    );
    host.configure(&settings, &format!("{}{sinks}", persistent("says.py", &[])));
    let _agent = host.start();
    say(&host, &[hard_alert()]);

    assert_eq!(wait_sink(&host, "hook", |sink| sink["sent"] == 1)["masked"], true);
    wait_sink(&host, "file", |sink| sink["sent"] == 1);

    let sent = &bodies(&receiver)[0];
    assert_eq!(
        (&sent["module"], &sent["severity"], &sent["alert"]["rule"]),
        (&json!("says"), &json!("critical"), &json!("srv"))
    );
    assert!(
        !sent.to_string().contains("/srv/a") && !sent.to_string().contains("812") && sent["id"].is_null(),
        "{sent}"
    );
    assert!(lines(&file)[0].contains("/srv/a"));
}

#[test]
fn sinks_come_go_and_change_by_reload_and_a_bad_one_is_named_with_its_line() {
    let receiver = Receiver::start(|_, _| Some(status("200 OK", "", "")));
    let host = host_with("");
    let _agent = host.start();
    say(&host, &["before".to_owned()]);
    wait_until("it is recorded", || (host.status()["journal"]["recorded"] == 1).then_some(()));
    let section = format!("[[sink]]\nname = \"hook\"\nkind = \"webhook\"\nurl = {:?}\n", receiver.url());
    let with =
        |sinks: &str| host.configure(&Settings::default(), &format!("{}{sinks}", persistent("says.py", &[])));

    with(&section);
    let reloaded = host.vigie(&["reload"]);
    assert!(reloaded.out.contains("sink hook was added"), "{reloaded:?}");
    wait_sink(&host, "hook", |sink| sink["state"] == "idle" && sink["position"] == 1);
    say(&host, &["after".to_owned()]);
    wait_sink(&host, "hook", |sink| sink["sent"] == 1);
    // It begins with what is new.
    assert_eq!(bodies(&receiver)[0]["message"], "after");

    with(&format!("{section}gzip = true\n"));
    assert!(host.vigie(&["reload"]).out.contains("sink hook changed"));
    say(&host, &["packed".to_owned()]);
    wait_until("it is sent packed", || {
        receiver
            .got()
            .into_iter()
            .find(|got| got.headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip"))
    });

    with(&format!(
        "{section}timeout = \"soon\"\ncolour = 1\n[[sink]]\nname = \"b\"\nkind = \"syslog\"\ntransport = \"relp\"\n"
    ));
    let checked = host.vigie(&["check-config", host.path("vigie.toml").to_str().unwrap()]);
    assert_eq!(checked.code, 78);
    for problem in [
        "sink.hook.timeout: \"soon\" is not a duration",
        "sink.hook.colour: unknown key",
        "sink.b.address: is missing",
    ] {
        assert!(checked.err.contains(problem), "{}", checked.err);
    }
    assert!(checked.err.contains("vigie.toml:"), "{}", checked.err);
    assert_ne!(host.vigie(&["reload"]).code, 0);
    assert_eq!(sink(&host, "hook")["kind"], "webhook");

    with("");
    assert!(host.vigie(&["reload"]).out.contains("sink hook was removed"));
    assert_eq!(host.status()["sinks"], Value::Null);
    wait_until("its place is gone", || (!host.path("state/sinks/hook.place").exists()).then_some(()));
}

#[test]
fn alerts_that_the_journal_deleted_before_they_were_sent_are_counted_and_told() {
    let port = free_port();
    let host = host_with("");
    let rest = format!(
        "[journal]\nsegment_bytes = \"64 KiB\"\nkeep_segments = 2\n{}[[sink]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{port}/\"\nbatch_alerts = 1\n",
        persistent("says.py", &[])
    );
    host.configure(&Settings::default(), &rest);
    let _agent = host.start();
    let long = low_alert(&"x".repeat(4000));
    for _ in 0..10 {
        say(&host, &vec![long.clone(); 10]);
    }
    wait_until("the journal deletes", || {
        let deleted = host.status()["journal"]["deleted"]["low"].as_u64();
        deleted.is_some_and(|count| count > 20).then_some(())
    });
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().ok()?);
                loop {
                    let mut length = 0;
                    loop {
                        let mut line = String::new();
                        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
                        let lower = line.to_ascii_lowercase();
                        if let Some(value) = lower.strip_prefix("content-length: ") {
                            length = value.trim().parse().ok()?;
                        }
                        if line == "\r\n" {
                            break;
                        }
                    }
                    let mut body = vec![0; length];
                    std::io::Read::read_exact(&mut reader, &mut body).ok()?;
                    std::io::Write::write_all(&mut &stream, &status("200 OK", "", "")).ok()?;
                }
                #[expect(unreachable_code, reason = "says what the thread would return")]
                Some(())
            });
        }
    });
    host.vigie(&["sink", "test", "hook"]);

    let done = wait_sink(&host, "hook", |sink| sink["lag"] == 0 && sink["position"] == 100);

    let (sent, missed) = (done["sent"].as_u64().unwrap(), done["missed"].as_u64().unwrap());
    assert!(missed > 0 && sent + missed == 100, "{done}");
    wait_until("the condition stands", || condition(&host, "hook", "sink-alerts-deleted"));
}

#[test]
fn a_file_is_followed_by_a_reader_while_logrotate_and_the_sink_rename_it() {
    let host = host_with("");
    let path = host.path("alerts.jsonl");
    let section = format!(
        "[[sink]]\nname = \"file\"\nkind = \"file\"\npath = {path:?}\nmode = \"0640\"\nrotate_bytes = \"64 KiB\"\nkeep_files = 100\n"
    );
    host.configure(&Settings::default(), &format!("{}{section}", persistent("says.py", &[])));
    let _agent = host.start();
    let rules = host.path("logrotate.conf");
    fs::write(
        &rules,
        format!("{} {{\n  rotate 50\n  create 0640\n  nocompress\n  missingok\n}}\n", path.display()),
    )
    .unwrap();
    fs::set_permissions(&rules, fs::Permissions::from_mode(0o644)).unwrap();
    let logrotate =
        ["/usr/sbin/logrotate", "/sbin/logrotate"].into_iter().find(|path| fs::metadata(path).is_ok());
    if logrotate.is_none() {
        vigie_skipped::missing("logrotate");
    }
    // Reads on in the file that it has open, and goes over to the new one at its end, as Filebeat and tail -F do.
    let mut seen = Vec::new();
    let mut reader: Option<(u64, BufReader<fs::File>)> = None;
    let mut follow = |seen: &mut Vec<u64>| {
        use std::os::unix::fs::MetadataExt as _;
        loop {
            let mut line = String::new();
            if let Some((inode, open)) = &mut reader {
                while open.read_line(&mut line).unwrap() > 0 {
                    assert!(line.ends_with('\n'), "half a line: {line:?}");
                    seen.push(serde_json::from_str::<Value>(&line).unwrap()["seq"].as_u64().unwrap());
                    line.clear();
                }
                if fs::metadata(&path).map_or(*inode, |data| data.ino()) == *inode {
                    return;
                }
            }
            let Ok(file) = fs::File::open(&path) else { return };
            let inode = file.metadata().unwrap().ino();
            reader = Some((inode, BufReader::new(file)));
        }
    };
    for round in 0..12_u64 {
        say(&host, &vec![low_alert(&"z".repeat(300)); 40]);
        wait_sink(&host, "file", |sink| sink["sent"] == (round + 1) * 40);
        follow(&mut seen);
        if let Some(logrotate) = logrotate.filter(|_| round % 3 == 1) {
            let ran = Command::new(logrotate)
                .arg("-f")
                .arg("-s")
                .arg(host.path("logrotate.state"))
                .arg(&rules)
                .output()
                .unwrap();
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        }
    }

    assert_eq!(seen, (1..=480).collect::<Vec<u64>>());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(host.vigie(&["sink", "test", "file"]).code == 0);
}

#[test]
fn entries_of_the_journal_are_native_and_a_long_one_comes_as_a_sealed_file() {
    let host = host_with("");
    let socket = host.path("journal.sock");
    let receiver = UnixDatagram::bind(&socket).unwrap();
    receiver.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let section = format!("[[sink]]\nname = \"journald\"\nkind = \"journald\"\nsocket = {socket:?}\n");
    host.configure(&Settings::default(), &format!("{}{section}", persistent("says.py", &[])));
    let _agent = host.start();
    say(&host, &[hard_alert(), low_alert(&"w".repeat(300_000))]);

    let mut datagram = vec![0; 400_000];
    let length = receiver.recv(&mut datagram).unwrap();
    let entry = &datagram[..length];
    let has = |part: &[u8]| entry.windows(part.len()).any(|window| window == part);
    assert!(has(b"\nPRIORITY=2\n") && has(b"\nVIGIE_SEQ=1\n") && has(b"\nSYSLOG_IDENTIFIER=vigie\n"));
    // The path has a line feed: its length stands before it.
    let mut path = b"\nVIGIE_PATH\n".to_vec();
    path.extend_from_slice(&(HARD.len() as u64).to_le_bytes());
    path.extend_from_slice(HARD.as_bytes());
    assert!(has(&path));
    let (long, seals) = receive_file(&receiver);
    assert!(long.windows(13).any(|window| window == b"\nVIGIE_SEQ=2\n") && long.len() > 300_000);
    assert_eq!(seals, libc_seals());
    assert_eq!(wait_sink(&host, "journald", |sink| sink["sent"] == 2)["acknowledged"], false);
}

/// A journald with a /run of its own, which is `directory`.
struct Journald(std::process::Child);

impl Journald {
    fn start(directory: &std::path::Path) -> Option<Self> {
        const PROGRAM: &str = "/lib/systemd/systemd-journald";
        if !std::path::Path::new(PROGRAM).exists() {
            return None;
        }
        let script = format!(
            "mount --bind \"$1\" /run && mkdir -p /run/systemd/journal /run/log/journal && exec {PROGRAM}"
        );
        let child = Command::new("unshare")
            .args(["-m", "--propagation", "private", "sh", "-c", &script, "sh"])
            .arg(directory)
            .stderr(std::process::Stdio::null())
            .spawn()
            .ok()?;
        let mut started = Self(child);
        let socket = directory.join("systemd/journal/socket");
        wait_until("journald listens, or may not", || {
            let ended = started.0.try_wait().unwrap().is_some();
            (ended || socket.exists()).then_some(())
        });
        socket.exists().then_some(started)
    }
}

impl Drop for Journald {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_real_journald_stores_what_it_is_sent() {
    let host = host_with("");
    let run = host.path("journald");
    fs::create_dir(&run).unwrap();
    let Some(_journald) = Journald::start(&run) else {
        return vigie_skipped::skipped("systemd-journald cannot be started in a mount namespace");
    };
    let socket = run.join("systemd/journal/socket");
    let section = format!("[[sink]]\nname = \"journald\"\nkind = \"journald\"\nsocket = {socket:?}\n");
    host.configure(&Settings::default(), &format!("{}{section}", persistent("says.py", &[])));
    let _agent = host.start();
    say(&host, &[hard_alert(), low_alert(&"w".repeat(300_000)), low_alert("last")]);
    wait_sink(&host, "journald", |sink| sink["sent"] == 3);

    let entries: Vec<Value> = wait_until("they are stored", || {
        let directory = run.join("log/journal");
        let read = Command::new("journalctl")
            .args(["--output=json", "--all", "--no-pager", "SYSLOG_IDENTIFIER=vigie"])
            .arg(format!("--directory={}", directory.display()))
            .output()
            .unwrap();
        let lines = String::from_utf8(read.stdout).unwrap();
        let entries: Vec<Value> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        (entries.len() >= 3).then_some(entries)
    });
    let of =
        |name: &str| entries.iter().map(|entry| entry[name].as_str().unwrap_or_default()).collect::<Vec<_>>();
    assert_eq!(of("VIGIE_SEQ"), ["1", "2", "3"]);
    assert_eq!(of("PRIORITY")[0], "2");
    assert_eq!(of("MESSAGE")[1].len(), 300_000);
    // A value that is no text for a terminal is a list of bytes.
    let path = &entries[0]["VIGIE_PATH"];
    let bytes: Vec<u8> = match path.as_array() {
        Some(bytes) => bytes.iter().map(|byte| byte.as_u64().unwrap() as u8).collect(),
        None => path.as_str().unwrap().as_bytes().to_vec(),
    };
    assert_eq!(bytes, HARD.as_bytes());
}

/// F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW and F_SEAL_WRITE, fcntl(2).
fn libc_seals() -> u32 {
    0xf
}

/// Receives a datagram with a descriptor; what the file holds, and its seals.
fn receive_file(receiver: &UnixDatagram) -> (Vec<u8>, u32) {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use std::os::fd::AsFd as _;
    let mut space = [std::mem::MaybeUninit::uninit(); 64];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut nothing = [0; 1];
    recvmsg(
        receiver.as_fd(),
        &mut [std::io::IoSliceMut::new(&mut nothing)],
        &mut ancillary,
        RecvFlags::empty(),
    )
    .unwrap();
    let message = ancillary.drain().next().expect("a descriptor comes with it");
    let RecvAncillaryMessage::ScmRights(mut descriptors) = message else { panic!("no descriptor") };
    let file = fs::File::from(descriptors.next().unwrap());
    let seals = rustix::fs::fcntl_get_seals(&file).unwrap().bits();
    let mut content = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut content, 0).unwrap();
    (content, seals)
}

#[test]
fn otlp_is_read_by_the_official_classes_and_what_a_collector_rejects_is_not_sent_again() {
    // partial_success { rejected_log_records: 2 }
    let partial = Receiver::start(|_, _| {
        Some(status("200 OK", "content-type: application/x-protobuf\r\n", "\u{a}\u{2}\u{8}\u{2}"))
    });
    let whole = Receiver::start(|_, _| Some(status("200 OK", "", "{}")));
    let section = |name: &str, encoding: &str, port: u16| {
        format!(
            "[[sink]]\nname = \"{name}\"\nkind = \"otlp\"\nencoding = \"{encoding}\"\nurl = \"http://127.0.0.1:{port}/v1/logs\"\n"
        )
    };
    let host = host_with(&format!(
        "{}{}",
        section("binary", "protobuf", partial.port),
        section("text", "json", whole.port)
    ));
    let _agent = host.start();
    say(&host, &[hard_alert(), low_alert("a"), low_alert("b")]);

    let rejected = wait_sink(&host, "binary", |sink| sink["lag"] == 0 && sink["position"] == 3);
    assert!(rejected["rejected"].as_u64() >= Some(2), "{rejected}");
    wait_sink(&host, "text", |sink| sink["sent"] == 3);
    let sent: BTreeSet<String> =
        partial.got().iter().map(|got| got.headers["idempotency-key"].clone()).collect();
    assert_eq!(sent.len(), partial.got().len(), "nothing is sent again");
    assert_eq!(partial.got()[0].headers["content-type"], "application/x-protobuf");
    let Some(python) = oracle_python() else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schemas/check_otlp.py");
    for (receiver, name) in [(&partial, "binary"), (&whole, "text")] {
        let directory = host.path(name);
        fs::create_dir(&directory).unwrap();
        for (at, got) in receiver.got().iter().enumerate() {
            fs::write(directory.join(format!("{at:03}")), &got.body).unwrap();
        }
        let ran = Command::new(&python).arg(script).arg(name).arg(&directory).arg(HARD).output().unwrap();
        assert!(
            ran.status.success(),
            "{}{}",
            String::from_utf8_lossy(&ran.stdout),
            String::from_utf8_lossy(&ran.stderr)
        );
    }
}
