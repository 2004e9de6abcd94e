//! The module about real processes of this test, while others come, go and become other programs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use tempfile::TempDir;
use vigie_processes::Processes;
use vigie_sdk::{ModuleResult, Query, StandardModule, privacy};

const SCHEMA: &str = include_str!("../../../docs/processes.schema.json");

/// Longest wait for anything.
const CEILING: Duration = Duration::from_secs(60);

fn run(parameters: &Value, private: bool) -> ModuleResult {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    assert_eq!(vigie_schema::problems(&schema, "/$defs/parameters", parameters), [""; 0], "{parameters}");
    let mut query = Query::new(Some(to_raw_value(parameters).unwrap()));
    query.extraprivacy = private;
    let result = Processes::run(&query);
    let value = serde_json::to_value(&result).unwrap();
    assert_eq!(vigie_schema::problems(&schema, "/$defs/result", &value), [""; 0], "{parameters}");
    result
}

#[test]
fn what_is_known_at_the_deadline_is_the_answer_and_the_rest_is_not_known() {
    let mut query = Query::new(None);
    query.deadline = Some("2000-01-01T00:00:00Z".to_owned());

    let result = Processes::run(&query);

    assert!(result.success && !result.coverage.unwrap().complete);
}

/// Somebody mounts a file system that never responds over a process's directory, in mounts of this thread's own.
fn hang(pid: u32) -> Option<File> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).ok()?;
    let mount = |arguments: &[&str], device: Option<File>| {
        let stdin = device.map_or_else(Stdio::null, Stdio::from);
        Command::new("mount").args(arguments).stdin(stdin).stderr(Stdio::null()).status()
    };
    mount(&["--make-rprivate", "/"], None).ok()?;
    let device = File::options().read(true).write(true).open("/dev/fuse").ok()?;
    let options = "fd=0,rootmode=40000,user_id=0,group_id=0";
    let point = format!("/proc/{pid}");
    let mounted = mount(&["-i", "-t", "fuse", "-o", options, "hung", &point], device.try_clone().ok());
    mounted.is_ok_and(|status| status.success()).then_some(device)
}

#[test]
fn a_process_whose_directory_does_not_respond_costs_only_itself() {
    let mut first = Command::new("sleep").arg("600").spawn().unwrap();
    let mut hung = Command::new("sleep").arg("600").spawn().unwrap();
    let pids = [first.id(), hung.id()];
    let answered = std::thread::spawn(move || {
        let device = hang(pids[1])?;
        let mut query = Query::new(Some(to_raw_value(&json!({"pid": pids})).unwrap()));
        query.deadline = Some((jiff::Timestamp::now() + Duration::from_secs(4)).to_string());
        let result = vigie_sdk::watched::<Processes>(query);
        // Whoever waits for it is let go.
        drop(device);
        Some(result)
    });
    let result = answered.join().unwrap();
    for child in [&mut first, &mut hung] {
        child.kill().unwrap();
        child.wait().unwrap();
    }

    let Some(result) = result else {
        return vigie_skipped::skipped("no FUSE file system can be mounted");
    };
    assert!(result.foundanything && !result.success, "{result:?}");
    let elements: Value = serde_json::from_str(result.elements.as_ref().unwrap().get()).unwrap();
    assert_eq!(elements["processes"][0]["pid"], pids[0], "{elements}");
    assert!(elements["processes"][0]["exe"]["mount"].is_string(), "{elements}");
    let skipped = serde_json::to_string(&result.coverage).unwrap();
    assert!(skipped.contains(&format!("process {}", pids[1])) && skipped.contains("the rest"), "{skipped}");
}

fn rows(parameters: &Value) -> Vec<Value> {
    let answer = serde_json::to_value(run(parameters, false)).unwrap();
    assert_eq!(answer["success"], true, "{answer}");
    answer["elements"]["processes"].as_array().unwrap().clone()
}

/// The one process with this number; it must be there.
fn row(pid: u32, parameters: Value) -> Value {
    let mut parameters = parameters;
    parameters["pid"] = json!([pid]);
    let rows = rows(&parameters);
    assert_eq!(rows.len(), 1, "{parameters}: {rows:?}");
    rows[0].clone()
}

fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = SystemTime::now() + CEILING;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(SystemTime::now() < deadline, "{what}: never");
        std::thread::yield_now();
    }
}

/// A child that is killed when the test ends.
struct Running(Child);

impl Running {
    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn start(command: &mut Command) -> Running {
    Running(command.stdin(Stdio::null()).spawn().unwrap())
}

fn sleep_copy(directory: &TempDir, name: &str) -> PathBuf {
    let path = directory.path().join(name);
    vigie_skipped::copy_program("/bin/sleep", &path);
    path
}

/// Starts a program that sleeps; a file that was just written can still be open in a child of another thread.
fn sleeping(path: &Path) -> Running {
    let child = wait_until("start", || Command::new(path).arg("600").stdin(Stdio::null()).spawn().ok());
    let running = Running(child);
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    let short = name.get(..15).unwrap_or(&name).to_owned();
    wait_until("the exec", || {
        let comm = fs::read_to_string(format!("/proc/{}/comm", running.pid())).ok()?;
        (comm.trim_end() == short || path.starts_with("/proc")).then_some(())
    });
    running
}

#[test]
fn a_process_is_told_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(Command::new("/bin/sleep").arg0("my sleep").arg("600").current_dir(directory.path()));
    let program = fs::canonicalize("/bin/sleep").unwrap();
    wait_until("the exec", || {
        (fs::read_link(format!("/proc/{}/exe", running.pid())).ok()? == program).then_some(())
    });

    let row = row(
        running.pid(),
        json!({"credentials": true, "hashes": true, "files": true, "ports": true, "libraries": true}),
    );

    assert_eq!(row["argv"], json!(["my sleep", "600"]));
    assert_eq!(row["parent"], std::process::id());
    assert_eq!(row["path"], program.to_str().unwrap());
    assert_eq!((row["exe"]["state"].clone(), row["on_disk"].clone()), (json!("present"), json!(true)));
    assert!(row["exe"]["filesystem"].is_string(), "{row}");
    assert_eq!(row["cwd"], fs::canonicalize(directory.path()).unwrap().to_str().unwrap());
    assert_eq!(row["euid"], rustix::process::geteuid().as_raw());
    assert_eq!(row["credentials"]["uid"], rustix::process::getuid().as_raw());
    let started: jiff::Timestamp = row["start_time"].as_str().unwrap().parse().unwrap();
    assert!(started.duration_since(jiff::Timestamp::now()).unsigned_abs() < CEILING, "{row}");
    assert!(
        row["files"].as_array().unwrap().iter().any(|file| file["fd"] == 0 && file["path"] == "/dev/null"),
        "{row}"
    );
    let sum = Command::new("sha256sum").arg(&program).output().unwrap();
    assert_eq!(row["hashes"]["sha256"], String::from_utf8_lossy(&sum.stdout)[..64]);
    let hash = row["hashes"]["sha256"].clone();
    assert_eq!(rows(&json!({"hash": [hash], "pid": [running.pid()]})).len(), 1);
    assert_eq!(rows(&json!({"hash": ["00112233445566778899aabbccddeeff"], "pid": [running.pid()]})).len(), 0);
}

#[test]
fn files_that_are_gone_and_names_that_only_look_so_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let sleeps = |name: &str| sleeping(&sleep_copy(&directory, name));

    let deleted = sleeps("deleted");
    fs::remove_file(path("deleted")).unwrap();
    let replaced = sleeps("replaced");
    fs::remove_file(path("replaced")).unwrap();
    fs::write(path("replaced"), "another").unwrap();
    let moved = sleeps("moved");
    fs::rename(path("moved"), path("elsewhere")).unwrap();
    let linked = sleeps("linked");
    fs::hard_link(path("linked"), path("second")).unwrap();
    fs::remove_file(path("linked")).unwrap();
    let literal = sleeps("literal (deleted)");
    let literal_gone = sleeps("gone (deleted)");
    fs::remove_file(path("gone (deleted)")).unwrap();
    let memory = rustix::fs::memfd_create("secret", rustix::fs::MemfdFlags::empty()).unwrap();
    let mut file = fs::File::from(memory);
    file.write_all(&fs::read("/bin/sleep").unwrap()).unwrap();
    let read_only = fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    drop(file);
    let memfd = sleeping(Path::new(&format!("/proc/{}/fd/{}", std::process::id(), read_only.as_raw_fd())));
    wait_until("the exec", || {
        fs::read_link(format!("/proc/{}/exe", memfd.pid()))
            .ok()?
            .to_str()?
            .starts_with("/memfd")
            .then_some(())
    });

    for (running, state, name, on_disk) in [
        (&deleted, "deleted", "deleted", false),
        (&replaced, "replaced", "replaced", false),
        (&moved, "renamed", "elsewhere", true),
        (&linked, "renamed", "linked", true),
        (&literal, "present", "literal (deleted)", true),
        (&literal_gone, "deleted", "gone (deleted)", false),
    ] {
        let row = row(running.pid(), json!({}));
        let told = fs::canonicalize(directory.path()).unwrap().join(name);
        assert_eq!(
            (row["exe"]["state"].as_str(), row["path"].as_str(), row["on_disk"].as_bool()),
            (Some(state), told.to_str(), Some(on_disk)),
            "{name}: {row}"
        );
    }
    let row = row(memfd.pid(), json!({}));
    assert_eq!(
        (row["exe"]["state"].clone(), row["path"].clone()),
        (json!("memfd"), json!("/memfd:secret")),
        "{row}"
    );
    assert_eq!(rows(&json!({"exe": ["memfd"], "pid": [memfd.pid(), deleted.pid()]})).len(), 1);
}

/// The first thread ends, another one listens.
const LEADER_ENDS: &str = r"
import ctypes, socket, sys, threading, time
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen()
kept = open(sys.argv[1])
def live():
    print(listener.getsockname()[1], flush=True)
    time.sleep(600)
threading.Thread(target=live).start()
ctypes.CDLL(None).syscall(60 if ctypes.sizeof(ctypes.c_long) == 8 else 1, 0)
";

#[test]
#[cfg(target_arch = "x86_64")]
fn a_process_whose_first_thread_has_ended_has_program_arguments_files_and_ports() {
    if !vigie_skipped::has("python3") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let kept = directory.path().join("kept open");
    fs::write(&kept, "x").unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", LEADER_ENDS, kept.to_str().unwrap(), "an argument"]).stdout(Stdio::piped());
    let mut running = start(&mut command);
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port: u16 = line.trim().parse().unwrap();
    wait_until("the end of the first thread", || {
        fs::read_to_string(format!("/proc/{}/stat", running.pid())).ok()?.contains(") Z ").then_some(())
    });

    let row = row(running.pid(), json!({"ports": true, "files": true}));

    assert_eq!(row["flags"], json!(["leader_exited"]), "{row}");
    assert!(row["path"].as_str().unwrap().contains("python3"), "{row}");
    assert_eq!(row["argv"].as_array().unwrap().last().unwrap(), "an argument");
    assert_eq!(row["listening"], json!([{"protocol": "tcp", "address": "127.0.0.1", "port": port}]));
    assert!(
        row["files"].as_array().unwrap().iter().any(|file| file["path"] == kept.to_str().unwrap()),
        "{row}"
    );
    assert_eq!(rows(&json!({"port": [port]})).len(), 1);
    assert_eq!(rows(&json!({"open": ["/kept open$"], "name": ["python"]})).len(), 1);
}

/// Becomes the other program again and again; its own text is its zeroth argument.
const BECOMES_THE_OTHER: &str =
    "case $1 in aaa) next=bbb;; *) next=aaa;; esac; exec $2/$next -c \"$0\" \"$0\" $next $2";

#[test]
fn no_row_mixes_two_programs_and_no_process_is_missed_or_doubled_while_others_come_and_go() {
    let directory = tempfile::tempdir().unwrap();
    let shell = fs::canonicalize("/bin/sh").unwrap();
    for name in ["aaa", "bbb"] {
        vigie_skipped::copy_program(&shell, directory.path().join(name));
    }
    let place = directory.path().to_str().unwrap();
    let first = directory.path().join("aaa");
    let start_loop = || {
        let arguments = ["-c", BECOMES_THE_OTHER, BECOMES_THE_OTHER, "aaa", place];
        let child =
            wait_until("start", || Command::new(&first).args(arguments).stdin(Stdio::null()).spawn().ok());
        Running(child)
    };
    let loops: Vec<Running> = (0..3).map(|_| start_loop()).collect();
    let stable: Vec<Running> = (0..50).map(|_| start(Command::new("/bin/sleep").arg("600"))).collect();
    // A shell that starts processes all the time.
    let _forks = start(Command::new("/bin/sh").args(["-c", "while :; do (:) & wait; done"]));
    let pids: Vec<u32> = loops.iter().map(Running::pid).collect();
    wait_until("the loops", || {
        pids.iter()
            .all(|pid| {
                fs::read_to_string(format!("/proc/{pid}/comm"))
                    .is_ok_and(|name| ["aaa\n", "bbb\n"].contains(&&*name))
            })
            .then_some(())
    });

    let (mut seen, mut changed) = ([0; 2], 0);
    for _ in 0..500 {
        for row in rows(&json!({"pid": pids})) {
            if row["flags"].as_array().unwrap().contains(&json!("changed_while_read")) {
                assert!(row["argv"] == json!([]) && row["path"].is_null(), "{row}");
                changed += 1;
                continue;
            }
            let name = row["name"].as_str().unwrap();
            let path = format!("{place}/{name}");
            assert_eq!(
                (row["path"].as_str(), row["argv"][0].as_str()),
                (Some(&*path), Some(&*path)),
                "{row}"
            );
            assert_eq!(row["argv"][4], name, "{row}");
            seen[usize::from(name == "bbb")] += 1;
        }
    }
    assert!(seen.iter().all(|seen| *seen > 50), "{seen:?}");
    assert!(changed < 100, "{changed} of {seen:?}");
    for _ in 0..5 {
        let all = rows(&json!({"brief": true, "name": ["^sleep$"]}));
        for running in &stable {
            assert_eq!(all.iter().filter(|row| row["pid"] == running.pid()).count(), 1);
        }
    }
}

#[test]
fn processes_are_found_by_what_they_are_and_do() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let directory = tempfile::tempdir().unwrap();
    let running = sleeping(&sleep_copy(&directory, "finds me"));
    let own = std::process::id();
    let found = |parameters: Value| -> Vec<u64> {
        rows(&parameters).iter().map(|row| row["pid"].as_u64().unwrap()).collect()
    };

    assert_eq!(found(json!({"port": [port]})), [u64::from(own)]);
    let pid = u64::from(running.pid());
    assert_eq!(found(json!({"name": ["^finds me$"], "age": ["<1h"]})), [pid]);
    assert_eq!(found(json!({"name": ["^finds me$"], "age": [">1h"]})), [0; 0]);
    assert_eq!(found(json!({"command": ["finds me 600$"], "parent": [own]})), [pid]);
    assert_eq!(found(json!({"path": ["/finds me$"], "name": ["!^x"]})), [pid]);
    assert_eq!(found(json!({"path": ["/finds me$"], "user": ["4000000"]})), [0; 0]);
    assert_eq!(found(json!({"library": ["/libc"], "pid": [running.pid()]})), [pid]);
    let tree = rows(&json!({"name": ["^finds me$"], "tree": true}));
    let related: Vec<u64> =
        tree.iter().filter(|row| row["related"] == true).map(|row| row["pid"].as_u64().unwrap()).collect();
    assert!(related.contains(&u64::from(own)) && tree.iter().any(|row| row["pid"] == pid), "{tree:?}");
}

#[test]
fn a_library_that_is_gone_or_that_others_may_write_is_told() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let Some(loader) = maps
        .lines()
        .find_map(|line| line.split_whitespace().nth(5).filter(|path| path.contains("/ld-linux")))
    else {
        return vigie_skipped::skipped("the C library of this host has no ld-linux");
    };
    let directory = tempfile::tempdir().unwrap();
    // The loader can be called like a program; here it is a copy that everybody may write.
    let copy = directory.path().join("ld copy");
    vigie_skipped::copy_program(loader, &copy);
    let mut mode = fs::metadata(&copy).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o777);
    fs::set_permissions(&copy, mode).unwrap();
    let child = wait_until("start", || {
        Command::new(&copy).args(["/bin/sleep", "600"]).stdin(Stdio::null()).spawn().ok()
    });
    let running = Running(child);
    let told = fs::canonicalize(&copy).unwrap();
    let library = |state: &str| {
        let row = row(running.pid(), json!({"libraries": true}));
        let library = row["libraries"]
            .as_array()?
            .iter()
            .find(|library| library["path"] == told.to_str().unwrap())
            .cloned()?;
        (library["state"] == state).then_some((library, row))
    };

    let (library_there, row_there) = wait_until("the mapping", || library("present"));
    assert_eq!(library_there["writable"], "file");
    assert!(row_there["flags"].as_array().unwrap().contains(&json!("suspicious_library")), "{row_there}");
    fs::remove_file(&copy).unwrap();
    let (library_gone, _) = wait_until("the removal", || library("deleted"));
    assert_eq!(library_gone["writable"], Value::Null);
}

#[test]
fn a_zombie_is_a_process_without_anything() {
    let mut child = Command::new("/bin/true").stdin(Stdio::null()).spawn().unwrap();
    let pid = child.id();
    wait_until("the end", || {
        fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.contains(") Z ").then_some(())
    });

    let row = row(
        pid,
        json!({"files": true, "ports": true, "libraries": true, "hashes": true, "credentials": true}),
    );

    assert_eq!((row["state"].clone(), row["argv"].clone()), (json!("zombie"), json!([])));
    assert_eq!(row["flags"], json!([]), "{row}");
    child.wait().unwrap();
    assert_eq!(rows(&json!({"pid": [pid]})).len(), 0);
}

/// A shell that waits, called with so many arguments of 60,000 bytes each, and a word after them.
fn waiting(arguments: usize, word: &str) -> Running {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "read line", "sh"]);
    for _ in 0..arguments {
        command.arg("\u{1b}".repeat(60_000));
    }
    let running = Running(command.arg(word).stdin(Stdio::piped()).spawn().unwrap());
    wait_until("the exec", || {
        let command = fs::read(format!("/proc/{}/cmdline", running.pid())).ok()?;
        command.starts_with(b"/bin/sh\0-c\0read").then_some(())
    });
    running
}

#[test]
fn what_stands_behind_a_long_beginning_of_a_command_line_is_not_known_rather_than_absent() {
    let running = waiting(2, "the-word-behind");

    let asked = |command: &str| run(&json!({"pid": [running.pid()], "command": [command]}), false);
    let behind = asked("the-word-behind");

    assert!(!behind.foundanything);
    let coverage = behind.coverage.unwrap();
    assert!(
        !coverage.complete && coverage.not_examined[0].what.starts_with("ends of command lines of 1"),
        "{coverage:?}"
    );
    assert!(asked("read line").coverage.unwrap().complete);
    let exception = asked("!the-word-behind");
    assert!(exception.foundanything && !exception.coverage.unwrap().complete);
    assert!(
        run(&json!({"pid": [std::process::id()], "command": ["nosuch"]}), false).coverage.unwrap().complete
    );
}

#[test]
fn a_program_that_is_too_large_to_be_read_is_not_known_rather_than_absent() {
    let directory = tempfile::tempdir().unwrap();
    let path = sleep_copy(&directory, "large");
    fs::File::options().write(true).open(&path).unwrap().set_len((4 << 30) + 1).unwrap();
    let running = sleeping(&path);
    let pid = running.pid();

    let by_hash = run(&json!({"pid": [pid], "hash": ["0".repeat(64)]}), false);
    let other = run(&json!({"pid": [pid], "hashes": true, "port": [1]}), false);

    assert!(!by_hash.foundanything);
    let coverage = by_hash.coverage.unwrap();
    assert!(coverage.not_examined.iter().any(|part| part.what.starts_with("digests")), "{coverage:?}");
    // What was only to be told of matches leaves nothing open about those that are none.
    assert!(other.coverage.unwrap().complete);
}

#[test]
fn long_command_lines_of_many_processes_keep_no_other_out_of_the_answer() {
    let many: Vec<_> = (0..60).map(|_| waiting(1, "")).collect();
    let pids: Vec<_> = many.iter().map(Running::pid).collect();

    let rows = rows(&json!({"pid": pids}));

    assert_eq!(rows.len(), pids.len());
    assert!(rows.iter().any(|row| row["argv_cut"] == true));
    assert!(
        rows.iter().all(|row| row["argv"][2] == "read line" || row["argv"][1] == "-c"),
        "{:?}",
        rows.last()
    );
}

#[test]
fn masked_answers_say_how_many_and_what_is_odd_only() {
    let directory = tempfile::tempdir().unwrap();
    let running = sleeping(&sleep_copy(&directory, "secret"));
    fs::remove_file(directory.path().join("secret")).unwrap();

    for parameters in [
        json!({"pid": [running.pid()], "files": true, "ports": true, "libraries": true, "hashes": true, "credentials": true}),
        json!({"name": ["secret"], "tree": true}),
        json!({"brief": true}),
        json!({"name": ["nosuch"]}),
    ] {
        let result = run(&parameters, true);

        assert_eq!(privacy::check(&result, vigie_processes::masked_form), Ok(()), "{parameters}");
        let text = serde_json::to_string(&result).unwrap();
        assert!(!text.contains("secret") && !text.contains("sleep\"") && !text.contains("root"), "{text}");
    }
    let odd = run(&json!({"pid": [running.pid()]}), true);
    assert!(odd.elements.unwrap().get().contains(r#""flags":["deleted"]"#));
    let plain = run(&json!({"pid": [running.pid()]}), false);
    assert!(privacy::check(&plain, vigie_processes::masked_form).is_err());
}
