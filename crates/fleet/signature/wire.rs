//! The bytes of a signature: its armour, and the fields within (PROTOCOL.sshsig of OpenSSH).

use ssh_key::{Algorithm, EcdsaCurve, HashAlg};

use super::key::allowed_algorithm;
use super::{PublicKey, SignatureError, TokenFlags, Unchecked, shown};

const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----\n";
const END: &str = "-----END SSH SIGNATURE-----";

/// Longest line of the armour in characters; `ssh-keygen` breaks after 70, RFC 7468 asks for 64.
const MAX_LINE: usize = 76;

/// First bytes of a signature, and of what is signed.
const MAGIC: &[u8] = b"SSHSIG";

/// The only version.
const VERSION: u32 = 1;

/// Takes the armour away.
pub(super) fn remove_armour(armored: &str) -> Result<Vec<u8>, SignatureError> {
    let body = armored
        .strip_prefix(BEGIN)
        .ok_or(SignatureError::Armour("the first line is not the one of a signature"))?;
    let body = body.strip_suffix('\n').unwrap_or(body);
    let body = body
        .strip_suffix(END)
        .ok_or(SignatureError::Armour("the last line is not the one of a signature"))?;
    let body = body.strip_suffix('\n').ok_or(SignatureError::Armour("the last line does not stand alone"))?;
    let mut base64 = String::with_capacity(body.len());
    for line in body.split('\n') {
        if !(1..=MAX_LINE).contains(&line.len()) {
            return Err(SignatureError::Armour("a line is empty or longer than 76 characters"));
        }
        base64.push_str(line);
    }
    data_encoding::BASE64
        .decode(base64.as_bytes())
        .map_err(|_| SignatureError::Armour("between first and last line is something else than base64"))
}

/// Reads what was in the armour.
pub(super) fn parse(bytes: &[u8]) -> Result<Unchecked, SignatureError> {
    let mut fields = Fields(bytes);
    if fields.take(MAGIC.len())? != MAGIC {
        return Err(SignatureError::Malformed("it does not begin with SSHSIG"));
    }
    let version = fields.number()?;
    if version != VERSION {
        return Err(SignatureError::Version(version));
    }
    let key_bytes = fields.string()?;
    let namespace = fields.text()?.to_owned();
    let reserved = fields.string()?;
    let hash = fields.text()?;
    let signature_bytes = fields.string()?;
    fields.end()?;

    if !reserved.is_empty() {
        return Err(SignatureError::Reserved);
    }
    let hash = match hash {
        "sha256" => HashAlg::Sha256,
        "sha512" => HashAlg::Sha512,
        other => return Err(SignatureError::HashAlgorithm(shown(other))),
    };
    let key = read_key(key_bytes)?;
    let (signature, token) = read_signature(signature_bytes, &key)?;
    Ok(Unchecked { key, namespace, hash, signature, token })
}

fn read_key(bytes: &[u8]) -> Result<PublicKey, SignatureError> {
    allowed_algorithm(Fields(bytes).text()?).map_err(SignatureError::Key)?;
    let malformed = || SignatureError::Malformed("the key in it is damaged");
    let key = ssh_key::PublicKey::from_bytes(bytes).map_err(|_| malformed())?;
    // One key has one form, and so one fingerprint.
    if key.to_bytes().map_err(|_| malformed())? != bytes {
        return Err(malformed());
    }
    PublicKey::from_ssh(key).map_err(SignatureError::Key)
}

/// Reads the signature proper, which must be of its key's kind; a token's ends with flags and a counter.
fn read_signature(
    bytes: &[u8],
    key: &PublicKey,
) -> Result<(ssh_key::Signature, Option<TokenFlags>), SignatureError> {
    let mut fields = Fields(bytes);
    let found = fields.text()?;
    if found != key.algorithm() {
        return Err(SignatureError::OtherAlgorithm { found: shown(found), wanted: key.algorithm() });
    }
    let mut data = fields.string()?.to_vec();
    let algorithm = key.ssh().algorithm();
    let expected = match algorithm {
        Algorithm::Ed25519 | Algorithm::SkEd25519 => data.len() == 64,
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 } | Algorithm::SkEcdsaSha2NistP256 => {
            is_two_integers(&data)
        }
        _ => false,
    };
    if !expected {
        return Err(SignatureError::Malformed("the signature proper has a wrong length"));
    }
    let token = if key.is_token() {
        let flags_and_counter = fields.take(5)?;
        data.extend_from_slice(flags_and_counter);
        Some(TokenFlags::from_byte(flags_and_counter[0]))
    } else {
        None
    };
    fields.end()?;
    let signature = ssh_key::Signature::new(algorithm, data)
        .map_err(|_| SignatureError::Malformed("the signature proper is damaged"))?;
    Ok((signature, token))
}

/// Two integers of at most 256 bits, as RFC 4251 writes them, and nothing else.
fn is_two_integers(data: &[u8]) -> bool {
    let mut fields = Fields(data);
    let mut good = || fields.string().is_ok_and(|integer| (1..=33).contains(&integer.len()));
    good() && good() && fields.end().is_ok()
}

/// The fields that are left to read (data types of RFC 4251, section 5).
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], SignatureError> {
        let (taken, rest) =
            self.0.split_at_checked(count).ok_or(SignatureError::Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u32, SignatureError> {
        let (number, rest) =
            self.0.split_first_chunk().ok_or(SignatureError::Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*number))
    }

    fn string(&mut self) -> Result<&'a [u8], SignatureError> {
        let length = self.number()?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn text(&mut self) -> Result<&'a str, SignatureError> {
        std::str::from_utf8(self.string()?).map_err(|_| SignatureError::Malformed("a name in it is not text"))
    }

    fn end(&self) -> Result<(), SignatureError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(SignatureError::Malformed("something stands behind its end"))
        }
    }
}
