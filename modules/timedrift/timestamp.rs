//! Time as NTP carries it, and differences that are right in every era.
//!
//! A timestamp is 32 bits of seconds since 1900 and 32 bits of their fraction (RFC 5905, section 6). The
//! seconds begin anew every 136 years, next on 2036-02-07. Nothing here ever asks for the era: only the
//! wrapping difference of two timestamps is taken, which is right while the two are less than 68 years apart.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds from 1900-01-01 to 1970-01-01, RFC 5905 figure 4.
const UNIX_EPOCH_SECS: u64 = 2_208_988_800;

/// Units of a timestamp in a second.
const UNITS_PER_SEC: i128 = 1 << 32;

const NANOSECONDS_PER_SEC: i128 = 1_000_000_000;

/// A point in time, in units of 2^-32 seconds since the beginning of an era that is not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NtpTimestamp(u64);

impl NtpTimestamp {
    /// The timestamp with these 64 bits.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Its 64 bits.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// Whether it is the value that means "not known".
    #[must_use]
    pub fn is_unknown(self) -> bool {
        self.0 == 0
    }

    /// The timestamp of a time; times outside of this era wrap.
    #[must_use]
    pub fn from_system_time(time: SystemTime) -> Self {
        let epoch = Self(UNIX_EPOCH_SECS << 32);
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => epoch.plus(after),
            Err(before) => Self(epoch.0.wrapping_sub(units(before.duration()))),
        }
    }

    /// The timestamp so much later.
    #[must_use]
    pub(crate) fn plus(self, duration: Duration) -> Self {
        Self(self.0.wrapping_add(units(duration)))
    }

    /// How much later this is than `earlier`, negative when it is before it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Interval {
        Interval(i128::from(self.0.wrapping_sub(earlier.0).cast_signed()))
    }
}

/// Units of 2^-32 seconds, modulo one era.
fn units(duration: Duration) -> u64 {
    let fraction = (u64::from(duration.subsec_nanos()) << 32) / 1_000_000_000;
    // The upper 32 bits of the seconds are the era.
    (duration.as_secs() << 32).wrapping_add(fraction)
}

/// A length of time with a sign, in units of 2^-32 seconds. Wide enough for sums of such lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval(i128);

impl Interval {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// An interval from the short format of NTP, 16 bits of seconds and 16 of their fraction.
    #[must_use]
    pub(crate) fn from_short(bits: u32) -> Self {
        Self(i128::from(bits) << 16)
    }

    /// An interval of whole seconds.
    #[must_use]
    pub fn from_secs(seconds: u32) -> Self {
        Self(i128::from(seconds) << 32)
    }

    /// 2 to the power of `exponent` seconds, between 2^-32 and 2^31.
    #[must_use]
    pub(crate) fn from_exponent(exponent: i8) -> Self {
        Self(1 << (i32::from(exponent) + 32).clamp(0, 63))
    }

    /// Half of it, rounded down.
    #[must_use]
    pub fn half(self) -> Self {
        Self(self.0 >> 1)
    }

    /// The part of it that `divisor` says, rounded up.
    #[must_use]
    pub(crate) fn divided(self, divisor: i128) -> Self {
        Self(-(-self.0).div_euclid(divisor))
    }

    /// In nanoseconds, rounded down.
    #[must_use]
    pub fn to_nanoseconds(self) -> i64 {
        to_i64((self.0 * NANOSECONDS_PER_SEC).div_euclid(UNITS_PER_SEC))
    }

    /// In nanoseconds, rounded up, for bounds.
    #[must_use]
    pub fn to_nanoseconds_up(self) -> i64 {
        to_i64(-(-self.0 * NANOSECONDS_PER_SEC).div_euclid(UNITS_PER_SEC))
    }
}

impl std::ops::Add for Interval {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl std::ops::Sub for Interval {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl std::ops::Neg for Interval {
    type Output = Self;

    fn neg(self) -> Self {
        Self(-self.0)
    }
}

/// Two differences of timestamps are at most 136 years, which 64 bits of nanoseconds hold.
fn to_i64(nanoseconds: i128) -> i64 {
    i64::try_from(nanoseconds).unwrap_or(if nanoseconds < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2036-02-07T06:28:16Z, where the seconds begin anew.
    const ROLLOVER_UNIX_SECS: u64 = (1 << 32) - UNIX_EPOCH_SECS;

    #[test]
    fn the_rollover_of_2036_is_a_second_like_any_other() {
        let last = UNIX_EPOCH + Duration::from_secs(ROLLOVER_UNIX_SECS - 1);
        let first = UNIX_EPOCH + Duration::from_secs(ROLLOVER_UNIX_SECS);

        let (last, first) = (NtpTimestamp::from_system_time(last), NtpTimestamp::from_system_time(first));

        assert_eq!((last.to_bits(), first.to_bits()), (0xffff_ffff << 32, 0));
        assert_eq!(first.since(last).to_nanoseconds(), 1_000_000_000);
        assert_eq!(last.since(first).to_nanoseconds(), -1_000_000_000);
    }

    #[test]
    fn known_times_have_the_known_bits() {
        // RFC 5905 figure 4: 1970-01-01 and 1999-12-31.
        assert_eq!(NtpTimestamp::from_system_time(UNIX_EPOCH).to_bits() >> 32, 2_208_988_800);
        let last_of_the_century = UNIX_EPOCH + Duration::from_secs(946_598_400);
        assert_eq!(NtpTimestamp::from_system_time(last_of_the_century).to_bits() >> 32, 3_155_587_200);
        let before_1970 = UNIX_EPOCH - Duration::from_millis(500);
        assert_eq!(NtpTimestamp::from_system_time(before_1970).to_bits(), (2_208_988_799 << 32) | (1 << 31));
    }

    #[test]
    fn bounds_are_rounded_up_and_values_down() {
        let unit = NtpTimestamp::from_bits(1).since(NtpTimestamp::from_bits(0));

        assert_eq!((unit.to_nanoseconds(), unit.to_nanoseconds_up()), (0, 1));
        assert_eq!(((-unit).to_nanoseconds(), (-unit).to_nanoseconds_up()), (-1, 0));
        assert_eq!(Interval::from_short(0x0001_8000).to_nanoseconds(), 1_500_000_000);
        assert_eq!(Interval::from_exponent(-20).to_nanoseconds(), 953);
        assert_eq!(Interval::from_exponent(i8::MIN), unit);
    }

    proptest! {
        /// Any time of ten thousand years, and any distance below half an era.
        #[test]
        fn differences_are_right_in_every_era(
            start_secs in 0_u64..253_000_000_000,
            start_nanos in 0_u32..1_000_000_000,
            distance_nanos in 0_u64..(1 << 31) * 1_000_000_000,
        ) {
            let start = UNIX_EPOCH + Duration::new(start_secs, start_nanos);
            let distance = Duration::from_nanos(distance_nanos);
            let (from, to) = (
                NtpTimestamp::from_system_time(start),
                NtpTimestamp::from_system_time(start + distance),
            );

            let expected = i64::try_from(distance_nanos).unwrap();
            // A timestamp's unit is a quarter of a nanosecond, and each of the two was cut off.
            prop_assert!((to.since(from).to_nanoseconds() - expected).abs() <= 1);
            prop_assert!((from.since(to).to_nanoseconds() + expected).abs() <= 1);
            prop_assert!((from.plus(distance).since(to).to_nanoseconds()).abs() <= 1);
        }

        #[test]
        fn a_difference_taken_backwards_has_the_other_sign(one: u64, other: u64) {
            prop_assume!(one.wrapping_sub(other) != 1 << 63);
            let (one, other) = (NtpTimestamp::from_bits(one), NtpTimestamp::from_bits(other));

            prop_assert_eq!(one.since(other), -other.since(one));
        }
    }
}
