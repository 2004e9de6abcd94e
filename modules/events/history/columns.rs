//! Numbers of any length, columns of them, and dictionaries.

use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;

/// Adds a number, seven bits to a byte, the lowest first.
pub(crate) fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Adds a number with a sign: small ones of both signs are short.
pub(crate) fn put_signed(out: &mut Vec<u8>, number: i64) {
    put(out, ((number << 1) ^ (number >> 63)) as u64);
}

/// Adds bytes with their length.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads what `put` and its like wrote. What is damaged reads as `None`, never as something else's memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    pub(crate) fn small(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    pub(crate) fn signed(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }
}

/// Texts with numbers: each one is stored once.
#[derive(Debug, Default)]
pub(crate) struct Dictionary {
    data: Vec<u8>,
    /// Begin and end of each text.
    places: Vec<(u32, u32)>,
    numbers: HashTable<u32>,
    hasher: RandomState,
}

impl Dictionary {
    /// Bytes of all texts.
    pub(crate) fn bytes(&self) -> usize {
        self.data.len()
    }

    /// The number of a text.
    pub(crate) fn number(&mut self, text: &[u8]) -> u64 {
        let Self { data, places, numbers, hasher } = self;
        let hash = hasher.hash_one(text);
        let at = |number: u32| {
            let (from, to) = places[number as usize];
            &data[from as usize..to as usize]
        };
        if let Some(number) = numbers.find(hash, |number| at(*number) == text) {
            return u64::from(*number);
        }
        let number = places.len() as u32;
        numbers.insert_unique(hash, number, |number| hasher.hash_one(at(*number)));
        put(data, text.len() as u64);
        let from = data.len() as u32;
        data.extend_from_slice(text);
        places.push((from, data.len() as u32));
        u64::from(number)
    }

    /// All texts with their lengths, in the order of their numbers.
    pub(crate) fn data(&self) -> &[u8] {
        &self.data
    }
}

/// The texts of a dictionary that was read.
pub(crate) fn texts(data: &[u8]) -> Option<Vec<&[u8]>> {
    let mut reader = Reader(data);
    let mut texts = Vec::new();
    while !reader.0.is_empty() {
        texts.push(reader.bytes()?);
    }
    Some(texts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(numbers in proptest::collection::vec(any::<u64>(), 0..20), signed: i64) {
            let mut out = Vec::new();
            for number in &numbers {
                put(&mut out, *number);
            }
            put_signed(&mut out, signed);
            let mut reader = Reader(&out);
            for number in &numbers {
                prop_assert_eq!(reader.number(), Some(*number));
            }
            prop_assert_eq!(reader.signed(), Some(signed));
            prop_assert!(reader.0.is_empty());
        }

        #[test]
        fn a_dictionary_has_each_text_once(all in proptest::collection::vec("[ab]{0,3}", 0..60)) {
            let mut dictionary = Dictionary::default();
            let numbers: Vec<u64> = all.iter().map(|text| dictionary.number(text.as_bytes())).collect();
            let texts = texts(dictionary.data()).unwrap();
            for (text, number) in all.iter().zip(numbers) {
                prop_assert_eq!(texts[number as usize], text.as_bytes());
            }
            let mut unique = texts.clone();
            unique.sort_unstable();
            unique.dedup();
            prop_assert_eq!(unique.len(), texts.len());
        }
    }
}
