//! Logs that were compressed when they were rotated: what is in them is compared with what the log was known to be.

use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rustix::fs::{CWD, Mode, OFlags};
use sha2::{Digest, Sha256};

/// Most bytes that are unpacked, and read for it: a slice's work. Larger logs are told.
const MAX_BYTES: u64 = 16 << 20;

/// The log that a file has in it by its name: `log.1` for `log.1.gz`.
#[must_use]
pub(crate) fn log_of(packed: &Path) -> Option<PathBuf> {
    let name = packed.as_os_str().as_bytes().strip_suffix(b".gz")?;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(name)))
}

/// The digest of what is in a compressed file. None of what is larger than 16 MiB or not compressed so.
///
/// # Errors
/// When it cannot be read or is damaged.
pub(crate) fn unpacked_digest(path: &Path) -> io::Result<Option<[u8; 32]>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::openat(CWD, path, flags, Mode::empty())?);
    let mut unpacked = MultiGzDecoder::new(file.take(MAX_BYTES)).take(MAX_BYTES + 1);
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
    Ok((length <= MAX_BYTES).then(|| digest.finalize().into()))
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
        let digest = |content: &[u8]| Some(Sha256::digest(content).into());

        std::fs::write(&path, packed(b"one\n")).unwrap();
        assert_eq!(unpacked_digest(&path).unwrap(), digest(b"one\n"));
        std::fs::write(&path, [packed(b"one\n"), packed(b"two\n")].concat()).unwrap();
        assert_eq!(unpacked_digest(&path).unwrap(), digest(b"one\ntwo\n"));
        std::fs::write(&path, packed(&vec![0; MAX_BYTES as usize + 1])).unwrap();
        assert_eq!(unpacked_digest(&path).unwrap(), None);
        std::fs::write(&path, "one\n").unwrap();
        assert!(unpacked_digest(&path).is_err());
        assert_eq!(log_of(&path), Some(temp.path().join("log.1")));
        assert_eq!(log_of(&temp.path().join("log.1")), None);
    }
}
