//! For tests: says why one does not run, so that `make test` can count it.

use std::fmt::Display;
use std::io::Write;

/// Writes `skipped: WHY` to standard error, beside what the test harness captures.
pub fn skipped(why: impl Display) {
    // Nobody reads it: then nobody counts either.
    writeln!(std::io::stderr(), "skipped: {why}").ok();
}

/// [`skipped`] for want of a program.
///
/// # Panics
/// In CI, where `make test` installs what tests need.
pub fn missing(program: &str) {
    assert!(std::env::var_os("CI").is_none(), "no {program}: tests may not be skipped in CI");
    skipped(format_args!("no {program}"));
}
