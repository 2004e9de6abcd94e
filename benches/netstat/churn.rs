//! Searches for sockets that stay while others come and go.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;
use serde_json::json;
use serde_json::value::to_raw_value;
use vigie_netstat::parameters::Parameters;
use vigie_netstat::search::{Backend, Match, SoFar, search};
use vigie_netstat::socket::Endpoint;
use vigie_sdk::Query;

use crate::Size;
use crate::hold::{ADDRESS, connections};
use vigie_benchmark::{BenchResult, Goal, Measure, Report, rate, say};

/// The hidden argument with which the program opens and closes connections.
pub(crate) const ARGUMENT: &str = "--churn";

/// Where connections come and go.
const CHURN_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 77, 7, 8);

/// Processes that open and close connections: so many that the searches do not have half of two processors.
const CHURNERS: usize = 4;

/// Runs the searches.
pub(crate) fn measure(size: Size, report: &mut Report) -> BenchResult<()> {
    let (listener, stable) = connections(size.stable)?;
    let stable_end = Endpoint::new(ADDRESS.into(), listener.local_addr()?.port());
    let expected: HashSet<u16> =
        stable.iter().filter_map(|(client, _)| Some(client.local_addr().ok()?.port())).collect();
    #[expect(clippy::disallowed_methods, reason = "real processes take real time")]
    let start = Instant::now();
    let children: BenchResult<Vec<Child>> = (0..CHURNERS)
        .map(|_| {
            let mut command = Command::new(std::env::current_exe()?);
            Ok(command.arg(ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?)
        })
        .collect();
    let mut children = children?;
    let (mut missed, mut doubled, mut searching) = (0, 0, Duration::ZERO);
    let parameters = json!({"connectedip": [ADDRESS.to_string(), CHURN_ADDRESS.to_string()]});
    let parameters = Parameters::from_query(&Query::new(Some(to_raw_value(&parameters)?)))
        .map_err(|problems| problems.join("; "))?;
    for _ in 0..size.searches {
        #[expect(clippy::disallowed_methods, reason = "real searches take real time")]
        let search_start = Instant::now();
        let found = SoFar::default();
        search(&parameters, &Backend::Kernel, &|| false, &found);
        let outcome = found.take();
        searching += search_start.elapsed();
        let (mut found, mut ends) = (HashSet::new(), HashMap::new());
        for hit in outcome.namespaces.iter().flat_map(|findings| &findings.hits) {
            let Match::Socket(socket) = &hit.matched else { continue };
            *ends.entry((socket.local, socket.remote)).or_insert(0) += 1;
            if socket.remote == stable_end {
                found.insert(socket.local.port);
            }
        }
        missed += expected.difference(&found).count();
        doubled += ends.values().filter(|count| **count > 1).count();
    }
    let mut closed = 0;
    for child in &mut children {
        drop(child.stdin.take());
        let mut text = String::new();
        if let Some(stdout) = &mut child.stdout {
            stdout.read_to_string(&mut text)?;
        }
        closed += text.trim().parse::<u64>()?;
        child.wait()?;
    }
    let rate = rate(closed, start.elapsed());
    let beside = format!("{} searches beside {} sockets that stay", size.searches, size.stable);
    report.add(
        Measure::new("churn", "connections opened and closed", rate, "/s").goal(Goal::AtLeast(50_000.0)),
    );
    report.add(Measure::new("churn", format!("missed, {beside}"), missed as f64, "").goal(Goal::AtMost(0.0)));
    report
        .add(Measure::new("churn", format!("doubled, {beside}"), doubled as f64, "").goal(Goal::AtMost(0.0)));
    let each = searching.as_secs_f64() * 1000.0 / size.searches as f64;
    report.add(Measure::new("churn", "a search", each, "ms"));
    Ok(())
}

/// Opens and closes connections until standard input ends, then says how many.
pub(crate) fn run() -> BenchResult<()> {
    let end = AtomicBool::new(false);
    let closed = std::thread::scope(|scope| {
        scope.spawn(|| {
            // An error ends the wait as well.
            std::io::stdin().read_to_end(&mut Vec::new()).ok();
            end.store(true, Ordering::Relaxed);
        });
        come_and_go(&end)
    })?;
    say(&closed.to_string());
    Ok(())
}

fn come_and_go(end: &AtomicBool) -> BenchResult<u64> {
    let listener = TcpListener::bind((CHURN_ADDRESS, 0))?;
    // What it accepts is reset when it is closed, which frees the port; otherwise there would soon be none left.
    set_socket_linger(&listener, Some(Duration::ZERO))?;
    let peer = listener.local_addr()?;
    let mut closed = 0;
    while !end.load(Ordering::Relaxed) {
        let client = TcpStream::connect(peer)?;
        let server = listener.accept()?.0;
        drop(server);
        drop(client);
        closed += 1;
    }
    Ok(closed)
}
