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
    // The point is one of the curve.
    const P256: &str =
        "BGsX0fLhLEJH+Lzm5WOkQPJ3A32BLeszoPShOUXYmMKWT+NC4v4af5uO5+tKfA+eFivOM1drMV7Oy7ZAaDe/UfU=";
    let point = data_encoding::BASE64.decode(P256.as_bytes()).unwrap();
    let others = (any::<[u8; 32]>(), 0..6_u8).prop_map(move |(key, kind)| {
        let (name, fields) = match kind {
            0 => ("ecdsa-sha2-nistp256", vec![b"nistp256".to_vec(), point.clone()]),
            1 => ("sk-ssh-ed25519@openssh.com", vec![key.to_vec(), b"ssh:".to_vec()]),
            2 => (
                "sk-ecdsa-sha2-nistp256@openssh.com",
                vec![b"nistp256".to_vec(), point.clone(), b"ssh:".to_vec()],
            ),
            // Too long, too short, of another curve.
            3 => ("ssh-ed25519", vec![key.to_vec(), b"more".to_vec()]),
            4 => ("ssh-ed25519", vec![key[..31].to_vec()]),
            _ => ("ecdsa-sha2-nistp256", vec![b"nistp384".to_vec(), point.clone()]),
        };
        let fields: Vec<u8> = fields.iter().flat_map(|value| field(value)).collect();
        format!("{name} {}", base64(&[field(name.as_bytes()), fields].concat()))
    });
    prop_oneof![4 => ed25519, 1 => rsa, 2 => others]
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
        key().prop_map(|key| key.replacen("ssh-rsa ", "rsa-sha2-512 ", 1)),
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

#[test]
fn certificates_have_the_fingerprint_of_their_key() {
    if !vigie_skipped::has("ssh-keygen") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let keygen = |arguments: &[&str]| {
        let output = Command::new("ssh-keygen").current_dir(directory.path()).args(arguments).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    keygen(&["-q", "-t", "ed25519", "-N", "", "-f", "ca"]);
    for (kind, name) in [("ed25519", "ssh-ed25519"), ("rsa", "ssh-rsa"), ("ecdsa", "ecdsa-sha2-nistp256")] {
        keygen(&["-q", "-t", kind, "-N", "", "-f", kind]);
        keygen(&["-q", "-s", "ca", "-I", "id", "-n", "ann", &format!("{kind}.pub")]);
        let certificate = format!("{kind}-cert.pub");

        let keys = parse(&std::fs::read(path(&certificate)).unwrap());

        let shown = keygen(&["-lf", &certificate]);
        assert_eq!(keys.len(), 1, "{kind}");
        assert_eq!(keys[0].algorithm, format!("{name}-cert-v01@openssh.com"));
        assert_eq!(shown.split_whitespace().nth(1), Some(keys[0].fingerprint.as_str()), "{shown}");
    }
}
