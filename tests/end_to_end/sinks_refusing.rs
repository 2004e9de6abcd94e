//! Receivers that refuse, forget or stop half way: nothing is gone, and the status does not say that all is well.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::harness::{python, wait_until};
use crate::receivers::{Receiver, lines, make_certificates, status};
use crate::sinks::{condition, host_with, low_alert, say, wait_sink};

fn alerts(count: usize) -> Vec<String> {
    (0..count).map(|number| low_alert(&format!("number {number}"))).collect()
}

#[test]
fn what_a_collector_rejects_is_kept_and_told() {
    // partial_success { rejected_log_records: 1 }, and a failure that must not be asked again.
    for answer in [status("200 OK", "", "\u{a}\u{2}\u{8}\u{1}"), status("500 Oops", "", "no space")] {
        let collector = Receiver::start(move |_, _| Some(answer.clone()));
        let host = host_with(&format!(
            "[[sink]]\nname = \"otlp\"\nkind = \"otlp\"\nencoding = \"protobuf\"\nurl = \"http://127.0.0.1:{}/v1/logs\"\n",
            collector.port
        ));
        let _agent = host.start();
        say(&host, &alerts(3));

        let sink = wait_sink(&host, "otlp", |sink| sink["position"] == 3);

        assert!(sink["rejected"].as_u64() >= Some(1), "{sink}");
        let told = wait_until("the condition stands", || condition(&host, "otlp", "sink-dead-letters"));
        assert!(told["detail"].as_str().unwrap().contains("the collector rejected"), "{told}");
        let kept: Vec<Value> = lines(&host.path("state/sinks/otlp.dead.jsonl"))
            .iter()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["alert"]["seq"].take())
            .collect();
        assert_eq!(kept, [1, 2, 3]);
    }
}

/// A receiver that refuses with `answer` until it is told otherwise.
fn turning(answer: impl Fn(usize) -> Vec<u8> + Send + Sync + 'static) -> (Receiver, Arc<AtomicUsize>) {
    let works = Arc::new(AtomicUsize::new(0));
    let served = works.clone();
    let receiver = Receiver::start(move |got, _| {
        let count = got.body.iter().filter(|byte| **byte == b'\n').count() / 2;
        Some(match served.load(Ordering::SeqCst) {
            0 => answer(count),
            _ => status("200 OK", "", r#"{"errors":false,"items":[]}"#),
        })
    });
    (receiver, works)
}

#[test]
fn a_wrong_key_or_a_blocked_index_puts_no_alert_aside() {
    let item = r#"{"create":{"status":403,"error":{"type":"cluster_block_exception","reason":"blocked by: [FORBIDDEN/8/index write (api)]"}}}"#;
    let blocked = move |count: usize| {
        let items = vec![item; count].join(",");
        status("200 OK", "", &format!(r#"{{"errors":true,"items":[{items}]}}"#))
    };
    let wrong_key = |_: usize| status("400 Bad Request", "", "'routing_key' is invalid");
    let wrong_port = |_: usize| status("405 Method Not Allowed", "", "");
    let (index, index_works) = turning(blocked);
    let (pager, pager_works) = turning(wrong_key);
    let (other, other_works) = turning(wrong_port);
    let host = host_with(&format!(
        "[[sink]]\nname = \"index\"\nkind = \"webhook\"\ntemplate = \"elasticsearch\"\nurl = {:?}\n\
         [[sink]]\nname = \"pager\"\nkind = \"webhook\"\nurl = {:?}\n\
         [[sink]]\nname = \"other\"\nkind = \"webhook\"\nurl = {:?}\n",
        index.url(),
        pager.url(),
        other.url()
    ));
    let _agent = host.start();
    say(&host, &alerts(20));

    for (name, receiver) in [("index", &index), ("pager", &pager), ("other", &other)] {
        let resting = wait_sink(&host, name, |sink| sink["state"] == "resting");
        assert_eq!((&resting["position"], &resting["dead_letters"]), (&json!(0), &json!(0)), "{resting}");
        wait_until("the condition stands", || condition(&host, name, "sink-refused"));
        assert!(receiver.got().len() < 20, "{} requests", receiver.got().len());
    }

    for works in [index_works, pager_works, other_works] {
        works.store(1, Ordering::SeqCst);
    }
    for name in ["index", "pager", "other"] {
        assert_eq!(host.vigie(&["sink", "test", name]).code, 0);
        let sent = wait_sink(&host, name, |sink| sink["position"] == 20);
        assert_eq!((&sent["sent"], &sent["dead_letters"]), (&json!(20), &json!(0)), "{sent}");
        assert!(!host.path(&format!("state/sinks/{name}.dead.jsonl")).exists());
    }
}

#[test]
fn a_damaged_position_sends_again_and_skips_nothing() {
    let works = Arc::new(AtomicUsize::new(0));
    let served = works.clone();
    let receiver = Receiver::start(move |_, _| match served.load(Ordering::SeqCst) {
        0 => Some(status("503 Later", "", "")),
        _ => Some(status("200 OK", "", "")),
    });
    let host =
        host_with(&format!("[[sink]]\nname = \"hook\"\nkind = \"webhook\"\nurl = {:?}\n", receiver.url()));
    let place = host.path("state/sinks/hook.place");
    for damaged in [b"\0\0\0\0".to_vec(), Vec::new(), vec![b'x'; 1 << 20]] {
        works.store(0, Ordering::SeqCst);
        let agent = host.start();
        say(&host, &alerts(5));
        wait_sink(&host, "hook", |sink| sink["failures"]["server"].as_u64() >= Some(1));
        agent.stop();
        fs::write(&place, damaged).unwrap();
        works.store(1, Ordering::SeqCst);
        let before = receiver.got().len();
        let recorded = host.journal().len();

        let agent = host.start();
        let sent = wait_sink(&host, "hook", |sink| sink["position"] == recorded);

        let got: Vec<Value> = receiver.got()[before..]
            .iter()
            .flat_map(|got| serde_json::from_slice::<Vec<Value>>(&got.body).unwrap())
            .collect();
        assert_eq!(got.len(), recorded, "{sent}");
        assert!(got.iter().all(|alert| alert["resent"] == true), "{got:?}");
        host.wait_log("the position of the sink cannot be used");
        agent.stop();
    }
}

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn the_end_of_tls_from_a_receiver_that_stops_is_no_acknowledgement() {
    let directory = tempfile::tempdir().unwrap();
    make_certificates(directory.path());
    let receiver = Command::new(python())
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/stops_early.py"))
        .arg(directory.path())
        .arg("2")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut receiver = Process(receiver);
    let mut port = String::new();
    BufReader::new(receiver.0.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let host = host_with(&format!(
        "[[sink]]\nname = \"siem\"\nkind = \"syslog\"\ntransport = \"tls\"\naddress = \"127.0.0.1:{}\"\nca = {:?}\n",
        port.trim(),
        directory.path().join("ca.pem")
    ));
    let agent = host.start();
    say(&host, &alerts(40));

    let sent = wait_sink(&host, "siem", |sink| sink["sent"] == 40);

    agent.stop();
    drop(receiver);
    let records = fs::read_to_string(directory.path().join("records")).unwrap();
    for seq in 1..=40 {
        assert!(records.contains(&format!("seq=\"{seq}\"")), "alert {seq} is lost; {sent}");
    }
    assert!(sent["failures"]["broken"].as_u64() >= Some(1), "{sent}");
}
