//! An agent in a temporary directory: started, asked, watched, and stopped without leaving anything behind.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::forms;

/// The program under test.
pub(crate) const VIGIE: &str = env!("CARGO_BIN_EXE_vigie");

/// Longest wait for anything; never reached when all is well, so slow machines may take their time.
const CEILING: Duration = Duration::from_secs(30);

/// Looks at a condition until it holds, and fails the test when that takes longer than [`CEILING`].
#[expect(clippy::disallowed_methods, reason = "other processes are watched, which announce nothing")]
pub(crate) fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = std::time::Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < CEILING, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Path of a fixture module.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/modules").join(name)
}

/// The Python interpreter itself: what is found in `PATH` may be a script that needs more of an environment
/// than modules get.
pub(crate) fn python() -> &'static str {
    static PYTHON: OnceLock<String> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let output = Command::new("python3")
            .args(["-c", "import sys; print(sys.executable)"])
            .output()
            .expect("these tests need python3");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    })
}

/// `[[module]]` of a fixture; `more` is further TOML, such as `restart = "temporary"`.
pub(crate) fn module(kind: &str, name: &str, script: &str, arguments: &[&str], more: &str) -> String {
    let path = fixture(script);
    let mut command: Vec<&str> =
        if script.ends_with(".py") { vec![python(), "-BS"] } else { vec!["/bin/sh"] };
    command.push(path.to_str().unwrap());
    command.extend(arguments);
    // JSON's form of a list of texts is TOML's as well.
    let command = serde_json::to_string(&command).unwrap();
    format!("[[module]]\nname = \"{name}\"\nkind = \"{kind}\"\ncommand = {command}\n{more}\n")
}

/// `[[module]]` of a persistent fixture that is named after its script.
pub(crate) fn persistent(script: &str, arguments: &[&str]) -> String {
    module("persistent", script.split('.').next().unwrap(), script, arguments, "")
}

/// `[[module]]` of a standard fixture that is named after its script.
pub(crate) fn standard(script: &str) -> String {
    module("standard", script.split('.').next().unwrap(), script, &[], "")
}

/// What a configuration begins with; a test changes what it is about.
pub(crate) struct Settings {
    /// Further keys of `[agent]`.
    pub(crate) agent: &'static str,
    /// `heartbeat_interval`; three misses kill a module.
    pub(crate) heartbeat: &'static str,
    /// Whether fswatch runs, with the files of `modules.d`.
    pub(crate) fswatch: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { agent: "", heartbeat: "2s", fswatch: false }
    }
}

/// The short heartbeat of tests that wait for one to be missed.
pub(crate) const IMPATIENT: Settings = Settings { agent: "", heartbeat: "300ms", fswatch: false };

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A directory with everything that one agent needs.
pub(crate) struct Host {
    directory: TempDir,
}

impl Host {
    /// Makes the directory and writes the configuration: `settings`, then `rest`, which may begin with further
    /// keys of `[logging]`.
    pub(crate) fn new(settings: &Settings, rest: &str) -> Self {
        let host = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(host.path("modules.d")).unwrap();
        host.configure(settings, rest);
        host
    }

    /// Writes the configuration anew.
    pub(crate) fn configure(&self, settings: &Settings, rest: &str) {
        let text = self.configuration(settings, rest);
        // As editors do: there is never half a file.
        fs::write(self.path("vigie.toml.new"), text).unwrap();
        fs::rename(self.path("vigie.toml.new"), self.path("vigie.toml")).unwrap();
    }

    /// The text of a configuration.
    pub(crate) fn configuration(&self, settings: &Settings, rest: &str) -> String {
        let root = self.directory.path().display();
        let Settings { agent, heartbeat, fswatch } = settings;
        format!(
            "[agent]\nrun_dir = \"{root}/run\"\nstate_dir = \"{root}/state\"\n\
             persistconfigdir = \"{root}/modules.d\"\nheartbeat_interval = \"{heartbeat}\"\n\
             stop_grace = \"2s\"\nstop_budget = \"4s\"\n{agent}\n\
             [logging]\nmode = \"file\"\nfile = \"{root}/agent.log\"\n\
             {rest}\n[[module]]\nname = \"fswatch\"\nkind = \"persistent\"\nenabled = {fswatch}\n"
        )
    }

    /// A path in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts the agent and waits until it can be asked.
    pub(crate) fn start(&self) -> Agent<'_> {
        self.start_by(&[])
    }

    /// The same, through a command that changes what the agent's process has, such as `prlimit`.
    pub(crate) fn start_by(&self, command: &[&str]) -> Agent<'_> {
        let mut agent = self.launch_by(command);
        self.wait_answers(&mut agent);
        agent
    }

    /// Waits until an agent that was launched answers.
    pub(crate) fn wait_answers(&self, agent: &mut Agent<'_>) {
        wait_until("the agent answers", || {
            agent.assert_runs();
            self.try_ask(&json!({"status": {}}))
        });
    }

    /// Starts the agent and waits for nothing.
    pub(crate) fn launch(&self) -> Agent<'_> {
        self.launch_by(&[])
    }

    /// The same, through a command.
    pub(crate) fn launch_by(&self, command: &[&str]) -> Agent<'_> {
        let errors = File::options().create(true).append(true).open(self.path("agent.err")).unwrap();
        let words = [command, &[VIGIE, "agent", "--config"]].concat();
        let child = Command::new(words[0])
            .args(&words[1..])
            .arg(self.path("vigie.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .unwrap();
        Agent { host: self, child, ended: false, leaves_modules: false }
    }

    /// Makes everything here another user's.
    pub(crate) fn give_to(&self, user: u32) {
        let ran = Command::new("chown")
            .args(["-R", &format!("{user}:{user}")])
            .arg(self.directory.path())
            .status()
            .unwrap();
        assert!(ran.success());
    }

    /// Starts a `vigie` command that asks this agent, its output in `out` and `err` of a directory of its own.
    pub(crate) fn begin(&self, arguments: &[&str]) -> Running {
        let outputs = tempfile::tempdir().unwrap();
        let output = |name: &str| File::create(outputs.path().join(name)).unwrap();
        let child = Command::new(VIGIE)
            .args(arguments)
            .arg("--run-dir")
            .arg(self.path("run"))
            .stdin(Stdio::null())
            .stdout(output("out"))
            .stderr(output("err"))
            .spawn()
            .unwrap();
        let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        Running { child, outputs, arguments }
    }

    /// Runs a `vigie` command to its end.
    pub(crate) fn vigie(&self, arguments: &[&str]) -> Ran {
        self.begin(arguments).finish()
    }

    /// Connects to the agent's socket.
    pub(crate) fn connect(&self) -> std::io::Result<Conversation> {
        let stream = UnixStream::connect(self.path("run/agent.sock"))?;
        stream.set_read_timeout(Some(CEILING))?;
        stream.set_write_timeout(Some(CEILING))?;
        Ok(Conversation { reader: BufReader::new(stream) })
    }

    /// Asks the agent on a connection of its own.
    pub(crate) fn ask(&self, request: &Value) -> Value {
        self.try_ask(request).expect("the agent does not answer")
    }

    fn try_ask(&self, request: &Value) -> Option<Value> {
        let mut conversation = self.connect().ok()?;
        conversation.send(request).ok()?;
        conversation.receive()
    }

    /// How the agent is.
    pub(crate) fn status(&self) -> Value {
        self.ask(&json!({"status": {}}))["status"].take()
    }

    /// How a module is; `null` when there is none of that name.
    pub(crate) fn module(&self, name: &str) -> Value {
        let mut status = self.status();
        let modules = status["modules"].as_array_mut().unwrap();
        modules.iter_mut().find(|module| module["name"] == name).map(Value::take).unwrap_or_default()
    }

    /// Waits until a module is as `is_so` wants it.
    pub(crate) fn wait_for(&self, name: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut newest = Value::Null;
        wait_until(&format!("module {name} changes"), || {
            let module = self.module(name);
            if newest["state"] != module["state"] || newest["pid"] != module["pid"] {
                newest = module.clone();
                println!("{newest}");
            }
            is_so(&module).then_some(module)
        })
    }

    /// Waits until a condition of a module stands, and returns it; `agent` is the agent itself.
    pub(crate) fn wait_condition(&self, about: &str, name: &str) -> Value {
        wait_until(&format!("condition {name} of {about}"), || self.condition(about, name))
    }

    /// A condition of a module, or of the `agent` itself, if it stands.
    pub(crate) fn condition(&self, about: &str, name: &str) -> Option<Value> {
        let status = self.status();
        let about = if about == "agent" { json!("agent") } else { json!({ "module": about }) };
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|one| one["about"] == about && one["name"] == name)
    }

    /// Waits until a module answers heartbeats.
    pub(crate) fn wait_running(&self, name: &str) -> Value {
        self.wait_for(name, |module| module["state"] == "running")
    }

    /// Waits until a module can be queried.
    pub(crate) fn wait_ready(&self, name: &str) -> Value {
        self.wait_for(name, |module| module["state"] == "running" && module["socket"].is_string())
    }

    /// Waits until fswatch knows what is there, so that from now on each change is an alert; returns its status.
    pub(crate) fn wait_baseline(&self) -> Value {
        self.wait_ready("fswatch");
        wait_until("the baseline is complete", || {
            let elements = self.query("fswatch", &json!({}))["result"]["elements"].take();
            (elements["baseline_complete"] == true).then_some(elements)
        })
    }

    /// Asks a module through the agent; the answer is `{"result": …}` or `{"error": …}`.
    pub(crate) fn query(&self, module: &str, parameters: &Value) -> Value {
        self.ask(&json!({"query": {"module": module, "parameters": parameters, "timeout_ms": 20_000}}))
    }

    /// The agent's log so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("agent.log")).unwrap_or_default()).into_owned()
    }

    /// Waits for a text in the agent's log.
    pub(crate) fn wait_log(&self, text: &str) {
        wait_until(&format!("the log says {text:?}"), || self.log().contains(text).then_some(()));
    }

    /// The processes of this host's modules, children of theirs included.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let wanted = format!("VIGIE_RUN_DIR={}", self.path("run").display());
        let pids = fs::read_dir("/proc").unwrap().flatten();
        pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| {
                // A process that is gone, or only waits to be reaped, has no environment.
                let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                environment.split(|&byte| byte == 0).any(|variable| variable == wanted.as_bytes())
            })
            .collect()
    }

    /// Waits until no process of a module is left.
    pub(crate) fn wait_empty(&self) {
        wait_until("all modules are gone", || self.processes().is_empty().then_some(()));
    }

    /// The journal's records as clients get them, read from the disk.
    pub(crate) fn journal(&self) -> Vec<Value> {
        Self::journal_in(&self.path("state/journal"))
    }

    /// The same, of a journal elsewhere.
    pub(crate) fn journal_in(directory: &Path) -> Vec<Value> {
        let Ok(files) = fs::read_dir(directory) else { return Vec::new() };
        let mut files: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
        files.sort();
        let text: String = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        let records = lines.filter(|line: &Value| line.get("seq").is_some());
        let without_sums = |mut record: Value| {
            record.as_object_mut().unwrap().retain(|key, _| !["severity", "p", "c"].contains(&&key[..]));
            record
        };
        records.map(without_sums).collect()
    }
}

/// A command that runs.
pub(crate) struct Running {
    child: Child,
    outputs: TempDir,
    arguments: Vec<String>,
}

impl Running {
    /// What it printed so far.
    pub(crate) fn out(&self) -> String {
        fs::read_to_string(self.outputs.path().join("out")).unwrap()
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self) -> Ran {
        let status = wait_until("the command ends", || self.child.try_wait().unwrap());
        let err = fs::read_to_string(self.outputs.path().join("err")).unwrap();
        let ran = Ran { code: status.code().unwrap_or(-1), out: self.out(), err };
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        forms::check(&arguments, &ran.out);
        ran
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only this very child, and nothing when it has ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// One connection to the agent's socket.
pub(crate) struct Conversation {
    reader: BufReader<UnixStream>,
}

impl Conversation {
    /// Sends one request.
    pub(crate) fn send(&mut self, request: &Value) -> std::io::Result<()> {
        self.send_bytes(format!("{request}\n").as_bytes())
    }

    /// Sends anything.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// The next reply; `None` when the agent has closed the connection.
    pub(crate) fn receive(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => serde_json::from_str(&line).ok(),
        }
    }
}

/// A started agent; stopped when it goes out of scope.
pub(crate) struct Agent<'a> {
    host: &'a Host,
    child: Child,
    ended: bool,
    /// Its modules may outlive it.
    leaves_modules: bool,
}

impl Agent<'_> {
    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Fails the test when it has ended.
    pub(crate) fn assert_runs(&mut self) {
        if let Some(status) = self.ended() {
            panic!("the agent ended with {status}");
        }
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().unwrap();
        self.ended |= status.is_some();
        status
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_until("the agent ends", || self.ended())
    }

    /// Stops it with SIGTERM and returns its exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.wait().code()
    }

    /// Kills it without warning.
    pub(crate) fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.wait();
    }

    /// The same where no guard ends its modules: the next agent does.
    pub(crate) fn kill_without_guard(mut self) {
        self.leaves_modules = true;
        self.kill();
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("---- agent.log\n{}", cut(&self.host.log()));
            let errors = fs::read_to_string(self.host.path("agent.err")).unwrap_or_default();
            println!("---- agent.err\n{}", cut(&errors));
            if !self.ended {
                self.child.kill().ok();
                self.child.wait().ok();
            }
            return;
        }
        if !self.ended {
            self.signal(Signal::SIGTERM);
            let status = self.wait();
            assert!(status.success(), "the agent ended with {status}");
        }
        if !self.leaves_modules {
            self.host.wait_empty();
        }
    }
}

/// The end of a long text.
fn cut(text: &str) -> &str {
    let start = text.len().saturating_sub(20_000);
    text.get(text.ceil_char_boundary(start)..).unwrap_or_default()
}

/// Sends a signal to a process that the status named.
pub(crate) fn signal(pid: &Value, signal: Signal) {
    kill(Pid::from_raw(pid.as_i64().unwrap().try_into().unwrap()), signal).unwrap();
}

/// A field of `/proc/PID/status` in KiB.
pub(crate) fn process_kib(pid: Pid, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

/// Number of open descriptors of a process.
pub(crate) fn open_files(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}
