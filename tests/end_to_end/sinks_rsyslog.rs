//! Sinks of syslog against rsyslog itself, killed and with a full disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Host, Settings, VIGIE, persistent, wait_until};
use crate::receivers::{Receiver, Rsyslog, lines, status};

/// What the storm sends.
const STORM: u64 = 4_000;

pub(crate) fn storm(count: u64) -> String {
    let program = Path::new(VIGIE).with_file_name("examples").join("alert_storm");
    assert!(program.exists(), "{program:?} is missing; run: cargo build --example alert_storm");
    format!(
        "[[module]]\nname = \"alert_storm\"\nkind = \"persistent\"\ncommand = [{program:?}, \"{count}\"]\n"
    )
}

fn syslog(name: &str, transport: &str, port: u16, more: &str) -> String {
    format!(
        "[[sink]]\nname = \"{name}\"\nkind = \"syslog\"\ntransport = \"{transport}\"\naddress = \"127.0.0.1:{port}\"\n\
         begin = \"oldest\"\n{more}\n"
    )
}

fn sink(host: &Host, name: &str) -> Value {
    let status = host.status();
    let sinks = status["sinks"].as_array().cloned().unwrap_or_default();
    sinks.into_iter().find(|sink| sink["name"] == name).unwrap_or_default()
}

fn wait_all_sent(host: &Host, count: u64) {
    wait_until("everything is sent", || {
        let status = host.status();
        let sinks = status["sinks"].as_array()?;
        let recorded = status["journal"]["recorded"].as_u64()?;
        (recorded >= count && sinks.iter().all(|sink| sink["lag"] == 0 && sink["position"] == recorded))
            .then_some(())
    });
}

/// The value of a key in a line of whatever format: `seq="7"` or `"seq":7`.
fn seq_of(line: &str) -> Option<u64> {
    let rest = line.split_once("seq=\"").or_else(|| line.split_once("\"seq\":"))?.1;
    rest[..rest.find(|c: char| !c.is_ascii_digit())?].parse().ok()
}

fn is_marked(line: &str) -> bool {
    line.contains("resent=\"1\"") || line.contains("\"resent\":true")
}

/// Every alert is there; what is there more than once is marked but for its first copy. Gives the number of doubles.
fn assert_complete(what: &str, lines: &[String], count: u64) -> usize {
    let mut copies: BTreeMap<u64, Vec<bool>> = BTreeMap::new();
    for line in lines {
        if let Some(seq) = seq_of(line).filter(|seq| *seq > 0) {
            copies.entry(seq).or_default().push(is_marked(line));
        }
    }
    let missing: Vec<u64> = (1..=count).filter(|seq| !copies.contains_key(seq)).collect();
    assert!(missing.is_empty(), "{what}: {} are missing, such as {:?}", missing.len(), missing.first());
    for (seq, marks) in &copies {
        let unmarked = marks.iter().filter(|marked| !**marked).count();
        assert!(unmarked <= 1, "{what}: {seq} is there {} times, {unmarked} without a mark", marks.len());
    }
    lines.len() - copies.len()
}

#[test]
fn rsyslog_gets_a_hard_alert_whole_by_every_way() {
    let Some(rsyslog) = Rsyslog::start(None) else { return };
    let ca = format!("ca = {:?}", rsyslog.path("ca.pem"));
    let sinks = syslog("relp", "relp", rsyslog.relp, "")
        + &syslog("tcp", "tcp", rsyslog.tcp, "")
        + &syslog("tls", "tls", rsyslog.tls, &ca)
        + &syslog("udp", "udp", rsyslog.udp, "schema = \"none\"");
    let host = Host::new(&Settings::default(), &(persistent("says.py", &[]) + &sinks));
    let _agent = host.start();
    host.wait_ready("says");
    let path = "/srv/a \"b]' \\\\x0a é";
    let alert =
        json!({"severity": "critical", "alert": format!("{path} changed"), "event": "changed", "path": path});
    let long =
        json!({"severity": "low", "alert": "z".repeat(64 << 10), "event": "changed", "path": "/etc/motd"});
    host.query("says", &json!({"texts": [alert.to_string(), long.to_string()]}));

    wait_all_sent(&host, 2);

    let escaped = "path=\"/srv/a \\\"b\\]' \\\\\\\\x0a é\"";
    for way in ["relp", "tcp", "tls", "udp"] {
        let got = wait_until("both are there", || Some(rsyslog.lines(way)).filter(|lines| lines.len() >= 2));
        assert!(got[0].starts_with("<34>1 2026") || got[0].starts_with("<34>1 20"), "{}", got[0]);
        assert!(got[0].contains(escaped), "{way}: {}", got[0]);
        assert_eq!(got.len(), 2, "{way}: a long record became several");
        assert!(got[1].len() <= 8000 && got[1].contains("truncated=\"1\""), "{way}: {}", got[1].len());
    }
    for way in ["relp", "tcp", "tls", "udp"] {
        let tested = host.vigie(&["sink", "test", way, "--json"]);
        assert_eq!(tested.code, 0, "{way}: {tested:?}");
    }
    assert_eq!(sink(&host, "udp")["unacknowledged"], 2);
    assert_eq!(sink(&host, "relp")["unacknowledged"], 0);
}

#[test]
fn kill_9_of_receivers_and_agent_loses_no_alert_and_doubles_only_marked_ones() {
    let Some(mut rsyslog) = Rsyslog::start(None) else { return };
    let receiver = Receiver::start(|_, _| Some(status("200 OK", "", "")));
    let ca = format!("ca = {:?}", rsyslog.path("ca.pem"));
    let host = Host::new(&Settings::default(), "");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/takes_alerts.py");
    let command =
        [crate::harness::python(), "-BS", script, host.path("command").to_str().unwrap()].map(str::to_owned);
    let sinks = syslog("relp", "relp", rsyslog.relp, "batch_alerts = 100")
        + &syslog("tcp", "tcp", rsyslog.tcp, "")
        + &syslog("tls", "tls", rsyslog.tls, &ca)
        + &format!(
            "[[sink]]\nname = \"file\"\nkind = \"file\"\npath = {:?}\nbegin = \"oldest\"\nbatch_alerts = 100\n\
             [[sink]]\nname = \"http\"\nkind = \"webhook\"\ntemplate = \"lines\"\nurl = {:?}\nbegin = \"oldest\"\nbatch_alerts = 100\n\
             [[sink]]\nname = \"command\"\nkind = \"command\"\ncommand = {}\nbegin = \"oldest\"\nbatch_alerts = 100\n",
            host.path("file"),
            receiver.url(),
            serde_json::to_string(&command).unwrap()
        );
    host.configure(&Settings::default(), &format!("{}{sinks}", storm(STORM)));
    let mut agent = host.start();
    for round in 0..6_u64 {
        let moment = (round + 1) * STORM / 8;
        wait_until("the storm goes on", || {
            let recorded = host.status()["journal"]["recorded"].as_u64()?;
            let slowest = sink(&host, "relp")["position"].as_u64()?;
            (recorded >= moment && slowest >= moment / 2).then_some(())
        });
        if round % 2 == 0 {
            rsyslog.kill();
            rsyslog.restart();
        } else {
            agent.kill();
            agent = host.start();
        }
        for name in ["relp", "tcp", "tls"] {
            // What waits tries again at once.
            host.vigie(&["sink", "test", name]);
        }
    }
    wait_all_sent(&host, STORM);
    let recorded = host.status()["journal"]["recorded"].as_u64().unwrap();
    agent.stop();

    let http: Vec<String> = receiver
        .got()
        .iter()
        .flat_map(|got| String::from_utf8_lossy(&got.body).lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    for (what, lines) in [
        ("relp", rsyslog.lines("relp")),
        ("tls", rsyslog.lines("tls")),
        ("tcp", rsyslog.lines("tcp")),
        ("file", lines(&host.path("file"))),
        ("http", http),
        ("command", lines(&host.path("command"))),
    ] {
        let doubles = assert_complete(what, &lines, recorded);
        println!("{what}: 0 of {recorded} lost, {doubles} doubled and marked");
    }
}

/// A small disk; unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "vigie-test"]).arg(path).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(path.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[test]
fn a_full_disk_of_a_file_loses_nothing() {
    let host = Host::new(&Settings::default(), "");
    let Some(_disk) = SmallDisk::mount(&host.path("small")) else {
        return vigie_skipped::skipped("this user may not mount a small file system");
    };
    fs::write(host.path("small/filler"), vec![0; 1000 << 10]).unwrap();
    let sinks = format!(
        "[[sink]]\nname = \"file\"\nkind = \"file\"\npath = {:?}\nbegin = \"oldest\"\ntimeout = \"2s\"\n",
        host.path("small/alerts")
    );
    host.configure(&Settings::default(), &format!("{}{sinks}", storm(600)));
    let _agent = host.start();

    wait_until("it is stuck", || {
        sink(&host, "file")["failures"].as_object().filter(|failures| !failures.is_empty()).map(|_| ())
    });
    let refused = sink(&host, "file");
    assert!(refused["last_error"].is_string(), "{refused}");
    fs::remove_file(host.path("small/filler")).unwrap();
    host.vigie(&["sink", "test", "file"]);
    wait_all_sent(&host, 600);

    assert_complete("file", &lines(&host.path("small/alerts")), 600);
}
