//! When a certificate ends: the one field that is read of it (RFC 5280, 4.1).

use data_encoding::BASE64;

/// Tags of DER that are met on the way.
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The ends of all certificates in a PEM file, in its order; nothing for one that cannot be read.
pub(super) fn ends(pem: &str) -> Vec<Option<jiff::Timestamp>> {
    let mut ends = Vec::new();
    let mut rest = pem;
    while let Some((_, after)) = rest.split_once("-----BEGIN CERTIFICATE-----") {
        let Some((body, after)) = after.split_once("-----END CERTIFICATE-----") else { break };
        let text: String = body.split_whitespace().collect();
        ends.push(BASE64.decode(text.as_bytes()).ok().and_then(|der| not_after(&der)));
        rest = after;
    }
    ends
}

/// One element: tag, content, and what follows it. Lengths of up to four bytes.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let count = usize::from(first & 0x7f);
        if !(1..=4).contains(&count) || rest.len() < count {
            return None;
        }
        let (bytes, after) = rest.split_at(count);
        length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        rest = after;
    }
    (rest.len() >= length).then(|| (tag, &rest[..length], &rest[length..]))
}

fn inside(der: &[u8], tag: u8) -> Option<&[u8]> {
    element(der).filter(|(found, ..)| *found == tag).map(|(_, content, _)| content)
}

fn not_after(der: &[u8]) -> Option<jiff::Timestamp> {
    let mut rest = inside(inside(der, SEQUENCE)?, SEQUENCE)?;
    if element(rest)?.0 == VERSION {
        rest = element(rest)?.2;
    }
    // Serial number, signature, issuer.
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let validity = inside(rest, SEQUENCE)?;
    let (tag, time, _) = element(element(validity)?.2)?;
    let text = std::str::from_utf8(time).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        // Two digits of the year, 1950 to 2049.
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: i16 = year.parse().ok()?;
            (year + if year < 50 { 2000 } else { 1900 }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let number = |at: usize| rest.get(at..at + 2)?.parse::<i8>().ok();
    let time =
        jiff::civil::DateTime::new(year, number(0)?, number(2)?, number(4)?, number(6)?, number(8)?, 0)
            .ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A DER element.
    fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        match content.len() {
            length @ 0..128 => bytes.push(u8::try_from(length).unwrap()),
            length => {
                bytes.extend([0x82, u8::try_from(length >> 8).unwrap(), u8::try_from(length & 0xff).unwrap()])
            }
        }
        bytes.extend_from_slice(content);
        bytes
    }

    /// A certificate as far as it is read, in PEM.
    pub(crate) fn pem(tag: u8, not_after: &str) -> String {
        let validity = [tlv(UTC_TIME, b"250101000000Z"), tlv(tag, not_after.as_bytes())].concat();
        let parts = [
            tlv(VERSION, &tlv(2, &[2])),
            tlv(2, &[1, 2, 3]),
            tlv(SEQUENCE, &[]),
            tlv(SEQUENCE, &[0; 200]),
            tlv(SEQUENCE, &validity),
        ];
        let certificate = tlv(SEQUENCE, &tlv(SEQUENCE, &parts.concat()));
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", BASE64.encode(&certificate))
    }

    #[test]
    fn both_forms_of_time_are_read() {
        let text = pem(UTC_TIME, "270203040506Z") + &pem(GENERALIZED_TIME, "20510203040506Z") + &pem(4, "x");

        let ends: Vec<Option<String>> =
            ends(&text).into_iter().map(|end| end.map(|end| end.to_string())).collect();

        assert_eq!(ends[0].as_deref(), Some("2027-02-03T04:05:06Z"));
        assert_eq!(ends[1].as_deref(), Some("2051-02-03T04:05:06Z"));
        assert_eq!(ends[2], None);
    }

    #[test]
    fn a_certificate_that_openssl_made_is_read() {
        let made = std::process::Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ed25519",
                "-nodes",
                "-keyout",
                "/dev/null",
                "-days",
                "40",
                "-subj",
                "/CN=x",
            ])
            .output();
        let Ok(made) = made else {
            vigie_skipped::missing("openssl");
            return;
        };

        let found = ends(&String::from_utf8(made.stdout).unwrap());

        let days = found[0].unwrap().duration_since(jiff::Timestamp::now()).as_hours();
        assert!((39 * 24..=40 * 24).contains(&days), "{days}");
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_end_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = not_after(&bytes);
        }
    }
}
