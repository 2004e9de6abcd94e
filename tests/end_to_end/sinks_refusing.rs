//! Receivers that refuse, forget or stop half way: nothing is gone, and the status does not say that all is well.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::alerts::SmallDisk;
use crate::harness::{Host, python, wait_until};
use crate::receivers::{Receiver, free_port, lines, make_certificates, make_certificates_for, status};
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

/// A receiver of syslog over TLS that says the end on its first `closed` connections, and a host that sends to it.
fn host_with_tls_receiver(certificates: &Path, closed: u32) -> (Process, Host) {
    let receiver = Command::new(python())
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/stops_early.py"))
        .arg(certificates)
        .arg(closed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut receiver = Process(receiver);
    let mut port = String::new();
    BufReader::new(receiver.0.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let host = host_with(&format!(
        "[[sink]]\nname = \"siem\"\nkind = \"syslog\"\ntransport = \"tls\"\naddress = \"127.0.0.1:{}\"\nca = {:?}\n",
        port.trim(),
        certificates.join("ca.pem")
    ));
    (receiver, host)
}

#[test]
fn the_end_of_tls_from_a_receiver_that_stops_is_no_acknowledgement() {
    let directory = tempfile::tempdir().unwrap();
    make_certificates(directory.path());
    let (receiver, host) = host_with_tls_receiver(directory.path(), 2);
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

#[test]
fn a_collectors_answer_that_is_cut_acknowledges_nothing() {
    let collector = Receiver::start(|_, number| {
        let rejects = r#"{"partialSuccess":{"rejectedLogRecords":"1","errorMessage":"too old"}}"#;
        Some(match number {
            // It promises more than it sends.
            0 => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}", rejects.len(), &rejects[..40])
                .into_bytes(),
            // A proxy that cuts says that this is all.
            1 => status("200 OK", "", &rejects[..40]),
            _ => status("200 OK", "", rejects),
        })
    });
    let host = host_with(&format!(
        "[[sink]]\nname = \"otlp\"\nkind = \"otlp\"\nencoding = \"json\"\ntimeout = \"500ms\"\nurl = \"http://127.0.0.1:{}/v1/logs\"\n",
        collector.port
    ));
    let _agent = host.start();
    say(&host, &alerts(3));

    let sink = wait_sink(&host, "otlp", |sink| sink["position"] == 3);

    // What comes in two batches is rejected twice.
    assert!(sink["rejected"].as_u64() >= Some(1), "{sink}");
    assert_eq!(sink["failures"]["protocol"], 2, "{sink}");
    let requests = collector.got();
    assert!(requests.len() >= 3 && requests[..3].iter().all(|one| one.body == requests[0].body), "{sink}");
}

#[test]
fn a_collector_whose_answers_cannot_be_read_stops_no_alert_and_all_are_kept() {
    let collector = Receiver::start(|_, _| Some(status("200 OK", "", r#"{"partialSuccess":"#)));
    let host = host_with(&format!(
        "[[sink]]\nname = \"otlp\"\nkind = \"otlp\"\nencoding = \"json\"\nurl = \"http://127.0.0.1:{}/v1/logs\"\n",
        collector.port
    ));
    let _agent = host.start();
    say(&host, &alerts(1));

    let told = wait_until("it is told", || condition(&host, "otlp", "sink-failing"));
    assert!(told["detail"].as_str().unwrap().contains("cannot be read"), "{told}");
    let sink = wait_sink(&host, "otlp", |sink| sink["position"] == 1);
    assert_eq!((&sink["failures"]["protocol"], &sink["rejected"]), (&json!(3), &json!(0)), "{sink}");
    let told = wait_until("letters are kept", || condition(&host, "otlp", "sink-dead-letters"));
    assert!(told["detail"].as_str().unwrap().contains("what it rejected is not known"), "{told}");

    // What it answers is known by now: the next ones are sent once.
    let before = collector.got().len();
    say(&host, &alerts(3));
    let sink = wait_sink(&host, "otlp", |sink| sink["position"].as_u64() >= Some(4));
    assert_eq!(sink["failures"]["protocol"], 3, "{sink}");
    assert!(collector.got().len() <= before + 3, "{sink}");
    let kept = lines(&host.path("state/sinks/otlp.dead.jsonl"));
    assert!(kept.len() >= 4, "{kept:?}");
}

#[test]
fn a_dead_letter_file_that_is_full_is_a_failure_that_an_alert_tells() {
    let receiver = Receiver::start(|got, _| {
        let is_bad = String::from_utf8_lossy(&got.body).contains("bad one");
        Some(status(if is_bad { "400 Bad Request" } else { "200 OK" }, "", ""))
    });
    let host =
        host_with(&format!("[[sink]]\nname = \"hook\"\nkind = \"webhook\"\nurl = {:?}\n", receiver.url()));
    let letters = host.path("state/sinks/hook.dead.jsonl");
    fs::create_dir_all(letters.parent().unwrap()).unwrap();
    // Sixteen MiB of what was rejected before.
    let line = format!("{}\n", json!({"reason": "x".repeat(1000)}));
    fs::write(&letters, line.repeat((16 << 20) / line.len() + 1)).unwrap();
    let _agent = host.start();
    say(&host, &["good one".to_owned(), "bad one".to_owned(), "another good one".to_owned()]);

    let told = wait_until("it is told", || condition(&host, "hook", "sink-letters-lost"));

    assert_eq!(told["severity"], "failed", "{told}");
    let detail = told["detail"].as_str().unwrap();
    assert!(detail.contains("1 rejected alerts") && detail.contains("has reached"), "{told}");
    let alert = wait_until("an alert tells it", || {
        host.journal().into_iter().find(|record| record.to_string().contains("sink-letters-lost"))
    });
    assert_eq!(alert["module"], "agent", "{alert}");
    // The agent's own alert is sent as well.
    wait_sink(&host, "hook", |sink| sink["sent"].as_u64() >= Some(3));

    fs::rename(&letters, host.path("kept")).unwrap();
    say(&host, &["the next bad one".to_owned()]);
    wait_until("it is over", || condition(&host, "hook", "sink-letters-lost").is_none().then_some(()));
}

#[test]
fn a_full_disk_below_the_dead_letters_is_told_and_spoils_no_letter_and_no_other_alert() {
    let receiver = Receiver::start(|got, _| {
        let is_bad = String::from_utf8_lossy(&got.body).contains("bad one");
        Some(status(if is_bad { "400 Bad Request" } else { "200 OK" }, "", ""))
    });
    let host =
        host_with(&format!("[[sink]]\nname = \"hook\"\nkind = \"webhook\"\nurl = {:?}\n", receiver.url()));
    let directory = host.path("state/sinks");
    let Some(_disk) = SmallDisk::mount(&directory) else {
        return vigie_skipped::skipped("this user may not mount a small file system");
    };
    let letters = directory.join("hook.dead.jsonl");
    let kept = || -> Vec<String> {
        let kept = lines(&letters).into_iter().map(|line| {
            let letter: Value = serde_json::from_str(&line).expect("each line is a whole letter");
            letter["alert"]["message"].as_str().unwrap().to_owned()
        });
        kept.collect()
    };
    let has_kept = |text: &str| kept().iter().any(|message| message.contains(text));
    let _agent = host.start();
    say(&host, &[low_alert("the good one"), low_alert("the first bad one")]);
    wait_until("the first one is kept", || (letters.exists() && has_kept("first")).then_some(()));

    // Full but for what is left of the file's own page: a part of the next letter fits.
    fs::write(directory.join("filler"), vec![0; 4 << 20]).expect_err("the disk is full");
    say(
        &host,
        &[low_alert(&format!("the second bad one {}", "x".repeat(8_000))), low_alert("another good one")],
    );

    let told = wait_until("it is told", || condition(&host, "hook", "sink-letters-lost"));
    assert!(told["detail"].as_str().unwrap().contains("No space left"), "{told}");
    wait_until("an alert tells it", || {
        host.journal().into_iter().find(|record| record.to_string().contains("sink-letters-lost"))
    });
    wait_until("the others are sent", || {
        let got = receiver.got();
        got.iter().any(|got| String::from_utf8_lossy(&got.body).contains("another good one")).then_some(())
    });
    assert!(has_kept("first") && !has_kept("second"), "{:?}", kept());
    // It is in the journal, as the condition says.
    assert!(host.journal().iter().any(|record| record.to_string().contains("the second bad one")));

    fs::remove_file(directory.join("filler")).unwrap();
    say(&host, &[low_alert("the third bad one")]);
    wait_until("letters are kept again", || has_kept("third").then_some(()));
    assert!(condition(&host, "hook", "sink-letters-lost").is_some());
}

#[test]
fn a_receiver_that_is_down_for_days_is_a_failure_that_an_alert_tells() {
    let port = free_port();
    let host = host_with(&format!(
        "[[sink]]\nname = \"hook\"\nkind = \"webhook\"\nurl = \"http://127.0.0.1:{port}/\"\nbegin = \"oldest\"\nbatch_alerts = 1\n"
    ));
    let sizes = vigie_journal::Sizes { segment_bytes: 1 << 20, keep_segments: 4 };
    let (mut writer, mut seen, _) = vigie_journal::Writer::open(&host.path("state/journal"), sizes).unwrap();
    let mut draft = vigie_journal::Draft::default();
    draft.push_text(1, "2026-01-02T03:04:05Z", "says", None, &low_alert("of long ago"));
    draft.push_text(2, "2026-01-02T03:04:06Z", "says", None, &low_alert("the second one"));
    let snapshot = writer.needs_snapshot().then(|| seen.snapshot());
    writer.append(&vigie_journal::SealedBatch::of(&draft, writer.place()), snapshot).unwrap();
    drop(writer);
    let _agent = host.start();

    let told = wait_until("it is told", || condition(&host, "hook", "sink-behind"));

    assert_eq!(told["severity"], "failed", "{told}");
    assert!(told["detail"].as_str().unwrap().contains("2026-01-02"), "{told}");
    wait_until("an alert tells it", || {
        host.journal().into_iter().find(|record| record.to_string().contains("sink-behind"))
    });
    // That it took one of them is no end of it.
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Mutex::new(released);
    let receiver = Receiver::start_at(port, move |got, _| {
        if String::from_utf8_lossy(&got.body).contains("the second one") {
            released.lock().unwrap().recv().ok();
        }
        Some(status("200 OK", "", ""))
    });
    assert_eq!(host.vigie(&["sink", "test", "hook"]).code, 0);
    wait_sink(&host, "hook", |sink| sink["position"] == 1 && sink["state"] == "sending");
    assert!(condition(&host, "hook", "sink-behind").is_some());
    assert!(condition(&host, "hook", "sink-failing").is_none());
    // When all that is so old was taken, nothing is lost and all is well.
    drop(release);
    wait_until("it is over", || condition(&host, "hook", "sink-behind").is_none().then_some(()));
    assert!(receiver.got().iter().any(|got| String::from_utf8_lossy(&got.body).contains("of long ago")));
}

#[test]
fn a_receiver_that_takes_everything_and_closes_is_a_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut first = [0; 4096];
            stream.and_then(|mut stream| stream.read(&mut first)).ok();
        }
    });
    let host = host_with(&format!(
        "[[sink]]\nname = \"siem\"\nkind = \"syslog\"\ntransport = \"tcp\"\naddress = \"127.0.0.1:{port}\"\n"
    ));
    let _agent = host.start();
    say(&host, &alerts(1));

    wait_until("it is told", || condition(&host, "siem", "sink-failing"));
    let sink = wait_sink(&host, "siem", |sink| sink["sent"].as_u64() >= Some(4));

    assert!(condition(&host, "siem", "sink-failing").is_some(), "{sink}");
}

/// `vigie metrics` has the day as well, for rules of one's own.
#[test]
fn a_certificate_is_named_thirty_days_before_it_ends_with_the_sink() {
    let (soon, late) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    make_certificates_for(soon.path(), 20);
    make_certificates_for(late.path(), 60);
    for (directory, days) in [(&soon, Some(["in 19 days", "in 20 days"])), (&late, None)] {
        let (_receiver, host) = host_with_tls_receiver(directory.path(), 0);
        let agent = host.start();
        say(&host, &alerts(1));

        let sink =
            wait_sink(&host, "siem", |sink| sink["sent"] == 1 && sink["certificate_expires"].is_string());

        let told = condition(&host, "siem", "sink-certificate-expires");
        let detail = told.as_ref().and_then(|told| told["detail"].as_str());
        assert_eq!(detail.map(|detail| detail.contains("of the receiver")), days.map(|_| true), "{sink}");
        let is_said =
            |days: [&str; 2]| detail.is_some_and(|detail| days.iter().any(|days| detail.contains(days)));
        assert!(days.is_none_or(is_said), "{detail:?}");
        let metrics = host.vigie(&["metrics"]).out;
        assert!(
            metrics.contains("vigie_sink_certificate_expiry_timestamp_seconds{sink=\"siem\"}"),
            "{metrics}"
        );
        agent.stop();
    }
}

#[test]
fn a_certificate_that_expired_is_named_with_its_day_and_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    make_certificates(directory.path());
    let config = "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nserial=next\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n";
    fs::write(directory.path().join("ca.cnf"), config).unwrap();
    fs::write(directory.path().join("index"), "").unwrap();
    fs::write(directory.path().join("next"), "07\n").unwrap();
    let made = Command::new("openssl")
        .args(
            "ca -batch -notext -config ca.cnf -cert ca.pem -keyfile ca.key -in server.csr -out server.pem"
                .split(' '),
        )
        .args("-startdate 20200101000000Z -enddate 20200201000000Z -extfile server.ext".split(' '))
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (_receiver, host) = host_with_tls_receiver(directory.path(), 0);
    let _agent = host.start();
    say(&host, &alerts(1));

    let sink = wait_sink(&host, "siem", |sink| sink["failures"]["tls"].as_u64() >= Some(1));

    let error = sink["last_error"].as_str().unwrap();
    assert!(error.contains("the server's certificate expired on 2020-02-01: renew it there"), "{error}");
}
