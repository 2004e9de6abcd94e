//! Reading a regular file a slice at a time, so that no file keeps whoever reads waiting, however large it is.
//!
//! Between two slices the file is asked whether it is still what it was: what is gone, changed or replaced is read no
//! further. Of a file that is mostly holes only the data is read, and its digest is one of its own kind.

use std::io::{self, IoSliceMut};
use std::os::fd::OwnedFd;

use rustix::fs::SeekFrom;
use rustix::io::{Errno, ReadWriteFlags};
use sha2::{Digest, Sha256};

use crate::extended::ExtendedAttributes;
use crate::look::{Plan, Scratch, extended_of_file, status_of};
use crate::object::{Content, NotRead, Object};

/// Bytes that are read before others have their turn.
pub(crate) const SLICE_BYTES: u64 = 16 * 1024 * 1024;

/// Size from which on a file that is mostly holes is read by its data.
const SPARSE_BYTES: u64 = 64 * 1024 * 1024;

/// Bytes that are told from a hole at once. A block of zeros counts as one, so that the digest depends on what is in
/// the file, and not on how the file system keeps it.
const BLOCK_BYTES: usize = 4096;

/// Parts of data that are looked for in one slice: to find one costs about what reading 16 KiB does.
const MAX_SEEKS: usize = 1024;

/// A file that is being read.
#[derive(Debug)]
pub struct Reading {
    file: OwnedFd,
    before: Object,
    spare_cache: bool,
    /// More may be written to its end meanwhile: it is read as far as it went.
    growing: bool,
    /// With so many bytes and this digest, it begins as it was known.
    beginning: Option<(u64, [u8; 32])>,
    hash: Sha256,
    offset: u64,
    grown: bool,
    /// It is mostly holes; how far the data goes that is being read.
    data_end: Option<u64>,
}

/// What came of a slice.
#[derive(Debug)]
pub enum Step {
    /// There is more to read.
    More,
    /// This is what it is; whether it is the known file with more at its end.
    Done(Object, bool),
    /// It is not what it was any more.
    Changed,
}

impl Reading {
    /// Begins with an open file, which was as `before` just now.
    pub(crate) fn new(file: OwnedFd, before: Object, plan: Plan, known: Option<&Object>) -> Self {
        let beginning = known.filter(|_| plan.growing).and_then(|known| match known.content.last_read() {
            Some(Content::Digest(digest)) if known.size <= before.size => Some((known.size, *digest)),
            _ => None,
        });
        let is_sparse = before.size >= SPARSE_BYTES
            && rustix::fs::fstat(&file).is_ok_and(|status| {
                u64::try_from(status.st_blocks).unwrap_or_default().saturating_mul(512) < before.size / 2
            });
        Self {
            file,
            before,
            spare_cache: plan.spare_cache,
            growing: plan.growing && !is_sparse,
            beginning,
            hash: Sha256::new(),
            offset: 0,
            grown: beginning.is_some_and(|(length, _)| length == 0),
            data_end: is_sparse.then_some(0),
        }
    }

    /// The file as it was when its reading began.
    #[must_use]
    pub fn before(&self) -> &Object {
        &self.before
    }

    /// Its extended attributes.
    ///
    /// # Errors
    /// When the kernel does not let us look.
    pub(crate) fn extended(&self, scratch: &mut Scratch) -> io::Result<ExtendedAttributes> {
        extended_of_file(&self.file, scratch)
    }

    /// Reads so many bytes more, or a little beyond.
    ///
    /// # Errors
    /// When the file cannot be asked what it is; that it cannot be read is no error.
    pub fn advance(&mut self, bytes: u64, scratch: &mut Scratch) -> io::Result<Step> {
        let read = match self.data_end {
            None => self.read_all(bytes, scratch),
            Some(_) => self.read_data(bytes, scratch),
        };
        let content = match read {
            Ok(false) => {
                let is_same = self.is_same(&status_of(&self.file, scratch)?);
                return Ok(if is_same { Step::More } else { Step::Changed });
            }
            Ok(true) if self.data_end.is_some() => {
                self.hash.update(self.before.size.to_le_bytes());
                Content::Sparse(self.hash.clone().finalize().into())
            }
            Ok(true) => Content::Digest(self.hash.clone().finalize().into()),
            Err(error) => Content::NotRead(NotRead::Failed(error.raw_os_error().unwrap_or_default())),
        };
        let extended = extended_of_file(&self.file, scratch)?;
        let was_read = content.not_read().is_none();
        if was_read && !self.is_same(&status_of(&self.file, scratch)?) {
            return Ok(Step::Changed);
        }
        Ok(Step::Done(Object { content, extended, ..self.before.clone() }, was_read && self.grown))
    }

    /// Whether it is what it was when its reading began, or that with more at its end: whoever writes a log all the
    /// time does not keep what was in it from being compared.
    fn is_same(&self, now: &Object) -> bool {
        let is_longer = || {
            let Object { size, modified, changed, .. } = *now;
            size > self.before.size && *now == Object { size, modified, changed, ..self.before.clone() }
        };
        *now == self.before || self.growing && is_longer()
    }

    /// Reads from the beginning to the end; `true` when that was reached.
    fn read_all(&mut self, bytes: u64, scratch: &mut Scratch) -> io::Result<bool> {
        let enough = self.offset.saturating_add(bytes);
        while self.offset < enough || self.before.size == self.offset {
            let room = match self.beginning {
                Some((length, _)) if self.offset < length => {
                    scratch.buffer.len().min(usize::try_from(length - self.offset).unwrap_or(usize::MAX))
                }
                _ => scratch.buffer.len(),
            };
            let end = if self.growing { self.before.size.saturating_sub(self.offset) } else { u64::MAX };
            if end == 0 {
                return Ok(true);
            }
            let room = room.min(usize::try_from(end).unwrap_or(usize::MAX));
            let read = self.read(room, scratch)?;
            self.hash.update(&scratch.buffer[..read]);
            self.offset += read as u64;
            if let Some((length, digest)) = self.beginning
                && self.offset == length
                && read > 0
            {
                self.grown = self.hash.clone().finalize().as_slice() == digest;
            }
            // The status afterwards tells whether this was the end.
            if read == 0 || self.offset == self.before.size {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads the data between the holes; `true` when all was.
    fn read_data(&mut self, bytes: u64, scratch: &mut Scratch) -> io::Result<bool> {
        let mut left = bytes;
        for _ in 0..MAX_SEEKS {
            let mut end = self.data_end.unwrap_or_default();
            if self.offset >= end {
                let start = match rustix::fs::seek(&self.file, SeekFrom::Data(self.offset)) {
                    Ok(start) => start,
                    // There is no data any more.
                    Err(Errno::NXIO) => return Ok(true),
                    Err(error) => return Err(error.into()),
                };
                end = rustix::fs::seek(&self.file, SeekFrom::Hole(start))?;
                // A file system with smaller blocks may begin in the middle of one of ours, and end there.
                self.offset = self.offset.max(start - start % BLOCK_BYTES as u64);
                end = end.next_multiple_of(BLOCK_BYTES as u64);
                self.data_end = Some(end);
            }
            while self.offset < end {
                if left == 0 {
                    return Ok(false);
                }
                let room = usize::try_from(end - self.offset).unwrap_or(usize::MAX);
                let read = self.read(room.min(scratch.buffer.len()), scratch)?;
                if read == 0 {
                    return Ok(true);
                }
                let mut at = self.offset;
                for block in scratch.buffer[..read].chunks(BLOCK_BYTES) {
                    if block.iter().any(|byte| *byte != 0) {
                        self.hash.update(at.to_le_bytes());
                        self.hash.update(block);
                    }
                    at += block.len() as u64;
                }
                self.offset = at;
                left = left.saturating_sub(read as u64);
            }
        }
        Ok(false)
    }

    /// Reads at `offset`, as much as there is room for unless the file ends.
    fn read(&self, room: usize, scratch: &mut Scratch) -> io::Result<usize> {
        let mut read = 0;
        while read < room {
            let (buffer, offset) = (&mut scratch.buffer[read..room], self.offset + read as u64);
            let more = if self.spare_cache {
                read_sparing_cache(&self.file, buffer, offset)?
            } else {
                rustix::io::retry_on_intr(|| rustix::io::pread(&self.file, &mut *buffer, offset))?
            };
            read += more;
            if more == 0 || self.data_end.is_none() {
                break;
            }
        }
        scratch.note_read(read as u64);
        Ok(read)
    }
}

/// Reads, and drops from the page cache what was not in it before.
fn read_sparing_cache(file: &OwnedFd, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    match rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT) {
        // From the cache, or the end of the file. The rest of a part is read in the next round.
        Ok(read) => return Ok(read),
        Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR | Errno::NOSYS) => {}
        Err(error) => return Err(error.into()),
    }
    // No reading ahead: those pages would stay.
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Random).ok();
    let read = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut *buffer, offset))?;
    if let Some(length) = std::num::NonZeroU64::new(read as u64) {
        rustix::fs::fadvise(file, offset, Some(length), rustix::fs::Advice::DontNeed).ok();
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::look::{Found, look_at};
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;
    use std::path::Path;

    const PLAN: Plan = Plan {
        hash: true,
        largest_hashed: None,
        prove: false,
        growing: false,
        spare_cache: false,
        being_read: false,
        being_written: false,
    };

    fn object_at(path: &Path) -> Object {
        match look_at(path, PLAN, None, &mut Scratch::default()) {
            Ok(Found::Object { object, .. }) => object,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_of_exabytes_is_read_by_its_data_at_once_and_its_digest_says_so() {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let path = directory.path().join("sparse");
        let file = File::create(&path).unwrap();
        let most = [1 << 62, 1 << 43, 1 << 41].into_iter().find(|size| file.set_len(*size).is_ok()).unwrap();
        let empty = object_at(&path);
        file.write_all_at(b"evil", most / 2 + 5).unwrap();
        let written = object_at(&path);
        file.write_all_at(&[0; 4], most / 2 + 5).unwrap();
        let zeros = object_at(&path);

        assert!(matches!(empty.content, Content::Sparse(_)), "{empty:?}");
        assert!(matches!(written.content, Content::Sparse(_)), "{written:?}");
        assert_ne!(written.content, empty.content);
        assert_eq!(zeros.content, empty.content, "zeros are a hole, however they are kept");
    }

    #[test]
    fn a_large_file_is_read_in_slices_and_no_further_when_it_is_another_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("large");
        let bytes: Vec<u8> = (0..3 * 1024 * 1024_u32).map(|index| (index % 251) as u8).collect();
        fs::write(&path, &bytes).unwrap();
        let whole = object_at(&path);
        let begin = || {
            let mut scratch = Scratch::default();
            scratch.slice = Some(0);
            let found = look_at(&path, PLAN, None, &mut scratch).unwrap();
            let Found::Object { object, .. } = found else { panic!() };
            assert_eq!(object.content, Content::NotRead(NotRead::BeingRead));
            (scratch.reading.take().unwrap(), scratch)
        };

        let (mut reading, mut scratch) = begin();
        let mut slices = 0;
        let object = loop {
            slices += 1;
            match reading.advance(512 * 1024, &mut scratch).unwrap() {
                Step::More => {}
                Step::Done(object, _) => break object,
                Step::Changed => panic!(),
            }
        };
        assert_eq!((object.content, slices >= 4), (whole.content, true));

        let (mut reading, mut scratch) = begin();
        assert!(matches!(reading.advance(1, &mut scratch).unwrap(), Step::More));
        File::options().append(true).open(&path).unwrap().set_len(5).unwrap();
        assert!(matches!(reading.advance(1, &mut scratch).unwrap(), Step::Changed));

        fs::write(&path, &bytes).unwrap();
        let (mut reading, mut scratch) = begin();
        fs::remove_file(&path).unwrap();
        assert!(matches!(reading.advance(1, &mut scratch).unwrap(), Step::Changed));
    }
}
