//! Signatures of every kind that is allowed, and what is refused.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::LazyLock;

use proptest::prelude::*;
use ssh_key::private::{EcdsaKeypair, KeypairData};
use ssh_key::public::{KeyData, SkEcdsaSha2NistP256, SkEd25519};
use ssh_key::sha2::{Digest, Sha256};
use ssh_key::{Algorithm, HashAlg, SshSig};

use super::*;

pub(crate) const NAMESPACE: &str = "vigie-action@v1";

/// A private key of P-256, made with `ssh-keygen -t ecdsa` for these tests.
const ECDSA: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAaAAAABNlY2RzYS
1zaGEyLW5pc3RwMjU2AAAACG5pc3RwMjU2AAAAQQRoH47qLbVATKSK4QXBtY6Xm98Kx+zG
0ptVLQC6wnHZkDrcDgwWp2z7Jd+5l82bhoSRcx3OF92R8Hpdx8U64ZBBAAAAoP5az2n+Ws
9pAAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBGgfjuottUBMpIrh
BcG1jpeb3wrH7MbSm1UtALrCcdmQOtwODBanbPsl37mXzZuGhJFzHc4X3ZHwel3HxTrhkE
EAAAAhAKlYkjxC5/pz+JjCKI5NwSiLSxACW+9lGcm6d5kBjigcAAAABHRlc3QBAgM=
-----END OPENSSH PRIVATE KEY-----
";

/// What signs in the tests: like people's keys, those in tokens made up as PROTOCOL.u2f says.
#[derive(Clone)]
pub(crate) struct TestKey {
    pub(crate) signing: SigningKey,
    /// Flags of the token that it pretends to be in.
    pub(crate) token: Option<u8>,
}

impl TestKey {
    pub(crate) fn ed25519(seed: u8) -> Self {
        Self { signing: SigningKey::from_seed(&[seed; 32]), token: None }
    }

    pub(crate) fn ecdsa() -> Self {
        let key = ssh_key::PrivateKey::from_openssh(ECDSA).unwrap();
        Self { signing: SigningKey::from_ssh(key), token: None }
    }

    pub(crate) fn with_token(self, flags: u8) -> Self {
        Self { token: Some(flags), ..self }
    }

    fn key_data(&self) -> KeyData {
        match (self.signing.ssh().key_data(), self.token) {
            (KeypairData::Ed25519(pair), Some(_)) => SkEd25519::new(pair.public, "ssh:").into(),
            (KeypairData::Ecdsa(EcdsaKeypair::NistP256 { public, .. }), Some(_)) => {
                KeyData::SkEcdsaSha2NistP256(SkEcdsaSha2NistP256::new(*public, "ssh:"))
            }
            _ => self.signing.ssh().public_key().key_data().clone(),
        }
    }

    pub(crate) fn public(&self) -> PublicKey {
        PublicKey::from_ssh(self.key_data().into()).unwrap()
    }

    /// The line of a `.pub` file.
    pub(crate) fn line(&self) -> String {
        self.public().to_string()
    }

    pub(crate) fn sign(&self, namespace: &str, message: &[u8]) -> String {
        armour(&self.sign_raw(namespace, message, HashAlg::Sha512))
    }

    /// The bytes within the armour.
    pub(crate) fn sign_raw(&self, namespace: &str, message: &[u8], hash: HashAlg) -> Vec<u8> {
        let signed = SshSig::signed_data(namespace, hash, message).unwrap();
        let (signature, trailer) = match self.token {
            None => (sign_bytes(&self.signing, &signed), Vec::new()),
            Some(flags) => {
                let trailer = [&[flags][..], &7_u32.to_be_bytes()].concat();
                let by_token = [&Sha256::digest("ssh:")[..], &trailer, &Sha256::digest(&signed)[..]].concat();
                (sign_bytes(&self.signing, &by_token), trailer)
            }
        };
        let key = ssh_key::PublicKey::from(self.key_data());
        let name = key.algorithm();
        let hash = if hash == HashAlg::Sha256 { "sha256" } else { "sha512" };
        let signature = [&field(name.as_str().as_bytes())[..], &field(&signature), &trailer].concat();
        fields(1, &key.to_bytes().unwrap(), namespace, b"", hash, &signature)
    }
}

fn sign_bytes(key: &SigningKey, bytes: &[u8]) -> Vec<u8> {
    fn sign<K: ssh_key::SigningKey>(key: &K, bytes: &[u8]) -> ssh_key::Signature {
        key.try_sign(bytes).unwrap()
    }
    sign(key.ssh(), bytes).as_bytes().to_vec()
}

pub(super) fn field(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

pub(super) fn fields(
    version: u32,
    key: &[u8],
    namespace: &str,
    reserved: &[u8],
    hash: &str,
    sig: &[u8],
) -> Vec<u8> {
    [
        &b"SSHSIG"[..],
        &version.to_be_bytes(),
        &field(key),
        &field(namespace.as_bytes()),
        &field(reserved),
        &field(hash.as_bytes()),
        &field(sig),
    ]
    .concat()
}

/// The armour of `ssh-keygen`: lines of 70 characters.
pub(super) fn armour(bytes: &[u8]) -> String {
    let base64 = data_encoding::BASE64.encode(bytes);
    let lines: Vec<&str> =
        base64.as_bytes().chunks(70).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", lines.join("\n"))
}

pub(super) fn every_kind() -> Vec<TestKey> {
    vec![
        TestKey::ed25519(1),
        TestKey::ecdsa(),
        TestKey::ed25519(2).with_token(1),
        TestKey::ecdsa().with_token(5),
        TestKey::ed25519(3),
    ]
}

#[test]
fn every_allowed_kind_of_key_signs() {
    for key in every_kind() {
        for hash in [HashAlg::Sha256, HashAlg::Sha512] {
            let armored = armour(&key.sign_raw(NAMESPACE, b"message", hash));

            let signer = verify(NAMESPACE, b"message", &armored).unwrap();

            assert_eq!(signer.key, key.public());
            assert_eq!(signer.key.is_token(), key.token.is_some());
            assert_eq!(signer.token, key.token.map(TokenFlags::from_byte));
            assert!(matches!(verify(NAMESPACE, b"massage", &armored), Err(SignatureError::Wrong(_))));
            assert!(matches!(verify("git", b"message", &armored), Err(SignatureError::Namespace { .. })));
        }
    }
}

#[test]
fn the_flags_of_a_token_are_told_and_signed() {
    for (flags, user_presence, user_verification) in [(0, false, false), (1, true, false), (5, true, true)] {
        let key = TestKey::ed25519(1).with_token(flags);
        let mut bytes = key.sign_raw(NAMESPACE, b"m", HashAlg::Sha512);

        let signer = verify(NAMESPACE, b"m", &armour(&bytes)).unwrap();
        assert_eq!(signer.token, Some(TokenFlags { user_presence, user_verification }));

        let flags_at = bytes.len() - 5;
        bytes[flags_at] ^= 1;
        assert!(matches!(verify(NAMESPACE, b"m", &armour(&bytes)), Err(SignatureError::Wrong(_))));
    }
}

#[test]
fn what_has_another_form_is_refused_with_its_reason() {
    let key = TestKey::ed25519(1);
    let bytes = key.public().ssh().to_bytes().unwrap();
    let good = key.sign(NAMESPACE, b"m");
    let sig = [field(b"ssh-ed25519"), field(&[1; 64])].concat();
    let rsa = [field(b"ssh-rsa"), field(&[1, 0, 1]), field(&[1; 256])].concat();
    let certificate = field(b"ssh-ed25519-cert-v01@openssh.com");
    let read = |text: &str| Unchecked::parse(text).map(|_| ());
    let parse = |bytes: &[u8]| read(&armour(bytes));

    assert_eq!(read(&"x".repeat(5000)), Err(SignatureError::TooLarge { bytes: 5000 }));
    for other_armour in [
        good.replace('\n', "\r\n"),
        format!("\n{good}"),
        format!("{good}\n"),
        format!("{good}x"),
        good.replace("SIGNATURE-----\n", "SIGNATURE-----\n\n"),
        good.replace("SSH SIG", "PGP SIG"),
        good.replace("U1NI", "U1NI "),
        good.replace("\n-----END", "-----END"),
        good[..good.len() / 2].to_owned(),
        String::new(),
    ] {
        assert!(matches!(read(&other_armour), Err(SignatureError::Armour(_))), "{other_armour}");
    }
    assert_eq!(read(good.trim_end()), Ok(()));
    for version in [0, 2, u32::MAX] {
        assert_eq!(
            parse(&fields(version, &bytes, NAMESPACE, b"", "sha512", &sig)),
            Err(SignatureError::Version(version))
        );
    }
    assert_eq!(parse(&fields(1, &bytes, NAMESPACE, b"x", "sha512", &sig)), Err(SignatureError::Reserved));
    assert_eq!(
        parse(&fields(1, &bytes, NAMESPACE, b"", "md5", &sig)),
        Err(SignatureError::HashAlgorithm("md5".to_owned()))
    );
    assert_eq!(
        parse(&fields(1, &rsa, NAMESPACE, b"", "sha512", &sig)),
        Err(SignatureError::Key(KeyError::Algorithm("ssh-rsa".to_owned())))
    );
    assert!(matches!(
        parse(&fields(1, &certificate, NAMESPACE, b"", "sha512", &sig)),
        Err(SignatureError::Key(KeyError::Certificate(_)))
    ));
    let other_kind = [field(b"sk-ssh-ed25519@openssh.com"), field(&[1; 64]), vec![1; 5]].concat();
    assert!(matches!(
        parse(&fields(1, &bytes, NAMESPACE, b"", "sha512", &other_kind)),
        Err(SignatureError::OtherAlgorithm { .. })
    ));
    let whole = fields(1, &bytes, NAMESPACE, b"", "sha512", &sig);
    for end in 0..whole.len() {
        assert!(parse(&whole[..end]).is_err(), "{end}");
    }
    assert!(matches!(parse(&[&whole[..], b"x"].concat()), Err(SignatureError::Malformed(_))));
}

#[test]
fn a_public_key_is_read_as_it_stands_in_its_file() {
    for key in every_kind() {
        let line = key.line();
        let read = PublicKey::parse(&format!("{line} somebody@host\n")).unwrap();
        assert_eq!(read, key.public());
        assert_eq!(read.comment(), "somebody@host");
        assert_eq!(read.fingerprint().as_str().parse(), Ok(read.fingerprint().clone()));
    }
    let certificate = "ssh-ed25519-cert-v01@openssh.com AAAA x";
    assert!(matches!(PublicKey::parse(certificate), Err(KeyError::Certificate(_))));
    for other in ["ssh-rsa AAAA x", "ssh-dss AAAA", "ecdsa-sha2-nistp384 AAAA", "ssh-ed448 AAAA"] {
        assert!(matches!(PublicKey::parse(other), Err(KeyError::Algorithm(_))), "{other}");
    }
    for bad in ["", "ssh-ed25519", "ssh-ed25519 AAAA", "hello", "cert-authority"] {
        assert!(matches!(PublicKey::parse(bad), Err(KeyError::Malformed(_))), "{bad}");
    }
    assert!(matches!(PublicKey::parse(&"x".repeat(2000)), Err(KeyError::TooLarge { bytes: 2000 })));
    for bad in ["", "SHA256:", "MD5:00", "SHA256:AAAA", &format!("SHA256:{}", "*".repeat(43))] {
        assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
    }
}

#[test]
fn a_key_file_signs_with_and_without_ssh_keygen() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let key = SigningKey::from_seed(&[9; 32]);
    key.write_new(&path, "test").unwrap();
    assert!(matches!(key.write_new(&path, "test"), Err(SignError::Unwritable { .. })));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let here = sign_with_key_file(&path, NAMESPACE, b"m").unwrap();
    assert_eq!(verify(NAMESPACE, b"m", &here).unwrap().key, *key.public_key());

    let absent = sign_with_key_file(&directory.path().join("absent"), NAMESPACE, b"m");
    assert!(matches!(absent, Err(SignError::Unreadable { .. })));
    if !vigie_skipped::has("ssh-keygen") {
        return;
    }
    // Ed25519 is deterministic, so both ways give the same text.
    assert_eq!(signing::sign_with_ssh_keygen(&path, NAMESPACE, b"m").unwrap(), here);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(SigningKey::read(&path).unwrap().is_none());
    assert!(matches!(sign_with_key_file(&path, NAMESPACE, b"m"), Err(SignError::Failed { .. })));

    let rsa = directory.path().join("rsa");
    generate(&rsa, &["-t", "rsa", "-b", "2048"]);
    let refused = sign_with_key_file(&rsa, NAMESPACE, b"m");
    assert!(
        matches!(
            refused,
            Err(SignError::NotTaken { source: SignatureError::Key(KeyError::Algorithm(_)), .. })
        ),
        "{refused:?}"
    );
    for kind in [&["-t", "ed25519"][..], &["-t", "ecdsa", "-b", "256"]] {
        let path = directory.path().join(kind[1]);
        generate(&path, kind);
        assert!(SigningKey::read(&path).unwrap().is_some());
        let armored = sign_with_key_file(&path, NAMESPACE, b"m").unwrap();
        let line = std::fs::read_to_string(directory.path().join(format!("{}.pub", kind[1]))).unwrap();
        assert_eq!(verify(NAMESPACE, b"m", &armored).unwrap().key, PublicKey::parse(&line).unwrap());
    }
}

pub(super) fn generate(path: &std::path::Path, kind: &[&str]) {
    let status = Command::new("ssh-keygen")
        .args(["-q", "-N", "", "-C", "", "-f"])
        .arg(path)
        .args(kind)
        .status()
        .unwrap();
    assert!(status.success());
}

proptest! {
    #[test]
    fn nothing_from_outside_makes_it_panic(text in "\\PC{0,300}", bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = verify(NAMESPACE, b"m", &text);
        let _ = verify(NAMESPACE, b"m", &armour(&bytes));
        let _ = PublicKey::parse(&text);
        let _ = PublicKey::parse(&format!("ssh-ed25519 {}", data_encoding::BASE64.encode(&bytes)));
    }

    #[test]
    fn a_signature_of_which_a_byte_is_changed_is_refused(
        kind in 0..5_usize, at in any::<prop::sample::Index>(), change in 1..=255_u8,
    ) {
        static SIGNED: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
            every_kind().iter().map(|key| key.sign_raw(NAMESPACE, b"m", HashAlg::Sha512)).collect()
        });
        let mut bytes = SIGNED[kind].clone();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        prop_assert!(verify(NAMESPACE, b"m", &armour(&bytes)).is_err());
    }
}

#[test]
fn the_kind_of_the_key_decides_how_a_signature_is_checked() {
    let key = TestKey::ed25519(1);
    assert_eq!(key.public().ssh().algorithm(), Algorithm::Ed25519);
    let token = key.clone().with_token(1);
    // The same numbers, once as a plain key and once as one in a token: not the same key.
    assert_ne!(key.public(), token.public());
    assert_ne!(key.public().fingerprint(), token.public().fingerprint());
}
