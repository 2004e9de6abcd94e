//! The time of a log line, formatted once for a whole batch of lines.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A moment as log lines show it: RFC 3339 in UTC with milliseconds, and the short local form of syslog.
///
/// Making one costs far more than a line, so a batch of lines that arrived together shares one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogTime {
    rfc3339: [u8; 24],
    syslog: [u8; 15],
}

impl LogTime {
    /// The present.
    #[must_use]
    pub fn now() -> Self {
        Self::at(SystemTime::now())
    }

    /// A given moment. One that no clock of ours can mean (before year 0, after 9999) becomes 1970.
    #[must_use]
    pub fn at(moment: SystemTime) -> Self {
        let timestamp = Timestamp::try_from(moment)
            .ok()
            .filter(|timestamp| (0..=9999).contains(&timestamp.to_zoned(TimeZone::UTC).year()))
            .unwrap_or(Timestamp::UNIX_EPOCH);
        let utc = timestamp.to_zoned(TimeZone::UTC);
        let mut rfc3339 = *b"0000-00-00T00:00:00.000Z";
        put(&mut rfc3339[0..4], utc.year().into());
        put(&mut rfc3339[5..7], utc.month().into());
        put(&mut rfc3339[8..10], utc.day().into());
        put(&mut rfc3339[11..13], utc.hour().into());
        put(&mut rfc3339[14..16], utc.minute().into());
        put(&mut rfc3339[17..19], utc.second().into());
        put(&mut rfc3339[20..23], utc.millisecond().into());
        let local = timestamp.to_zoned(TimeZone::system());
        Self {
            rfc3339,
            syslog: syslog_form([local.month(), local.day(), local.hour(), local.minute(), local.second()]),
        }
    }

    /// RFC 3339 in UTC with milliseconds: `2026-11-23T06:29:22.123Z`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.rfc3339).expect("digits and punctuation only")
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.rfc3339
    }

    /// The form of RFC 3164, in local time as syslog daemons expect it: `Nov 23 06:29:22`.
    pub(super) fn syslog(&self) -> &[u8] {
        &self.syslog
    }
}

/// Month, day, hour, minute and second as RFC 3164 writes them; the day is filled up with a space.
fn syslog_form([month, day, hour, minute, second]: [i8; 5]) -> [u8; 15] {
    const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut text = *b"Jan 00 00:00:00";
    let at = usize::try_from(month - 1).map_or(0, |month| month.min(11) * 3);
    text[0..3].copy_from_slice(&MONTHS[at..at + 3]);
    put(&mut text[4..6], day.into());
    if day < 10 {
        text[4] = b' ';
    }
    put(&mut text[7..9], hour.into());
    put(&mut text[10..12], minute.into());
    put(&mut text[13..15], second.into());
    text
}

/// Writes a number with as many digits as there is room for.
fn put(digits: &mut [u8], number: i32) {
    let mut rest = number.unsigned_abs();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_moment_is_shown_in_utc_with_milliseconds() {
        let moment = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_415_362_007);

        assert_eq!(LogTime::at(moment).as_str(), "2026-11-23T06:29:22.007Z");
    }

    #[test]
    fn syslog_fills_up_a_short_day_with_a_space() {
        assert_eq!(&syslog_form([11, 3, 6, 9, 2]), b"Nov  3 06:09:02");
        assert_eq!(&syslog_form([12, 31, 23, 59, 59]), b"Dec 31 23:59:59");
    }

    #[test]
    fn a_clock_far_off_gives_a_time_all_the_same() {
        for moment in [
            SystemTime::UNIX_EPOCH - Duration::from_secs(1 << 40),
            SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 50),
        ] {
            assert!(LogTime::at(moment).as_str().ends_with('Z'));
        }
    }

    proptest! {
        #[test]
        fn every_time_is_read_back_to_the_millisecond(milliseconds in 0_u64..253_370_764_800_000) {
            let moment = SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);

            let read: Timestamp = LogTime::at(moment).as_str().parse().unwrap();

            prop_assert_eq!(read.as_millisecond(), i64::try_from(milliseconds).unwrap());
        }
    }
}
