//! Bad clients on the agent's socket and on the sockets of modules: they cost their own connection only.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::harness::{Host, Settings, open_files, persistent, wait_until};

fn host(rest: &str) -> Host {
    Host::new(&Settings::default(), &(rest.to_owned() + &persistent("echo.py", &[])))
}

fn assert_serves(host: &Host) {
    assert_eq!(host.query("echo", &json!({}))["result"]["success"], true);
}

#[test]
fn the_socket_lets_nobody_else_in() {
    let host = host("");
    let _agent = host.start();

    let mode = |name: &str| host.path(name).metadata().unwrap().permissions().mode() & 0o7777;

    assert_eq!(mode("run"), 0o700);
    assert_eq!(mode("run/agent.sock"), 0o600);
    assert!(host.path("run/agent.sock").metadata().unwrap().file_type().is_socket());
}

#[test]
fn garbage_is_answered_with_what_is_wrong_and_ends_its_connection() {
    let host = host("");
    let _agent = host.start();
    host.wait_ready("echo");

    for garbage in [&b"garbage\n"[..], b"\xff\xfe\n", b"{}\n", b"[]\n", b"{\"nosuch\":{}}\n", b"\0\n"] {
        let mut conversation = host.connect().unwrap();
        conversation.send_bytes(garbage).unwrap();
        let reply = conversation.receive().unwrap();
        assert_eq!(reply["error"]["kind"], "bad_request", "{reply}");
        // What follows may be the rest of it.
        conversation.send(&json!({"status": {}})).ok();
        assert_eq!(conversation.receive(), None);
    }

    assert_serves(&host);
}

#[test]
fn a_request_without_end_does_not_fill_the_memory() {
    let host = host("");
    let mut agent = host.start();
    host.wait_ready("echo");
    let mut conversation = host.connect().unwrap();

    // The agent may refuse to read on at any time.
    let block = vec![b'x'; 1 << 20];
    for _ in 0..64 {
        if conversation.send_bytes(&block).is_err() {
            break;
        }
    }

    agent.assert_runs();
    assert_serves(&host);
    assert!(crate::harness::process_kib(agent.pid(), "VmHWM") < 96 * 1024);
}

#[test]
fn a_silent_client_is_told_that_it_is_too_slow_and_sent_away() {
    let host = host("[limits]\nclient_timeout = \"300ms\"\n");
    let _agent = host.start();
    let mut conversation = host.connect().unwrap();

    let reply = conversation.receive().unwrap();

    assert_eq!(reply["error"]["kind"], "too_slow", "{reply}");
    assert_eq!(conversation.receive(), None);
}

#[test]
fn a_client_that_sends_its_request_byte_by_byte_is_sent_away_after_the_limit() {
    let host = host("[limits]\nclient_timeout = \"500ms\"\n");
    let _agent = host.start();
    let mut stream = UnixStream::connect(host.path("run/agent.sock")).unwrap();
    stream.set_nonblocking(true).unwrap();

    let reply = wait_until("the slow client is told", || {
        // It never finishes its line, and it is sent away all the same.
        stream.write_all(b" ").ok();
        let mut reply = [0; 4096];
        stream.read(&mut reply).ok().map(|read| String::from_utf8_lossy(&reply[..read]).into_owned())
    });

    assert!(reply.contains("too_slow"), "{reply}");
}

#[test]
fn a_thousand_idle_clients_do_not_keep_others_out_and_leave_nothing_behind() {
    let host = host("");
    let agent = host.start();
    host.wait_ready("echo");
    let before = open_files(agent.pid());

    let idle: Vec<_> = (0..1_000).map(|_| host.connect().unwrap()).collect();
    assert_serves(&host);
    drop(idle);

    wait_until("the connections are gone", || (open_files(agent.pid()) <= before + 1).then_some(()));
    assert_serves(&host);
}

#[test]
fn a_client_that_has_not_asked_makes_room_when_all_places_are_taken() {
    let host = host("[limits]\nclients = 16\n");
    let _agent = host.start();
    host.wait_ready("echo");
    let mut idle: Vec<_> = (0..40).map(|_| host.connect().unwrap()).collect();

    assert_serves(&host);

    assert_eq!(idle[0].receive(), None);
}

#[test]
fn clients_that_vanish_in_the_middle_leave_nothing_behind() {
    let host = host("");
    let mut agent = host.start();
    host.wait_ready("echo");
    let before = open_files(agent.pid());

    for request in [
        &b"{\"status\":"[..],
        b"{\"status\":{}}\n",
        b"{\"alerts\":{\"follow\":true}}\n",
        b"{\"tap\":{\"module\":\"echo\"}}\n",
        b"{\"logs\":{\"module\":\"echo\",\"follow\":true}}\n",
        b"{\"query\":{\"module\":\"echo\"}}\n",
    ] {
        for _ in 0..20 {
            host.connect().unwrap().send_bytes(request).unwrap();
        }
    }

    wait_until("the connections are gone", || (open_files(agent.pid()) <= before + 1).then_some(()));
    agent.assert_runs();
    assert_serves(&host);
}

#[test]
fn several_requests_in_one_write_are_answered_in_their_order() {
    let host = host("");
    let _agent = host.start();
    host.wait_ready("echo");
    let mut conversation = host.connect().unwrap();

    conversation
        .send_bytes(b"{\"status\":{}}\n{\"query\":{\"module\":\"echo\"}}\n{\"status\":{}}\n")
        .unwrap();

    let replies: Vec<Value> = (0..3).filter_map(|_| conversation.receive()).collect();
    assert!(replies[0]["status"].is_object() && replies[2]["status"].is_object());
    assert!(replies[1]["result"].is_object());
}

/// The query socket of a module of our own: bad clients connect to it directly.
fn query_socket(host: &Host) -> UnixStream {
    let socket = host.wait_ready("examplepersist")["socket"].as_str().unwrap().to_owned();
    UnixStream::connect(socket.strip_prefix("unix:").unwrap()).unwrap()
}

#[test]
fn bad_clients_on_a_module_s_own_socket_do_not_harm_the_module() {
    let host =
        Host::new(&Settings::default(), "[[module]]\nname = \"examplepersist\"\nkind = \"persistent\"\n");
    let _agent = host.start();
    let before = host.wait_ready("examplepersist");

    for garbage in
        [&b"garbage\n"[..], b"", b"{\"class\":\"ping\"}\n", b"\xff\n", b"{\"class\":\"parameters\"", b"[]\n"]
    {
        query_socket(&host).write_all(garbage).unwrap();
    }
    let idle: Vec<_> = (0..200).map(|_| query_socket(&host)).collect();
    let answer = host.query("examplepersist", &json!({"string": "still here"}));
    drop(idle);

    assert_eq!(answer["result"]["elements"]["string"], "still here", "{answer}");
    assert_eq!(host.module("examplepersist")["pid"], before["pid"]);
}

#[test]
fn clients_that_do_not_read_their_alerts_cost_no_memory() {
    let host = host(&persistent("says.py", &[]));
    let agent = host.start();
    host.wait_ready("says");
    let text = "x".repeat(16 << 10);
    for _ in 0..8 {
        let said = host.query("says", &json!({"texts": vec![&text; 40]}));
        assert_eq!(said["result"]["success"], true, "{said}");
    }
    wait_until("all are recorded", || (host.status()["journal"]["recorded"] == 320).then_some(()));
    let memory = || {
        let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
    };
    let before = memory();

    let clients: Vec<_> = (0..200)
        .map(|_| {
            let mut client = host.connect().unwrap();
            client.send(&json!({"alerts": {}})).unwrap();
            assert!(client.receive().unwrap()["alert"].is_object());
            client
        })
        .collect();

    let grown = memory().saturating_sub(before);
    assert!(grown < 100, "{grown} MiB for {} clients", clients.len());
    assert_serves(&host);
}
