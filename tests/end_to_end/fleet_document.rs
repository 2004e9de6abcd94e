//! The first steps of docs/fleet.md, run from its own text.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::fleet_setup::server_is_missing;
use crate::harness::{VIGIE, wait_until};

/// The commands of the block below a heading.
fn steps(heading: &str) -> Vec<String> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/fleet.md")).unwrap();
    let (_, rest) = page.split_once(heading).unwrap();
    let block = rest.lines().skip_while(|line| !line.starts_with("    "));
    block
        .take_while(|line| line.starts_with("    "))
        .map(|line| line.split(" #").next().unwrap().trim().to_owned())
        .collect()
}

/// What goes on in another terminal.
struct Terminal(Child);

impl Drop for Terminal {
    fn drop(&mut self) {
        kill(Pid::from_raw(self.0.id().try_into().unwrap()), Signal::SIGTERM).ok();
        self.0.wait().ok();
    }
}

struct Steps {
    place: tempfile::TempDir,
    environment: BTreeMap<String, String>,
}

impl Steps {
    /// A line as a shell reads it; `before` is what the shell does first.
    fn command(&self, before: &str, line: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("{before}{line}")])
            .current_dir(self.place.path())
            .envs(&self.environment)
            .stdin(Stdio::null());
        command
    }

    fn terminal(&self, name: &str, before: &str, line: &str) -> Terminal {
        let output = fs::File::create(self.place.path().join(name)).unwrap();
        let errors = output.try_clone().unwrap();
        Terminal(self.command(before, &format!("exec {line}")).stdout(output).stderr(errors).spawn().unwrap())
    }

    /// Runs a line until it works, as somebody does who waits for an agent; what it prints.
    fn run(&self, line: &str) -> String {
        wait_until(line, || {
            let output = self.command("", line).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            println!("{line}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
            output.status.success().then_some(text)
        })
    }
}

#[test]
fn the_first_steps_of_the_page_about_fleets_work_as_they_are_written() {
    if server_is_missing() {
        return;
    }
    // The agent of the page has its default directories.
    if !vigie_skipped::is_root() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let program = Path::new(VIGIE).parent().unwrap().display().to_string();
    let environment = BTreeMap::from([
        ("PATH".to_owned(), format!("{program}:{}", std::env::var("PATH").unwrap())),
        ("HOME".to_owned(), place.path().display().to_string()),
        ("USER".to_owned(), "ann".to_owned()),
    ]);
    let mut steps_of = Steps { place, environment };
    let mut terminals = Vec::new();
    let lines = steps("## From one host to ten thousand");
    let mut seen = Vec::new();
    for line in &lines {
        match line.split_once(' ').unwrap() {
            ("export", assignment) => {
                let (name, value) = assignment.split_once('=').unwrap();
                let place = steps_of.place.path().display().to_string();
                let value = value.replace("$PWD", &place).replace("$USER", "ann");
                steps_of.environment.insert(name.to_owned(), value);
            }
            (_, "fleet up") => {
                terminals.push(steps_of.terminal("up", "", line));
                let administrator = "vigie fleet --fleet .fleet/administrator/fleet.toml policy show";
                steps_of.run(administrator);
            }
            (_, agent) if agent.starts_with("agent ") => {
                // The directories of the system are not this test's.
                let own = "mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib && mount -t tmpfs tmpfs /var/log && ";
                let line = format!("unshare --mount sh -c '{own}exec {line}'");
                terminals.push(steps_of.terminal("agent", "", &line));
            }
            (_, alerts) if alerts.starts_with("alerts -f") => {
                let mut follower = steps_of.terminal("alerts", "", line);
                // It follows: it does not end by itself, and has nothing to complain of.
                steps_of.run("vigie fleet agents --online");
                assert!(follower.0.try_wait().unwrap().is_none());
                terminals.push(follower);
            }
            (_, rest) if rest.starts_with("query ") => {
                let text = wait_until("the agent answers", || {
                    Some(steps_of.run(line)).filter(|text| text.contains("web-1"))
                });
                seen.push(text);
            }
            _ => seen.push(steps_of.run(line)),
        }
    }
    println!("{}", fs::read_to_string(steps_of.place.path().join("agent")).unwrap());
    assert!(lines.len() >= 7 && terminals.len() == 3, "the page has other steps: {lines:?}");
    assert!(seen.iter().any(|text| text.contains("web-1")), "{seen:?}");
    drop(terminals);
}
