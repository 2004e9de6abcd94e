//! Which lines of a file were changed, when only a digest or a template of the original is known.

use std::collections::{BTreeSet, HashSet};

use md5::{Digest, Md5};

use crate::record::Changed;

/// Most bytes that are hashed to find the lines of one file.
const BUDGET: usize = 16 << 20;

/// Finds the lines that were put into a file whose original content had this digest.
///
/// dpkg keeps no content of what it installed, but a digest is enough to prove where lines came in: take away a run of
/// lines, and the rest has the digest of the original. Lines at the end are tried first, then at the beginning, then
/// everywhere, as long as the file is small.
pub(crate) fn inserted(content: &[u8], original: &[u8; 16]) -> Changed {
    let starts = line_starts(content);
    let count = starts.len();
    // The digest of everything before each line.
    let mut prefixes = Vec::with_capacity(count + 1);
    let mut state = Md5::new();
    for at in 0..count {
        prefixes.push(state.clone());
        let end = starts.get(at + 1).copied().unwrap_or(content.len());
        state.update(&content[starts[at]..end]);
    }
    let is_original = |first: usize, after: usize| {
        let mut state = prefixes[first].clone();
        state.update(starts.get(after).map_or(&[][..], |start| &content[*start..]));
        let digest: [u8; 16] = state.finalize().into();
        digest == *original
    };
    let found = |first: usize, after: usize| {
        let number = |line: usize| u32::try_from(line).unwrap_or(u32::MAX);
        Changed::Between(number(first + 1), number(after))
    };
    if let Some(first) = (0..count).find(|first| is_original(*first, count)) {
        return found(first, count);
    }
    let mut spent = 0_usize;
    for length in 1..count {
        for first in 0..count - length {
            spent = spent.saturating_add(content.len() - starts[first + length]);
            if spent > BUDGET {
                return Changed::Anywhere;
            }
            if is_original(first, first + length) {
                return found(first, first + length);
            }
        }
    }
    Changed::Anywhere
}

/// The lines of a file that its template does not have; `None` when it is the template.
pub(crate) fn beside(content: &[u8], template: &[u8]) -> Option<Changed> {
    if content == template {
        return None;
    }
    let known: HashSet<&[u8]> = template.split(|byte| *byte == b'\n').collect();
    let lines = || content.split(|byte| *byte == b'\n').zip(1_u32..);
    let strange: BTreeSet<u32> =
        lines().filter(|(line, _)| !known.contains(line)).map(|(_, number)| number).collect();
    if !strange.is_empty() {
        return Some(Changed::Lines(strange));
    }
    // Lines are missing, or stand in another order.
    let first = lines().zip(template.split(|byte| *byte == b'\n')).find(|((line, _), other)| line != other);
    Some(Changed::Lines(BTreeSet::from([first.map_or(1, |((_, number), _)| number)])))
}

fn line_starts(content: &[u8]) -> Vec<usize> {
    let mut starts = vec![0];
    starts.extend(content.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1));
    starts.retain(|start| *start < content.len());
    starts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(text: &[u8]) -> [u8; 16] {
        Md5::digest(text).into()
    }

    #[test]
    fn what_was_replaced_cannot_be_told() {
        assert_eq!(inserted(b"a\nx\nc\n", &digest(b"a\nb\nc\n")), Changed::Anywhere);
        assert_eq!(inserted(b"", &digest(b"a\n")), Changed::Anywhere);
        assert_eq!(inserted(b"new\n", &digest(b"")), Changed::Between(1, 1));
    }

    #[test]
    fn a_template_tells_the_lines_beside_it() {
        assert_eq!(beside(b"a\nb\n", b"a\nb\n"), None);
        assert_eq!(beside(b"a\nx\nb\n", b"a\nb\n"), Some(Changed::Lines(BTreeSet::from([2]))));
        assert_eq!(beside(b"b\na\n", b"a\nb\n"), Some(Changed::Lines(BTreeSet::from([1]))));
    }

    proptest! {
        #[test]
        fn lines_put_in_anywhere_are_found(
            lines in prop::collection::vec("[a-c]{0,3}", 0..12),
            new in prop::collection::vec("[x-z]{1,4}", 1..4),
            at in 0_usize..13,
        ) {
            let original: Vec<String> = lines.iter().map(|line| format!("{line}\n")).collect();
            let at = at.min(original.len());
            let mut changed = original.clone();
            changed.splice(at..at, new.iter().map(|line| format!("{line}\n")));

            let found = inserted(changed.concat().as_bytes(), &digest(original.concat().as_bytes()));

            let (first, last) = (at as u32 + 1, (at + new.len()) as u32);
            prop_assert_eq!(found, Changed::Between(first, last));
        }
    }
}
