//! Durations as MIG's investigators write and read them: the texts of Go's `time.Duration`.
//!
//! ```text
//! 5s   10ms   1m30s   1h0m0.5s   -53.407µs   0s
//! ```
//!
//! Format and limits: <https://pkg.go.dev/time#ParseDuration>. The type counts nanoseconds in 64 bits with a
//! sign, so it reaches to 292 years.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Units with their nanoseconds; both code points that look like µ.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Nanoseconds with a sign that are read and written as Go does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(i64);

/// Why a text is not a duration. The wording is Go's, which MIG shows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDuration {
    /// No number where one must be, or more than 292 years.
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    /// A number without its unit.
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    /// A unit that there is not.
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit {
        /// What stands in the unit's place.
        unit: String,
        /// The whole text.
        text: String,
    },
}

impl GoDuration {
    /// A duration of so many nanoseconds.
    #[must_use]
    pub(crate) fn from_nanoseconds(nanoseconds: i64) -> Self {
        Self(nanoseconds)
    }

    /// Its nanoseconds.
    #[must_use]
    pub fn as_nanoseconds(self) -> i64 {
        self.0
    }
}

impl From<Duration> for GoDuration {
    /// The same duration; more than 292 years become 292 years.
    fn from(duration: Duration) -> Self {
        Self(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl FromStr for GoDuration {
    type Err = BadDuration;

    fn from_str(text: &str) -> Result<Self, BadDuration> {
        let invalid = || BadDuration::Invalid(text.to_owned());
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        // The negative end of the range is one longer than the positive one.
        let limit = i128::from(i64::MAX) + i128::from(negative);
        let mut total: i128 = 0;
        while !rest.is_empty() {
            let (whole, after_whole) = split_digits(rest);
            let (fraction, after_number) = match after_whole.strip_prefix('.') {
                Some(after_point) => split_digits(after_point),
                None => ("", after_whole),
            };
            if whole.is_empty() && fraction.is_empty() {
                return Err(invalid());
            }
            let unit_end =
                after_number.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after_number.len());
            let (unit, after_unit) = after_number.split_at(unit_end);
            if unit.is_empty() {
                return Err(BadDuration::MissingUnit(text.to_owned()));
            }
            let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
                return Err(BadDuration::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() });
            };
            total += nanoseconds(whole, fraction, *scale).ok_or_else(invalid)?;
            if total > limit {
                return Err(invalid());
            }
            rest = after_unit;
        }
        let total = if negative { -total } else { total };
        i64::try_from(total).map(Self).map_err(|_| invalid())
    }
}

/// `whole.fraction` times `scale`, or `None` beyond 64 bits.
fn nanoseconds(whole: &str, fraction: &str, scale: u64) -> Option<i128> {
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut digits: u64 = 0;
    let mut divisor = 1.0;
    for digit in fraction.bytes() {
        let Some(more) = digits.checked_mul(10).and_then(|ten| ten.checked_add(u64::from(digit - b'0')))
        else {
            break;
        };
        digits = more;
        divisor *= 10.0;
    }
    // Go reckons the fraction in floating point and cuts off, so that a third of an hour with enough digits
    // is 20 minutes.
    let part = (digits as f64 * (scale as f64 / divisor)) as u64;
    Some(i128::from(whole) * i128::from(scale) + i128::from(part))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

impl fmt::Display for GoDuration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 0 {
            formatter.write_str("-")?;
        }
        let nanoseconds = self.0.unsigned_abs();
        match nanoseconds {
            0 => formatter.write_str("0s"),
            1..1_000 => write!(formatter, "{nanoseconds}ns"),
            1_000..1_000_000 => write!(formatter, "{}µs", Decimal(nanoseconds, 3)),
            1_000_000..1_000_000_000 => write!(formatter, "{}ms", Decimal(nanoseconds, 6)),
            _ => {
                let minutes = nanoseconds / 60_000_000_000;
                if minutes >= 60 {
                    write!(formatter, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(formatter, "{}m", minutes % 60)?;
                }
                write!(formatter, "{}s", Decimal(nanoseconds % 60_000_000_000, 9))
            }
        }
    }
}

/// A number with so many digits after the point, without zeros at its end.
struct Decimal(u64, usize);

impl fmt::Display for Decimal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value, digits) = *self;
        let scale = 10_u64.pow(u32::try_from(digits).unwrap_or(0));
        write!(formatter, "{}", value / scale)?;
        match value % scale {
            0 => Ok(()),
            fraction => {
                let fraction = format!("{fraction:0digits$}");
                write!(formatter, ".{}", fraction.trim_end_matches('0'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanoseconds) in [
            ("5s", 5_000_000_000),
            ("10ms", 10_000_000),
            ("1m30s", 90_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("-5s", -5_000_000_000),
            ("+5s", 5_000_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("0", 0),
            ("-0", 0),
            ("5µs", 5_000),
            ("5μs", 5_000),
            ("5us", 5_000),
            ("1.0000000001s", 1_000_000_000),
            ("0.3333333333333333333h", 1_200_000_000_000),
            ("1s1s", 2_000_000_000),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
        ] {
            assert_eq!(text.parse(), Ok(GoDuration(nanoseconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_in_the_words_of_go() {
        for (text, expected) in [
            ("", "time: invalid duration \"\""),
            ("-", "time: invalid duration \"-\""),
            ("s", "time: invalid duration \"s\""),
            (".s", "time: invalid duration \".s\""),
            ("5", "time: missing unit in duration \"5\""),
            ("1m5", "time: missing unit in duration \"1m5\""),
            ("5 s", "time: unknown unit \" s\" in duration \"5 s\""),
            ("1e3s", "time: unknown unit \"e\" in duration \"1e3s\""),
            ("5sec", "time: unknown unit \"sec\" in duration \"5sec\""),
            ("5S", "time: unknown unit \"S\" in duration \"5S\""),
            ("9223372036854775808ns", "time: invalid duration \"9223372036854775808ns\""),
            ("2562048h", "time: invalid duration \"2562048h\""),
            ("99999999999999999999h", "time: invalid duration \"99999999999999999999h\""),
        ] {
            assert_eq!(text.parse::<GoDuration>().unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (-53_407, "-53.407µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (100_000_306_015, "1m40.000306015s"),
            (-99_999_913_620, "-1m39.99991362s"),
            (245_000_000_000, "4m5s"),
            (3_600_000_000_000, "1h0m0s"),
            (-290_571_446_832_067_533, "-80714h17m26.832067533s"),
            (i64::MAX, "2562047h47m16.854775807s"),
            (i64::MIN, "-2562047h47m16.854775808s"),
        ] {
            assert_eq!(GoDuration(nanoseconds).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_the_same(nanoseconds in any::<i64>()) {
            prop_assert_eq!(GoDuration(nanoseconds).to_string().parse(), Ok(GoDuration(nanoseconds)));
        }

        #[test]
        fn no_text_panics(text in "[-+0-9.hmsnuµ e]{0,40}|.{0,20}") {
            text.parse::<GoDuration>().ok();
        }
    }
}
