//! What sinks send to: an HTTP server of the test, rsyslog, and files that they write.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use crate::harness::wait_until;

/// A request that an HTTP server got.
#[derive(Debug, Clone, Default)]
pub(crate) struct Got {
    /// The first line.
    pub(crate) line: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

/// What it does with a request: the answer as it is sent; nothing closes the connection without one.
type Answers = dyn Fn(&Got, usize) -> Option<Vec<u8>> + Send + Sync;

/// An HTTP server that keeps what it gets.
pub(crate) struct Receiver {
    pub(crate) port: u16,
    got: Arc<Mutex<Vec<Got>>>,
}

/// An answer with a status, headers and a body.
pub(crate) fn status(status: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

impl Receiver {
    /// Serves until the test ends.
    pub(crate) fn start(answers: impl Fn(&Got, usize) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        Self::start_at(0, answers)
    }

    /// The same at a port that is free.
    pub(crate) fn start_at(
        port: u16,
        answers: impl Fn(&Got, usize) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let got = Arc::new(Mutex::new(Vec::new()));
        let (kept, answers): (_, Arc<Answers>) = (got.clone(), Arc::new(answers));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, answers) = (kept.clone(), answers.clone());
                std::thread::spawn(move || serve(stream, &kept, &*answers));
            }
        });
        Self { port, got }
    }

    /// Everything that came so far.
    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/in/secret-path", self.port)
    }
}

fn serve(stream: TcpStream, kept: &Mutex<Vec<Got>>, answers: &Answers) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let mut got = Got::default();
        reader.read_line(&mut got.line).ok().filter(|count| *count > 0)?;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            got.headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let length = got.headers.get("content-length")?.parse().ok()?;
        got.body.resize(length, 0);
        reader.read_exact(&mut got.body).ok()?;
        let number = {
            let mut kept = kept.lock().unwrap();
            kept.push(got.clone());
            kept.len() - 1
        };
        stream.write_all(&answers(&got, number)?).ok()?;
    }
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Where a program is, also where the PATH of plain users does not lead.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    path.split(':').map(|directory| Path::new(directory).join(name)).find(|path| path.is_file())
}

/// Makes an authority's `ca.pem`, and `server.pem` with `server.key` for 127.0.0.1.
pub(crate) fn make_certificates(directory: &Path) {
    make_certificates_for(directory, 400);
}

/// The same; the server's ends after so many days.
pub(crate) fn make_certificates_for(directory: &Path, days: u32) {
    let run = |arguments: &str| {
        let ran = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output();
        let ran = ran.expect("these tests need openssl");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    };
    run(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 400 -subj /CN=test-authority",
    );
    fs::write(directory.join("server.ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    run(
        "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key -out server.csr -subj /CN=test",
    );
    run(&format!(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days {days} -extfile server.ext"
    ));
}

/// A rsyslog of the test, in a directory of its own.
pub(crate) struct Rsyslog {
    directory: TempDir,
    program: PathBuf,
    process: Option<Child>,
    pub(crate) relp: u16,
    pub(crate) tcp: u16,
    pub(crate) tls: u16,
    pub(crate) udp: u16,
}

impl Rsyslog {
    /// Starts it; nothing where it is not installed. `outputs` is where it writes `relp`, `tcp`, `tls` and `udp`.
    pub(crate) fn start(outputs: Option<&Path>) -> Option<Self> {
        let (Some(program), Some(_)) = (program("rsyslogd"), program("openssl")) else {
            vigie_skipped::missing("rsyslogd or openssl");
            return None;
        };
        if !["/usr/lib", "/lib"].iter().any(|lib| find(Path::new(lib), "imrelp.so", 3)) {
            vigie_skipped::missing("rsyslog-relp");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let [relp, tcp, tls, udp] = [(); 4].map(|()| free_port());
        make_certificates(directory.path());
        let rsyslog = Self { directory, program, process: None, relp, tcp, tls, udp };
        rsyslog.configure(outputs);
        let mut rsyslog = rsyslog;
        rsyslog.restart();
        Some(rsyslog)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn configure(&self, outputs: Option<&Path>) {
        let own = self.directory.path();
        let (own, out) = (own.display(), outputs.unwrap_or(own).display());
        let Self { relp, tcp, tls, udp, .. } = self;
        let rules: String = ["relp", "tcp", "tls", "udp"]
            .iter()
            .map(|name| {
                format!(
                    "ruleset(name=\"{name}\") {{ action(type=\"omfile\" file=\"{out}/{name}\" template=\"raw\" \
                     flushOnTXEnd=\"on\" action.resumeRetryCount=\"-1\" action.resumeInterval=\"1\") }}\n"
                )
            })
            .collect();
        let text = format!(
            "global(workDirectory=\"{own}\" maxMessageSize=\"64k\" defaultNetstreamDriverCAFile=\"{own}/ca.pem\"\n\
             defaultNetstreamDriverCertFile=\"{own}/server.pem\" defaultNetstreamDriverKeyFile=\"{own}/server.key\")\n\
             module(load=\"imtcp\")\nmodule(load=\"imudp\")\nmodule(load=\"imrelp\")\n\
             main_queue(queue.type=\"Direct\")\n\
             template(name=\"raw\" type=\"string\" string=\"%rawmsg%\\n\")\n{rules}\
             input(type=\"imrelp\" port=\"{relp}\" address=\"127.0.0.1\" ruleset=\"relp\" maxDataSize=\"64k\")\n\
             input(type=\"imtcp\" port=\"{tcp}\" address=\"127.0.0.1\" ruleset=\"tcp\")\n\
             input(type=\"imtcp\" port=\"{tls}\" address=\"127.0.0.1\" ruleset=\"tls\" StreamDriver.Name=\"ossl\"\n\
             StreamDriver.Mode=\"1\" StreamDriver.AuthMode=\"anon\")\n\
             input(type=\"imudp\" port=\"{udp}\" address=\"127.0.0.1\" ruleset=\"udp\")\n"
        );
        fs::write(self.path("rsyslog.conf"), text).unwrap();
    }

    /// Starts it, and waits until it listens.
    pub(crate) fn restart(&mut self) {
        fs::remove_file(self.path("pid")).ok();
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let process = Command::new(&self.program)
            .args(["-n", "-i"])
            .arg(self.path("pid"))
            .arg("-f")
            .arg(self.path("rsyslog.conf"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        for port in [self.relp, self.tcp, self.tls] {
            wait_until("rsyslog listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        }
    }

    /// Kills it without warning.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// The lines that came one way.
    pub(crate) fn lines(&self, way: &str) -> Vec<String> {
        lines(&self.path(way))
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("---- rsyslog\n{}", fs::read_to_string(self.path("log")).unwrap_or_default());
        }
        self.kill();
    }
}

fn find(directory: &Path, name: &str, depth: usize) -> bool {
    let Ok(entries) = fs::read_dir(directory) else { return false };
    entries.flatten().any(|entry| {
        entry.file_name() == name
            || depth > 0 && entry.path().is_dir() && find(&entry.path(), name, depth - 1)
    })
}

/// The lines of a file that others write.
pub(crate) fn lines(path: &Path) -> Vec<String> {
    let text = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
}
