//! For tests of every crate: says why one does not run, so that `make test` can count it, and copies programs to start.
//!
//! [`skipped`] is for what a machine forces: no privileges, another kind of kernel or distribution, no such file
//! system. [`missing`], [`has`] and [`without_bpf`] are for what a machine of the CI must have: there they fail.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

/// Where programs are that the `PATH` of plain users may lack.
const SYSTEM_DIRECTORIES: &str = "/usr/sbin:/sbin:/usr/local/sbin";

/// Writes `skipped: WHY` to standard error, past the test harness, which keeps what a passing test prints.
pub fn skipped(why: impl Display) {
    // Nobody reads it: then nobody counts either.
    writeln!(std::io::stderr(), "skipped: {why}").ok();
}

/// [`skipped`] for want of a program that `make test` installs.
///
/// # Panics
/// In CI.
pub fn missing(program: &str) {
    assert!(!in_ci(), "no {program}: tests may not be skipped in CI");
    skipped(format_args!("no {program}"));
}

/// Whether a program that `make test` installs is there; otherwise [`missing`].
///
/// # Panics
/// In CI, when it is not there.
#[must_use]
pub fn has(program: &str) -> bool {
    let found = is_installed(program);
    if !found {
        missing(program);
    }
    found
}

/// Whether a program is there that only some hosts have; otherwise [`skipped`].
#[must_use]
pub fn happens_to_have(program: &str) -> bool {
    let found = is_installed(program);
    if !found {
        skipped(format_args!("this host has no {program}"));
    }
    found
}

/// Copies a program that the test then starts. The copy is made by another process: written by this one, it could not
/// be started while a child of another test, between its fork and its exec, has it open (ETXTBSY).
///
/// # Panics
/// When it cannot be copied.
pub fn copy_program(from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) {
    let copied = Command::new("cp").arg(from).arg(to).status();
    assert!(copied.is_ok_and(|status| status.success()), "the program is copied");
}

/// Whether root runs the test; otherwise [`skipped`].
#[must_use]
pub fn is_root() -> bool {
    let root = runs_as_root();
    if !root {
        skipped("only root can do this");
    }
    root
}

/// Whether a plain user runs the test; otherwise [`skipped`], because root may do what the test wants refused.
#[must_use]
pub fn is_plain_user() -> bool {
    let root = runs_as_root();
    if root {
        skipped("root may do everything");
    }
    !root
}

/// [`skipped`] for want of BPF, or of what else of the kernel the machines of the CI have.
///
/// # Panics
/// In CI, unless `VIGIE_NO_BPF` is set on a machine that has none.
pub fn without_bpf(why: impl Display) {
    let forced = !in_ci() || std::env::var_os("VIGIE_NO_BPF").is_some();
    assert!(forced, "cannot be tested on this machine of the CI: {why}");
    skipped(why);
}

fn in_ci() -> bool {
    std::env::var_os("CI").is_some()
}

fn runs_as_root() -> bool {
    // The owner of a process's directory is its effective user.
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// `program` is a name, looked for in `PATH` and the directories of the system, or an absolute path.
fn is_installed(program: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(SYSTEM_DIRECTORIES.split(':'))
        .any(|directory| Path::new(directory).join(program).is_file())
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::is_installed;

    /// All sources of Rust in a directory and below, but for what was built.
    fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let (path, name) = (entry.path(), entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                if name != "target" && !name.to_string_lossy().starts_with('.') {
                    sources(&path, found);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }

    #[test]
    fn no_test_says_by_itself_that_it_is_skipped() {
        let mut found = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."), &mut found);
        found.retain(|path| !path.ends_with("crates/skipped/lib.rs"));
        assert!(found.len() > 500, "{}", found.len());

        for path in found {
            let text = std::fs::read_to_string(&path).unwrap();
            let line =
                text.lines().position(|line| line.contains("\"skipped: ") || line.contains("\"skipped the"));

            assert_eq!(
                line,
                None,
                "{}: the functions of vigie_skipped say it, and are counted",
                path.display()
            );
        }
    }

    #[test]
    fn a_program_is_found_by_its_name_and_by_its_path() {
        assert!(is_installed("sh") && is_installed("/bin/sh"));
        assert!(!is_installed("no such program") && !is_installed("/bin"));
    }
}
