//! Random numbers of the kernel: for names and keys that must never come twice, and to spread over time what would
//! otherwise happen at once.

use std::fs::File;
use std::io::{self, Read as _};

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// Random bytes, fit for keys; see getrandom(2).
///
/// # Errors
/// When the system call is forbidden and there is no `/dev/urandom` either.
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(_) => {
                File::open("/dev/urandom")?.read_exact(&mut bytes)?;
                filled = N;
            }
        }
    }
    Ok(bytes)
}

/// A number for what any number will do: without a source of random numbers it is zero.
#[must_use]
pub fn number() -> u64 {
    bytes().map(u64::from_ne_bytes).unwrap_or_default()
}

/// A number drawn evenly from 0 to 1, to spread attempts over time.
#[must_use]
pub fn fraction() -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    let fraction = (number() >> 11) as f64 / (1u64 << 53) as f64;
    fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_comes_twice_and_fractions_lie_between_0_and_1() {
        assert_ne!(bytes::<32>().unwrap(), bytes::<32>().unwrap());
        assert_ne!(number(), number());
        let drawn: Vec<f64> = (0..1_000).map(|_| fraction()).collect();
        assert!(drawn.iter().all(|fraction| (0.0..1.0).contains(fraction)));
        assert!(drawn.iter().any(|fraction| *fraction < 0.3) && drawn.iter().any(|fraction| *fraction > 0.7));
    }
}
