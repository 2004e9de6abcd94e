//! One answer after the other that a client must take, refuse or not even notice.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use vigie_timedrift::client::{Answer, AskError, Clock, Patience, ask};

use crate::server::{CEILING, HALF_LOST, Reply, SHORT, Server, TestClock, good, now, patience, shifted};

const MILLISECOND: i64 = 1_000_000;
const SECOND: i64 = 1_000_000_000;
const YEAR: i64 = 31_557_600 * SECOND;

/// What must become of an answer.
enum Expected {
    /// It is taken, with this offset in nanoseconds.
    Offset(i64),
    /// It ends the question, for a reason that contains this.
    Refused(&'static str),
    /// It is not an answer to the request: a good one that comes after it is taken.
    Ignored,
}

use Expected::{Ignored, Offset, Refused};

/// Changes a good answer.
type Change = fn(&mut Reply);

/// An answer that takes no time to come, by a server with the right time.
const TABLE: &[(&str, Change, Expected)] = &[
    ("good", |_| {}, Offset(0)),
    ("leap indicator 3", |reply| reply.leap_indicator = 3, Refused("leap indicator 3")),
    (
        "kiss-o'-death RATE",
        |reply| (reply.stratum, reply.leap_indicator, reply.reference_id) = (0, 3, *b"RATE"),
        Refused("kod:RATE"),
    ),
    (
        "kiss-o'-death DENY with a wrong origin",
        |reply| {
            (reply.stratum, reply.reference_id) = (0, *b"DENY");
            reply.origin ^= 1;
        },
        Ignored,
    ),
    ("stratum 16", |reply| reply.stratum = 16, Refused("stratum 16")),
    ("stratum 200", |reply| reply.stratum = 200, Refused("stratum 200")),
    (
        "wrong origin, an hour ahead",
        |reply| {
            reply.origin = 0x4142_4344_4546_4748;
            reply.receive += 3600 << 32;
            reply.transmit += 3600 << 32;
        },
        Ignored,
    ),
    ("origin of zero", |reply| reply.origin = 0, Ignored),
    ("mode 5, broadcast", |reply| reply.mode = 5, Refused("mode 5")),
    ("mode 3, client", |reply| reply.mode = 3, Refused("mode 3")),
    ("mode 6, control", |reply| reply.mode = 6, Refused("mode 6")),
    ("no receive time", |reply| reply.receive = 0, Refused("lacks the receive timestamp")),
    ("no transmit time", |reply| reply.transmit = 0, Refused("lacks the transmit timestamp")),
    ("root dispersion of 32 s", |reply| reply.root_dispersion = 32 << 16, Refused("16 s or more")),
    ("47 bytes", |reply| reply.length = 47, Refused("47 bytes")),
    (
        "stratum 1 with a reference that is not ASCII",
        |reply| (reply.stratum, reply.reference_id) = (1, [0xff, 0xfe, 0, 0x80]),
        Offset(0),
    ),
    ("version 1", |reply| reply.version = 1, Offset(0)),
    ("version 7", |reply| reply.version = 7, Refused("version 7")),
    // Not in the table of others, but as wrong.
    ("version 0", |reply| reply.version = 0, Refused("version 0")),
    ("root delay of 32 s", |reply| reply.root_delay = 32 << 16, Refused("16 s or more")),
    ("root delay of 31 s", |reply| reply.root_delay = 31 << 16, Offset(0)),
    ("stratum 15", |reply| reply.stratum = 15, Offset(0)),
    ("leap second announced", |reply| reply.leap_indicator = 1, Offset(0)),
    ("sent before it received", |reply| reply.transmit -= 1, Refused("before the request arrived")),
    ("kept longer than it took", |reply| reply.transmit += 1 << 32, Refused("longer than the answer took")),
    ("reference in the future", |reply| reply.reference = reply.transmit + 1, Refused("was set after")),
    ("reference not known", |reply| reply.reference = 0, Offset(0)),
    ("68 bytes, with an authenticator", |reply| reply.length = 68, Offset(0)),
    ("31 bytes, half an origin", |reply| reply.length = 31, Ignored),
    ("10 bytes", |reply| reply.length = 10, Ignored),
    ("no bytes", |reply| reply.length = 0, Ignored),
];

/// Asks a server of this script.
fn question(
    clock: &Arc<TestClock>,
    script: impl FnMut(&[u8]) -> Vec<Vec<u8>> + Send + 'static,
    time: Duration,
) -> Result<Answer, AskError> {
    let server = Server::at("127.0.0.1:0", Box::new(script));
    ask(server.address, &**clock, patience(time))
}

fn offset(answer: &Answer) -> i64 {
    answer.measurement.offset.to_nanoseconds()
}

#[test]
fn every_answer_of_the_table_becomes_what_it_must() {
    for (name, change, expected) in TABLE {
        let clock = Arc::new(TestClock::default());
        let (servers_clock, change, with_good_one) =
            (Arc::clone(&clock), *change, matches!(expected, Ignored));

        let outcome = question(
            &clock,
            move |request| {
                let good = good(request, &*servers_clock, 0);
                let mut changed = good.clone();
                change(&mut changed);
                let mut packets = vec![changed.to_bytes()];
                packets.extend(with_good_one.then(|| good.to_bytes()));
                packets
            },
            CEILING,
        );

        match (expected, outcome) {
            (Offset(nanoseconds), Ok(answer)) => assert_eq!(offset(&answer), *nanoseconds, "{name}"),
            (Ignored, Ok(answer)) => assert_eq!(offset(&answer), 0, "{name}: the good answer was not taken"),
            (Refused(why), Err(AskError::Refused(refusal))) => {
                assert!(refusal.to_string().contains(why), "{name}: {refusal}");
            }
            (_, outcome) => panic!("{name}: {outcome:?}"),
        }
    }
}

#[test]
fn what_is_ignored_never_becomes_time() {
    for (name, change, _) in TABLE.iter().filter(|(_, _, expected)| matches!(expected, Ignored)) {
        let clock = Arc::new(TestClock::default());
        let (servers_clock, change) = (Arc::clone(&clock), *change);

        let outcome = question(
            &clock,
            move |request| {
                let mut changed = good(request, &*servers_clock, 0);
                change(&mut changed);
                vec![changed.to_bytes()]
            },
            SHORT,
        );

        assert!(matches!(outcome, Err(AskError::Silent { .. })), "{name}: {outcome:?}");
    }
}

#[test]
fn what_is_ignored_is_counted() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let sent = AtomicBool::new(false);
    let questions_since = AtomicU32::new(0);

    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (_, from) = socket.recv_from(&mut [0; 48]).unwrap();
            for _ in 0..3 {
                socket.send_to(&[0x24; 48], from).unwrap();
            }
            // On loopback they are in the client's buffer now.
            sent.store(true, Ordering::SeqCst);
        });
        // The client asks between any two packets whether to go on.
        let is_stopped =
            || sent.load(Ordering::SeqCst) && questions_since.fetch_add(1, Ordering::SeqCst) >= 10;
        let patience = Patience { is_stopped: &is_stopped, ..patience(CEILING) };
        ask(address, &TestClock::default(), patience)
    });

    let error = outcome.unwrap_err();
    assert!(matches!(error, AskError::Silent { ignored: 3, .. }), "{error:?}");
    assert!(error.to_string().contains("3 packets that do not belong to the request"), "{error}");
}

#[test]
fn an_echo_of_the_request_is_no_answer() {
    let clock = Arc::new(TestClock::default());

    let outcome = question(&clock, |request| vec![request.to_vec()], SHORT);

    assert!(matches!(outcome, Err(AskError::Silent { .. })), "{outcome:?}");
}

#[test]
fn delays_do_not_become_drift() {
    for (out, back, expected_offset) in [(100, 100, 0), (0, 400, -200), (400, 0, 200), (1500, 1500, 0)] {
        let clock = Arc::new(TestClock::default());
        let servers_clock = Arc::clone(&clock);

        let answer = question(
            &clock,
            move |request| {
                servers_clock.advance(Duration::from_millis(out));
                let reply = good(request, &*servers_clock, 0);
                servers_clock.advance(Duration::from_millis(back));
                vec![reply.to_bytes()]
            },
            CEILING,
        )
        .unwrap();

        let measurement = answer.measurement;
        // A unit of a timestamp is a quarter of a nanosecond, and several are cut off.
        assert!((offset(&answer) - expected_offset * MILLISECOND).abs() <= 2, "{measurement:?}");
        let delay = i64::try_from(out + back).unwrap() * MILLISECOND;
        assert!((measurement.delay.to_nanoseconds() - delay).abs() <= 2, "{measurement:?}");
        // The true offset is 0, so the bound must reach that far, and not much farther.
        let bound = measurement.error_bound.to_nanoseconds_up();
        assert!(bound >= offset(&answer).abs(), "{measurement:?}");
        assert!(bound >= delay / 2 && bound < delay / 2 + 30 * MILLISECOND, "{measurement:?}");
    }
}

#[test]
fn the_time_that_the_server_takes_is_no_delay() {
    let clock = Arc::new(TestClock::default());
    let servers_clock = Arc::clone(&clock);

    let answer = question(
        &clock,
        move |request| {
            let receive = shifted(servers_clock.wall(), 7 * SECOND);
            servers_clock.advance(Duration::from_secs(2));
            let transmit = shifted(servers_clock.wall(), 7 * SECOND);
            vec![Reply::good(request, receive, transmit).to_bytes()]
        },
        CEILING,
    )
    .unwrap();

    assert_eq!(answer.measurement.delay.to_nanoseconds(), 0);
    assert!((offset(&answer) - 7 * SECOND).abs() <= 2);
}

#[test]
fn clocks_years_apart_are_measured_across_the_era() {
    for ahead in [10 * YEAR, -40 * YEAR, 60 * YEAR, 100 * SECOND, -100 * SECOND, 1] {
        let clock = Arc::new(TestClock::default());
        let servers_clock = Arc::clone(&clock);

        let answer =
            question(&clock, move |request| vec![good(request, &*servers_clock, ahead).to_bytes()], CEILING)
                .unwrap();

        assert!((offset(&answer) - ahead).abs() <= 2, "{ahead}: {answer:?}");
    }
}

#[test]
fn a_lost_request_is_sent_once_more_with_another_number() {
    let clock = Arc::new(TestClock::default());
    let servers_clock = Arc::clone(&clock);
    let mut number = 0;
    let server = Server::at(
        "127.0.0.1:0",
        Box::new(move |request| {
            number += 1;
            if number == 1 { Vec::new() } else { vec![good(request, &*servers_clock, 0).to_bytes()] }
        }),
    );

    let answer = ask(server.address, &*clock, patience(HALF_LOST));

    assert!(answer.is_ok(), "{answer:?}");
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert_ne!(requests[0][40..], requests[1][40..]);
    // Nothing of the host is in them, its time least of all.
    assert!(requests.iter().all(|request| request.len() == 48 && request[1..40] == [0; 39]));
}

#[test]
fn the_answer_to_the_first_request_counts_after_the_second() {
    let clock = Arc::new(TestClock::default());
    let servers_clock = Arc::clone(&clock);
    let mut first = None;

    let answer = question(
        &clock,
        move |request| match first.take() {
            None => {
                first = Some(good(request, &*servers_clock, 0));
                servers_clock.advance(Duration::from_secs(3));
                Vec::new()
            }
            Some(reply) => vec![reply.to_bytes()],
        },
        HALF_LOST,
    )
    .unwrap();

    // Three seconds on the way back: half of them in the offset, all of them in the delay.
    assert!((answer.measurement.delay.to_nanoseconds() - 3 * SECOND).abs() <= 2);
    assert!((offset(&answer) + 3 * SECOND / 2).abs() <= 2);
}

#[test]
fn a_closed_port_and_a_silent_server_are_told_apart() {
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let clock = TestClock::default();
    let began = now();

    let unreachable = ask(closed, &clock, patience(CEILING));

    assert!(matches!(unreachable, Err(AskError::Unreachable(_))), "{unreachable:?}");
    assert!(began.elapsed() < CEILING / 2, "a refusal needs no waiting");
    let server = Server::silent();
    let silent = ask(server.address, &clock, patience(SHORT));
    assert!(matches!(silent, Err(AskError::Silent { ignored: 0, .. })), "{silent:?}");
}

#[test]
fn ipv6_works_as_well() {
    if UdpSocket::bind("[::1]:0").is_err() {
        return vigie_skipped::skipped("no IPv6 on loopback");
    }
    let clock = Arc::new(TestClock::default());
    let server = Server::ahead("[::1]:0", Arc::clone(&clock) as _, SECOND);

    let answer = ask(server.address, &*clock, patience(CEILING)).unwrap();

    assert!((offset(&answer) - SECOND).abs() <= 2);
}
