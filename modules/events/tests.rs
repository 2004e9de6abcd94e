//! The engine on this host's kernel: rules fired by doing it, ordinary work without alerts, questions to the history.

#![expect(clippy::disallowed_methods, reason = "tests of the kernel run in real time only")]

use std::cell::RefCell;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vigie_kernel_events::{Account, File, Listed, SourceKind, Whose};
use vigie_sdk::{Condition, Query};

use crate::answer::Begins;
use crate::config::{Config, Setup};
use crate::engine::{Engine, Sink, now};
use crate::history::lanes::{self, Lane, Lanes};
use crate::history::store;
use crate::parameters::Parameters;
use crate::record::{Key, Kind, Outcome, Program, Record, Rights, Run, Session, Socket, SocketKind, What};
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
fn skip<T>(why: &str) -> Option<T> {
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
    std::fs::copy("/bin/true", &end).expect("it can be written");
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
    std::fs::copy("/bin/true", &program).unwrap();
    // Other tests run copies of the same program: this one has a digest and arguments of its own.
    let mark = dir.path().file_name().unwrap().to_str().unwrap();
    std::fs::File::options().append(true).open(&program).unwrap().write_all(mark.as_bytes()).unwrap();
    let script = format!("{} 'two words {mark}'; exit 4", program.display());
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

const ROOT: Account = Account::TRUSTED;

/// A history whose first record is of this moment.
fn begins(from: i64, removed: bool) -> Begins {
    Begins::of(&[(Lane::Trusted, store::Extent { from: Some(from), removed, ..Default::default() })])
}

pub(crate) fn record(number: u32) -> Record {
    let who = Key { pid: 100 + number % 500, start: 1_000_000 + u64::from(number) * 900 };
    let run = Run {
        maker: Key { pid: 1, start: 5 },
        parent: 1,
        group: who.pid,
        session: 9,
        program: Program {
            path: format!("/usr/bin/tool{}", number % 7).into_bytes(),
            file: File {
                inode: u64::from(number % 7),
                links: 1,
                size: 10,
                mode: 0o100_755,
                ..File::default()
            },
        },
        rights: Rights { uid: number % 3, euid: number % 3, namespaces: [1, 2, 3, 4], ..Rights::default() },
        cwd: b"/".to_vec(),
        arguments: Listed::from_bytes(format!("tool\0{}", number % 100).into_bytes()),
        argument_bytes: format!("tool\0{}", number % 100).len() as u32 + 1,
        ..Run::default()
    };
    Record { time: 1_700_000_000_000_000 + i64::from(number) * 1000, who, what: What::Exec(Box::new(run)) }
}

fn one_of_each() -> Vec<Record> {
    let exec = record(1);
    let with = |what: What| Record { what, ..exec.clone() };
    let session = Session { user: b"ann".to_vec(), host: b"192.0.2.7".to_vec(), ..Session::default() };
    let socket = Socket {
        kind: SocketKind::Connect,
        outcome: Outcome::Refused,
        local: "::1".parse().unwrap(),
        local_port: 7,
        remote: "2001:db8::1".parse().unwrap(),
        remote_port: 443,
        program: Program::default(),
        rights: Rights::default(),
        peer: Key { pid: 3, start: 9 },
    };
    let exit = What::Exit { status: 9, processor_ms: 70, resident_quarters: 4, euid: 1 };
    let mut cut = record(2);
    if let What::Exec(run) = &mut cut.what {
        run.argument_bytes = 1_080_019;
        run.environment = vec![(b"LD_PRELOAD".to_vec(), b"/tmp/x.so".to_vec())];
        run.secure = true;
        run.maker = exec.who;
    }
    vec![
        exec.clone(),
        cut,
        with(What::Socket(Box::new(socket))),
        with(What::Setuid { uid: 1, euid: 0 }),
        with(What::Ptrace { tracer: Key { pid: 5, start: 6 } }),
        with(What::Login(Box::new(session.clone()))),
        with(What::Logout(Box::new(session))),
        with(What::Lost { kind: b"exec".to_vec(), count: 7, from: 5 }),
        with(What::Host(Kind::Mount, b"mounted tmpfs x at /y".to_vec())),
        with(What::Host(Kind::Time, b"the clock was set by +60000 ms".to_vec())),
        with(What::Namespace(b"mnt user".to_vec())),
        with(exit),
    ]
}

fn all_of(dir: &Path, open: Vec<(Lane, u64, Vec<u8>)>) -> Vec<Record> {
    let found = search(dir, open, &json!({"since": "2000-01-01", "limit": 100_000}));
    assert!(found.unread.is_empty() && !found.more, "{:?}", found.unread);
    found.hits.into_iter().map(|hit| hit.record).collect()
}

fn sorted(mut records: Vec<Record>) -> Vec<Record> {
    records.sort_by_key(|record| record.time);
    records
}

#[test]
fn every_kind_is_read_as_it_was_written_also_after_a_restart_and_a_seal() {
    let dir = tempfile::tempdir().unwrap();
    let records = one_of_each();
    let mut store = Lanes::open(dir.path(), 1 << 20).unwrap();
    for record in &records {
        store.add(record, ROOT);
    }
    store.flush(records[0].time).unwrap();
    assert_eq!(all_of(dir.path(), store.snapshot()), sorted(records.clone()));
    drop(store);

    let mut store = Lanes::open(dir.path(), 1 << 20).unwrap();
    assert_eq!(all_of(dir.path(), store.snapshot()), sorted(records.clone()));
    store.seal().unwrap();

    assert_eq!(all_of(dir.path(), store.snapshot()), sorted(records));
    assert_eq!(lanes::verify(dir.path()), Ok(1));
}

#[test]
fn a_log_that_was_cut_keeps_what_was_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), 1 << 20).unwrap();
    for number in 0..3 {
        store.add(&record(number), ROOT);
        store.flush(record(0).time).unwrap();
    }
    drop(store);
    let log: PathBuf = dir.path().join("trusted/00000000.log");
    let bytes = std::fs::read(&log).unwrap();
    std::fs::write(&log, &bytes[..bytes.len() - 5]).unwrap();

    let mut store = Lanes::open(dir.path(), 1 << 20).unwrap();
    assert_eq!(store.complaints().len(), 1);
    store.add(&record(5), ROOT);
    store.flush(record(0).time).unwrap();
    drop(store);

    let store = Lanes::open(dir.path(), 1 << 20).unwrap();
    assert!(store.complaints().is_empty());
    let expected: Vec<Record> = [0, 1, 5].map(record).into();
    assert_eq!(all_of(dir.path(), store.snapshot()), expected);
}

/// A file system of a few MiB, taken away with the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
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

#[test]
fn a_full_disk_costs_bounded_memory_and_what_was_lost_is_counted() {
    let Some(disk) = SmallDisk::mount() else {
        return skip("this user may not mount a small file system").unwrap_or_default();
    };
    let dir = disk.0.path().join("history");
    let mut store = Lanes::open(&dir, 64 << 20).unwrap();
    store.add(&record(0), ROOT);
    store.flush(record(0).time).unwrap();
    let filler = disk.0.path().join("filler");
    std::fs::write(&filler, vec![0; 9 << 20]).unwrap_err();

    for number in 1..70_000 {
        store.add(&record(number), ROOT);
        if number % 20_000 == 0 {
            store.flush(record(number).time).unwrap_err();
        }
    }
    let refused = store.take_refused().map(|(_, count)| count);
    assert_eq!((refused, store.take_refused()[0]), ([70_000 - 65_536, 0], (Whose::Trusted, 0)));
    drop(store);
    // A crash now loses what has never been on disk, and nothing else.
    let mut store = Lanes::open(&dir, 64 << 20).unwrap();
    assert_eq!((store.complaints().len(), all_of(&dir, store.snapshot())), (0, vec![record(0)]));
    for number in 1..40_000 {
        store.add(&record(number), ROOT);
    }
    store.flush(record(0).time).unwrap_err();
    std::fs::remove_file(&filler).unwrap();
    store.flush(record(0).time).unwrap();
    drop(store);

    let store = Lanes::open(&dir, 64 << 20).unwrap();
    assert!(store.complaints().is_empty(), "{:?}", store.complaints());
    assert_eq!(all_of(&dir, store.snapshot()).len(), 40_000);
    assert_eq!(lanes::verify(&dir), Ok(1));
}

#[test]
fn blocks_follow_on_each_other_and_a_changed_one_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), 64 << 20).unwrap();
    for number in 0..40_000 {
        store.add(&record(number), ROOT);
        if number % 500 == 0 {
            store.flush(record(number).time).unwrap();
        }
    }
    store.seal().unwrap();
    assert_eq!(lanes::verify(dir.path()), Ok(3));
    let bytes: u64 = store.extents().iter().map(|(_, extent)| extent.bytes).sum();
    assert!(bytes < 40_000 * 12, "{bytes} bytes for 40,000 execs");
    let found = search(dir.path(), store.snapshot(), &json!({"ran": ["*/tool3"], "by": ["2"], "limit": 10}));
    assert_eq!((found.hits.len(), found.more), (10, true));

    let path = store::block_path(&Lane::Trusted.dir(dir.path()), 1);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();

    assert!(lanes::verify(dir.path()).unwrap_err().contains("block 1 is not as it was sealed"));
    std::fs::remove_file(&path).unwrap();
    assert!(lanes::verify(dir.path()).unwrap_err().contains("nothing between"));
}

#[test]
fn the_budget_drops_the_oldest_blocks_and_says_which() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), 1 << 20).unwrap();
    store.set_budget(1);
    let mut dropped = Vec::new();
    for number in 0..3 {
        store.add(&record(number), ROOT);
        dropped.extend(store.seal().unwrap());
    }

    assert_eq!(dropped.iter().map(|(_, dropped)| dropped.blocks).sum::<u64>(), 2);
    assert_eq!(
        dropped.first().map(|(lane, dropped)| (*lane, dropped.from)),
        Some((Lane::Trusted, record(0).time))
    );
    assert_eq!(store::numbers(&Lane::Trusted.dir(dir.path())).unwrap(), [2]);
    assert!(store.extents()[0].1.removed && !store.extents()[1].1.removed);
}

#[test]
fn events_that_were_lost_in_the_time_that_is_asked_for_make_an_answer_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), 1 << 20).unwrap();
    let exec = record(1);
    let what = What::Lost { kind: b"exec".to_vec(), count: 7, from: exec.time };
    store.add(&exec, ROOT);
    store.add(&Record { time: exec.time + 900_000, what, ..exec.clone() }, ROOT);
    let not_known = |parameters: Value| {
        let names = vigie_host::users::Names::of(Path::new("/"));
        let found = search(dir.path(), store.snapshot(), &parameters);
        answer::events(&found, &begins(1, false), i64::MIN, false, &names, Duration::ZERO).is_not_known()
    };

    assert!(not_known(json!({"ran": ["*/nosuch"]})));
    assert!(not_known(json!({"command": ["nosuch"], "since": "2023-11-14T22:13:20Z"})));
    for parameters in [
        json!({"connected": ["192.0.2.1"]}),
        json!({"kind": ["listen"]}),
        json!({"ran": ["*/nosuch"], "until": "2023-11-14T22:13:19Z"}),
        json!({"ran": ["*/nosuch"], "since": "2023-11-14T22:13:30Z"}),
    ] {
        assert!(!not_known(parameters.clone()), "{parameters}");
    }
}

/// An exec with arguments of 4 KiB, of which no two are the same.
fn long(number: u32, filler: u8) -> Record {
    let mut record = record(number);
    if let What::Exec(run) = &mut record.what {
        let mut arguments = format!("{number:08}").into_bytes();
        arguments.resize(4096, filler);
        run.argument_bytes = 4097;
        run.arguments = Listed::from_bytes(arguments);
    }
    record
}

#[test]
fn arguments_of_any_length_make_no_block_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), 1 << 30).unwrap();

    for number in 0..17_000 {
        store.add(&long(number, b'x'), ROOT);
        if number % 1000 == 0 {
            store.flush(record(number).time).unwrap();
        }
    }
    store.seal().unwrap();

    assert_eq!(store.take_refused().map(|(_, count)| count), [0, 0]);
    let found = search(dir.path(), Vec::new(), &json!({"since": "2000-01-01", "limit": 10}));
    assert_eq!((found.unread, found.hits.len()), (Vec::new(), 10));
    let found = search(dir.path(), Vec::new(), &json!({"command": ["^00000007x"]}));
    assert_eq!((found.unread, found.hits.len()), (Vec::new(), 1));
}

#[test]
fn arguments_of_any_length_make_no_answer_that_the_agent_does_not_take() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), 1 << 30).unwrap();
    for number in 0..1_500 {
        store.add(&long(number, 1), ROOT);
    }

    let found = search(dir.path(), store.snapshot(), &json!({"since": "2000-01-01", "limit": 100_000}));

    assert!(found.more && found.hits.last().unwrap().record.time == record(1_499).time);
    let names = vigie_host::users::Names::of(Path::new("/"));
    let result = answer::events(&found, &begins(1, false), i64::MIN, false, &names, Duration::ZERO);
    assert!(result.elements.unwrap().get().len() < 16 << 20);
}

#[test]
fn in_extra_privacy_mode_an_answer_shows_kinds_and_numbers_only() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Lanes::open(dir.path(), 1 << 20).unwrap();
    for record in one_of_each() {
        store.add(&record, ROOT);
    }
    let found = search(dir.path(), store.snapshot(), &json!({"since": "2000-01-01"}));
    let names = vigie_host::users::Names::of(Path::new("/"));

    let result = answer::events(&found, &begins(1, false), i64::MIN, true, &names, Duration::ZERO);

    assert_eq!(vigie_sdk::privacy::check(&result, crate::masked_form), Ok(()));
    let text = result.elements.as_ref().unwrap().get();
    assert!(text.contains("\"exec\"") && !text.contains("tool"), "{text}");
    let plain = answer::events(&found, &begins(1, false), i64::MIN, false, &names, Duration::ZERO);
    assert!(vigie_sdk::privacy::check(&plain, crate::masked_form).is_err());
    let schema = include_str!("../../docs/events.schema.json");
    let schema: Value = serde_json::from_str(schema).unwrap();
    for result in [result, plain] {
        let elements: Value = serde_json::from_str(result.elements.as_ref().unwrap().get()).unwrap();
        assert_eq!(vigie_schema::problems(&schema, "/$defs/elements", &elements), Vec::<String>::new());
    }
}

#[test]
fn a_question_about_the_time_before_the_history_is_not_known() {
    let found = Found::default();
    let names = vigie_host::users::Names::of(Path::new("/"));

    let result = answer::events(&found, &begins(10, false), 5, false, &names, Duration::ZERO);

    assert!(result.is_not_known());
    let all: Vec<Kind> = Kind::ALL.into_iter().collect();
    assert!(all.iter().all(|kind| Kind::from_name(kind.name()) == Some(*kind)));
}
