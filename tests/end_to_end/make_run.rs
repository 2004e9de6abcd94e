//! `make run` as the README shows it: its shell part, with the program that is built already.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::harness::{VIGIE, wait_until};

/// A running `make run`, with all that it started.
struct Run(Child);

impl Drop for Run {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        killpg(group, Signal::SIGTERM).ok();
        self.0.wait().ok();
    }
}

/// The command that `make run` printed with this word in it, without its explanation.
fn printed(output: &Path, word: &str) -> Option<String> {
    let output = fs::read_to_string(output).ok()?;
    // The last line says that all are there.
    output.contains("Ctrl-C stops").then_some(())?;
    let line = output.lines().find(|line| line.starts_with("  ") && line.contains(word))?;
    Some(line.split(" # ").next()?.trim().to_owned())
}

#[test]
fn make_run_works_in_a_deep_directory_with_blanks() {
    if !vigie_skipped::has("make") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let checkout =
        place.path().join("a directory/[with] blanks/and 'quotes'/deeper than the path of a socket");
    let quick = place.path().join("built before/quick");
    fs::create_dir_all(&checkout).unwrap();
    fs::create_dir_all(&quick).unwrap();
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("Makefile"), checkout.join("Makefile")).unwrap();
    symlink(VIGIE, quick.join("vigie")).unwrap();
    let output = place.path().join("output");
    let run = Run(Command::new("make")
        // Nothing is to be built.
        .args(["run", "CARGO=true"])
        .env("CARGO_TARGET_DIR", place.path().join("built before"))
        .current_dir(&checkout)
        .stdin(Stdio::null())
        .stdout(File::create(&output).unwrap())
        .stderr(File::create(place.path().join("log")).unwrap())
        .process_group(0)
        .spawn()
        .unwrap());
    let shell = |command: &str| {
        let ran = Command::new("sh").args(["-c", command]).current_dir(&checkout).output().unwrap();
        (ran.status.success(), String::from_utf8([ran.stdout, ran.stderr].concat()).unwrap())
    };
    let command = |word: &str| wait_until("make run says how to go on", || printed(&output, word));

    let status = command(" status");
    wait_until("all is well", || shell(&status).0.then_some(()));
    let query = format!("{} --json", command(" query fswatch"));
    wait_until("the module answers that all is well", || {
        let (answered, text) = shell(&query);
        let is_ready = text.contains(r#""ok":true"#) && text.contains(r#""baseline_complete":true"#);
        (answered && is_ready).then_some(())
    });
    assert!(shell(&command("echo changed")).0);

    let alerts = command(" alerts -f").replace(" -f", "");
    wait_until("the change is an alert", || shell(&alerts).1.contains("signature changed").then_some(()));
    // As README.md has them, wherever the checkout is.
    let (all_well, text) = shell(".run/vigie --run-dir .run/run status");
    assert!(all_well, "{text}");
    drop(run);
    // Too deep for a socket, it stands elsewhere.
    let run_dir = fs::read_link(checkout.join(".run/run")).unwrap();
    assert!(run_dir.starts_with("/tmp"), "{run_dir:?}");
    fs::remove_dir_all(run_dir).ok();
}
