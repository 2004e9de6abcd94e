//! The steps of docs/fleet.md, run from its own text. Names of the page's hosts and directories are put in place of
//! each other; what is done beside a step is what the page says in words.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use vigie_fleet::broker::local::find_server;

use crate::fleet_setup::{free_port, server_is_missing};
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

/// The commands of each block between a heading and the next one, without comments.
fn blocks(heading: &str) -> Vec<Vec<String>> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/fleet.md")).unwrap();
    let (_, rest) = page.split_once(heading).unwrap_or_else(|| panic!("no {heading:?}"));
    let mut blocks = vec![Vec::new()];
    let mut continued = String::new();
    for line in rest.lines().skip(1).take_while(|line| !line.starts_with('#')) {
        let Some(line) = line.strip_prefix("    ") else {
            if blocks.last().is_some_and(|block| !block.is_empty()) {
                blocks.push(Vec::new());
            }
            continue;
        };
        let line = line.split(" #").next().unwrap().trim();
        if let Some(begun) = line.strip_suffix('\\') {
            continued.push_str(begun);
            continue;
        }
        let whole = std::mem::take(&mut continued) + line;
        if ["vigie ", "nats-server ", "printf ", "ssh-keygen ", "mkdir "]
            .iter()
            .any(|program| whole.starts_with(program))
        {
            blocks.last_mut().unwrap().push(whole);
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
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
    /// The directory in it where somebody works.
    inside: String,
    environment: BTreeMap<String, String>,
}

impl Steps {
    /// A line as a shell reads it; `before` is what the shell does first.
    fn command(&self, before: &str, line: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("{before}{line}")])
            .current_dir(self.place.path().join(&self.inside))
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
    let mut steps_of = Steps { place, inside: String::new(), environment };
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

/// Somebody at a shell, in the fleet of the page.
struct Page {
    steps: Steps,
    /// What the page says and what is meant here.
    names: Vec<(String, String)>,
}

impl Page {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let program = Path::new(VIGIE).parent().unwrap().display().to_string();
        let server = find_server().unwrap().parent().unwrap().display().to_string();
        let environment = BTreeMap::from([
            ("PATH".to_owned(), format!("{program}:{}:{server}", std::env::var("PATH").unwrap())),
            ("HOME".to_owned(), place.path().display().to_string()),
        ]);
        let root = place.path().display().to_string();
        let mut names = vec![
            ("/root/fleet".to_owned(), format!("{root}/fleet")),
            ("/var/lib/nats".to_owned(), format!("{root}/nats")),
            (" …".to_owned(), String::new()),
        ];
        for host in ["broker", "a", "b", "c", "nats.paris"] {
            names.push((format!("{host}.example.org:4222"), format!("127.0.0.1:{}", free_port())));
        }
        Self { steps: Steps { place, inside: String::new(), environment }, names }
    }

    fn meant(&self, line: &str) -> String {
        self.names.iter().fold(line.to_owned(), |line, (said, meant)| line.replace(said, meant))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.steps.place.path().join(name)
    }

    /// Works as somebody, in a directory.
    fn sit_down(&mut self, who: &str, directory: &str) {
        fs::create_dir_all(self.path(directory)).unwrap();
        directory.clone_into(&mut self.steps.inside);
        let file = self.path(&format!("fleet/{who}/fleet.toml")).display().to_string();
        self.steps.environment.insert("VIGIE_FLEET".to_owned(), file);
    }

    /// Does what the page says until it works; what is printed.
    fn run(&self, line: &str) -> String {
        self.steps.run(&self.meant(line))
    }

    /// Does once what must work at once; what is printed.
    fn once(&self, line: &str) -> String {
        let output = self.steps.command("", &self.meant(line)).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{line}: {}\n{text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    fn new_key(&self, file: &str) {
        let line = format!("ssh-keygen -q -t ed25519 -N '' -C {file} -f {}", self.path(file).display());
        self.once(&line);
    }

    /// Does something as root of a host of this name, whose directories are its own.
    fn on_host(&self, name: &str, line: &str) -> Terminal {
        let etc = self.path(&format!("etc-{name}"));
        let own = format!(
            "hostname {name} && mkdir {0} && cp -a /etc/. {0} && mount --bind {0} /etc && mkdir -p -m 0750 /etc/vigie && \
             mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib && mount -t tmpfs tmpfs /var/log && ",
            etc.display()
        );
        let line = format!("unshare --mount --uts sh -c '{own}{}'", self.meant(line));
        self.steps.terminal(&format!("{name}.out"), "", &line)
    }

    fn said(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.out"))).unwrap_or_default()
    }
}

fn json_line(text: &str) -> serde_json::Value {
    text.lines()
        .find_map(|line| serde_json::from_str(line).ok())
        .unwrap_or_else(|| panic!("no JSON in {text:?}"))
}

#[test]
fn a_real_fleet_comes_and_goes_as_the_page_says() {
    // The hosts of the page have directories of their own.
    if server_is_missing() || !vigie_skipped::is_root() {
        return;
    }
    let mut page = Page::new();
    for key in ["ann", "alice", "bob", "carol"] {
        page.new_key(key);
    }
    // 2. The broker: three owners of root keys, of whom two sign.
    let broker = blocks("\n## 2. The broker\n");
    let [init, start] = &broker[..] else { panic!("other blocks: {broker:?}") };
    page.once(&init[0]);
    page.sit_down("administrator", "fleet");
    for key in ["alice", "bob"] {
        fs::copy(page.path(key), page.path(&format!("fleet/{key}"))).unwrap();
    }
    page.once(&start[0]);
    let _server = page.steps.terminal("server.out", "", &page.meant(&start[1]));
    // 3. The policy.
    let policy = blocks("\n## 3. The policy, and who holds which key\n");
    let [publish, revoke, two] = &policy[..] else { panic!("other blocks: {policy:?}") };
    assert_eq!(publish.len(), 4);
    // The two that sign add a signature each time: once is enough.
    page.once(&publish[0]);
    page.once(&publish[1]);
    page.run(&publish[2]);
    page.run(&publish[3]);

    // 4. Hosts, by a token.
    let tokens = blocks("\n### By a token\n");
    let [new, follow, join, waiting] = &tokens[..] else { panic!("other blocks: {tokens:?}") };
    let token = |text: &str| json_line(text)["token"].as_str().unwrap().to_owned();
    let approved = token(&page.once(&new[0]));
    let desk = page.steps.terminal("desk.out", "", &page.meant(&follow[0]));
    let member =
        page.on_host("web-3", &format!("{} && exec vigie agent", join[0].replace("TOKEN", &approved)));
    page.sit_down("ann", "ann-desk");
    let online = "vigie fleet agents --online";
    wait_until("the host is there", || {
        println!("{}", page.said("web-3"));
        Some(page.run(online)).filter(|text| text.contains("web-3"))
    });
    drop(desk);
    // By a person.
    page.sit_down("enroller", "fleet");
    let unapproved = token(&page.once(&new[0].replace("--approved ", "")));
    let joining = join[0].replace("TOKEN", &unapproved);
    let _waiting: Vec<Terminal> =
        ["web-1", "web-2"].map(|name| page.on_host(name, &format!("exec {joining}"))).into();
    assert_eq!(waiting.len(), 3);
    wait_until("both wait", || {
        let text = page.run(&waiting[0]);
        (text.contains("web-1") && text.contains("web-2")).then_some(())
    });
    page.run(&waiting[1]);
    page.run(&waiting[2]);
    // By hand.
    let by_hand = blocks("\n### By hand\n");
    let [record, enrol, gone] = &by_hand[..] else { panic!("other blocks: {by_hand:?}") };
    page.sit_down("administrator", "hand");
    fs::copy(page.path("fleet/keys/enrolment_key"), page.path("hand/enrolment_key")).unwrap();
    fs::set_permissions(page.path("hand/enrolment_key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let key = json_line(&page.once("vigie fleet keygen agent.nk"))["key"].as_str().unwrap().to_owned();
    let of_hand = |line: &str| line.replace("U…", &key).replace("web-1", "web-9");
    for line in record {
        page.once(&of_hand(line));
    }
    assert!(page.path("hand/web-9.json.sig").exists());
    page.once(&of_hand(&enrol[0]));
    page.once(&gone[0]);

    // Sites.
    let sites = blocks("\n### Sites behind a leaf node\n");
    page.sit_down("administrator", "site");
    for line in &sites[0] {
        page.once(&line.replace("web-1", "web-4").replace("web-2", "web-5"));
    }
    assert!(page.path("fleet/leaf-paris/leaf.creds").exists());

    // Standing questions.
    let standing = blocks("\n### Standing queries\n");
    page.sit_down("ann", "ann-desk");
    let own = page.path("fleet/ann/fleet.toml");
    let text = fs::read_to_string(&own).unwrap();
    fs::write(&own, format!("{text}signing_key = {:?}\n", page.path("ann"))).unwrap();
    let asked = page.once(&standing[0][0]);
    let id = json_line(&asked)["action"].as_str().unwrap_or_else(|| panic!("{asked}")).to_owned();
    for line in &standing[0][1..] {
        page.run(&line.replace("0123456789abcdef0123456789abcdef", &id));
    }

    // A second person, as the page says in words, and an action that both sign.
    // The copies of the root keys have done their work there.
    for key in ["alice", "bob"] {
        fs::remove_file(page.path(&format!("fleet/{key}"))).unwrap();
    }
    page.sit_down("administrator", "people");
    fs::create_dir(page.path(".ssh")).unwrap();
    page.new_key(".ssh/bob");
    fs::copy(page.path(".ssh/bob.pub"), page.path("people/bob.pub")).unwrap();
    page.once("vigie fleet investigator add bob --key bob.pub --out policy.json");
    page.once("vigie fleet policy sign policy.json --key ../alice");
    page.once("vigie fleet policy sign policy.signed.json --key ../bob");
    page.once("vigie fleet policy publish policy.signed.json");
    page.sit_down("ann", "action");
    let action = r#"{"name": "ssh", "target": "all", "operations": [{"module": "netstat", "parameters": {"listeningport": "22"}}]}"#;
    fs::write(page.path("action/action.json"), action).unwrap();
    assert_eq!(two.len(), 4);
    for line in two {
        page.once(line);
    }
    // A stolen key.
    page.sit_down("administrator", "stolen");
    for key in ["alice", "bob"] {
        fs::copy(page.path(key), page.path(&format!("stolen/{key}"))).unwrap();
    }
    let printed = page.once(&format!("ssh-keygen -l -f {}", page.path(".ssh/bob.pub").display()));
    let fingerprint = printed.split_whitespace().nth(1).unwrap();
    page.once(&revoke[0].replace("SHA256:…", fingerprint));
    page.once(&revoke[1]);
    page.once("vigie fleet policy sign policy.signed.json --key bob");
    page.once(&revoke[2]);

    // A backup, and three servers.
    for line in &blocks("\n### Backup, and moving to other brokers\n")[0] {
        page.once(line);
    }
    let three = blocks("\n### Three servers\n");
    page.once(&three[0][0].replace("/root/fleet", &page.path("three").display().to_string()));
    assert!(page.path("three/nats-server-3.conf").exists());
    drop(member);
}
