//! The digests that a file can be searched by.

use sha2::digest::DynDigest;

/// A digest algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are those of the standards")]
pub enum Algorithm {
    Md5,
    Sha1,
    Sha256,
    Sha384,
    Sha512,
    Sha3_224,
    Sha3_256,
    Sha3_384,
    Sha3_512,
}

impl Algorithm {
    fn hasher(self) -> Box<dyn DynDigest> {
        match self {
            Self::Md5 => Box::new(md5::Md5::default()),
            Self::Sha1 => Box::new(sha1::Sha1::default()),
            Self::Sha256 => Box::new(sha2::Sha256::default()),
            Self::Sha384 => Box::new(sha2::Sha384::default()),
            Self::Sha512 => Box::new(sha2::Sha512::default()),
            Self::Sha3_224 => Box::new(sha3::Sha3_224::default()),
            Self::Sha3_256 => Box::new(sha3::Sha3_256::default()),
            Self::Sha3_384 => Box::new(sha3::Sha3_384::default()),
            Self::Sha3_512 => Box::new(sha3::Sha3_512::default()),
        }
    }
}

/// A set of algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Algorithms(u16);

impl Algorithms {
    /// Adds one.
    pub fn insert(&mut self, algorithm: Algorithm) {
        self.0 |= 1 << algorithm as u16;
    }

    /// Adds all of another set.
    pub fn extend(&mut self, others: Self) {
        self.0 |= others.0;
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn contains(self, algorithm: Algorithm) -> bool {
        self.0 & (1 << algorithm as u16) != 0
    }
}

const ALL: [Algorithm; 9] = [
    Algorithm::Md5,
    Algorithm::Sha1,
    Algorithm::Sha256,
    Algorithm::Sha384,
    Algorithm::Sha512,
    Algorithm::Sha3_224,
    Algorithm::Sha3_256,
    Algorithm::Sha3_384,
    Algorithm::Sha3_512,
];

/// Computes several digests of the same bytes.
#[derive(Default)]
pub(crate) struct Hashers(Vec<(Algorithm, Box<dyn DynDigest>)>);

impl Hashers {
    /// Begins to compute these digests.
    #[must_use]
    pub(crate) fn new(wanted: Algorithms) -> Self {
        let wanted = ALL.into_iter().filter(|algorithm| wanted.contains(*algorithm));
        Self(wanted.map(|algorithm| (algorithm, algorithm.hasher())).collect())
    }

    /// Takes the next bytes, and forgets the digests that are no longer wanted.
    pub(crate) fn update(&mut self, bytes: &[u8], wanted: Algorithms) {
        self.0.retain(|(algorithm, _)| wanted.contains(*algorithm));
        for (_, hasher) in &mut self.0 {
            hasher.update(bytes);
        }
    }

    /// Ends with the digests of everything that was taken.
    #[must_use]
    pub(crate) fn finish(self) -> Digests {
        Digests(self.0.into_iter().map(|(algorithm, hasher)| (algorithm, hasher.finalize())).collect())
    }
}

/// The digests of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Digests(Vec<(Algorithm, Box<[u8]>)>);

impl Digests {
    /// All that were computed.
    pub fn iter(&self) -> impl Iterator<Item = &(Algorithm, Box<[u8]>)> {
        self.0.iter()
    }

    /// Whether none was computed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One of them, when it was computed.
    #[must_use]
    pub fn get(&self, algorithm: Algorithm) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| *known == algorithm).map(|(_, digest)| &**digest)
    }
}

/// A digest as MIG writes it: in upper case.
#[must_use]
pub fn hexadecimal(digest: &[u8]) -> String {
    use std::fmt::Write;
    digest.iter().fold(String::with_capacity(digest.len() * 2), |mut text, byte| {
        // Writing to a string does not fail.
        write!(text, "{byte:02X}").ok();
        text
    })
}

/// Reads a digest in upper or lower case; `None` when it is not hexadecimal.
#[must_use]
pub(crate) fn from_hexadecimal(text: &str) -> Option<Box<[u8]>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn digests_are_those_of_the_standards() {
        // The digests of "abc" in FIPS 180-4, FIPS 202 and RFC 1321.
        for (algorithm, expected) in [
            (Algorithm::Md5, "900150983CD24FB0D6963F7D28E17F72"),
            (Algorithm::Sha1, "A9993E364706816ABA3E25717850C26C9CD0D89D"),
            (Algorithm::Sha256, "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"),
            (Algorithm::Sha3_224, "E642824C3F8CF24AD09234EE7D3C766FC9A3A5168D0C94AD73B46FDF"),
            (Algorithm::Sha3_256, "3A985DA74FE225B2045C172D6BD390BD855F086E3E9D525B46BFE24511431532"),
        ] {
            let mut wanted = Algorithms::default();
            wanted.insert(algorithm);
            let mut hashers = Hashers::new(wanted);

            hashers.update(b"a", wanted);
            hashers.update(b"bc", wanted);

            assert_eq!(hexadecimal(hashers.finish().get(algorithm).unwrap()), expected);
        }
    }

    #[test]
    fn every_algorithm_gives_as_many_bytes_as_its_name_says() {
        let mut wanted = Algorithms::default();
        ALL.into_iter().for_each(|algorithm| wanted.insert(algorithm));

        let digests = Hashers::new(wanted).finish();

        let lengths = ALL.map(|algorithm| digests.get(algorithm).unwrap().len());
        assert_eq!(lengths, [16, 20, 32, 48, 64, 28, 32, 48, 64]);
    }

    #[test]
    fn what_is_no_longer_wanted_is_not_computed() {
        let mut wanted = Algorithms::default();
        wanted.insert(Algorithm::Md5);
        let mut hashers = Hashers::new(wanted);

        hashers.update(b"a", Algorithms::default());

        assert_eq!(hashers.finish(), Digests::default());
    }

    proptest! {
        #[test]
        fn hexadecimal_is_read_back(digest in any::<Vec<u8>>(), text in any::<String>()) {
            let written = hexadecimal(&digest);
            let digest = Some(digest.into_boxed_slice());

            prop_assert_eq!(&from_hexadecimal(&written.to_lowercase()), &digest);
            prop_assert_eq!(&from_hexadecimal(&written), &digest);
            let _ = from_hexadecimal(&text);
        }
    }
}
