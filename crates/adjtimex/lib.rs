//! Reads the kernel's own view of its clock with adjtimex(2), which needs no privilege and changes nothing.

use std::io;
use std::time::Duration;

/// What the kernel says of its clock. Meanings are those of adjtimex(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelClock {
    /// What the call returned: whether the clock is synchronised, and whether a leap second is near.
    pub state: ClockState,
    /// The `STA_` bits of the status.
    pub status_bits: i32,
    /// What is still to be corrected of the offset that a time daemon gave, in nanoseconds.
    pub offset_nanoseconds: i64,
    /// Largest error that is possible. It grows while no daemon sets it and stops at 16 s.
    pub maximum_error: Duration,
    /// Error that the daemon believes in.
    pub estimated_error: Duration,
    /// International atomic time minus UTC in seconds; 0 when nobody told the kernel.
    pub tai_offset_seconds: i32,
}

/// What adjtimex(2) returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockState {
    /// `TIME_OK`: synchronised.
    Synchronised,
    /// `TIME_INS`: a leap second is inserted at the end of the day.
    InsertsLeapSecond,
    /// `TIME_DEL`: a leap second is left out at the end of the day.
    DeletesLeapSecond,
    /// `TIME_OOP`: a leap second is being inserted.
    LeapSecondInProgress,
    /// `TIME_WAIT`: a leap second has passed.
    LeapSecondPassed,
    /// `TIME_ERROR`: not synchronised to a server.
    Unsynchronised,
    /// A value that the manual page does not have.
    Unknown(i32),
}

/// Names of the status bits, as in adjtimex(2) without `STA_`.
const STATUS_NAMES: [(i32, &str); 15] = [
    (libc::STA_PLL, "PLL"),
    (libc::STA_PPSFREQ, "PPSFREQ"),
    (libc::STA_PPSTIME, "PPSTIME"),
    (libc::STA_FLL, "FLL"),
    (libc::STA_INS, "INS"),
    (libc::STA_DEL, "DEL"),
    (libc::STA_UNSYNC, "UNSYNC"),
    (libc::STA_FREQHOLD, "FREQHOLD"),
    (libc::STA_PPSSIGNAL, "PPSSIGNAL"),
    (libc::STA_PPSJITTER, "PPSJITTER"),
    (libc::STA_PPSWANDER, "PPSWANDER"),
    (libc::STA_PPSERROR, "PPSERROR"),
    (libc::STA_CLOCKERR, "CLOCKERR"),
    (libc::STA_NANO, "NANO"),
    (libc::STA_MODE, "MODE"),
];

impl KernelClock {
    /// Asks the kernel.
    ///
    /// # Errors
    /// When the kernel refuses, for example because a filter of system calls does not know that reading is
    /// harmless.
    pub fn read() -> io::Result<Self> {
        let (returned, timex) = read_timex()?;
        Ok(Self::from_timex(returned, &timex))
    }

    #[expect(clippy::useless_conversion, reason = "the fields of timex are narrower on 32-bit machines")]
    fn from_timex(returned: i32, timex: &libc::timex) -> Self {
        let microseconds = |value| Duration::from_micros(u64::try_from(value).unwrap_or(0));
        let offset = i64::from(timex.offset);
        Self {
            state: ClockState::from_return_value(returned),
            status_bits: timex.status,
            offset_nanoseconds: match timex.status & libc::STA_NANO {
                0 => offset.saturating_mul(1000),
                _ => offset,
            },
            maximum_error: microseconds(timex.maxerror),
            estimated_error: microseconds(timex.esterror),
            tai_offset_seconds: timex.tai,
        }
    }

    /// Whether the kernel holds its clock for synchronised.
    #[must_use]
    pub fn is_synchronised(&self) -> bool {
        self.state != ClockState::Unsynchronised && self.status_bits & libc::STA_UNSYNC == 0
    }

    /// The names of the status bits that are set, as in adjtimex(2) without `STA_`.
    pub fn status_names(&self) -> impl Iterator<Item = &'static str> {
        let bits = self.status_bits;
        STATUS_NAMES.into_iter().filter(move |(bit, _)| bits & bit != 0).map(|(_, name)| name)
    }
}

impl ClockState {
    fn from_return_value(value: i32) -> Self {
        match value {
            libc::TIME_OK => Self::Synchronised,
            libc::TIME_INS => Self::InsertsLeapSecond,
            libc::TIME_DEL => Self::DeletesLeapSecond,
            libc::TIME_OOP => Self::LeapSecondInProgress,
            libc::TIME_WAIT => Self::LeapSecondPassed,
            libc::TIME_ERROR => Self::Unsynchronised,
            other => Self::Unknown(other),
        }
    }
}

/// Calls adjtimex(2) with no mode set, which only reads.
#[expect(unsafe_code, reason = "a system call that no crate in use wraps")]
fn read_timex() -> io::Result<(i32, libc::timex)> {
    // SAFETY: `timex` consists of integers only, so all zeroes is a value of it.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a whole `timex` that this function owns; `modes` is 0, so the kernel changes
    // nothing but this value.
    let returned = unsafe { libc::adjtimex(&raw mut timex) };
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok((returned, timex)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_hangs_together() {
        let clock = KernelClock::read().unwrap();

        assert!(!matches!(clock.state, ClockState::Unknown(_)), "{clock:?}");
        if clock.status_bits & libc::STA_UNSYNC != 0 {
            assert_eq!(clock.state, ClockState::Unsynchronised, "the kernel returns TIME_ERROR then");
        }
        // NTP_PHASE_LIMIT of the kernel's include/linux/timex.h.
        assert!(clock.maximum_error <= Duration::from_secs(16), "{clock:?}");
    }

    #[test]
    fn the_unit_of_the_offset_is_what_the_status_says() {
        let (_, mut timex) = read_timex().unwrap();
        timex.offset = -1500;

        timex.status = libc::STA_PLL;
        let coarse = KernelClock::from_timex(libc::TIME_OK, &timex);
        timex.status = libc::STA_PLL | libc::STA_NANO;
        let fine = KernelClock::from_timex(libc::TIME_OK, &timex);

        assert_eq!((coarse.offset_nanoseconds, fine.offset_nanoseconds), (-1_500_000, -1500));
        assert_eq!(fine.status_names().collect::<Vec<_>>(), ["PLL", "NANO"]);
        assert!(fine.is_synchronised());
    }

    #[test]
    fn either_sign_of_no_synchronisation_is_enough() {
        let (_, mut timex) = read_timex().unwrap();

        timex.status = 0;
        assert!(!KernelClock::from_timex(libc::TIME_ERROR, &timex).is_synchronised());
        assert!(KernelClock::from_timex(libc::TIME_INS, &timex).is_synchronised());
        timex.status = libc::STA_UNSYNC;
        assert!(!KernelClock::from_timex(libc::TIME_OK, &timex).is_synchronised());
    }
}
