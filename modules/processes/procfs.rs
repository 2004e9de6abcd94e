//! Reading small files of `/proc` below a descriptor, into buffers that are used again.
//!
//! Everything of a process is read below one descriptor of its directory: after the process has ended and its number
//! belongs to another one, that descriptor leads to nothing, while the path leads to the stranger.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, RawDir, openat, readlinkat_raw};
use rustix::io::Errno;

/// Longest link that is read, in bytes; the kernel tells no longer paths.
const LINK_BYTES: usize = 4096 + 16;

/// Bytes of directory entries that are read at once.
const DIRECTORY_BYTES: usize = 64 * 1024;

/// Opens a directory to read below it, which needs no rights on it.
pub fn open_directory(base: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    openat(base, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Reads a file into `buffer`, at most `most` bytes; says whether that was all.
pub fn read(base: impl AsFd, name: &str, most: usize, buffer: &mut Vec<u8>) -> Result<bool, Errno> {
    let file = openat(base, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    buffer.clear();
    loop {
        if buffer.len() >= most {
            if buffer.len() > most {
                buffer.truncate(most);
                return Ok(false);
            }
            let mut more = [0; 1];
            return Ok(rustix::io::read(&file, &mut more)? == 0);
        }
        buffer.reserve(if buffer.is_empty() { 4096 } else { 64 * 1024 });
        match rustix::io::read(&file, rustix::buffer::spare_capacity(buffer)) {
            Ok(0) => return Ok(true),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads a link.
pub fn link(base: impl AsFd, name: impl rustix::path::Arg) -> Result<Vec<u8>, Errno> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); LINK_BYTES];
    let (link, _) = readlinkat_raw(base, name, &mut buffer[..])?;
    Ok(link.to_vec())
}

/// The numbers that a directory has as names, ascending.
pub fn numbers(base: impl AsFd, name: &str) -> Result<Vec<u32>, Errno> {
    let directory = openat(base, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = Vec::with_capacity(DIRECTORY_BYTES);
    let mut entries = RawDir::new(&directory, buffer.spare_capacity_mut());
    let mut numbers = Vec::new();
    while let Some(entry) = entries.next() {
        let name: Option<u32> = entry?.file_name().to_str().ok().and_then(|name| name.parse().ok());
        numbers.extend(name);
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}
