//! What a filter compares: sizes, ages and modes, as an investigator writes them.

/// Nanoseconds in a second.
const NANOSECONDS: i128 = 1_000_000_000;

/// The sizes that a filter lets through, in bytes, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeRange {
    smallest: u64,
    largest: u64,
}

impl SizeRange {
    /// Reads `<10m` (at most), `>10m` (at least) or `10m` (exactly). A suffix multiplies by a power of 1,024.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let wrong = || FilterError::Size(text.to_owned());
        let (comparison, number) = split_comparison(text);
        let (digits, power) = match number.char_indices().next_back() {
            Some((at, 'k')) => (&number[..at], 1),
            Some((at, 'm')) => (&number[..at], 2),
            Some((at, 'g')) => (&number[..at], 3),
            Some((at, 't')) => (&number[..at], 4),
            _ => (number, 0),
        };
        let size = whole_number(digits)
            .and_then(|number| number.checked_mul(1024_u64.pow(power)))
            .ok_or_else(wrong)?;
        Ok(match comparison {
            Some(Comparison::Less) => Self { smallest: 0, largest: size },
            Some(Comparison::More) => Self { smallest: size, largest: u64::MAX },
            None => Self { smallest: size, largest: size },
        })
    }

    /// The largest size that it lets through.
    #[must_use]
    pub fn largest(self) -> u64 {
        self.largest
    }

    /// Whether a file of this size is wanted.
    #[must_use]
    pub fn contains(self, size: u64) -> bool {
        (self.smallest..=self.largest).contains(&size)
    }
}

/// The times of modification that a filter lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Age {
    /// Nanoseconds since the epoch.
    limit: i128,
    newer: bool,
}

impl Age {
    /// Reads `<90d` (modified within the last 90 days, or in the future) or `>5h` (longer ago). `now` is in
    /// nanoseconds since the epoch; the units are `d`, `h` and `m`, days, hours and minutes.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str, now: i128) -> Result<Self, FilterError> {
        let wrong = || FilterError::Age(text.to_owned());
        let (comparison, period) = split_comparison(text);
        let newer = match comparison {
            Some(Comparison::Less) => true,
            Some(Comparison::More) => false,
            None => return Err(wrong()),
        };
        let (at, unit) = period.char_indices().next_back().ok_or_else(wrong)?;
        let seconds = match unit {
            'd' => 86_400,
            'h' => 3_600,
            'm' => 60,
            _ => return Err(wrong()),
        };
        let number = whole_number(&period[..at]).ok_or_else(wrong)?;
        Ok(Self { limit: now - i128::from(number) * seconds * NANOSECONDS, newer })
    }

    /// Whether a file modified at this time, in nanoseconds since the epoch, is wanted.
    #[must_use]
    pub fn contains(self, modified: i128) -> bool {
        if self.newer { modified > self.limit } else { modified < self.limit }
    }
}

enum Comparison {
    Less,
    More,
}

fn split_comparison(text: &str) -> (Option<Comparison>, &str) {
    if let Some(rest) = text.strip_prefix('<') {
        (Some(Comparison::Less), rest)
    } else if let Some(rest) = text.strip_prefix('>') {
        (Some(Comparison::More), rest)
    } else {
        (None, text)
    }
}

/// Digits only: the standard library would take a sign too.
fn whole_number(digits: &str) -> Option<u64> {
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// Why a filter cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FilterError {
    /// Not a size.
    #[error(
        "{0:?} is not a size: use digits, optionally followed by k, m, g or t, with < (at most) or > (at least) in front"
    )]
    Size(String),
    /// Not an age.
    #[error(
        "{0:?} is not an age: use < (newer) or > (older), digits, and d, h or m for days, hours or minutes"
    )]
    Age(String),
}

/// The mode of a regular file as Go's `FileMode.String` writes it, which is what MIG's expressions are written
/// for: `-rw-r--r--`, and for setuid, setgid and sticky files `u`, `g` and `t` in the place of the dash, as in
/// `ugrwxr-xr-x`.
#[must_use]
pub(crate) fn mode_text(mode: u32) -> String {
    let mut text = String::with_capacity(12);
    for (bit, letter) in [(0o4000, 'u'), (0o2000, 'g'), (0o1000, 't')] {
        if mode & bit != 0 {
            text.push(letter);
        }
    }
    if text.is_empty() {
        text.push('-');
    }
    for (position, letter) in "rwxrwxrwx".chars().enumerate() {
        text.push(if mode & (0o400 >> position) != 0 { letter } else { '-' });
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_include_their_limit() {
        for (text, size, wanted) in [
            ("<10", 10, true),
            ("<10", 11, false),
            (">1k", 1024, true),
            (">1k", 1023, false),
            ("2m", 2 << 20, true),
            ("2m", (2 << 20) + 1, false),
            (">1t", 1 << 40, true),
            ("0", 0, true),
        ] {
            assert_eq!(SizeRange::parse(text).unwrap().contains(size), wanted, "{text} {size}");
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for text in
            ["", "<", "k", "10K", "+1", "-1", "1.5m", "=1", "10 ", "é", "99999999999999999999", "99999999t"]
        {
            assert_eq!(SizeRange::parse(text), Err(FilterError::Size(text.to_owned())));
        }
    }

    #[test]
    fn ages_count_back_from_now() {
        let now = 1_000_000 * NANOSECONDS;
        let at = |seconds: i128| now + seconds * NANOSECONDS;
        for (text, modified, wanted) in [
            ("<2m", at(-119), true),
            ("<2m", at(-120), false),
            ("<2m", at(1_000), true),
            (">2m", at(-121), true),
            (">2m", at(-120), false),
            (">1h", at(-3_601), true),
            ("<1d", at(-86_399), true),
            (">0m", at(0), false),
        ] {
            assert_eq!(Age::parse(text, now).unwrap().contains(modified), wanted, "{text} {modified}");
        }
    }

    #[test]
    fn what_is_not_an_age_is_refused() {
        for text in ["", "<", "90d", "<d", "<90", "<90s", ">-1d", "<é", "<99999999999999999999d"] {
            assert_eq!(Age::parse(text, 0), Err(FilterError::Age(text.to_owned())));
        }
    }

    #[test]
    fn modes_read_as_go_writes_them() {
        for (mode, text) in [
            (0o100_644, "-rw-r--r--"),
            (0o100_000, "----------"),
            (0o104_755, "urwxr-xr-x"),
            (0o106_755, "ugrwxr-xr-x"),
            (0o101_777, "trwxrwxrwx"),
        ] {
            assert_eq!(mode_text(mode), text);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in any::<String>()) {
            SizeRange::parse(&text).ok();
            Age::parse(&text, 0).ok();
        }

        #[test]
        fn more_and_less_meet_at_the_limit(limit in 0_u64..1 << 40, size in 0_u64..1 << 40) {
            let less = SizeRange::parse(&format!("<{limit}")).unwrap().contains(size);
            let more = SizeRange::parse(&format!(">{limit}")).unwrap().contains(size);
            let exact = SizeRange::parse(&limit.to_string()).unwrap().contains(size);

            prop_assert!(less || more);
            prop_assert_eq!(less && more, exact);
        }
    }
}
