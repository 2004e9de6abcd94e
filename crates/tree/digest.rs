//! Digests of files.

use std::io::{self, Read};

use md5::Md5;
use sha2::{Digest as _, Sha256};

use crate::{Entry, Unread};

const BUFFER_BYTES: usize = 64 * 1024;

/// Digests of one file, made while it is read once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digests {
    /// What investigators compare.
    pub sha256: [u8; 32],
    /// What dpkg records.
    pub md5: [u8; 16],
}

/// The MD5 of bytes.
#[must_use]
pub fn md5(bytes: &[u8]) -> [u8; 16] {
    Md5::digest(bytes).into()
}

impl Digests {
    /// The digests of bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { sha256: Sha256::digest(bytes).into(), md5: md5(bytes) }
    }
}

impl Entry {
    /// Reads at most `limit` bytes of the file for its digests.
    ///
    /// # Errors
    /// When it cannot be read or is larger.
    pub fn digests(&self, limit: u64) -> Result<Digests, Unread> {
        // A file that grows is read as far as it went when it was looked at.
        let mut left = self.status.size;
        if left > limit {
            return Err(Unread::Large);
        }
        let mut file = self.open()?;
        let (mut sha256, mut md5) = (Sha256::new(), Md5::new());
        let mut buffer = vec![0; BUFFER_BYTES];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
            match file.read(&mut buffer[..wanted]) {
                Ok(0) => break,
                Ok(read) => {
                    sha256.update(&buffer[..read]);
                    md5.update(&buffer[..read]);
                    left -= read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Unread::System(
                        rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO),
                    ));
                }
            }
        }
        Ok(Digests { sha256: sha256.finalize().into(), md5: md5.finalize().into() })
    }
}
