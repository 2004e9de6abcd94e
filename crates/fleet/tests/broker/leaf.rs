//! What somebody does who has taken the server of a site: he speaks the protocol of leaf nodes himself, with the site's
//! login.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use vigie_fleet::agent_key::AgentKey;
use vigie_fleet::broker::client::random_token;
use vigie_fleet::broker::connection::{ConnectionError, Login, connect};
use vigie_fleet::broker::jwt::Role;
use vigie_fleet::broker::leaf::{MAX_AGENTS, Site};
use vigie_fleet::broker::stored::{Which, get};
use vigie_fleet::subjects;

use crate::attacks::{Scene, agent_subjects, header_sets, replies};
use crate::broker_fixture::{Fixture, NOW, name, server_is_missing, until, within};

/// A port of those that the system does not give to clients.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = u16::try_from(std::process::id() % 6_000).unwrap();
    std::iter::repeat_with(|| 26_000 + (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % 6_000)
        .take(6_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

/// A connection that speaks as a leaf node, and all that the broker said.
struct RawLeaf {
    stream: BufReader<TcpStream>,
    heard: String,
}

impl RawLeaf {
    async fn connect(port: u16, login: &str, key: &AgentKey) -> Self {
        let stream = within(TcpStream::connect(("127.0.0.1", port))).await.unwrap();
        let mut leaf = Self { stream: BufReader::new(stream), heard: String::new() };
        let info = leaf.line().await.unwrap();
        let info: Value = serde_json::from_str(info.strip_prefix("INFO ").unwrap()).unwrap();
        let nonce = info["nonce"].as_str().unwrap();
        let connect = json!({
            "jwt": login, "sig": BASE64URL_NOPAD.encode(&key.sign(nonce.as_bytes())), "headers": true,
            "server_id": format!("N{}", random_token()), "name": random_token(), "version": "2.9.10", "cluster": "", "tls_required": false,
        });
        leaf.say(&format!("CONNECT {connect}\r\n")).await;
        leaf.hear().await;
        leaf
    }

    async fn say(&mut self, text: &str) {
        // What a connection that was cut does not take is not said.
        self.stream.get_mut().write_all(text.as_bytes()).await.ok();
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = within(self.stream.read_line(&mut line)).await.unwrap_or(0);
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// Takes all that comes until the broker has answered a ping; whether the connection stands.
    async fn hear(&mut self) -> bool {
        self.say("PING\r\n").await;
        while let Some(line) = self.line().await {
            self.heard.push_str(&format!("{line}\n"));
            match line.split(' ').next().unwrap_or_default() {
                "PONG" => return true,
                "PING" => self.say("PONG\r\n").await,
                "LMSG" | "HMSG" => {
                    let size: usize = line.rsplit(' ').next().unwrap().parse().unwrap();
                    let mut body = vec![0; size + 2];
                    within(self.stream.read_exact(&mut body)).await.unwrap();
                    self.heard.push_str(&String::from_utf8_lossy(&body));
                }
                _ => {}
            }
        }
        false
    }

    async fn publish(&mut self, subject: &str, reply: &str, headers: &[(String, String)], body: &str) {
        let reply = if reply.is_empty() { String::new() } else { format!(" {reply}") };
        let message = if headers.is_empty() {
            format!("LMSG {subject}{reply} {}\r\n{body}\r\n", body.len())
        } else {
            let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let block = format!("NATS/1.0\r\n{lines}\r\n");
            format!("HMSG {subject}{reply} {} {}\r\n{block}{body}\r\n", block.len(), block.len() + body.len())
        };
        self.say(&message).await;
    }
}

fn agents(names: &[&str]) -> BTreeSet<vigie_protocol::names::AgentId> {
    names.iter().map(|agent| name(agent)).collect()
}

#[tokio::test]
async fn a_taken_site_changes_nothing_of_others_and_learns_nothing_of_them() {
    if server_is_missing() {
        return;
    }
    let (port, paris, rome) = (
        free_port(),
        Site::generate(name("paris"), agents(&["h1"])),
        Site::generate(name("rome"), agents(&["h4"])),
    );
    let fixture = Fixture::with_sites(port, &[paris.clone(), rome.clone()]).await;
    let mut scene = Scene::in_fleet(fixture, "h1").await;
    let (key, other_key) = (AgentKey::generate(), AgentKey::generate());
    // Another site that works.
    let other = rome.login(other_key.public_key(), NOW);
    let mut other = RawLeaf::connect(port, &other, &other_key).await;
    other.say("LS+ vigie.live.h4.fedcba9876543210\r\nLS+ _INBOX.agent.h4.>\r\n").await;
    other.publish("vigie.alert.h4", "_INBOX.agent.h4.1", &[], "mine").await;
    until(async || {
        assert!(other.hear().await);
        other.heard.contains("\"seq\"").then_some(())
    })
    .await;
    let before = other.heard.clone();

    let login = paris.login(key.public_key(), NOW);
    let mut taken = RawLeaf::connect(port, &login, &key).await;
    assert!(taken.hear().await, "{}", taken.heard);
    // What is its agents' is stored, and acknowledged.
    taken.say("LS+ _INBOX.agent.h1.>\r\nLS+ vigie.live.h1.0123456789abcdef\r\n").await;
    taken.publish("vigie.alert.h1", "_INBOX.agent.h1.1", &[], "mine").await;
    until(async || {
        assert!(taken.hear().await, "{}", taken.heard);
        taken.heard.contains("\"seq\"").then_some(())
    })
    .await;
    // Its agents read what they wrote last.
    taken.publish("$JS.API.DIRECT.GET.ALERTS.vigie.alert.h1", "_INBOX.agent.h1.1", &[], "").await;
    until(async || {
        assert!(taken.hear().await, "{}", taken.heard);
        taken.heard.contains("mine").then_some(())
    })
    .await;
    // Others' subjects, and what listens to others.
    let mut forbidden: Vec<String> = ["h2", "h4"].into_iter().flat_map(agent_subjects).collect();
    forbidden.extend(
        [
            "vigie.policy",
            "vigie.enrol.h1",
            "vigie.ask.bob",
            "vigie.standing.bob",
            "vigie.live.h2.0123456789abcdef",
            "vigie.live.h4.fedcba9876543210",
            "_INBOX.agent.h4.1",
            "$JS.API.STREAM.PURGE.ALERTS",
            "$JS.API.CONSUMER.CREATE.ALERTS",
            "$JS.API.DIRECT.GET.FACTS",
            "$JS.API.DIRECT.GET.ALERTS.vigie.alert.h2",
            "$JS.API.DIRECT.GET.FACTS.vigie.facts.h4",
            "$SYS.REQ.SERVER.PING",
            // A slot that there is not: how many there are bounds what one host can fill.
            "vigie.res.16.h1",
        ]
        .map(str::to_owned),
    );
    for subject in &forbidden {
        // Newer servers cut whoever tries.
        let mut trying = RawLeaf::connect(port, &login, &key).await;
        trying.publish(subject, "_INBOX.agent.h1.2", &[], "{}").await;
        trying.hear().await;
        taken.heard.push_str(&trying.heard);
    }
    let mut listening = Vec::new();
    for subject in ["vigie.live.*.*", "vigie.live.h2.*", "vigie.res.*.*", "_INBOX.>", "vigie.>", ">", "$JS.>"]
    {
        let mut trying = RawLeaf::connect(port, &login, &key).await;
        trying.say(&format!("LS+ {subject}\r\n")).await;
        if trying.hear().await && listening.len() < 2 {
            listening.push(trying);
        } else {
            taken.heard.push_str(&trying.heard);
        }
    }
    // What it may say, with every reply and header.
    let safe = scene.is_safe();
    let mut allowed = agent_subjects("h1");
    allowed
        .extend(["POLICY", "ASK", "STANDING", "JOINED"].map(|stream| format!("$JS.API.DIRECT.GET.{stream}")));
    allowed
        .extend(["ALERTS.vigie.alert", "FACTS.vigie.facts"].map(|of| format!("$JS.API.DIRECT.GET.{of}.h1")));
    for subject in &allowed {
        for reply in replies(safe).iter().map(String::as_str).chain(["vigie.live.h4.fedcba9876543210"]) {
            for headers in header_sets() {
                taken.publish(subject, reply, &headers, r#"{"seq":1}"#).await;
            }
        }
        assert!(taken.hear().await, "{}", taken.heard);
    }
    within(scene.admin.client().send("vigie.live.h4.fedcba9876543210", b"for h4")).await.unwrap();
    scene.is_unharmed_but(&["h4"]).await;
    for mut one in listening {
        one.hear().await;
        taken.heard.push_str(&one.heard);
    }

    // It is told where its own connections listen, and gets what it said to itself; never where others listen, or what
    // is theirs.
    for secret in ["h2.0123456789abcdef", "h3.0123456789abcdef", "h4.fedcba9876543210", "_INBOX.agent.h4"] {
        let told = taken.heard.lines().filter(|line| line.starts_with("LS+ ") && line.contains(secret));
        assert_eq!(told.count(), 0, "{secret} is not for this site");
    }
    for text in ["for h4", "victim's", "for h2"] {
        assert!(!taken.heard.contains(text), "{text} is not for this site");
    }
    until(async || {
        assert!(other.hear().await);
        other.heard.contains("for h4").then_some(())
    })
    .await;
    let came = other.heard[before.len()..].matches("MSG ").count();
    assert_eq!(
        came,
        1,
        "the other site got what was for it, and nothing else: {}",
        &other.heard[before.len()..]
    );
    let newest = within(get(scene.admin.client(), subjects::ALERTS, Which::Last("vigie.alert.h4"))).await;
    assert_eq!(newest.unwrap().unwrap().value, "mine");
}

#[tokio::test]
async fn nobody_but_a_site_is_a_leaf_node_and_a_site_is_no_client() {
    if server_is_missing() {
        return;
    }
    let (port, paris) = (free_port(), Site::generate(name("paris"), agents(&["h1"])));
    let fixture = Fixture::with_sites(port, std::slice::from_ref(&paris)).await;
    let key = AgentKey::generate();
    for role in Role::ALL {
        let login = fixture.broker.signer(role).user(&name("h1"), key.public_key(), NOW, None);
        let mut leaf = RawLeaf::connect(port, &login, &key).await;
        assert!(!leaf.hear().await, "{role:?}: {}", leaf.heard);
    }
    let mut settings = fixture.broker.connection_settings(Role::Agent, &name("h1"));
    let jwt = paris.login(key.public_key(), NOW);
    settings.login = Login::Token { jwt, key: Box::new(key) };
    let (events, _kept) = tokio::sync::mpsc::channel(64);
    let error = within(connect(settings, events)).await.unwrap_err();
    assert!(matches!(error, ConnectionError::Refused { .. } | ConnectionError::Full { .. }), "{error:?}");
}

#[tokio::test]
async fn a_site_has_as_many_agents_as_it_may() {
    if server_is_missing() {
        return;
    }
    let many = (0..MAX_AGENTS).map(|at| name(&format!("web-{at:04}"))).collect();
    let (port, paris) = (free_port(), Site::generate(name("paris"), many));
    let _fixture = Fixture::with_sites(port, std::slice::from_ref(&paris)).await;
    let key = AgentKey::generate();
    let mut leaf = RawLeaf::connect(port, &paris.login(key.public_key(), NOW), &key).await;
    leaf.say("LS+ _INBOX.agent.web-0039.>\r\n").await;
    leaf.publish("vigie.alert.web-0039", "_INBOX.agent.web-0039.1", &[], "mine").await;
    until(async || {
        let stands = leaf.hear().await;
        let end = leaf.heard.len().saturating_sub(500);
        assert!(stands, "…{}", leaf.heard.get(end..).unwrap_or_default());
        leaf.heard.contains("\"seq\"").then_some(())
    })
    .await;
}
