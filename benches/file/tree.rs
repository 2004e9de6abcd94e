//! A tree of files that is the same in every run.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Finds the line that one file in fifty has; an expression that grep, ripgrep and the module understand alike.
pub(crate) const EXPRESSION: &str = "token=[0-9a-f]{8}-(admin|root)$";

/// Files in a directory.
const FILES_PER_DIRECTORY: u32 = 50;

const WORDS: [&str; 16] = [
    "token",
    "value",
    "the",
    "listen",
    "127.0.0.1",
    "error",
    "root",
    "password",
    "enabled",
    "true",
    "/usr/lib",
    "x",
    "admin",
    "config",
    "=",
    "warning",
];

/// What was made.
pub(crate) struct Made {
    /// Bytes in all files.
    pub(crate) bytes: u64,
    /// The SHA-256 of one of them.
    pub(crate) digest: String,
}

/// Steele, Lea and Flood's SplitMix64: the same numbers for the same seed everywhere.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Makes this many files below `root`: most of some kilobytes, one in a hundred of some hundred.
pub(crate) fn make(root: &Path, files: u32) -> io::Result<Made> {
    let mut random = SplitMix(20_261_124);
    let mut made = Made { bytes: 0, digest: String::new() };
    let mut content = Vec::new();
    for number in 0..files {
        let directory = number / FILES_PER_DIRECTORY;
        let directory = root.join(format!("{}/{}/{directory}", directory % 8, directory % 31));
        if number % FILES_PER_DIRECTORY == 0 {
            fs::create_dir_all(&directory)?;
        }
        let size = if random.below(100) == 0 { 400_000 } else { 12_000 };
        let size = random.below(size);
        content.clear();
        let mut needs_token = random.below(50) == 0;
        while (content.len() as u64) < size {
            for _ in 0..random.below(12) {
                let word = WORDS[usize::try_from(random.below(16)).unwrap_or_default()];
                write!(content, "{word} ")?;
            }
            if needs_token && content.len() as u64 > size / 2 {
                write!(content, "token={:08x}-root", random.below(1 << 32))?;
                needs_token = false;
            }
            content.push(b'\n');
        }
        // Nothing but its number makes a file unlike all others.
        writeln!(content, "{number}")?;
        let ending = ["conf", "log", "txt"][usize::try_from(random.below(3)).unwrap_or_default()];
        fs::write(directory.join(format!("file{number}.{ending}")), &content)?;
        made.bytes += content.len() as u64;
        if number == files / 2 {
            made.digest = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        }
    }
    Ok(made)
}
