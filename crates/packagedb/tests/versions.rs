//! The order of versions beside the programs that define it, where they are installed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::cmp::Ordering;
use std::process::Command;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use vigie_packagedb::owners::Manager;
use vigie_packagedb::version::{DpkgVersion, compare, rpmvercmp};

/// `algorithm,a,b,result`, with the results of dpkg 1.21.22 and rpm 4.18.0.
const PAIRS: &str = include_str!("versions.csv");

/// Pairs that one start of a program of Debian answers.
const RANDOM_PAIRS: usize = 300;

fn symbol(order: Ordering) -> &'static str {
    match order {
        Ordering::Less => "<",
        Ordering::Equal => "=",
        Ordering::Greater => ">",
    }
}

#[test]
fn every_recorded_pair_has_its_recorded_order() {
    let mut wrong = Vec::new();
    for line in PAIRS.lines().skip(1) {
        let [algorithm, a, b, expected] = *line.split(',').collect::<Vec<_>>() else { panic!("{line}") };
        let found = match algorithm {
            "dpkg" if DpkgVersion::split(a).is_err() || DpkgVersion::split(b).is_err() => "error",
            "dpkg" => symbol(compare(Manager::Dpkg, a, b)),
            "rpmvercmp" => symbol(rpmvercmp(a, b)),
            "rpm-evr" => symbol(compare(Manager::Rpm, a, b)),
            other => panic!("{other}"),
        };
        if found != expected {
            wrong.push(format!("{line}: {found}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn random_pairs(pattern: &'static str) -> Vec<(String, String)> {
    let mut runner = TestRunner::default();
    let one = prop_oneof![
        (pattern, pattern),
        // Neighbours, which differ in one character only.
        (pattern, 0_usize..12, "[0-9a~.+-]").prop_map(|(text, at, more)| {
            let at = at.min(text.len());
            let other = format!("{}{more}{}", &text[..at], &text[at..]);
            (text, other)
        }),
    ];
    (0..RANDOM_PAIRS).map(|_| one.new_tree(&mut runner).unwrap().current()).collect()
}

#[test]
fn random_pairs_have_the_order_of_the_command_dpkg() {
    if !vigie_skipped::happens_to_have("dpkg") {
        return;
    }
    // One shell asks for all: starting it costs more than the answer.
    let pairs = random_pairs("[0-9]([0-9a-z.+~]{0,6}(-[0-9a-z.+~]{1,3})?)");
    let mut script = String::from("exec 2>/dev/null\n");
    for (a, b) in &pairs {
        script.push_str(&format!(
            "if dpkg --compare-versions '{a}' lt '{b}'; then echo '<'; elif dpkg --compare-versions '{a}' eq '{b}'; then echo '='; else echo '>'; fi\n"
        ));
    }
    let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();

    assert_eq!(output.lines().count(), pairs.len());
    for ((a, b), expected) in pairs.iter().zip(output.lines()) {
        // The command compares nothing that it refuses, and then says neither less nor equal.
        if DpkgVersion::split(a).is_ok() && DpkgVersion::split(b).is_ok() {
            assert_eq!(symbol(compare(Manager::Dpkg, a, b)), expected, "{a} {b}");
        }
    }
}

#[test]
fn random_pairs_have_the_order_of_rpm() {
    let pairs = random_pairs("[0-9a-z~^.+]{1,6}(-[0-9a-z~^.]{1,3})?");
    // 300 pairs are 300 calls in one start of rpm.
    let calls: String =
        pairs.iter().map(|(a, b)| format!("io.write(rpm.vercmp('{a}','{b}'),'\\n') ")).collect();
    if !vigie_skipped::has("rpm") {
        return;
    }
    let output = Command::new("rpm").args(["--eval", &format!("%{{lua: {calls} }}")]).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let orders: Vec<&str> = output.lines().filter(|line| !line.is_empty()).collect();

    assert_eq!(orders.len(), pairs.len(), "{output}");
    for ((a, b), expected) in pairs.iter().zip(orders) {
        let expected = expected.parse::<i32>().unwrap().cmp(&0);
        assert_eq!(compare(Manager::Rpm, a, b), expected, "{a} {b}");
    }
}
