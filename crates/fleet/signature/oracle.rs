//! Our check against `ssh-keygen -Y verify`, on good signatures and on many that were tampered with.
//!
//! `VIGIE_SIGNATURE_CASES` says on how many; the 10,000 of the project's goals take two minutes.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ssh_key::HashAlg;

use super::tests::{NAMESPACE, TestKey, armour, every_kind, field, fields, generate};
use super::*;

const DEFAULT_CASES: usize = 300;

const MESSAGE: &[u8] = b"{\"v\":1,\"name\":\"what listens on port 22\"}";

/// `ssh-keygen -Y verify` with a file of all the keys.
struct SshKeygen {
    directory: tempfile::TempDir,
}

impl SshKeygen {
    fn new(keys: &[String]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let allowed: String = keys.iter().map(|key| format!("signer {key}\n")).collect();
        fs::write(directory.path().join("allowed"), allowed).unwrap();
        fs::write(directory.path().join("message"), MESSAGE).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn accepts(&self, signature: &str) -> bool {
        fs::write(self.path("signature"), signature).unwrap();
        Command::new("ssh-keygen")
            .args(["-q", "-Y", "verify", "-I", "signer", "-n", NAMESPACE, "-f"])
            .arg(self.path("allowed"))
            .arg("-s")
            .arg(self.path("signature"))
            .stdin(File::open(self.path("message")).unwrap())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    }
}

/// Numbers that are the same in every run (xorshift64 of Marsaglia).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit
    }
}

/// The fields of a signature, to be put together otherwise.
#[derive(Clone)]
struct Parts {
    version: u32,
    key: Vec<u8>,
    namespace: String,
    reserved: Vec<u8>,
    hash: &'static str,
    signature: Vec<u8>,
}

impl Parts {
    fn of(key: &TestKey, namespace: &str, message: &[u8], hash: HashAlg) -> Self {
        let bytes = key.sign_raw(namespace, message, hash);
        let key = key.public().ssh().to_bytes().unwrap();
        let name = if hash == HashAlg::Sha256 { "sha256" } else { "sha512" };
        // Magic, version, and the five strings with their lengths.
        let before = 6 + 4 + 4 + key.len() + 4 + namespace.len() + 4 + 4 + name.len() + 4;
        Self {
            version: 1,
            key,
            namespace: namespace.to_owned(),
            reserved: Vec::new(),
            hash: name,
            signature: bytes[before..].to_vec(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        fields(self.version, &self.key, &self.namespace, &self.reserved, self.hash, &self.signature)
    }
}

const MUTATIONS: usize = 22;

/// Signatures to change, each made once. The last key is one that nobody knows.
struct Originals {
    keys: Vec<TestKey>,
    made: HashMap<(usize, &'static str, &'static [u8], &'static str), Parts>,
}

impl Originals {
    fn get(&mut self, key: usize, namespace: &'static str, message: &'static [u8], hash: HashAlg) -> Parts {
        let Self { keys, made } = self;
        let make = || Parts::of(&keys[key], namespace, message, hash);
        made.entry((key, namespace, message, hash.as_str())).or_insert_with(make).clone()
    }
}

/// A signature by one of the known keys, changed in the way of that number; 0 leaves it as it is.
fn mutate(mutation: usize, originals: &mut Originals, random: &mut Random) -> String {
    let known = originals.keys.len() - 1;
    let key = random.below(known);
    let hash = if random.below(2) == 0 { HashAlg::Sha256 } else { HashAlg::Sha512 };
    let mut parts = originals.get(key, NAMESPACE, MESSAGE, hash);
    let mut bytes = parts.bytes();
    let text = armour(&bytes);
    let any_byte = random.below(bytes.len());
    let any_character = random.below(text.len());
    match mutation {
        0 => return text,
        1 => bytes[any_byte] ^= 1 << random.below(8),
        2 => bytes[any_byte] = random.below(256) as u8,
        3 => bytes.truncate(any_byte),
        4 => bytes.extend((0..=random.below(8)).map(|_| random.below(256) as u8)),
        5 => {
            bytes.remove(any_byte);
        }
        6 => bytes.insert(any_byte, random.below(256) as u8),
        7 => {
            let namespace = ["git", "file", "", "vigie-policy@v1", "vigie-action@v2"][random.below(5)];
            if namespace.is_empty() {
                parts.namespace = String::new();
            } else {
                parts = originals.get(key, namespace, MESSAGE, hash);
                // With the name of what it was made for, or under a false one.
                if random.below(2) == 0 {
                    parts.namespace = NAMESPACE.to_owned();
                }
            }
            bytes = parts.bytes();
        }
        8 => {
            parts.hash = ["sha256", "sha512", "sha1", "md5", ""][random.below(5)];
            bytes = parts.bytes();
        }
        9 => {
            parts.key = originals.get(random.below(known), NAMESPACE, MESSAGE, hash).key;
            bytes = parts.bytes();
        }
        10 => {
            parts.signature = originals.get(random.below(known), NAMESPACE, MESSAGE, hash).signature;
            bytes = parts.bytes();
        }
        11 => {
            parts.version = [0, 1, 2, 256, u32::MAX][random.below(5)];
            bytes = parts.bytes();
        }
        12 => {
            parts.reserved = vec![b'x'; 1 + random.below(4)];
            bytes = parts.bytes();
        }
        13 => bytes = originals.get(key, NAMESPACE, b"another message", hash).bytes(),
        14 => bytes = originals.get(known, NAMESPACE, MESSAGE, hash).bytes(),
        15 => {
            // The counter or the flags of a token, the last bytes of the others.
            let at = parts.signature.len() - 1 - random.below(5);
            parts.signature[at] ^= 1 << random.below(8);
            bytes = parts.bytes();
        }
        16 => {
            let kinds = ["ssh-ed25519", "sk-ssh-ed25519@openssh.com", "ecdsa-sha2-nistp256", "ssh-rsa", "x"];
            let length = u32::from_be_bytes(parts.signature[..4].try_into().unwrap()) as usize;
            let rest = parts.signature.split_off(4 + length);
            parts.signature = [field(kinds[random.below(5)].as_bytes()), rest].concat();
            bytes = parts.bytes();
        }
        17 => {
            let mut lines: Vec<&str> = text.lines().collect();
            let (one, other) = (random.below(lines.len()), random.below(lines.len()));
            lines.swap(one, other);
            return lines.join("\n") + "\n";
        }
        18 => return text.replace('\n', "\r\n"),
        19 => return format!("{text}{}", ["\n", " ", "trailing", "\0", &text][random.below(5)]),
        20 => {
            let mut changed = text.into_bytes();
            changed[any_character] = b"\n\r\t =A/-"[random.below(8)];
            return String::from_utf8(changed).unwrap();
        }
        _ => {
            let mut changed = text.into_bytes();
            if random.below(2) == 0 {
                changed.truncate(any_character);
            } else {
                changed.insert(any_character, b"\n\r\t =A/-"[random.below(8)]);
            }
            return String::from_utf8(changed).unwrap();
        }
    }
    armour(&bytes)
}

/// Ours refuses and theirs accepts only for these reasons, which the module's documentation names.
fn is_stricter_on_purpose(error: &SignatureError) -> bool {
    matches!(error, SignatureError::Armour(_) | SignatureError::Version(0) | SignatureError::Reserved)
}

#[test]
fn our_check_and_ssh_keygen_agree_on_signatures_that_were_tampered_with() {
    if !vigie_skipped::has("ssh-keygen") {
        return;
    }
    let cases = std::env::var("VIGIE_SIGNATURE_CASES").map_or(DEFAULT_CASES, |cases| cases.parse().unwrap());
    let keys = every_kind();
    let allowed: Vec<PublicKey> = keys.iter().map(TestKey::public).collect();
    let oracle = SshKeygen::new(&keys.iter().map(TestKey::line).collect::<Vec<_>>());
    let unknown = TestKey::ed25519(99);
    let mut originals = Originals { keys: [keys, vec![unknown]].concat(), made: HashMap::new() };
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut both_accept, mut both_refuse, mut stricter) = (0, 0, 0);

    for case in 0..cases {
        let mutation = case % MUTATIONS;
        let text = mutate(mutation, &mut originals, &mut random);

        let theirs = oracle.accepts(&text);
        let ours = verify(NAMESPACE, MESSAGE, &text);

        let known = ours.as_ref().is_ok_and(|signer| allowed.contains(&signer.key));
        match (known, theirs) {
            (true, true) => both_accept += 1,
            (false, false) => both_refuse += 1,
            (true, false) => panic!("case {case}, mutation {mutation}: only ours accepts {text}"),
            (false, true) => {
                let error = ours.expect_err("the keys that ssh-keygen knows are ours");
                assert!(
                    is_stricter_on_purpose(&error),
                    "case {case}, mutation {mutation}: only ssh-keygen accepts ({error}) {text}"
                );
                stricter += 1;
            }
        }
    }

    println!(
        "{cases} cases: both accept {both_accept}, both refuse {both_refuse}, stricter on purpose {stricter}"
    );
    assert!(both_accept >= cases / MUTATIONS, "the controls must pass");
}

#[test]
fn kinds_of_keys_that_only_ssh_keygen_takes_are_refused() {
    if !vigie_skipped::has("ssh-keygen") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let sign = |path: &Path| signing::sign_with_ssh_keygen(path, NAMESPACE, MESSAGE).unwrap();
    for (name, kind) in [("rsa", ["-t", "rsa", "-b", "2048"]), ("p384", ["-t", "ecdsa", "-b", "384"])] {
        let path = directory.path().join(name);
        generate(&path, &kind);
        let line = fs::read_to_string(directory.path().join(format!("{name}.pub"))).unwrap();
        let armored = sign(&path);

        assert!(SshKeygen::new(&[line.trim().to_owned()]).accepts(&armored));
        let refused = verify(NAMESPACE, MESSAGE, &armored);
        assert!(matches!(refused, Err(SignatureError::Key(KeyError::Algorithm(_)))), "{refused:?}");
    }
    // A certificate: the key signs, but the signature names the certificate.
    let (authority, key) = (directory.path().join("ca"), directory.path().join("certified"));
    generate(&authority, &["-t", "ed25519"]);
    generate(&key, &["-t", "ed25519"]);
    let certified = Command::new("ssh-keygen")
        .args(["-q", "-I", "id", "-n", "signer", "-s"])
        .arg(&authority)
        .arg(directory.path().join("certified.pub"))
        .status()
        .unwrap();
    assert!(certified.success());
    fs::rename(directory.path().join("certified-cert.pub"), directory.path().join("certified.pub")).unwrap();
    let refused = verify(NAMESPACE, MESSAGE, &sign(&key));
    assert!(matches!(refused, Err(SignatureError::Key(KeyError::Certificate(_)))), "{refused:?}");
}

#[test]
fn other_bytes_with_the_same_meaning_are_refused() {
    // Order of the group of Ed25519 (RFC 8032, 5.1), little endian; s + L means the same as s.
    let order = data_encoding::HEXLOWER
        .decode(b"edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
        .unwrap();
    let mut parts = Parts::of(&TestKey::ed25519(1), NAMESPACE, MESSAGE, HashAlg::Sha512);
    let scalar = parts.signature.len() - 32;
    let mut carry = 0;
    for (byte, add) in parts.signature[scalar..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = sum as u8;
        carry = sum >> 8;
    }
    let refused = verify(NAMESPACE, MESSAGE, &armour(&parts.bytes()));
    assert!(matches!(refused, Err(SignatureError::Wrong(_))), "{refused:?}");

    // An ECDSA signature whose first integer has a zero too much.
    let mut parts = Parts::of(&TestKey::ecdsa(), NAMESPACE, MESSAGE, HashAlg::Sha512);
    let name = 4 + "ecdsa-sha2-nistp256".len();
    let integers = parts.signature[name + 4..].to_vec();
    let length = u32::from_be_bytes(integers[..4].try_into().unwrap()) as usize;
    let padded =
        [&field(&[&[0, 0][..], &integers[4..4 + length]].concat()), &integers[4 + length..]].concat();
    parts.signature = [parts.signature[..name].to_vec(), field(&padded)].concat();
    let refused = verify(NAMESPACE, MESSAGE, &armour(&parts.bytes()));
    assert!(matches!(refused, Err(SignatureError::Malformed(_))), "{refused:?}");
}
