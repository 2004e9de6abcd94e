//! Digests of running programs, read through the process: of what runs, not of what lies at its path now.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use md5::Md5;
use rustix::fs::{AtFlags, Mode, OFlags, openat, statx};
use serde::Serialize;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::executable::{Inode, View, WANTED};
use crate::remote::known_status;

/// Longest program that is read, in bytes.
const MAX_BYTES: u64 = 4 << 30;

/// Bytes that are read at once.
const READ_BYTES: usize = 256 * 1024;

/// The digests of a program, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hashes {
    /// MD5
    pub md5: String,
    /// SHA-1
    pub sha1: String,
    /// SHA-256
    pub sha256: String,
}

/// What tells that a file is the one that was read.
type Key = (Inode, u64, (i64, u32), (i64, u32));

/// Digests by file: many processes run one program.
#[derive(Debug, Default)]
pub(crate) struct Cache(HashMap<Key, Hashes>);

impl Cache {
    /// The digests of the program of a process.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn of(&mut self, view: &View<'_>) -> io::Result<Hashes> {
        if view.remote.has(view.directory, &known_status(view.directory, "exe")?) {
            return Err(io::Error::other("it is on another host, or made by a program"));
        }
        let file = openat(
            view.directory,
            "exe",
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
            Mode::empty(),
        )?;
        let key = key(&file)?;
        if let Some(hashes) = self.0.get(&key) {
            return Ok(hashes.clone());
        }
        if key.1 > MAX_BYTES {
            return Err(io::Error::other("it is too large"));
        }
        let file = File::from(file);
        let hashes = read((&file).take(key.1))?;
        if self::key(&file)? != key {
            return Err(io::Error::other("it changed while it was read"));
        }
        self.0.insert(key, hashes.clone());
        Ok(hashes)
    }
}

fn key(file: impl AsFd) -> io::Result<Key> {
    let status = statx(file, "", AtFlags::EMPTY_PATH, WANTED)?;
    let time = |time: rustix::fs::StatxTimestamp| (time.tv_sec, time.tv_nsec);
    Ok((Inode::of(&status), status.stx_size, time(status.stx_mtime), time(status.stx_ctime)))
}

fn read(mut file: impl Read) -> io::Result<Hashes> {
    let (mut md5, mut sha1, mut sha256) = (Md5::new(), Sha1::new(), Sha256::new());
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                md5.update(&buffer[..length]);
                sha1.update(&buffer[..length]);
                sha256.update(&buffer[..length]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let hexadecimal = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Hashes {
        md5: hexadecimal(&md5.finalize()),
        sha1: hexadecimal(&sha1.finalize()),
        sha256: hexadecimal(&sha256.finalize()),
    })
}
