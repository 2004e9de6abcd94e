//! A security key that signs without being touched: what a real one would never do, made as OpenSSH's PROTOCOL.u2f
//! and PROTOCOL.sshsig say.

use data_encoding::BASE64;
use sha2::{Digest, Sha256, Sha512};
use vigie_fleet::agent_key::AgentKey;

/// The kind of its key.
const KIND: &str = "sk-ssh-ed25519@openssh.com";

/// What OpenSSH names as the application of its keys.
const APPLICATION: &str = "ssh:";

/// Flag of a signature: somebody touched the token.
pub(crate) const TOUCHED: u8 = 1;

/// Characters of a line of an armoured signature.
const LINE: usize = 70;

/// The token; its key is an Ed25519 key like that of an agent.
pub(crate) struct Token(AgentKey);

/// A byte string as SSH writes it (RFC 4251, 5).
fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

impl Token {
    pub(crate) fn new() -> Self {
        Self(AgentKey::generate())
    }

    fn public_blob(&self) -> Vec<u8> {
        [KIND.as_bytes(), self.0.public_key().as_bytes(), APPLICATION.as_bytes()].map(string).concat()
    }

    /// The line of its `.pub` file.
    pub(crate) fn public_line(&self) -> String {
        format!("{KIND} {}", BASE64.encode(&self.public_blob()))
    }

    /// An armoured signature with these flags.
    pub(crate) fn sign(&self, namespace: &str, message: &[u8], flags: u8) -> String {
        let hashed = Sha512::digest(message);
        let parts = [namespace.as_bytes(), b"", b"sha512"].map(string).concat();
        let signed = [&b"SSHSIG"[..], &parts, &string(&hashed)].concat();
        let trailer = [&[flags][..], &7_u32.to_be_bytes()].concat();
        let by_token = [&Sha256::digest(APPLICATION)[..], &trailer, &Sha256::digest(&signed)[..]].concat();
        let signature = [string(KIND.as_bytes()), string(&self.0.sign(&by_token)), trailer].concat();
        let version = 1_u32.to_be_bytes();
        armour(
            &[&b"SSHSIG"[..], &version, &string(&self.public_blob()), &parts, &string(&signature)].concat(),
        )
    }
}

/// The text around the bytes of a signature.
pub(crate) fn armour(bytes: &[u8]) -> String {
    let mut text = String::from("-----BEGIN SSH SIGNATURE-----\n");
    for (place, character) in BASE64.encode(bytes).chars().enumerate() {
        if place > 0 && place % LINE == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str("\n-----END SSH SIGNATURE-----\n");
    text
}

/// The bytes within the armour.
pub(crate) fn without_armour(text: &str) -> Option<Vec<u8>> {
    let inner: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    BASE64.decode(inner.as_bytes()).ok()
}
