//! Three servers as `fleet init --replicas 3` writes them: one is killed while questions run, and none is lost.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use vigie_fleet::broker::local::find_server;

use crate::fleet_setup::{fleet, free_port, server_is_missing, status};
use crate::harness::{Host, Settings, VIGIE, wait_until};

/// A server of the cluster.
struct Server(Child);

impl Server {
    fn start(directory: &Path, number: usize) -> Self {
        let store = directory.join(format!("fleet/jetstream/{number}"));
        std::fs::create_dir_all(&store).unwrap();
        let config = directory.join(format!("fleet/nats-server-{number}.conf"));
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(find_server().unwrap()).arg("-c").arg(config);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Asks all agents; how many answered.
fn ask(place: &Path) -> (i32, usize, String) {
    let output = Command::new(VIGIE)
        .args(["query", "netstat", "-t", "all", "--listening-port", "22", "--wait", "60s", "--fleet"])
        .arg(place.join("fleet/ann/fleet.toml"))
        .env("HOME", place)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let answers = lines.filter(|line| line["type"] == "answer").count();
    let said = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap_or(-1), answers, said)
}

#[test]
fn questions_go_on_while_one_of_three_servers_is_killed() {
    if server_is_missing() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let urls: Vec<String> = (0..3).map(|_| format!("nats://127.0.0.1:{}", free_port())).collect();
    let mut init = vec!["init", "fleet", "--org", "example", "--investigator", "ann", "--replicas", "3"];
    let two = fleet(place.path(), &[&init[..], &["--url", &urls[0], "--url", &urls[1]]].concat());
    assert_eq!(two.code, 64, "{two:?}");
    for url in &urls {
        init.extend(["--url", url]);
    }
    let made = fleet(place.path(), &init);
    assert_eq!(made.code, 0, "{made:?}");
    let mut servers: Vec<Server> = (1..=3).map(|number| Server::start(place.path(), number)).collect();
    let administrator = ["--fleet", "fleet/administrator/fleet.toml"];
    wait_until("the cluster has a leader and takes the policy", || {
        let publish = [&administrator[..], &["policy", "publish", "fleet/policy.signed.json"]].concat();
        (fleet(place.path(), &publish).code == 0).then_some(())
    });
    let enrolled = fleet(place.path(), &[&administrator[..], &["enrol", "web-1"]].concat());
    assert_eq!(enrolled.code, 0, "{enrolled:?}");
    let section = std::fs::read_to_string(place.path().join("web-1/vigie-fleet.toml")).unwrap();
    let host = Host::new(&Settings::default(), &section);
    let _agent = host.start();
    wait_until("the agent is connected", || {
        let fleet = status(&host)["fleet"].clone();
        (fleet["connected"] == true && fleet["policy_version"] == 1).then_some(())
    });
    let (code, answers, said) = ask(place.path());
    assert_eq!((code, answers), (0, 1), "all three run: {said}");
    // While the others elect leaders and afterwards: one server may be away.
    servers[0].0.kill().unwrap();
    servers[0].0.wait().unwrap();
    let mut asked = 1;
    for _ in 0..3 {
        let (code, answers, said) = ask(place.path());
        assert_eq!((code, answers), (0, 1), "the first server is dead: {said}");
        asked += 1;
    }
    // Each ran once.
    let outcomes = status(&host)["fleet"]["outcomes"].clone();
    assert_eq!(outcomes["accepted"], asked, "{outcomes}");
}
