//! When a certificate ends: the one field of X.509 (RFC 5280) that is looked at here. Pure, and never a panic: a
//! certificate that cannot be read has no end that is known.

/// How long before its end a certificate is a trouble, in seconds: 30 days.
pub(crate) const WARN_SECONDS: i64 = 30 * 24 * 3600;

/// `notAfter` of a certificate in DER, in seconds since 1970.
#[must_use]
pub fn not_after(certificate: &[u8]) -> Option<i64> {
    let (_, certificate, _) = element(certificate)?;
    let (_, mut to_be_signed, _) = element(certificate)?;
    // [0] version is optional; then serial number, algorithm and issuer come before the validity.
    let (tag, _, rest) = element(to_be_signed)?;
    if tag == 0xa0 {
        to_be_signed = rest;
    }
    for _ in 0..3 {
        to_be_signed = element(to_be_signed)?.2;
    }
    let (_, validity, _) = element(to_be_signed)?;
    let (_, _, rest) = element(validity)?;
    let (tag, time, _) = element(rest)?;
    seconds(tag, std::str::from_utf8(time).ok()?)
}

/// Tag, content and what follows of the first element in DER.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first & 0x7f);
    if first & 0x80 != 0 {
        let count = length;
        if !(1..=4).contains(&count) {
            return None;
        }
        let (digits, after) = rest.split_at_checked(count)?;
        length = digits.iter().fold(0, |length, digit| (length << 8) | usize::from(*digit));
        rest = after;
    }
    let (content, after) = rest.split_at_checked(length)?;
    Some((tag, content, after))
}

/// `UTCTime` (two digits of the year) or `GeneralizedTime`, both in UTC.
fn seconds(tag: u8, text: &str) -> Option<i64> {
    let (year, rest) = match tag {
        0x17 => {
            let year: i16 = text.get(..2)?.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
        }
        0x18 => (text.get(..4)?.parse().ok()?, text.get(4..)?),
        _ => return None,
    };
    let rest = rest.strip_suffix('Z')?;
    if rest.len() != 10 || !rest.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let two = |at: usize| rest.get(at..at + 2)?.parse::<i8>().ok();
    let time = jiff::civil::DateTime::new(year, two(0)?, two(2)?, two(4)?, two(6)?, two(8)?, 0).ok()?;
    Some(jiff::tz::TimeZone::UTC.to_timestamp(time).ok()?.as_second())
}

/// What is to be said of a certificate that ends then; nothing while there is time.
#[must_use]
pub fn complaint(what: &str, not_after: i64, now: i64) -> Option<String> {
    let left = not_after.saturating_sub(now);
    if left < 0 {
        let day = jiff::Timestamp::from_second(not_after).map(|time| time.strftime("%Y-%m-%d").to_string());
        let day = day.map(|day| format!(" on {day}")).unwrap_or_default();
        Some(format!("the certificate {what} expired{day}; replace it"))
    } else if left < WARN_SECONDS {
        Some(format!("the certificate {what} expires in {} days; replace it", left / (24 * 3600)))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The beginning of a certificate with this validity.
    fn certificate(version: bool, tag: u8, time: &str) -> Vec<u8> {
        let wrap = |tag: u8, content: &[u8]| {
            let mut bytes = vec![tag, 0x82];
            bytes.extend_from_slice(&u16::try_from(content.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(content);
            bytes
        };
        let begin = wrap(0x17, b"200101000000Z");
        let validity = wrap(0x30, &[begin, wrap(tag, time.as_bytes())].concat());
        let mut parts = if version { wrap(0xa0, &[2, 1, 2]) } else { Vec::new() };
        for _ in 0..3 {
            parts.extend(wrap(0x30, b"x"));
        }
        parts.extend(validity);
        wrap(0x30, &wrap(0x30, &parts))
    }

    #[test]
    fn the_end_is_read_in_both_forms() {
        for (version, tag, time, expected) in [
            (true, 0x17, "270115080000Z", Some(1_800_000_000)),
            (false, 0x18, "20270115080000Z", Some(1_800_000_000)),
            (true, 0x17, "700101000000Z", Some(0)),
            (true, 0x18, "20501332000000Z", None),
            (true, 0x17, "2701150800Z", None),
            (true, 0x05, "270115080000Z", None),
        ] {
            assert_eq!(not_after(&certificate(version, tag, time)), expected, "{time}");
        }
    }

    #[test]
    fn thirty_days_before_it_is_said() {
        let day = 24 * 3600;
        assert_eq!(complaint("c", 31 * day, 0), None);
        assert!(complaint("c", 29 * day, 0).unwrap().contains("in 29 days"));
        assert_eq!(complaint("c", 0, 1).unwrap(), "the certificate c expired on 1970-01-01; replace it");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..120) {
            let _ = not_after(&bytes);
            let good = certificate(true, 0x17, "270115080000Z");
            let _ = not_after(&good[..cut.min(good.len())]);
        }
    }
}
