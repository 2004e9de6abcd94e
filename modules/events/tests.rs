//! The engine on this host's kernel: rules fired by doing it, ordinary work without alerts, questions to the history.

#![expect(clippy::disallowed_methods, reason = "tests of the kernel run in real time only")]

use std::cell::RefCell;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vigie_kernel_events::SourceKind;
use vigie_sdk::{Condition, Query};

use crate::config::{Config, Setup};
use crate::engine::{Engine, Sink, now};
use crate::history::lanes::Lane;
use crate::parameters::Parameters;
use crate::record::{Key, Kind, Outcome, Record, Socket, What};
use crate::search::{Found, History};
use crate::{answer, rules};

/// What the engine told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    alerts: Rc<RefCell<Vec<Value>>>,
    health: Rc<RefCell<Vec<Condition>>>,
}

impl Told {
    pub(crate) fn alerts(&self) -> Vec<Value> {
        self.alerts.borrow().clone()
    }
}

impl Sink for Told {
    fn alert(&self, text: &str) {
        self.alerts.borrow_mut().push(serde_json::from_str(text).expect("an alert is JSON"));
    }

    fn log(&self, _: &str) {}

    fn health(&self, conditions: Vec<Condition>) {
        *self.health.borrow_mut() = conditions;
    }
}

pub(crate) fn canary() -> Command {
    Command::new("/bin/true")
}

/// Says why a test does not run, which is a failure where BPF must work.
pub(crate) fn skip<T>(why: &str) -> Option<T> {
    vigie_skipped::without_bpf(why);
    None
}

pub(crate) fn setup(config: Value) -> Setup {
    let config: Config = serde_json::from_value(config).expect("the configuration is right");
    Setup::of(&config, &Default::default()).expect("the configuration is right")
}

/// An engine on BPF, that has proved its source.
pub(crate) fn engine(dir: &Path, config: Value) -> Option<(Engine<Told>, Told)> {
    let told = Told::default();
    let mut engine = Engine::new(told.clone(), setup(config), Some(dir.join("history")), canary);
    let look = engine.look();
    if look.source != Some(SourceKind::Bpf) {
        return skip(&format!("BPF cannot be loaded here: {:?}", look.not_used));
    }
    wait(&mut engine, "the source is proved", |engine, _| engine.look().proved.is_some(), &told);
    Some((engine, told))
}

pub(crate) fn wait(
    engine: &mut Engine<Told>,
    what: &str,
    done: impl Fn(&Engine<Told>, &Told) -> bool,
    told: &Told,
) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !done(engine, told) {
        assert!(Instant::now() < deadline, "not within 40 s: {what}");
        engine.step(Duration::from_millis(20));
    }
}

/// Puts programs for triggers into a directory and gives the shell functions that make more.
const FUNCTIONS: &str = r#"
noop() { cp /bin/true "$D/$1"; }
compile() { printf '%b' "$2" > "$D/$1.c" && cc -o "$D/$1" "$D/$1.c"; }
"#;

/// Runs a script whose ancestors are none of the programs that run these tests, and reads events meanwhile.
pub(crate) fn trigger(engine: &mut Engine<Told>, dir: &Path, script: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = listener.local_addr().expect("it is bound").port();
    let file = dir.join("trigger.script");
    std::fs::write(&file, format!("{FUNCTIONS}\n{script}")).expect("it can be written");
    // The inner shell waits until the outer one is gone and process 1, or what stands for it, is its parent.
    let mut outer = Command::new("bash")
        .args(["-c", "(while kill -0 $$ 2>/dev/null; do :; done; bash \"$0\" >/dev/null 2>&1) & exit 0"])
        .arg(&file)
        .env("D", dir)
        .env("PORT", port.to_string())
        // Cargo sets it, and a checkout may lie where everybody may write.
        .env_remove("LD_LIBRARY_PATH")
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("bash");
    let mut end = outer.stdout.take().expect("it is piped");
    outer.wait().expect("it ends");
    let waiting = std::thread::spawn(move || std::io::copy(&mut end, &mut std::io::sink()));
    while !waiting.is_finished() {
        engine.step(Duration::from_millis(20));
    }
    waiting.join().expect("it only reads").expect("a pipe can be read");
}

pub(crate) fn is_from(alert: &Value, dir: &Path) -> bool {
    alert.to_string().contains(&*dir.to_string_lossy())
}

#[test]
fn each_built_in_rule_is_fired_by_doing_it() {
    let dir = tempfile::tempdir().unwrap();
    let Some((mut engine, told)) = engine(dir.path(), json!({})) else { return };
    let mut silent = Vec::new();
    for rule in rules::parse(rules::BUILTIN).unwrap() {
        let work = tempfile::Builder::new().prefix("work").tempdir().unwrap();
        std::fs::set_permissions(work.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        trigger(&mut engine, work.path(), rule.trigger.as_deref().expect("each has one"));
        let fired = |told: &Told| told.alerts.borrow().iter().any(|alert| alert["rule"] == *rule.id);
        let deadline = Instant::now() + Duration::from_secs(5);
        while !fired(&told) && Instant::now() < deadline {
            engine.step(Duration::from_millis(20));
        }
        if !fired(&told) {
            silent.push(rule.id);
        }
    }

    assert_eq!(silent, Vec::<String>::new(), "rules that did not fire");
}

/// Waits until everything that a script did is read: what comes after it is told (by the rule `module-load`).
pub(crate) fn all_is_read(engine: &mut Engine<Told>, told: &Told, work: &Path) {
    let end = work.join("insmod");
    vigie_skipped::copy_program(Path::new("/bin/true"), &end);
    Command::new(&end).env_remove("LD_LIBRARY_PATH").status().expect("it runs");
    let is_end = |alert: &Value| alert["rule"] == "module-load" && is_from(alert, work);
    wait(engine, "the end is told", |_, told| told.alerts.borrow().iter().any(is_end), told);
}

/// A day's ordinary work: what peers' rules are known to take for attacks.
const ORDINARY: &str = r#"
mkdir -p $D/repo $D/build $D/backup
cd $D/repo
git init -q . 2>/dev/null && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x 2>/dev/null
printf 'int main(void){return 0;}\n' > a.c
printf 'all: a\na: a.c\n\tcc -o a a.c\n\t./a\n' > Makefile
make >/dev/null 2>&1
cp a $D/build/tool && $D/build/tool
sh -c 'sh -c "echo hello | grep -q hello && true"'
echo 'print(1)' | python3 - >/dev/null
python3 -c 'import json,subprocess; subprocess.run(["true"])'
python3 -m venv --without-pip $D/venv >/dev/null 2>&1 && $D/venv/bin/python -c 'print(1)' >/dev/null
tar czf $D/backup/etc.tgz -C /etc hostname passwd 2>/dev/null
find /usr/share -maxdepth 1 -type d | sort | head -3 >/dev/null
dpkg -l 2>/dev/null | awk '/^ii/ {print $2}' | tail -2 >/dev/null
apt-get --version >/dev/null 2>&1
getent passwd root >/dev/null; id >/dev/null; uname -a >/dev/null; ps aux >/dev/null 2>&1; df -h >/dev/null
touch $D/log.1; mv $D/log.1 $D/log.2; gzip $D/log.2; rm $D/log.2.gz
chmod 755 $D/build; chmod u+x,g-w $D/build/tool; install -m 755 $D/build/tool $D/tool2
printf 'x' | base64 | base64 -d > $D/decoded
printf 'a\nb\n' | xargs -n1 echo >/dev/null
timeout 5 true; nice true; env X=1 true; nohup true >/dev/null 2>&1
bash -lc 'true' ; bash -c 'for i in 1 2 3; do /bin/true; done'
strace -f -o /dev/null true 2>/dev/null
perl -e 'print 1' >/dev/null 2>&1
python3 -c 'import socket
s=socket.socket();s.bind(("127.0.0.1",0));s.listen()
c=socket.create_connection(s.getsockname());c.close()'
sha256sum /bin/true >/dev/null; cat /etc/hostname >/dev/null 2>&1; ls -la /etc/cron.d >/dev/null 2>&1
date >/dev/null; date -Iseconds >/dev/null; date -d yesterday >/dev/null; diff <(echo a) <(echo a); bash <(echo true); crontab -l >/dev/null 2>&1
noop curl; $D/curl -fs -o /dev/null http://localhost/health; $D/curl -s http://localhost/health | grep -q ok; cc -o $D/t a.c && $D/t
if X=$(mktemp -d /opt/vigie-service.XXXXXX); then
    cp $(readlink -f /usr/bin/python3) $X/xinetd
    echo 'uname -a; cat /etc/hostname; ls /; id' > $D/agent.sh
    $X/xinetd -c 'import socket,subprocess,sys
s=socket.create_connection(("127.0.0.1",int(sys.argv[1])))
subprocess.run(["bash",sys.argv[2]],stdin=subprocess.DEVNULL,stdout=s)' $PORT $D/agent.sh
    rm -r $X
fi
"#;

#[test]
fn ordinary_work_raises_no_alert() {
    let dir = tempfile::tempdir().unwrap();
    let Some((mut engine, told)) = engine(dir.path(), json!({})) else { return };
    let work = tempfile::Builder::new().prefix("work").tempdir().unwrap();
    trigger(&mut engine, work.path(), ORDINARY);
    all_is_read(&mut engine, &told, work.path());

    let alerts = told.alerts.borrow();
    let wrong: Vec<&Value> =
        alerts.iter().filter(|alert| is_from(alert, work.path()) && alert["rule"] != "module-load").collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_login_session_of_the_kernel_is_a_login_and_its_end_a_logout() {
    let dir = tempfile::tempdir().unwrap();
    let Some((mut engine, told)) = engine(dir.path(), json!({})) else { return };
    let code = "open('/proc/self/loginuid','w').write('4242')\nimport os\nos.execv('/bin/true',['true'])";
    let status = Command::new("python3").args(["-c", code]).stderr(Stdio::null()).status().expect("python3");
    if !status.success() {
        return skip("the login user cannot be set here").unwrap_or(());
    }
    let find = |engine: &Engine<Told>, kind: &str| {
        let found = ask(&dir.path().join("history"), engine, json!({"kind": [kind]}));
        found.hits.iter().any(|hit| {
            matches!(&hit.record.what, What::Login(session) | What::Logout(session) if session.user == b"4242")
        })
    };
    wait(&mut engine, "the login", |engine, _| find(engine, "login"), &told);
    wait(&mut engine, "the logout", |engine, _| find(engine, "logout"), &told);
}

fn query(parameters: &Value) -> Query {
    Query::new(Some(serde_json::value::to_raw_value(parameters).expect("JSON")))
}

/// Asks the open block and the sealed ones.
fn ask(dir: &Path, engine: &Engine<Told>, parameters: Value) -> Found {
    search(dir, engine.look().open, &parameters)
}

pub(crate) fn search(dir: &Path, open: Vec<(Lane, u64, Vec<u8>)>, parameters: &Value) -> Found {
    let names = vigie_host::users::Names::of(Path::new("/"));
    let history = History { dir, open, is_stopped: &|| false };
    match Parameters::of(&query(parameters), &names, now()).expect("the question is right") {
        Parameters::Events(wanted) => history.events(&wanted),
        Parameters::Tree { pid, start, time, limit } => history.tree(pid, start, time, limit),
        other => panic!("{other:?} asks for no events"),
    }
}

#[test]
fn what_ran_is_found_by_path_user_digest_and_as_a_tree() {
    let dir = tempfile::tempdir().unwrap();
    let Some((mut engine, told)) = engine(dir.path(), json!({})) else { return };
    let program = dir.path().join("wanted");
    // Other tests run copies of the same program: this one has a digest and arguments of its own.
    let mark = dir.path().file_name().unwrap().to_str().unwrap();
    let path = program.display();
    let append = format!("cp /bin/true {path} && printf {mark} >> {path}");
    assert!(Command::new("sh").args(["-c", &append]).status().unwrap().success());
    let script = format!("{path} 'two words {mark}'; exit 4");
    let mut child = Command::new("sh").args(["-c", &script]).spawn().unwrap();
    let shell = child.id();
    child.wait().unwrap();
    let history = dir.path().join("history");
    let pattern = format!("{}/*", dir.path().display());

    wait(
        &mut engine,
        "the exec and its digest",
        |engine, _| {
            let found = ask(&history, engine, json!({"ran": [pattern], "since": "1h"}));
            found.hits.iter().any(|hit| hit.digest.is_some())
        },
        &told,
    );

    let found = ask(&history, &engine, json!({"ran": [pattern]}));
    let hit = found.hits.first().expect("it was found");
    let digest = data_encoding::HEXLOWER.encode(&hit.digest.unwrap());
    let expected = Command::new("sha256sum").arg(&program).output().unwrap().stdout;
    assert!(expected.starts_with(digest.as_bytes()));
    for question in [
        json!({"hash": [digest]}),
        json!({"command": [format!("two words {}$", mark)]}),
        json!({"by": ["0"], "ran": [pattern]}),
    ] {
        let found = ask(&history, &engine, question.clone());
        assert!(found.hits.iter().any(|other| other.record == hit.record), "{question}");
    }
    // Kernel and history agree on how it ended.
    wait(
        &mut engine,
        "the tree with the end of its shell",
        |engine, _| {
            let tree = ask(&history, engine, json!({"tree": shell.to_string()}));
            let has = |depth, pid| {
                tree.hits.iter().any(|one| one.depth == Some(depth) && one.record.who.pid == pid)
            };
            let ended = tree.hits.iter().any(|one| {
                one.record.who.pid == shell
                    && matches!(one.record.what, What::Exit { status, .. } if status == 4 << 8)
            });
            has(0, shell) && has(1, hit.record.who.pid) && ended
        },
        &told,
    );
}

#[test]
fn connections_are_found_by_address_with_both_processes() {
    let dir = tempfile::tempdir().unwrap();
    let Some((mut engine, told)) = engine(dir.path(), json!({})) else { return };
    let listener = TcpListener::bind("127.0.0.9:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let _client = std::net::TcpStream::connect(("127.0.0.9", port)).unwrap();
    let history = dir.path().join("history");
    let sockets = |engine: &Engine<Told>, kind: &str| -> Vec<(Key, Socket)> {
        let found = ask(&history, engine, json!({"kind": [kind]}));
        let sockets = found.hits.into_iter().filter_map(|hit| match hit.record.what {
            What::Socket(socket) if [socket.local_port, socket.remote_port].contains(&port) => {
                Some((hit.record.who, *socket))
            }
            _ => None,
        });
        sockets.collect()
    };
    wait(&mut engine, "it is accepted", |engine, _| !sockets(engine, "accept").is_empty(), &told);

    let own = std::process::id();
    let (who, connect) = sockets(&engine, "connect").remove(0);
    assert_eq!((who.pid, connect.outcome), (own, Outcome::Open));
    let (who, accept) = sockets(&engine, "accept").remove(0);
    assert_eq!((who.pid, accept.peer.pid), (own, own));
    assert_eq!(ask(&history, &engine, json!({"connected": ["127.0.0.9"]})).hits.len(), 1);
    assert_eq!(ask(&history, &engine, json!({"connected": ["198.51.100.0/24"]})).hits.len(), 0);
}

#[test]
fn without_a_source_the_status_and_the_health_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let told = Told::default();
    let mut engine = Engine::new(
        told.clone(),
        setup(json!({"events": {"bpf": false}})),
        Some(dir.path().join("h")),
        canary,
    );
    engine.step(Duration::ZERO);

    let status = answer::status(&engine.look(), false);

    let text = status.elements.as_ref().unwrap().get();
    assert!(text.contains("connections"), "{text}");
    assert!(
        text.contains("\"proc-connector\"") || told.health.borrow().iter().any(|c| c.name == "no-source")
    );
}

/// A file system of a few MiB, taken away with the test.
pub(crate) struct SmallDisk(pub(crate) tempfile::TempDir);

impl SmallDisk {
    pub(crate) fn mount() -> Option<Self> {
        let disk = Self(tempfile::tempdir().unwrap());
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "vigie-test"])
            .arg(disk.0.path())
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(disk)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.0.path()).status().ok();
    }
}

#[test]
fn execs_in_other_namespaces_than_the_makers_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let Some((mut engine, told)) = engine(dir.path(), json!({})) else { return };
    let history = dir.path().join("history");
    let has = |engine: &Engine<Told>, kind: &str, fits: &dyn Fn(&Record, &str) -> bool| {
        ask(&history, engine, json!({"kind": [kind]})).hits.iter().any(|hit| match &hit.record.what {
            What::Host(_, text) | What::Namespace(text) => fits(&hit.record, &String::from_utf8_lossy(text)),
            _ => false,
        })
    };

    let child = Command::new("unshare").args(["-Urm", "true"]).spawn().and_then(|mut child| {
        let pid = child.id();
        child.wait().map(|status| status.success().then_some(pid))
    });
    match child {
        Ok(Some(pid)) => {
            let is_it = |record: &Record, text: &str| record.who.pid == pid && text == "mnt user";
            wait(&mut engine, "the namespaces", |engine, _| has(engine, "namespace", &is_it), &told);
        }
        other => skip(&format!("no namespaces of users: {other:?}")).unwrap_or_default(),
    }
}

#[test]
fn mounts_are_found_with_what_is_mounted_where() {
    let mut watch = crate::host::HostWatch::begin(Path::new("/proc/self/mountinfo"));
    let Some(disk) = SmallDisk::mount() else {
        return skip("this user may not mount a small file system").unwrap_or_default();
    };
    let point = disk.0.path().display().to_string();
    let mut changes = watch.look(0);
    drop(disk);
    changes.extend(watch.look(1));

    // Other tests mount as well.
    for word in ["mounted", "unmounted"] {
        let expected = (Kind::Mount, format!("{word} tmpfs vigie-test at {point}"));
        assert!(changes.contains(&expected), "{changes:?}");
    }
}
