//! A nats-server for one test, users of it, and certificates.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::mpsc;
use vigie_files::secret_file;
use vigie_fleet::broker::client::Client;
use vigie_fleet::broker::connection::{BrokerEvent, Connection, ConnectionSettings, connect};
use vigie_fleet::broker::jwt::Role;
use vigie_fleet::broker::leaf::{Site, agents_file, seed_file};
use vigie_fleet::broker::local::{LocalBroker, LocalBrokerSettings, LocalTls, find_server};
use vigie_fleet::broker::streams::{self, StreamSizes};
use vigie_protocol::names::AgentId;

/// The time of all tokens, in seconds since 1970; before any clock of a machine that runs this.
pub(crate) const NOW: i64 = 1_700_000_000;

/// How long anything may take.
const CEILING: Duration = Duration::from_secs(60);

pub(crate) fn server_is_missing() -> bool {
    let missing = find_server().is_err();
    if missing {
        vigie_skipped::missing("nats-server");
    }
    missing
}

pub(crate) fn openssl_is_missing() -> bool {
    !vigie_skipped::has("openssl")
}

pub(crate) fn name(text: &str) -> AgentId {
    text.parse().unwrap()
}

/// The result of what must not take for ever.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(CEILING, future).await.expect("nothing takes this long")
}

/// Asks again and again until there is an answer.
pub(crate) async fn until<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    within(async {
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        loop {
            ticks.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    })
    .await
}

/// A running server with a directory of its own.
pub(crate) struct Fixture {
    // First, so that the server ends before its directory goes.
    pub(crate) broker: LocalBroker,
    pub(crate) directory: TempDir,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::start(|_| ()).await
    }

    pub(crate) async fn start(change: impl FnOnce(&mut LocalBrokerSettings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = LocalBrokerSettings::new(directory.path(), "example", NOW);
        change(&mut settings);
        let broker = LocalBroker::start(settings).await.unwrap();
        Self { broker, directory }
    }

    pub(crate) async fn with_streams() -> Self {
        Self::new().await.and_streams().await
    }

    /// A server with streams that takes the leaf nodes of these sites on a port.
    pub(crate) async fn with_sites(port: u16, sites: &[Site]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keys = directory.path().join("keys");
        std::fs::create_dir_all(&keys).unwrap();
        for site in sites {
            secret_file::create(&seed_file(&keys, site.name()), &site.seed()).unwrap();
            let names: String = site.agents().iter().map(|agent| format!("{agent}\n")).collect();
            std::fs::write(agents_file(&keys, site.name()), names).unwrap();
        }
        let mut settings = LocalBrokerSettings::new(directory.path(), "example", NOW);
        settings.leaf_port = Some(port);
        let broker = LocalBroker::start(settings).await.unwrap();
        Self { broker, directory }.and_streams().await
    }

    async fn and_streams(self) -> Self {
        let fixture = self;
        let admin = fixture.user(Role::Administrator, "setup").await;
        within(streams::ensure(&admin.connection.client, &StreamSizes::default())).await.unwrap();
        fixture
    }

    pub(crate) async fn user(&self, role: Role, user: &str) -> User {
        User::connect(self.broker.connection_settings(role, &name(user))).await
    }
}

/// A connected user.
pub(crate) struct User {
    pub(crate) connection: Connection,
    pub(crate) events: mpsc::Receiver<BrokerEvent>,
}

impl User {
    pub(crate) async fn connect(settings: ConnectionSettings) -> Self {
        let (sender, events) = mpsc::channel(1024);
        let connection = within(connect(settings, sender)).await.unwrap();
        Self { connection, events }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.connection.client
    }

    /// Waits for an event.
    pub(crate) async fn sees(&mut self, wanted: &BrokerEvent) {
        within(async {
            while let Some(event) = self.events.recv().await {
                if event == *wanted {
                    return;
                }
            }
            panic!("the connection ended without {wanted:?}");
        })
        .await;
    }

    /// The next refusal is about this subject.
    async fn is_refused(&mut self, subject: &str) {
        let words = within(async {
            loop {
                match self.events.recv().await.expect("the connection stands") {
                    BrokerEvent::PermissionViolation(words) => return words,
                    BrokerEvent::Connected => (),
                    other => panic!("{subject}: {other:?}"),
                }
            }
        })
        .await;
        assert!(words.contains(&format!("\"{subject}\"")), "{subject}: {words}");
    }

    pub(crate) async fn is_refused_publishing(&mut self, subject: &str) {
        self.connection.client.send(subject, b"x").await.unwrap();
        self.is_refused(subject).await;
    }

    pub(crate) async fn is_refused_subscribing(&mut self, subject: &str) {
        let _subscription = self.connection.client.subscribe(subject).unwrap();
        self.is_refused(subject).await;
    }
}

/// What a CA signed.
pub(crate) struct Certificates {
    pub(crate) server: LocalTls,
    pub(crate) agent_certificate: PathBuf,
    pub(crate) agent_key: PathBuf,
}

/// Makes a CA, and certificates for a server on 127.0.0.1 and an agent, with the commands of docs/fleet.md.
pub(crate) fn certificates(directory: &Path, name: &str) -> Certificates {
    let directory = directory.join(name);
    std::fs::create_dir(&directory).unwrap();
    let openssl = |arguments: &str| {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(&directory)
            .output()
            .unwrap();
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {key} -days 3650 -subj /CN=CA-{name} -keyout ca.key -out ca.pem"));
    for (file, extensions) in [
        ("server", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n"),
        ("agent", "subjectAltName=DNS:web-1\nextendedKeyUsage=clientAuth\n"),
    ] {
        std::fs::write(directory.join(format!("{file}.ext")), extensions).unwrap();
        openssl(&format!("req {key} -subj /CN={file} -keyout {file}.key -out {file}.csr"));
        openssl(&format!(
            "x509 -req -in {file}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 365 -extfile {file}.ext -out {file}.pem"
        ));
    }
    let file = |name: &str| directory.join(name);
    Certificates {
        server: LocalTls { ca: file("ca.pem"), certificate: file("server.pem"), key: file("server.key") },
        agent_certificate: file("agent.pem"),
        agent_key: file("agent.key"),
    }
}
