//! Making signatures: with a key at hand, or through `ssh-keygen` for all that it knows: passphrases, ssh-agent,
//! tokens.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use ssh_key::private::{Ed25519Keypair, KeypairData};
use ssh_key::{HashAlg, LineEnding, PrivateKey};

use super::{KeyError, MAX_SIGNATURE_BYTES, PublicKey, SignatureError, verify};

/// Largest file of a private key that is read, in bytes; one of RSA with 16,384 bits has 12 KiB.
const MAX_KEY_FILE_BYTES: u64 = 64 * 1024;

/// Permissions of others that a private key's file must not give; `ssh-keygen` refuses such files too.
const OTHERS: u32 = 0o077;

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The file is not there or cannot be read.
    #[error("cannot read the key file {path:?}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// `ssh-keygen` is not there.
    #[error(
        "cannot run ssh-keygen, which signs with keys that have a passphrase, are in ssh-agent or on a token"
    )]
    NoSshKeygen(#[source] io::Error),
    /// `ssh-keygen` refused; it said why on stderr.
    #[error("ssh-keygen could not sign with {path:?} ({status}); it says above why")]
    Failed {
        /// The file.
        path: PathBuf,
        /// How it ended.
        status: ExitStatus,
    },
    /// The signature would be refused by every agent.
    #[error("agents would not accept the signature by {path:?}")]
    NotTaken {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: SignatureError,
    },
    /// The key is of a kind that cannot sign here.
    #[error("the key cannot sign")]
    Key(#[source] KeyError),
    /// The computation failed.
    #[error("the key {0} cannot sign: it is damaged")]
    Damaged(super::Fingerprint),
    /// A new key could not be written.
    #[error("cannot write the key file {path:?}")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A private key in memory.
#[derive(Clone)]
pub struct SigningKey {
    key: PrivateKey,
    public: PublicKey,
}

impl SigningKey {
    /// The Ed25519 key of this seed, which the caller draws at random.
    ///
    /// # Panics
    ///
    /// Never: every seed makes a key.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = PrivateKey::from(Ed25519Keypair::from_seed(seed));
        let public = PublicKey::from_ssh(key.public_key().clone()).expect("ed25519 is allowed");
        Self { key, public }
    }

    /// Reads a private key of Ed25519 or ECDSA P-256 in OpenSSH's form. None when it takes `ssh-keygen` to use
    /// it: it has a passphrase, is in a token or in ssh-agent, is of another kind, or others may read the file.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn read(path: &Path) -> Result<Option<Self>, SignError> {
        let unreadable = |source| SignError::Unreadable { path: path.to_owned(), source };
        let file = match fs::File::open(path) {
            Ok(file) => file,
            // As ssh-keygen: the name of a key whose private part is in ssh-agent.
            Err(error) if error.kind() == io::ErrorKind::NotFound && public_path(path).exists() => {
                return Ok(None);
            }
            Err(source) => return Err(unreadable(source)),
        };
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() || metadata.mode() & OTHERS != 0 {
            return Ok(None);
        }
        let mut text = Vec::new();
        file.take(MAX_KEY_FILE_BYTES).read_to_end(&mut text).map_err(unreadable)?;
        let Ok(key) = PrivateKey::from_openssh(&text) else { return Ok(None) };
        if key.is_encrypted() || !matches!(key.key_data(), KeypairData::Ed25519(_) | KeypairData::Ecdsa(_)) {
            return Ok(None);
        }
        let Ok(public) = PublicKey::from_ssh(key.public_key().clone()) else { return Ok(None) };
        Ok(Some(Self { key, public }))
    }

    /// Its public part.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Signs a message for a namespace, over its SHA-512; gives the armoured signature.
    ///
    /// # Errors
    ///
    /// The key is damaged, or the namespace is empty.
    pub fn sign(&self, namespace: &str, message: &[u8]) -> Result<String, SignError> {
        self.key
            .sign(namespace, HashAlg::Sha512, message)
            .and_then(|signature| signature.to_pem(LineEnding::LF))
            .map_err(|_| SignError::Damaged(self.public.fingerprint().clone()))
    }

    /// Writes it to a new file that its owner alone can read, and the public part beside it with `.pub` at the
    /// end of the name, as `ssh-keygen` does.
    ///
    /// # Errors
    ///
    /// A file of that name is there, or it cannot be written.
    pub fn write_new(&self, path: &Path, comment: &str) -> Result<(), SignError> {
        let damaged = |_| SignError::Damaged(self.public.fingerprint().clone());
        let mut key = self.key.clone();
        key.set_comment(comment);
        let private = key.to_openssh(LineEnding::LF).map_err(damaged)?;
        let public = key.public_key().to_openssh().map_err(damaged)?;
        write_new(path, 0o600, private.as_bytes())?;
        write_new(&public_path(path), 0o644, format!("{}\n", public.trim_end()).as_bytes())
    }

    #[cfg(test)]
    pub(super) fn from_ssh(key: PrivateKey) -> Self {
        let public = PublicKey::from_ssh(key.public_key().clone()).expect("the tests' keys are allowed");
        Self { key, public }
    }

    #[cfg(test)]
    pub(super) fn ssh(&self) -> &PrivateKey {
        &self.key
    }
}

/// Shows the public part only.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public).finish()
    }
}

fn public_path(path: &Path) -> PathBuf {
    let mut public_path = path.as_os_str().to_owned();
    public_path.push(".pub");
    PathBuf::from(public_path)
}

fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), SignError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .map_err(|source| SignError::Unwritable { path: path.to_owned(), source })
}

/// Signs with the key of a file: a private key, or the public key of one that ssh-agent holds. A passphrase or the
/// touch of a token is asked for on the terminal. Blocks until then.
///
/// # Errors
///
/// The key cannot be used, nobody answered, or the signature would not be taken by [`verify`].
pub fn sign_with_key_file(path: &Path, namespace: &str, message: &[u8]) -> Result<String, SignError> {
    let armored = match SigningKey::read(path)? {
        Some(key) => key.sign(namespace, message)?,
        None => sign_with_ssh_keygen(path, namespace, message)?,
    };
    match verify(namespace, message, &armored) {
        Ok(_) => Ok(armored),
        Err(source) => Err(SignError::NotTaken { path: path.to_owned(), source }),
    }
}

pub(super) fn sign_with_ssh_keygen(
    path: &Path,
    namespace: &str,
    message: &[u8],
) -> Result<String, SignError> {
    // The questions and errors of ssh-keygen are for the one who signs: stderr is theirs.
    let mut child = Command::new("ssh-keygen")
        .args(["-q", "-Y", "sign", "-n", namespace, "-f"])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(SignError::NoSshKeygen)?;
    // It reads all before it writes anything, so neither side waits for the other. A failed write means that it
    // gave up: its exit status tells.
    if let Some(mut stdin) = child.stdin.take() {
        let _given_up = stdin.write_all(message);
    }
    let mut armored = String::new();
    let read = match child.stdout.take() {
        Some(stdout) => stdout.take(MAX_SIGNATURE_BYTES as u64 + 1).read_to_string(&mut armored),
        None => Ok(0),
    };
    let status = child.wait().map_err(SignError::NoSshKeygen)?;
    read.map_err(SignError::NoSshKeygen)?;
    if status.success() { Ok(armored) } else { Err(SignError::Failed { path: path.to_owned(), status }) }
}
