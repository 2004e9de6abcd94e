//! Metrics of a running agent: its socket, loopback HTTP, the file, and clients that misbehave.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::harness::{Host, Settings, persistent, wait_until};

const REQUEST: &str = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n";

/// Sends a request over a stream and reads the answer to its end.
fn exchange(mut stream: impl std::io::Read + std::io::Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn scrape(host: &Host, more: &str) -> String {
    let stream = UnixStream::connect(host.path("run/metrics.sock")).unwrap();
    exchange(stream, &format!("{REQUEST}{more}\r\n"))
}

#[test]
fn what_fswatch_shows_of_itself_is_among_the_metrics() {
    let host = Host::new(&Settings { fswatch: true, heartbeat: "200ms", ..Settings::default() }, "");
    std::fs::create_dir(host.path("watched")).unwrap();
    std::fs::write(host.path("watched/x"), "x").unwrap();
    let paths = format!("[paths]\npath = {}\n", host.path("watched").display());
    std::fs::write(host.path("modules.d/fswatch.cfg"), paths).unwrap();
    let _agent = host.start();
    host.wait_baseline();

    let page = wait_until("a heartbeat brings the values", || {
        let page = scrape(&host, "");
        page.contains("vigie_module_value{module=\"fswatch\",name=\"files\"}").then_some(page)
    });

    for name in
        ["looks_waiting_trusted", "looks_waiting_users", "oldest_look_trusted_ms", "oldest_look_users_ms"]
    {
        let line = format!("vigie_module_value{{module=\"fswatch\",name=\"{name}\"}} ");
        assert!(page.contains(&line), "{name}: {page}");
    }
    wait_until("a later heartbeat counts the baseline", || {
        host.module("fswatch")["values"]["baseline_bytes"].as_u64().filter(|bytes| *bytes > 0)
    });
    let told = include_str!("../../docs/metrics.md");
    for name in host.module("fswatch")["values"].as_object().unwrap().keys() {
        assert!(told.contains(&format!("`{name}`")), "{name} is not in docs/metrics.md");
    }
}

/// A port of loopback on which nobody listens.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn the_socket_shows_the_status_in_the_format_that_is_asked_for() {
    let host = Host::new(&Settings::default(), &persistent("alerter.py", &["3"]));
    let _agent = host.start();

    let page = wait_until("the alerts are counted", || {
        let page = scrape(&host, "");
        page.contains("vigie_alerts_total{module=\"alerter\",severity=\"medium\"} 3\n").then_some(page)
    });

    let schema = serde_json::from_str(include_str!("../../docs/status.schema.json")).unwrap();
    assert_eq!(vigie_schema::problems(&schema, "", &host.status()), [""; 0]);
    assert!(page.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"), "{page}");
    assert!(page.contains("\nvigie_health "), "{page}");
    assert!(page.contains("vigie_process_resident_memory_bytes "), "{page}");
    assert!(page.contains("vigie_module_state{module=\"fswatch\",state=\"idle\"} 1\n"), "{page}");
    let open = scrape(&host, "Accept: application/openmetrics-text;version=1.0.0\r\n");
    assert!(
        open.contains("Content-Type: application/openmetrics-text") && open.ends_with("# EOF\n"),
        "{open}"
    );
    let mode = std::fs::metadata(host.path("run/metrics.sock")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    std::fs::remove_file(host.path("run/metrics.sock")).unwrap();
    wait_until("the socket is made again", || host.path("run/metrics.sock").exists().then_some(()));
    assert!(scrape(&host, "").contains("vigie_health "));
    let ran = host.vigie(&["metrics"]);
    assert!(ran.code == 0 && ran.out.contains("vigie_build_info{version="), "{ran:?}");
}

/// Asks over loopback, and waits 5 s at most.
fn scrape_soon(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(format!("{REQUEST}\r\n").as_bytes())?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

#[test]
fn scrapers_that_do_not_ask_keep_nobody_waiting_however_many_keep_coming() {
    let port = free_port();
    let host = Host::new(&Settings::default(), &format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n"));
    let agent = host.start();
    let connect = || TcpStream::connect(("127.0.0.1", port)).ok();
    wait_until("the port is served", connect);
    let is_over = std::sync::atomic::AtomicBool::new(false);

    std::thread::scope(|scope| {
        // Each of these users has as many connections as the agent has places, and makes a new one for each that is
        // closed.
        for _ in 0..2 {
            scope.spawn(|| {
                let begin = || {
                    let mut stream = connect().expect("somebody listens");
                    stream.set_read_timeout(Some(Duration::from_millis(1))).expect("not zero");
                    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: loc").ok();
                    stream
                };
                let mut slow: Vec<TcpStream> = (0..20).map(|_| begin()).collect();
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    for stream in &mut slow {
                        let waits = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
                        if !stream.read_exact(&mut [0]).is_err_and(|error| waits(&error)) {
                            *stream = begin();
                        }
                    }
                }
            });
        }
        // On a busy host one may be so slow with its request that it gives way as well.
        let answers = (0..60).map(|_| scrape_soon(port));
        let is_whole =
            |page: &std::io::Result<String>| page.as_ref().is_ok_and(|page| page.contains("vigie_health"));
        let answered = answers.filter(is_whole).take(5).count();
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(answered, 5);
    });

    // Those of the socket are others.
    let _silent: Vec<TcpStream> = (0..40).filter_map(|_| connect()).collect();
    let page = scrape(&host, "");
    assert!(page.contains("vigie_health"), "{page}");
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn loopback_http_answers_its_own_name_only_and_follows_a_reload() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let settings = Settings::default();
    let host = Host::new(&settings, &format!("[metrics]\nlisten = \"127.0.0.1:{port}\"\n"));
    let _agent = host.start();
    wait_until("the port that is taken is told", || {
        let status = host.vigie(&["status", "--json"]);
        status.out.contains("metrics-unavailable").then_some(())
    });

    let other = free_port();
    host.configure(&settings, &format!("[metrics]\nlisten = \"127.0.0.1:{other}\"\n"));
    let reload = host.vigie(&["reload"]);

    assert_eq!(reload.code, 0, "{reload:?}");
    let stream = wait_until("the new port is served", || TcpStream::connect(("127.0.0.1", other)).ok());
    assert!(exchange(stream, &format!("{REQUEST}\r\n")).contains("vigie_config_generation 2\n"));
    let stream = TcpStream::connect(("127.0.0.1", other)).unwrap();
    let refused = exchange(stream, "GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 421 ") && !refused.contains("vigie_"), "{refused}");
    let status = host.vigie(&["status", "--json"]);
    assert!(!status.out.contains("metrics-unavailable"), "{status:?}");
}

#[test]
fn the_file_for_node_exporter_is_written_again_and_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("vigie.prom");
    let section = format!("[metrics]\ntextfile = {file:?}\ntextfile_interval = \"1s\"\n");
    let host = Host::new(&Settings::default(), &section);
    let _agent = host.start();

    let first = wait_until("the file is there", || std::fs::metadata(&file).ok());
    wait_until("it is written again", || {
        let now = std::fs::metadata(&file).ok()?;
        (now.modified().ok()? > first.modified().ok()?).then_some(())
    });

    assert_eq!(first.permissions().mode() & 0o777, 0o644);
    assert!(std::fs::read_to_string(&file).unwrap().contains("\nvigie_health "));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn an_address_that_others_can_reach_is_refused() {
    let host = Host::new(
        &Settings::default(),
        "[metrics]\nlisten = \"0.0.0.0:9469\"\ntextfile = \"/x/vigie.txt\"\n",
    );

    let ran = host.vigie(&["check-config", host.path("vigie.toml").to_str().unwrap()]);

    assert_eq!(ran.code, 78);
    assert!(ran.err.contains("metrics.listen: \"0.0.0.0:9469\" is not a loopback address"), "{ran:?}");
    assert!(ran.err.contains("metrics.textfile: must end in .prom"), "{ran:?}");
}
