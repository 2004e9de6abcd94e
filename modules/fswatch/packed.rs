//! Logs that were compressed when they were rotated: what is in them is compared with what the log was known to be.

use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};

use crate::avoided::Avoided;

/// Most bytes that are unpacked, and read for it: a slice's work. Larger logs are told.
const MAX_BYTES: u64 = 16 << 20;

/// The log that a file has in it by its name: `log.1` for `log.1.gz`.
#[must_use]
pub(crate) fn log_of(packed: &Path) -> Option<PathBuf> {
    let name = packed.as_os_str().as_bytes().strip_suffix(b".gz")?;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(name)))
}

/// The digest of what is in a compressed file with the digest `packed`. None of what is larger than 16 MiB, and when
/// another file is at the path by now.
///
/// # Errors
/// When it cannot be read or is damaged.
pub(crate) fn unpacked_digest(
    path: &Path,
    packed: [u8; 32],
    avoided: &Avoided,
) -> io::Result<Option<[u8; 32]>> {
    let file = std::fs::File::from(avoided.open(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
    let mut file = Digesting { file: file.take(MAX_BYTES), digest: Sha256::new() };
    let mut unpacked = MultiGzDecoder::new(&mut file).take(MAX_BYTES + 1);
    let mut digest = Sha256::new();
    let mut buffer = [0; 16 * 1024];
    let mut length = 0;
    loop {
        let read = unpacked.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
        length += read as u64;
    }
    io::copy(&mut file, &mut io::sink())?;
    let is_it = file.digest.finalize()[..] == packed;
    Ok((is_it && length <= MAX_BYTES).then(|| digest.finalize().into()))
}

/// A file whose digest is made while it is read.
struct Digesting {
    file: io::Take<std::fs::File>,
    digest: Sha256,
}

impl Read for Digesting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.digest.update(&buffer[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn packed(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_is_packed_is_known_by_its_digest_and_a_bomb_is_not_unpacked() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("log.1.gz");
        let digest = |content: &[u8]| -> [u8; 32] { Sha256::digest(content).into() };
        let unpacked = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            unpacked_digest(&path, digest(content), &Avoided::default())
        };

        assert_eq!(unpacked(&packed(b"one\n")).unwrap(), Some(digest(b"one\n")));
        assert_eq!(unpacked_digest(&path, digest(&packed(b"two\n")), &Avoided::default()).unwrap(), None);
        assert_eq!(
            unpacked(&[packed(b"one\n"), packed(b"two\n")].concat()).unwrap(),
            Some(digest(b"one\ntwo\n"))
        );
        assert_eq!(unpacked(&packed(&vec![0; MAX_BYTES as usize + 1])).unwrap(), None);
        assert!(unpacked(b"one\n").is_err());
        assert_eq!(log_of(&path), Some(temp.path().join("log.1")));
        assert_eq!(log_of(&temp.path().join("log.1")), None);
    }
}
