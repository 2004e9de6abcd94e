//! Against what MIG's timedrift was asked and answered, and the packets that it was given.
//!
//! The captured cases are in `tests/vectors/timedrift`. The servers of that capture are built again: an
//! address of 127.0.0.0/8 for each behaviour. Where MIG is wrong the test says what we do instead.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;
use vigie_sdk::ModuleResult;
use vigie_timedrift::client::HostClock;
use vigie_timedrift::duration::GoDuration;
use vigie_timedrift::packet::{Refusal, Request, Verdict};
use vigie_timedrift::survey::Means;
use vigie_timedrift::timestamp::NtpTimestamp;
use vigie_timedrift::{Host, answer};

use crate::server::{Server, good};
use crate::survey::{query, write};

const SECOND: i64 = 1_000_000_000;

fn captured(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/timedrift").join(file);
    std::fs::read_to_string(path).unwrap()
}

/// What we do differently, and why.
const DIFFERENT: [(&str, &str); 11] = [
    ("drift negative", "a negative tolerance is refused"),
    ("first silent, second ok", "takes seconds; the survey's own tests have it"),
    ("two silent, third ok", "takes seconds"),
    ("slow 3 s reply", "takes seconds"),
    ("slow 6 s reply then ok", "takes seconds"),
    ("48 x ff then ok", "garbage is not the time"),
    ("era 1 (after 2036) then ok", "the origin is wrong, and MIG takes 2036 for 1900"),
    (
        "no ntp.conf, fallback hosts unreachable (no DNS)",
        "nothing was checked, so nothing is within the drift",
    ),
    ("no ntp.conf, fallback host works", "a check that worked is a success"),
    ("DNS black hole, fallback hosts", "takes 50 s"),
    ("drift value {\"drift\": \"5µs\"}", "20 µs on loopback are within the error bound"),
];

#[test]
fn queries_are_answered_as_mig_answered_them_or_better() {
    // One port for all: the capture had 123, which needs privileges.
    let first = Server::ahead("127.0.0.1:0", Arc::new(HostClock), 0);
    let port = first.address.port();
    let ahead = |last: u8, seconds: i64| {
        Server::ahead(&format!("127.0.0.{last}:{port}"), Arc::new(HostClock), seconds * SECOND)
    };
    let _servers = [ahead(11, 100), ahead(12, -100), kissing(&format!("127.0.0.14:{port}"))];
    let cases: Vec<Value> = serde_json::from_str(&captured("queries.json")).unwrap();
    let mut compared = 0;

    for case in &cases {
        let name = case["name"].as_str().unwrap();
        if DIFFERENT.iter().any(|(different, _)| *different == name) {
            continue;
        }
        let files = TempDir::new().unwrap();
        if let Some(text) = case["ntp_conf"].as_str() {
            write(files.path(), "/etc/ntp.conf", text);
        }
        let mut means = Means { port, ..Means::default() };
        // The capture's host resolved the fallback list to loopback and knew no other name.
        means.resolve = Arc::new(|host, port| match host.parse() {
            Ok(address) => Ok(vec![std::net::SocketAddr::new(address, port)]),
            Err(_) if host == "time.nist.gov" => Ok(vec![([127, 0, 0, 1], port).into()]),
            Err(_) => Err(std::io::Error::new(std::io::ErrorKind::NotFound, "no such name")),
        });
        let daemons = crate::survey::no_daemons();
        let host = Host {
            root: files.path().to_owned(),
            fallback: vec!["time.nist.gov".to_owned()],
            means,
            daemons,
        };
        let migs: ModuleResult = serde_json::from_str(case["stdout"].as_str().unwrap()).unwrap();

        let ours = answer(&query(&case["params"]), &host);

        assert_eq!(ours.success, migs.success, "{name}: {ours:?}");
        assert_eq!(ours.foundanything, migs.foundanything, "{name}: {ours:?}");
        let (migs, ours) = (Comparable::from(migs), Comparable::from(ours));
        assert_eq!(ours, migs, "{name}");
        compared += 1;
    }
    assert_eq!(compared, cases.len() - DIFFERENT.len(), "a difference is named that is none");
    assert!(!first.requests().is_empty());
}

/// The server at 127.0.0.14, which MIG believes.
fn kissing(address: &str) -> Server {
    Server::at(
        address,
        Box::new(|request| {
            let mut reply = good(request, &HostClock, 0);
            reply.stratum = 0;
            vec![reply.to_bytes()]
        }),
    )
}

/// What two results that say the same have in common: no times, and amounts to the second.
#[derive(Debug, PartialEq)]
struct Comparable {
    has_checked: bool,
    is_within: bool,
    sentences: Vec<String>,
    error: Option<String>,
}

impl From<ModuleResult> for Comparable {
    fn from(result: ModuleResult) -> Self {
        let elements: Value =
            result.elements.map_or(Value::Null, |raw| serde_json::from_str(raw.get()).unwrap());
        let sentences = elements["drifts"].as_array().cloned().unwrap_or_default();
        let before_amount = |sentence: &Value| {
            let (before, amount) = sentence.as_str().unwrap().split_once(" by ").unwrap();
            let amount: GoDuration = amount.parse().unwrap();
            // To the second it is the same as well.
            format!("{before} by {} s", (amount.as_nanoseconds() + SECOND / 2) / SECOND)
        };
        // Wordings differ around what Go's parser of durations says.
        let error = result.errors.unwrap_or_default().into_iter().next();
        let error = error.filter(|_| !result.success);
        let error =
            error.map(|text| text.find("time: ").map_or_else(String::new, |at| text[at..].to_owned()));
        Self {
            has_checked: elements["hascheckeddrift"] == true,
            is_within: elements["iswithindrift"] == true,
            sentences: sentences.iter().map(before_amount).collect(),
            error,
        }
    }
}

#[test]
fn captured_packets_are_ignored_without_the_random_number_and_judged_with_it() {
    let request =
        Request { nonce: 0x1122_3344_5566_7788, sent_at: NtpTimestamp::from_bits(0xeeae_3b49 << 32) };
    let soon = NtpTimestamp::from_bits(0xeeae_3b49_8000_0000);
    let mut judged = 0;
    for line in captured("ntp-packets.jsonl").lines() {
        let packet: Value = serde_json::from_str(line).unwrap();
        let server = packet["server"].as_str().unwrap();
        let mut bytes = hex(packet["reply_hex"].as_str().unwrap());
        // Every one of them: MIG sends no number that an answer could repeat.
        assert_eq!(request.judge(&bytes, soon), Verdict::Ignored, "{server}");
        if bytes.len() < 32 {
            continue;
        }
        bytes[24..32].copy_from_slice(&request.nonce.to_be_bytes());

        let verdict = request.judge(&bytes, soon);

        let refused = match server {
            "kod-stratum0" => "kod:LOCL",
            "zero-transmit" => "lacks the receive timestamp",
            "mode-client-echo" => "mode 3",
            "leap-alarm-unsynchronised" => "leap indicator 3",
            "garbage-48" => "mode 7",
            _ => "",
        };
        match verdict {
            Verdict::Measured(_) => assert_eq!(refused, "", "{server}"),
            Verdict::Refused(refusal) => assert!(is_because(refusal, refused), "{server}: {refusal}"),
            Verdict::Ignored => panic!("{server}"),
        }
        judged += 1;
    }
    assert_eq!(judged, 15);
}

fn is_because(refusal: Refusal, expected: &str) -> bool {
    !expected.is_empty() && refusal.to_string().contains(expected)
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}
