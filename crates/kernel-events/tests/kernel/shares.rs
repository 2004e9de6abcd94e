//! Nobody's load costs others their records: each has a share of the ring.

use super::*;

const NOBODY: u32 = 65_534;
const OTHER: u32 = 65_533;

/// A shell that runs so many programs with arguments of 4 KiB, as fast as it can.
fn flood(uid: u32, execs: u32) -> Command {
    let script = "i=0; while [ $i -lt $1 ]; do /bin/true $0; i=$((i+1)); done";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, &"x".repeat(4000), &execs.to_string()]).uid(uid).env_clear().current_dir("/");
    command
}

/// Runs `/bin/true NAME 1`, `/bin/true NAME 2` and so on.
fn run_numbered(uid: u32, name: &str, execs: u32) {
    let script = "i=0; while [ $i -lt $1 ]; do i=$((i+1)); /bin/true $0 $i; done";
    run(Command::new("/bin/sh").args(["-c", script, name, &execs.to_string()]).uid(uid).env_clear());
}

impl Watch {
    /// Runs the load while nobody reads, until some of its records found no room.
    fn fill(&mut self, uid: u32, whose: Whose) {
        let before = self.source.counters().expect("they can be read").lost_of(Kind::Exec, whose);
        for _ in 0..40 {
            run(&mut flood(uid, 300));
            let lost = self.source.counters().expect("they can be read").lost_of(Kind::Exec, whose);
            if lost > before {
                return;
            }
        }
        panic!("the ring took everything");
    }

    /// How many of the numbered programs were told, each with its end.
    fn numbered(&mut self, name: &str) -> Vec<Exec> {
        let seen = &mut self.seen;
        self.source.drain(|event| seen.push(event)).expect("it can be read");
        let ended = |exec: &Exec| {
            self.seen.iter().any(
                |event| matches!(event, Event::Exit(exit) if (exit.pid, exit.start) == (exec.who.pid, exec.who.start)),
            )
        };
        let named = |exec: &&Exec| exec.arguments.iter().nth(1) == Some(name.as_bytes()) && ended(exec);
        let execs = self.seen.iter().filter_map(|event| match event {
            Event::Exec(exec) if exec.path.ends_with(b"/true") => Some(&**exec),
            _ => None,
        });
        execs.filter(named).cloned().collect()
    }
}

#[test]
fn a_user_who_fills_the_ring_costs_root_no_record() {
    let Some(mut watch) = Watch::bpf() else { return };
    let before = watch.source.counters().unwrap();

    watch.fill(NOBODY, Whose::Others);
    run_numbered(0, "of-root", 200);

    let of_root = watch.numbered("of-root");
    assert_eq!(of_root.len(), 200);
    assert!(of_root.iter().all(|exec| exec.account.is_trusted()));
    let after = watch.source.counters().unwrap();
    let lost = |kind| after.lost_of(kind, Whose::Trusted) - before.lost_of(kind, Whose::Trusted);
    assert_eq!((lost(Kind::Exec), lost(Kind::Exit)), (0, 0));
    // Before records are lost their texts are cut, and say how long they were.
    let is_load = |exec: &&Exec| exec.who.uid == NOBODY && exec.argument_bytes > 4000;
    let of_nobody: Vec<&Exec> = watch
        .seen
        .iter()
        .filter_map(|event| if let Event::Exec(exec) = event { Some(&**exec) } else { None })
        .filter(is_load)
        .collect();
    assert!(of_nobody.iter().all(|exec| exec.account == Account::user(NOBODY)));
    let whole = of_nobody.iter().filter(|exec| !exec.arguments_cut()).count();
    let cut = of_nobody.iter().filter(|exec| exec.arguments.bytes().len() == 256).count();
    assert!(whole > 20 && cut > 100 && whole + cut == of_nobody.len(), "{whole} whole, {cut} cut");
}

#[test]
fn a_user_who_fills_the_ring_costs_another_one_no_record() {
    let Some(mut watch) = Watch::bpf() else { return };

    watch.fill(NOBODY, Whose::Others);
    run_numbered(OTHER, "of-another", 50);

    assert_eq!(watch.numbered("of-another").len(), 50);
}

#[test]
fn root_who_fills_the_ring_leaves_something_to_others() {
    let Some(mut watch) = Watch::bpf() else { return };

    watch.fill(0, Whose::Trusted);
    run_numbered(NOBODY, "of-nobody", 20);

    assert_eq!(watch.numbered("of-nobody").len(), 20);
}

#[test]
fn programs_that_are_setuid_and_namespaces_make_nobody_trusted() {
    let Some(mut watch) = Watch::bpf() else { return };
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("setuid");
    vigie_skipped::copy_program("/bin/true", &program);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();

    let setuid = run(Command::new(&program).uid(NOBODY));
    let exec = watch.exec_of(setuid);
    assert_eq!((exec.who.uid, exec.who.euid, exec.account), (NOBODY, 0, Account::user(NOBODY)));

    let unshare = |uid: u32, flags: &str| {
        let mut command = Command::new("unshare");
        command.args([flags, "/bin/echo", "within"]).uid(uid);
        command.status().is_ok_and(|status| status.success())
    };
    if !unshare(NOBODY, "-Urpf") || !unshare(0, "-pf") {
        return skip("no namespaces of users and processes").unwrap_or(());
    }
    let within =
        |exec: &Exec| exec.path.ends_with(b"/echo") && exec.arguments.iter().nth(1) == Some(b"within");
    let exec = watch.exec_where(|exec| within(exec) && exec.who.uid == NOBODY);
    assert_eq!(exec.account, Account::user(NOBODY));
    let exec = watch.exec_where(|exec| within(exec) && exec.who.uid == 0);
    assert_eq!(exec.account, Account::container(exec.who.namespaces.pid));
}

#[test]
fn connections_are_of_who_asks_and_of_peers() {
    let Some(mut watch) = Watch::bpf() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();

    let code = format!("import socket\nsocket.create_connection(('127.0.0.1',{port}))");
    let pid = run(python(&code).uid(NOBODY));

    let mut account = |state: NetState, place: fn(&vigie_kernel_events::Net) -> u16| {
        watch.find(|event| match event {
            Event::Net(net) if net.state == state && place(net) == port => {
                Some((net.account, net.who.clone()))
            }
            _ => None,
        })
    };
    assert_eq!(account(NetState::Listening, |net| net.local_port).0, Account::TRUSTED);
    let (asking, who) = account(NetState::Connecting, |net| net.remote_port);
    assert_eq!((asking, who.map(|who| who.pid)), (Account::user(NOBODY), Some(pid)));
    assert_eq!(account(NetState::Connected, |net| net.remote_port).0, Account::user(NOBODY));
    let accepted = account(NetState::Accepted, |net| net.local_port).0;
    assert_eq!(accepted.to_string(), "peers of listening sockets");
}
