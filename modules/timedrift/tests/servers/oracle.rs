//! Random sets of good and bad servers, judged by us and by `chronyd -Q`, and both by what is true.
//!
//! `VIGIE_CLOCK_SETS` says how many sets; a thousand take some minutes.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use serde_json::json;
use tempfile::TempDir;
use vigie_timedrift::answer;
use vigie_timedrift::client::{Clock, HostClock};

use crate::chronyd::{Chronyd, can_run, chronyd, own_places};
use crate::server::{Reply, Server, good};
use crate::survey::{TestHost, Told, query};

const DEFAULT_SETS: usize = 36;

/// Sets that are judged at the same time; chronyd waits most of its seconds.
const AT_ONCE: usize = 12;

const MILLISECOND: i64 = 1_000_000;

/// Ends of intervals lie at multiples of this, so that what loopback adds changes no order.
const SLOT_MILLISECONDS: i64 = 120;

/// The slots of all ends.
const SLOTS: i64 = 24;

/// chronyd's greatest distance, and what is beyond it, in milliseconds.
const MAX_DISTANCE: i64 = 3_000;
const TOO_FAR: i64 = 3_400;

// No interval is too wide to count.
const _: () = assert!(SLOTS * SLOT_MILLISECONDS / 2 < MAX_DISTANCE);

#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    Silent,
    NotSynchronised,
    Stratum,
    TooFar,
    NoSelect,
}

/// A server whose interval reaches from one slot to another.
#[derive(Debug, Clone, Copy)]
struct Spec {
    low: i64,
    high: i64,
    fault: Fault,
}

impl Spec {
    fn offset(self) -> i64 {
        (self.low + self.high) * SLOT_MILLISECONDS * MILLISECOND / 2
    }

    /// The error that the server admits, in units of 2^-16 s.
    fn dispersion(self) -> u32 {
        let half = (self.high - self.low) * SLOT_MILLISECONDS / 2;
        let milliseconds = if matches!(self.fault, Fault::TooFar) { TOO_FAR } else { half };
        u32::try_from(milliseconds * 65_536 / 1_000).unwrap()
    }

    fn counts(self) -> bool {
        matches!(self.fault, Fault::None)
    }

    fn start(self, address: &str) -> Server {
        Server::at(
            address,
            Box::new(move |request| {
                let mut reply: Reply = good(request, &HostClock, self.offset());
                reply.root_delay = 0;
                reply.root_dispersion = self.dispersion();
                match self.fault {
                    Fault::Silent => return Vec::new(),
                    Fault::NotSynchronised => reply.leap_indicator = 3,
                    Fault::Stratum => reply.stratum = 16,
                    Fault::None | Fault::TooFar | Fault::NoSelect => {}
                }
                vec![reply.to_bytes()]
            }),
        )
    }
}

/// Servers of which all ends lie in different slots; most of them overlap near the middle.
fn specs() -> impl Strategy<Value = Vec<Spec>> {
    let fault = prop_oneof![
        12 => Just(Fault::None),
        1 => Just(Fault::Silent),
        1 => Just(Fault::NotSynchronised),
        1 => Just(Fault::Stratum),
        1 => Just(Fault::TooFar),
        1 => Just(Fault::NoSelect),
    ];
    let slots = Just((-SLOTS / 2..SLOTS / 2).collect::<Vec<i64>>()).prop_shuffle();
    (slots, prop::collection::vec(fault, 1..=7)).prop_map(|(slots, faults)| {
        let ends = slots.chunks_exact(2);
        let spec = |(ends, fault): (&[i64], Fault)| Spec {
            low: ends[0].min(ends[1]),
            high: ends[0].max(ends[1]),
            fault,
        };
        ends.zip(faults).map(spec).collect()
    })
}

/// What `chronyd -Q` makes of the servers: by how many nanoseconds the clock is wrong, or nothing.
fn chronyds_answer(servers: &[(Spec, Server)]) -> Option<i64> {
    let directory = TempDir::new().unwrap();
    let lines = servers.iter().map(|(spec, server)| {
        let option = if matches!(spec.fault, Fault::NoSelect) { " noselect" } else { "" };
        format!("server {} port {} iburst{option}", server.address.ip(), server.address.port())
    });
    let mut child = Chronyd(
        Command::new(chronyd())
            .args(["-Q", "-t", "9", "-u", "root", "maxdistance 3"])
            .args(lines)
            .args(own_places(&directory))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let lines =
        BufReader::new(child.0.stderr.take().unwrap()).lines().map(Result::unwrap).collect::<Vec<_>>();
    let wrong =
        lines.iter().find_map(|line| line.split_once("clock wrong by ")?.1.split(' ').next()?.parse().ok());
    assert!(
        wrong.is_some()
            || lines
                .iter()
                .any(|line| line.contains("Timeout reached") || line.contains("No suitable source")),
        "{lines:#?}"
    );
    wrong.map(|seconds: f64| (seconds * 1e9).round() as i64)
}

/// One set, judged by all.
fn check(specs: &[Spec], subnet: usize) {
    // chronyd takes one server for each address.
    let address = |number: usize| format!("127.{}.{}.{}:0", 77 + subnet / 250, 1 + subnet % 250, 1 + number);
    let servers: Vec<(Spec, Server)> =
        specs.iter().enumerate().map(|(number, spec)| (*spec, spec.start(&address(number)))).collect();

    let files = servers.iter().enumerate().fold(TestHost::new(), |host, (number, (_, server))| {
        host.name(&format!("s{number}"), &[server.address])
    });
    let option = |spec: &Spec| if matches!(spec.fault, Fault::NoSelect) { " noselect" } else { "" };
    let text: String =
        specs.iter().enumerate().map(|(n, spec)| format!("server s{n}{}\n", option(spec))).collect();
    let files = files.file("/etc/chrony.conf", &text);
    let mut host = files.host();
    host.means.clock = Arc::new(HostClock) as Arc<dyn Clock>;
    let told = Told::from(answer(&query(&json!({"drift": "300ms", "ask": "all", "timeout": "3s"})), &host));

    let stats = told.statistics["ntpstats"].as_array().unwrap();
    let judgement = |number: usize| {
        let one = stats.iter().find(|one| one["host"] == format!("s{number}")).unwrap();
        one["judgement"].as_str().unwrap_or_default().to_owned()
    };
    let agreeing: Vec<i64> =
        (0..specs.len()).filter(|n| judgement(*n) == "agrees").map(|n| specs[n].offset()).collect();
    // A majority for chronyd is one for us, and its offset is among those of the servers that we say agree. On a busy
    // machine chronyd may decide before all have answered it, so it is asked again before that is a difference.
    let slack = 40 * MILLISECOND;
    let range =
        agreeing.iter().min().zip(agreeing.iter().max()).map(|(low, high)| low - slack..=high + slack);
    let agrees = |theirs: Option<i64>| match (&range, theirs) {
        (Some(range), Some(offset)) => range.contains(&offset),
        (range, theirs) => range.is_none() && theirs.is_none(),
    };
    let mut theirs = chronyds_answer(&servers);
    for _ in 0..2 {
        if !agrees(theirs) {
            theirs = chronyds_answer(&servers);
        }
    }
    let context = || format!("{specs:?}\nchronyd: {theirs:?}\nours: {told:?}");
    assert!(agrees(theirs), "{}", context());
    for (number, spec) in specs.iter().enumerate() {
        let expected = match spec.fault {
            Fault::None => continue,
            Fault::Silent | Fault::NotSynchronised | Fault::Stratum => "",
            Fault::TooFar => "too far",
            Fault::NoSelect => "not selectable",
        };
        assert_eq!(judgement(number), expected, "{}", context());
    }
    // Whatever the truth is, if most servers that count are right about it, the verdict is.
    let counted: Vec<&Spec> = specs.iter().filter(|spec| spec.counts()).collect();
    for truth in -SLOTS / 2..SLOTS / 2 {
        let right = counted.iter().filter(|spec| spec.low <= truth && truth < spec.high).count();
        if right * 2 <= counted.len() {
            continue;
        }
        // Between two slots, where nothing that loopback adds matters.
        let truth = truth * SLOT_MILLISECONDS + SLOT_MILLISECONDS / 2;
        let is_within = truth.abs() <= 300;
        match told.elements["verdict"].as_str().unwrap() {
            "within" => assert!(is_within, "truth {truth} ms\n{}", context()),
            "outside" => assert!(!is_within, "truth {truth} ms\n{}", context()),
            _ => {}
        }
        for (number, spec) in specs.iter().enumerate() {
            let is_honest =
                spec.counts() && (spec.low..spec.high).contains(&(truth.div_euclid(SLOT_MILLISECONDS)));
            assert!(!is_honest || judgement(number) != "liar", "s{number}\n{}", context());
        }
    }
}

#[test]
fn chronyd_and_we_agree_about_random_sets_of_servers() {
    if !can_run() {
        return;
    }
    let sets = std::env::var("VIGIE_CLOCK_SETS").ok().map_or(DEFAULT_SETS, |sets| sets.parse().unwrap());
    let seed = std::env::var("VIGIE_CLOCK_SEED")
        .ok()
        .map_or(RngSeed::Random, |seed| RngSeed::Fixed(seed.parse().unwrap()));
    let mut runner = TestRunner::new(Config { rng_seed: seed, ..Config::default() });
    let all: Vec<Vec<Spec>> = (0..sets).map(|_| specs().new_tree(&mut runner).unwrap().current()).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(specs) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let subnet = next.load(Ordering::Relaxed);
                    check(specs, subnet);
                }
            });
        }
    });
}
