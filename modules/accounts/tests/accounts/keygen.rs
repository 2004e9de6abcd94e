//! Fingerprints beside those of `ssh-keygen -lf`.

use std::process::Command;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use vigie_accounts::keys::parse;

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let value = part.iter().fold(0_usize, |value, byte| value << 8 | usize::from(*byte))
            << (8 * (3 - part.len()));
        for place in 0..4 {
            let is_there = place <= part.len();
            text.push(if is_there { char::from(LETTERS[value >> (18 - 6 * place) & 63]) } else { '=' });
        }
    }
    text
}

fn field(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

fn key() -> impl Strategy<Value = String> {
    let ed25519 = any::<[u8; 32]>()
        .prop_map(|key| format!("ssh-ed25519 {}", base64(&[field(b"ssh-ed25519"), field(&key)].concat())));
    let rsa = prop::collection::vec(any::<u8>(), 255).prop_map(|number| {
        // Positive, of 2,048 bits, odd.
        let number = [&[0, 0x80][..], &number[..254], &[1]].concat();
        format!("ssh-rsa {}", base64(&[field(b"ssh-rsa"), field(&[1, 0, 1]), field(&number)].concat()))
    });
    prop_oneof![4 => ed25519, 1 => rsa]
}

fn options() -> impl Strategy<Value = String> {
    let option = prop_oneof![
        Just("no-pty".to_owned()),
        Just("RESTRICT".to_owned()),
        Just("unknown-option".to_owned()),
        "[ a-z,#]{0,8}".prop_map(|value| format!("command=\"{value} \\\"q\\\" ssh-rsa\"")),
        "[a-z*,]{1,8}".prop_map(|value| format!("from=\"{value}\"")),
    ];
    prop::collection::vec(option, 0..4).prop_map(|options| options.join(","))
}

fn line() -> impl Strategy<Value = String> {
    let good =
        (options(), key(), "[a-z@. ]{0,10}", prop_oneof![Just(""), Just(" "), Just("\t")], any::<bool>())
            .prop_map(|(options, key, comment, lead, blanks)| {
                let gap = if blanks { "\t" } else { " " };
                let options = if options.is_empty() { options } else { format!("{options}{gap}") };
                format!("{lead}{options}{key} {comment}").trim_end().to_owned()
            });
    let bad = prop_oneof![
        key().prop_map(|key| key[..key.len() - 7].to_owned()),
        key().prop_map(|key| key.replace("ssh-ed25519 ", "ssh-rsa ")),
        key().prop_map(|key| format!("no-pty, restrict {key}")),
        key().prop_map(|key| format!("command=\"open {key}")),
        key().prop_map(|key| format!("#{key}")),
        "[a-z #\"]{0,20}".prop_map(|text| text),
        Just(String::new()),
    ];
    prop_oneof![3 => good, 1 => bad]
}

#[test]
fn ten_thousand_random_lines_have_the_fingerprints_of_ssh_keygen() {
    if !vigie_skipped::has("ssh-keygen") {
        return;
    }
    let mut runner = TestRunner::deterministic();
    let lines: Vec<String> = (0..10_000).map(|_| line().new_tree(&mut runner).unwrap().current()).collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys");
    std::fs::write(&path, lines.join("\n")).unwrap();

    let output = Command::new("ssh-keygen").arg("-lf").arg(&path).output().unwrap();
    let theirs: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1).map(str::to_owned))
        .collect();
    let ours: Vec<String> =
        parse(lines.join("\n").as_bytes()).into_iter().map(|key| key.fingerprint).collect();

    assert!(theirs.len() > 3_000, "{}", theirs.len());
    let first = ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs);
    assert_eq!(
        (first, ours.len()),
        (None, theirs.len()),
        "{:?}",
        first.map(|at| &lines[at.saturating_sub(3)..at + 3])
    );
}
