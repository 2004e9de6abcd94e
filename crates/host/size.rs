//! Sizes as configurations have them.

/// Reads a size such as `64 MiB`. `None` also without a unit, and for units that mean different numbers to different
/// people, such as `MB`.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start() {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Shows a number of bytes in the largest unit that divides it.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.trailing_zeros() >= shift {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_unit_that_means_one_number() {
        assert_eq!(parse_size("64 MiB"), Some(64 << 20));
        assert_eq!(parse_size("5B"), Some(5));
        for text in ["", "5", "5 MB", "MiB", "-1 B", "1.5 GiB", "99999999 TiB"] {
            assert_eq!(parse_size(text), None, "{text:?}");
        }
        for bytes in [0, 1000, 1 << 20, 3 << 40] {
            assert_eq!(parse_size(&show_size(bytes)), Some(bytes));
        }
    }
}
