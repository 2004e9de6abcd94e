//! Suggestions for misspelled names.

/// Longest name that is compared, in bytes; names are at most 64 bytes long.
const MAX_BYTES: usize = 64;

/// Returns the known name that is most similar to `name`, if any is similar enough to be meant.
pub fn closest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let similar = known.into_iter().map(|known| (distance(name.as_bytes(), known.as_bytes()), known));
    let (distance, closest) = similar.min_by_key(|(distance, _)| *distance)?;
    // One mistake in three letters; more is another name.
    (distance <= name.len().div_ceil(3) && distance < closest.len()).then_some(closest)
}

/// Appends the suggestion to a hint: ``did you mean "fswatch"? see `vigie module list` ``.
pub fn hint<'a>(name: &str, known: impl IntoIterator<Item = &'a str>, hint: &str) -> String {
    match closest(name, known) {
        Some(closest) => format!("did you mean {closest:?}? {hint}"),
        None => hint.to_owned(),
    }
}

/// Counts the insertions, deletions, substitutions and swaps of neighbours that turn one name into the other.
fn distance(from: &[u8], to: &[u8]) -> usize {
    if from.len() > MAX_BYTES || to.len() > MAX_BYTES {
        return usize::MAX;
    }
    let mut rows = vec![(0..=to.len()).collect::<Vec<_>>()];
    for (i, &left) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &right) in to.iter().enumerate() {
            let substituted = rows[i][j] + usize::from(left != right);
            let mut least = substituted.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && left == to[j - 1] && from[i - 1] == right {
                least = least.min(rows[i - 1][j - 1] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KNOWN: [&str; 4] = ["fswatch", "netstat", "file", "processes"];

    #[test]
    fn a_misspelled_name_finds_the_one_that_was_meant() {
        for (name, meant) in
            [("fswach", "fswatch"), ("netsat", "netstat"), ("flie", "file"), ("process", "processes")]
        {
            assert_eq!(closest(name, KNOWN), Some(meant), "{name}");
        }
        for name in ["", "x", "timedrift", &"fswatch".repeat(20)] {
            assert_eq!(closest(name, KNOWN), None, "{name}");
        }
    }

    #[test]
    fn a_hint_says_the_suggestion_first() {
        assert_eq!(hint("fswach", KNOWN, "see the list"), "did you mean \"fswatch\"? see the list");
        assert_eq!(hint("scanner", KNOWN, "see the list"), "see the list");
    }

    proptest! {
        #[test]
        fn the_distance_is_symmetric_and_zero_for_the_same_name_only(a in "[ab]{0,6}", b in "[ab]{0,6}") {
            let there = distance(a.as_bytes(), b.as_bytes());
            prop_assert_eq!(there, distance(b.as_bytes(), a.as_bytes()));
            prop_assert_eq!(there == 0, a == b);
        }
    }
}
