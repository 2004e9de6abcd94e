//! Kills and stops of modules, guard and agent at random moments: no alert is lost or doubled, and nothing is left behind.
//!
//! `VIGIE_CHAOS_ROUNDS` says how many (12 without it), `VIGIE_CHAOS_SEED` repeats a run.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{Agent, Host, Settings, module, persistent, wait_until};

const SETTINGS: Settings = Settings { agent: "", heartbeat: "300ms", fswatch: false };

/// Numbers that look random: SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// The process of `vigie guard` below the agent.
fn guard_of(agent: &Agent<'_>) -> Option<Pid> {
    let agent = agent.pid();
    let children = fs::read_to_string(format!("/proc/{agent}/task/{agent}/children")).ok()?;
    children.split_whitespace().find_map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let is_it = line.split(|byte| *byte == 0).nth(1) == Some(b"guard");
        is_it.then(|| Pid::from_raw(pid.parse().expect("a number")))
    })
}

/// Stops a process for some milliseconds, if it is still there.
fn stop_for(pid: Pid, milliseconds: u64) {
    if kill(pid, Signal::SIGSTOP).is_ok() {
        let begun = SystemTime::now();
        let over = || begun.elapsed().is_ok_and(|time| time > Duration::from_millis(milliseconds));
        wait_until("the time is over", || over().then_some(()));
        kill(pid, Signal::SIGCONT).ok();
    }
}

#[test]
fn no_alert_is_lost_or_doubled_and_nothing_is_left_whatever_is_killed_or_stopped() {
    let rounds = setting("VIGIE_CHAOS_ROUNDS").unwrap_or(12);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_micros();
    let seed = setting("VIGIE_CHAOS_SEED").unwrap_or(u64::try_from(now).unwrap_or_default());
    println!("VIGIE_CHAOS_SEED={seed} VIGIE_CHAOS_ROUNDS={rounds}");
    let mut random = Random(seed);
    let host = Host::new(&SETTINGS, "");
    let halt = host.path("halt");
    let restart = "[restart]\nbreaker_deaths = 0\nbackoff_max = \"100ms\"\nbackoff_initial = \"50ms\"\n";
    let steady = module("persistent", "steady", "steady.py", &[halt.to_str().unwrap()], "");
    host.configure(&SETTINGS, &(restart.to_owned() + &steady + &persistent("echo.py", &[])));
    let mut agent = Some(host.start());
    let mut done: BTreeMap<&str, u64> = BTreeMap::new();

    for _ in 0..rounds {
        let running = agent.as_ref().expect("started");
        let steady = host.wait_for("steady", |module| module["pid"].is_u64());
        let pid = Pid::from_raw(steady["pid"].as_i64().unwrap().try_into().unwrap());
        let what = match random.below(10) {
            0..4 => {
                kill(pid, Signal::SIGKILL).ok();
                "kill module"
            }
            4..6 => {
                kill(pid, Signal::SIGSTOP).ok();
                let next = |module: &Value| module["pid"].is_u64() && module["pid"] != steady["pid"];
                host.wait_for("steady", next);
                "stop module"
            }
            6 => {
                if let Some(guard) = guard_of(running) {
                    kill(guard, Signal::SIGKILL).ok();
                }
                "kill guard"
            }
            7 => {
                // It is not continued: the agent kills it at its end, or when it is asked next.
                if let Some(guard) = guard_of(running) {
                    kill(guard, Signal::SIGSTOP).ok();
                }
                "stop guard"
            }
            8 => {
                stop_for(running.pid(), 200 + random.below(800));
                "stop agent"
            }
            _ => {
                let guard_lives = guard_of(running).is_some_and(|guard| {
                    let state = fs::read_to_string(format!("/proc/{guard}/stat")).unwrap_or_default();
                    !state.contains(") T ")
                });
                agent.take().expect("started").kill();
                if guard_lives {
                    host.wait_empty();
                }
                agent = Some(host.start());
                "kill agent"
            }
        };
        *done.entry(what).or_default() += 1;
        // At most one copy ever lives: the module, its helper, and a launcher where there is no cgroup.
        let copies = host.processes().iter().filter(|pid| is_steady(**pid)).count();
        assert!(copies <= 1, "{copies} copies after {what}");
    }
    println!("{done:?}");
    fs::write(&halt, "").unwrap();
    let sent = wait_until("every alert is acknowledged", || {
        fs::read_to_string(host.path("state/modules/steady/done")).ok()?.parse::<u64>().ok()
    });

    let mut found: BTreeMap<u64, u64> = BTreeMap::new();
    for record in host.journal().iter().filter(|record| record["module"] == "steady") {
        let number = record["message"].as_str().unwrap().strip_prefix("steady ").unwrap().parse().unwrap();
        *found.entry(number).or_default() += 1;
    }
    let lost = (0..sent).filter(|number| !found.contains_key(number)).count();
    let twice = found.values().filter(|count| **count > 1).count();
    println!("{sent} alerts sent, {lost} lost, {twice} twice");
    assert_eq!((lost, twice, found.len() as u64), (0, 0, sent));
    drop(agent);
    host.wait_empty();
}

/// Whether a process is the module itself and no helper of it.
fn is_steady(pid: i32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0);
    words.next().is_some_and(|program| program.ends_with(b"python3"))
        && words.any(|word| word.ends_with(b"steady.py"))
}
