//! `make bench-file`: searches of the module `file` beside find, grep, ripgrep and sha256sum on the same tree.
//!
//! Every figure is the time of a whole process, from its start to the end of its output, and the median of several
//! runs with a warm page cache, ours and the peer's in turns. Both must find the same number of files, or the
//! figure is not given.

mod tree;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use serde_json::{Value, json};
use vigie_benchmark::{BenchResult, Goal, Measure, Report, Wanted, exit, median};

/// Files of the tree, and runs of which the median is taken.
const FULL: (u32, usize) = (50_000, 7);
const QUICK: (u32, usize) = (20_000, 3);

const USAGE: &str = "\
usage: make bench-file, or cargo bench --bench file -- [--quick] [--json]
  --quick   a small tree and few runs: the same figures with more noise
  --json    print the JSON instead of the table (it is always in target/bench/file.json)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted = match Wanted::read(&arguments, &[], USAGE) {
        Ok(wanted) => wanted,
        Err(code) => return code,
    };
    let mut report = Report::new(wanted.quick, !wanted.json);
    let measured = measure(if wanted.quick { QUICK } else { FULL }, &mut report);
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench").join("file.json");
    exit(measured.and_then(|()| report.finish(wanted.json, &path)))
}

/// One search and those who can answer it.
struct Contest {
    what: &'static str,
    search: Value,
    peers: Vec<Peer>,
}

struct Peer {
    name: &'static str,
    command: Command,
    goal: f64,
}

impl Peer {
    /// A shell command with the tree as `$1`, one line of whose output is one file.
    fn shell(name: &'static str, script: &str, root: &Path, goal: f64) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).arg(root);
        Self { name, command, goal }
    }
}

fn measure((files, runs): (u32, usize), report: &mut Report) -> BenchResult<()> {
    report.progress(&format!("making {files} files"));
    let directory = tempfile::Builder::new().prefix("bench-file-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let made = tree::make(directory.path(), files)?;
    report.add(Measure::new("tree", "files", f64::from(files), ""));
    report.add(Measure::new("tree", "size", made.bytes as f64 / f64::from(1 << 20), "MiB"));
    for contest in contests(directory.path(), &made.digest) {
        report.progress(&format!("measuring {}", contest.what));
        for mut peer in contest.peers {
            match compare(&contest.search, &mut peer.command, runs) {
                Ok((ours, theirs)) => report.add(
                    Measure::new("file", format!("{} against {}", contest.what, peer.name), ours, "ms")
                        .against(theirs)
                        .goal(Goal::AtMost(peer.goal)),
                ),
                Err(error) => report.not_measured(peer.name, error.as_ref()),
            }
        }
    }
    Ok(())
}

fn contests(root: &Path, digest: &str) -> Vec<Contest> {
    let paths = json!([root]);
    let options = json!({"matchall": true, "matchlimit": 1_000_000});
    vec![
        Contest {
            what: "name and size",
            search: json!({"paths": paths, "names": [r"7\.conf$"], "sizes": [">8193"], "options": options}),
            peers: vec![Peer::shell(
                "find",
                "exec find \"$1\" -type f -name '*7.conf' -size +8192c",
                root,
                0.8,
            )],
        },
        Contest {
            what: "content",
            search: json!({"paths": paths, "contents": [tree::EXPRESSION], "options": options}),
            peers: vec![
                Peer::shell("grep", &format!("exec grep -rlE '{}' \"$1\"", tree::EXPRESSION), root, 0.6),
                Peer::shell("ripgrep", &format!("exec rg -l -uu '{}' \"$1\"", tree::EXPRESSION), root, 1.2),
            ],
        },
        Contest {
            what: "SHA-256",
            search: json!({"paths": paths, "sha2": [digest], "options": options}),
            // Filtering the output costs a thousandth of making it.
            peers: vec![Peer::shell(
                "sha256sum",
                &format!("find \"$1\" -type f -print0 | xargs -0 -P2 sha256sum | grep '^{digest}'"),
                root,
                0.8,
            )],
        },
    ]
}

/// Medians of ours and theirs, in milliseconds.
fn compare(search: &Value, peer: &mut Command, runs: usize) -> BenchResult<(f64, f64)> {
    let request = format!(
        "{}\n",
        json!({"class": "parameters", "parameters": {"searches": {"s": search}}, "extraprivacy": false})
    );
    let mut ours = Vec::with_capacity(runs);
    let mut theirs = Vec::with_capacity(runs);
    // The first round warms the cache.
    for round in 0..=runs {
        let mut module = Command::new(env!("CARGO_BIN_EXE_vigie"));
        module.args(["module", "run", "file"]);
        let (milliseconds, output) = timed(&mut module, request.as_bytes())?;
        let (peer_milliseconds, peer_output) = timed(peer, b"")?;
        let result: Value = serde_json::from_slice(&output)?;
        let found = result["statistics"]["totalhits"].as_u64().unwrap_or_default();
        let peer_found = peer_output.iter().filter(|byte| **byte == b'\n').count() as u64;
        if found != peer_found || found == 0 || result["errors"] != Value::Null {
            return Err(format!("found {found} files and the peer {peer_found}: {}", result["errors"]).into());
        }
        if round > 0 {
            ours.push(milliseconds);
            theirs.push(peer_milliseconds);
        }
    }
    Ok((median(&mut ours), median(&mut theirs)))
}

/// Runs a command to its end: the time in milliseconds and what it said.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn timed(command: &mut Command, input: &[u8]) -> BenchResult<(f64, Vec<u8>)> {
    let started = Instant::now();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input)?;
    }
    let mut output = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut output)?;
    }
    child.wait()?;
    Ok((started.elapsed().as_secs_f64() * 1_000.0, output))
}
