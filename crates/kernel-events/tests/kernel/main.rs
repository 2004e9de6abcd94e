//! What the sources tell of real processes and sockets, evasions included.

#![expect(clippy::disallowed_methods, reason = "a test of the kernel runs in real time only")]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

mod evasions;
mod shares;

use vigie_kernel_events::{Account, Event, Exec, Exit, Kind, NetState, Options, Source, SourceKind, Whose};

/// Says why a test does not run, which is a failure where BPF must work.
fn skip<T>(why: &str) -> Option<T> {
    vigie_skipped::without_bpf(why);
    None
}

/// A source, and everything that it has told.
struct Watch {
    source: Source,
    seen: Vec<Event>,
}

impl Watch {
    fn open(options: &Options, kind: SourceKind) -> Option<Self> {
        match Source::open(options) {
            Ok(source) if source.kind() == kind => Some(Self { source, seen: Vec::new() }),
            Ok(source) => skip(&format!("another source is used here: {:?}", source.not_used())),
            Err(errors) => skip(&format!("there is no source here: {errors:?}")),
        }
    }

    fn bpf() -> Option<Self> {
        Self::open(&Options::default(), SourceKind::Bpf)
    }

    /// The first that fits, of what was told and will be told.
    fn find<T>(&mut self, pick: impl Fn(&Event) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut from = 0;
        loop {
            if let Some(found) = self.seen[from..].iter().find_map(&pick) {
                return found;
            }
            from = self.seen.len();
            assert!(Instant::now() < deadline, "it was not told within 30 s");
            let seen = &mut self.seen;
            self.source.wait(Duration::from_millis(20), |event| seen.push(event)).expect("it can be read");
        }
    }

    fn exec_where(&mut self, fits: impl Fn(&Exec) -> bool) -> Exec {
        self.find(|event| match event {
            Event::Exec(exec) if fits(exec) => Some((**exec).clone()),
            _ => None,
        })
    }

    fn exec_of(&mut self, pid: u32) -> Exec {
        self.exec_where(|exec| exec.who.pid == pid)
    }

    fn exit_of(&mut self, pid: u32) -> Exit {
        self.find(|event| match event {
            Event::Exit(exit) if exit.pid == pid => Some(*exit),
            _ => None,
        })
    }
}

fn run(command: &mut Command) -> u32 {
    let mut child = command.spawn().expect("it is there");
    let pid = child.id();
    child.wait().expect("it ends");
    pid
}

fn python(code: &str) -> Command {
    let mut command = Command::new("python3");
    command.args(["-c", code]);
    command
}

/// Compiles a small program; `None` where no compiler is.
fn compiled(dir: &Path, name: &str, code: &str) -> Option<std::path::PathBuf> {
    let (source, program) = (dir.join(format!("{name}.c")), dir.join(name));
    fs::write(&source, code).expect("it can be written");
    let status = Command::new("cc").args(["-O1", "-pthread", "-o"]).arg(&program).arg(&source).status();
    match status {
        Ok(status) if status.success() => Some(program),
        _ => skip("no C compiler"),
    }
}

#[test]
fn an_exec_and_its_end_are_told_whole() {
    let Some(mut watch) = Watch::bpf() else { return };

    let pid = run(Command::new("/bin/sh")
        .args(["-c", "exit 3", "", "two words", ""])
        .current_dir("/usr/share")
        .env("HISTFILE", "/dev/null"));

    let exec = watch.exec_of(pid);
    let shell = fs::canonicalize("/bin/sh").unwrap();
    let file = fs::metadata(&shell).unwrap();
    assert_eq!(exec.path, shell.as_os_str().as_encoded_bytes());
    assert_eq!(exec.filename, b"/bin/sh");
    assert_eq!(exec.cwd, b"/usr/share");
    let arguments: Vec<&[u8]> = exec.arguments.iter().collect();
    assert_eq!(arguments, [&b"/bin/sh"[..], b"-c", b"exit 3", b"", b"two words", b""]);
    assert!(exec.environment.contains(&(b"HISTFILE".to_vec(), b"/dev/null".to_vec())));
    assert_eq!(exec.who.parent, std::process::id());
    let device = (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
    assert_eq!((exec.file.device, exec.file.inode), (device, file.ino()));
    assert_eq!((exec.file.size, exec.file.changed, exec.file.mode), (file.size(), file.ctime(), file.mode()));
    let own = vigie_kernel_events::proc::read(std::process::id(), 0).expect("this process");
    assert_eq!(exec.who.namespaces, own.who.namespaces);
    assert_eq!(exec.who.parent_start / 10_000_000, own.who.start / 10_000_000);
    let exit = watch.exit_of(pid);
    assert_eq!((exit.status.code(), exit.start), (Some(3), exec.who.start));
    let pid = run(Command::new("/bin/sh").args(["-c", "kill -9 $$"]));
    assert_eq!(watch.exit_of(pid).status.signal(), Some(9));
}

#[test]
fn long_arguments_are_cut_with_their_true_length() {
    let Some(mut watch) = Watch::bpf() else { return };
    let long = "x".repeat(90_000);

    let pid = run(Command::new("/bin/true").args(std::iter::repeat_n(&long, 12)));

    let exec = watch.exec_of(pid);
    assert_eq!(exec.argument_bytes as usize, "/bin/true".len() + 1 + 12 * 90_001);
    assert_eq!(exec.arguments.bytes().len(), 4096);
    assert_eq!(exec.argument_count, 13);
    assert!(exec.arguments_cut());
}

#[test]
fn another_name_for_itself_hides_no_program() {
    let Some(mut watch) = Watch::bpf() else { return };

    let pid = run(Command::new("/bin/true").arg0("[kworker/0:1]"));

    let exec = watch.exec_of(pid);
    assert_eq!(exec.arguments.iter().next(), Some(&b"[kworker/0:1]"[..]));
    assert!(exec.path.ends_with(b"/true"), "{:?}", String::from_utf8_lossy(&exec.path));
}

#[test]
fn a_program_in_memory_is_seen_as_one() {
    let Some(mut watch) = Watch::bpf() else { return };

    let pid = run(&mut python(
        "import os\nfd=os.memfd_create('hidden')\nos.write(fd,open('/bin/true','rb').read())\n\
         os.execve(fd,['/usr/sbin/sshd'],{})",
    ));

    let exec = watch.exec_where(|exec| exec.who.pid == pid && exec.by_descriptor);
    assert_eq!(exec.path, b"memfd:hidden");
    assert_eq!((exec.file.links, exec.file.filesystem), (0, 0x0102_1994));
}

#[test]
fn a_script_is_told_with_its_interpreter() {
    let Some(mut watch) = Watch::bpf() else { return };
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("job");
    fs::write(&script, "#!/bin/sh -e\nexit 0\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();

    let pid = run(&mut Command::new(&script));

    let exec = watch.exec_of(pid);
    assert_eq!(exec.filename, script.as_os_str().as_encoded_bytes());
    assert_eq!(exec.path, fs::canonicalize("/bin/sh").unwrap().as_os_str().as_encoded_bytes());
    let arguments: Vec<&[u8]> = exec.arguments.iter().collect();
    assert_eq!(arguments, [&b"/bin/sh"[..], b"-e", script.as_os_str().as_encoded_bytes()]);
}

#[test]
fn a_thread_that_execs_keeps_the_process() {
    let Some(mut watch) = Watch::bpf() else { return };
    let dir = tempfile::tempdir().unwrap();
    let code = "#include <pthread.h>\n#include <unistd.h>\nstatic void *f(void *a){execl(\"/bin/true\",\"t\",(char*)0);return a;}\n\
                int main(void){pthread_t t;pthread_create(&t,0,f,0);for(;;)pause();}";
    let Some(program) = compiled(dir.path(), "threads", code) else { return };

    let pid = run(&mut Command::new(program));

    let first = watch.exec_of(pid);
    let second = watch.exec_where(|exec| exec.who.pid == pid && exec.path.ends_with(b"/true"));
    assert_eq!(second.who.start, first.who.start);
    assert_ne!(second.old_tid, pid);
}

#[test]
fn arguments_that_change_during_the_exec_are_those_that_the_program_got() {
    let Some(mut watch) = Watch::bpf() else { return };
    let dir = tempfile::tempdir().unwrap();
    let echo = "#include <stdio.h>\nint main(int n,char**v){puts(v[1]);return n!=2;}";
    let Some(echo) = compiled(dir.path(), "echo", echo) else { return };
    let code = format!(
        "#include <pthread.h>\n#include <unistd.h>\n#include <sys/wait.h>\nstatic char a[]=\"/usr/bin/aaaa\";static volatile int go=1;\n\
         static void *f(void*p){{for(int i=0;go;i++)for(int k=9;k<13;k++)a[k]=i&1?'b':'a';return p;}}\n\
         int main(void){{pthread_t t;pthread_create(&t,0,f,0);for(int i=0;i<100;i++){{pid_t c=vfork();\n\
         if(!c){{execl(\"{}\",\"e\",a,(char*)0);_exit(1);}}waitpid(c,0,0);}}go=0;pthread_join(t,0);return 0;}}",
        echo.display()
    );
    let Some(racer) = compiled(dir.path(), "racer", &code) else { return };

    let output = Command::new(racer).output().expect("it runs");

    let printed: Vec<&[u8]> =
        output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    assert_eq!(printed.len(), 100);
    let echo = echo.as_os_str().as_encoded_bytes().to_vec();
    let mut told = Vec::new();
    while told.len() < 100 {
        let known = told.len();
        let nth = std::cell::Cell::new(0);
        let exec = watch.exec_where(|exec| {
            let fits = exec.path == echo;
            nth.set(nth.get() + usize::from(fits));
            fits && nth.get() > known
        });
        told.push(exec.arguments.iter().nth(1).map(<[u8]>::to_vec).unwrap_or_default());
    }
    assert_eq!(told, printed);
}

#[test]
fn namespaces_and_rights_are_those_of_the_kernel() {
    let Some(mut watch) = Watch::bpf() else { return };
    if !Command::new("unshare").args(["-Urmpf", "true"]).status().is_ok_and(|status| status.success()) {
        return skip("no namespaces of users").unwrap_or(());
    }

    run(Command::new("unshare").args(["-Urmpf", "/bin/echo", "within a namespace"]));

    let exec = watch.exec_where(|exec| {
        exec.arguments.iter().nth(1) == Some(b"within a namespace") && exec.path.ends_with(b"/echo")
    });
    let own = vigie_kernel_events::proc::read(std::process::id(), 0).expect("this process");
    assert_ne!(exec.who.namespaces.user, own.who.namespaces.user);
    assert_ne!(exec.who.namespaces.pid, own.who.namespaces.pid);
    assert_ne!(exec.who.namespaces.mnt, own.who.namespaces.mnt);
    assert_eq!(exec.who.uid, own.who.uid);
}

#[test]
fn a_failed_exec_is_not_told() {
    let Some(mut watch) = Watch::bpf() else { return };
    let dir = tempfile::tempdir().unwrap();
    let nonsense = dir.path().join("nonsense");
    fs::write(&nonsense, "\u{1}").unwrap();
    fs::set_permissions(&nonsense, fs::Permissions::from_mode(0o755)).unwrap();

    assert!(Command::new(&nonsense).status().is_err());

    let pid = run(&mut Command::new("/bin/true"));
    watch.exec_of(pid);
    let told = watch.seen.iter().any(|event| matches!(event, Event::Exec(exec) if exec.filename == nonsense.as_os_str().as_encoded_bytes()));
    assert!(!told);
}

#[test]
fn connections_are_told_with_who_asked_and_who_listens() {
    let Some(mut watch) = Watch::bpf() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();

    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let local = client.local_addr().unwrap().port();
    drop(listener);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());

    let mut state = |state: NetState, place: fn(&vigie_kernel_events::Net) -> u16| {
        watch.find(|event| match event {
            Event::Net(net) if net.state == state && place(net) == port => Some((**net).clone()),
            _ => None,
        })
    };
    let own = Some(std::process::id());
    let listening = state(NetState::Listening, |net| net.local_port);
    assert_eq!(listening.who.as_ref().map(|who| who.pid), own);
    let connecting = state(NetState::Connecting, |net| net.remote_port);
    assert_eq!(connecting.who.as_ref().map(|who| who.pid), own);
    assert_eq!(connecting.remote.to_string(), "127.0.0.1");
    let connected = state(NetState::Connected, |net| net.remote_port);
    assert_eq!((connected.socket, connected.local_port), (connecting.socket, local));
    let accepted = state(NetState::Accepted, |net| net.local_port);
    // Whoever runs when the packet comes is not who accepts.
    assert_eq!((accepted.who, accepted.remote_port), (None, local));
    state(NetState::Failed, |net| net.remote_port);
    // A port that nobody chose is given back before the socket is closed: the socket says which one it was.
    watch.find(|event| match event {
        Event::Net(net) if net.state == NetState::Unlistening && net.socket == listening.socket => Some(()),
        _ => None,
    });
}

#[test]
fn changes_of_users_and_traced_processes_are_told() {
    let Some(mut watch) = Watch::bpf() else { return };
    if !watch.source.tells_credentials() {
        return skip(&format!("{:?}", watch.source.not_used())).unwrap_or(());
    }

    let pid = run(&mut python("import os\nos.setresuid(1,1,1)"));

    let (uid, euid) = watch.find(|event| match event {
        Event::Credentials { pid: of, uid, euid, .. } if *of == pid => Some((*uid, *euid)),
        _ => None,
    });
    assert_eq!((uid, euid), (1, 1));
}

#[test]
fn what_a_full_ring_loses_is_counted() {
    let options = Options { ring_bytes: 64 * 1024, ..Options::default() };
    let Some(mut watch) = Watch::open(&options, SourceKind::Bpf) else { return };
    let before = watch.source.counters().unwrap();

    // Nobody reads meanwhile.
    run(Command::new("/bin/sh").args(["-c", "i=0; while [ $i -lt 400 ]; do /bin/true; i=$((i+1)); done"]));

    let counters = watch.source.counters().unwrap();
    let mut read = 0;
    watch.source.drain(|event| read += u64::from(matches!(event, Event::Exec(_)))).unwrap();
    let sent = counters.sent(Kind::Exec) - before.sent(Kind::Exec);
    let lost = counters.lost(Kind::Exec) - before.lost(Kind::Exec);
    assert!(lost > 0 && sent + lost >= 401, "sent {sent}, lost {lost}");
    // Others run programs as well, also after the count.
    assert!(read >= sent, "read {read} of {sent}");
    assert!(counters.sent(Kind::Fork) - before.sent(Kind::Fork) >= 400);
    assert_eq!(counters.recursion_misses, 0);
}

#[test]
fn without_bpf_the_process_connector_tells_what_it_can() {
    let options = Options { bpf: false, ..Options::default() };
    let Some(mut watch) = Watch::open(&options, SourceKind::Connector) else { return };

    // It gives itself another name, which nobody asked to be told: that is no loss.
    let script = "echo renamed >/proc/self/comm; read nothing; exit 5";
    let pid = run(Command::new("/bin/sh").args(["-c", script]).stdin(std::process::Stdio::null()));
    let mut child = Command::new("/bin/sleep").arg("60").spawn().expect("sleep");
    let exec = watch.exec_of(child.id());
    child.kill().expect("it is ours");
    child.wait().expect("it ends");

    assert!(exec.claimed);
    assert!(exec.path.ends_with(b"/sleep"), "{:?}", String::from_utf8_lossy(&exec.path));
    assert_eq!(watch.exit_of(pid).status.code(), Some(5));
    assert_eq!(watch.exit_of(child.id()).status.signal(), Some(9));
    assert_eq!(watch.source.counters().expect("they are in memory").lost_of_any_kind, 0);
}
