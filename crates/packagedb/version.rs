//! The order of versions, as each package manager has it.
//!
//! - dpkg: `parseversion` and `dpkg_version_compare` of libdpkg.
//! - rpm: `rpmvercmp`, and `rpm.ver` for epoch, version and release together.
//! - apk: `apk_version_compare` of apk-tools 2.

use std::cmp::Ordering;

use crate::owners::Manager;

/// Why a text is no version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// There is nothing.
    #[error("the version is empty")]
    Empty,
    /// Something follows a blank.
    #[error("a version must not contain spaces")]
    Blank,
    /// What stands before the first colon.
    #[error("the epoch, before the colon, must be a number from 0 to 2147483647")]
    Epoch,
    /// A hyphen ends the version.
    #[error("the revision, after the last hyphen, is empty")]
    Revision,
    /// libdpkg wants a digit first.
    #[error("a dpkg version must start with a digit")]
    FirstDigit,
    /// Other characters than dpkg allows.
    #[error("a dpkg version may contain only letters, digits and . + - ~ :")]
    Character,
}

/// Compares two versions of packages in their manager's order. What is not a version is compared all the same, as far
/// as it goes: an installed package has the version that it has.
#[must_use]
pub fn compare(manager: Manager, a: &str, b: &str) -> Ordering {
    match manager {
        Manager::Dpkg => DpkgVersion::lax(a).cmp(&DpkgVersion::lax(b)),
        Manager::Rpm => compare_evr(a, b),
        Manager::Apk => compare_apk(a, b),
    }
}

/// Whether a text can be compared with a version of this manager, for questions.
///
/// # Errors
/// What is wrong with it.
pub fn check(manager: Manager, text: &str) -> Result<(), VersionError> {
    match manager {
        Manager::Dpkg => DpkgVersion::parse(text).map(drop),
        Manager::Rpm | Manager::Apk if text.is_empty() => Err(VersionError::Empty),
        Manager::Rpm | Manager::Apk if text.contains(char::is_whitespace) => Err(VersionError::Blank),
        Manager::Rpm | Manager::Apk => Ok(()),
    }
}

/// A version of dpkg in its parts.
#[derive(Debug, Clone, Copy)]
pub struct DpkgVersion<'a> {
    epoch: u32,
    version: &'a [u8],
    revision: &'a [u8],
}

impl<'a> DpkgVersion<'a> {
    /// Reads a version as libdpkg does; what it only warns about is an error too.
    ///
    /// # Errors
    /// What libdpkg finds wrong.
    pub fn parse(text: &'a str) -> Result<Self, VersionError> {
        let parts = Self::split(text)?;
        if !parts.version[0].is_ascii_digit() {
            return Err(VersionError::FirstDigit);
        }
        let known =
            |more: &'static [u8]| move |byte: &u8| byte.is_ascii_alphanumeric() || more.contains(byte);
        if !parts.version.iter().all(known(b".-+~:")) || !parts.revision.iter().all(known(b".+~")) {
            return Err(VersionError::Character);
        }
        Ok(parts)
    }

    /// Reads what `dpkg --compare-versions` reads: with a warning, but all the same.
    ///
    /// # Errors
    /// What that command refuses.
    pub fn split(text: &'a str) -> Result<Self, VersionError> {
        // isspace(3) of the C locale; is_ascii_whitespace lacks the vertical tab.
        let space = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
        let bytes = text.as_bytes();
        let start = bytes.iter().position(|byte| !space(byte)).ok_or(VersionError::Empty)?;
        let bytes = &bytes[start..];
        let end = bytes.iter().position(space).unwrap_or(bytes.len());
        if !bytes[end..].iter().all(space) {
            return Err(VersionError::Blank);
        }
        let bytes = &bytes[..end];
        let (epoch, rest) = match bytes.iter().position(|byte| *byte == b':') {
            Some(colon) => (epoch(&bytes[..colon])?, &bytes[colon + 1..]),
            None => (0, bytes),
        };
        let (version, revision) = match rest.iter().rposition(|byte| *byte == b'-') {
            Some(hyphen) if hyphen + 1 == rest.len() => return Err(VersionError::Revision),
            Some(hyphen) => (&rest[..hyphen], &rest[hyphen + 1..]),
            None => (rest, &[][..]),
        };
        if version.is_empty() {
            return Err(VersionError::Empty);
        }
        Ok(Self { epoch, version, revision })
    }

    /// Any text.
    fn lax(text: &'a str) -> Self {
        Self::split(text).unwrap_or(Self { epoch: 0, version: text.as_bytes(), revision: &[] })
    }
}

impl PartialEq for DpkgVersion<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for DpkgVersion<'_> {}

impl PartialOrd for DpkgVersion<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for DpkgVersion<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.epoch
            .cmp(&other.epoch)
            .then_with(|| compare_dpkg_part(self.version, other.version))
            .then_with(|| compare_dpkg_part(self.revision, other.revision))
    }
}

/// What strtol(3) takes, within dpkg's limits.
fn epoch(text: &[u8]) -> Result<u32, VersionError> {
    let digits = text.strip_prefix(b"+").unwrap_or(text);
    // -0 is a number for strtol, and not negative.
    let digits = match text.strip_prefix(b"-") {
        Some(zeros) if !zeros.is_empty() && zeros.iter().all(|digit| *digit == b'0') => zeros,
        Some(_) => return Err(VersionError::Epoch),
        None => digits,
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(VersionError::Epoch);
    }
    let number = digits.iter().try_fold(0_u64, |number, digit| {
        let number = number * 10 + u64::from(digit - b'0');
        (number <= i32::MAX.cast_unsigned().into()).then_some(number)
    });
    number.and_then(|number| u32::try_from(number).ok()).ok_or(VersionError::Epoch)
}

/// The place of a character among those that are no digits; 0 is the end and a digit.
fn dpkg_order(byte: Option<&u8>) -> i32 {
    match byte {
        None => 0,
        Some(digit) if digit.is_ascii_digit() => 0,
        Some(letter) if letter.is_ascii_alphabetic() => i32::from(*letter),
        Some(b'~') => -1,
        // A character is signed where dpkg runs mostly.
        Some(other) => i32::from(other.cast_signed()) + 256,
    }
}

/// `verrevcmp` of libdpkg.
fn compare_dpkg_part(mut a: &[u8], mut b: &[u8]) -> Ordering {
    let starts_with_other = |text: &[u8]| text.first().is_some_and(|byte| !byte.is_ascii_digit());
    while !a.is_empty() || !b.is_empty() {
        while starts_with_other(a) || starts_with_other(b) {
            let order = dpkg_order(a.first()).cmp(&dpkg_order(b.first()));
            if order != Ordering::Equal {
                return order;
            }
            // Equal ones are both there: nothing else has the order of the end.
            a = a.get(1..).unwrap_or_default();
            b = b.get(1..).unwrap_or_default();
        }
        let order =
            compare_numbers(take_while(&mut a, u8::is_ascii_digit), take_while(&mut b, u8::is_ascii_digit));
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

/// Takes the bytes off the beginning that are as wanted.
fn take_while<'a>(text: &mut &'a [u8], wanted: impl Fn(&u8) -> bool) -> &'a [u8] {
    let end = text.iter().position(|byte| !wanted(byte)).unwrap_or(text.len());
    let (taken, rest) = text.split_at(end);
    *text = rest;
    taken
}

/// Compares numbers of any length.
fn compare_numbers(a: &[u8], b: &[u8]) -> Ordering {
    let zero = |digit: &u8| *digit == b'0';
    let (mut a, mut b) = (a, b);
    take_while(&mut a, zero);
    take_while(&mut b, zero);
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// `rpmvercmp` of rpm: the order of a version, or of a release.
#[must_use]
pub fn rpmvercmp(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    if a == b {
        return Ordering::Equal;
    }
    let separator = |byte: &u8| !byte.is_ascii_alphanumeric() && *byte != b'~' && *byte != b'^';
    while !a.is_empty() || !b.is_empty() {
        take_while(&mut a, separator);
        take_while(&mut b, separator);
        match (a.first(), b.first()) {
            (Some(b'~'), Some(b'~')) | (Some(b'^'), Some(b'^')) => {
                a = &a[1..];
                b = &b[1..];
                continue;
            }
            (Some(b'~'), _) => return Ordering::Less,
            (_, Some(b'~')) => return Ordering::Greater,
            // A caret is more than the end, and less than anything else.
            (Some(b'^'), None) => return Ordering::Greater,
            (None, Some(b'^')) => return Ordering::Less,
            (Some(b'^'), _) => return Ordering::Less,
            (_, Some(b'^')) => return Ordering::Greater,
            (Some(_), Some(_)) => {}
            (first, second) => return first.is_some().cmp(&second.is_some()),
        }
        let numeric = a[0].is_ascii_digit();
        let order = if numeric {
            let (left, right) =
                (take_while(&mut a, u8::is_ascii_digit), take_while(&mut b, u8::is_ascii_digit));
            if right.is_empty() {
                return Ordering::Greater;
            }
            compare_numbers(left, right)
        } else {
            let letters = u8::is_ascii_alphabetic;
            let (left, right) = (take_while(&mut a, letters), take_while(&mut b, letters));
            if right.is_empty() {
                return Ordering::Less;
            }
            left.cmp(right)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

/// Epoch, version and release of a version of rpm; what is not there is `None`.
#[must_use]
pub(crate) fn split_evr(text: &str) -> (Option<&str>, &str, Option<&str>) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (epoch, rest) = match text[digits..].strip_prefix(':') {
        Some(rest) => (Some(if digits == 0 { "0" } else { &text[..digits] }), rest),
        None => (None, text),
    };
    match rest.rsplit_once('-') {
        Some((version, release)) => (epoch, version, Some(release)),
        None => (epoch, rest, None),
    }
}

/// The order of `rpm.ver`: no epoch is epoch 0, and no release is less than any.
fn compare_evr(a: &str, b: &str) -> Ordering {
    let ((epoch_a, version_a, release_a), (epoch_b, version_b, release_b)) = (split_evr(a), split_evr(b));
    rpmvercmp(epoch_a.unwrap_or("0"), epoch_b.unwrap_or("0"))
        .then_with(|| rpmvercmp(version_a, version_b))
        .then_with(|| match (release_a, release_b) {
            (Some(a), Some(b)) => rpmvercmp(a, b),
            (a, b) => a.is_some().cmp(&b.is_some()),
        })
}

/// What stands at a place of a version of apk, in the order of the ends of versions: one that ends where the other
/// has a further letter is the smaller one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum ApkToken {
    Invalid,
    DigitOrZero,
    Digit,
    Letter,
    Suffix,
    SuffixNumber,
    Revision,
    End,
}

const APK_BEFORE: [&str; 4] = ["alpha", "beta", "pre", "rc"];
const APK_AFTER: [&str; 5] = ["cvs", "svn", "git", "hg", "p"];

/// A version of apk while it is read.
struct ApkReader<'a> {
    rest: &'a [u8],
    next: ApkToken,
}

impl<'a> ApkReader<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text.as_bytes(), next: ApkToken::Digit }
    }

    /// The value of the next part.
    fn value(&mut self) -> i64 {
        let mut after_zeros = false;
        let value = match self.next {
            // A component that begins with 0 is a fraction: each further zero makes it smaller. The last zero stays.
            ApkToken::DigitOrZero if self.rest.first() == Some(&b'0') => {
                after_zeros = true;
                let zeros = self.rest.iter().take_while(|digit| **digit == b'0').count() - 1;
                self.rest = &self.rest[zeros..];
                -i64::try_from(zeros).unwrap_or(i64::MAX)
            }
            ApkToken::DigitOrZero | ApkToken::Digit | ApkToken::SuffixNumber | ApkToken::Revision => {
                let digits = take_while(&mut self.rest, u8::is_ascii_digit);
                digits.iter().fold(0_i64, |number, digit| {
                    number.saturating_mul(10).saturating_add(i64::from(digit - b'0'))
                })
            }
            ApkToken::Letter => {
                let letter = self.rest.first().copied().unwrap_or_default();
                self.rest = self.rest.get(1..).unwrap_or_default();
                i64::from(letter)
            }
            ApkToken::Suffix => match self.suffix() {
                Some(value) => value,
                None => {
                    self.next = ApkToken::Invalid;
                    return -1;
                }
            },
            ApkToken::Invalid | ApkToken::End => {
                self.next = ApkToken::Invalid;
                return -1;
            }
        };
        if self.rest.is_empty() {
            self.next = ApkToken::End;
        } else if after_zeros {
            self.next = ApkToken::Digit;
        } else {
            self.step();
        }
        value
    }

    fn suffix(&mut self) -> Option<i64> {
        let before = APK_BEFORE.iter().zip(-4..);
        let (name, value) = before
            .chain(APK_AFTER.iter().zip(0..))
            .find(|(name, _)| self.rest.starts_with(name.as_bytes()))?;
        self.rest = &self.rest[name.len()..];
        Some(value)
    }

    /// Finds out what comes next.
    fn step(&mut self) {
        use ApkToken::{Digit, DigitOrZero, End, Invalid, Letter, Revision, Suffix, SuffixNumber};
        let Some(first) = self.rest.first().copied() else {
            self.next = End;
            return;
        };
        let next = match (self.next, first) {
            (Digit | DigitOrZero, b'a'..=b'z') => Letter,
            (Letter, b'0'..=b'9') => Digit,
            (Suffix, b'0'..=b'9') => SuffixNumber,
            _ => {
                let next = match first {
                    b'.' => DigitOrZero,
                    b'_' => Suffix,
                    b'-' if self.rest.get(1) == Some(&b'r') => {
                        self.rest = &self.rest[1..];
                        Revision
                    }
                    _ => Invalid,
                };
                self.rest = &self.rest[1..];
                next
            }
        };
        let back =
            matches!((next, self.next), (DigitOrZero, Digit) | (Suffix, SuffixNumber) | (Digit, Letter));
        self.next = if next < self.next && !back { Invalid } else { next };
    }
}

/// The order of apk.
fn compare_apk(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (ApkReader::new(a), ApkReader::new(b));
    let (mut left_value, mut right_value) = (0, 0);
    while left.next == right.next
        && !matches!(left.next, ApkToken::End | ApkToken::Invalid)
        && left_value == right_value
    {
        left_value = left.value();
        right_value = right.value();
    }
    if left_value != right_value {
        return left_value.cmp(&right_value);
    }
    if left.next == right.next {
        return Ordering::Equal;
    }
    // One ends where the other goes on: it is the smaller one, but for what comes before a release.
    let (left_next, right_next) = (left.next, right.next);
    if left_next == ApkToken::Suffix && left.value() < 0 {
        return Ordering::Less;
    }
    if right_next == ApkToken::Suffix && right.value() < 0 {
        return Ordering::Greater;
    }
    right_next.cmp(&left_next)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MANAGERS: [Manager; 3] = [Manager::Dpkg, Manager::Rpm, Manager::Apk];

    fn symbol(order: Ordering) -> &'static str {
        match order {
            Ordering::Less => "<",
            Ordering::Equal => "=",
            Ordering::Greater => ">",
        }
    }

    /// Lines of three: versions in ascending order.
    fn ascend(manager: Manager, versions: &[&str]) {
        for (place, a) in versions.iter().enumerate() {
            for (other, b) in versions.iter().enumerate() {
                assert_eq!(compare(manager, a, b), place.cmp(&other), "{manager:?}: {a} and {b}");
            }
        }
    }

    #[test]
    fn versions_of_dpkg_ascend() {
        ascend(
            Manager::Dpkg,
            &["0~", "1.0~~", "1.0~", "1.0-1~bpo", "1.0-1", "1.0-1+b1", "1.0+dfsg", "1.0.1", "1.10", "1:0"],
        );
        for (a, b) in [("1.0", "1.0-0"), ("0", "00"), ("1:1", "01:1"), (" 1 ", "1")] {
            assert_eq!(compare(Manager::Dpkg, a, b), Ordering::Equal);
        }
    }

    #[test]
    fn versions_of_rpm_ascend() {
        ascend(Manager::Rpm, &["1.0~rc1", "1.0", "1.0-1", "1.0^a-1", "1.0a-1", "1.0.1", "2", "1:0"]);
        for (a, b) in [("1.0", "1_0"), ("1.0", "1.0."), ("1.0", "0:1.0"), ("1.0", ":1.0"), ("1.05", "1.5")] {
            assert_eq!(compare(Manager::Rpm, a, b), Ordering::Equal, "{a} {b}");
        }
    }

    #[test]
    fn versions_of_apk_ascend() {
        ascend(
            Manager::Apk,
            &[
                "1.001",
                "1.0_alpha",
                "1.0_alpha2",
                "1.0_beta",
                "1.0_rc1",
                "1.0",
                "1.0-r1",
                "1.0-r10",
                "1.0_p1",
                "1.0a",
                "1.0.01",
                "1.0.1",
                "1.0.2",
                "1.0.10",
                "1.1",
            ],
        );
    }

    #[test]
    fn what_libdpkg_refuses_is_refused() {
        for (text, error) in [
            ("", VersionError::Empty),
            ("  ", VersionError::Empty),
            ("1 2", VersionError::Blank),
            ("a:1", VersionError::Epoch),
            (":1", VersionError::Epoch),
            ("-1:1", VersionError::Epoch),
            ("2147483648:1", VersionError::Epoch),
            ("1:", VersionError::Empty),
            ("1.0-", VersionError::Revision),
            ("-1", VersionError::Empty),
            ("v1", VersionError::FirstDigit),
            ("1_0", VersionError::Character),
            ("1.0-1:2", VersionError::Epoch),
        ] {
            assert_eq!(DpkgVersion::parse(text).err(), Some(error), "{text:?}");
        }
        assert!(DpkgVersion::parse("2147483647:1.0-1~2").is_ok());
        assert!(DpkgVersion::parse("1:1:1-1").is_ok());
    }

    proptest! {
        #[test]
        fn any_versions_have_an_order_that_is_one(
            a in "[0-9a-z.~^+:_é-]{0,9}", b in "[0-9a-z.~^+:_-]{0,9}", c in "[0-9.~+-]{0,6}",
        ) {
            for manager in MANAGERS {
                check(manager, &a).ok();
                prop_assert_eq!(compare(manager, &a, &a), Ordering::Equal);
                prop_assert_eq!(compare(manager, &a, &b), compare(manager, &b, &a).reverse(), "{:?}", manager);
            }
            if compare(Manager::Dpkg, &a, &b).is_le() && compare(Manager::Dpkg, &b, &c).is_le() {
                prop_assert!(compare(Manager::Dpkg, &a, &c).is_le(), "{} {}", symbol(compare(Manager::Dpkg, &a, &c)), a);
            }
        }
    }
}
