//! Agents of a site, behind a leaf node: what they say while the brokers are away is there when those are back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;
use vigie_actors::alert_journal::NewAlert;
use vigie_files::secret_file;
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::broker::jwt::credentials_text;
use vigie_fleet::broker::leaf::{LeafSettings, Site, agents_file, leaf_config, seed_file};
use vigie_fleet::broker::local::{find_server, load_or_create_authority};

use crate::crowd::Crowd;
use crate::harness::{
    Fleet, LONG_AGO, ORG, action, agent, fast_directory, number, patiently, server_is_missing,
};

/// How long after the return of the brokers everything must be there.
const WITHIN: Duration = Duration::from_secs(90);

/// Ports of those that the system does not give to clients.
fn free_port(after: u16) -> u16 {
    (0..6_000)
        .map(|at| 20_000 + (u16::try_from(std::process::id() % 6_000).unwrap() + after + at) % 6_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

/// A site's server.
struct Leaf {
    config: PathBuf,
    port: u16,
    child: Child,
}

impl Leaf {
    fn new(directory: &Path, site: &Site, hub: u16, port: u16) -> Self {
        let place = directory.join("leaf");
        fs::create_dir(&place).unwrap();
        let key = AgentKey::generate();
        let login = site.login(key.public_key(), LONG_AGO);
        let credentials = place.join("leaf.creds");
        secret_file::create(&credentials, &credentials_text(&login, &key.seed())).unwrap();
        let settings = LeafSettings {
            fleet: ORG.to_owned(),
            site: site.name().clone(),
            listen: SocketAddr::from(([127, 0, 0, 1], port)),
            brokers: vec![format!("nats://127.0.0.1:{hub}")],
            directory: place.clone(),
            credentials,
            tls: None,
            broker_tls: None,
            now: LONG_AGO,
        };
        let authority = load_or_create_authority(directory).unwrap();
        let config = place.join("nats-server.conf");
        fs::write(&config, leaf_config(&settings, &authority, &[]).unwrap().to_string()).unwrap();
        let child = Self::start(&config, port);
        Self { config, port, child }
    }

    fn start(config: &Path, port: u16) -> Child {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(find_server().unwrap()).arg("-c").arg(config);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        patiently("the leaf node listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        child
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        self.child = Self::start(&self.config, self.port);
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            let log = self.config.with_file_name("nats-server.log");
            println!("{}", fs::read_to_string(log).unwrap_or_default());
        }
    }
}

fn batch(first: usize, count: usize) -> Vec<NewAlert> {
    let alert = |number| NewAlert { id: Some(format!("life-{number}")), message: format!("alert {number}") };
    (first..first + count).map(alert).collect()
}

#[test]
fn what_agents_behind_a_leaf_node_say_while_the_brokers_are_away_is_there_within_90_seconds() {
    if server_is_missing() {
        return;
    }
    let agents = number("VIGIE_FLEET_AGENTS", 10);
    let directory = fast_directory();
    let names: Vec<String> = (0..agents).map(|at| format!("many-{at}")).collect();
    let site = Site::generate(agent("paris"), names.iter().map(|name| agent(name)).collect());
    let keys = directory.path().join("keys");
    fs::create_dir(&keys).unwrap();
    secret_file::create(&seed_file(&keys, site.name()), &site.seed()).unwrap();
    fs::write(agents_file(&keys, site.name()), names.join("\n")).unwrap();
    let (hub, port) = (free_port(0), free_port(3_000));
    let place = directory.path().to_owned();
    let mut fleet = Fleet::with_leaf_port(directory, hub);
    let mut leaf = Leaf::new(&place, &site, hub, port);
    fleet.agents_url = Some(format!("nats://127.0.0.1:{port}"));
    let crowd = Crowd::new(&mut fleet, &names, "");
    crowd.start(&names);
    crowd.wait_connected();
    crowd.alerts(batch(0, 1));
    crowd.wait("the first is sent", |status| status.alerts_sent == 1);
    let id = fleet.ask(&action());
    fleet.answers(&id, agents);

    fleet.kill_broker();
    for at in 0..20 {
        crowd.alerts(batch(1 + at * 50, 50));
    }
    assert!(crowd.status().iter().all(|status| status.connected && status.alerts_waiting > 0));
    fleet.restart_broker();
    let back = Instant::now();
    crowd.wait("all are sent", |status| status.alerts_waiting == 0 && status.alerts_sent == 1_001);
    let took = back.elapsed();
    assert!(took < WITHIN, "{took:?}");
    // Asked anew, all answer: the way back stands again.
    let id = fleet.ask(&action());
    fleet.answers(&id, agents);

    // The leaf node's own end loses nothing either.
    leaf.kill();
    crowd.alerts(batch(1_001, 50));
    leaf.restart();
    crowd.wait("the last are sent", |status| status.alerts_waiting == 0 && status.alerts_sent == 1_051);

    let (alerts, flagged) = fleet.alerts();
    assert_eq!(flagged, 0);
    let mut numbers: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for alert in &alerts {
        assert!(
            numbers.entry(alert.agent.as_str()).or_default().insert(alert.seq),
            "{alert:?} is there twice"
        );
    }
    for name in &names {
        assert_eq!(numbers[name.as_str()], (1..=1_051).collect(), "{name}");
    }
    println!("{} alerts of {agents} agents: {took:?} after the broker listened again", alerts.len());
}
