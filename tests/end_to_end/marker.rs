//! A marker in every field that modules show, and every byte of an answer that leaves a host in extra privacy mode.

use std::fs;
use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::harness::{Host, Settings, persistent, wait_until};
use crate::receivers::{Receiver, status};
use crate::sinks::{say, wait_sink};

/// What is looked for. Questions spell it as an expression, since what was asked is repeated in clear.
const MARKER: &str = "zqmarkerzq";
const ASKED: &str = "zqmark[e]rzq";

const SHOWN: Settings = Settings { agent: "", heartbeat: "2s", fswatch: true };
const PRIVATE: Settings = Settings { agent: "extraprivacymode = true", heartbeat: "2s", fswatch: true };

/// Names a time server, which nobody can resolve.
const FALLBACK: &str = "[[module]]\nname = \"timedrift\"\nkind = \"standard\"\n\
                        [module.env]\nVIGIE_TIMEDRIFT_FALLBACK = \"zqmarkerzq.invalid\"\n";

/// A program under the marker's name, ended with the test.
struct Planted(Child);

impl Drop for Planted {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn write(path: &std::path::Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A tree that has the marker in accounts, rules, keys, start files and names.
fn plant(host: &Host) {
    let root = host.path("root");
    let plant = |path: &str, text: &str, mode| write(&root.join(path), text, mode);
    plant(
        "etc/passwd",
        &format!("root:x:0:0:root:/root:/bin/sh\n{MARKER}:x:0:0:{MARKER}:/home/{MARKER}:/bin/{MARKER}\n"),
        0o644,
    );
    plant("etc/group", &format!("root:x:0:\n{MARKER}:x:77:{MARKER}\nsudo:x:27:{MARKER}\n"), 0o644);
    plant("etc/shadow", &format!("root:*:1:::::: \n{MARKER}:$6${MARKER}$x:19000:0:99999:7:::\n"), 0o600);
    plant(
        "etc/sudoers",
        &format!("{MARKER} ALL=(ALL) NOPASSWD: /opt/{MARKER}\n@include /etc/{MARKER}\n"),
        0o440,
    );
    plant(
        &format!("home/{MARKER}/.ssh/authorized_keys"),
        &format!("command=\"/opt/{MARKER}\" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHh4 {MARKER}@{MARKER}\n"),
        0o600,
    );
    plant("etc/ld.so.preload", &format!("/lib/{MARKER}.so\n"), 0o644);
    plant(
        &format!("etc/systemd/system/{MARKER}.service"),
        &format!("[Service]\nExecStart=/opt/{MARKER} --{MARKER}\nUser={MARKER}\n"),
        0o644,
    );
    plant(&format!("etc/cron.d/{MARKER}"), &format!("* * * * * {MARKER} /opt/{MARKER}\n"), 0o644);
    plant(&format!("etc/profile.d/{MARKER}.sh"), &format!("/opt/{MARKER} &\n"), 0o644);
    plant(&format!("files/{MARKER}/{MARKER}.txt"), &format!("content {MARKER}\n"), 0o644);
    plant(&format!("files/{MARKER}/{MARKER}.key"), "x", 0o000);
    write(&host.path(&format!("watched/{MARKER}")), MARKER, 0o644);
    let watched = host.path("watched");
    write(
        &host.path("modules.d/fswatch.cfg"),
        &format!("[paths]\npath = recursive:{}\n", watched.display()),
        0o644,
    );
}

/// A program whose path, name, arguments, directory, environment and open file have the marker.
fn start_program(host: &Host) -> Planted {
    let program = host.path(&format!("root/opt/{MARKER}"));
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    vigie_skipped::copy_program("/bin/sleep", &program);
    let open = fs::File::open(host.path(&format!("root/files/{MARKER}/{MARKER}.txt"))).unwrap();
    let child = Command::new(&program)
        .arg("600")
        .env(MARKER, MARKER)
        .current_dir(host.path(&format!("root/files/{MARKER}")))
        .stdin(Stdio::from(open))
        .spawn()
        .unwrap();
    Planted(child)
}

/// The questions, and whether the marker is in the open answer of a host that masks nothing.
fn questions(host: &Host, program: &Planted) -> Vec<(&'static str, Value)> {
    let root = host.path("root");
    let files = root.join("files");
    vec![
        (
            "file",
            json!({"searches": {"s": {"paths": [files], "names": [ASKED], "options": {"returnsha256": true}}}}),
        ),
        ("file", json!({"searches": {"s": {"paths": [files], "contents": [ASKED]}}})),
        ("netstat", json!({"unixsocket": [ASKED], "processes": true})),
        ("processes", json!({"pid": [program.0.id()], "files": true, "hashes": true, "credentials": true})),
        ("processes", json!({"path": [ASKED], "tree": true, "libraries": true})),
        ("accounts", json!({"root": root})),
        ("accounts", json!({"root": root, "privileged": true})),
        ("persistence", json!({"root": root})),
        ("timedrift", json!({"drift": "5s", "timeout": "300ms"})),
        ("timedrift", json!({"drift": "5s", "ask": "all", "timeout": "300ms"})),
        ("fswatch", json!({"changes": true})),
        ("fswatch", json!({"unaccepted": true})),
    ]
}

#[test]
fn no_answer_that_leaves_a_private_host_has_the_marker() {
    // The directory itself must not have it: it is part of the questions.
    let (shown, private) = (Host::new(&SHOWN, FALLBACK), Host::new(&PRIVATE, FALLBACK));
    for host in [&shown, &private] {
        plant(host);
    }
    let name = SocketAddr::from_abstract_name(format!("{MARKER}-{}", std::process::id()).as_bytes()).unwrap();
    let _socket = UnixListener::bind_addr(&name).unwrap();
    for (host, leaks) in [(&shown, true), (&private, false)] {
        let program = start_program(host);
        let _agent = host.start();
        host.wait_baseline();
        // An event as well, with its alert.
        write(&host.path(&format!("watched/{MARKER}-new")), MARKER, 0o644);
        wait_until("the alert is recorded", || {
            host.journal()
                .iter()
                .any(|record| record.to_string().contains(&format!("{MARKER}-new")))
                .then_some(())
        });
        for (module, parameters) in questions(host, &program) {
            let answer = host.query(module, &parameters);

            assert!(answer["result"].is_object(), "{module} {parameters}: {answer}");
            assert_eq!(answer.to_string().contains(MARKER), leaks, "{module} {parameters}: {answer}");
        }
        // What is typed wrongly is told in clear, and names nothing of the host.
        let wrong = host.query("accounts", &json!({"what": ["no such thing"]}));
        assert!(wrong.to_string().contains("no such thing"), "{wrong}");
    }
}

/// A receiver that acknowledges nothing and keeps every byte that comes.
fn listener() -> (u16, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let bytes = Arc::clone(&kept);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let bytes = Arc::clone(&bytes);
            std::thread::spawn(move || {
                let mut piece = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut piece) {
                    bytes.lock().unwrap().extend_from_slice(&piece[..read]);
                }
            });
        }
    });
    (port, kept)
}

#[test]
fn no_byte_that_a_sink_sends_from_a_private_host_has_the_marker() {
    let alert = json!({
        "severity": "critical", "alert": format!("{MARKER} changed"), "event": "changed", "path": format!("/srv/{MARKER}"),
        "kind": "file", "rule": "srv", "tags": ["web"], "attributes": ["content"], "owner": MARKER,
        "before": {"sha256": "a".repeat(64), "link": MARKER}, "after": {"sha256": "b".repeat(64), "link": MARKER},
        "process": {"pid": 812, "executable": format!("/usr/bin/{MARKER}"), "command": MARKER, "user_name": MARKER},
        MARKER: MARKER,
    })
    .to_string();
    for (private, agent) in [(false, "extraprivacymode = false"), (true, "extraprivacymode = true")] {
        let settings = Settings { agent, ..Settings::default() };
        let host = Host::new(&settings, "");
        let http = Receiver::start(|got, _| {
            let kind = got.headers.get("content-type").map_or("", String::as_str);
            let body = if kind.contains("protobuf") { "" } else { r#"{"code":0}"# };
            Some(status("200 OK", &format!("content-type: {kind}\r\n"), body))
        });
        let (port, tcp) = listener();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        datagrams.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        let udp = datagrams.local_addr().unwrap();
        let mut sinks = String::new();
        let mut names = Vec::new();
        let mut add = |name: &str, section: String| {
            sinks.push_str(&format!("[[sink]]\nname = \"{name}\"\n{section}\n"));
            names.push(name.to_owned());
        };
        for schema in ["vigie", "ocsf", "ecs"] {
            add(
                &format!("hook-{schema}"),
                format!("kind = \"webhook\"\nurl = {:?}\nschema = \"{schema}\"", http.url()),
            );
        }
        for template in ["lines", "slack", "mattermost", "splunk", "loki"] {
            let section = format!("kind = \"webhook\"\nurl = {:?}\ntemplate = \"{template}\"", http.url());
            add(&format!("hook-{template}"), section);
        }
        for encoding in ["json", "protobuf"] {
            add(
                &format!("otlp-{encoding}"),
                format!("kind = \"otlp\"\nurl = {:?}\nencoding = \"{encoding}\"", http.url()),
            );
        }
        add("tcp", format!("kind = \"syslog\"\ntransport = \"tcp\"\naddress = \"127.0.0.1:{port}\""));
        add("udp", format!("kind = \"syslog\"\ntransport = \"udp\"\naddress = \"{udp}\""));
        host.configure(&settings, &format!("{}{sinks}", persistent("says.py", &[])));
        let _agent = host.start();
        say(&host, std::slice::from_ref(&alert));
        for name in &names {
            wait_sink(&host, name, |sink| {
                sink["sent"].as_u64() >= Some(1) || sink["unacknowledged"].as_u64() >= Some(1)
            });
        }
        let mut datagram = vec![0; 65_536];
        let length = datagrams.recv(&mut datagram).unwrap();
        let mut sent = vec![("udp".to_owned(), datagram[..length].to_vec())];
        sent.push((
            "tcp".to_owned(),
            wait_until("TCP bytes", || Some(tcp.lock().unwrap().clone()).filter(|bytes| !bytes.is_empty())),
        ));
        sent.extend(http.got().into_iter().map(|got| (format!("{} {:?}", got.line, got.headers), got.body)));
        assert!(sent.len() >= names.len(), "{}", sent.len());

        for (way, bytes) in sent {
            let has = bytes.windows(MARKER.len()).any(|window| window == MARKER.as_bytes());
            assert_eq!(has, !private, "{way}: {}", String::from_utf8_lossy(&bytes));
        }
    }
}

#[test]
fn packages_are_masked_by_name_and_digest() {
    let (shown, private) = (Host::new(&Settings::default(), ""), Host::new(&PRIVATE, ""));
    if !std::path::Path::new("/var/lib/dpkg/status").exists() {
        vigie_skipped::skipped("this is no host of dpkg");
        return;
    }
    for (host, leaks) in [(&shown, true), (&private, false)] {
        let _agent = host.start();
        let answer = host.query("packages", &json!({"name": ["^libc[6]$"]}));

        assert_eq!(answer["result"]["foundanything"], true, "{answer}");
        assert_eq!(answer.to_string().contains("libc6"), leaks, "{answer}");
    }
}
