//! Alerts: recorded once, never lost, and shown.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{Host, Settings, VIGIE, module, persistent, signal, wait_until};

/// What the storm sends.
const STORM: u64 = 20_000;

/// Restarts that neither wait nor stop.
const EAGER: &str = "[restart]\nbackoff_initial = \"20ms\"\nbackoff_max = \"20ms\"\nbreaker_deaths = 0\n";

fn recorded(host: &Host) -> u64 {
    host.status()["journal"]["recorded"].as_u64().unwrap()
}

fn alert_lines(text: &str) -> Vec<Value> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn storm_program() -> PathBuf {
    let program = Path::new(VIGIE).with_file_name("examples").join("alert_storm");
    assert!(program.exists(), "{program:?} is missing; run: cargo build --example alert_storm");
    program
}

fn storm_host() -> Host {
    let program = storm_program();
    Host::new(
        &Settings::default(),
        &format!(
            "{EAGER}[[module]]\nname = \"alert_storm\"\nkind = \"persistent\"\n\
             command = [{program:?}, \"{STORM}\"]\n"
        ),
    )
}

/// Every id and every sequence number is there once, every alert of the storm at least once; a number comes
/// again under another id only where a kill hit the module between sending and counting.
fn assert_complete(host: &Host, kills: usize) {
    let journal = host.journal();
    let mut ids = BTreeSet::new();
    let mut numbers: BTreeMap<u64, usize> = BTreeMap::new();
    for (record, seq) in journal.iter().zip(1u64..) {
        assert_eq!(record["seq"], seq, "numbers have no gap");
        assert!(ids.insert(record["id"].as_str().unwrap()), "{record} is there twice");
        let number = record["message"].as_str().unwrap().strip_prefix("alert ").unwrap();
        *numbers.entry(number.parse().unwrap()).or_default() += 1;
    }
    let missing: Vec<_> = (0..STORM).filter(|number| !numbers.contains_key(number)).collect();
    assert!(missing.is_empty(), "{} are missing, such as {:?}", missing.len(), missing.first());
    assert!(journal.len() <= usize::try_from(STORM).unwrap() + kills, "{} records", journal.len());
}

/// Numbers that look random and are the same in every run (Knuth's MMIX generator).
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Numbers of recorded alerts at which something is killed.
fn moments(seed: u64, count: usize) -> Vec<u64> {
    let mut random = Seeded(seed);
    let mut moments: Vec<u64> = (0..count).map(|_| random.below(STORM * 9 / 10)).collect();
    moments.sort_unstable();
    moments
}

#[test]
fn a_module_that_floods_critical_alerts_pushes_no_other_module_s_out_of_the_journal() {
    let named = |name: &str| module("persistent", name, "says.py", &[], "");
    let host = Host::new(
        &Settings::default(),
        &format!(
            "[journal]\nsegment_bytes = \"64 KiB\"\nkeep_segments = 4\n{}{}",
            named("quiet"),
            named("loud")
        ),
    );
    let alert = |severity: &str, text: &str| json!({"severity": severity, "alert": text}).to_string();
    let say = |name: &str, texts: Vec<String>| {
        host.wait_ready(name);
        let answer = host.query(name, &json!({ "texts": texts }));
        assert_eq!(answer["result"]["success"], true, "{answer}");
    };
    let deleted = |name: &str| {
        let deleted = &host.status()["journal"]["deleted_by_module"][name];
        deleted.as_object().map_or(0, |counts| counts.values().filter_map(Value::as_u64).sum::<u64>())
    };
    let agent = host.start();
    say("quiet", vec![alert("critical", "before the flood"), alert("high", "also before it")]);
    let long = "x".repeat(4000);

    for round in 0..20 {
        let severity = if round % 2 == 0 { "critical" } else { "high" };
        say("loud", vec![alert(severity, &long); 10]);
        if round == 10 {
            say("quiet", vec![alert("critical", "amid the flood")]);
            let life = &host.module("loud")["pid"];
            signal(life, Signal::SIGKILL);
            host.wait_for("loud", |loud| loud["pid"] != *life);
        }
    }
    agent.stop();
    let agent = host.start();
    for _ in 0..10 {
        say("loud", vec![alert("critical", &long); 10]);
    }

    wait_until("the flood was deleted for the most part", || (deleted("loud") > 200).then_some(()));
    assert_eq!(deleted("quiet"), 0);
    let shown = host.vigie(&["alerts", "-n", "1000", "--json"]);
    for text in ["before the flood", "also before it", "amid the flood"] {
        assert!(shown.out.contains(text), "{text}");
    }
    assert!(shown.out.contains("alerts_deleted") && shown.out.contains("of loud"), "the agent tells of it");
    let proof = host.vigie(&["alerts", "--verify", "--json"]);
    assert_eq!(proof.code, 0, "{}", proof.out);
    let proof: Value = serde_json::from_str(&proof.out).unwrap();
    assert_eq!(proof["deleted_by_module"].as_object().unwrap().keys().collect::<Vec<_>>(), ["loud"]);
    agent.stop();
}

#[test]
fn a_journal_that_cannot_make_room_records_on_says_so_and_makes_it_when_it_can() {
    let module = module("persistent", "loud", "says.py", &[], "");
    let host = Host::new(
        &Settings::default(),
        &format!("[journal]\nsegment_bytes = \"64 KiB\"\nkeep_segments = 2\n{module}"),
    );
    let agent = host.start();
    host.wait_ready("loud");
    let long = json!({ "severity": "critical", "alert": "x".repeat(4000) }).to_string();
    let flood = || {
        let answer = host.query("loud", &json!({ "texts": vec![long.clone(); 10] }));
        assert_eq!(answer["result"]["success"], true, "{answer}");
    };
    let deleted = || host.status()["journal"]["deleted"]["critical"].as_u64().unwrap_or(0);
    wait_until("alerts are deleted", || {
        flood();
        (deleted() > 0).then_some(())
    });

    // What was deleted cannot be written down, so nothing is deleted.
    let half = host.path("state/journal/deleted.json.new");
    wait_until("the list of deleted alerts cannot be replaced", || fs::create_dir(&half).ok());
    let condition = wait_until("the journal says it", || {
        flood();
        host.condition("agent", "journal-untidy")
    });
    assert!(condition["detail"].as_str().unwrap().contains("cannot write what was deleted"), "{condition}");
    let (before, was_recorded) = (deleted(), recorded(&host));
    flood();
    wait_until("alerts are recorded", || (recorded(&host) >= was_recorded + 10).then_some(()));
    assert_eq!(deleted(), before);

    fs::remove_dir(&half).unwrap();
    wait_until("room is made", || {
        flood();
        (host.condition("agent", "journal-untidy").is_none() && deleted() > before).then_some(())
    });
    assert_eq!(host.vigie(&["alerts", "--verify"]).code, 0);
    agent.stop();
}

#[test]
fn kill_9_of_the_module_at_random_moments_loses_and_doubles_no_alert() {
    let host = storm_host();
    let _agent = host.start();
    let moments = moments(1, 8);

    for &moment in &moments {
        wait_until("the storm goes on", || (recorded(&host) >= moment).then_some(()));
        let module = host.wait_for("alert_storm", |module| module["pid"].is_u64());
        signal(&module["pid"], Signal::SIGKILL);
        host.wait_for("alert_storm", |now| now["pid"].is_u64() && now["pid"] != module["pid"]);
    }

    wait_until("the storm is over", || {
        let numbers = fs::read_to_string(host.path("state/modules/alert_storm/counter")).ok()?;
        let status = host.status();
        (numbers.parse::<u64>().ok()? == STORM
            && recorded(&host) >= STORM
            && status["journal"]["pending"] == 0)
            .then_some(())
    });
    assert_complete(&host, moments.len());
}

#[test]
fn kill_9_of_the_agent_at_random_moments_loses_and_doubles_no_alert() {
    let host = storm_host();
    let moments = moments(2, 6);
    let mut agent = host.start();

    for &moment in &moments {
        wait_until("the storm goes on", || (recorded(&host) >= moment).then_some(()));
        agent.kill();
        agent = host.start();
    }

    wait_until("the storm is over", || {
        let numbers = fs::read_to_string(host.path("state/modules/alert_storm/counter")).ok()?;
        let status = host.status();
        (numbers.parse::<u64>().ok()? == STORM
            && recorded(&host) >= STORM
            && status["journal"]["pending"] == 0)
            .then_some(())
    });
    // An agent that starts again takes in what was sent and not acknowledged.
    agent.stop();
    assert_complete(&host, moments.len());
}

#[test]
fn an_alert_is_in_the_journal_in_the_log_and_on_the_command_line() {
    let host = Host::new(&Settings::default(), &persistent("alerter.py", &["3"]));
    let _agent = host.start();

    host.wait_for("alerter", |module| module["alerts"] == 3);
    wait_until("they are on disk", || (recorded(&host) == 3).then_some(()));

    let journal = host.journal();
    let shown = alert_lines(&host.vigie(&["alerts", "--json"]).out);
    assert_eq!(journal, shown);
    assert_eq!(journal[2]["message"], "alert 2");
    assert_eq!(journal[2]["module"], "alerter");
    assert!(journal[2]["time"].as_str().unwrap().ends_with('Z'));
    host.wait_log("alert 2");
    assert!(host.vigie(&["alerts", "--human"]).out.contains("alert 2"));
    assert_eq!(alert_lines(&host.vigie(&["alerts", "-n", "1"]).out), shown[2..]);
    assert!(host.vigie(&["alerts", "--module", "other"]).out.is_empty());
}

#[test]
fn an_alert_that_comes_again_with_its_id_is_recorded_once() {
    let host = Host::new(&Settings::default(), &persistent("repeats_alerts.py", &[]));
    let _agent = host.start();

    host.wait_for("repeats_alerts", |module| module["alerts"].as_u64() >= Some(10));
    wait_until("all were seen", || {
        let journal = host.status()["journal"].take();
        (journal["recorded"] == 10 && journal["duplicates"] == 20).then_some(())
    });

    assert_eq!(host.journal().len(), 10);
}

#[test]
fn an_id_is_remembered_over_a_restart_of_the_agent() {
    let host = Host::new(&Settings::default(), &persistent("repeats_alerts.py", &[]));
    let agent = host.start();
    wait_until("all are recorded", || (recorded(&host) == 10).then_some(()));
    agent.stop();

    let _agent = host.start();

    wait_until("they came again", || (host.status()["journal"]["duplicates"] == 30).then_some(()));
    assert_eq!(host.journal().len(), 10);
}

#[test]
fn followed_alerts_go_on_over_a_restart_of_the_agent_without_gap_or_double() {
    let host = Host::new(&Settings::default(), &persistent("alerter.py", &["50"]));
    let agent = host.start();
    wait_until("the first are recorded", || (recorded(&host) == 50).then_some(()));
    let follow = host.begin(&["alerts", "-f", "-n", "50", "--json"]);
    wait_until("the first are shown", || (alert_lines(&follow.out()).len() == 50).then_some(()));

    agent.stop();
    let _agent = host.start();

    let shown = wait_until("the next are shown", || {
        let shown = alert_lines(&follow.out());
        (shown.len() >= 100).then_some(shown)
    });
    let seqs: Vec<_> = shown.iter().filter_map(|alert| alert["seq"].as_u64()).collect();
    assert_eq!(seqs, (1..=100).collect::<Vec<_>>());
}

/// A small file system of its own; undone at the end.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    pub(crate) fn mount(path: &Path) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m,mode=0711", "vigie-test"])
            .arg(path)
            .output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(path.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[test]
fn a_full_disk_is_reported_and_no_alert_is_lost_when_there_is_room_again() {
    let host = Host::new(&Settings::default(), "");
    let Some(_disk) = SmallDisk::mount(&host.path("state")) else {
        vigie_skipped::skipped("this user may not mount a small file system");
        return;
    };
    let mut agent = host.start();
    // Full to the last byte; whether the last write fits is of no interest.
    fs::write(host.path("state/filler"), vec![0; 2 << 20]).ok();
    host.configure(&Settings::default(), &persistent("alerter.py", &["5000"]));
    host.ask(&json!({"reload": {}}));

    let journal = wait_until("the disk is full", || {
        let journal = host.status()["journal"].take();
        journal["error"].is_string().then_some(journal)
    });
    agent.assert_runs();
    assert!(journal["error"].as_str().unwrap().contains("cannot write alerts"), "{journal}");
    assert_eq!(host.status()["health"], "failed");
    fs::remove_file(host.path("state/filler")).unwrap();

    wait_until("all are recorded", || (recorded(&host) == 5_000).then_some(()));
    assert_eq!(host.journal().len(), 5_000);
    wait_until("all is well", || (host.status()["health"] == "healthy").then_some(()));
}

/// The newest segment of a host's journal.
fn segment(host: &Host) -> PathBuf {
    let files = fs::read_dir(host.path("state/journal")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl")).max().unwrap()
}

fn journal_condition(host: &Host) -> Option<String> {
    let status = host.status();
    let conditions = status["conditions"].as_array().unwrap().iter();
    let damaged = conditions.filter(|condition| condition["name"] == "journal-damaged");
    damaged.map(|condition| condition["detail"].as_str().unwrap().to_owned()).next()
}

#[test]
fn a_flipped_bit_in_a_number_hides_one_alert_and_everybody_is_told() {
    let host = Host::new(&Settings::default(), &persistent("alerter.py", &["100"]));
    let agent = host.start();
    wait_until("all are recorded", || (recorded(&host) == 100).then_some(()));
    assert_eq!(host.vigie(&["alerts", "--verify"]).code, 0);
    let head = host.status()["journal"]["head"].as_str().unwrap().to_owned();
    agent.stop();
    let path = segment(&host);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(10).position(|window| window == br#"{"seq":10,"#).unwrap() + 7;
    bytes[at] ^= 0x08;
    fs::write(&path, bytes).unwrap();

    host.configure(&Settings::default(), "");
    let _agent = host.start();

    let condition = wait_until("the damage is a condition", || journal_condition(&host));
    assert!(condition.contains("1 alerts missing"), "{condition}");
    let shown = host.vigie(&["alerts", "--human"]);
    assert_eq!(shown.code, 1);
    assert_eq!(shown.out.lines().filter(|line| line.contains(" alerter ")).count(), 99);
    let told = "--- 1 alert is missing here, between 9 and 11: the journal is damaged";
    assert!(shown.out.contains(told), "{}", shown.out);
    let verified = host.vigie(&["alerts", "--verify", "--human"]);
    assert_eq!(verified.code, 1);
    assert!(verified.out.contains("alerts 10 to 10 are missing"), "{}", verified.out);
    wait_until("it is an alert as well", || {
        host.journal().iter().any(|a| a["module"] == "agent").then_some(())
    });
    assert_ne!(host.status()["journal"]["head"], head);
}

#[test]
fn a_journal_that_is_cut_deleted_or_replaced_under_the_agent_loses_no_later_alert() {
    for how in ["cut", "delete", "replace"] {
        let host = Host::new(&Settings::default(), &persistent("alerter.py", &["5"]));
        let _agent = host.start();
        wait_until("the first are recorded", || (recorded(&host) == 5).then_some(()));
        let path = segment(&host);
        match how {
            "cut" => fs::File::options().write(true).open(&path).unwrap().set_len(0).unwrap(),
            "delete" => fs::remove_file(&path).unwrap(),
            _ => {
                fs::copy(&path, host.path("copy")).unwrap();
                fs::rename(host.path("copy"), &path).unwrap();
            }
        }

        host.ask(&json!({"restart": {"module": "alerter"}}));

        let seqs = wait_until("the next ones are there", || {
            let alerts = alert_lines(&host.vigie(&["alerts", "--module", "alerter"]).out);
            let seqs: Vec<_> = alerts.iter().filter_map(|alert| alert["seq"].as_u64()).collect();
            (seqs.iter().filter(|&&seq| seq > 5).count() == 5).then_some(seqs)
        });
        assert_eq!(seqs.len(), if how == "replace" { 10 } else { 5 }, "{how}");
        assert!(host.journal().iter().any(|alert| {
            alert["module"] == "agent" && alert["message"].as_str().unwrap().contains("journal_changed")
        }));
        if how != "replace" {
            wait_until("the damage is a condition", || journal_condition(&host));
            assert!(host.vigie(&["alerts"]).out.contains(r#""first":1"#));
        }
    }
}

#[test]
fn files_beside_the_journals_segments_that_somebody_deletes_are_told() {
    let host = Host::new(&Settings::default(), &persistent("alerter.py", &["5"]));
    let agent = host.start();
    wait_until("the first are recorded", || (recorded(&host) == 5).then_some(()));
    agent.stop();
    let path = segment(&host);
    let text = fs::read_to_string(&path).unwrap();
    let without: Vec<&str> = text.lines().filter(|line| !line.starts_with("{\"seq\":1,")).collect();
    fs::write(&path, without.join("\n") + "\n").unwrap();
    fs::remove_file(host.path("state/journal/high-water")).unwrap();

    let _agent = host.start();

    let condition = wait_until("it is a condition", || {
        journal_condition(&host).filter(|condition| condition.contains("high-water"))
    });
    assert!(!condition.contains("identity"), "{condition}");
    let verified = host.vigie(&["alerts", "--verify", "--human"]);
    assert!(verified.code == 1 && verified.out.contains("high-water"), "{verified:?}");
    // The first alert is missing, and there are fewer than are asked for.
    let newest = host.vigie(&["alerts", "-n", "50", "--human"]);
    assert_eq!(newest.code, 1, "{newest:?}");
    assert!(newest.out.contains("1 alert is missing here, between 0 and 2"), "{}", newest.out);
    assert_eq!(host.vigie(&["alerts", "-n", "2"]).code, 0);

    let identity = fs::read(host.path("state/journal/identity")).unwrap();
    fs::remove_file(host.path("state/journal/identity")).unwrap();
    wait_until("so is that", || journal_condition(&host).filter(|condition| condition.contains("identity")));
    assert_eq!(fs::read(host.path("state/journal/identity")).unwrap(), identity);
    wait_until("both are alerts", || {
        let alerts = host.journal();
        let told =
            |name: &str| alerts.iter().any(|alert| alert.to_string().contains(&format!("file {name} was")));
        (told("high-water") && told("identity")).then_some(())
    });
}
