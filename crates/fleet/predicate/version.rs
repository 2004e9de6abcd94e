//! The order of numbers and versions.
//!
//! A version begins with a digit. It is read as a row of parts, each a run of digits or a run of ASCII letters;
//! every other character only separates. Rows are compared part by part from the left, and the shorter one goes
//! on with zeros. From the least to the greatest, a part is
//!
//! 1. `alpha`, `beta`, `dev`, `pre`, `rc`: what comes before a release, in this order;
//! 2. zero, and the end;
//! 3. any other run of letters, in the order of the alphabet;
//! 4. a number above zero, by its value however long.
//!
//! Upper and lower case are the same. So `9 < 12`, `1.2 < 1.10`, `6.1.0 < 6.1.0-13-amd64 < 6.1.1`,
//! `6.6-rc3 < 6.6`, and `1.2`, `1.2.0` and `01.2` are neither less nor greater than each other.

use std::cmp::Ordering;

/// What comes before a release, in order.
const BEFORE_RELEASE: [&[u8]; 5] = [b"alpha", b"beta", b"dev", b"pre", b"rc"];

/// Whether the text has a place in the order.
pub(super) fn is_version(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

/// Compares two versions.
pub(super) fn compare(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (Parts(left.as_bytes()), Parts(right.as_bytes()));
    loop {
        let (a, b) = match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (a, b) => (a.unwrap_or(Part::Zero), b.unwrap_or(Part::Zero)),
        };
        let order = a.compare(b);
        if order.is_ne() {
            return order;
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Part<'a> {
    /// Its place in [`BEFORE_RELEASE`].
    BeforeRelease(usize),
    Zero,
    Letters(&'a [u8]),
    /// Digits without leading zeros; at least one.
    Number(&'a [u8]),
}

impl Part<'_> {
    fn rank(self) -> u8 {
        match self {
            Self::BeforeRelease(_) => 0,
            Self::Zero => 1,
            Self::Letters(_) => 2,
            Self::Number(_) => 3,
        }
    }

    fn compare(self, other: Part<'_>) -> Ordering {
        match (self, other) {
            (Self::BeforeRelease(a), Part::BeforeRelease(b)) => a.cmp(&b),
            (Self::Letters(a), Part::Letters(b)) => {
                a.iter().map(u8::to_ascii_lowercase).cmp(b.iter().map(u8::to_ascii_lowercase))
            }
            (Self::Number(a), Part::Number(b)) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
            (a, b) => a.rank().cmp(&b.rank()),
        }
    }
}

/// The parts of what is left of a version.
struct Parts<'a>(&'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    fn next(&mut self) -> Option<Part<'a>> {
        let begin = self.0.iter().position(u8::is_ascii_alphanumeric)?;
        let rest = &self.0[begin..];
        let digits = rest[0].is_ascii_digit();
        let belongs = |byte: &u8| byte.is_ascii_alphanumeric() && byte.is_ascii_digit() == digits;
        let length = rest.iter().position(|byte| !belongs(byte)).unwrap_or(rest.len());
        let (part, rest) = rest.split_at(length);
        self.0 = rest;

        Some(if digits {
            match part.iter().position(|digit| *digit != b'0') {
                Some(first) => Part::Number(&part[first..]),
                None => Part::Zero,
            }
        } else {
            match BEFORE_RELEASE.iter().position(|word| part.eq_ignore_ascii_case(word)) {
                Some(place) => Part::BeforeRelease(place),
                None => Part::Letters(part),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_are_ordered_as_people_expect() {
        let rising = [
            "0.9",
            "1.0-alpha",
            "1.0-beta2",
            "1.0~rc1",
            "1.0-rc2",
            "1.0",
            "1.0+deb12u1",
            "1.0.1",
            "1.2",
            "1.10",
            "6.1.0-9-amd64",
            "6.1.0-13-amd64",
            "6.1.76",
            "6.6-rc3",
            "6.6",
            "9",
            "12",
            "100000000000000000000000000000000000000000",
            "200000000000000000000000000000000000000000",
        ];
        for (i, left) in rising.iter().enumerate() {
            for (j, right) in rising.iter().enumerate() {
                assert_eq!(compare(left, right), i.cmp(&j), "{left} and {right}");
            }
        }
    }

    #[test]
    fn zeros_at_the_end_and_in_front_do_not_count() {
        for (left, right) in [("1.2", "1.2.0"), ("1.2", "01.002"), ("1", "1."), ("1.2-RC1", "1_2rc1.0")] {
            assert_eq!(compare(left, right), Ordering::Equal, "{left} and {right}");
        }
    }

    #[test]
    fn a_distribution_in_a_kernels_release_does_not_make_it_older() {
        assert_eq!(compare("5.15.0-generic", "5.15"), Ordering::Greater);
        assert_eq!(compare("5.15.0-generic", "5.15.0-1-generic"), Ordering::Less);
    }

    proptest! {
        #[test]
        fn any_texts_have_an_order(texts in prop::collection::vec("[0-9a-c.rc-]{0,8}", 3)) {
            let [a, b, c] = [&texts[0], &texts[1], &texts[2]];

            prop_assert_eq!(compare(a, a), Ordering::Equal);
            prop_assert_eq!(compare(a, b), compare(b, a).reverse());
            if compare(a, b).is_le() && compare(b, c).is_le() {
                prop_assert!(compare(a, c).is_le());
            }
        }

        #[test]
        fn anything_can_be_compared(a in any::<String>(), b in any::<String>()) {
            let _ = compare(&a, &b);
        }

        #[test]
        fn plain_numbers_are_ordered_by_value(a in any::<u64>(), b in any::<u64>()) {
            prop_assert_eq!(compare(&a.to_string(), &b.to_string()), a.cmp(&b));
        }
    }
}
