//! The fleet: whether the agent is connected, and if not, how far one gets.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use vigie_config::model::FleetSection;

use super::certificate;
use super::{Check, Outcome, Patient, Verdict, fine, note, trouble, unknown};

pub(super) const CHECKS: &[Check] = &[
    Check { id: "fleet.link", title: "the link to the fleet", docs: "docs/fleet.md", run: link },
    Check { id: "fleet.brokers", title: "connections to the brokers", docs: "docs/fleet.md", run: brokers },
    Check {
        id: "fleet.certificates",
        title: "when certificates end",
        docs: "docs/fleet.md",
        run: certificates,
    },
];

/// Time to reach one broker: several are tried within the time of a check.
const REACH: Duration = Duration::from_millis(1500);

/// Days before its end from which on a certificate is named.
const SOON: i64 = 30;

/// Port of a broker whose URL names none.
const DEFAULT_PORT: u16 = 4222;

fn section(patient: &Patient) -> Option<&FleetSection> {
    patient.config.as_ref().ok()?.agent.fleet.as_ref()
}

fn none(patient: &Patient) -> Vec<Outcome> {
    vec![match &patient.config {
        Ok(_) => note("no fleet is configured"),
        Err(_) => patient.without_config("it is not known whether a fleet is configured"),
    }]
}

fn link(patient: &Patient) -> Vec<Outcome> {
    if section(patient).is_none() {
        return none(patient);
    }
    let Ok(status) = &patient.status else { return vec![patient.without_agent("the link is unknown")] };
    let Some(fleet) = &status.fleet else {
        let remedy = "`vigie reload`; then see `vigie status`";
        return vec![trouble(
            Verdict::Warn,
            "a fleet is configured, but the agent has not joined it",
            remedy,
        )];
    };
    let mut outcomes = Vec::new();
    if let Some(problem) = &fleet.problem {
        outcomes.push(trouble(Verdict::Fail, problem.clone(), "`vigie explain fleet-not-joined`"));
    }
    if !fleet.connected {
        let remedy = "see the check fleet.brokers, and the agent's log";
        outcomes.push(trouble(Verdict::Warn, "no broker is connected", remedy));
    } else if fleet.policy_version.is_none() {
        let remedy = "publish a policy: `vigie fleet policy --help`";
        outcomes.push(trouble(Verdict::Warn, "there is no policy: every action is refused", remedy));
    }
    if outcomes.is_empty() {
        outcomes.push(fine(format!("{} as {}", fleet.org, fleet.agent)));
    }
    outcomes
}

/// Host and port of a broker's URL.
fn place(url: &str) -> Option<(String, u16)> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/');
    if let Some(bracketed) = rest.strip_prefix('[') {
        let (host, after) = bracketed.split_once(']')?;
        let port = after.strip_prefix(':').map_or(Some(DEFAULT_PORT), |port| port.parse().ok())?;
        return Some((host.to_owned(), port));
    }
    match rest.rsplit_once(':') {
        Some((host, port)) => Some((host.to_owned(), port.parse().ok()?)),
        None => Some((rest.to_owned(), DEFAULT_PORT)),
    }
}

fn brokers(patient: &Patient) -> Vec<Outcome> {
    let Some(fleet) = section(patient) else { return none(patient) };
    fleet.urls.iter().map(|url| of_broker(url)).collect()
}

fn of_broker(url: &str) -> Outcome {
    let Some((host, port)) = place(url) else {
        return trouble(
            Verdict::Fail,
            format!("{url} is not a valid broker URL"),
            "write it as tls://HOST:PORT",
        );
    };
    let addresses: Vec<_> = match (host.as_str(), port).to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(error) => {
            let remedy = "correct the name in fleet.urls, or this host's resolver (/etc/resolv.conf)";
            return trouble(Verdict::Warn, format!("{url}: cannot resolve {host}: {error}"), remedy);
        }
    };
    let mut last = "it has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, REACH) {
            Ok(_) => return fine(format!("{url} at {address}")),
            Err(error) => last = format!("{address}: {error}"),
        }
    }
    let remedy = "start the broker, or correct firewall and routes";
    trouble(Verdict::Warn, format!("{url} cannot be reached: {last}"), remedy)
}

fn certificates(patient: &Patient) -> Vec<Outcome> {
    let Some(fleet) = section(patient) else { return none(patient) };
    let own = fleet.certificate.as_ref().map(|(certificate, _)| ("fleet.certificate", certificate));
    let files: Vec<_> = own.into_iter().chain(fleet.ca.as_ref().map(|ca| ("fleet.ca", ca))).collect();
    if files.is_empty() {
        return vec![note("no certificate is configured")];
    }
    let mut outcomes = Vec::new();
    for (key, path) in files {
        match std::fs::read_to_string(patient.below(path)) {
            Err(error) => {
                let remedy = "correct the path, or run the doctor as root";
                outcomes.push(unknown(format!("{key}: {path:?}: {error}"), remedy));
            }
            Ok(pem) => outcomes.push(of_ends(key, &certificate::ends(&pem), jiff::Timestamp::now())),
        }
    }
    outcomes
}

fn of_ends(key: &str, ends: &[Option<jiff::Timestamp>], now: jiff::Timestamp) -> Outcome {
    let Some(first) =
        ends.iter().copied().collect::<Option<Vec<_>>>().and_then(|ends| ends.into_iter().min())
    else {
        return trouble(
            Verdict::Warn,
            format!("{key}: contains no readable certificate"),
            "store a PEM certificate there",
        );
    };
    let days = first.duration_since(now).as_hours() / 24;
    if first <= now {
        trouble(Verdict::Fail, format!("{key}: expired at {first}"), "renew it")
    } else if days < SOON {
        trouble(Verdict::Warn, format!("{key}: expires in {days} days, at {first}"), "renew it")
    } else {
        fine(format!("{key}: expires at {first}"))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::doctor::tests::Planted;

    const FLEET: &str = "[fleet]\norg = \"example\"\nagent = \"web-1\"\nurls = [\"nats://127.0.0.1:4\"]\nroots = [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFqz1ak4G0bHFKTnHZxXtXbWbPmAVvMJG4yBYTPEmvVZ\"]\n";

    #[test]
    fn an_agent_without_broker_or_policy_is_named() {
        let host = || Planted::new().configured(FLEET);
        assert_eq!(host().examined("fleet.link").0, Verdict::Ok);
        let alone = host().says(|status| status.fleet.as_mut().unwrap().connected = false);
        assert_eq!(alone.examined("fleet.link").0, Verdict::Warn);
        let lawless = host().says(|status| status.fleet.as_mut().unwrap().policy_version = None);
        assert_eq!(lawless.examined("fleet.link").0, Verdict::Warn);
        assert_eq!(host().says(|status| status.fleet = None).examined("fleet.link").0, Verdict::Warn);
        assert_eq!(Planted::new().examined("fleet.link").0, Verdict::Info);
    }

    #[test]
    fn a_broker_that_does_not_answer_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(of_broker(&format!("tls://127.0.0.1:{port}")).verdict, Verdict::Ok);
        drop(listener);
        assert_eq!(of_broker(&format!("tls://127.0.0.1:{port}")).verdict, Verdict::Warn);
        assert_eq!(Planted::new().configured(FLEET).examined("fleet.brokers").0, Verdict::Warn);
        assert_eq!(Planted::new().examined("fleet.brokers").0, Verdict::Info);
    }

    #[test]
    fn urls_of_all_forms_are_read() {
        assert_eq!(place("tls://b.example.org:4223"), Some(("b.example.org".to_owned(), 4223)));
        assert_eq!(place("nats://b"), Some(("b".to_owned(), DEFAULT_PORT)));
        assert_eq!(place("nats://[::1]:5"), Some(("::1".to_owned(), 5)));
        assert_eq!(place("nats://b:x"), None);
    }

    #[test]
    fn a_certificate_is_named_before_it_ends() {
        let now: jiff::Timestamp = "2026-11-28T00:00:00Z".parse().unwrap();
        let ends = |text: &str| [Some(text.parse().unwrap())];
        assert_eq!(of_ends("x", &ends("2027-11-28T00:00:00Z"), now).verdict, Verdict::Ok);
        assert_eq!(of_ends("x", &ends("2026-12-10T00:00:00Z"), now).verdict, Verdict::Warn);
        assert_eq!(of_ends("x", &ends("2026-11-27T00:00:00Z"), now).verdict, Verdict::Fail);
        assert_eq!(of_ends("x", &[None], now).verdict, Verdict::Warn);
        let with =
            |pem: &str| Planted::new().with("/ca.pem", pem).configured(&format!("{FLEET}ca = \"/ca.pem\"\n"));
        let good = certificate::tests::pem(0x18, "20951231235959Z");
        assert_eq!(with(&good).examined("fleet.certificates").0, Verdict::Ok);
        assert_eq!(with("nothing\n").examined("fleet.certificates").0, Verdict::Warn);
    }
}
