use super::*;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, Lines};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// Longest wait for anything here; a ceiling for a broken build.
const CEILING: Duration = Duration::from_secs(30);

/// A module that does what its queries say.
struct Probe {
    host: Host,
    config: Value,
    hang_on_stop: bool,
}

impl PersistentModule for Probe {
    const NAME: &'static str = "probe";
    const RECONFIGURES: bool = true;
    type Config = Value;

    fn start(settings: Settings<Value>, host: Host) -> Result<Self, ModuleError> {
        if settings.config.get("broken").is_some() {
            return Err(ModuleError::io("cannot do that", std::io::Error::other("too difficult")));
        }
        if settings.config.get("hang").is_some() {
            hang();
        }
        let hang_on_stop = settings.config.get("hang_on_stop").is_some();
        Ok(Self { host, config: settings.config, hang_on_stop })
    }

    fn reconfigure(&self, settings: Settings<Value>) -> Result<(), ModuleError> {
        if settings.config.get("broken").is_some() {
            return Err(ModuleError::new("no"));
        }
        self.host.log("reconfigured");
        Ok(())
    }

    fn query(&self, query: Query) -> ModuleResult {
        let asked: Value = query.parse().unwrap();
        match asked.get("alert").and_then(Value::as_str) {
            Some(text) => ModuleResult::found(true, &self.host.alert(text)),
            None => ModuleResult::found(true, &self.config),
        }
    }

    fn acknowledged(&self, id: &str) {
        self.host.log(&format!("acknowledged {id}"));
    }

    fn stop(&self) {
        if self.hang_on_stop {
            hang();
        }
        self.host.log("stopped");
    }
}

/// Never returns, like broken module code.
fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

/// The agent's side of a module's life.
struct Agent {
    dir: tempfile::TempDir,
    stdin: Option<DuplexStream>,
    lines: Lines<BufReader<DuplexStream>>,
    life: JoinHandle<Ended>,
    terminate: Option<oneshot::Sender<()>>,
}

impl Agent {
    fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    fn start_in(dir: tempfile::TempDir) -> Self {
        let (stdin, module_stdin) = tokio::io::duplex(64 * 1024);
        let (module_stdout, stdout) = tokio::io::duplex(4 * 1024);
        let options = ServeOptions { run_dir: dir.path().join("run"), state_dir: None };
        let (terminate, terminated) = oneshot::channel::<()>();
        let life = tokio::spawn(async move {
            let terminated = async {
                if terminated.await.is_err() {
                    std::future::pending().await
                }
            };
            serve::<Probe>(module_stdin, module_stdout, &options, terminated).await
        });
        let lines = BufReader::new(stdout).lines();
        Self { dir, stdin: Some(stdin), lines, life, terminate: Some(terminate) }
    }

    async fn send(&mut self, line: impl AsRef<[u8]>) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(line.as_ref()).await.unwrap();
        stdin.write_all(b"\n").await.unwrap();
    }

    async fn configure(&mut self, config: Value) {
        let statedir = self.dir.path();
        self.send(
            json!({"class": "config", "parameters": {"config": config, "statedir": statedir}}).to_string(),
        )
        .await;
    }

    async fn line(&mut self) -> Value {
        let line = timeout(CEILING, self.lines.next_line()).await.expect("a line comes").unwrap();
        serde_json::from_str(&line.expect("the module has not ended")).unwrap()
    }

    /// Reads until a log line that contains `text`.
    async fn log_with(&mut self, text: &str) -> String {
        loop {
            let line = self.line().await;
            let message = line["parameters"]["message"].as_str().unwrap_or_default().to_owned();
            if line["class"] == "log" && message.contains(text) {
                return message;
            }
        }
    }

    async fn query(&self, parameters: Value) -> ModuleResult {
        let path = self.dir.path().join("run/persist-probe.sock");
        let mut stream = UnixStream::connect(path).await.unwrap();
        let request = json!({"class": "parameters", "parameters": parameters}).to_string() + "\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    async fn ended(self) -> (Ended, Vec<String>) {
        let mut lines = self.lines;
        let mut rest = Vec::new();
        while let Ok(Some(line)) = timeout(CEILING, lines.next_line()).await.expect("stdout ends") {
            rest.push(line);
        }
        (timeout(CEILING, self.life).await.expect("the module ends").unwrap(), rest)
    }
}

const STOP: &str = r#"{"class":"stop"}"#;
const PING: &str = r#"{"class":"ping","parameters":{"nonce":7}}"#;

#[tokio::test]
async fn it_registers_first_and_says_what_it_can() {
    let mut agent = Agent::start();

    let line = agent.line().await;

    let path = agent.dir.path().join("run/persist-probe.sock");
    assert_eq!(line["class"], "register");
    assert_eq!(line["parameters"]["sockpath"], format!("unix:{}", path.display()));
    assert_eq!(line["parameters"]["protocol"], 1);
    assert_eq!(line["parameters"]["capabilities"], json!(["stop", "alert-ack", "configured", "reconfigure"]));
}

#[tokio::test]
async fn it_echoes_pings_before_its_configuration_and_while_its_start_hangs() {
    let mut agent = Agent::start();
    agent.line().await;

    agent.send(PING).await;
    assert_eq!(agent.line().await, json!({"class": "ping", "parameters": {"nonce": 7}}));
    agent.configure(json!({"hang": true})).await;
    agent.log_with("module received configuration").await;
    agent.send(PING).await;

    assert_eq!(agent.line().await["class"], "ping");
}

#[tokio::test]
async fn it_takes_its_configuration_and_answers_queries_with_it() {
    let mut agent = Agent::start();
    agent.line().await;
    agent.configure(json!({"Key": "value"})).await;

    let result = agent.query(json!({})).await;

    assert_eq!(agent.log_with("module").await, "module received configuration");
    assert_eq!(result.elements.unwrap().get(), r#"{"key":"value"}"#);
}

#[tokio::test]
async fn a_further_configuration_reconfigures_it_and_a_bad_one_changes_nothing() {
    let mut agent = Agent::start();
    agent.configure(json!({})).await;
    agent.log_with("module received").await;

    agent.configure(json!({})).await;
    agent.log_with("reconfigured").await;
    agent.configure(json!({"broken": 1})).await;

    assert_eq!(agent.log_with("keeping").await, "keeping the old configuration: no");
    assert!(agent.query(json!({})).await.success);
}

#[tokio::test]
async fn a_configuration_that_it_cannot_work_with_is_logged_and_ends_it_with_78() {
    for line in [
        r#"{"class":"config","parameters":{"config":{"broken":1}}}"#,
        r#"{"class":"config","parameters":[]}"#,
        r#"{"class":"config","parameters":{"tags":{"a":5}}}"#,
    ] {
        let mut agent = Agent::start();
        agent.line().await;

        agent.send(line).await;
        let (ended, lines) = agent.ended().await;

        assert_eq!(ended.code(), 78, "{line}");
        assert!(lines.last().is_some_and(|line| line.contains(r#""class":"log""#)), "{lines:?}");
    }
}

#[tokio::test]
async fn a_line_that_is_not_understood_is_logged_and_the_next_one_is_read() {
    let mut agent = Agent::start();
    agent.line().await;

    for bad in [&b"garbage"[..], b"", b"\xff", b"[1]"] {
        agent.send(bad).await;
        agent.log_with("a line from the agent was dropped").await;
        agent.send(PING).await;
        assert_eq!(agent.line().await["class"], "ping");
    }
}

#[tokio::test]
async fn stop_end_of_input_and_a_signal_end_it_with_0_and_remove_its_socket() {
    for way in ["stop", "end", "signal"] {
        let mut agent = Agent::start();
        agent.configure(json!({})).await;
        agent.log_with("module received").await;
        agent.query(json!({})).await;
        let socket = agent.dir.path().join("run/persist-probe.sock");
        assert!(socket.exists());

        match way {
            "stop" => agent.send(STOP).await,
            "end" => agent.stdin = None,
            _ => agent.terminate.take().unwrap().send(()).unwrap(),
        }
        let (ended, _) = agent.ended().await;

        assert_eq!(ended.code(), 0, "{way}");
        assert!(!socket.exists(), "{way}");
    }
}

#[tokio::test]
async fn module_code_that_hangs_does_not_keep_it_from_stopping() {
    for config in [json!({"hang": true}), json!({"hang_on_stop": true})] {
        let mut agent = Agent::start();
        agent.configure(config).await;
        agent.log_with("module received").await;

        agent.send(STOP).await;

        assert_eq!(agent.ended().await.0.code(), 0);
    }
}

#[tokio::test]
async fn an_agent_that_does_not_read_does_not_keep_it_from_stopping() {
    let mut agent = Agent::start();
    agent.configure(json!({})).await;
    for _ in 0..100 {
        agent.send(r#"{"class":"ping","parameters":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}"#).await;
    }
    agent.send(STOP).await;

    let life = timeout(CEILING, agent.life).await.expect("the module ends").unwrap();

    assert_eq!(life.code(), 0);
}

#[tokio::test]
async fn every_heartbeat_that_came_in_one_write_is_echoed_in_order_also_at_the_end_of_stdin() {
    let mut agent = Agent::start();
    agent.line().await;
    let config = r#"{"class":"config","parameters":{"config":{}}}"#;
    let pings = |from: u64| {
        (from..from + 1_000)
            .map(|nonce| format!("{{\"class\":\"ping\",\"parameters\":{{\"nonce\":{nonce}}}}}\n"))
    };
    let text: String = pings(0).chain([format!("{config}\n")]).chain(pings(1_000)).collect();

    // Nobody reads meanwhile: both pipes are full, and neither side waits for the other for ever.
    let mut stdin = agent.stdin.take().unwrap();
    let writing = tokio::spawn(async move {
        stdin.write_all(text.as_bytes()).await.unwrap();
        drop(stdin);
    });
    let mut echoed = Vec::new();
    while echoed.len() < 2_000 {
        let line = agent.line().await;
        if line["class"] == "ping" {
            echoed.push(line["parameters"]["nonce"].as_u64().unwrap());
        }
    }

    writing.await.unwrap();
    assert_eq!(echoed, (0..2_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_query_socket_that_vanished_is_there_again_with_the_next_heartbeat() {
    let mut agent = Agent::start();
    let first = agent.line().await;
    let path = first["parameters"]["sockpath"].as_str().unwrap().strip_prefix("unix:").unwrap().to_owned();
    std::fs::remove_file(&path).unwrap();

    agent.send(PING).await;

    let again = loop {
        let line = agent.line().await;
        if line["class"] == "register" {
            break line;
        }
    };
    assert_eq!(again["parameters"]["sockpath"], first["parameters"]["sockpath"]);
    std::os::unix::net::UnixStream::connect(&path).unwrap();
}

#[tokio::test]
async fn a_second_copy_does_not_take_the_place_of_a_living_one() {
    let mut agent = Agent::start();
    let first = agent.line().await;
    let path = first["parameters"]["sockpath"].as_str().unwrap().strip_prefix("unix:").unwrap().to_owned();
    let path = std::path::Path::new(&path);
    let name = path.file_stem().unwrap().to_str().unwrap().strip_prefix("persist-").unwrap();

    let second = crate::listener::QueryListener::bind_unix(path.parent().unwrap(), name).unwrap_err();

    assert!(second.to_string().contains("another process listens"), "{second}");
}

#[tokio::test]
async fn an_agent_that_closed_the_pipe_ends_it() {
    let mut agent = Agent::start();
    agent.line().await;
    let Agent { lines, life, stdin, .. } = agent;
    drop(lines);
    let mut stdin = stdin.unwrap();

    stdin.write_all(PING.as_bytes()).await.unwrap();
    stdin.write_all(b"\n").await.unwrap();

    assert!(matches!(timeout(CEILING, life).await.expect("the module ends").unwrap(), Ended::AgentGone));
}

#[tokio::test]
async fn an_alert_keeps_its_id_over_lives_until_it_is_acknowledged() {
    let mut agent = Agent::start();
    agent.line().await;
    agent.configure(json!({})).await;
    let result = agent.query(json!({"alert": "fire"})).await;
    let id: String = serde_json::from_str(result.elements.unwrap().get()).unwrap();
    agent.send(STOP).await;
    let Agent { dir, life, .. } = agent;
    drop(timeout(CEILING, life).await.expect("the module ends"));

    let mut agent = Agent::start_in(dir);
    agent.configure(json!({})).await;
    let alert = loop {
        let line = agent.line().await;
        if line["class"] == "alert" {
            break line;
        }
    };
    assert_eq!(alert["parameters"], json!({"id": id, "message": "fire"}));
    agent.send(json!({"class": "ack", "parameters": {"id": id}}).to_string()).await;
    agent.log_with(&format!("acknowledged {id}")).await;
    agent.send(STOP).await;
    let Agent { dir, life, .. } = agent;
    drop(timeout(CEILING, life).await.expect("the module ends"));

    let mut agent = Agent::start_in(dir);
    agent.configure(json!({})).await;
    agent.log_with("module received").await;
    agent.send(STOP).await;
    let (_, lines) = agent.ended().await;
    assert!(!lines.iter().any(|line| line.contains("alert")), "{lines:?}");
}

#[tokio::test]
async fn a_run_directory_that_is_not_safe_is_logged_and_ends_it() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    std::fs::create_dir(&run).unwrap();
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o777)).unwrap();

    let (ended, lines) = Agent::start_in(dir).ended().await;

    assert_eq!(ended.code(), 69);
    assert!(lines[0].contains("is not safe"), "{lines:?}");
}

/// A bound without memory that is taken for it.
#[test]
fn no_more_than_the_bound_waits_for_module_code_that_hangs() {
    let (module, _) = watch::channel(None::<Arc<Probe>>);
    let (mut worker, _failure) = Worker::start(Outbox::new(), None, module);
    let config = serde_json::value::to_raw_value(&json!({"hang": true})).unwrap();
    worker.configure::<Probe>(ConfigParameters { config: Some(config), ..ConfigParameters::default() });
    while worker.waiting.load(Ordering::Relaxed) > 0 {
        std::thread::yield_now();
    }

    let taken = (0..2 * WORKER_QUEUE).filter(|_| worker.put(Order::Heartbeat)).count();

    assert_eq!(taken, WORKER_QUEUE);
}
